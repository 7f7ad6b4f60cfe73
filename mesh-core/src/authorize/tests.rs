//! The rules of evaluation, one table for each.

use std::sync::Arc;

use http::{HeaderMap, Method};
use proptest::prelude::*;

use super::*;
use crate::identify::Peer;
use crate::model::{Kind, Namespace, ObjectKey};

type Result = std::result::Result<(), Box<dyn std::error::Error>>;

fn key(name: &str) -> ObjectKey {
    let namespace = Namespace::new("shop").unwrap();
    ObjectKey::new(Kind::AuthorizationPolicy, &namespace, name).unwrap()
}

fn peer(id: &str) -> Peer {
    Peer::Verified(format!("spiffe://{id}").parse().unwrap())
}

fn web() -> Peer {
    peer("example.org/ns/shop/sa/web")
}

fn policy(name: &str, action: Action, rules: Vec<PolicyRule>) -> Arc<Policy> {
    Arc::new(Policy::new(key(name), action, rules))
}

fn principals(ids: &[&str]) -> PolicyRule {
    PolicyRule::new(
        vec![PolicySource::builder().principals(ids).build().unwrap()],
        vec![],
    )
}

fn paths(paths: &[&str]) -> PolicyRule {
    PolicyRule::new(
        vec![],
        vec![Operation::builder().paths(paths).build().unwrap()],
    )
}

fn compile(default: DefaultAction, policies: &[&Arc<Policy>]) -> WorkloadPolicy {
    let policies = policies.iter().map(|p| Arc::clone(p));
    WorkloadPolicy::compile(default, policies, vec![])
}

/// `permit`, or the name of the denial.
fn ask(policy: &WorkloadPolicy, peer: &Peer, method: &Method, path: &str) -> &'static str {
    let headers = HeaderMap::new();
    let view = RequestView::Http(HttpView::new(method, path, None, &headers));
    name(decide(policy, peer, &view, &mut ()))
}

fn ask_tcp(policy: &WorkloadPolicy, peer: &Peer) -> &'static str {
    name(decide(policy, peer, &RequestView::Tcp, &mut ()))
}

fn name(verdict: Verdict) -> &'static str {
    verdict
        .permit()
        .map_or_else(|denied| denied.reason.as_str(), |_| "permit")
}

#[test]
fn the_default_decides_where_no_allow_policy_selects() {
    let (allow, deny) = (DefaultAction::Allow, DefaultAction::Deny);
    let elsewhere = policy("d", Action::Deny, vec![paths(&["/admin"])]);
    for (default, policies, expected) in [
        (allow, &[][..], "permit"),
        (deny, &[], "default-deny"),
        (allow, &[&elsewhere], "permit"),
        (deny, &[&elsewhere], "default-deny"),
    ] {
        let policy = compile(default, policies);
        assert_eq!(ask(&policy, &web(), &Method::GET, "/"), expected);
        assert_eq!(ask(&policy, &Peer::Local, &Method::GET, "/"), expected);
    }
}

#[test]
fn deny_comes_before_allow() {
    let all = policy("a", Action::Allow, vec![PolicyRule::default()]);
    let admin = policy("d", Action::Deny, vec![paths(&["/admin", "/admin/*"])]);
    let policy = compile(DefaultAction::Allow, &[&all, &admin]);
    for (path, expected) in [
        ("/admin", "deny-policy"),
        ("/admin/x", "deny-policy"),
        ("/administrator", "permit"),
        ("/", "permit"),
    ] {
        assert_eq!(ask(&policy, &web(), &Method::GET, path), expected, "{path}");
    }
    let denied = decide(&policy, &web(), &RequestView::Tcp, &mut ())
        .permit()
        .unwrap_err();
    assert_eq!(
        denied.policy,
        Some(key("d")),
        "an L7 rule denies opaque bytes"
    );
}

#[test]
fn an_allow_policy_closes_what_it_does_not_open() {
    let one = policy(
        "a",
        Action::Allow,
        vec![principals(&["example.org/ns/shop/sa/web"])],
    );
    let other = policy("b", Action::Allow, vec![paths(&["/public*"])]);
    let policy = compile(DefaultAction::Allow, &[&one, &other]);
    let stranger = peer("example.org/ns/shop/sa/other");
    for (peer, path, expected) in [
        (&web(), "/", "permit"),
        (&stranger, "/", "not-allowed"),
        (&stranger, "/public/x", "permit"),
        (&Peer::Unauthenticated, "/public", "permit"),
        (&Peer::Unauthenticated, "/", "not-allowed"),
    ] {
        assert_eq!(
            ask(&policy, peer, &Method::GET, path),
            expected,
            "{peer:?} {path}"
        );
    }
}

#[test]
fn no_rules_match_nothing_and_an_empty_rule_matches_all() {
    for (action, rules, expected) in [
        (Action::Allow, vec![], "not-allowed"),
        (Action::Allow, vec![PolicyRule::default()], "permit"),
        (Action::Deny, vec![], "permit"),
        (Action::Deny, vec![PolicyRule::default()], "deny-policy"),
    ] {
        let policy = compile(DefaultAction::Allow, &[&policy("p", action.clone(), rules)]);
        for peer in [web(), Peer::Unauthenticated] {
            assert_eq!(
                ask(&policy, &peer, &Method::GET, "/"),
                expected,
                "{action:?}"
            );
            assert_eq!(ask_tcp(&policy, &peer), expected, "{action:?}");
        }
    }
}

