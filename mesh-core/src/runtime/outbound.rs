//! Outbound: from an application of a local workload to a Service.
//!
//! A request is admitted, planned and sent. A listener for programs that do not embed the mesh adds
//! accept before that, and hands connections that are not HTTP to `opaque.rs`.

use std::collections::HashMap;
use std::hint::cold_path;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::{Method, Request, Response};
use inmesh_pki::clock::{Clock, SystemClock};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::admit;
use super::call::Call;
use super::exchange::{Held, Ledger, Pending};
use super::idle::{self, Moves};
use super::inject::{inject, slow};
use super::labels;
use super::learn;
use super::listen::{OutboundListener, Target};
use super::mirror;
use super::repeat::is_of_mesh;
use super::sending::Sending;
use super::serve::{self, Connection};
use super::shared::Shared;
use super::upstream::{Answered, Upstream};
use crate::accept::{ConnState, Detected, Listener, Socket, Taken, Upload, peek};
use crate::authorize::{HttpView, RequestView};
use crate::balance::Member;
use crate::body::Body;
use crate::connect::{Forward, Io, Kept, Origin, Switched, forward, protocol_of};
use crate::error::{Error, Reason, grpc_kind};
use crate::identify::Tls;
use crate::model::{AppProtocol, Namespace, ServiceName};
use crate::plan::{Destination, Planned, plan};
use crate::retry::KeptRequest;
use crate::snapshot::ServiceView;
use crate::telemetry::{Direction, LabelText, Protocol, Series};

/// The most Services whose exchanges without an endpoint are counted apart; those of further ones are
/// counted with those for no known Service.
const SERVICES: usize = 1_000;

/// The outbound stack of one local workload.
pub(super) struct Outbound {
    pub(super) shared: Arc<Shared>,
    pub(super) tls: Arc<Tls>,
    principal: LabelText,
    /// Of the requests of this process itself. Counts what was for no known Service.
    ledger: Arc<Ledger>,
    /// Counts what was answered without an endpoint, by the Service that it was for.
    without_endpoint: Mutex<HashMap<Arc<str>, Arc<Series>>>,
}

/// What leads to the destination of a request or connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum To<'a> {
    Address(SocketAddr),
    /// The authority of the request itself.
    Authority,
    Service(&'a ServiceName, u16),
}

/// The connection that a request came on.
#[derive(Clone, Copy)]
pub(super) struct Caller<'a> {
    pub(super) origin: &'a Arc<Origin>,
    pub(super) ledger: &'a Arc<Ledger>,
}

/// A connection to an outbound listener: what all its requests share.
pub(super) struct Arrival {
    pub(super) to: Arc<OutboundListener>,
    pub(super) origin: Arc<Origin>,
}

/// The answer to a request.
enum Carried {
    /// Of an endpoint, with both connections if they have left HTTP.
    Endpoint(Response<Body>, Upstream, Option<Switched>),
    /// Of the route itself.
    Route(Response<Body>),
}

// === impl Outbound ===

impl Outbound {
    pub(super) fn new(shared: &Arc<Shared>, tls: Arc<Tls>, principal: LabelText) -> Self {
        let without_service = labels::without_service(tls.local().workload(), &principal);
        let ledger = shared.ledger(Arc::new(without_service), None);
        Self {
            shared: Arc::clone(shared),
            tls,
            principal,
            ledger,
            without_endpoint: Mutex::default(),
        }
    }

    /// Answers one request, whatever happens. All is lent: its owner's future holds it once, instead
    /// of every future below.
    pub(super) async fn handle(
        self: &Arc<Self>,
        request: &mut Request<Body>,
        to: &To<'_>,
        caller: Option<&Caller<'_>>,
    ) -> Response<Body> {
        let grpc = grpc_kind(request.headers());
        match self.try_handle(request, to, caller).await {
            Ok(response) => response,
            Err((pending, error)) => pending.refuse(&error, grpc),
        }
    }

