//! The three lists: as tables for people, as XML for other programs.

use std::io;

use quick_xml::{
    Writer,
    events::{BytesDecl, Event},
};

use super::{
    inspect::Synced,
    output::Output,
    table::{Cell, Table},
    units::bytes,
};
use crate::node::inspect::{CHANGES_MAX, Compared, Difference, Item, Lists, Op, Wanted};

/// The lists of one comparison, if it has any.
pub(super) fn tables(output: &Output, compared: &Compared) {
    let Some(lists) = &compared.lists else { return };
    output.line("");
    output.line("IHaveList: what stands here");
    let mut table = Table::new(&["PATH", "KIND", "MODE", ">SIZE", "SIGNATURE"]);
    for listed in &lists.have {
        table.row(std::iter::once(Cell::from(&listed.path)).chain(cells(&listed.item)));
    }
    output.table(&table, "Nothing stands here.");
    let asked = ["what this member would ask others for", "the store holds all of the version"];
    asked_and_changed(output, lists, compared.version, asked);
}

/// The ActionList and the UpdateList: what is asked for, and why nothing is.
pub(super) fn asked_and_changed(
    output: &Output,
    lists: &Lists,
    version: u64,
    [asked, nothing]: [&str; 2],
) {
    output.line("");
    output.line(&format!("ActionList: {asked}"));
    let mut table = Table::new(&["CHUNK", ">SIZE"]);
    for wanted in &lists.action {
        table.row([Cell::from(&wanted.digest), Cell::from(bytes(wanted.len.into()))]);
    }
    output.table(&table, &format!("Nothing: {nothing}."));
    output.line("");
    output.line(&format!("UpdateList: what makes it version {version}"));
    let mut table = Table::new(&["", "PATH", "KIND", "MODE", ">SIZE", "SIGNATURE"]);
    for change in &lists.update {
        let head = [Cell::from(change.op.word()), Cell::from(&change.path)];
        table.row(head.into_iter().chain(change.after.iter().flat_map(cells)));
    }
    output.table(&table, "Nothing: it is that version.");
    if lists.more > 0 {
        output.line(&format!("Left out, because it is too much: {} items", lists.more));
    }
}

fn cells(item: &Item) -> [Cell; 4] {
    let (kind, mode, size, signature) = match item {
        Item::Directory { mode } => ("directory", mode.clone(), String::new(), String::new()),
        Item::File { mode, size, digest } => ("file", mode.clone(), bytes(*size), digest.clone()),
        Item::Symlink { target } => ("symlink", String::new(), String::new(), target.clone()),
    };
    [Cell::from(kind), Cell::from(mode), Cell::from(size), Cell::from(signature)]
}

/// All applications as one document. The elements are named as in the
/// documentation: `have`, `action`, `update` with `set`, `add` and `del`.
pub(super) fn xml(all: &[Synced]) -> String {
    let mut bytes = Vec::new();
    let mut writer = Writer::new_with_indent(&mut bytes, b' ', 2);
    // Writing into memory does not fail, and the names are our own.
    write(&mut writer, all).expect("a document in memory can be written");
    String::from_utf8(bytes).expect("a document of texts is text")
}

type Out<'b> = Writer<&'b mut Vec<u8>>;

fn write(writer: &mut Out<'_>, all: &[Synced]) -> io::Result<()> {
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    writer
        .create_element("althing")
        .write_inner_content(|writer| all.iter().try_for_each(|synced| one(writer, synced)))?;
    Ok(())
}

fn one(writer: &mut Out<'_>, synced: &Synced) -> io::Result<()> {
    let found = &synced.compared;
    let version = found.version.to_string();
    let mut attributes = vec![
        ("name", found.app.as_str()),
        ("version", version.as_str()),
        ("root", found.root.as_str()),
    ];
    attributes.extend(found.found.as_deref().map(|root| ("found", root)));
    attributes.push(("in-step", if synced.in_step { "true" } else { "false" }));
    writer.create_element("application").with_attributes(attributes).write_inner_content(
        |writer| {
            let lists = found.lists.as_ref();
            lists.map_or(Ok(()), |lists| write_lists(writer, lists, found.more_changes()))
        },
    )?;
    Ok(())
}

fn write_lists(writer: &mut Out<'_>, lists: &Lists, more: u64) -> io::Result<()> {
    // Of a list that has room nothing was left out.
    let all = lists.more.to_string();
    let cut = |len: usize| (lists.more > 0 && len >= CHANGES_MAX).then_some(("more", all.as_str()));
    let have = writer.create_element("have").with_attributes(cut(lists.have.len()));
    have.write_inner_content(|writer| {
        lists.have.iter().try_for_each(|listed| item(writer, Some(&listed.path), &listed.item, &[]))
    })?;
    let action = writer.create_element("action").with_attributes(cut(lists.action.len()));
    action.write_inner_content(|writer| chunks(writer, &lists.action))?;
    let left_out = more.to_string();
    let more = (more > 0).then_some(("more", left_out.as_str()));
    writer.create_element("update").with_attributes(more).write_inner_content(|writer| {
        lists.update.iter().try_for_each(|change| update(writer, change))
    })?;
    Ok(())
}

