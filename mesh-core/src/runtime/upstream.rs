//! The driver of attempts: a planned request in, the head of an answer out, from one of the
//! endpoints of its backend.
//!
//! 1. Each attempt reads the current endpoints, so a change is seen by a request that waits.
//! 2. [`Attempts`] says whether an attempt is followed by another.
//! 3. Every attempt ends in a verdict on the endpoint, or in none if it was not its fault.

use std::fmt;
use std::hint::cold_path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use inmesh_pki::clock::{Clock, Span, SystemClock};
use inmesh_pki::id::SpiffeId;
use tokio::time::{Instant, sleep, timeout_at};

use super::call::{Call, End};
use super::repeat::{asked, outcome_of};
use super::sending::{Sending, Tried};
use crate::balance::verdict::{self, HeadSeen, Verdict};
use crate::balance::{Ejection, Failure, Member, Picked, pick_again};
use crate::body::Body;
use crate::connect::{Connector, Io, Kept, Lease, Origin, SPARING, Sent, Unsent, Way};
use crate::error::{Error, REASON, Reason};
use crate::identify::{Inner, Tls};
use crate::model::HttpVersion;
use crate::plan::PlannedBackend;
use crate::retry::{Answer, AttemptOutcome, Fault, Next};
use crate::snapshot::{ServiceView, SnapshotReader};
use crate::telemetry::{Exchange, Metrics, Protocol};

/// Chooses endpoints and sends to them.
pub(super) struct Upstreams {
    pub(super) reader: SnapshotReader,
    pub(super) connector: Connector,
    pub(super) metrics: Metrics,
    /// The zero of the monotonic clock that ejections are counted on.
    pub(super) epoch: Instant,
}

/// The endpoint of an exchange and the connection to it, held until the answer is whole.
pub(super) struct Upstream {
    picked: Picked,
    lease: Option<Lease>,
    kept: Arc<Kept>,
    service: Arc<ServiceView>,
    port: u16,
    judged: bool,
}

/// The head of an answer.
pub(super) struct Answered {
    pub(super) response: Response<Body>,
    pub(super) upstream: Upstream,
    pub(super) peer: Option<SpiffeId>,
    /// Whether it is one that a policy may have had sent again.
    pub(super) failed: bool,
}

/// The endpoint of an attempt.
pub(super) type At<'a> = (&'a mut Picked, &'a Arc<ServiceView>);

// === impl Upstreams ===

impl Upstreams {
    /// Sends a request, which it takes out of its place, to an endpoint of its backend.
    pub(super) async fn send(
        &self,
        tls: &Tls,
        sending: &Sending<'_>,
        request: &mut Request<Body>,
        call: &mut Call,
    ) -> Result<Answered, Error> {
        let (mut tried, waits) = (Tried::of(sending, request), AtomicBool::new(false));
        // Nothing has been waited for since the request was there.
        let mut now = call.started;
        loop {
            let (service, mut picked) = self.choose(sending.to, &mut tried, call, now)?;
            if sending.retry.is_some() && call.exchange.attempts.len() == 1 {
                service.handle_request(sending.to.port, self.now());
            }
            let until = sending.limit(call, now, request.headers_mut());
            let way = Way {
                version: sending.version,
                reuse: call.attempts.reuse(),
                waits: Some(&waits),
                now,
                origin: sending.origin,
            };
            let attempt = self.connector.send(tls, picked.member(), request, way);
            // A block, so that the future holds no answer while it waits to send again.
            let wait = {
                let sent = match until {
                    None => attempt.await,
                    Some((at, late)) => match timeout_at(at, attempt).await {
                        Ok(sent) => sent,
                        Err(_) if waits.swap(false, Ordering::Relaxed) => {
                            Err(late_in_line(late, sending, call))
                        }
                        Err(_) => Err(self.late(late, sending, call, (&mut picked, &service))),
                    },
                };
                match sent {
                    Ok(sent) => {
                        let mut answered = self.answered(sent, (picked, service), sending);
                        match self.judge(&mut answered, sending, &mut tried, call) {
                            None => return Ok(answered),
                            Some(wait) => {
                                cold_path();
                                wait
                            }
                        }
                    }
                    Err(unsent) => {
                        let at = (&mut picked, &service);
                        self.again(unsent, sending, &mut tried, call, at)?
                    }
                }
            };
            if !wait.is_zero() {
                sleep(wait).await;
            }
            tried.put_back(request, &call.exchange);
            now = Instant::now();
        }
    }

