//! What a cluster has of a mesh, and in which order it goes. Pure.
//!
//! 1. The webhook is first: no Pod can be made in a Namespace of the mesh while it is there and nothing answers.
//! 2. CA and control plane are next: they would write again what is removed after them.
//! 3. Entries of ours in the statuses of routes go, and our annotations; those of others stay.
//! 4. Definitions go with all objects of their kinds.
//! 5. The Namespace is last. It stays where it was not installed, or has a Pod of another.

use serde_json::{Value as Json, json};

use crate::kube::status::CONTROLLER;
use crate::layout::{CA, CONTROL, OURS, PREVIOUS, ROOTS, SIGNER_LEASE, STAGE, TALLIES, pointer};

/// Where objects of ours are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Where {
    /// Of the cluster.
    Cluster,
    /// In all namespaces.
    Everywhere,
    /// In that of the mesh.
    Home,
    /// The same, by names of ours: processes made them, without a label.
    HomeByName,
}

/// A kind of which there are objects of ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) kind: &'static str,
    /// Empty is the core group.
    pub(super) group: &'static str,
    /// Those that may be served, the preferred first.
    pub(super) versions: &'static [&'static str],
    pub(super) plural: &'static str,
    pub(super) at: Where,
}

const fn kind(kind: &'static str, group: &'static str, plural: &'static str, at: Where) -> Kind {
    Kind {
        kind,
        group,
        versions: &["v1"],
        plural,
        at,
    }
}

const RBAC: &str = "rbac.authorization.k8s.io";

/// All of them, in the order in which they go.
pub(super) const KINDS: &[Kind] = &[
    kind(
        "MutatingWebhookConfiguration",
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        Where::Cluster,
    ),
    kind("Deployment", "apps", "deployments", Where::Home),
    kind(
        "PodDisruptionBudget",
        "policy",
        "poddisruptionbudgets",
        Where::Home,
    ),
    kind(
        "NetworkPolicy",
        "networking.k8s.io",
        "networkpolicies",
        Where::Home,
    ),
    kind("Service", "", "services", Where::Home),
    kind("RoleBinding", RBAC, "rolebindings", Where::Home),
    kind("Role", RBAC, "roles", Where::Home),
    kind(
        "ClusterRoleBinding",
        RBAC,
        "clusterrolebindings",
        Where::Cluster,
    ),
    kind("ClusterRole", RBAC, "clusterroles", Where::Cluster),
    kind("ServiceAccount", "", "serviceaccounts", Where::Home),
    kind("ConfigMap", "", "configmaps", Where::Everywhere),
    Kind {
        kind: "ClusterTrustBundle",
        group: "certificates.k8s.io",
        versions: &["v1", "v1beta1", "v1alpha1"],
        plural: "clustertrustbundles",
        at: Where::Cluster,
    },
    kind("Secret", "", "secrets", Where::HomeByName),
    kind("Lease", "coordination.k8s.io", "leases", Where::HomeByName),
    kind(
        "CustomResourceDefinition",
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        Where::Cluster,
    ),
    kind("Namespace", "", "namespaces", Where::Cluster),
];

/// The selector of what is labelled as ours.
pub(super) fn selector() -> String {
    format!("{}={}", OURS.0, OURS.1)
}

/// Whether an object that was listed is one of ours by its name too. Operators group what they add to a mesh by
/// the same label: in other namespaces the roots alone are ours.
pub(super) fn is_ours_by_name(kind: &Kind, name: &str) -> bool {
    match kind.kind {
        "ConfigMap" => name == ROOTS,
        _ if kind.at != Where::HomeByName => true,
        "Secret" => name == CA || name.starts_with(&format!("{CA}-key-")),
        _ => [CONTROL, ROOTS, SIGNER_LEASE, TALLIES].contains(&name),
    }
}

/// A change of a route that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    /// Behind its path: of its status, or of itself.
    pub(super) at: &'static str,
    /// A JSON patch.
    pub(super) patch: Json,
}

/// The changes that take what we wrote off a route: entries in its status, and what was staged in its place.
pub(super) fn changes(route: &Json) -> Vec<Change> {
    let status = without_entries(route).map(|patch| Change {
        at: "/status",
        patch,
    });
    let annotations = without_annotations(route).map(|patch| Change { at: "", patch });
    // The version that the first is made of is another after the second.
    status.into_iter().chain(annotations).collect()
}

fn without_entries(route: &Json) -> Option<Json> {
    let parents = route["status"]["parents"].as_array()?;
    let others: Vec<_> = parents
        .iter()
        .filter(|entry| entry["controllerName"] != CONTROLLER)
        .collect();
    if others.len() == parents.len() {
        return None;
    }
    let version = &route["metadata"]["resourceVersion"];
    let seen = json!({"op": "test", "path": "/metadata/resourceVersion", "value": version});
    let change = if others.is_empty() {
        json!({"op": "remove", "path": "/status"})
    } else {
        json!({"op": "replace", "path": "/status/parents", "value": others})
    };
    Some(json!([seen, change]))
}

