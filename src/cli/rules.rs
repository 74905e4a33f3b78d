//! `althing rules check`: the rules of a manifest as they are understood, before anybody judges
//! by them. No member is asked.

use std::{fs, io::ErrorKind, path::Path, process::ExitCode};

use serde::Serialize;

use super::output::{Output, Paint, note};
use crate::{
    base::{Reason, Refusal},
    driver::{Definition, Part, Wrong},
    node::manifest::{Manifest, SIZE_MAX, line_and_column},
    proto::rule,
};

pub(super) fn check(output: &Output, file: &Path) -> Result<ExitCode, Refusal> {
    let text = read(file)?;
    let Findings { rules, wrong } = look(&text);
    let file = file.display().to_string();
    if output.json {
        let shown = serde_json::json!({ "file": file, "rules": rules, "wrong": wrong });
        output.document(&shown);
    } else {
        for Understood { name, rule } in &rules {
            output.painted(Paint::Bold, name, &format!("  {rule}"));
        }
        if rules.is_empty() && wrong.is_empty() {
            output.line("It has no rules.");
        }
        for found in &wrong {
            note(&found.shown(&file, &text));
        }
    }
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) fn read(file: &Path) -> Result<String, Refusal> {
    let refuse = |reason, why: String, todo: &str| {
        Refusal::new(reason, "The rules were not read.", why, todo)
    };
    let shown = file.display();
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => {
            let why = format!("{shown} is not there.");
            refuse(Reason::NotFound, why, "Name an althing.toml.")
        }
        _ => {
            let why = format!("{shown} can't be read: {error}.");
            refuse(Reason::Failed, why, "Name an althing.toml that you may read.")
        }
    };
    let metadata = fs::metadata(file).map_err(failed)?;
    if !metadata.is_file() || metadata.len() > SIZE_MAX {
        let why = format!("{shown} is no file, or larger than 64 KiB.");
        return Err(refuse(Reason::Invalid, why, "Name an althing.toml."));
    }
    fs::read_to_string(file).map_err(failed)
}

/// What there is in a manifest; what is wrong, in the order of the text.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub rules: Vec<Understood>,
    pub wrong: Vec<Mistake>,
}

/// A rule, as it is understood.
#[derive(Debug, Serialize)]
pub(super) struct Understood {
    pub name: String,
    pub rule: String,
}

/// Something that is wrong.
#[derive(Debug, Serialize)]
pub(super) struct Mistake {
    /// Bytes from the start.
    #[serde(skip)]
    at: usize,
    line: usize,
    column: usize,
    /// In which rule, if in one.
    rule: Option<String>,
    /// A sentence.
    why: String,
}

impl Mistake {
    fn new(text: &str, at: usize, rule: Option<&str>, why: impl Into<String>) -> Self {
        let (line, column) = line_and_column(text, at);
        Self { at, line, column, rule: rule.map(str::to_owned), why: why.into() }
    }

    /// As compilers tell theirs: the place, the line, and a caret under it.
    pub(super) fn shown(&self, file: &str, text: &str) -> String {
        let Self { at, line, column, rule, why } = self;
        let rule = rule.as_ref().map(|rule| format!("rule {rule}: ")).unwrap_or_default();
        let at = if text.is_char_boundary(*at) { *at } else { text.len() };
        let place = rule::Wrong { at, why: String::new() }.shown(text);
        format!("{file}:{line}:{column}: {rule}{why}\n{}", place.trim_end())
    }
}

