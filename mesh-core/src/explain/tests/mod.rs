//! What an explanation says, one walk each, and that it says what is decided.

#[cfg(feature = "runtime")]
mod agrees;
#[cfg(feature = "runtime")]
mod heads;
#[cfg(feature = "runtime")]
mod hedges;
mod sessions;
mod splits;
mod tunnels;

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::*;
use crate::authorize::{Action, DefaultAction, Operation, Policy, PolicyRule, PolicySource};
use crate::model::{
    AppProtocol, Host, IdSet, Kind, Namespace, ObjectKey, Service, ServiceName, ServicePort, Slice,
    SliceHost, SlicePort, SourceId, Transport, Workload,
};
use crate::retry::RetryPolicy;
use crate::route::{
    Backend as To, Cors, Filter, HeaderChanges, Match, Mirror, Parent, PathMatch, PathRewrite,
    Redirect, Rewrite, Route, Rule, Timeouts,
};
use crate::snapshot::{Change, Op, Settings};

type Fallible<T = ()> = Result<T, Box<dyn std::error::Error>>;

const WEB: &str = "spiffe://td.test/ns/shop/sa/web";

fn shop() -> Namespace {
    Namespace::new("shop").expect("a name")
}

fn service(name: &str) -> ServiceName {
    ServiceName::new(&shop(), name).expect("a name")
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, &shop(), name).expect("a name")
}

fn web() -> Local {
    let web = Workload::new("shop", "web", "web").expect("names");
    Local::new(web, DefaultAction::Deny)
}

/// A Service with a port 80 and mesh endpoints `10.0.0.<nth>` of a workload of its name.
fn backend(name: &str, hosts: &[u8]) -> Fallible<Vec<Op>> {
    let port = ServicePort::new("http", 80, AppProtocol::Http1);
    let ids = IdSet::new([format!("spiffe://td.test/ns/shop/sa/{name}").parse()?]);
    let hosts = hosts
        .iter()
        .map(|n| SliceHost::new(Host::Address([10, 0, 0, *n].into())));
    let slice = Slice::new(
        key(Kind::EndpointSlice, &format!("{name}-1")),
        service(name),
        vec![SlicePort::new("http", 8443)],
        hosts.collect(),
        Transport::Mesh { ids },
    );
    Ok(vec![
        Op::put(Service::new(service(name), vec![port])),
        Op::put(slice.workload(name, "")),
    ])
}

fn route(rules: Vec<Rule>) -> Fallible<Op> {
    let parents = vec![Parent::new(service("cart"), None)];
    Ok(Op::put(Route::new(
        key(Kind::HttpRoute, "cart"),
        parents,
        rules,
    )?))
}

fn under(path: &str) -> Fallible<Vec<Match>> {
    Ok(vec![Match::path(PathMatch::literal(path, true)?)])
}

/// A policy for the workload `cart`.
fn policy(name: &str, action: Action, rule: PolicyRule) -> Op {
    let key = key(Kind::AuthorizationPolicy, name);
    Op::put(Policy::new(key, action, vec![rule]).select("app", "cart"))
}

fn callers(ids: &[&str]) -> Fallible<Vec<PolicySource>> {
    Ok(vec![PolicySource::builder().principals(ids).build()?])
}

/// `cart` with two endpoints, `v2` with one, web may read and nothing may reach `/admin`.
fn world(more: Vec<Op>) -> Fallible<Snapshot> {
    let mut ops = backend("cart", &[1, 2])?;
    ops.extend(backend("v2", &[3])?);
    let admin = Operation::builder().paths(["/admin*"]).build()?;
    let get = Operation::builder().methods(["GET"]).build()?;
    let reads = PolicyRule::new(callers(&["td.test/ns/shop/sa/web"])?, vec![get]);
    ops.push(policy(
        "admin",
        Action::Deny,
        PolicyRule::new(vec![], vec![admin]),
    ));
    ops.push(policy("reads", Action::Allow, reads));
    ops.extend(more);
    let snapshot = Snapshot::new(Settings::of(web()));
    Ok(snapshot.apply(Change::update(SourceId::new("t"), ops)))
}

