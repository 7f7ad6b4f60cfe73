//! Trust in other trust domains: their bundles fetched from their endpoints, again and again, and
//! our own served to them (SPIFFE_Federation.md).
//!
//! - [`Relationship`] is what an operator says of one foreign trust domain: its name, which is never
//!   taken from an answer (S26), its [`BundleUrl`], and how the endpoint proves itself;
//! - [`Federation`] keeps the bundles of all of them in the identity store;
//! - [`endpoint::BundleEndpoint`] serves ours, proven by our SVID or by a [`WebCertificate`].
//!
//! What is decided stands in [`decide`](self::decide()) and [`refresh_after`], purely: a sequence
//! number never goes back (S19), no key distrusts the domain (S18), a bundle is looked for as often
//! as its owner asks within bounds, and one that could not be refreshed for too long is taken out.
//! What was taken may be kept on disk ([`Federation::with_keep`]), so that both rules hold over a
//! restart. A redirect is followed only to an address under the same rules (S24), and never from a public
//! address to a private one, so that no foreign server can make us ask our own network.

use std::time::Duration;

use super::TrustBundle;
use crate::id::{SpiffeId, TrustDomain};
use crate::tls::BadRoot;

mod address;
mod driver;
pub mod endpoint;
mod fetch;
mod https;
mod keep;
mod url;
mod web;

#[cfg(test)]
mod tests;

pub use driver::{Federation, FederationError, FederationStatus, RelationshipStatus};
pub use fetch::FetchError;
pub use https::{HttpsCertificate, serve_https};
pub use keep::BundleKeepError;
pub use url::{BundleUrl, UrlError};
pub use web::{WebCertificate, WebCertificateError, WebCertificateStatus};

/// How often a bundle is fetched whose owner gives no refresh hint
/// (SPIFFE_Trust_Domain_and_Bundle.md, section 6.1).
pub const DEFAULT_REFRESH: Duration = Duration::from_secs(5 * 60);

/// No owner can make us ask more often than this, or less often than that.
const SHORTEST_REFRESH: Duration = Duration::from_secs(10);
const LONGEST_REFRESH: Duration = Duration::from_secs(60 * 60);

/// How long a bundle is trusted that can no longer be refreshed, unless configured otherwise.
pub const DEFAULT_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// The shortest age at which a bundle is taken out: less would not outlast a restart of its server.
const SHORTEST_MAX_AGE: Duration = Duration::from_secs(60);

/// One foreign trust domain, and where its bundle is.
///
/// ```
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::bundle::federate::{Profile, Relationship};
///
/// let url = "https://bundles.partner.example/bundle".parse()?;
/// let relationship = Relationship::new("partner.example".parse()?, url, Profile::Web)?;
/// # drop(relationship);
/// # Ok(())
/// # }
/// # example().unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Relationship {
    trust_domain: TrustDomain,
    url: BundleUrl,
    profile: Profile,
    max_age: Duration,
}

/// How a bundle endpoint proves its identity (SPIFFE_Federation.md, section 5.2).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Profile {
    /// `https_spiffe`: its certificate is the X509-SVID of exactly this ID (S25).
    Spiffe {
        /// The endpoint's SPIFFE ID.
        id: SpiffeId,
        /// The bundle of the foreign trust domain with which the first connection is verified,
        /// where the endpoint serves the bundle of its own domain. For no other use.
        bootstrap: Option<TrustBundle>,
    },
    /// `https_web`: its certificate is for the host of the URL, under the roots of the web.
    Web,
}

/// Why a relationship cannot be configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RelationshipError {
    /// The bootstrap bundle is of another trust domain than the endpoint.
    #[error("the bundle for the first connection is of {got}, the endpoint is in {expected}")]
    Bootstrap {
        /// The trust domain of the bundle.
        got: TrustDomain,
        /// The trust domain that was expected.
        expected: TrustDomain,
    },
    /// The ID of the endpoint names a trust domain and no workload.
    #[error("{id} has no path; an endpoint is a workload")]
    NoPath {
        /// The ID.
        id: SpiffeId,
    },
    /// One of the roots of the web is not a certificate.
    #[error(transparent)]
    Root(#[from] BadRoot),
    /// Two relationships with the same trust domain.
    #[error("there are two relationships with {trust_domain}")]
    Twice {
        /// Which one.
        trust_domain: TrustDomain,
    },
}

/// Why a fetched bundle does not replace the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Stale {
    /// Its sequence number is lower (S19): an old bundle, which may hold keys that were revoked.
    #[error("the sequence number went back from {had} to {got}")]
    WentBack {
        /// The number of the bundle that is there.
        had: u64,
        /// The number of the one that was fetched.
        got: u64,
    },
    /// It has no sequence number, and the one before had: without it, an old bundle could come back.
    #[error("the sequence number {had} was followed by none")]
    Without {
        /// The number of the bundle that is there.
        had: u64,
    },
}

impl Profile {
    /// What the standard calls it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Spiffe { .. } => "https_spiffe",
            Self::Web => "https_web",
        }
    }
}

impl Relationship {
    /// A relationship with `trust_domain`.
    ///
    /// # Errors
    ///
    /// [`RelationshipError`] if the profile does not fit together.
    pub fn new(
        trust_domain: TrustDomain,
        url: BundleUrl,
        profile: Profile,
    ) -> Result<Self, RelationshipError> {
        if let Profile::Spiffe { id, bootstrap } = &profile {
            if id.path().is_empty() {
                return Err(RelationshipError::NoPath { id: id.clone() });
            }
            let expected = id.trust_domain();
            if let Some(got) = bootstrap.as_ref().map(TrustBundle::trust_domain)
                && got != expected
            {
                return Err(RelationshipError::Bootstrap {
                    got: got.clone(),
                    expected: expected.clone(),
                });
            }
        }
        Ok(Self {
            trust_domain,
            url,
            profile,
            max_age: DEFAULT_MAX_AGE,
        })
    }

    /// Takes the bundle out once it could not be refreshed for `max_age`; a minute at least.
    #[must_use]
    pub fn with_max_age(self, max_age: Duration) -> Self {
        Self {
            max_age: max_age.max(SHORTEST_MAX_AGE),
            ..self
        }
    }

    /// The trust domain whose bundle is fetched.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
}

/// Whether `fetched` replaces `before`, the last bundle of the same domain that was taken.
///
/// # Errors
///
/// [`Stale`] if the sequence number says that it is older, or no longer says anything.
pub fn decide(before: Option<&TrustBundle>, fetched: &TrustBundle) -> Result<(), Stale> {
    match (before.and_then(TrustBundle::sequence), fetched.sequence()) {
        (Some(had), Some(got)) if got < had => Err(Stale::WentBack { had, got }),
        (Some(had), None) => Err(Stale::Without { had }),
        _ => Ok(()),
    }
}

/// When to look for a bundle again, from now.
///
/// 1. As often as its owner hints, else every [`DEFAULT_REFRESH`]; 10 s to 1 h.
/// 2. At least four times within `max_age`, so that one failure or two take nothing out.
/// 3. `draw`, uniform in 0..1, shortens it by up to a tenth, so that consumers spread out.
#[must_use]
pub fn refresh_after(hint: Option<Duration>, max_age: Duration, draw: f64) -> Duration {
    let draw = if draw.is_nan() {
        0.0
    } else {
        draw.clamp(0.0, 1.0)
    };
    hint.unwrap_or(DEFAULT_REFRESH)
        .clamp(SHORTEST_REFRESH, LONGEST_REFRESH)
        .min(max_age / 4)
        .mul_f64(1.0 - 0.1 * draw)
}
