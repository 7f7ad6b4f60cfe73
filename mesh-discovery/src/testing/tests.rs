//! Cases that pass, each way in which one can fail, and files that are refused.

use inmesh_core::authorize::DefaultAction;
use inmesh_core::explain::Question;
use inmesh_core::model::{Locality, Namespace, SourceId, Workload};
use inmesh_core::pki::id::TrustDomain;
use inmesh_core::snapshot::Settings;
use serde_json::json;

use super::*;
use crate::manifest::{Content, Folder};

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
        - type: RequestMirror
          requestMirror: {backendRef: {name: next, port: 80}}
        timeouts: {request: 2s}
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
        (items, "{copies: [next.shop], timeoutMillis: 2000}"),
        (items, "{copies: ['next.shop:80']}"),
        ("GET http://next.shop/", "{copies: []}"),
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
            "{copies: []}",
            "copies: expected [], got [next.shop:80]",
        ),
        (
            items,
            "{copies: [next.shop, cart.shop]}",
            "copies: expected [next.shop, cart.shop], got [next.shop:80]",
        ),
        (
            items,
            "{timeoutMillis: 1000}",
            "timeoutMillis: expected 1000, got 2000",
        ),
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
    let shop = Namespace::new("shop")?;
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

/// The documents above, changed.
fn world(change: impl Fn(&str) -> String) -> World {
    let text = documents(change);
    let defaults = Defaults::new(Namespace::new("default").expect("a name"));
    let world = World::from_documents([("t.yaml", &*text)], &defaults).expect("a workload");
    assert_eq!(world.problems(), [], "{text}");
    world
}

fn documents(change: impl Fn(&str) -> String) -> String {
    let (_, text) = DOCUMENTS
        .split_once("inline: |\n")
        .expect("they are inline");
    let lines = text
        .lines()
        .map(|line| line.strip_prefix("    ").unwrap_or(line));
    change(&lines.collect::<Vec<_>>().join("\n"))
}

/// A connection is led by the server that its handshake names, and a case may ask for one.
#[test]
fn opaque_connections_are_explained_by_the_server_that_they_name() {
    let edge = "
---
apiVersion: v1
kind: Service
metadata: {name: edge, namespace: shop}
spec: {ports: [{name: tls, port: 443}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: edge, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: edge}]
  hostnames: ['*.example.com']
  rules: [{backendRefs: [{name: edge, port: 443}]}]
";
    let world = world(|text| format!("{text}{edge}"));
    let asked = |sni: Option<&str>| {
        let question = Question::parse("tcp://edge.shop:443").expect("a connection");
        let question = match sni {
            Some(sni) => question.sni(sni).expect("a name"),
            None => question,
        };
        let again = Question::from_query(&question.to_query()).expect("a question");
        let (seen, other) = (world.ask(&question), world.ask(&again));
        assert_eq!(seen, other);
        let reason = seen.verdict.reason.clone().unwrap_or_default();
        let missed = seen.rules.iter().find_map(|rule| rule.missed.clone());
        (reason, seen.route.map(|route| route.object), missed)
    };
    let route = "TLSRoute/shop/edge".to_owned();
    let met = asked(Some("A.example.com"));
    assert_eq!(met, ("no-endpoint".into(), Some(route), None));
    for (sni, missed) in [
        (
            Some("example.com"),
            "the server named by the TLS handshake is not *.example.com",
        ),
        (
            Some(""),
            "the server named by the TLS handshake is not *.example.com",
        ),
        (None, "it is no TLS connection"),
    ] {
        let wanted = ("no-route".into(), None, Some(missed.to_owned()));
        assert_eq!(asked(sni), wanted, "{sni:?}");
    }
    // And a change of the route is found without a request that is given.
    let requests = Requests::of_documents(&[&world]);
    let asks = |sni: &str| requests.each().any(|(q, _)| q.to_query().contains(sni));
    assert!(asks("sni=any.example.com"));
}

