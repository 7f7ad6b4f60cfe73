//! How does each user stay in one version of an A/B test, while the test grows?
//!
//! By a header, where the group of a user is known: an HTTPRoute matches it. By a cookie, where it is not: a
//! TrafficPolicy has the weights of the route split users instead of requests, and a user without a
//! cookie is given one.
//!
//! ```console
//! cargo run -p inmesh-examples --example ab
//! ```

use http::header::{COOKIE, HeaderValue, SET_COOKIE};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use inmesh_core::discover::{Pusher, pushed};
use inmesh_core::model::{AppProtocol, Namespace};
use inmesh_core::snapshot::Op;
use inmesh_core::testing::World;
use inmesh_core::{Body, Mesh};
use inmesh_discovery::manifest::{Defaults, parse};
use tokio::net::TcpListener;
use tower::service_fn;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const USERS: usize = 500;

/// The route of `cart`: members of the group `beta` meet B, all others by weight; and each user stays.
fn documents(a: u32, b: u32) -> Result<Vec<Op>> {
    let text = format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: cart, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: cart}}]
  rules:
  - matches: [{{headers: [{{name: x-group, value: beta}}]}}]
    backendRefs: [{{name: cart-b, port: 80}}]
  - name: split
    backendRefs:
    - {{name: cart-a, port: 80, weight: {a}}}
    - {{name: cart-b, port: 80, weight: {b}}}
---
apiVersion: inmesh.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: cart-users, namespace: shop}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: cart, sectionName: split}}]
  trafficSplit: {{consistentHash: {{httpCookie: {{name: variant, path: /, ttl: 720h}}}}}}
"
    );
    let read = parse("cart.yaml", &text, &Defaults::new(Namespace::new("shop")?))?;
    Ok(read.entries.into_iter().map(|entry| entry.op).collect())
}

/// The version that answers, and the cookie that it came with.
async fn ask(
    mesh: &Mesh,
    name: &str,
    value: &HeaderValue,
) -> Result<(String, Option<HeaderValue>)> {
    let request = Request::get("http://cart/").header(name, value);
    let answer = mesh.client().send(request.body(Body::empty())?).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let cookie = answer.headers().get(SET_COOKIE).map(HeaderValue::to_str);
    let cookie = match cookie.transpose()?.and_then(|text| text.split_once(';')) {
        Some((pair, _)) => Some(HeaderValue::from_str(pair)?),
        None => None,
    };
    let version = answer.into_body().collect().await?.to_bytes();
    Ok((String::from_utf8(version.to_vec())?, cookie))
}

async fn publish(mesh: &Mesh, pusher: &Pusher, ops: Vec<Op>) -> Result<()> {
    let mut snapshots = mesh.snapshot().clone();
    let before = snapshots.load().generation();
    pusher.push(ops).await?;
    while snapshots.load().generation() == before {
        snapshots.changed().await;
    }
    Ok(())
}

#[tokio::main]
pub(crate) async fn main() -> Result<()> {
    let world = World::new()?;
    let mut ops = world.service("cart", AppProtocol::Http1, &[])?;
    for version in ["cart-a", "cart-b"] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoints = [listener.local_addr()?];
        let server = world.mesh(version)?.start()?;
        let app = service_fn(move |_: Request<Body>| async move {
            Ok::<_, std::convert::Infallible>(Response::new(Body::from(version)))
        });
        tokio::spawn(async move { server.serve(listener, app).await });
        ops.extend(world.service(version, AppProtocol::Http1, &endpoints)?);
    }
    ops.extend(documents(90, 10)?);
    let (pusher, source) = pushed("example");
    let mesh = world.mesh("web")?.source(source).start()?;
    pusher.push(ops).await?;
    mesh.ready().await;

    let beta = HeaderValue::from_static("beta");
    for _ in 0..20 {
        assert_eq!(ask(&mesh, "x-group", &beta).await?.0, "cart-b");
    }

    // A browser that has no cookie is given one, and meets its version from then on.
    let mut users = Vec::new();
    for _ in 0..USERS {
        let (version, cookie) = ask(&mesh, "x-group", &HeaderValue::from_static("none")).await?;
        users.push((cookie.ok_or("a cookie")?, version));
    }
    for (cookie, version) in &users {
        let again = ask(&mesh, COOKIE.as_str(), cookie).await?;
        assert_eq!(again, (version.clone(), None));
    }

    // From 10 to 30 %: the users that move all move to B, and are a fifth of all: 100 of 500. 45 is five
    // standard deviations.
    publish(&mesh, &pusher, documents(70, 30)?).await?;
    let mut moved = 0_usize;
    for (cookie, before) in &users {
        let (after, _) = ask(&mesh, COOKIE.as_str(), cookie).await?;
        if after != *before {
            assert_eq!((&**before, &*after), ("cart-a", "cart-b"));
            moved += 1;
        }
    }
    assert!(moved.abs_diff(100) <= 45, "{moved} of {USERS}");
    Ok(())
}
