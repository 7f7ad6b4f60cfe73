//! A trust domain's root key in, leaf SVIDs out: a CA in this process, with no state but its key.
//!
//! Leaves are short-lived (1 h by default) and back-dated by 2 min against clocks that run apart;
//! they never outlive the CA. No name constraints are written: verifiers without support for URI
//! constraints, rustls among them, refuse every chain that has some.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{PublicKeyData, SubjectPublicKeyInfo};
use rustls_pki_types::CertificateDer;

use super::make::{self, CaKey, MakeError};
use super::{Csr, IssueError, IssuedChain, Issuer};
use crate::bundle::{BundleError, TrustBundle};
use crate::clock::Clock;
use crate::crypto::{Crypto, CryptoError};
use crate::id::{SpiffeId, TrustDomain};
use crate::jwt::KeySet;
use crate::svid::PrivateKey;

/// How long a leaf lives, unless [`LocalCa::with_leaf_lifetime`] says otherwise.
pub const DEFAULT_LEAF_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// How far before its issuance a certificate begins to be valid.
pub const BACK_DATED: Duration = Duration::from_secs(2 * 60);

/// A CA that signs with a root key in memory.
///
/// ```
/// # #[cfg(feature = "aws-lc-rs")]
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::time::Duration;
/// use inmesh_pki::clock::SystemClock;
/// use inmesh_pki::issue::ca::LocalCa;
/// use inmesh_pki::issue::csr;
/// use inmesh_pki::{Crypto, SpiffeId};
///
/// let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock::shared());
/// let ca = LocalCa::create("prod.example".parse()?, Duration::from_secs(3600), &crypto, clock)?;
/// let id = SpiffeId::for_workload(ca.trust_domain(), "shop", "cart")?;
/// let (key, csr) = csr::generate(&id, &crypto)?;
/// let svid = ca.sign(&id, &csr)?.into_svid(key, &crypto)?;
/// assert_eq!(svid.id(), &id);
/// # Ok(())
/// # }
/// ```
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
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocalCaError {
    /// The root certificate cannot be used.
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
    /// [`LocalCaError`] if the system cannot make a key.
    pub fn create(
        trust_domain: TrustDomain,
        lifetime: Duration,
        crypto: &Crypto,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, LocalCaError> {
        let now = clock.now();
        let life = (now - BACK_DATED, now + lifetime);
        let params = make::authority("root", &trust_domain, 1, life, crypto)?;
        let key = CaKey::generate().map_err(MakeError::Sign)?;
        let root = params.self_signed(&key).map_err(MakeError::Sign)?;
        let root = root.der().clone();
        Self::new(trust_domain, root, key, crypto, clock)
    }

    /// A CA of a root certificate and its key.
    ///
    /// # Errors
    ///
    /// [`LocalCaError`] if the certificate is not a CA's, or the key is not its own.
    pub fn from_parts(
        trust_domain: TrustDomain,
        root: CertificateDer<'static>,
        key: &PrivateKey,
        crypto: &Crypto,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, LocalCaError> {
        let key = CaKey::read(key).map_err(|_| LocalCaError::Key)?;
        Self::new(trust_domain, root, key, crypto, clock)
    }

    fn new(
        trust_domain: TrustDomain,
        root: CertificateDer<'static>,
        key: CaKey,
        crypto: &Crypto,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, LocalCaError> {
        let bundle = TrustBundle::new(trust_domain.clone(), [root.clone()])?;
        let anchor = &bundle.anchors()[0];
        if webpki::spki_for_anchor(anchor).as_ref() != key.subject_public_key_info() {
            return Err(LocalCaError::KeyMismatch);
        }
        let issuer = rcgen::Issuer::from_ca_cert_der(&root, key).map_err(MakeError::Sign)?;
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

    /// The trust domain of the CA.
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

    /// A copy of the root key, to be kept.
    #[must_use]
    pub fn secret_key(&self) -> PrivateKey {
        self.issuer.key().secret()
    }

    /// Signs a leaf for `id` and the key in `csr`, now.
    ///
    /// # Errors
    ///
    /// [`IssueError`] if the ID is not a workload of this trust domain, the key cannot be
    /// certified, or the CA has expired.
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

        let life = (
            (now - BACK_DATED).max(root.not_before()),
            (now + self.leaf_lifetime).min(root.not_after()),
        );
        let params = make::leaf(id, make::serial(&self.crypto)?, life).map_err(failed)?;
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

impl From<MakeError> for LocalCaError {
    fn from(error: MakeError) -> Self {
        match error {
            MakeError::Crypto(error) => Self::Crypto(error),
            MakeError::Sign(error) => Self::Make {
                reason: error.to_string(),
            },
        }
    }
}
