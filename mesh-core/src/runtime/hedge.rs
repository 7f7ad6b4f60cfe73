//! The driver of a race: a planned request that is hedged in, the head of the first answer out.
//!
//! 1. [`Race`] says when the next attempt begins, and which answer ends it.
//! 2. What surely reached no server, or met a closed connection and may be repeated, is replaced as it is
//!    without a policy; that is no further attempt.
//! 3. An attempt whose answer is not taken is dropped: HTTP/2 resets its stream with CANCEL, HTTP/1.1 closes
//!    its connection. It says nothing of the health of its endpoint, and of its speed only that it takes
//!    longer.
//!
//! All of it lies in one box beside the way of other requests, which are not the larger for it.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::{HeaderMap, Request};
use inmesh_pki::clock::{Clock, SystemClock};
use tokio::time::{Instant, timeout_at};

use super::call::Call;
use super::repeat::{count, outcome_of};
use super::sending::{Sending, Tried};
use super::upstream::{Answered, Upstreams, late_in_line};
use crate::balance::{EndpointState, Member, Picked, pick_again};
use crate::body::Body;
use crate::connect::{Sent, Unsent, Way};
use crate::error::{Error, Reason};
use crate::identify::Tls;
use crate::retry::{
    Answer, AttemptOutcome, BodySeen, BudgetPolicy, Chance, Due, HedgePolicy, KeptRequest, Next,
    Race, Step,
};
use crate::snapshot::ServiceView;
use crate::telemetry::Metrics;

/// A request that is hedged, while it has no answer.
struct Racing<'a> {
    upstreams: &'a Upstreams,
    tls: &'a Tls,
    sending: &'a Sending<'a>,
    policy: &'a HedgePolicy,
    call: &'a mut Call,
    kept: KeptRequest,
    tried: Tried,
    race: Race,
    /// The Service as the last attempt has found it.
    service: Arc<ServiceView>,
    /// In the order in which they began.
    runners: Vec<Runner<'a>>,
    /// What the last attempt has brought that has not ended the race.
    last: Option<Result<Answered, Error>>,
}

/// An attempt that has no answer yet.
struct Runner<'a> {
    // Dropped before the endpoint is given back.
    running: Pin<Box<dyn Future<Output = Ended> + Send + 'a>>,
    endpoint: (Picked, Arc<ServiceView>),
    further: Further<'a>,
}

/// What an attempt has come to, and the request if it may be sent again.
type Ended = (Came, Request<Body>);

/// What an attempt has come to.
enum Came {
    /// To nothing by its deadline; `true` is while it waited for a connection.
    Late(Reason, bool),
    Sent(Sent),
    Unsent(Unsent),
}

/// Counts what becomes of an attempt other than the first.
struct Further<'a>(Option<&'a Metrics>);

// === impl Upstreams ===

impl Upstreams {
    /// Sends a request, which it takes out of its place, to several endpoints of its backend, one after
    /// the other while none has answered.
    #[cold]
    pub(super) fn race<'a>(
        &'a self,
        tls: &'a Tls,
        (sending, policy): (&'a Sending<'a>, &'a HedgePolicy),
        request: &'a mut Request<Body>,
        call: &'a mut Call,
    ) -> Pin<Box<dyn Future<Output = Result<Answered, Error>> + Send + 'a>> {
        Box::pin(async move {
            let mut tried = Tried::default();
            let (service, picked) = self.choose(sending.to, &mut tried, call, Instant::now())?;
            service.handle_request(sending.to.port, self.now());
            let mut racing = Racing {
                upstreams: self,
                tls,
                sending,
                policy,
                call,
                kept: KeptRequest::of(request),
                tried,
                race: Race::new(policy, self.now()),
                service: Arc::clone(&service),
                runners: Vec::new(),
                last: None,
            };
            let first = std::mem::take(request);
            racing.launch((picked, service), first, Further(None));
            racing.run().await
        })
    }
}

// === impl Racing ===

impl<'a> Racing<'a> {
    async fn run(&mut self) -> Result<Answered, Error> {
        let result = loop {
            self.begin_due();
            if self.runners.is_empty()
                && self.race.due().is_none()
                && let Some(last) = self.last.take()
            {
                break last;
            }
            let due = self.race.due().map(|at| self.upstreams.epoch + at);
            let Some((runner, ended)) = next_of(&mut self.runners, due).await else {
                continue;
            };
            if let Some(result) = self.handle(runner, ended) {
                break result;
            }
        };
        self.call.attempts.hedged(&self.race);
        let upstreams = self.upstreams;
        for Runner {
            running, endpoint, ..
        } in self.runners.drain(..)
        {
            drop(running);
            let (mut picked, _) = endpoint;
            picked.outrun(|| upstreams.now());
        }
        let mut answered = result?;
        let address = answered.upstream.member().endpoint.address();
        self.call.exchange.attempts.settle(address);
        answered.failed |= self.call.attempts.no_retry().is_some();
        Ok(answered)
    }

