//! How members come to a new version one after the other: whose turn it is, and how each of
//! them does with it.
//!
//! There is no list that somebody works off. Each member says how it does (a [`Note`]), and
//! finds from what the others say whether it is its turn ([`is_turn`]). Two that see different
//! things may switch at the same time: that costs caution and not correctness.
//!
//! A member that has said [`State::Ready`] or [`State::Failed`] of a version stays with it:
//! what happens to it later is no matter of the version's coming. A version fails only where it
//! takes the place of another one: there is something to go back to.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::base::{AppName, MemberId, Time, limits, wire};

/// For how long after a change notes are repeated, for those that missed one.
const REPEATED: Duration = Duration::from_secs(60);
/// A member that has switched and says nothing for so long does not know how to (a release
/// before), or has started anew since: it counts as ready.
const SILENT: Duration = Duration::from_secs(30);

/// How a member does with a version that it has switched to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// What runs is not ready yet, or not for long enough.
    Starting,
    /// It is.
    Ready,
    /// It did not get ready, and why: a sentence without its point.
    Failed(#[serde(deserialize_with = "wire::bounded_text::<_, { limits::TROUBLE_MAX }>")] String),
    /// The same, where it was the first, or was live before the member started: it may still
    /// get ready.
    Stuck(#[serde(deserialize_with = "wire::bounded_text::<_, { limits::TROUBLE_MAX }>")] String),
}

impl State {
    /// Whether it stays so.
    fn is_final(&self) -> bool {
        matches!(self, Self::Ready | Self::Failed(_))
    }
}

/// What a member says of one application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Which.
    pub app: AppName,
    /// Which version of it.
    pub version: u64,
    /// How it does.
    pub state: State,
}

/// How what runs of a version is, as the one who runs it sees it at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It has nothing that runs.
    Idle,
    /// Not ready, and it may become so.
    Waiting,
    /// All of it is ready.
    Ready,
    /// It will not get ready by itself, and why: a sentence without its point.
    Failing(String),
}

/// What this member knows of how the members do.
#[derive(Debug, Default)]
pub struct Rollouts {
    ours: BTreeMap<AppName, Ours>,
    theirs: BTreeMap<MemberId, BTreeMap<AppName, (u64, State)>>,
    /// Which other member has failed with which version, and why.
    failed: BTreeMap<(AppName, MemberId), (u64, State)>,
    /// Since when a member has switched, of which there is no note.
    silent: BTreeMap<(AppName, MemberId), (u64, Time)>,
}

#[derive(Debug)]
struct Ours {
    version: u64,
    /// Whether there was a version before that ran here: only then may this one fail.
    replaces: bool,
    state: State,
    changed: Time,
    /// When it will have been ready for long enough.
    ready_at: Option<Time>,
}

impl Rollouts {
    /// This member has switched to `version`.
    pub fn switched(&mut self, now: Time, app: &AppName, version: u64, replaces: bool) {
        // Who runs it may have said how it is before it was said that it is there.
        if let Some(ours) = self.ours.get_mut(app).filter(|ours| ours.version == version) {
            ours.replaces |= replaces;
            if let (true, State::Stuck(why)) = (replaces, &ours.state) {
                let failed = State::Failed(why.clone());
                ours.becomes(now, failed);
            }
            return;
        }
        let (state, ready_at) = (State::Starting, None);
        self.ours.insert(app.clone(), Ours { version, replaces, state, changed: now, ready_at });
    }

    /// How what runs here is now; `pause` is how long it has to stay ready. Whether there is
    /// something to tell.
    pub fn seen(
        &mut self,
        now: Time,
        app: &AppName,
        version: u64,
        sight: Sight,
        pause: Duration,
    ) -> bool {
        // It was live already when this member started.
        if self.ours.get(app).is_none_or(|ours| ours.version < version) {
            self.switched(now, app, version, false);
        }
        let Some(ours) = self.ours.get_mut(app) else { return false };
        if ours.version != version || ours.state.is_final() {
            return false;
        }
        let state = match sight {
            Sight::Idle | Sight::Ready => {
                let at = *ours.ready_at.get_or_insert(now + pause);
                (now >= at).then_some(State::Ready)
            }
            Sight::Waiting => {
                ours.ready_at = None;
                Some(State::Starting)
            }
            Sight::Failing(why) => {
                ours.ready_at = None;
                let state = if ours.replaces { State::Failed } else { State::Stuck };
                Some(state(cut(why)))
            }
        };
        let Some(state) = state.filter(|state| *state != ours.state) else { return false };
        ours.becomes(now, state);
        true
    }

