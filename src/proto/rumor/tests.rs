//! Many machines over a network that loses: who hears what, and how much is
//! said and kept.

use super::*;
use crate::base::{MemberName, catalog::Enrolled};

struct Net {
    now: Time,
    rng: SmallRng,
    roster: Roster,
    machines: Vec<Rumors>,
    /// Who can be reached.
    up: Vec<bool>,
    loss: f64,
    flying: BTreeMap<(Time, u64), (usize, MemberId, Message)>,
    count: u64,
    sent: u64,
    happened: Vec<Vec<Rumor>>,
    ended: Vec<Gathered>,
}

impl Net {
    fn new(members: usize, loss: f64, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let keys: Vec<[u8; 32]> = (0..members).map(|_| rng.random()).collect();
        let entry = |(i, seed): (usize, &[u8; 32])| {
            let key = SecretKey::from_seed(*seed);
            Enrolled {
                id: key.member(),
                key: key.public(),
                name: MemberName::parse(&format!("m{i}")).unwrap(),
                address: "127.0.0.1:1".parse().unwrap(),
                tags: BTreeMap::new(),
                voter: true,
                standby: false,
            }
        };
        let roster = Roster { members: keys.iter().enumerate().map(entry).collect() };
        let machine = |seed: &[u8; 32]| {
            Rumors::new(Time(0), SecretKey::from_seed(*seed), 0, u64::from(seed[0]))
        };
        Self {
            now: Time(0),
            machines: keys.iter().map(machine).collect(),
            rng,
            roster,
            up: vec![true; members],
            loss,
            flying: BTreeMap::new(),
            count: 0,
            sent: 0,
            happened: vec![Vec::new(); members],
            ended: Vec::new(),
        }
    }

    fn live(&self) -> BTreeSet<MemberId> {
        let members = self.roster.members.iter().zip(&self.up);
        members.filter(|(_, up)| **up).map(|(m, _)| m.id).collect()
    }

    fn index(&self, id: MemberId) -> usize {
        self.roster.members.iter().position(|m| m.id == id).unwrap()
    }

