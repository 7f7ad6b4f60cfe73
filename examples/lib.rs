//! Examples of inmesh; each file beside this one answers one question and ends in an assert.
//!
//! | file | question |
//! | --- | --- |
//! | `embed_client.rs` | How does a Rust program call a Service of the mesh? |
//! | `embed_server.rs` | How does an axum application serve in the mesh and learn its caller's identity? |
//! | `embed_grpc.rs` | How do a tonic client and a tonic service speak gRPC through the mesh? |
//! | `canary.rs` | How does a new version take over traffic, step by step? |
//! | `ab.rs` | How does each user stay in one version of an A/B test, while the test grows? |
//! | `blue_green.rs` | How does all traffic change to another version at once, and back? |
//! | `production.rs` | How does a service embed the mesh in production, with the CA, documents and policy? |
//! | `in_pod.rs` | How does an axum service in a Pod become a member of the mesh? |
//! | `mtls_pair.rs` | Which peer gets a connection, and what does a server learn of one that it refuses? |
//!
//! `cargo run -p inmesh-examples --example embed_client` runs one, `cargo test -p inmesh-examples`
//! all.
//!
//! The mesh on one page, with layers of your own around both sides:
//!
//! ```
//! # type Result = std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;
//! # async fn run(identity: inmesh_core::pki::IdentityReader, source: impl inmesh_core::discover::Source,
//! #   listener: tokio::net::TcpListener, app: axum::Router) -> Result {
//! use inmesh_core::{Body, Mesh, authorize::DefaultAction, model::Workload};
//! use tower::{Service, ServiceBuilder};
//! use tower_http::trace::TraceLayer;
//!
//! let web = Workload::new("shop", "web", "web")?;
//! let mesh = Mesh::builder().identity(identity).workload(web, DefaultAction::Deny);
//! let mesh = mesh.source(source).start()?; // where Services are: files, DNS, your own
//! let mut client = ServiceBuilder::new().layer(TraceLayer::new_for_http()).service(mesh.client());
//! let answer = client.call(http::Request::get("http://cart/items").body(Body::empty())?).await?;
//! mesh.serve(listener, app.layer(TraceLayer::new_for_http())).await; // verified, permitted peers
//! # let _: http::Response<_> = answer;
//! # Ok(()) }
//! ```

/// The code of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// So does that of the page on embedding.
#[cfg(doctest)]
#[doc = include_str!("../mesh-cli/docs/embedding.md")]
struct Embedding;