fn ask(snapshot: &Snapshot, line: &str) -> Fallible<Explanation> {
    let question = Question::parse(line)?.from(WEB.parse()?);
    Ok(explain(&Scene::new(snapshot, &web()), &question))
}

/// Outcome, status and reason in a line.
fn verdict(explanation: &Explanation) -> String {
    let Verdict {
        outcome,
        status,
        reason,
        ..
    } = &explanation.verdict;
    let status = status.map(|status| format!(" {status}"));
    let reason = reason.as_ref().map(|reason| format!(" {reason}"));
    format!(
        "{}{}{}",
        outcome.as_str(),
        status.unwrap_or_default(),
        reason.unwrap_or_default()
    )
}

#[test]
fn each_way_to_end_is_named_as_the_mesh_would_answer() -> Fallible {
    let to = Redirect::new().with_status(301)?;
    let snapshot = world(vec![route(vec![
        Rule::to(vec![To::new(service("cart"), 80, 1)?]).when(under("/items")?),
        Rule::to(vec![To::new(service("gone"), 80, 1)?]).when(under("/gone")?),
        Rule::to(vec![To::new(service("cart"), 81, 1)?]).when(under("/port")?),
        Rule::to(vec![To::new(service("cart"), 80, 0)?]).when(under("/none")?),
        Rule::to(vec![To::new(service("cart"), 80, 1)?]).when(under("/admin")?),
        Rule::with(crate::route::Outcome::Redirect(to)).when(under("/old")?),
    ])?])?;
    for (line, wanted) in [
        ("http://cart/items", "sent"),
        (
            "GET http://cart.shop.svc.cluster.local:80/items/%7e",
            "sent",
        ),
        ("GET http://cart/a/../items", "sent"),
        ("POST http://cart/items", "refused 403 denied"),
        ("GET http://cart/admin", "refused 403 denied"),
        ("GET http://cart/other", "refused 404 no-route"),
        ("GET http://cart:81/", "refused 404 no-route"),
        ("GET http://nowhere/", "refused 404 unknown-host"),
        ("GET http://cart/gone", "refused 500 backend-missing"),
        ("GET http://cart/port", "refused 500 backend-missing"),
        ("GET http://cart/none", "refused 500 no-backend"),
        ("GET http://cart/old", "answered 301"),
        ("GET http://cart/%00", "refused 400 invalid-request"),
        ("CONNECT http://cart/", "refused 400 invalid-request"),
        // By its method an opaque connection cannot be allowed.
        ("tcp://cart:80", "refused 403 denied"),
    ] {
        assert_eq!(verdict(&ask(&snapshot, line)?), wanted, "{line}");
    }
    Ok(())
}

