//! The retry budget: how many repeats the requests of the last moments pay for (GEP-3388).
//!
//! Each request puts a share of a repeat aside, a repeat takes a whole one, and what is not taken within
//! the interval is gone: so a long calm pays for no storm. A small number of repeats is free, for
//! Services that get few requests. In come requests, wishes to repeat and the time; out comes yes or no.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::invalid::InvalidRetry;

/// The parts of the interval after which what was put aside is gone.
const SLOTS: usize = 10;
/// What a repeat costs; a request puts aside as many as the budget's percentage.
const REPEAT: u64 = 100;
/// Both intervals are of this length (GEP-3388).
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(3_600);
/// The most repeats that are free (GEP-3388).
const FREE: u32 = 1_000_000;

/// How many repeats there may be. The default is 20 % of the requests of the last 10 s, and 10 each
/// second besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetPolicy {
    percent: u8,
    interval: Duration,
    free: u32,
    free_interval: Duration,
}

/// What is left of the repeats of one backend. All times are on one monotonic clock of the caller.
///
/// ```
/// use std::time::Duration;
///
/// use inmesh_core::retry::{RetryBudget, BudgetPolicy};
///
/// let second = Duration::from_secs(1);
/// let policy = BudgetPolicy::new(20, 10 * second, 0, second)?;
/// let budget = RetryBudget::default();
/// (0..5).for_each(|_| budget.handle_request(&policy, second));
/// assert!(budget.has_repeat(&policy, second));
/// assert!(budget.poll_repeat(&policy, second));
/// assert!(!budget.has_repeat(&policy, second));
/// assert!(!budget.poll_repeat(&policy, second));
/// # Ok::<(), inmesh_core::retry::InvalidRetry>(())
/// ```
#[derive(Debug, Default)]
pub struct RetryBudget {
    /// For each part of the interval its number, and what was put aside in it.
    slots: [Slot; SLOTS],
    /// The free repeats that were taken in one interval of theirs.
    free: Slot,
    /// Held by the one that takes, so that two never take the same.
    taking: Mutex<()>,
}

/// A number that begins anew with each span of time: the span's number above, the count below.
#[derive(Debug, Default)]
struct Slot(AtomicU64);

// === impl BudgetPolicy ===

impl BudgetPolicy {
    pub(super) const DEFAULT: Self = Self {
        percent: 20,
        interval: Duration::from_secs(10),
        free: 10,
        free_interval: Duration::from_secs(1),
    };

    /// `percent` of the requests of the last `interval`, and `free` in each `free_interval` besides.
    ///
    /// # Errors
    ///
    /// [`InvalidRetry`] if the percentage is above 100, more than 1,000,000 are free, or an interval is
    /// not between a second and an hour.
    pub fn new(
        percent: u8,
        interval: Duration,
        free: u32,
        free_interval: Duration,
    ) -> Result<Self, InvalidRetry> {
        let fits = |d: Duration| (SHORTEST..=LONGEST).contains(&d);
        if percent > 100 {
            return Err(InvalidRetry::new(format!("{percent} % is above 100 %")));
        }
        if free > FREE {
            return Err(InvalidRetry::new(format!("{free} is above {FREE}")));
        }
        if !fits(interval) || !fits(free_interval) {
            return Err(InvalidRetry::new("the interval is between 1s and 1h"));
        }
        Ok(Self {
            percent,
            interval,
            free,
            free_interval,
        })
    }

    /// The percentage, and of which interval.
    pub fn share(&self) -> (u8, Duration) {
        (self.percent, self.interval)
    }

    /// How many are free, and in which interval.
    pub fn free(&self) -> (u32, Duration) {
        (self.free, self.free_interval)
    }

    fn slot(&self, now: Duration) -> u32 {
        nth(now, self.interval / SLOTS as u32)
    }
}

impl Default for BudgetPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Which span of this length the moment is in; from 1, so that 0 stands for no span.
fn nth(now: Duration, length: Duration) -> u32 {
    let nth = now.as_nanos() / length.as_nanos().max(1);
    u32::try_from(nth).unwrap_or(u32::MAX - 1).saturating_add(1)
}

// === impl RetryBudget ===

impl RetryBudget {
    /// A request is sent for the first time.
    pub fn handle_request(&self, policy: &BudgetPolicy, now: Duration) {
        let slot = policy.slot(now);
        self.slots[slot as usize % SLOTS].add(slot, policy.percent.into());
    }

    /// Whether a request may be repeated now; if so, the repeat is paid for.
    pub fn poll_repeat(&self, policy: &BudgetPolicy, now: Duration) -> bool {
        let _one_at_a_time = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        if self.has_free(policy, now) {
            self.free.add(nth(now, policy.free_interval), 1);
            return true;
        }
        if !self.has_put_aside(policy, now) {
            return false;
        }
        // What is gone first is taken first.
        let mut left = REPEAT;
        for (nth, slot) in self.live(policy, now) {
            let part = slot.get(nth).min(left);
            slot.take(nth, part);
            left -= part;
        }
        true
    }

    /// Whether a request might be repeated now. Nothing is taken.
    pub fn has_repeat(&self, policy: &BudgetPolicy, now: Duration) -> bool {
        self.has_free(policy, now) || self.has_put_aside(policy, now)
    }

    fn has_free(&self, policy: &BudgetPolicy, now: Duration) -> bool {
        self.free.get(nth(now, policy.free_interval)) < policy.free.into()
    }

    fn has_put_aside(&self, policy: &BudgetPolicy, now: Duration) -> bool {
        let live = self.live(policy, now);
        live.map(|(nth, slot)| slot.get(nth)).sum::<u64>() >= REPEAT
    }

    /// The parts of the interval that have not gone, the oldest first.
    fn live(&self, policy: &BudgetPolicy, now: Duration) -> impl Iterator<Item = (u32, &Slot)> {
        let last = policy.slot(now);
        let first = last.saturating_sub(SLOTS as u32 - 1);
        (first..=last).map(|nth| (nth, &self.slots[nth as usize % SLOTS]))
    }
}

// === impl Slot ===

impl Slot {
    fn get(&self, nth: u32) -> u64 {
        count_in(nth, self.0.load(Ordering::Relaxed))
    }

    fn add(&self, nth: u32, count: u64) {
        self.change(nth, |before| (before + count).min(u64::from(u32::MAX)));
    }

    fn take(&self, nth: u32, count: u64) {
        self.change(nth, |before| before.saturating_sub(count));
    }

    fn change(&self, nth: u32, change: impl Fn(u64) -> u64) {
        let set = |packed| Some((u64::from(nth) << 32) | change(count_in(nth, packed)));
        let (here, there) = (Ordering::Relaxed, Ordering::Relaxed);
        // It is always set.
        let _before = self.0.fetch_update(here, there, set);
    }
}

/// The count, if it is of this span.
fn count_in(nth: u32, packed: u64) -> u64 {
    if packed >> 32 == u64::from(nth) {
        packed & u64::from(u32::MAX)
    } else {
        0
    }
}
