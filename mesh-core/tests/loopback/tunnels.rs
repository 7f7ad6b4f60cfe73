//! Opaque connections: opaque from the start, or after an upgrade.

use std::time::Duration;

use ::http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use inmesh_core::Body;
use inmesh_core::model::{AppProtocol, Namespace, ServiceName};
use inmesh_core::runtime::{InboundListener, Limits, OutboundListener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{
    Pair, Result, for_cart, get, h1, h2, in_flight, origin, origin_h2, raw, serve_outbound, soon,
    tell, text,
};

/// Says what it has heard once the caller has said all.
pub(crate) async fn listener_that_answers_at_the_end() -> Result<std::net::SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut heard = Vec::new();
                stream.read_to_end(&mut heard).await?;
                heard.reverse();
                stream.write_all(&heard).await
            });
        }
    });
    Ok(address)
}

async fn tcp_listener(pair: &Pair) -> Result<std::net::SocketAddr> {
    let service = ServiceName::new(&Namespace::new("shop")?, "cart")?;
    serve_outbound(
        &pair.web,
        OutboundListener::to(service, 80, AppProtocol::Tcp),
    )
    .await
}

#[tokio::test]
async fn an_opaque_connection_may_be_closed_one_way_first() -> Result {
    let pair = Pair::new(AppProtocol::Tcp, listener_that_answers_at_the_end().await?).await?;
    let mut stream = TcpStream::connect(tcp_listener(&pair).await?).await?;
    stream.write_all(b"abc").await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await??;
    assert_eq!(answer, b"cba");
    for (seen, peer) in [(&pair.out_seen, "cart"), (&pair.in_seen, "web")] {
        let record = seen.one(|_| true).await?;
        assert_eq!((record.request_bytes, record.response_bytes), (3, 3));
        assert_eq!(record.tls_peer, Some(pair.world.id(peer)?));
        assert_eq!(record.reason, None);
    }
    let metrics = pair.web.encode_metrics();
    assert!(
        metrics.contains("istio_tcp_connections_closed_total"),
        "{metrics}"
    );
    assert_eq!(in_flight(&pair.web), 0);
    Ok(())
}

/// Switches to a protocol that echoes.
async fn upgrading() -> Result<std::net::SocketAddr> {
    origin(async |mut request: Request<Incoming>| {
        let mut response = Response::new(Body::empty());
        let Some(protocol) = request.headers().get(header::UPGRADE).cloned() else {
            return tell(request).await;
        };
        tokio::spawn(async move {
            let upgraded = hyper::upgrade::on(&mut request).await.ok()?;
            let mut io = TokioIo::new(upgraded);
            let mut bytes = [0; 64];
            loop {
                let n = io.read(&mut bytes).await.ok()?;
                if n == 0 {
                    return Some(());
                }
                io.write_all(&bytes[..n]).await.ok()?;
            }
        });
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let upgrade = HeaderValue::from_static("upgrade");
        response.headers_mut().insert(header::CONNECTION, upgrade);
        response.headers_mut().insert(header::UPGRADE, protocol);
        response
    })
    .await
}

fn upgrade(to: &'static str) -> Request<Body> {
    let mut request = for_cart("/chat");
    let headers = request.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(to));
    request
}

