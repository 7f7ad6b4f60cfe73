//! Rotation under load: leaves of 10 s and a new root every 60 s, beside the same load without.
//!
//! `cargo bench -p inmesh-cli --bench soak -- [--seconds 600] [--rate N]`. Without `--rate` it first
//! looks for the highest rate that loses nothing. It ends with an error if anything was lost.

mod world;

use std::time::Duration;

use world::{Fallible, Plan, Report, run};

/// Rates that are tried, in requests a second.
const RATES: [u32; 12] = [
    300, 600, 900, 1_200, 1_800, 2_400, 3_600, 4_800, 7_200, 9_600, 14_400, 19_200,
];
/// A rate is too high where so many of its requests take so long.
const TAIL: (f64, u64) = (0.99, 50_000);

fn still(rate: u32, length: Duration) -> Plan {
    Plan {
        length,
        rate,
        leaf: Duration::from_secs(3_600),
        root_every: None,
    }
}

/// The highest rate that loses nothing, and keeps its latency.
async fn highest() -> Fallible<u32> {
    let mut best = None;
    for rate in RATES {
        let report = run(still(rate, Duration::from_secs(4))).await?;
        let tail = report.latency.value_at_quantile(TAIL.0);
        println!("{rate}/s: {} lost, p99 {tail} us", report.lost);
        if report.lost > 0 || tail > TAIL.1 {
            break;
        }
        best = Some(rate);
    }
    Ok(best.ok_or("even the lowest rate loses requests")?)
}

fn tell(name: &str, report: &Report) {
    let at = |q| Duration::from_micros(report.latency.value_at_quantile(q));
    println!(
        "{name}: {} requests, {} lost; {} handshakes, {} failed; stream of {} chunks, {}; {} leaves, \
         {} roots begun, {} in use, {} retired; p50 {:?}, p99 {:?}, max {:?}; {:?} of CPU a request",
        report.requests,
        report.lost,
        report.handshakes,
        report.failed_handshakes,
        report.chunks,
        report.stream_broke.as_deref().unwrap_or("whole"),
        report.leaves,
        report.roots,
        report.activated,
        report.retired,
        at(0.5),
        at(0.99),
        at(1.0),
        report.cpu_per_request,
    );
    for why in &report.why {
        println!("  lost: {why}");
    }
}

fn number(arguments: &[String], name: &str) -> Fallible<Option<u32>> {
    let at = arguments.iter().position(|a| a == name);
    let value = at.and_then(|at| arguments.get(at + 1));
    Ok(value.map(|v| v.parse()).transpose()?)
}

#[tokio::main]
async fn main() -> Fallible<()> {
    let arguments: Vec<_> = std::env::args().collect();
    // `cargo test --benches` only asks whether it starts.
    if arguments.iter().any(|a| a == "--test") {
        return Ok(());
    }
    let length = Duration::from_secs(number(&arguments, "--seconds")?.unwrap_or(600).into());
    let rate = match number(&arguments, "--rate")? {
        Some(rate) => rate,
        None => highest().await?,
    };
    println!("{rate} requests a second for {length:?}");
    let quiet = run(still(rate, length.min(Duration::from_secs(60)))).await?;
    tell("without rotation", &quiet);
    let rotating = Plan {
        length,
        leaf: Duration::from_secs(10),
        root_every: Some(Duration::from_secs(60)),
        ..still(rate, length)
    };
    let report = run(rotating).await?;
    tell("with rotation", &report);
    if report.lost + report.failed_handshakes > 0 || report.stream_broke.is_some() {
        return Err("something was lost".into());
    }
    Ok(())
}
