//! Connect: an endpoint in, a connection out, pooled where the protocol allows.
//!
//! The only room that owns connections to endpoints. HTTP/1.1 connections are kept idle and used
//! last in, first out; HTTP/2 connections are shared up to their limit of streams; opaque
//! connections are never shared, and none is between local workloads. It refuses to fall back from
//! one transport to another, and to write a byte to a server whose identity may not serve the
//! endpoint.

mod by_local;
mod connection;
mod connector;
mod driven;
mod forward;
mod gate;
mod headers;
mod http;
mod kept;
mod lease;
mod line;
mod origin;
mod outside;
mod pool;
mod read_on;
mod rest;
mod tcp;
mod tunnel;
mod unsent;
mod way_out;

pub(crate) use connector::Connector;
pub(crate) use forward::{Forward, Switched, forward, may_switch};
pub(crate) use gate::{Counted, Gate};
pub(crate) use http::{Sent, Way};
pub(crate) use kept::Kept;
pub(crate) use lease::Lease;
pub(crate) use origin::Origin;
pub(crate) use outside::OutsideRoots;
pub(crate) use tcp::Io;
pub(crate) use tunnel::{Flow, copy, drained, splice};
pub(crate) use unsent::{SPARING, Unsent};
pub(crate) use way_out::{WayOut, as_upgrade, protocol_of};
