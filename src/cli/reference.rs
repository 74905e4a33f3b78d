//! The pages of the reference that are made of the code: docs/series.md, docs/events.md and
//! docs/rule-words.md, each of the table that the code itself goes by. `ALTHING_WRITE_DOCS=1
//! cargo test --lib` writes them anew; without it the tests fail where a page is not what the
//! code says.

use std::{fmt::Write as _, path::Path};

use crate::{
    admin::families_of,
    base::{
        limits,
        metric::{CUSTOM, Definition, Kind, Known, LabelKind, Unit},
    },
    member::event::{EventKind, Severity},
    proto::rule::{
        ACTIONS_MAX, DEPTH_MAX, PARTS_MAX, TEXT_MAX,
        words::{Entry, Group, groups},
    },
};

/// Fails unless `docs/FILE` is `page`; writes it first where that is asked for.
pub(super) fn is_written(file: &str, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(file);
    if std::env::var_os("ALTHING_WRITE_DOCS").is_some() {
        std::fs::write(&path, page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(
        written == page,
        "docs/{file} is not what the code says: ALTHING_WRITE_DOCS=1 cargo test --lib writes it"
    );
}

/// What stands at the head of each page.
const MADE: &str = "Made from the code by a test (`ALTHING_WRITE_DOCS=1 cargo test --lib`); do \
                    not edit.";

#[test]
fn the_page_of_series_is_the_catalogue() {
    is_written("series.md", &series());
}

#[test]
fn the_page_of_events_is_what_is_told() {
    is_written("events.md", &events());
}

#[test]
fn the_page_of_rule_words_is_the_language() {
    is_written("rule-words.md", &rule_words());
}

// Series.

fn series() -> String {
    let mut page = format!(
        "# Series\n\n{MADE}\n\n\
         What every member measures of itself, once a second. [Telemetry](telemetry.md) says how \
         it is kept and asked for; `althing metrics NAME` shows it, and [rules](rules.md) compare \
         it. A series is written as its name and, where there is one, its label: `disk.free \
         /srv`.\n\n\
         The last column has the families of [Prometheus](prometheus.md) that say the same, in its \
         own way: counters as totals, labels by name. What is told of the whole machine is left to \
         an exporter of the machine.\n\n\
         | name | label | kind | unit | what it is | Prometheus |\n|---|---|---|---|---|---|\n"
    );
    for known in Known::ALL {
        let Definition { name, kind, unit, label, help } = known.definition();
        let families: Vec<String> =
            families_of(*known).iter().map(|name| format!("`{name}`")).collect();
        writeln!(
            page,
            "| `{name}` | {} | {} | {} | {help} | {} |",
            label_word(label),
            kind_word(kind),
            unit_word(unit, kind),
            families.join(", ")
        )
        .unwrap();
    }
    write!(
        page,
        "\n## Kinds\n\n\
         | kind | what is told | what is kept |\n|---|---|---|\n\
         | {} | a level | the level |\n\
         | {} | a total, which begins anew at 0 with what counts | its rate a second |\n\
         | {} | each value | how many, average, extremes, and how they are distributed |\n\n\
         ## What services measure\n\n\
         [Services and scripts](telemetry.md#what-services-measure-themselves) name their own, \
         with any label. A name is lower-case letters, digits, `_` and `-` with dots between, {} \
         bytes at most with the `{CUSTOM}`; a label has {} bytes at most.\n\n\
         | name | kind | unit | Prometheus |\n|---|---|---|---|\n\
         | `{CUSTOM}NAME` | gauge | | `althing_custom` |\n\
         | `{CUSTOM}NAME.total` | counter | | `althing_custom_total` |\n\
         | `{CUSTOM}NAME.seconds` | histogram | seconds | `althing_custom_duration_seconds` |\n",
        kind_word(Kind::Gauge),
        kind_word(Kind::Counter),
        kind_word(Kind::Histogram),
        limits::SERIES_NAME_MAX,
        limits::SERIES_LABEL_MAX,
    )
    .unwrap();
    page
}

fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Gauge => "gauge",
        Kind::Counter => "counter",
        Kind::Histogram => "histogram",
    }
}

