//! The wire: `serde` and `bincode` 2 behind four functions, and nothing else in
//! this crate names bincode, so that it can be replaced here.
//!
//! Every encoding starts with one version byte. A decoder refuses what is
//! longer than its kind allows before it allocates, and what has bytes left
//! over. Collections are bounded while they are decoded ([`bounded`]), because
//! bincode does not bound a vector of small items by itself.

use std::{fmt, marker::PhantomData};

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};

use super::limits;

/// The version of every format on wire and disk that this code writes.
pub const VERSION: u8 = 1;

/// What is being decoded: each kind has its own size limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A SWIM packet.
    Swim,
    /// What a stranger says at the door.
    Knock,
    /// Any message between members.
    Message,
    /// An operator's event or question.
    Rumor,
    /// The listing of a tree.
    Tree,
    /// A record on this member's own disk.
    Record,
}

impl Kind {
    /// The longest encoding, bytes.
    pub const fn size_max(self) -> usize {
        match self {
            Self::Swim => limits::SWIM_PACKET_MAX,
            Self::Knock => limits::KNOCK_MAX,
            Self::Message => limits::MESSAGE_MAX,
            Self::Rumor => limits::RUMOR_MAX,
            Self::Tree => limits::TREE_MAX,
            Self::Record => limits::RECORD_MAX,
        }
    }
}

/// Why bytes were not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Nothing there at all.
    #[error("it is empty")]
    Empty,
    /// More than this kind may have.
    #[error("it has {size} bytes and may have {size_max}")]
    TooLarge {
        /// Bytes there.
        size: usize,
        /// Bytes allowed.
        size_max: usize,
    },
    /// Written by an Althing with another format.
    #[error("its format is version {found} and this Althing reads version {VERSION}")]
    Version {
        /// The version byte found.
        found: u8,
    },
    /// Cut short, or no encoding of what was expected.
    #[error("it can't be read: {0}")]
    Malformed(String),
    /// A valid encoding with something behind it.
    #[error("{0} bytes are left over behind it")]
    Trailing(usize),
}

/// Encodes `value`. Panics only if a value exceeds its kind, which the bounds
/// of [`limits`] rule out for everything that this crate builds.
pub fn encode<T: Serialize>(kind: Kind, value: &T) -> Vec<u8> {
    try_encode(kind, value).expect("values are bounded before they are built")
}

/// Encodes `value`, or says that it is too large for its kind.
pub fn try_encode<T: Serialize>(kind: Kind, value: &T) -> Result<Vec<u8>, WireError> {
    let mut bytes = vec![VERSION];
    bincode::serde::encode_into_std_write(value, &mut bytes, bincode::config::standard())
        .map_err(|error| WireError::Malformed(error.to_string()))?;
    if bytes.len() > kind.size_max() {
        return Err(WireError::TooLarge { size: bytes.len(), size_max: kind.size_max() });
    }
    Ok(bytes)
}

/// Decodes exactly one value from all of `bytes`.
pub fn decode<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, WireError> {
    if bytes.len() > kind.size_max() {
        return Err(WireError::TooLarge { size: bytes.len(), size_max: kind.size_max() });
    }
    match bytes.first() {
        None => return Err(WireError::Empty),
        Some(&VERSION) => {}
        Some(&found) => return Err(WireError::Version { found }),
    }
    let (value, used) = decode_prefix::<T>(&bytes[1..])?;
    if used + 1 != bytes.len() {
        return Err(WireError::Trailing(bytes.len() - used - 1));
    }
    Ok(value)
}

/// Decodes one value from the front of `bytes`, without a version byte, and
/// says how many bytes it took: for values packed back to back by
/// [`encode_bare`], as foca packs members into a packet.
pub fn decode_prefix<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), WireError> {
    // The limit also stops a forged length from allocating more than the
    // largest kind; the slice itself is already bounded by its own kind.
    let config = bincode::config::standard().with_limit::<{ limits::TREE_MAX }>();
    bincode::serde::decode_from_slice(bytes, config)
        .map_err(|error| WireError::Malformed(error.to_string()))
}

