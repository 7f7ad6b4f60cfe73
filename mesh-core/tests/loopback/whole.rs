//! What is sent arrives whole, and as it was meant, or its end is an error.

use crate::support::{
    Pair, Result, for_cart, get, h1, h2, origin, origin_h2, plain_cart, raw, serve_outbound, soon,
    tell, text, whole,
};
use ::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use inmesh_core::Body;
use inmesh_core::model::AppProtocol;
use inmesh_core::runtime::{InboundListener, OutboundListener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A body of one part whose length is not known.
fn unknown(text: &'static str) -> Body {
    streamed(vec![Frame::data(Bytes::from_static(text.as_bytes()))])
}

fn streamed(frames: Vec<Frame<Bytes>>) -> Body {
    let frames = frames.into_iter().map(Ok::<_, std::io::Error>);
    Body::new(StreamBody::new(futures_util::stream::iter(frames)))
}

/// Answers with the fields of the request's header and trailers.
async fn fields(request: Request<Incoming>) -> Response<Body> {
    let show = |fields: &HeaderMap| {
        let mut lines: Vec<_> = fields
            .iter()
            .map(|(n, v)| format!("{n}={}", v.to_str().unwrap_or_default()))
            .filter(|line| !line.starts_with("traceparent"))
            .collect();
        lines.sort();
        lines.join(" ")
    };
    let (head, body) = request.into_parts();
    let mut text = show(&head.headers);
    if let Ok(body) = body.collect().await {
        let trailers = body.trailers().map(&show).unwrap_or_default();
        text = format!("{text} | {trailers} | {}", body.to_bytes().len());
    }
    Response::new(Body::from(text))
}

#[tokio::test]
async fn a_body_of_any_method_reaches_the_server() -> Result {
    for (protocol, app) in [
        (AppProtocol::Http1, origin(tell).await?),
        (AppProtocol::Http2, origin_h2(tell).await?),
    ] {
        let pair = Pair::new(protocol, app).await?;
        for method in ["GET", "HEAD", "DELETE", "OPTIONS", "POST", "QUERY"] {
            let method: Method = method.parse()?;
            for length in [true, false] {
                let body = || {
                    if length {
                        whole("body!")
                    } else {
                        unknown("body!")
                    }
                };
                let mut request = for_cart("/");
                (*request.method_mut(), *request.body_mut()) = (method.clone(), body());
                if !length {
                    // hyper's client drops it too, unless this field is there.
                    let chunked = HeaderValue::from_static("chunked");
                    let headers = request.headers_mut();
                    headers.insert(header::TRANSFER_ENCODING, chunked);
                }
                let one = h1(pair.outbound).await?.send_request(request).await?;
                let mut request = get("http://cart/");
                (*request.method_mut(), *request.body_mut()) = (method.clone(), body());
                let two = h2(pair.outbound).await?.send_request(request).await?;
                let mut request = get("http://cart/");
                (*request.method_mut(), *request.body_mut()) = (method.clone(), body());
                let own = pair.web.client().send(request).await;
                if method == Method::HEAD {
                    // It tells by the record alone.
                    let seen = pair
                        .in_seen
                        .one(|x| x.method == Some(Method::HEAD) && x.request_bytes == 5);
                    seen.await?;
                    continue;
                }
                for answer in [text(one).await?, text(two).await?, text(own).await?] {
                    let ends = answer.ends_with(" 5");
                    assert!(ends, "{method} {length} {protocol:?}: {answer}");
                }
            }
        }
    }
    Ok(())
}

/// A length is written anew, so that all readers read the same.
#[tokio::test]
async fn a_length_is_a_plain_number_and_has_no_lookalike() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(fields).await?).await?;
    for length in [
        "content-length: 3",
        "content-length: 003",
        "content-length: 3\r\ncontent-length: 3",
        "content-length: 3\r\ntransfer_encoding: chunked\r\ncontent_length: 9",
    ] {
        let request =
            format!("POST / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n{length}\r\n\r\nabc");
        let answer = raw(pair.outbound, request.as_bytes()).await?;
        let end = "\r\n\r\ncontent-length=3 host=cart |  | 3";
        assert!(answer.ends_with(end), "{length}: {answer}");
    }
    Ok(())
}

