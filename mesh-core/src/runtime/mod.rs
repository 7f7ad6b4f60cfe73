//! The embeddable runtime: the stacks of both directions, made of the rooms, on the caller's tokio.
//!
//! ```text
//! inbound:   accept -> identify (TLS) -> authorize -> the application
//! outbound:  accept -> authorize (egress) -> route -> balance -> connect
//! ```
//!
//! It owns what it spawns and ends by returning. It sets no global, reads no environment, handles
//! no signal.

mod admin;
mod admit;
mod again;
mod app;
mod aside;
mod asked;
mod builder;
mod call;
mod checks;
mod client;
mod exchange;
mod first;
mod gauges;
mod hedge;
mod idle;
mod inbound;
mod inject;
mod labels;
mod learn;
mod limits;
mod listen;
mod listening;
mod merge;
mod mesh;
mod mirror;
mod opaque;
mod outbound;
mod own;
mod pace;
mod permit;
mod proxied;
mod repeat;
mod sending;
mod serve;
mod shared;
mod spent;
mod standing;
mod status;
mod taken;
mod tunnel;
mod upstream;

pub use admin::{Admin, LogLevel};
pub use builder::{MeshBuilder, StartError, WantsIdentity, WantsNothing, WantsWorkload};
pub use client::{Answering, Channel, Client};
pub use limits::Limits;
pub use listen::{Application, InboundListener, Listen, OutboundListener, Target};
pub use listening::ListenerStatus;
pub use mesh::Mesh;
pub use status::{
    BackendStatus, ConnectionsStatus, EndpointError, EndpointStatus, IdentityStatus, PolicyOf,
    PolicyStatus, RenewalStatus, RouteStatus, ServiceStatus, SourceStatus, Status, TierStatus,
};

#[cfg(test)]
mod tests;
