//! What keeps members from holding what they should, as each says itself: for whoever
//! asks another one. It decides nothing.
//!
//! It goes out with a member's ballots, as a message of its own: a ballot is signed and has
//! no room for it. A member of the release before does not know the message and drops it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    base::{AppName, MemberId, Time, catalog::Catalog, limits, wire},
    proto::vote::fresh_for,
};

/// What keeps a member from holding one application as it should.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Which.
    pub app: AppName,
    /// Why, for people: what happened and what to do, without a full stop.
    #[serde(deserialize_with = "wire::bounded_text::<_, { limits::TROUBLE_MAX }>")]
    pub why: String,
}

impl Trouble {
    /// What is too long is cut.
    pub(super) fn new(app: AppName, why: &str) -> Self {
        let end =
            (0..=why.len().min(limits::TROUBLE_MAX)).rev().find(|at| why.is_char_boundary(*at));
        Self { app, why: why[..end.unwrap_or(0)].to_owned() }
    }
}

/// Who has told of what.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    theirs: BTreeMap<MemberId, (Time, Vec<Trouble>)>,
    /// Whether the others know of some of ours.
    told: bool,
}

impl Troubles {
    /// What goes out with a ballot: `ours`, and once more when there are none any longer.
    pub fn due(&mut self, ours: Vec<Trouble>) -> Option<Vec<Trouble>> {
        let told = std::mem::replace(&mut self.told, !ours.is_empty());
        (told || !ours.is_empty()).then_some(ours)
    }

    /// `from` says all that it has.
    pub fn heard(&mut self, now: Time, from: MemberId, list: Vec<Trouble>) {
        if list.is_empty() {
            self.theirs.remove(&from);
        } else {
            self.theirs.insert(from, (now, list));
        }
    }

    /// What `member` said of `app`, for as long as what it says of its content counts.
    pub fn of(
        &self,
        now: Time,
        catalog: &Catalog,
        member: MemberId,
        app: &AppName,
    ) -> Option<&str> {
        let (at, list) = self.theirs.get(&member)?;
        let fresh = now.since(*at) < fresh_for(catalog.roster.members.len());
        let trouble = list.iter().find(|trouble| &trouble.app == app).filter(|_| fresh);
        trouble.map(|trouble| trouble.why.as_str())
    }

    /// Forgets everybody who is not enrolled.
    pub fn retain(&mut self, catalog: &Catalog) {
        self.theirs.retain(|member, _| catalog.roster.contains(*member));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_told_until_it_is_over_and_that_once() {
        let mut troubles = Troubles::default();
        let ours = || vec![Trouble::new(AppName::parse("web").unwrap(), "no room")];
        assert_eq!(troubles.due(vec![]), None);
        assert_eq!(troubles.due(ours()), Some(ours()));
        assert_eq!(troubles.due(ours()), Some(ours()));
        assert_eq!(troubles.due(vec![]), Some(vec![]));
        assert_eq!(troubles.due(vec![]), None);
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        let trouble =
            Trouble::new(AppName::parse("web").unwrap(), &"ä".repeat(limits::TROUBLE_MAX));
        assert_eq!(trouble.why.len(), limits::TROUBLE_MAX);
        let odd = format!("x{}", "ä".repeat(limits::TROUBLE_MAX));
        let trouble = Trouble::new(AppName::parse("web").unwrap(), &odd);
        assert_eq!(trouble.why.len(), limits::TROUBLE_MAX - 1);
    }
}
