//! Tunnels that a caller of a listener by authority asks for with CONNECT, over both versions of HTTP.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::http::{Method, Request, StatusCode};
use bytes::Bytes;
use inmesh_core::authorize::{Action, Policy, PolicyRule};
use inmesh_core::balance::RequestLimits;
use inmesh_core::discover::pushed;
use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey, ServiceName};
use inmesh_core::route::{Backend, OpaqueRoute, Parent, ServerNames};
use inmesh_core::runtime::{InboundListener, Limits, OutboundListener};
use inmesh_core::snapshot::{Op, OutboundTrafficPolicy};
use inmesh_core::telemetry::Protocol;
use inmesh_core::traffic::{Blocks, Target, TrafficPolicy};
use inmesh_core::{Body, Mesh, Reason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{
    Builder, Pair, Result, echo, in_flight, origin, push, raw, serve_outbound, soon, tell,
    with_egress,
};
use crate::tunnels::listener_that_answers_at_the_end;

/// The head of a CONNECT, as clients write it.
fn head(to: &str) -> String {
    format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: test\r\n\r\n")
}

/// A tunnel that was answered, and the head of that answer.
async fn opened(at: std::net::SocketAddr, to: &str) -> Result<(TcpStream, String)> {
    let mut stream = TcpStream::connect(at).await?;
    stream.write_all(head(to).as_bytes()).await?;
    let answer = answered(&mut stream).await?;
    Ok((stream, answer))
}

/// Reads the head of an answer, and no byte after it.
async fn answered(stream: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(stream.read_u8()).await??);
    }
    Ok(String::from_utf8(head)?)
}

async fn echoes(stream: &mut TcpStream) -> Result {
    stream.write_all(b"ping").await?;
    let mut bytes = [0; 4];
    soon(stream.read_exact(&mut bytes)).await??;
    assert_eq!(&bytes, b"ping");
    Ok(())
}

fn cart() -> Result<ServiceName> {
    Ok(ServiceName::new(&Namespace::new("shop")?, "cart")?)
}

/// What a series of a metric has counted.
fn counted(mesh: &Mesh, metric: &str, label: &str) -> bool {
    let metrics = mesh.encode_metrics();
    let mut lines = metrics.lines();
    lines.any(|line| line.starts_with(metric) && line.contains(label))
}

#[tokio::test]
async fn a_tunnel_is_an_opaque_connection_in_mutual_tls_and_each_way_ends_by_itself() -> Result {
    let pair = Pair::new(AppProtocol::Tcp, listener_that_answers_at_the_end().await?).await?;
    let mut stream = TcpStream::connect(pair.outbound).await?;
    // What comes right behind the head is the tunnel's already. `Host` may leave out the port.
    let head = b"CONNECT Cart:80 HTTP/1.1\r\nhost: cart\r\n\r\nab";
    stream.write_all(head).await?;
    let answer = answered(&mut stream).await?;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    for field in ["content-length", "transfer-encoding", "connection"] {
        assert!(!answer.contains(field), "{answer}");
    }
    stream.write_all(b"c").await?;
    stream.shutdown().await?;
    let mut said = Vec::new();
    soon(stream.read_to_end(&mut said)).await??;
    assert_eq!(said, b"cba");
    for (seen, peer) in [(&pair.out_seen, "cart"), (&pair.in_seen, "web")] {
        let record = seen.one(|_| true).await?;
        assert_eq!((record.request_bytes, record.response_bytes), (3, 3));
        assert_eq!(record.tls_peer, Some(pair.world.id(peer)?));
        assert_eq!(record.reason, None);
    }
    let record = pair.out_seen.one(|_| true).await?;
    assert_eq!(record.method, Some(Method::CONNECT));
    assert_eq!((record.status, &*record.authority), (200, "cart:80"));
    assert_eq!(record.attempts.len(), 1);
    assert!(counted(
        &pair.web,
        "istio_tcp_connections_closed_total",
        "cart"
    ));
    assert!(!counted(&pair.web, "istio_requests_total", "cart"));
    assert_eq!(in_flight(&pair.web), 0);
    Ok(())
}

/// What a caller says of its connection to a proxy is no matter of the tunnel.
#[tokio::test]
async fn older_callers_and_those_that_would_close_have_tunnels_too() -> Result {
    let pair = Pair::new(AppProtocol::Tcp, echo().await?).await?;
    for head in [
        "CONNECT cart:80 HTTP/1.0\r\n\r\n",
        "CONNECT cart:80 HTTP/1.1\r\nhost: cart:80\r\nconnection: close\r\n\r\n",
        "CONNECT cart:80 HTTP/1.1\r\nhost: cart:80\r\nproxy-connection: keep-alive\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(pair.outbound).await?;
        stream.write_all(head.as_bytes()).await?;
        let answer = answered(&mut stream).await?;
        assert!(answer.contains(" 200 "), "{head}: {answer}");
        echoes(&mut stream).await?;
    }
    Ok(())
}

