//! Bad input: each has an answer, a line with its reason and a count, and harms no other caller.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use inmesh_core::Body;
use inmesh_core::model::AppProtocol;
use inmesh_core::runtime::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{
    Builder, Pair, Result, Seen, get, h1, h2, in_flight, origin, raw, soon, tell, text,
};

/// A pair whose agent of `cart` takes plaintext too, so that bytes can be written by hand, and
/// whose deadlines are short where that is asked for.
async fn pair(short: bool) -> Result<Pair> {
    let mut limits = Limits::default();
    if short {
        limits.header = Duration::from_millis(30);
        limits.handshake = Duration::from_millis(30);
    }
    let build = move |b: Builder| b.limits(limits.clone());
    Pair::with(AppProtocol::Http1, origin(tell).await?, build, |to| {
        to.strict = false
    })
    .await
}

async fn others_are_well(pair: &Pair) -> Result {
    let answer = pair.web.client().send(get("http://cart/well")).await;
    assert_eq!(answer.status(), StatusCode::OK, "{:?}", answer.headers());
    text(answer).await?;
    Ok(())
}

/// A record with this reason, this status and a series that counts it.
async fn recorded(pair: &Pair, address: SocketAddr, status: u16, reason: &str) -> Result {
    let (seen, mesh): (&Seen, _) = if address == pair.outbound {
        (&pair.out_seen, &pair.web)
    } else {
        (&pair.in_seen, &pair.cart)
    };
    let record = seen
        .one(|x| x.reason.is_some_and(|r| r.as_str() == reason))
        .await?;
    assert_eq!(record.status, status, "{reason}");
    let metrics = mesh.encode_metrics();
    let counted = metrics.contains(&format!("reason=\"{reason}\""))
        || metrics.contains(&format!("response_code=\"{status}\""));
    assert!(counted, "{metrics}");
    others_are_well(pair).await
}

#[tokio::test]
async fn a_request_that_means_two_things_is_a_400() -> Result {
    let cases: [&[u8]; 13] = [
        b"GET / HTTP/1.1\r\nhost: cart\r\nhost: cart\r\n",
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nhost: \r\n",
        b"GET / HTTP/1.1\r\nhost: a@cart\r\n",
        b"GET / HTTP/1.1\r\nhost: cart/x\r\n",
        b"GET / HTTP/1.1\r\nhost: ca rt\r\n",
        b"GET / HTTP/1.1\r\nhost: c\xc3\xa4rt\r\n",
        b"GET http://cart/ HTTP/1.1\r\nhost: other\r\n",
        b"GET http://a@cart/ HTTP/1.1\r\nhost: a@cart\r\n",
        b"GET /admin%00 HTTP/1.1\r\nhost: cart\r\n",
        b"GET /%zz HTTP/1.1\r\nhost: cart\r\n",
        b"GET * HTTP/1.1\r\nhost: cart\r\n",
        b"CONNECT cart:80 HTTP/1.1\r\nhost: cart:80\r\n",
    ];
    for case in cases {
        for (n, inbound) in [false, true].into_iter().enumerate() {
            let pair = pair(false).await?;
            let address = if inbound { pair.inbound } else { pair.outbound };
            let bytes = [case, b"connection: close\r\n\r\n"].concat();
            let answer = raw(address, &bytes).await?;
            assert!(
                answer.starts_with("HTTP/1.1 400"),
                "{n} {}: {answer}",
                case.escape_ascii()
            );
            recorded(&pair, address, 400, "invalid-request").await?;
        }
    }
    Ok(())
}

