//! PEM text in, the certificates or the one private key in it out; and back.
//! Sections of other kinds are skipped, broken ones are errors; a message never quotes the input,
//! which may hold a key.

use data_encoding::BASE64;
use rustls_pki_types::pem::{Error as PkiError, PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use zeroize::Zeroizing;

/// Why PEM text could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// A section's content is not base64.
    #[error("PEM: a section is not valid base64")]
    Base64,
    /// The text has more than one private key, so that it is unclear which is meant.
    #[error("PEM: more than one private key")]
    ManyKeys,
    /// A section has a malformed first line, or no last line.
    #[error("PEM: a section does not begin or end as it should")]
    Section,
    /// There is no certificate in the text.
    #[error("PEM: no CERTIFICATE section")]
    NoCertificate,
    /// There is no revocation list in the text.
    #[error("PEM: no X509 CRL section")]
    NoCrl,
    /// There is no private key in the text.
    #[error("PEM: no PRIVATE KEY section")]
    NoKey,
    /// There is not exactly one signing request in the text.
    #[error("PEM: not exactly one CERTIFICATE REQUEST section")]
    NoRequest,
    /// The private key is in another form than PKCS#8.
    #[error(
        "PEM: found {label}, expected an unencrypted PKCS#8 PRIVATE KEY (convert it with `openssl pkcs8 -topk8 -nocrypt`)"
    )]
    KeyForm {
        /// The label of the section that was found.
        label: &'static str,
    },
    /// A section is larger than anything that belongs here.
    #[error("PEM: a section is too large")]
    TooLarge,
}

impl From<PkiError> for PemError {
    fn from(error: PkiError) -> Self {
        match error {
            PkiError::Base64Decode(_) => Self::Base64,
            PkiError::SectionTooLarge => Self::TooLarge,
            _ => Self::Section,
        }
    }
}

/// All certificates in `pem`, in order; at least one.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let certs = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    if certs.is_empty() {
        return Err(PemError::NoCertificate);
    }
    Ok(certs)
}

/// The one signing request in `pem`.
#[cfg(all(feature = "ca-server", any(feature = "aws-lc-rs", feature = "ring")))]
pub(crate) fn certificate_request(pem: &[u8]) -> Result<Vec<u8>, PemError> {
    use rustls_pki_types::CertificateSigningRequestDer as Request;
    let requests = Request::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    match &requests[..] {
        [one] => Ok(one.to_vec()),
        _ => Err(PemError::NoRequest),
    }
}

/// All revocation lists in `pem`, in order; at least one.
pub(crate) fn revocation_lists(
    pem: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    let lists = CertificateRevocationListDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    if lists.is_empty() {
        return Err(PemError::NoCrl);
    }
    Ok(lists)
}

/// The one PKCS#8 private key in `pem`.
pub(crate) fn private_key(pem: &[u8]) -> Result<Zeroizing<Vec<u8>>, PemError> {
    let mut key = None;
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let (kind, der) = section?;
        let der = Zeroizing::new(der);
        match kind {
            SectionKind::PrivateKey if key.is_some() => return Err(PemError::ManyKeys),
            SectionKind::PrivateKey => key = Some(der),
            SectionKind::RsaPrivateKey => {
                return Err(PemError::KeyForm {
                    label: "RSA PRIVATE KEY",
                });
            }
            SectionKind::EcPrivateKey => {
                return Err(PemError::KeyForm {
                    label: "EC PRIVATE KEY",
                });
            }
            _ => {}
        }
    }
    key.ok_or(PemError::NoKey)
}

/// The one private key in `pem`, in any of the forms that programs for certificates of the web
/// write: PKCS#8, PKCS#1 and SEC 1.
#[cfg(feature = "federation")]
pub(crate) fn any_private_key(
    pem: &[u8],
) -> Result<rustls_pki_types::PrivateKeyDer<'static>, PemError> {
    use rustls_pki_types::{
        PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
    };
    let mut key = None;
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let (kind, der) = section?;
        let der = Zeroizing::new(der);
        match kind {
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                if key.is_some() {
                    return Err(PemError::ManyKeys);
                }
                key = Some((kind, der));
            }
            _ => {}
        }
    }
    let (kind, der) = key.ok_or(PemError::NoKey)?;
    // rustls wipes what it is given once it has read it.
    Ok(match kind {
        SectionKind::RsaPrivateKey => PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(der.to_vec())),
        SectionKind::EcPrivateKey => PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(der.to_vec())),
        _ => PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.to_vec())),
    })
}

/// Appends `der` to `out` as a PEM section with `label`.
pub(crate) fn encode(out: &mut String, label: &str, der: &[u8]) {
    // The exact capacity matters for keys: a string that grows leaves copies behind in the heap.
    let body = der.len().div_ceil(3) * 4;
    out.reserve(2 * (label.len() + 20) + body + body.div_ceil(64));
    out.push_str("-----BEGIN ");
    out.push_str(label);
    out.push_str("-----\n");
    // 48 bytes are 64 characters, the line length of RFC 7468.
    for line in der.chunks(48) {
        BASE64.encode_append(line, out);
        out.push('\n');
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
}

/// The certificates as PEM text, in order.
pub(crate) fn encode_certificates<'a>(
    certs: impl IntoIterator<Item = &'a CertificateDer<'a>>,
) -> String {
    let mut out = String::new();
    for cert in certs {
        encode(&mut out, "CERTIFICATE", cert);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_reads_back(der in proptest::collection::vec(any::<u8>(), 1..300)) {
            let mut text = String::new();
            encode(&mut text, "PRIVATE KEY", &der);
            prop_assert!(text.lines().all(|line| line.len() <= 64));
            prop_assert_eq!(&*private_key(text.as_bytes()).unwrap(), &der);
        }
    }

    #[test]
    fn a_sec1_key_is_named_in_the_error() {
        let mut text = String::new();
        encode(&mut text, "EC PRIVATE KEY", b"0");
        assert_eq!(
            private_key(text.as_bytes()),
            Err(PemError::KeyForm {
                label: "EC PRIVATE KEY"
            })
        );
    }

    #[test]
    fn two_keys_are_ambiguous() {
        let mut text = String::new();
        encode(&mut text, "PRIVATE KEY", b"0");
        encode(&mut text, "PRIVATE KEY", b"1");
        assert_eq!(private_key(text.as_bytes()), Err(PemError::ManyKeys));
    }
}
