//! Documents as others write them: for a cluster, by a tool, or for gateways.

use inmesh_core::snapshot::{Op, Severity};

use super::super::Parsed;
use super::{policy, problems, read, route, service, slice};

const PARENT: &str = "parentRefs: [{group: '', kind: Service, name: cart}]\n";

/// The keys of the objects that a text gives, none of them refused.
#[track_caller]
fn keys(parsed: &Parsed) -> Vec<String> {
    let key = |entry: &super::super::Entry| match &entry.op {
        Op::Put(..) => entry.key.to_string(),
        op => panic!("{op:#?}"),
    };
    parsed.entries.iter().map(key).collect()
}

#[test]
fn a_route_for_gateways_is_skipped_with_a_note() {
    for spec in [
        "{}",
        "parentRefs: []",
        "parentRefs: [{name: gw}]",
        "parentRefs: [{name: gw, sectionName: a}, {name: gw, sectionName: b}]",
        "parentRefs:",
        "parentRefs: [{group: x.io, kind: Mesh, name: m}]",
        // What its gateways make of the rest is theirs.
        "parentRefs: [{name: gw}]\nrules: [{filters: [{type: URLRewrite, urlRewrite: {}}], retry: 5}]",
    ] {
        let parsed = read(&route(spec));
        assert!(parsed.entries.is_empty(), "{spec}: {parsed:#?}");
        let last = parsed.notes.last().expect("a note");
        assert_eq!(last.severity, Severity::Note);
        assert!(last.message.contains("for gateways"), "{last}");
        assert!(last.location.is_some(), "{last}");
    }
    // A parent that cannot be read may be a Service.
    for spec in [
        "parentRefs: x",
        "parentRefs: [{kind: 5, name: a}]",
        "parentRefs: [{}]",
    ] {
        let parsed = read(&route(spec));
        assert!(matches!(parsed.entries[0].op, Op::Refuse(..)), "{spec}");
    }
}

#[test]
fn a_route_for_both_is_read() {
    let spec = "parentRefs: [{name: gw}, {group: '', kind: Service, name: cart}]";
    let parsed = read(&route(spec));
    assert_eq!(keys(&parsed), ["HTTPRoute/shop/x"]);
    assert!(
        parsed.notes[0].message.contains("is not attached to"),
        "{:?}",
        parsed.notes
    );
    assert!(problems(&parsed.entries[0].op).is_empty());
}

/// One parent twice, once with its namespace: two references to the schema, one parent here.
#[test]
fn a_parent_may_be_named_with_and_without_its_namespace() {
    let spec = "parentRefs:\n- {group: '', kind: Service, name: a}\n\
        - {group: '', kind: Service, name: a, namespace: shop}";
    let parsed = read(&route(spec));
    assert_eq!(keys(&parsed), ["HTTPRoute/shop/x"]);
}

/// The name of a port, which tells two references to one Service apart.
#[test]
fn a_section_of_a_service_is_a_port() {
    let spec = "parentRefs:\n- {group: '', kind: Service, name: a, sectionName: http}\n\
        - {group: '', kind: Service, name: a, sectionName: admin, port: 81}";
    let parsed = read(&route(spec));
    let Op::Put(inmesh_core::snapshot::Object::Route(route), _) = &parsed.entries[0].op else {
        panic!("{parsed:#?}")
    };
    let parents = route
        .parents
        .iter()
        .map(|p| (p.port, p.port_name.as_deref()));
    let wanted = [(None, Some("http")), (Some(81), Some("admin"))];
    assert_eq!(parents.collect::<Vec<_>>(), wanted);
}

#[test]
fn v1beta1_of_a_route_has_the_same_schema() {
    let text = route(PARENT).replace("/v1", "/v1beta1");
    assert_eq!(keys(&read(&text)), ["HTTPRoute/shop/x"]);
}

