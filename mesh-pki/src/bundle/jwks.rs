//! SPIFFE bundle JSON in, bundles out, and back (SPIFFE_Trust_Domain_and_Bundle.md, sections 4, 5).
//!
//! The trust domain is an argument and never read from the document (S26). A key of an unknown type
//! or use is passed over (S16), and so is an X.509 key without certificate (S17).
//!
//! A broken key for JWT-SVIDs is left out with a warning, and the rest of the document counts: only the
//! tokens of that key are refused (RFC 7517, section 5). So is one without an id, and each of several with
//! one id. A broken root makes the whole document an error, so that the bundle before it stays: without it
//! every peer under that root would be refused, and a distrusted domain looks the same. What is left out
//! says nothing of the sequence number: the document counts as taken, and a later one under the same
//! number, with the key repaired, replaces it.
//!
//! A document whose keys are all passed over, or that has none, distrusts the domain (S18). The member
//! `inmesh_distrusted_keys` is ours: ids of root keys that are compromised, which others pass over
//! (section 4.1), since the root itself is gone from the document.

use std::time::Duration;

use data_encoding::BASE64;
use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::{Map, Value};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::{BundleError, BundleSet, Root, TrustBundle};
use crate::id::TrustDomain;
use crate::json::Unique;
use crate::jwt::{KeyReader, KeySetError, LeftOut, PublicKey};

/// The longest bundle document that is looked at, in bytes.
pub const MAX_BUNDLE_LEN: usize = 1024 * 1024;

/// The longest bundle map that is looked at, in bytes.
pub const MAX_MAP_LEN: usize = 16 * 1024 * 1024;

/// The most keys of all kinds in one document, those that are passed over included.
pub const MAX_KEYS: usize = 256;

/// The most distrusted keys that one document may name.
pub const MAX_DISTRUSTED_KEYS: usize = 1_024;

/// The content of `use` for roots and for the keys of JWT-SVIDs.
const X509_SVID: &str = "x509-svid";
const JWT_SVID: &str = "jwt-svid";

/// Why a document is no bundle, or a bundle no document; `index` counts keys from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleJsonError {
    /// The roots in it cannot be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A certificate in it is not base64 text.
    #[error("the first x5c of key {index} in the bundle of {trust_domain} is not base64")]
    Certificate {
        /// The trust domain of the bundle.
        trust_domain: TrustDomain,
        /// Which key.
        index: usize,
    },
    /// There are too many keys for JWT-SVIDs in it.
    #[error("the keys for JWT-SVIDs in the bundle of {trust_domain} cannot be used")]
    JwtKeys {
        /// The trust domain of the bundle.
        trust_domain: TrustDomain,
        /// What is wrong with them.
        #[source]
        source: KeySetError,
    },
    /// A root's key is of a kind that JWKs cannot say.
    #[error("root {index} of the bundle of {trust_domain} has a key that no JWK can hold")]
    Key {
        /// The trust domain of the bundle.
        trust_domain: TrustDomain,
        /// Which root.
        index: usize,
    },
    /// The text is not JSON of the right shape; the name of a trust domain that stands twice in a
    /// map is one cause (S20).
    #[error("not a SPIFFE bundle: {reason}")]
    NotABundle {
        /// What is wrong, and where.
        reason: String,
    },
    /// The document is longer than is looked at.
    #[error("the document has {got} bytes, at most {max} are looked at")]
    TooLarge {
        /// How long it is.
        got: usize,
        /// How long it may be.
        max: usize,
    },
    /// There are more distrusted keys than [`MAX_DISTRUSTED_KEYS`].
    #[error(
        "the bundle of {trust_domain} distrusts {got} keys, at most {MAX_DISTRUSTED_KEYS} are \
         looked at"
    )]
    TooManyDistrustedKeys {
        /// The trust domain of the bundle.
        trust_domain: TrustDomain,
        /// How many there are.
        got: usize,
    },
    /// There are more keys than [`MAX_KEYS`].
    #[error("the bundle of {trust_domain} has {got} keys, at most {MAX_KEYS} are looked at")]
    TooManyKeys {
        /// The trust domain of the bundle.
        trust_domain: TrustDomain,
        /// How many there are.
        got: usize,
    },
}

