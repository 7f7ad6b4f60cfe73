//! What local workloads take of requests, as policies say. What is left of a limit stays as long as its
//! policy says the same.

use std::sync::Arc;

use inmesh_pki::id::{SpiffeId, TrustDomain};

use super::change::Object;
use super::state::{ByAddress, Snapshot};
use crate::limit::{Adaptive, AdaptiveConcurrency, Limiter};
use crate::local::Local;
use crate::model::Block;
use crate::traffic::{self, Blocks};

impl Snapshot {
    /// Whether a policy limits what a local workload takes. Most processes have none.
    #[cfg(any(feature = "runtime", test))]
    pub(crate) fn has_limits(&self) -> bool {
        !(self.limiters.is_empty() && self.adaptive.is_empty())
    }

    /// How many requests a local workload takes; `None` if no policy says it.
    pub(crate) fn limiter(&self, local: &Arc<Local>) -> Option<&Arc<Limiter>> {
        self.limiters.get(&ByAddress(Arc::clone(local)))
    }

    /// The same at once.
    pub(crate) fn adaptive(&self, local: &Arc<Local>) -> Option<&Arc<Adaptive>> {
        self.adaptive.get(&ByAddress(Arc::clone(local)))
    }

    /// A new limiter as a workload has it where the process serves it, for questions about another's.
    /// `own` is its trust domain.
    pub(crate) fn limiter_for(&self, local: &Local, own: Option<&TrustDomain>) -> Option<Limiter> {
        let block = self.limit_of(local, |blocks| blocks.rate_limit.clone())?;
        Some(Limiter::new(block, own, self.settings.paths))
    }

    /// What bounds the requests that a workload has at once.
    pub(crate) fn adaptive_for(&self, local: &Local) -> Option<Block<AdaptiveConcurrency>> {
        self.limit_of(local, |blocks| blocks.adaptive)
    }

    /// A block of the nearest policy that has it for a workload.
    fn limit_of<T>(&self, local: &Local, block: impl Fn(&Blocks) -> Option<T>) -> Option<Block<T>> {
        let good = self.limits.iter().filter_map(|key| match self.good(key) {
            Some(Object::Traffic(policy)) => Some(Arc::clone(policy)),
            _ => None,
        });
        let policies: Vec<_> = good.collect();
        let mesh_wide = self.settings.mesh_namespace.as_ref();
        traffic::of_workload(&policies, local.workload(), mesh_wide, block)
    }

    /// Makes the limits of all local workloads again.
    pub(super) fn compile_limiters(&mut self) {
        let locals: Vec<_> = self.locals().cloned().collect();
        for local in locals {
            self.compile_limiter(&local);
        }
    }

