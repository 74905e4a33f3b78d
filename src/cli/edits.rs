//! Lists of changes as they come from outside: what `sync --show-lists` and
//! `diff --json` print, or what somebody wrote by hand; JSON or XML.
//!
//! Content may lie elsewhere, at a URL. Then the list has its size and its signature as
//! well: what comes is either that, or nothing.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    base::{AppName, Digest, Reason, Refusal, limits},
    node::inspect::{CHANGES_MAX, Difference, Item, Op},
};

mod address;
pub mod brought;
mod xml;

pub use address::Address;

/// The largest list, bytes.
const SIZE_MAX: u64 = 48 << 20;

/// One item of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What is to change.
    pub change: Difference,
    /// Which item it is, for people: `line 3 (SET index.html)`.
    pub place: String,
    /// Where its content lies, if that is elsewhere.
    pub remote: Option<Remote>,
}

/// Content that lies elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Where.
    pub address: Address,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of them.
    pub digest: Digest,
}

/// Reads the changes of `app` in the list at `path`. Names of files in it are
/// meant from the directory in which it stands.
pub(super) fn read(path: &Path, app: &AppName) -> Result<Vec<Listed>, Refusal> {
    let refuse = |why: String| {
        Refusal::new(
            Reason::Invalid,
            "The list was not published.",
            format!("{}: {why}.", path.display()),
            "See `althing publish --help` for what a list looks like.",
        )
    };
    let text = text_of(path).map_err(refuse)?;
    let mut list = parse(&text, app).map_err(refuse)?;
    if list.is_empty() {
        return Err(refuse(format!("there are no changes of {app} in it")));
    }
    let directory = super::absolute(path)?.parent().map_or_else(PathBuf::new, Path::to_owned);
    for content in list.iter_mut().filter_map(|listed| listed.change.content.as_mut()) {
        *content = directory.join(&*content);
    }
    Ok(list)
}

/// The text of the list at `path`.
fn text_of(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(SIZE_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > SIZE_MAX {
        return Err(format!("it is larger than {} MiB", SIZE_MAX >> 20));
    }
    Ok(text)
}

fn is_xml(text: &str) -> bool {
    text.trim_start().starts_with('<')
}

/// The changes of `app` in a list, or what is wrong with it and where. No message has
/// more of a URL than [`Address`] shows.
pub fn parse(text: &str, app: &AppName) -> Result<Vec<Listed>, String> {
    let list = if is_xml(text) { xml::update(text, app) } else { json(text, app) }?;
    let mut sizes = BTreeMap::new();
    for Listed { place, remote, .. } in &list {
        let Some(Remote { size, digest, .. }) = remote else { continue };
        if sizes.insert(digest, size).is_some_and(|other| other != size) {
            return Err(format!("{place}: elsewhere in the list this signature has another size"));
        }
    }
    Ok(list)
}

impl Listed {
    fn new(change: Difference, url: Option<&str>, place: &str) -> Result<Self, String> {
        let place = format!("{place} ({} {})", change.op.word(), change.path);
        let remote = url.map(|url| Remote::of(&change, url)).transpose();
        let remote = remote.map_err(|why| format!("{place}: {why}"))?;
        if !change.chunks.is_empty() {
            let is_file = matches!(change.after, Some(Item::File { .. }));
            let why = match &change.content {
                _ if !is_file => "chunks are of a file: say which, with its mode, size and digest",
                Some(_) => "the content is to come from a file and from chunks; give one",
                None => return Ok(Self { change, place, remote }),
            };
            return Err(format!("{place}: {why}"));
        }
        Ok(Self { change, place, remote })
    }
}

impl Remote {
    fn of(change: &Difference, url: &str) -> Result<Self, String> {
        let address = Address::parse(url)?;
        if change.content.is_some() {
            return Err("the content is to come from a file and from a url; give one".to_owned());
        }
        let Some(Item::File { size, digest, .. }) = &change.after else {
            return Err(match change.op {
                Op::Del => "what is deleted has no content".to_owned(),
                Op::Set | Op::Add => UNCHECKED.to_owned(),
            });
        };
        let digest = Digest::parse(digest).ok_or_else(|| format!("{digest:?} is no signature"))?;
        if *size > limits::FILE_MAX {
            return Err(format!("a file has at most {} bytes", limits::FILE_MAX));
        }
        Ok(Self { address, size: *size, digest })
    }
}

/// What comes from elsewhere must be known beforehand.
const UNCHECKED: &str = "with a url stands the file that is there, with its mode, its size in bytes \
                         and its digest (the BLAKE3 signature): without them what comes could not \
                         be checked";

/// A bare list of changes, a diff, or what `sync` says of several applications.
fn json(text: &str, app: &AppName) -> Result<Vec<Listed>, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let of_app = |value: &Value| value.get("app").is_none_or(|name| *name == app.as_str());
    let more_of = |value: &Value| value.get("more").and_then(Value::as_u64).unwrap_or(0);
    let (found, more) = match &value {
        Value::Array(all) if all.iter().any(|one| one.get("lists").is_some()) => {
            let ours = all.iter().find(|one| of_app(one));
            let update = ours.and_then(|one| one.pointer("/lists/update"));
            let told = update.and_then(Value::as_array).map_or(0, Vec::len);
            let differing = ours.and_then(|one| one.get("differing")).and_then(Value::as_u64);
            // Whoever took out a line of a whole list meant it.
            let more = differing.filter(|_| told >= CHANGES_MAX).unwrap_or(0);
            (update.cloned(), more.saturating_sub(told as u64))
        }
        Value::Array(_) => (Some(value), 0),
        Value::Object(_) if of_app(&value) && value.get("lists").is_some() => {
            return json(&Value::Array(vec![value]).to_string(), app);
        }
        Value::Object(_) if of_app(&value) => (value.get("changes").cloned(), more_of(&value)),
        _ => (None, 0),
    };
    let Some(found) = found else { return Ok(Vec::new()) };
    let Value::Array(items) = found else { return Err("the changes are no list".to_owned()) };
    if more > 0 {
        return Err(cut(more));
    }
    let numbered = items.into_iter().enumerate();
    numbered.map(|(at, item)| json_item(item, &format!("change {}", at + 1))).collect()
}

