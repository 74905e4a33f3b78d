//! A cluster in which much is going on, and a member that tells of it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::sync::{broadcast, mpsc, watch};

use crate::{
    admin::Source,
    base::{
        AppName, MemberName, OperatorName, Reason, Refusal, RuleName, ServiceName, WallTime,
        durations::Durations,
        metric::Series,
        operator::{Operator, OperatorToken, TokenHash},
    },
    driver::services::{ServiceStatus, State},
    gateway::{Served, origins::Counted, tally::Totals},
    member::{
        command::{By, Command, Outcome},
        event::{Event, EventKind, Severity},
        view::{
            ApplicationView, Health, MemberView, OutcomeView, PolicyView, PositionView,
            PublicationView, VersionView, View, WindowView,
        },
    },
    node::{
        Acted, Ask, Edits, Heard, Listening, Metrics, Publish, SecretEdits, Told,
        checkup::Checkup,
        differs::{Coming, Differs, PATHS_MAX, Path, Paths},
        inspect::{Findings, Op, Question, Verified},
        levels::LevelsQuestion,
        telemetry::asking::{Measured, SeriesQuestion},
        uploads::{Brought, Uploads},
        wall_now,
    },
    proto::{
        rule::{
            bench::{Key, Open},
            level::{Given, Levels},
        },
        telemetry::statsd::{Custom, Measure},
    },
    store::events::Logged,
};

/// Text that would do harm where it is taken for markup.
pub const HOSTILE: &str = "<img src=x onerror=alert(1)>\u{202e}\"'&";

/// A member that answers what it was made with.
#[derive(Clone)]
pub struct Fake {
    pub views: watch::Sender<Arc<View>>,
    pub events: broadcast::Sender<Event>,
    pub recent: Arc<Mutex<Vec<Event>>>,
    /// What every command is answered with instead of an outcome.
    pub refusal: Arc<Mutex<Option<Refusal>>>,
    /// What it was asked to do.
    pub asked: Arc<Mutex<Vec<String>>>,
    /// What operators bring.
    pub uploads: Option<Uploads>,
}

impl Fake {
    pub fn new(view: View, recent: Vec<Event>) -> Self {
        Self {
            views: watch::Sender::new(Arc::new(view)),
            events: broadcast::Sender::new(16),
            recent: Arc::new(Mutex::new(recent)),
            refusal: Arc::default(),
            asked: Arc::default(),
            uploads: None,
        }
    }

    pub fn tell(&self, event: Event) {
        self.recent.lock().unwrap().push(event.clone());
        let _nobody_listens = self.events.send(event);
    }

    fn ask<T>(&self, what: String, answer: T) -> Result<T, Refusal> {
        self.asked.lock().unwrap().push(what);
        self.refusal.lock().unwrap().clone().map_or(Ok(answer), Err)
    }
}

/// Who gave a command with a token, and after which event.
fn whose(by: Option<By>) -> String {
    by.map_or(String::new(), |by| format!(" by {} after {}", by.operator, by.event))
}

impl Source for Fake {
    async fn command(&self, command: Command, by: Option<By>) -> Result<Outcome, Refusal> {
        self.ask(
            format!("{command:?}{}", whose(by)),
            Outcome::Done { sequence: 43, text: "the window was closed".to_owned() },
        )
    }

    async fn publish(&self, publish: Publish, by: Option<By>) -> Result<Outcome, Refusal> {
        self.ask(
            format!("publish {}{}", publish.source.display(), whose(by)),
            Outcome::Done { sequence: 43, text: "published".to_owned() },
        )
    }

    async fn publish_brought(&self, brought: Brought, by: Option<By>) -> Result<Outcome, Refusal> {
        self.ask(
            format!("publish {} files{}", brought.tree().files(), whose(by)),
            Outcome::Done { sequence: 43, text: "published".to_owned() },
        )
    }

