//! `althing members --reach` and `althing rtt`: the links between members.

use std::process::ExitCode;

use super::{
    client::Client,
    output::{Output, Paint},
    show::round_trip,
    table::{Cell, Table},
};
use crate::{
    base::{MemberName, Reason, Refusal},
    member::view::{MemberView, View},
};

/// Who reaches whom, member by member, as each says itself.
pub(super) async fn reach(client: &Client, output: &Output) -> Result<ExitCode, Refusal> {
    let view = client.view().await?;
    if output.json {
        let rows: Vec<_> = view
            .members
            .iter()
            .map(|m| serde_json::json!({ "name": m.name, "state": m.state, "unreached": m.unreached }))
            .collect();
        output.document(&rows);
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["NAME", "STATE", "REACHES", "DOES NOT REACH"]);
    let live = view.members.iter().filter(|m| is_live(m)).count();
    for member in &view.members {
        let (reaches, not) = match &member.unreached {
            _ if !is_live(member) => (Cell::default(), Cell::default()),
            None => (Cell::new(Paint::Dim, "has not said"), Cell::default()),
            Some(names) => (
                Cell::from(format!("{} of {}", (live - 1).saturating_sub(names.len()), live - 1)),
                Cell::new(Paint::Bad, names.join(" ")),
            ),
        };
        table.row([Cell::from(&member.name), Cell::from(&member.state), reaches, not]);
    }
    output.table(&table, "No member is enrolled.");
    Ok(ExitCode::SUCCESS)
}

/// The estimated round trip between two members, or from the one that is asked to `one`.
pub(super) async fn rtt(
    client: &Client,
    output: &Output,
    one: &MemberName,
    other: Option<&MemberName>,
) -> Result<ExitCode, Refusal> {
    let view = client.view().await?;
    let one = named(&view, one)?;
    let other = match other {
        Some(name) => named(&view, name)?,
        None => view.members.iter().find(|m| m.me).unwrap_or(one),
    };
    let (Some(here), Some(there)) = (one.place, other.place) else {
        return Err(Refusal::new(
            Reason::NotFound,
            "There is no estimate.",
            format!("{} or {} has not said where it is yet.", one.name, other.name),
            "Try again in a minute: members learn where they are from the answers they get.",
        ));
    };
    let us = here.round_trip(&there).as_micros() as u64;
    if output.json {
        output.document(&serde_json::json!({
            "from": one.name, "to": other.name, "round_trip_us": us,
        }));
    } else {
        output.line(&format!("{} to {}: about {}", one.name, other.name, round_trip(us)));
    }
    Ok(ExitCode::SUCCESS)
}

fn named<'a>(view: &'a View, name: &MemberName) -> Result<&'a MemberView, Refusal> {
    view.members.iter().find(|m| m.name == name.to_string()).ok_or_else(|| {
        Refusal::new(
            Reason::NotFound,
            "There is no estimate.",
            format!("No member is called {name}."),
            "`althing members` lists them.",
        )
    })
}

fn is_live(member: &MemberView) -> bool {
    matches!(member.state.as_str(), "alive" | "suspect")
}
