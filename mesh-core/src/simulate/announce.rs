//! What is known of endpoints: the documents with some of them gone, or terminating.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::scenario::Announced;
use crate::model::{Conditions, Host, HostAddress, Slice, SliceHost, SourceId};
use crate::snapshot::{Change, Op, Snapshot};

/// The endpoints as the documents list them, and what was announced since.
pub(super) struct Listed {
    slices: Vec<(SourceId, Arc<Slice>)>,
    names: Vec<(Host, Arc<[HostAddress]>)>,
    announced: BTreeMap<SocketAddr, Announced>,
}

// === impl Listed ===

impl Listed {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let names = snapshot.resolutions();
        let names = names.filter_map(|(host, found)| Some((host.clone(), Arc::clone(found?))));
        let mut names: Vec<_> = names.collect();
        names.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self {
            slices: snapshot.slices(),
            names,
            announced: BTreeMap::new(),
        }
    }

    /// The changes that callers are sent once something is announced of endpoints.
    pub(super) fn announce(&mut self, of: &[SocketAddr], announced: Announced) -> Vec<Change> {
        for address in of {
            self.announced.insert(*address, announced);
        }
        let of: BTreeSet<_> = of.iter().collect();
        let mut by_source: BTreeMap<&SourceId, Vec<Op>> = BTreeMap::new();
        for (source, slice) in &self.slices {
            let mut places = slice.hosts.iter().flat_map(|host| places(slice, host));
            if places.any(|place| of.contains(&place)) {
                let op = Op::put(self.as_announced(slice));
                by_source.entry(source).or_default().push(op);
            }
        }
        let resolver = SourceId::new("stand-ins");
        for (host, found) in &self.names {
            if found
                .iter()
                .any(|found| of.iter().any(|at| at.ip() == found.ip))
            {
                let left = found.iter().filter(|found| !self.is_gone(found));
                let op = Op::Resolve(host.clone(), left.copied().collect());
                by_source.entry(&resolver).or_default().push(op);
            }
        }
        let changes = by_source.into_iter();
        changes
            .map(|(source, ops)| Change::update(source.clone(), ops))
            .collect()
    }

    fn as_announced(&self, slice: &Slice) -> Slice {
        let mut out = slice.clone();
        out.hosts.retain_mut(|host| {
            let said = places(slice, host).find_map(|place| self.announced.get(&place));
            if said == Some(&Announced::Terminating) {
                host.conditions = Conditions::new(Some(false), Some(true), Some(true));
            }
            said != Some(&Announced::Gone)
        });
        out
    }

    /// Whether the endpoint at an address of a name has left; one that terminates is not named any more.
    fn is_gone(&self, found: &HostAddress) -> bool {
        let said = self.announced.iter();
        let mut said = said.filter(|(address, _)| address.ip() == found.ip);
        said.any(|(_, announced)| *announced != Announced::Listed)
    }
}

/// Where a host of a slice is.
fn places(slice: &Slice, host: &SliceHost) -> impl Iterator<Item = SocketAddr> + use<> {
    let address = match host.host {
        Host::Address(ip) => Some(ip),
        Host::Name { .. } => None,
    };
    let ports: Vec<u16> = slice.ports.iter().map(|port| port.port).collect();
    let places = address.map(|ip| ports.into_iter().map(move |port| SocketAddr::new(ip, port)));
    places.into_iter().flatten()
}
