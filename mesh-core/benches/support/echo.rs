//! The same request, a POST of 1 KiB that is echoed, in two ways: over bare hyper and rustls, and
//! over the mesh with all its layers. Identities, provider, groups, suites and sockets are alike.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use inmesh_core::Body;
use inmesh_core::authorize::{self, Action, Operation, Policy, PolicySource};
use inmesh_core::discover::pushed;
use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey, ServiceName};
use inmesh_core::route::{Backend, Match, Parent, PathMatch, Route, Rule, ValueMatch};
use inmesh_core::runtime::Client;
use inmesh_core::snapshot::Op;
use inmesh_core::testing::World;
use inmesh_pki::tls::{self, ClientAuth};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const ALPN: &[u8] = b"http/1.1";
const BODY: Bytes = Bytes::from_static(&[b'x'; 1024]);

/// Answers with the body that it got.
async fn echo<B: http_body::Body>(request: Request<B>) -> Result<Bytes, B::Error> {
    Ok(request.into_body().collect().await?.to_bytes())
}

/// Checks an answer.
async fn check<B>(answer: Response<B>) -> Fallible<()>
where
    B: http_body::Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    assert_eq!(answer.status(), StatusCode::OK);
    let body = answer.into_body().collect().await.map_err(Into::into)?;
    assert_eq!(body.to_bytes().len(), BODY.len());
    Ok(())
}

/// One kept-alive connection over mutual TLS, and nothing around it.
pub(crate) struct Bare(SendRequest<Full<Bytes>>);

impl Bare {
    /// Starts a server and opens as many connections to it as asked for.
    pub(crate) async fn connect(world: &World, connections: usize) -> Fallible<Vec<Self>> {
        let (_writer, cart) = world.identity("cart")?;
        let (_writer, web) = world.identity("web")?;
        let address = serve_bare(world, cart).await?;
        let config = tls::client_config(web, world.crypto(), &[ALPN]);
        let connector = TlsConnector::from(config);
        let mut opened = Vec::new();
        for _ in 0..connections {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let stream = connector.connect(tls::server_name(), stream).await?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            opened.push(Self(sender));
        }
        Ok(opened)
    }

    /// Sends the request once and takes the whole answer.
    pub(crate) async fn send(&mut self) -> Fallible<()> {
        self.0.ready().await?;
        let request = Request::post("/items/42")
            .header(header::HOST, "cart")
            .body(Full::new(BODY))?;
        check(self.0.send_request(request).await?).await
    }
}

async fn serve_bare(world: &World, identity: inmesh_pki::IdentityReader) -> Fallible<SocketAddr> {
    let config = tls::server_config(identity, world.crypto(), &[ALPN], ClientAuth::Required);
    let acceptor = TlsAcceptor::from(config);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                stream.set_nodelay(true)?;
                let stream = acceptor.accept(stream).await?;
                let service = service_fn(async |request: Request<Incoming>| {
                    let body = echo(request).await?;
                    Ok::<_, hyper::Error>(Response::new(Full::new(body)))
                });
                http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await?;
                Fallible::Ok(())
            });
        }
    });
    Ok(address)
}

/// The client of a mesh with a route of three rules, two endpoints and, on the server's side,
/// policies; metrics and records are written on both sides. `log` adds an access log of everything.
#[derive(Clone)]
pub(crate) struct Meshed(Client);

impl Meshed {
    /// Starts the servers and the client.
    pub(crate) async fn connect(world: &World, log: bool) -> Fallible<Self> {
        let (policies, source) = pushed("policies");
        let mut server = world.mesh("cart")?.source(source);
        let (services, source) = pushed("services");
        let mut client = world.mesh("web")?.source(source);
        if log {
            server = server.access_log(tokio::io::sink(), 1.0);
            client = client.access_log(tokio::io::sink(), 1.0);
        }
        let (server, client) = (server.start()?, client.start()?);
        policies.push(policy()?).await?;
        server.ready().await;
        let mut endpoints = Vec::new();
        for _ in 0..2 {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            endpoints.push(listener.local_addr()?);
            let app = tower::service_fn(async |request: Request<Body>| {
                let body = echo(request).await.unwrap_or_default();
                Ok::<_, Infallible>(Response::new(Body::from(body)))
            });
            let server = server.clone();
            tokio::spawn(async move { server.serve(listener, app).await });
        }
        let mut ops = world.service("cart", AppProtocol::Http1, &endpoints)?;
        ops.push(route()?);
        services.push(ops).await?;
        client.ready().await;
        Ok(Self(client.client()))
    }

    /// Sends the request once and takes the whole answer.
    pub(crate) async fn send(&mut self) -> Fallible<()> {
        let request = Request::post("http://cart/items/42").body(Body::from(BODY))?;
        check(self.0.send(request).await).await
    }
}

/// Three rules, of which the last matches.
fn route() -> Fallible<Op> {
    let shop = Namespace::new("shop")?;
    let cart = ServiceName::new(&shop, "cart")?;
    let key = ObjectKey::new(Kind::HttpRoute, &shop, "cart")?;
    let to = || Backend::new(cart.clone(), 80, 1);
    let items = Match::path(PathMatch::literal("/items", true)?);
    let beta = items.header("x-tenant".parse()?, ValueMatch::Exact("beta".into()));
    let health = Match::path(PathMatch::literal("/healthz", false)?);
    let rules = vec![
        Rule::to(vec![to()?]).when(vec![health]),
        Rule::to(vec![to()?]).when(vec![beta]),
        Rule::to(vec![to()?, to()?]),
    ];
    let route = Route::new(key, vec![Parent::new(cart.clone(), None)], rules)?;
    Ok(Op::put(route))
}

/// One policy that denies something else, and one that allows this.
fn policy() -> Fallible<Vec<Op>> {
    let shop = Namespace::new("shop")?;
    let policy = |name: &str, action, rule| {
        let key = ObjectKey::new(Kind::AuthorizationPolicy, &shop, name)?;
        let policy = Policy::new(key, action, vec![rule]);
        Fallible::Ok(Op::put(policy))
    };
    let admin = Operation::builder().paths(["/admin", "/admin/*"]).build()?;
    let web = PolicySource::builder()
        .principals(["example.org/ns/shop/sa/web"])
        .build()?;
    let items = Operation::builder()
        .methods(["GET", "POST"])
        .paths(["/items", "/items/*"])
        .build()?;
    let deny = authorize::PolicyRule::new(vec![], vec![admin]);
    let allow = authorize::PolicyRule::new(vec![web], vec![items]);
    Ok(vec![
        policy("deny", Action::Deny, deny)?,
        policy("allow", Action::Allow, allow)?,
    ])
}
