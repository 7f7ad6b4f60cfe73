//! A future that is polled again at once where it has woken itself.
//!
//! A connection that serves HTTP/1.1 wakes itself for a request whose body does not come with its head:
//! what answers the request is polled within it, and asks it for the body. Through the scheduler that
//! costs more than the poll, because other workers are woken to take the task.

use std::future::Future;
use std::hint::cold_path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use pin_project_lite::pin_project;

use crate::wake::{Noted, Task, is_held_back};

/// It is polled now.
const POLLED: u8 = 1;
/// It was woken since it was polled last, or began to be.
const WOKEN: u8 = 2;
/// How often it is polled before other tasks have their turn.
const TURNS: usize = 4;

pin_project! {
    /// The future with its waker.
    pub(super) struct Again<F> {
        #[pin]
        future: F,
        wakes: Arc<Wakes>,
        waker: Waker,
        noted: Noted,
    }
}

#[derive(Default)]
struct Wakes {
    state: AtomicU8,
    task: Task,
}

// === impl Again ===

impl<F: Future> Again<F> {
    pub(super) fn new(future: F) -> Self {
        let wakes = Arc::<Wakes>::default();
        Self {
            future,
            waker: Arc::clone(&wakes).into(),
            wakes,
            noted: Noted::default(),
        }
    }

    /// The future itself.
    pub(super) fn inner(self: Pin<&mut Self>) -> Pin<&mut F> {
        self.project().future
    }
}

impl<F: Future> Future for Again<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        let state = &this.wakes.state;
        // Noted before it is polled, so that a wake afterwards finds the task.
        this.noted.note(cx, &this.wakes.task);
        let mut inner = Context::from_waker(this.waker);
        for _ in 0..TURNS {
            // What has woken it up to now is dealt with by this poll.
            state.store(POLLED, Ordering::SeqCst);
            if let Poll::Ready(output) = this.future.as_mut().poll(&mut inner) {
                return Poll::Ready(output);
            }
            let rests = state.compare_exchange(POLLED, 0, Ordering::SeqCst, Ordering::SeqCst);
            if rests.is_ok() {
                return Poll::Pending;
            }
        }
        cold_path();
        state.store(WOKEN, Ordering::SeqCst);
        cx.waker().wake_by_ref();
        Poll::Pending
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
        // Whatever polls it sees the mark; where there is one already, its task is woken.
        if self.state.fetch_or(WOKEN, Ordering::SeqCst) == 0 {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::convert::Infallible;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::rc::Rc;
    use std::time::Duration;

    use http::{Request, Response};
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::AsyncWriteExt;
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;
    use crate::accept::Upload;
    use crate::body::Body;

    /// How often it was polled, in how many of those polls it wakes itself, and its waker.
    #[derive(Default)]
    struct Seen {
        polls: Cell<usize>,
        wakes: Cell<usize>,
        waker: RefCell<Option<Waker>>,
    }

    fn again(seen: &Rc<Seen>) -> Again<impl Future<Output = ()>> {
        let seen = Rc::clone(seen);
        Again::new(poll_fn(move |cx| {
            seen.polls.set(seen.polls.get() + 1);
            seen.waker.replace(Some(cx.waker().clone()));
            if let Some(left) = seen.wakes.get().checked_sub(1) {
                seen.wakes.set(left);
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        }))
    }

    #[test]
    fn one_that_wakes_itself_is_polled_again_and_its_task_is_not_woken() {
        let seen = Rc::<Seen>::default();
        let mut again = task::spawn(again(&seen));
        seen.wakes.set(1);
        assert_pending!(again.poll());
        assert_eq!(seen.polls.get(), 2);
        assert!(!again.is_woken());
        // At rest a wake is the task's, once until it is polled.
        let waker = seen.waker.take().expect("polled");
        waker.wake_by_ref();
        waker.wake();
        assert!(again.is_woken());
        assert_pending!(again.poll());
        assert_eq!(seen.polls.get(), 3);
        seen.waker.take().expect("polled").wake();
        assert!(again.is_woken(), "and again after that");
    }

    #[test]
    fn one_that_never_rests_lets_other_tasks_have_their_turn() {
        let seen = Rc::<Seen>::default();
        let mut again = task::spawn(again(&seen));
        seen.wakes.set(TURNS + 1);
        assert_pending!(again.poll());
        assert_eq!(seen.polls.get(), TURNS);
        assert!(again.is_woken());
        assert_pending!(again.poll());
        assert_eq!(seen.polls.get(), TURNS + 2);
        assert!(!again.is_woken());
    }

    #[test]
    fn its_end_is_seen_in_any_turn() {
        let polls = Cell::new(0);
        let mut again = task::spawn(Again::new(poll_fn(|cx| {
            polls.set(polls.get() + 1);
            if polls.get() == 2 {
                return Poll::Ready(7);
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })));
        assert_eq!(assert_ready!(again.poll()), 7);
    }

    /// How often a connection is polled for a request that states a body of four bytes, of which `there` have
    /// come, and that is not answered.
    async fn polls_for(there: &str) -> usize {
        let (near, mut far) = tokio::io::duplex(1024);
        let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n";
        far.write_all(format!("{head}{there}").as_bytes())
            .await
            .expect("room");
        let service = service_fn(|request: Request<Incoming>| async {
            let mut request = request.map(Body::incoming);
            let _upload = Upload::time(&mut request, Duration::from_secs(1));
            std::future::pending::<Result<Response<Body>, Infallible>>().await
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(near), service);
        let mut connection = pin!(connection);
        let polls = Cell::new(0);
        let mut again = task::spawn(Again::new(poll_fn(|cx| {
            polls.set(polls.get() + 1);
            connection.as_mut().poll(cx)
        })));
        assert!(again.poll().is_pending());
        polls.get()
    }

    #[tokio::test]
    async fn a_body_that_came_with_its_head_costs_no_other_poll() {
        assert_eq!(polls_for("abcd").await, 1);
        assert_eq!(polls_for("ab").await, 2, "asked for the rest");
    }
}
