//! A cluster that has lost its majority for ever can prove nothing any more.
//! Recovery does not pretend otherwise: it founds a *successor* of which one
//! survivor is the only member, with an id of its own.
//!
//! Why that is safe. The successor's id is drawn from the old one's and fresh
//! randomness, so no signature, promise or accept of either cluster counts in
//! the other, and their transports refuse each other before anything is said.
//! Should the old majority come back after all, it is still the old cluster,
//! as it was; nothing that it committed is overwritten by ours, and nothing of
//! ours enters it. What recovery can't do is to know what the lost majority
//! committed and this member never heard of: that is an operator's decision.

use super::{BallotNumber, Certificate, Committed, Lineage, Record, certificate::sign_accept};
use crate::base::{
    Digest, MemberId, SecretKey,
    catalog::{Catalog, Roster, WindowOutcome, cluster_id},
    limits,
};

impl Record {
    /// The newest catalog that this member knows of: what it accepted last may
    /// have been committed by the others, and whoever proposes next would
    /// have to commit it first. So it is not left behind.
    pub fn newest(&self) -> &Catalog {
        let committed = &self.committed.catalog;
        match &self.accepted {
            Some(accepted) if accepted.catalog.sequence > committed.sequence => &accepted.catalog,
            _ => committed,
        }
    }

    /// The record of the same member in a successor of its cluster that it
    /// founds alone. Applications, versions, outcomes and policies are kept;
    /// an open window and the invitations, which name the old cluster, are not.
    /// `random` are 32 bytes that nobody can guess. `None` if `key` is not
    /// that of an enrolled member.
    pub fn succeed(&self, random: [u8; 32], key: &SecretKey) -> Option<Self> {
        let me = key.member();
        let before = self.newest();
        let founder = before.roster.get(me).or_else(|| self.committed.catalog.roster.get(me));
        let mut founder = founder.filter(|m| m.key == key.public())?.clone();
        founder.voter = true;
        let roster = Roster { members: vec![founder] };
        let nonce = successor_nonce(before, &random);
        let mut catalog = Catalog {
            cluster: cluster_id(&nonce, &roster),
            sequence: before.sequence + 1,
            roster,
            roster_before: None,
            window: None,
            invites: Vec::new(),
            ..before.clone()
        };
        if let Some(window) = &before.window {
            let publication = window.publication.as_ref();
            let committed = publication.filter(|p| p.committed);
            catalog.outcomes.push(WindowOutcome {
                window: window.id,
                request: publication.map_or(0, |p| p.request),
                app: publication.map(|p| p.app.clone()),
                version: committed.map(|p| p.version.number),
                coordinator: window.coordinator,
                takeovers: window.takeovers,
                why: "the cluster was recovered while it was open".to_owned(),
            });
            let surplus = catalog.outcomes.len().saturating_sub(limits::OUTCOMES_MAX);
            catalog.outcomes.drain(..surplus);
        }
        Some(founded(catalog, me, key))
    }
}

fn successor_nonce(before: &Catalog, random: &[u8; 32]) -> [u8; 32] {
    let mut bytes = before.cluster.0.0.to_vec();
    bytes.extend_from_slice(&before.digest().0);
    bytes.extend_from_slice(random);
    Digest::of("althing recovery", &bytes).0
}

fn founded(catalog: Catalog, me: MemberId, key: &SecretKey) -> Record {
    let ballot = BallotNumber { round: 1, proposer: me };
    let signature = sign_accept(key, ballot, catalog.digest());
    let header = catalog.header();
    let certificate = Certificate { header, ballot, accepts: vec![(me, signature)] };
    let committed = Committed { catalog, certificate };
    let lineage = Lineage::found(&committed.catalog);
    Record { promised: ballot, accepted: None, committed, lineage }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::{
        AppName, MemberName, WallTime,
        catalog::{AppSpec, Application, Enrolled, Origin, Version},
    };
    use crate::proto::catalog::{Accepted, CatchUp};

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed([seed; 32])
    }

    fn entry(seed: u8) -> Enrolled {
        let key = key(seed);
        Enrolled {
            id: key.member(),
            key: key.public(),
            name: MemberName::parse(&format!("m{seed}")).unwrap(),
            address: "127.0.0.1:7700".parse().unwrap(),
            tags: BTreeMap::from([("role".to_owned(), "web".to_owned())]),
            voter: true,
            standby: false,
        }
    }

    /// A record of member 1 in a cluster of three, with an application.
    fn old() -> Record {
        let mut record = Record::found([9; 32], &key(1), entry(1));
        let catalog = &mut record.committed.catalog;
        catalog.sequence = 42;
        catalog.roster.members.extend([entry(2), entry(3)]);
        let version = Version {
            number: 7,
            root: Digest::of_bytes(b"site"),
            files: 1,
            bytes: 4,
            spec: AppSpec::default(),
            publisher: key(2).member(),
            published_at: WallTime(5),
            message: String::new(),
            origin: Origin::Published,
            asked: None,
        };
        let web = AppName::parse("web").unwrap();
        catalog.applications.insert(web, Application { versions: vec![version] });
        record
    }

    #[test]
    fn a_successor_is_another_cluster_with_the_same_content() {
        let old = old();
        let new = old.succeed([3; 32], &key(1)).unwrap();
        let (before, after) = (&old.committed.catalog, &new.committed.catalog);
        assert_ne!(after.cluster, before.cluster);
        assert_eq!(after.applications, before.applications);
        assert_eq!((after.conduct.policy, after.sequence), (before.conduct.policy, 43));
        let names: Vec<&str> = after.roster.members.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["m1"]);
        assert_eq!(after.roster.members[0].tags, before.roster.members[0].tags);
        new.lineage.check(after.cluster).unwrap();
        let own = CatchUp { committed: new.committed.clone(), links: new.lineage.after(0) };
        new.lineage.follow(after.cluster, &own).unwrap();
    }

    #[test]
    fn neither_cluster_believes_the_other() {
        let old = old();
        let new = old.succeed([3; 32], &key(1)).unwrap();
        let theirs = CatchUp { committed: new.committed.clone(), links: new.lineage.after(0) };
        let cluster = old.committed.catalog.cluster;
        assert!(old.lineage.follow(cluster, &theirs).is_err());
        assert!(!new.lineage.has(old.lineage.anchor()));
        let ours = CatchUp { committed: old.committed.clone(), links: old.lineage.after(0) };
        assert!(new.lineage.follow(new.committed.catalog.cluster, &ours).is_err());
        // Two survivors that both recover are two clusters, and so is one that does it twice.
        let twice = old.succeed([4; 32], &key(1)).unwrap();
        assert_ne!(twice.committed.catalog.cluster, new.committed.catalog.cluster);
        let other = old.succeed([3; 32], &key(2)).unwrap();
        assert_ne!(other.committed.catalog.cluster, new.committed.catalog.cluster);
    }

    #[test]
    fn what_was_accepted_last_is_not_left_behind() {
        let mut old = old();
        let mut catalog = old.committed.catalog.clone();
        catalog.sequence = 43;
        catalog.conduct.policy.vote = crate::base::catalog::VotePolicy::Committed;
        let ballot = BallotNumber { round: 9, proposer: key(2).member() };
        old.accepted = Some(Accepted { ballot, catalog: Box::new(catalog.clone()) });
        let new = old.succeed([3; 32], &key(1)).unwrap().committed.catalog;
        assert_eq!((new.sequence, new.conduct.policy), (44, catalog.conduct.policy));
    }

    #[test]
    fn only_an_enrolled_member_founds_a_successor() {
        assert!(old().succeed([3; 32], &key(9)).is_none());
    }
}