/// What serves is what the document says, under its name.
#[test]
fn the_blocks_of_a_policy_are_explained_with_their_document() {
    let policy = "
---
apiVersion: inmesh.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: cart, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: cart}]
  loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 30s}}
  connectionPool: {http: {http2MaxRequests: 7}}
  outlierDetection: {minHealthPercent: 40}
  healthCheck: {http: {path: /healthz}}
";
    let world = world(|text| format!("{text}{policy}").replace("weight: 1}", "weight: 0}"));
    let question = Question::parse("GET http://cart.shop/items").expect("a request");
    let seen = world.ask(&question.from("spiffe://td.test/ns/shop/sa/web".parse().expect("an ID")));
    let shown = |name: &str| {
        let setting = seen.settings.iter().find(|setting| setting.name == name);
        let setting = setting.unwrap_or_else(|| panic!("{name}: {seen:#?}"));
        assert_eq!(setting.object.as_deref(), Some("TrafficPolicy/shop/cart"));
        setting.value.clone()
    };
    assert_eq!(shown("loadBalancer"), json!({"simple": "ROUND_ROBIN"}));
    assert_eq!(shown("warmup")["duration"], "30000ms");
    let limits = json!({
        "tcp": {"maxConnections": 8_192},
        "http": {
            "http2MaxRequests": 7, "maxRequestsPerEndpoint": 1_024, "http1MaxPendingRequests": 1_024,
        },
    });
    assert_eq!(shown("connectionPool"), limits);
    assert_eq!(shown("outlierDetection")["minHealthPercent"], 40);
    let check = json!({
        "http": {"path": "/healthz", "expectedStatuses": [200]}, "interval": "10000ms",
        "timeout": "2000ms", "unhealthyThreshold": 3, "healthyThreshold": 1,
    });
    assert_eq!(shown("healthCheck"), check);
}

/// A name that is found out once it is asked for has an address that stands for it.
#[test]
fn a_host_outside_the_mesh_is_explained_by_its_own_name() {
    let entry = "
---
apiVersion: inmesh.dev/v1alpha1
kind: ServiceEntry
metadata: {name: out, namespace: shop, annotations: {inmesh.dev/transport: plain}}
spec:
  hosts: ['*.example.com']
  resolution: DYNAMIC_DNS
  ports: [{number: 80, name: http, protocol: HTTP}]
";
    let world = world(|text| format!("{text}{entry}"));
    for (url, reason) in [
        ("http://a.example.com/", None),
        ("http://example.com/", Some("unknown-host")),
        ("http://a.example.com:81/", Some("no-route")),
    ] {
        let seen = world.ask(&Question::parse(&format!("GET {url}")).expect("a request"));
        assert_eq!(seen.verdict.reason.as_deref(), reason, "{url}: {seen:#?}");
        let to = seen.backend.map(|backend| backend.service);
        assert_eq!(
            to.as_deref(),
            reason.is_none().then_some("out.shop"),
            "{url}"
        );
    }
}

/// A host that no root vouches for is not reached in an explanation either.
#[test]
fn tls_to_an_outside_host_is_explained_with_its_policy() {
    let policy = "
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: next, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: next}]
  validation: {hostname: next.example, CA}
";
    for (ca, reason) in [
        ("wellKnownCACertificates: System", None),
        (
            "caCertificateRefs: [{group: '', kind: ConfigMap, name: a}]",
            Some("tls-failed"),
        ),
        ("wellKnownCACertificates: Mine", Some("tls-failed")),
    ] {
        let policy = policy.replace("CA", ca);
        let text = documents(|text| format!("{text}{policy}"));
        let namespace = Namespace::new("default").expect("a name");
        let defaults = Defaults::new(namespace);
        let world = World::from_documents([("t.yaml", &*text)], &defaults).expect("a workload");
        assert_eq!(world.problems().is_empty(), reason.is_none(), "{ca}");
        let seen = world.ask(&Question::parse("GET http://next.shop/").expect("a request"));
        assert_eq!(seen.verdict.reason.as_deref(), reason, "{ca}: {seen:#?}");
        assert_eq!(seen.endpoints[0].transport, "tls", "{ca}");
        let tls = seen.settings.iter().find(|setting| setting.name == "tls");
        let object = tls.and_then(|tls| tls.object.as_deref());
        assert_eq!(object, Some("BackendTLSPolicy/shop/next"), "{ca}");
    }
}

