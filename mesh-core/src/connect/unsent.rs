//! A request that was not answered: why, by whose fault, and whether it may be sent again.
//!
//! In: the error of hyper. Out: a reason, a fault, and the request if a server surely has not
//! looked at it or it may be repeated. It refuses to repeat a body.

use http::Request;
use http_body::Body as _;
use hyper::client::conn::TrySendError;

use crate::balance::Member;
use crate::body::Body;
use crate::error::{Error, Reason};
use crate::model::HttpVersion;
use crate::retry::{AttemptOutcome, Fault, Seen};

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
        Self {
            error,
            outcome: AttemptOutcome::Unanswered(Fault::Endpoint, Seen::Never),
        }
    }

    /// There was no room to open a connection.
    pub(super) fn crowded(error: Error) -> Self {
        Self {
            error,
            outcome: AttemptOutcome::Unanswered(Fault::Crowd, Seen::Never),
        }
    }

    /// The connection broke off before the head of an answer.
    pub(super) fn broken(
        mut failed: TrySendError<Request<Body>>,
        member: &Member,
        met: Met,
        copy: Option<Box<Request<Body>>>,
        place: &mut Request<Body>,
    ) -> Self {
        let unsent = failed.take_message();
        let cause = failed.into_error();
        let address = member.endpoint.address();
        if is_callers(&cause) {
            let detail = "the request broke off before it was whole";
            return Self {
                error: Error::new(Reason::CallerGone, detail).because(cause),
                outcome: AttemptOutcome::Lost(Fault::Caller),
            };
        }
        // With TLS 1.3 a server refuses our certificate after our own handshake is done, and
        // before it reads a byte of what we sent.
        let refused = refused_by_peer(&cause);
        let mut error = if refused {
            Error::new(
                Reason::TlsFailed,
                format!("{address} refused our certificate"),
            )
        } else if met.refused {
            Error::new(
                Reason::UploadCut,
                format!("{address} closed while the request was being sent"),
            )
        } else {
            Error::new(
                Reason::Reset,
                format!("the connection to {address} broke off"),
            )
        };
        let unseen = unsent.is_some() || is_unseen(&cause);
        if refused || unseen {
            error = error.never_sent();
        }
        let stale = met.age == Age::Used && !is_reset(&cause) && !cause.is_parse();
        let closed = stale || is_unseen(&cause);
        let copy = copy.filter(|copy| unseen || (closed && copy.method().is_idempotent()));
        let fault = if closed || met.refused {
            Fault::Connection
        } else {
            Fault::Endpoint
        };
        let outcome = match unsent.or_else(|| copy.map(|copy| *copy)) {
            Some(back) => {
                *place = back;
                let seen = if error.is_never_sent() {
                    Seen::Never
                } else {
                    Seen::Maybe
                };
                AttemptOutcome::Unanswered(fault, seen)
            }
            None => AttemptOutcome::Lost(fault),
        };
        Self {
            error: error.because(cause),
            outcome,
        }
    }
}

/// A copy of a request that may be repeated: only one without a body can be, and over HTTP/1.1,
/// where a server never says that it has not looked at a request, only an idempotent one.
pub(super) fn copy_of(request: &Request<Body>, version: HttpVersion) -> Option<Box<Request<Body>>> {
    let repeatable = version == HttpVersion::Http2 || request.method().is_idempotent();
    (repeatable && request.body().is_end_stream()).then(|| {
        let mut copy = Request::new(Body::empty());
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.version_mut() = request.version();
        *copy.headers_mut() = request.headers().clone();
        Box::new(copy)
    })
}

/// Whether the request's own body failed, or we reset its stream because it did.
fn is_callers(error: &hyper::Error) -> bool {
    error.is_user()
        || find::<h2::Error>(error)
            .is_some_and(|e| e.is_reset() && !e.is_remote() && !e.is_library())
}

/// Whether an HTTP/2 server says that it did not look at the request (RFC 9113 section 8.7).
fn is_unseen(error: &hyper::Error) -> bool {
    find::<h2::Error>(error).is_some_and(|e| {
        e.is_remote() && (e.is_go_away() || e.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}

/// Whether an HTTP/2 server broke off this one request.
fn is_reset(error: &hyper::Error) -> bool {
    find::<h2::Error>(error).is_some_and(h2::Error::is_reset)
}

fn find<E: std::error::Error + 'static>(error: &hyper::Error) -> Option<&E> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(found) = cause.downcast_ref() {
            return Some(found);
        }
        source = cause.source();
    }
    None
}

fn refused_by_peer(error: &hyper::Error) -> bool {
    find::<std::io::Error>(error)
        .and_then(|io| io.get_ref()?.downcast_ref())
        .is_some_and(|tls| matches!(tls, rustls::Error::AlertReceived(_)))
}