/// A tunnel over one stream of HTTP/2, beside others of the same connection.
#[tokio::test]
async fn a_stream_of_http2_is_a_tunnel_too() -> Result {
    let pair = Pair::new(AppProtocol::Tcp, listener_that_answers_at_the_end().await?).await?;
    let stream = TcpStream::connect(pair.outbound).await?;
    let (sender, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(connection);
    let mut sender = sender.ready().await?;
    let connect = |to: &'static str| -> Result<Request<()>> {
        Ok(Request::connect(to)
            .version(::http::Version::HTTP_2)
            .body(())?)
    };
    let (answer, _) = sender.send_request(connect("nothing:80")?, true)?;
    let answer = soon(answer).await??;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert_eq!(answer.headers()["x-mesh-reason"], "unknown-host");
    let mut tunnels = Vec::new();
    for _ in 0..2 {
        let (answer, said) = sender.send_request(connect("cart:80")?, false)?;
        let answer = soon(answer).await??;
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(!answer.headers().contains_key("content-length"));
        tunnels.push((answer.into_body(), said));
    }
    for (mut heard, mut said) in tunnels {
        said.send_data(Bytes::from_static(b"ab"), false)?;
        said.send_data(Bytes::from_static(b"c"), true)?;
        let mut bytes = Vec::new();
        while let Some(part) = soon(heard.data()).await? {
            bytes.extend_from_slice(&part?);
        }
        assert_eq!(bytes, b"cba");
        assert!(heard.is_end_stream());
    }
    let record = pair.out_seen.one(|x| x.status == 200).await?;
    assert_eq!((record.request_bytes, record.response_bytes), (3, 3));
    assert_eq!(record.protocol.to_string(), "HTTP/2");
    Ok(())
}

#[tokio::test]
async fn what_a_tunnel_may_not_lead_to_is_refused_and_the_connection_serves_on() -> Result {
    let pair = Pair::new(AppProtocol::Tcp, echo().await?).await?;
    let admin = pair.inbound.port();
    let literals: Vec<_> = [
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "localhost",
    ]
    .iter()
    .map(|host| format!("{host}:{admin}"))
    .collect();
    let mut rows = vec![
        ("cart", "400", "invalid-request"),
        ("cart:0", "400", "invalid-request"),
        ("cart:http", "400", "invalid-request"),
        ("cart:65536", "400", "invalid-request"),
        ("cart:81", "404", "no-route"),
        ("other:80", "404", "unknown-host"),
        ("www.example.com:443", "404", "unknown-host"),
    ];
    rows.extend(literals.iter().map(|to| (&**to, "404", "unknown-host")));
    for (to, status, reason) in rows {
        let mut request = head(to);
        // The next request of the connection is served, since no tunnel was opened.
        request.push_str("GET / HTTP/1.1\r\nhost: nothing\r\nconnection: close\r\n\r\n");
        let answer = raw(pair.outbound, request.as_bytes()).await?;
        let wanted = format!("HTTP/1.1 {status}");
        assert!(answer.starts_with(&wanted), "{to}: {answer}");
        assert!(
            answer.contains(&format!("x-mesh-reason: {reason}\r\n")),
            "{to}: {answer}"
        );
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "{to}: {answer}");
    }
    assert!(pair.in_seen.all().is_empty(), "{:?}", pair.in_seen.all());
    let refused = pair.out_seen.one(|x| &*x.authority == "cart:81").await?;
    assert_eq!(refused.reason, Some(Reason::NoRoute));
    assert!(counted(
        &pair.web,
        "istio_requests_total",
        "response_code=\"404\""
    ));
    // A body, and a `Host` that is another.
    for head in [
        "CONNECT cart:80 HTTP/1.1\r\nhost: cart:80\r\ncontent-length: 1\r\n\r\nx",
        "CONNECT cart:80 HTTP/1.1\r\nhost: other:80\r\nconnection: close\r\n\r\n",
        "CONNECT http://cart:80/ HTTP/1.1\r\nhost: cart:80\r\nconnection: close\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(pair.outbound).await?;
        stream.write_all(head.as_bytes()).await?;
        let answer = answered(&mut stream).await?;
        assert!(answer.starts_with("HTTP/1.1 400"), "{head}: {answer}");
    }
    Ok(())
}

