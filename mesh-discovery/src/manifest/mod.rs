//! Kubernetes documents: the text of files in, operations on the snapshot out. Pure.
//!
//! A file is read into a tree with lines, each document of it by the reader of its kind, and what
//! cannot be read is refused for that object alone, with file, line and field. The same readers
//! serve a folder and, later, an API server. It refuses unknown fields on what decides (routes,
//! policies, our own kinds) and reports them on Services and EndpointSlices.
//!
//! | kind | becomes |
//! | --- | --- |
//! | `v1 Service` | [`Object::Service`](inmesh_core::snapshot::Object::Service) |
//! | `discovery.k8s.io/v1 EndpointSlice` | [`Object::Slice`](inmesh_core::snapshot::Object::Slice) |
//! | `gateway.networking.k8s.io/v1`, `v1beta1 HTTPRoute` | [`Object::Route`](inmesh_core::snapshot::Object::Route), if it is attached to a Service |
//! | `gateway.networking.k8s.io/v1 GRPCRoute`, `TLSRoute`, `TCPRoute` | the same of their kind |
//! | `security.istio.io/v1`, `v1beta1`, `inmesh.dev/v1alpha1 AuthorizationPolicy` | [`Object::Policy`](inmesh_core::snapshot::Object::Policy) |
//! | `gateway.networking.k8s.io/v1`, `v1alpha3 BackendTLSPolicy` | [`Object::BackendTls`](inmesh_core::snapshot::Object::BackendTls) |
//! | `v1 ConfigMap` with `ca.crt` | [`Object::CaConfigMap`](inmesh_core::snapshot::Object::CaConfigMap) |
//! | `inmesh.dev/v1alpha1 ServiceEntry` | [`Object::Service`](inmesh_core::snapshot::Object::Service) with hosts outside the mesh |
//! | `inmesh.dev/v1alpha1 TrafficPolicy` | [`Object::Traffic`](inmesh_core::snapshot::Object::Traffic) |
//! | `v1 Pod` | [`Object::Pod`](inmesh_core::snapshot::Object::Pod) |
//! | `v1 Namespace` | [`Object::Namespace`](inmesh_core::snapshot::Object::Namespace) |
//! | `v1 Node` | [`Object::Node`](inmesh_core::snapshot::Object::Node) |
//! | `v1 List`, `ServiceList` and other lists | their items |
//! | kinds of groups that are others', whatever their names | nothing but a count |
//! | a kind of the Gateway API that is not known | a note and a count |
//! | anything else, and what cannot be read | [`Op::Refuse`]; a policy, or what may be a misspelt one, denies |

mod backend_tls;
mod capabilities;
mod config_map;
mod definitions;
mod document;
mod endpoints;
mod folder;
mod kind;
mod meta;
pub(crate) mod mirrors;
mod namespace;
mod node;
mod pod;
mod policy;
mod retry;
mod route;
mod samples;
mod service;
mod service_entry;
mod session;
mod slice;
pub mod strict;
mod target;
pub(crate) mod text;
mod traffic;
mod transport;
mod yaml;

use std::collections::BTreeMap;
use std::sync::Arc;

use inmesh_core::authorize::PathForm;
use inmesh_core::model::{Kind, Namespace, ObjectKey};
use inmesh_core::snapshot::{Op, Problem};
use inmesh_pki::id::TrustDomain;

pub use capabilities::{Capability, FieldUse, Use, capabilities};
pub use definitions::definitions;
#[cfg(any(feature = "control", feature = "dns"))]
pub(crate) use endpoints::forbidden;
pub use folder::{Content, Folder, Merged};
pub use strict::FileError;
pub use traffic::outlier_detection;
pub use yaml::to_yaml;

/// What documents leave unsaid, and what the process allows.
///
/// ```
/// use inmesh_core::model::Namespace;
/// use inmesh_discovery::manifest::{Defaults, parse};
///
/// let defaults = Defaults::new(Namespace::new("shop")?).skip("v1", "Secret");
/// let text = "{apiVersion: v1, kind: Secret, metadata: {name: key}}";
/// assert!(parse("key.yaml", text, &defaults)?.entries.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Defaults {
    /// The namespace of objects that name none; `default` for kubectl.
    pub namespace: Namespace,
    /// Whether endpoints may have loopback addresses: on a laptop and in the demo.
    pub allow_loopback: bool,
    /// Documents that another reader takes, by `apiVersion` and `kind`; they are skipped.
    pub skip_kinds: Vec<(Arc<str>, Arc<str>)>,
    /// Foreign trust domains whose peers may come, to warn of policies that mean something else
    /// for them.
    pub federated: Vec<Arc<str>>,
    /// Whether peers of others may come whose bundles are not known before: a Workload API brings them.
    pub may_federate: bool,
    /// What the process changes in the paths of requests, before policies and routes see them.
    pub paths: PathForm,
    /// The trust domain of service accounts, by which Pods answer.
    pub trust_domain: Option<TrustDomain>,
    /// How endpoints are reached of which neither a document nor a Pod says it.
    pub unsaid: Unsaid,
    /// Whether objects come with the documents that they were read from, to be handed on.
    pub documents: bool,
}

