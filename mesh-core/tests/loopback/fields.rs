//! Fields that no application and no caller may say, wherever in a message they stand.

use std::net::SocketAddr;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version, header};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use inmesh_core::Body;
use inmesh_core::model::AppProtocol;
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Pair, Result, for_cart, get, origin, origin_h2, peer, raw, soon};

/// What only the mesh says, or would be a proxy's claim about its peer; in all spellings that an
/// application may take for it.
const NEVER: [&str; 6] = [
    "x-mesh-reason",
    "x_mesh_reason",
    "x-mesh_reason",
    "x-forwarded-client-cert",
    "x_forwarded_client_cert",
    "x-forwarded_client-cert",
];

/// The application of `cart`.
#[derive(Debug, Clone, Copy)]
enum App {
    Http1,
    Http2,
    InProcess,
}

/// A caller of `cart`: of one version, by both agents or by the inbound one alone.
#[derive(Debug, Clone, Copy)]
struct Caller {
    version: Version,
    /// Where `web` sends to; else the address of the inbound listener.
    outbound: bool,
}

const CALLERS: [Caller; 4] = [
    Caller {
        version: Version::HTTP_11,
        outbound: true,
    },
    Caller {
        version: Version::HTTP_2,
        outbound: true,
    },
    Caller {
        version: Version::HTTP_11,
        outbound: false,
    },
    Caller {
        version: Version::HTTP_2,
        outbound: false,
    },
];

/// Trailers with one field that may pass.
fn trailers() -> HeaderMap {
    let value = HeaderValue::from_static("URI=spiffe://td/ns/shop/sa/admin");
    let names = ["x-kept"].into_iter().chain(NEVER);
    names
        .map(|name| (HeaderName::from_static(name), value.clone()))
        .collect()
}

/// A body that ends with them.
fn body(text: String) -> Body {
    let frames = [Frame::data(Bytes::from(text)), Frame::trailers(trailers())];
    let frames = frames.map(Ok::<_, std::io::Error>);
    Body::new(StreamBody::new(futures_util::stream::iter(frames)))
}

/// HTTP/1.1 has no trailers but those that its header names.
fn announced() -> Result<HeaderValue> {
    let names = ["x-kept"].into_iter().chain(NEVER);
    Ok(names.collect::<Vec<_>>().join(", ").parse()?)
}

fn names(fields: &HeaderMap) -> String {
    let mut names: Vec<_> = fields.keys().map(HeaderName::as_str).collect();
    names.retain(|name| *name != "traceparent");
    names.sort_unstable();
    names.join(" ")
}

/// Answers with the names of the fields that it sees, and ends with trailers of its own.
async fn show<B: http_body::Body>(request: Request<B>) -> Response<Body> {
    let (head, sent) = request.into_parts();
    let seen = sent.collect().await.ok();
    let ends = seen.and_then(|all| all.trailers().map(names));
    let text = format!("{} | {}", names(&head.headers), ends.unwrap_or_default());
    let mut response = Response::new(body(text));
    if let Ok(names) = announced() {
        response.headers_mut().insert(header::TRAILER, names);
    }
    response
}

/// A pair whose `cart` is that application, and the address of its inbound listener.
async fn pair_with(app: App) -> Result<(Pair, SocketAddr)> {
    let (protocol, server) = match app {
        App::Http1 => (AppProtocol::Http1, origin(show).await?),
        App::Http2 | App::InProcess => (AppProtocol::Http2, origin_h2(show).await?),
    };
    let pair = Pair::new(protocol, server).await?;
    if !matches!(app, App::InProcess) {
        let inbound = pair.inbound;
        return Ok((pair, inbound));
    }
    let service = tower::service_fn(async |request: Request<Body>| {
        Ok::<_, inmesh_core::BoxError>(show(request).await)
    });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let inbound = listener.local_addr()?;
    let cart = pair.cart.clone();
    tokio::spawn(async move { cart.serve(listener, service).await });
    let mut snapshot = pair.web.snapshot().clone();
    let change = pair.world.service("cart", protocol, &[inbound])?;
    pair.pusher.push(change).await?;
    while snapshot.load().generation() < 2 {
        soon(snapshot.changed()).await?;
    }
    Ok((pair, inbound))
}

