//! Faults that a policy has made: what was drawn in the plan comes in, a wait and an answer come out.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http::header::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::call::Call;
use super::pace::Pace;
use crate::body::{Body, BoxError, longer};
use crate::deadline;
use crate::error::{Error, grpc_kind, grpc_status};
use crate::plan::Planned;
use crate::traffic::{Bandwidth, Injected};

/// A body that is slower than it would be.
struct Slowed {
    body: Body,
    /// What has come of it and may not pass yet.
    rest: Bytes,
    pace: Pace,
    began: Instant,
    until: Pin<Box<Sleep>>,
}

/// Makes happen to a request what a policy says, within its time; returns the answer in place of the
/// server's, if it has one.
pub(super) async fn inject(
    injected: Injected,
    planned: &Planned,
    headers: &HeaderMap,
    call: &mut Call,
) -> Result<Option<Response<Body>>, Error> {
    let limits = planned.timeouts().map(|t| t.value).unwrap_or_default();
    let end = deadline::end(limits, call.started, call.deadline);
    let left = end.map(|end| end.saturating_duration_since(Instant::now()));
    let (wait, late) = injected.wait(left);
    if !wait.is_zero() {
        sleep(wait).await;
    }
    if let Some(late) = late {
        return Err(late);
    }
    let Some((error, answer)) = planned.aborted(grpc_kind(headers)) else {
        return Ok(None);
    };
    call.exchange.failed(&error);
    call.exchange.grpc_status = grpc_status(answer.headers());
    Ok(Some(answer))
}

/// The answer comes as slowly as a policy says.
#[cold]
pub(super) fn slow(answer: &mut Response<Body>, bandwidth: Bandwidth) {
    let body = std::mem::take(answer.body_mut());
    let slowed = Slowed {
        body,
        rest: Bytes::new(),
        pace: Pace::new(bandwidth),
        began: Instant::now(),
        until: Box::pin(sleep(std::time::Duration::ZERO)),
    };
    *answer.body_mut() = Body::boxed(Box::new(slowed));
}

// === impl Slowed ===

impl http_body::Body for Slowed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(part) if !part.is_empty() => this.rest = part,
                    Ok(part) => return Poll::Ready(Some(Ok(Frame::data(part)))),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        loop {
            match this.pace.pass(this.rest.len(), this.began.elapsed()) {
                Ok(part) => {
                    let part = this.rest.split_to(part);
                    return Poll::Ready(Some(Ok(Frame::data(part))));
                }
                Err(next) => {
                    this.until.as_mut().reset(this.began + next);
                    ready!(this.until.as_mut().poll(cx));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        longer(&self.body.size_hint(), self.rest.len() as u64)
    }
}
