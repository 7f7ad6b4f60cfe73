//! The task to wake: noted by a future at each poll, and woken as often as others like.
//!
//! Unlike an atomic waker, what is noted stays when it is used, so that a future whose task does
//! not change notes it once and from then on only compares.
//!
//! And the wake that is held back. The HTTP library wakes a connection of HTTP/1.1 whenever a part of a
//! body is taken off it, because there is room for another part; mostly no other is to come, and the
//! connection would be polled once more for nothing.

use std::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

thread_local! {
    static HOLDING: Cell<Holding> = const { Cell::new(Holding::No) };
}

/// The task, shared between the future and its wakers.
#[derive(Debug, Default)]
pub(crate) struct Task(Mutex<Option<Waker>>);

/// The future's own memory of what it has noted.
#[derive(Debug, Default)]
pub(crate) struct Noted(Option<Waker>);

/// Whether this thread holds wakes back.
#[derive(Default)]
enum Holding {
    #[default]
    No,
    /// None has come yet.
    Open,
    One(Waker),
}

/// The time in which this thread holds wakes back; it ends with a panic, too.
struct Hold;

/// Runs `read`, which takes a part of a body off a connection that this thread polls. Returns beside its
/// value the wake of that connection, to be passed on unless all of the body has been taken.
pub(crate) fn held_back<T>(read: impl FnOnce() -> T) -> (T, Option<Waker>) {
    HOLDING.set(Holding::Open);
    let _hold = Hold;
    let value = read();
    match HOLDING.take() {
        Holding::One(waker) => (value, Some(waker)),
        Holding::No | Holding::Open => (value, None),
    }
}

/// Whether the wake of `woken` is held back: the first that comes while this thread does so.
pub(crate) fn is_held_back<W: Wake + Send + Sync + 'static>(woken: &Arc<W>) -> bool {
    match HOLDING.take() {
        Holding::No => false,
        Holding::Open => {
            HOLDING.set(Holding::One(Arc::clone(woken).into()));
            true
        }
        one @ Holding::One(_) => {
            HOLDING.set(one);
            false
        }
    }
}

// === impl Hold ===

impl Drop for Hold {
    fn drop(&mut self) {
        HOLDING.set(Holding::No);
    }
}

// === impl Task ===

impl Task {
    /// Wakes the task that was noted last, if there is one.
    pub(crate) fn wake(&self) {
        let task = self.lock().clone();
        if let Some(task) = task {
            task.wake();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Noted ===

impl Noted {
    /// Notes the task that polls. Look at what it waits for after this, so that no wake is missed.
    pub(crate) fn note(&mut self, cx: &Context<'_>, task: &Task) {
        if !self.0.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *task.lock() = Some(cx.waker().clone());
            self.0 = Some(cx.waker().clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A connection, and how often it was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            if !is_held_back(&self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    impl Woken {
        fn times(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn the_wake_of_a_connection_is_held_back_while_it_is_read_from() {
        let woken = Arc::<Woken>::default();
        let waker = Waker::from(Arc::clone(&woken));
        let (read, held) = held_back(|| {
            waker.wake_by_ref();
            7
        });
        assert_eq!((read, woken.times()), (7, 0));
        held.expect("one was held back").wake();
        assert_eq!(woken.times(), 1, "passed on");
        waker.wake_by_ref();
        assert_eq!(woken.times(), 2, "and none is held back afterwards");
        let (_, held) = held_back(|| ());
        assert!(held.is_none());
    }

    #[test]
    fn another_wake_than_the_first_is_not_held_back() {
        let (one, other) = (Arc::<Woken>::default(), Arc::<Woken>::default());
        let (_, held) = held_back(|| {
            for woken in [&one, &other] {
                Waker::from(Arc::clone(woken)).wake();
            }
        });
        assert_eq!((one.times(), other.times()), (0, 1));
        assert!(held.is_some());
    }

    #[test]
    fn neither_a_panic_nor_another_thread_is_part_of_it() {
        let woken = Arc::<Woken>::default();
        let waker = Waker::from(Arc::clone(&woken));
        let panicked = std::panic::catch_unwind(|| held_back(|| panic!("of a body")));
        assert!(panicked.is_err());
        waker.wake_by_ref();
        assert_eq!(woken.times(), 1);
        let (_, held) = held_back(|| {
            let waker = waker.clone();
            std::thread::spawn(move || waker.wake())
                .join()
                .expect("woken");
        });
        assert!(held.is_none());
        assert_eq!(woken.times(), 2);
    }
}
