//! What a collector reads in, families of one scrape out: the few forms that pages of this binary
//! have, so that each says its names and values only.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// A gauge without labels.
pub(crate) fn gauge(
    out: &mut DescriptorEncoder<'_>,
    (name, help, value): (&str, &str, u64),
) -> fmt::Result {
    let family = out.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(number(value)).encode(family)
}

/// A counter without labels.
pub(crate) fn counter(
    out: &mut DescriptorEncoder<'_>,
    (name, help, value): (&str, &str, u64),
) -> fmt::Result {
    let family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(value).encode(family)
}

/// A gauge for each set of labels.
pub(crate) fn gauges<'l, const N: usize>(
    out: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    values: impl IntoIterator<Item = ([(&'static str, &'l str); N], u64)>,
) -> fmt::Result {
    let mut family = out.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        ConstGauge::new(number(value)).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// A counter for each set of labels.
pub(crate) fn counters<'l, const N: usize>(
    out: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    values: impl IntoIterator<Item = ([(&'static str, &'l str); N], u64)>,
) -> fmt::Result {
    let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in values {
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// Seconds since 1970; 0 for what was before.
pub(crate) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
