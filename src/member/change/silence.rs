//! Silences: what operators say so that rules do nothing for a while. What is over goes with the
//! next change of them.

use super::{no_such_app, not_enrolled};
use crate::base::{
    Reason, Refusal, WallTime,
    catalog::Catalog,
    conduct::{Silence, Silenced},
    limits,
};

const WHAT: &str = "Nothing was silenced.";

/// One more, or another one in the place of the one about the same.
pub(super) fn silence(next: &mut Catalog, silence: &Silence) -> Result<(), Refusal> {
    check(silence)?;
    if let Some(app) = silence.what.app.as_ref().filter(|app| next.application(app).is_none()) {
        return Err(no_such_app(app, WHAT));
    }
    if silence.what.member.is_some_and(|member| !next.roster.contains(member)) {
        return Err(not_enrolled(WHAT));
    }
    next.conduct.end_silences(silence.since);
    if !next.conduct.silence(silence.clone()) {
        return Err(Refusal::new(
            Reason::Failed,
            WHAT,
            format!("{} silences stand already, and no more can.", limits::SILENCES_MAX),
            "End some of them (`althing silence`), or silence all rules of an application at once.",
        ));
    }
    Ok(())
}

/// The rules act again. Refused where the member is not enrolled (any more): with a new key it has
/// another id, and the silence about it stands under that one.
pub(super) fn unsilence(next: &mut Catalog, what: &Silenced, at: WallTime) -> Result<(), Refusal> {
    if what.member.is_some_and(|member| !next.roster.contains(member)) {
        return Err(Refusal::new(
            Reason::Conflict,
            "No silence was ended.",
            "The member that it is about has just taken up a new key, or was removed.",
            "See `althing silence` for those that stand, and ask again.",
        ));
    }
    next.conduct.end_silences(at);
    next.conduct.unsilence(what);
    Ok(())
}

