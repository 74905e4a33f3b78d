//! What a cluster does by itself: its policies, the rules about it that act, and the members that
//! wait to be brought into service.
//!
//! A rule about one member is judged by that member. One about the cluster is judged by whoever is
//! first in the failover list and lives, and that may be another one in the middle of it. So that
//! it acts once all the same, its episodes are in the catalog: who begins one names the record that
//! it has seen ([`Episode::name`]), and of two that begin at the same moment one is refused.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    AppName, Digest, MemberId, RuleName, WallTime,
    catalog::{Failover, Policy, VotePolicy},
    limits, wire,
};

/// How bad it is that a rule acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Somebody should look.
    Warning,
    /// Somebody has to.
    Critical,
}

/// That a rule about the cluster acts, or when it did last: it is kept for `cooldown` and
/// `at-most`, until the rule is gone. There is one at most for each rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Episode {
    /// Of which application.
    pub app: AppName,
    /// Which of its rules.
    pub rule: RuleName,
    /// No other episode has it.
    #[serde(deserialize_with = "wire::bounded_text::<_, { limits::EPISODE_NAME_MAX }>")]
    pub name: String,
    /// The rule as it was then: what has become another one ends what it began.
    pub sentence: Digest,
    /// How bad it is.
    pub severity: Option<Severity>,
    /// What was measured, beside its bound.
    #[serde(deserialize_with = "wire::bounded_text::<_, { limits::EPISODE_WHY_MAX }>")]
    pub why: String,
    /// When it began, by the clock of the member that judged.
    pub began: WallTime,
    /// When it was over, likewise; none while it acts.
    pub ended: Option<WallTime>,
    /// When those to be told were told last that it began or goes on. None: nobody was yet, or
    /// the member that did so died before it could say so, and they are told again.
    pub told: Option<WallTime>,
    /// Whether they were told that it is over.
    pub end_told: bool,
    /// Whom it brought into service. Whom an operator has put somewhere since is left out.
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::BROUGHT_MAX }>")]
    pub brought: Vec<MemberId>,
    /// When this and earlier ones began, oldest first: as many as `at-most` may count.
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::BEGINNINGS_MAX }>")]
    pub beginnings: Vec<WallTime>,
}

impl Episode {
    /// Whether it acts.
    pub fn is_open(&self) -> bool {
        self.ended.is_none()
    }
}

/// What a cluster does by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub struct Conduct {
    /// What operators have decided.
    pub policy: Policy,
    /// One at most for each rule, in the order of application and rule.
    episodes: Vec<Episode>,
    /// Members on standby that rules may bring into service. Whoever is out of service without
    /// being one of them was put there by an operator, or by a rule because it is not well, and
    /// stays until whoever did so brings it back.
    waiting: BTreeSet<MemberId>,
}

impl Conduct {
    /// All episodes, in the order of application and rule.
    pub fn episodes(&self) -> &[Episode] {
        &self.episodes
    }

    /// The episode of a rule, if there is one.
    pub fn episode(&self, app: &AppName, rule: &RuleName) -> Option<&Episode> {
        self.place(app, rule).ok().map(|at| &self.episodes[at])
    }

    /// The same, to be changed.
    pub fn episode_mut(&mut self, app: &AppName, rule: &RuleName) -> Option<&mut Episode> {
        self.place(app, rule).ok().map(|at| &mut self.episodes[at])
    }

    /// Puts `episode` in the place of the one of its rule. False where there are too many.
    #[must_use]
    pub fn put(&mut self, episode: Episode) -> bool {
        match self.place(&episode.app, &episode.rule) {
            Ok(at) => self.episodes[at] = episode,
            Err(_) if self.episodes.len() >= limits::EPISODES_MAX => return false,
            Err(at) => self.episodes.insert(at, episode),
        }
        true
    }

    /// Takes out the episode of a rule.
    pub fn take(&mut self, app: &AppName, rule: &RuleName) -> Option<Episode> {
        self.place(app, rule).ok().map(|at| self.episodes.remove(at))
    }

    /// Whether `member` is on standby, and rules may bring it into service.
    pub fn is_waiting(&self, member: MemberId) -> bool {
        self.waiting.contains(&member)
    }