#[test]
fn empty_lists_and_nulls_are_taken_where_an_api_server_takes_them() {
    let rules = [
        "",
        "rules:",
        "rules: [{}]",
        "rules: [{matches: [], filters: [], backendRefs: []}]",
        "rules: [{name: null, matches: null, filters: null, backendRefs: null, timeouts: null}]",
        "rules: [{retry: null, sessionPersistence: null}]",
        "rules: [{timeouts: {request: null, backendRequest: 1s}}]",
        "rules: [{matches: [{path: null, method: null, headers: [], queryParams: null}]}]",
        "rules: [{backendRefs: [{name: a, port: 80, weight: null, group: null, filters: []}]}]",
        "hostnames: []",
        "hostnames: null",
    ];
    for rules in rules {
        let parsed = read(&route(&format!("{PARENT}{rules}")));
        assert_eq!(keys(&parsed), ["HTTPRoute/shop/x"], "{rules}");
        assert!(problems(&parsed.entries[0].op).is_empty(), "{rules}");
    }
    for spec in [
        "{}",
        "selector: null",
        "selector: {matchLabels: null}",
        "selector: {matchLabels: {}}",
        "rules: null",
        "targetRefs: []",
        "targetRefs: null",
        "provider: null",
        "rules: [{when: [], from: null}]",
        "rules: [{from: [{source: {principals: ['*'], ipBlocks: null}}]}]",
    ] {
        let parsed = read(&policy(spec));
        assert_eq!(keys(&parsed), ["AuthorizationPolicy/shop/x"], "{spec}");
        assert!(problems(&parsed.entries[0].op).is_empty(), "{spec}");
    }
    let plain = "inmesh.dev/transport: plain";
    for body in [
        "addressType: IPv4\nports: null\nendpoints: null",
        "addressType: IPv4\nports: []\nendpoints: []",
        "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1], conditions: {ready: null}, zone: null}]",
        "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1], conditions: {ready: yes}}]",
    ] {
        assert_eq!(
            keys(&read(&slice(plain, body))),
            ["EndpointSlice/shop/x"],
            "{body}"
        );
    }
    let spec = "ports: [{port: 0x50, name: null, appProtocol: null, protocol: null}]\ntype: null";
    assert_eq!(keys(&read(&service("", spec))), ["Service/shop/x"]);
}

/// In a list null is no absence: it is an item, which no API server takes.
#[test]
fn a_null_item_is_refused() {
    for text in [
        route(&format!("{PARENT}rules: [null]")),
        route("parentRefs: [null]"),
        policy("rules: [null]"),
        policy("selector: {matchLabels: {app: null}}"),
    ] {
        let parsed = read(&text);
        assert!(matches!(parsed.entries[0].op, Op::Refuse(..)), "{text}");
    }
}

#[test]
fn udp_ports_beside_tcp_are_noted() {
    let spec = "ports:\n- {name: dns, port: 53, protocol: UDP}\n- {name: dns-tcp, port: 53}";
    let parsed = read(&service("", spec));
    assert_eq!(keys(&parsed), ["Service/shop/x"]);
    assert!(problems(&parsed.entries[0].op).is_empty());
    assert!(
        parsed.notes[0].message.contains("TCP only"),
        "{:?}",
        parsed.notes
    );
    let body = "addressType: IPv4\nports: [{name: dns, port: 53, protocol: UDP}]";
    let parsed = read(&slice("inmesh.dev/transport: plain", body));
    assert_eq!((keys(&parsed).len(), parsed.notes.len()), (1, 1));
}

