//! Two workloads of one world, over real sockets.

use ::http::{Request, StatusCode};
use http_body_util::BodyExt;
use inmesh_core::Body;
use inmesh_core::discover::pushed;
use inmesh_core::identify::PeerInfo;
use inmesh_core::model::AppProtocol;
use inmesh_core::testing::World;
use std::sync::Arc;
use tokio::net::TcpListener;
use tower::service_fn;

type Result = std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;

#[tokio::test]
async fn a_request_walks_through_both_sides() -> Result {
    let world = World::new()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = world.mesh("cart")?.start()?;
    let app = service_fn(async |request: Request<Body>| {
        let peer = request
            .extensions()
            .get::<Arc<PeerInfo>>()
            .and_then(|p| p.id().map(|i| i.to_string()));
        Ok::<_, std::io::Error>(::http::Response::new(Body::from(peer.unwrap_or_default())))
    });
    tokio::spawn({
        let server = server.clone();
        async move { server.serve(listener, app).await }
    });

    let (pusher, source) = pushed("test");
    let client = world.mesh("web")?.source(source).start()?;
    pusher
        .push(world.service("cart", AppProtocol::Http1, &[address])?)
        .await?;
    client.ready().await;
    for _ in 0..3 {
        let answer = client
            .client()
            .send(Request::get("http://cart/items").body(Body::empty())?)
            .await;
        assert_eq!(answer.status(), StatusCode::OK, "{:?}", answer.headers());
        let body = answer.into_body().collect().await?.to_bytes();
        assert_eq!(body, "spiffe://example.org/ns/shop/sa/web");
    }
    let metrics = client.encode_metrics();
    assert!(metrics.contains("istio_requests_total"), "{metrics}");
    Ok(())
}
