//! The operator's wishes in, on a Unix socket that only the owner of the CA's folder can open; the
//! CA's answer out. Server and client of one small gRPC service.
//!
//! The socket is the permission: it lies in a folder of mode 0700 and has mode 0600 itself, so
//! whoever can open it could read the keys beside it as well.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Request, Uri};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tower_service::Service;
use zeroize::Zeroizing;

use super::chain_of;
use super::h2::H2;
use super::plan::Wait;
use super::state::{KeyPlace, Stage, Step};
use super::store::Store;
use super::{Ca, CaError, CaStatus, NewAuthority};
use crate::id::SpiffeId;
use crate::issue::policy::Window;
use crate::proto::inmesh_ca::ca_admin_client::CaAdminClient;
use crate::proto::inmesh_ca::ca_admin_server::{CaAdmin, CaAdminServer};
use crate::proto::inmesh_ca::{
    CreateTokenRequest, CreateTokenResponse, DistrustRequest, DistrustResponse, RecoverRequest,
    RecoverResponse, RevokeRequest, RevokeResponse, RotateRequest, RotateResponse, StatusRequest,
    StatusResponse,
};
use crate::time::{to_unix, utc};

/// The name of the socket in the CA's folder.
pub const SOCKET: &str = "admin.sock";

/// How many of those who are missing an error names.
const NAMED: usize = 10;

/// The longest that a token or a recovery window may last.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The socket of a CA's folder, listening.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

/// A client of a CA's socket.
pub struct AdminClient {
    inner: CaAdminClient<H2>,
}

/// Why the CA did not do what its operator asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// No CA runs there, or the socket is not ours to open.
    #[error("no CA answers on {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The CA refuses, or failed.
    #[error("{reason}")]
    Refused {
        /// What it says.
        reason: String,
    },
}

// === the server ===

