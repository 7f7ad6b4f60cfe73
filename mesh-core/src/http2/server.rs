//! The connection of a caller.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::{Builder, Connection, Handshake, SendResponse};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response};
use http_body::Body as _;
use inmesh_pki::clock::{Clock, SystemClock};
use tokio::io::{AsyncRead, AsyncWrite};

use super::arrival::Arrivals;
use super::outflow::Outflow;
use super::pulse::{Beat, Pulse};
use super::room;
use super::sniff::{Limits, PREFACE, Sniffed, sniff};
use super::stream::park;
use super::window::{self, Window};
use super::{FRAME, FRAME_BUDGET, SEND_BUFFER, Settings};
use crate::body::Body;
use crate::budget::Budget;
use crate::early::Early;
use crate::fields::{OF_CONNECTION, has_of_connection};
use crate::wake::Noted;

/// Serves the requests of one connection, each in a task of its own, and ends with it.
pub(crate) struct Server<T: AsyncRead + AsyncWrite + Unpin, F> {
    phase: Phase<T>,
    service: F,
    settings: Settings,
    /// What the caller takes. Its settings come before its first request.
    limits: Limits,
    window: Window,
    arrivals: Arc<Arrivals>,
    noted: Noted,
    /// Whether it is to end.
    closing: bool,
}

enum Phase<T: AsyncRead + AsyncWrite + Unpin> {
    Handshake(Box<Handshake<Sniffed<T>, Bytes>>),
    Serving(Box<Serving<T>>),
}

/// How answers are sent.
struct Sending {
    unread: Duration,
    budget: Arc<Budget>,
    limits: Limits,
}

struct Serving<T: AsyncRead + AsyncWrite + Unpin> {
    connection: Connection<Sniffed<T>, Bytes>,
    pulse: Option<Pulse>,
}

// === impl Server ===

impl<T, F, R> Server<T, F>
where
    T: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<Body>) -> R,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    pub(crate) fn new(io: T, settings: Settings, service: F) -> Self {
        let (io, limits) = sniff(io, PREFACE);
        let handshake = Builder::new()
            .initial_window_size(settings.window.0)
            .initial_connection_window_size(window::LEAST)
            .max_frame_size(FRAME)
            .max_header_list_size(settings.header_list)
            .max_concurrent_streams(settings.streams)
            .max_send_buffer_size(SEND_BUFFER)
            .data_frame_budget(FRAME_BUDGET)
            .enable_connect_protocol()
            .handshake(io);
        Self {
            phase: Phase::Handshake(Box::new(handshake)),
            window: Window::new(&settings.budget),
            service,
            settings,
            limits,
            arrivals: Arc::default(),
            noted: Noted::default(),
            closing: false,
        }
    }

    /// Takes no more requests, finishes those that run, and ends.
    pub(crate) fn graceful_shutdown(&mut self) {
        if !std::mem::replace(&mut self.closing, true)
            && let Phase::Serving(serving) = &mut self.phase
        {
            serving.connection.graceful_shutdown();
        }
    }

    /// Answers a request in a task of its own.
    fn serve(
        service: &F,
        arrivals: &Arc<Arrivals>,
        (request, respond): (Request<h2::RecvStream>, SendResponse<Bytes>),
        settings: &Settings,
        limits: &Limits,
    ) {
        let length = length_of(request.headers());
        let mut request = request.map(|stream| arrivals.body(stream, length));
        // One that promises a body asks for no tunnel.
        if *request.method() == Method::CONNECT && length.is_none() {
            park(&mut request);
        }
        let early = Early::of_http2(&mut request);
        if let Some(room) = limits.room() {
            request.extensions_mut().insert(room);
        }
        let sending = Sending {
            unread: settings.unread,
            budget: Arc::clone(&settings.budget),
            limits: limits.clone(),
        };
        tokio::spawn(answer(respond, service(request), early, sending));
    }
}

