//! Whether the loop runs: one task owns the member, so what holds it up holds
//! up everything, and from outside a slow loop looks like a slow network.
//!
//! The loop says when it begins something and when it has done it. A thread of
//! its own looks a few times a second whether that takes too long, and whether
//! it was itself kept from looking: then the whole process stood still. It
//! changes nothing; it counts, and says what happened.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// How often the thread looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What takes longer is worth telling: others begin to doubt a member soon after.
const STALL: Duration = Duration::from_millis(500);

/// What the loop is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Doing {
    /// A SWIM packet.
    Packet,
    /// A message of another member.
    Message,
    /// A newcomer's knock.
    Knock,
    /// An operator's command.
    Command,
    /// Word from the disk that the record is written.
    Persisted,
    /// What came of work on content.
    Content,
    /// A hint of the transport.
    Hint,
    /// A timer.
    Timer,
    /// The view for those who watch.
    View,
    /// The table of sites.
    Sites,
}

impl Doing {
    const ALL: [Self; 10] = [
        Self::Packet,
        Self::Message,
        Self::Knock,
        Self::Command,
        Self::Persisted,
        Self::Content,
        Self::Hint,
        Self::Timer,
        Self::View,
        Self::Sites,
    ];

    fn words(self) -> &'static str {
        match self {
            Self::Packet => "a SWIM packet",
            Self::Message => "a message of another member",
            Self::Knock => "a newcomer's knock",
            Self::Command => "an operator's command",
            Self::Persisted => "word from the disk",
            Self::Content => "what came of work on content",
            Self::Hint => "a hint of the transport",
            Self::Timer => "a timer",
            Self::View => "the view for those who watch",
            Self::Sites => "the table of sites",
        }
    }
}

/// What the loop and the thread share.
#[derive(Debug)]
pub(super) struct Pulse {
    started: Instant,
    /// Since when the loop does what it does, in microseconds; 0 for idle.
    since_us: AtomicU64,
    doing: AtomicU8,
    stalls: AtomicU64,
    stall_us_max: AtomicU64,
    stood_us_max: AtomicU64,
}

/// What the watchdog has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// How often the loop took too long, or the process stood still.
    pub stalls: u64,
    /// The longest that the loop took for one thing.
    pub stall_us_max: u64,
    /// The longest that the process stood still.
    pub stood_us_max: u64,
}

impl Pulse {
    /// Starts the thread, which ends with the last owner of the pulse. `tell`
    /// is called with a sentence when the whole process stood still.
    pub fn start(tell: impl Fn(String) + Send + 'static) -> std::io::Result<Arc<Self>> {
        let pulse = Arc::new(Self {
            started: Instant::now(),
            since_us: AtomicU64::new(0),
            doing: AtomicU8::new(0),
            stalls: AtomicU64::new(0),
            stall_us_max: AtomicU64::new(0),
            stood_us_max: AtomicU64::new(0),
        });
        let watched = Arc::downgrade(&pulse);
        std::thread::Builder::new()
            .name("althing-watch".into())
            .spawn(move || watch(&watched, &tell))?;
        Ok(pulse)
    }

    /// The loop begins something.
    pub fn begin(&self, doing: Doing) {
        self.doing.store(doing as u8, Relaxed);
        self.since_us.store(self.now_us(), Relaxed);
    }

    /// It is done. Returns how long it took in microseconds, and a sentence if
    /// that was too long.
    pub fn end(&self) -> (u64, Option<String>) {
        let since = self.since_us.swap(0, Relaxed);
        let took = self.now_us().saturating_sub(since);
        if took < micros(STALL) {
            return (took, None);
        }
        self.stalls.fetch_add(1, Relaxed);
        self.stall_us_max.fetch_max(took, Relaxed);
        let text = format!(
            "the event loop stood still for {} ms over {}: other members may have doubted this one",
            took / 1_000,
            self.doing()
        );
        (took, Some(text))
    }

    /// What was counted so far.
    pub fn counted(&self) -> Counted {
        Counted {
            stalls: self.stalls.load(Relaxed),
            stall_us_max: self.stall_us_max.load(Relaxed),
            stood_us_max: self.stood_us_max.load(Relaxed),
        }
    }

    fn doing(&self) -> &'static str {
        let doing = Doing::ALL.get(usize::from(self.doing.load(Relaxed)));
        doing.map_or("something", |doing| doing.words())
    }

    /// Never 0, which means idle.
    fn now_us(&self) -> u64 {
        micros(self.started.elapsed()).max(1)
    }

    /// For how long the loop has been at one thing, if that is too long.
    fn stalled_for(&self) -> Option<u64> {
        let since = self.since_us.load(Relaxed);
        let for_us = self.now_us().saturating_sub(since);
        (since != 0 && for_us >= micros(STALL)).then_some(for_us)
    }

    /// The thread was kept from looking for so long.
    fn stood(&self, gap: Duration) -> Option<String> {
        let stood = gap.checked_sub(LOOK_EVERY).filter(|stood| *stood >= STALL)?;
        self.stalls.fetch_add(1, Relaxed);
        self.stood_us_max.fetch_max(micros(stood), Relaxed);
        Some(format!(
            "this process stood still for {} ms: it was stopped, or the machine had no time for it",
            stood.as_millis()
        ))
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn watch(pulse: &Weak<Pulse>, tell: &dyn Fn(String)) {
    let mut told_at = 0;
    let mut before = Instant::now();
    loop {
        pause();
        let Some(pulse) = pulse.upgrade() else { return };
        let gap = before.elapsed();
        before = Instant::now();
        if let Some(text) = pulse.stood(gap) {
            tell(text);
            continue;
        }
        let since = pulse.since_us.load(Relaxed);
        if let Some(for_us) = pulse.stalled_for()
            && told_at != since
        {
            // The loop can tell nobody while it stands: this is for the log.
            told_at = since;
            tracing::warn!(
                "the event loop has stood for {} ms over {}",
                for_us / 1_000,
                pulse.doing()
            );
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the thread is this module's own")]
fn pause() {
    std::thread::sleep(LOOK_EVERY);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "real time is what is measured")]
    fn what_takes_too_long_is_counted_and_named() {
        let pulse = Pulse::start(|_| {}).unwrap();
        pulse.begin(Doing::Timer);
        assert_eq!(pulse.end().1, None);
        pulse.begin(Doing::Command);
        std::thread::sleep(STALL + Duration::from_millis(20));
        assert!(pulse.stalled_for().is_some());
        let (took, text) = pulse.end();
        assert!(took >= micros(STALL));
        let text = text.unwrap();
        assert!(text.contains("an operator's command"), "{text}");
        assert_eq!(pulse.stalled_for(), None);
        let counted = pulse.counted();
        assert!(counted.stalls >= 1 && counted.stall_us_max >= took, "{counted:?}");
    }

    #[test]
    fn a_process_that_stood_still_is_told_apart() {
        let pulse = Pulse::start(|_| {}).unwrap();
        assert_eq!(pulse.stood(LOOK_EVERY + STALL / 2), None);
        let text = pulse.stood(Duration::from_secs(8)).unwrap();
        assert!(text.contains("7750 ms"), "{text}");
        assert_eq!(pulse.counted().stood_us_max, 7_750_000);
    }

    #[test]
    fn every_word_has_its_number() {
        for (number, doing) in Doing::ALL.into_iter().enumerate() {
            assert_eq!(doing as usize, number);
        }
    }
}
