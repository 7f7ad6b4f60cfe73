//! A command in, the CA's answer out, over the socket in its folder.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use super::{
    AdminError, CreateToken, Created, Distrust, Done, MAX_BODY, Recover, Refused, Revoke, Rotate,
    Rotated, SOCKET,
};
use crate::ca::state::Step;
use crate::id::SpiffeId;

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
#[derive(Clone, Debug)]
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
        let json = self.exchange(Method::GET, "/status", Bytes::new()).await?;
        Ok(String::from_utf8_lossy(&json).into_owned())
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
        let asked = Rotate {
            step: step.map(|step| step.to_string()),
            force,
            successor: text(successor)?,
        };
        let Rotated { step } = self.command("/rotate", &asked).await?;
        Ok(step)
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
        let asked = Distrust {
            key_id: key_id.to_owned(),
            successor: text(successor)?,
        };
        let Done {} = self.command("/distrust", &asked).await?;
        Ok(())
    }

    /// Revokes a certificate by its serial number, in hexadecimal.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub async fn revoke(&self, serial: &str) -> Result<(), AdminError> {
        let serial = serial.to_owned();
        let Done {} = self.command("/revoke", &Revoke { serial }).await?;
        Ok(())
    }

    /// Opens the recovery window for a while, to SVIDs that expired at most `expired` ago; zero
    /// closes it.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub async fn recover(&self, window: Duration, expired: Duration) -> Result<(), AdminError> {
        let asked = Recover {
            window_seconds: window.as_secs(),
            expired_seconds: expired.as_secs(),
        };
        let Done {} = self.command("/recover", &asked).await?;
        Ok(())
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
        let asked = CreateToken {
            id: id.to_string(),
            lifetime_seconds: lifetime.as_secs(),
        };
        let Created { token } = self.command("/token", &asked).await?;
        Ok(Zeroizing::new(token))
    }

    async fn dial(&self) -> Result<UnixStream, AdminError> {
        UnixStream::connect(&self.path)
            .await
            .map_err(|source| AdminError::Connect {
                path: self.path.clone(),
                source,
            })
    }

    async fn command<A: DeserializeOwned>(
        &self,
        path: &'static str,
        asked: &impl Serialize,
    ) -> Result<A, AdminError> {
        let asked = serde_json::to_vec(asked).map_err(failed)?;
        // Wiped when it is sent: it may hold a key.
        let asked = Bytes::from_owner(Zeroizing::new(asked));
        let answer = self.exchange(Method::POST, path, asked).await?;
        serde_json::from_slice(&answer).map_err(failed)
    }

    /// One exchange; a good answer's body.
    async fn exchange(
        &self,
        method: Method,
        path: &'static str,
        body: Bytes,
    ) -> Result<Bytes, AdminError> {
        let stream = TokioIo::new(self.dial().await?);
        let (mut sender, connection) = http1::handshake(stream).await.map_err(failed)?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = http::Uri::from_static(path);
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_static("ca.inmesh.internal"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let exchange = async move {
            let response = sender.send_request(request).await.map_err(failed)?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_BODY).collect().await;
            let body = body.map_err(|error| failed(io::Error::other(error)))?;
            Ok((head.status, body.to_bytes()))
        };
        // The connection is driven here and ends with the exchange.
        let (answered, _) = tokio::join!(exchange, connection);
        let (status, body) = answered?;
        if status == StatusCode::OK {
            return Ok(body);
        }
        let reason = match serde_json::from_slice::<Refused>(&body) {
            Ok(Refused { error }) => error,
            Err(_) => format!("the CA answered {status}"),
        };
        Err(AdminError::Refused { reason })
    }
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

fn failed(error: impl std::error::Error) -> AdminError {
    AdminError::Refused {
        reason: format!("no answer of the CA can be read: {error}"),
    }
}
