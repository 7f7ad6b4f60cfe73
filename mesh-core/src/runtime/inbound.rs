//! Inbound: from the mesh to the application of a local workload.
//!
//! accept -> identify (mutual TLS, or plaintext where permitted) -> authorize -> the application.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::header::UPGRADE;
use http::{Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use inmesh_pki::id::SpiffeId;
use inmesh_pki::tls::HandshakeError;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout, timeout_at};

use super::admit;
use super::app::{App, Served};
use super::call::Call;
use super::exchange::{Held, Pending};
use super::labels;
use super::serve::{self, Connection};
use super::shared::Shared;
use crate::accept::{ConnState, Detected, Listener, Socket, Upload, peek};
use crate::authorize::{Denied, HttpView, Permit, RequestView, Verdict};
use crate::body::Body;
use crate::connect::{Flow, Io};
use crate::error::{Error, Reason, is_grpc};
use crate::identify::{Inner, LiveConnection, Peer, PeerInfo, Tls, failure_reason};
use crate::model::AppProtocol;
use crate::telemetry::{Direction, Series};

/// The most callers whose metrics are kept apart; further ones share the labels `unknown`.
const CALLERS: usize = 1_000;

/// The inbound stack of one listener.
pub(super) struct InboundStack<A> {
    pub(super) inbound: Arc<Inbound>,
    pub(super) app: A,
    pub(super) protocol: AppProtocol,
    pub(super) strict: bool,
    pub(super) probes: Arc<[Arc<str>]>,
}

/// What all inbound listeners of one local workload share.
pub(super) struct Inbound {
    pub(super) shared: Arc<Shared>,
    pub(super) tls: Arc<Tls>,
    principal: Arc<str>,
    callers: Mutex<HashMap<Option<SpiffeId>, Arc<Series>>>,
}

/// A caller's connection after its handshake.
struct Arrived {
    io: Io,
    from: SocketAddr,
    /// The address that the caller connected to.
    original: SocketAddr,
    peer: Peer,
    /// When the caller's certificate ends.
    until: Option<Instant>,
}

/// What all requests of one connection share.
struct Accepted {
    info: Arc<PeerInfo>,
    original: SocketAddr,
    /// What is shared with the sweep of live connections, if the caller has an identity.
    live: Option<Arc<LiveConnection>>,
    series: Arc<Series>,
    state: Arc<ConnState>,
}

// === impl Inbound ===

impl Inbound {
    pub(super) fn new(shared: &Arc<Shared>, tls: Arc<Tls>, principal: Arc<str>) -> Self {
        Self {
            shared: Arc::clone(shared),
            tls,
            principal,
            callers: Mutex::default(),
        }
    }

    /// The metrics of a caller.
    fn series(&self, caller: Option<&SpiffeId>) -> Arc<Series> {
        let mut known = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let key = caller.cloned();
        if let Some(series) = known.get(&key) {
            return Arc::clone(series);
        }
        let key = key.filter(|_| known.len() < CALLERS);
        let series = known.entry(key.clone()).or_insert_with(|| {
            let workload = self.tls.local().workload();
            Arc::new(labels::inbound(workload, &self.principal, key.as_ref()))
        });
        Arc::clone(series)
    }
}

// === impl InboundStack ===

impl<A: App> InboundStack<A> {
    /// Serves a listener until the drain closes it.
    pub(super) async fn listen(self: Arc<Self>, listener: TcpListener) {
        let shared = &self.inbound.shared;
        let listener = Listener::new(listener, shared.limits.connections);
        let (drain, tracker) = (shared.drain.clone(), shared.tracker.clone());
        serve::accept(listener, drain, tracker, move |stream, from| {
            Arc::clone(&self).connection(stream, from)
        })
        .await;
    }

