//! A control plane and processes that follow it, over mutual TLS on loopback.

#![cfg(all(
    feature = "control-client",
    feature = "control-server",
    feature = "file"
))]

mod staged;

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use inmesh_core::identify::PeerInfo;
use inmesh_core::model::{Namespace, ServiceName};
use inmesh_core::runtime::Limits;
use inmesh_core::snapshot::OutboundTrafficPolicy;
use inmesh_core::testing::World;
use inmesh_core::{Body, Mesh};
use inmesh_discovery::control::{ControlPlane, ControlSource, Follow};
use inmesh_discovery::file::FileSource;
use inmesh_discovery::manifest::Defaults;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};
use tower::{ServiceExt, service_fn};

/// The longest that anything may take on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(30);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn defaults() -> Defaults {
    Defaults::new(Namespace::new("shop").expect("a name")).loopback(true)
}

/// Nothing looks whether these processes are ready.
fn without_lead() -> Limits {
    let mut limits = Limits::default();
    limits.drain_lead = Duration::ZERO;
    limits
}

/// A control plane that reads a folder.
struct Plane {
    mesh: Mesh,
    plane: ControlPlane,
    address: SocketAddr,
}

impl Plane {
    async fn begin(world: &World, dir: &Path) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        Self::at(world, dir, listener).await
    }

    async fn at(world: &World, dir: &Path, listener: TcpListener) -> Result<Self> {
        let source = FileSource::new(dir, defaults().documents());
        let mesh = world
            .mesh("control")?
            .source(source)
            .without_checks()
            .limits(without_lead())
            .start()?;
        // With its own policies.
        timeout(LIMIT, mesh.synced()).await?;
        let plane = ControlPlane::new(&mesh, world.crypto().clone());
        let address = listener.local_addr()?;
        let (serving, service) = (mesh.clone(), plane.service());
        tokio::spawn(async move { serving.serve(listener, service).await });
        Ok(Self {
            mesh,
            plane,
            address,
        })
    }

    /// Waits until so many subscribers have all that concerns them, and no other is connected.
    async fn converged(&self, subscribers: usize) {
        until("the subscribers have converged", || {
            let status = self.plane.status();
            status.converged == subscribers && status.behind == 0
        })
        .await;
    }
}

/// Waits until something holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = timeout(LIMIT, async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "not in time: {what}");
}

/// A server of the mesh that says what it is called.
async fn server(world: &World, name: &'static str) -> Result<SocketAddr> {
    let mesh = world.mesh(name)?.start()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        let app = service_fn(move |request: Request<Body>| async move {
            assert!(request.extensions().get::<Arc<PeerInfo>>().is_some());
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(name))))
        });
        mesh.serve(listener, app).await;
    });
    Ok(address)
}

