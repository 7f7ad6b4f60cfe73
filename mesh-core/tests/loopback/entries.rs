//! Hosts outside the mesh by their own names: found out when they are asked for, and bounded.

use std::net::SocketAddr;
use std::sync::Arc;

use ::http::{Request, StatusCode};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use inmesh_core::discover::{Pusher, pushed};
use inmesh_core::model::{
    AppProtocol, Host, HostAddress, HostPattern, Namespace, Outside, OutsidePort, Resolution,
    Service, ServiceName, ServicePort, Transport,
};
use inmesh_core::runtime::{Limits, OutboundListener};
use inmesh_core::snapshot::{Op, OutboundTrafficPolicy};
use inmesh_core::testing::World;
use inmesh_core::{Body, Mesh};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::connections::client_hello;
use crate::support::{Result, echo, serve_outbound, soon};

/// The names that a stand-in of a resolver knows; any other has no address.
const KNOWN: &str = "known";

/// A mesh whose names are resolved to loopback where they hold [`KNOWN`].
async fn mesh(hosts: usize, policy: OutboundTrafficPolicy) -> Result<(Mesh, Arc<Pusher>)> {
    let world = World::new()?;
    let (pusher, source) = pushed("test");
    let mut limits = Limits::default();
    limits.outside_hosts = hosts;
    let mesh = world
        .mesh("web")?
        .limits(limits)
        .outbound_traffic_policy(policy);
    let mesh = mesh.source(source).start()?;
    let pusher = Arc::new(pusher);
    pusher.push(Vec::new()).await?;
    mesh.ready().await;
    let (mut snapshot, resolver) = (mesh.snapshot().clone(), Arc::clone(&pusher));
    tokio::spawn(async move {
        loop {
            let now = snapshot.load();
            let unknown: Vec<Host> = { now.resolutions() }
                .filter(|(_, found)| found.is_none())
                .map(|(host, _)| host.clone())
                .collect();
            let found = |host: &Host| match host.to_string().contains(KNOWN) {
                true => vec![HostAddress::new([127, 0, 0, 1].into())],
                false => Vec::new(),
            };
            let ops = unknown
                .iter()
                .map(|host| Op::Resolve(host.clone(), found(host).into()));
            let ops: Vec<_> = ops.collect();
            if !ops.is_empty() && resolver.push(ops).await.is_err() {
                return;
            }
            if !snapshot.changed().await {
                return;
            }
        }
    });
    Ok((mesh, pusher))
}

/// An entry for hosts with one port, which has the number of a server there.
fn entry(hosts: &[&str], port: u16, protocol: AppProtocol, target: u16) -> Result<Op> {
    let name = ServiceName::new(&Namespace::new("shop")?, "out")?;
    let hosts: std::result::Result<Vec<_>, _> = hosts.iter().map(|h| HostPattern::new(h)).collect();
    let of_host = OutsidePort::new(port, Transport::Plain).at(target);
    let outside = Outside::new(hosts?, Resolution::Dynamic, vec![of_host]);
    let ports = vec![ServicePort::new("main", port, protocol)];
    Ok(Op::put(Service::new(name, ports).outside(outside)))
}

async fn put(mesh: &Mesh, pusher: &Pusher, op: Op) -> Result {
    let mut snapshot = mesh.snapshot().clone();
    let before = snapshot.load().generation();
    pusher.push(vec![op]).await?;
    while snapshot.load().generation() == before {
        assert!(soon(snapshot.changed()).await?);
    }
    Ok(())
}

