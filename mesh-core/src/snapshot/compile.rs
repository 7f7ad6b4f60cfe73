//! From a Service's documents to its view. Pure.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::asked::{AskedSet, OutsideView};
use super::service::{PortView, ServiceView};
use super::settings::Settings;
use crate::authorize::PathForm;
use crate::balance::{EndpointSet, Nearness};
use crate::model::{
    Asked, Endpoint, Few, Host, HostAddress, Locality, ObjectKey, Resolution, Service, ServicePort,
    Slice, SliceHost, Transport,
};
use crate::origination::{self, BackendTlsPolicy, RootsAt};
use crate::route::{GrpcRoute, OpaqueRoute, Route, RouteTable};
use crate::traffic::{self, Traffic, TrafficPolicy};

/// The objects that make up one Service.
pub(super) struct CompileInput<'a> {
    pub(super) service: &'a Arc<Service>,
    /// The hosts outside the mesh that were asked for.
    pub(super) asked: &'a BTreeSet<Asked>,
    pub(super) slices: &'a [Arc<Slice>],
    pub(super) routes: &'a [Arc<Route>],
    pub(super) grpc_routes: &'a [Arc<GrpcRoute>],
    pub(super) opaque_routes: &'a [Arc<OpaqueRoute>],
    /// The policies that may reach it or one of its routes.
    pub(super) traffic: &'a [Arc<TrafficPolicy>],
    /// Those that say what its servers outside the mesh prove, and the roots that these refer to.
    pub(super) tls: &'a [Arc<BackendTlsPolicy>],
    pub(super) roots: RootsAt<'a>,
}

/// What stands beside the documents of a Service.
pub(super) struct Beside<'a> {
    /// The addresses of a name, where a resolver has found them.
    pub(super) addresses: &'a dyn Fn(&Host) -> Option<Addresses>,
    /// What a host of a slice is; `None` where only its Pod could say it, which is not known.
    pub(super) member: &'a dyn Fn(&Slice, &SliceHost) -> Option<Member>,
}

/// What a host of a slice is.
pub(super) struct Member {
    pub(super) transport: Transport,
    pub(super) workload: Arc<str>,
    pub(super) version: Arc<str>,
    pub(super) locality: Arc<Locality>,
}

/// What a resolver found for a name.
pub(super) type Addresses = Arc<[HostAddress]>;

/// The host names that the endpoints of a Service need.
pub(super) fn hosts(
    service: Option<&Service>,
    slices: &[Arc<Slice>],
    asked: &BTreeSet<Asked>,
) -> BTreeSet<Host> {
    let outside = service.and_then(|service| service.outside.as_ref());
    let outside = outside.map_or(&[][..], |outside| match &outside.resolution {
        Resolution::Listed(hosts) => hosts,
        _ => &[],
    });
    let external = service
        .and_then(|s| s.external.as_ref())
        .map(|(host, _)| host);
    let listed = slices
        .iter()
        .flat_map(|s| s.hosts.iter().map(|host| &host.host));
    external
        .into_iter()
        .chain(listed)
        .chain(outside.iter().map(|host| &host.host))
        .chain(asked.iter().map(|asked| &asked.host))
        .filter(|host| matches!(host, Host::Name { .. }))
        .cloned()
        .collect()
}

/// Compiles the view of a Service.
pub(super) fn view(
    settings: &Settings,
    parts: &CompileInput<'_>,
    beside: &Beside<'_>,
    before: Option<&ServiceView>,
) -> ServiceView {
    let service = parts.service;
    let endpoints = service.ports.iter().map(|port| {
        let mut traffic =
            traffic::of_port(parts.traffic, (service, &*port.name), &settings.traffic);
        let mut endpoints = endpoints(service, port, parts.slices, beside);
        originate(parts, port, &mut endpoints, &mut traffic);
        let before = before.and_then(|b| b.endpoints(port.port)).map(|s| &**s);
        port_view(settings, port, endpoints, traffic, before)
    });
    let endpoints: Few<PortView> = endpoints.collect();
    ServiceView {
        name: service.name.clone(),
        key: service.name.to_string().as_str().into(),
        host: format!("{}.svc.{}", service.name, settings.cluster_domain).into(),
        ports: service.ports.as_slice().into(),
        routes: routes(settings, parts),
        retries: before.map_or_else(Arc::default, |before| Arc::clone(&before.retries)),
        outside: outside(settings, parts, &endpoints, beside, before),
        endpoints,
    }
}

