//! Whose a document is: which reader it has, or why it has none. Pure.
//!
//! A misspelt kind or group of what decides (policies, routes) must not be left out without a word: what
//! is almost one of ours is refused. Kinds of groups that are clearly another program's are skipped,
//! counted, whatever their names.

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
    /// A kind that its group may have had since, and that says nothing here as far as is known.
    Unknown(String),
}

/// The kinds of the core group that are for other programs.
const CORE: &[&str] = &[
    "Binding",
    "ComponentStatus",
    // Of kubectl itself, beside manifests.
    "Config",
    "Endpoints",
    "Event",
    "LimitRange",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodTemplate",
    "ReplicationController",
    "ResourceQuota",
    "Secret",
    "ServiceAccount",
];
/// The kinds of the Gateway API that say nothing to a mesh.
const GATEWAY: &[&str] = &["Gateway", "GatewayClass", "ListenerSet", "ReferenceGrant"];
/// Routes of the Gateway API for protocols that are not routed.
const ROUTES: &[&str] = &["UDPRoute"];
/// Routes that are read, and whose name is that of a protocol.
pub(super) const READ_ROUTES: &[&str] = &["GRPCRoute", "TCPRoute", "TLSRoute"];
/// Groups that are read.
const GROUPS: &[&str] = &[
    "discovery.k8s.io",
    "gateway.networking.k8s.io",
    "inmesh.dev",
    "security.istio.io",
];
/// Kinds that are read, of any group.
pub(super) const READ: &[&str] = &[
    "AuthorizationPolicy",
    "EndpointSlice",
    "HTTPRoute",
    "Service",
    "ServiceEntry",
    "TrafficPolicy",
];
/// The same whose names are near those of kinds that are not read.
pub(super) const READ_EXACTLY: &[&str] =
    &["BackendTLSPolicy", "ConfigMap", "Namespace", "Node", "Pod"];
/// The most edits between a name and what it was meant as.
const EDITS: usize = 3;
/// Kinds of Istio's policies that are known and not evaluated.
const ISTIO: &[&str] = &["PeerAuthentication", "RequestAuthentication"];