#[tokio::test]
async fn an_upgraded_connection_may_pause_and_ends_with_its_record() -> Result {
    let mut limits = Limits::default();
    limits.header = Duration::from_millis(20);
    limits.idle = Duration::from_millis(20);
    let build = move |b: crate::support::Builder| b.limits(limits.clone());
    let pair = Pair::with(AppProtocol::Http1, upgrading().await?, build, |_| {}).await?;
    let mut caller = h1(pair.outbound).await?;
    let answer = caller.send_request(upgrade("websocket")).await?;
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers()[header::UPGRADE], "websocket");
    let mut io = TokioIo::new(hyper::upgrade::on(answer).await?);
    assert_eq!(in_flight(&pair.web), 1, "it is on its way until it ends");
    for _ in 0..3 {
        io.write_all(b"ping").await?;
        let mut bytes = [0; 4];
        soon(io.read_exact(&mut bytes)).await??;
        assert_eq!(&bytes, b"ping");
        // Another connection without a byte ends after 20 ms: as long as both limits.
        let late = raw(pair.outbound, b"GET /slow HTTP/1.1\r\n").await?;
        assert!(late.starts_with("HTTP/1.1 408"), "{late}");
    }
    io.shutdown().await?;
    let mut rest = Vec::new();
    soon(io.read_to_end(&mut rest)).await??;
    assert_eq!(rest, b"");
    for seen in [&pair.out_seen, &pair.in_seen] {
        let record = seen.one(|x| x.uri.path() == "/chat").await?;
        assert_eq!((record.status, record.reason), (101, None));
        assert_eq!((record.request_bytes, record.response_bytes), (12, 12));
    }
    assert_eq!(in_flight(&pair.web), 0);
    Ok(())
}

/// No policy would see the requests inside it, and a server may read another wish than we do.
#[tokio::test]
async fn no_wish_but_the_one_for_a_websocket_is_passed_on() -> Result {
    let app = upgrading().await?;
    let pair = Pair::with(AppProtocol::Http1, app, |b| b, |to| to.strict = false).await?;
    for wish in [
        &b"upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__"[..],
        b"upgrade: websocket, h2c",
        b"upgrade: websocket\r\nupgrade: h2c",
        b"upgrade: websocket\r\nupgrade: websocket",
        b"upgrade: h2c\xff",
        b"upgrade: websocket\xff",
        b"upgrade: \"websocket\"",
        b"upgrade: websocket/13",
        b"upgrade: HTTP/2.0",
        b"upgrade: TLS/1.2",
        b"upgrade: anything",
        b"upgrade: ",
        b"upgrade: websocket\r\ncontent-length: 2",
    ] {
        for address in [pair.outbound, pair.inbound] {
            let head =
                b"GET / HTTP/1.1\r\nhost: cart\r\nconnection: upgrade, http2-settings, close\r\n";
            let body: &[u8] = if wish.ends_with(b"2") { b"hi" } else { b"" };
            let answer = raw(address, &[head, wish, b"\r\n\r\n", body].concat()).await?;
            let wish = String::from_utf8_lossy(wish);
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{wish}: {answer}");
        }
    }
    let answer = raw(
        pair.outbound,
        b"POST / HTTP/1.1\r\nhost: cart\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
          content-length: 0\r\n\r\nGET /%00 HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n",
    );
    let answer = answer.await?;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_switches_otherwise_than_it_was_asked_has_not_answered() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let app = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = [0; 1024];
            let _n = stream.read(&mut bytes).await;
            let head =
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
            let _n = stream.write_all(head).await;
        }
    });
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    let unasked = pair.web.client().send(get("http://cart/")).await;
    assert_eq!(unasked.status(), StatusCode::BAD_GATEWAY);
    let mut caller = h1(pair.outbound).await?;
    let other = caller.send_request(upgrade("websocket")).await?;
    assert_eq!(other.status(), StatusCode::BAD_GATEWAY);
    Ok(())
}

/// What follows a request to upgrade is a request of its own until the server has switched.
#[tokio::test]
async fn a_request_behind_an_upgrade_that_was_refused_is_decided_on() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let both = b"GET /ws HTTP/1.1\r\nhost: cart\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n\
        GET /%00 HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n";
    let answer = raw(pair.outbound, both).await?;
    assert!(
        answer.contains("200 OK") && answer.contains("400 Bad Request"),
        "{answer}"
    );
    Ok(())
}

