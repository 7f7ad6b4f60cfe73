//! Small worlds of `cart` with a few endpoints, in which something goes wrong.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::*;
use crate::authorize::DefaultAction;
use crate::balance::{CheckKind, CheckPolicy, Strategy};
use crate::explain::Question;
use crate::model::{
    AppProtocol, Host, Kind, Namespace, ObjectKey, Service, ServiceName, ServicePort, Slice,
    SliceHost, SlicePort, SourceId, Transport, Workload,
};
use crate::retry::{HedgePolicy, RetryPolicy};
use crate::route::Timeouts;
use crate::snapshot::{Change, Op, Settings, Snapshot};
use crate::traffic::{Blocks, Target, TrafficPolicy};

const SECOND: Duration = Duration::from_secs(1);

/// `cart` with so many plain endpoints at 10.0.0.1 and so on.
fn world(endpoints: u8, blocks: &Blocks) -> Snapshot {
    let shop = Namespace::new("shop").expect("a name");
    let cart = ServiceName::new(&shop, "cart").expect("a name");
    let port = ServicePort::new("http", 80, AppProtocol::Http1);
    let key = |kind, name| ObjectKey::new(kind, &shop, name).expect("a name");
    let hosts = (1..=endpoints).map(|n| SliceHost::new(Host::Address([10, 0, 0, n].into())));
    let slice = Slice::new(
        key(Kind::EndpointSlice, "cart-1"),
        cart.clone(),
        vec![SlicePort::new("http", 80)],
        hosts.collect(),
        Transport::Plain,
    );
    let mut ops = vec![
        Op::put(Service::new(cart.clone(), vec![port])),
        Op::put(slice),
    ];
    if *blocks != Blocks::default() {
        let targets = vec![Target::Service(cart, None)];
        let policy = TrafficPolicy::new(key(Kind::TrafficPolicy, "cart"), targets, blocks.clone());
        ops.push(Op::put(policy.expect("a policy")));
    }
    let web = Workload::new("shop", "web", "web").expect("a name");
    Snapshot::new(Settings::new(web, DefaultAction::Deny))
        .apply(Change::update(SourceId::new("test"), ops))
}

fn at(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 80))
}

fn latency(millis: u64, p99: u64) -> Latency {
    let (median, p99) = (Duration::from_millis(millis), Duration::from_millis(p99));
    Latency::new(median, p99).expect("a latency")
}

/// A thousand requests a second from four callers, to 12 endpoints of 10 ms.
fn scenario(seconds: u32) -> Scenario {
    let mut scenario = Scenario::new(SECOND * seconds);
    let question = Question::parse("GET http://cart/items").expect("a request");
    let mut load = Load::new("items", question, 1_000.0);
    load.callers = 4;
    scenario.loads.push(load);
    for n in 1..=12 {
        let behaviour = Behaviour {
            latency: latency(10, 30),
            ..Behaviour::default()
        };
        scenario.behaviours.insert(at(n), behaviour);
    }
    scenario
}

fn run_of(scenario: &Scenario, blocks: &Blocks) -> Outcome {
    run(scenario, || world(12, blocks)).expect("it is within its bounds")
}

fn behave(scenario: &mut Scenario, second: u32, of: &[u8], behaviour: &Behaviour) {
    let of = of.iter().map(|n| at(*n)).collect();
    let action = Action::Behave(of, behaviour.clone());
    scenario.events.push(Event::new(SECOND * second, action));
}

fn refuses() -> Behaviour {
    Behaviour {
        reached: Reached::Refuses,
        ..Behaviour::default()
    }
}

#[test]
fn equal_seeds_give_equal_outcomes() {
    let mut scenario = scenario(20);
    behave(&mut scenario, 5, &[1, 2], &refuses());
    scenario.loads[0].rate = 500.0;
    let text = |scenario: &Scenario| {
        serde_json::to_string(&run_of(scenario, &Blocks::default())).expect("JSON")
    };
    let first = text(&scenario);
    assert_eq!(first, text(&scenario));
    scenario.seed = 1;
    assert_ne!(first, text(&scenario));
}

