//! `mesh drain`: has a running agent go down in order.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use http::Method;
use tokio::time::{Instant, sleep};

use super::status::At;
use crate::agent::duration;
use crate::{fetch, term};

/// How often is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(200);

/// The same as a SIGTERM: readiness goes off, requests are served for `drainLead`, connections are
/// asked to close, what runs has `drainDeadline`, and the process ends with 0.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh drain
  mesh drain --wait 1m        # returns once the agent has ended")]
pub(crate) struct Drain {
    #[command(flatten)]
    at: At,
    /// Wait until the agent has ended, for this long at most, e.g. 1m.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
}

impl Drain {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        super::runtime(None)?.block_on(async {
            // A second request would cut what is still served.
            let ready = fetch::admin(Method::GET, &self.at.admin, "/readyz").await;
            let draining = ready.is_err_and(|error| format!("{error:#}").contains("draining"));
            if !draining {
                fetch::admin(Method::POST, &self.at.admin, "/drain").await?;
            }
            let Some(limit) = self.wait else {
                term::print("draining");
                return Ok(ExitCode::SUCCESS);
            };
            let end = Instant::now() + limit;
            while fetch::admin(Method::GET, &self.at.admin, "/livez")
                .await
                .is_ok()
            {
                if Instant::now() >= end {
                    bail!("it has not ended within {} s", limit.as_secs());
                }
                sleep(LOOK).await;
            }
            term::print("drained");
            Ok(ExitCode::SUCCESS)
        })
    }
}
