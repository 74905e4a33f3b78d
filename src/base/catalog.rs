//! The catalog as a document: the one replicated thing. The roster,
//! the applications, the open window, invitations, policies. It has a sequence
//! number and is replaced as a whole; how it is decided is `proto::catalog`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use serde::{Deserialize, Serialize};

use super::{
    AppName, ClusterId, Conduct, Digest, MemberId, MemberName, Placement, PublicKey, Rollout,
    WallTime, limits,
    operator::AskedBy,
    planted::{self, Bug},
    wire::{self, Kind},
};

mod form;

use form::{SpecForm, VersionForm, WindowForm};

/// The whole catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// Which cluster.
    pub cluster: ClusterId,
    /// 1 for the catalog that founds the cluster, and one more for each change.
    pub sequence: u64,
    /// Every enrolled member. Its order is the failover list.
    pub roster: Roster,
    /// The roster of the catalog before, where this one changes it. Such a
    /// catalog counts only with a majority of both.
    pub roster_before: Option<Roster>,
    /// What the cluster holds, by name.
    pub applications: BTreeMap<AppName, Application>,
    /// The open update window.
    pub window: Option<Window>,
    /// How the last windows ended, oldest first.
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::OUTCOMES_MAX }>")]
    pub outcomes: Vec<WindowOutcome>,
    /// Open invitations.
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::INVITES_MAX }>")]
    pub invites: Vec<Invite>,
    /// What the cluster does by itself.
    pub conduct: Conduct,
}

impl Catalog {
    /// The catalog that founds a cluster of one. `nonce` is drawn at random,
    /// so that two clusters founded by one key are two.
    pub fn found(nonce: [u8; 32], founder: Enrolled) -> Self {
        let roster = Roster { members: vec![founder] };
        Self {
            cluster: cluster_id(&nonce, &roster),
            sequence: 1,
            roster,
            roster_before: None,
            applications: BTreeMap::new(),
            window: None,
            outcomes: Vec::new(),
            invites: Vec::new(),
            conduct: Conduct::default(),
        }
    }

    /// The part that signatures cover.
    pub fn header(&self) -> Header {
        let body = wire::encode(
            Kind::Message,
            &(&self.applications, &self.window, &self.outcomes, &self.invites, &self.conduct),
        );
        Header {
            cluster: self.cluster,
            sequence: self.sequence,
            roster: self.roster.digest(),
            roster_before: self.roster_before.as_ref().map(Roster::digest),
            body: Digest::of("althing catalog body", &body),
        }
    }

    /// The digest that stands for the whole catalog.
    pub fn digest(&self) -> Digest {
        self.header().digest()
    }

    /// The rosters of which this catalog needs a majority each.
    pub fn rosters(&self) -> impl Iterator<Item = &Roster> {
        let before = self.roster_before.as_ref();
        std::iter::once(&self.roster)
            .chain(before.filter(|_| !planted::is(Bug::RosterWithoutOldMajority)))
    }

    /// The application `name`.
    pub fn application(&self, name: &AppName) -> Option<&Application> {
        self.applications.get(name)
    }

    /// The members that `app` is placed on; nobody if there is no such application.
    pub fn placed(&self, app: &AppName) -> Option<Placed<'_>> {
        Some(self.roster.placed(&self.application(app)?.current().spec))
    }

    /// Whether `app` is placed on `member`.
    pub fn is_placed(&self, app: &AppName, member: MemberId) -> bool {
        self.placed(app).is_some_and(|placed| placed.contains(member))
    }

    /// Whether the open window covers `app`, so that no vote is taken on it.
    pub fn window_covers(&self, app: &AppName) -> bool {
        self.window.as_ref().is_some_and(|w| w.covers(app))
    }

    /// The open window, if edits of the live content of `app` are publications in it.
    pub fn automatic(&self, app: &AppName) -> Option<&Window> {
        self.window.as_ref().filter(|w| w.mode == WindowMode::Automatic && w.covers(app))
    }

    /// The root each application should have, by name: what a member that is
    /// in step holds.
    pub fn roots(&self) -> BTreeMap<AppName, Digest> {
        self.applications.iter().map(|(n, a)| (n.clone(), a.current().root)).collect()
    }
}

/// The id of the cluster that `nonce` and its first roster found.
pub fn cluster_id(nonce: &[u8; 32], roster: &Roster) -> ClusterId {
    let mut bytes = nonce.to_vec();
    bytes.extend_from_slice(&roster.digest().0);
    ClusterId(Digest::of("althing cluster", &bytes))
}

