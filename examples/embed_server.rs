//! How does an axum application serve in the mesh and learn its caller's identity?
//!
//! `mesh.serve` speaks mutual TLS and asks the policy; handlers take the caller as a [`PeerInfo`].
//! What tower-http has (tracing, request IDs, CORS, ...) goes around the routes as it always does.
//!
//! ```console
//! cargo run -p inmesh-examples --example embed_server
//! ```

use axum::Router;
use axum::routing::get;
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, ORIGIN};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use inmesh_core::Body;
use inmesh_core::authorize::{Action, Operation, Policy, PolicyRule, PolicySource};
use inmesh_core::discover::pushed;
use inmesh_core::identify::PeerInfo;
use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey};
use inmesh_core::snapshot::Op;
use inmesh_core::testing::World;
use tokio::net::TcpListener;
use tower_http::ServiceBuilderExt;
use tower_http::cors::CorsLayer;
use tower_http::request_id::MakeRequestUuid;
use tower_http::trace::TraceLayer;

async fn greet(peer: PeerInfo) -> String {
    let name = peer.id().map_or("stranger", |id| id.as_str());
    format!("hello {name}")
}

#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let layers = tower::ServiceBuilder::new()
        .sensitive_request_headers([AUTHORIZATION].into())
        .set_x_request_id(MakeRequestUuid)
        .layer(TraceLayer::new_for_http())
        .propagate_x_request_id()
        .layer(CorsLayer::permissive());
    let app = Router::new()
        .route("/hello", get(greet))
        .route("/admin", get(greet))
        .layer(layers);

    // The server's policy: the workload `web` may GET /hello, and nothing else is allowed.
    let world = World::new()?;
    let shop = Namespace::new("shop")?;
    let key = ObjectKey::new(Kind::AuthorizationPolicy, &shop, "greet")?;
    let web = PolicySource::builder()
        .principals(["example.org/ns/shop/sa/web"])
        .build()?;
    let hello = Operation::builder()
        .methods(["GET"])
        .paths(["/hello"])
        .build()?;
    let policy = Policy::new(
        key,
        Action::Allow,
        vec![PolicyRule::new(vec![web], vec![hello])],
    );
    let (policies, source) = pushed("policies");
    let server = world.mesh("cart")?.source(source).start()?;
    let policy = Op::put(policy);
    policies.push(vec![policy]).await?;
    server.ready().await;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { server.serve(listener, app).await });

    let (services, source) = pushed("services");
    let mesh = world.mesh("web")?.source(source).start()?;
    let cart = world.service("cart", AppProtocol::Http1, &[address])?;
    services.push(cart).await?;
    mesh.ready().await;
    let ask = |path: &str| Request::get(format!("http://cart{path}")).header(ORIGIN, "http://shop");

    let answer = mesh.client().send(ask("/hello").body(Body::empty())?).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.headers().contains_key("x-request-id"));
    assert_eq!(answer.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    let text = answer.into_body().collect().await?.to_bytes();
    assert_eq!(text, "hello spiffe://example.org/ns/shop/sa/web");

    let answer = mesh.client().send(ask("/admin").body(Body::empty())?).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(answer.headers()["x-mesh-reason"], "denied");
    Ok(())
}
