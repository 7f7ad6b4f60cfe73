//! Connections to endpoints up to a limit, and requests that wait in line for one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Response, StatusCode};
use inmesh_core::balance::RequestLimits;
use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey, ServiceName};
use inmesh_core::retry::RetryPolicy;
use inmesh_core::route::Timeouts;
use inmesh_core::runtime::{ConnectionsStatus, OutboundListener};
use inmesh_core::snapshot::Op;
use inmesh_core::traffic::{Blocks, Target, TrafficPolicy};
use inmesh_core::{Body, Mesh};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::support::{
    Pair, Result, echo, get, in_flight, origin, origin_h2, plain_cart, push, serve_outbound, soon,
    text,
};

/// Limits the connections to `cart`.
async fn limit(pair: &Pair, connections: u32, pending: u32, timeouts: Timeouts) -> Result {
    let shop = Namespace::new("shop")?;
    let key = ObjectKey::new(Kind::TrafficPolicy, &shop, "cart")?;
    let target = Target::Service(ServiceName::new(&shop, "cart")?, None);
    let mut blocks = Blocks::default();
    blocks.limits = Some(RequestLimits::default().with_connections(connections, pending)?);
    blocks.timeouts = Some(timeouts);
    let policy = TrafficPolicy::new(key, vec![target], blocks)?;
    push(pair, vec![Op::put(policy)]).await
}

/// A server that says which request has come, and answers each once it may.
async fn held(
    http2: bool,
) -> Result<(SocketAddr, mpsc::UnboundedReceiver<String>, Arc<Semaphore>)> {
    let (come, arrived) = mpsc::unbounded_channel();
    let go = Arc::new(Semaphore::new(0));
    let may = Arc::clone(&go);
    let answer = move |request: ::http::Request<hyper::body::Incoming>| {
        let (come, may) = (come.clone(), Arc::clone(&may));
        async move {
            let _open = come.send(request.uri().path().to_owned());
            if let Ok(permit) = may.acquire().await {
                permit.forget();
            }
            Response::new(Body::empty())
        }
    };
    let at = match http2 {
        true => origin_h2(answer).await?,
        false => origin(answer).await?,
    };
    Ok((at, arrived, go))
}

/// `web` with a policy, and `cart` as a plain server that holds requests.
async fn held_cart(
    http2: bool,
    (connections, pending): (u32, u32),
    timeouts: Timeouts,
) -> Result<(Pair, mpsc::UnboundedReceiver<String>, Arc<Semaphore>)> {
    let (app, arrived, go) = held(http2).await?;
    let protocol = match http2 {
        true => AppProtocol::Http2,
        false => AppProtocol::Http1,
    };
    let pair = Pair::new(protocol, app).await?;
    plain_cart(&pair, app).await?;
    limit(&pair, connections, pending, timeouts).await?;
    Ok((pair, arrived, go))
}

fn send(mesh: &Mesh, path: &str) -> JoinHandle<Response<Body>> {
    let (client, request) = (mesh.client(), get(&format!("http://cart{path}")));
    tokio::spawn(async move { client.send(request).await })
}

fn counted(mesh: &Mesh) -> Option<ConnectionsStatus> {
    let services = mesh.status().services;
    let mut all = services.into_iter().flat_map(|service| service.connections);
    all.next()
}

/// Waits until so many connections are open and so many requests wait for one.
async fn until(mesh: &Mesh, open: u32, pending: usize) -> Result {
    soon(async {
        while counted(mesh).is_none_or(|c| (c.open, c.pending) != (open, pending)) {
            tokio::task::yield_now().await;
        }
    })
    .await
}

async fn arrives(arrived: &mut mpsc::UnboundedReceiver<String>, path: &str) -> Result {
    assert_eq!(soon(arrived.recv()).await?.as_deref(), Some(path));
    Ok(())
}

/// One connection: requests take it in turn, one more than may wait is refused, and one that goes away
/// leaves its place to another.
#[tokio::test]
async fn requests_wait_in_line_for_a_connection() -> Result {
    let (pair, mut arrived, go) = held_cart(false, (1, 2), Timeouts::default()).await?;
    let first = send(&pair.web, "/1");
    arrives(&mut arrived, "/1").await?;
    let second = send(&pair.web, "/2");
    until(&pair.web, 1, 1).await?;
    let third = send(&pair.web, "/3");
    until(&pair.web, 1, 2).await?;
    let refused = soon(pair.web.client().send(get("http://cart/4"))).await?;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["x-mesh-reason"], "connection-overflow");
    assert_eq!(refused.headers()["x-mesh-no-retry"], "overload");
    let metrics = pair.web.encode_metrics();
    let labels =
        "{workload=\"shop/web\",destination_service=\"cart.shop.svc.cluster.local\",port=\"80\"}";
    for line in [
        format!("mesh_upstream_connections{labels} 1"),
        format!("mesh_upstream_requests_pending{labels} 2"),
        format!("mesh_upstream_overflows_total{labels} 1"),
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} {metrics}");
    }
    // The second gives up, and the fifth has room.
    second.abort();
    until(&pair.web, 1, 1).await?;
    let fifth = send(&pair.web, "/5");
    until(&pair.web, 1, 2).await?;
    for (path, request) in [("/3", first), ("/5", third)] {
        go.add_permits(1);
        assert_eq!(soon(request).await??.status(), StatusCode::OK);
        arrives(&mut arrived, path).await?;
    }
    go.add_permits(1);
    assert_eq!(soon(fifth).await??.status(), StatusCode::OK);
    until(&pair.web, 1, 0).await?;
    // The connection is there for the next, without waiting.
    go.add_permits(1);
    assert_eq!(soon(send(&pair.web, "/6")).await??.status(), StatusCode::OK);
    assert_eq!(counted(&pair.web).map(|c| c.overflows), Some(1));
    Ok(())
}

