//! The access log: a line of JSON for each exchange, or a sample of them; failures always.
//!
//! Lines go through a bounded queue to the task that writes them; if it falls behind, lines are
//! dropped and counted, and no request waits. JSON escapes control characters, so no caller
//! can write a line of its own.

use std::io;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::ser::Formatter;
use time::OffsetDateTime;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::exchange::{Direction, Exchange};
use super::metrics::Metrics;
use super::recorder::ExchangeSink;
use super::seldom::Seldom;
use crate::drain::Drain;

/// How long lines gather before they are written in one go.
const PAUSE: Duration = Duration::from_millis(10);

/// Makes the lines.
#[derive(Debug)]
pub struct AccessLog {
    lines: mpsc::Sender<Vec<u8>>,
    sample: f64,
    metrics: Metrics,
    strangers: Seldom,
}

/// The lines to write, each ending in a newline.
#[derive(Debug)]
pub struct AccessLogLines(mpsc::Receiver<Vec<u8>>);

// === impl AccessLog ===

impl AccessLog {
    /// A log that keeps the share `sample` (0.0 to 1.0) of exchanges that went well and all that
    /// did not, with a queue of `capacity` lines.
    pub fn new(capacity: usize, sample: f64, metrics: &Metrics) -> (Self, AccessLogLines) {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        let log = Self {
            lines: sender,
            sample,
            metrics: metrics.clone(),
            strangers: Seldom::default(),
        };
        (log, AccessLogLines(receiver))
    }

    /// The line of an exchange, without the newline.
    pub fn line(exchange: &Exchange, at: SystemTime) -> Vec<u8> {
        Self::line_after(exchange, at, 0)
    }

    /// The same after `left_out` others of its kind that were not written.
    fn line_after(exchange: &Exchange, at: SystemTime, left_out: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        // Serializing strings and numbers into memory cannot fail.
        if write(&mut out, exchange, at, left_out).is_err() {
            out.clear();
        }
        out
    }
}

impl ExchangeSink for AccessLog {
    fn sees_begin(&self) -> bool {
        false
    }

    fn record(&self, exchange: &Exchange, at: SystemTime) {
        let keep = self.sample >= 1.0
            || exchange.reason.is_some()
            || exchange.is_failure()
            || exchange.status >= 400
            || rand::random::<f64>() < self.sample;
        if !keep {
            return;
        }
        let mut left_out = 0;
        if let Some(reason) = exchange.reason
            && exchange.is_of_a_stranger()
        {
            match self.strangers.admit(reason.as_str(), at) {
                Some(before) => left_out = before,
                None => return,
            }
        }
        let mut line = Self::line_after(exchange, at, left_out);
        line.push(b'\n');
        if self.lines.try_send(line).is_err() {
            self.metrics.log_dropped();
        }
    }
}

// === impl AccessLogLines ===

impl AccessLogLines {
    /// Waits for lines and appends all that are there to `buffer`; `false` at the end.
    pub async fn read(&mut self, buffer: &mut Vec<u8>) -> bool {
        let mut lines = Vec::new();
        let some = self.0.recv_many(&mut lines, 256).await > 0;
        for line in lines {
            buffer.extend_from_slice(&line);
        }
        some
    }

    /// Writes the lines until the log or the drain has ended; each time, all that have gathered.
    ///
    /// A write that fails is counted with its lines, and logged once until one succeeds again: on
    /// a full disk every write fails.
    pub(crate) async fn write_to(
        mut self,
        mut writer: impl AsyncWrite + Send + Unpin + 'static,
        mut drain: Drain,
        metrics: Metrics,
    ) {
        let mut buffer = Vec::new();
        let (mut closed, mut failing) = (false, false);
        while !closed {
            if failing {
                // What was written before may have ended within a line.
                buffer.push(b'\n');
            }
            closed = tokio::select! {
                biased;
                some = self.read(&mut buffer) => !some,
                () = drain.closed() => true,
            };
            if closed {
                self.rest(&mut buffer);
            }
            let written = async {
                writer.write_all(&buffer).await?;
                writer.flush().await
            };
            let failed = written.await.err();
            if let Some(error) = &failed {
                metrics.log_failed();
                if !failing {
                    tracing::warn!(%error, "the access log cannot be written; lines are lost");
                }
            } else if failing {
                tracing::info!("the access log is written again");
            }
            failing = failed.is_some();
            buffer.clear();
            if !closed {
                // Lines that come meanwhile are written at once.
                sleep(PAUSE).await;
            }
        }
    }

    /// Appends the lines that are there, without waiting.
    pub fn rest(&mut self, buffer: &mut Vec<u8>) {
        while let Ok(line) = self.0.try_recv() {
            buffer.extend_from_slice(&line);
        }
    }
}

/// JSON of which every character can be shown: it leaves no control character as it is, not those
/// of C1 nor DEL either, which a terminal obeys as much as the ones that JSON itself forbids.
struct Printable;