fn documents(name: &str, address: SocketAddr) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: {{ports: [{{name: http, port: 80, appProtocol: http}}]}}}}
---
{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
  metadata: {{name: {name}-a, namespace: shop, labels: {{kubernetes.io/service-name: {name}}},
    annotations: {{inmesh.dev/transport: mesh, inmesh.dev/ids: spiffe://example.org/ns/shop/sa/{name}}}}},
  ports: [{{name: http, port: {}}}], endpoints: [{{addresses: [{}]}}]}}
",
        address.port(),
        address.ip()
    )
}

fn source(world: &World, workload: &str, plane: SocketAddr) -> Result<ControlSource> {
    let (_writer, identity) = world.identity(workload)?;
    let server = world.id("control")?;
    let crypto = world.crypto().clone();
    let source = ControlSource::new(plane.to_string(), server, identity, crypto, defaults());
    Ok(source.instance(workload))
}

async fn get(mesh: &Mesh, host: &str) -> Result<StatusCode> {
    let request = Request::get(format!("http://{host}/")).body(Empty::<Bytes>::new())?;
    let answer = timeout(LIMIT, mesh.client().oneshot(request)).await??;
    Ok(answer.status())
}

#[tokio::test]
async fn a_request_waits_for_what_the_control_plane_knows() -> Result<()> {
    let (world, dir) = (World::new()?, TempDir::new()?);
    let cart = server(&world, "cart").await?;
    fs::write(dir.path().join("cart.yaml"), documents("cart", cart))?;
    let plane = Plane::begin(&world, dir.path()).await?;
    let web = world
        .mesh("web")?
        .source(source(&world, "web", plane.address)?)
        .start()?;
    timeout(LIMIT, web.ready()).await?;
    assert_eq!(
        web.snapshot().load().services().count(),
        0,
        "nothing was asked for"
    );

    for host in ["cart", "cart.shop.svc.cluster.local", "cart.shop:80"] {
        assert_eq!(get(&web, host).await?, StatusCode::OK, "{host}");
    }
    // What nothing leads to is answered as soon as that is known.
    assert_eq!(get(&web, "next").await?, StatusCode::NOT_FOUND);
    assert_eq!(get(&web, "example.com").await?, StatusCode::NOT_FOUND);
    // It is followed: once it is there, requests are sent to it.
    let next = server(&world, "next").await?;
    fs::write(dir.path().join("next.yaml"), documents("next", next))?;
    let name = ServiceName::new(&Namespace::new("shop")?, "next")?;
    until("the Service has come", || {
        web.snapshot().load().service(&name).is_some()
    })
    .await;
    assert_eq!(get(&web, "next").await?, StatusCode::OK);
    plane.converged(1).await;
    let status = plane.plane.status();
    assert_eq!(status.generation, plane.mesh.snapshot().load().generation());
    let [web_status] = &*status.subscribers else {
        panic!("one subscriber: {status:?}");
    };
    assert_eq!(
        (&*web_status.id, &*web_status.instance),
        ("spiffe://example.org/ns/shop/sa/web", "web")
    );
    assert_eq!(
        (web_status.generation, web_status.subscriptions),
        (status.generation, 3)
    );
    Ok(())
}

#[tokio::test]
async fn what_the_control_plane_knows_is_not_passed_through() -> Result<()> {
    let (world, dir) = (World::new()?, TempDir::new()?);
    let cart = server(&world, "cart").await?;
    fs::write(dir.path().join("cart.yaml"), documents("cart", cart))?;
    let plane = Plane::begin(&world, dir.path()).await?;
    let web = world
        .mesh("web")?
        .source(source(&world, "web", plane.address)?);
    let web = web
        .outbound_traffic_policy(OutboundTrafficPolicy::AllowAny)
        .start()?;
    timeout(LIMIT, web.ready()).await?;
    // It could be a name of the Internet, where all hosts are reached.
    assert_eq!(get(&web, "cart.shop").await?, StatusCode::OK);
    assert!(
        web.snapshot()
            .load()
            .leads_to("cart.shop", &Namespace::new("shop")?)
            .is_some()
    );
    Ok(())
}

#[tokio::test]
async fn policies_come_with_the_stream_and_nothing_is_served_without_them() -> Result<()> {
    let (world, dir) = (World::new()?, TempDir::new()?);
    let policy = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: none, namespace: shop}, spec: {action: DENY, rules: [{}]}}";
    fs::write(dir.path().join("policy.yaml"), policy)?;
    let plane = Plane::begin(&world, dir.path()).await?;
    // The control plane has that policy too: for others it is as closed as it says.
    let web = world
        .mesh("web")?
        .source(source(&world, "web", plane.address)?)
        .start()?;
    until("the source says why it is lost", || {
        let sources = web.status().sources;
        format!("{:?}", sources.get("control")).contains("PermissionDenied")
    })
    .await;
    assert!(
        timeout(Duration::from_millis(50), web.ready())
            .await
            .is_err()
    );
    Ok(())
}

