//! One writer, many readers: the snapshot is swapped whole, and readers never wait.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, watch};

use super::apply::Touched;
use super::change::Change;
use super::state::Snapshot;
use crate::local::Local;

/// How many changes may wait for one that follows them.
const FOLLOWED: usize = 256;
/// How many snapshots of the past wait to be dropped by the writer, so that no request pays for it.
const RETIRED: usize = 16;

/// Applies changes. There is one, and it cannot be cloned.
#[derive(Debug)]
pub struct SnapshotWriter {
    shared: Arc<ArcSwap<Snapshot>>,
    notify: watch::Sender<u64>,
    touched: broadcast::Sender<Arc<Touched>>,
    retired: VecDeque<Arc<Snapshot>>,
}

/// Reads the current snapshot. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SnapshotReader {
    shared: Arc<ArcSwap<Snapshot>>,
    notify: watch::Receiver<u64>,
    touched: broadcast::WeakSender<Arc<Touched>>,
}

/// Hears what each change touches.
#[derive(Debug)]
pub struct Followed {
    shared: Arc<ArcSwap<Snapshot>>,
    touched: Option<broadcast::Receiver<Arc<Touched>>>,
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
    let touched = broadcast::Sender::new(FOLLOWED);
    let reader = SnapshotReader {
        shared: Arc::clone(&shared),
        notify: receiver,
        touched: touched.downgrade(),
    };
    let writer = SnapshotWriter {
        shared,
        notify: sender,
        touched,
        retired: VecDeque::new(),
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
        let (next, touched) = self.shared.load().apply_noting(change);
        let next = self.swap(next);
        if self.touched.receiver_count() > 0 {
            // The last that followed may have gone by now.
            let _followed = self.touched.send(Arc::new(touched));
        }
        next
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

    /// Follows the changes from here on, with what each of them touches.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// use inmesh_core::authorize::DefaultAction;
    /// use inmesh_core::model::{AppProtocol, Namespace, Service, ServiceName, ServicePort, SourceId, Workload};
    /// use inmesh_core::snapshot::{Change, Op, Settings, Snapshot, snapshot};
    /// let settings = Settings::new(Workload::new("shop", "web", "web")?, DefaultAction::Deny);
    /// let (mut writer, reader) = snapshot(Snapshot::new(settings));
    /// let mut followed = reader.follow();
    /// let cart = ServiceName::new(&Namespace::new("shop")?, "cart")?;
    /// let service = Service::new(cart.clone(), vec![ServicePort::new("", 80, AppProtocol::Http1)]);
    /// writer.apply(Change::update(SourceId::new("me"), vec![Op::put(service)]));
    /// let (snapshot, touched) = followed.next().await.expect("the writer is there");
    /// assert!(touched.expect("it kept up").services.contains(&cart) && snapshot.service(&cart).is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn follow(&self) -> Followed {
        let touched = self.touched.upgrade();
        Followed {
            shared: Arc::clone(&self.shared),
            touched: touched.map(|touched| touched.subscribe()),
        }
    }
}

// === impl Followed ===

impl Followed {
    /// Waits for the next change. Returns the newest snapshot, and what all changes have touched that it
    /// has and were not returned before: `None` where they were too many to be kept, so that anything may
    /// have changed. Returns `None` once the writer is gone.
    pub async fn next(&mut self) -> Option<(Arc<Snapshot>, Option<Touched>)> {
        let changes = self.touched.as_mut()?;
        let mut all = match changes.recv().await {
            Ok(first) => Some(Touched::clone(&first)),
            Err(RecvError::Lagged(_)) => None,
            Err(RecvError::Closed) => return None,
        };
        loop {
            match changes.try_recv() {
                Ok(more) => {
                    if let Some(all) = &mut all {
                        all.add(&more);
                    }
                }
                Err(TryRecvError::Lagged(_)) => all = None,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        Some((self.shared.load_full(), all))
    }
}

// === impl Pinned ===

impl Deref for Pinned {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}