    /// The head of an answer, and what is held for its body.
    #[inline]
    pub(super) fn answered(
        &self,
        sent: Sent,
        (picked, service): (Picked, Arc<ServiceView>),
        sending: &Sending<'_>,
    ) -> Answered {
        Answered {
            response: sent.response,
            upstream: Upstream {
                picked,
                lease: Some(sent.lease),
                kept: sent.kept,
                service,
                port: sending.to.port,
                judged: false,
            },
            peer: sent.peer,
            failed: false,
        }
    }

    /// Opens an opaque connection to an endpoint of its backend.
    pub(super) async fn open(
        &self,
        tls: &Tls,
        to: PlannedBackend<'_>,
        call: &mut Call,
        origin: &Origin,
    ) -> Result<(Io, Upstream), Error> {
        let mut tried = Tried::default();
        loop {
            let (service, mut picked) = self.choose(to, &mut tried, call, Instant::now())?;
            let kept = Kept::of(picked.member(), tls.local(), self.connector.idle_max);
            let (place, origin) = (Some(kept.room_opaque()?), Some(origin));
            let connector = &self.connector;
            let opening = connector.open(tls, picked.member(), Inner::Tcp, place, origin);
            let error = match opening.await {
                Ok(opened) => {
                    picked.answered(|| self.now());
                    self.succeeded(&mut picked, &service);
                    call.exchange.tls_peer = opened.peer;
                    let upstream = Upstream {
                        kept,
                        picked,
                        lease: None,
                        service,
                        port: to.port,
                        judged: true,
                    };
                    return Ok((opened.io, upstream));
                }
                Err(error) => error,
            };
            let unsent = Unsent::unconnected(error);
            let (outcome, at) = (unsent.outcome, (&mut picked, &service));
            self.blame(&unsent, call, at);
            let next = call.attempts.handle_outcome(outcome, None, &mut call.draw);
            let Next::Retry { avoid, .. } = next else {
                return Err(unsent.error);
            };
            self.note(unsent.error, avoid, &mut tried, call, &picked);
        }
    }

    /// Sends a request to the application behind an inbound listener, which has no other endpoint.
    pub(super) async fn send_to_one(
        &self,
        tls: &Tls,
        member: &Member,
        request: &mut Request<Body>,
        version: HttpVersion,
        call: &mut Call,
        origin: &Origin,
    ) -> Result<(Response<Body>, Lease), Error> {
        let mut now = call.started;
        loop {
            let way = Way {
                version,
                reuse: call.attempts.reuse(),
                waits: None,
                now,
                origin: Some(origin),
            };
            let sending = self.connector.send(tls, member, request, way);
            match sending.await {
                Ok(sent) => return Ok((sent.response, sent.lease)),
                Err(unsent) => {
                    let Call { attempts, draw, .. } = &mut *call;
                    if attempts.handle_outcome(unsent.outcome, None, draw) == Next::Finish {
                        return Err(unsent.error);
                    }
                }
            }
            now = Instant::now();
        }
    }

