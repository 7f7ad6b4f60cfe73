//! How long a connection to an endpoint may take to be there and may rest, where a policy says it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::{Response, StatusCode};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use inmesh_core::Body;
use inmesh_core::balance::RequestLimits;
use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey, ServiceName};
use inmesh_core::runtime::Limits;
use inmesh_core::snapshot::Op;
use inmesh_core::traffic::{Blocks, Target, TrafficPolicy};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::support::{Builder, Pair, Result, get, plain_cart, push, soon, text};

const LONG: Duration = Duration::from_secs(3_600);
const REST: Duration = Duration::from_millis(500);

/// Lets [`REST`] pass for the timers, and none on a clock.
async fn rest() {
    tokio::time::pause();
    tokio::time::advance(REST).await;
    tokio::time::resume();
}

/// Says how long connections to `cart` may take and rest.
async fn say(pair: &Pair, connect: Option<Duration>, idle: Option<Duration>) -> Result {
    let shop = Namespace::new("shop")?;
    let key = ObjectKey::new(Kind::TrafficPolicy, &shop, "cart")?;
    let target = Target::Service(ServiceName::new(&shop, "cart")?, None);
    let mut blocks = Blocks::default();
    blocks.limits = Some(RequestLimits::default().with_times(connect, idle)?);
    let policy = TrafficPolicy::new(key, vec![target], blocks)?;
    push(pair, vec![Op::put(policy)]).await
}

/// A server that counts its connections.
async fn counting(http2: bool) -> Result<(SocketAddr, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (address, count) = (listener.local_addr()?, Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            let service = service_fn(async |_| Ok::<_, Infallible>(Response::new(Body::empty())));
            let io = TokioIo::new(stream);
            if http2 {
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(builder.serve_connection(io, service));
            } else {
                let builder = hyper::server::conn::http1::Builder::new();
                tokio::spawn(builder.serve_connection(io, service));
            }
        }
    });
    Ok((address, count))
}

/// One that has rested for longer is not used again; without a policy it is.
#[tokio::test]
async fn a_connection_that_has_rested_for_as_long_as_a_policy_says_is_not_used_again() -> Result {
    for (http2, protocol) in [(false, AppProtocol::Http1), (true, AppProtocol::Http2)] {
        let (at, count) = counting(http2).await?;
        let pair = Pair::new(protocol, at).await?;
        plain_cart(&pair, at).await?;
        let ask = async || {
            let answer = soon(pair.web.client().send(get("http://cart/"))).await?;
            assert_eq!(answer.status(), StatusCode::OK, "{http2}");
            text(answer).await
        };
        ask().await?;
        // An idle HTTP/2 connection counts its rest from the first request after the policy came.
        for (idle, connections) in [
            (None, 1),
            (Some(LONG), 1),
            (Some(REST / 2), 2),
            (Some(LONG), 2),
        ] {
            say(&pair, None, idle).await?;
            ask().await?;
            rest().await;
            ask().await?;
            assert_eq!(
                count.load(Ordering::Relaxed),
                connections,
                "{http2} {idle:?}"
            );
        }
    }
    Ok(())
}

/// A server whose kernel takes no more connections is given up after as long as the policy says, not after
/// the hour of the process.
#[tokio::test]
async fn a_connection_takes_no_longer_than_a_policy_says() -> Result {
    let socket = TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    let full = socket.listen(1)?;
    let at = full.local_addr()?;
    // As many as fit between the kernel and an application that accepts none.
    let mut waiting = Vec::new();
    for _ in 0..2 {
        waiting.push(soon(TcpStream::connect(at)).await??);
    }
    let build = |builder: Builder| {
        let mut limits = Limits::default();
        (limits.connect, limits.endpoint_handshake) = (LONG, LONG);
        builder.limits(limits)
    };
    let pair = Pair::with(AppProtocol::Http1, at, build, |_| {}).await?;
    plain_cart(&pair, at).await?;
    say(&pair, Some(Duration::from_millis(50)), None).await?;
    let refused = soon(pair.web.client().send(get("http://cart/"))).await?;
    assert_eq!(refused.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(refused.headers()["x-mesh-reason"], "connect-timeout");
    Ok(())
}
