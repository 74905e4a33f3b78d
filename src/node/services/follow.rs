//! An answer of this member: from its supervisor, part by part.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, broadcast::error::RecvError, mpsc},
    task::JoinSet,
};

use super::{Ask, Asker, Here, Told};
use crate::{
    base::{AppName, Reason, Refusal, ServiceName},
    driver::services::{LogLine, Supervisor},
    node::{
        adopt,
        checkup::Checkup,
        content::Content,
        differs::{self, Differs},
        telemetry::asking,
        wall_now,
    },
};

/// What is told of the log of one service at once, bytes.
const TAIL_BYTES_MAX: usize = 4 << 20;
/// How often is looked for services that are new.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long a comparison waits for its turn: less than whoever asks does, so that it hears why.
const TURN_WITHIN: Duration = Duration::from_secs(3);

/// How often is told that a comparison is under way: more often than whoever asks loses patience.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Held while this machine is looked at.
static LOOKING: Semaphore = Semaphore::const_new(1);
/// Held while a live tree is compared for somebody.
static COMPARING: Semaphore = Semaphore::const_new(1);

/// Answers `ask`, which another member may have asked, into `to`, with [`Told::Done`] at
/// the end. It ends early when nobody listens.
pub(in crate::node) async fn answer(
    here: Here,
    ask: Ask,
    asker: Option<Asker>,
    to: mpsc::Sender<Told>,
) {
    let nobody_listens = to.clone();
    tokio::select! {
        () = nobody_listens.closed() => {}
        _ = parts(here, ask, asker, &to) => {}
    }
}

/// Nobody listens any more.
struct Gone;

impl<T> From<mpsc::error::SendError<T>> for Gone {
    fn from(_: mpsc::error::SendError<T>) -> Self {
        Self
    }
}

async fn parts(
    Here { supervisor, vault, telemetry, open, data, known, .. }: Here,
    ask: Ask,
    asker: Option<Asker>,
    to: &mpsc::Sender<Told>,
) -> Result<(), Gone> {
    match ask {
        Ask::Status { app } => {
            for status in supervisor.status() {
                if app.as_ref().is_none_or(|app| *app == status.app) {
                    to.send(Told::Status(status)).await?;
                }
            }
        }
        Ask::Restart { app, service } => {
            to.send(Told::Restarted(supervisor.restart(&app, service.as_ref()))).await?;
        }
        Ask::Secrets { app, document } => {
            let sealed = match asker {
                None => Err("only members are given secrets".to_owned()),
                Some(Asker { id, key }) => {
                    tokio::task::spawn_blocking(move || vault.hand_over(&app, document, (id, key)))
                        .await
                        .unwrap_or_else(|_| Err("this member stops".to_owned()))
                }
            };
            let told = match sealed {
                Ok(sealed) => Told::Sealed(sealed.to_toml()),
                Err(why) => Told::Refused(Refusal::new(
                    Reason::Failed,
                    "The secrets were not handed over.",
                    format!("On this member {why}."),
                    "Ask another member.",
                )),
            };
            to.send(told).await?;
        }
        Ask::Sign { path, ignore } => {
            let told = adopt::sign(vault.content, path, ignore, to).await;
            to.send(told).await?;
        }
        Ask::Series { pattern, grid, spreads } => {
            let told = asking::tell_series(&telemetry, &pattern, grid, spreads, to).await;
            if let Err(refusal) = told {
                to.send(Told::Refused(refusal)).await?;
                return Ok(());
            }
        }
        Ask::Events(question) => {
            if let Err(refusal) = asking::tell_events(&telemetry, &question, to).await {
                to.send(Told::Refused(refusal)).await?;
                return Ok(());
            }
        }
        Ask::Acting => {
            let open = open.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for open in open {
                to.send(Told::Acting(Box::new(open))).await?;
            }
        }
        Ask::Checkup => {
            // A file system that hangs keeps one thread, however many ask.
            let Ok(turn) = LOOKING.acquire().await else { return Err(Gone) };
            let look = tokio::task::spawn_blocking(move || {
                let found = Checkup::look(&data, wall_now());
                drop(turn);
                found
            });
            match look.await {
                Ok(found) => to.send(Told::Checkup(Box::new(found))).await?,
                Err(_) => return Err(Gone), // the runtime ends
            }
        }
        Ask::Differs { app } => {
            let known = known.borrow().clone();
            match telling(compared(vault.content, known, app), to).await?? {
                Ok(found) => to.send(Told::Differs(Box::new(found))).await?,
                Err(refusal) => {
                    to.send(Told::Refused(refusal)).await?;
                    return Ok(());
                }
            }
        }
        Ask::Logs { app, service, lines, follow } => {
            let turn = Arc::new(Semaphore::new(1));
            let look = Look { supervisor, app, service, lines, turn };
            if follow {
                look.follow(to).await?;
            } else {
                for service in look.services() {
                    look.tail(&service, to).await?;
                }
            }
        }
    }
    to.send(Told::Done).await?;
    Ok(())
}

/// Does `work`, and tells now and then that it is under way: a large tree takes longer to walk over
/// than whoever asks waits for a part.
async fn telling<T>(work: impl Future<Output = T>, to: &mpsc::Sender<Told>) -> Result<T, Gone> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            () = tokio::time::sleep(TELL_EVERY) => to.send(Told::Signing).await?,
        }
    }
}

