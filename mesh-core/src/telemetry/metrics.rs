//! Metrics under Istio's standard names, with handles cached where they are used.
//!
//! Labels are names of workloads and services, never what a caller sends. The number of series is
//! bounded: beyond it, exchanges are counted under the labels `overflow`.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::samples::{Collect, Collected};

/// The most series of exchanges, by default.
const SERIES: usize = 10_000;

const MILLISECONDS: [f64; 15] = [
    0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0,
    30_000.0,
];
const BYTES: [f64; 8] = [
    10.0,
    100.0,
    1_000.0,
    10_000.0,
    100_000.0,
    1_000_000.0,
    10_000_000.0,
    100_000_000.0,
];

type Labels = Vec<(&'static str, LabelText)>;

/// A label's value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct LabelText(pub(crate) Arc<str>);

#[derive(Clone, Copy)]
struct Buckets(&'static [f64]);

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
    requests: Family<Labels, Counter>,
    duration: Family<Labels, Histogram, Buckets>,
    request_bytes: Family<Labels, Histogram, Buckets>,
    response_bytes: Family<Labels, Histogram, Buckets>,
    tcp_opened: Family<Labels, Counter>,
    tcp_closed: Family<Labels, Counter>,
    tcp_sent: Family<Labels, Counter>,
    tcp_received: Family<Labels, Counter>,
    connections_failed: Family<Labels, Counter>,
    ejections: Family<Labels, Counter>,
    retries: Family<Labels, Counter>,
    log_dropped: Counter,
    series: AtomicUsize,
    overflow: Series,
}

/// The labels that distinguish the exchanges of one [`Series`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Varying {
    pub(crate) protocol: &'static str,
    pub(crate) code: u16,
    pub(crate) grpc: Option<u8>,
    pub(crate) flags: &'static str,
    pub(crate) mutual_tls: bool,
}

/// The exchanges that share all labels but those of [`Varying`], with their cached handles.
pub(crate) struct Series {
    labels: Labels,
    http: RwLock<Vec<(Varying, Handles)>>,
    tcp: RwLock<Option<TcpCounters>>,
}

struct Handles {
    requests: Counter,
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
}

/// The counters of the opaque connections of one [`Series`].
#[derive(Debug, Clone)]
pub(crate) struct TcpCounters {
    opened: Counter,
    closed: Counter,
    sent: Counter,
    received: Counter,
}

// === impl MetricsInner ===

impl MetricsInner {
    fn register(&self, r: &mut Registry) {
        r.register("istio_requests", "Requests", self.requests.clone());
        r.register_with_unit(
            "istio_request_duration",
            "Time from the first byte of the request to the last of the answer",
            Unit::Other("milliseconds".into()),
            self.duration.clone(),
        );
        r.register_with_unit(
            "istio_request",
            "Size of request bodies",
            Unit::Bytes,
            self.request_bytes.clone(),
        );
        r.register_with_unit(
            "istio_response",
            "Size of response bodies",
            Unit::Bytes,
            self.response_bytes.clone(),
        );
        r.register(
            "istio_tcp_connections_opened",
            "Opaque connections opened",
            self.tcp_opened.clone(),
        );
        r.register(
            "istio_tcp_connections_closed",
            "Opaque connections closed",
            self.tcp_closed.clone(),
        );
        r.register(
            "istio_tcp_sent_bytes",
            "Bytes of opaque connections to the caller",
            self.tcp_sent.clone(),
        );
        r.register(
            "istio_tcp_received_bytes",
            "Bytes of opaque connections from the caller",
            self.tcp_received.clone(),
        );
        r.register(
            "mesh_connections_failed",
            "Connections that ended before they carried a request, by reason",
            self.connections_failed.clone(),
        );
        r.register(
            "mesh_ejections",
            "Endpoints ejected by the balancer",
            self.ejections.clone(),
        );
        r.register(
            "mesh_retries",
            "Requests sent again, by reason",
            self.retries.clone(),
        );
        r.register(
            "mesh_access_log_dropped",
            "Lines of the access log dropped because the writer fell behind",
            self.log_dropped.clone(),
        );
    }
}

// === impl LabelText ===

impl EncodeLabelValue for LabelText {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        EncodeLabelValue::encode(&&*self.0, encoder)
    }
}

impl From<&str> for LabelText {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

// === impl Buckets ===

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

// === impl Metrics ===

impl Metrics {
    /// A registry of its own with all metrics of the data plane.
    pub fn new() -> Self {
        let metrics = Self::empty();
        metrics.0.register(&mut metrics.registry());
        metrics
    }

