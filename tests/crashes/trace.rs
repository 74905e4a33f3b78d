//! The lines of a trace: which call, with what, and what came of it.
//!
//! As `strace -f -xx` writes them: a process, a call, its arguments with every
//! string in hexadecimal, its result. A call during which another thread made
//! one stands on two lines.

use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub name: String,
    pub arguments: Vec<String>,
    /// What it returned; nothing where that was an error.
    pub result: Option<i64>,
}

impl Call {
    pub fn text(&self, at: usize) -> String {
        String::from_utf8(self.bytes(at)).expect("only names in UTF-8 are used here")
    }

    /// The bytes of a string.
    pub fn bytes(&self, at: usize) -> Vec<u8> {
        unquoted(&self.arguments[at])
    }

    /// The bytes of a list of buffers.
    pub fn buffers(&self, at: usize) -> Vec<u8> {
        let pieces = self.arguments[at].split("iov_base=").skip(1);
        pieces.flat_map(|piece| unquoted(&piece[..=piece[1..].find('"').unwrap() + 1])).collect()
    }

    pub fn number(&self, at: usize) -> i64 {
        let text = &self.arguments[at];
        text.parse().unwrap_or_else(|_| panic!("{text} is no number in {self:?}"))
    }

    pub fn octal(&self, at: usize) -> u32 {
        let text = &self.arguments[at];
        u32::from_str_radix(text, 8).unwrap_or_else(|_| panic!("{text} is no mode in {self:?}"))
    }

    pub fn has(&self, at: usize, flag: &str) -> bool {
        let words = self.arguments.get(at).into_iter();
        words.flat_map(|text| text.split(['|', ' ', ',', '{', '}', '='])).any(|word| word == flag)
    }
}

/// All calls that ended, in the order in which they did.
pub fn parse(trace: &str) -> Vec<Call> {
    let mut unfinished: BTreeMap<&str, &str> = BTreeMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let (process, rest) = line.split_once(' ').expect("a line begins with a process");
        let rest = rest.trim_start();
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            unfinished.insert(process, begun);
            continue;
        }
        let joined;
        let mut whole = rest;
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let (_, end) = resumed.split_once("resumed>").expect("it says that it goes on");
            joined = format!("{}{end}", unfinished.remove(process).expect("it was begun"));
            whole = &joined;
        }
        calls.extend(call(whole));
    }
    calls
}

fn call(line: &str) -> Option<Call> {
    let (name, rest) = line.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(") ").map(|(a, r)| (a, r.trim_start()))?;
    let result = result.strip_prefix("= ").unwrap_or_else(|| panic!("no result: {line}"));
    let word = result.split(' ').next().unwrap_or_default();
    // What never returns has `?`.
    let result = word.parse().ok().filter(|result| *result >= 0);
    Some(Call { name: name.to_owned(), arguments: split(arguments), result })
}

/// The arguments, at the commas that stand in no bracket. Strings hold neither.
fn split(arguments: &str) -> Vec<String> {
    let (mut depth, mut from, mut all) = (0, 0, Vec::new());
    for (at, byte) in arguments.bytes().enumerate() {
        match byte {
            b'[' | b'{' | b'(' => depth += 1,
            b']' | b'}' | b')' => depth -= 1,
            b',' if depth == 0 => {
                all.push(arguments[from..at].trim().to_owned());
                from = at + 1;
            }
            _ => {}
        }
    }
    all.push(arguments[from..].trim().to_owned());
    all
}

fn unquoted(text: &str) -> Vec<u8> {
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let inner = inner.unwrap_or_else(|| panic!("cut off, or no string: {text:.80}"));
    let digits = inner.split("\\x").skip(1);
    digits.map(|pair| u8::from_str_radix(pair, 16).expect("two hexadecimal digits")).collect()
}

#[test]
fn what_a_trace_says_is_understood() {
    let trace = r#"7 openat(AT_FDCWD, "\x2f\x61", O_RDWR|O_CREAT, 0644) = 3
8 write(1, "\x68\x69" <unfinished ...>
7 openat2(3, "\x62", {flags=O_RDONLY|O_CLOEXEC, resolve=RESOLVE_BENEATH}, 24) = -1 ENOENT (No such file or directory)
8 <... write resumed>, 2) = 2
7 writev(1, [{iov_base="\x61", iov_len=1}, {iov_base="\x62\x63", iov_len=2}], 2) = 3
7 exit_group(0)                     = ?
7 +++ exited with 0 +++
"#;
    let calls = parse(trace);
    assert_eq!(calls[0].text(1), "/a");
    assert_eq!(
        (calls[0].octal(3), calls[0].has(2, "O_CREAT"), calls[0].result),
        (0o644, true, Some(3))
    );
    assert!(calls[1].has(2, "O_CLOEXEC") && calls[1].result.is_none());
    assert_eq!((calls[2].name.as_str(), calls[2].bytes(1)), ("write", b"hi".to_vec()));
    assert_eq!(calls[3].buffers(1), b"abc");
    assert_eq!(calls[4].result, None);
}
