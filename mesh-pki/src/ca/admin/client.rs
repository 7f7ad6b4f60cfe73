//! A command in, the CA's answer out, over the socket in its folder.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{AdminError, Command, MAX_BODY, SOCKET};
use crate::ca::state::Step;
use crate::id::SpiffeId;

/// How long an answer may take: the CA may wait for its disk, and for commands before this one.
const ANSWER: Duration = Duration::from_secs(60);

/// A client of a CA's socket; each command is a connection of its own.
///
/// ```no_run
/// # async fn ask() -> Result<(), inmesh_pki::ca::admin::AdminError> {
/// use inmesh_pki::ca::admin::AdminClient;
///
/// let ca = AdminClient::connect("/var/lib/ca".as_ref()).await?;
/// println!("{}", ca.status().await?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct AdminClient {
    path: PathBuf,
}

impl AdminClient {
    /// A client of the CA that runs in `dir`; proves that one listens there.
    ///
    /// # Errors
    ///
    /// [`AdminError::Connect`].
    pub async fn connect(dir: &Path) -> Result<Self, AdminError> {
        let client = Self {
            path: dir.join(SOCKET),
        };
        client.dial().await?;
        Ok(client)
    }

    /// The CA's status as JSON.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub async fn status(&self) -> Result<String, AdminError> {
        Ok(self.ask(Command::Status).await?.to_string())
    }

    /// The CA's live members as JSON, `{"members", "more"}`: those that a rotation waits for first,
    /// as many as an answer holds, and how many more there are.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub async fn members(&self) -> Result<String, AdminError> {
        Ok(self.ask(Command::Members).await?.to_string())
    }

    /// Takes the next step of a rotation, or the one that is named; `successor` is a new root as
    /// PEM, as [`NewAuthority::from_pem`](crate::ca::NewAuthority::from_pem) reads it. Returns the
    /// step that was taken.
    ///
    /// # Errors
    ///
    /// [`AdminError::Refused`], with the members that are missing.
    pub async fn rotate(
        &self,
        step: Option<Step>,
        force: bool,
        successor: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<String, AdminError> {
        let successor = text(successor)?;
        let answer = self.ask(Command::Rotate {
            step,
            force,
            successor,
        });
        Ok(string(&answer.await?["step"]))
    }

    /// Distrusts a key at once; `successor` as in [`rotate`](Self::rotate).
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub async fn distrust(
        &self,
        key_id: &str,
        successor: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<(), AdminError> {
        let (key_id, successor) = (key_id.to_owned(), text(successor)?);
        let command = Command::Distrust { key_id, successor };
        self.ask(command).await.map(drop)
    }

    /// Revokes a certificate by its serial number, in hexadecimal.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub async fn revoke(&self, serial: &str) -> Result<(), AdminError> {
        let serial = serial.to_owned();
        self.ask(Command::Revoke { serial }).await.map(drop)
    }

    /// Revokes all certificates of an ID that were issued until now, and its open join tokens.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub async fn revoke_id(&self, id: &SpiffeId) -> Result<(), AdminError> {
        let id = id.clone();
        self.ask(Command::RevokeId { id }).await.map(drop)
    }

    /// Opens the recovery window for a while, to SVIDs that expired at most `expired` ago; zero
    /// closes it.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub async fn recover(&self, window: Duration, expired: Duration) -> Result<(), AdminError> {
        let command = Command::Recover {
            window_seconds: window.as_secs(),
            expired_seconds: expired.as_secs(),
        };
        self.ask(command).await.map(drop)
    }

    /// Makes a join token for `id`; its text is a secret.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub async fn create_token(
        &self,
        id: &SpiffeId,
        lifetime: Duration,
    ) -> Result<Zeroizing<String>, AdminError> {
        let answer = self.ask(Command::CreateToken {
            id: id.clone(),
            lifetime_seconds: lifetime.as_secs(),
        });
        Ok(Zeroizing::new(string(&answer.await?["token"])))
    }

    async fn dial(&self) -> Result<UnixStream, AdminError> {
        UnixStream::connect(&self.path)
            .await
            .map_err(|source| AdminError::Connect {
                path: self.path.clone(),
                source,
            })
    }

    /// One exchange: a command, and its answer as JSON.
    async fn ask(&self, command: Command) -> Result<Value, AdminError> {
        let stream = TokioIo::new(self.dial().await?);
        let (mut sender, connection) = http1::handshake(stream).await.map_err(failed)?;
        let command = serde_json::to_vec(&command).map_err(failed)?;
        // Wiped once it is sent: it may hold a key.
        let command = Bytes::from_owner(Zeroizing::new(command));
        let mut request = Request::post("/")
            .body(Full::new(command))
            .map_err(failed)?;
        let host = HeaderValue::from_static("ca.inmesh.internal");
        request.headers_mut().insert(HOST, host);
        let exchange = async move {
            let response = sender.send_request(request).await.map_err(failed)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
            let body = body.map_err(failed)?;
            Ok((status, serde_json::from_slice(&body.to_bytes())))
        };
        // The connection is driven here and ends with the exchange.
        let exchange = async { tokio::join!(exchange, connection).0 };
        let answered = timeout(ANSWER, exchange).await.map_err(failed)?;
        let (status, answer): (_, Result<Value, _>) = answered?;
        match (status, answer) {
            (StatusCode::OK, answer) => answer.map_err(failed),
            (_, Ok(refusal)) if refusal["error"].is_string() => Err(AdminError::Refused {
                reason: string(&refusal["error"]),
            }),
            (status, _) => Err(failed(status)),
        }
    }
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn text(pem: Option<Zeroizing<Vec<u8>>>) -> Result<Option<String>, AdminError> {
    let Some(pem) = pem else { return Ok(None) };
    match std::str::from_utf8(&pem) {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(_) => Err(AdminError::Refused {
            reason: "the new root is not PEM text".to_owned(),
        }),
    }
}

fn failed(error: impl Display) -> AdminError {
    AdminError::Refused {
        reason: format!("no answer of the CA can be read: {error}"),
    }
}