#[test]
fn without_a_fault_each_endpoint_has_its_share() {
    let outcome = run_of(&scenario(30), &Blocks::default());
    let whole = &outcome.whole;
    assert_eq!(
        (whole.requests, whole.attempts),
        (whole.succeeded, whole.requests)
    );
    assert!(
        (29_000..31_000).contains(&whole.requests),
        "{}",
        whole.requests
    );
    let fair = whole.attempts / 12;
    for (address, attempts) in &whole.endpoints {
        assert!(
            attempts.abs_diff(fair) < fair / 10,
            "{address}: {attempts} of {fair}"
        );
    }
    let Latencies {
        p50_micros,
        p99_micros,
        ..
    } = whole.latency;
    assert!((9_500..10_500).contains(&p50_micros), "{p50_micros}");
    assert!((27_000..33_000).contains(&p99_micros), "{p99_micros}");
}

#[test]
fn where_all_refuse_all_are_used_and_callers_hear_503() {
    let mut scenario = scenario(20);
    behave(
        &mut scenario,
        10,
        &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
        &refuses(),
    );
    scenario.windows.push((SECOND * 11, SECOND * 20));
    let policy = Blocks {
        eject: Some(crate::balance::EjectPolicy {
            percent: 100,
            ..Default::default()
        }),
        ..Blocks::default()
    };
    let outcome = run_of(&scenario, &policy);
    let after = &outcome.windows[0];
    assert_eq!(after.succeeded, 0);
    assert_eq!(
        after.ends.keys().collect::<Vec<_>>(),
        ["503 connect-failed"]
    );
    // Three attempts at three endpoints, the limit without a policy.
    assert!(
        (2.9..=3.0).contains(&after.amplification),
        "{}",
        after.amplification
    );
    assert!(after.latency.max_micros < 10_000);
    assert!(outcome.timeline[45].panic && !outcome.timeline[10].panic);
    assert_eq!(outcome.most_ejected, (12, 12));
}

#[test]
fn one_that_refuses_is_ejected_and_costs_no_caller_anything() {
    let mut scenario = scenario(60);
    behave(&mut scenario, 5, &[3], &refuses());
    behave(&mut scenario, 20, &[3], &Behaviour::default());
    scenario.windows.push((SECOND * 7, SECOND * 20));
    let outcome = run_of(&scenario, &Blocks::default());
    assert_eq!(outcome.whole.succeeded, outcome.whole.requests);
    assert_eq!(outcome.most_ejected, (1, 12));
    // Ejected by each of four callers, and not probed within 30 s.
    assert_eq!(
        (
            outcome.whole.ejections,
            outcome.windows[0].endpoints[&at(3)]
        ),
        (4, 0)
    );
    assert!(outcome.timeline[10].ejected_percent[2] == 100);
    assert!(outcome.timeline[59].ejected_percent[2] == 0, "it is back");
    assert!(outcome.timeline[59].attempts[2] > 0);
}

