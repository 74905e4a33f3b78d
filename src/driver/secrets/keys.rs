//! Members' signing keys as keys to seal for.
//!
//! An Ed25519 key and an X25519 key are points of the same curve in two forms,
//! so a member needs no second key that would have to be announced, kept and
//! changed: the public one is mapped (RFC 7748, section 4.1), the secret one is
//! the scalar that Ed25519 signs with (RFC 8032, section 5.1.5). This is what
//! libsodium's `crypto_sign_ed25519_pk_to_curve25519` and its brother do. Using
//! one pair for both is safe for these two schemes (Thormarker, "On using the
//! same key pair for Ed25519 and an X25519 based KEM", 2021).

use age::x25519;
use bech32::{Bech32, Hrp};
use curve25519_dalek::{edwards::CompressedEdwardsY, scalar::clamp_integer};
use ring::digest::{SHA512, digest};
use zeroize::Zeroizing;

use crate::base::{PublicKey, SecretKey};

/// The X25519 form of a public key; `None` where it is no point of the curve,
/// or not of the large subgroup, from which alone real keys come: with others
/// the outcome of a key exchange can be guessed.
pub(super) fn public(key: &PublicKey) -> Option<[u8; 32]> {
    let point = CompressedEdwardsY(key.0).decompress()?;
    let real = !point.is_small_order() && point.is_torsion_free();
    real.then(|| point.to_montgomery().to_bytes())
}

/// The X25519 form of a secret key.
pub(super) fn secret(key: &SecretKey) -> Zeroizing<[u8; 32]> {
    let hash = digest(&SHA512, key.seed());
    let half = hash.as_ref()[..32].try_into().expect("SHA-512 has 64 bytes");
    Zeroizing::new(clamp_integer(half))
}

/// For whom to seal, in age's words. It takes keys only as text.
pub(super) fn recipient(key: &PublicKey) -> Option<x25519::Recipient> {
    let text = bech32::encode::<Bech32>(Hrp::parse_unchecked("age"), &public(key)?);
    text.expect("32 bytes are not too long").parse().ok()
}

/// With what to open, in age's words.
pub(super) fn identity(key: &SecretKey) -> x25519::Identity {
    let prefix = Hrp::parse_unchecked("age-secret-key-");
    let text = bech32::encode_upper::<Bech32>(prefix, &*secret(key));
    let text = Zeroizing::new(text.expect("32 bytes are not too long"));
    text.parse().expect("any 32 bytes are a secret key, and this is their form")
}
