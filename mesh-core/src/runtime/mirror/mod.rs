//! Copies of requests, sent besides and forgotten.
//!
//! 1. Each copy that was planned takes one of a bounded number of places, or is dropped.
//! 2. The body is kept as the request reads it ([`tape`]); once it is whole, the copies are sent.
//! 3. Each is prepared for its own hop, the egress policy is asked about it, and it is sent as any
//!    request without a retry is. Its answer is read and discarded.
//!
//! The request waits for none of it, and no failure here is one of the request.

pub(super) mod places;
mod tape;

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http::header::UPGRADE;
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use self::tape::{KeptBody, Lost, Tape, tape};
use super::call::{Call, End};
use super::sending::Sending;
use super::shared::Shared;
use super::upstream::{Answered, Upstreams};
use crate::body::Body;
use crate::connect::{Origin, forward};
use crate::identify::Tls;
use crate::leave::leaves;
use crate::model::Draw;
use crate::plan::{Planned, PlannedMirror, draw_of_copy};
use crate::route::Timeouts;
use crate::telemetry::trace::TraceContext;
use crate::telemetry::{Direction, Exchange, Protocol, SharedText};

/// How long a copy may take, its answer included. It holds a place all the while.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much of an answer is read, so that its connection can be used again; in bytes.
const ANSWER: usize = 64 * 1024;

/// What became of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mirrored {
    /// The egress policy denies it.
    Denied,
    /// There was no place or room for it, or the process was ending.
    Dropped,
    /// No server answered it.
    Failed,
    /// A server answered it.
    Sent,
    /// The request leaves HTTP, or its body was too long or broke off.
    Unfit,
}

/// A copy that has a place.
struct Copy {
    shared: Arc<Shared>,
    tls: Arc<Tls>,
    mirror: PlannedMirror,
    head: Request<()>,
    authority: SharedText,
    trace: TraceContext,
    draw: Draw,
    /// The connection of the caller, where there is one.
    origin: Option<Arc<Origin>>,
    _place: OwnedSemaphorePermit,
}

/// Begins the copies of a request that is about to be sent; it is as it was admitted.
pub(super) fn begin(
    shared: &Arc<Shared>,
    tls: &Arc<Tls>,
    planned: &Planned,
    request: &mut Request<Body>,
    call: &Call,
    origin: Option<&Arc<Origin>>,
) {
    let count = |mirrored: Mirrored| shared.upstreams.metrics.mirrored(mirrored.as_str());
    let leaves = leaves(request, || request.body().is_end_stream()).is_some();
    let mut copies = Vec::new();
    for (nth, mirror) in (0..).zip(planned.mirrors()) {
        if leaves {
            count(Mirrored::Unfit);
            continue;
        }
        let Ok(place) = Arc::clone(&shared.mirrors.places).try_acquire_owned() else {
            count(Mirrored::Dropped);
            continue;
        };
        copies.push(Copy {
            shared: Arc::clone(shared),
            tls: Arc::clone(tls),
            mirror: mirror.clone(),
            head: head_of(request),
            authority: call.exchange.authority.clone(),
            trace: call.exchange.trace.child(rand::random()),
            draw: draw_of_copy(&call.draw, nth),
            origin: origin.cloned(),
            _place: place,
        });
    }
    if copies.is_empty() {
        return;
    }
    match tape(request.body_mut(), &shared.mirrors.room) {
        Tape::Whole(body) => send_all(copies, &body),
        Tape::Lost(lost) => copies.iter().for_each(|copy| copy.count(lost.into())),
        Tape::Running(kept) => {
            let mut drain = shared.drain.clone();
            shared.tracker.spawn(async move {
                let kept = tokio::select! {
                    kept = kept => kept.unwrap_or(Err(Lost::Broken)),
                    () = drain.closing() => Err(Lost::Room),
                };
                match kept {
                    Ok(body) => send_all(copies, &body),
                    Err(lost) => copies.iter().for_each(|copy| copy.count(lost.into())),
                }
            });
        }
    }
}

