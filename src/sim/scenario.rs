//! What an operator wants to see: so many members, such a network, these
//! faults, these actions at these times. Where the runs of tests draw a mix,
//! a scenario says all of it.

use std::time::Duration;

use crate::base::AppName;

/// The most members that are simulated whole: catalog, votes, content and all.
pub const WHOLE_MAX: usize = 50;
/// The most members of which membership alone is simulated.
pub const MEMBERS_MAX: usize = 10_000;
/// What counts as well: running, heard and within reach for so long. What is
/// said of a member sooner may be old news on its way.
pub const WELL_AFTER: Duration = Duration::from_secs(5);

/// What is run for each member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The whole member, as in production; up to [`WHOLE_MAX`].
    Whole,
    /// Its failure detector and gossip, as in production; up to [`MEMBERS_MAX`].
    Membership,
}

impl Engine {
    /// One word for reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Membership => "membership",
        }
    }
}

/// A run that is to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// How many, at first: `m1`, `m2` and so on.
    pub members: usize,
    /// What of each of them.
    pub engine: Engine,
    /// Every choice by chance follows from it.
    pub seed: u64,
    /// For how long, in virtual time, from the moment when all know each other.
    pub span: Duration,
    /// The network.
    pub weather: Weather,
    /// How patient the failure detectors are: times as long as on a local
    /// network, as the profile of `althing up` says.
    pub pace: u32,
    /// What happens by itself.
    pub rates: Rates,
    /// The last so many members are starved: everything reaches them late.
    pub slow: usize,
    /// Syncs that hang, work that fails.
    pub bad_disks: bool,
    /// Wall clocks are wrong by up to half an hour.
    pub skewed_clocks: bool,
    /// Content that one member fetches from another in a second, bytes.
    pub fetch_per_s: u64,
    /// What is done, by time.
    pub steps: Vec<Step>,
}

impl Scenario {
    /// Nothing happens to `members` on a local network for a minute.
    pub fn calm(members: usize, seed: u64) -> Self {
        Self {
            members,
            engine: if members <= WHOLE_MAX { Engine::Whole } else { Engine::Membership },
            seed,
            span: Duration::from_secs(60),
            weather: Weather::LAN,
            pace: 1,
            rates: Rates::default(),
            slow: 0,
            bad_disks: false,
            skewed_clocks: false,
            fetch_per_s: 100_000_000,
            steps: Vec::new(),
        }
    }

    /// Whether it can be run.
    ///
    /// # Errors
    /// A sentence that says what can't, and why.
    pub fn check(&self) -> Result<(), String> {
        let max = match self.engine {
            Engine::Whole => WHOLE_MAX,
            Engine::Membership => MEMBERS_MAX,
        };
        if !(2..=max).contains(&self.members) {
            return Err(format!("a run has from 2 to {max} members, and not {}", self.members));
        }
        if self.slow >= self.members {
            return Err("at least one member must not be slow".to_owned());
        }
        if self.engine == Engine::Whole {
            return Ok(());
        }
        let needs_whole = |what: &str| {
            Err(format!(
                "{what} needs whole members, and those are simulated up to {WHOLE_MAX} at once; \
                 here membership alone is"
            ))
        };
        if let Some(step) = self.steps.iter().find(|step| step.action.is_of_content()) {
            return needs_whole(&format!("line {}: `{}`", step.line, step.text));
        }
        if self.rates.drift.is_some() || self.rates.publish.is_some() {
            return needs_whole("to publish or to drift");
        }
        if self.bad_disks || self.skewed_clocks {
            return needs_whole("a bad disk or a wrong clock");
        }
        Ok(())
    }
}

/// The network, between any two members alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// Datagrams that are lost, in thousandths.
    pub loss: u32,
    /// Datagrams that arrive twice, in thousandths.
    pub duplicate: u32,
    /// What a packet takes at least.
    pub delay_min: Duration,
    /// What a packet takes at most, but for the tail.
    pub delay_max: Duration,
    /// Packets that take ten times as long, in thousandths.
    pub tail: u32,
}

