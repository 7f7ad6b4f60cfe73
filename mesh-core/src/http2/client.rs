//! The connection to a server.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use http::{Request, Response};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};

use super::arrival::Arrivals;
use super::outflow::{KEPT, Outflow, Stopped};
use super::pulse::{Beat, Pulse};
use super::room::{self, TooLarge};
use super::server::length_of;
use super::sniff::{Limits, Sniffed, sniff};
use super::window::{self, Window};
use super::{FRAME, FRAME_BUDGET, SEND_BUFFER, Settings};
use crate::body::Body;
use crate::budget::Budget;
use crate::early::Early;
use crate::wake::Noted;

/// Header lists up to this size are sent while the server's limit is not known: all servers known take
/// as much.
const HARMLESS: usize = 4 * 1024;
/// How long a server's limit is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends requests on a connection.
#[derive(Clone)]
pub(crate) struct Sender {
    inner: SendRequest<Bytes>,
    shared: Arc<Shared>,
    limits: Limits,
}

struct Shared {
    arrivals: Arc<Arrivals>,
    budget: Arc<Budget>,
    /// Set once it takes no more requests.
    closed: AtomicBool,
}

/// A request that was not answered.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) cause: Cause,
    /// The request from its begin, if it is there still.
    pub(crate) back: Option<Box<Request<Body>>>,
    /// Whether nothing of it was sent.
    pub(crate) unsent: bool,
    /// Whether it broke off before all of it was sent.
    pub(crate) cut: bool,
}

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    #[error(transparent)]
    Library(#[from] h2::Error),
    /// The body of the request failed.
    #[error("{0}")]
    Body(crate::BoxError),
    /// The server takes no header list of that size.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

/// A connection and what drives it.
struct Driver<T: AsyncRead + AsyncWrite + Unpin> {
    connection: Connection<Sniffed<T>, Bytes>,
    pulse: Option<Pulse>,
    window: Window,
    stream_window: u32,
    shared: Arc<Shared>,
    noted: Noted,
}

/// Opens HTTP/2 on a connection, whose task runs until it ends.
///
/// # Errors
///
/// The library's, if the connection broke off.
pub(crate) async fn connect<T>(io: T, settings: Settings) -> Result<Sender, h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (io, limits) = sniff(io, 0);
    let handshake = Builder::new()
        .initial_window_size(settings.window.0)
        .initial_connection_window_size(window::LEAST)
        .max_frame_size(FRAME)
        .max_header_list_size(settings.header_list)
        .enable_push(false)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(FRAME_BUDGET)
        .handshake(io);
    let (inner, mut connection) = handshake.await?;
    let pulse = Pulse::new(&settings, connection.ping_pong());
    let shared = Arc::new(Shared {
        arrivals: Arc::default(),
        budget: Arc::clone(&settings.budget),
        closed: AtomicBool::new(false),
    });
    let driver = Driver {
        connection,
        window: Window::new(&settings.budget),
        stream_window: settings.window.0,
        pulse,
        shared: Arc::clone(&shared),
        noted: Noted::default(),
    };
    tokio::spawn(async move {
        if let Err(e) = driver.await {
            tracing::debug!(error = %e, "a connection to an endpoint ended");
        }
    });
    Ok(Sender {
        inner,
        shared,
        limits,
    })
}

// === impl Sender ===

