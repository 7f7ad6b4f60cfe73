//! Hosts outside the mesh: which Service a name that callers ask for leads to, and the endpoints of names
//! that no document lists. Pure.
//!
//! 1. A host that is written as it is asked for comes before all wildcards, a longer wildcard before a
//!    shorter one.
//! 2. Of several Services for one pattern those with the port come first, then those of the caller's
//!    namespace, then the first by name.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::change::{Change, Op};
use super::service::ServiceView;
use super::settings::OutboundTrafficPolicy;
use super::state::{Resolved, Snapshot};
use crate::model::{
    AppProtocol, Asked, Host, HostPattern, Namespace, Outside, OutsidePort, Resolution, Service,
    ServiceName, ServicePort, SourceId, Transport, is_subdomain,
};

/// The port of the Service that stands for all hosts: it has every port.
const ANY: u16 = 0;
/// The longest name of a host (RFC 1035).
const LONGEST: usize = 253;

/// What leads to an outside host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lead<'a> {
    /// The name, in any case; a trailing dot or not.
    pub(crate) host: &'a str,
    /// The port on the Service.
    pub(crate) port: Option<u16>,
    /// Where the caller has connected to, of a connection that was redirected here.
    pub(crate) original: Option<IpAddr>,
}

/// The most hosts that are asked for, whatever the runtime lets in.
const MOST: usize = 10_000;

impl Snapshot {
    /// The same, with a Service for all hosts that no document names, where all are reached.
    pub(super) fn with_passthrough(self) -> Self {
        if self.settings.outbound != OutboundTrafficPolicy::AllowAny {
            return self;
        }
        let name = ServiceName::passthrough(&self.settings.local.workload().namespace);
        let any = ServicePort::new("", ANY, AppProtocol::Detect);
        let port = OutsidePort::new(ANY, Transport::Plain);
        let outside = Outside::new(Vec::new(), Resolution::Dynamic, vec![port]);
        let put = Op::put(Service::new(name, vec![any]).outside(outside));
        let source = SourceId::new("outboundTrafficPolicy");
        self.apply(Change::update(source, vec![put]))
    }

    /// The Service for hosts that no document names, where all are reached.
    pub(crate) fn passthrough(&self, lead: Lead<'_>) -> Option<(Resolved, Asked)> {
        if self.settings.outbound != OutboundTrafficPolicy::AllowAny {
            return None;
        }
        let name = ServiceName::passthrough(&self.settings.local.workload().namespace);
        let service = Arc::clone(self.service(&name)?);
        let host = match lead.original {
            Some(ip) => Host::Address(ip),
            None => self.outside_name(lead.host)?,
        };
        if let Host::Address(ip) = host
            && !may_be_original(ip)
        {
            return None;
        }
        let asked = Asked {
            host,
            port: ANY,
            target: lead.port?,
        };
        let port = ANY;
        Some((Resolved { service, port }, asked))
    }

    /// A host that may be outside the mesh: an address, or a name in full that is not of the cluster.
    fn outside_name(&self, host: &str) -> Option<Host> {
        let address = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        if let Ok(ip) = address.unwrap_or(host).parse() {
            return Some(Host::Address(ip));
        }
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let domain = name.strip_suffix(&*self.settings.cluster_domain);
        let of_cluster = domain.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        let of_mesh = of_cluster || name.ends_with(".svc") || !name.contains('.');
        (is_subdomain(&name) && !of_mesh).then(|| Host::Name {
            name: name.into(),
            srv: None,
        })
    }

    /// The Service that a host outside the mesh leads to, from a namespace, with what is asked of it if
    /// no document lists its addresses. The port is `default_port` where none is named, or the only one.
    pub(crate) fn outside(
        &self,
        lead: Lead<'_>,
        namespace: &Namespace,
        default_port: u16,
    ) -> Option<(Resolved, Option<Asked>)> {
        if self.hosts.is_empty() || lead.host.len() > LONGEST + 1 {
            return None;
        }
        let host = lead.host.strip_suffix('.').unwrap_or(lead.host);
        let host = host.to_ascii_lowercase();
        let services = self.led_by(&host)?;
        // A Service of the mesh that has the name of an entry is not outside.
        let views = services.iter().filter_map(|name| self.service(name));
        let views = views.filter(|view| view.outside().is_some());
        let rank = |view: &&Arc<ServiceView>| {
            let port = lead.port.is_some_and(|port| view.port(port).is_none());
            (port, view.name.namespace() != namespace)
        };
        let view = views.min_by_key(rank)?;
        let port = match (lead.port, &view.ports[..]) {
            (Some(port), _) => port,
            (None, [only]) => only.port,
            (None, _) => default_port,
        };
        let asked = asked(view.outside()?, &host, port, lead.original)?;
        let service = Arc::clone(view);
        Some((Resolved { service, port }, asked))
    }