/// An absent identity counts against the request, whichever way the rule is put (ISTIO-2021-004).
#[test]
fn an_absent_identity_never_allows_and_always_denies() {
    let sources = [
        PolicySource::builder()
            .principals(["example.org/ns/shop/sa/web"])
            .build()
            .unwrap(),
        PolicySource::builder()
            .not_principals(["example.org/ns/shop/sa/web"])
            .build()
            .unwrap(),
        PolicySource::builder()
            .namespaces(["shop"])
            .build()
            .unwrap(),
        PolicySource::builder()
            .not_namespaces(["foo"])
            .build()
            .unwrap(),
        PolicySource::builder().principals(["*"]).build().unwrap(),
    ];
    for source in sources {
        let rule = PolicyRule::new(vec![source], vec![]);
        let allow = policy("p", Action::Allow, vec![rule.clone()]);
        let deny = policy("p", Action::Deny, vec![rule.clone()]);
        let stranger = Peer::Unauthenticated;
        let allowed = compile(DefaultAction::Allow, &[&allow]);
        let denied = compile(DefaultAction::Allow, &[&deny]);
        for (policy, expected) in [(&allowed, "not-allowed"), (&denied, "deny-policy")] {
            assert_eq!(
                ask(policy, &stranger, &Method::GET, "/"),
                expected,
                "{rule:?}"
            );
            assert_eq!(ask_tcp(policy, &stranger), expected, "{rule:?}");
        }
    }
}

#[test]
fn an_id_of_another_shape_has_no_namespace() {
    let rule = |not: bool| {
        let (yes, no): (&[&str], &[&str]) = if not {
            (&[], &["foo"])
        } else {
            (&["foo"], &[])
        };
        PolicyRule::new(
            vec![
                PolicySource::builder()
                    .namespaces(yes)
                    .not_namespaces(no)
                    .build()
                    .unwrap(),
            ],
            vec![],
        )
    };
    let odd = peer("example.org/machine/7");
    for not in [false, true] {
        let allow = compile(
            DefaultAction::Allow,
            &[&policy("p", Action::Allow, vec![rule(not)])],
        );
        let deny = compile(
            DefaultAction::Allow,
            &[&policy("p", Action::Deny, vec![rule(not)])],
        );
        assert_eq!(ask_tcp(&allow, &odd), "not-allowed");
        assert_eq!(ask_tcp(&deny, &odd), "deny-policy");
    }
}

#[test]
fn a_rule_on_http_counts_against_an_opaque_connection() {
    let operations = [
        Operation::builder().methods(["GET"]).build().unwrap(),
        Operation::builder().not_methods(["POST"]).build().unwrap(),
        Operation::builder().paths(["/a"]).build().unwrap(),
        Operation::builder().not_paths(["/a"]).build().unwrap(),
    ];
    for operation in operations {
        let rule = PolicyRule::new(vec![], vec![operation]);
        let allow = compile(
            DefaultAction::Allow,
            &[&policy("p", Action::Allow, vec![rule.clone()])],
        );
        let deny = compile(
            DefaultAction::Allow,
            &[&policy("p", Action::Deny, vec![rule])],
        );
        assert_eq!(ask_tcp(&allow, &web()), "not-allowed");
        assert_eq!(ask_tcp(&deny, &web()), "deny-policy");
    }
    // A rule that also asks for another caller is known not to match.
    let mut rule = principals(&["example.org/ns/shop/sa/other"]);
    rule.to = paths(&["/a"]).to;
    let deny = compile(
        DefaultAction::Allow,
        &[&policy("p", Action::Deny, vec![rule])],
    );
    assert_eq!(ask_tcp(&deny, &web()), "permit");
}

#[test]
fn all_fields_of_a_rule_must_match_and_one_of_each_list() {
    let source = PolicySource::builder()
        .principals(["*/sa/web", "*/sa/api"])
        .not_principals(["bad.org/*"])
        .namespaces(["shop"])
        .build()
        .unwrap();
    let operation = Operation::builder()
        .methods(["GET", "HEAD"])
        .paths(["/a*"])
        .not_paths(["/a/private"])
        .build()
        .unwrap();
    let rule = PolicyRule::new(vec![source], vec![operation]);
    let policy = compile(
        DefaultAction::Deny,
        &[&policy("p", Action::Allow, vec![rule])],
    );
    for (id, method, path, expected) in [
        ("example.org/ns/shop/sa/web", Method::GET, "/a", "permit"),
        ("example.org/ns/shop/sa/api", Method::HEAD, "/a/b", "permit"),
        (
            "example.org/ns/shop/sa/other",
            Method::GET,
            "/a",
            "not-allowed",
        ),
        (
            "example.org/ns/bank/sa/web",
            Method::GET,
            "/a",
            "not-allowed",
        ),
        ("bad.org/ns/shop/sa/web", Method::GET, "/a", "not-allowed"),
        (
            "example.org/ns/shop/sa/web",
            Method::POST,
            "/a",
            "not-allowed",
        ),
        (
            "example.org/ns/shop/sa/web",
            Method::GET,
            "/b",
            "not-allowed",
        ),
        (
            "example.org/ns/shop/sa/web",
            Method::GET,
            "/a/private",
            "not-allowed",
        ),
    ] {
        assert_eq!(
            ask(&policy, &peer(id), &method, path),
            expected,
            "{id} {method} {path}"
        );
    }
}