/// Compiles the view of a Service of which nothing but the endpoints has changed, for which no
/// BackendTLSPolicy is, and to which no host outside the mesh leads.
pub(super) fn moved(
    settings: &Settings,
    (service, slices): (&Service, &[Arc<Slice>]),
    beside: &Beside<'_>,
    before: &ServiceView,
) -> ServiceView {
    let ports = before.ports.iter().zip(before.endpoints.iter());
    let ports = ports.map(|(port, before)| {
        let endpoints = endpoints(service, port, slices, beside);
        let traffic = Arc::clone(&before.traffic);
        port_view(settings, port, endpoints, traffic, Some(&*before.endpoints))
    });
    ServiceView {
        key: before.key.clone(),
        endpoints: ports.collect(),
        outside: None,
        routes: before.routes.clone(),
        name: before.name.clone(),
        host: Arc::clone(&before.host),
        retries: Arc::clone(&before.retries),
        ports: Arc::clone(&before.ports),
    }
}

fn port_view(
    settings: &Settings,
    port: &ServicePort,
    endpoints: Vec<Endpoint>,
    traffic: Arc<Traffic>,
    before: Option<&EndpointSet>,
) -> PortView {
    PortView {
        port: port.port,
        protocol: port.protocol,
        endpoints: Arc::new(built(settings, &traffic, endpoints, before)),
        traffic,
    }
}

/// The endpoints of a port, with what policies say of them.
fn built(
    settings: &Settings,
    traffic: &Traffic,
    endpoints: Vec<Endpoint>,
    before: Option<&EndpointSet>,
) -> EndpointSet {
    let proxied = traffic.proxy_protocol.as_ref().map(|block| block.value);
    let endpoints = { endpoints.into_iter() }.map(|one| one.with_proxy_protocol(proxied));
    EndpointSet::build(endpoints, before)
        .with_nearness(nearness(traffic), &settings.locality)
        .with_strategy(&traffic.strategy.value)
        .with_limits(traffic.limits.value)
        .with_slow_start(traffic.warmup.as_ref().map(|warmup| warmup.value))
        .with_eject(traffic.eject.value)
        .with_checks(traffic.check.is_some())
}

/// The endpoints of the hosts outside the mesh that were asked for.
fn outside(
    settings: &Settings,
    parts: &CompileInput<'_>,
    ports: &Few<PortView>,
    beside: &Beside<'_>,
    before: Option<&ServiceView>,
) -> Option<Box<OutsideView>> {
    let outside = parts.service.outside.as_ref()?;
    let sets = parts.asked.iter().filter_map(|asked| {
        let port = ports.iter().find(|of| of.port == asked.port)?;
        let transport = &outside.port(asked.port)?.transport;
        let transport = match &port.traffic.tls {
            Some(tls) => tls.value.of(transport),
            None => named(transport, &asked.host),
        };
        let host = SliceHost::new(asked.host.clone());
        let endpoints = endpoints_of(&host, asked.target, &transport, beside);
        let known = before.and_then(|before| before.asked(asked));
        let set = built(
            settings,
            &port.traffic,
            endpoints,
            known.map(|known| &*known.endpoints),
        );
        Some(AskedSet {
            asked: asked.clone(),
            endpoints: Arc::new(set),
            used: known.map_or_else(Arc::default, |known| Arc::clone(&known.used)),
        })
    });
    Some(Box::new(OutsideView {
        service: Arc::clone(parts.service),
        sets: sets.collect(),
    }))
}

/// The transport to a host: where no name is written, the server has the one that is asked for.
fn named(transport: &Transport, host: &Host) -> Transport {
    match (transport, host) {
        (Transport::Tls { name, roots, names }, Host::Name { name: host, .. })
            if name.is_empty() =>
        {
            Transport::Tls {
                name: Arc::clone(host),
                roots: roots.clone(),
                names: Arc::clone(names),
            }
        }
        _ => transport.clone(),
    }
}

/// Speaks TLS to endpoints outside the mesh, where a policy says so.
fn originate(
    parts: &CompileInput<'_>,
    port: &ServicePort,
    endpoints: &mut [Endpoint],
    traffic: &mut Arc<Traffic>,
) {
    let at = (&parts.service.name, &*port.name);
    let Some(tls) = origination::of_port(parts.tls, at, parts.roots) else {
        return;
    };
    let in_mesh = |endpoint: &Endpoint| matches!(endpoint.transport, Transport::Mesh { .. });
    if !endpoints.is_empty() && endpoints.iter().all(in_mesh) {
        return;
    }
    for endpoint in endpoints {
        endpoint.transport = tls.value.of(&endpoint.transport);
    }
    Arc::make_mut(traffic).tls = Some(tls);
}

