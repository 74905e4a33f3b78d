//! Lists of changes as they come from outside: what `sync --show-lists` and
//! `diff --json` print, or what somebody wrote by hand; JSON or XML.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use quick_xml::{
    Reader, XmlVersion,
    events::{BytesStart, Event},
};
use serde_json::Value;

use crate::{
    base::{AppName, Reason, Refusal},
    node::inspect::{Difference, Item, Op},
};

/// The largest list, bytes.
const SIZE_MAX: u64 = 48 << 20;

/// Reads the changes of `app` in the list at `path`. Names of files in it are
/// meant from the directory in which it stands.
pub(super) fn read(path: &Path, app: &AppName) -> Result<Vec<Difference>, Refusal> {
    let refuse = |why: String| {
        Refusal::new(
            Reason::Invalid,
            "The list was not published.",
            format!("{}: {why}.", path.display()),
            "See `althing publish --help` for what a list looks like.",
        )
    };
    let mut text = String::new();
    let file = File::open(path).map_err(|e| refuse(e.to_string()))?;
    file.take(SIZE_MAX + 1).read_to_string(&mut text).map_err(|e| refuse(e.to_string()))?;
    if text.len() as u64 > SIZE_MAX {
        return Err(refuse(format!("it is larger than {} MiB", SIZE_MAX >> 20)));
    }
    let parsed =
        if text.trim_start().starts_with('<') { xml(&text, app) } else { json(&text, app) };
    let mut changes = parsed.map_err(refuse)?;
    if changes.is_empty() {
        return Err(refuse(format!("there are no changes of {app} in it")));
    }
    let directory = super::absolute(path)?.parent().map_or_else(PathBuf::new, Path::to_owned);
    for content in changes.iter_mut().filter_map(|change| change.content.as_mut()) {
        *content = directory.join(&*content);
    }
    Ok(changes)
}

/// A bare list of changes, a diff, or what `sync` says of several applications.
fn json(text: &str, app: &AppName) -> Result<Vec<Difference>, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let of_app = |value: &Value| value.get("app").is_none_or(|name| *name == app.as_str());
    let found = match &value {
        Value::Array(all) if all.iter().any(|one| one.get("lists").is_some()) => {
            let ours = all.iter().find(|one| of_app(one));
            ours.and_then(|one| one.pointer("/lists/update")).cloned()
        }
        Value::Array(_) => Some(value),
        Value::Object(_) if of_app(&value) => value.get("changes").cloned(),
        _ => None,
    };
    found.map_or(Ok(Vec::new()), |list| {
        serde_json::from_value(list).map_err(|error| error.to_string())
    })
}

/// The elements `set`, `add` and `del` in an `update`, of the application of
/// that name where there are several.
fn xml(text: &str, app: &AppName) -> Result<Vec<Difference>, String> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut changes: Vec<Difference> = Vec::new();
    let (mut ours, mut in_update, mut open) = (true, false, false);
    loop {
        let at = |reader: &Reader<&[u8]>, why: String| {
            let before = text.get(..reader.buffer_position() as usize).unwrap_or(text);
            format!("line {}: {why}", before.matches('\n').count() + 1)
        };
        let event = reader.read_event().map_err(|e| e.to_string());
        match event.map_err(|why| at(&reader, why))? {
            Event::Eof if open || in_update => return Err("it ends in the middle".to_owned()),
            Event::Eof => return Ok(changes),
            Event::Start(element) => {
                let name = element.name().as_ref().to_owned();
                let op = match name.as_str() {
                    "application" => {
                        ours = attribute(&element, "name")?.is_none_or(|name| name == app.as_str());
                        None
                    }
                    "update" => {
                        in_update = true;
                        None
                    }
                    "set" => Some(Op::Set),
                    "add" => Some(Op::Add),
                    "del" => Some(Op::Del),
                    _ => None,
                };
                if let Some(op) = op.filter(|_| in_update && ours) {
                    let path = attribute(&element, "path")?;
                    let path = path.ok_or_else(|| at(&reader, format!("{name} has no path")))?;
                    let content = attribute(&element, "content")?.map(PathBuf::from);
                    open = true;
                    let (before, after, text) = (None, None, None);
                    changes.push(Difference { op, path, before, after, text, content });
                } else if open && let Some(change) = changes.last_mut() {
                    let item = item(&name, &element).map_err(|why| at(&reader, why))?;
                    change.after = Some(item);
                }
            }
            Event::End(element) => match element.name().as_ref() {
                "update" => in_update = false,
                "set" | "add" | "del" => open = false,
                _ => {}
            },
            _ => {}
        }
    }
}

