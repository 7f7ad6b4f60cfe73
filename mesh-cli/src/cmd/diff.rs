//! `mesh diff`: what a change of documents would do to requests.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use inmesh_discovery::testing::{Changed, Diff, Requests, World, diff};
use inmesh_pki::TrustDomain;
use serde_json::{Value, json};

use crate::term::{self, Colour};
use crate::world;

/// The most differences that are printed, unless JSON is asked for.
const SHOWN: usize = 200;

/// Decides requests by two folders of documents, and says what differs.
///
/// The requests are those of a file (an access log of an agent, or cases of `mesh test`); without one, those
/// that the documents themselves speak of: each port of each Service, asked by each identity that is named
/// and by one that is not, with the paths, methods and header fields of routes and policies. NEW is what
/// an agent has that runs with OLD, once it is edited: the last good version of what is refused serves on.
/// Exits 0 if no verdict differs, 1 if one does (a request is sent, answered or refused otherwise) or a document
/// is refused that was not, 2 if something cannot be read.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh diff deployed proposed
  mesh diff deployed proposed --requests access.log
  mesh diff deployed proposed --requests cases.yaml --json")]
pub(crate) struct DiffFolders {
    /// The folder as it is.
    old: PathBuf,
    /// The folder as it would be.
    new: PathBuf,
    /// The requests: an access log, or a file of cases.
    #[arg(long, value_name = "FILE")]
    requests: Option<PathBuf>,
    /// The trust domain of the folder's workload, where its agent's file does not say it.
    #[arg(long, value_name = "TRUST-DOMAIN")]
    trust_domain: Option<TrustDomain>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl DiffFolders {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.diff() {
            Ok(diff) if diff.passes() => Ok(ExitCode::SUCCESS),
            Ok(_) => Ok(ExitCode::from(1)),
            Err(error) => {
                term::error(&error);
                Ok(ExitCode::from(2))
            }
        }
    }

    fn diff(&self) -> anyhow::Result<Diff> {
        let own = self.trust_domain.as_ref();
        let (old, new) = (
            world::read(&self.old, own)?,
            world::read_edit(&self.old, &self.new, own)?,
        );
        for problem in new.problems() {
            term::warn(&problem.to_string());
        }
        let requests = self.requests(&old, &new)?;
        let diff = diff(&old, &new, &requests);
        if self.json {
            term::print(&serde_json::to_string_pretty(&shown(
                &diff,
                requests.skipped,
            ))?);
        } else {
            print(&diff, requests.skipped);
        }
        Ok(diff)
    }

    fn requests(&self, old: &World, new: &World) -> anyhow::Result<Requests> {
        let Some(file) = &self.requests else {
            return Ok(Requests::of_documents(&[old, new]));
        };
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {name}"))?;
        let own = old.identity().or_else(|| new.identity());
        let own = own
            .as_ref()
            .map(inmesh_core::pki::id::SpiffeId::trust_domain);
        let requests = Requests::parse(&name, &text, own).map_err(anyhow::Error::msg)?;
        if let (1.., Err(why)) = (requests.anonymous, old.trust_domain()) {
            let lines = requests.anonymous;
            term::warn(&format!(
                "the callers of {lines} outbound lines are not known, and policies see callers without an \
                 identity: {why}; say --trust-domain"
            ));
        }
        if requests.each().next().is_none() {
            bail!("{name} holds no request");
        }
        Ok(requests)
    }
}

fn routes(change: &Changed) -> Vec<&str> {
    change.routes.iter().map(String::as_str).collect()
}

fn callers(change: &Changed) -> Vec<&str> {
    vec![change.from.as_deref().unwrap_or("without an identity")]
}

fn print(diff: &Diff, skipped: u64) {
    for refused in &diff.refused {
        term::print(&format!(
            "{}  {refused}",
            term::paint(Colour::Red, "REFUSED")
        ));
    }
    for change in diff.changes.iter().take(SHOWN) {
        let mark = match change.verdict {
            true => term::paint(Colour::Red, "VERDICT"),
            false => "differs".into(),
        };
        term::print(&format!("{mark}  {change}"));
    }
    if let Some(more) = diff
        .changes
        .len()
        .checked_sub(SHOWN)
        .filter(|more| *more > 0)
    {
        term::print(&format!("... and {more} more, which --json prints"));
    }
    let row = |(name, (all, verdicts)): (&str, (u64, u64))| {
        vec![name.to_owned(), all.to_string(), verdicts.to_string()]
    };
    for (by, counts) in [
        ("ROUTE", diff.count(routes)),
        ("CALLER", diff.count(callers)),
    ] {
        if !counts.is_empty() {
            let rows = counts.into_iter().map(row);
            term::print(&format!(
                "\n{}",
                term::table(&[by, "DIFFER", "VERDICTS"], rows)
            ));
        }
    }
    let differ: u64 = diff.changes.iter().map(|change| change.count).sum();
    let verdicts = diff.changes.iter().filter(|change| change.verdict);
    let verdicts: u64 = verdicts.map(|change| change.count).sum();
    let skipped = match skipped {
        0 => String::new(),
        lines => format!("; {lines} lines without a request"),
    };
    let refused = match diff.refused.len() {
        0 => String::new(),
        documents => format!("; {documents} refused of the new documents"),
    };
    let requests = diff.requests;
    term::print(&format!(
        "{requests} requests, {differ} differ, {verdicts} of them in their verdict{skipped}{refused}"
    ));
}

fn shown(diff: &Diff, skipped: u64) -> Value {
    let changes = diff.changes.iter().map(|change| {
        let aspects = change.aspects.iter();
        let aspects = aspects
            .map(|(name, before, after)| json!({ "what": name, "before": before, "after": after }));
        json!({
            "request": change.request,
            "from": change.from,
            "count": change.count,
            "verdict": change.verdict,
            "routes": change.routes,
            "differs": aspects.collect::<Vec<_>>(),
        })
    });
    let refused = diff.refused.iter().map(|refused| {
        json!({
            "object": refused.object,
            "last_good": refused.last_good,
            "problem": refused.problem,
        })
    });
    let counts = |by: std::collections::BTreeMap<&str, (u64, u64)>| -> Value {
        let each = by.into_iter().map(|(name, (all, verdicts))| {
            (
                name.to_owned(),
                json!({ "differ": all, "verdicts": verdicts }),
            )
        });
        Value::Object(each.collect())
    };
    json!({
        "requests": diff.requests,
        "skipped": skipped,
        "verdicts_change": diff.changes_verdicts(),
        "refused": refused.collect::<Vec<_>>(),
        "changes": changes.collect::<Vec<_>>(),
        "by_route": counts(diff.count(routes)),
        "by_caller": counts(diff.count(callers)),
    })
}
