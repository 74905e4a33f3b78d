//! Questions of this member that are open, and what was answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Effect;
use crate::base::{MemberId, Time, limits};

/// Everybody's answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gathered {
    /// By member.
    pub replies: BTreeMap<MemberId, Reply>,
    /// Who was live when it was asked, and has not answered.
    pub missing: BTreeSet<MemberId>,
}

/// One member's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What it said; none if it knows no such question.
    pub text: Option<String>,
    /// How long after the question it was there.
    pub after: Duration,
}

#[derive(Debug)]
struct Open {
    ticket: u64,
    asked_at: Time,
    until: Time,
    gathered: Gathered,
}

#[derive(Debug, Default)]
pub(super) struct Queries {
    open: BTreeMap<u64, Open>,
}

impl Queries {
    pub fn is_full(&self) -> bool {
        self.open.len() >= limits::QUERIES_MAX
    }

    pub fn open(
        &mut self,
        now: Time,
        number: u64,
        ticket: u64,
        wait: Duration,
        live: &BTreeSet<MemberId>,
    ) {
        let gathered = Gathered { missing: live.clone(), ..Gathered::default() };
        let open = Open { ticket, asked_at: now, until: now + wait, gathered };
        self.open.insert(number, open);
    }

    /// The first answer of each member counts. It is complete as soon as all
    /// have answered that were live.
    pub fn answered(
        &mut self,
        now: Time,
        number: u64,
        from: MemberId,
        text: Option<String>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(open) = self.open.get_mut(&number) else { return };
        let after = now.since(open.asked_at);
        open.gathered.replies.entry(from).or_insert(Reply { text, after });
        open.gathered.missing.remove(&from);
        if open.gathered.missing.is_empty() {
            self.end(number, effects);
        }
    }

    pub fn deadline(&self) -> Option<Time> {
        self.open.values().map(|open| open.until).min()
    }

    pub fn tick(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let over: Vec<u64> =
            self.open.iter().filter(|(_, o)| now >= o.until).map(|(number, _)| *number).collect();
        for number in over {
            self.end(number, effects);
        }
    }

    fn end(&mut self, number: u64, effects: &mut Vec<Effect>) {
        if let Some(Open { ticket, gathered, .. }) = self.open.remove(&number) {
            effects.push(Effect::Ended { ticket, gathered });
        }
    }
}
