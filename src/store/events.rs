//! The log of events: what happened here, kept over restarts, bounded by number, bytes and age.
//!
//! An event has a number that only rises, also over restarts, so whoever follows the log asks
//! for what is after the last one that it saw. In `redb`, each appended lot in one synced
//! transaction: events are few, and what a crash would take is just what somebody wants to know.
//! Each is JSON behind a byte that says the format: it outlives a change of its fields.
//!
//! What can't be read, because a newer Althing wrote it or the disk changed it, is left out and
//! counted. A log that is damaged as a whole is put aside under another name, and begun anew.

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
    WriteTransaction,
};
use serde::{Deserialize, Serialize};

use super::{StoreError, error::io_error, index::Fault};
use crate::{
    base::{AppName, MemberName, WallTime, limits},
    member::event::{Event, EventKind, Severity},
};

/// Number to format and JSON.
const EVENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("events");
/// Single numbers.
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
/// The number of the newest event that there ever was.
const LAST: &str = "last";
/// Bytes of all events that are there.
const BYTES: &str = "bytes";

/// The newest format of one event that this code reads, and the one that it writes.
const FORMAT: u8 = 1;
/// For how long events are kept, milliseconds: 60 days, as the oldest measurements.
const AGE_MAX_MS: u64 = 60 * 86_400_000;
/// Resident memory that redb may use, bytes.
const CACHE: usize = 1 << 20;

/// One event in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// Its number in the log: from 1, and only rising. Not the number that it had while its
    /// member ran ([`Event::number`]), which begins again at each start.
    pub id: u64,
    /// The number in the log of the event that brought it about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<u64>,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Which events are asked for. What is `None` does not matter.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// Those with a higher number.
    pub after: Option<u64>,
    /// Those not before this.
    pub since: Option<WallTime>,
    /// Those before this.
    pub until: Option<WallTime>,
    /// Those of one of these kinds; of all if none is given.
    pub kinds: Vec<EventKind>,
    /// Those that matter at least so much.
    pub severity: Option<Severity>,
    /// Those that concern this application.
    pub app: Option<AppName>,
    /// Those that concern this member.
    pub member: Option<MemberName>,
    /// How many, at most [`LOGGED_ANSWER_MAX`](limits::LOGGED_ANSWER_MAX): the first ones
    /// after `after`, where it is given, and otherwise the newest.
    pub limit: usize,
}

impl EventQuery {
    fn fits(&self, Logged { event, .. }: &Logged) -> bool {
        self.since.is_none_or(|since| event.at >= since)
            && self.until.is_none_or(|until| event.at < until)
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && self.severity.is_none_or(|severity| event.severity >= severity)
            && (self.app.is_none() || event.app == self.app)
            && (self.member.is_none() || event.member == self.member)
    }
}

/// What is found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Oldest first.
    pub events: Vec<Logged>,
    /// How many could not be read and were passed over.
    pub unreadable: u64,
}

/// The log of one member. All calls block.
pub struct EventLog {
    path: PathBuf,
    /// None after an error of the system, until it could be opened again.
    database: Option<Database>,
    begun_anew: bool,
}

