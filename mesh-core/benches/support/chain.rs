//! A chain of services under virtual time, of which the last fails: each hop sends again by the rule, the
//! budget and the signal that live requests obey. No socket, no clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use inmesh_core::model::Draw;
use inmesh_core::retry::{
    Answer, AttemptOutcome, Attempts, BudgetPolicy, Fault, Hint, Next, NoRetry, Repeat,
    RetryBudget, RetryPolicy,
};

/// Hops in a row: from a caller to the first service, and so on to the one that fails.
pub(crate) const HOPS: usize = 4;
/// Every hop and its service take as long.
const LATENCY: Duration = Duration::from_micros(500);

/// What the last service does to a request that it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failing {
    /// It answers with 503.
    Answers,
    /// It answers a call of gRPC with UNAVAILABLE.
    Calls,
    /// It does not answer in the time of an attempt.
    Hangs,
    /// It breaks off.
    Breaks,
}

/// How a hop repeats.
#[derive(Debug, Clone)]
pub(crate) struct Again {
    pub(crate) repeats: u32,
    pub(crate) percent: u8,
    pub(crate) free: u32,
}

/// One chain.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    /// `None` is a hop without a policy.
    pub(crate) hops: [Option<Again>; HOPS],
    pub(crate) failing: Failing,
    /// Of 1,000 requests, how many fail at the last service.
    pub(crate) share: u64,
    /// Requests in a second, and for how many seconds.
    pub(crate) rate: u32,
    pub(crate) seconds: u32,
    pub(crate) idempotent: bool,
    /// What all of a request may take; repeats have to fit in.
    pub(crate) patience: Duration,
    /// Whether failed answers say that they are not to be repeated.
    pub(crate) signal: bool,
    pub(crate) seed: u64,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// First attempts of each hop, and all of them.
    pub(crate) requests: [u64; HOPS],
    pub(crate) attempts: [u64; HOPS],
    /// What hops said by a failed answer: an empty budget, or that they had repeated.
    pub(crate) budget: u64,
    pub(crate) spent: u64,
    pub(crate) failed: u64,
    /// How long it took, in the time of the chain.
    pub(crate) took: Duration,
}

/// One hop with its state.
struct Hop {
    policy: Option<RetryPolicy>,
    paid: BudgetPolicy,
    budget: RetryBudget,
}

/// One request on its way: the attempts of each hop for it, and since when.
struct Request {
    attempts: [Attempts; HOPS],
    began: [Duration; HOPS],
    draw: Draw,
}

/// What happens next to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The last service is done with it.
    Done { request: usize },
    /// A hop sends it, for the first time or again.
    Send {
        request: usize,
        hop: usize,
        first: bool,
    },
}

/// Requests, attempts and signals of a chain.
pub(crate) fn run(chain: &Chain) -> Seen {
    let hops: Vec<Hop> = chain
        .hops
        .iter()
        .map(|again| hop(again.as_ref(), chain))
        .collect();
    let mut queue = BinaryHeap::new();
    let count = chain.rate as usize * chain.seconds as usize;
    let mut requests = Vec::with_capacity(count);
    let mut seeds = Draw::new(chain.seed);
    let mut seen = Seen::default();
    let apart = Duration::from_secs(1) / chain.rate.max(1);
    let send = |request, hop, first| Event::Send {
        request,
        hop,
        first,
    };
    let at = |nth: usize| apart * u32::try_from(nth).unwrap_or(u32::MAX);
    if count > 0 {
        queue.push(Reverse((Duration::ZERO, send(0, 0, true))));
    }
    while let Some(Reverse((now, event))) = queue.pop() {
        seen.took = now;
        match event {
            Event::Send {
                request,
                hop,
                first,
            } => {
                if first && hop == 0 {
                    requests.push(Request {
                        attempts: std::array::from_fn(|_| Attempts::at_any()),
                        began: [now; HOPS],
                        draw: Draw::new(seeds.bits()),
                    });
                    let next = request + 1;
                    if next < count {
                        queue.push(Reverse((at(next), send(next, 0, true))));
                    }
                }
                if first {
                    // Each request that a service gets is a new one for what it calls.
                    requests[request].attempts[hop] = Attempts::at_any();
                    requests[request].began[hop] = now;
                    seen.requests[hop] += 1;
                    hops[hop].budget.handle_request(&hops[hop].paid, now);
                }
                seen.attempts[hop] += 1;
                let next = match hop + 1 {
                    HOPS => Event::Done { request },
                    next => send(request, next, true),
                };
                queue.push(Reverse((now + LATENCY, next)));
            }
            Event::Done { request } => {
                let fails = requests[request].draw.below(1_000) < chain.share;
                let one = &mut requests[request];
                if let Some((hop, wait)) = answered(chain, &hops, one, fails, now, &mut seen) {
                    queue.push(Reverse((now + wait, send(request, hop, false))));
                }
            }
        }
    }
    seen
}

fn hop(again: Option<&Again>, chain: &Chain) -> Hop {
    let second = Duration::from_secs(1);
    let (percent, free) = again.map_or((20, 10), |again| (again.percent, again.free));
    let policy = again.map(|again| {
        let policy = RetryPolicy::new(again.repeats);
        let on = |policy: RetryPolicy| match chain.failing {
            Failing::Answers => policy.on_status(503),
            Failing::Calls => policy.on_grpc(14),
            Failing::Hangs => policy.on_status(504),
            Failing::Breaks => policy.on_status(502),
        };
        on(policy).expect("a failure")
    });
    Hop {
        policy,
        paid: BudgetPolicy::new(percent, second, free, second).expect("a budget"),
        budget: RetryBudget::default(),
    }
}

