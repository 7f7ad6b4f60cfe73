//! What policies make of the transport of endpoints, change by change.

use super::*;
use crate::authorize::DefaultAction;
use crate::model::{
    AppProtocol, Host, IdSet, Kind, Namespace, Roots, Service, ServicePort, Slice, SliceHost,
    SlicePort, SourceId, Workload,
};
use crate::origination::Vouched;
use crate::snapshot::{Change, Op, Settings};

fn shop() -> Namespace {
    Namespace::new("shop").unwrap()
}

fn pay() -> ServiceName {
    ServiceName::new(&shop(), "pay").unwrap()
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, &shop(), name).unwrap()
}

/// A Service with two ports and an endpoint in this transport.
fn world(transport: Transport) -> Snapshot {
    let web = Workload::new("shop", "web", "web").unwrap();
    let ports = [("http", 80), ("more", 81)];
    let of_service = ports.map(|(name, port)| ServicePort::new(name, port, AppProtocol::Http1));
    let of_slice = ports.map(|(name, port)| SlicePort::new(name, port));
    let host = SliceHost::new(Host::Address([10, 0, 0, 1].into()));
    let slice = key(Kind::EndpointSlice, "pay");
    let slice = Slice::new(slice, pay(), of_slice.to_vec(), vec![host], transport);
    let snapshot = Snapshot::new(Settings::new(web, DefaultAction::Deny));
    let service = Service::new(pay(), of_service.to_vec());
    after(&snapshot, vec![Op::put(service), Op::put(slice)])
}

fn after(snapshot: &Snapshot, ops: Vec<Op>) -> Snapshot {
    snapshot.apply(Change::update(SourceId::new("test"), ops))
}

fn policy(name: &str, section: Option<&str>, created: i64) -> BackendTlsPolicy {
    let targets = Targets::Services(vec![(pay(), section.map(Into::into))]);
    let key = key(Kind::BackendTlsPolicy, name);
    BackendTlsPolicy::new(key, targets, name, Vouched::System).with_created(Some(created))
}

/// The transport to a port: `plain`, `mesh`, or the name of the server and its roots.
fn seen(snapshot: &Snapshot, port: u16) -> String {
    let set = Arc::clone(snapshot.service(&pay()).unwrap().endpoints(port).unwrap());
    match &set.members()[0].endpoint.transport {
        Transport::Tls { name, roots, .. } => format!("{name} by {roots}"),
        other => other.as_str().into(),
    }
}

const SYSTEM: &str = "by the operating system's trust store";

#[test]
fn the_policy_of_a_port_comes_before_that_of_its_service_then_the_oldest() {
    let mut snapshot = world(Transport::Plain);
    let one = |name: &str| format!("{name} {SYSTEM}");
    for (op, http, more) in [
        (Op::put(policy("b", None, 5)), one("b"), one("b")),
        (Op::put(policy("c", None, 4)), one("c"), one("c")),
        (Op::put(policy("a", None, 4)), one("a"), one("a")),
        (Op::put(policy("p", Some("more"), 9)), one("a"), one("p")),
        (
            Op::Remove(key(Kind::BackendTlsPolicy, "a")),
            one("c"),
            one("p"),
        ),
        (
            Op::Remove(key(Kind::BackendTlsPolicy, "p")),
            one("c"),
            one("c"),
        ),
        (
            Op::Remove(key(Kind::BackendTlsPolicy, "c")),
            one("b"),
            one("b"),
        ),
        (
            Op::Remove(key(Kind::BackendTlsPolicy, "b")),
            "plain".into(),
            "plain".into(),
        ),
    ] {
        let shown = format!("{op:?}");
        snapshot = after(&snapshot, vec![op]);
        assert_eq!(
            (seen(&snapshot, 80), seen(&snapshot, 81)),
            (http, more),
            "{shown}"
        );
    }
}

#[test]
fn mutual_tls_of_the_mesh_stays_whatever_a_policy_says() {
    let ids = IdSet::new(["spiffe://x.test/ns/shop/sa/pay".parse().unwrap()]);
    let snapshot = after(
        &world(Transport::Mesh { ids }),
        vec![Op::put(policy("a", None, 1))],
    );
    assert_eq!(seen(&snapshot, 80), "mesh");
    assert_eq!(
        snapshot.service(&pay()).unwrap().traffic(80).unwrap().tls,
        None
    );
    let status = snapshot.status();
    let of = status
        .iter()
        .find(|s| s.object.starts_with("BackendTLSPolicy"))
        .unwrap();
    assert!(of.problems[0].message.contains("in mutual TLS"), "{of:?}");
}

