//! What a server of tonic says of a deadline that has passed and of a message that is too large, and how
//! the mesh reads it; what the mesh says of both itself.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::uri::PathAndQuery;
use inmesh_core::discover::{Pusher, pushed};
use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey, ServiceName};
use inmesh_core::route::{Backend, Parent, Route, Rule, Timeouts};
use inmesh_core::runtime::{InboundListener, Limits};
use inmesh_core::snapshot::Op;
use inmesh_core::telemetry::{Exchange, ExchangeSink};
use inmesh_core::testing::World;
use inmesh_core::{Body, Mesh};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The longest that an event is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest that the server of tonic takes to answer.
const LONGEST: Duration = Duration::from_millis(50);

/// The largest message that the server reads.
const LARGEST: usize = 64;

/// `message Item { string name = 1; }`
#[derive(Clone, PartialEq, prost::Message)]
struct Item {
    #[prost(string, tag = "1")]
    name: String,
}

/// Answers with what it was sent, but to `silence` never.
async fn echo(request: Request<Item>) -> std::result::Result<Response<Item>, Status> {
    let item = request.into_inner();
    if item.name == "silence" {
        pending::<()>().await;
    }
    Ok(Response::new(item))
}

/// What its service does with a request, in a server of tonic and in one of the mesh.
async fn answer<B>(request: http::Request<B>) -> http::Response<tonic::body::Body>
where
    B: http_body::Body<Data: Send, Error: Into<tonic::codegen::StdError> + Send> + Send + 'static,
{
    let codec = ProstCodec::<Item, Item>::default();
    let grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(LARGEST);
    { grpc }.unary(service_fn(echo), request).await
}

/// Hands on what each exchange was, once it is counted.
struct Seen(mpsc::UnboundedSender<Exchange>);

impl ExchangeSink for Seen {
    fn record(&self, exchange: &Exchange, _: SystemTime) {
        // The test may have ended.
        let _gone = self.0.send(exchange.clone());
    }
}

/// Which server the calls reach.
#[derive(Debug, Clone, Copy)]
enum Server {
    /// One of the mesh, in the process of the service.
    Embedded,
    /// One of tonic, behind an agent.
    Tonic,
}

/// A caller and a server with what each has seen.
struct Pair {
    web: Mesh,
    cart: Mesh,
    pusher: Pusher,
    seen: [mpsc::UnboundedReceiver<Exchange>; 2],
}

impl Pair {
    async fn start(server: Server, limits: Limits) -> Result<Self> {
        let world = World::new()?;
        let (sent, seen_out) = mpsc::unbounded_channel();
        let (taken, seen_in) = mpsc::unbounded_channel();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let cart = world.mesh("cart")?.exchanges(Arc::new(Seen(taken)));
        let cart = cart.limits(limits).start()?;
        let serving = cart.clone();
        match server {
            Server::Embedded => {
                let app = service_fn(async |request: http::Request<Body>| {
                    Ok::<_, std::convert::Infallible>(answer(request).await)
                });
                tokio::spawn(async move { serving.serve(listener, app).await });
            }
            Server::Tonic => {
                let behind = TcpListener::bind("127.0.0.1:0").await?;
                let to = InboundListener::new(behind.local_addr()?, AppProtocol::Grpc);
                let app = service_fn(async |request: http::Request<tonic::body::Body>| {
                    Ok::<_, std::convert::Infallible>(answer(request).await)
                });
                let tonic = tonic::transport::Server::builder().timeout(LONGEST);
                tokio::spawn(tonic.serve_with_incoming(app, TcpIncoming::from(behind)));
                tokio::spawn(async move { serving.serve_behind(listener, to).await });
            }
        }
        let (pusher, source) = pushed("test");
        let web = world.mesh("web")?.exchanges(Arc::new(Seen(sent)));
        let web = web.source(source).start()?;
        let service = world.service("cart", AppProtocol::Grpc, &[address])?;
        pusher.push(service).await?;
        web.ready().await;
        Ok(Self {
            web,
            cart,
            pusher,
            seen: [seen_out, seen_in],
        })
    }

    /// The status of a call, as the caller gets it.
    async fn call(&self, request: Request<Item>) -> Result<Status> {
        let mut client = tonic::client::Grpc::new(self.web.channel("cart")?);
        client.ready().await.map_err(|e| e.to_string())?;
        let path = PathAndQuery::from_static("/shop.Cart/Echo");
        let codec = ProstCodec::<Item, Item>::default();
        let called = timeout(PATIENCE, client.unary(request, path, codec)).await?;
        called.err().ok_or_else(|| "the call succeeded".into())
    }
}

fn item(name: &str) -> Request<Item> {
    let name = name.to_owned();
    Request::new(Item { name })
}

/// The caller gets what the server says; records, metrics and what is kept of a sampled log are of what
/// is meant.
#[tokio::test]
async fn the_words_of_tonic_are_read_as_they_are_meant() -> Result {
    let late = item("silence");
    let large = item(&"x".repeat(2 * LARGEST));
    for (server, request, said, words, meant) in [
        (Server::Tonic, late, Code::Cancelled, "Timeout expired", 4),
        (Server::Tonic, large, Code::OutOfRange, "too large", 8),
        (
            Server::Embedded,
            item(&"x".repeat(2 * LARGEST)),
            Code::OutOfRange,
            "too large",
            8,
        ),
    ] {
        let mut pair = Pair::start(server, Limits::default()).await?;
        let status = pair.call(request).await?;
        assert_eq!(status.code(), said, "{server:?} {status}");
        assert!(status.message().contains(words), "{server:?} {status}");
        for (seen, mesh) in pair.seen.iter_mut().zip([&pair.web, &pair.cart]) {
            let record = timeout(PATIENCE, seen.recv()).await?.ok_or("no record")?;
            assert_eq!(record.grpc_status, Some(meant), "{server:?} {record:?}");
            assert_eq!(record.is_failure(), meant == 4, "{server:?} {record:?}");
            let metrics = mesh.encode_metrics();
            let label = format!("grpc_response_status=\"{meant}\"");
            let mut counted = metrics
                .lines()
                .filter(|line| line.starts_with("istio_requests_total{"));
            assert!(
                counted.all(|line| line.contains(&label)) && metrics.contains(&label),
                "{server:?} {metrics}"
            );
        }
    }
    Ok(())
}

/// A deadline of the caller, one of a route, and a header above the limit of the server.
#[tokio::test]
async fn the_mesh_says_what_it_means_itself() -> Result {
    let mut limits = Limits::default();
    limits.header_bytes = 8 * 1024;
    let pair = Pair::start(Server::Embedded, limits).await?;
    let mut large = item("tea");
    large
        .metadata_mut()
        .insert("x-large", "x".repeat(16 * 1024).parse()?);
    let status = pair.call(large).await?;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");

    // The caller's own deadline is heeded before the server's.
    let mut late = item("silence");
    late.set_timeout(Duration::from_millis(20));
    let status = pair.call(late).await?;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");

    let namespace = Namespace::new("shop")?;
    let cart = ServiceName::new(&namespace, "cart")?;
    let rule = Rule::to(vec![Backend::new(cart.clone(), 80, 1)?])
        .with_timeouts(Timeouts::new(Some(Duration::from_millis(20)), None)?);
    let key = ObjectKey::new(Kind::HttpRoute, &namespace, "r")?;
    let route = Route::new(key, vec![Parent::new(cart, None)], vec![rule])?;
    pair.pusher.push(vec![Op::put(route)]).await?;
    let status = pair.call(item("silence")).await?;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    Ok(())
}
