//! A connection that its request polls itself.
//!
//! A connection runs in a task of its own, so that its end is noticed while it rests and what is left of
//! a body is sent. A request that waits for the head of its answer polls the connection itself: to hand
//! each message over from task to task costs more than to read it. One of the two polls at a time. What
//! wakes the connection wakes whichever of them that is, and what came while the request let go of it
//! wakes the task.

use std::future::Future;
use std::hint::cold_path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use hyper::body::Incoming;

use crate::body::Body;
use crate::wake::{held_back, is_held_back};

/// A request polls the connection; else its task does.
const DRIVEN: u8 = 1;
/// The connection was woken since the request began to poll it last.
const WOKEN: u8 = 2;

/// What runs a connection until that ends.
type Running = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// A connection that its task and its requests poll in turn.
pub(super) struct Driven {
    stage: Mutex<Stage>,
    wakes: Arc<Wakes>,
    /// Of `wakes`.
    waker: Waker,
}

enum Stage {
    Running(Running),
    /// It has ended, which its task has not seen yet.
    Ended(hyper::Result<()>),
    Gone,
}

/// Where what wakes a connection leads.
#[derive(Default)]
struct Wakes {
    state: AtomicU8,
    request: AtomicWaker,
    task: AtomicWaker,
}

/// The task of a connection. Ready once that has ended.
struct Task(Arc<Driven>);

/// The right of a request to poll its connection. Dropping it leaves that to the task.
pub(super) struct Drive<'a> {
    driven: &'a Driven,
    /// Whether the task polls in the request's place.
    left: bool,
}

// === impl Driven ===

impl Driven {
    pub(super) fn new(
        connection: impl Future<Output = hyper::Result<()>> + Send + 'static,
    ) -> Arc<Self> {
        let wakes = Arc::<Wakes>::default();
        Arc::new(Self {
            stage: Mutex::new(Stage::Running(Box::pin(connection))),
            waker: Waker::from(Arc::clone(&wakes)),
            wakes,
        })
    }

    /// Runs the connection wherever no request does. Dropping it ends the connection.
    pub(super) fn run(
        self: &Arc<Self>,
    ) -> impl Future<Output = hyper::Result<()>> + Send + 'static {
        Task(Arc::clone(self))
    }

    /// Takes the connection for a request, before that is handed to it. One request at a time may hold it.
    pub(super) fn drive(&self) -> Drive<'_> {
        self.wakes.state.fetch_or(DRIVEN, Ordering::AcqRel);
        Drive {
            driven: self,
            left: false,
        }
    }

    /// Polls the connection; `None` if another does so now.
    fn poll(&self) -> Option<Poll<()>> {
        let mut stage = match self.stage.try_lock() {
            Ok(stage) => stage,
            // A body has panicked as it was polled. The connection is not fit for another request.
            Err(TryLockError::Poisoned(stage)) => {
                cold_path();
                let mut stage = stage.into_inner();
                *stage = Stage::Gone;
                stage
            }
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(self.poll_stage(&mut stage))
    }

    fn poll_stage(&self, stage: &mut MutexGuard<'_, Stage>) -> Poll<()> {
        let Stage::Running(running) = &mut **stage else {
            return Poll::Ready(());
        };
        match running.as_mut().poll(&mut Context::from_waker(&self.waker)) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(ended) => {
                cold_path();
                **stage = Stage::Ended(ended);
                Poll::Ready(())
            }
        }
    }

    /// How the connection has ended.
    fn take(&self) -> hyper::Result<()> {
        match self
            .stage
            .try_lock()
            .map(|mut stage| std::mem::replace(&mut *stage, Stage::Gone))
        {
            Ok(Stage::Ended(ended)) => ended,
            _ => Ok(()),
        }
    }
}

// === impl Wakes ===

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if is_held_back(self) {
            return;
        }
        match self.state.fetch_or(WOKEN, Ordering::AcqRel) & DRIVEN {
            0 => self.task.wake(),
            _ => self.request.wake(),
        }
    }
}

