//! The port that sources implement: a source pushes what it knows, whether or not requests flow.
//!
//! A [`Source`] is spawned by the runtime with a [`Sink`]. What it pushes goes through one bounded
//! queue, the [`Inbox`], to one merge task, which applies it to the snapshot and acknowledges it. A
//! source that falls behind waits; nothing is dropped. Once it has ended, what it pushed last
//! serves.

mod demand;
mod pushed;
mod state;

pub(crate) use demand::Demand;
#[cfg(feature = "runtime")]
pub(crate) use demand::Heard;
pub use demand::{Demands, Wanted};
pub use pushed::{Pushed, Pusher, pushed};
pub use state::SourceState;
#[cfg(feature = "runtime")]
pub(crate) use state::{Known, STALE_AFTER, Sources};

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::drain::Drain;
use crate::local::Local;
use crate::model::SourceId;
use crate::snapshot::{Change, ObjectStatus, SnapshotReader};
#[cfg(feature = "runtime")]
use crate::telemetry::{ExchangeSink, SinkGuard, Sinks};

/// Messages that may wait for the merge task before their senders do.
const QUEUE: usize = 64;

/// A source of configuration.
///
/// ```
/// use inmesh_core::discover::{Gone, Sink, Source};
/// use inmesh_core::drain::Drain;
/// use inmesh_core::model::SourceId;
/// use inmesh_core::snapshot::Change;
///
/// struct Nothing;
///
/// impl Source for Nothing {
///     fn id(&self) -> SourceId {
///         SourceId::new("nothing")
///     }
///
///     async fn run(self, sink: Sink, mut drain: Drain) -> Result<(), Gone> {
///         sink.push(Change::replace(self.id(), vec![])).await?;
///         sink.synced().await?;
///         drain.closed().await;
///         Ok(())
///     }
/// }
/// ```
pub trait Source: Send + 'static {
    /// Its name in status, logs and the order of precedence.
    fn id(&self) -> SourceId;

    /// Pushes what it knows until the drain closes. It calls [`Sink::synced`] once its first full
    /// state is pushed; the runtime is not ready before one source of every group has.
    fn run(self, sink: Sink, drain: Drain) -> impl Future<Output = Result<(), Gone>> + Send;
}

/// Where a source pushes to.
#[derive(Debug, Clone)]
pub struct Sink {
    id: SourceId,
    queue: mpsc::Sender<Message>,
    snapshot: SnapshotReader,
    demand: Demand,
    #[cfg(feature = "runtime")]
    exchanges: Sinks,
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Applied {
    /// The generation of the snapshot that holds it.
    pub generation: u64,
    /// The objects of the change that do not serve as they were pushed, and why: refused, shadowed
    /// by another source, or with a reference to something that does not exist.
    pub problems: Vec<ObjectStatus>,
}

/// What came through a sink, for the merge task.
#[derive(Debug)]
#[non_exhaustive]
pub enum Message {
    /// A change, and how to acknowledge it.
    Change(Change, Option<Acknowledge>),
    /// A local workload is no longer served.
    Retire(Arc<Local>),
    /// A local workload is served too.
    Serve(Arc<Local>, Acknowledge),
    /// The state of a source has changed.
    State(SourceId, SourceState),
}

/// Acknowledges a message; dropping it does so without a result.
#[derive(Debug)]
pub struct Acknowledge(oneshot::Sender<Applied>);

/// The queue of the merge task.
#[derive(Debug)]
pub struct Inbox {
    sender: Option<mpsc::Sender<Message>>,
    queue: mpsc::Receiver<Message>,
    snapshot: SnapshotReader,
    demand: Demand,
    #[cfg(feature = "runtime")]
    exchanges: Sinks,
}

/// The runtime has ended, and so does the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the mesh runtime has ended")]
#[non_exhaustive]
pub struct Gone;

// === impl Sink ===

impl Sink {
    /// Pushes a change, waiting while the merge task is busy.
    ///
    /// # Errors
    ///
    /// [`Gone`] when the runtime has ended.
    pub async fn push(&self, change: Change) -> Result<(), Gone> {
        self.send(Message::Change(change, None)).await
    }

    /// Pushes a change and waits until a snapshot holds it: the acknowledgement that a control
    /// plane can pass on.
    ///
    /// # Errors
    ///
    /// [`Gone`] when the runtime has ended.
    pub async fn apply(&self, change: Change) -> Result<Applied, Gone> {
        let (sender, applied) = oneshot::channel();
        let message = Message::Change(change, Some(Acknowledge(sender)));
        self.send(message).await?;
        applied.await.map_err(|_| Gone)
    }

    /// The first full state has been pushed, or the state is current again after [`lost`](Self::lost).
    ///
    /// # Errors
    ///
    /// [`Gone`] when the runtime has ended.
    pub async fn synced(&self) -> Result<(), Gone> {
        self.state(SourceState::Synced).await
    }

    /// A full state that was kept from an earlier run has been pushed. It counts for readiness, so
    /// that a process can start while what it reads from is away.
    ///
    /// # Errors
    ///
    /// [`Gone`] when the runtime has ended.
    pub async fn kept(&self) -> Result<(), Gone> {
        self.state(SourceState::Kept).await
    }

    /// What the source reads from is away. What it pushed serves on; a source that had pushed
    /// nothing stays unsynced.
    ///
    /// # Errors
    ///
    /// [`Gone`] when the runtime has ended.
    pub async fn lost(&self, reason: impl Into<String>) -> Result<(), Gone> {
        self.state(SourceState::Lost(reason.into())).await
    }

