//! The scenarios, and what is configured in each: both proxies get their documents from the same values.

use std::time::Duration;

/// How many backends there are.
pub(crate) const BACKENDS: usize = 12;
/// Requests in a second, but for an overload.
pub(crate) const RATE: u32 = 1_000;
/// How long a backend takes for an answer, if nothing else is said.
pub(crate) const TAKES: Duration = Duration::from_millis(5);
/// What the slow backend takes.
pub(crate) const SLOW: Duration = Duration::from_secs(1);
/// An overloaded backend does so many at once, each in this time: 12 x 2 in 40 ms are 600 in a second.
pub(crate) const WORKERS: usize = 2;
pub(crate) const WORK: Duration = Duration::from_millis(40);
pub(crate) const CAPACITY: u32 = 600;
/// The wait before a repeat: any time up to it, doubled each time.
pub(crate) const BACKOFF: Duration = Duration::from_millis(25);
/// Of the requests, so many percent are repeated at most.
pub(crate) const BUDGET: u32 = 20;

/// What happens to the backends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// Three times as many requests come as they can do.
    Overload,
    /// All refuse connections.
    Refuse,
    /// Each in turn stops as it should, is away, and comes back. If `announced`, its endpoint is said to
    /// be draining before it stops.
    Restart { announced: bool },
    /// The first takes a second.
    Slow,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Balancer {
    LeastRequest,
    PeakEwma,
}

/// When requests are sent more than once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// To another endpoint too, if none has answered after this time.
    Hedged(Duration),
    Never,
    /// So many times, after 502, 503, 504 or a broken connection.
    Repeated(u32),
}

/// How many requests a backend's own proxy lets in, by their latency.
#[derive(Clone, Copy)]
pub(crate) struct Adaptive {
    pub(crate) least: u32,
    pub(crate) most: u32,
    /// How many times as long as the best an answer may take.
    pub(crate) tolerance: u32,
    /// How often the best is measured anew.
    pub(crate) anew: Duration,
}

/// When an endpoint is ejected.
#[derive(Clone, Copy)]
pub(crate) struct Eject {
    pub(crate) consecutive: u32,
    pub(crate) interval: Duration,
    pub(crate) base: Duration,
    pub(crate) longest: Duration,
    /// In percent of the endpoints.
    pub(crate) most: u32,
    /// Where fewer percent are left, all are used.
    pub(crate) healthy: u32,
}

#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) event: Event,
    pub(crate) balancer: Balancer,
    pub(crate) again: Again,
    /// The most requests in flight to all endpoints.
    pub(crate) at_once: Option<u32>,
    pub(crate) adaptive: Option<Adaptive>,
    pub(crate) eject: Eject,
    /// Whether it shows something without a proxy that no other one does.
    pub(crate) directly: bool,
    /// What the table says of the agent's feature beside Envoy's.
    pub(crate) mesh_differs: &'static str,
    pub(crate) envoy: Envoy,
}

/// Whether Envoy has the feature.
#[derive(Clone, Copy)]
pub(crate) enum Envoy {
    /// With this difference.
    Has(&'static str),
    Lacks(&'static str),
}

const BASE: Scenario = Scenario {
    name: "",
    event: Event::Slow,
    balancer: Balancer::LeastRequest,
    again: Again::Never,
    at_once: None,
    adaptive: None,
    eject: Eject {
        consecutive: 5,
        interval: Duration::from_secs(1),
        base: Duration::from_secs(1),
        longest: Duration::from_secs(300),
        most: 50,
        healthy: 50,
    },
    directly: false,
    mesh_differs: "",
    envoy: Envoy::Has(""),
};

const REPEATS: Again = Again::Repeated(2);
const MESH_BUDGET: &str =
    "budget: 20 % of the last 10 s, 10/s besides; what was refused a connection costs none of it";
const ENVOY_BUDGET: &str = "budget: 20 % of what is in flight, 3 at once besides";

/// In the order of the table.
pub(crate) fn all() -> Vec<Scenario> {
    let all_out = Eject {
        most: 100,
        ..BASE.eject
    };
    vec![
        Scenario {
            name: "all refuse",
            event: Event::Refuse,
            eject: all_out,
            directly: true,
            ..BASE
        },
        Scenario {
            name: "all refuse, retries",
            event: Event::Refuse,
            again: REPEATS,
            eject: all_out,
            mesh_differs: MESH_BUDGET,
            envoy: Envoy::Has(ENVOY_BUDGET),
            ..BASE
        },
        Scenario {
            name: "one 1 s slow",
            directly: true,
            ..BASE
        },
        Scenario {
            name: "one 1 s slow, hedged after 50 ms",
            again: Again::Hedged(Duration::from_millis(50)),
            mesh_differs: MESH_BUDGET,
            envoy: Envoy::Has("a retry at `per_try_timeout` that leaves the first attempt running"),
            ..BASE
        },
        Scenario {
            name: "one 1 s slow, PEAK_EWMA",
            balancer: Balancer::PeakEwma,
            envoy: Envoy::Lacks("no such policy in this build: a contrib extension"),
            ..BASE
        },
        Scenario {
            name: "overload 3x, 48 at once",
            event: Event::Overload,
            at_once: Some(48),
            directly: true,
            mesh_differs: "`http2MaxRequests`",
            envoy: Envoy::Has("`max_requests`"),
            ..BASE
        },
        Scenario {
            name: "overload 3x, adaptive concurrency",
            event: Event::Overload,
            adaptive: Some(Adaptive {
                least: 2,
                most: 1_000,
                tolerance: 2,
                anew: Duration::from_secs(30),
            }),
            mesh_differs: "begins at 64; an endpoint that refuses is spared for a second",
            envoy: Envoy::Has(
                "begins at 2; refuses with 429, since 503 would eject; none is spared",
            ),
            ..BASE
        },
        Scenario {
            name: "restart",
            event: Event::Restart { announced: false },
            directly: true,
            ..BASE
        },
        Scenario {
            name: "restart, retries",
            event: Event::Restart { announced: false },
            again: REPEATS,
            mesh_differs: MESH_BUDGET,
            envoy: Envoy::Has(ENVOY_BUDGET),
            ..BASE
        },
        Scenario {
            name: "restart, announced 0.5 s before",
            event: Event::Restart { announced: true },
            mesh_differs: "EndpointSlice: not ready, serving, terminating",
            envoy: Envoy::Has("EDS from a file: `DRAINING`"),
            ..BASE
        },
    ]
}

impl Scenario {
    /// How long the backend answers take.
    pub(crate) fn takes(&self, nth: usize) -> Duration {
        match self.event {
            Event::Slow if nth == 0 => SLOW,
            Event::Overload => WORK,
            _ => TAKES,
        }
    }
}
