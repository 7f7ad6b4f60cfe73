//! Outbound: from an application of this workload to a Service.
//!
//! The request's way reads as the rooms do: admit, authorize, route, balance, connect. A listener
//! for programs that do not embed the mesh adds accept before them.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::server::Connection;
use super::{Limits, admit};
use crate::accept::{ConnState, Detected, Listener, Socket, Upload, peek};
use crate::authorize::{HttpView, Peer, RequestView, WorkloadPolicy, decide};
use crate::balance::{Balancer, Carried};
use crate::body::Body;
use crate::connect::{copy, goes_on_in_h2, is_upgrade, prepare, splice, switched};
use crate::drain::Drain;
use crate::error::{Error, Reason, is_grpc};
use crate::identify::ALPN_TCP;
use crate::model::{AppProtocol, Destination, Draw, ServiceName, Workload};
use crate::route::route;
use crate::telemetry::trace::TraceContext;
use crate::telemetry::{Direction, Exchange, Held, Protocol, Recorder, Series, Text};

/// The port of an authority that names none.
const HTTP_PORT: u16 = 80;

/// What an outbound listener carries.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboundListener {
    /// The Service and its port; `None` where each request's authority decides.
    pub service: Option<(ServiceName, u16)>,
    /// What applications speak on it.
    pub protocol: AppProtocol,
}

/// A listener of the agent, either way.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Listen {
    /// From applications to Services.
    Outbound(OutboundListener),
    /// From the mesh to the application.
    Inbound(super::Inbound),
}

/// The outbound stack of one runtime.
pub(crate) struct Outbound {
    pub(super) balancer: Arc<Balancer>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) limits: Arc<Limits>,
    pub(super) workload: Workload,
    pub(super) principal: Arc<str>,
    pub(super) egress: WorkloadPolicy,
    /// What was answered without an endpoint.
    pub(super) local: Arc<Series>,
    pub(super) drain: Drain,
    pub(super) tracker: TaskTracker,
}

// === impl OutboundListener ===

impl OutboundListener {
    /// A listener whose requests go where their authority says.
    pub fn by_authority(protocol: AppProtocol) -> Self {
        Self {
            service: None,
            protocol,
        }
    }

    /// A listener for one port of a Service.
    pub fn to(service: ServiceName, port: u16, protocol: AppProtocol) -> Self {
        Self {
            service: Some((service, port)),
            protocol,
        }
    }
}

// === impl Outbound ===

impl Outbound {
    /// Carries one request and answers it, whatever happens. The request is lent: its owner's
    /// future holds it once, instead of every future below.
    pub(crate) async fn handle(
        self: &Arc<Self>,
        request: &mut Request<Body>,
        to: Option<&(ServiceName, u16)>,
        caller: Option<(SocketAddr, &Arc<ConnState>)>,
    ) -> Response<Body> {
        let (direction, state) = (Direction::Outbound, caller.map(|(_, state)| state));
        let upload = caller.and_then(|_| Upload::time(request, self.limits.body));
        let mut pending = admit::begin(direction, request, &self.recorder, &self.local, state);
        let exchange = pending.exchange();
        exchange.caller = caller.map(|(address, _)| address);
        exchange.upload = upload.clone();
        let grpc = is_grpc(request.headers());
        let result = match admit::admit(&self.limits, request, exchange) {
            Ok(()) => Upload::answering(upload, self.carry(request, to, exchange)).await,
            Err(error) => Err(error),
        };
        match result {
            Ok((response, carried, switched)) => {
                pending.count_under(self.series(&carried));
                pending.hold(Held::Endpoint(carried));
                match switched {
                    None => pending.answer(response),
                    Some((caller, endpoint)) => {
                        pending.switched();
                        let drain = self.drain.clone();
                        self.tracker.spawn(async move {
                            pending.joined(splice(caller, endpoint, drain).await);
                        });
                        response
                    }
                }
            }
            Err(error) => pending.refuse(&error, grpc),
        }
    }

