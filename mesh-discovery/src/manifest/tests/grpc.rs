//! GRPCRoutes: what is read of them, and each refusal.

use inmesh_core::model::{Namespace, ServiceName};
use inmesh_core::route::{Filter, GrpcMatch, GrpcRoute, Mirror, Regex, ValueMatch};
use inmesh_core::snapshot::{Object, Op, Severity};

use super::{only, read, refusal, with_spec};

const PARENT: &str = "parentRefs: [{group: '', kind: Service, name: cart}]\n";

fn grpc(spec: &str) -> String {
    with_spec("gateway.networking.k8s.io/v1", "GRPCRoute", "", spec)
}

/// The route that a document makes, and the warnings about it.
fn a_route(spec: &str) -> (GrpcRoute, Vec<(String, String)>) {
    match only(&grpc(&format!("{PARENT}{spec}"))) {
        Op::Put(Object::GrpcRoute(route), problems) => {
            let warnings = problems.into_iter().map(|p| (p.field, p.message));
            ((*route).clone(), warnings.collect())
        }
        op => panic!("{spec}: {op:#?}"),
    }
}

#[track_caller]
fn refused(spec: &str, field: &str, message: &str) {
    let (_, problems) = refusal(&grpc(&format!("{PARENT}{spec}")));
    let found = problems.iter().any(|problem| {
        problem.severity == Severity::Refused
            && problem.field == format!("spec.{field}")
            && problem.message.contains(message)
    });
    assert!(
        found,
        "{field}: {message}\nis not in {problems:#?}\nof {spec}"
    );
}

#[test]
fn a_full_grpc_route() {
    let spec = r#"
rules:
- name: canary
  matches:
  - method: {service: shop.v1.Cart, method: Get}
    headers: [{name: X-Canary, value: "yes"}, {type: RegularExpression, name: v, value: "[12]"}]
  - method: {type: Exact, service: shop.v1.Cart}
  - method: {method: List}
  - method: {type: RegularExpression, service: "shop\\..*", method: ""}
  - {}
  filters:
  - {type: RequestHeaderModifier, requestHeaderModifier: {remove: [a]}}
  - {type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 90}, percent: 5}}
  backendRefs:
  - {name: cart-v1, port: 80, weight: 9}
  - name: cart-v2
    port: 80
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [b]}}]
- backendRefs: [{name: cart, port: 80}]
"#;
    let (route, warnings) = a_route(spec.trim_start());
    assert_eq!(warnings, []);
    assert_eq!(route.key.to_string(), "GRPCRoute/shop/x");
    let exact = |text: &str| ValueMatch::Exact(text.into());
    let regex = |text| ValueMatch::Regex(Regex::new(text).expect("a regular expression"));
    let new = GrpcMatch::new;
    let name = http::HeaderName::from_static;
    let [first, second] = &route.rules[..] else {
        panic!("{:#?}", route.rules);
    };
    assert_eq!(
        first.matches,
        [
            new()
                .service(exact("shop.v1.Cart"))
                .method(exact("Get"))
                .header(name("x-canary"), exact("yes"))
                .header(name("v"), regex("[12]")),
            new().service(exact("shop.v1.Cart")),
            new().method(exact("List")),
            new().service(regex("shop\\..*")),
            new(),
        ]
    );
    let shadow = ServiceName::new(&Namespace::new("shop").expect("a name"), "shadow");
    let shadow = Mirror::new(shadow.expect("a name"), 90).with_share(5, 100);
    assert_eq!(
        first.rule.filters[1],
        Filter::Mirror(shadow.expect("a share"))
    );
    assert_eq!(first.rule.filters.len(), 2);
    let weights: Vec<_> = first.rule.backends().iter().map(|b| b.weight).collect();
    assert_eq!(weights, [9, 1]);
    assert_eq!(first.rule.backends()[1].filters.len(), 1);
    assert_eq!((second.matches.len(), second.rule.backends().len()), (0, 1));
}

