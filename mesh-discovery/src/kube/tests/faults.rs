//! What goes wrong between an API server and a watch never empties a set of endpoints.

use inmesh_core::model::{Namespace, ServiceName};
use inmesh_core::snapshot::{Change, Op, Snapshot};
use serde_json::{Value as Json, json};

use super::{Event, Index, KINDS, defaults, empty, listed, object, place, source};

fn service() -> (usize, Json) {
    let kind = place("Service", "");
    let spec = json!({"spec": {"ports": [{"name": "p", "port": 80}]}});
    (kind, object(kind, "cart", "u", 1, &spec))
}

fn slice(n: u8, uid: &str, version: u64) -> (usize, Json) {
    let kind = place("EndpointSlice", "discovery.k8s.io");
    let rest = json!({
        "addressType": "IPv4", "labels": {"kubernetes.io/service-name": "cart"},
        "ports": [{"name": "p", "port": 8080}],
        "endpoints": [{"addresses": [format!("10.0.0.{n}")]}],
    });
    (kind, object(kind, "cart-a", uid, version, &rest))
}

/// The addresses of the Service.
fn endpoints(snapshot: &Snapshot) -> Vec<String> {
    let cart = Namespace::new("shop").and_then(|shop| ServiceName::new(&shop, "cart"));
    let view = snapshot
        .service(&cart.expect("a name"))
        .expect("it is known");
    let members = view.endpoints(80).expect("its port").members();
    members
        .iter()
        .map(|m| m.endpoint.address().to_string())
        .collect()
}

struct World {
    index: Index,
    snapshot: Snapshot,
}

impl World {
    fn of_cart() -> Self {
        let mut world = Self {
            index: listed(),
            snapshot: empty(),
        };
        let ((services, service), (slices, slice)) = (service(), slice(1, "u", 5));
        world.is(services, Event::Applied(service));
        world.is(slices, Event::Applied(slice));
        assert_eq!(endpoints(&world.snapshot), ["10.0.0.1:8080"]);
        world
    }

    fn is(&mut self, kind: usize, event: Event) {
        self.index.handle(kind, event);
        if let Some(change) = self.index.poll() {
            self.snapshot = self.snapshot.apply(change);
        }
    }
}

#[test]
fn nothing_is_said_before_every_kind_is_listed_or_absent() {
    let mut index = Index::new(source(), defaults());
    let (services, cart) = service();
    for (kind, watched) in KINDS.iter().enumerate() {
        assert!(index.poll().is_none(), "{kind}");
        match (kind == services, watched.built_in) {
            (true, _) => {
                index.handle(kind, Event::ListBegun);
                index.handle(kind, Event::Listed(cart.clone()));
                index.handle(kind, Event::ListDone);
            }
            (_, true) => {
                index.handle(kind, Event::ListBegun);
                index.handle(kind, Event::ListDone);
            }
            (_, false) => index.handle(kind, Event::Absent),
        }
    }
    let Some(Change { replace, ops, .. }) = index.poll() else {
        panic!("all is known");
    };
    assert!(replace && matches!(&ops[..], [Op::Put(..)]), "{ops:?}");
    assert!(index.poll().is_none());
}

#[test]
fn endpoints_stay_while_a_list_is_not_whole() {
    let mut world = World::of_cart();
    let (slices, one) = slice(1, "u", 5);
    for _broken_off in 0..3 {
        world.is(slices, Event::ListBegun);
        assert_eq!(endpoints(&world.snapshot), ["10.0.0.1:8080"]);
    }
    world.is(slices, Event::Listed(one));
    world.is(slices, Event::ListDone);
    assert_eq!(endpoints(&world.snapshot), ["10.0.0.1:8080"]);
    // The definition of a kind may be away for a moment.
    world.is(slices, Event::Absent);
    assert_eq!(endpoints(&world.snapshot), ["10.0.0.1:8080"]);
    world.is(slices, Event::ListBegun);
    world.is(slices, Event::ListDone);
    assert_eq!(endpoints(&world.snapshot), [""; 0]);
}

#[test]
fn events_that_come_late_or_twice_change_nothing() {
    let mut world = World::of_cart();
    let ((slices, new), (_, old), (_, other)) =
        (slice(2, "u", 7), slice(1, "u", 5), slice(3, "w", 9));
    world.is(slices, Event::Applied(new.clone()));
    for event in [old.clone(), new.clone(), old.clone()] {
        world.is(slices, Event::Applied(event));
        assert_eq!(endpoints(&world.snapshot), ["10.0.0.2:8080"]);
    }
    // Another object of the name: the end of the one before comes late, and so does its last version.
    world.is(slices, Event::Applied(other));
    world.is(slices, Event::Deleted(new.clone()));
    assert_eq!(endpoints(&world.snapshot), ["10.0.0.3:8080"]);
    world.is(slices, Event::Applied(new));
    assert_eq!(endpoints(&world.snapshot), ["10.0.0.3:8080"]);
}

/// A store that was restored from a backup has older versions, and is right.
#[test]
fn a_list_may_go_back() {
    let mut world = World::of_cart();
    let ((slices, now), (_, backup)) = (slice(2, "u", 7), slice(1, "u", 3));
    world.is(slices, Event::Applied(now.clone()));
    world.is(slices, Event::Deleted(now));
    world.is(slices, Event::ListBegun);
    world.is(slices, Event::Listed(backup));
    world.is(slices, Event::ListDone);
    assert_eq!(endpoints(&world.snapshot), ["10.0.0.1:8080"]);
}

/// An object that no document can be as large as is refused; a policy denies what it may select.
#[test]
fn a_policy_that_is_too_large_denies() {
    let mut deep = json!("x");
    for _level in 0..70 {
        deep = json!([deep]);
    }
    let mut world = World::of_cart();
    let kind = place("AuthorizationPolicy", "security.istio.io");
    let policy = object(kind, "p", "u", 1, &json!({"spec": {"rules": deep}}));
    let before = format!("{:?}", world.snapshot.policy());
    world.is(kind, Event::Applied(policy));
    assert_ne!(format!("{:?}", world.snapshot.policy()), before);
    let status = world.snapshot.status();
    let refused = status
        .iter()
        .find(|one| one.object == "AuthorizationPolicy/shop/p");
    let refused = refused.expect("it is reported");
    assert!(
        refused.problems[0].message.contains("nested deeper"),
        "{refused:?}"
    );
}

/// What is for another program, or becomes so, says nothing.
#[test]
fn what_no_longer_speaks_to_the_mesh_is_removed() {
    let kind = place("HTTPRoute", "gateway.networking.k8s.io");
    let route = |parent: &Json, version| {
        let spec = json!({"parentRefs": [parent], "rules": [{"backendRefs": [{"name": "cart", "port": 80}]}]});
        object(kind, "r", "u", version, &json!({"spec": spec}))
    };
    let to_service = json!({"group": "", "kind": "Service", "name": "cart"});
    let to_gateway = json!({"name": "door"});
    let mut world = World::of_cart();
    let routes = |world: &World| {
        let status = world.snapshot.status();
        status
            .iter()
            .filter(|one| one.object.starts_with("HTTPRoute"))
            .count()
    };
    for (parent, version, wanted) in [
        (&to_gateway, 1, 0),
        (&to_service, 2, 1),
        (&to_gateway, 3, 0),
    ] {
        world.is(kind, Event::Applied(route(parent, version)));
        assert_eq!(routes(&world), wanted, "{parent}");
    }
}
