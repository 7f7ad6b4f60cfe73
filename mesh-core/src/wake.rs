//! The task to wake: noted by a future at each poll, and woken as often as others like.
//!
//! Unlike an atomic waker, what is noted stays when it is used, so that a future whose task does
//! not change notes it once and from then on only compares.

use std::sync::{Mutex, PoisonError};
use std::task::{Context, Waker};

/// The task, shared between the future and its wakers.
#[derive(Debug, Default)]
pub(crate) struct Task(Mutex<Option<Waker>>);

/// The future's own memory of what it has noted.
#[derive(Debug, Default)]
pub(crate) struct Noted(Option<Waker>);

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
