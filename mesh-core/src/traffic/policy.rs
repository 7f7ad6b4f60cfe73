//! A policy as its author writes it, checked when it is made.

use std::sync::Arc;

use super::fault::FaultInjection;
use super::session::SessionPersistence;
use super::split::TrafficSplit;
use crate::balance::{CheckPolicy, EjectPolicy, Nearness, RequestLimits, SlowStart, Strategy};
use crate::limit::{AdaptiveConcurrency, RateLimit};
use crate::model::{Kind, ObjectKey, ProxyVersion, ServiceName};
use crate::retry::{BudgetPolicy, HedgePolicy, RetryPolicy};
use crate::route::Timeouts;

/// `inmesh.dev/v1alpha1 TrafficPolicy`: blocks of settings, and what they are for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrafficPolicy {
    /// The object it was read from.
    pub key: ObjectKey,
    /// When it was created, in seconds since 1970: of two for one target the older has precedence.
    pub created: Option<i64>,
    /// What it is for; empty is the default of its namespace, or of the mesh in the mesh's namespace.
    pub targets: Vec<Target>,
    /// What it says.
    pub blocks: Blocks,
}

/// What a policy is for, in its own namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// A Service, or its port of that name.
    Service(ServiceName, Option<Arc<str>>),
    /// A route, or its rule of that name.
    Route(ObjectKey, Option<Arc<str>>),
    /// The workloads with these labels: what they take.
    Workloads(Vec<(Arc<str>, Arc<str>)>),
}

/// The settings of a policy; a block that is not there is inherited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Blocks {
    /// How an endpoint is chosen.
    pub strategy: Option<Strategy>,
    /// How a new endpoint takes its share, if little by little (`warmup` of `loadBalancer`).
    pub warmup: Option<SlowStart>,
    /// Which endpoints are preferred by where they are (`localityLbSetting`, `zoneAwareLbSetting` of
    /// `loadBalancer`).
    pub nearness: Option<Nearness>,
    /// How many requests may be in flight (`connectionPool`).
    pub limits: Option<RequestLimits>,
    /// When one is ejected.
    pub eject: Option<EjectPolicy>,
    /// How endpoints are checked.
    pub check: Option<Arc<CheckPolicy>>,
    /// How many repeats there may be of all requests to a Service together.
    pub budget: Option<BudgetPolicy>,
    /// How each connection begins with the address of the caller (`proxyProtocol`); of Services that are
    /// named, for as a default it would break each server that expects none, and no policy takes it back.
    pub proxy_protocol: Option<ProxyVersion>,
    /// Time limits.
    pub timeouts: Option<Timeouts>,
    /// What is sent again.
    pub retry: Option<Arc<RetryPolicy>>,
    /// What is sent to several endpoints at once.
    pub hedge: Option<Arc<HedgePolicy>>,
    /// Faults that are made on purpose.
    pub fault: Option<Arc<FaultInjection>>,
    /// How clients stay with one endpoint (`sessionPersistence`).
    pub session: Option<Arc<SessionPersistence>>,
    /// How each user stays in one part of a rule's split, if so (`trafficSplit`).
    pub split: Option<Arc<TrafficSplit>>,
    /// How many requests a workload takes in a time.
    pub rate_limit: Option<Arc<RateLimit>>,
    /// How many it takes at once.
    pub adaptive: Option<AdaptiveConcurrency>,
}

/// A policy that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidTraffic(String);

// === impl Blocks ===

impl Blocks {
    /// Whether they say what workloads take.
    ///
    /// ```
    /// assert!(!inmesh_core::traffic::Blocks::default().limits_workloads());
    /// ```
    pub fn limits_workloads(&self) -> bool {
        self.rate_limit.is_some() || self.adaptive.is_some()
    }
}

// === impl TrafficPolicy ===

