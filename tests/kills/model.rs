//! What must be there, by what the killed processes had said.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use althing::{
    base::{Digest, RelPath, tree::Node},
    driver::files::WorkDir,
    node::content::{Content, Site, Terms},
    store::DataDir,
};

use super::{
    pages::{self, Item, Pages, UPLOADS, differences, now_and_then, pages},
    worker::{self, APPS, Orders, THEIRS, UPLOAD, app, spec},
};

/// What was met, to be printed.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Kills, by what was under way.
    pub kills: BTreeMap<String, u64>,
    /// Kills of a process that recovered.
    pub recoveries: u64,
    /// Switches that were under way and had happened.
    pub switched: u64,
    /// One file was in place, and the record spoke of the version before.
    pub stepped: u64,
    /// Edits that were found aside.
    pub aside: u64,
    /// Trees of which every chunk was read.
    pub verified: u64,
}

#[derive(Clone)]
pub struct Model {
    dir: PathBuf,
    version: u64,
    tree: u64,
    /// What must be whole in the store.
    held: BTreeMap<u64, Digest>,
    /// Whatever was staged at any time.
    known: BTreeMap<Digest, u64>,
    apps: BTreeMap<&'static str, App>,
    key: Option<String>,
    promised: Option<u64>,
    under_way: Step,
    /// Somebody has damaged the index: it is kept beside the one that is made anew.
    pub damaged: bool,
    /// Every tenth look is at room that is to be given back.
    pub looks: u64,
    pub seen: Seen,
}

/// One live tree.
#[derive(Clone, Debug, Default)]
struct App {
    /// The number of the tree that is active.
    active: Option<u64>,
    /// Files of it that somebody has edited, and to what.
    edits: BTreeMap<String, String>,
    /// Edits that gave way: they are kept aside.
    aside: BTreeSet<String>,
    /// A directory in which something was uploaded, beside the top.
    uploaded: Option<String>,
    /// Somebody's files stand where the live tree is to be.
    theirs: bool,
}

/// What a process was about.
#[derive(Clone, Debug, Default)]
enum Step {
    #[default]
    Nothing,
    Open,
    Stage,
    Collect,
    Promise {
        number: u64,
    },
    Upload {
        name: &'static str,
    },
    Put {
        name: &'static str,
    },
    Activate {
        name: &'static str,
        number: u64,
        keep: bool,
    },
    Edit {
        name: &'static str,
        path: String,
        text: String,
    },
    Repair {
        name: &'static str,
    },
}

impl Step {
    fn name(&self) -> Option<&'static str> {
        match self {
            Self::Activate { name, .. }
            | Self::Edit { name, .. }
            | Self::Repair { name }
            | Self::Upload { name }
            | Self::Put { name } => Some(name),
            _ => None,
        }
    }
}

impl App {
    /// What stands in the live tree.
    fn live(&self) -> Pages {
        let mut live = self.active.map(pages).unwrap_or_default();
        if let Some(directory) = &self.uploaded {
            live.entry(directory.clone()).or_insert(Item::Directory(0o755));
        }
        live.extend(self.edits.iter().map(|(path, text)| (path.clone(), edited(text))));
        live
    }

    /// As it is after the tree `number` is activated.
    fn activated(&self, number: u64, keep: bool) -> Self {
        let (before, next) = (self.active.map(pages).unwrap_or_default(), pages(number));
        let edits = BTreeMap::new();
        let mut after = Self { active: Some(number), edits, theirs: false, ..self.clone() };
        after.aside.extend(self.theirs.then(|| THEIRS.to_owned()));
        for (path, text) in &self.edits {
            if keep && before.get(path) == next.get(path) {
                after.edits.insert(path.clone(), text.clone());
            } else {
                after.aside.insert(text.clone());
            }
        }
        after
    }

    fn repaired(&self) -> Self {
        let aside = self.aside.iter().chain(self.edits.values()).cloned().collect();
        Self { edits: BTreeMap::new(), aside, ..self.clone() }
    }

    fn with_uploads(&self) -> Self {
        Self { uploaded: self.active.map(now_and_then), ..self.clone() }
    }

    fn with_edit(&self, path: &str, text: &str) -> Self {
        let mut after = self.clone();
        after.edits.insert(path.to_owned(), text.to_owned());
        after
    }
}

fn edited(text: &str) -> Item {
    Item::File(0o644, text.as_bytes().to_vec())
}

