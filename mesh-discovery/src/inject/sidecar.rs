//! What is put beside a Pod, and what became of that.

use inmesh_pki::id::TrustDomain;

use crate::layout;

/// What is put beside a Pod.
///
/// ```
/// use inmesh_core::model::Namespace;
/// use inmesh_discovery::inject::{Injected, Sidecar, inject};
/// use serde_json::json;
///
/// let sidecar = Sidecar::new("registry.example/mesh:1.0", "cluster.local".parse()?);
/// let mut pod = json!({
///     "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "cart", "namespace": "shop"},
///     "spec": {"containers": [{"name": "app", "image": "cart"}]},
/// });
/// assert_eq!(inject(&mut pod, &sidecar, &Namespace::new("default")?)?, Injected::Added);
/// assert_eq!(pod["spec"]["initContainers"][1]["restartPolicy"], "Always");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sidecar {
    /// The image, with the binary at `/usr/local/bin/mesh`.
    pub image: String,
    /// The trust domain of service accounts.
    pub trust_domain: TrustDomain,
    /// The namespace of the CA and the control plane, whose policies govern all namespaces.
    pub system: String,
    /// Whether plaintext is refused, unless a Pod says otherwise.
    pub strict: bool,
    /// When the image is pulled: `Always`, `IfNotPresent` or `Never`.
    pub pull: String,
}

/// What became of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Injected {
    /// It has the mesh beside each of its Pods now.
    Added,
    /// It had it before.
    Already,
    /// It is not to have it, and why.
    Declined(&'static str),
    /// It has no Pods.
    NoPods,
}

/// A workload that cannot have the mesh beside it as it is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
#[non_exhaustive]
pub struct InjectError {
    /// The path of the field.
    pub field: String,
    /// What is wrong and what to do.
    pub why: String,
}

// === impl Sidecar ===

impl Sidecar {
    /// An agent of this image beside CA and control plane in `mesh-system`; plaintext is taken as well.
    #[must_use]
    pub fn new(image: &str, trust_domain: TrustDomain) -> Self {
        Self {
            image: image.to_owned(),
            trust_domain,
            system: layout::SYSTEM.to_owned(),
            strict: false,
            pull: "IfNotPresent".to_owned(),
        }
    }
}

// === impl InjectError ===

impl InjectError {
    pub(super) fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            why: why.into(),
        }
    }
}
