//! What is counted of the requests of clients, for each application and for all of them
//! together: for the telemetry of this member, which takes the latencies once a second, and
//! for Prometheus, which only looks.
//!
//! A request is counted once, at its end, on the member that its client asked: what another
//! member passes on is not counted again where it arrives. All of one application is behind
//! one mutex, held for a few additions and never while anything is waited for, so that what
//! is read belongs together: there are as many latencies as there are requests that have one.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use super::origins::{Counted, Database, Watched};
use crate::{
    base::{
        AppName, Origins, WallTime,
        durations::Durations,
        limits::APPLICATIONS_MAX,
        metric::{Known, Series},
        origin::Place,
    },
    proto::telemetry::{Aggregate, Distribution, Reading},
};

/// What was counted since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Requests that ended, however they did.
    pub requests: u64,
    /// Of these, those answered by a status of 500 or more, and those whose answer was cut
    /// short by what answers. That a client goes away is none.
    pub errors: u64,
    /// Those answered by a status of 400 to 499.
    pub refused: u64,
    /// Bytes of bodies sent.
    pub bytes: u64,
    /// Those that another member answered.
    pub forwarded: u64,
    /// From the head to the last byte of the answer. Of all but those that nobody answered and
    /// those that changed to another protocol, which end when their users have enough.
    pub latencies: Durations,
}

impl Totals {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.refused += other.refused;
        self.bytes += other.bytes;
        self.forwarded += other.forwarded;
        self.latencies.add(&other.latencies);
    }

    fn count(&mut self, ended: &Ended) {
        let is_error = ended.cut || ended.status.is_some_and(|status| status >= 500);
        let is_refused = !is_error && ended.status.is_some_and(|s| (400..500).contains(&s));
        self.requests += 1;
        self.errors += u64::from(is_error);
        self.refused += u64::from(is_refused);
        self.bytes += ended.bytes;
        self.forwarded += u64::from(ended.forwarded);
        if let Some(took) = ended.took {
            self.latencies.observe(took.as_secs_f64());
        }
    }
}

/// What was counted, and the latencies since they were taken last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Taken {
    /// Since the start.
    pub totals: Totals,
    /// Seconds, from a request's head to its answer's last byte; none where there was none.
    pub latency: Option<Aggregate>,
}

/// What [`Tally::take`] brings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Taking {
    /// Of all requests: those of the applications, and those that were for none of them.
    pub all: Taken,
    /// Of each application that was asked for, in the order of their names.
    pub apps: Vec<(AppName, Taken)>,
}

impl Taking {
    /// As the series of this member.
    pub fn readings(self) -> Vec<(Series, Reading)> {
        let Self { all, apps } = self;
        let apps = apps.into_iter().map(|(app, taken)| (Some(app), taken));
        let mut readings = Vec::new();
        for (app, Taken { totals, latency }) in std::iter::once((None, all)).chain(apps) {
            let label = app.as_ref().map(AppName::as_str);
            let numbers = [
                (Known::Requests, totals.requests),
                (Known::Errors, totals.errors),
                (Known::Refused, totals.refused),
                (Known::BytesOut, totals.bytes),
                (Known::Forwarded, totals.forwarded),
            ];
            let numbers = numbers.map(|(known, n)| (known, Reading::Number(n as f64)));
            let latency = latency.map(|latency| (Known::Latency, Reading::Spread(latency)));
            readings.extend(numbers.into_iter().chain(latency).filter_map(|(known, reading)| {
                // A label that is the name of an application is always taken.
                Some((Series::new(known, label).ok()?, reading))
            }));
        }
        readings
    }
}

/// How one request ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ended {
    /// Of its answer, if one began.
    pub(super) status: Option<u16>,
    /// Whether the answer was cut short, and not by its client.
    pub(super) cut: bool,
    /// Bytes of the body that were sent.
    pub(super) bytes: u64,
    /// Whether another member answered.
    pub(super) forwarded: bool,
    /// From the head to the last byte of the answer, where that is to be told.
    pub(super) took: Option<Duration>,
}

/// The counters of a gateway.
#[derive(Debug, Default)]
pub struct Tally {
    /// By name. Only ever as many as a cluster may have; see [`Tally::make_room`].
    apps: RwLock<Vec<(AppName, Arc<Mutex<Counts>>)>>,
    /// Of requests that were for no application, and of applications that made room.
    rest: Mutex<Counts>,
    watched: Watched,
}

