//! What a cluster does by itself: its policies, the rules about it that act, the members that
//! wait to be brought into service, the silences that keep rules from doing anything, and the
//! operators that may act over the network.
//!
//! A rule about one member is judged by that member. One about the cluster is judged by whoever is
//! first in the failover list and lives, and that may be another one in the middle of it. So that
//! it acts once all the same, its episodes are in the catalog: who begins one names the record that
//! it has seen ([`Episode::name`]), and of two that begin at the same moment one is refused.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    AppName, Digest, MemberId, MemberName, OperatorName, RuleName, WallTime,
    catalog::{Failover, Policy, VotePolicy},
    limits,
    operator::{Operator, TokenHash},
    planted::{self, Bug},
    wire,
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
    /// What was measured when it began, beside its bound; once it is over, what was then.
    #[serde(deserialize_with = "wire::bounded_text::<_, { limits::EPISODE_WHY_MAX }>")]
    pub why: String,
    /// When it began, by the clock of the member that judged.
    pub began: WallTime,
    /// When it was over, likewise; none while it acts.
    pub ended: Option<WallTime>,
    /// When those to be told were told last that it began or goes on. None: nobody was yet, or
    /// the member that did so died before it could say so, and they are told again; or its rule
    /// is silenced, and they are told when it is no more.
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

/// That a rule about a member took it out of service, until that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    /// Since when, by its own clock.
    pub since: WallTime,
    /// Whether what was under way there is finished: until then no other one goes.
    pub drained: bool,
    /// Whether it waited before, and does so again afterwards.
    pub waited: bool,
}

/// Which rules a silence is about. Something is always given, and never a rule without its
/// application.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Silenced {
    /// Those of this application; those of all if not given.
    pub app: Option<AppName>,
    /// This one of them; all if not given.
    pub rule: Option<RuleName>,
    /// As far as they are about this member. Without this they are silenced about every member,
    /// and about the cluster.
    pub member: Option<MemberId>,
}

impl Silenced {
    /// Whether it says enough, and nothing that can't be.
    pub fn is_sound(&self) -> bool {
        match (&self.app, &self.rule, &self.member) {
            (Some(_), _, _) | (None, None, Some(_)) => true,
            (None, Some(_), _) | (None, None, None) => false,
        }
    }

    /// For people, who know members by their names.
    pub fn told(&self, name: impl Fn(MemberId) -> String) -> String {
        let rules = match (&self.app, &self.rule) {
            (Some(app), Some(rule)) => format!("rule {rule} of {app}"),
            (Some(app), None) => format!("all rules of {app}"),
            (None, _) => "all rules".to_owned(),
        };
        match self.member {
            Some(member) => format!("{rules} about {}", name(member)),
            None => rules,
        }
    }
}

/// That rules do nothing and tell nobody for a while. They are judged all the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// Which rules. There is one silence at most for the same.
    pub what: Silenced,
    /// The member that was asked for it.
    pub by: MemberName,
    /// Why, in an operator's words.
    #[serde(deserialize_with = "wire::bounded_text::<_, { limits::SILENCE_WHY_MAX }>")]
    pub why: String,
    /// Since when, by the clock of the member that was asked.
    pub since: WallTime,
    /// Until when, likewise.
    pub until: WallTime,
}

impl Silence {
    /// Whether a rule does nothing at `at`: one about `member`, or about the cluster if none is
    /// given. Whose clock is behind does not wait for it to begin.
    pub fn covers(
        &self,
        app: &AppName,
        rule: &RuleName,
        member: Option<MemberId>,
        at: WallTime,
    ) -> bool {
        let Silenced { app: of, rule: which, member: about } = &self.what;
        at < self.until
            && of.as_ref().is_none_or(|of| of == app)
            && which.as_ref().is_none_or(|which| which == rule)
            && about.is_none_or(|about| member == Some(about))
    }

