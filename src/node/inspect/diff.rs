//! What differs between two trees, and in text files line by line.

use std::{ops::Range, path::PathBuf, sync::Arc};

use imara_diff::{Algorithm, Hunk, InternedInput, Token};
use serde::{Deserialize, Serialize};

use super::{View, Wanted, failed, pieces};
use crate::{
    base::{
        AppName, Refusal, RelPath,
        catalog::Version,
        tree::{Change, Entry, Node, Tree, changes},
    },
    driver::Mode,
};

/// Differences in one answer.
pub const CHANGES_MAX: usize = 100_000;
/// The largest file whose lines are compared, bytes.
const TEXT_BYTES_MAX: u64 = 1 << 20;
/// All that is said of lines, bytes.
const TEXT_ALL_MAX: usize = 8 << 20;
/// Lines around a difference.
const CONTEXT: u32 = 3;

/// What differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// In which application.
    pub app: AppName,
    /// The older side, in words.
    pub from: String,
    /// The newer side.
    pub to: String,
    /// Whether nothing differs.
    pub same: bool,
    /// Paths that are only in `to`.
    pub added: u64,
    /// Paths that are in both, and differ.
    pub changed: u64,
    /// Paths that are only in `from`.
    pub deleted: u64,
    /// What differs, sorted by path.
    pub changes: Vec<Difference>,
    /// How many more there are.
    pub more: u64,
}

/// What happens to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Op {
    /// There, but different.
    Set,
    /// Not there yet.
    Add,
    /// There, and not wanted.
    Del,
}

impl Op {
    /// As it is written in the lists.
    pub fn word(self) -> &'static str {
        match self {
            Self::Set => "SET",
            Self::Add => "ADD",
            Self::Del => "DEL",
        }
    }
}

/// One path that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// What happens to it.
    pub op: Op,
    /// Which.
    pub path: String,
    /// What stood there.
    #[serde(default)]
    pub before: Option<Item>,
    /// What stands there then.
    #[serde(default)]
    pub after: Option<Item>,
    /// The lines that differ, as a unified diff; none for what is no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// In a list that is to be published: the file with the new content, on the
    /// member that is asked. Without it the content is looked up by its signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<PathBuf>,
    /// The pieces of a file's new content, in their order: where no kept version has it, it is
    /// made of these, if the store of the member that is asked has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chunks: Vec<Wanted>,
}

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Item {
    /// A directory.
    Directory {
        /// Permissions, octal.
        mode: String,
    },
    /// A regular file.
    File {
        /// Permissions, octal.
        mode: String,
        /// Bytes.
        size: u64,
        /// BLAKE3 of its bytes.
        digest: String,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points; for people: what is no text is escaped or lost.
        target: String,
    },
}

impl From<&Node> for Item {
    fn from(node: &Node) -> Self {
        let octal = |mode: u16| format!("{mode:04o}");
        match node {
            Node::Directory { mode } => Self::Directory { mode: octal(*mode) },
            Node::File { mode, size, digest, .. } => {
                Self::File { mode: octal(*mode), size: *size, digest: digest.to_string() }
            }
            Node::Symlink { target } => {
                let shown = String::from_utf8_lossy(target);
                let clean = |c: char| {
                    if c.is_control() { c.escape_default().to_string() } else { c.to_string() }
                };
                Self::Symlink { target: shown.chars().map(clean).collect() }
            }
        }
    }
}

/// One side of a comparison.
struct Side {
    words: String,
    tree: Arc<Tree>,
    /// It stands in the live tree; otherwise its content is in the store.
    live: bool,
}

