//! Gauges of a runtime that are read when metrics are encoded, and the count of rotations.

use std::fmt;
use std::time::UNIX_EPOCH;

use inmesh_pki::rotate::expiry::expiries;
use inmesh_pki::rotate::watch_expiry;
use inmesh_pki::store::IdentityReader;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::mesh::Mesh;
use crate::drain::Drain;
use crate::snapshot::SnapshotReader;

/// Counts leaf certificates as they are replaced.
async fn count_rotations(counter: Counter, mut identity: IdentityReader, mut drain: Drain) {
    let serial = |identity: &IdentityReader| {
        let state = identity.load();
        state.default_svid().map(|svid| svid.serial().to_owned())
    };
    let mut last = serial(&identity);
    loop {
        tokio::select! {
            changed = identity.changed() => if changed.is_err() { return },
            () = drain.closed() => return,
        }
        let now = serial(&identity);
        if last.is_some() && now != last {
            counter.inc();
        }
        last = now;
    }
}

impl Mesh {
    /// Registers the gauges, and watches the certificates that are about to expire or are replaced.
    pub(super) fn watch_identity(&self, drain: Drain) {
        let rotations = Counter::default();
        let shared = &self.inner.shared;
        let gauges = Gauges {
            reader: shared.reader.clone(),
            identity: shared.identity.clone(),
        };
        self.inner.metrics.register(|registry| {
            let help = "Leaf certificates replaced while running";
            registry.register("mesh_certificate_rotations", help, rotations.clone());
            registry.register_collector(Box::new(gauges));
        });
        let alarm = {
            let (identity, clock) = (shared.identity.clone(), shared.clock.clone());
            let mut drain = drain.clone();
            watch_expiry(identity, clock, async move { drain.closed().await })
        };
        tokio::spawn(alarm);
        let identity = shared.identity.clone();
        tokio::spawn(count_rotations(rotations, identity, drain));
    }
}

/// Gauges that are read when metrics are encoded.
#[derive(Debug)]
struct Gauges {
    reader: SnapshotReader,
    identity: IdentityReader,
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let snapshot = self.reader.load();
        let mut one = |name: &str, help: &str, value: i64| {
            let metric = ConstGauge::new(value);
            let out = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            metric.encode(out)
        };
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        one(
            "mesh_config_generation",
            "How often the configuration that serves has changed",
            number(snapshot.generation()),
        )?;
        one(
            "mesh_config_refusals",
            "How often a new version of an object was refused",
            number(snapshot.refusals()),
        )?;
        let ends = "mesh_certificate_expiration_timestamp_seconds";
        let help = "When a certificate ends, in seconds since 1970";
        let mut family = encoder.encode_descriptor(ends, help, None, MetricType::Gauge)?;
        let identity = self.identity.load();
        for expiry in expiries(&identity) {
            let at = expiry.not_after.duration_since(UNIX_EPOCH);
            let at = at.unwrap_or_default().as_secs();
            let labels = [
                ("kind", expiry.kind.as_str()),
                ("id", expiry.id.as_str()),
                ("key_id", expiry.key_id.as_str()),
            ];
            ConstGauge::new(number(at)).encode(family.encode_family(&labels)?)?;
        }
        let name = "mesh_balancer_endpoints";
        let help = "Endpoints that a balancer knows, by state";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for view in snapshot.services() {
            for port in &view.ports {
                let Some(set) = view.endpoints(port.port) else {
                    continue;
                };
                let ejected = set
                    .members()
                    .iter()
                    .filter(|m| m.state.is_ejected())
                    .count();
                let ready = set.ready_len().saturating_sub(ejected);
                let rest = set.members().len().saturating_sub(set.ready_len());
                let port = port.port.to_string();
                for (state, n) in [("ready", ready), ("ejected", ejected), ("not_ready", rest)] {
                    let labels = [
                        ("destination_service", &*view.host),
                        ("port", port.as_str()),
                        ("endpoint_state", state),
                    ];
                    let n = i64::try_from(n).unwrap_or(i64::MAX);
                    ConstGauge::new(n).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}
