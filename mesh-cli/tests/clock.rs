//! A machine whose clock is wrong: `mesh proxy` under libfaketime, and a peer with the right time.

mod support;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::routing::get as on_get;
use http::{Method, StatusCode};
use support::{Home, app, free, publish, service, try_send, within};
use tokio::time::Instant;

/// How soon a clock that is set right must have been noticed.
const NOTICED: Duration = Duration::from_secs(5);

/// The library that changes what the clock says; Debian's package `faketime`.
fn library() -> Option<PathBuf> {
    let found = std::fs::read_dir("/usr/lib").ok()?.find_map(|dir| {
        let path = dir.ok()?.path().join("faketime/libfaketimeMT.so.1");
        path.exists().then_some(path)
    });
    let required = std::env::var("MESH_REQUIRE_FAKETIME").is_ok_and(|v| v != "0");
    assert!(
        found.is_some() || !required,
        "libfaketime is required and not there"
    );
    if found.is_none() {
        eprintln!("skipped: 1 test, libfaketime is not installed");
    }
    found
}

#[tokio::test]
async fn a_clock_that_is_set_right_is_followed_within_seconds() {
    let Some(library) = library() else { return };
    let home = Home::new();
    let app = app(Router::new().fallback(on_get(async || "well"))).await;
    let (inner, door) = (free(), free());
    publish(&home.path(""), "clock", "+0");
    let clock = home.path("clock");
    let environment: [(&str, &Path); 4] = [
        ("LD_PRELOAD", &library),
        ("FAKETIME_TIMESTAMP_FILE", &clock),
        ("FAKETIME_NO_CACHE", Path::new("1")),
        // As in life, the clock that timers run by continues.
        ("FAKETIME_DONT_FAKE_MONOTONIC", Path::new("1")),
    ];
    let listeners = format!(
        "defaultAction: allow
peers: strict
listeners: [{{bind: \"{inner}\", inbound: {{app: \"{app}\", appProtocol: http}}}}]
"
    );
    let server = home.agent_with("app", &listeners, &[], &environment).await;
    let ids = "inmesh.dev/ids: spiffe://test.local/ns/shop/sa/app";
    let listeners = format!(
        "defaultAction: allow
peers: strict
listeners: [{{bind: \"{door}\", outbound: {{appProtocol: http}}}}]
"
    );
    let documents = service("app", inner, ids);
    let _client = home
        .agent("web", &listeners, &[("app.yaml", &documents)])
        .await;
    let asked = async || {
        let answer = try_send(door, Method::GET, "/", &[("host", "app")]).await;
        answer.expect("the agent answers").status
    };
    let scrapes = Cell::new(0);
    let rotations = async || {
        scrapes.set(scrapes.get() + 1);
        server.metric("mesh_certificate_rotations_total").await
    };
    assert_eq!(asked().await, StatusCode::OK);
    // What a look at the metrics costs, which is no loop of the agent's.
    let spent = server.cpu_time();
    for _ in 0..20 {
        rotations().await;
    }
    let scrape = (server.cpu_time() - spent) / 20;

    // Forward there is a leaf for the time that the clock says; an hour back there was no CA yet.
    for (wrong, leaves) in [("+3600", 2), ("+90000", 2), ("-3600", 1)] {
        let before = rotations().await;
        let (begin, spent) = (Instant::now(), server.cpu_time());
        scrapes.set(0);
        publish(&home.path(""), "clock", wrong);
        within(NOTICED, "the clock is seen to be wrong", async || {
            let refused = server.log().contains("is not valid at the moment");
            (rotations().await > before || refused).then_some(())
        })
        .await;
        publish(&home.path(""), "clock", "+0");
        within(NOTICED, "a leaf for the right time", async || {
            (rotations().await >= before + leaves).then_some(())
        })
        .await;
        // One for each time, and perhaps one that was due anyway: no loop.
        let made = rotations().await - before;
        assert!(made <= leaves + 1, "{wrong}: {made} rotations");
        let (wall, cpu) = (begin.elapsed(), server.cpu_time() - spent);
        let own = cpu.saturating_sub(scrape * scrapes.get());
        assert!(own < wall / 4, "{wrong}: {own:?} of CPU in {wall:?}");
        // Connections made meanwhile are judged by the right clock again.
        within(NOTICED, "peers trust each other again", async || {
            (asked().await == StatusCode::OK).then_some(())
        })
        .await;
    }
    let log = server.log();
    assert!(!log.contains("panicked"), "{log}");
}
