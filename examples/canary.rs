//! How does a new version take over traffic, step by step?
//!
//! An HTTPRoute splits by weight; a new one in its place moves the weights. The change is one swap:
//! each request is decided by the old route or by the new one, and none is lost.
//!
//! ```console
//! cargo run -p inmesh-examples --example canary
//! ```

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use inmesh_core::discover::pushed;
use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey, ServiceName};
use inmesh_core::route::{Backend, Parent, Route, Rule};
use inmesh_core::snapshot::Op;
use inmesh_core::testing::World;
use inmesh_core::{Body, Mesh};
use tokio::net::TcpListener;
use tower::service_fn;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const REQUESTS: usize = 1_000;

/// The route of `cart`: so much to `cart-v1`, so much to `cart-v2`.
fn route(v1: u32, v2: u32) -> Result<Vec<Op>> {
    let shop = Namespace::new("shop")?;
    let service = |name| ServiceName::new(&shop, name);
    let key = ObjectKey::new(Kind::HttpRoute, &shop, "cart")?;
    let parents = vec![Parent::new(service("cart")?, None)];
    let backends = vec![
        Backend::new(service("cart-v1")?, 80, v1)?,
        Backend::new(service("cart-v2")?, 80, v2)?,
    ];
    let route = Route::new(key, parents, vec![Rule::to(backends)])?;
    Ok(vec![Op::put(route)])
}

/// How many of the requests to `cart` were answered by v2.
async fn share_of_v2(mesh: &Mesh) -> Result<usize> {
    let mut v2 = 0;
    for _ in 0..REQUESTS {
        let request = Request::get("http://cart/").body(Body::empty())?;
        let answer = mesh.client().send(request).await;
        assert_eq!(answer.status(), StatusCode::OK);
        v2 += usize::from(answer.into_body().collect().await?.to_bytes() == "cart-v2");
    }
    Ok(v2)
}

#[tokio::main]
pub(crate) async fn main() -> Result<()> {
    let world = World::new()?;
    let mut ops = Vec::new();
    for version in ["cart-v1", "cart-v2"] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoints = [listener.local_addr()?];
        let server = world.mesh(version)?.start()?;
        let app = service_fn(move |_: Request<Body>| async move {
            Ok::<_, std::convert::Infallible>(Response::new(Body::from(version)))
        });
        tokio::spawn(async move { server.serve(listener, app).await });
        ops.extend(world.service(version, AppProtocol::Http1, &endpoints)?);
    }
    // `cart` itself has no endpoints; its route says where its requests go.
    ops.extend(world.service("cart", AppProtocol::Http1, &[])?);
    ops.extend(route(90, 10)?);
    let (pusher, source) = pushed("example");
    let mesh = world.mesh("web")?.source(source).start()?;
    pusher.push(ops).await?;
    mesh.ready().await;

    // 100 of 1,000 are expected; 50 to 150 is five standard deviations to either side.
    let v2 = share_of_v2(&mesh).await?;
    assert!((50..=150).contains(&v2), "{v2} of {REQUESTS}");

    let mut snapshots = mesh.snapshot().clone();
    let before = snapshots.load().generation();
    pusher.push(route(0, 100)?).await?;
    while snapshots.load().generation() == before {
        snapshots.changed().await;
    }
    assert_eq!(share_of_v2(&mesh).await?, REQUESTS);
    Ok(())
}
