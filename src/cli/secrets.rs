//! `althing secret` and `althing settings`: what services are given.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{IsTerminal, Read, Write},
    process::ExitCode,
};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::{
    args::SecretAction,
    client::Client,
    operate::{self, unexpected},
    output::{Output, Paint},
    table::{Cell, Table},
};
use crate::{
    base::{AppName, Reason, Refusal, SecretName},
    driver::secrets::VALUE_MAX,
    node::{
        NewSecret, SecretEdits,
        inspect::{Findings, Question},
    },
};

pub(super) async fn run(
    client: &Client,
    output: &Output,
    action: SecretAction,
) -> Result<ExitCode, Refusal> {
    let edits = match action {
        SecretAction::List { app } => return list(client, output, app).await,
        SecretAction::Set { app, name, anew, message } => {
            let value = read_value(&name)?;
            let set = BTreeMap::from([(name, NewSecret(value))]);
            SecretEdits { app, set, anew, unset: BTreeSet::new(), message }
        }
        SecretAction::Unset { app, name, message } => {
            let unset = BTreeSet::from([name]);
            SecretEdits { app, set: BTreeMap::new(), anew: false, unset, message }
        }
    };
    operate::done(output, &client.secrets(&edits).await?);
    Ok(ExitCode::SUCCESS)
}

/// The value from standard input: all of it, less one end of line. From a terminal one
/// line, which is not shown.
fn read_value(name: &SecretName) -> Result<String, Refusal> {
    let stdin = std::io::stdin();
    let refuse = |why: String| {
        Refusal::new(
            Reason::Invalid,
            "No secret was set.",
            why,
            "Give the value on standard input, as in: althing secret set APP NAME < file",
        )
    };
    let failed = |error: std::io::Error| refuse(format!("The value can't be read: {error}."));
    let mut value = String::new();
    if stdin.is_terminal() {
        // Nobody may listen; the line is read all the same.
        let _ = write!(std::io::stderr(), "value of {name} (not shown): ");
        let before = tcgetattr(&stdin).map_err(|e| failed(e.into()))?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Now, &silent).map_err(|e| failed(e.into()))?;
        let read = stdin.read_line(&mut value);
        let _ = writeln!(std::io::stderr());
        tcsetattr(&stdin, OptionalActions::Now, &before).map_err(|e| failed(e.into()))?;
        read.map_err(failed)?;
    } else {
        stdin.take(VALUE_MAX as u64 + 2).read_to_string(&mut value).map_err(failed)?;
    }
    if value.ends_with('\n') {
        value.pop();
    }
    Ok(value)
}

async fn list(client: &Client, output: &Output, app: AppName) -> Result<ExitCode, Refusal> {
    let Findings::Secrets(found) = client.inspect(&Question::Secrets { app }).await? else {
        return Err(unexpected());
    };
    if output.json {
        output.document(&found);
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["NAME", "VARIABLE", "GIVEN TO"]);
    for secret in &found.secrets {
        let services: Vec<&str> = secret.services.iter().map(|s| s.as_str()).collect();
        let given = match services.as_slice() {
            [] => Cell::new(Paint::Dim, "nobody"),
            names => Cell::from(names.join(" ")),
        };
        table.row([Cell::from(secret.name.as_str()), Cell::from(&secret.variable), given]);
    }
    output.table(&table, "No secret is set.");
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn settings(
    client: &Client,
    output: &Output,
    app: AppName,
) -> Result<ExitCode, Refusal> {
    let Findings::Settings(found) = client.inspect(&Question::Settings { app }).await? else {
        return Err(unexpected());
    };
    if output.json {
        output.document(&found);
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["KEY", "VALUE", "VARIABLE"]);
    for setting in &found.settings {
        // As JSON: text is in quotes, so that it can be told from a number.
        let value = setting.value.to_string();
        table.row([Cell::from(&setting.key), Cell::from(value), Cell::from(&setting.variable)]);
    }
    output.table(&table, "Nothing is set.");
    Ok(ExitCode::SUCCESS)
}
