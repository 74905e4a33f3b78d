//! What this member holds, and what it does about it: fetch what it lacks,
//! switch to what is committed, scan, repair what the vote says is wrong.
//!
//! One piece of work at a time for each application, so that a scan never
//! sees a switch half done.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::{Rng, rngs::SmallRng};

use super::{
    io::{ContentFailure, Effect, FetchFailure, Switched, Whom},
    troubles::Trouble,
};
use crate::{
    base::{
        AppName, Digest, MemberId, Time,
        catalog::{Application, Catalog, Origin, Version},
        limits,
        planted::{self, Bug},
    },
    proto::vote::{self, Differing, SCANS_RUNNING, Tally, Verdict, Votes},
};

/// The shortest time between two scans of an application.
const SCAN_EVERY: Duration = Duration::from_secs(2);
/// A scan may take this share of one processor at the most: one part in so many.
const SCAN_SHARE: u32 = 50;
/// The same for scans because somebody noticed a change: an edit is waited for.
const NOTICE_SHARE: u32 = 4;
/// How long content must have been found differing before it is repaired: by
/// then every peer has scanned once since, so that the same edit made on a
/// majority at once is seen as such, and the first to be scanned is not undone.
const REPAIR_AFTER: Duration = Duration::from_millis(2_500);
/// How long content that a ballot may have offered is kept beyond the time in
/// which that ballot is fresh: as long as an adoption may be under way.
const OFFERED_KEPT: Duration = Duration::from_secs(30);
/// How long after a failure the same is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How long a holder that failed us is passed over for the same content.
const PASS_OVER: Duration = Duration::from_secs(3);
/// Members that a fetch talks to beside the holder.
const PEERS_MAX: usize = 15;
/// And how many of them may be far where there are enough that are near.
const FAR_PEERS: usize = 5;
/// Fetches at the same time.
const FETCHES_MAX: usize = 2;

/// This member's content.
#[derive(Debug, Default)]
pub(super) struct Content {
    holdings: BTreeMap<AppName, Holding>,
    whole: BTreeSet<Digest>,
    /// What was taken from the live content in this run, so that its files
    /// and bytes are known, and when.
    ingested: BTreeMap<Digest, Time>,
    /// What others may count on although nothing here needs it any more, and since when: what
    /// ballots offered last then, whatever became of it; and what this member was to publish and
    /// was refused, which somebody may have under way all the same.
    lingering: BTreeMap<Digest, Time>,
    /// What the store held when this run began, and when that was: the run
    /// before may have offered it.
    restored: (Time, BTreeSet<Digest>),
    fetches: BTreeMap<Digest, Fetch>,
    failed: BTreeMap<(Digest, MemberId), Time>,
    /// What could not be stored here when it came last, and why.
    unstored: BTreeMap<Digest, String>,
    /// Placed elsewhere, and taken over there: nothing of them is kept here but what lingers.
    given_up: BTreeSet<AppName>,
    /// One came to these.
    keeps_other: bool,
    /// Current versions that somebody here works on although they are placed
    /// elsewhere, and until when they are kept.
    sought: BTreeMap<Digest, Time>,
}

/// One application on this member.
#[derive(Debug, Default)]
pub(super) struct Holding {
    /// The version that was switched to last; 0 for none.
    pub activated: u64,
    /// What the last scan found; none before the first one.
    pub found: Option<Found>,
    /// What is being done.
    pub work: Option<Work>,
    /// What failed last, for people.
    pub error: Option<String>,
    scan_at: Time,
    /// Before this another scan of the whole would take more than its share. A vote that needs
    /// one does not wait for it. 0 before the first one.
    scan_share_at: Time,
    /// The root of the version that was switched to last in this run.
    version: Option<Digest>,
    retry_at: Time,
    /// Since when the live content is what was found.
    found_since: Time,
    /// The live content is wanted in the store: an operator chose it.
    ingest: bool,
    /// It could not be taken in: it may not be what the last scan found.
    look_again: bool,
    /// Somebody noticed a change while something else was done to it.
    glance_again: bool,
    /// Somebody noticed a change, and it is to be looked at then.
    glance_at: Option<Time>,
    /// The last window in automatic mode in which the live content was seen to be
    /// the committed version: what differs in it since is an edit, and what
    /// differed before is drift. Forgotten when it is the committed version again
    /// in no such window.
    in_step: Option<u64>,
    /// Not before this is it looked at because somebody noticed a change.
    notice_at: Time,
}

