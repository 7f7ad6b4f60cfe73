//! A control plane that an agent follows (`control` of its file), and the one that it is (`controlPlane`).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use inmesh_core::model::{Namespace, ServiceName};
use inmesh_discovery::control::{ControlSource, Follow};
use inmesh_discovery::inject::Sidecar;
use inmesh_discovery::kube::Lease;
use inmesh_discovery::layout;
use inmesh_discovery::manifest::Defaults;
use inmesh_discovery::manifest::strict::{Fields, Value};
use inmesh_pki::store::IdentityReader;
use inmesh_pki::{Crypto, SpiffeId};

use super::kubernetes::KubernetesConfig;
use super::optional::optional;

/// The most replicas and Services that are named.
const MAX: usize = 1_000;

/// A control plane that an agent follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ControlConfig {
    /// Its replicas, `host:port` each; never empty.
    pub(crate) addresses: Vec<String>,
    pub(crate) id: SpiffeId,
    pub(crate) follow: Follow,
    /// Where what it has is kept over a restart.
    pub(crate) keep: Option<PathBuf>,
}

/// The control plane that an agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ControlPlaneConfig {
    pub(crate) bind: SocketAddr,
    /// Whether what becomes of routes is written into their status.
    pub(crate) write_status: bool,
    pub(crate) inject: Option<InjectConfig>,
}

/// A webhook that puts the mesh beside Pods as they are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InjectConfig {
    pub(crate) bind: SocketAddr,
    /// The files of what an API server verifies it by, a certificate and its key; else its own SVID.
    pub(crate) files: Option<[PathBuf; 2]>,
    pub(crate) sidecar: Sidecar,
}

/// Reads `host:port`.
pub(super) fn host_and_port(v: &Value<'_>) -> Option<String> {
    let text = v.text()?;
    let parts = text.rsplit_once(':');
    if parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
        return Some(text.to_owned());
    }
    v.refuse("write host:port");
    None
}

/// Reads `control`; relative paths are relative to `dir`, Services without a namespace in `own`.
pub(super) fn control(
    fields: &mut Fields<'_>,
    dir: &Path,
    own: Option<&Namespace>,
) -> Option<ControlConfig> {
    let addresses = fields.need("addresses").and_then(|v| {
        let list = v.list_of(MAX)?;
        if list.is_empty() {
            v.refuse("names one replica at least");
        }
        list.iter().map(host_and_port).collect::<Option<Vec<_>>>()
    });
    let id = fields
        .need("controlId")
        .and_then(|v| v.parsed::<SpiffeId>());
    let whole = fields.whole().clone();
    let follow = optional(fields, "follow", |v| v.choice(&["all", "asked"]));
    let services = optional(fields, "services", |v| {
        let list = v.list_of(MAX)?;
        list.iter()
            .map(|v| service(v, own))
            .collect::<Option<Vec<_>>>()
    });
    let keep = optional(fields, "keep", |v| v.text().map(|path| dir.join(path)));
    let follow = match (follow?, services?) {
        (Some("all"), None) => Follow::All,
        (Some("all"), Some(_)) => {
            whole.refuse("services are those that are followed before they are asked for: all are");
            return None;
        }
        (_, services) => Follow::Asked(services.unwrap_or_default()),
    };
    Some(ControlConfig {
        addresses: addresses?,
        id: id?,
        follow,
        keep: keep?,
    })
}

/// A Service: `cart`, or `cart.shop` of another namespace.
fn service(v: &Value<'_>, own: Option<&Namespace>) -> Option<ServiceName> {
    let text = v.text()?;
    let invalid = |e: inmesh_core::model::InvalidName| e.to_string();
    let (name, namespace) = match text.split_once('.') {
        Some((name, namespace)) => (name, v.check(Namespace::new(namespace).map_err(invalid))?),
        None => (text, own?.clone()),
    };
    v.check(ServiceName::new(&namespace, name).map_err(invalid))
}

/// Reads `controlPlane`.
pub(super) fn control_plane(
    fields: &mut Fields<'_>,
    dir: &Path,
    cluster: Option<&KubernetesConfig>,
    own: Option<&Namespace>,
) -> Option<ControlPlaneConfig> {
    let bind = fields.need("bind").and_then(|v| v.parsed());
    let write_status = optional(fields, "writeStatus", |v| {
        let write = v.boolean()?;
        if write && cluster.is_none() {
            v.refuse("statuses are those of a cluster, and kubernetes is not written");
        }
        Some(write)
    });
    let inject = optional(fields, "inject", |v| {
        let Some(cluster) = cluster else {
            v.refuse("Pods are those of a cluster, and kubernetes is not written");
            return None;
        };
        v.object(|inject| read_inject(inject, dir, cluster, own))
    });
    Some(ControlPlaneConfig {
        bind: bind?,
        write_status: write_status?.unwrap_or_else(|| cluster.is_some()),
        inject: inject?,
    })
}

fn read_inject(
    fields: &mut Fields<'_>,
    dir: &Path,
    cluster: &KubernetesConfig,
    own: Option<&Namespace>,
) -> Option<InjectConfig> {
    let bind = fields.need("bind").and_then(|v| v.parsed());
    let whole = fields.whole().clone();
    let mut file = |name| optional(fields, name, |v| v.text().map(|path| dir.join(path)));
    let (certificate, key) = (file("certificate"), file("key"));
    let image = fields
        .need("image")
        .and_then(|v| v.text().map(str::to_owned));
    let pull = optional(fields, "imagePullPolicy", |v| {
        v.choice(&["Always", "IfNotPresent", "Never"])
    });
    let peers = optional(fields, "peers", |v| v.choice(&["strict", "permissive"]));
    let files = match (certificate?, key?) {
        (Some(certificate), Some(key)) => Some([certificate, key]),
        (None, None) => None,
        _ => {
            whole.refuse(
                "certificate and key are written both, or neither: then its own SVID serves",
            );
            return None;
        }
    };
    let mut sidecar = Sidecar::new(&image?, cluster.trust_domain.clone());
    sidecar.system = own?.to_string();
    sidecar.strict = peers? == Some("strict");
    if let Some(pull) = pull? {
        pull.clone_into(&mut sidecar.pull);
    }
    Some(InjectConfig {
        bind: bind?,
        files,
        sidecar,
    })
}

// === impl ControlConfig ===

impl ControlConfig {
    /// The source of what it hands on.
    pub(crate) fn source(
        &self,
        identity: &IdentityReader,
        crypto: &Crypto,
        defaults: Defaults,
    ) -> ControlSource {
        let (first, others) = self.addresses.split_first().expect("one at least is read");
        let source = ControlSource::new(
            first,
            self.id.clone(),
            identity.clone(),
            crypto.clone(),
            defaults,
        );
        let source = others.iter().fold(source, ControlSource::or_at);
        let source = source.follow(self.follow.clone()).instance(&instance());
        match &self.keep {
            Some(file) => source.keep(file),
            None => source,
        }
    }
}

/// The name of this process among others: that of its host, which in a Pod is that of the Pod.
fn instance() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// A Lease that this process may hold.
pub(crate) fn lease(namespace: &Namespace, name: &str) -> Lease {
    let holder = format!("{}-{}", instance(), std::process::id());
    Lease::new(namespace.clone(), name, &holder)
}

// === impl ControlPlaneConfig ===

impl ControlPlaneConfig {
    /// The Lease that the replica holds which writes statuses.
    pub(crate) fn lease(&self, namespace: &Namespace) -> Option<Lease> {
        self.write_status.then(|| lease(namespace, layout::CONTROL))
    }
}
