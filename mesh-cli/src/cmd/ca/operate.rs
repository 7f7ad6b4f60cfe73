//! What an operator asks of a running CA, through the socket in its folder.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand, ValueEnum};
use inmesh_pki::ca::admin::AdminClient;
use inmesh_pki::ca::state::Step;
use inmesh_pki::clock::{Clock, SystemClock};
use inmesh_pki::disk;
use inmesh_pki::id::SpiffeId;
use inmesh_pki::issue::policy::LONGEST_WINDOW;
use serde_json::{Value, json};

use super::serve::read_secret;
use crate::agent::duration;
use crate::cmd::status::{left_of, span};
use crate::seconds::seconds;
use crate::term;

/// Where the CA runs.
#[derive(Debug, Args)]
struct At {
    /// The CA's folder.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh ca status --dir /var/lib/mesh-ca
  mesh ca status --dir /var/lib/mesh-ca --json")]
pub(crate) struct CaStatus {
    #[command(flatten)]
    at: At,
}

/// A member holds a leaf that was issued to it; it drops out when its last leaf ends.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh ca members --dir /var/lib/mesh-ca
  mesh ca members --dir /var/lib/mesh-ca --json")]
pub(crate) struct Members {
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh ca rotate --dir /var/lib/mesh-ca                   # the next step, once the members are ready
  mesh ca rotate --dir /var/lib/mesh-ca --step activate
  mesh ca rotate --dir /var/lib/mesh-ca --root root.pem   # a root that stays offline")]
pub(crate) struct Rotate {
    #[command(flatten)]
    at: At,
    /// The step, if it is to be this one and no other.
    #[arg(long)]
    step: Option<StepName>,
    /// Do not wait for members: a missing one fails handshakes until it renews.
    #[arg(long)]
    force: bool,
    /// The new root, as PEM with its key, or with an issuing CA and that one's key where the root
    /// stays offline; without it, one is made.
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StepName {
    Prepare,
    Activate,
    Retire,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh ca distrust --dir /var/lib/mesh-ca 0f1e2d3c4b5a")]
pub(crate) struct Distrust {
    #[command(flatten)]
    at: At,
    /// The key id of a root or of an issuing CA, as `mesh ca status` shows it.
    key_id: String,
    /// What takes its place, as for `mesh ca rotate`.
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh ca revoke --dir /var/lib/mesh-ca 5d8f00a1
  mesh ca revoke --dir /var/lib/mesh-ca --id spiffe://prod.example/ns/shop/sa/cart")]
pub(crate) struct Revoke {
    #[command(flatten)]
    at: At,
    /// The serial number in hexadecimal.
    #[arg(required_unless_present = "id", conflicts_with = "id")]
    serial: Option<String>,
    /// All certificates of this ID that were issued until now, and its open join tokens.
    #[arg(long, value_name = "SPIFFE-ID")]
    id: Option<SpiffeId>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh ca recover --dir /var/lib/mesh-ca --id spiffe://prod.example/ns/shop/sa/cart
  mesh ca recover --dir /var/lib/mesh-ca --window 1h --expired 24h
  mesh ca recover --dir /var/lib/mesh-ca --window 0s      # closes it")]
pub(crate) struct Recover {
    #[command(flatten)]
    at: At,
    /// An ID that gets a join token; may be repeated.
    #[arg(long, value_name = "SPIFFE-ID")]
    id: Vec<SpiffeId>,
    /// How long the tokens serve, 720h at most.
    #[arg(long, default_value = "1h", value_parser = bounded)]
    lifetime: Duration,
    /// For how long certificates that have expired may be renewed, 720h at most; 0s closes the window.
    #[arg(long, value_parser = bounded)]
    window: Option<Duration>,
    /// Only those that expired at most this long ago, 720h at most.
    #[arg(long, default_value = "24h", value_parser = bounded, requires = "window")]
    expired: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a join token, which gives one ID once.
    Create(Create),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  mesh ca token create --dir /var/lib/mesh-ca --id spiffe://prod.example/ns/shop/sa/cart
  mesh ca token create --dir /var/lib/mesh-ca --id spiffe://prod.example/ns/shop/sa/cart --out token")]
pub(crate) struct Create {
    #[command(flatten)]
    at: At,
    /// The ID.
    #[arg(long, value_name = "SPIFFE-ID")]
    id: SpiffeId,
    /// How long it serves, 720h at most.
    #[arg(long, default_value = "1h", value_parser = bounded)]
    lifetime: Duration,
    /// Write it to this file, which only its owner may read, instead of printing it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// A duration within the bound that a CA has for tokens and for its recovery window.
fn bounded(text: &str) -> Result<Duration, String> {
    let asked = duration(text)?;
    if asked > LONGEST_WINDOW {
        return Err("720h (30 days) at most".to_owned());
    }
    Ok(asked)
}

impl At {
    fn ask<T>(
        &self,
        ask: impl AsyncFnOnce(&AdminClient) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        crate::cmd::runtime(None)?.block_on(async {
            let client = AdminClient::connect(&self.dir).await?;
            ask(&client).await
        })
    }

    /// Prints for a program or for a person.
    fn say(&self, json: &Value, text: &str) {
        if self.json {
            term::print(&json.to_string());
        } else {
            term::print(text);
        }
    }
}

impl CaStatus {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let text = self.at.ask(async |ca| Ok(ca.status().await?))?;
        let status: Value = serde_json::from_str(&text)?;
        let now = SystemClock.now();
        self.at.say(&status, &page(&status, now));
        Ok(ExitCode::SUCCESS)
    }
}

impl Members {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let text = self.at.ask(async |ca| Ok(ca.members().await?))?;
        let members: Value = serde_json::from_str(&text)?;
        let now = SystemClock.now();
        self.at.say(&members, &listing(&members, now));
        Ok(ExitCode::SUCCESS)
    }
}

impl Rotate {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let root = self.root.as_deref().map(read_secret).transpose()?;
        let step = self.step.map(|step| match step {
            StepName::Prepare => Step::Prepare,
            StepName::Activate => Step::Activate,
            StepName::Retire => Step::Retire,
        });
        let (force, at) = (self.force, &self.at);
        let taken = at.ask(async |ca| Ok(ca.rotate(step, force, root).await?))?;
        let what = match taken.as_str() {
            "prepare" => "a new root is in the bundle; it is used once every member has it",
            "activate" => "new certificates are signed under the new root",
            _ => "the old root is out of the bundle",
        };
        at.say(&json!({"step": taken}), what);
        Ok(ExitCode::SUCCESS)
    }
}

impl Distrust {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let root = self.root.as_deref().map(read_secret).transpose()?;
        let key_id = &self.key_id;
        self.at
            .ask(async |ca| Ok(ca.distrust(key_id, root).await?))?;
        let text = format!("{key_id} is distrusted, and out of the bundle");
        self.at.say(&json!({"distrusted": key_id}), &text);
        Ok(ExitCode::SUCCESS)
    }
}

impl Revoke {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if let Some(id) = &self.id {
            self.at.ask(async |ca| Ok(ca.revoke_id(id).await?))?;
            let text = format!("all certificates of {id} are revoked, and its join tokens");
            self.at.say(&json!({"revokedId": id.as_str()}), &text);
        }
        if let Some(serial) = &self.serial {
            self.at.ask(async |ca| Ok(ca.revoke(serial).await?))?;
            let text = format!("the certificate {serial} is revoked; others of its ID are not");
            self.at.say(&json!({"revoked": serial}), &text);
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Recover {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if self.id.is_empty() && self.window.is_none() {
            anyhow::bail!(
                "say what to do: --id for a join token, --window for certificates that have expired"
            );
        }
        let (lifetime, window, expired) = (self.lifetime, self.window, self.expired);
        let tokens = self.at.ask(async |ca| {
            if let Some(window) = window {
                ca.recover(window, expired).await?;
            }
            let mut tokens = Vec::new();
            for id in &self.id {
                let token = ca.create_token(id, lifetime).await?;
                tokens.push((id.to_string(), token.to_string()));
            }
            Ok(tokens)
        })?;
        let mut lines = Vec::new();
        if let Some(window) = window {
            lines.push(if window.is_zero() {
                "the recovery window is closed".to_owned()
            } else {
                format!("the recovery window is open for {} s", window.as_secs())
            });
        }
        lines.extend(tokens.iter().map(|(id, token)| format!("{id} {token}")));
        let window = window.map(|window| window.as_secs());
        let json = json!({"windowSeconds": window, "tokens": listed(&tokens)});
        self.at.say(&json, &lines.join("\n"));
        Ok(ExitCode::SUCCESS)
    }
}

impl Token {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self::Create(Create {
            at,
            id,
            lifetime,
            out,
        }) = self;
        let token = at.ask(async |ca| Ok(ca.create_token(&id, lifetime).await?))?;
        let Some(path) = out else {
            at.say(&json!({"id": id.as_str(), "token": token.as_str()}), &token);
            return Ok(ExitCode::SUCCESS);
        };
        disk::write_secret(&path, token.as_bytes())?;
        let file = path.display().to_string();
        let text = format!("a join token for {id} is in {file}");
        at.say(&json!({"id": id.as_str(), "file": file}), &text);
        Ok(ExitCode::SUCCESS)
    }
}

fn listed(tokens: &[(String, String)]) -> Vec<Value> {
    tokens
        .iter()
        .map(|(id, token)| json!({"id": id, "token": token}))
        .collect()
}

/// The members, those that a rotation waits for first.
fn listing(members: &Value, now: SystemTime) -> String {
    let now = seconds(now);
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let all = members["members"].as_array().cloned().unwrap_or_default();
    let rows = all.iter().map(|member| {
        let renewed = member["renewed"].as_u64().map(|at| now.saturating_sub(at));
        let until = member["until"].as_u64();
        let waits = match member["holdsOff"].as_bool() {
            Some(true) => "holds off the rotation",
            _ => "",
        };
        vec![
            text(&member["id"]),
            text(&member["name"]),
            renewed.map_or_else(|| "-".to_owned(), |age| format!("{} ago", span(age))),
            left_of(until.unwrap_or_default().checked_sub(now)),
            member["generation"].to_string(),
            waits.to_owned(),
        ]
    });
    let head = [
        "MEMBER",
        "NAME",
        "RENEWED",
        "LEAF ENDS",
        "HAS GENERATION",
        "",
    ];
    let mut out = vec![format!("{} members", all.len()), term::table(&head, rows)];
    if let Some(more @ 1..) = members["more"].as_u64() {
        out.push(format!("and {more} more"));
    }
    out.join("\n")
}

fn page(status: &Value, now: SystemTime) -> String {
    let now = seconds(now);
    let left = |at: &Value| match at.as_u64() {
        None => "-".to_owned(),
        Some(at) => left_of(at.checked_sub(now)),
    };
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut out = vec![format!(
        "the CA of {}; bundle generation {}, {} members known, {} join tokens open",
        text(&status["trustDomain"]),
        status["generation"],
        status["members"],
        status["openTokens"],
    )];
    let each = |list: &Value| list.as_array().cloned().unwrap_or_default();
    let rows = each(&status["authorities"]).into_iter().map(|a| {
        vec![
            text(&a["keyId"]),
            text(&a["issuerKeyId"]),
            text(&a["stage"]),
            text(&a["rootKey"]),
            left(&a["rootNotAfter"]),
            left(&a["issuerNotAfter"]),
            left(&a["leafUntil"]),
        ]
    });
    out.push(String::new());
    out.push(term::table(
        &[
            "ROOT",
            "ISSUING CA",
            "STAGE",
            "ROOT'S KEY",
            "ROOT ENDS",
            "CA ENDS",
            "LEAVES UNTIL",
        ],
        rows,
    ));
    if let Some(next) = status["next"].as_str() {
        out.push(String::new());
        let wait = &status["waitsFor"];
        if wait.is_null() {
            out.push(format!("a rotation is running; next: {next}"));
        } else {
            let unknown = match wait["unknown"].as_bool() {
                Some(true) => ", and for leaves of an earlier process",
                _ => "",
            };
            out.push(format!(
                "a rotation is running; {next} waits {} at most{unknown}",
                left(&wait["until"])
            ));
            let rows = each(&wait["members"]).into_iter().map(|m| {
                vec![
                    text(&m["id"]),
                    text(&m["name"]),
                    m["acknowledged"].to_string(),
                    left(&m["until"]),
                ]
            });
            out.push(term::table(
                &["MISSING", "NAME", "HAS GENERATION", "LEAF ENDS"],
                rows,
            ));
        }
    }
    if !status["recovery"].is_null() {
        out.push(format!(
            "the recovery window is open for {}",
            left(&status["recovery"]["until"])
        ));
    }
    out.join("\n")
}