#[tokio::test]
async fn a_coding_around_the_body_is_a_501() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    for coding in ["gzip, chunked", "gzip\r\ntransfer-encoding: chunked"] {
        let request = format!(
            "POST / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\ntransfer-encoding: {coding}\r\n\r\n0\r\n\r\n"
        );
        let answer = raw(pair.outbound, request.as_bytes()).await?;
        assert!(answer.starts_with("HTTP/1.1 501"), "{coding}: {answer}");
        assert!(
            answer.contains("x-mesh-reason: unsupported-coding"),
            "{answer}"
        );
    }
    let answer = raw(pair.outbound, b"POST / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\ntransfer-encoding: Chunked\r\n\r\n0\r\n\r\n").await?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(())
}

/// An application that answers whatever it is asked with these fields and this body, and closes.
async fn answering(fields: &'static str) -> Result<std::net::SocketAddr> {
    let app = TcpListener::bind("127.0.0.1:0").await?;
    let address = app.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = app.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{fields}");
            let _gone = stream.write_all(answer.as_bytes()).await;
        }
    });
    Ok(address)
}

/// Sends a GET to this application by a pair, or through an outbound listener to a server without an agent.
async fn asked(fields: &'static str, agents: bool) -> Result<String> {
    let app = answering(fields).await?;
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    if !agents {
        plain_cart(&pair, app).await?;
    }
    let request = "GET / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n";
    raw(pair.outbound, request.as_bytes()).await
}

#[tokio::test]
async fn a_coding_around_an_answer_is_a_502() -> Result {
    for agents in [true, false] {
        for coding in [
            "transfer-encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "transfer-encoding: gzip\r\n\r\nabc",
        ] {
            let answer = asked(coding, agents).await?;
            assert!(answer.starts_with("HTTP/1.1 502"), "{coding}: {answer}");
            let reason = answer.contains("x-mesh-reason: answer-coding");
            assert!(reason, "{coding}: {answer}");
        }
        let fields = "transfer-encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        let answer = asked(fields, agents).await?;
        assert!(answer.ends_with("\r\n3\r\nabc\r\n0\r\n\r\n"), "{answer}");
    }
    Ok(())
}

#[tokio::test]
async fn the_length_of_an_answer_is_a_plain_number_and_has_no_lookalike() -> Result {
    for agents in [true, false] {
        for fields in [
            "content-length: 3, 3\r\n\r\nabc",
            "content-length: 003\r\n\r\nabc",
            "content-length: 3\r\ncontent-length: 3\r\n\r\nabc",
            "content_length: 9\r\ncontent-length: 3\r\ntransfer_encoding: gzip\r\n\r\nabc",
        ] {
            let answer = asked(fields, agents).await?;
            assert!(answer.ends_with("\r\n\r\nabc"), "{fields}: {answer}");
            assert_eq!(
                answer.matches("\r\ncontent-length: 3\r\n").count(),
                1,
                "{answer}"
            );
            assert!(!answer.contains('_'), "{answer}");
        }
    }
    Ok(())
}

