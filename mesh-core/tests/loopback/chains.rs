//! A failure in a chain of hops: what a hop below has done is not done again above.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use inmesh_core::discover::pushed;
use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey};
use inmesh_core::retry::RetryPolicy;
use inmesh_core::runtime::{InboundListener, OutboundListener};
use inmesh_core::snapshot::Op;
use inmesh_core::testing::World;
use inmesh_core::traffic::{Blocks, TrafficPolicy};
use inmesh_core::{Body, Mesh, Reason};
use tokio::net::TcpListener;

use crate::support::{
    Pair, Result, get, h1, h2, in_process, origin, origin_h2, plain_cart, push, serve_outbound,
    soon,
};

/// The fields of a trace that an application passes on.
const TRACE: &str = "traceparent";
const NO_RETRY: &str = "x-mesh-no-retry";

/// How `cart` asks `stock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    /// With the client of its own mesh.
    Embedded,
    /// Over its agent, and passes on the trace.
    ByAgent,
    /// Over its agent, in a call of gRPC.
    ByCall,
}

/// All requests that fail with 503 or UNAVAILABLE are sent again once.
fn again() -> Result<Op> {
    let key = ObjectKey::new(Kind::TrafficPolicy, &Namespace::new("shop")?, "again")?;
    let retry = RetryPolicy::new(1).with_backoff(Duration::from_millis(1));
    let retry = retry.on_status(503)?.on_grpc(14)?;
    let mut blocks = Blocks::default();
    blocks.retry = Some(retry.into());
    Ok(Op::put(TrafficPolicy::new(key, Vec::new(), blocks)?))
}

fn failed(grpc: bool) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    if grpc {
        let headers = answer.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static("14"));
    } else {
        *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    answer
}

fn is_grpc<B>(request: &Request<B>) -> bool {
    request.headers().contains_key("content-type")
}

fn call(target: &str) -> Request<Body> {
    let mut request = get(target);
    *request.version_mut() = Version::HTTP_2;
    let kind = HeaderValue::from_static("application/grpc");
    request.headers_mut().insert("content-type", kind);
    request
}

fn next(count: &AtomicUsize) {
    count.fetch_add(1, Ordering::SeqCst);
}

