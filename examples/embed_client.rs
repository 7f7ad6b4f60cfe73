//! How does a Rust program call a Service of the mesh?
//!
//! `mesh.client()` is a tower service: give it a request whose authority names the Service, and it
//! authorizes, routes, balances and speaks mutual TLS in this process, without a sidecar.
//!
//! ```console
//! cargo run -p inmesh-examples --example embed_client
//! ```

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use inmesh_core::Body;
use inmesh_core::discover::pushed;
use inmesh_core::model::AppProtocol;
use inmesh_core::testing::World;
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt, service_fn};

type Result = std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
pub(crate) async fn main() -> Result {
    // Certificates and names; a program of yours reads them from files or asks a CA.
    let world = World::new()?;

    // The other side: two endpoints of the Service `cart`.
    let mut endpoints = Vec::new();
    for answer in ["one", "two"] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        endpoints.push(listener.local_addr()?);
        let cart = world.mesh("cart")?.start()?;
        let app = service_fn(move |_: Request<Body>| async move {
            Ok::<_, std::convert::Infallible>(Response::new(Body::from(answer)))
        });
        tokio::spawn(async move { cart.serve(listener, app).await });
    }

    // This side: a source that is given where `cart` is, and the mesh of the workload `web`.
    let (pusher, source) = pushed("example");
    let mesh = world.mesh("web")?.source(source).start()?;
    let cart = world.service("cart", AppProtocol::Http1, &endpoints)?;
    pusher.push(cart).await?;
    mesh.ready().await;

    // A tower service like any other: put your own layers around it.
    let client = ServiceBuilder::new()
        .map_request(|path: &str| {
            let uri = format!("http://cart{path}");
            Request::get(uri).body(Body::empty()).expect("it is a URI")
        })
        .service(mesh.client());
    let mut answers = Vec::new();
    for _ in 0..20 {
        let answer = client.clone().oneshot("/items").await?;
        assert_eq!(answer.status(), StatusCode::OK);
        answers.push(answer.into_body().collect().await?.to_bytes());
    }
    assert!(answers.iter().any(|a| a == "one") && answers.iter().any(|a| a == "two"));

    // What the mesh cannot carry it answers itself, with the reason.
    let unknown = Request::get("http://unknown/").body(Body::empty())?;
    let answer = mesh.client().oneshot(unknown).await?;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert_eq!(answer.headers()["x-mesh-reason"], "unknown-host");
    Ok(())
}
