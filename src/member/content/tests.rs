//! Edits of live content while a window in automatic mode is open; what is placed elsewhere; what is
//! kept for as long as others count on it.

use rand::SeedableRng;

use super::*;
use crate::base::{
    MemberName, SecretKey, WallTime,
    catalog::{
        AppSpec, Application, Enrolled, Failover, Origin, Publication, Version, Window, WindowMode,
    },
};

const VERSION_1: u8 = 1;
const EDITED: u8 = 100;

fn root(n: u8) -> Digest {
    Digest::of_bytes(&[n])
}

fn app() -> AppName {
    AppName::parse("web").unwrap()
}

fn me() -> MemberId {
    SecretKey::from_seed([1; 32]).member()
}

fn version(number: u8) -> Version {
    Version {
        number: number.into(),
        root: root(number),
        files: 1,
        bytes: 1,
        spec: AppSpec::default(),
        publisher: me(),
        published_at: WallTime(0),
        message: String::new(),
        origin: Origin::Published,
        asked: None,
    }
}

fn catalog() -> Catalog {
    let key = SecretKey::from_seed([1; 32]).public();
    let founder = Enrolled {
        id: me(),
        key,
        name: MemberName::parse("m1").unwrap(),
        address: "127.0.0.1:1".parse().unwrap(),
        tags: BTreeMap::new(),
        voter: true,
        standby: false,
    };
    let mut catalog = Catalog::found([1; 32], founder);
    catalog.applications.insert(app(), Application { versions: vec![version(VERSION_1)] });
    catalog
}

/// One member's content, and what it wants done.
struct Bench {
    now: Time,
    catalog: Catalog,
    content: Content,
    rng: SmallRng,
}

impl Bench {
    /// It holds version 1.
    fn new() -> Self {
        let activated = BTreeMap::from([(app(), 1)]);
        Self {
            now: Time(1),
            catalog: catalog(),
            content: Content::new(Time(1), vec![root(VERSION_1)], activated),
            rng: SmallRng::seed_from_u64(1),
        }
    }

    fn open(&mut self, id: u64, mode: WindowMode) {
        self.catalog.window = Some(Window {
            id,
            coordinator: me(),
            takeovers: 0,
            opened_by: me(),
            opened_at: WallTime(0),
            scope: vec![],
            failover: Failover::Auto,
            mode,
            publication: None,
            asked: None,
        });
    }

    /// The next piece of work, after so much time.
    fn drive(&mut self) -> Vec<Effect> {
        self.now = self.now + Duration::from_secs(10);
        let votes = Votes::default();
        let (live, mut effects) = (|_| true, Vec::new());
        let around = Surroundings {
            now: self.now,
            me: me(),
            catalog: &self.catalog,
            votes: &votes,
            live: &live,
            far: &|_| false,
            waits: &BTreeSet::new(),
        };
        self.content.drive(&around, &mut self.rng, &mut effects);
        effects
    }

    /// A scan finds `found`, and then?
    fn scanned(&mut self, found: u8) -> Vec<Effect> {
        let began = self.drive();
        assert!(matches!(began[..], [Effect::Scan { .. }]), "{began:?}");
        self.content.scanned(self.now, &app(), Ok(Some(root(found))), Duration::ZERO);
        self.drive()
    }

    fn edit(&self) -> Option<Digest> {
        self.content.edit(&self.catalog, &app())
    }
}

fn is_ingest(effects: &[Effect]) -> bool {
    matches!(effects, [Effect::Ingest { .. }])
}

#[test]
fn what_is_edited_in_the_window_is_taken_in_and_offered() {
    let mut bench = Bench::new();
    bench.open(7, WindowMode::Automatic);
    assert!(!is_ingest(&bench.scanned(VERSION_1)));
    bench.content.scanned(bench.now, &app(), Ok(Some(root(EDITED))), Duration::ZERO);
    assert_eq!(bench.edit(), None, "it is not in the store");
    assert!(is_ingest(&bench.drive()));
    bench.content.ingested(bench.now, &app(), Ok(root(EDITED)));
    assert_eq!(bench.edit(), Some(root(EDITED)));
    // Somebody else was first: what was edited here comes along.
    bench.catalog.applications.get_mut(&app()).unwrap().push(version(2));
    bench.content.now_whole(root(2));
    assert_eq!(bench.edit(), None, "it was made against version 1");
    let effects = bench.drive();
    assert!(
        matches!(effects[..], [Effect::Activate { version: 2, keep_edits: true, .. }]),
        "{effects:?}"
    );
    let merged = Switched { root: root(EDITED + 1), kept: 1, aside: 0, sample: vec![] };
    bench.content.activated(bench.now, &app(), &version(2), &Ok(merged));
    assert!(is_ingest(&bench.drive()), "what is live now is the next publication");
    bench.content.ingested(bench.now, &app(), Ok(root(EDITED + 1)));
    assert_eq!(bench.edit(), Some(root(EDITED + 1)));
}

