//! What a route, an egress policy or an authorizer answers in place of an endpoint.

use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use inmesh_core::authorize::{
    Action, Answer, Asking, Authorizer, Operation, Policy, PolicyRule, Provider, Question,
    RequestView,
};
use inmesh_core::discover::pushed;
use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey, ServiceName};
use inmesh_core::route::{
    Backend, Cors, Filter, GrpcMatch, GrpcRoute, GrpcRule, HeaderChanges, InvalidRoute, Match,
    Outcome, Parent, PathMatch, PathRewrite, Redirect, Respond, Rewrite, Route, Rule, ValueMatch,
};
use inmesh_core::runtime::InboundListener;
use inmesh_core::snapshot::Op;
use inmesh_core::{Body, Reason};
use tokio::net::TcpListener;

use crate::support::{
    Builder, Pair, Result, for_cart, get, h1, origin, origin_h2, tell, text, with_egress,
};

fn service(name: &str) -> Result<ServiceName> {
    Ok(ServiceName::new(&Namespace::new("shop")?, name)?)
}

fn route(rules: Vec<Rule>) -> Result<Op> {
    let key = ObjectKey::new(Kind::HttpRoute, &Namespace::new("shop")?, "r")?;
    let route = Route::new(key, vec![Parent::new(service("cart")?, None)], rules)?;
    Ok(Op::put(route))
}

async fn push(pair: &Pair, ops: Vec<Op>) -> Result {
    pair.pusher.push(ops).await?;
    Ok(())
}

/// A rule's own answer is one: edited, recorded, and not the mesh's failure.
#[tokio::test]
async fn a_route_answers_by_itself() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let at = |path: &str| Ok::<_, InvalidRoute>(vec![Match::path(PathMatch::literal(path, true)?)]);
    let redirect = Redirect::new()
        .with_scheme("https")?
        .with_status(308)?
        .with_path(PathRewrite::prefix("/new")?);
    let marked = Filter::ResponseHeaders(
        HeaderChanges::new().set("x-route".parse()?, HeaderValue::from_static("r"))?,
    );
    let rules = vec![
        Rule::with(Outcome::Redirect(redirect)).when(at("/old")?),
        Rule::with(Outcome::Respond(Respond::new(451, "closed\n")?))
            .when(at("/closed")?)
            .with_filters(vec![marked]),
    ];
    push(&pair, vec![route(rules)?]).await?;
    let mut caller = h1(pair.outbound).await?;
    let answer = caller.send_request(for_cart("/old/a?b=c")).await?;
    assert_eq!(answer.status(), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(answer.headers()["location"], "https://cart/new/a?b=c");
    assert_eq!(text(answer).await?, "");
    let answer = pair.web.client().send(get("http://cart/closed")).await;
    assert_eq!(answer.status().as_u16(), 451);
    assert_eq!(answer.headers()["x-route"], "r");
    assert_eq!(answer.extensions().get::<Reason>(), None);
    assert_eq!(text(answer).await?, "closed\n");
    for status in [308, 451] {
        let record = pair.out_seen.one(|x| x.status == status).await?;
        assert_eq!((record.reason, record.attempts.len()), (None, 0));
        assert_eq!(
            record.route.map(|(route, _)| route.to_string()),
            Some("HTTPRoute/shop/r".into())
        );
    }
    assert!(pair.in_seen.all().is_empty(), "no endpoint was asked");
    Ok(())
}

/// Host and path are rewritten for the next hop, over both versions of HTTP.
#[tokio::test]
async fn a_rewrite_reaches_the_server() -> Result {
    let seen = async |request: Request<Incoming>| {
        let host = request.headers().get(header::HOST).cloned();
        let host = host.map(|h| h.to_str().unwrap_or_default().to_owned());
        let authority = request.uri().authority().map(ToString::to_string);
        let target = request.uri().path_and_query().map(ToString::to_string);
        let host = host.or(authority).unwrap_or_default();
        Response::new(Body::from(host + &target.unwrap_or_default()))
    };
    for (protocol, app) in [
        (AppProtocol::Http1, origin(seen).await?),
        (AppProtocol::Http2, origin_h2(seen).await?),
    ] {
        let pair = Pair::new(protocol, app).await?;
        let rewrite = Rewrite::new()
            .with_host("inner.lab")?
            .with_path(PathRewrite::prefix("/")?);
        let rule = Rule::to(vec![Backend::new(service("cart")?, 80, 1)?])
            .when(vec![Match::path(PathMatch::literal("/api", true)?)])
            .with_filters(vec![Filter::Rewrite(rewrite)]);
        push(&pair, vec![route(vec![rule])?]).await?;
        let answer = pair.web.client().send(get("http://cart/api/a?b=c")).await;
        assert_eq!(text(answer).await?, "inner.lab/a?b=c", "{protocol}");
        // What was decided on is what is recorded.
        let record = pair.out_seen.one(|_| true).await?;
        assert_eq!((&*record.authority, record.uri.path()), ("cart", "/api/a"));
    }
    Ok(())
}

