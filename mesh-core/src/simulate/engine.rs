//! The run: what is to come is taken in order of time, until nothing is under way any more.

use std::net::SocketAddr;
use std::time::Duration;

use super::InvalidScenario;
use super::flight::{Begin, Flight};
use super::record::{End, Outcome};
use super::scenario::{Action, Behaviour, Scenario};
use super::server::{Asker, Call, Reply, Taken, nanos};
use super::state::{Run, Servers, What};
use crate::authorize::{HttpView, RequestView};
use crate::deadline;
use crate::error::{Error, grpc_kind, grpc_status};
use crate::explain::Admitted;
use crate::model::Draw;
use crate::plan::{Destination, Planned, draw_of_copy, plan};
use crate::snapshot::Snapshot;

/// The most requests under way at once.
const FLIGHTS: usize = 1_000_000;
/// How long requests are waited for after the last has come.
const DRAIN: u64 = 60_000_000_000;
/// How often in a column the health of endpoints is looked at.
const SAMPLES: u64 = 10;

/// Runs a scenario. `world` makes a snapshot of what a caller knows that has just started; each is its
/// own, so that no caller sees the load and the health of another's.
///
/// # Errors
///
/// [`InvalidScenario`] if it is not within its bounds, or comes to hold more than a million requests at
/// once.
pub fn run(scenario: &Scenario, world: impl Fn() -> Snapshot) -> Result<Outcome, InvalidScenario> {
    scenario.check()?;
    let mut run = Run::new(scenario, &world);
    run.begin();
    while let Some((now, what)) = run.queue.next() {
        if now > nanos(scenario.duration).saturating_add(DRAIN) || run.overfull {
            break;
        }
        run.handle(what, now);
    }
    if run.overfull {
        let why = format!("more than {FLIGHTS} requests are under way at once");
        return Err(InvalidScenario::new(why));
    }
    Ok(run.end())
}

// === impl Run ===

