//! One part of the work, in a mount namespace of its own: records what a process
//! does, and looks at the disks that a power cut may leave of it.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{
    NAME, ORDERS, PLACE, RECOVER, STEPS,
    chance::Chance,
    disk::{Choice, Disk},
    model::Model,
    place::Mounted,
    recording::{self, Recording, What},
    states::{Edge, edges, kind_of},
    trace,
};

/// How many things a recorded process does after it has begun. A disk takes the longer to
/// put together the more inodes there ever were.
const ACTS: u64 = 8;
/// Disks of which recovering is recorded as well, in each part.
const RECOVERIES: usize = 2;
/// What is made again from other files when it is damaged.
const INDEX: &str = "/data/content/index.redb";
/// How many moments are looked at before a lost sync counts as not missed.
const MISSED: usize = 150;
/// So many violations are enough to look at.
const ENOUGH: usize = 6;

/// What a recorded process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Acts {
    /// [`ACTS`] as chance has it.
    Any,
    /// Each once, in both live trees.
    Each,
    /// It opens what is there.
    Recovering,
}

/// What was done, by its name, to be printed.
pub type Figures = BTreeMap<String, u64>;

/// Something that is not as it must be.
#[derive(Clone, Debug)]
pub struct Violation {
    pub what: String,
    /// What had got lost, as little as is needed.
    pub lost: Vec<String>,
    /// The moment, and the rest.
    pub how: String,
}

impl Violation {
    /// The same got lost, but for numbers.
    fn is_like(&self, other: &Self) -> bool {
        let words = |violation: &Self| {
            let text = violation.lost.join("\n");
            text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>()
        };
        words(self) == words(other)
    }
}

/// The places that a part works in; the disk is mounted, the rest is on a tmpfs.
pub struct Part {
    disk: PathBuf,
    source: PathBuf,
    trace: PathBuf,
    chance: Chance,
    pub figures: Figures,
    pub violations: Vec<Violation>,
}

thread_local! {
    /// What the last panic of this thread said, while disks are looked at.
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
}

