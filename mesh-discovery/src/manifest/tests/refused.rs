//! Each refusal: the document, then line, field and a part of the message.

use inmesh_core::authorize::Selects;
use inmesh_core::model::{Kind, Namespace};
use inmesh_core::snapshot::{Fallback, Op, Severity};

use super::FILE;
use super::{defaults, only, parse, policy, problems, read, refusal, route, service, slice};

#[track_caller]
fn check(text: &str, line: u32, field: &str, message: &str) {
    let (_, problems) = refusal(text);
    let found = problems.iter().any(|problem| {
        problem.severity == Severity::Refused
            && problem.field == field
            && problem.message.contains(message)
            && problem
                .location
                .as_ref()
                .is_some_and(|at| at.line == line && *at.file == *FILE)
    });
    assert!(
        found,
        "{line}: {field}: {message}\nis not in {problems:#?}\nof\n{text}"
    );
}

#[track_caller]
fn warned(text: &str, line: u32, field: &str, message: &str) {
    let op = only(text);
    assert!(!matches!(op, Op::Refuse(..)), "{op:#?}\n{text}");
    let found = problems(&op).iter().any(|problem| {
        problem.severity == Severity::Warning
            && problem.field == field
            && problem.message.contains(message)
            && problem.location.as_ref().is_some_and(|at| at.line == line)
    });
    assert!(
        found,
        "{line}: {field}: {message}\nis not in {:#?}",
        problems(&op)
    );
}

const PARENT: &str = "parentRefs: [{group: '', kind: Service, name: cart}]\n";

