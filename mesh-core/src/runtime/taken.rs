//! Whether a local workload takes a request that is permitted.

use std::sync::Arc;

use http::Request;

use super::shared::Shared;
use crate::authorize::{HttpView, Permit, PermitReason, RequestView};
use crate::body::Body;
use crate::error::Error;
use crate::identify::Peer;
use crate::local::Local;

/// Takes a request as a policy lets the workload. A probe counts nowhere.
pub(super) fn taken(
    shared: &Shared,
    local: &Arc<Local>,
    peer: &Peer,
    request: &Request<Body>,
    permit: Permit,
) -> Result<Permit, Error> {
    let snapshot = shared.reader.peek();
    let Some(limiter) = snapshot.limiter(local) else {
        return Ok(permit);
    };
    if matches!(permit.reason(), PermitReason::Probe) {
        return Ok(permit);
    }
    let view = RequestView::Http(HttpView::of(request));
    match limiter.admit(peer, &view, shared.upstreams.now()) {
        Ok(()) => Ok(permit),
        Err(limited) => Err(limiter.refuse(&limited)),
    }
}