impl Weather {
    /// A local network.
    pub const LAN: Self = Self {
        loss: 0,
        duplicate: 0,
        delay_min: Duration::from_micros(100),
        delay_max: Duration::from_millis(2),
        tail: 0,
    };
    /// Sites far from each other.
    pub const WAN: Self = Self {
        loss: 5,
        duplicate: 1,
        delay_min: Duration::from_millis(10),
        delay_max: Duration::from_millis(80),
        tail: 2,
    };
}

/// Something that happens again and again, somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// From one to the next in the whole cluster, on average: drawn evenly
    /// from half of it to one and a half.
    pub every: Duration,
    /// How long one lasts, on average, drawn alike.
    pub lasts: Duration,
}

/// What happens by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// A process dies, and starts again later.
    pub crash: Option<Rate>,
    /// A process stands still.
    pub pause: Option<Rate>,
    /// Less than half of the members are cut off from the others.
    pub partition: Option<Rate>,
    /// Live content is changed by hand on one member.
    pub drift: Option<Rate>,
    /// A version is published.
    pub publish: Option<Rate>,
}

/// Which of the [`Rates`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Crash,
    Pause,
    Partition,
    Drift,
    Publish,
}

impl Rates {
    pub(super) fn all(&self) -> impl Iterator<Item = (Kind, Rate)> {
        [
            (Kind::Crash, self.crash),
            (Kind::Pause, self.pause),
            (Kind::Partition, self.partition),
            (Kind::Drift, self.drift),
            (Kind::Publish, self.publish),
        ]
        .into_iter()
        .filter_map(|(kind, rate)| Some((kind, rate?)))
    }

    pub(super) fn of(&self, kind: Kind) -> Option<Rate> {
        self.all().find(|(k, _)| *k == kind).map(|(_, rate)| rate)
    }
}

/// One line of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// When, from the moment when all know each other.
    pub at: Duration,
    /// What.
    pub action: Action,
    /// Its line, from 1; 0 where nobody wrote it.
    pub line: usize,
    /// As it was written.
    pub text: String,
}

/// What an operator, an accident or the weather does. Members are counted
/// from 0: `m1` is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The processes die. Their hosts live, and say that nobody listens there.
    Kill(Vec<usize>),
    /// Their hosts go silent, as when a cable is pulled or the power is gone.
    Silence(Vec<usize>),
    /// They start again.
    Restart(Vec<usize>),
    /// They stand still.
    Pause(Vec<usize>),
    /// They go on.
    Resume(Vec<usize>),
    /// From now on everything reaches them late.
    Slow(Vec<usize>),
    /// No longer.
    Fast(Vec<usize>),
    /// No group reaches another one.
    Partition(Vec<Vec<usize>>),
    /// What the first send does not reach the second.
    Cut(Vec<usize>, Vec<usize>),
    /// All cuts end.
    Heal,
    /// Datagrams that are lost from now on, in thousandths.
    Loss(u32),
    /// What a packet takes from now on.
    Latency(Duration, Duration),
    /// So many new members join.
    Join(usize),
    /// They say goodbye.
    Leave(Vec<usize>),
    /// They are struck off the roster.
    Remove(Vec<usize>),
    /// A version of so many bytes is published, on any member if none is named.
    Publish {
        /// As what.
        app: AppName,
        /// How much.
        bytes: u64,
        /// Where.
        on: Option<usize>,
    },
    /// The version before is published again.
    Rollback(AppName),
    /// Live content is changed by hand, alike on all of them.
    Drift(Vec<usize>, AppName),
    /// Live content is deleted by hand.
    Wipe(Vec<usize>, AppName),
    /// The store loses the current version.
    Rot(Vec<usize>, AppName),
}

impl Action {
    /// Whether it needs whole members.
    pub fn is_of_content(&self) -> bool {
        matches!(
            self,
            Self::Publish { .. }
                | Self::Rollback(_)
                | Self::Drift(..)
                | Self::Wipe(..)
                | Self::Rot(..)
        )
    }

    /// The application that it is about.
    pub fn app(&self) -> Option<&AppName> {
        match self {
            Self::Publish { app, .. }
            | Self::Rollback(app)
            | Self::Drift(_, app)
            | Self::Wipe(_, app)
            | Self::Rot(_, app) => Some(app),
            _ => None,
        }
    }
}
