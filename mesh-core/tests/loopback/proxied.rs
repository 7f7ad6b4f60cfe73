//! PROXY headers: whose connection it is that a proxy passes on, and to which servers that is said.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use inmesh_core::accept::proxy::{Ends, Header, Parsed, TrustedProxies, parse};
use inmesh_core::balance::{CheckKind, CheckPolicy, ConsistentHash, HashKey, Strategy};
use inmesh_core::identify::PeerInfo;
use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey, ProxyVersion, ServiceName};
use inmesh_core::pki::tls;
use inmesh_core::runtime::{InboundListener, OutboundListener};
use inmesh_core::snapshot::Op;
use inmesh_core::telemetry::Exchange;
use inmesh_core::traffic::{Blocks, Target, TrafficPolicy};
use inmesh_core::{Body, Reason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::{TlsConnector, client};
use tower::service_fn as tower_fn;

use crate::support::{
    Pair, Result, echo, for_cart, get, h1, h2, origin, plain_cart, push, raw, serve_outbound, soon,
    tell, text,
};

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 198.51.100.1 5000 443\r\n";
const NAMED: &str = "203.0.113.7:5000";
const ASK: &[u8] = b"GET /a HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n";

fn proxies(block: &str) -> Result<TrustedProxies> {
    Ok(TrustedProxies::new([block.parse()?])?)
}

/// A pair whose inbound listener takes plaintext, from proxies of a block.
async fn proxied(protocol: AppProtocol, block: &str) -> Result<Pair> {
    let at = origin(tell).await?;
    let listener = |to: &mut InboundListener| {
        to.strict = false;
        to.proxies = proxies(block).ok();
    };
    Pair::with(protocol, at, |b| b, listener).await
}

fn policy(blocks: Blocks) -> Result<Op> {
    let shop = Namespace::new("shop")?;
    let key = ObjectKey::new(Kind::TrafficPolicy, &shop, "cart")?;
    let cart = Target::Service(ServiceName::new(&shop, "cart")?, None);
    Ok(Op::put(TrafficPolicy::new(key, vec![cart], blocks)?))
}

/// Says of `cart` that its servers read headers.
async fn announce(pair: &Pair, version: ProxyVersion) -> Result {
    let mut blocks = Blocks::default();
    blocks.proxy_protocol = Some(version);
    push(pair, vec![policy(blocks)?]).await
}

fn v2(named: &str) -> Result<Vec<u8>> {
    let ends = Ends::new(named.parse()?, "198.51.100.1:443".parse()?);
    Ok(Header::Proxied(ends).write(ProxyVersion::V2, ends))
}

/// A plain server whose connections begin with headers. It answers with what its connection's header
/// has said, and which of its connections that is.
struct Server {
    at: SocketAddr,
    /// How many connections are open.
    open: watch::Receiver<usize>,
    /// How many headers have come.
    headers: watch::Receiver<usize>,
}

pub(crate) async fn header_of(stream: &mut TcpStream) -> Result<Header> {
    let mut bytes = Vec::new();
    loop {
        bytes.push(soon(stream.read_u8()).await??);
        if let Parsed::Whole(header, _) = parse(&bytes)? {
            return Ok(header);
        }
    }
}

impl Server {
    async fn start(http2: bool) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let at = listener.local_addr()?;
        let (count, open) = watch::channel(0);
        let (came, headers) = watch::channel(0);
        let nth = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (count, came, nth) = (count.clone(), came.clone(), Arc::clone(&nth));
                tokio::spawn(async move {
                    let header = header_of(&mut stream).await.expect("a header");
                    let nth = nth.fetch_add(1, Ordering::Relaxed);
                    came.send_modify(|headers| *headers += 1);
                    count.send_modify(|open| *open += 1);
                    let said = match header {
                        Header::Proxied(ends) => format!("{} {nth}", ends.source),
                        _ => format!("local {nth}"),
                    };
                    let answer = service_fn(move |_: Request<Incoming>| {
                        let answer = Response::new(Body::from(said.clone()));
                        async move { Ok::<_, std::convert::Infallible>(answer) }
                    });
                    let io = TokioIo::new(stream);
                    let _ended = match http2 {
                        true => {
                            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                                .serve_connection(io, answer)
                                .await
                        }
                        false => {
                            hyper::server::conn::http1::Builder::new()
                                .serve_connection(io, answer)
                                .await
                        }
                    };
                    count.send_modify(|open| *open -= 1);
                });
            }
        });
        Ok(Self { at, open, headers })
    }
}