    /// Begins the attempts whose moment has come.
    fn begin_due(&mut self) {
        loop {
            let now = self.upstreams.now();
            if self.race.due().is_none_or(|due| due > now) {
                return;
            }
            let (to, reader) = (self.sending.to, &self.upstreams.reader);
            let snapshot = reader.peek();
            let found = to.find(&snapshot).ok();
            let overload = found.is_some_and(|(_, set)| set.is_shedding(now));
            let budget = self.budget();
            let chance = self.chance(&self.service, (&budget, now), overload);
            let choice = to.choice.of(self.call.exchange.caller.map(|c| c.ip()));
            let (kept, tried) = (&self.kept, &self.tried.endpoints);
            let mut draw = self.call.draw.clone();
            let pick = || {
                let request = kept.beside()?;
                let (service, set) = found?;
                let free = (&**tried, false);
                let picked = pick_again(set, (choice, None), now, free, &mut draw).ok()?;
                // A probe is due whatever was tried.
                let taken = is_among(tried, picked.member());
                (!taken).then(|| (picked, Arc::clone(service), request))
            };
            let mut race = self.race;
            let due = race.handle_due(&chance, pick);
            self.race = race;
            self.call.draw = draw;
            match due {
                Due::Begin((picked, service, mut request)) => {
                    let before = self.call.exchange.attempts.len();
                    count(before, self.call.exchange.protocol, request.headers_mut());
                    self.enter(&picked, &service);
                    let further = Further(Some(&self.upstreams.metrics));
                    self.launch((picked, service), request, further);
                }
                Due::Later => return,
                Due::Refused(why) => return self.upstreams.metrics.hedged(why.as_str()),
            }
        }
    }

    /// Takes what an attempt has come to. Returns what the race has, if that ends it.
    fn handle(&mut self, runner: Runner<'a>, ended: Ended) -> Option<Result<Answered, Error>> {
        let Runner {
            endpoint, further, ..
        } = runner;
        let (mut picked, service) = endpoint;
        let (came, request) = ended;
        let at = (&mut picked, &service);
        let unsent = match came {
            Came::Sent(sent) => {
                let answered = self
                    .upstreams
                    .answered(sent, (picked, service), self.sending);
                return self.handle_answer(answered, further);
            }
            Came::Unsent(unsent) => unsent,
            Came::Late(late, true) => late_in_line(late, self.sending, self.call),
            Came::Late(late, false) => self.upstreams.late(late, self.sending, self.call, at),
        };
        self.upstreams
            .blame(&unsent, self.call, (&mut picked, &service));
        let outcome = unsent.outcome;
        let (error, further) = match self.replace(unsent, &picked, request, further) {
            Ok(()) => return None,
            Err(left) => left,
        };
        further.ends("failed");
        match self.step(outcome) {
            Step::Finish => Some(Err(error)),
            Step::Wait => {
                self.last = Some(Err(error));
                None
            }
        }
    }

    fn handle_answer(
        &mut self,
        mut answered: Answered,
        further: Further<'_>,
    ) -> Option<Result<Answered, Error>> {
        let (upstreams, sending) = (self.upstreams, self.sending);
        // Without a policy of repeats none follows by it.
        let _none = upstreams.judge(&mut answered, sending, &mut self.tried, self.call);
        let (answer, outcome) = self.outcome_of(&answered);
        let step = self.step(outcome);
        match matches!(outcome, AttemptOutcome::Answered(_))
            && !self.policy.covers(answer.status, answer.grpc)
        {
            true => further.ends("won"),
            false => further.ends("failed"),
        }
        match step {
            Step::Finish => Some(Ok(answered)),
            Step::Wait => {
                self.last = Some(Ok(answered));
                None
            }
        }
    }

    /// What an answer says, and what it means for the race.
    fn outcome_of(&self, answered: &Answered) -> (Answer, AttemptOutcome) {
        let (response, member) = (&answered.response, answered.upstream.member());
        let headers: &HeaderMap = response.headers();
        let grpc = self.call.exchange.protocol.grpc_status(headers);
        let answer = Answer::new(response.status(), grpc);
        let kept = self.kept.body() != BodySeen::Gone;
        let outcome = outcome_of(answer, headers, member, kept, || SystemClock.now());
        (answer, outcome)
    }

    fn step(&mut self, outcome: AttemptOutcome) -> Step {
        let (budget, now) = (self.budget(), self.upstreams.now());
        let mut race = self.race;
        let chance = self.chance(&self.service, (&budget, now), false);
        let step = race.handle_outcome(outcome, &chance);
        self.race = race;
        step
    }