impl Holding {
    /// Has it looked at, or only what was noticed to have changed.
    fn scan(&mut self, app: &AppName, noticed: bool, effects: &mut Vec<Effect>) {
        self.work = Some(if noticed { Work::Glancing } else { Work::Scanning });
        (self.glance_again, self.glance_at) = (false, None);
        effects.push(Effect::Scan { app: app.clone(), noticed });
    }

    /// When there is something to do again.
    fn due(&self) -> Time {
        let next = self.glance_at.map_or(self.scan_at, |at| at.min(self.scan_at));
        next.max(self.retry_at)
    }

    /// What was edited here in the open window in automatic mode: the root.
    fn edit(&self, catalog: &Catalog, app: &AppName) -> Option<Digest> {
        let window = catalog.automatic(app)?;
        let current = catalog.application(app)?.current();
        let root = self.found?.root?;
        let edited = self.in_step == Some(window.id)
            && self.activated == current.number
            && root != current.root;
        edited.then_some(root)
    }

    /// Notes whether the live content is the committed version.
    fn note_step(&mut self, catalog: &Catalog, app: &AppName) {
        let Some(current) = catalog.application(app).map(|a| a.current()) else { return };
        let found = self.found.and_then(|f| f.root);
        if self.activated == current.number && found == Some(current.root) {
            self.in_step = catalog.automatic(app).map(|window| window.id);
        }
    }
}

/// What a scan found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The root; none for nothing there.
    pub root: Option<Digest>,
    /// In how many scans running.
    pub scans: u32,
}

/// Work on the live content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Scanning,
    /// The same, where something was noticed.
    Glancing,
    Activating,
    Repairing,
    Ingesting,
    Withdrawing,
}

#[derive(Debug)]
struct Fetch {
    from: MemberId,
    bytes: u64,
}

/// What the rest of the member knows that content depends on.
pub(super) struct Surroundings<'a> {
    pub now: Time,
    pub me: MemberId,
    pub catalog: &'a Catalog,
    pub votes: &'a Votes,
    /// Who is live, itself included.
    pub live: &'a dyn Fn(MemberId) -> bool,
    /// Who is far, as others are not.
    pub far: &'a dyn Fn(MemberId) -> bool,
    /// Whose newest version this member has to wait with.
    pub waits: &'a BTreeSet<AppName>,
}

impl Surroundings<'_> {
    /// The tally and what it means, where a vote is taken on `app`.
    pub fn verdict(&self, app: &AppName) -> Option<(Tally, Verdict)> {
        let tally = self.votes.tally(self.now, self.catalog, app)?;
        let verdict = tally.verdict(self.catalog.conduct.policy.vote);
        Some((tally, verdict))
    }

    /// Whether `root` is a kept version's: its files and bytes are in the catalog.
    fn is_counted(&self, root: Digest) -> bool {
        self.catalog.applications.values().flat_map(|a| &a.versions).any(|v| v.root == root)
    }
}

/// For how long after it was offered last content is kept that nothing here needs.
fn lingers_for(catalog: &Catalog) -> Duration {
    vote::fresh_for(catalog.roster.members.len()) + OFFERED_KEPT
}

impl Content {
    pub fn new(now: Time, whole: Vec<Digest>, activated: BTreeMap<AppName, u64>) -> Self {
        let holding = |activated| Holding { activated, ..Holding::default() };
        let whole: BTreeSet<Digest> = whole.into_iter().collect();
        Self {
            holdings: activated.into_iter().map(|(app, n)| (app, holding(n))).collect(),
            restored: (now, whole.clone()),
            whole,
            ..Self::default()
        }
    }

    pub fn holding(&self, app: &AppName) -> Option<&Holding> {
        self.holdings.get(app)
    }