#[test]
fn typed_lists_give_their_items() {
    let item = "{metadata: {name: a}, spec: {ports: [{port: 80}]}}";
    for (version, kind, items, wanted) in [
        (
            "v1",
            "ServiceList",
            item.to_owned(),
            &["Service/default/a"][..],
        ),
        (
            "gateway.networking.k8s.io/v1",
            "HTTPRouteList",
            "{metadata: {name: a}, spec: {parentRefs: [{group: '', kind: Service, name: a}]}}"
                .into(),
            &["HTTPRoute/default/a"],
        ),
        (
            "security.istio.io/v1",
            "AuthorizationPolicyList",
            "{metadata: {name: a}}, {metadata: {name: b}}".into(),
            &[
                "AuthorizationPolicy/default/a",
                "AuthorizationPolicy/default/b",
            ],
        ),
        (
            "discovery.k8s.io/v1",
            "EndpointSliceList",
            "{metadata: {name: a, labels: {kubernetes.io/service-name: a}, \
             annotations: {inmesh.dev/transport: plain}}, addressType: IPv4}"
                .into(),
            &["EndpointSlice/default/a"],
        ),
        (
            "v1",
            "List",
            format!("{{apiVersion: v1, kind: Service, {}", &item[1..]),
            &["Service/default/a"],
        ),
        ("v1", "ServiceList", String::new(), &[]),
    ] {
        let text = format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{resourceVersion: '1'}}\nitems: [{items}]"
        );
        assert_eq!(keys(&read(&text)), wanted, "{text}");
    }
    let null = "{apiVersion: v1, kind: List, items: null}";
    assert!(read(null).entries.is_empty());
    // An item without a kind in a list without one cannot be read.
    let bare = format!("apiVersion: v1\nkind: List\nitems: [{item}]");
    assert!(matches!(read(&bare).entries[0].op, Op::Refuse(..)));
    // A misspelt policy in a list of them denies as anywhere.
    let list = "apiVersion: security.istio.io/v1\nkind: AuthorizationPoliciesList\nitems: [{metadata: {name: a}}]";
    assert!(matches!(
        &read(list).entries[0].op,
        Op::Refuse(_, inmesh_core::snapshot::Fallback::Deny(_), _)
    ));
}

#[test]
fn kinds_of_other_groups_are_counted() {
    let text = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: a}
spec: {anything: [1, 2]}
---
apiVersion: apps/v1
kind: DeploymentList
items: [{metadata: {name: b}}, {metadata: {name: c}}]
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {a: b}}
---
{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: a}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: a}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: UDPRoute, metadata: {name: a}, spec: {parentRefs: [{name: gw}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: UDPRoute
metadata: {name: b}
spec: {parentRefs: [{group: '', kind: Service, name: cart}]}
";
    let parsed = read(text);
    let skipped: Vec<_> = parsed
        .skipped
        .iter()
        .map(|(kind, n)| format!("{kind} {n}"))
        .collect();
    assert_eq!(
        skipped,
        [
            "ConfigMap 1",
            "Deployment.apps 3",
            "Gateway.gateway.networking.k8s.io 1",
            "Service.serving.knative.dev 1",
            "UDPRoute 1",
        ]
    );
    let [udp] = &parsed.entries[..] else {
        panic!("{:#?}", parsed.entries)
    };
    assert!(problems(&udp.op)[0].message.contains("UDPRoute"));
}

#[test]
fn json_documents_may_follow_each_other() {
    let one = |name: &str| {
        format!(
            r#"{{"apiVersion": "v1", "kind": "Service",
  "metadata": {{"name": "{name}", "labels": {{"odd": "}} {{ \" ' # "}}}},
TAB"spec": {{"ports": [{{"port": 80}}]}}}}"#
        )
        .replace("TAB", "\t")
    };
    for between in ["\n", "", " ", "\r\n\n", "\n---\n"] {
        let text = [one("a"), one("b"), one("c")].join(between);
        let parsed = read(&format!("{text}\n"));
        let wanted = [
            "Service/default/a",
            "Service/default/b",
            "Service/default/c",
        ];
        assert_eq!(keys(&parsed), wanted, "{between:?}");
        if between == "\n" {
            let lines: Vec<_> = parsed.entries.iter().map(|entry| entry.line).collect();
            assert_eq!(lines, [1, 4, 7]);
        }
    }
    // With something else after them.
    let text = format!("{}{} x", one("a"), one("b"));
    assert!(super::parse(super::FILE, &text, &super::defaults()).is_err());
}