/// What the signed accepts cover: enough to check a change of roster without
/// the whole catalog that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// See [`Catalog::cluster`].
    pub cluster: ClusterId,
    /// See [`Catalog::sequence`].
    pub sequence: u64,
    /// Digest of the roster.
    pub roster: Digest,
    /// Digest of the roster before, where it changed.
    pub roster_before: Option<Digest>,
    /// Digest of everything else.
    pub body: Digest,
}

impl Header {
    /// The digest of the catalog with this header.
    pub fn digest(&self) -> Digest {
        Digest::of("althing catalog", &wire::encode(Kind::Message, self))
    }
}

/// The ordered list of all enrolled members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// In failover order.
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::MEMBERS_MAX }>")]
    pub members: Vec<Enrolled>,
}

impl Roster {
    /// The digest of all entries in order.
    pub fn digest(&self) -> Digest {
        Digest::of("althing roster", &wire::encode(Kind::Message, self))
    }

    /// The entry of `id`.
    pub fn get(&self, id: MemberId) -> Option<&Enrolled> {
        self.members.iter().find(|m| m.id == id)
    }

    /// The entry named `name`.
    pub fn named(&self, name: &MemberName) -> Option<&Enrolled> {
        self.members.iter().find(|m| &m.name == name)
    }

    /// Whether `id` is enrolled.
    pub fn contains(&self, id: MemberId) -> bool {
        self.get(id).is_some()
    }

    /// The members that an application with `spec` is placed on.
    pub fn placed<'a>(&'a self, spec: &'a AppSpec) -> Placed<'a> {
        Placed { roster: self, placement: spec.placement.as_ref() }
    }

    /// The members whose promise, accept and ballot count.
    pub fn voters(&self) -> impl Iterator<Item = &Enrolled> {
        self.members.iter().filter(|m| m.voter)
    }

    /// How many voters are a strict majority. Always of all that are
    /// enrolled, never of those in view.
    pub fn majority(&self) -> usize {
        majority(self.voters().count())
    }

    /// Whether `members` hold a strict majority of the voters.
    pub fn is_majority(&self, members: &BTreeSet<MemberId>) -> bool {
        self.voters().filter(|m| members.contains(&m.id)).count() >= self.majority()
    }
}

/// One enrolled member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// The hash of `key`.
    pub id: MemberId,
    /// Whom connections are accepted from.
    pub key: PublicKey,
    /// Unique in the roster.
    pub name: MemberName,
    /// Where it was reachable when it joined; gossip knows newer ones.
    pub address: SocketAddr,
    /// What placement chooses by.
    pub tags: BTreeMap<String, String>,
    /// Whether its promise, accept and ballot count. A member is enrolled
    /// without a vote and receives it once it runs, so that a newcomer that
    /// never starts can't cost the cluster its majority.
    pub voter: bool,
    /// Holds the content and waits to be brought in.
    pub standby: bool,
}

/// The members that an application is placed on. Those of them with a vote are its
/// electorate, reachable or not.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'a> {
    roster: &'a Roster,
    placement: Option<&'a Placement>,
}

impl<'a> Placed<'a> {
    /// Whether it is placed on `member`.
    pub fn holds(&self, member: &Enrolled) -> bool {
        self.placement.is_none_or(|placement| placement.matches(&member.tags))
    }

    /// The same by id: not for one that is not enrolled.
    pub fn contains(&self, member: MemberId) -> bool {
        self.roster.get(member).is_some_and(|member| self.holds(member))
    }

    /// All of them, in failover order.
    pub fn members(self) -> impl Iterator<Item = &'a Enrolled> {
        self.roster.members.iter().filter(move |member| self.holds(member))
    }

    /// Those whose ballots count.
    pub fn voters(self) -> impl Iterator<Item = &'a Enrolled> {
        self.members().filter(|member| member.voter)
    }

    /// How many of the electorate are a strict majority.
    pub fn majority(self) -> usize {
        majority(self.voters().count())
    }

    /// Whether `members` hold a strict majority of the electorate.
    pub fn is_majority(self, members: &BTreeSet<MemberId>) -> bool {
        self.voters().filter(|m| members.contains(&m.id)).count() >= self.majority()
    }
}

