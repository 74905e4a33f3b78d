//! `althing doctor`: looks at all that a cluster needs, and says what to mend. What is wrong is
//! decided here, of what members tell; nothing is changed.

use std::{
    collections::BTreeMap,
    io,
    net::{TcpListener, UdpSocket},
    process::ExitCode,
};

use serde::Serialize;

use super::{
    client::Client,
    output::{Output, Paint},
    units,
};
use crate::{
    base::{Reason, Refusal},
    driver::services::descriptors,
    member::view::{Health, MemberView, View},
    node::{
        checkup::{Checkup, Checkups, Examined},
        wall_now,
    },
};

/// Clocks that are further apart are to be mended, milliseconds: rules by time, silences,
/// invitations and certificates go by them.
const CLOCK_MS: u64 = 1_000;
/// Less room than this share of a disk is to be mended, and less than this many bytes is urgent:
/// a member that can't write its record has to stop.
const ROOM_PERCENT: u64 = 10;
const ROOM_BYTES: u64 = 512 << 20;
/// Open files that a member needs beside its clients.
const FILES_MIN: u64 = 4_096;
/// What a socket of a member asks to receive ahead, bytes.
const RECEIVE_MIN: u64 = 2 << 20;
/// What is told where a question is not answered.
const OLDER: &str = "A member of an older version does not know this question: upgrade it; \
                     otherwise see its log.";
/// Where `up` listens if it is not told.
const MEMBERS: &str = "0.0.0.0:7700";
const DOORS: [(&str, &str, &str); 2] =
    [("0.0.0.0:8080", "requests", "--listen"), ("127.0.0.1:7780", "the status page", "--status")];

/// How it is with one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
enum How {
    Ok,
    /// It is so, and need not be otherwise.
    Note,
    Warning,
    Critical,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    how: How,
    what: String,
    /// What to do; nothing where it is well.
    todo: String,
}

fn fine(what: impl Into<String>) -> Finding {
    Finding { how: How::Ok, what: what.into(), todo: String::new() }
}

fn bad(how: How, what: impl Into<String>, todo: impl Into<String>) -> Finding {
    Finding { how, what: what.into(), todo: todo.into() }
}