impl Part {
    /// `scratch` is a directory of this part alone.
    pub fn new(scratch: &Path, seed: u64) -> Self {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(recording::UMASK));
        std::panic::set_hook(Box::new(|info| {
            let said = info.to_string();
            match SAID.take() {
                Some(_) => SAID.set(Some(said)),
                None => eprintln!("{said}"),
            }
        }));
        let disk = scratch.join("disk");
        fs::create_dir(&disk).unwrap();
        Self {
            disk,
            source: scratch.join("source"),
            trace: scratch.join("trace"),
            chance: Chance::new(seed),
            figures: Figures::default(),
            violations: Vec::new(),
        }
    }

    fn count(&mut self, what: &str, more: usize) {
        *self.figures.entry(what.to_owned()).or_default() += more as u64;
    }

    /// Looks at about `count` disks that a process at work may leave, and at some that
    /// one leaves that was recovering.
    pub fn examine(&mut self, count: usize) {
        let model = Model::new(&self.disk);
        let recording = self.record(&Disk::new(), &model, Acts::Any);
        let edges = edges(&recording, None);
        let each = (count * 3 / 4).div_ceil(edges.len());
        self.look(&recording, &edges, &model, false, |edge, chance| edge.choices(each, chance));
        for _ in 0..RECOVERIES {
            if !self.violations.is_empty() {
                return; // a disk that can't be opened is no start
            }
            let edge = &edges[self.chance.below(edges.len() as u64) as usize];
            let choices = edge.choices(8, &mut self.chance);
            let choice = &choices[self.chance.below(choices.len() as u64) as usize];
            let mut model = heard(&model, &recording, edge.said);
            let mut disk = edge.disk(choice);
            if self.chance.below(3) == 0 && disk.damage(INDEX) {
                model.damaged = true;
                self.count("of these with the index damaged", 1);
            }
            let again = self.record(&disk, &model, Acts::Recovering);
            let edges = super::states::edges(&again, None);
            let each = (count / 4 / RECOVERIES).div_ceil(edges.len());
            self.look(&again, &edges, &model, true, |edge, chance| edge.choices(each, chance));
        }
    }

    /// What a process does that works as the model has it, or only recovers.
    fn record(&mut self, before: &Disk, model: &Model, acts: Acts) -> Recording {
        let mounted = Mounted::new(before, &self.disk);
        let next_inode = mounted.next_inode;
        let before = mounted.read();
        let orders = model.orders(self.chance.next());
        let mut command = Command::new("strace");
        command
            .args(["-f", "-qq", "-xx", "-s", "16777216", "--seccomp-bpf", "-e"])
            .arg(format!("trace={}", recording::CALLS))
            .args(["-e", "signal=none", "-o"])
            .arg(&self.trace)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
            .env(PLACE, &self.disk)
            .env(super::SOURCE, &self.source)
            .env(ORDERS, orders.encode())
            .stdin(Stdio::null());
        match acts {
            Acts::Any => drop(command.env(STEPS, ACTS.to_string())),
            Acts::Each => {}
            Acts::Recovering => drop(command.env(RECOVER, "")),
        }
        let output = command.output().expect("strace can be started: apt-get install strace");
        assert!(
            output.status.success(),
            "what was to be recorded failed, or this machine lets no process be traced: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        let trace = fs::read_to_string(&self.trace).expect("a trace was written");
        let calls = trace::parse(&trace);
        let recording = recording::understand(&calls, &self.disk, before, next_inode);
        // Nothing was missed and nothing misunderstood.
        let left = mounted.read();
        let differences = recording.after.differences(&left);
        assert!(differences.is_empty(), "the recording is not what happened: {differences:#?}");
        self.count("calls recorded", recording.events.len());
        let recovers = matches!(acts, Acts::Recovering);
        self.count(if recovers { "recordings of recovering" } else { "recordings of work" }, 1);
        recording
    }

    /// Looks at the disks that `choices` says for each moment.
    fn look(
        &mut self,
        recording: &Recording,
        edges: &[Edge],
        model: &Model,
        recovers: bool,
        mut choices: impl FnMut(&Edge, &mut Chance) -> Vec<Choice>,
    ) {
        self.count("moments", edges.len());
        let mut known = BTreeSet::new();
        for edge in edges {
            // What a process says that only recovers changes nothing of what must be there.
            let model = if recovers { model.clone() } else { heard(model, recording, edge.said) };
            for choice in choices(edge, &mut self.chance) {
                self.count("disks put together", 1);
                let disk = edge.disk(&choice);
                if !known.insert((*disk.hash().as_bytes(), edge.said)) {
                    continue;
                }
                self.count("disks opened", 1);
                let disorder = !edge.is_in_order(&choice);
                self.count("of these with metadata out of order", usize::from(disorder));
                if let Err(what) = self.check(&disk, &model) {
                    let violation = self.explain(recording, edge, choice, &model, what);
                    if !self.violations.iter().any(|known| known.is_like(&violation)) {
                        self.violations.push(violation);
                    }
                    if self.violations.len() >= ENOUGH {
                        return;
                    }
                    break; // what is wrong at this edge is known
                }
            }
        }
    }

    /// Everything that is done, once: looks at each disk that lacks one change of names, and
    /// at those that lack what a kind of sync had made durable, had it done nothing. What
    /// kinds there are, and what came of each: the disks until it was noticed.
    pub fn miss_each_sync(&mut self) -> BTreeMap<String, Option<(usize, Violation)>> {
        let model = Model::new(&self.disk);
        let recording = self.record(&Disk::new(), &model, Acts::Each);
        let all = edges(&recording, None);
        self.look(&recording, &all, &model, false, |edge, _| edge.without_each_name());
        let kinds = recording.events.iter().filter(|event| matches!(event.what, What::Synced(_)));
        let kinds: BTreeSet<String> = kinds.map(|event| kind_of(&event.call)).collect();
        kinds.into_iter().map(|kind| (kind.clone(), self.missed(&recording, &kind))).collect()
    }

    fn missed(&mut self, recording: &Recording, kind: &str) -> Option<(usize, Violation)> {
        let model = Model::new(&self.disk);
        let mut edges = edges(recording, Some(kind));
        edges.retain(|edge| edge.pending.iter().any(|pending| pending.missed));
        let (mut known, mut looked) = (BTreeSet::new(), 0);
        for _ in 0..MISSED.min(edges.len() * 4) {
            let edge = &edges[self.chance.below(edges.len() as u64) as usize];
            let model = heard(&model, recording, edge.said);
            for choice in edge.without_missed(&mut self.chance) {
                let disk = edge.disk(&choice);
                if !known.insert((*disk.hash().as_bytes(), edge.said)) {
                    continue;
                }
                looked += 1;
                if let Err(what) = self.check(&disk, &model) {
                    return Some((looked, self.explain(recording, edge, choice, &model, what)));
                }
            }
        }
        None
    }

    /// Opens the disk as a member does that starts, and looks at all of it.
    fn check(&mut self, disk: &Disk, model: &Model) -> Result<(), String> {
        let _mounted = Mounted::new(disk, &self.disk);
        let mut model = model.clone();
        model.looks = self.chance.below(10);
        SAID.set(Some(String::new()));
        let looked = catch_unwind(AssertUnwindSafe(|| model.look("")));
        let said = SAID.take().unwrap_or_default();
        match looked {
            Ok(()) => {
                for (what, count) in model.seen.counted() {
                    self.count(&what, count as usize);
                }
                Ok(())
            }
            Err(_) => Err(said),
        }
    }

    /// As little as must get lost for it.
    fn explain(
        &mut self,
        recording: &Recording,
        edge: &Edge,
        mut choice: Choice,
        model: &Model,
        mut what: String,
    ) -> Violation {
        choice.rubbish &=
            self.check(&edge.disk(&Choice { rubbish: false, ..choice.clone() }), model).is_ok();
        if self.check(&edge.disk(&Choice { torn: None, ..choice.clone() }), model).is_err() {
            choice.torn = None;
        }
        for at in (0..choice.has.len()).rev() {
            if choice.has[at] {
                continue;
            }
            let mut more = choice.clone();
            more.has[at] = true;
            super::disk::close(&edge.pending, &mut more.has);
            if let Err(found) = self.check(&edge.disk(&more), model) {
                (choice, what) = (more, found);
            }
        }
        let text = |event: usize| recording.events[event].call.as_str();
        let mut lost: Vec<String> = Vec::new();
        for (pending, _) in edge.pending.iter().zip(&choice.has).filter(|(_, has)| !**has) {
            lost.push(format!("{}: {}", pending.call, text(pending.call)));
        }
        lost.dedup();
        let order = if edge.is_in_order(&choice) { "in order" } else { "out of order" };
        let from = edge.events.saturating_sub(6);
        let before: Vec<String> =
            (from..edge.events).map(|event| format!("{event}: {}", text(event))).collect();
        let next = recording.events.get(edge.events).map_or("its end", |event| &event.call);
        let torn = choice.torn.map(|(at, _)| text(edge.pending[at].call));
        let how = format!(
            "with metadata {order}, torn: {torn:?}, rubbish: {}, after {before:#?}, before {next}",
            choice.rubbish
        );
        Violation { what, lost, how }
    }
}

/// The model when the process has said so much.
fn heard(model: &Model, recording: &Recording, said: usize) -> Model {
    let lines = recording.events.iter().filter_map(|event| match &event.what {
        What::Said(line) => Some(line.clone()),
        _ => None,
    });
    let mut model = model.clone();
    model.hear(&lines.take(said).collect::<Vec<_>>());
    model
}
