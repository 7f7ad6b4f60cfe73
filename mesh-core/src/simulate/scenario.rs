//! What is simulated: requests and their rates, how endpoints behave, and what changes when.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;

use super::InvalidScenario;
use crate::explain::Question;
use crate::model::ServiceName;
use crate::snapshot::Snapshot;

/// The longest simulated time.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);
/// The most requests of one run, copies and repeats not counted.
const REQUESTS: f64 = 100_000_000.0;
/// The most callers of all loads. Each has a snapshot of its own.
const CALLERS: u32 = 1_000;
/// The most users of one load.
const USERS: usize = 10_000;
/// The most loads, windows and columns of a run.
const PARTS: usize = 1_000;
/// The most events of a run.
const EVENTS: usize = 1_000_000;
/// What the 99th percentile of a log-normal distribution is above its median, in standard deviations.
const P99: f64 = 2.326_347_874;

/// What is simulated.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Scenario {
    /// How long requests come.
    pub duration: Duration,
    /// What everything that is drawn is drawn from.
    pub seed: u64,
    /// How long it takes until callers know that an endpoint has come or left.
    pub discovery: Duration,
    /// The requests.
    pub loads: Vec<Load>,
    /// How endpoints behave that have an entry; others answer at once.
    pub behaviours: BTreeMap<SocketAddr, Behaviour>,
    /// What changes, in any order.
    pub events: Vec<Event>,
    /// Parts of the time that are tallied by themselves: from, to.
    pub windows: Vec<(Duration, Duration)>,
    /// How many equal parts the time line has.
    pub columns: usize,
}

/// Requests of one kind.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Load {
    /// Its name.
    pub name: String,
    /// What is asked: one of these, drawn for each request.
    pub questions: Vec<Question>,
    /// How many come in a second.
    pub rate: f64,
    /// How many processes send them, each with a balancer of its own.
    pub callers: u32,
    /// Whether they come at equal distances; else as by chance (a Poisson process).
    pub even: bool,
}

/// How the process at an endpoint behaves.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Behaviour {
    /// How long it works on a request.
    pub latency: Latency,
    /// How many requests it works on at once, and how many more wait; what is above is answered 503.
    /// `None` is any number.
    pub room: Option<Room>,
    /// What it answers some requests with.
    pub fault: Option<Fault>,
    /// What becomes of connections.
    pub reached: Reached,
}

/// How long a process works on a request: a log-normal distribution.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Latency {
    /// Nanoseconds.
    median: f64,
    /// The standard deviation of the logarithm.
    sigma: f64,
}

/// How much a process works on at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Room {
    /// Requests that it works on.
    pub at_once: u32,
    /// Requests that wait.
    pub waiting: u32,
}

/// What a process answers some of its requests with.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Fault {
    /// How many of a hundred.
    pub percent: f64,
    /// The status.
    pub status: StatusCode,
    /// The gRPC status; the one of HTTP is then 200.
    pub grpc: Option<u8>,
    /// How long it asks to be left alone (`Retry-After`).
    pub retry_after: Option<Duration>,
}

/// What becomes of connections to a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reached {
    /// It takes requests, and never answers.
    Hangs,
    /// They are refused.
    Refuses,
    /// It takes requests, and breaks them off instead of an answer.
    Resets,
    /// It takes requests and answers.
    #[default]
    Serves,
}

/// What changes at a moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Event {
    /// When.
    pub at: Duration,
    /// What.
    pub action: Action,
}

/// A change.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Action {
    /// What is known of endpoints changes; callers learn of it after a while.
    Announce(Vec<SocketAddr>, Announced),
    /// Endpoints behave so from now on.
    Behave(Vec<SocketAddr>, Behaviour),
    /// Requests of a load, by its place, come at another rate.
    Rate(usize, f64),
}

/// What is known of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Announced {
    /// It is not there.
    Gone,
    /// As the documents say.
    Listed,
    /// It is terminating, and takes no new requests while others do.
    Terminating,
}

// === impl Scenario ===

impl Scenario {
    /// Nothing happens for so long.
    pub fn new(duration: Duration) -> Self {
        Self {
            duration,
            seed: 0,
            discovery: Duration::ZERO,
            loads: Vec::new(),
            behaviours: BTreeMap::new(),
            events: Vec::new(),
            windows: Vec::new(),
            columns: 60,
        }
    }

