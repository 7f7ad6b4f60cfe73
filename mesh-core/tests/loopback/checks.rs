//! Checks of endpoints: what they ask, and what becomes of endpoints that fail them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use inmesh_core::Body;
use inmesh_core::balance::{CheckKind, CheckPolicy};
use inmesh_core::model::{
    AppProtocol, Host, Kind, Namespace, ObjectKey, ServiceName, Slice, SliceHost, SlicePort,
    Transport,
};
use inmesh_core::runtime::EndpointStatus;
use inmesh_core::snapshot::Op;
use inmesh_core::traffic::{Blocks, Target, TrafficPolicy};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::support::{Pair, Result, get, origin, origin_h2, soon, tell, text};

type Ticks = mpsc::UnboundedReceiver<()>;

/// A mesh whose Service `shelf` has plain endpoints that are checked many times in a second.
async fn checked(protocol: AppProtocol, kind: CheckKind, at: &[SocketAddr]) -> Result<Pair> {
    checked_by(protocol, CheckPolicy::new(kind), at).await
}

async fn checked_by(
    protocol: AppProtocol,
    mut policy: CheckPolicy,
    at: &[SocketAddr],
) -> Result<Pair> {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let mut ops = pair.world.service("shelf", protocol, &[])?;
    let shop = Namespace::new("shop")?;
    for (n, at) in at.iter().enumerate() {
        ops.push(Op::put(Slice::new(
            ObjectKey::new(Kind::EndpointSlice, &shop, &format!("shelf-{n}"))?,
            ServiceName::new(&shop, "shelf")?,
            vec![SlicePort::new("main", at.port())],
            vec![SliceHost::new(Host::Address(at.ip()))],
            Transport::Plain,
        )));
    }
    (policy.interval, policy.unhealthy, policy.healthy) = (Duration::from_millis(20), 2, 2);
    let mut blocks = Blocks::default();
    blocks.check = Some(policy.into());
    let target = Target::Service(ServiceName::new(&shop, "shelf")?, None);
    ops.push(Op::put(TrafficPolicy::new(
        ObjectKey::new(Kind::TrafficPolicy, &shop, "shelf")?,
        vec![target],
        blocks,
    )?));
    pair.pusher.push(ops).await?;
    Ok(pair)
}

/// A server of HTTP/1.1 that answers checks as the flag says, and others with its number.
async fn server(n: usize, well: &Arc<AtomicBool>) -> Result<(SocketAddr, Ticks)> {
    let (tick, ticks) = mpsc::unbounded_channel();
    let well = Arc::clone(well);
    let at = origin(move |request: Request<Incoming>| {
        let (tick, well) = (tick.clone(), Arc::clone(&well));
        async move {
            if request.uri().path() != "/healthz" {
                return Response::new(Body::from(n.to_string()));
            }
            let host = request.headers().get("host").map(HeaderValue::as_bytes);
            let asked = request
                .headers()
                .get("user-agent")
                .map(HeaderValue::as_bytes);
            let named = host == Some(b"shelf.shop.svc.cluster.local:80");
            let mut answer = Response::new(Body::empty());
            let well = well.load(Ordering::SeqCst) && named && request.method() == Method::GET;
            *answer.status_mut() = match well && asked == Some(b"inmesh-health-check") {
                true => StatusCode::NO_CONTENT,
                false => StatusCode::SERVICE_UNAVAILABLE,
            };
            let _gone = tick.send(());
            answer
        }
    });
    Ok((at.await?, ticks))
}

/// Waits for so many checks: what the one before the last has come to is noted then.
async fn checks(ticks: &mut Ticks, count: usize) -> Result {
    while ticks.try_recv().is_ok() {}
    for _ in 0..count {
        soon(ticks.recv()).await?.ok_or("no check")?;
    }
    Ok(())
}

/// The endpoints that 30 requests reach.
async fn reached(pair: &Pair) -> Result<String> {
    let mut reached = std::collections::BTreeSet::new();
    for _ in 0..30 {
        let answer = soon(pair.web.client().send(get("http://shelf/"))).await?;
        reached.insert(text(answer).await?);
    }
    Ok(reached.into_iter().collect())
}

/// The endpoints of `shelf` as the status shows them; none before it is known.
fn shelf(pair: &Pair) -> Vec<EndpointStatus> {
    let services = pair.web.status().services.into_iter();
    let mut shelf = services.filter(|s| s.service == "shelf.shop");
    shelf.next().map(|s| s.endpoints).unwrap_or_default()
}

