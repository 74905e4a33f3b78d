//! Operators' commands: from the request to its answer.
//!
//! A window is asked of the first live member of the failover list (`asks`);
//! everything else is proposed by the member that was asked, and so is what a
//! newcomer at the door wants (`knock`). Each request ends with one answer,
//! whatever happens on the way; what was changed is told as an event (`told`).

use rand::Rng;

use super::{
    Member,
    admission::Token,
    change::{self, Change, Held, Open, OpenFor},
    command::{By, Command, Outcome, Staged},
    event::{EventKind, Severity},
    io::Effect,
    message::{Answer, Message},
};
use crate::{
    base::{
        AppName, MemberId, MemberName, OperatorName, Reason, Refusal, RuleName, SecretKey, Time,
        WallTime,
        catalog::{AppSpec, Enrolled, Invite, Origin, Publication, Version, Window},
        conduct, limits,
        operator::{AskedBy, Operator},
    },
    proto::election,
};

mod asks;
mod knock;
mod told;

pub(super) use asks::{AskOrigin, Asks};
pub(super) use knock::refuse_entry;

/// The longest invitation: a year.
const INVITE_VALID_MAX_S: u64 = 365 * 24 * 3_600;

/// What a proposal of ours is for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// A command that is answered when it is committed. With a token: who asked for it, and the
    /// number of the event that told of it before.
    Reply { ticket: u64, text: String, by: Option<(AskedBy, u64)> },
    /// An invitation: answered with its token.
    Invite { ticket: u64, token: Token, uses: u32 },
    /// A newcomer at the door.
    Knock { ticket: u64, name: String },
    /// Asked by another member.
    Forwarded { to: MemberId, id: u64 },
    /// Asked by ourselves, of ourselves.
    Ask { id: u64 },
    /// Leave, then stop.
    Leave { ticket: u64 },
    /// A new key for this member.
    Rotate { ticket: u64 },
    /// A step of the window that we preside over or take over.
    Step,
    /// Our own vote.
    Vote,
    /// The majority's content as a new version.
    Adoption,
    /// A member that was down for as long as the policy says.
    Expiry,
    /// What another proposer left behind.
    Unfinished,
    /// Where this member is reached.
    Address,
}

impl Member {
    // Commands.

    pub(super) fn on_command(
        &mut self,
        now: Time,
        ticket: u64,
        (command, by): (Command, Option<By>),
        effects: &mut Vec<Effect>,
    ) {
        if let Err(refusal) = self.try_command(now, ticket, command, by, effects) {
            effects.push(Effect::Reply { ticket, result: Err(refusal) });
        }
    }

