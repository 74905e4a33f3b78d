//! Where requests come from: counted by networks, countries and continents, for the sets of
//! them that somebody asks for, and for nobody else.
//!
//! Countries and continents are read from a file in the format of MaxMind DB, which the user
//! supplies and renews: <https://maxmind.github.io/MaxMind-DB/>. It is read as a whole, so
//! that whoever replaces it takes nothing away under a look-up, and checked before it counts:
//! where a new one is damaged the one before stays.
//!
//! **Invariant:** what can't be looked up is counted as unknown and never as from elsewhere.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use maxminddb::Reader;
use serde::Deserialize;

use crate::{
    base::{
        Origins,
        metric::{Known, Series},
        origin::{Code, Place},
    },
    proto::telemetry::Reading,
};

/// Sets that are counted: each request is held against all of them.
pub const SETS_MAX: usize = 64;
/// The largest file, bytes: it is held in memory, twice while it is renewed. One of all
/// cities has some 60 MB.
const FILE_MAX: u64 = 256 << 20;
/// How often it is looked whether the file is another one.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Networks of a file that are looked into until one says where it is.
const TRIED_MAX: usize = 100_000;

/// What was counted of one set since it was asked for first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Which.
    pub origins: Origins,
    /// Requests from there.
    pub from: u64,
    /// Those from somewhere else.
    pub elsewhere: u64,
    /// Those of which it is not known.
    pub unknown: u64,
}

impl Counted {
    /// As the series of this member.
    pub fn readings(&self) -> Vec<(Series, Reading)> {
        let label = self.origins.label();
        let numbers = [
            (Known::RequestsFrom, self.from),
            (Known::RequestsElsewhere, self.elsewhere),
            (Known::RequestsUnknown, self.unknown),
        ];
        let reading = |(known, count): (Known, u64)| {
            // The label of origins is always taken.
            let series = Series::new(known, Some(&label)).ok()?;
            Some((series, Reading::Number(count as f64)))
        };
        numbers.into_iter().filter_map(reading).collect()
    }
}

/// Counts by the sets that are asked for.
#[derive(Debug, Default)]
pub(super) struct Watched {
    sets: RwLock<Vec<Arc<Set>>>,
    database: RwLock<Option<Database>>,
}

#[derive(Debug)]
struct Set {
    origins: Origins,
    from: AtomicU64,
    elsewhere: AtomicU64,
    unknown: AtomicU64,
}

impl Watched {
    /// See [`Tally::set_origins`](super::Tally::set_origins).
    pub(super) fn set(&self, wanted: Vec<Origins>) -> Vec<Origins> {
        let mut sets = self.sets.write().unwrap_or_else(PoisonError::into_inner);
        let (mut next, mut beyond): (Vec<Arc<Set>>, _) = (Vec::new(), Vec::new());
        for origins in wanted {
            if next.iter().any(|set| set.origins == origins) {
                continue;
            }
            if next.len() == SETS_MAX {
                beyond.push(origins);
                continue;
            }
            let kept = sets.iter().find(|set| set.origins == origins).cloned();
            next.push(kept.unwrap_or_else(|| {
                let (from, elsewhere, unknown) = Default::default();
                Arc::new(Set { origins, from, elsewhere, unknown })
            }));
        }
        *sets = next;
        beyond
    }

    pub(super) fn counted(&self) -> Vec<Counted> {
        let sets = self.sets.read().unwrap_or_else(PoisonError::into_inner);
        let counted = |set: &Arc<Set>| Counted {
            origins: set.origins.clone(),
            from: set.from.load(Relaxed),
            elsewhere: set.elsewhere.load(Relaxed),
            unknown: set.unknown.load(Relaxed),
        };
        sets.iter().map(counted).collect()
    }

    pub(super) fn set_database(&self, database: Option<Database>) {
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = database;
    }

    /// Counts a request of `client`.
    pub(super) fn count(&self, client: IpAddr) {
        let sets = self.sets.read().unwrap_or_else(PoisonError::into_inner);
        // One look-up for all of them, if any of them needs it.
        let mut place = None;
        for set in &*sets {
            let held =
                set.origins.hold(client, || *place.get_or_insert_with(|| self.place(client)));
            let counter = match held {
                Some(true) => &set.from,
                Some(false) => &set.elsewhere,
                None => &set.unknown,
            };
            counter.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn place(&self, client: IpAddr) -> Place {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        database.as_ref().map(|database| database.place(client)).unwrap_or_default()
    }
}

/// Where addresses are, by a file.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    path: PathBuf,
    reader: RwLock<Arc<Reader<Vec<u8>>>>,
    looked: Mutex<Looked>,
    tell: OnceLock<Box<dyn Fn(DatabaseEvent) + Send + Sync>>,
}

/// What was found when the file was looked at last.
struct Looked {
    /// Of which file. It is not read again while it is the same.
    stamp: Option<Stamp>,
    trouble: Option<String>,
}

/// Something happened to the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseEvent {
    /// It can't be used: why, and what follows.
    Failed(String),
    /// It was replaced, and the new one counts from now on.
    Renewed(PathBuf),
}

