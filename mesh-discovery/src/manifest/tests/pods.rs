//! Pods, their namespaces and nodes, and the slices that refer to them.

use inmesh_core::model::{
    Kind, MeshNamespace, Namespace, Node, ObjectKey, Pod, PodRef, Reached, Slice, Transport,
};
use inmesh_core::snapshot::{Object, Op, Problem, Severity};

use super::super::{Defaults, Parsed, Unsaid, parse};

fn shop() -> Namespace {
    Namespace::new("shop").expect("a name")
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, &shop(), name).expect("a name")
}

fn defaults() -> Defaults {
    Defaults::new(shop())
}

/// As in a cluster: the trust domain is known, and what is no Pod is reached in plaintext.
fn in_cluster() -> Defaults {
    defaults()
        .trust_domain("lab.example".parse().expect("a trust domain"))
        .unsaid(Unsaid::Plain)
}

fn read(text: &str, defaults: &Defaults) -> Parsed {
    parse("a.yaml", text, defaults).expect("it is a document")
}

fn object(text: &str, defaults: &Defaults) -> Object {
    match read(text, defaults).entries.remove(0).op {
        Op::Put(object, warnings) if warnings.is_empty() => object,
        op => panic!("{op:?}"),
    }
}

fn pod(metadata: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: cart-7f9c-x2, {metadata}}}, \
         spec: {{containers: [{{name: a, image: b}}], {spec}}}, status: {{phase: Running}}}}"
    )
}

fn read_pod(metadata: &str, spec: &str) -> Pod {
    match object(&pod(metadata, spec), &in_cluster()) {
        Object::Pod(pod) => Pod::clone(&pod),
        other => panic!("{other:?}"),
    }
}

/// Problems, the first of them.
fn problem(text: &str, defaults: &Defaults) -> Problem {
    match read(text, defaults).entries.remove(0).op {
        Op::Put(_, problems) | Op::Refuse(_, _, problems) => problems[0].clone(),
        op => panic!("{op:?}"),
    }
}

#[test]
fn a_pod_is_reached_as_it_says_or_as_its_namespace_does() {
    let mesh =
        |of: &str| format!("As(Mesh {{ ids: {{\"spiffe://lab.example/ns/shop/sa/{of}\"}} }})");
    let unsaid =
        |of: &str| format!("AsNamespaceSays({{\"spiffe://lab.example/ns/shop/sa/{of}\"}})");
    let said = "annotations: {inmesh.dev/transport: mesh}";
    let other = "annotations: {inmesh.dev/transport: mesh, inmesh.dev/ids: 'spiffe://o.example/a'}";
    for (metadata, spec, wanted) in [
        ("", "serviceAccountName: cart", unsaid("cart")),
        ("", "", unsaid("default")),
        ("", "serviceAccountName: ''", unsaid("default")),
        (said, "serviceAccountName: cart", mesh("cart")),
        (said, "hostNetwork: true", mesh("default")),
        (
            other,
            "",
            "As(Mesh { ids: {\"spiffe://o.example/a\"} })".into(),
        ),
        (
            "annotations: {inmesh.dev/transport: plain}",
            "",
            "As(Plain)".into(),
        ),
        (
            "labels: {inmesh.dev/inject: disabled}",
            "",
            "As(Plain)".into(),
        ),
        (
            "labels: {inmesh.dev/inject: enabled}",
            "",
            unsaid("default"),
        ),
        ("", "hostNetwork: true", "As(Plain)".into()),
    ] {
        let pod = read_pod(metadata, spec);
        assert_eq!(format!("{:?}", pod.reached), wanted, "{metadata} {spec}");
    }
}

