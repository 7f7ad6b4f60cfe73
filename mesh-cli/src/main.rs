//! `mesh`: the reference agent and its tools.
//!
//! Thin: flags and files become a configuration, the configuration a `Mesh::builder()`, its end an
//! exit code. Only here is what is global: the log's subscriber, signals, the environment, exit.
#![forbid(unsafe_code)]

mod agent;
mod beside;
mod cmd;
mod descriptors;
mod federation;
mod fetch;
mod log;
mod log_file;
mod otlp;
mod seconds;
mod signals;
mod term;
mod webhook;
mod workload_api;
mod world;

use std::process::ExitCode;

use clap::Parser;

/// A request allocates and frees across threads, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A service mesh without sidecars: the agent, its CA for laptops, and its tools.
#[derive(Debug, Parser)]
#[command(
    name = "mesh",
    version,
    about,
    propagate_version = true,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: cmd::Command,
}

fn main() -> ExitCode {
    no_core_file();
    let cli = Cli::parse();
    match cli.command.run() {
        Ok(code) => code,
        Err(error) => {
            term::error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Keys lie in the memory of most commands: no core file of theirs is written, and no other process of
/// this user reads it (PR_SET_DUMPABLE).
fn no_core_file() {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        term::error(&anyhow::anyhow!("a core file may hold keys: {error}"));
    }
}
