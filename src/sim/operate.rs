//! The operators: restless, on any member, often at the same time. Every
//! answer that they get is checked.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;

use super::{
    Invariant, Situation, Violation,
    check::{fail, majority_of},
    rotate::Waiting,
    server::{Joining, Tag},
    story::Deed,
    world::{Happening, World},
};
use crate::{
    base::{
        AppName, Digest, MemberName, Placement, Reason, Refusal, RuleName,
        catalog::{AppSpec, Failover, VotePolicy},
        wire::{self, Kind},
    },
    member::{
        Input,
        admission::{Knock, Token, Welcome},
        change::Act,
        command::{Command, Outcome},
    },
};

/// How often a newcomer knocks in vain before it gives up.
const KNOCKS_MAX: u32 = 60;
/// At most so many members leave or are removed in one run.
const GONE_MAX: usize = 3;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Invite {
        newcomers: usize,
    },
    Remove,
    Leave,
    Publish {
        app: AppName,
        root: Digest,
        message: String,
    },
    Rollback,
    Open {
        at: crate::base::WallTime,
    },
    Close,
    /// A takeover.
    Order,
    Failover,
    Policy,
    Tags,
    Resolve,
    RotateKey,
    /// What a judge of a rule about the cluster wants.
    Act(Act),
    Service {
        member: MemberName,
        on: bool,
    },
    Wait {
        member: MemberName,
    },
    Silence {
        why: String,
    },
    Unsilence {
        app: Option<AppName>,
        rule: Option<RuleName>,
        member: Option<MemberName>,
    },
    /// What a rule about a member wants of it.
    StandDown,
    /// Likewise.
    Drained,
    /// Likewise.
    StandUp,
}

/// A request under way.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    pub server: usize,
    pub what: What,
    /// When it was asked.
    pub at: u64,
    /// The state of the network if the member was on a side without a majority.
    minority: Option<(u64, usize)>,
}

impl World {
    /// Asks member `s`.
    pub(super) fn ask(&mut self, s: usize, command: Command, what: What) -> Result<(), Violation> {
        let near = |other: usize| other == s || self.network.connects(s, other);
        let all = 0..self.servers.len();
        let alone = all.clone().all(|other| {
            // A side in the strict sense: whom it reaches reaches no further.
            !near(other)
                || all.clone().all(|third| near(third) || !self.network.connects(other, third))
        });
        let side = majority_of(&self.newest().roster, &self.servers, |server| {
            self.index.get(&server.id).is_some_and(|other| near(*other))
        });
        let minority = (alone && !side && self.network.state().1 > 0).then(|| self.network.state());
        let window = self.servers[s].member.as_ref().and_then(|m| m.catalog().window.as_ref());
        if let (What::Order, Some(window)) = (&what, window) {
            self.checker.orders.insert(window.id);
        }
        let ticket = Ticket { server: s, what, at: self.now, minority };
        self.command(s, command, ticket)
    }

    /// One action of some operator.
    pub(super) fn operate(&mut self, action: Deed) -> Result<(), Violation> {
        let up: Vec<usize> = (0..self.servers.len())
            .filter(|s| self.servers[*s].is_up() && !self.servers[*s].gone)
            .collect();
        let Some(s) = self.pick(&up) else { return Ok(()) };
        let app = self.apps[self.rng.random_range(0..self.apps.len())].clone();
        if self.newest().automatic(&app).is_some() && self.rng.random_bool(0.6) {
            return self.edit(&app);
        }
        match action {
            Deed::Publish => self.publish_somehow(s),
            Deed::Rollback => {
                let version = self.rng.random_bool(0.5).then(|| self.rng.random_range(1..6));
                self.ask(s, Command::Rollback { app, version }, What::Rollback)
            }
            Deed::Open => self.open_window(s, app),
            Deed::Close => self.ask(s, Command::WindowClose, What::Close),
            Deed::TakeOver => {
                self.checker.reach(Situation::OrderedTakeover);
                self.ask(s, Command::WindowTakeover, What::Order)
            }
            Deed::Failover => {
                let first = self.some_names();
                self.ask(s, Command::FailoverSet { first }, What::Failover)
            }
            Deed::Policy => {
                let failover = self.any_failover();
                let vote = self.rng.random_bool(0.5).then(|| {
                    let committed = self.rng.random_bool(0.5);
                    if committed { VotePolicy::Committed } else { VotePolicy::Majority }
                });
                self.ask(s, Command::Policy { failover, vote }, What::Policy)
            }
            Deed::Invite => self.invite(s, 1),
            Deed::Remove => self.remove_or_leave(s, true),
            Deed::Leave => self.remove_or_leave(s, false),
            Deed::Retag => self.retag(s),
            Deed::HandOver => self.hand_over(s),
            Deed::RotateKey => self.ask(s, Command::RotateKey, What::RotateKey),
            _ => self.resolve_hung(s),
        }
    }

