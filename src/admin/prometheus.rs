//! The Prometheus text exposition (format version 0.0.4), written by hand: a
//! few dozen families don't need a registry, and everything is in the view.

use std::fmt::{Display, Write};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use super::{
    routes::{Site, refuse},
    source::Source,
};
#[cfg(test)]
use crate::base::metric::Known;
use crate::{
    base::{
        AppName,
        durations::{BOUNDS, Durations},
        metric::{CUSTOM, Series},
    },
    driver::host::Process,
    gateway::{Served, origins::Counted, tally::Totals},
    member::view::{ApplicationView, Health, View},
    node::Metrics,
    proto::telemetry::statsd::Measure,
};

const MEMBER_STATES: [&str; 4] = ["alive", "suspect", "down", "left"];
const SERVICE_STATES: [&str; 5] = ["in service", "standby", "receiving", "unknown", "out"];
const VOTES: [&str; 6] = ["unanimous", "agreed", "undecided", "other", "hung", "paused"];
const POSITIONS: [&str; 7] =
    ["agrees", "differs", "late", "nothing", "silent", "elsewhere", "leaving"];

/// `GET /metrics`
pub(super) async fn exposition<S: Source>(State(site): State<Site<S>>) -> Response {
    let (served, custom) = (site.source.served(), site.source.custom());
    let process = Process::read();
    match (site.source.view().await, site.source.metrics().await) {
        (Ok(view), Ok(metrics)) => {
            let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
            (kind, text(&view, &metrics, &served, &custom, &process)).into_response()
        }
        (Err(refusal), _) | (_, Err(refusal)) => refuse(&refusal),
    }
}

/// All families of one member.
pub(super) fn text(
    view: &View,
    metrics: &Metrics,
    served: &Served,
    custom: &[(Series, Measure)],
    process: &Process,
) -> String {
    let mut page = Page(String::new());
    cluster(&mut page, view);
    applications(&mut page, &view.applications);
    shell(&mut page, metrics);
    stalls(&mut page, metrics);
    content(&mut page, metrics);
    gateway(&mut page, served);
    by_application(&mut page, &served.apps);
    by_origin(&mut page, &served.origins);
    by_others(&mut page, custom);
    of_process(&mut page, process);
    page.0
}

fn cluster(page: &mut Page, view: &View) {
    page.family("althing_info", "gauge", "Which member of which cluster tells.");
    let info = [
        ("version", view.althing.as_str()),
        ("member", view.me.as_str()),
        ("cluster", view.cluster.as_str()),
    ];
    page.sample("althing_info", &info, 1);

    page.family("althing_health", "gauge", "1 for what the health is, 0 for the others.");
    for (word, health) in
        [("ok", Health::Ok), ("warning", Health::Warning), ("critical", Health::Critical)]
    {
        page.sample("althing_health", &[("health", word)], u8::from(view.health == health));
    }

    page.family("althing_members", "gauge", "Enrolled members by state, as this one sees them.");
    for state in MEMBER_STATES {
        let count = view.members.iter().filter(|m| m.state == state).count();
        page.sample("althing_members", &[("state", state)], count);
    }
    page.family("althing_members_service", "gauge", "Enrolled members by what they serve.");
    for service in SERVICE_STATES {
        let count = view.members.iter().filter(|m| m.service == service).count();
        page.sample("althing_members_service", &[("service", service)], count);
    }

    page.gauge("althing_voters", "Voters in the roster.", view.voters);
    page.gauge("althing_voters_majority", "How many voters are a majority.", view.majority);
    page.gauge("althing_voters_live", "Voters that are live.", view.voters_live);
    page.gauge("althing_catalog_sequence", "The committed catalog's sequence.", view.sequence);
    let window = view.window.as_ref();
    page.gauge(
        "althing_window_open",
        "Whether an update window is open.",
        u8::from(window.is_some()),
    );
    page.gauge(
        "althing_window_coordinator_live",
        "Whether the open window's coordinator is live.",
        u8::from(window.is_some_and(|w| w.coordinator_live)),
    );
    page.gauge(
        "althing_window_takeovers",
        "How often the open window was taken over.",
        window.map_or(0, |w| w.takeovers),
    );
}

