//! A trust domain's root key in, leaf SVIDs out: a CA in this process, with no state but its key.
//!
//! Leaves are short-lived (1 h by default) and back-dated by 2 min against clocks that run apart;
//! they never outlive the CA. No name constraints are written: verifiers without support for URI
//! constraints, rustls among them, refuse every chain that has some.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::time::OffsetDateTime;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
    SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroize;

use super::{Csr, IssueError, IssuedChain, Issuer};
use crate::bundle::{BundleError, TrustBundle};
use crate::clock::Clock;
use crate::id::{SpiffeId, TrustDomain};
use crate::jwt::KeySet;
use crate::svid::PrivateKey;
use crate::tls::{Crypto, CryptoError};
use crate::{hex, time};

/// How long a leaf lives, unless [`LocalCa::with_leaf_lifetime`] says otherwise.
pub const DEFAULT_LEAF_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// How far before its issuance a certificate begins to be valid.
pub const BACK_DATED: Duration = Duration::from_secs(2 * 60);

/// A CA that signs with a root key in memory.
pub struct LocalCa {
    trust_domain: TrustDomain,
    root: CertificateDer<'static>,
    bundle: TrustBundle,
    issuer: rcgen::Issuer<'static, CaKey>,
    leaf_lifetime: Duration,
    crypto: Crypto,
    clock: Arc<dyn Clock>,
}

/// Why there is no CA.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// The root certificate is none.
    #[error("the CA's root certificate cannot be used")]
    Bundle(#[from] BundleError),
    /// The crypto provider failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    /// The private key cannot be read, or is of a kind that cannot sign here.
    #[error("the CA's private key cannot be used")]
    Key,
    /// The private key belongs to another certificate.
    #[error("the CA's private key does not match its root certificate")]
    KeyMismatch,
    /// A key or certificate could not be made.
    #[error("a root certificate could not be made: {reason}")]
    Make {
        /// What the signing library says.
        reason: String,
    },
}

impl LocalCa {
    /// A new CA for `trust_domain`: a P-256 root that lives for `lifetime` from now.
    ///
    /// # Errors
    ///
    /// [`CaError`] if the system cannot make a key.
    pub fn create(
        trust_domain: TrustDomain,
        lifetime: Duration,
        crypto: &Crypto,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CaError> {
        let now = clock.now();
        // A name of its own for every root: during a rotation two roots of one domain stand side
        // by side, and path building tells them apart by name.
        let mut tag = [0; 4];
        crypto.fill(&mut tag)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(
            DnType::CommonName,
            format!("inmesh root {}", hex::encode(&tag)),
        );
        params.subject_alt_names = vec![uri(&trust_domain.id()).map_err(make)?];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial(crypto)?);
        params.not_before = date(now - BACK_DATED);
        params.not_after = date(now + lifetime);
        let key = CaKey(KeyPair::generate().map_err(make)?);
        let root = params.self_signed(&key).map_err(make)?.der().clone();
        Self::new(trust_domain, root, key, crypto, clock)
    }

