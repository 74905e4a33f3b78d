//! `althing operator`: who may act over the network.

use std::process::ExitCode;

use super::{
    args::OperatorAction,
    client::Client,
    operate::{self, draw_seed, unexpected},
    output::{self, Output, Paint},
    table::{Cell, Table},
};
use crate::{
    base::{Refusal, operator::OperatorToken},
    member::{
        command::{Command, Outcome},
        view::OperatorView,
    },
};

pub(super) async fn run(
    client: &Client,
    output: &Output,
    action: OperatorAction,
) -> Result<ExitCode, Refusal> {
    let (name, expires) = match action {
        OperatorAction::List => {
            list(output, &client.view().await?.operators);
            return Ok(ExitCode::SUCCESS);
        }
        OperatorAction::Remove { name } => {
            return operate::order(client, output, &Command::OperatorRemove { name }).await;
        }
        OperatorAction::Add { name, expires } => (name, expires),
    };
    // Drawn here, so that the member never has it.
    let token = OperatorToken::new(draw_seed("No operator was added.")?);
    let valid_s = expires.map(|span| span.0.as_secs());
    let command = Command::OperatorAdd { name: name.clone(), token: token.hash(), valid_s };
    let Outcome::Done { sequence, text } = client.command(&command).await? else {
        return Err(unexpected());
    };
    if output.json {
        let view = client.view().await?;
        let added = view.operators.iter().find(|operator| operator.name == name.as_str());
        output.document(&serde_json::json!({
            "operator": name, "token": token.to_text(), "sequence": sequence,
            "expires": added.and_then(|operator| operator.until.as_ref()),
            "expires_ms": added.and_then(|operator| operator.until_ms),
        }));
    } else {
        output.line(&token.to_text());
        output::note(&format!(
            "{text} (catalog {sequence}). The token is shown this once: whoever has it can act as \
             {name}. It is taken over the loopback interface, from elsewhere through `ssh -L`, or \
             by TLS where the member has --status-cert."
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn list(output: &Output, operators: &[OperatorView]) {
    if output.json {
        output.document(&operators);
        return;
    }
    let mut table = Table::new(&["NAME", "SINCE", "BY", "UNTIL"]);
    for OperatorView { name, by, since, until, is_over, .. } in operators {
        let until = until.as_deref().unwrap_or("removed");
        let until = match is_over {
            true => Cell::new(Paint::Warn, format!("{until}, which is over")),
            false => Cell::from(until),
        };
        table.row([Cell::from(name), Cell::from(since), Cell::from(by), until]);
    }
    output.table(&table, "Nobody may act over the network.");
}
