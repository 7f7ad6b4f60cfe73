//! A request that is kept while it is sent, so that it can be sent again.
//!
//! The body is kept as it is read, up to [`KEPT`] bytes; one that turns out longer is not kept, and the
//! request not sent again. A repeat reads what was kept and then what the caller still sends.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::{Body as _, Frame, SizeHint};

use super::race::BodySeen;
use crate::body::{Body, BoxError, longer};
use crate::early::Early;

/// How much of a body is kept, in bytes.
const KEPT: usize = 64 * 1024;

/// A request that was sent, to be sent again.
pub(crate) struct KeptRequest {
    head: Request<()>,
    body: KeptBody,
}

enum KeptBody {
    /// It is there whole.
    Whole(Body),
    Tape(Arc<Mutex<Tape>>),
}

/// What was read of a body, and what was not yet.
struct Tape {
    read: Vec<Part>,
    bytes: usize,
    /// `None` once it has ended.
    rest: Option<Body>,
    /// Whether more was read than is kept.
    spilled: bool,
    /// The attempt that reads it.
    reader: u32,
}

enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// The body as one attempt sends it.
struct Replay {
    tape: Arc<Mutex<Tape>>,
    reader: u32,
    /// How many parts it has sent of those that are kept.
    next: usize,
}

// === impl KeptRequest ===

impl KeptRequest {
    /// Whether a request can be kept: its caller does not wait to be asked for its body.
    pub(crate) fn may_be(request: &Request<Body>) -> bool {
        let early = request.extensions().get::<Early>();
        early.is_none_or(|early| !early.waits())
    }

    /// Keeps a request that is about to be sent.
    pub(crate) fn of(request: &mut Request<Body>) -> Self {
        let (parts, body) = std::mem::take(request).into_parts();
        let head = Request::from_parts(parts, ());
        let (body, kept) = match body.copy() {
            Some(same) => (body, KeptBody::Whole(same)),
            None => {
                let tape = Arc::new(Mutex::new(Tape {
                    read: Vec::new(),
                    bytes: 0,
                    rest: Some(body),
                    spilled: false,
                    reader: 0,
                }));
                let body = Body::new(Replay {
                    tape: Arc::clone(&tape),
                    reader: 0,
                    next: 0,
                });
                (body, KeptBody::Tape(tape))
            }
        };
        *request = head.clone().map(|()| body);
        Self { head, body: kept }
    }

    /// Whether its method is idempotent (RFC 9110 section 9.2.2).
    pub(crate) fn is_idempotent(&self) -> bool {
        self.head.method().is_idempotent()
    }

    /// Whether it can be sent again now.
    pub(crate) fn is_whole(&self) -> bool {
        match &self.body {
            KeptBody::Whole(_) => true,
            KeptBody::Tape(tape) => !lock(tape).spilled,
        }
    }

    /// How much of its body is there.
    pub(crate) fn body(&self) -> BodySeen {
        match &self.body {
            KeptBody::Whole(_) => BodySeen::Whole,
            KeptBody::Tape(tape) => lock(tape).seen(),
        }
    }

    /// The request once more, beside those that are still sent. `None` if its body is not there whole.
    pub(crate) fn beside(&self) -> Option<Request<Body>> {
        let body = match &self.body {
            KeptBody::Whole(body) => body.copy()?,
            KeptBody::Tape(tape) => {
                let held = lock(tape);
                if held.seen() != BodySeen::Whole {
                    return None;
                }
                // Nothing is left to be read, so that each reader finds all parts and waits for none.
                Body::new(Replay {
                    tape: Arc::clone(tape),
                    reader: held.reader,
                    next: 0,
                })
            }
        };
        let mut request = self.head.clone().map(|()| body);
        // What servers say before their answers is the first attempt's to pass on.
        request.extensions_mut().remove::<Early>();
        Some(request)
    }

    /// The request once more; what is still sent of it is sent no further. `None` if it is not whole.
    pub(crate) fn again(&self) -> Option<Request<Body>> {
        let body = match &self.body {
            KeptBody::Whole(body) => body.copy()?,
            KeptBody::Tape(tape) => {
                let mut held = lock(tape);
                if held.spilled {
                    return None;
                }
                held.reader += 1;
                Body::new(Replay {
                    tape: Arc::clone(tape),
                    reader: held.reader,
                    next: 0,
                })
            }
        };
        Some(self.head.clone().map(|()| body))
    }
}

fn lock(tape: &Mutex<Tape>) -> std::sync::MutexGuard<'_, Tape> {
    tape.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Tape ===

impl Tape {
    fn seen(&self) -> BodySeen {
        let ended = self.rest.as_ref().is_none_or(Body::is_end_stream);
        match (self.spilled, ended) {
            (true, _) => BodySeen::Gone,
            (_, true) => BodySeen::Whole,
            _ => BodySeen::Coming,
        }
    }

    /// Reads on, and keeps what it reads.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(None);
        };
        let frame = match ready!(Pin::new(rest).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            end => {
                self.rest = None;
                // A body that broke off is not whole.
                self.spilled |= end.is_some();
                return Poll::Ready(end);
            }
        };
        if !self.spilled {
            let part = match (frame.data_ref(), frame.trailers_ref()) {
                (Some(data), _) => {
                    self.bytes += data.len();
                    Some(Part::Data(data.clone()))
                }
                (_, Some(trailers)) => Some(Part::Trailers(trailers.clone())),
                _ => None,
            };
            self.read.extend(part);
            if self.bytes > KEPT || self.read.len() > KEPT / 64 {
                self.spilled = true;
                self.read = Vec::new();
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

// === impl Part ===

impl Part {
    fn frame(&self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data.clone()),
            Self::Trailers(trailers) => Frame::trailers(trailers.clone()),
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Trailers(_) => 0,
        }
    }
}

// === impl Replay ===

impl http_body::Body for Replay {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let mut tape = lock(&this.tape);
        if tape.reader != this.reader {
            return Poll::Ready(Some(Err("the request is sent again elsewhere".into())));
        }
        if let Some(part) = tape.read.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(part.frame())));
        }
        let read = tape.poll_read(cx);
        this.next = tape.read.len();
        read
    }

    fn is_end_stream(&self) -> bool {
        let tape = lock(&self.tape);
        let read = tape.reader == self.reader && tape.read.len() <= self.next;
        read && tape.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let tape = lock(&self.tape);
        let kept = tape.read.iter().skip(self.next).map(Part::len).sum();
        let rest = tape
            .rest
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint);
        longer(&rest, kept)
    }
}
