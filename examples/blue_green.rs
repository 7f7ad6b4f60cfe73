//! How does all traffic change to another version at once, and back?
//!
//! Both versions stand, and the weights of an HTTPRoute are 1 and 0. What a change does is seen before it is
//! made: the documents are compared, request by request. The change is one swap: what was under way ends
//! where it began, and what begins goes to the other version.
//!
//! ```console
//! cargo run -p inmesh-examples --example blue_green
//! ```

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use inmesh_core::discover::{Pusher, pushed};
use inmesh_core::model::Namespace;
use inmesh_core::snapshot::Op;
use inmesh_core::testing::World;
use inmesh_core::{Body, Mesh};
use inmesh_discovery::manifest::{Defaults, parse};
use inmesh_discovery::testing::{self, Requests, diff};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::service_fn;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The versions with the ports of their endpoints, and the route of `cart`.
fn documents(ports: [u16; 2], weights: [u32; 2]) -> String {
    let service = |name: &str| {
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{ports: [{{name: http, port: 80, appProtocol: http}}]}}
---"
        )
    };
    let slice = |name: &str, port: u16| {
        format!(
            "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-1
  namespace: shop
  labels: {{kubernetes.io/service-name: {name}}}
  annotations: {{inmesh.dev/ids: spiffe://example.org/ns/shop/sa/{name}}}
addressType: IPv4
ports: [{{name: http, port: {port}}}]
endpoints: [{{addresses: [127.0.0.1]}}]
---"
        )
    };
    let ([blue, green], [b, g]) = (weights, ports);
    let versions = [
        service("blue"),
        slice("blue", b),
        service("green"),
        slice("green", g),
    ];
    format!(
        "{}{}
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: cart, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: cart}}]
  rules:
  - backendRefs:
    - {{name: blue, port: 80, weight: {blue}}}
    - {{name: green, port: 80, weight: {green}}}
",
        service("cart"),
        versions.concat()
    )
}

fn defaults() -> Result<Defaults> {
    Ok(Defaults::new(Namespace::new("shop")?).loopback(true))
}

fn read(text: &str) -> Result<Vec<Op>> {
    let entries = parse("shop.yaml", text, &defaults()?)?.entries;
    Ok(entries.into_iter().map(|entry| entry.op).collect())
}

/// What a change of documents does, which no verdict may differ by.
fn compare(old: &str, new: &str) -> Result<Vec<String>> {
    let defaults = defaults()?;
    let world = |text| testing::World::from_documents([("shop.yaml", text)], &defaults);
    let (old, new) = (world(old)?, world(new)?);
    let seen = diff(&old, &new, &Requests::of_documents(&[&old, &new]));
    assert!(!seen.changes_verdicts(), "{:#?}", seen.changes);
    let aspects = seen.changes.iter().flat_map(|change| &change.aspects);
    let backends = aspects.filter(|(name, ..)| *name == "backends");
    Ok(backends
        .map(|(_, old, new)| format!("{old} -> {new}"))
        .collect())
}

async fn ask(mesh: &Mesh, target: &str) -> Result<String> {
    let request = Request::get(target).body(Body::empty())?;
    let answer = mesh.client().send(request).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let body = answer.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.to_vec())?)
}

async fn publish(mesh: &Mesh, pusher: &Pusher, text: &str) -> Result<()> {
    let mut snapshots = mesh.snapshot().clone();
    let before = snapshots.load().generation();
    pusher.push(read(text)?).await?;
    while snapshots.load().generation() == before {
        snapshots.changed().await;
    }
    Ok(())
}

#[tokio::main]
pub(crate) async fn main() -> Result<()> {
    let world = World::new()?;
    // A request for `/slow` has begun, and may end.
    let (begun, may_end) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let mut ports = [0; 2];
    for (version, port) in ["blue", "green"].into_iter().zip(&mut ports) {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        *port = listener.local_addr()?.port();
        let server = world.mesh(version)?.start()?;
        let (begun, may_end) = (Arc::clone(&begun), Arc::clone(&may_end));
        let app = service_fn(move |request: Request<Body>| {
            let (begun, may_end) = (Arc::clone(&begun), Arc::clone(&may_end));
            async move {
                if request.uri().path() == "/slow" {
                    begun.add_permits(1);
                    let _may = may_end.acquire().await;
                }
                Ok::<_, std::convert::Infallible>(Response::new(Body::from(version)))
            }
        });
        tokio::spawn(async move { server.serve(listener, app).await });
    }
    let (blue, green) = (documents(ports, [1, 0]), documents(ports, [0, 1]));
    let (pusher, source) = pushed("example");
    let mesh = world.mesh("web")?.source(source).start()?;
    pusher.push(read(&blue)?).await?;
    mesh.ready().await;
    assert_eq!(ask(&mesh, "http://cart/").await?, "blue");

    // Before: all that differs is where requests go, and none is refused that was not.
    let changes = compare(&blue, &green)?;
    assert!(!changes.is_empty());
    let switch = "blue.shop:80 100%, green.shop:80 0% -> blue.shop:80 0%, green.shop:80 100%";
    assert!(changes.iter().all(|change| change == switch), "{changes:?}");

    // One request is under way while the weights change.
    let under_way = tokio::spawn({
        let mesh = mesh.clone();
        async move { ask(&mesh, "http://cart/slow").await }
    });
    let _begun = begun.acquire().await?;
    publish(&mesh, &pusher, &green).await?;
    for _ in 0..100 {
        assert_eq!(ask(&mesh, "http://cart/").await?, "green");
    }
    may_end.add_permits(1);
    assert_eq!(under_way.await??, "blue");

    // The way back is the same.
    publish(&mesh, &pusher, &blue).await?;
    for _ in 0..100 {
        assert_eq!(ask(&mesh, "http://cart/").await?, "blue");
    }
    Ok(())
}