#[test]
fn the_walk_names_what_won_and_why_others_lost() -> Fallible {
    let v2 = To::new(service("v2"), 80, 1)?;
    let exact = Match::path(PathMatch::literal("/items", true)?);
    let seven = crate::route::ValueMatch::Exact("7".into());
    let user = exact
        .clone()
        .header(HeaderName::from_static("x-user"), seven);
    let changes = HeaderChanges::default().set(
        HeaderName::from_static("x-tier"),
        HeaderValue::from_static("gold"),
    )?;
    let rewrite = Rewrite::new().with_path(PathRewrite::prefix("/v2")?);
    let snapshot = world(vec![
        route(vec![
            Rule::to(vec![To::new(service("cart"), 80, 1)?]).when(vec![user]),
            Rule::to(vec![To::new(service("cart"), 80, 1)?, v2])
                .when(vec![exact])
                .with_filters(vec![
                    Filter::RequestHeaders(changes),
                    Filter::Rewrite(rewrite),
                ])
                .with_retry(RetryPolicy::new(2).on_status(503)?),
        ])?,
        policy(
            "others",
            Action::Allow,
            PolicyRule::new(callers(&["td.test/ns/shop/sa/other"])?, vec![]),
        ),
    ])?;
    // A draw that stays with `cart`.
    let drawn = |seed| -> Fallible<Explanation> {
        let question = Question::parse("GET http://cart/items/1?a=b")?;
        let question = question.header("x-user: 8")?.from(WEB.parse()?).draw(seed);
        Ok(explain(&Scene::new(&snapshot, &web()), &question))
    };
    let all: Vec<_> = (0..40).map(drawn).collect::<Fallible<_>>()?;
    let to = |name: &str| {
        let is = |e: &&Explanation| e.backend.as_ref().is_some_and(|b| b.service == name);
        all.iter().find(is).expect("drawn in 40 draws")
    };
    let cart = to("cart.shop");
    assert_eq!(verdict(cart), "sent");
    let lost: Vec<_> = cart
        .rules
        .iter()
        .map(|r| (r.rule, r.missed.as_deref()))
        .collect();
    assert_eq!(
        lost,
        [(0, Some("the header x-user does not match")), (1, None)]
    );
    let shares: Vec<_> = cart.split.iter().map(|s| (&*s.service, s.drawn)).collect();
    assert_eq!(shares, [("cart.shop", true), ("v2.shop", false)]);
    let sent = cart.sent.as_ref().expect("it is sent");
    assert_eq!((&*sent.path, sent.query.as_deref()), ("/v2/1", Some("a=b")));
    assert!(
        sent.headers
            .shown()
            .any(|f| f == ("x-tier", "gold".to_owned()))
    );
    let settings: Vec<_> = cart
        .settings
        .iter()
        .map(|s| (&*s.name, s.object.as_deref()))
        .collect();
    let from = Some("HTTPRoute/shop/cart");
    assert_eq!(
        settings,
        [
            ("retry", from),
            ("loadBalancer", None),
            ("connectionPool", None),
            ("outlierDetection", None),
            ("retryConstraint", None)
        ]
    );
    let taken: Vec<_> = cart.endpoints.iter().filter(|e| e.taken).collect();
    assert_eq!(cart.verdict.endpoint.as_deref(), Some(&*taken[0].address));
    let [inbound] = &cart.inbound[..] else {
        panic!("one workload: {:?}", cart.inbound);
    };
    assert!(inbound.permitted && inbound.decisive && !inbound.local);
    assert_eq!(inbound.why, "allowed by AuthorizationPolicy/shop/reads");
    let seen: Vec<_> = inbound
        .policies
        .iter()
        .map(|p| (&*p.object, p.rule, &*p.lost))
        .collect();
    let why = |text: &str| vec![text.to_owned()];
    assert_eq!(
        seen,
        [
            (
                "AuthorizationPolicy/shop/admin",
                None,
                &*why("rule 0: the operation does not match")
            ),
            (
                "AuthorizationPolicy/shop/others",
                None,
                &*why("rule 0: the caller does not match")
            ),
            ("AuthorizationPolicy/shop/reads", Some(0), &*vec![]),
        ]
    );
    // No policy is about the workload v2, and the default denies.
    let v2 = to("v2.shop");
    assert_eq!(verdict(v2), "refused 403 denied");
    assert_eq!(v2.inbound[0].default_action, "deny");
    Ok(())
}