#[derive(Debug, Default)]
struct Counts {
    totals: Totals,
    fresh: Distribution,
    /// How often was taken since the last request.
    quiet: u64,
}

impl Counts {
    fn count(&mut self, ended: &Ended) {
        self.totals.count(ended);
        self.quiet = 0;
        if let Some(took) = ended.took {
            self.fresh.observe_duration(took);
        }
    }

    fn take(&mut self, at: WallTime) -> Taken {
        self.quiet += 1;
        Taken { totals: self.totals, latency: self.fresh.take(at) }
    }
}

impl Tally {
    /// What was counted since the start, and the latencies since this was called last, as of
    /// `at`. For one reader: there is one of each latency.
    pub fn take(&self, at: WallTime) -> Taking {
        let mut taking = Taking { all: locked(&self.rest).take(at), apps: Vec::new() };
        let all = &mut taking.all;
        for (app, counts) in &*read(&self.apps) {
            let taken = locked(counts).take(at);
            all.totals.add(&taken.totals);
            match (&mut all.latency, &taken.latency) {
                (Some(sum), Some(latency)) => sum.merge(latency),
                (sum, latency) => *sum = sum.take().or_else(|| latency.clone()),
            }
            taking.apps.push((app.clone(), taken));
        }
        taking
    }

    /// What was counted since the start, by application.
    pub fn totals(&self) -> Vec<(AppName, Totals)> {
        let apps = read(&self.apps);
        apps.iter().map(|(app, counts)| (app.clone(), locked(counts).totals)).collect()
    }

    /// From now on requests are counted by these origins. Those that are among them already
    /// go on. Gives back those beyond the most that are counted.
    pub fn set_origins(&self, sets: Vec<Origins>) -> Vec<Origins> {
        self.watched.set(sets)
    }

    /// What was counted by origin, in the order that was given.
    pub fn origins(&self) -> Vec<Counted> {
        self.watched.counted()
    }

    /// Countries and continents are looked up there.
    pub fn set_database(&self, database: Option<Database>) {
        self.watched.set_database(database);
    }

    /// Counts a request that has ended, for `app` if it was for one.
    pub(super) fn count(&self, app: Option<&AppName>, ended: &Ended) {
        let Some(app) = app else { return locked(&self.rest).count(ended) };
        {
            let apps = read(&self.apps);
            if let Ok(at) = apps.binary_search_by(|(name, _)| name.cmp(app)) {
                return locked(&apps[at].1).count(ended);
            }
        }
        let mut apps = self.apps.write().unwrap_or_else(PoisonError::into_inner);
        if apps.len() >= APPLICATIONS_MAX {
            self.make_room(&mut apps);
        }
        match apps.binary_search_by(|(name, _)| name.cmp(app)) {
            // Another request was first.
            Ok(at) => locked(&apps[at].1).count(ended),
            Err(at) => {
                let mut counts = Counts::default();
                counts.count(ended);
                apps.insert(at, (app.clone(), Arc::new(Mutex::new(counts))));
            }
        }
    }

    /// Where `client` is, as far as that is known.
    pub(super) fn place(&self, client: IpAddr) -> Place {
        self.watched.place(client)
    }

    /// Counts where a request came from.
    pub(super) fn came_from(&self, client: IpAddr) {
        self.watched.count(client);
    }

