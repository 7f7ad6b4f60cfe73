//! Streams of HTTP/2: small frames, slow readers, resets and what is said before an answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use ::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use bytes::{Buf, Bytes};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use inmesh_core::Body;
use inmesh_core::model::AppProtocol;
use inmesh_core::pki::tls;
use inmesh_core::runtime::InboundListener;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::support::{
    Pair, Result, get, h2, in_flight, in_process, origin, origin_h2, plain_cart, soon, tell, text,
};

/// How many messages go one way, and how many streams there are at once.
const MESSAGES: usize = 10_000;
const STREAMS: usize = 10;

/// So many messages, each in a frame of its own and never two ready at once.
fn messages(size: usize) -> Body {
    let message = Bytes::from(vec![b'm'; size]);
    let frames = futures_util::stream::unfold(0, move |n| {
        let message = message.clone();
        async move {
            if n % 64 == 0 {
                tokio::task::yield_now().await;
            }
            (n < MESSAGES).then(|| (Ok::<_, std::io::Error>(Frame::data(message)), n + 1))
        }
    });
    Body::new(StreamBody::new(Box::pin(frames)))
}

fn grpc(body: Body) -> Result<Request<Body>> {
    Ok(Request::post("http://cart/shop.Cart/Put")
        .version(Version::HTTP_2)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(body)?)
}

/// Counts what it reads once it may, and answers with as many messages of that size. It is a service
/// in the process of its mesh: hyper's own server ends a connection on which small frames wait.
async fn counting(pair: &Pair, go: Arc<Semaphore>) -> Result {
    let service = tower::service_fn(move |mut request: Request<Body>| {
        let go = Arc::clone(&go);
        async move {
            if request.uri().path() == "/quick" {
                return Ok(Response::new(Body::from("quick")));
            }
            let _go = go.acquire().await;
            let mut bytes = 0;
            while let Some(frame) = request.body_mut().frame().await {
                bytes += frame?.data_ref().map_or(0, Buf::remaining);
            }
            let mut response = Response::new(messages(bytes / MESSAGES));
            response.headers_mut().insert("x-bytes", bytes.into());
            Ok::<_, inmesh_core::BoxError>(response)
        }
    });
    in_process(pair, AppProtocol::Http2, service).await
}

/// A caller that reads late, or a server that does, costs neither itself nor others the connection.
#[tokio::test]
async fn thousands_of_small_frames_wait_for_their_reader_in_both_directions() -> Result {
    let pair = Pair::new(AppProtocol::Http2, origin_h2(tell).await?).await?;
    let gate = Arc::new(Semaphore::new(0));
    counting(&pair, Arc::clone(&gate)).await?;
    for size in [1, 100] {
        let caller = h2(pair.outbound).await?;
        let mut streams = JoinSet::new();
        for _ in 0..STREAMS {
            let mut caller = caller.clone();
            let request = grpc(messages(size))?;
            streams.spawn(async move {
                let answer = soon(caller.send_request(request)).await??;
                let reason = answer.headers().get("grpc-message");
                assert!(answer.headers().contains_key("x-bytes"), "{reason:?}");
                assert_eq!(answer.headers()["x-bytes"], (MESSAGES * size).to_string());
                Ok::<_, crate::support::BoxError>(answer)
            });
        }
        // While they wait, others are served on the same connections.
        for _ in 0..10 {
            let mut other = caller.clone();
            let answer = soon(other.send_request(get("http://cart/quick"))).await??;
            assert_eq!(text(answer).await?, "quick");
        }
        gate.add_permits(STREAMS);
        let mut answers = Vec::new();
        while let Some(answer) = soon(streams.join_next()).await? {
            answers.push(answer??);
        }
        // Nothing has read the answers so far. Together they are more than the caller's window.
        let mut read: JoinSet<_> = answers.into_iter().map(text).collect();
        while let Some(answer) = soon(read.join_next()).await? {
            assert_eq!(answer??.len(), MESSAGES * size);
        }
        gate.forget_permits(STREAMS);
    }
    let records = pair.in_seen.all();
    assert!(records.iter().all(|x| x.reason.is_none()), "{records:?}");
    Ok(())
}

/// Speaks HTTP/2 by hand: answers each request with these frames, whose stream it fills in.
async fn by_hand(
    frames: Vec<Vec<u8>>,
    settings: &'static [u8],
) -> Result<(std::net::SocketAddr, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve_by_hand(stream, frames.clone(), settings));
        }
    });
    Ok((address, connections))
}

