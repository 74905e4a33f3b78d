//! A run that broke something, made short: steps are left out, members and
//! weather made simpler, as long as the same invariant breaks (delta debugging:
//! Zeller and Hildebrandt, 2002). What is left is a story that a person can
//! read, and that a test can tell again.

use super::{Invariant, Plan, Report, Story, tell};

/// How often a shorter story is tried in other noise: what breaks often depends
/// on who is a moment earlier.
const NOISES: u64 = 3;

/// Shrinks `story`, which broke something under `plan`, with at most about
/// `runs_max` runs. Returns the shortest found and what came of it.
pub fn shrink(story: &Story, plan: &Plan, runs_max: u64) -> Option<(Story, Report)> {
    let report = tell(story, plan);
    let violation = report.violation.as_ref()?;
    let mut shrinking = Shrinking {
        plan,
        invariant: violation.invariant,
        runs_left: runs_max,
        best: story.clone(),
        report,
    };
    shrinking.cut_short();
    for story in shrinking.best.smaller() {
        if shrinking.take(story) {
            break;
        }
    }
    shrinking.leave_out();
    for _ in 0..2 {
        for at in 0..10 {
            if let Some(story) = shrinking.best.simpler().into_iter().nth(at) {
                shrinking.take(story);
            }
        }
    }
    shrinking.leave_out();
    shrinking.cut_short();
    let Shrinking { mut best, report, .. } = shrinking;
    best.broke = Some(format!("{:?}", report.violation.as_ref()?.invariant));
    Some((best, report))
}

struct Shrinking<'a> {
    plan: &'a Plan,
    invariant: Invariant,
    runs_left: u64,
    best: Story,
    report: Report,
}

impl Shrinking<'_> {
    /// Whether `story` breaks the same in some noise: then it is the best.
    fn take(&mut self, story: Story) -> bool {
        for noise in 0..NOISES {
            if self.runs_left == 0 {
                return false;
            }
            self.runs_left -= 1;
            let story = story.in_noise(noise);
            let report = tell(&story, self.plan);
            if report.violation.as_ref().is_some_and(|v| v.invariant == self.invariant) {
                (self.best, self.report) = (story, report);
                return true;
            }
        }
        false
    }

    /// What comes after the violation has no part in it.
    fn cut_short(&mut self) {
        let mut story = self.best.clone();
        let Some(storm_us) = self.report.storm_lasted_us else { return };
        if storm_us < story.storm_us {
            story.storm_us = storm_us;
            story.steps.retain(|step| step.at_us <= storm_us);
            self.take(story);
        }
    }

    /// Leaves steps out, half of them at first, then ever fewer at a time.
    fn leave_out(&mut self) {
        let mut size = self.best.steps.len().div_ceil(2).max(1);
        loop {
            let mut from = 0;
            let mut shorter = false;
            while from < self.best.steps.len() && self.runs_left > 0 {
                let mut story = self.best.clone();
                let until = (from + size).min(story.steps.len());
                story.steps.drain(from..until);
                if self.take(story) {
                    shorter = true;
                } else {
                    from += size;
                }
            }
            if self.runs_left == 0 || (size == 1 && !shorter) {
                return;
            }
            if size > 1 {
                size = size.div_ceil(2);
            }
        }
    }
}
