//! What is counted while a scenario runs, and what comes out of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::scenario::Scenario;
use super::server::nanos;
use crate::balance::EndpointSet;
use crate::error::Reason;
use crate::model::ServiceName;

/// The longest latency that is counted as such, in microseconds; longer ones count as it.
const LONGEST: u64 = 3_600_000_000;

/// How a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With an answer of this status.
    Answered(u16),
    /// With an answer of this gRPC status.
    Grpc(u8),
    /// The mesh answers in place of the server.
    Mesh(Reason),
    /// Not at all, before the simulation was over.
    Open,
}

/// What a scenario has come to.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Outcome {
    /// What everything was drawn from.
    pub seed: u64,
    /// All of it.
    pub whole: Tally,
    /// The windows, in their order.
    pub windows: Vec<Tally>,
    /// How long each column of the time line is.
    pub column_millis: u64,
    /// The time line.
    pub timeline: Vec<Column>,
    /// The endpoints, in the order of the columns' parts.
    pub endpoints: Vec<EndpointSeen>,
    /// The most endpoints of one set that were ejected at once, and how many could be chosen from.
    pub most_ejected: (usize, usize),
}

/// What was counted in a time.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Tally {
    /// Its begin.
    pub from_millis: u64,
    /// Its end.
    pub to_millis: u64,
    /// Requests that ended in it.
    pub requests: u64,
    /// Those with a status below 400, and with the gRPC status 0 or none.
    pub succeeded: u64,
    /// The same of a hundred; 100 where there were no requests.
    pub success_percent: f64,
    /// Attempts that began in it, those of copies left out.
    pub attempts: u64,
    /// Attempts for each request that was sent for the first time; 1 where there was none.
    pub amplification: f64,
    /// Copies that were sent.
    pub copies: u64,
    /// How often an endpoint was ejected.
    pub ejections: u64,
    /// How requests ended: `200`, `grpc 14`, `503 no-endpoint`.
    pub ends: BTreeMap<String, u64>,
    /// How long requests took, whatever their end.
    pub latency: Latencies,
    /// The attempts at each endpoint.
    pub endpoints: BTreeMap<SocketAddr, u64>,
}

/// How long requests took, in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[non_exhaustive]
pub struct Latencies {
    /// Half of them took no longer.
    pub p50_micros: u64,
    /// 90 % took no longer.
    pub p90_micros: u64,
    /// 99 % took no longer.
    pub p99_micros: u64,
    /// 99.9 % took no longer.
    pub p999_micros: u64,
    /// The longest.
    pub max_micros: u64,
}

/// A part of the time line.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Column {
    /// Requests that ended in it.
    pub requests: u64,
    /// Those that succeeded.
    pub succeeded: u64,
    /// Half of them took no longer, in microseconds.
    pub p50_micros: u64,
    /// 99 % took no longer.
    pub p99_micros: u64,
    /// The attempts at each endpoint.
    pub attempts: Vec<u64>,
    /// The most callers at once, of a hundred, that had each endpoint ejected.
    pub ejected_percent: Vec<u8>,
    /// Whether a caller used all endpoints of a set, because too few were left.
    pub panic: bool,
}

/// An endpoint of a run.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct EndpointSeen {
    /// Its address.
    pub address: SocketAddr,
    /// The Services that it is of.
    pub services: Vec<String>,
}

/// What is counted while a scenario runs.
pub(super) struct Recorder {
    whole: Count,
    windows: Vec<Count>,
    columns: Vec<Column>,
    /// Nanoseconds.
    column: u64,
    /// The latencies of the column of the moment, and which that is.
    now: (Histogram<u64>, usize),
    most_ejected: (usize, usize),
}

/// What is counted in a time, in nanoseconds.
struct Count {
    from: u64,
    to: u64,
    requests: u64,
    succeeded: u64,
    sent: u64,
    attempts: u64,
    copies: u64,
    ejections: u64,
    /// Few kinds of ends are met.
    ends: Vec<(End, u64)>,
    latency: Histogram<u64>,
    endpoints: Vec<u64>,
}

// === impl End ===

impl End {
    fn is_success(self) -> bool {
        match self {
            Self::Answered(status) => status < 400,
            Self::Grpc(code) => code == 0,
            Self::Mesh(_) | Self::Open => false,
        }
    }

    fn name(self) -> String {
        match self {
            Self::Answered(status) => status.to_string(),
            Self::Grpc(code) => format!("grpc {code}"),
            Self::Mesh(reason) => format!("{} {}", reason.status().as_u16(), reason.as_str()),
            Self::Open => "unanswered".into(),
        }
    }
}

// === impl Recorder ===

