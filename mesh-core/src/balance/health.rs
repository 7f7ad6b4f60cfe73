//! Health of live endpoints: breakers behind atomics, so that the common case takes no lock.
//!
//! A pick reads one atomic of the set and one or two of endpoints. Locks are taken when an
//! endpoint fails, and when one that had failed succeeds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Availability, Breaker, EjectPolicy, LoadView, Verdict, p2c};
use crate::model::{Draw, EndpointSet, EndpointState, Member};

/// `SetHealth::next_probe` where no endpoint is out.
const NEVER: u64 = u64::MAX;

/// How long until an ejected endpoint that is not ready is looked at again.
const AGAIN: Duration = Duration::from_secs(1);

/// One endpoint's health.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Health {
    /// Mirrors of the breaker for readers without the lock; first, because they are read most.
    ejected: AtomicBool,
    blemished: AtomicBool,
    breaker: Mutex<Breaker>,
}

/// What a set as a whole remembers.
#[derive(Debug)]
pub(crate) struct SetHealth {
    /// When the first ejected endpoint may be probed, in milliseconds; `NEVER` where none is out.
    next_probe: AtomicU64,
    /// Held while it is decided whether there is room for one more ejection, and while
    /// `next_probe` is set by what the breakers say, so that neither is decided on old news.
    ejecting: Mutex<()>,
}

/// No endpoint can be chosen, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoEndpoint {
    /// All that are ready were tried, or those that were not are ejected.
    #[error("every ready endpoint is ejected or was tried")]
    AllOut,
    /// None is ready.
    #[error("no endpoint is ready")]
    NoneReady,
}

/// An endpoint that was chosen. Dropping it without a verdict takes no position on its health.
#[derive(Debug)]
pub struct Picked {
    set: Arc<EndpointSet>,
    /// Its place in the set; there always is one.
    index: usize,
    probe: bool,
    judged: bool,
}

/// Chooses an endpoint of a set for a request, and counts the request as in flight to it.
///
/// `now` is on the same monotonic clock as in the later verdict; `tried` are endpoints that this
/// request was sent to already.
///
/// # Errors
/// [`NoEndpoint`] where none may be chosen.
pub fn pick(
    set: &Arc<EndpointSet>,
    now: Duration,
    tried: &[Arc<EndpointState>],
    draw: &mut Draw,
) -> Result<Picked, NoEndpoint> {
    if set.ready_len() == 0 {
        return Err(NoEndpoint::NoneReady);
    }
    if let Some(index) = set.health().due(set, now) {
        return Ok(Picked::new(set, index, true));
    }
    let mut view = View {
        set,
        tried,
        ejected: false,
    };
    let nth = p2c(&view, draw).or_else(|| {
        // A set may shrink to what was ejected. Then those are better than none.
        view.ejected = set.ejected_len() == set.ready_len();
        if view.ejected { p2c(&view, draw) } else { None }
    });
    let nth = nth.ok_or(NoEndpoint::AllOut)?;
    let index = set.ready_index(nth).ok_or(NoEndpoint::NoneReady)?;
    Ok(Picked::new(set, index, false))
}

struct View<'a> {
    set: &'a EndpointSet,
    tried: &'a [Arc<EndpointState>],
    /// Whether those that are ejected may be chosen.
    ejected: bool,
}

fn millis(at: Duration) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(NEVER - 1)
}

// === impl Health ===

impl Health {
    pub(crate) fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    fn with<T>(&self, change: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut breaker);
        let out = breaker.ejected_until().is_some();
        self.ejected.store(out, Ordering::Relaxed);
        self.blemished
            .store(out || breaker.failures() > 0, Ordering::Relaxed);
        result
    }
}

// === impl SetHealth ===

impl SetHealth {
    /// The endpoint that this request shall probe, if one is due.
    fn due(&self, set: &EndpointSet, now: Duration) -> Option<usize> {
        if self.next_probe.load(Ordering::Relaxed) > millis(now) {
            return None;
        }
        let found = (0..set.ready_len())
            .filter_map(|n| set.ready_index(n))
            .find(|&index| {
                let state = &set.members()[index].state;
                state.is_ejected() && state.health.with(|b| b.poll_probe(now))
            });
        if found.is_none() {
            self.rearm(set, now);
        }
        found
    }

