//! A request on its way to a backend, and what is known of it from one attempt to the next. No I/O.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request};
use tokio::time::Instant;

use super::call::Call;
use super::idle::Moves;
use super::repeat::count;
use crate::balance::EndpointState;
use crate::body::Body;
use crate::connect::Origin;
use crate::deadline;
use crate::error::{Error, Reason};
use crate::model::HttpVersion;
use crate::plan::PlannedBackend;
use crate::retry::{KeptRequest, Repeat, RetryPolicy};
use crate::route::Timeouts;
use crate::snapshot::ServiceView;
use crate::telemetry::{Exchange, Protocol};

/// A request on its way to a backend.
pub(super) struct Sending<'a> {
    pub(super) to: PlannedBackend<'a>,
    pub(super) timeouts: Timeouts,
    pub(super) retry: Option<&'a RetryPolicy>,
    pub(super) version: HttpVersion,
    /// What ends the request where nothing comes.
    pub(super) moves: Option<&'a Moves>,
    /// The connection of the caller; `None` for this process itself.
    pub(super) origin: Option<&'a Origin>,
}

/// The attempts of one request or connection that failed.
#[derive(Default)]
pub(super) struct Tried {
    /// The endpoints to avoid.
    pub(super) endpoints: Vec<Arc<EndpointState>>,
    /// Why the last one failed.
    pub(super) last: Option<Error>,
    /// The request, where a policy may have it sent again.
    pub(super) kept: Option<Box<KeptRequest>>,
}

// === impl Tried ===

impl Tried {
    /// Keeps the request, where a policy may have it sent again.
    pub(super) fn of(sending: &Sending<'_>, request: &mut Request<Body>) -> Self {
        let may = sending.retry.is_some_and(|policy| policy.repeats() > 0);
        let may = may && KeptRequest::may_be(request);
        Self {
            kept: may.then(|| Box::new(KeptRequest::of(request))),
            ..Self::default()
        }
    }

    /// What the policy needs to know; `None` without one.
    pub(super) fn repeat<'a>(
        &self,
        sending: &Sending<'a>,
        service: &'a ServiceView,
        now: Duration,
        call: &Call,
    ) -> Option<Repeat<'a>> {
        let policy = sending.retry?;
        let end = sending.end(call);
        let traffic = service.traffic(sending.to.port)?;
        Some(Repeat {
            policy,
            budget: (&service.retries, &traffic.budget.value),
            now,
            left: end.map_or(Duration::MAX, |end| {
                end.saturating_duration_since(Instant::now())
            }),
            idempotent: self.kept.as_ref().is_some_and(|kept| kept.is_idempotent()),
            kept: self.kept.as_ref().is_some_and(|kept| kept.is_whole()),
        })
    }

    /// Puts the request into its place again, if it was kept.
    pub(super) fn put_back(&self, request: &mut Request<Body>, exchange: &Exchange) {
        let Some(mut again) = self.kept.as_ref().and_then(|kept| kept.again()) else {
            return;
        };
        count(
            exchange.attempts.len(),
            exchange.protocol,
            again.headers_mut(),
        );
        *request = again;
    }
}

// === impl Sending ===

impl Sending<'_> {
    /// When the request as a whole must have an answer.
    pub(super) fn end(&self, call: &Call) -> Option<Instant> {
        deadline::end(self.timeouts, call.started, call.deadline)
    }

    /// When an attempt that begins now must have an answer, and the reason if it has none. How long that
    /// is, is written into its head.
    pub(super) fn limit(
        &self,
        call: &Call,
        now: Instant,
        headers: &mut HeaderMap,
    ) -> Option<(Instant, Reason)> {
        if let Some(moves) = self.moves {
            moves.note(now);
        }
        let until = deadline::of_attempt(self.timeouts, self.end(call), now)?;
        let grpc = call.exchange.protocol == Protocol::Grpc;
        deadline::write(until.0.saturating_duration_since(now), grpc, headers);
        Some(until)
    }
}
