//! Content on its way between real processes: at the rate that is set, and on from where it was
//! after a kill.

#[expect(dead_code, reason = "other tests need more of it")]
mod common;

use std::{
    fs,
    time::{Duration, Instant},
};

use common::{Lab, Member, Plan, tcp, until};

const MIB: usize = 1 << 20;

/// A site with so many bytes that nothing makes smaller.
fn heavy(lab: &Lab, bytes: usize) -> std::path::PathBuf {
    let site = lab.site("heavy", &[("index.html", "heavy")]);
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(b"heavy").finalize_xof().fill(&mut noise);
    fs::write(site.join("large"), noise).unwrap();
    site
}

/// Bytes of content that `member` has fetched since it was started.
fn fetched(member: &Member) -> Result<u64, String> {
    let page = tcp(member.status(), b"GET /metrics HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")?;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    let line = page.lines().find_map(|line| line.strip_prefix("althing_replication_bytes_total "));
    line.and_then(|count| count.parse().ok()).ok_or(page)
}

fn has_it(member: &Member) -> Result<(), String> {
    let live = member.data.join("live/web/large");
    fs::metadata(live).map(drop).map_err(|error| error.to_string())
}

fn with(mut plan: Plan, options: &[&str]) -> Plan {
    plan.more.extend(options.iter().map(|option| (*option).to_owned()));
    plan
}

/// Covers R9: bandwidth limits. They only make it slower, so this takes as long as it should at
/// the least, and whatever it takes at the most.
#[test]
fn content_goes_no_faster_than_is_set() {
    let lab = Lab::new((88, 1));
    for (sends, receives) in
        [("--send-rate=1MB", "--send-rate=100MB"), ("--receive-rate=100MB", "--receive-rate=1MB")]
    {
        let one = with(lab.plan("one"), &[sends]).up().unwrap();
        let token = common::invite(&one, &[]);
        let two = with(lab.plan("two"), &[receives]).joining(one.address(), &token).up().unwrap();
        let members = [one, two];
        common::settled(&members);
        let began = Instant::now();
        members[0].publish(&heavy(&lab, 3 * MIB), &["--app", "web"]).unwrap();
        until("it has it", || has_it(&members[1]));
        // What passes at once, a tenth of a second, is not waited for.
        let least = Duration::from_secs_f64(3.0 * MIB as f64 / 1e6 - 0.1);
        assert!(began.elapsed() >= least, "{sends} {receives}: {:?}", began.elapsed());
        drop(members);
        for name in ["one", "two"] {
            fs::remove_dir_all(lab.path(name)).unwrap();
        }
    }
}

/// A member is killed in the middle of a fetch; when it is started again it fetches only what had
/// not come.
#[test]
fn a_fetch_goes_on_where_it_was_killed() {
    let lab = Lab::new((88, 2));
    let [one, two, mut three] = lab.cluster(["one", "two", "three"]);
    three.kill();
    let mut slow = with(three.again(), &["--receive-rate=1MB"]).up().unwrap();
    let total = 8 * MIB;
    let site = heavy(&lab, total);
    // It waits for all that are live, so it goes on when that one is not any more.
    let publishing = std::thread::spawn(move || one.publish(&site, &["--app", "web"]).map(|_| one));
    let before = until("some of it has come", || match fetched(&slow)? {
        bytes if bytes > 5_000_000 => Ok(bytes),
        bytes => Err(format!("{bytes} bytes")),
    });
    slow.kill();
    let one = publishing.join().unwrap().unwrap();
    let again = slow.again().up().unwrap();
    // It serves it before, from the others.
    until("it has it", || has_it(&again));
    let rest = fetched(&again).unwrap();
    // What came in the last two seconds may not have been on the disk, nor what was on its way.
    let expected = (total as u64).saturating_sub(before) + 2_000_000 + MIB as u64;
    assert!(rest > 100_000 && rest <= expected, "{before} bytes, and then {rest} more");
    drop((one, two));
}
