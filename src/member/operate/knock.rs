//! Newcomers at the door: whether one may come in, and what it is told.

use std::net::SocketAddr;

use crate::{
    base::{
        MemberId, PublicKey, Reason, Refusal, Time,
        catalog::{Enrolled, check_tags},
        wire::{self, Kind},
    },
    member::{
        Member,
        admission::{IS_ENROLLED, Knock, Welcome},
        change::{self, Change},
        event::{EventKind, Severity},
        io::Effect,
        operate::Purpose,
    },
};

impl Member {
    #[expect(clippy::too_many_arguments, reason = "it is one input, taken apart by the caller")]
    pub(in crate::member) fn on_knock(
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

    pub(in crate::member) fn welcome(&self, ticket: u64, effects: &mut Vec<Effect>) {
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
}

pub(in crate::member) fn refuse_entry(ticket: u64, refusal: Refusal, effects: &mut Vec<Effect>) {
    let bytes = wire::encode(Kind::Message, &Welcome::Refused(refusal));
    effects.push(Effect::Answer { ticket, bytes });
}