fn check(silence: &Silence) -> Result<(), Refusal> {
    let refuse =
        |why: String, todo: &str| Err(Refusal::new(Reason::Invalid, WHAT, why, todo.to_owned()));
    if !silence.what.is_sound() {
        return refuse(
            "It is not said which rules.".to_owned(),
            "Name APP/RULE, APP, or a member with --member.",
        );
    }
    if silence.why.trim().is_empty()
        || silence.why.len() > limits::SILENCE_WHY_MAX
        || silence.why.chars().any(char::is_control)
    {
        return refuse(
            format!(
                "The reason is empty, has more than {} bytes, or control characters.",
                limits::SILENCE_WHY_MAX
            ),
            "Say in a short sentence why (--why), for whoever looks later.",
        );
    }
    let lasts_ms = silence.until.0.saturating_sub(silence.since.0);
    if !(limits::SILENCE_MIN_S * 1_000..=limits::SILENCE_MAX_S * 1_000).contains(&lasts_ms) {
        return refuse(
            "A silence lasts at least a minute, and at most 30 days.".to_owned(),
            "Give another span (--for). A rule that is to be silent for ever is better taken out.",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::Change, *};
    use crate::{
        base::{
            AppName, Digest, MemberId, MemberName, RuleName, SecretKey,
            catalog::{AppSpec, Application, Enrolled, Origin, Version},
        },
        proto::catalog::Transition,
    };

    const MINUTE_MS: u64 = 60_000;

    fn id(n: u8) -> MemberId {
        SecretKey::from_seed([n; 32]).member()
    }

    fn catalog() -> Catalog {
        let enrolled = |n: u8| Enrolled {
            id: id(n),
            key: SecretKey::from_seed([n; 32]).public(),
            name: format!("m{n}").parse().expect("a name"),
            address: ([127, 0, 0, n], 1).into(),
            tags: Default::default(),
            voter: true,
            standby: false,
        };
        let mut catalog = Catalog::found([1; 32], enrolled(1));
        catalog.roster.members.extend((2..=3).map(enrolled));
        let version = Version {
            number: 1,
            root: Digest::of_bytes(b"a tree"),
            files: 1,
            bytes: 1,
            spec: AppSpec::default(),
            publisher: id(1),
            published_at: WallTime(0),
            message: String::new(),
            origin: Origin::Published,
            asked: None,
        };
        let web = AppName::parse("web").expect("a name");
        catalog.applications.insert(web, Application { versions: vec![version] });
        catalog
    }

    fn of(app: Option<&str>, rule: Option<&str>, member: Option<u8>) -> Silenced {
        Silenced {
            app: app.map(|app| AppName::parse(app).expect("a name")),
            rule: rule.map(|rule| RuleName::parse(rule).expect("a name")),
            member: member.map(id),
        }
    }

    /// From one minute to another one.
    fn lasting(what: Silenced, from: u64, to: u64) -> Silence {
        Silence {
            what,
            by: MemberName::parse("m1").expect("a name"),
            why: "a disk is replaced".to_owned(),
            since: WallTime(from * MINUTE_MS),
            until: WallTime(to * MINUTE_MS),
        }
    }

    fn change(silence: Silence) -> Change {
        Change::Silence(Box::new(silence))
    }

    fn make(base: &Catalog, change: &Change) -> Catalog {
        let next = change.apply(base).expect("it is allowed").expect("it changes something");
        assert_eq!(change.apply(&next), Ok(None), "the second time");
        next
    }

    #[test]
    fn a_later_one_takes_the_place_and_what_is_over_goes() {
        let base = catalog();
        let (hot, beta) = (of(Some("web"), Some("hot"), None), of(None, None, Some(2)));
        let one = make(&base, &change(lasting(hot.clone(), 0, 10)));
        let two = make(&one, &change(lasting(beta.clone(), 1, 20)));
        let longer = make(&two, &change(lasting(hot.clone(), 2, 30)));
        let until = |catalog: &Catalog| {
            let all = catalog.conduct.silences().iter();
            all.map(|silence| silence.until.0 / MINUTE_MS).collect::<Vec<_>>()
        };
        assert_eq!(until(&longer), [20, 30]);
        let later = make(&longer, &change(lasting(of(Some("web"), None, None), 20, 21)));
        assert_eq!(until(&later), [21, 30]);
        let unsilence =
            |what: Silenced, at: u64| Change::Unsilence { what, at: WallTime(at * MINUTE_MS) };
        let ended = make(&later, &unsilence(hot, 20));
        assert_eq!(until(&ended), [21]);
        assert_eq!(unsilence(beta.clone(), 20).apply(&ended), Ok(None), "it is over");
        // What is about nothing that stands still takes away what is over, and nothing else.
        assert_eq!(make(&ended, &unsilence(beta, 21)).conduct, base.conduct);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let base = catalog();
        let reason = |silence: Silence| change(silence).apply(&base).unwrap_err().reason;
        let web = || of(Some("web"), None, None);
        assert_eq!(reason(lasting(of(Some("shop"), None, None), 0, 9)), Reason::NotFound);
        assert_eq!(reason(lasting(of(None, None, Some(9)), 0, 9)), Reason::NotFound);
        for nothing in [of(None, None, None), of(None, Some("hot"), Some(1))] {
            assert_eq!(reason(lasting(nothing, 0, 9)), Reason::Invalid);
        }
        for (from, to) in [(5, 5), (6, 5), (0, 30 * 24 * 60 + 1)] {
            assert_eq!(reason(lasting(web(), from, to)), Reason::Invalid);
        }
        for (from, to) in [(5, 6), (1, 30 * 24 * 60 + 1)] {
            make(&base, &change(lasting(web(), from, to)));
        }
        let why = |why: String| Silence { why, ..lasting(web(), 0, 9) };
        for bad in [String::new(), "  ".to_owned(), "a\nb".to_owned(), "a".repeat(257)] {
            assert_eq!(reason(why(bad)), Reason::Invalid);
        }
        make(&base, &change(why("a".repeat(256))));
    }

    #[test]
    fn none_is_ended_under_a_members_earlier_key() {
        let mut base = make(&catalog(), &change(lasting(of(None, None, Some(2)), 0, 10)));
        let unsilence = |n| Change::Unsilence { what: of(None, None, Some(n)), at: WallTime(1) };
        // The member takes up a new key between the question and the change.
        base.conduct.rename(id(2), id(4));
        let entry = base.roster.members.iter_mut().find(|m| m.id == id(2)).expect("enrolled");
        entry.id = id(4);
        let refused = unsilence(2).apply(&base).unwrap_err();
        assert_eq!(refused.reason, Reason::Conflict, "{refused:?}");
        assert!(make(&base, &unsilence(4)).conduct.silences().is_empty());
    }

    #[test]
    fn the_catalog_does_not_grow_without_end() {
        let mut base = catalog();
        let of_rule = |n: usize| of(Some("web"), Some(&format!("r{n}")), None);
        for n in 0..limits::SILENCES_MAX {
            base = make(&base, &change(lasting(of_rule(n), 0, 10)));
        }
        let more = |from| change(lasting(of_rule(limits::SILENCES_MAX), from, 20));
        assert_eq!(more(9).apply(&base).unwrap_err().reason, Reason::Failed);
        make(&base, &change(lasting(of_rule(0), 9, 20)));
        let rest = make(&base, &more(10));
        assert_eq!(rest.conduct.silences().len(), 1);
    }

    #[test]
    fn it_goes_with_its_member_and_stays_while_it_is_drained() {
        let base = make(&catalog(), &change(lasting(of(None, None, Some(2)), 0, 10)));
        let aside = make(&base, &Change::Standby { member: id(2), standby: true });
        assert_eq!(aside.conduct.silences().len(), 1);
        let fewer = make(&aside, &Change::Remove { member: id(2) });
        assert!(fewer.conduct.silences().is_empty());
    }
}
