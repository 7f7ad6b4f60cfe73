//! An endpoint that was picked, and what becomes of it: verdicts on its health, its share and its speed.

use std::hint::cold_path;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use super::eject::{Ejection, Failure};
use super::health::millis;
use super::rates::outliers;
use super::set::EndpointSet;
use super::share::pause;
use super::state::Member;
use super::strategy::Choice;

/// An endpoint that was chosen. Dropping it without a verdict takes no position on its health.
#[derive(Debug)]
pub struct Picked {
    set: Arc<EndpointSet>,
    /// Its place in the set, which never changes.
    index: usize,
    probe: bool,
    judged: bool,
    /// Whether it counts among the requests to all endpoints.
    counted: bool,
    /// When it was chosen, in nanoseconds after the first, if its answer is timed.
    timed: Option<NonZeroU64>,
}

// === impl Picked ===

impl Picked {
    /// A request to this endpoint, if it may have one more.
    pub(super) fn new(set: &Arc<EndpointSet>, index: usize, probe: bool) -> Option<Self> {
        if !set.members()[index].state.enter(set.limits().endpoint()) {
            return None;
        }
        Some(Self {
            set: Arc::clone(set),
            index,
            probe,
            judged: false,
            counted: false,
            timed: None,
        })
    }

    pub(super) fn counted(mut self, counted: bool) -> Self {
        self.counted = counted;
        self
    }

    pub(super) fn timed(mut self, choice: Choice, now: Duration) -> Self {
        if choice == Choice::PeakEwma {
            let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
            self.timed = NonZeroU64::new(nanos.saturating_add(1));
        }
        self
    }

    /// The endpoint.
    pub fn member(&self) -> &Member {
        &self.set.members()[self.index]
    }

    /// The set that it was chosen from.
    #[cfg(feature = "simulate")]
    pub(crate) fn set(&self) -> &EndpointSet {
        &self.set
    }

    /// Whether this request is the probe of an ejected endpoint.
    pub fn is_probe(&self) -> bool {
        self.probe
    }

    /// The head of an answer is there, which is neither a failure nor a refusal. The clock is read only
    /// if the choice was by how fast endpoints answer.
    pub fn answered(&mut self, now: impl FnOnce() -> Duration) {
        if let Some(began) = self.timed {
            cold_path();
            let now = now();
            let took = since(began, now);
            self.member()
                .state
                .measure(|speed| speed.answered(took, now));
        }
    }

    /// Another endpoint has answered the request first. How fast this one is stays unknown but for that it
    /// takes longer; nothing is said of its health.
    #[cfg(any(feature = "runtime", feature = "simulate"))]
    pub(crate) fn outrun(&mut self, now: impl FnOnce() -> Duration) {
        if let Some(began) = self.timed.take() {
            let now = now();
            let took = since(began, now);
            self.member().state.measure(|speed| speed.outrun(took, now));
        }
    }

    /// The endpoint failed, or refused because it has too much to do.
    pub fn refused(&mut self, now: impl FnOnce() -> Duration) {
        if let Some(began) = self.timed.take() {
            let now = now();
            let took = since(began, now);
            self.member().state.measure(|speed| speed.failed(took, now));
        }
    }

    /// The endpoint answers that it has too much to do, and perhaps for how long: it takes less than its
    /// share meanwhile.
    pub fn shed(&mut self, asked: Option<Duration>, now: Duration) {
        self.refused(|| now);
        let until = millis(now + pause(asked));
        self.member().state.shed_until(until);
        self.set.health().shed_until(until);
    }

    /// Compares the endpoints of the set, if their policy asks for it and an interval has ended. Returns
    /// those that were ejected for it, and until when. The clock is read only if the policy asks.
    pub fn compare(&self, now: impl FnOnce() -> Duration) -> Vec<(Member, Duration)> {
        let policy = self.set.eject();
        if !policy.compares() {
            return Vec::new();
        }
        let (now, health) = (now(), self.set.health());
        let Some(just_ended) = health.poll_comparison(now, policy.interval) else {
            return Vec::new();
        };
        let newest = health.lock();
        let set = newest.upgrade().unwrap_or_else(|| Arc::clone(&self.set));
        let ready: Vec<_> = set.ready().collect();
        let tallies: Vec<_> = ready.iter().map(|m| m.state.take_tally()).collect();
        if !just_ended {
            return Vec::new();
        }
        let mut ejected = Vec::new();
        for place in outliers(policy.success_rate, policy.failure_percentage, &tallies) {
            let (member, room) = (ready[place], set.has_room());
            let verdict = member
                .state
                .health
                .with(|b| b.handle_outlier(policy, now, room));
            if let Ejection::Ejected { until } = verdict {
                health.probe_by(until);
                ejected.push((member.clone(), until));
            }
        }
        if !ejected.is_empty() {
            set.respread();
        }
        ejected
    }

    /// The endpoint answered as it should. Returns whether that brought it back.
    pub fn succeeded(&mut self, now: Duration) -> bool {
        self.succeeded_at(|| now)
    }

    /// The same with a clock that is read only if the endpoint had failed before.
    pub(crate) fn succeeded_at(&mut self, now: impl FnOnce() -> Duration) -> bool {
        self.judged = true;
        let state = &self.member().state;
        if self.set.eject().compares() {
            state.count(true);
        }
        let health = &state.health;
        if !health.is_blemished() {
            return false;
        }
        cold_path();
        // A straggler must not end another request's probe.
        if health.is_ejected() && !self.probe {
            return false;
        }
        let now = now();
        let back = health.with(|b| b.handle_success(now));
        if back {
            self.member().state.begin(now);
            let newest = self.set.health().lock();
            newest.upgrade().as_ref().unwrap_or(&self.set).respread();
        }
        back
    }

    /// The request was answered with an error by the endpoint's fault.
    pub fn failed(&mut self, now: Duration) -> Ejection {
        self.failed_by(Failure::Answer, now)
    }

    /// The request failed by the endpoint's fault, in that way.
    pub fn failed_by(&mut self, failure: Failure, now: Duration) -> Ejection {
        self.judged = true;
        self.refused(|| now);
        let state = &self.member().state;
        if self.set.eject().compares() {
            state.count(false);
        }
        let health = &state.health;
        if health.is_ejected() && !self.probe {
            return Ejection::Kept;
        }
        let (set, policy) = (self.set.health(), self.set.eject());
        let newest = set.lock();
        let latest = newest.upgrade();
        let latest = latest.as_ref().unwrap_or(&self.set);
        let room = latest.has_room();
        let verdict = health.with(|b| b.handle_failure(failure, policy, now, room));
        if let Ejection::Ejected { until } = verdict {
            set.probe_by(until);
            latest.respread();
        }
        verdict
    }
}

/// How long ago it was chosen.
fn since(began: NonZeroU64, now: Duration) -> Duration {
    now.saturating_sub(Duration::from_nanos(began.get() - 1))
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.member().state.leave();
        if self.counted {
            self.set.health().leave();
        }
        if self.probe && !self.judged {
            cold_path();
            let set = self.set.health();
            let _one_at_a_time = set.lock();
            let health = &self.member().state.health;
            if let Some(until) = health.with(|b| {
                b.handle_cancel();
                b.ejected_until()
            }) {
                set.probe_by(until);
            }
        }
    }
}