/// Near endpoints are preferred as the Service says, from where the process is.
#[test]
fn what_is_near_is_explained() {
    let near = |text: &str| {
        let endpoints =
            "endpoints: [{addresses: [10.0.0.1], zone: a}, {addresses: [10.0.0.2], zone: b}]";
        let text = text.replace("endpoints: [{addresses: [10.0.0.1]}]", endpoints);
        let service = "spec: {ports: [{name: http, port: 80, appProtocol: http}]}";
        let says = service.replace("]}", "], trafficDistribution: PreferSameZone}");
        text.replacen(service, &says, 1)
            .replace("weight: 1}", "weight: 0}")
    };
    let documents = documents(near);
    let defaults = Defaults::new(Namespace::new("default").expect("a name"));
    let mut folder = Folder::new(SourceId::new("documents"), defaults);
    let merged = folder.merge([("t.yaml".into(), Content::Text(documents.into()))]);
    let web = Workload::new("shop", "web", "web").expect("a workload");
    let mut settings = Settings::new(web, DefaultAction::Deny);
    settings.locality = Locality::default().in_zone("b");
    let seen = World::new(&merged, settings)
        .ask(&Question::parse("GET http://cart.shop/items").expect("a request"));
    let near = seen
        .endpoints
        .iter()
        .map(|e| (e.near.as_deref(), e.permille, e.taken));
    let wanted = [
        (Some("elsewhere"), Some(0), false),
        (Some("zone"), Some(1_000), true),
    ];
    assert_eq!(near.collect::<Vec<_>>(), wanted, "{seen:#?}");
    let setting = seen
        .settings
        .iter()
        .find(|setting| setting.name == "locality")
        .expect("a setting");
    assert_eq!(setting.object.as_deref(), Some("Service/shop/cart"));
    let labels = [
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    ];
    assert_eq!(
        setting.value,
        json!({"localityLbSetting": {"failoverPriority": labels}})
    );
}

/// A route leads to a subset as to any Service.
#[test]
fn a_route_leads_to_a_subset() {
    let subset = "
---
apiVersion: v1
kind: Service
metadata: {name: carts, namespace: shop, annotations: {inmesh.dev/subset-of: cart}}
spec: {selector: {app: cart}, ports: [{name: http, port: 80, appProtocol: http}]}
";
    let world = world(|text| {
        let text = text.replace("port: 80, weight: 9}", "port: 80, weight: 0}");
        let text = text.replace("{name: next, port: 80", "{name: carts, port: 80");
        format!("{text}{subset}")
    });
    let question = Question::parse("GET http://cart.shop/items").expect("a request");
    let web = "spiffe://td.test/ns/shop/sa/web".parse().expect("an ID");
    let seen = world.ask(&question.from(web));
    let backend = seen.backend.as_ref().map(|backend| &*backend.service);
    assert_eq!(backend, Some("carts.shop"), "{seen:#?}");
    let taken = seen.endpoints.iter().find(|endpoint| endpoint.taken);
    assert_eq!(
        taken.map(|endpoint| &*endpoint.address),
        Some("10.0.0.1:8443")
    );
}

