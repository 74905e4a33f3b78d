//! What is sealed: names and values as bytes, padded so that the length of the
//! document tells little of theirs.
//!
//! By hand, and into memory that is reserved before: a serialiser's buffer that
//! grows leaves copies behind that nobody wipes. Strict: one content has one
//! form.
//!
//! ```text
//! version (1)  digest of the members (32)  number of secrets (2)
//! then each:   length (1)  name  length (2)  value
//! then zeros to a multiple of 1 KiB; numbers are little-endian
//! ```

use std::collections::BTreeSet;

use zeroize::Zeroizing;

use super::{SECRETS_MAX, Secret, Secrets, SecretsError, VALUE_MAX};
use crate::base::{Digest, MemberId, SecretName};

const VERSION: u8 = 1;
/// Lengths are multiples of this, bytes.
const STEP: usize = 1 << 10;
const HEAD: usize = 1 + 32 + 2;
/// The most that can be packed, bytes.
pub(super) const PACKED_MAX: usize =
    (HEAD + SECRETS_MAX * (1 + SecretName::LENGTH_MAX + 2 + VALUE_MAX)).next_multiple_of(STEP);

/// Binds the names of the members, which stand in the clear, to what is sealed.
fn digest(members: &BTreeSet<MemberId>) -> Digest {
    let bytes: Vec<u8> = members.iter().flat_map(|member| member.0.0).collect();
    Digest::of("althing secrets members", &bytes)
}

/// Packs `secrets` for `members`.
pub(super) fn pack(secrets: &Secrets, members: &BTreeSet<MemberId>) -> Zeroizing<Vec<u8>> {
    let each = |(name, secret): (&SecretName, &Secret)| {
        1 + name.as_str().len() + 2 + secret.expose().len()
    };
    let length = HEAD + secrets.iter().map(each).sum::<usize>();
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.next_multiple_of(STEP)));
    bytes.push(VERSION);
    bytes.extend_from_slice(&digest(members).0);
    bytes.extend_from_slice(&(secrets.len() as u16).to_le_bytes());
    for (name, secret) in secrets.iter() {
        let (name, value) = (name.as_str().as_bytes(), secret.expose().as_bytes());
        bytes.push(name.len() as u8);
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&(value.len() as u16).to_le_bytes());
        bytes.extend_from_slice(value);
    }
    assert_eq!(bytes.len(), length, "the bounds of names and values fit their lengths");
    bytes.resize(length.next_multiple_of(STEP), 0);
    bytes
}

/// The reverse of [`pack`]; what it would not have written is damage.
pub(super) fn unpack(bytes: &[u8], members: &BTreeSet<MemberId>) -> Result<Secrets, SecretsError> {
    let short = SecretsError::Damaged("it ends too early");
    let mut rest = bytes;
    let mut take = |n: usize| rest.split_off(..n).ok_or_else(|| short.clone());
    if take(1)? != [VERSION] {
        return Err(SecretsError::Damaged("it is of a version that is not known here"));
    }
    if take(32)? != digest(members).0 {
        return Err(SecretsError::Damaged("it was sealed for other members than it names"));
    }
    let number = |bytes: &[u8]| usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
    let count = number(take(2)?);
    let mut secrets = Secrets::new();
    for _ in 0..count {
        let length = usize::from(take(1)?[0]);
        let name = str::from_utf8(take(length)?).ok().and_then(|n| SecretName::parse(n).ok());
        let name = name.ok_or(SecretsError::Damaged("a name in it is none"))?;
        let length = number(take(2)?);
        let value = str::from_utf8(take(length)?).ok().map(str::to_owned);
        let secret = value.and_then(|value| Secret::new(value).ok());
        let secret = secret.ok_or(SecretsError::Damaged("a value in it is none"))?;
        if secrets.names().next_back().is_some_and(|last| *last >= name) {
            return Err(SecretsError::Damaged("its names are not in order"));
        }
        secrets.insert(name, secret).map_err(|_| SecretsError::Damaged("a name in it is none"))?;
    }
    if !bytes.len().is_multiple_of(STEP) || rest.len() >= STEP || rest.iter().any(|byte| *byte != 0)
    {
        return Err(SecretsError::Damaged("it has more in it than secrets"));
    }
    Ok(secrets)
}
