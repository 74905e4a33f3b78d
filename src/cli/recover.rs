//! `althing recover`: shows what it would do, asks, does it.
//!
//! It acts on the data directory of a stopped member. While the member runs it
//! only shows the plan, and then with what the other live members know.

use std::{
    io::{BufRead, IsTerminal, Write},
    path::Path,
    process::ExitCode,
};

use serde::Serialize;

use super::{
    client::Client,
    hints,
    output::{Output, Paint, note},
    table::{Cell, Table},
    units::count,
};
use crate::{
    base::{MemberName, Reason, Refusal},
    member::view::View,
    node::{Holding, Recovered, Recovery, Survey},
};

/// What the operator wants.
pub(super) struct Wish {
    pub keep: Vec<MemberName>,
    pub rejoin: bool,
    pub yes: bool,
}

/// What would be done, and to whom.
#[derive(Serialize)]
struct Plan {
    recovered: bool,
    running: bool,
    #[serde(flatten)]
    survey: Survey,
    members: Vec<Fate>,
    warnings: Vec<String>,
    next: Vec<String>,
}

/// What becomes of one member.
#[derive(Serialize)]
struct Fate {
    name: String,
    /// stays, rejoins or struck off.
    fate: String,
    /// alive, suspect, down or left, where that is known.
    state: Option<String>,
    /// The highest catalog sequence that it was heard of with.
    sequence: Option<u64>,
}

pub(super) async fn run(
    client: &Client,
    output: &Output,
    data: &Path,
    wish: Wish,
) -> Result<ExitCode, Refusal> {
    match client.view().await {
        Ok(view) => {
            let plan = plan_of_view(&view, &wish)?;
            show(&plan, output);
            if wish.yes {
                return Err(Refusal::new(
                    Reason::Busy,
                    "Nothing was recovered.",
                    "The member runs, and its record can only be replaced while nobody uses it.",
                    "Stop it, run this again, and start it; the other survivors go on serving.",
                ));
            }
            return Ok(ExitCode::SUCCESS);
        }
        Err(refusal) if refusal.reason != Reason::NotFound => return Err(refusal),
        Err(_not_running) => {}
    }
    let recovery = Recovery::open(data)?;
    let survey = recovery.survey()?;
    let plan = plan_of_directory(survey, &wish)?;
    let confirmed = wish.yes || {
        show(&plan, output);
        asked(output, &plan.survey.cluster)?
    };
    if !confirmed {
        return Ok(ExitCode::SUCCESS);
    }
    let done = if wish.rejoin {
        recovery.rejoin()?
    } else {
        recovery.succeed(&wish.keep.iter().map(MemberName::to_string).collect::<Vec<_>>())?
    };
    tell(&done, &plan, output);
    Ok(ExitCode::SUCCESS)
}

/// The plan while the member runs: it knows who lives and what they know.
fn plan_of_view(view: &View, wish: &Wish) -> Result<Plan, Refusal> {
    if view.voters_live >= view.majority && !wish.rejoin {
        return Err(Refusal::new(
            Reason::Conflict,
            "Nothing was recovered, and nothing needs to be.",
            format!(
                "{} of {} voters are live and {} are a majority: the cluster can decide by itself.",
                view.voters_live, view.voters, view.majority
            ),
            "Use `althing remove NAME` for members that are gone for good.",
        ));
    }
    let holding = |app: &crate::member::view::ApplicationView| {
        let mine = app.positions.iter().find(|p| p.member == view.me);
        Holding {
            app: app.name.clone(),
            version: app.version,
            whole: mine.is_some_and(|p| p.position == "agrees"),
            live: mine.and_then(|p| p.version).unwrap_or(0),
        }
    };
    let survey = Survey {
        cluster: view.cluster.clone(),
        me: view.me.clone(),
        sequence: view.sequence,
        uncertain: false,
        voters: view.voters,
        majority: view.majority,
        others: view.members.iter().filter(|m| !m.me).map(|m| m.name.clone()).collect(),
        applications: view.applications.iter().map(holding).collect(),
    };
    let mut plan = planned(survey, wish, true)?;
    for member in &view.members {
        if let Some(fate) = plan.members.iter_mut().find(|f| f.name == member.name) {
            fate.state = Some(member.state.clone());
            fate.sequence = if member.me { Some(view.sequence) } else { member.sequence };
        }
    }
    let newest = plan.members.iter().filter_map(|m| m.sequence).max().unwrap_or(0);
    if newest > view.sequence {
        let who = plan.members.iter().find(|m| m.sequence == Some(newest));
        let who = who.map_or_else(String::new, |m| m.name.clone());
        plan.warnings.insert(
            0,
            format!(
                "{who} was heard of with catalog {newest}, which is newer than this member's {}: \
                 if it is a survivor, recover on it and not here.",
                view.sequence
            ),
        );
    }
    Ok(plan)
}