    /// What was edited here, is in the store and is to be published: nothing
    /// while something else is done to it.
    pub fn edit(&self, catalog: &Catalog, app: &AppName) -> Option<Digest> {
        let holding = self.holdings.get(app).filter(|h| h.work.is_none())?;
        let root = holding.edit(catalog, app)?;
        (self.whole.contains(&root) && self.ingested.contains_key(&root)).then_some(root)
    }

    /// Whether something else is to be kept than when this was asked last: what whoever collects
    /// was not told of goes, though this member may say that it holds it.
    pub fn keeps_other(&mut self, now: Time, catalog: &Catalog) -> bool {
        let kept = lingers_for(catalog);
        let over = self.lingering.values().any(|since| now.since(*since) >= kept);
        let restored_over = !self.restored.1.is_empty() && now.since(self.restored.0) >= kept;
        if restored_over {
            self.restored.1.clear();
        }
        std::mem::take(&mut self.keeps_other) || over || restored_over
    }

    /// Another catalog may place things elsewhere, or on more members: what was given up
    /// and is here still is kept until these have it.
    pub fn place_anew(&mut self) {
        self.given_up.clear();
    }

    /// Somebody works on the current version `root` here: it is fetched, and kept for a
    /// while, wherever it is placed.
    pub fn seek(&mut self, now: Time, root: Digest) {
        self.keeps_other |= self.sought.insert(root, now + OFFERED_KEPT).is_none();
    }

    pub fn is_whole(&self, root: Digest) -> bool {
        self.whole.contains(&root)
    }

    pub fn now_whole(&mut self, root: Digest) {
        self.whole.insert(root);
    }

    /// This member was to publish it and was refused: it is kept for a while.
    pub fn refused(&mut self, now: Time, root: Digest) {
        self.lingering.insert(root, now);
        self.keeps_other = true;
    }

    pub fn no_longer_whole(&mut self, root: Digest) {
        self.whole.remove(&root);
    }

    /// Bytes of `root` that have arrived so far in a fetch under way.
    pub fn fetched_bytes(&self, root: Digest) -> u64 {
        self.fetches.get(&root).map_or(0, |fetch| fetch.bytes)
    }

    /// Keeps what the catalog still names, what is live here, what lingers, and `wanted`;
    /// says which roots these are. Everything else the store drops, so it is
    /// not taken for whole any more either.
    pub fn retain(
        &mut self,
        now: Time,
        catalog: &Catalog,
        wanted: impl IntoIterator<Item = Digest>,
    ) -> Vec<Digest> {
        self.holdings.retain(|app, _| catalog.applications.contains_key(app));
        let here = catalog.applications.iter().filter(|(app, _)| !self.given_up.contains(*app));
        let versions = here.flat_map(|(_, application)| &application.versions);
        let publication = catalog.window.iter().filter_map(|w| w.publication.as_ref());
        let mut roots: BTreeSet<Digest> = versions.map(|v| v.root).collect();
        if !planted::is(Bug::StagedContentDropped) {
            roots.extend(publication.map(|p| p.version.root));
        }
        // A majority may be about to adopt it, and counts on it although it was
        // repaired or edited once more since.
        roots.extend(self.holdings.values().filter_map(|h| h.found.and_then(|f| f.root)));
        let kept = lingers_for(catalog);
        self.lingering.retain(|_, since| now.since(*since) < kept);
        let young = self.ingested.iter().filter(|(_, at)| now.since(**at) < kept);
        roots.extend(young.chain(&self.lingering).map(|(root, _)| *root));
        if now.since(self.restored.0) < kept {
            roots.extend(&self.restored.1);
        }
        self.sought.retain(|_, until| now < *until);
        roots.extend(self.sought.keys());
        roots.extend(wanted);
        self.whole.retain(|root| roots.contains(root));
        self.ingested.retain(|root, _| roots.contains(root));
        roots.into_iter().collect()
    }

