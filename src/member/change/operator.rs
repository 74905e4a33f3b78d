//! Operators that may act over the network. Those whose time is over go with the next change of
//! them.

use crate::base::{
    OperatorName, Reason, Refusal, WallTime, catalog::Catalog, limits, operator::Operator,
};

/// Adds one.
pub(super) fn add(next: &mut Catalog, operator: &Operator) -> Result<(), Refusal> {
    // Whoever proposed it lost touch, and proposes it again.
    if next.conduct.operators().contains(operator) {
        return Ok(());
    }
    let Operator { name, since, until, .. } = operator;
    let what = "No operator was added.";
    let lasts_ms = until.map(|until| until.0.saturating_sub(since.0));
    if lasts_ms.is_some_and(|ms| !(1_000..=limits::OPERATOR_VALID_MAX_S * 1_000).contains(&ms)) {
        return Err(Refusal::new(
            Reason::Invalid,
            what,
            "A token is valid for a second at least, and for ten years at most.",
            "Give another span (--expires), or none: then it is valid until it is removed.",
        ));
    }
    next.conduct.end_operators(*since);
    if next.conduct.operators().iter().any(|one| one.name == *name) {
        return Err(Refusal::new(
            Reason::Conflict,
            what,
            format!("There is an operator called {name} already."),
            format!(
                "Take another name; for a new token run `althing operator remove {name}` first."
            ),
        ));
    }
    if next.conduct.operators().len() >= limits::OPERATORS_MAX {
        return Err(Refusal::new(
            Reason::Failed,
            what,
            format!("There are {} operators already, and no more can be.", limits::OPERATORS_MAX),
            "Remove some of them: `althing operator list` shows who they are.",
        ));
    }
    if !next.conduct.add_operator(operator.clone()) {
        return Err(Refusal::new(
            Reason::Conflict,
            what,
            "Another operator has this token.",
            "Run the command again: it draws a new one.",
        ));
    }
    Ok(())
}

/// Takes one out: the token counts for nothing wherever this is known.
pub(super) fn remove(next: &mut Catalog, name: &OperatorName, at: WallTime) {
    next.conduct.end_operators(at);
    next.conduct.remove_operator(name);
}

#[cfg(test)]
mod tests {
    use super::{super::Change, *};
    use crate::{
        base::{MemberName, SecretKey, catalog::Enrolled, operator::OperatorToken},
        proto::catalog::Transition,
    };

    fn catalog() -> Catalog {
        let key = SecretKey::from_seed([1; 32]);
        let founder = Enrolled {
            id: key.member(),
            key: key.public(),
            name: "m1".parse().expect("a name"),
            address: ([127, 0, 0, 1], 1).into(),
            tags: Default::default(),
            voter: true,
            standby: false,
        };
        Catalog::found([1; 32], founder)
    }

    fn named(name: &str) -> OperatorName {
        OperatorName::parse(name).expect("a name")
    }

    /// From one moment to another one, seconds.
    fn operator(name: &str, n: u8, from: u64, to: Option<u64>) -> Operator {
        Operator {
            name: named(name),
            token: OperatorToken::new([n; 32]).hash(),
            by: MemberName::parse("m1").expect("a name"),
            since: WallTime(from * 1_000),
            until: to.map(|s| WallTime(s * 1_000)),
        }
    }

    fn adding(operator: Operator) -> Change {
        Change::AddOperator(Box::new(operator))
    }

    fn removing(name: &str, at: u64) -> Change {
        Change::RemoveOperator { name: named(name), at: WallTime(at * 1_000) }
    }

    fn make(base: &Catalog, change: &Change) -> Catalog {
        let next = change.apply(base).expect("it is allowed").expect("it changes something");
        assert_eq!(change.apply(&next), Ok(None), "the second time");
        next
    }

    fn names(catalog: &Catalog) -> Vec<&str> {
        catalog.conduct.operators().iter().map(|operator| operator.name.as_str()).collect()
    }

    #[test]
    fn they_come_and_go_and_what_is_over_goes_with_the_next() {
        let base = catalog();
        let one = make(&base, &adding(operator("bob", 1, 0, Some(10))));
        let two = make(&one, &adding(operator("alice", 2, 1, None)));
        assert_eq!(names(&two), ["alice", "bob"]);
        let later = make(&two, &adding(operator("carol", 3, 10, None)));
        assert_eq!(names(&later), ["alice", "carol"], "the time of bob is over");
        let fewer = make(&later, &removing("alice", 11));
        assert_eq!(names(&fewer), ["carol"]);
        assert_eq!(removing("alice", 12).apply(&fewer), Ok(None), "there is none");
        // Whose time is over gives way to a new one of that name.
        let again = make(&one, &adding(operator("bob", 4, 10, None)));
        assert_eq!(names(&again), ["bob"]);
        assert_eq!(make(&fewer, &removing("carol", 12)).conduct, base.conduct);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let base = make(&catalog(), &adding(operator("alice", 1, 0, None)));
        let reason = |operator: Operator| adding(operator).apply(&base).unwrap_err().reason;
        assert_eq!(reason(operator("alice", 2, 0, None)), Reason::Conflict);
        assert_eq!(reason(operator("bob", 1, 0, None)), Reason::Conflict, "one token for two");
        let max = limits::OPERATOR_VALID_MAX_S;
        for to in [0, 5, 5 + max + 1] {
            assert_eq!(reason(operator("bob", 2, 5, Some(to))), Reason::Invalid, "{to}");
        }
        for to in [6, 5 + max] {
            make(&base, &adding(operator("bob", 2, 5, Some(to))));
        }
    }

    #[test]
    fn the_catalog_does_not_grow_without_end() {
        let mut base = catalog();
        for n in 0..limits::OPERATORS_MAX {
            base = make(&base, &adding(operator(&format!("o{n}"), n as u8, 0, Some(10))));
        }
        let more = |from| adding(operator("more", 200, from, None));
        assert_eq!(more(9).apply(&base).unwrap_err().reason, Reason::Failed);
        assert_eq!(names(&make(&base, &more(10))), ["more"]);
    }
}