    /// The application that was asked for least recently makes room: applications come and go
    /// while a member runs. What was counted of it stays in the sum of all.
    fn make_room(&self, apps: &mut Vec<(AppName, Arc<Mutex<Counts>>)>) {
        let quietest = (0..apps.len()).max_by_key(|at| locked(&apps[*at].1).quiet);
        if let Some(at) = quietest {
            let (_, counts) = apps.remove(at);
            locked(&self.rest).totals.add(&locked(&counts).totals);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is counted is counted: a panic in between leaves nothing half-way that matters.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str) -> AppName {
        AppName::parse(name).unwrap()
    }

    fn ended(status: u16, millis: u64) -> Ended {
        let took = Some(Duration::from_millis(millis));
        Ended { status: Some(status), bytes: 10, took, ..Ended::default() }
    }

    #[test]
    fn what_is_taken_is_what_was_counted_and_latencies_once() {
        let tally = Tally::default();
        let (shop, docs) = (app("shop"), app("docs"));
        for millis in [1, 2, 3, 20_000] {
            tally.count(Some(&shop), &ended(200, millis));
        }
        tally.count(Some(&shop), &Ended { cut: true, ..ended(200, 4) });
        tally.count(Some(&shop), &Ended { forwarded: true, ..ended(503, 4) });
        tally.count(Some(&docs), &ended(404, 400));
        tally.count(Some(&docs), &Ended::default());
        tally.count(None, &ended(404, 1));

        let taking = tally.take(WallTime(7));
        assert_eq!(
            taking.apps.iter().map(|(app, _)| app.as_str()).collect::<Vec<_>>(),
            ["docs", "shop"]
        );
        let (of_docs, of_shop) = (&taking.apps[0].1, &taking.apps[1].1);
        let Totals { requests, errors, refused, bytes, forwarded, latencies } = of_shop.totals;
        assert_eq!((requests, errors, refused, bytes, forwarded), (6, 2, 0, 60, 1));
        assert_eq!((latencies.count, &latencies.within()[..4]), (6, &[1, 2, 5, 5][..]));
        assert_eq!(
            (of_docs.totals.requests, of_docs.totals.refused, of_docs.totals.latencies.count),
            (2, 1, 1)
        );
        assert_eq!(taking.all.totals.requests, 9);
        let latency = taking.all.latency.clone().unwrap();
        assert_eq!(latency.summary.weight(), 8.0);
        assert_eq!((latency.summary.max(), latency.summary.last_at()), (20.0, WallTime(7)));
        let readings = taking.readings();
        assert_eq!(readings.len(), 3 * 6);
        let latencies = readings.iter().filter(|(_, r)| matches!(r, Reading::Spread(_)));
        let names: Vec<String> = latencies.map(|(series, _)| series.to_string()).collect();
        assert_eq!(names, ["latency", "latency docs", "latency shop"]);

        let again = tally.take(WallTime(8));
        assert_eq!((again.all.totals.requests, again.all.latency), (9, None));
        assert_eq!(tally.totals()[1].1.requests, 6, "looking takes nothing");
    }

    #[test]
    fn the_one_that_was_quiet_longest_makes_room_and_stays_in_the_sum() {
        let tally = Tally::default();
        tally.count(Some(&app("old")), &ended(200, 1));
        tally.take(WallTime(1));
        for n in 1..APPLICATIONS_MAX {
            tally.count(Some(&app(&format!("a{n}"))), &ended(200, 1));
        }
        tally.count(Some(&app("new")), &ended(200, 1));
        let taking = tally.take(WallTime(2));
        assert_eq!(taking.apps.len(), APPLICATIONS_MAX);
        assert!(taking.apps.iter().all(|(app, _)| app.as_str() != "old"));
        assert_eq!(taking.all.totals.requests, APPLICATIONS_MAX as u64 + 1);
    }

    /// What counting costs a request: `cargo test --release -- --ignored cost_of_counting
    /// --nocapture`.
    #[test]
    #[ignore = "how_it_scales: figures, and no bound that a busy machine would keep"]
    fn how_it_scales_cost_of_counting() {
        let now = std::time::Instant::now;
        let tally = Arc::new(Tally::default());
        for n in 0..300 {
            tally.count(Some(&app(&format!("app-{n}"))), &ended(200, 1));
        }
        let measure = |what: &str, threads: u32, sets: usize| {
            let names = (0..sets).map(|n| format!("10.{n}.0.0/16").parse().unwrap());
            assert!(tally.set_origins(names.collect()).is_empty());
            let (began, rounds) = (now(), 500_000_u32);
            std::thread::scope(|scope| {
                for thread in 0..threads {
                    let tally = &tally;
                    scope.spawn(move || {
                        let shop = app("app-7");
                        let client = IpAddr::from([10, 70, thread as u8, 1]);
                        for n in 0..rounds {
                            let took = Some(Duration::from_micros(u64::from(n % 4_000) + 50));
                            tally.count(Some(&shop), &Ended { took, ..ended(200, 0) });
                            tally.came_from(client);
                        }
                    });
                }
            });
            let each = began.elapsed().as_nanos() / u128::from(rounds);
            println!("{what}: {each} ns a request on each of {threads} threads");
        };
        measure("300 applications, no origins", 1, 0);
        measure("the same application", 2, 0);
        measure("8 sets of networks", 1, 8);
    }
}
