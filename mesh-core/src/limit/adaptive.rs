//! How many requests a workload has at once, as its answers allow it: the limit follows latency, so that
//! a workload that is asked for more than it can do does what it can, and the rest is refused at once
//! instead of waiting until its caller has given up.
//!
//! 1. Answers come in windows. The median of one is compared with the best of the last half minute.
//! 2. Where it is more than the tolerance above, requests wait for each other: the limit shrinks in
//!    proportion. Else it grows by its square root or an eighth, if it was reached.
//! 3. Where requests were never few for half a minute, the best is no longer known: the limit drops for one
//!    window, in which none has to wait, and the median of that is the best from then on. So neither a
//!    start under load nor a workload that has become slower misleads it for long.
//!
//! Pure: in come begins and ends of requests with their times. A failed answer says nothing of latency.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::policy::InvalidLimit;
use crate::model::{Block, parts};
#[cfg(feature = "runtime")]
use crate::{Error, Reason};

/// The answers of a window, at least; and the most that are kept for its median.
const ANSWERS: usize = 16;
const KEPT: usize = 64;
/// The shortest window.
const WINDOW: Duration = Duration::from_millis(100);
/// For how long the best median counts.
const EPOCH: Duration = Duration::from_secs(30);
/// What a probe ends without, if too few requests come.
const PROBE: Duration = Duration::from_secs(2);
/// The limit that a workload begins with.
const FIRST: u32 = 64;
/// The most that can be named.
const MOST: u32 = 100_000;

/// Between which bounds the limit moves, and how much slower answers may be than at best.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdaptiveConcurrency {
    least: u32,
    most: u32,
    /// In thousandths.
    tolerance: u32,
}

/// The limit of one workload, and what is in flight.
#[derive(Debug)]
pub(crate) struct Adaptive {
    block: Block<AdaptiveConcurrency>,
    in_flight: AtomicU32,
    /// What may be in flight now.
    limit: AtomicU32,
    /// Whether the limit was reached in the window.
    reached: AtomicBool,
    seen: Mutex<Seen>,
}

/// What was seen of answers.
#[derive(Debug)]
struct Seen {
    /// Since when, and the first answers, in microseconds.
    window: Duration,
    answers: Vec<u32>,
    /// Whether the limit was reached in the epoch.
    crowded: bool,
    /// The limit as it would be without a probe.
    limit: f64,
    /// The best median that counts, and the best of this epoch.
    best: Option<u32>,
    least: Option<u32>,
    epoch: Duration,
    /// Since when the best is measured anew.
    probe: Option<Duration>,
}

// === impl AdaptiveConcurrency ===

impl AdaptiveConcurrency {
    /// A limit of `least` to `most` requests, under which answers take up to `tolerance` times as long as
    /// at best.
    ///
    /// ```
    /// use inmesh_core::limit::AdaptiveConcurrency;
    /// assert_eq!(AdaptiveConcurrency::new(4, 1_000, 2.0)?, AdaptiveConcurrency::default());
    /// assert!(AdaptiveConcurrency::new(10, 5, 2.0).is_err());
    /// # Ok::<(), inmesh_core::limit::InvalidLimit>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidLimit`] if `least` is 0 or above `most`, `most` above 100,000, or the tolerance not 1.1 to
    /// 10 or between two thousandths.
    pub fn new(least: u32, most: u32, tolerance: f64) -> Result<Self, InvalidLimit> {
        if least == 0 || least > most || most > MOST {
            let bounds = format!("{least} to {most} is not within 1 to {MOST}");
            return Err(InvalidLimit::new(bounds));
        }
        if !(1.1..=10.0).contains(&tolerance) {
            let message = format!("a tolerance is 1.1 to 10, not {tolerance}");
            return Err(InvalidLimit::new(message));
        }
        let Some(tolerance) = parts(tolerance, 1_000) else {
            let message = format!("a tolerance has three digits after the point, not {tolerance}");
            return Err(InvalidLimit::new(message));
        };
        Ok(Self {
            least,
            most,
            tolerance,
        })
    }

    /// The fewest requests in flight.
    pub fn least(self) -> u32 {
        self.least
    }

    /// The most.
    pub fn most(self) -> u32 {
        self.most
    }

    /// How much longer answers may take.
    pub fn tolerance(self) -> f64 {
        f64::from(self.tolerance) / 1_000.0
    }
}

impl fmt::Display for AdaptiveConcurrency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most, slower) = (self.least, self.most, self.tolerance());
        write!(
            f,
            "{least} to {most} at once, while answers take up to {slower} times as long as at best"
        )
    }
}

impl Default for AdaptiveConcurrency {
    fn default() -> Self {
        Self {
            least: 4,
            most: 1_000,
            tolerance: 2_000,
        }
    }
}

// === impl Adaptive ===

impl Adaptive {
    pub(crate) fn new(block: Block<AdaptiveConcurrency>) -> Self {
        let policy = block.value;
        let limit = FIRST.clamp(policy.least, policy.most);
        Self {
            block,
            in_flight: AtomicU32::new(0),
            limit: AtomicU32::new(limit),
            reached: AtomicBool::new(false),
            seen: Mutex::new(Seen {
                window: Duration::ZERO,
                answers: Vec::with_capacity(KEPT),
                crowded: false,
                limit: limit.into(),
                best: None,
                least: None,
                epoch: Duration::ZERO,
                probe: None,
            }),
        }
    }

