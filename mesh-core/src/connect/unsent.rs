//! A request that was not answered: why, by whose fault, and whether it may be sent again.
//!
//! In: the error of the HTTP library, and what is left of the request. Out: a reason, a fault, and the
//! request if a server surely has not looked at it or it may be repeated. It refuses to repeat a body
//! that is not in memory.

use std::io::{self, ErrorKind};

use http::Request;
use hyper::client::conn::TrySendError;

use crate::balance::Member;
use crate::body::{Body, BoxError};
use crate::error::{Error, Reason, find};
use crate::http2::{Broken, Cause, TooLarge};
use crate::retry::{AttemptOutcome, Fault, Seen};

/// What says nothing about the health of an endpoint, also where the agent of the endpoint says it of
/// the application behind it.
pub(crate) const SPARING: [Reason; 5] = [
    Reason::AnswerCoding,
    Reason::AnswerTooLarge,
    Reason::Overload,
    Reason::Stale,
    Reason::UploadCut,
];

/// A request that was not answered. If it is [`AttemptOutcome::Unanswered`], it is back in its place.
pub(crate) struct Unsent {
    pub(crate) error: Error,
    pub(crate) outcome: AttemptOutcome,
}

/// A connection as a request met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    New,
    /// It has carried requests before.
    Used,
}

/// Why a request was not answered, in either version.
#[derive(Debug)]
pub(super) struct Failure {
    cause: BoxError,
    /// Whether the request itself failed, and not the server.
    callers: bool,
    /// Whether the server surely has not looked at it.
    unseen: bool,
    /// Whether it says so itself.
    declined: bool,
    /// Whether the server answered this one request, if only by breaking it off.
    reset: bool,
    /// Whether the server broke it off before all of it was sent, as one in good health may.
    cut: bool,
    /// Whether the head of the answer was more than is read of one.
    pub(super) too_large: bool,
    /// Whether another connection may take that answer.
    pub(super) again: bool,
    /// The request, if it is still there.
    back: Option<Box<Request<Body>>>,
}

/// What a request met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Met {
    pub(super) age: Age,
    /// Whether the server closed its side while the request was being sent. It may have meant to
    /// refuse the rest, and be in good health.
    pub(super) refused: bool,
}

// === impl Unsent ===

impl Unsent {
    /// No connection to the endpoint could be had.
    pub(crate) fn unconnected(error: Error) -> Self {
        let fault = match error.reason() {
            // What this process has no more of is no endpoint's fault.
            Reason::Exhausted => Fault::Crowd,
            _ => Fault::Endpoint,
        };
        Self {
            error,
            outcome: AttemptOutcome::Unanswered(fault, Seen::Never),
        }
    }

    /// There was no room to open a connection.
    pub(super) fn crowded(error: Error) -> Self {
        Self {
            error,
            outcome: AttemptOutcome::Unanswered(Fault::Crowd, Seen::Never),
        }
    }

    /// As many connections are open as may be, and as many requests wait for one: no other endpoint of the
    /// port has more room.
    pub(super) fn overflowed(error: Error) -> Self {
        Self {
            error,
            outcome: AttemptOutcome::Lost(Fault::Crowd),
        }
    }

    /// The server takes no header list of that size, and was sent none of it; where it is that of the
    /// trailers, it has been sent what comes before them.
    pub(super) fn too_large(member: &Member, error: &TooLarge, unsent: bool) -> Self {
        let detail = format!("{}: {error}", member.endpoint.address());
        let error = Error::new(Reason::HeaderTooLarge, detail);
        Self {
            error: if unsent { error } else { error.maybe_sent() },
            outcome: AttemptOutcome::Lost(Fault::Caller),
        }
    }

    /// The answer's body is in a coding that the HTTP library does not take off, and that may not be
    /// passed on (RFC 9112 section 6.1). The server itself may be in good health.
    pub(super) fn coded(member: &Member) -> Self {
        let address = member.endpoint.address();
        let detail = format!("{address} answers in a transfer coding other than chunked");
        Self {
            error: Error::new(Reason::AnswerCoding, detail),
            outcome: AttemptOutcome::Lost(Fault::Connection),
        }
    }

