//! Sessions beside limits of connections, and of hosts outside the mesh.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ::http::header::{COOKIE, SET_COOKIE};
use ::http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use inmesh_core::balance::RequestLimits;
use inmesh_core::discover::{Pusher, pushed};
use inmesh_core::model::{
    AppProtocol, Host, HostAddress, HostPattern, Kind, Namespace, ObjectKey, Outside, OutsidePort,
    Resolution, Service, ServiceName, ServicePort, Slice, SliceHost, SlicePort, Transport,
};
use inmesh_core::retry::RetryPolicy;
use inmesh_core::snapshot::Op;
use inmesh_core::testing::World;
use inmesh_core::traffic::{
    Blocks, CookieLifetime, SessionPersistence, SessionType, Target, TrafficPolicy,
};
use inmesh_core::{Body, Mesh};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::support::{Pair, Result, get, origin, push, soon, text};

fn service(name: &str) -> Result<ServiceName> {
    Ok(ServiceName::new(&Namespace::new("shop")?, name)?)
}

fn key(kind: Kind, name: &str) -> Result<ObjectKey> {
    Ok(ObjectKey::new(kind, &Namespace::new("shop")?, name)?)
}

/// Clients of a Service stay, by a cookie; and what else is asked of it.
fn stay(of: &str, mut blocks: Blocks) -> Result<Op> {
    let cookie = SessionPersistence::new(SessionType::Cookie(CookieLifetime::Session));
    blocks.session = Some(cookie.named("stay")?.into());
    let target = Target::Service(service(of)?, None);
    let key = key(Kind::TrafficPolicy, of)?;
    Ok(Op::put(TrafficPolicy::new(key, vec![target], blocks)?))
}

/// What answers a request, and the token that it hands out.
async fn said(answer: Response<Body>) -> Result<(String, Option<String>)> {
    assert_eq!(answer.status(), StatusCode::OK);
    let cookie = answer.headers().get(SET_COOKIE).map(|c| c.to_str());
    let cookie = cookie.transpose()?.and_then(|c| c.split(';').next());
    let token = cookie.map(str::to_owned);
    Ok((text(answer).await?, token))
}

fn with(target: &str, token: Option<&str>) -> Result<Request<Body>> {
    let mut request = get(target);
    if let Some(token) = token {
        request.headers_mut().insert(COOKIE, token.parse()?);
    }
    Ok(request)
}

async fn ask(mesh: &Mesh, target: &str, token: Option<&str>) -> Result<(String, Option<String>)> {
    said(soon(mesh.client().send(with(target, token)?)).await?).await
}

// === Limits of connections ===

/// A server that answers with its name; at `/held` it says that a request has come, and waits.
struct Server {
    at: SocketAddr,
    came: mpsc::UnboundedReceiver<()>,
    go: Arc<Semaphore>,
}

impl Server {
    async fn start(name: &'static str) -> Result<Self> {
        let (come, came) = mpsc::unbounded_channel();
        let go = Arc::new(Semaphore::new(0));
        let may = Arc::clone(&go);
        let at = origin(move |request: Request<Incoming>| {
            let (come, may) = (come.clone(), Arc::clone(&may));
            async move {
                if request.uri().path() == "/held" {
                    let _gone = come.send(());
                    if let Ok(permit) = may.acquire().await {
                        permit.forget();
                    }
                }
                Response::new(Body::from(name))
            }
        })
        .await?;
        Ok(Self { at, came, go })
    }
}

/// `cart` as two servers, with so many connections and requests that wait.
async fn limited(connections: u32, pending: u32) -> Result<(Pair, [Server; 2])> {
    let servers = [Server::start("a").await?, Server::start("b").await?];
    let pair = Pair::new(AppProtocol::Http1, servers[0].at).await?;
    let mut blocks = Blocks::default();
    blocks.limits = Some(RequestLimits::default().with_connections(connections, pending)?);
    blocks.retry = Some(RetryPolicy::new(2).on_status(503)?.into());
    let mut ops = vec![stay("cart", blocks)?];
    for (n, server) in servers.iter().enumerate() {
        ops.push(Op::put(Slice::new(
            key(Kind::EndpointSlice, &format!("cart-{n}"))?,
            service("cart")?,
            vec![SlicePort::new("main", server.at.port())],
            vec![SliceHost::new(Host::Address(server.at.ip()))],
            Transport::Plain,
        )));
    }
    push(&pair, ops).await?;
    Ok((pair, servers))
}

/// A token for each of two endpoints, that of `a` first.
async fn tokens(mesh: &Mesh) -> Result<[String; 2]> {
    let mut tokens = [const { String::new() }; 2];
    while tokens.iter().any(String::is_empty) {
        let (name, token) = ask(mesh, "http://cart/", None).await?;
        tokens[usize::from(name == "b")] = token.ok_or("a token")?;
    }
    Ok(tokens)
}

fn begin(mesh: &Mesh, token: &str) -> Result<JoinHandle<Response<Body>>> {
    let (client, request) = (mesh.client(), with("http://cart/held", Some(token))?);
    Ok(tokio::spawn(async move { client.send(request).await }))
}

