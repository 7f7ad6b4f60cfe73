//! The builder of a runtime. What must be chosen is in its type: an identity, then a workload with
//! a default action; all else has a default.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use inmesh_pki::CertificateDer;
use inmesh_pki::Crypto;
use inmesh_pki::clock::{Clock, SystemClock};
use inmesh_pki::serve::Places;
use inmesh_pki::store::IdentityReader;
use tokio::io::AsyncWrite;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::asked::AskedHosts;
use super::checks;
use super::first::ServerFirst;
use super::limits::Limits;
use super::listening::Listening;
use super::merge::{Changes, merge};
use super::mesh::{Mesh, MeshInner, Stack};
use super::mirror::places::Mirrors;
use super::shared::Shared;
use super::spent::Spent;
use super::upstream::Upstreams;
use crate::accept::Sockets;
use crate::authorize::{Authorizer, Authorizers, DefaultAction, PathForm};
use crate::balance::{EjectPolicy, Strategy};
use crate::budget::Budget;
use crate::connect::{Connector, OutsideRoots};
use crate::discover::{Demand, Gone, Inbox, STALE_AFTER, Sink, Source, Sources};
use crate::drain::{Drain, drain};
use crate::identify::Live;
use crate::local::Local;
use crate::model::{Block, Locality, Namespace, SourceId, Workload};
use crate::snapshot::{OutboundTrafficPolicy, Settings, Snapshot, SnapshotReader, snapshot};
use crate::telemetry::{AccessLog, ExchangeSink, Metrics, Recorder, Seldom, Sinks};
use crate::traffic::Traffic;

/// Lines of the access log that may wait to be written.
const LOG_QUEUE: usize = 8_192;

/// The builder has no identity yet.
#[derive(Debug)]
pub struct WantsIdentity(());
/// The builder has an identity and no workload yet.
#[derive(Debug)]
pub struct WantsWorkload(IdentityReader);
/// The builder has all that it must have.
#[derive(Debug)]
pub struct WantsNothing(IdentityReader, Settings);

type RunSource =
    Box<dyn FnOnce(Sink, Drain) -> Pin<Box<dyn Future<Output = Result<(), Gone>> + Send>> + Send>;

type RunWriter = Box<dyn FnOnce(Drain) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// Builds a [`Mesh`].
///
/// The choices are made in order: [`identity`](MeshBuilder::identity), then
/// [`workload`](MeshBuilder::workload) or [`local`](MeshBuilder::local); the rest is optional. You
/// never write its parameter.
#[must_use]
pub struct MeshBuilder<State> {
    state: State,
    parts: BuilderParts,
}

/// What has a default.
struct BuilderParts {
    crypto: Option<Crypto>,
    limits: Limits,
    traffic: Traffic,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    authorizers: Authorizers,
    sinks: Vec<Arc<dyn ExchangeSink>>,
    writers: Vec<RunWriter>,
    sources: Vec<(SourceId, RunSource)>,
    groups: Vec<Vec<(SourceId, Duration)>>,
    /// How long the next source may be out of sync before it is stale.
    stale_after: Duration,
    roots: Arc<[CertificateDer<'static>]>,
    trace_sample: f64,
    /// Whether endpoints are checked where a policy asks for it.
    checks: bool,
}

/// The runtime cannot start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No crypto provider was given and no feature brings one.
    #[error("no crypto provider: call crypto() or enable the feature aws-lc-rs or ring")]
    NoCrypto,
    /// Two sources have one name.
    #[error("two sources are named {0}")]
    SameSource(SourceId),
}

// === impl Mesh ===

impl Mesh {
    /// Begins to build a mesh.
    ///
    /// ```no_run
    /// # async fn run(identity: inmesh_core::pki::IdentityReader, listener: tokio::net::TcpListener,
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
        MeshBuilder {
            state: WantsIdentity(()),
            parts: BuilderParts::default(),
        }
    }
}

// === impl MeshBuilder ===

impl MeshBuilder<WantsIdentity> {
    /// The identities of this process and the bundles that it trusts. They may change at any time;
    /// each handshake reads them.
    pub fn identity(self, reader: IdentityReader) -> MeshBuilder<WantsWorkload> {
        MeshBuilder {
            state: WantsWorkload(reader),
            parts: self.parts,
        }
    }
}

