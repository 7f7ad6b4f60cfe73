//! What is kept for each local workload. Most processes have one, so that a list is the fastest map.

use std::sync::{Arc, PoisonError, RwLock};

use crate::local::Local;

/// By local workload.
pub(super) struct ByLocal<T>(RwLock<Vec<(Arc<Local>, Arc<T>)>>);

// === impl ByLocal ===

impl<T> ByLocal<T> {
    pub(super) fn get_or_insert(
        &self,
        local: &Arc<Local>,
        make: impl FnOnce() -> Arc<T>,
    ) -> Arc<T> {
        let find = |all: &[(Arc<Local>, Arc<T>)]| {
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

    /// All of them.
    pub(super) fn all(&self) -> Vec<(Arc<Local>, Arc<T>)> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn forget(&self, local: &Arc<Local>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(of, _)| !Arc::ptr_eq(of, local));
    }
}

impl<T> Default for ByLocal<T> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}