    /// A CA of a root certificate and its key.
    ///
    /// # Errors
    ///
    /// [`CaError`] if the certificate is not a CA's, or the key is not its own.
    pub fn from_parts(
        trust_domain: TrustDomain,
        root: CertificateDer<'static>,
        key: &PrivateKey,
        crypto: &Crypto,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CaError> {
        let der = PrivatePkcs8KeyDer::from(key.secret_pkcs8_der());
        let key = CaKey(KeyPair::try_from(&der).map_err(|_| CaError::Key)?);
        Self::new(trust_domain, root, key, crypto, clock)
    }

    fn new(
        trust_domain: TrustDomain,
        root: CertificateDer<'static>,
        key: CaKey,
        crypto: &Crypto,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CaError> {
        let bundle = TrustBundle::new(trust_domain.clone(), [root.clone()])?;
        let anchor = &bundle.anchors()[0];
        if webpki::spki_for_anchor(anchor).as_ref() != key.subject_public_key_info() {
            return Err(CaError::KeyMismatch);
        }
        let issuer = rcgen::Issuer::from_ca_cert_der(&root, key).map_err(make)?;
        Ok(Self {
            trust_domain,
            root,
            bundle,
            issuer,
            leaf_lifetime: DEFAULT_LEAF_LIFETIME,
            crypto: crypto.clone(),
            clock,
        })
    }

    /// The same CA with another lifetime for its leaves, in whole seconds; below one it is one.
    #[must_use]
    pub fn with_leaf_lifetime(mut self, lifetime: Duration) -> Self {
        self.leaf_lifetime = Duration::from_secs(lifetime.as_secs().max(1));
        self
    }

    /// The same CA with these keys for JWT-SVIDs in the bundle that it hands out.
    #[must_use]
    pub fn with_jwt_keys(mut self, keys: KeySet) -> Self {
        self.bundle = self.bundle.with_jwt_keys(keys);
        self
    }

    /// Whose CA it is.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The bundle that vouches for what it issues.
    #[must_use]
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// The root certificate.
    #[must_use]
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// A copy of the root key, for whoever keeps it.
    #[must_use]
    pub fn secret_key(&self) -> PrivateKey {
        PrivateKey::from_pkcs8_der(self.issuer.key().0.serialize_der())
    }

    /// Signs a leaf for `id` and the key in `csr`, now.
    ///
    /// # Errors
    ///
    /// [`IssueError`] if the ID is not a workload of this trust domain, the key cannot be
    /// certified, or the CA is over.
    pub fn sign(&self, id: &SpiffeId, csr: &Csr) -> Result<IssuedChain, IssueError> {
        if id.trust_domain() != &self.trust_domain {
            return Err(IssueError::WrongTrustDomain {
                id: id.clone(),
                trust_domain: self.trust_domain.clone(),
            });
        }
        if id.path().is_empty() {
            return Err(IssueError::NoPath { id: id.clone() });
        }
        let now = self.clock.now();
        let root = &self.bundle.roots()[0];
        if now < root.not_before() || now >= root.not_after() {
            return Err(IssueError::CaNotValid {
                trust_domain: self.trust_domain.clone(),
            });
        }
        let key = SubjectPublicKeyInfo::from_der(csr.public_key_der())
            .map_err(|_| IssueError::Key { id: id.clone() })?;
        let failed = |error: rcgen::Error| IssueError::Sign {
            id: id.clone(),
            reason: error.to_string(),
        };

        let mut params = CertificateParams::default();
        // No subject: so the one URI name is marked critical (S10).
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(id).map_err(failed)?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial(&self.crypto)?);
        params.not_before = date((now - BACK_DATED).max(root.not_before()));
        params.not_after = date((now + self.leaf_lifetime).min(root.not_after()));
        let leaf = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(IssuedChain {
            chain: vec![leaf.der().clone()],
            bundle: self.bundle.clone(),
            issued_at: now,
        })
    }
}

impl Issuer for LocalCa {
    async fn issue(&self, id: &SpiffeId, csr: &Csr) -> Result<IssuedChain, IssueError> {
        self.sign(id, csr)
    }
}

/// Shares one CA between several handles.
impl Issuer for Arc<LocalCa> {
    async fn issue(&self, id: &SpiffeId, csr: &Csr) -> Result<IssuedChain, IssueError> {
        self.sign(id, csr)
    }
}

impl fmt::Debug for LocalCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCa")
            .field("bundle", &self.bundle)
            .finish_non_exhaustive()
    }
}

/// The CA's key, wiped when it is dropped.
struct CaKey(KeyPair);

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

fn make(error: rcgen::Error) -> CaError {
    CaError::Make {
        reason: error.to_string(),
    }
}

fn uri(id: &SpiffeId) -> Result<SanType, rcgen::Error> {
    Ia5String::try_from(id.as_str()).map(SanType::URI)
}

/// A positive serial of 127 random bits, never shorter (RFC 5280, section 4.1.2.2).
fn serial(crypto: &Crypto) -> Result<SerialNumber, CryptoError> {
    let mut bytes = [0; 16];
    crypto.fill(&mut bytes)?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Whole seconds, rounded down; what no certificate can say becomes 1970.
fn date(moment: SystemTime) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(time::to_unix(moment)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
