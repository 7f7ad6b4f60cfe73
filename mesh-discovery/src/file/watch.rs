//! Watches a folder for changes: cheap hints in, one settled hint out.
//!
//! The operating system sends events where it can; a poll finds what sends none (links
//! out of the folder, network file systems, a folder that was replaced as a whole). Reading is no
//! change, or every look would cause the next.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// An edit is settled when this long nothing has changed.
const QUIET: Duration = Duration::from_millis(50);
/// An edit that never settles is looked at after this long.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often the folder is looked at without an event.
const POLL: Duration = Duration::from_secs(10);
/// The same where no events come.
const POLL_ALONE: Duration = Duration::from_secs(1);

/// Watches one folder, also while it is missing or replaced.
#[derive(Debug)]
pub(super) struct Watch {
    hints: mpsc::Receiver<()>,
    hint: mpsc::Sender<()>,
    /// The watcher and what stands where it watches.
    armed: Option<(RecommendedWatcher, Identity)>,
    warned: bool,
}

/// What a path led to when it was looked at.
type Identity = (PathBuf, Option<(u64, u64)>);

// === impl Watch ===

impl Watch {
    pub(super) fn new() -> Self {
        // One hint is as good as many.
        let (hint, hints) = mpsc::channel(1);
        Self {
            hints,
            hint,
            armed: None,
            warned: false,
        }
    }

    /// Watches the folder if it is not watched yet, or if another one stands in its place.
    pub(super) fn arm(&mut self, dir: &Path) {
        let identity = identity(dir);
        if let (Some((_, watched)), Some(now)) = (&self.armed, &identity)
            && watched == now
        {
            return;
        }
        self.armed = None;
        let Some(identity) = identity else { return };
        let hint = self.hint.clone();
        let tell = move |event: notify::Result<Event>| {
            if event.as_ref().map_or(true, is_change) {
                // A full channel holds a hint already.
                let _told = hint.try_send(());
            }
        };
        let armed = notify::recommended_watcher(tell).and_then(|mut watcher| {
            watcher.watch(dir, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match armed {
            Ok(watcher) => self.armed = Some((watcher, identity)),
            Err(e) if self.warned => {
                tracing::debug!(dir = %dir.display(), error = %e, "not watched")
            }
            Err(e) => {
                self.warned = true;
                tracing::warn!(
                    dir = %dir.display(), error = %e,
                    "the folder cannot be watched; it is read once a second instead"
                );
            }
        }
    }

    /// Waits until the folder should be looked at.
    pub(super) async fn changed(&mut self) {
        let poll = if self.armed.is_some() {
            POLL
        } else {
            POLL_ALONE
        };
        // The sender is ours, so the channel never closes.
        if timeout(poll, self.hints.recv()).await.is_ok() {
            self.settle().await;
        }
    }

    /// Waits until nothing has changed for a while.
    pub(super) async fn settle(&mut self) {
        let patience = Instant::now() + PATIENCE;
        sleep(QUIET).await;
        while self.hints.try_recv().is_ok() && Instant::now() < patience {
            sleep(QUIET).await;
        }
    }
}

fn is_change(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => event.need_rescan(),
        _ => true,
    }
}

#[cfg(unix)]
fn identity(dir: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    let real = dir.canonicalize().ok()?;
    let metadata = real.metadata().ok()?;
    Some((real, Some((metadata.dev(), metadata.ino()))))
}

#[cfg(not(unix))]
fn identity(dir: &Path) -> Option<Identity> {
    Some((dir.canonicalize().ok()?, None))
}
