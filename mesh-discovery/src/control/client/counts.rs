//! How requests fare, where a control plane has asked for it: counted as they end, and reported now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use inmesh_core::discover::Sink;
use inmesh_core::model::{Kind, ObjectKey};
use inmesh_core::telemetry::{Direction, Exchange, ExchangeSink, SinkGuard};
use tokio::time::Instant;

use super::super::names;
use super::super::proto::delta::{Report, Watch};

/// Between how many bounds it is counted how long requests took: 1, 2, 4 ms and so on.
const BOUNDS: usize = 16;
/// The most Services that are asked for at once.
const SERVICES: usize = 64;
/// The longest name of a count.
const NAME: usize = 128;
/// How often it is reported at most, and at least.
const EVERY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// The status of a request whose caller did not wait for an answer: it says nothing of what was decided.
const CALLER_GONE: u16 = 499;

/// What is asked for now, and what was counted of it.
pub(super) struct Counting {
    id: String,
    counts: Arc<Counts>,
    every: Duration,
    due: Instant,
    _sees: SinkGuard,
}

/// Counts of requests.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Names of Services ("cart.shop"); where there are none, all requests are counted.
    services: Vec<String>,
    /// Requests that this has routed or answered are counted as well.
    object: Option<ObjectKey>,
    /// Whether that is a policy, of what workloads take and send.
    of_policy: bool,
    requests: AtomicU64,
    failed: AtomicU64,
    took: [AtomicU64; BOUNDS],
}

/// Begins, keeps or ends a count, as a response says it.
pub(super) fn follow(counting: &mut Option<Counting>, watch: Option<Watch>, sink: &Sink) {
    let Some(watch) = watch.filter(|watch| (1..=NAME).contains(&watch.id.len())) else {
        *counting = None;
        return;
    };
    if let Some(now) = counting.as_mut().filter(|now| now.id == watch.id) {
        // It may be another control plane that asks, which has heard nothing.
        now.due = Instant::now();
        return;
    }
    let counts = Arc::new(Counts::of(&watch));
    let every = Duration::from_millis(watch.every_millis.into());
    *counting = Some(Counting {
        id: watch.id,
        every: every.clamp(EVERY.0, EVERY.1),
        // That it counts is said at once.
        due: Instant::now(),
        _sees: sink.watch_exchanges(Arc::clone(&counts) as Arc<dyn ExchangeSink>),
        counts,
    });
}

// === impl Counting ===

impl Counting {
    /// When it is to be reported.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// What was counted since it began.
    pub(super) fn report(&mut self) -> Report {
        self.due = Instant::now() + self.every;
        self.counts.report(&self.id)
    }
}

// === impl Counts ===

impl Counts {
    fn of(watch: &Watch) -> Self {
        let object = names::key(&watch.object).ok();
        Self {
            services: watch.services.iter().take(SERVICES).cloned().collect(),
            of_policy: { object.as_ref() }.is_some_and(|key| key.kind == Kind::AuthorizationPolicy),
            object,
            ..Self::default()
        }
    }

    fn report(&self, id: &str) -> Report {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        // Read before the requests, of which no more have failed.
        let failed = load(&self.failed);
        Report {
            id: id.to_owned(),
            failed,
            took: self.took.iter().map(load).collect(),
            requests: load(&self.requests),
        }
    }

    /// Whether it has failed, as far as what is staged could be why. What a caller has done wrong counts too: it
    /// does so on both sides alike.
    fn has_failed(&self, exchange: &Exchange) -> bool {
        let failed = (400..600).contains(&exchange.status)
            || exchange.is_failure()
            || exchange.grpc_status.is_some_and(|code| code != 0);
        // Of a policy this workload's own has refused it: that of a server, which is on any side, says so there.
        let own = !self.of_policy || exchange.direction == Direction::Inbound;
        failed && (own || exchange.policy.is_some())
    }

    fn is_counted(&self, exchange: &Exchange) -> bool {
        if exchange.status == CALLER_GONE {
            return false;
        }
        if self.services.is_empty() {
            return true;
        }
        if exchange.direction != Direction::Outbound {
            return false;
        }
        let route = exchange.route.as_ref().map(|(key, _)| key);
        // A fault, say, is of a policy for a Service that is not chosen by then.
        let mut by = route.into_iter().chain(&exchange.policy);
        by.any(|by| self.object.as_ref() == Some(by))
            || self
                .services
                .iter()
                .any(|name| is_of(&exchange.service, name))
    }
}

impl ExchangeSink for Counts {
    fn sees_begin(&self) -> bool {
        false
    }

