//! `mesh explain`, of a folder and of a running agent.

mod support;

use std::path::Path;
use std::process::Output;

use axum::Router;
use serde_json::Value;
use support::{Home, PLAIN, app, mesh, publish, route, service, stderr, stdout};
use tempfile::TempDir;

const WEB: &str = "spiffe://td.test/ns/shop/sa/web";

/// A folder without an agent: `cart` in the mesh, which web may read.
fn folder() -> TempDir {
    let dir = TempDir::new().expect("a folder");
    let at = "10.0.0.1:8443".parse().expect("an address");
    let ids = "inmesh.dev/ids: spiffe://td.test/ns/shop/sa/cart";
    let cart = service("cart", at, ids).replace(
        "kubernetes.io/service-name: cart",
        "kubernetes.io/service-name: cart, app: cart",
    );
    publish(dir.path(), "cart.yaml", &cart);
    let reads = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: reads, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  rules:
  - from: [{source: {principals: [td.test/ns/shop/sa/web]}}]
    to: [{operation: {methods: [GET]}}]
";
    publish(dir.path(), "reads.yaml", reads);
    dir
}

/// The same with a route for `cart` of these rules.
fn folder_with(rules: &str) -> TempDir {
    let dir = folder();
    let route = format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: split, namespace: shop}}
spec:
  parentRefs: [{{kind: Service, group: '', name: cart}}]
  rules:
{rules}"
    );
    publish(dir.path(), "route.yaml", &route);
    dir
}

fn explain(dir: &Path, args: &[&str]) -> Output {
    let dir = dir.to_str().expect("UTF-8");
    mesh(["explain", dir].iter().chain(args).copied(), &[])
}

/// A backend of another kind names a port or does not.
#[test]
fn a_backend_that_is_no_service_is_shown_with_the_port_that_it_names() {
    let dir = folder_with(
        "  - backendRefs:
    - {name: cart, port: 80}
    - {name: one, kind: Bucket, group: a.b}
    - {name: two, kind: Bucket, group: a.b, port: 7}
",
    );
    let out = explain(dir.path(), &["GET http://cart/", "--from", WEB]);
    let page = stdout(&out);
    for shown in ["Bucket.a.b/one.shop  ", "Bucket.a.b/two.shop:7  "] {
        assert!(page.contains(shown), "{page}");
    }
}

/// HTTPRoute has no match for a field that is absent: the rule that needs the field wins where it is there.
#[test]
fn a_rule_is_for_requests_without_a_field_where_another_is_for_those_with_it() {
    let dir = folder_with(
        "  - name: without
    backendRefs: [{name: cart, port: 80}]
  - name: with
    matches: [{headers: [{name: x-user, type: RegularExpression, value: '.*'}]}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: other}}]
",
    );
    for (field, code, said) in [
        (None, 0, "SENT to"),
        (Some("x-user: 7"), 0, "ANSWERED by the route with 302"),
        (Some("x-user:"), 0, "ANSWERED by the route with 302"),
    ] {
        let mut args = vec!["GET http://cart/", "--from", WEB];
        args.extend(field.into_iter().flat_map(|field| ["-H", field]));
        let out = explain(dir.path(), &args);
        assert_eq!(out.status.code(), Some(code), "{out:?}");
        assert!(stdout(&out).starts_with(said), "{field:?}: {out:?}");
    }
}

#[test]
fn its_code_says_whether_the_request_would_be_served() {
    let dir = folder();
    for (args, code, said) in [
        (
            &["GET http://cart/items", "--from", WEB][..],
            0,
            "SENT to 10.0.0.1:8443",
        ),
        (
            &["http://cart/items", "-X", "POST", "--from", WEB],
            1,
            "REFUSED with 403",
        ),
        (
            &[
                "http://cart/items",
                "--from",
                "spiffe://td.test/ns/shop/sa/x",
            ],
            1,
            "REFUSED with 403",
        ),
        (&["http://gone/", "--from", WEB], 1, "REFUSED with 404"),
        (&["http://cart/%00", "--from", WEB], 1, "REFUSED with 400"),
    ] {
        let out = explain(dir.path(), args);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {out:?}");
        assert!(stdout(&out).starts_with(said), "{args:?}: {out:?}");
    }
    for args in [
        &["GET https://cart/"][..],
        &["GET"],
        &["GET http://cart/", "-H", "x-user"],
        &["GET http://cart/", "--label", "app"],
        &["GET http://cart/", "--from", "web"],
        &["GET http://cart/", "--sni", "a.example.com"],
        &["tcp://cart:80", "--sni", "a b"],
        &["GET http://cart/", "--admin", "127.0.0.1:1"],
        &[],
    ] {
        let out = explain(dir.path(), args);
        assert_eq!(out.status.code(), Some(2), "{args:?}: {out:?}");
        assert!(!stderr(&out).is_empty(), "{args:?}");
    }
    let gone = explain(&dir.path().join("none"), &["GET http://cart/"]);
    assert_eq!(gone.status.code(), Some(2), "{gone:?}");
}