/// What documents speak of meets each kind of change to them.
#[test]
fn a_change_is_found_without_a_request_that_is_given() {
    let before = world(str::to_owned);
    for (from, to, verdict, aspect) in [
        ("x", "x", false, None),
        ("weight: 9", "weight: 8", false, Some("backends")),
        ("value: gold", "value: silver", false, Some("sent as")),
        ("value: mesh", "value: net", false, Some("answer's header")),
        ("methods: [GET]", "methods: [POST]", true, Some("verdict")),
        ("sa/web]}}]", "sa/other]}}]", true, Some("verdict")),
        ("value: /items", "value: /goods", true, Some("verdict")),
        // A tenth of them would meet a port that is not there.
        (
            "{name: next, port: 80, weight: 1}",
            "{name: next, port: 81, weight: 1}",
            true,
            None,
        ),
    ] {
        // A port that does not exist is warned of.
        let after = match to.contains("81") {
            false => world(|text| text.replace(from, to)),
            true => {
                let (_, text) = DOCUMENTS
                    .split_once("inline: |\n")
                    .expect("they are inline");
                let text = text.lines().map(|l| l.strip_prefix("    ").unwrap_or(l));
                let text = text.collect::<Vec<_>>().join("\n").replace(from, to);
                let own = Namespace::new("default").expect("a name");
                World::from_documents([("t.yaml", &*text)], &Defaults::new(own))
                    .expect("it is read")
            }
        };
        let requests = Requests::of_documents(&[&before, &after]);
        let diff = diff(&before, &after, &requests);
        assert_eq!(
            diff.changes_verdicts(),
            verdict,
            "{to}: {:#?}",
            diff.changes
        );
        assert_eq!(diff.changes.is_empty(), from == to, "{to}");
        if let Some(aspect) = aspect {
            let mut changed = diff.changes.iter().flat_map(|c| &c.aspects);
            assert!(
                changed.any(|(name, ..)| *name == aspect),
                "{to}: {:#?}",
                diff.changes
            );
        }
    }
}

/// A key leads to one part of a split, in a case as in a diff.
#[test]
fn a_user_who_stays_is_tested_and_compared() {
    let policy = "
---
apiVersion: inmesh.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: stay, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: cart}]
  trafficSplit: {consistentHash: {httpHeaderName: x-user}}
";
    let with = |v1: u32, v2: u32| {
        documents(move |text| {
            let text = text.replace("weight: 1}", &format!("weight: {v2}}}"));
            let text = text.replace("weight: 9}", &format!("weight: {v1}}}"));
            format!("{text}{policy}")
        })
    };
    let suite = |documents: &str, user: &str, to: &str| {
        let inline: String = documents.lines().map(|l| format!("    {l}\n")).collect();
        format!(
            "apiVersion: inmesh.dev/v1alpha1\nkind: Test\ndocuments:\n  inline: |\n{inline}cases:\n\
             - name: it\n  request: GET http://cart.shop/items\n  \
             from: spiffe://td.test/ns/shop/sa/web\n  headers: {{x-user: {user}}}\n  \
             expect: {{shares: {{{to}: 100}}, within: 1}}\n"
        )
    };
    let even = with(5, 5);
    let mut met = [0; 2];
    for user in 0..20 {
        for (n, to) in ["cart.shop", "next.shop"].into_iter().enumerate() {
            let suites = Suite::parse("t.yaml", &suite(&even, &format!("u{user}"), to));
            let report = suites.expect("it is read")[0].run(|_| Err("no folder".into()));
            let failures = &report.expect("it runs").cases[0].failures;
            met[n] += usize::from(failures.is_empty());
        }
    }
    assert!(met[0] > 0 && met[1] > 0 && met[0] + met[1] == 20, "{met:?}");
    let requests = suite(&even, "u1", "cart.shop");
    let requests = Requests::parse("t.yaml", &requests, None).expect("it is read");
    let world = |documents: &str| {
        let own = Namespace::new("default").expect("a name");
        World::from_documents([("t.yaml", documents)], &Defaults::new(own)).expect("it is read")
    };
    let diff = diff(&world(&with(1, 0)), &world(&with(0, 1)), &requests);
    let aspects: Vec<_> = diff.changes.iter().flat_map(|c| &c.aspects).collect();
    let kept = aspects.iter().find(|(name, ..)| *name == "kept at");
    let (_, before, after) = kept.expect("it moves");
    assert_eq!(
        (&**before, &**after),
        (
            "cart.shop:80 by header x-user",
            "next.shop:80 by header x-user"
        )
    );
}