fn was_refused(seen: &Exchange) -> bool {
    seen.reason == Some(Reason::ProxyHeader)
}

// === In ===

/// Both versions, in one piece and in many, on a listener that takes plaintext; what follows in the same
/// packet is the request.
#[tokio::test]
async fn an_inbound_listener_knows_callers_by_what_its_proxy_says() -> Result {
    let pair = proxied(AppProtocol::Detect, "127.0.0.0/8").await?;
    let v6 = "[2001:db8::7]:5000";
    for (header, named) in [
        (V1.to_vec(), NAMED),
        (v2(NAMED)?, NAMED),
        (v2(v6)?, v6),
        (
            b"PROXY TCP6 ::ffff:203.0.113.7 ::1 5000 443\r\n".to_vec(),
            NAMED,
        ),
    ] {
        let said = raw(pair.inbound, &[&header, ASK].concat()).await?;
        assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
        let before = pair.in_seen.all().len();
        let mut stream = TcpStream::connect(pair.inbound).await?;
        stream.set_nodelay(true)?;
        for byte in header.iter().chain(ASK) {
            stream.write_all(&[*byte]).await?;
            tokio::task::yield_now().await;
        }
        let mut said = String::new();
        soon(stream.read_to_string(&mut said)).await??;
        assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
        for seen in &pair.in_seen.all()[before - 1..] {
            assert_eq!(seen.caller, Some(named.parse()?));
            assert_eq!(seen.uri.path(), "/a");
        }
    }
    Ok(())
}

/// A proxy's own connections and those that it cannot name keep their address.
#[tokio::test]
async fn local_and_unknown_keep_the_real_address() -> Result {
    let pair = proxied(AppProtocol::Http1, "127.0.0.1").await?;
    let own = Ends::new(pair.inbound, pair.inbound);
    for header in [
        Header::Local.write(ProxyVersion::V2, own),
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 203.0.113.7 198.51.100.1 5000 443\r\n".to_vec(),
    ] {
        let mut stream = TcpStream::connect(pair.inbound).await?;
        stream.write_all(&[&header, ASK].concat()).await?;
        let address = stream.local_addr()?;
        let mut said = String::new();
        soon(stream.read_to_string(&mut said)).await??;
        assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
        let last = pair.in_seen.all().pop().ok_or("a record")?;
        assert_eq!(last.caller, Some(address));
    }
    Ok(())
}

/// A peer behind a proxy: a connection that begins with a header, and mutual TLS after it.
async fn peer_behind(pair: &Pair, to: SocketAddr) -> Result<client::TlsStream<TcpStream>> {
    let (_, reader) = pair.world.identity("web")?;
    let config = tls::client_config(reader, pair.world.crypto(), &[b"http/1.1"]);
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(V1).await?;
    let connecting = TlsConnector::from(config).connect(tls::server_name(), stream);
    Ok(soon(connecting).await??)
}

