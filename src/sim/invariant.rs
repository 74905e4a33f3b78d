//! What must hold at every step, each with the sentence that says why, and
//! what a batch of runs must have met to mean anything.

use std::fmt;

/// What must never be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// See the sentence.
    OneCatalog,
    /// See the sentence.
    Proven,
    /// See the sentence.
    NoGap,
    /// See the sentence.
    NoWayBack,
    /// See the sentence.
    OneValue,
    /// See the sentence.
    NobodyLies,
    /// See the sentence.
    ChosenStays,
    /// See the sentence.
    PromiseKept,
    /// See the sentence.
    RemovedIsOut,
    /// See the sentence.
    DurableFirst,
    /// See the sentence.
    KeyKept,
    /// See the sentence.
    AddressIsOwn,
    /// See the sentence.
    VersionsCount,
    /// See the sentence.
    MajorityAdopts,
    /// See the sentence.
    MinorityTouchesNothing,
    /// See the sentence.
    MinorityCommitsNothing,
    /// See the sentence.
    WholeVersions,
    /// See the sentence.
    MajorityIsWhole,
    /// See the sentence.
    NothingDropped,
    /// See the sentence.
    StagedStays,
    /// See the sentence.
    EditsAreEdits,
    /// See the sentence.
    ManualIsManual,
    /// See the sentence.
    ActsOnce,
    /// See the sentence.
    BroughtGoesBack,
    /// See the sentence.
    OperatorsWin,
    /// See the sentence.
    EnoughStay,
    /// See the sentence.
    SilenceStands,
    /// See the sentence.
    AnswersAreTrue,
    /// See the sentence.
    OneAnswer,
    /// See the sentence.
    Welcomed,
    /// See the sentence.
    NoSpin,
    /// See the sentence.
    Healed,
    /// See the sentence.
    NoPanic,
    /// See the sentence.
    Simulator,
}

impl Invariant {
    /// What holds, and why it matters.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::OneCatalog => {
                "one sequence number has one catalog, on all members there ever were"
            }
            Self::Proven => {
                "what a member takes for committed is signed by a majority of every roster it needs"
            }
            Self::NoGap => {
                "every commit extends the one before: nothing committed is lost or stepped over"
            }
            Self::NoWayBack => "no member goes back to a lower sequence, not even over a restart",
            Self::OneValue => {
                "one ballot number stands for one catalog: a proposer never uses it twice"
            }
            Self::NobodyLies => {
                "nobody is told to have said two things in one ballot where nobody has: people remove whom that is told of"
            }
            Self::ChosenStays => {
                "once a majority has accepted a catalog, no higher ballot stands for another one of its sequence or below"
            }
            Self::PromiseKept => {
                "a voter's word counts: it accepts and promises nothing below what it promised, not even after a restart"
            }
            Self::RemovedIsOut => {
                "who knows that a member was removed promises it nothing and accepts nothing from it"
            }
            Self::DurableFirst => {
                "no promise, accept or prepare leaves before its record is on disk"
            }
            Self::KeyKept => {
                "a member's next key is on its own disk before anybody enrols it, and stays there until it is its key"
            }
            Self::AddressIsOwn => {
                "a member's address in the roster is no other member's, and one at which it has run, unless it has changed it with one that took its place: whoever starts finds the others"
            }
            Self::VersionsCount => {
                "versions of an application count up by one and never change: two publishers never both win"
            }
            Self::MajorityAdopts => {
                "only what a strict majority of the electorate really held is adopted as their version"
            }
            Self::MinorityTouchesNothing => {
                "live content is changed only to a committed version, and by a repair only with fresh ballots of a majority in hand"
            }
            Self::MinorityCommitsNothing => {
                "a side of a partition without a majority changes nothing"
            }
            Self::WholeVersions => {
                "a member serves only what its store holds whole, and knows what it holds"
            }
            Self::MajorityIsWhole => {
                "a version is committed only when a majority of those that it is placed on holds every byte of it"
            }
            Self::NothingDropped => {
                "no member drops what is, or is becoming, the committed version, unless it is placed on others and a majority of these holds it"
            }
            Self::StagedStays => {
                "what is staged in a window stays until it is committed or given up with an outcome, whoever takes the window over"
            }
            Self::EditsAreEdits => {
                "what a window in automatic mode publishes was live on a member: nothing else is taken for an edit"
            }
            Self::ManualIsManual => {
                "a window with manual failover is taken over by nobody but an operator's order"
            }
            Self::ActsOnce => {
                "an episode of a rule begins once, on what its judge has seen and never while the rule acts, is over once, and what was told of it stays told: nobody is told twice because two judged"
            }
            Self::BroughtGoesBack => {
                "whom a rule brought into service waits again as soon as it is over, unless nobody else would be in service: no rule that acts no more keeps anybody"
            }
            Self::OperatorsWin => {
                "whom an operator has put into service or out of it no rule moves, and nobody is moved without an operator or a rule that says so: people have the last word"
            }
            Self::EnoughStay => {
                "a rule takes a member out of service only where as many as it keeps, half of all that do not wait, and one stay there, and one after the other: no rule stops the service"
            }
            Self::SilenceStands => {
                "a silence stands until it is over, an operator ends it or its member is gone: maintenance wakes nobody"
            }
            Self::AnswersAreTrue => {
                "an answer is true: Ok is in the catalog, and what was refused never comes into force unless the refusal says that it may"
            }
            Self::OneAnswer => "every request has one answer",
            Self::Welcomed => {
                "a newcomer with a good token is never told that the cluster can't prove itself"
            }
            Self::NoSpin => "a member never asks to be woken at once without end",
            Self::Healed => {
                "once faults end, all members hold the newest catalog and what is placed on them and nothing else, the roster has each where it runs, no window stays open, and a publication succeeds"
            }
            Self::NoPanic => "no assertion of the core fails",
            Self::Simulator => "the simulator's own bounds hold",
        }
    }
}

