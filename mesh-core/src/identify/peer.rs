//! The peer of a connection, as requests carry it.

use std::net::SocketAddr;

use inmesh_pki::id::{SpiffeId, TrustDomain};

/// The other side of a request, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peer {
    /// The holder of this SPIFFE ID of another trust domain than the workload that it speaks to,
    /// verified by the TLS handshake. Its path means what that domain says, so it has no namespace
    /// here.
    Foreign(SpiffeId),
    /// A workload of this process itself, outbound.
    Local,
    /// A client without an identity: a plaintext connection where that is permitted.
    Unauthenticated,
    /// The holder of this SPIFFE ID, verified by the TLS handshake.
    Verified(SpiffeId),
}

// === impl Peer ===

impl Peer {
    /// The peer that has proved an ID to a workload of a trust domain.
    ///
    /// ```
    /// use inmesh_core::identify::Peer;
    /// let own = "lab.example".parse()?;
    /// let web = "spiffe://lab.example/ns/shop/sa/web".parse()?;
    /// assert!(matches!(Peer::verified(web, &own), Peer::Verified(_)));
    /// let partner = "spiffe://partner.example/ns/shop/sa/web".parse()?;
    /// assert!(matches!(Peer::verified(partner, &own), Peer::Foreign(_)));
    /// # Ok::<(), inmesh_core::pki::id::IdError>(())
    /// ```
    pub fn verified(id: SpiffeId, own: &TrustDomain) -> Self {
        if id.trust_domain() == own {
            Self::Verified(id)
        } else {
            Self::Foreign(id)
        }
    }

    /// The SPIFFE ID, if the peer proved one.
    pub fn id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Foreign(id) | Self::Verified(id) => Some(id),
            Self::Local | Self::Unauthenticated => None,
        }
    }
}

/// The client at the other end of a connection. Inbound requests carry it in their extensions as
/// `Arc<PeerInfo>`, which all requests of a connection share. With the feature `axum` it is an
/// extractor too.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerInfo {
    /// The verified identity, if it has one.
    pub peer: Peer,
    /// The address that the connection came from, or that its proxy named where the listener trusts that.
    pub address: SocketAddr,
}

// === impl PeerInfo ===

impl PeerInfo {
    /// A peer at an address.
    ///
    /// ```
    /// use inmesh_core::identify::{Peer, PeerInfo};
    /// let info = PeerInfo::new(Peer::Unauthenticated, ([127, 0, 0, 1], 9).into());
    /// assert_eq!(info.id(), None);
    /// ```
    pub fn new(peer: Peer, address: SocketAddr) -> Self {
        Self { peer, address }
    }

    /// The SPIFFE ID, if the peer proved one.
    pub fn id(&self) -> Option<&SpiffeId> {
        self.peer.id()
    }
}

/// Extracts the peer in an axum handler; without the mesh in front it answers 500.
#[cfg(feature = "axum")]
impl<S: Sync> axum_core::extract::FromRequestParts<S> for PeerInfo {
    type Rejection = (http::StatusCode, &'static str);

    async fn from_request_parts(
        parts: &mut http::request::Parts,
        _state: &S,
    ) -> Result<Self, Self::Rejection> {
        parts
            .extensions
            .get::<std::sync::Arc<Self>>()
            .map(|info| Self::clone(info))
            .ok_or((
                http::StatusCode::INTERNAL_SERVER_ERROR,
                "the request did not come through the mesh",
            ))
    }
}