/// A family of one number an application: name, help, and which.
type Number = (&'static str, &'static str, fn(&ApplicationView) -> u64);

fn applications(page: &mut Page, apps: &[ApplicationView]) {
    let numbers: [Number; 6] = [
        ("althing_application_version", "The current version's number.", |a| a.version),
        ("althing_application_files", "Files of the current version.", |a| a.files),
        ("althing_application_bytes", "Bytes of the current version.", |a| a.bytes),
        ("althing_application_ballots", "Voters whose fresh ballot is in hand.", |a| {
            a.ballots as u64
        }),
        ("althing_application_electorate", "Voters that the application is placed on.", |a| {
            a.electorate as u64
        }),
        ("althing_application_failing", "Whether something failed last on this member.", |a| {
            u64::from(a.error.is_some())
        }),
    ];
    for (name, help, number) in numbers {
        page.family(name, "gauge", help);
        for app in apps {
            page.sample(name, &[("app", &app.name)], number(app));
        }
    }
    let name = "althing_application_vote";
    page.family(name, "gauge", "1 for what the vote says, 0 for the others.");
    for app in apps {
        for vote in VOTES {
            let labels = [("app", app.name.as_str()), ("vote", vote)];
            page.sample(name, &labels, u8::from(app.vote == vote));
        }
    }
    let name = "althing_application_members";
    page.family(name, "gauge", "Members by how they stand to the current version.");
    for app in apps {
        for position in POSITIONS {
            let count = app.positions.iter().filter(|p| p.position == position).count();
            page.sample(name, &[("app", &app.name), ("position", position)], count);
        }
    }
}

fn shell(page: &mut Page, m: &Metrics) {
    let counters = [
        ("althing_packets_sent_total", "SWIM packets sent.", m.packets_sent),
        ("althing_messages_sent_total", "Messages to members sent.", m.messages_sent),
        ("althing_sent_bytes_total", "Bytes of packets and messages sent.", m.bytes_sent),
        ("althing_received_total", "Packets and messages received.", m.received),
        ("althing_received_bytes_total", "Bytes of these.", m.bytes_received),
        (
            "althing_requests_total",
            "Requests that the gateway answered, those that other members passed on included.",
            m.requests,
        ),
        ("althing_tcp_connections_total", "TCP connections taken for services.", m.tcp_connections),
        ("althing_tcp_failures_total", "Of these, those that nobody took.", m.tcp_failures),
        ("althing_tcp_received_bytes_total", "Bytes that clients sent.", m.tcp_bytes_received),
        ("althing_tcp_sent_bytes_total", "Bytes that they were sent.", m.tcp_bytes_sent),
        (
            "althing_access_log_dropped_total",
            "Lines of the access log that were left out.",
            m.access_log_dropped,
        ),
        ("althing_stalls_total", "Times that the loop or the process stood still.", m.stalls),
    ];
    for (name, help, value) in counters {
        page.family(name, "counter", help);
        page.sample(name, &[], value);
    }
    page.gauge("althing_tcp_active", "TCP connections for services that are open.", m.tcp_active);
    page.gauge("althing_connections", "Connections to other members.", m.connections);
    page.gauge("althing_queue", "Inputs that wait for the member.", m.queue);
    let help = "How much more slowly than usual this member accuses others.";
    page.gauge("althing_unwell", help, m.unwell);
    page.gauge("althing_suspicions", "Members that this one looks into.", m.suspicions);
    page.gauge("althing_gossip_backlog", "Updates that gossip has to carry.", m.gossip_backlog);
    let name = "althing_queue_depth";
    page.family(name, "gauge", "What waits, by where it waits.");
    for (queue, depth) in [
        ("network", m.queue_network),
        ("notes", m.queue_notes),
        ("writes", m.queue_writes),
        ("proposals", m.queue_proposals),
        ("rumors", m.rumors_kept),
    ] {
        page.sample(name, &[("queue", queue)], depth);
    }
    page.gauge("althing_queue_max", "The most inputs that ever waited.", m.queue_max);
    page.gauge(
        "althing_input_seconds_max",
        "The longest that one input took.",
        m.input_us_max as f64 / 1e6,
    );
}

