//! Files in; scenarios, reports and problems out.

use super::Simulation;

const CART: &str = "
apiVersion: inmesh.dev/v1alpha1
kind: Simulation
documents:
  inline: |
    {apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {ports: [{port: 80}]}}
    ---
    apiVersion: discovery.k8s.io/v1
    kind: EndpointSlice
    metadata:
      name: cart-1
      namespace: shop
      labels: {kubernetes.io/service-name: cart}
      annotations: {inmesh.dev/transport: plain}
    addressType: IPv4
    ports: [{port: 8080}]
    endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}, {addresses: [10.0.0.3]}]
duration: 20s
requests:
- {request: 'GET http://cart.shop/', rate: 100}
";

fn file(more: &str) -> String {
    format!("{CART}{more}")
}

fn report(text: &str) -> super::SimulationReport {
    let read = Simulation::parse("cart.yaml", text).expect("it is read");
    let ran = read[0].run(|_| Err("no folder".into()));
    ran.unwrap_or_else(|why| panic!("{why}"))
}

#[test]
fn what_is_expected_is_compared() {
    let report = report(&file(
        "
endpoints: [{latencyMillis: 10}]
expect:
- {successAtLeast: 100, amplificationAtMost: 1, p99AtMostMillis: 9, ejectionsAtMost: 0, ejectionsAtLeast: 1}
- {from: 5s, sharesAtMost: {cart.shop: 100, 10.0.0.1: 10}}
",
    ));
    let good: Vec<_> = report.met.iter().map(|met| met.good).collect();
    assert_eq!(
        good,
        [true, true, false, false, true, true, false],
        "{:?}",
        report.met
    );
    assert!(!report.is_good());
    assert!(
        report.met[2].line.starts_with("p99 10"),
        "{:?}",
        report.met[2]
    );
    assert!(
        report.met[5].line.ends_with("from 5 s to 20 s"),
        "{:?}",
        report.met[5]
    );
    assert!(report.problems.is_empty() && report.refused.is_empty());
}

#[test]
fn endpoints_come_go_and_restart_as_the_file_says() {
    let report = report(&file(
        "
endpoints: [{latencyMillis: 10}]
events:
- {at: 5s, for: 5s, endpoints: [10.0.0.1], leave: true}
- {at: 11s, every: 2s, endpoints: ['10.0.0.2:8080', 10.0.0.3], restart: {drain: 1s, down: 1s}}
- {at: 16s, for: 2s, rate: 0}
expect:
- {successAtLeast: 100, amplificationAtMost: 1, ejectionsAtMost: 0}
- {from: 5s, to: 10s, sharesAtMost: {10.0.0.1: 0}}
- {from: 11s, to: 13s, sharesAtMost: {10.0.0.2: 0}}
- {from: 13s, to: 15s, sharesAtMost: {10.0.0.3: 0}}
",
    ));
    assert!(report.is_good(), "{:?}", report.met);
    // A column is a third of a second.
    let requests = |second: usize| report.outcome.timeline[second * 3 + 1].requests;
    assert!(requests(15) > 0 && requests(17) == 0 && requests(19) > 0);
}

#[test]
fn of_what_overlaps_the_later_has_the_last_word() {
    let report = report(&file(
        "
events:
- {at: 2s, for: 10s, latencyMillis: 100}
- {at: 4s, for: 2s, latencyMillis: 200, fail: {percent: 100, status: 500}}
expect:
- {to: 2s, p99AtMostMillis: 1}
- {from: 5s, to: 6s, successAtLeast: 1}
- {from: 7s, to: 12s, p50AtMostMillis: 101, successAtLeast: 100}
- {from: 13s, p99AtMostMillis: 1}
",
    ));
    let good: Vec<_> = report.met.iter().map(|met| met.good).collect();
    assert_eq!(good, [true, false, true, true, true], "{:?}", report.met);
}

#[test]
fn each_user_has_a_number() {
    let text = file("").replace(
        "- {request: 'GET http://cart.shop/', rate: 100}",
        "- {request: 'GET http://cart.shop/{user}', headers: {x-user: u-{user}}, users: 3, rate: 100}",
    );
    let text = text.replace("u-{user}}", "'u-{user}'}");
    let read = Simulation::parse("cart.yaml", &text).expect("it is read");
    let lines: Vec<_> = read[0].draft.loads[0]
        .questions
        .iter()
        .map(|q| q.line())
        .collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[2], "GET http://cart.shop/2");
}