#[test]
fn a_log_is_read_line_by_line() {
    let own = "td.test".parse().expect("a trust domain");
    let line = |direction: &str, more: &str| {
        format!(
            r#"{{"timestamp":"t","direction":"{direction}","workload":"shop/web","method":"GET","authority":"cart","path":"/a"{more}}}"#
        )
    };
    let peer = r#","tls_peer":"spiffe://td.test/ns/shop/sa/other""#;
    for (direction, more, caller) in [
        ("inbound", peer, Some("spiffe://td.test/ns/shop/sa/other")),
        ("inbound", r#","tls_peer":null"#, None),
        ("outbound", peer, Some("spiffe://td.test/ns/shop/sa/web")),
        (
            "outbound",
            r#","tls_peer":null"#,
            Some("spiffe://td.test/ns/shop/sa/web"),
        ),
    ] {
        let requests = Requests::parse("log", &line(direction, more), Some(&own));
        let requests = requests.expect("it is read");
        let (question, count) = requests.each().next().expect("one");
        assert_eq!((question.line().as_str(), count), ("GET http://cart/a", 1));
        let from = question.caller().map(ToString::to_string);
        assert_eq!(from.as_deref(), caller, "{direction} {more}");
    }
    let text = format!("{}\nno JSON\n", line("inbound", ""));
    let error = Requests::parse("log", &text, None).expect_err("it is refused");
    assert!(error.starts_with("log:2: "), "{error}");
}

/// The identities that endpoints have say nothing of the caller: all may be a partner's.
#[test]
fn the_trust_domain_of_the_caller_is_said_and_not_guessed() {
    let permits = DOCUMENTS.replace("principals: [td.test/ns/shop/sa/web]", "namespaces: [shop]");
    let file = |own: &str| {
        format!(
            "apiVersion: inmesh.dev/v1alpha1\nkind: Test\ndocuments:{own}\n  namespace: shop{permits}cases:\n\
             - {{name: it, request: GET http://cart.shop:80/items, expect: {{verdict: sent}}}}\n\
             - {{name: route, request: GET http://cart.shop/items, expect: {{rule: 0}}}}\n"
        )
        .replace("weight: 1}", "weight: 0}")
    };
    let failures = |own: &str| -> Vec<Vec<String>> {
        let suites = Suite::parse("t.yaml", &file(own)).expect("it is read");
        let report = suites[0].run(|_| Err("no folder".into())).expect("it runs");
        report.cases.into_iter().map(|case| case.failures).collect()
    };
    let unknown = failures("");
    let said = "from: the caller's trust domain is not known";
    assert!(
        unknown[0].iter().any(|line| line.starts_with(said)),
        "{unknown:?}"
    );
    assert_eq!(unknown[1], [""; 0], "where it goes is asked alone");
    assert_eq!(failures("\n  trustDomain: td.test"), [[""; 0]; 2]);
    let other = failures("\n  trustDomain: partner.test");
    assert!(
        other[0][0].starts_with("verdict: expected sent, got refused"),
        "{other:?}"
    );

    let defaults = Defaults::new(Namespace::new("shop").expect("a name"));
    let world = World::from_documents([], &defaults).expect("a workload");
    assert!(world.trust_domain().is_err() && world.identity().is_none());
    let [own, other] = ["td.test", "other.test"].map(|td| td.parse::<TrustDomain>().expect("one"));
    let world = world.of_trust_domain(Ok(own.clone()));
    assert!(world.clone().said_to_be_of(&other).is_err());
    let world = world.said_to_be_of(&own).expect("it is the same");
    assert_eq!(
        world.identity().map(|id| id.to_string()).as_deref(),
        Some("spiffe://td.test/ns/shop/sa/default")
    );
}

/// A name is connected to at the port that its document says, and a changed one is a difference.
#[test]
fn a_name_has_the_port_that_its_document_says() {
    let file = |port: u16| {
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: ext, namespace: shop, annotations: {{inmesh.dev/transport: plain}}}}
spec: {{type: ExternalName, externalName: db.example, ports: [{{port: {port}, appProtocol: http}}]}}
---
apiVersion: inmesh.dev/v1alpha1
kind: ServiceEntry
metadata: {{name: pay, namespace: shop, annotations: {{inmesh.dev/transport: plain}}}}
spec:
  hosts: [pay.example]
  resolution: DNS
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}]
---
apiVersion: inmesh.dev/v1alpha1
kind: ServiceEntry
metadata: {{name: any, namespace: shop, annotations: {{inmesh.dev/transport: plain}}}}
spec:
  hosts: ['*.any.example']
  resolution: DYNAMIC_DNS
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}]
"
        )
    };
    let defaults = Defaults::new(Namespace::new("shop").expect("a name"));
    let [old, new] = [8080, 9090].map(|port| {
        World::from_documents([("t.yaml", &*file(port))], &defaults).expect("a workload")
    });
    for at in ["ext:8080", "pay.example", "x.any.example"] {
        let question = Question::parse(&format!("GET http://{at}/")).expect("a request");
        let to = old.ask(&question).verdict.endpoint.expect("it is sent");
        assert!(to.ends_with(":8080"), "{at}: {to}");
    }
    let cases = "apiVersion: inmesh.dev/v1alpha1\nkind: Test\ndocuments: {folder: x}\ncases:\n\
                 - {name: a, request: GET http://pay.example/, expect: {verdict: sent}}\n";
    let requests = Requests::parse("cases.yaml", cases, None).expect("they are read");
    let aspects = &diff(&old, &new, &requests).changes[0].aspects;
    assert_eq!(
        aspects[..],
        [("endpoint ports", "8080".to_owned(), "9090".to_owned())]
    );
}