#[test]
fn what_differed_before_the_window_was_opened_is_drift() {
    let mut bench = Bench::new();
    bench.scanned(EDITED);
    bench.content.scanned(bench.now, &app(), Ok(Some(root(EDITED))), Duration::ZERO);
    bench.open(7, WindowMode::Automatic);
    assert!(!is_ingest(&bench.drive()));
    bench.content.scanned(bench.now, &app(), Ok(Some(root(EDITED))), Duration::ZERO);
    assert!(!is_ingest(&bench.drive()));
    // A version takes its place, and does not keep it.
    bench.catalog.applications.get_mut(&app()).unwrap().push(version(2));
    bench.content.now_whole(root(2));
    bench.content.scanned(bench.now, &app(), Ok(Some(root(EDITED))), Duration::ZERO);
    let effects = bench.drive();
    assert!(
        matches!(effects[..], [Effect::Activate { version: 2, keep_edits: false, .. }]),
        "{effects:?}"
    );
    // From then on it is in step, and what is edited is an edit.
    bench.content.activated(bench.now, &app(), &version(2), &Ok(Switched::whole(root(2))));
    bench.drive();
    bench.content.scanned(bench.now, &app(), Ok(Some(root(EDITED))), Duration::ZERO);
    assert!(is_ingest(&bench.drive()));
}

#[test]
fn only_an_edit_of_this_member_is_its_own() {
    let other = SecretKey::from_seed([2; 32]).member();
    for (publisher, origin, is_own) in [
        (me(), Origin::Edited, true),
        (other, Origin::Edited, false),
        (me(), Origin::Published, false),
    ] {
        let mut bench = Bench::new();
        bench.open(7, WindowMode::Automatic);
        bench.scanned(VERSION_1);
        let next = Version { publisher, origin, ..version(2) };
        bench.catalog.applications.get_mut(&app()).unwrap().push(next);
        bench.content.now_whole(root(2));
        bench.content.scanned(bench.now, &app(), Ok(Some(root(VERSION_1))), Duration::ZERO);
        let effects = bench.drive();
        let [Effect::Activate { version: 2, own, .. }] = effects[..] else { panic!("{effects:?}") };
        assert_eq!(own, is_own, "{publisher} {origin:?}");
    }
}

#[test]
fn no_other_window_makes_an_edit_a_publication() {
    let mut bench = Bench::new();
    bench.open(7, WindowMode::Held);
    assert!(!is_ingest(&bench.scanned(VERSION_1)));
    bench.content.scanned(bench.now, &app(), Ok(Some(root(EDITED))), Duration::ZERO);
    assert!(!is_ingest(&bench.drive()));
    // Nor one that was edited in an automatic window that is closed.
    let mut bench = Bench::new();
    bench.open(7, WindowMode::Automatic);
    bench.scanned(VERSION_1);
    bench.catalog.window = None;
    bench.content.scanned(bench.now, &app(), Ok(Some(root(EDITED))), Duration::ZERO);
    assert!(!is_ingest(&bench.drive()));
    bench.open(8, WindowMode::Automatic);
    bench.content.scanned(bench.now, &app(), Ok(Some(root(EDITED))), Duration::ZERO);
    assert!(!is_ingest(&bench.drive()), "it was edited when no window was open");
}

