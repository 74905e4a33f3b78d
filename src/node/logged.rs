//! Events as they stand in the process's own log.

use crate::member::event::{Event, Severity};

/// The target that they have there, so that a filter can ask for all of them and for nothing else.
pub(crate) const TARGET: &str = "althing::events";

/// Writes one there. What it concerns are fields, as far as it concerns something.
pub(crate) fn log(event: &Event) {
    // The level is a part of what the macro makes, and can't be given to it.
    macro_rules! at {
        ($level:expr) => {
            tracing::event!(
                target: TARGET,
                $level,
                kind = %event.kind.word(),
                member = event.member.as_ref().map(tracing::field::display),
                app = event.app.as_ref().map(tracing::field::display),
                episode = event.episode.as_ref().map(tracing::field::display),
                "{}",
                event.text
            )
        };
    }
    match event.severity {
        Severity::Info => at!(tracing::Level::INFO),
        Severity::Warning => at!(tracing::Level::WARN),
        Severity::Critical => at!(tracing::Level::ERROR),
    }
}
