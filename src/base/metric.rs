//! What is measured: the names of series.
//!
//! A series is written `NAME` or `NAME LABEL`: `cpu`, `disk.free /srv`, `requests shop`,
//! `service.restarts shop/web`. Names are those of the catalogue below, which is closed, so
//! that a rule with a slip of the pen is refused and not silently about nothing. What
//! services measure themselves is called `custom.NAME`, and a later catalogue never takes such
//! a name. Kinds are those of OpenMetrics; a custom counter is told by the end `.total`, as
//! there, and a custom distribution of durations by `.seconds`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{AppName, Origins, ServiceName, limits};

/// How the numbers of a series are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A level, as of now: it rises and falls.
    Gauge,
    /// A sum since some start: it rises, and begins again when what counts is started again.
    /// What is kept of it is its rate, in units a second.
    Counter,
    /// Single values whose distribution matters.
    Histogram,
}

/// What the numbers of a series count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// Hundredths, from 0 to 100.
    Percent,
    /// Bytes; of a counter, bytes a second.
    Bytes,
    /// Seconds.
    Seconds,
    /// Days.
    Days,
    /// Things; of a counter, things a second.
    Count,
}

impl Unit {
    /// What stands behind a number: `%`, `B`, `s`, `d`, or nothing.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Percent => "%",
            Self::Bytes => "B",
            Self::Seconds => "s",
            Self::Days => "d",
            Self::Count => "",
        }
    }
}

/// What the label of a series names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LabelKind {
    /// There is none.
    Bare,
    /// An application; without a label, all of them together.
    Application,
    /// A service, as `APPLICATION/SERVICE`. It must be there.
    Service,
    /// A mount point, an absolute path. It must be there.
    Mount,
    /// A network interface; without a label, all of them together but loopback.
    Interface,
    /// Origins of requests, as [`Origins::label`] writes them. It must be there.
    Origins,
    /// Anything, or nothing.
    Any,
}

/// One line of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// As it is written.
    pub name: &'static str,
    /// How its numbers are to be read.
    pub kind: Kind,
    /// What they count.
    pub unit: Unit,
    /// What its label names.
    pub label: LabelKind,
    /// What it is, in a sentence.
    pub help: &'static str,
}

macro_rules! catalogue {
    ($($id:ident $name:literal $kind:ident $unit:ident $label:ident $help:literal)*) => {
        /// The catalogue: what Althing measures by itself.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Known {
            $(#[doc = $help] $id,)*
        }

        impl Known {
            /// All of the catalogue, in its order.
            pub const ALL: &'static [Self] = &[$(Self::$id,)*];

            /// Its line in the catalogue.
            pub const fn definition(self) -> Definition {
                match self {
                    $(Self::$id => Definition {
                        name: $name,
                        kind: Kind::$kind,
                        unit: Unit::$unit,
                        label: LabelKind::$label,
                        help: $help,
                    },)*
                }
            }
        }
    };
}

