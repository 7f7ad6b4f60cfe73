//! `inmesh.dev/v1alpha1 TrafficPolicy`: what is asked of requests besides where they go.
//!
//! Its blocks have the words of those that users know: `retry` and `timeouts` of HTTPRoute,
//! `retryConstraint` of XBackendTrafficPolicy (GEP-3388), `loadBalancer` and `outlierDetection` of
//! Istio's DestinationRule. A kind of ours is strict: an unknown field refuses the policy.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use inmesh_core::balance::{ConsistentHash, EjectPolicy, HashKey, Strategy};
use inmesh_core::model::{Kind, Namespace, ObjectKey, ServiceName};
use inmesh_core::retry::BudgetPolicy;
use inmesh_core::traffic::{Blocks, Target, TrafficPolicy};

use super::strict::{Fields, Value};
use super::{Defaults, meta, retry, text};

/// The most targets (GEP-3388).
const TARGETS: usize = 16;

/// Reads a policy.
pub(super) fn read(fields: &mut Fields<'_>, defaults: &Defaults) -> Option<TrafficPolicy> {
    fields.ignore(&["status"]);
    let meta = meta::read(fields, Kind::TrafficPolicy, defaults);
    let namespace = meta
        .as_ref()
        .map_or(&defaults.namespace, |meta| &meta.key.namespace);
    let (at, targets, blocks) = fields.need("spec")?.object(|spec| {
        let targets = match spec.get("targetRefs") {
            Some(list) => targets(&list, namespace),
            None => Some(Vec::new()),
        };
        let blocks = blocks(spec);
        Some((spec.whole().clone(), targets?, blocks?))
    })?;
    let meta = meta?;
    meta.annotations.refuse_ours_but(&[]);
    let policy = at.check(TrafficPolicy::new(meta.key, targets, blocks))?;
    Some(policy.with_created(meta.created))
}

fn targets(list: &Value<'_>, namespace: &Namespace) -> Option<Vec<Target>> {
    let items = list.list_of(TARGETS)?;
    let mut read: Vec<Target> = Vec::new();
    for item in &items {
        let target = item.object(|fields| target(fields, namespace))?;
        if read.contains(&target) {
            item.refuse("stands twice");
        }
        read.push(target);
    }
    Some(read)
}

fn target(fields: &mut Fields<'_>, namespace: &Namespace) -> Option<Target> {
    let (group, kind) = (fields.need("group"), fields.need("kind"));
    let (name, section) = (fields.need("name"), fields.get("sectionName"));
    let section = match section {
        Some(section) => Some(section.check(text::subdomain(section.text()?))?.into()),
        None => None,
    };
    let (name, text) = (name.as_ref()?, name.as_ref()?.text()?);
    match (group?.text()?, kind?.text()?) {
        ("" | "core", "Service") => {
            let service = ServiceName::new(namespace, text).map_err(text::invalid_name);
            Some(Target::Service(name.check(service)?, section))
        }
        ("gateway.networking.k8s.io", kind @ ("GRPCRoute" | "HTTPRoute")) => {
            let kind = match kind {
                "GRPCRoute" => Kind::GrpcRoute,
                _ => Kind::HttpRoute,
            };
            let key = ObjectKey::new(kind, namespace, text).map_err(text::invalid_name);
            Some(Target::Route(name.check(key)?, section))
        }
        (group, kind) => {
            fields.whole().refuse(format_args!(
                "{kind} of group {group:?}: a target is a Service of group \"\", or an HTTPRoute or \
                 GRPCRoute of group gateway.networking.k8s.io"
            ));
            None
        }
    }
}

