//! Which policy's block serves.

use std::time::Duration;

use super::*;
use crate::model::{Kind, Namespace, ObjectKey, ServiceName};

fn shop() -> Namespace {
    Namespace::new("shop").unwrap()
}

fn cart() -> ServiceName {
    ServiceName::new(&shop(), "cart").unwrap()
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
    let traffic = of_port(policies, (&cart(), port), &Arc::default());
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

#[test]
fn each_block_is_inherited_by_itself() {
    let mut all = levels();
    let retry = Blocks {
        retry: Some(RetryPolicy::new(4).into()),
        ..Blocks::default()
    };
    all.push(policy("mesh", "e", vec![], retry));
    let built = Traffic::built(Strategy::default(), EjectPolicy::default());
    let traffic = of_port(&all, (&cart(), "http"), &Arc::new(built.clone()));
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
    for (namespace, targets, blocks, why) in [
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
