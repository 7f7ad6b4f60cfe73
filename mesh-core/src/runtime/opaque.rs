//! Opaque connections of an outbound stack: planned by the same function as requests, opened to an
//! endpoint, and joined until both sides have ended.
//!
//! In comes a connection of a listener with what leads to its Service. Where nothing is declared and the
//! caller is silent, the server may have the first word. It refuses bytes on a listener that names no
//! Service.

use std::sync::Arc;

use tokio::time::Instant;

use super::call::Call;
use super::first::{FirstWord, first_word};
use super::learn;
use super::listen::OutboundListener;
use super::outbound::{Arrival, Outbound, To};
use super::upstream::Upstream;
use crate::accept::{Breaking, Detected, Hello, Socket, Taken, hello, peek};
use crate::authorize::RequestView;
use crate::connect::{Flow, Io, Origin, copy, drained};
use crate::error::{Error, Reason};
use crate::plan::{Destination, Planned, plan};
use crate::route::RoutedAs;
use crate::telemetry::Direction;

/// The endpoint's side of an opaque connection.
pub(super) struct Joined {
    endpoint: Io,
    upstream: Upstream,
    /// What it has said already.
    said: Vec<u8>,
    /// What the caller has said already.
    heard: Vec<u8>,
}

// === impl Outbound ===

impl Outbound {
    /// A caller that says nothing where nothing is declared: perhaps the server is to speak first.
    pub(super) async fn silent(self: Arc<Self>, stream: Socket, arrival: Arc<Arrival>) {
        let limits = &self.shared.limits;
        let Arrival { to, origin } = &*arrival;
        let from = origin.source();
        let mut call = Call::opaque(Direction::Outbound, self.tls.local(), from);
        let opened = match to.destination(origin) {
            // Without a Service there is no server to ask.
            To::Authority => None,
            leads => { self.open(leads, &RequestView::Tcp, &mut call, origin) }
                .await
                .ok(),
        };
        let Some((mut endpoint, upstream)) = opened else {
            return self.late(stream, arrival, Taken::Free).await;
        };
        match first_word(&stream, &mut endpoint, limits.idle).await {
            FirstWord::Server(said) => {
                let (service, port) = (&upstream.service().name, upstream.port());
                self.shared.server_first.note(service, port);
                self.join(stream, call, Joined::new(endpoint, upstream, said))
                    .await;
            }
            FirstWord::Caller => {
                let deadline = Instant::now() + limits.header;
                match peek(&stream, Taken::Free, deadline).await {
                    detected @ (Detected::Http1 | Detected::Http2) => {
                        drop((endpoint, upstream));
                        self.detected(stream, arrival, detected).await;
                    }
                    _ => {
                        let joined = Joined::new(endpoint, upstream, Vec::new());
                        self.join(stream, call, joined).await;
                    }
                }
            }
            word @ (FirstWord::Http | FirstWord::ServerGone) => {
                drop((endpoint, upstream));
                let taken = match word {
                    FirstWord::Http => Taken::Http,
                    _ => Taken::Free,
                };
                self.late(stream, arrival, taken).await;
            }
            FirstWord::Nothing => tracing::debug!(%from, "neither side has spoken"),
        }
    }

    /// Waits for a caller that has the first word.
    async fn late(self: Arc<Self>, stream: Socket, arrival: Arc<Arrival>, taken: Taken) {
        let from = arrival.origin.source();
        match peek(&stream, taken, Instant::now() + self.shared.limits.idle).await {
            Detected::NeedMore => tracing::debug!(%from, "the caller has not spoken"),
            detected => self.detected(stream, arrival, detected).await,
        }
    }

    /// Forwards one opaque connection.
    pub(super) async fn tcp(self: Arc<Self>, mut stream: Socket, arrival: Arc<Arrival>) {
        let Arrival { to, origin } = &*arrival;
        let tls = self.led_to(origin, to, |service, port| {
            service.routes.routed_as(port, self.namespace())
        });
        let Hello { bytes, said } = match tls {
            None if self.is_outside(origin, to) => {
                let deadline = Instant::now() + self.shared.limits.header;
                Box::pin(hello(&mut stream, deadline)).await
            }
            Some(RoutedAs::Tls) => {
                let deadline = Instant::now() + self.shared.limits.header;
                Box::pin(hello(&mut stream, deadline)).await
            }
            Some(RoutedAs::Tcp) | None => Hello::default(),
        };
        let view = match &said {
            Some(said) => RequestView::Tls {
                server: said.server.as_deref(),
            },
            None => RequestView::Tcp,
        };
        let mut call = Call::opaque(Direction::Outbound, self.tls.local(), origin.source());
        let recorder = &self.shared.recorder;
        let to = to.destination(origin);
        let (endpoint, upstream) = match self.open(to, &view, &mut call, origin).await {
            Ok(opened) => opened,
            Err(error) => {
                let reason = error.reason().as_str();
                recorder.metrics.connection_failed("outbound", reason);
                call.close(&Flow::default(), Some(&error));
                return recorder.publish(&call.exchange);
            }
        };
        let joined = Joined::new(endpoint, upstream, Vec::new()).heard(bytes);
        self.join(stream, call, joined).await;
    }

