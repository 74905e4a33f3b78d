//! What came of the runs, as tables.

use std::time::Duration;

use super::super::{
    output::{Output, Paint},
    table::{Cell, Table},
    units,
};
use crate::sim::{Accusations, Measured, Scenario, Spread, Times};

/// Failures that are shown one by one.
const ROWS_MAX: usize = 20;

pub(super) fn print(
    runs: &[(Measured, Duration)],
    scenarios: &[Scenario],
    story: bool,
    output: &Output,
) {
    for ((run, real), scenario) in runs.iter().zip(scenarios) {
        if story || runs.len() == 1 {
            one(run, *real, scenario, story, output);
        }
    }
    if runs.len() > 1 {
        compare(runs, output);
    }
}

fn one(run: &Measured, real: Duration, scenario: &Scenario, story: bool, output: &Output) {
    let what = if run.engine == "whole" { "whole members" } else { "members, membership alone" };
    let weather = scenario.weather;
    output.line(&format!(
        "{} {what}, {} s, seed {}; packets take {:?} to {:?}, {} % are lost\n",
        run.members,
        run.virtual_ms / 1e3,
        run.seed,
        weather.delay_min,
        weather.delay_max,
        f64::from(weather.loss) / 10.0,
    ));
    if story {
        run.story.iter().for_each(|line| output.line(line));
        output.line("");
    }
    let (failures, returns) = (spreads(&run.failures), spreads(&run.returns));
    output.table(&failures, "No member failed.");
    if !returns.is_empty() {
        output.line("");
        output.table(&returns, "");
    }
    output.line("");
    output.table(&figures(run, real), "");
    end(run, output);
}

fn end(run: &Measured, output: &Output) {
    output.line("");
    match (&run.violation, &run.trouble) {
        (Some(violation), _) => {
            output.painted(Paint::Bad, "Broken: ", violation);
            output.line("That is a bug of Althing. Please report it with the command line.");
        }
        (None, Some(trouble)) => {
            output.painted(Paint::Warn, "Not all is well at the end: ", trouble);
        }
        (None, None) if run.engine == "whole" => {
            output.painted(Paint::Good, "All is well", " at the end, and no invariant was broken.");
        }
        (None, None) => {}
    }
}

fn spreads(spreads: &[Spread]) -> Table {
    let mut table = Table::new(&["MEMBER", "WHAT", ">AT", ">KNOWN TO", ">FIRST", ">HALF", ">ALL"]);
    for spread in spreads.iter().take(ROWS_MAX) {
        let (knew, audience) = (spread.knew, spread.audience);
        let paint = if knew == audience { Paint::Plain } else { Paint::Warn };
        table.row([
            Cell::new(Paint::Bold, spread.member.as_str()),
            spread.what.into(),
            seconds(Some(spread.at_ms)).into(),
            Cell::new(paint, format!("{knew} of {audience}")),
            seconds(spread.first_ms).into(),
            seconds(spread.half_ms).into(),
            seconds(spread.all_ms).into(),
        ]);
    }
    if spreads.len() > ROWS_MAX {
        table.row([Cell::from(format!("and {} more", spreads.len() - ROWS_MAX))]);
    }
    table
}

fn figures(run: &Measured, real: Duration) -> Table {
    let mut table = Table::new(&["FIGURE", "VALUE"]);
    let mut row = |name: &str, value: String, paint| {
        table.row([Cell::from(name), Cell::new(paint, value)]);
    };
    if run.failures.len() > 1 {
        let (median, worst, some) = worst(&run.failures);
        let open = if some > 0 { format!(", {some} never known to all") } else { String::new() };
        let text = format!("{median} in the middle, {worst} at worst{open}");
        row("a failure known to all", text, Paint::Plain);
    }
    row("false accusations", accusations(run.false_accusations), judged(run.false_accusations));
    if let Some(idle) = run.idle {
        row("idle, sent by a member", traffic(idle.bytes_mean, idle.bytes_max), Paint::Plain);
        row("", packets(idle.packets_mean, idle.packets_max), Paint::Plain);
    }
    let all = run.traffic;
    row("over all, sent by a member", traffic(all.bytes_mean, all.bytes_max), Paint::Plain);
    row("", packets(all.packets_mean, all.packets_max), Paint::Plain);
    for (name, times) in [
        ("a change until its commit", &run.commits),
        ("a version until live on all", &run.spreads),
        ("drift until repaired", &run.repairs),
    ] {
        if times.begun > 0 {
            let paint = if times.done < times.begun { Paint::Warn } else { Paint::Plain };
            row(name, took(times), paint);
        }
    }
    let speed = run.virtual_ms / 1e3 / real.as_secs_f64().max(1e-9);
    let text =
        format!("{} events in {:.2} s, {speed:.1} times real time", run.steps, real.as_secs_f64());
    row("simulated", text, Paint::Dim);
    table
}

