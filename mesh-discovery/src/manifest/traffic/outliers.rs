//! `outlierDetection`: when an endpoint is ejected, and for how long.
//!
//! The words are those of Istio's OutlierDetection; comparisons between endpoints have those of gRPC's
//! (A50).

use std::time::Duration;

use inmesh_core::balance::{EjectPolicy, FailurePercentage, SuccessRate, Volume};

use super::super::strict::{Fields, Value};
use super::super::text;
use super::UNUSED;

/// The most failures in a row that can be asked for.
const MOST: i64 = u32::MAX as i64;
/// Istio's default where failures of local origin are counted by themselves.
const LOCAL: u32 = 5;
/// gRPC's defaults: thousandths of a standard deviation, and percent.
const FACTOR: u32 = 1_900;
const THRESHOLD: u8 = 85;

/// Reads `outlierDetection`, as a policy and an agent's file have it. What is left out has its default.
#[must_use]
pub fn outlier_detection(value: &Value<'_>) -> Option<EjectPolicy> {
    value.object(|fields| {
        let why = "is consecutive5xxErrors or consecutiveGatewayErrors";
        fields.refuse_all(&["consecutiveErrors"], why);
        let mut policy = EjectPolicy::default();
        // Each part is read, for its problems.
        let counts = counts(fields, &mut policy);
        let times = times(fields, &mut policy);
        let shares = shares(fields, &mut policy);
        let (rate, percentage) = (
            fields.get("successRateEjection"),
            fields.get("failurePercentageEjection"),
        );
        let rate = rate.map(|value| success_rate(&value));
        let percentage = percentage.map(|value| failure_percentage(&value));
        policy.success_rate = rate.map_or(Some(None), |read| read.map(Some))?;
        policy.failure_percentage = percentage.map_or(Some(None), |read| read.map(Some))?;
        counts.and(times).and(shares).map(|()| policy)
    })
}

fn counts(fields: &mut Fields<'_>, policy: &mut EjectPolicy) -> Option<()> {
    let (failures, gateway) = (
        fields.get("consecutive5xxErrors"),
        fields.get("consecutiveGatewayErrors"),
    );
    let (split, local) = (
        fields.get("splitExternalLocalOriginErrors"),
        fields.get("consecutiveLocalOriginFailures"),
    );
    if let Some(failures) = failures {
        policy.consecutive = failures.integer_in(0, MOST)?;
    }
    if let Some(gateway) = gateway {
        policy.gateway = gateway.integer_in(0, MOST)?;
    }
    let split = match split {
        Some(split) => split.boolean()?,
        None => false,
    };
    policy.local = match (split, local) {
        (true, Some(local)) => Some(local.integer_in(0, MOST)?),
        (true, None) => Some(LOCAL),
        (false, Some(local)) => {
            local.refuse("needs splitExternalLocalOriginErrors: true");
            return None;
        }
        (false, None) => None,
    };
    Some(())
}

fn times(fields: &mut Fields<'_>, policy: &mut EjectPolicy) -> Option<()> {
    let mut time = |name| match fields.get(name) {
        None => Some(None),
        Some(value) => {
            let time: Duration = value.check(text::duration(value.text()?))?;
            if time.is_zero() {
                value.refuse("is above 0s");
            }
            Some(Some((time, value)))
        }
    };
    let (interval, base) = (time("interval"), time("baseEjectionTime"));
    let longest = time("maxEjectionTime");
    if let Some((interval, _)) = interval? {
        policy.interval = interval;
    }
    if let Some((base, _)) = base? {
        policy.base = base;
    }
    match longest? {
        Some((longest, value)) if longest < policy.base => {
            value.refuse("is shorter than baseEjectionTime");
        }
        Some((longest, _)) => policy.longest = longest,
        // As Envoy has it.
        None => policy.longest = policy.longest.max(policy.base),
    }
    Some(())
}

fn shares(fields: &mut Fields<'_>, policy: &mut EjectPolicy) -> Option<()> {
    let (most, health) = (
        fields.get("maxEjectionPercent"),
        fields.get("minHealthPercent"),
    );
    if let Some(most) = most {
        policy.percent = most.integer_in(0, 100)?;
    }
    if let Some(health) = health {
        policy.panic_percent = health.integer_in(0, 100)?;
    }
    Some(())
}

fn success_rate(value: &Value<'_>) -> Option<SuccessRate> {
    value.object(|fields| {
        let (factor, volume) = (fields.get("stdevFactor"), volume(fields));
        let factor = match factor {
            Some(factor) => factor.check(SuccessRate::new(factor.integer()?))?,
            None => value.check(SuccessRate::new(FACTOR))?,
        };
        Some(factor.at(volume?.or(factor.volume())))
    })
}

fn failure_percentage(value: &Value<'_>) -> Option<FailurePercentage> {
    value.object(|fields| {
        let (threshold, volume) = (fields.get("threshold"), volume(fields));
        let threshold = match threshold {
            Some(threshold) => threshold.integer_in(0, 100)?,
            None => THRESHOLD,
        };
        let by = value.check(FailurePercentage::new(threshold))?;
        Some(by.at(volume?.or(by.volume())))
    })
}

/// What a comparison needs as far as a document says it.
struct Said {
    hosts: Option<u32>,
    requests: Option<u32>,
}

fn volume(fields: &mut Fields<'_>) -> Option<Said> {
    fields.refuse_all(&["enforcementPercentage"], UNUSED);
    let (hosts, requests) = (fields.get("minimumHosts"), fields.get("requestVolume"));
    let number = |value: Option<Value<'_>>| match value {
        Some(value) => value.integer_in(1, MOST).map(Some),
        None => Some(None),
    };
    let (hosts, requests) = (number(hosts), number(requests));
    Some(Said {
        hosts: hosts?,
        requests: requests?,
    })
}

// === impl Said ===

impl Said {
    fn or(self, default: Volume) -> Volume {
        let hosts = self.hosts.unwrap_or(default.hosts);
        Volume::new(hosts, self.requests.unwrap_or(default.requests))
    }
}