#[test]
fn what_cannot_be_sent_is_said() {
    let text = file("").replace("http://cart.shop/", "http://other.shop/");
    let report = report(&text);
    assert_eq!(report.outcome.whole.succeeded, 0);
    assert_eq!(report.refused.len(), 1);
    assert!(
        report.refused[0].1.contains("other.shop"),
        "{:?}",
        report.refused
    );
}

#[test]
fn what_a_file_cannot_say_is_refused_with_its_place() {
    let of = |text: &str| match Simulation::parse("cart.yaml", text) {
        Err(problems) => problems
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n"),
        Ok(read) => match read[0].run(|_| Err("no folder".into())) {
            Err(why) => why,
            Ok(_) => "nothing".into(),
        },
    };
    for (more, said) in [
        ("durations: 5s", "durations"),
        ("events: [{at: 1s}]", "needs one of restart"),
        (
            "events: [{at: 20s, leave: true}]",
            "events[0].at: is not within the duration",
        ),
        (
            "events: [{at: 1s, rate: 5}, {at: 1m, rate: 5}]",
            "events[1].at: is not within",
        ),
        ("events: [{at: 1s, leave: false}]", "is true, or absent"),
        ("events: [{at: 1s, rate: 5, leave: true}]", "needs one of"),
        (
            "events: [{at: 1s, rate: 5, endpoints: [10.0.0.1]}]",
            "is of requests",
        ),
        (
            "events: [{at: 1s, rate: 5, requests: other}]",
            "no requests have the name",
        ),
        (
            "events: [{at: 1s, requests: other, leave: true}]",
            "is of a rate",
        ),
        (
            "events: [{at: 1s, for: 1s, restart: {drain: 1s, down: 1s}}]",
            "not of a restart",
        ),
        ("events: [{at: 1s, connections: close}]", "is not one of"),
        (
            "events: [{at: 1s, endpoints: [10.9.9.9], leave: true}]",
            "no endpoint of the documents is 10.9.9.9",
        ),
        (
            "events: [{at: 1s, endpoints: [cart], leave: true}]",
            "no endpoint of the documents is cart",
        ),
        ("endpoints: [{}]", "says nothing"),
        ("endpoints: [{p99Millis: 5}]", "there is no latencyMillis"),
        ("endpoints: [{latencyMillis: 5, p99Millis: 2}]", "a median"),
        ("endpoints: [{queue: 5}]", "there is no concurrency"),
        ("endpoints: [{concurrency: 0}]", "is not within 1"),
        (
            "endpoints: [{fail: {percent: 5}}]",
            "one of status and grpcStatus",
        ),
        (
            "endpoints: [{fail: {status: 503, grpcStatus: 14}}]",
            "one of status and grpcStatus",
        ),
        (
            "endpoints: [{fail: {percent: 101, status: 503}}]",
            "is not 0 to 100",
        ),
        ("expect: [{}]", "expects nothing"),
        ("expect: [{from: 5s}]", "expects nothing"),
        (
            "expect: [{from: 5s, to: 4s, successAtLeast: 1}]",
            "to a later one",
        ),
        (
            "expect: [{to: 1m, successAtLeast: 1}]",
            "within the duration",
        ),
        (
            "expect: [{sharesAtMost: {10.9.9.9: 1}}]",
            "no endpoint of the documents is 10.9.9.9",
        ),
        ("seed: -1", "out of range"),
    ] {
        let said_of = of(&file(more));
        assert!(said_of.contains(said), "{more}: {said_of}");
    }
    for (from, to, said) in [
        (
            "kind: Simulation",
            "kind: Test",
            "no document of kind Simulation",
        ),
        ("rate: 100", "rate: 1e9", "is not 0 to"),
        (
            "rate: 100",
            "rate: 100, users: 3",
            "nothing has {user} in it",
        ),
        ("cart.shop/'", "cart.shop/{user}'", "needs users"),
        ("GET http://cart.shop/", "tcp://cart.shop:80", "opaque"),
        (
            "requests:\n",
            "requests:\n- {request: 'GET http://cart.shop/', rate: 1, name: it}\n- {request: 'GET http://cart.shop/a', rate: 1, name: it}\n",
            "requests[1]: has the name \"it\", as requests[0] has",
        ),
        ("duration: 20s", "duration: 48h", "up to 24h"),
        ("duration: 20s", "duration: 0s", "more than 0s"),
    ] {
        let text = file("").replace(from, to);
        let said_of = of(&text);
        assert!(said_of.contains(said), "{to}: {said_of}");
    }
}
