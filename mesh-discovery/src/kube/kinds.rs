//! The kinds that are watched, and where an API server has them. Pure.

/// A kind that is watched.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Watched {
    pub(super) kind: &'static str,
    /// Empty is the core group.
    pub(super) group: &'static str,
    /// Those that are read, the preferred first.
    pub(super) versions: &'static [&'static str],
    /// The name of its collection.
    pub(super) plural: &'static str,
    /// Whether every cluster has it; any other comes with a CustomResourceDefinition.
    pub(super) built_in: bool,
}

const fn built_in(group: &'static str, kind: &'static str, plural: &'static str) -> Watched {
    Watched {
        kind,
        group,
        versions: &["v1"],
        plural,
        built_in: true,
    }
}

const fn custom(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    versions: &'static [&'static str],
) -> Watched {
    Watched {
        kind,
        group,
        versions,
        plural,
        built_in: false,
    }
}

pub(super) const GATEWAY: &str = "gateway.networking.k8s.io";
const ISTIO: &str = "security.istio.io";
const MULTICLUSTER: &str = "multicluster.x-k8s.io";
/// That of our own kinds.
pub(super) const OURS: &str = "inmesh.dev";

/// All of them. Of two kinds that stand for one (policies of two groups), the first here has
/// precedence.
///
/// Some are not evaluated; they are watched so that each of their objects is refused by name and none
/// seems to be enforced.
pub(super) const KINDS: &[Watched] = &[
    built_in("", "Namespace", "namespaces"),
    built_in("", "Node", "nodes"),
    built_in("", "Pod", "pods"),
    built_in("", "Service", "services"),
    built_in("", "ConfigMap", "configmaps"),
    built_in("discovery.k8s.io", "EndpointSlice", "endpointslices"),
    custom(GATEWAY, "HTTPRoute", "httproutes", &["v1", "v1beta1"]),
    custom(GATEWAY, "GRPCRoute", "grpcroutes", &["v1"]),
    custom(
        GATEWAY,
        "TLSRoute",
        "tlsroutes",
        &["v1", "v1alpha3", "v1alpha2"],
    ),
    custom(GATEWAY, "TCPRoute", "tcproutes", &["v1", "v1alpha2"]),
    custom(
        GATEWAY,
        "BackendTLSPolicy",
        "backendtlspolicies",
        &["v1", "v1alpha3"],
    ),
    custom(
        OURS,
        "AuthorizationPolicy",
        "authorizationpolicies",
        &["v1alpha1"],
    ),
    custom(OURS, "ServiceEntry", "serviceentries", &["v1alpha1"]),
    custom(OURS, "TrafficPolicy", "trafficpolicies", &["v1alpha1"]),
    custom(
        ISTIO,
        "AuthorizationPolicy",
        "authorizationpolicies",
        &["v1", "v1beta1"],
    ),
    custom(
        ISTIO,
        "PeerAuthentication",
        "peerauthentications",
        &["v1", "v1beta1"],
    ),
    custom(
        ISTIO,
        "RequestAuthentication",
        "requestauthentications",
        &["v1", "v1beta1"],
    ),
    custom(
        MULTICLUSTER,
        "ServiceExport",
        "serviceexports",
        &["v1beta1", "v1alpha1"],
    ),
    custom(
        MULTICLUSTER,
        "ServiceImport",
        "serviceimports",
        &["v1beta1", "v1alpha1"],
    ),
];

// === impl Watched ===

impl Watched {
    /// The `apiVersion` of its objects in a version.
    pub(super) fn api_version(&self, version: &str) -> String {
        match self.group {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        }
    }

    /// Where its API group and version are described.
    pub(super) fn discovery_path(&self, version: &str) -> String {
        match self.group {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        }
    }

    /// Where its objects of a namespace are, before the namespace and after it.
    pub(super) fn path_in(&self, version: &str) -> (String, &'static str) {
        (
            format!("{}/namespaces", self.discovery_path(version)),
            self.plural,
        )
    }

    /// Where its objects of all namespaces are.
    pub(super) fn path(&self, version: &str) -> String {
        format!("{}/{}", self.discovery_path(version), self.plural)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_an_api_server() {
        let at = |kind: &str, group: &str| {
            let found = KINDS.iter().find(|k| k.kind == kind && k.group == group);
            let found = found.expect("it is watched");
            let version = found.versions[0];
            (found.api_version(version), found.path(version))
        };
        for (kind, group, version, path) in [
            ("Pod", "", "v1", "/api/v1/pods"),
            (
                "HTTPRoute",
                GATEWAY,
                "gateway.networking.k8s.io/v1",
                "/apis/gateway.networking.k8s.io/v1/httproutes",
            ),
        ] {
            assert_eq!(at(kind, group), (version.into(), path.into()));
        }
    }

    #[test]
    fn no_kind_is_watched_twice() {
        let mut names: Vec<_> = KINDS.iter().map(|k| (k.group, k.kind)).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KINDS.len());
    }
}
