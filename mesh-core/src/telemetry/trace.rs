//! Trace context: read, passed on, and joined from inbound to outbound within one process.
//!
//! W3C `traceparent` is read first, then B3 (single, then multi); what came in B3 is also
//! forwarded in B3. `tracestate` and `baggage` are the application's and pass as they are. The context of the
//! request being served is kept with its task, and so is when its caller will have given up;
//! [`propagate`] passes both to another.

use std::fmt;
use std::future::Future;
use std::hint::cold_path;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

/// `traceparent` (W3C Trace Context, section 3.2).
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");

/// A field that must stand in a message once.
#[derive(Clone, Copy)]
enum Field<'h> {
    Absent,
    Once(&'h HeaderValue),
    Repeated,
}

tokio::task_local! {
    static CURRENT: (TraceContext, Option<Instant>);
}

/// The place of one request in a trace.
///
/// ```
/// use http::HeaderMap;
/// use inmesh_core::telemetry::trace::TraceContext;
///
/// let mut headers = HeaderMap::new();
/// TraceContext::new(1, 2, true).child(3).write(&mut headers);
/// let read = TraceContext::read(&headers).expect("it was written");
/// assert_eq!((read.trace_id, read.span_id), (1, 3));
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceContext {
    /// The trace; never 0.
    pub trace_id: u128,
    /// The span that is the parent of what follows; never 0.
    pub span_id: u64,
    /// Whether spans of the trace are recorded.
    pub sampled: bool,
    /// Whether the trace's ID is random, as its maker says (level 2).
    random: bool,
    format: Format,
}

/// How the context came in; it is forwarded in W3C form and in this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    B3Multi,
    B3Single,
    W3c,
}

/// Passes the current trace context, and the deadline, to another task.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use inmesh_core::telemetry::trace;
/// let context = trace::TraceContext::new(1, 2, true);
/// let seen = context
///     .scope(async { tokio::spawn(trace::propagate(async { trace::current() })).await })
///     .await?;
/// assert_eq!(seen, Some(context));
/// # Ok::<(), tokio::task::JoinError>(())
/// # }).unwrap();
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn propagate<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let around = CURRENT.try_with(|around| *around).ok();
    async move {
        match around {
            Some(around) => CURRENT.scope(around, future).await,
            None => future.await,
        }
    }
}

/// The context of the request that this task serves, if it serves one.
pub fn current() -> Option<TraceContext> {
    CURRENT.try_with(|(context, _)| *context).ok()
}

/// When the caller of the request that this task serves gives up, if it has said so.
pub(crate) fn deadline() -> Option<Instant> {
    CURRENT.try_with(|(_, deadline)| *deadline).ok().flatten()
}

// === impl Field ===

impl<'h> Field<'h> {
    fn put(&mut self, value: &'h HeaderValue) {
        *self = match self {
            Self::Absent => Self::Once(value),
            Self::Once(_) | Self::Repeated => Self::Repeated,
        };
    }

    fn text(self) -> Option<&'h str> {
        match self {
            Self::Once(value) => value.to_str().ok().map(str::trim),
            Self::Absent | Self::Repeated => None,
        }
    }
}

// === impl TraceContext ===

impl TraceContext {
    /// A context. Zero, which no trace or span may be, is read as 1.
    pub fn new(trace_id: u128, span_id: u64, sampled: bool) -> Self {
        Self {
            trace_id: trace_id.max(1),
            span_id: span_id.max(1),
            sampled,
            random: false,
            format: Format::W3c,
        }
    }

