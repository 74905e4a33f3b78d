//! IHaveLists and ActionLists as they come from outside: what `sync --show-lists` printed on some
//! member, as JSON or as XML, with other applications in it or without.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{CHANGES_MAX, cut, is_xml, text_of, xml};
use crate::{
    base::{AppName, Reason, Refusal},
    node::inspect::{Listed, Wanted},
};

/// The IHaveList of `app` in the file at `path`.
pub(in crate::cli) fn read_have(path: &Path, app: &AppName) -> Result<Vec<Listed>, Refusal> {
    read(path, &format!("IHaveList of {app}"), |text| have(text, app))
}

/// The ActionList of `app` in the file at `path`.
pub(in crate::cli) fn read_action(path: &Path, app: &AppName) -> Result<Vec<Wanted>, Refusal> {
    read(path, &format!("ActionList of {app}"), |text| action(text, app))
}

/// An empty list is one, too: nothing may stand somewhere, and nothing be asked for.
fn read<T>(
    path: &Path,
    what: &str,
    parse: impl Fn(&str) -> Result<Option<Vec<T>>, String>,
) -> Result<Vec<T>, Refusal> {
    let refuse = |why: String| {
        Refusal::new(
            Reason::Invalid,
            "The list was not read.",
            format!("{}: {why}.", path.display()),
            "Give a list as `althing sync --show-lists` prints it, with --json or --xml.",
        )
    };
    let found = parse(&text_of(path).map_err(refuse)?).map_err(refuse)?;
    found.ok_or_else(|| refuse(format!("there is no {what} in it")))
}

/// The IHaveList of `app` in a text, if there is one; or what is wrong with it and where.
pub fn have(text: &str, app: &AppName) -> Result<Option<Vec<Listed>>, String> {
    let list = if is_xml(text) { xml::have(text, app) } else { json(text, app, "have") }?;
    checked(list, Listed::checked)
}

/// The ActionList of `app` in a text, in the same way.
pub fn action(text: &str, app: &AppName) -> Result<Option<Vec<Wanted>>, String> {
    let list = if is_xml(text) { xml::action(text, app) } else { json(text, app, "action") }?;
    checked(list, |wanted| wanted.chunk().map(|chunk| Wanted::from(&chunk)))
}

/// Items with their places, for people; none if there is no such list.
pub(super) type Items<T> = Option<Vec<(String, T)>>;

/// The items, each as it has to be; otherwise what is wrong with the first that is not, and where.
fn checked<T>(
    list: Items<T>,
    check: impl Fn(&T) -> Result<T, String>,
) -> Result<Option<Vec<T>>, String> {
    let Some(list) = list else { return Ok(None) };
    if list.len() > CHANGES_MAX {
        return Err(format!("it has more than {CHANGES_MAX} items"));
    }
    let all = list.iter().map(|(place, item)| check(item).map_err(|why| format!("{place}: {why}")));
    all.collect::<Result<_, _>>().map(Some)
}

