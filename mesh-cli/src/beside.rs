//! What runs beside the mesh in an agent in (federation, the Workload API that it serves), sections of
//! its status and metrics out. Both are read when they are asked for, so they always agree.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use inmesh_core::runtime::Admin;
use inmesh_core::telemetry::{Collect, Metrics, Samples};
use inmesh_discovery::control::ControlPlane;
use inmesh_pki::bundle::federate::RelationshipStatus;
use inmesh_pki::clock::{Clock, SystemClock};
use inmesh_pki::status::StatusReader;
use inmesh_pki::tls::words_of;
use inmesh_pki::workload_api::server::ServerStatus;
use serde_json::{Value, json};

use crate::federation::RunningFederation;
use crate::seconds::seconds;

/// What runs beside the mesh, as far as an agent's file asks for it.
#[derive(Clone, Debug)]
pub(crate) struct Beside {
    pub(crate) control_plane: Later<ControlPlane>,
    pub(crate) federation: Later<RunningFederation>,
    pub(crate) workload_api: Later<RunningWorkloadApi>,
}

/// What starts once there is an identity, if it is asked for.
#[derive(Debug)]
pub(crate) struct Later<T> {
    wanted: bool,
    running: Arc<OnceLock<Arc<T>>>,
}

/// What a gauge says of a relationship, if anything.
type RelationshipGauge = dyn Fn(&RelationshipStatus) -> Option<u64>;

/// The Workload API as it is served.
#[derive(Debug)]
pub(crate) struct RunningWorkloadApi {
    pub(crate) socket: PathBuf,
    pub(crate) entries: usize,
    pub(crate) status: StatusReader<ServerStatus>,
}

// === impl Later ===

impl<T> Later<T> {
    fn new(wanted: bool) -> Self {
        Self {
            wanted,
            running: Arc::default(),
        }
    }

    /// It runs from now on; the first call counts.
    pub(crate) fn set(&self, running: Arc<T>) {
        let _first = self.running.set(running);
    }

    fn get(&self) -> Option<&T> {
        self.running.get().map(|running| &**running)
    }
}

impl<T> Clone for Later<T> {
    fn clone(&self) -> Self {
        Self {
            wanted: self.wanted,
            running: Arc::clone(&self.running),
        }
    }
}

// === impl Beside ===

impl Beside {
    /// Nothing runs yet.
    pub(crate) fn new(control_plane: bool, federation: bool, workload_api: bool) -> Self {
        Self {
            control_plane: Later::new(control_plane),
            federation: Later::new(federation),
            workload_api: Later::new(workload_api),
        }
    }

    /// Adds what is asked for to the status; what does not run yet is null.
    pub(crate) fn sections(&self, mut admin: Admin) -> Admin {
        if self.control_plane.wanted {
            let plane = self.control_plane.clone();
            let read = move || plane.get().map(|plane| json!(plane.status()));
            admin = admin.section("control_plane", read);
        }
        if self.federation.wanted {
            let federation = self.federation.clone();
            let read = move || federation.get().map(|f| f.section(SystemClock.now()));
            admin = admin.section("federation", read);
        }
        if self.workload_api.wanted {
            let api = self.workload_api.clone();
            admin = admin.section("workload_api", move || {
                api.get().map(RunningWorkloadApi::section)
            });
        }
        admin
    }

    /// Adds what there is to the metrics.
    pub(crate) fn register(&self, metrics: &Metrics) {
        metrics.collect(self.clone());
    }
}

impl Collect for Beside {
    fn collect(&self, samples: &mut Samples<'_>) {
        if let Some(plane) = self.control_plane.get() {
            control_plane(plane, samples);
        }
        if let Some(federation) = self.federation.get() {
            federation.collect(samples);
        }
        if let Some(api) = self.workload_api.get() {
            api.collect(samples);
        }
    }
}

fn control_plane(plane: &ControlPlane, samples: &mut Samples<'_>) {
    let status = plane.status();
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let subscribers = [
        ([("state", "converged")], count(status.converged)),
        ([("state", "behind")], count(status.behind)),
    ];
    let help = "Subscribers of the control plane: those that have all that concerns them, and those that do not";
    samples.gauges("mesh_control_subscribers", help, subscribers);
    for (name, help, value) in [
        (
            "mesh_control_behind_milliseconds",
            "For how long the subscriber has been behind that has been for longest; 0 if none is",
            status.behind_for,
        ),
        (
            "mesh_control_generation",
            "The generation of the configuration that is handed on",
            status.generation,
        ),
    ] {
        samples.gauge(name, help, value);
    }
    let refused = status
        .subscribers
        .iter()
        .map(|s| count(s.refused.len()))
        .sum();
    let help = "Resources that subscribers do not apply now";
    samples.gauge("mesh_control_refused_resources", help, refused);
    for (name, help, value) in [
        (
            "mesh_control_responses",
            "Responses sent to subscribers",
            status.responses,
        ),
        (
            "mesh_control_response_bytes",
            "Bytes of the responses sent to subscribers",
            status.bytes,
        ),
        (
            "mesh_control_refusals",
            "Resources that subscribers did not apply",
            status.refusals,
        ),
    ] {
        samples.counter(name, help, value);
    }
}

// === impl RunningFederation ===