impl View<'_> {
    /// The newest kept version before `number`; 0 for none.
    fn number_before(&self, number: u64) -> u64 {
        let before = self.application.versions.iter().rev().find(|v| v.number < number);
        before.map_or(0, |v| v.number)
    }

    pub(super) fn diff(
        &self,
        app: AppName,
        from: Option<u64>,
        to: Option<u64>,
        live: bool,
        text: bool,
    ) -> Result<Diff, Refusal> {
        let what = format!("{app} was not compared.");
        let current = self.application.current().number;
        let to_number = to.unwrap_or(current);
        let from_number =
            from.unwrap_or_else(|| if live { current } else { self.number_before(to_number) });
        let side = |version: &Version| {
            let tree = self.listing(&version.root, &what)?;
            Ok::<_, Refusal>(Side {
                words: format!("version {}", version.number),
                tree,
                live: false,
            })
        };
        // Of an application with one version everything is new.
        let from = if from.is_none() && !live && from_number == 0 {
            Side { words: "nothing".to_owned(), tree: Arc::default(), live: false }
        } else {
            side(self.version(from_number, &what)?)?
        };
        let mut strange = Vec::new();
        let to = if live {
            let mut scan = self.live(&app, Mode::Quick, &what)?;
            scan.fit(&from.tree).map_err(|e| failed(&what, &e.into()))?;
            strange = scan.strange;
            Side { words: "what stands here".to_owned(), tree: Arc::new(scan.tree), live: true }
        } else {
            side(self.version(to_number, &what)?)?
        };
        let mut list = differences(&from.tree, &to.tree);
        for path in strange {
            let (before, after) = (from.tree.get(&path).cloned(), None);
            let op = if before.is_some() { Op::Set } else { Op::Add };
            list.push(Differing { op, path, before, after });
        }
        let count = |op| list.iter().filter(|d| d.op == op).count() as u64;
        let (added, changed, deleted) = (count(Op::Add), count(Op::Set), count(Op::Del));
        let more = list.len().saturating_sub(CHANGES_MAX) as u64;
        list.truncate(CHANGES_MAX);
        let mut room = if text { TEXT_ALL_MAX } else { 0 };
        let changes: Vec<Difference> = list
            .iter()
            .map(|differing| {
                let text = (room > 0).then(|| self.lines(&app, differing, &from, &to)).flatten();
                let text = text.filter(|text| text.len() <= room);
                room -= text.as_ref().map_or(0, String::len);
                Difference { text, ..differing.told() }
            })
            .collect();
        let same = changes.is_empty();
        Ok(Diff {
            app,
            from: from.words,
            to: to.words,
            same,
            added,
            changed,
            deleted,
            changes,
            more,
        })
    }

    /// The lines in which a file differs; nothing if either side is no text.
    fn lines(
        &self,
        app: &AppName,
        differing: &Differing,
        from: &Side,
        to: &Side,
    ) -> Option<String> {
        let content = |node: &Option<Node>, side: &Side| match node {
            Some(Node::File { .. }) => self.text(app, &differing.path, node.as_ref()?, side),
            _ => Some(String::new()),
        };
        let (before, after) = (content(&differing.before, from)?, content(&differing.after, to)?);
        let name = |node: &Option<Node>, letter: &str| match node {
            Some(Node::File { .. }) => format!("{letter}/{}", differing.path),
            _ => "/dev/null".to_owned(),
        };
        let (old, new) = (name(&differing.before, "a"), name(&differing.after, "b"));
        let hunks = hunks(&before, &after);
        (!hunks.is_empty()).then(|| format!("--- {old}\n+++ {new}\n{hunks}"))
    }

    fn text(&self, app: &AppName, path: &RelPath, node: &Node, side: &Side) -> Option<String> {
        let Node::File { size, .. } = node else { return None };
        if *size > TEXT_BYTES_MAX {
            return None;
        }
        let bytes = if side.live {
            // It may have changed, or gone, since it was listed.
            self.content.live_file(app, path, TEXT_BYTES_MAX).ok()??
        } else {
            let mut bytes = Vec::new();
            for chunk in pieces(node) {
                bytes.extend(self.store.read(&chunk.digest).ok()?);
            }
            bytes
        };
        let text = String::from_utf8(bytes).ok()?;
        (!text.contains('\0')).then_some(text)
    }
}

/// The lines in which two texts differ, as the hunks of a unified diff, as patch(1) takes them.
fn hunks(before: &str, after: &str) -> String {
    let input = InternedInput::new(before, after);
    // Bounded effort, also for what has hardly a line in common.
    let mut diff = imara_diff::Diff::compute(Algorithm::Histogram, &input);
    diff.postprocess_lines(&input);
    let differing: Vec<Hunk> = diff.hunks().collect();
    let (old, new) = (&input.before[..], &input.after[..]);
    let mut text = String::new();
    let lines = |text: &mut String, sign: char, side: &[Token], range: Range<u32>| {
        for token in &side[range.start as usize..range.end as usize] {
            let line = input.interner[*token];
            text.push(sign);
            text.push_str(line);
            if !line.ends_with('\n') {
                text.push_str("\n\\ No newline at end of file\n");
            }
        }
    };
    // Those whose lines around them meet are told as one.
    let meet = |one: &Hunk, next: &Hunk| next.before.start - one.before.end <= 2 * CONTEXT;
    for group in differing.chunk_by(meet) {
        let (first, last) = (&group[0], &group[group.len() - 1]);
        // Around them both sides are the same.
        let above = first.before.start.min(CONTEXT);
        let below = (old.len() as u32 - last.before.end).min(CONTEXT);
        let from = first.before.start - above..last.before.end + below;
        let to = first.after.start - above..last.after.end + below;
        text.push_str(&format!("@@ -{} +{} @@\n", shown(&from), shown(&to)));
        let mut at = from.start;
        for Hunk { before, after } in group.iter().cloned() {
            lines(&mut text, ' ', old, at..before.start);
            at = before.end;
            lines(&mut text, '-', old, before);
            lines(&mut text, '+', new, after);
        }
        lines(&mut text, ' ', old, at..from.end);
    }
    text
}

