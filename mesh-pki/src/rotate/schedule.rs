//! Lifetimes and a draw in, the moment of the next attempt out. Pure.
//!
//! Renewal is spread over a tenth of the life around its middle, so that a thousand workloads that
//! started together do not come back together, and half of the life is left for a CA that is down.

use std::time::{Duration, SystemTime};

/// Renewal is due no earlier than at this part of the life.
#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
const EARLIEST: f64 = 0.45;

/// The width of the window in which renewal is due, as a part of the life.
#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
const WINDOW: f64 = 0.10;

/// The first pause after a failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause, however long the SVID still lives.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The longest pause once the SVID has ended: from then on every moment without one is an outage.
const LONGEST_PAUSE_AFTER: Duration = Duration::from_secs(10);

/// The longest pause that an issuer may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(10 * 60);

/// The longest that an issuer may ask for once the SVID has ended: it may still spread a crowd.
const LONGEST_ASKED_AFTER: Duration = Duration::from_secs(60);

/// How long one attempt may take while there is time.
#[cfg(any(feature = "aws-lc-rs", feature = "ring", feature = "workload-api"))]
const LONGEST_ATTEMPT: Duration = Duration::from_secs(30);

/// How long an attempt may take however near the end is: an issuer that is slow is given so long.
#[cfg(any(feature = "aws-lc-rs", feature = "ring", feature = "workload-api"))]
const SHORTEST_ATTEMPT: Duration = Duration::from_secs(10);

/// The shortest pause, so that the last moments of a life are not spent in a loop.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// When an SVID is due for renewal: between 0.45 and 0.55 of its life, counted from its issuance
/// and not from its back-dated notBefore.
///
/// `draw` is uniform in 0..1 and chooses the place in that window; anything else is clamped. An
/// SVID that ended before it was issued is due at once.
#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
#[must_use]
pub(crate) fn renew_at(issued_at: SystemTime, not_after: SystemTime, draw: f64) -> SystemTime {
    let life = not_after
        .duration_since(issued_at)
        .unwrap_or(Duration::ZERO);
    issued_at + life.mul_f64(EARLIEST + WINDOW * unit(draw))
}

/// How long to pause after the failure number `failures` (from 1) in a row.
///
/// 1. The pause doubles from 1 s to 60 s.
/// 2. It is a tenth of what is left of the SVID at most, so that attempts come more often as its
///    end comes near, but 100 ms at least.
/// 3. `draw`, uniform in 0..1, shortens it by up to a half, so that failed attempts spread out.
/// 4. An issuer that `asked` for a pause gets it, up to 10 min and half of what is left.
/// 5. It never ends after `not_after`, while that lies ahead. Once it has passed the pause is 10 s at
///    most, or what the issuer asked for up to 60 s; if there is no SVID yet (`None`), it doubles up to 60 s.
#[must_use]
pub(crate) fn pause(
    now: SystemTime,
    not_after: Option<SystemTime>,
    failures: u32,
    asked: Option<Duration>,
    draw: f64,
) -> Duration {
    let asked = asked.unwrap_or_default().min(LONGEST_ASKED);
    let doublings = failures.saturating_sub(1).min(16);
    let backoff = (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE);
    let spread = 1.0 - 0.5 * unit(draw);
    let left = not_after
        .and_then(|end| end.duration_since(now).ok())
        .filter(|left| !left.is_zero());
    match left {
        Some(left) => backoff
            .min(left / 10)
            .mul_f64(spread)
            .max(SHORTEST_PAUSE)
            .max(asked.min(left / 2))
            .min(left),
        None if not_after.is_some() => {
            let backoff = backoff.min(LONGEST_PAUSE_AFTER);
            backoff.mul_f64(spread).max(asked.min(LONGEST_ASKED_AFTER))
        }
        None => backoff.mul_f64(spread).max(asked),
    }
}

/// How long an attempt that begins at `now` may take: 30 s, but half of what is left of the SVID, so that
/// an issuer that hangs is asked again before the end; 10 s at least.
#[cfg(any(feature = "aws-lc-rs", feature = "ring", feature = "workload-api"))]
#[must_use]
pub(crate) fn attempt(now: SystemTime, not_after: Option<SystemTime>) -> Duration {
    let left = not_after.and_then(|end| end.duration_since(now).ok());
    let left = left.filter(|left| !left.is_zero());
    left.map_or(LONGEST_ATTEMPT, |left| {
        (left / 2).clamp(SHORTEST_ATTEMPT, LONGEST_ATTEMPT)
    })
}

/// Clamps to 0..=1; not-a-number is 0.
fn unit(draw: f64) -> f64 {
    if draw.is_nan() {
        0.0
    } else {
        draw.clamp(0.0, 1.0)
    }
}
