//! BackendTLSPolicies of a snapshot: which serve a Service, what changes with one, and what is wrong with
//! it, as the conditions of the Gateway API name that. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::apply::set;
use super::change::{Fallback, Object};
use super::state::{Snapshot, Version};
use super::status::Problem;
use crate::model::{ObjectKey, ServiceName, Transport};
use crate::origination::{BackendTlsPolicy, CaConfigMap, Targets, chosen};

/// The policy that a version serves with: as it was read, or one that refuses in its place.
fn policy_of(version: &Version) -> Option<&Arc<BackendTlsPolicy>> {
    match (&version.good, &version.fallback) {
        (Some(Object::BackendTls(policy)), _) => Some(policy),
        (None, Fallback::Refuse(policy)) => Some(policy),
        _ => None,
    }
}

impl Snapshot {
    /// The policies for a Service or its ports.
    pub(super) fn tls_policies(&self, service: &ServiceName) -> Vec<Arc<BackendTlsPolicy>> {
        if self.tls.is_empty() {
            return Vec::new();
        }
        let keys = self.tls.get(service.namespace()).into_iter().flatten();
        let policies = keys.filter_map(|key| policy_of(self.objects.get(key)?.winner()?));
        let policies = policies.filter(|policy| policy.is_for(service));
        policies.cloned().collect()
    }

    /// The roots of a ConfigMap that serves.
    pub(super) fn roots_at(&self, key: &ObjectKey) -> Option<Arc<CaConfigMap>> {
        match self.good(key)? {
            Object::CaConfigMap(roots) => Some(Arc::clone(roots)),
            _ => None,
        }
    }

    /// Notes what a version changes of TLS to outside hosts, where it comes or goes.
    pub(super) fn originates(
        &mut self,
        key: &ObjectKey,
        version: &Version,
        present: bool,
        touched: &mut BTreeSet<ServiceName>,
    ) {
        // Policies and their roots govern their own cluster.
        if key.cluster.is_some() {
            return;
        }
        if let Some(policy) = policy_of(version).cloned() {
            let of = self.tls.get(&key.namespace).cloned();
            let mut of = of.unwrap_or_default();
            set(&mut of, key, present);
            match of.is_empty() {
                true => {
                    self.tls.remove_mut(&key.namespace);
                }
                false => self.tls.insert_mut(key.namespace.clone(), of),
            }
            self.touch_targets(&policy, touched);
        }
        if matches!(version.good, Some(Object::CaConfigMap(_))) {
            let keys = self.tls.get(&key.namespace).into_iter().flatten();
            let policies = keys.filter_map(|of| policy_of(self.objects.get(of)?.winner()?));
            let policies = policies.filter(|of| of.vouched.config_maps().contains(key));
            let policies: Vec<_> = policies.cloned().collect();
            for policy in policies {
                self.touch_targets(&policy, touched);
            }
        }
    }

    fn touch_targets(&self, policy: &BackendTlsPolicy, touched: &mut BTreeSet<ServiceName>) {
        match &policy.targets {
            Targets::All => {
                let services = self.services().map(|service| &service.name);
                touched.extend(services.filter(|name| policy.is_for(name)).cloned());
            }
            Targets::Services(all) => touched.extend(all.iter().map(|(name, _)| name.clone())),
        }
    }

    /// What a policy refers to that is not there, and where it has no effect.
    pub(super) fn unoriginated(&self, policy: &Arc<BackendTlsPolicy>) -> Vec<Problem> {
        let targets = policy.targets.services().iter().enumerate();
        let targets = targets.filter_map(|(n, (service, section))| {
            let why = self.untargeted(policy, service, section.as_deref())?;
            Some(Problem::warning(format!("spec.targetRefs[{n}]"), why))
        });
        let refs = policy.vouched.config_maps().iter().enumerate();
        let refs = refs.filter(|(_, key)| self.roots_at(key).is_none());
        let refs = refs.map(|(n, key)| {
            let message = format!(
                "{key} with a key ca.crt does not exist (ResolvedRefs False, \
                 InvalidCACertificateRef; Accepted False, NoValidCACertificate); no connection is made"
            );
            let at = format!("spec.validation.caCertificateRefs[{n}]");
            Problem::warning(at, message)
        });
        targets.chain(refs).collect()
    }

    /// Why a policy has no effect on a target of it.
    fn untargeted(
        &self,
        policy: &Arc<BackendTlsPolicy>,
        service: &ServiceName,
        section: Option<&str>,
    ) -> Option<String> {
        let Some(view) = self.service(service) else {
            let message =
                format!("Service {service} does not exist (Accepted False, TargetNotFound)");
            return Some(message);
        };
        let ports = view.ports.iter();
        let mut ports = ports.filter(|port| section.is_none_or(|name| *port.name == *name));
        let Some(first) = ports.next() else {
            let section = section.unwrap_or_default();
            return Some(format!(
                "Service {service} has no port named {section:?} (Accepted False, TargetNotFound)"
            ));
        };
        let ports: Vec<_> = std::iter::once(first).chain(ports).collect();
        let policies = self.tls_policies(service);
        let winners = ports
            .iter()
            .filter_map(|port| chosen(&policies, service, &port.name));
        let mut winners: Vec<_> = winners.collect();
        winners.dedup();
        if let [.., other] = winners[..]
            && !winners.contains(&policy)
        {
            return Some(format!(
                "has no effect: {} has precedence (Accepted False, Conflicted)",
                other.key
            ));
        }
        let sets = ports.iter().filter_map(|port| view.endpoints(port.port));
        let members: Vec<_> = sets.flat_map(|set| set.members()).collect();
        let in_mesh = members
            .iter()
            .all(|m| matches!(m.endpoint.transport, Transport::Mesh { .. }));
        (in_mesh && !members.is_empty()).then(|| {
            format!(
                "has no effect: the endpoints of Service {service} are in the mesh, in mutual TLS"
            )
        })
    }
}

#[cfg(test)]
mod tests;
