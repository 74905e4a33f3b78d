//! Who serves at a moment: what this member knows of the cluster and of rules, for `proto/rule/level`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::wide::Shelf;
use crate::{
    base::{
        AppName, MemberId, MemberName, Reason, Refusal, WallTime,
        catalog::{Catalog, Enrolled},
        conduct::{Episode, Silence},
    },
    member::change::no_such_app,
    node::start::wall_now,
    proto::rule::{
        Rule,
        bench::Key,
        level::{Given, Levels, Member, Place},
    },
};

/// How far ahead it is looked, milliseconds: a year and a little.
pub const AHEAD_MAX_MS: u64 = 400 * 86_400_000;
/// What is less long ago is taken for now, milliseconds: clocks differ, and who writes a time in
/// minutes means this one.
const AGO_MS: u64 = 60_000;
const WHAT: &str = "Who would serve was not looked at.";

/// What is asked about service levels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelsQuestion {
    /// The moment, milliseconds since 1970; now if not given.
    #[serde(default)]
    pub at: Option<u64>,
    /// For so long after it changes are told, milliseconds; none if not given.
    #[serde(default, rename = "for")]
    pub span: Option<u64>,
    /// Only by the rules of this application, and the members on which it is placed.
    #[serde(default)]
    pub app: Option<AppName>,
}

/// Where an answer goes.
pub(in crate::node) type Answer = oneshot::Sender<Result<Levels, Refusal>>;

/// What is asked, with nothing left out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Moment {
    now: WallTime,
    at: WallTime,
    to: WallTime,
    app: Option<AppName>,
}

impl LevelsQuestion {
    /// # Errors
    /// A refusal, if it is about what is over, or too far ahead.
    fn resolve(&self, now: WallTime) -> Result<Moment, Refusal> {
        let refuse = |why: String, todo| Err(Refusal::new(Reason::Invalid, WHAT, why, todo));
        let at = self.at.unwrap_or(now.0);
        if at.saturating_add(AGO_MS) < now.0 {
            return refuse(
                format!("{} is over: it is {now}.", WallTime(at)),
                "What rules have done is in the log: `althing events --all --kind rule --since 7d`.",
            );
        }
        let at = at.max(now.0);
        let to = at.saturating_add(self.span.unwrap_or_default());
        if to > now.0.saturating_add(AHEAD_MAX_MS) {
            return refuse(
                "That goes more than 400 days ahead.".to_owned(),
                "Ask for a moment, and a span after it, that are nearer.",
            );
        }
        Ok(Moment { now, at: WallTime(at), to: WallTime(to), app: self.app.clone() })
    }
}

/// What this member sees of the cluster.
#[derive(Clone, Debug)]
pub(in crate::node) struct Seen {
    members: Vec<Member>,
    episodes: Vec<Episode>,
    silences: Vec<Silence>,
    /// All applications, and on whom each is placed.
    placed: BTreeMap<AppName, BTreeSet<MemberName>>,
}

impl Seen {
    pub fn new(catalog: &Catalog, is_live: impl Fn(MemberId) -> bool) -> Self {
        let member = |m: &Enrolled| Member {
            id: m.id,
            name: m.name.clone(),
            is_live: is_live(m.id),
            place: match m.standby {
                false => Place::InService,
                true if catalog.conduct.is_waiting(m.id) => Place::Waits,
                true => Place::Aside,
            },
        };
        let placed = |app: &AppName| {
            let placed = catalog.placed(app).into_iter().flat_map(|placed| placed.members());
            (app.clone(), placed.map(|m| m.name.clone()).collect())
        };
        Self {
            members: catalog.roster.members.iter().map(member).collect(),
            episodes: catalog.conduct.episodes().to_vec(),
            silences: catalog.conduct.silences().to_vec(),
            placed: catalog.applications.keys().map(placed).collect(),
        }
    }

    /// Who serves then, by the rules that lie on the `shelf`.
    pub fn answer(self, question: &LevelsQuestion, shelf: &Shelf) -> Result<Levels, Refusal> {
        let moment = question.resolve(wall_now())?;
        let mut rules: BTreeMap<Key, Rule> = BTreeMap::new();
        for (app, ready) in shelf.iter().filter(|(app, _)| self.placed.contains_key(*app)) {
            for (name, rule) in ready.iter().flat_map(|ready| ready.rules.parsed()) {
                if rule.is_wide() {
                    rules.insert(Key { app: app.clone(), rule: name.clone() }, rule);
                }
            }
        }
        let is_known = |app: &&AppName| shelf.contains_key(*app);
        let unknown = self.placed.keys().filter(|app| !is_known(app)).cloned().collect();
        self.by(rules, unknown, &moment)
    }