impl Run<'_> {
    fn begin(&mut self) {
        // What changes at the begin has changed before the first request comes.
        for (nth, event) in self.scenario.events.iter().enumerate() {
            self.queue.put(nanos(event.at), What::Event(nth));
        }
        for nth in 0..self.loads.len() {
            self.arrive_next(nth, 0);
        }
        self.begin_checks(0);
        self.queue.put(0, What::Sample);
    }

    fn handle(&mut self, what: What, now: u64) {
        match what {
            What::Again(place, attempt) => {
                if self.flights.get(place).is_some_and(|f| f.rests(attempt)) {
                    self.send(place, now);
                }
            }
            What::Arrive(load, changes) => self.arrive(load, changes, now),
            What::Check(nth) => self.check(nth, now),
            What::End(place, end) => self.finish(place, end, now),
            What::Event(nth) => self.happen(nth, now),
            What::Hedge(place, attempt) => {
                if self
                    .flights
                    .get(place)
                    .is_some_and(|f| f.attempt == attempt)
                {
                    self.hedge(place, now);
                }
            }
            What::Late(place, attempt, reason) => {
                if self.flights.get(place).is_some_and(|f| f.awaits(attempt)) {
                    self.late((place, attempt), reason, now);
                }
            }
            What::Learn(nth) => self.learn(nth, now),
            What::NoAnswer(nth, serial) => self.unanswered_check(nth, serial, now),
            What::Reply((asker, attempt), reply, at) => {
                if let Some((server, lives)) = at {
                    self.done(server, lives, now);
                }
                match asker {
                    Asker::Check(nth) => self.checked(nth, attempt, reply, now),
                    Asker::Flight(place) => {
                        if self.flights.get(place).is_some_and(|f| f.awaits(attempt)) {
                            self.replied((place, attempt), reply, now);
                        }
                    }
                }
            }
            What::Sample => self.sample(now),
        }
    }

    /// Whether requests still come.
    pub(super) fn is_open(&self, now: u64) -> bool {
        now < nanos(self.scenario.duration)
    }

    fn arrive_next(&mut self, nth: usize, now: u64) {
        let load = &mut self.loads[nth];
        let Some(gap) = load.gap() else { return };
        let (at, changes) = (now.saturating_add(gap), load.changes);
        if self.is_open(at) {
            self.queue.put(at, What::Arrive(nth, changes));
        }
    }

    /// A request comes.
    fn arrive(&mut self, nth: usize, changes: u32, now: u64) {
        let load = &mut self.loads[nth];
        if load.changes != changes {
            return;
        }
        let user = load.draw.index(load.asked.len());
        let (first, count) = load.callers;
        let caller = first + usize::try_from(load.draw.below(count)).unwrap_or_default();
        let seed = load.draw.bits();
        self.begin_flight((nth, user), caller, seed, now);
        self.arrive_next(nth, now);
    }

    /// Plans a request, and sends it with its copies.
    fn begin_flight(&mut self, asked: (usize, usize), caller: usize, seed: u64, now: u64) {
        let of = &self.loads[asked.0].asked[asked.1];
        let admitted = match &of.admitted {
            Ok(admitted) => admitted,
            Err(end) => return self.record.ended(now, *end, 0),
        };
        let mut draw = Draw::new(seed);
        let view = HttpView::of(&admitted.request);
        let (to, snapshot) = (
            Destination::Authority(&admitted.authority),
            &self.callers[caller],
        );
        let planned = plan(
            snapshot,
            &admitted.local,
            to,
            &RequestView::Http(view),
            &mut draw,
            &mut (),
        );
        let planned = match planned {
            Ok(planned) => planned,
            Err(refused) => {
                let end = End::Mesh(Error::from(refused).reason());
                return self.record.ended(now, end, 0);
            }
        };
        if planned.backend().is_none() {
            let view = HttpView::of(&admitted.request);
            let answer = planned.answer(&admitted.authority, &view);
            let status = answer.map_or(500, |answer| answer.status().as_u16());
            return self.record.ended(now, End::Answered(status), 0);
        }
        let (held, early) = injected(&planned, admitted, of.grpc);
        let wait = admitted.wait;
        let begin = |draw: Draw| Begin {
            asked,
            caller,
            started: now,
            wait,
            seed,
            draw,
        };
        // A request that is not sent has no copies.
        let copies = match early {
            Some(_) => 0,
            None => planned.mirrors().len(),
        };
        let mut new = Vec::new();
        for nth in 0..copies {
            let draw = draw_of_copy(&draw, u64::try_from(nth).unwrap_or_default());
            new.push(Flight::new(planned.clone(), Some(nth), begin(draw)));
        }
        if self.flights.len() + copies >= FLIGHTS {
            self.overfull = true;
            return;
        }
        new.push(Flight::new(planned, None, begin(draw)));
        for flight in new {
            let place = self.flights.put(flight);
            let at = now.saturating_add(nanos(held));
            match early {
                Some(end) => self.queue.put(at, What::End(place, end)),
                None if held.is_zero() => self.send(place, now),
                None => self.queue.put(at, What::Again(place, 0)),
            }
        }
    }

    /// Hands a call to a server.
    pub(super) fn call(&mut self, server: usize, call: Call, now: u64) {
        let Servers { all, draw, .. } = &mut self.servers;
        let taken = all[server].take(call, now, draw);
        self.note(server, call, taken);
    }

    /// A server is done with a call, and begins the next that waits.
    fn done(&mut self, server: usize, lives: u32, now: u64) {
        let Servers { all, draw, .. } = &mut self.servers;
        if all[server].lives != lives {
            return;
        }
        if let Some((call, taken)) = all[server].done(now, draw) {
            self.note(server, call, taken);
        }
    }

    fn note(&mut self, server: usize, call: Call, taken: Taken) {
        if let Taken::Ends(at, reply, works) = taken {
            let lives = self.servers.all[server].lives;
            let at_work = works.then_some((server, lives));
            self.queue.put(at, What::Reply(call, reply, at_work));
        }
    }

    /// An event happens.
    fn happen(&mut self, nth: usize, now: u64) {
        match &self.scenario.events[nth].action {
            Action::Announce(..) => {
                let at = now.saturating_add(nanos(self.scenario.discovery));
                self.queue.put(at, What::Learn(nth));
            }
            Action::Behave(addresses, behaviour) => {
                for address in addresses {
                    self.behave(*address, behaviour, now);
                }
            }
            Action::Rate(load, rate) => {
                let running = &mut self.loads[*load];
                running.rate = *rate;
                running.changes += 1;
                self.arrive_next(*load, now);
            }
        }
    }

    fn behave(&mut self, address: SocketAddr, behaviour: &Behaviour, now: u64) {
        let server = self.servers.at(address);
        if !self.servers.all[server].behave(behaviour.clone()) {
            return;
        }
        let broken: Vec<_> = { self.flights.iter() }
            .filter_map(|(place, flight)| Some((place, flight.at(server)?)))
            .collect();
        for attempt in broken {
            self.replied(attempt, Reply::Broken, now);
        }
    }

    /// Callers learn what is known of endpoints.
    fn learn(&mut self, nth: usize, now: u64) {
        if let Action::Announce(addresses, announced) = &self.scenario.events[nth].action {
            let changes = self.listed.announce(addresses, *announced);
            for caller in &mut self.callers {
                for change in &changes {
                    *caller = caller.apply(change.clone());
                }
            }
            self.begin_checks(now);
        }
    }

    fn sample(&mut self, now: u64) {
        let count = self.servers.places.len();
        let (mut ejected, mut panic) = (vec![0_u64; count], false);
        for caller in &self.callers {
            let mut out = vec![false; count];
            for service in caller.services() {
                let sets = service.ports.iter();
                for set in sets.filter_map(|port| service.endpoints(port.port)) {
                    panic |= set.is_panicking();
                    for member in set.members().iter().filter(|m| m.state.is_ejected()) {
                        let server = self.servers.at(member.endpoint.address());
                        if let Some(out) = out.get_mut(server) {
                            *out = true;
                        }
                    }
                }
            }
            for (count, out) in ejected.iter_mut().zip(out) {
                *count += u64::from(out);
            }
        }
        let callers = u64::try_from(self.callers.len()).unwrap_or(1).max(1);
        let percent = |count: u64| u8::try_from(count * 100 / callers).unwrap_or(100);
        let ejected: Vec<u8> = ejected.into_iter().map(percent).collect();
        self.record.sampled(now, &ejected, panic);
        let columns = u64::try_from(self.scenario.columns).unwrap_or(1).max(1);
        let step = nanos(self.scenario.duration) / columns / SAMPLES;
        let next = now.saturating_add(step.max(1_000_000));
        if self.is_open(next) {
            self.queue.put(next, What::Sample);
        }
    }

    /// What is still under way has no answer.
    fn end(mut self) -> Outcome {
        let end = nanos(self.scenario.duration).saturating_add(DRAIN);
        let left: Vec<usize> = self.flights.iter().map(|(place, _)| place).collect();
        for place in left {
            self.finish(place, End::Open, end);
        }
        self.record.outcome(self.scenario, &self.servers.places)
    }
}

/// How long a request is held up on purpose, and how it ends then if it is not sent.
fn injected(planned: &Planned, admitted: &Admitted, of_grpc: bool) -> (Duration, Option<End>) {
    let Some(injected) = planned.injected() else {
        return (Duration::ZERO, None);
    };
    let limits = planned.timeouts().map(|t| t.value).unwrap_or_default();
    let left = deadline::end(limits, Duration::ZERO, admitted.wait);
    let (held, late) = injected.wait(left);
    if let Some(late) = late {
        return (held, Some(End::Mesh(late.reason())));
    }
    let aborted = planned.aborted(grpc_kind(admitted.request.headers()));
    let end = aborted.map(|(_, answer)| match grpc_status(answer.headers()) {
        Some(code) if of_grpc => End::Grpc(code),
        _ => End::Answered(answer.status().as_u16()),
    });
    (held, end)
}
