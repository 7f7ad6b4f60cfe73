//! The stage: a routed request in, the head of an answer out, from whichever endpoint gave one.
//!
//! 1. Each attempt reads the current endpoints, so a change is seen by a request that waits.
//! 2. A request that surely reached no server goes to another endpoint; so does one that met a
//!    connection closed under it, if it is idempotent and has no body. Nothing else is repeated.
//! 3. Every attempt ends in a verdict on the endpoint, or in none where it was not its doing.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use inmesh_pki::id::SpiffeId;
use tokio::time::{Instant, timeout_at};

use super::{EjectPolicy, NoEndpoint, Picked, Verdict, pick};
use crate::body::Body;
use crate::connect::{Connector, Fault, Io, Kept, Lease, Unsent};
use crate::error::{Error, Reason};
use crate::model::{Draw, EndpointSet, EndpointState, ServiceView, SnapshotReader};
use crate::route::RouteMatch;
use crate::telemetry::{End, Exchange, Metrics, Protocol, grpc_status};

/// Attempts that may fail before a request does.
const ATTEMPTS: usize = 3;
/// Pooled connections that may turn out closed before a request gives up.
const STALE: usize = 16;

/// Chooses endpoints and sends to them.
pub(crate) struct Balancer {
    pub(crate) reader: SnapshotReader,
    pub(crate) connector: Connector,
    pub(crate) eject: EjectPolicy,
    pub(crate) metrics: Metrics,
    /// The zero of the monotonic clock that ejections are counted on.
    pub(crate) epoch: Instant,
}

/// What an exchange holds until its answer is whole.
pub(crate) struct Carried {
    picked: Picked,
    lease: Option<Lease>,
    balancer: Arc<Balancer>,
    service: Arc<ServiceView>,
    judged: bool,
}

/// The head of an answer.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) carried: Carried,
    pub(crate) peer: Option<SpiffeId>,
}

/// The backend of a request as it is now.
struct Backend {
    service: Arc<ServiceView>,
    set: Arc<EndpointSet>,
}

// === impl Balancer ===

impl Balancer {
    /// Sends a request, which it takes out of its place, to an endpoint of its backend.
    pub(crate) async fn send(
        self: &Arc<Self>,
        to: &RouteMatch,
        request: &mut Request<Body>,
        http2: bool,
        exchange: &mut Exchange,
        draw: &mut Draw,
    ) -> Result<Answer, Error> {
        let limits = to.timeouts();
        let until = limits.request.map(|limit| exchange.started + limit);
        let mut tried = Vec::new();
        let (mut stale, mut fresh) = (0, false);
        let mut last = None;
        // Nothing has been waited for since the request was there.
        let mut now = exchange.started;
        loop {
            let (service, mut picked) = match self.choose(to, &tried, exchange, draw, now) {
                Ok(chosen) => chosen,
                Err(none) if none.reason() == Reason::NoEndpoint => {
                    return Err(last.unwrap_or(none));
                }
                Err(missing) => return Err(missing),
            };
            let attempt = self
                .connector
                .send(picked.member(), request, http2, fresh, now);
            let one = limits.backend_request.map(|limit| now + limit);
            let sent = match one.into_iter().chain(until).min() {
                None => attempt.await,
                Some(at) => match timeout_at(at, attempt).await {
                    Ok(sent) => sent,
                    Err(_) => {
                        let late = late(to, Some(at) == until);
                        // The endpoint waits as we do, for the rest of the request.
                        if exchange.upload.as_ref().is_some_and(|u| u.is_awaited()) {
                            let detail = "the caller has not sent the whole request";
                            return Err(Error::new(Reason::BodyTimeout, detail).because(late));
                        }
                        self.failed(&mut picked, &service);
                        return Err(late);
                    }
                },
            };
            let Unsent {
                error,
                again,
                fault,
            } = match sent {
                Ok(sent) => {
                    let mut carried = Carried {
                        picked,
                        lease: Some(sent.lease),
                        balancer: self.clone(),
                        service,
                        judged: false,
                    };
                    carried.judge_head(&sent.response, exchange.protocol);
                    return Ok(Answer {
                        response: sent.response,
                        carried,
                        peer: sent.peer,
                    });
                }
                Err(unsent) => unsent,
            };
            match fault {
                Fault::Caller => {}
                Fault::Connection => {
                    stale += 1;
                    // What a server may have seen is sent once more, not once for each connection
                    // that it closes.
                    fresh |= !error.is_never_sent();
                }
                Fault::Crowd => tried.push(picked.member().state.clone()),
                Fault::Endpoint => {
                    self.failed(&mut picked, &service);
                    tried.push(picked.member().state.clone());
                }
            }
            if !again || tried.len() >= ATTEMPTS || stale >= STALE {
                return Err(error);
            }
            self.metrics.retried(error.reason().as_str());
            last = Some(error);
            now = Instant::now();
        }
    }