    /// The one of `all` that covers a rule, as in [`Self::covers`]; of several, the one that lasts
    /// longest.
    pub fn of<'a>(
        all: &'a [Self],
        app: &AppName,
        rule: &RuleName,
        member: Option<MemberId>,
        at: WallTime,
    ) -> Option<&'a Self> {
        let covers = all.iter().filter(|silence| silence.covers(app, rule, member, at));
        covers.max_by_key(|silence| silence.until)
    }

    /// For people: a part of a sentence.
    pub fn told(&self) -> String {
        format!("silenced until {} by {}: {}", self.until, self.by, self.why)
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
    /// Members that rules about them took out of service. Whom an operator has put somewhere since
    /// is left out.
    resting: BTreeMap<MemberId, Rest>,
    /// In the order of what they are about, which no two have in common.
    silences: Vec<Silence>,
    /// In the order of their names, which no two have in common; nor a token.
    operators: Vec<Operator>,
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

    /// How many wait, or would if they were well: they are no part of what has to be in service.
    pub fn spare(&self) -> usize {
        self.waiting.len() + self.resting.values().filter(|rest| rest.waited).count()
    }

    /// Whether a rule about `member` took it out of service, and how that goes.
    pub fn rest(&self, member: MemberId) -> Option<Rest> {
        self.resting.get(&member).copied()
    }

    /// A rule about `member` takes it out of service.
    pub fn put_to_rest(&mut self, member: MemberId, rest: Rest) {
        self.waiting.remove(&member);
        self.resting.insert(member, rest);
    }

    /// It ends. How it was, if it was so.
    pub fn end_rest(&mut self, member: MemberId) -> Option<Rest> {
        self.resting.remove(&member)
    }

    /// `member` waits from now on: once it is well, where a rule about it took it out of service.
    pub fn wait_again(&mut self, member: MemberId) {
        match self.resting.get_mut(&member) {
            Some(rest) => rest.waited = true,
            None => drop(self.waiting.insert(member)),
        }
    }

    /// What was under way on `member` is finished. Whether that is new.
    pub fn drained(&mut self, member: MemberId) -> bool {
        let rest = self.resting.get_mut(&member);
        rest.is_some_and(|rest| !std::mem::replace(&mut rest.drained, true))
    }

    /// Those on whom something is still under way after a rule took them out of service.
    pub fn leaving(&self) -> impl Iterator<Item = (MemberId, Rest)> {
        self.resting.iter().filter(|(_, rest)| !rest.drained).map(|(id, rest)| (*id, *rest))
    }

    /// `member` is where somebody wants it to be, or nowhere any more: no rule brings it into
    /// service, nor out of it because it brought it in, nor back because it took it out.
    pub fn let_go(&mut self, member: MemberId) {
        self.waiting.remove(&member);
        self.resting.remove(&member);
        if planted::is(Bug::OperatorOverruled) {
            return;
        }
        for episode in &mut self.episodes {
            episode.brought.retain(|brought| *brought != member);
        }
    }

    /// `member` is enrolled no more: nothing is about it.
    pub fn forget(&mut self, member: MemberId) {
        self.let_go(member);
        self.silences.retain(|silence| silence.what.member != Some(member));
    }

    /// All silences, those that are over included until another change of them.
    pub fn silences(&self) -> &[Silence] {
        &self.silences
    }

    /// Puts `silence` in the place of the one about the same. False where there are too many.
    #[must_use]
    pub fn silence(&mut self, silence: Silence) -> bool {
        match self.silence_at(&silence.what) {
            Ok(at) => self.silences[at] = silence,
            Err(_) if self.silences.len() >= limits::SILENCES_MAX => return false,
            Err(at) => self.silences.insert(at, silence),
        }
        true
    }

    /// Takes out the silence about `what`.
    pub fn unsilence(&mut self, what: &Silenced) -> Option<Silence> {
        self.silence_at(what).ok().map(|at| self.silences.remove(at))
    }

    /// Takes out the silences that are over at `at`.
    pub fn end_silences(&mut self, at: WallTime) {
        self.silences.retain(|silence| at < silence.until);
    }

    /// Who may act over the network, those whose time is over included until another change.
    pub fn operators(&self) -> &[Operator] {
        &self.operators
    }

    /// Whose token has this hash.
    pub fn operator_with(&self, token: &TokenHash) -> Option<&Operator> {
        // All are looked at, wherever it is found, so that the time it takes says nothing.
        let mut found = None;
        for operator in &self.operators {
            if operator.token == *token {
                found = Some(operator);
            }
        }
        found
    }

    /// Adds `operator`, unless there are too many or one has its name or its token.
    #[must_use]
    pub fn add_operator(&mut self, operator: Operator) -> bool {
        let at = self.operators.binary_search_by(|one| one.name.cmp(&operator.name));
        match at {
            Err(at)
                if self.operators.len() < limits::OPERATORS_MAX
                    && self.operator_with(&operator.token).is_none() =>
            {
                self.operators.insert(at, operator);
                true
            }
            _ => false,
        }
    }

    /// Takes out the operator called `name`.
    pub fn remove_operator(&mut self, name: &OperatorName) {
        self.operators.retain(|operator| operator.name != *name);
    }

    /// Takes out those whose time is over at `at`.
    pub fn end_operators(&mut self, at: WallTime) {
        self.operators.retain(|operator| !operator.is_over(at));
    }

    /// `member` is called `to` from now on.
    pub fn rename(&mut self, member: MemberId, to: MemberId) {
        let silences = self.silences.iter_mut().map(|silence| &mut silence.what.member);
        silences.filter(|about| **about == Some(member)).for_each(|about| *about = Some(to));
        self.silences.sort_by(|one, other| one.what.cmp(&other.what));
        if self.waiting.remove(&member) {
            self.waiting.insert(to);
        }
        if let Some(rest) = self.resting.remove(&member) {
            self.resting.insert(to, rest);
        }
        let brought = self.episodes.iter_mut().flat_map(|episode| &mut episode.brought);
        brought.filter(|brought| **brought == member).for_each(|brought| *brought = to);
    }

    fn place(&self, app: &AppName, rule: &RuleName) -> Result<usize, usize> {
        self.episodes.binary_search_by(|episode| (&episode.app, &episode.rule).cmp(&(app, rule)))
    }

    fn silence_at(&self, what: &Silenced) -> Result<usize, usize> {
        self.silences.binary_search_by(|silence| silence.what.cmp(what))
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
    Silencing(
        Acting,
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::SILENCES_MAX }>")] Vec<Silence>,
    ),
    Operating(
        Acting,
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::SILENCES_MAX }>")] Vec<Silence>,
        #[serde(deserialize_with = "wire::bounded::<_, _, { limits::OPERATORS_MAX }>")]
        Vec<Operator>,
    ),
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
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::MEMBERS_MAX }>")]
    resting: Vec<(MemberId, Rest)>,
}

