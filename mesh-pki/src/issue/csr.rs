//! Bytes of a PKCS#10 request in, its public key with proof that the sender has the private key
//! out; and the other way round, a new key with its request (RFC 2986).
//!
//! Nothing but the public key is taken from a request: names and extensions in it are what the
//! sender wishes to be, and are neither read nor able to make a request fail.

use rustls_pki_types::{CertificateSigningRequestDer, SubjectPublicKeyInfoDer};
use webpki::RawPublicKeyEntity;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::pem;
use crate::tls::Crypto;

/// The largest request that is looked at, in bytes.
pub const MAX_CSR_LEN: usize = 16 * 1024;

/// A signing request whose signature has been verified with the public key in it.
#[derive(Clone, Debug)]
pub struct Csr {
    der: CertificateSigningRequestDer<'static>,
    public_key: SubjectPublicKeyInfoDer<'static>,
}

/// Why a signing request is refused, or could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
        verify(&request, &public_key, crypto)?;
        Ok(Self {
            der: CertificateSigningRequestDer::from(der.to_vec()),
            public_key,
        })
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

/// Tries each algorithm that the provider has under the identifier that the request names: a curve
/// and a hash make one each, and the identifier names only the hash.
fn verify(
    request: &X509CertificationRequest<'_>,
    public_key: &SubjectPublicKeyInfoDer<'_>,
    crypto: &Crypto,
) -> Result<(), CsrError> {
    let key = RawPublicKeyEntity::try_from(public_key).map_err(|_| CsrError::Malformed)?;
    let message = request.certification_request_info.raw;
    let signature = request.signature_value.data.as_ref();
    let wanted = algorithm_id(request)?;
    let mut result = Err(CsrError::Unsupported);
    for algorithm in crypto.signature_algorithms() {
        if algorithm.signature_alg_id().as_ref() != wanted {
            continue;
        }
        match key.verify_signature(*algorithm, message, signature) {
            Ok(()) => return Ok(()),
            Err(webpki::Error::InvalidSignatureForPublicKey) => {
                result = Err(CsrError::BadSignature);
            }
            // Another curve with the same hash.
            Err(_) => {}
        }
    }
    result
}

/// The content of the AlgorithmIdentifier between the request's body and its signature.
fn algorithm_id<'a>(request: &X509CertificationRequest<'a>) -> Result<&'a [u8], CsrError> {
    // A request is a SEQUENCE of body, algorithm and signature; the parser keeps no raw bytes of
    // the second, so it is cut out behind the first.
    let outer = content(request.as_raw()).ok_or(CsrError::Malformed)?;
    let body = request.certification_request_info.raw.len();
    let rest = outer.get(body..).ok_or(CsrError::Malformed)?;
    content(rest).ok_or(CsrError::Malformed)
}

/// The content of the SEQUENCE that `der` begins with.
fn content(der: &[u8]) -> Option<&[u8]> {
    let (0x30, rest) = der.split_first().map(|(tag, rest)| (*tag, rest))? else {
        return None;
    };
    let (first, rest) = rest.split_first()?;
    let (len, rest) = match usize::from(*first) {
        short @ 0..=0x7f => (short, rest),
        0x81 => rest
            .split_first()
            .map(|(len, rest)| (usize::from(*len), rest))?,
        0x82 => {
            let (len, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*len)), rest)
        }
        _ => return None,
    };
    rest.get(..len)
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
