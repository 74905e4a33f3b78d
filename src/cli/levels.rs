//! `althing levels`: who would serve at a moment, and what changes after it.

use std::{process::ExitCode, time::Duration};

use jiff::{
    Timestamp,
    civil::DateTime,
    tz::{AmbiguousOffset, Offset, TimeZone, TimeZoneDatabase},
};

use super::{
    client::Client,
    output::{Output, Paint, note},
    table::{Cell, Table},
    telemetry::ms,
};
use crate::{
    base::{AppName, MemberName, Reason, Refusal, WallTime},
    node::levels::LevelsQuestion,
    proto::rule::{
        bench::Key,
        level::{Level, Levels, Place, Standing, State, Turn},
    },
};

/// What is wanted.
pub(super) struct Wish {
    pub at: Option<String>,
    pub zone: Option<String>,
    pub span: Option<Duration>,
    pub app: Option<AppName>,
}

pub(super) async fn show(
    client: &Client,
    output: &Output,
    wish: Wish,
) -> Result<ExitCode, Refusal> {
    let (at, clock) = moment(wish.at.as_deref(), wish.zone.as_deref()).map_err(|why| {
        Refusal::new(
            Reason::Invalid,
            "Who would serve was not looked at.",
            format!("{why}."),
            "Write the moment as 2026-12-24T18:00, and a zone as --zone America/New_York.",
        )
    })?;
    let span = wish.span.map(ms);
    let levels = client.levels(&LevelsQuestion { at, span, app: wish.app }).await?;
    if output.json {
        output.document(&levels);
        return Ok(ExitCode::SUCCESS);
    }
    output.painted(Paint::Bold, &clock.shown(levels.at), "");
    output.table(&members(&levels), "No member holds it.");
    for level in &levels.rules {
        output.line(&sentence(level, &levels, &clock));
    }
    for app in &levels.unknown {
        note(&format!(
            "The rules of {app} are not known on this member, as it is not placed here or not read \
             yet: ask a member that has it."
        ));
    }
    if span.is_some() {
        if levels.changes.is_empty() {
            output
                .line(&format!("Nothing changes by time alone until {}.", clock.shown(levels.to)));
        }
        for turn in &levels.changes {
            output.painted(Paint::Bold, &clock.shown(turn.at), &format!("  {}", change(turn)));
        }
        if levels.cut {
            note("There is more: ask for a shorter span, or from a later moment on.");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn members(levels: &Levels) -> Table {
    let mut table = Table::new(&["MEMBER", "SERVICE", "BY"]);
    for Standing { member, live, place, by, sure } in &levels.members {
        let (paint, text) = match place {
            Place::InService => (Paint::Good, "in service"),
            Place::Waits => (Paint::Dim, "waits"),
            Place::Aside => (Paint::Dim, "standby"),
        };
        // It may be back by then, or not.
        let (paint, text) = match live {
            true => (paint, text.to_owned()),
            false => (Paint::Warn, format!("{text}, down now")),
        };
        let by = by.as_ref().map(name).unwrap_or_default();
        let by = if *sure { by } else { format!("{by}, if it still acts") };
        table.row([Cell::from(member.as_str()), Cell::new(paint, text), Cell::from(by)]);
    }
    table
}

fn sentence(level: &Level, levels: &Levels, clock: &Clock) -> String {
    let Level { rule, brings, state, since, brought, more, condition, began_silenced, .. } = level;
    let name = name(rule);
    let since = since.map(|at| clock.shown(at)).unwrap_or_default();
    let condition = condition.as_deref().unwrap_or_default();
    let of = |members: &[MemberName]| {
        let others = levels.members.iter().any(|m| m.place == Place::Waits && m.live);
        let short = members.len() < usize::from(*brings) && !others;
        let short = if short { ": nobody else waits" } else { "" };
        format!("{} of {brings} in service{short}", members.len())
    };
    let by_it = match began_silenced {
        true => "nobody in service by it, as it began silenced".to_owned(),
        false => of(brought),
    };
    let told = match state {
        State::Acts => format!("{name} acts since {since}, {by_it}"),
        State::Rests => format!("{name} does not act"),
        State::Depends if !since.is_empty() => {
            let anew = format!("; up to {more} more if it begins anew then");
            let anew = if *more > 0 { anew } else { String::new() };
            format!("{name} acts since {since}, {by_it}, until {condition}{anew}")
        }
        State::Depends if level.silenced.is_some() => {
            format!("{name}: nobody more, even if {condition}")
        }
        State::Depends if more < brings => {
            format!("{name}: up to {more} of {brings} more if {condition}")
        }
        State::Depends => format!("{name}: up to {more} more if {condition}"),
        State::Unsteady => format!(
            "{name} begins and ends over and over, as `until` holds while `when` does: nothing is \
             said of it"
        ),
    };
    let until = level.silenced.map(|until| format!(" (silenced until {})", clock.shown(until)));
    told + &until.unwrap_or_default()
}

/// What a turn changes, as a sentence without its point.
fn change(turn: &Turn) -> String {
    let Turn { rule, begins, silenced, members, short, .. } = turn;
    let name = name(rule);
    let names: Vec<&str> = members.iter().map(|member| member.as_str()).collect();
    let names = names.join(", ");
    let count = members.len();
    match (begins, count, short) {
        _ if *silenced => format!("{name} begins: nobody in service by it, as it is silenced"),
        (true, 0, _) => format!("{name} begins: nobody waits"),
        (true, _, 0) => format!("{name} begins: {names} in service"),
        (true, ..) => {
            let of = count + usize::from(*short);
            format!("{name} begins: {names} in service, {count} of {of}: nobody else waits")
        }
        (false, 0, 0) => format!("{name} ends: nothing changes"),
        (false, _, 0) => {
            format!("{name} ends: {names} {} again", if count == 1 { "waits" } else { "wait" })
        }
        (false, 0, _) => format!("{name} ends: whom it brought in stays, as nobody else serves"),
        (false, ..) => {
            format!("{name} ends: {names} waits again, and one stays, as nobody else serves")
        }
    }
}

fn name(key: &Key) -> String {
    format!("{}/{}", key.app, key.rule)
}

/// By which clock times are shown.
struct Clock(Option<TimeZone>);

impl Clock {
    fn shown(&self, at: WallTime) -> String {
        let moment = i64::try_from(at.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        match (&self.0, moment) {
            (Some(zone), Some(moment)) => {
                moment.to_zoned_datetime(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
            }
            _ => at.to_string(),
        }
    }
}

/// What was written, as milliseconds since 1970, and by which clock it was meant. Else a sentence
/// without its point.
fn moment(at: Option<&str>, zone: Option<&str>) -> Result<(Option<u64>, Clock), String> {
    let named = |name: &str| {
        let found = TimeZoneDatabase::bundled().get(name);
        found.map_err(|_| format!("there is no time zone {name}: write America/New_York, or UTC"))
    };
    let zone = zone.map(named).transpose()?;
    let Some(text) = at else { return Ok((None, Clock(zone))) };
    let none = || format!("`{text}` is no moment");
    let text = text.trim();
    let (date, rest) = text.split_at_checked(10).ok_or_else(none)?;
    let clock = rest.strip_prefix(['T', 't', ' ']).ok_or_else(none)?;
    let end = clock.find(|c: char| !c.is_ascii_digit() && c != ':').unwrap_or(clock.len());
    let (clock, behind) = clock.split_at(end);
    let local: DateTime = format!("{date}T{clock}").parse().map_err(|_| none())?;
    let behind = behind.trim().trim_start_matches('[').trim_end_matches(']');
    let (meant, shown) = match (behind, zone) {
        ("", zone) => (zone.clone().unwrap_or(TimeZone::UTC), zone),
        ("Z" | "z", zone) => (TimeZone::UTC, zone),
        // What is meant is said; the zone says how it is shown.
        (offset, zone) if offset.starts_with(['+', '-']) => {
            let offset = offset_of(offset)
                .ok_or_else(|| format!("`{offset}` is no offset from UTC: write it as -05:00"))?;
            let zone = zone.unwrap_or_else(|| TimeZone::fixed(offset));
            (TimeZone::fixed(offset), Some(zone))
        }
        (_, Some(_)) => return Err("the time zone is given twice".to_owned()),
        (name, None) => {
            let zone = named(name)?;
            (zone.clone(), Some(zone))
        }
    };
    let found = meant.to_ambiguous_timestamp(local);
    let found = match found.offset() {
        AmbiguousOffset::Unambiguous { .. } => found.unambiguous(),
        AmbiguousOffset::Gap { .. } => {
            return Err(format!("clocks there leave out {date} {clock}: summer time begins"));
        }
        AmbiguousOffset::Fold { before, after } => {
            let (one, other) = (written(before), written(after));
            return Err(format!(
                "clocks there show {date} {clock} twice: write {one} or {other} behind it"
            ));
        }
    };
    let ms = found.map_err(|_| none())?.as_millisecond();
    let ms = u64::try_from(ms).map_err(|_| format!("`{text}` is before 1970"))?;
    Ok((Some(ms), Clock(shown)))
}

/// `+01:00`, `-0500` or `+1`.
fn offset_of(text: &str) -> Option<Offset> {
    let (sign, digits) = text.split_at_checked(1)?;
    let digits = digits.replacen(':', "", 1);
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes) = match digits.len() {
        1 | 2 => (digits.as_str(), "0"),
        4 => digits.split_at(2),
        _ => return None,
    };
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    if hours > 14 || minutes > 59 {
        return None;
    }
    let seconds = (hours * 60 + minutes) * 60;
    Offset::from_seconds(if sign == "-" { -seconds } else { seconds }).ok()
}

fn written(offset: Offset) -> String {
    let minutes = offset.seconds() / 60;
    let sign = if minutes < 0 { '-' } else { '+' };
    format!("{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::RuleName;

    fn read(at: &str, zone: Option<&str>) -> Result<String, String> {
        let (at, clock) = moment(Some(at), zone)?;
        let at = WallTime(at.unwrap());
        Ok(format!("{at} {}", clock.shown(at)))
    }

    #[test]
    fn a_moment_is_utc_unless_a_zone_is_said() {
        let new_york = Some("America/New_York");
        for (text, zone, expected) in [
            ("2026-12-24T18:00", None, "2026-12-24T18:00:00Z 2026-12-24T18:00:00Z"),
            ("2026-12-24 18:00:30Z", None, "2026-12-24T18:00:30Z 2026-12-24T18:00:30Z"),
            ("2026-12-24T18:00", new_york, "2026-12-24T23:00:00Z 2026-12-24T18:00:00-05:00"),
            ("2026-07-24T18:00", new_york, "2026-07-24T22:00:00Z 2026-07-24T18:00:00-04:00"),
            ("2026-12-24T18:00Z", new_york, "2026-12-24T18:00:00Z 2026-12-24T13:00:00-05:00"),
            ("2026-12-24T18:00+01:00", None, "2026-12-24T17:00:00Z 2026-12-24T18:00:00+01:00"),
            ("2026-12-24T18:00-0330", None, "2026-12-24T21:30:00Z 2026-12-24T18:00:00-03:30"),
            ("2026-12-24T18:00+01", new_york, "2026-12-24T17:00:00Z 2026-12-24T12:00:00-05:00"),
            (
                "2026-12-24T18:00[Europe/Berlin]",
                None,
                "2026-12-24T17:00:00Z 2026-12-24T18:00:00+01:00",
            ),
            (
                "2026-12-24 18:00 Asia/Kathmandu",
                None,
                "2026-12-24T12:15:00Z 2026-12-24T18:00:00+05:45",
            ),
            // One of the two.
            ("2026-11-01T01:30-05:00", new_york, "2026-11-01T06:30:00Z 2026-11-01T01:30:00-05:00"),
        ] {
            assert_eq!(read(text, zone).as_deref(), Ok(expected), "{text} {zone:?}");
        }
        assert_eq!(moment(None, None).unwrap().0, None);
    }

    #[test]
    fn what_is_no_moment_is_said() {
        let new_york = Some("America/New_York");
        for (text, zone, says) in [
            ("tomorrow", None, "no moment"),
            ("", None, "no moment"),
            ("2026-12-24", None, "no moment"),
            ("2026-13-24T18:00", None, "no moment"),
            ("2026-12-24T25:00", None, "no moment"),
            ("2026-12-2ä 18:00", None, "no moment"),
            ("1969-12-24T18:00", None, "before 1970"),
            ("2026-12-24T18:00+25:00", None, "no offset"),
            ("2026-12-24T18:00+ä", None, "no offset"),
            ("2026-12-24T18:00 Narnia", None, "no time zone Narnia"),
            ("2026-12-24T18:00", Some("Narnia"), "no time zone Narnia"),
            ("2026-12-24T18:00 Europe/Berlin", new_york, "twice"),
            ("2026-03-08T02:30", new_york, "leave out"),
            ("2026-11-01T01:30", new_york, "twice: write -04:00 or -05:00"),
        ] {
            let why = read(text, zone).unwrap_err();
            assert!(why.contains(says), "{text} {zone:?}: {why}");
        }
    }

    fn key() -> Key {
        Key { app: AppName::parse("web").unwrap(), rule: RuleName::parse("evening").unwrap() }
    }

    #[test]
    fn rules_are_told_in_sentences() {
        let member = |text: &str, place| Standing {
            member: MemberName::parse(text).unwrap(),
            live: true,
            place,
            by: None,
            sure: true,
        };
        let at = WallTime(1_798_153_200_000);
        let levels = Levels {
            now: at,
            at,
            to: at,
            members: vec![member("alpha", Place::InService), member("gamma", Place::InService)],
            rules: Vec::new(),
            unknown: Vec::new(),
            changes: Vec::new(),
            cut: false,
        };
        let level = Level {
            rule: key(),
            sentence: String::new(),
            brings: 2,
            state: State::Acts,
            since: Some(at),
            brought: vec![MemberName::parse("gamma").unwrap()],
            silenced: None,
            began_silenced: false,
            more: 0,
            condition: None,
            measured: Vec::new(),
        };
        let told = |level: &Level| sentence(level, &levels, &Clock(None));
        assert_eq!(
            told(&level),
            format!("web/evening acts since {at}, 1 of 2 in service: nobody else waits")
        );
        let condition = Some("cluster avg(cpu) > 70%".to_owned());
        let level = Level { state: State::Depends, since: None, more: 2, condition, ..level };
        assert_eq!(told(&level), "web/evening: up to 2 more if cluster avg(cpu) > 70%");
        let level = Level { more: 1, ..level };
        assert_eq!(told(&level), "web/evening: up to 1 of 2 more if cluster avg(cpu) > 70%");
        let silenced = Some(WallTime(at.0 + 60_000));
        let level = Level { silenced, more: 0, ..level };
        assert_eq!(
            told(&level),
            "web/evening: nobody more, even if cluster avg(cpu) > 70% (silenced until \
             2026-12-24T23:01:00Z)"
        );
        let level = Level { state: State::Acts, since: Some(at), began_silenced: true, ..level };
        let begun =
            format!("web/evening acts since {at}, nobody in service by it, as it began silenced");
        assert_eq!(told(&level), format!("{begun} (silenced until 2026-12-24T23:01:00Z)"));
        let level = Level { silenced: None, ..level };
        assert_eq!(told(&level), begun);
        let level = Level { state: State::Rests, ..level };
        assert_eq!(told(&level), "web/evening does not act");
    }

    #[test]
    fn changes_say_who_comes_and_goes() {
        let told = |begins, names: &[&str], short| {
            let members = names.iter().map(|name| MemberName::parse(name).unwrap()).collect();
            change(&Turn { at: WallTime(0), rule: key(), begins, silenced: false, members, short })
        };
        assert_eq!(told(true, &["a", "b"], 0), "web/evening begins: a, b in service");
        assert_eq!(
            told(true, &["a"], 1),
            "web/evening begins: a in service, 1 of 2: nobody else waits"
        );
        assert_eq!(told(true, &[], 2), "web/evening begins: nobody waits");
        assert_eq!(told(false, &["a"], 0), "web/evening ends: a waits again");
        assert_eq!(told(false, &["a", "b"], 0), "web/evening ends: a, b wait again");
        assert_eq!(
            told(false, &[], 1),
            "web/evening ends: whom it brought in stays, as nobody else serves"
        );
        let (at, rule, members) = (WallTime(0), key(), Vec::new());
        assert_eq!(
            change(&Turn { at, rule, begins: true, silenced: true, members, short: 0 }),
            "web/evening begins: nobody in service by it, as it is silenced"
        );
    }
}
