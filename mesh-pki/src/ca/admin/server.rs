//! The socket of a CA's folder: commands in, answers out.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{Command, MAX_BODY, SOCKET};
use crate::ca::members::MemberStatus;
use crate::ca::plan::Wait;
use crate::ca::state::Step;
use crate::ca::store::Store;
use crate::ca::{Ca, CaError, NewAuthority};
use crate::clock::Span;
use crate::error::chain_of;
use crate::issue::policy::{LONGEST_WINDOW, Window};
use crate::serve;
use crate::time::utc;

/// How many missing members a refusal names.
const NAMED: usize = 10;

/// How many operators are served at once.
const MAX_CONNECTIONS: usize = 16;

/// How long the body of a command may take to arrive.
const BODY: Duration = Duration::from_secs(20);

/// The longest that a token may last.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The socket of a CA's folder, listening.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

/// The status and the message of a refusal.
struct CommandError(StatusCode, String);

impl AdminSocket {
    /// Listens in `dir`, the folder of a CA that this process has open: a socket that is there
    /// already was left by a process that has ended.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn bind(dir: &Path) -> io::Result<Self> {
        use std::os::unix::fs::PermissionsExt;

        let path = dir.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Serves the operator of `ca` until `shutdown` is ready.
    pub async fn serve<S: Store>(self, ca: Arc<Ca<S>>, shutdown: impl Future<Output = ()>) {
        let serve = |stream, _| {
            let ca = Arc::clone(&ca);
            Some(async move {
                serve::http1(stream, false, |request| answer(&ca, request)).await;
            })
        };
        let (listener, server) = (&self.listener, "admin socket of the CA");
        serve::accept(listener, server, MAX_CONNECTIONS, serve, shutdown).await;
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // The next start replaces one that stays.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer<S: Store>(ca: &Ca<S>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let answered = match read(request).await {
        Ok(command) => carry_out(ca, command).await,
        Err(refusal) => Err(refusal),
    };
    let (status, body) = match answered {
        Ok(body) => (StatusCode::OK, body),
        Err(CommandError(status, error)) => (status, json!({ "error": error })),
    };
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Reads a command, in bounded size and time. It may hold a key, so no error quotes it.
async fn read(request: Request<Incoming>) -> Result<Command, CommandError> {
    if (request.method(), request.uri().path()) != (&Method::POST, "/") {
        let reason = "a command is the body of POST /".to_owned();
        return Err(CommandError(StatusCode::NOT_FOUND, reason));
    }
    let body = timeout(BODY, Limited::new(request.into_body(), MAX_BODY).collect()).await;
    let body = body
        .map_err(|_| invalid("the command takes too long"))?
        .map_err(|_| invalid("the command cannot be read whole"))?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| {
        let column = error.column();
        invalid(format!("no command that is known (column {column})"))
    })
}

async fn carry_out<S: Store>(ca: &Ca<S>, command: Command) -> Result<Value, CommandError> {
    let now = ca.clock().now();
    match command {
        Command::CreateToken {
            id,
            lifetime_seconds,
        } => {
            let lifetime = within("a token lasts", lifetime_seconds, LONGEST)?;
            if lifetime.is_zero() {
                return Err(invalid("a token lasts a second at least"));
            }
            let token = ca.open_token(&id, now + lifetime).await?;
            return Ok(json!({ "token": *token }));
        }
        Command::Distrust { key_id, successor } => {
            let successor = self::successor(ca, successor).await?;
            ca.distrust(&key_id, successor).await?;
        }
        Command::Recover {
            window_seconds,
            expired_seconds,
        } => {
            let open = within("a window is open for", window_seconds, LONGEST_WINDOW)?;
            let expired = within("a window reaches back", expired_seconds, LONGEST_WINDOW)?;
            let window = (!open.is_zero()).then(|| Window::new(now, open, expired));
            ca.recover(window).await?;
            match window {
                Some(Window {
                    until,
                    expired_since,
                }) => {
                    let (until, since) = (utc(until), utc(expired_since));
                    tracing::warn!(until, expired_since = since, "the recovery window is open");
                }
                None => tracing::warn!("the recovery window is closed"),
            }
        }
        Command::Revoke { serial } => ca.revoke(&serial).await?,
        Command::RevokeId { id } => ca.revoke_id(&id).await?,
        Command::Rotate {
            step,
            force,
            successor,
        } => {
            let successor = self::successor(ca, successor).await?;
            let step = rotate(ca, step, force, successor).await?;
            return Ok(json!({ "step": step }));
        }
        Command::Members => return Ok(members(ca.members().await)),
        Command::Status => {
            let status = serde_json::to_value(ca.status().await);
            return status.map_err(|error| invalid(error.to_string()));
        }
    }
    Ok(json!({}))
}

