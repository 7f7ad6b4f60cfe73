//! What steers a request or an opaque connection while it is under way.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use crate::accept::Upload;
use crate::balance::Member;
use crate::connect::Flow;
use crate::error::Error;
use crate::local::Local;
use crate::model::Draw;
use crate::retry::Attempts;
use crate::snapshot::ServiceView;
use crate::telemetry::trace::TraceContext;
use crate::telemetry::{Direction, Exchange, Protocol};

/// A request under way: its record, and what steers it.
pub(super) struct Call {
    pub(super) exchange: Exchange,
    /// Whether sinks see the record. Where there are none as it begins, what only they read is left out.
    pub(super) shown: bool,
    /// When the request was there; its deadlines begin here.
    pub(super) started: Instant,
    /// When its caller gives up, if it has said so.
    pub(super) deadline: Option<Instant>,
    /// The body of the request, if its arrival is timed.
    pub(super) upload: Option<Arc<Upload>>,
    /// Whether the path came plain, which is looked up once.
    pub(super) plain: bool,
    pub(super) draw: Draw,
    pub(super) attempts: Attempts,
    /// The endpoint that the last failed attempt was at.
    pub(super) met: Option<Box<(Arc<ServiceView>, Member)>>,
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The caller went away.
    Abandoned,
    /// The server broke off.
    Broken,
    /// The answer is whole.
    Whole,
}

// === impl Call ===

impl Call {
    /// Begins a request: inbound for the one application, outbound for any endpoint.
    #[inline]
    pub(super) fn new(exchange: Exchange, started: Instant) -> Self {
        let attempts = match exchange.direction {
            Direction::Inbound => Attempts::at_one(),
            Direction::Outbound => Attempts::at_any(),
        };
        Self {
            shown: true,
            started,
            deadline: None,
            upload: None,
            plain: false,
            // The span is drawn at random for each call, and logged: its choices can be repeated.
            draw: Draw::new(exchange.trace.span_id),
            exchange,
            attempts,
            met: None,
        }
    }

    /// Begins the opaque connection of a caller. It joins no trace.
    pub(super) fn opaque(direction: Direction, local: &Local, from: SocketAddr) -> Self {
        let context = TraceContext::new(rand::random(), rand::random(), false);
        let mut exchange = Exchange::new(direction, Protocol::Tcp, context);
        exchange.caller = Some(from);
        exchange.workload.share(local.shown());
        Self::new(exchange, Instant::now())
    }

    /// Ends the record of an opaque connection.
    pub(super) fn close(&mut self, flow: &Flow, error: Option<&Error>) {
        self.exchange.request_bytes = flow.received;
        self.exchange.response_bytes = flow.sent;
        if let Some(error) = error {
            self.exchange.failed(error);
        }
        self.exchange.duration = self.started.elapsed();
    }
}
