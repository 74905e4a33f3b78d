//! Rules and silences: what judges and operators ask for. A judge here measures nothing: it wants
//! whatever may come next of a rule by the catalog that it knows, and that is often an old one.

use rand::Rng;

use super::{
    Invariant, Situation, Violation,
    check::fail,
    fault::Ambush,
    ledger::{is_by_hand, is_waiting},
    operate::What,
    story::Deed,
    world::{Happening, World},
};
use crate::{
    base::{
        AppName, Digest, MemberId, MemberName, Reason, Refusal, RuleName,
        catalog::Catalog,
        conduct::{Episode, Silence, Silenced},
    },
    member::{
        change::{Act, Begin, Said, Which},
        command::{Command, Outcome},
    },
};

/// The rules about the cluster of each application: few, so that judges meet.
const RULES: [&str; 2] = ["busy", "late"];
const SECOND: u64 = 1_000_000;
/// How long silences last, in seconds.
const SILENT_S: [u64; 3] = [60, 3_600, 86_400];

impl World {
    /// One act of a judge, or of an operator about rules.
    pub(super) fn about_rules(&mut self, deed: Deed) -> Result<(), Violation> {
        let mut up = self.enrolled_and_running();
        up.retain(|s| self.servers[*s].is_up());
        let Some(s) = self.pick(&up) else { return Ok(()) };
        up.retain(|other| *other != s);
        match deed {
            Deed::Service => self.put_somewhere(s),
            Deed::Silence => self.silence(s),
            Deed::StandDown => {
                self.rest(s)?;
                match self.pick(&up).filter(|_| self.rng.random_bool(0.4)) {
                    // At the same moment.
                    Some(other) => self.rest(other),
                    None => Ok(()),
                }
            }
            _ => self.judges(deed, s, &up),
        }
    }

    // Judges.

    /// The judge `s` wants something of a rule; so may another one, that takes itself for the judge.
    fn judges(&mut self, deed: Deed, s: usize, others: &[usize]) -> Result<(), Violation> {
        let app = self.apps[self.rng.random_range(0..self.apps.len())].clone();
        let rule = RULES[usize::from(self.rng.random_bool(0.25))];
        let rule = RuleName::parse(rule).expect("letters");
        let dies = deed == Deed::JudgeDies;
        if dies && self.rng.random_bool(0.5) {
            // In the middle of its proposal, if nobody else is quicker.
            let after = self.rng.random_range(1..3);
            self.ambush = Some(Ambush::Proposer { after });
        } else if dies {
            let after = self.rng.random_range(1_000..SECOND / 3);
            let back = after + self.rng.random_range(1_000..3 * SECOND);
            self.later(after, Happening::Crash { server: s });
            self.later(back, Happening::Start { server: s });
        }
        self.judge(s, &app, &rule)?;
        let meets = deed == Deed::JudgeTwice || self.rng.random_bool(0.2);
        match self.pick(others).filter(|_| meets) {
            Some(other) => self.judge(other, &app, &rule),
            None => Ok(()),
        }
    }

    /// What `s` wants of the rule is what may come next by its own catalog.
    fn judge(&mut self, s: usize, app: &AppName, rule: &RuleName) -> Result<(), Violation> {
        let server = &self.servers[s];
        let Some(member) = server.member.as_ref().filter(|_| server.is_up()) else { return Ok(()) };
        let at = server.wall(self.now);
        let catalog = member.catalog();
        let which =
            |of: &Episode| Which { app: app.clone(), rule: rule.clone(), episode: of.name.clone() };
        let rng = &mut self.rng;
        let act = match catalog.conduct.episode(app, rule) {
            Some(of) if of.is_open() && rng.random_bool(0.5) => {
                let why = "cluster avg(cpu) < 60% (51%)".to_owned();
                Act::End { which: which(of), why, at }
            }
            Some(of) if of.is_open() => Act::Told { which: which(of), said: Said::Acts, at },
            Some(of) if !of.end_told && rng.random_bool(0.4) => {
                Act::Told { which: which(of), said: Said::Over, at }
            }
            Some(of) if rng.random_bool(0.15) => Act::Forget { which: which(of) },
            before => {
                let silences = catalog.conduct.silences();
                let is_silenced = Silence::of(silences, app, rule, None, at).is_some();
                let waits = |id: &MemberId| catalog.conduct.is_waiting(*id) && member.is_live(*id);
                let members = catalog.roster.members.iter().map(|m| m.id);
                Act::Begin(Box::new(Begin {
                    app: app.clone(),
                    rule: rule.clone(),
                    episode: format!("{app}-{rule}-{}-{}", server.name, self.ticket_next + 1),
                    after: before.map(|of| of.name.clone()),
                    sentence: Digest::of_bytes(rule.as_str().as_bytes()),
                    severity: None,
                    why: "cluster avg(cpu) > 70% (81%)".to_owned(),
                    at,
                    bring: if is_silenced { 0 } else { rng.random_range(1..3) },
                    of: members.filter(waits).collect(),
                }))
            }
        };
        if let Act::Begin(begin) = &act {
            self.checker.ledger.wants(&begin.episode, begin.after.clone(), begin.bring);
        }
        self.ask(s, Command::Act(act.clone()), What::Act(act))
    }

