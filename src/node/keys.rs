//! The keys that this member may have next, and the one step by which one of
//! them becomes its key.
//!
//! They lie beside the key until it is known what became of them: one that the
//! cluster enrols must never be lost. The record of the register stays as it
//! is. What the old id had promised binds the new one as well, which is stricter
//! than it has to be, since the new one has no vote yet; but so the replacement
//! of the key file is the only step, and killed at any instant the member is
//! either as before it or as after it.

use serde::{Deserialize, Serialize};

use super::start::of_store;
use crate::{
    base::{
        MemberId, Reason, Refusal, SecretKey, limits,
        wire::{self, Kind},
    },
    store::{DataDir, StoreError, record},
};

/// All of them.
#[derive(Clone, Default)]
pub(super) struct NextKeys {
    list: Vec<NextKey>,
}

#[derive(Clone, Serialize, Deserialize)]
struct NextKey {
    seed: [u8; 32],
    /// See [`Effect::NextKey`](crate::member::Effect::NextKey).
    sequence: u64,
}

#[derive(Serialize, Deserialize)]
struct Form {
    #[serde(deserialize_with = "wire::bounded::<_, _, { limits::NEXT_KEYS_MAX }>")]
    list: Vec<NextKey>,
}

impl NextKeys {
    /// Those in the data directory but for `me`, which is this member's already.
    pub fn load(data: &DataDir, me: MemberId) -> Result<Self, Refusal> {
        let path = data.next_keys();
        let Some(bytes) = record::load(&path).map_err(|e| of_store(&e))? else {
            return Ok(Self::default());
        };
        let form = wire::decode::<Form>(Kind::Record, &bytes).map_err(|e| {
            Refusal::new(
                Reason::Failed,
                "This member did not start.",
                format!(
                    "The keys that it may have next, in {}, can't be read: {e}.",
                    path.display()
                ),
                "See its id with `althing members` on another member: if it is the one that this \
                 member had before, remove that file; else run `althing remove` for it there, move \
                 the data directory away and join anew.",
            )
        })?;
        let mut keys = Self { list: form.list };
        keys.list.retain(|next| next.key().member() != me);
        Ok(keys)
    }

    /// Writes them down; no file stands for none.
    pub fn keep(&self, data: &DataDir) -> Result<(), StoreError> {
        if self.list.is_empty() {
            return record::remove(&data.next_keys());
        }
        record::save(&data.next_keys(), &self.to_bytes())
    }

    /// As they are kept.
    pub fn to_bytes(&self) -> Vec<u8> {
        wire::encode(Kind::Record, &Form { list: self.list.clone() })
    }

    /// One more, of these random bytes.
    pub fn add(&mut self, seed: [u8; 32], sequence: u64) -> SecretKey {
        self.list.push(NextKey { seed, sequence });
        SecretKey::from_seed(seed)
    }

    /// Without those for a sequence below.
    pub fn forget(&mut self, sequence: u64) {
        self.list.retain(|next| next.sequence >= sequence);
    }

    pub fn get(&self, id: MemberId) -> Option<SecretKey> {
        self.list.iter().map(NextKey::key).find(|key| key.member() == id)
    }

    /// The id of each, and the sequence that it is for.
    pub fn ids(&self) -> impl Iterator<Item = (MemberId, u64)> {
        self.list.iter().map(|next| (next.key().member(), next.sequence))
    }
}

impl NextKey {
    fn key(&self) -> SecretKey {
        SecretKey::from_seed(self.seed)
    }
}

/// Makes the next key with this id the member's key. Can be done twice.
pub(super) fn take_up(data: &DataDir, next: &NextKeys, id: MemberId) -> Result<(), StoreError> {
    if let Some(key) = next.get(id) {
        data.replace_key(&key)?;
    }
    record::remove(&data.next_keys())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_next_key_is_kept_until_it_is_the_key_or_of_no_use() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let me = data.load_or_create_key(|| [1; 32]).unwrap().member();
        let mut next = NextKeys::load(&data, me).unwrap();
        let (one, two) = (next.add([2; 32], 7).member(), next.add([3; 32], 8).member());
        record::save(&data.next_keys(), &next.to_bytes()).unwrap();
        let mut next = NextKeys::load(&data, me).unwrap();
        assert_eq!(next.ids().collect::<Vec<_>>(), [(one, 7), (two, 8)]);
        next.forget(8);
        assert!(next.get(one).is_none());
        for _killed_in_between in 0..2 {
            take_up(&data, &next, two).unwrap();
            let key = data.load_or_create_key(|| unreachable!("there is a key")).unwrap();
            assert_eq!(key.member(), two);
            record::save(&data.next_keys(), &next.to_bytes()).unwrap();
            assert_eq!(NextKeys::load(&data, two).unwrap().ids().count(), 0, "it is the key");
        }
    }

    #[test]
    fn a_damaged_file_is_no_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let me = data.load_or_create_key(|| [1; 32]).unwrap().member();
        record::save(&data.next_keys(), b"\x01nonsense").unwrap();
        let Err(refusal) = NextKeys::load(&data, me) else { panic!("it is damaged") };
        assert!(refusal.todo.contains("althing members"), "{refusal}");
    }
}
