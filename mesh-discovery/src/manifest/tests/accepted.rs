//! Valid documents, and that nothing ever panics.

use std::sync::Arc;
use std::time::Duration;

use inmesh_core::authorize::{Action, Operation, PathForm, Policy, PolicyRule, PolicySource};
use inmesh_core::model::{
    AppProtocol, Conditions, Distribution, Host, IdSet, Locality, Roots, Service, ServiceName,
    ServicePort, Slice, SliceHost, Subset, Transport,
};
use inmesh_core::retry::RetryPolicy;
use inmesh_core::route::{Filter, HeaderChanges, Match, PathMatch, Regex, Route, ValueMatch};
use inmesh_core::snapshot::{Object, Op};
use proptest::prelude::*;

use super::{FILE, defaults, only, parse, policy, problems, read, route, service, slice};

fn a_route(text: &str) -> Route {
    match only(text) {
        Op::Put(Object::Route(route), problems) => {
            assert_eq!(problems, []);
            (*route).clone()
        }
        op => panic!("{op:#?}"),
    }
}

fn a_service(text: &str) -> Service {
    match only(text) {
        Op::Put(Object::Service(service), problems) => {
            assert_eq!(problems, []);
            (*service).clone()
        }
        op => panic!("{op:#?}"),
    }
}

fn a_slice(text: &str) -> Slice {
    match only(text) {
        Op::Put(Object::Slice(slice), problems) => {
            assert_eq!(problems, []);
            (*slice).clone()
        }
        op => panic!("{op:#?}"),
    }
}

fn a_policy(text: &str) -> Policy {
    match only(text) {
        Op::Put(Object::Policy(policy), problems) => {
            assert_eq!(problems, []);
            (*policy).clone()
        }
        op => panic!("{op:#?}"),
    }
}

/// As `kubectl get -o yaml` prints one: with status, managed fields and all.
const FULL_ROUTE: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}"}
  creationTimestamp: "2026-01-31T12:00:00Z"
  generation: 3
  labels: {app: cart}
  managedFields: [{manager: kubectl}]
  name: cart
  namespace: shop
  resourceVersion: "12"
  uid: 5a9
spec:
  parentRefs:
  - {group: "", kind: Service, name: cart, port: 80}
  - {group: core, kind: Service, name: basket, namespace: other}
  rules:
  - name: canary
    matches:
    - path: {type: Exact, value: /v2}
      method: POST
      headers:
      - {name: X-Canary, value: "yes"}
      - {type: RegularExpression, name: cookie, value: ".*beta.*"}
      queryParams:
      - {name: debug, value: "1"}
    - path: {value: /cart}
    - path: {type: RegularExpression, value: "/a+"}
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: x-a, value: "1"}]
        add: [{name: x-b, value: "2"}]
        remove: [x-c]
    - type: ResponseHeaderModifier
      responseHeaderModifier: {remove: [server]}
    backendRefs:
    - {name: cart-v1, port: 8080, weight: 90}
    - group: ""
      kind: Service
      name: cart-v2
      namespace: next
      port: 8080
      weight: 0
      filters:
      - type: RequestHeaderModifier
        requestHeaderModifier: {set: [{name: x-v, value: v2}]}
    timeouts: {request: 10s, backendRequest: 500ms}
    retry: {attempts: 3, backoff: 100ms, codes: [503, 429]}
  - backendRefs: [{name: cart, port: 80}]
    retry: {}
  - {}
status: {parents: []}
"#;

