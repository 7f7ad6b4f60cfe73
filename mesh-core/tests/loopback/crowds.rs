//! More connections than there is room for: of one caller, of all callers, to endpoints.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Response, StatusCode};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use inmesh_core::discover::pushed;
use inmesh_core::model::AppProtocol;
use inmesh_core::runtime::{InboundListener, Limits};
use inmesh_core::{Body, Mesh};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::support::{
    Builder, Pair, Result, for_cart, get, h1, h2, origin, origin_h2, soon, tell, text,
};

const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n";

/// A server that answers each request but those for `/well` once `go` lets it.
async fn waiting(go: &Arc<Semaphore>, http2: bool) -> Result<SocketAddr> {
    let go = Arc::clone(go);
    let answer = move |request: ::http::Request<hyper::body::Incoming>| {
        let go = Arc::clone(&go);
        async move {
            if request.uri().path() != "/well"
                && let Ok(permit) = go.acquire().await
            {
                permit.forget();
            }
            Response::new(Body::from("answer"))
        }
    };
    match http2 {
        true => origin_h2(answer).await,
        false => origin(answer).await,
    }
}

fn limited(set: impl FnOnce(&mut Limits)) -> impl Fn(Builder) -> Builder {
    let mut limits = Limits::default();
    set(&mut limits);
    move |builder: Builder| builder.limits(limits.clone())
}

/// Connects from another address of this host.
async fn from_elsewhere(to: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind("127.0.0.2:0".parse()?)?;
    Ok(socket.connect(to).await?)
}

fn metric(mesh: &Mesh, line: &str) -> bool {
    mesh.encode_metrics().lines().any(|l| l == line)
}

/// However many connections a peer may have, it has a quarter of what there are: of a listener, and of the
/// sockets for callers of all listeners.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn one_address_does_not_take_what_is_there_for_all() -> Result {
    let places = |limits: &mut Limits| limits.connections = 8;
    let sockets = |limits: &mut Limits| limits.sockets = 16;
    type Change = fn(&mut Limits);
    let each: [(Change, bool); 2] = [(places, false), (sockets, true)];
    for (change, elsewhere) in each {
        let app = origin(tell).await?;
        let open = |to: &mut InboundListener| to.strict = false;
        let pair = Pair::with(AppProtocol::Http1, app, limited(change), open).await?;
        let second = TcpListener::bind("127.0.0.1:0").await?;
        let door = if elsewhere {
            second.local_addr()?
        } else {
            pair.inbound
        };
        let mut to = InboundListener::new(app, AppProtocol::Http1);
        open(&mut to);
        let cart = pair.cart.clone();
        tokio::spawn(async move { cart.serve_behind(second, to).await });
        let mut held = Vec::new();
        for door in [pair.inbound, door] {
            let mut stream = from_elsewhere(door).await?;
            stream.write_all(ASK).await?;
            let mut begin = [0; 12];
            soon(stream.read_exact(&mut begin)).await??;
            assert_eq!(&begin, b"HTTP/1.1 200");
            held.push(stream);
        }
        let mut third = from_elsewhere(door).await?;
        let read = soon(third.read(&mut [0])).await?;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    Ok(())
}

/// The whole of 127.0.0.0/8 is this host on Linux alone.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_address_has_its_share_of_a_listener_before_it_has_proven_anything() -> Result {
    let build = limited(|limits| limits.peer_connections = 2);
    let app = origin(tell).await?;
    let pair = Pair::with(AppProtocol::Http1, app, build, |to| to.strict = false).await?;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = from_elsewhere(pair.inbound).await?;
        stream.write_all(ASK).await?;
        let mut begin = [0; 12];
        soon(stream.read_exact(&mut begin)).await??;
        assert_eq!(&begin, b"HTTP/1.1 200");
        held.push(stream);
    }
    let mut third = from_elsewhere(pair.inbound).await?;
    let mut byte = [0];
    let read = soon(third.read(&mut byte)).await?;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    let record = pair
        .in_seen
        .one(|x| x.reason.is_some_and(|r| r.as_str() == "crowded"))
        .await?;
    assert!(record.caller.is_some() && record.tls_peer.is_none());
    let failed = "mesh_connections_failed_total{direction=\"inbound\",reason=\"crowded\"} 1";
    assert!(metric(&pair.cart, failed), "{}", pair.cart.encode_metrics());
    // Other addresses are served, and so is this one once it has closed one.
    let answer = pair.web.client().send(get("http://cart/")).await;
    assert_eq!(answer.status(), StatusCode::OK);
    held.pop();
    soon(async {
        while pair.cart.status().listeners[0].connections > 2 {
            tokio::task::yield_now().await;
        }
    })
    .await?;
    let mut again = from_elsewhere(pair.inbound).await?;
    again.write_all(ASK).await?;
    let mut begin = [0; 12];
    soon(again.read_exact(&mut begin)).await??;
    Ok(())
}