impl<T, F, R> Future for Server<T, F>
where
    T: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<Body>) -> R + Unpin,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    type Output = Result<(), h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.noted.note(cx, &this.arrivals.task);
        if let Phase::Handshake(handshake) = &mut this.phase {
            let mut connection = ready!(Pin::new(&mut **handshake).poll(cx))?;
            let pulse = Pulse::new(&this.settings, connection.ping_pong());
            if this.closing {
                connection.graceful_shutdown();
            }
            this.phase = Phase::Serving(Box::new(Serving { connection, pulse }));
        }
        let Phase::Serving(serving) = &mut this.phase else {
            return Poll::Pending;
        };
        let Serving { connection, pulse } = &mut **serving;
        let stream = pulse.as_ref().map(Pulse::stream_window);
        let stream = stream.unwrap_or(this.settings.window.0);
        let arrivals = &this.arrivals;
        let fit = |connection: &mut Connection<Sniffed<T>, Bytes>, window: &mut Window| {
            let (came, unread) = (arrivals.came(), arrivals.unread());
            if let Some(size) = window.handle(came, unread, stream) {
                connection.set_target_window_size(size);
                return true;
            }
            let set = |size| connection.set_initial_window_size(size).is_ok();
            window.crowd(unread, stream, set)
        };
        fit(connection, &mut this.window);
        loop {
            let accepted = connection.poll_accept(cx);
            this.arrivals.take_in();
            match accepted {
                Poll::Ready(Some(accepted)) => {
                    let (settings, limits) = (&this.settings, &this.limits);
                    Self::serve(&this.service, &this.arrivals, accepted?, settings, limits);
                }
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    if fit(connection, &mut this.window) {
                        continue;
                    }
                    let Some(pulse) = pulse else {
                        return Poll::Pending;
                    };
                    let crowded = this.window.is_crowded(this.arrivals.unread());
                    let set = |size| connection.set_initial_window_size(size).is_ok();
                    match pulse.poll(cx, &this.arrivals, crowded, set) {
                        Beat::Again => {}
                        Beat::Rest => return Poll::Pending,
                        Beat::Silent => connection.abrupt_shutdown(Reason::NO_ERROR),
                    }
                }
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin, F> Drop for Server<T, F> {
    fn drop(&mut self) {
        // Before the connection, which wakes the readers as it ends.
        self.arrivals.end();
    }
}

/// Answers one request, unless the caller takes its wish back.
async fn answer<R>(
    mut respond: SendResponse<Bytes>,
    answering: R,
    early: Option<Early>,
    sending: Sending,
) where
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let room = sending.limits.room();
    let fits = |headers: &HeaderMap| {
        let size = room::of_answer(headers);
        room.map_or(Ok(()), |room| room.check(size))
    };
    let mut answering = pin!(answering);
    let mut noted = Noted::default();
    let answered = poll_fn(|cx| {
        let polled = answering.as_mut().poll(cx);
        if let Some(early) = &early {
            // What was said before the answer goes before it, also where both came together.
            early.poll_each(&mut noted, cx, |mut head| {
                of_http2(head.headers_mut());
                if fits(head.headers()).is_ok() {
                    // A caller that has gone is seen below.
                    let _gone = respond.send_informational(head);
                }
            });
        }
        match polled {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        }
    });
    let Some(response) = answered.await else {
        return;
    };
    let (mut head, mut body) = response.into_parts();
    body.meter(&sending.budget, 0);
    of_http2(&mut head.headers);
    if !head.headers.contains_key(header::DATE) {
        let now = httpdate::fmt_http_date(SystemClock.now());
        if let Ok(now) = HeaderValue::from_str(&now) {
            head.headers.insert(header::DATE, now);
        }
    }
    let end = body.is_end_stream();
    if !end
        && !head.headers.contains_key(header::CONTENT_LENGTH)
        && let Some(length) = body.size_hint().exact()
    {
        let length = HeaderValue::from(length);
        head.headers.insert(header::CONTENT_LENGTH, length);
    }
    if let Err(error) = fits(&head.headers) {
        // One of the mesh itself: another has been replaced by it.
        tracing::debug!(%error, "an answer could not be sent");
        return respond.send_reset(Reason::INTERNAL_ERROR);
    }
    match respond.send_response(Response::from_parts(head, ()), end) {
        Ok(stream) if !end => {
            let outflow = Outflow::new(body, stream, sending.limits, sending.unread);
            if let Err(e) = outflow.await {
                tracing::debug!(error = %e, "an answer was not sent to its end");
            }
        }
        Ok(_) => {}
        Err(e) => {
            tracing::debug!(error = %e, "an answer could not be sent");
            respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

/// Removes what belongs to a connection of HTTP/1.1, and no message of HTTP/2 has (RFC 9113 section
/// 8.2.2).
fn of_http2(headers: &mut HeaderMap) {
    if has_of_connection(headers) {
        for name in &OF_CONNECTION {
            headers.remove(name);
        }
    }
}

/// The length that a header promises. The library has compared it with what came, or will.
pub(super) fn length_of(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}