#[test]
fn a_full_route() {
    let route = a_route(FULL_ROUTE);
    assert_eq!(route.key.to_string(), "HTTPRoute/shop/cart");
    assert_eq!(route.created, Some(1_769_860_800));
    let parents: Vec<_> = route
        .parents
        .iter()
        .map(|p| (p.service.to_string(), p.port))
        .collect();
    assert_eq!(
        parents,
        [
            ("cart.shop".into(), Some(80)),
            ("basket.other".into(), None)
        ]
    );
    let [first, second, third] = &route.rules[..] else {
        panic!("{:#?}", route.rules);
    };
    let regex = |text| Regex::new(text).expect("a regular expression");
    let exact = PathMatch::literal("/v2", false).expect("a path");
    let wanted = Match::path(exact)
        .method(http::Method::POST)
        .header(
            http::HeaderName::from_static("x-canary"),
            ValueMatch::Exact("yes".into()),
        )
        .header(http::header::COOKIE, ValueMatch::Regex(regex(".*beta.*")))
        .query("debug", ValueMatch::Exact("1".into()));
    assert_eq!(
        first.matches,
        [
            wanted,
            Match::path(PathMatch::literal("/cart", true).expect("a path")),
            Match::path(PathMatch::Regex(regex("/a+"))),
        ]
    );
    let name = http::HeaderName::from_static;
    let value = http::HeaderValue::from_static;
    let changes = HeaderChanges::new;
    let request = changes()
        .set(name("x-a"), value("1"))
        .and_then(|c| c.add(name("x-b"), value("2")))
        .and_then(|c| c.remove(name("x-c")))
        .expect("changes");
    let response = changes().remove(name("server")).expect("changes");
    assert_eq!(
        first.filters,
        [
            Filter::RequestHeaders(request),
            Filter::ResponseHeaders(response)
        ]
    );
    assert_eq!(
        first.timeouts.unwrap().request,
        Some(Duration::from_secs(10))
    );
    assert_eq!(
        first.timeouts.unwrap().backend_request,
        Some(Duration::from_millis(500))
    );
    let backends: Vec<_> = first
        .backends()
        .iter()
        .map(|b| (b.service.to_string(), b.port, b.weight))
        .collect();
    assert_eq!(
        backends,
        [
            ("cart-v1.shop".into(), 8080, 90),
            ("cart-v2.next".into(), 8080, 0)
        ]
    );
    let of_backend = changes().set(name("x-v"), value("v2")).expect("changes");
    assert_eq!(
        first.backends()[1].filters,
        [Filter::RequestHeaders(of_backend)]
    );
    assert_eq!(second.backends()[0].weight, 1);
    assert_eq!(second.filters, []);
    assert!(third.backends().is_empty() && third.matches.is_empty());
    let retries: Vec<_> = route.rules.iter().map(|r| r.retry.as_deref()).collect();
    let backoff = Duration::from_millis(100);
    let asked = RetryPolicy::new(3).with_backoff(backoff);
    let asked = asked.on_status(503).unwrap().on_status(429).unwrap();
    assert_eq!(retries, [Some(&asked), Some(&RetryPolicy::new(1)), None]);
}

#[test]
fn a_route_in_json_and_one_without_rules() {
    let json = "{\n\t\"apiVersion\": \"gateway.networking.k8s.io/v1\",\n\t\"kind\": \"HTTPRoute\",\n\
        \t\"metadata\": {\"name\": \"r\"},\n\t\"spec\": {\"parentRefs\": [{\"group\": \"\",\
        \"kind\": \"Service\", \"name\": \"cart\"}]}\n}\n";
    let route = a_route(json);
    assert_eq!(route.key.to_string(), "HTTPRoute/default/r");
    assert_eq!(route.rules.len(), 1);
    assert!(route.rules[0].backends().is_empty());
}

#[test]
fn services() {
    let text = service(
        "prometheus.io/scrape: \"true\"",
        "clusterIP: 10.0.0.1\nselector: {app: cart}\nports:\n\
         - {name: http-web, port: 80, targetPort: 8080}\n\
         - {name: grpc, port: 81, appProtocol: kubernetes.io/h2c}\n\
         - {name: db, port: 82, appProtocol: tcp, protocol: TCP}",
    );
    let read = a_service(&text);
    assert_eq!(read.name.to_string(), "x.shop");
    assert_eq!(
        read.ports,
        [
            ServicePort::new("http-web", 80, AppProtocol::Http1),
            ServicePort::new("grpc", 81, AppProtocol::Http2),
            ServicePort::new("db", 82, AppProtocol::Tcp),
        ]
    );
    assert_eq!(read.external, None);
}

