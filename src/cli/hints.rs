//! Commands that are printed for people to run next: made such that they can be copied as they are.
//!
//! Sentences name commands between backticks, as `althing status`, and are written where nobody
//! knows which data directory the reader uses: in the member, or on another one. Where that is not
//! the one that every command takes by itself, `--data DIR` is added here, on the way to the
//! terminal. A command that is to be run on another member stays as it is: where that one keeps
//! its data is not known here.

use std::{borrow::Cow, path::Path, sync::OnceLock};

/// What is added to commands; nothing where none is needed. Known before anything is printed.
static DATA: OnceLock<Option<String>> = OnceLock::new();

/// Commands that ask no member.
const WITHOUT: [&str; 7] = ["init", "demo", "sim", "config", "completions", "man", "help"];
/// Who reads one of these in a sentence runs its commands on another member.
const ELSEWHERE: [&str; 8] = [
    "another member",
    "other members",
    "any member",
    "any other",
    "that member",
    "on a member",
    "on the member",
    "on the recovered member",
];

/// From now on commands are for the member whose data lie in `data`. `by_itself` is where a command
/// looks that is not told.
pub(super) fn begin(data: &Path, by_itself: Option<&Path>) {
    // Called once by each process; a second time would change nothing.
    let _known = DATA.set(option(data, by_itself));
}

/// `text` with all that its commands need.
pub(super) fn copyable(text: &str) -> Cow<'_, str> {
    match DATA.get().and_then(Option::as_deref) {
        Some(option) => Cow::Owned(with(text, option)),
        None => Cow::Borrowed(text),
    }
}

/// Whether this process was told of another data directory than commands take by themselves.
pub(super) fn is_elsewhere() -> bool {
    DATA.get().is_some_and(Option::is_some)
}

fn option(data: &Path, by_itself: Option<&Path>) -> Option<String> {
    if by_itself == Some(data) {
        return None;
    }
    // What can't be printed can't be copied either.
    let text = data.to_str().filter(|text| !text.chars().any(char::is_control))?;
    Some(format!(" --data {}", quoted(text)))
}

/// As one word of a shell (POSIX).
fn quoted(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:,@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("'{}'", text.replace('\'', r"'\''")))
}

/// Between backticks stands every second piece.
fn with(text: &str, option: &str) -> String {
    let mut out = String::with_capacity(text.len() + option.len());
    for sentence in text.split_inclusive(". ") {
        let is_here = !ELSEWHERE.iter().any(|word| sentence.contains(word));
        for (at, piece) in sentence.split('`').enumerate() {
            if at > 0 {
                out.push('`');
            }
            out.push_str(piece);
            if at % 2 == 1 && is_here && wants_data(piece) {
                out.push_str(option);
            }
        }
    }
    out
}

fn wants_data(command: &str) -> bool {
    let words: Vec<&str> = command.split_whitespace().collect();
    match words.as_slice() {
        ["althing", "rules", "check", ..] => false,
        ["althing", name, rest @ ..] => {
            let is_complete = rest.iter().any(|word| matches!(*word, "--help" | "--data"));
            !WITHOUT.contains(name) && !name.starts_with('-') && !is_complete
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_named_where_a_command_does_not_find_it_by_itself() {
        let by_itself = Path::new("/var/lib/althing");
        let of = |data: &str| option(Path::new(data), Some(by_itself));
        assert_eq!(of("/var/lib/althing"), None);
        assert_eq!(of("/srv/a+b"), Some(" --data /srv/a+b".to_owned()));
        assert_eq!(option(by_itself, None), Some(" --data /var/lib/althing".to_owned()));
        assert_eq!(of("/srv/a\nb"), None, "nobody could copy it");
    }

    #[test]
    fn what_a_shell_would_take_apart_is_quoted() {
        for (text, expected) in [
            ("/srv/one", "/srv/one"),
            ("/srv/my data", "'/srv/my data'"),
            ("/srv/$HOME;x", "'/srv/$HOME;x'"),
            ("/srv/it's", r"'/srv/it'\''s'"),
            ("~/x", "'~/x'"),
            ("/srv/Þing", "'/srv/Þing'"),
        ] {
            assert_eq!(quoted(text), expected);
        }
    }

    #[test]
    fn commands_for_here_get_it_and_nothing_else_does() {
        let with = |text: &str| super::with(text, " --data /d");
        for (text, expected) in [
            ("See `althing apps`.", "See `althing apps --data /d`."),
            (
                "Look with `althing history web`, or `althing window`.",
                "Look with `althing history web --data /d`, or `althing window --data /d`.",
            ),
            // Cut in two by the lines of the source, or at the end of the text.
            ("`althing secret set\n  web`", "`althing secret set\n  web --data /d`"),
            ("Start it with `althing up`", "Start it with `althing up --data /d`"),
            ("`althing rules test FILE`", "`althing rules test FILE --data /d`"),
            (
                "Ask on another member with `althing invite`. See `althing status`.",
                "Ask on another member with `althing invite`. See `althing status --data /d`.",
            ),
        ] {
            assert_eq!(with(text), expected);
        }
        for same in [
            "Run `althing remove a` on another member, and join anew.",
            "Run `althing rotate-key` on the member itself.",
            "See `althing sim --help`, `althing recover --help` and `althing --help`.",
            "Try `althing init` or `althing rules check FILE`.",
            "See `ulimit -n`, and `althing`.",
            "It is `althing status --data /e`.",
            "Nothing between quotes, althing status.",
            "A quote ` that is alone, althing status",
            "",
        ] {
            assert_eq!(with(same), same);
        }
    }

    #[test]
    fn a_reader_who_uses_the_usual_directory_sees_what_was_written() {
        // Nothing was begun in this process.
        assert!(!is_elsewhere());
        assert_eq!(copyable("See `althing apps`."), "See `althing apps`.");
    }
}
