//! How do a tonic client and a tonic service speak gRPC through the mesh?
//!
//! `mesh.channel("cart")` takes the place of `tonic::transport::Channel`, and `mesh.serve` that of
//! tonic's server. The service is written by hand here so that no protoc is needed; generated code
//! calls the same `tonic::client::Grpc` and `tonic::server::Grpc`.
//!
//! ```console
//! cargo run -p inmesh-examples --example embed_grpc
//! ```

use http::uri::PathAndQuery;
use inmesh_core::Body;
use inmesh_core::discover::pushed;
use inmesh_core::model::AppProtocol;
use inmesh_core::testing::World;
use tokio::net::TcpListener;
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

/// `message Item { string name = 1; uint32 count = 2; }`
#[derive(Clone, PartialEq, prost::Message)]
struct Item {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    count: u32,
}

/// `rpc Add(Item) returns (Item)`: there is room for ten.
async fn add(request: Request<Item>) -> Result<Response<Item>, Status> {
    let Item { name, count } = request.into_inner();
    match count + 1 {
        count @ ..=10 => Ok(Response::new(Item { name, count })),
        _ => Err(Status::resource_exhausted("there is room for ten")),
    }
}

#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let world = World::new()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = world.mesh("cart")?.start()?;
    let app = service_fn(async |request: http::Request<Body>| {
        let mut grpc = tonic::server::Grpc::new(ProstCodec::<Item, Item>::default());
        Ok::<_, std::convert::Infallible>(grpc.unary(service_fn(add), request).await)
    });
    tokio::spawn(async move { server.serve(listener, app).await });

    let (pusher, source) = pushed("example");
    let mesh = world.mesh("web")?.source(source).start()?;
    let cart = world.service("cart", AppProtocol::Grpc, &[address])?;
    pusher.push(cart).await?;
    mesh.ready().await;

    let mut client = tonic::client::Grpc::new(mesh.channel("cart")?);
    let mut call = async |count| {
        let ready = client.ready().await;
        ready.map_err(|e| Status::unknown(e.to_string()))?;
        let name = "tea".to_owned();
        let request = Request::new(Item { name, count });
        let path = PathAndQuery::from_static("/shop.Cart/Add");
        let codec = ProstCodec::<Item, Item>::default();
        client.unary(request, path, codec).await
    };
    let added = call(1).await?;
    assert_eq!(added.get_ref().count, 2);
    // The status came in the trailers, after the message.
    let status = added.metadata().get("grpc-status");
    assert!(status.is_some_and(|status| status == "0"));
    let refused = call(10).await.expect_err("ten are there");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.message(), "there is room for ten");
    Ok(())
}