fn blocks(spec: &mut Fields<'_>) -> Option<Blocks> {
    let mut blocks = Blocks::default();
    let (balancer, outliers) = (spec.get("loadBalancer"), spec.get("outlierDetection"));
    let (constraint, timeouts) = (spec.get("retryConstraint"), spec.get("timeouts"));
    let again = spec.get("retry");
    // Each is read, for its problems.
    let strategy = balancer.map(|value| strategy(&value));
    let eject = outliers.map(|value| eject(&value));
    let budget = constraint.map(|value| budget(&value));
    let timeouts = timeouts.map(|value| retry::timeouts(&value));
    let again = again.map(|value| retry::with_grpc(&value));
    blocks.strategy = strategy.map_or(Some(None), |read| read.map(Some))?;
    blocks.eject = eject.map_or(Some(None), |read| read.map(Some))?;
    blocks.budget = budget.map_or(Some(None), |read| read.map(Some))?;
    blocks.timeouts = timeouts.map_or(Some(None), |read| read.map(Some))?;
    blocks.retry = again.map_or(Some(None), |read| read.map(|retry| Some(Arc::new(retry))))?;
    Some(blocks)
}

/// `simple` or `consistentHash` of Istio's LoadBalancerSettings.
fn strategy(value: &Value<'_>) -> Option<Strategy> {
    value.object(|fields| {
        let (simple, hash) = (fields.get("simple"), fields.get("consistentHash"));
        let simple = match simple {
            Some(simple) => Some(simple.choice(&["LEAST_REQUEST"])?),
            None => None,
        };
        let hash = match hash {
            Some(hash) => Some(hash.object(|hash| {
                let name = hash.need("httpHeaderName")?;
                name.check(HeaderName::from_bytes(name.text()?.as_bytes()))
            })?),
            None => None,
        };
        match (simple, hash) {
            (Some(_), None) => Some(Strategy::LeastRequest),
            (None, Some(name)) => {
                let by_header = ConsistentHash::by(HashKey::Header(name));
                Some(Strategy::ConsistentHash(by_header))
            }
            _ => {
                value.refuse("has one of simple and consistentHash");
                None
            }
        }
    })
}

/// Istio's OutlierDetection, as far as it is done.
fn eject(value: &Value<'_>) -> Option<EjectPolicy> {
    value.object(|fields| {
        let mut policy = EjectPolicy::default();
        let (failures, percent) = (
            fields.get("consecutive5xxErrors"),
            fields.get("maxEjectionPercent"),
        );
        let (base, longest) = (
            fields.get("baseEjectionTime"),
            fields.get("maxEjectionTime"),
        );
        if let Some(failures) = failures {
            policy.consecutive = failures.integer_in(0, i64::from(u32::MAX))?;
        }
        if let Some(percent) = percent {
            policy.percent = percent.integer_in(0, 100)?;
        }
        for (value, limit) in [(base, &mut policy.base), (longest, &mut policy.longest)] {
            if let Some(value) = value {
                *limit = value.check(text::duration(value.text()?))?;
                if limit.is_zero() {
                    value.refuse("is above 0s");
                }
            }
        }
        Some(policy)
    })
}

/// `retryConstraint` of XBackendTrafficPolicy (GEP-3388).
fn budget(value: &Value<'_>) -> Option<BudgetPolicy> {
    let (mut percent, mut interval) = (20, Duration::from_secs(10));
    let (mut count, mut of) = (10, Duration::from_secs(1));
    value.object(|fields| {
        let (budget, least) = (fields.get("budget"), fields.get("minRetryRate"));
        if let Some(budget) = budget {
            budget.object(|budget| {
                let (share, span) = (budget.get("percent"), budget.get("interval"));
                if let Some(share) = share {
                    percent = share.integer_in(0, 100)?;
                }
                if let Some(span) = span {
                    interval = span.check(text::duration(span.text()?))?;
                }
                Some(())
            })?;
        }
        if let Some(least) = least {
            least.object(|least| {
                let (number, span) = (least.get("count"), least.get("interval"));
                if let Some(number) = number {
                    count = number.integer_in(1, 1_000_000)?;
                }
                if let Some(span) = span {
                    of = span.check(text::duration(span.text()?))?;
                }
                Some(())
            })?;
        }
        value.check(BudgetPolicy::new(percent, interval, count, of))
    })
}