impl Formatter for Printable {
    fn write_string_fragment<W>(&mut self, out: &mut W, text: &str) -> io::Result<()>
    where
        W: ?Sized + io::Write,
    {
        // Nearly every text is printable ASCII, which its bytes show at once.
        if text.bytes().all(|b| matches!(b, b' '..=b'~')) {
            return out.write_all(text.as_bytes());
        }
        let mut rest = text;
        while let Some(at) = rest.find(|c: char| c.is_control()) {
            let (plain, control) = rest.split_at(at);
            out.write_all(plain.as_bytes())?;
            let mut tail = control.chars();
            if let Some(c) = tail.next() {
                write!(out, "\\u{:04x}", u32::from(c))?;
            }
            rest = tail.as_str();
        }
        out.write_all(rest.as_bytes())
    }
}

/// A moment in UTC with microseconds (RFC 3339), each digit in its place: every line has one.
fn rfc3339(at: SystemTime) -> [u8; 27] {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    // A moment beyond the year 9999 has no such form.
    let t = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = t.to_calendar_date();
    let (hour, minute, second) = t.to_hms();
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    for (place, mut number) in [
        (0..4, year.unsigned_abs()),
        (5..7, u8::from(month).into()),
        (8..10, day.into()),
        (11..13, hour.into()),
        (14..16, minute.into()),
        (17..19, second.into()),
        (20..26, since.subsec_micros()),
    ] {
        for digit in text[place].iter_mut().rev() {
            *digit += (number % 10).to_le_bytes()[0];
            number /= 10;
        }
    }
    text
}

/// A line in the making, which is an object of JSON. What needs no escape is copied: keys, and most values.
struct Line<'o>(&'o mut Vec<u8>);

// === impl Line ===

impl Line<'_> {
    fn key(&mut self, key: &'static str) {
        let first = self.0.is_empty();
        self.0
            .extend_from_slice(if first { b"{\"" } else { b",\"" });
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn text(&mut self, key: &'static str, text: &str) -> Result<(), serde_json::Error> {
        self.key(key);
        // All bytes are looked at, many at a time: most texts are plain.
        let plain = text.bytes().fold(true, |plain, b| {
            plain & matches!(b, b' '..=b'~') & (b != b'"') & (b != b'\\')
        });
        if !plain {
            let mut json = serde_json::Serializer::with_formatter(&mut *self.0, Printable);
            return text.serialize(&mut json);
        }
        self.0.push(b'"');
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(b'"');
        Ok(())
    }

    /// Numbers, addresses and what else has no text of a caller.
    fn value(
        &mut self,
        key: &'static str,
        value: &impl Serialize,
    ) -> Result<(), serde_json::Error> {
        self.key(key);
        serde_json::to_writer(&mut *self.0, value)
    }

    fn end(self) {
        self.0.push(b'}');
    }
}

fn write(
    out: &mut Vec<u8>,
    x: &Exchange,
    at: SystemTime,
    left_out: u64,
) -> Result<(), serde_json::Error> {
    let mut line = Line(out);
    let timestamp = rfc3339(at);
    line.text("timestamp", str::from_utf8(&timestamp).unwrap_or_default())?;
    line.text("direction", x.direction.as_str())?;
    if !x.workload.is_empty() {
        line.text("workload", &x.workload)?;
    }
    line.text("protocol", x.protocol.as_str())?;
    if let Some(method) = &x.method {
        line.text("method", method.as_str())?;
        line.text("authority", &x.authority)?;
        line.text("path", x.uri.path())?;
    }
    line.value("status", &x.status)?;
    if let Some(grpc) = x.grpc_status {
        line.value("grpc_status", &grpc)?;
    }
    line.value("duration_ms", &(x.duration.as_secs_f64() * 1_000.0))?;
    line.value("request_bytes", &x.request_bytes)?;
    line.value("response_bytes", &x.response_bytes)?;
    if let Some(caller) = &x.caller {
        line.value("caller", caller)?;
    }
    match &x.tls_peer {
        Some(id) => line.text("tls_peer", id.as_str())?,
        None => line.value("tls_peer", &())?,
    }
    if x.direction == Direction::Outbound {
        line.text("service", &x.service)?;
        if let Some((route, rule)) = &x.route {
            line.text("route", &route.to_string())?;
            line.value("rule", rule)?;
        }
        line.value("endpoint", &x.attempts.last())?;
        line.value("retries", &x.attempts.len().saturating_sub(1))?;
        if x.attempts.len() > 1 {
            line.value("attempt_endpoints", &&*x.attempts)?;
        }
    }
    if let Some(reason) = x.reason {
        line.text("reason", reason.as_str())?;
    }
    if let Some(detail) = &x.detail {
        line.text("detail", detail)?;
    }
    if left_out > 0 {
        line.value("left_out", &left_out)?;
    }
    if let Some(policy) = &x.policy {
        line.text("policy", &policy.to_string())?;
    }
    let trace_id = x.trace.trace_id_text();
    line.text("trace_id", str::from_utf8(&trace_id).unwrap_or_default())?;
    if let Some(agent) = x.user_agent.as_ref().and_then(|a| a.to_str().ok()) {
        line.text("user_agent", agent)?;
    }
    line.end();
    Ok(())
}
