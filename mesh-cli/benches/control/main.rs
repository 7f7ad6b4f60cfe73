//! A control plane over a real API server: what it costs to have many Services and many subscribers, and how long
//! a change takes from its patch to the subscribers that have it, beside a bare watch.
//!
//! `KUBEBUILDER_ASSETS=... cargo bench -p inmesh-cli --bench control -- --services 1000 --subscribers 100`. The API
//! server and the control plane are children of this process, the subscribers run in it: each is a source of the
//! library with a snapshot of its own. It reports and judges nothing.

#[path = "../../../mesh-discovery/tests/kubernetes/api_server.rs"]
#[expect(dead_code, reason = "tests use other parts of it")]
mod api_server;
mod cluster;
mod plane;
mod subscribers;

use std::time::Duration;

use clap::Parser;
use hdrhistogram::Histogram;
use tokio::time::Instant;

use api_server::ApiServer;
use cluster::Cluster;
use plane::Plane;
use subscribers::Subscribers;

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How long subscribers may take to have what they follow.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value_t = 1_000)]
    services: usize,
    /// Endpoints of each Service.
    #[arg(long, default_value_t = 10)]
    endpoints: usize,
    #[arg(long, default_value_t = 100)]
    subscribers: usize,
    /// Services that each of them follows.
    #[arg(long, default_value_t = 20)]
    each: usize,
    /// Changes in a second, one after the other.
    #[arg(long, value_delimiter = ',', default_value = "1,100")]
    rates: Vec<u32>,
    /// How long each rate lasts, in seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// `cargo bench` says it.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Fallible<()> {
    let arguments = Arguments::parse();
    let Some(server) = ApiServer::start() else {
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(run(&arguments, &server))
}

async fn run(of: &Arguments, server: &ApiServer) -> Fallible<()> {
    let cluster = Cluster::new(&server.kubeconfig("admin"), of.services).await?;
    let begun = Instant::now();
    cluster.fill(of.endpoints).await?;
    println!(
        "{} Services of {} endpoints, made in {:.1} s",
        of.services,
        of.endpoints,
        begun.elapsed().as_secs_f64()
    );
    let mut plane = Plane::start(&server.kubeconfig("admin")).await?;
    println!(
        "control plane: ready after {:?}, {}",
        plane.took,
        plane.usage()?
    );

    let before = plane.usage()?;
    let mut subscribers = Subscribers::new(&plane, of.subscribers)?;
    let begun = Instant::now();
    subscribers.begin(&plane, of.services, of.each);
    subscribers.synced(of.each, PATIENCE).await?;
    let took = begun.elapsed();
    let after = plane.settled().await?;
    println!(
        "{} subscribers of {} Services each: all have them after {:?}; {after}; {:.1} ms of CPU each; {}",
        of.subscribers,
        of.each,
        took,
        (after.cpu - before.cpu).as_secs_f64() * 1e3 / to_f64(of.subscribers),
        plane.counts().await?,
    );
    let first = plane.counts().await?.bytes;
    for rate in &of.rates {
        changes(of, *rate, &cluster, &plane, &mut subscribers).await?;
    }
    let before = plane.usage()?;
    let begun = Instant::now();
    plane.restart().await?;
    let ready = begun.elapsed();
    plane.converged(of.subscribers, PATIENCE).await?;
    let counts = plane.counts().await?;
    println!(
        "restart: ready after {ready:?}, all subscribers have converged after {:?}; {} (before {before}); {} bytes, {:.2} % of the first connect's",
        begun.elapsed(),
        plane.usage()?,
        counts.bytes,
        to_f64(counts.bytes) * 100.0 / to_f64(first),
    );
    Ok(())
}

/// Changes slices at a rate and reports how long each took to a bare watch and to the subscribers.
async fn changes(
    of: &Arguments,
    rate: u32,
    cluster: &Cluster,
    plane: &Plane,
    subscribers: &mut Subscribers,
) -> Fallible<()> {
    let watch = cluster.watch().await?;
    subscribers.forget();
    let before = plane.usage()?;
    let patched = cluster.patch(rate, of.seconds * rate).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = plane.usage()?;
    let (mut bare, mut had) = (histogram()?, histogram()?);
    let heard = watch.heard();
    let mut missing = 0;
    for (change, at) in &patched {
        if let Some(heard) = heard.get(change) {
            bare.record(micros(heard.saturating_duration_since(*at)))?;
        }
        let arrived = subscribers.arrived(change);
        missing += subscribers
            .follow(change.service)
            .saturating_sub(arrived.len());
        for arrived in arrived {
            had.record(micros(arrived.saturating_duration_since(*at)))?;
        }
    }
    println!(
        "{rate}/s, {} changes: bare watch {}; subscribers {} ({} arrivals, {missing} merged into later ones); p50 x{:.2}, p99 x{:.2}; {:.2} ms of CPU a change",
        patched.len(),
        shown(&bare),
        shown(&had),
        had.len(),
        ratio(&had, &bare, 0.5),
        ratio(&had, &bare, 0.99),
        (after.cpu - before.cpu).as_secs_f64() * 1e3 / to_f64(patched.len()),
    );
    Ok(())
}

fn histogram() -> Fallible<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 600_000_000, 3)?)
}

fn micros(of: Duration) -> u64 {
    u64::try_from(of.as_micros()).unwrap_or(u64::MAX).max(1)
}

fn ratio(of: &Histogram<u64>, to: &Histogram<u64>, quantile: f64) -> f64 {
    to_f64(of.value_at_quantile(quantile)) / to_f64(to.value_at_quantile(quantile).max(1))
}

fn shown(of: &Histogram<u64>) -> String {
    let at = |q| to_f64(of.value_at_quantile(q)) / 1e3;
    format!(
        "p50 {:.1} p99 {:.1} max {:.1} ms",
        at(0.5),
        at(0.99),
        at(1.0)
    )
}

/// A count as a share is made of it.
fn to_f64(count: impl TryInto<u64>) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    let float = count.try_into().unwrap_or(u64::MAX) as f64;
    float
}
