//! One writer, many readers: the snapshot is swapped whole, and readers never wait.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::change::Change;
use super::state::Snapshot;
use crate::local::Local;

/// How many snapshots of the past wait to be dropped by the writer, so that no request pays for it.
const RETIRED: usize = 16;

/// Applies changes. There is one, and it cannot be cloned.
#[derive(Debug)]
pub struct SnapshotWriter {
    shared: Arc<ArcSwap<Snapshot>>,
    notify: watch::Sender<u64>,
    retired: VecDeque<Arc<Snapshot>>,
}

/// Reads the current snapshot. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SnapshotReader {
    shared: Arc<ArcSwap<Snapshot>>,
    notify: watch::Receiver<u64>,
}

/// A snapshot for a moment: do not hold it over an `await`.
#[derive(Debug)]
pub struct Pinned(arc_swap::Guard<Arc<Snapshot>>);

/// Makes the store of a snapshot.
///
/// ```
/// use inmesh_core::authorize::DefaultAction;
/// use inmesh_core::model::{SourceId, Workload};
/// use inmesh_core::snapshot::{Change, Settings, Snapshot, snapshot};
/// let settings = Settings::new(Workload::new("shop", "web", "web")?, DefaultAction::Deny);
/// let (mut writer, reader) = snapshot(Snapshot::new(settings));
/// writer.apply(Change::update(SourceId::new("me"), vec![]));
/// assert_eq!(reader.load().generation(), 0, "nothing has changed");
/// # Ok::<(), inmesh_core::model::InvalidName>(())
/// ```
pub fn snapshot(initial: Snapshot) -> (SnapshotWriter, SnapshotReader) {
    let shared = Arc::new(ArcSwap::from_pointee(initial));
    let (sender, receiver) = watch::channel(0);
    let writer = SnapshotWriter {
        shared: Arc::clone(&shared),
        notify: sender,
        retired: VecDeque::new(),
    };
    let reader = SnapshotReader {
        shared,
        notify: receiver,
    };
    (writer, reader)
}

// === impl SnapshotWriter ===

impl SnapshotWriter {
    /// The current snapshot.
    pub fn load(&self) -> Arc<Snapshot> {
        self.shared.load_full()
    }

    /// Applies a change and swaps the snapshot once. Returns the new one.
    pub fn apply(&mut self, change: Change) -> Arc<Snapshot> {
        let next = self.shared.load().apply(change);
        self.swap(next)
    }

    /// Serves another local workload from now on.
    pub fn serve(&mut self, local: &Arc<Local>) -> Arc<Snapshot> {
        let next = self.shared.load().serve(local);
        self.swap(next)
    }

    /// Serves a local workload no longer.
    pub fn retire(&mut self, local: &Arc<Local>) -> Arc<Snapshot> {
        let next = self.shared.load().retire(local);
        self.swap(next)
    }

    fn swap(&mut self, next: Snapshot) -> Arc<Snapshot> {
        let next = Arc::new(next);
        let old = self.shared.swap(Arc::clone(&next));
        self.retired.push_back(old);
        while self.retired.len() > RETIRED {
            self.retired.pop_front();
        }
        self.notify.send_modify(|version| *version += 1);
        next
    }
}

// === impl SnapshotReader ===

impl SnapshotReader {
    /// The current snapshot, to keep.
    pub fn load(&self) -> Arc<Snapshot> {
        self.shared.load_full()
    }

    /// The current snapshot, to look at and let go; it is cheaper than [`load`](Self::load).
    pub fn peek(&self) -> Pinned {
        Pinned(self.shared.load())
    }

    /// Waits until the snapshot has been swapped since the last call (or since this reader was
    /// made). Returns `false` once the writer is gone.
    pub async fn changed(&mut self) -> bool {
        self.notify.changed().await.is_ok()
    }
}

// === impl Pinned ===

impl Deref for Pinned {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}
