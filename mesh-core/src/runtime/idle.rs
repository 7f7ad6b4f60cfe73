//! A stream on which nothing comes: neither a byte of the request nor one of its answer for as long as a
//! policy says.
//!
//! A part of a body that passes, an attempt that begins and a head that comes put the end off. A caller
//! that does not read is not silence: only while the answer is waited for does time count. What has left
//! HTTP has no such limit.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use inmesh_pki::clock::Span;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::body::{Body, BoxError};
use crate::error::{Error, Reason};

/// When a byte came last.
pub(super) struct Moves {
    last: Mutex<Instant>,
    limit: Duration,
}

/// A request's body of which each part is a move.
struct Moving {
    body: Body,
    moves: Arc<Moves>,
}

/// An answer's body that fails once nothing has come for too long.
struct Idle {
    body: Body,
    moves: Arc<Moves>,
    timer: Pin<Box<Sleep>>,
    /// Whether a part is waited for.
    waits: bool,
}

/// Begins to watch a request.
pub(super) fn watch(request: &mut Request<Body>, limit: Duration) -> Arc<Moves> {
    let moves = Arc::new(Moves {
        last: Mutex::new(Instant::now()),
        limit,
    });
    if !request.body().is_in_memory() {
        let body = std::mem::take(request.body_mut());
        let moves = Arc::clone(&moves);
        *request.body_mut() = Body::boxed(Box::new(Moving { body, moves }));
    }
    moves
}

/// Continues with its answer, whose head has come.
pub(super) fn answer(response: &mut Response<Body>, moves: Arc<Moves>) {
    if response.body().is_end_stream() {
        return;
    }
    moves.note(Instant::now());
    let timer = Box::pin(sleep_until(moves.due()));
    let body = std::mem::take(response.body_mut());
    *response.body_mut() = Body::boxed(Box::new(Idle {
        body,
        moves,
        timer,
        waits: false,
    }));
}

// === impl Moves ===

impl Moves {
    /// Something came.
    pub(super) fn note(&self, now: Instant) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    fn due(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) + self.limit
    }

    fn error(&self) -> Error {
        let detail = format!(
            "nothing came either way for streamIdle ({})",
            Span(self.limit)
        );
        Error::new(Reason::StreamIdle, detail)
    }

    /// What brings the head of the answer, unless nothing comes for too long.
    pub(super) async fn within<T>(
        &self,
        sent: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut sent = pin!(sent);
        loop {
            let due = self.due();
            tokio::select! {
                biased;
                answered = &mut sent => return answered,
                () = sleep_until(due) => {}
            }
            if self.due() <= Instant::now() {
                return Err(self.error());
            }
        }
    }
}

// === impl Moving ===

impl http_body::Body for Moving {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let part = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.moves.note(Instant::now());
        Poll::Ready(part)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl Idle ===

impl http_body::Body for Idle {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(part) = Pin::new(&mut this.body).poll_frame(cx) {
            this.moves.note(Instant::now());
            this.waits = false;
            return Poll::Ready(part);
        }
        if !std::mem::replace(&mut this.waits, true) {
            // Until now it was the caller that was waited for.
            this.moves.note(Instant::now());
        }
        loop {
            let due = this.moves.due();
            if due <= Instant::now() {
                return Poll::Ready(Some(Err(this.moves.error().into())));
            }
            this.timer.as_mut().reset(due);
            ready!(this.timer.as_mut().poll(cx));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, StreamBody};
    use tokio::sync::mpsc;
    use tokio::time::advance;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);
    const SHORT: Duration = Duration::from_secs(4);

    /// A body whose parts come one by one.
    fn streamed() -> (mpsc::UnboundedSender<&'static str>, Body) {
        let (sender, mut parts) = mpsc::unbounded_channel();
        let parts = futures_util::stream::poll_fn(move |cx| {
            parts.poll_recv(cx).map(|part| {
                part.map(|part: &str| Ok::<_, Infallible>(Frame::data(Bytes::from(part))))
            })
        });
        (sender, Body::new(StreamBody::new(parts)))
    }

    fn reason(error: &BoxError) -> Option<Reason> {
        error.downcast_ref::<Error>().map(Error::reason)
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_moves_is_waited_for_and_one_that_rests_is_not() {
        let (sender, body) = streamed();
        let mut request = Request::new(body);
        let moves = watch(&mut request, LIMIT);
        let begun = Instant::now();
        let mut body = std::mem::take(request.body_mut());
        let sends = tokio::spawn(async move {
            for _ in 0..3 {
                tokio::time::sleep(SHORT).await;
                sender.send("part").unwrap();
                body.frame().await.unwrap().unwrap();
            }
            (sender, body)
        });
        let waiting = moves.within(std::future::pending::<Result<(), Error>>());
        let error = waiting.await.unwrap_err();
        assert_eq!(error.reason(), Reason::StreamIdle);
        assert_eq!(begun.elapsed(), 3 * SHORT + LIMIT);
        drop(sends.await.unwrap());
        let answered = moves.within(async { Ok(1) }).await;
        assert_eq!(
            answered.ok(),
            Some(1),
            "an answer that is there is one, however late"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_fails_once_nothing_has_come_while_it_was_waited_for() {
        let (sender, body) = streamed();
        let mut response = Response::new(body);
        let mut request = Request::new(Body::empty());
        answer(&mut response, watch(&mut request, LIMIT));
        let mut body = response.into_body();
        // The caller does not read.
        advance(3 * LIMIT).await;
        let begun = Instant::now();
        let part = tokio::spawn(async move {
            let part = body.frame().await;
            (body, part.unwrap().unwrap().into_data().unwrap())
        });
        tokio::task::yield_now().await;
        advance(SHORT).await;
        sender.send("part").unwrap();
        let (mut body, part) = part.await.unwrap();
        assert_eq!(part, "part");
        let error = body.frame().await.unwrap().unwrap_err();
        assert_eq!(reason(&error), Some(Reason::StreamIdle));
        assert_eq!(begun.elapsed(), SHORT + LIMIT);
        drop(sender);
    }
}
