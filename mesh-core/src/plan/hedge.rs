//! Whether a planned request is sent to several endpoints at once.

use std::sync::Arc;

use super::{Planned, Session};
use crate::model::Block;
use crate::retry::{HedgePolicy, Unhedged};

impl Planned {
    /// What hedges the request, of a policy for the rule or one for the backend; `None` if none does, or a
    /// nearer one repeats it instead.
    pub fn hedge(&self) -> Option<&Block<Arc<HedgePolicy>>> {
        if let Some(matched) = self.matched {
            let table = &self.asked.service.routes;
            if let Some(of_rule) = matched.hedge(table) {
                return Some(of_rule);
            }
            if matched.retry(table).is_some() {
                return None;
            }
        }
        self.traffic.as_ref()?.hedge.as_ref()
    }

    /// Whether a request of that method, or a call of gRPC, is hedged: `kept` is whether it may be kept
    /// while it is sent.
    ///
    /// # Errors
    ///
    /// [`Unhedged`] if a policy hedges requests, and not this one.
    pub(crate) fn hedged(
        &self,
        method: &http::Method,
        grpc: bool,
        kept: impl FnOnce() -> bool,
    ) -> Result<Option<&HedgePolicy>, Unhedged> {
        let Some(block) = self.hedge() else {
            return Ok(None);
        };
        let led = self.session().and_then(Session::endpoint).is_some();
        let policy = &*block.value;
        policy.admits_whole(method, grpc, (led, kept()))?;
        Ok(Some(policy))
    }
}
