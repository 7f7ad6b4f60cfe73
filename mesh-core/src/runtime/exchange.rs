//! The life of an exchange: from the head of its request to the last byte of its answer, or to the
//! moment when that will never come.

use std::hint::cold_path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;

use super::call::{Call, End};
use super::upstream::{Upstream, Upstreams};
use crate::accept::ConnState;
use crate::body::{Body, BoxError};
use crate::connect::{Flow, Kept, Lease, WayOut};
use crate::error::{Error, Reason, find, grpc_kind};
use crate::http2::{Room, TooLarge};
use crate::telemetry::{Exchange, Protocol, Recorder, Series};

/// Where the requests of a connection, or those of this process itself, are written: what they share. One
/// pointer to hold for each request, to something that other connections do not hold.
pub(super) struct Ledger {
    pub(super) recorder: Arc<Recorder>,
    pub(super) upstreams: Arc<Upstreams>,
    /// What a request is counted under as long as nothing better is known.
    pub(super) series: Arc<Series>,
    /// The state of the caller's connection.
    pub(super) state: Option<Arc<ConnState>>,
}

/// A call before the head of its answer. It is made once, in the box that becomes the body of the
/// answer, because it is large and would be moved with every future.
pub(super) struct Pending(Box<Recorded>);

/// A call, and the body of its answer once there is one. It writes its record once: when it ends,
/// or when it is dropped before that, because then the caller has gone away.
struct Recorded {
    call: Call,
    ledger: Arc<Ledger>,
    /// What it is counted under; `None` for what its endpoint has, else what the ledger has.
    series: Option<Arc<Series>>,
    /// Whether the caller's connection rests once it has ended.
    rests: bool,
    request_bytes: Option<Arc<AtomicU64>>,
    /// What the caller takes of a header list, and what it speaks if that is gRPC.
    room: Option<Box<(Room, Option<HeaderValue>)>>,
    held: Held,
    /// `None` until the head of the answer is there.
    answer: Option<HeldAnswer>,
    ended: bool,
}

/// The body of an answer.
struct HeldAnswer {
    body: Body,
    /// How many bytes the body or the header promises; 0 for an answer that has no body whatever the
    /// header says, `None` if they say nothing.
    promised: Option<u64>,
}

/// What is held until the answer is whole.
pub(super) enum Held {
    /// Inbound: the connection to the application.
    Application(Lease),
    /// Outbound: the endpoint and the connection to it.
    Endpoint(Upstream),
    /// Nothing.
    Nothing,
}

/// A request's body whose bytes are counted.
struct CountedUpload {
    body: Body,
    bytes: Arc<AtomicU64>,
}

// === impl Pending ===

impl Pending {
    /// Begins a call.
    pub(super) fn new(call: Call, ledger: &Arc<Ledger>) -> Self {
        Self(Box::new(Recorded {
            call,
            ledger: Arc::clone(ledger),
            series: None,
            rests: true,
            request_bytes: None,
            room: None,
            held: Held::Nothing,
            answer: None,
            ended: false,
        }))
    }

    /// Counts the bytes of the request's body if its length is not known.
    pub(super) fn count_body(&mut self, body: &mut Body) {
        self.0.request_bytes = count(body);
    }

    /// Heeds what the caller says that it takes. It is no matter of the next hop.
    pub(super) fn heed_room(&mut self, request: &mut Request<Body>) {
        // Over HTTP/1.1 a caller cannot say it.
        if request.version() != Version::HTTP_2 {
            return;
        }
        let room = request.extensions_mut().remove();
        self.0.room = room.map(|room| Box::new((room, grpc_kind(request.headers()))));
    }

    /// The call so far.
    pub(super) fn call(&mut self) -> &mut Call {
        &mut self.0.call
    }

    /// Shows the beginning of the exchange to the sinks, if there are any.
    pub(super) fn begin(&self) {
        let Recorded { call, ledger, .. } = &*self.0;
        if call.shown {
            cold_path();
            ledger.recorder.begin(&call.exchange);
        }
    }

    /// Counts the exchange under a series of its own.
    pub(super) fn count_under(&mut self, series: Arc<Series>) {
        self.0.series = Some(series);
    }

    /// Holds something until the answer is whole.
    pub(super) fn hold(&mut self, held: Held) {
        self.0.held = held;
    }

