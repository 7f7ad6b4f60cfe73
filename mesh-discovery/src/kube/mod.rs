//! The API server of a Kubernetes cluster as a source: one watch for each kind, one change for what has
//! gathered.
//!
//! Objects are read by the readers of [`manifest`](crate::manifest), so that they mean the same as in a
//! folder. What decides is pure (`index`, `status`, `lease`); `watch` and `write` have
//! the connections. Nothing is pushed before every kind has been listed once; a watch that fails keeps what
//! it had.

#[cfg(all(
    feature = "kubernetes-ca",
    any(feature = "aws-lc-rs", feature = "ring")
))]
mod ca;
mod index;
mod kinds;
mod lease;
mod pauses;
mod staged;
mod staging;
mod status;
mod subject;
mod tallies;
#[cfg(test)]
pub(crate) mod tests;
mod uninstall;
mod watch;
mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use inmesh_core::discover::{Gone, Sink, Source};
use inmesh_core::drain::Drain;
use inmesh_core::model::SourceId;
use inmesh_pki::clock::SystemClock;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::manifest::Defaults;
use crate::stage::Stages;
#[cfg(all(
    feature = "kubernetes-ca",
    any(feature = "aws-lc-rs", feature = "ring")
))]
pub use ca::{CertificateSigner, RootPublisher, SecretStore, TokenReviews};
use index::{Event, Index};
use kinds::KINDS;
use staging::Staging;
pub use subject::{Seen, Subject, SubjectError};
pub use uninstall::{Removal, RemovalError, Removed};
use watch::{Followed, Said, watch};
pub use write::Lease;
use write::{Writing, elect};

/// What may wait of what watches say before they do.
const QUEUE: usize = 1_024;
/// The most that one change gathers.
const BATCH: usize = 4_096;
/// How long statuses wait for what comes together with what has changed.
const LOOK: Duration = Duration::from_millis(200);
/// When they are looked at again though nothing has changed: a write may have been refused.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a connection may be silent: longer than a watch lasts.
const SILENT: Duration = Duration::from_secs(75);

/// An API server and the credentials for it.
///
/// ```no_run
/// # async fn doc() -> Result<(), inmesh_discovery::kube::ClusterError> {
/// use inmesh_discovery::kube::Cluster;
/// // As kubectl finds it: KUBECONFIG, ~/.kube/config, or the service account of this Pod.
/// let here = Cluster::infer().await?;
/// let other = Cluster::kubeconfig("/etc/mesh/kubeconfig".as_ref(), Some("east")).await?;
/// # drop((here, other));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    /// The address of the API server.
    server: String,
}

/// An API server cannot be found, or its credentials cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("no API server can be asked: {0}")]
pub struct ClusterError(String);

/// The objects of a cluster that say something to the mesh, followed as they change.
///
/// Its name is `kubernetes`. It is synced once every kind has been listed that the API server has; one
/// that comes later (its CustomResourceDefinition is installed) is found within 10 s. A kind that may not
/// be read keeps the source from being synced, since a policy could be among its objects; why is in its
/// state.
///
/// ```no_run
/// # async fn doc() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_core::model::Namespace;
/// use inmesh_discovery::kube::{Cluster, KubeSource};
/// use inmesh_discovery::manifest::{Defaults, Unsaid};
///
/// let defaults = Defaults::new(Namespace::new("default")?)
///     .trust_domain("cluster.local".parse()?)
///     .unsaid(Unsaid::Plain);
/// let source = KubeSource::new(Cluster::infer().await?, defaults);
/// # drop(source);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct KubeSource {
    cluster: Cluster,
    id: SourceId,
    defaults: Defaults,
    lease: Option<Lease>,
    stages: Option<(Stages, inmesh_pki::Crypto)>,
}

/// How the watches are, as the state of the source says it.
#[derive(Debug, Default)]
struct Health {
    /// Why kinds are not followed, by their places.
    failed: BTreeMap<usize, String>,
    /// What was said last: nothing, that all are followed, or the first reason why not.
    said: Option<Option<String>>,
}

// === impl Cluster ===

impl Cluster {
    /// Finds the API server as kubectl does: by `KUBECONFIG` or `~/.kube/config`, and in a Pod by its
    /// service account.
    ///
    /// # Errors
    ///
    /// [`ClusterError`] if none is named, or the credentials cannot be read.
    pub async fn infer() -> Result<Self, ClusterError> {
        let config = Config::infer().await;
        Self::of(config.map_err(|e| ClusterError(e.to_string()))?)
    }

    /// The API server of a kubeconfig file, in a context of it or in its current one.
    ///
    /// # Errors
    ///
    /// [`ClusterError`] if the file cannot be read, or does not have the context or what that names.
    pub async fn kubeconfig(path: &Path, context: Option<&str>) -> Result<Self, ClusterError> {
        let wrong = |e: &dyn fmt::Display| ClusterError(format!("{}: {e}", path.display()));
        let file = Kubeconfig::read_from(path).map_err(|e| wrong(&e))?;
        let options = KubeConfigOptions {
            context: context.map(Into::into),
            ..KubeConfigOptions::default()
        };
        let config = Config::from_custom_kubeconfig(file, &options).await;
        Self::of(config.map_err(|e| wrong(&e))?)
    }

    fn of(mut config: Config) -> Result<Self, ClusterError> {
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(SILENT);
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config);
        Ok(Self {
            client: client.map_err(|e| ClusterError(format!("{server}: {e}")))?,
            server,
        })
    }

    /// The address of the API server.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }
}

/// Without credentials.
impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cluster").field(&self.server).finish()
    }
}

// === impl KubeSource ===

