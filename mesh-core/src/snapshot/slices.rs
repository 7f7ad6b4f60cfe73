//! The slices of endpoints that serve, for a simulation that changes them, and the sources that endpoints
//! come from. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
#[cfg(feature = "simulate")]
use std::sync::Arc;

use super::change::Object;
use super::state::{Name, Snapshot};
#[cfg(feature = "simulate")]
use crate::model::Slice;
use crate::model::{Host, ServiceName, SourceId};

impl Snapshot {
    /// The sources that an endpoint of a Service comes from, those that have found its address included.
    pub(crate) fn sources_of(&self, service: &ServiceName, address: IpAddr) -> BTreeSet<SourceId> {
        let mut found = BTreeSet::new();
        for versions in self.objects.values() {
            let Some(winner) = versions.winner() else {
                continue;
            };
            let hosts: Vec<&Host> = match winner.good.as_ref() {
                Some(Object::Slice(slice)) if slice.service == *service => {
                    slice.hosts.iter().map(|host| &host.host).collect()
                }
                Some(Object::Service(of)) if of.name == *service => {
                    of.external.iter().map(|(host, _)| host).collect()
                }
                _ => continue,
            };
            for host in hosts {
                let resolver = match host {
                    Host::Address(ip) if *ip == address => None,
                    Host::Address(_) => continue,
                    host => match self.names.get(host) {
                        Some(name) if name.has(address) => name.source.clone(),
                        _ => continue,
                    },
                };
                found.insert(winner.source.clone());
                found.extend(resolver);
            }
        }
        found
    }

    /// The slices that serve, each with its source, in order of their keys.
    #[cfg(feature = "simulate")]
    pub(crate) fn slices(&self) -> Vec<(SourceId, Arc<Slice>)> {
        let versions = self.objects.values();
        let good = versions.filter_map(|versions| {
            let winner = versions.winner()?;
            match winner.good.as_ref()? {
                Object::Slice(slice) => Some((winner.source.clone(), Arc::clone(slice))),
                _ => None,
            }
        });
        let mut slices: Vec<_> = good.collect();
        slices.sort_by(|(_, a), (_, b)| a.key.cmp(&b.key));
        slices
    }
}

impl Name {
    fn has(&self, address: IpAddr) -> bool {
        let mut found = self.addresses.iter().flat_map(|all| all.iter());
        found.any(|one| one.ip == address)
    }
}