pub(super) async fn run(client: &Client, output: &Output) -> Result<ExitCode, Refusal> {
    let findings = match client.view().await {
        Ok(view) => of_cluster(&view, client.checkups().await.as_ref()),
        Err(refusal) if refusal.reason == Reason::NotFound => {
            let data = client.data();
            // As `up` does, so that the limit is the one that it will have.
            descriptors::raise();
            // The first start makes it: what counts is where it will stand.
            let place = data.ancestors().find(|place| place.exists()).unwrap_or(data);
            let found = Checkup::look(place, wall_now());
            let found = Checkup { data_mode: found.data_mode.filter(|_| place == data), ..found };
            let mut findings = vec![bad(How::Critical, refusal.what, refusal.todo)];
            findings.extend(ports());
            findings.extend(of_machine("this machine", &found));
            findings
        }
        Err(refusal) => return Err(refusal),
    };
    let is_well = findings.iter().all(|finding| finding.how < How::Warning);
    if output.json {
        output.document(&findings);
    } else {
        for Finding { how, what, todo } in &findings {
            let (paint, word) = match how {
                How::Ok => (Paint::Good, "ok        "),
                How::Note => (Paint::Dim, "note      "),
                How::Warning => (Paint::Warn, "warning   "),
                How::Critical => (Paint::Bad, "critical  "),
            };
            output.painted(paint, word, what);
            if !todo.is_empty() {
                output.hint(&format!("          {todo}"));
            }
        }
    }
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether what `up` listens at is free.
fn ports() -> Vec<Finding> {
    let of = |address: &str, whose: &str, option: &str, bound: io::Result<()>| match bound {
        Ok(()) => fine(format!("{address} is free for {whose}.")),
        Err(error) => bad(
            How::Critical,
            format!("{address} can't be listened on for {whose}: {error}."),
            format!("Stop what uses it (`ss -lptun`), or give `up` another {option}."),
        ),
    };
    let members = of(MEMBERS, "other members (UDP)", "--bind", UdpSocket::bind(MEMBERS).map(drop));
    let doors = DOORS.map(|(address, whose, option)| {
        of(address, whose, option, TcpListener::bind(address).map(drop))
    });
    std::iter::once(members).chain(doors).collect()
}

fn of_cluster(view: &View, told: Result<&Checkups, &Refusal>) -> Vec<Finding> {
    let mut findings = vec![votes(view)];
    // What a member knows to be wrong, in its own words.
    let how = if view.health == Health::Critical { How::Critical } else { How::Warning };
    let reasons = view.reasons.iter();
    let todo = "Its story: `althing status`, `althing why NAME`.";
    findings.extend(reasons.map(|reason| bad(how, reason.clone(), todo)));
    if view.reasons.is_empty() {
        findings.push(fine("The health of the cluster is ok."));
    }
    findings.extend(reach(view));
    let told = match told {
        Ok(told) => told,
        Err(refusal) => {
            let what = format!(
                "What members find out about their machines is not known: {} {}",
                refusal.what, refusal.why
            );
            findings.push(bad(How::Warning, what, OLDER));
            return findings;
        }
    };
    // Whether it is reached, and whether it is down, is said above.
    let is_down = |name: &str| view.members.iter().any(|m| m.name == name && !is_live(m));
    let silent = told.silent.iter().filter(|silent| !is_down(silent.member.as_str()));
    findings.extend(silent.map(|silent| {
        let what = format!("{} says nothing of its machine: {}", silent.member, silent.why);
        bad(How::Warning, what, OLDER)
    }));
    findings.push(programs(&told.members));
    findings.extend(clocks(&told.members));
    for member in &told.members {
        findings.extend(of_machine(member.member.as_str(), &member.found));
    }
    findings
}

fn votes(view: &View) -> Finding {
    let live = format!("{} of {} voters are live", view.voters_live, view.voters);
    match view.voters {
        _ if view.voters_live < view.majority => bad(
            How::Critical,
            format!("{live}, and {} are a majority: nothing can be decided.", view.majority),
            "Start those that are down; if they are gone for good: `althing recover --help`.",
        ),
        1 => bad(
            How::Note,
            "There is one voter: what it holds exists once, and is gone with it.",
            "Let others join: `althing invite`.",
        ),
        2 => bad(
            How::Warning,
            "There are two voters: where one is down, nothing can be decided.",
            "Let a third join: `althing invite`.",
        ),
        _ if view.voters_live == view.majority => bad(
            How::Warning,
            format!("{live}: without one more nothing can be decided."),
            "Start those that are down, or remove those that are gone: `althing remove NAME`.",
        ),
        _ => fine(format!("{live}; {} are a majority.", view.majority)),
    }
}

fn is_live(member: &MemberView) -> bool {
    matches!(member.state.as_str(), "alive" | "suspect")
}

/// Who does not reach whom, by the words of all.
fn reach(view: &View) -> Vec<Finding> {
    let live: Vec<&MemberView> = view.members.iter().filter(|m| is_live(m)).collect();
    let mut findings: Vec<Finding> = live
        .iter()
        .filter_map(|member| {
            let names = member.unreached.as_ref().filter(|names| !names.is_empty())?;
            Some(bad(
                How::Warning,
                format!("{} gets no answer from {}.", member.name, names.join(", ")),
                "Let UDP through between them, both ways, at the addresses of `althing members`.",
            ))
        })
        .collect();
    if findings.is_empty() && live.len() > 1 {
        findings.push(fine(format!("All {} live members reach each other.", live.len())));
    }
    findings
}

fn programs(members: &[Examined]) -> Finding {
    let mut versions = BTreeMap::<&str, Vec<&str>>::new();
    for member in members {
        versions.entry(&member.found.althing).or_default().push(member.member.as_str());
    }
    let told: Vec<String> =
        versions.iter().map(|(version, who)| format!("{version} on {}", who.join(", "))).collect();
    match versions.len() {
        0 => bad(How::Critical, "No member told its version.", "See `althing members`."),
        1 => {
            fine(format!("All that answer run version {}.", versions.keys().next().unwrap_or(&"")))
        }
        _ => bad(
            How::Warning,
            format!("Members run several versions: {}.", told.join("; ")),
            "Upgrade the others, one after the other; they understand each other meanwhile.",
        ),
    }
}

fn clocks(members: &[Examined]) -> Vec<Finding> {
    let off = |member: &Examined| member.ahead_ms.unsigned_abs().saturating_sub(member.within_ms);
    let mut findings: Vec<Finding> = members
        .iter()
        .filter(|member| off(member) > CLOCK_MS)
        .map(|member| {
            let (by, way) = (member.ahead_ms.unsigned_abs() as f64 / 1_000.0, member.ahead_ms < 0);
            let way = if way { "behind" } else { "ahead of" };
            bad(
                How::Warning,
                format!("The clock of {} is {by:.1} s {way} the one here.", member.member),
                "Let both be set by NTP: systemd-timesyncd or chrony.",
            )
        })
        .collect();
    if findings.is_empty() && !members.is_empty() {
        let most =
            members.iter().map(|m| m.ahead_ms.unsigned_abs().saturating_add(m.within_ms)).max();
        let most = most.unwrap_or(0).max(1);
        findings.push(fine(format!("All clocks agree within {most} ms.")));
    }
    findings
}

/// The machine of one member, and the rights that it runs with.
fn of_machine(whose: &str, found: &Checkup) -> Vec<Finding> {
    let mut wrong = Vec::new();
    if let Some(disk) = found.disk {
        let share = |part: u64, of: u64| part.saturating_mul(100) < of.saturating_mul(ROOM_PERCENT);
        let left = format!(
            "{} of {} are free where the data of {whose} lie",
            units::bytes(disk.free),
            units::bytes(disk.total)
        );
        let todo = "Make room there, or let fewer versions be kept: old ones go with the next publication.";
        if disk.free < ROOM_BYTES {
            wrong.push(bad(How::Critical, format!("{left}: it may not be able to write."), todo));
        } else if share(disk.free, disk.total) {
            wrong.push(bad(How::Warning, format!("{left}."), todo));
        }
        if disk.files > 0 && share(disk.files_free, disk.files) {
            let what = format!("The disk of {whose} has room for {} files more.", disk.files_free);
            wrong.push(bad(How::Warning, what, "Remove files there (`df -i` says which disk)."));
        }
    }
    if let Some(mode) = found.data_mode.filter(|mode| mode & 0o027 != 0) {
        let what = format!(
            "The data directory of {whose} is open to others ({mode:o}): keys and secrets lie there."
        );
        let how = if mode & 0o022 == 0 { How::Warning } else { How::Critical };
        wrong.push(bad(how, what, "Close it: `chmod 700` on that directory."));
    }
    if let Some(most) = found.open_files_max.filter(|most| *most < FILES_MIN) {
        let what = format!("{whose} may have {most} files open: few clients at once use that up.");
        let todo = "Raise the limit: LimitNOFILE=65536 in its unit, or `ulimit -n`.";
        wrong.push(bad(How::Warning, what, todo));
    }
    if let Some(most) = found.receive_max.filter(|most| *most < RECEIVE_MIN) {
        let what = format!(
            "{whose} receives {} ahead at most: bursts of packets are lost and sent again.",
            units::bytes(most)
        );
        let todo = format!("Set net.core.rmem_max={RECEIVE_MIN} there (sysctl).");
        wrong.push(bad(How::Note, what, todo));
    }
    if wrong.iter().all(|finding| finding.how < How::Warning) {
        wrong.push(fine(format!("Disk, limits and permissions of {whose} are well.")));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admin::tests::sample,
        base::{MemberName, WallTime},
        node::{checkup::Room, telemetry::asking::Silent},
    };

    fn well(name: &str, ahead_ms: i64) -> Examined {
        let found = Checkup {
            althing: "1.2.0".to_owned(),
            clock: WallTime(0),
            disk: Some(Room { total: 100 << 30, free: 50 << 30, files: 1_000, files_free: 500 }),
            data_mode: Some(0o700),
            open_files_max: Some(65_536),
            receive_max: Some(4 << 20),
            processors: 2,
        };
        Examined { member: MemberName::parse(name).unwrap(), found, ahead_ms, within_ms: 3 }
    }

    fn wrong(findings: &[Finding]) -> Vec<(How, &str)> {
        let wrong = findings.iter().filter(|finding| finding.how != How::Ok);
        wrong.map(|finding| (finding.how, finding.what.as_str())).collect()
    }

    /// All that is told of one who is well but for what `change` did.
    fn spoilt(change: impl FnOnce(&mut Checkup)) -> Vec<Finding> {
        let mut one = well("web1", 0);
        change(&mut one.found);
        of_machine("web1", &one.found)
    }

    #[test]
    fn what_is_well_is_said_to_be() {
        let mut view = sample::view();
        view.reasons.clear();
        (view.health, view.voters_live) = (Health::Ok, 5);
        let members: Vec<Examined> = (1..=7).map(|n| well(&format!("web{n}"), n)).collect();
        let findings = of_cluster(&view, Ok(&Checkups { members, silent: Vec::new() }));
        assert_eq!(wrong(&findings), []);
        let said: Vec<&str> = findings.iter().map(|finding| finding.what.as_str()).collect();
        assert!(said.contains(&"All clocks agree within 10 ms."), "{said:?}");
        assert!(said.contains(&"All that answer run version 1.2.0."), "{said:?}");
        assert!(findings.iter().all(|finding| finding.todo.is_empty()));
    }

    #[test]
    fn what_is_not_says_what_to_do() {
        let mut view = sample::view();
        (view.health, view.voters_live) = (Health::Critical, 2);
        view.members[1].unreached = Some(vec!["web3".to_owned(), "web4".to_owned()]);
        let mut other = well("web2", -90_000);
        other.found.althing = "1.1.0".to_owned();
        let silent = [("web5", "It said nothing."), ("web6", "It is down.")];
        let silent = silent.map(|(name, why)| Silent {
            member: MemberName::parse(name).unwrap(),
            why: why.to_owned(),
        });
        let told = Checkups { members: vec![well("web1", 0), other], silent: silent.into() };
        let findings = of_cluster(&view, Ok(&told));
        let wrong = wrong(&findings);
        for (how, part) in [
            (How::Critical, "2 of 5 voters are live, and 3 are a majority"),
            (How::Critical, "web6 is down."),
            (How::Warning, "web5 says nothing of its machine: It said nothing."),
            (How::Warning, "web2 gets no answer from web3, web4."),
            (How::Warning, "1.1.0 on web2; 1.2.0 on web1"),
            (How::Warning, "The clock of web2 is 90.0 s behind the one here."),
        ] {
            assert!(
                wrong.iter().any(|(h, what)| *h == how && what.contains(part)),
                "{part} {wrong:?}"
            );
        }
        let of_web6 = wrong.iter().filter(|(_, what)| what.contains("web6")).count();
        assert_eq!(of_web6, 1, "that it is down is said once: {wrong:?}");
        assert!(findings.iter().all(|one| (one.how == How::Ok) == one.todo.is_empty()));
        // What the member itself knows is said, though the others can't be asked.
        let refusal = Refusal::new(Reason::NotFound, "Nobody was asked.", "No such thing.", "");
        let fewer = of_cluster(&view, Err(&refusal));
        assert_eq!(fewer[0], findings[0]);
        assert!(fewer.last().unwrap().what.contains("No such thing."), "{fewer:?}");
    }

    #[test]
    fn a_clock_is_wrong_only_where_the_way_does_not_explain_it() {
        let far = |ahead_ms, within_ms| Examined { within_ms, ..well("web1", ahead_ms) };
        let is_wrong = |one| clocks(&[one]).iter().any(|finding| finding.how != How::Ok);
        assert!(!is_wrong(far(1_000, 0)) && is_wrong(far(1_001, 0)) && is_wrong(far(-1_001, 0)));
        assert!(!is_wrong(far(3_000, 2_000)) && is_wrong(far(3_001, 2_000)));
        assert!(is_wrong(far(i64::MIN, 0)) && is_wrong(far(i64::MAX, 0)));
    }

    #[test]
    fn machines_are_looked_at() {
        let room = |free, files_free| Room { total: 100 << 30, free, files: 1_000, files_free };
        for (how, found) in [
            (How::Ok, spoilt(|_| {})),
            (How::Ok, spoilt(|of| *of = Checkup::default())),
            (
                How::Ok,
                spoilt(|of| of.disk = Some(Room { files: 0, files_free: 0, ..room(50 << 30, 0) })),
            ),
            (How::Ok, spoilt(|of| of.disk = Some(room(10 << 30, 100)))),
            (How::Warning, spoilt(|of| of.disk = Some(room((10 << 30) - 1, 100)))),
            (How::Warning, spoilt(|of| of.disk = Some(room(10 << 30, 99)))),
            (How::Critical, spoilt(|of| of.disk = Some(room((512 << 20) - 1, 100)))),
            (How::Ok, spoilt(|of| of.data_mode = Some(0o750))),
            (How::Warning, spoilt(|of| of.data_mode = Some(0o755))),
            (How::Critical, spoilt(|of| of.data_mode = Some(0o770))),
            (How::Warning, spoilt(|of| of.open_files_max = Some(1_024))),
            (How::Note, spoilt(|of| of.receive_max = Some(212_992))),
        ] {
            let worst = found
                .iter()
                .map(|finding| finding.how)
                .fold(How::Ok, |a, b| if b > a { b } else { a });
            assert_eq!(worst, how, "{found:?}");
        }
    }
}