impl fmt::Display for DatabaseEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(why) => f.write_str(why),
            Self::Renewed(path) => {
                write!(f, "where clients are is looked up in the new {}", path.display())
            }
        }
    }
}

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BadDatabase {
    /// It can't be read.
    #[error("it can't be read: {0}")]
    Io(#[from] io::Error),
    /// It is larger than what is held in memory.
    #[error("it has {0} bytes, and {FILE_MAX} are the most")]
    TooLarge(u64),
    /// It is being written.
    #[error("it was changed while it was read: replace it by renaming a whole one over it")]
    Changing,
    /// It is no such file, or damaged.
    #[error("it is damaged, or no file in the format of MaxMind DB: {0}")]
    Damaged(#[from] maxminddb::MaxMindDbError),
    /// It is about something else.
    #[error("it says of no address in which country or on which continent it is")]
    OfSomethingElse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &std::fs::Metadata) -> Self {
        Self {
            file: (meta.dev(), meta.ino()),
            size: meta.len(),
            changed: (meta.mtime(), meta.mtime_nsec()),
        }
    }
}

/// What is read of an entry.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    country: Option<Country<'a>>,
    #[serde(borrow)]
    continent: Option<Continent<'a>>,
}

#[derive(Deserialize)]
struct Country<'a> {
    iso_code: Option<&'a str>,
}

#[derive(Deserialize)]
struct Continent<'a> {
    code: Option<&'a str>,
}

impl From<Entry<'_>> for Place {
    fn from(entry: Entry<'_>) -> Self {
        let code = |text: Option<&str>| text.and_then(Code::parse);
        Self {
            country: code(entry.country.and_then(|country| country.iso_code)),
            continent: code(entry.continent.and_then(|continent| continent.code)),
        }
    }
}

impl Database {
    /// Reads and checks the file at `path`, and from now on looks once a minute whether it is
    /// another one. Blocks for about a second where it is large.
    ///
    /// # Errors
    /// If it can't be used, or no thread be started.
    pub fn open(path: &Path) -> Result<Self, BadDatabase> {
        let database = Self::without_thread(path)?;
        let inner = Arc::downgrade(&database.0);
        let thread = std::thread::Builder::new().name("althing-origins".to_owned());
        #[expect(clippy::disallowed_methods, reason = "a thread of its own, with nothing to do")]
        thread.spawn(move || {
            loop {
                std::thread::sleep(LOOK_EVERY);
                let Some(inner) = inner.upgrade() else { return };
                Self(inner).look();
            }
        })?;
        Ok(database)
    }

    fn without_thread(path: &Path) -> Result<Self, BadDatabase> {
        let (stamp, file) = stamped(path)?;
        let reader = RwLock::new(Arc::new(read(path, stamp, file)?));
        let looked = Mutex::new(Looked { stamp: Some(stamp), trouble: None });
        Ok(Self(Arc::new(Inner { path: path.to_owned(), reader, looked, tell: OnceLock::new() })))
    }

    /// What happens from now on is told to `tell`, which must not block. The first one who
    /// asks is told.
    pub fn tell(&self, tell: impl Fn(DatabaseEvent) + Send + Sync + 'static) {
        // It is asked for once, when a member starts.
        let _told_already = self.0.tell.set(Box::new(tell));
    }

    /// Why the file as it is now can't be used, while it can't: a sentence without its point.
    pub fn trouble(&self) -> Option<String> {
        locked(&self.0.looked).trouble.clone()
    }

    /// Reads the file again if it is another one than when it was looked at last. Blocks.
    fn look(&self) {
        let inner = &*self.0;
        let mut looked = locked(&inner.looked);
        let (stamp, read) = match stamped(&inner.path) {
            Ok((stamp, _)) if looked.stamp == Some(stamp) => return,
            Ok((stamp, file)) => (Some(stamp), read(&inner.path, stamp, file)),
            Err(error) => (None, Err(error)),
        };
        // One that is being written is looked at again.
        looked.stamp = stamp.filter(|_| !matches!(read, Err(BadDatabase::Changing)));
        let event = match read {
            Ok(reader) => {
                *inner.reader.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(reader);
                looked.trouble = None;
                DatabaseEvent::Renewed(inner.path.clone())
            }
            Err(why) => {
                let why = format!(
                    "{} can't be used, and what was read of it before counts on: {why}",
                    inner.path.display()
                );
                // The same once more is no news.
                if looked.trouble.as_ref() == Some(&why) {
                    return;
                }
                looked.trouble = Some(why.clone());
                DatabaseEvent::Failed(why)
            }
        };
        drop(looked);
        match inner.tell.get() {
            Some(tell) => tell(event),
            None => tracing::warn!("{event}"),
        }
    }