/// How many of `voters` are a strict majority.
fn majority(voters: usize) -> usize {
    voters / 2 + usize::from(!planted::is(Bug::MajorityOffByOne))
}

/// Whether a member may have `tags`. The error is a sentence for the user.
pub fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), String> {
    if tags.len() > limits::TAGS_MAX {
        return Err(format!("A member can have {} tags.", limits::TAGS_MAX));
    }
    let bytes: usize = tags.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > limits::TAGS_BYTES_MAX {
        let bound = limits::TAGS_BYTES_MAX;
        return Err(format!("The tags of a member can have {bound} bytes in all."));
    }
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '/');
    for (key, value) in tags {
        let shown: String = key.chars().take(80).collect();
        if key.is_empty() || key.len() > limits::TAG_KEY_MAX || !key.chars().all(fine) {
            return Err(format!(
                "{shown:?} is no name for a tag: use 1 to {} letters, digits, hyphens, dots, \
                 underscores and slashes.",
                limits::TAG_KEY_MAX
            ));
        }
        if value.len() > limits::TAG_VALUE_MAX || value.chars().any(char::is_control) {
            return Err(format!(
                "The value of the tag {shown} has more than {} bytes, or control characters.",
                limits::TAG_VALUE_MAX
            ));
        }
    }
    if tags.contains_key(CAPACITY) && capacity_tag(tags).is_none() {
        return Err(format!(
            "The tag {CAPACITY} says how much of the requests a member is given beside others: it \
             is a number from 1 to {CAPACITY_MAX}."
        ));
    }
    Ok(())
}

/// The tag that says what a member can take beside others.
const CAPACITY: &str = "capacity";
/// The most of it.
const CAPACITY_MAX: u16 = 1_000;

/// What a member with `tags` can take beside others, if that is said and makes sense.
pub fn capacity_tag(tags: &BTreeMap<String, String>) -> Option<u16> {
    let value = tags.get(CAPACITY)?;
    let plain = value.bytes().all(|b| b.is_ascii_digit());
    value.parse().ok().filter(|n| plain && (1..=CAPACITY_MAX).contains(n))
}

/// So many of the newest versions are kept however they came to be.
const VERSIONS_YOUNG: usize = 5;

/// An application: what it is, and the chain of its versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Application {
    /// Oldest first; the last is the current one. Never empty.
    #[serde(deserialize_with = "versions")]
    pub versions: Vec<Version>,
}

fn versions<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Version>, D::Error> {
    let versions = wire::bounded::<_, Version, { limits::VERSIONS_MAX }>(deserializer)?;
    if versions.is_empty() {
        return Err(serde::de::Error::custom("an application without a version"));
    }
    Ok(versions)
}

impl Application {
    /// The version that members should hold and serve.
    pub fn current(&self) -> &Version {
        self.versions.last().expect("an application has a version: checked when it is decoded")
    }

    /// The one before the current one, if it is still kept.
    pub fn before_current(&self) -> Option<&Version> {
        self.versions.iter().rev().nth(1)
    }

    /// Adds the version that is to be the current one. Where too many are kept, the
    /// oldest edit goes, except for the newest few versions, and otherwise the oldest:
    /// a day of edits must not push out what somebody published.
    pub fn push(&mut self, version: Version) {
        self.versions.push(version);
        while self.versions.len() > limits::VERSIONS_MAX {
            let young = self.versions.len() - VERSIONS_YOUNG;
            let edit = self.versions[..young].iter().position(|v| v.origin == Origin::Edited);
            self.versions.remove(edit.unwrap_or(0));
        }
    }

    /// The version with `number`, if it is still kept.
    pub fn version(&self, number: u64) -> Option<&Version> {
        self.versions.iter().find(|v| v.number == number)
    }
}

/// One version of an application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "VersionForm", into = "VersionForm")]
pub struct Version {
    /// 1 and up. None is left out, though not every one is kept.
    pub number: u64,
    /// The signature of its content.
    pub root: Digest,
    /// Regular files in it.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// How it is held and served.
    pub spec: AppSpec,
    /// The member that it was published through.
    pub publisher: MemberId,
    /// When, by that member's clock.
    pub published_at: WallTime,
    /// What the publisher wrote.
    pub message: String,
    /// How it came to be.
    pub origin: Origin,
    /// Who asked for it, where that was done with a token.
    pub asked: Option<AskedBy>,
}