#[test]
fn a_policy_that_was_never_good_denies_all() {
    let all = policy("a", Action::Allow, vec![PolicyRule::default()]);
    let policy = WorkloadPolicy::compile(DefaultAction::Allow, [all], vec![key("broken")]);
    assert_eq!(ask(&policy, &web(), &Method::GET, "/"), "broken-policy");
    let denied = decide(&policy, &web(), &RequestView::Tcp, &mut ())
        .permit()
        .unwrap_err();
    assert_eq!(denied.policy, Some(key("broken")));
}

/// The trace sees the rules that lost, in the order of evaluation.
#[test]
fn a_trace_sees_each_policy_that_was_asked() {
    struct Seen(Vec<(String, Option<usize>)>);
    impl Trace for Seen {
        fn saw(&mut self, step: Step<'_>) {
            if let Step::Policy { policy, rule } = step {
                self.0.push((policy.key.name.to_string(), rule));
            }
        }
    }
    let deny = policy("d", Action::Deny, vec![paths(&["/admin"])]);
    let b = policy(
        "b",
        Action::Allow,
        vec![paths(&["/x"]), PolicyRule::default()],
    );
    let a = policy("a", Action::Allow, vec![paths(&["/y"])]);
    let policy = compile(DefaultAction::Deny, &[&b, &a, &deny]);
    let mut seen = Seen(Vec::new());
    let headers = HeaderMap::new();
    let view = RequestView::Http(HttpView::new(&Method::GET, "/", None, &headers));
    let permit = decide(&policy, &web(), &view, &mut seen).permit().unwrap();
    assert_eq!(*permit.reason(), PermitReason::Policy(b));
    let expected = [("d", None), ("a", None), ("b", Some(1))];
    assert_eq!(seen.0, expected.map(|(name, rule)| (name.to_owned(), rule)));
}

#[test]
fn a_pattern_is_exact_prefix_suffix_or_any() -> Result {
    for (text, matching, other) in [
        ("*", &["x", "/"][..], &[""][..]),
        ("/a", &["/a"], &["/a/", "/A", "/ab", ""]),
        ("/a*", &["/a", "/a/b", "/ab"], &["/b", "b/a"]),
        ("*/a", &["/a", "/b/a"], &["/a/", "a"]),
        // A principal is never a regular expression (CVE-2026-39350).
        ("td/ns/x/sa/a.b", &["td/ns/x/sa/a.b"], &["td/ns/x/sa/aXb"]),
    ] {
        let pattern = Pattern::new("f", text)?;
        for m in matching {
            assert!(pattern.matches(m), "{text} {m}");
        }
        for o in other {
            assert!(!pattern.matches(o), "{text} {o}");
        }
        assert_eq!(pattern.to_string(), text);
    }
    for text in ["", "a*b", "*a*", "**", "a**", "***"] {
        assert!(Pattern::new("f", text).is_err(), "{text:?}");
    }
    Ok(())
}

#[test]
fn what_could_never_match_is_refused() {
    for (principals, namespaces) in [
        (&["spiffe://td/ns/a/sa/b"][..], &[][..]),
        (&[""], &[]),
        (&["td"], &[]),
        (&["td/"], &[]),
        (&["td/ns/a/"], &[]),
        (&["td//ns"], &[]),
        (&["td/ns/../sa/b"], &[]),
        (&["td/ns/a b"], &[]),
        (&["TD/ns/a"], &[]),
        (&["/ns/a/sa/b"], &[]),
        (&["ns/a/sa/b"], &[]),
        (&["ns/a/*"], &[]),
        (&["*/"], &[]),
        (&["*//a"], &[]),
        (&["*/sa/b/"], &[]),
        // These also mean other trust domains.
        (&["lab.test*"], &[]),
        (&["*test/ns/a/sa/b"], &[]),
        (&[], &["a*b"]),
        (&[], &["Shop"]),
        (&[], &["shop/x"]),
        (&[], &["-a"]),
        (&[], &["a_*"]),
        (&[], &["*-"]),
        (&[], &[]),
    ] {
        assert!(
            PolicySource::builder()
                .principals(principals)
                .namespaces(namespaces)
                .build()
                .is_err()
        );
        assert!(
            PolicySource::builder()
                .not_principals(principals)
                .not_namespaces(namespaces)
                .build()
                .is_err()
        );
    }
    for domain in [
        "td.test*",
        "td*",
        "*td.test",
        "*test",
        "spiffe://td.test",
        "TD",
        "*-",
        "a/*",
    ] {
        let built = PolicySource::builder().trust_domains([domain]).build();
        assert!(built.is_err(), "{domain}");
        let built = PolicySource::builder().not_trust_domains([domain]).build();
        assert!(built.is_err(), "{domain}");
    }
    let wide = PolicySource::builder()
        .trust_domains(["td.test*"])
        .build()
        .unwrap_err();
    assert!(wide.message.contains("td.test.other"), "{}", wide.message);
    for domain in ["td.test", "*.test", "*"] {
        assert!(
            PolicySource::builder()
                .trust_domains([domain])
                .build()
                .is_ok(),
            "{domain}"
        );
    }
    for (methods, paths) in [
        (&["get"][..], &[][..]),
        (&[""], &[]),
        (&["G ET"], &[]),
        (&["GET,POST"], &[]),
        (&["GET/"], &[]),
        (&["É"], &[]),
        (&["P OST*"], &[]),
        (&[], &["admin"]),
        (&[], &["/{id}"]),
        (&[], &["//admin"]),
        (&[], &["/admin//*"]),
        (&[], &["*//x"]),
        (&[], &["/a/./b"]),
        (&[], &["/a/../b"]),
        (&[], &["/.."]),
        (&[], &["/a/%2e%2e/b*"]),
        (&[], &["*/.."]),
        (&[], &["/%61dmin"]),
        (&[], &["/a%7Eb*"]),
        (&[], &["/a?b"]),
        (&[], &["/a#b"]),
        (&[], &["*?b"]),
        (&[], &["/a\\b"]),
        (&[], &["/a%"]),
        (&[], &["/a%2*"]),
        (&[], &["/a%00"]),
        (&[], &[]),
    ] {
        assert!(
            Operation::builder()
                .methods(methods)
                .paths(paths)
                .build()
                .is_err()
        );
        assert!(
            Operation::builder()
                .not_methods(methods)
                .not_paths(paths)
                .build()
                .is_err()
        );
    }
}

