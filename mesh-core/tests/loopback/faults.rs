//! Faults that a policy has made.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use ::http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use inmesh_core::Body;
use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey, ServiceName};
use inmesh_core::retry::RetryPolicy;
use inmesh_core::route::{Backend, Cors, Filter, HeaderChanges, Parent, Route, Rule, Timeouts};
use inmesh_core::snapshot::Op;
use inmesh_core::traffic::{
    Abort, Bandwidth, Blocks, FaultInjection, Percentage, Target, TrafficPolicy,
};
use tokio::time::Instant;

use crate::support::{Pair, Result, get, origin, push, soon, tell, text};

async fn with(pair: &Pair, blocks: Blocks) -> Result {
    let shop = Namespace::new("shop")?;
    let key = ObjectKey::new(Kind::TrafficPolicy, &shop, "cart")?;
    let cart = Target::Service(ServiceName::new(&shop, "cart")?, None);
    let policy = Op::put(TrafficPolicy::new(key, vec![cart], blocks)?);
    let mut changed = pair.web.snapshot().clone();
    let before = changed.load().generation();
    pair.pusher.push(vec![policy]).await?;
    while changed.load().generation() == before {
        soon(changed.changed()).await?;
    }
    Ok(())
}

fn grpc() -> Request<Body> {
    let mut request = get("http://cart/shop.Cart/Get");
    *request.version_mut() = Version::HTTP_2;
    let kind = HeaderValue::from_static("application/grpc");
    request.headers_mut().insert("content-type", kind);
    request
}

/// A server that counts what reaches it, and the pair before it.
async fn counting() -> Result<(Pair, Arc<AtomicUsize>)> {
    let count = Arc::new(AtomicUsize::new(0));
    let reached = Arc::clone(&count);
    let app = origin(move |request: Request<Incoming>| {
        reached.fetch_add(1, Ordering::SeqCst);
        tell(request)
    });
    Ok((Pair::new(AppProtocol::Http1, app.await?).await?, count))
}

#[tokio::test]
async fn an_abort_is_the_answer_and_reaches_no_server() -> Result {
    let (pair, reached) = counting().await?;
    let mut blocks = Blocks::default();
    let abort = Abort::Http(StatusCode::IM_A_TEAPOT);
    let fault = FaultInjection::default().with_abort(Percentage::ALL, abort)?;
    blocks.fault = Some(fault.into());
    // A fault is the caller's to see: it is not repeated.
    blocks.retry = Some(RetryPolicy::new(3).on_status(418)?.into());
    with(&pair, blocks.clone()).await?;
    let answer = soon(pair.web.client().send(get("http://cart/"))).await?;
    assert_eq!(answer.status(), 418);
    assert_eq!(answer.headers()["x-mesh-reason"], "fault-injected");
    text(answer).await?;
    let record = pair.out_seen.one(|_| true).await?;
    assert_eq!(record.status, 418);
    let policy = record.policy.map(|key| key.to_string());
    assert_eq!(policy.as_deref(), Some("TrafficPolicy/shop/cart"));
    // A call of gRPC gets what stands for it.
    let answer = soon(pair.web.client().send(grpc())).await?;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["grpc-status"], "2");
    // A status of gRPC is for gRPC alone.
    let fault = FaultInjection::default().with_abort(Percentage::ALL, Abort::Grpc(8))?;
    blocks.fault = Some(fault.into());
    with(&pair, blocks).await?;
    let answer = soon(pair.web.client().send(grpc())).await?;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["grpc-status"], "8");
    assert_eq!(reached.load(Ordering::SeqCst), 0);
    let answer = soon(pair.web.client().send(get("http://cart/"))).await?;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(reached.load(Ordering::SeqCst), 1);
    Ok(())
}

