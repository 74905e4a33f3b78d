//! When the majority is gone for ever: what `althing recover` does to the data
//! directory of a member that is stopped.
//!
//! It works on the directory and not through the running member, because the
//! record that it replaces is the one thing that a running member must never
//! be surprised by; the directory's lock proves that nobody uses it. Each step
//! can be taken twice, and the record is replaced last and in one step: killed
//! at any instant, the member is still in the old cluster or wholly in the new
//! one. `proto/catalog/recovery.rs` argues why the two never mix.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    content,
    keys::{self, NextKeys},
    start::{has_record, load_record, wall_now},
};
use crate::{
    base::{
        AppName, ClusterId, Reason, Refusal, SecretKey, WallTime,
        catalog::Catalog,
        wire::{self, Kind},
    },
    proto::catalog::Record,
    store::{ContentStore, DataDir, StoreError, record},
};

/// Clusters before this one that are remembered: who recovers more often has
/// other problems.
const BEFORE_MAX: usize = 64;

/// What a recovered member remembers of the cluster that its own succeeds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Succession {
    /// The clusters before, the last one last: their tokens do no harm.
    #[serde(deserialize_with = "wire::bounded::<_, _, BEFORE_MAX>")]
    pub before: Vec<ClusterId>,
    /// The newest catalog of the last one that was known here.
    pub sequence: u64,
    /// When, by this server's clock.
    pub at: WallTime,
    /// What happened, for the event; none once it was told.
    pub untold: Option<String>,
}

/// A data directory that is about to be recovered. Locked while it lives.
pub struct Recovery {
    data: DataDir,
    key: SecretKey,
    record: Record,
}

/// What this member knows, for the person who has to decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// The cluster's id.
    pub cluster: String,
    /// This member's name.
    pub me: String,
    /// The newest catalog that it knows of.
    pub sequence: u64,
    /// Whether that one was accepted here and not known to be committed.
    pub uncertain: bool,
    /// How many voters the roster has.
    pub voters: usize,
    /// How many of them a change needs.
    pub majority: usize,
    /// Every other enrolled member.
    pub others: Vec<String>,
    /// What the cluster holds, and this member of it.
    pub applications: Vec<Holding>,
}

/// One application, as far as this member holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Its name.
    pub app: String,
    /// Its current version.
    pub version: u64,
    /// Whether this member's store holds every byte of that.
    pub whole: bool,
    /// The version that is live here; 0 for none.
    pub live: u64,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// The id of the cluster before.
    pub before: String,
    /// The id of the cluster that this member is now alone in; none where it
    /// is to join one.
    pub cluster: Option<String>,
    /// Its catalog's sequence.
    pub sequence: u64,
    /// Where the record of before is kept.
    pub kept: PathBuf,
}

impl Recovery {
    /// Takes the data directory of a stopped member. Nothing is changed.
    pub fn open(path: &Path) -> Result<Self, Refusal> {
        // Opening would make what is not there.
        if !path.join("member.key").exists() || !has_record(path) {
            return Err(Refusal::new(
                Reason::NotFound,
                WHAT,
                format!("No member of a cluster keeps its data in {}.", path.display()),
                "Say with --data where the member that is to be recovered keeps its data.",
            ));
        }
        let data = DataDir::open(path).map_err(|error| match error {
            StoreError::Locked { .. } => Refusal::new(
                Reason::Busy,
                WHAT,
                "The member runs, and its record can only be replaced while nobody uses it.",
                "Stop it, run this again, and start it.",
            ),
            error => of_store(&error),
        })?;
        let key = data.load_or_create_key(rand::random::<[u8; 32]>).map_err(|e| of_store(&e))?;
        let record = load_record(&data.record("register"))?.ok_or_else(|| {
            let why = "Its record went away while it was looked at.";
            Refusal::new(Reason::Failed, WHAT, why, "Look who else works on that directory.")
        })?;
        let key = Self::take_up_next_key(&data, key, &record)?;
        Ok(Self { data, key, record })
    }

    /// Stopped on its way to a new key, it is enrolled by that one already.
    fn take_up_next_key(
        data: &DataDir,
        key: SecretKey,
        record: &Record,
    ) -> Result<SecretKey, Refusal> {
        let roster = &record.committed.catalog.roster;
        if roster.contains(key.member()) {
            return Ok(key);
        }
        let next = NextKeys::load(data, key.member())?;
        let Some(id) = next.ids().map(|(id, _)| id).find(|id| roster.contains(*id)) else {
            return Ok(key);
        };
        keys::take_up(data, &next, id).map_err(|e| of_store(&e))?;
        Ok(next.get(id).unwrap_or(key))
    }