    /// Judges the endpoint of an attempt by the head of its answer. Returns how long to wait before the
    /// request is sent again, if a policy wants that; else the answer is passed on.
    pub(super) fn judge(
        &self,
        answered: &mut Answered,
        sending: &Sending<'_>,
        tried: &mut Tried,
        call: &mut Call,
    ) -> Option<Duration> {
        let (response, upstream) = (&answered.response, &mut answered.upstream);
        let status = response.status();
        let (headers, protocol) = (response.headers(), call.exchange.protocol);
        let grpc = protocol.grpc_status(headers);
        let failed = status.is_server_error() || grpc.is_some();
        let spared = failed && is_spared(headers);
        let shed = verdict::is_shed(status, grpc);
        if spared && is_overload(headers) {
            cold_path();
            upstream.picked.shed(None, self.now());
        }
        let pause = shed.then(|| asked(headers, SystemClock.now())).flatten();
        let head = HeadSeen {
            status,
            grpc,
            of_grpc: protocol == Protocol::Grpc,
            spared,
            pause,
        };
        upstream.judge_head(self, &head);
        let answer = Answer::new(status, grpc);
        let wait = self.repeat(answer, headers, sending, tried, call, upstream);
        if wait.is_none() {
            answered.failed = failed || shed || call.attempts.no_retry().is_some();
        }
        wait
    }

    /// Judges the endpoint of an attempt that brought no answer, and notes it before the next one.
    /// Returns how long to wait for that.
    ///
    /// # Errors
    ///
    /// The attempt's, if no other follows.
    #[cold]
    fn again(
        &self,
        unsent: Unsent,
        sending: &Sending<'_>,
        tried: &mut Tried,
        call: &mut Call,
        at: At<'_>,
    ) -> Result<Duration, Error> {
        let (picked, service) = at;
        self.blame(&unsent, call, (picked, service));
        let repeat = tried.repeat(sending, service, self.now(), call);
        let Call { attempts, draw, .. } = &mut *call;
        let next = attempts.handle_outcome(unsent.outcome, repeat.as_ref(), draw);
        let Next::Retry { avoid, wait } = next else {
            return Err(unsent.error);
        };
        self.note(unsent.error, avoid, tried, call, picked);
        Ok(wait)
    }

    /// How long to wait before a request is sent again that was answered; `None` if the answer is passed
    /// on.
    fn repeat(
        &self,
        answer: Answer,
        headers: &HeaderMap,
        sending: &Sending<'_>,
        tried: &mut Tried,
        call: &mut Call,
        upstream: &Upstream,
    ) -> Option<Duration> {
        sending.retry?;
        let repeat = tried.repeat(sending, &upstream.service, self.now(), call)?;
        let now = || SystemClock.now();
        let outcome = outcome_of(answer, headers, upstream.member(), repeat.kept, now);
        let Call { attempts, draw, .. } = &mut *call;
        let Next::Retry { avoid, wait } = attempts.handle_outcome(outcome, Some(&repeat), draw)
        else {
            return None;
        };
        let said = match answer.grpc.filter(|_| !answer.status.is_server_error()) {
            Some(grpc) => grpc_failure(grpc),
            None => format!("it answered {}", answer.status),
        };
        let error = Error::new(Reason::Reset, said);
        self.note(error, avoid, tried, call, &upstream.picked);
        Some(wait)
    }

    /// Holds an attempt that brought no answer against its endpoint, if that is to blame.
    pub(super) fn blame(&self, unsent: &Unsent, call: &mut Call, (picked, service): At<'_>) {
        if unsent.outcome.is_endpoints() {
            self.failed(picked, service, Failure::LocalOrigin, &unsent.error);
        }
        call.met = Some(Box::new((Arc::clone(service), picked.member().clone())));
    }

    /// Notes an attempt that is followed by another.
    pub(super) fn note(
        &self,
        error: Error,
        avoid: bool,
        tried: &mut Tried,
        call: &Call,
        picked: &Picked,
    ) {
        if avoid {
            tried.endpoints.push(Arc::clone(&picked.member().state));
        }
        self.metrics.retried(error.reason().as_str());
        tracing::debug!(
            trace_id = format_args!("{:032x}", call.exchange.trace.trace_id),
            address = %picked.member().endpoint.address(),
            reason = error.reason().as_str(),
            %error,
            "an attempt failed; another endpoint is tried"
        );
        tried.last = Some(error);
    }

