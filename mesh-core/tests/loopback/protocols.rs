//! The declared protocol holds, whatever a peer offers; and where a connection was meant to go.

use std::net::SocketAddr;
use std::sync::Arc;

use ::http::{Request, Response, StatusCode};
use inmesh_core::Body;
use inmesh_core::discover::pushed;
use inmesh_core::model::{AppProtocol, Namespace, Service, ServiceName, ServicePort};
use inmesh_core::pki::tls;
use inmesh_core::runtime::{Application, InboundListener, OutboundListener};
use inmesh_core::snapshot::Op;
use inmesh_core::testing::World;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsConnector, client};
use tower::service_fn;

use crate::support::{
    Pair, Result, Seen, for_cart, get, h1, origin, serve_outbound, soon, tell, text,
};

/// A connection of `web` to an inbound listener, with an ALPN of its choice.
async fn offer(
    world: &World,
    address: SocketAddr,
    alpn: &[&[u8]],
) -> Result<client::TlsStream<TcpStream>> {
    let (_, reader) = world.identity("web")?;
    let config = tls::client_config(reader, world.crypto(), alpn);
    let stream = TcpStream::connect(address).await?;
    let connector = TlsConnector::from(config);
    Ok(soon(connector.connect(tls::server_name(), stream)).await??)
}

/// An application that keeps what it reads.
async fn keeping() -> Result<(SocketAddr, tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (sender, heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = Vec::new();
            let _end = stream.read_to_end(&mut bytes).await;
            let _open = sender.send(bytes);
        }
    });
    Ok((address, heard))
}

/// A peer that offers opaque bytes to a port of HTTP would step around canonical paths, limits and
/// policies on paths: it is refused in the handshake, and the application sees no byte.
#[tokio::test]
async fn a_port_of_http_is_never_opaque_to_a_peer() -> Result {
    for protocol in [AppProtocol::Http1, AppProtocol::Http2, AppProtocol::Grpc] {
        let (app, mut heard) = keeping().await?;
        let pair = Pair::new(protocol, app).await?;
        let error = offer(&pair.world, pair.inbound, &[b"mesh-tcp/1"]).await;
        let error = error.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("NoApplicationProtocol"), "{error}");
        let record = pair.in_seen.one(|_| true).await?;
        assert_eq!(record.reason, Some(inmesh_core::Reason::TlsFailed));
        assert!(heard.try_recv().is_err(), "{protocol}");
    }
    Ok(())
}

#[tokio::test]
async fn a_port_of_opaque_bytes_is_never_http_to_a_peer() -> Result {
    let (app, mut heard) = keeping().await?;
    let pair = Pair::new(AppProtocol::Tcp, app).await?;
    for alpn in [&b"h2"[..], b"http/1.1"] {
        let error = offer(&pair.world, pair.inbound, &[alpn]).await;
        let error = error.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("NoApplicationProtocol"), "{error}");
    }
    // Without ALPN the declaration decides.
    let mut stream = offer(&pair.world, pair.inbound, &[]).await?;
    stream.write_all(b"GET /").await?;
    stream.shutdown().await?;
    assert_eq!(soon(heard.recv()).await?, Some(b"GET /".to_vec()));
    Ok(())
}

/// A service in this process sees no wish to leave HTTP but the one for a WebSocket, and one that leaves
/// it all the same has not answered.
#[tokio::test]
async fn a_service_leaves_http_only_as_it_may() -> Result {
    let world = World::new()?;
    let cart = world.mesh("cart")?.start()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let app = service_fn(async |request: Request<Body>| {
        let switches = request.uri().path() == "/switch";
        let can = request.extensions().get::<hyper::upgrade::OnUpgrade>();
        let mut names: Vec<_> = request.headers().keys().map(|n| n.as_str()).collect();
        names.sort_unstable();
        let seen = format!("{} {}", names.join(" "), can.is_some());
        let mut response = Response::new(Body::from(seen));
        if switches {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        }
        Ok::<_, std::io::Error>(response)
    });
    tokio::spawn(async move { cart.serve(listener, app).await });
    for (path, fields, wanted) in [
        ("/", "", "host false"),
        (
            "/",
            "connection: upgrade\r\nupgrade: websocket",
            "connection host upgrade true",
        ),
        ("/", "connection: upgrade\r\nupgrade: h2c", "host false"),
        (
            "/",
            "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMA",
            "host false",
        ),
        (
            "/",
            "connection: upgrade\r\nupgrade: websocket\r\nupgrade: websocket",
            "host false",
        ),
        ("/", "upgrade: websocket", "host false"),
        ("/", "connection: upgrade\r\nupgrade: \u{e9}", "host false"),
        ("/switch", "", "502"),
        ("/switch", "connection: upgrade\r\nupgrade: h2c", "502"),
    ] {
        let mut stream = offer(&world, address, &[b"http/1.1"]).await?;
        let head = format!("GET {path} HTTP/1.1\r\nhost: cart\r\n{fields}");
        let head = format!("{}\r\n\r\n", head.trim_end());
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        let ends = format!("\r\n\r\n{wanted}");
        while !answer.ends_with(ends.as_bytes()) && !answer.starts_with(b"HTTP/1.1 502") {
            answer.push(soon(stream.read_u8()).await??);
        }
        let failed = answer.starts_with(b"HTTP/1.1 502");
        assert_eq!(failed, wanted == "502", "{fields}");
    }
    Ok(())
}