impl EventLog {
    /// Opens the log at `path`, or makes it.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let wrap = |fault: Fault| log_error("open", path, fault);
        let (database, begun_anew) = match open(path, true) {
            Ok(database) => (database, false),
            Err(Fault::Damaged(_)) => {
                let aside = path.with_extension("damaged");
                std::fs::rename(path, &aside).map_err(io_error("put aside", path))?;
                (open(path, false).map_err(wrap)?, true)
            }
            Err(fault) => return Err(wrap(fault)),
        };
        Ok(Self { path: path.to_owned(), database: Some(database), begun_anew })
    }

    /// Whether it was damaged, and begun anew.
    pub fn begun_anew(&self) -> bool {
        self.begun_anew
    }

    /// Appends `events`, each with the number of its cause, and drops the oldest that are
    /// beyond the bounds. When it returns they survive a power cut. The numbers that they
    /// have now: from the first to the one behind the last.
    ///
    /// A text that is too long for the log is cut; one that still is too long is left out, and
    /// so has no number.
    ///
    /// # Errors
    /// If they can't be written. None is then.
    pub fn append(
        &mut self,
        events: &[(Event, Option<u64>)],
    ) -> Result<std::ops::Range<u64>, StoreError> {
        self.with("append to", |database| {
            let tx = database.begin_write()?;
            let first = number(&tx, LAST)?.saturating_add(1);
            let (mut next, mut bytes) = (first, number(&tx, BYTES)?);
            let mut newest = WallTime(0);
            {
                let mut table = tx.open_table(EVENTS)?;
                for (event, cause) in events {
                    let logged = Logged { id: next, cause: *cause, event: event.clone() };
                    let Some(encoded) = encode(logged) else { continue };
                    table.insert(next, encoded.as_slice())?;
                    newest = newest.max(event.at);
                    bytes += encoded.len() as u64;
                    next += 1;
                }
            }
            bytes = bytes.saturating_sub(trim(&tx, bytes, newest)?);
            let mut numbers = tx.open_table(NUMBERS)?;
            numbers.insert(LAST, next - 1)?;
            numbers.insert(BYTES, bytes)?;
            drop(numbers);
            tx.commit()?;
            Ok(first..next)
        })
    }

    /// The number of the newest event that there ever was; 0 before the first.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn tail(&mut self) -> Result<u64, StoreError> {
        self.with("read", |database| {
            let tx = database.begin_read()?;
            Ok(tx.open_table(NUMBERS)?.get(LAST)?.map_or(0, |n| n.value()))
        })
    }

    /// How many events are there.
    ///
    /// # Errors
    /// If they can't be read.
    pub fn count(&mut self) -> Result<u64, StoreError> {
        self.with("read", |database| Ok(database.begin_read()?.open_table(EVENTS)?.len()?))
    }

    /// The events that `query` asks for.
    ///
    /// # Errors
    /// If the log can't be read.
    pub fn query(&mut self, query: &EventQuery) -> Result<Events, StoreError> {
        let limit = query.limit.min(limits::LOGGED_ANSWER_MAX);
        self.with("read", |database| {
            let tx = database.begin_read()?;
            let table = tx.open_table(EVENTS)?;
            let mut found = Events::default();
            if limit == 0 {
                return Ok(found);
            }
            let mut look = |id: u64, bytes: &[u8]| match decode(id, bytes) {
                Some(logged) if query.fits(&logged) => {
                    found.events.push(logged);
                    found.events.len() < limit
                }
                Some(_) => true,
                None => {
                    found.unreadable += 1;
                    true
                }
            };
            if let Some(after) = query.after {
                for item in table.range(after.saturating_add(1)..)? {
                    let (id, bytes) = item?;
                    // Behind the highest number there is none, and this one was asked for.
                    if id.value() > after && !look(id.value(), bytes.value()) {
                        break;
                    }
                }
            } else {
                for item in table.iter()?.rev() {
                    let (id, bytes) = item?;
                    if !look(id.value(), bytes.value()) {
                        break;
                    }
                }
                found.events.reverse();
            }
            Ok(found)
        })
    }

    /// After an error of the system redb refuses everything until it is opened again.
    fn with<T>(
        &mut self,
        doing: &'static str,
        action: impl FnOnce(&Database) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let wrap = |fault: Fault| log_error(doing, &self.path, fault);
        let database = match self.database.take() {
            Some(database) => database,
            None => open(&self.path, false).map_err(wrap)?,
        };
        let result = action(&database);
        if !matches!(result, Err(Fault::Io(_))) {
            self.database = Some(database);
        }
        result.map_err(wrap)
    }
}

/// Drops the oldest events while there are too many, too many bytes, or too old ones. How many
/// bytes they had.
fn trim(tx: &WriteTransaction, bytes: u64, newest: WallTime) -> Result<u64, Fault> {
    let mut table = tx.open_table(EVENTS)?;
    let mut count = table.len()?;
    let mut dropped = 0;
    while count > 0 {
        let Some((id, encoded)) = table.first()?.map(|(id, e)| (id.value(), e.value().to_vec()))
        else {
            break;
        };
        let old = || {
            let at = decode(id, &encoded).map(|logged| logged.event.at);
            at.is_some_and(|at| newest.0.saturating_sub(at.0) > AGE_MAX_MS)
        };
        let over = count > limits::LOGGED_MAX
            || bytes.saturating_sub(dropped) > limits::LOGGED_BYTES_MAX
            || (count > limits::LOGGED_MIN && old());
        if !over {
            break;
        }
        table.remove(id)?;
        dropped += encoded.len() as u64;
        count -= 1;
    }
    Ok(dropped)
}

