use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    iter,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{
    DOCUMENT_MAX, RECIPIENTS_MAX, SECRETS_MAX, Sealed, Secret, Secrets, SecretsError, VALUE_MAX,
    check_name, env_name, keys,
    packed::{PACKED_MAX, pack, unpack},
};
use crate::base::{Digest, MemberId, PublicKey, SecretKey, SecretName, digest::parse_hex};

const VALUE: &str = "correct horse battery staple";

fn key(n: u16) -> SecretKey {
    let mut seed = [7; 32];
    seed[..2].copy_from_slice(&n.to_le_bytes());
    SecretKey::from_seed(seed)
}

fn members(n: u16) -> BTreeMap<MemberId, PublicKey> {
    (0..n).map(|n| (key(n).member(), key(n).public())).collect()
}

fn name(text: &str) -> SecretName {
    SecretName::parse(text).unwrap()
}

fn secrets<const N: usize>(pairs: [(&str, &str); N]) -> Secrets {
    let mut secrets = Secrets::new();
    for (n, value) in pairs {
        secrets.insert(name(n), Secret::new(value.to_owned()).unwrap()).unwrap();
    }
    secrets
}

fn sample() -> Secrets {
    secrets([("db-password", VALUE), ("token", "0\u{1f5dd}\n\"\"\"\\")])
}

/// The most that an application can have.
fn largest() -> Secrets {
    let mut all = Secrets::new();
    for n in 0..SECRETS_MAX {
        let name = format!("{}{n:03}", "n".repeat(SecretName::LENGTH_MAX - 3));
        let value = "\u{1}".repeat(VALUE_MAX);
        all.insert(SecretName::parse(&name).unwrap(), Secret::new(value).unwrap()).unwrap();
    }
    all
}

fn is_damaged<T>(result: Result<T, SecretsError>) -> bool {
    matches!(result, Err(SecretsError::Damaged(_)))
}

#[test]
fn each_member_opens_what_was_sealed_and_nobody_else() {
    for n in [1, 9] {
        let sealed = Sealed::seal(&sample(), &members(n)).unwrap();
        let again = Sealed::parse(&sealed.to_toml()).unwrap();
        assert_eq!(again, sealed);
        assert_eq!(again.to_toml(), sealed.to_toml());
        for member in 0..n {
            assert_eq!(again.open(&key(member)).unwrap(), sample());
        }
        let stranger = key(n);
        assert_eq!(again.open(&stranger), Err(SecretsError::NotFor(stranger.member())));
        assert!(again.names().iter().eq(sample().names()));
        assert!(again.members().iter().eq(members(n).keys()));
    }
    let none = Sealed::seal(&Secrets::new(), &members(1)).unwrap();
    assert!(Sealed::parse(&none.to_toml()).unwrap().open(&key(0)).unwrap().is_empty());
}

/// The figures of docs/secrets.md: `cargo test --release --lib how_long -- --nocapture`.
#[test]
fn how_long_it_takes() {
    for n in [9, 500] {
        let to = members(n);
        let started = Instant::now();
        let sealed = Sealed::seal(&sample(), &to).unwrap();
        let sealing = started.elapsed();
        let text = sealed.to_toml();
        let started = Instant::now();
        let opened = Sealed::parse(&text).unwrap().open(&key(n - 1)).unwrap();
        let opening = started.elapsed();
        assert_eq!(opened, sample());
        println!("{n} members: sealed in {sealing:?}, opened in {opening:?}, {}", text.len());
        assert!(sealing + opening < Duration::from_secs(30));
    }
}