    fn uploads(&self) -> Result<Uploads, Refusal> {
        self.uploads.clone().ok_or_else(|| refusal(Reason::Failed))
    }

    async fn publish_edits(&self, edits: Edits) -> Result<Outcome, Refusal> {
        self.ask(
            format!("edit {} of {}", edits.changes.len(), edits.app),
            Outcome::Done { sequence: 43, text: "published".to_owned() },
        )
    }

    async fn secrets(&self, edits: SecretEdits) -> Result<Outcome, Refusal> {
        self.ask(format!("{edits:?}"), Outcome::Done { sequence: 43, text: "published".to_owned() })
    }

    async fn inspect(&self, question: Question) -> Result<Findings, Refusal> {
        let app = question.app().clone();
        let verified = Verified {
            app: app.clone(),
            version: 12,
            root: root('a'),
            found: Some(root('a')),
            same: true,
            files: 3,
            bytes: 4_096,
            differences: Vec::new(),
            differences_total: 0,
            store_damaged: 0,
        };
        self.ask(format!("look at {app}"), Findings::Verified(verified))
    }

    async fn services(
        &self,
        member: Option<MemberName>,
        ask: Ask,
    ) -> Result<mpsc::Receiver<Heard>, Refusal> {
        let (to, heard) = mpsc::channel(16);
        let web1 = member.unwrap_or_else(|| MemberName::parse("web1").unwrap());
        let said = match ask {
            Ask::Differs { ref app } => differing(app, web1),
            Ask::Events(_) | Ask::Acting | Ask::Checkup | Ask::Status { .. } => told(&ask),
            _ => vec![(web1.clone(), Told::Restarted(1)), (web1, Told::Done)],
        };
        for (member, told) in said {
            to.try_send(Heard { member, told }).unwrap();
        }
        self.ask(format!("{ask:?}"), heard)
    }

    async fn stop(&self) {
        self.asked.lock().unwrap().push("stop".to_owned());
    }

    async fn operator(&self, token: TokenHash) -> Result<Option<Operator>, Refusal> {
        Ok([operator("alice", 7, None), operator("bob", 8, Some(WallTime(1_000)))]
            .into_iter()
            .find(|operator| operator.token == token))
    }

    async fn acted(&self, acted: Acted) -> Result<u64, Refusal> {
        let Acted { severity, text, cause, .. } = acted;
        let mut asked = self.asked.lock().unwrap();
        let cause = cause.map_or(String::new(), |cause| format!(" because of {cause}"));
        asked.push(format!("tell {severity:?}{cause}: {text}"));
        Ok(asked.len() as u64)
    }

    async fn view(&self) -> Result<View, Refusal> {
        Ok(View::clone(&self.views.borrow()))
    }

    async fn series(&self, question: SeriesQuestion) -> Result<Measured, Refusal> {
        let (from, to) = (WallTime(question.from), WallTime(question.to.unwrap_or(question.from)));
        let silent = vec![];
        let asked = vec![MemberName::parse("web1").unwrap()];
        Ok(Measured { from, to, step: 1_000, asked, silent, series: vec![], cut: false })
    }

    async fn levels(&self, question: LevelsQuestion) -> Result<Levels, Refusal> {
        let at = WallTime(question.at.unwrap_or_default());
        Ok(Given::default().foresee(WallTime(0), at, WallTime(at.0 + question.span.unwrap_or(0))))
    }

    async fn metrics(&self) -> Result<Metrics, Refusal> {
        Ok(metrics())
    }

    fn served(&self) -> Served {
        served()
    }

    fn custom(&self) -> Vec<(Series, Measure)> {
        custom()
    }

    fn listening(&self) -> Listening {
        Listening { sites: Some(([10, 0, 0, 1], 8080).into()), tls: None }
    }

    fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.views.subscribe()
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn recent_events(&self, after: u64) -> Vec<Event> {
        let recent = self.recent.lock().unwrap();
        recent.iter().filter(|event| event.number > after).cloned().collect()
    }
}

