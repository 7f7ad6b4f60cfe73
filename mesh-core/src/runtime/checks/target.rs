//! Which endpoints are checked, and how.

use std::sync::Arc;

use crate::balance::{CheckPolicy, Member};
use crate::model::{AppProtocol, ServiceName};
use crate::snapshot::Snapshot;

/// An endpoint that is checked.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) service: ServiceName,
    pub(super) port: u16,
    pub(super) protocol: AppProtocol,
    /// The host of the Service, as the checks name it.
    pub(super) host: Arc<str>,
    pub(super) member: Member,
    pub(super) policy: Arc<CheckPolicy>,
}

/// The endpoints that policies ask to check.
pub(super) fn targets(snapshot: &Snapshot) -> impl Iterator<Item = Target> {
    // Most have none, and services without number.
    let asked = snapshot.has_checks().then(|| snapshot.services());
    asked.into_iter().flatten().flat_map(|service| {
        service.ports.iter().flat_map(move |port| {
            let view = service.port_view(port.port);
            let checked = view.and_then(|view| Some((view, view.traffic.check.as_ref()?)));
            checked.into_iter().flat_map(move |(view, check)| {
                view.endpoints.members().iter().map(move |member| Target {
                    service: service.name.clone(),
                    port: port.port,
                    protocol: view.protocol,
                    host: Arc::clone(&service.host),
                    member: member.clone(),
                    policy: Arc::clone(&check.value),
                })
            })
        })
    })
}
