//! Endpoints outside the mesh: TLS by name, and names with addresses of both families.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ::http::{Request, StatusCode};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use inmesh_core::discover::{Pusher, pushed};
use inmesh_core::model::{
    AppProtocol, Host, Kind, Namespace, ObjectKey, Roots, Service, ServiceName, ServicePort, Slice,
    SliceHost, SlicePort, Transport,
};
use inmesh_core::snapshot::Op;
use inmesh_core::testing::World;
use inmesh_core::{Body, Mesh};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::{Result, soon};

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
    let (pusher, source) = pushed("test");
    let mesh = world.mesh("web")?.source(source).start()?;
    let shop = Namespace::new("shop")?;
    let out = ServiceName::new(&shop, "out")?;
    let ports = vec![ServicePort::new("main", 80, AppProtocol::Http1)];
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

async fn ask(mesh: &Mesh) -> Result<(StatusCode, String)> {
    let request = Request::get("http://out/").body(Body::empty())?;
    let answer = soon(mesh.client().send(request)).await?;
    let reason = answer.headers().get("x-mesh-reason").cloned();
    let reason = reason.map(|r| r.to_str().map(str::to_owned)).transpose()?;
    Ok((answer.status(), reason.unwrap_or_default()))
}

#[tokio::test]
async fn an_outside_host_is_verified_by_its_name_and_the_roots_that_are_named() -> Result {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec!["outside.test".to_owned()])?.signed_by(&key, &ca)?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, ca.pem())?;
    let other = dir.path().join("other.pem");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let stranger = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    std::fs::write(&other, stranger.pem())?;

    let world = World::new()?;
    let provider = Arc::clone(world.crypto().provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key.serialize_der().try_into()?)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move { answer(acceptor.accept(stream).await?).await });
        }
    });

    for (name, roots, wanted) in [
        ("outside.test", &file, (StatusCode::OK, "")),
        (
            "elsewhere.test",
            &file,
            (StatusCode::SERVICE_UNAVAILABLE, "tls-failed"),
        ),
        (
            "outside.test",
            &other,
            (StatusCode::SERVICE_UNAVAILABLE, "tls-failed"),
        ),
    ] {
        let transport = Transport::Tls {
            name: name.into(),
            roots: Roots::File(roots.display().to_string().into()),
        };
        let (mesh, _pusher) = client(&world, Host::Address(at.ip()), at.port(), transport).await?;
        let (status, reason) = ask(&mesh).await?;
        assert_eq!(
            (status, reason.as_str()),
            wanted,
            "{name} {}",
            roots.display()
        );
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
        let addresses: Vec<_> = both.iter().map(|ip| (*ip, None)).collect();
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