/// A bundle as it stands in JSON; what else stands there is passed over.
#[derive(Deserialize)]
struct BundleDocument {
    keys: Vec<Map<String, Value>>,
    spiffe_sequence: Option<u64>,
    spiffe_refresh_hint: Option<u64>,
    #[serde(default)]
    inmesh_distrusted_keys: Vec<String>,
}

/// A bundle map as it stands in JSON.
#[derive(Deserialize)]
struct Domains {
    trust_domains: Unique<BundleDocument>,
}

impl TrustBundle {
    /// Reads the bundle of `trust_domain` from SPIFFE bundle JSON.
    ///
    /// A key for JWT-SVIDs that cannot be used is left out with a warning; it is not written again either.
    ///
    /// # Errors
    ///
    /// [`BundleJsonError`] for text that is no such document, or a root that is broken.
    pub fn from_json(trust_domain: TrustDomain, json: &[u8]) -> Result<Self, BundleJsonError> {
        bounded(json, MAX_BUNDLE_LEN)?;
        let document = serde_json::from_slice(json).map_err(not_a_bundle)?;
        from_document(trust_domain, document)
    }

    /// The bundle as SPIFFE bundle JSON.
    ///
    /// # Errors
    ///
    /// [`BundleJsonError::Key`] for a root whose key is neither RSA nor on a NIST curve.
    pub fn to_json(&self) -> Result<String, BundleJsonError> {
        Ok(Value::Object(to_document(self)?).to_string())
    }
}

impl BundleSet {
    /// Reads a SPIFFE bundle map; refresh hints of single bundles in it count for nothing (S20).
    ///
    /// # Errors
    ///
    /// [`BundleJsonError`] for the first bundle that cannot be read: a map is taken whole.
    pub fn from_json(json: &[u8]) -> Result<Self, BundleJsonError> {
        bounded(json, MAX_MAP_LEN)?;
        let map: Domains = serde_json::from_slice(json).map_err(not_a_bundle)?;
        let bundles = map.trust_domains.0.into_iter().map(|(name, document)| {
            let trust_domain: TrustDomain =
                name.parse().map_err(|error| BundleJsonError::NotABundle {
                    reason: format!("a name in trust_domains is not a trust domain: {error}"),
                })?;
            let mut bundle = from_document(trust_domain, document)?;
            bundle.refresh_hint = None;
            Ok(bundle)
        });
        bundles.collect()
    }

    /// The bundles as a SPIFFE bundle map.
    ///
    /// # Errors
    ///
    /// As [`TrustBundle::to_json`].
    pub fn to_json(&self) -> Result<String, BundleJsonError> {
        let mut domains = Map::new();
        for bundle in self.iter() {
            let mut document = to_document(bundle)?;
            document.remove("spiffe_refresh_hint");
            domains.insert(bundle.trust_domain().to_string(), document.into());
        }
        let map = Map::from_iter([("trust_domains".to_owned(), Value::from(domains))]);
        Ok(Value::from(map).to_string())
    }
}

fn bounded(json: &[u8], max: usize) -> Result<(), BundleJsonError> {
    let got = json.len();
    if got > max {
        return Err(BundleJsonError::TooLarge { got, max });
    }
    Ok(())
}

fn not_a_bundle(error: serde_json::Error) -> BundleJsonError {
    BundleJsonError::NotABundle {
        reason: error.to_string(),
    }
}

