//! A log on disk: lines appended to `SERVICE.log`, which becomes
//! `SERVICE.log.1` when it is full, and so on; and the way back from there.
//!
//! Each line is `TIME STREAM TEXT`, with the time in RFC 3339, UTC, to the
//! millisecond: for people and their tools as much as for [`tail`]. A write
//! that fails loses its lines and is counted, never tried in a loop.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::log::{LogLine, Stream};
use crate::base::WallTime;

/// What is gathered before it is written, bytes.
const BUFFER: usize = 64 << 10;
/// What is read at once on the way back, bytes.
const BLOCK: u64 = 64 << 10;
/// Who may read logs: their owner, who reads everything of the member's.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// The writing end.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    size_max: u64,
    kept: usize,
    file: Option<File>,
    /// What stands in the file, and what waits for it.
    size: u64,
    buffer: Vec<u8>,
    /// Lines in the buffer.
    lines: u64,
    lost: u64,
    /// Whether the last write failed, so that it is said once.
    failing: bool,
}

impl LogFile {
    /// The log at `path`, opened when something is to be written.
    pub(super) fn new(path: PathBuf, size_max: u64, kept: usize) -> Self {
        Self {
            path,
            size_max,
            kept,
            file: None,
            size: 0,
            buffer: Vec::new(),
            lines: 0,
            lost: 0,
            failing: false,
        }
    }

    /// Takes a line. It is written with the next [`LogFile::flush`] at the latest.
    pub(super) fn put(&mut self, line: &LogLine) {
        let text = format!("{} {} {}\n", stamp(line.at), line.stream.mark(), line.text);
        let after = self.size + self.buffer.len() as u64 + text.len() as u64;
        if after > self.size_max && self.size + self.buffer.len() as u64 > 0 {
            self.flush();
            // After a failure it is looked at anew.
            if self.file.is_some() {
                self.rotate();
            }
        }
        self.buffer.extend_from_slice(text.as_bytes());
        self.lines += 1;
        if self.buffer.len() >= BUFFER {
            self.flush();
        }
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        match self.write() {
            Ok(()) => self.failing = false,
            Err(error) => {
                if !self.failing {
                    tracing::warn!(
                        "the log {} can't be written ({error}), so lines of it are lost; \
                         free some space, or look after its directory",
                        self.path.display()
                    );
                }
                self.failing = true;
                self.lost += self.lines;
                // Part of it may have been written: looked at when it is opened again.
                self.file = None;
                self.size = 0;
            }
        }
        self.buffer.clear();
        self.lines = 0;
    }

    /// Lines that were lost since this was asked last.
    pub(super) fn lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    fn write(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            let (file, size) = open(&self.path)?;
            self.size = size;
            self.file = Some(file);
            // A log of before may be full already.
            if size > 0 && size + self.buffer.len() as u64 > self.size_max {
                self.rotate();
                self.file = Some(open(&self.path)?.0);
            }
        }
        let file = self.file.as_mut().expect("it was opened just now");
        file.write_all(&self.buffer)?;
        self.size += self.buffer.len() as u64;
        Ok(())
    }

    /// Sets the file aside and forgets the oldest one.
    fn rotate(&mut self) {
        self.file = None;
        self.size = 0;
        for number in (0..self.kept).rev() {
            let to = numbered(&self.path, number + 1);
            match fs::rename(numbered(&self.path, number), to) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    tracing::warn!("the log {} can't be set aside: {error}", self.path.display());
                }
                _ => {}
            }
        }
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        self.flush();
    }
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// Makes the directory that `path` stands in.
pub(super) fn make_parent(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(parent)
}

