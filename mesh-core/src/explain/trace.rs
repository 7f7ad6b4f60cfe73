//! The place of a request in a trace, which each agent writes last, whatever filters say.

use http::{HeaderMap, HeaderName, HeaderValue};

/// In place of a value that is drawn for each request that is sent.
const OWN: HeaderValue = HeaderValue::from_static("(the agent's own)");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// It belongs to a trace that ends where its parent cannot be read (W3C Trace Context, section 3.3).
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The fields that the agent writes into a request.
#[derive(Debug)]
pub(super) struct Trace(HeaderMap);

// === impl Trace ===

impl Trace {
    /// Looks at a request as it came, and takes from it what belongs to no trace.
    pub(super) fn of(headers: &mut HeaderMap) -> Self {
        let own = written(headers);
        if own.is_none() {
            headers.remove(TRACESTATE);
        }
        Self(own.unwrap_or_else(|| HeaderMap::from_iter([(TRACEPARENT, OWN)])))
    }

    /// Writes the fields in place of those that are there.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        for name in self.0.keys() {
            headers.insert(name, OWN);
        }
    }
}

/// What is written into a request that is of a trace; `None` if it is of none.
#[cfg(feature = "runtime")]
fn written(headers: &HeaderMap) -> Option<HeaderMap> {
    let mut written = HeaderMap::new();
    crate::telemetry::trace::TraceContext::read(headers)?.write(&mut written);
    Some(written)
}

/// Without a runtime nothing is sent.
#[cfg(not(feature = "runtime"))]
fn written(_: &HeaderMap) -> Option<HeaderMap> {
    None
}
