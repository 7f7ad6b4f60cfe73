//! The policies of the local workloads that a snapshot serves. Pure.

use std::sync::Arc;

use super::change::{Fallback, Object};
use super::state::{ByAddress, Snapshot};
use crate::authorize::{Selects, WorkloadPolicy};
use crate::local::Local;
use crate::model::ObjectKey;

impl Snapshot {
    /// The snapshot that serves another local workload too.
    #[must_use]
    pub fn serve(&self, local: &Arc<Local>) -> Self {
        let mut next = self.clone();
        if self.policy_of(local).is_none() {
            let (policy, _) = self.compile_policy(local);
            next.others
                .insert_mut(ByAddress(Arc::clone(local)), Arc::new(policy));
            next.compile_limiter(local);
        }
        next
    }

    /// The policy that a workload has where the process serves it, for questions about another's.
    pub fn policy_for(&self, local: &Local) -> WorkloadPolicy {
        self.compile_policy(local).0
    }

    /// The snapshot that serves a local workload no longer; the first one always stays.
    #[must_use]
    pub fn retire(&self, local: &Arc<Local>) -> Self {
        let mut next = self.clone();
        next.others.remove_mut(&ByAddress(Arc::clone(local)));
        next.limiters.remove_mut(&ByAddress(Arc::clone(local)));
        next.adaptive.remove_mut(&ByAddress(Arc::clone(local)));
        next
    }

    pub(super) fn compile_policies(&mut self) {
        let (policy, blocked) = self.compile_policy(&self.settings.local);
        self.policy = Arc::new(policy);
        self.blocked = blocked.into();
        let others: Vec<_> = self.others.keys().cloned().collect();
        for local in others {
            let (policy, _) = self.compile_policy(&local.0);
            self.others.insert_mut(local, Arc::new(policy));
        }
    }

    /// The policy of a workload, and the keys that keep it from being ready.
    fn compile_policy(&self, local: &Local) -> (WorkloadPolicy, Vec<ObjectKey>) {
        let mesh_wide = self.settings.mesh_namespace.as_ref();
        let covers = |s: &Selects| s.covers(local.workload(), mesh_wide);
        let (mut good, mut broken, mut blocked) = (Vec::new(), Vec::new(), Vec::new());
        // A policy governs workloads of its own cluster.
        for key in self.policies.iter().filter(|key| key.cluster.is_none()) {
            let Some(version) = self.objects.get(key).and_then(|o| o.winner()) else {
                continue;
            };
            match (&version.good, &version.fallback) {
                (Some(Object::Policy(policy)), _) if covers(&policy.selects()) => {
                    good.push(Arc::clone(policy));
                }
                (None, Fallback::Deny(selects)) if covers(selects) => {
                    broken.push(key.clone());
                    if *selects == Selects::Unknown {
                        blocked.push(key.clone());
                    }
                }
                _ => {}
            }
        }
        broken.sort();
        let policy = WorkloadPolicy::compile(local.default_action(), good, broken);
        let policy = policy.in_form(self.settings.paths);
        let policy = match local.identity() {
            Some(id) => policy.of_trust_domain(id.trust_domain()),
            None => policy,
        };
        (policy, blocked)
    }
}
