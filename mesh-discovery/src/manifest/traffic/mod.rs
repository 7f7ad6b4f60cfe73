//! `inmesh.dev/v1alpha1 TrafficPolicy`: what is asked of requests besides where they go.
//!
//! Its blocks have the words of those that users know: `retry` and `timeouts` of HTTPRoute,
//! `retryConstraint` and `sessionPersistence` of XBackendTrafficPolicy (GEP-3388, GEP-1619), `loadBalancer`, `connectionPool`,
//! `outlierDetection` and `proxyProtocol` of Istio's DestinationRule, `fault` of its VirtualService, `healthCheck` of Kuma's
//! MeshHealthCheck, `hedge` of gRPC's hedgingPolicy (A6); `rateLimit`, `adaptiveConcurrency` and `trafficSplit` are ours, the last with the words of
//! `consistentHash`. A kind of ours is strict: an unknown field refuses the policy, and so does one of theirs
//! that is not evaluated.

mod adaptive;
mod balancer;
mod check;
mod fault;
mod hedge;
mod outliers;
mod rates;

use std::sync::Arc;
use std::time::Duration;

use inmesh_core::balance::RequestLimits;
use inmesh_core::model::{Kind, Namespace, ObjectKey, ProxyVersion};
use inmesh_core::retry::BudgetPolicy;
use inmesh_core::traffic::{Blocks, Target, TrafficPolicy};

pub use self::outliers::outlier_detection;
use super::strict::{Fields, Value};
use super::{Defaults, meta, policy, retry, session, target, text};

/// The most targets (GEP-3388).
const TARGETS: usize = 16;
/// The most requests that can be named.
const MOST: i64 = u32::MAX as i64;
/// Why a field of another program's resource is refused.
const UNUSED: &str = "is not evaluated here";
/// Settings of `connectionPool.tcp` that are not evaluated.
const TCP: &[&str] = &["idleTimeout", "maxConnectionDuration", "tcpKeepalive"];
/// Settings of `connectionPool.http` whose place is taken by others of ours.
const HTTP: &[(&str, &str)] = &[
    (
        "h2UpgradePolicy",
        "is not evaluated here: `appProtocol` of the Service's port says it",
    ),
    (
        "maxConcurrentStreams",
        "is not evaluated here: what the server takes is heeded",
    ),
    ("maxRequestsPerConnection", UNUSED),
    (
        "maxRetries",
        "is not evaluated here: `retryConstraint` is a budget of retries",
    ),
    ("useClientProtocol", UNUSED),
];

/// Reads a policy.
pub(super) fn read(fields: &mut Fields<'_>, defaults: &Defaults) -> Option<TrafficPolicy> {
    fields.ignore(&["status"]);
    let meta = meta::read(fields, Kind::TrafficPolicy, defaults);
    let namespace = meta
        .as_ref()
        .map_or(&defaults.namespace, |meta| &meta.key.namespace);
    let (at, targets, blocks) = fields.need("spec")?.object(|spec| {
        let selected = spec.get("selector").is_some();
        let labels = policy::selector(spec);
        let targets = match spec.get("targetRefs") {
            Some(list) if selected => {
                list.refuse(
                    "stands beside a selector: a policy is for workloads or for what is sent",
                );
                None
            }
            Some(list) => target::each(&list, TARGETS, |fields| target(fields, namespace)),
            None if selected => labels.map(|labels| vec![Target::Workloads(labels)]),
            None => Some(Vec::new()),
        };
        let blocks = blocks(spec, defaults);
        Some((spec.whole().clone(), targets?, blocks?))
    })?;
    let meta = meta?;
    meta.annotations.refuse_ours_but(meta::OF_STAGES);
    let policy = at.check(TrafficPolicy::new(meta.key, targets, blocks))?;
    Some(policy.with_created(meta.created))
}