#[test]
fn external_services() {
    let spec =
        "type: ExternalName\nexternalName: API.example.com.\nports: [{name: https, port: 443}]";
    let tls = "inmesh.dev/transport: tls, inmesh.dev/ca: pem/ca.pem";
    let (host, transport) = a_service(&service(tls, spec))
        .external
        .expect("it is outside");
    let name = |srv: Option<&str>| Host::Name {
        name: "api.example.com".into(),
        srv: srv.map(Into::into),
    };
    assert_eq!(host, name(None));
    let roots = Roots::File("/etc/mesh/pem/ca.pem".into());
    assert_eq!(transport, Transport::tls("api.example.com", roots));

    let srv = "inmesh.dev/transport: plain, inmesh.dev/dns: srv";
    let (host, transport) = a_service(&service(srv, spec))
        .external
        .expect("it is outside");
    assert_eq!(
        (host, transport),
        (name(Some("_https._tcp")), Transport::Plain)
    );
}

#[test]
fn a_service_says_what_it_prefers() {
    let of = |spec: &str| {
        a_service(&service("", &format!("ports: [{{port: 80}}]\n{spec}"))).distribution
    };
    for (spec, wanted) in [
        ("type: ClusterIP", None),
        ("trafficDistribution: null", None),
        (
            "trafficDistribution: PreferClose",
            Some(Distribution::SameZone),
        ),
        (
            "trafficDistribution: PreferSameZone",
            Some(Distribution::SameZone),
        ),
        (
            "trafficDistribution: PreferSameNode",
            Some(Distribution::SameNode),
        ),
    ] {
        assert_eq!(of(spec), wanted, "{spec}");
    }
}

#[test]
fn a_service_says_whose_endpoints_it_has() {
    let spec = "ports: [{port: 80}]\nselector: {app: cart, version: v2}";
    let read = a_service(&service("inmesh.dev/subset-of: cart", spec));
    let cart = ServiceName::new(read.name.namespace(), "cart").expect("a name");
    let labels = [
        ("app".into(), "cart".into()),
        ("version".into(), "v2".into()),
    ];
    assert_eq!(read.subset, Some(Subset::new(cart, labels)));
    assert_eq!(a_service(&service("", spec)).subset, None);
    let text = slice("inmesh.dev/transport: plain", "addressType: IPv4");
    let labels = a_slice(&text.replace("{kubernetes", "{version: v2, kubernetes")).labels;
    assert_eq!(labels.get("version").map(|text| &**text), Some("v2"));
}

#[test]
fn slices() {
    let ids = "inmesh.dev/ids: \"spiffe://td/ns/shop/sa/b, spiffe://td/ns/shop/sa/a\", \
               inmesh.dev/region: europe";
    let text = slice(
        ids,
        "addressType: IPv4\nports: [{name: http, port: 8443, protocol: TCP, appProtocol: http}]\n\
         endpoints:\n\
         - addresses: [10.0.0.1, 10.0.0.2]\n\
         \u{20} conditions: {ready: false, serving: true, terminating: true}\n\
         \u{20} hostname: a\n\
         \u{20} targetRef: {kind: Pod}\n\
         - addresses: [10.0.0.3]\n\
         \u{20} zone: north\n\
         \u{20} nodeName: n1\n\
         \u{20} hints: {forZones: [{name: north}, {name: south}], forNodes: [{name: n1}]}\n\
         \u{20} conditions: {ready: null}\n\
         - {addresses: [10.0.0.4], zone: north, nodeName: n1, hints: {forZones: null}}",
    )
    .replace("{kubernetes", "{app: cart, version: v2, kubernetes");
    let read = a_slice(&text);
    let id = |text: &str| text.parse().expect("an ID");
    let ids = IdSet::new([
        id("spiffe://td/ns/shop/sa/a"),
        id("spiffe://td/ns/shop/sa/b"),
    ]);
    assert_eq!(read.transport, Transport::Mesh { ids });
    assert_eq!(read.service.to_string(), "cart.shop");
    assert_eq!((&*read.workload, &*read.version), ("cart", "v2"));
    assert_eq!((&*read.ports[0].name, read.ports[0].port), ("http", 8443));
    let going = Conditions::new(Some(false), Some(true), Some(true));
    let here = Locality::default().in_region("europe");
    let north = here.clone().in_zone("north").on_node("n1");
    let hinted = north.clone().for_zones(["north".into(), "south".into()]);
    let hosts = [
        ("10.0.0.1", going, &here),
        ("10.0.0.2", going, &here),
        ("10.0.0.3", Conditions::default(), &hinted),
        ("10.0.0.4", Conditions::default(), &north),
    ]
    .map(|(ip, conditions, place)| {
        let host = Host::Address(ip.parse().expect("an address"));
        let host = SliceHost::new(host).with_conditions(conditions);
        host.with_locality(Arc::new(place.clone()))
    });
    // Those of one place share it.
    let [first, second, ..] = &read.hosts[..] else {
        unreachable!()
    };
    assert!(Arc::ptr_eq(&first.locality, &second.locality));
    assert_eq!(read.hosts, hosts);
}

