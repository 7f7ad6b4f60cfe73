//! Header lists that a peer of HTTP/2 does not take: its other streams live on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use inmesh_core::Body;
use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey, ServiceName};
use inmesh_core::route::{Outcome, Parent, Redirect, Route, Rule};
use inmesh_core::snapshot::Op;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::support::{
    Pair, Result, get, h2, origin, origin_h2, peer, plain_cart, soon, tell, text,
};

/// What a caller or a server takes of a header list.
const ROOM: u32 = 1_500;

fn large(size: usize) -> HeaderMap {
    let mut fields = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&"a".repeat(size)) {
        fields.insert("x-large", value);
    }
    fields
}

fn ending(trailers: HeaderMap) -> Body {
    let frames = [
        Frame::data(Bytes::from_static(b"body")),
        Frame::trailers(trailers),
    ];
    let frames = frames.map(Ok::<_, std::io::Error>);
    Body::new(StreamBody::new(futures_util::stream::iter(frames)))
}

/// Answers with a head (`/head/SIZE`) or trailers (`/end/SIZE`) of that size, or once there is a permit.
async fn sized(request: Request<Incoming>, go: Arc<Semaphore>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let size = path.rsplit('/').next().and_then(|n| n.parse().ok());
    let fields = large(size.unwrap_or_default());
    let mut response = Response::new(Body::from("whole"));
    if path.starts_with("/head/") {
        *response.headers_mut() = fields;
    } else if path.starts_with("/end/") {
        *response.body_mut() = ending(fields);
        let names = HeaderValue::from_static("x-large");
        response.headers_mut().insert(header::TRAILER, names);
    } else {
        let _go = go.acquire().await;
    }
    response
}

/// A caller on that connection that takes so much of a header list.
async fn caller<T>(io: T, room: u32) -> Result<http2::SendRequest<Body>>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.max_header_list_size(room);
    let (sender, connection) = builder.handshake(TokioIo::new(io)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

fn ask(path: &str, grpc: bool) -> Request<Body> {
    let mut request = get(&format!("http://cart{path}"));
    let headers = request.headers_mut();
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    if grpc {
        let kind = HeaderValue::from_static("application/grpc");
        headers.insert(header::CONTENT_TYPE, kind);
        *request.version_mut() = Version::HTTP_2;
    }
    request
}

/// The answer is ours instead, and nothing else on the connection is touched.
#[tokio::test]
async fn an_answer_that_its_caller_does_not_take_costs_one_stream() -> Result {
    let go = Arc::new(Semaphore::new(0));
    let (one, two) = (Arc::clone(&go), Arc::clone(&go));
    for (protocol, app) in [
        (
            AppProtocol::Http1,
            origin(move |request| sized(request, Arc::clone(&one))).await?,
        ),
        (
            AppProtocol::Http2,
            origin_h2(move |request| sized(request, Arc::clone(&two))).await?,
        ),
    ] {
        let pair = Pair::new(protocol, app).await?;
        let near = TcpStream::connect(pair.outbound).await?;
        let far = peer(&pair, pair.inbound, b"h2").await?;
        for sender in [caller(near, ROOM).await?, caller(far, ROOM).await?] {
            let send = |path: &str, grpc| {
                let (mut caller, request) = (sender.clone(), ask(path, grpc));
                async move { soon(caller.send_request(request)).await }
            };
            let running = tokio::spawn(send("/wait", false));
            for _ in 0..3 {
                assert_eq!(send("/head/1000", false).await??.status(), StatusCode::OK);
                let answer = send("/head/2000", false).await??;
                assert_eq!(answer.status(), StatusCode::BAD_GATEWAY, "{protocol:?}");
                assert_eq!(answer.headers()["x-mesh-reason"], "answer-too-large");
                let answer = send("/head/2000", true).await??;
                assert_eq!(answer.headers()["grpc-status"], "13");
                let answer = send("/end/1000", false).await??;
                let whole = soon(answer.into_body().collect()).await??;
                assert_eq!(whole.trailers().map(HeaderMap::len), Some(1));
                // The reset may come before the head is read.
                if let Ok(answer) = send("/end/2000", false).await? {
                    assert!(soon(answer.into_body().collect()).await?.is_err());
                }
                let answer = send("/end/2000", true).await??;
                let whole = soon(answer.into_body().collect()).await??;
                let trailers = whole.trailers().ok_or("no trailers")?;
                assert_eq!(trailers["grpc-status"], "13");
                assert!(
                    trailers["grpc-message"]
                        .as_bytes()
                        .starts_with(b"answer-too-large")
                );
            }
            go.add_permits(1);
            assert_eq!(text(running.await???).await?, "whole");
            go.forget_permits(1);
        }
        // Its limit is its own, and no endpoint is to blame for it.
        let mut other = h2(pair.outbound).await?;
        for path in ["/head/2000", "/end/2000"] {
            let answer = soon(other.send_request(ask(path, false))).await??;
            assert_eq!(answer.status(), StatusCode::OK);
            assert!(!text(answer).await?.is_empty(), "{path}");
        }
        for seen in [&pair.out_seen, &pair.in_seen] {
            let record = seen.one(|x| x.status == 502).await?;
            let reason = record.reason.map(|r| r.to_string());
            assert_eq!(reason.as_deref(), Some("answer-too-large"));
        }
        let metrics = pair.web.encode_metrics();
        assert!(!metrics.contains("mesh_ejections_total{"), "{metrics}");
        // Where not even ours fits there is a reset, and no wait.
        let none = TcpStream::connect(pair.outbound).await?;
        let mut none = caller(none, 64).await?;
        for path in ["/head/1000", "/head/1000"] {
            let answer = soon(none.send_request(ask(path, false))).await?;
            assert!(answer.is_err(), "{answer:?}");
        }
    }
    Ok(())
}

/// What a route itself answers is refused alike, and counted for its Service.
#[tokio::test]
async fn an_answer_of_a_route_that_its_caller_does_not_take_is_of_its_service() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let shop = Namespace::new("shop")?;
    let cart = Parent::new(ServiceName::new(&shop, "cart")?, None);
    let moved = Outcome::Redirect(Redirect::new().with_host("moved.lab")?);
    let key = ObjectKey::new(Kind::HttpRoute, &shop, "moved")?;
    let route = Route::new(key, vec![cart], vec![Rule::with(moved)])?;
    pair.pusher.push(vec![Op::put(route)]).await?;
    let mut caller = caller(TcpStream::connect(pair.outbound).await?, ROOM).await?;
    let answer = soon(caller.send_request(ask("/short", false))).await??;
    assert_eq!(answer.headers()["location"], "http://moved.lab/short");
    // The answer repeats the path.
    let path = format!("/{}", "long".repeat(400));
    let answer = soon(caller.send_request(ask(&path, false))).await??;
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(answer.headers()["x-mesh-reason"], "answer-too-large");
    text(answer).await?;
    pair.out_seen.one(|x| x.status == 502).await?;
    let metrics = pair.web.encode_metrics();
    let mut lines = metrics.lines();
    let counted = lines.find(|line| {
        line.starts_with("istio_requests_total{") && line.contains("response_code=\"502\"")
    });
    let counted = counted.ok_or("it is not counted")?;
    let service = "destination_service=\"cart.shop.svc.cluster.local\"";
    assert!(counted.contains(service), "{counted}");
    Ok(())
}