    fn try_command(
        &mut self,
        now: Time,
        ticket: u64,
        command: Command,
        by: Option<By>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        // These change nothing, and need nobody's consent.
        match &command {
            Command::Event { name, payload } => {
                return self.tell_all(now, ticket, name, payload, effects);
            }
            Command::Query { name, payload, wait_ms } => {
                return self.ask_all(now, ticket, name, payload, *wait_ms, effects);
            }
            _ => {}
        }
        self.quorum_in_view(&command)?;
        let by = match by {
            Some(By { operator, event }) => Some((self.asked_by(operator)?, event)),
            None => None,
        };
        let asked = || by.as_ref().map(|(asked, _)| asked.clone());
        let (change, text) = match command {
            Command::Invite { seed, uses, valid_s } => {
                return self.invite(now, ticket, seed, uses, valid_s, effects);
            }
            Command::Withdraw { id } => {
                let (invite, text) = self.withdrawn(id.as_deref())?;
                (Change::Withdraw { invite, at: self.wall }, text)
            }
            Command::Remove { name } => {
                let member = self.enrolled(&name, "The member was not removed.")?;
                if member == self.me {
                    return Err(Refusal::new(
                        Reason::Invalid,
                        "The member was not removed.",
                        format!("{name} is the member that you are asking."),
                        "Use `althing leave` on it, or remove it from another member.",
                    ));
                }
                (Change::Remove { member }, format!("{name} is removed"))
            }
            Command::RotateKey => return self.rotate_key(ticket, effects),
            Command::Leave => {
                if self.rotating.is_under_way() {
                    return Err(Refusal::new(
                        Reason::Busy,
                        "The member did not leave.",
                        "It gets a new key at this moment.",
                        "Wait until it has it, and try again.",
                    ));
                }
                self.leaving = true;
                let change = Change::Remove { member: self.me };
                self.propose(now, change, Purpose::Leave { ticket }, effects);
                return Ok(());
            }
            Command::Publish { app, staged, spec, message, base } => {
                let mut publication =
                    self.publication(app, staged, *spec, message, base, Origin::Published)?;
                publication.version.asked = asked();
                self.ask_window(now, AskOrigin::Ticket(ticket), publication, effects);
                return Ok(());
            }
            Command::Rollback { app, version } => {
                let mut publication = self.rollback(&app, version)?;
                publication.version.asked = asked();
                self.ask_window(now, AskOrigin::Ticket(ticket), publication, effects);
                return Ok(());
            }
            Command::WindowOpen { scope, failover, automatic } => {
                let held = if automatic { Held::Automatic } else { Held::ByHand };
                let open = Open {
                    coordinator: self.me,
                    opened_by: self.me,
                    opened_at: self.wall,
                    scope,
                    failover,
                    purpose: OpenFor::held(held, asked()),
                };
                self.ask(now, AskOrigin::Ticket(ticket), open, effects);
                return Ok(());
            }
            Command::WindowClose => {
                let window = self.open_window("The window was not closed.")?.id;
                (Change::Close { window }, format!("window {window} is closed"))
            }
            Command::WindowTakeover => {
                let me = self.me;
                let Window { id, coordinator, .. } =
                    *self.open_window("The window was not taken over.")?;
                let change =
                    Change::TakeOver { window: id, from: coordinator, by: me, ordered: true };
                (change, format!("this member presides over window {id}"))
            }
            Command::FailoverSet { first } => {
                let what = "The failover list was not changed.";
                let ids: Result<Vec<MemberId>, Refusal> =
                    first.iter().map(|name| self.enrolled(name, what)).collect();
                (Change::Failover { first: ids? }, "the failover list is changed".to_owned())
            }
            Command::Policy { failover, vote } => {
                (Change::Policy { failover, vote }, "the policy is changed".to_owned())
            }
            Command::RemoveAfter { seconds } => {
                (Change::RemoveAfter { seconds }, "the policy is changed".to_owned())
            }
            Command::Tags { member, set, unset } => {
                let what = "The tags were not changed.";
                let (member, name) = match member {
                    Some(name) => (self.enrolled(&name, what)?, name.to_string()),
                    None => (self.me, self.name_of(self.me)),
                };
                (Change::Tags { member, set, unset }, format!("the tags of {name} are changed"))
            }
            Command::Service { member, on } => {
                let what = "Who is in service was not changed.";
                let (member, name) = match member {
                    Some(name) => (self.enrolled(&name, what)?, name.to_string()),
                    None => (self.me, self.name_of(self.me)),
                };
                let text = match on {
                    true => format!("{name} is in service"),
                    false => {
                        format!("{name} is on standby: it answers only if nobody is in service")
                    }
                };
                (Change::Standby { member, standby: !on }, text)
            }
            Command::Wait { member } => {
                let what = "Who waits to be brought into service was not changed.";
                let (member, name) = match member {
                    Some(name) => (self.enrolled(&name, what)?, name.to_string()),
                    None => (self.me, self.name_of(self.me)),
                };
                let text = format!("{name} is on standby, and rules may bring it into service");
                (Change::Wait { member }, text)
            }
            Command::Act(act) => (Change::from(act), "it is so now".to_owned()),
            Command::Silence { app, rule, member, for_s, why } => {
                let what = self.silenced(app, rule, member, "Nothing was silenced.")?;
                let by = self.catalog().roster.get(self.me).map(|me| me.name.clone());
                let by = by.ok_or_else(not_enrolled_any_more)?;
                let until = self.wall.0.saturating_add(for_s.saturating_mul(1_000));
                let (since, until) = (self.wall, WallTime(until));
                let text = format!("silenced until {until}: {}", self.told_of(&what));
                let silence = conduct::Silence { what, by, why, since, until };
                (Change::Silence(Box::new(silence)), text)
            }
            Command::Unsilence { app, rule, member } => {
                let not_ended = "No silence was ended.";
                let what = self.silenced(app, rule, member, not_ended)?;
                let mut all = self.catalog().conduct.silences().iter();
                if !all.any(|silence| silence.what == what && self.wall < silence.until) {
                    return Err(Refusal::new(
                        Reason::NotFound,
                        not_ended,
                        format!("There is none of {}.", self.told_of(&what)),
                        "See `althing silence` for those there are, and name the same as there.",
                    ));
                }
                let text = format!("silenced no more: {}", self.told_of(&what));
                (Change::Unsilence { what, at: self.wall }, text)
            }
            Command::OperatorAdd { name, token, valid_s } => {
                let by = self.catalog().roster.get(self.me).map(|me| me.name.clone());
                let by = by.ok_or_else(not_enrolled_any_more)?;
                let since = self.wall;
                let ends = |s: u64| WallTime(since.0.saturating_add(s.saturating_mul(1_000)));
                let operator = Operator { name, token, by, since, until: valid_s.map(ends) };
                let text = operator.told();
                (Change::AddOperator(Box::new(operator)), text)
            }
            Command::OperatorRemove { name } => {
                let mut all = self.catalog().conduct.operators().iter();
                if !all.any(|operator| operator.name == name) {
                    return Err(Refusal::new(
                        Reason::NotFound,
                        "No operator was removed.",
                        format!("None is called {name}."),
                        "See `althing operator list` for those there are.",
                    ));
                }
                let text = format!("operator {name} may not act over the network any more");
                (Change::RemoveOperator { name, at: self.wall }, text)
            }
            Command::StandDown { keep, because, at } => {
                let text = format!("{} is out of service", self.name_of(self.me));
                (Change::StandDown { member: self.me, keep, because, at }, text)
            }
            Command::StandUp => {
                (Change::StandUp { member: self.me }, "it is where it was before".to_owned())
            }
            Command::Drained => {
                (Change::Drained { member: self.me }, "nothing is under way there".to_owned())
            }
            Command::Event { .. } | Command::Query { .. } => return Ok(()), // dealt with above
            Command::Resolve { app, member } => {
                return self.resolve(now, ticket, (app, &member), asked(), effects);
            }
        };
        self.propose(now, change, Purpose::Reply { ticket, text, by }, effects);
        Ok(())
    }