/// A length beside the coding is not believed, nor passed on: a body would be cut there, or waited for.
#[tokio::test]
async fn the_coding_of_an_answer_frames_it_whatever_length_is_stated() -> Result {
    for agents in [true, false] {
        for fields in [
            "content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 10\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ] {
            let answer = asked(fields, agents).await?;
            let whole = answer.ends_with("\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
                || answer.contains("content-length: 5\r\n") && answer.ends_with("\r\n\r\nhello");
            assert!(whole, "{fields}: {answer}");
        }
    }
    Ok(())
}

/// Trailers come after the decision: none of them names the peer.
#[tokio::test]
async fn trailers_pass_both_hops_without_claims() -> Result {
    let app = origin(async |request: Request<Incoming>| {
        let sent = fields(request).await.into_body().collect().await;
        let sent = sent.map(|sent| sent.to_bytes()).unwrap_or_default();
        let mut trailers = HeaderMap::new();
        for name in ["x-sum", "x-mesh-reason", "etag"] {
            trailers.insert(name, HeaderValue::from_static("7"));
        }
        let parts = vec![Frame::data(sent), Frame::trailers(trailers)];
        let mut response = Response::new(streamed(parts));
        let named = HeaderValue::from_static("x-sum, x-mesh-reason, etag");
        response.headers_mut().insert(header::TRAILER, named);
        response
    })
    .await?;
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    let request = b"POST / HTTP/1.1\r\nhost: cart\r\nte: trailers\r\nconnection: te, close\r\n\
        trailer: x-ask, x-forwarded-client-cert\r\ntransfer-encoding: chunked\r\n\r\n\
        2\r\nhi\r\n0\r\nx-ask: 1\r\nx-forwarded-client-cert: URI=spiffe://td/admin\r\n\r\n";
    let answer = raw(pair.outbound, request).await?;
    assert!(answer.contains("| x-ask=1 | 2"), "{answer}");
    assert!(
        answer.contains("x-sum: 7") && answer.contains("etag: 7"),
        "{answer}"
    );
    assert!(!answer.contains("x-mesh-reason: 7"), "{answer}");
    Ok(())
}

/// The reason is the mesh's own word, whichever way an answer comes.
#[tokio::test]
async fn an_application_does_not_speak_for_the_mesh() -> Result {
    let app = origin(async |_: Request<Incoming>| {
        let mut response = Response::new(Body::from("mine"));
        for name in ["x-mesh-reason", "x_mesh_reason"] {
            let denied = HeaderValue::from_static("denied");
            response.headers_mut().insert(name, denied);
        }
        response
    })
    .await?;
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    let answer = pair.web.client().send(get("http://cart/")).await;
    assert!(!answer.headers().contains_key("x-mesh-reason"));
    assert!(!answer.headers().contains_key("x_mesh_reason"));
    // What the mesh on the other side says does pass.
    let answer = pair.web.client().send(get("http://cart/%00")).await;
    assert_eq!(answer.headers()["x-mesh-reason"], "invalid-request");
    Ok(())
}

#[tokio::test]
async fn a_target_that_is_too_long_is_a_414() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    for length in [61 * 1024, 70 * 1024] {
        let target = format!("/{}", "a".repeat(length));
        let request = format!("GET {target} HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n");
        let answer = raw(pair.outbound, request.as_bytes()).await?;
        assert!(answer.starts_with("HTTP/1.1 414"), "{length}: {answer}");
        assert!(
            answer.contains("x-mesh-reason: target-too-long"),
            "{answer}"
        );
    }
    let target = format!("http://cart/{}", "a".repeat(61 * 1024));
    let answer = h2(pair.outbound).await?.send_request(get(&target)).await?;
    assert_eq!(answer.status(), StatusCode::URI_TOO_LONG);
    Ok(())
}

/// The HTTP library answers some requests before the mesh has seen them.
#[tokio::test]
async fn an_answer_of_the_library_itself_has_a_reason_and_a_record() -> Result {
    for (request, status, reason) in [
        (
            "GET /%zz HTTP/1.1\r\nhost cart\r\n\r\n",
            400,
            "invalid-request",
        ),
        ("GET  / HTTP/1.1\r\n\r\n", 400, "invalid-request"),
        ("GET / HTTP/1.7\r\n\r\n", 400, "invalid-request"),
        ("\u{1}\u{2}\r\n\r\n", 400, "invalid-request"),
    ] {
        let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
        let web = serve_outbound(
            &pair.web,
            OutboundListener::by_authority(AppProtocol::Http1),
        )
        .await?;
        // Also behind a request that was answered.
        for before in ["", "GET / HTTP/1.1\r\nhost: cart\r\n\r\n"] {
            let mut stream = TcpStream::connect(web).await?;
            let mut answer = Vec::new();
            stream.write_all(before.as_bytes()).await?;
            while !before.is_empty() && !answer.ends_with(b"GET / HTTP/1.1 0") {
                answer.push(soon(stream.read_u8()).await??);
            }
            answer.clear();
            stream.write_all(request.as_bytes()).await?;
            soon(stream.read_to_end(&mut answer)).await??;
            let own = String::from_utf8(answer)?;
            assert!(
                own.starts_with(&format!("HTTP/1.1 {status}")),
                "{request}: {own}"
            );
            assert!(
                own.contains(&format!("x-mesh-reason: {reason}\r\n")),
                "{own}"
            );
            let length = own.split_once("\r\n\r\n").ok_or("no body")?.1.len();
            assert!(
                own.contains(&format!("content-length: {length}\r\n")),
                "{own}"
            );
        }
        let record = pair.out_seen.one(|x| x.method.is_none()).await?;
        assert_eq!(
            record.reason.map(|r| r.to_string()),
            Some(reason.to_owned())
        );
    }
    Ok(())
}

/// Answers as soon as it has the head, and closes with the body unread; or closes without an answer.
async fn refusing(answer: &'static [u8]) -> Result<std::net::SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                stream.write_all(answer).await
            });
        }
    });
    Ok(address)
}

/// An upload of 4 MiB in parts, in each version and with each framing.
fn upload(length: bool) -> Body {
    let part = Bytes::from_static(&[b'x'; 16 * 1024]);
    let parts = streamed((0..256).map(|_| Frame::data(part.clone())).collect());
    if !length {
        return parts;
    }
    Body::new(Sized(parts, 4 << 20))
}

/// A body of that length.
struct Sized(Body, u64);

