//! Whether a local workload takes a request that is permitted, and how long it has it.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use tokio::time::Instant;

use super::app::Served;
use super::shared::Shared;
use crate::authorize::{HttpView, Permit, PermitReason, RequestView};
use crate::body::Body;
use crate::error::Error;
use crate::identify::Peer;
use crate::limit::Adaptive;
use crate::local::Local;

/// A request that is taken.
pub(super) struct Taken {
    pub(super) permit: Permit,
    /// Where the requests at once are limited.
    running: Option<Running>,
}

/// A request until the head of its answer is there, or will never be.
struct Running {
    /// `None` once it is.
    adaptive: Option<Arc<Adaptive>>,
    /// On the clock that answers are measured by.
    begun: Duration,
}

/// Takes a request as policies let the workload. A probe counts nowhere.
pub(super) fn taken(
    shared: &Shared,
    local: &Arc<Local>,
    peer: &Peer,
    request: &Request<Body>,
    permit: Permit,
) -> Result<Taken, Error> {
    let snapshot = shared.reader.peek();
    let is_probe = || matches!(permit.reason(), PermitReason::Probe);
    if !snapshot.has_limits() || is_probe() {
        let running = None;
        return Ok(Taken { permit, running });
    }
    let now = shared.upstreams.now();
    if let Some(limiter) = snapshot.limiter(local) {
        let view = RequestView::Http(HttpView::of(request));
        if let Err(limited) = limiter.admit(peer, &view, now) {
            return Err(limiter.refuse(&limited));
        }
    }
    let adaptive = snapshot.adaptive(local).cloned();
    if let Some(full) = adaptive.as_ref().filter(|adaptive| !adaptive.begin()) {
        return Err(full.refuse());
    }
    let running = adaptive.map(|adaptive| Running {
        adaptive: Some(adaptive),
        begun: now,
    });
    Ok(Taken { permit, running })
}

// === impl Taken ===

impl Taken {
    /// The application has answered, or failed.
    pub(super) fn answered(self, served: &Result<Served, Error>, epoch: Instant) {
        let Some(mut running) = self.running else {
            return;
        };
        // One that fails may do so without any work.
        let worked = served
            .as_ref()
            .is_ok_and(|served| !served.response.status().is_server_error());
        if let Some(adaptive) = running.adaptive.take_if(|_| worked) {
            adaptive.answered(running.begun, epoch.elapsed());
        }
    }
}

// === impl Running ===

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(adaptive) = &self.adaptive {
            adaptive.leave();
        }
    }
}