#[test]
fn routes_are_refused() {
    let rows = [
        (
            "parentRefs: [{group: '', kind: Service, name: Cart}]",
            5,
            "spec.parentRefs[0].name",
            "lower case",
        ),
        (
            "parentRefs: [{group: '', kind: Service, name: cart, port: 0}]",
            5,
            "spec.parentRefs[0].port",
            "not within 1 and 65535",
        ),
        (
            "parentRefs:\n- {group: '', kind: Service, name: a}\n- {group: '', kind: Service, name: a}",
            7,
            "spec.parentRefs[1]",
            "stands twice",
        ),
        // The schema's rule: a port does not tell two references to one parent apart.
        (
            "parentRefs:\n- {group: '', kind: Service, name: a, port: 80}\n- {group: '', kind: Service, name: a, port: 81}",
            7,
            "spec.parentRefs[1]",
            "stands twice",
        ),
        (
            "parentRefs:\n- {name: gw, sectionName: a}\n- {name: gw}\n- {group: '', kind: Service, name: a}",
            7,
            "spec.parentRefs[1]",
            "stands twice",
        ),
        (
            "parentRefs: [{group: '', kind: Service, name: a, sectionName: /a_B}]",
            5,
            "spec.parentRefs[0].sectionName",
            "not a DNS subdomain",
        ),
        (
            "parentRefs:\n- {group: '', kind: Service, name: a}\n- {name: gw, sectionName: A}",
            7,
            "spec.parentRefs[1].sectionName",
            "not a DNS subdomain",
        ),
        (
            "parentRefs:\n- {group: '', kind: Service, name: a}\n- {name: gw, namespace: A}",
            7,
            "spec.parentRefs[1].namespace",
            "lower case",
        ),
        (
            "parentRefs:\n- {group: '', kind: Service, name: a}\n- {name: gw, group: a_b}",
            7,
            "spec.parentRefs[1].group",
            "is no group",
        ),
        (
            "parentRefs:\n- {group: '', kind: Service, name: a}\n- {name: gw, kind: 1a}",
            7,
            "spec.parentRefs[1].kind",
            "is no kind",
        ),
        (
            "parentRefs: [{group: '', kind: Service, name: a, prot: 80}]",
            5,
            "spec.parentRefs[0].prot",
            "is not a known field",
        ),
    ];
    for (spec, line, field, message) in rows {
        check(&route(spec), line, field, message);
    }
    let rules = [
        ("rules: []", 6, "spec.rules", "empty list"),
        ("rule: [{}]", 6, "spec.rule", "is not a known field"),
        (
            "rules:\n- matches:\n  - path: {type: Glob, value: /}",
            8,
            "spec.rules[0].matches[0].path.type",
            "not one of Exact, PathPrefix",
        ),
        (
            "rules:\n- matches:\n  - path: {value: cart}",
            8,
            "spec.rules[0].matches[0].path.value",
            "does not begin with '/'",
        ),
        (
            "rules:\n- matches:\n  - path: {type: RegularExpression, value: '(/'}",
            8,
            "spec.rules[0].matches[0].path.value",
            "regular expression",
        ),
        (
            "rules:\n- matches:\n  - method: get",
            8,
            "spec.rules[0].matches[0].method",
            "not one of GET",
        ),
        (
            "rules:\n- matches:\n  - headers: [{name: 'a b', value: x}]",
            8,
            "spec.rules[0].matches[0].headers[0].name",
            "is not a name",
        ),
        (
            "rules:\n- matches:\n  - queryParams: [{name: 'a b', value: x}]",
            8,
            "spec.rules[0].matches[0].queryParams[0].name",
            "is not a name",
        ),
        (
            "rules:\n- matches:\n  - path: {value: /ü}",
            8,
            "spec.rules[0].matches[0].path.value",
            "escaped",
        ),
        (
            "rules:\n- {name: a}\n- {name: a}",
            8,
            "spec.rules[1].name",
            "stands twice",
        ),
        (
            "rules:\n- {name: A b}",
            7,
            "spec.rules[0].name",
            "not a DNS subdomain",
        ),
        (
            "rules:\n- retry: {codes: [500, 500]}",
            7,
            "spec.rules[0].retry.codes[1]",
            "stands twice",
        ),
        (
            "rules:\n- retry: {codes: [200]}",
            7,
            "spec.rules[0].retry.codes[0]",
            "not within 400 and 599",
        ),
        (
            "rules:\n- retry: {atempts: 1}",
            7,
            "spec.rules[0].retry.atempts",
            "is not a known field",
        ),
        (
            "rules:\n- sessionPersistence: {}",
            7,
            "spec.rules[0].sessionPersistence",
            "in a TrafficPolicy",
        ),
        (
            "hostnames: [A.b]",
            6,
            "spec.hostnames[0]",
            "not a host name",
        ),
        (
            "rules:\n- filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}, {name: a, value: c}]}}]",
            7,
            "spec.rules[0].filters[0].requestHeaderModifier.set[1].name",
            "a stands twice, also in spec.rules[0].filters[0].requestHeaderModifier.set[0].name",
        ),
        (
            "rules:\n- filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {\n    set: [{name: X-A, value: b}],\n    add: [{name: x-a, value: c}]}}]",
            9,
            "spec.rules[0].filters[0].responseHeaderModifier.add[0].name",
            "x-a stands twice, also in spec.rules[0].filters[0].responseHeaderModifier.set[0].name",
        ),
        (
            "rules:\n- filters: [{type: RequestHeaderModifier, requestHeaderModifier: {\n    remove: [X-A],\n    add: [{name: x-a, value: c}]}}]",
            8,
            "spec.rules[0].filters[0].requestHeaderModifier.remove[0]",
            "one of set, add and remove",
        ),
        (
            "rules:\n- filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Mesh-Reason, value: b}]}}]",
            7,
            "spec.rules[0].filters[0].responseHeaderModifier.set[0].name",
            "x-mesh-reason is what only the mesh says",
        ),
        (
            "rules:\n- backendRefs:\n  - {name: a, port: 1, filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x-mesh-no-retry]}}]}",
            8,
            "spec.rules[0].backendRefs[0].filters[0].responseHeaderModifier.remove[0]",
            "x-mesh-no-retry is what only the mesh says",
        ),
        (
            "rules:\n- filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x_forwarded_client_cert, value: b}]}}]",
            7,
            "spec.rules[0].filters[0].requestHeaderModifier.add[0].name",
            "is what only the mesh says",
        ),
        (
            "rules:\n- filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: ''}]}}]",
            7,
            "spec.rules[0].filters[0].requestHeaderModifier.set[0].value",
            "has 0 characters",
        ),
        (
            "rules:\n- matches:\n  - headers: [{name: a}]",
            8,
            "spec.rules[0].matches[0].headers[0].value",
            "is missing",
        ),
        (
            "rules:\n- matches:\n  - headers:\n    - {name: a, value: x}\n    - {name: a, value: z}",
            10,
            "spec.rules[0].matches[0].headers[1]",
            "stands twice",
        ),
        (
            "rules:\n- matches:\n  - headers: [{name: Host, value: a.b}]",
            8,
            "spec.rules[0].matches[0].headers[0]",
            "no header field over HTTP/2",
        ),
        (
            "rules:\n- matches:\n  - headers: [{name: a, value: true}]",
            8,
            "spec.rules[0].matches[0].headers[0].value",
            "write it in quotes",
        ),
        (
            "rules:\n- matches:\n  - queryParams: [{name: a, value: x, typ: Exact}]",
            8,
            "spec.rules[0].matches[0].queryParams[0].typ",
            "is not a known field",
        ),
        (
            "rules:\n- filters: [{type: ExtensionRef, extensionRef: {}}]",
            7,
            "spec.rules[0].filters[0].type",
            "ExtensionRef is valid in the Gateway API, but not done yet",
        ),
        (
            "rules:\n- filters: [{type: RequestHeaderModifier}]",
            7,
            "spec.rules[0].filters[0].requestHeaderModifier",
            "is missing",
        ),
        (
            "rules:\n- filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [Host]}}]",
            7,
            "spec.rules[0].filters[0].requestHeaderModifier.remove[0]",
            "set by the proxy",
        ),
        (
            "rules:\n- backendRefs: [{name: a}]",
            7,
            "spec.rules[0].backendRefs[0].port",
            "is missing",
        ),
        (
            "rules:\n- backendRefs:\n  - {name: a, port: 80}\n  - name: b\n    port: 80\n    weight: 1000001",
            11,
            "spec.rules[0].backendRefs[1].weight",
            "above 1000000",
        ),
        (
            "rules:\n- backendRefs: [{name: a, port: 80, weight: -1}]",
            7,
            "spec.rules[0].backendRefs[0].weight",
            "-1 is not within",
        ),
        (
            "rules:\n- backendRefs: [{name: a, port: '80'}]",
            7,
            "spec.rules[0].backendRefs[0].port",
            "is a text, not a whole number",
        ),
        (
            "rules:\n- backendRefs: [{group: x.io, kind: Bucket, name: ''}]",
            7,
            "spec.rules[0].backendRefs[0].name",
            "has 0 characters",
        ),
        (
            "rules:\n- timeouts: {request: 1.5s}",
            7,
            "spec.rules[0].timeouts.request",
            "not a duration",
        ),
        (
            "rules:\n- timeouts: {request: 1s, backendRequest: 2s}",
            7,
            "spec.rules[0].timeouts",
            "longer than request",
        ),
    ];
    for (spec, line, field, message) in rules {
        check(&route(&format!("{PARENT}{spec}")), line, field, message);
    }
    let many = format!("{PARENT}rules: [{}]", "{},".repeat(17));
    check(
        &route(&many),
        6,
        "spec.rules",
        "has 17 items; 16 are allowed",
    );
}

