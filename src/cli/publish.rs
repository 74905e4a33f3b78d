//! Publications, and how far they have come while one waits for them.

use std::{
    future::Future,
    io::{IsTerminal, Write},
    pin::pin,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    args::{self, ReadyWithin},
    bring::{self, Ready, Wish},
    client::{Client, Kept},
    edits::{self, Listed},
    fetch::{self, Progress, Terms},
    operate,
    output::{Output, clean, note},
    units::{bytes, count, span},
};
use crate::{
    base::{AppName, Reason, Refusal},
    member::{
        command::{Command, Outcome},
        view::{MemberView, View},
    },
    node::{Edits, Publish},
};

mod ready;

/// After so long a person is told why there is nothing to tell.
const QUIET: Duration = Duration::from_secs(1);
/// How often a person is told how far it is.
const TELL_EVERY: Duration = Duration::from_millis(250);

pub(super) async fn run(
    client: &Client,
    output: &Output,
    options: args::Publish,
) -> Result<ExitCode, Refusal> {
    let args::Publish { source, there, update, app, message, host: hosts, base, ready } = options;
    let outcome = match (update, app) {
        (Some(list), Some(app)) => {
            let list = edits::read(&list, &app)?;
            let changes = list.iter().map(|listed| listed.change.clone()).collect();
            let edits = Edits { app, changes, message, base };
            if list.iter().any(|listed| listed.remote.is_some()) {
                or_interrupted(fetched(client, output, list, edits)).await?
            } else {
                staged(client, output, &edits).await?
            }
        }
        (_, app) => {
            // Without a list there is a directory: the arguments were checked.
            let source = super::absolute(&source.unwrap_or_default())?;
            if let Some(via) = client.elsewhere().filter(|_| !there) {
                let mut kept = Kept::new(via);
                let wish = Wish { app, source, message, base, hosts };
                return brought(client, output, &mut kept, wish, ready).await;
            }
            let publish = Publish { app, message, base, hosts, ..Publish::new(source) };
            return directory(client, output, &publish, ready).await;
        }
    };
    ready::wait(client, output, &outcome, ready).await?;
    operate::done(output, &outcome);
    Ok(ExitCode::SUCCESS)
}

/// Publishes a directory.
pub(super) async fn directory(
    client: &Client,
    output: &Output,
    publish: &Publish,
    ready: ReadyWithin,
) -> Result<ExitCode, Refusal> {
    let first = format!("{} is being read", publish.source.display());
    let outcome = watched(client, output, &first, client.publish(publish)).await?;
    ready::wait(client, output, &outcome, ready).await?;
    operate::done(output, &outcome);
    Ok(ExitCode::SUCCESS)
}

