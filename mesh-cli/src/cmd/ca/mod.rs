//! `mesh ca`: certificate authorities. `init` and `issue` are one for a laptop, without a process;
//! `serve` is the CA of a mesh, and the other commands are its operator's.
//!
//! Keys lie in a folder, readable by its owner only; a process that can read them can take any ID in the
//! trust domain.

mod metrics;
mod operate;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use inmesh_pki::Crypto;
use inmesh_pki::clock::SystemClock;
use inmesh_pki::id::{SpiffeId, TrustDomain};
use inmesh_pki::issue::dev::DevCa;

use crate::agent::duration;
use crate::term;

#[derive(Debug, Subcommand)]
pub(crate) enum Ca {
    /// Take a compromised key out of the bundle at once.
    Distrust(operate::Distrust),
    /// Make a CA for a laptop in a folder: ca.pem and ca.key.
    Init(Init),
    /// Issue from a laptop's CA: cert.pem, key.pem and bundle.pem in a folder, replaced in one step.
    Issue(Issue),
    /// List the members, and those that a rotation waits for.
    Members(operate::Members),
    /// Bring workloads back whose certificates have expired.
    Recover(operate::Recover),
    /// Refuse one certificate, or all of an ID, from now on.
    Revoke(operate::Revoke),
    /// Start a rotation to a new root, or take its next step.
    Rotate(operate::Rotate),
    /// Run the CA of a mesh.
    Serve(Box<serve::Serve>),
    /// Show the stage of a rotation, and the members that are missing.
    Status(operate::CaStatus),
    /// Make join tokens.
    #[command(subcommand)]
    Token(operate::Token),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh ca init --dir ca --trust-domain laptop.local")]
pub(crate) struct Init {
    /// The folder; made if needed, and never overwritten.
    #[arg(long, value_name = "DIR", required_unless_present = "once")]
    dir: Option<PathBuf>,
    /// The folder, as it was given before.
    #[arg(value_name = "DIR", hide = true, conflicts_with = "dir")]
    once: Option<PathBuf>,
    /// The trust domain: the first part of every identity.
    #[arg(long, default_value = "cluster.local")]
    trust_domain: TrustDomain,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh ca issue spiffe://laptop.local/ns/shop/sa/cart --dir ca --out cart
  mesh ca issue spiffe://laptop.local/ns/shop/sa/cart --dir ca --out cart --lifetime 8h")]
pub(crate) struct Issue {
    /// The SPIFFE ID, e.g. spiffe://cluster.local/ns/shop/sa/cart.
    id: SpiffeId,
    /// The CA's folder.
    #[arg(long, value_name = "DIR", alias = "ca")]
    dir: PathBuf,
    /// The folder for the files.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How long the certificate is valid.
    #[arg(long, default_value = "24h", value_parser = duration)]
    lifetime: Duration,
}

impl Ca {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock::shared());
        match self {
            Self::Distrust(distrust) => return distrust.run(),
            Self::Members(members) => return members.run(),
            Self::Recover(recover) => return recover.run(),
            Self::Revoke(revoke) => return revoke.run(),
            Self::Rotate(rotate) => return rotate.run(),
            Self::Serve(serve) => return serve.run(),
            Self::Status(status) => return status.run(),
            Self::Token(token) => return token.run(),
            Self::Init(Init {
                dir,
                once,
                trust_domain,
            }) => {
                let dir = super::folder(dir, once)?;
                let ca = DevCa::init(&dir, trust_domain, &crypto, clock)
                    .with_context(|| format!("making a CA in {}", dir.display()))?;
                term::print(&format!(
                    "made a CA for the trust domain {} in {}",
                    ca.trust_domain(),
                    dir.display()
                ));
                term::warn(
                    "this CA is for development: a process that reads its key can take any ID",
                );
            }
            Self::Issue(Issue {
                id,
                dir,
                out,
                lifetime,
            }) => {
                let ca = DevCa::open_with(&dir, lifetime, &crypto, clock)
                    .with_context(|| format!("opening the CA in {}", dir.display()))?;
                let svid = ca
                    .issue_files(&id, &out)
                    .with_context(|| format!("issuing {id} into {}", out.display()))?;
                term::print(&format!(
                    "issued {} (serial {}) into {}",
                    svid.id(),
                    svid.serial(),
                    out.display()
                ));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
