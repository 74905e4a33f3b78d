//! Events: everything that acts leaves one that says why.

use serde::{Deserialize, Serialize};

use crate::{
    base::{AppName, MemberName, WallTime, operator::AskedBy},
    proto::catalog::Evidence,
};

/// How much an event matters to an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// As it should be.
    Info,
    /// Something was not as it should be, and was dealt with or may need a look.
    Warning,
    /// Somebody should look now.
    Critical,
}

/// When events of a kind have a severity, and what is to be done about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occasion {
    /// How much they matter.
    pub severity: Severity,
    /// What brings them about, in sentences.
    pub when: &'static str,
    /// What is to be done, in sentences.
    pub todo: &'static str,
}

macro_rules! kinds {
    ($(
        $id:ident $word:literal $help:literal {
            $($severity:ident $when:literal $todo:literal)+
        }
    )*) => {
        /// What an event is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum EventKind {
            $(#[doc = $help] $id,)*
        }

        impl EventKind {
            /// All of them, in the order of the reference.
            pub const ALL: &'static [Self] = &[$(Self::$id,)*];

            /// As it is written everywhere.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$id => $word,)*
                }
            }

            /// What it is about, in a sentence.
            pub const fn help(self) -> &'static str {
                match self {
                    $(Self::$id => $help,)*
                }
            }

            /// When there are such events, by severity, the least first.
            pub const fn occasions(self) -> &'static [Occasion] {
                match self {
                    $(Self::$id => &[$(Occasion {
                        severity: Severity::$severity,
                        when: $when,
                        todo: $todo,
                    },)+],)*
                }
            }
        }
    };
}

kinds! {
    Member "member" "This member itself: its start and end, its disk, its logs, its own pace." {
        Info
            "It has left, or has a new key. Its record, its series, its events or its access log \
             can be kept again. The file of origins was read anew, or the certificate of the \
             status port."
            "Nothing."
        Warning
            "The event loop took more than half a second for one thing, or the whole process stood \
             still for so long. Series, events or the access log can't be kept, or lines of the \
             log are left out. The log of events was damaged and begun anew. The file of origins \
             can't be read. The certificate of the status port can't be used, has expired or \
             expires soon. The socket for what services measure is not there."
            "Look for a disk that is full or slow, or for a machine with too much to do; `althing \
             doctor` says which of its disks and limits are short. What is not kept is tried again \
             by itself. Replace the certificate and its key, and send SIGHUP."
        Critical
            "Its record can't be written: until it can, it promises and accepts nothing. It was \
             removed. Others do not know it, or another cluster answers at their addresses."
            "Free the disk. Where it was removed while it was away, join it anew with a token and \
             an empty data directory; where the cluster was recovered without it, `althing recover \
             --rejoin`."
    }
    Membership "membership" "Another member: whether it is live, and whether it is reached." {
        Info
            "It is live, is suspected, answers after all, has left, or answers this member \
             directly again."
            "Nothing. Many suspicions about one member that come to nothing say that it, or its \
             link, is slow."
        Warning
            "It is down: it answers nobody. Or it answers others and not this member, because the \
             way between the two is cut."
            "Start it again, or see to the network: `althing members --reach` says who does not \
             reach whom. One that is gone for good is taken out with `althing remove`."
    }
    Catalog "catalog" "What all members agree on: roster, tags, invitations, policies." {
        Info
            "A member was admitted, has a vote, was removed, has a new key, other tags, or was put \
             in or out of service; the failover list or a policy was changed; an invitation was \
             issued."
            "Nothing, if it was meant."
        Warning
            "A newcomer was not admitted. A member that was down for as long as the policy \
             `remove-after` says was removed."
            "Issue another invitation if the newcomer was expected. Whoever was removed by the \
             policy joins anew."
        Critical
            "The cluster was recovered from the loss of its majority: it is the successor of the \
             one before."
            "Rejoin the members that are left with `althing recover --rejoin`, and never start the \
             others again with what they held."
    }
    Window "window" "An update window." {
        Info
            "It was opened, is held, was taken over by another coordinator, or was closed."
            "Nothing. One that was opened by hand is to be closed by hand: `althing window close`."
    }
    Version "version" "A version of an application, on its way to this member." {
        Info
            "It was committed. This member switched to it, or took away what is placed on others \
             now. Its hook after the switch ended well after all. It is to go back and can't yet."
            "Nothing."
        Warning
            "It did not get ready on a member, and was brought back or held. Its hook after the \
             switch failed. What was edited gave way to it, or can't be published yet. What is \
             placed on others can't be taken away."
            "Read the logs of what did not get ready, `althing logs APP`, and publish a version \
             that does. What gave way is kept aside: `althing restore APP`."
        Critical
            "This member could not switch to it: its disk is full, its hook before the switch \
             refuses, or something stands in the way."
            "Do what the event says. It is tried again by itself, and until then this member \
             serves the version before, or passes requests on."
    }
    Vote "vote" "Who holds what: a difference, its end, or no decision." {
        Info
            "A member that differed holds the current version again."
            "Nothing."
        Warning
            "A member holds something else than the current version. The scrub found that a disk \
             does not hold what was written there."
            "Nothing at once: it is repaired by the majority's content. Where it comes again and \
             again, find out what writes there, or replace the disk."
        Critical
            "The vote is hung: no majority holds the same, and nobody holds the current version \
             whole. Nothing is touched."
            "Compare with `althing votes` and decide: `althing resolve APP --member NAME`."
    }
    Repair "repair" "Content of this member that was put right." {
        Warning
            "What differed from the version that the majority holds was replaced by it; the event \
             names how many files and the first of them."
            "Find out who changed them. What was replaced is kept aside: `althing restore APP`."
        Critical
            "It could not be repaired."
            "Do what the event says: a full disk and wrong permissions are the usual reasons. It \
             is tried again by itself."
    }
    Replication "replication" "Content on its way between members, and in this member's store." {
        Warning
            "A fetch from a member ended before its time, or one that was asked beside others lied or \
             crawls; others are asked. The scrub found pieces of the store rotten or lost. Live files \
             can't be watched, so edits are noticed a few seconds later."
            "Nothing at once: what is lacking is fetched again. Who lies has a damaged disk or is not \
             what it should be; who crawls has too much to do. Rot that comes again is a disk to be \
             replaced; for watches, raise `fs.inotify.max_user_watches`."
    }
    Service "service" "A program of an application, a port of its own, or its certificate." {
        Info
            "It was started, restarted, is ready, is well again, ended by itself with status 0, or \
             was stopped. The user that it runs as was let through the data directory. A port was \
             opened or closed. A certificate is in use, or as it should be again."
            "Nothing."
        Warning
            "It ended, was killed, can't be started, is not ready in time, or does not answer its \
             checks. A port can't be had. A certificate expires soon, or is not made out for a \
             host name."
            "Read its log: `althing logs APP SERVICE`. It is started again by itself, with longer \
             and longer pauses. Set a new certificate with `althing secret set`."
        Critical
            "It ended so often that it is not started again. What the version defines can't be \
             used. A certificate has expired or can't be used, and nobody can come by TLS."
            "Publish a version that works, or go back: `althing rollback APP`. `althing restart \
             APP` begins anew."
    }
    Address "address" "A virtual address." {
        Info
            "This member has taken it, or given it up because another one has it, no application \
             has it any more, or this member may not hold it."
            "Nothing."
        Warning
            "It was given up because no majority answered in time. Or this member can't hold \
             addresses at all."
            "See to the majority: `althing status`. To hold addresses a member needs the \
             capabilities NET_ADMIN and NET_RAW; without them the others hold them."
    }
    User "user" "Something that an operator or a program told all members: `althing event`." {
        Info
            "Somebody told it."
            "What you have agreed on."
    }
    Rule "rule" "A rule: it acts, does something, is over, or is silenced." {
        Info
            "A rule without a severity acts. Any rule is over, is held back by `cooldown` or \
             `at-most`, or has done what it says. A silence was set or ended."
            "Nothing."
        Warning
            "A rule with `warning` acts. What a rule is to do failed. A set of origins can't be \
             counted, so that rules about it never act."
            "Look at what was measured, which stands behind the bound; at who could not be told; \
             at how many sets of origins there are."
        Critical
            "A rule with `critical` acts. Or a rule acts on half of all members at once, and does \
             nothing about them."
            "Look at what was measured. Where many members are hit at once, the cause is none of \
             theirs: load, a network, a release."
    }
    Operator "operator" "Somebody who acts over the network, with a token." {
        Info
            "An operator asks for something at the status port: it is told before it is done. \
             Somebody may act over the network from now on, or no more."
            "Nothing, if it was meant. `althing operator remove NAME` makes a token worth nothing."
        Warning
            "What an operator asked for was refused. A token was shown that is nobody's."
            "A token that is nobody's is one that was removed or has expired, or somebody who tries \
             the door: look at what else happens on that machine."
    }
    Lie "lie" "A member that told two things where it may tell one: never, where all are honest." {
        Critical
            "A member proposed two catalogs in one ballot: it is broken, stolen, or was started from \
             an old copy of its data directory. Where the event ends with `or ... lies`, it is known \
             by the word of a member only, and it may be that one. What was accepted here first was \
             not given up for the second, unless a majority has signed that one. With `--json` it \
             shows `evidence`: the ballot, both catalogs, from whom each came, and who signed them."
            "Remove it: `althing remove NAME`. Then look what it did, as after a theft. Where it may \
             be another one that lies, compare what the others tell: `althing events --all --kind \
             lie`."
    }
}