#[test]
fn the_bounds_fit_together() {
    let all = largest();
    let packed = pack(&all, &BTreeSet::new());
    assert_eq!(packed.len(), PACKED_MAX);
    assert_eq!(unpack(&packed, &BTreeSet::new()).unwrap(), all);
    let sealed = Sealed::seal(&all, &members(500)).unwrap();
    assert_eq!(Sealed::parse(&sealed.to_toml()).unwrap().open(&key(3)).unwrap(), all);

    let mut more = all.clone();
    let one = || Secret::new("x".to_owned()).unwrap();
    assert_eq!(more.insert(name("more"), one()), Err(SecretsError::TooMany));
    let first = more.names().next().unwrap().clone();
    more.insert(first.clone(), one()).unwrap();
    assert!(more.remove(&first) && !more.remove(&first));
    more.insert(name("more"), one()).unwrap();

    assert_eq!(Sealed::seal(&sample(), &BTreeMap::new()), Err(SecretsError::Nobody));
    let many = (0..=RECIPIENTS_MAX).map(|n| MemberId(Digest::of_bytes(&n.to_le_bytes())));
    let many = many.map(|id| (id, key(0).public())).collect();
    assert_eq!(Sealed::seal(&sample(), &many), Err(SecretsError::TooManyMembers));
    assert_eq!(Sealed::parse(&" ".repeat(DOCUMENT_MAX + 1)), Err(SecretsError::TooLarge));
}

#[test]
fn values_and_names_are_bounded() {
    for (bad, why) in
        [("", "empty"), ("a\0b", "NUL"), (&*"x".repeat(VALUE_MAX + 1), "longer than 16 KiB")]
    {
        assert!(Secret::new(bad.to_owned()).unwrap_err().contains(why));
    }
    assert!(Secret::new("x".repeat(VALUE_MAX)).is_ok());
    assert_eq!(env_name(&name("db-password")), "DB_PASSWORD");
    assert!(check_name(&name("db-password")).is_ok());
    for bad in ["path", "home", "lang", "althing-app", "1password"] {
        assert!(check_name(&name(bad)).unwrap_err().contains(bad));
        let refused = Secrets::new().insert(name(bad), Secret::new("x".to_owned()).unwrap());
        assert!(matches!(refused, Err(SecretsError::Name(_))), "{bad}");
    }
}

#[test]
fn nothing_tells_of_a_value() {
    let secrets = sample();
    let sealed = Sealed::seal(&secrets, &members(2)).unwrap();
    let secret = secrets.get(&name("db-password")).unwrap();
    assert_eq!(secret.expose(), VALUE);
    let mut shown =
        vec![format!("{secret:?} {secrets:?} {sealed:?} {secrets:#?}"), sealed.to_toml()];
    // Somebody writes a value where it does not belong; the parser would quote it.
    for text in [
        format!("version = 1\nnames = [\"{VALUE}\"]\nmembers = []\nsealed = \"\""),
        format!("db-password = \"{VALUE}\""),
        format!("version = 1\nnames = []\nmembers = []\nsealed = {VALUE}"),
        VALUE.to_owned(),
        format!("version = 1\nnames = []\nmembers = [\"{VALUE}\"]\nsealed = \"\""),
        format!("version = 1\nnames = []\nmembers = []\nsealed = \"{VALUE}\""),
    ] {
        let error = Sealed::parse(&text).unwrap_err();
        shown.push(format!("{error} {error:?}"));
    }
    shown.push(Secret::new(format!("{VALUE}\0")).unwrap_err().to_owned());
    for text in shown {
        for word in VALUE.split(' ') {
            assert!(!text.contains(word), "{text}");
        }
    }
    let line = Sealed::parse("version = 1\nnames = 3").unwrap_err();
    assert_eq!(line, SecretsError::Document { line: 2 });
}

#[test]
fn lengths_tell_only_the_next_kibibyte() {
    let length = |n: usize| pack(&secrets([("a", &"x".repeat(n))]), &BTreeSet::new()).len();
    // 35 bytes of head, 1 and 1 for the name, 2 for the length of the value.
    assert_eq!([1, 500, 1024 - 39].map(length), [1024; 3]);
    assert_eq!([1024 - 38, 2048 - 39].map(length), [2048; 2]);
    // Only what age adds by chance may differ between two short values.
    let document = |value: &str| {
        let one = || Sealed::seal(&secrets([("a", value)]), &members(1)).unwrap().to_toml().len();
        (0..20).map(|_| one()).collect::<BTreeSet<usize>>()
    };
    let (short, long) = (document("x"), document(&"x".repeat(900)));
    let spread = |lengths: &BTreeSet<usize>| lengths.last().unwrap() - lengths.first().unwrap();
    assert!(spread(&short) < 300 && spread(&long) < 300);
    assert!(short.last().unwrap().abs_diff(*long.last().unwrap()) < 300);
}