// === impl Task ===

impl Future for Task {
    type Output = hyper::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let driven = &*self.0;
        driven.wakes.task.register(cx.waker());
        // What is missed now is noted, and wakes this task when the request lets go.
        if driven.wakes.state.load(Ordering::Acquire) & DRIVEN != 0 {
            return Poll::Pending;
        }
        match driven.poll() {
            None | Some(Poll::Pending) => Poll::Pending,
            Some(Poll::Ready(())) => Poll::Ready(driven.take()),
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // A request that polls it now sees an ended runtime.
        if let Ok(mut stage) = self.0.stage.try_lock() {
            *stage = Stage::Gone;
        }
    }
}

// === impl Drive ===

impl Drive<'_> {
    /// Polls the connection, and then the answer that comes over it.
    #[inline]
    pub(super) fn poll<F: Future>(
        &mut self,
        answer: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<F::Output> {
        if self.left {
            return answer.poll(cx);
        }
        let wakes = &*self.driven.wakes;
        wakes.state.fetch_and(!WOKEN, Ordering::AcqRel);
        if self.driven.poll() != Some(Poll::Pending) {
            cold_path();
            self.leave(true);
            return answer.poll(cx);
        }
        // The answer comes by that poll alone: there is nothing for it to wake.
        let polled = answer.poll(&mut Context::from_waker(Waker::noop()));
        if polled.is_pending() {
            wakes.request.register(cx.waker());
            if wakes.state.load(Ordering::Acquire) & WOKEN != 0 {
                cx.waker().wake_by_ref();
            }
        }
        polled
    }

    /// The body of the answer. A small one is taken off the connection as far as it has come: read later,
    /// it would wake the task to say that there is room for more, when mostly there is no more.
    pub(super) fn body(&self, incoming: Incoming) -> Body {
        if self.left {
            return Body::incoming(incoming);
        }
        let (body, held) = held_back(|| Body::begun(incoming));
        if let Some(held) = held.filter(|_| !body.is_in_memory()) {
            cold_path();
            held.wake();
        }
        body
    }

    /// Leaves the connection to its task, and wakes that if there is something to do.
    fn leave(&mut self, wake: bool) {
        self.left = true;
        let wakes = &*self.driven.wakes;
        let state = wakes.state.fetch_and(!DRIVEN, Ordering::AcqRel);
        if wake || state & WOKEN != 0 {
            wakes.task.wake();
        }
    }
}