catalogue! {
    Cpu "cpu" Gauge Percent Bare "Processor time in use, of all that this member may use."
    CpuUser "cpu.user" Gauge Percent Bare "Processor time spent in programs."
    CpuSystem "cpu.system" Gauge Percent Bare "Processor time spent in the kernel."
    CpuWait "cpu.wait" Gauge Percent Bare "Processor time idle while a disk was waited for."
    CpuSteal "cpu.steal" Gauge Percent Bare "Processor time that the host gave to other machines."
    CpuThrottled "cpu.throttled" Gauge Percent Bare "Time in which a limit held the group back."
    CpuPressure "cpu.pressure" Gauge Percent Bare "Time in which some task waited for a processor."
    CpuCount "cpu.count" Gauge Count Bare "Processors that this member may use, parts included."
    Load "load" Gauge Count Bare "Tasks that run or wait, averaged over a minute."
    MemTotal "mem.total" Gauge Bytes Bare "Memory that this member may use."
    MemUsed "mem.used" Gauge Bytes Bare "Memory in use, caches that can be dropped not counted."
    MemAvailable "mem.available" Gauge Bytes Bare "Memory that can be had without swapping."
    MemPressure "mem.pressure" Gauge Percent Bare "Time in which some task waited for memory."
    SwapUsed "swap.used" Gauge Bytes Bare "Swap space in use."
    IoPressure "io.pressure" Gauge Percent Bare "Time in which some task waited for a disk."
    DiskTotal "disk.total" Gauge Bytes Mount "Size of the file system."
    DiskUsed "disk.used" Gauge Percent Mount "Share of the file system in use, as `df` counts it."
    DiskFree "disk.free" Gauge Bytes Mount "Room that is left to programs without privileges."
    DiskInodes "disk.inodes" Gauge Percent Mount "Share of the file system's inodes in use."
    NetIn "net.in" Counter Bytes Interface "Bytes received."
    NetOut "net.out" Counter Bytes Interface "Bytes sent."
    NetErrors "net.errors" Counter Count Interface "Packets that were damaged or dropped."
    ProcessCpu "process.cpu" Gauge Percent Bare "Processor time of this member's own process, of one."
    ProcessMem "process.mem" Gauge Bytes Bare "Resident memory of this member's own process."
    ProcessThreads "process.threads" Gauge Count Bare "Threads of this member's own process."
    FdUsed "fd.used" Gauge Count Bare "Open files of this member's own process."
    FdShare "fd.share" Gauge Percent Bare "Share of the open files that it may have."
    Uptime "uptime" Gauge Seconds Bare "Time since the machine was started."
    Requests "requests" Counter Count Application "Requests answered."
    Errors "errors" Counter Count Application "Requests answered by a status of 500 or more, or cut short."
    Refused "requests.refused" Counter Count Application "Requests answered by a status of 400 to 499."
    Latency "latency" Histogram Seconds Application "From a request's head to its answer's last byte."
    BytesOut "bytes.out" Counter Bytes Application "Bytes of bodies sent to clients."
    Connections "connections" Gauge Count Application "Connections of clients that are open."
    Forwarded "requests.forwarded" Counter Count Application "Requests that another member answered."
    RequestsFrom "requests.from" Counter Count Origins "Requests from these origins."
    RequestsElsewhere "requests.elsewhere" Counter Count Origins "Requests from other origins."
    RequestsUnknown "requests.unknown" Counter Count Origins
        "Requests of which it is not known whether they come from these origins."
    ReplicationBytes "replication.bytes" Counter Bytes Bare "Bytes of content fetched from members."
    GossipBytes "gossip.bytes" Counter Bytes Bare "Bytes of packets and messages sent to members."
    Repairs "repairs" Counter Count Application "Repairs of content."
    VotesHung "votes.hung" Gauge Count Bare "Applications whose vote is hung."
    VotesDiffering "votes.differing" Gauge Count Bare "Applications of which this member differs."
    MembersLive "members.live" Gauge Count Bare "Members that are alive, as this one sees them."
    MembersDown "members.down" Gauge Count Bare "Members that are down, as this one sees them."
    Queue "queue" Gauge Count Bare "Inputs that wait for the member."
    Stalls "stalls" Counter Count Bare "Times that the loop or the process stood still."
    ServiceRestarts "service.restarts" Counter Count Service "Times that it was started again by itself."
    ServiceReady "service.ready" Gauge Count Service "Whether it is ready: 1 or 0."
    ServiceCpu "service.cpu" Gauge Percent Service "Processor time of its processes, of one processor."
    ServiceMem "service.mem" Gauge Bytes Service "Resident memory of its processes."
    CertificateDays "certificate.days" Gauge Days Application "Until the certificate ends."
    SeriesRefused "series.refused" Counter Count Bare "Samples refused: too many series, or no numbers."
}

/// What every custom name begins with.
pub const CUSTOM: &str = "custom.";

/// What a series measures.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// A line of the catalogue.
    Known(Known),
    /// What a service measures itself.
    Custom(CustomName),
}

/// The name of what a service measures itself: `custom.`, then parts of lower-case letters,
/// digits, `_` and `-` with dots between, at most
/// [`SERIES_NAME_MAX`](limits::SERIES_NAME_MAX) bytes in all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CustomName(Box<str>);

impl CustomName {
    fn parse(text: &str) -> Option<Self> {
        let fine = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
        };
        let own = text.strip_prefix(CUSTOM)?;
        (text.len() <= limits::SERIES_NAME_MAX && own.split('.').all(fine))
            .then(|| Self(text.into()))
    }
}

/// Why a text names no series.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeriesError {
    /// Not in the catalogue, and not custom.
    #[error(
        "`{0}` is nothing that is measured: docs/telemetry.md has the names; for what a service \
         measures itself, write custom. and lower-case letters, digits, dots, hyphens and \
         underscores, up to 64 bytes"
    )]
    Unknown(String),
    /// A label where there is none.
    #[error("`{name}` has no label, and `{label}` stands behind it: leave it away")]
    Label {
        /// Of which metric.
        name: &'static str,
        /// The label.
        label: String,
    },
    /// No label, or another one than it should be.
    #[error("`{name}` needs {expected} behind its name, and `{label}` is none")]
    Expected {
        /// Of which metric.
        name: String,
        /// What is expected.
        expected: &'static str,
        /// What is there; empty where nothing is.
        label: String,
    },
}

/// The name of one series of one member: what is measured, and of what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Series {
    metric: Metric,
    label: Option<Box<str>>,
}

