//! The choice, pure: two strategies over any view of loads and weights.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

use crate::model::{Draw, mix, mix_bytes};

/// How a Service's endpoints are chosen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Strategy {
    /// The endpoint that a hash of this request header leads to. A request without it is balanced
    /// by least request.
    ConsistentHash(HeaderName),
    /// The less loaded of two endpoints drawn at random.
    #[default]
    LeastRequest,
}

/// A strategy with the key of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Choice {
    /// The endpoint that this key leads to.
    Hash(u64),
    /// The less loaded of two endpoints drawn at random.
    #[default]
    LeastRequest,
}

/// Whether an endpoint may be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Availability {
    /// It may be.
    Ready,
    /// It is ejected, or was tried already.
    Out,
}

/// What a choice needs to know of `len` endpoints.
pub trait LoadView {
    /// How many there are.
    fn len(&self) -> usize;
    /// Whether there are no endpoints.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Whether the endpoint may be chosen.
    fn availability(&self, index: usize) -> Availability;
    /// Its load at `now`, on the caller's monotonic clock; less is better.
    fn load(&self, index: usize, now: Duration) -> u64;
    /// Its share of requests relative to the other endpoints' weights; never 0.
    fn weight(&self, _index: usize) -> u32 {
        1
    }
    /// An endpoint drawn in proportion to the weights, from a view that is not empty.
    fn sample(&self, draw: &mut Draw) -> usize {
        draw.index(self.len())
    }
    /// What names an endpoint to [`consistent_hash`], the same in every process.
    fn name_hash(&self, index: usize) -> u64;
}

/// Chooses the less loaded of two endpoints; `None` if no endpoint may be chosen.
///
/// 1. Two different endpoints are drawn by weight; of those that may be chosen the one with less
///    load for its weight is taken, on a tie the one drawn first.
/// 2. If neither may be chosen, two others are drawn, up to three times.
/// 3. Then the first that may be chosen is taken, from a drawn place onwards.
pub fn p2c(view: &impl LoadView, now: Duration, draw: &mut Draw) -> Option<usize> {
    let len = view.len();
    let ready = |index: usize| view.availability(index) == Availability::Ready;
    match len {
        0 => return None,
        1 => return ready(0).then_some(0),
        _ => {}
    }
    for _ in 0..3 {
        let a = view.sample(draw);
        let b = other_than(a, view, draw);
        match (ready(a), ready(b)) {
            (true, true) => return Some(if is_lighter(view, b, a, now) { b } else { a }),
            (true, false) => return Some(a),
            (false, true) => return Some(b),
            (false, false) => {}
        }
    }
    let start = draw.index(len);
    (0..len).map(|n| (start + n) % len).find(|&n| ready(n))
}

/// Chooses the endpoint that a key leads to; `None` if no endpoint may be chosen.
///
/// Weighted rendezvous hashing: each endpoint has a score from its name and the key, and the highest
/// score among those that may be chosen is taken. An endpoint that leaves moves its own keys alone;
/// one that comes takes its share from each of the others. It reads every endpoint.
pub fn consistent_hash(view: &impl LoadView, key: u64) -> Option<usize> {
    let score = |index: usize| {
        // A uniform number in (0, 1), so that its logarithm is finite and below 0.
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit a f64")]
        let unit = ((mix(key ^ view.name_hash(index)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -f64::from(view.weight(index)) / unit.ln()
    };
    (0..view.len())
        .filter(|&index| view.availability(index) == Availability::Ready)
        .map(|index| (index, score(index)))
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(index, _)| index)
}

/// A second endpoint, drawn by weight where that is possible.
fn other_than(a: usize, view: &impl LoadView, draw: &mut Draw) -> usize {
    let len = view.len();
    let b = view.sample(draw);
    if a != b {
        return b;
    }
    // Skipping over `a` leaves every other endpoint equally likely.
    (a + 1 + draw.index(len - 1)) % len
}

/// Whether `b` has less load for its weight than `a`.
fn is_lighter(view: &impl LoadView, b: usize, a: usize, now: Duration) -> bool {
    let (of_a, of_b) = (view.load(a, now), view.load(b, now));
    match (view.weight(a), view.weight(b)) {
        (one, other) if one == other => of_b < of_a,
        (one, other) => u128::from(of_b) * u128::from(one) < u128::from(of_a) * u128::from(other),
    }
}

// === impl Strategy ===

impl Strategy {
    /// The choice for a request with these headers.
    pub fn choice(&self, headers: Option<&HeaderMap>) -> Choice {
        match self {
            Self::ConsistentHash(name) => headers
                .and_then(|headers| headers.get(name))
                .map_or(Choice::LeastRequest, |value| {
                    Choice::Hash(mix_bytes(value.as_bytes()))
                }),
            Self::LeastRequest => Choice::LeastRequest,
        }
    }
}