impl AdminSocket {
    /// Listens in `dir`, the folder of a CA that this process has open: a socket that is there
    /// already is of a process that is gone.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn bind(dir: &Path) -> io::Result<Self> {
        let path = dir.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        }
        Ok(Self { listener, path })
    }

    /// Serves the operator of `ca` until `shutdown` is ready.
    pub async fn serve<S: Store>(self, ca: Arc<Ca<S>>, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let mut open = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut shutdown => return,
                Some(_) = open.join_next() => continue,
                accepted = self.listener.accept(), if open.len() < 16 => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    open.spawn(connection(Arc::clone(&ca), stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "an operator's connection cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // One that is left behind is replaced by the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn connection<S: Store>(ca: Arc<Ca<S>>, stream: UnixStream) {
    let service = service_fn(move |request: Request<Incoming>| {
        let mut server = CaAdminServer::new(Admin(Arc::clone(&ca)));
        async move { server.call(request).await }
    });
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(4)
        .keep_alive_interval(Duration::from_secs(20));
    let _ended = http.serve_connection(TokioIo::new(stream), service).await;
}

struct Admin<S>(Arc<Ca<S>>);

impl<S: Store> Admin<S> {
    async fn successor(&self, pem: Vec<u8>) -> Result<Option<NewAuthority>, Status> {
        if pem.is_empty() {
            return Ok(None);
        }
        let pem = Zeroizing::new(pem);
        let trust_domain = self.0.status().await.trust_domain;
        let (lifetimes, now) = (self.0.lifetimes(), self.0.clock().now());
        NewAuthority::from_pem(&trust_domain, &pem, lifetimes, now, self.0.crypto())
            .map(Some)
            .map_err(|error| Status::invalid_argument(chain_of(&error)))
    }
}

#[tonic::async_trait]
impl<S: Store> CaAdmin for Admin<S> {
    async fn status(
        &self,
        _: tonic::Request<StatusRequest>,
    ) -> Result<tonic::Response<StatusResponse>, Status> {
        let json = json_of(&self.0.status().await).to_string().into_bytes();
        Ok(tonic::Response::new(StatusResponse { json }))
    }

    async fn rotate(
        &self,
        request: tonic::Request<RotateRequest>,
    ) -> Result<tonic::Response<RotateResponse>, Status> {
        let RotateRequest {
            step,
            force,
            successor,
        } = request.into_inner();
        let asked = match step.as_str() {
            "" => None,
            "prepare" => Some(Step::Prepare),
            "activate" => Some(Step::Activate),
            "retire" => Some(Step::Retire),
            _ => return Err(Status::invalid_argument("no such step")),
        };
        let successor = self.successor(successor).await?;
        let running = self.0.status().await.next.is_some();
        let step = match asked {
            Some(Step::Prepare) => Step::Prepare,
            None if !running || successor.is_some() => Step::Prepare,
            asked => {
                if successor.is_some() {
                    return Err(Status::invalid_argument("a new root belongs to prepare"));
                }
                let taken = self.0.advance(asked, force).await;
                taken.map_err(|error| refusal(&error))?
            }
        };
        if step == Step::Prepare {
            let prepared = self.0.prepare(successor).await;
            prepared.map_err(|error| refusal(&error))?;
        }
        let step = step.to_string();
        Ok(tonic::Response::new(RotateResponse { step }))
    }

    async fn distrust(
        &self,
        request: tonic::Request<DistrustRequest>,
    ) -> Result<tonic::Response<DistrustResponse>, Status> {
        let DistrustRequest { key_id, successor } = request.into_inner();
        let successor = self.successor(successor).await?;
        let distrusted = self.0.distrust(&key_id, successor).await;
        distrusted.map_err(|error| refusal(&error))?;
        Ok(tonic::Response::new(DistrustResponse {}))
    }

    async fn revoke(
        &self,
        request: tonic::Request<RevokeRequest>,
    ) -> Result<tonic::Response<RevokeResponse>, Status> {
        let revoked = self.0.revoke(&request.into_inner().serial).await;
        revoked.map_err(|error| refusal(&error))?;
        Ok(tonic::Response::new(RevokeResponse {}))
    }

    async fn recover(
        &self,
        request: tonic::Request<RecoverRequest>,
    ) -> Result<tonic::Response<RecoverResponse>, Status> {
        let request = request.into_inner();
        let now = self.0.clock().now();
        let window = match request.window_seconds {
            0 => None,
            seconds => Some(Window {
                until: now + Duration::from_secs(seconds).min(LONGEST),
                expired_since: now
                    .checked_sub(Duration::from_secs(request.expired_seconds).min(LONGEST))
                    .unwrap_or(now),
            }),
        };
        let opened = self.0.recover(window).await;
        opened.map_err(|error| refusal(&error))?;
        tracing::warn!(?window, "the recovery window is set");
        Ok(tonic::Response::new(RecoverResponse {}))
    }

    async fn create_token(
        &self,
        request: tonic::Request<CreateTokenRequest>,
    ) -> Result<tonic::Response<CreateTokenResponse>, Status> {
        let request = request.into_inner();
        let id: SpiffeId = request
            .id
            .parse()
            .map_err(|error: crate::id::IdError| Status::invalid_argument(error.to_string()))?;
        let lifetime = Duration::from_secs(request.lifetime_seconds.max(1)).min(LONGEST);
        let token = self
            .0
            .open_token(&id, self.0.clock().now() + lifetime)
            .await;
        let token = token.map_err(|error| refusal(&error))?;
        Ok(tonic::Response::new(CreateTokenResponse {
            token: token.to_string(),
        }))
    }
}

/// The whole status, moments as seconds since 1970.
fn json_of(status: &CaStatus) -> Value {
    let moment = |at: SystemTime| to_unix(at);
    let authorities: Vec<Value> = status
        .authorities
        .iter()
        .map(|a| {
            json!({
                "keyId": a.key_id,
                "issuerKeyId": a.issuer_key_id,
                "stage": stage(a.stage),
                "rootKey": match a.root_key {
                    KeyPlace::Held => "held",
                    KeyPlace::Offline => "offline",
                },
                "rootNotAfter": moment(a.root_not_after),
                "issuerNotAfter": moment(a.issuer_not_after),
                "leafUntil": a.leaf_until.map(moment),
                "endsSoon": a.ends_soon,
            })
        })
        .collect();
    let wait = status.wait.as_ref().map(|wait| {
        let members: Vec<Value> = wait
            .missing
            .iter()
            .map(|m| {
                json!({
                    "id": m.id.as_str(),
                    "name": m.name,
                    "acknowledged": m.acknowledged,
                    "until": moment(m.until),
                })
            })
            .collect();
        json!({"until": moment(wait.until), "unknown": wait.unknown, "members": members})
    });
    json!({
        "trustDomain": status.trust_domain.as_str(),
        "generation": status.generation,
        "authorities": authorities,
        "next": status.next.map(|step| step.to_string()),
        "waitsFor": wait,
        "members": status.members,
        "unknownUntil": status.unknown_until.map(moment),
        "openTokens": status.open_tokens,
        "recovery": status.recovery.map(|window| {
            json!({"until": moment(window.until), "expiredSince": moment(window.expired_since)})
        }),
    })
}

fn stage(stage: Stage) -> String {
    stage.to_string()
}

/// The operator is told everything but keys, which no error holds.
fn refusal(error: &CaError) -> Status {
    match error {
        CaError::NotYet(wait) => Status::failed_precondition(waits(wait)),
        error => Status::failed_precondition(chain_of(error)),
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

// === the client ===

impl AdminClient {
    /// Connects to the CA that runs in `dir`.
    ///
    /// # Errors
    ///
    /// [`AdminError::Connect`].
    pub async fn connect(dir: &Path) -> Result<Self, AdminError> {
        let path = dir.join(SOCKET);
        let failed = |source| AdminError::Connect {
            path: path.clone(),
            source,
        };
        let stream = UnixStream::connect(&path).await.map_err(failed)?;
        let local = H2::over(stream)
            .await
            .map_err(|error| failed(io::Error::other(error)))?;
        let origin = Uri::from_static("http://ca.inmesh.internal");
        Ok(Self {
            inner: CaAdminClient::with_origin(local, origin),
        })
    }

    /// The CA's status as JSON.
    ///
    /// # Errors
    ///
    /// [`AdminError::Refused`].
    pub async fn status(&mut self) -> Result<String, AdminError> {
        let answer = self.inner.status(StatusRequest {}).await;
        let json = answer.map_err(refused)?.into_inner().json;
        Ok(String::from_utf8_lossy(&json).into_owned())
    }

    /// Takes the next step of a rotation, or the one that is named; `successor` is a new root as
    /// PEM, as [`NewAuthority::from_pem`] reads it. Returns the step that was taken.
    ///
    /// # Errors
    ///
    /// [`AdminError::Refused`], with who is missing.
    pub async fn rotate(
        &mut self,
        step: Option<Step>,
        force: bool,
        successor: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<String, AdminError> {
        let request = RotateRequest {
            step: step.map(|step| step.to_string()).unwrap_or_default(),
            force,
            successor: successor.map(|pem| pem.to_vec()).unwrap_or_default(),
        };
        let answer = self.inner.rotate(request).await;
        Ok(answer.map_err(refused)?.into_inner().step)
    }

    /// Distrusts a key at once; `successor` as in [`rotate`](Self::rotate).
    ///
    /// # Errors
    ///
    /// [`AdminError::Refused`].
    pub async fn distrust(
        &mut self,
        key_id: &str,
        successor: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<(), AdminError> {
        let request = DistrustRequest {
            key_id: key_id.to_owned(),
            successor: successor.map(|pem| pem.to_vec()).unwrap_or_default(),
        };
        self.inner.distrust(request).await.map_err(refused)?;
        Ok(())
    }

    /// Revokes a certificate by its serial number, in hexadecimal.
    ///
    /// # Errors
    ///
    /// [`AdminError::Refused`].
    pub async fn revoke(&mut self, serial: &str) -> Result<(), AdminError> {
        let request = RevokeRequest {
            serial: serial.to_owned(),
        };
        self.inner.revoke(request).await.map_err(refused)?;
        Ok(())
    }

    /// Opens the recovery window for a while, to SVIDs that ended at most `expired` ago; zero
    /// closes it.
    ///
    /// # Errors
    ///
    /// [`AdminError::Refused`].
    pub async fn recover(&mut self, window: Duration, expired: Duration) -> Result<(), AdminError> {
        let request = RecoverRequest {
            window_seconds: window.as_secs(),
            expired_seconds: expired.as_secs(),
        };
        self.inner.recover(request).await.map_err(refused)?;
        Ok(())
    }

    /// Makes a join token for `id`; its text is a secret.
    ///
    /// # Errors
    ///
    /// [`AdminError::Refused`].
    pub async fn create_token(
        &mut self,
        id: &SpiffeId,
        lifetime: Duration,
    ) -> Result<Zeroizing<String>, AdminError> {
        let request = CreateTokenRequest {
            id: id.to_string(),
            lifetime_seconds: lifetime.as_secs(),
        };
        let answer = self.inner.create_token(request).await;
        Ok(Zeroizing::new(answer.map_err(refused)?.into_inner().token))
    }
}

fn refused(status: Status) -> AdminError {
    let reason = match status.code() {
        Code::FailedPrecondition | Code::InvalidArgument => status.message().to_owned(),
        code => format!("{code:?}: {}", status.message()),
    };
    AdminError::Refused { reason }
}

impl fmt::Debug for AdminClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminClient(..)")
    }
}
