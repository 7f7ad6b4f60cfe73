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
mod aside;
mod builder;
mod client;
mod inbound;
mod limits;
mod mesh;
mod outbound;
mod server;
mod status;

pub use admin::{Admin, LogLevel, serve_local};
pub use builder::{MeshBuilder, StartError, WantsIdentity, WantsNothing, WantsWorkload};
pub use client::{Answer, Channel, Client};
pub use inbound::Inbound;
pub use limits::Limits;
pub use mesh::Mesh;
pub use outbound::{Listen, OutboundListener};
pub use status::{EndpointStatus, IdentityStatus, ServiceStatus, Status};

#[cfg(test)]
mod tests;