/// A request that waits is late as any other, and no endpoint is held to blame.
#[tokio::test]
async fn a_request_in_line_has_its_deadline() -> Result {
    let limit = Some(Duration::from_millis(200));
    for (timeouts, reason) in [
        (Timeouts::new(limit, None)?, "request-timeout"),
        (Timeouts::new(None, limit)?, "backend-timeout"),
    ] {
        let (pair, mut arrived, go) = held_cart(false, (1, 9), Timeouts::default()).await?;
        let first = send(&pair.web, "/1");
        arrives(&mut arrived, "/1").await?;
        // The first has no such limit.
        self::limit(&pair, 1, 9, timeouts).await?;
        let late = soon(pair.web.client().send(get("http://cart/2"))).await?;
        assert_eq!(late.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(late.headers()["x-mesh-reason"], reason);
        let said = text(late).await?;
        assert!(said.contains("waited for one of the connections"), "{said}");
        until(&pair.web, 1, 0).await?;
        let services = pair.web.status().services;
        let errors = services.iter().flat_map(|s| &s.endpoints);
        assert!(errors.into_iter().all(|e| e.last_error.is_none()));
        assert_eq!(in_flight(&pair.web), 1);
        go.add_permits(1);
        assert_eq!(soon(first).await??.status(), StatusCode::OK);
    }
    Ok(())
}

/// A policy of retries sends no refused request again.
#[tokio::test]
async fn a_refusal_is_not_repeated() -> Result {
    let (pair, mut arrived, go) = held_cart(false, (1, 1), Timeouts::default()).await?;
    let shop = Namespace::new("shop")?;
    let key = ObjectKey::new(Kind::TrafficPolicy, &shop, "again")?;
    let target = Target::Service(ServiceName::new(&shop, "cart")?, None);
    let mut blocks = Blocks::default();
    blocks.retry = Some(Arc::new(RetryPolicy::new(3).on_status(503)?));
    push(
        &pair,
        vec![Op::put(TrafficPolicy::new(key, vec![target], blocks)?)],
    )
    .await?;
    let first = send(&pair.web, "/1");
    arrives(&mut arrived, "/1").await?;
    let second = send(&pair.web, "/2");
    until(&pair.web, 1, 1).await?;
    let refused = soon(pair.web.client().send(get("http://cart/3"))).await?;
    assert_eq!(refused.headers()["x-mesh-reason"], "connection-overflow");
    assert_eq!(counted(&pair.web).map(|c| c.overflows), Some(1));
    go.add_permits(2);
    for request in [first, second] {
        assert_eq!(soon(request).await??.status(), StatusCode::OK);
    }
    Ok(())
}

/// A raised limit lets in those that wait with the next that comes.
#[tokio::test]
async fn a_limit_that_is_raised_is_used() -> Result {
    let (pair, mut arrived, go) = held_cart(false, (1, 9), Timeouts::default()).await?;
    let first = send(&pair.web, "/1");
    arrives(&mut arrived, "/1").await?;
    let second = send(&pair.web, "/2");
    until(&pair.web, 1, 1).await?;
    limit(&pair, 2, 9, Timeouts::default()).await?;
    let third = send(&pair.web, "/3");
    arrives(&mut arrived, "/2").await?;
    until(&pair.web, 2, 1).await?;
    go.add_permits(3);
    for request in [first, second, third] {
        assert_eq!(soon(request).await??.status(), StatusCode::OK);
    }
    Ok(())
}

/// Over HTTP/2 nothing waits: what another connection would be opened for shares one.
#[tokio::test]
async fn streams_share_the_connections_that_there_may_be() -> Result {
    let (pair, mut arrived, go) = held_cart(true, (1, 1), Timeouts::default()).await?;
    // A connection has up to 100 streams by itself.
    let requests: Vec<_> = (0..150).map(|_| send(&pair.web, "/")).collect();
    for _ in 0..150 {
        arrives(&mut arrived, "/").await?;
    }
    let now = counted(&pair.web).ok_or("none")?;
    assert_eq!((now.open, now.pending, now.overflows), (1, 0, 0));
    go.add_permits(150);
    for request in requests {
        assert_eq!(soon(request).await??.status(), StatusCode::OK);
    }
    Ok(())
}

/// A connection of opaque bytes is refused at the limit, and one that ends makes room.
#[tokio::test]
async fn opaque_connections_are_refused_at_the_limit() -> Result {
    let pair = Pair::new(AppProtocol::Tcp, echo().await?).await?;
    limit(&pair, 1, 1, Timeouts::default()).await?;
    let service = ServiceName::new(&Namespace::new("shop")?, "cart")?;
    let to = OutboundListener::to(service, 80, AppProtocol::Tcp);
    let door = serve_outbound(&pair.web, to).await?;
    let mut first = TcpStream::connect(door).await?;
    first.write_all(b"ping").await?;
    let mut back = [0; 4];
    soon(first.read_exact(&mut back)).await??;
    let mut second = TcpStream::connect(door).await?;
    let read = soon(second.read(&mut back)).await?;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    let record = pair.out_seen.one(|x| x.reason.is_some()).await?;
    let reason = record.reason.map(|r| r.as_str());
    assert_eq!(reason, Some("connection-overflow"));
    drop(first);
    until(&pair.web, 0, 0).await?;
    let mut third = TcpStream::connect(door).await?;
    third.write_all(b"pong").await?;
    soon(third.read_exact(&mut back)).await??;
    Ok(())
}
