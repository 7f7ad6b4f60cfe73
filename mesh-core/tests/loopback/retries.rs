//! What a retry policy has sent again, and what reaches the servers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::{Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use inmesh_core::Body;
use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey, ServiceName};
use inmesh_core::retry::{BudgetPolicy, RetryPolicy};
use inmesh_core::route::{Backend, Parent, Route, Rule, Timeouts};
use inmesh_core::runtime::InboundListener;
use inmesh_core::snapshot::Op;
use inmesh_core::traffic::{Blocks, TrafficPolicy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{Pair, Result, get, origin, origin_h2, push, soon, text};

/// How many requests came, and which of them are answered with 200: those from this one on.
/// Beside it the highest number of an attempt that was said.
#[derive(Clone, Default)]
struct Count(Arc<AtomicUsize>, Arc<AtomicUsize>);

impl Count {
    fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn so_far(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Answers 503 until the `good`th request, which has its body sent back.
async fn fails_until(good: usize, count: Count, request: Request<Incoming>) -> Response<Body> {
    let number = count.next();
    // A repeat says which attempt it is.
    let said = request.headers().get("x-envoy-attempt-count").cloned();
    let said: usize = said.map_or(1, |n| n.to_str().unwrap_or_default().parse().unwrap_or(0));
    count.1.fetch_max(said, Ordering::SeqCst);
    let mut response = Response::new(Body::empty());
    if number < good {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    } else if let Ok(body) = request.into_body().collect().await {
        *response.body_mut() = Body::from(body.to_bytes());
    }
    response
}

async fn put(pair: &Pair, rule: impl Fn(Rule) -> Rule) -> Result {
    let shop = Namespace::new("shop")?;
    let cart = ServiceName::new(&shop, "cart")?;
    let rule = rule(Rule::to(vec![Backend::new(cart.clone(), 80, 1)?]));
    let key = ObjectKey::new(Kind::HttpRoute, &shop, "cart")?;
    let route = Route::new(key, vec![Parent::new(cart, None)], vec![rule])?;
    push(pair, vec![Op::put(route)]).await
}

fn on(statuses: &[u16], repeats: u32) -> Result<RetryPolicy> {
    let quick = Duration::from_millis(1);
    let policy = RetryPolicy::new(repeats).with_backoff(quick);
    let policy = statuses.iter().try_fold(policy, |p, s| p.on_status(*s))?;
    Ok(policy)
}

/// A POST whose body comes in two parts.
fn post() -> Request<Body> {
    let parts = ["hello ", "again"].map(|t| Ok::<_, std::io::Error>(Frame::data(Bytes::from(t))));
    let mut request = get("http://cart/");
    *request.method_mut() = Method::POST;
    *request.body_mut() = Body::new(StreamBody::new(futures_util::stream::iter(parts)));
    request
}

#[tokio::test]
async fn an_answer_that_the_policy_covers_is_asked_for_again_with_the_whole_body() -> Result {
    for protocol in [AppProtocol::Http1, AppProtocol::Http2] {
        let count = Count::default();
        let of = count.clone();
        let answer = move |request| fails_until(3, of.clone(), request);
        let app = match protocol {
            AppProtocol::Http2 => origin_h2(answer).await?,
            _ => origin(answer).await?,
        };
        let pair = Pair::new(protocol, app).await?;
        put(&pair, |rule| rule.with_retry(on(&[503], 2).unwrap())).await?;
        let answer = soon(pair.web.client().send(post())).await?;
        assert_eq!(answer.status(), StatusCode::OK, "{protocol:?}");
        assert_eq!(text(answer).await?, "hello again");
        assert_eq!((count.so_far(), count.1.load(Ordering::SeqCst)), (3, 3));
        let record = pair.out_seen.one(|_| true).await?;
        assert_eq!((record.attempts.len(), record.status), (3, 200));
        // Once more, and the last failure is passed on as it is.
        count.0.store(0, Ordering::SeqCst);
        put(&pair, |rule| rule.with_retry(on(&[503], 1).unwrap())).await?;
        let answer = soon(pair.web.client().send(post())).await?;
        assert_eq!(answer.status(), 503);
        assert!(!answer.headers().contains_key("x-mesh-reason"));
        assert_eq!(count.so_far(), 2);
    }
    Ok(())
}

/// A server that reads a request whole and closes without a word, until the `good`th.
async fn closes_until(good: usize, count: Count) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut all = Vec::new();
            while !all.ends_with(b"0\r\n\r\n") && !all.ends_with(b"content-length: 0\r\n\r\n") {
                all.push(stream.read_u8().await?);
            }
            if count.next() >= good {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
                stream.write_all(answer).await?;
            }
        }
        std::io::Result::Ok(())
    });
    Ok(address)
}

