//! PEM text in, the certificates, lists or the one private key in it out; and back.
//!
//! A text is read as the tools that write it mean it (RFC 7468, sections 2 and 3, in their lax form):
//! sections may be glued to each other or indented, stand behind a byte order mark or a comment, and
//! end their lines in any way. Every section counts, or the text is refused: one with an unknown label, a
//! broken one, or something that looks like the begin or end of a section and is not, would else make a
//! root or an intermediate vanish without a word. A message never quotes the content, which may hold a
//! key.

use data_encoding::BASE64;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use zeroize::Zeroizing;

use crate::der;

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
}

/// All certificates in `pem`, in order; at least one.
///
/// ```
/// assert!(inmesh_pki::read_certificates(b"none").is_err());
/// ```
///
/// # Errors
///
/// [`PemError`] if there is none, or a section that cannot be read whole.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let certs: Vec<_> = all(pem, Kind::Certificate)?
        .into_iter()
        .map(|der| CertificateDer::from(der.to_vec()))
        .collect();
    if certs.is_empty() {
        return Err(PemError::NoCertificate);
    }
    Ok(certs)
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
#[cfg(all(feature = "ca-server", any(feature = "aws-lc-rs", feature = "ring")))]
pub(crate) fn certificate_request(pem: &[u8]) -> Result<Vec<u8>, PemError> {
    match &all(pem, Kind::Request)?[..] {
        [one] => Ok(one.to_vec()),
        _ => Err(PemError::NoRequest),
    }
}

/// All revocation lists in `pem`, in order; at least one.
pub(crate) fn revocation_lists(
    pem: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    let lists: Vec<_> = all(pem, Kind::Crl)?
        .into_iter()
        .map(|der| CertificateRevocationListDer::from(der.to_vec()))
        .collect();
    if lists.is_empty() {
        return Err(PemError::NoCrl);
    }
    Ok(lists)
}

