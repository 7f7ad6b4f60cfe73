//! Whose a document is: which reader it has, or why it has none. Pure.
//!
//! A group that holds what decides (policies, routes) has no unknown kind: a misspelt one would be
//! left out without a word. Kinds of other groups are for other programs and are skipped, counted.

use inmesh_core::model::Kind;

/// What becomes of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whose {
    /// A kind that is read, in a version that is.
    Ours(Kind),
    /// A kind that is ours to judge and cannot be read; why. It is AuthorizationPolicy too where the
    /// document may have been meant as one: what that selects is denied.
    Refused(Kind, String),
    /// A route of a protocol that is not routed. It is refused if it is attached to a Service.
    Route(String),
    /// For other programs.
    Others(String),
}

/// The kinds of the core group that are for other programs.
const CORE: &[&str] = &[
    "Binding",
    "ComponentStatus",
    "ConfigMap",
    "Endpoints",
    "Event",
    "LimitRange",
    "Namespace",
    "Node",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Pod",
    "PodTemplate",
    "ReplicationController",
    "ResourceQuota",
    "Secret",
    "ServiceAccount",
];
/// The kinds of the Gateway API that say nothing to a mesh.
const GATEWAY: &[&str] = &[
    "BackendTLSPolicy",
    "Gateway",
    "GatewayClass",
    "ListenerSet",
    "ReferenceGrant",
];
/// Routes of the Gateway API for protocols that are not routed.
const ROUTES: &[&str] = &["GRPCRoute", "TCPRoute", "TLSRoute", "UDPRoute"];
/// Kinds of Istio's policies that are known and not evaluated.
const ISTIO: &[&str] = &["PeerAuthentication", "RequestAuthentication"];

/// Finds whose a document is. `None` of a text is one that cannot be read.
///
/// 1. A known kind of its own group, in a version that is read, is ours.
/// 2. In a group of policies any other kind may be a misspelt policy; so may any kind of another
///    group whose name is almost that of a policy.
/// 3. In the groups of Services, slices and routes a kind that these groups do not have is refused.
/// 4. Kinds of all other groups are others'.
pub(super) fn whose(api_version: Option<&str>, kind: Option<&str>) -> Whose {
    let (group, version) = match api_version.map(|v| v.rsplit_once('/').unwrap_or(("", v))) {
        Some((group, version)) => (Some(group), Some(version)),
        None => (None, None),
    };
    let known = match (group, kind) {
        (Some("") | None, Some("Service")) => Some((Kind::Service, &["v1"][..])),
        (Some("discovery.k8s.io") | None, Some("EndpointSlice")) => {
            Some((Kind::EndpointSlice, &["v1"][..]))
        }
        (Some("gateway.networking.k8s.io") | None, Some("HTTPRoute")) => {
            Some((Kind::HttpRoute, &["v1", "v1beta1"][..]))
        }
        (Some("security.istio.io") | None, Some("AuthorizationPolicy")) => {
            Some((Kind::AuthorizationPolicy, &["v1", "v1beta1"][..]))
        }
        (Some("inmesh.dev"), Some("AuthorizationPolicy")) => {
            Some((Kind::AuthorizationPolicy, &["v1alpha1"][..]))
        }
        _ => None,
    };
    if let Some((of, versions)) = known {
        let why = match version {
            Some(version) if versions.contains(&version) => return Whose::Ours(of),
            Some(_) => {
                let v = api_version.unwrap_or_default();
                format!(
                    "apiVersion {v} of this kind is not read; {} is",
                    versions.join(" or ")
                )
            }
            None => format!(
                "the apiVersion cannot be read; {} is",
                versions.join(" or ")
            ),
        };
        return Whose::Refused(of, why);
    }
    let not_read = |group: &str, kind: &str| match group {
        "" => format!("the kind {kind} is not read"),
        group => format!("the kind {kind} of {group} is not read"),
    };
    match (group, kind) {
        (Some("security.istio.io" | "inmesh.dev"), None) => {
            Whose::Refused(Kind::AuthorizationPolicy, "the kind cannot be read".into())
        }
        (_, None) => {
            let why = "the kind cannot be read".into();
            Whose::Refused(Kind::Other("Unknown".into()), why)
        }
        (Some(group @ "security.istio.io"), Some(kind)) if ISTIO.contains(&kind) => {
            Whose::Refused(other(group, kind), not_read(group, kind))
        }
        (Some(group @ ("security.istio.io" | "inmesh.dev")), Some(kind)) => {
            Whose::Refused(Kind::AuthorizationPolicy, not_read(group, kind))
        }
        (group, Some(kind)) if is_almost(kind, "AuthorizationPolicy") => Whose::Refused(
            Kind::AuthorizationPolicy,
            not_read(group.unwrap_or_default(), kind),
        ),
        (Some(""), Some(kind)) if CORE.contains(&kind) => Whose::Others(kind.into()),
        (Some(group @ "gateway.networking.k8s.io"), Some(kind)) if GATEWAY.contains(&kind) => {
            Whose::Others(format!("{kind}.{group}"))
        }
        (Some(group @ "gateway.networking.k8s.io"), Some(kind)) if ROUTES.contains(&kind) => {
            Whose::Route(not_read(group, kind))
        }
        (Some(group), Some(kind @ ("EndpointSlice" | "HTTPRoute"))) => {
            Whose::Refused(other(group, kind), not_read(group, kind))
        }
        (Some(group @ ("" | "discovery.k8s.io" | "gateway.networking.k8s.io")), Some(kind)) => {
            Whose::Refused(other(group, kind), not_read(group, kind))
        }
        (None, Some(kind)) => Whose::Refused(other("", kind), not_read("", kind)),
        (Some(group), Some(kind)) => Whose::Others(format!("{kind}.{group}")),
    }
}

/// A kind that is only reported, by its name and group.
fn other(group: &str, kind: &str) -> Kind {
    let name = match group {
        "" => kind.to_owned(),
        group => format!("{kind}.{group}"),
    };
    // Statuses and logs carry it.
    Kind::Other(name.chars().take(253).collect::<String>().into())
}

/// Whether a text is another but for a few characters (Levenshtein, at most 3).
fn is_almost(text: &str, name: &str) -> bool {
    const MOST: usize = 3;
    let (text, name) = (text.as_bytes(), name.as_bytes());
    if text.len().abs_diff(name.len()) > MOST {
        return false;
    }
    let mut row: Vec<usize> = (0..=name.len()).collect();
    for (n, a) in text.iter().enumerate() {
        let mut before = n;
        row[0] = n + 1;
        for (m, b) in name.iter().enumerate() {
            let changed = before + usize::from(!a.eq_ignore_ascii_case(b));
            before = row[m + 1];
            row[m + 1] = changed.min(before + 1).min(row[m] + 1);
        }
    }
    row[name.len()] <= MOST
}