/// Brings an answer of the last service up the chain: to the hop that sends again, and after how long.
fn answered(
    chain: &Chain,
    hops: &[Hop],
    request: &mut Request,
    fails: bool,
    now: Duration,
    seen: &mut Seen,
) -> Option<(usize, Duration)> {
    if !fails {
        return None;
    }
    // The head of the failed answer, as the hop below has it.
    let mut head = HeaderMap::new();
    for (nth, hop) in hops.iter().enumerate().rev() {
        let below = NoRetry::is_in(&head);
        let outcome = outcome(chain.failing, nth + 1 == HOPS, below);
        let repeat = hop.policy.as_ref().map(|policy| Repeat {
            policy,
            budget: (&hop.budget, &hop.paid),
            now,
            left: chain.patience.saturating_sub(now - request.began[nth]),
            idempotent: chain.idempotent,
            kept: true,
        });
        let attempts = &mut request.attempts[nth];
        let next = attempts.handle_outcome(outcome, repeat.as_ref(), &mut request.draw);
        if let Next::Retry { wait, .. } = next {
            return Some((nth, wait));
        }
        if let Some(why) = attempts.no_retry().filter(|_| chain.signal && !below) {
            match why {
                NoRetry::Budget => seen.budget += 1,
                _ => seen.spent += 1,
            }
            why.write(&mut head);
        }
    }
    seen.failed += 1;
    None
}

/// What a hop sees of a failure: the last one the failure itself, one above an answer of the service
/// between.
fn outcome(failing: Failing, last: bool, below: bool) -> AttemptOutcome {
    let answer = |status: StatusCode, grpc| {
        let hint = if below { Hint::Never } else { Hint::None };
        AttemptOutcome::Answered(Answer::new(status, grpc).with_hint(hint))
    };
    match failing {
        Failing::Answers => answer(StatusCode::SERVICE_UNAVAILABLE, None),
        Failing::Calls => answer(StatusCode::OK, Some(14)),
        Failing::Hangs if last => AttemptOutcome::Late,
        Failing::Hangs => answer(StatusCode::GATEWAY_TIMEOUT, None),
        Failing::Breaks if last => AttemptOutcome::Lost(Fault::Endpoint),
        Failing::Breaks => answer(StatusCode::BAD_GATEWAY, None),
    }
}

// === impl Chain ===

impl Chain {
    /// One whose hops all have the default budget and whose last service answers each request with a
    /// failure.
    pub(crate) fn by_default(signal: bool, rate: u32, seconds: u32, seed: u64) -> Self {
        let again = Again {
            repeats: 2,
            percent: 20,
            free: 10,
        };
        Self {
            hops: std::array::from_fn(|_| Some(again.clone())),
            failing: Failing::Answers,
            share: 1_000,
            rate,
            seconds,
            idempotent: false,
            patience: Duration::MAX,
            signal,
            seed,
        }
    }

    /// One of all chains, drawn.
    pub(crate) fn drawn(draw: &mut Draw, rate: u32, seconds: u32) -> Self {
        let percents = [0, 5, 10, 20, 20, 20, 35, 50, 100];
        let frees = [0, 1, 10, 10, 10, 50];
        let hops = std::array::from_fn(|_| {
            (draw.below(8) > 0).then(|| Again {
                repeats: u32::try_from(draw.below(6)).unwrap_or_default(),
                percent: percents[draw.index(percents.len())],
                free: frees[draw.index(frees.len())],
            })
        });
        let kinds = [
            Failing::Answers,
            Failing::Calls,
            Failing::Hangs,
            Failing::Breaks,
        ];
        let shares = [1_000, 1_000, 1_000, 990, 900, 500, 100, 10];
        let patiences = [u64::MAX, 10_000, 1_000, 100, 20, 5];
        Self {
            hops,
            failing: kinds[draw.index(kinds.len())],
            share: shares[draw.index(shares.len())],
            rate,
            seconds,
            idempotent: draw.below(2) == 0,
            patience: Duration::from_millis(patiences[draw.index(patiences.len())]),
            signal: true,
            seed: draw.bits(),
        }
    }

    /// Whether each hop stays within its budget, and all together within that of one hop.
    pub(crate) fn is_within(&self, seen: &Seen) -> bool {
        let alone =
            |hop: usize| seen.attempts[hop] <= self.most(hop, seen.requests[hop], seen.took);
        (0..HOPS).all(alone) && seen.attempts[HOPS - 1] <= self.most_in_all(seen)
    }

    /// How many requests the last service may get.
    pub(crate) fn most_in_all(&self, seen: &Seen) -> u64 {
        let each = (0..HOPS).map(|hop| self.most(hop, seen.requests[0], seen.took));
        each.max().unwrap_or_default()
    }

    /// How many attempts a hop may make of so many requests within a time. Free are so many in each second
    /// that was begun.
    fn most(&self, hop: usize, requests: u64, took: Duration) -> u64 {
        let Some(again) = &self.hops[hop] else {
            return requests;
        };
        let paid = requests * u64::from(again.percent) / 100;
        requests + paid + u64::from(again.free) * (took.as_secs() + 1)
    }
}