impl TrafficPolicy {
    /// A policy of unknown age.
    ///
    /// ```
    /// use inmesh_core::model::{Kind, Namespace, ObjectKey, ServiceName};
    /// use inmesh_core::retry::RetryPolicy;
    /// use inmesh_core::traffic::{Blocks, Target, TrafficPolicy};
    /// let shop = Namespace::new("shop")?;
    /// let key = ObjectKey::new(Kind::TrafficPolicy, &shop, "cart")?;
    /// let cart = Target::Service(ServiceName::new(&shop, "cart")?, None);
    /// let mut blocks = Blocks::default();
    /// blocks.retry = Some(RetryPolicy::new(2).into());
    /// assert!(TrafficPolicy::new(key, vec![cart], blocks).is_ok());
    /// # Ok::<(), inmesh_core::model::InvalidName>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidTraffic`] if a target is of another namespace or no route, if it has no block, both `retry`
    /// and `hedge`, or one that a target cannot have: how endpoints are chosen and ejected and what repeats may cost is a
    /// Service's, how many requests are taken a workload's, a split a route's, a PROXY header a named
    /// Service's.
    pub fn new(
        key: ObjectKey,
        targets: Vec<Target>,
        blocks: Blocks,
    ) -> Result<Self, InvalidTraffic> {
        let refuse = |why: String| Err(InvalidTraffic(why));
        if blocks == Blocks::default() {
            return refuse("a policy without a block changes nothing".into());
        }
        if blocks.retry.is_some() && blocks.hedge.is_some() {
            return refuse("a request is repeated or hedged: retry stands beside hedge".into());
        }
        let calls = blocks
            .hedge
            .as_ref()
            .is_none_or(|hedge| hedge.is_for_grpc());
        let of_services = [
            ("loadBalancer", blocks.strategy.is_some()),
            ("warmup", blocks.warmup.is_some()),
            ("localityLbSetting", blocks.nearness.is_some()),
            ("connectionPool", blocks.limits.is_some()),
            ("outlierDetection", blocks.eject.is_some()),
            ("healthCheck", blocks.check.is_some()),
            ("retryConstraint", blocks.budget.is_some()),
            ("proxyProtocol", blocks.proxy_protocol.is_some()),
        ];
        let limits = Blocks {
            rate_limit: blocks.rate_limit.clone(),
            adaptive: blocks.adaptive,
            ..Blocks::default()
        };
        let is_route = |target: &Target| matches!(target, Target::Route(..));
        if blocks.split.is_some() && (targets.is_empty() || !targets.iter().all(is_route)) {
            return refuse(
                "trafficSplit is of the rules of a route that `targetRefs` names".into(),
            );
        }
        if blocks.proxy_protocol.is_some() && targets.is_empty() {
            return refuse("proxyProtocol is of the Services that `targetRefs` names".into());
        }
        for target in &targets {
            let namespace = match target {
                Target::Workloads(_) if blocks != limits => {
                    let own = "what workloads take is rateLimit and adaptiveConcurrency, and no other block";
                    return refuse(own.into());
                }
                Target::Workloads(_) => continue,
                _ if limits != Blocks::default() => {
                    let own = "rateLimit and adaptiveConcurrency are of the workloads that `selector` selects";
                    return refuse(own.into());
                }
                Target::Service(service, _) => service.namespace(),
                Target::Route(route, _)
                    if !matches!(route.kind, Kind::HttpRoute | Kind::GrpcRoute) =>
                {
                    return refuse(format!("{route} is no route"));
                }
                Target::Route(route, _) if route.kind == Kind::GrpcRoute && !calls => {
                    return refuse(format!(
                        "hedge without `grpc: true` hedges nothing of {route}"
                    ));
                }
                Target::Route(route, _) => {
                    if let Some((name, _)) = of_services.iter().find(|(_, there)| *there) {
                        return refuse(format!("{name} is a Service's, and {route} a route"));
                    }
                    &route.namespace
                }
            };
            if *namespace != key.namespace {
                return refuse("a target is in the policy's own namespace".into());
            }
        }
        Ok(Self {
            key,
            created: None,
            targets,
            blocks,
        })
    }

    /// The same policy created at a time, in seconds since 1970.
    #[must_use]
    pub fn with_created(mut self, created: Option<i64>) -> Self {
        self.created = created;
        self
    }
}