impl MeshBuilder<WantsWorkload> {
    /// The workload that this process is, and what happens to requests that no ALLOW policy is
    /// about.
    pub fn workload(
        self,
        workload: Workload,
        default_action: DefaultAction,
    ) -> MeshBuilder<WantsNothing> {
        self.local(Local::new(workload, default_action))
    }

    /// The same for a workload with an identity or an egress policy of its own. Others may be
    /// added with [`Mesh::add_workload`].
    pub fn local(self, local: Local) -> MeshBuilder<WantsNothing> {
        let WantsWorkload(identity) = self.state;
        MeshBuilder {
            state: WantsNothing(identity, Settings::of(local)),
            parts: self.parts,
        }
    }
}

impl MeshBuilder<WantsNothing> {
    /// The identities that were given, for a source that connects as this process.
    pub fn identities(&self) -> &IdentityReader {
        &self.state.0
    }

    /// The workload that was given.
    pub fn workload_of(&self) -> &Workload {
        self.state.1.local.workload()
    }

    /// The namespace whose policies govern all namespaces.
    pub fn mesh_namespace(mut self, namespace: Namespace) -> Self {
        self.state.1.mesh_namespace = Some(namespace);
        self
    }

    /// The domain of Service host names. Default `cluster.local`.
    pub fn cluster_domain(mut self, domain: &str) -> Self {
        self.state.1.cluster_domain = domain.into();
        self
    }

    /// Where the process is: what is near to it, for policies that prefer near endpoints. Default: not
    /// known, and all are alike.
    pub fn locality(mut self, locality: Locality) -> Self {
        self.state.1.locality = locality;
        self
    }

    /// Which hosts outside the mesh are reached. Default: those that a document names.
    pub fn outbound_traffic_policy(mut self, policy: OutboundTrafficPolicy) -> Self {
        self.state.1.outbound = policy;
        self
    }

    /// What is changed in the paths of requests, in both directions, before policies and routes
    /// decide. By default dot segments are resolved and escapes spelled in upper case, nothing else.
    pub fn paths(mut self, form: PathForm) -> Self {
        self.state.1.paths = form;
        self
    }

    /// Adds a source of configuration. Where several have the same object, the one added first has
    /// precedence. The mesh is ready once each has synced.
    pub fn source(mut self, source: impl Source) -> Self {
        let source = self.run(source);
        self.parts.groups.push(vec![source]);
        self
    }

    /// Adds a source that stands in for the one added before, and it for this one: the mesh is
    /// ready once one of them has synced. Of two control planes, one may be down at the start.
    pub fn or_source(mut self, source: impl Source) -> Self {
        let source = self.run(source);
        match self.parts.groups.last_mut() {
            Some(group) => group.push(source),
            None => self.parts.groups.push(vec![source]),
        }
        self
    }

    /// The sources that are added from here on are stale once they were out of sync for so long: the log
    /// warns of it once, and metrics, the status, `/readyz` and explanations say it. What they pushed last
    /// serves on, and the mesh stays ready. Default 5 minutes; [`Duration::MAX`] is never.
    pub fn stale_after(mut self, limit: Duration) -> Self {
        self.parts.stale_after = limit;
        self
    }

    fn run(&mut self, source: impl Source) -> (SourceId, Duration) {
        let id = source.id();
        self.state.1.sources.push(id.clone());
        let run: RunSource = Box::new(move |sink, drain| Box::pin(source.run(sink, drain)));
        self.parts.sources.push((id.clone(), run));
        (id, self.parts.stale_after)
    }