    /// What a ballot says of this content.
    pub fn differing(&self, catalog: &Catalog, me: MemberId) -> Vec<Differing> {
        let mut list = Vec::new();
        for (app, application) in &catalog.applications {
            let current = application.current();
            let holding = self.holdings.get(app);
            let found = holding.and_then(|h| h.found);
            if !catalog.is_placed(app, me) {
                // Others ask us for it until those that it is placed on have it.
                if let Some(activated) = holding.map(|h| h.activated).filter(|n| *n > 0) {
                    let (root, scans) = found.map_or((None, 0), |f| (f.root, f.scans));
                    list.push(Differing { app: app.clone(), activated, root, scans });
                }
                continue;
            }
            // Before the first scan nothing is claimed: such a member counts as late.
            let activated = if found.is_some() { holding.map_or(0, |h| h.activated) } else { 0 };
            let root = found.and_then(|f| f.root);
            if activated != current.number || root != Some(current.root) {
                let scans = found.map_or(0, |f| f.scans);
                list.push(Differing { app: app.clone(), activated, root, scans });
            }
        }
        list.truncate(limits::DIFFERING_MAX);
        list
    }

    /// What keeps this member from holding what it should of `app`: its version, or what
    /// is being published.
    pub fn trouble(&self, catalog: &Catalog, app: &AppName) -> Option<&str> {
        let current = catalog.application(app).map(|application| application.current().root);
        let staged = catalog.window.as_ref().and_then(|window| window.publication.as_ref());
        let staged = staged.filter(|staged| &staged.app == app).map(|staged| staged.version.root);
        let mut roots = current.into_iter().chain(staged);
        let unstored = roots.find_map(|root| self.unstored.get(&root));
        let failed = self.holdings.get(app).and_then(|holding| holding.error.as_ref());
        unstored.or(failed).map(String::as_str)
    }

    /// The same for all versions that it should hold and does not, or the first few.
    pub fn troubles(&self, catalog: &Catalog, me: MemberId) -> Vec<Trouble> {
        let differing = self.differing(catalog, me).into_iter();
        let placed = differing.filter(|differing| catalog.is_placed(&differing.app, me));
        let troubles = placed.filter_map(|Differing { app, .. }| {
            let why = self.trouble(catalog, &app)?;
            Some(Trouble::new(app.clone(), why))
        });
        troubles.take(limits::TROUBLES_MAX).collect()
    }

    /// The applications whose committed version the store does not hold whole.
    pub fn lacking(&self, catalog: &Catalog) -> Vec<AppName> {
        let lacks = |v: &Version| !self.whole.contains(&v.root);
        let apps = catalog.applications.iter();
        apps.filter(|(_, a)| lacks(a.current())).map(|(name, _)| name.clone()).collect()
    }

    /// Roots beside the committed ones that others may want from this member, for a ballot: they are
    /// kept for as long as that may count.
    pub fn offer(&mut self, now: Time, catalog: &Catalog) -> Vec<Digest> {
        let list = self.offered(catalog);
        self.lingering.extend(list.iter().map(|root| (*root, now)));
        list
    }

    fn offered(&self, catalog: &Catalog) -> Vec<Digest> {
        let staged = catalog.window.iter().filter_map(|w| w.publication.as_ref());
        let found = self.holdings.values().filter_map(|h| h.found.and_then(|f| f.root));
        let all: BTreeSet<Digest> = staged.map(|p| p.version.root).chain(found).collect();
        let mut list: Vec<Digest> = all.intersection(&self.whole).copied().collect();
        list.truncate(limits::DIFFERING_MAX);
        list
    }

    /// Starts whatever should be under way and is not.
    pub fn drive(
        &mut self,
        around: &Surroundings<'_>,
        rng: &mut SmallRng,
        effects: &mut Vec<Effect>,
    ) {
        self.failed.retain(|_, at| around.now.since(*at) < PASS_OVER);
        self.forget_unstored(around.catalog);
        let mut wanted = Vec::new();
        let publication = around.catalog.window.as_ref().and_then(|w| w.publication.as_ref());
        let placed =
            |version: &Version| around.catalog.roster.placed(&version.spec).contains(around.me);
        wanted.extend(publication.filter(|p| placed(&p.version)).map(|p| p.version.root));
        for (app, application) in &around.catalog.applications {
            let current = application.current();
            if around.catalog.is_placed(app, around.me) {
                self.given_up.remove(app);
                wanted.push(current.root);
                self.drive_one(around, app, current, effects);
            } else {
                self.drive_elsewhere(around, app, effects);
            }
        }
        wanted.extend(self.sought.keys());
        wanted.retain(|root| !self.whole.contains(root));
        for root in wanted {
            // Until its window is closed, what was committed is wanted twice.
            if self.fetches.len() < FETCHES_MAX && !self.fetches.contains_key(&root) {
                self.fetch(around, root, rng, effects);
            }
        }
    }

