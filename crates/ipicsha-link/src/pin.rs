//! Which certificates TLS accepts, in both directions.
//!
//! Decides by byte equality with one pinned certificate. No CA, no names, no revocation, and the
//! expiry is deliberately ignored: an expired certificate raises an alarm elsewhere, but cutting the
//! link of a running pair on a date would cause the outage that the pair exists to prevent; trust
//! ends when an administrator deletes it. What is never skipped is the signature: a certificate is
//! public, only its key proves who shows it.

use std::{collections::BTreeSet, sync::Arc};

use ipicsha_core::trust::Partner;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls13_signature},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::SingleCertAndKey,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::identity::{Fingerprint, Identity};

/// ALPN of the connections between trusted partners.
pub(crate) const ALPN_PAIR: &[u8] = b"ipicsha-pair/1";
/// ALPN of the trust exchange.
pub(crate) const ALPN_TRUST: &[u8] = b"ipicsha-trust/1";

/// ALPN of the connections to a witness.
pub(crate) const ALPN_WITNESS: &[u8] = b"ipicsha-witness/1";

/// The cryptography, as a value: nothing depends on a process-wide default.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Whose certificate is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// Exactly these: the trusted partner's, and while it renews its certificate the next one.
    Pinned(Vec<CertificateDer<'static>>),
    /// Those with these fingerprints, of a witness and the servers it serves.
    Known(Arc<BTreeSet<Fingerprint>>),
    /// None, because no partner is trusted.
    Nobody,
    /// Any. Only for the trust exchange, where the password decides afterwards.
    AnyCertificate,
}

impl Accepted {
    /// Those of a partner.
    pub(crate) fn of(partner: &Partner) -> Self {
        let all = std::iter::once(&partner.certificate).chain(&partner.next_certificate);
        Self::Pinned(all.map(|der| CertificateDer::from(der.clone())).collect())
    }
}

/// TLS as a server, which demands a certificate of the client.
pub(crate) fn server_config(identity: &Identity, accepted: Accepted) -> Arc<ServerConfig> {
    let provider = provider();
    let alpn = alpn(&accepted);
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .expect("the ring provider has cipher suites of TLS 1.3")
        .with_client_cert_verifier(Arc::new(Verifier { accepted, provider }))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified())));
    config.alpn_protocols = vec![alpn];
    // Every connection proves both keys anew: nothing resumes past a deleted trust.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Arc::new(config)
}

/// TLS as a client, which shows its certificate.
pub(crate) fn client_config(identity: &Identity, accepted: Accepted) -> Arc<ClientConfig> {
    let provider = provider();
    let alpn = alpn(&accepted);
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .expect("the ring provider has cipher suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { accepted, provider }))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified())));
    config.alpn_protocols = vec![alpn];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Arc::new(config)
}

/// The lenient verifier can be reached under its own ALPN only.
fn alpn(accepted: &Accepted) -> Vec<u8> {
    match accepted {
        Accepted::Pinned(_) | Accepted::Nobody => ALPN_PAIR.to_vec(),
        Accepted::Known(_) => ALPN_WITNESS.to_vec(),
        Accepted::AnyCertificate => ALPN_TRUST.to_vec(),
    }
}

#[derive(Debug)]
struct Verifier {
    accepted: Accepted,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn check(&self, shown: &CertificateDer<'_>) -> Result<(), Error> {
        let fits = match &self.accepted {
            Accepted::Pinned(certificates) => certificates.iter().any(|pinned| pinned == shown),
            Accepted::Known(known) => known.contains(&Fingerprint::of(shown)),
            Accepted::Nobody => false,
            Accepted::AnyCertificate => true,
        };
        if fits { Ok(()) } else { Err(CertificateError::ApplicationVerificationFailure.into()) }
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not spoken here".into()))
}

impl ServerCertVerifier for Verifier {
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
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

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
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
