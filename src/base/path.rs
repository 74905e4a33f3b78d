//! Relative paths that stay inside their root.
//!
//! Linux file names are bytes, so a path is bytes: a name that is not UTF-8
//! is published and compared like any other.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::limits;

/// The directory at the top of a tree in which the definitions of an application lie
/// (its services): what `publish` makes of the manifest. It is part of a version as
/// every other content is, and it is never served.
pub const DEFINITIONS: &str = ".althing";

/// A path below some root: components separated by `/`, none of them empty,
/// `.` or `..`, no NUL, within the bounds of [`limits`]. Holding one is proof
/// that these checks were made; symbolic links on disk are the driver's care.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Vec<u8>);

impl RelPath {
    /// Checks `bytes`. The error says which rule they break.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.is_empty() {
            return Err("it is empty");
        }
        if bytes.len() > limits::PATH_MAX {
            return Err("it is longer than 3,072 bytes");
        }
        if bytes.contains(&0) {
            return Err("it holds a NUL byte");
        }
        let mut depth = 0;
        for component in bytes.split(|b| *b == b'/') {
            depth += 1;
            match component {
                b"" => return Err("it is absolute or has an empty component"),
                b"." | b".." => return Err("it has a component that is . or .."),
                c if c.len() > limits::COMPONENT_MAX => {
                    return Err("a component is longer than 255 bytes");
                }
                _ if depth > limits::DEPTH_MAX => return Err("it is deeper than 128 levels"),
                _ => {}
            }
        }
        Ok(Self(bytes.to_vec()))
    }

    /// This path with one more component.
    pub fn join(&self, component: &[u8]) -> Result<Self, &'static str> {
        if component.contains(&b'/') {
            return Err("a component holds a slash");
        }
        // What is here was looked at, and is not once more: scans do this for each file.
        Self::parse(component)?;
        let len = self.0.len() + 1 + component.len();
        if len > limits::PATH_MAX {
            return Err("it is longer than 3,072 bytes");
        }
        if self.components().count() >= limits::DEPTH_MAX {
            return Err("it is deeper than 128 levels");
        }
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&self.0);
        bytes.push(b'/');
        bytes.extend_from_slice(component);
        Ok(Self(bytes))
    }

    /// Whether it is [`DEFINITIONS`], or within.
    pub fn is_definition(&self) -> bool {
        self.components().next() == Some(DEFINITIONS.as_bytes())
    }

    /// The bytes, without a slash at either end.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path for the operating system.
    pub fn to_path(&self) -> PathBuf {
        self.as_path().to_owned()
    }

    /// The same, borrowed.
    pub fn as_path(&self) -> &Path {
        use std::os::unix::ffi::OsStrExt;
        Path::new(std::ffi::OsStr::from_bytes(&self.0))
    }

    /// The components, outermost first.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/')
    }

    /// The path without its last component; `None` at the top.
    pub fn parent(&self) -> Option<Self> {
        let cut = self.0.iter().rposition(|b| *b == b'/')?;
        Some(Self(self.0[..cut].to_vec()))
    }

    /// Whether it stands right in `directory`; with none, at the top.
    pub fn is_in(&self, directory: Option<&Self>) -> bool {
        let name = match directory {
            None => Some(&self.0[..]),
            Some(directory) => {
                let rest = self.0.strip_prefix(&directory.0[..]);
                rest.and_then(|rest| rest.strip_prefix(b"/"))
            }
        };
        name.is_some_and(|name| !name.contains(&b'/'))
    }

    /// The last component.
    pub fn file_name(&self) -> &[u8] {
        self.components().next_back().expect("a path has at least one component")
    }
}

impl fmt::Display for RelPath {
    /// Lossy and with control characters escaped: for people, never for a system call.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in String::from_utf8_lossy(&self.0).chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        Ok(())
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for RelPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for RelPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = RelPath;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a relative path")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<RelPath, E> {
                self.visit_bytes(text.as_bytes())
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<RelPath, E> {
                RelPath::parse(bytes).map_err(|why| E::custom(format!("bad path: {why}")))
            }
        }
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(Visitor)
        } else {
            deserializer.deserialize_bytes(Visitor)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_could_leave_the_root_are_refused() {
        for bad in [
            &b""[..],
            b"/",
            b"/etc",
            b"..",
            b"a/..",
            b"a/../b",
            b"./a",
            b"a//b",
            b"a/",
            b"a\0b",
            &[b'a'; 256],
        ] {
            assert!(RelPath::parse(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
        for good in [&b"a"[..], b"a/b", b"...", b"..a", b"\xff\xfe", b"a b/\xc3\xa4"] {
            assert!(RelPath::parse(good).is_ok(), "{:?}", String::from_utf8_lossy(good));
        }
    }

    #[test]
    fn joining_cannot_smuggle_a_component_in() {
        let path = RelPath::parse(b"a").unwrap();
        assert!(path.join(b"..").is_err());
        assert!(path.join(b"b/c").is_err());
        assert_eq!(path.join(b"b").unwrap().as_bytes(), b"a/b");
    }
}
