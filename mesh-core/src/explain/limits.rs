//! When a request must have an answer, and how it is sent again, as an explanation shows it.

use std::time::Duration;

use http::header::EXPECT;
use http::{HeaderName, HeaderValue, Request};

use super::sent::{Deadline, Limit, Repeats};
use crate::deadline;
use crate::error::{Reason, is_grpc};
use crate::fields::wishes;
use crate::plan::{Planned, PlannedBackend};
use crate::snapshot::ServiceView;

/// How long a caller says that it waits, and the field in which it does.
#[derive(Debug, Default)]
pub(super) struct Waits(Option<(Duration, HeaderName)>);

// === impl Waits ===

impl Waits {
    /// Looks at a field of the caller's: the least that it says counts.
    pub(super) fn look(&mut self, name: &HeaderName, value: &HeaderValue) {
        let Some(wait) = deadline::read(name, value) else {
            return;
        };
        if self.0.as_ref().is_none_or(|(least, _)| wait < *least) {
            self.0 = Some((wait, name.clone()));
        }
    }
}

/// When a planned request must have an answer; what is left then is written into it, as it is for its
/// endpoint.
pub(super) fn deadline(
    planned: &Planned,
    waits: &Waits,
    request: &mut Request<()>,
) -> Option<Deadline> {
    const NOW: Duration = Duration::ZERO;
    let block = planned.timeouts();
    let limits = block.map(|block| block.value).unwrap_or_default();
    let caller = waits.0.as_ref().map(|(wait, _)| *wait);
    let end = deadline::end(limits, NOW, caller);
    let (attempt, late) = deadline::of_attempt(limits, end, NOW)?;
    let grpc = is_grpc(request.headers());
    deadline::write(attempt, grpc, request.headers_mut());
    let own = |by: &str, limit: Duration| Limit {
        millis: millis(limit),
        by: by.into(),
        object: block.and_then(|block| Some(block.from.as_ref()?.to_string())),
    };
    let whole = end.map(|end| match &waits.0 {
        Some((wait, field)) if limits.request.is_none_or(|own| *wait < own) => Limit {
            millis: millis(*wait),
            by: field.to_string(),
            object: None,
        },
        _ => own("request", end),
    });
    Some(Deadline {
        attempt: match (late, &whole) {
            (Reason::RequestTimeout, Some(whole)) => whole.clone(),
            _ => own("backendRequest", attempt),
        },
        whole,
    })
}

/// How a planned request is sent again that a server may have acted on; `None` if it is not.
pub(super) fn repeats(
    planned: &Planned,
    (to, service): (PlannedBackend<'_>, &ServiceView),
    request: &Request<()>,
    now: Duration,
) -> Option<Repeats> {
    let policy = &*planned.retry()?.value;
    let budget = &service.traffic(to.port)?.budget.value;
    let attempts = policy.repeats();
    (attempts > 0).then(|| Repeats {
        attempts,
        wait_millis: (1..=attempts)
            .map(|nth| millis(policy.longest_wait(nth)))
            .collect(),
        idempotent: request.method().is_idempotent(),
        kept: !wishes(request) && !request.headers().contains_key(EXPECT),
        budget: service.retries.has_repeat(budget, now),
    })
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