impl http_body::Body for Sized {
    type Data = Bytes;
    type Error = inmesh_core::BoxError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<std::result::Result<Frame<Bytes>, Self::Error>>> {
        std::pin::Pin::new(&mut self.0).poll_frame(cx)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.1)
    }
}

#[tokio::test]
async fn a_refusal_during_an_upload_is_the_answer_and_harms_no_endpoint() -> Result {
    let answer = b"HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 3\r\n\r\nbig";
    let pair = Pair::new(AppProtocol::Http1, refusing(answer).await?).await?;
    for round in 0..20 {
        for length in [true, false] {
            let mut request = for_cart("/");
            (*request.method_mut(), *request.body_mut()) = (Method::POST, upload(length));
            let mut caller = h1(pair.outbound).await?;
            let one = soon(caller.send_request(request)).await?;
            // hyper's own client may fail to write before it reads; ours does not.
            if let Ok(one) = one {
                assert_eq!(one.status(), 413, "{round} {length}");
            }
            let mut request = get("http://cart/");
            (*request.method_mut(), *request.body_mut()) = (Method::POST, upload(length));
            let two = soon(h2(pair.outbound).await?.send_request(request)).await??;
            assert_eq!(two.status(), 413, "{round} {length}");
            let mut request = get("http://cart/");
            (*request.method_mut(), *request.body_mut()) = (Method::POST, upload(length));
            let own = soon(pair.web.client().send(request)).await?;
            assert_eq!(own.status(), 413, "{round} {length}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_upload_that_is_cut_without_an_answer_is_no_failure_of_the_endpoint() -> Result {
    let app = refusing(b"").await?;
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    // Two endpoints, because the only one would not be ejected anyway.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let both = [pair.inbound, listener.local_addr()?];
    let cart = pair.cart.clone();
    let to = InboundListener::new(app, AppProtocol::Http1);
    tokio::spawn(async move { cart.serve_behind(listener, to).await });
    let change = pair.world.service("cart", AppProtocol::Http1, &both)?;
    pair.pusher.push(change).await?;
    let ejected = || {
        let status = pair.web.status();
        let mut endpoints = status.services.iter().flat_map(|s| &s.endpoints);
        endpoints.any(|e| e.ejected)
    };
    // One fails in a write, the other waits for its caller while the connection ends.
    let never = || futures_util::stream::pending::<std::io::Result<Frame<Bytes>>>();
    let waits = || Body::new(Sized(Body::new(StreamBody::new(never())), 4 << 20));
    for n in 0..20 {
        let mut request = get("http://cart/");
        let body = if n % 2 == 0 { upload(true) } else { waits() };
        (*request.method_mut(), *request.body_mut()) = (Method::POST, body);
        let own = soon(pair.web.client().send(request)).await?;
        assert_eq!(own.headers()["x-mesh-reason"], "upload-cut");
        assert_eq!(own.status(), 502);
    }
    assert!(!ejected());
    // A request without a body that meets the same is one.
    for _ in 0..20 {
        let own = soon(pair.web.client().send(get("http://cart/"))).await?;
        assert_eq!(own.headers()["x-mesh-reason"], "reset");
    }
    assert!(ejected());
    Ok(())
}

#[tokio::test]
async fn an_answer_to_http10_says_how_its_connection_goes_on() -> Result {
    let app = origin(async |request: Request<Incoming>| {
        let known = request.uri().path() == "/known";
        Response::new(if known {
            Body::from("body!")
        } else {
            unknown("body!")
        })
    })
    .await?;
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    for (path, goes_on) in [("/known", true), ("/unknown", false)] {
        let mut stream = TcpStream::connect(pair.outbound).await?;
        let head = format!("GET {path} HTTP/1.0\r\nhost: cart\r\nconnection: keep-alive\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"body!") {
            answer.push(soon(stream.read_u8()).await??);
        }
        let answer = String::from_utf8(answer)?.to_ascii_lowercase();
        assert_eq!(answer.contains("keep-alive"), goes_on, "{answer}");
        stream.write_all(head.as_bytes()).await?;
        let more = soon(stream.read_u8()).await?;
        assert_eq!(more.is_ok(), goes_on, "{answer}");
    }
    Ok(())
}

/// A caller of HTTP/1.0 waits for no 100, whatever it says (RFC 9110 section 10.1.1), and nor does the server.
#[tokio::test]
async fn what_a_caller_of_http10_expects_is_ignored() -> Result {
    let app = origin(async |request: Request<Incoming>| {
        let expects = request.headers().contains_key(header::EXPECT);
        let body = request.into_body().collect().await.map(|b| b.to_bytes());
        Response::new(Body::from(format!("{expects} {:?}", body.ok())))
    })
    .await?;
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    let request =
        b"POST / HTTP/1.0\r\nhost: cart\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\nhi";
    let answer = raw(pair.outbound, request).await?;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert!(answer.ends_with("false Some(b\"hi\")"), "{answer}");
    Ok(())
}

/// What a server says of a body that it does not send is passed on (RFC 9110 section 8.6), and the
/// connection serves the next request.
#[tokio::test]
async fn the_length_of_a_body_that_is_not_sent_stays() -> Result {
    let app = TcpListener::bind("127.0.0.1:0").await?;
    let address = app.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = app.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while let Ok(byte) = stream.read_u8().await {
                    head.push(byte);
                    if !head.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let status = match head.starts_with(b"HEAD") {
                        true => "200 OK",
                        false => "304 Not Modified",
                    };
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 1234\r\n\r\n");
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                    head.clear();
                }
            });
        }
    });
    let pair = Pair::new(AppProtocol::Http1, address).await?;
    let (mut one, mut two) = (h1(pair.outbound).await?, h2(pair.outbound).await?);
    for method in [Method::HEAD, Method::GET, Method::HEAD] {
        let mut request = for_cart("/");
        *request.method_mut() = method.clone();
        one.ready().await?;
        let answer = one.send_request(request).await?;
        assert_eq!(answer.headers()[header::CONTENT_LENGTH], "1234", "{method}");
        assert_eq!(text(answer).await?, "");
        let mut request = get("http://cart/");
        *request.method_mut() = method.clone();
        let answer = two.send_request(request).await?;
        assert_eq!(answer.headers()[header::CONTENT_LENGTH], "1234", "{method}");
        assert_eq!(text(answer).await?, "");
    }
    for record in [pair.out_seen.all(), pair.in_seen.all()].concat() {
        assert_eq!(record.reason, None, "{record:?}");
    }
    Ok(())
}