/// An agent that runs keeps the last good version of what an edit breaks, and a gate is not passed.
#[test]
fn a_refused_edit_is_a_difference_and_the_last_good_version_serves() {
    let text = DOCUMENTS.replace("\n    ", "\n").replace("  inline: |", "");
    let shop = Namespace::new("shop").expect("a name");
    let defaults = Defaults::new(shop.clone());
    let caller = Workload::new("shop", "caller", "default").expect("names");
    let settings = Settings::new(caller, DefaultAction::Deny);
    let worlds = |edit: &dyn Fn(&str) -> String| {
        let mut folder = Folder::new(SourceId::new("documents"), defaults.clone());
        let mut merge = |text: &str| folder.merge([("t.yaml".into(), Content::Text(text.into()))]);
        let (before, after) = (merge(&text), merge(&edit(&text)));
        let old = World::new(&before, settings.clone());
        (old, World::edited(&before, &after, settings.clone()))
    };
    let compare = |edit: &dyn Fn(&str) -> String| {
        let (old, new) = worlds(edit);
        diff(&old, &new, &Requests::of_documents(&[&old, &new]))
    };
    for (from, to, object) in [
        ("weight: 9}", "weight: nine}", "HTTPRoute/shop/cart"),
        (
            "methods: [GET]",
            "methods: [get]",
            "AuthorizationPolicy/shop/reads",
        ),
        ("kind: HTTPRoute", "kind: [", "File/shop/"),
    ] {
        let diff = compare(&|text| text.replace(from, to));
        assert_eq!(diff.changes, [], "{to}: the last good version serves");
        let [refused] = &diff.refused[..] else {
            panic!("{to}: {:?}", diff.refused);
        };
        assert!(refused.object.starts_with(object), "{to}: {refused}");
        assert!(refused.last_good && !diff.passes(), "{to}: {refused}");
        assert!(refused.problem.location.is_some(), "{to}: {refused}");
    }
    // One that never was good has no last good version.
    let broken = "\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: new}\nspec: {parentRefs: [{group: '', kind: Service, name: cart}], rules: 1}\n";
    let new = compare(&|text| format!("{text}{broken}"));
    assert!(
        !new.refused.is_empty() && !new.refused[0].last_good,
        "{:?}",
        new.refused
    );
    let same = compare(&|text| text.to_owned());
    assert!(
        same.passes() && same.changes.is_empty() && same.refused.is_empty(),
        "{same:?}"
    );
}