    /// Sends a request that surely reached no server, or met a closed connection, to another endpoint, as
    /// it is done without a policy.
    ///
    /// # Errors
    ///
    /// The attempt's, if it is not.
    fn replace(
        &mut self,
        unsent: Unsent,
        picked: &Picked,
        request: Request<Body>,
        further: Further<'a>,
    ) -> Result<(), (Error, Further<'a>)> {
        let Call { attempts, draw, .. } = &mut *self.call;
        let Next::Retry { avoid, .. } = attempts.handle_outcome(unsent.outcome, None, draw) else {
            return Err((unsent.error, further));
        };
        if !avoid {
            let state = &picked.member().state;
            let tried = &mut self.tried.endpoints;
            tried.retain(|of| !Arc::ptr_eq(of, state));
        }
        let (upstreams, to) = (self.upstreams, self.sending.to);
        upstreams.note(unsent.error, avoid, &mut self.tried, self.call, picked);
        match upstreams.choose(to, &mut self.tried, self.call, Instant::now()) {
            Ok((service, picked)) => {
                self.launch((picked, service), request, further);
                Ok(())
            }
            Err(error) => Err((error, further)),
        }
    }

    /// Notes the endpoint of a further attempt.
    fn enter(&mut self, picked: &Picked, service: &Arc<ServiceView>) {
        let address = picked.member().endpoint.address();
        self.call.exchange.attempts.push(address);
        self.service = Arc::clone(service);
        tracing::debug!(
            trace_id = format_args!("{:032x}", self.call.exchange.trace.trace_id),
            %address,
            "no answer yet; another endpoint is asked too"
        );
    }

    /// Begins an attempt.
    fn launch(
        &mut self,
        endpoint: (Picked, Arc<ServiceView>),
        mut request: Request<Body>,
        further: Further<'a>,
    ) {
        let (now, sending, call) = (Instant::now(), self.sending, &*self.call);
        let until = sending.limit(call, now, request.headers_mut());
        let member = endpoint.0.member().clone();
        self.tried.endpoints.push(Arc::clone(&member.state));
        let (connector, tls) = (&self.upstreams.connector, self.tls);
        let (version, reuse, origin) = (sending.version, call.attempts.reuse(), sending.origin);
        let running = async move {
            let waits = AtomicBool::new(false);
            let way = Way {
                version,
                reuse,
                waits: Some(&waits),
                now,
                origin,
            };
            let attempt = connector.send(tls, &member, &mut request, way);
            let sent = match until {
                None => Ok(attempt.await),
                Some((at, late)) => timeout_at(at, attempt).await.map_err(|_| late),
            };
            let came = match sent {
                Ok(Ok(sent)) => Came::Sent(sent),
                Ok(Err(unsent)) => Came::Unsent(unsent),
                Err(late) => Came::Late(late, waits.load(Ordering::Relaxed)),
            };
            (came, request)
        };
        self.runners.push(Runner {
            running: Box::pin(running),
            endpoint,
            further,
        });
    }

    fn budget(&self) -> BudgetPolicy {
        let traffic = self.service.traffic(self.sending.to.port);
        traffic.map_or_else(BudgetPolicy::default, |traffic| traffic.budget.value)
    }

    fn chance<'c>(
        &'c self,
        service: &'c ServiceView,
        (budget, now): (&'c BudgetPolicy, Duration),
        overload: bool,
    ) -> Chance<'c> {
        let end = self.sending.end(self.call);
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        Chance {
            policy: self.policy,
            budget: (&service.retries, budget),
            now,
            left: left.unwrap_or(Duration::MAX),
            body: self.kept.body(),
            overload,
        }
    }
}

/// The next attempt that ends; `None` if none does by then.
async fn next_of<'a>(
    runners: &mut Vec<Runner<'a>>,
    until: Option<Instant>,
) -> Option<(Runner<'a>, Ended)> {
    let ended = poll_fn(|cx| {
        for (nth, runner) in runners.iter_mut().enumerate() {
            if let Poll::Ready(ended) = runner.running.as_mut().poll(cx) {
                return Poll::Ready((nth, ended));
            }
        }
        Poll::Pending
    });
    let (nth, ended) = match until {
        None => ended.await,
        Some(until) => timeout_at(until, ended).await.ok()?,
    };
    Some((runners.remove(nth), ended))
}

fn is_among(tried: &[Arc<EndpointState>], member: &Member) -> bool {
    tried.iter().any(|of| Arc::ptr_eq(of, &member.state))
}

// === impl Further ===

impl Further<'_> {
    /// It ends with that result.
    fn ends(mut self, result: &'static str) {
        if let Some(metrics) = self.0.take() {
            metrics.hedged(result);
        }
    }
}

impl Drop for Further<'_> {
    fn drop(&mut self) {
        if let Some(metrics) = self.0.take() {
            metrics.hedged("lost");
        }
    }
}