impl Recorder {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let end = nanos(scenario.duration);
        let columns = u64::try_from(scenario.columns).unwrap_or(1).max(1);
        let windows = scenario.windows.iter();
        Self {
            // What ends after the last request has come counts as well.
            whole: Count::new(0, u64::MAX),
            windows: windows
                .map(|(from, to)| Count::new(nanos(*from), nanos(*to)))
                .collect(),
            columns: vec![Column::default(); scenario.columns],
            column: end.div_ceil(columns).max(1),
            now: (histogram(2), 0),
            most_ejected: (0, 0),
        }
    }

    /// An attempt begins.
    pub(super) fn attempt(&mut self, now: u64, server: usize, first: bool, copy: bool) {
        self.each(now, |count| {
            if copy {
                count.copies += 1;
                return;
            }
            count.attempts += 1;
            count.sent += u64::from(first);
            add(&mut count.endpoints, server);
        });
        if !copy && let Some(column) = self.column(now) {
            add(&mut column.attempts, server);
        }
    }

    /// A request ends.
    pub(super) fn ended(&mut self, now: u64, end: End, took: u64) {
        let (micros, success) = (took / 1_000, end.is_success());
        self.each(now, |count| {
            count.requests += 1;
            count.succeeded += u64::from(success);
            match count.ends.iter_mut().find(|(of, _)| *of == end) {
                Some((_, times)) => *times += 1,
                None => count.ends.push((end, 1)),
            }
            count.latency.saturating_record(micros);
        });
        self.turn_to(now);
        if let Some(column) = self.column(now) {
            column.requests += 1;
            column.succeeded += u64::from(success);
            self.now.0.saturating_record(micros);
        }
    }

    /// An endpoint of a set was ejected.
    pub(super) fn ejected(&mut self, now: u64, set: &EndpointSet) {
        self.each(now, |count| count.ejections += 1);
        let (out, of) = (set.ejected_len(), set.ready_len());
        let (most, of_most) = self.most_ejected;
        if out * of_most.max(1) >= most * of.max(1) {
            self.most_ejected = (out, of);
        }
    }

    /// How many callers of a hundred have endpoints ejected at the moment, and whether one panics.
    pub(super) fn sampled(&mut self, now: u64, ejected: &[u8], panic: bool) {
        let Some(column) = self.column(now) else {
            return;
        };
        column.panic |= panic;
        column
            .ejected_percent
            .resize(ejected.len().max(column.ejected_percent.len()), 0);
        for (most, now) in column.ejected_percent.iter_mut().zip(ejected) {
            *most = (*most).max(*now);
        }
    }

    /// What has come out. `places` are the endpoints in their order.
    pub(super) fn outcome(
        mut self,
        scenario: &Scenario,
        places: &[(SocketAddr, Vec<ServiceName>)],
    ) -> Outcome {
        self.turn_to(u64::MAX);
        for column in &mut self.columns {
            column.attempts.resize(places.len(), 0);
            column.ejected_percent.resize(places.len(), 0);
        }
        self.whole.to = nanos(scenario.duration);
        let seen = places.iter().map(|(address, services)| EndpointSeen {
            address: *address,
            services: services.iter().map(ToString::to_string).collect(),
        });
        Outcome {
            seed: scenario.seed,
            whole: self.whole.tally(places),
            windows: self
                .windows
                .iter()
                .map(|count| count.tally(places))
                .collect(),
            column_millis: self.column / 1_000_000,
            timeline: self.columns,
            endpoints: seen.collect(),
            most_ejected: self.most_ejected,
        }
    }

    fn each(&mut self, now: u64, mut count: impl FnMut(&mut Count)) {
        count(&mut self.whole);
        for window in &mut self.windows {
            if (window.from..window.to).contains(&now) {
                count(window);
            }
        }
    }

    /// The column of a moment; what comes after the last request is in the last.
    fn column(&mut self, now: u64) -> Option<&mut Column> {
        let nth = self.nth(now);
        self.columns.get_mut(nth)
    }

    fn nth(&self, now: u64) -> usize {
        let last = self.columns.len().saturating_sub(1);
        usize::try_from(now / self.column).unwrap_or(last).min(last)
    }

    /// Another column begins: the latencies of the one before are known.
    fn turn_to(&mut self, now: u64) {
        let nth = self.nth(now);
        let (latency, current) = &mut self.now;
        if nth == *current && now != u64::MAX {
            return;
        }
        if let Some(column) = self.columns.get_mut(*current) {
            column.p50_micros = latency.value_at_quantile(0.5);
            column.p99_micros = latency.value_at_quantile(0.99);
        }
        latency.reset();
        *current = nth;
    }
}

// === impl Count ===

impl Count {
    fn new(from: u64, to: u64) -> Self {
        Self {
            from,
            to,
            requests: 0,
            succeeded: 0,
            sent: 0,
            attempts: 0,
            copies: 0,
            ejections: 0,
            ends: Vec::new(),
            latency: histogram(3),
            endpoints: Vec::new(),
        }
    }

    fn tally(&self, places: &[(SocketAddr, Vec<ServiceName>)]) -> Tally {
        let at = |quantile: f64| self.latency.value_at_quantile(quantile);
        let millis = |nanos: u64| nanos / 1_000_000;
        let ends = self.ends.iter().map(|(end, times)| (end.name(), *times));
        let places = places.iter().enumerate().map(|(nth, (address, _))| {
            let attempts = self.endpoints.get(nth).copied();
            (*address, attempts.unwrap_or_default())
        });
        Tally {
            from_millis: millis(self.from),
            to_millis: millis(self.to),
            requests: self.requests,
            succeeded: self.succeeded,
            success_percent: 100.0 * quotient(self.succeeded, self.requests),
            attempts: self.attempts,
            amplification: quotient(self.attempts, self.sent),
            copies: self.copies,
            ejections: self.ejections,
            ends: ends.collect(),
            latency: Latencies {
                p50_micros: at(0.5),
                p90_micros: at(0.9),
                p99_micros: at(0.99),
                p999_micros: at(0.999),
                max_micros: self.latency.max(),
            },
            endpoints: places.collect(),
        }
    }
}

/// 1 where there is nothing to divide by.
fn quotient(part: u64, of: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let quotient = part as f64 / of as f64;
    if of == 0 { 1.0 } else { quotient }
}

fn add(counts: &mut Vec<u64>, nth: usize) {
    if nth >= counts.len() {
        counts.resize(nth + 1, 0);
    }
    counts[nth] += 1;
}

/// Microseconds, exact to so many digits.
fn histogram(digits: u8) -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, digits).expect("the bounds are in order")
}

impl Tally {
    /// How long it was.
    #[must_use]
    pub fn length(&self) -> Duration {
        Duration::from_millis(self.to_millis.saturating_sub(self.from_millis))
    }
}