#[test]
fn a_notice_is_heeded_at_once_but_not_for_ever() {
    let mut bench = Bench::new();
    bench.scanned(VERSION_1);
    let second = Duration::from_secs(1);
    bench.content.scanned(bench.now, &app(), Ok(Some(root(VERSION_1))), second);
    assert_eq!(bench.content.deadline(), Some(bench.now + second * SCAN_SHARE));
    bench.content.noticed(bench.now, &app());
    assert_eq!(bench.content.deadline(), Some(bench.now), "a scan of the whole is no reason");
    let whole = bench.now + second * SCAN_SHARE;
    let looked = bench.drive();
    assert!(matches!(looked[..], [Effect::Scan { noticed: true, .. }]), "{looked:?}");
    // A look where something was noticed is beside the scans of the whole: it puts none off.
    bench.content.scanned(bench.now, &app(), Ok(Some(root(VERSION_1))), second);
    assert_eq!(bench.content.deadline(), Some(whole));
    bench.content.noticed(bench.now, &app());
    assert_eq!(bench.content.deadline(), Some(bench.now + second * NOTICE_SHARE));
    let looked = bench.drive();
    assert!(matches!(looked[..], [Effect::Scan { noticed: true, .. }]), "{looked:?}");
    bench.content.scanned(bench.now, &app(), Ok(Some(root(VERSION_1))), second);
    let later = bench.now + second * 20;
    bench.content.noticed(later, &app());
    assert_eq!(bench.content.deadline(), Some(later));
}

/// Versions that come one after the other, as edits do, bring no scan of a large tree each.
#[test]
fn scans_keep_to_their_share_over_a_switch() {
    let mut bench = Bench::new();
    bench.scanned(VERSION_1);
    let second = Duration::from_secs(1);
    bench.content.scanned(bench.now, &app(), Ok(Some(root(VERSION_1))), second);
    let due = bench.now + second * SCAN_SHARE;
    bench.now = bench.now + second * 5;
    bench.content.activated(bench.now, &app(), &version(2), &Ok(Switched::whole(root(2))));
    assert_eq!(bench.content.deadline(), Some(due));
    // The switch itself is noticed, and a look says that it is what it should be.
    bench.content.noticed(bench.now, &app());
    bench.content.holdings.get_mut(&app()).unwrap().scan(&app(), true, &mut vec![]);
    bench.content.scanned(bench.now, &app(), Ok(Some(root(2))), Duration::ZERO);
    assert_eq!(bench.content.deadline(), Some(due));
    // What is not that version is looked at again at once: somebody may vote for it.
    bench.content.scanned(bench.now, &app(), Ok(Some(root(EDITED))), second);
    assert_eq!(bench.content.deadline(), Some(bench.now + SCAN_EVERY / 4));
    // A scan that takes no time leaves all as it is.
    let mut bench = Bench::new();
    bench.scanned(VERSION_1);
    bench.content.scanned(bench.now, &app(), Ok(Some(root(VERSION_1))), Duration::ZERO);
    bench.now = bench.now + second;
    let next = bench.now + second;
    for _ in 0..4 {
        bench.content.activated(bench.now, &app(), &version(2), &Ok(Switched::whole(root(2))));
        assert_eq!(bench.content.deadline(), Some(next), "it is not put off either");
        bench.now = bench.now + second / 4;
    }
    // What was edited and kept is no version yet: somebody may vote for it.
    let merged = Switched { root: root(EDITED), kept: 1, aside: 0, sample: vec![] };
    bench.content.scanned(bench.now, &app(), Ok(Some(root(2))), second);
    bench.content.activated(bench.now, &app(), &version(2), &Ok(merged));
    assert_eq!(bench.content.deadline(), Some(bench.now + SCAN_EVERY));
}

