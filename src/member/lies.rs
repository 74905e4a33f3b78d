//! Members of which this one has found that they told two things in one ballot of the register:
//! what is told of them, and for how long. It decides nothing.
//!
//! What was found stays until its member is removed or this one starts again. It is not kept on
//! disk: who lies once does so again, or has been seen to, and the event stays in the log.

use std::collections::BTreeMap;

use super::{
    Member,
    event::{EventKind, Severity},
    io::Effect,
};
use crate::{
    base::{MemberId, catalog::Roster},
    proto::catalog::{Evidence, Heard, Statement},
};

/// What was found, the first of each member.
#[derive(Debug, Default)]
pub(super) struct Lies {
    found: BTreeMap<MemberId, Evidence>,
}

impl Lies {
    /// Whether it is news: of one that nothing was known of, or the first that does not rest on
    /// somebody's mere word.
    fn take(&mut self, evidence: Evidence) -> bool {
        let known = self.found.get(&evidence.proposer());
        let news = known
            .is_none_or(|known| !known.rests_on().is_empty() && evidence.rests_on().is_empty());
        if news {
            self.found.insert(evidence.proposer(), evidence);
        }
        news
    }

    /// Forgets everybody who is not enrolled.
    pub(super) fn retain(&mut self, roster: &Roster) {
        self.found.retain(|member, _| roster.contains(*member));
    }
}

impl Member {
    /// The register has found one. Whoever is not enrolled any more is of no interest.
    pub(super) fn on_lie(&mut self, evidence: Evidence, effects: &mut Vec<Effect>) {
        let liar = evidence.proposer();
        if !self.catalog().roster.contains(liar) || !self.lies.take(evidence.clone()) {
            return;
        }
        let (one, other) = (self.stated(&evidence.one), self.stated(&evidence.other));
        let text = format!(
            "{} told two things in ballot {}: {one}, and {other}{}",
            self.name_of(liar),
            evidence.ballot.round,
            self.or_who_says_so(&evidence)
        );
        let mut event = self.event(Severity::Critical, EventKind::Lie, liar, None, text);
        event.evidence = Some(Box::new(evidence));
        effects.push(Effect::Event(event));
    }

    /// A sentence or two for each that was found: what it means and what to do.
    pub(super) fn lies_told(&self) -> Vec<String> {
        self.lies.found.values().map(|evidence| self.warning(evidence)).collect()
    }

    fn warning(&self, evidence: &Evidence) -> String {
        let (liar, round) = (evidence.proposer(), evidence.ballot.round);
        let name = self.name_of(liar);
        let by_word = self.names_of(&evidence.rests_on());
        if !by_word.is_empty() {
            return format!(
                "{name} said two things in ballot {round}, or {by_word} lies, by whose word alone \
                 it is known: one of them is broken or stolen. Look at what the others tell: \
                 `althing events --all --kind lie`."
            );
        }
        if liar == self.me {
            return format!(
                "This member said two things in ballot {round}: its key is in use twice, or it was \
                 started from an old copy of its data directory. Stop it, remove it on another \
                 member: `althing remove {name}`, and join it anew with an empty data directory."
            );
        }
        format!(
            "{name} said two things in ballot {round}: it is broken or stolen, or was started from \
             an old copy of its data directory. Remove it: `althing remove {name}`."
        )
    }

    /// What was said, by whom.
    fn stated(&self, statement: &Statement) -> String {
        let (sequence, digest) = (statement.header.sequence, statement.digest().short());
        let (catalog, from) = (format!("catalog {sequence} ({digest})"), statement.from);
        match statement.heard {
            Heard::Proposed => format!("it asked this member to accept {catalog}"),
            Heard::Committed if from == self.me => format!("a majority signed {catalog}"),
            Heard::Committed => {
                format!("a majority signed {catalog}, which {} brought", self.name_of(from))
            }
            Heard::Reported => format!("{} says that it accepted {catalog}", self.name_of(from)),
        }
    }

    fn or_who_says_so(&self, evidence: &Evidence) -> String {
        match self.names_of(&evidence.rests_on()) {
            names if names.is_empty() => String::new(),
            names => format!("; or {names} lies"),
        }
    }

    fn names_of(&self, members: &[MemberId]) -> String {
        let names: Vec<String> = members.iter().map(|member| self.name_of(*member)).collect();
        names.join(" or ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{ClusterId, Digest, SecretKey, catalog::Header},
        proto::catalog::BallotNumber,
    };

    fn id(seed: u8) -> MemberId {
        SecretKey::from_seed([seed; 32]).member()
    }

    fn evidence(proposer: u8, heard: Heard) -> Evidence {
        let header = |what: &[u8]| Header {
            cluster: ClusterId(Digest::of_bytes(b"cluster")),
            sequence: 7,
            roster: Digest::of_bytes(b"roster"),
            roster_before: None,
            body: Digest::of_bytes(what),
        };
        let statement = |what: &[u8], heard| Statement {
            header: header(what),
            heard,
            from: id(9),
            accepts: Vec::new(),
        };
        Evidence {
            ballot: BallotNumber { round: 3, proposer: id(proposer) },
            told_by: id(8),
            one: statement(b"one", Heard::Proposed),
            other: statement(b"other", heard),
        }
    }

    #[test]
    fn each_member_is_told_of_once_and_again_only_where_it_rests_on_no_word() {
        let mut lies = Lies::default();
        assert!(lies.take(evidence(1, Heard::Reported)));
        assert!(!lies.take(evidence(1, Heard::Reported)));
        assert!(lies.take(evidence(1, Heard::Committed)));
        assert!(!lies.take(evidence(1, Heard::Proposed)));
        assert!(!lies.take(evidence(1, Heard::Reported)));
        assert!(lies.take(evidence(2, Heard::Proposed)), "another member");
        lies.retain(&Roster::default());
        assert!(lies.take(evidence(1, Heard::Reported)), "it was removed, and came back");
    }
}
