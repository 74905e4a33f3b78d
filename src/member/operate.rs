//! Operators' commands and newcomers' knocks: from the request to its answer.
//!
//! A window is asked of the first live member of the failover list; everything
//! else is proposed by the member that was asked. Each request ends with one
//! answer, whatever happens on the way.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use rand::Rng;

use super::{
    Member,
    admission::{IS_ENROLLED, Knock, Token, Welcome},
    change::{self, Begin, Change, Held, Open, OpenFor},
    command::{By, Command, Outcome, Staged},
    event::{Event, EventKind, Severity},
    inviting,
    io::{ContentFailure, Effect},
    message::{Answer, Message},
    told_with,
};
use crate::{
    base::{
        AppName, Digest, MemberId, MemberName, OperatorName, PublicKey, Reason, Refusal, RuleName,
        SecretKey, Time, WallTime,
        catalog::{
            AppSpec, Catalog, Enrolled, Invite, Origin, Publication, Version, Window, WindowMode,
            check_tags,
        },
        conduct, limits,
        operator::{AskedBy, Operator},
        planted::{self, Bug},
        wire::{self, Kind},
    },
    proto::election,
};

/// How long the member that should preside may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
/// How long after a vain attempt the next one is made.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// How long a coordinator is sought before the request is refused.
const SEEK: Duration = Duration::from_secs(20);
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

/// Requests to open a window that are under way.
#[derive(Debug)]
pub(super) struct Asks {
    /// Of the last one. Never the same in two runs: an answer to the run before
    /// may still be on its way.
    next: u64,
    open: BTreeMap<u64, Ask>,
    /// Members that wait for this one's content to decide a hung vote.
    resolving: BTreeMap<AppName, Resolving>,
}

#[derive(Debug)]
struct Ask {
    origin: AskOrigin,
    open: Open,
    state: AskState,
    give_up_at: Time,
    /// Whether somebody who was asked never answered, and may still do it.
    unanswered: bool,
}

/// Who wants the window.
#[derive(Clone, Copy, Debug)]
pub(super) enum AskOrigin {
    Ticket(u64),
    /// This member, for an edit of its live content.
    Edit,
    /// This member, for the way back from what did not get ready.
    Rollback,
    /// Another member asked us to resolve a hung vote.
    Member(MemberId, u64),
}

#[derive(Debug)]
enum AskState {
    /// Somebody is to be asked at this time.
    Seeking { at: Time },
    /// Somebody was asked and has until then.
    Asked { whom: MemberId, until: Time },
    /// It is open; the publication runs its course.
    Running { since_sequence: u64 },
}

#[derive(Clone, Debug)]
enum Resolving {
    /// We decide it with our own content, as somebody asked if that was done with a token.
    Ours(AskOrigin, Option<AskedBy>),
    /// We asked the member whose content is right.
    Theirs { ticket: u64, whom: MemberId, id: u64, until: Time },
}

impl Asks {
    /// None yet; their numbers are those after `first`.
    pub fn new(first: u64) -> Self {
        Self { next: first, open: BTreeMap::new(), resolving: BTreeMap::new() }
    }

    /// What is to be published, before the catalog names it.
    pub fn roots(&self) -> impl Iterator<Item = Digest> {
        self.open.values().filter_map(|ask| Some(ask.open.publication()?.version.root))
    }

    /// Whether somebody waits for the end of a publication.
    pub fn are_open(&self) -> bool {
        !self.open.is_empty() || !self.resolving.is_empty()
    }

    pub fn deadline(&self) -> Option<Time> {
        let asks = self.open.values().filter_map(|ask| match ask.state {
            AskState::Seeking { at } => Some(at),
            AskState::Asked { until, .. } => Some(until),
            AskState::Running { .. } => None,
        });
        let resolving = self.resolving.values().filter_map(|r| match r {
            Resolving::Theirs { until, .. } => Some(*until),
            Resolving::Ours(..) => None,
        });
        asks.chain(resolving).min()
    }
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

    // Windows, asked of who should preside.