#[tokio::test]
async fn what_a_server_may_have_acted_on_is_repeated_only_as_its_author_says() -> Result {
    let idempotent = || {
        let mut request = post();
        *request.method_mut() = Method::PUT;
        request
    };
    for (request, statuses, wanted) in [
        (post as fn() -> _, &[503][..], 502),
        (post, &[502], 200),
        (idempotent, &[503], 200),
    ] {
        let count = Count::default();
        let pair = Pair::new(AppProtocol::Http1, closes_until(2, count.clone()).await?).await?;
        let policy = on(statuses, 1)?;
        put(&pair, |rule| rule.with_retry(policy.clone())).await?;
        let answer = soon(pair.web.client().send(request())).await?;
        assert_eq!(answer.status(), wanted);
        assert_eq!(count.so_far(), if wanted == 200 { 2 } else { 1 });
    }
    Ok(())
}

/// What the agent in front of an application could not hand on has reached no application.
#[tokio::test]
async fn a_request_that_no_application_took_is_sent_to_another() -> Result {
    let gone = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let count = Count::default();
    let of = count.clone();
    let app = origin(move |request| fails_until(1, of.clone(), request)).await?;
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    let behind_nothing = TcpListener::bind("127.0.0.1:0").await?;
    let both = [pair.inbound, behind_nothing.local_addr()?];
    let (cart, to) = (
        pair.cart.clone(),
        InboundListener::new(gone, AppProtocol::Http1),
    );
    tokio::spawn(async move { cart.serve_behind(behind_nothing, to).await });
    pair.pusher
        .push(pair.world.service("cart", AppProtocol::Http1, &both)?)
        .await?;
    put(&pair, |rule| rule.with_retry(on(&[], 1).unwrap())).await?;
    for _ in 0..20 {
        let answer = soon(pair.web.client().send(post())).await?;
        assert_eq!(text(answer).await?, "hello again");
    }
    assert_eq!(count.so_far(), 20);
    Ok(())
}

#[tokio::test]
async fn a_late_attempt_is_followed_by_another_within_the_time_of_the_request() -> Result {
    let count = Count::default();
    let of = count.clone();
    let app = origin(move |_: Request<Incoming>| {
        let number = of.next();
        async move {
            if number == 1 {
                std::future::pending::<()>().await;
            }
            Response::new(Body::from("late"))
        }
    })
    .await?;
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    let times = Timeouts::new(None, Some(Duration::from_millis(200)))?;
    let policy = on(&[], 1)?;
    put(&pair, |rule| {
        rule.with_retry(policy.clone()).with_timeouts(times)
    })
    .await?;
    let answer = soon(pair.web.client().send(get("http://cart/"))).await?;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!((text(answer).await?.as_str(), count.so_far()), ("late", 2));
    Ok(())
}

#[tokio::test]
async fn repeats_end_with_their_budget() -> Result {
    let count = Count::default();
    let of = count.clone();
    let app = origin(move |request| fails_until(usize::MAX, of.clone(), request)).await?;
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    let hour = Duration::from_secs(3_600);
    let mut blocks = Blocks::default();
    blocks.budget = Some(BudgetPolicy::new(20, hour, 3, hour)?);
    blocks.retry = Some(on(&[503], 2)?.into());
    // The default of the namespace, for a Service without a route.
    let key = ObjectKey::new(Kind::TrafficPolicy, &Namespace::new("shop")?, "all")?;
    push(
        &pair,
        vec![Op::put(TrafficPolicy::new(key, Vec::new(), blocks)?)],
    )
    .await?;
    for _ in 0..50 {
        assert_eq!(soon(pair.web.client().send(post())).await?.status(), 503);
    }
    // 50, a fifth of them, and three that are free.
    assert_eq!(count.so_far(), 63);
    Ok(())
}

#[tokio::test]
async fn a_server_that_wants_to_be_left_alone_is() -> Result {
    for (name, value, times) in [
        ("retry-after", "3600", 1),
        ("retry-after", "0", 2),
        ("grpc-retry-pushback-ms", "-1", 1),
        ("grpc-retry-pushback-ms", "5", 2),
    ] {
        let count = Count::default();
        let of = count.clone();
        let app = origin(move |_: Request<Incoming>| {
            of.next();
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            let value = ::http::HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
            std::future::ready(response)
        })
        .await?;
        let pair = Pair::new(AppProtocol::Http1, app).await?;
        put(&pair, |rule| rule.with_retry(on(&[503], 1).unwrap())).await?;
        assert_eq!(soon(pair.web.client().send(post())).await?.status(), 503);
        assert_eq!(count.so_far(), times, "{name}: {value}");
    }
    Ok(())
}