fn item(name: &str, element: &BytesStart<'_>) -> Result<Item, String> {
    let needed = |attribute_name: &str| {
        attribute(element, attribute_name)?.ok_or(format!("{name} has no {attribute_name}"))
    };
    Ok(match name {
        "directory" => Item::Directory { mode: needed("mode")? },
        "file" => {
            let size = needed("size")?;
            let size = size.parse().map_err(|_| format!("{size:?} is no size"))?;
            Item::File { mode: needed("mode")?, size, digest: needed("digest")? }
        }
        "symlink" => Item::Symlink { target: needed("target")? },
        other => return Err(format!("{other} is neither directory, file nor symlink")),
    })
}

fn attribute(element: &BytesStart<'_>, name: &str) -> Result<Option<String>, String> {
    for attribute in element.attributes() {
        let attribute = attribute.map_err(|error| error.to_string())?;
        if attribute.key.as_ref() == name {
            let value = attribute.normalized_value(XmlVersion::Explicit1_0);
            return value.map(|v| Some(v.into_owned())).map_err(|error| error.to_string());
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app() -> AppName {
        AppName::parse("web").unwrap()
    }

    fn words(changes: &[Difference]) -> Vec<String> {
        changes.iter().map(|c| format!("{} {}", c.op.word(), c.path)).collect()
    }

    #[test]
    fn all_that_is_printed_can_be_read_again() {
        let update = r#"[{"op":"SET","path":"a&b","after":{"kind":"directory","mode":"0755"}},
                         {"op":"DEL","path":"c"}]"#;
        let expected = ["SET a&b", "DEL c"];
        assert_eq!(words(&json(update, &app()).unwrap()), expected);
        let diff = format!(r#"{{"app":"web","changes":{update}}}"#);
        assert_eq!(words(&json(&diff, &app()).unwrap()), expected);
        let synced = format!(
            r#"[{{"app":"docs","lists":{{"update":[]}}}},{{"app":"web","lists":{{"update":{update}}}}}]"#
        );
        assert_eq!(words(&json(&synced, &app()).unwrap()), expected);
        let other = format!(r#"{{"app":"docs","changes":{update}}}"#);
        assert!(json(&other, &app()).unwrap().is_empty(), "of another application");

        let document = r#"<?xml version="1.0"?><althing>
            <application name="docs"><update><del path="x"/></update></application>
            <application name="web">
              <have><file path="a&amp;b" mode="0644" size="1" digest="00"/></have>
              <update><set path="a&amp;b"><directory mode="0755"/></set><del path="c"/></update>
            </application></althing>"#;
        let changes = xml(document, &app()).unwrap();
        assert_eq!(changes, json(update, &app()).unwrap());
        let by_hand = r#"<update><add path="n" content="here.txt"/></update>"#;
        assert_eq!(xml(by_hand, &app()).unwrap()[0].content, Some("here.txt".into()));
    }

    #[test]
    fn what_is_no_list_is_refused_with_its_place() {
        for (bad, why) in [
            ("<update>\n<set/></update>", "line 2: set has no path"),
            ("<update><set path='x'><pipe/></set></update>", "pipe is neither"),
            ("<update><set path='x'><file mode='0644'/></set></update>", "file has no size"),
            ("<update><set path='x'>", "ends in the middle"),
            ("<update></set>", "line 1"),
        ] {
            let error = xml(bad, &app()).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
        for (bad, why) in [("{", "line 1"), (r#"[{"op":"MOV","path":"x"}]"#, "MOV"), ("[3]", "3")] {
            let error = json(bad, &app()).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn names_of_files_are_meant_from_where_the_list_stands() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.json");
        std::fs::write(&path, r#"[{"op":"ADD","path":"n","content":"here.txt"}]"#).unwrap();
        let changes = read(&path, &app()).unwrap();
        assert_eq!(changes[0].content, Some(dir.path().join("here.txt")));
        std::fs::write(&path, "[]").unwrap();
        assert!(read(&path, &app()).unwrap_err().why.contains("no changes of web"));
        assert!(read(&dir.path().join("none"), &app()).is_err());
    }
}