    pub(super) fn ask_window(
        &mut self,
        now: Time,
        origin: AskOrigin,
        publication: Publication,
        effects: &mut Vec<Effect>,
    ) {
        let open = Open {
            coordinator: self.me,
            opened_by: self.me,
            opened_at: self.wall,
            scope: vec![publication.app.clone()],
            failover: None,
            purpose: OpenFor::Publication(Box::new(publication)),
        };
        self.ask(now, origin, open, effects);
    }

    fn ask(&mut self, now: Time, origin: AskOrigin, open: Open, effects: &mut Vec<Effect>) {
        self.asks.next += 1;
        let id = self.asks.next;
        let state = AskState::Seeking { at: now };
        self.asks
            .open
            .insert(id, Ask { origin, open, state, give_up_at: now + SEEK, unanswered: false });
        self.seek(now, id, None, effects);
    }

    /// Asks whoever should preside, or `hint`, who was said to.
    fn seek(&mut self, now: Time, id: u64, hint: Option<MemberId>, effects: &mut Vec<Effect>) {
        let whom = hint.filter(|m| self.is_live(*m)).or_else(|| self.should_preside());
        let Some(ask) = self.asks.open.get_mut(&id) else { return };
        ask.unanswered |= matches!(ask.state, AskState::Asked { .. });
        if now >= ask.give_up_at {
            let refusal = Refusal::new(
                Reason::NoMajority,
                "The window was not opened.",
                format!(
                    "For {} seconds no member of the failover list could be reached that could \
                     have a majority for it.",
                    SEEK.as_secs()
                ),
                "See `althing members` for who is missing, and try again. If the window was opened \
                 after all, `althing window` shows it.",
            );
            self.answer(now, id, Err(refusal), effects);
            return;
        }
        match whom {
            None => ask.state = AskState::Seeking { at: now + ASK_AGAIN },
            Some(whom) => {
                ask.state = AskState::Asked { whom, until: now + ANSWER_WITHIN };
                let change = Change::Open(Box::new(Open { coordinator: whom, ..ask.open.clone() }));
                if whom == self.me {
                    self.propose(now, change, Purpose::Ask { id }, effects);
                } else {
                    let message = Message::Forward { id, change: Box::new(change) };
                    self.send(whom, &message, effects);
                }
            }
        }
    }

    /// Who presides: the open window's coordinator while it is live, else the
    /// first live member of the failover list.
    fn should_preside(&self) -> Option<MemberId> {
        let catalog = self.catalog();
        let presides = catalog.window.as_ref().map(|w| w.coordinator).filter(|m| self.is_live(*m));
        presides.or_else(|| election::presider(&catalog.roster, |m| self.is_live(m)))
    }

