//! What becomes of each field of each kind that is read, found by asking the readers themselves.

use std::collections::BTreeMap;

use inmesh_core::model::{Kind, Namespace};
use serde_json::Value as Json;

use super::kind::versions;
use super::samples::samples;
use super::strict::{Asked, documents};
use super::{
    Defaults, backend_tls, config_map, namespace, node, pod, policy, route, service, service_entry,
    slice, traffic,
};

/// A kind of document that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capability {
    /// The `apiVersion`s that are read.
    pub api_versions: Vec<String>,
    /// The kind.
    pub kind: String,
    /// Its fields, by place and name.
    pub fields: Vec<FieldUse>,
}

/// A field of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FieldUse {
    /// The mapping that it stands in: `spec.rules[]`; empty is the document itself.
    pub place: String,
    /// Its name.
    pub name: String,
    /// What becomes of it.
    pub what: Use,
}

/// What becomes of a field. Any other field is not known, and refuses its object, or is warned of in a
/// Service or EndpointSlice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Use {
    /// It has an effect.
    Used,
    /// It is known and has no effect here.
    Ignored,
    /// It is valid where the kind comes from, is not evaluated here, and refuses the object.
    Refused,
}

/// All kinds that are read, with all of their fields.
///
/// ```
/// use inmesh_discovery::manifest::{Use, capabilities};
/// let all = capabilities();
/// let policy = all.iter().find(|kind| kind.kind == "AuthorizationPolicy").expect("it is read");
/// let when = policy.fields.iter().find(|field| field.name == "when").expect("it is known");
/// assert_eq!(when.what, Use::Refused);
/// ```
#[must_use]
pub fn capabilities() -> Vec<Capability> {
    let namespace = Namespace::new("default").expect("it is a DNS label");
    let defaults = Defaults::new(namespace);
    let samples = samples();
    let of_kinds = samples.chunk_by(|a, b| a["kind"] == b["kind"]);
    let each = of_kinds.map(|samples| {
        let text = |name: &str| samples[0][name].as_str().unwrap_or_default();
        let kind = text("kind");
        Capability {
            api_versions: versions(text("apiVersion"), kind),
            kind: kind.into(),
            fields: fields(samples, kind, &defaults),
        }
    });
    each.collect()
}

/// What the reader of a kind asks its documents for.
fn fields(samples: &[Json], kind: &str, defaults: &Defaults) -> Vec<FieldUse> {
    let asked = samples
        .iter()
        .flat_map(|sample| asked(&sample.to_string(), kind, defaults));
    // A field that is refused in one item of a list and read in another refuses its object.
    let mut found: BTreeMap<(String, String), Use> = BTreeMap::new();
    for (path, name, how) in asked {
        let what = match how {
            Asked::Read => Use::Used,
            Asked::Ignored => Use::Ignored,
            Asked::Refused => Use::Refused,
        };
        let at = found.entry((any_item(&path), name)).or_insert(what);
        if *at == Use::Ignored || what == Use::Refused {
            *at = what;
        }
    }
    let field = |((place, name), what)| FieldUse { place, name, what };
    found.into_iter().map(field).collect()
}

/// What the reader of a kind asks a document for: the path of a mapping, a name in it, and what for.
fn asked(text: &str, kind: &str, defaults: &Defaults) -> Vec<(String, String, Asked)> {
    const FILE: &str = "sample";
    let documents = documents(FILE, text).unwrap_or_default();
    let Some(document) = documents.first() else {
        return Vec::new();
    };
    match kind {
        "BackendTLSPolicy" => document.asked(|f| backend_tls::read(f, defaults)),
        "ConfigMap" => document.asked(|f| config_map::read(f, defaults)),
        "Namespace" => document.asked(|f| namespace::read(f, defaults)),
        "Node" => document.asked(|f| node::read(f, defaults)),
        "Pod" => document.asked(|f| pod::read(f, defaults)),
        "Service" => document.asked(|f| service::read(f, FILE, defaults)),
        "ServiceEntry" => document.asked(|f| service_entry::read(f, FILE, defaults)),
        "EndpointSlice" => document.asked(|f| slice::read(f, FILE, defaults)),
        "GRPCRoute" => document.asked(|f| route::grpc::read(f, defaults)),
        "TCPRoute" => document.asked(|f| route::opaque::read(f, &Kind::TcpRoute, "v1", defaults)),
        "TLSRoute" => document.asked(|f| route::opaque::read(f, &Kind::TlsRoute, "v1", defaults)),
        "HTTPRoute" => document.asked(|f| route::read(f, defaults)),
        "TrafficPolicy" => document.asked(|f| traffic::read(f, defaults)),
        _ => document.asked(|f| policy::read(f, defaults)),
    }
}

/// A path without the places of items: `spec.rules[0]` is `spec.rules[]`.
fn any_item(path: &str) -> String {
    let (mut place, mut index) = (String::new(), false);
    for c in path.chars() {
        index = c == '[' || (index && c != ']');
        if !index || c == '[' {
            place.push(c);
        }
    }
    place
}

// === impl Use ===

impl Use {
    /// In a word: `used`, `ignored` or `refused`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Ignored => "ignored",
            Self::Refused => "refused",
        }
    }
}