/// The typed reason of an answer of the mesh, for programs.
#[tokio::test]
async fn a_caller_gets_the_reason_as_a_type_or_as_an_error() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let client = pair.web.client();
    let answer = client.send(get("http://gone/")).await;
    assert_eq!(
        answer.extensions().get::<Reason>(),
        Some(&Reason::UnknownHost)
    );
    let error = client.try_send(get("http://gone/")).await;
    let error = error.err().ok_or("an answer")?;
    assert_eq!(error.reason(), Reason::UnknownHost);
    assert!(error.detail().contains("gone"), "{error}");
    let answer = client.try_send(get("http://cart/a")).await?;
    assert_eq!(answer.extensions().get::<Reason>(), None);
    assert_eq!(text(answer).await?, "GET /a HTTP/1.1 0");
    // Both were recorded, and counted once.
    let failed = || {
        let all = pair.out_seen.all();
        all.iter().filter(|x| x.status == 404).count()
    };
    pair.out_seen.one(|x| x.status == 200).await?;
    assert_eq!(failed(), 1, "the answer that was not read yet is open");
    Ok(())
}

/// An egress policy stops a request before it leaves.
#[tokio::test]
async fn an_egress_policy_stops_requests_and_connections() -> Result {
    let post = Operation::builder().methods(["POST"]).build()?;
    let rule = PolicyRule::new(vec![], vec![post]);
    let nowhere = ([127, 0, 0, 1], 1).into();
    let (mesh, _pusher) = with_egress(rule, AppProtocol::Http1, nowhere).await?;
    let reason = async |method: Method| {
        let mut request = get("http://cart/");
        *request.method_mut() = method;
        let error = mesh.client().try_send(request).await.err();
        error.map(|e| (e.reason(), e.policy().map(ToString::to_string)))
    };
    let policy = Some("AuthorizationPolicy/shop/out".to_owned());
    assert_eq!(reason(Method::POST).await, Some((Reason::Denied, policy)));
    assert_eq!(
        reason(Method::GET).await,
        Some((Reason::ConnectFailed, None)),
        "permitted"
    );
    Ok(())
}

/// A policy leaves requests to an external authorizer, and opaque connections too.
#[tokio::test]
async fn an_external_authorizer_is_asked_for_inbound_requests() -> Result {
    struct Odd;
    impl Authorizer for Odd {
        fn ask<'a>(&'a self, question: Question<'a>) -> Asking<'a> {
            let even = match question.request {
                RequestView::Http(http) => http.path() == "/even",
                _ => false,
            };
            let answer = if even { Answer::Allow } else { Answer::Deny };
            Box::pin(async move {
                tokio::task::yield_now().await;
                answer
            })
        }
    }
    let build = |b: Builder| b.authorizer("odd", Odd, Duration::from_secs(5));
    let pair = Pair::with(AppProtocol::Http1, origin(tell).await?, build, |_| {}).await?;
    let key = ObjectKey::new(Kind::AuthorizationPolicy, &Namespace::new("shop")?, "ask")?;
    let ask = |provider: &str| {
        let action = Action::Custom(Provider::new(provider));
        let rule = PolicyRule::default();
        Op::put(Policy::new(key.clone(), action, vec![rule]))
    };
    let (pusher, source) = pushed("policy");
    let cart = pair.world.mesh("cart")?.source(source);
    let cart = build(cart).start()?;
    pusher.push(vec![ask("odd")]).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let to = InboundListener::new(origin(tell).await?, AppProtocol::Http1);
    tokio::spawn(async move { cart.serve_behind(listener, to).await });
    let ops = pair.world.service("cart", AppProtocol::Http1, &[address])?;
    push(&pair, ops).await?;
    let status = async |path: &str| {
        let answer = pair
            .web
            .client()
            .send(get(&format!("http://cart{path}")))
            .await;
        answer.status().as_u16()
    };
    assert_eq!((status("/even").await, status("/odd").await), (200, 403));
    pusher.push(vec![ask("unknown")]).await?;
    assert_eq!(status("/even").await, 403, "no such authorizer");
    Ok(())
}

