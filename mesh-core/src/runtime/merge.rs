//! The one task that changes the snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use inmesh_pki::clock::Clock;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::discover::{Applied, Inbox, Message, Sources};
use crate::drain::Drain;
use crate::model::ObjectKey;
use crate::snapshot::{Change, Difference, Mentioned, Op, Snapshot, SnapshotWriter};

/// Makes changes, and says in the log what each has made of its objects.
pub(super) struct Changes {
    writer: SnapshotWriter,
    clock: Arc<dyn Clock>,
    last: Arc<AtomicU64>,
}

// === impl Changes ===

impl Changes {
    pub(super) fn new(writer: SnapshotWriter, clock: Arc<dyn Clock>) -> Self {
        Self {
            writer,
            clock,
            last: Arc::default(),
        }
    }

    /// When the last one took effect, in seconds since 1970; 0 before the first.
    pub(super) fn last(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.last)
    }

    fn make(&mut self, change: Change) -> Arc<Snapshot> {
        let before = self.writer.load();
        let (source, mentioned) = (change.source.clone(), Mentioned::by(&change, &before));
        let next = self.writer.apply(change);
        let generation = next.generation();
        if generation == before.generation() {
            return next;
        }
        let now = self.clock.now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs();
        self.last.store(now, Ordering::Relaxed);
        let what = Difference::between(&before, &next, mentioned);
        // Names are resolved as often as their records end.
        if what.is_of_names_alone() {
            tracing::debug!(%source, generation, %what, "configuration changed");
        } else {
            tracing::info!(%source, generation, %what, "configuration changed");
        }
        next
    }
}

/// Applies what comes through the inbox until the drain has closed.
pub(super) async fn merge(
    mut changes: Changes,
    mut inbox: Inbox,
    sources: watch::Sender<Sources>,
    // The zero of the clock that sources are as old on.
    epoch: Instant,
    mut drain: Drain,
) {
    let mut open = true;
    loop {
        let due = sources.borrow().next_stale();
        let due = due.and_then(|due| epoch.checked_add(due));
        let message = tokio::select! {
            message = inbox.next(), if open => message,
            () = sleep_until(due.unwrap_or(epoch)), if due.is_some() => {
                doubt(&sources, epoch.elapsed());
                continue;
            }
            () = drain.closed() => return,
        };
        // Every source has ended; what they pushed last serves.
        let Some(message) = message else {
            open = false;
            continue;
        };
        match message {
            Message::Change(change, None) => drop(changes.make(change)),
            Message::Change(change, Some(acknowledge)) => {
                acknowledge.applied(apply(&mut changes, change));
            }
            Message::Serve(local, acknowledge) => {
                let generation = changes.writer.serve(&local).generation();
                acknowledge.applied(Applied::at(generation));
            }
            Message::Retire(local) => drop(changes.writer.retire(&local)),
            Message::State(source, state) => {
                let shown = state.to_string();
                if sources.send_if_modified(|all| all.set(&source, state, epoch.elapsed())) {
                    tracing::info!(%source, state = shown, "source");
                }
            }
        }
    }
}

/// Says which sources have become stale: once for each time that they do.
fn doubt(sources: &watch::Sender<Sources>, now: Duration) {
    let mut stale = Vec::new();
    sources.send_if_modified(|all| {
        stale = all.poll_stale(now);
        !stale.is_empty()
    });
    for (source, age) in stale {
        let age_seconds = age.as_secs();
        tracing::warn!(%source, age_seconds, "the source is stale; what it pushed last serves");
    }
}

/// Applies a change and finds out what became of its objects.
fn apply(changes: &mut Changes, change: Change) -> Applied {
    let source = change.source.clone();
    let keys: Vec<ObjectKey> = change.ops.iter().filter_map(key).collect();
    let next = changes.make(change);
    let generation = next.generation();
    Applied {
        problems: next.problems(&source, &keys),
        ..Applied::at(generation)
    }
}

fn key(op: &Op) -> Option<ObjectKey> {
    match op {
        Op::Put(object, _) => Some(object.key()),
        Op::Keep(key) | Op::Refuse(key, ..) => Some(key.clone()),
        Op::Ask(..) | Op::Document(..) | Op::Forget(..) | Op::Remove(_) | Op::Resolve(..) => None,
    }
}
