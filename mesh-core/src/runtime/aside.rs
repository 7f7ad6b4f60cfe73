//! A future beside a busier one in the same task.
//!
//! `select!` polls every branch whenever the task wakes, so what waits for the drain or for the
//! end of a certificate would be asked at each step of a connection, for as long as it lives. An
//! [`Aside`] has a waker of its own, and asks its future only when that was woken.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::wake::{Noted, Task};

/// The future with its waker. It must not be polled again once it is ready.
pub(super) struct Aside<F> {
    future: Pin<Box<F>>,
    woken: Arc<Woken>,
    waker: Waker,
    noted: Noted,
}

struct Woken {
    flag: AtomicBool,
    task: Task,
}

// === impl Aside ===

impl<F: Future> Aside<F> {
    pub(super) fn new(future: F) -> Self {
        let woken = Arc::new(Woken {
            flag: AtomicBool::new(true),
            task: Task::default(),
        });
        Self {
            future: Box::pin(future),
            waker: Arc::clone(&woken).into(),
            woken,
            noted: Noted::default(),
        }
    }
}

impl<F: Future> Future for Aside<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        // Noted before it is looked at, so a wake in between is seen here or wakes the task.
        this.noted.note(cx, &this.woken.task);
        if !this.woken.flag.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        // Before it is asked, so that what wakes it meanwhile is not forgotten.
        this.woken.flag.store(false, Ordering::Release);
        this.future
            .as_mut()
            .poll(&mut Context::from_waker(&this.waker))
    }
}

// === impl Woken ===

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.flag.store(true, Ordering::Release);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::rc::Rc;

    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    #[test]
    fn it_is_asked_at_first_and_then_only_when_woken() {
        let (asked, done) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let inner = Rc::new(Cell::new(None::<Waker>));
        let future = poll_fn({
            let (asked, done, inner) = (Rc::clone(&asked), Rc::clone(&done), Rc::clone(&inner));
            move |cx| {
                asked.set(asked.get() + 1);
                inner.set(Some(cx.waker().clone()));
                if done.get() {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            }
        });
        let mut aside = task::spawn(Aside::new(future));
        for _ in 0..3 {
            assert_pending!(aside.poll());
        }
        assert_eq!(asked.get(), 1);
        assert!(!aside.is_woken());

        done.set(true);
        assert_pending!(aside.poll());
        inner.take().expect("asked once").wake();
        assert!(aside.is_woken());
        assert_ready!(aside.poll());
        assert_eq!(asked.get(), 2);
    }

    /// A waker that is used twice wakes twice.
    #[test]
    fn it_is_woken_as_often_as_its_future_is() {
        let inner = Rc::new(Cell::new(None::<Waker>));
        let mut aside = task::spawn(Aside::new(poll_fn({
            let inner = Rc::clone(&inner);
            move |cx| {
                inner.set(Some(cx.waker().clone()));
                Poll::<()>::Pending
            }
        })));
        assert_pending!(aside.poll());
        for _ in 0..3 {
            inner.take().expect("asked when woken").wake();
            assert!(aside.is_woken());
            assert_pending!(aside.poll());
        }
    }

    #[test]
    fn another_task_that_polls_it_is_the_one_that_is_woken() {
        let inner = Rc::new(Cell::new(None::<Waker>));
        let mut aside = Aside::new(poll_fn({
            let inner = Rc::clone(&inner);
            move |cx| {
                inner.set(Some(cx.waker().clone()));
                Poll::<()>::Pending
            }
        }));
        let mut first = task::spawn(());
        let mut second = task::spawn(());
        first.enter(|cx, _| assert_pending!(Pin::new(&mut aside).poll(cx)));
        second.enter(|cx, _| assert_pending!(Pin::new(&mut aside).poll(cx)));
        inner.take().expect("asked once").wake();
        assert!(second.is_woken() && !first.is_woken());
    }
}
