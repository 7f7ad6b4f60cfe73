//! The keys of one trust domain in, something that a chain or a token can be checked against out.
//!
//! A bundle belongs to exactly one trust domain, and a set keeps them apart: there is no way to ask
//! for "all roots", because a root vouches for its own domain only (S6, S21). Roots are parsed once,
//! here, so that a handshake parses none. A bundle without roots means that the domain is
//! distrusted, and has to be asked for by name. The keys that sign JWT-SVIDs are kept beside the
//! roots and vouch for nothing else. [`jwks`] reads and writes the JSON form.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use x509_parser::prelude::FromDer;

use crate::id::TrustDomain;
use crate::jwt::KeySet;
use crate::pem::{self, PemError};
use crate::time;

#[cfg(feature = "federation")]
pub mod federate;
pub mod jwks;

#[cfg(test)]
mod tests;

/// The most roots that a bundle may have; path building tries each of them.
pub const MAX_ROOTS: usize = 64;

/// The X.509 roots of one trust domain and its keys for JWT-SVIDs; cheap to clone.
///
/// ```
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::{TrustBundle, TrustDomain};
///
/// let domain: TrustDomain = "prod.example".parse()?;
/// assert!(TrustBundle::from_pem(domain.clone(), b"no certificate").is_err());
/// assert!(TrustBundle::distrusted(domain).is_distrusted());
/// # Ok(())
/// # }
/// # example().unwrap();
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Arc<[Root]>,
    /// The same roots, in the same order, as path building takes them.
    anchors: Arc<[TrustAnchor<'static>]>,
    jwt_keys: Arc<KeySet>,
    sequence: Option<u64>,
    refresh_hint: Option<Duration>,
    distrusted_keys: Arc<BTreeSet<String>>,
}

/// One root certificate of a bundle.
#[derive(Clone, PartialEq, Eq)]
pub struct Root {
    der: CertificateDer<'static>,
    key_id: String,
    max_intermediates: Option<u32>,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// Bundles by trust domain: what is trusted, and for what.
///
/// ```
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::{BundleSet, TrustBundle};
///
/// let bundle = TrustBundle::distrusted("prod.example".parse()?);
/// let set = BundleSet::from(bundle);
/// assert!(set.get(&"test.example".parse()?).is_none());
/// # Ok(())
/// # }
/// # example().unwrap();
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BundleSet(BTreeMap<TrustDomain, TrustBundle>);

/// Why roots do not make a bundle; `index` counts from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// There is no root; a distrusted domain is made by [`TrustBundle::distrusted`].
    #[error("the bundle of {trust_domain} has no root")]
    Empty {
        /// The trust domain of the bundle.
        trust_domain: TrustDomain,
    },
    /// One of the roots is not an X.509 certificate.
    #[error("root {index} of the bundle of {trust_domain} is not an X.509 certificate")]
    Malformed {
        /// The trust domain of the bundle.
        trust_domain: TrustDomain,
        /// Which root.
        index: usize,
    },
    /// One of the roots says that it is no certificate authority, or that it signs no certificates
    /// (S11).
    #[error("root {index} of the bundle of {trust_domain} is not a CA certificate")]
    NotACa {
        /// The trust domain of the bundle.
        trust_domain: TrustDomain,
        /// Which root.
        index: usize,
    },
    /// The PEM text cannot be read.
    #[error("the bundle of {trust_domain} cannot be read")]
    Pem {
        /// The trust domain of the bundle.
        trust_domain: TrustDomain,
        /// What is wrong with it.
        #[source]
        source: PemError,
    },
    /// There are more roots than [`MAX_ROOTS`].
    #[error("the bundle of {trust_domain} has {got} roots, at most {MAX_ROOTS} are allowed")]
    TooManyRoots {
        /// The trust domain of the bundle.
        trust_domain: TrustDomain,
        /// How many there are.
        got: usize,
    },
}

// === impl TrustBundle ===

