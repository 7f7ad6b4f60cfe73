//! How many requests a workload takes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::{HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use inmesh_core::Body;
use inmesh_core::discover::{Pusher, pushed};
use inmesh_core::limit::{AdaptiveConcurrency, Rate, RateLimit, Rates};
use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey};
use inmesh_core::retry::RetryPolicy;
use inmesh_core::runtime::InboundListener;
use inmesh_core::snapshot::Op;
use inmesh_core::traffic::{Blocks, TrafficPolicy};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::support::{Pair, Result, Seen, get, origin_h2, push, soon, tell};

fn policy(name: &str, blocks: Blocks) -> Result<Op> {
    let key = ObjectKey::new(Kind::TrafficPolicy, &Namespace::new("shop")?, name)?;
    Ok(Op::put(TrafficPolicy::new(key, Vec::new(), blocks)?))
}

fn call() -> Request<Body> {
    let mut request = get("http://cart/shop.Cart/Get");
    *request.version_mut() = Version::HTTP_2;
    let kind = HeaderValue::from_static("application/grpc");
    request.headers_mut().insert("content-type", kind);
    request
}

/// The agent of `cart` once more, with a policy of its own: what it records, and the documents that lead to
/// it.
async fn takes(
    pair: &mut Pair,
    app: SocketAddr,
    blocks: Blocks,
) -> Result<(Arc<Seen>, Vec<Op>, Pusher)> {
    let (pusher, source) = pushed("cart");
    let seen = Seen::new();
    let cart = pair.world.mesh("cart")?.exchanges(Arc::clone(&seen) as _);
    pair.cart = cart.source(source).start()?;
    pusher.push(vec![policy("takes", blocks)?]).await?;
    pair.cart.ready().await;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = [listener.local_addr()?];
    let ops = pair.world.service("cart", AppProtocol::Http2, &endpoint)?;
    let to = InboundListener::new(app, AppProtocol::Http2);
    let mesh = pair.cart.clone();
    tokio::spawn(async move { mesh.serve_behind(listener, to).await });
    Ok((seen, ops, pusher))
}

#[tokio::test]
async fn each_caller_has_its_own_rate_and_is_refused_above_it() -> Result {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let app = origin_h2(move |request: Request<Incoming>| {
        counted.fetch_add(1, Ordering::SeqCst);
        tell(request)
    });
    let app = app.await?;
    let mut pair = Pair::new(AppProtocol::Http2, app).await?;
    let hour = Duration::from_secs(3_600);
    let rates = Rates::new(None, Some(Rate::new(2, hour, 3)?));
    let mut blocks = Blocks::default();
    blocks.rate_limit = Some(RateLimit::new(rates, Vec::new())?.into());
    let (seen, ops, _source) = takes(&mut pair, app, blocks).await?;
    // A refusal is not repeated, whatever a policy says.
    let mut again = Blocks::default();
    again.retry = Some(RetryPolicy::new(3).on_status(429)?.on_grpc(8)?.into());
    let ops = ops.into_iter().chain([policy("again", again)?]);
    push(&pair, ops.clone().collect()).await?;
    let (other, source) = pushed("other");
    let stock = pair.world.mesh("stock")?.source(source).start()?;
    other.push(ops.collect()).await?;
    stock.ready().await;
    for client in [pair.web.client(), stock.client()] {
        count.store(0, Ordering::SeqCst);
        for _ in 0..3 {
            let answer = soon(client.send(get("http://cart/"))).await?;
            assert_eq!(answer.status(), 200);
        }
        let answer = soon(client.send(get("http://cart/"))).await?;
        assert_eq!(answer.status(), 429);
        let headers = answer.headers();
        assert_eq!(headers["x-mesh-reason"], "rate-limited");
        assert_eq!(headers["x-mesh-no-retry"], "overload");
        let wait: u64 = headers["retry-after"].to_str()?.parse()?;
        assert!((1_790..=1_800).contains(&wait), "{wait}");
        let answer = soon(client.send(call())).await?;
        let headers = answer.headers();
        assert_eq!(headers["grpc-status"], "8");
        assert!(headers.contains_key("grpc-retry-pushback-ms"));
        assert!(!headers.contains_key("retry-after"));
        assert_eq!(count.load(Ordering::SeqCst), 3);
    }
    let record = seen.one(|record| record.status == 429).await?;
    let policy = record.policy.map(|key| key.to_string());
    assert_eq!(policy.as_deref(), Some("TrafficPolicy/shop/takes"));
    assert_eq!(seen.all().len(), 10);
    Ok(())
}

/// What is above the limit is refused at once, and is no fault of the endpoint.
#[tokio::test]
async fn what_is_too_much_at_once_is_refused_until_there_is_room() -> Result {
    let gate = Arc::new(Semaphore::new(0));
    let (opened, count) = (Arc::clone(&gate), Arc::new(AtomicUsize::new(0)));
    let arrived = Arc::new(Semaphore::new(0));
    let (counted, arrives) = (Arc::clone(&count), Arc::clone(&arrived));
    let app = origin_h2(move |_: Request<Incoming>| {
        let (opened, arrives) = (Arc::clone(&opened), Arc::clone(&arrives));
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            arrives.add_permits(1);
            opened.acquire().await.unwrap().forget();
            Response::new(Body::empty())
        }
    });
    let app = app.await?;
    let mut pair = Pair::new(AppProtocol::Http2, app).await?;
    let mut blocks = Blocks::default();
    blocks.adaptive = Some(AdaptiveConcurrency::new(1, 2, 2.0)?);
    let (_seen, ops, _source) = takes(&mut pair, app, blocks).await?;
    let mut again = Blocks::default();
    again.retry = Some(RetryPolicy::new(3).on_status(503)?.on_grpc(8)?.into());
    let ops = ops.into_iter().chain([policy("again", again)?]);
    push(&pair, ops.collect()).await?;
    let client = pair.web.client();
    let mut running = Vec::new();
    for _ in 0..2 {
        let client = client.clone();
        running.push(tokio::spawn(async move {
            client.send(get("http://cart/")).await
        }));
        soon(arrived.acquire()).await??.forget();
    }
    // More than eject an endpoint.
    for _ in 0..10 {
        let answer = soon(client.send(get("http://cart/"))).await?;
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["x-mesh-reason"], "overload");
        assert_eq!(answer.headers()["x-mesh-no-retry"], "overload");
        let answer = soon(client.send(call())).await?;
        assert_eq!(answer.headers()["grpc-status"], "8");
    }
    gate.add_permits(100);
    for running in running {
        assert_eq!(soon(running).await??.status(), 200);
    }
    for _ in 0..3 {
        let answer = soon(client.send(get("http://cart/"))).await?;
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(count.load(Ordering::SeqCst), 5);
    // One that is given up makes room too.
    gate.forget_permits(100);
    soon(arrived.acquire_many(3)).await??.forget();
    for _ in 0..4 {
        let mut one = Box::pin(client.send(get("http://cart/")));
        tokio::select! {
            _ = &mut one => return Err("it is not answered".into()),
            arrived = soon(arrived.acquire()) => arrived??.forget(),
        }
    }
    Ok(())
}
