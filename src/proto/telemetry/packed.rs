//! The bins of a sketch on their way: bytes of the sketch's own making. As a list of pairs
//! they took eight times as long to decode, and a day of a hundred members is six million bins.
//!
//! Each bin is two numbers: how far its key is above the one before (the first: above the
//! lowest that there can be), and how many values it counts. A number is in groups of seven
//! bits, the lowest first, with the eighth bit set in all but the last (LEB128, DWARF 7.6).

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Visitor},
};

use crate::base::limits::SKETCH_BINS_MAX;

/// The longest encoding: two bytes for a step at most, ten for a number.
const PACKED_MAX: usize = SKETCH_BINS_MAX * 12;

/// The key of a bin, and how many values it counts.
pub(super) type Bin = (i32, u64);

/// Bins as bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Packed(Vec<u8>);

impl Packed {
    /// Packs bins whose keys rise, from `-key_max` on.
    pub(super) fn new(bins: &[Bin], key_max: i32) -> Self {
        let mut bytes = Vec::with_capacity(bins.len() * 3);
        let mut before = -key_max;
        for (key, n) in bins {
            put(&mut bytes, u64::from(key.abs_diff(before)));
            put(&mut bytes, *n);
            before = *key;
        }
        Self(bytes)
    }

    /// The bins, and how many values they count together.
    ///
    /// # Errors
    /// A sentence, if they are none: keys that don't rise or lie beyond `±key_max`, a bin of
    /// nothing, more bins or more values than there can be.
    pub(super) fn bins(&self, key_max: i32) -> Result<(Vec<Bin>, u64), &'static str> {
        let mut bytes = self.0.as_slice();
        let mut bins = Vec::with_capacity((bytes.len() / 2).min(SKETCH_BINS_MAX));
        let (mut key, mut count) = (-key_max, 0_u64);
        while !bytes.is_empty() {
            let cut = "the bins of a sketch are cut short";
            let (step, n) = (take(&mut bytes).ok_or(cut)?, take(&mut bytes).ok_or(cut)?);
            let next = i32::try_from(step).ok().and_then(|step| key.checked_add(step));
            key = next.filter(|key| *key <= key_max).ok_or("a bin lies beyond all values")?;
            if n == 0 || (step == 0 && !bins.is_empty()) || bins.len() == SKETCH_BINS_MAX {
                return Err("the bins of a sketch are in order, not too many, and none is empty");
            }
            count = count.checked_add(n).ok_or("a sketch counts more than there can be")?;
            bins.push((key, n));
        }
        Ok((bins, count))
    }
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80); // the lowest seven bits, and that more follow
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let seven = u64::from(byte & 0x7f);
        number |= seven.checked_shl(shift).filter(|shifted| shifted >> shift == seven)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

impl Serialize for Packed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Packed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = Packed;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {PACKED_MAX} bytes")
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Packed, E> {
                self.visit_byte_buf(bytes.to_vec())
            }
            fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Packed, E> {
                if bytes.len() > PACKED_MAX {
                    return Err(E::invalid_length(bytes.len(), &self));
                }
                Ok(Packed(bytes))
            }
            /// JSON has no bytes.
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Packed, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = seq.next_element()? {
                    if bytes.len() == PACKED_MAX {
                        return Err(A::Error::invalid_length(PACKED_MAX + 1, &self));
                    }
                    bytes.push(byte);
                }
                Ok(Packed(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const KEY_MAX: i32 = 4_537;

    #[test]
    fn bins_that_are_none_are_refused() {
        let bins = |bytes: &[u8]| Packed(bytes.to_vec()).bins(KEY_MAX);
        assert_eq!(bins(&[]), Ok((vec![], 0)));
        assert_eq!(bins(&[0, 1, 1, 2]), Ok((vec![(-KEY_MAX, 1), (1 - KEY_MAX, 2)], 3)));
        let many = [1, 1].repeat(SKETCH_BINS_MAX + 1);
        let all = [[1].as_slice(), &[0xff; 9], &[1]].concat(); // as many as a number can say
        for bad in [
            &[0][..],
            &[0, 0],
            &[0, 1, 0, 1],
            &[0xff, 0xff, 1, 1],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1],
            &[0xff; 12],
            &[0, 0x80],
            &[&all[..], &[1, 1]].concat(),
            &many,
        ] {
            assert!(bins(bad).is_err(), "{bad:?}");
        }
        assert_eq!(bins(&all), Ok((vec![(1 - KEY_MAX, u64::MAX)], u64::MAX)));
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(bins in proptest::collection::btree_map(-KEY_MAX..=KEY_MAX, 1..1_u64 << 50, 0..500)) {
            let bins: Vec<_> = bins.into_iter().collect();
            let packed = Packed::new(&bins, KEY_MAX);
            prop_assert!(packed.0.len() <= PACKED_MAX);
            prop_assert_eq!(packed.bins(KEY_MAX).unwrap().0, bins);
            let json = serde_json::to_string(&packed).unwrap();
            prop_assert_eq!(serde_json::from_str::<Packed>(&json).unwrap(), packed);
        }

        #[test]
        fn garbage_is_refused_or_sound(bytes in vec(any::<u8>(), 0..100)) {
            if let Ok((bins, count)) = Packed(bytes).bins(KEY_MAX) {
                prop_assert_eq!(bins.iter().map(|(_, n)| n).sum::<u64>(), count);
                prop_assert!(bins.is_sorted_by(|a, b| a.0 < b.0));
            }
        }
    }
}