    /// Whether a caller has connected to an address that no Service has, so that a name in its handshake
    /// may lead on.
    fn is_outside(&self, origin: &Origin, to: &OutboundListener) -> bool {
        let snapshot = self.shared.reader.peek();
        match to.destination(origin) {
            To::Address(address) => {
                snapshot.names_hosts() && snapshot.at_address(address.ip()).is_none()
            }
            To::Authority | To::Service(..) => false,
        }
    }

    /// Joins both sides of an opaque connection until they have ended.
    async fn join(&self, stream: Socket, call: Call, joined: Joined) {
        self.shared.recorder.begin(&call.exchange);
        self.flow(stream, call, joined).await;
    }

    /// Has bytes flow between both sides until they have ended. The record has begun.
    pub(super) async fn flow<T>(&self, mut stream: T, mut call: Call, joined: Joined)
    where
        T: Breaking,
    {
        let recorder = &self.shared.recorder;
        let Joined {
            mut endpoint,
            upstream,
            said,
            heard,
        } = joined;
        let series = self.series(upstream.kept(), upstream.service(), upstream.member());
        let mutual_tls = call.exchange.tls_peer.is_some();
        let counters = recorder.metrics.tcp_opened(series, mutual_tls);
        let mut flow = Flow::new(counters.clone());
        let drain = self.shared.drain.clone();
        let (caller, server) = ((&mut stream, &*heard), (&mut endpoint, &*said));
        let result = copy(caller, server, drained(drain), &mut flow).await;
        counters.closed();
        call.close(&flow, result.as_ref().err());
        recorder.publish(&call.exchange);
    }

    /// Plans an opaque connection and opens the one to its endpoint.
    async fn open(
        &self,
        to: To<'_>,
        view: &RequestView<'_>,
        call: &mut Call,
        origin: &Origin,
    ) -> Result<(Io, Upstream), Error> {
        if matches!(to, To::Authority) {
            let detail = "opaque bytes on a listener that names no Service";
            return Err(Error::new(Reason::UnknownHost, detail));
        }
        self.open_at(to.destination(""), view, call, origin).await
    }

    /// Plans an opaque connection and notes in its record what was decided.
    fn plan_opaque(
        &self,
        to: Destination<'_>,
        view: &RequestView<'_>,
        call: &mut Call,
    ) -> Result<Planned, Error> {
        let snapshot = self.shared.reader.peek();
        let (local, draw) = (self.tls.local(), &mut call.draw);
        let planned = plan(&snapshot, local, to, view, draw, &mut ());
        let planned = planned.inspect_err(|refused| {
            if let Some(service) = &refused.service {
                call.exchange.service.share(&service.host);
            }
        })?;
        call.exchange.service.share(&planned.service().host);
        call.exchange.route = planned.route().map(|(key, rule)| (key.clone(), rule));
        Ok(planned)
    }

    /// The same to any destination.
    pub(super) async fn open_at(
        &self,
        to: Destination<'_>,
        view: &RequestView<'_>,
        call: &mut Call,
        origin: &Origin,
    ) -> Result<(Io, Upstream), Error> {
        let mut planned = self.plan_opaque(to, view, call);
        if learn::is_unknown(planned.as_ref())
            && Box::pin(learn::learn(&self.shared, self.namespace(), to, None)).await?
        {
            planned = self.plan_opaque(to, view, call);
        }
        let planned = planned?;
        let Some(backend) = planned.backend() else {
            let detail = "the route answers HTTP alone";
            return Err(Error::new(Reason::NoRoute, detail));
        };
        if let Some(asked) = backend.asked {
            self.shared
                .asked
                .ready(backend.service, asked, None)
                .await?;
        }
        let upstreams = &self.shared.upstreams;
        upstreams.open(&self.tls, backend, call, origin).await
    }
}

// === impl Joined ===

impl Joined {
    pub(super) fn new(endpoint: Io, upstream: Upstream, said: Vec<u8>) -> Self {
        Self {
            endpoint,
            upstream,
            said,
            heard: Vec::new(),
        }
    }

    /// With what the caller has said already.
    pub(super) fn heard(mut self, heard: Vec<u8>) -> Self {
        self.heard = heard;
        self
    }
}
