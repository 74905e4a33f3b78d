//! What the command line is to a shell and to `man`, made from its own definition:
//! `althing completions`, `althing man`.

use std::{fs, path::Path, process::ExitCode};

use clap_complete::Shell;

use super::{config, output::Output};
use crate::base::{Reason, Refusal};

/// Prints what `shell` reads to complete commands, options and the words that options take.
pub(super) fn completions(output: &Output, shell: Shell) -> Result<ExitCode, Refusal> {
    // To memory first: the library gives up loudly where a reader has gone.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut config::command(), "althing", &mut script);
    let script = String::from_utf8_lossy(&script);
    if output.json {
        output.document(&serde_json::json!({ "shell": shell.to_string(), "script": script }));
    } else {
        output.text(&script);
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the page of the whole; or writes it, and one for each command, into a directory.
pub(super) fn man(output: &Output, into: Option<&Path>) -> Result<ExitCode, Refusal> {
    let refusal = |why: String| {
        let todo = "Name a directory that is there and that you may write to.";
        Refusal::new(Reason::Failed, "No pages were written.", why, todo)
    };
    if let Some(directory) = into {
        let directory = super::absolute(directory)?;
        let unwritten = |error: std::io::Error| {
            refusal(format!("{} can't be written to: {error}.", directory.display()))
        };
        fs::create_dir_all(&directory).map_err(unwritten)?;
        clap_mangen::generate_to(config::command(), &directory).map_err(unwritten)?;
        if output.json {
            output.document(&serde_json::json!({ "directory": directory }));
        } else {
            let shown = directory.display();
            output.line(&format!("The pages are in {shown}: man {shown}/althing.1"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut page = Vec::new();
    // As in the pages of commands: none is written for `help`.
    let command = config::command().disable_help_subcommand(true);
    let made = clap_mangen::Man::new(command).render(&mut page);
    made.map_err(|error| refusal(format!("The page can't be made: {error}.")))?;
    let page = String::from_utf8_lossy(&page);
    if output.json {
        output.document(&serde_json::json!({ "page": page }));
    } else {
        output.text(&page);
    }
    Ok(ExitCode::SUCCESS)
}
