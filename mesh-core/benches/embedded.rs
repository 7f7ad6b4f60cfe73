//! What the embedded mesh costs on top of bare hyper and rustls, for the same request.
//!
//! Blocks of the two alternate, and each round gives one ratio of the CPU time of the whole process
//! (both sides of the connection are in it); printed are the median and the quartiles of those
//! ratios, so that a busy neighbour disturbs both alike.
//!
//! `--only bare|mesh|log` runs one of them for some seconds, for a profiler.

#[path = "../../mesh-pki/benches/support/clock.rs"]
mod clock;
#[path = "support/echo.rs"]
mod echo;

use std::time::Duration;

use clock::cpu_time;
use echo::{Bare, Meshed};
use inmesh_core::testing::World;
use tokio::task::JoinSet;

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const ROUNDS: usize = 300;
const WARM_UP: usize = 20;
const BLOCK: usize = 200;

/// A client that can send the request.
trait Sender: Send + 'static {
    fn send(&mut self) -> impl Future<Output = Fallible<()>> + Send;
}

impl Sender for Bare {
    fn send(&mut self) -> impl Future<Output = Fallible<()>> + Send {
        self.send()
    }
}

impl Sender for Meshed {
    fn send(&mut self) -> impl Future<Output = Fallible<()>> + Send {
        self.send()
    }
}

/// Sends a block of requests, as many at once as there are senders; says what each cost.
async fn block<S: Sender>(senders: &mut Vec<S>) -> Fallible<Duration> {
    let each = BLOCK / senders.len();
    let before = cpu_time();
    let mut running = JoinSet::new();
    for mut sender in senders.drain(..) {
        running.spawn(async move {
            for _ in 0..each {
                sender.send().await?;
            }
            Fallible::Ok(sender)
        });
    }
    while let Some(sender) = running.join_next().await {
        senders.push(sender??);
    }
    Ok((cpu_time() - before) / u32::try_from(BLOCK)?)
}

/// Quartiles of a list that is not empty.
fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|n| values[(values.len() - 1) * n / 4])
}

async fn compare(world: &World, at_once: usize) -> Fallible<()> {
    let mut bare = Bare::connect(world, at_once).await?;
    let mut mesh = vec![Meshed::connect(world, false).await?; at_once];
    let mut log = vec![Meshed::connect(world, true).await?; at_once];
    let (mut costs, mut mesh_ratios, mut log_ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..WARM_UP + ROUNDS {
        let cost = block(&mut bare).await?.as_secs_f64();
        let with_mesh = block(&mut mesh).await?.as_secs_f64();
        let with_log = block(&mut log).await?.as_secs_f64();
        if round >= WARM_UP {
            costs.push(cost * 1e6);
            mesh_ratios.push(with_mesh / cost);
            log_ratios.push(with_log / cost);
        }
    }
    let [_, cost, _] = quartiles(costs);
    println!("{at_once:>2} at once: bare costs {cost:.1} us of CPU a request, both sides");
    for (name, ratios) in [("all layers", mesh_ratios), ("and access log", log_ratios)] {
        let [low, median, high] = quartiles(ratios);
        println!("   {name:<14} {median:.3} x bare   (quartiles {low:.3} to {high:.3})");
    }
    Ok(())
}

/// One of them alone.
async fn only(world: &World, name: &str) -> Fallible<()> {
    async fn run<S: Sender>(mut senders: Vec<S>) -> Fallible<()> {
        for _ in 0..ROUNDS * 4 {
            block(&mut senders).await?;
        }
        Ok(())
    }
    match name {
        "bare" => run(Bare::connect(world, 8).await?).await,
        "mesh" => run(vec![Meshed::connect(world, false).await?; 8]).await,
        "log" => run(vec![Meshed::connect(world, true).await?; 8]).await,
        _ => Err("--only bare|mesh|log".into()),
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Fallible<()> {
    let world = World::new()?;
    let arguments: Vec<_> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|a| a == "--only") {
        return only(&world, arguments.get(at + 1).map_or("", |a| a)).await;
    }
    for at_once in [1, 8] {
        compare(&world, at_once).await?;
    }
    Ok(())
}
