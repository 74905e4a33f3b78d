//! What was ever said and done, as far as a property asks for it: it only
//! grows. From it follows what was chosen, whoever knows of it.

use std::collections::{BTreeMap, BTreeSet};

use althing::{
    base::{Digest, MemberId, catalog::Catalog},
    member::change::Change,
    proto::catalog::{BallotNumber, Transition},
};

use crate::step::Step;

/// Something that happened, once and for all.
#[derive(Clone, Debug)]
pub enum Fact {
    /// A catalog was seen, so that its digest can be looked up. Kept aside.
    Catalog(Box<Catalog>),
    /// A majority of every roster that it needs has had it on disk.
    Chosen { digest: Digest },
    /// A voter has it on disk that it accepted this.
    Accepted { voter: usize, ballot: BallotNumber, digest: Digest },
    /// A member made it known as committed.
    Announced { digest: Digest },
    /// A proposer was told that its change holds in the catalog `sequence`.
    Confirmed { by: usize, script: usize, sequence: u64 },
    /// A proposer was told that its change was not made.
    Refused { by: usize, script: usize },
}

/// What a model says of a history: each is a property's name in `main`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// Two catalogs for one sequence.
    pub forked: bool,
    /// A catalog that is not one change made to the one before it.
    pub stepped_over: bool,
    /// Announced without a majority of every roster on disk.
    pub unfounded: bool,
    /// A proposer was told what is not so.
    pub lied: bool,
    /// A version with a number that was given before, or by somebody who
    /// does not preside, or a coordinator without a takeover.
    pub window_broken: bool,
    // What must have been reached.
    pub roster_changed_twice: bool,
    pub joined_voter_counted: bool,
    pub left: bool,
    pub finished_for_another: bool,
    pub accepted_two_for_one_sequence: bool,
    pub committed_by_first: bool,
    pub committed_by_next: bool,
    pub taken_over: bool,
    pub late_commit_refused: bool,
}

/// What a history is judged by.
pub struct Judge<'a> {
    pub ids: &'a [MemberId],
    pub scripts: &'a [Vec<Step>],
    pub catalogs: &'a BTreeMap<Digest, Catalog>,
    /// The catalog that the model starts from.
    pub start: &'a Catalog,
}

