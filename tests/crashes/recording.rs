//! What a process did to its disk: from the calls of a trace to [`Effect`]s.
//!
//! It keeps the file system along with it, as the process sees it; at the end
//! that must be what the process has left, name by name and byte by byte, or
//! something was not understood. A call that is not known here is refused.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::Arc,
};

use super::{
    disk::{Disk, Effect, Kind, PAGE, Scope, TOP},
    trace::Call,
};

/// The calls that are of interest, as far as this kind of machine has them.
pub const CALLS: &str = "?open,?openat,?openat2,?creat,?close,?dup,?dup2,?dup3,?fcntl,?lseek,?write,?pwrite64,\
    ?writev,?pwritev,?pwritev2,?truncate,?ftruncate,?fallocate,?copy_file_range,?sendfile,\
    ?splice,?ioctl,?rename,?renameat,?renameat2,?link,?linkat,?symlink,?symlinkat,?unlink,\
    ?unlinkat,?rmdir,?mkdir,?mkdirat,?mknod,?mknodat,?chmod,?fchmod,?fchmodat,?fchmodat2,\
    ?fsync,?fdatasync,?sync,?syncfs,?sync_file_range,?mmap,?io_uring_setup";

/// One thing that happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// For people.
    pub call: String,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    Did(Vec<Effect>),
    Synced(Scope),
    /// The process said this.
    Said(String),
}

/// From a disk, what was done to it.
pub struct Recording {
    pub before: Disk,
    pub after: Disk,
    pub events: Vec<Event>,
}

/// Understands `calls` of one process; its disk stands at `place`, is `before` when it
/// starts, and gives the next inode the number `next_inode`.
pub fn understand(calls: &[Call], place: &Path, before: Disk, next_inode: u64) -> Recording {
    let place = place.to_str().expect("we have named it").to_owned();
    let disk = before.clone();
    let mut reading = Reading {
        place,
        disk,
        next_inode,
        open: BTreeMap::new(),
        events: Vec::new(),
        line: Vec::new(),
    };
    for call in calls {
        reading.call(call);
    }
    Recording { before, after: reading.disk, events: reading.events }
}

/// What a descriptor leads to.
#[derive(Clone, Debug)]
struct Open {
    inode: u64,
    path: String,
    at: usize,
    append: bool,
}

/// A name in a directory.
struct Place {
    directory: u64,
    name: String,
    inode: Option<u64>,
    /// For people.
    path: String,
}

struct Reading {
    place: String,
    disk: Disk,
    next_inode: u64,
    open: BTreeMap<i64, Open>,
    events: Vec<Event>,
    line: Vec<u8>,
}

impl Reading {
    fn call(&mut self, call: &Call) {
        let Some(result) = call.result else { return };
        match call.name.as_str() {
            "open" | "creat" | "openat" | "openat2" => self.opened(call, result),
            "close" => drop(self.open.remove(&call.number(0))),
            "dup" | "dup2" | "dup3" => self.duplicated(call, result),
            "fcntl" if call.arguments[1].starts_with("F_DUPFD") => self.duplicated(call, result),
            "lseek" => {
                if let Some(open) = self.open.get_mut(&call.number(0)) {
                    open.at = result as usize;
                }
            }
            "write" | "writev" if call.number(0) == 1 => self.said(call),
            "write" | "writev" => self.written(call, None, result),
            "pwrite64" | "pwritev" | "pwritev2" => {
                self.written(call, Some(call.number(3) as usize), result);
            }
            "ftruncate" => {
                if let Some(Open { inode, path, .. }) = self.at(call, 0) {
                    self.cut(inode, &path, call.number(1) as usize);
                }
            }
            "truncate" => {
                if let Some(place) = self.resolve(None, &call.text(0), true) {
                    self.cut(place.inode.unwrap(), &place.path, call.number(1) as usize);
                }
            }
            "rename" => self.renamed(call, (None, 0), (None, 1), None),
            "renameat" | "renameat2" => self.renamed(call, (Some(0), 1), (Some(2), 3), Some(4)),
            "link" => self.linked(call, (None, 0), (None, 1)),
            "linkat" => self.linked(call, (Some(0), 1), (Some(2), 3)),
            "symlink" => self.symlinked(call, None, 1),
            "symlinkat" => self.symlinked(call, Some(1), 2),
            "unlink" | "rmdir" => self.removed(call, None, 0),
            "unlinkat" => self.removed(call, Some(0), 1),
            "mkdir" => self.made(call, None, 0),
            "mkdirat" => self.made(call, Some(0), 1),
            "chmod" => self.permitted(call, None, 0),
            "fchmodat" | "fchmodat2" => self.permitted(call, Some(0), 1),
            "fchmod" => {
                if let Some(Open { inode, path, .. }) = self.at(call, 0) {
                    let mode = call.octal(1);
                    self.did(format!("chmod {path}"), vec![Effect::Mode { inode, mode }]);
                }
            }
            "fsync" => self.synced(call, Scope::Inode),
            "fdatasync" => self.synced(call, Scope::Data),
            "syncfs" => self.synced(call, |_| Scope::Everything),
            "sync" => self
                .events
                .push(Event { call: "sync".to_owned(), what: What::Synced(Scope::Everything) }),
            "mmap" => {
                let writes = call.has(2, "PROT_WRITE") && call.has(3, "MAP_SHARED");
                assert!(!writes || self.at(call, 4).is_none(), "not understood: {call:?}");
            }
            // These bring nothing, or only reads are asked for.
            "fcntl" | "sync_file_range" => {}
            "ioctl" | "sendfile" | "fallocate" | "mknod" => {
                assert!(self.at(call, 0).is_none(), "not understood: {call:?}");
            }
            "splice" | "copy_file_range" => {
                assert!(self.at(call, 2).is_none(), "not understood: {call:?}");
            }
            _ => panic!("not understood: {call:?}"),
        }
    }