    fn any_failover(&mut self) -> Option<Failover> {
        [None, Some(Failover::Auto), Some(Failover::Manual)][self.rng.random_range(0..3)]
    }

    fn some_names(&mut self) -> Vec<MemberName> {
        let mut names: Vec<MemberName> =
            self.newest().roster.members.iter().map(|m| m.name.clone()).collect();
        let mut first = Vec::new();
        for _ in 0..2.min(names.len()) {
            first.push(names.swap_remove(self.rng.random_range(0..names.len())));
        }
        first
    }

    fn open_window(&mut self, s: usize, app: AppName) -> Result<(), Violation> {
        let scope = if self.rng.random_bool(0.5) { vec![app] } else { vec![] };
        let failover = self.any_failover();
        let at = self.servers[s].wall(self.now);
        let automatic = self.rng.random_bool(0.4);
        self.ask(s, Command::WindowOpen { scope, failover, automatic }, What::Open { at })
    }

    /// People edit live files, on one member or on a few at once.
    fn edit(&mut self, app: &AppName) -> Result<(), Violation> {
        let mut running = self.enrolled_and_running();
        for _ in 0..self.rng.random_range(1..=3) {
            let Some(s) = self.pick(&running) else { return Ok(()) };
            running.retain(|other| *other != s);
            if self.servers[s].disk.live.contains_key(app) {
                self.drift_of(s, app);
                if self.rng.random_bool(0.5) {
                    self.feed(s, Input::Noticed { app: app.clone() }, Tag::Other)?;
                }
            }
        }
        Ok(())
    }

    // Publications.

    fn publish_somehow(&mut self, s: usize) -> Result<(), Violation> {
        let app = self.apps[self.rng.random_range(0..self.apps.len())].clone();
        let current = self.newest().application(&app).map_or(0, |a| a.current().number);
        let base = match self.rng.random_range(0..6) {
            0 => Some(current),
            1 => Some(current.saturating_sub(1)),
            _ => None,
        };
        self.publish_app(s, app.clone(), base)?;
        // Somebody else at the same time.
        let up = self.enrolled_and_running();
        if self.rng.random_bool(0.2)
            && let Some(other) = self.pick(&up)
        {
            self.publish_app(other, app, base)?;
        }
        Ok(())
    }

    /// Asks member `s` for one more publication. Returns the ticket's number.
    pub(super) fn publish(&mut self, s: usize) -> Result<u64, Violation> {
        let app = self.apps[0].clone();
        self.publish_app(s, app, None)?;
        Ok(self.ticket_next)
    }

    pub(super) fn publish_app(
        &mut self,
        s: usize,
        app: AppName,
        base: Option<u64>,
    ) -> Result<(), Violation> {
        if !self.servers[s].is_up() {
            return Ok(());
        }
        // The same content as long ago, read from a directory once more; or the same as last, of
        // which something may have come or not.
        let oldest = self.newest().application(&app).map(|a| a.versions[0].root);
        let last =
            self.staged_last.get(&app).copied().filter(|_| self.ticket_next.is_multiple_of(2));
        let again = last.or(oldest).filter(|_| self.storm && self.rng.random_bool(0.1));
        let staged = again.and_then(|root| self.contents.get(&root).copied());
        let staged = staged.unwrap_or_else(|| self.new_content());
        self.staged_last.insert(app.clone(), staged.root);
        self.servers[s].disk.put(staged.root);
        let message = format!("publication {} from {}", self.ticket_next + 1, self.servers[s].name);
        let what = What::Publish { app: app.clone(), root: staged.root, message: message.clone() };
        let rollout = self.rollout(staged.root);
        let placement = self.placement(&app);
        let spec = Box::new(AppSpec { placement, rollout, ..AppSpec::default() });
        self.ask(s, Command::Publish { app, staged, spec, message, base }, what)
    }

