//! Writes records: to metrics, and to the sinks that observe exchanges.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use inmesh_pki::clock::Clock;
use inmesh_pki::id::SpiffeId;

use super::exchange::{Direction, Exchange, Protocol};
use super::metrics::{Metrics, Series, Varying};
use super::trace::TraceContext;
use crate::error::{Error, Reason, Stage};

/// Observes exchanges: an access log, an exporter of spans, a live view, a test.
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use std::time::SystemTime;
///
/// use inmesh_core::telemetry::{Exchange, ExchangeSink};
///
/// #[derive(Default)]
/// struct Failures(AtomicUsize);
///
/// impl ExchangeSink for Failures {
///     fn record(&self, exchange: &Exchange, _at: SystemTime) {
///         self.0.fetch_add(usize::from(exchange.is_failure()), Ordering::Relaxed);
///     }
/// }
/// ```
pub trait ExchangeSink: Send + Sync + 'static {
    /// The exchange has begun, at this time of the wall clock: a request was read and is about to
    /// be decided on, or an opaque connection is open to both sides. Called on the request's path:
    /// it must not block.
    fn begin(&self, _exchange: &Exchange, _at: SystemTime) {}

    /// The exchange has ended, at this time of the wall clock. Called on the request's path: it
    /// must not block.
    fn record(&self, exchange: &Exchange, at: SystemTime);
}

/// The sinks of a runtime. They may change while it runs.
#[derive(Clone, Default)]
pub(crate) struct Sinks(Arc<ArcSwap<Vec<Arc<dyn ExchangeSink>>>>);

/// Keeps a sink that was added at run time; dropping it removes the sink.
#[must_use]
pub struct SinkGuard {
    sinks: Sinks,
    sink: Arc<dyn ExchangeSink>,
}

/// Writes the records of one runtime.
pub(crate) struct Recorder {
    pub(crate) metrics: Metrics,
    pub(crate) sinks: Sinks,
    pub(crate) clock: Arc<dyn Clock>,
    /// The share of traces that begin here which is sampled.
    pub(crate) trace_sample: f64,
}

// === impl Sinks ===

impl Sinks {
    pub(crate) fn new(sinks: Vec<Arc<dyn ExchangeSink>>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(sinks)))
    }

    /// Adds a sink for as long as the guard lives.
    pub(crate) fn add(&self, sink: Arc<dyn ExchangeSink>) -> SinkGuard {
        self.0.rcu(|sinks| {
            let mut sinks = Vec::clone(sinks);
            sinks.push(Arc::clone(&sink));
            sinks
        });
        SinkGuard {
            sinks: self.clone(),
            sink,
        }
    }
}

// === impl SinkGuard ===

impl Drop for SinkGuard {
    fn drop(&mut self) {
        self.sinks.0.rcu(|sinks| {
            let mut sinks = Vec::clone(sinks);
            if let Some(at) = sinks.iter().position(|s| Arc::ptr_eq(s, &self.sink)) {
                sinks.remove(at);
            }
            sinks
        });
    }
}

impl fmt::Debug for SinkGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SinkGuard")
    }
}

// === impl Recorder ===

impl Recorder {
    /// Counts an HTTP exchange that has ended, and shows it to the sinks.
    pub(crate) fn record(&self, exchange: &Exchange, series: &Series) {
        let varying = Varying {
            protocol: exchange.protocol.label(),
            code: exchange.status,
            grpc: exchange.grpc_status,
            flags: exchange.reason.map_or("-", Reason::flags),
            mutual_tls: exchange.tls_peer.is_some(),
        };
        self.metrics.exchange(
            series,
            varying,
            exchange.duration,
            exchange.request_bytes,
            exchange.response_bytes,
        );
        self.publish(exchange);
    }

    /// A connection has ended before it carried a request.
    pub(crate) fn refused(
        &self,
        direction: Direction,
        from: SocketAddr,
        peer: Option<&SpiffeId>,
        reason: &'static str,
        error: &Error,
    ) {
        self.metrics.connection_failed(direction.as_str(), reason);
        let context = TraceContext::new(rand::random(), rand::random(), false);
        let http = error.reason().stage() == Stage::Accept;
        let protocol = if http { Protocol::Http1 } else { Protocol::Tcp };
        let mut exchange = Exchange::new(direction, protocol, context);
        exchange.caller = Some(from);
        exchange.tls_peer = peer.cloned();
        exchange.failed(error);
        if http {
            exchange.status = error.reason().status().as_u16();
        }
        self.publish(&exchange);
    }

    /// Shows the beginning of an exchange to the sinks.
    pub(crate) fn begin(&self, exchange: &Exchange) {
        self.each(|sink, at| sink.begin(exchange, at));
    }

    /// Shows the end of an exchange to the sinks.
    pub(crate) fn publish(&self, exchange: &Exchange) {
        self.each(|sink, at| sink.record(exchange, at));
    }

    fn each(&self, see: impl Fn(&dyn ExchangeSink, SystemTime)) {
        let sinks = self.sinks.0.load();
        if !sinks.is_empty() {
            let at = self.clock.now();
            for sink in sinks.iter() {
                see(&**sink, at);
            }
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("sinks", &self.sinks.0.load().len())
            .finish()
    }
}