fn number(tx: &WriteTransaction, name: &str) -> Result<u64, Fault> {
    Ok(tx.open_table(NUMBERS)?.get(name)?.map_or(0, |n| n.value()))
}

/// None if it is too long even with its text cut.
fn encode(mut logged: Logged) -> Option<Vec<u8>> {
    let mut end = logged.event.text.len().min(limits::TEXT_MAX);
    while !logged.event.text.is_char_boundary(end) {
        end -= 1; // zero is one
    }
    logged.event.text.truncate(end);
    let mut bytes = vec![FORMAT];
    serde_json::to_writer(&mut bytes, &logged).ok()?;
    (bytes.len() <= limits::LOGGED_EACH_MAX).then_some(bytes)
}

fn decode(id: u64, bytes: &[u8]) -> Option<Logged> {
    let (format, json) = bytes.split_first()?;
    if *format != FORMAT || bytes.len() > limits::LOGGED_EACH_MAX {
        return None;
    }
    let logged: Logged = serde_json::from_slice(json).ok()?;
    (logged.id == id).then_some(logged)
}

fn open(path: &Path, check: bool) -> Result<Database, Fault> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(check);
    let there = path.exists();
    let database = if there {
        builder.open(path)?
    } else {
        // For its user alone, as everything in the data directory.
        let mut fresh = OpenOptions::new();
        fresh.read(true).write(true).create(true).truncate(false).mode(0o600);
        fresh.open(path).map_err(Fault::Io)?;
        builder.create(path)?
    };
    let tx = database.begin_write()?;
    tx.open_table(EVENTS)?;
    tx.open_table(NUMBERS)?;
    tx.commit()?;
    if !there {
        // Or a power cut could take the name of what was synced.
        let directory = path.parent().unwrap_or(Path::new("."));
        std::fs::File::open(directory).and_then(|d| d.sync_all()).map_err(Fault::Io)?;
    }
    Ok(database)
}