/// Whose token is made of this byte.
fn operator(name: &str, n: u8, until: Option<WallTime>) -> Operator {
    Operator {
        name: OperatorName::parse(name).unwrap(),
        token: OperatorToken::new([n; 32]).hash(),
        by: MemberName::parse("web1").unwrap(),
        since: WallTime(0),
        until,
    }
}

/// What two of three members tell; the third refuses.
fn told(ask: &Ask) -> Vec<(MemberName, Told)> {
    let name = |name: &str| MemberName::parse(name).unwrap();
    let app = AppName::parse("shop").unwrap();
    let mut said = vec![(name("web3"), Told::Refused(refusal(Reason::Failed)))];
    for (member, n) in [("web2", 2), ("web1", 1)] {
        let of_member = match ask {
            Ask::Events(_) => [(1, 3 * n), (2, 10 + n)]
                .map(|(id, number)| {
                    let event = event(number, Severity::Info, HOSTILE);
                    let cause = (id == 2).then_some(1);
                    Told::Event(Box::new(Logged { id, cause, event }))
                })
                .to_vec(),
            Ask::Acting => vec![Told::Acting(Box::new(Open {
                key: Key { app: app.clone(), rule: RuleName::parse("hot").unwrap() },
                episode: format!("shop-hot-{member}-{n}"),
                began: WallTime(10 - n),
                severity: None,
                why: HOSTILE.to_owned(),
                took_out: false,
                sentence: "when cpu > 90% then log".to_owned(),
                put_off: false,
            }))],
            Ask::Checkup => {
                let (althing, clock) = (format!("1.{n}.0"), wall_now());
                let data_mode = Some(0o700);
                let found = Checkup { althing, clock, data_mode, ..Checkup::default() };
                vec![Told::Checkup(Box::new(found))]
            }
            _ => vec![Told::Status(ServiceStatus {
                app: app.clone(),
                service: ServiceName::parse("worker").unwrap(),
                version: 12,
                state: State::BackingOff,
                pid: None,
                since: WallTime(n),
                restarts: n,
                last_exit: Some("exited with status 1".to_owned()),
                port: None,
            })],
        };
        said.extend(of_member.into_iter().chain([Told::Done]).map(|told| (name(member), told)));
    }
    said
}

/// In which files a member differs: more than it may tell. One refuses, and one says nothing.
fn differing(app: &AppName, member: MemberName) -> Vec<(MemberName, Told)> {
    let one = Path { op: Op::Set, path: HOSTILE.to_owned() };
    let paths = vec![one.clone(); PATHS_MAX + 1];
    let differs = Paths { changed: paths.len() as u64, paths, ..Paths::default() };
    let changes = Some(Paths { changed: 1, paths: vec![one], ..Paths::default() });
    let told = match member.as_str() {
        "web3" => Told::Refused(refusal(Reason::Failed)),
        "web5" => Told::Done,
        _ => Told::Differs(Box::new(Differs {
            app: app.clone(),
            version: 31,
            live: Some(31),
            differs: Some(differs),
            coming: Some(Coming { version: 32, changes }),
        })),
    };
    vec![(member.clone(), told), (member, Told::Done)]
}

pub fn refusal(reason: Reason) -> Refusal {
    Refusal::new(reason, "What happened.", "Why.", "What to do.")
}

/// A hundred requests for the shop, of which one took longer than all bounds.
pub fn served() -> Served {
    let mut latencies = Durations { count: 99, seconds: 12.5, ..Durations::default() };
    (latencies.classes[3], latencies.classes[4]) = (90, 8);
    let totals = Totals { requests: 100, errors: 2, latencies, ..Totals::default() };
    let shop = AppName::parse("shop").unwrap();
    let origins = "MX|10.0.0.0/8".parse().unwrap();
    let origins = vec![Counted { origins, from: 60, elsewhere: 30, unknown: 10 }];
    Served { apps: vec![(shop, totals)], origins, ..Served::default() }
}

