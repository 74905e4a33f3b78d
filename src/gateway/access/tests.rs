//! The log without requests: what is full, what is moved away, what can't be written.

use std::{os::unix::fs::PermissionsExt, sync::mpsc};

use tempfile::TempDir;

use super::*;

/// Starts the thread of `log` at last.
fn start(log: &Log, to: impl Sink + 'static) {
    let inner = log.0.clone();
    *locked(&log.0.thread) = Some(std::thread::spawn(move || inner.write(Box::new(to))));
}

/// A log, and what happens to it.
fn told() -> (Log, mpsc::Receiver<LogEvent>) {
    let log = Log::without_thread(Format::Combined);
    let (tell, events) = mpsc::channel();
    log.tell(move |event| tell.send(event).unwrap());
    (log, events)
}

/// Says after each write how it went, having waited for leave to begin.
struct Watched<S>(S, mpsc::Receiver<()>, mpsc::Sender<Result<Vec<u8>, String>>);

impl<S: Sink> Sink for Watched<S> {
    fn put(&mut self, lines: &[u8], reopen: bool) -> Result<(), Failed> {
        let _leave = self.1.recv();
        let done = self.0.put(lines, reopen);
        let said = done.as_ref().map(|()| lines.to_vec()).map_err(Failed::to_string);
        let _gone = self.2.send(said);
        done
    }
}

/// Gives leave, and hears how it went.
struct Watch(mpsc::Sender<()>, mpsc::Receiver<Result<Vec<u8>, String>>);

impl Watch {
    fn new<S: Sink>(over: S) -> (Watched<S>, Self) {
        let ((leave, may), (say, said)) = (mpsc::channel(), mpsc::channel());
        (Watched(over, may, say), Self(leave, said))
    }

    fn next(&self) -> Result<Vec<u8>, String> {
        self.0.send(()).unwrap();
        self.1.recv().unwrap()
    }
}

/// Fails as often as it is told to.
struct Fails(usize);

