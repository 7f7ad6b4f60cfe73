//! Connect: an endpoint in, a connection out, pooled where the protocol allows.
//!
//! The only room that owns connections to endpoints. HTTP/1.1 connections are kept idle and used
//! last in, first out; HTTP/2 connections are shared up to their limit of streams; opaque
//! connections are never shared. It refuses to fall back from one transport to another, and to
//! write a byte to a server whose identity may not serve the endpoint.

mod headers;
mod http;
mod outside;
mod pool;
mod tcp;
mod tunnel;
mod unsent;

pub(crate) use self::http::Kept;
pub(crate) use headers::{answered, goes_on_in_h2, is_upgrade, prepare};
pub(crate) use outside::OutsideRoots;
pub(crate) use pool::Lease;
pub(crate) use tcp::Io;
pub(crate) use tunnel::{copy, splice, switched};
pub(crate) use unsent::{Fault, Unsent};

use std::sync::Arc;
use std::time::Duration;

use inmesh_pki::clock::Clock;

use crate::identify::Tls;

/// Makes connections to endpoints and keeps them. One for each runtime.
pub(crate) struct Connector {
    pub(crate) tls: Tls,
    pub(crate) outside: OutsideRoots,
    pub(crate) clock: Arc<dyn Clock>,
    /// The limit of a TCP connect and, apart, of the TLS handshake.
    pub(crate) connect_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    /// How long an idle connection is kept.
    pub(crate) idle: Duration,
    /// How many idle connections are kept for each endpoint.
    pub(crate) idle_max: usize,
}
