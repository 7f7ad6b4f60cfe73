//! The deadline of a request's body: in goes the body of a caller's connection and what answers the
//! request, out comes an error once the server waits for a part of it that does not come.
//!
//! Only silence counts, and only while the server wants to read: neither a slow endpoint nor a large
//! body makes a caller late. It counts until the head of the answer is there; from then on the
//! server has taken the rest on, and both may talk or rest as they like. A gRPC call is left alone:
//! its messages may be hours apart, and it brings a deadline of its own. What the program that
//! embeds the mesh sends itself is not looked at. A short body came with its head, most often: it is
//! taken at once, and forwarded as bytes that need no wait.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use inmesh_pki::clock::Span;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::timed::Timer;
use crate::body::{Body, BoxError, longer};
use crate::error::{Error, Reason, is_grpc};
use crate::wake::{Noted, Task, held_back};

const WAITING: u8 = 0;
const ANSWERED: u8 = 1;
const STALLED: u8 = 2;

/// What the body of a request and its answer know of each other.
#[derive(Debug)]
pub(crate) struct Upload {
    phase: AtomicU8,
    /// Whether a part of the body is waited for.
    awaited: AtomicBool,
    limit: Duration,
    task: Task,
}

/// What a poll of a body yields: a part, an error, or its end.
type Part = Option<Result<Frame<Bytes>, BoxError>>;

/// The body.
struct TimedUpload {
    /// What was there at first, until it is asked for.
    first: Option<Part>,
    inner: Body,
    upload: Arc<Upload>,
    /// Since when the next part is waited for.
    since: Option<Instant>,
    timer: Timer,
}

pin_project! {
    /// What answers a request, cut short when its body stalls.
    pub(crate) struct AnsweringUpload<F> {
        #[pin]
        inner: F,
        upload: Option<Arc<Upload>>,
        noted: Noted,
    }
}

// === impl Upload ===

impl Upload {
    /// Times the body of a caller's request; `None` where there is nothing to time.
    pub(crate) fn time(request: &mut Request<Body>, limit: Duration) -> Option<Arc<Self>> {
        let grpc = request.version() == Version::HTTP_2 && is_grpc(request.headers());
        if request.body().is_end_stream() || grpc {
            return None;
        }
        // To ask for the body is to answer an Expect with 100, which is the server's to do.
        let asked = !request.headers().contains_key(header::EXPECT);
        let (mut first, held) = match asked {
            true => held_back(|| what_is_there(request.body_mut())),
            false => (None, None),
        };
        if let Some(Some(Ok(frame))) = &mut first
            && let Some(whole) = frame.data_mut()
            && request.body().is_end_stream()
        {
            *request.body_mut() = Body::from(std::mem::take(whole));
            return None;
        }
        if let Some(held) = held {
            held.wake();
        }
        let upload = Arc::new(Self {
            phase: AtomicU8::new(WAITING),
            awaited: AtomicBool::new(false),
            limit,
            task: Task::default(),
        });
        let inner = std::mem::take(request.body_mut());
        *request.body_mut() = Body::new(TimedUpload {
            first,
            inner,
            upload: Arc::clone(&upload),
            since: None,
            timer: Timer::default(),
        });
        Some(upload)
    }

    /// Runs what answers the request, to the head of the answer.
    pub(crate) fn answering<T, F>(this: Option<Arc<Self>>, inner: F) -> AnsweringUpload<F>
    where
        F: Future<Output = Result<T, Error>>,
    {
        AnsweringUpload {
            inner,
            upload: this,
            noted: Noted::default(),
        }
    }

    /// Whether the server waits for the caller: whatever takes too long then is not its doing.
    pub(crate) fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Relaxed)
    }

    /// Ends the wait; the first call decides how.
    fn end(&self, how: u8) -> bool {
        self.phase
            .compare_exchange(WAITING, how, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    fn is(&self, phase: u8) -> bool {
        self.phase.load(Ordering::Acquire) == phase
    }

    fn error(&self) -> Error {
        let detail = format!("nothing more of the body came for {}", Span(self.limit));
        Error::new(Reason::BodyTimeout, detail)
    }
}

/// What a body says now, if anything.
fn what_is_there(body: &mut Body) -> Option<Part> {
    // No task is woken: the next reader polls again.
    match Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(part) => Some(part),
        Poll::Pending => None,
    }
}

