//! `mesh cert show`: what a PEM file says, and what a peer would refuse of it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context;
use clap::{Args, Subcommand};
use inmesh_pki::Crypto;
use inmesh_pki::clock::{Clock, SystemClock};
use inmesh_pki::svid::describe::{CertificateInfo, Description, describe};

use super::status::left_of;
use crate::seconds::seconds;
use crate::term;

/// Look at certificates.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  mesh cert show cert.pem
  mesh cert show cert.pem --bundle bundle.pem")]
pub(crate) enum Cert {
    /// Show what a PEM file holds, and what a peer would refuse of it; never a key.
    Show(Show),
}

/// Exits 0 if nothing would be refused, 1 if something would.
///
/// Certificates, chains, bundles, revocation lists and files with a private key beside them are read in
/// every form that the mesh reads.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh cert show cert.pem
  mesh cert show cert.pem --bundle bundle.pem   # is it trusted under this bundle?
  cat cert.pem key.pem | mesh cert show -       # does the key belong to it?
  mesh cert show bundle.pem --json")]
pub(crate) struct Show {
    /// The PEM file; `-` is the standard input.
    file: PathBuf,
    /// Verify the chain under the roots in this PEM file, as a peer would.
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Cert {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self::Show(show) = self;
        show.run()
    }
}

impl Show {
    fn run(self) -> anyhow::Result<ExitCode> {
        let pem = if self.file.as_os_str() == "-" {
            read_input().context("reading the standard input")?
        } else {
            let read = std::fs::read(&self.file);
            read.with_context(|| format!("reading {}", self.file.display()))?
        };
        // It may hold a key.
        let pem = zeroize::Zeroizing::new(pem);
        let bundle = self.bundle.as_ref().map(|path| {
            let read = std::fs::read(path);
            read.with_context(|| format!("reading {}", path.display()))
        });
        let bundle = bundle.transpose()?;
        let now = SystemClock.now();
        let described = describe(&pem, bundle.as_deref(), now, &Crypto::aws_lc_rs());
        let described = described.with_context(|| self.file.display().to_string())?;
        if self.json {
            term::print(&serde_json::to_string_pretty(&described)?);
        } else {
            term::print(&page(&described, now));
        }
        Ok(if described.refused.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn read_input() -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    /// More than a file of certificates has.
    const MOST: u64 = 16 * 1024 * 1024;
    let mut text = Vec::new();
    std::io::stdin().lock().take(MOST).read_to_end(&mut text)?;
    Ok(text)
}

fn page(described: &Description, now: SystemTime) -> String {
    let mut out = Vec::new();
    for (nth, certificate) in described.certificates.iter().enumerate() {
        out.push(format!("certificate {}: {}", nth + 1, certificate.kind));
        out.extend(lines(certificate, now));
    }
    for (nth, list) in described.revocation_lists.iter().enumerate() {
        out.push(format!("revocation list {}", nth + 1));
        out.push(line("issuer", &list.issuer));
        out.push(line(
            "number",
            &format!("{} ({} certificates)", list.number, list.entries),
        ));
        out.push(line("stale in", &left(list.next_update, now)));
    }
    if described.private_key {
        out.push("a private key, which is not shown".to_owned());
    }
    if described.refused.is_empty() {
        out.push("nothing is refused".to_owned());
    }
    let refused = described.refused.iter();
    out.extend(refused.map(|why| format!("REFUSED: {why}")));
    out.join("\n")
}

fn lines(certificate: &CertificateInfo, now: SystemTime) -> Vec<String> {
    let mut out = Vec::new();
    let ca = certificate.kind != "leaf";
    let id = certificate.spiffe_id.as_deref();
    out.extend(id.map(|id| line(if ca { "trust domain" } else { "SPIFFE ID" }, id)));
    if !certificate.subject.is_empty() {
        out.push(line("subject", &certificate.subject));
    }
    out.push(line("issuer", &certificate.issuer));
    out.push(line("serial", &certificate.serial));
    let validity = match now.duration_since(certificate.not_before) {
        Err(early) => format!("begins in {}", left_of(Some(early.duration().as_secs()))),
        Ok(_) => match left(certificate.not_after, now).as_str() {
            "expired" => "expired".to_owned(),
            left => format!("ends in {left}"),
        },
    };
    let from_to = certificate.validity();
    out.push(line("valid", &format!("{from_to} ({validity})")));
    out.push(line("key", &certificate.key));
    let ids = [
        ("key id", &certificate.key_id),
        ("issuer's key id", &certificate.issuer_key_id),
    ];
    for (name, key_id) in ids {
        out.extend(key_id.as_deref().map(|key_id| line(name, key_id)));
    }
    if !certificate.names.is_empty() {
        out.push(line("names", &certificate.names.join(", ")));
    }
    out
}

fn line(name: &str, value: &str) -> String {
    format!("  {name:<16}{value}")
}

fn left(at: SystemTime, now: SystemTime) -> String {
    left_of(seconds(at).checked_sub(seconds(now)))
}
