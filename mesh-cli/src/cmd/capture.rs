//! `mesh capture`: a Pod's connections are redirected to its sidecar.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use inmesh_ebpf::redirect::{self, Network, Options, Redirect};

use crate::term;

/// Have the kernel redirect a Pod's connections to its agent.
///
/// In the network namespace that it runs in: as an init container it needs the capability NET_ADMIN, which
/// the agent then does not. The rules last as long as the Pod; to apply them again replaces them. Exits 0
/// once they are in force, 1 if not, 2 if it is called wrongly.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh capture
  mesh capture --dry-run --exclude-outbound-cidrs 10.0.0.0/16,169.254.169.254
  mesh capture --user 2000 --exclude-inbound-ports 15010,15021
  mesh capture --remove")]
pub(crate) struct Capture {
    /// Port of the listener for what applications open, at 127.0.0.1 and ::1.
    #[arg(long, value_name = "PORT", default_value_t = Options::default().outbound)]
    outbound_port: u16,
    /// Port of the listener for what arrives from outside, at all addresses.
    #[arg(long, value_name = "PORT", default_value_t = Options::default().inbound)]
    inbound_port: u16,
    /// User ID of the agent, whose connections are not redirected.
    #[arg(long, value_name = "UID", default_value_t = Options::default().user)]
    user: u32,
    /// Ports of the Pod that are reached as they are, such as those of probes.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    exclude_inbound_ports: Vec<u16>,
    /// Ports that applications reach as they are.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    exclude_outbound_ports: Vec<u16>,
    /// Networks that applications reach as they are.
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    exclude_outbound_cidrs: Vec<Network>,
    /// Take the redirection away; that there is none is no error.
    #[arg(long, conflicts_with = "dry_run")]
    remove: bool,
    /// Print the rules as nft reads them, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Capture {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if self.remove {
            redirect::remove().context("cannot remove the redirection")?;
            term::print("connections are not redirected");
            return Ok(ExitCode::SUCCESS);
        }
        let dry = self.dry_run;
        let redirect = match Redirect::new(self.options()) {
            Ok(redirect) => redirect,
            Err(invalid) => {
                term::error(&invalid.into());
                return Ok(ExitCode::from(2));
            }
        };
        if dry {
            term::print(redirect.to_string().trim_end());
            return Ok(ExitCode::SUCCESS);
        }
        redirect::apply(&redirect).context("no connection is redirected")?;
        let Options {
            outbound,
            inbound,
            user,
            ..
        } = redirect.options();
        term::print(&format!(
            "connections are redirected: outbound to port {outbound}, inbound to port {inbound}, but for \
             those of user {user}"
        ));
        Ok(ExitCode::SUCCESS)
    }

    fn options(self) -> Options {
        let mut options = Options::default();
        options.outbound = self.outbound_port;
        options.inbound = self.inbound_port;
        options.user = self.user;
        options.exclude_inbound_ports = self.exclude_inbound_ports;
        options.exclude_outbound_ports = self.exclude_outbound_ports;
        options.exclude_outbound = self.exclude_outbound_cidrs;
        options
    }
}
