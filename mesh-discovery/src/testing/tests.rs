//! Cases that pass, each way in which one can fail, and files that are refused.

use super::*;

const DOCUMENTS: &str = "
  inline: |
    apiVersion: v1
    kind: Service
    metadata: {name: cart, namespace: shop}
    spec: {ports: [{name: http, port: 80, appProtocol: http}]}
    ---
    apiVersion: v1
    kind: Service
    metadata: {name: next, namespace: shop}
    spec: {ports: [{name: http, port: 80, appProtocol: http}]}
    ---
    apiVersion: discovery.k8s.io/v1
    kind: EndpointSlice
    metadata:
      name: cart-1
      namespace: shop
      labels: {kubernetes.io/service-name: cart, app: cart}
      annotations: {inmesh.dev/ids: spiffe://td.test/ns/shop/sa/cart}
    addressType: IPv4
    ports: [{name: http, port: 8443}]
    endpoints: [{addresses: [10.0.0.1]}]
    ---
    apiVersion: discovery.k8s.io/v1
    kind: EndpointSlice
    metadata:
      name: next-1
      namespace: shop
      labels: {kubernetes.io/service-name: next}
      annotations: {inmesh.dev/transport: plain}
    addressType: FQDN
    ports: [{name: http, port: 80}]
    endpoints: [{addresses: [next.example]}]
    ---
    apiVersion: gateway.networking.k8s.io/v1
    kind: HTTPRoute
    metadata: {name: cart, namespace: shop}
    spec:
      parentRefs: [{group: '', kind: Service, name: cart}]
      rules:
      - matches: [{path: {type: PathPrefix, value: /items}}]
        backendRefs:
        - {name: cart, port: 80, weight: 9}
        - {name: next, port: 80, weight: 1}
        filters:
        - type: RequestHeaderModifier
          requestHeaderModifier: {set: [{name: x-tier, value: gold}], remove: [x-debug]}
        - type: ResponseHeaderModifier
          responseHeaderModifier: {set: [{name: x-served, value: mesh}]}
    ---
    apiVersion: security.istio.io/v1
    kind: AuthorizationPolicy
    metadata: {name: reads, namespace: shop}
    spec:
      selector: {matchLabels: {app: cart}}
      rules:
      - from: [{source: {principals: [td.test/ns/shop/sa/web]}}]
        to: [{operation: {methods: [GET]}}]
";

fn file(cases: &str) -> String {
    format!("apiVersion: inmesh.dev/v1alpha1\nkind: Test\ndocuments:{DOCUMENTS}cases:\n{cases}")
}

/// One case with an expectation in flow style.
fn run(request: &str, expect: &str) -> Vec<String> {
    let case = format!(
        "- name: it\n  request: {request}\n  from: spiffe://td.test/ns/shop/sa/web\n  \
         headers: {{x-debug: a}}\n  expect: {expect}\n"
    );
    let suites = Suite::parse("t.yaml", &file(&case)).expect("it is read");
    let report = suites[0].run(|_| Err("no folder".into())).expect("it runs");
    assert_eq!(report.problems, [], "the documents are good");
    report.cases[0].failures.clone()
}

#[test]
fn what_comes_out_as_expected_passes() {
    let items = "GET http://cart.shop/items/1";
    for (request, expect) in [
        (
            items,
            "{verdict: sent, route: HTTPRoute/shop/cart, rule: 0, path: /items/1}",
        ),
        (items, "{backend: cart.shop}"),
        (items, "{backend: 'cart.shop:80', authority: cart.shop}"),
        (items, "{policy: AuthorizationPolicy/shop/reads}"),
        (items, "{headers: {x-tier: gold}, absentHeaders: [x-debug]}"),
        (items, "{responseHeaders: {x-served: mesh}}"),
        (items, "{shares: {cart.shop: 90, next.shop: 10}, within: 1}"),
        (
            "POST http://cart.shop/items",
            "{verdict: refused, status: 403, reason: denied}",
        ),
        (
            "GET http://cart.shop/other",
            "{verdict: refused, status: 404, reason: no-route}",
        ),
        // A name stands in for its addresses.
        (
            "GET http://next.shop/",
            "{verdict: sent, backend: next.shop}",
        ),
    ] {
        assert_eq!(run(request, expect), [""; 0], "{request} {expect}");
    }
}

#[test]
fn what_comes_out_otherwise_fails_with_both() {
    let items = "GET http://cart.shop/items/1";
    for (request, expect, wanted) in [
        (
            items,
            "{verdict: refused}",
            "verdict: expected refused, got sent to 10.0.0.1:8443",
        ),
        (
            "POST http://cart.shop/items",
            "{verdict: sent}",
            "verdict: expected sent, got refused (denied: no ALLOW policy matches)",
        ),
        (items, "{status: 403}", "status: expected 403, got nothing"),
        (items, "{rule: 1}", "rule: expected 1, got 0"),
        (
            items,
            "{backend: next.shop}",
            "backend: expected next.shop, got cart.shop:80",
        ),
        (
            items,
            "{backend: 'cart.shop:81'}",
            "backend: expected cart.shop:81, got cart.shop:80",
        ),
        (items, "{path: /v2}", "path: expected /v2, got /items/1"),
        (
            items,
            "{headers: {x-tier: silver}}",
            "header x-tier: expected silver, got gold",
        ),
        (
            items,
            "{headers: {x-none: a}}",
            "header x-none: expected a, got nothing",
        ),
        (
            items,
            "{absentHeaders: [x-tier]}",
            "header x-tier: expected to be absent",
        ),
        (
            items,
            "{responseHeaders: {x-served: us}}",
            "answer's header x-served: expected us, got mesh",
        ),
        (
            items,
            "{policy: AuthorizationPolicy/shop/x}",
            "policy: expected",
        ),
    ] {
        let failures = run(request, expect);
        assert_eq!(failures.len(), 1, "{expect}: {failures:?}");
        assert!(failures[0].starts_with(wanted), "{expect}: {failures:?}");
    }
    let shares = run(
        items,
        "{shares: {cart.shop: 50, gone.shop: 50}, draws: 1000}",
    );
    let of: Vec<_> = shares
        .iter()
        .map(|s| s.split(": ").nth(1).unwrap_or_default())
        .collect();
    assert_eq!(
        of,
        ["cart.shop:80", "next.shop:80", "gone.shop"],
        "{shares:?}"
    );
}

/// A case that says nothing that is compared would always pass.
#[test]
fn a_file_that_is_not_understood_is_refused_with_its_line() {
    let case = |more: &str| file(&format!("- name: a\n  request: GET http://cart/\n{more}"));
    let line = case("").lines().count() + 1;
    for (text, wanted) in [
        (
            case("  expect: {verdcit: sent}\n"),
            "cases[0].expect.verdcit: is not a known field",
        ),
        (case("  expect: {}\n"), "cases[0].expect: expects nothing"),
        (
            case("  expect: {verdict: yes}\n"),
            "cases[0].expect.verdict",
        ),
        (
            case("  expect: {status: 99}\n"),
            "cases[0].expect.status: 99 is not within",
        ),
        (
            case("  expect: {draws: 5, status: 200}\n"),
            "cases[0].expect.draws: is of shares",
        ),
        (
            case("  expect: {shares: {a: 101}}\n"),
            "cases[0].expect.shares[a]: 101 is not within",
        ),
        (
            case("  expect: {shares: {a: 1}, draws: 0}\n"),
            "cases[0].expect.draws: 0 is not within",
        ),
        (
            case("  form: a\n  expect: {rule: 1}\n"),
            "cases[0].form: is not a known field",
        ),
    ] {
        let problems = Suite::parse("t.yaml", &text).expect_err("it is refused");
        let said = problems[0].to_string();
        let wanted = format!("t.yaml:{line}: {wanted}");
        assert!(said.starts_with(&wanted), "{said}, not {wanted}");
    }
    for (text, wanted) in [
        ("a: 1", "is no document of kind Test"),
        ("", "holds no document"),
        (
            "{apiVersion: inmesh.dev/v1alpha1, kind: Test}",
            "documents: is missing",
        ),
        (
            "{apiVersion: inmesh.dev/v1alpha1, kind: Test, documents: {}, cases: []}",
            "needs one of folder and inline",
        ),
    ] {
        let problems = Suite::parse("t.yaml", text).expect_err("it is refused");
        let said = problems[0].to_string();
        assert!(said.contains(wanted), "{said}, not {wanted}");
    }
}

/// A `#[test]` of a user.
#[cfg(feature = "file")]
#[test]
fn a_file_with_a_folder_beside_it_runs() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    std::fs::create_dir(dir.path().join("deploy"))?;
    let service =
        "{apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {ports: [{port: 80}]}}";
    std::fs::write(dir.path().join("deploy/cart.yaml"), service)?;
    let cases =
        "{apiVersion: inmesh.dev/v1alpha1, kind: Test, documents: {folder: deploy}, cases: [
      {name: a, request: GET http://cart/, expect: {status: 503}},
      {name: b, request: GET http://cart/, expect: {status: 404}}]}";
    std::fs::write(dir.path().join("cases.yaml"), cases)?;
    let shop = inmesh_core::model::Namespace::new("shop")?;
    let report = run_file(dir.path().join("cases.yaml"), &Defaults::new(shop))?;
    assert_eq!(
        (report.cases.len(), report.failed(), report.is_good()),
        (2, 1, false)
    );
    assert!(
        report.to_string().ends_with("2 cases, 1 failed"),
        "{report}"
    );
    assert!(!Report::default().is_good(), "no case is no success");
    Ok(())
}