/// Compares what stands here of `app`, one look at a time, however many ask: each may have to
/// walk over a whole tree.
async fn compared(
    content: Content,
    known: differs::Known,
    app: AppName,
) -> Result<Result<Differs, Refusal>, Gone> {
    let Ok(turn) = tokio::time::timeout(TURN_WITHIN, COMPARING.acquire()).await else {
        return Ok(Err(Refusal::new(
            Reason::Busy,
            "Nothing was compared.",
            "This member compares for somebody else, and is not through.",
            "Ask again in a moment.",
        )));
    };
    let Ok(turn) = turn else { return Err(Gone) };
    let look = tokio::task::spawn_blocking(move || {
        let found = differs::look(&content, &known, &app);
        drop(turn); // also where whoever asked has gone
        found
    });
    look.await.map_err(|_| Gone) // the runtime ends
}

/// Whose lines are wanted.
#[derive(Clone)]
struct Look {
    supervisor: Arc<Supervisor>,
    app: AppName,
    service: Option<ServiceName>,
    lines: usize,
    turn: Arc<Semaphore>,
}

impl Look {
    /// The services that run and the hooks that ran, or the one that is wanted: it may
    /// have run before.
    fn services(&self) -> BTreeSet<ServiceName> {
        match &self.service {
            Some(service) => BTreeSet::from([service.clone()]),
            None => self.supervisor.printing(&self.app),
        }
    }

    /// The last lines of `service`, and what they were.
    async fn tail(
        &self,
        service: &ServiceName,
        to: &mpsc::Sender<Told>,
    ) -> Result<VecDeque<LogLine>, Gone> {
        // Each may be long: one after the other, and only so much of it.
        let _turn = self.turn.acquire().await;
        let (look, name) = (self.clone(), service.clone());
        let read = tokio::task::spawn_blocking(move || {
            let lines = look.supervisor.tail(&look.app, &name, look.lines)?;
            let mut room = TAIL_BYTES_MAX;
            let fits = |line: &&LogLine| {
                room = room.saturating_sub(line.text.len() + 64);
                room > 0
            };
            let kept = lines.iter().rev().take_while(fits).count();
            Ok::<_, io::Error>(lines[lines.len() - kept..].to_vec())
        });
        let lines = match read.await {
            Ok(Ok(lines)) => lines,
            Ok(Err(error)) => {
                let refusal = Refusal::new(
                    Reason::Failed,
                    format!("The log of {service} can't be read."),
                    format!("The disk said: {error}."),
                    "Mend the cause, and ask again.",
                );
                to.send(Told::Refused(refusal)).await?;
                Vec::new()
            }
            Err(_) => return Err(Gone), // the runtime ends
        };
        for line in &lines {
            to.send(Told::Line { service: service.clone(), line: line.clone() }).await?;
        }
        Ok(lines.into())
    }

    /// The last lines of each, then those that come, until nobody listens.
    async fn follow(&self, to: &mpsc::Sender<Told>) -> Result<(), Gone> {
        let mut followed = JoinSet::new();
        let mut names = BTreeSet::new();
        let mut first = true;
        loop {
            for service in self.services() {
                if names.contains(&service) {
                    continue;
                }
                // Before the file is read, so that nothing falls between.
                let Some(mut lines) = self.supervisor.follow(&self.app, &service) else {
                    if first {
                        self.tail(&service, to).await?;
                    }
                    continue;
                };
                names.insert(service.clone());
                let (look, to) = (self.clone(), to.clone());
                followed.spawn(async move {
                    let mut seen = look.tail(&service, &to).await.unwrap_or_default();
                    loop {
                        let told = match lines.recv().await {
                            Ok(line) => {
                                if seen.back().is_none_or(|last| line.at > last.at) {
                                    seen.clear();
                                }
                                if let Some(at) = seen.iter().position(|other| *other == line) {
                                    seen.remove(at);
                                    continue; // it came by both ways
                                }
                                Told::Line { service: service.clone(), line }
                            }
                            Err(RecvError::Lagged(lines)) => {
                                Told::Missed { service: service.clone(), lines }
                            }
                            Err(RecvError::Closed) => return service,
                        };
                        if to.send(told).await.is_err() {
                            return service;
                        }
                    }
                });
            }
            first = false;
            tokio::select! {
                Some(ended) = followed.join_next() => {
                    if let Ok(service) = ended {
                        names.remove(&service);
                    }
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever asks waits for each part by itself: see `PATIENCE` of the question.
    #[tokio::test(start_paused = true)]
    async fn what_takes_long_is_told_to_be_under_way() {
        let (to, mut told) = mpsc::channel(16);
        let slow = tokio::time::sleep(TELL_EVERY * 7 / 2);
        assert!(telling(slow, &to).await.is_ok());
        drop(to);
        let mut parts = Vec::new();
        while let Some(part) = told.recv().await {
            parts.push(part);
        }
        assert_eq!(parts, [Told::Signing, Told::Signing, Told::Signing]);

        // Nobody listens any more.
        let (to, told) = mpsc::channel(16);
        drop(told);
        assert!(telling(std::future::pending::<()>(), &to).await.is_err());
    }
}
