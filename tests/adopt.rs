//! Servers that hold the content already, adopted as they are.

#[expect(dead_code, reason = "other tests need more of it")]
mod common;

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf};

use common::{Lab, all_serve, until};

/// Covers R8. Each member has a directory of its own behind the same path.
#[test]
fn what_a_majority_holds_becomes_version_1_and_stays_where_it_is() {
    let lab = Lab::new((63, 1));
    if !common::mounts_allowed() {
        panic!("mount namespaces are needed: run this as root, or allow them to users");
    }
    let place = lab.path("srv/www");
    fs::create_dir_all(&place).unwrap();
    let own = |name: &str| lab.path(&format!("disk-{name}"));
    let write = |name: &str, files: &[(&str, &str)]| {
        for (path, text) in files {
            let path = own(name).join("www").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    };
    let same = [("index.html", "ours"), ("a/b", "1")];
    write("one", &[("index.html", "old"), ("a/b", "1"), ("left", "over")]);
    write("two", &same);
    write("three", &[("index.html", "other")]);
    let srv = lab.path("srv");
    let [one, two, three] = lab.cluster_of(["one", "two", "three"].map(|name| {
        let mut plan = lab.plan(name);
        plan.under = under(&own(name), &srv);
        plan
    }));

    // No two hold the same: nobody is right.
    let path = place.to_str().unwrap();
    let refused = two.run(&["adopt", "web", path]).unwrap_err();
    assert!(refused.why.contains("No 2 of 3 members"), "{refused:?}");
    assert_eq!(fs::read_to_string(own("three").join("www/index.html")).unwrap(), "other");
    write("three", &same);
    let found = one.run(&["adopt", "web", path, "--dry-run"]).unwrap();
    let roots: Vec<&str> =
        found["copies"].as_array().unwrap().iter().map(|c| c["root"].as_str().unwrap()).collect();
    assert!(roots[1] == roots[2] && roots[0] != roots[1], "{found}");
    assert_eq!(found["majority"], roots[1]);
    let refused = one.run(&["adopt", "web", path]).unwrap_err();
    assert!(refused.why.contains("but on two, three"), "{refused:?}");
    assert_eq!(one.view().unwrap()["applications"].as_array().unwrap().len(), 0);

    let inode = fs::metadata(own("three").join("www")).unwrap().ino();
    two.run(&["adopt", "web", path]).unwrap();
    all_serve(&[&one, &two, &three], "web/1", "ours");
    let kept = fs::metadata(own("three").join("www")).unwrap();
    assert_eq!(kept.ino(), inode, "whoever held it keeps its copy");
    until("the minority has been put right", || {
        let text = fs::read_to_string(own("one").join("www/index.html")).unwrap_or_default();
        if text == "ours" { Ok(()) } else { Err(text) }
    });
    assert!(!own("one").join("www/left").exists());
    let aside = one.run(&["restore", "web"]).unwrap();
    assert_eq!(aside.as_array().unwrap().len(), 1, "what it held is kept: {aside}");

    let refused = two.run(&["adopt", "web", path]).unwrap_err();
    assert!(refused.why.contains("there already"), "{refused:?}");

    // Somebody decides.
    for name in ["one", "two", "three"] {
        fs::create_dir_all(own(name).join("wiki")).unwrap();
        fs::write(own(name).join("wiki/page"), name).unwrap();
    }
    let wiki = lab.path("srv/wiki");
    let adopt = ["adopt", "wiki", wiki.to_str().unwrap()];
    assert!(one.run(&adopt).unwrap_err().why.contains("No 2 of 3 members"));
    one.run(&[&adopt[..], &["--mine"]].concat()).unwrap();
    for name in ["one", "two", "three"] {
        until("the one that was chosen is there", || {
            let text = fs::read_to_string(own(name).join("wiki/page")).unwrap_or_default();
            if text == "one" { Ok(()) } else { Err(text) }
        });
    }
}

/// Runs a member with the directory `own` at `srv`.
fn under(own: &std::path::Path, srv: &std::path::Path) -> Vec<String> {
    let script = format!("mount --bind {} {} && exec \"$@\"", own.display(), srv.display());
    let how = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
    ["unshare", how, "sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
}

/// Nobody is right where no majority holds the same: until somebody says so.
#[test]
fn without_a_majority_nothing_is_touched() {
    let lab = Lab::new((63, 2));
    let one = lab.found("one");
    let nothing: PathBuf = lab.path("nothing/here");
    let refused = one.run(&["adopt", "web", nothing.to_str().unwrap()]).unwrap_err();
    assert!(refused.why.contains("No 1 of 1 members"), "{refused:?}");
    let mine = one.run(&["adopt", "web", nothing.to_str().unwrap(), "--mine"]).unwrap_err();
    assert!(mine.why.contains("There is nothing at"), "{mine:?}");
    assert_eq!(one.view().unwrap()["applications"].as_array().unwrap().len(), 0);
}
