//! How does a service embed the mesh in production? Its identity comes from the CA and is kept over
//! restarts; Services and policy are documents in a folder; axum and tonic share a port; an orderly
//! shutdown loses no request. `cargo run --example production -- ca.lab:15012 /etc/greeter`
use std::{convert::Infallible, path::Path};

use axum::{Router, routing::get};
use inmesh_core::pki::{Crypto, source::ca::CaSource};
use inmesh_core::{Mesh, authorize::DefaultAction, identify::PeerInfo, model::Workload};
use inmesh_discovery::{file::FileSource, manifest::Defaults};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, server::Grpc};
use tonic_prost::ProstCodec;
use tower::service_fn;

type Served = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// `rpc Greet(string) returns (string)`; services that tonic generates mount the same way.
async fn greet(name: Request<String>) -> Result<Response<String>, Status> {
    Ok(Response::new(format!("hello {}", name.get_ref())))
}

/// `home` has the CA's bundle, a join token and the documents.
pub(crate) async fn serve(ca: &str, home: &Path, on: TcpListener, stop: impl Future) -> Served {
    let workload = Workload::new("shop", "greeter", "greeter")?.label("app", "greeter");
    let id = workload.spiffe_id(&"lab.example".parse()?)?;
    let identity = CaSource::new(id, ca, "spiffe://lab.example/inmesh/ca".parse()?)
        .trust_bundle(home.join("bundle.pem"))
        .token(home.join("token"))
        .keep(home.join("identity"))
        .start(&Crypto::aws_lc_rs())
        .await?;
    tokio::spawn(identity.task); // rotates it
    let defaults = Defaults::new(workload.namespace.clone());
    let mesh = Mesh::builder()
        .identity(identity.reader)
        .workload(workload, DefaultAction::Deny)
        .source(FileSource::new(home.join("documents"), defaults))
        .start()?;
    mesh.ready().await; // an identity, and every document

    let hello = async |peer: PeerInfo| format!("hello {}", peer.id().map_or("", |id| id.as_str()));
    let grpc = service_fn(async |request| {
        let mut grpc = Grpc::new(ProstCodec::<String, String>::default());
        Ok::<_, Infallible>(grpc.unary(service_fn(greet), request).await)
    });
    let app = Router::new().route("/hello", get(hello));
    let app = app.route_service("/shop.Greeter/Greet", grpc);
    let drained = async { (stop.await, mesh.drain().await) }; // running requests finish
    tokio::join!(mesh.serve(on, app), drained);
    Ok(())
}

#[tokio::main]
async fn main() -> Served {
    let [ca, home] = [1, 2].map(|n| std::env::args().nth(n).expect("production CA FOLDER"));
    let listener = TcpListener::bind("0.0.0.0:8443").await?;
    serve(&ca, home.as_ref(), listener, tokio::signal::ctrl_c()).await
}