#[test]
fn a_pod_is_of_the_workload_that_labels_or_owners_name() {
    let owned = |kind: &str, name: &str| {
        format!("ownerReferences: [{{apiVersion: a, kind: {kind}, name: {name}, uid: u}}]")
    };
    let hashed = "labels: {pod-template-hash: 7f9c, version: v2}, ";
    for (metadata, workload, version) in [
        (String::new(), "cart-7f9c-x2", ""),
        ("labels: {app: a, version: v1}".into(), "a", "v1"),
        (
            "labels: {app.kubernetes.io/name: full, app: a}".into(),
            "full",
            "",
        ),
        (
            format!("{hashed}{}", owned("ReplicaSet", "cart-7f9c")),
            "cart",
            "v2",
        ),
        (
            format!("{hashed}{}", owned("ReplicaSet", "cart")),
            "cart",
            "v2",
        ),
        (owned("ReplicaSet", "cart-7f9c"), "cart-7f9c", ""),
        (owned("StatefulSet", "db"), "db", ""),
        (owned("Job", "once"), "once", ""),
    ] {
        let pod = read_pod(&metadata, "");
        assert_eq!(
            (&*pod.workload, &*pod.version),
            (workload, version),
            "{metadata}"
        );
    }
    let pod = read_pod("uid: u1, labels: {a: b}", "");
    assert!(pod.is(&PodRef::new(key(Kind::Pod, "cart-7f9c-x2"), "u1")));
    assert_eq!(pod.labels.get("a").map(|value| &**value), Some("b"));
}

/// What would have no effect, or is not known, is refused or warned of.
#[test]
fn a_pod_that_cannot_be_read_is_refused() {
    let refused = Severity::Refused;
    for (metadata, field, severity) in [
        (
            "annotations: {inmesh.dev/transport: tls}",
            "metadata.annotations[inmesh.dev/transport]",
            refused,
        ),
        (
            "annotations: {inmesh.dev/transport: plain, inmesh.dev/ids: a}",
            "metadata.annotations[inmesh.dev/ids]",
            refused,
        ),
        (
            "annotations: {inmesh.dev/ids: 'no'}",
            "metadata.annotations[inmesh.dev/ids]",
            refused,
        ),
        (
            "labels: {inmesh.dev/inject: 'on'}",
            "metadata.labels[inmesh.dev/inject]",
            refused,
        ),
        ("uid: 5", "metadata.uid", refused),
    ] {
        let found = problem(&pod(metadata, ""), &in_cluster());
        assert_eq!(
            (&*found.field, found.severity),
            (field, severity),
            "{metadata}: {found}"
        );
    }
    // Without a trust domain no identity can be that of a service account.
    let found = problem(&pod("", ""), &defaults());
    assert!(
        found.severity == Severity::Warning && found.message.contains("trust domain"),
        "{found}"
    );
}

#[test]
fn nodes_and_namespaces_are_read_by_their_labels() {
    let text = "{apiVersion: v1, kind: Node, metadata: {name: n1, labels: \
                {topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z}}, \
                spec: {podCIDR: 10.0.0.0/24}, status: {}}";
    let Object::Node(node) = object(text, &in_cluster()) else {
        panic!("it is a node");
    };
    assert_eq!(*node, Node::new(node.key.clone(), "r", "z"));
    assert_eq!(node.key.to_string(), "Node/n1");
    for (labels, in_mesh) in [
        ("{}", false),
        ("{inmesh.dev/inject: enabled}", true),
        ("{inmesh.dev/inject: disabled}", false),
    ] {
        let text = format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, labels: {labels}}}}}"
        );
        let Object::Namespace(found) = object(&text, &in_cluster()) else {
            panic!("it is a namespace");
        };
        assert_eq!(*found, MeshNamespace::new(found.key.clone(), in_mesh));
        assert_eq!(found.key.to_string(), "Namespace/shop");
    }
}

fn slice(annotations: &str, endpoints: &str) -> String {
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
         metadata: {{name: cart-1, labels: {{kubernetes.io/service-name: cart}}, \
         annotations: {annotations}}}, ports: [{{port: 80}}], endpoints: [{endpoints}]}}"
    )
}

