//! The log of a member's process: in which form, and where to.

use std::{
    fs::File,
    io::{self, IsTerminal},
    os::{fd::AsFd, unix::fs::MetadataExt},
};

use tracing::Subscriber;
use tracing_journald::{Layer, Priority, PriorityMappings};
use tracing_subscriber::{
    EnvFilter, fmt::MakeWriter, layer::SubscriberExt, util::SubscriberInitExt,
};

use super::args::LogWord;
use crate::{
    base::{Reason, Refusal},
    node::logged,
};

/// What the variable is called that says what is in the log.
const VARIABLE: &str = "ALTHING_LOG";
/// Where systemd says which file standard error is, if that leads to the journal: systemd.exec(5).
const STREAM: &str = "JOURNAL_STREAM";

/// Which way the log takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Text,
    Json,
    /// Whether there is no other if the journal can't be reached.
    Journal {
        only: bool,
    },
}

impl Way {
    /// `stream` is what systemd says of standard error, `stderr` the device and the inode that it
    /// is. Both are compared, because programs pass the variable on to others whose standard error
    /// is another one.
    fn choose(word: LogWord, stream: Option<&str>, stderr: Option<(u64, u64)>) -> Self {
        match word {
            LogWord::Text => Self::Text,
            LogWord::Json => Self::Json,
            LogWord::Journal => Self::Journal { only: true },
            LogWord::Auto => match (stream.and_then(device_and_inode), stderr) {
                (Some(journal), Some(stderr)) if journal == stderr => Self::Journal { only: false },
                _ => Self::Text,
            },
        }
    }

    /// What is in the log where nobody says so. Lines are for people who look at a terminal;
    /// what programs read has all events.
    fn filter(self) -> String {
        match self {
            Self::Text => "warn".to_owned(),
            Self::Json | Self::Journal { .. } => format!("warn,{}=info", logged::TARGET),
        }
    }
}

/// `DEVICE:INODE`, in decimal.
fn device_and_inode(text: &str) -> Option<(u64, u64)> {
    let (device, inode) = text.split_once(':')?;
    Some((device.parse().ok()?, inode.parse().ok()?))
}

/// Which file standard error is; none where it is closed.
fn stderr() -> Option<(u64, u64)> {
    let own = io::stderr().as_fd().try_clone_to_owned().ok()?;
    let found = File::from(own).metadata().ok()?;
    Some((found.dev(), found.ino()))
}

/// Logs of the libraries and of the member, from now on, as far as `ALTHING_LOG` asks for them.
///
/// # Errors
/// If it is to be the journal, and that can't be reached.
pub(super) fn begin(word: LogWord) -> Result<(), Refusal> {
    let stream = std::env::var(STREAM).ok();
    let mut way = Way::choose(word, stream.as_deref(), stderr());
    let mut journal = None;
    if let Way::Journal { only } = way {
        match self::journal() {
            Ok(layer) => journal = Some(layer),
            Err(error) if only => return Err(unreachable(&error)),
            Err(_) => way = Way::Text,
        }
    }
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new(way.filter()));
    // It is set already only where a test runs several commands in one process.
    let _set_already = match (way, journal) {
        (_, Some(journal)) => tracing_subscriber::registry().with(filter).with(journal).try_init(),
        (Way::Json, None) => json(filter, io::stderr).try_init(),
        (_, None) => tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
            // It would say so on the same standard error, and end the process where
            // that can't be written: on a full disk, when a member is needed most.
            .log_internal_errors(false)
            .finish()
            .try_init(),
    };
    Ok(())
}

/// An object a line. Fields stand beside the message.
fn json<W>(filter: EnvFilter, writer: W) -> impl Subscriber + Send + Sync + 'static
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_env_filter(filter)
        .with_writer(writer)
        // As for text: see above.
        .log_internal_errors(false)
        .finish()
}

/// The journal, asked whether it is there.
fn journal() -> io::Result<Layer> {
    Ok(tracing_journald::layer()?
        .with_syslog_identifier("althing".to_owned())
        // Of its own: what a library calls `priority` or `unit` is not to pass for the journal's.
        .with_field_prefix(Some("ALTHING".to_owned()))
        .with_priority_mappings(PriorityMappings {
            error: Priority::Error,
            warn: Priority::Warning,
            info: Priority::Informational,
            debug: Priority::Debug,
            trace: Priority::Debug,
        }))
}

