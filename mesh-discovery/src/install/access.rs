//! What each part may ask an API server for, and nothing more. Pure.

use serde_json::{Value as Json, json};

use super::Words;
use crate::layout::{CA, CONTROL, ROOTS, SIGNER, SIGNER_LEASE, TALLIES, WEBHOOK};

const READ: [&str; 3] = ["get", "list", "watch"];
const GATEWAY: &str = "gateway.networking.k8s.io";

/// One rule of a role.
fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Json {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

/// The same of objects with these names alone.
fn named(group: &str, resources: &[&str], names: &[&str], verbs: &[&str]) -> Json {
    json!({"apiGroups": [group], "resources": resources, "resourceNames": names, "verbs": verbs})
}

/// What the control plane reads, in all namespaces, and writes: statuses, and what is staged.
fn control() -> Vec<Json> {
    let routes = ["grpcroutes", "httproutes", "tcproutes", "tlsroutes"];
    let statuses = routes.map(|route| format!("{route}/status"));
    let statuses: Vec<&str> = statuses.iter().map(String::as_str).collect();
    let core = ["configmaps", "namespaces", "nodes", "pods", "services"];
    let of_gateway: Vec<&str> = ["backendtlspolicies"].into_iter().chain(routes).collect();
    let ours = ["authorizationpolicies", "serviceentries", "trafficpolicies"];
    let istio = [
        "authorizationpolicies",
        "peerauthentications",
        "requestauthentications",
    ];
    vec![
        rule("", &core, &READ),
        rule("discovery.k8s.io", &["endpointslices"], &READ),
        rule(GATEWAY, &of_gateway, &READ),
        rule(GATEWAY, &statuses, &["patch"]),
        // What is staged of them is promoted, or taken back.
        rule(GATEWAY, &["grpcroutes", "httproutes"], &["patch"]),
        rule("inmesh.dev", &ours, &READ),
        rule(
            "inmesh.dev",
            &["authorizationpolicies", "trafficpolicies"],
            &["patch"],
        ),
        rule("security.istio.io", &istio, &READ),
        rule(
            "multicluster.x-k8s.io",
            &["serviceexports", "serviceimports"],
            &READ,
        ),
    ]
}

/// The Leases of one part, in its namespace.
fn leases(names: &[&str]) -> [Json; 2] {
    let group = "coordination.k8s.io";
    [
        // Creation knows no names.
        rule(group, &["leases"], &["create"]),
        named(group, &["leases"], names, &["get", "update"]),
    ]
}

/// What the CA reads and writes in its namespace: its state, its keys, its Leases.
fn ca_at_home() -> Vec<Json> {
    let secrets = ["create", "delete", "get", "list", "update"];
    let mut rules = vec![rule("", &["secrets"], &secrets)];
    rules.extend(leases(&[ROOTS, SIGNER_LEASE]));
    rules
}

/// What the CA reads and writes in the cluster: reviews of tokens, and the roots wherever they are published.
fn ca(trust_bundle: &str) -> Vec<Json> {
    let certificates = "certificates.k8s.io";
    let maps = ["create", "delete", "list", "patch", "watch"];
    vec![
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        rule("", &["namespaces"], &["list", "watch"]),
        named("", &["configmaps"], &[ROOTS], &maps),
        named(
            "admissionregistration.k8s.io",
            &["mutatingwebhookconfigurations"],
            &[WEBHOOK],
            &["get", "patch"],
        ),
        named(
            certificates,
            &["clustertrustbundles"],
            &[trust_bundle],
            &["create", "get", "patch"],
        ),
        named(certificates, &["signers"], &[SIGNER], &["attest"]),
    ]
}

/// What the CA needs to sign what an API server is asked for.
fn signer() -> Vec<Json> {
    let group = "certificates.k8s.io";
    let requests = ["certificatesigningrequests", "podcertificaterequests"];
    let answers = [
        "certificatesigningrequests/approval",
        "certificatesigningrequests/status",
        "podcertificaterequests/status",
    ];
    vec![
        rule(group, &requests, &["list", "watch"]),
        rule(group, &answers, &["patch"]),
        named(group, &["signers"], &[SIGNER], &["approve", "sign"]),
    ]
}

/// The service accounts with their roles.
pub(super) fn objects(words: &Words) -> Vec<Json> {
    vec![
        account(words, CA),
        account(words, CONTROL),
        role(words, CA, &ca_at_home()),
        binding(words, CA),
        role(words, CONTROL, &leases(&[CONTROL, TALLIES])),
        binding(words, CONTROL),
        cluster_role(words, CA, CA, &ca(&words.trust_bundle)),
        cluster_binding(words, CA, CA),
        cluster_role(words, CONTROL, CONTROL, &control()),
        cluster_binding(words, CONTROL, CONTROL),
    ]
}

/// What the CA needs besides where it is the signer of Pod certificates.
pub(super) fn signer_objects(words: &Words) -> Vec<Json> {
    vec![
        cluster_role(words, SIGNER_LEASE, CA, &signer()),
        cluster_binding(words, SIGNER_LEASE, CA),
    ]
}

fn account(words: &Words, name: &str) -> Json {
    let mut account = words.object("v1", "ServiceAccount", name, name);
    // Only what asks an API server gets a token, by its Pod.
    account["automountServiceAccountToken"] = false.into();
    account
}

const RBAC: &str = "rbac.authorization.k8s.io";

fn role(words: &Words, name: &str, rules: &[Json]) -> Json {
    let mut role = words.object(&format!("{RBAC}/v1"), "Role", name, name);
    role["rules"] = rules.into();
    role
}

fn cluster_role(words: &Words, name: &str, part: &str, rules: &[Json]) -> Json {
    let mut role = words.global(&format!("{RBAC}/v1"), "ClusterRole", name, part);
    role["rules"] = rules.into();
    role
}

fn binding(words: &Words, name: &str) -> Json {
    let binding = words.object(&format!("{RBAC}/v1"), "RoleBinding", name, name);
    bound(binding, words, "Role", name, name)
}

fn cluster_binding(words: &Words, name: &str, account: &str) -> Json {
    let binding = words.global(&format!("{RBAC}/v1"), "ClusterRoleBinding", name, account);
    bound(binding, words, "ClusterRole", name, account)
}

fn bound(mut binding: Json, words: &Words, kind: &str, role: &str, account: &str) -> Json {
    binding["roleRef"] = json!({"apiGroup": RBAC, "kind": kind, "name": role});
    binding["subjects"] =
        json!([{"kind": "ServiceAccount", "name": account, "namespace": words.system}]);
    binding
}