impl From<Conduct> for Form {
    fn from(conduct: Conduct) -> Self {
        let Conduct { policy, episodes, waiting, resting, silences, operators } = conduct;
        let Policy { failover, vote, remove_after_s } = policy;
        let is_quiet = episodes.is_empty() && waiting.is_empty() && resting.is_empty();
        if !is_quiet || !silences.is_empty() || !operators.is_empty() {
            let acting = Acting {
                failover,
                vote,
                remove_after_s,
                episodes,
                waiting: waiting.into_iter().collect(),
                resting: resting.into_iter().collect(),
            };
            return match (silences.is_empty(), operators.is_empty()) {
                (true, true) => Self::Acting(acting),
                (false, true) => Self::Silencing(acting, silences),
                (_, false) => Self::Operating(acting, silences, operators),
            };
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
        let (acting, silences, operators) = match form {
            Form::Auto(vote) => return Ok(plain(Failover::Auto, vote, None)),
            Form::Manual(vote) => return Ok(plain(Failover::Manual, vote, None)),
            Form::Removing(failover, vote, s) => return Ok(plain(failover, vote, Some(s))),
            Form::Acting(acting) => (acting, None, None),
            Form::Silencing(acting, silences) => (acting, Some(silences), None),
            Form::Operating(acting, silences, all) => (acting, Some(silences), Some(all)),
        };
        let Acting { failover, vote, remove_after_s, episodes, waiting, resting } = acting;
        // There is one way to write each, as signatures are about bytes.
        let rules = episodes.iter().map(|episode| (&episode.app, &episode.rule));
        if !rules.is_sorted_by(|one, next| one < next)
            || !waiting.is_sorted_by(|a, b| a < b)
            || !resting.is_sorted_by(|a, b| a.0 < b.0)
        {
            return Err("its episodes, or waiting or resting members, are not in order");
        }
        let silences = match silences {
            None if episodes.is_empty() && waiting.is_empty() && resting.is_empty() => {
                return Err("it has no episodes, and neither waiting nor resting members");
            }
            Some(silences) if silences.is_empty() && operators.is_none() => {
                return Err("it has no silences");
            }
            silences => silences.unwrap_or_default(),
        };
        let operators = match operators {
            Some(operators) if operators.is_empty() => return Err("it has no operators"),
            operators => operators.unwrap_or_default(),
        };
        if !operators.is_sorted_by(|one, next| one.name < next.name) {
            return Err("its operators are not in order");
        }
        let twice = |(at, one): (usize, &Operator)| {
            operators[..at].iter().any(|before| before.token == one.token)
        };
        if operators.iter().enumerate().any(twice) {
            return Err("two of its operators have one token");
        }
        if !silences.is_sorted_by(|one, next| one.what < next.what) {
            return Err("its silences are not in order");
        }
        if silences.iter().any(|silence| !silence.what.is_sound()) {
            return Err("one of its silences is about nothing");
        }
        let (waiting, resting) = (waiting.into_iter().collect(), resting.into_iter().collect());
        let plain = plain(failover, vote, remove_after_s);
        Ok(Self { episodes, waiting, resting, silences, operators, ..plain })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{operator::OperatorToken, wire::Kind};

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

    fn rest() -> Rest {
        Rest { since: WallTime(5), drained: false, waited: true }
    }

    fn silence(app: Option<&str>, rule: Option<&str>, member: Option<u8>) -> Silence {
        let what = Silenced {
            app: app.map(|app| AppName::parse(app).unwrap()),
            rule: rule.map(|rule| RuleName::parse(rule).unwrap()),
            member: member.map(id),
        };
        Silence {
            what,
            by: MemberName::parse("alpha").unwrap(),
            why: "a disk is replaced".to_owned(),
            since: WallTime(100),
            until: WallTime(200),
        }
    }

    fn operator(name: &str, n: u8) -> Operator {
        Operator {
            name: OperatorName::parse(name).unwrap(),
            token: OperatorToken::new([n; 32]).hash(),
            by: MemberName::parse("alpha").unwrap(),
            since: WallTime(100),
            until: Some(WallTime(200)),
        }
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
                    let mut resting = quiet.clone();
                    resting.put_to_rest(id(4), rest());
                    let mut silent = quiet.clone();
                    assert!(silent.silence(silence(None, None, Some(1))));
                    let mut all = acting.clone();
                    assert!(all.silence(silence(Some("web"), Some("hot"), None)));
                    let mut over_the_network = quiet.clone();
                    assert!(over_the_network.add_operator(operator("alice", 1)));
                    let mut both = all.clone();
                    assert!(both.add_operator(operator("alice", 1)));
                    let more = [over_the_network, both];
                    let those = [quiet, acting, waiting, resting, silent, all];
                    for conduct in those.into_iter().chain(more) {
                        let bytes = wire::encode(Kind::Record, &conduct);
                        assert_eq!(wire::decode::<Conduct>(Kind::Record, &bytes), Ok(conduct));
                    }
                }
            }
        }
    }

    #[test]
    fn there_is_one_way_to_write_each() {
        let all = |episodes: Vec<Episode>, waiting: Vec<MemberId>, resting: Vec<MemberId>| {
            let (failover, vote) = (Failover::Auto, VotePolicy::Majority);
            let resting = resting.into_iter().map(|id| (id, rest())).collect();
            let acting =
                Acting { failover, vote, remove_after_s: None, episodes, waiting, resting };
            wire::encode(Kind::Record, &Form::Acting(acting))
        };
        let written = |episodes, waiting| all(episodes, waiting, vec![]);
        let reads = |bytes: &[u8]| wire::decode::<Conduct>(Kind::Record, bytes).is_ok();
        let (a, b) = (episode("web", "hot"), episode("web", "late"));
        let (first, second) = (id(1).min(id(2)), id(1).max(id(2)));
        assert!(reads(&written(vec![a.clone(), b.clone()], vec![first, second])));
        assert!(!reads(&written(vec![b.clone(), a.clone()], vec![])));
        assert!(!reads(&written(vec![a.clone(), a.clone()], vec![])));
        assert!(!reads(&written(vec![a.clone()], vec![second, first])));
        assert!(!reads(&written(vec![a], vec![first, first])));
        assert!(!reads(&written(vec![], vec![])));
        assert!(reads(&all(vec![], vec![], vec![first, second])));
        assert!(!reads(&all(vec![], vec![], vec![second, first])));
        assert!(!reads(&all(vec![], vec![], vec![first, first])));
    }

    #[test]
    fn there_is_one_way_to_write_silences() {
        let written = |episodes: Vec<Episode>, silences: Vec<Silence>| {
            let (failover, vote) = (Failover::Auto, VotePolicy::Majority);
            let (waiting, resting) = (Vec::new(), Vec::new());
            let acting =
                Acting { failover, vote, remove_after_s: None, episodes, waiting, resting };
            wire::encode(Kind::Record, &Form::Silencing(acting, silences))
        };
        let reads = |bytes: &[u8]| wire::decode::<Conduct>(Kind::Record, bytes).is_ok();
        let (a, b) = (silence(Some("web"), None, None), silence(Some("web"), Some("hot"), None));
        assert!(reads(&written(vec![], vec![a.clone(), b.clone()])));
        assert!(reads(&written(vec![episode("web", "hot")], vec![a.clone()])));
        assert!(!reads(&written(vec![], vec![b.clone(), a.clone()])));
        assert!(!reads(&written(vec![], vec![a.clone(), a.clone()])));
        assert!(!reads(&written(vec![episode("web", "hot")], vec![])));
        assert!(!reads(&written(vec![episode("web", "late"), episode("web", "hot")], vec![a])));
        for nothing in [silence(None, None, None), silence(None, Some("hot"), Some(1))] {
            assert!(!reads(&written(vec![], vec![nothing])));
        }
        let long = Silence { why: "a".repeat(limits::SILENCE_WHY_MAX + 1), ..b };
        assert!(!reads(&written(vec![], vec![long])));
    }

    #[test]
    fn there_is_one_way_to_write_operators() {
        let written = |silences: Vec<Silence>, operators: Vec<Operator>| {
            let (failover, vote) = (Failover::Auto, VotePolicy::Majority);
            let (episodes, waiting, resting) = (Vec::new(), Vec::new(), Vec::new());
            let acting =
                Acting { failover, vote, remove_after_s: None, episodes, waiting, resting };
            wire::encode(Kind::Record, &Form::Operating(acting, silences, operators))
        };
        let reads = |bytes: &[u8]| wire::decode::<Conduct>(Kind::Record, bytes).is_ok();
        let (a, b) = (operator("alice", 1), operator("bob", 2));
        assert!(reads(&written(vec![], vec![a.clone(), b.clone()])));
        assert!(reads(&written(vec![silence(Some("web"), None, None)], vec![a.clone()])));
        assert!(!reads(&written(vec![], vec![])));
        assert!(!reads(&written(vec![silence(Some("web"), None, None)], vec![])));
        assert!(!reads(&written(vec![], vec![b, a.clone()])));
        assert!(!reads(&written(vec![], vec![a.clone(), a.clone()])));
        assert!(!reads(&written(vec![], vec![a, operator("bob", 1)])), "one token for two");
    }

    #[test]
    fn operators_are_found_by_their_tokens_and_are_not_too_many() {
        let mut conduct = Conduct::default();
        let hash = |n: u8| OperatorToken::new([n; 32]).hash();
        for (name, n) in [("carol", 3), ("alice", 1), ("bob", 2)] {
            assert!(conduct.add_operator(operator(name, n)));
        }
        assert!(!conduct.add_operator(operator("alice", 4)), "the name is taken");
        assert!(!conduct.add_operator(operator("dave", 1)), "the token is");
        let found = |conduct: &Conduct, n: u8| {
            conduct.operator_with(&hash(n)).map(|operator| operator.name.to_string())
        };
        assert_eq!(found(&conduct, 2).as_deref(), Some("bob"));
        assert_eq!(found(&conduct, 9), None);
        conduct.remove_operator(&operator("bob", 2).name);
        assert_eq!(found(&conduct, 2), None);
        assert_eq!(found(&conduct, 3).as_deref(), Some("carol"));
        conduct.end_operators(WallTime(199));
        assert_eq!(conduct.operators().len(), 2);
        conduct.end_operators(WallTime(200));
        assert_eq!(conduct, Conduct::default());
        for n in 0..limits::OPERATORS_MAX {
            assert!(conduct.add_operator(operator(&format!("o{n}"), n as u8)));
        }
        assert!(!conduct.add_operator(operator("one-more", 99)));
        let bytes = wire::encode(Kind::Record, &conduct);
        assert_eq!(wire::decode::<Conduct>(Kind::Record, &bytes), Ok(conduct));
    }

    #[test]
    fn a_silence_covers_what_it_says_until_it_is_over() {
        let covers = |silence: &Silence, app: &str, rule: &str, member: Option<u8>, at| {
            let (app, rule) = (AppName::parse(app).unwrap(), RuleName::parse(rule).unwrap());
            silence.covers(&app, &rule, member.map(id), WallTime(at))
        };
        let one = silence(Some("web"), Some("hot"), None);
        for member in [None, Some(1), Some(2)] {
            assert!(covers(&one, "web", "hot", member, 199));
            assert!(covers(&one, "web", "hot", member, 7), "clocks differ");
            assert!(!covers(&one, "web", "hot", member, 200));
            assert!(!covers(&one, "web", "late", member, 150));
            assert!(!covers(&one, "shop", "hot", member, 150));
        }
        let app = silence(Some("web"), None, None);
        assert!(covers(&app, "web", "late", None, 150) && covers(&app, "web", "hot", Some(1), 150));
        assert!(!covers(&app, "shop", "hot", None, 150));
        let member = silence(None, None, Some(1));
        assert!(covers(&member, "web", "hot", Some(1), 150));
        assert!(covers(&member, "shop", "late", Some(1), 150));
        assert!(!covers(&member, "web", "hot", Some(2), 150));
        assert!(!covers(&member, "web", "hot", None, 150), "it is about the cluster");
        let both = silence(Some("web"), Some("hot"), Some(1));
        assert!(covers(&both, "web", "hot", Some(1), 150));
        assert!(!covers(&both, "web", "late", Some(1), 150));
        assert!(!covers(&both, "web", "hot", Some(2), 150));
    }

    #[test]
    fn of_several_silences_the_longest_is_told() {
        let all = [
            Silence { until: WallTime(300), ..silence(None, None, Some(1)) },
            silence(Some("web"), None, None),
        ];
        let (web, hot) = (AppName::parse("web").unwrap(), RuleName::parse("hot").unwrap());
        let until = |member: Option<u8>, at| {
            let found = Silence::of(&all, &web, &hot, member.map(id), WallTime(at));
            found.map(|silence| silence.until.0)
        };
        assert_eq!(until(Some(1), 150), Some(300));
        assert_eq!(until(Some(2), 150), Some(200));
        assert_eq!(until(Some(1), 250), Some(300));
        assert_eq!((until(None, 250), until(Some(1), 300)), (None, None));
        let told = |silence: &Silence| silence.what.told(|_| "beta".to_owned());
        assert_eq!(all.each_ref().map(told), ["all rules about beta", "all rules of web"]);
        let both = silence(Some("web"), Some("hot"), Some(1));
        assert_eq!(told(&both), "rule hot of web about beta");
    }

    #[test]
    fn silences_stand_in_order_and_are_not_too_many() {
        let mut conduct = Conduct::default();
        for silence in [
            silence(Some("web"), Some("hot"), None),
            silence(None, None, Some(1)),
            silence(Some("web"), None, None),
            Silence { until: WallTime(300), ..silence(Some("web"), Some("hot"), None) },
        ] {
            assert!(conduct.silence(silence));
        }
        let until: Vec<u64> = conduct.silences().iter().map(|silence| silence.until.0).collect();
        assert_eq!(until, [200, 200, 300], "one in the place of another one");
        let written = wire::encode(Kind::Record, &conduct);
        assert_eq!(wire::decode::<Conduct>(Kind::Record, &written).as_ref(), Ok(&conduct));
        let mut later = conduct.clone();
        later.end_silences(WallTime(200));
        assert_eq!(later.silences(), &conduct.silences()[2..]);
        assert!(later.unsilence(&conduct.silences()[2].what).is_some());
        assert!(later.unsilence(&conduct.silences()[2].what).is_none());
        assert_eq!(later, Conduct::default());

        for n in 3..limits::SILENCES_MAX {
            assert!(conduct.silence(silence(Some("shop"), Some(&format!("r{n}")), None)));
        }
        assert!(!conduct.silence(silence(Some("shop"), Some("one-more"), None)));
        assert!(conduct.silence(silence(Some("web"), Some("hot"), None)), "it is there already");
    }

    #[test]
    fn a_silence_goes_with_its_member() {
        let mut conduct = Conduct::default();
        for n in 1..=3 {
            assert!(conduct.silence(silence(None, None, Some(n))));
        }
        conduct.let_go(id(2));
        conduct.rename(id(1), id(9));
        let mut expected = [id(2), id(3), id(9)];
        expected.sort();
        let about = |conduct: &Conduct| {
            let all = conduct.silences().iter().filter_map(|silence| silence.what.member);
            all.collect::<Vec<_>>()
        };
        assert_eq!(about(&conduct), expected, "in order, whatever they are called");
        conduct.forget(id(2));
        assert!(about(&conduct).len() == 2 && !about(&conduct).contains(&id(2)));
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
        conduct.put_to_rest(id(6), rest());
        conduct.rename(id(6), id(7));
        assert_eq!(conduct.leaving().collect::<Vec<_>>(), [(id(7), rest())]);
        assert!(conduct.drained(id(7)) && !conduct.drained(id(7)) && !conduct.drained(id(6)));
        assert_eq!((conduct.leaving().count(), conduct.spare()), (0, 2));
        [4, 5, 7].into_iter().for_each(|n| conduct.let_go(id(n)));
        assert!(!conduct.is_waiting(id(4)) && conduct.episodes()[0].brought.is_empty());
        assert_eq!(conduct.rest(id(7)), None);
    }
}