    /// Rules may bring `member` into service from now on. Whether that is new.
    pub fn wait(&mut self, member: MemberId) -> bool {
        let waited = self.is_waiting(member);
        self.let_go(member);
        self.waiting.insert(member);
        !waited
    }

    /// `member` is where somebody wants it to be, or nowhere any more: no rule brings it into
    /// service, nor out of it because it brought it in.
    pub fn let_go(&mut self, member: MemberId) {
        self.waiting.remove(&member);
        for episode in &mut self.episodes {
            episode.brought.retain(|brought| *brought != member);
        }
    }

    /// `member` is called `to` from now on.
    pub fn rename(&mut self, member: MemberId, to: MemberId) {
        if self.waiting.remove(&member) {
            self.waiting.insert(to);
        }
        let brought = self.episodes.iter_mut().flat_map(|episode| &mut episode.brought);
        brought.filter(|brought| **brought == member).for_each(|brought| *brought = to);
    }

    fn place(&self, app: &AppName, rule: &RuleName) -> Result<usize, usize> {
        self.episodes.binary_search_by(|episode| (&episode.app, &episode.rule).cmp(&(app, rule)))
    }
}

/// How it is written. What came later is written only where it is used: a catalog without it is
/// byte for byte what it was before, so members of the version before can still read and sign
/// it.
#[derive(Serialize, Deserialize)]
enum Form {
    Auto(VotePolicy),
    Manual(VotePolicy),
    Removing(Failover, VotePolicy, u64),
    Acting(Acting),
}

#[derive(Serialize, Deserialize)]
struct Acting {
    failover: Failover,
    vote: VotePolicy,
    remove_after_s: Option<u64>,
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::EPISODES_MAX }>")]
    episodes: Vec<Episode>,
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::MEMBERS_MAX }>")]
    waiting: Vec<MemberId>,
}

impl From<Conduct> for Form {
    fn from(conduct: Conduct) -> Self {
        let Conduct { policy, episodes, waiting } = conduct;
        let Policy { failover, vote, remove_after_s } = policy;
        if !episodes.is_empty() || !waiting.is_empty() {
            let waiting = waiting.into_iter().collect();
            return Self::Acting(Acting { failover, vote, remove_after_s, episodes, waiting });
        }
        match (remove_after_s, failover) {
            (Some(seconds), failover) => Self::Removing(failover, vote, seconds),
            (None, Failover::Auto) => Self::Auto(vote),
            (None, Failover::Manual) => Self::Manual(vote),
        }
    }
}

impl TryFrom<Form> for Conduct {
    type Error = &'static str;

