//! A Service compiled: all that a request to it needs, in one place.

use std::sync::Arc;
#[cfg(any(feature = "runtime", feature = "simulate"))]
use std::time::Duration;

use super::asked::{AskedSet, OutsideView};
use crate::balance::EndpointSet;
use crate::model::{AppProtocol, Asked, Few, Outside, ServiceName, ServicePort, Text};
use crate::retry::RetryBudget;
use crate::route::RouteTable;
use crate::traffic::Traffic;

/// All that a request to a Service needs, compiled: a part of a snapshot. What each request reads comes
/// first.
#[derive(Debug)]
#[non_exhaustive]
#[repr(C)]
pub struct ServiceView {
    /// `name.namespace`, where a look-up can compare it without another step.
    pub(super) key: Text,
    /// What a request reads of each port, in its place.
    pub(super) endpoints: Few<PortView>,
    /// The routes attached to it, in order of precedence.
    pub routes: RouteTable,
    /// Its name.
    pub name: ServiceName,
    /// Its host name, `name.namespace.svc.` and the cluster domain, as metrics and logs carry it.
    pub host: Arc<str>,
    /// What is left of the repeats of requests to it, the same as long as it exists.
    pub retries: Arc<RetryBudget>,
    /// Its ports.
    pub ports: Arc<[ServicePort]>,
    /// What is known of hosts outside the mesh that lead to it, if any do.
    pub(super) outside: Option<Box<OutsideView>>,
}

/// One port of a Service, with its endpoints.
#[derive(Debug, Clone)]
pub(crate) struct PortView {
    pub(crate) port: u16,
    pub(crate) protocol: AppProtocol,
    pub(crate) endpoints: Arc<EndpointSet>,
    pub(crate) traffic: Arc<Traffic>,
}

impl ServiceView {
    /// Whether it is the Service of that name.
    pub(super) fn is(&self, namespace: &str, name: &str) -> bool {
        let rest = self.key.as_bytes().strip_prefix(name.as_bytes());
        let rest = rest.and_then(|rest| rest.strip_prefix(b"."));
        rest == Some(namespace.as_bytes())
    }

    /// The port of that number.
    pub fn port(&self, port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.port == port)
    }

    /// The endpoints behind a port; `None` if the Service has no such port.
    pub fn endpoints(&self, port: u16) -> Option<&Arc<EndpointSet>> {
        self.port_view(port).map(|view| &view.endpoints)
    }

    /// What is asked of requests to a port; `None` if the Service has no such port.
    pub fn traffic(&self, port: u16) -> Option<&Arc<Traffic>> {
        self.port_view(port).map(|view| &view.traffic)
    }

    /// A request is sent to a port for the first time, at a moment on the clock of its repeats.
    #[cfg(any(feature = "runtime", feature = "simulate"))]
    pub(crate) fn handle_request(&self, port: u16, now: Duration) {
        if let Some(traffic) = self.traffic(port) {
            self.retries.handle_request(&traffic.budget.value, now);
        }
    }

    /// The hosts outside the mesh that lead to it, if any do.
    pub fn outside(&self) -> Option<&Outside> {
        self.outside.as_ref()?.service.outside.as_ref()
    }

    /// The endpoints of a host that was asked for, once they are known.
    pub(crate) fn asked(&self, asked: &Asked) -> Option<&AskedSet> {
        self.outside.as_ref()?.set(asked)
    }

    /// What a request reads of a port.
    pub(crate) fn port_view(&self, port: u16) -> Option<&PortView> {
        self.endpoints.iter().find(|view| view.port == port)
    }
}
