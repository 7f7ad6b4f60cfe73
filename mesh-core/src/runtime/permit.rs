//! Which callers a local workload permits, and the metrics that each is counted under.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use inmesh_pki::id::SpiffeId;

use super::labels;
use super::shared::Shared;
use super::standing::{Asked, PolicyChanges};
use crate::authorize::{Permit, RequestView, Verdict};
use crate::error::Error;
use crate::identify::{Peer, PeerInfo, Tls};
use crate::telemetry::{LabelText, Series};

/// The most callers whose metrics are kept apart; further ones share the labels `unknown`.
const CALLERS: usize = 1_000;

/// What all inbound listeners of one local workload share.
pub(super) struct Inbound {
    pub(super) shared: Arc<Shared>,
    pub(super) tls: Arc<Tls>,
    principal: LabelText,
    callers: Mutex<HashMap<Option<SpiffeId>, Arc<Series>>>,
    policy: PolicyChanges,
}

// === impl Inbound ===

impl Inbound {
    pub(super) fn new(shared: &Arc<Shared>, tls: Arc<Tls>, principal: LabelText) -> Self {
        let local = Arc::clone(tls.local());
        Self {
            policy: PolicyChanges::follow(shared.reader.clone(), local),
            shared: Arc::clone(shared),
            tls,
            principal,
            callers: Mutex::default(),
        }
    }

    /// Decides whether a request is permitted, as far as policy decides by itself.
    pub(super) fn decide(&self, peer: &Peer, view: &RequestView<'_>) -> Verdict {
        let snapshot = self.shared.reader.peek();
        snapshot.authorize(self.tls.local(), peer, view)
    }

    /// Decides whether a request is permitted, asking external authorizers if policy wants that.
    pub(super) async fn permit(&self, peer: &Peer, view: RequestView<'_>) -> Result<Permit, Error> {
        let permitted = match self.decide(peer, &view) {
            verdict @ Verdict::Ask(_) => {
                let settling = self.shared.authorizers.settle(verdict, peer, view);
                Box::pin(settling).await
            }
            verdict => verdict.permit(),
        };
        permitted.map_err(Error::from)
    }

    /// Ready once policy does no longer permit what stands open.
    pub(super) async fn denied(self: Arc<Self>, caller: Arc<PeerInfo>, asked: Asked) -> Error {
        let mut policy = self.policy.clone();
        loop {
            policy.next().await;
            if let Err(error) = self.permit(&caller.peer, asked.view()).await {
                let (from, local) = (caller.address, self.tls.local());
                let workload = &local.workload().name;
                tracing::warn!(%from, %workload, "closing an open connection: {error}");
                return error;
            }
        }
    }

    /// The metrics of a caller.
    pub(super) fn series(&self, caller: Option<&SpiffeId>) -> Arc<Series> {
        let mut known = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let key = caller.cloned();
        if let Some(series) = known.get(&key) {
            return Arc::clone(series);
        }
        let key = key.filter(|_| known.len() < CALLERS);
        let series = known.entry(key.clone()).or_insert_with(|| {
            let workload = self.tls.local().workload();
            let snapshot = self.shared.reader.peek();
            let domain = &snapshot.settings().cluster_domain;
            Arc::new(labels::inbound(
                workload,
                domain,
                &self.principal,
                key.as_ref(),
            ))
        });
        Arc::clone(series)
    }
}