/// The other side of the table above.
#[test]
fn what_can_match_is_taken() -> Result {
    for principal in [
        "td/ns/a/sa/b",
        "td/*",
        "td/ns/a*",
        "*/sa/b",
        "*.td/ns/a/sa/b",
        "*b",
        "*",
    ] {
        PolicySource::builder().principals([principal]).build()?;
    }
    for namespace in ["shop", "shop-*", "*-shop", "*"] {
        PolicySource::builder().namespaces([namespace]).build()?;
    }
    for method in ["GET", "M-SEARCH", "PRO*", "*PATCH", "*"] {
        Operation::builder().methods([method]).build()?;
    }
    for path in [
        "/",
        "/a/",
        "/.*",
        "/..*",
        "*.",
        "*..",
        "/a/.well-known",
        "*/",
        "/a%2Fb",
        "/a b",
    ] {
        Operation::builder().paths([path]).build()?;
    }
    Ok(())
}

/// Namespaces are those of the workload's own trust domain (a partner has a namespace `shop` too).
#[test]
fn a_foreign_peer_has_no_namespace_here() {
    let own = "example.org".parse().unwrap();
    let source = PolicySource::builder;
    let partner: inmesh_pki::id::SpiffeId = "spiffe://partner.test/ns/shop/sa/web".parse().unwrap();
    // The source, whether an ALLOW permits our `shop/web`, whether the partner's; and a DENY.
    for (source, ours, theirs, left, theirs_left) in [
        (source().namespaces(["shop"]), true, false, false, false),
        (source().namespaces(["*"]), true, false, false, false),
        (source().namespaces(["bank"]), false, false, true, false),
        (source().not_namespaces(["bank"]), true, false, false, false),
        (source().not_namespaces(["shop"]), false, false, true, false),
        (
            source().trust_domains(["example.org"]),
            true,
            false,
            false,
            true,
        ),
        (
            source().trust_domains(["partner.test"]),
            false,
            true,
            true,
            false,
        ),
        (source().trust_domains(["*.test"]), false, true, true, false),
        (
            source().not_trust_domains(["partner.test"]),
            true,
            false,
            false,
            true,
        ),
        (
            source().principals(["partner.test/*"]),
            false,
            true,
            true,
            false,
        ),
        (source().principals(["*"]), true, true, false, false),
        (
            source()
                .namespaces(["shop"])
                .trust_domains(["partner.test"]),
            false,
            false,
            true,
            false,
        ),
    ] {
        let rule = PolicyRule::new(vec![source.build().unwrap()], vec![]);
        let decide = |action: Action, peer: &Peer, own: Option<_>| {
            let policy = compile(
                DefaultAction::Allow,
                &[&policy("p", action, vec![rule.clone()])],
            );
            let policy = match own {
                Some(own) => policy.of_trust_domain(own),
                None => policy,
            };
            ask_tcp(&policy, peer) == "permit"
        };
        let verified = Peer::verified(partner.clone(), &own);
        // Identified as foreign, or not yet compared: the same.
        for (peer, own) in [
            (&verified, None),
            (&Peer::Verified(partner.clone()), Some(&own)),
        ] {
            assert_eq!(decide(Action::Allow, peer, own), theirs, "ALLOW {rule:?}");
            assert_eq!(
                decide(Action::Deny, peer, own),
                theirs_left,
                "DENY {rule:?}"
            );
        }
        assert_eq!(
            decide(Action::Allow, &web(), Some(&own)),
            ours,
            "ALLOW {rule:?}"
        );
        assert_eq!(
            decide(Action::Deny, &web(), Some(&own)),
            left,
            "DENY {rule:?}"
        );
        // A peer without an identity has none of it.
        for (action, expected) in [(Action::Allow, false), (Action::Deny, false)] {
            assert_eq!(
                decide(action, &Peer::Unauthenticated, Some(&own)),
                expected,
                "{rule:?}"
            );
        }
    }
}

