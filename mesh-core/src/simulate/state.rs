//! A run under way: what is to come, the requests, the callers and the processes at endpoints.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::announce::Listed;
use super::asked::Asked;
use super::check::Check;
use super::flight::Flight;
use super::queue::Queue;
use super::record::{End, Recorder};
use super::scenario::{Load, Scenario, endpoints};
use super::server::{Call, Reply, Server, unit};
use super::slab::Slab;
use crate::error::Reason;
use crate::model::{Draw, ServiceName};
use crate::snapshot::Snapshot;

/// What is to come.
#[derive(Debug)]
pub(super) enum What {
    /// A flight is sent again after that attempt.
    Again(usize, u64),
    /// A request of a load comes, if its rate is still that one.
    Arrive(usize, u32),
    /// An endpoint is checked.
    Check(usize),
    /// A flight ends before it is sent.
    End(usize, End),
    /// An event of that place.
    Event(usize),
    /// A further attempt of a flight, whose last one has that number, may be due.
    Hedge(usize, u64),
    /// An attempt of a flight meets its deadline.
    Late(usize, u64, Reason),
    /// Callers learn of an event.
    Learn(usize),
    /// A check meets its deadline.
    NoAnswer(usize, u64),
    /// A call has ended; at a server of that life, which has worked on it.
    Reply(Call, Reply, Option<(usize, u32)>),
    /// The health of endpoints is looked at.
    Sample,
}

/// A run under way.
pub(super) struct Run<'s> {
    pub(super) scenario: &'s Scenario,
    pub(super) queue: Queue<What>,
    pub(super) flights: Slab<Flight>,
    pub(super) loads: Vec<Running>,
    /// What each caller knows.
    pub(super) callers: Vec<Snapshot>,
    pub(super) servers: Servers,
    pub(super) checks: Vec<Check>,
    pub(super) record: Recorder,
    /// How many attempts and checks were made.
    pub(super) attempts: u64,
    pub(super) draw: Draw,
    pub(super) listed: Listed,
    /// Whether more was under way than is held.
    pub(super) overfull: bool,
}

/// A load under way.
pub(super) struct Running {
    pub(super) asked: Vec<Asked>,
    /// Its callers: the first, and how many.
    pub(super) callers: (usize, u64),
    pub(super) rate: f64,
    even: bool,
    /// How often its rate has changed.
    pub(super) changes: u32,
    pub(super) draw: Draw,
}

/// The processes at endpoints.
pub(super) struct Servers {
    pub(super) all: Vec<Server>,
    by_address: HashMap<SocketAddr, usize>,
    pub(super) places: Vec<(SocketAddr, Vec<ServiceName>)>,
    pub(super) draw: Draw,
}

// === impl Run ===

impl<'s> Run<'s> {
    /// A run before its begin.
    pub(super) fn new(scenario: &'s Scenario, world: &impl Fn() -> Snapshot) -> Self {
        let mut draw = Draw::new(scenario.seed);
        let mut next = || Draw::new(draw.bits());
        let first = world();
        let mut callers = Vec::new();
        let loads = scenario.loads.iter().map(|load| {
            let begin = callers.len();
            callers.extend((0..load.callers).map(|_| world()));
            Running::new(load, begin, &first, next())
        });
        let loads: Vec<_> = loads.collect();
        let mut servers = Servers {
            all: Vec::new(),
            by_address: HashMap::new(),
            places: endpoints(&first).into_iter().collect(),
            draw: next(),
        };
        for (nth, (address, _)) in servers.places.iter().enumerate() {
            servers.by_address.insert(*address, nth);
            servers
                .all
                .push(Server::new(scenario.behaviours.get(address)));
        }
        Self {
            queue: Queue::new(),
            flights: Slab::new(),
            record: Recorder::new(scenario),
            listed: Listed::of(&first),
            attempts: 0,
            draw: next(),
            checks: Vec::new(),
            overfull: false,
            scenario,
            loads,
            callers,
            servers,
        }
    }
}

// === impl Running ===

impl Running {
    fn new(load: &Load, begin: usize, snapshot: &Snapshot, draw: Draw) -> Self {
        let asked = load.questions.iter();
        Self {
            asked: asked.map(|q| Asked::new(snapshot, q)).collect(),
            callers: (begin, load.callers.into()),
            rate: load.rate,
            even: load.even,
            changes: 0,
            draw,
        }
    }

    /// How long until the next request comes, in nanoseconds; `None` if none does.
    pub(super) fn gap(&mut self) -> Option<u64> {
        if self.rate <= 0.0 {
            return None;
        }
        let seconds = match self.even {
            true => 1.0 / self.rate,
            false => -unit(&mut self.draw).ln() / self.rate,
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is above 0, and the cast saturates"
        )]
        let nanos = (seconds * 1e9) as u64;
        Some(nanos)
    }
}

// === impl Servers ===

impl Servers {
    /// The place of the process at an address.
    pub(super) fn at(&mut self, address: SocketAddr) -> usize {
        if let Some(known) = self.by_address.get(&address) {
            return *known;
        }
        let place = self.all.len();
        self.all.push(Server::default());
        self.places.push((address, Vec::new()));
        self.by_address.insert(address, place);
        place
    }
}
