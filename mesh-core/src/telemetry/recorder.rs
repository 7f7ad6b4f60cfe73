//! The end of an exchange: when the last byte of the answer has gone, or will never go.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;

use inmesh_pki::id::SpiffeId;

use super::metrics::{Kind, Series};
use super::trace::TraceContext;
use super::{Direction, Exchange, Metrics, Protocol};
use crate::accept::ConnState;
use crate::balance::Carried;
use crate::body::{Body, BoxError};
use crate::connect::Lease;
use crate::error::{Error, Reason, Stage};

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

/// An exchange under way, before the head of its answer. Its record is made once, in the box that
/// becomes the body of the answer, because it is large and would be moved with every future.
pub(crate) struct Pending(Box<Recorded>);

/// An exchange, and the body of its answer once there is one. It writes its record once: when it
/// is told how it ended, or, if nobody tells, when it is dropped, because then the caller has gone
/// away.
pub(crate) struct Recorded {
    exchange: Exchange,
    recorder: Arc<Recorder>,
    series: Arc<Series>,
    /// The state of the caller's connection.
    state: Option<Arc<ConnState>>,
    request_bytes: Option<Arc<AtomicU64>>,
    held: Held,
    /// `None` until the head of the answer is there.
    answer: Option<Answer>,
    ended: bool,
}

/// The body of an answer.
struct Answer {
    body: Body,
    /// How many bytes the header promises; none for an answer that has no body whatever the
    /// header says.
    promised: Option<u64>,
}

/// What is held until the answer is whole.
pub(crate) enum Held {
    /// Inbound: the connection to the application.
    Application(Lease),
    /// Outbound: the endpoint and the connection to it.
    Endpoint(Carried),
    /// Nothing.
    Nothing,
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
    pub(crate) fn record(&self, exchange: &Exchange, series: &Series) {
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
        let detail = Error::new(reason, "no whole request").because(error);
        self.refused(direction, from, peer, reason.as_str(), &detail);
    }

