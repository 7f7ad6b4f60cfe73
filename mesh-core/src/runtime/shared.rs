//! What all stacks of a runtime share.

use std::sync::Arc;

use inmesh_pki::Crypto;
use inmesh_pki::clock::Clock;
use inmesh_pki::serve::Places;
use inmesh_pki::store::IdentityReader;
use tokio_util::task::TaskTracker;

use super::exchange::Pending;
use super::first::ServerFirst;
use super::limits::Limits;
use super::listening::Listening;
use super::mirror::places::Mirrors;
use super::upstream::Upstreams;
use crate::accept::Sockets;
use crate::authorize::{Authorizers, PathForm};
use crate::budget::Budget;
use crate::connect::{Flow, Switched, splice};
use crate::drain::Drain;
use crate::error::Error;
use crate::identify::{Live, Tls};
use crate::local::Local;
use crate::snapshot::SnapshotReader;
use crate::telemetry::{LabelText, Recorder, Seldom};

pub(super) struct Shared {
    pub(super) reader: SnapshotReader,
    pub(super) identity: IdentityReader,
    pub(super) crypto: Crypto,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) live: Arc<Live>,
    pub(super) upstreams: Arc<Upstreams>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) authorizers: Authorizers,
    pub(super) limits: Arc<Limits>,
    pub(super) sockets: Arc<Sockets>,
    /// The connections of each peer to all inbound listeners.
    pub(super) peers: Places,
    /// What bodies may hold.
    pub(super) budget: Arc<Budget>,
    pub(super) paths: PathForm,
    pub(super) server_first: ServerFirst,
    pub(super) drain: Drain,
    /// The tasks that serve connections.
    pub(super) tracker: TaskTracker,
    pub(super) listening: Listening,
    pub(super) mirrors: Mirrors,
    /// Lines of the log about callers that have no identity.
    pub(super) strangers: Seldom,
}

impl Shared {
    /// Mesh TLS as a local workload.
    pub(super) fn tls(&self, local: &Arc<Local>) -> Arc<Tls> {
        let (identity, crypto) = (&self.identity, &self.crypto);
        Arc::new(Tls::new(local, identity, crypto, &self.clock, &self.live))
    }

    /// Joins two connections that have left HTTP, in a task of their own, until both have ended or
    /// `denied` says that they must.
    pub(super) fn splice(
        &self,
        mut pending: Pending,
        switched: Switched,
        denied: impl Future<Output = Error> + Send + 'static,
    ) {
        pending.switched();
        let drain = self.drain.clone();
        self.tracker.spawn(async move {
            let mut flow = Flow::default();
            let result = tokio::select! {
                spliced = splice(switched, drain, &mut flow) => spliced,
                error = denied => Err(error),
            };
            pending.joined(&flow, result);
        });
    }

    /// The SPIFFE ID of a local workload, as metrics name it. Where it has none of its own the name
    /// follows the default identity, which may come later and may change.
    pub(super) fn principal(&self, local: &Local) -> LabelText {
        match local.identity() {
            Some(id) => id.as_str().into(),
            None => LabelText::Identity(self.identity.clone()),
        }
    }
}
