//! A program that runs once, to its end, and is no service: a hook, or a script of a rule. It
//! is started, printed of, bounded and killed as services are.

use std::{collections::VecDeque, time::Duration};

use tokio::{
    sync::broadcast::{Receiver, error::TryRecvError},
    time::timeout,
};

use super::{
    LogLine, Stream, What, prepare::Program, run::Run, service::of_status, supervise::Supervisor,
};
use crate::base::{AppName, ServiceName};

/// Lines of standard error that are handed back.
const LAST_MAX: usize = 16;
/// What is handed back of all that it printed, bytes.
pub(in crate::driver) const PRINTED_MAX: usize = 4 << 10;

/// What is to run once.
#[derive(Debug)]
pub(in crate::driver) struct Once {
    pub app: AppName,
    /// By this name its log is kept.
    pub name: ServiceName,
    pub program: Program,
    /// How long it may take.
    pub within: Duration,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::driver) enum How {
    CannotStart(String),
    /// By itself, with this status.
    Exited(i32),
    /// By this signal, and not by us.
    Killed(String),
    /// It was killed.
    TooLong,
}

/// What it printed last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::driver) struct Last {
    /// Lines of standard error.
    pub errors: VecDeque<LogLine>,
    /// Lines of both streams, in the order in which they were read: as many as there are in
    /// [`PRINTED_MAX`] bytes, and always the last one.
    pub printed: VecDeque<LogLine>,
}

impl Supervisor {
    /// Runs a program to its end. With how it ended comes what it printed last.
    /// Two at a time of one name are the caller's care. Dropped before its end, it kills
    /// the program and all that it started.
    pub(in crate::driver) async fn once(&self, once: Once) -> (How, Last) {
        let Once { app, name, program, within } = once;
        let log = self.log_of_once(&app, &name);
        let heard = log.follow();
        let spawner = self.spawner();
        let record = spawner.record(&app, &name, 0);
        let run = match Run::start(spawner, program, record, &log).await {
            Ok(run) => run,
            Err(why) => {
                log.remark(What::CannotStart { why: why.clone() }.to_string());
                log.close();
                return (How::CannotStart(why), Last::default());
            }
        };
        if let Some(let_through) = &run.let_through {
            log.remark(let_through.to_string());
        }
        log.remark(What::Started { pid: run.pid() }.to_string());
        let in_time = timeout(within, run.ended()).await.is_ok();
        if !run.kill().await {
            tracing::warn!(
                "{name} of {app} does not end although it was killed: it waits for a disk or a \
                 device, look after that"
            );
        }
        let how = match run.finish(spawner).await.map(of_status) {
            Some(What::Exited { status }) if in_time => How::Exited(status),
            Some(What::Killed { signal }) if in_time => {
                How::Killed(super::group::signal_name(signal))
            }
            _ => How::TooLong,
        };
        log.remark(match &how {
            How::Exited(status) => What::Exited { status: *status }.to_string(),
            How::Killed(by) => format!("was killed by {by}"),
            How::TooLong | How::CannotStart(_) => {
                format!("did not end within {} ms and was killed", within.as_millis())
            }
        });
        log.close();
        (how, last(heard))
    }
}

/// The last of what was heard.
fn last(mut heard: Receiver<LogLine>) -> Last {
    let (mut last, mut bytes) = (Last::default(), 0);
    loop {
        match heard.try_recv() {
            Ok(line) if line.stream == Stream::Althing => {}
            Ok(line) => {
                if line.stream == Stream::Err {
                    if last.errors.len() == LAST_MAX {
                        last.errors.pop_front();
                    }
                    last.errors.push_back(line.clone());
                }
                bytes += line.text.len() + 1;
                last.printed.push_back(line);
                while bytes > PRINTED_MAX && last.printed.len() > 1 {
                    let first = last.printed.pop_front();
                    bytes -= first.map_or(0, |line| line.text.len() + 1);
                }
            }
            // Of what it printed the end is kept, and that is what is wanted.
            Err(TryRecvError::Lagged(_)) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => return last,
        }
    }
}