impl Seen {
    /// Each with its name.
    pub fn counted(&self) -> Vec<(String, u64)> {
        let kills = self.kills.iter().map(|(step, count)| (format!("under way: {step}"), *count));
        let others = [
            ("switched in part, and finished", self.switched),
            ("one file in place before its record", self.stepped),
            ("recoveries that were killed", self.recoveries),
            ("edits found aside", self.aside),
            ("trees read chunk by chunk", self.verified),
        ];
        kills.chain(others.map(|(name, count)| (name.to_owned(), count))).collect()
    }
}

impl Model {
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            version: 1,
            tree: 0,
            held: BTreeMap::new(),
            known: BTreeMap::new(),
            apps: APPS.into_iter().map(|name| (name, App::default())).collect(),
            key: None,
            promised: None,
            under_way: Step::Nothing,
            damaged: false,
            looks: 0,
            seen: Seen::default(),
        }
    }

    pub fn orders(&self, seed: u64) -> Orders {
        Orders { seed, version: self.version, tree: self.tree, held: self.held.clone() }
    }

    /// Takes in what a process said before it was killed.
    pub fn hear(&mut self, said: &[String]) {
        for line in said {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| -> u64 { words[at].parse().unwrap() };
            let name = |at: usize| APPS.into_iter().find(|name| *name == words[at]).unwrap();
            match (words[0], words.get(1).copied()) {
                ("about", Some("open")) => self.under_way = Step::Open,
                ("about", Some("stage")) => {
                    self.tree = number(2) + 1;
                    self.under_way = Step::Stage;
                }
                ("about", Some("collect")) => {
                    // What is to go may be gone from now on.
                    let kept: BTreeSet<u64> =
                        words[2].split(',').filter_map(|number| number.parse().ok()).collect();
                    self.held.retain(|number, _| kept.contains(number));
                    self.under_way = Step::Collect;
                }
                ("about", Some("activate")) => {
                    self.version = number(3) + 1;
                    let (number, keep) = (number(4), words[5] == "true");
                    self.under_way = Step::Activate { name: name(2), number, keep };
                }
                ("about", Some("edit")) => {
                    let text = words[4..].join(" ");
                    self.version = number(5) + 1;
                    self.under_way = Step::Edit { name: name(2), path: words[3].to_owned(), text };
                }
                ("about", Some("repair")) => self.under_way = Step::Repair { name: name(2) },
                ("about", Some("promise")) => {
                    self.version = number(2) + 1;
                    self.under_way = Step::Promise { number: number(2) };
                }
                ("about", Some("upload")) => self.under_way = Step::Upload { name: name(2) },
                ("about", Some("put")) => self.under_way = Step::Put { name: APPS[0] },
                ("key", Some(key)) => {
                    let known = self.key.get_or_insert_with(|| key.to_owned());
                    assert_eq!(known, key, "it is another member");
                }
                ("staged", _) => {
                    let root = Digest::parse(words[2]).unwrap();
                    self.held.insert(number(1), root);
                    self.known.insert(root, number(1));
                    self.under_way = Step::Nothing;
                }
                ("activated" | "edited" | "repaired" | "uploaded" | "promised" | "put", _) => {
                    self.is_done()
                }
                ("opened" | "collected", _) => self.under_way = Step::Nothing,
                _ => panic!("it said {line:?}"),
            }
        }
    }

    fn is_done(&mut self) {
        let step = std::mem::take(&mut self.under_way);
        if let Step::Promise { number } = step {
            self.promised = Some(number);
            return;
        }
        let app = self.apps.get_mut(step.name().unwrap()).unwrap();
        *app = match step {
            Step::Activate { number, keep, .. } => app.activated(number, keep),
            Step::Edit { path, text, .. } => app.with_edit(&path, &text),
            Step::Repair { .. } => app.repaired(),
            Step::Upload { .. } => app.with_uploads(),
            Step::Put { .. } => App { theirs: true, ..app.clone() },
            step => panic!("{step:?} is of no live tree"),
        };
    }

    /// Opens what was left, and looks at all of it.
    pub fn look(&mut self, context: &str) {
        let step = std::mem::take(&mut self.under_way);
        let word = format!("{step:?}");
        let word = word.split(' ').next().unwrap().to_owned();
        *self.seen.kills.entry(word).or_default() += 1;
        let context = format!("{context}\n{step:?} was under way");
        let (data, content) = worker::open(&self.dir);
        self.look_at_member(&data, &step, &context);
        self.look_at_store(&content, &context);
        self.look_for_strays(&data, &content, &context);
        for name in APPS {
            let mine = if step.name() == Some(name) { step.clone() } else { Step::Nothing };
            self.look_at(name, &mine, &content, &context);
        }
        self.looks += 1;
        if self.looks.is_multiple_of(10) {
            self.look_at_room(&data, &content, &context);
        }
    }

    /// It is who it was, and has promised what it said.
    fn look_at_member(&mut self, data: &DataDir, step: &Step, context: &str) {
        let key = worker::key(data);
        assert_eq!(self.key.get_or_insert_with(|| key.clone()), &key, "the key; {context}");
        let promised = worker::promised(data);
        match step {
            Step::Promise { number } if promised == Some(*number) => self.promised = promised,
            _ => assert_eq!(promised, self.promised, "what was promised; {context}"),
        }
    }

    /// Everything that is held is whole, and nothing is listed that is not.
    fn look_at_store(&mut self, content: &Content, context: &str) {
        let store = content.store();
        for (number, root) in &self.held {
            assert!(store.whole(root).unwrap(), "tree {number} was held and is lost; {context}");
        }
        for root in store.trees().unwrap() {
            let bad = store.verify(&root, |_, _| {}).unwrap();
            assert!(bad.is_empty(), "{root} is listed and lacks {bad:?}; {context}");
            assert!(store.whole(&root).unwrap(), "{root} is listed and not whole; {context}");
            self.seen.verified += 1;
        }
    }

    fn look_at(&mut self, name: &'static str, step: &Step, content: &Content, context: &str) {
        let before = self.apps[name].clone();
        let recorded = content.applications().into_iter().find(|active| active.app == app(name));
        let number = recorded.as_ref().map(|active| self.known[&active.root]);
        let context = format!("{name}: {before:?}, recorded {number:?}; {context}");
        let Some(recorded) = recorded else {
            assert_eq!(before.active, None, "nothing is active; {context}");
            let theirs = self.dir.join("data/live").join(name).join("theirs");
            let is_there = fs::read_to_string(theirs).is_ok_and(|text| text == THEIRS);
            let is_put = matches!(step, Step::Put { .. });
            assert!(is_there || is_put || !before.theirs, "somebody's files are lost; {context}");
            return;
        };
        let mode = fs::metadata(&recorded.live).unwrap().mode() & 0o7777;
        let wanted = if name == APPS[0] { worker::PRIVATE } else { 0o755 };
        assert_eq!(mode, wanted, "the permissions of the live tree; {context}");
        let found = pages::read(&recorded.live);
        let same = |app: &App| found == app.live();
        let wrong = |app: &App| differences(&found, &app.live());
        let mut after = before.clone();
        match step {
            Step::Activate { number: next, keep, .. } => {
                let done = before.activated(*next, *keep);
                if same(&done) {
                    self.seen.switched += 1;
                    after = done;
                } else {
                    let (old, new) = (wrong(&before), wrong(&done));
                    assert!(same(&before), "a mix: {old:#?}, and {new:#?}; {context}");
                }
            }
            Step::Edit { path, text, .. } if !same(&before) => after = before.with_edit(path, text),
            // Edit by edit gives way.
            Step::Repair { .. } => {
                let gone = |path: &String, text: &String| found.get(path) != Some(&edited(text));
                let gave_way = before.edits.iter().filter(|(path, text)| gone(path, text));
                after.aside.extend(gave_way.map(|(_, text)| text.clone()));
                after.edits.retain(|path, text| !gone(path, text));
            }
            _ => {}
        }
        assert!(same(&after), "a mix: {:#?}; {context}", wrong(&after));
        if number != after.active {
            // One file that is put in place by itself may be there before the record is.
            // It is one version all the same, and the next order finds it there.
            let one = differences(&after.live(), &before.live()).len() <= 1;
            assert!(number == before.active && one, "the record is of another tree; {context}");
            let Step::Activate { number, keep, .. } = step else { panic!("{context}") };
            let root = self.held[number];
            self.version += 1;
            let (version, spec) = (self.version, spec());
            content
                .activate_with(&app(name), version, version, root, &spec, Terms::keeping(*keep))
                .unwrap();
            self.version += 1;
            self.seen.stepped += 1;
            let found = differences(&pages::read(&recorded.live), &after.live());
            assert!(found.is_empty(), "{found:#?} after the order came again; {context}");
        }
        let scanned = content.scan(&app(name), true).unwrap();
        let active = after.active.unwrap();
        let root = content.site(&app(name)).unwrap().root();
        assert_eq!(self.known[&root], active, "what is served; {context}");
        assert_eq!(scanned.root == Some(root), after.edits.is_empty(), "{scanned:?}; {context}");
        serves(&content.site(&app(name)).unwrap(), &pages(active), &context);
        let uploading = matches!(step, Step::Upload { .. });
        self.look_aside(&mut after, &recorded.live, uploading, &context);
        content.prune_aside(&app(name), 0, 0).unwrap();
        self.apps.insert(name, after);
    }

    /// What gave way is kept; what belongs to nobody's vote is where it was.
    fn look_aside(&mut self, after: &mut App, live: &Path, uploading: bool, context: &str) {
        let kept = files_below(&WorkDir::path_of(live).join("aside"));
        for text in std::mem::take(&mut after.aside) {
            let is_kept = kept.iter().any(|path| fs::read_to_string(path).is_ok_and(|t| t == text));
            assert!(is_kept, "{text:?} is neither in the live tree nor aside; {context}");
            self.seen.aside += 1;
        }
        let uploads = after.uploaded.iter().map(|some| live.join(some)).chain([live.to_owned()]);
        if after.uploaded.is_some() {
            for uploads in uploads {
                let upload = fs::read_to_string(uploads.join(UPLOADS).join("one")).ok();
                assert_eq!(upload.as_deref(), Some(UPLOAD), "an upload is lost; {context}");
            }
        } else if !uploading {
            worker::upload(live);
            *after = after.with_uploads();
        }
    }

    /// What a kill leaves over is tidied up when the next one starts.
    fn look_for_strays(&self, data: &DataDir, content: &Content, context: &str) {
        let records = names(&data.records());
        let expected = |name: &String| {
            name.ends_with(".active") || name.ends_with(".stats") || name == worker::PROMISE
        };
        assert!(records.iter().all(expected), "strays: {records:?}; {context}");
        let mut inside = names(&data.content());
        inside.retain(|name| !self.damaged || name != "index.damaged");
        assert_eq!(inside, ["index.redb", "packs", "trees"], "strays; {context}");
        let trees = names(&data.content().join("trees")).len();
        assert_eq!(trees, content.store().trees().unwrap().len(), "stray listings; {context}");
        for name in APPS {
            let work = WorkDir::path_of(&data.live().join(name));
            let found = if work.exists() { names(&work) } else { Vec::new() };
            let linked = found.iter().filter(|name| name.starts_with("tree-")).count();
            // Where nothing was ever active, nobody looks before the next order comes.
            let first = self.apps[name].active.is_none();
            let expected = |n: &String| {
                n == "old" || n == "aside" || n.starts_with("tree-") || (first && n == "next")
            };
            assert!(linked <= 1 && found.iter().all(expected), "strays: {found:?}; {context}");
        }
    }

    /// What nothing needs gives its room back, however often that was cut short.
    fn look_at_room(&self, data: &DataDir, content: &Content, context: &str) {
        let keep: BTreeSet<Digest> = self.held.values().copied().collect();
        for _ in 0..2 {
            assert!(!content.retain(&keep).unwrap().postponed, "{context}");
        }
        let store = content.store();
        let trees = store.trees().unwrap().into_iter();
        let chunks: BTreeSet<_> =
            trees.flat_map(|root| store.tree(&root).unwrap().unwrap().chunks()).collect();
        let needed: u64 = chunks.iter().map(|chunk| u64::from(chunk.len) + 36).sum();
        let packs = files_below(&data.content().join("packs"));
        let used: u64 = packs.iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        assert!(used / 2 <= needed + 4_096, "{used} bytes for {needed}; {context}");
        self.look_at_store_again(content, context);
    }

    fn look_at_store_again(&self, content: &Content, context: &str) {
        for (number, root) in &self.held {
            let bad = content.store().verify(root, |_, _| {}).unwrap();
            assert!(bad.is_empty(), "tree {number} was collected in part: {bad:?}; {context}");
        }
    }
}

/// Every byte that the gateway would send.
fn serves(site: &Site, pages: &Pages, context: &str) {
    for (path, item) in pages {
        let Item::File(_, wanted) = item else { continue };
        let rel = RelPath::parse(path.as_bytes()).unwrap();
        let mut sent = Vec::new();
        if let Some(mut file) = site.open(&rel) {
            std::io::Read::read_to_end(&mut file, &mut sent).unwrap();
        } else if let Some(Node::File { chunks, .. }) = site.tree().get(&rel) {
            for piece in 0..chunks.len() {
                sent.extend(site.read(&rel, piece).unwrap().unwrap());
            }
        }
        assert!(sent == *wanted, "{path} is served with other bytes; {context}");
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().map_while(Result::ok) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() { todo.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    files
}
