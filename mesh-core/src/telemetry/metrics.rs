//! Metrics under Istio's standard names, with handles cached where they are used.
//!
//! Nothing here is locked while metrics are encoded but the list of what is encoded, so that a
//! scrape holds up no exchange, however long it takes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

use super::exposition::{Exposition, classic};
use super::label::Varying;
use super::samples::{Collect, Collected, Samples};
use super::scrape::SeriesCollector;
use super::series::{AllSeries, Series, TcpCounters};

/// The most label sets of a small family; each further one is counted as `overflow`.
const SMALL: usize = 1_000;

/// The metrics of one mesh runtime. Cheap to clone; there is no global registry.
///
/// ```
/// use inmesh_core::telemetry::Metrics;
///
/// // For a process of yours that is no data plane; see `Collect` for metrics of your own.
/// let metrics = Metrics::empty();
/// assert_eq!(metrics.encode(), "# EOF\n");
/// ```
#[derive(Clone)]
pub struct Metrics(Arc<MetricsInner>);

struct MetricsInner {
    registry: Mutex<Registry>,
    series: Arc<AllSeries>,
    small: Arc<SmallFamilies>,
}

/// Families of events that are rare beside exchanges.
#[derive(Debug, Default)]
struct SmallFamilies {
    checks: Counts<2>,
    connections_failed: Counts<2>,
    ejections: Counts<1>,
    hedges: Counts<1>,
    mirrored: Counts<1>,
    retries: Counts<1>,
    log_dropped: AtomicU64,
    log_failures: AtomicU64,
}

/// Counts by the values of labels.
#[derive(Debug)]
struct Counts<const N: usize>(Mutex<BTreeMap<[Arc<str>; N], u64>>);

// === impl Counts ===

impl<const N: usize> Counts<N> {
    fn count(&self, values: [&str; N]) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut values = values.map(Arc::from);
        if counts.len() >= SMALL && !counts.contains_key(&values) {
            values = std::array::from_fn(|_| Arc::from("overflow"));
        }
        *counts.entry(values).or_default() += 1;
    }

    fn collect(&self, out: &mut Samples<'_>, name: &str, help: &str, labels: [&'static str; N]) {
        // A copy, so that counting waits for no scrape.
        let counts = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let counts = counts.iter().map(|(values, count)| {
            let of = |n: usize| (labels[n], &*values[n]);
            (std::array::from_fn::<_, N, _>(of), *count)
        });
        out.counters(name, help, counts);
    }
}

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

// === impl SmallFamilies ===

impl Collect for Arc<SmallFamilies> {
    fn collect(&self, samples: &mut Samples<'_>) {
        let (direction, reason) = ("direction", "reason");
        self.checks.collect(
            samples,
            "mesh_endpoint_checks",
            "Checks of endpoints, by what they came to",
            ["destination_service", "result"],
        );
        self.connections_failed.collect(
            samples,
            "mesh_connections_failed",
            "Connections that ended before they carried a request, by reason",
            [direction, reason],
        );
        self.ejections.collect(
            samples,
            "mesh_ejections",
            "Endpoints ejected by the balancer",
            ["destination_service"],
        );
        self.hedges.collect(
            samples,
            "mesh_hedges",
            "Further attempts of hedged requests, by what became of them",
            ["result"],
        );
        self.mirrored.collect(
            samples,
            "mesh_mirrored",
            "Copies of requests for mirrors of routes, by what became of them",
            ["result"],
        );
        self.retries.collect(
            samples,
            "mesh_retries",
            "Requests sent again, by reason",
            [reason],
        );
        samples.counter(
            "mesh_access_log_dropped",
            "Lines of the access log dropped because the writer fell behind",
            self.log_dropped.load(Ordering::Relaxed),
        );
        samples.counter(
            "mesh_access_log_write_failures",
            "Writes of the access log that failed, with all their lines",
            self.log_failures.load(Ordering::Relaxed),
        );
    }
}

// === impl Metrics ===

impl Metrics {
    /// A registry of its own with all metrics of the data plane.
    pub fn new() -> Self {
        let metrics = Self::empty();
        let series = SeriesCollector(Arc::clone(&metrics.0.series));
        metrics.registry().register_collector(Box::new(series));
        metrics.collect(Arc::clone(&metrics.0.small));
        metrics
    }

    /// A registry of its own without any metric, for a process that is no data plane.
    pub fn empty() -> Self {
        Self(Arc::new(MetricsInner {
            registry: Mutex::default(),
            series: Arc::default(),
            small: Arc::default(),
        }))
    }

    /// Adds metrics of the embedder's own, which are read for each scrape.
    pub fn collect(&self, metrics: impl Collect) {
        let collector = Box::new(Collected(metrics));
        self.registry().register_collector(collector);
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        let registry = self.0.registry.lock();
        registry.unwrap_or_else(PoisonError::into_inner)
    }

    /// All metrics in the OpenMetrics text format. It takes a moment where there are many: in a
    /// server, call it where blocking is allowed.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        let registry = self.registry();
        // Writing to a String fails only if a metric's own encoding does.
        if text::encode(&mut out, &registry).is_err() {
            tracing::error!("a metric cannot be encoded");
        }
        out
    }

    /// All metrics in the format that a scraper asks for.
    pub fn encode_as(&self, format: Exposition) -> String {
        match format {
            Exposition::Classic => classic(&self.encode()),
            Exposition::OpenMetrics => self.encode(),
        }
    }

    /// Counts a check of an endpoint of a Service.
    pub(crate) fn checked(&self, service: &str, result: &'static str) {
        self.0.small.checks.count([service, result]);
    }

    /// Counts a connection that ended before it carried a request.
    pub(crate) fn connection_failed(&self, direction: &'static str, reason: &'static str) {
        self.0.small.connections_failed.count([direction, reason]);
    }

    pub(crate) fn ejected(&self, service: &str) {
        self.0.small.ejections.count([service]);
    }

    pub(crate) fn hedged(&self, result: &'static str) {
        self.0.small.hedges.count([result]);
    }

    pub(crate) fn mirrored(&self, result: &'static str) {
        self.0.small.mirrored.count([result]);
    }

    pub(crate) fn retried(&self, reason: &'static str) {
        self.0.small.retries.count([reason]);
    }

    pub(crate) fn log_dropped(&self) {
        self.0.small.log_dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn log_failed(&self) {
        self.0.small.log_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Records one HTTP exchange.
    pub(crate) fn exchange(
        &self,
        series: &Series,
        varying: Varying,
        took: Duration,
        request_bytes: u64,
        response_bytes: u64,
    ) {
        let all = &self.0.series;
        all.exchange(series, varying, took, request_bytes, response_bytes);
    }

    /// Counts an opaque connection as opened; what is returned counts its bytes and its end.
    pub(crate) fn tcp_opened(&self, series: &Series, mutual_tls: bool) -> TcpCounters {
        self.0.series.tcp_opened(series, mutual_tls)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}
