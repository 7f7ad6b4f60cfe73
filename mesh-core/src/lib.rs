//! The data plane of inmesh: six rooms that a request walks through, inbound and outbound alike.
//!
//! ```text
//! accept -> identify -> authorize -> route -> balance -> connect
//! ```
//!
//! Each decision is a pure function (`decide.rs`): time, randomness and configuration are
//! arguments, so what is explained or simulated is what happens. [`plan`] makes all of them for one
//! request; the runtime obeys it, and owns sockets and tasks. Nothing here knows Kubernetes, DNS or
//! eBPF.
//!
//! Start with [`Mesh::builder`]. What tower sees: `Client` and `Channel` are services, to be wrapped
//! in layers of yours; `Mesh::serve` takes a service, wrapped as you like; `AuthorizeLayer` judges
//! requests in a server of your own. Without the feature `runtime` there is the vocabulary
//! ([`model`]), the snapshot ([`snapshot`]) and the decisions ([`authorize`], [`route`],
//! [`balance`], [`retry`], [`plan`]).
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod accept;
pub mod authorize;
pub mod balance;
mod body;
#[cfg(feature = "runtime")]
mod budget;
#[cfg(feature = "runtime")]
mod connect;
mod deadline;
pub mod discover;
pub mod drain;
#[cfg(feature = "runtime")]
mod early;
mod error;
pub mod explain;
#[cfg_attr(
    not(feature = "runtime"),
    expect(dead_code, reason = "decisions look at heads alone")
)]
mod fields;
#[cfg(test)]
mod fixture;
mod grpc;
mod head;
#[cfg(feature = "runtime")]
mod http2;
pub mod identify;
mod leave;
pub mod limit;
mod local;
pub mod model;
mod next_hop;
pub mod origination;
pub mod plan;
pub mod retry;
pub mod route;
#[cfg(feature = "runtime")]
pub mod runtime;
#[cfg(feature = "simulate")]
#[cfg_attr(docsrs, doc(cfg(feature = "simulate")))]
pub mod simulate;
pub mod snapshot;
#[cfg(feature = "runtime")]
pub mod telemetry;

#[cfg(all(feature = "test-util", any(feature = "aws-lc-rs", feature = "ring")))]
#[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
pub mod testing;
pub mod traffic;
#[cfg(feature = "runtime")]
mod wake;

pub use body::{Body, BoxError};
pub use error::{Blame, Error, Reason, Stage};
/// SPIFFE identity: the crate `inmesh-pki`, so that an embedder needs no dependency of its own.
pub use inmesh_pki as pki;
pub use local::Local;
#[cfg(feature = "runtime")]
pub use runtime::Mesh;