/// Where all hosts may be reached, this process and its host are still no such host.
#[tokio::test]
async fn loopback_is_no_outside_host() -> Result {
    let build = |b: Builder| b.outbound_traffic_policy(OutboundTrafficPolicy::AllowAny);
    let pair = Pair::with(AppProtocol::Tcp, echo().await?, build, |_| {}).await?;
    let port = pair.outbound.port();
    for host in [
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
        "localhost",
    ] {
        let (_, answer) = opened(pair.outbound, &format!("{host}:{port}")).await?;
        assert!(answer.starts_with("HTTP/1.1 404"), "{host}: {answer}");
    }
    Ok(())
}

/// Inside of a tunnel neither policies nor routes would see the requests of a port that speaks HTTP.
#[tokio::test]
async fn no_tunnel_leads_past_the_routes_of_a_port_that_speaks_http() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let (_, answer) = opened(pair.outbound, "cart:80").await?;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let record = pair.out_seen.one(|_| true).await?;
    let detail = record.detail.unwrap_or_default();
    assert!(detail.contains("port 80 of cart.shop speaks"), "{detail}");
    Ok(())
}

/// Behind any other door it would be a way to whatever the process can reach.
#[tokio::test]
async fn other_listeners_and_programs_that_embed_the_mesh_have_no_tunnels() -> Result {
    let permissive = |to: &mut InboundListener| to.strict = false;
    let app = origin(tell).await?;
    let pair = Pair::with(AppProtocol::Http1, app, |b| b, permissive).await?;
    let to = OutboundListener::to(cart()?, 80, AppProtocol::Http1);
    let led = serve_outbound(&pair.web, to).await?;
    for at in [pair.inbound, led] {
        let (_, answer) = opened(at, "cart:80").await?;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    let request = Request::connect("cart:80").body(Body::empty())?;
    let error = pair.web.client().try_send(request).await.err();
    assert_eq!(error.map(|e| e.reason()), Some(Reason::InvalidRequest));
    Ok(())
}

#[tokio::test]
async fn an_egress_policy_denies_tunnels() -> Result {
    let all = PolicyRule::new(vec![], vec![]);
    let (mesh, _pusher) = with_egress(all, AppProtocol::Tcp, echo().await?).await?;
    let by_authority = OutboundListener::by_authority(AppProtocol::Detect);
    let at = serve_outbound(&mesh, by_authority).await?;
    let (_, answer) = opened(at, "cart:80").await?;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.contains("x-mesh-reason: denied"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_is_down_is_said_before_the_tunnel_is_open() -> Result {
    let pair = Pair::new(AppProtocol::Tcp, echo().await?).await?;
    // Nothing listens at a port that was let go.
    let nowhere = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await?
        .local_addr()?;
    push(
        &pair,
        pair.world.service("cart", AppProtocol::Tcp, &[nowhere])?,
    )
    .await?;
    let (_, answer) = opened(pair.outbound, "cart:80").await?;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("x-mesh-reason: connect-failed"), "{answer}");
    let record = pair.out_seen.one(|_| true).await?;
    assert_eq!((record.status, record.attempts.len()), (503, 1));
    Ok(())
}

#[tokio::test]
async fn tunnels_count_among_the_connections_that_may_be_open() -> Result {
    let pair = Pair::new(AppProtocol::Tcp, echo().await?).await?;
    let key = ObjectKey::new(Kind::TrafficPolicy, &Namespace::new("shop")?, "cart")?;
    let mut blocks = Blocks::default();
    blocks.limits = Some(RequestLimits::default().with_connections(1, 1)?);
    let policy = TrafficPolicy::new(key, vec![Target::Service(cart()?, None)], blocks)?;
    push(&pair, vec![Op::put(policy)]).await?;
    let (mut first, _) = opened(pair.outbound, "cart:80").await?;
    echoes(&mut first).await?;
    let (_, answer) = opened(pair.outbound, "cart:80").await?;
    assert!(
        answer.contains("x-mesh-reason: connection-overflow"),
        "{answer}"
    );
    echoes(&mut first).await?;
    first.shutdown().await?;
    soon(first.read_to_end(&mut Vec::new())).await??;
    pair.out_seen.one(|x| x.status == 200).await?;
    let (mut next, _) = opened(pair.outbound, "cart:80").await?;
    echoes(&mut next).await
}

/// The host of CONNECT stands for the name of a handshake that comes later.
#[tokio::test]
async fn tlsroutes_are_met_by_the_host_and_tcproutes_by_any() -> Result {
    let pair = Pair::new(AppProtocol::Detect, echo().await?).await?;
    let shop = Namespace::new("shop")?;
    let nowhere = ServiceName::new(&shop, "nowhere")?;
    let route = |kind, name: &str, to: ServiceName| -> Result<OpaqueRoute> {
        let key = ObjectKey::new(kind, &shop, name)?;
        let to = vec![Backend::new(to, 80, 1)?];
        Ok(OpaqueRoute::new(key, vec![Parent::new(cart()?, None)], to)?)
    };
    let named = route(Kind::TlsRoute, "a", cart()?)?;
    let named = named.with_names(vec![ServerNames::new("cart.shop")?])?;
    push(&pair, vec![Op::put(named)]).await?;
    let (mut stream, answer) = opened(pair.outbound, "CART.shop:80").await?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    echoes(&mut stream).await?;
    let (_, answer) = opened(pair.outbound, "cart:80").await?;
    assert!(answer.contains("x-mesh-reason: no-route"), "{answer}");
    let gone = ObjectKey::new(Kind::TlsRoute, &shop, "a")?;
    let any = route(Kind::TcpRoute, "b", nowhere)?;
    push(&pair, vec![Op::Remove(gone), Op::put(any)]).await?;
    let (_, answer) = opened(pair.outbound, "cart:80").await?;
    assert!(
        answer.contains("x-mesh-reason: backend-missing"),
        "{answer}"
    );
    Ok(())
}

/// The agent of the endpoint asks its policy again, and what it ends is ended here.
#[tokio::test]
async fn a_policy_that_comes_later_ends_a_tunnel() -> Result {
    let (rules, source) = pushed("rules");
    let source = Mutex::new(Some(source));
    // The first to be built is the mesh of `cart`.
    let build = move |b: Builder| {
        let source = source.lock().unwrap_or_else(PoisonError::into_inner).take();
        match source {
            Some(source) => b.source(source),
            None => b,
        }
    };
    let pair = Pair::with(AppProtocol::Tcp, echo().await?, build, |_| {}).await?;
    rules.push(Vec::new()).await?;
    soon(pair.cart.ready()).await?;
    let (mut stream, _) = opened(pair.outbound, "cart:80").await?;
    echoes(&mut stream).await?;
    let key = ObjectKey::new(Kind::AuthorizationPolicy, &Namespace::new("shop")?, "stop")?;
    let stop = Policy::new(key, Action::Deny, vec![PolicyRule::new(vec![], vec![])]);
    rules.push(vec![Op::put(stop)]).await?;
    let mut rest = Vec::new();
    let _cut = soon(stream.read_to_end(&mut rest)).await?;
    assert_eq!(rest, b"");
    let record = pair.in_seen.one(|_| true).await?;
    assert_eq!(record.reason, Some(Reason::Denied));
    drop(stream);
    pair.out_seen.one(|x| x.status == 200).await?;
    Ok(())
}

#[tokio::test]
async fn the_drain_cuts_tunnels() -> Result {
    let mut limits = Limits::default();
    limits.drain_lead = Duration::ZERO;
    limits.drain_deadline = Duration::from_millis(10);
    let build = move |b: Builder| b.limits(limits.clone());
    let pair = Pair::with(AppProtocol::Tcp, echo().await?, build, |_| {}).await?;
    let (mut stream, _) = opened(pair.outbound, "cart:80").await?;
    echoes(&mut stream).await?;
    let (sender, connection) =
        h2::client::handshake(TcpStream::connect(pair.outbound).await?).await?;
    tokio::spawn(connection);
    let mut sender = sender.ready().await?;
    let request = Request::connect("cart:80").body(())?;
    let (answer, mut said) = sender.send_request(request, false)?;
    let mut heard = soon(answer).await??.into_body();
    said.send_data(Bytes::from_static(b"ping"), false)?;
    assert_eq!(soon(heard.data()).await?.ok_or("it ended")??, "ping");
    soon(pair.web.drain()).await?;
    let _cut = soon(stream.read_to_end(&mut Vec::new())).await?;
    // Half of what was to be said is not taken for the whole.
    let end = soon(heard.data()).await?;
    assert!(end.is_some_and(|end| end.is_err()));
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let record = pair.out_seen.one(|x| x.protocol == protocol).await?;
        assert_eq!(record.detail.as_deref(), Some("reset: drained"));
    }
    Ok(())
}