/// Finds whose a document is. `None` of a text is one that cannot be read.
///
/// 1. A known kind of its own group, in a version that is read, is ours.
/// 2. In a group of policies any other kind may be a misspelt policy; so may any kind of another
///    group whose name is almost that of a policy. A kind of the very name of ours in a group that is
///    clearly another program's is others'.
/// 3. In the groups of Services and slices a kind that these groups do not have is refused, in that of
///    routes one that is almost one of ours; the Gateway API may have had any other since.
/// 4. Kinds of all other groups are others'.
pub(super) fn whose(api_version: Option<&str>, kind: Option<&str>) -> Whose {
    let (group, version) = match api_version.map(|v| v.rsplit_once('/').unwrap_or(("", v))) {
        Some((group, version)) => (Some(group), Some(version)),
        None => (None, None),
    };
    if let Some((of, versions)) = read_kind(group, kind) {
        let why = match version {
            Some(version) if versions.contains(&version) => return Whose::Ours(of),
            Some(v) if matches!(of, Kind::GrpcRoute | Kind::TcpRoute | Kind::TlsRoute) => {
                // One of a gateway is for others, whatever its version.
                let read = versions.join(" or ");
                return Whose::Route(format!("version {v} of {of} is not read; {read} is"));
            }
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
    whose_kind(group, kind)
}

/// Every apiVersion in which a kind is read, those of the group of `first` before others.
pub(super) fn versions(first: &str, kind: &str) -> Vec<String> {
    let first = first.rsplit_once('/').map_or("", |(group, _)| group);
    let others = GROUPS.iter().filter(|group| **group != first);
    let groups = std::iter::once(&first).chain(others);
    let each = groups.flat_map(|group| {
        let read = read_kind(Some(group), Some(kind));
        let versions = read.map_or(&[][..], |(_, versions)| versions);
        versions.iter().map(move |version| match *group {
            "" => (*version).to_owned(),
            group => format!("{group}/{version}"),
        })
    });
    each.collect()
}

/// A kind that is read, and its versions that are.
fn read_kind(group: Option<&str>, kind: Option<&str>) -> Option<(Kind, &'static [&'static str])> {
    match (group, kind) {
        (Some("") | None, Some("Service")) => Some((Kind::Service, &["v1"][..])),
        (Some("") | None, Some("Namespace")) => Some((Kind::Namespace, &["v1"][..])),
        (Some("") | None, Some("Node")) => Some((Kind::Node, &["v1"][..])),
        (Some("") | None, Some("Pod")) => Some((Kind::Pod, &["v1"][..])),
        (Some("") | None, Some("ConfigMap")) => Some((Kind::ConfigMap, &["v1"][..])),
        (Some("gateway.networking.k8s.io") | None, Some("BackendTLSPolicy")) => {
            Some((Kind::BackendTlsPolicy, &["v1", "v1alpha3"][..]))
        }
        (Some("discovery.k8s.io") | None, Some("EndpointSlice")) => {
            Some((Kind::EndpointSlice, &["v1"][..]))
        }
        (Some("gateway.networking.k8s.io") | None, Some("GRPCRoute")) => {
            Some((Kind::GrpcRoute, &["v1"][..]))
        }
        (Some("gateway.networking.k8s.io") | None, Some("HTTPRoute")) => {
            Some((Kind::HttpRoute, &["v1", "v1beta1"][..]))
        }
        (Some("gateway.networking.k8s.io") | None, Some("TCPRoute")) => {
            Some((Kind::TcpRoute, &["v1", "v1alpha2"][..]))
        }
        (Some("gateway.networking.k8s.io") | None, Some("TLSRoute")) => {
            Some((Kind::TlsRoute, &["v1", "v1alpha3", "v1alpha2"][..]))
        }
        (Some("security.istio.io") | None, Some("AuthorizationPolicy")) => {
            Some((Kind::AuthorizationPolicy, &["v1", "v1beta1"][..]))
        }
        (Some("inmesh.dev"), Some("AuthorizationPolicy")) => {
            Some((Kind::AuthorizationPolicy, &["v1alpha1"][..]))
        }
        (Some("inmesh.dev"), Some("ServiceEntry")) => Some((Kind::ServiceEntry, &["v1alpha1"][..])),
        (Some("inmesh.dev"), Some("TrafficPolicy")) => {
            Some((Kind::TrafficPolicy, &["v1alpha1"][..]))
        }
        _ => None,
    }
}

/// The same of a kind that is not read.
fn whose_kind(group: Option<&str>, kind: Option<&str>) -> Whose {
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
        // It asks for something, and permits nothing.
        (Some(group @ "inmesh.dev"), Some(kind))
            if ["ServiceEntry", "TrafficPolicy"]
                .iter()
                .any(|name| is_almost(kind, name, EDITS)) =>
        {
            Whose::Refused(other(group, kind), not_read(group, kind))
        }
        (Some(group @ ("security.istio.io" | "inmesh.dev")), Some(kind)) => {
            Whose::Refused(Kind::AuthorizationPolicy, not_read(group, kind))
        }
        (
            Some(group),
            Some(
                kind @ ("AuthorizationPolicy"
                | "BackendTLSPolicy"
                | "EndpointSlice"
                | "GRPCRoute"
                | "HTTPRoute"
                | "TCPRoute"
                | "TLSRoute"),
            ),
        ) if is_foreign(group) => Whose::Others(format!("{kind}.{group}")),
        (group, Some(kind)) if is_almost(kind, "AuthorizationPolicy", EDITS) => Whose::Refused(
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
        (
            Some(group),
            Some(kind @ ("EndpointSlice" | "GRPCRoute" | "HTTPRoute" | "TCPRoute" | "TLSRoute")),
        ) => Whose::Refused(other(group, kind), not_read(group, kind)),
        (Some(group @ "gateway.networking.k8s.io"), Some(kind)) if !is_almost_read(kind) => {
            match kind.ends_with("Route") {
                true => Whose::Route(not_read(group, kind)),
                false => Whose::Unknown(format!("{kind}.{group}")),
            }
        }
        (Some(""), Some(kind @ "List")) => Whose::Refused(
            other("", kind),
            "has no items: as for kubectl it is no list, and of no kind that is read".into(),
        ),
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

/// Whether a kind is almost one that is read, or that would be refused on a Service.
fn is_almost_read(kind: &str) -> bool {
    // Names of protocols are short.
    READ.iter().any(|name| is_almost(kind, name, EDITS))
        || READ_EXACTLY.iter().any(|name| is_almost(kind, name, 1))
        || ROUTES
            .iter()
            .chain(READ_ROUTES)
            .any(|name| is_almost(kind, name, 2))
}

/// Whether a group is clearly another program's: a domain that is not almost one of ours, and shares
/// no label with them but the last.
fn is_foreign(group: &str) -> bool {
    let labels = |group: &'static str| group.rsplit('.').skip(1);
    let ours = |label: &str| {
        let mut all = GROUPS.iter().flat_map(|group| labels(group));
        // One edit for each five letters.
        all.any(|ours| is_almost(label, ours, ours.len() / 5))
    };
    // Groups without a dot are of Kubernetes itself.
    let domain = group.contains('.') && !group.contains('/');
    let almost = GROUPS.iter().any(|ours| is_almost(group, ours, EDITS));
    domain && !almost && !group.split('.').any(ours)
}

/// Whether a text is another but for a few characters (Levenshtein), in any case.
fn is_almost(text: &str, name: &str, most: usize) -> bool {
    let (text, name) = (text.as_bytes(), name.as_bytes());
    if text.len().abs_diff(name.len()) > most {
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
    row[name.len()] <= most
}
