//! The commands that look into the content of one member: what is right, what
//! differs, what was replaced.

use std::{path::Path, process::ExitCode, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

use super::{
    client::Client,
    edits, lists,
    operate::unexpected,
    output::{Output, Paint},
    table::{Cell, Table},
    units::{bytes, count},
};
use crate::{
    base::{AppName, MemberName, Refusal},
    member::view::{ApplicationView, View},
    node::{
        Ask, Heard, Told,
        differs::{Differs, Paths},
        inspect::{Compared, Difference, Findings, Item, Op, Question, Wanted},
    },
};

/// How long `sync` waits for the vote to put right what differs.
const PUT_RIGHT_WITHIN: Duration = Duration::from_secs(30);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) async fn verify(
    client: &Client,
    output: &Output,
    app: &AppName,
) -> Result<ExitCode, Refusal> {
    let question = Question::Verify { app: app.clone() };
    let Findings::Verified(found) = client.inspect(&question).await? else {
        return Err(unexpected());
    };
    let fine = found.same && found.store_damaged == 0;
    if output.json {
        output.document(&found);
    } else {
        let read = format!("{} in {}", bytes(found.bytes), count(found.files, "file"));
        let (paint, word, rest) = if found.same {
            (Paint::Good, "same", format!(": {app} is version {}; read {read}", found.version))
        } else {
            let differences = count(found.differences_total as u64, "difference");
            let rest = format!(": {app} is not version {}; {differences}:", found.version);
            (Paint::Bad, "differs", rest)
        };
        output.painted(paint, word, &rest);
        for difference in &found.differences {
            output.line(&format!("  {difference}"));
        }
        let more = found.differences_total.saturating_sub(found.differences.len());
        if more > 0 {
            output.line(&format!("  and {more} more"));
        }
        if !found.same {
            output
                .hint("With no window open the vote puts it right by itself; see `althing votes`.");
        }
        if found.store_damaged > 0 {
            let damaged = count(found.store_damaged as u64, "chunk");
            output.painted(
                Paint::Bad,
                "damaged",
                &format!(": {damaged} of it in this member's store rotted or are lost"),
            );
        }
    }
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is to be compared with what.
pub(super) struct Sides {
    pub from: Option<u64>,
    pub to: Option<u64>,
    pub live: bool,
    pub text: bool,
}

/// Which chunks of an ActionList from elsewhere the store of this member holds. Ends with 1 if it
/// lacks any.
pub(super) async fn pieces(
    client: &Client,
    output: &Output,
    app: AppName,
    list: &Path,
) -> Result<ExitCode, Refusal> {
    let action = edits::brought::read_action(list, &app)?;
    let Findings::Pieces(found) = client.inspect(&Question::Pieces { app, action }).await? else {
        return Err(unexpected());
    };
    let is_whole = found.whole == found.asked;
    if output.json {
        output.document(&found);
    } else {
        let here = format!(
            ": {} of {} in this member's store; {} read",
            found.whole,
            count(found.asked, "chunk"),
            bytes(found.bytes)
        );
        match is_whole {
            true => output.painted(Paint::Good, "here", &here),
            false => output.painted(Paint::Bad, "lacking", &here),
        }
        for (paint, word, chunks) in
            [(Paint::Warn, "lacking", &found.lacking), (Paint::Bad, "damaged", &found.damaged)]
        {
            for Wanted { digest, len } in chunks {
                output.painted(paint, word, &format!(" {digest}  ({})", bytes((*len).into())));
            }
        }
    }
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What would make a version of what stands elsewhere, as a list says it.
pub(super) async fn elsewhere(
    client: &Client,
    output: &Output,
    app: AppName,
    version: Option<u64>,
    list: &Path,
) -> Result<ExitCode, Refusal> {
    let have = edits::brought::read_have(list, &app)?;
    let question = Question::Elsewhere { app, version, have };
    let Findings::Elsewhere(found) = client.inspect(&question).await? else {
        return Err(unexpected());
    };
    if output.json {
        output.document(&found);
        return Ok(ExitCode::SUCCESS);
    }
    let (version, listed) = (found.version, count(found.listed, "item"));
    let what = format!("{} and version {version} of {}", list.display(), found.app);
    if found.same {
        output.painted(Paint::Good, "same", &format!(": {what}; {listed}"));
        return Ok(ExitCode::SUCCESS);
    }
    let differing = count(found.differing, "path");
    output.painted(Paint::Warn, "differs", &format!(": {what}; {differing}, of {listed}"));
    let asked = ["what would have to come from others", "all content is in files of the list"];
    lists::asked_and_changed(output, &found.lists, version, asked);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn diff(
    client: &Client,
    output: &Output,
    app: AppName,
    sides: Sides,
) -> Result<ExitCode, Refusal> {
    let Sides { from, to, live, text } = sides;
    let question = Question::Diff { app, from, to, live, text };
    let Findings::Diff(diff) = client.inspect(&question).await? else {
        return Err(unexpected());
    };
    if output.json {
        output.document(&diff);
        return Ok(ExitCode::SUCCESS);
    }
    if diff.same {
        output.painted(Paint::Good, "same", &format!(": {} and {}", diff.from, diff.to));
        return Ok(ExitCode::SUCCESS);
    }
    output.line(&format!(
        "{}, from {} to {}: {} added, {} changed, {} deleted",
        diff.app, diff.from, diff.to, diff.added, diff.changed, diff.deleted
    ));
    if text {
        for change in &diff.changes {
            match &change.text {
                Some(text) => text.lines().for_each(|line| patch_line(output, line)),
                None => difference_line(output, change),
            }
        }
    } else {
        diff.changes.iter().for_each(|change| difference_line(output, change));
    }
    if diff.more > 0 {
        output.line(&format!("and {} more", diff.more));
    }
    Ok(ExitCode::SUCCESS)
}

/// In which files what stands on `member` differs, and what is being published.
pub(super) async fn differs(
    client: &Client,
    output: &Output,
    app: AppName,
    member: MemberName,
) -> Result<ExitCode, Refusal> {
    #[derive(Serialize)]
    struct OnMember<'a> {
        member: &'a MemberName,
        #[serde(flatten)]
        told: &'a Differs,
    }
    let mut heard = Err(unexpected());
    let take = |Heard { told, .. }| {
        match told {
            Told::Differs(told) => heard = Ok(told.bounded()),
            Told::Refused(refusal) => heard = Err(refusal),
            _ => {}
        }
        true
    };
    client.services(Some(member.clone()), &Ask::Differs { app }, take).await?;
    let told = heard?;
    if output.json {
        output.document(&OnMember { member: &member, told: &told });
        return Ok(ExitCode::SUCCESS);
    }
    let Differs { app, version, live, differs, coming } = &told;
    match (live, differs) {
        (None, _) => output.line(&format!("Nothing of {app} is live on {member}.")),
        (Some(live), None) => output.line(&format!(
            "{member} stands at version {live} of {app}, and does not know the files of version \
             {version} yet."
        )),
        (Some(_), Some(paths)) if paths.total() == 0 => {
            let rest = format!(": version {version} and what stands on {member}");
            output.painted(Paint::Good, "same", &rest);
        }
        (Some(_), Some(paths)) => {
            let what = format!("{app}, from version {version} to what stands on {member}");
            list_paths(output, &what, paths);
        }
    }
    match coming.as_ref().map(|coming| (coming.version, &coming.changes)) {
        None => {}
        Some((coming, None)) => output.line(&format!(
            "Version {coming} is being published; {member} does not know its files yet."
        )),
        Some((coming, Some(paths))) => {
            let from =
                if coming > 1 { format!("version {}", coming - 1) } else { "nothing".into() };
            let what = format!("{app}, from {from} to version {coming}, which is being published");
            list_paths(output, &what, paths);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list_paths(output: &Output, what: &str, paths: &Paths) {
    let Paths { added, changed, deleted, paths, more } = paths;
    output.line(&format!("{what}: {added} added, {changed} changed, {deleted} deleted"));
    for one in paths {
        output.painted(paint_of(one.op), one.op.word(), &format!(" {}", one.path));
    }
    if *more > 0 {
        output.line(&format!("and {more} more"));
    }
}

fn paint_of(op: Op) -> Paint {
    match op {
        Op::Set => Paint::Warn,
        Op::Add => Paint::Good,
        Op::Del => Paint::Bad,
    }
}

fn patch_line(output: &Output, line: &str) {
    let paint = match line.as_bytes().first() {
        _ if line.starts_with("+++") || line.starts_with("---") => Paint::Bold,
        Some(b'+') => Paint::Good,
        Some(b'-') => Paint::Bad,
        Some(b'@') => Paint::Dim,
        _ => Paint::Plain,
    };
    output.painted(paint, line, "");
}

fn difference_line(output: &Output, change: &Difference) {
    let what = match (&change.before, &change.after) {
        (Some(before), Some(after)) => what_changed(before, after),
        (Some(item), None) | (None, Some(item)) => described(item),
        (None, None) => "what no version can hold".to_owned(),
    };
    let rest = format!(" {}  ({what})", change.path);
    output.painted(paint_of(change.op), change.op.word(), &rest);
}

fn described(item: &Item) -> String {
    match item {
        Item::Directory { .. } => "directory".to_owned(),
        Item::File { size, .. } => bytes(*size),
        Item::Symlink { target } => format!("link to {target}"),
    }
}

fn what_changed(before: &Item, after: &Item) -> String {
    match (before, after) {
        (Item::File { mode: m, size: s, digest: d }, Item::File { mode, size, digest }) => {
            let mut words = Vec::new();
            match (d == digest, s == size) {
                (true, _) => {}
                (false, true) => words.push(format!("{}, other content", bytes(*size))),
                (false, false) => words.push(format!("{} to {}", bytes(*s), bytes(*size))),
            }
            if m != mode {
                words.push(format!("permissions {m} to {mode}"));
            }
            words.join(", ")
        }
        (Item::Directory { mode: m }, Item::Directory { mode }) => {
            format!("permissions {m} to {mode}")
        }
        _ => format!("{} to {}", described(before), described(after)),
    }
}

/// Lists what is kept, or copies one occasion out.
pub(super) async fn restore(
    client: &Client,
    output: &Output,
    app: AppName,
    number: Option<u64>,
    to: Option<&Path>,
) -> Result<ExitCode, Refusal> {
    let (Some(number), Some(to)) = (number, to) else { return kept(client, output, app).await };
    let question = Question::Restore { app, number, into: super::absolute(to)? };
    let Findings::Restored(done) = client.inspect(&question).await? else {
        return Err(unexpected());
    };
    if output.json {
        output.document(&done);
        return Ok(ExitCode::SUCCESS);
    }
    let (files, size) = (count(done.files, "file"), bytes(done.bytes));
    output.line(&format!("{files}, {size}: copied to {}", done.into.display()));
    for path in &done.left_out {
        output.line(&format!("left out, since it is no file, directory or link: {path}"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn kept(client: &Client, output: &Output, app: AppName) -> Result<ExitCode, Refusal> {
    let question = Question::Kept { app };
    let Findings::Kept(list) = client.inspect(&question).await? else {
        return Err(unexpected());
    };
    if output.json {
        output.document(&list);
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&[">NUMBER", "REPLACED", ">FILES", ">SIZE", "SUCH AS"]);
    for kept in list.iter().rev() {
        let rest = kept.files.saturating_sub(kept.sample.len() as u64);
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        table.row([
            Cell::from(kept.number.to_string()),
            Cell::from(&kept.at),
            Cell::from(kept.files.to_string()),
            Cell::from(bytes(kept.bytes)),
            Cell::from(format!("{}{more}", kept.sample.join(", "))),
        ]);
    }
    output.table(&table, "Nothing was replaced on this member, or it is not kept any more.");
    Ok(ExitCode::SUCCESS)
}

/// How `sync` looks and what it shows.
pub(super) struct Looks {
    pub full: bool,
    pub lists: bool,
    pub xml: bool,
}

/// What came of one application.
#[derive(serde::Serialize)]
pub(super) struct Synced {
    #[serde(flatten)]
    pub compared: Compared,
    /// How the vote stands, as in `althing votes`.
    pub vote: String,
    /// Ballots in hand, of so many voters.
    pub ballots: usize,
    pub electorate: usize,
    /// Whether what stands here is the version by now.
    pub in_step: bool,
    /// How long that took, milliseconds.
    pub waited_ms: u64,
}

/// Compares what stands here with what is in force, and waits until the vote
/// has put right what differs. Ends with 1 if it has not.
pub(super) async fn sync(
    client: &Client,
    output: &Output,
    app: Option<AppName>,
    looks: Looks,
) -> Result<ExitCode, Refusal> {
    let apps = match app {
        Some(app) => vec![app],
        None => {
            let view = client.view().await?;
            view.applications.iter().filter_map(|a| AppName::parse(&a.name).ok()).collect()
        }
    };
    let mut all = Vec::new();
    for app in apps {
        let synced = sync_one(client, app, &looks).await?;
        if !output.json && !looks.xml {
            tell(output, &synced);
        }
        all.push(synced);
    }
    if output.json {
        output.document(&all);
    } else if looks.xml {
        lists::xml(&all).lines().for_each(|line| output.line(line));
    } else if all.is_empty() {
        output.line("Nothing is published yet, so there is nothing to compare.");
    }
    let fine = all.iter().all(|synced| synced.in_step);
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn sync_one(client: &Client, app: AppName, looks: &Looks) -> Result<Synced, Refusal> {
    let ask = |full, lists| {
        let question = Question::Compare { app: app.clone(), full, lists };
        async move {
            match client.inspect(&question).await? {
                Findings::Compared(compared) => Ok(compared),
                _ => Err(unexpected()),
            }
        }
    };
    let compared = ask(looks.full, looks.lists).await?;
    let began = Instant::now();
    let mut in_step = compared.same && compared.lacking == 0;
    let mut vote = vote_of(&client.view().await?, &app);
    // While a window covers it, whoever edits is right, and nothing is repaired.
    while !in_step && vote.0 != "paused" && began.elapsed() < PUT_RIGHT_WITHIN {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = ask(false, false).await?;
        in_step = now.same && now.lacking == 0;
        vote = vote_of(&client.view().await?, &app);
    }
    let (vote, ballots, electorate) = vote;
    let waited_ms = began.elapsed().as_millis() as u64;
    Ok(Synced { compared, vote, ballots, electorate, in_step, waited_ms })
}

fn vote_of(view: &View, app: &AppName) -> (String, usize, usize) {
    let found = view.applications.iter().find(|a| a.name == app.as_str());
    found.map_or_else(
        || ("unknown".to_owned(), 0, 0),
        |ApplicationView { vote, ballots, electorate, .. }| (vote.clone(), *ballots, *electorate),
    )
}

fn tell(output: &Output, synced: &Synced) {
    let Synced { compared: found, vote, ballots, electorate, in_step, waited_ms } = synced;
    let (paint, word) = match (in_step, found.same) {
        (true, true) => (Paint::Good, "in step"),
        (true, false) => (Paint::Good, "put right"),
        (false, _) => (Paint::Bad, "differs"),
    };
    let read = format!(
        "{} compared in {} ms, {} read",
        count(found.files, "file"),
        found.took_ms,
        bytes(found.bytes_read)
    );
    output.painted(paint, word, &format!(": {}, version {}; {read}", found.app, found.version));
    if !found.same {
        output.line(&format!("  what differed: {}", count(found.differing, "path")));
    }
    if found.lacking > 0 {
        output.line(&format!("  missing in the store: {}", count(found.lacking, "chunk")));
    }
    match (in_step, found.same && found.lacking == 0) {
        (true, true) => {}
        (true, false) => output.line(&format!("  put right after {waited_ms} ms")),
        (false, _) if vote == "paused" => output.line(
            "  A window is open, so whoever edits is right: nothing is repaired until it closes.",
        ),
        (false, _) => output.hint("  Not put right; see `althing votes` for why."),
    }
    output.line(&format!("  the vote: {vote}, {ballots} of {electorate} ballots"));
    lists::tables(output, found);
}