/// What is not declared is what the peer says.
#[tokio::test]
async fn a_port_without_a_declaration_takes_what_is_offered() -> Result {
    let pair = Pair::new(AppProtocol::Detect, origin(tell).await?).await?;
    for alpn in [&b"h2"[..], b"http/1.1", b"mesh-tcp/1"] {
        let stream = offer(&pair.world, pair.inbound, &[alpn]).await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
    }
    Ok(())
}

/// `cart` of a pair, with a virtual address on loopback at the port of the outbound listener.
async fn addressed(pair: &Pair, protocol: AppProtocol) -> Result<SocketAddr> {
    let to = OutboundListener::by_original_address(protocol);
    let address = serve_outbound(&pair.web, to).await?;
    let name = ServiceName::new(&Namespace::new("shop")?, "cart")?;
    let mut ops = pair.world.service("cart", protocol, &[pair.inbound])?;
    // The same Service on the port that the application connects to.
    let port = ServicePort::new("main", address.port(), protocol);
    let service = Service::new(name, vec![port]).with_addresses([address.ip()]);
    ops[0] = Op::put(service);
    pair.pusher.push(ops).await?;
    Ok(address)
}

#[tokio::test]
async fn a_connection_goes_to_the_service_of_its_original_address() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let address = addressed(&pair, AppProtocol::Http1).await?;
    // By the address, and not by the Host.
    let mut request = for_cart("/a");
    let host = "elsewhere.example".parse()?;
    request.headers_mut().insert("host", host);
    let answer = h1(address).await?.send_request(request).await?;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(text(answer).await?, "GET /a HTTP/1.1 0");
    Ok(())
}

#[tokio::test]
async fn opaque_bytes_go_to_the_service_of_their_original_address_or_nowhere() -> Result {
    let (app, mut heard) = keeping().await?;
    let pair = Pair::new(AppProtocol::Tcp, app).await?;
    let address = addressed(&pair, AppProtocol::Tcp).await?;
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"abc").await?;
    stream.shutdown().await?;
    assert_eq!(soon(heard.recv()).await?, Some(b"abc".to_vec()));
    // An address that no Service has.
    let to = OutboundListener::by_original_address(AppProtocol::Tcp);
    let unknown = serve_outbound(&pair.web, to).await?;
    let mut stream = TcpStream::connect(unknown).await?;
    let mut rest = Vec::new();
    let _reset = soon(stream.read_to_end(&mut rest)).await?;
    let record = pair.out_seen.one(|x| x.reason.is_some()).await?;
    let detail = record.detail.unwrap_or_default();
    assert!(detail.contains("has no port"), "{detail}");
    Ok(())
}

/// The application's port is the one that the caller connected to.
#[tokio::test]
async fn an_application_is_found_by_the_port_that_was_asked_for() -> Result {
    let world = World::new()?;
    let cart = world.mesh("cart")?.start()?;
    let (pusher, source) = pushed("test");
    let web = world.mesh("web")?.source(source).start()?;
    // The agent listens on one loopback address, the application on another, same port.
    let app = origin(tell).await?;
    let listener = TcpListener::bind(("127.0.0.2", app.port())).await?;
    let inbound = listener.local_addr()?;
    let to = InboundListener::new(Application::SamePort(app.ip()), AppProtocol::Http1);
    tokio::spawn(async move { cart.serve_behind(listener, to).await });
    let ops = world.service("cart", AppProtocol::Http1, &[inbound])?;
    pusher.push(ops).await?;
    web.ready().await;
    let answer = web.client().send(get("http://cart/x")).await;
    assert_eq!(text(answer).await?, "GET /x HTTP/1.1 0");
    Ok(())
}

/// A caller whose port would lead back to the listener, or to another port of this process, is refused
/// before its handshake, and the application sees no byte.
#[tokio::test]
async fn no_caller_is_led_to_a_port_of_the_process_itself() -> Result {
    let world = World::new()?;
    for (app, beside) in [("127.0.0.1", false), ("127.0.0.3", true)] {
        let seen = Seen::new();
        let exchanges = Arc::clone(&seen) as _;
        let cart = world.mesh("cart")?.exchanges(exchanges).start()?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let inbound = listener.local_addr()?;
        let app = Application::SamePort(app.parse()?);
        let own = beside.then_some(inbound.port());
        let to = InboundListener::new(app, AppProtocol::Http1)
            .permissive()
            .beside(own);
        tokio::spawn(async move { cart.serve_behind(listener, to).await });
        let mut stream = TcpStream::connect(inbound).await?;
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n")
            .await?;
        let mut rest = Vec::new();
        let _reset = soon(stream.read_to_end(&mut rest)).await?;
        assert!(rest.is_empty(), "{rest:?}");
        let record = seen.one(|x| x.reason.is_some()).await?;
        assert_eq!(record.reason, Some(inmesh_core::Reason::NoRoute));
    }
    Ok(())
}