#[test]
fn policies_are_refused() {
    let rows = [
        ("action: AUDIT", 5, "spec.action", "not evaluated yet"),
        ("action: Allow", 5, "spec.action", "not one of ALLOW"),
        (
            "rules: [null]",
            5,
            "spec.rules[0]",
            "is null, not a mapping",
        ),
        ("rules:\n- from: []", 6, "spec.rules[0].from", "empty list"),
        (
            "rules:\n- from: [{}]",
            6,
            "spec.rules[0].from[0].source",
            "is missing",
        ),
        (
            "rules:\n- from: [{source: {}}]",
            6,
            "spec.rules[0].from[0].source",
            "names no condition that is evaluated",
        ),
        (
            "rules:\n- from:\n  - source:\n      principals:\n      - td/ns/a/sa/b\n      - spiffe://td/x",
            10,
            "spec.rules[0].from[0].source.principals[1]",
            "without \"spiffe://\"",
        ),
        (
            "rules:\n- from: [{source: {principals: []}}]",
            6,
            "spec.rules[0].from[0].source.principals",
            "empty list",
        ),
        (
            "rules:\n- from: [{source: {ipBlocks: [10.0.0.0/8]}}]",
            6,
            "spec.rules[0].from[0].source.ipBlocks",
            "not evaluated yet",
        ),
        (
            "rules:\n- from: [{source: {principal: [a]}}]",
            6,
            "spec.rules[0].from[0].source.principal",
            "is not a known field",
        ),
        (
            "rules:\n- from: [{source: {namespaces: [a], principal: [a]}}]",
            6,
            "spec.rules[0].from[0].source.principal",
            "is not a known field",
        ),
        (
            "rules:\n- to: [{operation: {methods: [get]}}]",
            6,
            "spec.rules[0].to[0].operation.methods[0]",
            "upper case",
        ),
        (
            "rules:\n- to: [{operation: {paths: [/a, b]}}]",
            6,
            "spec.rules[0].to[0].operation.paths[1]",
            "begins with '/'",
        ),
        (
            "rules:\n- to: [{operation: {notPaths: [/a, //b]}}]",
            6,
            "spec.rules[0].to[0].operation.notPaths[1]",
            "can never match",
        ),
        (
            "action: DENY\nrules:\n- to: [{operation: {paths: [/a/../b]}}]",
            7,
            "spec.rules[0].to[0].operation.paths[0]",
            "can never match",
        ),
        (
            "rules:\n- to: [{operation: {paths: [/x, /a%2fb]}}]",
            6,
            "spec.rules[0].to[0].operation.paths[1]",
            "servers may read it as \"/a/b\"",
        ),
        (
            "rules:\n- from: [{source: {trustDomains: [a, 'spiffe://b']}}]",
            6,
            "spec.rules[0].from[0].source.trustDomains[1]",
            "without its scheme",
        ),
        (
            "rules:\n- from: [{source: {namespaces: [Shop]}}]",
            6,
            "spec.rules[0].from[0].source.namespaces[0]",
            "can never match",
        ),
        (
            "rules:\n- to: [{operation: {hosts: [a]}}]",
            6,
            "spec.rules[0].to[0].operation.hosts",
            "not evaluated yet",
        ),
        (
            "rules:\n- when: [{key: a, values: [b]}]",
            6,
            "spec.rules[0].when",
            "not evaluated yet",
        ),
        (
            "targetRefs: [{kind: Service}]",
            5,
            "spec.targetRefs",
            "not evaluated yet",
        ),
        (
            "selector: {matchExpressions: []}",
            5,
            "spec.selector.matchExpressions",
            "not a known",
        ),
        (
            "selector: {matchLabels: {app: '*'}}",
            5,
            "spec.selector.matchLabels[app]",
            "wildcards",
        ),
        (
            "selector: {matchLabels: {app: 'cart '}}",
            5,
            "spec.selector.matchLabels[app]",
            "begin and end with a letter",
        ),
        (
            "selector: {matchLabels: {'app ': cart}}",
            5,
            "spec.selector.matchLabels[app ]",
            "begin and end with a letter",
        ),
        (
            "selector: {matchLabels: {Ex.io/app: cart}}",
            5,
            "spec.selector.matchLabels[Ex.io/app]",
            "lower case letters",
        ),
        (
            "selector: {matchLabels: {app: 1}}",
            5,
            "spec.selector.matchLabels[app]",
            "quotes",
        ),
    ];
    for (spec, line, field, message) in rows {
        check(&policy(spec), line, field, message);
    }
}

