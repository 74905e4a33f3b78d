//! The script of a scenario: a line for each action, with its time.
//!
//! ```text
//! # a comment
//! at 5s   publish web 10MB
//! at 20s  partition m1,m2 | rest
//! at 30s  heal
//! at 31s  drift m3
//! ```
//!
//! An error names the line and says what is expected there.

use std::{collections::BTreeSet, fmt};

use super::scenario::{Action, MEMBERS_MAX, Step};
use crate::base::{AppName, quantity};

/// Lines of one script.
const LINES_MAX: usize = 10_000;
/// What is changed where no application is named.
const APP: &str = "web";
/// What a published version has where no size is named, bytes.
const BYTES: u64 = 1_000_000;

const VERBS: &str = "kill, silence, restart, pause, resume, slow, fast, partition, cut, heal, loss, \
                     latency, join, leave, remove, publish, rollback, drift, wipe or rot";

/// What is wrong with a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptError {
    /// In which line, from 1.
    pub line: usize,
    /// What, and what is expected instead.
    pub what: String,
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// The steps of `text` for a cluster of `members` at first, by time.
///
/// # Errors
/// The first line that can't be read, or that names a member or does a thing
/// that there is not.
pub fn parse(text: &str, members: usize) -> Result<Vec<Step>, ScriptError> {
    let mut steps = Vec::new();
    for (index, raw) in text.lines().enumerate() {
        let line = index + 1;
        let code = raw.split('#').next().unwrap_or("").trim();
        if code.is_empty() {
            continue;
        }
        if steps.len() == LINES_MAX {
            return Err(ScriptError {
                line,
                what: format!("a script has up to {LINES_MAX} lines"),
            });
        }
        // Whom it names is checked once all that joins is known.
        // Where it is wrong, it says whom there is and not whom there could be.
        let step = step(code, line, MEMBERS_MAX).or_else(|_| self::step(code, line, members));
        let step = step.map_err(|what| ScriptError { line, what })?;
        steps.push(step);
    }
    steps.sort_by_key(|step: &Step| step.at);
    // By time: a newcomer can be named from when it joined.
    let mut there = members;
    for step in &mut steps {
        let (line, text) = (step.line, step.text.clone());
        if let Action::Join(count) = step.action {
            there += count;
            if there > MEMBERS_MAX {
                let what = format!("there are up to {MEMBERS_MAX} members");
                return Err(ScriptError { line, what });
            }
            continue;
        }
        let again = self::step(&text, line, there).map_err(|what| ScriptError { line, what })?;
        step.action = again.action;
    }
    Ok(steps)
}

