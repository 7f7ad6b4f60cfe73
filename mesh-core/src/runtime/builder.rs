//! The builder of a runtime. What must be chosen is in its type: an identity, then a workload with
//! a default action; all else has a default.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use inmesh_pki::clock::{Clock, SystemClock};
use inmesh_pki::rotate::watch_expiry;
use inmesh_pki::store::IdentityReader;
use inmesh_pki::tls::Crypto;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use super::mesh::{Mesh, MeshInner};
use super::outbound::{Outbound, known, source_labels};
use super::{Limits, inbound};
use crate::authorize::{DefaultAction, WorkloadPolicy};
use crate::balance::{Balancer, EjectPolicy};
use crate::connect::{Connector, OutsideRoots};
use crate::discover::{Gone, Sink, Source, sink};
use crate::drain::{Drain, drain};
use crate::identify::{Live, Tls};
use crate::model::{Namespace, Settings, Snapshot, SourceId, Workload, snapshot};
use crate::telemetry::{AccessLog, ExchangeSink, Metrics, Recorder, Series};

/// Changes that may wait to be merged before their source does.
const QUEUE: usize = 64;
/// How long lines of the access log gather before they are written in one go.
const LOG_PAUSE: Duration = Duration::from_millis(10);
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
/// [`workload`](MeshBuilder::workload); the rest is optional. You never write its parameter.
pub struct MeshBuilder<State> {
    state: State,
    crypto: Option<Crypto>,
    limits: Limits,
    eject: EjectPolicy,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    sinks: Vec<Arc<dyn ExchangeSink>>,
    writers: Vec<RunWriter>,
    sources: Vec<(SourceId, RunSource)>,
    roots: Arc<[CertificateDer<'static>]>,
    trace_sample: f64,
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

// === impl MeshBuilder ===

impl MeshBuilder<WantsIdentity> {
    pub(super) fn new() -> Self {
        Self {
            state: WantsIdentity(()),
            crypto: default_crypto(),
            limits: Limits::default(),
            eject: EjectPolicy::default(),
            metrics: Metrics::new(),
            clock: SystemClock::shared(),
            sinks: Vec::new(),
            writers: Vec::new(),
            sources: Vec::new(),
            roots: Arc::new([]),
            trace_sample: 0.0,
        }
    }

    /// Who this process is and whom it trusts. It may change at any time; each handshake reads it.
    pub fn identity(self, reader: IdentityReader) -> MeshBuilder<WantsWorkload> {
        self.with(|_| WantsWorkload(reader))
    }
}

impl MeshBuilder<WantsWorkload> {
    /// Which workload this process serves, and what happens where no ALLOW policy selects it.
    pub fn workload(
        self,
        workload: Workload,
        default_action: DefaultAction,
    ) -> MeshBuilder<WantsNothing> {
        self.with(|WantsWorkload(reader)| {
            WantsNothing(reader, Settings::new(workload, default_action))
        })
    }
}

impl MeshBuilder<WantsNothing> {
    /// The namespace whose policies govern all namespaces.
    #[must_use]
    pub fn mesh_namespace(mut self, namespace: Namespace) -> Self {
        self.state.1.mesh_namespace = Some(namespace);
        self
    }

    /// Adds a source of configuration. Where two speak of one object, the one added first serves.
    #[must_use]
    pub fn source(mut self, source: impl Source) -> Self {
        let id = source.id();
        self.state.1.sources.push(id.clone());
        let run: RunSource = Box::new(move |sink, drain| Box::pin(source.run(sink, drain)));
        self.sources.push((id, run));
        self
    }

    /// Starts the runtime on the current tokio runtime.
    ///
    /// # Errors
    /// [`StartError`] if there is no crypto provider, or two sources share a name.
    ///
    /// # Panics
    /// Outside a tokio runtime, as every spawn does.
    pub fn start(self) -> Result<Mesh, StartError> {
        let WantsNothing(identity, settings) = self.state;
        let crypto = self.crypto.ok_or(StartError::NoCrypto)?;
        let mut unsynced = BTreeSet::new();
        for (id, _) in &self.sources {
            if !unsynced.insert(id.clone()) {
                return Err(StartError::SameSource(id.clone()));
            }
        }
        let (syncing, unsynced) = watch::channel(unsynced);
        let (trigger, watch) = drain();
        let workload = settings.workload.clone();
        let principal: Arc<str> = match identity.load().default_svid() {
            Some(svid) => svid.id().as_str().into(),
            None => "".into(),
        };
        let (writer, reader) = snapshot(Snapshot::new(settings));
        let limits = Arc::new(self.limits);
        let tracker = TaskTracker::new();
        let recorder = Arc::new(Recorder {
            metrics: self.metrics.clone(),
            sinks: self.sinks,
            clock: self.clock.clone(),
            trace_sample: self.trace_sample,
        });
        let live = Arc::new(Live::new(
            identity.clone(),
            crypto.clone(),
            self.clock.clone(),
            limits.opaque_age,
        ));
        tokio::spawn(live.clone().run(watch.clone()));
        let tls = || Tls::new(&identity, &crypto, &self.clock, &live);
        let balancer = Arc::new(Balancer {
            reader: reader.clone(),
            connector: Connector {
                tls: tls(),
                outside: OutsideRoots::new(crypto.clone(), self.roots),
                clock: self.clock.clone(),
                connect_timeout: limits.connect,
                handshake_timeout: limits.endpoint_handshake,
                idle: limits.pool_idle,
                idle_max: limits.pool_size,
            },
            eject: self.eject,
            metrics: self.metrics.clone(),
            epoch: Instant::now(),
        });
        let mut local = source_labels(&workload, &principal);
        local.extend([
            ("destination_workload", known("")),
            ("destination_service", known("")),
        ]);
        let outbound = Arc::new(Outbound {
            balancer,
            recorder: recorder.clone(),
            limits: limits.clone(),
            workload: workload.clone(),
            principal: principal.clone(),
            egress: WorkloadPolicy::empty(DefaultAction::Allow),
            local: Arc::new(Series::new(local)),
            drain: watch.clone(),
            tracker: tracker.clone(),
        });
        let inbound = Arc::new(inbound::InboundShared {
            tls: tls(),
            reader: reader.clone(),
            recorder,
            limits,
            workload,
            principal,
            drain: watch.clone(),
            tracker: tracker.clone(),
            callers: Mutex::default(),
        });
        let (queue, said) = mpsc::channel(QUEUE);
        for (id, run) in self.sources {
            let sink = sink(id.clone(), queue.clone(), reader.clone());
            let running = run(sink, watch.clone());
            tokio::spawn(async move {
                // Gone means that the runtime has ended, which is no news.
                if let Ok(()) = running.await {
                    tracing::info!(source = %id, "source ended; what it last said serves");
                }
            });
        }
        drop(queue);
        let merging = super::mesh::merge(writer, said, syncing, watch.clone());
        tokio::spawn(merging);
        let writers = TaskTracker::new();
        for write in self.writers {
            writers.spawn(write(watch.clone()));
        }
        writers.close();
        let mesh = Mesh(Arc::new(MeshInner {
            outbound,
            inbound,
            reader,
            identity,
            metrics: self.metrics,
            trigger,
            tracker,
            writers,
            unsynced,
        }));
        let alarm = {
            let (identity, clock, mut drain) = (mesh.0.identity.clone(), self.clock, watch.clone());
            watch_expiry(identity, clock, async move { drain.closed().await })
        };
        tokio::spawn(alarm);
        let rotations = mesh.register_gauges();
        let identity = mesh.0.identity.clone();
        tokio::spawn(super::mesh::count_rotations(rotations, identity, watch));
        Ok(mesh)
    }
}

impl<S> MeshBuilder<S> {
    /// The cryptography of every TLS connection; the default is that of the enabled feature.
    #[must_use]
    pub fn crypto(mut self, crypto: Crypto) -> Self {
        self.crypto = Some(crypto);
        self
    }

    /// The bounds of the data path.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// When endpoints are ejected.
    #[must_use]
    pub fn eject(mut self, policy: EjectPolicy) -> Self {
        self.eject = policy;
        self
    }

    /// The clock of certificates and logs.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The roots of the operating system, for endpoints outside the mesh that ask for them.
    #[must_use]
    pub fn system_roots(mut self, roots: Vec<CertificateDer<'static>>) -> Self {
        self.roots = roots.into();
        self
    }

    /// Shows every exchange at its end to `sink`: spans, a test, a log of your own.
    #[must_use]
    pub fn exchanges(mut self, sink: Arc<dyn ExchangeSink>) -> Self {
        self.sinks.push(sink);
        self
    }

    /// Marks the share `sample` (0.0 to 1.0) of traces that begin here as sampled. What a caller
    /// has decided is kept. Default 0.
    #[must_use]
    pub fn trace_sample(mut self, sample: f64) -> Self {
        self.trace_sample = sample;
        self
    }

    /// Writes the access log as lines of JSON: the share `sample` (0.0 to 1.0) of what went well,
    /// and all that did not.
    #[must_use]
    pub fn access_log(
        mut self,
        mut writer: impl AsyncWrite + Send + Unpin + 'static,
        sample: f64,
    ) -> Self {
        let (log, mut lines) = AccessLog::new(LOG_QUEUE, sample, &self.metrics);
        self.sinks.push(Arc::new(log));
        self.writers.push(Box::new(move |mut drain| {
            Box::pin(async move {
                let mut buffer = Vec::new();
                let mut closed = false;
                while !closed {
                    closed = tokio::select! {
                        biased;
                        some = lines.read(&mut buffer) => !some,
                        () = drain.closed() => true,
                    };
                    if closed {
                        lines.rest(&mut buffer);
                    }
                    let written = async {
                        writer.write_all(&buffer).await?;
                        writer.flush().await
                    };
                    if let Err(e) = written.await {
                        tracing::warn!(error = %e, "the access log cannot be written");
                    }
                    buffer.clear();
                    if !closed {
                        // Lines that come meanwhile are written at once.
                        sleep(LOG_PAUSE).await;
                    }
                }
            })
        }));
        self
    }

    /// The metrics, to register others beside them.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn with<T>(self, state: impl FnOnce(S) -> T) -> MeshBuilder<T> {
        MeshBuilder {
            state: state(self.state),
            crypto: self.crypto,
            limits: self.limits,
            eject: self.eject,
            metrics: self.metrics,
            clock: self.clock,
            sinks: self.sinks,
            writers: self.writers,
            sources: self.sources,
            roots: self.roots,
            trace_sample: self.trace_sample,
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for MeshBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshBuilder")
            .field("state", &self.state)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "aws-lc-rs")]
#[expect(clippy::unnecessary_wraps, reason = "without a provider there is none")]
fn default_crypto() -> Option<Crypto> {
    Some(Crypto::aws_lc_rs())
}

#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
#[expect(clippy::unnecessary_wraps, reason = "without a provider there is none")]
fn default_crypto() -> Option<Crypto> {
    Some(Crypto::ring())
}

#[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
fn default_crypto() -> Option<Crypto> {
    None
}