/// Lines as the head of a hunk names them: counted from 1, and of none the line before.
fn shown(lines: &Range<u32>) -> String {
    match lines.end - lines.start {
        0 => format!("{},0", lines.start),
        1 => format!("{}", lines.start + 1),
        len => format!("{},{len}", lines.start + 1),
    }
}

/// A path that differs, and how.
pub(super) struct Differing {
    pub op: Op,
    pub path: RelPath,
    pub before: Option<Node>,
    pub after: Option<Node>,
}

impl Differing {
    /// As others are told of it.
    pub fn told(&self) -> Difference {
        Difference {
            op: self.op,
            path: self.path.to_string(),
            before: self.before.as_ref().map(Item::from),
            after: self.after.as_ref().map(Item::from),
            text: None,
            content: None,
            chunks: Vec::new(),
        }
    }
}

/// What turns `have` into `want`, with both sides of each path, sorted by path.
pub(super) fn differences(have: &Tree, want: &Tree) -> Vec<Differing> {
    let mut list: Vec<Differing> = changes(have, want)
        .into_iter()
        .map(|change| match change {
            Change::Set(Entry { path, node }) => {
                let before = have.get(&path).cloned();
                Differing { op: Op::Set, before, path, after: Some(node) }
            }
            Change::Add(Entry { path, node }) => {
                Differing { op: Op::Add, before: None, path, after: Some(node) }
            }
            Change::Del(path) => {
                let before = have.get(&path).cloned();
                Differing { op: Op::Del, before, path, after: None }
            }
        })
        .collect();
    list.sort_by(|a, b| a.path.components().cmp(b.path.components()));
    list
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_that_differ_are_told_as_patch_takes_them() {
        let cases = [
            ("", "a\n", "@@ -0,0 +1 @@\n+a\n"),
            ("a\n", "", "@@ -1 +0,0 @@\n-a\n"),
            ("a\nb\n", "a\nc\n", "@@ -1,2 +1,2 @@\n a\n-b\n+c\n"),
            ("a", "a\n", "@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n"),
            (
                "a\nb\nz",
                "a\nc\nz",
                "@@ -1,3 +1,3 @@\n a\n-b\n+c\n z\n\\ No newline at end of file\n",
            ),
            (
                "1\n2\n3\n4\n5\n6\n7\n8\n9\n",
                "0\n1\n2\n3\n4\n5\n6\n7\n8\n",
                "@@ -1,3 +1,4 @@\n+0\n 1\n 2\n 3\n@@ -6,4 +7,3 @@\n 6\n 7\n 8\n-9\n",
            ),
            ("same\n", "same\n", ""),
        ];
        for (before, after, told) in cases {
            assert_eq!(hunks(before, after), told, "{before:?} {after:?}");
        }
    }

    /// Does to `before` what `hunks` say, as patch(1) would.
    fn patched(before: &str, hunks: &str) -> String {
        let old: Vec<&str> = before.split_inclusive('\n').collect();
        let (mut new, mut at) = (String::new(), 0);
        let mut lines = hunks.split_inclusive('\n').peekable();
        while let Some(line) = lines.next() {
            if let Some(header) = line.strip_prefix("@@ -") {
                let range = header.split(' ').next().unwrap();
                let (start, len) = range.split_once(',').unwrap_or((range, "1"));
                let first: usize = start.parse().unwrap();
                let first = if len == "0" { first } else { first - 1 };
                new.extend(old[at..first].iter().copied());
                at = first;
                continue;
            }
            let bare = lines.next_if(|next| next.starts_with('\\')).is_some();
            let (sign, text) = line.split_at(1);
            let text = if bare { text.strip_suffix('\n').unwrap() } else { text };
            if sign != "+" {
                assert_eq!(old[at], text);
                at += 1;
            }
            if sign != "-" {
                new.push_str(text);
            }
        }
        new.extend(old[at..].iter().copied());
        new
    }

    proptest! {
        #[test]
        fn what_is_told_leads_from_one_side_to_the_other(
            before in "([ab\n]{0,3}\n){0,12}[ab]?",
            after in "([ab\n]{0,3}\n){0,12}[ab]?",
        ) {
            prop_assert_eq!(patched(&before, &hunks(&before, &after)), after);
        }
    }
}
