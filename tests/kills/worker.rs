//! The process that is killed: it stages, switches, edits, repairs and collects
//! until then, and says what it is about to do and what it has done.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use althing::{
    base::{AppName, Digest, catalog::AppSpec},
    node::content::{Content, Made, Terms},
    store::{ContentStore, DataDir, record},
};

use super::{
    chance::Chance,
    pages::{self, Item, MINOR, UPLOADS},
};

/// What is kept of an upload that no version may touch.
pub const UPLOAD: &str = "uploaded";
/// Its permissions, which those take over that take its place.
pub const PRIVATE: u32 = 0o750;
/// What stood where a live tree came to be.
pub const THEIRS: &str = "theirs";
/// The record of what was promised last.
pub const PROMISE: &str = "promise";

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
        sync(&data.live()); // not `dir`: that the data directory is in it is not our doing
    }
    let store = ContentStore::open(&data.content()).unwrap();
    let content = Content::open(store, data.live(), data.records()).unwrap();
    (data, content)
}

/// What this member has promised last, as far as it is on the disk.
pub fn promised(data: &DataDir) -> Option<u64> {
    let bytes = record::load(&data.record(PROMISE)).unwrap()?;
    Some(u64::from_le_bytes(bytes.try_into().unwrap()))
}

/// Who this member is.
pub fn key(data: &DataDir) -> String {
    let random = || {
        let mut seed = [0; 32];
        fs::File::open("/dev/urandom").unwrap().read_exact(&mut seed).unwrap();
        seed
    };
    data.load_or_create_key(random).unwrap().member().to_string()
}

/// What was made, moved or removed in a directory is on the disk.
pub fn sync(directory: &Path) {
    fs::File::open(directory).unwrap().sync_all().unwrap();
}

pub fn app(name: &str) -> AppName {
    AppName::parse(name).unwrap()
}

pub fn spec() -> AppSpec {
    AppSpec { ignore: vec![format!("{UPLOADS}/")], ..AppSpec::default() }
}

/// Who works in `dir`, and publishes what stands in `source`.
pub struct Worker<'a> {
    dir: &'a Path,
    source: &'a Path,
    data: DataDir,
    content: Content,
    chance: Chance,
    orders: Orders,
}

fn say(words: &str) {
    // On a line of its own, whatever the harness has said.
    println!("\n@ {words}");
}

impl<'a> Worker<'a> {
    /// Opens what is there.
    pub fn open(dir: &'a Path, source: &'a Path, orders: Orders) -> Self {
        say("about open");
        let (data, content) = open(dir);
        say("opened");
        say(&format!("key {}", key(&data)));
        let chance = Chance::new(orders.seed);
        Self { dir, source, data, content, chance, orders }
    }

    /// Does one thing after the other until it is killed.
    pub fn work(mut self) -> ! {
        if self.orders.tree == 0 {
            self.begin();
        }
        loop {
            self.step();
        }
    }

    /// What both live trees start with: a version, and uploads in it. Somebody's files
    /// stand where one of them is to be.
    pub fn begin(&mut self) {
        say("about put");
        let theirs = self.data.live().join(APPS[0]);
        fs::create_dir_all(&theirs).unwrap();
        write(&theirs.join("theirs"), THEIRS);
        fs::set_permissions(&theirs, fs::Permissions::from_mode(PRIVATE)).unwrap();
        sync(&theirs);
        sync(&self.data.live());
        say("put");
        for name in APPS {
            self.stage();
            self.activate(name);
            say(&format!("about upload {name}"));
            upload(&self.data.live().join(name));
            say(&format!("uploaded {name}"));
        }
    }

    /// Everything that is done here, in both live trees.
    pub fn each_act(&mut self) {
        for name in APPS {
            self.edit(name);
            self.repair(name);
            self.edit(name);
            self.stage();
            self.activate(name);
        }
        self.promise();
        self.collect();
        self.collect();
    }

    pub fn step(&mut self) {
        let name = APPS[self.chance.below(2) as usize];
        match self.chance.below(9) {
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
            7 => self.promise(),
            _ => self.collect(),
        }
    }

    fn stage(&mut self) {
        let most = if self.chance.below(2) == 0 { 1 } else { MINOR };
        let number = self.orders.tree + self.chance.below(most);
        self.orders.tree = number + 1;
        if self.source.exists() {
            fs::remove_dir_all(self.source).unwrap();
        }
        pages::write(&pages::pages(number), self.source);
        say(&format!("about stage {number}"));
        let staged = self.content.stage(self.source, &[], &Made::default()).unwrap();
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

    /// Somebody edits one to three files, each in one step that is on the disk then.
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
            fs::File::open(&aside).unwrap().sync_all().unwrap();
            let place = active.live.join(path);
            fs::rename(&aside, &place).unwrap();
            sync(place.parent().unwrap());
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

    /// A record such as that of the register.
    fn promise(&mut self) {
        self.orders.version += 1;
        let number = self.orders.version;
        say(&format!("about promise {number}"));
        record::save(&self.data.record(PROMISE), &number.to_le_bytes()).unwrap();
        say("promised");
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

/// A program puts something into the live tree that belongs to nobody's vote: at the top,
/// and in a directory that not every version has.
pub fn upload(live: &Path) {
    let some = ["m0", "m1"].into_iter().find(|some| live.join(some).exists()).unwrap();
    for directory in [live.to_owned(), live.join(some)] {
        let uploads = directory.join(UPLOADS);
        fs::create_dir_all(&uploads).unwrap();
        write(&uploads.join("one"), UPLOAD);
        sync(&uploads);
        sync(&directory);
    }
}

/// Writes a file, and has it on the disk.
fn write(path: &Path, text: &str) {
    let mut file = fs::File::create(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.sync_all().unwrap();
}
