//! Series of exchanges: counters and distributions by Istio's labels, without a lock where they are
//! counted, and bounded by the bytes of text that they cost a scrape.
//!
//! A scrape copies the list of series, which is one pointer each, and then reads numbers that are
//! only ever added to: it holds nothing that an exchange waits for. A series that would exceed the
//! bound is counted under the labels `overflow`; where only its distributions would, they alone are.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::label::{Labels, Varying, cost, overflowing, tcp_labels};

/// The text of all counters, and of all distributions, in bytes. Together with the rest a scrape
/// stays at about 32 MiB, for which Prometheus needs below a second.
const COUNTER_TEXT: usize = 8 << 20;
const DISTRIBUTION_TEXT: usize = 24 << 20;

pub(super) const MILLISECONDS: [f64; 15] = [
    0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0,
    30_000.0,
];
pub(super) const BYTES: [f64; 8] = [
    10.0,
    100.0,
    1_000.0,
    10_000.0,
    100_000.0,
    1_000_000.0,
    10_000_000.0,
    100_000_000.0,
];
/// The lines of all distributions of a series: bounds, `+Inf`, sum and count.
const DISTRIBUTION_LINES: usize = MILLISECONDS.len() + 2 * BYTES.len() + 3 * 3;
/// The lines of the counters of opaque connections.
const TCP_LINES: usize = 4;

/// The exchanges that share all labels but those of [`Varying`], with their cached handles.
pub(crate) struct Series {
    labels: Labels,
    http: RwLock<Vec<(Varying, Arc<HttpSeries>)>>,
    tcp: RwLock<Option<TcpCounters>>,
}

/// The numbers of HTTP exchanges with the same labels.
pub(super) struct HttpSeries {
    pub(super) labels: Labels,
    pub(super) requests: AtomicU64,
    distributions: Where,
}

/// Where the distributions of a series are counted.
enum Where {
    /// With those of the series that find no room, for they would be too much text.
    Elsewhere(Arc<HttpSeries>),
    Here(Box<Distributions>),
}

/// How long exchanges took and how large they were.
#[derive(Default)]
pub(super) struct Distributions {
    /// In microseconds.
    pub(super) duration: Distribution<{ MILLISECONDS.len() }>,
    pub(super) request_bytes: Distribution<{ BYTES.len() }>,
    pub(super) response_bytes: Distribution<{ BYTES.len() }>,
}

/// Values counted between bounds.
pub(super) struct Distribution<const N: usize> {
    /// How many values lie below each bound and not below the one before.
    counts: [AtomicU64; N],
    above: AtomicU64,
    sum: AtomicU64,
}

/// The counters of opaque connections with the same labels.
#[derive(Debug, Clone)]
pub(crate) struct TcpCounters(Arc<TcpSeries>);

#[derive(Debug)]
pub(super) struct TcpSeries {
    pub(super) labels: Labels,
    pub(super) opened: AtomicU64,
    pub(super) closed: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

/// All series.
#[derive(Default)]
pub(super) struct AllSeries {
    pub(super) http: Table<HttpSeries>,
    pub(super) tcp: Table<TcpSeries>,
    counter_text: AtomicUsize,
    distribution_text: AtomicUsize,
}

/// Series by their labels.
pub(super) struct Table<S>(Mutex<HashMap<Labels, Arc<S>>>);

// === impl Distribution ===

impl<const N: usize> Distribution<N> {
    /// Counts `value`, which is added to the sum as `parts`.
    fn observe(&self, bounds: &[f64; N], value: f64, parts: u64) {
        let at = bounds.partition_point(|bound| *bound < value);
        let count = self.counts.get(at).unwrap_or(&self.above);
        count.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(parts, Ordering::Relaxed);
    }

    /// The counts with their upper bounds, the last of which is infinite, and the sum.
    pub(super) fn read(&self, bounds: &[f64; N]) -> (Vec<(f64, u64)>, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = bounds.iter().copied().zip(self.counts.iter().map(load));
        let counts = counts.chain([(f64::INFINITY, load(&self.above))]).collect();
        (counts, load(&self.sum))
    }
}

impl<const N: usize> Default for Distribution<N> {
    fn default() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; N],
            above: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }
}

// === impl HttpSeries ===

impl HttpSeries {
    fn new(labels: Labels, distributions: Where) -> Self {
        Self {
            labels,
            requests: AtomicU64::new(0),
            distributions,
        }
    }

    fn count(&self, took: Duration, request_bytes: u64, response_bytes: u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut at = self;
        let distributions = loop {
            match &at.distributions {
                Where::Elsewhere(other) => at = other,
                Where::Here(distributions) => break distributions,
            }
        };
        distributions.observe(took, request_bytes, response_bytes);
    }

    /// Its distributions, if it has some of its own.
    pub(super) fn distributions(&self) -> Option<&Distributions> {
        match &self.distributions {
            Where::Elsewhere(_) => None,
            Where::Here(distributions) => Some(distributions),
        }
    }
}

// === impl Distributions ===

impl Distributions {
    fn observe(&self, took: Duration, request_bytes: u64, response_bytes: u64) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let millis = took.as_secs_f64() * 1_000.0;
        self.duration.observe(&MILLISECONDS, millis, micros);
        for (sizes, size) in [
            (&self.request_bytes, request_bytes),
            (&self.response_bytes, response_bytes),
        ] {
            #[expect(clippy::cast_precision_loss, reason = "a size beside bounds")]
            sizes.observe(&BYTES, size as f64, size);
        }
    }
}

