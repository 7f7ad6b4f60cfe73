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

    fn bytes(self) -> Option<&'h [u8]> {
        match self {
            Self::Once(value) => Some(value.as_bytes().trim_ascii()),
            Self::Absent | Self::Repeated => None,
        }
    }

    fn text(self) -> Option<&'h str> {
        std::str::from_utf8(self.bytes()?).ok()
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
            return Self::from_traceparent(w3c.bytes()?);
        }
        if matches!((b3, trace), (Field::Absent, Field::Absent)) {
            return None;
        }
        cold_path();
        if let Some(single) = b3.text() {
            return Self::from_b3(single);
        }
        let trace_id = b3_trace(trace.text()?)?;
        let span_id = b3_span(span.text()?)?;
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
        out[3..35].copy_from_slice(&self.trace_id_text());
        out[36..52].copy_from_slice(&write_hex(self.span_id));
        out[54] = b'0' + (u8::from(self.sampled) | u8::from(self.random) << 1);
        out
    }

    /// The trace's ID in digits, as logs have it.
    pub(super) fn trace_id_text(&self) -> [u8; 32] {
        let halves = [(self.trace_id >> 64) as u64, self.trace_id as u64];
        let [high, low] = halves.map(write_hex);
        std::array::from_fn(|n| if n < 16 { high[n] } else { low[n - 16] })
    }

    fn from_traceparent(text: &[u8]) -> Option<Self> {
        let version = hex_byte(text.get(0..2)?)?;
        let known = version == 0 && text.len() == 55;
        // A later version may append fields after a dash.
        let later = version > 0 && version < 0xff && matches!(text.get(55), None | Some(b'-'));
        let dashes = [2, 35, 52].iter().all(|&n| text.get(n) == Some(&b'-'));
        if !(known || later) || !dashes {
            return None;
        }
        let trace_id = hex_u128(text.get(3..35)?)?;
        let span_id = hex_u64(text.get(36..52)?)?;
        let flags = hex_byte(text.get(53..55)?)?;
        (trace_id != 0 && span_id != 0).then(|| Self {
            random: flags & 2 == 2,
            ..Self::new(trace_id, span_id, flags & 1 == 1)
        })
    }

    fn from_b3(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let trace_id = b3_trace(parts.next()?)?;
        let span_id = b3_span(parts.next()?)?;
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

/// `0x01` in each byte of a word.
const EACH: u64 = 0x0101_0101_0101_0101;

/// The digits of the values in the bytes of a word, each below 16: `0` and on, from 10 up `a` and on.
fn digits_of(values: u64) -> u64 {
    let letters = ((values + 6 * EACH) >> 4) & EACH;
    values + u64::from(b'0') * EACH + letters * u64::from(b'a' - b'9' - 1)
}

/// The sixteen digits of a number. Eight at a time: a loop over digits costs several times as much, and is
/// written for every request.
fn write_hex(number: u64) -> [u8; 16] {
    let half = |number: u32| {
        let mut values = u64::from(number);
        values = (values | values << 16) & 0x0000_ffff_0000_ffff;
        values = (values | values << 8) & 0x00ff_00ff_00ff_00ff;
        values = (values | values << 4) & 0x0f0f_0f0f_0f0f_0f0f;
        digits_of(values).to_be_bytes()
    };
    let [a, b] = [(number >> 32) as u32, number as u32].map(half);
    std::array::from_fn(|n| if n < 8 { a[n] } else { b[n - 8] })
}

/// The number of eight digits of lower case hexadecimal. Without a branch on a digit: those of an ID are
/// random, and each one guessed wrong costs as much as all of this.
fn hex_word(digits: &[u8; 8]) -> Option<u32> {
    let digits = u64::from_be_bytes(*digits);
    // Of a letter the sixth bit is set, and the low half counts from 1.
    let letters = (digits >> 6) & EACH;
    let mut values = (digits & (0x0f * EACH)) + letters * 9;
    // A byte that is no digit has a value of 16 and above, or is the digit of none.
    if values & (0xf0 * EACH) != 0 || digits_of(values) != digits {
        return None;
    }
    values = (values | values >> 4) & 0x00ff_00ff_00ff_00ff;
    values = (values | values >> 8) & 0x0000_ffff_0000_ffff;
    u32::try_from((values | values >> 16) & 0xffff_ffff).ok()
}

/// Sixteen digits of lower case hexadecimal, nothing else.
#[inline(never)]
fn hex_u64(text: &[u8]) -> Option<u64> {
    let (words, []) = text.as_chunks::<8>() else {
        return None;
    };
    let [high, low] = words else { return None };
    Some(u64::from(hex_word(high)?) << 32 | u64::from(hex_word(low)?))
}

fn hex_u128(text: &[u8]) -> Option<u128> {
    let (high, low) = text.split_at_checked(16)?;
    Some(u128::from(hex_u64(high)?) << 64 | u128::from(hex_u64(low)?))
}

/// Two digits.
fn hex_byte(text: &[u8]) -> Option<u8> {
    let digit = |b: &u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let [high, low] = text else { return None };
    Some(digit(high)? << 4 | digit(low)?)
}

/// B3 trace IDs have 64 or 128 bits.
fn b3_trace(text: &str) -> Option<u128> {
    let text = text.as_bytes();
    let id = match text.len() {
        16 => u128::from(hex_u64(text)?),
        _ => hex_u128(text)?,
    };
    (id != 0).then_some(id)
}

fn b3_span(text: &str) -> Option<u64> {
    hex_u64(text.as_bytes()).filter(|id| *id != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_digits_of_lower_case_and_nothing_else_are_a_number() {
        let text = *b"0123456789abcdef";
        for at in 0..16 {
            for byte in 0..=255 {
                let mut text = text;
                text[at] = byte;
                let is_digit = matches!(byte, b'0'..=b'9' | b'a'..=b'f');
                let wanted = is_digit.then(|| {
                    let text = std::str::from_utf8(&text).expect("digits");
                    u64::from_str_radix(text, 16).expect("digits")
                });
                assert_eq!(hex_u64(&text), wanted, "{byte} at {at}");
                assert_eq!(hex_byte(&[b'7', byte]).is_some(), is_digit);
                assert_eq!(hex_byte(&[byte, b'7']).is_some(), is_digit);
            }
        }
        assert_eq!(hex_byte(b"9f"), Some(0x9f));
        for text in [&text[..15], b"", b"0123456789abcdef0"] {
            assert_eq!(hex_u64(text), None);
        }
    }

    #[test]
    fn a_number_is_written_as_it_is_read() {
        let mut number = 1_u64;
        for _ in 0..1_000 {
            let text = write_hex(number);
            assert_eq!(text[..], *format!("{number:016x}").as_bytes());
            assert_eq!(hex_u64(&text), Some(number));
            number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(7);
        }
    }
}
