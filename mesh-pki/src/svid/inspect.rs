//! One certificate in, what SPIFFE wants to know of it out: the rules that X.509 path validation
//! does not know. Pure; a parser of its own (x509-parser), so that two have to agree.

use std::time::SystemTime;

use data_encoding::HEXLOWER;
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use super::rejected::{Place, Rejected};
use crate::bundle::serial;
use crate::id::{SpiffeId, parse_bytes};
use crate::time;

/// How much of a hostile URI is quoted.
const QUOTED: usize = 256;

/// What a leaf certificate says of itself; no signature has been looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeafFields {
    pub(crate) id: SpiffeId,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) serial: String,
}

/// Parses a whole certificate, nothing behind it.
pub(crate) fn parse<'a>(
    der: &'a CertificateDer<'_>,
    place: Place,
) -> Result<X509Certificate<'a>, Rejected> {
    match X509Certificate::from_der(der) {
        Ok(([], cert)) => Ok(cert),
        Ok(_) => Err(Rejected::Malformed {
            place,
            what: "bytes after its end",
        }),
        Err(_) => Err(Rejected::Malformed {
            place,
            what: "not an X.509 certificate",
        }),
    }
}

/// Checks a leaf, in this order:
///
/// 1. it is not a CA (S4, S7);
/// 2. its key usage is there, critical, with digitalSignature and nothing that signs certificates
///    or revocation lists (S5, S8);
/// 3. it has exactly one URI name (S1), which is a SPIFFE ID (S2, S12 to S15) with a path (S3);
/// 4. its names are marked critical, if it has no subject that would name it as well (S10).
pub(crate) fn leaf(der: &CertificateDer<'_>) -> Result<LeafFields, Rejected> {
    let cert = parse(der, Place::Leaf)?;
    let malformed = |what| Rejected::Malformed {
        place: Place::Leaf,
        what,
    };

    if is_ca(&cert, Place::Leaf)? {
        return Err(Rejected::LeafIsCa);
    }

    let usage = cert.key_usage().map_err(|_| malformed("key usage"))?;
    let usage = usage.ok_or(Rejected::NoKeyUsage)?;
    if !usage.value.digital_signature() {
        return Err(Rejected::NoDigitalSignature);
    }
    if usage.value.key_cert_sign() {
        return Err(Rejected::LeafMaySign {
            usage: "keyCertSign",
        });
    }
    if usage.value.crl_sign() {
        return Err(Rejected::LeafMaySign { usage: "cRLSign" });
    }
    if !usage.critical {
        return Err(Rejected::KeyUsageNotCritical);
    }

    let names = names(&cert, Place::Leaf)?;
    let uri = match names.uris.as_slice() {
        [] => return Err(Rejected::NoUriSan),
        [uri] => *uri,
        many => return Err(Rejected::ManyUriSans { got: many.len() }),
    };
    let id = parse_bytes(uri.as_bytes()).map_err(|reason| Rejected::BadId {
        got: uri.chars().take(QUOTED).collect(),
        reason,
    })?;
    if id.path().is_empty() {
        return Err(Rejected::NoPath {
            trust_domain: id.trust_domain().clone(),
        });
    }
    if !names.critical && cert.subject().iter().next().is_none() {
        return Err(Rejected::SanNotCritical);
    }

    Ok(LeafFields {
        id,
        not_before: time::from_unix(cert.validity().not_before.timestamp()),
        not_after: time::from_unix(cert.validity().not_after.timestamp()),
        serial: serial(&cert),
    })
}

/// Checks that an intermediate may sign: cA and keyCertSign are set (S11).
///
/// The ID in it, if it has one, is returned: it must not have a path.
pub(crate) fn signing(der: &CertificateDer<'_>) -> Result<Option<SpiffeId>, Rejected> {
    let cert = parse(der, Place::Intermediate)?;
    if !is_ca(&cert, Place::Intermediate)? {
        return Err(Rejected::IssuerMayNotSign { missing: "cA" });
    }
    let usage = cert.key_usage().map_err(|_| Rejected::Malformed {
        place: Place::Intermediate,
        what: "key usage",
    })?;
    if !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
        return Err(Rejected::IssuerMayNotSign {
            missing: "keyCertSign",
        });
    }
    let ids = names(&cert, Place::Intermediate)?;
    Ok(ids.uris.iter().find_map(|uri| {
        parse_bytes(uri.as_bytes())
            .ok()
            .filter(|id| !id.path().is_empty())
    }))
}