fn compare(runs: &[(Measured, Duration)], output: &Output) {
    let mut table = Table::new(&[
        ">MEMBERS",
        ">FIRST",
        ">HALF",
        ">ALL",
        ">WORST",
        ">FALSE",
        ">IDLE B/S",
        ">MAX",
        ">PACKETS/S",
        ">ALL B/S",
        ">MAX",
        ">EVENTS",
        ">REAL",
    ]);
    for (run, real) in runs {
        let idle = run.idle.unwrap_or_default();
        let number = |value: f64| format!("{value:.0}");
        table.row([
            Cell::new(Paint::Bold, run.members.to_string()),
            seconds(run.mean(|spread| spread.first_ms)).into(),
            seconds(run.mean(|spread| spread.half_ms)).into(),
            seconds(run.mean(|spread| spread.all_ms)).into(),
            seconds(run.slowest()).into(),
            Cell::new(judged(run.false_accusations), run.false_accusations.verdicts.to_string()),
            number(idle.bytes_mean).into(),
            number(idle.bytes_max).into(),
            format!("{:.1}", idle.packets_mean).into(),
            number(run.traffic.bytes_mean).into(),
            number(run.traffic.bytes_max).into(),
            run.steps.to_string().into(),
            format!("{:.1} s", real.as_secs_f64()).into(),
        ]);
    }
    output.table(&table, "");
    output.line(
        "\nFIRST, HALF, ALL: until so many of the others know of a failure, on average over the \
         failures; WORST:\nof ALL; FALSE: verdicts against healthy members; bytes and packets are \
         what one member sends in a second,\non average and at most.",
    );
    for (run, _) in runs.iter().filter(|(run, _)| run.violation.is_some()) {
        output.line(&format!("\n{} members:", run.members));
        end(run, output);
    }
}

/// The middle one, the longest, and how many were never known to all.
fn worst(spreads: &[Spread]) -> (String, String, usize) {
    let mut all: Vec<f64> = spreads.iter().filter_map(|s| s.all_ms).collect();
    all.sort_unstable_by(f64::total_cmp);
    let open = spreads.iter().filter(|s| s.all_ms.is_none() && s.audience > 0).count();
    (seconds(all.get(all.len() / 2).copied()), seconds(all.last().copied()), open)
}

fn judged(accusations: Accusations) -> Paint {
    if accusations.verdicts == 0 { Paint::Good } else { Paint::Warn }
}

fn accusations(accusations: Accusations) -> String {
    match accusations {
        Accusations { verdicts: 0, .. } => "none".to_owned(),
        Accusations { verdicts, members } => format!(
            "{}, of {}",
            units::count(verdicts, "verdict"),
            units::count(members as u64, "healthy member")
        ),
    }
}

fn traffic(mean: f64, max: f64) -> String {
    let text = |value: f64| units::bytes(value.round().max(0.0) as u64);
    format!("{}/s, at most {}/s", text(mean), text(max))
}

fn packets(mean: f64, max: f64) -> String {
    format!("{mean:.1} packets/s, at most {max:.1}")
}

fn took(times: &Times) -> String {
    let open = times.begun - times.done.min(times.begun);
    let open = if open > 0 { format!(", {open} not ended") } else { String::new() };
    match (times.median_ms, times.max_ms) {
        (Some(median), Some(max)) if times.done > 1 => format!(
            "{} in the middle of {}, {} at most{open}",
            seconds(Some(median)),
            times.done,
            seconds(Some(max))
        ),
        (Some(median), _) => format!("{}{open}", seconds(Some(median))),
        _ => format!("none ended{open}"),
    }
}

fn seconds(ms: Option<f64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms) if ms < 1_000.0 => format!("{ms:.0} ms"),
        Some(ms) => format!("{:.2} s", ms / 1_000.0),
    }
}
