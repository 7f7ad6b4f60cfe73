//! Series of exchanges: counters and distributions by Istio's labels, without a lock where they are
//! counted, and bounded by the bytes of text that they cost a scrape.
//!
//! A scrape copies the list of series, which is one pointer each, and then reads numbers that are
//! only ever added to: it holds nothing that an exchange waits for. A series that would exceed the
//! bound is counted under the labels `overflow`; where only its distributions would, they alone are.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use list::List;
use numbers::Sharded;

use super::label::{Labels, Varying, cost, overflowing, tcp_labels};

mod list;
mod numbers;

pub(super) use numbers::{BYTES, Distributions, MILLISECONDS};

/// The text of all counters, and of all distributions, in bytes. Together with the rest a scrape
/// stays at about 32 MiB, for which Prometheus needs below a second.
const COUNTER_TEXT: usize = 8 << 20;
const DISTRIBUTION_TEXT: usize = 24 << 20;

/// The lines of all distributions of a series: bounds, `+Inf`, sum and count.
const DISTRIBUTION_LINES: usize = MILLISECONDS.len() + 2 * BYTES.len() + 3 * 3;
/// The lines of the counters of opaque connections.
const TCP_LINES: usize = 4;

/// The exchanges that share all labels but those of [`Varying`], with their cached handles.
pub(crate) struct Series {
    labels: Labels,
    http: List<(Varying, Arc<HttpSeries>)>,
    tcp: OnceLock<TcpCounters>,
}

/// The numbers of HTTP exchanges with the same labels.
pub(super) struct HttpSeries {
    pub(super) labels: Labels,
    counts: Counts,
}

/// Where a series is counted.
enum Counts {
    /// Its distributions would be too much text: they are counted with those of the series that find no
    /// room.
    Apart(AtomicU64, Arc<HttpSeries>),
    Whole(Sharded),
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

// === impl HttpSeries ===

impl HttpSeries {
    fn new(labels: Labels, counts: Counts) -> Self {
        Self { labels, counts }
    }

    fn count(&self, took: Duration, request_bytes: u64, response_bytes: u64) {
        let mut at = self;
        loop {
            match &at.counts {
                Counts::Apart(requests, other) => {
                    requests.fetch_add(1, Ordering::Relaxed);
                    at = other;
                }
                Counts::Whole(sharded) => {
                    let shard = sharded.here();
                    if std::ptr::eq(at, self) {
                        shard.request();
                    }
                    return shard.observe(took, request_bytes, response_bytes);
                }
            }
        }
    }

    /// How many exchanges it has counted.
    pub(super) fn requests(&self) -> u64 {
        match &self.counts {
            Counts::Apart(requests, _) => requests.load(Ordering::Relaxed),
            Counts::Whole(sharded) => sharded.requests(),
        }
    }

    /// Its distributions, if it has some of its own.
    pub(super) fn distributions(&self) -> Option<Distributions> {
        match &self.counts {
            Counts::Apart(..) => None,
            Counts::Whole(sharded) => Some(sharded.distributions()),
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
            http: List::default(),
            tcp: OnceLock::new(),
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
        let (_, numbers) = series.http.get_or_add(
            |(of, _)| *of == varying,
            || (varying, self.http(&series.labels, varying)),
        );
        numbers.count(took, request_bytes, response_bytes);
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
            true => Counts::Whole(Sharded::default()),
            false => Counts::Apart(AtomicU64::new(0), self.overflow(base, varying)),
        };
        self.http.get(labels, |labels| HttpSeries::new(labels, at))
    }

    /// What stands for the series that find no room. There are few: one for each class of status.
    fn overflow(&self, base: &Labels, varying: Varying) -> Arc<HttpSeries> {
        let labels = varying.overflow().labels(&overflowing(base));
        let own = |labels| HttpSeries::new(labels, Counts::Whole(Sharded::default()));
        self.http.get(labels, own)
    }

    /// Counts an opaque connection as opened; what is returned counts its bytes and its end.
    pub(super) fn tcp_opened(&self, series: &Series, mutual_tls: bool) -> TcpCounters {
        let counters = self.tcp(series, mutual_tls);
        counters.0.opened.fetch_add(1, Ordering::Relaxed);
        counters
    }

    fn tcp(&self, series: &Series, mutual_tls: bool) -> TcpCounters {
        let counters = series.tcp.get_or_init(|| {
            let mut labels = tcp_labels(&series.labels, mutual_tls);
            let known = self.tcp.find(&labels);
            let numbers = known.unwrap_or_else(|| {
                if !reserve(&self.counter_text, TCP_LINES * cost(&labels), COUNTER_TEXT) {
                    labels = tcp_labels(&overflowing(&series.labels), mutual_tls);
                }
                self.tcp.get(labels, TcpSeries::new)
            });
            TcpCounters(numbers)
        });
        counters.clone()
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
