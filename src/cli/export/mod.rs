//! `althing export`: the configuration of another balancer, for those who have one in front of
//! their members and keep it. It only looks: nothing in the cluster knows of it.
//!
//! `plan` says what is exported, `haproxy` and `nginx` in which words, `deliver` puts it into
//! a file and runs what the operator wants to be run; here is when.

mod deliver;
mod haproxy;
mod nginx;
pub(super) mod options;
mod plan;

use std::{
    collections::BTreeSet,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use serde::Serialize;

use self::{
    deliver::{Delivered, Target},
    options::{Export, Options},
    plan::{Application, Plan},
};
use super::{
    client::Client,
    output::{Output, is_unread, note},
    units::count,
};
use crate::base::{Reason, Refusal};

/// How often a follower looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What goes on changing for so long is written as it is.
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// How soon a follower tries again what failed, as long as nothing changed.
const RETRY: Duration = Duration::from_secs(10);

/// Which format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Format {
    Haproxy,
    Nginx,
    #[serde(rename = "nginx")]
    NginxFragment,
}

impl Format {
    fn render(self, plan: &Plan) -> String {
        match self {
            Self::Haproxy => haproxy::render(plan),
            Self::Nginx => nginx::render(plan, false),
            Self::NginxFragment => nginx::render(plan, true),
        }
    }
}

/// What is told with `--json`.
#[derive(Serialize)]
struct Told<'a> {
    format: Format,
    exported: &'a Plan,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a Path>,
    /// Whether the file is another one than before.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<bool>,
    /// Whether the command to reload was run, with success.
    #[serde(skip_serializing_if = "Option::is_none")]
    reloaded: Option<bool>,
}

pub(super) async fn run(
    client: &Client,
    output: &Output,
    export: Export,
) -> Result<ExitCode, Refusal> {
    let (format, options) = match export {
        Export::Haproxy { options } => (Format::Haproxy, options),
        Export::Nginx { options, fragment: false } => (Format::Nginx, options),
        Export::Nginx { options, fragment: true } => (Format::NginxFragment, options),
    };
    if options.follow && options.out.is_none() && !output.json {
        return Err(Refusal::new(
            Reason::Invalid,
            "Nothing was exported.",
            "Nobody reads one configuration after the other from standard output.",
            "Say with --out into which file, or ask for --json: a line for each change.",
        ));
    }
    let target = Target::of(&options)?;
    let mut exporter = Exporter { client, output, format, target, told: BTreeSet::new() };
    let plan = exporter.look(&options).await?;
    match options.follow {
        false => exporter.once(&plan).await?,
        true => exporter.follow(&options, plan).await?,
    }
    Ok(ExitCode::SUCCESS)
}

struct Exporter<'a> {
    client: &'a Client,
    output: &'a Output,
    format: Format,
    target: Option<Target>,
    /// What of it was said to be left out: it is said once.
    told: BTreeSet<String>,
}

impl Exporter<'_> {
    async fn look(&mut self, options: &Options) -> Result<Plan, Refusal> {
        let port = match options.http_port {
            Some(port) => port,
            None => self.client.listening().await?.sites.ok_or_else(no_port)?.port(),
        };
        let plan = Plan::of(&self.client.view().await?, options.listen, port);
        for sentence in &plan.left_out {
            if self.told.insert(sentence.clone()) {
                note(&format!("althing: left out: {sentence}"));
            }
        }
        Ok(plan)
    }

    async fn once(&self, plan: &Plan) -> Result<(), Refusal> {
        let text = self.format.render(plan);
        let Some(target) = &self.target else {
            match self.output.json {
                true => self.output.document(&self.told_of(plan, None)),
                false => self.output.text(&text),
            }
            return Ok(());
        };
        let delivered = target.deliver(&text).await?;
        self.tell(plan, &delivered);
        match delivered.reload {
            Some(Err(refusal)) => Err(refusal),
            _ => Ok(()),
        }
    }

    /// Until whoever reads the output has gone, or this process is ended.
    async fn follow(&mut self, options: &Options, first: Plan) -> Result<(), Refusal> {
        let mut last = None;
        let mut settling = Settling::default();
        let mut attempts = Attempts::default();
        let mut plan = Ok(first);
        loop {
            match plan {
                Ok(plan) => {
                    attempts.answered();
                    let text = self.format.render(&plan);
                    let is_settled = last.is_none() || settling.is_settled(&text, Instant::now());
                    if is_settled && self.target.is_some() {
                        self.attempt(&mut attempts, &plan, &text).await;
                    }
                    let is_news = last.as_ref() != Some(&text);
                    if is_settled && is_news && self.target.is_none() {
                        self.output.json_line(&self.told_of(&plan, None));
                    }
                    if is_settled {
                        last = Some(text);
                    }
                }
                // The balancer goes on with what it has, and checks members itself.
                Err(refusal) => attempts.unanswered(&refusal),
            }
            if is_unread() {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
            plan = self.look(options).await;
        }
    }

    async fn attempt(&self, attempts: &mut Attempts, plan: &Plan, text: &str) {
        let Some(target) = self.target.as_ref().filter(|_| attempts.may(text)) else { return };
        let refusal = match target.deliver(text).await {
            Ok(delivered) => {
                if delivered.changed || matches!(delivered.reload, Some(Ok(()))) {
                    self.tell(plan, &delivered);
                }
                delivered.reload.and_then(Result::err)
            }
            Err(refusal) => Some(refusal),
        };
        attempts.made(text, refusal, self.output);
    }

    fn tell(&self, plan: &Plan, delivered: &Delivered) {
        if self.output.json {
            return self.output.json_line(&self.told_of(plan, Some(delivered)));
        }
        let what = if delivered.changed { "written" } else { "unchanged" };
        let reloaded = match delivered.reload {
            Some(Ok(())) => ", reloaded",
            _ => "",
        };
        let servers = || plan.applications.iter().flat_map(|a| &a.members);
        let names: BTreeSet<_> = servers().map(|m| &m.name).collect();
        let active: BTreeSet<_> = servers().filter(|m| m.active).map(|m| &m.name).collect();
        self.output.line(&format!(
            "{}: {what}{reloaded}: {}, {} of {} in service",
            delivered.file.display(),
            count(plan.applications.len() as u64, "application"),
            active.len(),
            count(names.len() as u64, "member"),
        ));
    }

    fn told_of<'p>(&self, plan: &'p Plan, delivered: Option<&'p Delivered>) -> Told<'p> {
        Told {
            format: self.format,
            exported: plan,
            file: delivered.map(|d| d.file.as_path()),
            changed: delivered.map(|d| d.changed),
            reloaded: delivered.and_then(|d| d.reload.as_ref()).map(Result::is_ok),
        }
    }
}