    /// What this member knows.
    pub fn survey(&self) -> Result<Survey, Refusal> {
        let catalog = self.record.newest();
        let me = self.key.member();
        let entry = self.record.committed.catalog.roster.get(me).ok_or_else(not_enrolled)?;
        let store = ContentStore::open(&self.data.content()).map_err(|e| of_store(&e))?;
        let live = content::live_versions(&self.data.records()).map_err(|e| failed(&e))?;
        let mut applications = Vec::new();
        for (app, application) in &catalog.applications {
            let current = application.current();
            applications.push(Holding {
                app: app.to_string(),
                version: current.number,
                whole: store.whole(&current.root).map_err(|e| of_store(&e))?,
                live: live.get::<AppName>(app).copied().unwrap_or(0),
            });
        }
        let others = catalog.roster.members.iter().filter(|m| m.id != me);
        Ok(Survey {
            cluster: catalog.cluster.to_string(),
            me: entry.name.to_string(),
            sequence: catalog.sequence,
            uncertain: catalog.sequence > self.record.committed.catalog.sequence,
            voters: catalog.roster.voters().count(),
            majority: catalog.roster.majority(),
            others: others.map(|m| m.name.to_string()).collect(),
            applications,
        })
    }

    /// Makes this member the only one of a successor of its cluster.
    pub fn succeed(self, kept_members: &[String]) -> Result<Recovered, Refusal> {
        let next = self.record.succeed(rand::random(), &self.key).ok_or_else(not_enrolled)?;
        let before = self.record.newest();
        let me = self.key.member();
        let others = before.roster.members.iter().filter(|m| m.id != me);
        let struck: Vec<String> = others
            .map(|m| m.name.to_string())
            .filter(|name| !kept_members.contains(name))
            .collect();
        let name = next.committed.catalog.roster.get(me).map(|m| m.name.to_string());
        let text = format!(
            "this cluster succeeds cluster {}, which had lost its majority: recovered by an \
             operator on {} from catalog {}; struck off: {}; to rejoin: {}",
            before.cluster,
            name.unwrap_or_default(),
            before.sequence,
            listed(&struck),
            listed(kept_members)
        );
        let kept = self.keep_record()?;
        self.remember(before, Some(text))?;
        let bytes = wire::encode(Kind::Record, &next);
        record::save(&self.data.record("register"), &bytes).map_err(|e| of_store(&e))?;
        // No next key can come into force any more: the new cluster never heard of it.
        record::remove(&self.data.next_keys()).map_err(|e| of_store(&e))?;
        let catalog = &next.committed.catalog;
        Ok(Recovered {
            before: before.cluster.to_string(),
            cluster: Some(catalog.cluster.to_string()),
            sequence: catalog.sequence,
            kept,
        })
    }

    /// Makes this member one that is in no cluster, with its key and all its
    /// content: it is to join the successor that another survivor founded.
    pub fn rejoin(self) -> Result<Recovered, Refusal> {
        let before = self.record.newest();
        let kept = self.keep_record()?;
        self.remember(before, None)?;
        content::begin_anew(&self.data.records()).map_err(|e| failed(&e))?;
        record::remove(&self.data.record("register")).map_err(|e| of_store(&e))?;
        record::remove(&self.data.next_keys()).map_err(|e| of_store(&e))?;
        Ok(Recovered {
            before: before.cluster.to_string(),
            cluster: None,
            sequence: before.sequence,
            kept,
        })
    }

    /// Keeps the record as it is beside itself.
    fn keep_record(&self) -> Result<PathBuf, Refusal> {
        let catalog = &self.record.committed.catalog;
        let name = format!("register.before-{}-{}", catalog.cluster, catalog.sequence);
        let path = self.data.records().join(name);
        let bytes = wire::encode(Kind::Record, &self.record);
        record::save(&path, &bytes).map_err(|e| of_store(&e))?;
        Ok(path)
    }

    fn remember(&self, before: &Catalog, untold: Option<String>) -> Result<(), Refusal> {
        let path = self.data.record(SUCCESSION);
        let mut list = load_succession(&path).map_or_else(Vec::new, |s| s.before);
        if list.last() != Some(&before.cluster) {
            list.push(before.cluster);
        }
        let surplus = list.len().saturating_sub(BEFORE_MAX);
        list.drain(..surplus);
        let (sequence, at) = (before.sequence, wall_now());
        let succession = Succession { before: list, sequence, at, untold };
        save_succession(&path, &succession).map_err(|e| of_store(&e))
    }
}

