//! TrafficPolicy: what is read, and what is refused where.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use inmesh_core::balance::{ConsistentHash, HashKey, Strategy};
use inmesh_core::model::{Kind, Namespace, ObjectKey, ServiceName};
use inmesh_core::retry::{BudgetPolicy, RetryPolicy};
use inmesh_core::route::Timeouts;
use inmesh_core::snapshot::{Fallback, Object, Op};
use inmesh_core::traffic::{Target, TrafficPolicy};

use super::{only, refusal, with_spec};

const SECOND: Duration = Duration::from_secs(1);

fn text(spec: &str) -> String {
    with_spec("inmesh.dev/v1alpha1", "TrafficPolicy", "", spec)
}

fn accepted(spec: &str) -> Arc<TrafficPolicy> {
    match only(&text(spec)) {
        Op::Put(Object::Traffic(policy), problems) if problems.is_empty() => policy,
        op => panic!("{op:#?}"),
    }
}

#[test]
fn every_block_is_read() {
    let policy = accepted(
        "targetRefs:
- {group: \"\", kind: Service, name: cart, sectionName: http}
timeouts: {request: 10s, backendRequest: 2s}
retry: {attempts: 2, backoff: 50ms, codes: [503], grpcCodes: [UNAVAILABLE, CANCELLED]}
retryConstraint:
  budget: {percent: 30, interval: 20s}
  minRetryRate: {count: 3, interval: 2s}
loadBalancer: {consistentHash: {httpHeaderName: X-User}}
outlierDetection:
  consecutive5xxErrors: 7
  baseEjectionTime: 10s
  maxEjectionTime: 1m
  maxEjectionPercent: 50",
    );
    let shop = Namespace::new("shop").unwrap();
    let cart = ServiceName::new(&shop, "cart").unwrap();
    assert_eq!(policy.targets, [Target::Service(cart, Some("http".into()))]);
    let blocks = &policy.blocks;
    let times = Timeouts::new(Some(10 * SECOND), Some(2 * SECOND)).unwrap();
    assert_eq!(blocks.timeouts, Some(times));
    let retry = RetryPolicy::new(2).with_backoff(SECOND / 20);
    let retry = retry.on_status(503).unwrap();
    let retry = retry.on_grpc(14).unwrap().on_grpc(1).unwrap();
    assert_eq!(blocks.retry.as_deref(), Some(&retry));
    let budget = BudgetPolicy::new(30, 20 * SECOND, 3, 2 * SECOND).unwrap();
    assert_eq!(blocks.budget, Some(budget));
    let user = HeaderName::from_static("x-user");
    let by_user = ConsistentHash::by(HashKey::Header(user));
    assert_eq!(blocks.strategy, Some(Strategy::ConsistentHash(by_user)));
    let eject = blocks.eject.unwrap();
    assert_eq!((eject.consecutive, eject.percent), (7, 50));
    assert_eq!((eject.base, eject.longest), (10 * SECOND, 60 * SECOND));
}

#[test]
fn what_is_left_out_is_the_default_of_its_api() {
    let policy = accepted("retry: {}\nretryConstraint: {}");
    assert!(policy.targets.is_empty());
    assert_eq!(policy.blocks.retry.as_deref(), Some(&RetryPolicy::new(1)));
    assert_eq!(policy.blocks.budget, Some(BudgetPolicy::default()));
    assert_eq!(policy.blocks.timeouts, None);
    let simple = accepted("loadBalancer: {simple: LEAST_REQUEST}");
    assert_eq!(simple.blocks.strategy, Some(Strategy::LeastRequest));
    let route = accepted(
        "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: cart}]\nretry: {}",
    );
    let shop = Namespace::new("shop").unwrap();
    let key = ObjectKey::new(Kind::HttpRoute, &shop, "cart").unwrap();
    assert_eq!(route.targets, [Target::Route(key, None)]);
    let route = accepted(
        "targetRefs:
- {group: gateway.networking.k8s.io, kind: GRPCRoute, name: cart, sectionName: get}
retry: {}",
    );
    let key = ObjectKey::new(Kind::GrpcRoute, &shop, "cart").unwrap();
    assert_eq!(route.targets, [Target::Route(key, Some("get".into()))]);
}

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    let target = "group: \"\", kind: Service, name: cart";
    let to_route = "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}]";
    for (spec, field, why) in [
        ("{}", "spec", "without a block"),
        ("retry: {atempts: 1}", "spec.retry.atempts", "known field"),
        ("retires: {}", "spec.retires", "known field"),
        (
            "retry: {grpcCodes: [OK]}",
            "spec.retry.grpcCodes[0]",
            "not one of",
        ),
        (
            "retry: {grpcCodes: [ABORTED, ABORTED]}",
            "spec.retry.grpcCodes[1]",
            "stands twice",
        ),
        (
            "retryConstraint: {budget: {percent: 101}}",
            "spec.retryConstraint.budget.percent",
            "not within",
        ),
        (
            "retryConstraint: {budget: {interval: 2h}}",
            "spec.retryConstraint",
            "between 1s and 1h",
        ),
        ("loadBalancer: {}", "spec.loadBalancer", "one of simple"),
        (
            "loadBalancer: {simple: LEAST_REQUEST, consistentHash: {httpHeaderName: a}}",
            "spec.loadBalancer",
            "one of simple",
        ),
        (
            "outlierDetection: {baseEjectionTime: 0s}",
            "spec.outlierDetection.baseEjectionTime",
            "above 0s",
        ),
        (
            "timeouts: {request: 1s, backendRequest: 2s}",
            "spec.timeouts",
            "longer than request",
        ),
        (
            &format!("targetRefs: [{{{target}}}, {{{target}}}]\nretry: {{}}"),
            "spec.targetRefs[1]",
            "stands twice",
        ),
        (
            "targetRefs: [{group: apps, kind: Deployment, name: a}]\nretry: {}",
            "spec.targetRefs[0]",
            "a target is a Service",
        ),
        (
            &format!("{to_route}\noutlierDetection: {{}}"),
            "spec",
            "is a Service's",
        ),
    ] {
        let (fallback, problems) = refusal(&text(spec));
        assert_eq!(fallback, Fallback::Absent, "{spec}");
        let found = problems
            .iter()
            .any(|p| p.field == field && p.message.contains(why));
        assert!(found, "{spec}: {problems:#?}");
    }
}

/// A kind of ours that permits nothing denies nothing where it is misspelt.
#[test]
fn a_misspelt_kind_is_refused_and_denies_nothing() {
    let text = with_spec("inmesh.dev/v1alpha1", "TraficPolicy", "", "retry: {}");
    let (fallback, problems) = refusal(&text);
    assert_eq!(fallback, Fallback::Absent);
    assert!(problems[0].message.contains("TraficPolicy"), "{problems:?}");
}
