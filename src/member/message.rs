//! What members say to each other beside SWIM packets and content.

use serde::{Deserialize, Serialize};

use super::{change::Change, troubles::Trouble};
use crate::{
    base::{AppName, MemberId, Refusal, limits, operator::AskedBy, wire},
    proto::{balance::lease, catalog, rollout, rumor, vote::SignedBallot},
};

/// One message. It comes over a connection whose peer's key was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Of the register.
    Register(catalog::Message),
    /// What the sender, or somebody it speaks for, holds.
    Ballot(SignedBallot),
    /// Please propose this: you preside.
    Forward {
        /// Drawn by the sender; comes back in the answer.
        id: u64,
        /// What.
        change: Box<Change>,
    },
    /// What became of it.
    Forwarded {
        /// As given.
        id: u64,
        /// The outcome.
        answer: Answer,
    },
    /// Please take what you hold of this application as its next version: an
    /// operator decided a hung vote for you.
    Resolve {
        /// Drawn by the sender; comes back in [`Message::Forwarded`].
        id: u64,
        /// Which.
        app: AppName,
    },
    /// I see you live again: this is what I hold, please say what you do.
    Greeting(SignedBallot),
    /// An operator's event or question, and what belongs to it.
    Rumor(rumor::Message),
    /// Membership state that no packet holds: what
    /// [`Effect::Exchange`](crate::proto::membership::Effect::Exchange) carries.
    Membership(Vec<u8>),
    /// What keeps me from holding what I should: all of it, or the first few.
    Troubles {
        /// None if nothing does any longer.
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::TROUBLES_MAX }>")]
        list: Vec<Trouble>,
    },
    /// Who holds which virtual address.
    Address(lease::Message),
    /// How the versions that I switched to a moment ago do here.
    Rollout {
        /// Those that changed last, and all that failed.
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::NOTES_MAX }>")]
        list: Vec<rollout::Note>,
    },
    /// How many processors I have.
    Capacity(u16),
    /// As [`Message::Resolve`], of somebody who showed a token. A member of the version before
    /// doesn't know it, and gives no answer.
    ResolveFor {
        /// Drawn by the sender; comes back in [`Message::Forwarded`].
        id: u64,
        /// Which.
        app: AppName,
        /// Who, and where.
        asked: AskedBy,
    },
}

/// The answer to [`Message::Forward`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It holds from this sequence on.
    Done(u64),
    /// It was refused.
    Refused(Refusal),
    /// A member that stands before me in the failover list is live: ask it.
    Elsewhere(MemberId),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        base::{
            MemberName, OperatorName, Reason, SecretKey,
            wire::{self, Kind},
        },
        member::admission::{Knock, Token, Welcome},
        proto::catalog::Record,
    };

    fn refusal() -> Refusal {
        Refusal::new(Reason::Busy, "what", "why", "todo")
    }

    /// One of each kind, encoded.
    fn samples() -> Vec<Vec<u8>> {
        let key = SecretKey::from_seed([3; 32]);
        let ask = catalog::Message::Ask { sequence: 7 };
        let answer = Answer::Refused(refusal());
        let remove = Change::Remove { member: key.member() };
        let messages = [
            Message::Register(ask),
            Message::Forwarded { id: 1, answer },
            Message::Forward { id: 2, change: Box::new(remove) },
            Message::Resolve { id: 3, app: AppName::parse("web").unwrap() },
            Message::Troubles {
                list: vec![Trouble::new(AppName::parse("web").unwrap(), "no room")],
            },
            Message::Address(lease::Message::Answer {
                round: 9,
                able: true,
                granted: vec![[10, 0, 0, 100].into()],
                refused: vec![([10, 0, 0, 101].into(), 30)],
            }),
            Message::Rollout {
                list: vec![rollout::Note {
                    app: AppName::parse("web").unwrap(),
                    version: 7,
                    state: rollout::State::Failed("it ended".to_owned()),
                }],
            },
            Message::Capacity(4),
            Message::ResolveFor {
                id: 4,
                app: AppName::parse("web").unwrap(),
                asked: AskedBy {
                    operator: OperatorName::parse("alice").unwrap(),
                    at: MemberName::parse("web1").unwrap(),
                },
            },
        ];
        let mut samples: Vec<Vec<u8>> =
            messages.iter().map(|m| wire::encode(Kind::Message, m)).collect();
        samples.push(wire::encode(Kind::Message, &Welcome::Refused(refusal())));
        samples
    }

    fn is_refused(bytes: &[u8]) -> bool {
        wire::decode::<Message>(Kind::Message, bytes).is_err()
            && wire::decode::<Welcome>(Kind::Message, bytes).is_err()
    }

    #[test]
    fn what_is_cut_short_or_has_something_behind_it_is_refused() {
        for sample in samples() {
            assert!(!is_refused(&sample), "the sample itself is good");
            for cut in 0..sample.len() {
                assert!(is_refused(&sample[..cut]), "{cut} of {} bytes", sample.len());
            }
            let longer = [sample.as_slice(), &[0]].concat();
            assert!(is_refused(&longer));
        }
        let oversized = vec![1; Kind::Message.size_max() + 1];
        assert!(is_refused(&oversized));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 1..600)) {
            bytes[0] = wire::VERSION; // past the first check
            let _ = wire::decode::<Message>(Kind::Message, &bytes);
            let _ = wire::decode::<Welcome>(Kind::Message, &bytes);
            let _ = wire::decode::<Record>(Kind::Record, &bytes);
            if bytes.len() <= Kind::Knock.size_max() {
                let _ = wire::decode::<Knock>(Kind::Knock, &bytes);
                let _ = wire::decode::<Token>(Kind::Knock, &bytes);
            }
        }

        #[test]
        fn a_damaged_message_never_panics(pick in 0_usize..10, at in any::<prop::sample::Index>(), byte: u8) {
            let mut bytes = samples().swap_remove(pick);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = wire::decode::<Message>(Kind::Message, &bytes);
            let _ = wire::decode::<Welcome>(Kind::Message, &bytes);
        }
    }
}