/// What is placed on another member stays here until that one has it, and may
/// be placed here again at any moment.
#[test]
fn what_is_placed_elsewhere_is_given_up_once_it_is_taken_over() {
    let mut bench = Bench::new();
    let other = SecretKey::from_seed([2; 32]);
    let mut entry = bench.catalog.roster.members[0].clone();
    (entry.id, entry.key) = (other.member(), other.public());
    entry.name = MemberName::parse("m2").unwrap();
    entry.tags.insert("role".to_owned(), "web".to_owned());
    bench.catalog.roster.members.push(entry);
    let web = bench.catalog.applications.get_mut(&app()).unwrap();
    web.versions[0].spec.placement = crate::base::Placement::parse("role == web").ok();
    bench.content.scanned(bench.now, &app(), Ok(Some(root(VERSION_1))), Duration::ZERO);
    // What was offered before this run began does not count any more.
    bench.now = bench.now + lingers_for(&bench.catalog);
    assert!(bench.content.keeps_other(bench.now, &bench.catalog), "what was only kept for that");
    let mut votes = Votes::default();
    let mut stamp = 0;
    let mut drive = |bench: &mut Bench, late: bool, lacking: bool| {
        bench.now = bench.now + Duration::from_secs(1);
        stamp += 1;
        let differing = Differing { app: app(), activated: 0, root: None, scans: 0 };
        let differing = if late { vec![differing] } else { vec![] };
        let ballot = vote::Ballot {
            member: other.member(),
            sequence: bench.catalog.sequence,
            stamp,
            digest: vote::roots_digest(&bench.catalog, &differing),
            differing,
            lacking: if lacking { vec![app()] } else { vec![] },
            whole: vec![],
            staged_bytes: 0,
        };
        votes.receive(bench.now, ballot).unwrap();
        let (live, mut effects) = (|_| true, Vec::new());
        let catalog = &bench.catalog;
        let around = Surroundings {
            now: bench.now,
            me: me(),
            catalog,
            votes: &votes,
            live: &live,
            far: &|_| false,
            waits: &BTreeSet::new(),
        };
        bench.content.drive(&around, &mut bench.rng, &mut effects);
        effects
    };
    assert!(drive(&mut bench, true, true).is_empty());
    assert!(drive(&mut bench, true, false).is_empty(), "it does not serve it yet");
    let said = bench.content.differing(&bench.catalog, me());
    assert_eq!(said[0].activated, 1, "others may ask us for it");
    let keeps = |bench: &mut Bench| {
        let long_after = bench.now + Duration::from_secs(3_600);
        !bench.content.retain(long_after, &bench.catalog, []).is_empty()
    };
    assert!(keeps(&mut bench) && !bench.content.keeps_other(bench.now, &bench.catalog));
    let said = bench.content.offer(bench.now, &bench.catalog);
    assert_eq!(said, [root(VERSION_1)], "a ballot says that it is here");

    assert!(matches!(drive(&mut bench, false, false)[..], [Effect::Withdraw { .. }]));
    assert!(drive(&mut bench, false, false).is_empty(), "one thing at a time");
    let full = ContentFailure::Failed("the disk is full".to_owned());
    bench.content.withdrawn(bench.now, &app(), Some(&full));
    assert!(drive(&mut bench, false, false).is_empty(), "a little later");
    bench.now = bench.now + RETRY;
    assert!(matches!(drive(&mut bench, false, false)[..], [Effect::Withdraw { .. }]));
    bench.content.withdrawn(bench.now, &app(), None);
    assert!(drive(&mut bench, false, false).is_empty());
    assert!(bench.content.keeps_other(bench.now, &bench.catalog));
    let kept = bench.content.retain(bench.now, &bench.catalog, []);
    assert_eq!(kept, [root(VERSION_1)], "that ballot still counts: somebody may publish it again");
    assert!(!bench.content.keeps_other(bench.now, &bench.catalog));
    bench.now = bench.now + lingers_for(&bench.catalog);
    assert!(bench.content.keeps_other(bench.now, &bench.catalog) && !keeps(&mut bench));
    assert!(!bench.content.keeps_other(bench.now, &bench.catalog), "once");
    assert!(bench.content.differing(&bench.catalog, me()).is_empty());

    // Another catalog: asked anew, and what is here still is kept until then.
    bench.content.place_anew();
    bench.content.now_whole(root(VERSION_1));
    assert!(keeps(&mut bench));
    bench.catalog.roster.members[0].tags.insert("role".to_owned(), "web".to_owned());
    assert!(matches!(drive(&mut bench, false, false)[..], [Effect::Activate { .. }]));
}