/// Sends a request as that caller.
async fn ask(
    caller: Caller,
    pair: &Pair,
    inbound: SocketAddr,
    mut request: Request<Body>,
) -> Result<Response<Incoming>> {
    async fn over<T>(io: T, version: Version, request: Request<Body>) -> Result<Response<Incoming>>
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let io = TokioIo::new(io);
        if version == Version::HTTP_2 {
            let builder = http2::Builder::new(TokioExecutor::new());
            let (mut sender, connection) = builder.handshake(io).await?;
            tokio::spawn(connection);
            return Ok(soon(sender.send_request(request)).await??);
        }
        let (mut sender, connection) = http1::handshake(io).await?;
        tokio::spawn(connection);
        Ok(soon(sender.send_request(request)).await??)
    }
    let http2 = caller.version == Version::HTTP_2;
    if http2 {
        *request.uri_mut() = "http://cart/".parse()?;
        request.headers_mut().remove(header::HOST);
    }
    if caller.outbound {
        let io = TcpStream::connect(pair.outbound).await?;
        return over(io, caller.version, request).await;
    }
    let alpn: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
    let io = peer(pair, inbound, alpn).await?;
    over(io, caller.version, request).await
}

/// They come after all that was decided on, and are fields as others to an application.
#[tokio::test]
async fn no_trailers_speak_for_the_mesh_or_for_a_peer() -> Result {
    for app in [App::Http1, App::Http2, App::InProcess] {
        let (pair, inbound) = pair_with(app).await?;
        for caller in CALLERS {
            let mut request = for_cart("/");
            *request.method_mut() = Method::POST;
            *request.body_mut() = body("hi".into());
            let headers = request.headers_mut();
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
            headers.insert(header::TRAILER, announced()?);
            let answer = ask(caller, &pair, inbound, request).await?;
            let (head, body) = answer.into_parts();
            let body = soon(body.collect()).await??;
            let ends = body.trailers().map(names).unwrap_or_default();
            let text = String::from_utf8(body.to_bytes().to_vec())?;
            assert!(text.ends_with("| x-kept"), "{app:?} {caller:?}: {text}");
            assert_eq!(ends, "x-kept", "{app:?} {caller:?}");
            assert!(!head.headers.contains_key("x-mesh-reason"));
        }
        // The same from the program that embeds the mesh.
        let mut request = get("http://cart/");
        *request.method_mut() = Method::POST;
        *request.body_mut() = body("hi".into());
        let headers = request.headers_mut();
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::TRAILER, announced()?);
        let answer = soon(pair.web.client().send(request)).await?;
        let body = soon(answer.into_body().collect()).await??;
        let ends = body.trailers().map(names).unwrap_or_default();
        let text = String::from_utf8(body.to_bytes().to_vec())?;
        assert!(text.ends_with("| x-kept"), "{app:?}: {text}");
        assert_eq!(ends, "x-kept", "{app:?}");
    }
    Ok(())
}

/// The settings of an upgrade to HTTP/2 are for one connection of HTTP/1.1: no application is offered
/// them, and no wish for the upgrade.
#[tokio::test]
async fn no_application_is_offered_http2_inside_http1() -> Result {
    const WISHES: [&str; 7] = [
        "http2-settings: AAMAAABkAAQAAP__",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
        "hTTp2-SeTTinGs: AAMAAABkAAQAAP__\r\nconnection: HTTP2-Settings",
        "http2_settings: AAMAAABkAAQAAP__",
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        "UPGRADE: H2C\r\nCONNECTION: UPGRADE\r\nHTTP2-SETTINGS: A\r\nHTTP2-SETTINGS: B",
        "upgrade: h2c",
    ];
    for app in [App::Http1, App::Http2, App::InProcess] {
        let (pair, inbound) = pair_with(app).await?;
        for wish in WISHES {
            for begin in ["GET / HTTP/1.1", "POST / HTTP/1.1", "GET / HTTP/1.0"] {
                let request = format!(
                    "{begin}\r\nhost: cart\r\nx-kept: 1\r\nconnection: close\r\n{wish}\r\n\r\n"
                );
                let answer = raw(pair.outbound, request.as_bytes()).await?;
                let (_, seen) = answer.split_once("\r\n\r\n").ok_or("no head")?;
                assert!(seen.contains("x-kept |"), "{app:?} {begin} {wish}: {seen}");
                assert!(
                    !seen.contains("settings") && !seen.contains("upgrade"),
                    "{app:?} {begin} {wish}: {seen}"
                );
            }
        }
        for caller in CALLERS {
            for name in ["http2-settings", "http2_settings"] {
                let mut request = for_cart("/");
                let settings = HeaderValue::from_static("AAMAAABkAAQAAP__");
                request.headers_mut().insert(name, settings);
                let answer = ask(caller, &pair, inbound, request).await?;
                let seen = crate::support::text(answer).await?;
                assert!(!seen.contains("settings"), "{app:?} {caller:?}: {seen}");
            }
        }
    }
    Ok(())
}
