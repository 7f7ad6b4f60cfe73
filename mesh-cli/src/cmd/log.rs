//! `mesh log`: sets the filter of a running agent's log.

use std::process::ExitCode;

use clap::Args;

use super::status::At;
use crate::{fetch, term};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh log debug
  mesh log inmesh_core=trace,info --admin 127.0.0.1:15010
  mesh log info               # as it was, unless the agent was started with another one")]
pub(crate) struct Log {
    #[command(flatten)]
    at: At,
    /// What is logged from now on, as in RUST_LOG.
    filter: String,
}

impl Log {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("level", &self.filter)
            .finish();
        let path = format!("/log?{query}");
        let asking = fetch::admin(http::Method::POST, &self.at.admin, &path);
        let said = super::runtime(None)?.block_on(asking)?;
        term::print(said.trim_end());
        Ok(ExitCode::SUCCESS)
    }
}