#[test]
fn slices_of_names_and_empty_ones() {
    let annotations = "inmesh.dev/transport: tls, inmesh.dev/ca: system, inmesh.dev/dns: srv";
    let read = a_slice(&slice(
        annotations,
        "addressType: FQDN\nports: [{name: ldap, port: 1}]\nendpoints: [{addresses: [a.b]}]",
    ));
    let (name, srv) = ("a.b".into(), Some("_ldap._tcp".into()));
    assert_eq!(read.hosts[0].host, Host::Name { name, srv });
    assert_eq!(read.transport, Transport::tls("a.b", Roots::System));
    let none = slice(
        "inmesh.dev/transport: plain",
        "addressType: IPv6\nports: null\nendpoints: null",
    );
    assert!(a_slice(&none).hosts.is_empty());
}

#[test]
fn loopback_where_it_is_allowed() {
    let body = "addressType: IPv4\nendpoints: [{addresses: [127.0.0.1]}]";
    let text = slice("inmesh.dev/transport: plain", body);
    let parsed = parse(FILE, &text, &defaults().loopback(true)).expect("it parses");
    assert!(matches!(parsed.entries[0].op, Op::Put(..)));
}

#[test]
fn policies() {
    let text = policy(
        "selector: {matchLabels: {app: cart}}\naction: DENY\nrules:\n\
         - from:\n\
         \u{20} - source: {principals: [td/ns/shop/sa/web], notNamespaces: [shop]}\n\
         \u{20} - source: {namespaces: ['*']}\n\
         \u{20} to: [{operation: {methods: [GET], paths: [/a*, '*.jpg'], notPaths: [/b]}}]\n\
         - {}",
    );
    let source = |p: &[&str], n: &[&str], nn: &[&str]| {
        PolicySource::builder()
            .principals(p)
            .namespaces(n)
            .not_namespaces(nn)
            .build()
            .expect("a source")
    };
    let operation = Operation::builder()
        .methods(["GET"])
        .paths(["/a*", "*.jpg"])
        .not_paths(["/b"])
        .build()
        .expect("it is one");
    let rules = vec![
        PolicyRule::new(
            vec![
                source(&["td/ns/shop/sa/web"], &[], &["shop"]),
                source(&[], &["*"], &[]),
            ],
            vec![operation],
        ),
        PolicyRule::default(),
    ];
    let read = a_policy(&text);
    assert_eq!(
        read,
        Policy::new(read.key.clone(), Action::Deny, rules).select("app", "cart")
    );
    assert_eq!(read.key.to_string(), "AuthorizationPolicy/shop/x");
}

/// Only an ALLOW needs every reading of a path.
#[test]
fn a_deny_may_name_one_reading_of_a_path() {
    let spec = "action: DENY\nrules:\n- to: [{operation: {paths: [/a%2fb]}}]";
    let read = a_policy(&policy(spec));
    assert_eq!(read.rules[0].to[0].paths[0].to_string(), "/a%2Fb");
    let spec = "rules:\n- to: [{operation: {paths: [/a%2Fb, /a/b]}}]";
    assert_eq!(a_policy(&policy(spec)).rules[0].to[0].paths.len(), 2);
}