/// What hyper itself refuses leaves a line too.
#[tokio::test]
async fn framing_that_means_two_things_is_a_400() -> Result {
    let cases: [&[u8]; 7] = [
        b"POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: +5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 0x5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: cart\r\ntransfer-encoding: gzip\r\n\r\nhello",
        b"GET / HTTP/1.1\r\nhost : cart\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nhost: cart\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: cart\r\n\r\n",
    ];
    for case in cases {
        let pair = pair(false).await?;
        let answer = raw(pair.outbound, case).await?;
        assert!(
            answer.starts_with("HTTP/1.1 400"),
            "{}: {answer}",
            case.escape_ascii()
        );
        recorded(&pair, pair.outbound, 400, "invalid-request").await?;
    }
    Ok(())
}

/// A caller that is there, and not one that has gone.
#[tokio::test]
async fn a_body_whose_chunks_are_malformed_is_a_400() -> Result {
    for chunks in ["zz\r\n", "\r\n", "3\r\nabcx\r\n0\r\n\r\n", "-1\r\nabc"] {
        for inbound in [false, true] {
            let pair = pair(false).await?;
            let address = if inbound { pair.inbound } else { pair.outbound };
            let head = "POST / HTTP/1.1\r\nhost: cart\r\ntransfer-encoding: chunked\r\n\r\n";
            let answer = raw(address, format!("{head}{chunks}").as_bytes()).await?;
            assert!(answer.starts_with("HTTP/1.1 400"), "{chunks:?}: {answer}");
            recorded(&pair, address, 400, "invalid-request").await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_header_block_beyond_the_limits_is_a_431() -> Result {
    for (fields, size, reason) in [
        (99, 1, None),
        (100, 1, Some("too-many-fields")),
        (10, 6_000, None),
        (10, 8_000, Some("header-too-large")),
        (10, 20_000, Some("header-too-large")),
        // Beyond what hyper itself takes.
        (101, 1, Some("header-too-large")),
        (300, 1, Some("header-too-large")),
        (10, 40_000, Some("header-too-large")),
    ] {
        for inbound in [false, true] {
            let pair = pair(false).await?;
            let address = if inbound { pair.inbound } else { pair.outbound };
            let mut bytes = b"GET / HTTP/1.1\r\nhost: cart\r\n".to_vec();
            for n in 1..fields {
                bytes.extend_from_slice(format!("x-{n}: {}\r\n", "a".repeat(size)).as_bytes());
            }
            bytes.extend_from_slice(b"\r\n");
            let mut stream = TcpStream::connect(address).await?;
            let _cut = stream.write_all(&bytes).await;
            let mut head = [0; 12];
            soon(stream.read_exact(&mut head)).await??;
            let status = if reason.is_some() { "431" } else { "200" };
            assert!(head.ends_with(status.as_bytes()), "{fields} x {size}");
            if let Some(reason) = reason {
                recorded(&pair, address, 431, reason).await?;
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn http2_has_the_same_limits() -> Result {
    for (fields, size, reason) in [
        (98, 1, None),
        (99, 1, Some("too-many-fields")),
        (120, 1, Some("too-many-fields")),
        (1_000, 1, Some("too-many-fields")),
        (10, 7_000, Some("header-too-large")),
    ] {
        let pair = pair(false).await?;
        let mut caller = h2(pair.outbound).await?;
        let mut request = get("http://cart/");
        for n in 0..fields {
            let name: ::http::HeaderName = format!("x-{n}").parse()?;
            request
                .headers_mut()
                .insert(name, HeaderValue::from_str(&"a".repeat(size))?);
        }
        let answer = caller.send_request(request).await?;
        let status = if reason.is_some() { 431 } else { 200 };
        assert_eq!(answer.status(), status, "{fields} x {size}");
        text(answer).await?;
        if let Some(reason) = reason {
            recorded(&pair, pair.outbound, 431, reason).await?;
        }
        // The connection itself is well.
        assert_eq!(
            caller.send_request(get("http://cart/")).await?.status(),
            StatusCode::OK
        );
    }
    let pair = pair(false).await?;
    let mut caller = h2(pair.outbound).await?;
    let mut request = get("http://cart/");
    request
        .headers_mut()
        .insert("host", HeaderValue::from_static("other"));
    assert_eq!(
        caller.send_request(request).await?.status(),
        StatusCode::BAD_REQUEST
    );
    Ok(())
}

/// An application behind a proxy may believe what this field says.
#[tokio::test]
async fn nobody_says_in_a_header_who_the_peer_is() -> Result {
    let app = origin(async |request: Request<Incoming>| {
        let names = request.headers().keys().map(|name| name.as_str());
        Response::new(Body::from(names.collect::<Vec<_>>().join(" ")))
    })
    .await?;
    let pair = Pair::with(AppProtocol::Http1, app, |b| b, |to| to.strict = false).await?;
    let forged = "GET / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\nx-kept: 1\r\n\
        x-forwarded-client-cert: URI=spiffe://td/ns/shop/sa/admin\r\n\
        X-Forwarded-Client-Cert: again\r\n\
        x_forwarded_client_cert: 1\r\nx-forwarded_client-cert: 1\r\n\r\n";
    // Through both agents, and to the inbound one alone.
    for address in [pair.outbound, pair.inbound] {
        let answer = raw(address, forged.as_bytes()).await?;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("x-kept"),
            "{answer}"
        );
        assert!(
            !answer.replace('_', "-").contains("client-cert"),
            "{answer}"
        );
    }
    // A peer with an identity is no more believed.
    let mut request = get("http://cart/");
    let claim = HeaderValue::from_static("URI=spiffe://td/ns/shop/sa/admin");
    request
        .headers_mut()
        .insert("x-forwarded-client-cert", claim);
    let answer = text(pair.web.client().send(request).await).await?;
    assert!(
        answer.contains("traceparent") && !answer.contains("client-cert"),
        "{answer}"
    );
    Ok(())
}

#[tokio::test]
async fn a_header_that_stalls_is_a_408() -> Result {
    for inbound in [false, true] {
        let pair = pair(true).await?;
        let address = if inbound { pair.inbound } else { pair.outbound };
        let answer = raw(address, b"GET /half HTTP/1.1\r\nhost: ca").await?;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no end")?;
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{answer}"
        );
        recorded(&pair, address, 408, "header-timeout").await?;
    }
    Ok(())
}

/// The second header of a connection has a deadline as the first has, and rest has its own.
#[tokio::test]
async fn a_connection_that_rested_is_held_to_the_deadline_again() -> Result {
    let pair = pair(true).await?;
    let mut stream = TcpStream::connect(pair.outbound).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"GET / HTTP/1.1 0") {
        soon(stream.read_buf(&mut answer)).await??;
    }
    // Longer than a header may take, as another connection tells.
    let late = raw(pair.outbound, b"GET / HT").await?;
    assert!(late.starts_with("HTTP/1.1 408"), "{late}");
    stream.write_all(b"GET /again HT").await?;
    let mut rest = String::new();
    soon(stream.read_to_string(&mut rest)).await??;
    assert!(rest.starts_with("HTTP/1.1 408"), "{rest}");
    Ok(())
}

#[tokio::test]
async fn garbage_is_answered_where_http_is_declared_and_named_where_tls_is() -> Result {
    let pair = pair(false).await?;
    let named = inmesh_core::runtime::OutboundListener::by_authority(AppProtocol::Http1);
    let declared = crate::support::serve_outbound(&pair.web, named).await?;
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01"[..],
        b"\0\0\0\0\r\n\r\n",
        b"hello\r\n\r\n",
    ] {
        let answer = raw(declared, garbage).await?;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    recorded(&pair, pair.outbound, 400, "invalid-request").await?;

    // Bytes that are no handshake; rustls answers with an alert.
    let mut stream = TcpStream::connect(pair.inbound).await?;
    stream.write_all(b"\x16\x03\x01\x00\x04\x01\0\0\0").await?;
    let mut alert = Vec::new();
    let _reset = soon(stream.read_to_end(&mut alert)).await?;
    assert_eq!(alert.first(), Some(&21), "{alert:?}");
    let record = pair.in_seen.one(|x| x.reason.is_some()).await?;
    assert!(
        record
            .detail
            .is_some_and(|d| d.contains("a TLS message is malformed"))
    );
    let metrics = pair.cart.encode_metrics();
    assert!(metrics.contains("reason=\"tls\"} 1"), "{metrics}");
    others_are_well(&pair).await?;
    Ok(())
}

#[tokio::test]
async fn a_handshake_that_stalls_is_cut() -> Result {
    let pair = pair(true).await?;
    let mut stream = TcpStream::connect(pair.inbound).await?;
    stream.write_all(b"\x16\x03\x01").await?;
    let mut rest = Vec::new();
    let _reset = soon(stream.read_to_end(&mut rest)).await?;
    let record = pair.in_seen.one(|x| x.reason.is_some()).await?;
    assert!(
        record
            .detail
            .is_some_and(|d| d.contains("handshake-timeout"))
    );
    let metrics = pair.cart.encode_metrics();
    assert!(
        metrics.contains("reason=\"handshake-timeout\""),
        "{metrics}"
    );
    Ok(())
}

/// HTTP/2 that never says so, or never says more.
#[tokio::test]
async fn an_http2_connection_that_stalls_is_cut() -> Result {
    let mut limits = Limits::default();
    limits.header = Duration::from_millis(30);
    limits.idle = Duration::from_millis(30);
    let build = move |b: Builder| b.limits(limits.clone());
    let pair = Pair::with(AppProtocol::Http1, origin(tell).await?, build, |_| {}).await?;
    for bytes in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    ] {
        let mut stream = TcpStream::connect(pair.outbound).await?;
        stream.write_all(bytes).await?;
        let mut rest = Vec::new();
        soon(stream.read_to_end(&mut rest)).await??;
    }
    pair.out_seen
        .one(|x| x.reason.is_some_and(|r| r.as_str() == "header-timeout"))
        .await?;
    Ok(())
}

/// Whichever side breaks off, the endpoint is not to blame.
#[tokio::test]
async fn a_post_that_is_cut_halfway_leaves_a_line_and_harms_no_endpoint() -> Result {
    let app = origin(async |request: Request<Incoming>| {
        if request.method() == Method::POST {
            let _cut = request.into_body().collect().await;
            return std::future::pending().await;
        }
        tell(request).await
    })
    .await?;
    for http2 in [false, true] {
        let pair = Pair::new(AppProtocol::Http1, app).await?;
        for n in 0..10 {
            if http2 {
                let mut caller = h2(pair.outbound).await?;
                let (sender, body) = tokio::sync::mpsc::channel::<std::io::Result<_>>(1);
                let body = futures_util::stream::unfold(body, async |mut body| {
                    body.recv().await.map(|frame| (frame, body))
                });
                let body = Body::new(http_body_util::StreamBody::new(body));
                let request = Request::post(format!("http://cart/{n}")).body(body)?;
                let answer = tokio::spawn(async move { caller.send_request(request).await });
                let half = ::http_body::Frame::data(bytes::Bytes::from_static(b"half"));
                sender.send(Ok(half)).await?;
                sender
                    .send(Err(std::io::ErrorKind::BrokenPipe.into()))
                    .await?;
                assert!(answer.await?.is_err());
            } else {
                let mut stream = TcpStream::connect(pair.outbound).await?;
                let head =
                    format!("POST /{n} HTTP/1.1\r\nhost: cart\r\ncontent-length: 10\r\n\r\nhalf");
                stream.write_all(head.as_bytes()).await?;
                drop(stream);
            }
            let path = format!("/{n}");
            let record = pair.out_seen.one(|x| x.uri.path() == path).await?;
            assert_eq!(
                record.reason.map(|r| r.as_str()),
                Some("caller-gone"),
                "{record:?}"
            );
            assert_eq!(record.status, 499);
        }
        let metrics = pair.web.encode_metrics();
        assert!(metrics.contains("response_code=\"499\""), "{metrics}");
        assert!(!metrics.contains("mesh_ejections_total{"), "{metrics}");
        others_are_well(&pair).await?;
        assert_eq!(in_flight(&pair.web), 0);
    }
    Ok(())
}

/// A pair one of whose agents has a short limit for bodies.
async fn short_body(inbound: bool) -> Result<Pair> {
    // Called for `cart` first.
    let calls = std::cell::Cell::new(0);
    let build = move |b: Builder| {
        let mut limits = Limits::default();
        if (calls.replace(calls.get() + 1) == 0) == inbound {
            limits.body = Duration::from_millis(30);
        }
        b.limits(limits)
    };
    Pair::with(AppProtocol::Http1, origin(tell).await?, build, |to| {
        to.strict = false;
    })
    .await
}

#[tokio::test]
async fn a_body_that_stalls_is_a_408_and_harms_no_endpoint() -> Result {
    for inbound in [false, true] {
        let pair = short_body(inbound).await?;
        let address = if inbound { pair.inbound } else { pair.outbound };
        for head in [
            "content-length: 10\r\n\r\nhalf",
            "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "content-length: 10\r\n\r\n",
        ] {
            let request = format!("POST /half HTTP/1.1\r\nhost: cart\r\n{head}");
            // More often than an endpoint may fail.
            for _ in 0..3 {
                let answer = raw(address, request.as_bytes()).await?;
                assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
                assert!(answer.contains("x-mesh-reason: body-timeout"), "{answer}");
                assert!(answer.contains("connection: close"), "{answer}");
            }
        }
        recorded(&pair, address, 408, "body-timeout").await?;
        let mesh = if inbound { &pair.cart } else { &pair.web };
        let metrics = mesh.encode_metrics();
        assert!(metrics.contains("response_flags=\"SI\""), "{metrics}");
        // The other agent's limit is longer: through the mesh, too, it is one answer.
        let answer = raw(
            pair.outbound,
            b"POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 9\r\n\r\n",
        );
        let answer = answer.await?;
        assert!(answer.contains("x-mesh-reason: body-timeout"), "{answer}");
        let metrics = pair.web.encode_metrics();
        assert!(!metrics.contains("mesh_ejections_total{"), "{metrics}");
        assert_eq!(in_flight(&pair.web), 0);
    }
    Ok(())
}

/// Over HTTP/2 the other streams of the connection continue.
#[tokio::test]
async fn a_body_that_stalls_takes_its_stream_alone() -> Result {
    let pair = short_body(false).await?;
    let mut caller = h2(pair.outbound).await?;
    let silent = || {
        Body::new(http_body_util::StreamBody::new(
            futures_util::stream::pending::<std::io::Result<::http_body::Frame<bytes::Bytes>>>(),
        ))
    };
    for n in 0..3 {
        let half = Request::post(format!("http://cart/{n}")).body(silent())?;
        let answer = soon(caller.send_request(half)).await??;
        assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
        assert_eq!(answer.headers()["x-mesh-reason"], "body-timeout");
        let answer = soon(caller.send_request(get("http://cart/whole"))).await??;
        assert_eq!(text(answer).await?, "GET /whole HTTP/1.1 0");
    }
    assert_eq!(in_flight(&pair.web), 0);
    Ok(())
}

/// An HTTP/2 server that breaks each stream off is at fault, and is not asked again and again.
#[tokio::test]
async fn a_stream_that_the_server_resets_is_not_repeated() -> Result {
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let app = crate::support::origin_h2(move |_| {
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async {
            let broken = futures_util::stream::iter([Err::<::http_body::Frame<bytes::Bytes>, _>(
                std::io::Error::other("broken"),
            )]);
            ::http::Response::new(Body::new(http_body_util::StreamBody::new(broken)))
        }
    })
    .await?;
    let pair = Pair::new(AppProtocol::Http2, app).await?;
    for n in 1..=3 {
        let answer = pair.web.client().send(get("http://cart/")).await;
        // The head may or may not have gone before.
        let head = answer.status();
        let whole = answer.into_body().collect().await.is_ok();
        assert!(!whole || head == StatusCode::BAD_GATEWAY, "{head}");
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), n);
    }
    let record = pair.in_seen.one(|_| true).await?;
    assert_eq!(record.reason.map(|r| r.as_str()), Some("reset"));
    Ok(())
}

/// Names that callers make up are in no label (CVE-2025-43915).
#[tokio::test]
async fn no_caller_makes_a_series() -> Result {
    let pair = pair(false).await?;
    let mut caller = h1(pair.outbound).await?;
    let mut size = 0;
    for n in 0..50 {
        let mut request = get(&format!("/{n}"));
        request
            .headers_mut()
            .insert("host", HeaderValue::from_str(&format!("host-{n}"))?);
        caller.ready().await?;
        let answer = caller.send_request(request).await?;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        text(answer).await?;
        if n == 1 {
            size = pair.web.encode_metrics().lines().count();
        }
    }
    assert_eq!(pair.web.encode_metrics().lines().count(), size);
    Ok(())
}

/// Requests that wait for one HTTP/2 connection to be opened share its failure; each alone would take
/// its time after the other.
#[tokio::test]
async fn a_burst_for_an_endpoint_that_is_silent_fails_together() -> Result {
    let mut limits = Limits::default();
    limits.endpoint_handshake = Duration::from_millis(300);
    let build = move |b: Builder| b.limits(limits.clone());
    let pair = Pair::with(AppProtocol::Http2, origin(tell).await?, build, |_| {}).await?;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let ops = pair
        .world
        .service("silent", AppProtocol::Http2, &[silent.local_addr()?])?;
    let mut snapshot = pair.web.snapshot().clone();
    pair.pusher.push(ops).await?;
    while snapshot.load().generation() < 2 {
        soon(snapshot.changed()).await?;
    }
    let mut burst = tokio::task::JoinSet::new();
    let start = tokio::time::Instant::now();
    for _ in 0..100 {
        let client = pair.web.client();
        burst.spawn(async move { client.send(get("http://silent/")).await.status() });
    }
    while let Some(status) = soon(burst.join_next()).await? {
        assert_eq!(status?, StatusCode::GATEWAY_TIMEOUT);
    }
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    Ok(())
}

/// A server that goes away says what it has not looked at, and that is sent again.
#[tokio::test]
async fn what_a_goaway_leaves_out_is_sent_again() -> Result {
    // Speaks HTTP/2 by hand: settings, then GOAWAY with nothing processed, once.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let app = listener.local_addr()?;
    let behind = crate::support::origin_h2(tell).await?;
    tokio::spawn(async move {
        let (mut first, _) = listener.accept().await?;
        let mut preface = [0; 24];
        first.read_exact(&mut preface).await?;
        first.write_all(b"\0\0\0\x04\0\0\0\0\0").await?;
        // Waits for a HEADERS frame.
        loop {
            let mut head = [0; 9];
            first.read_exact(&mut head).await?;
            let len = usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; len];
            first.read_exact(&mut payload).await?;
            if head[3] == 1 {
                break;
            }
        }
        first
            .write_all(b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0")
            .await?;
        let (mut next, _) = listener.accept().await?;
        let mut to = TcpStream::connect(behind).await?;
        tokio::io::copy_bidirectional(&mut next, &mut to).await
    });
    let pair = Pair::new(AppProtocol::Http2, app).await?;
    let mut request = get("http://cart/unseen");
    *request.method_mut() = Method::POST;
    let answer = soon(pair.web.client().send(request)).await?;
    assert_eq!(answer.status(), StatusCode::OK, "{:?}", answer.headers());
    assert_eq!(text(answer).await?, "POST /unseen HTTP/2.0 0");
    Ok(())
}
