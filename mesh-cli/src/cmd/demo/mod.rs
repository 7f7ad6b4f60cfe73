//! `mesh demo`: a whole small mesh on this machine, over real sockets and the real runtime.

mod apps;
mod docs;
mod load;
mod outcome;
mod scenes;
mod screen;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, timeout};

use crate::{log, term};
use load::Load;
use outcome::Outcome;
use scenes::Run;
use screen::{Screen, Show};
use world::{World, rotations};

/// The longest that the scenes may take.
const LIMIT: Duration = Duration::from_secs(55);

/// Exits 0 if every scene did what it says and cost no more than it said, 1 if not.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh demo
  mesh demo --keep            # and curl it yourself
  mesh demo --json")]
pub(crate) struct Demo {
    /// Leave the mesh running after the scenes, for your own requests, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Print only the summary, as JSON.
    #[arg(long)]
    json: bool,
}

/// What happened in all.
#[derive(Debug, Serialize)]
struct Summary {
    ok: bool,
    seconds: f64,
    requests: u64,
    /// Failures that scenes announced, and those that none did.
    failures: u64,
    unintended_failures: u64,
    p50_ms: f64,
    p99_ms: f64,
    /// Leaf certificates replaced while the load ran.
    rotations: u64,
    scenes: Vec<Outcome>,
}

impl Demo {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        // On a screen the log would tear it.
        log::init("error", log::Format::Text)?;
        crate::cmd::runtime(None)?.block_on(self.play())
    }

    async fn play(self) -> anyhow::Result<ExitCode> {
        let show = Show::choose(self.json);
        let started = Instant::now();
        let mut world = World::build().await?;
        if show == Show::Lines {
            let took = started.elapsed().as_millis();
            term::print(&format!(
                "a mesh of {} workloads is up after {took} ms",
                world.meshes.len()
            ));
        }
        let load = Load::new()?;
        let mut workers = load.start(&world.load.client());
        let mut screen = Screen::new(show);
        let mut run = Run {
            world: &mut world,
            load: &load,
            screen: &mut screen,
            outcomes: Vec::new(),
        };
        let played = timeout(LIMIT, run.play()).await;
        let mut scenes = run.outcomes;
        screen.close();
        match played {
            Ok(played) => played?,
            Err(_) => scenes.push(Outcome {
                scene: "the end".to_owned(),
                ok: false,
                may_cost: 0,
                cost: 0,
                seen: format!("the scenes took longer than {} s", LIMIT.as_secs()),
            }),
        }
        scenes.push(rotation(&world, started));
        let summary = Summary::new(&load, &world, scenes, started);
        if self.json {
            term::print(&serde_json::to_string_pretty(&summary)?);
        } else {
            summary.print();
        }
        if self.keep {
            term::print(&format!(
                "\nthe mesh runs on; try: curl -i http://{}/ (with -H 'x-group: beta'); Ctrl-C ends it",
                world.door
            ));
            load.stop();
            tokio::signal::ctrl_c().await?;
        }
        load.stop();
        while workers.join_next().await.is_some() {}
        world.end().await;
        Ok(if summary.ok {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// The scene that runs all the while.
fn rotation(world: &World, started: Instant) -> Outcome {
    let counts: Vec<_> = world
        .meshes
        .iter()
        .map(|(_, mesh)| rotations(mesh))
        .collect();
    let least = counts.iter().copied().min().unwrap_or_default();
    let life = docs::LEAF.as_secs();
    // Renewed at half life, give or take; counted on the safe side.
    let expected = started.elapsed().as_secs() * 100 / (55 * life);
    Outcome {
        scene: format!("leaf certificates of {life} s rotate all the while"),
        ok: least >= expected.saturating_sub(1).max(1),
        may_cost: 0,
        cost: 0,
        seen: format!("each workload renewed at least {least} times"),
    }
}

// === impl Summary ===

impl Summary {
    fn new(load: &Load, world: &World, scenes: Vec<Outcome>, started: Instant) -> Self {
        let total = load.total();
        let announced: u64 = scenes.iter().map(|s| s.cost.min(s.may_cost)).sum();
        let unintended = total.failures.saturating_sub(announced);
        let ms = |quantile| total.quantile(quantile).as_secs_f64() * 1_000.0;
        Self {
            ok: unintended == 0 && total.requests > 0 && scenes.iter().all(|s| s.ok),
            seconds: started.elapsed().as_secs_f64(),
            requests: total.requests,
            failures: total.failures,
            unintended_failures: unintended,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            rotations: world.meshes.iter().map(|(_, mesh)| rotations(mesh)).sum(),
            scenes,
        }
    }

    fn print(&self) {
        let rows = self.scenes.iter().map(|s| {
            let result = if s.ok { "ok" } else { "FAILED" };
            let cost = format!("{} of {}", s.cost, s.may_cost);
            vec![result.to_owned(), s.scene.clone(), cost, s.seen.clone()]
        });
        term::print("");
        term::print(&term::table(&["", "SCENE", "COST", "SEEN"], rows));
        term::print(&format!(
            "\n{} requests, {} failures ({} unintended), p50 {:.1} ms, p99 {:.1} ms, {} rotations, {:.0} s: {}",
            self.requests,
            self.failures,
            self.unintended_failures,
            self.p50_ms,
            self.p99_ms,
            self.rotations,
            self.seconds,
            if self.ok {
                "all as announced"
            } else {
                "NOT as announced"
            },
        ));
    }
}
