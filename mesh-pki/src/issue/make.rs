//! Names, keys and lifetimes in, X.509 certificates out: the profiles of what our CAs sign, in one
//! place, so that every CA here signs the same root, the same issuing certificate and the same leaf.
//!
//! No name constraints are written: verifiers without support for URI constraints, rustls among
//! them, refuse every chain that has some. Nothing is decided here.

use std::time::SystemTime;

use ::time::OffsetDateTime;
use data_encoding::HEXLOWER;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, KeyPair, PublicKeyData, SanType, SerialNumber,
    SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use zeroize::Zeroize;

use super::template;
use crate::crypto::{Crypto, CryptoError};
use crate::id::{SpiffeId, TrustDomain};
use crate::svid::PrivateKey;
use crate::time;

/// The key of a CA, wiped when it is dropped.
pub(crate) struct CaKey(KeyPair);

impl CaKey {
    /// A new P-256 key.
    pub(crate) fn generate() -> Result<Self, rcgen::Error> {
        KeyPair::generate().map(Self)
    }

    /// Reads a key that was kept.
    pub(crate) fn read(key: &PrivateKey) -> Result<Self, rcgen::Error> {
        let der = PrivatePkcs8KeyDer::from(key.secret_pkcs8_der());
        KeyPair::try_from(&der).map(Self)
    }

    /// A copy, to be kept.
    pub(crate) fn secret(&self) -> PrivateKey {
        PrivateKey::from_pkcs8_der(self.0.serialize_der())
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

impl Drop for CaKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What a signing certificate says: it may have `below` CAs under it, and names its trust domain.
///
/// Each has a name of its own: during a rotation two roots of one domain stand side by side, and
/// path building tells them apart by name.
pub(crate) fn authority(
    kind: &str,
    trust_domain: &TrustDomain,
    below: u8,
    (from, to): (SystemTime, SystemTime),
    crypto: &Crypto,
) -> Result<CertificateParams, MakeError> {
    let mut tag = [0; 4];
    crypto.fill(&mut tag)?;
    let mut params = template::authority(&format!("inmesh {kind} {}", HEXLOWER.encode(&tag)));
    params.subject_alt_names = vec![uri(&trust_domain.id())?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.serial_number = Some(serial(crypto)?);
    params.not_before = date(from);
    params.not_after = date(to);
    Ok(params)
}

/// What a leaf says.
pub(crate) fn leaf(
    id: &SpiffeId,
    serial: SerialNumber,
    (from, to): (SystemTime, SystemTime),
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = template::leaf(vec![uri(id)?]);
    params.serial_number = Some(serial);
    params.not_before = date(from);
    params.not_after = date(to);
    Ok(params)
}

/// A positive serial of 126 random bits, never shorter (RFC 5280, section 4.1.2.2).
pub(crate) fn serial(crypto: &Crypto) -> Result<SerialNumber, CryptoError> {
    let mut bytes = [0; 16];
    crypto.fill(&mut bytes)?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MakeError {
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    #[error(transparent)]
    Sign(#[from] rcgen::Error),
}

fn uri(id: &SpiffeId) -> Result<SanType, rcgen::Error> {
    Ia5String::try_from(id.as_str()).map(SanType::URI)
}

/// Whole seconds, rounded down; what no certificate can say becomes 1970.
pub(crate) fn date(moment: SystemTime) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(time::to_unix(moment)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
