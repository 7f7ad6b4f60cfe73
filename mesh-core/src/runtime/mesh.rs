//! The handle of a running mesh.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;
use tower_service::Service;

use super::app::{Behind, InProcess};
use super::client::{Channel, Client};
use super::inbound::InboundStack;
use super::limits::Limits;
use super::listen::{InboundListener, OutboundListener};
use super::outbound::Outbound;
use super::own::Own;
use super::permit::Inbound;
use super::shared::Shared;
use super::status::{Status, not_ready};
use crate::accept::proxy::TrustedProxies;
use crate::authorize::{AuthorizeLayer, seen_probes};
use crate::body::{Body, BoxError};
use crate::connect::Kept;
use crate::discover::{Gone, Sources, Workloads};
use crate::drain::{Drain, DrainTrigger, Phase};
use crate::error::Error;
use crate::explain::{Explanation, Question, Scene, explain};
use crate::local::Local;
use crate::model::AppProtocol;
use crate::snapshot::SnapshotReader;
use crate::telemetry::{ExchangeSink, Metrics, SinkGuard};

/// How long what the drain cuts may take to break off.
const CUT: Duration = Duration::from_millis(500);
/// How long the last lines of the logs may take to be written on the way down.
const LAST_LINES: Duration = Duration::from_secs(1);

/// A running mesh, as one of its local workloads: clients for what goes out, servers for what comes
/// in. Cheap to clone; it runs until [`drain`](Self::drain) has ended or every handle is dropped.
#[derive(Clone)]
pub struct Mesh {
    pub(super) inner: Arc<MeshInner>,
    pub(super) stack: Arc<Stack>,
}

pub(super) struct MeshInner {
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Metrics,
    pub(super) trigger: DrainTrigger,
    /// The tasks that write logs; they end once the drain has closed.
    pub(super) writers: TaskTracker,
    pub(super) sources: watch::Receiver<Sources>,
    pub(super) workloads: Workloads,
    /// When the configuration last changed, in seconds since 1970.
    pub(super) changed: Arc<AtomicU64>,
}

/// Both directions of one local workload.
pub(super) struct Stack {
    pub(super) local: Arc<Local>,
    pub(super) outbound: Arc<Outbound>,
    pub(super) inbound: Arc<Inbound>,
}

// === impl Stack ===

impl Stack {
    pub(super) fn new(shared: &Arc<Shared>, local: Arc<Local>) -> Self {
        let (tls, principal) = (shared.tls(&local), shared.principal(&local));
        Self {
            outbound: Arc::new(Outbound::new(shared, Arc::clone(&tls), principal.clone())),
            inbound: Arc::new(Inbound::new(shared, tls, principal)),
            local,
        }
    }
}

// === impl Mesh ===

impl Mesh {
    /// Adds a workload that this process serves too, and returns the mesh as that workload: with
    /// its own identity, policy, connections and metrics. Returns once a snapshot has its policy.
    ///
    /// # Errors
    ///
    /// [`Gone`] if the runtime has ended.
    pub async fn add_workload(&self, local: Local) -> Result<Self, Gone> {
        let local = Arc::new(local.in_form(self.inner.shared.paths));
        self.inner.workloads.serve(&local).await?;
        Ok(Self {
            inner: Arc::clone(&self.inner),
            stack: Arc::new(Stack::new(&self.inner.shared, local)),
        })
    }

    /// Serves this handle's workload no longer: requests to it are denied, its connections end, and
    /// what is kept for it is let go. The first workload of a mesh ends with the mesh.
    ///
    /// # Errors
    ///
    /// [`Gone`] if the runtime has ended.
    pub async fn retire_workload(self) -> Result<(), Gone> {
        let (shared, local) = (&self.inner.shared, &self.stack.local);
        if Arc::ptr_eq(local, &shared.reader.peek().settings().local) {
            return Ok(());
        }
        self.inner.workloads.retire(local).await?;
        shared.live.retire(local);
        for service in shared.reader.load().services() {
            for port in &*service.ports {
                let set = service.endpoints(port.port);
                for member in set.into_iter().flat_map(|set| set.members()) {
                    Kept::forget(member, local);
                }
            }
        }
        Ok(())
    }

