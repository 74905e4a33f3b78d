//! Hooks with real programs on three members: what one says before a switch concerns its
//! member alone, and what runs after one runs everywhere, whatever comes between.

#[expect(dead_code, reason = "other tests need more of it")]
mod common;

use std::{fs, path::Path};

use common::{Lab, Member, until};
use serde_json::Value;

fn reasons(member: &Member) -> String {
    member.view().unwrap()["reasons"].to_string()
}

fn live(member: &Member) -> String {
    fs::read_to_string(member.data.join("live/shop/text")).unwrap_or_default()
}

/// Waits until `member` has this text live, and complains of no hook but those of others.
fn has(member: &Member, text: &str) {
    let others = ["one", "two", "three"].into_iter().filter(|name| *name != member.name());
    let others: Vec<String> = others.map(|name| format!(" on {name}: ")).collect();
    until(&format!("{} has {text}", member.name()), || {
        let (stands, view) = (live(member), member.view()?);
        let reasons = view["reasons"].as_array().ok_or("no reasons")?;
        let ours = |reason: &Value| {
            let reason = reason.as_str().unwrap_or_default();
            reason.contains("hook") && !others.iter().any(|on| reason.contains(on))
        };
        if stands == text && !reasons.iter().any(ours) {
            Ok(())
        } else {
            Err(format!("{stands} {reasons:?}"))
        }
    });
}

fn complains(member: &Member, of: &str) {
    until(&format!("{} complains of {of}", member.name()), || {
        let reasons = reasons(member);
        if reasons.contains(of) { Ok(()) } else { Err(reasons) }
    });
}

/// How often this line was written.
fn count(path: &Path, line: &str) -> usize {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter(|l| *l == line).count()
}

fn written(path: &Path, line: &str, at_least: usize) {
    until(&format!("{line} was written {at_least} times"), || {
        let found = count(path, line);
        if found >= at_least { Ok(()) } else { Err(fs::read_to_string(path).unwrap_or_default()) }
    });
}

fn logged(member: &Member, hook: &str) -> Vec<String> {
    let lines = member.run(&["logs", "shop", hook]).unwrap();
    lines.as_array().unwrap().iter().map(|l| l["text"].as_str().unwrap().to_owned()).collect()
}

