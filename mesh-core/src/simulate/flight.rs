//! A request under way, and what follows each of its attempts.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use smallvec::SmallVec;

use super::record::End;
use super::server::moment;
use crate::balance::{EndpointState, Picked};
use crate::deadline;
use crate::leave::Head;
use crate::model::Draw;
use crate::plan::{Planned, PlannedBackend};
use crate::retry::{AttemptOutcome, Attempts, HedgePolicy, Next, Race, Repeat, RetryPolicy};
use crate::route::Timeouts;
use crate::snapshot::ServiceView;

/// How long a copy may take, as in the runtime.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request or a copy of one under way.
pub(super) struct Flight {
    /// The load and the user that ask.
    pub(super) asked: (usize, usize),
    pub(super) caller: usize,
    pub(super) started: u64,
    /// What led to the plan.
    pub(super) seed: u64,
    pub(super) to: To,
    /// When its caller gives up, if it has said so.
    pub(super) gives_up: Option<Duration>,
    pub(super) draw: Draw,
    pub(super) attempts: Attempts,
    pub(super) tried: Vec<Arc<EndpointState>>,
    /// How many attempts were made.
    pub(super) made: u32,
    /// Why the last one failed.
    pub(super) last: Option<End>,
    /// The number of the last attempt.
    pub(super) attempt: u64,
    /// The attempts that have no answer yet; several where it is hedged.
    pub(super) open: SmallVec<[Open; 1]>,
    /// Its attempts where it is hedged.
    pub(super) race: Option<Race>,
}

/// Where a request or a copy is sent.
pub(super) struct To {
    pub(super) planned: Planned,
    /// The place of the copy that it is.
    pub(super) copy: Option<usize>,
}

/// An attempt that has no answer yet.
pub(super) struct Open {
    /// Its number.
    pub(super) attempt: u64,
    pub(super) picked: Picked,
    pub(super) service: Arc<ServiceView>,
    pub(super) server: usize,
}

/// What begins a flight.
pub(super) struct Begin {
    pub(super) asked: (usize, usize),
    pub(super) caller: usize,
    pub(super) started: u64,
    pub(super) wait: Option<Duration>,
    pub(super) seed: u64,
    pub(super) draw: Draw,
}

// === impl To ===

impl To {
    pub(super) fn backend(&self) -> Option<PlannedBackend<'_>> {
        match self.copy {
            Some(nth) => self.planned.mirrors().get(nth)?.backend(),
            None => self.planned.backend(),
        }
    }

    pub(super) fn retry(&self) -> Option<&RetryPolicy> {
        let block = self.planned.retry().filter(|_| self.copy.is_none());
        block.map(|block| &*block.value)
    }

    /// What hedges the request, a copy never.
    pub(super) fn hedged(&self, method: &Method, grpc: bool, head: Head) -> Option<&HedgePolicy> {
        let hedged = self.planned.hedged(method, grpc, || head.races());
        hedged.ok().flatten().filter(|_| self.copy.is_none())
    }

    pub(super) fn limits(&self) -> Timeouts {
        let block = self.planned.timeouts().filter(|_| self.copy.is_none());
        block.map(|block| block.value).unwrap_or_default()
    }

    /// When a stream on which nothing comes from `at` on is ended.
    pub(super) fn idles(&self, at: Duration) -> Option<Duration> {
        let limit = self.planned.stream_idle().filter(|_| self.copy.is_none());
        limit.map(|limit| at.saturating_add(limit))
    }
}

// === impl Flight ===

impl Flight {
    /// A request that was planned, or the copy of that place.
    pub(super) fn new(planned: Planned, copy: Option<usize>, begin: Begin) -> Self {
        let wait = match copy {
            Some(_) => Some(PATIENCE),
            None => begin.wait,
        };
        Self {
            asked: begin.asked,
            caller: begin.caller,
            started: begin.started,
            seed: begin.seed,
            to: To { planned, copy },
            gives_up: wait.map(|wait| moment(begin.started).saturating_add(wait)),
            draw: begin.draw,
            attempts: Attempts::at_any(),
            tried: Vec::new(),
            made: 0,
            last: None,
            attempt: 0,
            open: SmallVec::new(),
            race: None,
        }
    }

    /// Whether it waits for an answer to that attempt.
    pub(super) fn awaits(&self, attempt: u64) -> bool {
        self.open.iter().any(|open| open.attempt == attempt)
    }

    /// Whether it is to be sent again after that attempt.
    pub(super) fn rests(&self, attempt: u64) -> bool {
        self.attempt == attempt && self.open.is_empty()
    }

    /// The attempt that waits for an answer of that server.
    pub(super) fn at(&self, server: usize) -> Option<u64> {
        let open = self.open.iter().find(|open| open.server == server)?;
        Some(open.attempt)
    }

    /// An attempt that has no answer yet.
    pub(super) fn opened(&mut self, attempt: u64) -> Option<&mut Open> {
        self.open.iter_mut().find(|open| open.attempt == attempt)
    }

    /// The same, which it no longer waits for.
    pub(super) fn take(&mut self, attempt: u64) -> Option<Open> {
        let at = { self.open.iter() }.position(|open| open.attempt == attempt)?;
        Some(self.open.remove(at))
    }

    /// What is left of its time.
    pub(super) fn left(&self, at: Duration) -> Duration {
        let end = self.end();
        end.map_or(Duration::MAX, |end| end.saturating_sub(at))
    }

    pub(super) fn end(&self) -> Option<Duration> {
        deadline::end(self.to.limits(), moment(self.started), self.gives_up)
    }

    /// What follows an attempt.
    pub(super) fn next(
        &mut self,
        outcome: AttemptOutcome,
        (service, at): (&ServiceView, Duration),
        (kept, idempotent): (bool, bool),
    ) -> Next {
        let left = self.left(at);
        let Self {
            to, attempts, draw, ..
        } = self;
        let traffic = to.backend().and_then(|to| service.traffic(to.port));
        let repeat = to.retry().zip(traffic).map(|(policy, traffic)| {
            let kept = kept && policy.repeats() > 0;
            Repeat {
                policy,
                budget: (&service.retries, &traffic.budget.value),
                now: at,
                left,
                idempotent: kept && idempotent,
                kept,
            }
        });
        if repeat.is_none() && matches!(outcome, AttemptOutcome::Answered(_)) {
            return Next::Finish;
        }
        attempts.handle_outcome(outcome, repeat.as_ref(), draw)
    }
}
