//! Every number of the failure detector, each with its reason.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use foca::{Config, PeriodicParams};

use crate::base::limits;

/// How often one member is probed. foca can't change it while it runs, so it
/// holds for every size: two probes a second cost some 450 bytes a second.
pub const PROBE_PERIOD: Duration = Duration::from_millis(500);
/// When others are asked to probe in our stead. Leaves them 300 ms.
const PROBE_RTT: Duration = Duration::from_millis(200);
/// How often a suspect is asked in person for a sign of life, with the
/// suspicion in the same packet so that it can refute at once.
pub const POKE_PERIOD: Duration = Duration::from_millis(180);
/// How often a member of a small cluster looks for others that it has not
/// heard for a while. foca's probes alone find one of four dead members only
/// after up to three seconds, because each prober goes round in random order.
pub const ROUNDS_PERIOD: Duration = Duration::from_millis(250);
/// How often a member of a larger cluster looks whether it has become small.
pub const ROUNDS_PERIOD_LARGE: Duration = Duration::from_secs(2);
/// How often such a member is asked before it is a suspect.
pub const ROUNDS_ASKS: u32 = 2;
/// From the transport's hint that a connection failed to the verdict: two
/// independent signs together need less patience than one.
pub const HINT_FUSE: Duration = Duration::from_millis(550);
/// Nothing heard from anybody for so long: the fault is more likely ours.
pub const SILENCE: Duration = Duration::from_millis(1_500);
/// Nothing heard for so long while a probe fails makes us more patient.
pub const UNWELL_SILENCE: Duration = Duration::from_secs(1);
/// How many times over verdicts are stretched at most, less one.
pub const UNWELL_MAX: u32 = 8;
/// A timer that fires later than this means that the process stood still.
pub const LATE: Duration = Duration::from_millis(300);
/// No verdict for so long after the process stood still.
pub const PAUSE_GRACE: Duration = Duration::from_millis(1_200);
/// A suspect that is heard but doesn't refute (it can't hear us) is given up
/// after so long.
pub const ONE_WAY_MAX: Duration = Duration::from_secs(5);
/// Somebody's obituary for a member that we heard within this time is checked
/// before it is believed.
pub const FRESH: Duration = Duration::from_secs(1);
/// How long that check takes.
pub const DISPUTE: Duration = Duration::from_millis(400);
/// The first pause between two knocks at a member that is not live; doubles.
pub const KNOCK_FIRST: Duration = Duration::from_millis(250);
/// The longest pause between two knocks, in the largest cluster.
const KNOCK_MAX: Duration = Duration::from_secs(10);

/// The patience with a suspect in a cluster of `n`: time for the suspicion to
/// reach it and for its refutation to reach us, several times over.
pub fn fuse(n: usize) -> Duration {
    // 650 ms up to 7 members, 850 ms at 64: four to five questions.
    let doublings = n.max(4).ilog2();
    Duration::from_millis(550 + 50 * u64::from(doublings))
}

/// How long a live member may be quiet before it is asked, in a cluster of
/// `n`; none where there are enough others whose probes find it.
pub fn quiet_max(n: usize) -> Option<Duration> {
    (n <= 12).then(|| Duration::from_millis(100 * n as u64).max(Duration::from_millis(750)))
}

/// The longest pause between two knocks at one member in a cluster of `n`.
/// All others knock, so the dead are knocked at several times a second in a
/// large cluster and once a second in a small one.
pub fn knock_max(n: usize) -> Duration {
    (Duration::from_secs(1) * u32::try_from(n / 8).unwrap_or(u32::MAX))
        .clamp(Duration::from_secs(1), KNOCK_MAX)
}

/// foca's configuration for a cluster of `n`.
pub fn config(n: usize) -> Config {
    let nonzero = |n: usize| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
    let every = |frequency, n| Some(PeriodicParams { frequency, num_members: nonzero(n) });
    let size = u32::try_from(n).unwrap_or(u32::MAX).max(64);
    let lan = Config::new_lan(NonZeroU32::new(size).unwrap_or(NonZeroU32::MIN));
    Config {
        // foca would send an update once in a small cluster and 7 times among
        // 64. But when everybody passes news on to k others at random, one of
        // n misses it with probability n/e^k: one obituary in twenty among 64,
        // and then takes half a minute to find out by itself. 13 makes it one
        // in seven thousand.
        max_transmissions: lan.max_transmissions.saturating_add(6),
        probe_period: PROBE_PERIOD,
        probe_rtt: PROBE_RTT,
        num_indirect_probes: nonzero(3),
        // Ours: the driver passes the verdicts.
        suspect_to_down_after: Duration::from_secs(1),
        // The roster bounds the members, so nobody need be forgotten.
        remove_down_after: None,
        max_packet_size: nonzero(limits::SWIM_PACKET_MAX),
        notify_down_members: true,
        periodic_announce: every(Duration::from_secs(30), 1),
        periodic_announce_to_down_members: every(Duration::from_secs(10), 2),
        periodic_gossip: every(Duration::from_millis(200), 3),
    }
}
