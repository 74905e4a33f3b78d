//! What operators and their programs hand in, by the command line or the API: commands,
//! publications, questions, and lists of changes.

use std::fmt::Debug;

use althing::{
    base::{Digest, limits, operator::OperatorToken},
    cli::edits::{self as lists_from_outside, Listed, Remote},
    member::command::Command,
    node::{
        Edits, Publish,
        inspect::{Item, Question},
    },
};
use serde::{Serialize, de::DeserializeOwned};

use super::sample::{alice, app};

/// What the admin API reads: commands, publications, changes, questions.
pub(super) fn json(bytes: &[u8]) {
    fn read<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) {
        if let Ok(value) = serde_json::from_slice::<T>(bytes) {
            let again = serde_json::to_vec(&value).expect("what was read can be written");
            let value = Some(value);
            assert_eq!(serde_json::from_slice(&again).ok(), value);
        }
    }
    read::<Command>(bytes);
    read::<Publish>(bytes);
    read::<Question>(bytes);
    read::<Edits>(bytes);
}

pub(super) fn json_seeds() -> Vec<Vec<u8>> {
    let commands = [
        Command::Invite { seed: [1; 32], uses: 2, valid_s: 60 },
        Command::Withdraw { id: Some("3f9c2a".into()) },
        Command::Leave,
        Command::Rollback { app: app(), version: Some(1) },
        Command::WindowOpen { scope: vec![app()], failover: None, automatic: true },
        Command::Silence {
            app: Some(app()),
            rule: None,
            member: None,
            for_s: 3_600,
            why: "a disk is replaced".into(),
        },
        Command::OperatorAdd {
            name: alice(),
            token: OperatorToken::new([7; 32]).hash(),
            valid_s: Some(3_600),
        },
    ];
    let publish = Publish {
        app: None,
        source: "/srv/www".into(),
        message: "hello".into(),
        base: Some(u64::MAX),
        hosts: vec!["a.example".into()],
        place: Some("/srv/www".to_owned()),
        definitions: [("x-own.toml".to_owned(), "[own]".to_owned())].into(),
    };
    let mut seeds: Vec<Vec<u8>> =
        commands.iter().map(|c| serde_json::to_vec(c).expect("plain data")).collect();
    seeds.push(serde_json::to_vec(&publish).expect("plain data"));
    let questions = [
        Question::Diff { app: app(), from: Some(1), to: None, live: true, text: true },
        Question::Restore { app: app(), number: 3, into: "/tmp/lost".into() },
        Question::Definition { app: app(), name: "x-own.toml".to_owned() },
    ];
    seeds.extend(questions.iter().map(|q| serde_json::to_vec(q).expect("plain data")));
    let changes = lists_from_outside::parse(&by_url().0, &app()).expect("a good list");
    let changes = changes.into_iter().map(|listed| listed.change).collect();
    let edits = Edits { app: app(), changes, message: "films".into(), base: Some(3) };
    seeds.push(serde_json::to_vec(&edits).expect("plain data"));
    seeds.push(serde_json::to_vec(&Question::Lacking(edits)).expect("plain data"));
    seeds
}

/// A list of changes from outside, JSON or XML. What lets somebody in at a URL is shown
/// nowhere, and nothing leads from an encrypted one to one that is not.
pub(super) fn edits(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(Some(have)) = lists_from_outside::brought::have(text, &app()) {
        let again = serde_json::to_string(&have).expect("what was read can be written");
        assert_eq!(lists_from_outside::brought::have(&again, &app()), Ok(Some(have)));
    }
    if let Ok(Some(action)) = lists_from_outside::brought::action(text, &app()) {
        let again = serde_json::to_string(&action).expect("what was read can be written");
        assert_eq!(lists_from_outside::brought::action(&again, &app()), Ok(Some(action)));
    }
    let Ok(list) = lists_from_outside::parse(text, &app()) else { return };
    for Listed { change, remote, .. } in &list {
        let again = serde_json::to_vec(change).expect("what was read can be written");
        assert_eq!(serde_json::from_slice(&again).ok().as_ref(), Some(change));
        let Some(Remote { address, size, .. }) = remote else { continue };
        assert!(*size <= limits::FILE_MAX && change.content.is_none());
        assert!(matches!(&change.after, Some(Item::File { size: told, .. }) if told == size));
        let shown = address.to_string();
        assert!(!shown.split('/').nth(2).expect("a host").contains('@'), "{shown}");
        assert!(!shown.trim_end_matches("?…").contains('?'), "{shown}");
        for location in ["../x?y", "//h/", "http://h/", "?", text] {
            let Ok(next) = address.follow(location) else { continue };
            assert!(next.is_encrypted() || !address.is_encrypted(), "{address:?} {location}");
        }
    }
}

/// One list, as JSON and as XML.
fn by_url() -> (String, String) {
    let digest = Digest::of_bytes(b"film");
    let url = "https://who:secret@cdn.example:8443/a%20film.mp4?key=secret";
    let json = format!(
        r#"[{{"op":"ADD","path":"film.mp4","url":"{url}",
  "after":{{"kind":"file","mode":"0644","size":4,"digest":"{digest}"}}}},
 {{"op":"SET","path":"index.html","content":"new.html"}},{{"op":"DEL","path":"old"}}]"#
    );
    let xml = format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<althing><application name="web"><have><directory path="a&amp;b" mode="0755"/></have><update>
  <add path="film.mp4" url="{url}"><file mode="0644" size="4" digest="{digest}"/></add>
  <set path="index.html" content="new.html"/><del path="old"/>
</update></application></althing>"#
    );
    (json, xml)
}

pub(super) fn edits_seeds() -> Vec<Vec<u8>> {
    let (list, document) = by_url();
    let synced = format!(r#"[{{"app":"web","lists":{{"update":{list}}}}}]"#);
    [list, document, synced].map(String::into_bytes).into()
}
