//! A development CA's folder in, an identity that this process mints for itself out: for laptops
//! and tests, where no CA runs.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::Identity;
use crate::clock::{Clock, SystemClock};
use crate::crypto::Crypto;
use crate::id::SpiffeId;
use crate::issue::IssueError;
use crate::issue::dev::DevCa;
use crate::jwt::DynJwtIssuer;
use crate::rotate::{ObtainError, Rotation, obtain};
use crate::store::{IdentityState, identity};

/// An identity from a [`DevCa`].
///
/// ```
/// # #[cfg(feature = "aws-lc-rs")]
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::clock::SystemClock;
/// use inmesh_pki::issue::dev::DevCa;
/// use inmesh_pki::source::dev::DevSource;
/// use inmesh_pki::{Crypto, SpiffeId};
///
/// let crypto = Crypto::aws_lc_rs();
/// let ca = DevCa::open("dev-ca".as_ref(), &crypto, SystemClock::shared())?;
/// let id = SpiffeId::for_workload(ca.trust_domain(), "shop", "cart")?;
/// let identity = DevSource::new(ca, id).start(&crypto).await?;
/// tokio::spawn(identity.task);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use]
pub struct DevSource {
    ca: DevCa,
    id: SpiffeId,
    others: BTreeSet<SpiffeId>,
    clock: Arc<dyn Clock>,
}

/// Why a development CA gives no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DevSourceError {
    /// The CA could never mint one of the IDs.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The first SVID could not be minted.
    #[error(transparent)]
    Obtain(#[from] ObtainError),
}

impl DevSource {
    /// The identity `id`, minted by `ca`.
    pub fn new(ca: DevCa, id: SpiffeId) -> Self {
        Self {
            ca,
            id,
            others: BTreeSet::new(),
            clock: SystemClock::shared(),
        }
    }

    /// Mints `ids` as well, for the processes that a Workload API serves.
    pub fn also(mut self, ids: impl IntoIterator<Item = SpiffeId>) -> Self {
        self.others.extend(ids);
        self
    }

    /// Uses `clock` instead of the system's.
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// Mints the first SVID; the task renews it, and mints and renews the others, each in a task
    /// of its own that ends with this one.
    ///
    /// # Errors
    ///
    /// [`DevSourceError`].
    pub async fn start(self, crypto: &Crypto) -> Result<Identity, DevSourceError> {
        let (own, clock) = (self.id, self.clock);
        tracing::warn!(
            id = %own,
            "DEVELOPMENT CA: this process mints its own identity from a key on disk; \
             a process that reads that key can take any identity of the trust domain"
        );
        let issuer = self.ca.for_workload(own.clone())?;
        let (svid, bundle) = obtain(&issuer, &own, crypto, &*clock).await?;
        let (writer, reader) = identity(IdentityState::new(svid, bundle.into()));
        let writer = Arc::new(writer);
        let mut ids = self.others;
        ids.insert(own);
        let mut rotations = Vec::new();
        for id in ids {
            let issuer = self.ca.for_workload(id.clone())?;
            let draw = crypto.draw();
            let rotation = Rotation::new(id, issuer, crypto, Arc::clone(&clock), draw);
            rotations.push(rotation.run(Arc::clone(&writer), pending()));
        }
        let jwt = DynJwtIssuer::new(self.ca.jwt_issuer().clone());
        let task = async move {
            let mut running: JoinSet<()> = rotations.into_iter().collect();
            while running.join_next().await.is_some() {}
        };
        Ok(Identity::new((writer, reader), Some(jwt), task))
    }
}