/// A kind of a name like ours, in a group that is another program's: linkerd has both.
#[test]
fn a_kind_of_our_name_in_a_foreign_group_is_counted() {
    let text = "\
{apiVersion: policy.linkerd.io/v1alpha1, kind: AuthorizationPolicy, metadata: {name: a}, spec: {targetRef: {}}}
---
{apiVersion: policy.linkerd.io/v1beta3, kind: HTTPRoute, metadata: {name: a}, spec: {parentRefs: [{group: '', kind: Service, name: a}]}}
---
{apiVersion: policy.linkerd.io/v1beta3, kind: HTTPRouteList, items: [{metadata: {name: b}}]}
---
{apiVersion: slices.example.com/v1, kind: EndpointSlice, metadata: {name: a}}
";
    let parsed = read(text);
    assert!(parsed.entries.is_empty(), "{parsed:#?}");
    let counted: Vec<_> = parsed.skipped.iter().map(|(k, n)| (&**k, *n)).collect();
    assert_eq!(
        counted,
        [
            ("AuthorizationPolicy.policy.linkerd.io", 1),
            ("EndpointSlice.slices.example.com", 1),
            ("HTTPRoute.policy.linkerd.io", 2),
        ]
    );
    // Not clearly another program's.
    for (group, kind) in [
        ("gateway.networking.k8s.oi", "HTTPRoute"),
        ("gateway.networking.k8s", "HTTPRoute"),
        ("networking.x-k8s.io", "HTTPRoute"),
        ("networking.example.com", "HTTPRoute"),
        ("discovery.k8s", "EndpointSlice"),
        ("apps", "EndpointSlice"),
    ] {
        let text = format!("{{apiVersion: {group}/v1, kind: {kind}, metadata: {{name: a}}}}");
        assert!(
            matches!(read(&text).entries[0].op, Op::Refuse(..)),
            "{text}"
        );
    }
}

/// The Gateway API grows; what says nothing to a mesh needs no list here.
#[test]
fn a_kind_of_the_gateway_api_that_is_not_known_is_skipped_with_a_note() {
    for kind in ["BackendLBPolicy", "XListenerSet", "Mesh"] {
        let text = format!(
            "{{apiVersion: gateway.networking.k8s.io/v1alpha2, kind: {kind}, metadata: {{name: a}}}}"
        );
        let parsed = read(&text);
        assert!(parsed.entries.is_empty(), "{parsed:#?}");
        assert_eq!(parsed.notes.len(), 1, "{parsed:#?}");
        assert_eq!(parsed.notes[0].severity, Severity::Note);
        let name = format!("{kind}.gateway.networking.k8s.io");
        assert!(parsed.notes[0].message.contains(&name), "{parsed:#?}");
        assert!(parsed.notes[0].location.is_some());
        assert_eq!(parsed.skipped.get(&*name), Some(&1));
    }
    // Almost one that decides.
    for kind in [
        "HTTPRoutes",
        "HttpRout",
        "HTPRoute",
        "AuthorizationPolicys",
        "GRPCRout",
        "Service",
    ] {
        let text = format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: a}}}}"
        );
        assert!(
            matches!(read(&text).entries[0].op, Op::Refuse(..)),
            "{text}"
        );
    }
    // A route of another protocol, as the known ones.
    let quic = "apiVersion: gateway.networking.k8s.io/v1\nkind: QUICRoute\nmetadata: {name: a}\nspec: {parentRefs: [{PARENT}]}";
    let to_service = quic.replace("PARENT", "kind: Service, name: a");
    assert!(matches!(read(&to_service).entries[0].op, Op::Refuse(..)));
    assert!(read(&quic.replace("PARENT", "name: gw")).entries.is_empty());
    // A kubeconfig that lies about.
    let config = "{apiVersion: v1, kind: Config, clusters: [], current-context: a}";
    assert_eq!(read(config).skipped.get("Config"), Some(&1));
}

/// As for `kubectl`, a list is what has `items`.
#[test]
fn a_list_without_items_is_refused() {
    let (_, problems) = super::refusal("{apiVersion: v1, kind: List, metadata: {}}");
    assert!(problems[0].message.contains("items"), "{problems:#?}");
}

