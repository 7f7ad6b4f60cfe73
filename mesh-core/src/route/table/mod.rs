//! The routes of one Service, compiled from those that are attached to it: a table for each
//! protocol.

pub(super) mod gate;
pub(super) mod grpc;
pub(super) mod http;
pub(super) mod opaque;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use grpc::GrpcTable;
use http::HttpTable;
use opaque::{OpaqueTable, OpaqueWhen};

use super::grpc::GrpcRoute;
use super::opaque::OpaqueRoute;
use super::rule::{Inherited, Route};
use crate::model::{Kind, Namespace, ObjectKey, ServiceName, ServicePort};

/// The routes of one Service.
#[derive(Debug, Clone)]
#[repr(C)]
pub struct RouteTable {
    pub(super) http: HttpTable,
    /// Few Services have one, and a request reads what lies around it.
    pub(super) grpc: Option<Arc<GrpcTable>>,
    /// The same of opaque connections.
    pub(super) opaque: Option<Arc<OpaqueTable>>,
    pub(super) service: ServiceName,
}

/// What connections to a port are where routes of opaque ones are in effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RoutedAs {
    /// Opaque: they may be anything.
    Tcp,
    /// TLS: what a connection is matched by is the server that it names.
    Tls,
}

// === impl RouteTable ===

impl RouteTable {
    /// Builds the tables of one Service, with its ports, from the routes attached to it; `inherit` says
    /// what a rule has of policies.
    pub fn build<'a>(
        service: &ServiceName,
        ports: &[ServicePort],
        routes: impl IntoIterator<Item = &'a Arc<Route>>,
        inherit: &impl Fn(&ObjectKey, Option<&str>) -> Inherited,
    ) -> Self {
        Self {
            service: service.clone(),
            http: HttpTable::build(service, ports, routes, inherit),
            grpc: None,
            opaque: None,
        }
    }

    /// The same with the gRPC routes attached to the Service.
    #[must_use]
    pub fn with_grpc<'a>(
        mut self,
        ports: &[ServicePort],
        routes: impl IntoIterator<Item = &'a Arc<GrpcRoute>>,
        inherit: &impl Fn(&ObjectKey, Option<&str>) -> Inherited,
    ) -> Self {
        let table = GrpcTable::build(&self.service, ports, routes, inherit);
        self.grpc = (!table.is_empty()).then(|| Arc::new(table));
        self
    }

    /// The same with the TLSRoutes and TCPRoutes attached to the Service.
    #[must_use]
    pub fn with_opaque<'a>(
        mut self,
        ports: &[ServicePort],
        routes: impl IntoIterator<Item = &'a Arc<OpaqueRoute>>,
    ) -> Self {
        let table = OpaqueTable::build(&self.service, ports, routes);
        self.opaque = (!table.is_empty()).then(|| Arc::new(table));
        self
    }

    /// The route in whose place another of a namespace would be at a port, so that it has no effect
    /// there. GRPCRoutes come before HTTPRoutes, then TLSRoutes, then TCPRoutes
    /// (GEP-1294). Of TCPRoutes, which match alike, the first has effect.
    pub(crate) fn conflict(&self, key: &ObjectKey, port: u16) -> Option<&ObjectKey> {
        let (of, port) = (&key.namespace, Some(port));
        if key.kind == Kind::GrpcRoute {
            return None;
        }
        let grpc = self.grpc.as_ref().and_then(|grpc| grpc.attached(of, port));
        if grpc.is_some() || key.kind == Kind::HttpRoute {
            return grpc;
        }
        if let Some(http) = self.http.attached(&self.service, of, port) {
            return Some(http);
        }
        let opaque = self.opaque.as_deref()?;
        let first = opaque.attached(of, port).next()?;
        let route = opaque.route(first);
        let other = match key.kind {
            Kind::TlsRoute => false,
            _ => route != key,
        };
        other.then_some(route)
    }

    /// The routes of opaque connections that decide for a caller at a port, by the namespace that they
    /// are of; `None` if there are none, or routes of requests are in effect.
    pub(super) fn opaque_side<'a>(
        &'a self,
        port: u16,
        caller: &'a Namespace,
    ) -> Option<(&'a OpaqueTable, &'a Namespace)> {
        let of = self.opaque.as_deref()?;
        let own = self.service.namespace();
        let sides = [Some(caller).filter(|caller| *caller != own), Some(own)];
        for side in sides.into_iter().flatten() {
            let grpc = self.grpc.as_ref();
            let grpc = grpc.and_then(|grpc| grpc.attached(side, Some(port)));
            let http = || self.http.attached(&self.service, side, Some(port));
            if grpc.or_else(http).is_some() {
                return None;
            }
            if of.attached(side, Some(port)).next().is_some() {
                return Some((of, side));
            }
        }
        None
    }

    /// What a caller's connections to a port are, if routes of opaque connections decide for it.
    pub fn routed_as(&self, port: u16, caller: &Namespace) -> Option<RoutedAs> {
        let (of, side) = self.opaque_side(port, caller)?;
        let first = of.attached(side, Some(port)).next()?;
        Some(match &first.when {
            OpaqueWhen::Any => RoutedAs::Tcp,
            OpaqueWhen::Tls(_) => RoutedAs::Tls,
        })
    }

    /// Whether no route is attached, so that requests go to the Service itself.
    pub fn is_empty(&self) -> bool {
        self.http.is_empty() && self.grpc.is_none() && self.opaque.is_none()
    }
}