    fn drive_one(
        &mut self,
        around: &Surroundings<'_>,
        app: &AppName,
        current: &Version,
        effects: &mut Vec<Effect>,
    ) {
        let now = around.now;
        let whole = self.whole.contains(&current.root);
        if !self.holdings.contains_key(app) {
            self.holdings.insert(app.clone(), Holding::default());
        }
        let Some(holding) = self.holdings.get_mut(app) else { return };
        if holding.work.is_some() {
            return;
        }
        holding.note_step(around.catalog, app);
        if now < holding.retry_at {
            return;
        }
        // Before anything that may wait for content that nobody has any more:
        // that is when an operator chooses.
        if std::mem::take(&mut holding.ingest) {
            holding.work = Some(Work::Ingesting);
            effects.push(Effect::Ingest { app: app.clone() });
            return;
        }
        if holding.activated != current.number {
            if around.waits.contains(app) {
                // What the others say wakes us.
                (holding.scan_at, holding.glance_at) = (now + RETRY, None);
            } else if whole || planted::is(Bug::SwitchedBeforeWhole) {
                holding.work = Some(Work::Activating);
                effects.push(Effect::Activate {
                    app: app.clone(),
                    version: current.number,
                    sequence: around.catalog.sequence,
                    root: current.root,
                    spec: Box::new(current.spec.clone()),
                    keep_edits: holding.in_step.is_some(),
                    own: current.publisher == around.me && current.origin == Origin::Edited,
                });
            } else {
                // The fetch wakes us; this is for when none could be started.
                (holding.scan_at, holding.glance_at) = (now + RETRY, None);
            }
            return;
        }
        if std::mem::take(&mut holding.look_again) {
            holding.scan(app, false, effects);
            return;
        }
        if holding.glance_again {
            // Notices that never end put off no scan of the whole.
            holding.scan(app, now < holding.scan_at, effects);
            return;
        }
        let found = holding.found;
        if !whole && found.is_some_and(|f| f.root == Some(current.root)) {
            // What the store has lost is live here: others may need it.
            holding.work = Some(Work::Ingesting);
            effects.push(Effect::Ingest { app: app.clone() });
            return;
        }
        if let Some(root) = holding.edit(around.catalog, app)
            && !(self.whole.contains(&root) && self.ingested.contains_key(&root))
        {
            holding.work = Some(Work::Ingesting);
            effects.push(Effect::Ingest { app: app.clone() });
            return;
        }
        let covered = around.catalog.window_covers(app);
        if let (Some(found), false) = (found, covered)
            && found.root != Some(current.root)
        {
            match around.verdict(app).map(|(_, verdict)| verdict) {
                Some(Verdict::Committed) if whole => {
                    let due = holding.found_since + REPAIR_AFTER;
                    if found.scans < SCANS_RUNNING || now < due {
                        holding.scan_at = holding.scan_at.min(due);
                    } else {
                        holding.work = Some(Work::Repairing);
                        effects.push(Effect::Repair { app: app.clone(), root: current.root });
                        return;
                    }
                }
                Some(Verdict::Other(root))
                    if found.root == Some(root)
                        && !(self.whole.contains(&root)
                            && (around.is_counted(root) || self.ingested.contains_key(&root))) =>
                {
                    holding.work = Some(Work::Ingesting);
                    effects.push(Effect::Ingest { app: app.clone() });
                    return;
                }
                _ => {}
            }
        }
        if now >= holding.scan_at {
            holding.scan(app, false, effects);
        } else if holding.glance_at.is_some_and(|at| now >= at) {
            holding.scan(app, true, effects);
        }
    }

