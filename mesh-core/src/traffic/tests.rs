//! Which policy's block serves.

use std::time::Duration;

use super::*;
use crate::balance::Nearness;
use crate::model::{Distribution, Kind, Namespace, ObjectKey, Service, ServiceName};

fn shop() -> Namespace {
    Namespace::new("shop").unwrap()
}

fn cart() -> ServiceName {
    ServiceName::new(&shop(), "cart").unwrap()
}

fn service() -> Service {
    Service::new(cart(), Vec::new())
}

fn route() -> ObjectKey {
    ObjectKey::new(Kind::HttpRoute, &shop(), "cart").unwrap()
}

fn key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::new(
        Kind::TrafficPolicy,
        &Namespace::new(namespace).unwrap(),
        name,
    )
    .unwrap()
}

fn timeouts(seconds: u64) -> Blocks {
    Blocks {
        timeouts: Some(Timeouts::new(Some(Duration::from_secs(seconds)), None).unwrap()),
        ..Blocks::default()
    }
}

fn policy(namespace: &str, name: &str, targets: Vec<Target>, blocks: Blocks) -> Arc<TrafficPolicy> {
    Arc::new(TrafficPolicy::new(key(namespace, name), targets, blocks).unwrap())
}

/// From the farthest to the nearest.
fn levels() -> Vec<Arc<TrafficPolicy>> {
    let of = |port: Option<&str>| vec![Target::Service(cart(), port.map(Into::into))];
    vec![
        policy("mesh", "a", vec![], timeouts(1)),
        policy("shop", "b", vec![], timeouts(2)),
        policy("shop", "c", of(None), timeouts(3)),
        policy("shop", "d", of(Some("http")), timeouts(4)),
    ]
}

fn from(policies: &[Arc<TrafficPolicy>], port: &str) -> Option<String> {
    let traffic = of_port(policies, (&service(), port), &Arc::default());
    Some(traffic.timeouts.as_ref()?.from.as_ref()?.to_string())
}

#[test]
fn the_nearest_policy_serves_whatever_the_order() {
    let all = levels();
    for n in 0..=all.len() {
        let mut some = all[..n].to_vec();
        let wanted = some.last().map(|nearest| nearest.key.to_string());
        assert_eq!(from(&some, "http"), wanted);
        some.reverse();
        assert_eq!(from(&some, "http"), wanted);
    }
    assert_eq!(from(&all, "raw"), Some("TrafficPolicy/shop/c".into()));
}

/// A Service's own word is nearer than a default, and farther than a policy for it.
#[test]
fn what_a_service_says_of_near_endpoints_stands_among_policies() {
    let near = |name: &str, namespace: &str, targets| {
        let blocks = Blocks {
            nearness: Some(Nearness::Anywhere),
            ..Blocks::default()
        };
        policy(namespace, name, targets, blocks)
    };
    let (mesh, shop_wide) = (near("a", "mesh", vec![]), near("b", "shop", vec![]));
    let of_it = near("c", "shop", vec![Target::Service(cart(), None)]);
    let timed = policy(
        "shop",
        "d",
        vec![Target::Service(cart(), None)],
        timeouts(1),
    );
    let says = service().with_distribution(Distribution::SameZone);
    let silent = service();
    for (policies, service, wanted) in [
        (vec![], &silent, None),
        (vec![], &says, Some("Service/shop/cart")),
        (vec![&mesh], &silent, Some("TrafficPolicy/mesh/a")),
        (vec![&mesh, &shop_wide], &says, Some("Service/shop/cart")),
        (vec![&mesh, &timed], &says, Some("Service/shop/cart")),
        (vec![&timed], &says, Some("Service/shop/cart")),
        (
            vec![&shop_wide, &of_it],
            &says,
            Some("TrafficPolicy/shop/c"),
        ),
        (vec![&of_it, &timed], &says, Some("TrafficPolicy/shop/c")),
    ] {
        let policies: Vec<_> = policies.into_iter().map(Arc::clone).collect();
        let traffic = of_port(&policies, (service, "http"), &Arc::default());
        let near = traffic.nearness.as_ref();
        let from = near.and_then(|near| Some(near.from.as_ref()?.to_string()));
        assert_eq!(from.as_deref(), wanted, "{policies:?}");
    }
}

#[test]
fn each_block_is_inherited_by_itself() {
    let mut all = levels();
    let retry = Blocks {
        retry: Some(RetryPolicy::new(4).into()),
        ..Blocks::default()
    };
    all.push(policy("mesh", "e", vec![], retry));
    let built = Traffic::built(Strategy::default(), EjectPolicy::default());
    let traffic = of_port(&all, (&service(), "http"), &Arc::new(built.clone()));
    let of = |key: &Option<ObjectKey>| key.as_ref().map(ToString::to_string);
    let timeouts = traffic.timeouts.clone().unwrap();
    assert_eq!(of(&timeouts.from).as_deref(), Some("TrafficPolicy/shop/d"));
    let retry = traffic.retry.clone().unwrap();
    assert_eq!(of(&retry.from).as_deref(), Some("TrafficPolicy/mesh/e"));
    assert_eq!(
        (&traffic.eject, &traffic.strategy),
        (&built.eject, &built.strategy)
    );
}