    /// Who asks for something here with a token.
    fn asked_by(&self, operator: OperatorName) -> Result<AskedBy, Refusal> {
        let me = self.catalog().roster.get(self.me).ok_or_else(not_enrolled_any_more)?;
        Ok(AskedBy { operator, at: me.name.clone() })
    }

    /// Says at once what the register would say after its patience: that too
    /// few voters are in view. The register counts answers all the same.
    fn quorum_in_view(&self, command: &Command) -> Result<(), Refusal> {
        self.quorum_for(match command {
            Command::Publish { app, .. } | Command::Rollback { app, .. } => {
                format!("{app} was not published.")
            }
            _ => "Nothing was changed.".to_owned(),
        })
    }

    pub(super) fn quorum_for(&self, what: String) -> Result<(), Refusal> {
        let roster = &self.catalog().roster;
        let (live, majority) = election::quorum_in_view(roster, |m| self.is_live(m));
        if live >= majority {
            return Ok(());
        }
        let voters = roster.voters().count();
        let missing: Vec<String> = roster
            .voters()
            .filter(|m| !self.is_live(m.id))
            .map(|m| m.name.to_string())
            .take(10)
            .collect();
        let two = if voters == 2 {
            " A cluster of two can't change anything while one is away: it could not tell a dead \
             peer from a cut cable."
        } else {
            ""
        };
        let (removed, todo) = match (self.unknown_to(), self.gone_to_another_cluster()) {
            (None, None) => (
                String::new(),
                "Bring the missing members back, and try again; if they have moved, start this member \
                 with --join and the new address of one; if they are lost for ever, see \
                 `althing recover`.",
            ),
            (Some(names), _) => (
                format!(
                    " This member is unknown to {names}: it was probably removed while it was away."
                ),
                "See with `althing members` on another member whether this one is enrolled.",
            ),
            (None, Some(names)) => (
                format!(
                    " Another cluster answers at the address of {names}: this one was probably \
                     recovered there without this member."
                ),
                "To join that cluster and keep the content: stop this member, run `althing recover \
                 --rejoin`, and start it with a token of that cluster.",
            ),
        };
        Err(Refusal::new(
            Reason::NoMajority,
            what,
            format!(
                "A change needs {majority} of the {voters} voters, and {live} can be reached \
                 (missing: {}). What the cluster holds stays as it is and goes on being served.{two}{}",
                missing.join(", "),
                removed
            ),
            todo,
        ))
    }