fn unit_word(unit: Unit, kind: Kind) -> &'static str {
    match (unit, kind) {
        (Unit::Percent, _) => "%",
        (Unit::Bytes, Kind::Counter) => "bytes a second",
        (Unit::Bytes, _) => "bytes",
        (Unit::Seconds, _) => "seconds",
        (Unit::Days, _) => "days",
        (Unit::Count, Kind::Counter) => "a second",
        (Unit::Count, _) => "",
    }
}

fn label_word(label: LabelKind) -> &'static str {
    match label {
        LabelKind::Bare => "",
        LabelKind::Application => "application; all of them without",
        LabelKind::Service => "application/service",
        LabelKind::Mount => "mount point",
        LabelKind::Interface => "interface; all but loopback without",
        LabelKind::Origins => "origins",
        LabelKind::Any => "anything, or none",
    }
}

// Events.

fn events() -> String {
    let mut page = format!(
        "# Events\n\n{MADE}\n\n\
         Whatever acts leaves an event that says why. Each member keeps its own, over restarts; \
         `althing events --all` asks all of them, `--kind` and `--severity` choose, `--follow` \
         goes on, and `althing why` tells how one came of another. At `/api/v1/log` of the status \
         port each has `id` (its number in the log of its member), `at` (milliseconds since 1970), \
         `severity`, `kind`, `member`, `app`, `text` and, where there is one, `cause`, the `id` of \
         what brought it about, `episode`, that of its rule, `evidence`, what proves a \
         [lie](security.md#a-member-that-says-two-things), and `asked`, who asked for it with a \
         token: `operator` and `at`, the member that was asked. That is in the text, too: \
         \"by operator alice, at web1\".\n\n\
         Rules count them: `count(events service shop, 10m) > 3`. Words and fields stay as they \
         are; texts are for people and may change.\n\n\
         | severity | what it says |\n|---|---|\n"
    );
    for severity in [Severity::Info, Severity::Warning, Severity::Critical] {
        let says = match severity {
            Severity::Info => "As it should be.",
            Severity::Warning => {
                "Something was not as it should be, and was dealt with or may need a look."
            }
            Severity::Critical => "Somebody should look now.",
        };
        writeln!(page, "| `{}` | {says} |", severity_word(severity)).unwrap();
    }
    for kind in EventKind::ALL {
        write!(
            page,
            "\n## {}\n\n{}\n\n| severity | what brings it about | what to do |\n|---|---|---|\n",
            kind.word(),
            kind.help()
        )
        .unwrap();
        for occasion in kind.occasions() {
            let severity = severity_word(occasion.severity);
            writeln!(page, "| `{severity}` | {} | {} |", occasion.when, occasion.todo).unwrap();
        }
    }
    page
}

fn severity_word(severity: Severity) -> String {
    let word = serde_json::to_value(severity).unwrap();
    word.as_str().unwrap().to_owned()
}

// Words of rules.

fn rule_words() -> String {
    let mut page = format!(
        "# Words of rules\n\n{MADE}\n\n\
         Every word of the language in which [rules](rules.md) are written, in the order in which \
         one meets them. Each example is a whole rule, and is read by the parser in the test that \
         makes this page. What is measured is called by the names of [series](series.md), what \
         happened by the kinds of [events](events.md).\n\n\
         A rule has {TEXT_MAX} bytes at most, {PARTS_MAX} comparisons and times, {DEPTH_MAX} \
         brackets within each other, and {ACTIONS_MAX} actions. A window is from 10 s to 7 days \
         long.\n"
    );
    for Group { title, entries } in groups() {
        write!(page, "\n## {title}\n\n| word | what it means | example |\n|---|---|---|\n")
            .unwrap();
        for Entry { word, help, example } in entries {
            let (word, example) = (in_cell(word), in_cell(example));
            writeln!(page, "| `{word}` | {} | `{example}` |", in_cell(help)).unwrap();
        }
    }
    page.push_str("\n## Kinds of events\n\nBehind `events`, within `count`:");
    for kind in EventKind::ALL {
        write!(page, " `{}`", kind.word()).unwrap();
    }
    page.push_str(".\n");
    page
}

/// A bar would end the cell, also in code.
fn in_cell(text: &str) -> String {
    text.replace('|', "\\|")
}