/// A list that was cut when it was printed would make a version that nobody meant.
fn cut(more: u64) -> String {
    format!("{more} more changes were left out of it when it was printed, so it is not all of them")
}

fn json_item(mut item: Value, place: &str) -> Result<Listed, String> {
    let at = |why: String| format!("{place}: {why}");
    let url = item.as_object_mut().and_then(|fields| fields.remove("url"));
    let url = match url {
        None | Some(Value::Null) => None,
        Some(Value::String(url)) => Some(url),
        // What else it is is not shown: it may be meant to be a secret.
        Some(_) => return Err(at("the url is no text".to_owned())),
    };
    let of_file = item.pointer("/after/kind").is_some_and(|kind| kind == "file");
    let told = ["/after/mode", "/after/size", "/after/digest"];
    if url.is_some() && of_file && told.iter().any(|field| item.pointer(field).is_none()) {
        return Err(at(UNCHECKED.to_owned()));
    }
    let change = serde_json::from_value(item).map_err(|error| at(error.to_string()))?;
    Listed::new(change, url.as_deref(), place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::inspect::Wanted;

    fn app() -> AppName {
        AppName::parse("web").unwrap()
    }

    fn words(list: &[Listed]) -> Vec<String> {
        list.iter().map(|l| format!("{} {}", l.change.op.word(), l.change.path)).collect()
    }

    fn changes(list: &[Listed]) -> Vec<&Difference> {
        list.iter().map(|listed| &listed.change).collect()
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
        let read = xml::update(document, &app()).unwrap();
        assert_eq!(changes(&read), changes(&json(update, &app()).unwrap()));
        assert_eq!(read[1].place, "line 5 (DEL c)");
        let by_hand = r#"<update><add path="n" content="here.txt"/></update>"#;
        assert_eq!(
            xml::update(by_hand, &app()).unwrap()[0].change.content,
            Some("here.txt".into())
        );
    }

    #[test]
    fn what_is_no_list_is_refused_with_its_place() {
        for (bad, why) in [
            ("<update>\n<set/></update>", "line 2: set has no path"),
            ("<update><set path='x'><pipe/></set></update>", "pipe is neither"),
            ("<update><set path='x'><file mode='0644'/></set></update>", "file has no size"),
            ("<update><set path='x'>", "ends in the middle"),
            ("<update></set>", "line 1"),
            ("<update>\n<sett path='x'/></update>", "line 2: sett is none of"),
            ("<update><set path='a'><set path='b'/></set></update>", "set is neither"),
            ("<update><update/><del path='x'/></update>", "within an update"),
            ("<update><del path='x'><before/></del></update>", "before has nothing"),
            (
                "<update><set path='x'><symlink target='a'/><symlink target='b'/></set></update>",
                "second item",
            ),
            (
                "<update><del path='x'><before><chunk digest='1' length='1'/></before></del></update>",
                "not of before",
            ),
        ] {
            let error = xml::update(bad, &app()).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
        for (bad, why) in [("{", "line 1"), (r#"[{"op":"MOV","path":"x"}]"#, "MOV"), ("[3]", "3")] {
            let error = json(bad, &app()).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    const SIGNATURE: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    #[test]
    fn content_may_lie_at_a_url_if_it_can_be_checked() {
        let url = "https://who:secret@cdn.example:8443/a%20b?key=secret";
        let list = format!(
            r#"[{{"op":"DEL","path":"old"}},{{"op":"SET","path":"v","url":"{url}","after":
                {{"kind":"file","mode":"0644","size":7,"digest":"{SIGNATURE}"}}}}]"#
        );
        let document = format!(
            r#"<update><del path="old"/>
               <set path="v" url="{url}"><file mode="0644" size="7" digest="{SIGNATURE}"/></set>
               </update>"#
        );
        let (list, document) = (parse(&list, &app()).unwrap(), parse(&document, &app()).unwrap());
        assert_eq!(changes(&list), changes(&document));
        assert_eq!((&*list[1].place, &*document[1].place), ("change 2 (SET v)", "line 2 (SET v)"));
        assert_eq!((&list[0].remote, &list[1].remote), (&None, &document[1].remote));
        let remote = list[1].remote.as_ref().unwrap();
        assert_eq!((remote.size, remote.digest), (7, Digest::of_bytes(b"")));
        let shown = format!("{list:?} {document:?} {}", remote.address);
        assert!(shown.contains("https://cdn.example:8443/a%20b?…"), "{shown}");
        assert!(!shown.contains("secret") && !shown.contains("who"), "{shown}");
    }

    #[test]
    fn content_at_a_url_that_can_not_be_checked_is_refused() {
        let file = format!(r#"{{"kind":"file","mode":"0644","size":7,"digest":"{SIGNATURE}"}}"#);
        let good = "http://h/?secret";
        let set = |url: &str, after: &str| {
            format!(r#"[{{"op":"SET","path":"v","url":"{url}","after":{after}}}]"#)
        };
        let other = set(good, &file.replace(":7", ":8"));
        let twice = format!("{},{}", set(good, &file).trim_end_matches(']'), &other[1..]);
        for (bad, why) in [
            (set(good, "null"), "change 1 (SET v): with a url stands the file"),
            (set(good, r#"{"kind":"directory","mode":"0755"}"#), "with a url stands the file"),
            (set(good, &file.replace(r#""size":7,"#, "")), "change 1: with a url stands the file"),
            (set(good, &file.replace("digest", "sha256")), "with a url stands the file"),
            (set(good, &file.replace(SIGNATURE, "abc")), "\"abc\" is no signature"),
            (set(good, &file.replace(":7", ":9999999999999")), "a file has at most"),
            (set("ftp://h/secret", &file), "http and https"),
            (set("file:///etc/secret", &file), "`content`"),
            (set("secret", &file), "is no url"),
            (set("http://h/\\u0000secret", &file), "is no url"),
            (set(good, &file).replace("\"url\"", "\"content\":\"x\",\"url\""), "give one"),
            (set(good, &file).replace("SET", "DEL").replace(&file, "null"), "what is deleted"),
            (r#"[{"op":"SET","path":"v","url":["secret"]}]"#.to_owned(), "is no text"),
            (twice, "change 2 (SET v): elsewhere in the list"),
            ("<update>\n<set path='v' url='http://h/secret'/></update>".to_owned(), "line 2 (SET v)"),
            ("<update><add path='v' url='http://h/secret'>\n<file mode='0644' size='1'/></add></update>"
                .to_owned(), "line 2: file has no digest; with a url"),
        ] {
            let error = parse(&bad, &app()).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
            assert!(!error.contains("secret"), "{bad}: {error}");
        }
    }

    #[test]
    fn content_may_be_chunks() {
        let json = format!(
            r#"[{{"op":"ADD","path":"v","chunks":[{{"digest":"{SIGNATURE}","len":7}}],
                "after":{{"kind":"file","mode":"0644","size":7,"digest":"{SIGNATURE}"}}}}]"#
        );
        let xml = format!(
            "<update><add path='v'><before><symlink target='x'/></before>\
             <file mode='0644' size='7' digest='{SIGNATURE}'>\
             <chunk digest='{SIGNATURE}' length='7'/></file></add></update>"
        );
        for text in [&json, &xml] {
            let read = parse(text, &app()).unwrap();
            let [Wanted { digest, len }] = read[0].change.chunks.as_slice() else { panic!() };
            assert_eq!((digest.as_str(), *len), (SIGNATURE, 7));
        }
        let read = parse(&xml, &app()).unwrap();
        assert_eq!(read[0].change.before, Some(Item::Symlink { target: "x".into() }));
        for (bad, why) in [
            (json.replace("\"path\"", "\"content\":\"x\",\"path\""), "give one"),
            (json.replace("\"after\"", "\"afterwards\""), "chunks are of a file"),
            (json.replace(":7}]", ":-7}]"), "change 1: "),
            (xml.replace(" length='7'", ""), "line 1: chunk has no length"),
            (xml.replace("length='7'", "length='x'"), "line 1: \"x\" is no length"),
        ] {
            let wrong = parse(&bad, &app()).unwrap_err();
            assert!(wrong.contains(why), "{bad}: {wrong}");
        }
    }

    #[test]
    fn names_of_files_are_meant_from_where_the_list_stands() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.json");
        std::fs::write(&path, r#"[{"op":"ADD","path":"n","content":"here.txt"}]"#).unwrap();
        let list = read(&path, &app()).unwrap();
        assert_eq!(list[0].change.content, Some(dir.path().join("here.txt")));
        std::fs::write(&path, "[]").unwrap();
        assert!(read(&path, &app()).unwrap_err().why.contains("no changes of web"));
        assert!(read(&dir.path().join("none"), &app()).is_err());
    }
}
