//! Which origins the requests of clients are held against: those that rules of what is live here
//! name, of rules about the cluster as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Told, wide::Shelf};
use crate::{
    base::{AppName, Origins},
    gateway::{Stats, origins::SETS_MAX},
    member::event::Severity,
    proto::rule::{Rule, What},
};

/// Sets that are named in one event.
const SAMPLE: usize = 3;

/// Has them counted.
pub(super) struct Counting {
    /// Whoever counts; nobody where no clients come.
    stats: Option<Arc<Stats>>,
    /// Those that are not counted, by the applications whose rules name them.
    beyond: BTreeMap<AppName, BTreeSet<Origins>>,
}

impl Counting {
    pub fn new(stats: Option<Arc<Stats>>) -> Self {
        Self { stats, beyond: BTreeMap::new() }
    }

    /// From now on just these are counted, as far as that goes: what is counted already goes on.
    /// What of it is to be told.
    pub fn count(&mut self, named: &[(AppName, Origins)]) -> Vec<Told> {
        let Some(stats) = &self.stats else { return Vec::new() };
        let tally = stats.tally();
        let before: BTreeSet<Origins> = tally.origins().into_iter().map(|of| of.origins).collect();
        let wanted: BTreeSet<&Origins> = named.iter().map(|(_, origins)| origins).collect();
        let (old, new): (Vec<&Origins>, Vec<&Origins>) =
            wanted.into_iter().partition(|origins| before.contains(*origins));
        let left_out = tally.set_origins(old.into_iter().chain(new).cloned().collect());
        let left_out: BTreeSet<Origins> = left_out.into_iter().collect();
        let mut beyond: BTreeMap<AppName, BTreeSet<Origins>> = BTreeMap::new();
        for (app, origins) in named.iter().filter(|(_, origins)| left_out.contains(origins)) {
            beyond.entry(app.clone()).or_default().insert(origins.clone());
        }
        let is_told = |app: &AppName, sets: &BTreeSet<Origins>| self.beyond.get(app) == Some(sets);
        let untold = beyond.iter().filter(|(app, sets)| !is_told(app, sets));
        let told = untold.map(|(app, sets)| complaint(app, sets)).collect();
        self.beyond = beyond;
        told
    }
}

fn complaint(app: &AppName, sets: &BTreeSet<Origins>) -> Told {
    let sample: Vec<String> = sets.iter().take(SAMPLE).map(Origins::label).collect();
    let more = match sets.len().saturating_sub(SAMPLE) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let text = format!(
        "requests from {}{more}, which rules of {app} ask for, are not counted, because this \
         member counts {SETS_MAX} sets of origins at most: for these rules they are unknown",
        sample.join(", ")
    );
    Told { severity: Severity::Warning, app: app.clone(), episode: None, text }
}

/// What the rules of all that is live name.
pub(super) fn named(shelf: &Shelf) -> Vec<(AppName, Origins)> {
    let rules = shelf.iter().flat_map(|(app, ready)| {
        let rules = ready.iter().flat_map(|ready| ready.rules.parsed());
        rules.map(move |(_, rule)| (app, rule))
    });
    rules
        .flat_map(|(app, rule)| of_rule(&rule).into_iter().map(move |of| (app.clone(), of)))
        .collect()
}

fn of_rule(rule: &Rule) -> Vec<Origins> {
    let measured = rule.measured().into_iter();
    let origins = measured.filter_map(|of| match &of.what {
        What::From(origins) => Origins::of(origins).ok(),
        What::Series(_) | What::Events { .. } => None,
    });
    origins.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rule::parse;

    fn app(name: &str) -> AppName {
        AppName::parse(name).unwrap()
    }

    /// So many networks, from this one on.
    fn networks(of: &str, from: usize, count: usize) -> Vec<(AppName, Origins)> {
        let network = |n: usize| (app(of), format!("10.{n}.0.0/16").parse().unwrap());
        (from..from + count).map(network).collect()
    }

    #[test]
    fn a_rule_names_all_that_it_begins_and_ends_by() {
        let rule = parse(
            "when any share(requests from MX|CA, 10m) > 60% or cluster rate(requests from DE, 1m) > 5/s \
             until every share(requests from CA|MX, 1m) < 9% and any cpu < 9% then log",
        );
        let labels: Vec<String> = of_rule(&rule.unwrap()).iter().map(Origins::label).collect();
        assert_eq!(labels, ["CA|MX", "DE", "CA|MX"]);
    }

    #[test]
    fn what_is_counted_goes_on_and_what_is_too_much_is_told_once() {
        let stats = Arc::new(Stats::default());
        let mut counting = Counting::new(Some(Arc::clone(&stats)));
        let mut named = networks("shop", 100, SETS_MAX - 1);
        assert!(counting.count(&named).is_empty());
        // Others come, the first of which would stand before all of these.
        named.extend(networks("blog", 10, 5));
        let told = counting.count(&named);
        assert_eq!(told.len(), 1);
        let Told { severity, app: whose, text, .. } = &told[0];
        assert_eq!((*severity, whose), (Severity::Warning, &app("blog")));
        let says = "requests from 10.11.0.0/16, 10.12.0.0/16, 10.13.0.0/16 and 1 more, which";
        assert!(text.starts_with(says), "{text}");
        let counted: BTreeSet<String> =
            stats.tally().origins().iter().map(|of| of.origins.to_string()).collect();
        assert_eq!(counted.len(), SETS_MAX);
        assert!(counted.contains("10.10.0.0/16") && counted.contains("10.100.0.0/16"));
        assert!(!counted.contains("10.11.0.0/16"));
        assert!(counting.count(&named).is_empty(), "nothing has changed");

        // Where there is room again, they are counted; and then it would be told anew.
        let few = named.split_off(SETS_MAX - 1);
        assert!(counting.count(&few).is_empty());
        assert_eq!(stats.tally().origins().len(), 5);
        named.extend(few);
        // Five of them are counted already, so four others are left out.
        let told = counting.count(&named);
        assert_eq!(told.iter().map(|told| &told.app).collect::<Vec<_>>(), [&app("shop")]);
        assert!(counting.count(&[]).is_empty() && stats.tally().origins().is_empty());
    }

    #[test]
    fn nothing_is_told_where_no_clients_come() {
        let many = networks("shop", 0, SETS_MAX + 5);
        assert!(Counting::new(None).count(&many).is_empty());
    }
}
