//! The one task that changes the snapshot.

use tokio::sync::watch;

use crate::discover::{Applied, Inbox, Message, Sources};
use crate::drain::Drain;
use crate::model::ObjectKey;
use crate::snapshot::{Change, Op, SnapshotWriter};

/// Applies what comes through the inbox until the drain has closed.
pub(super) async fn merge(
    mut writer: SnapshotWriter,
    mut inbox: Inbox,
    sources: watch::Sender<Sources>,
    mut drain: Drain,
) {
    loop {
        let message = tokio::select! {
            message = inbox.next() => message,
            () = drain.closed() => return,
        };
        // Every source has ended; what they pushed last serves.
        let Some(message) = message else {
            return drain.closed().await;
        };
        match message {
            Message::Change(change, None) => {
                let source = change.source.clone();
                let next = writer.apply(change);
                tracing::debug!(%source, generation = next.generation(), "configuration changed");
            }
            Message::Change(change, Some(acknowledge)) => {
                acknowledge.applied(apply(&mut writer, change));
            }
            Message::Serve(local, acknowledge) => {
                let generation = writer.serve(&local).generation();
                acknowledge.applied(Applied::at(generation));
            }
            Message::Retire(local) => drop(writer.retire(&local)),
            Message::State(source, state) => {
                let shown = state.to_string();
                if sources.send_if_modified(|sources| sources.set(&source, state)) {
                    tracing::info!(%source, state = shown, "source");
                }
            }
        }
    }
}

/// Applies a change and finds out what became of its objects.
fn apply(writer: &mut SnapshotWriter, change: Change) -> Applied {
    let source = change.source.clone();
    let keys: Vec<ObjectKey> = change.ops.iter().filter_map(key).collect();
    let next = writer.apply(change);
    let generation = next.generation();
    tracing::debug!(%source, generation, "configuration changed");
    Applied {
        problems: next.problems(&source, &keys),
        ..Applied::at(generation)
    }
}

fn key(op: &Op) -> Option<ObjectKey> {
    match op {
        Op::Put(object, _) => Some(object.key()),
        Op::Keep(key) | Op::Refuse(key, ..) => Some(key.clone()),
        Op::Remove(_) | Op::Resolve(..) => None,
    }
}