    /// Starts the runtime on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// [`StartError`] if there is no crypto provider, or two sources share a name.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, as every spawn does.
    pub fn start(self) -> Result<Mesh, StartError> {
        let WantsNothing(identity, mut settings) = self.state;
        let parts = self.parts;
        let crypto = parts.crypto.clone().ok_or(StartError::NoCrypto)?;
        let mut ids: Vec<_> = parts.sources.iter().map(|(id, _)| id).collect();
        ids.sort_unstable();
        if let Some(two) = ids.windows(2).find(|two| two[0] == two[1]) {
            return Err(StartError::SameSource(two[0].clone()));
        }
        settings.traffic = Arc::new(parts.traffic.clone());
        let (writer, reader) = snapshot(Snapshot::new(settings));
        let snapshot = reader.load();
        let settings = snapshot.settings();
        let (local, paths) = (Arc::clone(&settings.local), settings.paths);
        let (trigger, watch) = drain();
        let sinks = Sinks::new(parts.sinks.clone());
        let inbox = Inbox::new(reader.clone()).with_exchanges(sinks.clone());
        let workloads = inbox.workloads();
        let asked = AskedHosts {
            queue: workloads.clone(),
            reader: reader.clone(),
            most: parts.limits.outside_hosts,
            listening: Listening::default(),
        };
        let shared = Arc::new(parts.shared(
            identity,
            crypto,
            reader,
            paths,
            (asked, inbox.demand(), sinks),
            &watch,
        ));
        let sources = Sources::new(parts.groups);
        let (states, sources) = watch::channel(sources);
        run_sources(parts.sources, &inbox, &watch);
        let changes = Changes::new(writer, Arc::clone(&parts.clock));
        let changed = changes.last();
        let epoch = shared.upstreams.epoch;
        tokio::spawn(merge(changes, inbox, states, epoch, watch.clone()));
        let writers = TaskTracker::new();
        for write in parts.writers {
            writers.spawn(write(watch.clone()));
        }
        writers.close();
        let mesh = Mesh {
            stack: Arc::new(Stack::new(&shared, local)),
            inner: Arc::new(MeshInner {
                metrics: parts.metrics,
                trigger,
                writers,
                sources,
                workloads,
                changed,
                shared,
            }),
        };
        if parts.checks {
            let (upstreams, tls) = (&mesh.inner.shared.upstreams, &mesh.stack.outbound.tls);
            let reader = mesh.inner.shared.reader.clone();
            let (upstreams, tls) = (Arc::clone(upstreams), Arc::clone(tls));
            tokio::spawn(checks::run(upstreams, tls, reader, watch.clone()));
        }
        mesh.watch_identity(watch);
        Ok(mesh)
    }
}

/// Starts the sources.
fn run_sources(sources: Vec<(SourceId, RunSource)>, inbox: &Inbox, watch: &Drain) {
    for (id, run) in sources {
        let running = run(inbox.sink(id.clone()), watch.clone());
        tokio::spawn(async move {
            // Gone is how a source ends when the runtime does.
            if let Ok(()) = running.await {
                tracing::info!(source = %id, "source ended; what it pushed last serves");
            }
        });
    }
}

// === impl BuilderParts ===

impl BuilderParts {
    fn shared(
        &self,
        identity: IdentityReader,
        crypto: Crypto,
        reader: SnapshotReader,
        paths: PathForm,
        (asked, demand, sinks): (AskedHosts, &Demand, Sinks),
        watch: &Drain,
    ) -> Shared {
        let limits = Arc::new(self.limits.clone());
        let live = Arc::new(Live::new(
            identity.clone(),
            crypto.clone(),
            Arc::clone(&self.clock),
            limits.opaque_age,
        ));
        tokio::spawn(Arc::clone(&live).run(watch.clone()));
        let sockets = Arc::new(Sockets::new(limits.sockets));
        let budget = Budget::new(limits.buffered);
        let upstreams = Arc::new(Upstreams {
            reader: reader.clone(),
            connector: Connector {
                outside: OutsideRoots::new(crypto.clone(), Arc::clone(&self.roots)),
                clock: Arc::clone(&self.clock),
                sockets: Arc::clone(&sockets),
                budget: Arc::clone(&budget),
                connect_timeout: limits.connect,
                handshake_timeout: limits.endpoint_handshake,
                idle: limits.pool_idle,
                idle_max: limits.pool_size,
            },
            metrics: self.metrics.clone(),
            epoch: Instant::now(),
        });
        let recorder = Arc::new(Recorder {
            metrics: self.metrics.clone(),
            sinks,
            clock: Arc::clone(&self.clock),
            trace_sample: self.trace_sample,
        });
        Shared {
            reader,
            identity,
            crypto,
            clock: Arc::clone(&self.clock),
            live,
            upstreams,
            recorder,
            authorizers: self.authorizers.clone(),
            peers: Places::each(limits.peer_sockets()),
            limits,
            sockets,
            budget,
            paths,
            server_first: ServerFirst::default(),
            spent: Spent::new(),
            drain: watch.clone(),
            tracker: TaskTracker::new(),
            listening: asked.listening.clone(),
            mirrors: Mirrors::new(self.limits.mirrors),
            asked,
            demand: demand.clone(),
            strangers: Seldom::default(),
        }
    }
}