    /// The connection broke off before the head of an answer.
    #[cold]
    pub(super) fn broken(
        failure: Failure,
        member: &Member,
        met: Met,
        place: &mut Request<Body>,
    ) -> Self {
        let address = member.endpoint.address();
        if failure.callers {
            let (reason, detail) = match failure.is_unreadable() {
                true => (
                    Reason::InvalidRequest,
                    "the chunks of the request are malformed",
                ),
                false => (
                    Reason::CallerGone,
                    "the request broke off before it was whole",
                ),
            };
            return Self {
                error: Error::new(reason, detail).because(failure.cause),
                outcome: AttemptOutcome::Lost(Fault::Caller),
            };
        }
        // With TLS 1.3 a server refuses our certificate after our own handshake is done, and
        // before it reads a byte of what we sent.
        let refused = failure.refused_by_peer();
        let stale = met.age == Age::Used && !failure.reset;
        let (reason, what) = if refused {
            let what = format!("{address} refused our certificate");
            (Reason::TlsFailed, what)
        } else if failure.too_large {
            let what = format!("the head of the answer of {address} is larger than is read");
            (Reason::AnswerTooLarge, what)
        } else if met.refused {
            let what = format!("{address} closed while the request was being sent");
            (Reason::UploadCut, what)
        } else if stale && !failure.unseen {
            let what = format!("{address} closed a connection that had been kept");
            (Reason::Stale, what)
        } else {
            let what = format!("the connection to {address} broke off");
            (Reason::Reset, what)
        };
        let mut error = Error::new(reason, what);
        if refused || failure.unseen {
            error = error.never_sent();
        }
        let closed = stale || failure.unseen || failure.again;
        let may_go =
            |back: &Request<Body>| failure.unseen || (closed && back.method().is_idempotent());
        let fault = if closed || SPARING.contains(&reason) {
            Fault::Connection
        } else {
            Fault::Endpoint
        };
        let outcome = match failure.back.filter(|back| may_go(back)) {
            Some(back) => {
                *place = *back;
                let seen = if error.is_never_sent() {
                    Seen::Never
                } else {
                    Seen::Maybe
                };
                let fault = if failure.declined {
                    Fault::Declined
                } else {
                    fault
                };
                AttemptOutcome::Unanswered(fault, seen)
            }
            None => AttemptOutcome::Lost(fault),
        };
        Self {
            error: error.because(failure.cause),
            outcome,
        }
    }
}

// === impl Failure ===

impl Failure {
    /// Of HTTP/1.1, where a server never says that it has not looked at a request.
    #[cold]
    pub(super) fn of_http1(
        mut failed: TrySendError<Request<Body>>,
        copy: Option<Box<Request<Body>>>,
    ) -> Self {
        let unsent = failed.take_message().map(Box::new);
        let cause = failed.into_error();
        Self {
            callers: cause.is_user(),
            unseen: unsent.is_some(),
            declined: false,
            reset: cause.is_parse(),
            cut: false,
            too_large: cause.is_parse_too_large(),
            again: false,
            back: unsent.or(copy),
            cause: cause.into(),
        }
    }

    /// Of HTTP/2, where a server says so by GOAWAY or REFUSED_STREAM (RFC 9113 section 8.7).
    #[cold]
    pub(super) fn of_http2(broken: Broken) -> Self {
        let library = match &broken.cause {
            Cause::Library(e) => Some(e),
            _ => None,
        };
        let declined = library.is_some_and(|e| {
            e.is_remote() && (e.is_go_away() || e.reason() == Some(h2::Reason::REFUSED_STREAM))
        });
        // One that refuses the rest of an upload resets its stream so, or closes (RFC 9113 section 8.1).
        let refusal = library.is_some_and(|e| match e.reason() {
            Some(code) if e.is_reset() => {
                e.is_remote() && matches!(code, h2::Reason::NO_ERROR | h2::Reason::CANCEL)
            }
            _ => e.is_io(),
        });
        Self {
            cut: broken.cut && refusal && !declined,
            callers: matches!(broken.cause, Cause::Body(_)),
            unseen: broken.unsent || declined,
            declined,
            reset: library.is_some_and(h2::Error::is_reset),
            too_large: false,
            again: false,
            back: broken.back,
            cause: broken.cause.into(),
        }
    }

    /// Whether the server has seen nothing of the request.
    pub(super) fn is_unseen(&self) -> bool {
        self.unseen
    }

    /// Whether the server may have meant to refuse the rest of an upload.
    pub(super) fn is_cut(&self) -> bool {
        self.cut
    }

    /// Whether what came of the caller's body is no chunk (RFC 9112 section 7.1).
    fn is_unreadable(&self) -> bool {
        let io = find::<io::Error>(self.cause.as_ref()).map(io::Error::kind);
        matches!(io, Some(ErrorKind::InvalidInput | ErrorKind::InvalidData))
    }

    fn refused_by_peer(&self) -> bool {
        let cause = self.cause.as_ref();
        let io = find::<io::Error>(cause)
            .or_else(|| find::<h2::Error>(cause).and_then(h2::Error::get_io));
        let tls = io.and_then(|io| io.get_ref()?.downcast_ref());
        matches!(tls, Some(rustls::Error::AlertReceived(_)))
    }
}

/// A copy of a request that may be repeated although a server may have seen it: an idempotent one
/// whose body is in memory.
pub(super) fn copy_of(request: &Request<Body>) -> Option<Box<Request<Body>>> {
    if !request.method().is_idempotent() {
        return None;
    }
    let mut copy = Request::new(request.body().copy()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(Box::new(copy))
}
