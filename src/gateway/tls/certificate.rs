//! Certificates with their keys, as TLS takes them: read from PEM, and judged.
//!
//! **Invariant:** no error and no text about one tells anything of its key, and what was
//! read of that is wiped.

use std::{fmt, sync::Arc};

use rustls::{
    ServerConfig,
    client::verify_server_name,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
        ServerName,
        pem::{PemObject, SectionKind},
    },
    server::{NoServerSessionStorage, ParsedCertificate},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use zeroize::Zeroize;

use super::validity::{self, Validity};
use crate::base::{AppName, Digest};

/// Certificates in one chain: more are none that clients would follow.
const CHAIN_MAX: usize = 10;
/// What is told to be spoken over TLS, best first (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The certificate of an application, ready for handshakes.
pub struct Certificate {
    app: AppName,
    /// Of the whole chain.
    fingerprint: Digest,
    leaf: CertificateDer<'static>,
    validity: Validity,
    config: Arc<ServerConfig>,
}

/// Why a text is no certificate that can be used. No message quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCertificate {
    /// No section of it is a certificate.
    #[error("it holds no certificate: it has to be PEM, with -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    /// More than anybody needs.
    #[error("it holds more than {CHAIN_MAX} certificates: leave out what is not of the chain")]
    LongChain,
    /// No section of it is a private key.
    #[error(
        "it holds no private key: put the one of the certificate behind the chain, as \
         -----BEGIN PRIVATE KEY-----"
    )]
    NoKey,
    /// A key behind a passphrase.
    #[error(
        "its private key is behind a passphrase, which nobody could enter: take that off first, \
         with `openssl pkey`"
    )]
    Encrypted,
    /// Which of them?
    #[error("it holds more than one private key: leave only the one of the first certificate")]
    Keys,
    /// PEM that is none.
    #[error("a section of it is no PEM: it may have been cut, or its lines joined")]
    Pem,
    /// A certificate that is none.
    #[error("its first certificate can't be read: it has to be X.509, version 3")]
    Unreadable,
    /// A key that can't sign.
    #[error(
        "its private key can't be used: RSA of 2048 to 4096 bits, P-256, P-384 and Ed25519 can"
    )]
    Key,
    /// They don't belong together.
    #[error(
        "its private key is not the one of its first certificate: put the server's own \
         certificate first, and the key that it was requested with"
    )]
    Mismatch,
    /// The library refuses.
    #[error("it can't be used for TLS: make another one")]
    Refused,
}

impl Certificate {
    /// Reads the certificate of `app` from PEM: the chain, the server's own first, and the
    /// private key of that (PKCS#8, SEC1 or PKCS#1) anywhere.
    pub fn from_pem(app: &AppName, pem: &str) -> Result<Self, BadCertificate> {
        let Checked { fingerprint, leaf, validity, certified } = Checked::from_pem(pem)?;
        let config = config(certified).map_err(|_| BadCertificate::Refused)?;
        Ok(Self { app: app.clone(), fingerprint, leaf, validity, config: Arc::new(config) })
    }

    /// Which application it is of.
    pub fn app(&self) -> &AppName {
        &self.app
    }

    /// From when to when it is valid.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Whether it is the same: a chain says who somebody is, whatever else differs.
    pub fn is_same(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }

    /// Whether requests for what it is of may come over a handshake with `other`: one
    /// before it of the same application, or the same of another one.
    pub(in crate::gateway) fn answers_for(&self, other: &Self) -> bool {
        self.app == other.app || self.is_same(other)
    }

    /// Whether clients that ask for `host` take it.
    pub fn names(&self, host: &str) -> bool {
        is_made_out(&self.leaf, host)
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { app, fingerprint, .. } = self;
        f.debug_struct("Certificate").field("app", app).field("chain", fingerprint).finish()
    }
}

/// Whether clients that ask for `host`, a name or an IP address, take this certificate.
pub(super) fn is_made_out(leaf: &CertificateDer<'_>, host: &str) -> bool {
    let (Ok(leaf), Ok(name)) = (ParsedCertificate::try_from(leaf), ServerName::try_from(host))
    else {
        return false;
    };
    verify_server_name(&leaf, &name).is_ok()
}

/// A chain that can be read, and the key of its first certificate.
pub(super) struct Checked {
    /// Of the whole chain.
    pub fingerprint: Digest,
    pub leaf: CertificateDer<'static>,
    pub validity: Validity,
    pub certified: CertifiedKey,
}

impl Checked {
    pub fn from_pem(pem: &str) -> Result<Self, BadCertificate> {
        let (chain, key) = sections(pem)?;
        let leaf = chain.first().cloned().ok_or(BadCertificate::NoCertificate)?;
        let validity = validity::of(&leaf).ok_or(BadCertificate::Unreadable)?;
        ParsedCertificate::try_from(&leaf).map_err(|_| BadCertificate::Unreadable)?;
        let fingerprint = Digest::of(
            "althing tls chain",
            &chain.iter().flat_map(|one| one.iter().copied()).collect::<Vec<u8>>(),
        );
        let signing = ring::sign::any_supported_type(&key.0).map_err(|_| BadCertificate::Key)?;
        let certified = CertifiedKey::new(chain, signing);
        certified.keys_match().map_err(|_| BadCertificate::Mismatch)?;
        Ok(Self { fingerprint, leaf, validity, certified })
    }
}

/// A private key whose bytes are wiped.
struct Key(PrivateKeyDer<'static>);

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

fn sections(pem: &str) -> Result<(Vec<CertificateDer<'static>>, Key), BadCertificate> {
    let (mut chain, mut key) = (Vec::new(), None);
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes()) {
        let (kind, der) = section.map_err(|_| BadCertificate::Pem)?;
        let found: PrivateKeyDer<'static> = match kind {
            SectionKind::Certificate if chain.len() == CHAIN_MAX => {
                return Err(BadCertificate::LongChain);
            }
            SectionKind::Certificate => {
                chain.push(CertificateDer::from(der));
                continue;
            }
            SectionKind::PrivateKey => PrivatePkcs8KeyDer::from(der).into(),
            SectionKind::EcPrivateKey => PrivateSec1KeyDer::from(der).into(),
            SectionKind::RsaPrivateKey => PrivatePkcs1KeyDer::from(der).into(),
            _ => continue,
        };
        if key.replace(Key(found)).is_some() {
            return Err(BadCertificate::Keys);
        }
    }
    if chain.is_empty() {
        return Err(BadCertificate::NoCertificate);
    }
    let lacking =
        if pem.contains("ENCRYPTED") { BadCertificate::Encrypted } else { BadCertificate::NoKey };
    Ok((chain, key.ok_or(lacking)?))
}

fn config(certified: CertifiedKey) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    // A client resumes by a ticket, which costs no memory here. The keys of tickets are those
    // of this certificate on this member, so none outlasts it or leads to another application.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = ring::Ticketer::new()?;
    // What comes before the handshake is over could have been sent by who recorded it.
    config.max_early_data_size = 0;
    Ok(config)
}