/// Others may take its word for it until that is too old, whatever comes in between.
#[test]
fn what_was_offered_is_kept_when_its_window_ends() {
    const STAGED: u8 = 7;
    let mut bench = Bench::new();
    // What was offered before this run began does not count any more.
    bench.now = bench.now + lingers_for(&bench.catalog);
    assert!(
        bench.content.keeps_other(bench.now, &bench.catalog),
        "it goes, where nothing needs it"
    );
    bench.open(5, WindowMode::Single);
    let window = bench.catalog.window.as_mut().unwrap();
    window.publication = Some(Publication {
        app: app(),
        version: version(STAGED),
        base: 1,
        request: 1,
        committed: false,
    });
    bench.content.now_whole(root(STAGED));
    assert_eq!(bench.content.offer(bench.now, &bench.catalog), [root(STAGED)]);
    bench.catalog.window = None;
    assert!(bench.content.retain(bench.now, &bench.catalog, []).contains(&root(STAGED)));
    assert!(!bench.content.keeps_other(bench.now, &bench.catalog));
    assert!(bench.content.is_whole(root(STAGED)), "if it is published again");

    bench.now = bench.now + lingers_for(&bench.catalog);
    assert!(bench.content.keeps_other(bench.now, &bench.catalog));
    assert_eq!(bench.content.retain(bench.now, &bench.catalog, []), [root(VERSION_1)]);
    assert!(!bench.content.is_whole(root(STAGED)));
    assert!(!bench.content.keeps_other(bench.now, &bench.catalog), "once");
}

/// Of those that hold what is lacking here, one that is near is asked, whoever is drawn.
#[test]
fn who_is_near_is_asked_first() {
    let ids: Vec<MemberId> = (2..42).map(|n| SecretKey::from_seed([n; 32]).member()).collect();
    let is_far = |member: MemberId| ids[4..].contains(&member);
    let mut catalog = catalog();
    for (n, id) in ids.iter().enumerate() {
        let mut entry = catalog.roster.members[0].clone();
        (entry.id, entry.name) = (*id, MemberName::parse(&format!("n{n}")).unwrap());
        catalog.roster.members.push(entry);
    }
    let fetch = |seed: u64, holders: &[MemberId]| {
        let mut votes = Votes::default();
        for member in holders {
            let ballot = vote::Ballot {
                member: *member,
                sequence: catalog.sequence,
                stamp: 1,
                digest: vote::roots_digest(&catalog, &[]),
                differing: vec![],
                lacking: vec![],
                whole: vec![],
                staged_bytes: 0,
            };
            votes.receive(Time(1), ballot).unwrap();
        }
        let mut content = Content::new(Time(1), vec![], BTreeMap::new());
        let around = Surroundings {
            now: Time(2),
            me: me(),
            catalog: &catalog,
            votes: &votes,
            live: &|_| true,
            far: &is_far,
            waits: &BTreeSet::new(),
        };
        let mut effects = Vec::new();
        content.drive(&around, &mut SmallRng::seed_from_u64(seed), &mut effects);
        let fetch = effects.into_iter().find_map(|effect| match effect {
            Effect::Fetch { whom, .. } => Some(whom),
            _ => None,
        });
        fetch.unwrap()
    };
    for seed in 0..50 {
        let whom = fetch(seed, &ids);
        assert!(!is_far(whom.from), "seed {seed}: {whom:?}");
        assert_eq!(whom.peers.len(), PEERS_MAX);
        let near = whom.peers.iter().filter(|peer| !is_far(**peer)).count();
        assert_eq!(near, 3, "seed {seed}: all of them but the one asked first: {whom:?}");
        let said: BTreeSet<_> = whom.peers.iter().copied().filter(|peer| is_far(*peer)).collect();
        assert_eq!(whom.far, said);

        let whom = fetch(seed, &ids[4..]);
        assert!(is_far(whom.from) && whom.far.contains(&whom.from), "there is no other");
    }
}

/// A version is committed before its window is closed, and is both current and being published then.
#[test]
fn what_is_wanted_twice_is_fetched_once() {
    let mut bench = Bench::new();
    bench.open(7, WindowMode::Single);
    let publisher = SecretKey::from_seed([2; 32]).member();
    let next = Version { publisher, ..version(2) };
    bench.catalog.applications.get_mut(&app()).unwrap().push(next.clone());
    let window = bench.catalog.window.as_mut().unwrap();
    window.publication =
        Some(Publication { request: 1, app: app(), base: 1, version: next, committed: true });
    let fetches = |effects: &[Effect]| {
        effects.iter().filter(|effect| matches!(effect, Effect::Fetch { .. })).count()
    };
    assert_eq!(fetches(&bench.drive()), 1);
    assert_eq!(fetches(&bench.drive()), 0, "it is under way");
}
