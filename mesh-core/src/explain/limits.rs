//! When a request must have an answer, and how it is sent again or to several, as an explanation shows it.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Request};

use super::sent::{Deadline, Fault, Hedges, Limit, Repeats};
use super::value::Verdict;
use crate::deadline;
use crate::error::{Error, Reason, grpc_kind, is_grpc};
use crate::leave::Head;
use crate::plan::{Planned, PlannedBackend};
use crate::retry::{HedgePolicy, Unhedged};
use crate::snapshot::ServiceView;

/// How long a caller says that it waits, and the field in which it does.
#[derive(Debug, Default)]
pub(super) struct Waits(Option<(Duration, HeaderName)>);

// === impl Waits ===

impl Waits {
    /// The least that its fields say.
    #[cfg(feature = "simulate")]
    pub(super) fn least(&self) -> Option<Duration> {
        self.0.as_ref().map(|(wait, _)| *wait)
    }

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

/// What is made to happen to a planned request on purpose; `None` if no policy has faults made of it.
pub(super) fn fault(planned: &Planned) -> Option<Fault> {
    let injected = planned.injected()?;
    let from = planned.fault().and_then(|fault| fault.from.as_ref());
    Some(Fault {
        delay_millis: injected.delay.map(millis),
        aborted: injected.abort.is_some(),
        bits_per_second: injected.bandwidth.map(|bandwidth| bandwidth.bits()),
        object: from.map(ToString::to_string),
    })
}

/// What becomes of a planned request whose faults keep it from being sent.
///
/// # Errors
///
/// [`Error`] if it is delayed beyond its time.
pub(super) fn kept(
    planned: &Planned,
    waits: &Waits,
    request: &Request<()>,
) -> Result<Option<Verdict>, Error> {
    let Some(injected) = planned.injected() else {
        return Ok(None);
    };
    let limits = planned.timeouts().map(|block| block.value);
    let caller = waits.0.as_ref().map(|(wait, _)| *wait);
    let left = deadline::end(limits.unwrap_or_default(), Duration::ZERO, caller);
    if let (_, Some(late)) = injected.wait(left) {
        return Err(late);
    }
    let aborted = planned.aborted(grpc_kind(request.headers()));
    Ok(aborted.map(|(error, answer)| {
        let code = answer.headers().get("grpc-status");
        let mut verdict = Verdict::refused(&error, false);
        verdict.status = Some(answer.status().as_u16());
        verdict.grpc_status = code.and_then(|code| code.to_str().ok()?.parse().ok());
        verdict
    }))
}

/// When a planned request must have an answer; what is left then is written into it, as it is for its
/// endpoint. Its first attempt begins once it has waited as a policy has it wait on purpose.
pub(super) fn deadline(
    planned: &Planned,
    waits: &Waits,
    request: &mut Request<()>,
) -> Option<Deadline> {
    const NOW: Duration = Duration::ZERO;
    let block = planned.timeouts();
    let limits = block.map(|block| block.value).unwrap_or_default();
    let caller = waits.0.as_ref().map(|(wait, _)| *wait);
    let begins = planned.injected().and_then(|made| made.delay);
    let begins = begins.unwrap_or_default();
    let end = deadline::end(limits, NOW, caller);
    let (attempt, late) = deadline::of_attempt(limits, end, begins)?;
    let attempt = attempt.saturating_sub(begins);
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
            (Reason::RequestTimeout, Some(whole)) => Limit {
                millis: millis(attempt),
                ..whole.clone()
            },
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
    if hedged(planned, request).is_ok_and(|hedged| hedged.is_some()) {
        return None;
    }
    let policy = &*planned.retry()?.value;
    let budget = &service.traffic(to.port)?.budget.value;
    let attempts = policy.repeats();
    (attempts > 0).then(|| Repeats {
        attempts,
        wait_millis: (1..=attempts)
            .map(|nth| millis(policy.longest_wait(nth)))
            .collect(),
        idempotent: request.method().is_idempotent(),
        kept: Head::of(request).kept,
        budget: service.retries.has_repeat(budget, now),
    })
}

/// How a planned request is hedged, or why it is not; `None` if no policy hedges requests.
pub(super) fn hedges(
    planned: &Planned,
    (to, service): (PlannedBackend<'_>, &ServiceView),
    request: &Request<()>,
    now: Duration,
) -> Option<Hedges> {
    let block = planned.hedge()?;
    let budget = &service.traffic(to.port)?.budget.value;
    Some(Hedges {
        attempts: block.value.attempts(),
        delay_millis: millis(block.value.delay()),
        missed: hedged(planned, request).err().map(|why| why.to_string()),
        budget: service.retries.has_repeat(budget, now),
        object: block.from.as_ref().map(ToString::to_string),
    })
}

fn hedged<'p>(
    planned: &'p Planned,
    request: &Request<()>,
) -> Result<Option<&'p HedgePolicy>, Unhedged> {
    let races = || Head::of(request).races();
    planned.hedged(request.method(), is_grpc(request.headers()), races)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