#[test]
fn a_slow_one_gets_few_and_a_hung_one_is_late() {
    let mut slow = scenario(20);
    let behaviour = Behaviour {
        latency: latency(1_000, 1_000),
        ..Behaviour::default()
    };
    behave(&mut slow, 5, &[3], &behaviour);
    slow.windows.push((SECOND * 10, SECOND * 20));
    let outcome = run_of(&slow, &Blocks::default());
    let (share, all) = (
        outcome.windows[0].endpoints[&at(3)],
        outcome.windows[0].attempts,
    );
    // A fifth of a fair share.
    assert!(share * 60 < all, "{share} of {all}");

    let mut hung = scenario(20);
    let behaviour = Behaviour {
        reached: Reached::Hangs,
        ..Behaviour::default()
    };
    behave(&mut hung, 5, &[3], &behaviour);
    let timeouts = Timeouts {
        backend_request: Some(Duration::from_millis(100)),
        ..Timeouts::default()
    };
    let policy = Blocks {
        timeouts: Some(timeouts),
        ..Blocks::default()
    };
    let outcome = run_of(&hung, &policy);
    let failed = outcome.whole.requests - outcome.whole.succeeded;
    assert_eq!(outcome.whole.ends.get("504 backend-timeout"), Some(&failed));
    assert!(failed > 0 && outcome.whole.ejections >= 4);

    // Silence is not held against it.
    let policy = Blocks {
        timeouts: Some(Timeouts::default().with_stream_idle(Some(Duration::from_millis(100)))),
        ..Blocks::default()
    };
    let outcome = run_of(&hung, &policy);
    let failed = outcome.whole.requests - outcome.whole.succeeded;
    assert_eq!(outcome.whole.ends.get("504 stream-idle"), Some(&failed));
    assert!(failed > 0 && outcome.whole.ejections == 0);
}

#[test]
fn repeats_end_with_their_budget() {
    let mut scenario = scenario(30);
    let behaviour = Behaviour {
        fault: Some(Fault::new(100.0, StatusCode::SERVICE_UNAVAILABLE).expect("a fault")),
        ..Behaviour::default()
    };
    behave(
        &mut scenario,
        0,
        &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
        &behaviour,
    );
    let retry = RetryPolicy::new(2).on_status(503).expect("a status");
    let policy = Blocks {
        retry: Some(Arc::new(retry)),
        ..Blocks::default()
    };
    let outcome = run_of(&scenario, &policy);
    let amplification = outcome.whole.amplification;
    // A fifth of 250 each second, and 10 each second besides: for each of four callers.
    assert!((1.15..1.241).contains(&amplification), "{amplification}");
    assert_eq!(outcome.whole.ends.len(), 1);
}

#[test]
fn a_rolling_restart_that_is_announced_fails_nothing() {
    for (announced, fails) in [(true, false), (false, true)] {
        let mut scenario = scenario(60);
        scenario.discovery = Duration::from_millis(100);
        for n in 1..=12_u8 {
            let down = u32::from(n) * 4;
            let mut announce = |second: u32, what| {
                let action = Action::Announce(vec![at(n)], what);
                scenario.events.push(Event::new(SECOND * second, action));
            };
            if announced {
                announce(down - 2, Announced::Terminating);
                announce(down + 3, Announced::Listed);
            }
            let before = scenario.behaviours[&at(n)].clone();
            behave(&mut scenario, down, &[n], &refuses());
            behave(&mut scenario, down + 2, &[n], &before);
        }
        // What may have reached a server is not sent again.
        let question = Question::parse("POST http://cart/items").expect("a request");
        scenario.loads[0].questions = vec![question];
        let outcome = run_of(&scenario, &Blocks::default());
        let whole = &outcome.whole;
        assert_eq!(whole.succeeded < whole.requests, fails, "{:?}", whole.ends);
        assert!(whole.endpoints.values().all(|attempts| *attempts > 0));
    }
}

#[test]
fn what_is_above_its_room_waits_or_is_refused() {
    let mut scenario = scenario(10);
    for behaviour in scenario.behaviours.values_mut() {
        behaviour.latency = latency(100, 100);
        behaviour.room = Some(Room::new(4, 4));
    }
    // 48 places of 100 ms: 480 in a second of a thousand.
    let outcome = run_of(&scenario, &Blocks::default());
    let whole = &outcome.whole;
    let goodput = whole.succeeded / 10;
    assert!(
        (440..=490).contains(&goodput),
        "{goodput}: {:?}",
        whole.ends
    );
    assert_eq!(whole.succeeded + whole.ends["503"], whole.requests);
    assert!(
        whole.latency.max_micros <= 201_000,
        "{}",
        whole.latency.max_micros
    );
}

