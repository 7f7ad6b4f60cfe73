//! Inbound: from the mesh to the application of this workload.
//!
//! accept -> identify (mutual TLS, or plaintext where permitted) -> authorize -> the application,
//! which is a tower service in this process or a plain server that the agent stands in front of.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use inmesh_pki::id::SpiffeId;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;
use tower_service::Service;

use super::outbound::known;
use super::server::Connection;
use super::{Limits, admit};
use crate::accept::{ConnState, Detected, Listener, Socket, Upload, peek};
use crate::authorize::layer::check;
use crate::authorize::{Denied, Peer, RequestView, decide};
use crate::balance::Balancer;
use crate::body::{Body, BoxError};
use crate::connect::{Fault, Lease, copy, goes_on_in_h2, is_upgrade, prepare, splice, switched};
use crate::drain::Drain;
use crate::error::{Error, Reason, is_grpc};
use crate::identify::{ALPN_H2, ALPN_TCP, Entry, PeerInfo, Tls, failure_reason};
use crate::model::{AppProtocol, Endpoint, Member, SnapshotReader, Transport, Workload};
use crate::telemetry::trace::TraceContext;
use crate::telemetry::{Direction, Exchange, Held, Protocol, Recorder, Series, Text};

/// The most callers whose metrics are kept apart; beyond it they share the labels `unknown`.
const CALLERS: usize = 1_000;

/// What an inbound listener of the agent does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inbound {
    /// Where the application listens.
    pub app: SocketAddr,
    /// What it speaks.
    pub protocol: AppProtocol,
    /// Whether plaintext is refused. Where it is not, a plaintext peer has no identity.
    pub strict: bool,
    /// Paths of which a GET is permitted to everybody.
    pub probes: Vec<Arc<str>>,
}

/// The inbound stack of one listener.
pub(crate) struct InboundStack<A> {
    pub(super) shared: Arc<InboundShared>,
    pub(super) app: A,
    pub(super) protocol: AppProtocol,
    pub(super) strict: bool,
    pub(super) probes: Arc<[Arc<str>]>,
}

/// What all inbound listeners of a runtime share.
pub(crate) struct InboundShared {
    pub(super) tls: Tls,
    pub(super) reader: SnapshotReader,
    pub(super) recorder: Arc<Recorder>,
    pub(super) limits: Arc<Limits>,
    pub(super) workload: Workload,
    pub(super) principal: Arc<str>,
    pub(super) drain: Drain,
    pub(super) tracker: TaskTracker,
    pub(super) callers: Mutex<HashMap<Option<SpiffeId>, Arc<Series>>>,
}

/// An answer of the application, with the connection to it that is in use until it is whole.
pub(crate) struct Served {
    response: Response<Body>,
    lease: Option<Lease>,
    /// Both connections, where they have left HTTP.
    switched: Option<(OnUpgrade, OnUpgrade)>,
}

/// The application.
pub(crate) trait App: Clone + Send + Sync + 'static {
    fn call(
        &self,
        request: &mut Request<Body>,
        caller: &Arc<PeerInfo>,
        exchange: &mut Exchange,
    ) -> impl Future<Output = Result<Served, Error>> + Send;

    /// Carries an opaque connection; returns the bytes from the caller and from the application.
    fn tcp(
        &self,
        stream: &mut crate::connect::Io,
    ) -> impl Future<Output = Result<(u64, u64), Error>> + Send;
}

/// The application is a tower service.
#[derive(Clone)]
pub(crate) struct InProcess<S>(pub(super) S);

/// The application is a plain server.
#[derive(Clone)]
pub(crate) struct Behind {
    balancer: Arc<Balancer>,
    member: Member,
    protocol: AppProtocol,
}

/// One caller's connection.
struct Caller {
    info: Arc<PeerInfo>,
    /// What is shared with the sweep of live connections, where the caller has an identity.
    live: Option<Arc<Entry>>,
    series: Arc<Series>,
    state: Arc<ConnState>,
}

// === impl Inbound ===

