use std::path::Path;

use super::*;

/// Compares with what is kept beside this file. `ALTHING_WRITE_DOCS=1 cargo test --lib` writes
/// it anew.
pub(super) fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/export/golden").join(name);
    if std::env::var_os("ALTHING_WRITE_DOCS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "{name} is not what it was; now it is:\n{text}");
}

#[test]
fn a_change_is_one_when_it_is_seen_twice() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut settling = Settling::default();
    assert!(!settling.is_settled("a", at(0)));
    assert!(settling.is_settled("a", at(500)));
    assert!(settling.is_settled("a", at(1_000)));
    assert!(!settling.is_settled("b", at(1_500)));
    assert!(!settling.is_settled("a", at(2_000)));
    assert!(settling.is_settled("a", at(2_500)));
    // What never comes to rest is written all the same.
    let mut written = 0;
    for n in 0..20 {
        written += usize::from(settling.is_settled(&n.to_string(), at(3_000 + n * 500)));
    }
    assert_eq!(written, 1);
}

#[test]
fn what_failed_is_tried_again_later_or_when_something_changed() {
    let output = Output::new(false);
    let mut attempts = Attempts::default();
    assert!(attempts.may("a"));
    attempts.made("a", Some(no_port()), &output);
    assert!(!attempts.may("a") && attempts.may("b"));
    attempts.made("b", None, &output);
    assert!(attempts.may("a") && attempts.may("b"));
}