/// Many servers take `delete` for DELETE: a DENY does too, and an ALLOW does not.
#[test]
fn a_method_in_lower_case_may_mean_the_one_in_upper_case() -> Result {
    let rule = |methods: &[&str], not: &[&str]| {
        let operation = Operation::builder().methods(methods).not_methods(not);
        Ok::<_, InvalidPolicy>(PolicyRule::new(vec![], vec![operation.build()?]))
    };
    // The methods and notMethods, a method, whether a DENY leaves it, whether an ALLOW permits it.
    for (methods, not, method, left, allowed) in [
        (&["DELETE"][..], &[][..], "DELETE", false, true),
        (&["DELETE"], &[], "delete", false, false),
        (&["DELETE"], &[], "Delete", false, false),
        (&["DEL*"], &[], "dELETE", false, false),
        (&["DELETE"], &[], "get", true, false),
        (&["*"], &[], "delete", false, true),
        (&[], &["DELETE"], "delete", false, false),
        (&[], &["DELETE"], "get", false, true),
        (&[], &["GET"], "GET", true, false),
    ] {
        let decided = |action| {
            let rules = vec![rule(methods, not)?];
            let policy = compile(DefaultAction::Allow, &[&policy("p", action, rules)]);
            let method = Method::from_bytes(method.as_bytes())?;
            // With one reading of the path, and with several.
            let [one, more] = ["/", "/a//b"].map(|path| ask(&policy, &web(), &method, path));
            assert_eq!(one, more);
            Ok::<_, Box<dyn std::error::Error>>(one == "permit")
        };
        let what = format!("{methods:?} {not:?} {method}");
        assert_eq!(decided(Action::Deny)?, left, "DENY {what}");
        assert_eq!(decided(Action::Allow)?, allowed, "ALLOW {what}");
    }
    Ok(())
}

#[test]
fn a_probe_is_a_get_of_exactly_the_path() {
    let headers = HeaderMap::new();
    for (method, path, permitted) in [
        (Method::GET, "/healthz", true),
        (Method::POST, "/healthz", false),
        (Method::GET, "/healthz/", false),
        (Method::GET, "/", false),
    ] {
        let view = RequestView::Http(HttpView::new(&method, path, None, &headers));
        let permit = Permit::probe(&["/healthz"], &view);
        assert_eq!(permit.is_some(), permitted, "{method} {path}");
    }
    assert!(Permit::probe(&["/healthz"], &RequestView::Tcp).is_none());
}

/// The layer stands in front of any server, so it asks by itself whether a probe is one.
#[tokio::test]
async fn the_layer_permits_a_probe_that_asks_for_nothing_else() -> Result {
    use crate::authorize::PathForm;
    use crate::body::Body;
    use crate::model::Workload;
    use crate::snapshot::{Settings, Snapshot, snapshot};
    use http::{Request, Response};
    use tower::{ServiceBuilder, ServiceExt, service_fn};
    let workload = Workload::new("shop", "cart", "cart")?;
    let mut settings = Settings::new(workload, DefaultAction::Deny);
    settings.paths = PathForm::default().merge_slashes(true);
    let (_writer, reader) = snapshot(Snapshot::new(settings));
    // What no request has is no probe; what requests are changed to, is.
    let probes = ["/healthz", "/a/../up//now", "/x?y", "bare", "/%", "*"];
    let layer = AuthorizeLayer::new(reader).probes(probes);
    let app = service_fn(async |_: Request<Body>| {
        Ok::<_, std::io::Error>(Response::new(Body::from("app")))
    });
    let app = ServiceBuilder::new().layer(layer).service(app);
    for (path, fields, body, status) in [
        ("/healthz", &[][..], "", 200),
        ("/up/now", &[], "", 200),
        ("/up//now", &[], "", 200),
        ("/x", &[], "", 403),
        ("/", &[], "", 403),
        ("/healthz", &[("content-length", "0")], "", 200),
        ("/healthz", &[("content-length", "2")], "", 403),
        (
            "/healthz",
            &[("content-length", "0"), ("content-length", "2")],
            "",
            403,
        ),
        ("/healthz", &[("content-length", "x")], "", 403),
        ("/healthz", &[("transfer-encoding", "chunked")], "", 403),
        (
            "/healthz",
            &[("upgrade", "websocket"), ("connection", "upgrade")],
            "",
            403,
        ),
        ("/healthz", &[("upgrade", "")], "", 403),
        // HTTP/2 announces no body.
        ("/healthz", &[], "hi", 403),
    ] {
        let mut request = Request::get(path);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let body = match body {
            "" => Body::empty(),
            some => Body::from(some),
        };
        let answer = app.clone().oneshot(request.body(body)?).await?;
        assert_eq!(answer.status(), status, "{path} {fields:?}");
    }
    Ok(())
}

/// Both settings together are Istio's `DECODE_AND_MERGE_SLASHES`; without, the path has the same
/// spelling as Istio's `BASE` or `MERGE_SLASHES`, and less of it is changed.
#[test]
fn the_settings_are_those_of_istio() -> Result {
    let Some(table) = crate::fixture::json("istio/path-normalization.json", 345)? else {
        return Ok(());
    };
    let form = PathForm::default;
    let mut rows = 0;
    for group in table["groups"].as_array().ok_or("no groups")? {
        let (form, exact) = match group["mode"].as_str() {
            Some("DECODE_AND_MERGE_SLASHES") => {
                (form().merge_slashes(true).decode_slashes(true), true)
            }
            Some("MERGE_SLASHES") => (form().merge_slashes(true), false),
            Some("BASE") => (form(), false),
            _ => continue,
        };
        for case in group["cases"].as_array().ok_or("no cases")? {
            let (Some(given), Some(wanted)) = (case["in"].as_str(), case["out"].as_str()) else {
                return Err(format!("{case}").into());
            };
            // Istio makes a `/` of it in these modes; here it is a reading.
            if !exact && given.contains('\\') {
                continue;
            }
            // A fragment ends the path before it is normalised.
            let path = given.split(['#', '?']).next().unwrap_or_default();
            match form.canonical(path) {
                Ok(seen) if exact => assert_eq!(seen, canonical_path(wanted)?, "{given}"),
                Ok(seen) => assert_eq!(spelling(&seen), spelling(wanted), "{given}"),
                Err(_) => assert_eq!("400", wanted, "{given}"),
            }
            rows += 1;
        }
    }
    assert_eq!(rows, 297 + 2 * 13);
    Ok(())
}

