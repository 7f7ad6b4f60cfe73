//! How long a server leaves a connection at rest, learnt from what it says and does.
//!
//! In: the `Keep-Alive` of its answers, and the ends of connections that rested. Out: how long one may
//! rest and be used again, so that no request meets the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tokio::time::Instant;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// The shortest rest whose end is taken for a server's limit at once; a shorter one is if it comes
/// again. One below [`NO_LIMIT`] never is: a server may close after an answer.
const SHORTEST: Duration = Duration::from_millis(900);
const NO_LIMIT: Duration = Duration::from_millis(50);

/// How long a server leaves a connection at rest: as it says, or as it was seen to end one, and
/// somewhat less, so that no request meets the end.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// In milliseconds; 0 is not known.
    limit: AtomicU64,
    /// The last end after a short rest: when, and how long that was.
    short: Mutex<Option<(Instant, Duration)>>,
}

/// Since when a connection has rested, for its own task to see.
#[derive(Debug)]
pub(super) struct Resting {
    opened: Instant,
    /// Milliseconds after `opened`, and one more; 0 while it is in use.
    since: AtomicU64,
}

// === impl Rest ===

impl Rest {
    /// How long a connection may rest and be used again, if nothing is known: `most`, or `unknown`.
    pub(super) fn limit(&self, most: Duration, unknown: Duration) -> Duration {
        match self.limit.load(Ordering::Relaxed) {
            0 => most.min(unknown),
            known => most.min(Duration::from_millis(known)),
        }
    }

    /// The server says it (`Keep-Alive: timeout=5`), in whole seconds.
    pub(super) fn announced(&self, headers: &HeaderMap) {
        let parameters = headers
            .get(KEEP_ALIVE)
            .and_then(|value| value.to_str().ok());
        let mut parameters = parameters.into_iter().flat_map(|value| value.split(','));
        let timeout = parameters.find_map(|p| p.trim().strip_prefix("timeout="));
        if let Some(seconds) = timeout.and_then(|t| t.trim().parse::<u64>().ok()) {
            self.learn(seconds.saturating_mul(1_000));
        }
    }

    /// The server has now ended a connection that had rested for so long. One that ends it sooner than
    /// most limits are set to may have been stopped, and ends many at once then; a limit is met again
    /// later, and after the same time.
    pub(super) fn observed(&self, rested: Duration, now: Instant) {
        if rested < NO_LIMIT {
            return;
        }
        if rested < SHORTEST {
            let mut short = self.short.lock().unwrap_or_else(PoisonError::into_inner);
            let before = short.replace((now, rested));
            let again = before.is_some_and(|(at, before)| {
                now.saturating_duration_since(at) >= before && rested.abs_diff(before) < before / 4
            });
            if !again {
                return;
            }
        }
        self.learn(u64::try_from(rested.as_millis()).unwrap_or(u64::MAX));
    }

    /// A quarter of it, and a second at most, is kept away from.
    fn learn(&self, millis: u64) {
        let safe = (millis - (millis / 4).min(1_000)).max(1);
        let shorter = |known: u64| (known == 0 || safe < known).then_some(safe);
        let _known = self
            .limit
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, shorter);
    }
}

// === impl Resting ===

impl Default for Resting {
    fn default() -> Self {
        Self {
            opened: Instant::now(),
            since: AtomicU64::new(0),
        }
    }
}

impl Resting {
    pub(super) fn begin(&self, now: Instant) {
        let after = now.saturating_duration_since(self.opened).as_millis();
        let after = u64::try_from(after).unwrap_or(u64::MAX - 1);
        self.since.store(after + 1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// How long it has rested, unless it is in use.
    pub(super) fn rested(&self, now: Instant) -> Option<Duration> {
        let since = self.since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(now.saturating_duration_since(self.opened + Duration::from_millis(since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_rests_for_less_than_its_server_lets_it() {
        let (secs, millis) = (Duration::from_secs, Duration::from_millis);
        let limit = |rest: &Rest| rest.limit(secs(60), millis(1_500));
        let rest = Rest::default();
        assert_eq!(limit(&rest), millis(1_500));
        let announce = |rest: &Rest, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(KEEP_ALIVE, http::HeaderValue::from_static(value));
            rest.announced(&headers);
        };
        for nothing in ["", "max=5", "timeout", "timeout=x", "timeout=-1"] {
            announce(&rest, nothing);
            assert_eq!(limit(&rest), millis(1_500), "{nothing}");
        }
        announce(&rest, "timeout=5, max=1000");
        assert_eq!(limit(&rest), secs(4));
        announce(&rest, "max=9, timeout=72");
        assert_eq!(limit(&rest), secs(4), "the shorter one");
        let start = Instant::now();
        rest.observed(secs(2), start);
        assert_eq!(limit(&rest), millis(1_500));
        // Many that end at once, or after different times, are those of a server that was stopped.
        for (after, rested) in [(0, 400), (0, 400), (500, 200), (900, 700), (1_400, 49)] {
            rest.observed(millis(rested), start + millis(after));
            assert_eq!(limit(&rest), millis(1_500), "{after}");
        }
        rest.observed(millis(690), start + millis(1_700));
        assert_eq!(
            limit(&rest),
            millis(518),
            "it ends them after the same time"
        );
        let rest = Rest::default();
        announce(&rest, "timeout=300");
        assert_eq!(limit(&rest), secs(60), "ours is shorter");
    }
}