/// Opens a log to append to it, and says how large it is. A line that was cut
/// off by a crash gets its end.
fn open(path: &Path) -> io::Result<(File, u64)> {
    make_parent(path)?;
    let mut file =
        OpenOptions::new().read(true).append(true).create(true).mode(FILE_MODE).open(path)?;
    let mut size = file.metadata()?.len();
    if size > 0 {
        let mut last = [0];
        file.seek(SeekFrom::Start(size - 1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            size += 1;
        }
    }
    Ok((file, size))
}

/// The last `lines_max` lines of the log at `path`, oldest first.
pub(super) fn tail(path: &Path, lines_max: usize) -> io::Result<Vec<LogLine>> {
    let mut newest_first = Vec::new();
    let mut seen = Vec::new();
    for number in 0.. {
        if newest_first.len() >= lines_max {
            break;
        }
        let mut file = match File::open(numbered(path, number)) {
            Ok(file) => file,
            // Between two renames the newest is not there for a moment.
            Err(error) if error.kind() == ErrorKind::NotFound && number == 0 => continue,
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        // Set aside meanwhile: it was read under its name of before.
        let id = (metadata.dev(), metadata.ino());
        if seen.contains(&id) {
            continue;
        }
        seen.push(id);
        back(&mut file, metadata.len(), lines_max, &mut newest_first)?;
    }
    newest_first.reverse();
    Ok(newest_first)
}

/// Reads a file from its end, line by line.
fn back(file: &mut File, size: u64, lines_max: usize, into: &mut Vec<LogLine>) -> io::Result<()> {
    let mut at = size;
    let mut rest: Vec<u8> = Vec::new();
    while at > 0 && into.len() < lines_max {
        let count = at.min(BLOCK);
        at -= count;
        file.seek(SeekFrom::Start(at))?;
        let mut block = vec![0; count as usize];
        file.read_exact(&mut block)?;
        block.extend_from_slice(&rest);
        // Up to the first end of line it may be the end of an earlier line.
        let whole = if at == 0 { 0 } else { after_first_line(&block) };
        for line in block[whole..].rsplit(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            if into.len() >= lines_max {
                return Ok(());
            }
            into.push(parse(line));
        }
        rest = block[..whole].to_vec();
    }
    Ok(())
}

fn after_first_line(block: &[u8]) -> usize {
    block.iter().position(|b| *b == b'\n').map_or(block.len(), |at| at + 1)
}

/// A time to the millisecond, as RFC 3339 in UTC.
fn stamp(at: WallTime) -> String {
    let text = at.to_string();
    format!("{}.{:03}Z", text.trim_end_matches('Z'), at.0 % 1_000)
}

/// A line as it was written. One that was torn by a crash keeps its text.
fn parse(line: &[u8]) -> LogLine {
    let text = String::from_utf8_lossy(line);
    let parts = text.split_once(' ').and_then(|(at, rest)| {
        let at = unstamp(at)?;
        let (mark, text) = rest.split_once(' ')?;
        let stream = [Stream::Out, Stream::Err, Stream::Althing];
        let stream = stream.into_iter().find(|stream| stream.mark() == mark)?;
        Some(LogLine { at, stream, text: text.to_owned() })
    });
    let torn = || LogLine { at: WallTime(0), stream: Stream::Althing, text: text.to_string() };
    parts.unwrap_or_else(torn)
}

/// The inverse of [`stamp`] (days-from-civil, Howard Hinnant).
fn unstamp(text: &str) -> Option<WallTime> {
    let bytes = text.as_bytes();
    let form = b"0000-00-00T00:00:00.000Z";
    let fits = |(b, f): (&u8, &u8)| if *f == b'0' { b.is_ascii_digit() } else { b == f };
    if bytes.len() != form.len() || !bytes.iter().zip(form).all(fits) {
        return None;
    }
    let number = |range: std::ops::Range<usize>| text[range].parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let y = if month <= 2 { year - 1 } else { year };
    let era = y / 400;
    let yoe = y % 400;
    let mp = if month > 2 { month - 3 } else { month + 9 };
    let doy = (153 * mp + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    let days = era * 146_097 + doe - 719_468;
    let seconds = number(11..13)? * 3_600 + number(14..16)? * 60 + number(17..19)?;
    Some(WallTime((days * 86_400 + seconds) * 1_000 + number(20..23)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: usize) -> LogLine {
        let at = WallTime(1_709_210_096_789 + number as u64);
        LogLine { at, stream: Stream::Out, text: format!("line {number}") }
    }

    #[test]
    fn stamps_are_read_back() {
        for ms in [0, 1, 951_825_599_999, 951_825_600_000, 1_709_210_096_789, 4_102_444_799_999] {
            assert_eq!(unstamp(&stamp(WallTime(ms))), Some(WallTime(ms)), "{ms}");
        }
        assert_eq!(stamp(WallTime(1_709_210_096_789)), "2024-02-29T12:34:56.789Z");
        for bad in ["", "2024-02-29T12:34:56Z", "2024-13-01T00:00:00.000Z", "é024-02-29T12:34:5"] {
            assert_eq!(unstamp(bad), None, "{bad}");
        }
    }

    #[test]
    fn files_are_rotated_and_read_across() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("app/api.log");
        let mut file = LogFile::new(path.clone(), 1_000, 3);
        for number in 0..200 {
            file.put(&line(number));
            if number % 7 == 0 {
                file.flush();
            }
        }
        file.flush();
        let mut names: Vec<_> = fs::read_dir(path.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap())
            .inspect(|entry| assert!(entry.metadata().unwrap().len() <= 1_000))
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["api.log", "api.log.1", "api.log.2", "api.log.3"]);
        assert_eq!(tail(&path, 30).unwrap(), (170..200).map(line).collect::<Vec<_>>());
        let all = tail(&path, usize::MAX).unwrap();
        assert!(all.len() > 60 && all.len() < 200, "{}", all.len());
        assert_eq!(all, (200 - all.len()..200).map(line).collect::<Vec<_>>());
        assert_eq!(tail(&path, 0).unwrap(), []);
        // In the middle of a rotation the newest file is not there.
        fs::rename(&path, numbered(&path, 4)).unwrap();
        assert!(!tail(&path, 1).unwrap().is_empty());
    }

    #[test]
    fn lines_longer_than_a_block_are_read_whole() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("api.log");
        let mut file = LogFile::new(path.clone(), 10 << 20, 3);
        let long = LogLine { text: "x".repeat(3 * BLOCK as usize + 5), ..line(1) };
        for each in [&line(0), &long, &line(2)] {
            file.put(each);
        }
        drop(file);
        assert_eq!(tail(&path, 2).unwrap(), [long.clone(), line(2)]);
        assert_eq!(tail(&path, 9).unwrap(), [line(0), long, line(2)]);
    }

    #[test]
    fn a_torn_line_gets_its_end_and_an_old_log_is_continued() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("api.log");
        fs::write(&path, "2024-02-29T12:34:56.789Z ou").unwrap();
        let mut file = LogFile::new(path.clone(), 1_000, 3);
        file.put(&line(1));
        file.flush();
        let lines = tail(&path, 10).unwrap();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].text.ends_with(" ou"), "{lines:?}");
        assert_eq!(lines[1], line(1));
    }

    #[test]
    fn what_can_not_be_written_is_counted() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("in-the-way/api.log");
        fs::write(path.parent().unwrap(), "a file").unwrap();
        let mut file = LogFile::new(path.clone(), 1_000, 3);
        file.put(&line(1));
        file.put(&line(2));
        file.flush();
        assert_eq!(file.lost(), 2);
        fs::remove_file(path.parent().unwrap()).unwrap();
        file.put(&line(3));
        file.flush();
        assert_eq!(file.lost(), 0);
        assert_eq!(tail(&path, 10).unwrap(), [line(3)]);
    }
}