// === impl TcpSeries ===

impl TcpSeries {
    fn new(labels: Labels) -> Self {
        Self {
            labels,
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        }
    }
}

// === impl TcpCounters ===

impl TcpCounters {
    /// Counts bytes from and to the caller.
    pub(crate) fn add(&self, received: u64, sent: u64) {
        if received > 0 {
            self.0.received.fetch_add(received, Ordering::Relaxed);
        }
        if sent > 0 {
            self.0.sent.fetch_add(sent, Ordering::Relaxed);
        }
    }

    /// Counts the end of the connection.
    pub(crate) fn closed(&self) {
        self.0.closed.fetch_add(1, Ordering::Relaxed);
    }
}

// === impl Series ===

impl Series {
    pub(crate) fn new(labels: Labels) -> Self {
        Self {
            labels,
            http: RwLock::default(),
            tcp: RwLock::default(),
        }
    }

    /// The labels that all its exchanges share.
    #[cfg(test)]
    pub(crate) fn labels(&self) -> &Labels {
        &self.labels
    }
}

impl fmt::Debug for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Series").field(&self.labels).finish()
    }
}

// === impl Table ===

impl<S> Default for Table<S> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<S> Table<S> {
    fn find(&self, labels: &Labels) -> Option<Arc<S>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(labels).map(Arc::clone)
    }

    /// The series of these labels; made if it is absent.
    fn get(&self, labels: Labels, make: impl FnOnce(Labels) -> S) -> Arc<S> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let series = known.entry(labels);
        let make = |labels: &Labels| Arc::new(make(labels.clone()));
        Arc::clone(series.or_insert_with_key(make))
    }

    /// All series, each as a pointer.
    pub(super) fn all(&self) -> Vec<Arc<S>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().map(Arc::clone).collect()
    }
}

// === impl AllSeries ===

impl AllSeries {
    /// Counts one HTTP exchange that has ended.
    pub(super) fn exchange(
        &self,
        series: &Series,
        varying: Varying,
        took: Duration,
        request_bytes: u64,
        response_bytes: u64,
    ) {
        {
            let cached = series.http.read().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, numbers)) = cached.iter().find(|(of, _)| *of == varying) {
                return numbers.count(took, request_bytes, response_bytes);
            }
        }
        let numbers = self.http(&series.labels, varying);
        numbers.count(took, request_bytes, response_bytes);
        let mut cached = series.http.write().unwrap_or_else(PoisonError::into_inner);
        if !cached.iter().any(|(of, _)| *of == varying) {
            cached.push((varying, numbers));
        }
    }

    fn http(&self, base: &Labels, varying: Varying) -> Arc<HttpSeries> {
        let labels = varying.labels(base);
        if let Some(known) = self.http.find(&labels) {
            return known;
        }
        let line = cost(&labels);
        if !reserve(&self.counter_text, line, COUNTER_TEXT) {
            return self.overflow(base, varying);
        }
        let text = DISTRIBUTION_LINES * line;
        let at = match reserve(&self.distribution_text, text, DISTRIBUTION_TEXT) {
            true => Where::Here(Box::default()),
            false => Where::Elsewhere(self.overflow(base, varying)),
        };
        self.http.get(labels, |labels| HttpSeries::new(labels, at))
    }

    /// What stands for the series that find no room. There are few: one for each class of status.
    fn overflow(&self, base: &Labels, varying: Varying) -> Arc<HttpSeries> {
        let labels = varying.overflow().labels(&overflowing(base));
        let own = |labels| HttpSeries::new(labels, Where::Here(Box::default()));
        self.http.get(labels, own)
    }

    /// Counts an opaque connection as opened; what is returned counts its bytes and its end.
    pub(super) fn tcp_opened(&self, series: &Series, mutual_tls: bool) -> TcpCounters {
        let counters = self.tcp(series, mutual_tls);
        counters.0.opened.fetch_add(1, Ordering::Relaxed);
        counters
    }

    fn tcp(&self, series: &Series, mutual_tls: bool) -> TcpCounters {
        let cached = series.tcp.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(counters) = &*cached {
            return counters.clone();
        }
        drop(cached);
        let mut labels = tcp_labels(&series.labels, mutual_tls);
        let known = self.tcp.find(&labels);
        let numbers = known.unwrap_or_else(|| {
            if !reserve(&self.counter_text, TCP_LINES * cost(&labels), COUNTER_TEXT) {
                labels = tcp_labels(&overflowing(&series.labels), mutual_tls);
            }
            self.tcp.get(labels, TcpSeries::new)
        });
        let mut cached = series.tcp.write().unwrap_or_else(PoisonError::into_inner);
        cached.get_or_insert(TcpCounters(numbers)).clone()
    }
}

/// Takes `text` of the room below `bound`, if that much is left.
fn reserve(taken: &AtomicUsize, text: usize, bound: usize) -> bool {
    let more = |now: usize| now.checked_add(text).filter(|sum| *sum <= bound);
    let taken = taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    taken.is_ok()
}

impl fmt::Debug for AllSeries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AllSeries")
    }
}

#[cfg(test)]
mod tests;