/// An invariant that was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What was seen.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({}): {}", self.invariant, self.invariant.sentence(), self.detail)
    }
}

/// What a batch of runs must have met, or it has tested nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Situation {
    /// The coordinator's process died while a version was being staged.
    CoordinatorDiedBeforeCommit,
    /// The coordinator's process died between commit and close.
    CoordinatorDiedAfterCommit,
    /// The coordinator's process died after it had asked voters to accept a
    /// catalog, and before anybody knew it to be committed.
    CoordinatorDiedBetweenAcceptAndCommit,
    /// The same, of any proposer.
    ProposerDiedBetweenAcceptAndCommit,
    /// A voter promised, died, came back, and was asked to accept at that very ballot.
    RestartBetweenPromiseAndAccept,
    /// The roster changed while a window was open.
    RosterChangedInWindow,
    /// Another member took a window over.
    Takeover,
    /// A publication that was taken over came into force.
    TakenOverAndPublished,
    /// A publication was given up.
    PublicationGivenUp,
    /// A roster change was committed.
    RosterChanged,
    /// A member joined, left, was removed.
    Joined,
    /// See `Joined`.
    Left,
    /// See `Joined`.
    Removed,
    /// A member came back after the roster had changed without it.
    RejoinedAfterRosterChange,
    /// A crash lost a record that was not synced.
    CrashLostRecord,
    /// A crash kept a record whose sync was never reported.
    CrashKeptRecord,
    /// A crash in the middle of a switch left the old content.
    CrashBeforeSwitch,
    /// A crash in the middle of a switch left the new content.
    CrashAfterSwitch,
    /// A minority side of a partition was asked to publish, and refused.
    MinorityRefused,
    /// Another member's proposal was found uncommitted, and finished.
    FinishedForAnother,
    /// Two publishers met, and one was refused.
    PublisherConflict,
    /// A publication succeeded.
    Published,
    /// An earlier version was published again.
    RolledBack,
    /// Content was repaired.
    Repaired,
    /// An application that is placed on some members was published.
    Placed,
    /// Content was taken away where it is not placed any more.
    Withdrawn,
    /// The tags of a member were changed.
    Retagged,
    /// What a majority held was adopted.
    MajorityAdopted,
    /// A vote was hung.
    Hung,
    /// A hung vote was resolved.
    Resolved,
    /// A window was held open by an operator.
    WindowHeld,
    /// What somebody edited in a window in automatic mode became a version.
    EditPublished,
    /// A switch kept what was edited.
    EditKept,
    /// A version changed what was edited as well, and was first.
    EditAside,
    /// A window with manual failover lost its coordinator.
    ManualWindowLost,
    /// A window was taken over by an operator's order.
    OrderedTakeover,
    /// A fetch broke and was tried with another holder.
    FetchBroke,
    /// The store of a member rotted.
    StoreRotted,
    /// A process stood still and went on.
    Paused,
    /// No process of the cluster ran any more, and it came back by itself.
    AllDown,
    /// A process was restarted in a loop.
    Flapped,
    /// A crash cut the writing of a record short.
    TornWrite,
    /// A starting member found its record to be other than was written.
    RecordRotten,
    /// An operator removed a member that had lost its record for good.
    RottenMemberRemoved,
    /// A starting member found that its store had lost something.
    StoreRotFoundOnStart,
    /// The disk of a member was slow for a while.
    SlowDisk,
    /// Most of what went one way between some members was lost for a while.
    LossyLink,
    /// A wall clock jumped.
    ClockJumped,
    /// A member took up a new key.
    KeyRotated,
    /// It was killed before it had, and found its way all the same.
    KilledWhileRotating,
    /// What runs of a version did not get ready, where another one was before.
    NotReady,
    /// A version was to come to a few members at a time.
    Rolled,
    /// A rule began to act and brought somebody into service.
    RuleBroughtIn,
    /// A rule was to begin, and another judge had been quicker.
    JudgesMet,
    /// A judge died before it knew what came of what it wanted.
    JudgeDied,
    /// What it wanted began all the same: somebody else finished it.
    BegunForDeadJudge,
    /// An operator drained whom a rule had brought in, while it acted.
    BroughtThenDrained,
    /// An operator said of such a one that it is to be in service.
    BroughtThenResumed,
    /// A rule about a member took it out of service.
    TakenOutByRule,
    /// It was refused, as too few would have stayed.
    TooFewWouldStay,
    /// It was refused, as another one was on its way out.
    OneAfterTheOther,
    /// A rule was over while it was silenced.
    EndedInSilence,
    /// An operator ended a silence.
    SilenceLifted,
    /// A member that was moved had its new address put into the roster.
    MemberMoved,
    /// Two that had changed places had their addresses changed in one step.
    AddressesExchanged,
    /// All were moved at once, and found each other by addresses that operators named.
    AllMoved,
}