    /// Opens an opaque connection to an endpoint of its backend.
    pub(crate) async fn open(
        self: &Arc<Self>,
        to: &RouteMatch,
        alpn: &'static [u8],
        exchange: &mut Exchange,
        draw: &mut Draw,
    ) -> Result<(Io, Carried, Option<SpiffeId>), Error> {
        let mut tried = Vec::new();
        let mut last = None;
        loop {
            let now = Instant::now();
            let (service, mut picked) = match self.choose(to, &tried, exchange, draw, now) {
                Ok(chosen) => chosen,
                Err(none) if none.reason() == Reason::NoEndpoint => {
                    return Err(last.unwrap_or(none));
                }
                Err(missing) => return Err(missing),
            };
            match self.connector.open(picked.member(), alpn).await {
                Ok((io, peer, _)) => {
                    picked.succeeded(self.now());
                    let carried = Carried {
                        picked,
                        lease: None,
                        balancer: self.clone(),
                        service,
                        judged: true,
                    };
                    return Ok((io, carried, peer));
                }
                Err(error) => {
                    self.failed(&mut picked, &service);
                    tried.push(picked.member().state.clone());
                    if tried.len() >= ATTEMPTS {
                        return Err(error);
                    }
                    self.metrics.retried(error.reason().as_str());
                    last = Some(error);
                }
            }
        }
    }

    /// Chooses an endpoint among those of the backend now, and notes the attempt.
    fn choose(
        &self,
        to: &RouteMatch,
        tried: &[Arc<EndpointState>],
        exchange: &mut Exchange,
        draw: &mut Draw,
        now: Instant,
    ) -> Result<(Arc<ServiceView>, Picked), Error> {
        let Backend { service, set } = self.backend(to)?;
        exchange.service = service.host.clone();
        let since = now.saturating_duration_since(self.epoch);
        let picked = pick(&set, since, tried, draw).map_err(|none| no_endpoint(to, none))?;
        exchange.attempts.push(picked.member().endpoint.address());
        Ok((service, picked))
    }

    pub(crate) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn backend(&self, to: &RouteMatch) -> Result<Backend, Error> {
        let missing = |what: String| Error::new(Reason::BackendMissing, what);
        let snapshot = self.reader.peek();
        let service = snapshot
            .service(to.service())
            .ok_or_else(|| missing(format!("Service {} does not exist", to.service())))?;
        let set = service.endpoints(to.port()).ok_or_else(|| {
            missing(format!(
                "Service {} has no port {}",
                to.service(),
                to.port()
            ))
        })?;
        Ok(Backend {
            service: service.clone(),
            set: set.clone(),
        })
    }

    fn failed(&self, picked: &mut Picked, service: &ServiceView) {
        if let Verdict::Ejected { until } = picked.failed(&self.eject, self.now()) {
            self.metrics.ejected(&service.host);
            let address = picked.member().endpoint.address();
            let length = until.saturating_sub(self.now());
            tracing::warn!(%address, service = %service.name, ?length, "endpoint ejected");
        }
    }

    fn succeeded(&self, picked: &mut Picked, service: &ServiceView) {
        if picked.succeeded_at(|| self.now()) {
            let address = picked.member().endpoint.address();
            tracing::info!(%address, service = %service.name, "endpoint is back");
        }
    }
}

fn late(to: &RouteMatch, whole: bool) -> Error {
    let limits = to.timeouts();
    if whole {
        let limit = limits.request.unwrap_or_default();
        let detail = format!("no answer within request ({limit:?})");
        Error::new(Reason::RequestTimeout, detail)
    } else {
        let limit = limits.backend_request.unwrap_or_default();
        let detail = format!("no answer within backendRequest ({limit:?})");
        Error::new(Reason::BackendTimeout, detail)
    }
}

fn no_endpoint(to: &RouteMatch, none: NoEndpoint) -> Error {
    let detail = format!("Service {} port {}: {none}", to.service(), to.port());
    Error::new(Reason::NoEndpoint, detail)
}

// === impl Carried ===

impl Carried {
    /// What is kept with the endpoint.
    pub(crate) fn kept(&self) -> Option<&Kept> {
        Kept::of(self.picked.member(), self.balancer.connector.idle_max)
    }

    /// The endpoint.
    pub(crate) fn picked(&self) -> &Picked {
        &self.picked
    }

    /// The Service that it belongs to.
    pub(crate) fn service(&self) -> &Arc<ServiceView> {
        &self.service
    }

    /// The connection serves no other request: it has left HTTP.
    pub(crate) fn keep_connection(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.switched();
        }
    }

    /// What the head of an answer tells of the endpoint. A failure counts at once. A success waits
    /// for the end, because an answer that breaks off is none; only a probe is not left waiting,
    /// unless it is gRPC, whose status comes last.
    fn judge_head(&mut self, response: &Response<Incoming>, protocol: Protocol) {
        let grpc = grpc_status(response.headers());
        if response.status().is_server_error() || grpc.is_some_and(is_endpoints_fault) {
            self.judge(false);
        } else if self.picked.is_probe() && (protocol != Protocol::Grpc || grpc.is_some()) {
            self.judge(true);
        }
    }

    fn judge(&mut self, good: bool) {
        self.judged = true;
        if good {
            self.balancer.succeeded(&mut self.picked, &self.service);
        } else {
            self.balancer.failed(&mut self.picked, &self.service);
        }
    }

    /// The exchange has ended.
    pub(crate) fn finish(mut self, end: End, exchange: &Exchange, now: Instant) {
        match end {
            End::Broken => self.judge(false),
            End::Whole if !self.judged => {
                self.judge(!exchange.grpc_status.is_some_and(is_endpoints_fault));
            }
            End::Abandoned | End::Whole => {}
        }
        if end == End::Whole
            && let Some(lease) = self.lease.take()
        {
            lease.release(now);
        }
    }
}

/// UNKNOWN, INTERNAL, UNAVAILABLE and DATA_LOSS are the server's doing.
fn is_endpoints_fault(grpc: u8) -> bool {
    matches!(grpc, 2 | 13 | 14 | 15)
}
