//! Endpoints outside the mesh: TLS by name, and names with addresses of both families.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use ::http::{Request, StatusCode, Version, header};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use inmesh_core::discover::{Pusher, pushed};
use inmesh_core::model::{
    AppProtocol, Host, HostAddress, Kind, Namespace, ObjectKey, Roots, Service, ServiceName,
    ServicePort, Slice, SliceHost, SlicePort, Transport,
};
use inmesh_core::origination::{BackendTlsPolicy, CaConfigMap, Targets, Vouched};
use inmesh_core::pki::tls::AltName;
use inmesh_core::runtime::OutboundListener;
use inmesh_core::snapshot::Op;
use inmesh_core::testing::World;
use inmesh_core::{Body, Mesh};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::{Result, serve_outbound, soon};

/// Answers every request with 200 until the connection ends.
async fn answer<T>(io: T) -> Result
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(async |_: Request<hyper::body::Incoming>| {
        Ok::<_, std::io::Error>(::http::Response::new(Body::empty()))
    });
    Ok(http1::Builder::new()
        .serve_connection(TokioIo::new(io), service)
        .await?)
}

/// A client whose Service `out` has one endpoint.
async fn client(
    world: &World,
    host: Host,
    port: u16,
    transport: Transport,
) -> Result<(Mesh, Pusher)> {
    client_of(world, host, port, AppProtocol::Http1, transport).await
}

async fn client_of(
    world: &World,
    host: Host,
    port: u16,
    protocol: AppProtocol,
    transport: Transport,
) -> Result<(Mesh, Pusher)> {
    let (pusher, source) = pushed("test");
    let mesh = world.mesh("web")?.source(source).start()?;
    let shop = Namespace::new("shop")?;
    let out = ServiceName::new(&shop, "out")?;
    let ports = vec![ServicePort::new("main", 80, protocol)];
    let slice = Slice::new(
        ObjectKey::new(Kind::EndpointSlice, &shop, "out")?,
        out.clone(),
        vec![SlicePort::new("main", port)],
        vec![SliceHost::new(host)],
        transport,
    );
    let service = Service::new(out, ports);
    pusher.push(vec![Op::put(service), Op::put(slice)]).await?;
    mesh.ready().await;
    Ok((mesh, pusher))
}

/// A TLS server of HTTP/1.1 that chooses among these ALPNs, with the file of its root.
async fn server(world: &World, dir: &Path, alpn: &[&[u8]]) -> Result<(SocketAddr, Transport)> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec!["outside.test".to_owned()])?.signed_by(&key, &ca)?;
    let provider = Arc::clone(world.crypto().provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key.serialize_der().try_into()?)?;
    config.alpn_protocols = alpn.iter().map(|alpn| alpn.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move { answer(acceptor.accept(stream).await?).await });
        }
    });
    let file = dir.join(format!("{}.pem", at.port()));
    std::fs::write(&file, ca.pem())?;
    let roots = Roots::File(file.display().to_string().into());
    let transport = Transport::tls("outside.test", roots);
    Ok((at, transport))
}

async fn ask(mesh: &Mesh) -> Result<(StatusCode, String)> {
    let request = Request::get("http://out/").body(Body::empty())?;
    let answer = soon(mesh.client().send(request)).await?;
    let reason = answer.headers().get("x-mesh-reason").cloned();
    let reason = reason.map(|r| r.to_str().map(str::to_owned)).transpose()?;
    Ok((answer.status(), reason.unwrap_or_default()))
}

#[tokio::test]
async fn an_outside_host_is_verified_by_its_name_and_the_roots_that_are_named() -> Result {
    let dir = tempfile::tempdir()?;
    let world = World::new()?;
    let (at, transport) = server(&world, dir.path(), &[]).await?;
    let Transport::Tls { roots: own, .. } = transport else {
        return Err("it speaks TLS".into());
    };
    let other = dir.path().join("other.pem");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let stranger = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    std::fs::write(&other, stranger.pem())?;
    let other = Roots::File(other.display().to_string().into());

    for (name, roots, wanted) in [
        ("outside.test", &own, (StatusCode::OK, "")),
        (
            "elsewhere.test",
            &own,
            (StatusCode::SERVICE_UNAVAILABLE, "tls-failed"),
        ),
        (
            "outside.test",
            &other,
            (StatusCode::SERVICE_UNAVAILABLE, "tls-failed"),
        ),
    ] {
        let transport = Transport::tls(name, roots.clone());
        let (mesh, _pusher) = client(&world, Host::Address(at.ip()), at.port(), transport).await?;
        let (status, reason) = ask(&mesh).await?;
        assert_eq!((status, reason.as_str()), wanted, "{name} {roots}");
    }
    Ok(())
}