    /// The head of the answer is there: the rest of the exchange is in its body. One that the caller
    /// does not take might cost it the connection.
    #[inline]
    pub(super) fn answer(self, response: Response<Body>) -> Response<Body> {
        match self.0.room {
            Some(_) => self.answer_within(response),
            None => self.begin_answer(response),
        }
    }

    #[cold]
    fn answer_within(mut self, response: Response<Body>) -> Response<Body> {
        let (room, grpc) = self
            .0
            .room
            .as_deref()
            .map_or((None, None), |(r, g)| (Some(r), g.clone()));
        let Some(Err(error)) = room.map(|room| room.check_answer(&response)) else {
            return self.begin_answer(response);
        };
        let error = not_taken(error);
        // What follows the head is not read, and no sign of the endpoint's health.
        // An answer of a route has no endpoint, and stays with the series that it has.
        if let Some(kept) = self.0.let_go(End::Abandoned, Instant::now()) {
            self.0.series = kept.series.get().map(Arc::clone);
        }
        self.refuse(&error, grpc)
    }

    #[inline]
    fn begin_answer(mut self, response: Response<Body>) -> Response<Body> {
        let exchange = &mut self.0.call.exchange;
        exchange.status = response.status().as_u16();
        exchange.grpc_status = exchange.protocol.grpc_status(response.headers());
        let head = exchange.method.as_ref() == Some(&Method::HEAD);
        let empty = head || matches!(exchange.status, 204 | 304);
        let stated = || {
            let length = response.headers().get(header::CONTENT_LENGTH);
            length.and_then(|l| l.to_str().ok()?.parse().ok())
        };
        let promised = match empty {
            true => Some(0),
            // What the body knows needs no look-up.
            false => response.body().size_hint().exact().or_else(stated),
        };
        response.map(|body| {
            self.0.answer = Some(HeldAnswer { body, promised });
            Body::boxed(self.0)
        })
    }

    /// The mesh answers in place of the server.
    #[cold]
    pub(super) fn refuse(mut self, error: &Error, grpc: Option<HeaderValue>) -> Response<Body> {
        self.0.call.exchange.failed(error);
        self.begin_answer(error.response_as(grpc))
    }

    /// The caller gets the error itself, not an answer made of it.
    pub(super) fn fail(mut self, error: &Error) {
        let exchange = &mut self.0.call.exchange;
        exchange.failed(error);
        exchange.status = error.reason().status().as_u16();
        self.0.end(End::Whole);
    }

    /// Both sides have left HTTP: the caller's connection, unless a stream of it does, never idles again,
    /// the connection to the endpoint never serves another request. The exchange ends with them.
    pub(super) fn switched(&mut self, caller: &WayOut) {
        let record = &mut *self.0;
        let status = match caller.is_stream() {
            true => StatusCode::OK,
            false => {
                record.rests = false;
                StatusCode::SWITCHING_PROTOCOLS
            }
        };
        record.call.exchange.status = status.as_u16();
        match &mut record.held {
            Held::Application(_) => record.held = Held::Nothing,
            Held::Endpoint(upstream) => upstream.leave_http(),
            Held::Nothing => {}
        }
    }

    /// The caller has left HTTP for a tunnel, whose record is that of an opaque connection. With it comes
    /// the state of the caller's connection, where that serves others and the tunnel is a stream of it.
    pub(super) fn left(mut self, caller: &WayOut) -> (Call, Option<Arc<ConnState>>) {
        let record = &mut *self.0;
        record.ended = true;
        let state = record.ledger.state.as_ref();
        let state = state.filter(|_| caller.is_stream()).map(Arc::clone);
        let exchange = &record.call.exchange;
        let none = Exchange::new(exchange.direction, exchange.protocol, exchange.trace);
        let none = Call::new(none, record.call.started);
        (std::mem::replace(&mut record.call, none), state)
    }

    /// A connection that has left HTTP has ended.
    pub(super) fn joined(mut self, flow: &Flow, result: Result<(), Error>) {
        self.0.request_bytes = None;
        self.0.call.close(flow, result.as_ref().err());
        self.0.end(if result.is_ok() {
            End::Whole
        } else {
            End::Abandoned
        });
    }
}

// === impl Recorded ===