    /// Makes the limits of a local workload, or keeps them as they are.
    pub(super) fn compile_limiter(&mut self, local: &Arc<Local>) {
        let key = ByAddress(Arc::clone(local));
        let before = self.limiter(local).map(|limiter| limiter.block());
        let block = self.limit_of(local, |blocks| blocks.rate_limit.clone());
        if before != block.as_ref() {
            let own = local.identity().map(SpiffeId::trust_domain);
            match self.limiter_for(local, own) {
                Some(limiter) => self.limiters.insert_mut(key.clone(), Arc::new(limiter)),
                None => {
                    self.limiters.remove_mut(&key);
                }
            }
        }
        let before = self.adaptive(local).map(|adaptive| adaptive.block());
        let block = self.adaptive_for(local);
        if before != block.as_ref() {
            match block {
                Some(block) => self
                    .adaptive
                    .insert_mut(key, Arc::new(Adaptive::new(block))),
                None => {
                    self.adaptive.remove_mut(&key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::authorize::DefaultAction;
    use crate::limit::{Rate, RateLimit, Rates};
    use crate::model::{Kind, Namespace, ObjectKey, SourceId, Workload};
    use crate::snapshot::{Change, Op, Settings};
    use crate::traffic::{Target, TrafficPolicy};

    fn key(namespace: &str, name: &str) -> ObjectKey {
        let namespace = Namespace::new(namespace).unwrap();
        ObjectKey::new(Kind::TrafficPolicy, &namespace, name).unwrap()
    }

    fn put(namespace: &str, name: &str, app: Option<&str>, requests: u32) -> Op {
        let rate = Rate::new(requests, Duration::from_secs(1), 1).unwrap();
        let limit = RateLimit::new(Rates::new(Some(rate), None), Vec::new()).unwrap();
        let blocks = Blocks {
            rate_limit: Some(limit.into()),
            ..Blocks::default()
        };
        let labels = |app: &str| Target::Workloads(vec![("app".into(), app.into())]);
        let targets = app.into_iter().map(labels).collect();
        Op::put(TrafficPolicy::new(key(namespace, name), targets, blocks).unwrap())
    }

    fn local(app: &str) -> Arc<Local> {
        let workload = Workload::new("shop", app, app).unwrap().label("app", app);
        Arc::new(Local::new(workload, DefaultAction::Allow))
    }

    fn apply(snapshot: &Snapshot, op: Op) -> Snapshot {
        snapshot.apply(Change::update(SourceId::new("t"), vec![op]))
    }

    /// The snapshot of `cart`, the first workload.
    fn empty() -> Snapshot {
        let mut settings = Settings::of(Local::clone(&local("cart")));
        settings.mesh_namespace = Some(Namespace::new("mesh").unwrap());
        Snapshot::new(settings)
    }

    fn from(snapshot: &Snapshot, local: &Arc<Local>) -> Option<String> {
        let block = snapshot.limiter(local)?.block();
        Some(block.from.as_ref()?.to_string())
    }

    #[test]
    fn the_nearest_policy_that_selects_a_workload_counts() {
        let first = empty();
        let (cart, web) = (Arc::clone(&first.settings().local), local("web"));
        let first = first.serve(&web);
        let levels = [
            (put("mesh", "a", None, 1), ["mesh/a"; 2]),
            (put("shop", "b", None, 2), ["shop/b"; 2]),
            (put("shop", "c", Some("cart"), 3), ["shop/c", "shop/b"]),
            // Neither a default of another namespace nor labels of it.
            (put("other", "d", None, 4), ["shop/c", "shop/b"]),
            (put("other", "e", Some("cart"), 4), ["shop/c", "shop/b"]),
            (put("mesh", "f", Some("cart"), 4), ["shop/c", "shop/b"]),
        ];
        let mut snapshot = first;
        for (op, wanted) in levels {
            snapshot = apply(&snapshot, op);
            let found = [&cart, &web].map(|local| from(&snapshot, local).unwrap());
            assert_eq!(found, wanted.map(|name| format!("TrafficPolicy/{name}")));
        }
        // Another workload that is served later has it at once; one that is retired, no more.
        let later = local("web");
        let snapshot = snapshot.serve(&later);
        assert!(from(&snapshot, &later).is_some());
        assert_eq!(from(&snapshot.retire(&later), &later), None);
        for name in ["b", "c"] {
            assert!(from(&snapshot, &cart).is_some());
            let next = apply(&snapshot, Op::Remove(key("shop", name)));
            assert_ne!(from(&next, &web), None);
        }
    }

    #[test]
    fn what_is_left_stays_until_the_limit_changes() {
        let one = apply(&empty(), put("shop", "a", None, 5));
        let cart = Arc::clone(&one.settings().local);
        let same = |a: &Snapshot, b: &Snapshot| {
            Arc::ptr_eq(a.limiter(&cart).unwrap(), b.limiter(&cart).unwrap())
        };
        assert!(same(&one, &apply(&one, put("shop", "a", None, 5))));
        assert!(same(&one, &apply(&one, put("shop", "z", Some("web"), 1))));
        assert!(!same(&one, &apply(&one, put("shop", "a", None, 6))));
        let none = apply(&one, Op::Remove(key("shop", "a")));
        assert!(none.limiter(&cart).is_none());
        assert!(none.limits.is_empty() && none.limiters.is_empty());
    }

    #[test]
    fn both_limits_are_inherited_each_by_itself() {
        let adaptive = AdaptiveConcurrency::default();
        let blocks = Blocks {
            adaptive: Some(adaptive),
            ..Blocks::default()
        };
        let wide = TrafficPolicy::new(key("shop", "wide"), Vec::new(), blocks).unwrap();
        let one = apply(&empty(), Op::put(wide));
        let cart = Arc::clone(&one.settings().local);
        assert!(one.has_limits() && one.limiter(&cart).is_none());
        let two = apply(&one, put("shop", "near", Some("cart"), 5));
        assert!(two.limiter(&cart).is_some());
        let (before, after) = (one.adaptive(&cart).unwrap(), two.adaptive(&cart).unwrap());
        assert!(Arc::ptr_eq(before, after));
        let none = apply(&two, Op::Remove(key("shop", "wide")));
        assert!(none.adaptive(&cart).is_none());
        let none = apply(&none, Op::Remove(key("shop", "near")));
        assert!(!none.has_limits());
    }
}