    /// The way of a request, decision by decision.
    async fn carry(
        self: &Arc<Self>,
        request: &mut Request<Body>,
        to: Option<&(ServiceName, u16)>,
        exchange: &mut Exchange,
    ) -> Result<(Response<Body>, Carried, Option<(OnUpgrade, OnUpgrade)>), Error> {
        let snapshot = self.balancer.reader.load();
        let mut draw = Draw::new(rand::random());
        let to = self.destination(&snapshot, to, &exchange.authority)?;
        let uri = request.uri();
        let http = HttpView::new(request.method(), uri.path(), uri.query(), request.headers());
        let permit = decide(
            &self.egress,
            &Peer::Local,
            &RequestView::Http(http),
            &mut (),
        )?;
        exchange.service = to.service.host.clone();
        if exchange.authority.is_empty() {
            // HTTP/1.0 need not name a host; the next hop speaks HTTP/1.1 or later and must.
            exchange.authority = to.service.host.clone();
        }
        let caller = &self.workload.namespace;
        let routed = route(&snapshot, &to, caller, &permit, Some(http), &mut draw)?;
        exchange.route = routed
            .matched
            .route()
            .map(|(key, rule)| (key.clone(), rule));
        drop(snapshot);

        let upgrade = is_upgrade(request.version(), request.headers());
        let http2 = goes_on_in_h2(routed.protocol, request.version(), upgrade);
        let on_caller = upgrade.then(|| hyper::upgrade::on(&mut *request));
        prepare(request, http2, &exchange.authority, upgrade);
        routed.matched.change_request(request.headers_mut());
        exchange.trace.write(request.headers_mut());

        let answer = self
            .balancer
            .send(&routed.matched, request, http2, exchange, &mut draw)
            .await?;
        exchange.tls_peer = answer.peer;
        let mut response = answer.response;
        let switched = switched(&mut response, on_caller)?;
        crate::connect::answered(&mut response, switched.is_some());
        routed.matched.change_response(response.headers_mut());
        Ok((response.map(Body::incoming), answer.carried, switched))
    }

    fn destination(
        &self,
        snapshot: &crate::model::Snapshot,
        to: Option<&(ServiceName, u16)>,
        authority: &str,
    ) -> Result<Destination, Error> {
        let unknown = |what: String| Error::new(Reason::UnknownHost, what);
        match to {
            Some((name, port)) => {
                let service = snapshot
                    .service(name)
                    .ok_or_else(|| unknown(format!("Service {name} does not exist")))?;
                Ok(Destination {
                    service: service.clone(),
                    port: *port,
                })
            }
            None => snapshot
                .resolve(authority, &self.workload.namespace, HTTP_PORT)
                .ok_or_else(|| unknown(format!("no Service has the name {authority:?}"))),
        }
    }

    /// The metrics of the endpoint that answered, made once and kept with it.
    fn series(&self, carried: &Carried) -> Arc<Series> {
        let make = || Arc::new(self.outbound_series(carried));
        match carried.kept() {
            Some(kept) => kept.series.get_or_init(make).clone(),
            None => make(),
        }
    }

    fn outbound_series(&self, carried: &Carried) -> Series {
        let endpoint = &carried.picked().member().endpoint;
        let service = carried.service();
        let principal = match &endpoint.transport {
            crate::model::Transport::Mesh { ids } => ids.to_string(),
            _ => "unknown".to_owned(),
        };
        let mut labels = source_labels(&self.workload, &self.principal);
        labels.extend([
            ("destination_workload", known(&endpoint.workload)),
            (
                "destination_workload_namespace",
                service.name.namespace().as_str().into(),
            ),
            ("destination_principal", principal.as_str().into()),
            ("destination_version", known(&endpoint.version)),
            ("destination_service", Text(service.host.clone())),
            ("destination_service_name", service.name.name().into()),
            (
                "destination_service_namespace",
                service.name.namespace().as_str().into(),
            ),
        ]);
        Series::new(labels)
    }

