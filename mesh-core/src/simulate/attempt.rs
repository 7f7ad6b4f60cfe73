//! Attempts are made and judged as the runtime makes and judges them, by the same functions.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::flight::{Flight, Open};
use super::record::{End, Recorder};
use super::server::{Asker, Reply, moment, nanos};
use super::state::{Run, What};
use crate::balance::verdict::{self, HeadSeen, Verdict};
use crate::balance::{Ejection, Failure, Picked, pick_again};
use crate::deadline;
use crate::error::Reason;
use crate::retry::{Answer, AttemptOutcome, Fault, Hint, Next, Race, Reuse, Seen};
use crate::snapshot::ServiceView;

/// The place of a flight, and the number of an attempt of it.
pub(super) type Attempt = (usize, u64);

// === impl Run ===

impl Run<'_> {
    /// Makes an attempt.
    pub(super) fn send(&mut self, place: usize, now: u64) {
        let at = moment(now);
        let Some(flight) = self.flights.get_mut(place) else {
            return;
        };
        let asked = &self.loads[flight.asked.0].asked[flight.asked.1];
        let snapshot = &self.callers[flight.caller];
        let (method, kept) = (asked.question.request().method(), asked.head.kept);
        let hedged = flight.to.hedged(method, asked.grpc, asked.head).cloned();
        let Flight {
            to, draw, tried, ..
        } = flight;
        let Some(backend) = to.backend() else {
            return self.finish(place, End::Mesh(Reason::NoBackend), now);
        };
        let (service, set) = match backend.find(snapshot) {
            Ok(found) => found,
            Err(error) => return self.finish(place, End::Mesh(error.reason()), now),
        };
        let address = asked.admitted.as_ref().ok().and_then(|a| a.address);
        let choice = backend.choice.of(address);
        let kept = kept && hedged.is_none() && to.retry().is_some_and(|p| p.repeats() > 0);
        let picked = match pick_again(set, (choice, backend.session), at, (tried, kept), draw) {
            Ok(picked) => picked,
            Err(none) => {
                let reason = backend.without_endpoint(none).reason();
                let end = flight.last.unwrap_or(End::Mesh(reason));
                return self.finish(place, end, now);
            }
        };
        if flight.made == 0 && (hedged.is_some() || to.retry().is_some()) {
            service.handle_request(backend.port, at);
        }
        let service = Arc::clone(service);
        if let Some(policy) = &hedged
            && flight.race.is_none()
        {
            flight.race = Some(Race::new(policy, at));
        }
        self.launch(place, (picked, service), now);
        self.look(place, now);
    }

    /// Hands an attempt to the server at an endpoint.
    pub(super) fn launch(
        &mut self,
        place: usize,
        (picked, service): (Picked, Arc<ServiceView>),
        now: u64,
    ) {
        let at = moment(now);
        let Some(flight) = self.flights.get_mut(place) else {
            return;
        };
        let end = flight.end();
        let asked = &mut self.loads[flight.asked.0].asked[flight.asked.1];
        let snapshot = &self.callers[flight.caller];
        let Flight { to, .. } = flight;
        let (first, copy) = (flight.made == 0, to.copy.is_some());
        let backend = to.backend().filter(|_| !copy);
        let denied = backend.is_some_and(|to| asked.is_denied(snapshot, to, flight.seed, at));
        let until = deadline::of_attempt(to.limits(), end, at);
        let idle = to.idles(at).map(|end| (end, Reason::StreamIdle));
        let until = until.into_iter().chain(idle).min_by_key(|(end, _)| *end);
        let server = self.servers.at(picked.member().endpoint.address());
        self.record.attempt(now, server, first, copy);
        self.attempts += 1;
        let attempt = self.attempts;
        flight.made += 1;
        flight.attempt = attempt;
        if flight.race.is_some() {
            flight.tried.push(Arc::clone(&picked.member().state));
        }
        flight.open.push(Open {
            attempt,
            picked,
            service,
            server,
        });
        if let Some((end, late)) = until {
            self.queue.put(nanos(end), What::Late(place, attempt, late));
        }
        let call = (Asker::Flight(place), attempt);
        if denied {
            let reply = Reply::Answered(Answer::new(StatusCode::FORBIDDEN, None));
            return self.queue.put(now, What::Reply(call, reply, None));
        }
        self.call(server, call, now);
    }

    /// A server has replied to an attempt.
    pub(super) fn replied(&mut self, at: Attempt, reply: Reply, now: u64) {
        match reply {
            Reply::Answered(answer) => self.answered(at, answer, now),
            Reply::Broken => {
                let (outcome, why) = self.broken(at.0);
                self.unanswered(at, outcome, why, now);
            }
            Reply::Refused => {
                let outcome = AttemptOutcome::Unanswered(Fault::Endpoint, Seen::Never);
                self.unanswered(at, outcome, Reason::ConnectFailed, now);
            }
        }
    }

    /// What it is that the connection of an attempt broke. Connections have carried requests
    /// before, but for one that has to be new.
    fn broken(&self, place: usize) -> (AttemptOutcome, Reason) {
        let (used, idempotent) = self.flights.get(place).map_or((false, false), |flight| {
            let asked = &self.loads[flight.asked.0].asked[flight.asked.1];
            let used = flight.attempts.reuse() == Reuse::Allowed;
            (used, asked.idempotent)
        });
        let outcome = match (used, idempotent) {
            (true, true) => AttemptOutcome::Unanswered(Fault::Connection, Seen::Maybe),
            (true, false) => AttemptOutcome::Lost(Fault::Connection),
            (false, _) => AttemptOutcome::Lost(Fault::Endpoint),
        };
        let why = match used {
            true => Reason::Stale,
            false => Reason::Reset,
        };
        (outcome, why)
    }

    /// An attempt has met its deadline.
    pub(super) fn late(&mut self, at: Attempt, late: Reason, now: u64) {
        let Some(flight) = self.flights.get_mut(at.0) else {
            return;
        };
        let own = flight.to.limits().request;
        let own = own.map(|limit| moment(flight.started).saturating_add(limit));
        let callers = flight.gives_up.filter(|at| own.is_none_or(|own| *at < own));
        let idle = late == Reason::StreamIdle;
        if idle || late == Reason::RequestTimeout && callers.is_some() {
            // A caller in a hurry says nothing of the endpoint, and silence may be of either side.
            let outcome = AttemptOutcome::Lost(Fault::Caller);
            return self.follow(at, outcome, (End::Mesh(late), false), now);
        }
        if let Some(open) = flight.opened(at.1) {
            failed(&mut self.record, open, Failure::LocalOrigin, moment(now));
        }
        let outcome = AttemptOutcome::late(late);
        self.follow(at, outcome, (End::Mesh(late), false), now);
    }

    /// An attempt brought no answer.
    fn unanswered(&mut self, at: Attempt, outcome: AttemptOutcome, why: Reason, now: u64) {
        let flight = self.flights.get_mut(at.0);
        if let Some(open) = flight.and_then(|flight| flight.opened(at.1))
            && outcome.is_endpoints()
        {
            failed(&mut self.record, open, Failure::LocalOrigin, moment(now));
        }
        self.follow(at, outcome, (End::Mesh(why), false), now);
    }

    /// An answer has come, and is whole.
    fn answered(&mut self, at: Attempt, answer: Answer, now: u64) {
        let Some(flight) = self.flights.get_mut(at.0) else {
            return;
        };
        let of_grpc = self.loads[flight.asked.0].asked[flight.asked.1].grpc;
        let Some(open) = flight.opened(at.1) else {
            return;
        };
        // An answer to another request has no such status.
        let answer = match of_grpc {
            true => answer,
            false => Answer {
                grpc: None,
                ..answer
            },
        };
        let pause = match answer.hint {
            Hint::After(pause) if verdict::is_shed(answer.status, answer.grpc) => Some(pause),
            _ => None,
        };
        let head = HeadSeen {
            status: answer.status,
            grpc: answer.grpc,
            of_grpc,
            spared: false,
            pause,
        };
        let verdict = verdict::of_head(&mut open.picked, &head, || moment(now));
        judge(&mut self.record, open, verdict, moment(now));
        let end = match answer.grpc {
            Some(code) => End::Grpc(code),
            None => End::Answered(answer.status.as_u16()),
        };
        let outcome = AttemptOutcome::Answered(answer);
        self.follow(at, outcome, (end, verdict == Verdict::Open), now);
    }

    /// What follows an attempt: another, or the end. `open` is whether the end of its answer is still to
    /// be judged.
    fn follow(
        &mut self,
        (place, attempt): Attempt,
        outcome: AttemptOutcome,
        (end, open): (End, bool),
        now: u64,
    ) {
        let at = moment(now);
        let Some(flight) = self.flights.get_mut(place) else {
            return;
        };
        let asked = &self.loads[flight.asked.0].asked[flight.asked.1];
        let (kept, idempotent, grpc) = (asked.head.kept, asked.idempotent, asked.grpc);
        let Some(mut last) = flight.take(attempt) else {
            return;
        };
        if flight.race.is_some() {
            return self.run_on(place, last, outcome, (end, open), now);
        }
        let next = flight.next(outcome, (&last.service, at), (kept, idempotent));
        let Next::Retry { avoid, wait } = next else {
            self.end_answer(&mut last, (end, open), grpc, at);
            return self.finish(place, end, now);
        };
        if avoid {
            flight.tried.push(Arc::clone(&last.picked.member().state));
        }
        flight.last = Some(end);
        drop(last);
        if wait.is_zero() {
            return self.send(place, now);
        }
        let again = nanos(at.saturating_add(wait));
        self.queue.put(again, What::Again(place, attempt));
    }

    /// Judges the end of an answer that is passed on.
    pub(super) fn end_answer(
        &mut self,
        last: &mut Open,
        (end, open): (End, bool),
        grpc: bool,
        at: Duration,
    ) {
        if open {
            let status = match end {
                End::Grpc(code) => Some(code),
                _ => grpc.then_some(0),
            };
            let verdict = verdict::of_end(&mut last.picked, status, || at);
            judge(&mut self.record, last, verdict, at);
        }
    }

    /// A flight ends.
    pub(super) fn finish(&mut self, place: usize, end: End, now: u64) {
        if let Some(flight) = self.flights.remove(place)
            && flight.to.copy.is_none()
        {
            self.record.ended(now, end, now - flight.started);
        }
    }
}

/// Takes a verdict on the endpoint of an attempt.
fn judge(record: &mut Recorder, open: &mut Open, verdict: Verdict, at: Duration) {
    match verdict {
        Verdict::Failed(failure) => failed(record, open, failure, at),
        Verdict::Open | Verdict::Spared => {}
        Verdict::Succeeded => {
            open.picked.succeeded(at);
            compare(record, open, at);
        }
    }
}

/// Holds an attempt against its endpoint.
fn failed(record: &mut Recorder, open: &mut Open, failure: Failure, at: Duration) {
    if let Ejection::Ejected { .. } = open.picked.failed_by(failure, at) {
        record.ejected(nanos(at), open.picked.set());
    }
    compare(record, open, at);
}

/// Compares the endpoints of a set where that is due.
fn compare(record: &mut Recorder, open: &Open, at: Duration) {
    for _ejected in open.picked.compare(|| at) {
        record.ejected(nanos(at), open.picked.set());
    }
}