impl Sink for Fails {
    fn put(&mut self, _: &[u8], _: bool) -> Result<(), Failed> {
        let Some(left) = self.0.checked_sub(1) else { return Ok(()) };
        self.0 = left;
        let error = io::ErrorKind::StorageFull.into();
        Err(Failed { what: "it can't".to_owned(), error, todo: "mend it", written: 4 })
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn where_the_disk_does_not_keep_up_lines_are_left_out_and_counted() {
    let (log, events) = told();
    let line = [&[b'x'; 1_023][..], b"\n"].concat();
    let fit = WAITING_MAX / line.len();
    let (to, watch) = Watch::new(Fails(0));
    start(&log, to);
    log.put(&line);
    // The first one is with the disk, which says nothing.
    while !locked(&log.0.waiting).bytes.is_empty() {
        std::thread::yield_now();
    }
    for _ in 0..fit + 3 {
        log.put(&line);
    }
    assert_eq!(log.dropped(), 3);
    assert_eq!(watch.next(), Ok(line.clone()));
    assert_eq!(events.recv(), Ok(LogEvent::Behind(3)));
    assert_eq!(watch.next().unwrap().len(), fit * line.len(), "whole lines, all that fit");
    // There is room again, and it is not told twice.
    log.put(b"y\n");
    assert_eq!(watch.next(), Ok(b"y\n".to_vec()));
    log.close();
    log.put(b"z\n");
    assert_eq!((log.dropped(), events.try_recv().is_err()), (4, true));
}

#[test]
fn a_file_that_is_moved_away_is_begun_anew() {
    let scratch = TempDir::new().unwrap();
    let (path, moved) = (scratch.path().join("log"), scratch.path().join("log.1"));
    let (log, _events) = told();
    let (to, watch) = Watch::new(LogFile::open(&path).unwrap());
    start(&log, to);
    log.put(b"one\n");
    watch.next().unwrap();
    std::fs::rename(&path, &moved).unwrap();
    log.put(b"two\n");
    watch.next().unwrap();
    assert_eq!((read(&moved), read(&path)), ("one\n".to_owned(), "two\n".to_owned()));
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777 & !MODE, 0, "{mode:o}");
    // Another file that is there already is gone on with.
    std::fs::rename(&path, &moved).unwrap();
    std::fs::write(&path, "made\n").unwrap();
    log.put(b"three\n");
    watch.next().unwrap();
    assert_eq!(read(&path), "made\nthree\n");
    // Asked for it comes back without a line.
    std::fs::remove_file(&path).unwrap();
    log.reopen();
    watch.next().unwrap();
    assert_eq!(read(&path), "");
    drop(watch);
    log.close();
}

#[test]
fn where_it_can_not_be_opened_anew_lines_go_on_as_before() {
    let scratch = TempDir::new().unwrap();
    let (place, moved) = (scratch.path().join("logs"), scratch.path().join("moved"));
    std::fs::create_dir(&place).unwrap();
    let (log, events) = told();
    let (to, watch) = Watch::new(LogFile::open(&place.join("log")).unwrap());
    start(&log, to);
    std::fs::rename(&place, &moved).unwrap();
    log.put(b"one\n");
    let why = watch.next().unwrap_err();
    assert!(why.contains("can't be opened anew"), "{why}");
    assert_eq!(events.recv(), Ok(LogEvent::Failed(why.clone())));
    assert_eq!((log.trouble(), log.dropped()), (Some(why), 0));
    assert_eq!(read(&moved.join("log")), "one\n");
    std::fs::create_dir(&place).unwrap();
    log.put(b"two\n");
    watch.next().unwrap();
    assert_eq!(events.recv(), Ok(LogEvent::Again(0)));
    assert_eq!((log.trouble(), read(&place.join("log"))), (None, "two\n".to_owned()));
    drop(watch);
    log.close();
}

#[test]
fn a_full_disk_is_told_once_and_gone_on_after() {
    let (log, events) = told();
    let (to, watch) = Watch::new(Fails(2));
    start(&log, to);
    for _ in 0..2 {
        // The first line was written.
        log.put(b"one\ntwo\nthree\n");
        watch.next().unwrap_err();
    }
    log.put(b"four\n");
    watch.next().unwrap();
    let why = "it can't: no storage space; mend it".to_owned();
    assert_eq!(events.recv(), Ok(LogEvent::Failed(why)));
    assert_eq!(events.recv(), Ok(LogEvent::Again(4)));
    drop(watch);
    log.close();
    assert!(events.try_recv().is_err(), "and nothing else");
}

#[test]
fn a_device_that_is_always_full_says_so() {
    let (log, events) = told();
    start(&log, LogFile::open(Path::new("/dev/full")).unwrap());
    log.put(b"one\n");
    let Ok(LogEvent::Failed(why)) = events.recv() else { panic!("it was written") };
    assert!(why.contains("/dev/full can't be written"), "{why}");
    log.close();
    assert_eq!(log.dropped(), 1);
}

#[test]
fn a_line_that_was_torn_is_ended_before_the_next() {
    let scratch = TempDir::new().unwrap();
    let path = scratch.path().join("log");
    let mut file = LogFile::open(&path).unwrap();
    assert_eq!(file.append(b"one\ntw").0, 6);
    file.put(b"three\n", false).unwrap();
    file.put(b"four\n", false).unwrap();
    assert_eq!(read(&path), "one\ntw\nthree\nfour\n");
}

#[test]
fn that_it_is_behind_is_told_once_a_minute() {
    let (mut behind, start) = (Behind::default(), Instant::now());
    for (after_s, dropped, told) in
        [(0, 0, None), (1, 5, Some(5)), (2, 9, None), (61, 9, Some(9)), (200, 9, None)]
    {
        assert_eq!(behind.look(dropped, start + Duration::from_secs(after_s)), told, "{after_s}");
    }
    // What a full disk has cost is told otherwise.
    behind.counted += 7;
    assert_eq!(behind.look(16, start + Duration::from_secs(400)), None);
}

#[test]
fn it_goes_elsewhere_and_in_another_form_once_it_is_told_so() {
    let scratch = TempDir::new().unwrap();
    let [one, two] = ["one", "two"].map(|name| scratch.path().join(name));
    let log = Log::open(Some(&one), Format::Common).unwrap();
    log.put(b"one\n");
    log.change(Some(&two), Format::Json).unwrap();
    while locked(&log.0.waiting).next.is_some() {
        std::thread::yield_now();
    }
    log.put(b"two\n");
    let nowhere = scratch.path().join("no/such");
    assert!(log.change(Some(&nowhere), Format::Common).is_err());
    assert_eq!(log.format(), Format::Json, "nothing has changed");
    log.close();
    assert_eq!((read(&one), read(&two)), ("one\n".to_owned(), "two\n".to_owned()));
}
