//! The weighted split in which each user stays in one part while weights move.
//!
//! In come the hash of a user's key and the weight and name of each backend; out comes a place. It is a
//! pure function of these, so that every process leads a user to the same backend, and nothing is
//! remembered.
//!
//! The algorithm is weighted rendezvous hashing: each backend runs a race for each user, whose time is
//! exponentially distributed with its weight as the rate and drawn from the user's key and the backend's
//! name. The first one gets the user. What follows from it:
//!
//! - A backend's part is its share of the weights, exactly, as the first of exponential races is.
//! - Only ratios of weights count: a race is won by the same backend when all weights are doubled.
//! - A user moves only from a backend whose weight has shrunk, or to one whose weight has grown, in ratio
//!   to the other of the two. So where one backend grows or shrinks against all others, whose ratios to each
//!   other stay (every split in two; a backend that comes or leaves), exactly the share that must move does,
//!   and the users that move all come from that backend or all go to it.
//! - Where several ratios change at once, some users move between two others besides. With shares `p` before
//!   and `q` after, `1 / Σⱼ max(pⱼ/pᵢ, qⱼ/qᵢ)` of all users stay at `i` (Moulton and Jiang, "Maximally
//!   Consistent Sampling and the Jaccard Index of Probability Distributions", 2018). If `δ` must move, at most
//!   `2δ/(1+δ)` do, and no function that knows only the weights of the moment has a lower bound for all
//!   weights (Bavarian et al., "Optimality of Correlated Sampling Strategies", 2016). Ranges of the hash for
//!   each backend in order would move less in some cases and, when the first of three shrinks, move users
//!   between the second and the third.
//!
//! It refuses to count: a share is one of users, not of requests.

use std::collections::HashMap;
use std::sync::Arc;

use super::split::split;
use crate::balance::{Choice, HashKey, Issued, Shown};
use crate::model::{Block, Draw, ServiceName, mix, mix_bytes};
use crate::traffic::TrafficSplit;

/// What sets the number that leads a key to a backend apart from the one that leads it to an endpoint.
const SPLIT: u64 = 0x2545_f491_4f6c_dd1d;

/// Chooses the part of a split that the hash of a user's key leads to, of backends each with the hash of
/// its name and a weight; `None` where the weights sum to 0.
///
/// ```
/// use inmesh_core::route::stay;
/// let place = stay(7, [(1, 90), (2, 10)]);
/// // Neither order nor scale counts.
/// assert_eq!(place, stay(7, [(1, 9), (2, 1)]));
/// assert_eq!(place.map(|place| 1 - place), stay(7, [(2, 10), (1, 90)]));
/// assert_eq!(stay(7, [(1, 0)]), None);
/// ```
pub fn stay(key: u64, backends: impl IntoIterator<Item = (u64, u32)>) -> Option<usize> {
    let mut first: Option<(usize, f64)> = None;
    for (place, (name, weight)) in backends.into_iter().enumerate() {
        if weight == 0 {
            continue;
        }
        // A uniform number in (0, 1), so that its logarithm is finite and below 0.
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit a f64")]
        let unit = ((mix(key ^ SPLIT ^ name) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        let time = -unit.ln() / f64::from(weight);
        if first.is_none_or(|(_, least)| time < least) {
            first = Some((place, time));
        }
    }
    first.map(|(place, _)| place)
}

/// What keeps users in their parts of a rule's split.
#[derive(Debug, Clone)]
pub(super) struct Sticky {
    pub(super) by: Block<Arc<TrafficSplit>>,
    /// What names each of the rule's targets, the same in every process.
    names: Box<[u64]>,
}

// === impl Sticky ===

impl Sticky {
    pub(super) fn new<'t>(
        by: Block<Arc<TrafficSplit>>,
        targets: impl Iterator<Item = (&'t ServiceName, u16)>,
    ) -> Self {
        // Of targets of one name, which differ in their filters, each has a part of its own.
        let mut met: HashMap<_, u32> = HashMap::new();
        let names = targets.map(|(service, port)| {
            let nth = met.entry((service, port)).or_default();
            *nth += 1;
            mix_bytes(format!("{service}:{port}/{nth}").as_bytes())
        });
        let names = names.collect();
        Self { by, names }
    }

    /// The target of a request among those with these weights, by its key if it has one, else drawn. Where
    /// a cookie is handed out, its value is the first that is drawn.
    pub(super) fn choose(
        &self,
        weights: impl Iterator<Item = u32> + Clone,
        shown: Shown<'_>,
        draw: &mut Draw,
    ) -> Option<usize> {
        match self.by.value.key().choice(shown, draw) {
            (Choice::Hash(key), _) => stay(key, self.names.iter().copied().zip(weights)),
            _ => split(weights, draw),
        }
    }

    /// The cookie that a request is given, and its value; `first` is what [`Self::choose`] drew from.
    pub(super) fn handed(&self, shown: Shown<'_>, mut first: Draw) -> Option<(&HashKey, Issued)> {
        let key = self.by.value.key();
        let (_, issued) = key.choice(shown, &mut first);
        Some((key, issued?))
    }
}

#[cfg(test)]
mod tests;
