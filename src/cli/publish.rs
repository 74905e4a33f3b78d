//! Publications, and how far they have come while one waits for them.

use std::{
    future::Future,
    io::{IsTerminal, Write},
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use super::{
    args,
    client::Client,
    edits, operate,
    output::{Output, clean},
    units::bytes,
};
use crate::{
    base::{AppName, Refusal},
    member::{
        command::{Command, Outcome},
        view::View,
    },
    node::{Edits, Publish},
};

/// How often a person is told how far it is.
const TELL_EVERY: Duration = Duration::from_millis(250);

pub(super) async fn run(
    client: &Client,
    output: &Output,
    options: args::Publish,
) -> Result<ExitCode, Refusal> {
    let args::Publish { source, update, app, message, host: hosts, base } = options;
    let outcome = match (update, app) {
        (Some(list), Some(app)) => {
            let changes = edits::read(&list, &app)?;
            let edits = Edits { app, changes, message, base };
            watched(client, output, client.publish_edits(&edits)).await?
        }
        (_, app) => {
            // Without a list there is a directory: the arguments were checked.
            let source = super::absolute(&source.unwrap_or_default())?;
            let publish = Publish { app, source, message, base, hosts };
            watched(client, output, client.publish(&publish)).await?
        }
    };
    operate::done(output, &outcome);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn rollback(
    client: &Client,
    output: &Output,
    app: AppName,
    version: Option<u64>,
) -> Result<ExitCode, Refusal> {
    let command = Command::Rollback { app, version };
    let outcome = watched(client, output, client.command(&command)).await?;
    operate::done(output, &outcome);
    Ok(ExitCode::SUCCESS)
}

/// Waits for a publication and tells how far it is, on standard error.
async fn watched(
    client: &Client,
    output: &Output,
    publication: impl Future<Output = Result<Outcome, Refusal>>,
) -> Result<Outcome, Refusal> {
    let mut publication = pin!(publication);
    if output.json {
        return publication.await;
    }
    let mut line = Line { over: output.is_watched(), last: String::new() };
    let mut ticks = tokio::time::interval(TELL_EVERY);
    let result = loop {
        tokio::select! {
            result = &mut publication => break result,
            _ = ticks.tick() => {
                // That the view can't be had now is no reason to give up.
                let view = client.view().await;
                line.show(view.ok().as_ref().and_then(progress).unwrap_or_default());
            }
        }
    };
    line.end();
    result
}

/// How far the publication under way has come.
fn progress(view: &View) -> Option<String> {
    let publication = view.window.as_ref()?.publication.as_ref()?;
    let live = view.members.iter().filter(|m| m.state == "alive").count();
    if publication.phase != "staging" {
        return Some(format!(
            "{} version {} is committed; members are switching to it",
            publication.app, publication.version
        ));
    }
    let wanted = publication.bytes.saturating_mul(live as u64);
    let arrived: u64 = view
        .members
        .iter()
        .filter(|m| m.state == "alive")
        .map(|m| match publication.progress.get(&m.name) {
            _ if publication.whole.contains(&m.name) => publication.bytes,
            Some(bytes) => (*bytes).min(publication.bytes),
            None => 0,
        })
        .fold(0, u64::saturating_add);
    let percent = (arrived as f64 / wanted.max(1) as f64 * 100.0).floor();
    Some(format!(
        "{} version {}: {percent}% of {} on {live} live members; whole on {}, needed on {}",
        publication.app,
        publication.version,
        bytes(publication.bytes),
        publication.whole.len(),
        view.majority
    ))
}

/// One line that is written over on a terminal, and anew elsewhere.
struct Line {
    over: bool,
    last: String,
}

impl Line {
    fn show(&mut self, text: String) {
        if text.is_empty() || text == self.last {
            return;
        }
        let mut err = std::io::stderr().lock();
        let shown = clean(&text);
        // Nobody is hurt if progress can't be shown.
        let _unseen = match self.over && err.is_terminal() {
            true => write!(err, "\r\x1b[K{shown}").and_then(|()| err.flush()),
            false => writeln!(err, "{shown}"),
        };
        self.last = text;
    }

    fn end(&self) {
        if self.over && !self.last.is_empty() {
            let _unseen = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(publication: serde_json::Value) -> View {
        let member = |name: &str, state: &str| {
            serde_json::json!({
                "name": name, "id": "", "address": "", "state": state, "state_for_ms": 0,
                "me": false, "voter": true, "standby": false, "coordinator": false,
                "sequence": null, "service": "", "reached": true, "tags": {},
            })
        };
        serde_json::from_value(serde_json::json!({
            "althing": "", "me": "a", "cluster": "", "sequence": 1, "voters": 3, "majority": 2,
            "voters_live": 2, "health": "ok", "reasons": [], "applications": [], "outcomes": [],
            "members": [member("a", "alive"), member("b", "alive"), member("c", "down")],
            "policy": { "failover": "auto", "vote": "majority" },
            "window": {
                "id": 1, "coordinator": "a", "coordinator_live": true, "takeovers": 0,
                "opened_by": "a", "opened_at": "", "scope": [], "failover": "auto",
                "held": false, "state": "", "publication": publication,
            },
        }))
        .unwrap()
    }

    #[test]
    fn progress_counts_the_live_members() {
        let text = progress(&view(serde_json::json!({
            "app": "web", "version": 2, "phase": "staging", "bytes": 1000, "whole": ["a"],
            "progress": { "a": 0, "b": 500, "c": 900 },
        })));
        let text = text.unwrap();
        assert!(text.starts_with("web version 2: 75% of 1000 B on 2 live members"), "{text}");
        assert_eq!(progress(&view(serde_json::Value::Null)), None);
    }
}
