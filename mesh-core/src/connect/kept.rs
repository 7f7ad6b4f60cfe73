//! What is kept with an endpoint for as long as it is known: for each local workload its own
//! connections and metric handles, so that none ever uses another's identity.

use std::sync::{Arc, OnceLock};

use super::by_local::ByLocal;
use super::gate::{Gate, Place};
use super::pool::Pool;
use crate::balance::Member;
use crate::error::Error;
use crate::local::Local;
use crate::telemetry::Series;

/// The connections of one local workload to one endpoint, and the handles of their metrics.
pub(crate) struct Kept {
    pub(super) pool: Arc<Pool>,
    pub(crate) series: OnceLock<Arc<Series>>,
}

// === impl Kept ===

impl Kept {
    /// What is kept of a local workload with an endpoint; made at first use.
    pub(crate) fn of(member: &Member, local: &Arc<Local>, idle_max: usize) -> Arc<Self> {
        let make = || {
            Arc::new(Self {
                pool: Pool::behind(Gate::of(member.state.port(), local), idle_max),
                series: OnceLock::new(),
            })
        };
        // No other type is ever put into the slot; if one were, nothing would be kept.
        match member.state.slot(ByLocal::<Self>::default) {
            Some(kept) => kept.get_or_insert(local, make),
            None => make(),
        }
    }

    /// Room for a connection of opaque bytes to the endpoint.
    pub(crate) fn room_opaque(&self) -> Result<Place, Error> {
        let (gate, number) = self.pool.gate();
        gate.ask_opaque(number)
    }

    /// Lets go of what is kept of a local workload with an endpoint.
    pub(crate) fn forget(member: &Member, local: &Arc<Local>) {
        if let Some(kept) = member.state.slot(ByLocal::<Self>::default) {
            kept.forget(local);
        }
        Gate::forget(member.state.port(), local);
    }
}
