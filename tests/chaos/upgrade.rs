//! A rolling upgrade from the commit before: messages and records carry their
//! version, and a cluster of both programs is one cluster.

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use rand::seq::SliceRandom;

use crate::{cluster::Cluster, scenario::scenario};

/// One member after another is shut down and started as the new program, while
/// clients read and publish through old and new ones.
#[test]
fn rolling_upgrade() {
    scenario("upgrade::rolling_upgrade", |rng| {
        let previous = previous();
        let mut cluster =
            Cluster::start_with(5, 0, rng, |_, plan| plan.binary.clone_from(&previous));
        cluster.publish_on();
        let mut hosts = cluster.hosts.clone();
        hosts.shuffle(&mut cluster.rng);
        for host in hosts {
            thread::sleep(Duration::from_secs(2));
            cluster.say(&format!("m{host} is upgraded"));
            cluster.shut_down(host);
            cluster.upgrade(host, env!("CARGO_BIN_EXE_althing").into());
            cluster.up(host);
            cluster.expect_again(host);
        }
        thread::sleep(Duration::from_secs(2));
        cluster.calm()
    });
}

/// The program of the commit before, as `tests/previous.sh` builds it.
fn previous() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/previous.sh");
    let found = Command::new(script).output().expect("tests/previous.sh can be run");
    let told = String::from_utf8_lossy(&found.stderr);
    assert!(found.status.success(), "there is no program of the commit before: {told}");
    PathBuf::from(String::from_utf8_lossy(&found.stdout).trim())
}