fn step(code: &str, line: usize, members: usize) -> Result<Step, String> {
    // Commas and bars may have spaces around them.
    let spaced = code.replace('|', " | ").replace('>', " > ");
    let mut words: Vec<String> = Vec::new();
    for word in spaced.split_whitespace() {
        match words.last_mut() {
            Some(last) if last.ends_with(',') || word.starts_with(',') => last.push_str(word),
            _ => words.push(word.to_owned()),
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ["at", at, verb, rest @ ..] = words.as_slice() else {
        return Err(format!("write `at TIME ACTION`, as `at 10s kill m3`, and not `{code}`"));
    };
    let at = quantity::span(at)?;
    let action = action(verb, rest, members)?;
    Ok(Step { at, action, line, text: code.to_owned() })
}

fn action(verb: &str, rest: &[&str], members: usize) -> Result<Action, String> {
    let whom = |usage: &str| match rest {
        [names] => group(names, members),
        _ => Err(format!("write `{usage}`")),
    };
    Ok(match verb {
        "kill" => Action::Kill(whom("kill m3, or kill m1,m4..m6")?),
        "silence" => Action::Silence(whom("silence m3")?),
        "restart" => Action::Restart(whom("restart m3")?),
        "pause" => Action::Pause(whom("pause m3")?),
        "resume" => Action::Resume(whom("resume m3")?),
        "slow" => Action::Slow(whom("slow m3")?),
        "fast" => Action::Fast(whom("fast m3")?),
        "leave" => Action::Leave(whom("leave m3")?),
        "remove" => Action::Remove(whom("remove m3")?),
        "partition" => Action::Partition(groups(rest, "|", members, "partition m1,m2 | m3..m5")?),
        "cut" => {
            let mut two = groups(rest, ">", members, "cut m1 > m2,m3")?;
            match (two.pop(), two.pop(), two.is_empty()) {
                (Some(to), Some(from), true) => Action::Cut(from, to),
                _ => return Err("write `cut m1 > m2,m3`: from whom, and to whom".to_owned()),
            }
        }
        "heal" if rest.is_empty() => Action::Heal,
        "heal" => return Err("write `heal` alone: it ends every cut".to_owned()),
        "loss" => match rest {
            [share] => Action::Loss(quantity::share(share)?),
            _ => return Err("write `loss 5%`".to_owned()),
        },
        "latency" => match rest {
            [range] => {
                let (from, to) = quantity::latency(range)?;
                Action::Latency(from, to)
            }
            _ => return Err("write `latency 1ms..20ms`".to_owned()),
        },
        "join" => match rest {
            [] => Action::Join(1),
            [count] => match count.parse() {
                Ok(count) if (1..=MEMBERS_MAX).contains(&count) => Action::Join(count),
                _ => return Err(format!("`{count}` is no number of members: write `join 2`")),
            },
            _ => return Err("write `join`, or `join 2`".to_owned()),
        },
        "publish" => publish(rest, members)?,
        "rollback" => match rest {
            [] => Action::Rollback(app(APP)?),
            [name] => Action::Rollback(app(name)?),
            _ => return Err("write `rollback web`".to_owned()),
        },
        "drift" => content(rest, members, "drift").map(|(whom, app)| Action::Drift(whom, app))?,
        "wipe" => content(rest, members, "wipe").map(|(whom, app)| Action::Wipe(whom, app))?,
        "rot" => content(rest, members, "rot").map(|(whom, app)| Action::Rot(whom, app))?,
        _ => return Err(format!("`{verb}` is no action: expected {VERBS}")),
    })
}

fn app(name: &str) -> Result<AppName, String> {
    AppName::parse(name)
}

/// `publish [APP] [SIZE] [on MEMBER]`.
fn publish(rest: &[&str], members: usize) -> Result<Action, String> {
    let usage = || "write `publish web 10MB`, or `publish web 10MB on m2`".to_owned();
    let (rest, on) = match rest {
        [before @ .., "on", name] => match group(name, members)?.as_slice() {
            [one] => (before, Some(*one)),
            _ => return Err("a version is published on one member".to_owned()),
        },
        all => (all, None),
    };
    match rest {
        [] => Ok(Action::Publish { app: app(APP)?, bytes: BYTES, on }),
        [name] => Ok(Action::Publish { app: app(name)?, bytes: BYTES, on }),
        [name, size] => {
            Ok(Action::Publish { app: app(name)?, bytes: quantity::size(size)?.max(1), on })
        }
        _ => Err(usage()),
    }
}

/// `VERB MEMBERS [APP]`.
fn content(rest: &[&str], members: usize, verb: &str) -> Result<(Vec<usize>, AppName), String> {
    match rest {
        [whom] => Ok((group(whom, members)?, app(APP)?)),
        [whom, name] => Ok((group(whom, members)?, app(name)?)),
        _ => Err(format!("write `{verb} m2`, or `{verb} m2 web`")),
    }
}

/// Groups with `bar` between them; `rest` is everybody who is in no other one.
fn groups(
    words: &[&str],
    bar: &str,
    members: usize,
    usage: &str,
) -> Result<Vec<Vec<usize>>, String> {
    let texts: Vec<&[&str]> = words.split(|word| *word == bar).collect();
    if texts.len() < 2 || texts.iter().any(|text| text.len() != 1) {
        return Err(format!("write `{usage}`"));
    }
    let mut named = BTreeSet::new();
    let mut found = Vec::new();
    for text in &texts {
        if text[0] == "rest" {
            found.push(None);
            continue;
        }
        let group = group(text[0], members)?;
        if let Some(twice) = group.iter().find(|member| !named.insert(**member)) {
            return Err(format!("m{} is on both sides", twice + 1));
        }
        found.push(Some(group));
    }
    if found.iter().filter(|group| group.is_none()).count() > 1 {
        return Err("`rest` can be one side only".to_owned());
    }
    let rest = || (0..members).filter(|member| !named.contains(member)).collect::<Vec<usize>>();
    let groups: Vec<Vec<usize>> =
        found.into_iter().map(|group| group.unwrap_or_else(rest)).collect();
    if groups.iter().any(Vec::is_empty) {
        return Err("one side has nobody".to_owned());
    }
    Ok(groups)
}

/// `m1`, `m1,m4`, `m2..m5`, `all`.
fn group(text: &str, members: usize) -> Result<Vec<usize>, String> {
    if text == "all" {
        return Ok((0..members).collect());
    }
    let mut group = BTreeSet::new();
    for part in text.split(',') {
        let (from, to) = part.split_once("..").unwrap_or((part, part));
        let (from, to) = (member(from, members)?, member(to, members)?);
        if from > to {
            return Err(format!("`{part}` runs backwards: write m{}..m{}", to + 1, from + 1));
        }
        group.extend(from..=to);
    }
    Ok(group.into_iter().collect())
}

fn member(text: &str, members: usize) -> Result<usize, String> {
    let number = text.strip_prefix('m').and_then(|digits| digits.parse::<usize>().ok());
    match number {
        Some(number) if (1..=members).contains(&number) => Ok(number - 1),
        Some(_) => Err(format!("there is no {text}: the members are m1 to m{members} then")),
        None => Err(format!("`{text}` is no member: expected m1 to m{members}, as m3 or m2..m5")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn actions(text: &str) -> Vec<Action> {
        parse(text, 5).unwrap().into_iter().map(|step| step.action).collect()
    }

    fn error(text: &str) -> String {
        parse(text, 5).unwrap_err().to_string()
    }

    #[test]
    fn every_action_is_read() {
        let web = AppName::parse("web").unwrap();
        let blog = AppName::parse("blog").unwrap();
        let read = actions(
            "# a day\n\
             at 1s kill m3\nat 1s silence m3\nat 2s restart m3 # back\nat 3s pause m1,m4..m5\nat 4s resume all\n\
             at 5s slow m2\nat 6s fast m2\nat 7s partition m1, m2 | rest\nat 8s heal\n\
             at 9s cut m1>m2\nat 10s loss 2.5%\nat 11s latency 1ms..20ms\nat 12s join 2\n\
             at 13s leave m7\nat 14s remove m6\nat 15s publish\nat 16s publish blog 10MB on m2\n\
             at 17s rollback blog\nat 18s drift m2\nat 19s wipe m2 blog\nat 20s rot m1 web\n",
        );
        let expected = vec![
            Action::Kill(vec![2]),
            Action::Silence(vec![2]),
            Action::Restart(vec![2]),
            Action::Pause(vec![0, 3, 4]),
            Action::Resume(vec![0, 1, 2, 3, 4]),
            Action::Slow(vec![1]),
            Action::Fast(vec![1]),
            Action::Partition(vec![vec![0, 1], vec![2, 3, 4]]),
            Action::Heal,
            Action::Cut(vec![0], vec![1]),
            Action::Loss(25),
            Action::Latency(Duration::from_millis(1), Duration::from_millis(20)),
            Action::Join(2),
            Action::Leave(vec![6]),
            Action::Remove(vec![5]),
            Action::Publish { app: web.clone(), bytes: BYTES, on: None },
            Action::Publish { app: blog.clone(), bytes: 10_000_000, on: Some(1) },
            Action::Rollback(blog.clone()),
            Action::Drift(vec![1], web.clone()),
            Action::Wipe(vec![1], blog),
            Action::Rot(vec![0], web),
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn steps_come_by_time_and_equal_times_in_order() {
        let steps = parse("at 2s kill m1\nat 1s pause m2\nat 2s restart m1\n", 2).unwrap();
        let lines: Vec<usize> = steps.iter().map(|step| step.line).collect();
        assert_eq!(lines, [2, 1, 3]);
    }

    #[test]
    fn an_error_names_the_line_and_what_is_expected() {
        for (text, line, words) in [
            ("kill m3", 1, "write `at TIME ACTION`"),
            ("\n\nat 10s kil m3", 3, "expected kill, silence, restart,"),
            ("at soon kill m3", 1, "10s, 1.5s, 250ms"),
            ("at 1s kill", 1, "write `kill m3"),
            ("at 1s kill m6", 1, "m1 to m5"),
            ("at 1s kill three", 1, "expected m1 to m5"),
            ("at 1s kill m4..m2", 1, "m2..m4"),
            ("at 1s partition m1", 1, "partition m1,m2 | m3..m5"),
            ("at 1s partition m1 | m1", 1, "m1 is on both sides"),
            ("at 1s partition all | rest", 1, "nobody"),
            ("at 1s cut m1 > m2 > m3", 1, "from whom"),
            ("at 1s heal m1", 1, "alone"),
            ("at 1s loss 5", 1, "write 5%"),
            ("at 1s latency 20ms..1ms", 1, "backwards"),
            ("at 1s publish ../x", 1, "no name for an application"),
            ("at 1s publish web 10mb", 1, "10MB"),
            ("at 1s publish web 1MB on m1,m2", 1, "one member"),
            ("at 5s kill m6\nat 9s join", 1, "m1 to m5"),
            ("at 1s join 0", 1, "join 2"),
        ] {
            let error = error(text);
            assert!(error.starts_with(&format!("line {line}: ")), "{text}: {error}");
            assert!(error.contains(words), "{text}: {error}");
        }
        assert_eq!(actions("at 1s join\nat 2s kill m6").len(), 2);
    }
}