impl Default for BuilderParts {
    fn default() -> Self {
        Self {
            crypto: default_crypto(),
            limits: Limits::default(),
            traffic: Traffic::default(),
            metrics: Metrics::new(),
            clock: SystemClock::shared(),
            authorizers: Authorizers::default(),
            sinks: Vec::new(),
            writers: Vec::new(),
            sources: Vec::new(),
            groups: Vec::new(),
            stale_after: STALE_AFTER,
            roots: Arc::new([]),
            trace_sample: 0.0,
            checks: true,
        }
    }
}

impl<S> MeshBuilder<S> {
    /// The cryptography of every TLS connection; the default is that of the enabled feature.
    pub fn crypto(mut self, crypto: Crypto) -> Self {
        self.parts.crypto = Some(crypto);
        self
    }

    /// The cryptography that was given, or that of the enabled feature; `None` if there is neither.
    pub fn cryptography(&self) -> Option<&Crypto> {
        self.parts.crypto.as_ref()
    }

    /// The bounds of the data path.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.parts.limits = limits;
        self
    }

    /// How endpoints are chosen. Default: least request.
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.parts.traffic.strategy = Block::built(strategy);
        self
    }

    /// When endpoints are ejected.
    pub fn eject(mut self, policy: EjectPolicy) -> Self {
        self.parts.traffic.eject = Block::built(policy);
        self
    }

    /// Checks no endpoint, whatever policies say: for a process that follows configuration and hands it on,
    /// but sends nothing to what it knows of.
    pub fn without_checks(mut self) -> Self {
        self.parts.checks = false;
        self
    }

    /// The clock of certificates and logs.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.parts.clock = clock;
        self
    }

    /// Adds an external authorizer for policies with the action CUSTOM that name it; an answer is
    /// waited for as long as `limit`.
    pub fn authorizer(mut self, name: &str, authorizer: impl Authorizer, limit: Duration) -> Self {
        let authorizer = Arc::new(authorizer);
        self.parts.authorizers.insert(name, authorizer, limit);
        self
    }

    /// The roots of the operating system, for endpoints outside the mesh that ask for them.
    pub fn system_roots(mut self, roots: Vec<CertificateDer<'static>>) -> Self {
        self.parts.roots = roots.into();
        self
    }

    /// Shows every exchange to `sink`: spans, a test, a log of your own. More can be added while
    /// the mesh runs, with [`Mesh::watch_exchanges`].
    pub fn exchanges(mut self, sink: Arc<dyn ExchangeSink>) -> Self {
        self.parts.sinks.push(sink);
        self
    }

    /// Marks the share `sample` (0.0 to 1.0) of traces that begin here as sampled. What a caller
    /// has decided is kept. Default 0.
    pub fn trace_sample(mut self, sample: f64) -> Self {
        self.parts.trace_sample = sample;
        self
    }

    /// Writes the access log as lines of JSON: the share `sample` (0.0 to 1.0) of exchanges that
    /// went well, and all that did not.
    pub fn access_log(
        mut self,
        writer: impl AsyncWrite + Send + Unpin + 'static,
        sample: f64,
    ) -> Self {
        let (log, lines) = AccessLog::new(LOG_QUEUE, sample, &self.parts.metrics);
        self.parts.sinks.push(Arc::new(log));
        let metrics = self.parts.metrics.clone();
        let write: RunWriter =
            Box::new(move |drain| Box::pin(lines.write_to(writer, drain, metrics)));
        self.parts.writers.push(write);
        self
    }

    /// The metrics, to register others beside them.
    pub fn metrics(&self) -> &Metrics {
        &self.parts.metrics
    }
}

impl<S: fmt::Debug> fmt::Debug for MeshBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshBuilder")
            .field("state", &self.state)
            .field("limits", &self.parts.limits)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "aws-lc-rs")]
#[expect(clippy::unnecessary_wraps, reason = "no feature, no provider")]
fn default_crypto() -> Option<Crypto> {
    Some(Crypto::aws_lc_rs())
}

#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
#[expect(clippy::unnecessary_wraps, reason = "no feature, no provider")]
fn default_crypto() -> Option<Crypto> {
    Some(Crypto::ring())
}

#[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
fn default_crypto() -> Option<Crypto> {
    None
}