    /// Mostly as it is; now and then another one, that may suit nobody.
    fn placement(&mut self, app: &AppName) -> Option<Placement> {
        let current = self.newest().application(app).map(|a| a.current().spec.placement.clone());
        if !self.mix.placed {
            return None;
        }
        match current {
            Some(current) if !self.storm || self.rng.random_bool(0.8) => current,
            _ if !self.storm || self.rng.random_bool(0.5) => None,
            _ => {
                let all = ["role == a", "role != b", "role in (a, b)", "role == b or not role"];
                Placement::parse(all[self.rng.random_range(0..all.len())]).ok()
            }
        }
    }

    /// What a server is tagged when it is enrolled.
    pub(super) fn tags_of(&self, s: usize) -> BTreeMap<String, String> {
        if self.mix.placed { tags(s) } else { BTreeMap::new() }
    }

    fn retag(&mut self, s: usize) -> Result<(), Violation> {
        if !self.mix.placed {
            return Ok(());
        }
        let names: Vec<MemberName> =
            self.newest().roster.members.iter().map(|m| m.name.clone()).collect();
        let member = Some(names[self.rng.random_range(0..names.len())].clone());
        let set = tags(self.rng.random_range(0..4));
        let unset =
            if set.is_empty() { BTreeSet::from(["role".to_owned()]) } else { BTreeSet::new() };
        self.ask(s, Command::Tags { member, set, unset }, What::Tags)
    }

    /// Who is `b` becomes `a`, and everybody else `b`.
    fn hand_over(&mut self, s: usize) -> Result<(), Violation> {
        let members = &self.newest().roster.members;
        let turned = members.iter().map(|m| {
            let is_b = m.tags.get("role").is_some_and(|role| role == "b");
            (m.name.clone(), if is_b { "a" } else { "b" })
        });
        for (member, role) in turned.collect::<Vec<_>>() {
            let (member, set) = (Some(member), BTreeMap::from([("role".to_owned(), role.into())]));
            self.ask(s, Command::Tags { member, set, unset: BTreeSet::new() }, What::Tags)?;
        }
        Ok(())
    }

    // Roster.

    /// An invitation for `newcomers` new servers.
    pub(super) fn invite(&mut self, s: usize, newcomers: usize) -> Result<(), Violation> {
        let enrolled = self.newest().roster.members.len();
        let (servers, most) = (self.servers.len() + newcomers, self.mix.members.max(7));
        let drawn = servers > most + 7 || enrolled + newcomers > most + 2;
        if self.servers_max.map_or(drawn, |max| servers > max) {
            return Ok(());
        }
        let uses = u32::try_from(newcomers).unwrap_or(1);
        let command = Command::Invite { seed: self.rng.random(), uses, valid_s: 4 * 3_600 };
        self.ask(s, command, What::Invite { newcomers })
    }

    fn remove_or_leave(&mut self, s: usize, remove: bool) -> Result<(), Violation> {
        let roster = &self.newest().roster;
        let gone = self.servers.len() - roster.members.len();
        if roster.voters().count() < 4 || gone >= GONE_MAX {
            return Ok(());
        }
        let names: Vec<MemberName> = roster.members.iter().map(|m| m.name.clone()).collect();
        if remove {
            let name = names[self.rng.random_range(0..names.len())].clone();
            self.ask(s, Command::Remove { name }, What::Remove)
        } else {
            self.ask(s, Command::Leave, What::Leave)
        }
    }

    fn newcomer(&mut self, token: Token) -> Result<(), Violation> {
        let s = self.new_server()?;
        self.servers[s].joining = Some(Joining { token, tries: 0 });
        let after = self.rng.random_range(1_000..300_000);
        self.later(after, Happening::Knock { server: s });
        Ok(())
    }