fn stalls(page: &mut Page, m: &Metrics) {
    page.gauge(
        "althing_loop_stall_seconds_max",
        "The longest that the event loop took for one thing, beyond half a second.",
        m.stall_us_max as f64 / 1e6,
    );
    page.gauge(
        "althing_process_stood_seconds_max",
        "The longest that the whole process stood still, beyond half a second.",
        m.stood_us_max as f64 / 1e6,
    );
}

fn content(page: &mut Page, m: &Metrics) {
    let numbers = [
        (
            "althing_replication_bytes_total",
            "Bytes of content that were fetched from members.",
            m.fetched_bytes,
        ),
        ("althing_scrub_bytes_total", "Bytes that were read again by the scrub.", m.scrub_bytes),
        (
            "althing_scrub_damaged_total",
            "Pieces of content that the scrub found rotten or lost in the store.",
            m.scrub_damaged,
        ),
        ("althing_scrub_passes_total", "Whole passes of the scrub.", m.scrub_passes),
        (
            "althing_repairs_total",
            "Repairs of content that this member made, and those that failed.",
            m.repairs,
        ),
    ];
    for (name, help, value) in numbers {
        page.family(name, "counter", help);
        page.sample(name, &[], value);
    }
}

fn gateway(page: &mut Page, Served { all, .. }: &Served) {
    let counters = [
        ("althing_client_connections_total", "Connections of clients accepted.", all.connections),
        (
            "althing_requests_received_total",
            "Requests that other members passed on to this one.",
            all.received,
        ),
        (
            "althing_requests_forwarded_total",
            "Requests that this member passed on and another answered.",
            all.forwarded,
        ),
        (
            "althing_forward_failures_total",
            "Attempts to pass a request on, or to have a program answer it, that came to nothing.",
            all.forward_failures,
        ),
        (
            "althing_answers_cut_total",
            "Answers that ended before their time, for whatever reason.",
            all.errors,
        ),
        (
            "althing_answers_from_store_total",
            "Files that were sent from the content store, because the live one was not fit.",
            all.from_chunks,
        ),
    ];
    for (name, help, value) in counters {
        page.family(name, "counter", help);
        page.sample(name, &[], value);
    }
    let help = "Connections of clients that are open.";
    page.gauge("althing_client_connections", help, all.connections_active);
    let name = "althing_responses_total";
    page.family(name, "counter", "Answers by the class of their status.");
    for (class, count) in [
        ("2xx", all.responses_2xx),
        ("3xx", all.responses_3xx),
        ("4xx", all.responses_4xx),
        ("5xx", all.responses_5xx),
    ] {
        page.sample(name, &[("class", class)], count);
    }
}

/// A counter of requests: name, help, and which.
type Counter = (&'static str, &'static str, fn(&Totals) -> u64);

/// Of the requests that clients made of this member: a request is counted by one member alone,
/// so that sums over members are right.
fn by_application(page: &mut Page, apps: &[(AppName, Totals)]) {
    let counters: [Counter; 5] = [
        ("althing_application_requests_total", "Requests of clients that have ended.", |t| {
            t.requests
        }),
        (
            "althing_application_errors_total",
            "Of these, those answered by a status of 500 or more, or cut short on this side.",
            |t| t.errors,
        ),
        (
            "althing_application_refused_total",
            "Of these, those answered by a status of 400 to 499.",
            |t| t.refused,
        ),
        ("althing_application_sent_bytes_total", "Bytes of bodies sent to clients.", |t| t.bytes),
        (
            "althing_application_forwarded_total",
            "Requests of clients that another member answered.",
            |t| t.forwarded,
        ),
    ];
    for (name, help, number) in counters {
        page.family(name, "counter", help);
        for (app, totals) in apps {
            page.sample(name, &[("app", app.as_str())], number(totals));
        }
    }
    let name = "althing_application_request_duration_seconds";
    page.family(name, "histogram", "From a request's head to its answer's last byte.");
    for (app, totals) in apps {
        page.histogram(name, &[("app", app.as_str())], &totals.latencies);
    }
}