async fn serve_by_hand(
    mut stream: TcpStream,
    frames: Vec<Vec<u8>>,
    settings: &'static [u8],
) -> std::io::Result<()> {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    stream.write_all(settings).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        match (head[3], head[4]) {
            // The settings of the other side, which want to be acknowledged.
            (4, 0) => stream.write_all(b"\0\0\0\x04\x01\0\0\0\0").await?,
            (1, _) => {
                for frame in &frames {
                    let mut frame = frame.clone();
                    frame[5..9].copy_from_slice(&head[5..9]);
                    stream.write_all(&frame).await?;
                }
            }
            _ => {}
        }
    }
}

const NO_SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
/// `:status: 200`, by its place in the static table.
const OK: &[u8] = b"\0\0\x01\x01\x04\0\0\0\0\x88";
/// The same with END_STREAM.
fn whole_answer() -> Vec<u8> {
    let mut answer = OK.to_vec();
    answer[4] = 5;
    answer
}

const DATA: &[u8] = b"\0\0\x04\0\0\0\0\0\0half";

fn reset(code: u8) -> Vec<u8> {
    [b"\0\0\x04\x03\0\0\0\0\0\0\0\0".as_slice(), &[code]].concat()
}

/// Whatever its code is: what has no end is not whole (RFC 9113 section 8.1).
#[tokio::test]
async fn an_answer_that_is_reset_is_no_whole_one() -> Result {
    // The head may or may not have gone before.
    let is_whole = async |answer: Response<Incoming>| {
        let head = answer.status();
        let body = soon(answer.into_body().collect()).await?;
        Ok::<_, crate::support::BoxError>(body.is_ok() && head == StatusCode::OK)
    };
    for code in [0, 2, 8] {
        let frames = vec![OK.to_vec(), DATA.to_vec(), reset(code)];
        let (app, _) = by_hand(frames, NO_SETTINGS).await?;
        let pair = Pair::new(AppProtocol::Http2, app).await?;
        let mut two = h2(pair.outbound).await?;
        let answer = soon(two.send_request(get("http://cart/"))).await??;
        assert!(!is_whole(answer).await?, "{code}");
        let mut one = crate::support::h1(pair.outbound).await?;
        let answer = soon(one.send_request(crate::support::for_cart("/"))).await??;
        assert!(!is_whole(answer).await?, "{code}");
        for seen in [&pair.out_seen, &pair.in_seen] {
            let record = seen.one(|_| true).await?;
            assert_eq!(record.reason.map(|r| r.as_str()), Some("reset"), "{code}");
        }
    }
    Ok(())
}

/// A caller of gRPC hears UNAVAILABLE, which it may try again, and not INTERNAL.
#[tokio::test]
async fn a_call_of_grpc_that_breaks_off_ends_with_a_status() -> Result {
    let kind = b"\0\0\x12\x01\x04\0\0\0\0\x88\x5f\x10application/grpc";
    let mut head = kind.to_vec();
    head[2] = u8::try_from(head.len() - 9)?;
    let (app, _) = by_hand(vec![head, DATA.to_vec(), reset(2)], NO_SETTINGS).await?;
    let pair = Pair::new(AppProtocol::Grpc, app).await?;
    let answer = soon(h2(pair.outbound).await?.send_request(grpc(Body::empty())?)).await??;
    let whole = soon(answer.into_body().collect()).await??;
    let trailers = whole.trailers().ok_or("no trailers")?;
    assert_eq!(trailers["grpc-status"], "14");
    assert_eq!(whole.to_bytes(), "half");
    Ok(())
}

/// A server says which requests it has not looked at; those are sent again with their body.
#[tokio::test]
async fn what_a_server_refused_unseen_is_sent_again_with_its_body() -> Result {
    // REFUSED_STREAM for ever, and another endpoint that answers.
    let (refusing, asked) = by_hand(vec![reset(7)], NO_SETTINGS).await?;
    let pair = Pair::new(AppProtocol::Http2, origin_h2(tell).await?).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let both = [listener.local_addr()?, pair.inbound];
    let to = InboundListener::new(refusing, AppProtocol::Http2);
    let cart = pair.cart.clone();
    tokio::spawn(async move { cart.serve_behind(listener, to).await });
    pair.pusher
        .push(pair.world.service("cart", AppProtocol::Http2, &both)?)
        .await?;
    for _ in 0..20 {
        let mut request = get("http://cart/");
        *request.method_mut() = Method::POST;
        *request.body_mut() = crate::support::whole("body!");
        let answer = soon(pair.web.client().send(request)).await?;
        // The agent in front of the refusing one has no other server to ask.
        let status = answer.status();
        assert!(status == 200 || status == 502, "{status}");
        if status == 200 {
            assert_eq!(text(answer).await?, "POST / HTTP/2.0 5");
        }
    }
    assert!(asked.load(Ordering::SeqCst) > 0);
    Ok(())
}

