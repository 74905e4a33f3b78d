//! One request as a line, in the forms that programs which read logs know. Pure.
//!
//! Whatever a client sends stays within its line and its quotes: control characters, quotes
//! and backslashes are escaped, and bytes that are no ASCII in the forms of text.
//!
//! After Apache's combined and common log format.

use std::{fmt, net::IpAddr, time::Duration};

use serde::Serialize;

use super::super::request::HEADERS_MAX;
use crate::base::{AppName, MemberId, WallTime};

/// How requests are written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The common form, and behind it who led there and which browser.
    #[default]
    Combined,
    /// That of the first web servers.
    Common,
    /// An object a line.
    Json,
}

/// Who gave an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum By {
    /// The files of the application.
    Files,
    /// A process of this member.
    Here,
    /// Another member.
    Member(MemberId),
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files => f.write_str("files"),
            Self::Here => f.write_str("here"),
            Self::Member(id) => id.fmt(f),
        }
    }
}

/// What is known of one request at its end.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    /// When it began to arrive.
    pub time: WallTime,
    pub client: IpAddr,
    /// Its head as HTTP/1.1; empty where none could be read.
    pub head: &'a [u8],
    pub is_http2: bool,
    pub host: Option<&'a str>,
    pub status: u16,
    /// Of the body of its answer.
    pub bytes: u64,
    pub took: Duration,
    /// The one that those who answered it were given, if the client has given none.
    pub number: Option<u128>,
    pub app: Option<&'a AppName>,
    pub version: Option<u64>,
    pub answered_by: Option<By>,
    pub tries: u32,
    pub tls: bool,
}

/// What is read of a head.
#[derive(Default)]
struct Head<'a> {
    method: Option<&'a str>,
    target: Option<&'a str>,
    protocol: Option<&'static str>,
    referer: Option<&'a [u8]>,
    user_agent: Option<&'a [u8]>,
    request_id: Option<&'a [u8]>,
}

/// The object of [`Format::Json`]. Its names are promised.
#[derive(Serialize)]
struct Object<'a> {
    time: &'a str,
    client: IpAddr,
    method: Option<&'a str>,
    target: Option<&'a str>,
    protocol: Option<&'a str>,
    host: Option<&'a str>,
    status: u16,
    bytes: u64,
    duration_ms: f64,
    referer: Option<&'a str>,
    user_agent: Option<&'a str>,
    request_id: Option<&'a str>,
    app: Option<&'a AppName>,
    version: Option<u64>,
    answered_by: Option<String>,
    tries: u32,
    tls: bool,
}

