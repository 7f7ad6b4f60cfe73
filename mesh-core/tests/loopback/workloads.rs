//! Several workloads in one runtime: none speaks with another's identity or over its connections.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use ::http::{Request, Response, StatusCode};
use inmesh_core::authorize::{Action, DefaultAction, Policy, PolicyRule};
use inmesh_core::discover::pushed;
use inmesh_core::identify::PeerInfo;
use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey, ServiceName, Workload};
use inmesh_core::pki::id::SpiffeId;
use inmesh_core::pki::store::{IdentityState, identity};
use inmesh_core::runtime::{InboundListener, OutboundListener};
use inmesh_core::snapshot::Op;
use inmesh_core::testing::World;
use inmesh_core::{Body, Local, Mesh};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::service_fn;

use crate::support::{Result, Seen, get, origin, serve_outbound, soon, tell, text};

/// Where no server listens.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

/// Callers that a server has seen: their identity, and the address of their connection.
type Callers = Arc<Mutex<HashSet<(SpiffeId, SocketAddr)>>>;

/// A server of the workload `cart` that notes its callers.
async fn cart(world: &World) -> Result<(SocketAddr, Callers)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (mesh, callers) = (world.mesh("cart")?.start()?, Callers::default());
    let seen = Arc::clone(&callers);
    let app = service_fn(move |request: Request<Body>| {
        if let Some(info) = request.extensions().get::<Arc<PeerInfo>>()
            && let Some(id) = info.id()
        {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.insert((id.clone(), info.address));
        }
        std::future::ready(Ok::<_, std::io::Error>(Response::new(Body::from("ok"))))
    });
    tokio::spawn(async move { mesh.serve(listener, app).await });
    Ok((address, callers))
}

fn local(world: &World, name: &str) -> Result<Local> {
    let workload = Workload::new("shop", name, name)?;
    Ok(Local::new(workload, DefaultAction::Allow).with_identity(world.id(name)?))
}

/// A mesh that is the workloads `web` and `till`, and knows `cart`.
async fn two(
    world: &World,
    cart: SocketAddr,
    protocol: AppProtocol,
    seen: Arc<Seen>,
) -> Result<(Mesh, Mesh)> {
    let (_, one) = world.identity("web")?;
    let (_, other) = world.identity("till")?;
    let mut state = IdentityState::clone(&one.load());
    for svid in other.load().svids() {
        state.share_svid(Arc::clone(svid));
    }
    let (_, reader) = identity(state);
    let (pusher, source) = pushed("test");
    let web = Mesh::builder()
        .crypto(world.crypto().clone())
        .identity(reader)
        .local(local(world, "web")?)
        .exchanges(seen)
        .source(source)
        .start()?;
    pusher
        .push(world.service("cart", protocol, &[cart])?)
        .await?;
    web.ready().await;
    let till = web.add_workload(local(world, "till")?).await?;
    Ok((web, till))
}

async fn ask(mesh: &Mesh) -> Result {
    let answer = mesh.client().send(get("http://cart/")).await;
    assert_eq!(answer.status(), StatusCode::OK, "{:?}", answer.headers());
    assert_eq!(text(answer).await?, "ok");
    Ok(())
}

#[tokio::test]
async fn no_connection_is_shared_between_workloads() -> Result {
    for protocol in [AppProtocol::Http1, AppProtocol::Http2] {
        let world = World::new()?;
        let (address, callers) = cart(&world).await?;
        let seen = Seen::new();
        let (web, till) = two(&world, address, protocol, Arc::clone(&seen)).await?;
        // In turn, so that each finds the other's connection ready for another request.
        for _ in 0..5 {
            for mesh in [&web, &till] {
                ask(mesh).await?;
            }
        }
        let callers = callers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let of = |name: &str| -> Result<HashSet<SocketAddr>> {
            let id = world.id(name)?;
            let own = callers.iter().filter(|(caller, _)| *caller == id);
            Ok(own.map(|(_, address)| *address).collect())
        };
        let (web, till) = (of("web")?, of("till")?);
        assert_eq!(callers.len(), web.len() + till.len(), "no other identity");
        assert_eq!((web.len(), till.len()), (1, 1), "each reuses its own");
        assert!(web.is_disjoint(&till), "{protocol}");
        for name in ["web", "till"] {
            let record = seen.one(|x| *x.workload == format!("shop/{name}")).await?;
            assert_eq!(record.tls_peer, Some(world.id("cart")?));
        }
    }
    Ok(())
}

#[tokio::test]
async fn metrics_of_workloads_are_counted_apart() -> Result {
    let world = World::new()?;
    let (address, _callers) = cart(&world).await?;
    let (web, till) = two(&world, address, AppProtocol::Http1, Seen::new()).await?;
    ask(&web).await?;
    for _ in 0..2 {
        ask(&till).await?;
    }
    let metrics = web.encode_metrics();
    let count = |name: &str| {
        let source = format!("source_workload=\"{name}\"");
        let principal = format!("source_principal=\"spiffe://example.org/ns/shop/sa/{name}\"");
        let mut lines = metrics.lines().filter(|line| {
            line.starts_with("istio_requests_total{")
                && line.contains(&source)
                && line.contains(&principal)
        });
        let line = lines.next().unwrap_or_default();
        line.rsplit(' ').next().unwrap_or_default().to_owned()
    };
    assert_eq!((count("web"), count("till")), ("1".into(), "2".into()));
    Ok(())
}

