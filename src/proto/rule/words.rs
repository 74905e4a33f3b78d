//! The words of the language, each with a sentence and a rule that uses it. The parser reads by
//! these tables and knows no other words, and docs/rule-words.md is made of them: so there is
//! none that nobody has described.

/// What is said of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As it is written.
    pub word: &'static str,
    /// What it means, in a sentence.
    pub help: &'static str,
    /// A whole rule in which it stands.
    pub example: &'static str,
}

macro_rules! words {
    (
        $(#[$doc:meta])*
        $name:ident { $($id:ident $word:literal $example:literal $help:literal)* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $(#[doc = $help] $id,)*
        }

        impl $name {
            /// All of them, in the order of the reference.
            pub const ALL: &'static [Self] = &[$(Self::$id,)*];

            /// What is said of it.
            pub const fn entry(self) -> Entry {
                match self {
                    $(Self::$id => Entry { word: $word, help: $help, example: $example },)*
                }
            }

            /// As it is written.
            pub const fn word(self) -> &'static str {
                self.entry().word
            }

            /// The one that is written so.
            pub fn read(text: &str) -> Option<Self> {
                match text {
                    $($word => Some(Self::$id),)*
                    _ => None,
                }
            }
        }
    };
}

words! {
    /// What holds a sentence together, and of whom and what it is.
    Word {
        Warning "warning" "warning when disk.free /srv < 10% then mail ops"
            "First of all: while the rule acts, the health of what it is about is `warning`."
        Critical "critical" "critical when cpu > 90% for 2m then mail ops"
            "First of all: while the rule acts, the health of what it is about is `critical`."
        When "when" "when load > 8 then log"
            "Before the condition by which the rule begins to act."
        Until "until" "when cpu > 90% until < 75% for 1m then mail ops"
            "Before the condition by which that is over; without it, it is over once what stands \
             behind `when` does not hold any more."
        For "for" "when cpu > 90% for 2m then log"
            "Before a span: the condition has to hold for so long without a break."
        And "and" "when cpu > 90% and load > 8 then log"
            "Both conditions. It binds closer than `or`."
        Or "or" "when cpu > 90% or load > 8 then log"
            "At least one of the conditions."
        Not "not" "when not (cpu < 50% or load < 2) then log"
            "The opposite of the one condition behind it, or of those in brackets."
        Then "then" "when load > 8 then log"
            "Before what is done."
        Member "member" "when member cpu > 90% then log"
            "Each member for itself. It may be left out: this is how things are measured unless \
             something else is said."
        Cluster "cluster" "when cluster avg(cpu, 5m) > 70% for 5m then in 1"
            "All members together; it has to be said how their numbers become one."
        Any "any" "warning when any cpu > 95% for 10m then mail ops"
            "True where it is of at least one member."
        Every "every" "critical when every service.ready shop/web < 1 for 30s then webhook pager"
            "True where it is of each of them."
        Events "events" "when count(events service shop, 10m) > 3 then mail ops"
            "Within `count`: before a kind of events, and an application if only its are counted."
        Requests "requests" "when cluster rate(requests from MX, 1m) > 50/s then in 1"
            "With `from` behind it, within `share` or `rate`: requests of clients from somewhere. \
             Alone it is the series of that name."
        From "from" "when share(requests from MX|CA, 10m) > 60% then log"
            "Behind `requests`: before one or several origins with `|` between. An origin is a \
             country by two capital letters, a continent, or a network."
        Continent "continent:" "when share(requests from continent:EU, 10m) > 60% then log"
            "Right before the two letters of a continent, where an origin stands."
        Time "time" "when time 18:00-23:00 mon-fri America/New_York then in 2"
            "Before a time of the day, from one minute up to another, on some days of the week, in \
             a time zone by its name in the tz database; on all days and in UTC if these are left \
             out."
        In "in" "when load > 8 then mail ops at-most 3 in 1h"
            "Within `at-most`: before a span. It is an action as well."
    }
}

words! {
    /// How many samples become one number.
    FoldWord {
        Avg "avg" "when avg(cpu, 5m) > 70% then log"
            "The average over the span behind the comma. With `cluster` over members, and over \
             time as well where a span is given."
        Min "min" "warning when cluster min(disk.free /srv) < 10% then mail ops"
            "The lowest, over the same."
        Max "max" "when max(load, 10m) > 8 then log"
            "The highest, over the same."
        Rms "rms" "when rms(cpu, 5m) > 80% then log"
            "The root of the mean of the squares, over the same: peaks weigh more."
        Sum "sum" "when cluster sum(requests shop, 1m) > 2000/s then in 1"
            "The sum over members; only with `cluster`, `any` or `every`."
        Rate "rate" "when rate(requests shop, 1m) > 500/s then log"
            "How much a second; of counters, and of `requests from`."
        Percentile "pN" "warning when p99(latency shop, 5m) > 250ms then mail ops"
            "A percentile, N from 1 to 99, as `p50` or `p99`; of distributions."
        Count "count" "when count(events service shop, 10m) > 3 then mail ops"
            "How many events of a kind there were in the span."
        Share "share" "when cluster share(requests from MX|CA, 10m) > 60% for 10m then in 1"
            "Which part of all requests came from there in the span, in hundredths."
    }
}

words! {
    /// What is done.
    ActionWord {
        Mail "mail" "critical when cpu > 90% for 2m then mail ops"
            "A mail, as `[mail.NAME]` of the manifest says."
        Webhook "webhook" "critical when cpu > 90% for 2m then webhook pager"
            "A request with the notice as JSON, as `[webhook.NAME]` of the manifest says."
        Run "run" "warning when disk.free /srv < 5% then run cleanup"
            "A program of the application, as `[script.NAME]` of the manifest says."
        Out "out" "critical when cpu > 90% for 2m then out keep 2"
            "The member that the rule is about out of service, until the rule acts no more."
        In "in" "when cluster avg(cpu, 5m) > 70% for 5m then in 1"
            "So many members that wait into service, until the rule acts no more."
        Restart "restart" "when count(events service shop, 10m) > 3 then restart shop/web"
            "The services of an application, or one of them as APPLICATION/SERVICE, stopped and \
             started again, once."
        Sync "sync" "when votes.differing > 0 for 10m then sync"
            "Everything that the member holds compared again, byte by byte, or one application; \
             once."
        Log "log" "when load > 8 then log"
            "An event alone, which every rule leaves anyway."
    }
}

words! {
    /// How it is done; behind the actions, and for all of them.
    OptionWord {
        Keep "keep" "critical when cpu > 90% for 2m then out keep 2"
            "With `out`: at least so many members stay in service."
        Cooldown "cooldown" "when cpu > 90% for 2m then mail ops cooldown 10m"
            "The rule does not begin to act again for so long after it was over."
        Repeat "repeat" "warning when disk.free /srv < 10% then mail ops repeat 1d"
            "Those to be told are told again every so often while it lasts; a minute at least."
        AtMost "at-most" "when load > 8 then mail ops at-most 3 in 1h"
            "The rule begins to act at most so often in so long."
    }
}

words! {
    /// What stands right behind a number. Those of time are in spans, too.
    UnitWord {
        Percent "%" "when cpu > 90% then log"
            "Hundredths; also of all that there is of a disk or of memory."
        Byte "B" "when swap.used > 0B then log"
            "Bytes."
        KiloByte "kB" "when net.in eth0 > 500kB/s then log"
            "1,000 bytes."
        KiloByteToo "KB" "when net.in eth0 > 500KB/s then log"
            "The same."
        MegaByte "MB" "when net.out eth0 > 10MB/s then log"
            "1,000,000 bytes."
        GigaByte "GB" "when mem.used > 1.5GB then log"
            "1,000,000,000 bytes."
        TeraByte "TB" "when disk.free /srv < 1TB then log"
            "1,000,000,000,000 bytes."
        KibiByte "KiB" "when net.in eth0 > 512KiB/s then log"
            "1,024 bytes."
        MebiByte "MiB" "when mem.available < 256MiB then log"
            "1,024 KiB."
        GibiByte "GiB" "when mem.used > 4GiB then log"
            "1,024 MiB."
        TebiByte "TiB" "when disk.free /srv < 1TiB then log"
            "1,024 GiB."
        Microsecond "us" "when p50(latency shop, 5m) > 800us then log"
            "Millionths of a second."
        Millisecond "ms" "when p99(latency shop, 5m) > 250ms then log"
            "Thousandths of a second."
        Second "s" "when p99(latency shop, 5m) > 1.5s then log"
            "Seconds."
        Minute "m" "when uptime < 2m then log"
            "Minutes."
        Hour "h" "when uptime < 1h then log"
            "Hours."
        Day "d" "warning when certificate.days shop < 14d then mail ops"
            "Days of 24 hours."
    }
}

words! {
    /// What stands behind a number, and its unit, of what is counted over time.
    PerWord {
        Second "/s" "when requests shop > 500/s then log"
            "In a second."
        Minute "/m" "when errors shop > 30/m then log"
            "In a minute."
        Hour "/h" "when repairs shop > 2/h then mail ops"
            "In an hour."
    }
}

words! {
    /// What compares and what parts.
    Sign {
        AtMost "<=" "when load <= 2 then log"
            "At most."
        Below "<" "when disk.free /srv < 10% then log"
            "Less than."
        AtLeast ">=" "when load >= 8 then log"
            "At least."
        Above ">" "when load > 8 then log"
            "More than."
        Opens "(" "when cpu > 90% and (load > 8 or mem.used > 4GB) then log"
            "Opens a bracket: around conditions that belong together, and behind `avg` and the \
             like."
        Closes ")" "when cpu > 90% and (load > 8 or mem.used > 4GB) then log"
            "Closes it."
        Comma "," "when avg(cpu, 5m) > 70% then mail ops, log"
            "Between actions, and before the span in a bracket."
        Bar "|" "when share(requests from MX|10.0.0.0/8, 10m) > 60% then log"
            "Between origins: from any of them."
        Quote "\"" "when disk.free \"/srv/my data\" < 10% then log"
            "Around a label that has spaces."
    }
}

words! {
    /// Days of the week, behind a time of the day: from one to another with `-` between, several
    /// with `+`. Monday is the first.
    DayWord {
        Monday "mon" "when time 08:00-18:00 mon-fri then in 1"
            "Monday."
        Tuesday "tue" "when time 08:00-18:00 tue then in 1"
            "Tuesday."
        Wednesday "wed" "when time 08:00-18:00 mon+wed then in 1"
            "Wednesday."
        Thursday "thu" "when time 08:00-18:00 thu-sat then in 1"
            "Thursday."
        Friday "fri" "when time 22:00-06:00 fri+sat then in 1"
            "Friday. A night belongs to the day on which it begins."
        Saturday "sat" "when time 08:00-18:00 sat-mon then in 1"
            "Saturday."
        Sunday "sun" "when time 08:00-18:00 sat+sun then in 1"
            "Sunday."
    }
}

words! {
    /// Continents, behind `continent:`, as GeoNames abbreviates them.
    ContinentWord {
        Africa "AF" "when share(requests from continent:AF, 10m) > 60% then log"
            "Africa."
        Antarctica "AN" "when share(requests from continent:AN, 10m) > 60% then log"
            "Antarctica."
        Asia "AS" "when share(requests from continent:AS, 10m) > 60% then log"
            "Asia."
        Europe "EU" "when share(requests from continent:EU, 10m) > 60% then log"
            "Europe."
        NorthAmerica "NA" "when share(requests from continent:NA, 10m) > 60% then log"
            "North America."
        Oceania "OC" "when share(requests from continent:OC, 10m) > 60% then log"
            "Oceania."
        SouthAmerica "SA" "when share(requests from continent:SA, 10m) > 60% then log"
            "South America."
    }
}

/// A part of the language, for the reference.
#[derive(Clone, Debug)]
pub struct Group {
    /// What people call it.
    pub title: &'static str,
    /// Its words.
    pub entries: Vec<Entry>,
}

/// The whole language, part by part.
pub fn groups() -> Vec<Group> {
    macro_rules! of {
        ($title:literal $name:ident) => {
            Group { title: $title, entries: $name::ALL.iter().map(|word| word.entry()).collect() }
        };
    }
    vec![
        of!("Words" Word),
        of!("Functions" FoldWord),
        of!("Actions" ActionWord),
        of!("Options" OptionWord),
        of!("Units" UnitWord),
        of!("Rates" PerWord),
        of!("Signs" Sign),
        of!("Days" DayWord),
        of!("Continents" ContinentWord),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{base::quantity, proto::rule::parse};

    /// Whether `example` has `word` where one of its group can stand.
    fn has(example: &str, title: &str, word: &str) -> bool {
        let mut runs = example.split(|c: char| c.is_whitespace() || "(),<>=\"|".contains(c));
        match title {
            "Units" => runs.any(|run| {
                let end = run.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(run.len());
                end > 0 && run[end..].split('/').next() == Some(word)
            }),
            "Rates" => runs.any(|run| run.ends_with(word)),
            "Signs" => example.contains(word),
            "Days" => runs.any(|run| run.split(['+', '-']).any(|day| day == word)),
            "Continents" => runs.any(|run| run.strip_prefix("continent:") == Some(word)),
            "Functions" if word == "pN" => {
                runs.any(|run| run.strip_prefix('p').is_some_and(|n| n.parse::<u8>().is_ok()))
            }
            _ if word == "continent:" => runs.any(|run| run.starts_with(word)),
            _ => runs.any(|run| run == word),
        }
    }

    #[test]
    fn every_word_is_described_and_its_example_is_a_rule_with_it() {
        for Group { title, entries } in groups() {
            let mut words = BTreeSet::new();
            for Entry { word, help, example } in entries {
                assert!(words.insert(word), "{word} is there twice");
                assert!(help.ends_with('.') && !help.contains('\n'), "{word}: {help}");
                assert!(has(example, title, word), "{title}: {example:?} has no {word}");
                if let Err(wrong) = parse(example) {
                    panic!("{}", wrong.shown(example));
                }
            }
        }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(ActionWord::read("webhook"), Some(ActionWord::Webhook));
        assert_eq!(ActionWord::read("Webhook"), None);
        for word in DayWord::ALL {
            assert_eq!(DayWord::read(word.word()), Some(*word));
        }
    }

    /// A unit of time means the same behind a number and in a span.
    #[test]
    fn spans_have_the_units_of_time() {
        let mut of_time = 0;
        for unit in UnitWord::ALL {
            let span = quantity::span(&format!("1{}", unit.word()));
            assert_eq!(span.ok().map(|span| span.as_secs_f64()), unit.seconds(), "{unit:?}");
            of_time += usize::from(unit.seconds().is_some());
        }
        assert_eq!(of_time, 6);
    }

    /// What is said where an action or an option is expected names all of them.
    #[test]
    fn a_mistake_is_answered_with_all_that_could_stand_there() {
        let why = |text: &str| parse(text).unwrap_err().why;
        let action = why("when load > 8 then shout");
        for word in ActionWord::ALL {
            assert!(action.contains(&format!("`{}`", word.word())), "{action}");
        }
        let option = why("when load > 8 then log loudly");
        for word in OptionWord::ALL {
            assert!(option.contains(&format!("`{}`", word.word())), "{option}");
        }
    }
}