impl TrustBundle {
    /// A bundle of `roots`; one that is listed twice counts once.
    ///
    /// # Errors
    ///
    /// [`BundleError`] for no root, too many, or one that is not a CA certificate.
    pub fn new(
        trust_domain: TrustDomain,
        roots: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, BundleError> {
        let mut parsed: Vec<Root> = Vec::new();
        let mut anchors = Vec::new();
        for (index, der) in roots.into_iter().enumerate() {
            if parsed.iter().any(|root| root.der == der) {
                continue;
            }
            let (root, anchor) = Root::parse(&trust_domain, index, der)?;
            parsed.push(root);
            anchors.push(anchor);
            if parsed.len() > MAX_ROOTS {
                let got = index + 1;
                return Err(BundleError::TooManyRoots { trust_domain, got });
            }
        }
        if parsed.is_empty() {
            return Err(BundleError::Empty { trust_domain });
        }
        Ok(Self {
            roots: parsed.into(),
            anchors: anchors.into(),
            ..Self::distrusted(trust_domain)
        })
    }

    /// A bundle that refuses every peer of `trust_domain` (S18).
    #[must_use]
    pub fn distrusted(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            roots: Arc::new([]),
            anchors: Arc::new([]),
            jwt_keys: Arc::default(),
            sequence: None,
            refresh_hint: None,
            distrusted_keys: Arc::default(),
        }
    }

    /// The same bundle with these keys for JWT-SVIDs, in place of those that it had. Keys without
    /// an id are left out: a bundle has none (JWT-SVID.md, section 6.1).
    #[must_use]
    pub fn with_jwt_keys(self, keys: KeySet) -> Self {
        let jwt_keys = Arc::new(keys.named());
        Self { jwt_keys, ..self }
    }

    /// The same bundle with this sequence number (S19).
    #[must_use]
    pub fn with_sequence(self, sequence: u64) -> Self {
        Self {
            sequence: Some(sequence),
            ..self
        }
    }

    /// The same bundle with this hint to its consumers, in whole seconds.
    #[must_use]
    pub fn with_refresh_hint(self, hint: Duration) -> Self {
        Self {
            refresh_hint: Some(Duration::from_secs(hint.as_secs())),
            ..self
        }
    }

    /// The same bundle with these root keys distrusted for ever as well, by key id: their roots are
    /// taken out, and what chains to them is refused even where it would not be looked at again, as
    /// a live connection whose leaf has expired is not when a root is merely retired.
    #[must_use]
    pub fn distrusting(self, key_ids: impl IntoIterator<Item = String>) -> Self {
        let mut distrusted_keys = BTreeSet::clone(&self.distrusted_keys);
        distrusted_keys.extend(key_ids);
        if distrusted_keys.len() == self.distrusted_keys.len() {
            return self;
        }
        let kept =
            |root: &&(&Root, &TrustAnchor<'static>)| !distrusted_keys.contains(&root.0.key_id);
        let pairs: Vec<_> = self.roots.iter().zip(&*self.anchors).collect();
        let (roots, anchors): (Vec<_>, Vec<_>) = pairs
            .iter()
            .filter(kept)
            .map(|(root, anchor)| ((*root).clone(), (*anchor).clone()))
            .unzip();
        Self {
            roots: roots.into(),
            anchors: anchors.into(),
            distrusted_keys: Arc::new(distrusted_keys),
            ..self
        }
    }

    /// A bundle of all certificates in `pem`; any other section is an error, for a revocation list there
    /// would look as if it were heeded.
    ///
    /// # Errors
    ///
    /// [`BundleError::Pem`] if the text cannot be read or has no certificate, else as
    /// [`TrustBundle::new`].
    pub fn from_pem(trust_domain: TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        match pem::roots(pem) {
            Ok(roots) => Self::new(trust_domain, roots),
            Err(source) => Err(BundleError::Pem {
                trust_domain,
                source,
            }),
        }
    }

    /// The roots as PEM text; empty for a distrusted domain.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem::encode_certificates(self.roots.iter().map(|root| &root.der))
    }

    /// The trust domain of the bundle.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots, in the order in which they were given.
    #[must_use]
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// The keys that sign JWT-SVIDs of this trust domain; each has an id.
    #[must_use]
    pub fn jwt_keys(&self) -> &KeySet {
        &self.jwt_keys
    }

    /// The number that its owner raises with every change, `spiffe_sequence`, if there is one.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// How often its owner asks consumers to look for a new one, `spiffe_refresh_hint`.
    #[must_use]
    pub fn refresh_hint(&self) -> Option<Duration> {
        self.refresh_hint
    }

    /// The ids of the root keys that are distrusted for ever, in order.
    pub fn distrusted_keys(&self) -> impl Iterator<Item = &str> {
        self.distrusted_keys.iter().map(String::as_str)
    }