/// What is forwarded: without a setting, and with both.
#[test]
fn dot_segments_and_digits_alone_are_changed_where_no_setting_asks_for_more() {
    let both = PathForm::default().merge_slashes(true).decode_slashes(true);
    for (given, wanted, merged) in [
        ("/", Some("/"), Some("/")),
        ("*", Some("*"), Some("*")),
        ("//admin", Some("//admin"), Some("/admin")),
        ("/%2Fadmin", Some("/%2Fadmin"), Some("/admin")),
        ("/x/..%2fadmin", Some("/x/..%2Fadmin"), Some("/admin")),
        ("/x\\admin", Some("/x\\admin"), Some("/x/admin")),
        ("/%61dmin", Some("/%61dmin"), Some("/admin")),
        ("/a%7eb%3ac", Some("/a%7Eb%3Ac"), Some("/a~b%3Ac")),
        ("/.", Some("/"), Some("/")),
        ("/..", Some("/"), Some("/")),
        ("/a/.", Some("/a/"), Some("/a/")),
        ("/a/b/..", Some("/a/"), Some("/a/")),
        ("/a/%2e%2E/b", Some("/b"), Some("/b")),
        ("/a/.%2e/%2e/b", Some("/b"), Some("/b")),
        ("/a/%2e%2e%2e/b", Some("/a/%2E%2E%2E/b"), Some("/a/.../b")),
        ("/a//../b", Some("/a/b"), Some("/a/b")),
        ("/a///b/", Some("/a///b/"), Some("/a/b/")),
        ("/a//", Some("/a//"), Some("/a/")),
        ("/a//.", Some("/a//"), Some("/a/")),
        ("//../a", Some("/a"), Some("/a")),
        ("/../../a", Some("/a"), Some("/a")),
        (
            "/.well-known/x",
            Some("/.well-known/x"),
            Some("/.well-known/x"),
        ),
        ("/...", Some("/..."), Some("/...")),
        ("/a%25b", Some("/a%25b"), Some("/a%25b")),
        // Decoded once: what is still escaped stays escaped.
        (
            "/%252e%252e/a",
            Some("/%252e%252e/a"),
            Some("/%252e%252e/a"),
        ),
        ("/é", Some("/é"), Some("/é")),
        ("\\a", None, Some("/a")),
        ("/admin%00", None, None),
        ("/a\0", None, None),
        ("/%", None, None),
        ("/%2", None, None),
        ("/%zz", None, None),
        ("/%+1", None, None),
        ("", None, None),
        ("admin", None, None),
        ("**", None, None),
    ] {
        assert_eq!(canonical_path(given).ok().as_deref(), wanted, "{given:?}");
        assert_eq!(both.canonical(given).ok().as_deref(), merged, "{given:?}");
    }
}

/// What policies are asked about.
#[test]
fn a_path_has_a_reading_for_each_way_that_servers_take_it() {
    for (path, wanted) in [
        ("/a/b", &["/a/b"][..]),
        ("/a b/%20/%E9", &["/a%20b/%20/%E9"]),
        ("/.well-known/x", &["/.well-known/x"]),
        ("/%61/%3a%40/ü", &["/a/:@/%C3%BC"]),
        ("//a", &["//a", "/a"]),
        ("/a%2fb", &["/a%2Fb", "/a/b"]),
        ("/a\\b", &["/a%5Cb", "/a/b"]),
        (
            "/a%5cb%2Fc",
            &["/a%5Cb%2Fc", "/a%5Cb/c", "/a/b%2Fc", "/a/b/c"],
        ),
        ("/x/..%2fadmin", &["/x/..%2Fadmin", "/admin"]),
        // Some resolve before they merge, some after.
        ("/a/%2F../b", &["/a/%2F../b", "/a/b", "/b"]),
        ("/api/%2F/x", &["/api/%2F/x", "/api///x", "/api/x"]),
        // Decoded once.
        ("/%252e%252e%252fa", &["/%252e%252e%252fa"]),
        // What was not brought into its canonical form before is resolved here.
        ("/a/../b", &["/b"]),
    ] {
        let readings = Readings::of(path);
        assert_eq!(readings.iter().collect::<Vec<_>>(), wanted, "{path}");
    }
}

#[test]
fn a_deny_matches_any_reading_and_an_allow_all() {
    let rule = |paths: &[&str], not: &[&str]| {
        let operation = Operation::builder().paths(paths).not_paths(not);
        PolicyRule::new(vec![], vec![operation.build().unwrap()])
    };
    let decide = |action: Action, rule: &PolicyRule, path: &str| {
        let policy = compile(
            DefaultAction::Allow,
            &[&policy("p", action, vec![rule.clone()])],
        );
        ask(&policy, &web(), &Method::GET, path) == "permit"
    };
    // The rule, the path, whether an ALLOW permits it, whether a DENY leaves it.
    for (paths, not, path, allowed, left) in [
        (&["/admin"][..], &[][..], "/admin", true, false),
        (&["/admin"], &[], "//admin", false, false),
        (&["/admin"], &[], "/%2Fadmin", false, false),
        (&["/admin"], &[], "/x%2F..%2Fadmin", false, false),
        (&["/admin"], &[], "/x%5c..%5cadmin", false, false),
        (&["/admin"], &[], "/x\\..\\admin", false, false),
        (&["/admin"], &[], "/%61dmin", true, false),
        (&["/a:b@c"], &[], "/a%3ab%40c", true, false),
        (&["/a%3ab%40c"], &[], "/a:b@c", true, false),
        (&["/ü"], &[], "/%c3%bc", true, false),
        (&["/%c3%bc"], &[], "/ü", true, false),
        (&["/a*"], &[], "/a%2Fb", true, false),
        (&["/api/*"], &[], "/api/%2F/x", true, false),
        (&["/api/*"], &[], "/api/..%2Fx", false, false),
        (&["*.php"], &[], "/a/x%2ephp", true, false),
        (&[], &["/public/*"], "/public/x", false, true),
        (&[], &["/public/*"], "/public/..%2Fx", false, false),
        (&[], &["/public/*"], "/public//x", false, true),
        (&["/a%2Fb", "/a/b"], &[], "/a%2Fb", true, false),
    ] {
        let rule = rule(paths, not);
        assert_eq!(
            decide(Action::Allow, &rule, path),
            allowed,
            "ALLOW {paths:?} {not:?} {path}"
        );
        assert_eq!(
            decide(Action::Deny, &rule, path),
            left,
            "DENY {paths:?} {not:?} {path}"
        );
    }
}

