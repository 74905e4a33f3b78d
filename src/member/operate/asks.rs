//! Windows, asked of who should preside: from the request to what became of it.
//!
//! Whoever is asked may die, answer late or send on; the one that was asked first seeks until
//! somebody has an answer or its time is over. A hung vote that an operator decides is such a
//! request too, made by the member whose content is right.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    base::{
        AppName, Digest, MemberId, MemberName, Reason, Refusal, Time,
        catalog::{Catalog, Origin, Publication, WindowMode},
        operator::AskedBy,
        planted::{self, Bug},
    },
    member::{
        Member,
        change::{self, Change, Open, OpenFor},
        command::{Outcome, Staged},
        io::{ContentFailure, Effect},
        message::{Answer, Message},
        operate::Purpose,
    },
    proto::election,
};

/// How long the member that should preside may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
/// How long after a vain attempt the next one is made.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// How long a coordinator is sought before the request is refused.
const SEEK: Duration = Duration::from_secs(20);

/// Requests to open a window that are under way.
#[derive(Debug)]
pub(in crate::member) struct Asks {
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
pub(in crate::member) enum AskOrigin {
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

    /// Forgets all of them, and says who waits for them.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = AskOrigin> {
        let asks = std::mem::take(&mut self.open).into_values().map(|ask| ask.origin);
        let resolving = std::mem::take(&mut self.resolving).into_values();
        asks.chain(resolving.map(|resolving| match resolving {
            Resolving::Ours(origin, _) => origin,
            Resolving::Theirs { ticket, .. } => AskOrigin::Ticket(ticket),
        }))
    }
}

impl Member {
    pub(in crate::member) fn ask_window(
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

    pub(super) fn ask(
        &mut self,
        now: Time,
        origin: AskOrigin,
        open: Open,
        effects: &mut Vec<Effect>,
    ) {
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

    pub(in crate::member) fn asks_tick(&mut self, now: Time, effects: &mut Vec<Effect>) {
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
    pub(in crate::member) fn on_forward(
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
    pub(in crate::member) fn on_forwarded(
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

    pub(super) fn ask_granted(
        &mut self,
        now: Time,
        id: u64,
        sequence: u64,
        effects: &mut Vec<Effect>,
    ) {
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
    pub(super) fn ask_refused(
        &mut self,
        now: Time,
        id: u64,
        refusal: Refusal,
        effects: &mut Vec<Effect>,
    ) {
        let state = self.asks.open.get(&id).map(|ask| &ask.state);
        if matches!(state, Some(AskState::Asked { whom, .. }) if *whom == self.me) {
            self.answer(now, id, Err(refusal), effects);
        }
    }

    /// Looks for the outcome of what we asked for in a newer catalog.
    pub(in crate::member) fn asks_committed(
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

    // Hung votes.

    pub(super) fn resolve(
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
    pub(in crate::member) fn on_resolve(
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
    pub(in crate::member) fn resolve_ingested(
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
}