/// TLS proves the ID of the peer; the header says where it is.
#[tokio::test]
async fn a_header_changes_the_address_of_a_peer_and_not_its_identity() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    let app = tower_fn(|request: Request<Body>| async move {
        let peer = request.extensions().get::<Arc<PeerInfo>>();
        let said = peer.map(|peer| format!("{} {:?}", peer.address, peer.id()));
        Ok::<_, std::io::Error>(Response::new(Body::from(said.unwrap_or_default())))
    });
    let (cart, trusted) = (pair.cart.clone(), proxies("127.0.0.1")?);
    tokio::spawn(async move { cart.serve_proxied(listener, trusted, app).await });
    let mut stream = peer_behind(&pair, at).await?;
    stream.write_all(ASK).await?;
    let mut said = String::new();
    soon(stream.read_to_string(&mut said)).await??;
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    assert!(said.contains(NAMED) && said.contains("/sa/web"), "{said}");
    let seen = pair.in_seen.one(|seen| seen.status == 200).await?;
    assert_eq!(seen.caller, Some(NAMED.parse()?));
    assert!(
        seen.tls_peer
            .is_some_and(|id| id.as_str().ends_with("/sa/web"))
    );
    let listed = pair.cart.status();
    let leads = listed.listeners.iter().find(|l| l.address == at);
    let leads = &leads.ok_or("it is listed")?.leads;
    assert!(
        leads.ends_with(", PROXY headers from 127.0.0.1/32"),
        "{leads}"
    );
    Ok(())
}

/// Whatever is no header closes the connection without a byte, is recorded and counted.
#[tokio::test]
async fn a_connection_without_its_header_is_closed() -> Result {
    let pair = proxied(AppProtocol::Detect, "127.0.0.1").await?;
    for sent in [
        ASK.to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PROXY TCP4 203.0.113.7 198.51.100.1 5000\r\n".to_vec(),
        [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x04", ASK].concat(),
        [b"\r\n", V1].concat(),
    ] {
        let before = pair.in_seen.all().len();
        let mut stream = TcpStream::connect(pair.inbound).await?;
        stream.write_all(&sent).await?;
        let mut said = Vec::new();
        // What was not read resets it.
        let _reset = soon(stream.read_to_end(&mut said)).await?;
        assert_eq!(said, b"", "{}", sent.escape_ascii());
        let seen = pair.in_seen.one(was_refused).await?;
        assert_eq!((seen.status, seen.caller.is_some()), (0, true));
        assert_eq!(pair.in_seen.all().len(), before + 1);
    }
    // One that ends in the middle of it, and one that only asks whether something listens.
    let mut cut = TcpStream::connect(pair.inbound).await?;
    cut.write_all(&V1[..20]).await?;
    drop(cut);
    let mut mute = TcpStream::connect(pair.inbound).await?;
    mute.shutdown().await?;
    assert_eq!(soon(mute.read(&mut [0; 8])).await??, 0);
    let is_cut = |seen: &Exchange| {
        seen.detail
            .as_ref()
            .is_some_and(|d| d.contains("after 20 bytes"))
    };
    pair.in_seen.one(is_cut).await?;
    let metrics = pair.cart.encode_metrics();
    for (reason, count) in [("proxy-header-invalid", 5), ("proxy-header-cut", 1)] {
        let line = format!("{{direction=\"inbound\",reason=\"{reason}\"}} {count}");
        assert!(metrics.contains(&line), "{metrics}");
    }
    Ok(())
}

/// Of an address that is not listed nothing is read, however good its header is.
#[tokio::test]
async fn a_header_from_elsewhere_is_not_believed() -> Result {
    let pair = proxied(AppProtocol::Http1, "192.0.2.0/24").await?;
    let outside = OutboundListener::by_authority(AppProtocol::Http1).behind(proxies("::1")?);
    let outbound = serve_outbound(&pair.web, outside).await?;
    for (at, seen) in [(pair.inbound, &pair.in_seen), (outbound, &pair.out_seen)] {
        let mut stream = TcpStream::connect(at).await?;
        let own = stream.local_addr()?;
        stream.write_all(&[V1, ASK].concat()).await?;
        let mut said = Vec::new();
        let _reset = soon(stream.read_to_end(&mut said)).await?;
        assert_eq!(said, b"");
        assert_eq!(seen.one(was_refused).await?.caller, Some(own));
    }
    let untrusted = "{direction=\"outbound\",reason=\"proxy-untrusted\"} 1";
    assert!(pair.web.encode_metrics().contains(untrusted));
    Ok(())
}

/// Without the setting a header is what it is for any server: no request.
#[tokio::test]
async fn a_listener_without_the_setting_reads_no_header() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let outbound = serve_outbound(
        &pair.web,
        OutboundListener::by_authority(AppProtocol::Http1),
    )
    .await?;
    let said = raw(outbound, &[V1, ASK].concat()).await?;
    assert!(said.starts_with("HTTP/1.1 400 "), "{said}");
    Ok(())
}