#[tokio::test]
async fn the_drain_cuts_what_has_left_http() -> Result {
    let mut limits = Limits::default();
    limits.drain_lead = Duration::ZERO;
    limits.drain_deadline = Duration::from_millis(10);
    let build = move |b: crate::support::Builder| b.limits(limits.clone());
    let pair = Pair::with(AppProtocol::Http1, upgrading().await?, build, |_| {}).await?;
    let mut caller = h1(pair.outbound).await?;
    let answer = caller.send_request(upgrade("websocket")).await?;
    let mut io = TokioIo::new(hyper::upgrade::on(answer).await?);
    soon(pair.web.drain()).await?;
    let mut rest = Vec::new();
    let _cut = soon(io.read_to_end(&mut rest)).await?;
    let record = pair.out_seen.one(|_| true).await?;
    assert_eq!(record.detail.as_deref(), Some("reset: drained"));
    Ok(())
}

/// A tunnel is a connection as any other: many of them leave no place for others.
#[tokio::test]
async fn an_upgraded_connection_keeps_its_place_until_it_ends() -> Result {
    let mut limits = Limits::default();
    limits.connections = 1;
    let build = move |b: crate::support::Builder| b.limits(limits.clone());
    let pair = Pair::with(AppProtocol::Http1, upgrading().await?, build, |_| {}).await?;
    let mut caller = h1(pair.outbound).await?;
    let answer = caller.send_request(upgrade("websocket")).await?;
    let mut io = TokioIo::new(hyper::upgrade::on(answer).await?);
    // Once the caller's HTTP has ended, nothing but the tunnel holds the place.
    soon(caller.ready()).await?.unwrap_err();
    io.write_all(b"ping").await?;
    soon(io.read_exact(&mut [0; 4])).await??;

    let next = tokio::spawn(raw(
        pair.outbound,
        b"GET /%00 HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n",
    ));
    for _ in 0..100 {
        io.write_all(b"ping").await?;
        soon(io.read_exact(&mut [0; 4])).await??;
    }
    assert!(!next.is_finished());
    assert!(pair.out_seen.all().is_empty(), "{:?}", pair.out_seen.all());
    io.shutdown().await?;
    soon(io.read_to_end(&mut Vec::new())).await??;
    let answer = soon(next).await???;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let order: Vec<_> = pair.out_seen.all().iter().map(|x| x.status).collect();
    assert_eq!(order, [101, 400]);
    Ok(())
}

/// Answers as soon as it has heard the first bytes, and closes without reading the rest.
async fn early(answer: &'static [u8]) -> Result<std::net::SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _first = stream.read_u8().await?;
                stream.write_all(answer).await
            });
        }
    });
    Ok(address)
}

/// An application that has said all need not hear its caller out.
#[tokio::test]
async fn an_answer_is_heard_although_its_server_closes_while_the_caller_sends() -> Result {
    // What the kernel has not sent yet is lost where a server closes with bytes unread.
    static ANSWER: [u8; 16_000] = [b'a'; 16_000];
    let pair = Pair::new(AppProtocol::Tcp, early(&ANSWER).await?).await?;
    let door = tcp_listener(&pair).await?;
    for _ in 0..20 {
        let (mut read, mut write) = TcpStream::connect(door).await?.into_split();
        let sending = tokio::spawn(async move {
            let chunk = [b'x'; 8_192];
            for _ in 0..256 {
                if write.write_all(&chunk).await.is_err() {
                    break;
                }
            }
            write
        });
        let mut answer = vec![0; ANSWER.len()];
        soon(read.read_exact(&mut answer)).await??;
        assert_eq!(answer, ANSWER);
        drop(soon(sending).await??);
    }
    Ok(())
}