#[test]
fn shares_are_what_each_seed_draws() -> Fallible {
    let to = |name, weight| To::new(service(name), 80, weight);
    let split = vec![to("cart", 3)?, to("v2", 1)?];
    let snapshot = world(vec![route(vec![Rule::to(split).when(under("/items")?)])?])?;
    let (local, scene) = (web(), |local| Scene::new(&snapshot, local));
    for line in [
        "GET http://cart/items",
        "GET http://cart/other",
        "GET http://cart/%00",
    ] {
        let question = Question::parse(line)?;
        let mut counts = BTreeMap::new();
        for seed in 0..50 {
            let seen = explain(&scene(&local), &question.clone().draw(seed));
            let backend = seen.backend.map(|to| format!("{}:{}", to.service, to.port));
            *counts.entry(backend).or_insert(0) += 1;
        }
        let shares = shares(&scene(&local), &question, 50).into_iter();
        let shares = shares.map(|(to, n)| (to.map(|(name, port)| format!("{name}:{port}")), n));
        assert_eq!(shares.collect::<BTreeMap<_, _>>(), counts, "{line}");
    }
    Ok(())
}

/// A copy goes where its mirror says, as the filters before that leave it, and both sides judge it.
#[test]
fn what_becomes_of_each_copy_is_said() -> Fallible {
    let mirror = |name, share: (u32, u32)| -> Fallible<Filter> {
        let mirror = Mirror::new(service(name), 80);
        Ok(Filter::Mirror(mirror.with_share(share.0, share.1)?))
    };
    let rewrite = Rewrite::new().with_path(PathRewrite::full("/new")?);
    let rule = Rule::to(vec![To::new(service("cart"), 80, 1)?]).with_filters(vec![
        mirror("cart", (1, 1))?,
        mirror("v2", (1, 1))?,
        mirror("cart", (0, 3))?,
        mirror("gone", (1, 1))?,
        Filter::Rewrite(rewrite),
        mirror("cart", (1, 1))?,
    ]);
    let snapshot = world(vec![route(vec![rule])?])?;
    let closed = Operation::builder().paths(["/new"]).build()?;
    let egress = PolicyRule::new(vec![], vec![closed]);
    let egress = Policy::new(
        key(Kind::AuthorizationPolicy, "egress"),
        Action::Deny,
        vec![egress],
    );
    let local = web().with_egress(DefaultAction::Allow, [Arc::new(egress)])?;
    let becomes = |fields: &[&str]| -> Fallible<Vec<String>> {
        let mut question = Question::parse("GET http://cart/items")?.from(WEB.parse()?);
        for field in fields {
            question = question.header(field)?;
        }
        let seen = explain(&Scene::new(&snapshot, &local), &question);
        assert_eq!(verdict(&seen), "sent");
        let each = seen.copies.into_iter().map(|copy| {
            let path = copy.sent.map_or_else(String::new, |sent| sent.path);
            let becomes = match (copy.verdict, copy.missed) {
                (Some(verdict), _) => {
                    let reason = verdict.reason.unwrap_or_default();
                    format!("{} {reason}", verdict.outcome.as_str())
                }
                (None, missed) => missed.unwrap_or_default(),
            };
            format!("{} {path} {becomes}", copy.service)
        });
        Ok(each.collect())
    };
    assert_eq!(
        becomes(&[])?,
        [
            "cart.shop /items sent ",
            // Its own policy denies.
            "v2.shop /items refused denied",
            "cart.shop  it is not drawn",
            "gone.shop /items refused backend-missing",
            // The policy of its caller denies.
            "cart.shop /new refused denied",
        ]
    );
    for (fields, why) in [
        (&["x-mesh-mirrored: 1"][..], "the request is a copy itself"),
        (
            &["connection: upgrade", "upgrade: websocket"],
            "the request may leave HTTP",
        ),
    ] {
        let all = becomes(fields)?;
        assert!(all[0].ends_with(why) && all[1].ends_with(why), "{all:?}");
    }
    let other = becomes(&["connection: upgrade", "upgrade: h2c"])?;
    assert_eq!(other, becomes(&[])?, "a request as all are");
    Ok(())
}

