//! What is asked of a request besides where it goes, each with the object that says so.

use std::sync::Arc;

use super::value::Setting;
use crate::model::{Block, ObjectKey};
use crate::plan::Planned;
use crate::traffic::{Shown, Traffic};

/// Adds what applies to a planned request to a port with such settings.
pub(super) fn add(planned: &Planned, traffic: Option<&Arc<Traffic>>, out: &mut Vec<Setting>) {
    if let Some(timeouts) = planned.timeouts() {
        out.push(of("timeouts", timeouts));
    }
    if let Some(retry) = planned.retry() {
        out.push(setting("retry", &*retry.value, retry.from.as_ref()));
    }
    let Some(traffic) = traffic else {
        return;
    };
    if planned.retry().is_some() {
        out.push(of("retryConstraint", &traffic.budget));
    }
    out.push(of("loadBalancer", &traffic.strategy));
    out.extend(traffic.warmup.as_ref().map(|warmup| of("warmup", warmup)));
    out.extend(traffic.nearness.as_ref().map(|near| of("locality", near)));
    out.push(of("connectionPool", &traffic.limits));
    out.push(of("outlierDetection", &traffic.eject));
}

fn of<T: Shown>(name: &str, block: &Block<T>) -> Setting {
    setting(name, &block.value, block.from.as_ref())
}

fn setting(name: &str, value: &impl Shown, from: Option<&ObjectKey>) -> Setting {
    Setting {
        name: name.into(),
        value: value.fields().into(),
        object: from.map(ToString::to_string),
    }
}
