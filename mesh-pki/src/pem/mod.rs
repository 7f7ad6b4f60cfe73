//! PEM text in, the certificates, lists or the one private key in it out; and back.
//!
//! A text is read as the tools that write it mean it (RFC 7468, sections 2 and 3, in their lax form):
//! sections may be glued to each other or indented, stand behind a byte order mark or a comment, and
//! end their lines in any way. Every section counts, or the text is refused: one with an unknown label, a
//! broken one, or a comment that was meant as a section (`between`), would else make a root or an
//! intermediate vanish without a word. So would a section of a kind that is not read there:
//!
//! | text | what it holds | what may stand beside it |
//! | --- | --- | --- |
//! | roots | certificates | nothing: a list would look as if it were heeded |
//! | revocation lists | lists | nothing |
//! | a request | one request | nothing |
//! | a chain | certificates | its key and what belongs to one, a request, since one file for both is common |
//! | a key | one key | its chain, a request |
//!
//! A message never quotes the content, which may hold a key.

use data_encoding::BASE64;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use zeroize::Zeroizing;

use crate::der;

mod between;
#[cfg(test)]
mod tests;

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";

/// The longest label that is quoted or known.
const MAX_LABEL: usize = 40;

/// Why PEM text could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// A section's content is not base64.
    #[error("PEM: a section is not valid base64")]
    Base64,
    /// The private key is encrypted.
    #[error("PEM: the private key is encrypted (decrypt it with `openssl pkey`)")]
    Encrypted,
    /// The private key is in a form that cannot be read.
    #[error("PEM: the {label} section holds no private key that can be read")]
    KeyForm {
        /// The label of the section.
        label: &'static str,
    },
    /// The text has more than one certificate where one is expected.
    #[error("PEM: {got} certificates, one is expected")]
    ManyCertificates {
        /// How many there are.
        got: usize,
    },
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
    /// A section is of a kind that is not read from such a text.
    #[error(
        "PEM: a {label} section is not read from such a file and would be ignored; take it out"
    )]
    NotReadHere {
        /// Its label.
        label: &'static str,
    },
    /// There is something between the sections that is no text, such as DER or UTF-16.
    #[error("PEM: bytes outside of the sections are no UTF-8 text; convert the file to PEM")]
    NotText,
    /// There is base64 outside of the sections.
    #[error("PEM: base64 outside of a section; put its -----BEGIN and -----END lines around it")]
    Unarmoured,
    /// A section has a label that nothing here is read from, and could be meant to be read.
    #[error(
        "PEM: a {label} section cannot be read; convert it to CERTIFICATE or PRIVATE KEY sections"
    )]
    UnknownLabel {
        /// Its label, cut off.
        label: String,
    },
}

/// What a section holds, by its label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Certificate,
    /// The curve of the key that follows, as OpenSSL writes it.
    Curve,
    Crl,
    EcKey,
    EncryptedKey,
    Key,
    PublicKey,
    Request,
    RsaKey,
}

type CertificatesAndLists = (
    Vec<CertificateDer<'static>>,
    Vec<CertificateRevocationListDer<'static>>,
);

struct Section {
    kind: Kind,
    der: Zeroizing<Vec<u8>>,
}

impl Kind {
    fn of(label: &[u8]) -> Option<Self> {
        Some(match label {
            b"CERTIFICATE" | b"X509 CERTIFICATE" | b"X.509 CERTIFICATE" => Self::Certificate,
            b"CERTIFICATE REQUEST" | b"NEW CERTIFICATE REQUEST" => Self::Request,
            b"EC PARAMETERS" => Self::Curve,
            b"EC PRIVATE KEY" => Self::EcKey,
            b"ENCRYPTED PRIVATE KEY" => Self::EncryptedKey,
            b"PRIVATE KEY" => Self::Key,
            b"PUBLIC KEY" | b"RSA PUBLIC KEY" | b"DH PARAMETERS" => Self::PublicKey,
            b"RSA PRIVATE KEY" => Self::RsaKey,
            b"X509 CRL" => Self::Crl,
            _ => return None,
        })
    }

