//! The routes of one Service, compiled from those that are attached to it: a table for each
//! protocol.

pub(super) mod grpc;
pub(super) mod http;

use std::sync::Arc;

use grpc::GrpcTable;
use http::HttpTable;

use super::grpc::GrpcRoute;
use super::rule::{Inherited, Route};
use crate::model::{Namespace, ObjectKey, ServiceName, ServicePort};

/// The routes of one Service. Opaque connections have none and go to the Service itself.
#[derive(Debug, Clone)]
pub struct RouteTable {
    pub(super) service: ServiceName,
    pub(super) http: HttpTable,
    /// Few Services have one, and a request reads what lies around it.
    pub(super) grpc: Option<Box<GrpcTable>>,
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
        self.grpc = (!table.is_empty()).then(|| Box::new(table));
        self
    }

    /// The GRPCRoute in whose place an HTTPRoute of a namespace would be at a port, so that it has no
    /// effect there; `None` of a port is all.
    pub(crate) fn conflict(&self, of: &Namespace, port: Option<u16>) -> Option<&ObjectKey> {
        self.grpc.as_ref()?.attached(of, port)
    }

    /// Whether no route is attached, so that requests go to the Service itself.
    pub fn is_empty(&self) -> bool {
        self.http.is_empty() && self.grpc.is_none()
    }
}