#[test]
fn checks_take_out_what_serves_no_more() {
    let mut scenario = scenario(60);
    behave(&mut scenario, 10, &[3], &refuses());
    behave(&mut scenario, 40, &[3], &Behaviour::default());
    let mut check = CheckPolicy::new(CheckKind::Tcp);
    (check.interval, check.timeout) = (SECOND, SECOND);
    let policy = Blocks {
        check: Some(Arc::new(check)),
        strategy: Some(Strategy::RoundRobin),
        ..Blocks::default()
    };
    let outcome = run_of(&scenario, &policy);
    let out = |column: usize| outcome.timeline[column].ejected_percent[2];
    assert_eq!([out(5), out(20), out(59)], [0, 100, 0]);
    assert_eq!(outcome.whole.succeeded, outcome.whole.requests);
}

#[test]
fn a_rate_that_changes_and_a_caller_that_waits_are_heeded() {
    let mut scenario = scenario(20);
    scenario
        .events
        .push(Event::new(SECOND * 10, Action::Rate(0, 0.0)));
    let question = Question::parse("GET http://cart/items").expect("a request");
    let hurried = question.header("x-envoy-expected-rq-timeout-ms: 5");
    scenario.loads[0].questions = vec![hurried.expect("a field")];
    scenario.loads[0].even = true;
    let outcome = run_of(&scenario, &Blocks::default());
    assert_eq!(outcome.timeline[45].requests, 0);
    assert!((9_990..=10_001).contains(&outcome.whole.requests));
    let late = outcome.whole.ends["504 request-timeout"];
    assert!(late > 9_000 && outcome.whole.ejections == 0, "{late}");
}

#[test]
fn faults_of_a_policy_delay_and_abort_their_share() {
    use crate::traffic::{Abort, FaultInjection, Percentage};
    let share = |percent| Percentage::new(percent).expect("a share");
    let teapot = Abort::Http(StatusCode::IM_A_TEAPOT);
    let fault = FaultInjection::default().with_delay(share(100.0), SECOND);
    let fault = fault.and_then(|fault| fault.with_abort(share(50.0), teapot));
    let fault = fault.expect("a fault");
    let policy = Blocks {
        fault: Some(Arc::new(fault)),
        ..Blocks::default()
    };
    let outcome = run_of(&scenario(10), &policy);
    let whole = &outcome.whole;
    let (aborted, all) = (whole.ends["418"], whole.requests);
    assert!(aborted.abs_diff(all / 2) < all / 20, "{aborted} of {all}");
    assert_eq!(aborted + whole.attempts, all);
    assert!(whole.latency.p50_micros >= 1_000_000, "{:?}", whole.latency);
}

fn hedged(attempts: u32, millis: u64) -> Blocks {
    let policy = HedgePolicy::new(attempts, Duration::from_millis(millis)).expect("a policy");
    Blocks {
        hedge: Some(policy.on_status(503).expect("a status").into()),
        timeouts: Timeouts::new(Some(SECOND), None).ok(),
        ..Blocks::default()
    }
}

#[test]
fn hedges_cut_the_tail_of_a_slow_endpoint_and_hold_nothing_against_it() {
    let mut scenario = scenario(30);
    let slow = Behaviour {
        latency: latency(500, 600),
        ..Behaviour::default()
    };
    scenario.behaviours.insert(at(1), slow);
    let plain = run_of(&scenario, &Blocks::default()).whole;
    assert!(plain.latency.p999_micros > 400_000, "{:?}", plain.latency);
    let outcome = run_of(&scenario, &hedged(2, 40));
    let whole = &outcome.whole;
    assert_eq!(whole.succeeded, whole.requests);
    assert!(whole.latency.p999_micros < 120_000, "{:?}", whole.latency);
    assert!(
        (1.005..1.2).contains(&whole.amplification),
        "{}",
        whole.amplification
    );
    assert_eq!(whole.ejections, 0);
    // What has lost is given back: the slow one is still asked.
    assert!(whole.endpoints[&at(1)] > 100, "{:?}", whole.endpoints);
    // A POST is sent once.
    let question = Question::parse("POST http://cart/items").expect("a request");
    scenario.loads[0].questions = vec![question];
    let posts = run_of(&scenario, &hedged(2, 40)).whole;
    assert_eq!(posts.attempts, posts.requests);
}