/// The record's name in the data directory.
pub(super) const SUCCESSION: &str = "succession";

/// What is remembered; nothing also where it can't be read: it is for people.
pub(super) fn load_succession(path: &Path) -> Option<Succession> {
    let bytes = record::load(path).ok()??;
    wire::decode(Kind::Record, &bytes).ok()
}

pub(super) fn save_succession(path: &Path, value: &Succession) -> Result<(), StoreError> {
    record::save(path, &wire::encode(Kind::Record, value))
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
}

const WHAT: &str = "Nothing was recovered.";

fn not_enrolled() -> Refusal {
    Refusal::new(
        Reason::Forbidden,
        WHAT,
        "This member has left its cluster or was removed from it: it does not speak for it.",
        "Recover on a member that is enrolled.",
    )
}

fn of_store(error: &StoreError) -> Refusal {
    failed(error)
}

fn failed(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(
        Reason::Failed,
        WHAT,
        format!("{error}."),
        "Mend the cause and run it again: until it says that it is done, the member is as it was.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{MemberName, catalog::Enrolled};

    fn directory(path: &Path) -> (SecretKey, Record) {
        let data = DataDir::open(path).unwrap();
        let key = data.load_or_create_key(|| [7; 32]).unwrap();
        let founder = |key: &SecretKey, name: &str| Enrolled {
            id: key.member(),
            key: key.public(),
            name: MemberName::parse(name).unwrap(),
            address: "127.0.0.1:1".parse().unwrap(),
            tags: std::collections::BTreeMap::new(),
            voter: true,
            standby: false,
        };
        let mut record = Record::found([0; 32], &key, founder(&key, "a"));
        for (seed, name) in [(8, "b"), (9, "c")] {
            let other = SecretKey::from_seed([seed; 32]);
            record.committed.catalog.roster.members.push(founder(&other, name));
        }
        record::save(&data.record("register"), &wire::encode(Kind::Record, &record)).unwrap();
        (key, record)
    }

    #[test]
    fn nothing_is_made_where_nothing_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none");
        let Err(refusal) = Recovery::open(&path) else { panic!("there is nothing") };
        assert_eq!(refusal.reason, Reason::NotFound);
        assert!(!path.exists());
    }

    #[test]
    fn a_member_that_runs_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        directory(dir.path());
        let running = DataDir::open(dir.path()).unwrap();
        let Err(refusal) = Recovery::open(dir.path()) else { panic!("it is in use") };
        assert_eq!(refusal.reason, Reason::Busy);
        drop(running);
        let survey = Recovery::open(dir.path()).unwrap().survey().unwrap();
        assert_eq!((survey.me.as_str(), survey.voters, survey.majority), ("a", 3, 2));
        assert_eq!(survey.others, ["b", "c"]);
    }

    #[test]
    fn the_record_of_before_is_kept_and_the_next_one_is_another_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let (key, before) = directory(dir.path());
        let done = Recovery::open(dir.path()).unwrap().succeed(&["b".to_owned()]).unwrap();
        let kept = load_record(&done.kept).unwrap().unwrap();
        assert_eq!(kept, before);
        let next = load_record(&dir.path().join("records/register")).unwrap().unwrap();
        let catalog = &next.committed.catalog;
        assert_eq!(Some(catalog.cluster.to_string()), done.cluster);
        assert_ne!(catalog.cluster, before.committed.catalog.cluster);
        let ids: Vec<_> = catalog.roster.members.iter().map(|m| m.id).collect();
        assert_eq!(ids, [key.member()]);
        let succession = load_succession(&dir.path().join("records").join(SUCCESSION)).unwrap();
        assert_eq!(succession.before, [before.committed.catalog.cluster]);
        let text = succession.untold.unwrap();
        assert!(text.contains("struck off: c") && text.contains("to rejoin: b"), "{text}");
    }

    #[test]
    fn who_rejoins_keeps_its_key_and_is_in_no_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let (key, before) = directory(dir.path());
        let done = Recovery::open(dir.path()).unwrap().rejoin().unwrap();
        assert_eq!(done.cluster, None);
        assert_eq!(load_record(&done.kept).unwrap().unwrap(), before);
        assert!(!dir.path().join("records/register").exists());
        let data = DataDir::open(dir.path()).unwrap();
        let kept = data.load_or_create_key(|| unreachable!("there is a key")).unwrap();
        assert_eq!(kept.member(), key.member());
    }
}