fn plan_of_directory(survey: Survey, wish: &Wish) -> Result<Plan, Refusal> {
    let mut plan = planned(survey, wish, false)?;
    if !wish.rejoin {
        plan.warnings.push(
            "The member is stopped, so what other survivors know was not looked at: run this on \
             the running members first, and recover on the one with the highest catalog."
                .to_owned(),
        );
    }
    Ok(plan)
}

fn planned(survey: Survey, wish: &Wish, running: bool) -> Result<Plan, Refusal> {
    for name in &wish.keep {
        if !survey.others.iter().any(|other| other == name.as_str()) && survey.me != name.as_str() {
            return Err(Refusal::new(
                Reason::NotFound,
                "Nothing was recovered.",
                format!("No member of the cluster is named {name}, so it can't be kept."),
                format!("The others are: {}.", survey.others.join(", ")),
            ));
        }
    }
    let keeps = |name: &String| wish.keep.iter().any(|keep| keep.as_str() == name);
    let fate = |name: &String| Fate {
        name: name.clone(),
        fate: if keeps(name) { "rejoins" } else { "struck off" }.to_owned(),
        state: None,
        sequence: None,
    };
    let mine = Fate {
        name: survey.me.clone(),
        fate: if wish.rejoin { "rejoins" } else { "stays" }.to_owned(),
        state: None,
        sequence: Some(survey.sequence),
    };
    let others: Vec<Fate> =
        if wish.rejoin { Vec::new() } else { survey.others.iter().map(fate).collect() };
    let members = std::iter::once(mine).chain(others).collect();
    let (warnings, next) = if wish.rejoin {
        (rejoin_warnings(&survey), vec![JOIN.to_owned()])
    } else {
        (warnings(&survey), next(wish))
    };
    Ok(Plan { recovered: false, running, survey, members, warnings, next })
}

const JOIN: &str = "start it with the command that `althing invite` prints on the recovered member";

fn warnings(survey: &Survey) -> Vec<String> {
    let mut warnings = vec![
        format!(
            "What the lost members committed after catalog {} and this member never heard of is \
             lost for ever.",
            survey.sequence
        ),
        "If they are only cut off and not destroyed, they go on as the old cluster and serve what \
         they have: make sure that they are off and stay off."
            .to_owned(),
        "They must never come back with their old data directories: they are refused, and can only \
         join anew."
            .to_owned(),
    ];
    if survey.uncertain {
        warnings.push(format!(
            "Catalog {} was accepted here and is not known to be committed; it is taken over, as \
             the next change would have done.",
            survey.sequence
        ));
    }
    for app in survey.applications.iter().filter(|app| !app.whole) {
        warnings.push(format!(
            "{} version {} is not whole on this member, which goes on serving {}: it comes from a \
             survivor that rejoins and holds it; if none does, use `althing rollback {}`.",
            app.app,
            app.version,
            match app.live {
                0 => "nothing of it".to_owned(),
                live => format!("version {live}"),
            },
            app.app
        ));
    }
    warnings
}

fn rejoin_warnings(survey: &Survey) -> Vec<String> {
    vec![
        format!(
            "This member leaves cluster {} for ever: do it only if that was recovered on another \
             member.",
            survey.cluster
        ),
        "Its key and its content stay, so that nothing is transferred again; what it knows and the \
         recovered member does not is lost for ever."
            .to_owned(),
    ]
}

fn next(wish: &Wish) -> Vec<String> {
    let mut next = vec!["start this member with `althing up`, as before".to_owned()];
    let whom = match wish.keep.as_slice() {
        [] => "every other survivor".to_owned(),
        keep => keep.iter().map(MemberName::as_str).collect::<Vec<_>>().join(", "),
    };
    next.push(format!("on {whom}: stop it, run `althing recover --rejoin`, and {JOIN}"));
    next
}