    /// Its usual label.
    fn label(self) -> &'static str {
        match self {
            Self::Certificate => "CERTIFICATE",
            Self::Crl => "X509 CRL",
            Self::Curve => "EC PARAMETERS",
            Self::EcKey => "EC PRIVATE KEY",
            Self::EncryptedKey => "ENCRYPTED PRIVATE KEY",
            Self::Key => "PRIVATE KEY",
            Self::PublicKey => "PUBLIC KEY",
            Self::Request => "CERTIFICATE REQUEST",
            Self::RsaKey => "RSA PRIVATE KEY",
        }
    }

    /// Whether it may stand beside a chain or a key: one file for both is common, and servers of the web
    /// want parameters there.
    fn beside(self) -> bool {
        self != Self::Crl
    }
}

/// The certificates of a chain in `pem`, in order; at least one. Its key may stand beside it.
///
/// ```
/// assert!(inmesh_pki::read_certificates(b"none").is_err());
/// ```
///
/// # Errors
///
/// [`PemError`] if `pem` has no certificate, a section that cannot be read whole, or a revocation list, which
/// is not heeded there.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let ders = only(
        pem,
        Kind::Certificate,
        Kind::beside,
        PemError::NoCertificate,
    )?;
    Ok(ders.iter().map(certificate).collect())
}

/// All roots in `pem`, in order; at least one, and nothing else.
pub(crate) fn roots(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let ders = only(pem, Kind::Certificate, |_| false, PemError::NoCertificate)?;
    Ok(ders.iter().map(certificate).collect())
}

/// All certificates and revocation lists in `pem`, in order, whatever else is there.
pub(crate) fn certificates_and_lists(pem: &[u8]) -> Result<CertificatesAndLists, PemError> {
    let (mut certificates, mut lists) = (Vec::new(), Vec::new());
    for Section { kind, der } in sections(pem)? {
        match kind {
            Kind::Certificate => certificates.push(certificate(&der)),
            Kind::Crl => lists.push(CertificateRevocationListDer::from(der.to_vec())),
            _ => {}
        }
    }
    Ok((certificates, lists))
}

/// The only certificate in `pem`.
#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
pub(crate) fn one_certificate(pem: &[u8]) -> Result<CertificateDer<'static>, PemError> {
    let mut certs = certificates(pem)?;
    match certs.len() {
        1 => Ok(certs.swap_remove(0)),
        got => Err(PemError::ManyCertificates { got }),
    }
}

/// The one signing request in `pem`.
pub(crate) fn certificate_request(pem: &[u8]) -> Result<Vec<u8>, PemError> {
    match &only(pem, Kind::Request, |_| false, PemError::NoRequest)?[..] {
        [one] => Ok(one.to_vec()),
        _ => Err(PemError::NoRequest),
    }
}

/// All revocation lists in `pem`, in order; at least one, and nothing else.
pub(crate) fn revocation_lists(
    pem: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    let ders = only(pem, Kind::Crl, |_| false, PemError::NoCrl)?;
    let lists = ders.iter().map(|der| der.to_vec().into());
    Ok(lists.collect())
}

/// The one private key in `pem` as PKCS#8, whether it stands there so, as PKCS#1 or as SEC 1. Its chain
/// may stand beside it.
pub(crate) fn private_key(pem: &[u8]) -> Result<Zeroizing<Vec<u8>>, PemError> {
    let sections = sections(pem)?;
    let stray = sections.iter().any(|section| !section.kind.beside());
    let key = key_of(sections)?;
    if stray {
        let label = Kind::Crl.label();
        return Err(PemError::NotReadHere { label });
    }
    Ok(key)
}

/// The same, whatever else is there.
pub(crate) fn key_among(pem: &[u8]) -> Result<Zeroizing<Vec<u8>>, PemError> {
    key_of(sections(pem)?)
}