    /// A registry of its own without any metric, for a process that is no data plane.
    pub fn empty() -> Self {
        let ms = Buckets(&MILLISECONDS);
        let bytes = Buckets(&BYTES);
        Self(Arc::new(MetricsInner {
            requests: Family::default(),
            duration: Family::new_with_constructor(ms),
            request_bytes: Family::new_with_constructor(bytes),
            response_bytes: Family::new_with_constructor(bytes),
            tcp_opened: Family::default(),
            tcp_closed: Family::default(),
            tcp_sent: Family::default(),
            tcp_received: Family::default(),
            connections_failed: Family::default(),
            ejections: Family::default(),
            retries: Family::default(),
            log_dropped: Counter::default(),
            series: AtomicUsize::new(0),
            overflow: Series::new(vec![("reporter", "overflow".into())]),
            registry: Mutex::default(),
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

    /// All metrics in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        let registry = self.registry();
        // Writing to a String fails only if a metric's own encoding does.
        if text::encode(&mut out, &registry).is_err() {
            tracing::error!("a metric cannot be encoded");
        }
        out
    }

    /// Counts a connection that ended before it carried a request.
    pub(crate) fn connection_failed(&self, direction: &'static str, reason: &'static str) {
        self.0
            .connections_failed
            .get_or_create(&vec![
                ("direction", direction.into()),
                ("reason", reason.into()),
            ])
            .inc();
    }

    pub(crate) fn ejected(&self, service: &Arc<str>) {
        let labels = vec![("destination_service", LabelText(Arc::clone(service)))];
        self.0.ejections.get_or_create(&labels).inc();
    }

    pub(crate) fn retried(&self, reason: &'static str) {
        self.0
            .retries
            .get_or_create(&vec![("reason", reason.into())])
            .inc();
    }

    pub(crate) fn log_dropped(&self) {
        self.0.log_dropped.inc();
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
        let record = |handles: &Handles| {
            handles.requests.inc();
            handles.duration.observe(took.as_secs_f64() * 1_000.0);
            #[expect(clippy::cast_precision_loss, reason = "sizes in a histogram")]
            {
                handles.request_bytes.observe(request_bytes as f64);
                handles.response_bytes.observe(response_bytes as f64);
            }
        };
        {
            let cached = series.http.read().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, handles)) = cached.iter().find(|(k, _)| *k == varying) {
                return record(handles);
            }
        }
        if !series.is(&self.0.overflow) && self.0.series.fetch_add(1, Ordering::Relaxed) >= SERIES {
            return self.exchange(
                &self.0.overflow,
                varying,
                took,
                request_bytes,
                response_bytes,
            );
        }
        let mut cached = series.http.write().unwrap_or_else(PoisonError::into_inner);
        let labels = varying.labels(&series.labels);
        let handles = Handles {
            requests: self.0.requests.get_or_create(&labels).clone(),
            duration: self.0.duration.get_or_create(&labels).clone(),
            request_bytes: self.0.request_bytes.get_or_create(&labels).clone(),
            response_bytes: self.0.response_bytes.get_or_create(&labels).clone(),
        };
        record(&handles);
        cached.push((varying, handles));
    }

    /// Counts an opaque connection as opened; what is returned counts its bytes and its end.
    pub(crate) fn tcp_opened(&self, series: &Series) -> TcpCounters {
        let counters = self.tcp(series);
        counters.opened.inc();
        counters
    }

    fn tcp(&self, series: &Series) -> TcpCounters {
        let cached = series
            .tcp
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        cached.unwrap_or_else(|| {
            let mut labels = series.labels.clone();
            labels.push(("request_protocol", "tcp".into()));
            let handles = TcpCounters {
                opened: self.0.tcp_opened.get_or_create(&labels).clone(),
                closed: self.0.tcp_closed.get_or_create(&labels).clone(),
                sent: self.0.tcp_sent.get_or_create(&labels).clone(),
                received: self.0.tcp_received.get_or_create(&labels).clone(),
            };
            let mut cached = series.tcp.write().unwrap_or_else(PoisonError::into_inner);
            cached.get_or_insert(handles).clone()
        })
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

// === impl Varying ===

impl Varying {
    fn labels(&self, base: &Labels) -> Labels {
        let mut labels = base.clone();
        let security = if self.mutual_tls {
            "mutual_tls"
        } else {
            "unknown"
        };
        let grpc = self.grpc.map(|s| s.to_string()).unwrap_or_default();
        labels.push(("request_protocol", self.protocol.into()));
        labels.push(("response_code", self.code.to_string().as_str().into()));
        labels.push(("grpc_response_status", grpc.as_str().into()));
        labels.push(("response_flags", self.flags.into()));
        labels.push(("connection_security_policy", security.into()));
        labels
    }
}

// === impl TcpCounters ===

impl TcpCounters {
    /// Counts bytes from and to the caller.
    pub(crate) fn add(&self, received: u64, sent: u64) {
        if received > 0 {
            self.received.inc_by(received);
        }
        if sent > 0 {
            self.sent.inc_by(sent);
        }
    }

    /// Counts the end of the connection.
    pub(crate) fn closed(&self) {
        self.closed.inc();
    }
}

// === impl Series ===

impl Series {
    pub(crate) fn new(labels: Vec<(&'static str, LabelText)>) -> Self {
        Self {
            labels,
            http: RwLock::default(),
            tcp: RwLock::default(),
        }
    }

    fn is(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl fmt::Debug for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Series").field(&self.labels).finish()
    }
}