/// What is hedged and what is repeated: the nearer of the two holds, and what is not hedged is repeated.
#[test]
fn of_a_hedge_and_a_retry_the_nearer_holds() {
    let hedge = || Blocks {
        hedge: Some(HedgePolicy::new(2, Duration::ZERO).unwrap().into()),
        ..Blocks::default()
    };
    let retry = || Blocks {
        retry: Some(RetryPolicy::new(2).into()),
        ..Blocks::default()
    };
    let to_it = || vec![Target::Service(cart(), None)];
    for (far, near, hedged) in [(retry(), hedge(), true), (hedge(), retry(), false)] {
        let all = [
            policy("mesh", "a", vec![], far.clone()),
            policy("shop", "b", to_it(), near.clone()),
        ];
        let traffic = of_port(&all, (&service(), "http"), &Arc::default());
        assert_eq!(traffic.hedge.is_some(), hedged);
        assert!(traffic.retry.is_some());
        let of = |name: &str, rule: Option<&str>, blocks| {
            let target = Target::Route(route(), rule.map(Into::into));
            policy("shop", name, vec![target], blocks)
        };
        let all = [of("a", None, far), of("b", Some("slow"), near)];
        let inherited = of_rule(&all, &route(), Some("slow"));
        assert_eq!(inherited.hedge.is_some(), hedged);
        let other = of_rule(&all, &route(), None);
        assert_eq!(other.hedge.is_some(), !hedged);
    }
}

#[test]
fn of_two_for_one_target_the_older_serves_then_the_first_by_name() {
    let of = |name: &str, created| {
        let policy = policy(
            "shop",
            name,
            vec![Target::Service(cart(), None)],
            timeouts(1),
        );
        Arc::new(TrafficPolicy::clone(&policy).with_created(created))
    };
    for (policies, wanted) in [
        ([of("a", Some(2)), of("b", Some(1))], "b"),
        ([of("a", None), of("b", Some(1))], "b"),
        ([of("b", Some(1)), of("a", Some(1))], "a"),
        ([of("b", None), of("a", None)], "a"),
    ] {
        let wanted = format!("TrafficPolicy/shop/{wanted}");
        assert_eq!(from(&policies, "http"), Some(wanted));
    }
}

#[test]
fn a_rule_has_what_is_for_it_before_what_is_for_its_route() {
    let of = |name: &str, rule: Option<&str>, seconds| {
        let target = Target::Route(route(), rule.map(Into::into));
        policy("shop", name, vec![target], timeouts(seconds))
    };
    let all = [of("whole", None, 1), of("rule", Some("slow"), 2)];
    for (rule, wanted) in [(Some("slow"), 2), (Some("other"), 1), (None, 1)] {
        let inherited = of_rule(&all, &route(), rule);
        let request = inherited.timeouts.unwrap().value.request;
        assert_eq!(request, Some(Duration::from_secs(wanted)), "{rule:?}");
    }
    assert_eq!(from(&all, "http"), None, "it says nothing of the Service");
}

#[test]
fn what_a_policy_cannot_be_is_refused() {
    let to_route = || vec![Target::Route(route(), None)];
    let eject = Blocks {
        eject: Some(EjectPolicy::default()),
        ..Blocks::default()
    };
    let other = ObjectKey::new(Kind::Service, &shop(), "cart").unwrap();
    let hedge = HedgePolicy::new(2, Duration::ZERO).unwrap();
    let hedged = Blocks {
        hedge: Some(hedge.clone().into()),
        ..Blocks::default()
    };
    let both = Blocks {
        retry: Some(RetryPolicy::new(1).into()),
        ..hedged.clone()
    };
    let calls = ObjectKey::new(Kind::GrpcRoute, &shop(), "cart").unwrap();
    let to_calls = || vec![Target::Route(calls.clone(), None)];
    let of_calls = Blocks {
        hedge: Some(hedge.with_grpc().into()),
        ..Blocks::default()
    };
    assert!(TrafficPolicy::new(key("shop", "x"), to_calls(), of_calls).is_ok());
    for (namespace, targets, blocks, why) in [
        ("shop", vec![], both, "retry stands beside hedge"),
        ("shop", to_calls(), hedged, "without `grpc: true`"),
        ("shop", vec![], Blocks::default(), "without a block"),
        ("shop", to_route(), eject, "outlierDetection"),
        ("other", to_route(), timeouts(1), "own namespace"),
        (
            "other",
            vec![Target::Service(cart(), None)],
            timeouts(1),
            "own namespace",
        ),
        (
            "shop",
            vec![Target::Route(other, None)],
            timeouts(1),
            "is no route",
        ),
    ] {
        let refused = TrafficPolicy::new(key(namespace, "x"), targets, blocks).unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
    }
}
