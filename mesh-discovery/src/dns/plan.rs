//! When to ask for a name again, and what an answer means. Pure.
//!
//! In come the time and what a look-up came to; out come the time of the next one and the effect
//! on the endpoints. One plan for each name, so that names never wait for each other. It refuses
//! to drain on an answer that may be a mistake: only a name that is gone twice is gone.

use std::sync::Arc;
use std::time::Duration;

use inmesh_core::model::HostAddress;

/// The shortest time between two look-ups of a name, whatever its TTL is.
const TTL_MIN: Duration = Duration::from_secs(1);
/// The longest time between two look-ups of a name, whatever its TTL is.
const TTL_MAX: Duration = Duration::from_secs(300);
/// The longest time between two look-ups of a name that fail.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A name is gone when two answers at least this far apart say so.
const GONE_AFTER: Duration = Duration::from_secs(5);
/// The most addresses of a name.
const ADDRESSES: usize = 256;

/// Address families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Families {
    /// IPv4 and IPv6.
    Both,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What a look-up came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Every question was answered. No address at all counts as [`NxDomain`](Self::NxDomain); one
    /// family without addresses is nothing special.
    Answer {
        /// What was found.
        addresses: Vec<HostAddress>,
        /// How long it may be used.
        ttl: Duration,
    },
    /// Some question was not answered: a timeout, SERVFAIL, no connection.
    Failure {
        /// What was found nevertheless.
        found: Vec<HostAddress>,
        /// How long that may be used; `None` where nothing was found.
        ttl: Option<Duration>,
        /// The families of which nothing is known.
        families: Families,
    },
    /// The name does not exist.
    NxDomain,
    /// The targets that come first have no address at all, every question about them was answered.
    FellBack {
        /// How many groups of targets were passed over.
        passed: usize,
        /// What the group behind them came to.
        outcome: Box<Self>,
    },
}

/// What a look-up changes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// Nothing.
    Keep,
    /// These are the addresses now; empty drains the name.
    Publish(Arc<[HostAddress]>),
}

/// The plan of one name.
///
/// ```
/// use std::time::Duration;
///
/// use inmesh_core::model::HostAddress;
/// use inmesh_discovery::dns::plan::{Effect, Outcome, Plan};
///
/// let mut plan = Plan::new(Duration::ZERO);
/// let addresses = vec![HostAddress::new([10, 0, 0, 1].into())];
/// let ttl = Duration::from_secs(30);
/// let effect = plan.handle_outcome(Duration::from_secs(1), Outcome::Answer { addresses, ttl });
/// assert!(matches!(effect, Effect::Publish(addresses) if addresses.len() == 1));
/// assert_eq!(plan.next(), Duration::from_secs(31));
/// ```
#[derive(Debug, Clone)]
pub struct Plan {
    next: Duration,
    /// What was published last.
    last: Option<Arc<[HostAddress]>>,
    /// How many groups of targets were passed over for that.
    passed: usize,
    /// Failures in a row.
    failures: u32,
    /// When the name was first said to be gone, if nothing else was said since.
    gone_since: Option<Duration>,
}

// === impl Outcome ===

impl Outcome {
    /// Nothing could be learnt.
    #[must_use]
    pub fn unknown() -> Self {
        Self::Failure {
            found: Vec::new(),
            ttl: None,
            families: Families::Both,
        }
    }
}

// === impl Plan ===