#[tokio::test]
async fn a_process_starts_from_what_it_has_kept() -> Result<()> {
    let (world, dir) = (World::new()?, TempDir::new()?);
    let cart = server(&world, "cart").await?;
    fs::write(dir.path().join("cart.yaml"), documents("cart", cart))?;
    let plane = Plane::begin(&world, dir.path()).await?;
    let kept = dir.path().join("control.state");
    let follow = || -> Result<_> {
        let name = ServiceName::new(&Namespace::new("shop")?, "cart")?;
        let source = source(&world, "web", plane.address)?;
        Ok(source.follow(Follow::Asked(vec![name])).keep(&kept))
    };
    let web = world.mesh("web")?.source(follow()?);
    let web = web.limits(without_lead()).start()?;
    timeout(LIMIT, web.ready()).await?;
    until("the state is kept", || kept.exists()).await;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&kept)?.permissions().mode() & 0o777, 0o600);
    }
    // Both end; the process begins anew while the control plane is away.
    web.drain().await;
    plane.mesh.drain().await;
    let web = world.mesh("web")?.source(follow()?).start()?;
    timeout(LIMIT, web.ready()).await?;
    assert_eq!(get(&web, "cart").await?, StatusCode::OK);
    // Without a kept state nothing is known, not even what is forbidden.
    let other = source(&world, "other", plane.address)?;
    let other = world.mesh("other")?.source(other).start()?;
    assert!(
        timeout(Duration::from_millis(300), other.ready())
            .await
            .is_err()
    );
    // What is not known cannot be found out: that is no 404.
    assert_eq!(get(&web, "next").await?, StatusCode::SERVICE_UNAVAILABLE);
    // It comes back at its address; all is as it was, and nothing is sent again.
    let listener = TcpListener::bind(plane.address).await?;
    let plane = Plane::at(&world, dir.path(), listener).await?;
    timeout(LIMIT, other.ready()).await?;
    plane.converged(2).await;
    let status = plane.plane.status();
    let bytes = status.bytes;
    assert!(bytes < 200, "{bytes} bytes for what is known: {status:?}");
    Ok(())
}

#[tokio::test]
async fn another_replica_goes_on_where_one_has_ended() -> Result<()> {
    let (world, dir) = (World::new()?, TempDir::new()?);
    let cart = server(&world, "cart").await?;
    fs::write(dir.path().join("cart.yaml"), documents("cart", cart))?;
    let planes = [
        Plane::begin(&world, dir.path()).await?,
        Plane::begin(&world, dir.path()).await?,
    ];
    let source = source(&world, "web", planes[0].address)?.or_at(planes[1].address.to_string());
    let web = world.mesh("web")?.source(source).start()?;
    timeout(LIMIT, web.ready()).await?;
    assert_eq!(get(&web, "cart").await?, StatusCode::OK);
    let first = planes
        .iter()
        .position(|p| p.plane.status().subscribers.len() == 1);
    let (first, second) = match first {
        Some(0) => (&planes[0], &planes[1]),
        _ => (&planes[1], &planes[0]),
    };
    let begun = Instant::now();
    first.mesh.drain().await;
    second.converged(1).await;
    assert_eq!(get(&web, "cart").await?, StatusCode::OK);
    // It says what it knows, so it is sent nothing but an answer.
    let bytes = second.plane.status().bytes;
    assert!(bytes < 300, "{bytes} bytes after {:?}", begun.elapsed());
    Ok(())
}

#[tokio::test]
async fn only_workloads_of_the_trust_domain_are_told_anything() -> Result<()> {
    let (world, dir) = (World::new()?, TempDir::new()?);
    let plane = Plane::begin(&world, dir.path()).await?;
    let other = World::of("example.com", Duration::from_secs(3_600))?;
    let (_writer, identity) = other.identity("web")?;
    let source = ControlSource::new(
        plane.address.to_string(),
        world.id("control")?,
        identity,
        world.crypto().clone(),
        defaults(),
    );
    let web = other.mesh("web")?.source(source).start()?;
    until("the source is lost", || {
        format!("{:?}", web.status().sources.get("control")).contains("Waiting(Some(")
    })
    .await;
    assert_eq!(plane.plane.status().subscribers, []);
    // The right world, and a server that is not the control plane.
    let imposter = server(&world, "cart").await?;
    let source = self::source(&world, "web", imposter)?;
    let web = world.mesh("web")?.source(source).start()?;
    until("the server is another", || {
        format!("{:?}", web.status().sources.get("control")).contains("was expected")
    })
    .await;
    Ok(())
}
