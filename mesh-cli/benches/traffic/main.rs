//! Agent and Envoy before the same 12 backends, which refuse, are slow, have too much to do or restart:
//! success, latency and amplification of 1,000 requests a second.
//!
//! `run.sh` fetches Envoy and starts this; `cargo bench -p inmesh-cli --bench traffic -- --envoy BIN` does
//! with another. Load and backends run in this process, the proxies are its children. Rounds alternate
//! between scenarios, and within a scenario between the ways. It reports and judges nothing: times are on
//! the wall, and a busy machine moves all of them.

mod backend;
mod envoy;
mod load;
mod mesh;
mod proxy;
mod scenario;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use backend::Backend;
use clap::Parser;
use load::Doors;
use proxy::{Kind, Programs, Proxy};
use scenario::{BACKENDS, CAPACITY, Event, RATE, Scenario};
use table::{Line, Seen, Way, goodput};
use tokio::time::sleep;

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What is sent before anything counts.
const WARM_UP: Duration = Duration::from_secs(1);
/// From the word that an endpoint drains to its stop; how long it is away, and what then passes.
const LEAD: Duration = Duration::from_millis(500);
const AWAY: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(300);

#[derive(Parser)]
struct Arguments {
    /// The binary of Envoy.
    #[arg(long)]
    envoy: PathBuf,
    /// The agent; the one that was built with this.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_mesh"))]
    mesh: PathBuf,
    /// How long each load lasts; a restart takes its own time.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Scenarios whose names begin so.
    #[arg(long, default_value = "")]
    only: String,
    /// JSON in place of the table.
    #[arg(long)]
    json: bool,
    /// `cargo bench` says it.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Fallible<()> {
    // `cargo test --benches` only asks whether it starts.
    if std::env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    let arguments = Arguments::parse();
    let home = tempfile::tempdir()?;
    let programs = Programs {
        mesh: arguments.mesh,
        envoy: arguments.envoy,
        home: home.path().to_owned(),
    };
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let head = format!(
        "mesh {}, Envoy {}; rounds: {}; load average before: {}",
        programs.version(Kind::Mesh)?,
        programs.version(Kind::Envoy)?,
        arguments.rounds,
        load.split_whitespace().next().unwrap_or_default(),
    );
    programs.authority()?;
    let scenarios = scenario::all().into_iter();
    let scenarios = scenarios.filter(|one| one.name.starts_with(&arguments.only));
    let mut lines: Vec<_> = scenarios.flat_map(Line::of).collect();
    let lasts = Duration::from_secs(arguments.seconds.into());
    for round in 0..arguments.rounds {
        let mut order: Vec<_> = lines.iter_mut().filter(|line| !line.lacks).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for line in order {
            eprintln!(
                "round {}: {}, {}",
                round + 1,
                line.scenario.name,
                line.way.name()
            );
            let seen = measure(&programs, &line.scenario, line.way, lasts).await?;
            line.rounds.push(seen);
        }
    }
    match arguments.json {
        true => println!("{:#}", table::json(&head, &lines)),
        false => println!("{head}\n\n{}", table::markdown(&lines)),
    }
    Ok(())
}

/// One way through one scenario.
async fn measure(
    programs: &Programs,
    scenario: &Scenario,
    way: Way,
    lasts: Duration,
) -> Fallible<Seen> {
    let backends = (0..BACKENDS).map(|nth| Backend::new(scenario, nth));
    let mut backends = backends.collect::<Fallible<Vec<_>>>()?;
    let addresses: Vec<_> = backends.iter().map(|one| one.address).collect();
    let proxy = match way {
        Way::Directly => None,
        Way::Through(kind) => Some(Proxy::start(programs, kind, scenario, &addresses).await?),
    };
    let doors = match &proxy {
        Some(proxy) => Doors::new([proxy.door]),
        None => Doors::new(addresses),
    };
    let mut peak = None;
    if scenario.event == Event::Overload {
        peak = Some(goodput(&doors.load(CAPACITY, lasts).await?, lasts));
    } else {
        doors.load(RATE, WARM_UP).await?;
    }
    let before = attempts(scenario, &backends)?;
    let samples = match scenario.event {
        Event::Overload => doors.load(CAPACITY * 3, lasts).await?,
        Event::Refuse | Event::Slow => doors.load(RATE, lasts).await?,
        Event::Restart { announced } => {
            let lead = if announced { LEAD } else { Duration::ZERO };
            let each = lead + AWAY + PAUSE;
            // The stops take some milliseconds, within the second more.
            let lasts = each * u32::try_from(BACKENDS)? + Duration::from_secs(1);
            let proxy = proxy.as_ref().filter(|_| announced);
            let restarts = restart(&mut backends, proxy, lead);
            let (samples, restarted) = tokio::join!(doors.load(RATE, lasts), restarts);
            restarted?;
            samples?
        }
    };
    let mut seen = Seen::new(&samples, attempts(scenario, &backends)? - before);
    seen.goodput = peak.map(|peak| [peak, goodput(&samples, lasts)]);
    Ok(seen)
}

/// Restarts all backends, one after the other.
async fn restart(
    backends: &mut [Backend],
    announce: Option<&Proxy>,
    lead: Duration,
) -> Fallible<()> {
    for (nth, backend) in backends.iter_mut().enumerate() {
        if let Some(proxy) = announce {
            proxy.announce(Some(nth))?;
        }
        sleep(lead).await;
        backend.stop().await?;
        sleep(AWAY).await;
        backend.start()?;
        if let Some(proxy) = announce {
            proxy.announce(None)?;
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Requests that backends have got, and where they refuse connections, those: the kernel counts them, on
/// the whole machine.
fn attempts(scenario: &Scenario, backends: &[Backend]) -> Fallible<u64> {
    let begun = backends.iter().map(Backend::begun).sum();
    if matches!(scenario.event, Event::Overload | Event::Slow) {
        return Ok(begun);
    }
    let counters = std::fs::read_to_string("/proc/net/snmp")?;
    let mut tcp = counters.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (
        tcp.next().ok_or("no names")?,
        tcp.next().ok_or("no values")?,
    );
    let mut both = names.split(' ').zip(values.split(' '));
    let refused = both.find(|(name, _)| *name == "AttemptFails");
    let refused: u64 = refused.ok_or("no AttemptFails")?.1.parse()?;
    Ok(refused + begun)
}
