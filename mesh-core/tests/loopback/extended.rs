//! WebSockets of callers that speak HTTP/2 (RFC 8441): to the server they are those of HTTP/1.1.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use inmesh_core::Body;
use inmesh_core::authorize::{Action, Operation, Policy, PolicyRule};
use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey, ServiceName};
use inmesh_core::retry::RetryPolicy;
use inmesh_core::route::{Backend, Match, Outcome, Parent, PathMatch, Respond, Route, Rule};
use inmesh_core::runtime::{InboundListener, Limits};
use inmesh_core::snapshot::Op;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Builder, Pair, Result, get, in_process, origin, peer, push, soon};

/// What a server answers to the key of a caller (RFC 6455 section 4.2.2).
fn accept_of(key: &[u8]) -> String {
    let guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let hash = sha1_smol::Sha1::from([key, guid].concat());
    data_encoding::BASE64.encode(&hash.digest().bytes())
}

/// A server that switches and says what it has heard once its caller has said all; it answers `/plain`
/// with 200, and echoes the fields that it was asked with.
async fn answer<B: Send + 'static>(mut request: Request<B>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    if request.uri().path() == "/plain" {
        return response;
    }
    let headers = request.headers();
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let accept = HeaderValue::try_from(accept_of(key.map_or(b"", HeaderValue::as_bytes)));
    let accept = accept.unwrap_or_else(|_| HeaderValue::from_static("?"));
    let other = HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let accepts = match request.uri().path() {
        "/silent" => vec![],
        "/wrong" => vec![other],
        "/twice" => vec![accept.clone(), accept],
        "/both" => vec![accept, other],
        _ => vec![accept],
    };
    let asked = format!(
        "{} {:?} {} {} {}",
        request.method(),
        request.version(),
        headers.contains_key("sec-websocket-key"),
        headers["sec-websocket-version"].to_str().unwrap_or("?"),
        headers["upgrade"].to_str().unwrap_or("?"),
    );
    tokio::spawn(async move {
        let mut io = TokioIo::new(hyper::upgrade::on(&mut request).await.ok()?);
        let mut heard = Vec::new();
        io.write_all(b"hi ").await.ok()?;
        io.read_to_end(&mut heard).await.ok()?;
        heard.reverse();
        io.write_all(&heard).await.ok()?;
        io.shutdown().await.ok()
    });
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in [
        (header::CONNECTION, "upgrade"),
        (header::UPGRADE, "websocket"),
        (header::SEC_WEBSOCKET_PROTOCOL, "chat"),
    ] {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    for value in accepts {
        response
            .headers_mut()
            .append(header::SEC_WEBSOCKET_ACCEPT, value);
    }
    if let Ok(asked) = HeaderValue::try_from(asked) {
        response.headers_mut().insert("x-asked", asked);
    }
    response
}

async fn server() -> Result<SocketAddr> {
    origin(answer::<Incoming>).await
}

fn websocket(path: &str) -> Result<Request<()>> {
    asking(path, "websocket")
}

fn asking(path: &str, protocol: &'static str) -> Result<Request<()>> {
    let request = Request::connect(format!("http://cart{path}"))
        .version(Version::HTTP_2)
        .header("sec-websocket-protocol", "chat")
        .extension(Protocol::from_static(protocol));
    Ok(request.body(())?)
}

/// A caller's connection, once it knows what the server takes.
async fn connected<T>(io: T) -> Result<SendRequest<Bytes>>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = h2::client::handshake(io).await?;
    tokio::spawn(connection);
    let mut sender = sender.ready().await?;
    // The settings come before the first answer.
    let (answer, _) = sender.send_request(get("http://cart/plain").map(|_| ()), true)?;
    let _settled = soon(answer).await??;
    assert!(sender.is_extended_connect_protocol_enabled());
    Ok(sender)
}

async fn ask(
    sender: &mut SendRequest<Bytes>,
    request: Request<()>,
) -> Result<(Response<RecvStream>, SendStream<Bytes>)> {
    let (answer, said) = sender.send_request(request, false)?;
    Ok((soon(answer).await??, said))
}