/// However many addresses it comes from, and in which version. The one that is refused has a place of
/// its address until it has ended.
#[tokio::test]
async fn an_identity_has_its_share_of_a_listener() -> Result {
    for (protocol, http2) in [(AppProtocol::Http1, false), (AppProtocol::Http2, true)] {
        let go = Arc::new(Semaphore::new(0));
        let app = waiting(&go, http2).await?;
        let build = limited(|limits| limits.peer_connections = 2);
        let pair = Pair::with(protocol, app, build, |_| {}).await?;
        // A process of this identity, with a connection of its own.
        let process = async |workload: &str| -> Result<Mesh> {
            let (pusher, source) = pushed("test");
            let mesh = pair.world.mesh(workload)?.source(source).start()?;
            let cart = pair.world.service("cart", protocol, &[pair.inbound])?;
            pusher.push(cart).await?;
            mesh.ready().await;
            Ok(mesh)
        };
        let mut held = Vec::new();
        for _ in 0..2 {
            let client = process("web").await?.client();
            held.push(tokio::spawn(async move {
                client.send(get("http://cart/")).await.status()
            }));
            let begun = async {
                while pair.cart.status().listeners[0].connections < held.len() {
                    tokio::task::yield_now().await;
                }
            };
            soon(begun).await?;
        }
        let crowding = process("web").await?;
        let refused = soon(crowding.client().send(get("http://cart/well"))).await?;
        assert_eq!(
            refused.status(),
            StatusCode::TOO_MANY_REQUESTS,
            "{protocol}"
        );
        assert_eq!(refused.headers()["x-mesh-reason"], "crowded");
        let record = pair
            .in_seen
            .one(|x| x.reason.is_some_and(|r| r.as_str() == "crowded"))
            .await?;
        assert_eq!(record.tls_peer, Some(pair.world.id("web")?));
        let other = process("other").await?;
        let served = soon(other.client().send(get("http://cart/well"))).await?;
        assert_eq!(served.status(), StatusCode::OK, "{protocol}");
        go.add_permits(2);
        for held in held {
            assert_eq!(soon(held).await??, StatusCode::OK);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_to_an_endpoint_without_a_socket_is_exhausted_and_nothing_is_ejected() -> Result
{
    let go = Arc::new(Semaphore::new(0));
    let build = limited(|limits| {
        (limits.sockets, limits.connect) = (2, Duration::from_millis(50));
    });
    let app = waiting(&go, false).await?;
    let pair = Pair::with(AppProtocol::Http1, app, build, |_| {}).await?;
    let client = pair.web.client();
    let held = tokio::spawn(async move { client.send(get("http://cart/")).await });
    let taken = "mesh_sockets_open{side=\"endpoints\"} 1";
    soon(async {
        while !metric(&pair.cart, taken) {
            tokio::task::yield_now().await;
        }
    })
    .await?;
    for _ in 0..6 {
        let refused = pair.web.client().send(get("http://cart/well")).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.headers()["x-mesh-reason"], "exhausted");
    }
    let metrics = pair.web.encode_metrics();
    assert!(!metrics.contains("mesh_ejections_total{"), "{metrics}");
    let missed = "mesh_sockets_exhausted_total{side=\"endpoints\"} 6";
    assert!(metric(&pair.web, missed), "{metrics}");
    go.add_permits(1);
    text(soon(held).await??).await?;
    let answer = pair.web.client().send(get("http://cart/well")).await;
    assert_eq!(answer.status(), StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn callers_without_a_socket_wait_for_one_at_any_listener() -> Result {
    let build = limited(|limits| limits.sockets = 2);
    let pair = Pair::with(AppProtocol::Http1, origin(tell).await?, build, |_| {}).await?;
    let first = h1(pair.outbound).await?;
    let open = "mesh_sockets_open{side=\"callers\"} 1";
    soon(async {
        while !metric(&pair.web, open) {
            tokio::task::yield_now().await;
        }
    })
    .await?;
    let mut second = TcpStream::connect(pair.outbound).await?;
    second.write_all(ASK).await?;
    let missed = "mesh_sockets_exhausted_total{side=\"callers\"} 1";
    soon(async {
        while !metric(&pair.web, missed) {
            tokio::task::yield_now().await;
        }
    })
    .await?;
    drop(first);
    let mut begin = [0; 12];
    soon(second.read_exact(&mut begin)).await??;
    assert_eq!(&begin, b"HTTP/1.1 200");
    Ok(())
}

/// An answer without end, which tells of each part.
async fn endless(http2: bool) -> Result<(SocketAddr, watch::Receiver<u64>)> {
    let (tell, told) = watch::channel(0);
    let tell = Arc::new(tell);
    let answer = move |request: ::http::Request<hyper::body::Incoming>| {
        let tell = Arc::clone(&tell);
        async move {
            if request.uri().path() == "/well" {
                return Response::new(Body::from(vec![b'x'; 1 << 20]));
            }
            let parts = futures_util::stream::repeat_with(move || {
                tell.send_modify(|parts| *parts += 1);
                Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(&[b'x'; 16 * 1024])))
            });
            Response::new(Body::new(StreamBody::new(parts)))
        }
    };
    let address = match http2 {
        true => origin_h2(answer).await?,
        false => origin(answer).await?,
    };
    Ok((address, told))
}

/// Waits until no part has come for a while.
async fn at_rest(mut told: watch::Receiver<u64>) {
    let quiet = Duration::from_millis(300);
    while timeout(quiet, told.changed()).await.is_ok() {}
}

fn buffered(mesh: &Mesh) -> usize {
    let metrics = mesh.encode_metrics();
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("mesh_buffered_bytes "));
    line.and_then(|n| n.parse().ok()).unwrap_or(usize::MAX)
}

/// Whatever the versions, and whether they share a connection or not.
#[tokio::test]
async fn answers_that_are_not_read_hold_a_budget_together_and_others_go_on() -> Result {
    const UNREAD: usize = 24;
    const BUDGET: usize = 1 << 20;
    for (protocol, http2) in [
        (AppProtocol::Http1, false),
        (AppProtocol::Http1, true),
        (AppProtocol::Http2, true),
    ] {
        let (app, told) = endless(protocol == AppProtocol::Http2).await?;
        let build = limited(|limits| limits.buffered = BUDGET);
        let pair = Pair::with(protocol, app, build, |_| {}).await?;
        let mut unread = Vec::new();
        let shared = h2(pair.outbound).await?;
        for _ in 0..UNREAD {
            let answer = if http2 {
                soon(shared.clone().send_request(get("http://cart/"))).await??
            } else {
                soon(h1(pair.outbound).await?.send_request(for_cart("/"))).await??
            };
            assert_eq!(answer.status(), StatusCode::OK);
            unread.push(answer);
        }
        at_rest(told).await;
        for mesh in [&pair.web, &pair.cart] {
            let held = buffered(mesh);
            let most = BUDGET + UNREAD * 64 * 1024;
            assert!(held <= most, "{protocol} {http2}: {held} of {most}");
        }
        let well = pair.web.client().send(get("http://cart/well")).await;
        assert_eq!(text(well).await?.len(), 1 << 20, "{protocol} {http2}");
        drop((unread, shared));
        let given_back = async {
            while buffered(&pair.web) > BUDGET / 2 || buffered(&pair.cart) > BUDGET / 2 {
                tokio::task::yield_now().await;
            }
        };
        soon(given_back).await?;
    }
    Ok(())
}
