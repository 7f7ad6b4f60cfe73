//! Spans over OTLP/gRPC: a record of an exchange in, a span in a batch out.
//!
//! Spans of sampled traces go through a bounded queue to one task that exports them in batches;
//! where the collector falls behind, spans are dropped and counted, and no request waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use inmesh_core::model::Workload;
use inmesh_core::telemetry::{Collect, Direction, Exchange, ExchangeSink, Samples};
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Spans that may wait to be exported.
const QUEUE: usize = 4_096;
/// Spans of one export, and how long the first of them waits for others.
const BATCH: usize = 512;
const PAUSE: Duration = Duration::from_secs(1);

/// The sink of exchanges.
#[derive(Debug)]
pub(crate) struct Spans {
    queue: mpsc::Sender<SpanData>,
    counts: Counts,
}

/// What became of spans.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts(Arc<Outcomes>);

#[derive(Debug, Default)]
struct Outcomes {
    exported: AtomicU64,
    /// The queue was full.
    dropped: AtomicU64,
    /// The collector refused them or did not answer.
    failed: AtomicU64,
}

impl Spans {
    /// Exports to an endpoint, e.g. `http://127.0.0.1:4317`, under the workload's name.
    ///
    /// # Errors
    ///
    /// If the endpoint is not a valid URI.
    pub(crate) fn new(endpoint: &str, workload: &Workload) -> anyhow::Result<Self> {
        let mut exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .build()
            .with_context(|| format!("exporting spans to {endpoint}"))?;
        let resource = Resource::builder()
            .with_service_name(workload.name.to_string())
            .with_attribute(KeyValue::new(
                "service.namespace",
                workload.namespace.to_string(),
            ))
            .build();
        exporter.set_resource(&resource);
        let (queue, receiver) = mpsc::channel(QUEUE);
        let counts = Counts::default();
        tokio::spawn(export(exporter, receiver, counts.clone()));
        Ok(Self { queue, counts })
    }

    /// What becomes of spans, for metrics.
    pub(crate) fn counts(&self) -> Counts {
        self.counts.clone()
    }
}

impl Collect for Counts {
    fn collect(&self, samples: &mut Samples<'_>) {
        let outcomes = [
            ("exported", &self.0.exported),
            ("dropped", &self.0.dropped),
            ("failed", &self.0.failed),
        ];
        let values = outcomes.map(|(outcome, count)| {
            let count = count.load(Ordering::Relaxed);
            ([("outcome", outcome)], count)
        });
        let help =
            "Spans by what became of them: exported, dropped as the queue was full, or failed";
        samples.counters("mesh_spans", help, values);
    }
}

impl ExchangeSink for Spans {
    fn record(&self, exchange: &Exchange, at: SystemTime) {
        if exchange.trace.sampled && self.queue.try_send(span(exchange, at)).is_err() {
            self.counts.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Exports batches. A failure is counted with its spans, and logged once until an export succeeds.
async fn export(exporter: SpanExporter, mut spans: mpsc::Receiver<SpanData>, counts: Counts) {
    let mut failing = false;
    loop {
        let mut batch = Vec::with_capacity(BATCH);
        if spans.recv_many(&mut batch, BATCH).await == 0 {
            return;
        }
        let more = async {
            while batch.len() < BATCH {
                let room = BATCH - batch.len();
                if spans.recv_many(&mut batch, room).await == 0 {
                    return;
                }
            }
        };
        let _full_or_late = timeout(PAUSE, more).await;
        let count = batch.len() as u64;
        match exporter.export(batch).await {
            Ok(()) => {
                counts.0.exported.fetch_add(count, Ordering::Relaxed);
                if std::mem::take(&mut failing) {
                    tracing::info!("spans are exported again");
                }
            }
            Err(error) => {
                counts.0.failed.fetch_add(count, Ordering::Relaxed);
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, count, "spans cannot be exported; they are lost");
                }
            }
        }
    }
}

/// The span of an exchange, with OpenTelemetry's names for HTTP.
fn span(x: &Exchange, at: SystemTime) -> SpanData {
    let mut attributes = vec![
        KeyValue::new("server.address", x.authority.to_string()),
        KeyValue::new("http.response.status_code", i64::from(x.status)),
        KeyValue::new("network.protocol.name", x.protocol.to_string()),
    ];
    let mut add = |key: &'static str, value: Option<String>| {
        attributes.extend(value.map(|value| KeyValue::new(key, value)));
    };
    add(
        "http.request.method",
        x.method.as_ref().map(ToString::to_string),
    );
    add(
        "url.path",
        x.method.as_ref().map(|_| x.uri.path().to_owned()),
    );
    add(
        "mesh.tls_peer",
        x.tls_peer.as_ref().map(ToString::to_string),
    );
    add(
        "mesh.route",
        x.route
            .as_ref()
            .map(|(route, rule)| format!("{route}[{rule}]")),
    );
    add("mesh.endpoint", x.attempts.last().map(ToString::to_string));
    add("mesh.reason", x.reason.map(|r| r.as_str().to_owned()));
    add("mesh.policy", x.policy.as_ref().map(ToString::to_string));
    let name = match &x.method {
        Some(method) => format!("{} {method}", x.direction.as_str()),
        None => format!("{} tcp", x.direction.as_str()),
    };
    let flags = if x.trace.sampled {
        TraceFlags::SAMPLED
    } else {
        TraceFlags::default()
    };
    SpanData {
        span_context: SpanContext::new(
            TraceId::from_bytes(x.trace.trace_id.to_be_bytes()),
            SpanId::from_bytes(x.trace.span_id.to_be_bytes()),
            flags,
            false,
            TraceState::default(),
        ),
        parent_span_id: SpanId::from_bytes(x.parent_span.unwrap_or_default().to_be_bytes()),
        parent_span_is_remote: x.direction == Direction::Inbound,
        span_kind: match x.direction {
            Direction::Inbound => SpanKind::Server,
            _ => SpanKind::Client,
        },
        name: name.into(),
        start_time: at.checked_sub(x.duration).unwrap_or(at),
        end_time: at,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: match (&x.detail, x.is_failure()) {
            (Some(detail), true) => Status::error(detail.clone()),
            (None, true) => Status::error(format!("status {}", x.status)),
            _ => Status::Unset,
        },
        instrumentation_scope: InstrumentationScope::builder("inmesh").build(),
    }
}

#[cfg(test)]
mod tests;
