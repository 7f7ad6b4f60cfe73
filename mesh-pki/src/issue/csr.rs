//! Bytes of a PKCS#10 request in, its public key with proof that the sender has the private key
//! out; and the other way round, a new key with its request (RFC 2986).
//!
//! Nothing but the public key is taken from a request: names and extensions in it are what the
//! sender wishes to be, and are neither read nor able to make a request fail.

use rustls_pki_types::{CertificateSigningRequestDer, SubjectPublicKeyInfoDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::crypto::Crypto;
use crate::pem;
use crate::signed::{SignatureError, Signed};

/// The largest request that is looked at, in bytes.
pub const MAX_CSR_LEN: usize = 16 * 1024;

/// A signing request whose signature has been verified with the public key in it.
#[derive(Debug, Clone)]
pub struct Csr {
    der: CertificateSigningRequestDer<'static>,
    public_key: SubjectPublicKeyInfoDer<'static>,
}

/// Why a signing request is refused, or could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrError {
    /// The signature does not verify: the sender does not have the private key.
    #[error("the signing request is not signed with the key that it contains")]
    BadSignature,
    /// No key or request could be made.
    #[error("a key and a signing request could not be made: {reason}")]
    Generate {
        /// What the signing library says.
        reason: String,
    },
    /// The bytes are not one PKCS#10 request.
    #[error("not a PKCS#10 signing request")]
    Malformed,
    /// The request is larger than [`MAX_CSR_LEN`].
    #[error("the signing request has {got} bytes, at most {MAX_CSR_LEN} are looked at")]
    TooLarge {
        /// How large it is.
        got: usize,
    },
    /// The key or the signature is of a kind that the crypto provider does not have.
    #[error("the signing request has a key or signature of an unsupported kind")]
    Unsupported,
}

impl Csr {
    /// Reads a request and verifies that it is signed with the key in it.
    ///
    /// # Errors
    ///
    /// [`CsrError`] for anything else.
    pub fn from_der(der: &[u8], crypto: &Crypto) -> Result<Self, CsrError> {
        if der.len() > MAX_CSR_LEN {
            return Err(CsrError::TooLarge { got: der.len() });
        }
        let Ok(([], request)) = X509CertificationRequest::from_der(der) else {
            return Err(CsrError::Malformed);
        };
        let info = &request.certification_request_info;
        let public_key = SubjectPublicKeyInfoDer::from(info.subject_pki.raw.to_vec());
        let signed = Signed::parse(der).ok_or(CsrError::Malformed)?;
        signed
            .verify(&public_key, crypto)
            .map_err(|error| match error {
                SignatureError::Bad => CsrError::BadSignature,
                SignatureError::Key => CsrError::Malformed,
                SignatureError::Unsupported => CsrError::Unsupported,
            })?;
        Ok(Self {
            der: CertificateSigningRequestDer::from(der.to_vec()),
            public_key,
        })
    }

    /// The same of PEM text with exactly one request.
    ///
    /// # Errors
    ///
    /// [`CsrError`]; text that is no such PEM is [`CsrError::Malformed`].
    pub fn from_pem(text: &[u8], crypto: &Crypto) -> Result<Self, CsrError> {
        let der = pem::certificate_request(text).map_err(|_| CsrError::Malformed)?;
        Self::from_der(&der, crypto)
    }

    /// The request as DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The request as PEM text.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let mut text = String::new();
        pem::encode(&mut text, "CERTIFICATE REQUEST", &self.der);
        text
    }

    /// The public key, as SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn public_key_der(&self) -> &[u8] {
        &self.public_key
    }
}

#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
mod generate {
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
    use zeroize::Zeroize;

    use super::{Crypto, Csr, CsrError};
    use crate::id::SpiffeId;
    use crate::svid::PrivateKey;

    /// Makes a P-256 key and a request for `id`.
    ///
    /// The ID stands in the request as a courtesy to CAs that look for it; ours does not.
    ///
    /// # Errors
    ///
    /// [`CsrError::Generate`] if the system cannot make a key.
    pub fn generate(id: &SpiffeId, crypto: &Crypto) -> Result<(PrivateKey, Csr), CsrError> {
        let failed = |error: rcgen::Error| CsrError::Generate {
            reason: error.to_string(),
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(
            Ia5String::try_from(id.as_str()).map_err(failed)?,
        )];
        let mut pair = KeyPair::generate().map_err(failed)?;
        let key = PrivateKey::from_pkcs8_der(pair.serialize_der());
        let request = params.serialize_request(&pair).map_err(failed);
        pair.zeroize();
        let csr = Csr::from_der(request?.der(), crypto)?;
        Ok((key, csr))
    }
}

#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
pub use generate::generate;