/// The one private key in `pem` as PKCS#8, whether it stands there so, as PKCS#1 or as SEC 1.
pub(crate) fn private_key(pem: &[u8]) -> Result<Zeroizing<Vec<u8>>, PemError> {
    let mut key = None;
    let mut curve = None;
    for Section { kind, der } in sections(pem)? {
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

/// The contents of all sections of `kind`; those of other kinds that are known are passed over.
fn all(pem: &[u8], kind: Kind) -> Result<Vec<Zeroizing<Vec<u8>>>, PemError> {
    let sections = sections(pem)?.into_iter();
    Ok(sections
        .filter(|section| section.kind == kind)
        .map(|section| section.der)
        .collect())
}

/// Every section, in order.
fn sections(mut pem: &[u8]) -> Result<Vec<Section>, PemError> {
    let mut sections = Vec::new();
    while let Some(at) = find(pem, BEGIN) {
        no_marker(&pem[..at])?;
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
    no_marker(pem)?;
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

/// Text between sections is a comment, unless it looks like the begin or the end of one.
fn no_marker(text: &[u8]) -> Result<(), PemError> {
    for at in 0..text.len() {
        let Some(rest) = text[at..].strip_prefix(b"--") else {
            continue;
        };
        let word = rest.trim_ascii_start();
        let is = |name: &[u8]| {
            word.get(..name.len())
                .is_some_and(|found| found.eq_ignore_ascii_case(name))
        };
        if is(b"BEGIN") || is(b"END") {
            return Err(PemError::Section);
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn section(label: &str, der: &[u8]) -> String {
        let mut text = String::new();
        encode(&mut text, label, der);
        text
    }

    proptest! {
        #[test]
        fn what_is_encoded_reads_back(der in proptest::collection::vec(any::<u8>(), 1..300)) {
            let text = section("PRIVATE KEY", &der);
            prop_assert!(text.lines().all(|line| line.len() <= 64));
            prop_assert_eq!(&*private_key(text.as_bytes()).unwrap(), &der);
        }

        #[test]
        fn no_text_is_too_strange(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (certificates(&text), private_key(&text), revocation_lists(&text));
        }
    }

    /// Two certificates, one after the other, as tools and people write them.
    #[test]
    fn every_section_counts_however_it_is_written() {
        let [one, two] = [b"one one one", b"two two two"].map(|der| section("CERTIFICATE", der));
        let indented =
            |text: &str| -> String { text.lines().map(|line| format!("  \t{line}  \n")).collect() };
        let joined = one.lines().collect::<String>();
        for text in [
            format!("{one}{two}"),
            format!("{}{two}", one.trim_end()),
            format!("\u{feff}{one}{two}"),
            format!("{one}\u{feff}{two}"),
            format!("{}{}", indented(&one), indented(&two)),
            format!("{one}{two}").replace('\n', "\r\n"),
            format!("{one}{two}").replace('\n', "\r"),
            format!("{joined} {two}"),
            format!("subject=CN = one\n-- \n{one}# two - the other\n\n{two}\n\n"),
            format!("{one}{two}").replace("CERTIFICATE", "X509 CERTIFICATE"),
            format!("{}{one}{two}", section("PRIVATE KEY", b"key")),
            format!("{one}{}{two}", section("X509 CRL", b"list")),
            format!("{one}{}{two}", section("CERTIFICATE REQUEST", b"request")),
        ] {
            let certs = certificates(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}"));
            let certs: Vec<&[u8]> = certs.iter().map(|cert| cert.as_ref()).collect();
            assert_eq!(certs, [b"one one one", b"two two two"], "{text}");
        }
    }

    #[test]
    fn what_could_vanish_is_refused() {
        let good = section("CERTIFICATE", b"good");
        let label = |label: &str| PemError::UnknownLabel {
            label: label.to_owned(),
        };
        for (bad, error) in [
            (
                section("TRUSTED CERTIFICATE", b"x"),
                label("TRUSTED CERTIFICATE"),
            ),
            (section("PKCS7", b"x"), label("PKCS7")),
            (section("certificate", b"x"), label("certificate")),
            (section("CERTIFICATE", b""), PemError::Section),
            (good.replace("-----BEGIN", "----BEGIN"), PemError::Section),
            (
                good.replace("-----BEGIN ", "----- BEGIN "),
                PemError::Section,
            ),
            (good.replace("BEGIN", "Begin"), PemError::Section),
            (good.replace("-----END", "----END"), PemError::Section),
            (
                good.replace("END CERTIFICATE", "END X509 CRL"),
                PemError::Section,
            ),
            (good.replace("Z29v", "Z2#v"), PemError::Base64),
            (good.replace("Z29v", "Z2=v"), PemError::Base64),
            (good[..good.len() - 9].to_owned(), PemError::Section),
            (good[..30].to_owned(), PemError::Section),
            ("-----END CERTIFICATE-----\n".to_owned(), PemError::Section),
            (
                format!("-----BEGIN {}-----", "A".repeat(99)),
                PemError::Section,
            ),
        ] {
            for text in [format!("{good}{bad}"), format!("{bad}{good}")] {
                assert_eq!(
                    certificates(text.as_bytes()).as_ref(),
                    Err(&error),
                    "{text}"
                );
                assert_eq!(private_key(text.as_bytes()), Err(error.clone()), "{text}");
                assert_eq!(
                    revocation_lists(text.as_bytes()),
                    Err(error.clone()),
                    "{text}"
                );
            }
        }
        assert_eq!(certificates(b"\xff\xfe-\0"), Err(PemError::NoCertificate));
        assert_eq!(certificates(b""), Err(PemError::NoCertificate));
        assert_eq!(revocation_lists(good.as_bytes()), Err(PemError::NoCrl));
        assert_eq!(private_key(good.as_bytes()), Err(PemError::NoKey));
    }

    #[test]
    fn encrypted_broken_and_several_keys_are_refused() {
        let plain = section("PRIVATE KEY", b"0");
        let header = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\
             DEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        for (text, error) in [
            (section("ENCRYPTED PRIVATE KEY", b"0"), PemError::Encrypted),
            (header.to_owned(), PemError::Encrypted),
            (format!("{plain}{plain}"), PemError::ManyKeys),
            (
                format!("{plain}{}", section("EC PRIVATE KEY", b"0")),
                PemError::ManyKeys,
            ),
            (
                section("EC PRIVATE KEY", b"0"),
                PemError::KeyForm {
                    label: "EC PRIVATE KEY",
                },
            ),
            (
                section("RSA PRIVATE KEY", b"0"),
                PemError::KeyForm {
                    label: "RSA PRIVATE KEY",
                },
            ),
        ] {
            assert_eq!(private_key(text.as_bytes()), Err(error), "{text}");
        }
    }

    #[cfg(feature = "aws-lc-rs")]
    #[test]
    fn pkcs1_keys_become_pkcs8() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let pkcs8 = pair.serialize_der();
        let pkcs1 = der::tests::key_of_pkcs8(&pkcs8);
        let text = section("RSA PRIVATE KEY", &pkcs1);
        assert_eq!(*private_key(text.as_bytes()).unwrap(), pkcs8);
    }

    /// The same key in each form that OpenSSL writes is the same key here.
    #[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
    #[test]
    fn sec1_keys_become_pkcs8() {
        let pair = rcgen::KeyPair::generate().unwrap();
        let pkcs8 = pair.serialize_der();
        let (curve, sec1) = der::tests::parts_of_ec_pkcs8(&pkcs8);
        // As PKCS#8 holds it, without its curve, and as a file of its own does, with it.
        let with_curve = der::tests::with_curve(&sec1, &curve);
        for text in [
            section("EC PRIVATE KEY", &with_curve),
            section("EC PARAMETERS", &curve) + &section("EC PRIVATE KEY", &with_curve),
            section("EC PARAMETERS", &curve) + &section("EC PRIVATE KEY", &sec1),
        ] {
            let key = crate::svid::PrivateKey::from_pem(text.as_bytes()).unwrap();
            let read = crate::issue::make::CaKey::read(&key).unwrap();
            use rcgen::PublicKeyData;
            assert_eq!(read.der_bytes(), pair.der_bytes());
        }
        let lost = section("EC PRIVATE KEY", &sec1);
        assert!(private_key(lost.as_bytes()).is_err(), "no curve");
    }
}
