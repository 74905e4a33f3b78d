//! The token that spares a comparison its walk: never believed when anything happened.

use super::*;
use crate::driver::Watch;

fn watched(bench: &Bench) -> Watch {
    bench.content.watch(&app("www"), Box::new(|| {})).unwrap()
}

fn token(bench: &Bench) -> Token {
    bench.content.token(&app("www")).expect("it is watched, and the kernel says so in time")
}

#[test]
fn whatever_happens_to_the_tree_ends_it() {
    let bench = Bench::new();
    let www = app("www");
    let root = bench.stage(&[("a", "1"), ("b/c", "1"), ("d", "1")]);
    bench.activate(1, root, &ignoring(&["/logs"]));
    assert!(bench.content.token(&www).is_none(), "nobody watches");
    let _watch = watched(&bench);
    let before = token(&bench);
    assert_eq!(bench.content.in_step(&www, &root, &before), None, "nothing was compared yet");
    bench.content.found_in_step(&www, root, before.clone(), 3);
    assert_eq!(bench.content.in_step(&www, &root, &token(&bench)), Some(3));
    assert_eq!(bench.content.in_step(&www, &root, &token(&bench)), Some(3), "asked again");
    assert_eq!(bench.content.in_step(&www, &Digest::of_bytes(b"x"), &before), None);

    write(&bench.live(), &[("logs/x", "ignored")]);
    assert_eq!(bench.content.in_step(&www, &root, &token(&bench)), Some(3), "that is ignored");

    let live = bench.live();
    let deeds: [&dyn Fn(); 7] = [
        &|| std::fs::write(live.join("a"), "2").unwrap(),
        &|| std::fs::write(live.join("new"), "").unwrap(),
        &|| std::fs::remove_file(live.join("new")).unwrap(),
        &|| std::fs::rename(live.join("b/c"), live.join("b/e")).unwrap(),
        &|| std::fs::create_dir(live.join("f")).unwrap(),
        &|| {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(live.join("d"), mode).unwrap();
        },
        &|| bench.content.repair(&www, root).map(drop).unwrap(),
    ];
    for (number, deed) in deeds.iter().enumerate() {
        let before = token(&bench);
        bench.content.found_in_step(&www, root, before, 3);
        assert!(bench.content.in_step(&www, &root, &token(&bench)).is_some());
        deed();
        assert_eq!(bench.content.in_step(&www, &root, &token(&bench)), None, "deed {number}");
    }
}

#[test]
fn a_switch_a_loss_and_the_end_of_the_watch_end_it() {
    let bench = Bench::new();
    let www = app("www");
    let (one, two) = two_versions(&bench);
    bench.activate(1, one, &AppSpec::default());
    let watch = watched(&bench);
    let before = token(&bench);
    bench.content.found_in_step(&www, one, before, 2);
    bench.activate(2, two, &AppSpec::default());
    assert!(bench.content.token(&www).is_none(), "another tree is live, and not watched");

    drop(watch);
    let watch = watched(&bench);
    let before = token(&bench);
    bench.content.found_in_step(&www, two, before.clone(), 2);
    let tree = bench.content.store().tree(&two).unwrap().unwrap();
    let chunk = tree.chunks().first().unwrap().digest;
    let packs = bench.dir.path().join("content/packs");
    for pack in std::fs::read_dir(packs).unwrap() {
        let path = pack.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.iter_mut().for_each(|byte| *byte ^= 1);
        std::fs::write(path, bytes).unwrap();
    }
    assert!(bench.content.store().read(&chunk).is_err());
    assert_eq!(bench.content.in_step(&www, &two, &token(&bench)), None, "a loss was found");

    // One that is about to end may tell the truth for a moment yet.
    drop(watch);
    let _watch = watched(&bench);
    assert_ne!(token(&bench), before, "another watch may have missed something");
}