impl KubeSource {
    /// A source of the objects of a cluster.
    #[must_use]
    pub fn new(cluster: Cluster, defaults: Defaults) -> Self {
        Self {
            cluster,
            id: SourceId::new("kubernetes"),
            defaults,
            lease: None,
            stages: None,
        }
    }

    /// The same, which writes what becomes of routes into their status (`status.parents[]`) while it holds
    /// a Lease. Its role needs `patch` on their `status`, and `get`, `create` and `update` on Leases.
    #[must_use]
    pub fn write_status(mut self, lease: Lease) -> Self {
        self.lease = Some(lease);
        self
    }

    /// The same for a control plane that hands on what is staged (`mesh apply`): the replica that holds the Lease
    /// of [`write_status`](Self::write_status), without which nothing is staged, promotes it or takes it back. Its
    /// role needs `patch` on the kinds that can be staged, and `get` and `update` on the Lease `mesh-canary`, beside
    /// what that needs.
    #[must_use]
    pub fn stages(mut self, stages: &Stages, crypto: inmesh_pki::Crypto) -> Self {
        self.stages = Some((stages.clone(), crypto));
        self
    }

    /// The same under another name: where there are several clusters.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.id = SourceId::new(name);
        self
    }
}

impl Source for KubeSource {
    fn id(&self) -> SourceId {
        self.id.clone()
    }

    async fn run(self, sink: Sink, mut drain: Drain) -> Result<(), Gone> {
        let (said, mut heard) = mpsc::channel(QUEUE);
        // They end with this function.
        let mut tasks = JoinSet::new();
        for (kind, watched) in KINDS.iter().enumerate() {
            let followed = Followed::all(watched);
            let (client, said) = (self.cluster.client.clone(), said.clone());
            tasks.spawn(watch(client, kind, followed, said));
        }
        drop(said);
        let mut election = JoinSet::new();
        let mut staging = None;
        let mut writing = self.lease.map(|lease| {
            let (client, clock) = (self.cluster.client, SystemClock::shared());
            let (leads, led) = tokio::sync::watch::channel(None);
            if let Some((stages, crypto)) = self.stages {
                let (client, led, clock) = (client.clone(), led.clone(), Arc::clone(&clock));
                let of = (stages, &crypto);
                staging = Some(Staging::new(client, &lease, led, clock, of));
            }
            let writing = Writing::new(client.clone(), self.id.clone(), led, Arc::clone(&clock));
            election.spawn(elect(client, lease, clock, leads, drain.clone()));
            writing
        });
        let mut snapshot = sink.snapshot().clone();
        let mut index = Index::new(self.id, self.defaults);
        let mut health = Health::default();
        let mut batch = Vec::new();
        let (mut look, mut stage, mut stagings) = (None, None, 0);
        loop {
            tokio::select! {
                biased;
                () = drain.closed() => break,
                () = look_at(look) => {
                    look = None;
                    if let Some(writing) = &mut writing {
                        writing.look(&index, &snapshot.load());
                        // What waits is looked at again.
                        look = Some(Instant::now() + LOOK_AGAIN);
                    }
                }
                () = look_at(stage) => stage = staging.as_mut().and_then(|staging| staging.look(&index)),
                _any = heard.recv_many(&mut batch, BATCH) => look = soon(look),
                () = changed(writing.as_mut()) => look = soon(look),
                true = snapshot.changed(), if writing.is_some() => look = soon(look),
            }
            for (kind, said) in batch.drain(..) {
                health.note(kind, &said);
                if let Said::Of(event) = said {
                    index.handle(kind, event);
                }
            }
            if let Some(change) = index.poll() {
                match writing {
                    // A status is that of a snapshot which has the object.
                    Some(_) => drop(sink.apply(change).await?),
                    None => sink.push(change).await?,
                }
            }
            if let Some(staging) = &mut staging
                && index.stagings() != stagings
            {
                stagings = index.stagings();
                stage = staging.look(&index);
            }
            let waits = index.waits_for().next().is_some();
            match health.next(waits) {
                None => {}
                Some(None) => sink.synced().await?,
                Some(Some(why)) => sink.lost(why).await?,
            }
        }
        while election.join_next().await.is_some() {}
        Ok(())
    }
}

/// A moment at which to look, if there is one.
async fn look_at(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Soon, unless it is sooner already: what comes together is looked at once.
fn soon(look: Option<Instant>) -> Option<Instant> {
    let soon = Instant::now() + LOOK;
    Some(look.map_or(soon, |look| look.min(soon)))
}

async fn changed(writing: Option<&mut Writing>) {
    match writing {
        Some(writing) => writing.changed().await,
        None => std::future::pending().await,
    }
}

// === impl Health ===

impl Health {
    fn note(&mut self, kind: usize, said: &Said) {
        match said {
            Said::Live | Said::Of(Event::Absent) => {
                self.failed.remove(&kind);
            }
            Said::Of(_) => {}
            Said::Failed(why) => {
                self.failed.insert(kind, why.clone());
            }
        }
    }

    /// What is to be said of the source, if that is another thing than before: nothing where it is
    /// synced, else why it is not.
    fn next(&mut self, waits: bool) -> Option<Option<String>> {
        let why = self.failed.values().next();
        if why.is_none() && waits {
            return None;
        }
        // How many kinds share it changes all the time: that alone is not said anew.
        if self.said.as_ref() == Some(&why.cloned()) {
            return None;
        }
        self.said = Some(why.cloned());
        Some(why.map(|why| match self.failed.len() {
            1 => why.clone(),
            all => format!("{why}; and {} more kinds", all - 1),
        }))
    }
}
