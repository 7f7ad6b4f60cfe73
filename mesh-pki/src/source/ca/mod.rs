//! The address and SPIFFE ID of our CA in, an identity out: obtained with a token, renewed with
//! itself, its bundle as the CA has it, and kept on disk over a restart.

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::Identity;
use crate::bundle::TrustBundle;
use crate::clock::{Clock, SystemClock};
use crate::crypto::{Crypto, CryptoError};
#[cfg(unix)]
use crate::error::chain_of;
use crate::id::SpiffeId;
use crate::rotate::Rotation;
#[cfg(unix)]
use crate::source::keep::{Keep, KeepError, KeepStatus};
#[cfg(unix)]
use crate::status::StatusReader;
use crate::store::{IdentityState, identity};

mod client;
mod watch;

pub use client::{Bootstrap, CaClient, CaClientConfig, Token};
pub use watch::WatchStatus;

/// An identity from our CA.
///
/// ```
/// # #[cfg(feature = "aws-lc-rs")]
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::source::ca::CaSource;
/// use inmesh_pki::{Crypto, tls};
///
/// let id = "spiffe://prod.example/ns/shop/sa/cart".parse()?;
/// let ca = "spiffe://prod.example/inmesh/ca".parse()?;
/// let crypto = Crypto::aws_lc_rs();
/// let identity = CaSource::new(id, "ca.prod.example:15012", ca)
///     .trust_bundle("/etc/mesh/bundle.pem")
///     .token("/var/run/secrets/mesh/token")
///     .keep("/var/lib/cart/identity")
///     .start(&crypto)
///     .await?;
/// tokio::spawn(identity.task);
/// identity.reader.ready().await?;
/// let server = tls::server_config(identity.reader, &crypto, &[b"h2"], tls::ClientAuth::Required);
/// # drop(server);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use]
pub struct CaSource {
    id: SpiffeId,
    address: String,
    ca: SpiffeId,
    bootstrap: Option<Bootstrap>,
    token: Token,
    #[cfg(unix)]
    keep: Option<Keep>,
    clock: Arc<dyn Clock>,
}

/// Why a source of a CA cannot start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CaSourceError {
    /// The system has no randomness for the name of this process.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    /// There is a list of distrusted roots that cannot be used; a start without it would trust them
    /// again.
    #[error("the distrusted roots that are kept cannot be used: {reason}")]
    Distrusted {
        /// What is wrong with it.
        reason: String,
    },
    /// Neither a trust bundle nor a file with one was given.
    #[error("there is no trust bundle to verify the CA against")]
    NoTrustBundle,
}

impl CaSource {
    /// The identity `id`, from the CA `ca` at `address` (`host:port`).
    pub fn new(id: SpiffeId, address: impl Into<String>, ca: SpiffeId) -> Self {
        Self {
            id,
            address: address.into(),
            ca,
            bootstrap: None,
            token: Token::None,
            #[cfg(unix)]
            keep: None,
            clock: SystemClock::shared(),
        }
    }

    /// Verifies the CA, until it has sent a bundle, against the PEM file at `path`, which is read
    /// whenever it is needed.
    pub fn trust_bundle(self, path: impl Into<PathBuf>) -> Self {
        let bootstrap = Some(Bootstrap::File(path.into()));
        Self { bootstrap, ..self }
    }

    /// Verifies the CA, until it has sent a bundle, against `bundle`.
    pub fn fixed_trust_bundle(self, bundle: TrustBundle) -> Self {
        let bootstrap = Some(Bootstrap::Bundle(bundle));
        Self { bootstrap, ..self }
    }

    /// Proves `id` at first by the token in the file at `path`, which is read for each call: its
    /// issuer replaces it.
    pub fn token(self, path: impl Into<PathBuf>) -> Self {
        let token = Token::File(path.into());
        Self { token, ..self }
    }

    /// Proves `id` at first by a join token, which serves once.
    pub fn join_token(self, token: Zeroizing<String>) -> Self {
        let token = Token::Text(token);
        Self { token, ..self }
    }