    fn place(&self, client: IpAddr) -> Place {
        let reader = self.0.reader.read().unwrap_or_else(PoisonError::into_inner);
        place(&reader, client)
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("path", &self.0.path).finish_non_exhaustive()
    }
}

/// The file as it is now.
fn stamped(path: &Path) -> Result<(Stamp, File), BadDatabase> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file").into());
    }
    if meta.len() > FILE_MAX {
        return Err(BadDatabase::TooLarge(meta.len()));
    }
    Ok((Stamp::of(&meta), file))
}

/// Reads and checks it.
fn read(path: &Path, stamp: Stamp, file: File) -> Result<Reader<Vec<u8>>, BadDatabase> {
    let mut bytes = Vec::with_capacity(stamp.size as usize);
    file.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != stamp.size || Stamp::of(&std::fs::metadata(path)?) != stamp {
        return Err(BadDatabase::Changing);
    }
    let reader = Reader::from_source(bytes)?;
    reader.verify()?;
    let networks = reader.networks(maxminddb::WithinOptions::default())?;
    let says = |entry: Entry<'_>| {
        let place = Place::from(entry);
        place.country.is_some() || place.continent.is_some()
    };
    let mut tried = networks.take(TRIED_MAX).filter_map(|found| found.ok()?.decode().ok()?);
    let of_places = tried.any(says);
    drop(tried);
    if of_places { Ok(reader) } else { Err(BadDatabase::OfSomethingElse) }
}

