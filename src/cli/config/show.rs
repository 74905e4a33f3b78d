//! `althing config check` and `althing config show`: what a file says and what is wrong in it, and
//! what a member would be started with.

use std::{path::Path, process::ExitCode};

use super::{Origin, Setting, Settled, USUAL, file, variable};
use crate::{
    base::Refusal,
    cli::{
        output::{Output, Paint, note},
        table::{Cell, Table},
    },
};

/// Says what is wrong in the file, and ends with 1 if anything is.
pub(super) fn check(output: &Output, path: Option<&Path>) -> Result<ExitCode, Refusal> {
    let Some(path) = path else {
        if output.json {
            output.document(&serde_json::json!({ "file": null, "wrong": [] }));
        } else {
            output.line(&format!("There is no file to check, and none is needed ({USUAL})."));
        }
        return Ok(ExitCode::SUCCESS);
    };
    let text = file::text(path)?;
    let wrong = file::faults(&text);
    let shown = path.display().to_string();
    if output.json {
        output.document(&serde_json::json!({ "file": shown, "wrong": wrong }));
    } else if wrong.is_empty() {
        output.line(&format!("{shown} is right."));
    } else {
        for fault in &wrong {
            note(&fault.shown(&shown, &text));
        }
    }
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Shows every option with who says so.
pub(super) fn settled(output: &Output, settled: &Settled) {
    let Settled { settings, file, .. } = settled;
    if output.json {
        let options: Vec<_> = settings.iter().map(as_json).collect();
        output.document(&serde_json::json!({ "file": file, "options": options }));
        return;
    }
    match file {
        Some(file) => output.line(&format!("The file is {}.", file.display())),
        None => output.line("No file is read."),
    }
    let mut table = Table::new(&["OPTION", "VALUE", "FROM"]);
    for setting in settings {
        let from = match (setting.from, setting.line) {
            (Origin::Default, _) => Cell::new(Paint::Dim, setting.from.word()),
            (Origin::Variable, _) => Cell::from(variable(&setting.key)),
            (_, Some(line)) => Cell::from(format!("file, line {line}")),
            _ => Cell::from(setting.from.word()),
        };
        let value = match setting.values.as_slice() {
            [] => Cell::new(Paint::Dim, "-"),
            values => Cell::from(values.join(", ")),
        };
        table.row([Cell::from(setting.key.as_str()), value, from]);
    }
    output.table(&table, "There are no options.");
}

fn as_json(setting: &Setting) -> serde_json::Value {
    let Setting { key, values, is_list, from, line } = setting;
    let value = match (is_list, values.first()) {
        (true, _) => serde_json::json!(values),
        (false, Some(value)) => serde_json::json!(value),
        (false, None) => serde_json::Value::Null,
    };
    serde_json::json!({
        "option": key,
        "variable": variable(key),
        "value": value,
        "from": from,
        "line": line,
    })
}