    fn heed(&mut self, who: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, message } => {
                    self.sent += 1;
                    let to = self.index(to);
                    assert_ne!(to, who);
                    wire::encode(Kind::Message, &message);
                    if self.rng.random_bool(self.loss) {
                        continue;
                    }
                    self.count += 1;
                    let at = self.now + Duration::from_millis(self.rng.random_range(1..20));
                    let from = self.roster.members[who].id;
                    self.flying.insert((at, self.count), (to, from, message));
                }
                Effect::Happened(rumor) => self.happened[who].push(rumor),
                Effect::Asked(rumor) => {
                    let mut effects = Vec::new();
                    let text = Some(format!("m{who}"));
                    let now = self.now;
                    self.machines[who].answer(now, rumor.origin, rumor.number, text, &mut effects);
                    self.heed(who, effects);
                }
                Effect::Ended { gathered, .. } => self.ended.push(gathered),
            }
        }
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let timer = (0..self.machines.len())
                .filter(|i| self.up[*i])
                .filter_map(|i| self.machines[i].deadline().map(|at| (at, i)))
                .min();
            let flying = self.flying.keys().next().copied();
            let live = self.live();
            let mut effects = Vec::new();
            match (timer, flying) {
                (_, Some(next)) if timer.is_none_or(|(at, _)| next.0 <= at) && next.0 <= end => {
                    self.now = next.0;
                    let (to, from, message) = self.flying.remove(&next).unwrap();
                    if !self.up[to] {
                        continue;
                    }
                    let roster = self.roster.clone();
                    let machine = &mut self.machines[to];
                    machine.handle(self.now, from, message, &roster, &live, &mut effects);
                    self.heed(to, effects);
                }
                (Some((at, i)), _) if at <= end => {
                    self.now = self.now.max(at);
                    self.machines[i].tick(self.now, &live, &mut effects);
                    self.heed(i, effects);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    fn tell(&mut self, who: usize, name: &str) -> Result<u64, RumorError> {
        let (live, mut effects) = (self.live(), Vec::new());
        let told = self.machines[who].tell(self.now, name, "x", &live, &mut effects);
        self.heed(who, effects);
        told
    }

    fn ask(&mut self, who: usize, wait: Duration) {
        let (live, mut effects) = (self.live(), Vec::new());
        let machine = &mut self.machines[who];
        machine.ask(self.now, 1, "ping", "", wait, &live, &mut effects).unwrap();
        self.heed(who, effects);
    }

    fn heard_by(&self, name: &str) -> usize {
        self.happened.iter().filter(|h| h.iter().any(|r| r.name == name)).count()
    }
}

#[test]
fn every_live_member_hears_an_event_once() {
    for seed in 0..20 {
        let mut net = Net::new(50, 0.2, seed);
        net.tell(3, "deploy").unwrap();
        net.run(Duration::from_secs(10));
        assert!(net.happened.iter().all(|heard| heard.len() == 1), "seed {seed}");
        let origin = net.roster.members[3].id;
        assert!(net.happened.iter().flatten().all(|r| r.origin == origin && r.payload == "x"));
    }
}

#[test]
fn most_hear_it_within_a_few_round_trips() {
    let mut net = Net::new(64, 0.0, 7);
    net.tell(0, "deploy").unwrap();
    net.run(Duration::from_millis(200));
    assert!(net.heard_by("deploy") >= 60, "{}", net.heard_by("deploy"));
    net.run(Duration::from_secs(3));
    assert_eq!(net.heard_by("deploy"), 64);
}

#[test]
fn who_was_away_hears_it_afterwards() {
    let mut net = Net::new(9, 0.0, 1);
    net.up[8] = false;
    net.tell(0, "early").unwrap();
    net.run(Duration::from_secs(60));
    assert_eq!(net.heard_by("early"), 8);
    net.up[8] = true;
    let mut effects = Vec::new();
    let back = net.roster.members[8].id;
    net.machines[4].returned(back, &mut effects);
    net.heed(4, effects);
    net.run(Duration::from_secs(1));
    assert_eq!(net.heard_by("early"), 9);
}

#[test]
fn nothing_is_said_when_nothing_is_kept() {
    let mut net = Net::new(5, 0.0, 1);
    net.tell(0, "one").unwrap();
    net.run(KEPT + Duration::from_secs(20));
    assert!(net.machines.iter().all(|m| m.kept() == 0 && m.deadline().is_none()));
    let sent = net.sent;
    net.run(Duration::from_secs(1_000));
    assert_eq!(net.sent, sent);
    assert!(sent < 1_000, "{sent}");
}

#[test]
fn the_lamport_time_respects_causes() {
    let mut net = Net::new(6, 0.0, 2);
    net.tell(0, "cause").unwrap();
    net.run(Duration::from_secs(2));
    let cause = net.happened[5][0].clock;
    assert!(net.tell(5, "effect").unwrap() > cause);
}

#[test]
fn a_flood_is_bounded_and_displaces_nobody() {
    let mut net = Net::new(10, 0.0, 3);
    net.tell(1, "quiet").unwrap();
    let mut told = 0;
    for _ in 0..200 {
        told += u32::from(net.tell(0, "flood").is_ok());
        net.run(Duration::from_millis(50));
    }
    // A burst of 32 and four each second for ten seconds.
    assert!((70..=74).contains(&told), "{told}");
    net.run(Duration::from_secs(3));
    assert_eq!(net.heard_by("quiet"), 10);
    for machine in &net.machines {
        assert!(machine.kept() <= limits::RUMORS_KEPT_EACH + 1, "{}", machine.kept());
        let quiet = net.roster.members[1].id;
        assert!(machine.kept.keys().any(|(origin, _)| *origin == quiet), "it gave way to a flood");
    }
}

#[test]
fn a_flood_that_breaks_the_rules_is_cut_at_the_ears() {
    let mut net = Net::new(4, 0.0, 3);
    // Its own bucket is broken: it says what it wants.
    for _ in 0..500 {
        if let Some(heard) = net.machines[0].heard.get_mut(&net.roster.members[0].id) {
            heard.bucket = Bucket::own(net.now);
        }
        net.tell(0, "flood").unwrap();
    }
    net.run(Duration::from_millis(100));
    assert!(net.happened[1].len() <= 65, "{}", net.happened[1].len());
}

#[test]
fn what_its_origin_did_not_sign_is_not_heard() {
    let mut net = Net::new(3, 0.0, 4);
    let (origin, liar) = (net.roster.members[0].id, SecretKey::from_seed([9; 32]));
    let forged = Rumor {
        origin,
        number: 1,
        clock: 1,
        kind: RumorKind::Event,
        name: "false".to_owned(),
        payload: String::new(),
    };
    let far = Rumor { clock: u64::MAX, ..forged.clone() };
    let list = vec![Signed::new(&liar, &forged), Signed::new(&liar, &far)];
    let (roster, live, mut effects) = (net.roster.clone(), net.live(), Vec::new());
    let from = net.roster.members[2].id;
    net.machines[1].handle(Time(0), from, Message::Tell(list), &roster, &live, &mut effects);
    assert_eq!(effects, []);
    assert_eq!(net.machines[1].clock, 0);
}

#[test]
fn a_question_is_answered_by_all_that_live_and_ends_early() {
    let mut net = Net::new(40, 0.0, 5);
    net.ask(7, Duration::from_secs(30));
    net.run(Duration::from_secs(4));
    let gathered = &net.ended[0];
    assert_eq!((gathered.replies.len(), gathered.missing.len()), (40, 0));
    let reply = &gathered.replies[&net.roster.members[11].id];
    assert_eq!(reply.text.as_deref(), Some("m11"));
}

#[test]
fn a_question_ends_in_time_and_says_who_is_missing() {
    let mut net = Net::new(5, 0.0, 6);
    let live = net.live();
    net.up[2] = false;
    let mut effects = Vec::new();
    let wait = Duration::from_secs(1);
    net.machines[0].ask(net.now, 1, "ping", "", wait, &live, &mut effects).unwrap();
    net.heed(0, effects);
    net.run(Duration::from_millis(900));
    assert!(net.ended.is_empty());
    net.run(Duration::from_millis(200));
    let missing: Vec<MemberId> = net.ended[0].missing.iter().copied().collect();
    assert_eq!(missing, [net.roster.members[2].id]);
}

#[test]
fn words_are_checked() {
    let mut net = Net::new(2, 0.0, 6);
    for bad in ["", "a b", "ä", &"n".repeat(limits::RUMOR_NAME_MAX + 1)] {
        assert_eq!(net.tell(0, bad), Err(RumorError::Words), "{bad:?}");
    }
    let live = net.live();
    let long = "p".repeat(limits::RUMOR_PAYLOAD_MAX + 1);
    let told = net.machines[0].tell(Time(0), "a", &long, &live, &mut Vec::new());
    assert_eq!(told, Err(RumorError::Words));
}

proptest::proptest! {
    #[test]
    fn garbage_is_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        if let Ok(message) = wire::decode::<Message>(Kind::Message, &bytes) {
            let mut net = Net::new(3, 0.0, 8);
            let (roster, live) = (net.roster.clone(), net.live());
            let from = net.roster.members[2].id;
            net.machines[1].handle(Time(0), from, message, &roster, &live, &mut Vec::new());
        }
    }
}
