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
        (&[], &["a*b"]),
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
    for (methods, paths) in [
        (&["get"][..], &[][..]),
        (&[""], &[]),
        (&[], &["admin"]),
        (&[], &["/{id}"]),
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

#[test]
fn paths_are_seen_in_the_one_form_that_istio_calls_decode_and_merge_slashes() -> Result {
    let Some(table) = crate::fixture::json("istio/path-normalization.json", 297)? else {
        return Ok(());
    };
    let mut rows = 0;
    for group in table["groups"].as_array().ok_or("no groups")? {
        if group["mode"] != "DECODE_AND_MERGE_SLASHES" {
            continue;
        }
        for case in group["cases"].as_array().ok_or("no cases")? {
            let (Some(given), Some(wanted)) = (case["in"].as_str(), case["out"].as_str()) else {
                return Err(format!("{case}").into());
            };
            // A fragment ends the path before it is normalised.
            let path = given.split(['#', '?']).next().unwrap_or_default();
            match canonical_path(path) {
                Ok(seen) => assert_eq!(seen, wanted, "{given}"),
                Err(_) => assert_eq!("400", wanted, "{given}"),
            }
            rows += 1;
        }
    }
    assert_eq!(rows, 297);
    Ok(())
}

#[test]
fn a_path_has_one_spelling() {
    for (given, wanted) in [
        ("/", Some("/")),
        ("*", Some("*")),
        ("//admin", Some("/admin")),
        ("/%2Fadmin", Some("/admin")),
        ("/x/..%2fadmin", Some("/admin")),
        ("/x\\admin", Some("/x/admin")),
        ("/%61dmin", Some("/admin")),
        ("/.", Some("/")),
        ("/..", Some("/")),
        ("/a/.", Some("/a/")),
        ("/a/b/..", Some("/a/")),
        ("/a//../b", Some("/a/b")),
        ("//../a", Some("/a")),
        ("/../../a", Some("/a")),
        ("/.well-known/x", Some("/.well-known/x")),
        ("/...", Some("/...")),
        ("/a%25b", Some("/a%25b")),
        // Decoded once: what is still escaped stays escaped.
        ("/%252e%252e/a", Some("/%252e%252e/a")),
        ("/é", Some("/é")),
        ("\\a", Some("/a")),
        ("/admin%00", None),
        ("/a\0", None),
        ("/%", None),
        ("/%2", None),
        ("/%zz", None),
        ("/%+1", None),
        ("", None),
        ("admin", None),
        ("**", None),
    ] {
        assert_eq!(canonical_path(given).ok().as_deref(), wanted, "{given:?}");
    }
}

proptest! {
    #[test]
    fn a_canonical_path_stays_as_it_is(path in "[/\\\\.%a-f0-9A-F_é~-]{0,24}") {
        let path = format!("/{path}");
        if let Ok(once) = canonical_path(&path) {
            let once = once.into_owned();
            let twice = canonical_path(&once).unwrap();
            prop_assert_eq!(&*twice, &*once);
            prop_assert!(!once.contains("//") && !once.contains('\\'));
        }
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
        let hit = |p: &Policy| p.rules.iter().any(|r| r.to[0].paths[0].matches(&path));
        let both = compile(DefaultAction::Allow, &[&a, &d]);
        let expected = match (hit(&d), hit(&a)) {
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
