//! Requests that are hedged: their races are run as the runtime runs them, by the same functions. A server
//! works on what is cancelled until it is done.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::flight::{Flight, Open};
use super::record::End;
use super::server::{moment, nanos};
use super::state::{Run, What};
use crate::balance::{Picked, pick_again};
use crate::retry::{AttemptOutcome, BodySeen, BudgetPolicy, Chance, Due, Next, Step};
use crate::snapshot::{ServiceView, Snapshot};

// === impl Run ===

impl Run<'_> {
    /// Notes when the next attempt of a race may be due.
    pub(super) fn look(&mut self, place: usize, now: u64) {
        let Some(flight) = self.flights.get(place) else {
            return;
        };
        let due = flight.race.and_then(|race| race.due());
        if let Some(due) = due {
            let at = nanos(due).max(now);
            self.queue.put(at, What::Hedge(place, flight.attempt));
        }
    }

    /// Begins the attempts of a race whose moment has come.
    pub(super) fn hedge(&mut self, place: usize, now: u64) {
        let at = moment(now);
        while let Some(flight) = self.flights.get_mut(place) {
            let Some(mut race) = flight.race else {
                return;
            };
            if race.due().is_none_or(|due| due > at) {
                return;
            }
            let asked = &self.loads[flight.asked.0].asked[flight.asked.1];
            let snapshot = &self.callers[flight.caller];
            let address = asked.admitted.as_ref().ok().and_then(|a| a.address);
            let left = flight.left(at);
            let Flight {
                to, draw, tried, ..
            } = flight;
            let method = asked.question.request().method();
            let policy = to.hedged(method, asked.grpc, asked.head);
            let found = to
                .backend()
                .and_then(|to| Some((to, to.find(snapshot).ok()?)));
            let Some((policy, (backend, (service, set)))) = policy.zip(found) else {
                return self.give_up(place, now);
            };
            let budget = budget_of(service, backend.port);
            let chance = Chance {
                policy,
                budget: (&service.retries, &budget),
                now: at,
                left,
                body: BodySeen::Whole,
                overload: set.is_shedding(at),
            };
            let pick = || {
                let choice = (backend.choice.of(address), None);
                let picked = pick_again(set, choice, at, (tried, false), draw).ok()?;
                let state = &picked.member().state;
                let taken = tried.iter().any(|of| Arc::ptr_eq(of, state));
                (!taken).then(|| (picked, Arc::clone(service)))
            };
            let due = race.handle_due(&chance, pick);
            flight.race = Some(race);
            match due {
                Due::Begin(endpoint) => self.launch(place, endpoint, now),
                Due::Later => return self.look(place, now),
                Due::Refused(_) => return self.give_up(place, now),
            }
            self.look(place, now);
        }
    }

    /// No other attempt begins: a race without one that is open has ended with its last failure.
    fn give_up(&mut self, place: usize, now: u64) {
        let Some(flight) = self.flights.get(place) else {
            return;
        };
        if let (true, Some(end)) = (flight.open.is_empty(), flight.last) {
            self.finish(place, end, now);
        }
    }

    /// What follows an attempt of a race.
    pub(super) fn run_on(
        &mut self,
        place: usize,
        mut last: Open,
        outcome: AttemptOutcome,
        (end, open): (End, bool),
        now: u64,
    ) {
        let at = moment(now);
        let Some(flight) = self.flights.get_mut(place) else {
            return;
        };
        let asked = &self.loads[flight.asked.0].asked[flight.asked.1];
        let (method, grpc) = (asked.question.request().method(), asked.grpc);
        let snapshot = &self.callers[flight.caller];
        let address = asked.admitted.as_ref().ok().and_then(|a| a.address);
        let left = flight.left(at);
        if matches!(outcome, AttemptOutcome::Unanswered(..))
            && let Some(endpoint) = another(flight, snapshot, (&last, outcome), address, at)
        {
            flight.last = Some(end);
            drop(last);
            return self.launch(place, endpoint, now);
        }
        let Flight { to, .. } = flight;
        let policy = to.hedged(method, grpc, asked.head);
        let (Some(policy), Some(backend), Some(mut race)) = (policy, to.backend(), flight.race)
        else {
            return self.finish(place, end, now);
        };
        let budget = budget_of(&last.service, backend.port);
        let chance = Chance {
            policy,
            budget: (&last.service.retries, &budget),
            now: at,
            left,
            body: BodySeen::Whole,
            overload: false,
        };
        let step = race.handle_outcome(outcome, &chance);
        flight.race = Some(race);
        flight.last = Some(end);
        if step == Step::Finish {
            for mut other in flight.open.drain(..) {
                other.picked.outrun(|| at);
            }
            self.end_answer(&mut last, (end, open), grpc, at);
            return self.finish(place, end, now);
        }
        drop(last);
        self.look(place, now);
        self.hedge(place, now);
    }
}

/// Another endpoint for what surely reached no server, or met a closed connection, as without a policy.
fn another(
    flight: &mut Flight,
    snapshot: &Snapshot,
    (last, outcome): (&Open, AttemptOutcome),
    address: Option<IpAddr>,
    at: Duration,
) -> Option<(Picked, Arc<ServiceView>)> {
    let Flight {
        to,
        attempts,
        draw,
        tried,
        ..
    } = flight;
    let Next::Retry { avoid, .. } = attempts.handle_outcome(outcome, None, draw) else {
        return None;
    };
    if !avoid {
        let state = &last.picked.member().state;
        tried.retain(|of| !Arc::ptr_eq(of, state));
    }
    let backend = to.backend()?;
    let (service, set) = backend.find(snapshot).ok()?;
    let choice = (backend.choice.of(address), None);
    let picked = pick_again(set, choice, at, (tried, false), draw).ok()?;
    Some((picked, Arc::clone(service)))
}

fn budget_of(service: &ServiceView, port: u16) -> BudgetPolicy {
    let traffic = service.traffic(port);
    traffic.map_or_else(BudgetPolicy::default, |traffic| traffic.budget.value)
}