    /// `app` is placed elsewhere. What is live here of it stays until a majority of those
    /// that it is placed on has switched to it, so that it is served and held by enough
    /// members at any time.
    fn drive_elsewhere(
        &mut self,
        around: &Surroundings<'_>,
        app: &AppName,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(holding) = self.holdings.get_mut(app)
            && holding.work.is_none()
        {
            // Nobody looks at it any more; the next ballots wake us.
            holding.scan_at = holding.scan_at.max(around.now + RETRY);
            holding.glance_at = None;
            if holding.ingest && around.now >= holding.retry_at {
                // An operator chose it.
                holding.ingest = false;
                holding.work = Some(Work::Ingesting);
                effects.push(Effect::Ingest { app: app.clone() });
                return;
            }
        }
        if self.given_up.contains(app) && !self.holdings.contains_key(app) {
            return;
        }
        let tally = around.votes.tally(around.now, around.catalog, app);
        if !tally.is_some_and(|tally| tally.is_taken_over()) && !planted::is(Bug::GivenUpEarly) {
            return;
        }
        let Some(holding) = self.holdings.get_mut(app) else {
            self.given_up.insert(app.clone());
            self.keeps_other = true;
            return;
        };
        if holding.work.is_none() && around.now >= holding.retry_at {
            holding.work = Some(Work::Withdrawing);
            let sequence = around.catalog.sequence;
            effects.push(Effect::Withdraw { app: app.clone(), sequence });
        }
    }

    /// Work on what is placed elsewhere has ended.
    pub fn withdrawn(&mut self, now: Time, app: &AppName, failure: Option<&ContentFailure>) {
        match failure {
            None => {
                self.holdings.remove(app);
            }
            Some(failure) => {
                let Some(holding) = self.holdings.get_mut(app) else { return };
                holding.work = None;
                holding.retry_at = now + RETRY;
                holding.error = Some(failure.sentence());
            }
        }
    }

    /// From any live member that says it holds it, another one each time; from one that is near
    /// if there is one.
    fn fetch(
        &mut self,
        around: &Surroundings<'_>,
        root: Digest,
        rng: &mut SmallRng,
        effects: &mut Vec<Effect>,
    ) {
        let mut holders: Vec<MemberId> = self
            .holders(around, root)
            .into_iter()
            .filter(|m| *m != around.me && (around.live)(*m))
            .filter(|m| !self.failed.contains_key(&(root, *m)))
            .collect();
        if holders.is_empty() {
            return;
        }
        let near = |member: &MemberId| !(around.far)(*member);
        if holders.iter().any(near) {
            holders.retain(near);
        }
        let from = holders[rng.random_range(0..holders.len())];
        self.fetches.insert(root, Fetch { from, bytes: 0 });
        // Whoever is to have it may have some of it already.
        let publication = around.catalog.window.iter().filter_map(|w| w.publication.as_ref());
        let current = around.catalog.applications.values().map(Application::current);
        let versions = current.chain(publication.map(|p| &p.version)).filter(|v| v.root == root);
        let placed: Vec<_> = versions.map(|v| around.catalog.roster.placed(&v.spec)).collect();
        let members = around.catalog.roster.members.iter();
        let others =
            members.filter(|m| placed.iter().any(|p| p.holds(m)) || holders.contains(&m.id));
        let peers: Vec<MemberId> = others
            .map(|m| m.id)
            .filter(|m| *m != around.me && *m != from && (around.live)(*m))
            .filter(|m| !self.failed.contains_key(&(root, *m)))
            .collect();
        // Others each time, so that all of a large cluster hang together: for that some far ones
        // are among them, and more only where there are not enough that are near.
        let (mut peers, mut far): (Vec<MemberId>, Vec<MemberId>) =
            peers.into_iter().partition(near);
        let mut drawn = |members: &mut Vec<MemberId>, count: usize| {
            while members.len() > count {
                members.swap_remove(rng.random_range(0..members.len()));
            }
        };
        drawn(&mut peers, PEERS_MAX - FAR_PEERS.min(far.len()));
        drawn(&mut far, PEERS_MAX - peers.len());
        peers.extend(&far);
        far.extend(Some(from).filter(|m| !near(m)));
        let far = far.into_iter().collect();
        effects.push(Effect::Fetch { root, whom: Whom { from, peers, far } });
    }