    /// Whether a root key is distrusted for ever.
    #[must_use]
    pub fn distrusts_key(&self, key_id: &str) -> bool {
        self.distrusted_keys.contains(key_id)
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// Whether no certificate of this domain is trusted (S18); a token is by [`Self::jwt_keys`].
    #[must_use]
    pub fn is_distrusted(&self) -> bool {
        self.roots.is_empty()
    }
}

/// Names the roots by key id.
impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key_ids: Vec<_> = self.roots.iter().map(Root::key_id).collect();
        f.debug_struct("TrustBundle")
            .field("trust_domain", &self.trust_domain.as_str())
            .field("roots", &key_ids)
            .field("jwt_keys", &self.jwt_keys)
            .field("sequence", &self.sequence)
            .finish()
    }
}

// === impl Root ===

impl Root {
    fn parse(
        trust_domain: &TrustDomain,
        index: usize,
        der: CertificateDer<'static>,
    ) -> Result<(Self, TrustAnchor<'static>), BundleError> {
        let malformed = || BundleError::Malformed {
            trust_domain: trust_domain.clone(),
            index,
        };
        let anchor = webpki::anchor_from_trusted_cert(&der)
            .map_err(|_| malformed())?
            .to_owned();
        let (rest, cert) =
            x509_parser::certificate::X509Certificate::from_der(&der).map_err(|_| malformed())?;
        if !rest.is_empty() {
            return Err(malformed());
        }
        let constraints = cert.basic_constraints().map_err(|_| malformed())?;
        // One without a key usage may do anything, as old roots do.
        let usage = cert.key_usage().map_err(|_| malformed())?;
        let signs = usage.is_none_or(|usage| usage.value.key_cert_sign());
        let Some(constraints) = constraints.filter(|found| found.value.ca && signs) else {
            let trust_domain = trust_domain.clone();
            return Err(BundleError::NotACa {
                trust_domain,
                index,
            });
        };
        let max_intermediates = constraints.value.path_len_constraint;
        let key_id = subject_key_id(&cert).unwrap_or_else(|| serial(&cert));
        let not_before = time::from_unix(cert.validity().not_before.timestamp());
        let not_after = time::from_unix(cert.validity().not_after.timestamp());
        let root = Self {
            der,
            key_id,
            max_intermediates,
            not_before,
            not_after,
        };
        Ok((root, anchor))
    }

    /// The certificate.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The subject key identifier in hexadecimal, or the serial number if it has none.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// When the root begins to be valid.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// When the root ends; chains under it end with it.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// How many intermediates may stand under it (RFC 5280, section 4.2.1.9).
    pub(crate) fn max_intermediates(&self) -> Option<u32> {
        self.max_intermediates
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({})", self.key_id)
    }
}

/// The subject key identifier of `cert` in hexadecimal.
pub(crate) fn subject_key_id(
    cert: &x509_parser::certificate::X509Certificate<'_>,
) -> Option<String> {
    use x509_parser::extensions::ParsedExtension;
    cert.extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(key_id) => Some(HEXLOWER.encode(key_id.0)),
            _ => None,
        })
}

/// The serial number of `cert` in hexadecimal.
pub(crate) fn serial(cert: &x509_parser::certificate::X509Certificate<'_>) -> String {
    HEXLOWER.encode(cert.raw_serial())
}

// === impl BundleSet ===

impl BundleSet {
    /// No bundle at all: no peer is trusted.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The bundle of `trust_domain`, and of no other.
    #[must_use]
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&TrustBundle> {
        self.0.get(trust_domain)
    }

    /// Puts `bundle` in, and returns the one of the same domain that it replaces whole.
    pub fn insert(&mut self, bundle: TrustBundle) -> Option<TrustBundle> {
        self.0.insert(bundle.trust_domain.clone(), bundle)
    }

    /// Takes the bundle of `trust_domain` out; its members are unknown from then on.
    pub fn remove(&mut self, trust_domain: &TrustDomain) -> Option<TrustBundle> {
        self.0.remove(trust_domain)
    }

    /// All bundles, ordered by trust domain.
    pub fn iter(&self) -> impl Iterator<Item = &TrustBundle> {
        self.0.values()
    }

    /// How many trust domains have a bundle.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no trust domain has a bundle.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Of two bundles of the same domain the later one stays; they are never merged.
impl FromIterator<TrustBundle> for BundleSet {
    fn from_iter<I: IntoIterator<Item = TrustBundle>>(bundles: I) -> Self {
        let mut set = Self::new();
        for bundle in bundles {
            set.insert(bundle);
        }
        set
    }
}

impl From<TrustBundle> for BundleSet {
    fn from(bundle: TrustBundle) -> Self {
        Self::from_iter([bundle])
    }
}
