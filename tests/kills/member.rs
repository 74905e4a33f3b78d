//! The whole program, killed in the middle of publications: what it serves when
//! it is back is one version, and what it had acknowledged is not lost.

use std::{collections::BTreeMap, fs, ops::RangeInclusive, time::Duration};

use super::{
    chance::Chance,
    common::{Lab, Member, until},
    from_env, seed,
};

/// So many unless said otherwise.
const KILLS: u64 = 10;
/// A publication takes some hundred milliseconds; the kill comes before this is over.
const PUBLISHING_MS: u64 = 250;

/// What publication `number` puts at each path. One file stays the same over some.
fn pages(number: u64) -> BTreeMap<String, String> {
    let mut pages: BTreeMap<String, String> = (0..8)
        .map(|at| (format!("d{}/{at}.txt", at % 3), format!("{at} of {number}\n").repeat(3_000)))
        .collect();
    pages.insert("index.html".to_owned(), format!("publication {number}"));
    pages.insert("same.txt".to_owned(), format!("as {}", number / 4));
    pages
}

#[test]
fn a_member_killed_in_the_middle_of_a_publication_serves_one_version() {
    let (seed, kills) = (seed(), from_env("ALTHING_KILLS").map_or(KILLS, |kills| kills / 10));
    println!("ALTHING_SEED={seed}, {kills} kills of a member");
    let mut chance = Chance::new(seed);
    let lab = Lab::new((27, 3));
    let mut member = lab.found("a");
    // Which publication a version of the catalog is: it never turns out to be another.
    let mut versions: BTreeMap<String, u64> = BTreeMap::new();
    let (mut served, mut acknowledged, mut in_time) = (None, 0, 0);
    for number in 1..=kills {
        let pages = pages(number);
        let files: Vec<(&str, &str)> =
            pages.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        let site = lab.site(&format!("site-{number}"), &files);
        let data = member.data.clone();
        let site = site.to_str().unwrap().to_owned();
        let publishing = std::thread::spawn(move || {
            super::common::run_on(&data, &["publish", &site, "--app", "web"]).is_ok()
        });
        std::thread::sleep(Duration::from_millis(chance.below(PUBLISHING_MS)));
        member.kill();
        if publishing.join().unwrap() {
            acknowledged = number;
            in_time += 1;
        }
        member = member.again().up().unwrap();
        // One that was cut short may still come to its end.
        let may_be = served.unwrap_or(1)..=number;
        let context = format!("seed {seed}, publication {number}, acknowledged {acknowledged}");
        if acknowledged > 0 || served.is_some() {
            served = Some(until(&context, || whole(&member, &may_be, &mut versions, &context)));
            assert!(served >= Some(acknowledged), "{served:?}; {context}");
        } else if let Ok(number) = whole(&member, &may_be, &mut versions, &context) {
            served = Some(number);
        }
    }
    println!("{in_time} of {kills} were acknowledged before the kill");
}

/// The one publication that is served and stands in the live tree; an error while it is
/// being switched. No answer may be anything else than it says that it is.
fn whole(
    member: &Member,
    may_be: &RangeInclusive<u64>,
    versions: &mut BTreeMap<String, u64>,
    context: &str,
) -> Result<u64, String> {
    let mut numbers = Vec::new();
    for path in pages(1).into_keys() {
        let answer = member.get(&format!("/{path}"))?;
        let head = answer.head.to_ascii_lowercase();
        let version = head.lines().find_map(|line| line.strip_prefix("althing-version: "));
        let Some(version) = version.filter(|_| answer.status == 200) else {
            return Err(format!("{path}: {}", answer.head));
        };
        let fits = |number: &u64| pages(*number)[&path].as_bytes() == answer.body;
        let known = versions.get(version).copied();
        let mut candidates = known.into_iter().chain(may_be.clone());
        let number = candidates.find(fits).unwrap_or_else(|| {
            panic!("{path} of {version} is of no publication that it may be; {context}")
        });
        if path != "same.txt" {
            let known = *versions.entry(version.to_owned()).or_insert(number);
            assert_eq!(known, number, "{version} is served in a mix, with {path}; {context}");
            numbers.push(number);
        }
    }
    numbers.dedup();
    let [number] = numbers[..] else { return Err(format!("{numbers:?} were served")) };
    let live = member.data.join("live/web");
    let stands = |path: &String| fs::read_to_string(live.join(path)).map_err(|e| e.to_string());
    for (path, text) in pages(number) {
        if stands(&path)? != text {
            return Err(format!("{path} in the live tree is not of {number}"));
        }
    }
    Ok(number)
}