/// A server that is sent more than it takes may end the connection, with the streams of others.
#[tokio::test]
async fn a_header_list_that_the_server_does_not_take_is_a_431_of_its_own() -> Result {
    // 8 KiB and 2 KiB.
    let settings: [(&'static [u8], usize); 2] = [
        (b"\0\0\x06\x04\0\0\0\0\0\0\x06\0\0\x20\0", 9_000),
        (b"\0\0\x06\x04\0\0\0\0\0\0\x06\0\0\x08\0", 3_000),
    ];
    for (settings, size) in settings {
        let (app, connections) = by_hand(vec![whole_answer()], settings).await?;
        let pair = Pair::new(AppProtocol::Http2, app).await?;
        let mut caller = h2(pair.outbound).await?;
        for round in 0..3 {
            let answer = soon(caller.send_request(get("http://cart/"))).await??;
            assert_eq!(answer.status(), StatusCode::OK);
            let mut large = get("http://cart/");
            let value = HeaderValue::from_str(&"a".repeat(size))?;
            large.headers_mut().insert("x-large", value);
            let answer = soon(caller.send_request(large)).await??;
            assert_eq!(answer.status(), 431, "{round} {size}");
            assert_eq!(answer.headers()["x-mesh-reason"], "header-too-large");
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1);
    }
    Ok(())
}

/// What one caller does to a connection to the application is not another's.
#[tokio::test]
async fn each_caller_has_a_connection_of_its_own_to_a_server_of_http2() -> Result {
    let (app, connections) = by_hand(vec![whole_answer()], NO_SETTINGS).await?;
    let pair = Pair::new(AppProtocol::Http2, app).await?;
    for (callers, name) in ["web", "other"].into_iter().enumerate() {
        let (_, reader) = pair.world.identity(name)?;
        let config = tls::client_config(reader, pair.world.crypto(), &[b"h2"]);
        let stream = TcpStream::connect(pair.inbound).await?;
        let connecting = TlsConnector::from(config).connect(tls::server_name(), stream);
        let io = TokioIo::new(soon(connecting).await??);
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (mut caller, connection) = builder.handshake(io).await?;
        tokio::spawn(connection);
        for _ in 0..3 {
            let answer = soon(caller.send_request(get("http://cart/"))).await??;
            assert_eq!(answer.status(), StatusCode::OK);
        }
        assert_eq!(connections.load(Ordering::SeqCst), callers + 1);
    }
    Ok(())
}

/// What is known of a stranger is its address.
#[tokio::test]
async fn each_stranger_has_a_connection_of_its_own_to_a_server_of_http2() -> Result {
    let (app, connections) = by_hand(vec![whole_answer()], NO_SETTINGS).await?;
    let permissive = |to: &mut InboundListener| to.strict = false;
    let pair = Pair::with(AppProtocol::Http2, app, |b| b, permissive).await?;
    for (from, wanted) in [("127.0.0.1:0", 1), ("127.0.0.2:0", 2), ("127.0.0.1:0", 2)] {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(from.parse()?)?;
        let io = TokioIo::new(socket.connect(pair.inbound).await?);
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (mut caller, connection) = builder.handshake(io).await?;
        tokio::spawn(connection);
        let answer = soon(caller.send_request(get("http://cart/"))).await??;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(connections.load(Ordering::SeqCst), wanted, "{from}");
    }
    Ok(())
}

/// A server may refuse the rest of an upload so, and be in good health; other codes say that it is not.
#[tokio::test]
async fn an_upload_that_a_server_of_http2_cuts_is_no_failure_of_the_endpoint() -> Result {
    for (code, wanted) in [(0, "upload-cut"), (8, "upload-cut"), (2, "reset")] {
        let (app, _) = by_hand(vec![reset(code)], NO_SETTINGS).await?;
        let pair = Pair::new(AppProtocol::Http2, app).await?;
        // Two endpoints, because the only one would not be ejected anyway.
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let both = [pair.inbound, listener.local_addr()?];
        let cart = pair.cart.clone();
        let to = InboundListener::new(app, AppProtocol::Http2);
        tokio::spawn(async move { cart.serve_behind(listener, to).await });
        let change = pair.world.service("cart", AppProtocol::Http2, &both)?;
        pair.pusher.push(change).await?;
        for _ in 0..20 {
            let never = futures_util::stream::pending::<std::io::Result<Frame<Bytes>>>();
            let mut request = get("http://cart/");
            *request.method_mut() = Method::POST;
            *request.body_mut() = Body::new(StreamBody::new(never));
            let answer = soon(pair.web.client().send(request)).await?;
            assert_eq!(answer.status(), 502, "{code}");
            assert_eq!(answer.headers()["x-mesh-reason"], wanted, "{code}");
        }
        let status = pair.web.status();
        let mut endpoints = status.services.iter().flat_map(|s| &s.endpoints);
        assert_eq!(endpoints.any(|e| e.ejected), wanted == "reset", "{code}");
    }
    Ok(())
}

/// What a server says before its answer reaches the caller, and what it waits for is asked for.
#[tokio::test]
async fn a_caller_is_asked_for_its_body_when_the_server_says_so() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let app = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                if head.starts_with("POST /refused") {
                    return stream
                        .write_all(b"HTTP/1.1 417 No\r\ncontent-length: 2\r\n\r\nno")
                        .await;
                }
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
                if head.starts_with("POST") {
                    stream.read_exact(&mut [0; 2]).await?;
                }
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .await
            });
        }
    });
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    // Over HTTP/1.1: 100 only once the server says so, and never for what it refuses.
    for (path, status) in [("/refused", "417"), ("/taken", "200")] {
        let mut stream = TcpStream::connect(pair.outbound).await?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: cart\r\ncontent-length: 2\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut first = [0; 12];
        soon(stream.read_exact(&mut first)).await??;
        let expected = if status == "200" { "100" } else { status };
        assert_eq!(
            String::from_utf8_lossy(&first),
            format!("HTTP/1.1 {expected}")
        );
        if status == "200" {
            stream.write_all(b"hi").await?;
        }
        let mut rest = String::new();
        soon(stream.read_to_string(&mut rest)).await??;
        assert!(
            rest.contains(if status == "200" {
                "HTTP/1.1 200"
            } else {
                "no"
            }),
            "{rest}"
        );
    }
    // A caller of HTTP/2 hears the server's own 100.
    let request = Request::post("http://cart/taken").header("expect", "100-continue");
    let said = said_before(&pair, request.body(())?).await?;
    assert_eq!(said, [(100, 0)]);
    Ok(())
}