fn by_origin(page: &mut Page, origins: &[Counted]) {
    let name = "althing_origin_requests_total";
    let help = "Requests of clients by whether they came from the origins that a rule names.";
    page.family(name, "counter", help);
    for counted in origins {
        let text = counted.origins.to_string();
        for (word, count) in
            [("yes", counted.from), ("no", counted.elsewhere), ("unknown", counted.unknown)]
        {
            page.sample(name, &[("origins", &text), ("from", word)], count);
        }
    }
}

/// What services and scripts measure. Their names are labels: as names of families two of them
/// could be the same one, and Prometheus takes fewer signs.
fn by_others(page: &mut Page, custom: &[(Series, Measure)]) {
    let own = |series: &Series, end: &str| {
        let name = series.name();
        let name = name.strip_prefix(CUSTOM).unwrap_or(name);
        (name.strip_suffix(end).unwrap_or(name).to_owned(), series.label().unwrap_or("").to_owned())
    };
    let mut numbers =
        |name: &str, kind: &str, help: &str, end: &str, of: fn(&Measure) -> Option<f64>| {
            page.family(name, kind, help);
            for (series, number) in custom.iter().filter_map(|(s, measure)| Some((s, of(measure)?)))
            {
                let (own, label) = own(series, end);
                page.sample(name, &[("name", &own), ("label", &label)], number);
            }
        };
    let help = "Levels that services and scripts tell.";
    numbers("althing_custom", "gauge", help, "", |measure| match measure {
        Measure::Level(level) => Some(*level),
        _ => None,
    });
    let help = "What services and scripts have counted.";
    numbers("althing_custom_total", "counter", help, ".total", |measure| match measure {
        Measure::Total(total) => Some(*total),
        _ => None,
    });
    let name = "althing_custom_duration_seconds";
    page.family(name, "histogram", "How long things took that services and scripts timed.");
    for (series, measure) in custom {
        let Measure::Took(all) = measure else { continue };
        let (own, label) = own(series, ".seconds");
        page.histogram(name, &[("name", &own), ("label", &label)], all);
    }
}

/// Under the names that libraries of Prometheus give them. What can't be read is left out.
fn of_process(page: &mut Page, process: &Process) {
    let mut put = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        page.family(name, kind, help);
        if let Some(value) = value {
            page.sample(name, &[], value);
        }
    };
    let help = "Processor time of this process.";
    put("process_cpu_seconds_total", "counter", help, process.cpu_seconds);
    let help = "Memory of this process that is resident.";
    put("process_resident_memory_bytes", "gauge", help, process.memory_bytes);
    let help = "Files that this process has open.";
    put("process_open_fds", "gauge", help, process.open_files);
    let help = "Files that this process may have open.";
    put("process_max_fds", "gauge", help, process.open_files_max);
    put("process_threads", "gauge", "Threads of this process.", process.threads);
}