fn key_of(sections: Vec<Section>) -> Result<Zeroizing<Vec<u8>>, PemError> {
    let mut key = None;
    let mut curve = None;
    for Section { kind, der } in sections {
        match kind {
            Kind::EncryptedKey => return Err(PemError::Encrypted),
            Kind::Key | Kind::RsaKey | Kind::EcKey => {
                if key.replace((kind, der)).is_some() {
                    return Err(PemError::ManyKeys);
                }
            }
            Kind::Curve => curve = Some(der),
            Kind::Certificate | Kind::Crl | Kind::PublicKey | Kind::Request => {}
        }
    }
    let (kind, der) = key.ok_or(PemError::NoKey)?;
    let form = |label| move || PemError::KeyForm { label };
    match kind {
        Kind::RsaKey => der::pkcs8_of_pkcs1(&der).ok_or_else(form("RSA PRIVATE KEY")),
        Kind::EcKey => {
            let curve = curve.as_ref().map(|curve| curve.as_slice());
            der::pkcs8_of_sec1(&der, curve).ok_or_else(form("EC PRIVATE KEY"))
        }
        _ => Ok(der),
    }
}

/// The contents of all sections of `kind`, at least one, else it is `none`; a section of another kind is an
/// error unless it may stand beside them.
fn only(
    pem: &[u8],
    kind: Kind,
    beside: impl Fn(Kind) -> bool,
    none: PemError,
) -> Result<Vec<Zeroizing<Vec<u8>>>, PemError> {
    let (found, others): (Vec<_>, Vec<_>) = sections(pem)?
        .into_iter()
        .partition(|section| section.kind == kind);
    if found.is_empty() {
        return Err(none);
    }
    if let Some(other) = others.iter().find(|other| !beside(other.kind)) {
        let label = other.kind.label();
        return Err(PemError::NotReadHere { label });
    }
    Ok(found.into_iter().map(|section| section.der).collect())
}

fn certificate(der: &Zeroizing<Vec<u8>>) -> CertificateDer<'static> {
    der.to_vec().into()
}

/// Every section, in order.
fn sections(mut pem: &[u8]) -> Result<Vec<Section>, PemError> {
    let mut sections = Vec::new();
    while let Some(at) = find(pem, BEGIN) {
        between::check(&pem[..at])?;
        let (label, rest) = label(&pem[at + BEGIN.len()..])?;
        let end = find(rest, END).ok_or(PemError::Section)?;
        let (content, rest) = (&rest[..end], &rest[end + END.len()..]);
        let (closed, rest) = self::label(rest)?;
        if closed != label || find(content, BEGIN).is_some() {
            return Err(PemError::Section);
        }
        let kind = Kind::of(label).ok_or_else(|| PemError::UnknownLabel {
            label: String::from_utf8_lossy(label).into_owned(),
        })?;
        sections.push(Section {
            kind,
            der: decode(content)?,
        });
        pem = rest;
    }
    between::check(pem)?;
    Ok(sections)
}

/// A label up to its dashes, and what follows them.
fn label(text: &[u8]) -> Result<(&[u8], &[u8]), PemError> {
    let end = find(text, DASHES).ok_or(PemError::Section)?;
    let (label, rest) = (&text[..end], &text[end + DASHES.len()..]);
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b" .".contains(byte);
    if label.is_empty() || label.len() > MAX_LABEL || !label.iter().all(plain) {
        return Err(PemError::Section);
    }
    Ok((label, rest))
}

/// Base64 with any white space between its characters. A header in front of it (RFC 1421) is only
/// written for encrypted keys.
fn decode(content: &[u8]) -> Result<Zeroizing<Vec<u8>>, PemError> {
    if content.contains(&b':') {
        return Err(match find(content, b"ENCRYPTED") {
            Some(_) => PemError::Encrypted,
            None => PemError::Base64,
        });
    }
    let mut text = Zeroizing::new(Vec::with_capacity(content.len()));
    text.extend(content.iter().filter(|byte| !byte.is_ascii_whitespace()));
    if text.is_empty() {
        return Err(PemError::Section);
    }
    let room = BASE64
        .decode_len(text.len())
        .map_err(|_| PemError::Base64)?;
    let mut der = Zeroizing::new(vec![0; room]);
    let written = BASE64
        .decode_mut(&text, &mut der)
        .map_err(|_| PemError::Base64)?;
    der.truncate(written);
    Ok(der)
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
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
