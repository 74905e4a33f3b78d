//! Measurements and events of this member, kept by a thread of their own.
//!
//! It samples once a second, whatever else the process does, and is the only one that touches the
//! files. What the loop counts is asked of the loop, which has a fifth of a second to answer: a
//! loop that is slower is missing in that second, and the machine is not.
//!
//! The member runs without: what can't be kept is told of, and tried again.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::PathBuf,
    sync::{Arc, PoisonError, mpsc as std_mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::start::wall_now;
use crate::{
    base::{
        Time,
        metric::{Known, Series},
    },
    driver::host::{self, Host},
    member::event::{Event, Severity},
    proto::telemetry::Reading,
    store::{
        StoreError,
        events::{EventLog, EventQuery, Events},
        series::{Found, SeriesStore, Wanted},
    },
};

pub mod asking;
pub(super) mod receive;

/// How often is sampled.
const EVERY: Duration = Duration::from_secs(1);
/// How long the loop has to say what it counts.
const COUNTED_WITHIN: Duration = Duration::from_millis(200);
/// How soon what could not be opened or written is tried again.
const AGAIN: Duration = Duration::from_secs(30);
/// Events that wait for a log that can't be written; the oldest give way.
const WAITING_MAX: usize = 1_000;
/// Numbers of events that are remembered, for what they bring about.
const NUMBERS_MAX: usize = 4_096;
/// How long a stopping member waits for what is open to be written.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Questions that are worked on or wait at one time.
const QUESTIONS_MAX: usize = 32;

/// Where things are kept.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    /// A directory.
    pub series: PathBuf,
    /// A file.
    pub events: PathBuf,
    /// Where services and scripts tell what they measure.
    pub socket: PathBuf,
}

/// What the thread tells the loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct News {
    pub severity: Severity,
    pub text: String,
}

/// What is asked of the thread.
enum Job {
    Event(Event),
    Series(Wanted, oneshot::Sender<Result<Vec<Found>, StoreError>>),
    Events(EventQuery, oneshot::Sender<Result<Events, StoreError>>),
    Stop,
}

/// The way to the thread: cheap to clone.
#[derive(Clone)]
pub(in crate::node) struct Telemetry {
    jobs: std_mpsc::Sender<Job>,
    /// The number of the newest event in the log.
    tail: watch::Receiver<u64>,
    questions: Arc<Semaphore>,
}

/// The thread itself.
pub(super) struct Keeping {
    jobs: std_mpsc::Sender<Job>,
    thread: JoinHandle<()>,
}

impl Keeping {
    /// Writes what is open, and ends the thread.
    pub async fn close(self) {
        // One that has ended by a panic has told of it.
        let _ended = self.jobs.send(Job::Stop);
        let joined = tokio::task::spawn_blocking(move || self.thread.join());
        let _given_up = tokio::time::timeout(CLOSE_WITHIN, joined).await;
    }
}

/// Starts the thread. `counted` asks the loop what it counts, and waits for it no longer than it
/// is told; `custom` is what services and scripts tell.
///
/// # Errors
/// If there is no room for a thread.
pub(super) fn start(
    paths: Paths,
    counted: impl FnMut(Duration) -> Vec<(Series, Reading)> + Send + 'static,
    custom: receive::Told,
    news: mpsc::UnboundedSender<News>,
) -> io::Result<(Telemetry, Keeping)> {
    let (jobs, queue) = std_mpsc::channel();
    let (told, tail) = watch::channel(0);
    let keeper = Keeper {
        paths,
        host: Host::new(host::mounts()),
        custom,
        started: Instant::now(),
        series: Kept::default(),
        log: Kept::default(),
        waiting: VecDeque::new(),
        numbers: BTreeMap::new(),
        told,
        news,
    };
    let thread = std::thread::Builder::new()
        .name("telemetry".to_owned())
        .spawn(move || keeper.run(&queue, counted))?;
    let questions = Arc::new(Semaphore::new(QUESTIONS_MAX));
    Ok((Telemetry { jobs: jobs.clone(), tail, questions }, Keeping { jobs, thread }))
}