/// As many members as fit into an answer, and how many more there are.
fn members(all: Vec<MemberStatus>) -> Value {
    let (count, mut bytes) = (all.len(), 0);
    let fits = |row: &Value| {
        bytes += row.to_string().len() + 1;
        bytes < MAX_BODY - 1_024
    };
    let rows = all.iter().filter_map(|row| serde_json::to_value(row).ok());
    let rows: Vec<_> = rows.take_while(fits).collect();
    json!({ "more": count - rows.len(), "members": rows })
}

/// A rotation begins where none is running, or with a new root; else its next step is taken.
async fn rotate<S: Store>(
    ca: &Ca<S>,
    step: Option<Step>,
    force: bool,
    successor: Option<NewAuthority>,
) -> Result<Step, CommandError> {
    let begins = ca.status().await.next.is_none() || successor.is_some();
    match step {
        Some(Step::Activate | Step::Retire) if successor.is_some() => {
            Err(invalid("a new root belongs to prepare"))
        }
        None if !begins => Ok(ca.advance(None, force).await?),
        Some(step @ (Step::Activate | Step::Retire)) => Ok(ca.advance(Some(step), force).await?),
        None | Some(Step::Prepare) => {
            ca.prepare(successor).await?;
            Ok(Step::Prepare)
        }
    }
}

/// What an operator asks for is done or refused, never cut.
fn within(what: &str, seconds: u64, most: Duration) -> Result<Duration, CommandError> {
    let asked = Duration::from_secs(seconds);
    if asked > most {
        let (asked, most) = (Span(asked), Span(most));
        return Err(invalid(format!("{what} {most} at most, not {asked}")));
    }
    Ok(asked)
}

fn invalid(reason: impl Into<String>) -> CommandError {
    CommandError(StatusCode::BAD_REQUEST, reason.into())
}

async fn successor<S: Store>(
    ca: &Ca<S>,
    pem: Option<String>,
) -> Result<Option<NewAuthority>, CommandError> {
    let Some(pem) = pem.map(Zeroizing::new) else {
        return Ok(None);
    };
    let trust_domain = ca.status().await.trust_domain;
    let (lifetimes, now) = (ca.lifetimes(), ca.clock().now());
    NewAuthority::from_pem(&trust_domain, pem.as_bytes(), lifetimes, now, ca.crypto())
        .map(Some)
        .map_err(|error| invalid(chain_of(&error)))
}

/// The operator may see everything but keys, which no error holds.
impl From<CaError> for CommandError {
    fn from(error: CaError) -> Self {
        let reason = match &error {
            CaError::NotYet(wait) => waits(wait),
            error => chain_of(error),
        };
        Self(StatusCode::CONFLICT, reason)
    }
}

fn waits(wait: &Wait) -> String {
    let mut text = format!("{} waits until {} at most", wait.step, utc(wait.until));
    for (n, missing) in wait.missing.iter().enumerate() {
        if n == NAMED {
            text.push_str(&format!(", and {} more", wait.missing.len() - NAMED));
            break;
        }
        let before = if n == 0 { " for" } else { "," };
        text.push_str(&format!("{before} {} ({})", missing.id, missing.name));
    }
    if wait.unknown {
        text.push_str("; leaves of an earlier process may be alive");
    }
    text
}