    fn try_from(form: Form) -> Result<Self, Self::Error> {
        let plain = |failover, vote, remove_after_s| Self {
            policy: Policy { failover, vote, remove_after_s },
            ..Self::default()
        };
        let Acting { failover, vote, remove_after_s, episodes, waiting } = match form {
            Form::Auto(vote) => return Ok(plain(Failover::Auto, vote, None)),
            Form::Manual(vote) => return Ok(plain(Failover::Manual, vote, None)),
            Form::Removing(failover, vote, s) => return Ok(plain(failover, vote, Some(s))),
            Form::Acting(acting) => acting,
        };
        // There is one way to write each, as signatures are about bytes.
        let rules = episodes.iter().map(|episode| (&episode.app, &episode.rule));
        if !rules.is_sorted_by(|one, next| one < next) || !waiting.is_sorted_by(|a, b| a < b) {
            return Err("its episodes or waiting members are not in order");
        }
        if episodes.is_empty() && waiting.is_empty() {
            return Err("it has neither episodes nor waiting members");
        }
        let waiting = waiting.into_iter().collect();
        Ok(Self { episodes, waiting, ..plain(failover, vote, remove_after_s) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::wire::Kind;

    fn episode(app: &str, rule: &str) -> Episode {
        Episode {
            app: AppName::parse(app).unwrap(),
            rule: RuleName::parse(rule).unwrap(),
            name: format!("{app}-{rule}-alpha-1"),
            sentence: Digest::of("sentence", b"when cluster avg(cpu) > 70% then in 1"),
            severity: Some(Severity::Warning),
            why: "cluster avg(cpu) > 70% (81%)".to_owned(),
            began: WallTime(1),
            ended: None,
            told: None,
            end_told: false,
            brought: vec![id(1)],
            beginnings: vec![WallTime(1)],
        }
    }

    fn id(n: u8) -> MemberId {
        crate::base::SecretKey::from_seed([n; 32]).member()
    }

    #[test]
    fn without_news_it_is_written_as_before() {
        for failover in [Failover::Auto, Failover::Manual] {
            for vote in [VotePolicy::Majority, VotePolicy::Committed] {
                let plain = Policy { failover, vote, remove_after_s: None };
                let before = wire::encode(Kind::Record, &(failover, vote));
                let conduct = Conduct { policy: plain, ..Conduct::default() };
                assert_eq!(wire::encode(Kind::Record, &conduct), before);
                for policy in [plain, Policy { remove_after_s: Some(7), ..plain }] {
                    let quiet = Conduct { policy, ..Conduct::default() };
                    let mut acting = quiet.clone();
                    assert!(acting.put(episode("web", "hot")));
                    let mut waiting = quiet.clone();
                    waiting.wait(id(3));
                    for conduct in [quiet, acting, waiting] {
                        let bytes = wire::encode(Kind::Record, &conduct);
                        assert_eq!(wire::decode::<Conduct>(Kind::Record, &bytes), Ok(conduct));
                    }
                }
            }
        }
    }

    #[test]
    fn there_is_one_way_to_write_each() {
        let written = |episodes: Vec<Episode>, waiting: Vec<MemberId>| {
            let (failover, vote) = (Failover::Auto, VotePolicy::Majority);
            let acting = Acting { failover, vote, remove_after_s: None, episodes, waiting };
            wire::encode(Kind::Record, &Form::Acting(acting))
        };
        let reads = |bytes: &[u8]| wire::decode::<Conduct>(Kind::Record, bytes).is_ok();
        let (a, b) = (episode("web", "hot"), episode("web", "late"));
        let (first, second) = (id(1).min(id(2)), id(1).max(id(2)));
        assert!(reads(&written(vec![a.clone(), b.clone()], vec![first, second])));
        assert!(!reads(&written(vec![b.clone(), a.clone()], vec![])));
        assert!(!reads(&written(vec![a.clone(), a.clone()], vec![])));
        assert!(!reads(&written(vec![a.clone()], vec![second, first])));
        assert!(!reads(&written(vec![a], vec![first, first])));
        assert!(!reads(&written(vec![], vec![])));
    }

    #[test]
    fn there_is_one_for_each_rule_and_not_too_many() {
        let mut conduct = Conduct::default();
        for rule in ["late", "hot", "hot"] {
            assert!(conduct.put(episode("web", rule)));
        }
        let rules: Vec<&str> = conduct.episodes().iter().map(|e| e.rule.as_str()).collect();
        assert_eq!(rules, ["hot", "late"]);
        for n in 2..limits::EPISODES_MAX {
            assert!(conduct.put(episode("shop", &format!("r{n}"))));
        }
        assert!(!conduct.put(episode("shop", "one-more")));
        assert!(conduct.put(episode("web", "hot")), "in the place of another one");
        let (web, hot) = (AppName::parse("web").unwrap(), RuleName::parse("hot").unwrap());
        assert!(conduct.take(&web, &hot).is_some());
        assert!(conduct.episode(&web, &hot).is_none() && conduct.take(&web, &hot).is_none());
    }

    #[test]
    fn whom_somebody_puts_somewhere_is_no_business_of_rules() {
        let mut conduct = Conduct::default();
        assert!(conduct.put(episode("web", "hot")));
        assert!(conduct.wait(id(2)) && !conduct.wait(id(2)));
        conduct.rename(id(2), id(4));
        conduct.rename(id(1), id(5));
        assert!(conduct.is_waiting(id(4)) && !conduct.is_waiting(id(2)));
        assert_eq!(conduct.episodes()[0].brought, [id(5)]);
        conduct.let_go(id(4));
        conduct.let_go(id(5));
        assert!(!conduct.is_waiting(id(4)) && conduct.episodes()[0].brought.is_empty());
    }
}