    /// Which rules a silence is about.
    fn silenced(
        &self,
        app: Option<AppName>,
        rule: Option<RuleName>,
        member: Option<MemberName>,
        what: &str,
    ) -> Result<conduct::Silenced, Refusal> {
        let member = member.map(|name| self.enrolled(&name, what)).transpose()?;
        Ok(conduct::Silenced { app, rule, member })
    }

    /// The same for people.
    pub(super) fn told_of(&self, what: &conduct::Silenced) -> String {
        what.told(|member| self.name_of(member))
    }

    fn enrolled(&self, name: &MemberName, what: &str) -> Result<MemberId, Refusal> {
        self.catalog().roster.named(name).map(|m| m.id).ok_or_else(|| {
            Refusal::new(
                Reason::NotFound,
                what,
                format!("No member is named {name}."),
                "See `althing members` for those that are enrolled.",
            )
        })
    }

    fn open_window(&self, what: &str) -> Result<&Window, Refusal> {
        self.catalog().window.as_ref().ok_or_else(|| {
            Refusal::new(
                Reason::NotFound,
                what,
                "No window is open.",
                "Open one with `althing window open`.",
            )
        })
    }

    fn invite(
        &mut self,
        now: Time,
        ticket: u64,
        seed: [u8; 32],
        uses: u32,
        valid_s: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        if uses == 0 || valid_s == 0 || valid_s > INVITE_VALID_MAX_S {
            return Err(Refusal::new(
                Reason::Invalid,
                "No invitation was issued.",
                "It would admit nobody, or be valid for more than a year.",
                "Give at least one use and a time from one second to a year.",
            ));
        }
        let expires_at = WallTime(self.wall.0 + valid_s * 1_000);
        let mut addresses = vec![self.address];
        let others = self.catalog().roster.members.iter().filter(|m| m.id != self.me);
        let directory = self.membership.directory();
        // Where others reach them, and not only this member.
        let reached = |m: &Enrolled| directory.heard_at(&m.id).unwrap_or(m.address);
        addresses.extend(others.filter(|m| self.is_live(m.id)).map(reached).take(7));
        let token = Token {
            cluster: self.catalog().cluster,
            sequence: 0, // set when the invitation is committed
            seed,
            expires_at,
            anchor: self.register.lineage().anchor(),
            addresses,
        };
        let key = SecretKey::from_seed(seed).public();
        let invite = Invite { key, expires_at, uses_left: uses, issued_by: self.me };
        let change = Change::Invite { invite, at: self.wall };
        self.propose(now, change, Purpose::Invite { ticket, token, uses }, effects);
        Ok(())
    }

