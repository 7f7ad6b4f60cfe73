//! Metrics of an embedder's own, read when they are encoded.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// What has metrics of its own to add to those of the mesh.
///
/// ```
/// use inmesh_core::telemetry::{Collect, Metrics, Samples};
///
/// #[derive(Debug)]
/// struct Jobs;
///
/// impl Collect for Jobs {
///     fn collect(&self, samples: &mut Samples<'_>) {
///         samples.gauge("jobs_open", "Jobs that wait", 3);
///         let by_kind = [([("kind", "mail")], 40), ([("kind", "report")], 2)];
///         samples.counters("jobs_done", "Jobs that were done, by kind", by_kind);
///     }
/// }
///
/// let metrics = Metrics::empty();
/// metrics.collect(Jobs);
/// let text = metrics.encode();
/// assert!(text.contains("jobs_open 3\n"));
/// assert!(text.contains("jobs_done_total{kind=\"mail\"} 40\n"));
/// ```
pub trait Collect: fmt::Debug + Send + Sync + 'static {
    /// Adds the samples of now. Called for each scrape, on a thread that no request waits for.
    fn collect(&self, samples: &mut Samples<'_>);
}

/// Takes the samples of one scrape, family by family. A family is named once.
#[derive(Debug)]
pub struct Samples<'a> {
    out: DescriptorEncoder<'a>,
    /// The first failure; what follows is left out.
    result: fmt::Result,
}

/// A [`Collect`] in the shape of the registry.
#[derive(Debug)]
pub(super) struct Collected<C>(pub(super) C);

// === impl Samples ===

impl Samples<'_> {
    /// Adds a gauge without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.add(|out| {
            let family = out.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(number(value)).encode(family)
        });
    }

    /// Adds a counter without labels; `_total` is put behind its name.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.add(|out| {
            let family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(family)
        });
    }

    /// Adds a gauge for each set of labels.
    pub fn gauges<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'static str, &'l str); N], u64)>,
    ) {
        let values = values.into_iter();
        let gauges = values.map(|(labels, value)| (labels, ConstGauge::new(number(value))));
        self.family(name, help, MetricType::Gauge, gauges);
    }

    /// Adds a counter for each set of labels; `_total` is put behind its name.
    pub fn counters<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'static str, &'l str); N], u64)>,
    ) {
        let values = values.into_iter();
        let counters = values.map(|(labels, value)| (labels, ConstCounter::new(value)));
        self.family(name, help, MetricType::Counter, counters);
    }

    /// Adds a histogram: the sum of all values and, for each upper bound, how many values lie
    /// between it and the bound before. The last bound is infinite.
    pub fn histogram(&mut self, name: &str, help: &str, sum: f64, buckets: &[(f64, u64)]) {
        let count = buckets.iter().map(|(_, n)| n).sum();
        self.add(|out| {
            let mut family = out.encode_descriptor(name, help, None, MetricType::Histogram)?;
            family.encode_histogram::<NoLabelSet>(sum, count, buckets, None)
        });
    }

    fn family<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        metrics: impl Iterator<Item = ([(&'static str, &'l str); N], impl EncodeMetric)>,
    ) {
        self.add(|out| {
            let mut family = out.encode_descriptor(name, help, None, kind)?;
            for (labels, metric) in metrics {
                metric.encode(family.encode_family(&labels)?)?;
            }
            Ok(())
        });
    }

    fn add(&mut self, family: impl FnOnce(&mut DescriptorEncoder<'_>) -> fmt::Result) {
        if self.result.is_ok() {
            self.result = family(&mut self.out);
        }
    }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

// === impl Collected ===

impl<C: Collect> Collector for Collected<C> {
    fn encode(&self, out: DescriptorEncoder<'_>) -> fmt::Result {
        let mut samples = Samples {
            out,
            result: Ok(()),
        };
        self.0.collect(&mut samples);
        samples.result
    }
}
