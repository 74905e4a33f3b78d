use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn rules_are_read_as_they_are_said() {
    let rule = parse(
        "critical when cpu > 90% for 2m until < 75% for 1m  then mail ops, out keep 2 cooldown 10m",
    )
    .unwrap();
    assert_eq!(rule.severity, Some(Severity::Critical));
    let Condition::Compare(compare) = &rule.when.condition else { panic!("{rule:?}") };
    assert_eq!((compare.op, compare.bound.value), (Op::Above, 90.0));
    assert_eq!(rule.when.lasting, 2 * MINUTE);
    let until = rule.until.unwrap();
    let Condition::Compare(calm) = &until.condition else { panic!("{until:?}") };
    assert_eq!((&calm.of, calm.op, calm.bound.value), (&compare.of, Op::Below, 75.0));
    assert_eq!(rule.then, [Action::Mail("ops".to_owned()), Action::Out]);
    assert_eq!((rule.options.keep, rule.options.cooldown), (Some(2), Some(10 * MINUTE)));

    let rule = parse("when time 18:00-23:00 mon-fri America/New_York then in 2").unwrap();
    let Condition::During(during) = rule.when.condition else { panic!() };
    assert_eq!((during.from, during.to), (18 * 60, 23 * 60));
    assert_eq!(during.days, [true, true, true, true, true, false, false]);
    assert_eq!(during.zone.as_deref(), Some("America/New_York"));

    let rule = parse("when not cpu > 1% and load > 2 or mem.used > 1.5GB then log").unwrap();
    let Condition::Any(any) = rule.when.condition else { panic!() };
    let [Condition::All(all), Condition::Compare(mem)] = any.as_slice() else { panic!("{any:?}") };
    assert!(matches!(all[0], Condition::Not(_)) && mem.bound.value == 1.5e9);
}

/// Each is written out as it was, so what was read is what was meant.
#[test]
fn what_is_read_is_written_the_same() {
    for text in [
        "warning when cluster min(disk.free /srv) < 50% then mail ops repeat 24h",
        "when cluster avg(cpu, 5m) > 70% for 5m then in 1 cooldown 10m",
        "when cluster share(requests from MX|CA, 10m) > 60% for 10m then in 1",
        "when cluster rate(requests from continent:EU|10.0.0.0/8, 1m) > 500/s then in 1",
        "when count(events service shop, 10m) > 3 then restart shop/web at-most 3 in 1h",
        "critical when every service.ready shop/web < 1 for 30s then webhook pager",
        "when any net.out eth0 >= 1000000B/s then log",
        "warning when p99(latency shop, 5m) > 0.25s then run collect, mail ops",
        "when disk.free \"/srv/my data\" < 10% or (cpu > 5% and not (load <= 2 or load >= 9)) then log",
        "when time 22:00-06:00 mon+sat+sun and cpu < 10% then sync shop, sync",
        "warning when certificate.days shop < 14d then mail ops",
        "when custom.orders.total > 2/s then log",
        "when mem.available < 1048576B until mem.available > 2097152B for 1m then log",
    ] {
        let rule = parse(text).unwrap_or_else(|wrong| panic!("{}", wrong.shown(text)));
        assert_eq!(rule.to_string(), text);
    }
    // As it is said and as it is written out.
    for (said, written) in [
        ("when requests > 120/m then log", "when requests > 2/s then log"),
        ("when time 6:30-7:00 fri-mon then log", "when time 06:30-07:00 mon+fri+sat+sun then log"),
        ("when uptime < 2m then log", "when uptime < 120s then log"),
        ("when ((cpu > 5%)) then log", "when cpu > 5% then log"),
    ] {
        assert_eq!(parse(said).unwrap().to_string(), written);
    }
}

