//! The routes of one Service, compiled from those that are attached to it: a table for each
//! protocol.

pub(super) mod http;

use std::sync::Arc;

use http::HttpTable;

use super::rule::Route;
use crate::model::{ServiceName, ServicePort};

/// The routes of one Service. Opaque connections have none and go to the Service itself.
#[derive(Debug, Clone)]
pub struct RouteTable {
    pub(super) service: ServiceName,
    pub(super) http: HttpTable,
}

// === impl RouteTable ===

impl RouteTable {
    /// Builds the tables of one Service, with its ports, from the routes attached to it.
    pub fn build<'a>(
        service: &ServiceName,
        ports: &[ServicePort],
        routes: impl IntoIterator<Item = &'a Arc<Route>>,
    ) -> Self {
        Self {
            service: service.clone(),
            http: HttpTable::build(service, ports, routes),
        }
    }

    /// Whether no route is attached, so that requests go to the Service itself.
    pub fn is_empty(&self) -> bool {
        self.http.is_empty()
    }
}