    pub(super) fn publication(
        &mut self,
        app: AppName,
        staged: Staged,
        spec: AppSpec,
        mut message: String,
        base: Option<u64>,
        origin: Origin,
    ) -> Result<Publication, Refusal> {
        let current = self.catalog().application(&app).map(|a| a.current().clone());
        let number = current.as_ref().map_or(0, |v| v.number);
        let base = base.unwrap_or(number);
        if current.is_some_and(|v| v.root == staged.root && v.spec == spec && base == number) {
            return Err(Refusal::new(
                Reason::Conflict,
                format!("{app} was not published."),
                format!("It is what version {number} holds already."),
                "Nothing: there is nothing new to publish.",
            ));
        }
        if message.len() > limits::TEXT_MAX {
            message = message.chars().take(limits::TEXT_MAX / 4).collect();
        }
        // An earlier version may be held by others only.
        if !matches!(origin, Origin::Rollback(_)) {
            self.content.now_whole(staged.root);
        }
        let version = Version {
            number: base.saturating_add(1),
            root: staged.root,
            files: staged.files,
            bytes: staged.bytes,
            spec,
            publisher: self.me,
            published_at: self.wall,
            message,
            origin,
            asked: None,
        };
        let request = self.rng.random_range(1..=u64::MAX);
        Ok(Publication { request, app, base, version, committed: false })
    }

    pub(super) fn rollback(
        &mut self,
        app: &AppName,
        to: Option<u64>,
    ) -> Result<Publication, Refusal> {
        let what = format!("{app} was not rolled back.");
        let application =
            self.catalog().application(app).ok_or_else(|| change::no_such_app(app, &what))?.clone();
        let current = application.current().number;
        let to = to.unwrap_or_else(|| application.before_current().map_or(0, |v| v.number));
        let Some(version) = application.version(to).filter(|_| to != current) else {
            let kept: Vec<String> =
                application.versions.iter().map(|v| v.number.to_string()).collect();
            return Err(Refusal::new(
                Reason::NotFound,
                what,
                format!(
                    "Version {to} is the current one or is not kept; kept are {}.",
                    kept.join(", ")
                ),
                format!("Choose one of `althing history {app}`."),
            ));
        };
        // Whoever holds it gives it to this one as to all others. Where nobody does, the
        // window says so and ends.
        let others =
            self.catalog().roster.members.iter().any(|m| m.id != self.me && self.is_live(m.id));
        if !self.content.is_whole(version.root) && !others {
            return Err(Refusal::new(
                Reason::Busy,
                what,
                format!("This member does not hold version {to} whole, and no other is live."),
                "Start a member that was there when it was current, and try again.",
            ));
        }
        let staged = Staged { root: version.root, files: version.files, bytes: version.bytes };
        let message = format!("rollback to version {to}");
        let (spec, origin) = (version.spec.clone(), Origin::Rollback(to));
        self.publication(app.clone(), staged, spec, message, None, origin)
    }

    // Ends.