/// What the agents add to an answer is not too many for those before them.
#[tokio::test]
async fn as_many_fields_as_a_server_may_answer_with_pass_both_hops() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let app = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut asked = Vec::new();
                while stream.read_buf(&mut asked).await? > 0 {
                    if asked.ends_with(b"\r\n\r\n") {
                        asked.clear();
                        let fields = "x-field: v\r\n".repeat(255);
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{fields}\r\n");
                        stream.write_all(head.as_bytes()).await?;
                    }
                }
                std::io::Result::Ok(())
            });
        }
    });
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    let answer = pair.web.client().send(get("http://cart/")).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers().get_all("x-field").iter().count(), 255);
    assert!(answer.headers().contains_key("date"));
    Ok(())
}

/// Up to 256 fields. A parser has room for 100; the first answer with more makes room for others.
#[tokio::test]
async fn an_answer_of_many_fields_passes() -> Result {
    let app = origin(async |request: Request<Incoming>| {
        let mut response = Response::new(Body::empty());
        let fields = request.uri().path()[1..].parse().unwrap_or(0);
        for _ in 0..fields {
            let value = HeaderValue::from_static("value");
            response.headers_mut().append("x-field", value);
        }
        response
    })
    .await?;
    for method in [Method::GET, Method::POST] {
        let pair = Pair::new(AppProtocol::Http1, app).await?;
        let ask = async |path: &str| {
            let mut request = get(&format!("http://cart{path}"));
            *request.method_mut() = method.clone();
            pair.web.client().send(request).await
        };
        assert_eq!(
            ask("/50").await.headers().get_all("x-field").iter().count(),
            50
        );
        // What may not be repeated pays once at each hop.
        for _ in 0..if method == Method::POST { 2 } else { 0 } {
            let answer = ask("/150").await;
            assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
            assert_eq!(answer.headers()["x-mesh-reason"], "answer-too-large");
        }
        for _ in 0..3 {
            let answer = ask("/150").await;
            assert_eq!(answer.status(), StatusCode::OK, "{method}");
            assert_eq!(answer.headers().get_all("x-field").iter().count(), 150);
        }
        for _ in 0..6 {
            let answer = ask("/300").await;
            assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
            assert_eq!(answer.headers()["x-mesh-reason"], "answer-too-large");
        }
        let metrics = pair.web.encode_metrics() + &pair.cart.encode_metrics();
        assert!(!metrics.contains("mesh_ejections_total{"), "{metrics}");
        assert_eq!(ask("/1").await.status(), StatusCode::OK);
    }
    Ok(())
}