#[test]
fn preflights_and_origins_are_said() -> Fallible {
    let cors = Cors::new()
        .allow_origin("https://a.lab")?
        .allow_method("PUT")?;
    let rule = Rule::to(vec![To::new(service("cart"), 80, 1)?]);
    let rule = rule.with_filters(vec![Filter::Cors(Arc::new(cors))]);
    let snapshot = world(vec![route(vec![rule])?])?;
    let asked = |line: &str, origin: &str| -> Fallible<Explanation> {
        let question = Question::parse(line)?.header(&format!("origin: {origin}"))?;
        let question = question.header("access-control-request-method: PUT")?;
        let question = question.from(WEB.parse()?);
        Ok(explain(&Scene::new(&snapshot, &web()), &question))
    };
    let said = |seen: &Explanation| {
        let origin = seen.origin.as_ref().map(|origin| origin.allowed);
        (verdict(seen), seen.verdict.answer, origin)
    };
    let preflight = asked("OPTIONS http://cart/", "https://a.lab")?;
    let answered = || ("answered 204".to_owned(), Some(Answer::Preflight));
    assert_eq!(said(&preflight), (answered().0, answered().1, Some(true)));
    let methods = preflight.response.0.get("access-control-allow-methods");
    assert_eq!(methods, Some(&HeaderValue::from_static("PUT")));
    let other = asked("OPTIONS http://cart/", "https://b.lab")?;
    assert_eq!(said(&other), (answered().0, answered().1, Some(false)));
    let get = asked("GET http://cart/", "https://a.lab")?;
    assert_eq!(said(&get), ("sent".into(), None, Some(true)));
    assert_eq!(get.edits.len(), 1);
    assert!(get.edits[0].filter["cors"].is_object(), "{:?}", get.edits);
    Ok(())
}

/// The least of what a route, a policy and the caller say is the first attempt's.
#[test]
fn deadlines_and_repeats_name_who_says_them() -> Fallible {
    let timeouts = Timeouts::new(
        Some(Duration::from_secs(2)),
        Some(Duration::from_millis(500)),
    )?;
    let rule = Rule::to(vec![To::new(service("cart"), 80, 1)?]);
    let rule = rule
        .with_timeouts(timeouts)
        .with_retry(RetryPolicy::new(3).on_status(503)?);
    let snapshot = world(vec![route(vec![rule])?])?;
    let route = Some("HTTPRoute/shop/cart");
    let grpc = "content-type: application/grpc";
    for (fields, attempt, whole, sent) in [
        (
            &[][..],
            (500, "backendRequest", route),
            (2_000, "request", route),
            ("x-envoy-expected-rq-timeout-ms", "500"),
        ),
        (
            &["x-envoy-expected-rq-timeout-ms: 900"],
            (500, "backendRequest", route),
            (900, "x-envoy-expected-rq-timeout-ms", None),
            ("x-envoy-expected-rq-timeout-ms", "500"),
        ),
        (
            &[grpc, "grpc-timeout: 300m"],
            (300, "grpc-timeout", None),
            (300, "grpc-timeout", None),
            ("grpc-timeout", "300m"),
        ),
        (
            &["grpc-timeout: 2S"],
            (500, "backendRequest", route),
            (2_000, "request", route),
            ("x-envoy-expected-rq-timeout-ms", "500"),
        ),
    ] {
        let mut question = Question::parse("GET http://cart/")?.from(WEB.parse()?);
        for field in fields {
            question = question.header(field)?;
        }
        let seen = explain(&Scene::new(&snapshot, &web()), &question);
        let deadline = seen.deadline.ok_or("it has a deadline")?;
        let said = |limit: &Limit| (limit.millis, limit.by.clone(), limit.object.clone());
        let wanted = |(millis, by, object): (u64, &str, Option<&str>)| {
            (millis, by.to_owned(), object.map(ToOwned::to_owned))
        };
        assert_eq!(said(&deadline.attempt), wanted(attempt), "{fields:?}");
        let end = deadline.whole.ok_or("it has an end")?;
        assert_eq!(said(&end), wanted(whole), "{fields:?}");
        let head = seen.sent.ok_or("it is sent")?;
        assert_eq!(head.headers.0[sent.0], sent.1, "{fields:?}");
        let repeats = seen.repeats.ok_or("it is sent again")?;
        assert_eq!(repeats.wait_millis, [25, 50, 100]);
        assert!(repeats.idempotent && repeats.kept && repeats.budget);
    }
    let post = ask(&snapshot, "POST http://cart/")?;
    assert_eq!(post.repeats.map(|repeats| repeats.idempotent), Some(false));
    let opaque = ask(&snapshot, "tcp://cart:80")?;
    assert!(opaque.deadline.is_none() && opaque.repeats.is_none());
    Ok(())
}