#[test]
fn a_refused_policy_denies_what_it_would_select() {
    let shop = Namespace::new("shop").expect("a name");
    let labels = |l: &[(&str, &str)]| {
        let labels = l.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Selects::Workloads(shop.clone(), labels)
    };
    let bad = "rules: [{when: [{}]}]";
    let rows = [
        (policy(bad), labels(&[])),
        (
            policy(&format!("selector: {{matchLabels: {{app: cart}}}}\n{bad}")),
            labels(&[("app", "cart")]),
        ),
        (
            policy(&format!("selector: {{matchLabel: {{app: cart}}}}\n{bad}")),
            Selects::Namespace(shop.clone()),
        ),
        (policy(bad).replace("/v1", "/v9"), labels(&[])),
        (
            policy(bad).replace("kind: AuthorizationPolicy", "kind: 7"),
            labels(&[]),
        ),
        (
            policy(bad).replace("apiVersion:", "apiversion:"),
            labels(&[]),
        ),
        (policy(bad).replace("name: x", "name: X"), labels(&[])),
        (
            policy(bad).replace("namespace: shop", "namespace: 5"),
            Selects::Unknown,
        ),
        (
            policy(bad).replace("namespace: shop", "namespace: null"),
            Selects::Unknown,
        ),
        (policy(bad).replace("metadata:", "meta:"), Selects::Unknown),
        (
            policy(bad).replace("shop, annotations: {}", "Shop"),
            Selects::Unknown,
        ),
        (
            "apiVersion: inmesh.dev/v1alpha1\nkind: AuthorizationPolicy".into(),
            Selects::Unknown,
        ),
    ];
    for (text, selects) in rows {
        let entries = read(&text).entries;
        assert_eq!(entries[0].key.kind, Kind::AuthorizationPolicy, "{text}");
        assert_eq!(refusal(&text).0, Fallback::Deny(selects), "{text}");
    }
}

