//! One host of an EndpointSlice, or of what stands for one.

use std::sync::Arc;

use super::{Conditions, Host, Locality, PodRef};

/// One host of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SliceHost {
    /// Its address or name.
    pub host: Host,
    /// Whether it takes requests.
    pub conditions: Conditions,
    /// Where it is.
    pub locality: Arc<Locality>,
    /// The Pod that it is, where that is known.
    pub pod: Option<PodRef>,
    /// Its share of requests relative to the other hosts of its tier; 0 takes none.
    pub weight: u32,
    /// Its tier: a higher number is used only while all lower ones have no endpoint to offer.
    pub priority: u32,
}

// === impl SliceHost ===

impl SliceHost {
    /// A ready host of weight 1 in the first tier.
    ///
    /// ```
    /// use inmesh_core::model::{Conditions, Host, SliceHost};
    /// let host = SliceHost::new(Host::Address([10, 0, 0, 1].into()));
    /// assert_eq!((host.conditions, host.locality.is_unknown()), (Conditions::default(), true));
    /// ```
    pub fn new(host: Host) -> Self {
        Self {
            host,
            conditions: Conditions::default(),
            locality: Locality::unknown(),
            pod: None,
            weight: 1,
            priority: 0,
        }
    }

    /// The same host under other conditions.
    #[must_use]
    pub fn with_conditions(mut self, conditions: Conditions) -> Self {
        self.conditions = conditions;
        self
    }

    /// The same host at a place.
    #[must_use]
    pub fn with_locality(mut self, locality: Arc<Locality>) -> Self {
        self.locality = locality;
        self
    }

    /// The same host, which is a Pod.
    #[must_use]
    pub fn with_pod(mut self, pod: PodRef) -> Self {
        self.pod = Some(pod);
        self
    }

    /// The same host with a weight.
    #[must_use]
    pub fn with_weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// The same host in a tier.
    #[must_use]
    pub fn with_priority(mut self, priority: u32) -> Self {
        self.priority = priority;
        self
    }
}
