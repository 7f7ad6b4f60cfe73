//! Policy of what stands open: a connection of opaque bytes, or one that has left HTTP, was decided
//! on once and lives longer than the policy of that moment.
//!
//! In comes each change of a workload's compiled policy, out goes the denial of a connection that
//! the new one does not permit, as if it were asked for now. Changes of anything else wake no
//! connection.

use std::sync::Arc;

use http::{HeaderMap, Method, Request, Uri};
use tokio::sync::watch;

use crate::authorize::{HttpView, RequestView};
use crate::body::Body;
use crate::local::Local;
use crate::snapshot::SnapshotReader;

/// Tells that the policy of a workload has changed.
#[derive(Debug, Clone)]
pub(super) struct PolicyChanges(watch::Receiver<()>);

/// What a connection was permitted for.
#[derive(Debug)]
pub(super) enum Asked {
    /// To switch protocols: the head of the request that asked for it.
    Upgrade(Box<Head>),
    /// To carry opaque bytes.
    Opaque,
}

#[derive(Debug)]
pub(super) struct Head {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

// === impl PolicyChanges ===

impl PolicyChanges {
    /// Follows the policy of a workload until the last receiver is gone.
    pub(super) fn follow(mut reader: SnapshotReader, local: Arc<Local>) -> Self {
        let (sender, receiver) = watch::channel(());
        tokio::spawn(async move {
            let mut before = reader.peek().policy_of(&local).cloned();
            loop {
                tokio::select! {
                    swapped = reader.changed() => if !swapped { return },
                    () = sender.closed() => return,
                }
                let now = reader.peek().policy_of(&local).cloned();
                let same = match (&before, &now) {
                    (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                    (None, None) => true,
                    _ => false,
                };
                if !same {
                    before = now;
                    sender.send_replace(());
                }
            }
        });
        Self(receiver)
    }

    /// Waits for the next change. A clone has not seen the changes that were before it, so that one
    /// between a decision and this call is not missed.
    pub(super) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

// === impl Asked ===

impl Asked {
    /// Keeps the head of a request that may switch protocols.
    pub(super) fn upgrade(request: &Request<Body>) -> Self {
        Self::Upgrade(Box::new(Head {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
        }))
    }

    /// What policies see of it.
    pub(super) fn view(&self) -> RequestView<'_> {
        match self {
            Self::Opaque => RequestView::Tcp,
            Self::Upgrade(head) => RequestView::Http(HttpView::new(
                &head.method,
                head.uri.path(),
                head.uri.query(),
                &head.headers,
            )),
        }
    }
}
