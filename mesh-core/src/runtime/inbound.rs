//! Inbound: from the mesh to the application of a local workload.
//!
//! accept -> identify (mutual TLS, or plaintext where permitted) -> authorize -> the application.

use std::hint::cold_path;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Response};
use inmesh_pki::clock::Span;
use inmesh_pki::id::SpiffeId;
use inmesh_pki::serve::{Places, linger};
use inmesh_pki::tls::HandshakeError;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout, timeout_at};

use super::admit;
use super::app::{App, Served};
use super::call::Call;
use super::exchange::{Held, Ledger, Pending};
use super::first::{FirstWord, first_word};
use super::own::Own;
use super::permit::Inbound;
use super::serve::{self, Connection};
use super::standing::Asked;
use super::taken::taken;
use crate::accept::proxy::{Ends, TrustedProxies};
use crate::accept::{Detected, Listener, NoRequest, Share, Socket, Taken, Upload, peek};
use crate::authorize::{Denied, HttpView, Permit, PermitReason, RequestView, Verdict};
use crate::body::Body;
use crate::connect::{Flow, Io, Origin, copy, drained};
use crate::error::{Error, Reason, grpc_kind};
use crate::fields::wishes;
use crate::identify::{Inner, LiveConnection, Peer, PeerInfo, failure_reason};
use crate::model::AppProtocol;
use crate::telemetry::Direction;

/// The first byte of a TLS handshake (RFC 8446 section 5.1).
const TLS: u8 = 0x16;

/// The inbound stack of one listener.
pub(super) struct InboundStack<A> {
    pub(super) inbound: Arc<Inbound>,
    pub(super) app: A,
    pub(super) protocol: AppProtocol,
    pub(super) strict: bool,
    /// Where it leads, for a person.
    pub(super) leads: String,
    pub(super) probes: Arc<[Arc<str>]>,
    /// Whether the application was seen to speak first.
    pub(super) speaks_first: Arc<AtomicBool>,
    /// The proxies in front of it, where each connection begins with a PROXY header.
    pub(super) proxies: Option<TrustedProxies>,
    /// What callers may not choose, where they choose a port.
    pub(super) own: Option<Own>,
}

/// A caller's connection after its handshake.
struct Arrived {
    io: Io,
    origin: Arc<Origin>,
    peer: Peer,
    /// When the caller's certificate ends.
    until: Option<Instant>,
    spoken: Option<Spoken>,
    /// Whether its caller has as many connections as it may have: this one is refused.
    crowded: bool,
}

/// An application that has spoken before its caller did, and what it has said.
type Spoken = (Io, Vec<u8>);

/// What a caller of a permissive listener begins with.
enum First {
    /// Neither side has spoken.
    Nothing,
    /// Plaintext, or an application that has spoken first.
    Plain(Box<Arrived>),
    Tls(Socket),
}

/// The side that speaks first, with the first byte of a caller.
enum Spoke {
    Application(Spoken),
    Caller(u8),
}

/// What all requests of one connection share.
struct Accepted<A> {
    stack: Arc<InboundStack<A>>,
    info: Arc<PeerInfo>,
    origin: Arc<Origin>,
    /// What is shared with the sweep of live connections, if the caller has an identity.
    live: Option<Arc<LiveConnection>>,
    ledger: Arc<Ledger>,
    crowded: bool,
}

// === impl InboundStack ===

impl<A: App> InboundStack<A> {
    /// Serves a listener until the drain closes it.
    pub(super) async fn listen(self: Arc<Self>, listener: TcpListener) {
        let shared = &self.inbound.shared;
        let listener = Listener::new(listener, shared.limits.connections).within(&shared.sockets);
        let places = Places::each(shared.limits.peer_share());
        let of_all = shared.peers.clone();
        let (workload, leads) = (self.inbound.tls.local().workload(), self.leads.clone());
        let listening = &shared.listening;
        let (workload, first) = (workload.to_string(), Arc::clone(&self.speaks_first));
        let _listed = listening.list(&listener, Direction::Inbound, workload, leads, first);
        let (drain, tracker) = (shared.drain.clone(), shared.tracker.clone());
        serve::accept(listener, drain, tracker, move |stream, from| {
            let share = Share::of(from.ip(), [&places, &of_all]);
            Arc::clone(&self).connection(stream, from, share)
        })
        .await;
    }

