//! Numbers that many threads add to. Each adds to its own, and a scrape sums them: a number that two
//! processors write to in turn moves between their caches each time.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

pub(in crate::telemetry) const MILLISECONDS: [f64; 15] = [
    0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0,
    30_000.0,
];
pub(in crate::telemetry) const BYTES: [f64; 8] = [
    10.0,
    100.0,
    1_000.0,
    10_000.0,
    100_000.0,
    1_000_000.0,
    10_000_000.0,
    100_000_000.0,
];
/// In how many parts a number is kept. More threads than that share them.
const SHARDS: usize = 8;

/// The numbers of a series, in as many parts as threads have counted.
#[derive(Default)]
pub(super) struct Sharded([OnceLock<Box<Shard>>; SHARDS]);

/// What some threads have counted. It shares no cache line with what others write.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Shard {
    requests: AtomicU64,
    /// In microseconds.
    duration: Distribution<{ MILLISECONDS.len() }>,
    request_bytes: Distribution<{ BYTES.len() }>,
    response_bytes: Distribution<{ BYTES.len() }>,
}

/// Values counted between bounds.
struct Distribution<const N: usize> {
    sum: AtomicU64,
    /// How many values lie below each bound and not below the one before.
    counts: [AtomicU64; N],
    above: AtomicU64,
}

/// How long exchanges took and how large they were.
#[derive(Default)]
pub(in crate::telemetry) struct Distributions {
    /// In microseconds.
    pub(in crate::telemetry) duration: Counted<{ MILLISECONDS.len() }>,
    pub(in crate::telemetry) request_bytes: Counted<{ BYTES.len() }>,
    pub(in crate::telemetry) response_bytes: Counted<{ BYTES.len() }>,
}

/// Values that were counted between bounds, of all shards.
pub(in crate::telemetry) struct Counted<const N: usize> {
    sum: u64,
    counts: [u64; N],
    above: u64,
}

/// The shard of this thread.
fn shard() -> usize {
    thread_local! {
        static OWN: Cell<Option<usize>> = const { Cell::new(None) };
    }
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    OWN.get().unwrap_or_else(|| {
        let own = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
        OWN.set(Some(own));
        own
    })
}

// === impl Sharded ===

impl Sharded {
    /// What this thread adds to.
    pub(super) fn here(&self) -> &Shard {
        // The index is below the length.
        let at = self.0.get(shard()).unwrap_or(&self.0[0]);
        at.get_or_init(Box::default)
    }

    /// How many requests were counted.
    pub(super) fn requests(&self) -> u64 {
        let requests = |shard: &Shard| shard.requests.load(Ordering::Relaxed);
        self.shards().map(requests).sum()
    }

    pub(super) fn distributions(&self) -> Distributions {
        let mut sum = Distributions::default();
        for shard in self.shards() {
            shard.duration.add_to(&mut sum.duration);
            shard.request_bytes.add_to(&mut sum.request_bytes);
            shard.response_bytes.add_to(&mut sum.response_bytes);
        }
        sum
    }

    fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.0.iter().filter_map(|shard| shard.get().map(|b| &**b))
    }
}

// === impl Shard ===

impl Shard {
    pub(super) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn observe(&self, took: Duration, request_bytes: u64, response_bytes: u64) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let millis = took.as_secs_f64() * 1_000.0;
        self.duration.observe(&MILLISECONDS, millis, micros);
        for (sizes, size) in [
            (&self.request_bytes, request_bytes),
            (&self.response_bytes, response_bytes),
        ] {
            #[expect(clippy::cast_precision_loss, reason = "a size beside bounds")]
            sizes.observe(&BYTES, size as f64, size);
        }
    }
}

// === impl Distribution ===

impl<const N: usize> Distribution<N> {
    /// Counts `value`, which is added to the sum as `parts`.
    fn observe(&self, bounds: &[f64; N], value: f64, parts: u64) {
        let at = bounds.partition_point(|bound| *bound < value);
        let count = self.counts.get(at).unwrap_or(&self.above);
        count.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(parts, Ordering::Relaxed);
    }

    fn add_to(&self, sum: &mut Counted<N>) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        for (sum, count) in sum.counts.iter_mut().zip(&self.counts) {
            *sum += load(count);
        }
        sum.above += load(&self.above);
        sum.sum += load(&self.sum);
    }
}

impl<const N: usize> Default for Distribution<N> {
    fn default() -> Self {
        Self {
            sum: AtomicU64::new(0),
            counts: [const { AtomicU64::new(0) }; N],
            above: AtomicU64::new(0),
        }
    }
}

// === impl Counted ===

impl<const N: usize> Counted<N> {
    /// The counts with their upper bounds, the last of which is infinite, and the sum.
    pub(in crate::telemetry) fn read(&self, bounds: &[f64; N]) -> (Vec<(f64, u64)>, u64) {
        let counts = bounds.iter().copied().zip(self.counts);
        let counts = counts.chain([(f64::INFINITY, self.above)]).collect();
        (counts, self.sum)
    }
}

impl<const N: usize> Default for Counted<N> {
    fn default() -> Self {
        Self {
            sum: 0,
            counts: [0; N],
            above: 0,
        }
    }
}