/// The families that say the same as a line of the catalogue of series, as Prometheus would say
/// it; for docs/series.md. What exporters of the machine tell is not told a second time.
#[cfg(test)]
pub(crate) fn families_of(known: Known) -> &'static [&'static str] {
    match known {
        Known::ProcessCpu => &["process_cpu_seconds_total"],
        Known::ProcessMem => &["process_resident_memory_bytes"],
        Known::ProcessThreads => &["process_threads"],
        Known::FdUsed => &["process_open_fds"],
        Known::FdShare => &["process_open_fds", "process_max_fds"],
        Known::Requests => &["althing_application_requests_total"],
        Known::Errors => &["althing_application_errors_total"],
        Known::Refused => &["althing_application_refused_total"],
        Known::Latency => &["althing_application_request_duration_seconds"],
        Known::BytesOut => &["althing_application_sent_bytes_total"],
        Known::Connections => &["althing_client_connections"],
        Known::Forwarded => &["althing_application_forwarded_total"],
        Known::RequestsFrom | Known::RequestsElsewhere | Known::RequestsUnknown => {
            &["althing_origin_requests_total"]
        }
        Known::GossipBytes => &["althing_sent_bytes_total"],
        Known::ReplicationBytes => &["althing_replication_bytes_total"],
        Known::Repairs => &["althing_repairs_total"],
        Known::VotesHung => &["althing_application_vote"],
        Known::VotesDiffering => &["althing_application_members"],
        Known::MembersLive | Known::MembersDown => &["althing_members"],
        Known::Queue => &["althing_queue"],
        Known::Stalls => &["althing_stalls_total"],
        Known::Cpu
        | Known::CpuUser
        | Known::CpuSystem
        | Known::CpuWait
        | Known::CpuSteal
        | Known::CpuThrottled
        | Known::CpuPressure
        | Known::CpuCount
        | Known::Load
        | Known::MemTotal
        | Known::MemUsed
        | Known::MemAvailable
        | Known::MemPressure
        | Known::SwapUsed
        | Known::IoPressure
        | Known::DiskTotal
        | Known::DiskUsed
        | Known::DiskFree
        | Known::DiskInodes
        | Known::NetIn
        | Known::NetOut
        | Known::NetErrors
        | Known::Uptime
        | Known::ServiceRestarts
        | Known::ServiceReady
        | Known::ServiceCpu
        | Known::ServiceMem
        | Known::CertificateDays
        | Known::SeriesRefused => &[],
    }
}

/// The text as it grows.
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> =
            labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escaped(text))).collect();
        if labels.is_empty() {
            self.line(format_args!("{name} {value}"));
        } else {
            self.line(format_args!("{name}{{{}}} {value}", labels.join(",")));
        }
    }

    /// The samples of one histogram of the family `name`, which has been begun.
    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], all: &Durations) {
        let bucket = format!("{name}_bucket");
        let bounds = BOUNDS.iter().map(f64::to_string).zip(all.within());
        for (bound, within) in bounds.chain([("+Inf".to_owned(), all.count)]) {
            let labels = [labels, &[("le", bound.as_str())]].concat();
            self.sample(&bucket, &labels, within);
        }
        self.sample(&format!("{name}_sum"), labels, all.seconds);
        self.sample(&format!("{name}_count"), labels, all.count);
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("writing to a String never fails");
    }
}