/// The named address is that by which the balance knows a caller.
#[tokio::test]
async fn callers_are_kept_apart_by_the_address_that_is_named() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let mut servers = Vec::new();
    for _ in 0..4 {
        servers.push(origin(tell).await?);
    }
    let mut blocks = Blocks::default();
    let by = ConsistentHash::by(HashKey::SourceIp);
    blocks.strategy = Some(Strategy::ConsistentHash(by));
    let mut ops = vec![policy(blocks)?];
    ops.extend(plain_slices(&servers)?);
    push(&pair, ops).await?;
    let to = OutboundListener::by_authority(AppProtocol::Http1).behind(proxies("127.0.0.1")?);
    let outbound = serve_outbound(&pair.web, to).await?;
    let mut used = HashSet::new();
    for n in 0..24 {
        let mut of_one = HashSet::new();
        for port in [1_000, 2_000] {
            let named = format!("203.0.113.{n}:{port}");
            let said = raw(outbound, &[&v2(&named)?, ASK].concat()).await?;
            assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
            let named: SocketAddr = named.parse()?;
            let seen = pair.out_seen.one(|seen| seen.caller == Some(named)).await?;
            of_one.insert(*seen.attempts.last().ok_or("an endpoint")?);
        }
        assert_eq!(of_one.len(), 1, "{of_one:?}");
        used.extend(of_one);
    }
    assert!(used.len() > 1, "{used:?}");
    Ok(())
}

fn plain_slices(servers: &[SocketAddr]) -> Result<Vec<Op>> {
    use inmesh_core::model::{Host, Slice, SliceHost, SlicePort, Transport};
    let shop = Namespace::new("shop")?;
    let cart = ServiceName::new(&shop, "cart")?;
    let slice = |(n, at): (usize, &SocketAddr)| {
        Ok(Op::put(Slice::new(
            ObjectKey::new(Kind::EndpointSlice, &shop, &format!("cart-{n}"))?,
            cart.clone(),
            vec![SlicePort::new("main", at.port())],
            vec![SliceHost::new(Host::Address(at.ip()))],
            Transport::Plain,
        )))
    };
    servers.iter().enumerate().map(slice).collect()
}

// === Out ===

/// Each connection of a caller has connections of its own, which its requests share and which end with
/// it, over both versions of HTTP.
#[tokio::test]
async fn a_server_knows_the_caller_of_each_request() -> Result {
    for (http2, version) in [(false, ProxyVersion::V1), (true, ProxyVersion::V2)] {
        let mut server = Server::start(http2).await?;
        let protocol = match http2 {
            true => AppProtocol::Http2,
            false => AppProtocol::Http1,
        };
        let pair = Pair::new(protocol, server.at).await?;
        plain_cart(&pair, server.at).await?;
        announce(&pair, version).await?;
        let mut callers = Vec::new();
        let mut connections = HashSet::new();
        for _ in 0..3 {
            let stream = TcpStream::connect(pair.outbound).await?;
            let own = stream.local_addr()?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            let connection = tokio::spawn(connection);
            let mut of_one = HashSet::new();
            for _ in 0..3 {
                let answer = soon(sender.send_request(for_cart("/"))).await??;
                of_one.insert(text(answer).await?);
            }
            assert_eq!(
                of_one.len(),
                1,
                "its requests share a connection: {of_one:?}"
            );
            let said = of_one.into_iter().next().ok_or("one")?;
            let (source, nth) = said.split_once(' ').ok_or("two")?;
            assert_eq!(source, own.to_string());
            connections.insert(nth.to_owned());
            callers.push((sender, connection));
        }
        assert_eq!(connections.len(), 3);
        assert_eq!(*server.open.borrow_and_update(), 3);
        drop(callers);
        soon(server.open.wait_for(|open| *open == 0)).await??;
    }
    Ok(())
}