impl Entry<'_> {
    /// Adds its line to `out`, with its end.
    pub(super) fn write(&self, format: Format, out: &mut Vec<u8>) {
        let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let head = self.read(&mut lines);
        match format {
            Format::Common => self.common(&head, out),
            Format::Combined => {
                self.common(&head, out);
                for value in [head.referer, head.user_agent] {
                    out.push(b' ');
                    quoted(value, out);
                }
            }
            Format::Json => self.json(&head, out),
        }
        out.push(b'\n');
    }

    fn read<'h>(&'h self, lines: &mut [httparse::Header<'h>]) -> Head<'h> {
        let mut head = httparse::Request::new(lines);
        // It was read before, so it is read again; what was none has no words.
        if head.parse(self.head).is_err() {
            return Head::default();
        }
        let mut found = Head { method: head.method, target: head.path, ..Head::default() };
        found.protocol = head.version.map(|minor| match (self.is_http2, minor) {
            (true, _) => "HTTP/2.0",
            (false, 0) => "HTTP/1.0",
            (false, _) => "HTTP/1.1",
        });
        for line in head.headers.iter() {
            let place = match line.name {
                name if name.eq_ignore_ascii_case("referer") => &mut found.referer,
                name if name.eq_ignore_ascii_case("user-agent") => &mut found.user_agent,
                name if name.eq_ignore_ascii_case("x-request-id") => &mut found.request_id,
                _ => continue,
            };
            place.get_or_insert(line.value);
        }
        found
    }

    /// `client - - [time] "request" status bytes`: nobody is asked who he is.
    fn common(&self, head: &Head<'_>, out: &mut Vec<u8>) {
        let time = self.time.to_string();
        let (date, clock) = (&time[..10], &time[11..19]);
        let month = date[5..7].parse().map_or(0, |month: usize| month.saturating_sub(1));
        let month = MONTHS.get(month).copied().unwrap_or("Jan");
        let (year, day, client) = (&date[..4], &date[8..], self.client);
        add(out, format_args!("{client} - - [{day}/{month}/{year}:{clock} +0000] "));
        match (head.method, head.target, head.protocol) {
            (Some(method), Some(target), Some(protocol)) => {
                out.push(b'"');
                for part in [method, " ", target, " ", protocol] {
                    escape(part.as_bytes(), out);
                }
                out.push(b'"');
            }
            _ => out.extend_from_slice(b"\"-\""),
        }
        match self.bytes {
            0 => add(out, format_args!(" {} -", self.status)),
            bytes => add(out, format_args!(" {} {bytes}", self.status)),
        }
    }

    fn json(&self, head: &Head<'_>, out: &mut Vec<u8>) {
        let second = self.time.to_string();
        let time = format!("{}.{:03}Z", &second[..19], self.time.0 % 1_000);
        let [referer, user_agent, given] = [head.referer, head.user_agent, head.request_id]
            .map(|v| v.map(String::from_utf8_lossy));
        let number = self.number.map(|number| format!("{number:032x}"));
        let object = Object {
            time: &time,
            client: self.client,
            method: head.method,
            target: head.target,
            protocol: head.protocol,
            host: self.host,
            status: self.status,
            bytes: self.bytes,
            duration_ms: self.took.as_micros() as f64 / 1e3,
            referer: referer.as_deref(),
            user_agent: user_agent.as_deref(),
            request_id: given.as_deref().or(number.as_deref()),
            app: self.app,
            version: self.version,
            answered_by: self.answered_by.map(|by| by.to_string()),
            tries: self.tries,
            tls: self.tls,
        };
        serde_json::to_writer(out, &object).expect("text and numbers are always JSON");
    }
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

fn add(out: &mut Vec<u8>, what: fmt::Arguments<'_>) {
    use std::io::Write;
    out.write_fmt(what).expect("writing to memory never fails");
}

fn quoted(value: Option<&[u8]>, out: &mut Vec<u8>) {
    out.push(b'"');
    match value {
        Some(value) if !value.is_empty() => escape(value, out),
        _ => out.push(b'-'),
    }
    out.push(b'"');
}

fn escape(value: &[u8], out: &mut Vec<u8>) {
    for byte in value {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => out.push(*byte),
            _ => add(out, format_args!("\\x{byte:02x}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(head: &[u8]) -> Entry<'_> {
        Entry {
            time: WallTime(1_709_210_096_007),
            client: "2001:db8::1".parse().unwrap(),
            head,
            is_http2: false,
            host: Some("shop.example"),
            status: 200,
            bytes: 1_234,
            took: Duration::from_micros(1_250),
            number: None,
            app: None,
            version: Some(7),
            answered_by: Some(By::Here),
            tries: 1,
            tls: true,
        }
    }

    fn line(entry: &Entry<'_>, format: Format) -> String {
        let mut out = Vec::new();
        entry.write(format, &mut out);
        String::from_utf8(out).unwrap()
    }

    const HEAD: &str = "GET /a%20b?q=1 HTTP/1.1\r\nHost: Shop.example\r\nReferer: https://x/\"\\\r\n\
                        User-Agent: Mozilla/5.0 (\u{e4})\r\nX-Request-Id: 7\r\n\r\n";

    #[test]
    fn each_form_is_as_other_programs_read_it() {
        let common =
            "2001:db8::1 - - [29/Feb/2024:12:34:56 +0000] \"GET /a%20b?q=1 HTTP/1.1\" 200 1234";
        let mut entry = entry(HEAD.as_bytes());
        assert_eq!(line(&entry, Format::Common), format!("{common}\n"));
        let told = line(&entry, Format::Combined);
        assert_eq!(told, format!("{common} \"https://x/\\\"\\\\\" \"Mozilla/5.0 (\\xc3\\xa4)\"\n"));
        let app = AppName::parse("shop").unwrap();
        entry.app = Some(&app);
        assert_eq!(
            line(&entry, Format::Json),
            "{\"time\":\"2024-02-29T12:34:56.007Z\",\"client\":\"2001:db8::1\",\"method\":\"GET\",\
             \"target\":\"/a%20b?q=1\",\"protocol\":\"HTTP/1.1\",\"host\":\"shop.example\",\
             \"status\":200,\"bytes\":1234,\"duration_ms\":1.25,\"referer\":\"https://x/\\\"\\\\\",\
             \"user_agent\":\"Mozilla/5.0 (ä)\",\"request_id\":\"7\",\"app\":\"shop\",\"version\":7,\
             \"answered_by\":\"here\",\"tries\":1,\"tls\":true}\n"
        );
    }

    #[test]
    fn what_is_not_known_is_said_to_be_unknown() {
        let mut entry = Entry { bytes: 0, host: None, answered_by: None, ..entry(b"nonsense\r\n") };
        assert_eq!(
            line(&entry, Format::Combined),
            "2001:db8::1 - - [29/Feb/2024:12:34:56 +0000] \"-\" 200 - \"-\" \"-\"\n"
        );
        let told: serde_json::Value = serde_json::from_str(&line(&entry, Format::Json)).unwrap();
        for name in ["method", "target", "protocol", "host", "referer", "user_agent", "request_id"]
        {
            assert!(told.as_object().unwrap()[name].is_null(), "{name}");
        }
        // What it was given is known, and the protocol that its client spoke.
        (entry.head, entry.number, entry.is_http2) = (b"GET / HTTP/1.1\r\n\r\n", Some(10), true);
        let told = line(&entry, Format::Json);
        assert!(told.contains("\"request_id\":\"0000000000000000000000000000000a\""), "{told}");
        assert!(told.contains("\"protocol\":\"HTTP/2.0\""), "{told}");
    }

    proptest! {
        /// A client can end neither its line nor its quotes.
        #[test]
        fn a_line_stays_one(value in proptest::collection::vec(any::<u8>(), 0..60)) {
            let head = [b"GET / HTTP/1.1\r\nReferer: ", &*value, b"\r\nUser-Agent: u\r\n\r\n"].concat();
            let told = line(&entry(&head), Format::Combined);
            prop_assert!(told.trim_end_matches('\n').bytes().all(|b| (b' '..=b'~').contains(&b)));
            let plain = told.replace("\\\\", "").replace("\\\"", "");
            prop_assert_eq!(plain.matches('"').count(), 6, "{}", told);
            let told = line(&entry(&head), Format::Json);
            prop_assert_eq!(told.matches('\n').count(), 1);
            serde_json::from_str::<serde_json::Value>(&told).unwrap();
        }
    }
}