    /// Answers one request, unless the mesh would answer in place of an endpoint.
    pub(super) async fn try_handle(
        self: &Arc<Self>,
        request: &mut Request<Body>,
        to: &To<'_>,
        caller: Option<&Caller<'_>>,
    ) -> Result<Response<Body>, (Pending, Error)> {
        let shared = &self.shared;
        let (local, ledger) = (self.tls.local(), caller.map_or(&self.ledger, |c| c.ledger));
        let upload = caller.and_then(|_| Upload::time(request, shared.limits.body));
        let mut pending = admit::begin(Direction::Outbound, local, request, ledger);
        let call = pending.call();
        call.exchange.caller = caller.map(|c| c.origin.source());
        call.upload = upload.clone();
        let admitted = admit::admit(&shared.limits, shared.paths, request, call);
        pending.begin();
        let result = match admitted {
            Ok(()) => {
                let origin = caller.map(|c| c.origin);
                let carried = self.carry(request, to, pending.call(), origin);
                Upload::answering(upload, carried).await
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(Carried::Route(response)) => {
                let series = self.series_without_answer(pending.call());
                pending.count_under(series);
                Ok(pending.answer(response))
            }
            Ok(Carried::Endpoint(response, upstream, switched)) => {
                self.series(upstream.kept(), upstream.service(), upstream.member());
                pending.hold(Held::Endpoint(upstream));
                Ok(match switched {
                    None => pending.answer(response),
                    Some(switched) => {
                        cold_path();
                        // An egress policy stays as it is for as long as its workload is served.
                        let denied = std::future::pending();
                        self.shared.splice(pending, switched, denied);
                        response
                    }
                })
            }
            Err(error) => {
                cold_path();
                let series = self.series_without_answer(pending.call());
                let error = self.shared.failed_here(error, pending.call());
                pending.count_under(series);
                Err((pending, error))
            }
        }
    }

    /// The way of a request: planned, prepared, sent, and its answer brought back.
    async fn carry(
        self: &Arc<Self>,
        request: &mut Request<Body>,
        to: &To<'_>,
        call: &mut Call,
        origin: Option<&Arc<Origin>>,
    ) -> Result<Carried, Error> {
        let mut planned = self.plan_http(request, to, call);
        if learn::is_unknown(planned.as_ref()) {
            cold_path();
            let destination = to.destination(&call.exchange.authority);
            let (namespace, until) = (self.namespace(), call.deadline);
            if Box::pin(learn::learn(&self.shared, namespace, destination, until)).await? {
                planned = self.plan_http(request, to, call);
            }
        }
        let planned = planned?;
        if let Some(injected) = planned.injected() {
            cold_path();
            let made = inject(injected, &planned, request.headers(), call);
            if let Some(answer) = Box::pin(made).await? {
                return of_route(answer, request);
            }
        }
        let Some(backend) = planned.backend() else {
            return answer_of(&planned, request, call);
        };
        if let Some(asked) = backend.asked {
            cold_path();
            let ready = self
                .shared
                .asked
                .ready(backend.service, asked, call.deadline);
            Box::pin(ready).await?;
        }
        if !planned.mirrors().is_empty() {
            cold_path();
            mirror::begin(&self.shared, &self.tls, &planned, request, call, origin);
        }
        let hop = forward(request, planned.protocol(), &call.exchange.authority);
        planned.edit_request(request);
        call.exchange.trace.write(request.headers_mut());
        let moves = planned
            .stream_idle()
            .map(|limit| idle::watch(request, limit));
        let mut sending = Sending {
            to: backend,
            timeouts: planned.timeouts().map(|t| t.value).unwrap_or_default(),
            retry: planned.retry().map(|retry| &*retry.value),
            version: hop.version(),
            moves: moves.as_deref(),
            origin: origin.map(|origin| &**origin),
        };
        let upstreams = &self.shared.upstreams;
        let grpc = call.exchange.protocol == Protocol::Grpc;
        let kept = || !hop.may_leave() && KeptRequest::may_be(request);
        let answered = match (planned.hedged(request.method(), grpc, kept), &moves) {
            (Ok(Some(policy)), None) => {
                // A request is hedged or repeated.
                sending.retry = None;
                let racing = upstreams.race(&self.tls, (&sending, policy), request, call);
                racing.await?
            }
            (Ok(Some(policy)), Some(moves)) => {
                cold_path();
                sending.retry = None;
                let racing = upstreams.race(&self.tls, (&sending, policy), request, call);
                Box::pin(moves.within(racing)).await?
            }
            (_, None) => upstreams.send(&self.tls, &sending, request, call).await?,
            (_, Some(moves)) => {
                cold_path();
                let sent = upstreams.send(&self.tls, &sending, request, call);
                Box::pin(moves.within(sent)).await?
            }
        };
        self.bring_back(&planned, hop, answered, moves, call)
    }

    /// The answer of an endpoint, as its caller gets it.
    #[inline]
    fn bring_back(
        &self,
        planned: &Planned,
        hop: Forward,
        mut answered: Answered,
        moves: Option<Arc<Moves>>,
        call: &mut Call,
    ) -> Result<Carried, Error> {
        call.exchange.tls_peer = answered.peer;
        let response = &mut answered.response;
        let switched = hop.answered(response)?;
        if !is_of_mesh(answered.upstream.member()) {
            admit::answered(response);
        }
        planned.edit_response(response.headers_mut());
        if let Some(session) = planned.session() {
            cold_path();
            let by = &answered.upstream.member().endpoint;
            session.answered(by, SystemClock.now(), response.headers_mut());
        }
        if answered.failed {
            cold_path();
            self.shared.failed_below(response, call);
        }
        if let Some(bandwidth) = planned.injected().and_then(|made| made.bandwidth) {
            cold_path();
            slow(response, bandwidth);
        }
        if let Some(moves) = moves.filter(|_| switched.is_none()) {
            cold_path();
            idle::answer(response, moves);
        }
        Ok(Carried::Endpoint(
            answered.response,
            answered.upstream,
            switched,
        ))
    }

    /// Plans a request and notes in its record what was decided.
    fn plan_http(
        &self,
        request: &Request<Body>,
        to: &To<'_>,
        call: &mut Call,
    ) -> Result<Planned, Error> {
        let view = RequestView::Http(HttpView::seen(request, call.plain));
        let snapshot = self.shared.reader.peek();
        let Call {
            exchange,
            shown,
            draw,
            ..
        } = call;
        let (local, to) = (self.tls.local(), to.destination(&exchange.authority));
        let mut planned = plan(&snapshot, local, to, &view, draw, &mut ());
        if planned.as_ref().is_ok_and(has_ended) {
            cold_path();
            let view = RequestView::Http(HttpView::of(request).without_sessions());
            planned = plan(&snapshot, local, to, &view, draw, &mut ());
        }
        let planned = planned.inspect_err(|refused| {
            if let Some(service) = &refused.service {
                exchange.service.share(&service.host);
            }
        })?;
        exchange.service.share(&planned.service().host);
        if exchange.authority.is_empty() {
            // HTTP/1.0 need not name a host; the next hop speaks HTTP/1.1 or later and must.
            exchange.authority = exchange.service.clone();
        }
        if *shown {
            cold_path();
            exchange.route = planned.route().map(|(key, rule)| (key.clone(), rule));
        }
        Ok(planned)
    }

    /// The metrics of an endpoint, made once and kept with it.
    pub(super) fn series<'k>(
        &self,
        kept: &'k Kept,
        service: &ServiceView,
        member: &Member,
    ) -> &'k Arc<Series> {
        kept.series.get_or_init(|| {
            let workload = self.tls.local().workload();
            Arc::new(labels::outbound(workload, &self.principal, service, member))
        })
    }

    /// The metrics of an exchange that no endpoint has answered: those of the last endpoint that it
    /// was sent to, else those of its Service, if it came as far.
    pub(super) fn series_without_answer(&self, call: &Call) -> Arc<Series> {
        if let Some(met) = &call.met {
            let (service, member) = &**met;
            let idle_max = self.shared.upstreams.connector.idle_max;
            let kept = Kept::of(member, self.tls.local(), idle_max);
            return Arc::clone(self.series(&kept, service, member));
        }
        let host = &call.exchange.service;
        let known = self.without_endpoint.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known.get(&**host) {
            return Arc::clone(series);
        }
        if host.is_empty() || known.len() >= SERVICES {
            return Arc::clone(&self.ledger.series);
        }
        let workload = self.tls.local().workload();
        let series = labels::without_endpoint(workload, &self.principal, host);
        let series = Arc::new(series);
        known.insert(host.as_ref().into(), Arc::clone(&series));
        series
    }

    /// Serves a listener until the drain closes it.
    pub(super) async fn listen(self: Arc<Self>, listener: TcpListener, to: OutboundListener) {
        let limit = self.shared.limits.connections;
        let listener = Listener::new(listener, limit).within(&self.shared.sockets);
        let (workload, leads) = (self.tls.local().workload(), to.to_string());
        let listening = &self.shared.listening;
        let (workload, first) = (workload.to_string(), Arc::default());
        let _listed = listening.list(&listener, Direction::Outbound, workload, leads, first);
        let to = Arc::new(to);
        let (drain, tracker) = (self.shared.drain.clone(), self.shared.tracker.clone());
        serve::accept(listener, drain, tracker, move |stream, from| {
            let (this, to) = (Arc::clone(&self), Arc::clone(&to));
            async move { this.connection(stream, from, &to).await }
        })
        .await;
    }

    async fn connection(
        self: Arc<Self>,
        mut stream: Socket,
        from: SocketAddr,
        to: &Arc<OutboundListener>,
    ) {
        let Some(origin) = self.origin(&mut stream, from, to).await else {
            return;
        };
        if let To::Address(address) = to.destination(&origin) {
            // What it speaks is a matter of the port that it has reached.
            learn::learn_address(&self.shared, address.ip()).await;
        }
        let declared = self.declared(&origin, to);
        let detected = match declared {
            AppProtocol::Tcp => Detected::Opaque,
            protocol => {
                let limits = &self.shared.limits;
                // What is declared HTTP is never forwarded as anything else.
                let (taken, limit) = match protocol.is_http() {
                    true => (Taken::Http, limits.header),
                    false => (Taken::Free, limits.detect),
                };
                peek(&stream, taken, Instant::now() + limit).await
            }
        };
        let (to, origin) = (Arc::clone(to), Arc::new(origin));
        let arrival = Arc::new(Arrival { to, origin });
        self.detected(stream, arrival, detected).await;
    }

    pub(super) async fn detected(
        self: Arc<Self>,
        stream: Socket,
        arrival: Arc<Arrival>,
        detected: Detected,
    ) {
        match detected {
            Detected::Http1 => Box::pin(self.http(stream, arrival, false)).await,
            Detected::Http2 => Box::pin(self.http(stream, arrival, true)).await,
            Detected::NeedMore => Box::pin(self.silent(stream, arrival)).await,
            Detected::Opaque | Detected::Tls => Box::pin(self.tcp(stream, arrival)).await,
        }
    }

    /// What a caller of a listener speaks as far as it is declared: by the listener, or by the port
    /// that it leads to.
    fn declared(&self, origin: &Origin, to: &OutboundListener) -> AppProtocol {
        if to.protocol != AppProtocol::Detect {
            return to.protocol;
        }
        let declared = self.led_to(origin, to, |service, port| {
            if self.shared.server_first.has(&service.name, port) {
                return Some(AppProtocol::Tcp);
            }
            let declared = service.port_view(port)?.protocol;
            // Routes of opaque connections say what a port is that declares nothing.
            let opaque = || service.routes.routed_as(port, self.namespace()).is_some();
            Some(match declared {
                AppProtocol::Detect if opaque() => AppProtocol::Tcp,
                declared => declared,
            })
        });
        declared.unwrap_or(AppProtocol::Detect)
    }

    /// Asks about the Service and port that a caller of a listener is led to, if that can be said before
    /// it speaks.
    pub(super) fn led_to<T>(
        &self,
        origin: &Origin,
        to: &OutboundListener,
        ask: impl FnOnce(&ServiceView, u16) -> Option<T>,
    ) -> Option<T> {
        let snapshot = self.shared.reader.peek();
        match to.destination(origin) {
            To::Authority => None,
            To::Address(address) => ask(snapshot.at_address(address.ip())?, address.port()),
            To::Service(name, port) => ask(snapshot.service(name)?, port),
        }
    }

    pub(super) fn namespace(&self) -> &Namespace {
        &self.tls.local().workload().namespace
    }

    /// Where the requests of a caller's connection are written.
    pub(super) fn ledger_of(&self, state: &Arc<ConnState>) -> Arc<Ledger> {
        let series = Arc::clone(&self.ledger.series);
        self.shared.ledger(series, Some(Arc::clone(state)))
    }

    async fn http(self: Arc<Self>, stream: Socket, arrival: Arc<Arrival>, http2: bool) {
        let connection =
            Connection::new(&self.shared.limits, &self.shared.budget, &self.shared.drain);
        let state = Arc::clone(&connection.state);
        let from = arrival.origin.source();
        let ledger = self.ledger_of(&state);
        // One pointer for each request.
        let all = Arc::new((Arc::clone(&self), arrival, ledger));
        let service = move |mut request: Request<Body>| {
            let all = Arc::clone(&all);
            async move {
                let (this, arrival, ledger) = &*all;
                let Arrival { to, origin } = &**arrival;
                let caller = Caller { origin, ledger };
                if asks_for_tunnel(&request, to) {
                    return Box::pin(this.connect(&mut request, caller)).await;
                }
                this.handle(&mut request, &to.destination(origin), Some(&caller))
                    .await
            }
        };
        let ended = if http2 {
            connection.serve_h2(stream, service).await
        } else {
            connection.serve_h1(Io::Plain(stream), service).await
        };
        let recorder = &self.shared.recorder;
        let (direction, workload) = (Direction::Outbound, self.tls.local().shown());
        serve::ended(recorder, direction, workload, from, None, &state, ended);
    }
}