    /// Looks up when the next probe is due; a probe on its way re-arms it when it is judged. An
    /// endpoint that is due but not ready is looked at again in a moment.
    fn rearm(&self, set: &EndpointSet, now: Duration) {
        let _one_at_a_time = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let next = set
            .members()
            .iter()
            .filter(|m| m.state.is_ejected())
            .filter_map(|m| {
                m.state
                    .health
                    .with(|b| b.ejected_until().filter(|_| !b.is_probing()))
            })
            .map(|until| millis(until.max(now + AGAIN)))
            .min();
        self.next_probe
            .store(next.unwrap_or(NEVER), Ordering::Relaxed);
    }

    fn wake(&self, at: Duration) {
        self.next_probe.fetch_min(millis(at), Ordering::Relaxed);
    }
}

impl Default for SetHealth {
    fn default() -> Self {
        Self {
            next_probe: AtomicU64::new(NEVER),
            ejecting: Mutex::new(()),
        }
    }
}

// === impl View ===

impl LoadView for View<'_> {
    fn len(&self) -> usize {
        self.set.ready_len()
    }

    fn availability(&self, index: usize) -> Availability {
        match self.set.ready(index) {
            Some(Member { state, .. })
                if (self.ejected || !state.is_ejected())
                    && !self.tried.iter().any(|t| Arc::ptr_eq(t, state)) =>
            {
                Availability::Ready
            }
            _ => Availability::Out,
        }
    }

    fn load(&self, index: usize) -> u32 {
        self.set
            .ready(index)
            .map_or(u32::MAX, |member| member.state.in_flight())
    }
}

// === impl Picked ===

impl Picked {
    fn new(set: &Arc<EndpointSet>, index: usize, probe: bool) -> Self {
        set.members()[index].state.enter();
        Self {
            set: set.clone(),
            index,
            probe,
            judged: false,
        }
    }

    /// The endpoint.
    pub fn member(&self) -> &Member {
        &self.set.members()[self.index]
    }

    /// Whether this request is the probe of an ejected endpoint.
    pub fn is_probe(&self) -> bool {
        self.probe
    }

    /// The endpoint answered as it should. Returns whether that brought it back.
    pub fn succeeded(&mut self, now: Duration) -> bool {
        self.succeeded_at(|| now)
    }

    /// The same with a clock that is only read where the endpoint had failed before.
    pub(crate) fn succeeded_at(&mut self, now: impl FnOnce() -> Duration) -> bool {
        self.judged = true;
        let health = &self.member().state.health;
        if !health.blemished.load(Ordering::Relaxed) {
            return false;
        }
        // A straggler must not end another request's probe.
        if health.is_ejected() && !self.probe {
            return false;
        }
        let now = now();
        health.with(|b| b.handle_success(now))
    }

    /// The request failed by the endpoint's fault.
    pub fn failed(&mut self, policy: &EjectPolicy, now: Duration) -> Verdict {
        self.judged = true;
        let health = &self.member().state.health;
        if health.is_ejected() && !self.probe {
            return Verdict::Kept;
        }
        let set = self.set.health();
        let _one_at_a_time = set.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = self.set.ready_len();
        let out = self.set.ejected_len();
        let room = out < policy.allowed(ready);
        let verdict = health.with(|b| b.handle_failure(policy, now, room));
        if let Verdict::Ejected { until } = verdict {
            set.wake(until);
        }
        verdict
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.member().state.leave();
        if self.probe && !self.judged {
            let set = self.set.health();
            let _one_at_a_time = set.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
            let health = &self.member().state.health;
            if let Some(until) = health.with(|b| {
                b.handle_cancel();
                b.ejected_until()
            }) {
                set.wake(until);
            }
        }
    }
}