impl Drop for Drive<'_> {
    fn drop(&mut self) {
        if !self.left {
            self.leave(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn, ready};
    use std::sync::atomic::AtomicBool;

    use http::Request;
    use http_body_util::BodyExt;
    use hyper::client::conn::http1;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::sync::oneshot;
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    /// A connection that takes questions.
    struct Connection {
        driven: Arc<Driven>,
        network: Arc<Network>,
    }

    /// What is asked over a connection, and answered.
    #[derive(Default)]
    struct Network {
        waker: AtomicWaker,
        /// How often the connection was polled.
        polls: AtomicU8,
        asked: Mutex<Option<oneshot::Sender<()>>>,
        has_answer: AtomicBool,
    }

    impl Connection {
        fn new() -> Self {
            let network = Arc::<Network>::default();
            let own = Arc::clone(&network);
            let driven = Driven::new(poll_fn(move |cx| {
                own.polls.fetch_add(1, Ordering::Relaxed);
                own.waker.register(cx.waker());
                if own.has_answer.swap(false, Ordering::Relaxed)
                    && let Some(asked) = own.asked.lock().expect("sound").take()
                {
                    let _gone = asked.send(());
                }
                Poll::Pending
            }));
            Self { driven, network }
        }

        fn ask(&self) -> oneshot::Receiver<()> {
            let (asked, answer) = oneshot::channel();
            *self.network.asked.lock().expect("sound") = Some(asked);
            self.network.waker.wake();
            answer
        }

        fn answer(&self) {
            self.network.has_answer.store(true, Ordering::Relaxed);
            self.network.waker.wake();
        }

        fn polls(&self) -> u8 {
            self.network.polls.load(Ordering::Relaxed)
        }
    }

    /// A request that polls its connection while it waits.
    async fn driving(mut drive: Drive<'_>, answer: oneshot::Receiver<()>) {
        let mut answer = std::pin::pin!(answer);
        let answered = poll_fn(|cx| drive.poll(answer.as_mut(), cx)).await;
        answered.expect("answered");
    }

    #[test]
    fn a_request_polls_its_connection_and_the_task_is_not_woken() {
        let connection = Connection::new();
        let mut task = task::spawn(connection.driven.run());
        assert_pending!(task.poll());
        assert_eq!(connection.polls(), 1);
        for _ in 0..3 {
            let before = connection.polls();
            let drive = connection.driven.drive();
            let answer = connection.ask();
            let mut request = task::spawn(driving(drive, answer));
            assert_pending!(request.poll());
            assert!(!request.is_woken(), "what woke it before is dealt with");
            connection.answer();
            assert!(request.is_woken());
            assert_ready!(request.poll());
            drop(request);
            assert!(!task.is_woken());
            assert_eq!(connection.polls() - before, 2);
        }
        connection.network.waker.wake();
        assert!(task.is_woken(), "at rest its task is woken");
    }

    #[test]
    fn what_wakes_a_connection_as_its_request_goes_wakes_the_task() {
        let connection = Connection::new();
        let mut task = task::spawn(connection.driven.run());
        assert_pending!(task.poll());
        // Before the request has polled it.
        let drive = connection.driven.drive();
        let answer = connection.ask();
        assert!(!task.is_woken());
        drop(drive);
        assert!(task.is_woken());
        drop(answer);
        assert_pending!(task.poll());
        // After it has.
        let drive = connection.driven.drive();
        let answer = connection.ask();
        let mut request = task::spawn(driving(drive, answer));
        assert_pending!(request.poll());
        connection.network.waker.wake();
        drop(request);
        assert!(task.is_woken());
    }

    /// A wake of the task that is missed, because a request polls, is not lost.
    #[test]
    fn a_task_that_is_polled_beside_a_request_leaves_the_connection_alone() {
        let connection = Connection::new();
        let mut task = task::spawn(connection.driven.run());
        assert_pending!(task.poll());
        connection.network.waker.wake();
        assert!(task.is_woken());
        let drive = connection.driven.drive();
        assert_pending!(task.poll());
        assert_eq!(connection.polls(), 1);
        drop(drive);
        assert!(task.is_woken());
        assert_pending!(task.poll());
        assert_eq!(connection.polls(), 2);
    }

    /// Where the task is at it just now, the request leaves the connection to that.
    #[test]
    fn a_request_that_finds_the_connection_busy_waits_for_the_task() {
        let connection = Connection::new();
        let mut task = task::spawn(connection.driven.run());
        assert_pending!(task.poll());
        let busy = connection.driven.stage.lock().expect("sound");
        let drive = connection.driven.drive();
        let answer = connection.ask();
        let mut request = task::spawn(driving(drive, answer));
        assert_pending!(request.poll());
        drop(busy);
        assert!(task.is_woken());
        connection.answer();
        assert_pending!(task.poll());
        assert!(request.is_woken());
        assert_ready!(request.poll());
    }

    #[test]
    fn the_task_ends_with_the_connection_whichever_polls_it_last() {
        for by_request in [true, false] {
            let ended = Arc::<AtomicU8>::default();
            let ending = Arc::clone(&ended);
            let driven = Driven::new(poll_fn(move |_| match ending.load(Ordering::Relaxed) {
                0 => Poll::Pending,
                _ => Poll::Ready(Ok(())),
            }));
            let mut task = task::spawn(driven.run());
            assert_pending!(task.poll());
            ended.store(1, Ordering::Relaxed);
            if by_request {
                let mut drive = driven.drive();
                let mut request = task::spawn(poll_fn(|cx| {
                    drive.poll(std::pin::pin!(ready(7)).as_mut(), cx)
                }));
                assert_eq!(assert_ready!(request.poll()), 7);
                drop(request);
                assert!(task.is_woken());
            }
            assert!(assert_ready!(task.poll()).is_ok());
            drop(task);
            // No request polls what has ended.
            let mut drive = driven.drive();
            let mut late = task::spawn(poll_fn(|cx| {
                drive.poll(std::pin::pin!(ready(8)).as_mut(), cx)
            }));
            assert_eq!(assert_ready!(late.poll()), 8);
        }
    }

    #[test]
    fn a_connection_ends_with_its_task_and_with_a_panic() {
        let dropped = Arc::new(());
        let held = Arc::clone(&dropped);
        let driven = Driven::new(async move {
            let _held = held;
            pending().await
        });
        drop(driven.run());
        assert_eq!(Arc::strong_count(&dropped), 1);

        let held = Arc::clone(&dropped);
        let driven = Driven::new(poll_fn(move |_| {
            let _held = &held;
            panic!("of a body");
        }));
        let mut task = task::spawn(driven.run());
        let mut drive = driven.drive();
        let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut request = task::spawn(poll_fn(|cx| {
                drive.poll(std::pin::pin!(pending::<()>()).as_mut(), cx)
            }));
            request.poll()
        }));
        assert!(polled.is_err());
        drop(drive);
        assert!(assert_ready!(task.poll()).is_ok());
        assert_eq!(Arc::strong_count(&dropped), 1);
    }

    /// The body of an answer whose server then writes `later`, or ends if that is nothing.
    async fn body_of(first: &str, later: &str) -> (Body, DuplexStream) {
        let (near, mut far) = tokio::io::duplex(1024);
        let (mut sender, connection) = http1::handshake(TokioIo::new(near)).await.expect("made");
        let driven = Driven::new(connection);
        tokio::spawn(driven.run());
        let mut drive = driven.drive();
        let request = Request::get("/").body(Body::empty()).expect("a request");
        let mut answer = std::pin::pin!(sender.try_send_request(request));
        let polled = poll_fn(|cx| drive.poll(answer.as_mut(), cx));
        let served = async {
            far.read_exact(&mut [0; 18]).await.expect("a request");
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n";
            let head = format!("{head}{first}");
            far.write_all(head.as_bytes()).await.expect("read");
        };
        let (answer, ()) = tokio::join!(polled, served);
        let body = drive.body(answer.expect("an answer").into_body());
        drop(drive);
        far.write_all(later.as_bytes()).await.expect("read");
        // It lives on until the caller has read.
        tokio::spawn(async move { sender.ready().await });
        (body, far)
    }

    #[tokio::test]
    async fn a_small_body_is_read_with_its_head_as_far_as_it_has_come() {
        for (first, later) in [("abcd", ""), ("ab", "cd"), ("", "abcd")] {
            let (body, _far) = body_of(first, later).await;
            assert_eq!(body.is_in_memory(), later.is_empty());
            assert_eq!(http_body::Body::size_hint(&body).exact(), Some(4));
            let read = body.collect().await.expect("whole").to_bytes();
            assert_eq!(read, "abcd", "{first} and {later}");
        }
    }

    #[tokio::test]
    async fn a_body_that_was_begun_ends_with_the_error_of_its_connection() {
        for first in ["ab", ""] {
            let (mut body, far) = body_of(first, "").await;
            drop(far);
            if !first.is_empty() {
                let part = body.frame().await.expect("a part").expect("read");
                assert_eq!(part.into_data().expect("data"), first);
            }
            assert!(body.frame().await.expect("an end").is_err());
        }
    }
}
