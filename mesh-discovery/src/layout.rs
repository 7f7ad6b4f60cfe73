//! What the mesh is called where it stands in a cluster: names, ports, labels and folders that its parts
//! agree on.

/// The namespace of the CA and the control plane, unless another one is named.
pub const SYSTEM: &str = "mesh-system";

/// The CA: its Deployment, Service, service account, and what the names of its Secrets begin with.
pub const CA: &str = "mesh-ca";
/// The port of the CA.
pub const CA_PORT: u16 = 15_012;
/// What tokens for the CA are meant for.
pub const AUDIENCE: &str = "inmesh-ca";
/// The signer that the CA is for an API server.
pub const SIGNER: &str = "inmesh.dev/ca";
/// The Lease of the replica that signs what an API server asks for.
pub const SIGNER_LEASE: &str = "mesh-signer";

/// The control plane: its Deployment, Service, service account, and the Lease of the replica that writes.
pub const CONTROL: &str = "mesh-control";
/// The port of the control plane.
pub const CONTROL_PORT: u16 = 15_010;
/// The port of its webhook.
pub const WEBHOOK_PORT: u16 = 15_017;
/// The MutatingWebhookConfiguration.
pub const WEBHOOK: &str = "inmesh";

/// The ConfigMap with the roots, in each Namespace of the mesh, and the Lease of the replica that writes it.
pub const ROOTS: &str = "mesh-root";
/// Where the roots are in it, as in `kube-root-ca.crt`.
pub const ROOTS_KEY: &str = "ca.crt";

/// The label of what is ours, and its value. It is not `managed-by`, which Helm writes.
pub const OURS: (&str, &str) = ("app.kubernetes.io/part-of", "inmesh");
/// The annotation with the trust domain, which a label has no room for.
pub const TRUST_DOMAIN: &str = "inmesh.dev/trust-domain";
/// The label of a Namespace or a Pod: whether it is injected, `enabled` or `disabled`.
pub const INJECT: &str = "inmesh.dev/inject";

/// The annotation of a Pod with the file of its agent, which is mounted from there.
pub const AGENT: &str = "inmesh.dev/agent";

/// The annotation of an object with what is staged in its place (`mesh apply`).
pub const STAGE: &str = "inmesh.dev/canary";
/// The annotation with the `spec` that an object had before the last promotion, for `mesh rollback`.
pub const PREVIOUS: &str = "inmesh.dev/previous";
/// The Lease on which the replicas of the control plane tell each other how requests fare.
pub const TALLIES: &str = "mesh-canary";

/// Where the binary is in the image.
pub const BINARY: &str = "/usr/local/bin/mesh";
/// Where a container has its configuration,
pub const CONFIG: &str = "/etc/inmesh";
/// its token and the roots,
pub const MOUNTED: &str = "/var/run/secrets/inmesh.dev";
/// and what it keeps.
pub const STATE: &str = "/var/lib/inmesh";

/// Where an annotation is in its object, as a JSON patch says it (RFC 6901).
#[cfg(feature = "kubernetes")]
pub(crate) fn pointer(annotation: &str) -> String {
    format!("/metadata/annotations/{}", annotation.replace('/', "~1"))
}

/// The name of the ClusterTrustBundle of a trust domain: an API server asks for that of the signer in front,
/// and a name of DNS behind it.
#[must_use]
pub fn trust_bundle(trust_domain: &str) -> String {
    let domain = trust_domain.replace(['.', '_'], "-");
    format!("{}:{domain}", SIGNER.replace('/', ":"))
}
