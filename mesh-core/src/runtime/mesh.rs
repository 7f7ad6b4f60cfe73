//! The handle of a running mesh.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::{Request, Response};
use inmesh_pki::rotate::expiry::expiries;
use inmesh_pki::store::IdentityReader;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;
use tower_service::Service;

use super::builder::{MeshBuilder, WantsIdentity};
use super::inbound::{Behind, InProcess, Inbound, InboundShared, InboundStack};
use super::outbound::{Outbound, OutboundListener};
use super::status::not_ready;
use super::{Admin, Channel, Client, Limits, Status};
use crate::authorize::AuthorizeLayer;
use crate::body::{Body, BoxError};
use crate::discover::Said;
use crate::drain::{Drain, DrainTrigger, Phase};
use crate::model::{AppProtocol, SnapshotReader, SnapshotWriter, SourceId};
use crate::telemetry::Metrics;

/// How long the last lines of the logs may take to be written on the way down.
const LAST_LINES: Duration = Duration::from_secs(1);

/// A running mesh: clients for what goes out, servers for what comes in. Cheap to clone; it runs
/// until [`drain`](Self::drain) has ended or every clone is dropped.
#[derive(Clone)]
pub struct Mesh(pub(super) Arc<MeshInner>);

pub(super) struct MeshInner {
    pub(super) outbound: Arc<Outbound>,
    pub(super) inbound: Arc<InboundShared>,
    pub(super) reader: SnapshotReader,
    pub(super) identity: IdentityReader,
    pub(super) metrics: Metrics,
    pub(super) trigger: DrainTrigger,
    pub(super) tracker: TaskTracker,
    /// The tasks that write logs; they end once the drain has closed.
    pub(super) writers: TaskTracker,
    pub(super) unsynced: watch::Receiver<BTreeSet<SourceId>>,
}

/// The one task that changes the snapshot.
pub(super) async fn merge(
    mut writer: SnapshotWriter,
    mut said: mpsc::Receiver<Said>,
    unsynced: watch::Sender<BTreeSet<SourceId>>,
    mut drain: Drain,
) {
    loop {
        let said = tokio::select! {
            said = said.recv() => said,
            () = drain.closed() => return,
        };
        // Every source has ended; what they last said serves.
        let Some(said) = said else {
            return drain.closed().await;
        };
        match said {
            Said::Change(change) => {
                let source = change.source.clone();
                let next = writer.apply(change);
                tracing::debug!(%source, generation = next.generation(), "configuration changed");
            }
            Said::Synced(source) => {
                unsynced.send_if_modified(|unsynced| unsynced.remove(&source));
            }
        }
    }
}