    /// Keeps the identity in `dir`, and starts with what is kept there, if it is still valid; see
    /// [`Keep`].
    #[cfg(unix)]
    pub fn keep(self, dir: impl Into<PathBuf>) -> Self {
        let keep = Some(Keep::new(self.id.clone(), dir));
        Self { keep, ..self }
    }

    /// Where to read how keeping is doing, before and while the task runs; `None` if nothing is
    /// kept.
    #[cfg(unix)]
    #[must_use]
    pub fn keep_status(&self) -> Option<StatusReader<KeepStatus>> {
        self.keep.as_ref().map(Keep::status)
    }

    /// Uses `clock` instead of the system's.
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// An identity with the SVID that was kept, else without one at first; its task obtains one,
    /// renews it, follows the CA's bundle and keeps both.
    ///
    /// # Errors
    ///
    /// [`CaSourceError`]; a CA that does not answer is no error: the task tries again.
    pub async fn start(self, crypto: &Crypto) -> Result<Identity, CaSourceError> {
        let bootstrap = self.bootstrap.ok_or(CaSourceError::NoTrustBundle)?;
        let (id, clock) = (self.id, self.clock);
        #[cfg(unix)]
        let keeps = self.keep.is_some();
        #[cfg(not(unix))]
        let keeps = false;
        if !keeps {
            tracing::warn!(
                %id,
                "nothing is kept over a restart: a root that the CA distrusts is trusted again by the \
                 next process, as long as the trust bundle it starts with has it"
            );
        }
        #[cfg(unix)]
        let (keep, initial) = kept(self.keep, &id, &clock, crypto).await?;
        #[cfg(not(unix))]
        let initial = IdentityState::default();
        let (writer, reader) = identity(initial);
        let writer = Arc::new(writer);
        let config = CaClientConfig {
            id: id.clone(),
            address: self.address,
            ca: self.ca,
            bootstrap,
            token: self.token,
        };
        let client = CaClient::new(config, reader.clone(), crypto, Arc::clone(&clock))?;
        let rotation = Rotation::new(id, client.clone(), crypto, clock, crypto.draw());
        let (_status, watch) = client.watch(Arc::clone(&writer), crypto.draw(), pending());
        let rotation = rotation.run(Arc::clone(&writer), pending());
        let of_task = reader.clone();
        let task = async move {
            let first = of_task.clone();
            let watch = async move {
                // A member watches; without an SVID there is none.
                if first.ready().await.is_ok() {
                    watch.await;
                }
            };
            #[cfg(unix)]
            let keeping = async move {
                if let Some(keep) = keep {
                    keep.run(of_task, pending()).await;
                }
            };
            #[cfg(not(unix))]
            let keeping = async {};
            tokio::join!(rotation, watch, keeping);
        };
        Ok(Identity::new((writer, reader), None, task))
    }
}

/// What `keep` holds of `id`, and `keep` itself.
#[cfg(unix)]
async fn kept(
    keep: Option<Keep>,
    id: &SpiffeId,
    clock: &Arc<dyn Clock>,
    crypto: &Crypto,
) -> Result<(Option<Keep>, IdentityState), CaSourceError> {
    let Some(keep) = keep else {
        return Ok((None, IdentityState::default()));
    };
    let (now, crypto) = (clock.now(), crypto.clone());
    let loading = tokio::task::spawn_blocking(move || {
        let (distrusted, loaded) = (keep.load_distrusted(), keep.load(now, &crypto));
        (keep, distrusted, loaded)
    });
    let Ok((keep, distrusted, loaded)) = loading.await else {
        // Only a runtime that shuts down cancels it.
        return Ok((None, IdentityState::default()));
    };
    let distrusted = distrusted.map_err(|error| CaSourceError::Distrusted {
        reason: chain_of(&error),
    })?;
    let mut state = match loaded {
        Ok(state) => {
            tracing::info!(%id, "identity kept from before");
            state
        }
        Err(KeepError::Empty { .. }) => IdentityState::default(),
        Err(error) => {
            let reason: &dyn std::error::Error = &error;
            tracing::warn!(%id, error = reason, "the kept identity cannot be used, the CA is asked");
            IdentityState::default()
        }
    };
    state.distrust(id.trust_domain(), distrusted);
    Ok((Some(keep), state))
}
