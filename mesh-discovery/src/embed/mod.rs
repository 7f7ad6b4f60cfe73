//! A program in a Pod, or anywhere beside a control plane, as a member of the mesh: its identity, its policies
//! and the Services that it calls.
//!
//! ```no_run
//! # async fn doc(app: axum_like::App, listener: tokio::net::TcpListener) -> Result<(), Box<dyn std::error::Error>> {
//! use inmesh_core::Mesh;
//! use inmesh_discovery::embed::{Embed, Pod};
//!
//! let mesh = Mesh::builder().kubernetes(Pod::new()).await?.start()?;
//! # mesh.serve(listener, app).await;
//! # Ok(()) }
//! # mod axum_like {
//! #   pub type App = tower::util::BoxCloneSyncService<http::Request<inmesh_core::Body>,
//! #       http::Response<inmesh_core::Body>, std::io::Error>;
//! # }
//! ```

mod pod;

use std::future::Future;

use inmesh_core::runtime::{MeshBuilder, WantsIdentity, WantsNothing};
use inmesh_pki::id::SpiffeId;

pub use pod::{Pod, PodError};

use crate::control::ControlSource;
use crate::manifest::Defaults;

/// What a builder becomes beside a control plane.
pub trait Embed: Sized {
    /// The builder once it has all that it must have.
    type Built;

    /// The mesh of this Pod: its service account is the identity, from the CA of the cluster, and its
    /// configuration comes from the control plane.
    ///
    /// # Errors
    ///
    /// [`PodError`]: what a Pod of the mesh has mounted is not there. A CA or a control plane that does not
    /// answer is no error: the mesh is not ready before they have.
    fn kubernetes(self, pod: Pod) -> impl Future<Output = Result<Self::Built, PodError>> + Send;
}

/// What follows a control plane.
pub trait FollowControlPlane: Sized {
    /// Adds what the control plane at `address` (`host:port`) hands on, which is known by its ID, as the
    /// workload of this builder. It can be called in a Pod and outside; `ControlSource` has more settings.
    ///
    /// # Errors
    ///
    /// [`PodError::NoCrypto`] if no cryptography was given and no feature brings one.
    fn control_plane(self, address: &str, server: SpiffeId) -> Result<Self, PodError>;
}

impl Embed for MeshBuilder<WantsIdentity> {
    type Built = MeshBuilder<WantsNothing>;

    async fn kubernetes(self, pod: Pod) -> Result<Self::Built, PodError> {
        pod.build(self).await
    }
}

impl FollowControlPlane for MeshBuilder<WantsNothing> {
    fn control_plane(self, address: &str, server: SpiffeId) -> Result<Self, PodError> {
        let crypto = self.cryptography().ok_or(PodError::NoCrypto)?.clone();
        let workload = self.workload_of();
        let defaults = Defaults::new(workload.namespace.clone());
        let identity = self.identities().clone();
        let source = ControlSource::new(address, server, identity, crypto, defaults);
        let source = source.instance(&workload.name);
        Ok(self.source(source))
    }
}