impl Telemetry {
    /// Keeps an event.
    pub fn event(&self, event: Event) {
        // While the process stops nobody keeps it, and it is in the process's own log.
        let _stopping = self.jobs.send(Job::Event(event));
    }

    /// What is known here of some series. None if this member stops.
    pub async fn series(&self, wanted: Wanted) -> Option<Result<Vec<Found>, StoreError>> {
        let _turn = self.questions.acquire().await.ok()?;
        let (answer, answered) = oneshot::channel();
        self.jobs.send(Job::Series(wanted, answer)).ok()?;
        answered.await.ok()
    }

    /// What is in the log. None if this member stops.
    pub async fn events(&self, query: EventQuery) -> Option<Result<Events, StoreError>> {
        let _turn = self.questions.acquire().await.ok()?;
        let (answer, answered) = oneshot::channel();
        self.jobs.send(Job::Events(query, answer)).ok()?;
        answered.await.ok()
    }

    /// The number of the newest event in the log, and when that changes.
    pub fn tail(&self) -> watch::Receiver<u64> {
        self.tail.clone()
    }
}

/// Something on disk that may not be there.
struct Kept<T> {
    open: Option<T>,
    /// Why it can't be used, and when it is tried again.
    trouble: Option<(String, Instant)>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { open: None, trouble: None }
    }
}

impl<T> Kept<T> {
    /// It, opened if it is time for that.
    fn get(&mut self, open: impl FnOnce() -> Result<T, StoreError>) -> Result<&mut T, StoreError> {
        match &mut self.open {
            Some(open) => Ok(open),
            none => Ok(none.insert(open()?)),
        }
    }

    /// Whether it is to be tried.
    fn is_due(&self) -> bool {
        self.trouble.as_ref().is_none_or(|(_, again)| Instant::now() >= *again)
    }

    /// What came of it. What is to be told, if that is another thing than before.
    fn came_of<R>(&mut self, what: &str, result: Result<R, StoreError>) -> Option<News> {
        match result {
            Ok(_) => self
                .trouble
                .take()
                .map(|_| News { severity: Severity::Info, text: format!("{what} are kept again") }),
            Err(error) => {
                let why = error.to_string();
                let again = Instant::now() + AGAIN;
                let before = self.trouble.replace((why.clone(), again));
                before.is_none_or(|(before, _)| before != why).then(|| News {
                    severity: Severity::Warning,
                    text: format!("{what} are not kept, because {why}; it is tried again"),
                })
            }
        }
    }
}

struct Keeper {
    paths: Paths,
    host: Host,
    /// What services and scripts tell.
    custom: receive::Told,
    started: Instant,
    series: Kept<SeriesStore>,
    log: Kept<EventLog>,
    waiting: VecDeque<Event>,
    /// Numbers in the log, by those of this start.
    numbers: BTreeMap<u64, u64>,
    told: watch::Sender<u64>,
    news: mpsc::UnboundedSender<News>,
}