/// Streams of one caller of HTTP/2 are all its own, and no others are among them.
#[tokio::test]
async fn streams_of_two_callers_are_on_two_connections() -> Result {
    let server = Server::start(true).await?;
    let pair = Pair::new(AppProtocol::Http2, server.at).await?;
    plain_cart(&pair, server.at).await?;
    announce(&pair, ProxyVersion::V2).await?;
    let (one, other) = (h2(pair.outbound).await?, h2(pair.outbound).await?);
    let ask = |sender: &hyper::client::conn::http2::SendRequest<Body>| {
        let mut sender = sender.clone();
        async move {
            let mut request = get("http://cart/");
            *request.version_mut() = Version::HTTP_2;
            text(soon(sender.send_request(request)).await??).await
        }
    };
    let all = futures_util::future::try_join_all((0..20).map(|n| match n % 2 {
        0 => ask(&one),
        _ => ask(&other),
    }));
    let all = all.await?;
    let of = |odd: usize| all.iter().skip(odd).step_by(2).collect::<HashSet<_>>();
    assert_eq!((of(0).len(), of(1).len()), (1, 1), "{all:?}");
    assert!(of(0).is_disjoint(&of(1)));
    Ok(())
}

/// What a program of this process sends is for no other caller; neither is a check.
#[tokio::test]
async fn requests_of_the_process_itself_and_checks_say_so() -> Result {
    for (version, said) in [
        (ProxyVersion::V1, "127.0.0.1:"),
        (ProxyVersion::V2, "local "),
    ] {
        let mut server = Server::start(false).await?;
        let pair = Pair::new(AppProtocol::Http1, server.at).await?;
        plain_cart(&pair, server.at).await?;
        let mut blocks = Blocks::default();
        blocks.proxy_protocol = Some(version);
        let mut check = CheckPolicy::new(CheckKind::Tcp);
        check.interval = std::time::Duration::from_millis(1_000);
        blocks.check = Some(Arc::new(check));
        push(&pair, vec![policy(blocks)?]).await?;
        // The check is a connection of its own.
        soon(server.headers.wait_for(|headers| *headers > 0)).await??;
        for _ in 0..2 {
            let answer = soon(pair.web.client().send(get("http://cart/"))).await?;
            let answer = text(answer).await?;
            assert!(answer.starts_with(said), "{answer}");
        }
    }
    Ok(())
}

/// The header of an opaque connection comes before its bytes.
#[tokio::test]
async fn an_opaque_connection_begins_with_its_header() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    let pair = Pair::new(AppProtocol::Tcp, at).await?;
    plain_cart(&pair, at).await?;
    announce(&pair, ProxyVersion::V1).await?;
    let cart = ServiceName::new(&Namespace::new("shop")?, "cart")?;
    let to = OutboundListener::to(cart, 80, AppProtocol::Tcp);
    let outbound = serve_outbound(&pair.web, to).await?;
    let mut caller = TcpStream::connect(outbound).await?;
    caller.write_all(b"hello").await?;
    let (mut server, _) = soon(listener.accept()).await??;
    let ends = Ends::new(caller.local_addr()?, outbound);
    assert_eq!(header_of(&mut server).await?, Header::Proxied(ends));
    let mut heard = [0; 5];
    soon(server.read_exact(&mut heard)).await??;
    assert_eq!(&heard, b"hello");
    Ok(())
}

// === Both ===

