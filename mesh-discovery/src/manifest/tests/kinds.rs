//! Backends and mirrors of kinds that are no Service: their routes are applied, with the condition of it.

use inmesh_core::authorize::DefaultAction;
use inmesh_core::model::{ServiceName, SourceId, Workload};
use inmesh_core::snapshot::{Change, Object, Op, Settings, Snapshot};

use super::{only, read, with_spec};

const V1: &str = "gateway.networking.k8s.io/v1";
const IMPORT: &str = "group: multicluster.x-k8s.io, kind: ServiceImport, name: store";
const CONDITION: &str = "ServiceImport.multicluster.x-k8s.io/store.shop is no Service \
                         (ResolvedRefs False, InvalidKind); ";

/// A route to the Service `cart` with its rules.
fn of_cart(kind: &str, spec: &str) -> String {
    let parents = "parentRefs: [{group: '', kind: Service, name: cart}]\n";
    with_spec(V1, kind, "", &format!("{parents}{spec}"))
}

/// The problems of a route beside the Service `cart`.
fn status(route: &str) -> Vec<String> {
    let cart = "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\n\
                spec: {ports: [{port: 80}]}";
    let ops = read(&format!("{cart}\n---\n{route}")).entries;
    let ops: Vec<Op> = ops.into_iter().map(|entry| entry.op).collect();
    let web = Workload::new("shop", "web", "web").expect("a name");
    let empty = Snapshot::new(Settings::new(web, DefaultAction::Allow));
    let next = empty.apply(Change::update(SourceId::new("folder"), ops));
    let problems = next.status().into_iter().flat_map(|one| one.problems);
    problems
        .map(|problem| format!("{}: {}", problem.field, problem.message))
        .collect()
}

#[test]
fn a_backend_of_another_kind_is_one_that_does_not_exist() {
    for (kind, fields, answer) in [
        ("GRPCRoute", "", "answered with UNAVAILABLE"),
        ("HTTPRoute", "", "answered with 500"),
        ("TCPRoute", "", "refused"),
        ("TLSRoute", "hostnames: [a.b]\n", "refused"),
    ] {
        // A port is asked for where it is a Service.
        for port in ["", ", port: 8080"] {
            let rules = format!(
                "{fields}rules: [{{backendRefs: [{{name: cart, port: 80}}, {{{IMPORT}{port}}}]}}]"
            );
            let wanted = format!("spec.rules[0].backendRefs[1]: {CONDITION}its share is {answer}");
            assert_eq!(status(&of_cart(kind, &rules)), [wanted], "{kind}");
        }
    }
}

#[test]
fn a_mirror_to_another_kind_is_left_out() {
    let filter = format!("{{type: RequestMirror, requestMirror: {{backendRef: {{{IMPORT}}}}}}}");
    for kind in ["GRPCRoute", "HTTPRoute"] {
        let rules =
            format!("rules: [{{filters: [{filter}], backendRefs: [{{name: cart, port: 80}}]}}]");
        let wanted = format!(
            "spec.rules[0].filters[0].requestMirror.backendRef: {CONDITION}nothing is mirrored"
        );
        assert_eq!(status(&of_cart(kind, &rules)), [wanted], "{kind}");
    }
}

/// No document can say that it is the Service of such a name.
#[test]
fn a_reference_to_another_kind_names_no_service() {
    let rules = r#"rules: [{backendRefs: [{kind: Pod, name: "a\n/b", namespace: other}]}]"#;
    let Op::Put(Object::Route(route), _) = only(&of_cart("HTTPRoute", rules)) else {
        panic!("it is refused");
    };
    let backend = &route.rules[0].backends()[0];
    assert_eq!(backend.service.to_string(), "Pod/a\\n/b.other");
    assert!(ServiceName::new(backend.service.namespace(), backend.service.name()).is_err());
}