    /// What it is made of.
    pub(crate) fn block(&self) -> &Block<AdaptiveConcurrency> {
        &self.block
    }

    /// What may be in flight now.
    pub(crate) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Begins a request, if there is room for it.
    pub(crate) fn begin(&self) -> bool {
        let taken = self.in_flight.fetch_add(1, Ordering::Relaxed) < self.limit();
        if !taken {
            self.leave();
            self.reached.store(true, Ordering::Relaxed);
        }
        taken
    }

    /// That there is no room for a request.
    #[cfg(feature = "runtime")]
    #[cold]
    pub(crate) fn refuse(&self) -> Error {
        let detail = format!("{} requests are in flight", self.limit());
        let error = Error::new(Reason::Overload, detail);
        match &self.block.from {
            Some(from) => error.with_policy(from.clone()),
            None => error,
        }
    }

    /// A request that was begun has ended without an answer that says something.
    pub(crate) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// A request that was begun at a moment is answered now. All times are on one monotonic clock.
    pub(crate) fn answered(&self, begun: Duration, now: Duration) {
        let in_flight = self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if in_flight >= self.limit() {
            self.reached.store(true, Ordering::Relaxed);
        }
        if seen.probe.is_some_and(|since| begun < since) {
            // It may have waited for others.
            return;
        }
        if seen.answers.len() < KEPT {
            let took = now.saturating_sub(begun).as_micros();
            seen.answers.push(u32::try_from(took).unwrap_or(u32::MAX));
        }
        if !seen.has_window(now) {
            return;
        }
        let reached = self.reached.swap(false, Ordering::Relaxed);
        if let Some(limit) = seen.next(self.block.value, reached, now) {
            self.limit.store(limit, Ordering::Relaxed);
        }
    }
}

// === impl Seen ===

impl Seen {
    /// Whether a window has ended.
    fn has_window(&self, now: Duration) -> bool {
        let since = now.saturating_sub(self.window);
        let (probe, enough) = (self.probe.is_some(), self.answers.len() >= ANSWERS);
        enough && (probe || since >= WINDOW) || probe && since > PROBE
    }

    /// The limit after a window.
    fn next(&mut self, policy: AdaptiveConcurrency, reached: bool, now: Duration) -> Option<u32> {
        let median = self.median();
        self.window = now;
        if self.probe.take().is_some() {
            // None has waited for another.
            self.best = median.or(self.best);
            self.begin_epoch(now);
            return Some(self.whole(policy));
        }
        let median = median?;
        self.crowded |= reached;
        self.least = Some(self.least.map_or(median, |least| least.min(median)));
        let best = self.best.map_or(median, |best| best.min(median));
        self.best = Some(best);
        let slower = f64::from(median) / f64::from(best.max(1));
        if slower > policy.tolerance() {
            self.limit *= (policy.tolerance() / slower).max(0.5);
        } else if reached {
            self.limit += self.limit.sqrt().max(self.limit / 8.0).max(1.0);
        }
        self.limit = self.limit.clamp(policy.least.into(), policy.most.into());
        if now.saturating_sub(self.epoch) < EPOCH {
            return Some(self.whole(policy));
        }
        if !self.crowded {
            self.best = self.least;
            self.begin_epoch(now);
            return Some(self.whole(policy));
        }
        self.probe = Some(now);
        let few = self.limit / (2.0 * policy.tolerance());
        Some(rounded(few).max(policy.least))
    }

    fn begin_epoch(&mut self, now: Duration) {
        (self.epoch, self.crowded, self.least) = (now, false, None);
    }

    fn median(&mut self) -> Option<u32> {
        let middle = self.answers.len() / 2;
        let median =
            (!self.answers.is_empty()).then(|| *self.answers.select_nth_unstable(middle).1);
        self.answers.clear();
        median
    }