pub(super) fn look(text: &str) -> Findings {
    let mut found = Findings::default();
    let manifest = match Manifest::parse_at(text) {
        Ok(manifest) => manifest,
        Err((at, why)) => {
            found.wrong.push(Mistake::new(text, at, None, format!("{why}.")));
            return found;
        }
    };
    let all = manifest.rules();
    let mut tell = |wrong: Wrong, rule: Option<&str>| {
        let at = manifest.place(&wrong).unwrap_or(0);
        found.wrong.push(Mistake::new(text, at, rule, wrong.why));
    };
    for (name, sentence) in &all.rules {
        let (name, at) = (name.as_str(), ["rules", name.as_str()]);
        match rule::parse(sentence) {
            Ok(rule) => {
                let lost = all.undefined(&rule.then);
                if lost.is_empty() {
                    found.rules.push(Understood { name: name.to_owned(), rule: rule.to_string() });
                }
                for why in lost {
                    tell(Wrong::new(at, format!("it {why}.")), Some(name));
                }
            }
            Err(wrong) => {
                let said = Wrong::new(at, format!("{}.", wrong.why));
                tell(Wrong { part: Part::Text(wrong.at), ..said }, Some(name));
            }
        }
    }
    // Of the sentences all is said.
    let is_rule = |wrong: &Wrong| wrong.at.len() > 1 && wrong.at[0] == "rules";
    for wrong in all.wrong().into_iter().filter(|wrong| !is_rule(wrong)) {
        tell(wrong, None);
    }
    found.wrong.sort_by_key(|wrong| wrong.at);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        look(text).wrong.iter().map(|wrong| wrong.shown("f.toml", text)).collect()
    }

    #[test]
    fn rules_are_shown_as_they_are_understood() {
        let text = "[rules]\nb = 'when   cpu>90% for 120s then log'\n\
                    a = \"when time 22:00-06:00 fri+sat then in 2\"\n";
        let Findings { rules, wrong } = look(text);
        assert!(wrong.is_empty(), "{wrong:?}");
        let rules: Vec<_> = rules.iter().map(|r| format!("{}: {}", r.name, r.rule)).collect();
        assert_eq!(
            rules,
            ["a: when time 22:00-06:00 fri+sat then in 2", "b: when cpu > 90% for 2m then log"]
        );
    }

    #[test]
    fn a_mistake_is_shown_where_it_is() {
        assert_eq!(
            shown("[rules]\nhot = \"when cpu > 90% for soon then log\"\n"),
            [
                "f.toml:2:27: rule hot: `soon` is no span of time: write 10s, 1.5s, 250ms, 2m or 1h.\n\
              hot = \"when cpu > 90% for soon then log\"\n\
              \u{20}                         ^"
            ]
        );
        assert_eq!(
            shown("[rules]\na = 'when cpu > 9% then mail ops'\n"),
            ["f.toml:2:5: rule a: it sends mail to ops, which is not defined: add [mail.ops], or \
              correct the name.\na = 'when cpu > 9% then mail ops'\n    ^"]
        );
        let places = |text: &str| -> Vec<_> {
            look(text).wrong.iter().map(|wrong| (wrong.line, wrong.column)).collect()
        };
        // Escapes, and lines that are not those of the sentence.
        for (text, place) in [
            ("[rules]\na = \"\\u0077hen cpu > x then log\"\n", (2, 22)),
            ("[rules]\na = \"\"\"\nwhen cpu\n > x then log\"\"\"\n", (4, 4)),
            ("[rules]\na = \"\"\"when \\\n   cpu > x then log\"\"\"\n", (3, 10)),
            ("[rules]\na = '''\r\nwhen cpu > x'''\n", (3, 12)),
            ("[rules]\na = \"when \\t cpu > x\"\n", (2, 20)),
            ("[rules]\na = \"\"\n", (2, 6)),
            ("rules.a = 'when cpu'\n", (1, 20)),
        ] {
            assert_eq!(places(text), [place], "{text}");
        }
    }

    #[test]
    fn what_is_wrong_beside_rules_is_found_as_well() {
        assert_eq!(
            shown("[webhook.pager]\nurl = \"pager\"\n"),
            ["f.toml:2:7: [webhook.pager] url = \"pager\" can't be asked, because it begins \
              neither with https:// nor with http://: write it as \
              https://pager.example.org/hook.\nurl = \"pager\"\n      ^"]
        );
        for (text, says) in [
            ("[rules]\nA = \"x\"\n", "f.toml:2:1: \"A\" is no name for a rule"),
            ("[mail.ops]\nto = 3\n", "f.toml:2:6: "),
            ("[rules\n", "f.toml:1:"),
        ] {
            let shown = shown(text);
            assert!(shown.len() == 1 && shown[0].contains(says), "{text}: {shown:?}");
        }
    }
}
