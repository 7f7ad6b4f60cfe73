//! How many requests a workload takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::{HeaderValue, Request, Version};
use hyper::body::Incoming;
use inmesh_core::Body;
use inmesh_core::discover::pushed;
use inmesh_core::limit::{Rate, RateLimit, Rates};
use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey};
use inmesh_core::retry::RetryPolicy;
use inmesh_core::runtime::InboundListener;
use inmesh_core::snapshot::Op;
use inmesh_core::traffic::{Blocks, TrafficPolicy};
use tokio::net::TcpListener;

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
    // The agent of `cart` once more, with documents of its own.
    let (pusher, source) = pushed("cart");
    let seen = Seen::new();
    let cart = pair.world.mesh("cart")?.exchanges(Arc::clone(&seen) as _);
    pair.cart = cart.source(source).start()?;
    let hour = Duration::from_secs(3_600);
    let rates = Rates::new(None, Some(Rate::new(2, hour, 3)?));
    let mut blocks = Blocks::default();
    blocks.rate_limit = Some(RateLimit::new(rates, Vec::new())?.into());
    pusher.push(vec![policy("rates", blocks)?]).await?;
    pair.cart.ready().await;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let ops = pair
        .world
        .service("cart", AppProtocol::Http2, &[listener.local_addr()?])?;
    let (mesh, to) = (
        pair.cart.clone(),
        InboundListener::new(app, AppProtocol::Http2),
    );
    tokio::spawn(async move { mesh.serve_behind(listener, to).await });
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
    assert_eq!(policy.as_deref(), Some("TrafficPolicy/shop/rates"));
    assert_eq!(seen.all().len(), 10);
    Ok(())
}
