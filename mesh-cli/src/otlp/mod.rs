//! Spans over OTLP/gRPC: a record of an exchange in, a span in a batch out.
//!
//! Spans of sampled traces go through a bounded queue to one task that exports them in batches;
//! where the collector falls behind, spans are dropped and counted, and no request waits.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use inmesh_core::model::Workload;
use inmesh_core::telemetry::{Collect, Direction, Exchange, ExchangeSink, Protocol, Samples};
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
            .with_attributes(
                workload
                    .labels
                    .get("version")
                    .map(|version| KeyValue::new("service.version", version.to_string())),
            )
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
    fn sees_begin(&self) -> bool {
        false
    }

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

/// The attributes of a span.
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn text(&mut self, key: &'static str, text: &str) {
        if !text.is_empty() {
            self.0.push(KeyValue::new(key, text.to_owned()));
        }
    }

    fn shown(&mut self, key: &'static str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.text(key, &value.to_string());
        }
    }

    fn number(&mut self, key: &'static str, number: impl TryInto<i64>) {
        let number = number.try_into().unwrap_or(i64::MAX);
        self.0.push(KeyValue::new(key, number));
    }

    fn http(&mut self, x: &Exchange, method: &str) {
        self.text("http.request.method", method);
        self.text("url.path", x.uri.path());
        self.text("url.scheme", "http");
        self.number("http.request.body.size", x.request_bytes);
        self.number("http.response.body.size", x.response_bytes);
        if x.status > 0 {
            self.number("http.response.status_code", x.status);
        }
        if x.attempts.len() > 1 {
            self.number("http.request.resend_count", x.attempts.len() - 1);
        }
        self.text("network.protocol.name", "http");
        let version = if x.protocol == Protocol::Http1 {
            "1.1"
        } else {
            "2"
        };
        self.text("network.protocol.version", version);
        let agent = x.user_agent.as_ref().and_then(|agent| agent.to_str().ok());
        self.text("user_agent.original", agent.unwrap_or_default());
    }

    fn grpc(&mut self, x: &Exchange) {
        self.text("rpc.system", "grpc");
        if let Some(status) = x.grpc_status {
            self.number("rpc.grpc.status_code", status);
        }
        // `/package.Service/Method`.
        let called = x.uri.path().strip_prefix('/');
        let (service, method) = called
            .and_then(|path| path.split_once('/'))
            .unwrap_or_default();
        self.text("rpc.service", service);
        self.text("rpc.method", method);
    }

    fn network(&mut self, x: &Exchange) {
        self.text("network.transport", "tcp");
        let (host, port) = host_and_port(&x.authority);
        self.text("server.address", host);
        if let Some(port) = port {
            self.number("server.port", port);
        }
        if let Some(caller) = x.caller {
            self.shown("client.address", Some(caller.ip()));
            self.number("client.port", caller.port());
        }
        let peer = match x.direction {
            Direction::Inbound => x.caller.as_ref(),
            _ => x.attempts.last(),
        };
        if let Some(peer) = peer {
            self.shown("network.peer.address", Some(peer.ip()));
            self.number("network.peer.port", peer.port());
        }
    }

    fn mesh(&mut self, x: &Exchange) {
        if is_error(x) {
            let status = x.status.to_string();
            self.text(
                "error.type",
                x.reason.map_or(&status, |reason| reason.as_str()),
            );
        }
        self.shown("mesh.tls_peer", x.tls_peer.as_ref());
        let route = x.route.as_ref();
        self.shown(
            "mesh.route",
            route.map(|(key, rule)| format!("{key}[{rule}]")),
        );
        self.shown("mesh.reason", x.reason.map(|reason| reason.as_str()));
        self.shown("mesh.policy", x.policy.as_ref());
        self.text("mesh.service", &x.service);
    }
}

/// Whether the span is one of an error: a caller's own mistake is one to the caller alone.
fn is_error(x: &Exchange) -> bool {
    x.is_failure() || (x.direction != Direction::Inbound && x.status >= 400)
}

/// The span of an exchange, with the names of OpenTelemetry's semantic conventions for HTTP, RPC and
/// network spans; what they do not know begins with `mesh.`.
fn span(x: &Exchange, at: SystemTime) -> SpanData {
    let mut attributes = Attributes(Vec::with_capacity(24));
    match &x.method {
        Some(method) => attributes.http(x, method.as_str()),
        None => {
            attributes.number("mesh.connection.received", x.request_bytes);
            attributes.number("mesh.connection.sent", x.response_bytes);
        }
    }
    if x.protocol == Protocol::Grpc {
        attributes.grpc(x);
    }
    attributes.network(x);
    attributes.mesh(x);
    // A path has no bound on its values; a gRPC method has one.
    let name = match &x.method {
        Some(_) if x.protocol == Protocol::Grpc => x.uri.path().trim_start_matches('/').to_owned(),
        Some(method) => method.to_string(),
        None => "tcp".to_owned(),
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
        attributes: attributes.0,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: match (&x.detail, x.is_failure()) {
            (Some(detail), true) => Status::error(detail.clone()),
            (None, true) => Status::error(format!("status {}", x.status)),
            _ if is_error(x) => Status::error(String::new()),
            _ => Status::Unset,
        },
        instrumentation_scope: InstrumentationScope::builder("inmesh").build(),
    }
}

/// The parts of an authority.
fn host_and_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (authority, None),
        },
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests;