    /// A connection has ended before it carried a request.
    pub(crate) fn refused(
        &self,
        direction: Direction,
        from: SocketAddr,
        peer: Option<&SpiffeId>,
        reason: &'static str,
        error: &Error,
    ) {
        self.metrics.connection_failed(direction.as_str(), reason);
        let context = TraceContext::new(rand::random(), rand::random(), false);
        let http = error.reason().stage() == Stage::Accept;
        let protocol = if http { Protocol::Http1 } else { Protocol::Tcp };
        let mut exchange = Exchange::new(direction, protocol, context);
        exchange.caller = Some(from);
        exchange.tls_peer = peer.cloned();
        exchange.failed(error);
        if http {
            exchange.status = error.reason().status().as_u16();
        }
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

// === impl Pending ===

impl Pending {
    pub(crate) fn new(
        exchange: Exchange,
        recorder: &Arc<Recorder>,
        series: &Arc<Series>,
        state: Option<Arc<ConnState>>,
        request_bytes: Option<Arc<AtomicU64>>,
    ) -> Self {
        Self(Box::new(Recorded {
            exchange,
            recorder: recorder.clone(),
            series: series.clone(),
            state,
            request_bytes,
            held: Held::Nothing,
            answer: None,
            ended: false,
        }))
    }

    /// The record so far.
    pub(crate) fn exchange(&mut self) -> &mut Exchange {
        &mut self.0.exchange
    }

    /// What it is counted under, once that is known better.
    pub(crate) fn count_under(&mut self, series: Arc<Series>) {
        self.0.series = series;
    }

    /// Keeps something until the answer is whole.
    pub(crate) fn hold(&mut self, held: Held) {
        self.0.held = held;
    }

    /// The head of the answer is there: the rest of the exchange is in its body.
    pub(crate) fn answer(mut self, response: Response<Body>) -> Response<Body> {
        let exchange = &mut self.0.exchange;
        exchange.status = response.status().as_u16();
        exchange.grpc_status = grpc_status(response.headers());
        let head = exchange.method.as_ref() == Some(&Method::HEAD);
        let empty = head || matches!(exchange.status, 204 | 304);
        let promised = if empty {
            Some(0)
        } else {
            let length = response.headers().get(header::CONTENT_LENGTH);
            length.and_then(|l| l.to_str().ok()?.parse().ok())
        };
        response.map(|body| {
            self.0.answer = Some(Answer { body, promised });
            Body::recorded(self.0)
        })
    }

    /// The mesh answers in place of the server.
    pub(crate) fn refuse(mut self, error: &Error, grpc: bool) -> Response<Body> {
        self.0.exchange.failed(error);
        self.answer(error.response(grpc))
    }

    /// Both sides have left HTTP: the caller's connection never rests again, that to the endpoint
    /// never serves another request. The exchange ends with the connection.
    pub(crate) fn switched(&mut self) {
        let record = &mut *self.0;
        record.state = None;
        record.exchange.status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
        match &mut record.held {
            Held::Application(_) => record.held = Held::Nothing,
            Held::Endpoint(carried) => carried.keep_connection(),
            Held::Nothing => {}
        }
    }

    /// A connection that has left HTTP has ended.
    pub(crate) fn joined(mut self, copied: Result<(u64, u64), Error>) {
        match copied {
            Ok((received, sent)) => {
                self.0.exchange.request_bytes = received;
                self.0.exchange.response_bytes = sent;
                self.0.request_bytes = None;
                self.0.end(End::Whole);
            }
            Err(error) => {
                self.0.exchange.failed(&error);
                self.0.end(End::Abandoned);
            }
        }
    }
}

// === impl Recorded ===

impl Recorded {
    fn end(&mut self, end: End) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let now = Instant::now();
        self.exchange.duration = now.saturating_duration_since(self.exchange.started);
        if let Some(counted) = &self.request_bytes {
            self.exchange.request_bytes = counted.load(Ordering::Relaxed);
        }
        if let Some(state) = &self.state {
            state.idle();
        }
        match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Application(lease) if end == End::Whole => lease.release(now),
            Held::Application(_) | Held::Nothing => {}
            Held::Endpoint(carried) => carried.finish(end, &self.exchange, now),
        }
        self.recorder.record(&self.exchange, &self.series);
    }

    fn cut(&mut self, end: End, reason: Reason, detail: String) {
        if !self.ended && self.exchange.reason.is_none() {
            self.exchange.failed(&Error::new(reason, detail));
        }
        self.end(end);
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // A server stops to ask once it has all that the header promised.
        let sent = self.exchange.response_bytes;
        let whole = self.answer.as_ref().is_some_and(|answer| {
            answer.body.is_end_stream() || answer.promised.is_some_and(|n| n <= sent)
        });
        if whole {
            return self.end(End::Whole);
        }
        if self.exchange.status == 0 {
            self.exchange.status = Reason::CallerGone.status().as_u16();
        }
        let detail = "the caller went away before the answer was whole";
        self.cut(End::Abandoned, Reason::CallerGone, detail.into());
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
        let Some(answer) = &mut this.answer else {
            return Poll::Ready(None);
        };
        let polled = std::task::ready!(Pin::new(&mut answer.body).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                let exchange = &mut this.exchange;
                if let Some(data) = frame.data_ref() {
                    exchange.response_bytes += data.len() as u64;
                } else if let Some(trailers) = frame.trailers_ref() {
                    exchange.grpc_status = grpc_status(trailers).or(exchange.grpc_status);
                }
                if answer.body.is_end_stream() {
                    this.end(End::Whole);
                }
            }
            Some(Err(e)) => {
                let detail = format!("the answer broke off: {e}");
                this.cut(End::Broken, Reason::Reset, detail);
            }
            None => this.end(End::Whole),
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.answer.as_ref().is_none_or(|a| a.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.answer {
            Some(answer) => answer.body.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

/// The gRPC status in headers or trailers.
pub(crate) fn grpc_status(headers: &http::HeaderMap) -> Option<u8> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
