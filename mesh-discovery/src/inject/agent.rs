//! The file of the agent beside a Pod.

use serde_json::{Map, Value as Json, json};

use super::sidecar::Sidecar;

/// Where things are in the containers.
pub(super) const CONFIG: &str = "/etc/inmesh";
pub(super) const MOUNTED: &str = "/var/run/secrets/inmesh.dev";
pub(super) const STATE: &str = "/var/lib/inmesh";
/// What tokens for the CA are meant for.
pub(super) const AUDIENCE: &str = "inmesh-ca";
/// The ports that connections are redirected to, those of `mesh capture`.
const OUTBOUND: u16 = 15_001;
const INBOUND: u16 = 15_006;
/// The ports of the CA and the control plane.
const CA: u16 = 15_012;
const CONTROL: u16 = 15_010;

/// What a Pod is.
pub(super) struct Own {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) account: String,
    pub(super) labels: Map<String, Json>,
    /// The paths that the kubelet asks for.
    pub(super) probes: Vec<String>,
    pub(super) strict: bool,
}

/// The document of kind `Agent`.
pub(super) fn file(own: &Own, sidecar: &Sidecar) -> Json {
    let (domain, system) = (&sidecar.trust_domain, &sidecar.system);
    let at = |name: &str, port: u16| format!("{name}.{system}.svc:{port}");
    let mut inbound = json!({"app": "127.0.0.1"});
    if !own.probes.is_empty() {
        inbound["probes"] = own.probes.clone().into();
    }
    json!({
        "apiVersion": "inmesh.dev/v1alpha1",
        "kind": "Agent",
        "workload": {
            "namespace": own.namespace, "name": own.name, "serviceAccount": own.account,
            "labels": own.labels,
        },
        "defaultAction": "allow",
        "peers": if own.strict { "strict" } else { "permissive" },
        "meshNamespace": system,
        "identity": {"ca": {
            "address": at("mesh-ca", CA),
            "caId": format!("spiffe://{domain}/inmesh/ca"),
            "trustBundle": format!("{MOUNTED}/ca.crt"),
            "tokenFile": format!("{MOUNTED}/token"),
            "keep": format!("{STATE}/identity"),
        }},
        "control": {
            "addresses": [at("mesh-control", CONTROL)],
            "controlId": format!("spiffe://{domain}/ns/{system}/sa/mesh-control"),
            "keep": format!("{STATE}/control.state"),
        },
        "listeners": [
            {"bind": format!("127.0.0.1:{OUTBOUND}"), "outbound": {"captured": true}},
            {"bind": format!("[::1]:{OUTBOUND}"), "outbound": {"captured": true}},
            {"bind": format!("[::]:{INBOUND}"), "inbound": inbound},
        ],
        "admin": {"bind": "127.0.0.1:15000"},
        // An application reaches what is outside the mesh as before.
        "outboundTrafficPolicy": {"mode": "ALLOW_ANY"},
        // It ends after the application, whose endpoints are gone by then.
        "limits": {"drainLead": "0s", "drainDeadline": "10s"},
        "accessLog": {"path": "-", "sample": "0%"},
    })
}