fn without_annotations(route: &Json) -> Option<Json> {
    let ours = [STAGE, PREVIOUS].into_iter().filter(|name| {
        let annotations = &route["metadata"]["annotations"];
        annotations[*name].is_string()
    });
    let remove = ours.map(|name| json!({"op": "remove", "path": pointer(name)}));
    let patch: Vec<Json> = remove.collect();
    (!patch.is_empty()).then(|| patch.into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::inject::Sidecar;
    use crate::install::Install;

    #[test]
    fn each_kind_that_is_installed_is_removed() {
        let domain = "cluster.local".parse().expect("a trust domain");
        let mut install = Install::new(Sidecar::new("mesh:dev", domain));
        install.sign = true;
        let all = install.objects();
        let installed: BTreeSet<_> = all.iter().filter_map(|one| one["kind"].as_str()).collect();
        let removed: BTreeSet<_> = KINDS.iter().map(|one| one.kind).collect();
        // What the parts themselves make while they run.
        let made = ["ClusterTrustBundle", "ConfigMap", "Lease", "Secret"].into();
        assert_eq!(
            removed
                .difference(&installed)
                .copied()
                .collect::<BTreeSet<_>>(),
            made
        );
        assert!(installed.is_subset(&removed));
        for object in &all {
            let api = object["apiVersion"].as_str().expect("a version");
            let group = api.rsplit_once('/').map_or("", |(group, _)| group);
            let of = KINDS.iter().find(|one| object["kind"] == one.kind);
            let of = of.expect("it is removed");
            assert_eq!(of.group, group);
            let namespaced = object["metadata"]["namespace"].is_string();
            assert_eq!(namespaced, of.at != Where::Cluster, "{object}");
        }
    }

    #[test]
    fn names_of_ours_are_known_and_no_others() {
        for (kind, name, ours) in [
            ("ConfigMap", "mesh-root", true),
            ("ConfigMap", "dashboards", false),
            ("Deployment", "mesh-ca", true),
            ("Secret", "mesh-ca", true),
            ("Secret", "mesh-ca-key-0a1b", true),
            ("Secret", "mesh-cable", false),
            ("Secret", "sh.helm.release.v1.inmesh.v1", false),
            ("Lease", "mesh-control", true),
            ("Lease", "mesh-root", true),
            ("Lease", "mesh-signer", true),
            ("Lease", "mesh-canary", true),
            ("Lease", "mesh-ca", false),
        ] {
            let of = KINDS
                .iter()
                .find(|one| one.kind == kind)
                .expect("it is known");
            assert_eq!(is_ours_by_name(of, name), ours, "{kind} {name}");
        }
    }

    #[test]
    fn entries_of_others_stay() {
        let route = |controllers: &[&str]| {
            let parents = controllers
                .iter()
                .map(|name| json!({"controllerName": name}));
            json!({
                "metadata": {"resourceVersion": "7"},
                "status": {"parents": parents.collect::<Vec<_>>()},
            })
        };
        assert_eq!(without_entries(&json!({"metadata": {}})), None);
        assert_eq!(without_entries(&route(&[])), None);
        assert_eq!(without_entries(&route(&["other"])), None);
        let seen = json!({"op": "test", "path": "/metadata/resourceVersion", "value": "7"});
        let alone = without_entries(&route(&["inmesh.dev/mesh"])).expect("a change");
        assert_eq!(alone, json!([seen, {"op": "remove", "path": "/status"}]));
        let among = without_entries(&route(&["a", "inmesh.dev/mesh", "b"])).expect("a change");
        let left = json!([{"controllerName": "a"}, {"controllerName": "b"}]);
        assert_eq!(
            among,
            json!([seen, {"op": "replace", "path": "/status/parents", "value": left}])
        );
    }

    #[test]
    fn what_was_staged_of_a_route_goes() {
        let route = json!({
            "metadata": {"resourceVersion": "7", "annotations": {"a": "b", STAGE: "{}", PREVIOUS: "{}"}},
            "status": {"parents": [{"controllerName": CONTROLLER}]},
        });
        let all = changes(&route);
        assert_eq!(
            all.iter().map(|one| one.at).collect::<Vec<_>>(),
            ["/status", ""]
        );
        let remove = |path: &str| json!({"op": "remove", "path": path});
        let expected = [
            remove("/metadata/annotations/inmesh.dev~1canary"),
            remove("/metadata/annotations/inmesh.dev~1previous"),
        ];
        assert_eq!(all[1].patch, Json::from(expected.to_vec()));
        assert_eq!(
            changes(&json!({"metadata": {"annotations": {"a": "b"}}})),
            []
        );
    }
}