/// A preflight ends at the route; an answer says what the route says of origins, not the server.
#[tokio::test]
async fn other_origins_are_answered_by_the_route() -> Result {
    let app = origin(async |request: Request<Incoming>| {
        let mut response = Response::new(Body::from(request.method().to_string()));
        let evil = HeaderValue::from_static("https://evil.lab");
        let allowed = header::ACCESS_CONTROL_ALLOW_ORIGIN;
        response.headers_mut().insert(allowed, evil);
        response
    });
    let pair = Pair::new(AppProtocol::Http1, app.await?).await?;
    let cors = Cors::new()
        .allow_origin("https://*.lab")?
        .allow_method("PUT")?
        .allow_credentials(true);
    let rule = Rule::to(vec![Backend::new(service("cart")?, 80, 1)?])
        .with_filters(vec![Filter::Cors(Arc::new(cors))]);
    push(&pair, vec![route(vec![rule])?]).await?;
    let ask = async |method: Method, origin: &'static str| {
        let mut request = get("http://cart/");
        *request.method_mut() = method;
        let headers = request.headers_mut();
        headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        let wish = header::ACCESS_CONTROL_REQUEST_METHOD;
        headers.insert(wish, HeaderValue::from_static("PUT"));
        let answer = pair.web.client().send(request).await;
        let said = |name| answer.headers().get(name).cloned();
        let allowed = said(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        let methods = said(header::ACCESS_CONTROL_ALLOW_METHODS);
        let found = format!("{} {allowed:?} {methods:?} ", answer.status().as_u16());
        Ok::<_, crate::support::BoxError>(found + &text(answer).await?)
    };
    for (method, from, wanted) in [
        (
            Method::OPTIONS,
            "https://a.lab",
            "204 Some(\"https://a.lab\") Some(\"PUT\") ",
        ),
        (Method::OPTIONS, "https://a.test", "204 None None "),
        (
            Method::PUT,
            "https://a.lab",
            "200 Some(\"https://a.lab\") None PUT",
        ),
        (Method::PUT, "https://a.test", "200 None None PUT"),
    ] {
        assert_eq!(ask(method, from).await?, wanted, "{from}");
    }
    assert_eq!(pair.in_seen.all().len(), 2, "preflights reach no server");
    Ok(())
}

/// Calls of gRPC are routed by service and method; what is not routed has the status of gRPC.
#[tokio::test]
async fn calls_are_routed_by_a_grpc_route() -> Result {
    let pair = Pair::new(AppProtocol::Grpc, origin_h2(tell).await?).await?;
    let rule = |to: &str, of: &str| {
        let of = GrpcMatch::new().service(ValueMatch::Exact(of.into()));
        let backend = Backend::new(service(to)?, 80, 1)?;
        Ok::<_, crate::support::BoxError>(GrpcRule::to(vec![backend]).when(vec![of]))
    };
    let key = ObjectKey::new(Kind::GrpcRoute, &Namespace::new("shop")?, "r")?;
    let rules = vec![rule("cart", "shop.Cart")?, rule("gone", "shop.Gone")?];
    let route = GrpcRoute::new(key, vec![Parent::new(service("cart")?, None)], rules)?;
    push(&pair, vec![Op::put(route)]).await?;
    for (path, kind, status, grpc) in [
        ("/shop.Cart/Get", "application/grpc", 200, None),
        ("/shop.Other/Get", "application/grpc", 200, Some("12")),
        ("/shop.Gone/Get", "application/grpc", 200, Some("14")),
        ("/shop.Cart/Get", "text/plain", 404, None),
    ] {
        let mut request = get(&format!("http://cart{path}"));
        *request.method_mut() = Method::POST;
        let kind = HeaderValue::from_static(kind);
        request.headers_mut().insert(header::CONTENT_TYPE, kind);
        let answer = pair.web.client().send(request).await;
        let found = answer.headers().get("grpc-status").cloned();
        let found = found.as_ref().and_then(|status| status.to_str().ok());
        assert_eq!((answer.status().as_u16(), found), (status, grpc), "{path}");
        text(answer).await?;
    }
    let record = pair.out_seen.one(|x| x.reason.is_none()).await?;
    let route = record.route.map(|(route, rule)| (route.to_string(), rule));
    assert_eq!(route, Some(("GRPCRoute/shop/r".into(), 0)));
    assert_eq!(pair.in_seen.all().len(), 1);
    Ok(())
}