impl Inbound {
    /// A strict listener in front of an application.
    pub fn new(app: SocketAddr, protocol: AppProtocol) -> Self {
        Self {
            app,
            protocol,
            strict: true,
            probes: Vec::new(),
        }
    }
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
        exchange: &mut Exchange,
    ) -> Result<Served, Error> {
        let mut service = self.0.clone();
        let mut request = std::mem::take(request);
        request.extensions_mut().insert(caller.clone());
        let failed = |e: S::Error| Error::new(Reason::Reset, "the application failed").because(e);
        // What the application calls while it answers belongs to the same trace.
        let answer = exchange.trace.scope(async move {
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

    async fn tcp(&self, _: &mut crate::connect::Io) -> Result<(u64, u64), Error> {
        let detail = "an opaque connection to an HTTP application";
        Err(Error::new(Reason::InvalidRequest, detail))
    }
}

// === impl Behind ===

impl Behind {
    pub(super) fn new(balancer: &Arc<Balancer>, to: &Inbound) -> Self {
        Self {
            balancer: balancer.clone(),
            member: Member::new(Endpoint::new(to.app, Transport::Plain)),
            protocol: to.protocol,
        }
    }
}

impl App for Behind {
    async fn call(
        &self,
        request: &mut Request<Body>,
        _: &Arc<PeerInfo>,
        exchange: &mut Exchange,
    ) -> Result<Served, Error> {
        let upgrade = is_upgrade(request.version(), request.headers());
        let http2 = goes_on_in_h2(self.protocol, request.version(), upgrade);
        let on_caller = upgrade.then(|| hyper::upgrade::on(&mut *request));
        prepare(request, http2, &exchange.authority, upgrade);
        exchange.trace.write(request.headers_mut());
        let (mut attempts, mut fresh, mut now) = (0, false, exchange.started);
        let sent = loop {
            match self
                .balancer
                .connector
                .send(&self.member, request, http2, fresh, now)
                .await
            {
                Ok(sent) => break sent,
                // A connection that rested was closed by the application: another one.
                Err(unsent)
                    if unsent.fault == Fault::Connection && unsent.again && attempts < 16 =>
                {
                    attempts += 1;
                    fresh |= !unsent.error.is_never_sent();
                    now = Instant::now();
                }
                Err(unsent) => return Err(unsent.error),
            }
        };
        let mut response = sent.response;
        let switched = switched(&mut response, on_caller)?;
        crate::connect::answered(&mut response, switched.is_some());
        Ok(Served {
            response: response.map(Body::incoming),
            lease: Some(sent.lease),
            switched,
        })
    }

    async fn tcp(&self, stream: &mut crate::connect::Io) -> Result<(u64, u64), Error> {
        let (mut app, _, _) = self.balancer.connector.open(&self.member, ALPN_TCP).await?;
        copy(stream, &mut app)
            .await
            .map_err(|e| Error::new(Reason::Reset, "the connection broke off").because(e))
    }
}

// === impl InboundShared ===

impl InboundShared {
    fn series(&self, caller: Option<&SpiffeId>) -> Arc<Series> {
        let mut known_callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let key = caller.cloned();
        if let Some(series) = known_callers.get(&key) {
            return series.clone();
        }
        let key = if known_callers.len() < CALLERS {
            key
        } else {
            None
        };
        known_callers
            .entry(key.clone())
            .or_insert_with(|| Arc::new(Series::new(self.labels(key.as_ref()))))
            .clone()
    }

    fn labels(&self, caller: Option<&SpiffeId>) -> Vec<(&'static str, Text)> {
        let (namespace, account) = caller.and_then(SpiffeId::workload).unwrap_or_default();
        let me = &self.workload;
        let label = |name: &str| known(me.labels.get(name).map_or("", |v| v));
        let app = match me.labels.get("app") {
            Some(app) => app,
            None => &me.name,
        };
        vec![
            ("reporter", "destination".into()),
            (
                "source_principal",
                known(caller.map_or("", |id| id.as_str())),
            ),
            ("source_workload", known(account)),
            ("source_workload_namespace", known(namespace)),
            ("destination_workload", (&*me.name).into()),
            (
                "destination_workload_namespace",
                me.namespace.as_str().into(),
            ),
            ("destination_principal", known(&self.principal)),
            ("destination_app", (&**app).into()),
            ("destination_version", label("version")),
            ("destination_canonical_service", (&**app).into()),
            ("destination_service_name", (&**app).into()),
            (
                "destination_service_namespace",
                me.namespace.as_str().into(),
            ),
        ]
    }
}

// === impl InboundStack ===

impl<A: App> InboundStack<A> {
    /// Serves a listener until the drain closes it.
    pub(super) async fn listen(self: Arc<Self>, listener: TcpListener) {
        let listener = Listener::new(listener, self.shared.limits.connections);
        let mut drain = self.shared.drain.clone();
        loop {
            let (stream, from) = tokio::select! {
                accepted = listener.accept() => accepted,
                () = drain.closing() => return,
            };
            let connection = self.clone().connection(stream, from);
            self.shared.tracker.spawn(connection);
        }
    }

    pub(super) async fn connection(self: Arc<Self>, stream: Socket, from: SocketAddr) {
        let shared = &self.shared;
        let deadline = Instant::now() + shared.limits.handshake;
        if !self.strict {
            let mut first = [0];
            let tls = match timeout_at(deadline, stream.peek(&mut first)).await {
                Ok(Ok(1)) => first == [0x16],
                // A server that speaks first: plaintext, if it is allowed to be opaque.
                Err(_) => false,
                Ok(_) => return,
            };
            if !tls {
                return Box::pin(self.plaintext(stream, from)).await;
            }
        }
        let accepted = match timeout_at(deadline, shared.tls.accept(stream)).await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(e)) => {
                let reason = failure_reason(&e);
                let error = Error::new(Reason::TlsFailed, format!("TLS handshake ({reason})"));
                let error = error.because(e);
                tracing::warn!(%from, reason, "TLS handshake failed: {error}");
                shared
                    .recorder
                    .refused(Direction::Inbound, from, None, reason, &error);
                return;
            }
            Err(_) => {
                let reason = "handshake-timeout";
                let limit = shared.limits.handshake;
                let detail = format!("TLS handshake ({reason}): not done within {limit:?}");
                let error = Error::new(Reason::TlsFailed, detail);
                tracing::warn!(%from, reason, "TLS handshake timed out");
                shared
                    .recorder
                    .refused(Direction::Inbound, from, None, reason, &error);
                return;
            }
        };
        let peer = Peer::Verified(accepted.id.clone());
        let left = accepted
            .not_after
            .duration_since(shared.recorder.clock.now())
            .unwrap_or_default();
        let until = Some(Instant::now() + left);
        let alpn = accepted
            .stream
            .get_ref()
            .get_ref()
            .1
            .alpn_protocol()
            .map(<[u8]>::to_vec);
        let io = crate::connect::Io::Server(Box::new(accepted.stream));
        match alpn.as_deref() {
            Some(ALPN_TCP) => Box::pin(self.tcp(io, from, peer)).await,
            Some(ALPN_H2) => Box::pin(self.http(io, from, peer, true, until)).await,
            // Without ALPN the listener's declaration decides.
            None if self.protocol == AppProtocol::Tcp => {
                Box::pin(self.tcp(io, from, peer)).await;
            }
            _ => Box::pin(self.http(io, from, peer, false, until)).await,
        }
    }

    async fn plaintext(self: Arc<Self>, stream: Socket, from: SocketAddr) {
        let deadline = Instant::now() + self.shared.limits.detect;
        let detected = match self.protocol {
            AppProtocol::Tcp => Detected::Opaque,
            protocol => peek(&stream, protocol.is_http(), deadline).await,
        };
        let io = crate::connect::Io::Plain(stream);
        let nobody = Peer::Unauthenticated;
        match detected {
            Detected::Http1 => self.http(io, from, nobody, false, None).await,
            Detected::Http2 => self.http(io, from, nobody, true, None).await,
            _ => self.tcp(io, from, nobody).await,
        }
    }

    async fn http(
        self: Arc<Self>,
        io: crate::connect::Io,
        from: SocketAddr,
        peer: Peer,
        http2: bool,
        until: Option<Instant>,
    ) {
        let mut connection = Connection::new(&self.shared.limits, &self.shared.drain);
        connection.until = until;
        connection.mesh = matches!(peer, Peer::Verified(_));
        let state = connection.state.clone();
        let info = Arc::new(PeerInfo::new(peer, from));
        let live = io.live();
        let caller = Arc::new(Caller {
            series: self.shared.series(info.id()),
            info: info.clone(),
            live,
            state: state.clone(),
        });
        let this = self.clone();
        let service = move |request: Request<Incoming>| {
            let (this, caller) = (this.clone(), caller.clone());
            let mut request = request.map(Body::incoming);
            async move { this.handle(&mut request, &caller).await }
        };
        let ended = if http2 {
            connection.serve_h2(io, service).await
        } else {
            connection.serve_h1(io, service).await
        };
        let recorder = &self.shared.recorder;
        recorder.ended(Direction::Inbound, from, info.id(), &state, ended);
    }

    /// Serves one request and answers it, whatever happens.
    async fn handle(&self, request: &mut Request<Body>, caller: &Caller) -> Response<Body> {
        let (direction, recorder) = (Direction::Inbound, &self.shared.recorder);
        let state = Some(&caller.state);
        let upload = Upload::time(request, self.shared.limits.body);
        let mut pending = admit::begin(direction, request, recorder, &caller.series, state);
        let exchange = pending.exchange();
        exchange.caller = Some(caller.info.address);
        exchange.tls_peer = caller.info.id().cloned();
        let grpc = is_grpc(request.headers());
        let admitted = admit::admit(&self.shared.limits, request, exchange).and_then(|()| {
            check(
                &self.shared.reader,
                &self.probes,
                &caller.info.peer,
                request,
            )
        });
        let served = match admitted {
            Ok(_permit) => {
                let app = self.app.call(request, &caller.info, exchange);
                Upload::answering(upload, app).await
            }
            Err(error) => Err(error),
        };
        match served {
            Ok(served) => {
                if let Some(lease) = served.lease {
                    pending.hold(Held::Application(lease));
                }
                match served.switched {
                    None => pending.answer(served.response),
                    Some((upgraded, app)) => {
                        pending.switched();
                        if let Some(live) = &caller.live {
                            live.becomes_opaque();
                        }
                        let drain = self.shared.drain.clone();
                        self.shared.tracker.spawn(async move {
                            pending.joined(splice(upgraded, app, drain).await);
                        });
                        served.response
                    }
                }
            }
            Err(error) => pending.refuse(&error, grpc),
        }
    }

    async fn tcp(self: Arc<Self>, mut io: crate::connect::Io, from: SocketAddr, peer: Peer) {
        let shared = &self.shared;
        let context = TraceContext::new(rand::random(), rand::random(), false);
        let mut exchange = Exchange::new(Direction::Inbound, Protocol::Tcp, context);
        exchange.caller = Some(from);
        let id = match &peer {
            Peer::Verified(id) => Some(id.clone()),
            _ => None,
        };
        let series = shared.series(id.as_ref());
        exchange.tls_peer = id;
        let policy = shared.reader.peek().policy().clone();
        let verdict = match peer {
            Peer::Unauthenticated if self.strict => Err(Denied::plaintext()),
            peer => decide(&policy, &peer, &RequestView::Tcp, &mut ()),
        };
        let mut drain = shared.drain.clone();
        let result = match verdict {
            Ok(_permit) => {
                shared.recorder.metrics.tcp_opened(&series);
                let carried = tokio::select! {
                    carried = self.app.tcp(&mut io) => carried,
                    () = drain.closed() => Err(Error::new(Reason::Reset, "drained")),
                };
                if let Ok((received, sent)) = &carried {
                    exchange.request_bytes = *received;
                    exchange.response_bytes = *sent;
                }
                let (received, sent) = (exchange.request_bytes, exchange.response_bytes);
                shared.recorder.metrics.tcp_closed(&series, received, sent);
                carried.map(drop)
            }
            Err(denied) => Err(Error::from(denied)),
        };
        if let Err(error) = result {
            exchange.failed(&error);
            let reason = error.reason().as_str();
            shared.recorder.metrics.connection_failed("inbound", reason);
        }
        exchange.duration = exchange.started.elapsed();
        shared.recorder.publish(&exchange);
        // Whoever is left hears that it is over; one second is enough for a peer that listens.
        let goodbye = tokio::io::AsyncWriteExt::shutdown(&mut io);
        let _gone = timeout(std::time::Duration::from_secs(1), goodbye).await;
    }
}