/// Brings a directory of this machine to a member of another one, which publishes it.
async fn brought(
    client: &Client,
    output: &Output,
    kept: &mut Kept,
    wish: Wish,
    ready: ReadyWithin,
) -> Result<ExitCode, Refusal> {
    let Ready { upload, sent } = bring::bring(output, kept, wish).await?;
    let first = "what is there is being put together";
    let outcome = watched(client, output, first, kept.publish(upload)).await;
    let outcome = outcome.inspect_err(|_| {
        // It is there now, whatever became of it.
        if !output.json {
            note(&format!("{}.", sent.told()));
        }
    })?;
    ready::wait(client, output, &outcome, ready).await?;
    if output.json {
        let mut document = operate::document(&outcome);
        if let Some(document) = document.as_object_mut() {
            document.insert("sent".to_owned(), serde_json::json!(sent));
        }
        output.document(&document);
    } else {
        operate::done(output, &outcome);
        output.line(&format!("{}.", sent.told()));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn rollback(
    client: &Client,
    output: &Output,
    app: AppName,
    version: Option<u64>,
    ready: ReadyWithin,
) -> Result<ExitCode, Refusal> {
    let command = Command::Rollback { app, version };
    let outcome =
        watched(client, output, "a window is asked for", client.command(&command)).await?;
    ready::wait(client, output, &outcome, ready).await?;
    operate::done(output, &outcome);
    Ok(ExitCode::SUCCESS)
}

async fn staged(client: &Client, output: &Output, edits: &Edits) -> Result<Outcome, Refusal> {
    watched(client, output, "the list is being staged", client.publish_edits(edits)).await
}

/// A list of which some content lies elsewhere: that is fetched first.
async fn fetched(
    client: &Client,
    output: &Output,
    list: Vec<Listed>,
    edits: Edits,
) -> Result<Outcome, Refusal> {
    let progress: Arc<Progress> = Arc::default();
    let fetching = fetch::complete(client, list, edits, Terms::usual(), &progress);
    let now = || {
        let (came, wanted) = progress.bytes();
        (format!("fetching {}", progress.files()), came, wanted)
    };
    let (edits, _until_it_is_published) = told(output, now, fetching).await?;
    staged(client, output, &edits).await
}

/// How far something is that moves bytes.
pub(super) struct Moved {
    /// What is done, for people.
    pub what: String,
    pub came: Arc<AtomicU64>,
    pub wanted: u64,
}

impl Moved {
    /// As [`told`] wants it.
    pub fn now(&self) -> (String, u64, u64) {
        (self.what.clone(), self.came.load(Ordering::Relaxed), self.wanted)
    }
}

/// Waits for what moves bytes and tells how far it is, on standard error: what is done, and how
/// many of how many bytes.
pub(super) async fn told<T>(
    output: &Output,
    now: impl Fn() -> (String, u64, u64),
    moving: impl Future<Output = T>,
) -> T {
    let mut moving = pin!(moving);
    if output.json {
        return moving.await;
    }
    let mut line = Line::new(output.is_watched());
    let mut pace = Pace::default();
    let mut ticks = tokio::time::interval(TELL_EVERY);
    let result = loop {
        tokio::select! {
            result = &mut moving => break result,
            _ = ticks.tick() => {
                let (what, came, wanted) = now();
                if wanted > 0 {
                    let share = came as f64 / wanted as f64;
                    let left = pace.left(Instant::now(), came, wanted);
                    let left = left.map_or(String::new(), |left| format!(", {} left", span(left)));
                    let text = format!(
                        "{what}: {} {}% of {}{left}",
                        bar(share),
                        (share * 100.0).floor(),
                        bytes(wanted)
                    );
                    line.show("", text);
                }
            }
        }
    };
    line.end();
    result
}

/// Waits for what takes its time, and says so after a moment.
pub(super) async fn quietly<T>(output: &Output, what: &str, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    if output.json {
        return work.await;
    }
    let mut line = Line::new(output.is_watched());
    let result = tokio::select! {
        result = &mut work => return result,
        () = tokio::time::sleep(QUIET) => {
            line.show("", what.to_owned());
            work.await
        }
    };
    line.end();
    result
}

/// Ends when somebody presses Ctrl-C, so that what was fetched is cleared away.
async fn or_interrupted<T>(work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    tokio::select! {
        result = work => result,
        // If signals can't be had, they end the process as ever.
        Ok(()) = tokio::signal::ctrl_c() => Err(Refusal::new(
            Reason::Failed,
            "The command was interrupted.",
            "While it fetched, nothing was published; a window that was open goes on without it.",
            "See `althing status` whether one is.",
        )),
    }
}

/// Waits for a publication and tells how far it is, on standard error.
async fn watched(
    client: &Client,
    output: &Output,
    first: &str,
    publication: impl Future<Output = Result<Outcome, Refusal>>,
) -> Result<Outcome, Refusal> {
    let mut publication = pin!(publication);
    if output.json {
        return publication.await;
    }
    let mut line = Line::new(output.is_watched());
    let (mut pace, mut seen, began) = (Pace::default(), false, Instant::now());
    let mut ticks = tokio::time::interval(TELL_EVERY);
    let result = loop {
        tokio::select! {
            result = &mut publication => break result,
            _ = ticks.tick() => {
                // That the view can't be had now is no reason to give up.
                let view = client.view().await;
                let text = view.ok().and_then(|view| progress(&view, &mut pace));
                seen |= text.is_some();
                // Before its window there is nothing to be seen of it anywhere.
                let quiet = !seen && began.elapsed() > QUIET;
                match text {
                    Some((phase, text)) => line.show(&phase, text),
                    None if quiet => line.show("", first.to_owned()),
                    None => {}
                }
            }
        }
    };
    line.end();
    result
}

/// The phase of the publication under way, and how far it has come.
fn progress(view: &View, pace: &mut Pace) -> Option<(String, String)> {
    let publication = view.window.as_ref()?.publication.as_ref()?;
    let phase = format!("{} {} {}", publication.app, publication.version, publication.phase);
    if publication.phase != "staging" {
        let text = format!(
            "{} version {} is committed; members are switching to it",
            publication.app, publication.version
        );
        return Some((phase, text));
    }
    let live = |m: &&MemberView| m.state == "alive" && publication.placed.contains(&m.name);
    let live: Vec<&MemberView> = view.members.iter().filter(live).collect();
    let wanted = publication.bytes.saturating_mul(live.len() as u64);
    let arrived: u64 = live
        .iter()
        .map(|m| match publication.progress.get(&m.name) {
            _ if publication.whole.contains(&m.name) => publication.bytes,
            Some(bytes) => (*bytes).min(publication.bytes),
            None => 0,
        })
        .fold(0, u64::saturating_add);
    let share = arrived as f64 / wanted.max(1) as f64;
    let left = pace.left(Instant::now(), arrived, wanted);
    let left = left.map_or(String::new(), |left| format!(", {} left", span(left)));
    // One of the release before does not say how many there are.
    let files = match publication.files {
        0 => String::new(),
        files => format!(" in {}", count(files, "file")),
    };
    let text = format!(
        "{} version {}: {} {}% of {}{files} on {} live members{left}; whole on {} of {}, needed \
         on {}",
        publication.app,
        publication.version,
        bar(share),
        (share * 100.0).floor(),
        bytes(publication.bytes),
        live.len(),
        publication.whole.len(),
        publication.placed.len(),
        publication.needed
    );
    Some((phase, text))
}

/// Characters of a bar.
const BAR: usize = 20;

fn bar(share: f64) -> String {
    let full = ((share * BAR as f64).floor() as usize).min(BAR);
    format!("[{}{}]", "#".repeat(full), "-".repeat(BAR - full))
}

/// How quickly bytes arrive.
#[derive(Default)]
struct Pace {
    began: Option<(Instant, u64)>,
}

impl Pace {
    /// How long the rest takes at the pace so far, milliseconds. Nothing in the
    /// first second, and while nothing arrives: that would be a guess.
    fn left(&mut self, now: Instant, arrived: u64, wanted: u64) -> Option<u64> {
        let (since, before) = *self.began.get_or_insert((now, arrived));
        let (elapsed, came) = (now.duration_since(since), arrived.saturating_sub(before));
        if elapsed < Duration::from_secs(1) || came == 0 {
            return None;
        }
        let rest = wanted.saturating_sub(arrived) as f64;
        Some((rest / came as f64 * elapsed.as_millis() as f64) as u64)
    }
}

/// One line that is written over on a terminal. Elsewhere, as in the log of a build, there is one for
/// each phase, and in a long one another every [`ANEW_EVERY`].
pub(super) struct Line {
    over: bool,
    phase: String,
    last: String,
    shown: Option<Instant>,
}

/// How often a line is written where it can't be written over.
const ANEW_EVERY: Duration = Duration::from_secs(10);

impl Line {
    /// `is_watched` says that a person sits before a terminal.
    pub fn new(is_watched: bool) -> Self {
        let over = is_watched && std::io::stderr().is_terminal();
        Self { over, phase: String::new(), last: String::new(), shown: None }
    }

    pub fn show(&mut self, phase: &str, text: String) {
        if !self.is_due(Instant::now(), phase, &text) {
            return;
        }
        let mut err = std::io::stderr().lock();
        let shown = clean(&text);
        // Nobody is hurt if progress can't be shown.
        let _unseen = match self.over {
            true => write!(err, "\r\x1b[K{shown}").and_then(|()| err.flush()),
            false => writeln!(err, "{shown}"),
        };
    }

    /// Whether `text` is to be written now; then it counts as written.
    fn is_due(&mut self, now: Instant, phase: &str, text: &str) -> bool {
        let waited = self.shown.is_none_or(|at| now.duration_since(at) >= ANEW_EVERY);
        if text.is_empty() || text == self.last || !(self.over || waited || phase != self.phase) {
            return false;
        }
        (self.phase, self.last) = (phase.to_owned(), text.to_owned());
        self.shown = Some(now);
        true
    }

    pub fn end(&self) {
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
            "members": [
                member("a", "alive"), member("b", "alive"), member("c", "down"),
                member("d", "alive"),
            ],
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
        let staging = view(serde_json::json!({
            "app": "web", "version": 2, "phase": "staging", "bytes": 1000, "whole": ["a"],
            "files": 40,
            "progress": { "a": 0, "b": 500, "c": 900, "d": 0 },
            "placed": ["a", "b", "c"], "needed": 2,
        }));
        let mut pace = Pace::default();
        let (_, text) = progress(&staging, &mut pace).unwrap();
        let expected = "web version 2: [###############-----] 75% of 1000 B in 40 files on 2 live \
                        members; whole on 1 of 3, needed on 2";
        assert_eq!(text, expected);
        assert_eq!(progress(&view(serde_json::Value::Null), &mut pace), None);
    }

    #[test]
    fn where_no_line_can_be_written_over_there_are_few() {
        let began = Instant::now();
        let after = |ms| began + Duration::from_millis(ms);
        let mut line = Line { over: false, ..Line::new(false) };
        let ticks = (0..=25_000).step_by(250);
        let told: Vec<u64> =
            ticks.filter(|ms| line.is_due(after(*ms), "staging", &format!("{ms} ms"))).collect();
        assert_eq!(told, [0, 10_000, 20_000]);
        assert!(line.is_due(after(25_100), "switching", "committed"), "it is another phase");
        assert!(!line.is_due(after(99_000), "switching", "committed"), "it was said");
        let mut line = Line { over: true, ..Line::new(false) };
        assert!(line.is_due(after(0), "a", "1") && line.is_due(after(1), "a", "2"));
        assert!(!line.is_due(after(2), "a", "2") && !line.is_due(after(2), "b", ""));
    }

    #[test]
    fn the_time_left_follows_from_the_pace_so_far() {
        let mut pace = Pace::default();
        let began = Instant::now();
        let after = |ms| began + Duration::from_millis(ms);
        assert_eq!(pace.left(began, 100, 1_100), None);
        assert_eq!(pace.left(after(500), 300, 1_100), None, "too early to say");
        assert_eq!(pace.left(after(2_000), 100, 1_100), None, "nothing has come");
        assert_eq!(pace.left(after(2_000), 600, 1_100), Some(2_000));
        assert_eq!(pace.left(after(4_000), 1_100, 1_100), Some(0));
        assert_eq!((bar(0.0).len(), bar(2.0)), (BAR + 2, format!("[{}]", "#".repeat(BAR))));
    }
}