fn show(plan: &Plan, output: &Output) {
    if output.json {
        output.document(plan);
        return;
    }
    let survey = &plan.survey;
    output.line(&format!(
        "Cluster {}, {}; {} needed for any change. {} knows it up to catalog {}.",
        survey.cluster,
        count(survey.voters as u64, "voter"),
        survey.majority,
        survey.me,
        survey.sequence
    ));
    let mut table = Table::new(&["MEMBER", "STATE", ">CATALOG", "BECOMES"]);
    for member in &plan.members {
        let paint = if member.fate == "struck off" { Paint::Bad } else { Paint::Good };
        table.row([
            Cell::from(&member.name),
            Cell::from(member.state.as_deref().unwrap_or("not looked at")),
            Cell::from(member.sequence.map_or(String::new(), |s| s.to_string())),
            Cell::new(paint, &member.fate),
        ]);
    }
    output.table(&table, "");
    for warning in &plan.warnings {
        output.painted(Paint::Warn, "warning", &hints::copyable(&format!(": {warning}")));
    }
    if plan.running {
        output.line("This member runs: stop it, run this again with --yes, and then:");
        for step in &plan.next {
            output.hint(&format!("  - {step}"));
        }
    }
}

/// Whether the person at the terminal means it.
fn asked(output: &Output, cluster: &str) -> Result<bool, Refusal> {
    if output.json || !std::io::stdin().is_terminal() {
        if !output.json {
            output.line("Nothing was changed. Run it again with --yes if that is what you want.");
        }
        return Ok(false);
    }
    // A question is no result: it goes where messages go.
    let mut terminal = std::io::stderr();
    let _asked = write!(terminal, "Type the id of the cluster ({cluster}) to go on: ");
    let _shown = terminal.flush();
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    if read.is_ok() && line.trim() == cluster {
        return Ok(true);
    }
    note("Nothing was changed.");
    Ok(false)
}

fn tell(done: &Recovered, plan: &Plan, output: &Output) {
    if output.json {
        output.document(&serde_json::json!({
            "recovered": true, "before": done.before, "cluster": done.cluster,
            "sequence": done.sequence, "record_kept": done.kept, "members": plan.members,
            "warnings": plan.warnings, "next": plan.next,
        }));
        return;
    }
    match &done.cluster {
        Some(cluster) => output.painted(
            Paint::Bold,
            &plan.survey.me,
            &format!(
                " is the only member of cluster {cluster} now (catalog {}), which succeeds {}.",
                done.sequence, done.before
            ),
        ),
        None => output.painted(
            Paint::Bold,
            &plan.survey.me,
            &format!(" has left cluster {} and keeps its key and its content.", done.before),
        ),
    }
    output.line(&format!("The record of before is kept in {}.", done.kept.display()));
    output.line("Now:");
    for step in &plan.next {
        output.hint(&format!("  - {step}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey() -> Survey {
        Survey {
            cluster: "c".into(),
            me: "a".into(),
            sequence: 9,
            uncertain: true,
            voters: 3,
            majority: 2,
            others: vec!["b".into(), "c".into()],
            applications: vec![Holding { app: "web".into(), version: 3, whole: false, live: 2 }],
        }
    }

    fn wish(keep: &[&str]) -> Wish {
        let keep = keep.iter().map(|name| MemberName::parse(name).unwrap()).collect();
        Wish { keep, rejoin: false, yes: false }
    }

    #[test]
    fn the_plan_says_who_is_struck_off_and_what_may_be_lost() {
        let plan = plan_of_directory(survey(), &wish(&["c"])).unwrap();
        let fates: Vec<&str> = plan.members.iter().map(|m| m.fate.as_str()).collect();
        assert_eq!(fates, ["stays", "struck off", "rejoins"]);
        let text = plan.warnings.join(" ");
        for part in ["after catalog 9", "never come back", "not known to be committed", "web"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(plan.next[1].starts_with("on c:"), "{:?}", plan.next);
    }

    #[test]
    fn only_members_can_be_kept() {
        let Err(refusal) = plan_of_directory(survey(), &wish(&["d"])) else { panic!("no d") };
        assert_eq!(refusal.reason, Reason::NotFound);
    }
}