impl Sender {
    /// Whether it surely takes no more requests.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Relaxed)
    }

    /// How many streams the server takes at once, as far as it has said.
    pub(crate) fn most_streams(&self) -> usize {
        self.inner.current_max_send_streams()
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// # Errors
    ///
    /// [`Broken`] with the request, if what has been sent of it is still there.
    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Broken> {
        if let Err(cause) = self.check_size(room::of_request(&request)).await {
            let back = Some(Box::new(request));
            return Err(Broken {
                cause: cause.into(),
                back,
                unsent: true,
                cut: false,
            });
        }
        let mut inner = self.inner.clone();
        if let Err(e) = poll_fn(|cx| inner.poll_ready(cx)).await {
            self.shared.closed.store(true, Ordering::Relaxed);
            return Err(Broken {
                cause: e.into(),
                back: Some(Box::new(request)),
                unsent: true,
                cut: false,
            });
        }
        let (head, mut body) = request.into_parts();
        body.meter(&self.shared.budget, KEPT);
        let early = head.extensions.get::<Early>().cloned();
        let end = body.is_end_stream();
        let sent = inner.send_request(bare(&head), end);
        let (response, stream) = match sent {
            Ok(sent) => sent,
            Err(e) => {
                return Err(Broken {
                    cause: e.into(),
                    back: Some(Box::new(Request::from_parts(head, body))),
                    unsent: true,
                    cut: false,
                });
            }
        };
        let mut exchange = Exchange {
            response,
            outflow: (!end).then(|| {
                let limits = self.limits.clone();
                Outflow::new(body, stream, limits, Duration::MAX).keep()
            }),
            back: None,
            cut: false,
            early,
        };
        let answered = poll_fn(|cx| exchange.poll(cx)).await;
        match answered {
            Ok(response) => {
                if let Some(mut outflow) = exchange.outflow.take() {
                    // The server answers while it reads, or will say that it reads no more.
                    outflow.forget();
                    tokio::spawn(outflow);
                }
                let length = length_of(response.headers());
                Ok(response.map(|stream| self.shared.arrivals.body(stream, length)))
            }
            Err(cause) => {
                if matches!(&cause, Cause::Library(e) if e.is_go_away()) {
                    self.shared.closed.store(true, Ordering::Relaxed);
                }
                let cut = exchange.cut || exchange.outflow.is_some();
                let body = match exchange.outflow.take() {
                    Some(outflow) => outflow.back(),
                    None if end => Some(Body::empty()),
                    None => exchange.back.take(),
                };
                let back = body.map(|body| Box::new(Request::from_parts(head, body)));
                Err(Broken {
                    cause,
                    back,
                    unsent: false,
                    cut,
                })
            }
        }
    }

    /// Compares a header list with what the server takes. A server that is sent more may end the
    /// connection, and with it what others have on it.
    async fn check_size(&self, size: usize) -> Result<(), TooLarge> {
        if size > HARMLESS {
            self.limits.known(PATIENCE).await;
        }
        let room = self.limits.room();
        room.map_or(Ok(()), |room| room.check(size))
    }
}

/// The head of a request alone. What it has beside its fields stays with the request.
fn bare(head: &http::request::Parts) -> Request<()> {
    let mut bare = Request::new(());
    *bare.method_mut() = head.method.clone();
    *bare.uri_mut() = head.uri.clone();
    *bare.version_mut() = head.version;
    *bare.headers_mut() = head.headers.clone();
    bare
}

/// A request while it is sent and its answer is waited for.
struct Exchange {
    response: ResponseFuture,
    outflow: Option<Outflow>,
    /// The body from its begin, once it is sent or the server takes no more of it.
    back: Option<Body>,
    /// Whether the server takes no more of the body, and not all of it was sent.
    cut: bool,
    early: Option<Early>,
}

impl Exchange {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<h2::RecvStream>, Cause>> {
        if let Some(outflow) = &mut self.outflow {
            match Pin::new(outflow).poll(cx) {
                Poll::Pending => {}
                Poll::Ready(Err(Stopped::Body(e))) => return Poll::Ready(Err(Cause::Body(e))),
                Poll::Ready(Err(Stopped::TooLarge(e))) => return Poll::Ready(Err(e.into())),
                // Whether it was refused or answered is seen by the answer.
                Poll::Ready(stopped) => {
                    self.cut = stopped.is_err();
                    self.back = self.outflow.take().and_then(Outflow::back);
                }
            }
        }
        if let Some(early) = &self.early {
            while let Poll::Ready(Some(Ok(head))) = self.response.poll_informational(cx) {
                early.say(head.status(), head.headers());
            }
        }
        Pin::new(&mut self.response).poll(cx).map_err(Cause::from)
    }
}

// === impl Driver ===

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    /// Fits the windows to what is unread; returns whether the library has something to send.
    fn fit(&mut self) -> bool {
        let stream = self.pulse.as_ref().map(Pulse::stream_window);
        let stream = stream.unwrap_or(self.stream_window);
        let arrivals = &self.shared.arrivals;
        let (came, unread) = (arrivals.came(), arrivals.unread());
        if let Some(size) = self.window.handle(came, unread, stream) {
            self.connection.set_target_window_size(size);
            return true;
        }
        let set = |size| self.connection.set_initial_window_size(size).is_ok();
        self.window.crowd(unread, stream, set)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = Result<(), h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.noted.note(cx, &this.shared.arrivals.task);
        this.fit();
        loop {
            let polled = Pin::new(&mut this.connection).poll(cx);
            this.shared.arrivals.take_in();
            if polled.is_ready() {
                return polled;
            }
            if this.fit() {
                continue;
            }
            let Some(pulse) = &mut this.pulse else {
                return Poll::Pending;
            };
            let arrivals = &this.shared.arrivals;
            let crowded = this.window.is_crowded(arrivals.unread());
            let set = |size| this.connection.set_initial_window_size(size).is_ok();
            match pulse.poll(cx, arrivals, crowded, set) {
                Beat::Again => {}
                Beat::Rest => return Poll::Pending,
                Beat::Silent => return Poll::Ready(Err(Reason::NO_ERROR.into())),
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Drop for Driver<T> {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        // Before the connection, which wakes the readers as it ends.
        self.shared.arrivals.end();
    }
}
