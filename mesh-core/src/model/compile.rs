//! From a Service's documents to its view. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::endpoint::{Conditions, Endpoint, EndpointSet, Host};
use super::few::Few;
use super::service::{Service, ServicePort, ServiceView, Slice};
use crate::route::{Route, RouteTable};

/// What a resolver found for a name: addresses, with a port where SRV gave one.
pub(super) type Addresses = Arc<[(IpAddr, Option<u16>)]>;

/// The host names that the endpoints of a Service need.
pub(super) fn hosts(service: Option<&Service>, slices: &[Arc<Slice>]) -> BTreeSet<Host> {
    let external = service
        .and_then(|s| s.external.as_ref())
        .map(|(host, _)| host);
    let listed = slices
        .iter()
        .flat_map(|s| s.hosts.iter().map(|(host, _)| host));
    external
        .into_iter()
        .chain(listed)
        .filter(|host| matches!(host, Host::Name { .. }))
        .cloned()
        .collect()
}

/// Compiles the view of a Service.
pub(super) fn view(
    service: &Service,
    slices: &[Arc<Slice>],
    routes: &[Arc<Route>],
    addresses: &impl Fn(&Host) -> Option<Addresses>,
    before: Option<&ServiceView>,
) -> ServiceView {
    let endpoints = service
        .ports
        .iter()
        .map(|port| {
            let set = EndpointSet::build(
                endpoints(service, port, slices, addresses),
                before.and_then(|b| b.endpoints(port.port)).map(|s| &**s),
            );
            (port.port, Arc::new(set))
        })
        .collect();
    ServiceView {
        name: service.name.clone(),
        key: service.name.to_string().as_str().into(),
        host: format!("{}.svc.cluster.local", service.name).into(),
        ports: service.ports.clone(),
        routes: RouteTable::build(&service.name, routes),
        endpoints,
    }
}

fn endpoints(
    service: &Service,
    port: &ServicePort,
    slices: &[Arc<Slice>],
    addresses: &impl Fn(&Host) -> Option<Addresses>,
) -> Vec<Endpoint> {
    let mut out = Vec::new();
    if let Some((host, transport)) = &service.external {
        for at in places(host, port.port, addresses) {
            out.push(Endpoint {
                addresses: at,
                transport: transport.clone(),
                conditions: Conditions::default(),
                workload: Arc::default(),
                version: Arc::default(),
            });
        }
    }
    for slice in slices {
        // A nameless port stands for the only port of its Service.
        let Some(target) = slice.ports.iter().find(|p| p.name == port.name) else {
            continue;
        };
        for (host, conditions) in &slice.hosts {
            for at in places(host, target.port, addresses) {
                out.push(Endpoint {
                    addresses: at,
                    transport: slice.transport.clone(),
                    conditions: *conditions,
                    workload: slice.workload.clone(),
                    version: slice.version.clone(),
                });
            }
        }
    }
    out
}

/// The places that a host stands for. A name with addresses of both families gives pairs of them
/// (IPv6 first), so that each endpoint can be reached in either (RFC 8305); the shorter family is
/// used again from its start.
fn places(
    host: &Host,
    port: u16,
    addresses: &impl Fn(&Host) -> Option<Addresses>,
) -> Vec<Few<SocketAddr>> {
    let found = match host {
        Host::Address(ip) => return vec![SocketAddr::new(*ip, port).into()],
        Host::Name { .. } => addresses(host).unwrap_or_else(|| Arc::new([])),
    };
    let family = |v6: bool| -> Vec<SocketAddr> {
        found
            .iter()
            .filter(|(ip, _)| ip.is_ipv6() == v6)
            .map(|(ip, srv)| SocketAddr::new(*ip, srv.unwrap_or(port)))
            .collect()
    };
    let (v6, v4) = (family(true), family(false));
    (0..v6.len().max(v4.len()))
        .map(|n| {
            let nth = |of: &[SocketAddr]| (!of.is_empty()).then(|| of[n % of.len()]);
            nth(&v6).into_iter().chain(nth(&v4)).collect()
        })
        .collect()
}