    fn at(&self, call: &Call, argument: usize) -> Option<Open> {
        self.open.get(&call.arguments[argument].parse().ok()?).cloned()
    }

    fn did(&mut self, call: String, effects: Vec<Effect>) {
        for effect in &effects {
            self.disk.apply(effect, false);
        }
        self.events.push(Event { call, what: What::Did(effects) });
    }

    fn said(&mut self, call: &Call) {
        let bytes = if call.name == "write" { call.bytes(1) } else { call.buffers(1) };
        for byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = String::from_utf8(std::mem::take(&mut self.line)).unwrap();
            if let Some(words) = line.strip_prefix("@ ") {
                let call = format!("says {words:?}");
                self.events.push(Event { call, what: What::Said(words.to_owned()) });
            }
        }
    }

    fn synced(&mut self, call: &Call, scope: impl FnOnce(u64) -> Scope) {
        if let Some(Open { inode, path, .. }) = self.at(call, 0) {
            let text = format!("{} {path}", call.name);
            self.events.push(Event { call: text, what: What::Synced(scope(inode)) });
        }
    }

    fn opened(&mut self, call: &Call, descriptor: i64) {
        let (base, path, flags, mode) = match call.name.as_str() {
            "open" => (None, 0, 1, 2),
            "creat" => panic!("not understood: {call:?}"),
            _ => (Some(0), 1, 2, 3),
        };
        self.open.remove(&descriptor);
        let follow = !call.has(flags, "O_NOFOLLOW") && !call.has(flags, "O_EXCL");
        let Some(place) = self.find(call, base, path, follow) else { return };
        for flag in ["O_SYNC", "O_DSYNC", "O_TMPFILE", "O_DIRECT"] {
            assert!(!call.has(flags, flag), "not understood: {call:?}");
        }
        let path = place.path.clone();
        let inode = match place.inode {
            Some(inode) => {
                if call.has(flags, "O_TRUNC") {
                    self.cut(inode, &path, 0);
                }
                inode
            }
            None => {
                assert!(call.has(flags, "O_CREAT"), "{path} is not there: {call:?}");
                self.make(
                    place,
                    Kind::File(Default::default()),
                    call.octal(mode) & !UMASK,
                    "create",
                )
            }
        };
        let append = call.has(flags, "O_APPEND");
        self.open.insert(descriptor, Open { inode, path, at: 0, append });
    }

    fn duplicated(&mut self, call: &Call, descriptor: i64) {
        match self.at(call, 0) {
            // The two share where they are, which is not kept up here.
            Some(open) => drop(self.open.insert(descriptor, open)),
            None => drop(self.open.remove(&descriptor)),
        }
    }

    fn written(&mut self, call: &Call, at: Option<usize>, count: i64) {
        let Some(Open { inode, path, at: position, append }) = self.at(call, 0) else { return };
        let is_list = call.name.contains("writev");
        let mut bytes = if is_list { call.buffers(1) } else { call.bytes(1) };
        bytes.truncate(count as usize);
        let size = self.disk.size(inode);
        let from = at.unwrap_or(if append { size } else { position });
        let end = from + bytes.len();
        let mut effects = Vec::new();
        if end > size {
            effects.push(Effect::Grow { inode, to: end });
        }
        let mut offset = from;
        while offset < end {
            let to = (offset + PAGE - offset % PAGE).min(end);
            let piece: Arc<[u8]> = bytes[offset - from..to - from].into();
            effects.push(Effect::Write { inode, at: offset, bytes: piece });
            offset = to;
        }
        if at.is_none() {
            self.open.get_mut(&call.number(0)).unwrap().at = end;
        }
        self.did(format!("write {path}, {from} to {end}"), effects);
    }

    fn cut(&mut self, inode: u64, path: &str, to: usize) {
        if self.disk.size(inode) != to {
            self.did(format!("cut {path} at {to}"), vec![Effect::Cut { inode, to }]);
        }
    }

    fn renamed(
        &mut self,
        call: &Call,
        (from_base, from): (Option<usize>, usize),
        (to_base, to): (Option<usize>, usize),
        flags: Option<usize>,
    ) {
        let from = self.find(call, from_base, from, false);
        let to = self.find(call, to_base, to, false);
        let (from, to) = match (from, to) {
            (Some(from), Some(to)) => (from, to),
            (None, None) => return,
            _ => panic!("into the disk or out of it: {call:?}"),
        };
        if from.inode == to.inode {
            return;
        }
        let exchange = flags.is_some_and(|at| call.has(at, "RENAME_EXCHANGE"));
        let left = to.inode.filter(|_| exchange);
        let word = if exchange { "exchange" } else { "rename" };
        let text = format!("{word} {} {}", from.path, to.path);
        let names = vec![(from.directory, from.name, left), (to.directory, to.name, from.inode)];
        self.did(text, vec![Effect::Names(names)]);
    }

    fn linked(
        &mut self,
        call: &Call,
        (from_base, from): (Option<usize>, usize),
        (to_base, to): (Option<usize>, usize),
    ) {
        let from = self.find(call, from_base, from, false);
        let Some((from, to)) = from.zip(self.find(call, to_base, to, false)) else { return };
        let text = format!("link {} {}", from.path, to.path);
        self.did(text, vec![Effect::Names(vec![(to.directory, to.name, from.inode)])]);
    }

    fn symlinked(&mut self, call: &Call, base: Option<usize>, path: usize) {
        if let Some(place) = self.find(call, base, path, false) {
            self.make(place, Kind::Link(call.text(0)), 0o777, "symlink");
        }
    }

    fn made(&mut self, call: &Call, base: Option<usize>, path: usize) {
        if let Some(place) = self.find(call, base, path, false) {
            let mode = call.octal(path + 1) & !UMASK;
            self.make(place, Kind::Directory(BTreeMap::new()), mode, "mkdir");
        }
    }

    fn removed(&mut self, call: &Call, base: Option<usize>, path: usize) {
        if let Some(place) = self.find(call, base, path, false) {
            let names = vec![(place.directory, place.name, None)];
            self.did(format!("remove {}", place.path), vec![Effect::Names(names)]);
        }
    }

    fn permitted(&mut self, call: &Call, base: Option<usize>, path: usize) {
        if let Some(place) = self.find(call, base, path, true) {
            let (inode, mode) = (place.inode.unwrap(), call.octal(path + 1));
            self.did(format!("chmod {}", place.path), vec![Effect::Mode { inode, mode }]);
        }
    }

    fn make(&mut self, place: Place, kind: Kind, mode: u32, word: &str) -> u64 {
        let Place { directory, name, path, .. } = place;
        let inode = self.next_inode;
        self.next_inode += 1;
        self.disk.add(inode, kind, mode);
        let names = vec![(directory, name, Some(inode))];
        self.did(format!("{word} {path}"), vec![Effect::Names(names)]);
        inode
    }

    fn find(&self, call: &Call, base: Option<usize>, path: usize, follow: bool) -> Option<Place> {
        let base = base.filter(|base| call.arguments[*base] != "AT_FDCWD");
        let text = call.text(path);
        match base {
            Some(base) if !text.starts_with('/') => {
                let base = self.at(call, base)?;
                self.resolve(Some(&base), &text, follow)
            }
            _ => self.resolve(None, &text, follow),
        }
    }

    /// Where a path leads; nothing if that is not on the disk.
    fn resolve(&self, base: Option<&Open>, text: &str, follow: bool) -> Option<Place> {
        let start = |text: &str| -> Option<VecDeque<String>> {
            let rest = text.strip_prefix(&self.place)?;
            Some(rest.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect())
        };
        let (mut directory, mut path, mut todo) = match base {
            Some(base) => {
                let names = text.split('/').filter(|name| !matches!(*name, "" | "."));
                (base.inode, base.path.clone(), names.map(str::to_owned).collect())
            }
            None => (TOP, String::new(), start(text)?),
        };
        if todo.is_empty() {
            return Some(Place { directory, name: ".".to_owned(), inode: Some(directory), path });
        }
        while let Some(name) = todo.pop_front() {
            assert_ne!(name, "..", "not understood: {text}");
            let inode = self.disk.entry(directory, &name);
            let here = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            let is_last = todo.is_empty();
            match inode.map(|inode| &self.disk.get(inode).kind) {
                Some(Kind::Link(target)) if !is_last || follow => {
                    if target.starts_with('/') {
                        let mut names = start(target)?;
                        names.append(&mut todo);
                        (directory, path, todo) = (TOP, String::new(), names);
                    } else {
                        let names = target.split('/').filter(|name| !matches!(*name, "" | "."));
                        let mut names: VecDeque<String> = names.map(str::to_owned).collect();
                        names.append(&mut todo);
                        todo = names;
                    }
                    if todo.is_empty() {
                        let name = ".".to_owned();
                        return Some(Place { directory, name, inode: Some(directory), path });
                    }
                }
                _ if is_last => return Some(Place { directory, name, inode, path: here }),
                Some(Kind::Directory(_)) => {
                    directory = inode.unwrap();
                    path = here;
                }
                found => panic!("{text} goes through {found:?}"),
            }
        }
        unreachable!("the last name ends it")
    }
}

/// That of the process.
pub const UMASK: u32 = 0o022;
