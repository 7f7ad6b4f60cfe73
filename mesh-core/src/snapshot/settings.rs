//! What a snapshot takes from its process and never changes.

use std::sync::Arc;

use crate::authorize::{DefaultAction, PathForm};
use crate::local::Local;
use crate::model::{Locality, Namespace, SourceId, Workload};
use crate::traffic::Traffic;

/// The cluster domain of Kubernetes, where nothing else is set.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// What does not change while the process runs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// The workload that this process is, or the first of several that it serves.
    pub local: Arc<Local>,
    /// The namespace whose policies govern every namespace, if there is one.
    pub mesh_namespace: Option<Namespace>,
    /// Sources in order of precedence; those not named come after, by name.
    pub sources: Vec<SourceId>,
    /// The domain of Service host names. Default `cluster.local`.
    pub cluster_domain: Arc<str>,
    /// What is asked of requests where no policy says it.
    pub traffic: Arc<Traffic>,
    /// What is changed in the paths of requests.
    pub paths: PathForm,
    /// Where the process is.
    pub locality: Locality,
    /// Which hosts outside the mesh its workloads reach.
    pub outbound: OutboundTrafficPolicy,
}

/// Which hosts outside the mesh are reached (`outboundTrafficPolicy` of Istio's mesh).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutboundTrafficPolicy {
    /// All: what no document names too, as its caller sends it.
    AllowAny,
    /// Those that a document names.
    #[default]
    RegistryOnly,
}

// === impl Settings ===

impl Settings {
    /// Settings of a workload without a mesh-wide namespace or an order of sources.
    ///
    /// ```
    /// use inmesh_core::authorize::DefaultAction;
    /// use inmesh_core::model::Workload;
    /// use inmesh_core::snapshot::Settings;
    /// let web = Workload::new("shop", "web", "web")?;
    /// let settings = Settings::new(web, DefaultAction::Deny);
    /// assert_eq!(&*settings.cluster_domain, "cluster.local");
    /// # Ok::<(), inmesh_core::model::InvalidName>(())
    /// ```
    pub fn new(workload: Workload, default_action: DefaultAction) -> Self {
        Self::of(Local::new(workload, default_action))
    }

    /// The same for a workload with an identity or an egress policy of its own.
    pub fn of(local: Local) -> Self {
        Self {
            local: Arc::new(local),
            mesh_namespace: None,
            sources: Vec::new(),
            cluster_domain: CLUSTER_DOMAIN.into(),
            traffic: Arc::default(),
            paths: PathForm::default(),
            locality: Locality::default(),
            outbound: OutboundTrafficPolicy::default(),
        }
    }
}