impl Situation {
    /// All of them.
    pub const ALL: [Self; 66] = [
        Self::CoordinatorDiedBeforeCommit,
        Self::CoordinatorDiedAfterCommit,
        Self::CoordinatorDiedBetweenAcceptAndCommit,
        Self::ProposerDiedBetweenAcceptAndCommit,
        Self::RestartBetweenPromiseAndAccept,
        Self::RosterChangedInWindow,
        Self::Takeover,
        Self::TakenOverAndPublished,
        Self::PublicationGivenUp,
        Self::RosterChanged,
        Self::Joined,
        Self::Left,
        Self::Removed,
        Self::RejoinedAfterRosterChange,
        Self::CrashLostRecord,
        Self::CrashKeptRecord,
        Self::CrashBeforeSwitch,
        Self::CrashAfterSwitch,
        Self::MinorityRefused,
        Self::FinishedForAnother,
        Self::PublisherConflict,
        Self::Published,
        Self::RolledBack,
        Self::Repaired,
        Self::Placed,
        Self::Withdrawn,
        Self::Retagged,
        Self::MajorityAdopted,
        Self::Hung,
        Self::Resolved,
        Self::WindowHeld,
        Self::EditPublished,
        Self::EditKept,
        Self::EditAside,
        Self::ManualWindowLost,
        Self::OrderedTakeover,
        Self::FetchBroke,
        Self::StoreRotted,
        Self::Paused,
        Self::AllDown,
        Self::Flapped,
        Self::TornWrite,
        Self::RecordRotten,
        Self::RottenMemberRemoved,
        Self::StoreRotFoundOnStart,
        Self::SlowDisk,
        Self::LossyLink,
        Self::ClockJumped,
        Self::KeyRotated,
        Self::KilledWhileRotating,
        Self::NotReady,
        Self::Rolled,
        Self::RuleBroughtIn,
        Self::JudgesMet,
        Self::JudgeDied,
        Self::BegunForDeadJudge,
        Self::BroughtThenDrained,
        Self::BroughtThenResumed,
        Self::TakenOutByRule,
        Self::TooFewWouldStay,
        Self::OneAfterTheOther,
        Self::EndedInSilence,
        Self::SilenceLifted,
        Self::MemberMoved,
        Self::AddressesExchanged,
        Self::AllMoved,
    ];
}