    /// Serves a connection; `share` is its place among those of its address, unless that has as many as
    /// it may have.
    pub(super) async fn connection(
        self: Arc<Self>,
        mut stream: Socket,
        from: SocketAddr,
        share: Option<Share>,
    ) {
        let shared = &self.inbound.shared;
        let Some(share) = share else {
            return self.crowded(from, None);
        };
        // A socket without an address is closed already.
        let Ok(original) = stream.original_destination() else {
            return;
        };
        if let Some(port) = self.own.as_ref().and_then(|own| own.port(original)) {
            return self.led_back(from, port);
        }
        stream.shares(share.clone());
        let mut ends = Ends::new(from, original);
        if let Some(proxies) = &self.proxies {
            let passing = Box::pin(self.passed_on(&mut stream, ends, proxies, &share));
            let Some(named) = passing.await else { return };
            ends = named;
        }
        let (from, origin) = (ends.source, Arc::new(Origin::new(ends, original)));
        if !self.strict {
            match Box::pin(self.first_byte(stream, &origin)).await {
                First::Plain(arrived) => return Box::pin(self.plaintext(*arrived)).await,
                First::Tls(back) => stream = back,
                First::Nothing => return,
            }
        }
        let deadline = Instant::now() + shared.limits.handshake;
        let accepting = Box::pin(self.inbound.tls.accept(stream, self.protocol));
        let accepted = match timeout_at(deadline, accepting).await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err((e, socket))) => {
                self.not_accepted(from, Some(e));
                if let Some(mut socket) = socket {
                    // The caller reads the alert that says why.
                    Box::pin(linger(&mut socket)).await;
                }
                return;
            }
            Err(_) => return self.not_accepted(from, None),
        };
        let crowded = accepted.peer.id().is_some_and(|id| !share.prove(id));
        let now = shared.clock.now();
        let left = accepted.not_after.duration_since(now).unwrap_or_default();
        let arrived = Arrived {
            origin,
            peer: accepted.peer.clone(),
            until: Some(Instant::now() + left),
            io: Io::Server(Box::new(accepted.stream)),
            spoken: None,
            crowded,
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
                (reason, error.because(e))
            }
            None => {
                let (reason, limit) = ("handshake-timeout", shared.limits.handshake);
                let detail = format!("TLS handshake ({reason}): not done within {}", Span(limit));
                (reason, Error::new(Reason::TlsFailed, detail))
            }
        };
        if let Some(left_out) = shared.strangers.admit(reason, shared.clock.now()) {
            tracing::warn!(%from, reason, left_out, "TLS handshake failed: {error}");
        }
        let recorder = &shared.recorder;
        let workload = self.inbound.tls.local().shown();
        recorder.refused(Direction::Inbound, workload, from, None, reason, &error);
    }

    /// Records a connection of a caller that has as many as it may have: of its address, or of its ID
    /// once it has proven that.
    pub(super) fn crowded(&self, from: SocketAddr, id: Option<&SpiffeId>) {
        let shared = &self.inbound.shared;
        let error = self.too_many(id);
        let reason = error.reason().as_str();
        if let Some(left_out) = shared.strangers.admit(reason, shared.clock.now()) {
            tracing::warn!(%from, reason, left_out, "connection refused: {error}");
        }
        let workload = self.inbound.tls.local().shown();
        let recorder = &shared.recorder;
        recorder.refused(Direction::Inbound, workload, from, id, reason, &error);
    }

    /// Records a connection that leads to this process itself.
    #[cold]
    fn led_back(&self, from: SocketAddr, port: u16) {
        let shared = &self.inbound.shared;
        let detail = format!("port {port} is the agent's own: no application is looked for there");
        let error = Error::new(Reason::NoRoute, detail);
        let reason = error.reason().as_str();
        if let Some(left_out) = shared.strangers.admit(reason, shared.clock.now()) {
            tracing::warn!(%from, reason, left_out, "connection refused: {error}");
        }
        let workload = self.inbound.tls.local().shown();
        let recorder = &shared.recorder;
        recorder.refused(Direction::Inbound, workload, from, None, reason, &error);
    }

    fn too_many(&self, id: Option<&SpiffeId>) -> Error {
        let limits = &self.inbound.shared.limits;
        let (most, all) = (limits.peer_share(), limits.peer_sockets());
        let whose = match id {
            Some(id) => id.to_string(),
            None => "this address".to_owned(),
        };
        let detail = format!(
            "{whose} has as many connections as it may have: {most} to this listener, {all} to all"
        );
        Error::new(Reason::Crowded, detail)
    }

    /// Looks whether a caller of a permissive listener begins with TLS. Where the application may
    /// speak first, one that says nothing for a moment may wait for that.
    async fn first_byte(&self, stream: Socket, origin: &Arc<Origin>) -> First {
        let limits = &self.inbound.shared.limits;
        let limit = match self.protocol.is_http() {
            true => limits.handshake,
            false => limits.detect,
        };
        let mut first = [0];
        let peeked = timeout(limit, stream.peek(&mut first)).await;
        if matches!(peeked, Ok(Ok(1))) && first == [TLS] {
            return First::Tls(stream);
        }
        let plain = |io, spoken| {
            First::Plain(Box::new(Arrived {
                io,
                origin: Arc::clone(origin),
                peer: Peer::Unauthenticated,
                until: None,
                spoken,
                crowded: false,
            }))
        };
        match peeked {
            Ok(Ok(1)) => plain(Io::Plain(stream), None),
            Ok(_) => First::Nothing,
            Err(_) if self.protocol.is_http() => plain(Io::Plain(stream), None),
            Err(_) => match self.first_of_both(&stream, origin).await {
                None => First::Nothing,
                Some(Spoke::Application(spoken)) => plain(Io::Plain(stream), Some(spoken)),
                Some(Spoke::Caller(TLS)) => First::Tls(stream),
                Some(Spoke::Caller(_)) => plain(Io::Plain(stream), None),
            },
        }
    }

    /// Which side speaks first where the caller has not yet. The application is opened for that if
    /// policy permits the caller to be opaque; else the caller alone is waited for.
    async fn first_of_both(&self, stream: &Socket, origin: &Origin) -> Option<Spoke> {
        let limits = &self.inbound.shared.limits;
        let stranger = Peer::Unauthenticated;
        let permitted = self.inbound.permit(&stranger, RequestView::Tcp).await;
        let opened = match permitted {
            Ok(_permit) => self.app.open(origin).await.ok(),
            Err(_) => None,
        };
        if let Some(mut app) = opened {
            match first_word(stream, &mut app, limits.idle).await {
                FirstWord::Server(word) => {
                    self.note_first(origin);
                    return Some(Spoke::Application((app, word)));
                }
                FirstWord::Caller | FirstWord::Http | FirstWord::ServerGone => {}
                FirstWord::Nothing => return None,
            }
        }
        let mut first = [0];
        match timeout(limits.idle, stream.peek(&mut first)).await {
            Ok(Ok(1)) => Some(Spoke::Caller(first[0])),
            _ => None,
        }
    }

    /// Notes that the application speaks first, and says at the first time what would spare its callers
    /// the wait.
    fn note_first(&self, origin: &Origin) {
        if !self.speaks_first.swap(true, Ordering::Relaxed) {
            let address = origin.reached();
            tracing::info!(
                %address,
                "the application speaks first, which had to be found out; declare it at the listener: \
                 appProtocol: tcp"
            );
        }
    }

    async fn plaintext(self: Arc<Self>, arrived: Arrived) {
        let limits = &self.inbound.shared.limits;
        let opaque = self.protocol == AppProtocol::Tcp || arrived.spoken.is_some();
        let detected = match (self.protocol, &arrived.io) {
            (protocol, Io::Plain(stream)) if !opaque => {
                let taken = match protocol.is_http() {
                    true => Taken::Http,
                    false => Taken::Text,
                };
                peek(stream, taken, Instant::now() + limits.header).await
            }
            _ => Detected::Opaque,
        };
        match detected {
            Detected::Http1 => self.http(arrived, false).await,
            Detected::Http2 => self.http(arrived, true).await,
            _ => self.tcp(arrived).await,
        }
    }

    async fn http(self: Arc<Self>, arrived: Arrived, http2: bool) {
        let shared = &self.inbound.shared;
        let mut connection = Connection::new(&shared.limits, &shared.budget, &shared.drain);
        connection.until = arrived.until;
        connection.mesh = arrived.peer.id().is_some();
        if arrived.crowded {
            // The answer to its first request says so, and then it ends.
            self.crowded(arrived.origin.source(), arrived.peer.id());
            let end = Instant::now()
                + if http2 {
                    Duration::ZERO
                } else {
                    shared.limits.header
                };
            connection.until = Some(end);
            connection.answering.closing.store(true, Ordering::Relaxed);
        }
        let state = Arc::clone(&connection.state);
        let (io, from) = (arrived.io, arrived.origin.source());
        let info = Arc::new(PeerInfo::new(arrived.peer, from));
        let series = self.inbound.series(info.id());
        let ledger = shared.ledger(series, Some(Arc::clone(&state)));
        let caller = Arc::new(Accepted {
            stack: Arc::clone(&self),
            ledger,
            info: Arc::clone(&info),
            origin: arrived.origin,
            live: io.live(),
            crowded: arrived.crowded,
        });
        let service = move |mut request: Request<Body>| {
            let caller = Arc::clone(&caller);
            async move { caller.stack.handle(&mut request, &caller).await }
        };
        let ended = if http2 {
            connection.serve_h2(io, service).await
        } else {
            connection.serve_h1(io, service).await
        };
        let (direction, recorder) = (Direction::Inbound, &shared.recorder);
        let workload = self.inbound.tls.local().shown();
        serve::ended(
            recorder,
            direction,
            workload,
            from,
            info.id(),
            &state,
            ended,
        );
    }

    /// Answers one request, whatever happens.
    async fn handle(&self, request: &mut Request<Body>, caller: &Accepted<A>) -> Response<Body> {
        let shared = &self.inbound.shared;
        let (direction, local) = (Direction::Inbound, self.inbound.tls.local());
        let upload = Upload::time(request, shared.limits.body);
        let mut pending = admit::begin(direction, local, request, &caller.ledger);
        let call = pending.call();
        call.exchange.caller = Some(caller.info.address);
        call.exchange.tls_peer = caller.info.id().cloned();
        let grpc = grpc_kind(request.headers());
        let admitted = admit::admit(&shared.limits, shared.paths, request, call);
        let plain = call.plain;
        pending.begin();
        let permitted = match admitted {
            Ok(()) if caller.crowded => Err(self.too_many(caller.info.id())),
            Ok(()) => match Permit::probe_of(&self.probes, request) {
                Some(permit) => Ok(permit),
                None => {
                    let view = RequestView::Http(HttpView::seen(request, plain));
                    let peer = &caller.info.peer;
                    match self.inbound.decide(peer, &view) {
                        // Boxed: most requests ask none, and each future would hold room for it.
                        verdict @ Verdict::Ask(_) => {
                            cold_path();
                            let settling = shared.authorizers.settle(verdict, peer, view);
                            Box::pin(settling).await.map_err(Error::from)
                        }
                        verdict => verdict.permit().map_err(Error::from),
                    }
                }
            },
            Err(error) => Err(error),
        };
        let peer = &caller.info.peer;
        let permitted = permitted.and_then(|permit| taken(shared, local, peer, request, permit));
        // The application takes the request; what it was is asked again when policy changes.
        let asked = wishes(request).then(|| Asked::upgrade(request));
        let served = match permitted {
            Ok(taken) => {
                let call = pending.call();
                if call.shown
                    && let PermitReason::Policy(policy) = taken.permit.reason()
                {
                    call.exchange.policy = Some(policy.key.clone());
                }
                let app = self.app.call(request, &caller.info, &caller.origin, call);
                let served = Upload::answering(upload, app).await;
                taken.answered(&served, shared.upstreams.epoch);
                served
            }
            Err(error) => Err(error),
        };
        match served {
            Ok(served) => self.answer(served, pending, caller, asked),
            Err(error) => {
                cold_path();
                let error = shared.failed_by_other(error, pending.call());
                pending.refuse(&error, grpc)
            }
        }
    }

    fn answer(
        &self,
        mut served: Served,
        mut pending: Pending,
        caller: &Accepted<A>,
        asked: Option<Asked>,
    ) -> Response<Body> {
        admit::answered(&mut served.response);
        let shared = &self.inbound.shared;
        if shared.spent.any() {
            cold_path();
            shared.fails_by_other(&mut served.response, pending.call());
        }
        if let Some(lease) = served.lease {
            pending.hold(Held::Application(lease));
        }
        match served.switched.zip(asked) {
            None => pending.answer(served.response),
            Some((switched, asked)) => {
                cold_path();
                // A stream leaves its connection to others.
                if let Some(live) = caller
                    .live
                    .as_ref()
                    .filter(|_| !switched.caller.is_stream())
                {
                    live.becomes_opaque();
                }
                let denied = Arc::clone(&self.inbound).denied(Arc::clone(&caller.info), asked);
                self.inbound.shared.splice(pending, switched, denied);
                served.response
            }
        }
    }

    /// Takes one opaque connection.
    async fn tcp(self: Arc<Self>, arrived: Arrived) {
        let shared = &self.inbound.shared;
        let Arrived {
            mut io,
            origin,
            peer,
            spoken,
            crowded,
            ..
        } = arrived;
        let from = origin.source();
        let mut call = Call::opaque(Direction::Inbound, self.inbound.tls.local(), from);
        call.exchange.tls_peer = peer.id().cloned();
        let series = self.inbound.series(call.exchange.tls_peer.as_ref());
        let permitted = match &peer {
            peer if crowded => {
                self.crowded(from, peer.id());
                Err(self.too_many(peer.id()))
            }
            Peer::Unauthenticated if self.strict => Err(Denied::plaintext().into()),
            peer => self.inbound.permit(peer, RequestView::Tcp).await,
        };
        let mut flow = Flow::default();
        let result = match permitted {
            Ok(_permit) => {
                let counters = shared
                    .recorder
                    .metrics
                    .tcp_opened(&series, call.exchange.tls_peer.is_some());
                flow = Flow::new(counters.clone());
                shared.recorder.begin(&call.exchange);
                let drain = shared.drain.clone();
                let caller = Arc::new(PeerInfo::new(peer, from));
                let denied = Arc::clone(&self.inbound).denied(caller, Asked::Opaque);
                let cut = async {
                    tokio::select! {
                        biased;
                        error = drained(drain) => error,
                        error = denied => error,
                    }
                };
                let result = self.carry(&mut io, &origin, spoken, cut, &mut flow).await;
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
        let goodbye = io.shutdown();
        let _gone = timeout(Duration::from_secs(1), goodbye).await;
    }

    /// Joins an opaque connection with the application, which may have spoken already.
    async fn carry(
        &self,
        io: &mut Io,
        origin: &Origin,
        spoken: Option<Spoken>,
        cut: impl Future<Output = Error>,
        flow: &mut Flow,
    ) -> Result<(), Error> {
        let mut cut = pin!(cut);
        let (mut app, said) = match spoken {
            Some(spoken) => spoken,
            None => tokio::select! {
                biased;
                error = &mut cut => return Err(error),
                opened = self.app.open(origin) => (opened?, Vec::new()),
            },
        };
        let app = (&mut app, &*said);
        match self.protocol {
            AppProtocol::Detect => copy((&mut NoRequest::new(io), &[]), app, cut, flow).await,
            _ => copy((io, &[]), app, cut, flow).await,
        }
    }
}
