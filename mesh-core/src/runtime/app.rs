//! The application of a local workload: a tower service in this process, or a plain server that
//! the agent is in front of.

use std::collections::HashMap;
use std::future::Future;
use std::hint::cold_path;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{client, server};
use hyper_util::rt::TokioIo;
use inmesh_pki::serve::Holder;
use tower_service::Service;

use super::call::Call;
use super::listen::{Application, InboundListener};
use super::upstream::Upstreams;
use crate::balance::Member;
use crate::body::{Body, BoxError};
use crate::connect::{Io, Lease, Origin, Switched, forward, may_switch};
use crate::error::{Error, Reason};
use crate::identify::{Inner, PeerInfo, Tls};
use crate::model::{AppProtocol, Endpoint, HttpVersion, ProxyVersion, Transport};

/// Applications that are kept apart where the caller's port chooses one.
const APPLICATIONS: usize = 1_024;
/// The bytes of a connection in memory, each way.
const MEMORY: usize = 16 * 1024;

/// An answer of the application, with the connection to it that is in use until it is whole.
pub(super) struct Served {
    pub(super) response: Response<Body>,
    pub(super) lease: Option<Lease>,
    /// Both connections, if they have left HTTP.
    pub(super) switched: Option<Switched>,
}

/// The application.
pub(super) trait App: Clone + Send + Sync + 'static {
    /// Answers a request of a caller, which came on the connection `origin`.
    fn call(
        &self,
        request: &mut Request<Body>,
        caller: &Arc<PeerInfo>,
        origin: &Origin,
        call: &mut Call,
    ) -> impl Future<Output = Result<Served, Error>> + Send;

    /// Opens the connection that an opaque one of a caller is joined with.
    fn open(&self, origin: &Origin) -> impl Future<Output = Result<Io, Error>> + Send;
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
    /// How a connection begins with the address of the caller, if it does.
    announces: Option<ProxyVersion>,
    members: Arc<Mutex<Members>>,
}

/// The applications that were called. Most listeners lead to one, which is found without a look-up.
#[derive(Default)]
struct Members {
    last: Option<(Sharing, Member)>,
    all: HashMap<Sharing, Member>,
}

/// What requests must have in common to share connections to an application. What one caller does to
/// a connection of many requests is not another's.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Sharing {
    address: SocketAddr,
    /// Where many requests are on one connection at once.
    caller: Option<Holder>,
}

fn failed(e: impl Into<BoxError>) -> Error {
    Error::new(Reason::Reset, "the application failed").because(e)
}

fn holder(caller: &PeerInfo) -> Holder {
    match caller.id() {
        Some(id) => Holder::id(id),
        None => Holder::address(caller.address.ip()),
    }
}

// === impl InProcess ===

impl<S, R> InProcess<S>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    /// Asks the service over a connection in memory, which it may take out of HTTP: both ends are then
    /// joined as those of a server are, where policy and revocation reach them.
    async fn switch(
        &self,
        request: &mut Request<Body>,
        caller: &Arc<PeerInfo>,
        call: &mut Call,
    ) -> Result<Served, Error> {
        let hop = forward(request, AppProtocol::Http1, &call.exchange.authority);
        let (near, far) = tokio::io::duplex(MEMORY);
        let (service, caller, trace) = (self.0.clone(), Arc::clone(caller), call.exchange.trace);
        let deadline = call.deadline;
        let service = service_fn(move |request: Request<Incoming>| {
            let mut service = service.clone();
            let mut request = request.map(Body::incoming);
            request.extensions_mut().insert(Arc::clone(&caller));
            trace.scope_until(deadline, async move {
                std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
                Ok::<_, S::Error>(service.call(request).await?.map(Body::new))
            })
        });
        let server =
            server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service);
        tokio::spawn(server.with_upgrades());
        let connecting = client::conn::http1::handshake(TokioIo::new(near));
        let (mut sender, connection) = connecting.await.map_err(failed)?;
        tokio::spawn(connection.with_upgrades());
        let answer = sender.send_request(std::mem::take(request));
        let response = answer.await.map_err(failed)?;
        let mut response = response.map(Body::incoming);
        let switched = hop.answered(&mut response)?;
        Ok(Served {
            response,
            lease: None,
            switched,
        })
    }
}

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
        _: &Origin,
        call: &mut Call,
    ) -> Result<Served, Error> {
        if may_switch(request) {
            cold_path();
            return Box::pin(self.switch(request, caller, call)).await;
        }
        let mut service = self.0.clone();
        request.extensions_mut().insert(Arc::clone(caller));
        // What the application calls while it answers belongs to the same trace. The request is taken
        // as late as may be, since it is large to move.
        let answer = call.exchange.trace.scope_until(call.deadline, async {
            std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
            service.call(std::mem::take(request)).await
        });
        let response = answer.await.map_err(failed)?.map(Body::new);
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let detail = "the application switched to a protocol that it was not asked for";
            return Err(Error::new(Reason::Reset, detail));
        }
        Ok(Served {
            response,
            lease: None,
            switched: None,
        })
    }

    async fn open(&self, _: &Origin) -> Result<Io, Error> {
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
            announces: to.to_app,
            members: Arc::default(),
        }
    }

    /// The application that a caller of `original` is meant for, with the connections to it.
    fn member(&self, original: SocketAddr, caller: Option<Holder>) -> Member {
        let address = self.app.address(original);
        let key = Sharing { address, caller };
        let members = self.members.lock();
        let mut members = members.unwrap_or_else(PoisonError::into_inner);
        if let Some((last, member)) = &members.last
            && *last == key
        {
            return member.clone();
        }
        let member = members.find(&key, || {
            let endpoint = Endpoint::new(address, Transport::Plain);
            Member::new(endpoint.with_proxy_protocol(self.announces))
        });
        members.last = Some((key, member.clone()));
        member
    }
}

// === impl Members ===

impl Members {
    fn find(&mut self, key: &Sharing, make: impl FnOnce() -> Member) -> Member {
        if let Some(member) = self.all.get(key) {
            return member.clone();
        }
        let member = make();
        if self.all.len() >= APPLICATIONS {
            // Any one makes room: what it has at rest is closed, what it has in use ends by itself.
            let one = self.all.keys().next().cloned();
            one.and_then(|key| self.all.remove(&key));
        }
        self.all.insert(key.clone(), member.clone());
        member
    }
}

impl App for Behind {
    async fn call(
        &self,
        request: &mut Request<Body>,
        caller: &Arc<PeerInfo>,
        origin: &Origin,
        call: &mut Call,
    ) -> Result<Served, Error> {
        let hop = forward(request, self.protocol, &call.exchange.authority);
        call.exchange.trace.write(request.headers_mut());
        let version = hop.version();
        let apart = (version == HttpVersion::Http2).then(|| holder(caller));
        let member = self.member(origin.reached(), apart);
        let (mut response, lease) = self
            .upstreams
            .send_to_one(&self.tls, &member, request, version, call, origin)
            .await?;
        let switched = hop.answered(&mut response)?;
        Ok(Served {
            response,
            lease: Some(lease),
            switched,
        })
    }

    async fn open(&self, origin: &Origin) -> Result<Io, Error> {
        let connector = &self.upstreams.connector;
        let member = self.member(origin.reached(), None);
        let opening = connector.open(&self.tls, &member, Inner::Tcp, None, Some(origin));
        Ok(opening.await?.io)
    }
}