impl Plan {
    /// A plan for a name that nothing is known of: it is asked for at once. Times are counted from
    /// any start, the same for all calls.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self {
            next: now,
            last: None,
            passed: 0,
            failures: 0,
            gone_since: None,
        }
    }

    /// When the name is to be asked for.
    #[must_use]
    pub fn next(&self) -> Duration {
        self.next
    }

    /// What was published last.
    #[must_use]
    pub fn last(&self) -> Option<&Arc<[HostAddress]>> {
        self.last.as_ref()
    }

    /// Whether the last look-up failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Takes what a look-up came to, at the time when it ended.
    ///
    /// 1. An answer is published; the next look-up is after its TTL, within 1 s and 300 s.
    /// 2. A failure keeps the last answer, for the families that failed; the next look-up is after
    ///    1 s, 2 s, 4 s and so on up to 30 s, or after the TTL of what was found if that is sooner.
    ///    Where nothing was ever published, what was found nevertheless is.
    /// 3. A name that does not exist is asked for again after 5 s; if it does not exist then, it
    ///    is drained. An answer in between forgets it, a failure does not.
    /// 4. Where it is the targets that were published that are gone, and others come behind them,
    ///    the same holds: those are published at the second look. Families are not mixed of both.
    ///
    /// Addresses are sorted, without duplicates, and at most 256. There is never more than one
    /// look-up in a second.
    pub fn handle_outcome(&mut self, now: Duration, outcome: Outcome) -> Effect {
        let Outcome::FellBack { passed, outcome } = outcome else {
            return self.handle_group(now, outcome, 0);
        };
        let serves = self.last.as_ref().is_some_and(|last| !last.is_empty());
        if serves && passed > self.passed && !self.is_gone(now) {
            self.failures = 0;
            return Effect::Keep;
        }
        self.handle_group(now, *outcome, passed)
    }

    /// Takes what a group of targets came to, behind those that were `passed` over.
    fn handle_group(&mut self, now: Duration, outcome: Outcome, passed: usize) -> Effect {
        match outcome {
            Outcome::Answer { addresses, ttl } if !addresses.is_empty() => {
                self.failures = 0;
                self.gone_since = None;
                self.next = now.saturating_add(ttl.clamp(TTL_MIN, TTL_MAX));
                self.publish(addresses, passed)
            }
            // A look-up falls back once, to a group that came to something.
            Outcome::Answer { .. } | Outcome::NxDomain | Outcome::FellBack { .. } => {
                self.failures = 0;
                self.handle_gone(now)
            }
            Outcome::Failure {
                found,
                ttl,
                families,
            } => {
                let backoff = backoff(self.failures);
                self.failures = self.failures.saturating_add(1);
                let wait = ttl.map_or(backoff, |ttl| ttl.clamp(TTL_MIN, TTL_MAX).min(backoff));
                self.next = now.saturating_add(wait);
                self.handle_part(found, families, passed)
            }
        }
    }

    fn handle_part(
        &mut self,
        mut found: Vec<HostAddress>,
        families: Families,
        passed: usize,
    ) -> Effect {
        if found.is_empty() {
            return Effect::Keep;
        }
        self.gone_since = None;
        if let Some(last) = self.last.as_ref().filter(|_| passed == self.passed) {
            let unknown = |found: &&HostAddress| match families {
                Families::Both => true,
                Families::V4 => found.ip.is_ipv4(),
                Families::V6 => found.ip.is_ipv6(),
            };
            if families == Families::Both && !last.is_empty() {
                return Effect::Keep;
            }
            found.extend(last.iter().filter(unknown));
        }
        self.publish(found, passed)
    }

    /// Whether what is gone now was gone before, long enough ago; it is asked for again soon.
    fn is_gone(&mut self, now: Duration) -> bool {
        let since = *self.gone_since.get_or_insert(now);
        let gone_for = now.saturating_sub(since);
        // The longer it is gone, the less often it is asked for.
        self.next = now.saturating_add(gone_for.clamp(GONE_AFTER, BACKOFF_MAX));
        gone_for >= GONE_AFTER
    }

    fn handle_gone(&mut self, now: Duration) -> Effect {
        let drained = self.last.as_ref().is_some_and(|last| last.is_empty());
        if self.is_gone(now) && !drained {
            self.publish(Vec::new(), 0)
        } else {
            Effect::Keep
        }
    }

    fn publish(&mut self, mut addresses: Vec<HostAddress>, passed: usize) -> Effect {
        self.passed = passed;
        addresses.sort_unstable();
        // Two targets at one place have the weight of both.
        addresses.dedup_by(|next, kept| {
            let same = (next.ip, next.port) == (kept.ip, kept.port);
            if same && next.port.is_some() {
                kept.weight = kept.weight.saturating_add(next.weight);
            }
            same
        });
        addresses.truncate(ADDRESSES);
        let addresses: Arc<[HostAddress]> = addresses.into();
        if self.last.as_ref() == Some(&addresses) {
            return Effect::Keep;
        }
        self.last = Some(Arc::clone(&addresses));
        Effect::Publish(addresses)
    }
}

fn backoff(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.min(5)).min(BACKOFF_MAX)
}