    fn whole(&self, policy: AdaptiveConcurrency) -> u32 {
        rounded(self.limit).clamp(policy.least, policy.most)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is within the bounds of its policy"
)]
fn rounded(limit: f64) -> u32 {
    limit.round() as u32
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::{BinaryHeap, VecDeque};

    use super::*;
    use crate::model::Draw;

    const SECOND: Duration = Duration::from_secs(1);

    /// A server of so many workers that each take about as long for a request, and how it is asked.
    #[derive(Clone, Copy)]
    struct Server {
        workers: usize,
        takes: Duration,
    }

    /// What became of the requests of a span of time.
    #[derive(Debug, Default)]
    struct Came {
        /// Answers within the time that a caller waits.
        good: u32,
        late: u32,
        shed: u32,
    }

    /// Asks a server `rate` times in a second, through the limit if there is one. A request that is begun
    /// waits for a worker, and is worked on even if its caller has gone.
    fn ask(
        server: Server,
        adaptive: Option<&Adaptive>,
        rate: u32,
        span: (Duration, Duration),
    ) -> Came {
        let mut draw = Draw::new(u64::from(rate));
        let patience = server.takes * 10;
        let (begin, end) = span;
        let (mut came, mut idle) = (Came::default(), server.workers);
        let (mut waiting, mut done) = (VecDeque::new(), BinaryHeap::new());
        let mut next = begin;
        loop {
            let ends: Option<Duration> = done.peek().map(|Reverse((at, _))| *at);
            let now = match ends {
                Some(ends) if next >= end || ends <= next => {
                    if let Some(Reverse((now, begun))) = done.pop() {
                        idle += 1;
                        if let Some(adaptive) = adaptive {
                            adaptive.answered(begun, now);
                        }
                        match now - begun <= patience {
                            true => came.good += 1,
                            false => came.late += 1,
                        }
                    }
                    ends
                }
                None if next >= end => return came,
                _ => {
                    if adaptive.is_some_and(|adaptive| !adaptive.begin()) {
                        came.shed += 1;
                    } else {
                        waiting.push_back(next);
                    }
                    let now = next;
                    // Between 0.5 and 1.5 times as long as on average.
                    next += around(SECOND / rate, &mut draw);
                    now
                }
            };
            while idle > 0
                && let Some(begun) = waiting.pop_front()
            {
                idle -= 1;
                done.push(Reverse((now + around(server.takes, &mut draw), begun)));
            }
        }
    }

    fn around(length: Duration, draw: &mut Draw) -> Duration {
        let parts = 500 + draw.below(1_001);
        length * u32::try_from(parts).unwrap() / 1_000
    }

    #[test]
    fn three_times_too_much_is_answered_like_what_can_be_done() {
        for (workers, takes) in [(8, 10), (50, 20), (2, 5)] {
            let takes = Duration::from_millis(takes);
            let server = Server { workers, takes };
            let peak =
                u32::try_from(workers * 1_000).unwrap() / u32::try_from(takes.as_millis()).unwrap();
            let adaptive = Adaptive::new(Block::default());
            // It learns with half of what it can do, and is asked for three times as much for more than a minute.
            let calm = ask(server, Some(&adaptive), peak / 2, (SECOND, 20 * SECOND));
            assert_eq!((calm.shed, calm.late), (0, 0), "{calm:?}");
            let came = ask(
                server,
                Some(&adaptive),
                peak * 3,
                (20 * SECOND, 90 * SECOND),
            );
            let wanted = peak * 70 * 9 / 10;
            assert!(came.good >= wanted, "{workers}: {came:?} of {wanted}");
            assert!(came.late <= came.good / 100, "{workers}: {came:?}");
            // Without it nearly all come too late.
            let without = ask(server, None, peak * 3, (SECOND, 21 * SECOND));
            assert!(without.good < peak * 20 / 4, "{without:?}");
        }
    }

    #[test]
    fn what_begins_under_load_finds_its_limit() {
        let takes = Duration::from_millis(10);
        let server = Server { workers: 8, takes };
        let adaptive = Adaptive::new(Block::default());
        let _first = ask(server, Some(&adaptive), 2_400, (SECOND, 60 * SECOND));
        let came = ask(server, Some(&adaptive), 2_400, (60 * SECOND, 120 * SECOND));
        assert!(came.good >= 800 * 60 * 9 / 10, "{came:?}");
        assert!((8..=32).contains(&adaptive.limit()), "{}", adaptive.limit());
        // A server that has become slower is not taken for a crowded one for ever.
        let slower = Server {
            workers: 8,
            takes: takes * 4,
        };
        let _first = ask(slower, Some(&adaptive), 600, (120 * SECOND, 200 * SECOND));
        let came = ask(slower, Some(&adaptive), 600, (200 * SECOND, 260 * SECOND));
        assert!(came.good >= 200 * 60 * 9 / 10, "{came:?}");
    }

    #[test]
    fn the_limit_stays_within_its_bounds_and_counts_what_is_in_flight() {
        let policy = AdaptiveConcurrency::new(2, 5, 1.5).unwrap();
        let adaptive = Adaptive::new(Block::built(policy));
        assert_eq!(adaptive.limit(), 5);
        assert_eq!((0..7).filter(|_| adaptive.begin()).count(), 5);
        adaptive.leave();
        assert!(adaptive.begin());
        assert!(!adaptive.begin());
        // Answers that take ever longer.
        let mut now = SECOND;
        for nth in 1..1_000 {
            now += Duration::from_millis(10);
            adaptive.answered(now.saturating_sub(Duration::from_millis(nth)), now);
            let _room = adaptive.begin();
            assert!((2..=5).contains(&adaptive.limit()));
        }
        assert_eq!(adaptive.limit(), 2);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (least, most, tolerance) in [
            (0, 10, 2.0),
            (11, 10, 2.0),
            (1, MOST + 1, 2.0),
            (1, 10, 1.0),
            (1, 10, 10.5),
            (1, 10, f64::NAN),
        ] {
            assert!(AdaptiveConcurrency::new(least, most, tolerance).is_err());
        }
    }
}