#[test]
fn a_host_of_a_slice_is_reached_as_written_or_as_its_pod_says() {
    let pod =
        "{addresses: [10.0.0.1], targetRef: {kind: Pod, name: cart-1, namespace: shop, uid: u}}";
    let bare = "{addresses: [10.0.0.2]}";
    let elsewhere = "{addresses: [10.0.0.1], targetRef: {kind: Pod, name: a, namespace: b}}";
    let node = "{addresses: [10.0.0.1], targetRef: {kind: Node, name: a}}";
    let ids = "{inmesh.dev/ids: 'spiffe://lab.example/a'}";
    let plain = "{inmesh.dev/transport: plain}";
    let here = || defaults();
    for (defaults, annotations, endpoints, wanted) in [
        (here(), "{}", pod.to_owned(), Some("pods Mesh { ids: {} }")),
        (in_cluster(), "{}", pod.to_owned(), Some("pods Plain")),
        (
            in_cluster(),
            "{}",
            format!("{pod}, {bare}"),
            Some("pods Plain"),
        ),
        (in_cluster(), "{}", bare.to_owned(), Some("Plain")),
        (in_cluster(), "{}", node.to_owned(), Some("Plain")),
        (here(), "{}", bare.to_owned(), None),
        (here(), "{}", elsewhere.to_owned(), None),
        (here(), "{}", node.to_owned(), None),
        (here(), plain, pod.to_owned(), Some("Plain")),
        (
            in_cluster(),
            ids,
            pod.to_owned(),
            Some("Mesh { ids: {\"spiffe://lab.example/a\"} }"),
        ),
        (
            in_cluster(),
            ids,
            bare.to_owned(),
            Some("Mesh { ids: {\"spiffe://lab.example/a\"} }"),
        ),
        // What is half said is not taken for plaintext.
        (
            in_cluster(),
            "{inmesh.dev/transport: mesh}",
            bare.to_owned(),
            None,
        ),
    ] {
        let text = slice(annotations, &endpoints);
        let found = read(&text, &defaults).entries.remove(0).op;
        let shown = match found {
            Op::Put(Object::Slice(slice), _) => {
                let pods = if slice.as_pods_say { "pods " } else { "" };
                Some(format!("{pods}{:?}", slice.transport))
            }
            Op::Refuse(..) => None,
            op => panic!("{op:?}"),
        };
        assert_eq!(shown.as_deref(), wanted, "{annotations} {endpoints}");
    }
    let Object::Slice(found) = object(&slice("{}", pod), &in_cluster()) else {
        panic!("it is a slice");
    };
    let found: &Slice = &found;
    let wanted = PodRef::new(key(Kind::Pod, "cart-1"), "u");
    assert_eq!(found.hosts[0].pod.as_ref(), Some(&wanted));
    assert_eq!(found.transport, Transport::Plain);
    assert!(matches!(
        read_pod("", "").reached,
        Reached::AsNamespaceSays(_)
    ));
}

#[test]
fn a_service_has_its_virtual_addresses() {
    let service = |spec: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: cart}}, \
             spec: {{ports: [{{port: 80}}], {spec}}}}}"
        )
    };
    for (spec, wanted) in [
        ("clusterIP: None, clusterIPs: [None]", &[][..]),
        ("clusterIP: ''", &[]),
        ("clusterIP: 10.96.0.7", &["10.96.0.7"]),
        (
            "clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7, 'fd96::7']",
            &["10.96.0.7", "fd96::7"],
        ),
    ] {
        let Object::Service(found) = object(&service(spec), &in_cluster()) else {
            panic!("it is a Service");
        };
        let found: Vec<_> = found.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(found, wanted, "{spec}");
    }
    for spec in [
        "clusterIP: x",
        "clusterIP: 0.0.0.0",
        "clusterIPs: [127.0.0.1]",
    ] {
        let found = problem(&service(spec), &in_cluster());
        assert_eq!(found.severity, Severity::Refused, "{spec}");
    }
}