/// The end of one side is no end of the other, over HTTP too.
#[tokio::test]
async fn a_caller_that_has_nothing_more_to_say_still_gets_its_answer() -> Result {
    let slow = origin(async |request: Request<Incoming>| {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        tell(request).await
    })
    .await?;
    let pair = Pair::with(AppProtocol::Http1, slow, |b| b, |to| to.strict = false).await?;
    for address in [pair.outbound, pair.inbound] {
        for request in [
            &b"GET /a HTTP/1.1\r\nhost: cart\r\n\r\n"[..],
            b"POST /a HTTP/1.1\r\nhost: cart\r\ncontent-length: 2\r\n\r\nhi",
        ] {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(request).await?;
            stream.shutdown().await?;
            let mut answer = Vec::new();
            soon(stream.read_to_end(&mut answer)).await??;
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.contains("/a HTTP/1.1"), "{answer}");
        }
    }
    Ok(())
}

/// A reset, and not the end of one side, is how a caller goes while its answer is made.
#[tokio::test]
async fn a_caller_that_resets_its_connection_has_gone_at_once() -> Result {
    let (asked, mut was_asked) = tokio::sync::mpsc::unbounded_channel();
    let never = origin(move |_: Request<Incoming>| {
        let asked = asked.clone();
        async move {
            let (held, until) = tokio::sync::oneshot::channel::<()>();
            let _asked = asked.send(held);
            // Dropped with the connection that it came on.
            until.await.ok();
            Response::new(Body::empty())
        }
    })
    .await?;
    let pair = Pair::with(AppProtocol::Http1, never, |b| b, |to| to.strict = false).await?;
    for (address, seen) in [
        (pair.outbound, &pair.out_seen),
        (pair.inbound, &pair.in_seen),
    ] {
        let before = seen.all().len();
        let mut stream = TcpStream::connect(address).await?;
        let request = b"GET /reset HTTP/1.1\r\nhost: cart\r\n\r\n";
        stream.write_all(request).await?;
        let mut held = soon(was_asked.recv()).await?.ok_or("it was asked")?;
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        drop(stream);
        soon(held.closed()).await?;
        let gone = async {
            while seen.all().len() == before {
                tokio::task::yield_now().await;
            }
        };
        soon(gone).await?;
        let record = seen.all().swap_remove(before);
        assert_eq!(record.reason.map(|r| r.as_str()), Some("caller-gone"));
    }
    Ok(())
}

/// Greets, and repeats what it hears.
async fn greeter() -> Result<std::net::SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(b"220 hello\r\n").await?;
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    Ok(address)
}

/// The way of a caller that waits for a greeting, on a port for which nothing is declared.
async fn greeted(door: std::net::SocketAddr) -> Result {
    let mut stream = TcpStream::connect(door).await?;
    let mut hello = [0; 11];
    soon(stream.read_exact(&mut hello)).await??;
    assert_eq!(&hello, b"220 hello\r\n");
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
    let mut echo = [0; 18];
    soon(stream.read_exact(&mut echo)).await??;
    assert_eq!(&echo, b"GET / HTTP/1.1\r\n\r\n");
    Ok(())
}

#[tokio::test]
async fn a_server_that_speaks_first_is_opaque_wherever_nothing_is_declared() -> Result {
    let permissive = |to: &mut InboundListener| to.strict = false;
    let pair = Pair::with(AppProtocol::Detect, greeter().await?, |b| b, permissive).await?;
    let service = ServiceName::new(&Namespace::new("shop")?, "cart")?;
    let to = OutboundListener::to(service, 80, AppProtocol::Detect);
    let door = serve_outbound(&pair.web, to).await?;
    let port = |pair: &Pair| {
        let status = pair.web.status();
        status
            .services
            .iter()
            .map(|s| s.server_first)
            .collect::<Vec<_>>()
    };
    assert_eq!(port(&pair), [false]);
    greeted(door).await?;
    let record = pair.out_seen.one(|_| true).await?;
    assert_eq!((record.request_bytes, record.response_bytes), (18, 29));
    assert_eq!(port(&pair), [true]);
    // Known from then on, and without an identity too.
    greeted(door).await?;
    let listener = |pair: &Pair| {
        let listeners = pair.cart.status().listeners;
        listeners.iter().map(|l| l.server_first).collect::<Vec<_>>()
    };
    assert_eq!(listener(&pair), [false]);
    greeted(pair.inbound).await?;
    assert_eq!(listener(&pair), [true]);
    Ok(())
}