/// Waits until so many requests wait for a connection.
async fn pending(mesh: &Mesh, count: usize) -> Result {
    let waiting = || {
        let services = mesh.status().services.into_iter();
        let mut all = services.flat_map(|service| service.connections);
        all.next().map(|counted| counted.pending)
    };
    soon(async {
        while waiting() != Some(count) {
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// A session waits in line for its endpoint, while another endpoint has room; it is not led away, and what is
/// too much is refused.
#[tokio::test]
async fn a_session_waits_for_a_connection_to_its_endpoint() -> Result {
    let (pair, [mut a, b]) = limited(1, 3).await?;
    let [of_a, of_b] = tokens(&pair.web).await?;
    let first = begin(&pair.web, &of_a)?;
    soon(a.came.recv()).await?.ok_or("it came")?;
    let second = begin(&pair.web, &of_a)?;
    pending(&pair.web, 1).await?;
    let third = begin(&pair.web, &of_a)?;
    pending(&pair.web, 2).await?;
    // The endpoint of another session has a connection whatever the limit, once the one has closed that made
    // room for those that wait.
    for _ in 0..2 {
        let other = ask(&pair.web, "http://cart/", Some(&of_b)).await?;
        assert_eq!(other, ("b".into(), None));
    }
    let fourth = begin(&pair.web, &of_a)?;
    pending(&pair.web, 3).await?;
    let refused = pair.web.client();
    let refused = soon(refused.send(with("http://cart/", Some(&of_a))?)).await?;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["x-mesh-reason"], "connection-overflow");
    assert!(!refused.headers().contains_key(SET_COOKIE));
    for held in [first, second, third, fourth] {
        a.go.add_permits(1);
        assert_eq!(said(soon(held).await??).await?, ("a".into(), None));
    }
    assert_eq!(b.go.available_permits(), 0);
    pending(&pair.web, 0).await?;
    let again = ask(&pair.web, "http://cart/", Some(&of_a)).await?;
    assert_eq!(again, ("a".into(), None));
    Ok(())
}

/// An idle connection to one endpoint makes room for the session of the other.
#[tokio::test]
async fn a_session_that_waits_has_idle_connections_of_others_closed() -> Result {
    let (pair, [mut a, _b]) = limited(2, 9).await?;
    let [of_a, of_b] = tokens(&pair.web).await?;
    // One to each endpoint is idle; both may be to `a`.
    ask(&pair.web, "http://cart/", Some(&of_a)).await?;
    ask(&pair.web, "http://cart/", Some(&of_b)).await?;
    let held = [begin(&pair.web, &of_a)?, begin(&pair.web, &of_a)?];
    for _ in 0..2 {
        soon(a.came.recv()).await?.ok_or("both came")?;
    }
    a.go.add_permits(2);
    for held in held {
        assert_eq!(said(soon(held).await??).await?, ("a".into(), None));
    }
    Ok(())
}

// === Hosts outside the mesh ===

/// A server at all addresses of loopback, that answers with the one that it was asked at.
async fn everywhere() -> Result<u16> {
    let listener = TcpListener::bind("0.0.0.0:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let own = stream.local_addr().map(|own| own.ip().to_string());
            let own = own.unwrap_or_default();
            let answer = service_fn(move |_: Request<Incoming>| {
                let answer = Response::new(Body::from(own.clone()));
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            let http1 = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http1.serve_connection(TokioIo::new(stream), answer));
        }
    });
    Ok(port)
}

/// The addresses that a resolver finds: the same for all names.
async fn outside(addresses: &[[u8; 4]], resolution: Resolution) -> Result<(Mesh, Arc<Pusher>)> {
    let world = World::new()?;
    let (pusher, source) = pushed("test");
    let mesh = world.mesh("web")?.source(source).start()?;
    let pusher = Arc::new(pusher);
    let port = everywhere().await?;
    let of_host = OutsidePort::new(80, Transport::Plain).at(port);
    let hosts = vec![HostPattern::new("*.known.test")?];
    let out = Outside::new(hosts, resolution, vec![of_host]);
    let ports = vec![ServicePort::new("main", 80, AppProtocol::Http1)];
    let entry = Service::new(service("out")?, ports).outside(out);
    let ops = vec![Op::put(entry), stay("out", Blocks::default())?];
    pusher.push(ops).await?;
    mesh.ready().await;
    let found: Vec<_> = addresses
        .iter()
        .map(|a| HostAddress::new(IpAddr::from(*a)))
        .collect();
    let (mut snapshot, resolver) = (mesh.snapshot().clone(), Arc::clone(&pusher));
    tokio::spawn(async move {
        loop {
            let now = snapshot.load();
            let unknown = now.resolutions().filter(|(_, found)| found.is_none());
            let ops = unknown.map(|(host, _)| Op::Resolve(host.clone(), found.clone().into()));
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

/// A session of a host leads to the address that has answered, whether the entry lists its hosts or finds
/// them out by name.
#[tokio::test]
async fn a_client_stays_with_the_address_of_an_outside_host() -> Result {
    let all = [[127, 0, 0, 1], [127, 0, 0, 2], [127, 0, 0, 3]];
    let listed = all.map(|a| SliceHost::new(Host::Address(IpAddr::from(a))));
    for resolution in [Resolution::Dynamic, Resolution::Listed(listed.into())] {
        let (mesh, _pusher) = outside(&all, resolution.clone()).await?;
        let (mut met, mut sessions) = (BTreeSet::new(), Vec::new());
        for _ in 0..12 {
            let (at, token) = ask(&mesh, "http://a.known.test/", None).await?;
            let token = token.ok_or("a token")?;
            met.insert(at.clone());
            sessions.push((at, token));
        }
        assert!(met.len() > 1, "{resolution:?}: they are balanced: {met:?}");
        for (at, token) in &sessions {
            for host in ["a", "a", "b"] {
                let target = format!("http://{host}.known.test/");
                let again = ask(&mesh, &target, Some(token)).await?;
                // Another name of the entry has the same addresses.
                assert_eq!(again, (at.clone(), None), "{resolution:?} {host}");
            }
        }
    }
    Ok(())
}
