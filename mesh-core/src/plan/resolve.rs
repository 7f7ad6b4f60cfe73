//! Which port of a Service a destination is. Pure.
//!
//! 1. A Service of the mesh: by its name, by its virtual address, by the authority that names it.
//! 2. A Service outside the mesh, by the host that is asked for: of an authority, or of a captured
//!    connection's request or TLS handshake.
//! 3. Where all hosts are reached, the one that stands for those that no document names.

use std::net::SocketAddr;
use std::sync::Arc;

use super::destination::{Destination, Refusal, Refused};
use crate::authorize::RequestView;
use crate::local::Local;
use crate::model::Asked;
use crate::snapshot::{Lead, Resolved, ServiceView, Snapshot};

/// The port of an authority that names none.
const HTTP_PORT: u16 = 80;

/// Resolves a destination, with the host outside the mesh whose endpoints no document lists.
pub(super) fn resolve(
    snapshot: &Snapshot,
    local: &Local,
    to: Destination<'_>,
    request: &RequestView<'_>,
) -> Result<(Resolved, Option<Asked>), Refused> {
    let at = |service: &Arc<ServiceView>, port| Resolved {
        service: Arc::clone(service),
        port,
    };
    let namespace = &local.workload().namespace;
    let at_address = |address: SocketAddr| {
        let found = snapshot.at_address(address.ip());
        found.map(|service| at(service, address.port()))
    };
    let found = match to {
        Destination::Address(address) | Destination::Captured { address, .. } => {
            at_address(address)
        }
        Destination::Authority(authority) => snapshot.resolve(authority, namespace, HTTP_PORT),
        Destination::Service { name, port } => {
            snapshot.service(name).map(|service| at(service, port))
        }
    };
    if let Some(found) = found {
        return Ok((found, None));
    }
    outside(snapshot, local, to, request).ok_or_else(|| unknown(to))
}

/// A destination that is no Service of the mesh.
#[cold]
fn outside(
    snapshot: &Snapshot,
    local: &Local,
    to: Destination<'_>,
    request: &RequestView<'_>,
) -> Option<(Resolved, Option<Asked>)> {
    let server = match request {
        RequestView::Tls { server } => *server,
        _ => None,
    };
    let (host, port, original) = match to {
        Destination::Service { .. } => return None,
        Destination::Address(address) => (server, Some(address.port()), Some(address.ip())),
        Destination::Captured { address, authority } => {
            let (host, _) = parted(authority)?;
            (Some(host), Some(address.port()), Some(address.ip()))
        }
        Destination::Authority(authority) => {
            let (host, port) = parted(authority)?;
            (Some(host), port, None)
        }
    };
    let lead = Lead {
        host: host.unwrap_or_default(),
        port,
        original,
    };
    let named = match lead.host {
        "" => None,
        _ => snapshot.outside(lead, &local.workload().namespace, HTTP_PORT),
    };
    named.or_else(|| {
        let port = Some(port.unwrap_or(HTTP_PORT));
        let (resolved, asked) = snapshot.passthrough(Lead { port, ..lead })?;
        Some((resolved, Some(asked)))
    })
}

/// The host and the port of an authority; `None` if the port is no number.
fn parted(authority: &str) -> Option<(&str, Option<u16>)> {
    match authority.rsplit_once(':') {
        // The end of an IPv6 address.
        Some((_, port)) if port.ends_with(']') => Some((authority, None)),
        Some((host, port)) => Some((host, Some(port.parse().ok()?))),
        None => Some((authority, None)),
    }
}

fn unknown(to: Destination<'_>) -> Refused {
    let what = match to {
        Destination::Address(address) => format!("no Service has the address {address}"),
        Destination::Captured { address, authority } => {
            format!("no Service has the address {address}, and none is for the host {authority:?}")
        }
        Destination::Authority(authority) => format!("no Service has the name {authority:?}"),
        Destination::Service { name, .. } => format!("Service {name} does not exist"),
    };
    Refused {
        service: None,
        reason: Refusal::UnknownHost(what),
    }
}
