//! A SPIFFE ID and a signing request in, a chain and the bundle that vouches for it out.
//!
//! [`Issuer`] is the port: a local CA, the development CA, and whatever answers over a network
//! stand behind it. Which caller may ask for which ID is decided in front of it, never by the request: an
//! identity inside a request is ignored.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;

use crate::bundle::TrustBundle;
use crate::crypto::{Crypto, CryptoError};
use crate::id::{SpiffeId, TrustDomain};
use crate::svid::{PrivateKey, SvidError, X509Svid};

pub mod csr;
#[cfg(feature = "ca")]
pub mod policy;

#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
pub mod ca;
#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
pub mod dev;
#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
pub(crate) mod make;
#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
pub(crate) mod template;

#[cfg(test)]
mod tests;

pub use csr::{Csr, CsrError};

/// Signs SVIDs.
pub trait Issuer: Send + Sync + 'static {
    /// Issues a chain for `id` and the public key in `csr`.
    ///
    /// Dropping the future gives the request up; an issuer may have signed by then.
    fn issue(
        &self,
        id: &SpiffeId,
        csr: &Csr,
    ) -> impl Future<Output = Result<IssuedChain, IssueError>> + Send;
}

/// An [`Issuer`] whose type is erased; cheap to clone.
#[derive(Clone)]
pub struct DynIssuer(Arc<dyn ErasedIssuer>);

/// What an issuer answers.
#[derive(Debug, Clone)]
pub struct IssuedChain {
    /// The certificates, leaf first, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The bundle of the ID's trust domain, whole: it replaces the one before.
    pub bundle: TrustBundle,
    /// When the chain was issued; renewal counts from here.
    pub issued_at: SystemTime,
}

/// Why an issuer did not issue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The CA's own certificate has expired, or is not valid yet.
    #[error("the CA of {trust_domain} is not valid at the moment")]
    CaNotValid {
        /// The trust domain of the CA.
        trust_domain: TrustDomain,
    },
    /// The crypto provider failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    /// The request's key is of a kind that cannot be certified.
    #[error("the request for {id} has a key of an unsupported kind")]
    Key {
        /// The ID that was asked for.
        id: SpiffeId,
    },
    /// The ID names no workload: it has no path (S3).
    #[error("{id} has no path; only workloads get certificates")]
    NoPath {
        /// The ID that was asked for.
        id: SpiffeId,
    },
    /// The caller may not have this ID.
    #[error("{id} was asked for, this issuer gives only {allowed}")]
    NotAllowed {
        /// The ID that was asked for.
        id: SpiffeId,
        /// The only ID that it may give.
        allowed: SpiffeId,
    },
    /// The issuer says no.
    #[error("the issuer refuses {id}: {reason}")]
    Refused {
        /// The ID that was asked for.
        id: SpiffeId,
        /// What the issuer says.
        reason: String,
    },
    /// Signing failed.
    #[error("the CA could not sign for {id}: {reason}")]
    Sign {
        /// The ID that was asked for.
        id: SpiffeId,
        /// What the signing library says.
        reason: String,
    },
    /// The issuer does not answer, or asks to come back later.
    #[error("the issuer is not available: {reason}")]
    Unavailable {
        /// What happened.
        reason: String,
        /// When to ask again, if the issuer said so.
        retry_after: Option<Duration>,
    },
    /// The ID belongs to another trust domain than the CA.
    #[error("{id} was asked for, this CA is of trust domain {trust_domain}")]
    WrongTrustDomain {
        /// The ID that was asked for.
        id: SpiffeId,
        /// The CA's own trust domain.
        trust_domain: TrustDomain,
    },
}

impl IssuedChain {
    /// Joins the chain with the key that its request was made of.
    ///
    /// # Errors
    ///
    /// [`SvidError`] if the issuer answered with garbage, or for another key.
    pub fn into_svid(self, key: PrivateKey, crypto: &Crypto) -> Result<X509Svid, SvidError> {
        X509Svid::from_der(self.chain, key, Some(self.issued_at), crypto)
    }
}

// === impl DynIssuer ===

type Issuing<'a> = Pin<Box<dyn Future<Output = Result<IssuedChain, IssueError>> + Send + 'a>>;

trait ErasedIssuer: Send + Sync {
    fn issue_erased<'a>(&'a self, id: &'a SpiffeId, csr: &'a Csr) -> Issuing<'a>;
}

impl<I: Issuer> ErasedIssuer for I {
    fn issue_erased<'a>(&'a self, id: &'a SpiffeId, csr: &'a Csr) -> Issuing<'a> {
        Box::pin(self.issue(id, csr))
    }
}

impl DynIssuer {
    /// Erases the type of `issuer`.
    pub fn new(issuer: impl Issuer) -> Self {
        Self(Arc::new(issuer))
    }
}

impl Issuer for DynIssuer {
    async fn issue(&self, id: &SpiffeId, csr: &Csr) -> Result<IssuedChain, IssueError> {
        self.0.issue_erased(id, csr).await
    }
}

impl fmt::Debug for DynIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DynIssuer(..)")
    }
}