/// What a user's event says, for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserEvent {
    /// The member that it was told on.
    pub origin: String,
    /// What it is about.
    pub name: String,
    /// What goes with it.
    pub payload: String,
    /// Lamport time: higher than that of everything that could have caused it.
    pub time: u64,
}

/// One event of one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up from 1 since this member started.
    pub number: u64,
    /// When, by this member's clock.
    pub at: WallTime,
    /// How much it matters.
    pub severity: Severity,
    /// What it is about.
    pub kind: EventKind,
    /// The member that it concerns.
    pub member: Option<MemberName>,
    /// The application that it concerns.
    pub app: Option<AppName>,
    /// What happened and why, in a sentence.
    pub text: String,
    /// What a user told, where it is of that kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserEvent>,
    /// The number of the event that brought it about, of the same start of the member. The log
    /// has numbers of its own, and says it by those.
    #[serde(skip)]
    pub cause: Option<u64>,
    /// The episode of a rule that it belongs to: the same on all members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub episode: Option<String>,
    /// What proves it, where it says that a member told two things.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Box<Evidence>>,
    /// Who asked for it, where that was done with a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<AskedBy>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_written_in_one_way() {
        for kind in EventKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.word());
        }
    }

    #[test]
    fn each_kind_says_when_and_what_to_do() {
        for kind in EventKind::ALL {
            let occasions = kind.occasions();
            assert!(occasions.is_sorted_by(|a, b| a.severity < b.severity), "{kind:?}");
            for text in occasions.iter().flat_map(|o| [o.when, o.todo]).chain([kind.help()]) {
                assert!(text.ends_with('.') && !text.contains(['\n', '|']), "{text}");
            }
        }
    }
}