fn nearness(traffic: &Traffic) -> &Nearness {
    let near = traffic.nearness.as_ref();
    near.map_or(&Nearness::Anywhere, |near| &near.value)
}

fn routes(settings: &Settings, parts: &CompileInput<'_>) -> RouteTable {
    let (name, ports) = (&parts.service.name, &parts.service.ports);
    let inherit =
        |route: &ObjectKey, rule: Option<&str>| traffic::of_rule(parts.traffic, route, rule);
    let table = match settings.paths {
        form if form == PathForm::default() => {
            RouteTable::build(name, ports, parts.routes, &inherit)
        }
        form => {
            let seen = parts.routes.iter();
            let seen: Vec<_> = seen.map(|route| Arc::new(route.in_form(form))).collect();
            RouteTable::build(name, ports, &seen, &inherit)
        }
    };
    table
        .with_grpc(ports, parts.grpc_routes, &inherit)
        .with_opaque(ports, parts.opaque_routes)
}

fn endpoints(
    service: &Service,
    port: &ServicePort,
    slices: &[Arc<Slice>],
    beside: &Beside<'_>,
) -> Vec<Endpoint> {
    let mut out = Vec::new();
    if let Some(outside) = &service.outside
        && let Resolution::Listed(hosts) = &outside.resolution
        && let Some(of) = outside.port(port.port)
    {
        for host in hosts {
            let transport = named(&of.transport, &host.host);
            out.extend(endpoints_of(host, of.target, &transport, beside));
        }
    }
    if let Some((host, transport)) = &service.external {
        let host = SliceHost::new(host.clone());
        out.extend(endpoints_of(&host, port.port, transport, beside));
    }
    for slice in slices {
        // A nameless port stands for the only port of its Service.
        let Some(target) = slice.ports.iter().find(|p| p.name == port.name) else {
            continue;
        };
        for host in &slice.hosts {
            let Some(member) = (beside.member)(slice, host) else {
                continue;
            };
            for endpoint in endpoints_of(host, target.port, &member.transport, beside) {
                out.push(Endpoint {
                    workload: Arc::clone(&member.workload),
                    version: Arc::clone(&member.version),
                    locality: Arc::clone(&member.locality),
                    ..endpoint
                });
            }
        }
    }
    out
}

/// The endpoints of one host.
fn endpoints_of(
    host: &SliceHost,
    port: u16,
    transport: &Transport,
    beside: &Beside<'_>,
) -> Vec<Endpoint> {
    places(&host.host, port, beside)
        .into_iter()
        .map(|(addresses, weight)| Endpoint {
            addresses,
            transport: transport.clone(),
            conditions: host.conditions,
            proxy_protocol: None,
            workload: Arc::default(),
            version: Arc::default(),
            locality: Arc::clone(&host.locality),
            weight: host.weight.saturating_mul(weight),
            priority: host.priority,
        })
        .collect()
}

/// The addresses of each endpoint of a host, with the weight of the first of them. A name with addresses of both families gives pairs of them
/// (IPv6 first), so that each endpoint can be reached in either (RFC 8305); the shorter family is
/// used again from its start.
fn places(host: &Host, port: u16, beside: &Beside<'_>) -> Vec<(Few<SocketAddr>, u32)> {
    let found = match host {
        Host::Address(ip) => return vec![(SocketAddr::new(*ip, port).into(), 1)],
        Host::Name { .. } => (beside.addresses)(host).unwrap_or_else(|| Arc::new([])),
    };
    let family = |v6: bool| -> Vec<(SocketAddr, u32)> {
        let family = found.iter().filter(|found| found.ip.is_ipv6() == v6);
        family
            .map(|found| {
                let port = found.port.unwrap_or(port);
                (SocketAddr::new(found.ip, port), found.weight)
            })
            .collect()
    };
    let (v6, v4) = (family(true), family(false));
    (0..v6.len().max(v4.len()))
        .map(|n| {
            let nth = |of: &[(SocketAddr, u32)]| (!of.is_empty()).then(|| of[n % of.len()]);
            let (first, second) = (nth(&v6), nth(&v4));
            let weight = first.or(second).map_or(1, |(_, weight)| weight);
            let pair = first.into_iter().chain(second);
            (pair.map(|(address, _)| address).collect(), weight)
        })
        .collect()
}
