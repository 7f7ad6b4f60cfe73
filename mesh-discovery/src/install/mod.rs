//! What is installed in a cluster, as documents: the definitions of our kinds, the CA and the control plane
//! with the roles that they need, and the webhook that puts the mesh beside Pods. Pure.
//!
//! A [Helm chart](Install::chart) is made of the same documents.

mod access;
mod chart;
mod parts;
#[cfg(test)]
mod tests;

use serde_json::{Value as Json, json};

use crate::inject::Sidecar;
use crate::layout::{CA, CONTROL, OURS, trust_bundle};
use crate::manifest::definitions;

/// A mesh that is to be installed.
///
/// ```
/// use inmesh_discovery::inject::Sidecar;
/// use inmesh_discovery::install::Install;
///
/// let sidecar = Sidecar::new("registry.example/mesh:1.0", "cluster.local".parse()?);
/// let objects = Install::new(sidecar).objects();
/// assert_eq!(objects[0]["kind"], "Namespace");
/// assert!(objects.iter().any(|one| one["kind"] == "MutatingWebhookConfiguration"));
/// # Ok::<(), inmesh_pki::id::IdError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Install {
    /// What is put beside Pods, with the image, the trust domain and the namespace of all.
    pub sidecar: Sidecar,
    /// How many replicas of the CA run, and how many of the control plane.
    pub replicas: u16,
    /// Whether the CA signs what the API server is asked for: Pod certificates and signing requests.
    pub sign: bool,
}

/// A file of a Helm chart.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChartFile {
    /// Where it is in the chart's folder.
    pub path: &'static str,
    /// Its text.
    pub text: String,
}

/// What differs from one installation to the next, as it is written: words of a cluster, or those of a chart.
struct Words {
    system: String,
    trust_domain: String,
    trust_bundle: String,
    image: String,
    pull: String,
    /// What a Pod takes that does not say it: `strict` or `permissive`.
    peers: String,
    replicas: Json,
    sign: String,
}

// === impl Install ===

impl Install {
    /// Two replicas of each, and no Pod certificates.
    #[must_use]
    pub fn new(sidecar: Sidecar) -> Self {
        Self {
            sidecar,
            replicas: 2,
            sign: false,
        }
    }

    /// All documents, in an order in which they can be applied one after the other.
    #[must_use]
    pub fn objects(&self) -> Vec<Json> {
        let words = self.words();
        let mut all = vec![words.namespace()];
        all.extend(definitions_of_ours());
        all.extend(access::objects(&words));
        if self.sign {
            all.extend(access::signer_objects(&words));
        }
        all.extend(parts::objects(&words));
        all.push(parts::webhook(&words));
        all
    }

    /// The same as a Helm chart of a version, whose values are what this one says. Its namespace is that of the
    /// release.
    #[must_use]
    pub fn chart(&self, version: &str) -> Vec<ChartFile> {
        chart::files(self, version)
    }

    fn words(&self) -> Words {
        let of = &self.sidecar;
        let trust_domain = of.trust_domain.to_string();
        Words {
            system: of.system.clone(),
            trust_bundle: trust_bundle(&trust_domain),
            trust_domain,
            image: of.image.clone(),
            pull: of.pull.clone(),
            peers: if of.strict { "strict" } else { "permissive" }.into(),
            replicas: self.replicas.into(),
            sign: self.sign.to_string(),
        }
    }
}

/// The definitions of our kinds, labelled as all that is installed.
fn definitions_of_ours() -> impl Iterator<Item = Json> {
    definitions().into_iter().map(|mut definition| {
        definition["metadata"]["labels"] = labels(None);
        definition
    })
}

/// The labels of what belongs to a part, or to all.
fn labels(part: Option<&str>) -> Json {
    let mut labels = json!({
        OURS.0: OURS.1,
    });
    if let Some(part) = part {
        labels[parts::NAME] = part.into();
        labels["app.kubernetes.io/component"] = match part {
            CA => "ca",
            CONTROL => "control-plane",
            other => other,
        }
        .into();
    }
    labels
}

// === impl Words ===

impl Words {
    fn labels(&self, part: &str) -> Json {
        labels(Some(part))
    }

    /// An object of the whole cluster.
    fn global(&self, api: &str, kind: &str, name: &str, part: &str) -> Json {
        json!({
            "apiVersion": api, "kind": kind,
            "metadata": {"name": name, "labels": self.labels(part)},
        })
    }

    /// An object of the mesh's namespace.
    fn object(&self, api: &str, kind: &str, name: &str, part: &str) -> Json {
        let mut object = self.global(api, kind, name, part);
        object["metadata"]["namespace"] = self.system.as_str().into();
        object
    }

    /// The SPIFFE ID of the control plane.
    fn control_id(&self) -> String {
        let (domain, system) = (&self.trust_domain, &self.system);
        format!("spiffe://{domain}/ns/{system}/sa/{CONTROL}")
    }

    /// The mesh's namespace, in which nothing runs that asks for more than its own files.
    fn namespace(&self) -> Json {
        let mut labels = labels(None);
        labels["pod-security.kubernetes.io/enforce"] = "restricted".into();
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": self.system, "labels": labels},
        })
    }
}