fn update(writer: &mut Out<'_>, change: &Difference) -> io::Result<()> {
    let name = match change.op {
        Op::Set => "set",
        Op::Add => "add",
        Op::Del => "del",
    };
    let Difference { before, after, .. } = change;
    let element = writer.create_element(name).with_attribute(("path", change.path.as_str()));
    if before.is_none() && after.is_none() {
        element.write_empty()?;
        return Ok(());
    }
    element.write_inner_content(|writer| {
        if let Some(before) = before {
            let element = writer.create_element("before");
            element.write_inner_content(|writer| item(writer, None, before, &[]))?;
        }
        after.iter().try_for_each(|after| item(writer, None, after, &change.chunks))
    })?;
    Ok(())
}

fn chunks(writer: &mut Out<'_>, all: &[Wanted]) -> io::Result<()> {
    all.iter().try_for_each(|wanted| {
        let len = wanted.len.to_string();
        let attributes = [("digest", wanted.digest.as_str()), ("length", &len)];
        writer.create_element("chunk").with_attributes(attributes).write_empty()?;
        Ok(())
    })
}

/// With the pieces of a file, where they are known.
fn item(
    writer: &mut Out<'_>,
    path: Option<&str>,
    item: &Item,
    pieces: &[Wanted],
) -> io::Result<()> {
    let path = path.map(|path| ("path", path));
    match item {
        Item::Directory { mode } => {
            let attributes = path.into_iter().chain([("mode", mode.as_str())]);
            writer.create_element("directory").with_attributes(attributes).write_empty()?;
        }
        Item::File { mode, size, digest } => {
            let size = size.to_string();
            let own = [("mode", mode.as_str()), ("size", &size), ("digest", digest.as_str())];
            let attributes = path.into_iter().chain(own);
            let element = writer.create_element("file").with_attributes(attributes);
            match pieces {
                [] => element.write_empty()?,
                all => element.write_inner_content(|writer| chunks(writer, all))?,
            };
        }
        Item::Symlink { target } => {
            let attributes = path.into_iter().chain([("target", target.as_str())]);
            writer.create_element("symlink").with_attributes(attributes).write_empty()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{base::AppName, cli::edits, node::inspect::Listed};

    fn compared() -> Compared {
        Compared {
            app: AppName::parse("web").unwrap(),
            version: 1,
            root: "r".into(),
            found: None,
            same: false,
            full: true,
            files: 1,
            bytes_read: 3,
            took_ms: 0,
            differing: 1,
            lacking: 1,
            lists: None,
        }
    }

    fn synced() -> Synced {
        Synced {
            compared: compared(),
            vote: "agreed".into(),
            ballots: 1,
            electorate: 1,
            in_step: false,
            waited_ms: 0,
        }
    }

    #[test]
    fn hostile_names_stay_inside_their_attributes() {
        let file = || Item::File { mode: "0644".into(), size: 3, digest: "ab".into() };
        let name = r#"<&"'>x"#.to_owned();
        let lists = Lists {
            have: vec![Listed { path: name.clone(), item: file() }],
            action: vec![Wanted { digest: "cd".into(), len: 7 }],
            update: vec![Difference {
                op: Op::Add,
                path: name,
                before: None,
                after: Some(Item::Symlink { target: "a\"b".into() }),
                text: None,
                content: None,
                chunks: Vec::new(),
            }],
            more: 0,
        };
        let compared = Compared { lists: Some(lists), ..compared() };
        let synced = Synced { compared, ..synced() };
        let update = synced.compared.lists.as_ref().unwrap().update.clone();
        let text = xml(&[synced]);
        let read = edits::parse(&text, &AppName::parse("web").unwrap()).unwrap();
        let read: Vec<Difference> = read.into_iter().map(|listed| listed.change).collect();
        assert_eq!(read, update, "what is written can be read again");
        let mut reader = quick_xml::Reader::from_str(&text);
        let mut names = Vec::new();
        let mut paths = Vec::new();
        loop {
            match reader.read_event().unwrap() {
                Event::Eof => break,
                Event::Start(e) | Event::Empty(e) => {
                    names.push(e.name().as_ref().to_owned());
                    for attribute in e.attributes().map(Result::unwrap) {
                        if attribute.key.as_ref() == "path" {
                            let path = quick_xml::escape::unescape(&attribute.value).unwrap();
                            paths.push(path.into_owned());
                        }
                    }
                }
                _ => {}
            }
        }
        let expected = [
            "althing",
            "application",
            "have",
            "file",
            "action",
            "chunk",
            "update",
            "add",
            "symlink",
        ];
        assert_eq!(names, expected, "{text}");
        assert_eq!(paths, [r#"<&"'>x"#, r#"<&"'>x"#]);
    }

    fn words() -> impl Strategy<Value = String> {
        "[a-zü<>&\"' .=/]{1,12}"
    }

    fn items() -> impl Strategy<Value = Item> {
        let mode = || "0[0-7]{3}";
        prop_oneof![
            mode().prop_map(|mode| Item::Directory { mode }),
            (mode(), any::<u64>(), "[0-9a-f]{64}").prop_map(|(mode, size, digest)| Item::File {
                mode,
                size,
                digest
            }),
            words().prop_map(|target| Item::Symlink { target }),
        ]
    }

    fn pieces() -> impl Strategy<Value = Vec<Wanted>> {
        let one =
            ("[0-9a-f]{64}", 1..=1_u32 << 20).prop_map(|(digest, len)| Wanted { digest, len });
        prop::collection::vec(one, 0..4)
    }

    fn differences() -> impl Strategy<Value = Difference> {
        let op = prop_oneof![Just(Op::Set), Just(Op::Add), Just(Op::Del)];
        let sides = (prop::option::of(items()), prop::option::of(items()));
        (op, words(), sides, pieces()).prop_map(|(op, path, (before, after), chunks)| {
            // Only a file has pieces.
            let is_file = matches!(after, Some(Item::File { .. }));
            let chunks = if is_file { chunks } else { Vec::new() };
            Difference { op, path, before, after, text: None, content: None, chunks }
        })
    }

    proptest! {
        /// Whatever is printed, as JSON or as XML, is read as what it was: all three lists.
        #[test]
        fn what_is_printed_is_read_as_what_it_was(
            update in prop::collection::vec(differences(), 0..5),
            have in prop::collection::btree_map("[a-z<&\"]{1,8}", items(), 0..5),
            action in pieces(),
        ) {
            // Sizes of files have a bound; those of an UpdateList have it when they are looked at.
            let bound = |item| match item {
                Item::File { mode, size, digest } => Item::File { mode, size: size >> 32, digest },
                other => other,
            };
            let have = have.into_iter().map(|(path, item)| Listed { path, item: bound(item) });
            let lists = Lists { have: have.collect(), action, update, more: 0 };
            let (have, action, update) =
                (lists.have.clone(), lists.action.clone(), lists.update.clone());
            let differing = update.len() as u64;
            let compared = Compared { lists: Some(lists), differing, ..compared() };
            let other = Compared { app: AppName::parse("other").unwrap(), ..compared.clone() };
            let all = [other, compared].map(|compared| Synced { compared, ..synced() });
            let web = AppName::parse("web").unwrap();
            let dir = tempfile::tempdir().unwrap();
            for text in [serde_json::to_string(&all).unwrap(), xml(&all)] {
                let read = edits::parse(&text, &web).unwrap();
                let read: Vec<Difference> = read.into_iter().map(|listed| listed.change).collect();
                prop_assert_eq!(&read, &update);
                let path = dir.path().join("list");
                std::fs::write(&path, &text).unwrap();
                prop_assert_eq!(&edits::brought::read_have(&path, &web).unwrap(), &have);
                prop_assert_eq!(&edits::brought::read_action(&path, &web).unwrap(), &action);
            }
        }
    }

    #[test]
    fn a_list_that_was_cut_says_so_and_is_not_taken_for_all() {
        let change = Difference {
            op: Op::Del,
            path: "x".into(),
            before: None,
            after: None,
            text: None,
            content: None,
            chunks: Vec::new(),
        };
        let update = vec![change; CHANGES_MAX];
        let mut lists = Lists { have: Vec::new(), action: Vec::new(), update, more: 3 };
        let web = AppName::parse("web").unwrap();
        let parse = |lists: &Lists| {
            let differing = CHANGES_MAX as u64 + 2;
            let compared = Compared { lists: Some(lists.clone()), differing, ..compared() };
            let synced = Synced { compared, ..synced() };
            let json = serde_json::to_string(&[&synced]).unwrap();
            let xml = xml(&[synced]);
            [json, xml].map(|text| edits::parse(&text, &web).map(|list| list.len()))
        };
        for refused in parse(&lists) {
            let why = refused.unwrap_err();
            assert!(why.contains("2 more changes were left out"), "{why}");
        }
        // Somebody took one out of it: of a list that was whole, as far as can be told.
        lists.update.pop();
        assert_eq!(parse(&lists)[0], Ok(CHANGES_MAX - 1));
    }
}
