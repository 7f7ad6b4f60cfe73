//! The weighted split between backends.

use crate::model::Draw;

/// Chooses an index in proportion to the weights; `None` where they sum to 0.
///
/// ```
/// use inmesh_core::{model::Draw, route::split};
/// assert_eq!(split([0, 5], &mut Draw::new(1)), Some(1));
/// assert_eq!(split([0, 0], &mut Draw::new(1)), None);
/// ```
pub fn split<I>(weights: I, draw: &mut Draw) -> Option<usize>
where
    I: IntoIterator<Item = u32>,
    I::IntoIter: Clone,
{
    let weights = weights.into_iter();
    let total: u64 = weights.clone().map(u64::from).sum();
    if total == 0 {
        return None;
    }
    let mut left = draw.below(total);
    for (index, weight) in weights.enumerate() {
        let weight = u64::from(weight);
        if left < weight {
            return Some(index);
        }
        left -= weight;
    }
    None
}
