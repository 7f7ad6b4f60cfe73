//! Gauges of a runtime that are read when metrics are encoded, and the count of rotations.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use inmesh_pki::Crypto;
use inmesh_pki::clock::Clock;
use inmesh_pki::rotate::expiry::expiries;
use inmesh_pki::rotate::watch_expiry;
use inmesh_pki::store::IdentityReader;
use tokio::sync::watch;
use tokio::time::Instant;

use super::listening::Listening;
use super::mesh::Mesh;
use super::status::not_ready;
use crate::accept::{Half, Sockets};
use crate::budget::Budget;
use crate::connect::{Counted, Gate};
use crate::discover::{Known, SourceState, Sources};
use crate::drain::Drain;
use crate::snapshot::{Serving, Snapshot, SnapshotReader};
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
            crypto: shared.crypto.clone(),
            rotations: Arc::clone(&rotations),
            listening: shared.listening.clone(),
            sockets: Arc::clone(&shared.sockets),
            budget: Arc::clone(&shared.budget),
            sources: self.inner.sources.clone(),
            changed: Arc::clone(&self.inner.changed),
            drain: drain.clone(),
            clock: Arc::clone(&shared.clock),
            epoch: shared.upstreams.epoch,
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
    crypto: Crypto,
    rotations: Arc<AtomicU64>,
    listening: Listening,
    sockets: Arc<Sockets>,
    budget: Arc<Budget>,
    sources: watch::Receiver<Sources>,
    /// When the configuration last changed, in seconds since 1970.
    changed: Arc<AtomicU64>,
    drain: Drain,
    clock: Arc<dyn Clock>,
    /// The zero of the clock that sources are as old on.
    epoch: Instant,
}

impl Collect for Gauges {
    fn collect(&self, samples: &mut Samples<'_>) {
        let snapshot = self.reader.load();
        samples.gauges(
            "mesh_build_info",
            "The version that runs",
            [([("version", env!("CARGO_PKG_VERSION"))], 1)],
        );
        let (phase, sources) = (self.drain.phase(), self.sources.borrow().clone());
        let now = self.clock.now();
        let ready = not_ready(
            &snapshot,
            (&self.identity, &self.crypto),
            phase,
            &sources,
            now,
        );
        samples.gauge(
            "mesh_ready",
            "Whether it takes traffic",
            u64::from(ready.is_empty()),
        );
        self.configuration(&snapshot, &sources, samples);
        self.renewal(samples);
        self.expiries(samples);
        self.listeners(samples);
        endpoints(&snapshot, samples);
        connections(&snapshot, samples);
        concurrency(&snapshot, samples);
    }
}

impl Gauges {
    fn configuration(&self, snapshot: &Snapshot, sources: &Sources, samples: &mut Samples<'_>) {
        samples.gauge(
            "mesh_config_generation",
            "The generation of the configuration that serves; it grows with each change",
            snapshot.generation(),
        );
        samples.gauge(
            "mesh_config_change_timestamp_seconds",
            "When the configuration that serves last changed, in seconds since 1970; 0 if never",
            self.changed.load(Ordering::Relaxed),
        );
        samples.counter(
            "mesh_config_refusals",
            "New versions of objects that were refused",
            snapshot.refusals(),
        );
        let mut serving = [("current", 0), ("last-good", 0), ("nothing", 0)];
        for object in snapshot.serving() {
            let at = match object {
                Serving::Current => 0,
                Serving::LastGood => 1,
                Serving::Nothing => 2,
            };
            serving[at].1 += 1;
        }
        samples.gauges(
            "mesh_config_objects",
            "Objects by what serves of them: the newest version, the last good one, or nothing",
            serving.map(|(serving, count)| ([("serving", serving)], count)),
        );
        let now = self.epoch.elapsed();
        let known: Vec<_> = sources
            .all()
            .map(|(id, known)| (id.to_string(), known))
            .collect();
        let each = |of: fn(&Known, Duration) -> u64| {
            let rows = known.iter();
            let rows = rows.map(|(id, known)| ([("source", id.as_str())], of(known, now)));
            rows.collect::<Vec<_>>()
        };
        let help = "Whether a source of configuration keeps its state current";
        let synced = each(|known, _| u64::from(*known.state() == SourceState::Synced));
        samples.gauges("mesh_source_synced", help, synced);
        let help = "How long a source has been out of sync, in seconds; 0 while it is in sync";
        let ages = each(|known, now| known.age(now).as_secs());
        samples.gauges("mesh_source_age_seconds", help, ages);
        let help = "Whether a source was out of sync for so long that it is doubted";
        let stale = each(|known, _| u64::from(known.is_stale()));
        samples.gauges("mesh_source_stale", help, stale);
    }

    fn renewal(&self, samples: &mut Samples<'_>) {
        let renewal = self.identity.renewal();
        samples.counter(
            "mesh_certificate_rotations",
            "Leaf certificates replaced while running",
            self.rotations.load(Ordering::Relaxed),
        );
        samples.counter(
            "mesh_identity_renewals",
            "Identities that their source has given",
            renewal.renewals,
        );
        samples.counter(
            "mesh_identity_renewal_failures",
            "Failures of the source of identity",
            renewal.failures,
        );
        samples.gauge(
            "mesh_identity_renewal_failing",
            "Failures of the source of identity since it last gave one",
            renewal.failing,
        );
    }

