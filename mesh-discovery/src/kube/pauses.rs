//! When a request of an API server is made again: after one that was refused, and after one whose effect no
//! watch has shown. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// The first wait after a request that was refused, and the longest.
pub(super) const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long a watch has to show what was written.
#[cfg(all(
    feature = "kubernetes-ca",
    any(feature = "aws-lc-rs", feature = "ring")
))]
const SHOWN: Duration = Duration::from_secs(30);

/// What was refused: when it is tried again, and how often it was.
#[derive(Debug)]
pub(super) struct Pauses<K>(HashMap<K, (Instant, u32)>);

/// What was asked for: the value that it was asked of, and how long that counts.
#[cfg(all(
    feature = "kubernetes-ca",
    any(feature = "aws-lc-rs", feature = "ring")
))]
#[derive(Debug)]
pub(super) struct Asked<K, V>(HashMap<K, (V, Instant)>);

// === impl Pauses ===

impl<K: Eq + Hash> Pauses<K> {
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    /// Until when a key waits, if it does.
    pub(super) fn until(&self, key: &K, now: Instant) -> Option<Instant> {
        let (until, _) = self.0.get(key)?;
        (*until > now).then_some(*until)
    }

    /// Has a key wait, twice as long each time; returns how long, and how often it had been refused before.
    pub(super) fn refused(&mut self, key: K, now: Instant) -> (Duration, u32) {
        let times = self.0.get(&key).map_or(0, |(_, times)| *times);
        let wait = WAITS.0.saturating_mul(1 << times.min(8)).min(WAITS.1);
        self.0.insert(key, (now + wait, times + 1));
        (wait, times)
    }

    /// Has a key wait as long as any does, as if it had not been refused before.
    pub(super) fn longest(&mut self, key: K, now: Instant) {
        self.0.insert(key, (now + WAITS.1, 0));
    }

    /// A key was not refused.
    pub(super) fn end(&mut self, key: &K) {
        self.0.remove(key);
    }

    pub(super) fn retain(&mut self, mut stays: impl FnMut(&K) -> bool) {
        self.0.retain(|key, _| stays(key));
    }
}

// === impl Asked ===

#[cfg(all(
    feature = "kubernetes-ca",
    any(feature = "aws-lc-rs", feature = "ring")
))]
impl<K: Eq + Hash, V: PartialEq> Asked<K, V> {
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    /// Until when the effect of what was asked of this value is waited for, if it is.
    pub(super) fn until(&self, key: &K, of: &V, now: Instant) -> Option<Instant> {
        let (asked, until) = self.0.get(key)?;
        (asked == of && *until > now).then_some(*until)
    }

    pub(super) fn ask(&mut self, key: K, of: V, now: Instant) {
        self.0.insert(key, (of, now + SHOWN));
    }

    /// It had no effect.
    pub(super) fn end(&mut self, key: &K) {
        self.0.remove(key);
    }

    pub(super) fn retain(&mut self, mut stays: impl FnMut(&K) -> bool) {
        self.0.retain(|key, _| stays(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_grows_to_the_longest_and_ends() {
        let (mut pauses, now) = (Pauses::new(), Instant::now());
        let secs = |n| Duration::from_secs(n);
        let waits: Vec<_> = (0..8).map(|_| pauses.refused("a", now)).collect();
        let grown = [1, 2, 4, 8, 16, 32, 60, 60].map(secs);
        assert_eq!(waits, std::iter::zip(grown, 0..).collect::<Vec<_>>());
        assert_eq!(pauses.until(&"a", now), Some(now + secs(60)));
        assert_eq!(pauses.until(&"a", now + secs(60)), None);
        assert_eq!(pauses.until(&"b", now), None);
        pauses.end(&"a");
        assert_eq!(pauses.refused("a", now), (secs(1), 0));
        pauses.longest("a", now);
        assert_eq!(pauses.until(&"a", now), Some(now + secs(60)));
        assert_eq!(pauses.refused("a", now), (secs(1), 0));
        pauses.retain(|key| *key != "a");
        assert_eq!(pauses.until(&"a", now), None);
    }

    #[cfg(all(
        feature = "kubernetes-ca",
        any(feature = "aws-lc-rs", feature = "ring")
    ))]
    #[test]
    fn what_was_asked_counts_for_its_value_and_for_a_time() {
        let (mut asked, now) = (Asked::new(), Instant::now());
        asked.ask("a", 7, now);
        assert_eq!(asked.until(&"a", &7, now), Some(now + SHOWN));
        assert_eq!(asked.until(&"a", &8, now), None);
        assert_eq!(asked.until(&"a", &7, now + SHOWN), None);
        asked.end(&"a");
        assert_eq!(asked.until(&"a", &7, now), None);
        asked.ask("a", 7, now);
        asked.retain(|_| false);
        assert_eq!(asked.until(&"a", &7, now), None);
    }
}