/// From a proxy through two agents to the application: each hop passes on whose connection it is, over
/// mutual TLS between the agents, and policy sees the identity of the agent.
#[tokio::test]
async fn an_address_travels_from_a_proxy_through_the_mesh_to_the_application() -> Result {
    for (protocol, http2) in [(AppProtocol::Http1, false), (AppProtocol::Http2, true)] {
        let server = Server::start(http2).await?;
        let pair = Pair::with(
            protocol,
            server.at,
            |b| b,
            |to| {
                to.proxies = proxies("127.0.0.0/8").ok();
                to.to_app = Some(ProxyVersion::V1);
            },
        )
        .await?;
        announce(&pair, ProxyVersion::V2).await?;
        let to = OutboundListener::by_authority(AppProtocol::Http1).behind(proxies("127.0.0.1")?);
        let outbound = serve_outbound(&pair.web, to).await?;
        let said = raw(outbound, &[V1, ASK].concat()).await?;
        assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
        assert!(said.contains(&format!("{NAMED} 0")), "{said}");
        for seen in [&pair.out_seen, &pair.in_seen] {
            let seen = seen.one(|seen| seen.status == 200).await?;
            assert_eq!(seen.caller, Some(NAMED.parse()?));
            assert!(seen.tls_peer.is_some());
        }
        // The next caller is another, also through the agent of the application.
        let said = raw(outbound, &[&v2("203.0.113.8:9")?, ASK].concat()).await?;
        assert!(said.contains("203.0.113.8:9 1"), "{said}");
    }
    Ok(())
}

/// The same of opaque bytes.
#[tokio::test]
async fn an_opaque_application_is_shown_its_caller() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    let pair = Pair::with(
        AppProtocol::Tcp,
        at,
        |b| b,
        |to| {
            to.strict = false;
            *to = to.clone().announcing(ProxyVersion::V2);
        },
    )
    .await?;
    let cart = ServiceName::new(&Namespace::new("shop")?, "cart")?;
    let outbound =
        serve_outbound(&pair.web, OutboundListener::to(cart, 80, AppProtocol::Tcp)).await?;
    let mut caller = TcpStream::connect(outbound).await?;
    caller.write_all(b"hello").await?;
    let (mut app, _) = soon(listener.accept()).await??;
    let header = header_of(&mut app).await?;
    let Header::Proxied(ends) = header else {
        return Err(format!("{header:?}").into());
    };
    assert_eq!(ends.destination, pair.inbound);
    let seen = pair.in_seen.one(|_| true);
    let mut heard = [0; 5];
    soon(app.read_exact(&mut heard)).await??;
    drop((caller, app));
    assert_eq!(seen.await?.caller, Some(ends.source));
    Ok(())
}

/// An agent that is sent headers and does not read them refuses the connection: nothing falls back.
#[tokio::test]
async fn a_peer_that_reads_no_header_takes_no_request() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    announce(&pair, ProxyVersion::V2).await?;
    let mut sender = h1(pair.outbound).await?;
    let answer = soon(sender.send_request(for_cart("/"))).await??;
    assert_eq!(answer.status(), 503);
    let failed = pair
        .in_seen
        .one(|seen| seen.reason == Some(Reason::TlsFailed))
        .await?;
    assert_eq!(failed.status, 0);
    // The policy is taken back, and connections are as they were.
    let key = ObjectKey::new(Kind::TrafficPolicy, &Namespace::new("shop")?, "cart")?;
    push(&pair, vec![Op::Remove(key)]).await?;
    let answer = soon(sender.send_request(for_cart("/"))).await??;
    assert_eq!(answer.status(), 200);
    Ok(())
}

/// The display of both listeners, as the status has them.
#[tokio::test]
async fn a_listener_says_what_it_reads_and_sends() -> Result {
    let (at, trusted) = (echo().await?, proxies("10.0.0.0/8")?);
    let inbound = InboundListener::new(at, AppProtocol::Tcp).behind(trusted.clone());
    let shown = inbound.announcing(ProxyVersion::V1).to_string();
    let end = "tcp, strict peers, PROXY headers from 10.0.0.0/8, PROXY V1 to it";
    assert!(shown.ends_with(end), "{shown}");
    let outbound = OutboundListener::by_authority(AppProtocol::Http1).behind(trusted);
    let shown = outbound.to_string();
    assert_eq!(shown, "by authority, http, PROXY headers from 10.0.0.0/8");
    Ok(())
}