    /// Chooses an endpoint among those of the backend now, and notes the attempt. If none is left,
    /// the error is that of the last attempt.
    pub(super) fn choose(
        &self,
        to: PlannedBackend<'_>,
        tried: &mut Tried,
        call: &mut Call,
        now: Instant,
    ) -> Result<(Arc<ServiceView>, Picked), Error> {
        let snapshot = self.reader.peek();
        let (service, set) = to.find(&snapshot)?;
        call.exchange.service.share(&service.host);
        let since = now.saturating_duration_since(self.epoch);
        let choice = to.choice.of(call.exchange.caller.map(|caller| caller.ip()));
        let (avoided, kept) = (&tried.endpoints, tried.kept.is_some());
        let picked = pick_again(
            set,
            (choice, to.session),
            since,
            (avoided, kept),
            &mut call.draw,
        );
        let picked = picked.map_err(|none| {
            tried
                .last
                .take()
                .unwrap_or_else(|| to.without_endpoint(none))
        })?;
        let address = picked.member().endpoint.address();
        call.exchange.attempts.push(address);
        Ok((Arc::clone(service), picked))
    }

    /// An attempt has met its deadline.
    #[cold]
    pub(super) fn late(
        &self,
        late: Reason,
        sending: &Sending<'_>,
        call: &Call,
        (picked, service): At<'_>,
    ) -> Unsent {
        let (error, by_caller) = too_late(late, sending, call);
        if by_caller {
            // A caller in a hurry says nothing of the endpoint.
            let outcome = AttemptOutcome::Lost(Fault::Caller);
            return Unsent { error, outcome };
        }
        // The endpoint waits as we do, for the rest of the request.
        if call.upload.as_ref().is_some_and(|u| u.is_awaited()) {
            let detail = "the caller has not sent the whole request";
            let error = Error::new(Reason::BodyTimeout, detail).because(error);
            return Unsent {
                error,
                outcome: AttemptOutcome::Lost(Fault::Caller),
            };
        }
        self.failed(picked, service, Failure::LocalOrigin, &error);
        let outcome = AttemptOutcome::late(late);
        Unsent { error, outcome }
    }

    /// The moment, on the clock that ejections and failures are counted on.
    pub(super) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    #[cold]
    fn failed(
        &self,
        picked: &mut Picked,
        service: &ServiceView,
        failure: Failure,
        why: &dyn fmt::Display,
    ) {
        let state = &picked.member().state;
        state.note_failure(&why.to_string(), self.now());
        if let Ejection::Ejected { until } = picked.failed_by(failure, self.now()) {
            self.ejected(picked.member(), service, until);
        }
        self.compare(picked, service);
    }

    /// Compares the endpoints of a set where that is due.
    fn compare(&self, picked: &Picked, service: &ServiceView) {
        for (member, until) in picked.compare(|| self.now()) {
            self.ejected(&member, service, until);
        }
    }

    fn ejected(&self, member: &Member, service: &ServiceView, until: Duration) {
        self.metrics.ejected(&service.host);
        let address = member.endpoint.address();
        let length = until.saturating_sub(self.now());
        tracing::warn!(%address, service = %service.name, seconds = length.as_secs(), "endpoint ejected");
    }

    fn succeeded(&self, picked: &mut Picked, service: &ServiceView) {
        if picked.succeeded_at(|| self.now()) {
            let address = picked.member().endpoint.address();
            tracing::info!(%address, service = %service.name, "endpoint is back");
        }
        self.compare(picked, service);
    }
}

/// That a request was not answered in time, and whether that is because its caller does not wait.
fn too_late(late: Reason, sending: &Sending<'_>, call: &Call) -> (Error, bool) {
    let limits = sending.timeouts;
    let own = limits.request.map(|limit| call.started + limit);
    let callers = call.deadline.filter(|at| own.is_none_or(|own| *at < own));
    let (name, limit) = match (late, callers) {
        (Reason::RequestTimeout, Some(at)) => ("what its caller waits", Some(at - call.started)),
        (Reason::RequestTimeout, None) => ("request", limits.request),
        _ => ("backendRequest", limits.backend_request),
    };
    let limit = Span(limit.unwrap_or_default());
    let error = Error::new(late, format!("no answer within {name} ({limit})"));
    let by_caller = late == Reason::RequestTimeout && callers.is_some();
    (error, by_caller)
}