/// Waits until so many endpoints of `shelf` fail their checks.
async fn unwell(pair: &Pair, count: usize) -> Result {
    soon(async {
        loop {
            let endpoints = shelf(pair);
            if !endpoints.is_empty() && endpoints.iter().filter(|e| e.unwell).count() == count {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// The value of a metric of `shelf`, if it is written.
fn metric(pair: &Pair, name: &str, label: &str) -> Option<u64> {
    let begin = format!("{name}{{destination_service=\"shelf.shop.svc.cluster.local\",{label}}} ");
    let metrics = pair.web.encode_metrics();
    let value = metrics.lines().find_map(|l| l.strip_prefix(&begin))?;
    value.parse().ok()
}

fn out(pair: &Pair) -> Option<u64> {
    metric(pair, "mesh_balancer_unwell", "port=\"80\"")
}

fn counted(pair: &Pair, result: &str) -> Option<u64> {
    let label = format!("result=\"{result}\"");
    metric(pair, "mesh_endpoint_checks_total", &label)
}

#[tokio::test]
async fn an_endpoint_that_fails_its_checks_gets_no_requests() -> Result {
    let (one, other) = (
        Arc::new(AtomicBool::new(true)),
        Arc::new(AtomicBool::new(false)),
    );
    let (first, mut of_first) = server(0, &one).await?;
    let (second, mut of_second) = server(1, &other).await?;
    let kind = CheckKind::Http("/healthz".into(), [200, 204].into());
    let pair = checked(AppProtocol::Http1, kind, &[first, second]).await?;
    checks(&mut of_second, 4).await?;
    assert_eq!(reached(&pair).await?, "0");
    let shelf = shelf(&pair);
    let bad = shelf.iter().find(|e| e.address == second);
    let why = bad
        .and_then(|bad| bad.last_error.as_ref())
        .ok_or("no reason")?;
    assert_eq!(why.error, "health check: status 503");
    assert_eq!(out(&pair), Some(1));
    assert!(
        counted(&pair, "failed") >= Some(3),
        "{:?}",
        counted(&pair, "failed")
    );
    assert_eq!(counted(&pair, "late"), None);
    other.store(true, Ordering::SeqCst);
    checks(&mut of_second, 4).await?;
    assert_eq!(reached(&pair).await?, "01");
    assert_eq!(out(&pair), Some(0));
    assert!(
        counted(&pair, "passed") >= Some(3),
        "{:?}",
        counted(&pair, "passed")
    );
    // Where none is well, all are used.
    one.store(false, Ordering::SeqCst);
    other.store(false, Ordering::SeqCst);
    checks(&mut of_first, 4).await?;
    checks(&mut of_second, 4).await?;
    assert_eq!(reached(&pair).await?, "01");
    // What is checked no longer is as if it never was.
    one.store(true, Ordering::SeqCst);
    checks(&mut of_first, 4).await?;
    assert_eq!(reached(&pair).await?, "0");
    let key = ObjectKey::new(Kind::TrafficPolicy, &Namespace::new("shop")?, "shelf")?;
    pair.pusher.push(vec![Op::Remove(key)]).await?;
    unwell(&pair, 0).await?;
    assert_eq!(reached(&pair).await?, "01");
    assert_eq!(out(&pair), None, "nothing is checked");
    Ok(())
}

/// A server that takes a connection, and says nothing.
#[tokio::test]
async fn a_check_without_an_answer_is_counted_as_late() -> Result {
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let kind = CheckKind::Http("/healthz".into(), [200].into());
    let mut policy = CheckPolicy::new(kind);
    policy.timeout = Duration::from_millis(20);
    let pair = checked_by(AppProtocol::Http1, policy, &[silent.local_addr()?]).await?;
    unwell(&pair, 1).await?;
    assert!(
        counted(&pair, "late") >= Some(2),
        "{:?}",
        counted(&pair, "late")
    );
    assert_eq!(counted(&pair, "failed"), None);
    assert_eq!(out(&pair), Some(1));
    let shelf = shelf(&pair);
    let why = shelf[0].last_error.as_ref().ok_or("no reason")?;
    assert_eq!(why.error, "health check: no answer in time");
    Ok(())
}

/// A port that is closed, and one that takes connections.
#[tokio::test]
async fn a_check_of_tcp_opens_a_connection() -> Result {
    let open = TcpListener::bind("127.0.0.1:0").await?;
    let closed = TcpListener::bind("127.0.0.1:0").await?;
    let at = [open.local_addr()?, closed.local_addr()?];
    drop(closed);
    let pair = checked(AppProtocol::Tcp, CheckKind::Tcp, &at).await?;
    soon(open.accept()).await??;
    unwell(&pair, 1).await?;
    let shelf = shelf(&pair);
    let out = shelf.iter().filter(|e| e.ejected).map(|e| e.address);
    assert_eq!(out.collect::<Vec<_>>(), [at[1]]);
    Ok(())
}

/// The health checking protocol of gRPC: SERVING alone is well.
#[tokio::test]
async fn a_check_of_grpc_asks_for_a_service() -> Result {
    let answer = |message: &'static [u8], status: &'static str| {
        move |request: Request<Incoming>| async move {
            let path = request.uri().path() == "/grpc.health.v1.Health/Check";
            let kind = request.headers().get("content-type").cloned();
            let asked = request
                .into_body()
                .collect()
                .await
                .map(|body| body.to_bytes());
            let whole = &b"\0\0\0\0\x0b\x0a\x09shop.Cart"[..];
            let right = path
                && kind.as_ref().map(HeaderValue::as_bytes) == Some(b"application/grpc")
                && asked.is_ok_and(|asked| asked == whole);
            let status = if right { status } else { "3" };
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static(status));
            let frames = [
                Frame::data(Bytes::from_static(message)),
                Frame::trailers(trailers),
            ];
            let frames = frames.map(Ok::<_, std::convert::Infallible>);
            Response::new(Body::new(StreamBody::new(futures_util::stream::iter(
                frames,
            ))))
        }
    };
    let at = [
        origin_h2(answer(b"\0\0\0\0\x02\x08\x01", "0")).await?,
        origin_h2(answer(b"\0\0\0\0\x02\x08\x02", "0")).await?,
        origin_h2(answer(b"\0\0\0\0\0", "0")).await?,
        origin_h2(answer(b"\0\0\0\0\x02\x08\x01", "12")).await?,
    ];
    let kind = CheckKind::Grpc("shop.Cart".into());
    let pair = checked(AppProtocol::Grpc, kind, &at).await?;
    unwell(&pair, 3).await?;
    let shelf = shelf(&pair);
    let well = shelf.iter().filter(|e| !e.unwell).map(|e| e.address);
    assert_eq!(well.collect::<Vec<_>>(), [at[0]]);
    Ok(())
}