#[test]
fn services_are_refused() {
    let rows = [
        ("ports: [{name: a}]", 5, "spec.ports[0].port", "is missing"),
        (
            "ports: [{port: 70000}]",
            5,
            "spec.ports[0].port",
            "not within",
        ),
        (
            "ports: [{port: '80'}]",
            5,
            "spec.ports[0].port",
            "not a whole number",
        ),
        ("ports: [{prt: 80}]", 5, "spec.ports[0].port", "is missing"),
        (
            "ports: [{port: 80, protocol: tcp}]",
            5,
            "spec.ports[0].protocol",
            "not one of TCP",
        ),
        (
            "ports: [{port: 80, name: HTTP}]",
            5,
            "spec.ports[0].name",
            "not the name of a port",
        ),
        (
            "ports:\n- {port: 80, name: a}\n- {port: 81}",
            7,
            "spec.ports[1]",
            "has no name",
        ),
        (
            "ports:\n- {port: 80, name: a}\n- {port: 80, name: b}",
            7,
            "spec.ports[1]",
            "the port 80 stands twice",
        ),
        (
            "ports:\n- {port: 80, name: a}\n- {port: 81, name: a}",
            7,
            "spec.ports[1]",
            "the name \"a\" stands twice",
        ),
        ("type: External", 5, "spec.type", "not one of ClusterIP"),
        ("type: ExternalName", 4, "spec.externalName", "is missing"),
        (
            "type: ExternalName\nexternalName: 10.0.0.1",
            6,
            "spec.externalName",
            "an address",
        ),
        (
            "type: ExternalName\nexternalName: a_b",
            6,
            "spec.externalName",
            "not a host name",
        ),
        (
            "type: ExternalName\nexternalName: a.b",
            4,
            "spec",
            "inmesh.dev/ids:",
        ),
    ];
    for (spec, line, field, message) in rows {
        check(&service("", spec), line, field, message);
    }
    let at = "metadata.annotations";
    check(
        &service("inmesh.dev/transport: plain", "ports: [{port: 80}]"),
        3,
        &format!("{at}[inmesh.dev/transport]"),
        "has no meaning on this object",
    );
    check(
        &service(
            "inmesh.dev/transport: plain, inmesh.dev/dns: srv",
            "type: ExternalName\nexternalName: a.b\nports: [{port: 80}]",
        ),
        3,
        &format!("{at}[inmesh.dev/dns]"),
        "exactly one port, with a name",
    );
    let port = "ports: [{port: 80}]";
    let subset = |of: &str, spec: &str| {
        service(
            &format!("inmesh.dev/subset-of: {of}"),
            &format!("{port}\n{spec}"),
        )
    };
    for (text, line, field, message) in [
        (
            subset("cart", "type: ClusterIP"),
            4,
            "spec.selector",
            "is missing",
        ),
        (
            subset("cart", "selector: {}"),
            4,
            "spec.selector",
            "is missing",
        ),
        (
            subset("cart", "selector: {v: 1}"),
            6,
            "spec.selector[v]",
            "not a text",
        ),
        (
            subset("cart", "selector: {v: 'a b'}"),
            6,
            "spec.selector[v]",
            "a b",
        ),
        (
            subset("x", "selector: {v: a}"),
            3,
            &*format!("{at}[inmesh.dev/subset-of]"),
            "itself",
        ),
        (
            subset("A", "selector: {v: a}"),
            3,
            &*format!("{at}[inmesh.dev/subset-of]"),
            "lower case",
        ),
        (
            subset(
                "cart",
                "type: ExternalName\nexternalName: a.b\nselector: {v: a}",
            ),
            3,
            &*format!("{at}[inmesh.dev/subset-of]"),
            "has no meaning",
        ),
    ] {
        check(&text, line, field, message);
    }
    check("apiVersion: v1\nkind: Service", 1, "metadata", "is missing");
    check(
        "apiVersion: v1\nkind: Service\nmetadata: {}\nspec: {}",
        3,
        "metadata.name",
        "is missing",
    );
    check(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a.b}\nspec: {ports: [{port: 80}]}",
        3,
        "metadata.name",
        "lower case",
    );
}

