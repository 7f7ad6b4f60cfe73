//! How the source of an identity is doing: for status, metrics and probes, whatever the source is.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::chain_of;

/// How renewal is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Renewal {
    /// How often the source has given an identity.
    pub renewals: u64,
    /// How often it has failed to.
    pub failures: u64,
    /// How often it has failed since it last gave one.
    pub failing: u64,
    /// Why it failed last; gone with the next identity.
    pub last_error: Option<Arc<str>>,
}

/// The renewal that writer and readers share.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Renewal>>);

impl Shared {
    pub(super) fn load(&self) -> Renewal {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn renewed(&self) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now.renewals += 1;
        now.failing = 0;
        now.last_error = None;
    }

    pub(super) fn failed(&self, error: &(dyn Error + 'static)) {
        let error = chain_of(error);
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now.failures += 1;
        now.failing += 1;
        now.last_error = Some(error.into());
    }
}
