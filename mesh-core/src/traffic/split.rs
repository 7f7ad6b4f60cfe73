//! The key by which each user stays in one part of a weighted split. Pure.

use crate::balance::{HashKey, InvalidStrategy};

/// What keeps users in their parts of a split (`trafficSplit`, in the words of Istio's `consistentHash`).
///
/// ```
/// use http::HeaderName;
/// use inmesh_core::balance::HashKey;
/// use inmesh_core::traffic::TrafficSplit;
/// let user = HashKey::Header(HeaderName::from_static("x-user"));
/// assert!(TrafficSplit::by(user).is_ok());
/// assert!(TrafficSplit::by(HashKey::SourceIp).is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficSplit {
    key: HashKey,
}

// === impl TrafficSplit ===

impl TrafficSplit {
    /// By that part of the request. A cookie with a `ttl` is handed out to a request without it.
    ///
    /// # Errors
    ///
    /// [`InvalidStrategy`] for the caller's address: an agent's callers are all the workload beside it. For
    /// what [`HashKey::header`] refuses, too.
    pub fn by(key: HashKey) -> Result<Self, InvalidStrategy> {
        match key {
            HashKey::SourceIp => Err(InvalidStrategy::new(
                "the caller's address tells no users apart: it is that of the workload".into(),
            )),
            HashKey::Header(name) => HashKey::header(name).map(|key| Self { key }),
            key => Ok(Self { key }),
        }
    }

    /// The part of the request.
    pub fn key(&self) -> &HashKey {
        &self.key
    }
}
