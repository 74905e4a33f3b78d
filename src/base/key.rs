//! Keys and signatures: Ed25519 (RFC 8032) by `ring`. What is signed is
//! always bytes in a domain, never a value that two encoders could disagree on.

use std::{cell::Cell, fmt, marker::PhantomData};

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    MemberId,
    digest::{deserialize_array, hex, serialize_array},
};

/// An Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Whether `signature` is this key's over `bytes` in `domain`.
    pub fn verify(&self, domain: &'static str, bytes: &[u8], signature: &Signature) -> bool {
        if let Some(secret) = NOTARY.get() {
            return Notary::sign(&secret, self, domain, bytes) == *signature;
        }
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(&in_domain(domain, bytes), &signature.0)
            .is_ok()
    }
}

/// Sixty-four hex digits.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0[..5]))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_array(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_array(deserializer).map(Self)
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0[..4]))
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_array(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_array(deserializer).map(Self)
    }
}

/// An Ed25519 key pair. Neither printed nor serialised; the seed leaves it
/// only through [`SecretKey::seed`], for the file that keeps it.
pub struct SecretKey {
    seed: [u8; 32],
    pair: Ed25519KeyPair,
}

impl SecretKey {
    /// The key pair of a 32-byte seed, which the caller draws at random.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
            .expect("ring refuses a seed only for its length, and the type fixes that");
        Self { seed, pair }
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        let bytes = self.pair.public_key().as_ref();
        PublicKey(bytes.try_into().expect("an Ed25519 public key has 32 bytes"))
    }

    /// The member id that this key stands for.
    pub fn member(&self) -> MemberId {
        MemberId::of(&self.public())
    }

    /// Signs `bytes` in `domain`.
    pub fn sign(&self, domain: &'static str, bytes: &[u8]) -> Signature {
        if let Some(secret) = NOTARY.get() {
            return Notary::sign(&secret, &self.public(), domain, bytes);
        }
        let signature = self.pair.sign(&in_domain(domain, bytes));
        Signature(signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes"))
    }

    /// The secret itself: for the key file, for a token, for nothing else.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }
}

impl Clone for SecretKey {
    fn clone(&self) -> Self {
        Self::from_seed(self.seed)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.member())
    }
}

thread_local! {
    static NOTARY: Cell<Option<[u8; 32]>> = const { Cell::new(None) };
}

/// While it lives, this thread signs and verifies with a keyed hash in place of
/// Ed25519: a hundred simulated members on one thread verify each other's
/// signatures a million times, and nothing else would get done. A signature
/// holds as before for its key, domain and bytes only, and only whoever has the
/// secret key makes one; it is worth nothing on any other thread. The one thing
/// on the pure floors that is bound to a thread, and only a simulation makes it.
#[derive(Debug)]
pub(crate) struct Notary {
    // It must end on the thread that it was made on.
    _here: PhantomData<*const ()>,
}

impl Notary {
    /// `secret` is drawn from the seed of the run.
    pub(crate) fn new(secret: [u8; 32]) -> Self {
        NOTARY.set(Some(secret));
        Self { _here: PhantomData }
    }

    fn sign(secret: &[u8; 32], key: &PublicKey, domain: &'static str, bytes: &[u8]) -> Signature {
        let mut hasher = blake3::Hasher::new_keyed(secret);
        hasher.update(&key.0);
        hasher.update(&(domain.len() as u64).to_le_bytes());
        hasher.update(domain.as_bytes());
        hasher.update(bytes);
        let mut signature = [0; 64];
        hasher.finalize_xof().fill(&mut signature);
        Signature(signature)
    }
}

impl Drop for Notary {
    fn drop(&mut self) {
        NOTARY.set(None);
    }
}

fn in_domain(domain: &'static str, bytes: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(8 + domain.len() + bytes.len());
    message.extend_from_slice(&(domain.len() as u64).to_le_bytes());
    message.extend_from_slice(domain.as_bytes());
    message.extend_from_slice(bytes);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_key_domain_and_bytes_only() {
        let key = SecretKey::from_seed([7; 32]);
        let signature = key.sign("one", b"bytes");
        assert!(key.public().verify("one", b"bytes", &signature));
        assert!(!key.public().verify("two", b"bytes", &signature));
        assert!(!key.public().verify("one", b"other", &signature));
        let other = SecretKey::from_seed([8; 32]);
        assert!(!other.public().verify("one", b"bytes", &signature));
    }

    #[test]
    fn a_notary_signs_as_keys_do_and_for_its_own_time_only() {
        let (key, other) = (SecretKey::from_seed([7; 32]), SecretKey::from_seed([8; 32]));
        let real = key.sign("one", b"bytes");
        let notary = Notary::new([1; 32]);
        let signature = key.sign("one", b"bytes");
        assert!(key.public().verify("one", b"bytes", &signature));
        assert!(!key.public().verify("two", b"bytes", &signature));
        assert!(!key.public().verify("one", b"other", &signature));
        assert!(!other.public().verify("one", b"bytes", &signature));
        assert!(!key.public().verify("one", b"bytes", &real), "it was made elsewhere");
        drop(notary);
        assert!(!key.public().verify("one", b"bytes", &signature));
        assert!(key.public().verify("one", b"bytes", &real));
    }
}