/// Each listener presents its own workload's SVID: a caller that expects the other refuses it.
#[tokio::test]
async fn a_listener_presents_the_identity_of_its_workload() -> Result {
    let world = World::new()?;
    let (web, till) = two(&world, NOWHERE, AppProtocol::Http1, Seen::new()).await?;
    let app = origin(tell).await?;
    let mut addresses = Vec::new();
    for mesh in [&web, &till] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        addresses.push(listener.local_addr()?);
        let (mesh, to) = (mesh.clone(), InboundListener::new(app, AppProtocol::Http1));
        tokio::spawn(async move { mesh.serve_behind(listener, to).await });
    }
    let (pusher, source) = pushed("test");
    let caller = world.mesh("caller")?.source(source).start()?;
    let mut ops = Vec::new();
    for (name, address) in ["web", "till"].into_iter().zip(&addresses) {
        ops.extend(world.service(name, AppProtocol::Http1, &[*address])?);
    }
    pusher.push(ops).await?;
    caller.ready().await;
    for name in ["web", "till"] {
        let request = get(&format!("http://{name}/"));
        let answer = caller.client().send(request).await;
        assert_eq!(answer.status(), StatusCode::OK, "{name}");
    }
    // The other way round.
    let ops = world.service("web", AppProtocol::Http1, &[addresses[1]])?;
    pusher.push(ops).await?;
    let answer = caller.client().send(get("http://web/")).await;
    assert_eq!(answer.headers()["x-mesh-reason"], "wrong-server");
    Ok(())
}

#[tokio::test]
async fn each_workload_has_its_own_policy() -> Result {
    let world = World::new()?;
    let (address, _callers) = cart(&world).await?;
    let (web, _till) = two(&world, address, AppProtocol::Http1, Seen::new()).await?;
    // Labels, not names, make it the policy of one.
    let guest = Workload::new("shop", "guest", "till")?.label("app", "guest");
    let guest = Local::new(guest, DefaultAction::Allow).with_identity(world.id("till")?);
    let (pusher, source) = pushed("policy");
    let (_, reader) = world.identity("web")?;
    let mesh = Mesh::builder()
        .crypto(world.crypto().clone())
        .identity(reader)
        .local(local(&world, "web")?)
        .source(source)
        .start()?;
    let key = ObjectKey::new(Kind::AuthorizationPolicy, &Namespace::new("shop")?, "d")?;
    let deny = Policy::new(key, Action::Deny, vec![PolicyRule::default()]).select("app", "guest");
    pusher.push(vec![Op::put(deny)]).await?;
    mesh.ready().await;
    let guest = mesh.add_workload(guest).await?;
    let status = async |mesh: &Mesh| -> Result<StatusCode> {
        let layer = tower::ServiceBuilder::new().layer(mesh.authorize_layer());
        let app = layer.service_fn(async |_: Request<Body>| {
            Ok::<_, std::io::Error>(Response::new(Body::empty()))
        });
        Ok(tower::ServiceExt::oneshot(app, get("/")).await?.status())
    };
    assert_eq!(status(&mesh).await?, StatusCode::OK);
    assert_eq!(status(&guest).await?, StatusCode::FORBIDDEN);
    drop(web);
    Ok(())
}

/// A workload that is retired is denied, and its open connections end; the others stay.
#[tokio::test]
async fn a_workload_that_is_retired_is_served_no_longer() -> Result {
    let world = World::new()?;
    // An application that repeats bytes, behind the two workloads of one mesh.
    let echo = TcpListener::bind("127.0.0.1:0").await?;
    let app = echo.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = echo.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    let (web, till) = two(&world, NOWHERE, AppProtocol::Http1, Seen::new()).await?;
    let (pusher, source) = pushed("test");
    let caller = world.mesh("caller")?.source(source).start()?;
    let mut streams = Vec::new();
    for (name, mesh) in [("web", &web), ("till", &till)] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (mesh, to) = (mesh.clone(), InboundListener::new(app, AppProtocol::Tcp));
        tokio::spawn(async move { mesh.serve_behind(listener, to).await });
        let ops = world.service(name, AppProtocol::Tcp, &[address])?;
        pusher.push(ops).await?;
        let service = ServiceName::new(&Namespace::new("shop")?, name)?;
        let to = OutboundListener::to(service, 80, AppProtocol::Tcp);
        let mut stream = TcpStream::connect(serve_outbound(&caller, to).await?).await?;
        stream.write_all(b"ping").await?;
        soon(stream.read_exact(&mut [0; 4])).await??;
        streams.push(stream);
    }
    let mut answers = web.snapshot().clone();
    till.retire_workload().await?;
    let mut rest = Vec::new();
    let _cut = soon(streams[1].read_to_end(&mut rest)).await?;
    assert_eq!(rest, b"", "cut, not answered");
    streams[0].write_all(b"pong").await?;
    soon(streams[0].read_exact(&mut [0; 4])).await??;
    soon(answers.changed()).await?;
    Ok(())
}
