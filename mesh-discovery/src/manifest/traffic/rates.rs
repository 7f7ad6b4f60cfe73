//! `rateLimit`: how many requests the workloads that `selector` selects take.
//!
//! The words are ours, with the `from` and `to` of an AuthorizationPolicy.

use std::time::Duration;

use inmesh_core::limit::{Rate, RateLimit, RateRule, Rates};

use super::super::strict::{Fields, Value};
use super::super::{Defaults, policy, text};

/// The most requests that can be named.
const MOST: i64 = 1_000_000;
/// The most rules.
const RULES: usize = 32;

pub(super) fn read(value: &Value<'_>, defaults: &Defaults) -> Option<RateLimit> {
    value.object(|fields| {
        let (all, list) = (rates(fields), fields.get("rules"));
        let rules = match list {
            Some(list) => {
                let items = list.list_of(RULES)?;
                let rules = items.iter().map(|item| rule(item, defaults));
                // Each is read, for its problems.
                let rules: Vec<_> = rules.collect();
                rules.into_iter().collect()
            }
            None => Some(Vec::new()),
        };
        value.check(RateLimit::new(all?, rules?))
    })
}

fn rule(value: &Value<'_>, defaults: &Defaults) -> Option<RateRule> {
    value.object(|fields| {
        let (of, rates) = (policy::conditions(fields, defaults), rates(fields));
        let of = of?;
        if of.from.is_empty() && of.to.is_empty() {
            fields.whole().refuse("has a from, a to, or both");
            return None;
        }
        value.check(RateRule::new(of, rates?))
    })
}

fn rates(fields: &mut Fields<'_>) -> Option<Rates> {
    let (total, each) = (fields.get("total"), fields.get("perIdentity"));
    let rate = |value: Option<Value<'_>>| match value {
        Some(value) => rate(&value).map(Some),
        None => Some(None),
    };
    let (total, each) = (rate(total), rate(each));
    Some(Rates::new(total?, each?))
}

fn rate(value: &Value<'_>) -> Option<Rate> {
    value.object(|fields| {
        let (requests, burst) = (fields.need("requests"), fields.get("burst"));
        let interval = match fields.get("interval") {
            Some(span) => span.check(text::duration(span.text()?)),
            None => Some(Duration::from_secs(1)),
        };
        let requests: u32 = requests?.integer_in(1, MOST)?;
        let burst = match burst {
            Some(burst) => burst.integer_in(1, MOST)?,
            None => requests,
        };
        value.check(Rate::new(requests, interval?, burst))
    })
}