/// A call of gRPC is refused in the words of gRPC.
#[test]
fn a_refused_call_of_grpc_has_its_status() -> Fallible {
    let snapshot = world(vec![])?;
    let question = Question::parse("POST http://nowhere/a.B/C")?;
    let question = question.header("content-type: application/grpc")?;
    let seen = explain(&Scene::new(&snapshot, &web()), &question);
    assert_eq!(
        (seen.verdict.status, seen.verdict.grpc_status),
        (Some(404), Some(12))
    );
    Ok(())
}

/// Only what an endpoint's slice says of its workload is known, or what the question says.
#[test]
fn labels_that_are_not_known_are_said() -> Fallible {
    let tier = key(Kind::AuthorizationPolicy, "tier");
    let deny = Policy::new(tier, Action::Deny, vec![PolicyRule::default()]).select("tier", "gold");
    let snapshot = world(vec![Op::put(deny)])?;
    let before = ask(&snapshot, "GET http://cart/items")?;
    assert_eq!(verdict(&before), "sent");
    assert_eq!(before.inbound[0].unsure, ["AuthorizationPolicy/shop/tier"]);
    let question = Question::parse("GET http://cart/items")?.from(WEB.parse()?);
    let known = question.label("tier=gold")?;
    let after = explain(&Scene::new(&snapshot, &web()), &known);
    assert_eq!(verdict(&after), "refused 403 denied");
    assert!(after.inbound[0].unsure.is_empty());
    Ok(())
}

/// What is asked about an agent's own workload is decided by the policy that it serves with.
#[test]
fn a_workload_of_this_process_is_known() -> Fallible {
    let cart = Workload::new("shop", "cart", "cart")?.label("tier", "gold");
    let settings = Settings::new(cart, DefaultAction::Allow);
    let snapshot =
        Snapshot::new(settings).apply(Change::update(SourceId::new("t"), backend("cart", &[1])?));
    let seen = ask(&snapshot, "POST http://cart/")?;
    assert_eq!(verdict(&seen), "sent");
    assert!(seen.inbound[0].local);
    assert_eq!(seen.inbound[0].labels["tier"], "gold");
    Ok(())
}

#[test]
fn nothing_is_counted_and_no_probe_begins() -> Fallible {
    let snapshot = world(vec![])?;
    let set = snapshot
        .service(&service("v2"))
        .and_then(|s| s.endpoints(80))
        .expect("it is there");
    let ejected = Arc::new(EndpointSet::build(
        ["10.0.0.1:1", "10.0.0.2:1"].map(|at| {
            crate::model::Endpoint::new(at.parse().expect("an address"), Transport::Plain)
        }),
        None,
    ));
    let second = Duration::from_secs(1);
    let mut draw = Draw::new(1);
    while ejected.ejected_len() == 0 {
        let picked = crate::balance::pick(&ejected, Default::default(), second, &[], &mut draw);
        picked?.failed(second);
    }
    // Its probe is due: the explanation says so each time, and a request makes it once.
    let later = Duration::from_secs(100);
    for _ in 0..3 {
        let seen = foresee(&ejected, Default::default(), later, &mut draw)?;
        assert!(seen.state.is_ejected());
        assert_eq!(seen.state.in_flight(), 0);
    }
    let probe = crate::balance::pick(&ejected, Default::default(), later, &[], &mut draw)?;
    assert!(probe.is_probe());
    let next = foresee(&ejected, Default::default(), later, &mut draw)?;
    assert!(!next.state.is_ejected());
    let _explained = ask(&snapshot, "GET http://v2/")?;
    assert!(set.members().iter().all(|m| m.state.in_flight() == 0));
    Ok(())
}

