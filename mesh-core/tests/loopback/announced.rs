//! PROXY headers of connections that are none of plain requests: tunnels, requests that are hedged or
//! repeated, copies, and what leaves HTTP.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use ::http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use inmesh_core::Body;
use inmesh_core::accept::proxy::{Ends, Header};
use inmesh_core::model::{
    AppProtocol, Host, Kind, Namespace, ObjectKey, ProxyVersion, Service, ServiceName, ServicePort,
    Slice, SliceHost, SlicePort, Transport,
};
use inmesh_core::retry::{HedgePolicy, RetryPolicy};
use inmesh_core::route::{Backend, Filter, Mirror, Parent, Route, Rule};
use inmesh_core::snapshot::Op;
use inmesh_core::traffic::{Blocks, Target, TrafficPolicy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::proxied::header_of;
use crate::support::{Pair, Result, for_cart, get, h2, plain_cart, push, soon, text};

fn key(kind: Kind, name: &str) -> Result<ObjectKey> {
    Ok(ObjectKey::new(kind, &Namespace::new("shop")?, name)?)
}

fn service(name: &str) -> Result<ServiceName> {
    Ok(ServiceName::new(&Namespace::new("shop")?, name)?)
}

/// Says of a Service that its servers read headers, and what else is asked of it.
fn policy(of: &str, mut blocks: Blocks) -> Result<Op> {
    blocks.proxy_protocol = Some(ProxyVersion::V2);
    let target = Target::Service(service(of)?, None);
    let key = key(Kind::TrafficPolicy, of)?;
    Ok(Op::put(TrafficPolicy::new(key, vec![target], blocks)?))
}

fn plain(of: &str, name: &str, at: SocketAddr) -> Result<Op> {
    Ok(Op::put(Slice::new(
        key(Kind::EndpointSlice, name)?,
        service(of)?,
        vec![SlicePort::new("main", at.port())],
        vec![SliceHost::new(Host::Address(at.ip()))],
        Transport::Plain,
    )))
}

/// What a server does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    /// It says whose connection it is.
    Answers,
    /// It has too much to do.
    Busy,
    /// It never answers.
    Hangs,
    /// It leaves HTTP, and echoes what comes then.
    Switches,
}

/// Plain servers whose connections begin with headers.
#[derive(Clone)]
struct Servers {
    /// Whose connection each request has come on, and what is to be done with it.
    came: mpsc::UnboundedSender<SocketAddr>,
    does: watch::Receiver<Does>,
    open: watch::Sender<usize>,
}

struct Seen {
    came: mpsc::UnboundedReceiver<SocketAddr>,
    does: watch::Sender<Does>,
    open: watch::Receiver<usize>,
}

impl Servers {
    fn new(does: Does) -> (Self, Seen) {
        let (came, all) = mpsc::unbounded_channel();
        let (say, does) = watch::channel(does);
        let (open, count) = watch::channel(0);
        let seen = Seen {
            came: all,
            does: say,
            open: count,
        };
        (Self { came, does, open }, seen)
    }

    /// One more server; after a request that is not answered with 200, the next one is.
    async fn serve(&self, once: watch::Sender<Does>) -> Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let at = listener.local_addr()?;
        let servers = self.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (servers, once) = (servers.clone(), once.clone());
                tokio::spawn(async move {
                    let header = header_of(&mut stream).await.expect("a header");
                    let Header::Proxied(Ends { source, .. }) = header else {
                        panic!("{header:?}");
                    };
                    servers.open.send_modify(|open| *open += 1);
                    let open = servers.open.clone();
                    let answer = service_fn(move |request| {
                        let _gone = servers.came.send(source);
                        let does = *servers.does.borrow();
                        let _same = once.send(Does::Answers);
                        async move {
                            Ok::<_, std::convert::Infallible>(answered(does, request, source).await)
                        }
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    let connection = connection.serve_connection(TokioIo::new(stream), answer);
                    let _ended = connection.with_upgrades().await;
                    open.send_modify(|open| *open -= 1);
                });
            }
        });
        Ok(at)
    }
}

async fn answered(
    does: Does,
    mut request: Request<Incoming>,
    source: SocketAddr,
) -> Response<Body> {
    let mut answer = Response::new(Body::from(source.to_string()));
    match does {
        Does::Answers => {}
        Does::Busy => *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE,
        Does::Hangs => std::future::pending().await,
        Does::Switches => {
            *answer.body_mut() = Body::empty();
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = answer.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            tokio::spawn(async move {
                let io = hyper::upgrade::on(&mut request).await.ok()?;
                let (mut read, mut write) = tokio::io::split(TokioIo::new(io));
                tokio::io::copy(&mut read, &mut write).await.ok()
            });
        }
    }
    answer
}

/// A caller of HTTP/1.1 with its own address.
async fn caller(at: SocketAddr) -> Result<(http1::SendRequest<Body>, SocketAddr)> {
    let stream = TcpStream::connect(at).await?;
    let own = stream.local_addr()?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    Ok((sender, own))
}

/// `cart` as two servers, and what else is asked of it.
async fn two(does: Does, blocks: Blocks) -> Result<(Pair, Seen)> {
    let (servers, seen) = Servers::new(does);
    let first = servers.serve(seen.does.clone()).await?;
    let second = servers.serve(seen.does.clone()).await?;
    let pair = Pair::new(AppProtocol::Http1, first).await?;
    let ops = vec![
        plain("cart", "cart-0", first)?,
        plain("cart", "cart-1", second)?,
        policy("cart", blocks)?,
    ];
    push(&pair, ops).await?;
    Ok((pair, seen))
}

