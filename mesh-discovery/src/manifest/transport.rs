//! The annotations that say how bytes travel to endpoints, and which identity must answer.
//!
//! `inmesh.dev/transport` is `mesh` where it is absent; `plain` and `tls` are never assumed. What
//! a transport has no use for is refused, since its author meant something by it.

use std::path::Path;
use std::sync::Arc;

use inmesh_core::model::{IdSet, Roots, Transport};
use inmesh_pki::id::SpiffeId;

use super::Unsaid;
use super::meta::Texts;
use super::strict::Value;
use super::text::host_name;

/// How bytes travel.
pub(super) const TRANSPORT: &str = "inmesh.dev/transport";
/// The identities that may serve a mesh endpoint.
pub(super) const IDS: &str = "inmesh.dev/ids";
/// Why a server is not vouched for where a BackendTLSPolicy is to say what does.
const POLICY: &str = "a BackendTLSPolicy is to say it, and there is none for this port";
/// What vouches for the server of a tls endpoint.
pub(super) const CA: &str = "inmesh.dev/ca";
/// The name on the certificate of a tls endpoint.
pub(super) const SERVER_NAME: &str = "inmesh.dev/server-name";
/// What to ask DNS for.
pub(super) const DNS: &str = "inmesh.dev/dns";

/// Those that say how endpoints are reached.
const SAYS: &[&str] = &[TRANSPORT, IDS, CA, SERVER_NAME];
/// All annotations of endpoints.
pub(super) const ANNOTATIONS: &[&str] = &[TRANSPORT, IDS, CA, SERVER_NAME, DNS];

const MEND_IDS: &str = "no server may answer for these endpoints: write the annotation \
    inmesh.dev/ids: \"spiffe://<trust domain>/ns/<ns>/sa/<service account>\", or inmesh.dev/transport \
    for a server outside the mesh";

/// Whether annotations say how endpoints are reached.
pub(super) fn is_said(annotations: &Texts<'_>) -> bool {
    SAYS.iter().any(|key| annotations.find(key).is_some())
}

/// Reads the transport. `at` is where a missing annotation is reported, `file` the document's
/// file, `host` the one host name behind the endpoints, where there is one.
pub(super) fn read(
    annotations: &Texts<'_>,
    at: &Value<'_>,
    (file, unsaid): (&str, Unsaid),
    host: Option<&str>,
) -> Option<Transport> {
    let name = match (annotations.find(TRANSPORT), unsaid) {
        (Some(value), _) => value.choice(&["mesh", "plain", "tls"])?,
        (None, Unsaid::Plain) if !is_said(annotations) => "plain",
        (None, _) => "mesh",
    };
    let useless = |keys: &[&str]| {
        for value in keys.iter().filter_map(|key| annotations.find(key)) {
            value.refuse(format_args!("has no effect with the transport {name}"));
        }
    };
    match name {
        "plain" => {
            useless(&[IDS, CA, SERVER_NAME]);
            Some(Transport::Plain)
        }
        "tls" => {
            useless(&[IDS]);
            let roots = roots(annotations, at, file);
            Some(Transport::tls(server_name(annotations, at, host)?, roots?))
        }
        _ => {
            useless(&[CA, SERVER_NAME]);
            Some(Transport::Mesh {
                ids: ids(annotations, at)?,
            })
        }
    }
}

pub(super) fn ids(annotations: &Texts<'_>, at: &Value<'_>) -> Option<IdSet> {
    let Some(value) = annotations.find(IDS) else {
        at.refuse(MEND_IDS);
        return None;
    };
    let mut ids = Vec::new();
    for id in value
        .text()?
        .split([',', ' ', '\t', '\r', '\n'])
        .filter(|id| !id.is_empty())
    {
        let id = id.parse::<SpiffeId>().map_err(|e| format!("{id:?}: {e}"));
        ids.push(value.check(id)?);
    }
    if ids.is_empty() {
        value.refuse(MEND_IDS);
        return None;
    }
    Some(IdSet::new(ids))
}

fn roots(annotations: &Texts<'_>, at: &Value<'_>, file: &str) -> Option<Roots> {
    let Some(value) = annotations.find(CA) else {
        at.refuse(
            "no root vouches for the server: write the annotation inmesh.dev/ca: system, policy (a \
             BackendTLSPolicy says it), or the path of a PEM file",
        );
        return None;
    };
    match value.text()? {
        "" => {
            value.refuse("is empty; write system, policy, or the path of a PEM file");
            None
        }
        "policy" => Some(Roots::Unusable(POLICY.into())),
        "system" => Some(Roots::System),
        path => {
            let folder = Path::new(file).parent().unwrap_or_else(|| Path::new(""));
            Some(Roots::File(folder.join(path).to_string_lossy().into()))
        }
    }
}

fn server_name(annotations: &Texts<'_>, at: &Value<'_>, host: Option<&str>) -> Option<Arc<str>> {
    if annotations.find(CA).and_then(|ca| ca.text()) == Some("policy") {
        if let Some(name) = annotations.find(SERVER_NAME) {
            name.refuse("has no effect: the BackendTLSPolicy says it");
        }
        return Some("".into());
    }
    match (annotations.find(SERVER_NAME), host) {
        (Some(value), _) => value.check(host_name(value.text()?)).map(Into::into),
        (None, Some(host)) => Some(host.into()),
        (None, None) => {
            at.refuse(
                "the name on the server's certificate is not known: write the annotation \
                 inmesh.dev/server-name (only a single FQDN stands for itself)",
            );
            None
        }
    }
}
