//! All series in, the families of one scrape out. A scrape copies the list of series and reads their
//! numbers one by one, so that no exchange ever waits for it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Unit;

use super::label::Labels;
use super::series::{AllSeries, BYTES, Distributions, HttpSeries, MILLISECONDS, TcpSeries};

/// The collector of all series.
#[derive(Debug)]
pub(super) struct SeriesCollector(pub(super) Arc<AllSeries>);

/// A family of distributions: its name without the unit, its help, and how it is read.
struct Family {
    name: &'static str,
    help: &'static str,
    unit: Unit,
    read: fn(&Distributions) -> Buckets,
}

/// Upper bounds with their counts, and the sum of all values.
type Buckets = (Vec<(f64, u64)>, f64);

/// A counter of the opaque connections of a series.
type TcpCount = fn(&TcpSeries) -> &AtomicU64;

impl Collector for SeriesCollector {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> fmt::Result {
        let http = self.0.http.all();
        let requests = http.iter().map(|s| (&s.labels, s.requests()));
        counters(&mut out, "istio_requests", "Requests", requests)?;
        for family in &families() {
            distributions(&mut out, family, &http)?;
        }
        let tcp = self.0.tcp.all();
        let families: [(_, _, TcpCount); 4] = [
            (
                "istio_tcp_connections_opened",
                "Opaque connections opened",
                |s| &s.opened,
            ),
            (
                "istio_tcp_connections_closed",
                "Opaque connections closed",
                |s| &s.closed,
            ),
            (
                "istio_tcp_sent_bytes",
                "Bytes of opaque connections to the caller",
                |s| &s.sent,
            ),
            (
                "istio_tcp_received_bytes",
                "Bytes of opaque connections from the caller",
                |s| &s.received,
            ),
        ];
        for (name, help, count) in families {
            let counts = tcp
                .iter()
                .map(|s| (&s.labels, count(s).load(Ordering::Relaxed)));
            counters(&mut out, name, help, counts)?;
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "sums in a histogram")]
fn families() -> [Family; 3] {
    [
        Family {
            name: "istio_request_duration",
            help: "Time from the first byte of the request to the last of the answer",
            unit: Unit::Other("milliseconds".into()),
            read: |all| {
                let (counts, micros) = all.duration.read(&MILLISECONDS);
                (counts, micros as f64 / 1_000.0)
            },
        },
        Family {
            name: "istio_request",
            help: "Size of request bodies",
            unit: Unit::Bytes,
            read: |all| {
                let (counts, bytes) = all.request_bytes.read(&BYTES);
                (counts, bytes as f64)
            },
        },
        Family {
            name: "istio_response",
            help: "Size of response bodies",
            unit: Unit::Bytes,
            read: |all| {
                let (counts, bytes) = all.response_bytes.read(&BYTES);
                (counts, bytes as f64)
            },
        },
    ]
}

fn counters<'s>(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    counts: impl Iterator<Item = (&'s Labels, u64)>,
) -> fmt::Result {
    let mut counts = counts.peekable();
    if counts.peek().is_none() {
        return Ok(());
    }
    let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, count) in counts {
        let count = ConstCounter::new(count);
        count.encode(family.encode_family(labels)?)?;
    }
    Ok(())
}

fn distributions(
    out: &mut DescriptorEncoder<'_>,
    family: &Family,
    series: &[Arc<HttpSeries>],
) -> fmt::Result {
    let known = series.iter();
    let mut known = known
        .filter_map(|s| Some((&s.labels, s.distributions()?)))
        .peekable();
    if known.peek().is_none() {
        return Ok(());
    }
    let (name, help, kind) = (family.name, family.help, MetricType::Histogram);
    let mut encoder = out.encode_descriptor(name, help, Some(&family.unit), kind)?;
    for (labels, all) in known {
        let (counts, sum) = (family.read)(&all);
        let count = counts.iter().map(|(_, n)| n).sum();
        let mut one = encoder.encode_family(labels)?;
        one.encode_histogram::<NoLabelSet>(sum, count, &counts, None)?;
    }
    Ok(())
}