/// However slow all are, the budget bounds what is sent: a fifth, and ten in a second for each caller.
#[test]
fn hedges_do_not_storm() {
    for (attempts, delay, behaviour) in [
        (5, 0, latency(10, 30)),
        (5, 1, latency(300, 900)),
        (3, 0, latency(2_000, 3_000)),
    ] {
        let mut scenario = scenario(20);
        for n in 1..=12 {
            let behaviour = Behaviour {
                latency: behaviour,
                room: Some(Room::new(20, 20)),
                ..Behaviour::default()
            };
            scenario.behaviours.insert(at(n), behaviour);
        }
        let whole = run_of(&scenario, &hedged(attempts, delay)).whole;
        let further = whole.attempts - whole.requests;
        let most = whole.requests / 5 + 4 * 10 * 21 + 4;
        assert!(further <= most, "{attempts} {delay}: {further} of {most}");
        assert!(further > 0);
    }
}

#[test]
fn a_race_ends_where_all_fail_or_refuse() {
    for behaviour in [
        refuses(),
        Behaviour {
            reached: Reached::Resets,
            ..Behaviour::default()
        },
        Behaviour {
            fault: Fault::new(100.0, StatusCode::SERVICE_UNAVAILABLE).ok(),
            ..Behaviour::default()
        },
        Behaviour {
            reached: Reached::Hangs,
            ..Behaviour::default()
        },
    ] {
        let mut scenario = scenario(10);
        let all: Vec<u8> = (1..=12).collect();
        behave(&mut scenario, 5, &all, &behaviour);
        let whole = run_of(&scenario, &hedged(3, 20)).whole;
        assert!(!whole.ends.contains_key("unanswered"), "{:?}", whole.ends);
        assert!(whole.succeeded > 4_500, "{behaviour:?} {:?}", whole.ends);
        assert!(whole.succeeded < 5_500, "{behaviour:?} {:?}", whole.ends);
    }
}

#[test]
fn what_is_beyond_its_bounds_is_refused() {
    let refused = |change: &dyn Fn(&mut Scenario)| {
        let mut scenario = scenario(10);
        change(&mut scenario);
        run(&scenario, || world(1, &Blocks::default())).expect_err("it is refused")
    };
    for (change, why) in [
        (
            &(|s: &mut Scenario| s.duration = Duration::ZERO) as &dyn Fn(&mut Scenario),
            "24h",
        ),
        (&|s| s.loads.clear(), "nothing sends"),
        (&|s| s.loads[0].rate = f64::NAN, "a rate"),
        (&|s| s.loads[0].rate = -1.0, "a rate"),
        (&|s| s.loads[0].callers = 0, "asks nothing"),
        (&|s| s.loads[0].callers = 1_001, "1000 are allowed"),
        (
            &|s| s.loads[0].questions = vec![Question::parse("tcp://cart:80").expect("a question")],
            "opaque",
        ),
        (&|s| s.columns = 0, "a column"),
        (
            &|s| s.events.push(Event::new(SECOND, Action::Rate(7, 1.0))),
            "the place 7",
        ),
        (
            &|s| {
                s.events
                    .push(Event::new(SECOND, Action::Rate(0, 1e6 + 1.0)))
            },
            "a rate",
        ),
        (
            &|s| (s.duration, s.loads[0].rate) = (SECOND * 3_600, 1e6),
            "are allowed",
        ),
    ] {
        let said = refused(change).to_string();
        assert!(said.contains(why), "{said}");
    }
    assert!(Latency::new(SECOND, SECOND / 2).is_err());
    assert!(Fault::new(101.0, StatusCode::OK).is_err());
}