/// A process that decodes slashes compares with what it sees, so one reading is enough for an ALLOW
/// too; dot segments that come of it have no meaning in a pattern.
#[test]
fn patterns_are_read_as_the_process_sees_paths() {
    let both = PathForm::default().decode_slashes(true).merge_slashes(true);
    let seen = defaults().paths(both);
    let at = "spec.rules[0].to[0].operation";
    for (action, operation, refused) in [
        ("ALLOW", "paths: [/a%2fb]", None),
        ("DENY", "paths: [/a%2fb]", None),
        ("DENY", "notPaths: [/a%5Cb, /c]", None),
        ("DENY", "paths: [/c, /a%2F..%2Fb]", Some("paths[1]")),
        ("ALLOW", "notPaths: ['*%5C.%5Cb']", Some("notPaths[0]")),
    ] {
        let text = policy(&format!(
            "action: {action}\nrules: [{{to: [{{operation: {{{operation}}}}}]}}]"
        ));
        let parsed = parse(FILE, &text, &seen).expect("it parses");
        match (&parsed.entries[0].op, refused) {
            (Op::Put(_, problems), None) if problems.is_empty() => {}
            (op @ Op::Refuse { .. }, Some(field)) => {
                let problems = problems(op);
                assert_eq!(*problems[0].field, *format!("{at}.{field}"), "{operation}");
                assert!(
                    problems[0].message.contains("requests are seen as"),
                    "{problems:?}"
                );
            }
            (op, _) => panic!("{operation}: {op:?}"),
        }
    }
    // A regular expression is compared as it is.
    let path = |value: &str| {
        let path = format!("{{type: RegularExpression, value: '{value}'}}");
        let spec = format!(
            "parentRefs: [{{group: '', kind: Service, name: cart}}]\nrules: [{{matches: [{{path: {path}}}]}}]"
        );
        let parsed = parse(FILE, &route(&spec), &seen).expect("it parses");
        problems(&parsed.entries[0].op).len()
    };
    assert_eq!((path("/a%2fb.*"), path("/a/b.*")), (1, 0));
}

/// Where peers of other trust domains may come, conditions that mean something else for them are
/// named; elsewhere only a contradiction in one source is.
#[test]
fn conditions_that_other_trust_domains_change_are_warned_of() {
    let alone = defaults();
    let federated = defaults().federate("partner.test").federate("other.test");
    // What a Workload API brings is not known before.
    let open = defaults().may_federate(true);
    for (source, at_home, where_others_come) in [
        ("namespaces: [shop]", None, Some("trust domain")),
        ("notNamespaces: [shop]", None, Some("trust domain")),
        (
            "namespaces: [shop], trustDomains: [td]",
            Some("trust domain"),
            Some("trust domain"),
        ),
        (
            "principals: ['*']",
            None,
            Some("also matches peers of partner.test, other.test"),
        ),
        ("principals: ['*/sa/web']", None, Some("also matches")),
        ("notPrincipals: [td/ns/a/sa/b]", None, Some("also matches")),
        (
            "principals: [td/*], notPrincipals: [td/ns/a/sa/b]",
            None,
            None,
        ),
        ("principals: ['*'], trustDomains: [td]", None, None),
        ("trustDomains: [partner.test]", None, None),
    ] {
        let text = policy(&format!("rules:\n- from: [{{source: {{{source}}}}}]"));
        let unnamed =
            where_others_come.map(
                |wanted| match wanted.strip_suffix("partner.test, other.test") {
                    Some(begin) => begin,
                    None => wanted,
                },
            );
        let all = [
            (&alone, at_home),
            (&federated, where_others_come),
            (&open, unnamed),
        ];
        for (defaults, wanted) in all {
            let parsed = parse(FILE, &text, defaults).expect("it parses");
            let Op::Put(_, problems) = &parsed.entries[0].op else {
                panic!("{source}: {parsed:#?}");
            };
            let all = problems.iter().chain(&parsed.notes);
            let found: Vec<_> = all.map(|p| &*p.message).collect();
            match (wanted, &found[..]) {
                (None, []) => {}
                (Some(wanted), [one]) if one.contains(wanted) => {}
                _ => panic!("{source}: {found:?}, not {wanted:?}"),
            }
        }
    }
}