/// How a version came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Somebody published it.
    Published,
    /// Somebody went back to the content of the version with this number.
    Rollback(u64),
    /// A strict majority held it, outside of any window.
    Majority,
    /// Somebody edited the live content on its publisher, in a window in automatic mode.
    Edited,
}

/// What the manifest says of an application.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SpecForm", into = "SpecForm")]
pub struct AppSpec {
    /// Host names that it answers to.
    pub hosts: Vec<String>,
    /// Whether it answers for host names that no application claims.
    pub default: bool,
    /// Where its live tree stands; inside the data directory if not given.
    pub path: Option<String>,
    /// Patterns (gitignore syntax) of what belongs to nobody's vote.
    pub ignore: Vec<String>,
    /// The file that answers for a directory; `index.html` if not given.
    pub index: Option<String>,
    /// The file that answers for what is not there; `404.html` if not given.
    pub not_found: Option<String>,
    /// Which members hold it; all of them if not given.
    pub placement: Option<Placement>,
    /// How they switch to it.
    pub rollout: Rollout,
}

/// Who takes over when a coordinator is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failover {
    /// The next live member of the failover list, by itself.
    #[default]
    Auto,
    /// Nobody, until an operator says so or the coordinator returns.
    Manual,
}

/// What a strict majority that holds something other than the committed
/// version means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VotePolicy {
    /// The majority is right: what it holds becomes a new version.
    #[default]
    Majority,
    /// The committed version is right, and the majority is repaired.
    Committed,
}

/// What operators have decided about what the cluster does by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// For windows that don't say otherwise.
    pub failover: Failover,
    /// See [`VotePolicy`].
    pub vote: VotePolicy,
    /// After how many seconds a member that is down is removed; never if not given.
    pub remove_after_s: Option<u64>,
}

/// The period in which content may be changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WindowForm", into = "WindowForm")]
pub struct Window {
    /// The sequence of the catalog that opened it: never used twice.
    pub id: u64,
    /// Who presides.
    pub coordinator: MemberId,
    /// Who presided before, if anybody: how often it was taken over.
    pub takeovers: u32,
    /// The member that was asked to open it.
    pub opened_by: MemberId,
    /// When, by the coordinator's clock.
    pub opened_at: WallTime,
    /// The applications that may be changed; empty for all.
    pub scope: Vec<AppName>,
    /// Who takes over when the coordinator is lost.
    pub failover: Failover,
    /// What it is open for.
    pub mode: WindowMode,
    /// The publication under way.
    pub publication: Option<Publication>,
    /// Who asked for it to be held open, where that was done with a token. Who asked for a
    /// publication is in its version.
    pub asked: Option<AskedBy>,
}

impl Window {
    /// Whether `app` may be changed in it.
    pub fn covers(&self, app: &AppName) -> bool {
        self.scope.is_empty() || self.scope.contains(app)
    }

    /// Whether an operator holds it open.
    pub fn is_held(&self) -> bool {
        self.mode != WindowMode::Single
    }
}

/// What a window is open for.
///
/// Its order is the encoding: the first two are written as the `false` and the
/// `true` that members of the version before know, and the third only where it
/// is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WindowMode {
    /// For one publication: it closes when that has ended.
    Single,
    /// An operator holds it open, for any number of publications.
    Held,
    /// Held open, and an edit of the live content on any member is a publication.
    Automatic,
}

/// A version on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// Drawn by the publisher, so that it finds its own outcome.
    pub request: u64,
    /// Of which application.
    pub app: AppName,
    /// The number of the version that it was made against; 0 for none.
    pub base: u64,
    /// The version that is to be. Its number is `base + 1`.
    pub version: Version,
    /// Whether it is committed: if so, all that is left is to switch.
    pub committed: bool,
}

/// How a publication, or a window without one, ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowOutcome {
    /// The window.
    pub window: u64,
    /// The publication's request, or 0.
    pub request: u64,
    /// The application, if there was a publication.
    pub app: Option<AppName>,
    /// The committed version's number, or nothing where it was given up.
    pub version: Option<u64>,
    /// Who presided at the end.
    pub coordinator: MemberId,
    /// How often the window was taken over.
    pub takeovers: u32,
    /// Why it ended, for people.
    #[serde(deserialize_with = "wire::bounded_text::<_, { limits::TEXT_MAX }>")]
    pub why: String,
}