// === impl TimedUpload ===

impl TimedUpload {
    /// Whether the wait has lasted too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.upload.is(ANSWERED) {
            return Poll::Pending;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let Some(deadline) = since.checked_add(self.upload.limit) else {
            return Poll::Pending;
        };
        self.timer.poll_at(deadline, cx)
    }
}

impl http_body::Body for TimedUpload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(first) = this.first.take() {
            return Poll::Ready(first);
        }
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            this.since = None;
            this.upload.awaited.store(false, Ordering::Relaxed);
            return Poll::Ready(frame);
        }
        this.upload.awaited.store(true, Ordering::Relaxed);
        ready!(this.poll_late(cx));
        if this.upload.end(STALLED) {
            this.upload.task.wake();
        } else if this.upload.is(ANSWERED) {
            return Poll::Pending;
        }
        let error = io::Error::new(io::ErrorKind::TimedOut, this.upload.error());
        Poll::Ready(Some(Err(error.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let first = match &self.first {
            Some(Some(Ok(frame))) => frame.data_ref().map_or(0, Bytes::len) as u64,
            _ => 0,
        };
        longer(&self.inner.size_hint(), first)
    }
}

// === impl AnsweringUpload ===

impl<T, F> Future for AnsweringUpload<F>
where
    F: Future<Output = Result<T, Error>>,
{
    type Output = Result<T, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(upload) = this.upload else {
            return this.inner.poll(cx);
        };
        this.noted.note(cx, &upload.task);
        if upload.is(STALLED) {
            return Poll::Ready(Err(upload.error()));
        }
        let answer = ready!(this.inner.poll(cx));
        // An application that answers because the body broke off is not what the caller waits for.
        Poll::Ready(if upload.end(ANSWERED) {
            answer
        } else {
            Err(upload.error())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::pending;

    use http::header;
    use http_body_util::{BodyExt, StreamBody};
    use tokio::sync::mpsc;
    use tokio::time::{advance, timeout};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);
    const SECOND: Duration = Duration::from_secs(1);

    /// A request whose body is what is sent.
    fn request() -> (mpsc::UnboundedSender<&'static str>, Request<Body>) {
        let (sender, mut parts) = mpsc::unbounded_channel();
        let parts = futures_util::stream::poll_fn(move |cx| {
            parts.poll_recv(cx).map(|part| {
                part.map(|part: &str| Ok::<_, Infallible>(Frame::data(Bytes::from(part))))
            })
        });
        let mut request = Request::new(Body::new(StreamBody::new(parts)));
        *request.method_mut() = http::Method::POST;
        (sender, request)
    }

    fn reason<T>(result: Result<T, Error>) -> Option<Reason> {
        result.err().map(|error| error.reason())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_ends_the_request_and_one_that_goes_on_does_not() {
        let (sender, mut request) = request();
        let upload = Upload::time(&mut request, LIMIT);
        let mut body = std::mem::take(request.body_mut());
        let answering = Upload::answering(upload, async move {
            for part in ["a", "b", "c"] {
                let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
                assert_eq!(data, part);
            }
            let error = body.frame().await.unwrap().unwrap_err();
            assert_eq!(
                error.to_string(),
                "body-timeout: nothing more of the body came for 60 s"
            );
            Ok(())
        });
        let answering = tokio::spawn(answering);
        let started = Instant::now();
        // Three minutes less three seconds in all, and never as long as the limit.
        for part in ["a", "b", "c"] {
            tokio::task::yield_now().await;
            advance(LIMIT - SECOND).await;
            sender.send(part).unwrap();
        }
        assert_eq!(
            reason(answering.await.unwrap()),
            Some(Reason::BodyTimeout),
            "although there is an answer: it was made of half a request"
        );
        let whole = started.elapsed();
        assert_eq!(whole.as_secs(), (4 * LIMIT - 3 * SECOND).as_secs());
    }

    #[tokio::test]
    async fn what_is_there_at_first_is_whole_or_comes_first() {
        // All of it: nothing is left to wait for.
        let mut request = Request::new(Body::new(http_body_util::Full::new("all".into())));
        assert!(Upload::time(&mut request, LIMIT).is_none());
        assert_eq!(request.body().size_hint().exact(), Some(3));
        assert_eq!(
            request.into_body().collect().await.unwrap().to_bytes(),
            "all"
        );
        // A part of it.
        let (sender, mut request) = self::request();
        sender.send("a").unwrap();
        assert!(Upload::time(&mut request, LIMIT).is_some());
        assert_eq!(request.body().size_hint().lower(), 1);
        sender.send("b").unwrap();
        drop(sender);
        assert_eq!(
            request.into_body().collect().await.unwrap().to_bytes(),
            "ab"
        );
        // Its end alone.
        let (sender, mut request) = self::request();
        drop(sender);
        assert!(Upload::time(&mut request, LIMIT).is_some());
        assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "");
    }

    /// An error that was met by looking is not taken for the end.
    #[tokio::test]
    async fn a_body_that_has_broken_off_is_never_whole() {
        let parts = futures_util::stream::iter([Err(io::Error::other("broke off"))]);
        let mut request = Request::new(Body::new(StreamBody::new(parts)));
        assert!(Upload::time(&mut request, LIMIT).is_some());
        let error = request.into_body().collect().await.unwrap_err();
        assert_eq!(error.to_string(), "broke off");
    }

    /// To look would be to ask the caller for the body of a request that may be refused.
    #[tokio::test]
    async fn a_body_that_waits_to_be_asked_for_is_not_looked_at() {
        let mut request = Request::new(Body::new(http_body_util::Full::new("all".into())));
        let expected = header::HeaderValue::from_static("100-continue");
        request.headers_mut().insert(header::EXPECT, expected);
        assert!(Upload::time(&mut request, LIMIT).is_some());
        assert_eq!(
            request.into_body().collect().await.unwrap().to_bytes(),
            "all"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_never_comes_is_not_waited_for_once_the_body_has_stalled() {
        let (_sender, mut request) = request();
        let upload = Upload::time(&mut request, LIMIT);
        // As a connection reads it: in another task than the one that waits for the answer.
        tokio::spawn(request.into_body().collect());
        let answering = Upload::answering(upload, pending::<Result<(), Error>>());
        let result = timeout(LIMIT + SECOND, answering).await.unwrap();
        assert_eq!(reason(result), Some(Reason::BodyTimeout));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_late_while_nobody_reads_or_once_there_is_an_answer() {
        let (sender, mut request) = request();
        let upload = Upload::time(&mut request, LIMIT);
        let mut body = std::mem::take(request.body_mut());
        // The endpoint takes its time.
        sender.send("a").unwrap();
        advance(2 * LIMIT).await;
        body.frame().await.unwrap().unwrap();
        sender.send("b").unwrap();
        advance(2 * LIMIT).await;
        body.frame().await.unwrap().unwrap();
        // It begins to wait, and is answered before the caller is late.
        let early = timeout(LIMIT - SECOND, body.frame()).await;
        assert!(early.is_err());
        assert!(Upload::answering(upload, async { Ok(()) }).await.is_ok());
        assert!(timeout(10 * LIMIT, body.frame()).await.is_err());
        sender.send("c").unwrap();
        body.frame().await.unwrap().unwrap();
        drop(sender);
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn what_has_no_end_by_design_is_not_timed() {
        let timed = |request: &mut Request<Body>| Upload::time(request, LIMIT).is_some();
        assert!(!timed(&mut Request::new(Body::empty())));
        let (_sender, mut stream) = request();
        let grpc = http::HeaderValue::from_static("application/grpc+proto");
        stream.headers_mut().insert(header::CONTENT_TYPE, grpc);
        *stream.version_mut() = Version::HTTP_2;
        assert!(!timed(&mut stream));
        let (_sender, mut named) = request();
        let grpc = http::HeaderValue::from_static("application/grpc");
        named.headers_mut().insert(header::CONTENT_TYPE, grpc);
        assert!(timed(&mut named), "there is no gRPC over HTTP/1.1");
        let mut whole = Request::new(Body::from("whole"));
        assert!(!timed(&mut whole), "nothing of it is still to come");
        // A limit that no upload reaches limits nothing.
        let (_sender, mut stream) = request();
        let upload = Upload::time(&mut stream, Duration::MAX);
        let mut body = stream.into_body();
        let next = body.frame();
        assert!(futures_util::FutureExt::now_or_never(next).is_none());
        drop(upload);
    }
}
