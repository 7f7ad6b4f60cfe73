//! The commands, one a file.

mod apply;
mod beside;
mod ca;
mod capabilities;
mod capture;
mod cert;
mod check_kernel;
mod completions;
mod config;
mod control;
mod crds;
mod demo;
mod diff;
mod drain;
mod explain;
mod inject;
mod install;
mod log;
mod man;
mod proxy;
mod simulate;
mod status;
mod test;
mod uninstall;
mod validate;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;

use crate::agent::{self, Agent, Found};
use crate::term;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Give a document to a share of the members first, and to all if requests fare well by it.
    Apply(apply::Apply),
    /// Make, run and operate certificate authorities.
    #[command(subcommand)]
    Ca(ca::Ca),
    /// Say what becomes of each field of each kind of document.
    Capabilities(capabilities::Capabilities),
    Capture(capture::Capture),
    #[command(subcommand)]
    Cert(cert::Cert),
    /// Print a completion script for a shell.
    Completions(completions::Completions),
    /// Show all settings of an agent, with their defaults.
    Config(config::Config),
    /// Run the control plane: hand on what a cluster and a folder say, to agents and libraries.
    Control(control::Control),
    /// Print the CustomResourceDefinitions of our own kinds.
    Crds(crds::Crds),
    /// Show the mesh at work: a whole small one, on this machine, for under a minute.
    Demo(demo::Demo),
    /// Say what a change of documents would do to requests.
    Diff(diff::DiffFolders),
    /// Have a running agent go down in order.
    Drain(drain::Drain),
    /// Say what would become of a request, and why.
    Explain(explain::Explain),
    /// Put the mesh beside the Pods of documents.
    Inject(inject::Inject),
    /// Print what a cluster needs to have a mesh, or a Helm chart of it.
    Install(install::Install),
    /// Say what this kernel offers to the datapath that is to come.
    Kernel(check_kernel::Kernel),
    /// Set what a running agent logs.
    Log(log::Log),
    /// Write the manual pages of all commands.
    Man(man::Man),
    /// Run the agent with a folder of documents.
    Proxy(proxy::Proxy),
    /// Stop what is staged of an object, or put back what it said before its last promotion.
    Rollback(apply::Rollback),
    /// Put documents under simulated load while endpoints fail, slow, come and go.
    Simulate(simulate::Simulate),
    /// Show what a running agent knows and how it is.
    Status(status::Status),
    /// Run cases of requests against documents, without a socket.
    Test(test::Test),
    /// Take a mesh out of its cluster.
    Uninstall(uninstall::Uninstall),
    /// Check a folder of documents without running anything.
    Validate(validate::Validate),
}

impl Command {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Apply(apply) => apply.run(),
            Self::Ca(ca) => ca.run(),
            Self::Capabilities(capabilities) => capabilities.run(),
            Self::Capture(capture) => capture.run(),
            Self::Cert(cert) => cert.run(),
            Self::Completions(completions) => completions.run(),
            Self::Config(config) => config.run(),
            Self::Control(control) => control.run(),
            Self::Crds(crds) => crds.run(),
            Self::Demo(demo) => demo.run(),
            Self::Diff(diff) => diff.run(),
            Self::Drain(drain) => drain.run(),
            Self::Explain(explain) => explain.run(),
            Self::Inject(inject) => inject.run(),
            Self::Install(install) => install.run(),
            Self::Kernel(kernel) => kernel.run(),
            Self::Log(log) => log.run(),
            Self::Man(man) => man.run(),
            Self::Proxy(proxy) => proxy.run(),
            Self::Rollback(rollback) => rollback.run(),
            Self::Simulate(simulate) => simulate.run(),
            Self::Status(status) => status.run(),
            Self::Test(test) => test.run(),
            Self::Uninstall(uninstall) => uninstall.run(),
            Self::Validate(validate) => validate.run(),
        }
    }
}

/// The folder that a command was given, under its name or in the place where it once stood.
///
/// Every command names the folder that it works on `--dir`, and the one that it writes to `--out`.
fn folder(named: Option<PathBuf>, once: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    // The reader of the command line asks for one of them.
    named.or(once).context("no folder is given")
}

/// The agent that a folder describes; what keeps it from being read is printed, with its place.
fn agent_of(dir: &Path) -> anyhow::Result<Agent> {
    let (problems, why) = match agent::find(dir)? {
        Found::Agent(agent) => return Ok(*agent),
        Found::Refused(problems) => (problems, "the agent's file is refused".to_owned()),
        Found::None(unread) => {
            let (dir, kind, version) = (dir.display(), agent::KIND, agent::API_VERSION);
            let why = format!(
                "{dir} holds no document of kind {kind} ({version}); see `mesh-cli/docs/agent.md`"
            );
            (unread, why)
        }
    };
    for problem in problems {
        term::warn(&problem.to_string());
    }
    bail!(why)
}

/// A tokio runtime for one command, with a thread for each core or as many as are said.
fn runtime(threads: Option<std::num::NonZeroUsize>) -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = match threads.map(std::num::NonZeroUsize::get) {
        // A scheduler that shares tasks between threads has nothing to share with one.
        Some(1) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if let Some(threads) = threads {
        builder.worker_threads(threads.get());
    }
    Ok(builder.enable_all().build()?)
}