#[test]
fn a_policy_without_rules_allows_nothing() {
    let bare = "apiVersion: inmesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: a}\n";
    for spec in ["", "spec: {}", "spec: {rules: []}", "spec: {selector: {}}"] {
        let read = a_policy(&format!("{bare}{spec}"));
        assert_eq!(
            (read.action, read.rules.len(), read.selector.len()),
            (Action::Allow, 0, 0)
        );
    }
}

#[test]
fn lists_are_expanded_and_skipped_kinds_left_out() {
    let text = "apiVersion: v1\nkind: List\nmetadata: {resourceVersion: ''}\nitems:\n\
        - apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n  spec: {ports: [{port: 80}]}\n\
        - apiVersion: v1\n  kind: Service\n  metadata: {name: b}\n  spec: {ports: [{port: x}]}\n\
        ---\napiVersion: inmesh.dev/v1alpha1\nkind: Agent\nanything: 1\n";
    let defaults = defaults().skip("inmesh.dev/v1alpha1", "Agent");
    let parsed = parse(FILE, text, &defaults).expect("it parses");
    let [a, b] = &parsed.entries[..] else {
        panic!("{parsed:#?}");
    };
    assert_eq!((a.key.to_string(), a.line), ("Service/default/a".into(), 5));
    let problem = &problems(&b.op)[0];
    assert_eq!(problem.field, "items[1].spec.ports[0].port");
    assert_eq!(problem.location.as_ref().map(|at| at.line), Some(12));
}

#[test]
fn aliases_are_expanded() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n\
        spec: {selector: &s {app: a}, sessionAffinityConfig: *s, ports: [&p {name: a, port: 80}]}\n";
    assert_eq!(a_service(text).ports.len(), 1);
}

#[test]
fn problems_are_bounded() {
    let fields: String = (0..100).map(|n| format!("f{n}: 1\n")).collect();
    let long = format!(
        "{fields}spec: {{ports: [{{port: 1, name: {}}}]}}",
        "A".repeat(9_000)
    );
    let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\n{long}");
    let op = only(&text);
    assert!(matches!(op, Op::Refuse(..)));
    assert!(problems(&op).len() <= 32);
    assert!(
        problems(&op)
            .iter()
            .all(|p| p.message.chars().count() < 600)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is cut out of, put into or doubled in a valid file, reading it ends.
    #[test]
    fn mutated_documents_never_panic(
        edits in prop::collection::vec(
            (0.0..1.0_f64, 0.0..1.0_f64, "[ \\n:{}\\[\\]&*!'\"#|>%@,~a-z0-9-]{0,6}"),
            1..6,
        ),
    ) {
        let mut text = format!("{FULL_ROUTE}---\n{}", policy("rules: [{from: [{source: {}}]}]"));
        text.push_str("---\n");
        text.push_str(&slice("inmesh.dev/ids: a", "addressType: IPv4"));
        for (from, to, with) in edits {
            let chars: Vec<char> = text.chars().collect();
            let at = |part: f64| (part * chars.len() as f64) as usize;
            let (from, to) = (at(from), at(to).min(at(from) + 40).max(at(from)));
            text = chars[..from].iter().collect::<String>() + &with;
            text.extend(&chars[to..]);
        }
        if let Ok(parsed) = parse(FILE, &text, &defaults()) {
            for entry in parsed.entries {
                prop_assert!(!matches!(&entry.op, Op::Refuse(_, _, p) if p.is_empty()));
            }
        }
    }

    #[test]
    fn any_text_never_panics(text in any::<String>()) {
        let _any = parse(FILE, &text, &defaults());
    }
}

#[test]
fn documents_are_in_order() {
    let text = format!(
        "{}---\n{}",
        service("", "ports: [{port: 1}]"),
        policy("action: ALLOW")
    );
    let lines: Vec<_> = read(&text).entries.iter().map(|entry| entry.line).collect();
    assert_eq!(lines, [1, 7]);
}
