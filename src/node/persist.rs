//! The writer of the register's record: one thread, in order, synced.
//!
//! When the disk is slower than the member, only the newest record is written:
//! it contains all that came before. A write that fails is tried again until
//! it succeeds, and until then nothing that depends on it is said: a member
//! with a full disk falls silent in the register and breaks no promise.

use std::{path::PathBuf, sync::mpsc, thread, time::Duration};

use crate::{
    base::wire::{self, Kind},
    proto::catalog::Record,
    store::record,
};

/// How long after a failed write the next try is made.
const RETRY: Duration = Duration::from_millis(500);

/// What is to be written.
pub(super) enum Write {
    Record { token: u64, record: Box<Record> },
    Generation(u64),
}

/// Starts the thread. `persisted` is called with each token that is on disk;
/// `failed` with a sentence, once for each row of failures. It ends when the
/// sender is dropped.
pub(super) fn spawn(
    record_path: PathBuf,
    generation_path: PathBuf,
    persisted: impl Fn(u64) + Send + 'static,
    failed: impl Fn(String) + Send + 'static,
) -> std::io::Result<(mpsc::Sender<Write>, thread::JoinHandle<()>)> {
    let (sender, writes) = mpsc::channel();
    let run = move || {
        while let Ok(first) = writes.recv() {
            let (mut newest, mut generation) = (None, None);
            for write in std::iter::once(first).chain(writes.try_iter()) {
                match write {
                    Write::Record { token, record } => newest = Some((token, record)),
                    Write::Generation(number) => generation = Some(number),
                }
            }
            if let Some(number) = generation {
                let bytes = wire::encode(Kind::Record, &number);
                until_written(|| record::save(&generation_path, &bytes), &failed);
            }
            if let Some((token, value)) = newest {
                let bytes = wire::encode(Kind::Record, &value);
                until_written(|| record::save(&record_path, &bytes), &failed);
                persisted(token);
            }
        }
    };
    let thread = thread::Builder::new().name("althing-record".into()).spawn(run)?;
    Ok((sender, thread))
}

#[expect(clippy::disallowed_methods, reason = "the thread is this function's own")]
fn until_written<E: std::fmt::Display>(
    mut write: impl FnMut() -> Result<(), E>,
    failed: &impl Fn(String),
) {
    let mut told = false;
    while let Err(error) = write() {
        if !told {
            failed(format!(
                "this member can't keep its record and says nothing until it can: {error}"
            ));
            told = true;
        }
        thread::sleep(RETRY);
    }
}