/// A server that answers with the host that it was asked for.
async fn server() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(async |request: Request<hyper::body::Incoming>| {
                let host = request.headers().get("host").cloned();
                let mut answer = ::http::Response::new(Body::empty());
                if let Some(host) = host {
                    answer.headers_mut().insert("x-host", host);
                }
                Ok::<_, std::io::Error>(answer)
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok(at)
}

/// The status of an answer, and its reason or the host that the server was asked for.
async fn ask(mesh: &Mesh, authority: &str) -> Result<(u16, String)> {
    let request = Request::get(format!("http://{authority}/")).body(Body::empty())?;
    let answer = soon(mesh.client().send(request)).await?;
    let said = match answer.status() {
        StatusCode::OK => "x-host",
        _ => "x-mesh-reason",
    };
    let said = answer
        .headers()
        .get(said)
        .map(|said| said.to_str())
        .transpose()?;
    Ok((
        answer.status().as_u16(),
        said.unwrap_or_default().to_owned(),
    ))
}

#[tokio::test]
async fn a_host_is_found_out_when_it_is_asked_for_and_only_where_an_entry_is_for_it() -> Result {
    let (mesh, pusher) = mesh(8, OutboundTrafficPolicy::RegistryOnly).await?;
    let at = server().await?;
    let hosts = ["*.known.test", "*.gone.test"];
    put(
        &mesh,
        &pusher,
        entry(&hosts, 80, AppProtocol::Http1, at.port())?,
    )
    .await?;
    for (authority, wanted) in [
        ("a.known.test", (200, "a.known.test")),
        ("a.known.test", (200, "a.known.test")),
        ("b.a.known.test", (200, "b.a.known.test")),
        ("known.test", (404, "unknown-host")),
        ("a.known.test.other", (404, "unknown-host")),
        ("a.known.test:81", (404, "no-route")),
        ("a.gone.test", (503, "no-endpoint")),
    ] {
        let (status, said) = ask(&mesh, authority).await?;
        assert_eq!((status, said.as_str()), wanted, "{authority}");
    }
    assert_eq!(mesh.snapshot().load().names().count(), 3);
    Ok(())
}

/// Of two places both are in use: the third host is refused once, and has one then.
#[tokio::test]
async fn hosts_that_are_asked_for_are_bounded_and_those_in_use_stay_longest() -> Result {
    let (mesh, pusher) = mesh(2, OutboundTrafficPolicy::RegistryOnly).await?;
    let at = server().await?;
    put(
        &mesh,
        &pusher,
        entry(&["*.known.test"], 80, AppProtocol::Http1, at.port())?,
    )
    .await?;
    for (host, wanted) in [
        ("a", 200),
        ("b", 200),
        ("c", 503),
        // It is used again, so it is `b` that makes place.
        ("a", 200),
        ("c", 200),
        ("a", 200),
    ] {
        let (status, said) = ask(&mesh, &format!("{host}.known.test")).await?;
        assert_eq!(status, wanted, "{host}: {said}");
        assert!(status == 200 || said == "overflow", "{said}");
        assert!(mesh.snapshot().load().names().count() <= 2);
    }
    let now = mesh.snapshot().load();
    let known: Vec<_> = { now.names() }.map(ToString::to_string).collect();
    assert!(
        known.contains(&"a.known.test".to_owned()) && known.contains(&"c.known.test".to_owned())
    );
    Ok(())
}

#[tokio::test]
async fn a_captured_connection_is_led_by_its_authority_or_the_name_of_its_handshake() -> Result {
    let (mesh, pusher) = mesh(8, OutboundTrafficPolicy::RegistryOnly).await?;
    let http = server().await?;
    let to = OutboundListener::by_original_address(AppProtocol::Detect);
    let listener = serve_outbound(&mesh, to).await?;
    let port = listener.port();
    put(
        &mesh,
        &pusher,
        entry(&["*.known.test"], port, AppProtocol::Detect, http.port())?,
    )
    .await?;
    for (host, wanted) in [("a.known.test", "200"), ("known.test", "404")] {
        let mut stream = TcpStream::connect(listener).await?;
        let head = format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut said = [0; 12];
        soon(stream.read_exact(&mut said)).await??;
        assert_eq!(&said[9..], wanted.as_bytes(), "{host}");
    }
    let echo = echo().await?;
    put(
        &mesh,
        &pusher,
        entry(&["*.known.test"], port, AppProtocol::Tcp, echo.port())?,
    )
    .await?;
    for (host, reached) in [("b.known.test", true), ("other.test", false)] {
        let hello = client_hello(host)?;
        let mut stream = TcpStream::connect(listener).await?;
        stream.write_all(&hello).await?;
        let mut back = vec![0; hello.len()];
        let read = soon(stream.read_exact(&mut back)).await?;
        assert_eq!(read.is_ok() && back == hello, reached, "{host}");
    }
    Ok(())
}

#[tokio::test]
async fn a_host_that_no_document_names_is_reached_only_where_any_is_allowed() -> Result {
    let at = server().await?;
    for (policy, wanted) in [
        (OutboundTrafficPolicy::AllowAny, 200),
        (OutboundTrafficPolicy::RegistryOnly, 404),
    ] {
        let (mesh, _pusher) = mesh(8, policy).await?;
        let authority = format!("www.known.test:{}", at.port());
        assert_eq!(ask(&mesh, &authority).await?.0, wanted, "{policy:?}");
        // Loopback is this process and its host.
        assert_eq!(ask(&mesh, &at.to_string()).await?.0, 404, "{policy:?}");
    }
    Ok(())
}

/// A tunnel leads to a host that an entry is for, and where any is allowed to others too.
#[tokio::test]
async fn a_tunnel_leads_to_a_host_outside() -> Result {
    let echo = echo().await?;
    let known = format!("www.known.test:{}", echo.port());
    for (policy, reached) in [
        (OutboundTrafficPolicy::AllowAny, true),
        (OutboundTrafficPolicy::RegistryOnly, false),
    ] {
        let (mesh, pusher) = mesh(8, policy).await?;
        let of = entry(&["*.entry.known.test"], 443, AppProtocol::Tcp, echo.port())?;
        put(&mesh, &pusher, of).await?;
        let to = OutboundListener::by_authority(AppProtocol::Detect);
        let listener = serve_outbound(&mesh, to).await?;
        for (to, wanted) in [
            ("a.entry.known.test:443", true),
            ("a.entry.known.test:444", false),
            (&*known, reached),
        ] {
            let mut stream = TcpStream::connect(listener).await?;
            let head = format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\nping");
            stream.write_all(head.as_bytes()).await?;
            let mut answer = vec![0; 12];
            soon(stream.read_exact(&mut answer)).await??;
            assert_eq!(answer == b"HTTP/1.1 200", wanted, "{policy:?} {to}");
            if wanted {
                while !answer.ends_with(b"ping") {
                    answer.push(soon(stream.read_u8()).await??);
                }
            }
        }
    }
    Ok(())
}