/// A server that takes so much of a header list and answers once the upload is whole; `/wait` waits for a
/// permit. Counts its connections.
async fn taking(go: Arc<Semaphore>) -> Result<(SocketAddr, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let go = Arc::clone(&go);
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let go = Arc::clone(&go);
                async move {
                    if request.uri().path() == "/wait" {
                        let _go = go.acquire().await;
                    }
                    let all = request.into_body().collect().await?;
                    let trailers = all.trailers().map_or(0, HeaderMap::len);
                    Ok::<_, hyper::Error>(Response::new(Body::from(trailers.to_string())))
                }
            });
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.max_header_list_size(ROOM);
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok((address, connections))
}

/// The trailers of an upload are compared with what the server takes, as its head is.
#[tokio::test]
async fn trailers_of_an_upload_that_the_server_does_not_take_cost_one_stream() -> Result {
    for agents in [true, false] {
        let go = Arc::new(Semaphore::new(0));
        let (app, connections) = taking(Arc::clone(&go)).await?;
        let pair = Pair::new(AppProtocol::Http2, app).await?;
        if !agents {
            plain_cart(&pair, app).await?;
        }
        let sender = h2(pair.outbound).await?;
        let send = |path: &str, size, grpc| {
            let (mut sender, mut request) = (sender.clone(), ask(path, grpc));
            *request.method_mut() = Method::POST;
            *request.body_mut() = ending(large(size));
            async move { soon(sender.send_request(request)).await }
        };
        // The settings of the server have come with its first answer.
        assert_eq!(text(send("/", 1_000, false).await??).await?, "1");
        let running = tokio::spawn(send("/wait", 1_000, false));
        for _ in 0..3 {
            let answer = send("/", 2_000, false).await??;
            assert_eq!(answer.status(), 431, "{agents}");
            assert_eq!(answer.headers()["x-mesh-reason"], "header-too-large");
            let answer = send("/", 2_000, true).await??;
            assert_eq!(answer.headers()["grpc-status"], "8");
            assert_eq!(text(send("/", 1_000, false).await??).await?, "1");
        }
        go.add_permits(1);
        assert_eq!(text(running.await???).await?, "1");
        assert_eq!(connections.load(Ordering::SeqCst), 1);
    }
    Ok(())
}