impl Series {
    /// The series of `known` with `label`.
    ///
    /// # Errors
    /// If `known` takes no label, needs one, or takes no such one.
    pub fn new(known: Known, label: Option<&str>) -> Result<Self, SeriesError> {
        let Definition { name, label: kind, .. } = known.definition();
        if let (LabelKind::Bare, Some(label)) = (kind, label) {
            return Err(SeriesError::Label { name, label: shown(label) });
        }
        check(name, kind, label)?;
        Ok(Self { metric: Metric::Known(known), label: label.map(Into::into) })
    }

    /// Reads `NAME` or `NAME LABEL`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, SeriesError> {
        let (name, label) = match text.split_once(' ') {
            Some((name, label)) => (name, Some(label)),
            None => (text, None),
        };
        if let Some(known) = Known::ALL.iter().find(|k| k.definition().name == name) {
            return Self::new(*known, label);
        }
        let custom = CustomName::parse(name).ok_or_else(|| SeriesError::Unknown(shown(name)))?;
        check(name, LabelKind::Any, label)?;
        Ok(Self { metric: Metric::Custom(custom), label: label.map(Into::into) })
    }

    /// What is measured.
    pub fn metric(&self) -> &Metric {
        &self.metric
    }

    /// Its name without the label.
    pub fn name(&self) -> &str {
        match &self.metric {
            Metric::Known(known) => known.definition().name,
            Metric::Custom(name) => &name.0,
        }
    }

    /// Of what.
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// How its numbers are to be read.
    pub fn kind(&self) -> Kind {
        match &self.metric {
            Metric::Known(known) => known.definition().kind,
            Metric::Custom(name) if name.0.ends_with(".total") => Kind::Counter,
            Metric::Custom(name) if name.0.ends_with(".seconds") => Kind::Histogram,
            Metric::Custom(_) => Kind::Gauge,
        }
    }

    /// What its numbers count.
    pub fn unit(&self) -> Unit {
        match &self.metric {
            Metric::Known(known) => known.definition().unit,
            Metric::Custom(name) if name.0.ends_with(".seconds") => Unit::Seconds,
            Metric::Custom(_) => Unit::Count,
        }
    }
}

