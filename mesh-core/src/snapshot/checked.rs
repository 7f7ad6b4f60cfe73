//! Which endpoints are checked, and how. Pure.

use std::sync::Arc;

use super::state::Snapshot;
use crate::balance::{CheckPolicy, Member};
use crate::model::{AppProtocol, ServiceName};

/// An endpoint that is checked.
#[derive(Clone)]
#[cfg_attr(
    not(feature = "runtime"),
    expect(dead_code, reason = "what is asked is a matter of the runtime")
)]
pub(crate) struct Checkable {
    pub(crate) service: ServiceName,
    pub(crate) port: u16,
    pub(crate) protocol: AppProtocol,
    /// The host of the Service, as the checks name it.
    pub(crate) host: Arc<str>,
    pub(crate) member: Member,
    pub(crate) policy: Arc<CheckPolicy>,
}

impl Snapshot {
    /// The endpoints that policies ask to check.
    pub(crate) fn checkable(&self) -> impl Iterator<Item = Checkable> {
        // Most have none, and services without number.
        let asked = self.has_checks().then(|| self.services());
        asked.into_iter().flatten().flat_map(|service| {
            service.ports.iter().flat_map(move |port| {
                let view = service.port_view(port.port);
                let checked = view.and_then(|view| Some((view, view.traffic.check.as_ref()?)));
                checked.into_iter().flat_map(move |(view, check)| {
                    let members = view.endpoints.members().iter();
                    members.map(move |member| Checkable {
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
}
