//! Who is at the other end: the self-signed certificate around a member's
//! Ed25519 key, and TLS 1.3 configurations that trust keys and nothing else.
//!
//! There is no certificate authority. A certificate is only the envelope that
//! TLS wants around a public key: its names, dates and self-signature are never
//! looked at. What counts is that the peer signs the handshake
//! (CertificateVerify, RFC 8446 section 4.4.3) with the key inside, and that the
//! caller expected that key. Ed25519 in certificates: RFC 8410.
//!
//! Never: session tickets, resumption, 0-RTT. A resumed session would let a
//! removed member back in without any verifier being asked.

use std::sync::Arc;

use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature},
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::{
        NoServerSessionStorage, ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};

use super::{NetError, link::Class};
use crate::base::{ClusterId, PublicKey, SecretKey};

/// The name in every certificate and in every ClientHello. It says nothing.
pub(super) const SERVER_NAME: &str = "althing";
/// Label of the TLS exporter (RFC 8446 section 7.5) that a newcomer signs, so that
/// its knock is worth nothing on any other connection.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-althing-join";
/// What stands before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0];

/// This member's certificate and key, in the form that TLS takes.
pub(super) struct Identity {
    provider: Arc<CryptoProvider>,
    certified: Arc<SingleCertAndKey>,
    cluster: ClusterId,
}

impl Identity {
    /// Wraps `key` in a certificate. Fails only if the libraries disagree with
    /// each other about the encoding.
    pub(super) fn new(key: &SecretKey, cluster: ClusterId) -> Result<Self, NetError> {
        let failed = |cause: String| NetError::Identity { cause };
        let pkcs8 = PrivatePkcs8KeyDer::from(pkcs8_of(key));
        let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &rcgen::PKCS_ED25519)
            .map_err(|error| failed(error.to_string()))?;
        let certificate = rcgen::CertificateParams::new(vec![SERVER_NAME.to_owned()])
            .and_then(|parameters| parameters.self_signed(&pair))
            .map_err(|error| failed(error.to_string()))?;
        let provider = Arc::new(ring::default_provider());
        let chain = vec![certificate.der().clone()];
        let certified = CertifiedKey::from_der(chain, pkcs8.into(), &provider)
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self { provider, certified: Arc::new(SingleCertAndKey::from(certified)), cluster })
    }

    /// The configuration for dialling: as `class`, expecting `expected`, or
    /// whatever key there is if `None` (a newcomer that knocks).
    pub(super) fn client(
        &self,
        class: Class,
        expected: Option<PublicKey>,
    ) -> Result<Arc<QuicClientConfig>, NetError> {
        let failed = |cause: String| NetError::Identity { cause };
        let verifier = KeyVerifier { algorithms: self.algorithms(), expected };
        let mut tls = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| failed(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(self.certified.clone());
        tls.alpn_protocols = vec![class.protocol(&self.cluster)];
        tls.resumption = Resumption::disabled();
        tls.enable_early_data = false;
        let quic = QuicClientConfig::try_from(tls).map_err(|error| failed(error.to_string()))?;
        Ok(Arc::new(quic))
    }

    /// The configuration for being dialled. It accepts any Ed25519 key whose
    /// owner proves it; whether that key may come in is decided right after
    /// the handshake, where the class of the connection is known too and a
    /// refusal can say why.
    pub(super) fn server(&self) -> Result<Arc<QuicServerConfig>, NetError> {
        let failed = |cause: String| NetError::Identity { cause };
        let verifier = KeyVerifier { algorithms: self.algorithms(), expected: None };
        let mut tls = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| failed(error.to_string()))?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(self.certified.clone());
        tls.alpn_protocols = Class::ALL.iter().map(|class| class.protocol(&self.cluster)).collect();
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        tls.send_tls13_tickets = 0;
        tls.max_early_data_size = 0;
        let quic = QuicServerConfig::try_from(tls).map_err(|error| failed(error.to_string()))?;
        Ok(Arc::new(quic))
    }

    fn algorithms(&self) -> WebPkiSupportedAlgorithms {
        self.provider.signature_verification_algorithms
    }
}

/// The class that an accepted connection declared by its ALPN.
pub(super) fn class_of(connection: &quinn::Connection, cluster: &ClusterId) -> Option<Class> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    let protocol = data.protocol?;
    Class::ALL.into_iter().find(|class| class.protocol(cluster) == protocol)
}

/// The key that the peer of `connection` proved to hold.
pub(super) fn key_of(connection: &quinn::Connection) -> Option<PublicKey> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    key_in(chain.first()?).ok()
}

/// The same 32 bytes at both ends of `connection`, and nowhere else.
pub(super) fn exporter_of(connection: &quinn::Connection) -> Option<[u8; 32]> {
    let mut exporter = [0; 32];
    connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").ok()?;
    Some(exporter)
}

/// The Ed25519 key in a certificate.
fn key_in(certificate: &CertificateDer<'_>) -> Result<PublicKey, Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    let spki = parsed.subject_public_key_info();
    spki.strip_prefix(&SPKI_PREFIX)
        .and_then(|key| key.try_into().ok())
        .map(PublicKey)
        .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))
}

/// PKCS#8 v2 (RFC 5958, RFC 8410 section 7) with both halves of the key.
fn pkcs8_of(key: &SecretKey) -> Vec<u8> {
    let mut der = vec![0x30, 0x51, 0x02, 0x01, 0x01, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
    der.extend_from_slice(&[0x04, 0x22, 0x04, 0x20]);
    der.extend_from_slice(key.seed());
    der.extend_from_slice(&[0x81, 0x21, 0x00]);
    der.extend_from_slice(&key.public().0);
    der
}

/// Accepts the expected key, or any key that its owner proves; both ways.
#[derive(Debug)]
struct KeyVerifier {
    algorithms: WebPkiSupportedAlgorithms,
    expected: Option<PublicKey>,
}

impl KeyVerifier {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let key = key_in(certificate)?;
        if self.expected.is_none_or(|expected| expected == key) {
            Ok(())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

/// TLS 1.2 is not configured; QUIC doesn't know it.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
}

impl ServerCertVerifier for KeyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for KeyVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Digest;

    #[test]
    fn the_certificate_holds_the_key_and_nothing_else_is_expected() {
        let key = SecretKey::from_seed([3; 32]);
        let identity = Identity::new(&key, ClusterId(Digest([1; 32]))).unwrap();
        let pkcs8 = PrivatePkcs8KeyDer::from(pkcs8_of(&key));
        let pair =
            rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &rcgen::PKCS_ED25519).unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["elsewhere".to_owned()])
            .unwrap()
            .self_signed(&pair)
            .unwrap();
        assert_eq!(key_in(certificate.der()).unwrap(), key.public());
        let expecting = |expected| KeyVerifier { algorithms: identity.algorithms(), expected };
        assert!(expecting(Some(key.public())).check(certificate.der()).is_ok());
        let other = SecretKey::from_seed([4; 32]).public();
        assert!(expecting(Some(other)).check(certificate.der()).is_err());
    }

    #[test]
    fn a_certificate_with_another_kind_of_key_is_refused() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["althing".to_owned()])
            .unwrap()
            .self_signed(&pair)
            .unwrap();
        assert!(key_in(certificate.der()).is_err());
        assert!(key_in(&CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])).is_err());
        assert!(key_in(&CertificateDer::from(Vec::new())).is_err());
    }
}