    pub(super) fn asks_tick(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let due: Vec<u64> = self
            .asks
            .open
            .iter()
            .filter(|(_, ask)| match ask.state {
                AskState::Seeking { at } => now >= at,
                // Sooner if it was seen to die.
                AskState::Asked { whom, until } => {
                    now >= until || (whom != self.me && !self.is_live(whom))
                }
                AskState::Running { .. } => false,
            })
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.seek(now, id, None, effects);
        }
        let silent: Vec<(AppName, u64)> = self
            .asks
            .resolving
            .iter()
            .filter_map(|(app, r)| match r {
                Resolving::Theirs { ticket, until, .. } if now >= *until => {
                    Some((app.clone(), *ticket))
                }
                _ => None,
            })
            .collect();
        for (app, ticket) in silent {
            self.asks.resolving.remove(&app);
            let refusal = Refusal::new(
                Reason::Failed,
                "The vote was not resolved.",
                "The member whose content was chosen did not answer.",
                "See `althing apps` whether it was published after all, and try again.",
            );
            effects.push(Effect::Reply { ticket, result: Err(refusal) });
        }
    }

    /// Another member wants us to preside.
    pub(super) fn on_forward(
        &mut self,
        now: Time,
        from: MemberId,
        id: u64,
        change: Change,
        effects: &mut Vec<Effect>,
    ) {
        let Change::Open(mut open) = change else { return };
        // What is asked for is a publication that is yet to be made.
        let sound =
            |p: &Publication| !p.committed && p.base.checked_add(1) == Some(p.version.number);
        if !open.publication().is_none_or(sound) {
            return;
        }
        match self.should_preside() {
            Some(other) if other != self.me => {
                let answer = Answer::Elsewhere(other);
                self.send(from, &Message::Forwarded { id, answer }, effects);
            }
            _ => {
                open.coordinator = self.me;
                open.opened_by = from;
                let purpose = Purpose::Forwarded { to: from, id };
                self.propose(now, Change::Open(open), purpose, effects);
            }
        }
    }

    /// The one that we asked answers.
    pub(super) fn on_forwarded(
        &mut self,
        now: Time,
        from: MemberId,
        id: u64,
        answer: Answer,
        effects: &mut Vec<Effect>,
    ) {
        let theirs = self.asks.resolving.iter().find_map(|(app, r)| match r {
            Resolving::Theirs { ticket, whom, id: asked, .. } if *asked == id && *whom == from => {
                Some((app.clone(), *ticket))
            }
            _ => None,
        });
        if let Some((app, ticket)) = theirs {
            self.asks.resolving.remove(&app);
            let result = match answer {
                Answer::Done(sequence) => {
                    Ok(Outcome::Done { sequence, text: format!("the vote on {app} is resolved") })
                }
                Answer::Refused(refusal) => Err(refusal),
                Answer::Elsewhere(_) => Err(Refusal::new(
                    Reason::Failed,
                    "The vote was not resolved.",
                    "The member whose content was chosen gave an answer that makes no sense here.",
                    "Use the same version of Althing on all members, and try again.",
                )),
            };
            effects.push(Effect::Reply { ticket, result });
            return;
        }
        let Some(ask) = self.asks.open.get_mut(&id) else { return };
        if !matches!(ask.state, AskState::Asked { whom, .. } if whom == from) {
            return;
        }
        match answer {
            Answer::Done(sequence) => self.ask_granted(now, id, sequence, effects),
            Answer::Refused(refusal) => self.answer(now, id, Err(refusal), effects),
            Answer::Elsewhere(other) => {
                // Views differ for a moment: not at once, or two members
                // could send us to and fro at the speed of the network. That one
                // did answer, and has proposed nothing.
                ask.state = AskState::Seeking { at: now + ASK_AGAIN };
                if other != from && self.is_live(other) {
                    self.seek(now, id, Some(other), effects);
                }
            }
        }
    }

    fn ask_granted(&mut self, now: Time, id: u64, sequence: u64, effects: &mut Vec<Effect>) {
        let Some(ask) = self.asks.open.get_mut(&id) else { return };
        if ask.open.publication().is_none() {
            let text = match ask.open.mode() {
                WindowMode::Automatic => {
                    "the window is open, and edits of live files are publications"
                }
                _ => "the window is open and held",
            };
            let text = text.to_owned();
            self.answer(now, id, Ok(Outcome::Done { sequence, text }), effects);
            return;
        }
        ask.state = AskState::Running { since_sequence: sequence };
        let catalog = self.catalog().clone();
        self.asks_committed(now, &catalog, effects);
    }

    /// Our own proposal failed. That answers the request only while nobody
    /// else was asked after us and the window is not open all the same.
    fn ask_refused(&mut self, now: Time, id: u64, refusal: Refusal, effects: &mut Vec<Effect>) {
        let state = self.asks.open.get(&id).map(|ask| &ask.state);
        if matches!(state, Some(AskState::Asked { whom, .. }) if *whom == self.me) {
            self.answer(now, id, Err(refusal), effects);
        }
    }

    /// Looks for the outcome of what we asked for in a newer catalog.
    pub(super) fn asks_committed(
        &mut self,
        now: Time,
        catalog: &Catalog,
        effects: &mut Vec<Effect>,
    ) {
        let mut ended = Vec::new();
        for (id, ask) in &mut self.asks.open {
            let Some(publication) = ask.open.publication() else { continue };
            let app = &publication.app;
            let outcome = catalog.outcomes.iter().find(|o| o.request == publication.request);
            let running = catalog.window.as_ref().and_then(|w| w.publication.as_ref());
            if let Some(outcome) = outcome {
                let result = match outcome.version {
                    Some(version) => Ok(Outcome::Published {
                        app: app.clone(),
                        version,
                        root: publication.version.root,
                        window: outcome.window,
                        takeovers: outcome.takeovers,
                        why: outcome.why.clone(),
                    }),
                    None => Err(Refusal::new(
                        Reason::Failed,
                        format!("{app} was not published; its version stays as it was."),
                        format!("The window was closed without it: {}.", outcome.why),
                        "Mend the cause, and publish again.",
                    )),
                };
                ended.push((*id, result));
            } else if running.is_some_and(|p| p.request == publication.request) {
                // It is open, whether or not we were told.
                ask.state = AskState::Running { since_sequence: catalog.sequence };
            } else if let AskState::Running { since_sequence } = ask.state
                && catalog.sequence > since_sequence
            {
                // So many windows have ended since that its outcome is forgotten.
                ended.push((
                    *id,
                    Err(Refusal::new(
                        Reason::Failed,
                        format!("It is not known how the publication of {app} ended."),
                        "This member was away for so long that the cluster no longer remembers.",
                        format!("Look whether it is there with `althing history {app}`."),
                    )),
                ));
            }
        }
        for (id, result) in ended {
            self.answer(now, id, result, effects);
        }
    }

    fn answer(
        &mut self,
        now: Time,
        id: u64,
        result: Result<Outcome, Refusal>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(ask) = self.asks.open.remove(&id) else { return };
        if let (Err(_), Some(publication)) = (&result, ask.open.publication()) {
            self.content.refused(now, publication.version.root);
        }
        // A refusal is one member's word; another one may have it under way.
        let in_doubt = ask.unanswered
            && matches!(ask.state, AskState::Asked { .. })
            && !planted::is(Bug::DoubtUnsaid);
        let result = result.map_err(|mut refusal| {
            if in_doubt {
                refusal.why.push_str(
                    " But another member was asked before and did not answer: it may still come \
                     into force.",
                );
            }
            refusal
        });
        match ask.origin {
            AskOrigin::Ticket(ticket) => effects.push(Effect::Reply { ticket, result }),
            AskOrigin::Edit => {
                let Some(app) = ask.open.publication().map(|p| p.app.clone()) else { return };
                self.edit_ended(now, &app, result.map(drop), effects);
            }
            AskOrigin::Rollback => {
                let Some(app) = ask.open.publication().map(|p| p.app.clone()) else { return };
                self.taken_back(now, &app, result.map(drop), effects);
            }
            AskOrigin::Member(to, id) => {
                let answer = match result {
                    Ok(_) => Answer::Done(self.catalog().sequence),
                    Err(refusal) => Answer::Refused(refusal),
                };
                self.send(to, &Message::Forwarded { id, answer }, effects);
            }
        }
    }

    /// Every open request is answered: this member is no longer enrolled, and
    /// hears no more of what becomes of it. Its own wish to leave is fulfilled.
    pub(super) fn answer_all(&mut self, effects: &mut Vec<Effect>) {
        let refusal = not_enrolled_any_more();
        self.answer_rotation(&refusal, effects);
        self.forget_edits();
        let asks = std::mem::take(&mut self.asks.open).into_values().map(|ask| ask.origin);
        let resolving = std::mem::take(&mut self.asks.resolving).into_values();
        let origins = asks.chain(resolving.map(|resolving| match resolving {
            Resolving::Ours(origin, _) => origin,
            Resolving::Theirs { ticket, .. } => AskOrigin::Ticket(ticket),
        }));
        for origin in origins {
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

    // Hung votes.

    fn resolve(
        &mut self,
        now: Time,
        ticket: u64,
        (app, member): (AppName, &MemberName),
        asked: Option<AskedBy>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let what = "The vote was not resolved.";
        if self.catalog().application(&app).is_none() {
            return Err(change::no_such_app(&app, what));
        }
        if self.asks.resolving.contains_key(&app) {
            return Err(Refusal::new(
                Reason::Busy,
                what,
                format!("{app} is being resolved already."),
                "Wait for it to end.",
            ));
        }
        let whom = self.enrolled(member, what)?;
        if whom == self.me {
            let ours = Resolving::Ours(AskOrigin::Ticket(ticket), asked);
            self.content.want_ingested(&app);
            self.asks.resolving.insert(app, ours);
        } else {
            self.asks.next += 1;
            let id = self.asks.next;
            let theirs = Resolving::Theirs { ticket, whom, id, until: now + SEEK * 3 };
            self.asks.resolving.insert(app.clone(), theirs);
            let message = match asked {
                Some(asked) => Message::ResolveFor { id, app, asked },
                None => Message::Resolve { id, app },
            };
            self.send(whom, &message, effects);
        }
        Ok(())
    }

    /// Another member's operator chose our content, with a token if it says who.
    pub(super) fn on_resolve(
        &mut self,
        (from, id): (MemberId, u64),
        app: AppName,
        asked: Option<AskedBy>,
        effects: &mut Vec<Effect>,
    ) {
        let busy = self.asks.resolving.contains_key(&app);
        if busy || self.catalog().application(&app).is_none() {
            let answer = Answer::Refused(Refusal::new(
                Reason::Busy,
                "The vote was not resolved.",
                format!("{app} is being resolved already, or is not there any more."),
                "See `althing apps`, and try again.",
            ));
            self.send(from, &Message::Forwarded { id, answer }, effects);
            return;
        }
        let ours = Resolving::Ours(AskOrigin::Member(from, id), asked);
        self.content.want_ingested(&app);
        self.asks.resolving.insert(app, ours);
    }

    /// Our live content is in the store: publish it, if that is what it was for.
    pub(super) fn resolve_ingested(
        &mut self,
        now: Time,
        app: &AppName,
        result: Result<Staged, ContentFailure>,
        effects: &mut Vec<Effect>,
    ) {
        if !matches!(self.asks.resolving.get(app), Some(Resolving::Ours(..))) {
            return;
        }
        let Some(Resolving::Ours(origin, by)) = self.asks.resolving.remove(app) else { return };
        let spec = self.catalog().application(app).map(|a| a.current().spec.clone());
        let staged = result.map_err(|failure| {
            Refusal::new(
                Reason::Failed,
                "The vote was not resolved.",
                format!("The live content could not be read: {}.", failure.sentence()),
                "Mend it on that member, or choose another one.",
            )
        });
        let asked = staged.and_then(|staged| {
            let message = format!("resolved: what {} holds is right", self.name_of(self.me));
            let origin = Origin::Published;
            let spec = spec.unwrap_or_default();
            let mut publication =
                self.publication(app.clone(), staged, spec, message, None, origin)?;
            publication.version.asked = by;
            Ok(publication)
        });
        match asked {
            Ok(publication) => {
                self.ask_window(now, origin, publication, effects);
            }
            Err(refusal) => match origin {
                AskOrigin::Edit | AskOrigin::Rollback => {}
                AskOrigin::Ticket(ticket) => {
                    effects.push(Effect::Reply { ticket, result: Err(refusal) });
                }
                AskOrigin::Member(to, id) => {
                    let answer = Answer::Refused(refusal);
                    self.send(to, &Message::Forwarded { id, answer }, effects);
                }
            },
        }
    }

    // Newcomers.

    #[expect(clippy::too_many_arguments, reason = "it is one input, taken apart by the caller")]
    pub(super) fn on_knock(
        &mut self,
        now: Time,
        ticket: u64,
        key: PublicKey,
        exporter: &[u8; 32],
        from: SocketAddr,
        bytes: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        if bytes == IS_ENROLLED {
            self.answer_whether_enrolled(ticket, MemberId::of(&key), effects);
            return;
        }
        // A member that lost the answer asks again: its key is proof enough. The
        // register decides, because this member may not know yet that it has
        // received its vote meanwhile.
        if let Some(entry) = self.catalog().roster.get(MemberId::of(&key)).cloned() {
            let name = entry.name.to_string();
            let change = Change::Admit { entry, invite: key, at: self.wall };
            self.propose(now, change, Purpose::Knock { ticket, name }, effects);
            return;
        }
        if let Err(refusal) = self.quorum_for("The newcomer was not admitted.".to_owned()) {
            refuse_entry(ticket, refusal, effects);
            return;
        }
        match self.check_knock(&key, exporter, from, bytes) {
            Ok((entry, invite)) => {
                let name = entry.name.to_string();
                let change = Change::Admit { entry, invite, at: self.wall };
                self.propose(now, change, Purpose::Knock { ticket, name }, effects);
            }
            Err(refusal) => {
                let text = format!("{from} was not admitted: {}", refusal.why);
                self.tell(effects, Severity::Warning, EventKind::Catalog, None, text);
                refuse_entry(ticket, refusal, effects);
            }
        }
    }

    fn check_knock(
        &self,
        key: &PublicKey,
        exporter: &[u8; 32],
        from: SocketAddr,
        bytes: &[u8],
    ) -> Result<(Enrolled, PublicKey), Refusal> {
        let invalid = |why: String| {
            Refusal::new(
                Reason::Invalid,
                "The newcomer was not admitted.",
                why,
                "Use the same version of Althing on both sides, and a whole token.",
            )
        };
        let knock: Knock = wire::decode(Kind::Knock, bytes)
            .map_err(|e| invalid(format!("What it said can't be read: {e}.")))?;
        check_tags(&knock.tags).map_err(invalid)?;
        if !knock.is_proven(self.catalog().cluster, key, exporter) {
            return Err(invalid("It could not prove that it holds the token.".to_owned()));
        }
        if knock.sequence > self.catalog().sequence {
            return Err(Refusal::new(
                Reason::Busy,
                "The newcomer was not admitted.",
                "This member has not heard of the invitation yet.",
                "Try again in a moment, or by another member.",
            ));
        }
        change::check_invite(self.catalog(), &knock.invite, self.wall)?;
        let mut address = knock.address;
        if address.ip().is_unspecified() {
            address.set_ip(from.ip());
        }
        let entry = Enrolled {
            id: MemberId::of(key),
            key: *key,
            name: knock.name,
            address,
            tags: knock.tags,
            voter: false,
            standby: knock.standby,
        };
        Ok((entry, knock.invite))
    }

    pub(super) fn welcome(&self, ticket: u64, effects: &mut Vec<Effect>) {
        // Of one record: the lineage may be ahead of what is announced, and the
        // newcomer would find that the two contradict each other.
        let record = self.register.record();
        let committed = Box::new(record.committed.clone());
        let lineage = record.lineage.clone();
        let welcome = Welcome::Admitted { committed, lineage };
        match wire::try_encode(Kind::Message, &welcome) {
            Ok(bytes) => effects.push(Effect::Answer { ticket, bytes }),
            Err(error) => refuse_entry(
                ticket,
                Refusal::new(
                    Reason::Failed,
                    "The newcomer was not admitted.",
                    format!("The cluster's catalog can't be sent: {error}."),
                    "Roll out fewer applications or members; see docs/architecture.md for the bounds.",
                ),
                effects,
            ),
        }
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

    /// Tells of a change that this member has proposed.
    fn tell_committed(
        &mut self,
        sequence: u64,
        change: &Change,
        purpose: &Purpose,
        effects: &mut Vec<Effect>,
    ) {
        let Some(text) = told(self, change) else { return };
        let kind = match change {
            Change::Open(_)
            | Change::TakeOver { .. }
            | Change::Finish { .. }
            | Change::Close { .. } => EventKind::Window,
            Change::Commit { .. } | Change::AdoptMajority { .. } => EventKind::Version,
            Change::Begin(_)
            | Change::End { .. }
            | Change::Silence(_)
            | Change::Unsilence { .. } => EventKind::Rule,
            Change::AddOperator(_) | Change::RemoveOperator { .. } => EventKind::Operator,
            _ => EventKind::Catalog,
        };
        let severity = match change {
            Change::Expire { .. } => Severity::Warning,
            Change::Begin(begin) => begin.severity.map_or(Severity::Info, |bad| match bad {
                conduct::Severity::Warning => Severity::Warning,
                conduct::Severity::Critical => Severity::Critical,
            }),
            _ => Severity::Info,
        };
        let (asked, cause) = match purpose {
            Purpose::Reply { by: Some((asked, event)), .. } => (Some(asked.clone()), Some(*event)),
            _ => (asked_for(self, change), None),
        };
        let text = format!("{} (catalog {sequence})", told_with(text, asked.as_ref()));
        let (app, episode) = (concerned(self, change), of_episode(change));
        let event = self.event(severity, kind, self.me, app, text);
        effects.push(Effect::Event(Event { episode, asked, cause, ..event }));
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

pub(super) fn refuse_entry(ticket: u64, refusal: Refusal, effects: &mut Vec<Effect>) {
    let bytes = wire::encode(Kind::Message, &Welcome::Refused(refusal));
    effects.push(Effect::Answer { ticket, bytes });
}

/// The application that `change` was about, which has been committed.
fn concerned(member: &Member, change: &Change) -> Option<AppName> {
    match change {
        Change::Open(open) => open.publication().map(|p| p.app.clone()),
        Change::Commit { .. } | Change::TakeOver { .. } => {
            let window = member.catalog().window.as_ref()?;
            window.publication.as_ref().map(|p| p.app.clone())
        }
        Change::Finish { window, .. } => {
            let outcomes = &member.catalog().outcomes;
            outcomes.iter().rfind(|outcome| outcome.window == *window)?.app.clone()
        }
        Change::AdoptMajority { app, .. } => Some(app.clone()),
        Change::Begin(begin) => Some(begin.app.clone()),
        Change::End { which, .. } => Some(which.app.clone()),
        Change::Silence(silence) => silence.what.app.clone(),
        Change::Unsilence { what, .. } => what.app.clone(),
        _ => None,
    }
}

/// Who asked with a token for what `change` was about, which has been committed. The rest of what
/// can be asked for is proposed by the member that is asked.
fn asked_for(member: &Member, change: &Change) -> Option<AskedBy> {
    match change {
        Change::Open(open) => open.asked().cloned(),
        Change::Commit { .. } => {
            let publication = member.catalog().window.as_ref()?.publication.as_ref()?;
            publication.version.asked.clone()
        }
        _ => None,
    }
}

/// The episode of a rule that `change` belongs to.
fn of_episode(change: &Change) -> Option<String> {
    match change {
        Change::Begin(begin) => Some(begin.episode.clone()),
        Change::End { which, .. } => Some(which.episode.clone()),
        Change::StandDown { because, .. } => Some(because.clone()),
        _ => None,
    }
}

/// What a committed change is, for the events of the member that proposed it.
fn told(member: &Member, change: &Change) -> Option<String> {
    let name = |id: &MemberId| member.name_of(*id);
    Some(match change {
        Change::Admit { entry, invite, .. } => {
            format!("{} joined with invitation {}", entry.name, inviting::short(invite))
        }
        Change::Enfranchise { member } => format!("{} has a vote now", name(member)),
        Change::Remove { member } => format!("{} is no longer enrolled", name(member)),
        Change::Invite { invite, .. } => {
            let id = inviting::short(&invite.key);
            format!("invitation {id} was issued, for {}", invite.uses_left)
        }
        Change::Withdraw { invite: Some(key), .. } => {
            format!("invitation {} was withdrawn", inviting::short(key))
        }
        Change::Withdraw { invite: None, .. } => "all open invitations were withdrawn".to_owned(),
        Change::Failover { .. } => "the failover list was changed".to_owned(),
        Change::Tags { member: of, .. } => {
            let tags = &member.catalog().roster.get(*of)?.tags;
            let tags: Vec<String> =
                tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("the tags of {} are now: {}", name(of), tags.join(" "))
        }
        Change::Standby { member: of, standby: true } => {
            format!("{} is out of service, on standby", name(of))
        }
        Change::StandDown { member: of, because, .. } => {
            format!("{} is out of service, on standby, because of a rule ({because})", name(of))
        }
        Change::Standby { member: of, standby: false } => format!("{} is in service", name(of)),
        Change::StandUp { member: of } => {
            let waits = member.catalog().conduct.is_waiting(*of);
            let how = if waits { "waits again" } else { "is in service again" };
            format!("{} {how}: the rule that put it out of service acts no more", name(of))
        }
        Change::Policy { .. } | Change::RemoveAfter { .. } => "the policy was changed".to_owned(),
        Change::Expire { member, seconds } => format!(
            "{} is no longer enrolled: it was down for {seconds} s, and the policy remove-after \
             says that such a member is removed",
            name(member)
        ),
        Change::Open(open) => match open.publication() {
            Some(p) => format!(
                "a window was opened for {} version {}, published on {}",
                p.app,
                p.version.number,
                name(&open.opened_by)
            ),
            None if open.mode() == WindowMode::Automatic => format!(
                "a window was opened by {} in automatic mode: edits of live files are publications",
                name(&open.opened_by)
            ),
            None => format!("a window was opened by {} and is held", name(&open.opened_by)),
        },
        Change::TakeOver { window, from, by, ordered } => {
            let why = if *ordered { "by order" } else { "because it is down" };
            format!("{} took window {window} over from {} {why}", name(by), name(from))
        }
        Change::Commit { .. } => {
            let window = member.catalog().window.as_ref()?;
            let p = window.publication.as_ref()?;
            format!("{} version {} is committed", p.app, p.version.number)
        }
        Change::Finish { window, why, .. } => format!("window {window}: {why}"),
        Change::Close { window } => format!("window {window} was closed"),
        Change::AdoptMajority { app, version, .. } => {
            format!("{app} version {}: what a majority held is right now", version.number)
        }
        Change::Wait { member: of } => {
            format!("{} is on standby, and rules may bring it into service", name(of))
        }
        Change::Begin(begin) => {
            let episode = member.catalog().conduct.episode(&begin.app, &begin.rule);
            let brought = episode.map(|e| e.brought.iter().map(name).collect::<Vec<_>>());
            let brought = brought.unwrap_or_default().join(", ");
            let effect = match (begin.bring, brought.as_str()) {
                (0, _) => String::new(),
                (wanted, "") => format!("; {wanted} should come into service, and nobody waits"),
                (_, brought) => format!("; in service now: {brought}"),
            };
            let Begin { app, rule, why, at, .. } = &**begin;
            let silences = member.catalog().conduct.silences();
            let silence = conduct::Silence::of(silences, app, rule, None, *at);
            let silence = silence.map(|silence| format!("; it is {}", silence.told()));
            format!("rule {rule} of {app} acts: {why}{effect}{}", silence.unwrap_or_default())
        }
        Change::End { which, why, .. } => {
            format!("rule {} of {} acts no more: {why}", which.rule, which.app)
        }
        Change::Silence(silence) => {
            format!("{}: {}", member.told_of(&silence.what), silence.told())
        }
        Change::Unsilence { what, .. } => format!("silenced no more: {}", member.told_of(what)),
        Change::AddOperator(operator) => operator.told(),
        Change::RemoveOperator { name, .. } => {
            format!("operator {name} may not act over the network any more")
        }
        // These are for the next judge, and for who goes next.
        Change::Told { .. } | Change::Forget { .. } | Change::Drained { .. } => return None,
        // Everybody tells of it.
        Change::Rotate(_) => return None,
        Change::Address { member: of, was, address, .. } => {
            format!("the roster has {address} for {} now: it was {was}", name(of))
        }
        Change::Confirm => "what a proposer had left unfinished is settled".to_owned(),
    })
}
