//! The choice, pure: the power of two choices over any view of loads.

use crate::model::Draw;

/// Whether an endpoint may be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Availability {
    /// It may be.
    Ready,
    /// It is ejected, or was tried already.
    Out,
}

/// What the choice needs to know of `len` endpoints.
pub trait LoadView {
    /// How many there are.
    fn len(&self) -> usize;
    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Whether the endpoint may be chosen.
    fn availability(&self, index: usize) -> Availability;
    /// Its load; less is better.
    fn load(&self, index: usize) -> u32;
}

/// Chooses an endpoint; `None` where none may be chosen.
///
/// 1. Two different endpoints are drawn; of those that may be chosen the less loaded is taken, on
///    a tie the one drawn first.
/// 2. Where neither may be, it is drawn again, up to three times.
/// 3. Then the first that may be chosen is taken, from a drawn place onwards.
pub fn p2c(view: &impl LoadView, draw: &mut Draw) -> Option<usize> {
    let len = view.len();
    let below = |draw: &mut Draw, n: usize| {
        let n = u64::try_from(n).unwrap_or(u64::MAX);
        usize::try_from(draw.below(n)).unwrap_or_default()
    };
    let ready = |index: usize| view.availability(index) == Availability::Ready;
    match len {
        0 => return None,
        1 => return ready(0).then_some(0),
        _ => {}
    }
    for _ in 0..3 {
        let a = below(draw, len);
        // Skipping over `a` leaves every other one equally likely.
        let b = (a + 1 + below(draw, len - 1)) % len;
        match (ready(a), ready(b)) {
            (true, true) => return Some(if view.load(b) < view.load(a) { b } else { a }),
            (true, false) => return Some(a),
            (false, true) => return Some(b),
            (false, false) => {}
        }
    }
    let start = below(draw, len);
    (0..len).map(|n| (start + n) % len).find(|&n| ready(n))
}