    /// A newcomer knocks at any member that runs, until it is let in.
    pub(super) fn knock(&mut self, s: usize) -> Result<(), Violation> {
        let running = self.enrolled_and_running();
        let Some(to) = self.pick(&running) else {
            self.later(500_000, Happening::Knock { server: s });
            return Ok(());
        };
        let exporter: [u8; 32] = self.rng.random();
        let tags = self.tags_of(s);
        let server = &mut self.servers[s];
        let Some(joining) = &mut server.joining else { return Ok(()) };
        joining.tries += 1;
        if joining.tries > KNOCKS_MAX {
            server.joining = None;
            return Ok(());
        }
        let (name, address, key) = (server.name.clone(), server.address, server.key.public());
        let knock = Knock::new(&joining.token, key, &exporter, name, address, tags, false);
        let bytes = wire::encode(Kind::Knock, &knock);
        self.say(Some(s), &format!("knocks at {}", self.servers[to].name));
        if self.network.connects(s, to) {
            let delay = self.network.delay(&mut self.rng);
            self.later(delay, Happening::Knocked { to, from: s, exporter, bytes });
        }
        let again = self.rng.random_range(500_000..3_000_000);
        self.later(again, Happening::Knock { server: s });
        Ok(())
    }

    pub(super) fn knocked(
        &mut self,
        to: usize,
        from: usize,
        exporter: [u8; 32],
        bytes: Vec<u8>,
    ) -> Result<(), Violation> {
        if !self.servers[to].is_up() {
            return Ok(());
        }
        self.ticket_next += 1;
        let ticket = self.ticket_next;
        self.knocks.insert(ticket, Waiting { at: to, from, asks: None, seeks: None });
        let (key, from) = (self.servers[from].key.public(), self.servers[from].address);
        self.feed(to, Input::Knock { ticket, key, exporter, from, bytes }, Tag::Other)
    }

    pub(super) fn answer(
        &mut self,
        s: usize,
        ticket: u64,
        bytes: Vec<u8>,
    ) -> Result<(), Violation> {
        let Some(waiting) = self.knocks.remove(&ticket) else {
            return fail(Invariant::OneAnswer, format!("knock {ticket} is answered twice"));
        };
        let newcomer = waiting.from;
        if let Some((id, run)) = waiting.asks {
            let delay = self.network.delay(&mut self.rng);
            let by = self.servers[s].id;
            let input = match waiting.seeks {
                Some(address) => Input::Found { id, address, by, bytes },
                None => Input::Told { id, by, bytes },
            };
            if self.network.connects(s, newcomer) {
                self.later(delay, Happening::Own { server: newcomer, run, input });
            }
            return Ok(());
        }
        if self.network.connects(s, newcomer) {
            let delay = self.network.delay(&mut self.rng);
            self.later(delay, Happening::Answered { server: newcomer, by: s, bytes });
        }
        Ok(())
    }

    pub(super) fn answered(&mut self, s: usize, by: usize, bytes: &[u8]) -> Result<(), Violation> {
        let host = self.servers[by].key.public();
        let server = &mut self.servers[s];
        let Some(joining) = &server.joining else { return Ok(()) };
        let Ok(welcome) = wire::decode::<Welcome>(Kind::Message, bytes) else {
            return fail(Invariant::Welcomed, "a welcome that can't be read".to_owned());
        };
        let admitted = matches!(welcome, Welcome::Admitted { .. });
        match welcome.accept(&joining.token, server.id, host) {
            Ok(record) => {
                server.joining = None;
                server.disk.record = Some(Box::new(record));
                self.checker.reach(Situation::Joined);
                let after = self.rng.random_range(1_000..200_000);
                self.later(after, Happening::Start { server: s });
                Ok(())
            }
            // Its host was removed, or it was, between the knock and this.
            Err(refusal) if admitted && !refusal.why.contains("not") => {
                fail(Invariant::Welcomed, refusal.to_string())
            }
            Err(refusal) if admitted && refusal.why.contains("prove") => {
                fail(Invariant::Welcomed, refusal.to_string())
            }
            Err(refusal) => {
                let text = format!("was not let in by {}: {}", self.servers[by].name, refusal.why);
                self.say(Some(s), &text);
                Ok(())
            }
        }
    }

    // Answers.