#[test]
fn grpc_routes_are_refused() {
    let method = |of: &str| format!("rules: [{{matches: [{{method: {{{of}}}}}]}}]");
    let long = format!("method: {}", "a".repeat(1025));
    for (of, field, message) in [
        ("", "", "names neither a service nor a method"),
        ("type: Exact", "", "names neither"),
        (
            "type: RegularExpression, service: '', method: ''",
            "",
            "names neither",
        ),
        ("service: ''", ".service", "not a name of gRPC"),
        ("service: a/b", ".service", "not a name of gRPC"),
        ("service: a..b", ".service", "not a name of gRPC"),
        ("service: 1a", ".service", "not a name of gRPC"),
        ("service: a.b.", ".service", "not a name of gRPC"),
        ("service: a, method: ''", ".method", "not a name of gRPC"),
        ("method: a.b", ".method", "not a name of gRPC"),
        ("method: Get-All", ".method", "not a name of gRPC"),
        (
            "type: RegularExpression, method: 'a('",
            ".method",
            "regular expression is refused",
        ),
        (
            "type: Prefix, method: a",
            ".type",
            "is not one of Exact, RegularExpression",
        ),
        (&long, ".method", "longer than 1024"),
        ("service: a, path: /a", ".path", "is not a known field"),
    ] {
        refused(
            &method(of),
            &format!("rules[0].matches[0].method{field}"),
            message,
        );
    }
    let one = "{method: {service: a}}";
    let many = |n: usize| {
        format!(
            "rules: [{}]",
            vec![format!("{{matches: [{}]}}", vec![one; 43].join(", ")); n].join(", ")
        )
    };
    for (spec, field, message) in [
        ("rules: [{matches: [{path: {value: /a}}]}]".to_owned(), "rules[0].matches[0].path", "is not a known field"),
        ("rules: [{name: a}, {name: a}]".into(), "rules[1].name", "stands twice"),
        ("rules: [{name: A}]".into(), "rules[0].name", "lower case"),
        (many(3), "rules", "129 matches together"),
        (format!("rules: [{}]", vec!["{}"; 17].join(", ")), "rules", "17"),
        ("rules: [{timeouts: {request: 1s}}]".into(), "rules[0].timeouts", "is not a known field"),
        ("rules: [{sessionPersistence: {}}]".into(), "rules[0].sessionPersistence", "in a TrafficPolicy"),
        ("rules: [{backendRefs: [{name: a}]}]".into(), "rules[0].backendRefs[0].port", "is missing"),
        ("hostnames: [A.b]".into(), "hostnames[0]", "not a host name"),
        (
            "rules: [{filters: [{type: URLRewrite, urlRewrite: {}}]}]".into(),
            "rules[0].filters[0].type",
            "is not one of",
        ),
        (
            "rules: [{filters: [{type: CORS, cors: {}}]}]".into(),
            "rules[0].filters[0].type",
            "is not one of",
        ),
        (
            "rules: [{matches: [{headers: [{name: host, value: a.b}]}]}]".into(),
            "rules[0].matches[0].headers[0]",
            "no header field over HTTP/2",
        ),
        (
            "rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: cart, port: 80}}}]}]".into(),
            "rules[0].filters[0].requestMirror.backendRef",
            "not mirrored to itself",
        ),
    ] {
        refused(&spec, field, message);
    }
}

#[test]
fn what_has_no_effect_in_a_grpc_route_is_reported() {
    for (spec, field, message) in [
        ("rules: []", "spec.parentRefs", "has no rule"),
        ("", "spec.parentRefs", "has no rule"),
        (
            "hostnames: [a.b]\nrules: [{}]",
            "spec.hostnames",
            "has no effect",
        ),
        (
            "rules: [{matches: [{method: {service: .a.B}}]}]",
            "spec.rules[0].matches[0].method.service",
            "matches no call",
        ),
        (
            "rules: [{matches: [{headers: [{name: a, value: x}, {name: A, value: z}]}]}]",
            "spec.rules[0].matches[0].headers[1]",
            "has no effect",
        ),
    ] {
        let (_, warnings) = a_route(spec);
        let [(at, said)] = &warnings[..] else {
            panic!("{spec}: {warnings:?}");
        };
        assert_eq!(*at, field, "{spec}");
        assert!(said.contains(message), "{spec}: {said}");
    }
}

/// As with HTTPRoutes; another version is as good as unread.
#[test]
fn grpc_routes_of_gateways_are_skipped() {
    for version in ["v1", "v1alpha2"] {
        let text = |parent: &str| {
            with_spec(
                &format!("gateway.networking.k8s.io/{version}"),
                "GRPCRoute",
                "",
                &format!(
                    "parentRefs: [{parent}]\nrules: [{{filters: [{{type: ExtensionRef, extensionRef: 5}}]}}]"
                ),
            )
        };
        assert!(read(&text("{name: gw}")).entries.is_empty(), "{version}");
        let to_service = read(&text("{group: '', kind: Service, name: cart}"));
        assert!(
            matches!(to_service.entries[..], [ref one] if matches!(one.op, Op::Refuse(..))),
            "{version}"
        );
    }
}
