//! A mesh that knows a whole cluster in, streams of what concerns each workload out.
//!
//! The mesh of the process has the sources and compiles once; a control plane hands on what its snapshot
//! has. It keeps nothing of its own: a subscriber says what it knows, so any replica continues where another
//! has ended. `catalogue`, `session` and `staged` are pure, `hub` wakes, `stream` has the connections.

pub(super) mod catalogue;
mod hub;
pub(super) mod session;
pub(super) mod staged;
mod stream;

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use http::{Request, Response};
use inmesh_core::{Body, Mesh};
use inmesh_pki::Crypto;
use tower_service::Service;

pub use hub::{ControlStatus, SubscriberStatus};
pub use session::Refused;

use self::hub::Hub;
use self::stream::Streams;
use super::proto::delta::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use crate::stage::{Stages, Tally};

/// The largest request that is read: the names and versions of what a subscriber knows.
const MAX_REQUEST: usize = 16 * 1024 * 1024;

/// Hands on what a mesh knows, to agents and libraries over gRPC ([`ControlPlane::service`]).
///
/// A workload is sent the policies that govern its namespace, and what leads to the Services that it
/// subscribes to: no policies of other namespaces, and no routes that others have made for themselves. Its
/// namespace is that of its SPIFFE ID, of the trust domain of this mesh; a peer without one is refused.
///
/// The sources of the mesh hand documents on (`Defaults::documents`). Nothing is sent before they have
/// synced. It ends with the last of its services.
///
/// ```no_run
/// # async fn doc(mesh: inmesh_core::Mesh, crypto: inmesh_pki::Crypto) -> std::io::Result<()> {
/// use inmesh_discovery::control::ControlPlane;
///
/// let plane = ControlPlane::new(&mesh, crypto);
/// let listener = tokio::net::TcpListener::bind("[::]:15010").await?;
/// mesh.serve(listener, plane.service()).await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ControlPlane {
    hub: Arc<Hub>,
    mesh: Mesh,
}

/// The gRPC service of a control plane, for [`Mesh::serve`].
#[derive(Clone)]
pub struct ControlService(AggregatedDiscoveryServiceServer<Streams>);

// === impl ControlPlane ===

impl ControlPlane {
    /// A control plane that hands on what `mesh` knows.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, as every spawn does.
    #[must_use]
    pub fn new(mesh: &Mesh, crypto: Crypto) -> Self {
        let mut followed = mesh.snapshot().follow();
        let hub = Arc::new(Hub::new(mesh.snapshot().load(), crypto));
        let weak = Arc::downgrade(&hub);
        tokio::spawn(async move {
            while let Some((snapshot, touched)) = followed.next().await {
                let Some(hub) = weak.upgrade() else {
                    return;
                };
                hub.replace(&snapshot, touched.as_ref());
            }
        });
        Self {
            hub,
            mesh: mesh.clone(),
        }
    }

    /// The same, which hands what is staged on to a share of its subscribers, and counts how requests fare by
    /// them.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, as every spawn does.
    #[must_use]
    pub fn stages(self, stages: &Stages) -> Self {
        let mut followed = stages.follow();
        followed.mark_changed();
        let weak = Arc::downgrade(&self.hub);
        let counts = Weak::clone(&weak);
        stages.counted_by(move |id| {
            let hub = counts.upgrade();
            hub.map_or_else(Tally::default, |hub| hub.tally(id))
        });
        tokio::spawn(async move {
            while followed.changed().await.is_ok() {
                let offer = followed.borrow_and_update().clone();
                let Some(hub) = weak.upgrade() else {
                    return;
                };
                hub.stage(offer);
            }
        });
        self
    }

    /// The service that streams are opened at.
    #[must_use]
    pub fn service(&self) -> ControlService {
        let streams = Streams::new(Arc::clone(&self.hub), self.mesh.clone());
        let service = AggregatedDiscoveryServiceServer::new(streams);
        ControlService(service.max_decoding_message_size(MAX_REQUEST))
    }

    /// How its subscribers are.
    #[must_use]
    pub fn status(&self) -> ControlStatus {
        self.hub.status()
    }
}

impl fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ControlPlane").field(&self.mesh).finish()
    }
}

// === impl ControlService ===

impl Service<Request<Body>> for ControlService {
    type Response = Response<ControlBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move { Ok(answer.await?.map(ControlBody)) })
    }
}

impl fmt::Debug for ControlService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ControlService")
    }
}

/// The body of an answer: a stream of responses.
#[derive(Debug)]
pub struct ControlBody(tonic::body::Body);

// === impl ControlBody ===

impl http_body::Body for ControlBody {
    type Data = bytes::Bytes;
    type Error = inmesh_core::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        let frame = Pin::new(&mut self.0).poll_frame(cx);
        frame.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.size_hint()
    }
}