/// An invitation: the public half of a key whose private half is in a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// Checked against the newcomer's proof.
    pub key: PublicKey,
    /// Not after this, by the clock of the member that is knocked at.
    pub expires_at: WallTime,
    /// How many may still join with it. At 0 it stays until it expires, so
    /// that "used up" can be told from "unknown".
    pub uses_left: u32,
    /// Who issued it.
    pub issued_by: MemberId,
}

impl Invite {
    /// So many hex digits of an id are shown to people: with as many invitations as there can be,
    /// two begin alike once in eight billion times.
    pub const ID_SHOWN: usize = 12;
    /// So many are given at least, so that a slip names none.
    pub const ID_PREFIX_MIN: usize = 4;

    /// Whether somebody can still join with it at `at`.
    pub fn is_open(&self, at: WallTime) -> bool {
        self.uses_left > 0 && at <= self.expires_at
    }

    /// What people name it by, 64 hex digits: the public half, which lets nobody in.
    pub fn id(&self) -> String {
        self.key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SecretKey;

    fn enrolled(seed: u8, voter: bool) -> Enrolled {
        let key = SecretKey::from_seed([seed; 32]).public();
        Enrolled {
            id: MemberId::of(&key),
            key,
            name: MemberName::parse(&format!("m{seed}")).unwrap(),
            address: "127.0.0.1:7700".parse().unwrap(),
            tags: BTreeMap::new(),
            voter,
            standby: false,
        }
    }

    #[test]
    fn a_majority_is_one_of_all_enrolled_voters() {
        let mut roster = Roster { members: (1..=4).map(|s| enrolled(s, true)).collect() };
        roster.members.push(enrolled(5, false));
        assert_eq!(roster.majority(), 3);
        let ids: Vec<MemberId> = roster.members.iter().map(|m| m.id).collect();
        let set = |picks: &[usize]| picks.iter().map(|i| ids[*i]).collect::<BTreeSet<_>>();
        assert!(!roster.is_majority(&set(&[0, 1])));
        assert!(!roster.is_majority(&set(&[0, 1, 4])), "a member without a vote does not count");
        assert!(roster.is_majority(&set(&[0, 1, 3])));
    }

    #[test]
    fn an_application_is_placed_by_tags_and_voted_on_by_whom_it_is_placed_on() {
        let mut roster = Roster { members: (1..=5).map(|s| enrolled(s, s < 5)).collect() };
        for at in [0, 2, 3, 4] {
            roster.members[at].tags.insert("role".to_owned(), "web".to_owned());
        }
        let ids: Vec<MemberId> = roster.members.iter().map(|m| m.id).collect();
        let set = |picks: &[usize]| picks.iter().map(|i| ids[*i]).collect::<BTreeSet<_>>();
        let placement = Placement::parse("role == web").ok();
        let spec = AppSpec { placement, ..AppSpec::default() };
        let placed = roster.placed(&spec);
        let members: BTreeSet<MemberId> = placed.members().map(|m| m.id).collect();
        assert_eq!(members, set(&[0, 2, 3, 4]));
        assert_eq!((placed.voters().count(), placed.majority()), (3, 2));
        assert!(placed.contains(ids[4]) && !placed.contains(ids[1]));
        assert!(placed.is_majority(&set(&[0, 3])));
        assert!(!placed.is_majority(&set(&[0, 1, 4])), "one is not placed, one has no vote");
        let everywhere = AppSpec::default();
        assert_eq!(roster.placed(&everywhere).majority(), roster.majority());
    }

    #[test]
    fn the_digest_covers_everything() {
        let catalog = Catalog::found([1; 32], enrolled(1, true));
        let mut digests = BTreeSet::from([catalog.digest()]);
        let mut change = |edit: fn(&mut Catalog)| {
            let mut other = catalog.clone();
            edit(&mut other);
            assert!(digests.insert(other.digest()));
        };
        change(|c| c.sequence += 1);
        change(|c| c.conduct.policy.failover = Failover::Manual);
        change(|c| c.roster.members[0].voter = false);
        change(|c| c.roster_before = Some(c.roster.clone()));
        change(|c| c.cluster = cluster_id(&[2; 32], &c.roster));
    }

    #[test]
    fn an_application_without_a_version_is_not_decoded() {
        let bytes = wire::encode(Kind::Message, &Application { versions: vec![] });
        assert!(wire::decode::<Application>(Kind::Message, &bytes).is_err());
    }
}