#[test]
fn slices_are_refused() {
    let plain = "inmesh.dev/transport: plain";
    let at = |name: &str| format!("metadata.annotations[inmesh.dev/{name}]");
    let rows = [
        (
            "",
            "addressType: IPv4",
            1,
            String::new(),
            "inmesh.dev/ids: \"spiffe://",
        ),
        (
            "inmesh.dev/ids: ' , '",
            "addressType: IPv4",
            3,
            at("ids"),
            "inmesh.dev/ids: \"spiffe",
        ),
        (
            "inmesh.dev/ids: 'spiffe://A/b'",
            "addressType: IPv4",
            3,
            at("ids"),
            "trust domain",
        ),
        (
            "inmesh.dev/transport: mtls",
            "addressType: IPv4",
            3,
            at("transport"),
            "not one of mesh",
        ),
        (
            "inmesh.dev/transprot: plain",
            "addressType: IPv4",
            3,
            at("transprot"),
            "no meaning",
        ),
        (
            "inmesh.dev/transport: plain, inmesh.dev/ids: 'spiffe://a/b'",
            "addressType: IPv4",
            3,
            at("ids"),
            "no effect with the transport plain",
        ),
        (
            "inmesh.dev/transport: tls",
            "addressType: FQDN\nendpoints: [{addresses: [a.b]}]",
            1,
            String::new(),
            "inmesh.dev/ca: system",
        ),
        (
            "inmesh.dev/transport: tls, inmesh.dev/ca: system",
            "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1]}]",
            1,
            String::new(),
            "inmesh.dev/server-name",
        ),
        (
            "inmesh.dev/transport: tls, inmesh.dev/ca: ''",
            "addressType: FQDN\nendpoints: [{addresses: [a.b]}]",
            3,
            at("ca"),
            "is empty",
        ),
        (
            plain,
            "addressType: IP",
            4,
            "addressType".into(),
            "not one of IPv4",
        ),
        (plain, "ports: []", 1, "addressType".into(), "is missing"),
        (
            "inmesh.dev/transport: plain, inmesh.dev/dns: srv",
            "addressType: IPv4\nports: [{name: a, port: 1}]",
            1,
            String::new(),
            "needs addressType FQDN",
        ),
        (
            "inmesh.dev/transport: plain, inmesh.dev/dns: srv",
            "addressType: FQDN\nports: [{port: 1}]",
            3,
            at("dns"),
            "exactly one port, with a name",
        ),
        (
            plain,
            "addressType: IPv4\nports:\n- {name: a, port: 1}\n- {name: a, port: 2}",
            7,
            "ports[1]".into(),
            "stands twice",
        ),
        (
            plain,
            "addressType: IPv4\nendpoints: [{addresses: []}]",
            5,
            "endpoints[0].addresses".into(),
            "empty list",
        ),
        (
            plain,
            "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1], conditions: {ready: 1}}]",
            5,
            "endpoints[0].conditions.ready".into(),
            "not true or false",
        ),
        (
            plain,
            "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1], hints: {forZones: [{}]}}]",
            5,
            "endpoints[0].hints.forZones[0].name".into(),
            "is missing",
        ),
        (
            plain,
            "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1], hints: {forZones: [{name: ''}]}}]",
            5,
            "endpoints[0].hints.forZones[0].name".into(),
            "is empty",
        ),
        (
            plain,
            "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1], hints: {forZones: [{name: 'a b'}]}}]",
            5,
            "endpoints[0].hints.forZones[0].name".into(),
            "a b",
        ),
        (
            "inmesh.dev/transport: plain, inmesh.dev/region: ''",
            "addressType: IPv4",
            3,
            at("region"),
            "is empty",
        ),
    ];
    for (annotations, body, line, field, message) in rows {
        check(&slice(annotations, body), line, &field, message);
    }
    let without = slice(plain, "addressType: IPv4").replace("kubernetes.io/", "kubernetes/");
    check(
        &without,
        1,
        "",
        "the label kubernetes.io/service-name is missing",
    );
    let addresses = [
        ("IPv4", "10.0.0", "not an IPv4 address"),
        ("IPv4", "'::2'", "not an IPv4 address"),
        ("IPv4", "0.0.0.0", "unspecified"),
        ("IPv4", "127.8.0.1", "loopback"),
        ("IPv4", "169.254.169.254", "link-local"),
        ("IPv4", "224.0.0.1", "multicast"),
        ("IPv4", "255.255.255.255", "broadcast"),
        ("IPv6", "10.0.0.1", "not an IPv6 address"),
        ("IPv6", "'::'", "unspecified"),
        ("IPv6", "'::1'", "loopback"),
        ("IPv6", "'::ffff:127.0.0.1'", "loopback"),
        ("IPv6", "'::ffff:169.254.0.1'", "link-local"),
        ("IPv6", "'fe80::1'", "link-local"),
        ("IPv6", "'ff02::1'", "multicast"),
        ("FQDN", "10.0.0.1", "an address, not a host name"),
        ("FQDN", "'*.b'", "not a host name"),
    ];
    for (family, address, message) in addresses {
        let body = format!("addressType: {family}\nendpoints:\n- addresses: [{address}]");
        check(
            &slice(plain, &body),
            6,
            "endpoints[0].addresses[0]",
            message,
        );
    }
}

#[test]
fn unknown_kinds_of_our_groups_are_refused_by_name() {
    let rows = [
        (
            "apiVersion: v1\nkind: Sevice\nmetadata: {name: a}",
            "Sevice",
            "the kind Sevice is not read",
        ),
        (
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlices\nmetadata: {name: a}",
            "EndpointSlices.discovery.k8s.io",
            "the kind EndpointSlices of discovery.k8s.io is not read",
        ),
        (
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoot\nmetadata: {name: a}",
            "HTTPRoot.gateway.networking.k8s.io",
            "is not read",
        ),
        (
            "apiVersion: gateway.networking.k8s.oi/v1\nkind: HTTPRoute\nmetadata: {name: a}",
            "HTTPRoute.gateway.networking.k8s.oi",
            "is not read",
        ),
        (
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}",
            "PeerAuthentication.security.istio.io",
            "is not read",
        ),
        (
            "kind: Deployment\nmetadata: {name: a}",
            "Deployment",
            "is not read",
        ),
        ("a: 1", "Unknown", "the kind cannot be read"),
        ("[1, 2]", "Unknown", "the kind cannot be read"),
        ("just text", "Unknown", "the kind cannot be read"),
    ];
    for (text, kind, message) in rows {
        assert_eq!(read(text).entries[0].key.kind, Kind::Other(kind.into()));
        assert_eq!(refusal(text).0, Fallback::Absent);
        check(text, 1, "", message);
    }
    let v1alpha2 = route(PARENT).replace("/v1", "/v1alpha2");
    assert_eq!(read(&v1alpha2).entries[0].key.kind, Kind::HttpRoute);
    check(
        &v1alpha2,
        1,
        "",
        "apiVersion gateway.networking.k8s.io/v1alpha2 of this kind is not read",
    );
}