/// While a version is published members change their state several times within a second: a
/// change is taken for one once two looks in a row show it.
#[derive(Default)]
struct Settling {
    seen: Option<String>,
    since: Option<Instant>,
}

impl Settling {
    fn is_settled(&mut self, text: &str, now: Instant) -> bool {
        let is_same = self.seen.as_deref() == Some(text);
        if !is_same {
            self.seen = Some(text.to_owned());
        }
        let since = *self.since.get_or_insert(now);
        let is_settled = is_same || now.duration_since(since) >= SETTLE_MAX;
        if is_settled {
            self.since = None;
        }
        is_settled
    }
}

/// What a follower tried last, so that what fails is neither tried all the time nor told
/// again and again.
#[derive(Default)]
struct Attempts {
    failed: Option<(String, Refusal, Instant)>,
    is_unanswered: bool,
}

impl Attempts {
    fn may(&self, text: &str) -> bool {
        let last = self.failed.as_ref();
        !last.is_some_and(|(tried, _, at)| tried == text && at.elapsed() < RETRY)
    }

    fn made(&mut self, text: &str, refusal: Option<Refusal>, output: &Output) {
        let Some(refusal) = refusal else {
            self.failed = None;
            return;
        };
        let is_known = self.failed.as_ref().is_some_and(|(_, known, _)| *known == refusal);
        if !is_known {
            output.refusal(&refusal);
        }
        self.failed = Some((text.to_owned(), refusal, Instant::now()));
    }

    fn unanswered(&mut self, refusal: &Refusal) {
        if !self.is_unanswered {
            note(&format!("althing: {refusal}\nWhat was exported stays as it is meanwhile."));
        }
        self.is_unanswered = true;
    }

    fn answered(&mut self) {
        if self.is_unanswered {
            note("althing: The member answers again.");
        }
        self.is_unanswered = false;
    }
}

/// How every file begins; one that begins otherwise is somebody else's.
const MARK: &str = "# Written by `althing export";

fn header(format: &str, plan: &Plan) -> String {
    let mut text = format!("{MARK} {format}`, and written again when something changes.\n");
    if !plan.left_out.is_empty() {
        // Their names are not repeated here: they were left out because of what is in them.
        text.push_str(&format!(
            "# {} left out: `althing export {format} --json` says what.\n",
            match plan.left_out.len() {
                1 => "1 thing was".to_owned(),
                more => format!("{more} things were"),
            }
        ));
    }
    text
}

/// What is to be said beside the members of an application.
fn remark(app: &Application) -> Option<&'static str> {
    match app.members.as_slice() {
        [] => Some("No member is to hold it."),
        _ if app.last_resort => Some("No member is in service: all are tried."),
        _ => None,
    }
}

fn no_port() -> Refusal {
    Refusal::new(
        Reason::Invalid,
        "Nothing was exported.",
        "The member that is asked serves no sites itself, so it can't be told where the others do.",
        "Say on which port with --http-port.",
    )
}

#[cfg(test)]
mod tests;
