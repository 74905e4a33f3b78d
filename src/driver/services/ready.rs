//! Whether a service is ready: asked again and again, from this machine.

use std::{
    io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    check::{Target, parse_address, parse_url},
    spec::Ready,
};

/// The pause between two questions.
const EVERY: Duration = Duration::from_millis(100);
/// The pause once it is late: whoever is not ready after its time need not be
/// asked ten times a second.
const EVERY_LATE: Duration = Duration::from_secs(1);
/// One that is ready counts as unwell once so many questions in a row had no good answer.
const FAILED_MAX: u32 = 3;
/// How long one question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// What is read of an answer, bytes: its first line.
const ANSWER_MAX: usize = 1_024;

/// Asks one process until it is ready.
#[derive(Debug)]
pub(super) struct Readiness {
    ready: Ready,
    last: Mutex<String>,
}

impl Readiness {
    /// `port` is the one that the process was given, if any: unless it is said otherwise,
    /// it is ready once it listens there.
    pub(super) fn new(ready: &Ready, port: Option<u16>) -> Self {
        let ready = match port {
            Some(port) => ready.at(port),
            None => ready.clone(),
        };
        Self { ready, last: Mutex::new("it was not asked yet".to_owned()) }
    }

    /// After how long it is late; none where it can't be.
    pub(super) fn within(&self) -> Option<Duration> {
        match &self.ready {
            Ready::After(_) => None,
            Ready::Tcp { within, .. } | Ready::Http { within, .. } => Some(*within),
        }
    }

    /// What came of asking it last.
    pub(super) fn last(&self) -> String {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns when it is ready.
    pub(super) async fn reached(&self) {
        if let Ready::After(after) = self.ready {
            return sleep(after).await;
        }
        let started = tokio::time::Instant::now();
        loop {
            if self.is_well().await {
                return;
            }
            let late = self.within().is_some_and(|within| started.elapsed() > within);
            sleep(if late { EVERY_LATE } else { EVERY }).await;
        }
    }

    /// Asks it once.
    async fn is_well(&self) -> bool {
        let asked = timeout(ANSWER_WITHIN, self.ask()).await;
        let asked = asked.unwrap_or_else(|_| Err("it did not answer within 2 s".to_owned()));
        asked.map_err(|why| *self.last.lock().unwrap_or_else(PoisonError::into_inner) = why).is_ok()
    }

    async fn ask(&self) -> Result<(), String> {
        match &self.ready {
            Ready::After(_) => Ok(()),
            Ready::Tcp { address, .. } => {
                let address = parse_address(address)?;
                TcpStream::connect(address).await.map_err(|e| refused(&e))?;
                Ok(())
            }
            Ready::Http { url, .. } => get(&parse_url(url)?).await,
        }
    }
}

/// Asks one that is ready whether it still is.
pub(super) struct Checks<'a> {
    readiness: &'a Readiness,
    every: Duration,
    failed: u32,
}

impl<'a> Checks<'a> {
    /// Every so often; never if that is no time, or there is nothing to ask.
    pub(super) fn new(readiness: &'a Readiness, every: Duration) -> Self {
        Self { readiness, every, failed: 0 }
    }

    /// Returns when it is other than before: whether it is well. Nothing is lost if it is
    /// dropped before.
    pub(super) async fn next(&mut self) -> bool {
        if self.every.is_zero() || matches!(self.readiness.ready, Ready::After(_)) {
            return std::future::pending().await;
        }
        loop {
            let is_unwell = self.failed >= FAILED_MAX;
            // One that is unwell is wanted back soon.
            sleep(if is_unwell { self.every.min(EVERY_LATE) } else { self.every }).await;
            let is_well = self.readiness.is_well().await;
            self.failed = if is_well { 0 } else { self.failed.saturating_add(1) };
            if is_well && is_unwell || self.failed == FAILED_MAX {
                return is_well;
            }
        }
    }
}

fn refused(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        _ => format!("the connection failed: {error}"),
    }
}

/// One request, of which only the status is read.
async fn get(target: &Target) -> Result<(), String> {
    let mut stream = TcpStream::connect(target.address).await.map_err(|e| refused(&e))?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: althing\r\nConnection: close\r\n\r\n",
        target.path, target.host
    );
    stream.write_all(request.as_bytes()).await.map_err(|e| refused(&e))?;
    let mut answer = Vec::new();
    let mut part = [0; ANSWER_MAX];
    while !answer.contains(&b'\n') && answer.len() < ANSWER_MAX {
        match stream.read(&mut part).await.map_err(|e| refused(&e))? {
            0 => break,
            count => answer.extend_from_slice(&part[..count]),
        }
    }
    let status = status_of(&answer).ok_or("what it answers is no HTTP")?;
    if (200..400).contains(&status) { Ok(()) } else { Err(format!("it answers status {status}")) }
}

/// The status of an answer: `HTTP/1.1 200 OK`.
fn status_of(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|b| *b == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    words.next()?.strip_prefix("HTTP/1.")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_is_a_matter_of_time_alone() {
        let ready = Ready::After(Duration::from_secs(60));
        let began = tokio::time::Instant::now();
        Readiness::new(&ready, None).reached().await;
        assert_eq!(began.elapsed(), Duration::from_secs(60));
        assert_eq!(Readiness::new(&ready, None).within(), None);
    }

    #[test]
    fn statuses_are_read() {
        assert_eq!(status_of(b"HTTP/1.1 204 No Content\r\n"), Some(204));
        assert_eq!(status_of(b"HTTP/1.0 503\n"), Some(503));
        for bad in [b"".as_slice(), b"SSH-2.0-x\r\n", b"HTTP/1.1\r\n", b"HTTP/1.1 abc\r\n", b"\xff"]
        {
            assert_eq!(status_of(bad), None);
        }
    }
}