    /// Time has passed. Whether there is something to tell.
    pub fn tick(&mut self, now: Time) -> bool {
        let mut told = false;
        for ours in self.ours.values_mut() {
            if ours.ready_at.is_some_and(|at| now >= at) && !ours.state.is_final() {
                ours.becomes(now, State::Ready);
                told = true;
            }
        }
        told
    }

    /// When [`Rollouts::tick`] is due.
    pub fn deadline(&self) -> Option<Time> {
        let waiting = self.ours.values().filter(|ours| !ours.state.is_final());
        waiting.filter_map(|ours| ours.ready_at).min()
    }

    /// What is to be said beside a ballot.
    pub fn notes(&self, now: Time) -> Vec<Note> {
        let young = |ours: &Ours| now.since(ours.changed) < REPEATED || ours.state != State::Ready;
        let all = self.ours.iter().filter(|(_, ours)| young(ours));
        let mut notes: Vec<Note> = all
            .map(|(app, ours)| Note {
                app: app.clone(),
                version: ours.version,
                state: ours.state.clone(),
            })
            .collect();
        notes.sort_by_key(|note| note.state == State::Ready);
        notes.truncate(limits::NOTES_MAX);
        notes
    }

    /// It is not here any more.
    pub fn forget(&mut self, app: &AppName) {
        self.ours.remove(app);
    }

    /// `from` says how it does.
    pub fn heard(&mut self, from: MemberId, notes: Vec<Note>) {
        let theirs = self.theirs.entry(from).or_default();
        for Note { app, version, state } in notes {
            // They may overtake each other.
            let known = theirs.get(&app);
            let newer = known
                .is_none_or(|(of, before)| version > *of || (version == *of && !before.is_final()));
            if newer {
                let key = (app.clone(), from);
                match &state {
                    State::Failed(_) | State::Stuck(_) => {
                        self.failed.insert(key, (version, state.clone()));
                    }
                    _ => drop(self.failed.remove(&key)),
                }
                theirs.insert(app, (version, state));
            }
        }
    }

    /// The ballot of `member` says that it has switched to `version`.
    pub fn has_switched(&mut self, now: Time, member: MemberId, app: &AppName, version: u64) {
        let known = self.theirs.get(&member).and_then(|all| all.get(app));
        if known.is_some_and(|(of, _)| *of == version) {
            self.silent.remove(&(app.clone(), member));
            return;
        }
        let since = self.silent.entry((app.clone(), member)).or_insert((version, now));
        if since.0 != version {
            *since = (version, now);
        }
    }

    /// How `member` does with `version`, which its ballot says it has switched to.
    pub fn state(
        &self,
        now: Time,
        me: MemberId,
        member: MemberId,
        app: &AppName,
        version: u64,
    ) -> State {
        if let Some(state) = self.said(me, member, app, version) {
            return state.clone();
        }
        let since = self.silent.get(&(app.clone(), member)).filter(|(of, _)| *of == version);
        let silent = since.is_some_and(|(_, since)| now.since(*since) >= SILENT);
        if silent { State::Ready } else { State::Starting }
    }

    /// Who has failed or is stuck with which version.
    pub fn failures(
        &self,
        me: MemberId,
    ) -> impl Iterator<Item = (&AppName, MemberId, u64, &State)> {
        let is_failure = |state: &State| matches!(state, State::Failed(_) | State::Stuck(_));
        let ours = self.ours.iter().filter(move |(_, ours)| is_failure(&ours.state));
        let ours = ours.map(move |(app, ours)| (app, me, ours.version, &ours.state));
        let theirs = self.failed.iter();
        ours.chain(theirs.map(|((app, id), (of, state))| (app, *id, *of, state)))
    }

    /// What `member` has said of `version`.
    pub fn said(
        &self,
        me: MemberId,
        member: MemberId,
        app: &AppName,
        version: u64,
    ) -> Option<&State> {
        if member == me {
            return self.ours.get(app).filter(|o| o.version == version).map(|o| &o.state);
        }
        let (of, state) = self.theirs.get(&member)?.get(app)?;
        (*of == version).then_some(state)
    }

