//! The endpoints of hosts outside the mesh that were asked for and no document lists.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
#[cfg(feature = "runtime")]
use std::sync::atomic::Ordering;

use crate::balance::EndpointSet;
use crate::model::{Asked, Service};

/// The endpoints of a host that was asked for.
#[derive(Debug, Clone)]
pub(crate) struct AskedSet {
    pub(crate) asked: Asked,
    pub(crate) endpoints: Arc<EndpointSet>,
    /// Whether it was used since that was looked at.
    pub(crate) used: Arc<AtomicBool>,
}

/// What a view keeps of the hosts outside the mesh that lead to it.
#[derive(Debug)]
pub(crate) struct OutsideView {
    /// The Service as its document has it.
    pub(super) service: Arc<Service>,
    /// In order.
    pub(crate) sets: Vec<AskedSet>,
}

// === impl AskedSet ===

#[cfg(feature = "runtime")]
impl AskedSet {
    /// Notes that it is used, so that its host is not forgotten.
    pub(crate) fn note_use(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }
}

// === impl OutsideView ===

impl OutsideView {
    /// The endpoints of a host that was asked for, once they are known.
    pub(crate) fn set(&self, asked: &Asked) -> Option<&AskedSet> {
        let at = self.sets.binary_search_by(|set| set.asked.cmp(asked));
        at.ok().map(|at| &self.sets[at])
    }
}