    pub(super) fn reply(
        &mut self,
        s: usize,
        number: u64,
        result: Result<Outcome, Refusal>,
    ) -> Result<(), Violation> {
        let told = match &result {
            Ok(outcome) => format!("{outcome:?}"),
            Err(refusal) => {
                format!("refused ({:?}): {} {}", refusal.reason, refusal.what, refusal.why)
            }
        };
        self.say(Some(s), &format!("answers ({number}): {told}"));
        let Some(ticket) = self.tickets.remove(&number) else {
            return fail(Invariant::OneAnswer, format!("ticket {number} is answered twice"));
        };
        self.answered_given(&ticket, &result);
        self.acted(s, &ticket.what, &result)?;
        if let Some(state) = ticket.minority {
            match &result {
                Ok(_) if self.network.state() == state && !matches!(ticket.what, What::Close) => {
                    let detail = format!("{:?} was granted to a minority", ticket.what);
                    return fail(Invariant::MinorityCommitsNothing, detail);
                }
                Err(_) if matches!(ticket.what, What::Publish { .. }) => {
                    self.checker.reach(Situation::MinorityRefused);
                }
                _ => {}
            }
        }
        match (ticket.what, result) {
            (What::Publish { app, root, message }, result) => {
                if result.is_ok() {
                    self.last_published = Some(number);
                }
                self.published(&app, root, &message, result)
            }
            (What::Invite { newcomers }, Ok(Outcome::Invited { token, .. })) => {
                let token = Token::parse(&token).map_err(|refusal| Violation {
                    invariant: Invariant::AnswersAreTrue,
                    detail: refusal.to_string(),
                })?;
                for _ in 0..newcomers {
                    self.newcomer(token.clone())?;
                }
                Ok(())
            }
            (What::Open { at }, Err(refusal)) => self.not_opened(s, at, &refusal),
            (What::Tags, Ok(_)) => {
                self.checker.reach(Situation::Retagged);
                Ok(())
            }
            (What::Resolve, Ok(_)) => {
                self.checker.reach(Situation::Resolved);
                Ok(())
            }
            (_, Ok(Outcome::Done { sequence, .. })) => {
                if self.checker.catalog(sequence).is_none() {
                    let detail = format!("catalog {sequence} is not committed");
                    return fail(Invariant::AnswersAreTrue, detail);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn published(
        &mut self,
        app: &AppName,
        root: Digest,
        message: &str,
        result: Result<Outcome, Refusal>,
    ) -> Result<(), Violation> {
        match result {
            Ok(Outcome::Published { version, .. }) => {
                let known = self.checker.published(message);
                if known.is_some_and(|(a, v)| a == app && v.number == version && v.root == root) {
                    return Ok(());
                }
                let detail = format!("{message} is said to be version {version} of {app}");
                fail(Invariant::AnswersAreTrue, detail)
            }
            Ok(other) => fail(Invariant::AnswersAreTrue, format!("{message}: {other:?}")),
            Err(refusal) => {
                if refusal.reason == Reason::Conflict && refusal.why.contains("meanwhile") {
                    self.checker.reach(Situation::PublisherConflict);
                }
                if is_open_ended(&refusal) {
                    Ok(())
                } else {
                    self.checker.refused_for_good(message)
                }
            }
        }
    }

    /// A held window that was refused is not open.
    fn not_opened(
        &mut self,
        s: usize,
        at: crate::base::WallTime,
        refusal: &Refusal,
    ) -> Result<(), Violation> {
        let id = self.servers[s].id;
        let window = self.newest().window.as_ref();
        let ours = window.is_some_and(|w| w.is_held() && w.opened_by == id && w.opened_at == at);
        if ours && !is_open_ended(refusal) {
            let detail = format!("the window is open and was refused: {refusal}");
            return fail(Invariant::AnswersAreTrue, detail);
        }
        Ok(())
    }
}

/// Tags to place applications by: one of four sets.
pub(super) fn tags(choice: usize) -> BTreeMap<String, String> {
    let role = [Some("a"), Some("a"), Some("b"), None][choice % 4];
    role.map(|role| ("role".to_owned(), role.to_owned())).into_iter().collect()
}

/// Whether a refusal says that it may come into force all the same.
fn is_open_ended(refusal: &Refusal) -> bool {
    let text = refusal.to_string();
    ["may still", "after all", "not known"].iter().any(|words| text.contains(words))
}