    /// Forgets applications and members that are no longer there.
    pub fn retain(
        &mut self,
        is_app: impl Fn(&AppName) -> bool,
        is_member: impl Fn(MemberId) -> bool,
    ) {
        self.ours.retain(|app, _| is_app(app));
        self.theirs.retain(|member, _| is_member(*member));
        self.theirs.values_mut().for_each(|all| all.retain(|app, _| is_app(app)));
        self.failed.retain(|(app, member), _| is_app(app) && is_member(*member));
        self.silent.retain(|(app, member), _| is_app(app) && is_member(*member));
    }
}

impl Ours {
    fn becomes(&mut self, now: Time, state: State) {
        (self.state, self.changed) = (state, now);
    }
}

/// How one member stands to a version that comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub member: MemberId,
    /// It takes no requests: it goes first.
    pub standby: bool,
    /// How it does; none before it has switched.
    pub state: Option<State>,
}

/// Whether it is the turn of `me` to switch, where `at_once` members may at the same time.
/// `all` are the members that the version is placed on and that are live and have its content,
/// in an order that is the same on all of them.
pub fn is_turn(me: MemberId, at_once: u16, all: &[Standing]) -> bool {
    if all.iter().any(|standing| matches!(standing.state, Some(State::Failed(_)))) {
        return false;
    }
    let works = all.iter().any(|s| s.state == Some(State::Ready));
    // Where the version is known to work, nobody waits for one that is stuck.
    let is_open = |s: &&Standing| match &s.state {
        Some(State::Stuck(_)) => !works,
        state => *state == Some(State::Starting),
    };
    // Who has begun is not passed by those that come before it in the order.
    let free = usize::from(at_once.max(1)).saturating_sub(all.iter().filter(is_open).count());
    let waiting =
        |standby: bool| all.iter().filter(move |s| s.standby == standby && s.state.is_none());
    waiting(true).chain(waiting(false)).take(free).any(|standing| standing.member == me)
}