    /// The workload that this handle is.
    pub fn local(&self) -> &Local {
        &self.stack.local
    }

    /// A client whose requests go to the Service that their authority names.
    pub fn client(&self) -> Client {
        Client::new(&self.stack.outbound)
    }

    /// A client for one authority, e.g. `cart` or `cart.shop:8080`, for tonic's generated clients.
    ///
    /// # Errors
    ///
    /// If `authority` is not a valid URI authority.
    pub fn channel(&self, authority: &str) -> Result<Channel, Error> {
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
        self.serve_through(listener, None, app).await;
    }

    /// The same on a listener behind proxies: each connection comes from one of them and begins with a
    /// PROXY header, which names the caller's address (`PeerInfo::address`).
    pub async fn serve_proxied<S, R>(&self, listener: TcpListener, proxies: TrustedProxies, app: S)
    where
        S: Service<Request<Body>, Response = Response<R>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        R: http_body::Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        self.serve_through(listener, Some(proxies), app).await;
    }

    async fn serve_through<S, R>(
        &self,
        listener: TcpListener,
        proxies: Option<TrustedProxies>,
        app: S,
    ) where
        S: Service<Request<Body>, Response = Response<R>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        R: http_body::Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let mut leads = "to this process, HTTP, strict peers".to_owned();
        if let Some(proxies) = &proxies {
            leads += &format!(", PROXY headers from {proxies}");
        }
        let stack = InboundStack {
            inbound: Arc::clone(&self.stack.inbound),
            app: InProcess(app),
            leads,
            // Any version of it.
            protocol: AppProtocol::Http1,
            strict: true,
            probes: Arc::new([]),
            speaks_first: Arc::default(),
            proxies,
            own: None,
        };
        Arc::new(stack).listen(listener).await;
    }

    /// The authorization alone as a tower layer, for a server of your own that puts an
    /// `Arc<PeerInfo>` into the extensions of its requests.
    pub fn authorize_layer(&self) -> AuthorizeLayer {
        let shared = &self.inner.shared;
        AuthorizeLayer::of(shared.reader.clone(), Arc::clone(&self.stack.local))
            .with_authorizers(shared.authorizers.clone())
    }

    /// Serves a listener in front of a plain server: mutual TLS in, plain out to the application.
    pub async fn serve_behind(&self, listener: TcpListener, to: InboundListener) {
        let (inbound, shared) = (&self.stack.inbound, &self.inner.shared);
        let stack = InboundStack {
            app: Behind::new(&shared.upstreams, &inbound.tls, &to),
            leads: to.to_string(),
            inbound: Arc::clone(inbound),
            protocol: to.protocol,
            strict: to.strict,
            probes: seen_probes(shared.paths, to.probes.iter().map(|path| &**path)),
            speaks_first: Arc::default(),
            own: Own::of(&to, listener.local_addr().ok()),
            proxies: to.proxies,
        };
        Arc::new(stack).listen(listener).await;
    }

    /// Takes plain connections of applications on this host into the mesh.
    pub async fn serve_outbound(&self, listener: TcpListener, to: OutboundListener) {
        Arc::clone(&self.stack.outbound).listen(listener, to).await;
    }

    /// Explains what would become of a request of this workload now, or of another that the question
    /// names. It sends and counts nothing.
    pub fn explain(&self, question: &Question) -> Explanation {
        let shared = &self.inner.shared;
        let (snapshot, local) = (shared.reader.load(), &self.stack.local);
        let identity = shared.identity.load();
        let own = match local.identity() {
            Some(id) => Some(id.clone()),
            None => identity.default_svid().map(|svid| svid.id().clone()),
        };
        let question = match (question.caller(), own) {
            (None, Some(own)) => question.clone().from(own),
            _ => question.clone(),
        };
        let stale = self.inner.sources.borrow().stale();
        let scene = Scene::new(&snapshot, local).within(&shared.limits);
        let scene = scene.doubting(&stale);
        explain(&scene.at(shared.upstreams.now()), &question)
    }

    /// The state of the runtime, without secrets.
    pub fn status(&self) -> Status {
        Status::new(
            &self.inner.shared.reader.load(),
            (&self.inner.shared.identity, &self.inner.shared.crypto),
            self.watch_drain().phase(),
            &self.inner.sources.borrow(),
            (
                self.inner.shared.clock.now(),
                self.inner.shared.upstreams.now(),
            ),
            &self.inner.shared.server_first,
            self.inner.shared.listening.status(),
        )
    }

    /// Waits until it is ready: it has an identity that peers accept, and every group of sources has one that has
    /// synced.
    pub async fn ready(&self) {
        let shared = &self.inner.shared;
        let (mut reader, mut identity) = (shared.reader.clone(), shared.identity.clone());
        let mut sources = self.inner.sources.clone();
        let (mut configured, mut identified, mut syncing) = (true, true, true);
        // A new receiver sees the current value as changed, so nothing is missed in between.
        while !self.not_ready().is_empty() {
            tokio::select! {
                changed = reader.changed(), if configured => configured = changed,
                changed = identity.changed(), if identified => identified = changed.is_ok(),
                changed = sources.changed(), if syncing => syncing = changed.is_ok(),
                // Every writer has ended: it never will be.
                else => std::future::pending().await,
            }
        }
    }

    /// Waits until every group of sources has one that has synced. Before that a Service that exists is not
    /// known, and a request for it would be refused for good.
    pub async fn synced(&self) {
        let mut sources = self.inner.sources.clone();
        let synced = sources.wait_for(|sources| sources.waiting().next().is_none());
        if synced.await.is_err() {
            // The runtime has ended: they never will.
            std::future::pending().await
        }
    }

    /// Why it does not take traffic; empty if it does.
    pub(super) fn not_ready(&self) -> Vec<String> {
        not_ready(
            &self.inner.shared.reader.load(),
            (&self.inner.shared.identity, &self.inner.shared.crypto),
            self.watch_drain().phase(),
            &self.inner.sources.borrow(),
            self.inner.shared.clock.now(),
        )
    }

    /// What it serves although it is in doubt: sources that were out of sync for too long.
    pub(super) fn doubts(&self) -> Vec<String> {
        let sources = self.inner.sources.borrow();
        sources.doubts(self.inner.shared.upstreams.now()).collect()
    }

    /// The current configuration.
    pub fn snapshot(&self) -> &SnapshotReader {
        &self.inner.shared.reader
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// The metrics in the OpenMetrics text format. Where there are many it takes a moment: call it
    /// where blocking is allowed.
    pub fn encode_metrics(&self) -> String {
        self.inner.metrics.encode()
    }

    /// Shows exchanges to `sink` from now on, their beginnings too, until the guard is dropped. One that
    /// has begun before may be left out.
    pub fn watch_exchanges(&self, sink: Arc<dyn ExchangeSink>) -> SinkGuard {
        self.inner.shared.recorder.sinks.add(sink)
    }

    /// The bounds of the data path.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.inner.shared.limits
    }

    /// Watches the way down.
    pub fn watch_drain(&self) -> Drain {
        self.inner.trigger.watch()
    }

    /// Goes down in order: readiness off, requests served for a while, connections asked to close,
    /// running requests finished, the rest cut. Returns when it is done. A second call while one
    /// runs cuts at once.
    pub async fn drain(&self) {
        let limits = Arc::clone(self.limits());
        let trigger = &self.inner.trigger;
        if self.watch_drain().phase() != Phase::Serving {
            trigger.advance(Phase::Closed);
            self.inner.shared.tracker.close();
            let _in_time = timeout(CUT, self.inner.shared.tracker.wait()).await;
            return;
        }
        trigger.advance(Phase::NotReady);
        let mut watch = self.watch_drain();
        tokio::select! {
            () = sleep(limits.drain_lead) => {}
            () = watch.closed() => return,
        }
        trigger.advance(Phase::Closing);
        let tracker = &self.inner.shared.tracker;
        tracker.close();
        tokio::select! {
            _in_time = timeout(limits.drain_deadline, tracker.wait()) => {}
            () = watch.closed() => {}
        }
        trigger.advance(Phase::Closed);
        // What is cut is to be seen as that by its peers.
        let _in_time = timeout(CUT, tracker.wait()).await;
        // A disk that hangs must not keep the process.
        let _in_time = timeout(LAST_LINES, self.inner.writers.wait()).await;
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mesh")
            .field(&self.stack.local.workload().name)
            .finish()
    }
}