    fn record(&self, exchange: &Exchange, _at: SystemTime) {
        if !self.is_counted(exchange) {
            return;
        }
        let add = |count: &AtomicU64| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        add(&self.requests);
        if self.has_failed(exchange) {
            add(&self.failed);
        }
        if let Some(bound) = self.took.get(bound_of(exchange.duration)) {
            add(bound);
        }
    }
}

/// Whether the host of a Service, as records have it ("cart.shop.svc.cluster.local"), is that of a name.
fn is_of(host: &str, name: &str) -> bool {
    let rest = host.strip_prefix(name);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(".svc."))
}

/// The place of the first bound that is no less.
fn bound_of(took: Duration) -> usize {
    let above = (0..BOUNDS - 1).find(|n| took <= Duration::from_millis(1 << n));
    above.unwrap_or(BOUNDS - 1)
}

#[cfg(test)]
mod tests {
    use inmesh_core::telemetry::Protocol;
    use inmesh_core::telemetry::trace::TraceContext;

    use super::*;

    fn exchange(service: &str, status: u16) -> Exchange {
        let trace = TraceContext::new(1, 2, false);
        let mut exchange = Exchange::new(Direction::Outbound, Protocol::Http1, trace);
        exchange.service = service.into();
        exchange.status = status;
        exchange.duration = Duration::from_millis(3);
        exchange
    }

    fn counted(watch: &Watch, exchanges: &[Exchange]) -> (u64, u64) {
        let counts = Counts::of(watch);
        for exchange in exchanges {
            counts.record(exchange, SystemTime::UNIX_EPOCH);
        }
        let report = counts.report("a");
        assert_eq!(report.took.iter().sum::<u64>(), report.requests);
        (report.requests, report.failed)
    }

    #[test]
    fn requests_to_some_services_are_counted() {
        let watch = Watch {
            services: vec!["cart.shop".into()],
            object: "HTTPRoute/shop/cart".into(),
            ..Watch::default()
        };
        let mut routed = exchange("other.shop.svc.cluster.local", 404);
        let key = names::key("HTTPRoute/shop/cart").expect("a name");
        routed.route = Some((key, 0));
        let mut decided = exchange("other.shop.svc.cluster.local", 503);
        decided.policy = names::key("HTTPRoute/shop/cart").ok();
        let mut inbound = exchange("cart.shop.svc.cluster.local", 500);
        inbound.direction = Direction::Inbound;
        let mut grpc = exchange("cart.shop.svc.cluster.local", 200);
        grpc.grpc_status = Some(5);
        for (one, expected) in [
            (exchange("cart.shop.svc.cluster.local", 200), (1, 0)),
            (exchange("cart.shop", 302), (1, 0)),
            (exchange("cart.shop.svc.cluster.local", 404), (1, 1)),
            (exchange("cart.shop.svc.cluster.local", 503), (1, 1)),
            (exchange("cart.shop.svc.cluster.local", 499), (0, 0)),
            (exchange("cart.shopping.svc.cluster.local", 200), (0, 0)),
            (exchange("", 404), (0, 0)),
            (routed, (1, 1)),
            (decided, (1, 1)),
            (inbound.clone(), (0, 0)),
            (grpc, (1, 1)),
        ] {
            assert_eq!(
                counted(&watch, std::slice::from_ref(&one)),
                expected,
                "{one:?}"
            );
        }
        // Where no Service is named, all are.
        let all = [inbound, exchange("", 404), exchange("other.shop", 200)];
        assert_eq!(counted(&Watch::default(), &all), (3, 2));
    }

    #[test]
    fn a_policy_fails_what_its_own_workload_refuses() {
        let watch = Watch {
            object: "AuthorizationPolicy/shop/cart".into(),
            ..Watch::default()
        };
        let mut inbound = exchange("", 403);
        inbound.direction = Direction::Inbound;
        let mut own = exchange("cart.shop", 403);
        own.policy = names::key("AuthorizationPolicy/shop/cart").ok();
        // A server has refused it, on whichever side that is.
        let other = exchange("cart.shop", 403);
        for (one, expected) in [(inbound, (1, 1)), (own, (1, 1)), (other, (1, 0))] {
            assert_eq!(
                counted(&watch, std::slice::from_ref(&one)),
                expected,
                "{one:?}"
            );
        }
    }

    #[test]
    fn bounds_are_powers_of_two() {
        for (micros, bound) in [
            (0, 0),
            (1_000, 0),
            (1_001, 1),
            (2_000, 1),
            (16_384_000, 14),
            (16_384_001, 15),
            (u64::MAX, 15),
        ] {
            assert_eq!(bound_of(Duration::from_micros(micros)), bound, "{micros}");
        }
    }
}