/// The place of each mistake, and a word of what is said of it.
#[test]
fn what_is_not_understood_is_shown() {
    for (text, word) in [
        ("^", "`warning`"),
        ("critical ^cpu > 9%", "`when`"),
        ("when ^cpus > 9% then log", "docs/telemetry.md"),
        ("when cpu ^90% then log", "has no label"),
        ("when cpu > ^lots then log", "no number"),
        ("when cpu > ^90 then log", "90%"),
        ("when mem.used > ^4s then log", "1.5GB"),
        ("when load > ^4/s then log", "no rate"),
        ("when cpu > 90% for ^soon then log", "no span"),
        ("when cpu > 90% ^fo 2m then log", "`for`"),
        ("when (cpu > 90% ^then log", "`)`"),
        ("when cpu > 90% then ^shout", "`mail`"),
        ("when cpu > 90% then ^", "`mail`"),
        ("when cpu > 90% then mail ^", "whom"),
        ("when cpu > 90% then log ^log", "`,`"),
        ("when cpu > 90% then log cooldown 1m ^cooldown 1m", "twice"),
        ("when cpu > 90% then ^log keep 2", "`out`"),
        ("when cpu > 90% then ^out, in 1", "two rules"),
        ("when ^avg(cpu) > 90% then log", "cluster avg"),
        ("when cluster ^cpu > 90% then log", "cluster avg"),
        ("when ^p99(cpu, 5m) > 90% then log", "percentiles"),
        ("when ^latency shop > 2s then log", "p99"),
        ("when ^rate(cpu, 5m) > 90% then log", "no rate"),
        ("when ^avg(cpu, 1s) > 90% then log", "10 s"),
        ("when share(^cpu, 5m) > 90% then log", "requests from"),
        ("when share(requests from ^mx, 5m) > 90% then log", "capital"),
        ("when cpu > 1% or load > 2 until ^< 1% then log", "which"),
        ("when time ^18-23 then log", "18:00-23:00"),
        ("when time 18:00-23:00 ^America/Newyork then in 1", "no time zone"),
        ("when time ^25:00-26:00 then log", "18:00-23:00"),
        ("when disk.free \"/a^", "quote"),
        ("when cpu > 90% then ^in 1", "any cpu"),
        ("when cluster avg(cpu) > 90% and load > 2 then ^log", "any load"),
        ("when cluster avg(cpu) > 90% then ^log, restart web", "`restart web`"),
        ("when any cpu > 90% then ^out", "about the cluster"),
        ("when any cpu > 90% then ^log at-most 33 in 1h", "32"),
        ("when ^disk.free srv < 1% then log", "mount point"),
    ] {
        let at = text.find('^').unwrap();
        let text = text.replace('^', "");
        let wrong = parse(&text).unwrap_err();
        assert_eq!(wrong.at, at, "{}", wrong.shown(&text));
        assert!(wrong.why.contains(word), "{}", wrong.shown(&text));
    }
    let deep = format!("when {}cpu > 1%", "(".repeat(40));
    assert!(parse(&deep).unwrap_err().why.contains("brackets"));
    let long = format!("when {} then log", vec!["cpu > 1%"; 20].join(" and "));
    assert!(parse(&long).unwrap_err().why.contains("comparisons"));
    assert!(parse(&"ä".repeat(TEXT_MAX)).is_err());
}

#[test]
fn a_caret_stands_under_the_place() {
    let text = "when cpu > 90% then\n\tshout";
    let wrong = parse(text).unwrap_err();
    assert!(wrong.shown(text).starts_with(" shout\n ^\nhere an action"), "{}", wrong.shown(text));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
        if let Err(wrong) = parse(&text) {
            prop_assert!(text.is_char_boundary(wrong.at) && !wrong.shown(&text).is_empty());
        }
    }

    /// Out of the words of the language, which gets further than characters do.
    #[test]
    fn any_words_are_read_or_refused(
        words in prop::collection::vec(prop::sample::select(vec![
            "when", "critical", "cpu", "load", ">", "<=", "90%", "2", "for", "2m", "until", "then",
            "log", "out", "mail", "ops", ",", "(", ")", "not", "and", "or", "cluster", "avg", "any",
            "share", "requests", "from", "MX", "|", "time", "18:00-23:00", "mon-fri", "UTC", "in",
            "keep", "cooldown", "repeat", "1d", "count", "events", "service", "disk.free", "/srv",
            "\"", "sync", "restart", "shop/web", "at-most",
        ]), 0..24),
    ) {
        let text = words.join(" ");
        match parse(&text) {
            // What is written out is the same rule, and written the same once more.
            Ok(rule) => {
                let written = rule.to_string();
                let again = parse(&written).map_err(|w| TestCaseError::fail(w.shown(&written)))?;
                prop_assert_eq!(again.to_string(), written);
                prop_assert_eq!(again, rule);
            }
            Err(wrong) => prop_assert!(text.is_char_boundary(wrong.at)),
        }
    }
}