/// The informational answers to a request of `hi`, with the number of their fields.
pub(crate) async fn said_before(pair: &Pair, request: Request<()>) -> Result<Vec<(u16, usize)>> {
    let io = TcpStream::connect(pair.outbound).await?;
    let (sender, connection) = ::h2::client::handshake(io).await?;
    tokio::spawn(connection);
    let mut sender = sender.ready().await?;
    let (mut response, mut body) = sender.send_request(request, false)?;
    let mut said = Vec::new();
    let answer = std::future::poll_fn(|cx| {
        while let Poll::Ready(Some(head)) = response.poll_informational(cx) {
            let head = head?;
            said.push((head.status().as_u16(), head.headers().len()));
            if head.status() == StatusCode::CONTINUE {
                body.send_data(Bytes::from_static(b"hi"), true)?;
            }
        }
        Pin::new(&mut response).poll(cx)
    });
    let answer = soon(answer).await??;
    assert_eq!(answer.status(), StatusCode::OK);
    Ok(said)
}

/// HTTP/2 has them on the whole way; the library for HTTP/1.1 writes none but 100.
#[tokio::test]
async fn hints_before_the_answer_pass_where_all_is_http2() -> Result {
    // `:status: 103` and `link: a`, by their places in the static table; and what only the mesh says.
    let hints = b"\0\0\x1a\x01\x04\0\0\0\0\x08\x03103\x0f\x1e\x01a\0\x0dx-mesh-reason\x01a";
    let mut answer = OK.to_vec();
    answer[4] = 5;
    let (app, _) = by_hand(vec![hints.to_vec(), answer], NO_SETTINGS).await?;
    let pair = Pair::new(AppProtocol::Http2, app).await?;
    let said = said_before(&pair, Request::post("http://cart/").body(())?).await?;
    assert_eq!(said, [(103, 1)]);
    Ok(())
}

