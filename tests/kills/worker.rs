//! The process that is killed: it stages, switches, edits, repairs and collects
//! until then, and says what it is about to do and what it has done.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use althing::{
    base::{AppName, Digest, catalog::AppSpec},
    node::content::{Content, Made, Terms},
    store::{ContentStore, DataDir},
};

use super::{
    chance::Chance,
    pages::{self, Item, MINOR, UPLOADS},
};

/// One live tree is a directory, the other is led to by a link.
pub const APPS: [&str; 2] = ["plain", "linked"];

/// What it is told when it starts.
#[derive(Debug)]
pub struct Orders {
    pub seed: u64,
    /// The number of the next version, and of the next tree.
    pub version: u64,
    pub tree: u64,
    /// Trees that are in the store, by their numbers.
    pub held: BTreeMap<u64, Digest>,
}

impl Orders {
    pub fn encode(&self) -> String {
        let held: Vec<String> = self.held.iter().map(|(n, root)| format!("{n}={root}")).collect();
        format!("{} {} {} {}", self.seed, self.version, self.tree, held.join(","))
    }

    pub fn decode(text: &str) -> Self {
        let words: Vec<&str> = text.split(' ').collect();
        let number = |at: usize| words[at].parse().unwrap();
        let held = words[3].split(',').filter(|pair| !pair.is_empty()).map(|pair| {
            let (number, root) = pair.split_once('=').unwrap();
            (number.parse().unwrap(), Digest::parse(root).unwrap())
        });
        Self { seed: number(0), version: number(1), tree: number(2), held: held.collect() }
    }
}

/// The content of the member whose data directory is at `dir`, recovered; the
/// lock goes with it.
pub fn open(dir: &Path) -> (DataDir, Content) {
    let data = DataDir::open(&dir.join("data")).unwrap();
    if !data.live().join("linked").is_symlink() {
        fs::create_dir_all(dir.join("first")).unwrap();
        symlink(dir.join("first"), data.live().join("linked")).unwrap();
    }
    let store = ContentStore::open(&data.content()).unwrap();
    let content = Content::open(store, data.live(), data.records()).unwrap();
    (data, content)
}

pub fn app(name: &str) -> AppName {
    AppName::parse(name).unwrap()
}

pub fn spec() -> AppSpec {
    AppSpec { ignore: vec![format!("/{UPLOADS}/")], ..AppSpec::default() }
}

/// Works until it is killed, or opens what is there and waits for that.
pub fn work(dir: &Path, orders: Orders, recover_only: bool) -> ! {
    say("about open");
    let (data, content) = open(dir);
    say("opened");
    if recover_only {
        loop {
            std::thread::park();
        }
    }
    let chance = Chance::new(orders.seed);
    let mut worker = Worker { dir, data, content, chance, orders };
    loop {
        worker.step();
    }
}

fn say(words: &str) {
    // On a line of its own, whatever the harness has said.
    println!("\n@ {words}");
}

struct Worker<'a> {
    dir: &'a Path,
    data: DataDir,
    content: Content,
    chance: Chance,
    orders: Orders,
}

impl Worker<'_> {
    fn step(&mut self) {
        let name = APPS[self.chance.below(2) as usize];
        match self.chance.below(8) {
            0 | 1 => self.stage(),
            2 | 3 => {
                self.stage();
                self.activate(name);
            }
            4 => self.activate(name),
            5 => {
                self.edit(name);
                self.repair(name);
            }
            6 => {
                self.edit(name);
                self.stage();
                self.activate(name);
            }
            _ => self.collect(),
        }
    }

    fn stage(&mut self) {
        let most = if self.chance.below(2) == 0 { 1 } else { MINOR };
        let number = self.orders.tree + self.chance.below(most);
        self.orders.tree = number + 1;
        let source = self.dir.join("source");
        if source.exists() {
            fs::remove_dir_all(&source).unwrap();
        }
        pages::write(&pages::pages(number), &source);
        say(&format!("about stage {number}"));
        let staged = self.content.stage(&source, &[], &Made::default()).unwrap();
        say(&format!("staged {number} {}", staged.root));
        self.orders.held.insert(number, staged.root);
    }

    /// The newest tree, most often, or an older one.
    fn activate(&mut self, name: &str) {
        let newest = self.chance.below(3) > 0;
        let at = self.chance.below(self.orders.held.len() as u64) as usize;
        let mut held = self.orders.held.iter();
        let picked = if newest { held.next_back() } else { held.nth(at) };
        let Some((number, root)) = picked.map(|(number, root)| (*number, *root)) else { return };
        let keep = self.chance.below(2) == 0;
        let version = self.orders.version;
        self.orders.version += 1;
        say(&format!("about activate {name} {version} {number} {keep}"));
        self.content
            .activate_with(&app(name), version, version, root, &spec(), Terms::keeping(keep))
            .unwrap();
        say("activated");
    }

    /// Somebody edits one to three files, each in one step.
    fn edit(&mut self, name: &str) {
        let Some(active) = self.content.applications().into_iter().find(|a| a.app == app(name))
        else {
            return;
        };
        for _ in 0..=self.chance.below(3) {
            let files = pages::read(&active.live).into_iter();
            let mut files: Vec<String> = files
                .filter(|(_, item)| matches!(item, Item::File(..)))
                .map(|(path, _)| path)
                .collect();
            files.push(format!("added{}", self.orders.version));
            let path = &files[self.chance.below(files.len() as u64) as usize];
            self.orders.version += 1;
            let text = format!("edit {}", self.orders.version);
            say(&format!("about edit {name} {path} {text}"));
            let aside = self.dir.join("edit");
            fs::write(&aside, &text).unwrap();
            fs::set_permissions(&aside, fs::Permissions::from_mode(0o644)).unwrap();
            fs::rename(&aside, active.live.join(path)).unwrap();
            say("edited");
        }
    }

    fn repair(&mut self, name: &str) {
        let active = self.content.applications().into_iter().find(|a| a.app == app(name));
        let Some(active) = active else { return };
        say(&format!("about repair {name}"));
        self.content.repair(&active.app, active.root).unwrap();
        say("repaired");
    }

    /// Keeps what is active, and of the rest every second one.
    fn collect(&mut self) {
        let active: BTreeSet<Digest> =
            self.content.applications().into_iter().map(|active| active.root).collect();
        let chance = &mut self.chance;
        self.orders.held.retain(|_, root| active.contains(root) || chance.below(2) == 0);
        let numbers: Vec<String> = self.orders.held.keys().map(u64::to_string).collect();
        say(&format!("about collect {}", numbers.join(",")));
        let keep = self.orders.held.values().copied().collect();
        let freed = self.content.retain(&keep).unwrap();
        assert!(!freed.postponed, "nobody else is at work in {}", self.data.path().display());
        say("collected");
    }
}