    fn holders(&self, around: &Surroundings<'_>, root: Digest) -> BTreeSet<MemberId> {
        let Surroundings { now, catalog, votes, .. } = *around;
        let mut holders = votes.whole(now, root);
        for (app, application) in &catalog.applications {
            if application.current().root != root {
                continue;
            }
            for member in &catalog.roster.members {
                let ballot = votes.fresh(now, member.id);
                if ballot
                    .is_some_and(|b| b.sequence == catalog.sequence && !b.lacking.contains(app))
                {
                    holders.insert(member.id);
                }
            }
        }
        // The publisher holds what it published, even before its ballot says so.
        let publication = catalog.window.iter().filter_map(|w| w.publication.as_ref());
        holders.extend(publication.filter(|p| p.version.root == root).map(|p| p.version.publisher));
        holders
    }

    /// What nobody wants any more is no trouble.
    fn forget_unstored(&mut self, catalog: &Catalog) {
        if self.unstored.is_empty() {
            return; // as nearly always: no need to look through all of it
        }
        let staged = catalog.window.as_ref().and_then(|window| window.publication.as_ref());
        let current = catalog.applications.values().map(|application| application.current().root);
        let wanted: BTreeSet<Digest> = current.chain(staged.map(|p| p.version.root)).collect();
        self.unstored.retain(|root, _| wanted.contains(root));
    }

    pub fn fetching(&mut self, root: Digest, bytes: u64) {
        if let Some(fetch) = self.fetches.get_mut(&root) {
            fetch.bytes = fetch.bytes.max(bytes);
        }
    }

    /// The sentence for an event, if there is something to tell.
    pub fn fetched(
        &mut self,
        now: Time,
        root: Digest,
        from: MemberId,
        result: Result<(), FetchFailure>,
    ) -> Option<String> {
        if self.fetches.get(&root).is_some_and(|fetch| fetch.from == from) {
            self.fetches.remove(&root);
        }
        let failure = match result {
            Ok(()) => {
                // What it was fetched for may be over.
                self.keeps_other |= self.whole.insert(root);
                self.unstored.remove(&root);
                return None;
            }
            Err(failure) => failure,
        };
        self.failed.insert((root, from), now);
        match &failure {
            FetchFailure::Disk(why) => self.unstored.insert(root, why.clone()),
            _ => self.unstored.remove(&root),
        };
        match failure {
            FetchFailure::Lacking | FetchFailure::Broken(_) => None,
            FetchFailure::Crawls => Some(
                "it owes for seconds what others have, and is asked for nothing more for a while"
                    .to_owned(),
            ),
            FetchFailure::Lied(why) => Some(format!("what it sent is not what it said: {why}")),
            FetchFailure::Disk(why) => Some(format!("this member could not store it: {why}")),
        }
    }

    /// Asks for the live content of `app` to be taken into the store, when
    /// nothing else is being done to it.
    pub fn want_ingested(&mut self, app: &AppName) {
        self.holdings.entry(app.clone()).or_default().ingest = true;
    }

    /// Somebody noticed that the live content of `app` changes.
    pub fn noticed(&mut self, now: Time, app: &AppName) {
        let Some(holding) = self.holdings.get_mut(app) else { return };
        // One that is being looked at may have been seen before the change.
        holding.glance_again |= holding.work.is_some();
        let at = holding.notice_at.max(now);
        holding.glance_at = Some(holding.glance_at.map_or(at, |before| before.min(at)));
    }

    /// Work on `app` has ended and nothing came of it.
    pub fn idle(&mut self, app: &AppName) {
        if let Some(holding) = self.holdings.get_mut(app) {
            holding.work = None;
        }
    }

