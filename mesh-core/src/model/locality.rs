//! Where a process or an endpoint is.

use std::sync::{Arc, LazyLock};

/// Where a process or an endpoint is. What is not known is empty.
///
/// ```
/// use inmesh_core::model::Locality;
/// let here = Locality::default().in_region("north").in_zone("north-1").on_node("n7");
/// assert_eq!((&*here.region, &*here.zone, &*here.node), ("north", "north-1", "n7"));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Locality {
    /// The region (`topology.kubernetes.io/region`).
    pub region: Arc<str>,
    /// The zone (`topology.kubernetes.io/zone`).
    pub zone: Arc<str>,
    /// The node (`kubernetes.io/hostname`).
    pub node: Arc<str>,
    /// The zones that an endpoint is meant for (`hints.forZones` of an EndpointSlice); empty where none
    /// are named.
    pub hints: Box<[Arc<str>]>,
}

// === impl Locality ===

impl Locality {
    /// One of which nothing is known, the same for all.
    pub(crate) fn unknown() -> Arc<Self> {
        static UNKNOWN: LazyLock<Arc<Locality>> = LazyLock::new(Arc::default);
        Arc::clone(&UNKNOWN)
    }

    /// The same in a region.
    #[must_use]
    pub fn in_region(mut self, region: &str) -> Self {
        self.region = region.into();
        self
    }

    /// The same in a zone.
    #[must_use]
    pub fn in_zone(mut self, zone: &str) -> Self {
        self.zone = zone.into();
        self
    }

    /// The same on a node.
    #[must_use]
    pub fn on_node(mut self, node: &str) -> Self {
        self.node = node.into();
        self
    }

    /// The same meant for zones.
    #[must_use]
    pub fn for_zones(mut self, zones: impl IntoIterator<Item = Arc<str>>) -> Self {
        self.hints = zones.into_iter().collect();
        self
    }

    /// Whether nothing of it is known.
    pub fn is_unknown(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.node.is_empty()
    }
}