/// The validity of a certificate above a leaf, and its key.
pub(crate) struct Validity {
    pub(crate) key_id: Option<String>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// Reads the life of a certificate above a leaf; `None` if it cannot be read.
pub(crate) fn life(der: &CertificateDer<'_>) -> Option<Validity> {
    let cert = parse(der, Place::Intermediate).ok()?;
    Some(Validity {
        key_id: crate::bundle::subject_key_id(&cert),
        not_before: time::from_unix(cert.validity().not_before.timestamp()),
        not_after: time::from_unix(cert.validity().not_after.timestamp()),
    })
}

/// A CA certificate, as revocation lists ask for it.
pub(crate) struct CrlSigner {
    /// Its subject key identifier in hexadecimal.
    pub(crate) key_id: Option<String>,
    /// Whether its key usage has cRLSign; one without a key usage may do anything.
    pub(crate) may_sign: bool,
}

/// Reads from a CA certificate what revocation lists ask for; one that cannot be read signs none.
pub(crate) fn crl_signer(der: &CertificateDer<'_>) -> CrlSigner {
    let Ok(cert) = parse(der, Place::Intermediate) else {
        return CrlSigner {
            key_id: None,
            may_sign: false,
        };
    };
    let may_sign = match cert.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.crl_sign()),
        Err(_) => false,
    };
    CrlSigner {
        key_id: crate::bundle::subject_key_id(&cert),
        may_sign,
    }
}

/// The trust domain that a CA certificate names as its one URI.
pub(crate) fn trust_domain_of_ca(der: &CertificateDer<'_>) -> Option<crate::id::TrustDomain> {
    let cert = parse(der, Place::Root).ok()?;
    let [uri] = names(&cert, Place::Root).ok()?.uris[..] else {
        return None;
    };
    let id = parse_bytes(uri.as_bytes()).ok()?;
    id.path().is_empty().then(|| id.trust_domain().clone())
}

/// Whether a leaf has a URI among its names.
pub(crate) fn has_uri(leaf: &CertificateDer<'_>, uri: &str) -> bool {
    let cert = parse(leaf, Place::Leaf).ok();
    let names = cert.as_ref().and_then(|cert| names(cert, Place::Leaf).ok());
    names.is_some_and(|names| names.uris.contains(&uri))
}

/// Subject and authority key identifier of a certificate, in hexadecimal; absent ones are `None`.
pub(crate) fn key_ids(der: &CertificateDer<'_>) -> (Option<String>, Option<String>) {
    let Ok(cert) = parse(der, Place::Intermediate) else {
        return (None, None);
    };
    let authority = cert
        .extensions()
        .iter()
        .find_map(|e| match e.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(aki) => {
                aki.key_identifier.as_ref().map(|id| HEXLOWER.encode(id.0))
            }
            _ => None,
        });
    (crate::bundle::subject_key_id(&cert), authority)
}

pub(super) fn is_ca(cert: &X509Certificate<'_>, place: Place) -> Result<bool, Rejected> {
    let oid = x509_parser::oid_registry::OID_X509_EXT_BASIC_CONSTRAINTS;
    let what = "basic constraints";
    let found = cert
        .get_extension_unique(&oid)
        .map_err(|_| Rejected::Malformed { place, what })?;
    match found.map(|extension| extension.parsed_extension()) {
        None => Ok(false),
        Some(ParsedExtension::BasicConstraints(constraints)) => Ok(constraints.ca),
        // One that is there but cannot be read must not count as "no CA".
        Some(_) => Err(Rejected::Malformed { place, what }),
    }
}

/// The URIs among the subject alternative names.
struct Names<'a> {
    uris: Vec<&'a str>,
    critical: bool,
}

fn names<'a>(cert: &'a X509Certificate<'a>, place: Place) -> Result<Names<'a>, Rejected> {
    let what = "subject alternative name";
    let names = cert
        .subject_alternative_name()
        .map_err(|_| Rejected::Malformed { place, what })?;
    let mut uris = Vec::new();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            // It may be a URI that another parser would read.
            GeneralName::Invalid(..) => return Err(Rejected::Malformed { place, what }),
            _ => {}
        }
    }
    Ok(Names {
        uris,
        critical: names.is_some_and(|names| names.critical),
    })
}
