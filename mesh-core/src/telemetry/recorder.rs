//! The end of an exchange: when the last byte of the answer has gone, or will never go.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use inmesh_pki::id::SpiffeId;

use super::metrics::{Kind, Series};
use super::trace::TraceContext;
use super::{Direction, Exchange, Metrics, Protocol};
use crate::accept::ConnState;
use crate::balance::Carried;
use crate::body::{Body, BoxError};
use crate::connect::Lease;
use crate::error::{Error, Reason};

/// Sees every exchange at its end: an access log, an exporter of spans, a test.
pub trait ExchangeSink: Send + Sync + 'static {
    /// The exchange has ended, at this time of the wall clock. Called on the request's path: it
    /// must not block.
    fn record(&self, exchange: &Exchange, at: SystemTime);
}

/// Writes the records of one runtime.
pub(crate) struct Recorder {
    pub(crate) metrics: Metrics,
    pub(crate) sinks: Vec<Arc<dyn ExchangeSink>>,
    pub(crate) clock: Arc<dyn inmesh_pki::clock::Clock>,
    /// The share of traces that begin here which is sampled.
    pub(crate) trace_sample: f64,
}

/// A response's body that writes the record of its exchange when it ends or is dropped.
pub(crate) struct Recorded {
    body: Body,
    exchange: Exchange,
    series: Arc<Series>,
    recorder: Arc<Recorder>,
    request_bytes: Option<Arc<AtomicU64>>,
    ended: bool,
    held: Held,
}

/// What is held until the answer is whole.
pub(crate) enum Held {
    /// Inbound: the state of the caller's connection, and the connection to the application.
    Caller(Option<Arc<ConnState>>, Option<Lease>),
    /// Nothing.
    Nothing,
    /// Outbound: the endpoint and the connection to it.
    Upstream(Option<Arc<ConnState>>, Carried),
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The caller went away.
    Abandoned,
    /// The server broke off.
    Broken,
    /// The answer is whole.
    Whole,
}

// === impl Recorder ===

impl Recorder {
    pub(crate) fn record(&self, exchange: &mut Exchange, series: &Series) {
        exchange.duration = exchange.started.elapsed();
        let kind = Kind {
            protocol: exchange.protocol.label(),
            code: exchange.status,
            grpc: exchange.grpc_status,
            flags: exchange.reason.map_or("-", Reason::flags),
            mutual_tls: exchange.tls_peer.is_some(),
        };
        self.metrics.exchange(
            series,
            kind,
            exchange.duration,
            exchange.request_bytes,
            exchange.response_bytes,
        );
        self.publish(exchange);
    }

    /// A caller's connection has ended: says why, if a request was lost before it could be read.
    pub(crate) fn ended(
        &self,
        direction: Direction,
        from: SocketAddr,
        peer: Option<&SpiffeId>,
        state: &ConnState,
        ended: Result<(), hyper::Error>,
    ) {
        let Err(error) = ended else { return };
        let reason = if state.timed_out() {
            Reason::HeaderTimeout
        } else if error.is_parse_too_large() {
            Reason::HeaderTooLarge
        } else if error.is_parse() {
            Reason::InvalidRequest
        } else {
            tracing::debug!(%from, %error, "a caller's connection broke off");
            return;
        };
        self.metrics
            .connection_failed(direction.as_str(), reason.as_str());
        let context = TraceContext::new(rand::random(), rand::random(), false);
        let mut exchange = Exchange::new(direction, Protocol::Http1, context);
        exchange.caller = Some(from);
        exchange.tls_peer = peer.cloned();
        exchange.failed(&Error::new(reason, "no whole request").because(error));
        exchange.status = reason.status().as_u16();
        self.publish(&exchange);
    }

    pub(crate) fn publish(&self, exchange: &Exchange) {
        if !self.sinks.is_empty() {
            let at = self.clock.now();
            for sink in &self.sinks {
                sink.record(exchange, at);
            }
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("sinks", &self.sinks.len())
            .finish()
    }
}

// === impl Recorded ===

impl Recorded {
    pub(crate) fn new(
        body: Body,
        exchange: Exchange,
        series: Arc<Series>,
        recorder: Arc<Recorder>,
        request_bytes: Option<Arc<AtomicU64>>,
        held: Held,
    ) -> Box<Self> {
        Box::new(Self {
            body,
            exchange,
            series,
            recorder,
            request_bytes,
            ended: false,
            held,
        })
    }

    fn end(&mut self, end: End) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let Some(counted) = &self.request_bytes {
            self.exchange.request_bytes = counted.load(Ordering::Relaxed);
        }
        match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Caller(state, lease) => {
                if let Some(state) = state {
                    state.idle();
                }
                if let (End::Whole, Some(lease)) = (end, lease) {
                    lease.release();
                }
            }
            Held::Nothing => {}
            Held::Upstream(state, carried) => {
                if let Some(state) = state {
                    state.idle();
                }
                carried.finish(end, &self.exchange);
            }
        }
        self.recorder.record(&mut self.exchange, &self.series);
    }

    fn cut(&mut self, end: End, detail: String) {
        if !self.ended && self.exchange.reason.is_none() {
            self.exchange.failed(&Error::new(Reason::Reset, detail));
        }
        self.end(end);
    }
}

impl http_body::Body for Recorded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let polled = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.exchange.response_bytes += data.len() as u64;
                } else if let Some(trailers) = frame.trailers_ref() {
                    this.exchange.grpc_status = grpc_status(trailers).or(this.exchange.grpc_status);
                }
                if this.body.is_end_stream() {
                    this.end(End::Whole);
                }
            }
            Some(Err(e)) => this.cut(End::Broken, format!("the answer broke off: {e}")),
            None => this.end(End::Whole),
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.end(End::Whole);
        } else {
            self.cut(
                End::Abandoned,
                "the caller went away before the answer was whole".into(),
            );
        }
    }
}

/// The gRPC status in headers or trailers.
pub(crate) fn grpc_status(headers: &http::HeaderMap) -> Option<u8> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