fn from_document(
    trust_domain: TrustDomain,
    document: BundleDocument,
) -> Result<TrustBundle, BundleJsonError> {
    let got = document.keys.len();
    if got > MAX_KEYS {
        return Err(BundleJsonError::TooManyKeys { trust_domain, got });
    }
    let got = document.inmesh_distrusted_keys.len();
    if got > MAX_DISTRUSTED_KEYS {
        return Err(BundleJsonError::TooManyDistrustedKeys { trust_domain, got });
    }
    let mut roots: Vec<CertificateDer<'static>> = Vec::new();
    let mut jwt_keys = KeyReader::default();
    for (index, jwk) in document.keys.iter().enumerate() {
        match jwk.get("use").and_then(Value::as_str) {
            Some(X509_SVID) => roots.extend(root(&trust_domain, index, jwk)?),
            Some(JWT_SVID) => jwt_keys.read_named(index, jwk),
            _ => {}
        }
    }
    let (jwt_keys, left_out) = match jwt_keys.finish() {
        Ok(keys) => keys,
        Err(source) => {
            return Err(BundleJsonError::JwtKeys {
                trust_domain,
                source,
            });
        }
    };
    if let Some(LeftOut { count, first }) = left_out {
        tracing::warn!(%trust_domain, count, error = %first,
            "keys for JWT-SVIDs in a bundle cannot be used and are left out");
    }
    let mut bundle = if roots.is_empty() {
        TrustBundle::distrusted(trust_domain)
    } else {
        TrustBundle::new(trust_domain, roots)?
    };
    bundle.jwt_keys = jwt_keys.into();
    bundle.sequence = document.spiffe_sequence;
    bundle.refresh_hint = document.spiffe_refresh_hint.map(Duration::from_secs);
    if document.inmesh_distrusted_keys.is_empty() {
        return Ok(bundle);
    }
    Ok(bundle.distrusting(document.inmesh_distrusted_keys))
}

/// The certificate of one key: the first of its x5c, if there is one (S17).
fn root(
    trust_domain: &TrustDomain,
    index: usize,
    jwk: &Map<String, Value>,
) -> Result<Option<CertificateDer<'static>>, BundleJsonError> {
    let known = jwk.get("kty").and_then(Value::as_str);
    if !matches!(known, Some("EC" | "OKP" | "RSA")) {
        return Ok(None);
    }
    let broken = || BundleJsonError::Certificate {
        trust_domain: trust_domain.clone(),
        index,
    };
    let first = match jwk.get("x5c") {
        None => return Ok(None),
        Some(Value::Array(certificates)) => match certificates.first() {
            None => return Ok(None),
            Some(first) => first,
        },
        Some(_) => return Err(broken()),
    };
    let text = first.as_str().ok_or_else(broken)?;
    let der = BASE64.decode(text.as_bytes()).map_err(|_| broken())?;
    Ok(Some(der.into()))
}

fn to_document(bundle: &TrustBundle) -> Result<Map<String, Value>, BundleJsonError> {
    let mut keys: Vec<Value> = Vec::new();
    for (index, root) in bundle.roots().iter().enumerate() {
        let mut jwk = public_key(root)
            .ok_or_else(|| BundleJsonError::Key {
                trust_domain: bundle.trust_domain().clone(),
                index,
            })?
            .to_jwk();
        jwk.insert("use".to_owned(), X509_SVID.into());
        let certificate = BASE64.encode(root.der());
        jwk.insert("x5c".to_owned(), Value::Array(vec![certificate.into()]));
        keys.push(jwk.into());
    }
    for key in bundle.jwt_keys().iter() {
        let mut jwk = key.to_jwk();
        jwk.insert("use".to_owned(), JWT_SVID.into());
        keys.push(jwk.into());
    }
    let mut document = Map::from_iter([("keys".to_owned(), Value::Array(keys))]);
    let hint = bundle.refresh_hint().map(|hint| hint.as_secs());
    for (name, value) in [
        ("spiffe_sequence", bundle.sequence()),
        ("spiffe_refresh_hint", hint),
    ] {
        document.extend(value.map(|value| (name.to_owned(), value.into())));
    }
    let distrusted: Vec<Value> = bundle.distrusted_keys().map(Value::from).collect();
    if !distrusted.is_empty() {
        document.insert("inmesh_distrusted_keys".to_owned(), distrusted.into());
    }
    Ok(document)
}

fn public_key(root: &Root) -> Option<PublicKey> {
    let (_, certificate) = X509Certificate::from_der(root.der()).ok()?;
    PublicKey::from_spki(certificate.public_key())
}
