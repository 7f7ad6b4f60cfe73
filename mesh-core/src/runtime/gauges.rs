//! Gauges of a runtime that are read when metrics are encoded, and the count of rotations.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use inmesh_pki::rotate::expiry::expiries;
use inmesh_pki::rotate::watch_expiry;
use inmesh_pki::store::IdentityReader;

use super::mesh::Mesh;
use crate::drain::Drain;
use crate::snapshot::{Snapshot, SnapshotReader};
use crate::telemetry::{Collect, Samples};

/// Counts leaf certificates as they are replaced.
async fn count_rotations(counter: Arc<AtomicU64>, mut identity: IdentityReader, mut drain: Drain) {
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
            counter.fetch_add(1, Ordering::Relaxed);
        }
        last = now;
    }
}

impl Mesh {
    /// Registers the gauges, and watches the certificates that are about to expire or are replaced.
    pub(super) fn watch_identity(&self, drain: Drain) {
        let rotations = Arc::<AtomicU64>::default();
        let shared = &self.inner.shared;
        self.inner.metrics.collect(Gauges {
            reader: shared.reader.clone(),
            identity: shared.identity.clone(),
            rotations: Arc::clone(&rotations),
        });
        let alarm = {
            let (identity, clock) = (shared.identity.clone(), Arc::clone(&shared.clock));
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
    rotations: Arc<AtomicU64>,
}

impl Collect for Gauges {
    fn collect(&self, samples: &mut Samples<'_>) {
        let snapshot = self.reader.load();
        samples.gauge(
            "mesh_config_generation",
            "How often the configuration that serves has changed",
            snapshot.generation(),
        );
        samples.gauge(
            "mesh_config_refusals",
            "How often a new version of an object was refused",
            snapshot.refusals(),
        );
        samples.counter(
            "mesh_certificate_rotations",
            "Leaf certificates replaced while running",
            self.rotations.load(Ordering::Relaxed),
        );
        self.expiries(samples);
        endpoints(&snapshot, samples);
    }
}

impl Gauges {
    fn expiries(&self, samples: &mut Samples<'_>) {
        let expiries = expiries(&self.identity.load());
        let ends = expiries.iter().map(|expiry| {
            let at = expiry.not_after.duration_since(UNIX_EPOCH);
            let labels = [
                ("kind", expiry.kind.as_str()),
                ("id", expiry.id.as_str()),
                ("key_id", expiry.key_id.as_str()),
            ];
            (labels, at.unwrap_or_default().as_secs())
        });
        let name = "mesh_certificate_expiration_timestamp_seconds";
        let help = "When a certificate ends, in seconds since 1970";
        samples.gauges(name, help, ends);
    }
}

/// How many endpoints of each port can be chosen, and how many cannot.
fn endpoints(snapshot: &Snapshot, samples: &mut Samples<'_>) {
    let mut counted = Vec::new();
    for view in snapshot.services() {
        for port in &view.ports {
            let Some(set) = view.endpoints(port.port) else {
                continue;
            };
            let members = set.members();
            let ejected = members.iter().filter(|m| m.state.is_ejected()).count();
            let ready = set.ready_len().saturating_sub(ejected);
            let rest = members.len().saturating_sub(set.ready_len());
            for (state, n) in [("ready", ready), ("ejected", ejected), ("not_ready", rest)] {
                counted.push((&*view.host, port.port.to_string(), state, n));
            }
        }
    }
    let values = counted.iter().map(|(service, port, state, n)| {
        let labels = [
            ("destination_service", *service),
            ("port", port.as_str()),
            ("endpoint_state", *state),
        ];
        (labels, u64::try_from(*n).unwrap_or(u64::MAX))
    });
    let name = "mesh_balancer_endpoints";
    let help = "Endpoints that a balancer knows, by state";
    samples.gauges(name, help, values);
}