    fn listeners(&self, samples: &mut Samples<'_>) {
        let all = self.listening.status();
        let rows = all.iter().map(|one| (one.address.to_string(), one));
        let rows: Vec<_> = rows.collect();
        let open = rows.iter().map(|(address, one)| {
            let labels = [("listener", address.as_str()), ("direction", one.direction)];
            (labels, one.connections as u64)
        });
        let help = "Open connections of callers, by the listener that they came to";
        samples.gauges("mesh_connections_open", help, open);
        let sides = [
            ("callers", &self.sockets.callers),
            ("endpoints", &self.sockets.endpoints),
        ];
        let each =
            |count: fn(&Half) -> u64| sides.map(|(side, half)| ([("side", side)], count(half)));
        let help = "Sockets in use, by side: callers and endpoints";
        samples.gauges("mesh_sockets_open", help, each(|half| half.open() as u64));
        let help = "Sockets that there may be, by side";
        samples.gauges("mesh_sockets_limit", help, each(|half| half.most() as u64));
        samples.gauge(
            "mesh_buffered_bytes",
            "Bytes of bodies that connections hold or have let their peers send",
            self.budget.used() as u64,
        );
        let help = "Connections that found no socket left and waited for one, by side";
        samples.counters("mesh_sockets_exhausted", help, each(Half::missed));
    }

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

/// Local workloads whose requests at once are limited, with the limit as it is now.
fn concurrency(snapshot: &Snapshot, samples: &mut Samples<'_>) {
    let limited = snapshot.locals();
    let limited = limited.filter_map(|local| Some((local, snapshot.adaptive(local)?)));
    let values = limited.map(|(local, adaptive)| {
        let labels = [("workload", &**local.shown())];
        (labels, u64::from(adaptive.limit()))
    });
    let values: Vec<_> = values.collect();
    if !values.is_empty() {
        let help = "Requests that a workload takes at once, as its latency allows it";
        samples.gauges("mesh_concurrency_limit", help, values);
    }
}

/// Connections to the endpoints of each port, and requests that wait for one or were refused, for each
/// local workload.
fn connections(snapshot: &Snapshot, samples: &mut Samples<'_>) {
    let mut counted = Vec::new();
    for view in snapshot.services() {
        for port in &*view.ports {
            let set = view.endpoints(port.port);
            for (local, of) in set.map(|set| Gate::counts(set)).unwrap_or_default() {
                counted.push((local, &*view.host, port.port.to_string(), of));
            }
        }
    }
    let each = |of: fn(&Counted) -> u64| {
        let rows = counted.iter();
        let rows = rows.map(|(local, service, port, counted)| {
            let labels = [
                ("workload", &**local.shown()),
                ("destination_service", *service),
                ("port", port.as_str()),
            ];
            (labels, of(counted))
        });
        rows.collect::<Vec<_>>()
    };
    let help = "Connections to the endpoints of a port, by the local workload that opened them";
    let open = each(|counted| counted.open.into());
    samples.gauges("mesh_upstream_connections", help, open);
    let help = "Requests that wait for one of the connections that there may be";
    let pending = each(|counted| counted.pending as u64);
    samples.gauges("mesh_upstream_requests_pending", help, pending);
    let help = "Requests and connections refused since as many connections were open as may be";
    let overflows = each(|counted| counted.overflows);
    samples.counters("mesh_upstream_overflows", help, overflows);
}

/// How many endpoints of each port can be chosen, and how many cannot.
fn endpoints(snapshot: &Snapshot, samples: &mut Samples<'_>) {
    let (mut counted, mut panics, mut unwell) = (Vec::new(), Vec::new(), Vec::new());
    for view in snapshot.services() {
        for port in &*view.ports {
            let Some(set) = view.endpoints(port.port) else {
                continue;
            };
            let members = set.members();
            let ejected = set.ejected_len();
            panics.push((&*view.host, port.port.to_string(), set.is_panicking()));
            if view.traffic(port.port).is_some_and(|t| t.check.is_some()) {
                let out = members.iter().filter(|m| m.state.is_unwell()).count();
                unwell.push((&*view.host, port.port.to_string(), out));
            }
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
    let values = panics.iter().map(|(service, port, panics)| {
        let labels = [("destination_service", *service), ("port", port.as_str())];
        (labels, u64::from(*panics))
    });
    let name = "mesh_balancer_panic";
    let help = "1 where so many endpoints are ejected that all are used";
    samples.gauges(name, help, values);
    if unwell.is_empty() {
        return;
    }
    let values = unwell.iter().map(|(service, port, out)| {
        let labels = [("destination_service", *service), ("port", port.as_str())];
        (labels, *out as u64)
    });
    let name = "mesh_balancer_unwell";
    let help = "Endpoints of a port that fail their checks, where a policy has them checked";
    samples.gauges(name, help, values);
}
