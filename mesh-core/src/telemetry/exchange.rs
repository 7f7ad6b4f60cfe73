//! The record of one exchange: a request and its answer, or one opaque connection.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, Uri, header};
use inmesh_pki::id::SpiffeId;

use super::text::{Attempted, SharedText};
use super::trace::TraceContext;
use crate::error::{Error, Reason};
use crate::model::ObjectKey;

/// Which way the exchange goes, seen from the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Direction {
    /// To the workload: it is the destination.
    Inbound,
    /// From the workload: it is the source.
    Outbound,
}

/// What was spoken with the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// gRPC over HTTP/2.
    Grpc,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Opaque bytes.
    Tcp,
}

/// What happened to one request or opaque connection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Exchange {
    /// Which way it went.
    pub direction: Direction,
    /// What was spoken with the caller.
    pub protocol: Protocol,
    /// The method; `None` for an opaque connection.
    pub method: Option<Method>,
    /// The target as it was decided on.
    pub uri: Uri,
    /// The authority that the caller asked for.
    pub authority: SharedText,
    /// The caller's user agent, cut at 256 bytes.
    pub user_agent: Option<header::HeaderValue>,
    /// The address that the connection from the caller came from, or that its proxy named where the
    /// listener trusts that.
    pub caller: Option<SocketAddr>,
    /// The TLS peer: inbound the caller, outbound the server; `None` without mutual TLS.
    pub tls_peer: Option<SpiffeId>,
    /// The host of the destination Service, as metrics carry it; empty where none was found.
    pub service: SharedText,
    /// The local workload as `namespace/name`: inbound the destination, outbound the source.
    pub workload: SharedText,
    /// The route that matched and its rule, counted from 0.
    pub route: Option<(ObjectKey, usize)>,
    /// The endpoints that it was sent to, in order.
    pub attempts: Attempted,
    /// The status of the answer; 499 where the caller did not wait for one, 0 for an opaque
    /// connection.
    pub status: u16,
    /// The gRPC status of the answer, where it carried one.
    pub grpc_status: Option<u8>,
    /// Why the mesh answered or cut it; `None` for an answer of the application.
    pub reason: Option<Reason>,
    /// What a person needs to know about the reason.
    pub detail: Option<String>,
    /// The policy that decided on it.
    pub policy: Option<ObjectKey>,
    /// Its place in a trace; the span is this hop's own.
    pub trace: TraceContext,
    /// The span above this hop's; `None` at the start of a trace.
    pub parent_span: Option<u64>,
    /// Bytes of body (or of the connection) from the caller.
    pub request_bytes: u64,
    /// Bytes of body (or of the connection) to the caller.
    pub response_bytes: u64,
    /// How long it took, to the last byte.
    pub duration: Duration,
}

// === impl Direction ===

impl Direction {
    /// `inbound` or `outbound`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

// === impl Protocol ===

impl Protocol {
    /// What a message is spoken in.
    pub(crate) fn of(version: http::Version, headers: &HeaderMap) -> Self {
        match version {
            http::Version::HTTP_2 if crate::error::is_grpc(headers) => Self::Grpc,
            http::Version::HTTP_2 => Self::Http2,
            _ => Self::Http1,
        }
    }

    /// The gRPC status in the header or the trailers of an answer. A field of that name in another
    /// protocol says nothing.
    #[cfg(feature = "runtime")]
    pub(crate) fn grpc_status(self, headers: &HeaderMap) -> Option<u8> {
        match self {
            Self::Grpc => crate::error::grpc_status(headers),
            Self::Http1 | Self::Http2 | Self::Tcp => None,
        }
    }

    /// As records name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Tcp => "tcp",
        }
    }

    /// The value of Istio's `request_protocol` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http1 | Self::Http2 => "http",
            Self::Tcp => "tcp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Exchange ===

impl Exchange {
    /// An exchange that has begun.
    ///
    /// ```
    /// use inmesh_core::telemetry::{Direction, Exchange, Protocol, trace::TraceContext};
    /// let trace = TraceContext::new(1, 2, false);
    /// let exchange = Exchange::new(Direction::Inbound, Protocol::Tcp, trace);
    /// assert!(!exchange.is_failure());
    /// ```
    #[inline]
    pub fn new(direction: Direction, protocol: Protocol, trace: TraceContext) -> Self {
        Self {
            direction,
            protocol,
            method: None,
            uri: Uri::default(),
            authority: SharedText::default(),
            user_agent: None,
            caller: None,
            tls_peer: None,
            service: SharedText::default(),
            workload: SharedText::default(),
            route: None,
            attempts: Attempted::default(),
            status: 0,
            grpc_status: None,
            reason: None,
            detail: None,
            policy: None,
            trace,
            parent_span: None,
            request_bytes: 0,
            response_bytes: 0,
            duration: Duration::ZERO,
        }
    }

    /// Notes that the mesh itself answers, or ends it.
    pub(crate) fn failed(&mut self, error: &Error) {
        self.reason = Some(error.reason());
        self.detail = Some(error.to_string());
        if self.protocol == Protocol::Grpc {
            self.grpc_status = Some(error.reason().grpc_status());
        }
        self.policy = error.policy().cloned();
    }

    /// Whether it is a connection that was refused before it carried anything, of a peer without an
    /// identity.
    pub(super) fn is_of_a_stranger(&self) -> bool {
        self.method.is_none() && self.tls_peer.is_none() && self.attempts.is_empty()
    }

    /// Whether it failed by the server's or the mesh's doing: a status of 500 and above, a gRPC
    /// status that says so, or no answer at all.
    pub fn is_failure(&self) -> bool {
        self.reason.is_some_and(|r| r != Reason::CallerGone)
            || self.status >= StatusCode::INTERNAL_SERVER_ERROR.as_u16()
            || matches!(self.grpc_status, Some(2 | 4 | 12 | 13 | 14 | 15))
    }
}