    fn by(
        self,
        rules: BTreeMap<Key, Rule>,
        unknown: BTreeSet<AppName>,
        moment: &Moment,
    ) -> Result<Levels, Refusal> {
        let Self { members, episodes, silences, placed } = self;
        let Moment { now, at, to, app } = moment;
        let on = match app {
            Some(app) => Some(placed.get(app).ok_or_else(|| no_such_app(app, WHAT))?),
            None => None,
        };
        let given = Given { members, rules, episodes, silences, unknown, only: app.clone() };
        let mut levels = given.foresee(*now, *at, *to);
        if let Some(on) = on {
            levels.members.retain(|member| on.contains(&member.member));
        }
        Ok(levels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{RuleName, SecretKey},
        proto::rule::parse,
    };

    #[test]
    fn what_is_over_or_far_ahead_is_refused() {
        let now = WallTime(1_790_000_000_000);
        let asked = |at: Option<u64>, span: Option<u64>| {
            let question = LevelsQuestion { at, span, app: None };
            question.resolve(now).map(|moment| (moment.at.0 - now.0, moment.to.0 - now.0))
        };
        assert_eq!(asked(None, None), Ok((0, 0)));
        assert_eq!(asked(Some(now.0 - 59_000), Some(5)), Ok((0, 5)));
        assert_eq!(asked(Some(now.0 + 7), Some(5)), Ok((7, 12)));
        assert!(asked(Some(now.0 - 61_000), None).unwrap_err().why.contains("is over"));
        for (at, span) in
            [(Some(u64::MAX), None), (None, Some(u64::MAX)), (None, Some(AHEAD_MAX_MS + 1))]
        {
            assert!(asked(at, span).unwrap_err().why.contains("400 days"), "{at:?} {span:?}");
        }
    }

    #[test]
    fn of_one_application_are_its_rules_and_members() {
        let app = |name: &str| AppName::parse(name).unwrap();
        let name = |name: &str| MemberName::parse(name).unwrap();
        let member = |seed: u8, text: &str, place| Member {
            id: SecretKey::from_seed([seed; 32]).member(),
            name: name(text),
            is_live: true,
            place,
        };
        let members = vec![
            member(1, "alpha", Place::InService),
            member(2, "beta", Place::Waits),
            member(3, "gamma", Place::Waits),
        ];
        let on = |names: &[&str]| names.iter().map(|text| name(text)).collect();
        let placed = [
            (app("shop"), on(&["alpha", "gamma"])),
            (app("web"), on(&["alpha", "beta"])),
            (app("wiki"), on(&["gamma"])),
        ];
        let (episodes, silences) = (Vec::new(), Vec::new());
        let seen = Seen { members, episodes, silences, placed: placed.into() };
        let always = parse("when time 00:00-24:00 then in 1").unwrap();
        let rules: BTreeMap<Key, Rule> = ["shop", "web"]
            .map(|of| (Key { app: app(of), rule: RuleName::parse("all").unwrap() }, always.clone()))
            .into();
        let asked = |of: Option<&str>| {
            let question = LevelsQuestion { app: of.map(app), ..LevelsQuestion::default() };
            let moment = question.resolve(WallTime(1_790_000_000_000)).unwrap();
            seen.clone().by(rules.clone(), [app("wiki")].into(), &moment)
        };
        let all = asked(None).unwrap();
        assert_eq!((all.members.len(), all.rules.len(), all.unknown.len()), (3, 2, 1));
        assert!(all.members.iter().all(|member| member.place == Place::InService));
        // Gamma is in service by the rule of another one, which counts as well.
        let web = asked(Some("web")).unwrap();
        let shown: Vec<_> = web.members.iter().map(|m| m.member.as_str()).collect();
        assert_eq!((shown, web.rules.len(), web.unknown.len()), (vec!["alpha", "beta"], 1, 0));
        assert_eq!(web.rules[0].brought, [name("gamma")]);
        assert_eq!(asked(Some("blog")).unwrap_err().reason, Reason::NotFound);
    }
}