/// Counts leaf certificates as they are replaced.
pub(super) async fn count_rotations(
    counter: Counter,
    mut identity: IdentityReader,
    mut drain: Drain,
) {
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

// === impl Mesh ===

impl Mesh {
    /// Begins to build a mesh.
    ///
    /// ```no_run
    /// # async fn run(identity: inmesh_pki::IdentityReader, listener: tokio::net::TcpListener,
    /// #   app: tower::util::BoxCloneSyncService<http::Request<inmesh_core::Body>, http::Response<inmesh_core::Body>, std::io::Error>)
    /// #   -> Result<(), Box<dyn std::error::Error>> {
    /// use inmesh_core::Mesh;
    /// use inmesh_core::authorize::DefaultAction;
    /// use inmesh_core::model::Workload;
    ///
    /// let mesh = Mesh::builder()
    ///     .identity(identity)
    ///     .workload(Workload::new("shop", "web", "web")?, DefaultAction::Deny)
    ///     .start()?;
    /// let client = mesh.client(); // a tower service: mutual TLS, routes, balancing, retries
    /// mesh.serve(listener, app).await; // `app` sees only peers that policy permits
    /// # Ok(()) }
    /// ```
    pub fn builder() -> MeshBuilder<WantsIdentity> {
        MeshBuilder::new()
    }

    /// A client whose requests go to the Service that their authority names.
    pub fn client(&self) -> Client {
        Client(self.0.outbound.clone())
    }

    /// A client for one authority, e.g. `cart` or `cart.shop:8080`, for tonic's generated clients.
    ///
    /// # Errors
    /// If `authority` is none.
    pub fn channel(&self, authority: &str) -> Result<Channel, http::uri::InvalidUri> {
        self.client().channel(authority)
    }

    /// Serves an HTTP application on a listener of the mesh: mutual TLS in, each peer verified and
    /// each request authorized before the application sees it. The peer is in the request's
    /// extensions as `Arc<PeerInfo>`. Ends when the drain closes the listener; connections end
    /// with [`drain`](Self::drain).
    pub async fn serve<S, R>(&self, listener: TcpListener, app: S)
    where
        S: Service<Request<Body>, Response = Response<R>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        R: http_body::Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let stack = InboundStack {
            shared: self.0.inbound.clone(),
            app: InProcess(app),
            protocol: AppProtocol::Detect,
            strict: true,
            probes: Arc::new([]),
        };
        Arc::new(stack).listen(listener).await;
    }

    /// The authorization alone as a tower layer, for a server of your own that puts an
    /// `Arc<PeerInfo>` into the extensions of its requests.
    pub fn authorize_layer(&self) -> AuthorizeLayer {
        AuthorizeLayer::new(self.0.reader.clone())
    }

    /// Stands in front of a plain server: mutual TLS in, plain out to the application.
    pub async fn serve_behind(&self, listener: TcpListener, to: Inbound) {
        let app = Behind::new(&self.0.outbound.balancer, &to);
        let stack = InboundStack {
            shared: self.0.inbound.clone(),
            app,
            protocol: to.protocol,
            strict: to.strict,
            probes: to.probes.into(),
        };
        Arc::new(stack).listen(listener).await;
    }

    /// Takes plain connections of applications on this host into the mesh.
    pub async fn serve_outbound(&self, listener: TcpListener, to: OutboundListener) {
        self.0.outbound.clone().listen(listener, to).await;
    }

    /// Serves the admin surface. Bind it to loopback: it asks for no identity.
    pub async fn serve_admin(&self, listener: TcpListener, admin: Admin) {
        admin.serve(listener, self.clone()).await;
    }

    /// What it knows and how it is, without secrets.
    pub fn status(&self) -> Status {
        Status::new(
            &self.0.reader.load(),
            &self.0.identity.load(),
            self.watch_drain().phase(),
            &self.unsynced(),
        )
    }

    /// Waits until it is ready: it has an identity and every source has synced.
    pub async fn ready(&self) {
        let (mut reader, mut identity) = (self.0.reader.clone(), self.0.identity.clone());
        let mut unsynced = self.0.unsynced.clone();
        let (mut configured, mut identified, mut syncing) = (true, true, true);
        // Each of them tells once more what it has told before, so nothing is missed in between.
        while !self.not_ready().is_empty() {
            tokio::select! {
                changed = reader.changed(), if configured => configured = changed,
                changed = identity.changed(), if identified => identified = changed.is_ok(),
                changed = unsynced.changed(), if syncing => syncing = changed.is_ok(),
                // Nobody is left who could change it.
                else => std::future::pending().await,
            }
        }
    }

    /// Why it does not take traffic; empty where it does.
    pub(super) fn not_ready(&self) -> Vec<String> {
        not_ready(
            &self.0.reader.load(),
            &self.0.identity.load(),
            self.watch_drain().phase(),
            &self.unsynced(),
        )
    }

    fn unsynced(&self) -> Vec<String> {
        let unsynced = self.0.unsynced.borrow();
        unsynced.iter().map(ToString::to_string).collect()
    }

    /// The configuration that serves, in the form it is decided on.
    pub(super) fn config_dump(&self, status: &impl Serialize) -> Value {
        let snapshot = self.0.reader.load();
        let mut services: Vec<_> = snapshot.services().cloned().collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        json!({
            "status": status,
            "policy": format!("{:?}", snapshot.policy()),
            "routes": services
                .iter()
                .filter(|view| !view.routes.is_empty())
                .map(|view| json!({
                    "service": view.name.to_string(),
                    "routes": format!("{:?}", view.routes),
                }))
                .collect::<Vec<_>>(),
        })
    }

    /// The current configuration, for whoever wants to look.
    pub fn snapshot(&self) -> &SnapshotReader {
        &self.0.reader
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The metrics in the OpenMetrics text format.
    pub fn encode_metrics(&self) -> String {
        self.0.metrics.encode()
    }

    /// The bounds of the data path.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.0.inbound.limits
    }

    /// Watches the way down.
    pub fn watch_drain(&self) -> Drain {
        self.0.trigger.watch()
    }

    /// Goes down in order: readiness off, requests served for a while, connections told to go,
    /// running requests finished, the rest cut. Returns when it is done. A second call while one
    /// runs cuts at once.
    pub async fn drain(&self) {
        let limits = self.limits().clone();
        let phase = self.watch_drain().phase();
        if phase != Phase::Serving {
            self.0.trigger.advance(Phase::Closed);
            return;
        }
        self.0.trigger.advance(Phase::NotReady);
        let mut watch = self.watch_drain();
        tokio::select! {
            () = sleep(limits.drain_lead) => {}
            () = watch.closed() => return,
        }
        self.0.trigger.advance(Phase::Closing);
        self.0.tracker.close();
        tokio::select! {
            _in_time = timeout(limits.drain_deadline, self.0.tracker.wait()) => {}
            () = watch.closed() => {}
        }
        self.0.trigger.advance(Phase::Closed);
        // A disk that hangs must not keep the process.
        let _in_time = timeout(LAST_LINES, self.0.writers.wait()).await;
    }

    pub(super) fn register_gauges(&self) -> Counter {
        let rotations = Counter::default();
        self.0.metrics.register(|r| {
            let help = "Leaf certificates replaced while running";
            r.register("mesh_certificate_rotations", help, rotations.clone());
        });
        let collector = Gauges {
            reader: self.0.reader.clone(),
            identity: self.0.identity.clone(),
        };
        self.0
            .metrics
            .register(|r| r.register_collector(Box::new(collector)));
        rotations
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mesh")
            .field(&self.0.inbound.workload.name)
            .finish()
    }
}

/// Gauges that are read when they are asked for.
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
