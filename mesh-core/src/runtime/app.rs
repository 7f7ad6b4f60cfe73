//! The application of a local workload: a tower service in this process, or a plain server that
//! the agent is in front of.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use inmesh_pki::id::SpiffeId;
use tower_service::Service;

use super::call::Call;
use super::listen::{Application, InboundListener};
use super::upstream::Upstreams;
use crate::balance::Member;
use crate::body::{Body, BoxError};
use crate::connect::{Io, Lease, Switched, forward};
use crate::error::{Error, Reason};
use crate::identify::{Inner, PeerInfo, Tls};
use crate::model::{AppProtocol, Endpoint, HttpVersion, Transport};

/// Applications that are kept apart where the caller's port chooses one.
const APPLICATIONS: usize = 1_024;

/// An answer of the application, with the connection to it that is in use until it is whole.
pub(super) struct Served {
    pub(super) response: Response<Body>,
    pub(super) lease: Option<Lease>,
    /// Both connections, if they have left HTTP.
    pub(super) switched: Option<Switched>,
}

/// The application.
pub(super) trait App: Clone + Send + Sync + 'static {
    /// Answers a request of a caller that connected to `original`.
    fn call(
        &self,
        request: &mut Request<Body>,
        caller: &Arc<PeerInfo>,
        original: SocketAddr,
        call: &mut Call,
    ) -> impl Future<Output = Result<Served, Error>> + Send;

    /// Opens the connection that an opaque one of a caller of `original` is joined with.
    fn open(&self, original: SocketAddr) -> impl Future<Output = Result<Io, Error>> + Send;
}

/// The application is a tower service.
#[derive(Clone)]
pub(super) struct InProcess<S>(pub(super) S);

/// The application is a plain server.
#[derive(Clone)]
pub(super) struct Behind {
    upstreams: Arc<Upstreams>,
    tls: Arc<Tls>,
    app: Application,
    protocol: AppProtocol,
    members: Arc<Mutex<HashMap<Sharing, Member>>>,
}

/// What requests must have in common to share connections to an application. What one caller does to
/// a connection of many requests is not another's.
#[derive(PartialEq, Eq, Hash)]
struct Sharing {
    address: SocketAddr,
    /// Where many requests are on one connection at once.
    caller: Option<SpiffeId>,
}

// === impl InProcess ===

impl<S, R> App for InProcess<S>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    async fn call(
        &self,
        request: &mut Request<Body>,
        caller: &Arc<PeerInfo>,
        _: SocketAddr,
        call: &mut Call,
    ) -> Result<Served, Error> {
        let mut service = self.0.clone();
        let mut request = std::mem::take(request);
        request.extensions_mut().insert(Arc::clone(caller));
        let failed = |e: S::Error| Error::new(Reason::Reset, "the application failed").because(e);
        // What the application calls while it answers belongs to the same trace.
        let answer = call.exchange.trace.scope(async move {
            std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
            service.call(request).await
        });
        let response = answer.await.map_err(failed)?;
        Ok(Served {
            response: response.map(Body::new),
            lease: None,
            switched: None,
        })
    }

    async fn open(&self, _: SocketAddr) -> Result<Io, Error> {
        let detail = "an opaque connection to an HTTP application";
        Err(Error::new(Reason::InvalidRequest, detail))
    }
}

// === impl Behind ===

impl Behind {
    pub(super) fn new(upstreams: &Arc<Upstreams>, tls: &Arc<Tls>, to: &InboundListener) -> Self {
        Self {
            upstreams: Arc::clone(upstreams),
            tls: Arc::clone(tls),
            app: to.app,
            protocol: to.protocol,
            members: Arc::default(),
        }
    }

    /// The application that a caller of `original` is meant for, with the connections to it.
    fn member(&self, original: SocketAddr, caller: Option<&SpiffeId>) -> Member {
        let address = self.app.address(original);
        let caller = caller.cloned();
        let key = Sharing { address, caller };
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(member) = members.get(&key) {
            return member.clone();
        }
        let member = Member::new(Endpoint::new(address, Transport::Plain));
        // Beyond the bound connections are not pooled.
        if members.len() < APPLICATIONS {
            members.insert(key, member.clone());
        }
        member
    }
}

impl App for Behind {
    async fn call(
        &self,
        request: &mut Request<Body>,
        caller: &Arc<PeerInfo>,
        original: SocketAddr,
        call: &mut Call,
    ) -> Result<Served, Error> {
        let hop = forward(request, self.protocol, &call.exchange.authority);
        call.exchange.trace.write(request.headers_mut());
        let version = hop.version();
        let apart = caller.id().filter(|_| version == HttpVersion::Http2);
        let member = self.member(original, apart);
        let (response, lease) = self
            .upstreams
            .send_to_one(&self.tls, &member, request, version, call)
            .await?;
        let (response, switched) = hop.answered(response)?;
        Ok(Served {
            response,
            lease: Some(lease),
            switched,
        })
    }

    async fn open(&self, original: SocketAddr) -> Result<Io, Error> {
        let connector = &self.upstreams.connector;
        let member = self.member(original, None);
        let opened = connector.open(&self.tls, &member, Inner::Tcp).await?;
        Ok(opened.io)
    }
}