    /// Serves a listener until the drain closes it.
    pub(super) async fn listen(self: Arc<Self>, listener: TcpListener, to: OutboundListener) {
        let listener = Listener::new(listener, self.limits.connections);
        let to = Arc::new(to);
        let mut drain = self.drain.clone();
        loop {
            let (stream, from) = tokio::select! {
                accepted = listener.accept() => accepted,
                () = drain.closing() => return,
            };
            let (this, to) = (self.clone(), to.clone());
            let connection = async move { this.connection(stream, from, &to).await };
            self.tracker.spawn(connection);
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: Socket,
        from: SocketAddr,
        to: &Arc<OutboundListener>,
    ) {
        let detected = match to.protocol {
            AppProtocol::Tcp => Detected::Opaque,
            protocol => {
                let deadline = Instant::now() + self.limits.detect;
                peek(&stream, protocol.is_http(), deadline).await
            }
        };
        match detected {
            Detected::Http1 => Box::pin(self.http(stream, from, to, false)).await,
            Detected::Http2 => Box::pin(self.http(stream, from, to, true)).await,
            // What is declared HTTP is never carried as anything else.
            _ => Box::pin(self.tcp(stream, from, to)).await,
        }
    }

    async fn http(
        self: Arc<Self>,
        stream: Socket,
        from: SocketAddr,
        to: &Arc<OutboundListener>,
        http2: bool,
    ) {
        let connection = Connection::new(&self.limits, &self.drain);
        let state = connection.state.clone();
        let (this, to) = (self.clone(), to.clone());
        let conn_state = state.clone();
        let service = move |request: Request<Incoming>| {
            let (this, to, state) = (this.clone(), to.clone(), conn_state.clone());
            let mut request = request.map(Body::incoming);
            async move {
                this.handle(&mut request, to.service.as_ref(), Some((from, &state)))
                    .await
            }
        };
        let ended = if http2 {
            connection.serve_h2(stream, service).await
        } else {
            connection.serve_h1(stream, service).await
        };
        self.recorder
            .ended(Direction::Outbound, from, None, &state, ended);
    }

    /// Carries one opaque connection.
    async fn tcp(self: Arc<Self>, mut stream: Socket, from: SocketAddr, to: &OutboundListener) {
        let context = TraceContext::new(rand::random(), rand::random(), false);
        let mut exchange = Exchange::new(Direction::Outbound, Protocol::Tcp, context);
        exchange.caller = Some(from);
        let mut drain = self.drain.clone();
        let mut series = self.local.clone();
        let opened = match &to.service {
            Some(service) => self.open(service, &mut exchange).await,
            None => {
                let detail = "opaque bytes on a listener that names no Service";
                Err(Error::new(Reason::UnknownHost, detail))
            }
        };
        match opened {
            Ok((mut endpoint, carried)) => {
                series = self.series(&carried);
                self.recorder.metrics.tcp_opened(&series);
                tokio::select! {
                    copied = copy(&mut stream, &mut endpoint) => match copied {
                        Ok((sent, received)) => {
                            exchange.request_bytes = sent;
                            exchange.response_bytes = received;
                        }
                        Err(e) => exchange.failed(&Error::new(Reason::Reset, "broke off").because(e)),
                    },
                    () = drain.closed() => exchange.failed(&Error::new(Reason::Reset, "drained")),
                }
                let (received, sent) = (exchange.request_bytes, exchange.response_bytes);
                self.recorder.metrics.tcp_closed(&series, received, sent);
            }
            Err(error) => {
                exchange.failed(&error);
                let reason = error.reason().as_str();
                self.recorder.metrics.connection_failed("outbound", reason);
            }
        }
        drop(series);
        exchange.duration = exchange.started.elapsed();
        self.recorder.publish(&exchange);
    }

    async fn open(
        &self,
        (name, port): &(ServiceName, u16),
        exchange: &mut Exchange,
    ) -> Result<(crate::connect::Io, Carried), Error> {
        let snapshot = self.balancer.reader.load();
        let to = self.destination(&snapshot, Some(&(name.clone(), *port)), "")?;
        let permit = decide(&self.egress, &Peer::Local, &RequestView::Tcp, &mut ())?;
        let mut draw = Draw::new(rand::random());
        let caller = &self.workload.namespace;
        let routed = route(&snapshot, &to, caller, &permit, None, &mut draw)?;
        drop(snapshot);
        let (io, carried, peer) = self
            .balancer
            .open(&routed.matched, ALPN_TCP, exchange, &mut draw)
            .await?;
        exchange.tls_peer = peer;
        Ok((io, carried))
    }
}

/// Istio's labels of the source.
pub(super) fn source_labels(workload: &Workload, principal: &str) -> Vec<(&'static str, Text)> {
    let label = |name: &str| known(workload.labels.get(name).map_or("", |v| v));
    let app = match workload.labels.get("app") {
        Some(app) => app,
        None => &workload.name,
    };
    vec![
        ("reporter", "source".into()),
        ("source_workload", (&*workload.name).into()),
        (
            "source_workload_namespace",
            workload.namespace.as_str().into(),
        ),
        ("source_principal", known(principal)),
        ("source_app", (&**app).into()),
        ("source_version", label("version")),
        ("source_canonical_service", (&**app).into()),
    ]
}

/// A label's value, as Istio writes an empty one.
pub(super) fn known(text: &str) -> Text {
    if text.is_empty() {
        "unknown".into()
    } else {
        text.into()
    }
}
