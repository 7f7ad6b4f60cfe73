//! Where a request is meant to go, and why it is not sent.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::authorize::Denied;
use crate::error::{Error, Reason};
use crate::model::ServiceName;
use crate::route::NoRoute;
use crate::snapshot::ServiceView;

/// Where a request or connection is meant to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Destination<'a> {
    /// An address that an application connected to: a Service's virtual address and a port of it.
    Address(SocketAddr),
    /// An address that an application connected to, and the host that it asks for there: the Service that
    /// has the address, or else the one that the host leads to.
    Captured {
        /// The address.
        address: SocketAddr,
        /// The host, with a port or not.
        authority: &'a str,
    },
    /// The Service that an authority names, from the local workload's namespace.
    Authority(&'a str),
    /// A port of a Service.
    Service {
        /// The Service.
        name: &'a ServiceName,
        /// The port's number on the Service.
        port: u16,
    },
}

/// A request that is not sent.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Refused {
    /// The Service that was asked for, if it is known.
    pub service: Option<Arc<ServiceView>>,
    /// Why it is not sent.
    pub reason: Refusal,
}

/// Why a request is not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The egress policy of the local workload denies it: 403.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// No route leads on: 404 or 500.
    #[error(transparent)]
    NoRoute(#[from] NoRoute),
    /// No Service has the name or address: 404.
    #[error("{0}")]
    UnknownHost(String),
}

// === impl Refused ===

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused.reason {
            Refusal::Denied(denied) => denied.into(),
            Refusal::NoRoute(none) => none.into(),
            Refusal::UnknownHost(what) => Self::new(Reason::UnknownHost, what),
        }
    }
}
