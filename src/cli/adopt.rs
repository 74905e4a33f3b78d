//! `althing adopt`: servers that hold the content already.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::ExitCode,
};

use super::{
    args::ReadyWithin,
    client::Client,
    output::{Output, Paint},
    publish,
    table::{Cell, Table},
    units::{bytes, count},
};
use crate::{
    base::{AppName, Reason, Refusal},
    node::{Ask, Heard, Publish, Signed, Told, ignored},
};

/// What to adopt, and how.
pub(super) struct Wanted {
    pub app: AppName,
    pub path: PathBuf,
    pub hosts: Vec<String>,
    /// The copy of the member that is asked is right, whoever holds what.
    pub mine: bool,
    /// Only show who holds what.
    pub dry_run: bool,
}

/// One member's copy.
#[derive(serde::Serialize)]
struct Copy {
    member: String,
    voter: bool,
    #[serde(flatten)]
    signed: Option<Signed>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

pub(super) async fn run(
    client: &Client,
    output: &Output,
    Wanted { app, path, hosts, mine, dry_run }: Wanted,
) -> Result<ExitCode, Refusal> {
    let what = format!("{app} was not adopted; nothing was changed anywhere.");
    let refuse = |reason, why: String, todo: String| Refusal::new(reason, &what, why, todo);
    let path = super::absolute(&path)?;
    let view = client.view().await?;
    if let Some(known) = view.applications.iter().find(|a| a.name == app.as_str()) {
        let why = format!("It is there already, as version {}.", known.version);
        let todo = format!("Publish the next version: althing publish {}", path.display());
        return Err(refuse(Reason::Conflict, why, todo));
    }
    let ask = Ask::Sign { path: path.clone(), ignore: ignored(&path)? };
    let mut heard: BTreeMap<String, Result<Signed, String>> = BTreeMap::new();
    let mut reading = BTreeSet::new();
    let mut line = publish::Line::new(output.is_watched());
    client
        .services(None, &ask, |Heard { member, told }| {
            let member = member.to_string();
            match told {
                Told::Signed(signed) => drop(heard.insert(member.clone(), Ok(signed))),
                Told::Refused(refusal) => drop(heard.insert(member.clone(), Err(refusal.why))),
                Told::Signing => drop(reading.insert(member.clone())),
                _ => {}
            }
            if heard.contains_key(&member) {
                reading.remove(&member);
            }
            if !output.json && !reading.is_empty() {
                let names: Vec<&str> = reading.iter().take(8).map(String::as_str).collect();
                let text = format!("{} of them still read: {}", reading.len(), names.join(", "));
                line.show("reading", text);
            }
            true
        })
        .await?;
    line.end();
    let copies: Vec<Copy> = view
        .members
        .iter()
        .map(|member| {
            let (signed, why) = match heard.remove(&member.name) {
                Some(Ok(signed)) => (Some(signed), None),
                Some(Err(why)) => (None, Some(why)),
                None => (None, Some(format!("It is {}.", member.state))),
            };
            Copy { member: member.name.clone(), voter: member.voter, signed, why }
        })
        .collect();
    if !output.json {
        show(output, &copies);
    }
    let of_me = copies.iter().find(|copy| copy.member == view.me).and_then(|c| c.signed.as_ref());
    let right = match majority(&copies, view.majority) {
        _ if mine => of_me.map(|signed| signed.root.clone()),
        found => found,
    };
    if dry_run {
        if output.json {
            output.document(&serde_json::json!({ "copies": copies, "majority": right }));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let Some(right) = right else {
        let why = if mine {
            format!("There is nothing at {} on this member.", path.display())
        } else {
            format!(
                "No {} of {} members with a vote hold the same at {}.",
                view.majority,
                view.voters,
                path.display()
            )
        };
        let todo = "Decide whose copy is right, and run the same on that member with --mine; what the \
                    others hold is kept aside.";
        return Err(refuse(Reason::Conflict, why, todo.to_owned()));
    };
    if of_me.is_none_or(|signed| signed.root != right) {
        let holders = copies.iter().filter(|c| c.signed.as_ref().is_some_and(|s| s.root == right));
        let names: Vec<&str> = holders.map(|copy| copy.member.as_str()).collect();
        let why =
            format!("What the majority holds is not on this member, but on {}.", names.join(", "));
        return Err(refuse(Reason::Conflict, why, "Run the same on one of those.".to_owned()));
    }
    let message = format!("adopted from {}", path.display());
    let place = path.to_str().map(str::to_owned).ok_or_else(|| {
        let why = format!("{} is no text.", path.display());
        refuse(Reason::Invalid, why, "Give it another name.".to_owned())
    })?;
    let place = Some(place);
    let publish = Publish { app: Some(app), message, hosts, place, ..Publish::new(path) };
    publish::directory(client, output, &publish, ReadyWithin::default()).await
}

/// What a strict majority of all voters holds.
fn majority(copies: &[Copy], needed: usize) -> Option<String> {
    let votes = copies.iter().filter(|c| c.voter).filter_map(|c| c.signed.as_ref());
    let roots: Vec<&String> = votes.filter(|s| s.files > 0).map(|signed| &signed.root).collect();
    let distinct: BTreeSet<&String> = roots.iter().copied().collect();
    let count = |root: &String| roots.iter().filter(|other| **other == root).count();
    distinct.into_iter().find(|root| count(root) >= needed).cloned()
}

fn show(output: &Output, copies: &[Copy]) {
    let mut table = Table::new(&["MEMBER", "VOTE", "HOLDS", ">FILES", ">SIZE"]);
    for copy in copies {
        let vote = if copy.voter { "yes" } else { "not yet" };
        match &copy.signed {
            Some(signed) => table.row([
                Cell::from(&copy.member),
                Cell::from(vote),
                Cell::from(signed.root.chars().take(12).collect::<String>()),
                Cell::from(count(signed.files, "file")),
                Cell::from(bytes(signed.bytes)),
            ]),
            None => table.row([
                Cell::from(&copy.member),
                Cell::from(vote),
                Cell::new(Paint::Warn, copy.why.clone().unwrap_or_default()),
                Cell::from(""),
                Cell::from(""),
            ]),
        }
    }
    output.table(&table, "");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_strict_majority_of_all_voters_is_right() {
        let copy = |root: &str, voter| Copy {
            member: String::new(),
            voter,
            signed: Some(Signed { root: root.to_owned(), files: 1, bytes: 1 }),
            why: None,
        };
        let none = || Copy { signed: None, ..copy("", true) };
        let empty = |root: &str| Copy {
            signed: Some(Signed { root: root.to_owned(), files: 0, bytes: 0 }),
            ..copy("", true)
        };
        let found = |copies: &[Copy], needed| majority(copies, needed);
        let (a, b) = (|| copy("a", true), || copy("b", true));
        assert_eq!(found(&[a(), b(), b()], 2).as_deref(), Some("b"));
        assert_eq!(found(&[a(), b(), none()], 2), None);
        assert_eq!(found(&[a(), copy("a", false), b()], 2), None, "one has no vote");
        assert_eq!(found(&[a(), a(), none(), none()], 3), None, "half is no majority");
        assert_eq!(found(&[empty("a"), empty("a"), b()], 2), None, "nothing is not adopted");
    }
}