/// A mesh of `cart` that knows `stock`, whose application fails each request, and how many it gets.
async fn below(world: &World, protocol: AppProtocol) -> Result<(Mesh, Arc<AtomicUsize>)> {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let answer = move |request: Request<Incoming>| {
        next(&counted);
        std::future::ready(failed(is_grpc(&request)))
    };
    let app = match protocol {
        AppProtocol::Http1 => origin(answer).await?,
        _ => origin_h2(answer).await?,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let stock = world.service("stock", protocol, &[listener.local_addr()?])?;
    let mesh = world.mesh("stock")?.start()?;
    let to = InboundListener::new(app, protocol);
    tokio::spawn(async move { mesh.serve_behind(listener, to).await });
    let (pusher, source) = pushed("below");
    let cart = world.mesh("cart")?.source(source).start()?;
    pusher
        .push(stock.into_iter().chain([again()?]).collect())
        .await?;
    cart.ready().await;
    // The source lives as long as the test.
    std::mem::forget(pusher);
    Ok((cart, count))
}

/// The application of `cart`, in front of an agent of it: it asks `stock` and fails if that fails, with an
/// answer of its own.
async fn asking(agent: SocketAddr, asked: Arc<AtomicUsize>, asks: Asks) -> Result<SocketAddr> {
    let answer = move |request: Request<Incoming>| {
        next(&asked);
        async move {
            let grpc = is_grpc(&request);
            let target = "http://stock/shop.Stock/Get";
            let mut on = if grpc { call(target) } else { get(target) };
            on.headers_mut()
                .insert("host", HeaderValue::from_static("stock"));
            if let Some(trace) = request.headers().get(TRACE) {
                on.headers_mut().insert(TRACE, trace.clone());
            }
            let answer = match grpc {
                true => h2(agent).await.unwrap().send_request(on).await.unwrap(),
                false => h1(agent).await.unwrap().send_request(on).await.unwrap(),
            };
            assert_eq!(answer.headers()[NO_RETRY], "spent");
            failed(grpc)
        }
    };
    match asks {
        Asks::ByCall => origin_h2(answer).await,
        _ => origin(answer).await,
    }
}

#[tokio::test]
async fn what_a_hop_below_has_repeated_is_not_repeated_above() -> Result {
    for asks in [Asks::Embedded, Asks::ByAgent, Asks::ByCall] {
        let protocol = match asks {
            Asks::ByCall => AppProtocol::Grpc,
            _ => AppProtocol::Http1,
        };
        let asked = Arc::new(AtomicUsize::new(0));
        let unused = origin(crate::support::tell).await?;
        let mut pair = Pair::new(protocol, unused).await?;
        let (cart, stock) = below(&pair.world, protocol).await?;
        pair.cart = cart;
        match asks {
            Asks::Embedded => {
                let (client, asked) = (pair.cart.client(), Arc::clone(&asked));
                let service = tower::service_fn(move |_: Request<Body>| {
                    next(&asked);
                    let client = client.clone();
                    async move {
                        let answer = client.send(get("http://stock/")).await;
                        assert_eq!(answer.headers()[NO_RETRY], "spent");
                        Ok::<_, inmesh_core::BoxError>(failed(false))
                    }
                });
                in_process(&pair, protocol, service).await?;
            }
            _ => {
                let to = OutboundListener::by_authority(AppProtocol::Detect);
                let agent = serve_outbound(&pair.cart, to).await?;
                let app = asking(agent, Arc::clone(&asked), asks).await?;
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                let ops = pair
                    .world
                    .service("cart", protocol, &[listener.local_addr()?])?;
                let (cart, to) = (pair.cart.clone(), InboundListener::new(app, protocol));
                tokio::spawn(async move { cart.serve_behind(listener, to).await });
                push(&pair, ops).await?;
            }
        }
        push(&pair, vec![again()?]).await?;
        let request = match asks {
            Asks::ByCall => call("http://cart/shop.Cart/Get"),
            _ => get("http://cart/"),
        };
        let answer = soon(pair.web.client().send(request)).await?;
        let seen = (asked.load(Ordering::SeqCst), stock.load(Ordering::SeqCst));
        assert_eq!(seen, (1, 2), "{asks:?}");
        assert_eq!(answer.headers()[NO_RETRY], "spent", "{asks:?}");
        let status = match asks {
            Asks::ByCall => StatusCode::OK,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        assert_eq!(answer.status(), status);
    }
    Ok(())
}

/// Only the mesh says so: neither an application nor a server without an agent does.
#[tokio::test]
async fn no_application_keeps_the_mesh_from_repeating() -> Result {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let app = origin(move |_: Request<Incoming>| {
        next(&counted);
        let mut answer = failed(false);
        let forged = HeaderValue::from_static("forged");
        answer.headers_mut().insert(NO_RETRY, forged);
        std::future::ready(answer)
    });
    let app = app.await?;
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    push(&pair, vec![again()?]).await?;
    for plain in [false, true] {
        if plain {
            plain_cart(&pair, app).await?;
        }
        count.store(0, Ordering::SeqCst);
        let answer = soon(pair.web.client().send(get("http://cart/"))).await?;
        assert_eq!(count.load(Ordering::SeqCst), 2, "plain: {plain}");
        assert_eq!(answer.headers()[NO_RETRY], "spent");
    }
    Ok(())
}

/// A server that has too much to do is not asked again, if it says so as Envoy does; and a hop that has no
/// endpoint left says that it has tried.
#[tokio::test]
async fn an_overload_is_not_made_worse() -> Result {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let app = origin(move |_: Request<Incoming>| {
        next(&counted);
        let mut answer = failed(false);
        let yes = HeaderValue::from_static("true");
        answer.headers_mut().insert("x-envoy-overloaded", yes);
        std::future::ready(answer)
    });
    let pair = Pair::new(AppProtocol::Http1, app.await?).await?;
    push(&pair, vec![again()?]).await?;
    let answer = soon(pair.web.client().send(get("http://cart/"))).await?;
    assert_eq!(count.load(Ordering::SeqCst), 1);
    assert_eq!(answer.headers()[NO_RETRY], "overload");
    let gone = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let also = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let ops = pair
        .world
        .service("cart", AppProtocol::Http1, &[gone, also])?;
    push(&pair, ops).await?;
    let error = soon(pair.web.client().try_send(get("http://cart/"))).await?;
    let error = error.err().ok_or("refused")?;
    assert_eq!(error.reason(), Reason::ConnectFailed);
    let said = error.response(false).headers()[NO_RETRY].clone();
    assert_eq!(said, "spent");
    Ok(())
}
