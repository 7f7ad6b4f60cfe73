//! What is kept for each local workload. Most processes have one, so that a list is the fastest map. It is
//! read for each request, and a reader writes nothing that other threads read.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::local::Local;

/// By local workload.
pub(super) struct ByLocal<T> {
    all: ArcSwap<List<T>>,
    /// Held by what changes them.
    changing: Mutex<()>,
}

type List<T> = Vec<(Arc<Local>, Arc<T>)>;

// === impl ByLocal ===

impl<T> ByLocal<T> {
    pub(super) fn get_or_insert(
        &self,
        local: &Arc<Local>,
        make: impl FnOnce() -> Arc<T>,
    ) -> Arc<T> {
        let find = || {
            let all = self.all.load();
            let found = all.iter().find(|(of, _)| Arc::ptr_eq(of, local));
            found.map(|(_, kept)| Arc::clone(kept))
        };
        find().unwrap_or_else(|| {
            let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
            find().unwrap_or_else(|| {
                let kept = make();
                let mut all = self.all();
                all.push((Arc::clone(local), Arc::clone(&kept)));
                self.all.store(Arc::new(all));
                kept
            })
        })
    }

    /// All of them.
    pub(super) fn all(&self) -> List<T> {
        Vec::clone(&self.all.load())
    }

    pub(super) fn forget(&self, local: &Arc<Local>) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = self.all();
        all.retain(|(of, _)| !Arc::ptr_eq(of, local));
        self.all.store(Arc::new(all));
    }
}

impl<T> Default for ByLocal<T> {
    fn default() -> Self {
        Self {
            all: ArcSwap::default(),
            changing: Mutex::default(),
        }
    }
}