impl From<Known> for Series {
    /// The series without a label.
    ///
    /// # Panics
    /// If the catalogue says that there must be one, which is a constant of this crate.
    fn from(known: Known) -> Self {
        Self::new(known, None).expect("a metric whose label may be left away")
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match &self.label {
            Some(label) => write!(f, " {label}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Series {
    type Err = SeriesError;
    fn from_str(text: &str) -> Result<Self, SeriesError> {
        Self::parse(text)
    }
}

impl Serialize for Series {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Series {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Which series are meant: a text in which each `*` stands for anything. It is held against
/// the whole of what a series is written as: `requests` is all applications together,
/// `requests *` each of them, `requests*` both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// A sentence, if it is empty or longer than
    /// [`SERIES_PATTERN_MAX`](limits::SERIES_PATTERN_MAX) bytes.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > limits::SERIES_PATTERN_MAX {
            return Err(format!(
                "a pattern of series has 1 to {} bytes, as `cpu*` or `disk.free *`",
                limits::SERIES_PATTERN_MAX
            ));
        }
        Ok(Self(text.into()))
    }

    /// Whether `series` is meant.
    pub fn matches(&self, series: &Series) -> bool {
        glob(self.0.as_bytes(), series.to_string().as_bytes())
    }
}

/// Whether `pattern` matches all of `text`. When a part does not fit, the last asterisk takes
/// one byte more: at most the product of both lengths, for whatever pattern.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            (p, t) = (at + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// What is expected of a label of origins.
const ORIGINS: &str = "origins, each once and in the order of CA|MX|continent:EU|10.0.0.0/8,";

fn check(name: &str, kind: LabelKind, label: Option<&str>) -> Result<(), SeriesError> {
    let wrong = |expected| SeriesError::Expected {
        name: name.to_owned(),
        expected,
        label: shown(label.unwrap_or_default()),
    };
    let Some(text) = label else {
        return match kind {
            LabelKind::Service => Err(wrong("APPLICATION/SERVICE")),
            LabelKind::Mount => Err(wrong("a mount point")),
            LabelKind::Origins => Err(wrong(ORIGINS)),
            _ => Ok(()),
        };
    };
    let plain = !text.is_empty()
        && text.len() <= limits::SERIES_LABEL_MAX
        && text.trim() == text
        && !text.chars().any(char::is_control);
    if !plain {
        return Err(wrong("a label of 1 to 200 bytes without control characters"));
    }
    let service = || {
        let (app, service) = text.split_once('/')?;
        AppName::parse(app).ok()?;
        ServiceName::parse(service).ok()
    };
    match kind {
        LabelKind::Application if AppName::parse(text).is_err() => Err(wrong("an application")),
        LabelKind::Service if service().is_none() => Err(wrong("APPLICATION/SERVICE")),
        LabelKind::Mount if !text.starts_with('/') => Err(wrong("a mount point")),
        LabelKind::Interface if text.contains(['/', ' ']) => Err(wrong("a network interface")),
        LabelKind::Origins if !Origins::is_label(text) => Err(wrong(ORIGINS)),
        _ => Ok(()),
    }
}

/// The beginning of a text that somebody else wrote, for a message.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_catalogue_is_consistent() {
        let mut names = BTreeSet::new();
        for known in Known::ALL {
            let Definition { name, help, .. } = known.definition();
            assert!(names.insert(name), "{name} is there twice");
            assert!(name.len() <= limits::SERIES_NAME_MAX && !name.starts_with(CUSTOM));
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'.'), "{name}");
            assert!(help.ends_with('.'), "{name}");
        }
    }

    #[test]
    fn the_page_has_every_name() {
        let page = include_str!("../../docs/telemetry.md");
        for known in Known::ALL {
            let name = known.definition().name;
            assert!(page.contains(&format!("`{name}`")), "{name} is not in docs/telemetry.md");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for text in [
            "cpu",
            "disk.free /srv/my data",
            "requests",
            "requests shop",
            "service.restarts shop/web",
            "net.in eth0",
            "requests.from CA|MX|continent:EU|10.0.0.0/8",
            "custom.orders.open",
            "custom.orders.total shop",
        ] {
            let series = Series::parse(text).unwrap();
            assert_eq!(series.to_string(), text);
            let json = serde_json::to_string(&series).unwrap();
            assert_eq!(serde_json::from_str::<Series>(&json).unwrap(), series);
        }
        assert_eq!(Series::parse("custom.orders.total").unwrap().kind(), Kind::Counter);
        assert_eq!(Series::parse("custom.orders").unwrap().kind(), Kind::Gauge);
        assert_eq!(Series::from(Known::NetIn).unit().symbol(), "B");
    }

    #[test]
    fn what_is_no_series_is_refused() {
        let long = format!("disk.free /{}", "x".repeat(limits::SERIES_LABEL_MAX));
        let name = format!("custom.{}", "x".repeat(limits::SERIES_NAME_MAX));
        for text in [
            "",
            "cpus",
            "CPU",
            "cpu 0",
            "disk.free",
            "disk.free srv",
            "disk.free ",
            "disk.free  /srv",
            "disk.free /a\nb",
            "requests Shop",
            "service.restarts web",
            "net.in a/b",
            "requests.from",
            "requests.from shop",
            "requests.from MX|CA",
            "requests.unknown MX;cpu",
            "requests.elsewhere M*",
            "custom.",
            "custom.a..b",
            "custom.A",
            "custom.a/b",
            &long,
            &name,
        ] {
            assert!(Series::parse(text).is_err(), "{text:?}");
        }
        let error = Series::parse("disk.free srv").unwrap_err().to_string();
        assert_eq!(error, "`disk.free` needs a mount point behind its name, and `srv` is none");
    }

    #[test]
    fn patterns_are_held_against_the_whole() {
        let matches = |pattern: &str, text: &str| {
            Pattern::parse(pattern).unwrap().matches(&Series::parse(text).unwrap())
        };
        assert!(matches("cpu", "cpu") && !matches("cpu", "cpu.steal"));
        assert!(matches("cpu*", "cpu") && matches("cpu*", "cpu.steal"));
        assert!(matches("requests *", "requests shop") && !matches("requests *", "requests"));
        assert!(matches("*shop*", "service.restarts shop/web"));
        assert!(matches("disk.free *", "disk.free /srv") && !matches("*.in", "net.in eth0"));
        assert!(Pattern::parse("").is_err());
        // The kind of pattern that takes for ever where each asterisk is tried for itself.
        let series = Series::parse(&format!("custom.{}", "a".repeat(57))).unwrap();
        assert!(!Pattern::parse(&format!("{}b", "*a".repeat(149))).unwrap().matches(&series));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,300}") {
            if let Ok(series) = Series::parse(&text) {
                prop_assert_eq!(series.to_string(), text);
            }
        }

        #[test]
        fn a_pattern_without_asterisks_is_itself(text in "(cpu|load|net\\.in( [a-z0-9]{1,9})?)") {
            let series = Series::parse(&text).unwrap();
            prop_assert!(Pattern::parse(&text).unwrap().matches(&series));
            prop_assert!(Pattern::parse("*").unwrap().matches(&series));
        }
    }
}