fn log_error(doing: &'static str, path: &Path, fault: Fault) -> StoreError {
    match fault {
        Fault::Io(error) => io_error(doing, path)(error),
        Fault::Damaged(why) | Fault::Other(why) => StoreError::Log { doing, why },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::member::event::UserEvent;

    const DAY_MS: u64 = 86_400_000;

    fn event(at: u64, kind: EventKind, text: &str) -> Event {
        Event {
            number: 1,
            at: WallTime(at),
            severity: Severity::Info,
            kind,
            member: None,
            app: None,
            text: text.to_owned(),
            user: None,
            cause: None,
            episode: None,
            evidence: None,
            asked: None,
        }
    }

    fn ids(events: &Events) -> Vec<u64> {
        events.events.iter().map(|e| e.id).collect()
    }

    fn all() -> EventQuery {
        EventQuery { limit: 100, ..EventQuery::default() }
    }

    #[test]
    fn what_is_appended_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut log = EventLog::open(&path).unwrap();
        assert_eq!((log.tail().unwrap(), log.count().unwrap()), (0, 0));
        let mut lost = event(2, EventKind::Membership, "b is down");
        lost.severity = Severity::Critical;
        lost.member = Some(MemberName::parse("b").unwrap());
        let mut repaired = event(3, EventKind::Repair, "index.html is as it should be");
        repaired.app = Some(AppName::parse("shop").unwrap());
        let mut told = event(4, EventKind::User, "deploy");
        told.user = Some(UserEvent {
            origin: "a".into(),
            name: "deploy".into(),
            payload: "{\"v\": 3}".into(),
            time: 7,
        });
        let events = [(event(1, EventKind::Member, "started"), None), (lost.clone(), Some(1))];
        assert_eq!(log.append(&events).unwrap(), 1..3);
        drop(log);
        let mut log = EventLog::open(&path).unwrap();
        assert_eq!(log.append(&[(repaired.clone(), Some(2)), (told.clone(), None)]).unwrap(), 3..5);
        assert_eq!((log.tail().unwrap(), log.count().unwrap()), (4, 4));

        let found = log.query(&all()).unwrap();
        assert_eq!(found.events[1], Logged { id: 2, cause: Some(1), event: lost });
        assert_eq!(found.events[3].event, told);
        let mut ask = |query: EventQuery| ids(&log.query(&query).unwrap());
        assert_eq!(ask(all()), [1, 2, 3, 4]);
        assert_eq!(ask(EventQuery { limit: 2, ..all() }), [3, 4]);
        assert_eq!(ask(EventQuery { after: Some(1), limit: 2, ..all() }), [2, 3]);
        assert!(ask(EventQuery { after: Some(4), ..all() }).is_empty());
        assert!(ask(EventQuery { after: Some(u64::MAX), ..all() }).is_empty());
        assert!(ask(EventQuery { limit: 0, ..all() }).is_empty());
        assert_eq!(ask(EventQuery { kinds: vec![EventKind::Repair], ..all() }), [3]);
        assert_eq!(ask(EventQuery { severity: Some(Severity::Warning), ..all() }), [2]);
        assert_eq!(ask(EventQuery { app: repaired.app, ..all() }), [3]);
        assert_eq!(ask(EventQuery { member: MemberName::parse("b").ok(), ..all() }), [2]);
        let time = EventQuery { since: Some(WallTime(2)), until: Some(WallTime(4)), ..all() };
        assert_eq!(ask(time), [2, 3]);
    }

    #[test]
    fn it_is_bounded_and_numbers_are_never_given_twice() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = EventLog::open(&dir.path().join("events")).unwrap();
        let text = "x".repeat(2 * limits::TEXT_MAX);
        // More bytes than are kept.
        let lot: Vec<_> = (0..2_000).map(|n| (event(n, EventKind::Vote, &text), None)).collect();
        for _ in 0..6 {
            log.append(&lot).unwrap();
        }
        let count = log.count().unwrap();
        let each = 4_200;
        assert!(
            count < limits::LOGGED_BYTES_MAX / 4_096 && count > limits::LOGGED_BYTES_MAX / each
        );
        assert_eq!(log.tail().unwrap(), 12_000);
        // All of them are too old, and the newest stay.
        let next = log.append(&[(event(100 * DAY_MS, EventKind::Vote, "later"), None)]).unwrap();
        assert_eq!((next, log.count().unwrap()), (12_001..12_002, limits::LOGGED_MIN));
        // A clock that is set back takes nothing.
        log.append(&[(event(5, EventKind::Vote, "back"), None)]).unwrap();
        assert_eq!(ids(&log.query(&EventQuery { limit: 2, ..all() }).unwrap()), [12_001, 12_002]);
    }

    #[test]
    fn what_cant_be_read_is_passed_over_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut log = EventLog::open(&path).unwrap();
        log.append(&[(event(1, EventKind::Member, "started"), None)]).unwrap();
        let whole = encode(Logged { id: 9, cause: None, event: event(1, EventKind::Vote, "x") });
        let whole = whole.unwrap();
        let newer = [&[FORMAT + 1][..], &whole[1..]].concat();
        let strange =
            String::from_utf8(whole.clone()).unwrap().replace("vote", "none").into_bytes();
        let tx = log.database.as_ref().unwrap().begin_write().unwrap();
        for (id, bytes) in [(7, &newer[..]), (8, &whole), (9, &strange), (10, b""), (11, b"\x01{")]
        {
            tx.open_table(EVENTS).unwrap().insert(id, bytes).unwrap();
        }
        tx.commit().unwrap();
        let found = log.query(&all()).unwrap();
        assert_eq!((ids(&found), found.unreadable), (vec![1], 5));
    }

    #[test]
    fn a_damaged_log_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        for damaged in [&b""[..], b"no log", &[7; 10_000]] {
            fs::write(&path, damaged).unwrap();
            let mut log = EventLog::open(&path).unwrap();
            assert!(log.begun_anew());
            assert_eq!(log.append(&[(event(1, EventKind::Member, "x"), None)]).unwrap(), 1..2);
            assert_eq!(fs::read(path.with_extension("damaged")).unwrap(), damaged);
            drop(log);
            assert!(!EventLog::open(&path).unwrap().begun_anew());
        }
    }

    #[test]
    fn every_damaged_page_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut log = EventLog::open(&path).unwrap();
        let lot: Vec<_> = (0..50).map(|n| (event(n, EventKind::Vote, "differs"), None)).collect();
        log.append(&lot).unwrap();
        drop(log);
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(whole.len() / 40) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            fs::write(&path, bytes).unwrap();
            let mut log = EventLog::open(&path).unwrap();
            let found = log.query(&all()).unwrap().events;
            assert!(found.iter().all(|e| e.event.text == "differs"), "byte {at}");
            log.append(&lot).unwrap();
        }
    }
}