fn target(fields: &mut Fields<'_>, namespace: &Namespace) -> Option<Target> {
    let named = target::named(fields)?;
    let (name, section) = (&named.name, named.section);
    match (&*named.group, &*named.kind) {
        ("" | "core", "Service") => {
            Some(Target::Service(target::service(name, namespace)?, section))
        }
        ("gateway.networking.k8s.io", kind @ ("GRPCRoute" | "HTTPRoute")) => {
            let kind = match kind {
                "GRPCRoute" => Kind::GrpcRoute,
                _ => Kind::HttpRoute,
            };
            let key = ObjectKey::new(kind, namespace, name.text()?).map_err(text::invalid_name);
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

fn blocks(spec: &mut Fields<'_>, defaults: &Defaults) -> Option<Blocks> {
    let mut blocks = Blocks::default();
    let (balancer, outliers) = (spec.get("loadBalancer"), spec.get("outlierDetection"));
    let (pool, constraint) = (spec.get("connectionPool"), spec.get("retryConstraint"));
    let (timeouts, again) = (spec.get("timeouts"), spec.get("retry"));
    let hedge = spec.get("hedge");
    if let (Some(hedge), Some(_)) = (&hedge, &again) {
        hedge.refuse("stands beside a retry: a request is repeated or hedged");
    }
    let (check, fault) = (spec.get("healthCheck"), spec.get("fault"));
    let (rates, adaptive) = (spec.get("rateLimit"), spec.get("adaptiveConcurrency"));
    let proxied = spec.get("proxyProtocol");
    let (split, persists) = (spec.get("trafficSplit"), spec.get("sessionPersistence"));
    // Each is read, for its problems.
    let balancer = balancer.map(|value| balancer::read(&value));
    let eject = outliers.map(|value| outlier_detection(&value));
    let limits = pool.map(|value| limits(&value));
    let check = check.map(|value| check::read(&value));
    let budget = constraint.map(|value| budget(&value));
    let timeouts = timeouts.map(|value| retry::with_idle(&value));
    let again = again.map(|value| retry::with_grpc(&value));
    let hedge = hedge.map(|value| hedge::read(&value));
    let fault = fault.map(|value| fault::read(&value));
    let proxied = proxied.map(|value| proxied_by(&value));
    let split = split.map(|value| balancer::traffic_split(&value));
    let persists = persists.map(|value| session::read(&value));
    let rates = rates.map(|value| rates::read(&value, defaults));
    let adaptive = adaptive.map(|value| adaptive::read(&value));
    let balancer = balancer.unwrap_or(Some((None, None, None)))?;
    (blocks.strategy, blocks.warmup, blocks.nearness) = balancer;
    blocks.eject = eject.map_or(Some(None), |read| read.map(Some))?;
    blocks.limits = limits.map_or(Some(None), |read| read.map(Some))?;
    blocks.check = check.map_or(Some(None), |read| read.map(|check| Some(Arc::new(check))))?;
    blocks.budget = budget.map_or(Some(None), |read| read.map(Some))?;
    blocks.timeouts = timeouts.map_or(Some(None), |read| read.map(Some))?;
    blocks.retry = again.map_or(Some(None), |read| read.map(|retry| Some(Arc::new(retry))))?;
    blocks.hedge = hedge.map_or(Some(None), |read| read.map(|hedge| Some(Arc::new(hedge))))?;
    blocks.fault = fault.map_or(Some(None), |read| read.map(|fault| Some(Arc::new(fault))))?;
    blocks.proxy_protocol = proxied.map_or(Some(None), |read| read.map(Some))?;
    blocks.split = split.map_or(Some(None), |read| read.map(|split| Some(Arc::new(split))))?;
    blocks.session = persists.map_or(Some(None), |read| read.map(|by| Some(Arc::new(by))))?;
    blocks.adaptive = adaptive.map_or(Some(None), |read| read.map(Some))?;
    blocks.rate_limit = rates.map_or(Some(None), |read| read.map(|rates| Some(Arc::new(rates))))?;
    Some(blocks)
}

/// `proxyProtocol` of Istio's TrafficPolicy.
fn proxied_by(value: &Value<'_>) -> Option<ProxyVersion> {
    value.object(
        |fields| match fields.need("version")?.choice(&["V1", "V2"])? {
            "V1" => Some(ProxyVersion::V1),
            _ => Some(ProxyVersion::V2),
        },
    )
}

/// Istio's ConnectionPoolSettings, as far as they are done, and a limit for each endpoint.
fn limits(value: &Value<'_>) -> Option<RequestLimits> {
    let most = |value: Option<Value<'_>>| match value {
        Some(value) => value.integer_in(1, MOST).map(Some),
        None => Some(None),
    };
    let time = |value: Option<Value<'_>>| match value {
        Some(value) => value.check(text::duration(value.text()?)).map(Some),
        None => Some(None),
    };
    value.object(|pool| {
        let (tcp, http) = (pool.get("tcp"), pool.get("http"));
        if tcp.is_none() && http.is_none() {
            value.refuse("has one of tcp and http, or both");
        }
        let connections = tcp.map(|tcp| {
            tcp.object(|tcp| {
                tcp.refuse_all(TCP, UNUSED);
                let (most_of, connect) = (tcp.get("maxConnections"), tcp.get("connectTimeout"));
                if most_of.is_none() && connect.is_none() {
                    let one = "has one of connectTimeout and maxConnections, or both";
                    tcp.whole().refuse(one);
                }
                let (most_of, connect) = (most(most_of), time(connect));
                Some((most_of?, connect?))
            })
        });
        let requests = http.map(|http| {
            http.object(|http| {
                for (name, why) in HTTP {
                    http.refuse_all(&[name], why);
                }
                let (all, each) = (
                    http.get("http2MaxRequests"),
                    http.get("maxRequestsPerEndpoint"),
                );
                let (pending, idle) =
                    (http.get("http1MaxPendingRequests"), http.get("idleTimeout"));
                if [&all, &each, &pending, &idle]
                    .iter()
                    .all(|field| field.is_none())
                {
                    http.whole().refuse(
                        "has one of http1MaxPendingRequests, http2MaxRequests, idleTimeout and \
                         maxRequestsPerEndpoint, or more",
                    );
                }
                let (all, each) = (most(all), most(each));
                let (pending, idle) = (most(pending), time(idle));
                Some((all?, each?, pending?, idle?))
            })
        });
        let (connections, connect) = connections.unwrap_or(Some((None, None)))?;
        let (all, each, pending, idle) = requests.unwrap_or(Some((None, None, None, None)))?;
        let unsaid = RequestLimits::default();
        let limits = RequestLimits::new(each.unwrap_or_else(|| unsaid.endpoint()), all);
        let connections = connections.unwrap_or_else(|| unsaid.connections());
        let pending = pending.unwrap_or_else(|| unsaid.pending());
        let limits = limits.and_then(|limits| limits.with_connections(connections, pending));
        value.check(limits.and_then(|limits| limits.with_times(connect, idle)))
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
