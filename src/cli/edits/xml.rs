//! The three lists as XML, read.

use std::path::PathBuf;

use quick_xml::{
    Reader, XmlVersion,
    events::{BytesStart, Event},
};

use super::{Listed, UNCHECKED, brought::Items, cut};
use crate::{
    base::AppName,
    node::inspect::{self, Difference, Item, Op, Wanted},
};

/// The elements `set`, `add` and `del` in an `update`, of the application of
/// that name where there are several.
pub(super) fn update(text: &str, app: &AppName) -> Result<Vec<Listed>, String> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut list: Vec<Listed> = Vec::new();
    let mut open: Option<Open> = None;
    let (mut ours, mut in_update) = (true, false);
    let mut lines = Lines { text, counted: 0, line: 1 };
    loop {
        let mut line = |reader: &Reader<&[u8]>| lines.at(reader.buffer_position() as usize);
        let mut at = |reader: &Reader<&[u8]>, why: String| format!("line {}: {why}", line(reader));
        let event = reader.read_event().map_err(|e| e.to_string());
        match event.map_err(|why| at(&reader, why))? {
            Event::Eof if open.is_some() || in_update => {
                return Err("it ends in the middle".to_owned());
            }
            Event::Eof => return Ok(list),
            Event::Start(element) => {
                let name = element.name().as_ref().to_owned();
                let op = match name.as_str() {
                    "application" => {
                        ours = attribute(&element, "name")?.is_none_or(|name| name == app.as_str());
                        None
                    }
                    "update" if in_update => {
                        return Err(at(&reader, "it is an update within an update".to_owned()));
                    }
                    "update" => {
                        in_update = true;
                        let more = attribute(&element, "more")?.filter(|_| ours);
                        match more.map_or(Ok(0), |more| more.parse()) {
                            Ok(0) => None,
                            Ok(more) => return Err(at(&reader, cut(more))),
                            Err(_) => return Err(at(&reader, "more is no number".to_owned())),
                        }
                    }
                    "set" => Some(Op::Set),
                    "add" => Some(Op::Add),
                    "del" => Some(Op::Del),
                    _ => None,
                };
                if !(in_update && ours) || name == "update" {
                    continue;
                }
                if let Some(open) = &mut open {
                    open.take(&name, &element).map_err(|why| at(&reader, open.why(why)))?;
                } else if let Some(op) = op {
                    let path = attribute(&element, "path")?;
                    let path = path.ok_or_else(|| at(&reader, format!("{name} has no path")))?;
                    let content = attribute(&element, "content")?.map(PathBuf::from);
                    let url = attribute(&element, "url")?;
                    let (before, after, text, chunks) = (None, None, None, Vec::new());
                    let change = Difference { op, path, before, after, text, content, chunks };
                    open = Some(Open { change, url, line: line(&reader), in_before: false });
                } else {
                    return Err(at(&reader, format!("{name} is none of set, add and del")));
                }
            }
            Event::End(element) => match element.name().as_ref() {
                "update" => in_update = false,
                "before" => {
                    let Some(open) = &mut open else { continue };
                    open.in_before = false;
                    if open.change.before.is_none() {
                        return Err(at(&reader, "before has nothing in it".to_owned()));
                    }
                }
                "set" | "add" | "del" => {
                    let Some(Open { change, url, line, .. }) = open.take() else { continue };
                    let place = format!("line {line}");
                    list.push(Listed::new(change, url.as_deref(), &place)?);
                }
                _ => {}
            },
            _ => {}
        }
    }
}

/// An item whose end has not come yet.
struct Open {
    change: Difference,
    url: Option<String>,
    line: usize,
    /// What comes stood there before.
    in_before: bool,
}