/// A caller that connects before it has something to say is no other than one that does at once.
#[tokio::test]
async fn a_caller_that_speaks_late_is_looked_at_as_ever() -> Result {
    let mut limits = Limits::default();
    limits.detect = Duration::from_millis(1);
    let build = move |b: crate::support::Builder| b.limits(limits.clone());
    let permissive = |to: &mut InboundListener| to.strict = false;
    let app = origin(tell).await?;
    let pair = Pair::with(AppProtocol::Detect, app, build, permissive).await?;
    let service = ServiceName::new(&Namespace::new("shop")?, "cart")?;
    let to = OutboundListener::to(service, 80, AppProtocol::Detect);
    let door = serve_outbound(&pair.web, to).await?;
    for address in [door, pair.outbound, pair.inbound] {
        let mut late = TcpStream::connect(address).await?;
        // Others pass it, so that the wait has ended and the server was opened.
        for _ in 0..20 {
            let other = raw(
                address,
                b"GET /b HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n",
            );
            assert!(other.await?.contains("GET /b HTTP/1.1 0"));
        }
        late.write_all(b"GET /a HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n")
            .await?;
        let mut answer = String::new();
        soon(late.read_to_string(&mut answer)).await??;
        assert!(answer.contains("GET /a HTTP/1.1 0"), "{answer}");
    }
    Ok(())
}

/// A server of HTTP/2 may say its SETTINGS before the preface has come: it does not speak first.
#[tokio::test]
async fn a_server_of_http2_is_none_that_speaks_first() -> Result {
    let app = origin_h2(async |request: Request<Incoming>| {
        let names = request.headers().keys().map(|name| name.as_str());
        Response::new(Body::from(names.collect::<Vec<_>>().join(" ")))
    })
    .await?;
    let mut limits = Limits::default();
    limits.detect = Duration::from_millis(1);
    let build = move |b: crate::support::Builder| b.limits(limits.clone());
    let permissive = |to: &mut InboundListener| to.strict = false;
    let pair = Pair::with(AppProtocol::Detect, app, build, permissive).await?;
    let service = ServiceName::new(&Namespace::new("shop")?, "cart")?;
    let to = OutboundListener::to(service, 80, AppProtocol::Detect);
    let door = serve_outbound(&pair.web, to).await?;
    for address in [door, pair.inbound] {
        let late = TcpStream::connect(address).await?;
        // Others pass it, so that the wait has ended and the server was opened and heard.
        for _ in 0..20 {
            let mut other = h2(address).await?;
            let answer = soon(other.send_request(get("http://cart/"))).await??;
            assert_eq!(answer.status(), 200);
        }
        let (mut caller, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(late)).await?;
        tokio::spawn(connection);
        let mut request = get("http://cart/");
        let claim = HeaderValue::from_static("a");
        request
            .headers_mut()
            .insert("x-forwarded-client-cert", claim);
        let answer = soon(caller.send_request(request)).await??;
        let names = text(answer).await?;
        assert!(!names.contains("client-cert"), "{names}");
    }
    let first = pair.web.status().services.iter().any(|s| s.server_first);
    assert!(!first, "its port is opaque from then on");
    Ok(())
}