/// A label's value: backslash, quote and line feed are what the format escapes.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::tests::sample;

    #[test]
    fn every_line_is_a_comment_or_a_sample_of_a_declared_family() {
        let mut view = sample::view();
        view.me = "a\"} 1\nevil 2\\".to_owned();
        let process = Process::read();
        let page = text(&view, &sample::metrics(), &sample::served(), &sample::custom(), &process);
        let mut declared = std::collections::BTreeSet::new();
        for line in page.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let name = family.split(' ').next().unwrap();
                assert!(declared.insert(name), "{name} is declared twice");
            } else if !line.starts_with("# HELP ") {
                let name = line.split(['{', ' ']).next().unwrap();
                let of = ["_bucket", "_sum", "_count"].iter().find_map(|e| name.strip_suffix(e));
                assert!(declared.contains(of.unwrap_or(name)), "{line}");
                let value = line.rsplit(' ').next().unwrap();
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
        assert!(page.contains(r#"member="a\"} 1\nevil 2\\""#));
        assert!(page.contains("althing_catalog_sequence 42\n"));
        assert!(page.contains("althing_members{state=\"down\"} 1\n"));
        assert!(page.contains("althing_application_vote{app=\"shop\",vote=\"unanimous\"} 1\n"));
        assert!(page.contains("althing_application_members{app=\"docs\",position=\"differs\"} 1"));
        assert!(page.contains("althing_requests_total 84211\n"));
        assert!(page.contains("althing_input_seconds_max 0.0123\n"));
        let bucket = "althing_application_request_duration_seconds_bucket{app=\"shop\",le=";
        for line in ["\"0.005\"} 0", "\"0.01\"} 90", "\"10\"} 98", "\"+Inf\"} 99"] {
            assert!(page.contains(&format!("{bucket}{line}\n")), "{line} {page}");
        }
        assert!(page.contains(
            "althing_origin_requests_total{origins=\"MX|10.0.0.0/8\",from=\"unknown\"} 10\n"
        ));
        for line in [
            "althing_custom{name=\"queue\",label=\"\"} -3.5",
            "althing_custom_total{name=\"mails\",label=\"a\\\"b\"} 7",
            "althing_custom_duration_seconds_bucket{name=\"job\",label=\"\",le=\"0.25\"} 1",
            "althing_custom_duration_seconds_bucket{name=\"job\",label=\"\",le=\"30\"} 2",
            "althing_custom_duration_seconds_bucket{name=\"job\",label=\"\",le=\"+Inf\"} 3",
            "althing_custom_duration_seconds_sum{name=\"job\",label=\"\"} 60.25",
        ] {
            assert!(page.contains(&format!("{line}\n")), "{line} {page}");
        }
        assert!(page.contains("process_resident_memory_bytes "));
    }

    /// What of a text could be the name of a family of this page.
    fn names(text: &str) -> std::collections::BTreeSet<&str> {
        let of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let words = text.split(|c: char| !of_name(c));
        words.filter(|word| word.starts_with("althing_") || word.starts_with("process_")).collect()
    }

    #[test]
    fn the_dashboard_and_the_page_of_the_documentation_name_what_is_there() {
        let served = sample::served();
        let custom = sample::custom();
        let page = text(&sample::view(), &sample::metrics(), &served, &custom, &Process::read());
        let declared: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        let dashboard = include_str!("../../docs/grafana.json");
        let words = include_str!("../../docs/prometheus.md");
        for (place, text) in [("the dashboard", dashboard), ("the page", words)] {
            for name in names(text) {
                let of = ["_bucket", "_sum", "_count"].iter().find_map(|e| name.strip_suffix(e));
                let known = declared.contains(&name) || of.is_some_and(|n| declared.contains(&n));
                assert!(known, "{place} has {name}, and /metrics has not");
            }
        }
        for name in Known::ALL.iter().flat_map(|known| families_of(*known)) {
            assert!(declared.contains(name), "{name} is said of a series, and /metrics has it not");
        }
        for name in declared {
            assert!(names(words).contains(name), "docs/prometheus.md does not say what {name} is");
        }
    }

    #[test]
    fn the_dashboard_is_one() {
        let board: serde_json::Value =
            serde_json::from_str(include_str!("../../docs/grafana.json")).unwrap();
        assert!(board["schemaVersion"].as_u64().unwrap() >= 39);
        let variables = board["templating"]["list"].as_array().unwrap();
        let sources = variables.iter().filter(|v| v["type"] == "datasource").count();
        assert_eq!(sources, 1);
        let (mut ids, mut places) = (std::collections::BTreeSet::new(), Vec::new());
        for panel in board["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{} is there twice", panel["id"]);
            let at = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
            let [x, y, w, h] = at;
            assert!(x + w <= 24, "{} is too wide", panel["title"]);
            let covers =
                |[a, b, c, d]: &[u64; 4]| x < a + c && *a < x + w && y < b + d && *b < y + h;
            assert!(!places.iter().any(covers), "{} lies over another", panel["title"]);
            places.push(at);
            if panel["type"] == "row" {
                continue;
            }
            assert!(panel["title"].as_str().is_some_and(|title| !title.is_empty()));
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty() && targets.iter().all(|t| t["expr"].is_string()));
        }
    }
}
