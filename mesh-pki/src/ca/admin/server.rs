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
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixListener;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::page::page;
use super::{
    CreateToken, Created, Distrust, Done, MAX_BODY, Recover, Refused, Revoke, Rotate, Rotated,
    SOCKET,
};
use crate::ca::plan::Wait;
use crate::ca::state::Step;
use crate::ca::store::Store;
use crate::ca::{Ca, CaError, NewAuthority};
use crate::error::chain_of;
use crate::id::{IdError, SpiffeId};
use crate::issue::policy::Window;
use crate::serve;
use crate::time::utc;

/// How many missing members a refusal names.
const NAMED: usize = 10;

/// How many operators are served at once.
const MAX_CONNECTIONS: usize = 16;

/// How long the body of a command may take to arrive.
const BODY: Duration = Duration::from_secs(20);

/// The longest that a token or a recovery window may last.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The socket of a CA's folder, listening.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

/// Why a command was not carried out.
enum Refusal {
    /// The request itself is wrong: 400.
    Invalid(String),
    /// The CA is not in a state for it, or failed: 409.
    NotNow(String),
    /// There is no such command: 404.
    Unknown,
}

type Answered<T> = Result<T, Refusal>;

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
    let answered = match (request.method(), request.uri().path()) {
        (&Method::GET, "/status") => Ok(json(StatusCode::OK, &page(&ca.status().await))),
        (&Method::POST, "/rotate") => command(request, |asked| rotate(ca, asked)).await,
        (&Method::POST, "/distrust") => command(request, |asked| distrust(ca, asked)).await,
        (&Method::POST, "/revoke") => command(request, |asked| revoke(ca, asked)).await,
        (&Method::POST, "/recover") => command(request, |asked| recover(ca, asked)).await,
        (&Method::POST, "/token") => command(request, |asked| create_token(ca, asked)).await,
        _ => Err(Refusal::Unknown),
    };
    answered.unwrap_or_else(|refusal| {
        let (status, error) = match refusal {
            Refusal::Invalid(error) => (StatusCode::BAD_REQUEST, error),
            Refusal::NotNow(error) => (StatusCode::CONFLICT, error),
            Refusal::Unknown => (StatusCode::NOT_FOUND, "no such command".to_owned()),
        };
        json(status, &Refused { error })
    })
}

/// Reads a command's body, in bounded size and time, and carries the command out.
async fn command<C: DeserializeOwned, A: Serialize>(
    request: Request<Incoming>,
    carry_out: impl AsyncFnOnce(C) -> Answered<A>,
) -> Answered<Response<Full<Bytes>>> {
    let invalid = |what: String| Refusal::Invalid(format!("the request cannot be read: {what}"));
    let body = Limited::new(request.into_body(), MAX_BODY).collect();
    let body = timeout(BODY, body)
        .await
        .map_err(|_| invalid("it takes too long".to_owned()))?
        .map_err(|error| invalid(error.to_string()))?;
    // The command may hold a key, so the error does not quote it.
    let asked = serde_json::from_slice(&body.to_bytes())
        .map_err(|error| invalid(format!("no such command at column {}", error.column())))?;
    Ok(json(StatusCode::OK, &carry_out(asked).await?))
}

fn json(status: StatusCode, answer: &impl Serialize) -> Response<Full<Bytes>> {
    // Strings and numbers only, which JSON always has a form for.
    let body = serde_json::to_vec(answer).unwrap_or_default();
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

async fn rotate<S: Store>(ca: &Ca<S>, asked: Rotate) -> Answered<Rotated> {
    let step = match asked.step.as_deref() {
        None => None,
        Some("prepare") => Some(Step::Prepare),
        Some("activate") => Some(Step::Activate),
        Some("retire") => Some(Step::Retire),
        Some(_) => return Err(Refusal::Invalid("no such step".to_owned())),
    };
    let successor = successor(ca, asked.successor).await?;
    let running = ca.status().await.next.is_some();
    let step = match step {
        Some(Step::Prepare) => Step::Prepare,
        None if !running || successor.is_some() => Step::Prepare,
        step => {
            if successor.is_some() {
                let reason = "a new root belongs to prepare".to_owned();
                return Err(Refusal::Invalid(reason));
            }
            ca.advance(step, asked.force).await?
        }
    };
    if step == Step::Prepare {
        ca.prepare(successor).await?;
    }
    let step = step.to_string();
    Ok(Rotated { step })
}

async fn distrust<S: Store>(ca: &Ca<S>, asked: Distrust) -> Answered<Done> {
    let successor = successor(ca, asked.successor).await?;
    ca.distrust(&asked.key_id, successor).await?;
    Ok(Done {})
}

async fn revoke<S: Store>(ca: &Ca<S>, asked: Revoke) -> Answered<Done> {
    ca.revoke(&asked.serial).await?;
    Ok(Done {})
}

async fn recover<S: Store>(ca: &Ca<S>, asked: Recover) -> Answered<Done> {
    let (now, seconds) = (ca.clock().now(), Duration::from_secs);
    let window = (asked.window_seconds > 0).then(|| Window {
        until: now + seconds(asked.window_seconds).min(LONGEST),
        expired_since: now
            .checked_sub(seconds(asked.expired_seconds).min(LONGEST))
            .unwrap_or(now),
    });
    ca.recover(window).await?;
    tracing::warn!(?window, "the recovery window is set");
    Ok(Done {})
}

async fn create_token<S: Store>(ca: &Ca<S>, asked: CreateToken) -> Answered<Created> {
    let id: SpiffeId = asked
        .id
        .parse()
        .map_err(|error: IdError| Refusal::Invalid(error.to_string()))?;
    let lifetime = Duration::from_secs(asked.lifetime_seconds.max(1)).min(LONGEST);
    let token = ca.open_token(&id, ca.clock().now() + lifetime).await?;
    let token = token.to_string();
    Ok(Created { token })
}

async fn successor<S: Store>(ca: &Ca<S>, pem: Option<String>) -> Answered<Option<NewAuthority>> {
    let Some(pem) = pem.map(Zeroizing::new) else {
        return Ok(None);
    };
    let trust_domain = ca.status().await.trust_domain;
    let (lifetimes, now) = (ca.lifetimes(), ca.clock().now());
    NewAuthority::from_pem(&trust_domain, pem.as_bytes(), lifetimes, now, ca.crypto())
        .map(Some)
        .map_err(|error| Refusal::Invalid(chain_of(&error)))
}

/// The operator may see everything but keys, which no error holds.
impl From<CaError> for Refusal {
    fn from(error: CaError) -> Self {
        Self::NotNow(match &error {
            CaError::NotYet(wait) => waits(wait),
            error => chain_of(error),
        })
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
