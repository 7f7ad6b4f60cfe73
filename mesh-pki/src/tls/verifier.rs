//! [`svid::validate`](crate::svid::validate) in the shape that rustls asks for, on both sides, and
//! the one mapping from our reasons to the alert that the peer sees.
//!
//! rustls chooses the alert by the kind of certificate error, and only one kind, which always sends
//! certificate_unknown, can carry our reason. So the error is chosen for its alert, and the reason
//! goes beside it to the task that runs the handshake (see [`super::handshake`]).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, Error,
    OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::handshake;
use super::{ClientAuth, Crypto};
use crate::store::IdentityReader;
use crate::svid::{Rejected, Usage, validate};

/// Verifies peers against the state of the moment.
pub(super) struct SpiffeVerifier {
    reader: IdentityReader,
    crypto: Crypto,
    client_auth: ClientAuth,
    /// The path of a client is judged at its calls, and not here.
    later: bool,
}

/// The TLS alert that a peer is sent when it is refused for this reason.
#[must_use]
pub fn alert_of(rejected: &Rejected) -> AlertDescription {
    match rejected {
        Rejected::NoCertificate => AlertDescription::CertificateRequired,
        other => certificate_error(other).into(),
    }
}

fn certificate_error(rejected: &Rejected) -> CertificateError {
    match rejected {
        Rejected::Expired { not_after, now, .. } => CertificateError::ExpiredContext {
            time: unix_time(*now),
            not_after: unix_time(*not_after),
        },
        Rejected::NotYetValid {
            not_before, now, ..
        } => CertificateError::NotValidYetContext {
            time: unix_time(*now),
            not_before: unix_time(*not_before),
        },
        Rejected::UnknownIssuer { .. }
        | Rejected::UnknownTrustDomain { .. }
        | Rejected::Distrusted { .. } => CertificateError::UnknownIssuer,
        Rejected::Revoked { .. } => CertificateError::Revoked,
        Rejected::RevocationStale {
            next_update, now, ..
        } => CertificateError::ExpiredRevocationListContext {
            time: unix_time(*now),
            next_update: unix_time(*next_update),
        },
        Rejected::RevocationUnknown { .. } => CertificateError::UnknownRevocationStatus,
        Rejected::BadSignature { .. } => CertificateError::BadSignature,
        Rejected::Malformed { .. } => CertificateError::BadEncoding,
        Rejected::UnknownCriticalExtension { .. } => CertificateError::UnhandledCriticalExtension,
        Rejected::WrongUsage { .. } => CertificateError::InvalidPurpose,
        other => CertificateError::Other(OtherError(Arc::new(other.clone()))),
    }
}

impl SpiffeVerifier {
    pub(super) fn new(reader: IdentityReader, crypto: &Crypto, client_auth: ClientAuth) -> Self {
        Self {
            reader,
            crypto: crypto.clone(),
            client_auth,
            later: false,
        }
    }

    #[cfg(all(feature = "ca-server", any(feature = "aws-lc-rs", feature = "ring")))]
    pub(super) fn judged_later(self) -> Self {
        Self {
            later: true,
            ..self
        }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: Usage,
    ) -> Result<(), Error> {
        let mut chain = Vec::with_capacity(1 + intermediates.len());
        chain.push(CertificateDer::from(leaf.as_ref()));
        chain.extend(
            intermediates
                .iter()
                .map(|cert| CertificateDer::from(cert.as_ref())),
        );
        let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        match validate(&chain, &self.reader.load(), now, usage, &self.crypto) {
            Ok(_) => Ok(()),
            Err(rejected) => {
                let error = certificate_error(&rejected);
                handshake::note(rejected);
                Err(Error::InvalidCertificate(error))
            }
        }
    }

    fn verify_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.crypto.provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms)
    }

    /// TLS 1.2 is never negotiated; if it were, its signatures would be checked too.
    fn verify_old_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.crypto.provider().signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.crypto
            .provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl std::fmt::Debug for SpiffeVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpiffeVerifier")
            .field("client_auth", &self.client_auth)
            .finish_non_exhaustive()
    }
}

impl ClientCertVerifier for SpiffeVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.client_auth == ClientAuth::Required
    }

    /// Empty: a client holds one SVID for us, and names of roots would tell strangers about us.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if !self.later {
            self.verify(leaf, intermediates, now, Usage::Client)?;
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_old_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ServerCertVerifier for SpiffeVerifier {
    /// The server's name is not looked at: its SPIFFE ID is its name, and the caller compares it.
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, intermediates, now, Usage::Server)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_old_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

fn unix_time(moment: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(moment.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}
