//! The certificate of a port that belongs to the member and to no application, as that of the
//! status page: shown to everybody who comes there, whatever name they ask for.
//!
//! Nothing is resumed there: few come, and who comes again is to see the certificate that holds
//! then.

use std::{fmt, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::CertificateDer,
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};

use super::{
    certificate::{BadCertificate, Checked, is_made_out},
    validity::Validity,
};
use crate::base::Digest;

/// A certificate with its key, ready for handshakes after which HTTP/1.1 is spoken.
pub struct PortCertificate {
    /// Of the whole chain; for logs.
    fingerprint: Digest,
    leaf: CertificateDer<'static>,
    validity: Validity,
    config: Arc<ServerConfig>,
}

impl PortCertificate {
    /// Reads it from PEM: the chain, the server's own first, and the private key of that (PKCS#8,
    /// SEC1 or PKCS#1) anywhere.
    ///
    /// # Errors
    /// If it can't be used. That it is out of time is no error: see [`validity`](Self::validity).
    pub fn from_pem(pem: &str) -> Result<Self, BadCertificate> {
        let Checked { fingerprint, leaf, validity, certified } = Checked::from_pem(pem)?;
        let config = config(certified).map_err(|_| BadCertificate::Refused)?;
        Ok(Self { fingerprint, leaf, validity, config: Arc::new(config) })
    }

    /// From when to when it is valid.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Whether clients that ask for `host`, a name or an IP address, take it.
    pub fn names(&self, host: &str) -> bool {
        is_made_out(&self.leaf, host)
    }

    /// What handshakes take.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }
}

impl fmt::Debug for PortCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortCertificate").field("chain", &self.fingerprint).finish()
    }
}

fn config(certified: CertifiedKey) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}
