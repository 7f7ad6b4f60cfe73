//! A minute of load over leaves of 10 s and three new roots: nothing is lost.

#[path = "../benches/soak/world.rs"]
mod world;

use std::time::Duration;

use world::{Plan, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaves_and_roots_are_replaced_under_load_and_nothing_is_lost() {
    let plan = Plan {
        length: Duration::from_secs(60),
        rate: 60,
        leaf: Duration::from_secs(10),
        root_every: Some(Duration::from_secs(20)),
    };
    let report = run(plan).await.expect("the world stands");
    assert!(report.requests > 3_000, "{report:?}");
    assert_eq!((report.lost, &report.why), (0, &vec![]));
    assert_eq!((report.failed_handshakes, &report.stream_broke), (0, &None));
    assert!(
        report.handshakes > 1_000 && report.chunks > 1_000,
        "{report:?}"
    );
    assert!(report.leaves >= 20 && report.roots == 3, "{report:?}");
    assert_eq!(report.activated, 3, "{report:?}");
    assert!(report.retired >= 2, "{report:?}");
    assert!(report.latency.len() == report.requests, "{report:?}");
    assert!(report.cpu_per_request > Duration::ZERO, "{report:?}");
}