impl Judge<'_> {
    /// What is to be said of `facts`, and what of them must be kept for what
    /// may come: what was chosen, and what may yet be.
    pub fn verdict<'f>(
        &self,
        facts: impl Iterator<Item = &'f Fact> + Clone,
    ) -> (Verdict, Vec<Fact>) {
        let mut verdict = Verdict::default();
        let chosen = self.chosen(facts.clone(), &mut verdict);
        let mut kept: Vec<Fact> = chosen.keys().map(|d| Fact::Chosen { digest: *d }).collect();
        kept.extend(
            facts
                .clone()
                .filter(|fact| match fact {
                    Fact::Accepted { digest, .. } => !chosen.contains_key(digest),
                    _ => false,
                })
                .cloned(),
        );
        let announced: BTreeSet<Digest> = facts
            .clone()
            .filter_map(|fact| match fact {
                Fact::Announced { digest } => Some(*digest),
                _ => None,
            })
            .collect();
        let known: BTreeSet<Digest> = chosen.keys().copied().collect();
        verdict.unfounded = announced
            .difference(&known)
            .any(|digest| self.catalogs[digest].sequence > self.start.sequence);
        // The line of catalogs, by sequence.
        let mut line = BTreeMap::from([(self.start.sequence, self.start)]);
        for digest in known.union(&announced) {
            let catalog = &self.catalogs[digest];
            if catalog.sequence < self.start.sequence {
                continue;
            }
            let first = *line.entry(catalog.sequence).or_insert(catalog);
            verdict.forked |= first.digest() != *digest;
        }
        for catalog in line.values().skip(1) {
            match line.get(&(catalog.sequence - 1)) {
                Some(before) => self.compare(before, catalog, &chosen, &mut verdict),
                None => verdict.stepped_over = true,
            }
        }
        self.hear(facts, &line, &mut verdict);
        (verdict, kept)
    }

    /// What a majority of every roster that it needs has on disk at one
    /// ballot, with the proposers that brought it there.
    fn chosen<'f>(
        &self,
        facts: impl Iterator<Item = &'f Fact>,
        verdict: &mut Verdict,
    ) -> BTreeMap<Digest, BTreeSet<MemberId>> {
        let mut votes: BTreeMap<(BallotNumber, Digest), BTreeSet<MemberId>> = BTreeMap::new();
        let mut by_sequence: BTreeMap<u64, BTreeSet<Digest>> = BTreeMap::new();
        let mut chosen: BTreeMap<Digest, BTreeSet<MemberId>> = BTreeMap::new();
        for fact in facts {
            let digest = match fact {
                Fact::Accepted { voter, ballot, digest } => {
                    votes.entry((*ballot, *digest)).or_default().insert(self.ids[*voter]);
                    digest
                }
                Fact::Chosen { digest } => {
                    chosen.entry(*digest).or_default();
                    digest
                }
                _ => continue,
            };
            by_sequence.entry(self.catalogs[digest].sequence).or_default().insert(*digest);
        }
        verdict.accepted_two_for_one_sequence = by_sequence.values().any(|d| d.len() > 1);
        for ((ballot, digest), voters) in votes {
            let catalog = &self.catalogs[&digest];
            if catalog.rosters().all(|roster| roster.is_majority(&voters)) {
                chosen.entry(digest).or_default().insert(ballot.proposer);
                // Without the newcomer's vote there would be no majority.
                let newcomer = *self.ids.last().expect("a model has members");
                let mut others = voters;
                others.remove(&newcomer);
                verdict.joined_voter_counted |=
                    !catalog.rosters().all(|roster| roster.is_majority(&others));
            }
        }
        chosen
    }

    /// Whether `next` is `before` with exactly one scripted change.
    fn compare(
        &self,
        before: &Catalog,
        next: &Catalog,
        chosen: &BTreeMap<Digest, BTreeSet<MemberId>>,
        verdict: &mut Verdict,
    ) {
        let authors: Vec<(usize, &Step)> = self
            .scripts
            .iter()
            .enumerate()
            .flat_map(|(n, script)| script.iter().map(move |step| (n, step)))
            .filter(|(_, step)| made(step, before).as_ref() == Some(next))
            .collect();
        verdict.stepped_over |= authors.is_empty();
        let brought = chosen.get(&next.digest());
        verdict.finished_for_another |= brought.is_some_and(|proposers| {
            proposers.iter().any(|p| authors.iter().all(|(n, _)| self.ids[*n] != *p))
        });
        verdict.left |= next.roster.members.len() < before.roster.members.len();
        verdict.roster_changed_twice |= before.sequence > self.start.sequence
            && before.roster_before.is_some()
            && next.roster_before.is_some();
        self.compare_windows(before, next, &authors, verdict);
    }

    fn compare_windows(
        &self,
        before: &Catalog,
        next: &Catalog,
        authors: &[(usize, &Step)],
        verdict: &mut Verdict,
    ) {
        if let (Some(was), Some(is)) = (&before.window, &next.window) {
            let moved = was.coordinator != is.coordinator;
            verdict.taken_over |= moved;
            verdict.window_broken |= is.takeovers != was.takeovers + u32::from(moved);
            verdict.window_broken |= was.id != is.id;
        }
        let last = |catalog: &Catalog| {
            catalog.applications.values().map(|app| app.current().number).max().unwrap_or(0)
        };
        if last(next) == last(before) {
            return;
        }
        // A version: the next number, and committed by who presided.
        let presides = before.window.as_ref().map(|w| w.coordinator);
        let by_presider = authors.iter().any(|(_, step)| {
            matches!(step, Step::Real(Change::Commit { by, .. }) if Some(*by) == presides)
        });
        verdict.window_broken |= last(next) != last(before) + 1 || !by_presider;
        let taken_over = before.window.as_ref().is_some_and(|w| w.takeovers > 0);
        verdict.committed_by_first |= !taken_over;
        verdict.committed_by_next |= taken_over;
    }

    /// Whether what proposers were told is so.
    fn hear<'f>(
        &self,
        facts: impl Iterator<Item = &'f Fact>,
        line: &BTreeMap<u64, &Catalog>,
        verdict: &mut Verdict,
    ) {
        for fact in facts {
            match fact {
                Fact::Confirmed { by, script, sequence } => {
                    let step = &self.scripts[*by][*script];
                    // Applied to a catalog that has it, a change says so.
                    let holds = line
                        .get(sequence)
                        .is_some_and(|catalog| matches!(step.apply(catalog), Ok(None)));
                    verdict.lied |= !holds;
                }
                Fact::Refused { by, script } => {
                    let step = &self.scripts[*by][*script];
                    verdict.late_commit_refused |=
                        matches!(step, Step::Real(Change::Commit { .. }));
                }
                _ => {}
            }
        }
    }
}

/// The catalog that the register makes of a change.
fn made(step: &Step, base: &Catalog) -> Option<Catalog> {
    let mut next = step.apply(base).ok()??;
    next.sequence = base.sequence + 1;
    next.roster_before = (next.roster != base.roster).then(|| base.roster.clone());
    Some(next)
}