fn send_all(copies: Vec<Copy>, body: &KeptBody) {
    for copy in copies {
        let tracker = copy.shared.tracker.clone();
        let mut drain = copy.shared.drain.clone();
        let body = body.body();
        tracker.spawn(async move {
            let mirrored = tokio::select! {
                mirrored = copy.send(body) => mirrored,
                () = drain.closing() => Mirrored::Dropped,
            };
            copy.count(mirrored);
        });
    }
}

/// The head without the wish to leave HTTP, which is the caller's alone: a request that has announced a body
/// and has none would have it fulfilled for its copy.
fn head_of(request: &Request<Body>) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.version_mut() = request.version();
    *head.headers_mut() = request.headers().clone();
    head.headers_mut().remove(UPGRADE);
    head
}

// === impl Mirrored ===

impl Mirrored {
    fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
            Self::Sent => "sent",
            Self::Unfit => "unfit",
        }
    }
}

impl From<Lost> for Mirrored {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Broken | Lost::Long => Self::Unfit,
            Lost::Room => Self::Dropped,
        }
    }
}

// === impl Copy ===

impl Copy {
    fn count(&self, mirrored: Mirrored) {
        let metrics = &self.shared.upstreams.metrics;
        metrics.mirrored(mirrored.as_str());
    }

    async fn send(&self, body: Body) -> Mirrored {
        let deadline = Instant::now() + PATIENCE;
        let mut request = self.head.clone().map(|()| body);
        let hop = forward(&mut request, self.mirror.protocol(), &self.authority);
        self.mirror.edit(&mut request);
        let Some(to) = self.mirror.backend() else {
            return Mirrored::Failed;
        };
        let service = to.service;
        if let Err(denied) = self.mirror.permit(self.tls.local(), &request) {
            tracing::debug!(%service, %denied, "a copy of a request is denied");
            return Mirrored::Denied;
        }
        let protocol = Protocol::of(request.version(), request.headers());
        let exchange = Exchange::new(Direction::Outbound, protocol, self.trace);
        let mut call = Call::new(exchange, Instant::now());
        call.draw = self.draw.clone();
        self.trace.write(request.headers_mut());
        let sending = Sending {
            to,
            timeouts: Timeouts::default(),
            moves: None,
            retry: None,
            version: hop.version(),
            origin: self.origin.as_deref(),
        };
        let upstreams = &self.shared.upstreams;
        let sent = upstreams.send(&self.tls, &sending, &mut request, &mut call);
        match timeout_at(deadline, sent).await {
            Ok(Ok(answered)) => {
                // One that takes longer than it may is cut.
                let _cut = timeout_at(deadline, discard(upstreams, answered, call)).await;
                Mirrored::Sent
            }
            Ok(Err(error)) => {
                tracing::debug!(%service, %error, "a copy of a request failed");
                Mirrored::Failed
            }
            Err(_) => {
                tracing::debug!(%service, "a copy of a request has had no answer in time");
                Mirrored::Failed
            }
        }
    }
}

/// Reads an answer to its end, unless that is far.
async fn discard(by: &Upstreams, answered: Answered, mut call: Call) {
    let Answered {
        response, upstream, ..
    } = answered;
    let exchange = &mut call.exchange;
    exchange.grpc_status = exchange.protocol.grpc_status(response.headers());
    let mut body = response.into_body();
    let mut read = 0;
    let end = loop {
        match body.frame().await {
            None => break End::Whole,
            Some(Err(_)) => break End::Broken,
            Some(Ok(frame)) => {
                read += frame.data_ref().map_or(0, bytes::Bytes::len);
                if let Some(trailers) = frame.trailers_ref() {
                    let status = exchange.protocol.grpc_status(trailers);
                    exchange.grpc_status = status.or(exchange.grpc_status);
                }
                if read > ANSWER {
                    break End::Abandoned;
                }
            }
        }
    };
    upstream.finish(by, end, exchange, Instant::now());
}