#[test]
fn no_change_of_a_byte_is_taken_for_other_secrets() {
    let secrets = sample();
    let text = Sealed::seal(&secrets, &members(2)).unwrap().to_toml();
    let mut refused = 0;
    for at in 0..text.len() {
        for flip in [0x01, 0x20, 0x7f] {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= flip;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            let opened = Sealed::parse(&changed).and_then(|sealed| {
                let opened = sealed.open(&key(1))?;
                assert!(opened.names().eq(sealed.names()));
                assert!(sealed.members().iter().eq(members(2).keys()));
                Ok(opened)
            });
            match opened {
                Ok(opened) => assert_eq!(opened, secrets, "byte {at}"),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > text.len() * 2, "{refused}");
    for cut in 0..text.len() {
        let opened = Sealed::parse(&text[..cut]).and_then(|sealed| sealed.open(&key(1)));
        assert!(opened.is_err() || cut + 1 == text.len(), "cut at {cut}");
    }
}

#[test]
fn what_stands_in_the_clear_can_not_be_exchanged() {
    let one = Sealed::seal(&sample(), &members(2)).unwrap().to_toml();
    let renamed = one.replace("\"token\"", "\"other\"");
    assert!(is_damaged(Sealed::parse(&renamed).unwrap().open(&key(0))));
    let fewer = one.replace("\"db-password\", ", "");
    assert!(is_damaged(Sealed::parse(&fewer).unwrap().open(&key(0))));
    // Another member in the place of one of the two.
    let ids: Vec<MemberId> = members(2).into_keys().collect();
    let mut swapped = vec![ids[0], key(9).member()];
    swapped.sort();
    let list =
        |ids: &[MemberId]| ids.iter().map(|id| format!("    \"{}\",\n", id.0)).collect::<String>();
    let other = one.replace(&list(&ids), &list(&swapped));
    let me = (0..2).map(key).find(|key| key.member() == ids[0]).unwrap();
    assert!(is_damaged(Sealed::parse(&other).unwrap().open(&me)));
    assert!(is_damaged(Sealed::parse(&other).unwrap().open(&key(9))));
    assert!(is_damaged(Sealed::parse(&one.replace("version = 1", "version = 2"))));
    let backwards = one.replace("\"db-password\", \"token\"", "\"token\", \"db-password\"");
    assert!(is_damaged(Sealed::parse(&backwards)));
    let twice = one.replace("\"token\"]", "\"token\", \"token\"]");
    assert!(is_damaged(Sealed::parse(&twice)));
    assert!(matches!(
        Sealed::parse(&format!("more = 1\n{one}")),
        Err(SecretsError::Document { line: 1 })
    ));
}

/// A document around an age file of another's making.
fn around(plain: &[u8], to: &[&dyn age::Recipient], members: &[MemberId]) -> String {
    let encryptor = age::Encryptor::with_recipients(to.iter().copied()).unwrap();
    let format = age::armor::Format::AsciiArmor;
    let armor = age::armor::ArmoredWriter::wrap_output(Vec::new(), format).unwrap();
    let mut writer = encryptor.wrap_output(armor).unwrap();
    writer.write_all(plain).unwrap();
    let file = String::from_utf8(writer.finish().unwrap().finish().unwrap()).unwrap();
    let members: Vec<String> = members.iter().map(|id| format!("\"{}\"", id.0)).collect();
    format!(
        "version = 1\nnames = []\nmembers = [{}]\nsealed = \"\"\"\n{file}\"\"\"\n",
        members.join(", ")
    )
}

#[test]
fn work_is_bounded_whatever_a_document_asks_for() {
    let me = key(0);
    let mine = keys::recipient(&me.public()).unwrap();
    let open = |text: &str| Sealed::parse(text).unwrap().open(&me);
    let empty = pack(&Secrets::new(), &BTreeSet::from([me.member()]));
    let fine = around(&empty, &[&mine], &[me.member()]);
    assert!(open(&fine).unwrap().is_empty(), "the helper makes what we make");

    // A passphrase is not tried, so that none can be made to cost a year.
    let mut passphrase = age::scrypt::Recipient::new("x".to_owned().into());
    passphrase.set_work_factor(2);
    assert!(is_damaged(open(&around(&empty, &[&passphrase], &[me.member()]))));
    // More keys than members: each would cost a key exchange.
    let others: Vec<age::x25519::Recipient> =
        (1..60).map(|n| keys::recipient(&key(n).public()).unwrap()).collect();
    let many: Vec<&dyn age::Recipient> =
        others.iter().chain(iter::once(&mine)).map(|r| r as &dyn age::Recipient).collect();
    assert!(is_damaged(open(&around(&empty, &many, &[me.member()]))));
    // More inside than any application has.
    let large = vec![0; PACKED_MAX + 1];
    assert!(is_damaged(open(&around(&large, &[&mine], &[me.member()]))));
    // It names the member, and is for another.
    let other: &dyn age::Recipient = &others[0];
    assert!(is_damaged(open(&around(&empty, &[other], &[me.member()]))));
    // Sealed for other members than it names.
    let both = BTreeSet::from([me.member(), key(1).member()]);
    assert!(is_damaged(open(&around(&pack(&Secrets::new(), &both), &[&mine], &[me.member()]))));
    assert!(is_damaged(open(&around(b"", &[&mine], &[me.member()]))));
}

#[test]
fn ten_thousand_members_are_a_matter_of_seconds() {
    // The head of such a document, for nobody: what it takes to be refused.
    let entry = format!("-> X25519 CQ{}\n{}\n", "A".repeat(41), "A".repeat(43));
    let file = format!(
        "age-encryption.org/v1\n{}--- {}\n{}",
        entry.repeat(RECIPIENTS_MAX),
        "A".repeat(43),
        "x".repeat(60)
    );
    let mut armor =
        age::armor::ArmoredWriter::wrap_output(Vec::new(), age::armor::Format::AsciiArmor).unwrap();
    armor.write_all(file.as_bytes()).unwrap();
    let armored = String::from_utf8(armor.finish().unwrap()).unwrap();
    let mut ids: Vec<MemberId> = (1..RECIPIENTS_MAX as u64)
        .map(|n| MemberId(Digest::of_bytes(&n.to_le_bytes())))
        .chain([key(0).member()])
        .collect();
    ids.sort();
    let ids: Vec<String> = ids.iter().map(|id| format!("\"{}\"", id.0)).collect();
    let text = format!(
        "version = 1\nnames = []\nmembers = [{}]\nsealed = \"\"\"\n{armored}\"\"\"\n",
        ids.join(",")
    );
    assert!(text.len() < DOCUMENT_MAX);
    let started = Instant::now();
    assert!(is_damaged(Sealed::parse(&text).unwrap().open(&key(0))));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

/// Seed, and what libsodium 1.0.18 makes of it: the public key for signing, the
/// public and the secret key for sealing. The first three seeds are those of
/// RFC 8032, section 7.1.
const VECTORS: [[&str; 4]; 4] = [
    [
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "d85e07ec22b0ad881537c2f44d662d1a143cf830c57aca4305d85c7a90f6b62e",
        "307c83864f2833cb427a2ef1c00a013cfdff2768d980c0a3a520f006904de94f",
    ],
    [
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "25c704c594b88afc00a76b69d1ed2b984d7e22550f3ed0802d04fbcd07d38d47",
        "68bd9ed75882d52815a97585caf4790a7f6c6b3b7f821c5e259a24b02e502e51",
    ],
    [
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "cbb22fc9f790bd3eba9b84680c157ca4950a9894362601701f89c3c4d9fda23a",
        "909a8b755ed902849023a55b15c23d11ba4d7f4ec5c2f51b1325a181991ea95c",
    ],
    [
        "0707070707070707070707070707070707070707070707070707070707070707",
        "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c",
        "761d88ec830413919dfe9d4d1d56f17e653c8c994082df5b137b90a0ae6edf74",
        "28ad39fefd7fa3e200a9c626eef599e61a2d055c48a8288a4e7e4c4bca392878",
    ],
];

#[test]
fn keys_are_mapped_as_libsodium_maps_them() {
    for vector in VECTORS {
        let [seed, signing, public, secret] = vector.map(|hex| parse_hex::<32>(hex).unwrap());
        let key = SecretKey::from_seed(seed);
        assert_eq!(key.public(), PublicKey(signing));
        assert_eq!(keys::public(&key.public()), Some(public));
        assert_eq!(*keys::secret(&key), secret);
    }
}

#[test]
fn points_that_nobody_has_the_key_of_are_refused() {
    // The identity, points of order 2, 4 and 8, what is no point, and what libsodium refuses too.
    for bad in [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "0200000000000000000000000000000000000000000000000000000000000000",
        "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    ] {
        let bad = PublicKey(parse_hex(bad).unwrap());
        assert_eq!(keys::public(&bad), None, "{bad:?}");
        let id = MemberId::of(&bad);
        let sealed = Sealed::seal(&sample(), &BTreeMap::from([(id, bad)]));
        assert_eq!(sealed, Err(SecretsError::Key(id)));
    }
    // A real point with one of order 2 added to it.
    let real = curve25519_dalek::edwards::CompressedEdwardsY(key(1).public().0);
    let two = curve25519_dalek::constants::EIGHT_TORSION[4];
    let mixed = real.decompress().unwrap() + two;
    assert_eq!(keys::public(&PublicKey(mixed.compress().to_bytes())), None);
    // A good key under another member's name.
    let wrong = BTreeMap::from([(key(1).member(), key(2).public())]);
    assert_eq!(Sealed::seal(&sample(), &wrong), Err(SecretsError::Key(key(1).member())));
}

proptest! {
    #[test]
    fn the_two_halves_of_a_key_stay_together(seed: [u8; 32]) {
        let key = SecretKey::from_seed(seed);
        let public = keys::public(&key.public()).unwrap();
        let base = curve25519_dalek::MontgomeryPoint::mul_base_clamped(*keys::secret(&key));
        prop_assert_eq!(base.to_bytes(), public);
        let recipient = keys::recipient(&key.public()).unwrap();
        prop_assert_eq!(keys::identity(&key).to_public(), recipient);
    }

    #[test]
    fn what_is_packed_is_unpacked(values in prop::collection::vec("[^\0]{1,300}", 0..6)) {
        let mut all = Secrets::new();
        for (value, n) in values.into_iter().zip(0..) {
            all.insert(name(&format!("n{n}")), Secret::new(value).unwrap()).unwrap();
        }
        let packed = pack(&all, &BTreeSet::new());
        prop_assert_eq!(packed.len() % 1024, 0);
        prop_assert_eq!(unpack(&packed, &BTreeSet::new()).unwrap(), all);
    }

    /// Only somebody who can seal gets this far, and even then it is an error.
    #[test]
    fn what_is_damaged_inside_is_refused_or_packs_to_itself(
        at: prop::sample::Index, with: u8, cut: prop::sample::Index,
    ) {
        let packed = pack(&sample(), &BTreeSet::new());
        let mut bytes = packed.to_vec();
        // The zeros at the end are most of it, and the least of interest.
        let at = at.index(150);
        bytes[at] = with;
        for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
            if let Ok(read) = unpack(bytes, &BTreeSet::new()) {
                prop_assert_eq!(&pack(&read, &BTreeSet::new())[..], bytes);
            }
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in ".{0,300}") {
        let _ = Sealed::parse(&text);
    }
}
