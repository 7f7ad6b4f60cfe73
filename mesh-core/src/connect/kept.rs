//! What is kept with an endpoint for as long as it is known: for each local workload its own
//! connections and metric handles, so that none ever uses another's identity.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::pool::Pool;
use crate::balance::Member;
use crate::local::Local;
use crate::telemetry::Series;

/// The connections of one local workload to one endpoint, and the handles of their metrics.
pub(crate) struct Kept {
    pub(super) pool: Arc<Pool>,
    pub(crate) series: OnceLock<Arc<Series>>,
}

/// By local workload. Most processes have one, so that a list is the fastest map.
#[derive(Default)]
struct ByLocal(RwLock<Vec<(Arc<Local>, Arc<Kept>)>>);

// === impl Kept ===

impl Kept {
    /// What is kept of a local workload with an endpoint; made at first use.
    pub(crate) fn of(member: &Member, local: &Arc<Local>, idle_max: usize) -> Arc<Self> {
        let make = || {
            Arc::new(Self {
                pool: Arc::new(Pool::new(idle_max)),
                series: OnceLock::new(),
            })
        };
        // No other type is ever put into the slot; if one were, nothing would be kept.
        match member.state.slot(ByLocal::default) {
            Some(kept) => kept.get_or_insert(local, make),
            None => make(),
        }
    }

    /// Lets go of what is kept of a local workload with an endpoint.
    pub(crate) fn forget(member: &Member, local: &Arc<Local>) {
        if let Some(kept) = member.state.slot(ByLocal::default) {
            let mut all = kept.0.write().unwrap_or_else(PoisonError::into_inner);
            all.retain(|(of, _)| !Arc::ptr_eq(of, local));
        }
    }
}

// === impl ByLocal ===

impl ByLocal {
    fn get_or_insert(&self, local: &Arc<Local>, make: impl FnOnce() -> Arc<Kept>) -> Arc<Kept> {
        let find = |all: &[(Arc<Local>, Arc<Kept>)]| {
            let found = all.iter().find(|(of, _)| Arc::ptr_eq(of, local));
            found.map(|(_, kept)| Arc::clone(kept))
        };
        if let Some(kept) = find(&self.0.read().unwrap_or_else(PoisonError::into_inner)) {
            return kept;
        }
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        find(&all).unwrap_or_else(|| {
            let kept = make();
            all.push((Arc::clone(local), Arc::clone(&kept)));
            kept
        })
    }
}