/// How endpoints are reached of which neither an annotation nor a Pod says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsaid {
    /// Their document is refused: it has to say it.
    Refused,
    /// In plaintext, as it is on Kubernetes for what is no Pod of it.
    Plain,
}

/// What one file says.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Parsed {
    /// One for each object, in the order of the file.
    pub entries: Vec<Entry>,
    /// What is as it should be and may be of interest: what is for others, ports that are not TCP.
    pub notes: Vec<Problem>,
    /// How many documents there are of each kind that is for other programs.
    pub skipped: BTreeMap<Arc<str>, usize>,
}

/// What a file says of one object.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Entry {
    /// The object. Where its name cannot be read it is made from the file's name and the line.
    pub key: ObjectKey,
    /// The line on which the document begins.
    pub line: u32,
    /// Which earlier object of the file it may be an edit of, where `key` does not tell.
    pub stands_for: StandsFor,
    /// The operation.
    pub op: Op,
    /// Its text, where it is to be handed on and its kind is.
    pub document: Option<Arc<str>>,
}

/// Which earlier object of its file a document may be an edit of. The folder keeps such objects.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StandsFor {
    /// Any: neither kind nor name can be read.
    Any,
    /// The object of its key.
    Itself,
    /// One of that kind: its name cannot be read.
    Kind(Kind),
    /// One of that name: its kind is not known.
    Name(Namespace, Arc<str>),
}

/// Reads one file. `file` is its path as a person would open it; relative paths of CA files are
/// relative to its folder.
///
/// Any text may be given; it never panics.
///
/// # Errors
///
/// [`FileError`] if the file as a whole is not a set of documents (see [`strict::documents`]): all
/// its objects are to stay as they were. What is wrong with one object is an
/// [`Op::Refuse`] among the entries instead.
pub fn parse(file: &str, text: &str, defaults: &Defaults) -> Result<Parsed, FileError> {
    let mut parsed = Parsed::default();
    for document in &strict::documents(file, text)? {
        document::read(document, defaults, &mut parsed);
    }
    Ok(parsed)
}

/// Reads an object of an API server as the document that it is. `name` is what it is called in problems.
#[cfg(feature = "kubernetes")]
pub(crate) fn parse_json(
    name: &str,
    object: &serde_json::Value,
    defaults: &Defaults,
) -> Result<Parsed, FileError> {
    let mut parsed = Parsed::default();
    document::read(&strict::of_json(name, object)?, defaults, &mut parsed);
    Ok(parsed)
}

// === impl Parsed ===

impl Parsed {
    /// Counts a document for other programs, which is no entry.
    fn skip(&mut self, kind: &str) -> Option<Entry> {
        *self.skipped.entry(kind.into()).or_default() += 1;
        None
    }
}

// === impl Defaults ===

impl Defaults {
    /// Objects without a namespace are in `namespace`; loopback addresses are refused.
    #[must_use]
    pub fn new(namespace: Namespace) -> Self {
        Self {
            namespace,
            allow_loopback: false,
            skip_kinds: Vec::new(),
            federated: Vec::new(),
            may_federate: false,
            paths: PathForm::default(),
            trust_domain: None,
            unsaid: Unsaid::Refused,
            documents: false,
        }
    }

    /// The same, with loopback addresses allowed or not.
    #[must_use]
    pub fn loopback(mut self, allow: bool) -> Self {
        self.allow_loopback = allow;
        self
    }

    /// The same with a foreign trust domain, whose peers may come.
    #[must_use]
    pub fn federate(mut self, trust_domain: &str) -> Self {
        self.federated.push(trust_domain.into());
        self
    }

    /// The same where the source of identity may bring bundles of foreign trust domains.
    #[must_use]
    pub fn may_federate(mut self, may: bool) -> Self {
        self.may_federate = may;
        self
    }

    /// The same where the paths of requests are changed.
    #[must_use]
    pub fn paths(mut self, form: PathForm) -> Self {
        self.paths = form;
        self
    }

    /// The same where service accounts are of a trust domain.
    #[must_use]
    pub fn trust_domain(mut self, domain: TrustDomain) -> Self {
        self.trust_domain = Some(domain);
        self
    }

    /// The same where endpoints of which nothing is said are reached as `unsaid` says.
    #[must_use]
    pub fn unsaid(mut self, unsaid: Unsaid) -> Self {
        self.unsaid = unsaid;
        self
    }

    /// The same for a control plane: objects come with their documents.
    #[must_use]
    pub fn documents(mut self) -> Self {
        self.documents = true;
        self
    }

    /// The same, leaving documents of one kind to another reader.
    #[must_use]
    pub fn skip(mut self, api_version: &str, kind: &str) -> Self {
        self.skip_kinds.push((api_version.into(), kind.into()));
        self
    }
}

#[cfg(test)]
mod tests;