/// JSON in a row between the marks of YAML, as scripts put it together.
#[test]
fn json_documents_in_a_row_may_have_marks_and_yaml_beside_them() {
    let one = |name: &str| {
        format!(
            "{{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {{\"name\": \"{name}\"}},\n\
             \"spec\": {{\"ports\": [{{\"port\": 80}}]}}}}"
        )
    };
    let yaml = "apiVersion: v1\nkind: Service\nmetadata: {name: z}\nspec: {ports: [{port: 80}]}\n";
    let (a, b, c) = (one("a"), one("b"), one("c"));
    for (text, wanted) in [
        (format!("{a}\n{b}\n---\n"), &[("a", 1), ("b", 3)][..]),
        (format!("{a}{b}\n---\n{c}"), &[("a", 1), ("b", 2), ("c", 5)]),
        (format!("---\n{a}\n{b}\n"), &[("a", 2), ("b", 4)]),
        (
            format!("{a}\n--- # next\n{b}{c}"),
            &[("a", 1), ("b", 4), ("c", 5)],
        ),
        (
            format!("{a}\r\n---\r\n{b}\r\n{c}\r\n---"),
            &[("a", 1), ("b", 4), ("c", 6)],
        ),
        (
            format!("{yaml}---\n{a}{b}\n---\n{yaml}"),
            &[("z", 1), ("a", 6), ("b", 7), ("z", 10)],
        ),
        (
            format!("{yaml}--- {a}\n{b}"),
            &[("z", 1), ("a", 5), ("b", 7)],
        ),
    ] {
        let parsed = read(&text);
        let found = parsed
            .entries
            .iter()
            .map(|entry| (&*entry.key.name, entry.line));
        assert_eq!(found.collect::<Vec<_>>(), wanted, "{text}");
    }
    for text in [
        format!("{a}{b}\n---\nx: [\n"),
        format!("{a}{b} x\n---\n{c}"),
    ] {
        let error = super::parse(super::FILE, &text, &super::defaults()).expect_err(&text);
        assert!(error.location.line > 1, "{error}");
    }
}

/// Merge keys, as templates write them: what a mapping says itself counts, then the first.
#[test]
fn merge_keys_are_expanded() {
    let text = "\
apiVersion: v1
kind: List
metadata: &meta {namespace: shop, labels: {app: a}}
items:
- apiVersion: v1
  kind: Service
  metadata: {<<: *meta, name: a}
  spec: &spec {ports: [{port: 80}]}
- apiVersion: v1
  kind: Service
  metadata: {name: b, namespace: bank, <<: *meta}
  spec:
    <<: [*spec, {ports: [{port: 81}], type: NodePort}]
";
    let parsed = read(text);
    assert_eq!(keys(&parsed), ["Service/shop/a", "Service/bank/b"]);
    let Op::Put(inmesh_core::snapshot::Object::Service(b), _) = &parsed.entries[1].op else {
        panic!("{parsed:#?}")
    };
    assert_eq!(b.ports[0].port, 80);
    // In quotes it is a field like others.
    let text = service("", "ports: [{port: 80}]\n'<<': {type: NodePort}");
    let parsed = read(&text);
    assert_eq!(problems(&parsed.entries[0].op)[0].field, "spec.<<");
}

#[test]
fn tags_of_scalars_are_read() {
    let spec = "ports: [{port: !!int '80', name: !!str 8080}]\ntype: !!null ''";
    assert_eq!(keys(&read(&service("", spec))), ["Service/shop/x"]);
}

#[test]
fn a_byte_order_mark_and_windows_lines_are_read() {
    let text = service("", "ports: [{port: 80}]").replace('\n', "\r\n");
    assert_eq!(keys(&read(&format!("\u{feff}{text}"))), ["Service/shop/x"]);
}

/// An unknown field is named before what is missing because of it.
#[test]
fn a_misspelt_field_is_named_first() {
    for (text, field) in [
        (
            slice("inmesh.dev/transport: plain", "adressType: IPv4"),
            "adressType",
        ),
        (service("", "ports: [{prt: 80}]"), "spec.ports[0].prt"),
        (
            route(&format!(
                "{PARENT}rules: [{{backendRefs: [{{nme: a, port: 80}}]}}]"
            )),
            "spec.rules[0].backendRefs[0].nme",
        ),
        (
            route(&format!(
                "{PARENT}rules: [{{matches: [{{headers: [{{name: a, vlue: b}}]}}]}}]"
            )),
            "spec.rules[0].matches[0].headers[0].vlue",
        ),
        (
            policy("rules: [{from: [{sorce: {}}]}]"),
            "spec.rules[0].from[0].sorce",
        ),
        (policy("").replace("name: x", "nam: x"), "metadata.nam"),
    ] {
        let parsed = read(&text);
        let Op::Refuse(_, _, problems) = &parsed.entries[0].op else {
            panic!("{text}: {parsed:#?}");
        };
        assert_eq!(problems[0].field, field, "{problems:#?}");
        assert!(problems.len() > 1, "{problems:#?}");
    }
}