#[test]
fn it_names_file_and_line_and_what_is_refused() {
    let dir = folder();
    let args = ["GET http://cart/items", "--from", WEB, "--json"];
    let out = explain(dir.path(), &args);
    let json: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let reads = "AuthorizationPolicy/shop/reads";
    let file = dir.path().join("reads.yaml").display().to_string();
    assert_eq!(json["places"][reads], format!("{file}:1"));
    assert_eq!(json["verdict"]["outcome"], "sent");
    assert_eq!(json["inbound"][0]["policies"][0]["rule"], 0);
    // No colour where there is no terminal.
    let out = explain(dir.path(), &args[..3]);
    assert!(
        stdout(&out).contains(&format!("{reads} ({file}:1)")),
        "{out:?}"
    );
    assert!(!stdout(&out).contains('\x1b'), "{out:?}");
    // A policy that is refused denies what it selects, as in an agent.
    publish(
        dir.path(),
        "bad.yaml",
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, \
         metadata: {name: bad, namespace: shop}, spec: {actoin: DENY}}",
    );
    let out = explain(dir.path(), &args[..3]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert!(stderr(&out).contains("spec.actoin"), "{out:?}");
    assert!(
        stdout(&out).contains("refused, so that all is denied"),
        "{out:?}"
    );
}

/// Only the file of the agent, and what it names, say which trust domain it is of: endpoints of others do
/// not.
#[test]
fn the_caller_is_of_the_trust_domain_of_its_agent() {
    let dir = folder();
    let all = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: reads, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  rules:
  - from: [{source: {namespaces: [shop]}}]
";
    publish(dir.path(), "reads.yaml", all);
    let at = "10.0.0.9:8443".parse().expect("an address");
    let ids = "inmesh.dev/ids: spiffe://aaa.test/ns/shop/sa/aaa";
    publish(dir.path(), "aaa.yaml", &service("aaa", at, ids));
    let ask = |args: &[&str]| {
        explain(
            dir.path(),
            &[&["http://cart.shop/items"][..], args].concat(),
        )
    };
    // Without an agent's file it is not known.
    let out = ask(&[]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let said = "the caller's trust domain is not known";
    assert!(stderr(&out).contains(said), "{out:?}");
    assert!(stdout(&out).contains("without an identity"), "{out:?}");

    let ca = dir.path().join("ca");
    let path = ca.to_str().expect("UTF-8");
    let out = mesh(
        ["ca", "init", "--dir", path, "--trust-domain", "td.test"],
        &[],
    );
    assert!(out.status.success(), "{out:?}");
    let web = "spiffe://td.test/ns/shop/sa/web";
    let out = mesh(["ca", "issue", "--dir", path, "--out", path, web], &[]);
    assert!(out.status.success(), "{out:?}");
    let files = "files: {certificate: ca/cert.pem, key: ca/key.pem, bundle: ca/bundle.pem}";
    for (identity, known) in [
        ("developmentCA: {dir: ca}", true),
        (files, true),
        (
            "ca: {address: 'ca:1', caId: spiffe://td.test/ca, trustBundle: ca/ca.pem}",
            true,
        ),
        ("workloadApi: {socket: /run/api.sock}", false),
        ("developmentCA: {dir: gone}", false),
    ] {
        let agent = format!(
            "apiVersion: inmesh.dev/v1alpha1\nkind: Agent\nworkload: {{namespace: shop, name: web, \
             serviceAccount: web}}\ndefaultAction: deny\npeers: strict\nidentity: {{{identity}}}\n"
        );
        publish(dir.path(), "agent.yaml", &agent);
        let out = ask(&[]);
        let (from, code) = match known {
            true => (web, 0),
            false => ("without an identity", 1),
        };
        assert!(stdout(&out).contains(from), "{identity}: {out:?}");
        assert_eq!(out.status.code(), Some(code), "{identity}: {out:?}");
        assert_eq!(stderr(&out).contains(said), !known, "{identity}: {out:?}");
        let said = ask(&["--trust-domain", "td.test"]);
        assert_eq!(said.status.code(), Some(0), "{identity}: {said:?}");
        let other = ask(&["--trust-domain", "aaa.test"]);
        // What contradicts the agent's file is refused.
        assert_eq!(
            other.status.code(),
            Some(1 + i32::from(known)),
            "{identity}: {other:?}"
        );
    }
}

/// What a route asks of a request besides where it goes.
#[test]
fn limits_repeats_filters_and_copies_are_printed() {
    let dir = folder();
    let route = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: cart}]
  rules:
  - backendRefs: [{name: cart, port: 80}]
    timeouts: {request: 2s, backendRequest: 500ms}
    retry: {attempts: 2, codes: [503]}
    filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: gone, port: 80}}}
    - {type: CORS, cors: {allowOrigins: ['https://a.lab']}}