/// An attempt has met its deadline while it waited for one of the connections that there may be: no server
/// has seen it, and no endpoint is to blame.
#[cold]
pub(super) fn late_in_line(late: Reason, sending: &Sending<'_>, call: &Call) -> Unsent {
    let (why, _) = too_late(late, sending, call);
    let detail = "it waited for one of the connections that may be open to the endpoints";
    let error = Error::new(late, detail).because(why).never_sent();
    let outcome = AttemptOutcome::Lost(Fault::Crowd);
    Unsent { error, outcome }
}

/// Whether the agent of an endpoint gives a reason for which the application behind it is not to blame.
fn is_spared(headers: &HeaderMap) -> bool {
    let said = headers.get(REASON);
    said.is_some_and(|said| SPARING.iter().any(|reason| said == reason.as_str()))
}

/// Whether the agent of an endpoint says that the application behind it has too much to do.
fn is_overload(headers: &HeaderMap) -> bool {
    let said = headers.get(REASON);
    said.is_some_and(|said| said == Reason::Overload.as_str())
}

// === impl Upstream ===

impl Upstream {
    /// What is kept of a local workload with the endpoint.
    pub(super) fn kept(&self) -> &Kept {
        &self.kept
    }

    /// The endpoint.
    pub(super) fn member(&self) -> &Member {
        self.picked.member()
    }

    /// The Service that it belongs to.
    pub(super) fn service(&self) -> &ServiceView {
        &self.service
    }

    /// The port of the Service.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The connection has left HTTP and serves no other request.
    pub(super) fn leave_http(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.switched();
        }
    }

    /// Judges the endpoint by the head of an answer.
    fn judge_head(&mut self, by: &Upstreams, head: &HeadSeen) {
        let verdict = verdict::of_head(&mut self.picked, head, || by.now());
        self.take(by, verdict, || match head.grpc {
            Some(grpc) if !head.status.is_server_error() => grpc_failure(grpc),
            _ => format!("it answered {}", head.status),
        });
    }

    /// Takes a verdict on the endpoint; `why` says why it failed.
    #[inline]
    fn take(&mut self, by: &Upstreams, verdict: Verdict, why: impl FnOnce() -> String) {
        match verdict {
            Verdict::Failed(failure) => self.failed(by, failure, &why()),
            Verdict::Open => {}
            Verdict::Spared => self.judged = true,
            Verdict::Succeeded => {
                self.judged = true;
                by.succeeded(&mut self.picked, &self.service);
            }
        }
    }

    fn failed(&mut self, by: &Upstreams, failure: Failure, why: &dyn fmt::Display) {
        self.judged = true;
        by.failed(&mut self.picked, &self.service, failure, why);
    }

    /// The exchange has ended. Returns what is kept with the endpoint.
    pub(super) fn finish(
        mut self,
        by: &Upstreams,
        end: End,
        exchange: &Exchange,
        now: Instant,
    ) -> Arc<Kept> {
        match end {
            End::Broken => {
                let reason = exchange.reason.map_or("reset", Reason::as_str);
                let detail = exchange.detail.as_deref().unwrap_or_default();
                let why = format_args!("{reason}: {detail}");
                self.failed(by, Failure::LocalOrigin, &why);
            }
            End::Whole if !self.judged => {
                let grpc = exchange.grpc_status;
                let verdict = verdict::of_end(&mut self.picked, grpc, || by.now());
                self.take(by, verdict, || grpc_failure(grpc.unwrap_or_default()));
            }
            End::Abandoned | End::Whole => {}
        }
        if end == End::Whole
            && let Some(lease) = self.lease.take()
        {
            lease.release(now);
        }
        self.kept
    }
}

fn grpc_failure(status: u8) -> String {
    format!("it answered grpc-status {status}")
}
