//! Telemetry: one record for each exchange, written once, at its end. A leaf: it knows no stage.
//!
//! In comes an [`Exchange`] when the last byte of the answer has gone or was lost; out go metrics
//! under Istio's standard names, a line of JSON and a span, whichever is asked for. Handles of
//! metrics are cached where they are used, so that a request hashes no labels. It refuses labels
//! that a caller controls, and more series than its bound.

mod access_log;
mod exchange;
mod metrics;
mod recorder;
mod samples;
pub mod trace;

pub use access_log::{AccessLog, AccessLogLines};
pub use exchange::{Direction, Exchange, Protocol};
pub use metrics::Metrics;
pub(crate) use metrics::{LabelText, Series, TcpCounters};
pub use recorder::{ExchangeSink, SinkGuard};
pub(crate) use recorder::{Recorder, Sinks};
pub use samples::{Collect, Samples};

#[cfg(test)]
mod tests;
