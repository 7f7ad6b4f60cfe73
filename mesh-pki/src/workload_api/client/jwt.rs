//! JWT-SVIDs from a Workload API, behind the port of all that mint them.

use std::fmt;

use tokio::time::timeout;

use super::super::Endpoint;
use super::call::{connect, dial, request};
use super::error::{PATIENCE, WorkloadApiError};
use crate::id::SpiffeId;
use crate::issue::IssueError;
use crate::jwt::{JwtIssuer, JwtSvid, read_unverified};
use crate::proto::workload::JwtsvidRequest;

/// Asks the agent for a token, each time anew: a connection lives as long as the call.
///
/// ```
/// # #[cfg(feature = "aws-lc-rs")]
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_pki::jwt::JwtIssuer;
/// use inmesh_pki::workload_api::Endpoint;
/// use inmesh_pki::workload_api::client::WorkloadApiJwt;
///
/// let tokens = WorkloadApiJwt::new(Endpoint::parse("unix:///run/spire/agent.sock")?);
/// let id = "spiffe://prod.example/ns/shop/sa/cart".parse()?;
/// let token = tokens.mint(&id, &["db".to_owned()]).await?;
/// # drop(token);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct WorkloadApiJwt {
    endpoint: Endpoint,
}

impl WorkloadApiJwt {
    /// Tokens from the agent at `endpoint`.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint }
    }

    async fn fetch(
        &self,
        id: &SpiffeId,
        audiences: &[String],
    ) -> Result<Vec<JwtSvid>, WorkloadApiError> {
        let call = async {
            let mut api = connect(&self.endpoint, &dial(&self.endpoint)).await?;
            let wanted = JwtsvidRequest {
                audience: audiences.to_vec(),
                spiffe_id: id.to_string(),
            };
            Ok(api.fetch_jwtsvid(request(wanted)).await?.into_inner())
        };
        let answer = timeout(PATIENCE, call)
            .await
            .unwrap_or(Err(WorkloadApiError::Timeout))?;
        // The agent is trusted, but the subject of each token is compared all the same.
        let svids = answer.svids.into_iter().filter_map(|svid| {
            let (subject, expires) = read_unverified(&svid.svid).ok()?;
            Some(JwtSvid::new(subject, svid.svid, expires))
        });
        Ok(svids.collect())
    }
}

impl JwtIssuer for WorkloadApiJwt {
    async fn mint(&self, id: &SpiffeId, audiences: &[String]) -> Result<JwtSvid, IssueError> {
        let unavailable = |reason: String| IssueError::Unavailable {
            reason,
            retry_after: None,
        };
        let svids = self
            .fetch(id, audiences)
            .await
            .map_err(|error| unavailable(error.to_string()))?;
        svids
            .into_iter()
            .find(|svid| svid.id() == id)
            .ok_or_else(|| unavailable("the agent sent no token for this ID".to_owned()))
    }
}

impl fmt::Debug for WorkloadApiJwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkloadApiJwt({})", self.endpoint.path().display())
    }
}
