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
use crate::node::inspect::{Compared, Difference, Item, Lists, Op};

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
    output.line("");
    output.line("ActionList: what this member would ask others for");
    let mut table = Table::new(&["CHUNK", ">SIZE"]);
    for wanted in &lists.action {
        table.row([Cell::from(&wanted.digest), Cell::from(bytes(wanted.len.into()))]);
    }
    output.table(&table, "Nothing: the store holds all of the version.");
    output.line("");
    output.line(&format!("UpdateList: what makes it version {}", compared.version));
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
    writer.create_element("have").write_inner_content(|writer| {
        lists.have.iter().try_for_each(|listed| item(writer, Some(&listed.path), &listed.item))
    })?;
    writer.create_element("action").write_inner_content(|writer| {
        lists.action.iter().try_for_each(|wanted| {
            let len = wanted.len.to_string();
            let attributes = [("digest", wanted.digest.as_str()), ("length", &len)];
            writer.create_element("chunk").with_attributes(attributes).write_empty()?;
            Ok(())
        })
    })?;
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
    let element = writer.create_element(name).with_attribute(("path", change.path.as_str()));
    match &change.after {
        None => element.write_empty()?,
        Some(after) => element.write_inner_content(|writer| item(writer, None, after))?,
    };
    Ok(())
}

fn item(writer: &mut Out<'_>, path: Option<&str>, item: &Item) -> io::Result<()> {
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
            writer.create_element("file").with_attributes(attributes).write_empty()?;
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
    use super::*;
    use crate::{
        base::AppName,
        cli::edits,
        node::inspect::{CHANGES_MAX, Listed, Wanted},
    };

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

    #[test]
    fn a_list_that_was_cut_says_so_and_is_not_taken_for_all() {
        let change = Difference {
            op: Op::Del,
            path: "x".into(),
            before: None,
            after: None,
            text: None,
            content: None,
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