    /// Reads the context of a message; `None` if it is absent or malformed, in which
    /// case a new trace begins (W3C Trace Context, section 4.3).
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        // One pass, because most messages have none of these fields and few others.
        let [mut w3c, mut b3] = [Field::Absent; 2];
        let [mut trace, mut span, mut sampled, mut flags] = [Field::Absent; 4];
        for (name, value) in headers {
            let field = match name.as_str() {
                "traceparent" => &mut w3c,
                "b3" => &mut b3,
                "x-b3-traceid" => &mut trace,
                "x-b3-spanid" => &mut span,
                "x-b3-sampled" => &mut sampled,
                "x-b3-flags" => &mut flags,
                _ => continue,
            };
            field.put(value);
        }
        if !matches!(w3c, Field::Absent) {
            return Self::from_traceparent(w3c.text()?);
        }
        if matches!((b3, trace), (Field::Absent, Field::Absent)) {
            return None;
        }
        cold_path();
        if let Some(single) = b3.text() {
            return Self::from_b3(single);
        }
        let trace_id = b3_trace(trace.text()?)?;
        let span_id = hex_u64(span.text()?)?;
        let sampled = matches!(sampled.text(), Some("1" | "true")) || flags.text() == Some("1");
        Some(Self {
            format: Format::B3Multi,
            ..Self::new(trace_id, span_id, sampled)
        })
    }

    /// The same trace with another span as the parent.
    #[must_use]
    pub fn child(mut self, span_id: u64) -> Self {
        self.span_id = span_id.max(1);
        self
    }

    /// Writes the context into a message, in place of one that is there.
    pub fn write(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_bytes(&self.traceparent()) {
            headers.insert(TRACEPARENT, value);
        }
        let sampled = u8::from(self.sampled);
        let (trace, span) = (self.trace_id, self.span_id);
        let mut put = |name: HeaderName, text: String| {
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(name, value);
            }
        };
        match self.format {
            Format::W3c => {}
            Format::B3Single => put(B3, format!("{trace:032x}-{span:016x}-{sampled}")),
            Format::B3Multi => {
                put(B3_TRACE, format!("{trace:032x}"));
                put(B3_SPAN, format!("{span:016x}"));
                put(B3_SAMPLED, format!("{sampled}"));
                headers.remove(B3_PARENT);
            }
        }
    }

    /// Runs a future as serving a request with this context: requests that it sends join it.
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        self.scope_until(deadline(), future)
    }

    /// The same for a request whose caller gives up at a moment.
    pub(crate) fn scope_until<F: Future>(
        self,
        deadline: Option<Instant>,
        future: F,
    ) -> impl Future<Output = F::Output> {
        CURRENT.scope((self, deadline), future)
    }

    /// Version 00, digit by digit: this is written for every request, and the general formatting
    /// of numbers costs ten times as much.
    fn traceparent(&self) -> [u8; 55] {
        let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut out[3..35], self.trace_id);
        write_hex(&mut out[36..52], u128::from(self.span_id));
        out[54] = b'0' + (u8::from(self.sampled) | u8::from(self.random) << 1);
        out
    }

    fn from_traceparent(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let version = hex(text.get(0..2)?)?;
        let known = version == 0 && bytes.len() == 55;
        // A later version may append fields after a dash.
        let later = version > 0 && version < 0xff && matches!(bytes.get(55), None | Some(b'-'));
        let dashes = [2, 35, 52].iter().all(|&n| bytes.get(n) == Some(&b'-'));
        if !(known || later) || !dashes {
            return None;
        }
        let trace_id =
            u128::from(hex(text.get(3..19)?)?) << 64 | u128::from(hex(text.get(19..35)?)?);
        let span_id = hex(text.get(36..52)?)?;
        let flags = hex(text.get(53..55)?)?;
        (trace_id != 0 && span_id != 0).then(|| Self {
            random: flags & 2 == 2,
            ..Self::new(trace_id, span_id, flags & 1 == 1)
        })
    }

    fn from_b3(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let trace_id = b3_trace(parts.next()?)?;
        let span_id = hex_u64(parts.next()?)?;
        let sampled = matches!(parts.next(), Some("1" | "d"));
        Some(Self {
            format: Format::B3Single,
            ..Self::new(trace_id, span_id, sampled)
        })
    }
}

/// As `traceparent` version 00.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.traceparent();
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Fills `out` with the last digits of a number.
fn write_hex(out: &mut [u8], mut value: u128) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 0xf) as usize];
        value >>= 4;
    }
}

/// The value of each digit of lower case hexadecimal; of another byte it is not below 16.
const DIGITS: [u8; 256] = {
    let mut digits = [0xff; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value as usize] as usize] = value;
        value += 1;
    }
    digits
};

/// At most 16 digits of lower case hexadecimal, nothing else. Without a branch on a digit: those of
/// an ID are random, and each one guessed wrong costs as much as all of this.
fn hex(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > 16 {
        return None;
    }
    let (value, all) = text.bytes().fold((0, 0), |(value, all), b| {
        let digit = DIGITS[usize::from(b)];
        (value << 4 | u64::from(digit & 0xf), all | digit)
    });
    (all < 16).then_some(value)
}

fn hex_u64(text: &str) -> Option<u64> {
    (text.len() == 16)
        .then(|| hex(text))
        .flatten()
        .filter(|id| *id != 0)
}

/// B3 trace IDs have 64 or 128 bits.
fn b3_trace(text: &str) -> Option<u128> {
    let id = match text.len() {
        16 => u128::from(hex(text)?),
        32 => u128::from(hex(text.get(..16)?)?) << 64 | u128::from(hex(text.get(16..)?)?),
        _ => return None,
    };
    (id != 0).then_some(id)
}
