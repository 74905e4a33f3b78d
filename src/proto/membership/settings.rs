//! Every number of the failure detector, each with its reason.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use foca::{Config, PeriodicParams};

use super::run;

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
/// The same where the member's host says that nobody listens at its port: the
/// host lives and answers, so only a restart or a forgery speaks against it,
/// and an answer to our own question disproves both.
pub const REFUSED_FUSE: Duration = Duration::from_millis(220);
/// Up to this size everybody asks a suspect itself, and a verdict is told to
/// all at once: some 200 packets a member for each failure.
pub const CROWD: usize = 128;
/// Who heard of a suspicion from others waits so much longer, so that not all pass the same verdict
/// at the same moment.
pub const SECOND_HAND: Duration = Duration::from_millis(150);
/// The word of a new run goes out at once, but not more often than this.
pub const SPREAD_PERIOD: Duration = Duration::from_millis(50);
/// How many independent confirmations make a suspicion certain.
const CONFIRMATIONS: usize = 3;
/// How much longer one lasts that nobody confirms.
const UNCONFIRMED: u32 = 3;
/// How often it is looked who owes an answer.
pub const REACH_PERIOD: Duration = Duration::from_millis(500);
/// A live member that owes one for so long is not reached directly: four or five questions.
pub const REACH_MAX: Duration = Duration::from_secs(2);
/// The same until its first answer since it became live. Where it was out of reach, a dial that
/// began too soon may still be under way, which takes 2 s, and the pause before the next one as long.
pub const REACH_FIRST: Duration = Duration::from_secs(5);
/// How soon what was said about reach is said once more.
pub const REACH_RETOLD: Duration = Duration::from_secs(3);
/// Up to this size every newcomer is asked directly at once.
pub const GREET_MAX: usize = 256;
/// So many others are knocked at, and asked, all at once.
pub const FEW: usize = 16;
/// Of more than that, so many first,
pub const FIRST_KNOCKS: usize = 6;
/// within this time,
pub const FIRST_WITHIN: Duration = Duration::from_millis(20);
/// and the rest no sooner than this.
pub const KNOCK_REST: Duration = Duration::from_millis(500);
/// Up to this size members keep what each other one says of its links.
pub const REPORTS_MAX: usize = 1_024;
/// The first comparison of what is known; the pauses double.
pub const EXCHANGE_FIRST: Duration = Duration::from_millis(250);
/// After so many a newcomer tells all whom it reaches: after some two seconds, or as soon as it does not
/// compare often any more.
pub const EXCHANGES_EARLY: u32 = 3;
/// The longest pause between two. A digest of 34 bytes is all that it costs.
pub const EXCHANGE_PERIOD: Duration = Duration::from_secs(20);
/// One peer is sent the whole state no more often than this.
pub const EXCHANGE_PAUSE: Duration = Duration::from_millis(200);
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
/// In a large cluster somebody's obituary for a member that we heard within this time is
/// checked before it is believed; in a small one every obituary is, but of whom was asked in vain.
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
    if confirmations(n) > 0 {
        // Others have asked it in vain, too.
        return Duration::from_millis(550);
    }
    // 650 ms for two members, 1 s for a thousand: four to six questions.
    let doublings = n.max(4).ilog2();
    Duration::from_millis(550 + 50 * u64::from(doublings))
}

/// How many others should confirm a suspicion in a cluster of `n`. In a large one gossip carries
/// it, and nobody asks everybody.
pub fn confirmations(n: usize) -> usize {
    if n > CROWD { 0 } else { CONFIRMATIONS.min(n.saturating_sub(2)) }
}

/// Within this time, in a cluster of `n`, those who asked a suspect in vain say so: long enough that the
/// first few are heard before the others speak, and so short that these few are no later.
pub fn confirm_within(n: usize) -> Duration {
    if n > FEW { Duration::from_millis(80) } else { Duration::ZERO }
}

/// `fuse` for a suspicion that `confirmed` of the `wanted` others confirm: from three times as
/// long down to itself, by the logarithm (Lifeguard, section IV-B).
pub fn stretched(fuse: Duration, wanted: usize, confirmed: usize) -> Duration {
    // Per mille of the way: 1 - ln(confirmed + 1) / ln(wanted + 1).
    const LEFT: [&[u32]; CONFIRMATIONS + 1] =
        [&[0], &[1_000, 0], &[1_000, 369, 0], &[1_000, 500, 208, 0]];
    let row = LEFT[wanted.min(CONFIRMATIONS)];
    let left = row[confirmed.min(row.len() - 1)];
    fuse + fuse * (UNCONFIRMED - 1) * left / 1_000
}

/// How long a live member may be quiet before it is asked, in a cluster of
/// `n`; none where there are enough others whose probes find it.
pub fn quiet_max(n: usize) -> Option<Duration> {
    (n <= 12).then(|| Duration::from_millis(100 * n as u64).max(Duration::from_millis(750)))
}

/// A member of a crowd that has just started leaves whom it has not spoken with alone for so long: until
/// then those that started with it have mostly met, and nobody needs more than a few of them.
pub const GREET_LATER: Duration = Duration::from_secs(1);
/// How often such a member compares what it knows with somebody that it has spoken with: that is a
/// message or three, where a handshake is ten packets and signatures.
pub const EXCHANGE_YOUNG: Duration = Duration::from_millis(125);
/// How often it gossips, with three of them.
pub const GOSSIP_YOUNG: Duration = Duration::from_millis(80);

/// Within this time every newcomer is asked directly in a cluster of `n`, of whom `waiting` are
/// still to be asked: each question may be a handshake, and all members ask. One that returns is
/// asked at once; where many start together, what it costs is spread over some seconds, as nobody
/// needs all of them sooner.
pub fn greet_within(n: usize, waiting: usize) -> Duration {
    let span = |each, n| Duration::from_millis(each) * u32::try_from(n).unwrap_or(u32::MAX);
    if n <= FEW { span(3, n) } else { span(4, n) + span(40, waiting) }
}

/// A member that has just started in a cluster of `n` probes and judges nobody for so long: if many
/// started with it, handshakes of all with all make answers late.
pub fn youth(n: usize) -> Duration {
    if n <= FEW {
        return Duration::ZERO;
    }
    (GREET_LATER + greet_within(n, n)).clamp(Duration::from_secs(2), Duration::from_secs(4))
}

/// Where those that started together have little of a processor, answers take longer, and youth goes
/// on until they have come, for so long at most. Were they to suspect each other meanwhile, they
/// would have more to do, and go on so.
pub const YOUTH_MAX: Duration = Duration::from_secs(12);
/// It goes on while more than one of so many live members have not answered yet.
pub const YOUTH_UNREACHED: usize = 8;

/// Within this time a member that has just started knocks at the rest.
pub fn knock_rest_within(n: usize) -> Duration {
    Duration::from_millis(8) * u32::try_from(n).unwrap_or(u32::MAX)
}

/// The same once somebody has answered it: who starts later knocks by itself, and is heard of.
pub fn knock_others_within(n: usize) -> Duration {
    (knock_rest_within(n) * 5).min(KNOCK_MAX)
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
        max_packet_size: nonzero(run::SIZE_MAX),
        notify_down_members: true,
        periodic_announce: every(Duration::from_secs(30), 1),
        periodic_announce_to_down_members: every(Duration::from_secs(10), 2),
        periodic_gossip: every(Duration::from_millis(200), 3),
    }
}