    /// The Services of the most precise pattern that a host meets.
    fn led_by(&self, host: &str) -> Option<&BTreeSet<ServiceName>> {
        if let Some(exact) = self.hosts.get(host) {
            return Some(exact);
        }
        let mut pattern = String::with_capacity(host.len() + 2);
        let mut rest = host;
        while let Some((_, domain)) = rest.split_once('.') {
            pattern.clear();
            pattern.push_str("*.");
            pattern.push_str(domain);
            if let Some(found) = self.hosts.get(&*pattern) {
                return Some(found);
            }
            rest = domain;
        }
        None
    }

    /// Whether any host outside the mesh is named.
    #[cfg(feature = "runtime")]
    pub(crate) fn names_hosts(&self) -> bool {
        !self.hosts.is_empty()
    }

    /// The hosts that were asked for, with their endpoints.
    #[cfg(any(feature = "runtime", test))]
    pub(crate) fn asked_sets(
        &self,
    ) -> impl Iterator<Item = (&ServiceName, &super::asked::AskedSet)> {
        let views = self.asked.keys().filter_map(|name| self.service(name));
        views.flat_map(|view| {
            let sets = view.outside.iter().flat_map(|outside| &outside.sets);
            sets.map(move |set| (&view.name, set))
        })
    }

    /// Whether a resolver has answered for a name.
    #[cfg(feature = "runtime")]
    pub(crate) fn is_resolved(&self, host: &Host) -> bool {
        self.names
            .get(host)
            .is_some_and(|name| name.addresses.is_some())
    }

    /// Notes that a host is asked for, or is no longer.
    pub(super) fn ask(
        &mut self,
        service: &ServiceName,
        asked: Asked,
        present: bool,
        touched: &mut BTreeSet<ServiceName>,
    ) {
        let mut all = self.asked.get(service).cloned().unwrap_or_default();
        let changed = match present {
            true => all.len() < MOST && all.insert(asked),
            false => all.remove(&asked),
        };
        if !changed {
            return;
        }
        match all.is_empty() {
            true => {
                self.asked.remove_mut(service);
            }
            false => self.asked.insert_mut(service.clone(), all),
        }
        touched.insert(service.clone());
    }

    /// The hosts that were asked for of a Service, as it is now; those that it is not for any more are
    /// forgotten.
    pub(super) fn asked_of(
        &mut self,
        name: &ServiceName,
        service: Option<&Service>,
    ) -> BTreeSet<Asked> {
        let Some(all) = self.asked.get(name) else {
            return BTreeSet::new();
        };
        let outside = service.and_then(|service| service.outside.as_ref());
        let mut kept = all.clone();
        kept.retain(|asked| outside.is_some_and(|outside| is_for(outside, asked)));
        match kept.is_empty() {
            true => {
                self.asked.remove_mut(name);
            }
            false => self.asked.insert_mut(name.clone(), kept.clone()),
        }
        kept
    }

    /// Notes that hosts lead to a Service, or do no longer.
    pub(super) fn leads(&mut self, hosts: &[HostPattern], service: &ServiceName, present: bool) {
        for host in hosts {
            let mut services = self.hosts.get(host.as_str()).cloned().unwrap_or_default();
            match present {
                true => services.insert(service.clone()),
                false => services.remove(service),
            };
            match services.is_empty() {
                true => {
                    self.hosts.remove_mut(host.as_str());
                }
                false => self.hosts.insert_mut(host.as_str().into(), services),
            }
        }
    }
}

/// Whether what was asked for may be asked for still.
fn is_for(outside: &Outside, asked: &Asked) -> bool {
    let of = outside.port(asked.port);
    let any = asked.port == ANY;
    let target = any || of.is_some_and(|of| of.target == asked.target);
    let host = match (&outside.resolution, &asked.host) {
        (Resolution::Dynamic, Host::Name { name, .. }) => {
            any || outside.hosts.iter().any(|host| host.matches(name))
        }
        (Resolution::Dynamic, Host::Address(_)) => any,
        (Resolution::Original, Host::Address(_)) => true,
        _ => false,
    };
    of.is_some() && target && host
}

/// What is asked of a host; the outer `None` is one that cannot be reached so.
fn asked(
    outside: &Outside,
    host: &str,
    port: u16,
    original: Option<IpAddr>,
) -> Option<Option<Asked>> {
    let host = match outside.resolution {
        Resolution::Listed(_) => return Some(None),
        Resolution::Dynamic => Host::Name {
            name: host.into(),
            srv: None,
        },
        Resolution::Original => Host::Address(original.filter(|ip| may_be_original(*ip))?),
    };
    let target = outside.port(port).map_or(port, |of| of.target);
    Some(Some(Asked { host, port, target }))
}

/// Whether an address may be where a caller has connected to: the process must not be made to talk to
/// itself, nor to its host.
fn may_be_original(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

#[cfg(test)]
mod tests;
