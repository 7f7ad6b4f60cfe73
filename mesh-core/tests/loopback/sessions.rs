//! Sessions: clients stay with one endpoint, and with one backend of a split.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use ::http::header::{COOKIE, HOST, HeaderName, HeaderValue, SET_COOKIE};
use ::http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use inmesh_core::Body;
use inmesh_core::model::{
    AppProtocol, Host, Kind, Namespace, ObjectKey, Service, ServiceName, ServicePort, Slice,
    SliceHost, SlicePort, Transport,
};
use inmesh_core::retry::RetryPolicy;
use inmesh_core::route::{Backend, Parent, Route, Rule};
use inmesh_core::snapshot::Op;
use inmesh_core::traffic::{
    Blocks, CookieLifetime, SessionPersistence, SessionType, Target, TrafficPolicy,
};

use crate::support::{Pair, Result, for_cart, get, h1, h2, origin, push, soon, text};

fn key(kind: Kind, name: &str) -> Result<ObjectKey> {
    Ok(ObjectKey::new(kind, &Namespace::new("shop")?, name)?)
}

fn service(name: &str) -> Result<ServiceName> {
    Ok(ServiceName::new(&Namespace::new("shop")?, name)?)
}

/// A server that answers with its name, or with 503 where a request names it.
async fn server(name: &'static str) -> Result<SocketAddr> {
    origin(move |request: Request<Incoming>| async move {
        let mut answer = Response::new(Body::from(name));
        if request.headers().get("x-fail").is_some_and(|at| at == name) {
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        answer
    })
    .await
}

/// An endpoint of a Service in a slice of its own; `serves` is whether it is there.
fn endpoint(of: &str, name: &str, at: SocketAddr) -> Result<Op> {
    Ok(Op::put(Slice::new(
        key(Kind::EndpointSlice, name)?,
        service(of)?,
        vec![SlicePort::new("main", at.port())],
        vec![SliceHost::new(Host::Address(at.ip()))],
        Transport::Plain,
    )))
}

fn by(kind: SessionType) -> Result<SessionPersistence> {
    Ok(SessionPersistence::new(kind).named("stay")?)
}

fn cookie() -> Result<SessionPersistence> {
    by(SessionType::Cookie(CookieLifetime::Session))
}

fn policy(target: Target, session: SessionPersistence) -> Result<Op> {
    let mut blocks = Blocks::default();
    blocks.session = Some(session.into());
    blocks.retry = Some(RetryPolicy::new(2).on_status(503)?.into());
    let key = key(Kind::TrafficPolicy, "stay")?;
    Ok(Op::put(TrafficPolicy::new(key, vec![target], blocks)?))
}

/// `cart` with three servers, whose clients stay.
async fn three(session: SessionPersistence) -> Result<(Pair, Vec<SocketAddr>)> {
    let mut at = Vec::new();
    for name in ["a", "b", "c"] {
        at.push(server(name).await?);
    }
    let pair = Pair::new(AppProtocol::Http1, at[0]).await?;
    let target = Target::Service(service("cart")?, None);
    push(
        &pair,
        vec![
            endpoint("cart", "cart-0", at[0])?,
            endpoint("cart", "cart-1", at[1])?,
            endpoint("cart", "cart-2", at[2])?,
            policy(target, session)?,
        ],
    )
    .await?;
    Ok((pair, at))
}

/// What answers, and the token that it hands out.
async fn ask(pair: &Pair, fields: &[(HeaderName, &str)]) -> Result<(String, Option<String>)> {
    let mut request = get("http://cart/");
    for (name, value) in fields {
        request.headers_mut().insert(name.clone(), value.parse()?);
    }
    let answer = soon(pair.web.client().send(request)).await?;
    assert_eq!(answer.status(), StatusCode::OK);
    let token = match answer.headers().get(SET_COOKIE) {
        Some(cookie) => {
            let cookie = cookie.to_str()?;
            assert!(cookie.ends_with("; HttpOnly; SameSite=Strict"), "{cookie}");
            cookie.split(';').next().map(str::to_owned)
        }
        None => None,
    };
    Ok((text(answer).await?, token))
}

#[tokio::test]
async fn a_client_stays_with_its_endpoint_over_both_protocols() -> Result {
    let (pair, _) = three(cookie()?).await?;
    let (mut one, mut two) = (h1(pair.outbound).await?, h2(pair.outbound).await?);
    let mut met = BTreeSet::new();
    for _ in 0..20 {
        let (name, token) = ask(&pair, &[]).await?;
        let token = token.ok_or("a token")?;
        for nth in 0..3 {
            let mut asked = for_cart("/");
            asked.headers_mut().insert(COOKIE, token.parse()?);
            let answer = match nth {
                0 => soon(one.send_request(asked)).await??,
                1 => {
                    asked.headers_mut().remove(HOST);
                    *asked.uri_mut() = "http://cart/".parse()?;
                    soon(two.send_request(asked)).await??
                }
                _ => {
                    assert_eq!(ask(&pair, &[(COOKIE, &token)]).await?, (name.clone(), None));
                    continue;
                }
            };
            assert!(!answer.headers().contains_key(SET_COOKIE));
            assert_eq!(text(answer).await?, name);
        }
        met.insert(name);
    }
    assert!(met.len() > 1, "they are balanced: {met:?}");
    Ok(())
}

#[tokio::test]
async fn a_session_whose_endpoint_is_gone_has_another() -> Result {
    let (pair, _) = three(cookie()?).await?;
    let (name, token) = ask(&pair, &[]).await?;
    let token = token.ok_or("a token")?;
    let slice = match &*name {
        "a" => "cart-0",
        "b" => "cart-1",
        _ => "cart-2",
    };
    push(&pair, vec![Op::Remove(key(Kind::EndpointSlice, slice)?)]).await?;
    let (next, handed) = ask(&pair, &[(COOKIE, &token)]).await?;
    assert_ne!(next, name);
    let handed = handed.ok_or("another token")?;
    for _ in 0..5 {
        assert_eq!(
            ask(&pair, &[(COOKIE, &handed)]).await?,
            (next.clone(), None)
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_request_that_is_sent_again_may_leave_its_session() -> Result {
    let (pair, _) = three(cookie()?).await?;
    let (name, token) = ask(&pair, &[]).await?;
    let token = token.ok_or("a token")?;
    let fail = HeaderName::from_static("x-fail");
    let (next, handed) = ask(&pair, &[(COOKIE, &token), (fail, &name)]).await?;
    assert_ne!(next, name);
    // What it is handed leads where it was answered.
    let handed = handed.ok_or("another token")?;
    assert_eq!(ask(&pair, &[(COOKIE, &handed)]).await?, (next, None));
    assert_eq!(ask(&pair, &[(COOKIE, &token)]).await?, (name, None));
    Ok(())
}

#[tokio::test]
async fn a_header_field_serves_as_a_cookie_does_and_none_leads_elsewhere() -> Result {
    let (pair, _) = three(by(SessionType::Header)?).await?;
    let stay = HeaderName::from_static("stay");
    let answer = soon(pair.web.client().send(get("http://cart/"))).await?;
    let token = answer.headers()[&stay].to_str()?.to_owned();
    let name = text(answer).await?;
    for _ in 0..10 {
        let mut request = get("http://cart/");
        request
            .headers_mut()
            .insert(&stay, HeaderValue::from_str(&token)?);
        let answer = soon(pair.web.client().send(request)).await?;
        assert!(!answer.headers().contains_key(&stay));
        assert_eq!(text(answer).await?, name);
    }
    // A token that names no endpoint here is no session: another one is handed out.
    let forged = token.replacen(&token[16..32], "00000000deadbeef", 1);
    for wrong in [&*forged, "", "127.0.0.1:1", &token[1..]] {
        let mut request = get("http://cart/");
        request
            .headers_mut()
            .insert(&stay, HeaderValue::from_str(wrong)?);
        let answer = soon(pair.web.client().send(request)).await?;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_ne!(answer.headers()[&stay], wrong);
    }
    Ok(())
}

/// GEP-1619, "Traffic Splitting": a session comes before weights, also where one is 0.
#[tokio::test]
async fn a_session_of_a_rule_keeps_its_backend_of_a_split() -> Result {
    let (pair, at) = three(cookie()?).await?;
    let ports = || vec![ServicePort::new("main", 80, AppProtocol::Http1)];
    let split = |v1, v2| -> Result<Op> {
        let to = |name, weight| {
            Ok::<_, crate::support::BoxError>(Backend::new(service(name)?, 80, weight)?)
        };
        let rule = Rule::to(vec![to("v1", v1)?, to("v2", v2)?]);
        let parents = vec![Parent::new(service("cart")?, None)];
        Ok(Op::put(Route::new(
            key(Kind::HttpRoute, "cart")?,
            parents,
            vec![rule],
        )?))
    };
    let of_rule = Target::Route(key(Kind::HttpRoute, "cart")?, None);
    push(
        &pair,
        vec![
            Op::put(Service::new(service("v1")?, ports())),
            Op::put(Service::new(service("v2")?, ports())),
            endpoint("v1", "v1-0", at[0])?,
            endpoint("v2", "v2-0", at[1])?,
            endpoint("v2", "v2-1", at[2])?,
            split(50, 50)?,
            policy(of_rule, cookie()?)?,
        ],
    )
    .await?;
    let mut sessions = Vec::new();
    for _ in 0..30 {
        let (name, token) = ask(&pair, &[]).await?;
        sessions.push((name, token.ok_or("a token")?));
    }
    let met: BTreeSet<_> = sessions.iter().map(|(name, _)| &**name).collect();
    assert_eq!(met, BTreeSet::from(["a", "b", "c"]));
    push(&pair, vec![split(0, 100)?]).await?;
    for (name, token) in &sessions {
        assert_eq!(ask(&pair, &[(COOKIE, token)]).await?, (name.clone(), None));
    }
    for _ in 0..20 {
        assert_ne!(
            ask(&pair, &[]).await?.0,
            "a",
            "a new session is drawn by weight"
        );
    }
    Ok(())
}
