//! Applications that are placed on some of four real members, by their tags.

#[expect(dead_code, reason = "other tests need more of it")]
mod common;

use std::{fs, path::Path};

use common::{Lab, Member, until};
use serde_json::Value;

fn manifest(site: &Path, placement: &str) {
    let text = format!("[application]\nname = \"shop\"\nplacement = \"{placement}\"\n");
    fs::write(site.join("althing.toml"), text).unwrap();
}

/// How each member stands to the application, in the eyes of `member`.
fn positions(member: &Member) -> Vec<(String, String)> {
    let votes = member.run(&["votes", "shop"]).unwrap();
    let of = |p: &Value, key: &str| p[key].as_str().unwrap().to_owned();
    let all = votes[0]["positions"].as_array().unwrap().iter();
    all.map(|p| (of(p, "member"), of(p, "position"))).collect()
}

/// Waits until every member stands so.
fn all_stand(member: &Member, wanted: [(&str, &str); 4]) {
    until(&format!("they stand as {wanted:?}"), || {
        let found = positions(member);
        let same = found.iter().map(|(m, p)| (m.as_str(), p.as_str())).eq(wanted);
        if same { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

/// Covers R4.
#[test]
fn an_application_is_where_it_is_placed_and_moves_with_the_tags() {
    let lab = Lab::new((62, 1));
    let [one, two, three, db] = lab.cluster(["one", "two", "three", "db"]);
    for name in ["one", "two", "three"] {
        one.run(&["tags", name, "set", "role=web"]).unwrap();
    }
    one.run(&["tags", "db", "set", "role=db"]).unwrap();
    let site = lab.site("shop", &[("index.html", "first"), ("b/c", "1")]);
    let live = |member: &Member| member.data.join("live/shop/index.html");
    let read = |member: &Member| fs::read_to_string(live(member)).ok();

    manifest(&site, "role = web");
    let refused = one.publish(&site, &[]).unwrap_err();
    assert!(refused.why.contains("line 3, column 13"), "{refused:?}");
    manifest(&site, "role == mail");
    let refused = one.publish(&site, &[]).unwrap_err();
    assert!(refused.why.contains("no member with a vote is that"), "{refused:?}");

    // Published through one that does not hold it, and served by it all the same.
    manifest(&site, "role == web");
    db.publish(&site, &[]).unwrap();
    let (agrees, elsewhere) = ("agrees", "elsewhere");
    all_stand(&two, [("one", agrees), ("two", agrees), ("three", agrees), ("db", elsewhere)]);
    let votes = two.run(&["votes", "shop"]).unwrap();
    assert_eq!((&votes[0]["vote"], &votes[0]["electorate"]), (&"unanimous".into(), &3.into()));
    assert!(read(&one).is_some() && !db.data.join("live/shop").exists());
    let answer = db.get("/").unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"first"[..]));
    let status = db.run(&["status"]).unwrap();
    assert_eq!(status["health"], "ok", "{status}");
    let refused = db.run(&["verify", "shop"]).unwrap_err();
    assert!(refused.why.contains("but on one, two, three"), "{refused:?}");

    // Only those are right about it: two of three repair the third.
    fs::write(live(&three), "edited").unwrap();
    until("it is repaired", || match read(&three) {
        Some(text) if text == "first" => Ok(()),
        other => Err(format!("{other:?}")),
    });

    // Secrets are sealed for those that it is placed on.
    let sealed_for = |member: &Member| {
        let path = member.data.join("live/shop/.althing/secrets.toml");
        let text = fs::read_to_string(path).unwrap_or_default();
        let list = text.split_once("members = [").and_then(|(_, rest)| rest.split_once(']'));
        list.map_or(0, |(list, _)| list.matches(',').count())
    };
    one.run_with(&["secret", "set", "shop", "password"], "hush").unwrap();
    until("three can open it", || match sealed_for(&two) {
        3 => Ok(()),
        other => Err(other.to_string()),
    });

    // The next version, again through the one without it: it fetches what it needs.
    fs::write(site.join("index.html"), "second").unwrap();
    db.publish(&site, &[]).unwrap();
    until("it is live", || match read(&one) {
        Some(text) if text == "second" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(sealed_for(&one), 3, "the secrets are in it still");

    // One goes, with an edit that nobody had repaired yet or somebody had: kept or repaired.
    one.run(&["tags", "three", "set", "role=cache"]).unwrap();
    all_stand(&db, [("one", agrees), ("two", agrees), ("three", elsewhere), ("db", elsewhere)]);
    until("nothing is left of it", || {
        if three.data.join("live/shop").exists() { Err("it is there".to_owned()) } else { Ok(()) }
    });
    assert_eq!(three.get("/").unwrap().body, b"second");

    // All of it moves to the other two, and is served all the time.
    for name in ["three", "db"] {
        one.run(&["tags", name, "set", "role=web"]).unwrap();
    }
    for (member, name) in [(&one, "one"), (&two, "two")] {
        member.run(&["tags", name, "unset", "role"]).unwrap();
        assert_eq!(two.get("/").unwrap().status, 200);
    }
    all_stand(&one, [("one", elsewhere), ("two", elsewhere), ("three", agrees), ("db", agrees)]);
    assert_eq!(read(&db).as_deref(), Some("second"));
    assert_eq!(one.get("/").unwrap().body, b"second");

    // The last one with a vote is not taken from it.
    db.run(&["tags", "three", "unset", "role"]).unwrap();
    for args in [&["tags", "db", "unset", "role"][..], &["remove", "db"]] {
        let refused = one.run(args).unwrap_err();
        assert!(refused.why.contains("no other member with a vote"), "{refused:?}");
    }
    assert_eq!(one.get("/").unwrap().body, b"second");
}