/// It is a server that refuses to be opaque, as a policy about paths does.
#[tokio::test]
async fn a_caller_is_not_ended_with_a_server_that_takes_nothing_opaque() -> Result {
    let app = TcpListener::bind("127.0.0.1:0").await?;
    let address = app.local_addr()?;
    let (ended, mut wait) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        // The first connection is the trial, and ends at once.
        if app.accept().await.is_ok() {
            let _ = ended.send(()).await;
        }
        while let Ok((mut stream, _)) = app.accept().await {
            let mut head = [0; 512];
            let _length = stream.read(&mut head).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nlate";
            let _gone = stream.write_all(answer).await;
        }
    });
    let mut limits = Limits::default();
    limits.detect = Duration::from_millis(1);
    let build = move |b: crate::support::Builder| b.limits(limits.clone());
    let permissive = |to: &mut InboundListener| to.strict = false;
    let pair = Pair::with(AppProtocol::Detect, address, build, permissive).await?;
    let mut late = TcpStream::connect(pair.inbound).await?;
    soon(wait.recv()).await?;
    late.write_all(b"GET / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    soon(late.read_to_string(&mut answer)).await??;
    assert!(answer.ends_with("late"), "{answer}");
    Ok(())
}

/// Its requests would be neither decided on nor cleaned of claims.
#[tokio::test]
async fn a_stranger_does_not_choose_to_be_opaque() -> Result {
    let app = origin(async |request: Request<Incoming>| {
        let names = request.headers().keys().map(|name| name.as_str());
        Response::new(Body::from(names.collect::<Vec<_>>().join(" ")))
    })
    .await?;
    let permissive = |to: &mut InboundListener| to.strict = false;
    let pair = Pair::with(AppProtocol::Detect, app, |b| b, permissive).await?;
    for begin in [
        "\r\nGET /",
        "get /",
        "M-SEARCH /",
        "GET\t /",
        "\n\nGET /",
        "ABCDEFGHIJKLMNOPQRST /",
        "\r\nGET /ü",
        "get /ü",
        "M-SEARCH /ü",
    ] {
        let request = format!(
            "{begin} HTTP/1.1\r\nhost: cart\r\nx-forwarded-client-cert: a\r\nconnection: close\r\n\r\n"
        );
        let answer = raw(pair.inbound, request.as_bytes()).await?;
        assert!(answer.starts_with("HTTP/1.1 "), "{begin:?}: {answer}");
        assert!(!answer.contains("client-cert"), "{begin:?}: {answer}");
    }
    let records = pair.in_seen.all();
    let tcp =
        |x: &&inmesh_core::telemetry::Exchange| x.protocol == inmesh_core::telemetry::Protocol::Tcp;
    assert_eq!(records.iter().filter(tcp).count(), 0, "{records:?}");
    Ok(())
}

/// What no text begins is opaque, and a peer of the mesh may say that anything is; a request is refused there.
#[tokio::test]
async fn no_request_comes_in_opaque_bytes_where_nothing_is_declared() -> Result {
    for (declared, refused) in [(AppProtocol::Detect, true), (AppProtocol::Tcp, false)] {
        for stranger in [true, false] {
            let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let app = listener.local_addr()?;
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let mut all = Vec::new();
                    let _broke = stream.read_to_end(&mut all).await;
                    let _test_has_ended = heard.send(String::from_utf8_lossy(&all).into_owned());
                }
            });
            let permissive = |to: &mut InboundListener| to.strict = false;
            let pair = Pair::with(declared, app, |b| b, permissive).await?;
            let door = match stranger {
                true => pair.inbound,
                false => tcp_listener(&pair).await?,
            };
            let mut stream = TcpStream::connect(door).await?;
            let request = "\u{feff}GET / HTTP/1.1\r\nx-forwarded-client-cert: a\r\n\r\n";
            stream.write_all(request.as_bytes()).await?;
            stream.shutdown().await?;
            let said = soon(hears.recv())
                .await?
                .ok_or("the application has heard")?;
            let wanted = if refused { "" } else { request };
            assert_eq!(said, wanted, "{declared:?} {stranger}");
            let record = pair.in_seen.one(|_| true).await?;
            let reason = refused.then_some("invalid-request");
            assert_eq!(record.reason.map(|r| r.as_str()), reason);
        }
    }
    Ok(())
}