/// A server that knows nothing of the field is sent the body after a moment.
#[tokio::test]
async fn a_server_that_says_nothing_to_an_expectation_gets_the_body() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let app = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut all = Vec::new();
                while !all.ends_with(b"\r\n\r\nhi") {
                    all.push(stream.read_u8().await?);
                }
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .await
            });
        }
    });
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    let request = b"POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 2\r\nexpect: 100-continue\r\nconnection: close\r\n\r\nhi";
    let answer = crate::support::raw(pair.outbound, request).await?;
    assert!(answer.ends_with("ok"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn trailers_of_an_upload_are_sent_with_its_end() -> Result {
    let app = origin_h2(async |request: Request<Incoming>| {
        let body = request.into_body().collect().await;
        let trailers = body
            .ok()
            .and_then(|b| b.trailers().cloned())
            .unwrap_or_default();
        Response::new(Body::from(format!("{:?}", trailers.get("x-sum"))))
    })
    .await?;
    let pair = Pair::new(AppProtocol::Http2, app).await?;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    let frames = [
        Frame::data(Bytes::from_static(b"a")),
        Frame::data(Bytes::from_static(b"b")),
        Frame::trailers(trailers),
    ];
    let frames = frames.map(Ok::<_, std::io::Error>);
    let mut request = get("http://cart/");
    *request.method_mut() = Method::POST;
    *request.body_mut() = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
    let answer = soon(h2(pair.outbound).await?.send_request(request)).await??;
    assert_eq!(text(answer).await?, "Some(\"7\")");
    Ok(())
}

/// A server of HTTP/2 that takes so many streams on a connection and answers once the gate opens. Counts
/// its connections and the requests that it holds.
async fn narrow(
    streams: u32,
    gate: Arc<Semaphore>,
    seen: Arc<[AtomicUsize; 2]>,
) -> Result<std::net::SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            seen[0].fetch_add(1, Ordering::SeqCst);
            let (gate, seen) = (Arc::clone(&gate), Arc::clone(&seen));
            let service = hyper::service::service_fn(move |_: Request<Incoming>| {
                let (gate, seen) = (Arc::clone(&gate), Arc::clone(&seen));
                async move {
                    seen[1].fetch_add(1, Ordering::SeqCst);
                    let _open = gate.acquire().await;
                    Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
                }
            });
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.max_concurrent_streams(streams);
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok(address)
}

/// Where a server takes few streams on a connection another is opened, up to a bound; what is above
/// waits, and is served.
#[tokio::test]
async fn another_connection_is_opened_at_the_servers_limit_of_streams() -> Result {
    for (streams, requests, connections, held) in [(2, 7, 4, 7), (1, 20, 16, 16)] {
        let (gate, seen) = (Arc::new(Semaphore::new(0)), Arc::default());
        let server = narrow(streams, Arc::clone(&gate), Arc::clone(&seen)).await?;
        let pair = Pair::new(AppProtocol::Http2, origin(tell).await?).await?;
        plain_cart(&pair, server).await?;
        // With the first answer the server's settings are known.
        gate.add_permits(1);
        let first = soon(pair.web.client().send(get("http://cart/"))).await?;
        assert_eq!(first.status(), StatusCode::OK);
        text(first).await?;
        soon(gate.acquire()).await??.forget();
        let mut waiting = JoinSet::new();
        for n in 0..requests {
            let client = pair.web.client();
            waiting.spawn(async move { client.send(get("http://cart/")).await.status() });
            // Each is counted with its connection before the next one comes.
            let wanted = (n + 1).min(held) + 1;
            let arrived = async {
                while seen[1].load(Ordering::SeqCst) < wanted {
                    tokio::task::yield_now().await;
                }
            };
            soon(arrived).await?;
        }
        let all = async {
            while in_flight(&pair.web) < u32::try_from(requests).unwrap_or_default() {
                tokio::task::yield_now().await;
            }
        };
        soon(all).await?;
        assert_eq!(
            seen[0].load(Ordering::SeqCst),
            connections,
            "{streams} streams"
        );
        assert_eq!(
            seen[1].load(Ordering::SeqCst),
            held + 1,
            "{streams} streams"
        );
        gate.add_permits(requests);
        while let Some(status) = soon(waiting.join_next()).await? {
            assert_eq!(status?, StatusCode::OK);
        }
    }
    Ok(())
}
