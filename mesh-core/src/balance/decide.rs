//! The choice, pure: strategies over any view of loads and weights.

use std::time::Duration;

use crate::model::{Draw, mix};

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
    /// The largest of the weights.
    fn heaviest(&self) -> u32 {
        1
    }
    /// An endpoint drawn in proportion to the weights, from a view that is not empty.
    fn sample(&self, draw: &mut Draw) -> usize {
        draw.index(self.len())
    }
    /// Whether an endpoint takes a turn, by a number that is uniform in 64 bits: less often than each
    /// while it is new.
    fn takes(&self, _index: usize, _drawn: u64) -> bool {
        true
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
    from(draw.index(len), view)
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

/// Chooses an endpoint drawn by weight; `None` if no endpoint may be chosen.
///
/// Where three draws meet none that may be chosen, the first that may is taken, from a drawn place
/// onwards.
pub fn random(view: &impl LoadView, draw: &mut Draw) -> Option<usize> {
    let ready = |index: &usize| view.availability(*index) == Availability::Ready;
    if view.is_empty() {
        return None;
    }
    let drawn = (0..3).map(|_| view.sample(draw)).find(ready);
    drawn.or_else(|| from(draw.index(view.len()), view))
}

/// Chooses the next endpoint; `None` if no endpoint may be chosen. `turn` counts the turns of all
/// requests, from any number upwards.
///
/// With equal weights each turn is the next endpoint's. Else a round of turns has one for each, and an
/// endpoint leaves some out, so that it takes its weight's share of the heaviest one's (gRPC's static
/// stride scheduler, A58). An endpoint that may not be chosen leaves its turn out too. After two rounds
/// without a choice the next that may be chosen is taken, whatever its weight.
pub fn round_robin(view: &impl LoadView, mut turn: impl FnMut() -> u64) -> Option<usize> {
    let len = u64::try_from(view.len()).unwrap_or(u64::MAX);
    let heaviest = u64::from(view.heaviest()).max(1);
    for _ in 0..len.saturating_mul(2) {
        let turn = turn();
        let nth = turn % len;
        let round = if heaviest == 1 { 0 } else { turn / len };
        let index = usize::try_from(nth).unwrap_or_default();
        // Where in the heaviest one's weight this endpoint's turns have come to; every second one
        // begins half a weight later, so that not all take the same rounds.
        let weight = u64::from(view.weight(index));
        let at = (u128::from(weight) * u128::from(round) + u128::from(nth % 2 * heaviest / 2))
            % u128::from(heaviest);
        let takes = at >= u128::from(heaviest.saturating_sub(weight));
        if takes && view.takes(index, mix(turn)) && view.availability(index) == Availability::Ready
        {
            return Some(index);
        }
    }
    let next = turn().checked_rem(len)?;
    from(usize::try_from(next).unwrap_or_default(), view)
}

/// The first endpoint that may be chosen, from a place onwards.
fn from(start: usize, view: &impl LoadView) -> Option<usize> {
    let len = view.len();
    let mut places = (0..len).map(|n| (start + n) % len);
    places.find(|&n| view.availability(n) == Availability::Ready)
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
