//! The server of an outside host verified by names that its author lists, in place of the one that is
//! asked for: `subjectAltNames` of a BackendTLSPolicy.
//!
//! A certificate comes in with its path; it is accepted if the path leads to a root and one of the names
//! is the certificate's. The name of the connection is sent as SNI and not compared. It refuses where
//! there is no name, so that an empty list accepts no server.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::svid::has_uri;

/// A subject alternative name that a server of an outside host may have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AltName {
    /// A host name, which a certificate may have with a wildcard.
    Dns(ServerName<'static>),
    /// A URI, compared byte by byte.
    Uri(Arc<str>),
}

/// Verifies servers by a list of names.
#[derive(Debug)]
pub(super) struct AltNames {
    pub(super) names: Arc<[AltName]>,
    pub(super) roots: RootCertStore,
    pub(super) provider: Arc<CryptoProvider>,
}

// === impl AltName ===

impl AltName {
    /// A host name.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn dns(name: &str) -> Result<Self, String> {
        let name = ServerName::try_from(name.to_owned());
        name.map(Self::Dns)
            .map_err(|_| "is not a host name that a certificate can have".into())
    }

    fn is_of(&self, leaf: &CertificateDer<'_>, parsed: &ParsedCertificate<'_>) -> bool {
        match self {
            Self::Dns(name) => verify_server_name(parsed, name).is_ok(),
            Self::Uri(uri) => has_uri(leaf, uri),
        }
    }
}

// === impl AltNames ===

impl ServerCertVerifier for AltNames {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let (roots, intermediates) = (&self.roots, intermediates);
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
        match self.names.iter().any(|name| name.is_of(leaf, &parsed)) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::NotValidForName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType, string,
    };

    use super::*;

    fn ca() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn a_server_has_one_of_the_names_and_a_path_to_a_root() {
        let (ca, other) = (ca(), ca());
        let mut params = CertificateParams::new(vec!["a.test".into(), "*.b.test".into()]).unwrap();
        let uri = "spiffe://x.test/ns/a/sa/b";
        let san = string::Ia5String::try_from(uri).unwrap();
        params.subject_alt_names.push(SanType::URI(san));
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &ca).unwrap();
        let crypto = crate::testing::crypto();
        let dns = |name: &str| AltName::dns(name).unwrap();
        let of = |text: &str| AltName::Uri(text.into());
        for (root, names, accepted) in [
            (&ca, vec![dns("a.test")], true),
            (&ca, vec![dns("c.test"), dns("x.b.test")], true),
            (&ca, vec![of(uri)], true),
            (&ca, vec![dns("c.test"), of(uri)], true),
            (&ca, vec![dns("c.test")], false),
            (&ca, vec![of("spiffe://x.test/ns/a/sa/bb")], false),
            (&ca, vec![of("spiffe://x.test/ns/a/sa/")], false),
            (&ca, vec![], false),
            (&other, vec![dns("a.test"), of(uri)], false),
        ] {
            let mut roots = RootCertStore::empty();
            roots.add(root.der().clone()).unwrap();
            let shown = format!("{names:?}");
            let verifier = AltNames {
                names: names.into(),
                roots,
                provider: Arc::clone(crypto.provider()),
            };
            let now = UnixTime::now();
            // The name that is asked for is of no account.
            let asked = ServerName::try_from("a.test").unwrap();
            let verified = verifier.verify_server_cert(leaf.der(), &[], &asked, &[], now);
            assert_eq!(verified.is_ok(), accepted, "{shown}");
        }
    }
}