    /// What all sources have pushed so far, merged: a resolver reads here which names are needed.
    pub fn snapshot(&self) -> &SnapshotReader {
        &self.snapshot
    }

    /// What requests ask for and no source has pushed, for a source that knows more than it pushes. It
    /// answers for as long as it holds this; requests wait for it.
    pub fn demands(&self) -> Demands {
        Demands::of(&self.demand)
    }

    /// Shows every exchange of the runtime to `sink` from now on, for as long as what is returned lives: for a
    /// source that is asked how requests fare by what it has pushed. Where no runtime is behind this, there is
    /// nothing to see.
    #[cfg(feature = "runtime")]
    pub fn watch_exchanges(&self, sink: Arc<dyn ExchangeSink>) -> SinkGuard {
        self.exchanges.add(sink)
    }

    async fn state(&self, state: SourceState) -> Result<(), Gone> {
        self.send(Message::State(self.id.clone(), state)).await
    }

    async fn send(&self, message: Message) -> Result<(), Gone> {
        self.queue.send(message).await.map_err(|_| Gone)
    }
}

// === impl Applied ===

impl Applied {
    /// A change that serves as it was pushed.
    ///
    /// ```
    /// use inmesh_core::discover::Applied;
    /// assert!(Applied::at(7).problems.is_empty());
    /// ```
    pub fn at(generation: u64) -> Self {
        Self {
            generation,
            problems: Vec::new(),
        }
    }
}

// === impl Acknowledge ===

impl Acknowledge {
    /// Tells what became of it. A sender that no longer waits is no error.
    pub fn applied(self, applied: Applied) {
        let _waits = self.0.send(applied);
    }
}

// === impl Inbox ===

impl Inbox {
    /// An empty queue; `snapshot` is what its sinks show to their sources.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// use inmesh_core::authorize::DefaultAction;
    /// use inmesh_core::discover::{Inbox, Message};
    /// use inmesh_core::model::{SourceId, Workload};
    /// use inmesh_core::snapshot::{Settings, Snapshot, snapshot};
    ///
    /// let settings = Settings::new(Workload::new("shop", "web", "web")?, DefaultAction::Deny);
    /// let (_writer, reader) = snapshot(Snapshot::new(settings));
    /// let mut inbox = Inbox::new(reader);
    /// inbox.sink(SourceId::new("me")).synced().await?;
    /// assert!(matches!(inbox.next().await, Some(Message::State(..))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new(snapshot: SnapshotReader) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE);
        Self {
            sender: Some(sender),
            queue,
            snapshot,
            demand: Demand::default(),
            #[cfg(feature = "runtime")]
            exchanges: Sinks::default(),
        }
    }

    /// The sink of a source. Once the inbox was read it makes sinks that are [`Gone`].
    pub fn sink(&self, id: SourceId) -> Sink {
        let queue = self.sender.clone().unwrap_or_else(|| mpsc::channel(1).0);
        Sink {
            id,
            queue,
            snapshot: self.snapshot.clone(),
            demand: self.demand.clone(),
            #[cfg(feature = "runtime")]
            exchanges: self.exchanges.clone(),
        }
    }

    /// The next message; `None` once every sink is gone.
    pub async fn next(&mut self) -> Option<Message> {
        self.sender = None;
        self.queue.recv().await
    }

    /// What requests ask for and no source has pushed.
    #[cfg(feature = "runtime")]
    pub(crate) fn demand(&self) -> &Demand {
        &self.demand
    }

    /// The same whose sources may watch the exchanges of a runtime.
    #[cfg(feature = "runtime")]
    #[must_use]
    pub(crate) fn with_exchanges(mut self, exchanges: Sinks) -> Self {
        self.exchanges = exchanges;
        self
    }

    /// A handle to add and retire local workloads with.
    #[cfg(feature = "runtime")]
    pub(crate) fn workloads(&self) -> Workloads {
        let queue = self.sender.as_ref().map(mpsc::Sender::downgrade);
        Workloads(queue)
    }
}

/// Adds and retires local workloads, as long as the merge task runs. It keeps no inbox open.
#[cfg(feature = "runtime")]
#[derive(Debug, Clone)]
pub(crate) struct Workloads(Option<mpsc::WeakSender<Message>>);

// === impl Workloads ===

#[cfg(feature = "runtime")]
impl Workloads {
    /// Serves a workload, once a snapshot holds its policy.
    pub(crate) async fn serve(&self, local: &Arc<Local>) -> Result<Applied, Gone> {
        let queue = self.queue().ok_or(Gone)?;
        let (sender, applied) = oneshot::channel();
        let message = Message::Serve(Arc::clone(local), Acknowledge(sender));
        queue.send(message).await.map_err(|_| Gone)?;
        applied.await.map_err(|_| Gone)
    }

    /// Serves a workload no longer.
    pub(crate) async fn retire(&self, local: &Arc<Local>) -> Result<(), Gone> {
        let queue = self.queue().ok_or(Gone)?;
        let message = Message::Retire(Arc::clone(local));
        queue.send(message).await.map_err(|_| Gone)
    }

    /// Pushes a change that requests ask for.
    pub(crate) async fn push(&self, change: Change) -> Result<(), Gone> {
        let queue = self.queue().ok_or(Gone)?;
        let message = Message::Change(change, None);
        queue.send(message).await.map_err(|_| Gone)
    }

    fn queue(&self) -> Option<mpsc::Sender<Message>> {
        self.0.as_ref()?.upgrade()
    }
}
