//! The stage: a destination and a permit in, the matched route with its changes made out.

use super::{NoRoute, RouteMatch, decide};
use crate::authorize::{HttpView, Permit, RequestView};
use crate::error::{Error, Reason};
use crate::model::{AppProtocol, Destination, Draw, Namespace, Snapshot};

/// A request's way: the route, and the protocol that the backend's port speaks.
#[derive(Debug)]
pub(crate) struct Routed {
    pub(crate) matched: RouteMatch,
    pub(crate) protocol: AppProtocol,
}

/// Routes a request, or the opaque connection where `http` is `None`.
pub(crate) fn route(
    snapshot: &Snapshot,
    to: &Destination,
    caller: &Namespace,
    permit: &Permit,
    http: Option<HttpView<'_>>,
    draw: &mut Draw,
) -> Result<Routed, Error> {
    let view = http.map_or(RequestView::Tcp, RequestView::Http);
    let matched = decide(&to.service, to.port, caller, permit, &view, draw, &mut ())?;
    let protocol = if matched.route().is_none() {
        to.service.port(to.port).map(|p| p.protocol)
    } else {
        // A dangling backend is found out, and answered, by the balancer.
        snapshot
            .service(matched.service())
            .and_then(|s| s.port(matched.port()))
            .map(|p| p.protocol)
    };
    Ok(Routed {
        matched,
        protocol: protocol.unwrap_or(AppProtocol::Detect),
    })
}

impl From<NoRoute> for Error {
    fn from(none: NoRoute) -> Self {
        let reason = match &none {
            NoRoute::NoBackend { .. } => Reason::NoBackend,
            NoRoute::NoMatch { .. } | NoRoute::NoPort { .. } => Reason::NoRoute,
        };
        Self::new(reason, none.to_string())
    }
}
