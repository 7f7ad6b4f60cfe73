//! `adaptiveConcurrency`: how many requests the workloads that `selector` selects take at once. The words
//! are ours.

use inmesh_core::limit::AdaptiveConcurrency;

use super::super::strict::Value;

/// The most that can be named.
const MOST: i64 = 100_000;

pub(super) fn read(value: &Value<'_>) -> Option<AdaptiveConcurrency> {
    let default = AdaptiveConcurrency::default();
    value.object(|fields| {
        let (least, most) = (fields.get("minConcurrency"), fields.get("maxConcurrency"));
        let tolerance = fields.get("latencyTolerance");
        let bound = |value: Option<Value<'_>>, default| match value {
            Some(value) => value.integer_in(1, MOST),
            None => Some(default),
        };
        let (least, most) = (bound(least, default.least()), bound(most, default.most()));
        let tolerance = match tolerance {
            Some(tolerance) => tolerance.number()?,
            None => default.tolerance(),
        };
        value.check(AdaptiveConcurrency::new(least?, most?, tolerance))
    })
}
