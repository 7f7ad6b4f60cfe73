//! Telemetry: one record for each exchange, written once, at its end. A leaf: it knows no stage.
//!
//! In comes an [`Exchange`] when the last byte of the answer has gone or was lost; out go metrics
//! under Istio's standard names, a line of JSON and a span, whichever is asked for. Handles of
//! metrics are cached where they are used, so that a request hashes no labels. It refuses labels
//! that a caller controls, and more series than its bound.

mod access_log;
mod exchange;
mod exposition;
mod label;
mod metrics;
mod recorder;
mod samples;
mod scrape;
mod seldom;
mod series;
mod text;
pub mod trace;

pub use access_log::{AccessLog, AccessLogLines};
pub use exchange::{Direction, Exchange, Protocol};
pub use exposition::Exposition;
pub(crate) use label::{LabelText, Labels};
pub use metrics::Metrics;
pub use recorder::{ExchangeSink, SinkGuard};
pub(crate) use recorder::{Recorder, Sinks};
pub use samples::{Collect, Samples};
pub(crate) use seldom::Seldom;
pub(crate) use series::{Series, TcpCounters};
pub use text::{Attempted, SharedText};

#[cfg(test)]
mod tests;