/// What a stream brings until it ends.
async fn heard(mut stream: RecvStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(part) = soon(stream.data()).await? {
        let part = part?;
        stream.flow_control().release_capacity(part.len())?;
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

/// A WebSocket that is opened, spoken on, and ended way by way.
async fn carried(sender: &mut SendRequest<Bytes>) -> Result {
    let (answer, mut said) = ask(sender, websocket("/chat")?).await?;
    assert_eq!(answer.status(), StatusCode::OK);
    for gone in [
        "connection",
        "upgrade",
        "sec-websocket-accept",
        "content-length",
    ] {
        assert!(!answer.headers().contains_key(gone), "{gone}");
    }
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
    assert_eq!(
        answer.headers()["x-asked"],
        "GET HTTP/1.1 true 13 websocket"
    );
    let mut stream = answer.into_body();
    assert_eq!(soon(stream.data()).await?.ok_or("it ended")??, "hi ");
    said.send_data(Bytes::from_static(b"ab"), false)?;
    said.send_data(Bytes::from_static(b"c"), true)?;
    assert_eq!(heard(stream).await?, b"cba");
    Ok(())
}

#[tokio::test]
async fn a_websocket_over_http2_is_an_upgrade_to_the_server_and_its_stream_ends_alone() -> Result {
    let pair = Pair::new(AppProtocol::Http1, server().await?).await?;
    let mut sender = connected(TcpStream::connect(pair.outbound).await?).await?;
    carried(&mut sender).await?;
    // The connection serves on.
    carried(&mut sender).await?;
    let record = pair.out_seen.one(|x| x.uri.path() == "/chat").await?;
    assert_eq!(record.method, Some(Method::GET));
    assert_eq!(
        (record.status, record.protocol.to_string()),
        (200, "HTTP/2".to_owned())
    );
    assert_eq!((record.request_bytes, record.response_bytes), (3, 6));
    let record = pair.in_seen.one(|x| x.uri.path() == "/chat").await?;
    assert_eq!(
        (record.status, record.tls_peer),
        (101, Some(pair.world.id("web")?))
    );
    Ok(())
}

/// A peer that speaks HTTP/2 with an agent, and one without an identity, in front of a server and of a
/// service in the same process.
#[tokio::test]
async fn an_inbound_listener_takes_them_too() -> Result {
    let permissive = |to: &mut InboundListener| to.strict = false;
    let pair = Pair::with(AppProtocol::Http1, server().await?, |b| b, permissive).await?;
    carried(&mut connected(peer(&pair, pair.inbound, b"h2").await?).await?).await?;
    carried(&mut connected(TcpStream::connect(pair.inbound).await?).await?).await?;
    let service = tower::service_fn(|request: Request<Body>| async move {
        Ok::<_, std::io::Error>(answer(request).await)
    });
    in_process(&pair, AppProtocol::Http1, service).await?;
    carried(&mut connected(TcpStream::connect(pair.outbound).await?).await?).await
}

/// What is not answered by a switch opens nothing: to the caller any 2xx would be one.
#[tokio::test]
async fn an_answer_that_does_not_switch_is_none_that_does() -> Result {
    let pair = Pair::new(AppProtocol::Http1, server().await?).await?;
    let mut sender = connected(TcpStream::connect(pair.outbound).await?).await?;
    let shop = Namespace::new("shop")?;
    let cart = ServiceName::new(&shop, "cart")?;
    let when = |path: &str| -> Result<Vec<Match>> {
        Ok(vec![Match::path(PathMatch::literal(path, true)?)])
    };
    let own = Rule::with(Outcome::Respond(Respond::new(200, "no")?)).when(when("/own")?);
    let rest = Rule::to(vec![Backend::new(cart.clone(), 80, 1)?]).when(when("/")?);
    let key = ObjectKey::new(Kind::HttpRoute, &shop, "r")?;
    let route = Route::new(key, vec![Parent::new(cart, None)], vec![own, rest])?;
    push(&pair, vec![Op::put(route)]).await?;
    let tunnel = Request::connect("cart").version(Version::HTTP_2);
    for (request, status, reason) in [
        (websocket("/plain")?, 502, "reset"),
        (websocket("/own")?, 502, "reset"),
        (asking("/chat", "connect-udp")?, 501, "unsupported-protocol"),
        (tunnel.body(())?, 400, "invalid-request"),
    ] {
        let what = format!("{request:?}");
        let (answer, _) = ask(&mut sender, request).await?;
        assert_eq!(answer.status().as_u16(), status, "{what}");
        assert_eq!(answer.headers()["x-mesh-reason"], reason, "{what}");
    }
    carried(&mut sender).await
}

/// The mesh is the client of a WebSocket that it asks for in the place of its caller: a server that has not
/// read the key speaks none (RFC 6455 section 4.1). A caller of HTTP/1.1 looks at its own key.
#[tokio::test]
async fn a_server_that_does_not_accept_the_key_opens_nothing() -> Result {
    let pair = Pair::new(AppProtocol::Http1, server().await?).await?;
    let service = tower::service_fn(|request: Request<Body>| async move {
        Ok::<_, std::io::Error>(answer(request).await)
    });
    for in_this_process in [false, true] {
        if in_this_process {
            in_process(&pair, AppProtocol::Http1, service).await?;
        }
        let mut sender = connected(TcpStream::connect(pair.outbound).await?).await?;
        for path in ["/silent", "/wrong", "/twice", "/both"] {
            let (answer, _) = ask(&mut sender, websocket(path)?).await?;
            assert_eq!(answer.status(), StatusCode::BAD_GATEWAY, "{path}");
            assert_eq!(answer.headers()["x-mesh-reason"], "reset", "{path}");
            let record = pair.out_seen.one(|x| x.uri.path() == path).await?;
            let detail = record.detail.unwrap_or_default();
            assert!(detail.contains("Sec-WebSocket-Accept"), "{detail}");
        }
        carried(&mut sender).await?;
        let mut ask = crate::support::for_cart("/wrong");
        for (name, value) in [
            (header::CONNECTION, "upgrade"),
            (header::UPGRADE, "websocket"),
            (header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
            (header::SEC_WEBSOCKET_VERSION, "13"),
        ] {
            ask.headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        let mut caller = crate::support::h1(pair.outbound).await?;
        let answer = soon(caller.send_request(ask)).await??;
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    }
    Ok(())
}

/// What a route repeats is repeated until a server has switched, and the key is the same.
#[tokio::test]
async fn a_websocket_over_http2_is_repeated_until_it_has_switched() -> Result {
    let busy = Arc::new(AtomicUsize::new(1));
    let count = Arc::clone(&busy);
    let app = origin(move |request: Request<Incoming>| {
        let left = { count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) };
        let busy = left.is_ok() && request.uri().path() != "/plain";
        async move {
            if !busy {
                return answer(request).await;
            }
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
        }
    });
    let pair = Pair::new(AppProtocol::Http1, app.await?).await?;
    let shop = Namespace::new("shop")?;
    let cart = ServiceName::new(&shop, "cart")?;
    let rule = Rule::to(vec![Backend::new(cart.clone(), 80, 1)?]);
    let rule = rule.with_retry(RetryPolicy::new(1).on_status(503)?);
    let key = ObjectKey::new(Kind::HttpRoute, &shop, "r")?;
    let route = Route::new(key, vec![Parent::new(cart, None)], vec![rule])?;
    push(&pair, vec![Op::put(route)]).await?;
    let mut sender = connected(TcpStream::connect(pair.outbound).await?).await?;
    busy.store(1, Ordering::SeqCst);
    carried(&mut sender).await?;
    let record = pair.out_seen.one(|x| x.uri.path() == "/chat").await?;
    assert_eq!((record.status, record.attempts.len()), (200, 2));
    Ok(())
}

/// A policy sees the request that asks, and is asked again while the stream is open.
#[tokio::test]
async fn policies_see_it_as_the_request_that_it_stands_for() -> Result {
    let (rules, source) = inmesh_core::discover::pushed("rules");
    let source = std::sync::Mutex::new(Some(source));
    let build = move |b: Builder| match source.lock().ok().and_then(|mut s| s.take()) {
        Some(source) => b.source(source),
        None => b,
    };
    let pair = Pair::with(AppProtocol::Http1, server().await?, build, |_| {}).await?;
    let deny = |name: &str, path: &str| -> Result<Op> {
        let key = ObjectKey::new(Kind::AuthorizationPolicy, &Namespace::new("shop")?, name)?;
        let what = Operation::builder()
            .methods(["GET"])
            .paths([path])
            .build()?;
        Ok(Op::put(Policy::new(
            key,
            Action::Deny,
            vec![PolicyRule::new(vec![], vec![what])],
        )))
    };
    rules.push(vec![deny("secret", "/secret")?]).await?;
    soon(pair.cart.ready()).await?;
    let mut sender = connected(peer(&pair, pair.inbound, b"h2").await?).await?;
    let (answer, _) = ask(&mut sender, websocket("/secret")?).await?;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let (answer, _said) = ask(&mut sender, websocket("/chat")?).await?;
    assert_eq!(answer.status(), StatusCode::OK);
    let mut stream = answer.into_body();
    assert_eq!(soon(stream.data()).await?.ok_or("it ended")??, "hi ");
    rules.push(vec![deny("stop", "/chat")?]).await?;
    // It is cut, which is no end.
    assert!(soon(stream.data()).await?.is_some_and(|part| part.is_err()));
    // Others of its connection are not.
    let (answer, _) = ask(&mut sender, websocket("/other")?).await?;
    assert_eq!(answer.status(), StatusCode::OK);
    Ok(())
}

/// The connection of a stream that is open is not idle, and is once the stream has ended.
#[tokio::test]
async fn a_connection_rests_once_its_websockets_have_ended() -> Result {
    let mut limits = Limits::default();
    limits.idle = std::time::Duration::from_millis(50);
    let build = move |b: Builder| b.limits(limits.clone());
    let pair = Pair::with(AppProtocol::Http1, server().await?, build, |_| {}).await?;
    let (sender, connection) =
        h2::client::handshake(TcpStream::connect(pair.outbound).await?).await?;
    let ended = tokio::spawn(connection);
    let mut sender = sender.ready().await?;
    let (answer, _) = sender.send_request(get("http://cart/plain").map(|_| ()), true)?;
    let _settled = soon(answer).await??;
    carried(&mut sender).await?;
    // The agent ends it, while its caller would send more.
    soon(ended).await???;
    drop(sender);
    Ok(())
}
