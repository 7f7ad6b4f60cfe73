//! The streams of subscribers: what they have proven, requests in, responses out.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use inmesh_core::Mesh;
use inmesh_core::drain::Drain;
use inmesh_core::identify::{Peer, PeerInfo};
use inmesh_core::model::Namespace;
use inmesh_pki::id::SpiffeId;
use tokio::time::{Instant, timeout};
use tonic::{Request, Response, Status, Streaming};

use super::super::proto::delta::aggregated_discovery_service_server::AggregatedDiscoveryService;
use super::super::proto::delta::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use super::hub::{Hub, Place, Subscriber};

/// How long a stream may be open without a first request, and how long it waits for the sources.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// How long the text of a subscriber about itself may be.
const TEXT: usize = 128;

/// Opens streams.
#[derive(Clone)]
pub(super) struct Streams {
    hub: Arc<Hub>,
    mesh: Mesh,
}

/// One stream.
struct Open {
    place: Place,
    requests: Streaming<DeltaDiscoveryRequest>,
    drain: Drain,
}

type Responses = Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

// === impl Streams ===

impl Streams {
    pub(super) fn new(hub: Arc<Hub>, mesh: Mesh) -> Self {
        Self { hub, mesh }
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Streams {
    type DeltaAggregatedResourcesStream = Responses;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let peer = request.extensions().get::<Arc<PeerInfo>>().cloned();
        let peer = peer.ok_or_else(|| Status::unauthenticated("the peer is not known"))?;
        let (id, namespace) = proven(&peer)?;
        let mut requests = request.into_inner();
        let first = timeout(FIRST_WORD, requests.message()).await;
        let late = |_| Status::deadline_exceeded("a subscriber says first what it knows and wants");
        let first = first.map_err(late)??;
        let first = first.ok_or_else(|| Status::invalid_argument("the stream has no request"))?;
        let synced = timeout(FIRST_WORD, self.mesh.synced()).await;
        synced.map_err(|_| {
            Status::unavailable("the sources of this control plane have not synced")
        })?;
        let subscriber = subscriber(id, &peer, first.node.as_ref());
        tracing::info!(
            id = %subscriber.id, instance = subscriber.instance, address = %subscriber.address,
            known = first.initial_resource_versions.len(), "a subscriber has come"
        );
        let place = self.hub.enter(subscriber, namespace);
        let place = place.map_err(|full| Status::resource_exhausted(full.to_string()))?;
        place
            .handle(first)
            .map_err(|fault| Status::invalid_argument(fault.0))?;
        let open = Open {
            place,
            requests,
            drain: self.mesh.watch_drain(),
        };
        Ok(Response::new(Box::pin(unfold(Some(open), |open| async {
            let mut open = open?;
            match open.next().await {
                Ok(response) => Some((Ok(response), Some(open))),
                Err(Some(status)) => Some((Err(status), None)),
                Err(None) => None,
            }
        }))))
    }
}

// === impl Open ===

impl Open {
    /// The next response, or how the stream ends: in order, or with a status.
    async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Option<Status>> {
        loop {
            if let Some(response) = self.place.poll() {
                return Ok(response);
            }
            tokio::select! {
                biased;
                // Another replica continues.
                () = self.drain.closing() => {
                    return Err(Some(Status::unavailable("this control plane is going down")));
                }
                request = self.requests.message() => match request {
                    Ok(Some(request)) => {
                        let handled = self.place.handle(request);
                        handled.map_err(|fault| Status::invalid_argument(fault.0))?;
                    }
                    Ok(None) => return Err(None),
                    Err(status) => {
                        tracing::debug!(%status, "the stream of a subscriber has ended");
                        return Err(None);
                    }
                },
                () = self.place.woken() => {}
            }
        }
    }
}

/// The ID and the namespace of a peer.
fn proven(peer: &PeerInfo) -> Result<(SpiffeId, Namespace), Status> {
    let Peer::Verified(id) = &peer.peer else {
        let why = "a workload of the trust domain of this control plane is expected";
        return Err(Status::permission_denied(why));
    };
    let namespace = id.workload();
    let namespace = namespace.and_then(|(namespace, _)| Namespace::new(namespace).ok());
    let why = || Status::permission_denied(format!("{id} is of no namespace"));
    Ok((id.clone(), namespace.ok_or_else(why)?))
}

fn subscriber(id: SpiffeId, peer: &PeerInfo, node: Option<&Node>) -> Subscriber {
    let plain = |text: &str| -> String {
        let shown = text.chars().filter(|c| c.is_ascii_graphic());
        shown.take(TEXT).collect()
    };
    Subscriber {
        id,
        address: peer.address,
        instance: node.map(|node| plain(&node.id)).unwrap_or_default(),
        version: node
            .map(|node| plain(&node.user_agent_version))
            .unwrap_or_default(),
        since: Instant::now(),
    }
}