proptest! {
    #[test]
    fn a_canonical_path_stays_as_it_is(
        path in "[/\\\\.%a-f0-9A-F_é~-]{0,24}", merge: bool, decode: bool,
    ) {
        let form = PathForm::default().merge_slashes(merge).decode_slashes(decode);
        let path = format!("/{path}");
        if let Ok(once) = form.canonical(&path) {
            let once = once.into_owned();
            prop_assert_eq!(&*form.canonical(&once).unwrap(), &*once);
            prop_assert!(!(merge && once.contains("//") || decode && once.contains('\\')));
            // The first reading is what is forwarded; with both settings it is the only one.
            let readings = Readings::of(&once);
            prop_assert_eq!(readings.iter().next(), Some(&*spelling(&once)));
            prop_assert!(!(merge && decode) || readings.iter().count() == 1);
        }
    }

    /// However a path is spelled, its readings are those of every other spelling.
    #[test]
    fn all_spellings_of_a_path_have_the_same_readings(path in "/[a-c/:@é.~]{0,12}", seed: u64) {
        let mut bits = seed;
        let mut other = String::new();
        for b in path.bytes() {
            bits = bits.rotate_left(3).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            match bits & 3 {
                _ if b == b'/' => other.push('/'),
                0 => other.push_str(&format!("%{b:02x}")),
                _ if !b.is_ascii() => other.push_str(&format!("%{b:02X}")),
                _ => other.push(char::from(b)),
            }
        }
        let (one, two) = (canonical_path(&path).unwrap(), canonical_path(&other).unwrap());
        let (one, two) = (Readings::of(&one), Readings::of(&two));
        prop_assert_eq!(one.iter().collect::<Vec<_>>(), two.iter().collect::<Vec<_>>());
    }

    /// Whatever the rules: DENY wins over ALLOW, and a peer without a name passes no rule on names.
    #[test]
    fn a_matching_deny_is_final(
        allow in proptest::collection::vec("[ab*/]{1,3}", 0..4),
        deny in proptest::collection::vec("[ab*/]{1,3}", 0..4),
        path in "/[ab/]{0,4}",
    ) {
        let make = |name: &str, action, texts: &[String]| {
            let rules = texts.iter().filter_map(|t| {
                let operation = Operation::builder().paths([t]).build().ok()?;
                Some(PolicyRule::new(vec![], vec![operation]))
            });
            policy(name, action, rules.collect())
        };
        let (a, d) = (make("a", Action::Allow, &allow), make("d", Action::Deny, &deny));
        let readings = Readings::of(&path);
        let hit = |p: &Policy, path| p.rules.iter().any(|r| r.to[0].paths[0].matches(path));
        let denied = readings.iter().any(|path| hit(&d, path));
        let allowed = readings.iter().all(|path| hit(&a, path));
        let both = compile(DefaultAction::Allow, &[&a, &d]);
        let expected = match (denied, allowed) {
            (true, _) => "deny-policy",
            (_, true) => "permit",
            _ => "not-allowed",
        };
        prop_assert_eq!(ask(&both, &web(), &Method::GET, &path), expected);
    }
}

fn custom(name: &str, provider: Provider, rule: PolicyRule) -> Arc<Policy> {
    policy(name, Action::Custom(provider), vec![rule])
}

/// What external authorizers are asked, in order, and what comes of their answers.
#[test]
fn an_authorizer_is_asked_last_and_its_answer_decides() {
    let opa = || Provider::new("opa");
    let all = custom("c1", opa(), PolicyRule::default());
    let admin = custom("c2", Provider::new("sso"), paths(&["/admin*"]));
    let deny = policy("d", Action::Deny, vec![paths(&["/secret"])]);
    let policy = compile(DefaultAction::Allow, &[&all, &admin, &deny]);
    let headers = HeaderMap::new();
    let asked = |path: &str, answers: &[Answer]| {
        let view = RequestView::Http(HttpView::new(&Method::GET, path, None, &headers));
        let mut verdict = decide(&policy, &web(), &view, &mut ());
        let mut asked = Vec::new();
        for answer in answers {
            let Verdict::Ask(ask) = verdict else { break };
            let (by, provider) = ask.poll_question().unwrap();
            asked.push(format!("{}:{}", by.key.name, provider.name));
            verdict = ask.handle_answer(*answer);
        }
        (asked.join(" "), name(verdict))
    };
    use Answer::{Allow, Deny, Failed};
    for (path, answers, questions, expected) in [
        ("/", &[Allow][..], "c1:opa", "permit"),
        ("/", &[Deny], "c1:opa", "authorizer"),
        ("/", &[Failed], "c1:opa", "authorizer"),
        ("/admin", &[Allow, Allow], "c1:opa c2:sso", "permit"),
        ("/admin", &[Allow, Deny], "c1:opa c2:sso", "authorizer"),
        ("/admin", &[Deny, Allow], "c1:opa", "authorizer"),
        // What is denied anyway is not asked for.
        ("/secret", &[Allow], "", "deny-policy"),
        // An answer that is missing does not permit.
        ("/admin", &[Allow], "c1:opa", "authorizer"),
    ] {
        let found = asked(path, answers);
        assert_eq!(
            found,
            (questions.to_owned(), expected),
            "{path} {answers:?}"
        );
    }
}