    /// The process of `s` dies, and what it had asked for may come into force all the same.
    pub(super) fn judge_dies(&mut self, s: usize) {
        for ticket in self.tickets.values().filter(|ticket| ticket.server == s) {
            let What::Act(act) = &ticket.what else { continue };
            self.checker.reach(Situation::JudgeDied);
            if let Act::Begin(begin) = act {
                self.checker.ledger.orphaned(&begin.episode);
            }
        }
    }

    /// A rule about `s` takes it out of service; or what was under way there is finished; or it is
    /// over.
    fn rest(&mut self, s: usize) -> Result<(), Violation> {
        let server = &self.servers[s];
        let Some(member) = server.member.as_ref().filter(|_| server.is_up()) else { return Ok(()) };
        let (command, what) = match member.catalog().conduct.rest(server.id) {
            None => {
                // That of the rule, so it is the same each time.
                let keep = (s % 4) as u16;
                self.checker.ledger.keeps(&server.name, keep);
                let (because, at) = (format!("hot-{}", server.name), server.wall(self.now));
                (Command::StandDown { keep, because, at }, What::StandDown)
            }
            Some(rest) if !rest.drained && self.rng.random_bool(0.6) => {
                (Command::Drained, What::Drained)
            }
            Some(_) => (Command::StandUp, What::StandUp),
        };
        self.ask(s, command, what)
    }

    // Operators.

    /// An operator puts a member into service, out of it, or where rules may bring it in: often one
    /// that a rule has brought in.
    fn put_somewhere(&mut self, s: usize) -> Result<(), Violation> {
        let Some(member) = &self.servers[s].member else { return Ok(()) };
        let catalog = member.catalog();
        let brought: Vec<MemberId> =
            catalog.conduct.episodes().iter().flat_map(|of| &of.brought).copied().collect();
        let names = |is_meant: &dyn Fn(MemberId) -> bool| -> Vec<MemberName> {
            let members = catalog.roster.members.iter().filter(|m| is_meant(m.id));
            members.map(|m| m.name.clone()).collect()
        };
        let (all, brought) = (names(&|_| true), names(&|id| brought.contains(&id)));
        let (choices, waits) = match self.rng.random_bool(0.5) && !brought.is_empty() {
            true => (brought, 0.2),
            false => (all, 0.45),
        };
        if choices.is_empty() {
            return Ok(());
        }
        let member = choices[self.rng.random_range(0..choices.len())].clone();
        let ledger = &mut self.checker.ledger;
        if self.rng.random_bool(waits) {
            ledger.ordered(&member, false);
            let command = Command::Wait { member: Some(member.clone()) };
            return self.ask(s, command, What::Wait { member });
        }
        let on = self.rng.random_bool(0.6);
        ledger.ordered(&member, on);
        let command = Command::Service { member: Some(member.clone()), on };
        self.ask(s, command, What::Service { member, on })
    }