/// A server without ALPN speaks HTTP/1.1, and one that is offered both may choose it: then a request of
/// HTTP/2 is sent in the older form, but for gRPC, which has none. Opaque bytes name no protocol.
#[tokio::test]
async fn a_server_that_does_not_choose_http2_is_spoken_to_in_http11() -> Result {
    let world = World::new()?;
    let dir = tempfile::tempdir()?;
    for alpn in [&[][..], &[&b"http/1.1"[..]]] {
        let (at, transport) = server(&world, dir.path(), alpn).await?;
        for protocol in [AppProtocol::Detect, AppProtocol::Http2] {
            let host = Host::Address(at.ip());
            let (mesh, _pusher) =
                client_of(&world, host, at.port(), protocol, transport.clone()).await?;
            for (content_type, wanted) in [
                ("text/plain", (StatusCode::OK, None)),
                ("application/grpc", (StatusCode::OK, Some("tls-failed"))),
                ("text/plain", (StatusCode::OK, None)),
            ] {
                let request = Request::post("http://out/")
                    .version(Version::HTTP_2)
                    .header(header::CONTENT_TYPE, content_type)
                    .body(Body::from("some"))?;
                let answer = soon(mesh.client().send(request)).await?;
                let reason = answer.headers().get("x-mesh-reason");
                let reason = reason.map(|r| r.to_str()).transpose()?;
                assert_eq!((answer.status(), reason), wanted, "{alpn:?} {protocol:?}");
            }
        }
    }
    // It would refuse an offer of what it does not speak.
    let (at, transport) = server(&world, dir.path(), &[b"postgresql"]).await?;
    let host = Host::Address(at.ip());
    let (mesh, _pusher) = client_of(&world, host, at.port(), AppProtocol::Tcp, transport).await?;
    let out = ServiceName::new(&Namespace::new("shop")?, "out")?;
    let entry = serve_outbound(&mesh, OutboundListener::to(out, 80, AppProtocol::Tcp)).await?;
    let mut stream = TcpStream::connect(entry).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: outside.test\r\n\r\n")
        .await?;
    let mut head = [0; 15];
    soon(stream.read_exact(&mut head)).await??;
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    Ok(())
}

/// A BackendTLSPolicy decides in place of what the slice says; where its roots are missing, nothing is
/// sent: neither in plaintext nor by other roots.
#[tokio::test]
async fn a_policy_originates_tls_and_nothing_stands_in_for_its_roots() -> Result {
    let dir = tempfile::tempdir()?;
    let world = World::new()?;
    let (at, transport) = server(&world, dir.path(), &[]).await?;
    let Transport::Tls {
        roots: Roots::File(file),
        ..
    } = transport
    else {
        return Err("it speaks TLS".into());
    };
    let pem = std::fs::read(&*file)?;
    let (mesh, pusher) =
        client(&world, Host::Address(at.ip()), at.port(), Transport::Plain).await?;
    let shop = Namespace::new("shop")?;
    let ca = ObjectKey::new(Kind::ConfigMap, &shop, "ca")?;
    let policy = |hostname: &str, names: &[&str]| -> Result<Op> {
        let targets = Targets::Services(vec![(ServiceName::new(&shop, "out")?, None)]);
        let key = ObjectKey::new(Kind::BackendTlsPolicy, &shop, "out")?;
        let vouched = Vouched::ConfigMaps(vec![ca.clone()]);
        let names: std::result::Result<Vec<_>, _> = names.iter().map(|n| AltName::dns(n)).collect();
        let policy = BackendTlsPolicy::new(key, targets, hostname, vouched);
        Ok(Op::put(policy.with_names(names?)))
    };
    let roots = Op::put(CaConfigMap::new(ca.clone(), &pem)?);
    let failed = (StatusCode::SERVICE_UNAVAILABLE, "tls-failed");
    for (ops, wanted) in [
        (vec![policy("outside.test", &[])?], failed),
        (vec![roots], (StatusCode::OK, "")),
        (vec![policy("other.test", &[])?], failed),
        (
            vec![policy("other.test", &["third.test", "outside.test"])?],
            (StatusCode::OK, ""),
        ),
        (vec![policy("outside.test", &["third.test"])?], failed),
        (vec![policy("outside.test", &[])?], (StatusCode::OK, "")),
        (vec![Op::Remove(ca.clone())], failed),
    ] {
        let shown = format!("{ops:?}");
        let mut snapshot = mesh.snapshot().clone();
        let generation = snapshot.load().generation();
        pusher.push(ops).await?;
        while snapshot.load().generation() == generation {
            assert!(soon(snapshot.changed()).await?);
        }
        let (status, reason) = ask(&mesh).await?;
        assert_eq!((status, reason.as_str()), wanted, "{shown}");
    }
    Ok(())
}

#[tokio::test]
async fn an_endpoint_of_both_families_is_reached_in_the_one_that_answers() -> Result {
    let world = World::new()?;
    let both: [IpAddr; 2] = ["::1".parse()?, "127.0.0.1".parse()?];
    for listens in both {
        let Ok(listener) = TcpListener::bind(SocketAddr::new(listens, 0)).await else {
            // Past the test harness, which swallows what a passing test prints.
            let mut err = std::io::stderr();
            std::io::Write::write_all(&mut err, b"skipped: 1 (this host has no IPv6)\n")?;
            continue;
        };
        let port = listener.local_addr()?.port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream));
            }
        });
        let host = Host::Name {
            name: "both.test".into(),
            srv: None,
        };
        let (mesh, pusher) = client(&world, host.clone(), port, Transport::Plain).await?;
        let unresolved = ask(&mesh).await?;
        assert_eq!(
            unresolved,
            (StatusCode::SERVICE_UNAVAILABLE, "no-endpoint".into())
        );
        let mut snapshot = mesh.snapshot().clone();
        let addresses: Vec<_> = both.iter().copied().map(HostAddress::new).collect();
        let generation = snapshot.load().generation();
        pusher
            .push(vec![Op::Resolve(host, addresses.into())])
            .await?;
        while snapshot.load().generation() == generation {
            assert!(soon(snapshot.changed()).await?);
        }
        assert_eq!(
            ask(&mesh).await?,
            (StatusCode::OK, String::new()),
            "{listens}"
        );
        let attempts = mesh.status().services[0].endpoints.len();
        assert_eq!(attempts, 1, "both addresses are one endpoint");
    }
    Ok(())
}