";
    publish(dir.path(), "route.yaml", route);
    let origin = ["-H", "origin: https://a.lab"];
    let args = [
        &[
            "GET http://cart/items",
            "--from",
            WEB,
            "--address",
            "10.0.0.9",
        ][..],
        &origin,
    ];
    let out = explain(dir.path(), &args.concat());
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    for line in [
        "time      the first attempt has 500 ms (backendRequest), all together 2000 ms (request)",
        "repeats   2 at most, after up to 25, 50 ms",
        "origin    https://a.lab may read the answer",
        "copy      gone.shop:80 (1 of 1): REFUSED with 500",
        "filter    of the rule: requestMirror",
    ] {
        assert!(stdout(&out).contains(line), "{line}: {}", stdout(&out));
    }
    let preflight = [
        "OPTIONS http://cart.shop/",
        "-H",
        "access-control-request-method: GET",
    ];
    let out = explain(dir.path(), &[&preflight[..], &origin].concat());
    assert!(
        stdout(&out).starts_with("ANSWERED by the route with 204, a preflight"),
        "{out:?}"
    );
}

#[tokio::test]
async fn a_running_agent_explains_what_it_knows() {
    let home = Home::new();
    let at = app(Router::new()).await;
    let (app, route) = (
        service("app", at, PLAIN),
        route("1", "    - {name: app, port: 80}\n"),
    );
    let documents = [("app.yaml", &*app), ("route.yaml", &*route)];
    let agent = home
        .agent("web", "defaultAction: deny\npeers: strict\n", &documents)
        .await;
    let admin = agent.admin.to_string();
    let ask = |request: &str| mesh(["explain", "--admin", &admin, request, "--json"], &[]);
    let out = ask("GET http://app/");
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    let json: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(json["from"], "spiffe://test.local/ns/shop/sa/web");
    assert_eq!(json["verdict"]["endpoint"], at.to_string());
    assert_eq!(json["endpoints"][0]["in_flight"], 0);
    assert_eq!(ask("GET http://gone/").status.code(), Some(1));
    // Where there is no agent there is no answer.
    let none = mesh(["explain", "--admin", "127.0.0.1:1", "http://app/"], &[]);
    assert_eq!(none.status.code(), Some(2), "{none:?}");
    // The guard of its siblings, and a question that is not valid.
    let get = agent.get("/explain?request=GET+http://app/").await;
    assert_eq!(get.status, http::StatusCode::METHOD_NOT_ALLOWED);
    for query in ["", "?request=GET", "?request=GET+http://app/&colour=red"] {
        let answer = agent.post(&format!("/explain{query}")).await;
        assert_eq!(answer.status, http::StatusCode::BAD_REQUEST, "{query}");
    }
}