    /// An operator silences rules, or ends a silence that stands.
    fn silence(&mut self, s: usize) -> Result<(), Violation> {
        let Some(member) = &self.servers[s].member else { return Ok(()) };
        let catalog = member.catalog();
        let stands = catalog.conduct.silences();
        if !stands.is_empty() && self.rng.random_bool(0.4) {
            let Silenced { app, rule, member } =
                stands[self.rng.random_range(0..stands.len())].what.clone();
            let member = member.and_then(|id| catalog.roster.get(id)).map(|m| m.name.clone());
            self.checker.ledger.lifts((app.clone(), rule.clone(), member.clone()));
            let command =
                Command::Unsilence { app: app.clone(), rule: rule.clone(), member: member.clone() };
            return self.ask(s, command, What::Unsilence { app, rule, member });
        }
        let app = self.apps[self.rng.random_range(0..self.apps.len())].clone();
        let rule = RULES[self.rng.random_range(0..RULES.len())];
        let rule = RuleName::parse(rule).expect("letters");
        let members = &catalog.roster.members;
        let member = members[self.rng.random_range(0..members.len())].name.clone();
        let (app, rule, member) = match self.rng.random_range(0..4) {
            0 | 1 => (Some(app), Some(rule), None),
            2 => (Some(app), None, None),
            _ => (None, None, Some(member)),
        };
        let for_s = SILENT_S[self.rng.random_range(0..SILENT_S.len())];
        let why = format!("maintenance {}", self.ticket_next + 1);
        let command = Command::Silence { app, rule, member, for_s, why: why.clone() };
        self.ask(s, command, What::Silence { why })
    }

    // Answers.

    /// What was asked of `s` about rules has this answer: is it true?
    pub(super) fn acted(
        &mut self,
        s: usize,
        what: &What,
        result: &Result<Outcome, Refusal>,
    ) -> Result<(), Violation> {
        match result {
            Ok(Outcome::Done { sequence, .. }) => {
                let catalog = self.checker.catalog(*sequence);
                if catalog.is_some_and(|catalog| !holds(catalog, &self.servers[s].name, what)) {
                    let detail = format!("{what:?} does not hold in catalog {sequence}");
                    return match what {
                        What::Service { .. } | What::Wait { .. } => {
                            fail(Invariant::OperatorsWin, detail)
                        }
                        _ => fail(Invariant::AnswersAreTrue, detail),
                    };
                }
                if matches!(what, What::Unsilence { .. }) {
                    self.checker.reach(Situation::SilenceLifted);
                }
            }
            Ok(_) => {}
            Err(Refusal { reason, why, .. }) => match what {
                What::Act(Act::Begin(_)) if *reason == Reason::Conflict => {
                    self.checker.reach(Situation::JudgesMet);
                }
                What::StandDown if why.contains("would be left in service") => {
                    self.checker.reach(Situation::TooFewWouldStay);
                }
                What::StandDown if why.contains("one goes after the other") => {
                    self.checker.reach(Situation::OneAfterTheOther);
                }
                _ => {}
            },
        }
        Ok(())
    }
}

/// Whether `catalog` bears out that what was asked of `asked` was done.
fn holds(catalog: &Catalog, asked: &MemberName, what: &What) -> bool {
    let conduct = &catalog.conduct;
    let stands = |which: &Which| {
        let of = conduct.episode(&which.app, &which.rule);
        of.filter(|of| of.name == which.episode)
    };
    let rest = catalog.roster.named(asked).and_then(|m| conduct.rest(m.id));
    match what {
        What::Act(Act::Begin(begin)) => {
            let of = conduct.episode(&begin.app, &begin.rule);
            of.is_some_and(|of| of.name == begin.episode)
        }
        // Of another one there is nothing to say.
        What::Act(Act::End { which, .. }) => stands(which).is_none_or(|of| !of.is_open()),
        What::Act(Act::Told { which, said: Said::Acts, at }) => {
            stands(which).is_none_or(|of| of.told.is_some_and(|told| told >= *at))
        }
        What::Act(Act::Told { which, said: Said::Over, .. }) => {
            stands(which).is_none_or(|of| of.is_open() || of.end_told)
        }
        What::Act(Act::Forget { which }) => stands(which).is_none_or(Episode::is_open),
        What::Service { member, on } => is_by_hand(catalog, member, *on),
        What::Wait { member } => is_waiting(catalog, member),
        What::StandDown => catalog.roster.named(asked).is_none_or(|m| m.standby),
        What::Drained => rest.is_none_or(|rest| rest.drained),
        What::StandUp => rest.is_none(),
        What::Silence { why } => conduct.silences().iter().any(|silence| silence.why == *why),
        What::Unsilence { app, rule, member } => {
            let id = member.as_ref().and_then(|name| catalog.roster.named(name)).map(|m| m.id);
            let what = Silenced { app: app.clone(), rule: rule.clone(), member: id };
            (member.is_some() && id.is_none())
                || conduct.silences().iter().all(|silence| silence.what != what)
        }
        _ => true,
    }
}