/// Covers R6: hooks.
#[test]
fn a_member_whose_hook_says_no_stays_as_it_is_and_the_others_go_on() {
    let lab = Lab::new((62, 1));
    let [one, two, mut three] = lab.cluster(["one", "two", "three"]);
    let site = lab.site("shop", &[]);
    fs::create_dir_all(&site).unwrap();
    let (after, broken, slow) = (lab.path("after"), lab.path("broken"), lab.path("slow"));
    let before_script = "cat \"$ALTHING_NEXT/text\"; grep -q everywhere text && exit 1; \
                         if [ $ALTHING_MEMBER = three ] && grep -q bad text; then echo \"$LEVEL is bad\" >&2; exit 1; fi";
    let after_script = format!(
        "echo $ALTHING_MEMBER $ALTHING_VERSION $(cat text) >> {}; \
         if [ $ALTHING_MEMBER = two ] && [ -e {} ]; then exit 3; fi; \
         if [ $ALTHING_MEMBER = three ] && [ -e {} ]; then exec sleep 1000; fi",
        after.display(),
        broken.display(),
        slow.display()
    );
    let manifest = format!(
        "[application]\nname = \"shop\"\n[settings]\nlevel = \"high\"\n\
         [hooks.before-switch]\nrun = [\"sh\", \"-c\", '''{before_script}''']\nwithin = \"30s\"\n\
         [hooks.after-switch]\nrun = [\"sh\", \"-c\", '''{after_script}''']\nwithin = \"5m\"\n"
    );
    fs::write(site.join("althing.toml"), manifest).unwrap();
    let publish = |member: &Member, text: &str| {
        fs::write(site.join("text"), text).unwrap();
        member.publish(&site, &[])
    };
    publish(&one, "good").unwrap();
    for member in [&one, &two, &three] {
        has(member, "good");
        written(&after, &format!("{} 1 good", member.name()), 1);
    }

    // On the member that is asked it would fail: nobody hears of that version.
    let sequence = two.sequence();
    for (member, text) in [(&three, "bad"), (&one, "nowhere and everywhere")] {
        let refused = publish(member, text).unwrap_err();
        assert!(refused.why.contains("its before-switch hook exited with status 1"), "{refused:?}");
    }
    assert_eq!(two.sequence(), sequence);

    // On another member it passes; three stays behind, serves what it has, and says why.
    publish(&one, "bad").unwrap();
    for member in [&one, &two] {
        has(member, "bad");
        written(&after, &format!("{} 2 bad", member.name()), 1);
    }
    let why = "its before-switch hook exited with status 1: high is bad";
    complains(&three, why);
    // The others say so, too.
    complains(&one, &format!("shop is not version 2 on three: {why}"));
    assert!(three.events().contains("shop could not switch to version 2: its before-switch hook"));
    assert_eq!(live(&three), "good");
    assert_eq!(three.get("/text").unwrap().body, b"good");
    assert_eq!(one.get("/text").unwrap().body, b"bad");
    // It is late and not wrong: nobody repairs it, and it repairs nobody.
    let votes = one.run(&["votes"]).unwrap().to_string();
    assert!(votes.contains("late"), "{votes}");
    let said = logged(&two, "before-switch");
    assert!(said.iter().any(|line| line == "high is bad"), "{said:?}");

    // The next one is fit, and at once.
    publish(&two, "fine").unwrap();
    for member in [&one, &two, &three] {
        has(member, "fine");
        written(&after, &format!("{} 3 fine", member.name()), 1);
    }
    assert_eq!(count(&after, "three 2 bad"), 0);

    // After a switch: the switch stays, somebody is told, and it is tried again.
    fs::write(&broken, "").unwrap();
    publish(&three, "four").unwrap();
    complains(&two, "its after-switch hook exited with status 3");
    assert_eq!(live(&two), "four");
    fs::remove_file(&broken).unwrap();
    has(&two, "four");
    let events = two.events();
    assert!(events.contains("its after-switch hook exited with status 3"), "{events}");
    assert!(events.contains("the after-switch hook of shop (version 4) ended well after all"));

    // A repair changes the live tree as well.
    let told = count(&after, "one 4 four");
    fs::write(one.data.join("live/shop/text"), "edited").unwrap();
    written(&after, "one 4 four", told + 1);
    has(&one, "four");

    // Killed in the middle of it, a member runs it again, and the hook dies with it.
    fs::write(&slow, "").unwrap();
    publish(&one, "five").unwrap();
    written(&after, "three 5 five", 1);
    three.kill();
    fs::remove_file(&slow).unwrap();
    let three = three.again().up().unwrap();
    written(&after, "three 5 five", 2);
    until("it is done and known to be", || {
        let said = logged(&three, "after-switch");
        let ended = said.last().is_some_and(|line| line == "exited with status 0");
        if ended { Ok(()) } else { Err(format!("{said:?}")) }
    });
    let mut three = three;
    three.kill();
    let three = three.again().up().unwrap();
    has(&three, "five");
    publish(&one, "six").unwrap();
    written(&after, "three 6 six", 1);
    assert_eq!(count(&after, "three 5 five"), 2, "it was not run for nothing");
}

/// Covers R6, R11: in automatic mode a hook sees whole trees as well.
#[test]
fn an_edit_that_is_not_fit_stays_where_it_was_made() {
    let lab = Lab::new((62, 2));
    let [one, two] = lab.cluster(["one", "two"]);
    let site = lab.site("shop", &[("text", "good"), ("other", "x")]);
    let manifest = "[application]\nname = \"shop\"\n[hooks.before-switch]\n\
                    run = [\"sh\", \"-c\", \"test -e other && ! grep -q bad text\"]\n";
    fs::write(site.join("althing.toml"), manifest).unwrap();
    one.publish(&site, &[]).unwrap();
    has(&two, "good");
    one.run(&["window", "open", "--automatic"]).unwrap();
    // The live tree has to be seen in step first.
    let edit = |text: &str| fs::write(one.data.join("live/shop/text"), text).unwrap();
    until("an edit is seen everywhere", || {
        edit("edited");
        let stands = live(&two);
        if stands == "edited" { Ok(()) } else { Err(stands) }
    });
    let versions = || one.view().unwrap()["applications"][0]["version"].as_u64().unwrap();
    let before = versions();
    edit("bad");
    complains(&one, "its before-switch hook exited with status 1");
    assert!(one.events().contains("what was edited in shop on this member is not published"));
    assert_eq!((live(&one), live(&two), versions()), ("bad".into(), "edited".into(), before));
    edit("mended");
    has(&two, "mended");
    has(&one, "mended");

    // Somebody else's edit comes: what is not fit is in its way, and kept aside.
    edit("bad");
    complains(&one, "its before-switch hook exited with status 1");
    fs::write(two.data.join("live/shop/other"), "y").unwrap();
    has(&one, "mended");
    assert_eq!(fs::read_to_string(one.data.join("live/shop/other")).unwrap(), "y");
    let kept = one.run(&["restore", "shop"]).unwrap();
    assert!(kept.to_string().contains("text"), "{kept}");
    one.run(&["window", "close"]).unwrap();
}