/// What may have been meant as a policy denies what it would select.
#[test]
fn a_misspelt_kind_of_a_policy_denies() {
    let shop = Namespace::new("shop").expect("a name");
    let good = policy("selector: {matchLabels: {app: cart}}");
    for (from, to) in [
        ("kind: AuthorizationPolicy", "kind: AuthorizationPolcy"),
        ("kind: AuthorizationPolicy", "kind: authorizationpolicy"),
        ("kind: AuthorizationPolicy", "kind: AuthorisationPolicy"),
        ("kind: AuthorizationPolicy", "kind: Policy"),
        ("kind: AuthorizationPolicy", "kind: Deny"),
        ("security.istio.io/v1", "security.istio.oi/v1"),
        ("security.istio.io/v1", "v1"),
        ("security.istio.io/v1", "inmesh.dev/v1"),
        (
            "security.istio.io/v1\nkind: AuthorizationPolicy",
            "inmesh.dev/v1alpha1\nkind: Authorization",
        ),
        (
            "security.istio.io/v1\nkind: AuthorizationPolicy",
            "x.io/v1\nkind: AuthorizatonPolicys",
        ),
        // Groups that are not clearly another program's.
        ("security.istio.io/v1", "security.istio/v1"),
        ("security.istio.io/v1", "istio.io/v1"),
        ("security.istio.io/v1", "security.io/v1"),
        ("security.istio.io/v1", "networking.istio.io/v1"),
        ("security.istio.io/v1", "Security.Isto.io/v1"),
        ("security.istio.io/v1", "secrity.example.com/v1"),
        ("security.istio.io/v1", "inmesh.io/v1"),
        ("security.istio.io/v1", "policy.inmesh.dev/v1"),
        ("security.istio.io/v1", "imesh.dev/v1"),
        ("security.istio.io/v1", "networking.k8s.io/v1"),
        ("security.istio.io/v1", "gateway.networking.x-k8s.io/v1"),
        ("security.istio.io/v1", "apps/v1"),
        ("security.istio.io/v1", "security.istio.io/a/v1"),
        ("security.istio.io/v1", "''"),
        ("security.istio.io/v1", "/v1"),
    ] {
        assert!(good.contains(from), "{from}");
        let text = good.replace(from, to);
        let (fallback, problems) = refusal(&text);
        assert!(
            matches!(read(&text).entries[0].key.kind, Kind::AuthorizationPolicy),
            "{text}"
        );
        let labels = vec![("app".into(), "cart".into())];
        let selects = Selects::Workloads(shop.clone(), labels);
        assert_eq!(fallback, Fallback::Deny(selects), "{text}");
        assert_eq!(problems[0].location.as_ref().map(|at| at.line), Some(1));
    }
}

#[test]
fn what_has_no_effect_is_reported() {
    warned(
        &service("", "ports: [{port: 80, colour: red}]"),
        5,
        "spec.ports[0].colour",
        "is not a known field",
    );
    warned(&service("", "ports: []"), 4, "spec", "no TCP port");
    warned(
        &service("", "ports: [{port: 80, appProtocol: htpp}]"),
        5,
        "spec.ports[0].appProtocol",
        "not known",
    );
    warned(
        &slice("inmesh.dev/transport: plain", "addressType: IPv4\nextra: 1"),
        5,
        "extra",
        "is not a known field",
    );
    warned(
        &route(&format!("{PARENT}hostnames: [a.b]")),
        6,
        "spec.hostnames",
        "no effect",
    );
    warned(
        &slice(
            "inmesh.dev/transport: plain",
            "addressType: IPv4\nports: [{name: a}]",
        ),
        5,
        "ports[0]",
        "has no number",
    );
    warned(
        &route(&format!(
            "{PARENT}rules:\n- matches: [{{headers: [{{name: a, value: x}}, {{name: A, value: z}}]}}]"
        )),
        7,
        "spec.rules[0].matches[0].headers[1]",
        "has no effect",
    );
    warned(
        &service(
            "",
            "ports: [{port: 80}]\ntrafficDistribution: example.com/near",
        ),
        6,
        "spec.trafficDistribution",
        "is not known",
    );
    warned(
        &service(
            "inmesh.dev/transport: plain",
            "{type: ExternalName, externalName: a.b, ports: [{port: 80}], trafficDistribution: PreferClose}",
        ),
        5,
        "spec.trafficDistribution",
        "no effect with type ExternalName",
    );
    let empty = "rules:\n- filters: [{type: RequestHeaderModifier, requestHeaderModifier: {}}]";
    warned(
        &route(&format!("{PARENT}{empty}")),
        7,
        "spec.rules[0].filters[0].requestHeaderModifier",
        "changes nothing",
    );
    warned(&policy("action: DENY"), 4, "spec", "denies nothing");
    warned(
        &policy("action: DENY\nrules: []"),
        6,
        "spec.rules",
        "denies nothing",
    );
}

