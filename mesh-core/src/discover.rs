//! The port that sources implement: whoever knows something pushes it, whether or not requests
//! flow.
//!
//! A [`Source`] is spawned by the runtime with a [`Sink`]. What it pushes goes through one bounded
//! queue to one merge task, which applies it to the snapshot. A source that falls behind waits;
//! nothing is dropped. When it ends by itself the runtime says so in the log and goes on with what
//! it last said.

use std::future::Future;

use tokio::sync::mpsc;

use crate::drain::Drain;
use crate::model::{Change, Op, SnapshotReader, SourceId};

/// A source of configuration.
///
/// ```
/// use inmesh_core::discover::{Gone, Sink, Source};
/// use inmesh_core::drain::Drain;
/// use inmesh_core::model::{Change, SourceId};
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
    /// state is pushed; the runtime is not ready before every source has.
    fn run(self, sink: Sink, drain: Drain) -> impl Future<Output = Result<(), Gone>> + Send;
}

/// Where a source pushes to.
#[derive(Debug, Clone)]
pub struct Sink {
    id: SourceId,
    queue: mpsc::Sender<Said>,
    snapshot: SnapshotReader,
}

/// What came through a sink, for the merge task.
#[derive(Debug)]
#[non_exhaustive]
pub enum Said {
    /// A change.
    Change(Change),
    /// The source has pushed its first full state.
    Synced(SourceId),
}

/// The runtime is gone; the source ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the mesh runtime is gone")]
#[non_exhaustive]
pub struct Gone;

/// Makes a sink and the queue that the merge task reads.
pub fn sink(id: SourceId, queue: mpsc::Sender<Said>, snapshot: SnapshotReader) -> Sink {
    Sink {
        id,
        queue,
        snapshot,
    }
}

// === impl Sink ===

impl Sink {
    /// Pushes a change, waiting while the merge task is busy.
    ///
    /// # Errors
    /// [`Gone`] when the runtime has ended.
    pub async fn push(&self, change: Change) -> Result<(), Gone> {
        self.queue
            .send(Said::Change(change))
            .await
            .map_err(|_| Gone)
    }

    /// Says that the first full state has been pushed.
    ///
    /// # Errors
    /// [`Gone`] when the runtime has ended.
    pub async fn synced(&self) -> Result<(), Gone> {
        let said = Said::Synced(self.id.clone());
        self.queue.send(said).await.map_err(|_| Gone)
    }

    /// What all sources have said so far, merged: a resolver reads here which names are wanted.
    pub fn snapshot(&self) -> &SnapshotReader {
        &self.snapshot
    }
}

/// A source that says what its [`Pusher`] is told to: for embedders that know their endpoints
/// themselves, and for tests.
#[derive(Debug)]
pub struct Pushed {
    id: SourceId,
    queue: mpsc::Receiver<Change>,
}

/// Tells a [`Pushed`] source what to say.
#[derive(Debug, Clone)]
pub struct Pusher {
    id: SourceId,
    queue: mpsc::Sender<Change>,
}

/// Makes a source and its pusher. The source has synced once the first operations were pushed.
pub fn pushed(name: &str) -> (Pusher, Pushed) {
    let id = SourceId::new(name);
    let (sender, receiver) = mpsc::channel(8);
    let pusher = Pusher {
        id: id.clone(),
        queue: sender,
    };
    let source = Pushed {
        id,
        queue: receiver,
    };
    (pusher, source)
}

// === impl Pusher ===

impl Pusher {
    /// Pushes operations as one change.
    ///
    /// # Errors
    /// [`Gone`] when the runtime has ended.
    pub async fn push(&self, ops: Vec<Op>) -> Result<(), Gone> {
        let change = Change::update(self.id.clone(), ops);
        self.queue.send(change).await.map_err(|_| Gone)
    }
}

// === impl Pushed ===

impl Source for Pushed {
    fn id(&self) -> SourceId {
        self.id.clone()
    }

    async fn run(mut self, sink: Sink, mut drain: Drain) -> Result<(), Gone> {
        loop {
            tokio::select! {
                change = self.queue.recv() => match change {
                    Some(change) => {
                        sink.push(change).await?;
                        sink.synced().await?;
                    }
                    // Nobody will say more; what was said stays.
                    None => break,
                },
                () = drain.closed() => break,
            }
        }
        drain.closed().await;
        Ok(())
    }
}