/// A level, a count and three durations, of which one is above all bounds.
pub fn custom() -> Vec<(Series, Measure)> {
    let mut custom = Custom::default();
    custom.take(b"queue:-3.5|g\nmails:7|c|#a\"b\njob:250|ms\njob:20000|ms\njob:40000|ms");
    assert_eq!(custom.refused(), 0);
    custom.measures()
}

pub fn metrics() -> Metrics {
    Metrics {
        packets_sent: 51_034,
        messages_sent: 902,
        bytes_sent: 9_120_443,
        received: 50_877,
        bytes_received: 9_044_120,
        connections: 7,
        requests: 84_211,
        queue: 0,
        input_us_max: 12_300,
        ..Metrics::default()
    }
}

pub fn event(number: u64, severity: Severity, text: &str) -> Event {
    Event {
        number,
        at: WallTime(1_760_000_000_000 + number * 7_000),
        severity,
        kind: EventKind::Version,
        member: MemberName::parse("web3").ok(),
        app: number.is_multiple_of(2).then(|| AppName::parse("shop").unwrap()),
        text: text.to_owned(),
        user: None,
        cause: None,
        episode: None,
        evidence: None,
        asked: None,
    }
}

pub fn events() -> Vec<Event> {
    vec![
        event(1, Severity::Info, "this member started"),
        event(2, Severity::Info, "shop version 12 is committed"),
        event(3, Severity::Warning, "web6 is down: it answered nobody for 4 s"),
        event(4, Severity::Critical, "the vote on blog is hung"),
        event(5, Severity::Info, HOSTILE),
    ]
}

/// Eight members of which one is down, four applications, an open window.
pub fn view() -> View {
    let members: Vec<MemberView> = (1..=8).map(member).collect();
    let shop = application("shop", 12, "unanimous", &["agrees"; 8]);
    let mut docs = application("docs", 7, "agreed", &["agrees"; 8]);
    docs.positions[3].position = "differs".to_owned();
    docs.positions[5].position = "silent".to_owned();
    docs.positions[6].position = "late".to_owned();
    docs.error = Some("No space left on device: 212 MB are needed, 40 MB are free.".to_owned());
    docs.work = Some("repairing".to_owned());
    docs.default = true;
    let mut blog = application("blog", 3, "hung", &["nothing"; 8]);
    blog.hosts.clear();
    blog.path = Some("/srv/blog".to_owned());
    blog.versions[0].message = HOSTILE.to_owned();
    let media = application("media", 31, "paused", &["agrees"; 8]);
    View {
        althing: "0.1.0".to_owned(),
        me: "web1".to_owned(),
        cluster: "5f3a9c01d2".to_owned(),
        sequence: 42,
        voters: 5,
        majority: 3,
        voters_live: 5,
        health: Health::Critical,
        reasons: vec![
            "The vote on blog is hung: decide with `althing resolve blog --member NAME`."
                .to_owned(),
            "docs is not version 7 on web4, web7: it is being put right.".to_owned(),
            "web6 is down.".to_owned(),
        ],
        members,
        applications: vec![blog, docs, media, shop],
        window: Some(window()),
        addresses: vec![],
        outcomes: vec![
            outcome(39, Some(12), 1, "every live member switched"),
            outcome(31, None, 0, "given up: its publisher took it back"),
        ],
        policy: PolicyView {
            failover: "auto".to_owned(),
            vote: "majority".to_owned(),
            remove_after_s: None,
        },
        silences: vec![],
        operators: vec![],
        invites: vec![],
    }
}