/// One look shows all that is wrong with a list.
#[test]
fn every_item_that_cannot_match_is_named() {
    let spec = "rules: [{to: [{operation: {paths: [//a, /b, /c/../d], methods: [get]}}]}]";
    let (_, problems) = refusal(&policy(spec));
    let fields: Vec<_> = problems.iter().map(|problem| &*problem.field).collect();
    let at = "spec.rules[0].to[0].operation";
    assert_eq!(
        fields,
        [
            format!("{at}.methods[0]"),
            format!("{at}.paths[0]"),
            format!("{at}.paths[2]"),
        ]
    );
}

/// What is said of a whole is not said of the part that could be read: advice that follows from
/// what is missing may be wrong, and opens what its author closed.
#[test]
fn no_advice_follows_from_a_part() {
    let slice_without_ids = slice("inmesh.dev/id: 'spiffe://a/b'", "addressType: IPv4");
    for (text, wrong) in [
        (
            policy("action: DENY\nrules: [{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}]"),
            "denies nothing",
        ),
        (
            policy("rules: [{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}]"),
            "leave",
        ),
        (
            policy("rules: [{to: [{operation: {hosts: [a]}}]}]"),
            "leave",
        ),
        (policy("rules: [{from: []}]"), "leave"),
        (policy("rules: [{to: [{operation: {paths: []}}]}]"), "leave"),
        (service("", "ports: [{port: x}]"), "no TCP port"),
        (
            service("", "ports: [{port: x, name: a}, {port: 80}]"),
            "has no name",
        ),
        (slice_without_ids, "plain"),
    ] {
        let (_, problems) = refusal(&text);
        let advice = problems
            .iter()
            .find(|problem| problem.message.contains(wrong));
        assert!(advice.is_none(), "{text}\n{advice:#?}");
    }
}

#[test]
fn files_are_refused() {
    let deep = "[".repeat(65);
    let bomb: String = (1..9)
        .map(|n| format!("a{n}: &a{n} [{}]\n", format!("*a{},", n - 1).repeat(10)))
        .collect();
    let bomb = format!("a0: &a0 [{}]\n{bomb}", "x,".repeat(10));
    let rows = [
        ("", 1, "holds no document"),
        ("# nothing\n---\n---\n", 1, "holds no document"),
        ("a: 1\nb: [", 2, ""),
        ("a: 1\nb: 2\na: 3", 3, "stands twice"),
        ("a: {b: 1, b: 2}", 1, "\"b\" stands twice"),
        ("a: &x 5\nc:\n  <<: *x", 3, "<< names a mapping"),
        ("a: &x [5]\nc:\n  <<: *x", 3, "<< names a mapping"),
        ("a: {<<: {b: 1}, <<: {c: 1}}", 1, "stands twice"),
        ("a: !!binary 5", 1, "the tag !!binary is not read"),
        ("a: !Ref 5", 1, "the tag !Ref is not read"),
        ("? [a]\n: b", 1, "a key must be a text"),
        ("a: *x", 1, ""),
        ("a: &x [*x]", 1, ""),
        (&*deep, 1, ""),
        (&*bomb, 6, "values"),
        (
            &*"--- {}\n".repeat(1_001),
            1_001,
            "more than 1000 documents",
        ),
        (&*" ".repeat((1 << 20) + 1), 1, "larger than 1048576 bytes"),
    ];
    for (text, line, message) in rows {
        let error = parse(FILE, text, &defaults()).expect_err("it is not a file of documents");
        let start: String = text.chars().take(40).collect();
        assert_eq!(error.location.line, line, "{start}: {error}");
        assert!(error.message.contains(message), "{start}: {error}");
    }
}

#[test]
fn one_bad_document_leaves_the_others_alone() {
    let text = format!(
        "{}---\n{}",
        route("parentRefs: x"),
        service("", "ports: [{port: 80}]")
    );
    let ops: Vec<_> = read(&text)
        .entries
        .into_iter()
        .map(|entry| entry.op)
        .collect();
    assert!(matches!(ops[..], [Op::Refuse(..), Op::Put(..)]));
}