fn unreachable(error: &io::Error) -> Refusal {
    Refusal::new(
        Reason::Failed,
        "The member was not started.",
        format!(
            "Its log is to go to systemd's journal (--log journal), and that can't be reached at \
             /run/systemd/journal/socket: {error}."
        ),
        "Start it where systemd-journald runs, or choose --log text, json or auto.",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::{
        base::WallTime,
        member::event::{Event, EventKind, Severity},
    };

    #[test]
    fn the_journal_is_taken_where_standard_error_leads_to_it() {
        let auto = |stream, stderr| Way::choose(LogWord::Auto, stream, stderr);
        let journal = Way::Journal { only: false };
        assert_eq!(auto(Some("9:12345"), Some((9, 12_345))), journal);
        // Passed on to one whose standard error is another file, closed, or said wrongly.
        assert_eq!(auto(Some("9:12345"), Some((9, 12_346))), Way::Text);
        assert_eq!(auto(Some("9:12345"), Some((8, 12_345))), Way::Text);
        assert_eq!(auto(Some("9:12345"), None), Way::Text);
        assert_eq!(auto(None, Some((9, 12_345))), Way::Text);
        for wrong in ["", "9", "9:", ":12345", "9:12345:1", "9:0x3039", "-9:12345"] {
            assert_eq!(auto(Some(wrong), Some((9, 12_345))), Way::Text, "{wrong}");
        }
    }

    #[test]
    fn what_was_asked_for_is_taken_wherever_standard_error_leads() {
        for (word, way) in [
            (LogWord::Text, Way::Text),
            (LogWord::Json, Way::Json),
            (LogWord::Journal, Way::Journal { only: true }),
        ] {
            assert_eq!(Way::choose(word, Some("9:12345"), Some((9, 12_345))), way);
            assert_eq!(Way::choose(word, None, None), way);
        }
    }

    #[test]
    fn standard_error_is_some_file() {
        assert!(stderr().is_none_or(|(_, inode)| inode > 0));
    }

    /// What was written, kept.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn event(severity: Severity, app: Option<&str>) -> Event {
        Event {
            number: 1,
            at: WallTime(0),
            severity,
            kind: EventKind::Version,
            member: None,
            app: app.map(|app| crate::base::AppName::parse(app).unwrap()),
            text: "version 3 is \"served\"\nhere".to_owned(),
            user: None,
            cause: None,
            episode: None,
            evidence: None,
            asked: None,
        }
    }

    /// The lines that `write` leaves, under the filter of `way`.
    fn lines(way: Way, write: impl FnOnce()) -> Vec<serde_json::Value> {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = json(EnvFilter::new(way.filter()), move || writer.clone());
        tracing::subscriber::with_default(subscriber, write);
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn an_event_is_one_object_with_its_fields() {
        let lines = lines(Way::Json, || {
            logged::log(&event(Severity::Info, Some("shop")));
            logged::log(&event(Severity::Critical, None));
            tracing::info!("nobody asked for this");
            tracing::warn!("but for this");
        });
        let [info, critical, warning] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!(info["level"], "INFO");
        assert_eq!(info["target"], logged::TARGET);
        assert_eq!(info["message"], "version 3 is \"served\"\nhere");
        assert_eq!((&info["kind"], &info["app"]), (&"version".into(), &"shop".into()));
        assert!(info.get("member").is_none() && info["timestamp"].is_string(), "{info}");
        assert_eq!((&critical["level"], critical.get("app")), (&"ERROR".into(), None));
        assert_eq!(
            (&warning["level"], &warning["message"]),
            (&"WARN".into(), &"but for this".into())
        );
    }

    #[test]
    fn people_are_spared_what_is_as_it_should_be() {
        let lines = lines(Way::Text, || {
            logged::log(&event(Severity::Info, None));
            logged::log(&event(Severity::Warning, None));
        });
        let [warning] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!(warning["level"], "WARN");
    }
}
