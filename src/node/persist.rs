//! The writer of the register's record: one thread, in order, synced.
//!
//! When the disk is slower than the member, only the newest record is written:
//! it contains all that came before. A write that fails is tried again until
//! it succeeds, and until then nothing that depends on it is said: a member
//! with a full disk falls silent in the register and breaks no promise.

use std::{path::PathBuf, sync::mpsc, thread, time::Duration};

use crate::{
    base::wire::{self, Kind},
    member::Input,
    proto::catalog::Record,
    store::{StoreError, record},
};

/// How long after a failed write the next try is made.
const RETRY: Duration = Duration::from_millis(500);

/// What is to be written.
pub(super) enum Write {
    Record {
        token: u64,
        record: Box<Record>,
    },
    Generation(u64),
    /// The next keys, whole; and what is said once they are on disk.
    NextKeys {
        bytes: Vec<u8>,
        then: Option<Input>,
    },
}

/// Where it goes.
pub(super) struct Paths {
    pub record: PathBuf,
    pub generation: PathBuf,
    pub next_keys: PathBuf,
}

/// Starts the thread. `told` is called with what the member is to be told of
/// that is on disk, as the token of a record;
/// `trouble` with a sentence, once for each row of failures, and with none when
/// it is over. It ends when the sender is dropped.
pub(super) fn spawn(
    paths: Paths,
    told: impl Fn(Input) + Send + 'static,
    trouble: impl Fn(Option<String>) + Send + 'static,
) -> std::io::Result<(mpsc::Sender<Write>, thread::JoinHandle<()>)> {
    let (sender, writes) = mpsc::channel();
    let run = move || {
        let mut in_trouble = false;
        let mut pending = Pending::default();
        while pending.take(&writes) {
            match pending.write(&paths) {
                Ok(written) => {
                    if std::mem::take(&mut in_trouble) {
                        trouble(None);
                    }
                    written.into_iter().for_each(&told);
                }
                Err(error) => {
                    if !std::mem::replace(&mut in_trouble, true) {
                        trouble(Some(format!(
                            "this member can't keep its record and says nothing until it can: {error}"
                        )));
                    }
                    if pending.orphaned {
                        return;
                    }
                    pause();
                }
            }
        }
    };
    let thread = thread::Builder::new().name("althing-record".into()).spawn(run)?;
    Ok((sender, thread))
}

/// What is still to be written: the newest of each.
#[derive(Default)]
struct Pending {
    record: Option<(u64, Box<Record>)>,
    generation: Option<u64>,
    next_keys: Option<Vec<u8>>,
    /// What is said when that is written.
    then: Vec<Input>,
    /// The member has stopped: what can't be written now was never said.
    orphaned: bool,
}

impl Pending {
    /// Takes all that waits, so that nothing piles up behind a full disk.
    /// Waits itself where nothing is pending; false when it is all over.
    fn take(&mut self, writes: &mpsc::Receiver<Write>) -> bool {
        if self.record.is_none() && self.generation.is_none() && self.next_keys.is_none() {
            match writes.recv() {
                Ok(write) => self.add(write),
                Err(_) => return false,
            }
        }
        loop {
            match writes.try_recv() {
                Ok(write) => self.add(write),
                Err(mpsc::TryRecvError::Empty) => return true,
                Err(mpsc::TryRecvError::Disconnected) => {
                    self.orphaned = true;
                    return true;
                }
            }
        }
    }

    fn add(&mut self, write: Write) {
        match write {
            Write::Record { token, record } => self.record = Some((token, record)),
            Write::Generation(number) => self.generation = Some(number),
            Write::NextKeys { bytes, then } => {
                self.next_keys = Some(bytes);
                self.then.extend(then);
            }
        }
    }

    /// Writes and syncs; what failed stays pending. What the member is to be
    /// told of what is on disk.
    fn write(&mut self, paths: &Paths) -> Result<Vec<Input>, StoreError> {
        if let Some(number) = self.generation {
            record::save(&paths.generation, &wire::encode(Kind::Record, &number))?;
            self.generation = None;
        }
        if let Some(bytes) = &self.next_keys {
            record::save(&paths.next_keys, bytes)?;
            self.next_keys = None;
        }
        if let Some((token, value)) = &self.record {
            record::save(&paths.record, &wire::encode(Kind::Record, value))?;
            self.then.push(Input::Persisted { token: *token });
            self.record = None;
        }
        Ok(std::mem::take(&mut self.then))
    }
}

#[expect(clippy::disallowed_methods, reason = "the thread is this module's own")]
fn pause() {
    thread::sleep(RETRY);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{MemberName, SecretKey, catalog::Enrolled};

    #[test]
    fn what_can_not_be_written_is_not_confirmed_until_it_can() {
        let scratch = tempfile::tempdir().unwrap();
        let missing = scratch.path().join("not-yet");
        let (confirmed, confirmations) = mpsc::channel();
        let (told, troubles) = mpsc::channel();
        let (writes, thread) = spawn(
            Paths {
                record: missing.join("record"),
                generation: missing.join("generation"),
                next_keys: missing.join("next"),
            },
            move |input| confirmed.send(input).unwrap(),
            move |text| told.send(text).unwrap(),
        )
        .unwrap();
        let key = SecretKey::from_seed([1; 32]);
        let founder = Enrolled {
            id: key.member(),
            key: key.public(),
            name: MemberName::parse("m").unwrap(),
            address: "127.0.0.1:1".parse().unwrap(),
            tags: std::collections::BTreeMap::new(),
            voter: true,
            standby: false,
        };
        let record = Record::found([0; 32], &key, founder);
        writes.send(Write::Record { token: 1, record: Box::new(record.clone()) }).unwrap();
        assert!(troubles.recv().unwrap().is_some_and(|text| text.contains("says nothing")));
        assert!(confirmations.try_recv().is_err());
        writes.send(Write::Record { token: 2, record: Box::new(record) }).unwrap();
        std::fs::create_dir(&missing).unwrap();
        let confirmed = confirmations.recv().unwrap();
        assert!(
            matches!(confirmed, Input::Persisted { token: 2 }),
            "the newest stands for all before it"
        );
        assert!(record::load(&missing.join("record")).unwrap().is_some());
        drop(writes);
        thread.join().unwrap();
        assert_eq!(troubles.recv().unwrap(), None, "it is over");
        assert!(troubles.recv().is_err(), "told once");
    }
}