/// Neither plaintext nor the roots of the system stand in for roots that are missing.
#[test]
fn roots_that_are_not_there_refuse_until_they_are() {
    let ca = key(Kind::ConfigMap, "ca");
    let mut of_map = policy("a", None, 1);
    of_map.vouched = Vouched::ConfigMaps(vec![ca.clone(), key(Kind::ConfigMap, "two")]);
    let roots = |name: &str| CaConfigMap {
        key: key(Kind::ConfigMap, name),
        pem: b"PEM".as_slice().into(),
    };
    let mut snapshot = world(Transport::Tls {
        name: "x".into(),
        roots: Roots::System,
        names: Arc::default(),
    });
    for (op, wanted, condition) in [
        (
            Op::put(of_map),
            "a by none: ConfigMap/shop/ca with a key ca.crt does not exist",
            true,
        ),
        (
            Op::put(roots("ca")),
            "a by none: ConfigMap/shop/two with a key ca.crt does not exist",
            true,
        ),
        (
            Op::put(roots("two")),
            "a by ConfigMap/shop/ca, ConfigMap/shop/two",
            false,
        ),
        // What was good stays.
        (
            Op::Refuse(ca.clone(), Fallback::Absent, vec![]),
            "a by ConfigMap/shop/ca, ConfigMap/shop/two",
            false,
        ),
        (
            Op::Remove(ca),
            "a by none: ConfigMap/shop/ca with a key ca.crt does not exist",
            true,
        ),
    ] {
        let shown = format!("{op:?}");
        snapshot = after(&snapshot, vec![op]);
        assert_eq!(seen(&snapshot, 80), wanted, "{shown}");
        let status = snapshot.status();
        let of = status
            .iter()
            .find(|s| s.object.starts_with("BackendTLSPolicy"))
            .unwrap();
        let said = of
            .problems
            .iter()
            .any(|p| p.message.contains("InvalidCACertificateRef"));
        assert_eq!(said, condition, "{shown}: {of:?}");
    }
}

#[test]
fn a_policy_that_never_was_good_refuses_and_one_that_was_stays() {
    let key = key(Kind::BackendTlsPolicy, "a");
    let refuse = |targets| {
        let policy = BackendTlsPolicy::refusing(key.clone(), targets, "it was refused");
        Op::Refuse(key.clone(), Fallback::Refuse(policy.into()), vec![])
    };
    let named = || Targets::Services(vec![(pay(), Some("more".into()))]);
    let plain = world(Transport::Plain);
    let snapshot = after(&plain, vec![refuse(named())]);
    assert_eq!(
        (&*seen(&snapshot, 80), &*seen(&snapshot, 81)),
        ("plain", " by none: it was refused")
    );
    let snapshot = after(&plain, vec![refuse(Targets::All)]);
    assert_eq!(seen(&snapshot, 80), " by none: it was refused");
    let mended = after(&snapshot, vec![Op::put(policy("a", None, 1))]);
    assert_eq!(seen(&mended, 80), format!("a {SYSTEM}"));
    let broken = after(&mended, vec![refuse(Targets::All)]);
    assert_eq!(seen(&broken, 80), format!("a {SYSTEM}"));
    let gone = after(&broken, vec![Op::Remove(key.clone())]);
    assert_eq!(seen(&gone, 80), "plain");
}

#[test]
fn conditions_say_where_a_policy_has_no_effect() {
    let elsewhere = |service: &str, section: Option<&str>| {
        let service = ServiceName::new(&shop(), service).unwrap();
        let mut policy = policy("z", None, 9);
        policy.targets = Targets::Services(vec![(service, section.map(Into::into))]);
        policy
    };
    let snapshot = after(
        &world(Transport::Plain),
        vec![Op::put(policy("a", None, 1))],
    );
    for (policy, condition) in [
        (
            elsewhere("pay", None),
            Some("BackendTLSPolicy/shop/a has precedence (Accepted False, Conflicted)"),
        ),
        (elsewhere("pay", Some("more")), None),
        (
            elsewhere("pay", Some("none")),
            Some("no port named \"none\" (Accepted False, TargetNotFound)"),
        ),
        (
            elsewhere("other", None),
            Some("does not exist (Accepted False, TargetNotFound)"),
        ),
    ] {
        let shown = format!("{:?}", policy.targets);
        let status = after(&snapshot, vec![Op::put(policy)]).status();
        let of = status.iter().find(|s| s.object.ends_with("/z")).unwrap();
        let said = of.problems.first().map(|p| &*p.message);
        match condition {
            Some(condition) => assert!(
                said.is_some_and(|said| said.contains(condition)),
                "{shown}: {said:?}"
            ),
            None => assert_eq!(said, None, "{shown}"),
        }
    }
}

/// Nothing but endpoints changes, and what is spoken to them is decided again all the same.
#[test]
fn endpoints_that_come_later_are_spoken_to_as_the_policy_says() {
    let slice = |last, transport| {
        let host = SliceHost::new(Host::Address([10, 0, 0, last].into()));
        let ports = vec![SlicePort::new("http", 80), SlicePort::new("more", 81)];
        let slice = Slice::new(
            key(Kind::EndpointSlice, "pay"),
            pay(),
            ports,
            vec![host],
            transport,
        );
        vec![Op::put(slice)]
    };
    let snapshot = after(
        &world(Transport::Plain),
        vec![Op::put(policy("pay", None, 1))],
    );
    assert_eq!(seen(&snapshot, 80), format!("pay {SYSTEM}"));
    let moved = after(&snapshot, slice(2, Transport::Plain));
    assert_eq!(seen(&moved, 80), format!("pay {SYSTEM}"));
    let ids = IdSet::new([]);
    let in_mesh = after(&moved, slice(3, Transport::Mesh { ids }));
    assert_eq!(seen(&in_mesh, 80), "mesh");
    assert!(
        in_mesh
            .service(&pay())
            .unwrap()
            .traffic(80)
            .unwrap()
            .tls
            .is_none()
    );
    let back = after(&in_mesh, slice(4, Transport::Plain));
    assert_eq!(seen(&back, 80), format!("pay {SYSTEM}"));
    let gone = after(&back, vec![Op::Remove(key(Kind::BackendTlsPolicy, "pay"))]);
    assert_eq!(seen(&after(&gone, slice(5, Transport::Plain)), 80), "plain");
}
