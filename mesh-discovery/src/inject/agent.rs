//! The file of the agent beside a Pod.

use serde_json::{Map, Value as Json, json};

use super::sidecar::Sidecar;
use crate::layout::{CA, CA_PORT, CONTROL, CONTROL_PORT, MOUNTED, ROOTS_KEY, STATE};

/// The ports that connections are redirected to, those of `mesh capture`.
const OUTBOUND: u16 = 15_001;
const INBOUND: u16 = 15_006;

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
            "address": at(CA, CA_PORT),
            "caId": format!("spiffe://{domain}/inmesh/ca"),
            "trustBundle": format!("{MOUNTED}/{ROOTS_KEY}"),
            "tokenFile": format!("{MOUNTED}/token"),
            "keep": format!("{STATE}/identity"),
        }},
        "control": {
            "addresses": [at(CONTROL, CONTROL_PORT)],
            "controlId": format!("spiffe://{domain}/ns/{system}/sa/{CONTROL}"),
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