impl RunningFederation {
    fn section(&self, now: SystemTime) -> Value {
        let all = self.relationships.as_ref().map(StatusReader::load);
        let rows = all.iter().flatten().map(|(trust_domain, status)| {
            let error = status.last_error.as_deref();
            let keep = status.keep_error.as_deref();
            json!({
                "trust_domain": trust_domain.as_str(),
                "profile": status.profile,
                "trusted": status.trusted,
                "roots": status.roots,
                "sequence": status.sequence,
                "fetched_at": status.fetched_at.map(seconds),
                "age": age(status, now).map(|age| age.as_secs()),
                "max_age": status.max_age.as_secs(),
                "refresh_hint": status.refresh_hint.map(|hint| hint.as_secs()),
                "next_try": status.next_try.map(seconds),
                "fetches": status.fetches,
                "failures": status.failures,
                "last_error": error.map(|error| chain(error)),
                "keep_error": keep.map(|error| chain(error)),
            })
        });
        let rows: Vec<_> = rows.collect();
        let endpoint = self.endpoint.as_ref().map(|endpoint| {
            let web = endpoint.web.as_ref().map(|web| {
                let web = web.load();
                let error = web.last_error.as_deref();
                json!({
                    "not_after": web.not_after.map(seconds),
                    "loads": web.loads,
                    "failures": web.failures,
                    "last_error": error.map(|error| chain(error)),
                })
            });
            json!({
                "address": endpoint.file.bind.to_string(),
                "path": endpoint.file.path,
                "profile": endpoint.file.profile(),
                "certificate": web,
            })
        });
        json!({"relationships": rows, "bundle_endpoint": endpoint})
    }

    fn collect(&self, samples: &mut Samples<'_>) {
        let all = self.relationships.as_ref().map(StatusReader::load);
        let all = all.unwrap_or_default();
        let refreshed = |status: &RelationshipStatus| Some(status.fetched_at.map_or(0, seconds));
        let gauges: [(&str, &str, &RelationshipGauge); 4] = [
            (
                "mesh_federation_refresh_timestamp_seconds",
                "When the bundle of a foreign trust domain was last fetched, in seconds since 1970; \
                 0 if it never was",
                &refreshed,
            ),
            (
                "mesh_federation_max_age_seconds",
                "After how long without a refresh a foreign trust domain is no longer trusted",
                &|status| Some(status.max_age.as_secs()),
            ),
            (
                "mesh_federation_roots",
                "Roots of a foreign trust domain that are trusted",
                &|status| Some(status.roots as u64),
            ),
            (
                "mesh_federation_sequence",
                "The sequence number of the last bundle of a foreign trust domain, if it has one",
                &|status| status.sequence,
            ),
        ];
        for (name, help, read) in gauges {
            let values = all.iter().filter_map(|(trust_domain, status)| {
                Some(([("trust_domain", trust_domain.as_str())], read(status)?))
            });
            samples.gauges(name, help, values);
        }
        let fetches = all.iter().flat_map(|(trust_domain, status)| {
            let labels = |outcome| {
                [
                    ("trust_domain", trust_domain.as_str()),
                    ("outcome", outcome),
                ]
            };
            [
                (labels("taken"), status.fetches),
                (labels("failed"), status.failures),
            ]
        });
        let help = "Attempts to fetch the bundle of a foreign trust domain, by their outcome";
        samples.counters("mesh_federation_fetches", help, fetches);
        let web = self.endpoint.as_ref().and_then(|own| own.web.as_ref());
        if let Some(not_after) = web.and_then(|web| web.load().not_after) {
            let name = "mesh_federation_endpoint_certificate_expiration_timestamp_seconds";
            let help = "When the certificate of the bundle endpoint ends, in seconds since 1970";
            samples.gauge(name, help, seconds(not_after));
        }
    }
}

// === impl RunningWorkloadApi ===

impl RunningWorkloadApi {
    fn section(&self) -> Value {
        let now = self.status.load();
        let refusals: serde_json::Map<_, _> = now
            .refusals
            .each()
            .map(|(reason, count)| (reason.to_owned(), count.into()))
            .collect();
        json!({
            "socket": self.socket.display().to_string(),
            "entries": self.entries,
            "connections": now.connections,
            "streams": now.streams,
            "refusals": refusals,
        })
    }

    fn collect(&self, samples: &mut Samples<'_>) {
        let now = self.status.load();
        for (name, help, value) in [
            (
                "mesh_workload_api_entries",
                "Identities that the Workload API gives",
                self.entries as u64,
            ),
            (
                "mesh_workload_api_connections",
                "Open connections to the Workload API",
                now.connections as u64,
            ),
            (
                "mesh_workload_api_streams",
                "Open streams of the Workload API",
                now.streams as u64,
            ),
        ] {
            samples.gauge(name, help, value);
        }
        let help = "Connections and calls that the Workload API refused, by reason";
        let refusals = now.refusals.each();
        let refusals = refusals.map(|(reason, count)| ([("reason", reason)], count));
        samples.counters("mesh_workload_api_refusals", help, refusals);
    }
}

/// How long ago a bundle was fetched; a clock that was set back makes it new.
fn age(status: &RelationshipStatus, now: SystemTime) -> Option<Duration> {
    let fetched = status.fetched_at?;
    Some(now.duration_since(fetched).unwrap_or_default())
}

/// An error with its causes, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = words_of(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        line += &format!(": {}", words_of(error));
        cause = error.source();
    }
    line
}