impl Recorded {
    fn end(&mut self, end: End) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let now = Instant::now();
        let exchange = &mut self.call.exchange;
        exchange.duration = now.saturating_duration_since(self.call.started);
        if let Some(counted) = &self.request_bytes {
            exchange.request_bytes = counted.load(Ordering::Relaxed);
        }
        if let Some(state) = self.ledger.state.as_ref().filter(|_| self.rests) {
            state.idle();
        }
        let kept = self.let_go(end, now);
        let of_endpoint = || kept.as_ref()?.series.get();
        let series = self.series.as_ref().or_else(of_endpoint);
        let recorder = &self.ledger.recorder;
        recorder.count(&self.call.exchange, series.unwrap_or(&self.ledger.series));
        if self.call.shown {
            cold_path();
            recorder.publish(&self.call.exchange);
        }
    }

    /// Gives back what is held. Returns what is kept with the endpoint, if it had one.
    #[inline]
    fn let_go(&mut self, end: End, now: Instant) -> Option<Arc<Kept>> {
        match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Application(lease) if end == End::Whole => lease.release(now),
            Held::Application(_) | Held::Nothing => {}
            Held::Endpoint(upstream) => {
                let upstreams = &self.ledger.upstreams;
                return Some(upstream.finish(upstreams, end, &self.call.exchange, now));
            }
        }
        None
    }

    /// The last part of an answer whose trailers the caller does not take.
    fn end_without(&mut self, error: Error) -> Result<Frame<Bytes>, BoxError> {
        self.cut(End::Abandoned, error.reason(), error.detail().to_owned());
        match self.call.exchange.protocol {
            Protocol::Grpc => Ok(Frame::trailers(error.trailers())),
            _ => Err(error.into()),
        }
    }

    fn cut(&mut self, end: End, reason: Reason, detail: String) {
        let exchange = &mut self.call.exchange;
        if !self.ended && exchange.reason.is_none() {
            exchange.failed(&Error::new(reason, detail));
        }
        self.end(end);
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // A server stops to poll once it has all that the header promised.
        let exchange = &mut self.call.exchange;
        let sent = exchange.response_bytes;
        let whole = self.answer.as_ref().is_some_and(|answer| {
            answer.body.is_end_stream() || answer.promised.is_some_and(|n| n <= sent)
        });
        if whole {
            return self.end(End::Whole);
        }
        cold_path();
        if exchange.status == 0 {
            exchange.status = Reason::CallerGone.status().as_u16();
        }
        let detail = "the caller went away before the answer was whole";
        self.cut(End::Abandoned, Reason::CallerGone, detail.into());
    }
}

/// The caller takes no header list of that size.
fn not_taken(error: TooLarge) -> Error {
    Error::new(Reason::AnswerTooLarge, format!("for the caller: {error}"))
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
        let polled = ready!(Pin::new(&mut answer.body).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                let exchange = &mut this.call.exchange;
                if let Some(data) = frame.data_ref() {
                    exchange.response_bytes += data.len() as u64;
                } else if let Some(trailers) = frame.trailers_ref() {
                    let room = this.room.as_deref().map(|(room, _)| room);
                    if let Some(Err(error)) = room.map(|room| room.check_trailers(trailers)) {
                        return Poll::Ready(Some(this.end_without(not_taken(error))));
                    }
                    let status = exchange.protocol.grpc_status(trailers);
                    exchange.grpc_status = status.or(exchange.grpc_status);
                }
                if answer.body.is_end_stream() {
                    this.end(End::Whole);
                }
            }
            Some(Err(e)) => {
                cold_path();
                let (end, reason) = match find::<Error>(&**e).map(Error::reason) {
                    // Silence may be of either side.
                    Some(idle @ Reason::StreamIdle) => (End::Abandoned, idle),
                    _ => (End::Broken, Reason::Reset),
                };
                let detail = format!("the answer broke off: {e}");
                this.cut(end, reason, detail);
                if this.call.exchange.protocol == Protocol::Grpc {
                    // A reset would be read as INTERNAL, which is not tried again.
                    let trailers = Error::new(reason, "the answer broke off").trailers();
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
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

// === impl CountedUpload ===

/// Counts the bytes of a body whose length is not known beforehand.
fn count(body: &mut Body) -> Option<Arc<AtomicU64>> {
    if body.size_hint().exact().is_some() {
        return None;
    }
    let bytes = Arc::<AtomicU64>::default();
    let counted = CountedUpload {
        body: std::mem::take(body),
        bytes: Arc::clone(&bytes),
    };
    *body = Body::boxed(Box::new(counted));
    Some(bytes)
}

impl http_body::Body for CountedUpload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &polled {
            let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
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