    pub(super) async fn connection(self: Arc<Self>, stream: Socket, from: SocketAddr) {
        let shared = &self.inbound.shared;
        // A socket without an address is closed already.
        let Ok(original) = stream.original_destination() else {
            return;
        };
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
                return Box::pin(self.plaintext(stream, from, original)).await;
            }
        }
        let accepting = self.inbound.tls.accept(stream, self.protocol);
        let accepted = match timeout_at(deadline, accepting).await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(e)) => return self.not_accepted(from, Some(e)),
            Err(_) => return self.not_accepted(from, None),
        };
        let now = shared.clock.now();
        let left = accepted.not_after.duration_since(now).unwrap_or_default();
        let arrived = Arrived {
            from,
            original,
            peer: accepted.peer.clone(),
            until: Some(Instant::now() + left),
            io: Io::Server(Box::new(accepted.stream)),
        };
        match accepted.inner {
            Some(Inner::Tcp) => Box::pin(self.tcp(arrived)).await,
            Some(Inner::Http2) => Box::pin(self.http(arrived, true)).await,
            // Without ALPN the listener's declaration decides.
            None if self.protocol == AppProtocol::Tcp => Box::pin(self.tcp(arrived)).await,
            Some(Inner::Http1) | None => Box::pin(self.http(arrived, false)).await,
        }
    }

    /// Records a handshake that failed, or that was not done in time.
    fn not_accepted(&self, from: SocketAddr, failed: Option<HandshakeError>) {
        let shared = &self.inbound.shared;
        let (reason, error) = match failed {
            Some(e) => {
                let reason = failure_reason(&e);
                let error = Error::new(Reason::TlsFailed, format!("TLS handshake ({reason})"));
                let error = error.because(e);
                tracing::warn!(%from, reason, "TLS handshake failed: {error}");
                (reason, error)
            }
            None => {
                let (reason, limit) = ("handshake-timeout", shared.limits.handshake);
                let detail = format!("TLS handshake ({reason}): not done within {limit:?}");
                tracing::warn!(%from, reason, "TLS handshake timed out");
                (reason, Error::new(Reason::TlsFailed, detail))
            }
        };
        let recorder = &shared.recorder;
        recorder.refused(Direction::Inbound, from, None, reason, &error);
    }

    async fn plaintext(self: Arc<Self>, stream: Socket, from: SocketAddr, original: SocketAddr) {
        let deadline = Instant::now() + self.inbound.shared.limits.detect;
        let detected = match self.protocol {
            AppProtocol::Tcp => Detected::Opaque,
            protocol => peek(&stream, protocol.is_http(), deadline).await,
        };
        let arrived = Arrived {
            io: Io::Plain(stream),
            from,
            original,
            peer: Peer::Unauthenticated,
            until: None,
        };
        match detected {
            Detected::Http1 => self.http(arrived, false).await,
            Detected::Http2 => self.http(arrived, true).await,
            _ => self.tcp(arrived).await,
        }
    }

    async fn http(self: Arc<Self>, arrived: Arrived, http2: bool) {
        let shared = &self.inbound.shared;
        let mut connection = Connection::new(&shared.limits, &shared.drain);
        connection.until = arrived.until;
        connection.mesh = arrived.peer.id().is_some();
        let state = Arc::clone(&connection.state);
        let (io, from) = (arrived.io, arrived.from);
        let info = Arc::new(PeerInfo::new(arrived.peer, from));
        let caller = Arc::new(Accepted {
            series: self.inbound.series(info.id()),
            info: Arc::clone(&info),
            original: arrived.original,
            live: io.live(),
            state: Arc::clone(&state),
        });
        let this = Arc::clone(&self);
        let service = move |request: Request<Incoming>| {
            let (this, caller) = (Arc::clone(&this), Arc::clone(&caller));
            let mut request = request.map(Body::incoming);
            async move { this.handle(&mut request, &caller).await }
        };
        let ended = if http2 {
            connection.serve_h2(io, service).await
        } else {
            connection.serve_h1(io, service).await
        };
        let (direction, recorder) = (Direction::Inbound, &shared.recorder);
        serve::ended(recorder, direction, from, info.id(), &state, ended);
    }

    /// Answers one request, whatever happens.
    async fn handle(&self, request: &mut Request<Body>, caller: &Accepted) -> Response<Body> {
        let shared = &self.inbound.shared;
        let (direction, local) = (Direction::Inbound, self.inbound.tls.local());
        let (recorder, series) = (&shared.recorder, &caller.series);
        let state = Some(&caller.state);
        let upload = Upload::time(request, shared.limits.body);
        let mut pending = admit::begin(direction, local, request, recorder, series, state);
        let call = pending.call();
        call.exchange.caller = Some(caller.info.address);
        call.exchange.tls_peer = caller.info.id().cloned();
        let grpc = is_grpc(request.headers());
        let admitted = admit::admit(&shared.limits, shared.paths, request, &mut call.exchange);
        pending.begin();
        let permitted = match admitted {
            Ok(()) => {
                let view = RequestView::Http(HttpView::of(request));
                let probe = Permit::probe(&self.probes, &view);
                match probe.filter(|_| is_bare(request)) {
                    Some(permit) => Ok(permit),
                    None => self.permit(&caller.info.peer, view).await,
                }
            }
            Err(error) => Err(error),
        };
        let served = match permitted {
            Ok(_permit) => {
                let call = pending.call();
                let app = self.app.call(request, &caller.info, caller.original, call);
                Upload::answering(upload, app).await
            }
            Err(error) => Err(error),
        };
        match served {
            Ok(served) => self.answer(served, pending, caller),
            Err(error) => pending.refuse(&error, grpc),
        }
    }

    fn answer(
        &self,
        mut served: Served,
        mut pending: Pending,
        caller: &Accepted,
    ) -> Response<Body> {
        admit::answered(&mut served.response);
        if let Some(lease) = served.lease {
            pending.hold(Held::Application(lease));
        }
        match served.switched {
            None => pending.answer(served.response),
            Some(switched) => {
                if let Some(live) = &caller.live {
                    live.becomes_opaque();
                }
                self.inbound.shared.splice(pending, switched);
                served.response
            }
        }
    }

    /// Decides whether a request is permitted, asking external authorizers if policy wants that.
    async fn permit(&self, peer: &Peer, view: RequestView<'_>) -> Result<Permit, Error> {
        let shared = &self.inbound.shared;
        let local = self.inbound.tls.local();
        let verdict = shared.reader.peek().authorize(local, peer, &view);
        let permitted = match verdict {
            Verdict::Ask(_) => {
                let settling = shared.authorizers.settle(verdict, peer, view);
                Box::pin(settling).await
            }
            verdict => verdict.permit(),
        };
        permitted.map_err(Error::from)
    }

    /// Takes one opaque connection.
    async fn tcp(self: Arc<Self>, arrived: Arrived) {
        let shared = &self.inbound.shared;
        let Arrived {
            mut io, from, peer, ..
        } = arrived;
        let mut call = Call::opaque(Direction::Inbound, self.inbound.tls.local(), from);
        call.exchange.tls_peer = peer.id().cloned();
        let series = self.inbound.series(call.exchange.tls_peer.as_ref());
        let permitted = match &peer {
            Peer::Unauthenticated if self.strict => Err(Denied::plaintext().into()),
            peer => self.permit(peer, RequestView::Tcp).await,
        };
        let mut flow = Flow::default();
        let result = match permitted {
            Ok(_permit) => {
                let counters = shared.recorder.metrics.tcp_opened(&series);
                flow = Flow::new(counters.clone());
                shared.recorder.begin(&call.exchange);
                let mut drain = shared.drain.clone();
                let result = tokio::select! {
                    carried = self.app.tcp(&mut io, arrived.original, &mut flow) => carried,
                    () = drain.closed() => Err(Error::new(Reason::Reset, "drained")),
                };
                counters.closed();
                result
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &result {
            let reason = error.reason().as_str();
            shared.recorder.metrics.connection_failed("inbound", reason);
        }
        call.close(&flow, result.as_ref().err());
        shared.recorder.publish(&call.exchange);
        // Shuts down the remaining side; a peer that reads takes well below a second.
        let goodbye = tokio::io::AsyncWriteExt::shutdown(&mut io);
        let _gone = timeout(std::time::Duration::from_secs(1), goodbye).await;
    }
}

/// Whether a request asks for nothing but an answer: it has no body and wishes for no other protocol.
fn is_bare(request: &Request<Body>) -> bool {
    request.body().is_end_stream() && !request.headers().contains_key(UPGRADE)
}