impl Keeper {
    fn run(
        mut self,
        queue: &std_mpsc::Receiver<Job>,
        mut counted: impl FnMut(Duration) -> Vec<(Series, Reading)>,
    ) {
        let mut next = Instant::now();
        loop {
            let pause = next.saturating_duration_since(Instant::now());
            let mut jobs = Vec::new();
            match queue.recv_timeout(pause) {
                Ok(job) => jobs.push(job),
                Err(std_mpsc::RecvTimeoutError::Timeout) => {}
                Err(std_mpsc::RecvTimeoutError::Disconnected) => break,
            }
            // Events that came together are synced together.
            jobs.extend(queue.try_iter().take(WAITING_MAX));
            let mut stops = false;
            let mut questions = Vec::new();
            for job in jobs {
                match job {
                    Job::Event(event) => self.push(event),
                    Job::Stop => stops = true,
                    question => questions.push(question),
                }
            }
            self.write_events();
            for question in questions {
                self.answer(question);
            }
            if stops {
                break;
            }
            let now = Instant::now();
            if now >= next {
                // After a pause of the process there is one sample, and not many.
                next = (next + EVERY).max(now + EVERY / 2);
                self.sample(counted(COUNTED_WITHIN));
                self.write_events();
            }
        }
        self.write_events();
        if let Some(series) = &mut self.series.open
            && let Err(error) = series.flush()
        {
            tracing::warn!(%error, "the last measurements are not kept");
        }
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn sample(&mut self, counted: Vec<(Series, Reading)>) {
        let (now, at) = (self.now(), wall_now());
        let mut readings = self.host.sample(now);
        readings.extend(counted);
        let custom_refused = {
            let mut custom = self.custom.lock().unwrap_or_else(PoisonError::into_inner);
            readings.extend(custom.readings(now, at));
            custom.refused()
        };
        if !self.series.is_due() {
            return;
        }
        let path = &self.paths.series;
        let store = self.series.get(|| SeriesStore::open(path, at));
        let result = store.and_then(|store| {
            let stats = store.stats();
            let refused = Reading::Number((stats.refused + stats.unfit + custom_refused) as f64);
            readings.push((Series::from(Known::SeriesRefused), refused));
            store.append(at, now, &readings)
        });
        let news = self.series.came_of("measurements", result);
        self.tell(news);
    }

    fn push(&mut self, event: Event) {
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(event);
    }

    fn write_events(&mut self) {
        if !self.log.is_due() || self.waiting.is_empty() && self.log.open.is_some() {
            return;
        }
        let causes = |event: &Event| event.cause.and_then(|n| self.numbers.get(&n).copied());
        let batch: Vec<(Event, Option<u64>)> =
            self.waiting.iter().map(|event| (event.clone(), causes(event))).collect();
        let path = &self.paths.events;
        let was_open = self.log.open.is_some();
        let result = self.log.get(|| EventLog::open(path)).and_then(|log| {
            let written = if batch.is_empty() { None } else { Some(log.append(&batch)?) };
            Ok((log.begun_anew() && !was_open, written, log.tail()?))
        });
        if let Ok((begun_anew, written, tail)) = &result {
            if let Some(written) = written {
                // One that was too long has no number; then nobody knows which is which.
                if written.end - written.start == batch.len() as u64 {
                    let numbers = batch.iter().map(|(event, _)| event.number);
                    self.numbers.extend(numbers.zip(written.clone()));
                }
                while self.numbers.len() > NUMBERS_MAX {
                    self.numbers.pop_first();
                }
                self.waiting.clear();
            }
            self.told.send_replace(*tail);
            if *begun_anew {
                let text = "the log of events was damaged; it is put aside as events.damaged, and a \
                            new one is begun";
                self.tell(Some(News { severity: Severity::Warning, text: text.to_owned() }));
            }
        }
        let news = self.log.came_of("events", result);
        self.tell(news);
    }

    fn answer(&mut self, question: Job) {
        match question {
            // Whoever asked may have gone.
            Job::Series(wanted, answer) => {
                let (path, at) = (&self.paths.series, wall_now());
                let store = self.series.get(|| SeriesStore::open(path, at));
                drop(answer.send(store.and_then(|store| store.query(&wanted))));
            }
            Job::Events(query, answer) => {
                let path = &self.paths.events;
                let log = self.log.get(|| EventLog::open(path));
                drop(answer.send(log.and_then(|log| log.query(&query))));
            }
            Job::Event(_) | Job::Stop => {}
        }
    }

    fn tell(&self, news: Option<News>) {
        if let Some(news) = news {
            // The loop may be gone: then nobody needs to know.
            let _loop_may_be_gone = self.news.send(news);
        }
    }
}