/// A bare list, or what `sync` says of several applications; none if there is none in it.
fn json<T: DeserializeOwned>(text: &str, app: &AppName, list: &str) -> Result<Items<T>, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let of_app = |value: &Value| value.get("app").is_none_or(|name| *name == app.as_str());
    let ours = match &value {
        Value::Array(all) if all.iter().any(|one| one.get("lists").is_some()) => {
            all.iter().find(|one| of_app(one))
        }
        Value::Array(_) => None,
        one => Some(one).filter(|one| of_app(one)),
    };
    let (found, more) = match (&value, ours) {
        (Value::Array(all), None) if all.iter().all(|one| one.get("app").is_none()) => {
            (Some(&value), 0)
        }
        (_, ours) => {
            let lists = ours.and_then(|one| one.get("lists"));
            let more = lists.and_then(|lists| lists.get("more")).and_then(Value::as_u64);
            (lists.and_then(|lists| lists.get(list)), more.unwrap_or(0))
        }
    };
    let Some(found) = found else { return Ok(None) };
    let Value::Array(items) = found else { return Err(format!("the {list} is no list")) };
    // Of which list they were left out is not said: of one that has room it was not.
    if more > 0 && items.len() >= CHANGES_MAX {
        return Err(cut(more));
    }
    let read = |(item, at): (&Value, u64)| {
        let place = format!("item {at}");
        let read = T::deserialize(item).map_err(|error| format!("{place}: {error}"))?;
        Ok((place, read))
    };
    items.iter().zip(1..).map(read).collect::<Result<_, String>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::inspect::Item;

    const SIGNATURE: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    fn app() -> AppName {
        AppName::parse("web").unwrap()
    }

    #[test]
    fn a_bare_list_is_read_as_well() {
        let list = [
            r#"[{"path":"a","kind":"directory","mode":"755"}]"#,
            "<have>\n<directory path='a' mode='755'/></have>",
            r#"{"app":"web","lists":{"have":[{"path":"a","kind":"directory","mode":"755"}]}}"#,
        ];
        for text in list {
            let read = have(text, &app()).unwrap().unwrap();
            let item = Item::Directory { mode: "0755".into() };
            assert_eq!(read, [Listed { path: "a".into(), item }], "{text}");
        }
        let list = [
            format!(r#"[{{"digest":"{SIGNATURE}","len":7}}]"#),
            format!("<action><chunk digest='{SIGNATURE}' length='7'/></action>"),
        ];
        for text in list {
            let read = action(&text, &app()).unwrap().unwrap();
            assert_eq!(read, [Wanted { digest: SIGNATURE.into(), len: 7 }], "{text}");
        }
        // None in it is something else than an empty one.
        for text in ["[]", "<have/>", r#"[{"app":"web","lists":{"have":[]}}]"#] {
            assert_eq!(have(text, &app()), Ok(Some(Vec::new())), "{text}");
        }
        for text in [
            "{}",
            "<update/>",
            r#"[{"app":"other","lists":{"have":[]}}]"#,
            r#"{"app":"other","lists":{"have":[]}}"#,
            "<althing><application name='other'><have/></application></althing>",
        ] {
            assert_eq!(have(text, &app()), Ok(None), "{text}");
        }
    }

    #[test]
    fn what_is_no_such_list_is_refused_with_its_place() {
        let file = |path: &str, rest: &str| format!(r#"{{"path":"{path}","kind":"file",{rest}}}"#);
        let good = format!(r#""mode":"0644","size":1,"digest":"{SIGNATURE}""#);
        for (text, why) in [
            (format!("[{},{}]", file("a", &good), file("../a", &good)), "item 2: "),
            (format!("[{}]", file("/etc/passwd", &good)), "item 1: "),
            (format!("[{}]", file("", &good)), "item 1: "),
            (format!("[{}]", file("a", &good.replace(SIGNATURE, "ab"))), "is no signature"),
            (format!("[{}]", file("a", &good.replace("0644", "4755"))), "no permissions"),
            (format!("[{}]", file("a", &good.replace(":1", ":99999999999999"))), "at most"),
            (format!("[{}]", file("a", &good.replace(":1", ":-1"))), "item 1: "),
            (r#"[{"path":"a","kind":"pipe"}]"#.to_owned(), "item 1: "),
            (r#"{"lists":{"have":7}}"#.to_owned(), "the have is no list"),
            ("<have>\n<file path='a' mode='0644' size='1'/></have>".to_owned(), "line 2: "),
            ("<have>\n\n<pipe path='a'/></have>".to_owned(), "line 3: pipe is neither"),
            ("<have>\n<directory mode='755'/></have>".to_owned(), "line 2: directory has no path"),
            ("<have>\n<directory path='a/../b' mode='755'/></have>".to_owned(), "line 2: "),
            ("<have more='3'></have>".to_owned(), "3 more"),
            ("<have><directory path='a' mode='755'/>".to_owned(), "ends in the middle"),
            ("<have></hav>".to_owned(), "line 1: "),
            ("[{".to_owned(), "EOF"),
        ] {
            let wrong = have(&text, &app()).unwrap_err();
            assert!(wrong.contains(why), "{text}: {wrong}");
        }
        for (text, why) in [
            (r#"[{"digest":"xyz","len":1}]"#.to_owned(), "item 1: \"xyz\" is no signature"),
            (format!(r#"[{{"digest":"{SIGNATURE}","len":0}}]"#), "item 1: a chunk has 1 to"),
            (format!(r#"[{{"digest":"{SIGNATURE}","len":4294967295}}]"#), "a chunk has 1 to"),
            (format!(r#"[{{"digest":"{SIGNATURE}"}}]"#), "item 1: "),
            ("<action>\n<chunk digest='a'/></action>".to_owned(), "line 2: chunk has no length"),
            ("<action>\n<file/></action>".to_owned(), "line 2: file is no chunk"),
        ] {
            let wrong = action(&text, &app()).unwrap_err();
            assert!(wrong.contains(why), "{text}: {wrong}");
        }
    }

    #[test]
    fn a_list_is_bounded_and_not_taken_for_all_if_it_was_cut() {
        let one = format!(r#"{{"digest":"{SIGNATURE}","len":1}}"#);
        let many = vec![one.as_str(); CHANGES_MAX].join(",");
        assert!(action(&format!("[{many}]"), &app()).unwrap().is_some());
        let wrong = action(&format!("[{many},{one}]"), &app()).unwrap_err();
        assert!(wrong.contains("more than 100000 items"), "{wrong}");
        let cut = |more: u64| format!(r#"{{"lists":{{"more":{more},"action":[{many}]}}}}"#);
        assert!(action(&cut(0), &app()).is_ok());
        assert!(action(&cut(3), &app()).unwrap_err().contains("3 more"));

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(super::super::SIZE_MAX + 1).unwrap();
        let refused = read_have(&path, &app()).unwrap_err();
        assert!(refused.why.contains("larger than 48 MiB"), "{refused}");
        std::fs::write(&path, "{}").unwrap();
        let refused = read_have(&path, &app()).unwrap_err();
        assert!(refused.why.contains("there is no IHaveList of web"), "{refused}");
    }
}
