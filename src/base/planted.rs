//! Bugs planted on purpose, each at the place in the core where somebody could
//! make it by mistake: they show that the checks of the simulator see it.
//!
//! Without the feature `planted-bugs`, which no default build has, [`is`] is
//! the constant `false` and nothing is left of them. Testing the tests this
//! way is mutation testing (DeMillo, Lipton, Sayward, 1978), by hand.

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// The vote takes a majority of the ballots in hand for one of the roster.
    QuorumOfThoseInView,
    /// A majority is half, and not more than half.
    MajorityOffByOne,
    /// Messages leave before the record that they depend on is on disk.
    SkippedSync,
    /// A restarted voter does not know any more what it promised.
    ForgottenPromise,
    /// A voter accepts what is below its promise.
    AcceptedBelowPromise,
    /// One answer less than a majority is enough to propose.
    PromisesOfFewer,
    /// A proposer does not look at what was accepted before.
    SteppedOver,
    /// A restarted proposer uses its last number once more.
    BallotNumberReused,
    /// A roster change needs no majority of the roster before it.
    RosterWithoutOldMajority,
    /// A catalog of a lower sequence replaces the committed one.
    WentBack,
    /// A ballot made at an older catalog is counted in the vote.
    OldSequenceCounted,
    /// One vote of each group counts twice.
    VoteCountedTwice,
    /// Content is repaired by the word of less than a majority.
    RepairedByMinority,
    /// What one less than a majority holds is adopted.
    AdoptedByFewer,
    /// The live content is switched although the store lacks some of it.
    SwitchedBeforeWhole,
    /// A version is committed as soon as one member holds it whole.
    CommittedBeforeWhole,
    /// A publication does not check what it was made against.
    CompareAndSetSkipped,
    /// A takeover forgets what was staged.
    TakeoverDropsStaged,
    /// A window with manual failover is taken over like any other.
    ManualTakenOver,
    /// The store drops what is being published.
    StagedContentDropped,
    /// Content that is placed elsewhere is dropped before anybody has taken it over.
    GivenUpEarly,
    /// A version that did not get ready stays.
    NeverTakenBack,
    /// Members go on listening to one that they know to be removed.
    RemovedStillHeard,
    /// A refusal does not say that the change may still come into force.
    DoubtUnsaid,
    /// A rule begins to act whatever stands there: another judge may have been quicker.
    BegunTwice,
    /// Whom a rule brought into service stays there when the rule is over.
    BroughtStays,
    /// What an operator puts somewhere is still taken for what a rule brought in.
    OperatorOverruled,
    /// A rule takes a member out of service however few are left.
    TooFewStay,
    /// A member has its address put into the roster whoever has that address there.
    AddressTaken,
    /// A proposer accepts one catalog itself, and asks others for another one at that ballot.
    ToldTwice,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 30] = [
        Self::QuorumOfThoseInView,
        Self::MajorityOffByOne,
        Self::SkippedSync,
        Self::ForgottenPromise,
        Self::AcceptedBelowPromise,
        Self::PromisesOfFewer,
        Self::SteppedOver,
        Self::BallotNumberReused,
        Self::RosterWithoutOldMajority,
        Self::WentBack,
        Self::OldSequenceCounted,
        Self::VoteCountedTwice,
        Self::RepairedByMinority,
        Self::AdoptedByFewer,
        Self::SwitchedBeforeWhole,
        Self::CommittedBeforeWhole,
        Self::CompareAndSetSkipped,
        Self::TakeoverDropsStaged,
        Self::ManualTakenOver,
        Self::StagedContentDropped,
        Self::GivenUpEarly,
        Self::NeverTakenBack,
        Self::RemovedStillHeard,
        Self::DoubtUnsaid,
        Self::BegunTwice,
        Self::BroughtStays,
        Self::OperatorOverruled,
        Self::TooFewStay,
        Self::AddressTaken,
        Self::ToldTwice,
    ];

    /// Those in what rules do: only runs in which rules act can see them.
    pub const OF_RULES: [Self; 4] =
        [Self::BegunTwice, Self::BroughtStays, Self::OperatorOverruled, Self::TooFewStay];

    /// Those in what is done about members that move: only runs in which they do can see them.
    pub const OF_MOVES: [Self; 1] = [Self::AddressTaken];

    /// Those in how content goes from member to member: seen where much of it does.
    pub const OF_HANDOVERS: [Self; 1] = [Self::GivenUpEarly];

    /// The bug with this name, as `Debug` writes it.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| format!("{bug:?}") == name)
    }
}

/// Whether `bug` is planted: never, in this build.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn is(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Whether `bug` is planted on this thread.
#[cfg(feature = "planted-bugs")]
pub fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Plants `bug`, or none, on this thread.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}
