//! The way down, in order: not ready, still serving, closing, closed.
//!
//! One [`DrainTrigger`] moves the phase forward, never back; any number of [`Drain`]s watch it.

use tokio::sync::watch;

/// How far the way down has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Phase {
    /// All is as usual.
    Serving,
    /// Readiness is off, so that callers look elsewhere; requests are served as usual.
    NotReady,
    /// Connections are asked to close (GOAWAY, `connection: close`); running requests finish.
    Closing,
    /// The deadline has passed or all is done: what is left is cut.
    Closed,
}

/// Moves the phase forward.
#[derive(Debug)]
pub struct DrainTrigger(watch::Sender<Phase>);

/// Watches the phase. Cheap to clone. When the trigger is dropped the phase is `Closed`.
#[derive(Debug, Clone)]
pub struct Drain(watch::Receiver<Phase>);

/// Makes a trigger and a watch of it, in the phase [`Phase::Serving`].
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use inmesh_core::drain::{Phase, drain};
/// let (trigger, mut watch) = drain();
/// trigger.advance(Phase::Closing);
/// trigger.advance(Phase::NotReady); // never back
/// watch.closing().await;
/// assert_eq!(watch.phase(), Phase::Closing);
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn drain() -> (DrainTrigger, Drain) {
    let (sender, receiver) = watch::channel(Phase::Serving);
    (DrainTrigger(sender), Drain(receiver))
}

// === impl DrainTrigger ===

impl DrainTrigger {
    /// Moves to a phase; one that has passed already changes nothing.
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let forward = phase > *now;
            if forward {
                *now = phase;
            }
            forward
        });
    }

    /// Another watch.
    pub fn watch(&self) -> Drain {
        Drain(self.0.subscribe())
    }
}

// === impl Drain ===

impl Drain {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        if self.0.has_changed().is_err() {
            return Phase::Closed;
        }
        *self.0.borrow()
    }

    /// Waits until connections are asked to close.
    pub async fn closing(&mut self) {
        self.reached(Phase::Closing).await;
    }

    /// Waits until what is left is cut.
    pub async fn closed(&mut self) {
        self.reached(Phase::Closed).await;
    }

    /// Waits for a phase or a later one.
    pub async fn reached(&mut self, phase: Phase) {
        // An error means that the trigger is gone, which counts as closed.
        let _gone = self.0.wait_for(|now| *now >= phase).await;
    }
}