#[test]
fn an_explanation_is_written_and_read_without_credentials() -> Fallible {
    let snapshot = world(vec![])?;
    let question = Question::parse("GET http://cart/items")?.from(WEB.parse()?);
    let question = question.header("authorization: Bearer secret")?;
    let seen = explain(&Scene::new(&snapshot, &web()), &question);
    let text = serde_json::to_string(&seen)?;
    assert!(!text.contains("secret"), "{text}");
    let read: Explanation = serde_json::from_str(&text)?;
    assert_eq!(serde_json::to_string(&read)?, text);
    Ok(())
}

#[test]
fn faults_are_drawn_as_they_are_for_a_request() -> Fallible {
    use crate::traffic::{Abort, Blocks, FaultInjection, Percentage, Target, TrafficPolicy};
    let put = |name: &str, target: Target, fault: FaultInjection, request: Option<Duration>| {
        let blocks = Blocks {
            fault: Some(fault.into()),
            timeouts: Some(Timeouts::new(request, None)?),
            ..Blocks::default()
        };
        let key = ObjectKey::new(Kind::TrafficPolicy, &shop(), name)?;
        Fallible::Ok(Op::put(TrafficPolicy::new(key, vec![target], blocks)?))
    };
    let cart = || Target::Service(service("cart"), None);
    let (millis, all) = (Duration::from_millis, Percentage::ALL);
    let delay = |ms| FaultInjection::default().with_delay(all, millis(ms));
    let get = "GET http://cart/items";
    // What waits in time is sent, with what is left.
    let snapshot = world(vec![put("slow", cart(), delay(300)?, Some(millis(1_000)))?])?;
    let slow = ask(&snapshot, get)?;
    assert_eq!(slow.verdict.outcome, Outcome::Sent);
    let fault = slow.fault.as_ref().ok_or("a fault")?;
    assert_eq!((fault.delay_millis, fault.aborted), (Some(300), false));
    assert_eq!(fault.object.as_deref(), Some("TrafficPolicy/shop/slow"));
    assert!(slow.settings.iter().any(|setting| setting.name == "fault"));
    let deadline = slow.deadline.ok_or("a deadline")?;
    let whole = deadline.whole.map(|whole| whole.millis);
    assert_eq!((deadline.attempt.millis, whole), (700, Some(1_000)));
    // What does not is late.
    let snapshot = world(vec![put("slow", cart(), delay(300)?, Some(millis(200)))?])?;
    let late = ask(&snapshot, get)?;
    assert_eq!(late.verdict.reason.as_deref(), Some("request-timeout"));
    assert!(late.endpoints.is_empty());
    // A policy for the rule is nearer than one for the Service; copies are not sent of what is aborted.
    let teapot = Abort::Http(http::StatusCode::IM_A_TEAPOT);
    let aborts = FaultInjection::default().with_abort(all, teapot)?;
    let of_rule = ObjectKey::new(Kind::HttpRoute, &shop(), "cart")?;
    let rule = Rule::to(vec![To::new(service("cart"), 80, 1)?]);
    let snapshot = world(vec![
        route(vec![rule])?,
        put("near", Target::Route(of_rule, None), aborts, None)?,
        put("slow", cart(), delay(300)?, None)?,
    ])?;
    let aborted = ask(&snapshot, get)?;
    assert_eq!(verdict(&aborted), "refused 418 fault-injected");
    assert_eq!(
        aborted.verdict.policy.as_deref(),
        Some("TrafficPolicy/shop/near")
    );
    assert!(
        aborted
            .settings
            .iter()
            .any(|setting| setting.name == "fault")
    );
    assert!(aborted.endpoints.is_empty());
    // A status of gRPC is for gRPC alone; shares count what reaches no backend.
    let half = Percentage::new(50.0)?;
    let grpc = FaultInjection::default().with_abort(half, Abort::Grpc(8))?;
    let snapshot = world(vec![put("grpc", cart(), grpc, None)?])?;
    let plain = ask(&snapshot, get)?;
    assert_eq!(plain.fault.map(|fault| fault.aborted), Some(false));
    let call = Question::parse("POST http://cart/shop.Cart/Get")?.from(WEB.parse()?);
    let question = call.header("content-type: application/grpc")?;
    let local = web();
    let scene = Scene::new(&snapshot, &local);
    let kept = shares(&scene, &question, 1_000)[&None];
    assert!((420..580).contains(&kept), "{kept}");
    let seeds = seeds(&scene, &question, 100);
    let mut seen: Vec<_> = seeds
        .into_iter()
        .map(|seed| {
            let question = question.clone().draw(seed);
            explain(&scene, &question).verdict.grpc_status
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen.len(), 2);
    assert!(seen.contains(&Some(8)), "{seen:?}");
    Ok(())
}

#[test]
fn an_explanation_says_what_the_workload_behind_takes() -> Fallible {
    use crate::authorize::{Operation, PolicyRule};
    use crate::limit::{AdaptiveConcurrency, Rate, RateLimit, RateRule, Rates};
    use crate::traffic::{Blocks, Target, TrafficPolicy};
    let rate = |requests| Rate::new(requests, Duration::from_secs(1), requests);
    let slow = Operation::builder().paths(["/slow"]).build()?;
    let rule = PolicyRule::new(Vec::new(), vec![slow]);
    let rules = vec![RateRule::new(rule, Rates::new(Some(rate(5)?), None))?];
    let all = Rates::new(Some(rate(100)?), Some(rate(10)?));
    let blocks = Blocks {
        rate_limit: Some(RateLimit::new(all, rules)?.into()),
        adaptive: Some(AdaptiveConcurrency::new(2, 50, 1.5)?),
        ..Blocks::default()
    };
    let key = ObjectKey::new(Kind::TrafficPolicy, &shop(), "rates")?;
    let cart = Target::Workloads(vec![("app".into(), "cart".into())]);
    let policy = Op::put(TrafficPolicy::new(key, vec![cart], blocks)?);
    let snapshot = world(vec![policy])?;
    let each = "10 in 1 s, 10 at once, of each caller";
    let such = "5 in 1 s, 5 at once, of all callers for such requests";
    let total = "100 in 1 s, 100 at once, of all callers";
    for (request, rule, rates) in [
        ("GET http://cart/items", None, [each, total]),
        ("GET http://cart/slow", Some(0), [such, total]),
    ] {
        let seen = ask(&snapshot, request)?;
        assert_eq!(seen.verdict.outcome, Outcome::Sent);
        let limits = seen.inbound.iter().filter_map(|seen| seen.limit.as_ref());
        let limits: Vec<_> = limits.collect();
        let limit = limits.first().ok_or("a limit")?;
        assert_eq!(limit.object.as_deref(), Some("TrafficPolicy/shop/rates"));
        assert_eq!(
            (limit.rule, &*limit.rates),
            (rule, &rates.map(String::from)[..])
        );
    }
    let seen = ask(&snapshot, "GET http://cart/items")?;
    let at_once = seen
        .inbound
        .first()
        .and_then(|seen| seen.concurrency.as_ref());
    let at_once = at_once.ok_or("a limit")?;
    let shown = "2 to 50 at once, while answers take up to 1.5 times as long as at best";
    assert_eq!(at_once.rates, [shown]);
    // Another workload has none.
    let seen = ask(&world(Vec::new())?, "GET http://cart/items")?;
    assert!(seen.inbound.iter().all(|seen| seen.limit.is_none()));
    Ok(())
}