fn cut(mut why: String) -> String {
    let end = (0..=why.len().min(limits::TROUBLE_MAX)).rev().find(|at| why.is_char_boundary(*at));
    why.truncate(end.unwrap_or(0));
    why
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SecretKey;

    fn id(n: u8) -> MemberId {
        SecretKey::from_seed([n; 32]).member()
    }

    fn app() -> AppName {
        AppName::parse("web").unwrap()
    }

    fn at(ms: u64) -> Time {
        Time(ms * 1_000)
    }

    fn failed() -> State {
        State::Failed("it ended".to_owned())
    }

    fn standing(n: u8, state: Option<State>) -> Standing {
        Standing { member: id(n), standby: false, state }
    }

    fn turns(at_once: u16, all: &[Standing]) -> Vec<usize> {
        (0..all.len()).filter(|n| is_turn(all[*n].member, at_once, all)).collect()
    }

    #[test]
    fn as_many_as_may_have_their_turn_and_standby_first() {
        let mut all: Vec<Standing> = (0..4).map(|n| standing(n, None)).collect();
        assert_eq!(turns(1, &all), [0]);
        assert_eq!(turns(3, &all), [0, 1, 2]);
        assert_eq!(turns(0, &all), [0], "never nobody");
        all[2].standby = true;
        assert_eq!(turns(1, &all), [2]);
        assert_eq!(turns(2, &all), [0, 2]);
        all[2].state = Some(State::Starting);
        assert_eq!(turns(1, &all), [0; 0]);
        assert_eq!(turns(2, &all), [0]);
        all[2].state = Some(State::Ready);
        assert_eq!(turns(1, &all), [0]);
        all[3].state = Some(State::Starting);
        assert_eq!(turns(1, &all), [0; 0], "one that began out of turn counts");
        all[3].state = Some(failed());
        assert_eq!(turns(4, &all), [0; 0], "nobody follows where one failed");
        all[3].state = Some(State::Stuck("it ended".to_owned()));
        assert_eq!(turns(1, &all), [0], "it works on another one");
        all[2].state = None;
        assert_eq!(turns(1, &all), [0; 0]);
    }

    #[test]
    fn it_has_to_stay_ready_for_as_long_as_it_is_said() {
        let mut rollouts = Rollouts::default();
        let (me, app, pause) = (id(0), app(), Duration::from_secs(1));
        rollouts.switched(at(0), &app, 2, true);
        assert!(!rollouts.seen(at(10), &app, 2, Sight::Ready, pause));
        assert_eq!(rollouts.deadline(), Some(at(1_010)));
        assert!(!rollouts.seen(at(500), &app, 2, Sight::Waiting, pause), "it ended");
        assert_eq!(rollouts.deadline(), None);
        assert!(!rollouts.seen(at(800), &app, 2, Sight::Ready, pause));
        assert!(!rollouts.tick(at(1_799)) && rollouts.tick(at(1_800)));
        assert_eq!(rollouts.said(me, me, &app, 2), Some(&State::Ready));
        let failing = || Sight::Failing("it ended".to_owned());
        assert!(!rollouts.seen(at(2_000), &app, 2, failing(), pause), "it has come, and stays");
        rollouts.switched(at(3_000), &app, 3, true);
        assert!(!rollouts.seen(at(3_001), &app, 2, failing(), pause), "that is the one before");
        assert!(rollouts.seen(at(3_002), &app, 3, failing(), pause));
        assert_eq!(rollouts.notes(at(9_999_999))[0].state, failed());
        assert!(!rollouts.seen(at(3_003), &app, 3, Sight::Ready, pause));
    }

    #[test]
    fn what_was_live_before_or_is_the_first_never_fails() {
        let mut rollouts = Rollouts::default();
        let failing = || Sight::Failing("it ended".to_owned());
        assert!(rollouts.seen(at(0), &app(), 7, failing(), Duration::ZERO));
        assert!(!rollouts.seen(at(0), &app(), 7, failing(), Duration::ZERO));
        assert_eq!(rollouts.notes(at(9_999_999))[0].state, State::Stuck("it ended".to_owned()));
        assert_eq!(rollouts.failures(id(0)).count(), 1);
        assert!(rollouts.seen(at(1), &app(), 7, Sight::Waiting, Duration::ZERO));
        assert!(rollouts.seen(at(2), &app(), 7, Sight::Idle, Duration::ZERO));
    }

    #[test]
    fn what_was_seen_before_the_switch_is_known_counts() {
        let mut rollouts = Rollouts::default();
        let (me, app) = (id(0), app());
        assert!(rollouts.seen(at(0), &app, 2, Sight::Idle, Duration::ZERO));
        rollouts.switched(at(1), &app, 2, true);
        assert_eq!(rollouts.said(me, me, &app, 2), Some(&State::Ready));
        rollouts.seen(at(2), &app, 3, Sight::Failing("it ended".to_owned()), Duration::ZERO);
        rollouts.switched(at(3), &app, 3, true);
        assert_eq!(rollouts.said(me, me, &app, 3), Some(&failed()));
        rollouts.seen(at(4), &app, 4, Sight::Ready, Duration::from_secs(1));
        rollouts.switched(at(5), &app, 4, true);
        assert!(rollouts.tick(at(1_004)), "it was ready since");
        rollouts.forget(&app);
        assert!(rollouts.notes(at(1_005)).is_empty());
    }

    #[test]
    fn the_newest_note_counts_and_silence_is_not_for_ever() {
        let mut rollouts = Rollouts::default();
        let (me, other, app) = (id(0), id(1), app());
        let note = |version, state| vec![Note { app: self::app(), version, state }];
        rollouts.has_switched(at(0), other, &app, 2);
        assert_eq!(rollouts.state(at(0), me, other, &app, 2), State::Starting);
        rollouts.heard(other, note(2, State::Ready));
        rollouts.heard(other, note(2, State::Starting));
        rollouts.heard(other, note(1, failed()));
        assert_eq!(rollouts.state(at(0), me, other, &app, 2), State::Ready);
        rollouts.has_switched(at(1), other, &app, 2);
        rollouts.has_switched(at(1), other, &app, 3);
        assert_eq!(rollouts.state(at(30_000), me, other, &app, 3), State::Starting);
        assert_eq!(rollouts.state(at(30_001), me, other, &app, 3), State::Ready);
        rollouts.heard(other, note(3, failed()));
        assert_eq!(rollouts.state(at(30_002), me, other, &app, 3), failed());
        assert_eq!(rollouts.failures(me).next(), Some((&app, other, 3, &failed())));
        rollouts.retain(|_| false, |_| true);
        assert_eq!(rollouts.said(me, other, &app, 3), None);
    }

    #[test]
    fn a_note_is_bounded() {
        assert_eq!(cut("ä".repeat(400)).len(), limits::TROUBLE_MAX);
    }
}