/// Appends the encoding of `value` without a version byte. See [`decode_prefix`].
pub fn encode_bare<T: Serialize>(value: &T, into: &mut Vec<u8>) -> Result<(), WireError> {
    bincode::serde::encode_into_std_write(value, into, bincode::config::standard())
        .map(|_| ())
        .map_err(|error| WireError::Malformed(error.to_string()))
}

/// `#[serde(deserialize_with = "wire::bounded::<_, _, MAX>")]`: a vector of at
/// most `MAX` items, refused at the first one too many.
pub fn bounded<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Visitor<T, const MAX: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const MAX: usize> serde::de::Visitor<'de> for Visitor<T, MAX> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX} items")
        }
        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            // A claimed length is not believed beyond a small reservation.
            let mut items = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(64));
            while let Some(item) = seq.next_element()? {
                if items.len() == MAX {
                    return Err(serde::de::Error::invalid_length(MAX + 1, &self));
                }
                items.push(item);
            }
            Ok(items)
        }
    }
    deserializer.deserialize_seq(Visitor::<T, MAX>(PhantomData))
}

/// `#[serde(deserialize_with = "wire::bounded_text::<_, MAX>")]`: a string of
/// at most `MAX` bytes.
pub fn bounded_text<'de, D: Deserializer<'de>, const MAX: usize>(
    deserializer: D,
) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.len() > MAX {
        return Err(serde::de::Error::invalid_length(text.len(), &"a shorter text"));
    }
    Ok(text)
}

/// The same of one that may be none.
///
/// # Errors
/// If there are more.
pub fn bounded_text_or_none<'de, D: Deserializer<'de>, const MAX: usize>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    if let Some(text) = text.as_ref().filter(|text| text.len() > MAX) {
        return Err(serde::de::Error::invalid_length(text.len(), &"a shorter text"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        number: u64,
        #[serde(deserialize_with = "bounded::<_, _, 4>")]
        items: Vec<u8>,
        text: String,
    }

    #[test]
    fn what_is_left_over_is_refused() {
        let sample = Sample { number: 1 << 40, items: vec![1, 2], text: "x".into() };
        let mut bytes = encode(Kind::Message, &sample);
        assert_eq!(decode::<Sample>(Kind::Message, &bytes).as_ref(), Ok(&sample));
        bytes.push(0);
        assert_eq!(decode::<Sample>(Kind::Message, &bytes), Err(WireError::Trailing(1)));
        bytes[0] = 9;
        let error = decode::<Sample>(Kind::Message, &bytes);
        assert_eq!(error, Err(WireError::Version { found: 9 }));
    }

    #[test]
    fn a_collection_over_its_bound_is_refused() {
        let sample = Sample { number: 0, items: vec![0; 5], text: String::new() };
        let bytes = encode(Kind::Message, &sample);
        assert!(matches!(decode::<Sample>(Kind::Message, &bytes), Err(WireError::Malformed(_))));
    }

    #[test]
    fn a_forged_length_allocates_nothing() {
        // A string that claims 2^60 bytes.
        let mut bytes = vec![VERSION, 0, 0, 253];
        bytes.extend_from_slice(&(1_u64 << 60).to_le_bytes());
        assert!(decode::<Sample>(Kind::Message, &bytes).is_err());
    }

    proptest! {
        #[test]
        fn garbage_is_refused_and_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = decode::<Sample>(Kind::Message, &bytes);
            let _ = decode::<crate::base::catalog::Catalog>(Kind::Message, &bytes);
            let _ = decode::<crate::base::tree::Tree>(Kind::Tree, &bytes);
        }

        #[test]
        fn a_truncated_message_is_refused(cut in 0_usize..20) {
            let sample = Sample { number: 1 << 40, items: vec![1, 2, 3], text: "some text".into() };
            let bytes = encode(Kind::Message, &sample);
            let cut = cut.min(bytes.len() - 1);
            prop_assert!(decode::<Sample>(Kind::Message, &bytes[..cut]).is_err());
        }
    }
}