fn place(reader: &Reader<Vec<u8>>, client: IpAddr) -> Place {
    // An address that no database can hold, and an entry of another form, are unknown.
    let client = client.to_canonical();
    let found = reader.lookup(client).ok().and_then(|found| found.decode::<Entry<'_>>().ok()?);
    found.map(Place::from).unwrap_or_default()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is one step, so a panic leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "../../tests/common/mmdb.rs"]
mod mmdb;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use super::{
        mmdb::{Value, file, of},
        *,
    };

    fn americas() -> Vec<u8> {
        file(&[
            ("200.1.0.0/16", of(Some("MX"), Some("NA"))),
            ("200.2.0.0/16", of(Some("CA"), Some("NA"))),
            ("200.3.0.0/16", of(None, Some("EU"))),
            ("2001:db8::/32", of(Some("DE"), Some("EU"))),
            ("200.4.0.0/16", Value::Map(vec![("asn", Value::Number(4, 7))])),
        ])
    }

    fn counted(watched: &Watched) -> BTreeMap<String, (u64, u64, u64)> {
        let all = watched.counted().into_iter();
        all.map(|set| (set.origins.to_string(), (set.from, set.elsewhere, set.unknown))).collect()
    }

    fn come(watched: &Watched, clients: &[&str]) {
        clients.iter().for_each(|client| watched.count(client.parse().unwrap()));
    }

    fn sets(texts: &[&str]) -> Vec<Origins> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn requests_are_counted_by_where_their_clients_are() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("countries.mmdb");
        fs::write(&path, americas()).unwrap();
        let watched = Watched::default();
        watched.set_database(Some(Database::without_thread(&path).unwrap()));
        assert!(
            watched.set(sets(&["MX", "continent:EU", "MX|10.0.0.0/8", "10.0.0.0/8"])).is_empty()
        );
        let clients = [
            "200.1.2.3",
            "::ffff:200.1.2.3",
            "200.2.2.3",
            "200.3.0.1",
            "2001:db8::1",
            // Not in it, and of another kind.
            "200.4.0.1",
            "10.0.0.1",
            "9.9.9.9",
            "fd00::1",
        ];
        come(&watched, &clients);
        let told = counted(&watched);
        assert_eq!(told["MX"], (2, 2, 5));
        assert_eq!(told["continent:EU"], (2, 3, 4));
        assert_eq!(told["MX|10.0.0.0/8"], (3, 2, 4));
        assert_eq!(told["10.0.0.0/8"], (1, 8, 0));
        let readings = watched.counted()[2].readings();
        let series = readings.iter().map(|(series, reading)| {
            let Reading::Number(count) = reading else { panic!("{series}") };
            format!("{series} {count}")
        });
        assert_eq!(
            series.collect::<Vec<_>>(),
            [
                "requests.from MX|10.0.0.0/8 3",
                "requests.elsewhere MX|10.0.0.0/8 2",
                "requests.unknown MX|10.0.0.0/8 4"
            ]
        );

        // Those that stay go on, the others are forgotten.
        watched.set(sets(&["MX", "CA"]));
        come(&watched, &["200.2.2.3"]);
        let told = counted(&watched);
        assert_eq!((told.len(), told["MX"], told["CA"]), (2, (2, 3, 5), (1, 0, 0)));

        watched.set_database(None);
        come(&watched, &["200.2.2.3"]);
        assert_eq!(counted(&watched)["CA"], (1, 0, 1), "without a file nothing is known");
    }

    #[test]
    fn sets_are_bounded_and_the_same_is_counted_once() {
        let watched = Watched::default();
        let many = (0..SETS_MAX + 2).map(|n| format!("10.{n}.0.0/16").parse().unwrap());
        let twice = sets(&["10.0.0.0/16"]).into_iter().chain(many);
        let beyond = watched.set(twice.collect());
        let beyond: Vec<String> = beyond.iter().map(Origins::to_string).collect();
        assert_eq!(beyond, ["10.64.0.0/16", "10.65.0.0/16"]);
        come(&watched, &["10.0.3.3"]);
        assert_eq!(counted(&watched)["10.0.0.0/16"], (1, 0, 0));
    }

    #[test]
    fn a_file_is_read_anew_and_a_damaged_one_leaves_the_one_before() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("countries.mmdb");
        fs::write(&path, americas()).unwrap();
        let database = Database::without_thread(&path).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        database.tell(move |event| tell.send(event).unwrap());
        let country = |database: &Database| {
            let place = database.place("200.1.0.1".parse().unwrap());
            place.country.map(|code| code.to_string())
        };
        database.look();
        assert!(told.try_recv().is_err(), "nothing is new");

        let renamed = |bytes: &[u8]| {
            let beside = scratch.path().join("beside");
            fs::write(&beside, bytes).unwrap();
            fs::rename(beside, &path).unwrap();
            database.look();
        };
        let whole = file(&[("200.1.0.0/16", of(Some("GT"), Some("NA")))]);
        let of_something_else = file(&[("200.1.0.0/16", Value::Map(vec![]))]);
        let mut twisted = whole.clone();
        twisted[3] = 0xff; // a node that leads beyond the file
        for (bytes, why) in [
            (&whole[..whole.len() - 9], "it is damaged"),
            (&twisted[..], "it is damaged"),
            (b"<html>", "it is damaged"),
            (&of_something_else[..], "it says of no address"),
        ] {
            renamed(bytes);
            let Ok(DatabaseEvent::Failed(said)) = told.try_recv() else { panic!("{why}") };
            assert!(said.contains(why) && said.contains("countries.mmdb"), "{said}");
            assert_eq!(database.trouble(), Some(said));
            assert_eq!(country(&database).as_deref(), Some("MX"), "the one before stays");
            database.look();
            assert!(told.try_recv().is_err(), "it is told once");
        }
        fs::remove_file(&path).unwrap();
        database.look();
        assert!(matches!(told.try_recv(), Ok(DatabaseEvent::Failed(_))));
        renamed(&whole);
        assert_eq!(told.try_recv(), Ok(DatabaseEvent::Renewed(path.clone())));
        assert_eq!((country(&database).as_deref(), database.trouble()), (Some("GT"), None));

        // What can't be used at the start is refused.
        fs::File::create(&path).unwrap().set_len(FILE_MAX + 1).unwrap();
        let refused = Database::without_thread(&path).unwrap_err();
        assert!(matches!(refused, BadDatabase::TooLarge(_)), "{refused}");
        assert!(Database::without_thread(scratch.path()).is_err());
    }

    proptest::proptest! {
        /// Whatever is in a file, it is refused or looked up in.
        #[test]
        fn a_file_with_damage_is_never_a_panic(at: usize, byte: u8, client: u32) {
            let scratch = tempfile::tempdir().unwrap();
            let path = scratch.path().join("db");
            let mut bytes = americas();
            let at = at % bytes.len();
            bytes[at] = byte;
            fs::write(&path, bytes).unwrap();
            if let Ok(database) = Database::without_thread(&path) {
                let _anything = database.place(IpAddr::from(client.to_be_bytes()));
            }
        }
    }
}