#[test]
fn the_failure_mode_of_an_authorizer_is_explicit() {
    for (mode, expected) in [
        (FailureMode::Allow, "permit"),
        (FailureMode::Deny, "authorizer"),
    ] {
        let provider = Provider::new("opa").with_failure_mode(mode);
        let policy = compile(
            DefaultAction::Allow,
            &[&custom("c", provider, PolicyRule::default())],
        );
        let verdict = decide(&policy, &web(), &RequestView::Tcp, &mut ());
        let Verdict::Ask(ask) = verdict else {
            panic!("{verdict:?}")
        };
        assert_eq!(name(ask.clone().handle_answer(Answer::Failed)), expected);
        assert_eq!(name(ask.handle_answer(Answer::Deny)), "authorizer");
    }
}

/// A condition that cannot be evaluated asks: it must not permit what was to be asked for.
#[test]
fn an_authorizer_is_asked_where_its_condition_is_unknown() {
    let rules = [
        principals(&["example.org/ns/shop/sa/web"]),
        paths(&["/admin"]),
    ];
    for rule in rules {
        let custom = custom("c", Provider::new("opa"), rule);
        let policy = compile(DefaultAction::Allow, &[&custom]);
        let verdict = decide(&policy, &Peer::Unauthenticated, &RequestView::Tcp, &mut ());
        assert!(matches!(verdict, Verdict::Ask(_)), "{verdict:?}");
    }
}

/// Answers in time, late, or never known.
mod authorizers {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    struct After(Duration, Answer);

    impl Authorizer for After {
        fn ask<'a>(&'a self, question: Question<'a>) -> Asking<'a> {
            assert_eq!(*question.policy, key("c"));
            Box::pin(async move {
                sleep(self.0).await;
                self.1
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_waited_for_as_long_as_the_limit() {
        const LIMIT: Duration = Duration::from_secs(1);
        for (after, answer, mode, expected) in [
            (LIMIT / 2, Answer::Allow, FailureMode::Deny, "permit"),
            (LIMIT / 2, Answer::Deny, FailureMode::Allow, "authorizer"),
            (LIMIT * 2, Answer::Allow, FailureMode::Deny, "authorizer"),
            (LIMIT * 2, Answer::Deny, FailureMode::Allow, "permit"),
        ] {
            let mut known = Authorizers::default();
            known.insert("opa", Arc::new(After(after, answer)), LIMIT);
            let provider = Provider::new("opa").with_failure_mode(mode);
            let policy = compile(
                DefaultAction::Allow,
                &[&custom("c", provider.clone(), PolicyRule::default())],
            );
            let verdict = || decide(&policy, &web(), &RequestView::Tcp, &mut ());
            let settled = known.settle(verdict(), &web(), RequestView::Tcp).await;
            let found = settled.map_or_else(|d| d.reason.as_str(), |_| "permit");
            assert_eq!(found, expected, "{after:?} {answer:?} {mode:?}");
            // One that the runtime does not know denies, whatever the mode.
            let none = Authorizers::default();
            let settled = none.settle(verdict(), &web(), RequestView::Tcp).await;
            assert_eq!(settled.unwrap_err().reason, DenyReason::Authorizer);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_layer_asks_before_it_calls_the_service() {
        use crate::body::Body;
        use crate::model::{SourceId, Workload};
        use crate::snapshot::{Change, Op, Settings, Snapshot, snapshot};
        use http::{Request, Response};
        use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
        for (answer, status) in [(Answer::Allow, 200), (Answer::Deny, 403)] {
            let workload = Workload::new("shop", "cart", "cart").unwrap();
            let settings = Settings::new(workload, DefaultAction::Allow);
            let (mut writer, reader) = snapshot(Snapshot::new(settings));
            let asks = Policy::new(
                key("c"),
                Action::Custom(Provider::new("opa")),
                vec![PolicyRule::default()],
            );
            let change = Change::update(SourceId::new("t"), vec![Op::put(asks)]);
            writer.apply(change);
            let mut known = Authorizers::default();
            let (second, limit) = (Duration::from_secs(1), Duration::from_secs(5));
            known.insert("opa", Arc::new(After(second, answer)), limit);
            let app = service_fn(async |_: Request<Body>| {
                Ok::<_, std::io::Error>(Response::new(Body::from("app")))
            });
            let layer = AuthorizeLayer::new(reader).with_authorizers(known);
            let mut app = ServiceBuilder::new().layer(layer).service(app);
            for _ in 0..2 {
                let app = app.ready().await.unwrap();
                let answer = app.call(Request::new(Body::empty())).await.unwrap();
                assert_eq!(answer.status(), status);
            }
        }
    }
}