/// Whether the session that a request shows has ended. The clock is read where there is one.
fn has_ended(planned: &Planned) -> bool {
    let session = planned.session();
    session.is_some_and(|session| session.has_ended(SystemClock.now()))
}

/// Whether a request asks for a tunnel of a listener that has them. An extended CONNECT asks for something
/// else.
fn asks_for_tunnel(request: &Request<Body>, of: &OutboundListener) -> bool {
    *request.method() == Method::CONNECT
        && of.target == Target::Authority
        && protocol_of(request).is_none()
}

/// The answer of the route itself.
#[cold]
fn answer_of(planned: &Planned, request: &Request<Body>, call: &Call) -> Result<Carried, Error> {
    match planned.answer(&call.exchange.authority, &HttpView::of(request)) {
        Some(response) => of_route(response, request),
        None => Err(Error::new(Reason::NoRoute, "the route has no answer")),
    }
}

/// An answer that no endpoint has given. A caller that asks for a WebSocket over HTTP/2 would take a 2xx for
/// the switch.
#[cold]
fn of_route(response: Response<Body>, request: &Request<Body>) -> Result<Carried, Error> {
    let status = response.status();
    if status.is_success() && protocol_of(request).is_some() {
        let detail = format!("the route answers {status} and does not switch protocols");
        return Err(Error::new(Reason::Reset, detail));
    }
    Ok(Carried::Route(response))
}

// === impl To ===

impl To<'_> {
    pub(super) fn destination<'a>(&'a self, authority: &'a str) -> Destination<'a> {
        match *self {
            Self::Address(address) if authority.is_empty() => Destination::Address(address),
            Self::Address(address) => Destination::Captured { address, authority },
            Self::Authority => Destination::Authority(authority),
            Self::Service(name, port) => Destination::Service { name, port },
        }
    }
}

impl OutboundListener {
    /// The address that the application connected to, if it leads on.
    pub(super) fn original(&self, stream: &Socket) -> Option<SocketAddr> {
        match self.target {
            Target::OriginalAddress => stream.original_destination().ok(),
            Target::Authority | Target::Service(..) => None,
        }
    }

    pub(super) fn destination(&self, origin: &Origin) -> To<'_> {
        match &self.target {
            Target::Authority => To::Authority,
            Target::OriginalAddress => To::Address(origin.reached()),
            Target::Service(name, port) => To::Service(name, *port),
        }
    }
}
