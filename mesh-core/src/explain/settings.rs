//! What is asked of a request besides where it goes, each with the object that says so.

use std::sync::Arc;

use super::value::Setting;
use crate::model::Block;
use crate::plan::Planned;
use crate::route::Timeouts;
use crate::traffic::{Part, Traffic, part};

/// What applies to a planned request, or connection of opaque bytes, to a port with such settings.
pub(super) fn of(planned: &Planned, traffic: Option<&Arc<Traffic>>, opaque: bool) -> Vec<Setting> {
    let (timeouts, retry) = (planned.timeouts(), planned.retry());
    // What the rule itself cannot say.
    let idle = planned.timeouts_of_policy().filter(|block| {
        block.value.stream_idle.is_some() && timeouts.is_none_or(|own| own.from != block.from)
    });
    let idle = idle.map(|block| Block {
        value: Timeouts::default().with_stream_idle(block.value.stream_idle),
        from: block.from.clone(),
    });
    let of_request = [
        timeouts.map(|block| part("timeouts", block)),
        idle.as_ref().map(|block| part("timeouts", block)),
        retry.map(|block| part("retry", block)),
        planned.hedge().map(|block| part("hedge", block)),
        planned.fault().map(|block| part("fault", block)),
        { planned.session() }.map(|s| part("sessionPersistence", s.policy())),
        planned.split_key().map(|block| part("trafficSplit", block)),
    ];
    let of_request = of_request.into_iter().flatten().filter(|_| !opaque);
    let of_service = traffic.into_iter().flat_map(|traffic| traffic.of_service());
    // Without repeats there is nothing to pay for.
    let repeats = (retry.is_some() || planned.hedge().is_some()) && !opaque;
    let of_service = of_service.filter(|(name, ..)| repeats || *name != "retryConstraint");
    of_request.chain(of_service).map(setting).collect()
}

fn setting((name, value, from): Part<'_>) -> Setting {
    Setting {
        name: name.into(),
        value: value.fields().into(),
        object: from.map(ToString::to_string),
    }
}