fn member(i: usize) -> MemberView {
    let (state, service) = match i {
        5 => ("suspect", "unknown"),
        6 => ("down", "out"),
        7 => ("alive", "receiving"),
        8 => ("alive", "standby"),
        _ => ("alive", "in service"),
    };
    MemberView {
        name: format!("web{i}"),
        id: root(char::from_digit(i as u32, 10).unwrap()),
        address: format!("10.0.0.{i}:7700"),
        state: state.to_owned(),
        reached: i != 6,
        unreached: (i != 6).then(Vec::new),
        round_trip_us: (i != 1 && i != 6).then_some(400 * i as u64),
        place: None,
        state_for_ms: 90_000 * (i as u64).pow(3),
        me: i == 1,
        voter: i <= 5,
        standby: i == 8,
        waits: false,
        tags: (i <= 3).then(|| ("role".to_owned(), "web".to_owned())).into_iter().collect(),
        capacity: 2,
        coordinator: i == 2,
        sequence: (i != 6).then_some(if i == 7 { 40 } else { 42 }),
        service: service.to_owned(),
    }
}

fn application(name: &str, version: u64, vote: &str, positions: &[&str]) -> ApplicationView {
    let position = |(i, position): (usize, &&str)| PositionView {
        member: format!("web{}", i + 1),
        position: (*position).to_owned(),
        root: Some(root('a')),
        version: Some(version),
        voter: i < 5,
        trouble: None,
        rollout: None,
        rollout_failure: None,
    };
    let versions = (1..=version).rev().take(5).map(|number| VersionView {
        number,
        root: root('a'),
        files: 210 + number,
        bytes: 48_210_331 + number * 77_777,
        publisher: "web1".to_owned(),
        published_at_ms: 1_760_000_000_000 + number * 86_400_000,
        published_at: WallTime(1_760_000_000_000 + number * 86_400_000).to_string(),
        message: format!("release {number}: prices, and a new start page"),
        origin: if number == 4 { "rollback to 2" } else { "published" }.to_owned(),
        asked: None,
    });
    ApplicationView {
        name: name.to_owned(),
        version,
        root: root('a'),
        files: 210 + version,
        bytes: 48_210_331,
        hosts: vec![format!("{name}.example.org"), format!("www.{name}.example.org")],
        default: false,
        placement: None,
        path: None,
        vote: vote.to_owned(),
        ballots: 5,
        electorate: 5,
        positions: positions.iter().enumerate().map(position).collect(),
        work: None,
        error: None,
        versions: versions.collect(),
    }
}

fn window() -> WindowView {
    let progress = BTreeMap::from([
        ("web1".to_owned(), 912_000_000),
        ("web2".to_owned(), 912_000_000),
        ("web3".to_owned(), 640_000_000),
        ("web4".to_owned(), 310_000_000),
        ("web5".to_owned(), 0),
    ]);
    WindowView {
        id: 41,
        coordinator: "web2".to_owned(),
        coordinator_live: true,
        takeovers: 1,
        opened_by: "web1".to_owned(),
        opened_at: "2026-02-03T10:00:00Z".to_owned(),
        scope: vec!["media".to_owned()],
        failover: "auto".to_owned(),
        held: false,
        automatic: false,
        publication: Some(PublicationView {
            app: "media".to_owned(),
            version: 32,
            message: "the films of the summer".to_owned(),
            publisher: "web1".to_owned(),
            files: 12,
            phase: "staging".to_owned(),
            bytes: 912_000_000,
            whole: vec!["web1".to_owned(), "web2".to_owned()],
            progress,
            placed: (1..=5).map(|n| format!("web{n}")).collect(),
            needed: 3,
            asked: None,
        }),
        state: "media version 32: 2 members hold it whole, 3 are needed".to_owned(),
        asked: None,
    }
}

fn outcome(window: u64, version: Option<u64>, takeovers: u32, why: &str) -> OutcomeView {
    OutcomeView {
        window,
        app: Some("shop".to_owned()),
        version,
        coordinator: "web1".to_owned(),
        takeovers,
        why: why.to_owned(),
    }
}

fn root(digit: char) -> String {
    std::iter::repeat_n(digit, 64).collect()
}
