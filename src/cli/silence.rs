//! Silences: what rules do nothing for a while.

use std::process::ExitCode;

use super::{
    args::{Hush, Ruled},
    client::Client,
    operate,
    output::Output,
    table::{Cell, Table},
};
use crate::{
    base::Refusal,
    member::{command::Command, view::SilenceView},
};

pub(super) async fn run(client: &Client, output: &Output, hush: Hush) -> Result<ExitCode, Refusal> {
    match command(hush) {
        Some(command) => operate::order(client, output, &command).await,
        None => {
            list(output, &client.view().await?.silences);
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What is asked of the member; nothing if it is only to be shown.
fn command(hush: Hush) -> Option<Command> {
    let Hush { what, member, lasts, why, end } = hush;
    let (app, rule) = what.map(|Ruled { app, rule }| (app, rule)).unzip();
    let rule = rule.flatten();
    match lasts {
        Some(lasts) => {
            let (for_s, why) = (lasts.0.as_secs(), why.unwrap_or_default());
            Some(Command::Silence { app, rule, member, for_s, why })
        }
        None if end => Some(Command::Unsilence { app, rule, member }),
        None => None,
    }
}

fn list(output: &Output, silences: &[SilenceView]) {
    if output.json {
        output.document(&silences);
        return;
    }
    let mut table = Table::new(&["RULES", "MEMBER", "UNTIL", "BY", "WHY"]);
    for silence in silences {
        let SilenceView { app, rule, member, until, by, why, .. } = silence;
        let rules = match (app, rule) {
            (Some(app), Some(rule)) => format!("{app}/{rule}"),
            (Some(app), None) => app.clone(),
            (None, _) => "(all)".to_owned(),
        };
        table.row([
            Cell::from(rules),
            Cell::from(member.as_deref().unwrap_or("(any)")),
            Cell::from(until),
            Cell::from(by),
            Cell::from(why),
        ]);
    }
    output.table(&table, "No rule is silenced.");
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{
        super::args::{Action, Args},
        *,
    };
    use crate::base::{AppName, MemberName, RuleName};

    fn asked(words: &str) -> Result<Option<Command>, String> {
        let words = ["althing", "silence"].into_iter().chain(words.split_whitespace());
        let args = Args::try_parse_from(words).map_err(|error| error.to_string())?;
        match args.action {
            Action::Silence(hush) => Ok(command(hush)),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn words_become_commands() {
        let app = Some(AppName::parse("web").unwrap());
        let rule = Some(RuleName::parse("hot").unwrap());
        let member = Some(MemberName::parse("beta").unwrap());
        let silence = |app: &Option<AppName>, rule: &Option<RuleName>, member| Command::Silence {
            app: app.clone(),
            rule: rule.clone(),
            member,
            for_s: 7_200,
            why: "test".to_owned(),
        };
        assert_eq!(asked(""), Ok(None));
        let one = silence(&app, &rule, None);
        assert_eq!(asked("web/hot --for 2h --why test"), Ok(Some(one)));
        let all = silence(&app, &None, None);
        assert_eq!(asked("--for 2h --why test web"), Ok(Some(all)));
        let about = silence(&None, &None, member.clone());
        assert_eq!(asked("--member beta --for 2h --why test"), Ok(Some(about)));
        let both = silence(&app, &rule, member.clone());
        assert_eq!(asked("web/hot --member beta --for 2h --why test"), Ok(Some(both)));
        let ended = Command::Unsilence { app: app.clone(), rule: rule.clone(), member: None };
        assert_eq!(asked("web/hot --end"), Ok(Some(ended)));
        let ended = Command::Unsilence { app: None, rule: None, member };
        assert_eq!(asked("--member beta --end"), Ok(Some(ended)));
    }

    #[test]
    fn half_a_wish_is_none() {
        for bad in [
            "web/hot",                              // for how long?
            "--member beta",                        // likewise
            "web/hot --for 2h",                     // why?
            "web/hot --why test",                   // for how long?
            "--for 2h --why test",                  // which?
            "--end",                                // which?
            "web/hot --end --for 2h --why test",    // one of both
            "web/ --for 2h --why test",             // no name
            "/hot --for 2h --why test",             // likewise
            "web/hot/odd --for 2h --why test",      // likewise
            "Web/hot --for 2h --why test",          // likewise
            "web/hot --for soon --why test",        // no span
            "web/hot odd/late --for 2h --why test", // one at a time
        ] {
            assert!(asked(bad).is_err(), "{bad}");
        }
    }
}