impl Open {
    /// Takes up an element inside of it.
    fn take(&mut self, name: &str, element: &BytesStart<'_>) -> Result<(), String> {
        let Self { change, in_before, .. } = self;
        match name {
            "before" if *in_before || change.before.is_some() => {
                return Err("it has a second before".to_owned());
            }
            "before" => *in_before = true,
            "chunk" if *in_before => {
                return Err("chunks are of what is to stand there, and not of before".to_owned());
            }
            "chunk" => change.chunks.push(chunk(name, element)?),
            _ => {
                let item = item(name, element)?;
                let side = if *in_before { &mut change.before } else { &mut change.after };
                if side.replace(item).is_some() {
                    return Err(format!("{name} is a second item where one stands"));
                }
            }
        }
        Ok(())
    }

    /// What is missing, and for what it is needed.
    fn why(&self, why: String) -> String {
        match self.url {
            Some(_) => format!("{why}; {UNCHECKED}"),
            None => why,
        }
    }
}

/// The files, directories and links in a `have`, each with its line; none if there is no such element.
pub(super) fn have(text: &str, app: &AppName) -> Result<Items<inspect::Listed>, String> {
    items(text, app, "have", |name, element| {
        let path = attribute(element, "path")?.ok_or_else(|| format!("{name} has no path"))?;
        Ok(inspect::Listed { path, item: item(name, element)? })
    })
}

/// The chunks in an `action`, in the same way.
pub(super) fn action(text: &str, app: &AppName) -> Result<Items<Wanted>, String> {
    items(text, app, "action", |name, element| match name {
        "chunk" => chunk(name, element),
        other => Err(format!("{other} is no chunk")),
    })
}

/// What stands in the elements `list`, of the application of that name where there are several.
fn items<T>(
    text: &str,
    app: &AppName,
    list: &str,
    read: impl Fn(&str, &BytesStart<'_>) -> Result<T, String>,
) -> Result<Items<T>, String> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut found: Items<T> = None;
    let (mut ours, mut inside) = (true, false);
    let mut lines = Lines { text, counted: 0, line: 1 };
    loop {
        let event = reader.read_event();
        let line = lines.at(reader.buffer_position() as usize);
        let at = |why: String| format!("line {line}: {why}");
        match event.map_err(|error| at(error.to_string()))? {
            Event::Eof if inside => return Err("it ends in the middle".to_owned()),
            Event::Eof => return Ok(found),
            Event::Start(element) => {
                let name = element.name().as_ref().to_owned();
                if name == "application" {
                    ours = attribute(&element, "name")?.is_none_or(|name| name == app.as_str());
                } else if name == list {
                    inside = true;
                    if ours {
                        found.get_or_insert_default();
                    }
                    let more = attribute(&element, "more")?.filter(|more| ours && more != "0");
                    if let Some(more) = more {
                        let more = more.parse().map_err(|_| at("more is no number".to_owned()))?;
                        return Err(at(cut(more)));
                    }
                } else if inside && ours {
                    let item = read(&name, &element).map_err(at)?;
                    found.get_or_insert_default().push((format!("line {line}"), item));
                }
            }
            Event::End(element) if element.name().as_ref() == list => inside = false,
            _ => {}
        }
    }
}

fn chunk(name: &str, element: &BytesStart<'_>) -> Result<Wanted, String> {
    let needed = |of: &str| attribute(element, of)?.ok_or_else(|| format!("{name} has no {of}"));
    let (digest, len) = (needed("digest")?, needed("length")?);
    let len = len.parse().map_err(|_| format!("{len:?} is no length"))?;
    Ok(Wanted { digest, len })
}

/// Counts lines in one walk, however often it is asked.
struct Lines<'t> {
    text: &'t str,
    counted: usize,
    line: usize,
}

impl Lines<'_> {
    /// The line of a position that is not before the one asked about last.
    fn at(&mut self, position: usize) -> usize {
        let between = self.text.as_bytes().get(self.counted..position).unwrap_or_default();
        self.line += between.iter().filter(|byte| **byte == b'\n').count();
        self.counted = self.counted.max(position);
        self.line
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