    /// Checks that it can be run.
    ///
    /// # Errors
    ///
    /// [`InvalidScenario`] says what is not within its bounds.
    pub fn check(&self) -> Result<(), InvalidScenario> {
        let refuse = |why: String| Err(InvalidScenario::new(why));
        if self.duration.is_zero() || self.duration > LONGEST {
            return refuse("a simulation takes more than 0s and up to 24h".into());
        }
        if self.loads.is_empty() {
            return refuse("nothing sends requests".into());
        }
        let parts = [
            ("loads", self.loads.len()),
            ("windows", self.windows.len()),
            ("columns", self.columns),
        ];
        if let Some((what, count)) = parts.into_iter().find(|(_, count)| *count > PARTS) {
            return refuse(format!("{count} {what}: {PARTS} are allowed"));
        }
        if self.events.len() > EVENTS {
            let events = self.events.len();
            return refuse(format!("{events} events: {EVENTS} are allowed"));
        }
        if self.columns == 0 {
            return refuse("a time line has a column".into());
        }
        for load in &self.loads {
            load.check()?;
        }
        let callers: u32 = self.loads.iter().map(|load| load.callers).sum();
        if callers > CALLERS {
            return refuse(format!("{callers} callers: {CALLERS} are allowed in all"));
        }
        let mut most = vec![0.0_f64; self.loads.len()];
        for (load, most) in self.loads.iter().zip(&mut most) {
            *most = load.rate;
        }
        for event in &self.events {
            if let Action::Rate(nth, rate) = event.action {
                check_rate(rate)?;
                let Some(most) = most.get_mut(nth) else {
                    return refuse(format!("no load has the place {nth}"));
                };
                *most = most.max(rate);
            }
        }
        let requests = most.iter().sum::<f64>() * self.duration.as_secs_f64();
        if requests > REQUESTS {
            return refuse(format!(
                "up to {requests:.0} requests: {REQUESTS:.0} are allowed"
            ));
        }
        Ok(())
    }
}

// === impl Load ===

impl Load {
    /// One question, so often in a second, from one caller.
    pub fn new(name: &str, question: Question, rate: f64) -> Self {
        Self {
            name: name.into(),
            questions: vec![question],
            rate,
            callers: 1,
            even: false,
        }
    }

    fn check(&self) -> Result<(), InvalidScenario> {
        check_rate(self.rate)?;
        let (users, callers) = (self.questions.len(), self.callers);
        let why = match (users, callers) {
            (0, _) | (_, 0) => "asks nothing".into(),
            (USERS.., _) if users > USERS => format!("has {users} users: {USERS} are allowed"),
            _ if self.questions.iter().any(Question::is_opaque) => {
                "opens connections of opaque bytes: only requests are simulated".into()
            }
            _ => return Ok(()),
        };
        Err(InvalidScenario::new(format!("load {:?} {why}", self.name)))
    }
}

fn check_rate(rate: f64) -> Result<(), InvalidScenario> {
    match (0.0..=1e6).contains(&rate) {
        true => Ok(()),
        false => Err(InvalidScenario::new(format!(
            "a rate of {rate} is not 0 to 1,000,000 in a second"
        ))),
    }
}

// === impl Latency ===

impl Latency {
    /// Half of the requests take up to `median`, and 99 % up to `p99`.
    ///
    /// # Errors
    ///
    /// [`InvalidScenario`] if the second is less than the first, or more than an hour.
    pub fn new(median: Duration, p99: Duration) -> Result<Self, InvalidScenario> {
        if median > p99 || p99 > Duration::from_secs(3_600) {
            let why = "a latency has a median, and a 99th percentile from there to 1h";
            return Err(InvalidScenario::new(why.into()));
        }
        let (half, most) = (median.as_secs_f64(), p99.as_secs_f64());
        let sigma = match median == p99 || median.is_zero() {
            true => 0.0,
            false => (most / half).ln() / P99,
        };
        Ok(Self {
            median: half * 1e9,
            sigma,
        })
    }

    /// One of it, in nanoseconds, of a standard normal number.
    pub(super) fn sample(self, normal: impl FnOnce() -> f64) -> u64 {
        let nanos = match self.sigma == 0.0 {
            true => self.median,
            false => self.median * (self.sigma * normal()).exp(),
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is not below 0, and the cast saturates"
        )]
        let nanos = nanos as u64;
        nanos
    }
}

// === impl Room ===

impl Room {
    /// So many at once, and so many that wait.
    pub fn new(at_once: u32, waiting: u32) -> Self {
        Self { at_once, waiting }
    }
}

// === impl Fault ===

impl Fault {
    /// So many of a hundred are answered with a status.
    ///
    /// # Errors
    ///
    /// [`InvalidScenario`] if there are not 0 to 100 in a hundred.
    pub fn new(percent: f64, status: StatusCode) -> Result<Self, InvalidScenario> {
        if !(0.0..=100.0).contains(&percent) {
            return Err(InvalidScenario::new(format!("{percent} % is not 0 to 100")));
        }
        Ok(Self {
            percent,
            status,
            grpc: None,
            retry_after: None,
        })
    }
}

// === impl Event ===

impl Event {
    /// A change at a moment.
    pub fn new(at: Duration, action: Action) -> Self {
        Self { at, action }
    }
}

/// The endpoints that a snapshot knows, in order, each with the Services that it is of.
pub fn endpoints(snapshot: &Snapshot) -> BTreeMap<SocketAddr, Vec<ServiceName>> {
    let mut all: BTreeMap<SocketAddr, Vec<ServiceName>> = BTreeMap::new();
    let mut services: Vec<_> = snapshot.services().collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    for service in services {
        for port in &*service.ports {
            let members = service.endpoints(port.port);
            for member in members.into_iter().flat_map(|set| set.members()) {
                let of = all.entry(member.endpoint.address()).or_default();
                if of.last() != Some(&service.name) {
                    of.push(service.name.clone());
                }
            }
        }
    }
    all
}
