//! TLSRoutes and TCPRoutes: what is read of them, and each refusal.

use inmesh_core::route::OpaqueRoute;
use inmesh_core::snapshot::{Object, Op, Severity};

use super::{only, read, refusal, with_spec};

const PARENT: &str = "parentRefs: [{group: '', kind: Service, name: cart}]\n";
const RULES: &str = "rules: [{backendRefs: [{name: cart, port: 443}]}]\n";
const V1: &str = "gateway.networking.k8s.io/v1";
const OLDEST: &str = "gateway.networking.k8s.io/v1alpha2";

/// The route that a document makes, and how many warnings about it.
fn a_route(version: &str, kind: &str, spec: &str) -> (OpaqueRoute, usize) {
    match only(&with_spec(version, kind, "", &format!("{PARENT}{spec}"))) {
        Op::Put(Object::OpaqueRoute(route), problems) => ((*route).clone(), problems.len()),
        op => panic!("{spec}: {op:#?}"),
    }
}

#[track_caller]
fn refused(version: &str, kind: &str, spec: &str, field: &str, message: &str) {
    let document = with_spec(version, kind, "", &format!("{PARENT}{spec}"));
    let (_, problems) = refusal(&document);
    let found = problems.iter().any(|problem| {
        problem.severity == Severity::Refused
            && problem.field == field
            && problem.message.contains(message)
    });
    assert!(
        found,
        "{field}: {message}\nis not in {problems:#?}\nof {kind} {spec}"
    );
}

#[test]
fn full_routes() {
    let rules = "
rules:
- name: split
  backendRefs:
  - {name: cart, port: 443, weight: 9}
  - {group: '', kind: Service, name: cart, namespace: other, port: 444, weight: 0}
";
    let names = "hostnames: [a.example.com, '*.example.com']";
    let (route, warnings) = a_route(V1, "TLSRoute", &format!("{names}{rules}"));
    assert_eq!(
        (route.key.to_string(), warnings),
        ("TLSRoute/shop/x".into(), 0)
    );
    let names: Vec<_> = route.names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["a.example.com", "*.example.com"]);
    let (tcp, warnings) = a_route(V1, "TCPRoute", rules.trim_start());
    assert_eq!(
        (tcp.key.to_string(), warnings),
        ("TCPRoute/shop/x".into(), 0)
    );
    for rule in [&route.rule, &tcp.rule] {
        assert_eq!(rule.name.as_deref(), Some("split"));
        let backends = rule.backends().iter();
        let backends: Vec<_> = backends
            .map(|b| (b.service.to_string(), b.port, b.weight))
            .collect();
        let wanted = [("cart.shop".into(), 443, 9), ("cart.other".into(), 444, 0)];
        assert_eq!(backends, wanted);
    }
}

#[test]
fn older_versions_are_read_and_the_oldest_needs_no_name() {
    for version in ["v1alpha3", "v1alpha2"] {
        let version = format!("gateway.networking.k8s.io/{version}");
        let (route, _) = a_route(
            &version,
            "TLSRoute",
            &format!("hostnames: [a.com]\n{RULES}"),
        );
        assert_eq!(route.names.len(), 1);
    }
    for names in ["", "hostnames: []\n"] {
        let (route, _) = a_route(OLDEST, "TLSRoute", &format!("{names}{RULES}"));
        assert_eq!(route.names, []);
    }
    a_route(OLDEST, "TCPRoute", RULES);
    let newer = "gateway.networking.k8s.io/v1alpha3";
    refused(newer, "TLSRoute", RULES, "spec", "hostnames is missing");
    refused(
        newer,
        "TCPRoute",
        RULES,
        "",
        "version v1alpha3 of TCPRoute is not read",
    );
}

#[test]
fn those_of_gateways_are_skipped_whatever_they_lack() {
    for kind in ["TLSRoute", "TCPRoute"] {
        for version in [V1, OLDEST, "gateway.networking.k8s.io/v2"] {
            let gateway = "parentRefs: [{name: gw}]\nrules: []\n";
            let parsed = read(&with_spec(version, kind, "", gateway));
            assert!(parsed.entries.is_empty(), "{version} {kind}");
        }
    }
}

#[test]
fn routes_of_connections_are_refused() {
    let with = |backend: &str| format!("rules: [{{backendRefs: [{backend}]}}]\n");
    let rule = "spec.rules[0]";
    let backend = "spec.rules[0].backendRefs[0]";
    let good = "{name: cart, port: 443}";
    let many = format!("{good}, ").repeat(17);
    let two = format!("rules: [{{backendRefs: [{good}]}}, {{backendRefs: [{good}]}}]\n");
    let rows = [
        (String::new(), "spec", "rules is missing"),
        ("rules: []\n".into(), "spec.rules", "empty"),
        (two, "spec.rules", "1 are allowed"),
        (
            "rules: [{}]\n".into(),
            "spec.rules[0].backendRefs",
            "missing",
        ),
        (with(""), "spec.rules[0].backendRefs", "empty"),
        (with(&many), "spec.rules[0].backendRefs", "16 are allowed"),
        (
            with("{name: cart}"),
            "spec.rules[0].backendRefs[0].port",
            "missing",
        ),
        (
            with("{name: cart, port: 0}"),
            "spec.rules[0].backendRefs[0].port",
            "",
        ),
        (
            with("{name: cart, port: 1, weight: 1000001}"),
            "spec.rules[0].backendRefs[0].weight",
            "above 1000000",
        ),
        (
            with("{name: cart, port: 1, weight: 99999999999999999999}"),
            "spec.rules[0].backendRefs[0].weight",
            "",
        ),
        (
            with("{name: cart, port: 1, weight: -1}"),
            "spec.rules[0].backendRefs[0].weight",
            "",
        ),
        (
            with("{name: cart, port: 1, kind: Bucket, group: a.B}"),
            &format!("{backend}.group"),
            "is no group",
        ),
        (
            with("{name: cart, port: 1, filters: []}"),
            "spec.rules[0].backendRefs[0].filters",
            "not a known field",
        ),
        (
            format!("rules: [{{backendRefs: [{good}], matches: []}}]\n"),
            "spec.rules[0].matches",
            "not a known field",
        ),
        (
            format!("rules: [{{name: A, backendRefs: [{good}]}}]\n"),
            &format!("{rule}.name"),
            "",
        ),
    ];
    for (spec, field, message) in rows {
        refused(V1, "TCPRoute", &spec, field, message);
        refused(
            V1,
            "TLSRoute",
            &format!("hostnames: [a.com]\n{spec}"),
            field,
            message,
        );
    }
    let named = |names: &str| format!("hostnames: {names}\n{RULES}");
    refused(
        V1,
        "TCPRoute",
        &named("[a.com]"),
        "spec.hostnames",
        "not a known field",
    );
    refused(V1, "TLSRoute", RULES, "spec", "hostnames is missing");
    refused(V1, "TLSRoute", &named("[]"), "spec.hostnames", "empty");
    let many = format!("[{}]", "a.com, ".repeat(1025));
    refused(
        V1,
        "TLSRoute",
        &named(&many),
        "spec.hostnames",
        "1024 are allowed",
    );
    for bad in ["A.com", "a.*.com", "'*'", "10.0.0.1", "a..b", "'a.com.'"] {
        refused(
            V1,
            "TLSRoute",
            &named(&format!("[a.com, {bad}]")),
            "spec.hostnames[1]",
            "",
        );
    }
}
