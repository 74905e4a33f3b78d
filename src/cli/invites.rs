//! Invitations that are open, and how they are taken back. Tokens are no part of it: a member keeps
//! none.

use std::process::ExitCode;

use super::{
    args::InvitesAction,
    client::Client,
    operate,
    output::{Output, Paint},
    table::{Cell, Table},
};
use crate::{
    base::{Refusal, catalog::Invite},
    member::{command::Command, view::InviteView},
};

pub(super) async fn run(
    client: &Client,
    output: &Output,
    action: Option<InvitesAction>,
) -> Result<ExitCode, Refusal> {
    match action {
        // One of both is given: see the group of the arguments.
        Some(InvitesAction::Withdraw { id, all: _ }) => {
            operate::order(client, output, &Command::Withdraw { id }).await
        }
        None => {
            list(output, &client.view().await?.invites);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn list(output: &Output, invites: &[InviteView]) {
    if output.json {
        output.document(&invites);
        return;
    }
    let mut table = Table::new(&["ID", "BY", ">USES LEFT", "UNTIL"]);
    for InviteView { id, by, uses_left, expires, .. } in invites {
        table.row([
            Cell::new(Paint::Bold, short(id)),
            Cell::from(by),
            Cell::from(uses_left.to_string()),
            Cell::from(expires),
        ]);
    }
    output.table(&table, "No invitation is open.");
}

/// As much of an id as people are shown.
pub(super) fn short(id: &str) -> String {
    id.chars().take(Invite::ID_SHOWN).collect()
}