#[tokio::test]
async fn a_delay_is_waited_for_within_the_time_of_the_request() -> Result {
    let (pair, reached) = counting().await?;
    let wait = Duration::from_millis(150);
    let fault = FaultInjection::default().with_delay(Percentage::ALL, wait)?;
    let mut blocks = Blocks::default();
    blocks.fault = Some(fault.clone().into());
    with(&pair, blocks.clone()).await?;
    let before = Instant::now();
    let answer = soon(pair.web.client().send(get("http://cart/"))).await?;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(before.elapsed() >= wait);
    blocks.timeouts = Some(Timeouts::new(Some(Duration::from_millis(20)), None)?);
    with(&pair, blocks).await?;
    let answer = soon(pair.web.client().send(get("http://cart/"))).await?;
    assert_eq!(answer.headers()["x-mesh-reason"], "request-timeout");
    assert_eq!(reached.load(Ordering::SeqCst), 1);
    Ok(())
}

#[tokio::test]
async fn a_share_of_requests_fails() -> Result {
    let (pair, reached) = counting().await?;
    let abort = Abort::Http(StatusCode::SERVICE_UNAVAILABLE);
    let half = FaultInjection::default().with_abort(Percentage::new(50.0)?, abort)?;
    let mut blocks = Blocks::default();
    blocks.fault = Some(half.into());
    with(&pair, blocks).await?;
    for _ in 0..200 {
        soon(pair.web.client().send(get("http://cart/"))).await?;
    }
    let reached = reached.load(Ordering::SeqCst);
    assert!((60..140).contains(&reached), "{reached}");
    Ok(())
}

#[tokio::test]
async fn an_abort_is_an_answer_of_the_route_to_a_page_too() -> Result {
    let (pair, _reached) = counting().await?;
    let cors = Cors::new()
        .allow_origin("https://a.lab")?
        .allow_method("GET")?;
    let mark = HeaderChanges::new().set("x-route".parse()?, HeaderValue::from_static("r"))?;
    let filters = vec![Filter::Cors(Arc::new(cors)), Filter::ResponseHeaders(mark)];
    let cart = ServiceName::new(&Namespace::new("shop")?, "cart")?;
    let rule = Rule::to(vec![Backend::new(cart.clone(), 80, 1)?]).with_filters(filters);
    let key = ObjectKey::new(Kind::HttpRoute, cart.namespace(), "r")?;
    let route = Route::new(key, vec![Parent::new(cart, None)], vec![rule])?;
    push(&pair, vec![Op::put(route)]).await?;
    let abort = Abort::Http(StatusCode::BAD_GATEWAY);
    let fault = FaultInjection::default().with_abort(Percentage::ALL, abort)?;
    let mut blocks = Blocks::default();
    blocks.fault = Some(fault.into());
    with(&pair, blocks).await?;
    for (method, status) in [(Method::GET, 502), (Method::OPTIONS, 204)] {
        let mut request = get("http://cart/");
        *request.method_mut() = method;
        let headers = request.headers_mut();
        headers.insert(ORIGIN, HeaderValue::from_static("https://a.lab"));
        let wish = HeaderValue::from_static("GET");
        headers.insert(ACCESS_CONTROL_REQUEST_METHOD, wish);
        let answer = soon(pair.web.client().send(request)).await?;
        assert_eq!(answer.status().as_u16(), status);
        let headers = answer.headers();
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.lab");
        assert_eq!(headers["x-route"], "r");
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_is_slowed_and_stays_whole() -> Result {
    const BYTES: usize = 20_000;
    let app = origin(async |_: Request<Incoming>| Response::new(Body::from(vec![b'x'; BYTES])));
    let pair = Pair::new(AppProtocol::Http1, app.await?).await?;
    // 100 kB a second.
    let bandwidth = Bandwidth::new(800_000)?;
    let fault = FaultInjection::default().with_bandwidth(Percentage::ALL, bandwidth);
    let mut blocks = Blocks::default();
    blocks.fault = Some(fault.into());
    with(&pair, blocks).await?;
    let before = Instant::now();
    let answer = soon(pair.web.client().send(get("http://cart/"))).await?;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(text(answer).await?.len(), BYTES);
    // The last of four parts of 50 ms passes after three.
    assert!(before.elapsed() >= Duration::from_millis(150));
    let record = pair.out_seen.one(|_| true).await?;
    assert_eq!(record.response_bytes, BYTES as u64);
    Ok(())
}
