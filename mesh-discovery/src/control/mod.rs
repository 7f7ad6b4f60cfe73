//! A control plane and those that follow it: what a process needs of a large mesh, over one stream.
//!
//! The transport is the incremental one of xDS ([`DeltaAggregatedResources`]): subscriptions on demand,
//! versions that are hashes of content, a nonce for each response, and an acknowledgement that says which
//! resources are refused. The resources are our own: documents as they are, which their readers here read,
//! and endpoints in a compact form.
//!
//! A name of a resource is that of its object (`HTTPRoute/shop/cart`). A subscription is to what leads to a
//! Service (`service/shop/cart`, `host/cart.shop`, `address/10.96.0.1`), or to all (`*`); what belongs to it is
//! sent with it.
//!
//! [`DeltaAggregatedResources`]: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol

#[cfg(feature = "control-client")]
mod client;
mod names;
mod proto;
mod resource;
#[cfg(feature = "control-server")]
mod server;

#[cfg(all(
    test,
    feature = "control-client",
    feature = "control-server",
    feature = "kubernetes"
))]
mod tests;

#[cfg(feature = "control-client")]
pub use client::{ControlSource, Follow};
#[cfg(feature = "control-server")]
pub use server::{
    ControlBody, ControlPlane, ControlService, ControlStatus, Refused, SubscriberStatus,
};
