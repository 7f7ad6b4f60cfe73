//! `mesh ca`: a certificate authority for a laptop. Its key lies in a folder, readable by its
//! owner only; whoever can read it can be anybody in the trust domain.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use inmesh_pki::clock::SystemClock;
use inmesh_pki::id::{SpiffeId, TrustDomain};
use inmesh_pki::issue::dev::DevCa;
use inmesh_pki::tls::Crypto;

use crate::agent::duration;
use crate::term;

#[derive(Debug, Subcommand)]
pub(crate) enum Ca {
    /// Make a new CA in a folder: ca.pem and ca.key.
    Init(Init),
    /// Issue a certificate: cert.pem, key.pem and bundle.pem in a folder, replaced in one step.
    Issue(Issue),
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The folder; made if needed, and never overwritten.
    dir: PathBuf,
    /// The trust domain: the first part of every identity.
    #[arg(long, default_value = "cluster.local")]
    trust_domain: TrustDomain,
}

#[derive(Debug, Args)]
pub(crate) struct Issue {
    /// The SPIFFE ID, e.g. spiffe://cluster.local/ns/shop/sa/cart.
    id: SpiffeId,
    /// The CA's folder.
    #[arg(long)]
    ca: PathBuf,
    /// The folder for the files.
    #[arg(long)]
    out: PathBuf,
    /// How long the certificate is valid.
    #[arg(long, default_value = "24h", value_parser = duration)]
    lifetime: Duration,
}

impl Ca {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock::shared());
        match self {
            Self::Init(Init { dir, trust_domain }) => {
                let ca = DevCa::init(&dir, trust_domain, &crypto, clock)
                    .with_context(|| format!("making a CA in {}", dir.display()))?;
                term::print(&format!(
                    "made a CA for the trust domain {} in {}",
                    ca.trust_domain(),
                    dir.display()
                ));
                term::warn("this CA is for development: whoever reads its key can be anybody");
            }
            Self::Issue(Issue {
                id,
                ca,
                out,
                lifetime,
            }) => {
                let ca = DevCa::open_with(&ca, lifetime, &crypto, clock)
                    .with_context(|| format!("opening the CA in {}", ca.display()))?;
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