/// Over both versions of HTTP: two streams of one connection are two tunnels of one caller.
#[tokio::test]
async fn a_tunnel_begins_with_the_header_of_its_caller() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    let pair = Pair::new(AppProtocol::Tcp, at).await?;
    plain_cart(&pair, at).await?;
    push(&pair, vec![policy("cart", Blocks::default())?]).await?;
    let mut stream = TcpStream::connect(pair.outbound).await?;
    let ends = Ends::new(stream.local_addr()?, pair.outbound);
    let head = b"CONNECT cart:80 HTTP/1.1\r\nhost: cart:80\r\n\r\nhello";
    stream.write_all(head).await?;
    let (mut server, _) = soon(listener.accept()).await??;
    assert_eq!(header_of(&mut server).await?, Header::Proxied(ends));
    let mut heard = [0; 5];
    soon(server.read_exact(&mut heard)).await??;
    assert_eq!(&heard, b"hello");
    drop((server, stream));
    let sender = h2(pair.outbound).await?;
    let mut sources = HashSet::new();
    for _ in 0..2 {
        let mut ask = get("cart:80");
        (*ask.method_mut(), *ask.version_mut()) = (Method::CONNECT, Version::HTTP_2);
        let mut sender = sender.clone();
        let answer = soon(sender.send_request(ask)).await??;
        assert_eq!(answer.status(), StatusCode::OK);
        let mut tunnel = TokioIo::new(hyper::upgrade::on(answer).await?);
        tunnel.write_all(b"hello").await?;
        let (mut server, _) = soon(listener.accept()).await??;
        let Header::Proxied(ends) = header_of(&mut server).await? else {
            return Err("no caller is named".into());
        };
        assert_eq!(ends.destination, pair.outbound);
        soon(server.read_exact(&mut heard)).await??;
        assert_eq!(&heard, b"hello");
        sources.insert(ends.source);
    }
    assert_eq!(sources.len(), 1, "{sources:?}");
    Ok(())
}

/// All attempts are the caller's, on connections that are its alone.
#[tokio::test]
async fn each_attempt_of_a_hedged_or_repeated_request_names_its_caller() -> Result {
    let hedge = HedgePolicy::new(2, Duration::from_millis(20))?;
    for (does, hedge) in [(Does::Hangs, Some(hedge)), (Does::Busy, None)] {
        let mut blocks = Blocks::default();
        blocks.retry = hedge
            .is_none()
            .then(|| Ok::<_, crate::support::BoxError>(RetryPolicy::new(1).on_status(503)?))
            .transpose()?
            .map(Into::into);
        blocks.hedge = hedge.map(Into::into);
        let (pair, mut seen) = two(does, blocks).await?;
        let mut connections = Vec::new();
        for _ in 0..2 {
            seen.does.send(does)?;
            let (mut sender, own) = caller(pair.outbound).await?;
            let answer = soon(sender.send_request(for_cart("/"))).await??;
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(text(answer).await?, own.to_string());
            for _ in 0..2 {
                assert_eq!(soon(seen.came.recv()).await?, Some(own), "{does:?}");
            }
            connections.push(sender);
        }
        // With a caller all its connections end, that of an attempt that was taken back included.
        drop(connections);
        soon(seen.open.wait_for(|open| *open == 0)).await??;
    }
    Ok(())
}

/// A copy names the caller of the request, whose own server reads no header.
#[tokio::test]
async fn a_copy_begins_with_the_header_of_its_caller_and_ends_with_it() -> Result {
    let (servers, mut seen) = Servers::new(Does::Answers);
    let shadow = servers.serve(seen.does.clone()).await?;
    let app = crate::support::origin(crate::support::tell).await?;
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    let mirror = Filter::Mirror(Mirror::new(service("shadow")?, 80));
    let rule = Rule::to(vec![Backend::new(service("cart")?, 80, 1)?]).with_filters(vec![mirror]);
    let parents = vec![Parent::new(service("cart")?, None)];
    let route = Route::new(key(Kind::HttpRoute, "r")?, parents, vec![rule])?;
    let port = ServicePort::new("main", 80, AppProtocol::Http1);
    let ops = vec![
        Op::put(Service::new(service("shadow")?, vec![port])),
        plain("shadow", "shadow-0", shadow)?,
        policy("shadow", Blocks::default())?,
        Op::put(route),
    ];
    push(&pair, ops).await?;
    let mut callers = Vec::new();
    for _ in 0..2 {
        let (mut sender, own) = caller(pair.outbound).await?;
        for _ in 0..2 {
            let answer = soon(sender.send_request(for_cart("/"))).await??;
            assert_eq!(answer.status(), StatusCode::OK);
            text(answer).await?;
            assert_eq!(soon(seen.came.recv()).await?, Some(own));
        }
        callers.push(sender);
    }
    drop(callers);
    soon(seen.open.wait_for(|open| *open == 0)).await??;
    Ok(())
}

/// What has left HTTP is on the connection that was announced, which no request uses again.
#[tokio::test]
async fn a_websocket_leaves_on_the_connection_of_its_caller() -> Result {
    let (pair, mut seen) = two(Does::Switches, Blocks::default()).await?;
    let (mut sender, own) = caller(pair.outbound).await?;
    let mut ask = for_cart("/");
    for (name, value) in [
        (header::CONNECTION, "upgrade"),
        (header::UPGRADE, "websocket"),
    ] {
        ask.headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    let answer = soon(sender.send_request(ask)).await??;
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(soon(seen.came.recv()).await?, Some(own));
    let mut io = TokioIo::new(hyper::upgrade::on(answer).await?);
    io.write_all(b"ping").await?;
    let mut bytes = [0; 4];
    soon(io.read_exact(&mut bytes)).await??;
    assert_eq!(&bytes, b"ping");
    drop(io);
    Ok(())
}