    pub(super) fn on_ended(
        &mut self,
        now: Time,
        purpose: Purpose,
        change: Change,
        result: Result<u64, Refusal>,
        effects: &mut Vec<Effect>,
    ) {
        if let Ok(sequence) = &result {
            self.tell_committed(*sequence, &change, &purpose, effects);
        }
        match purpose {
            Purpose::Reply { ticket, text, .. } => {
                let result = result.map(|sequence| Outcome::Done { sequence, text });
                effects.push(Effect::Reply { ticket, result });
            }
            Purpose::Invite { ticket, mut token, uses } => {
                let result = result.map(|sequence| {
                    token.sequence = sequence;
                    let expires_at = token.expires_at;
                    Outcome::Invited { token: token.to_text(), expires_at, uses }
                });
                effects.push(Effect::Reply { ticket, result });
            }
            Purpose::Knock { ticket, name } => match result {
                Ok(_) => self.welcome(ticket, effects),
                Err(refusal) => {
                    let text = format!("{name} was not admitted: {}", refusal.why);
                    self.tell(effects, Severity::Warning, EventKind::Catalog, None, text);
                    refuse_entry(ticket, refusal, effects);
                }
            },
            Purpose::Forwarded { to, id } => {
                let answer = match result {
                    Ok(sequence) => Answer::Done(sequence),
                    Err(refusal) => Answer::Refused(refusal),
                };
                if self.catalog().roster.contains(to) {
                    self.send(to, &Message::Forwarded { id, answer }, effects);
                }
            }
            Purpose::Ask { id } => match result {
                Ok(sequence) => self.ask_granted(now, id, sequence, effects),
                Err(refusal) => self.ask_refused(now, id, refusal, effects),
            },
            Purpose::Leave { ticket } => self.left(ticket, result, effects),
            Purpose::Rotate { ticket } => self.rotation_ended(ticket, result, effects),
            Purpose::Step => self.step_ended(now, result.is_err()),
            Purpose::Vote => self.vote_pending = false,
            Purpose::Adoption => self.adoption_pending = false,
            Purpose::Expiry => self.expiry_ended(now, result.is_ok()),
            Purpose::Unfinished => self.unfinished_ended(),
            Purpose::Address => self.address_ended(now, result.is_ok()),
        }
    }

    /// Every open request is answered: this member is no longer enrolled, and
    /// hears no more of what becomes of it. Its own wish to leave is fulfilled.
    pub(super) fn answer_all(&mut self, effects: &mut Vec<Effect>) {
        let refusal = not_enrolled_any_more();
        self.answer_rotation(&refusal, effects);
        self.forget_edits();
        for origin in self.asks.take_all() {
            if let AskOrigin::Ticket(ticket) = origin {
                effects.push(Effect::Reply { ticket, result: Err(refusal.clone()) });
            }
        }
        for purpose in std::mem::take(&mut self.purposes).into_values() {
            match purpose {
                Purpose::Reply { ticket, .. }
                | Purpose::Invite { ticket, .. }
                | Purpose::Rotate { ticket } => {
                    effects.push(Effect::Reply { ticket, result: Err(refusal.clone()) });
                }
                Purpose::Knock { ticket, .. } => refuse_entry(ticket, refusal.clone(), effects),
                Purpose::Leave { ticket } => {
                    let sequence = self.catalog().sequence;
                    self.left(ticket, Ok(sequence), effects);
                }
                // Their askers see that this member is gone, and ask another.
                Purpose::Forwarded { .. }
                | Purpose::Ask { .. }
                | Purpose::Step
                | Purpose::Vote
                | Purpose::Expiry
                | Purpose::Unfinished
                | Purpose::Address
                | Purpose::Adoption => {}
            }
        }
    }

    /// The wish to leave has ended.
    fn left(&mut self, ticket: u64, result: Result<u64, Refusal>, effects: &mut Vec<Effect>) {
        self.leaving = result.is_ok();
        let text = "this member has left and stops".to_owned();
        let result = result.map(|sequence| Outcome::Done { sequence, text });
        effects.push(Effect::Reply { ticket, result });
    }
}

/// The refusal of a member that is enrolled no more.
pub(super) fn not_enrolled_any_more() -> Refusal {
    Refusal::new(
        Reason::Forbidden,
        "It is not known what came of this.",
        "This member is no longer in the cluster, and what was under way may still come into \
         force.",
        "Look on a member that is enrolled, and ask there.",
    )
}
