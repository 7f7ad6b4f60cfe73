//! A SPIFFE Workload API in, an identity out: SPIRE, or another agent, decides what this process is.

use std::future::pending;
use std::sync::Arc;

use super::Identity;
use crate::clock::{Clock, SystemClock};
use crate::crypto::Crypto;
use crate::jwt::DynJwtIssuer;
use crate::store::{IdentityState, identity};
use crate::workload_api::Endpoint;
use crate::workload_api::client::{WorkloadApiClient, WorkloadApiJwt};

/// An identity from a Workload API.
///
/// ```
/// # #[cfg(feature = "aws-lc-rs")]
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::Crypto;
/// use inmesh_pki::source::workload_api::WorkloadApiSource;
/// use inmesh_pki::workload_api::Endpoint;
///
/// let endpoint = Endpoint::parse("unix:///run/spire/agent.sock")?;
/// let identity = WorkloadApiSource::new(endpoint).start(&Crypto::aws_lc_rs());
/// tokio::spawn(identity.task);
/// identity.reader.ready().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use]
pub struct WorkloadApiSource {
    endpoint: Endpoint,
    jwt_bundles: bool,
    id_path: Option<String>,
    clock: Arc<dyn Clock>,
}

impl WorkloadApiSource {
    /// The identity that the agent at `endpoint` has for this process.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            jwt_bundles: false,
            id_path: None,
            clock: SystemClock::shared(),
        }
    }

    /// Follows the keys of JWT-SVIDs too, for programs that verify tokens.
    pub fn jwt_bundles(self) -> Self {
        Self {
            jwt_bundles: true,
            ..self
        }
    }

    /// Takes as its identity only an SVID whose ID has this path, e.g. `/ns/shop/sa/cart`: that of the
    /// workload which this process is. Without, the first that the agent names is it.
    pub fn id_path(self, path: impl Into<String>) -> Self {
        Self {
            id_path: Some(path.into()),
            ..self
        }
    }

    /// Uses `clock` instead of the system's.
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// An identity without an SVID at first: the task asks the agent. It ends where the agent says
    /// that the call is wrong, which no repetition changes.
    pub fn start(self, crypto: &Crypto) -> Identity {
        let endpoint = self.endpoint;
        let mut api = WorkloadApiClient::new(endpoint.clone(), crypto, self.clock, crypto.draw());
        if self.jwt_bundles {
            api = api.with_jwt_bundles();
        }
        if let Some(path) = self.id_path {
            api = api.with_id_path(path);
        }
        let (writer, reader) = identity(IdentityState::default());
        let writer = Arc::new(writer);
        let task = api.run(Arc::clone(&writer), pending());
        let jwt = DynJwtIssuer::new(WorkloadApiJwt::new(endpoint));
        Identity::new((writer, reader), Some(jwt), task)
    }
}
