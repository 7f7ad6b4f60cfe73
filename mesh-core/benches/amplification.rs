//! How much load a failure becomes in a chain of four hops, under virtual time: by the defaults with and
//! without the signal to the hop above, and the most of many chains that are drawn.
//!
//! `cargo bench -p inmesh-core --bench amplification -- --chains 100000`; it ends with 1 if a chain goes
//! beyond its budgets.

#[path = "support/chain.rs"]
mod chain;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use chain::{Chain, HOPS, Seen};
use inmesh_core::model::Draw;

/// Requests in a second.
const RATE: u32 = 1_000;
/// How long a drawn chain fails, in seconds: longer than the interval of its budgets.
const SECONDS: u32 = 2;
const CHAINS: u64 = 100_000;

/// What was seen of all chains that were drawn.
#[derive(Default)]
struct Worst {
    chains: u64,
    beyond: u64,
    repeated: u64,
    /// The most attempts at the last service for what came in, and beside what its budget allows.
    in_all: f64,
    beside: f64,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let asked = arguments.iter().position(|a| a == "--chains");
    let asked = asked.and_then(|at| arguments.get(at + 1)?.parse().ok());
    let chains = asked.unwrap_or(CHAINS);
    println!("the defaults, all requests fail, {RATE} a second for 30 s: attempts beside requests");
    println!("                     hop 1   hop 2   hop 3   hop 4   in all");
    for (name, signal) in [("with the signal", true), ("without", false)] {
        let seen = chain::run(&Chain::by_default(signal, RATE, 30, 1));
        let hops: Vec<_> = (0..HOPS)
            .map(|hop| ratio(seen.attempts[hop], seen.requests[hop]))
            .collect();
        let all = ratio(seen.attempts[HOPS - 1], seen.requests[0]);
        let [one, two, three, four] = hops[..] else {
            return ExitCode::FAILURE;
        };
        println!("{name:<18} {one:>7.3} {two:>7.3} {three:>7.3} {four:>7.3} {all:>8.3}");
    }
    let worst = drawn(chains);
    println!(
        "{} chains drawn, {RATE} a second for {SECONDS} s each: {} of them repeat; at most {:.3} in all, and \
         {:.3} of what the budget allows; {} go beyond",
        worst.chains, worst.repeated, worst.in_all, worst.beside, worst.beyond
    );
    match worst.beyond {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

#[expect(clippy::cast_precision_loss, reason = "some thousands")]
fn ratio(part: u64, of: u64) -> f64 {
    part as f64 / of.max(1) as f64
}

/// Runs chains on all processors; each is of its number alone.
fn drawn(chains: u64) -> Worst {
    let (next, worst) = (AtomicU64::new(0), Mutex::new(Worst::default()));
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= chains {
                        return;
                    }
                    let chain = Chain::drawn(&mut Draw::new(number), RATE, SECONDS);
                    let seen = chain::run(&chain);
                    let mut worst = worst.lock().unwrap_or_else(|e| e.into_inner());
                    worst.note(number, &chain, &seen);
                }
            });
        }
    });
    worst.into_inner().unwrap_or_else(|e| e.into_inner())
}

impl Worst {
    fn note(&mut self, number: u64, chain: &Chain, seen: &Seen) {
        let (all, requests) = (seen.attempts[HOPS - 1], seen.requests[0]);
        let most = chain.most_in_all(seen);
        self.chains += 1;
        self.repeated += u64::from(all > requests);
        self.in_all = self.in_all.max(ratio(all, requests));
        self.beside = self.beside.max(ratio(all, most));
        if !chain.is_within(seen) {
            self.beyond += 1;
            println!("chain {number} goes beyond: {chain:?}: {seen:?}");
        }
    }
}
