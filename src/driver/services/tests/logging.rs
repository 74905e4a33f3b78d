use std::{fs, sync::Arc};

use super::{Bench, What, app, name, script};
use crate::driver::services::{
    Logs, Stream,
    log::{FILES_KEPT, LINE_MAX, Lines, pump},
};

fn cut(parts: &[&[u8]]) -> Vec<String> {
    let mut lines = Lines::default();
    let mut out = Vec::new();
    for part in parts {
        lines.push(part, |line| out.push(line));
    }
    lines.finish(|line| out.push(line));
    out
}

#[test]
fn lines_are_cut_where_they_end() {
    assert_eq!(cut(&[b"one\ntw", b"o\r\n\nthree"]), ["one", "two", "", "three"]);
    assert_eq!(cut(&[b"one\n"]), ["one"]);
    assert_eq!(cut(&[]), Vec::<String>::new());
    assert_eq!(cut(&[b"\xff\n"]), ["\u{fffd}"]);
    let long = vec![b'x'; LINE_MAX + 7];
    let expected = format!("{} [7 bytes more]", "x".repeat(LINE_MAX));
    assert_eq!(cut(&[&long, b"\nnext"]), [expected.as_str(), "next"]);
    assert_eq!(cut(&[&long[..LINE_MAX], b"\n"]), ["x".repeat(LINE_MAX)]);
    assert_eq!(cut(&[&long]).len(), 1);
}

#[tokio::test]
async fn what_a_service_prints_is_kept_in_order_with_its_stream() {
    let mut bench = Bench::new();
    let text = "echo one; echo two >&2; printf 'a\\033[31mb'";
    bench.set(1, &script("api", text, "restart = \"never\""));
    bench.wait(|e| matches!(e.what, What::Exited { status: 0 })).await;
    bench.supervisor.stop_all().await;
    let lines = bench.lines("api");
    let texts = |stream| -> Vec<&str> {
        lines.iter().filter(|l| l.stream == stream).map(|l| l.text.as_str()).collect()
    };
    assert_eq!(texts(Stream::Out), ["one", "a\u{1b}[31mb"]);
    assert_eq!(texts(Stream::Err), ["two"]);
    let own = texts(Stream::Althing);
    assert!(own[0].starts_with("started as process "), "{own:?}");
    assert_eq!(own[1], "exited with status 0");
    assert_eq!(lines.last().unwrap().text, "exited with status 0");
    let shown = lines.iter().find(|l| l.text.contains('\u{1b}')).unwrap().to_string();
    assert_eq!(shown, "a\\u{1b}[31mb");
    assert!(lines.iter().all(|l| l.at.0 > 1_600_000_000_000));
    assert_eq!(bench.supervisor.tail(&app(), &name("api"), 1).unwrap().len(), 1);
    assert_eq!(bench.supervisor.tail(&app(), &name("other"), 9).unwrap(), []);
}

#[tokio::test]
async fn followers_hear_lines_over_restarts() {
    let bench = Bench::new();
    bench.set(1, &script("api", "echo \"run $ALTHING_VERSION\"; sleep 0.01", ""));
    let mut follow = bench.supervisor.follow(&app(), &name("api")).unwrap();
    assert!(bench.supervisor.follow(&app(), &name("other")).is_none());
    let mut runs = 0;
    while runs < 3 {
        let line = tokio::time::timeout(super::GENEROUS, follow.recv()).await.unwrap().unwrap();
        runs += usize::from(line.stream == Stream::Out && line.text == "run 1");
    }
}

#[tokio::test]
async fn logs_are_rotated_and_bounded() {
    let mut bench = Bench::new();
    // Some 17 MB with their stamps, as fast as they go.
    let text = "seq -f 'line number %010.0f of many that are all alike' 1 200000";
    bench.set(1, &script("api", text, "restart = \"never\""));
    bench.wait(|e| matches!(e.what, What::Exited { status: 0 })).await;
    bench.supervisor.stop_all().await;
    let dir = bench.scratch.path().join("logs/web");
    let files = fs::read_dir(&dir).unwrap().count();
    assert!((2..=1 + FILES_KEPT).contains(&files), "{files}");
    let lines = bench.supervisor.tail(&app(), &name("api"), 4_000).unwrap();
    assert_eq!(lines.len(), 4_000);
    // What the disk did not take in time is missing, and that is said.
    let last = lines.iter().rev().find(|l| l.stream == Stream::Out).unwrap();
    let said = lines.iter().any(|l| l.text.contains("lines are missing here"));
    assert!(said || last.text.contains("0000200000"), "{last:?}");
}

#[tokio::test]
async fn a_disk_that_hangs_costs_lines_and_nothing_else() {
    let scratch = tempfile::tempdir().unwrap();
    let logs = Logs::new(scratch.path().to_owned());
    let log = logs.open(&app(), &name("api"));
    // A pipe that nobody reads takes the place of the disk.
    let path = scratch.path().join("web/api.log");
    fs::create_dir(path.parent().unwrap()).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    // Nothing but ends of lines: the most that one read can make wait.
    pump(vec![b'\n'; 1 << 20].as_slice(), Stream::Out, Arc::clone(&log)).await;
    assert!(log.lost() > 1_000, "{}", log.lost());
}