    pub fn activated(
        &mut self,
        now: Time,
        app: &AppName,
        version: &Version,
        result: &Result<Switched, ContentFailure>,
    ) {
        let holding = self.holdings.entry(app.clone()).or_default();
        holding.work = None;
        match result {
            Ok(switched) => {
                holding.activated = version.number;
                holding.version = Some(version.root);
                holding.found = Some(Found { root: Some(switched.root), scans: 1 });
                holding.found_since = now;
                holding.error = None;
                // A switch neither brings a scan of the whole nor puts one off, however often
                // versions come: edits would wait for it, or it for edits. Where it left
                // something else than the version, a vote may need one.
                holding.scan_at = match holding.scan_share_at {
                    Time(0) => now + SCAN_EVERY,
                    _ if switched.root != version.root => now + SCAN_EVERY,
                    share_at => share_at.max(now),
                };
            }
            Err(ContentFailure::Outdated) => holding.retry_at = now + RETRY / 10,
            Err(failure) => {
                holding.retry_at = now + RETRY;
                holding.error = Some(failure.sentence());
                if matches!(failure, ContentFailure::Lost(_)) {
                    self.whole.remove(&version.root);
                }
            }
        }
    }

    pub fn scanned(
        &mut self,
        now: Time,
        app: &AppName,
        result: Result<Option<Digest>, ContentFailure>,
        took: Duration,
    ) {
        let Some(holding) = self.holdings.get_mut(app) else { return };
        // Where something was noticed it was looked at beside the scans of the whole. That may
        // be the first of the looks that a vote takes, and is never the last.
        let is_whole = holding.work.take() != Some(Work::Glancing);
        if is_whole {
            holding.scan_share_at = now + (took * SCAN_SHARE).max(SCAN_EVERY);
            holding.scan_at = holding.scan_share_at;
        } else {
            // It took long only where the whole had to be scanned after all.
            holding.notice_at = now + took * NOTICE_SHARE;
        }
        match result {
            Ok(root) => {
                let scans = match holding.found {
                    Some(found) if found.root == root => {
                        SCANS_RUNNING.min(found.scans + u32::from(is_whole))
                    }
                    _ => 1,
                };
                // A root that is not the committed one is looked at again soon:
                // only two scans running make it a vote for something new.
                if scans < SCANS_RUNNING && (root.is_none() || root != holding.version) {
                    holding.scan_at = holding.scan_at.min(now + SCAN_EVERY / 4);
                }
                if holding.found.is_none_or(|found| found.root != root) {
                    holding.found_since = now;
                }
                holding.found = Some(Found { root, scans });
                holding.error = None;
            }
            Err(failure) => {
                holding.error = Some(failure.sentence());
                holding.found = Some(Found { root: None, scans: 1 });
            }
        }
    }

    pub fn repaired(
        &mut self,
        now: Time,
        app: &AppName,
        root: Digest,
        failure: Option<&ContentFailure>,
    ) {
        let Some(holding) = self.holdings.get_mut(app) else { return };
        holding.work = None;
        holding.scan_at = now;
        holding.error = failure.map(ContentFailure::sentence);
        if let Some(failure) = failure {
            holding.retry_at = now + RETRY;
            if matches!(failure, ContentFailure::Lost(_)) {
                self.whole.remove(&root);
            }
        } else {
            // Until the scan has looked, nothing is claimed.
            holding.found = None;
        }
    }

    pub fn ingested(&mut self, now: Time, app: &AppName, result: Result<Digest, ContentFailure>) {
        if let Some(holding) = self.holdings.get_mut(app) {
            holding.work = None;
            match &result {
                // It changed since the last scan: this was one.
                Ok(root) if holding.found.is_none_or(|f| f.root != Some(*root)) => {
                    holding.found = Some(Found { root: Some(*root), scans: 1 });
                    holding.found_since = now;
                }
                Ok(_) => {}
                Err(failure) => {
                    holding.retry_at = now + RETRY;
                    holding.look_again = true;
                    holding.error = Some(failure.sentence());
                }
            }
        }
        if let Ok(root) = result {
            self.whole.insert(root);
            self.ingested.insert(root, now);
            self.keeps_other = true;
        }
    }

    /// When there is something to do again.
    pub fn deadline(&self) -> Option<Time> {
        let idle = self.holdings.values().filter(|h| h.work.is_none());
        let next = idle.map(Holding::due).min();
        let retry = self.failed.values().map(|at| *at + PASS_OVER).min();
        next.into_iter().chain(retry).min()
    }
}

#[cfg(test)]
mod tests;
