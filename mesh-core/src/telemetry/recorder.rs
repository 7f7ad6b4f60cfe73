//! Writes records: to metrics, and to the sinks that observe exchanges.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use inmesh_pki::clock::Clock;
use inmesh_pki::id::SpiffeId;

use super::exchange::{Direction, Exchange, Protocol};
use super::label::{Code, Grpc, Varying};
use super::metrics::Metrics;
use super::series::Series;
use super::trace::TraceContext;
use crate::error::{Error, Reason, Stage};

/// Observes exchanges: an access log, an exporter of spans, a live view, a test. A request that begins without
/// any sink is counted and not recorded: a sink that is added while it runs does not see its end.
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

    /// Whether it is shown beginnings. One that is not costs a request nothing as that begins.
    fn sees_begin(&self) -> bool {
        true
    }

    /// The exchange has ended, at this time of the wall clock. Called on the request's path: it
    /// must not block.
    fn record(&self, exchange: &Exchange, at: SystemTime);
}

/// The sinks of a runtime. They may change while it runs.
#[derive(Clone, Default)]
pub(crate) struct Sinks(Arc<SinkList>);

/// The sinks, and beside them whether there are any: most often there are none, and then a request
/// only reads that.
#[derive(Default)]
struct SinkList {
    all: ArcSwap<Vec<Arc<dyn ExchangeSink>>>,
    any: AtomicBool,
    /// Whether any of them sees beginnings.
    any_begin: AtomicBool,
    /// Held by what changes them.
    changing: Mutex<()>,
}

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
        let list = Self::default();
        list.change(|all| *all = sinks);
        list
    }

    /// Whether there is any.
    fn is_empty(&self) -> bool {
        !self.0.any.load(Ordering::Relaxed)
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<dyn ExchangeSink>>)) {
        let list = &*self.0;
        let _changing = list.changing.lock();
        let mut all = Vec::clone(&list.all.load());
        change(&mut all);
        let (any, begin) = (!all.is_empty(), all.iter().any(|sink| sink.sees_begin()));
        list.all.store(Arc::new(all));
        list.any.store(any, Ordering::Relaxed);
        list.any_begin.store(begin, Ordering::Relaxed);
    }

    /// Adds a sink for as long as the guard lives.
    pub(crate) fn add(&self, sink: Arc<dyn ExchangeSink>) -> SinkGuard {
        self.change(|all| all.push(Arc::clone(&sink)));
        SinkGuard {
            sinks: self.clone(),
            sink,
        }
    }
}

// === impl SinkGuard ===

impl Drop for SinkGuard {
    fn drop(&mut self) {
        self.sinks.change(|all| {
            if let Some(at) = all.iter().position(|s| Arc::ptr_eq(s, &self.sink)) {
                all.remove(at);
            }
        });
    }
}

impl fmt::Debug for Sinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sinks")
            .field(&self.0.all.load().len())
            .finish()
    }
}

impl fmt::Debug for SinkGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SinkGuard")
    }
}

// === impl Recorder ===

impl Recorder {
    /// Counts an HTTP exchange that has ended.
    pub(crate) fn count(&self, exchange: &Exchange, series: &Series) {
        let varying = Varying {
            protocol: exchange.protocol.label(),
            code: Code::of(exchange.status),
            grpc: exchange.grpc_status.map(Grpc::of),
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
    }

    /// A connection to a local workload has ended before it carried a request.
    pub(crate) fn refused(
        &self,
        direction: Direction,
        workload: &Arc<str>,
        from: SocketAddr,
        peer: Option<&SpiffeId>,
        reason: &'static str,
        error: &Error,
    ) {
        self.metrics.connection_failed(direction.as_str(), reason);
        let context = TraceContext::new(rand::random(), rand::random(), false);
        // A connection without its PROXY header is closed without an answer.
        let reason = error.reason();
        let http = reason.stage() == Stage::Accept && reason != Reason::ProxyHeader;
        let protocol = if http { Protocol::Http1 } else { Protocol::Tcp };
        let mut exchange = Exchange::new(direction, protocol, context);
        exchange.workload.share(workload);
        exchange.caller = Some(from);
        exchange.tls_peer = peer.cloned();
        exchange.failed(error);
        if http {
            exchange.status = reason.status().as_u16();
        }
        self.publish(&exchange);
    }

    /// Whether any sink sees exchanges, or the log at debug has them.
    pub(crate) fn is_watched(&self) -> bool {
        !self.sinks.is_empty() || tracing::enabled!(tracing::Level::DEBUG)
    }

    /// Shows the beginning of an exchange to the sinks.
    pub(crate) fn begin(&self, exchange: &Exchange) {
        if tracing::enabled!(tracing::Level::DEBUG) {
            log(exchange, "exchange began");
        }
        if self.sinks.0.any_begin.load(Ordering::Relaxed) {
            self.each(|sink, at| {
                if sink.sees_begin() {
                    sink.begin(exchange, at);
                }
            });
        }
    }

    /// Shows the end of an exchange to the sinks.
    pub(crate) fn publish(&self, exchange: &Exchange) {
        if tracing::enabled!(tracing::Level::DEBUG) {
            log(exchange, "exchange ended");
        }
        self.each(|sink, at| sink.record(exchange, at));
    }

    fn each(&self, see: impl Fn(&dyn ExchangeSink, SystemTime)) {
        if self.sinks.is_empty() {
            return;
        }
        let at = self.clock.now();
        for sink in self.sinks.0.all.load().iter() {
            see(&**sink, at);
        }
    }
}

/// A line of the log at debug, by which a request is followed through the agents: all its lines have
/// the trace. What a caller has sent is quoted, so that it makes no line of its own.
#[cold]
fn log(x: &Exchange, what: &'static str) {
    let trace_id = format_args!("{:032x}", x.trace.trace_id);
    let route = x.route.as_ref().map(|(key, rule)| format!("{key}[{rule}]"));
    tracing::debug!(
        %trace_id,
        direction = x.direction.as_str(),
        workload = &*x.workload,
        protocol = %x.protocol,
        method = x.method.as_ref().map(tracing::field::display),
        authority = tracing::field::debug(&x.authority),
        path = tracing::field::debug(x.uri.path()),
        caller = x.caller.as_ref().map(tracing::field::display),
        tls_peer = x.tls_peer.as_ref().map(tracing::field::display),
        service = &*x.service,
        route,
        endpoint = x.attempts.last().map(tracing::field::display),
        attempts = x.attempts.len(),
        status = x.status,
        grpc_status = x.grpc_status,
        reason = x.reason.map(Reason::as_str),
        detail = x.detail.as_ref().map(tracing::field::debug),
        policy = x.policy.as_ref().map(tracing::field::display),
        millis = x.duration.as_secs_f64() * 1_000.0,
        "{what}"
    );
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("sinks", &self.sinks.0.all.load().len())
            .finish()
    }
}
