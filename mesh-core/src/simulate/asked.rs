//! What a load asks, prepared once for each user.

use std::time::Duration;

use super::record::End;
use crate::error::is_grpc;
use crate::explain::{Admitted, Outcome, Question, Scene, admit, explain};
use crate::leave::Head;
use crate::model::ServiceName;
use crate::plan::PlannedBackend;
use crate::snapshot::Snapshot;

/// A question, as often as it is asked.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) question: Question,
    /// The request as it is admitted, or how it ends before that.
    pub(super) admitted: Result<Admitted, End>,
    /// Whether it is a call of gRPC.
    pub(super) grpc: bool,
    /// How it may be sent a second time.
    pub(super) head: Head,
    pub(super) idempotent: bool,
    /// Whether the policies at the other side deny it, of backends where that is known.
    denied: Vec<(ServiceName, u16, bool)>,
}

// === impl Asked ===

impl Asked {
    pub(super) fn new(snapshot: &Snapshot, question: &Question) -> Self {
        let scene = Scene::new(snapshot, &snapshot.settings().local);
        let admitted = admit(&scene, question).map_err(|error| End::Mesh(error.reason()));
        let request = question.request();
        Self {
            grpc: is_grpc(request.headers()),
            head: Head::of(request),
            idempotent: request.method().is_idempotent(),
            denied: Vec::new(),
            admitted,
            question: question.clone(),
        }
    }

    /// Whether the policies of the workload behind a backend deny it, as an explanation has it. `seed`
    /// is what leads to the backend.
    pub(super) fn is_denied(
        &mut self,
        snapshot: &Snapshot,
        backend: PlannedBackend<'_>,
        seed: u64,
        now: Duration,
    ) -> bool {
        let same = |(service, port, _): &&(ServiceName, u16, bool)| {
            *port == backend.port && service == backend.service
        };
        if let Some((_, _, denied)) = self.denied.iter().find(same) {
            return *denied;
        }
        let scene = Scene::new(snapshot, &snapshot.settings().local).at(now);
        let seen = explain(&scene, &self.question.clone().draw(seed));
        if seen.inbound.is_empty() && seen.verdict.outcome == Outcome::Refused {
            // No endpoint to ask at the moment.
            return false;
        }
        let denied = seen.verdict.outcome == Outcome::Refused;
        let of = (backend.service.clone(), backend.port, denied);
        self.denied.push(of);
        denied
    }
}
