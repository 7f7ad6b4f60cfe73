//! The CA, the control plane and the webhook: what runs, and how it is reached. Pure.

use serde_json::{Value as Json, json};

use super::Words;
use crate::layout::{
    AGENT, AUDIENCE, BINARY, CA, CA_PORT, CONFIG, CONTROL, CONTROL_PORT, INJECT, MOUNTED, ROOTS,
    ROOTS_KEY, STATE, WEBHOOK, WEBHOOK_PORT,
};

/// The user that both run as: none that a node has.
const USER: u32 = 65_532;
/// The label by which the Pods of a part are selected.
pub(super) const NAME: &str = "app.kubernetes.io/name";
/// The folder of the CA, below one that belongs to root.
const OWN: &str = "own";

/// A port of a part.
struct Port {
    name: &'static str,
    number: u16,
    /// Its protocol, for what reads Services.
    protocol: &'static str,
}

const CA_PORTS: &[Port] = &[Port {
    name: "ca",
    number: CA_PORT,
    protocol: "tcp",
}];
const CONTROL_PORTS: &[Port] = &[
    Port {
        name: "control",
        number: CONTROL_PORT,
        protocol: "tcp",
    },
    Port {
        name: "webhook",
        number: WEBHOOK_PORT,
        protocol: "https",
    },
];

/// All but the webhook, which nothing answers before the others run.
pub(super) fn objects(words: &Words) -> Vec<Json> {
    let mut all = vec![only_these(words)];
    for (name, ports) in [(CA, CA_PORTS), (CONTROL, CONTROL_PORTS)] {
        all.extend([
            service(words, name, ports),
            disruption(words, name),
            reached(words, name, ports),
        ]);
    }
    all.extend([ca(words), control(words)]);
    all
}

/// The CA.
fn ca(words: &Words) -> Json {
    let dir = format!("{STATE}/{OWN}");
    let (domain, system) = (&words.trust_domain, &words.system);
    let id = words.control_id();
    let arguments = [
        "ca".to_owned(),
        "serve".into(),
        format!("--dir={dir}"),
        format!("--listen=[::]:{CA_PORT}"),
        format!("--trust-domain={domain}"),
        format!("--audience={AUDIENCE}"),
        "--kubernetes-review".into(),
        format!("--kubernetes-secrets={system}"),
        format!("--kubernetes-webhook={WEBHOOK}"),
        format!("--kubernetes-sign={}", words.sign),
        format!("--host-name-of={id}={CONTROL}.{system}.svc"),
    ];
    let container = json!({
        "args": arguments,
        "readinessProbe": probe(&["ca", "status", "--dir", &dir]),
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "volumeMounts": [{"name": "state", "mountPath": STATE}],
    });
    let volumes = json!([{"name": "state", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}]);
    deployment(words, CA, CA_PORTS, container, volumes)
}

/// The control plane.
fn control(words: &Words) -> Json {
    let container = json!({
        "args": ["control", "--dir", CONFIG],
        "readinessProbe": probe(&["status", "--ready"]),
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG, "readOnly": true},
            {"name": "identity", "mountPath": MOUNTED, "readOnly": true},
            {"name": "state", "mountPath": STATE},
        ],
    });
    let token = json!({"path": "token", "audience": AUDIENCE, "expirationSeconds": 3_600});
    let roots = json!({"name": ROOTS, "items": [{"key": ROOTS_KEY, "path": ROOTS_KEY}]});
    let file = format!("metadata.annotations['{AGENT}']");
    let volumes = json!([
        {"name": "config", "downwardAPI": {"items": [{"path": "agent.yaml", "fieldRef": {"fieldPath": file}}]}},
        {"name": "identity", "projected": {"sources": [
            {"serviceAccountToken": token}, {"configMap": roots},
        ]}},
        // What it keeps of its identity outlives its container.
        {"name": "state", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
    ]);
    let mut control = deployment(words, CONTROL, CONTROL_PORTS, container, volumes);
    control["spec"]["template"]["metadata"]["annotations"] = json!({AGENT: config(words)});
    control
}

/// The file of the control plane, which is an annotation of its Pods: a change of it is a change of them.
fn config(words: &Words) -> String {
    let (domain, system) = (&words.trust_domain, &words.system);
    let file = json!({
        "apiVersion": "inmesh.dev/v1alpha1",
        "kind": "Agent",
        "workload": {"namespace": system, "name": CONTROL, "serviceAccount": CONTROL},
        // Which workloads may follow it is for policies of its namespace.
        "defaultAction": "allow",
        "peers": "strict",
        "meshNamespace": system,
        "identity": {"ca": {
            "address": format!("{CA}.{system}.svc:{CA_PORT}"),
            "caId": format!("spiffe://{domain}/inmesh/ca"),
            "trustBundle": format!("{MOUNTED}/{ROOTS_KEY}"),
            "tokenFile": format!("{MOUNTED}/token"),
            "keep": format!("{STATE}/identity"),
        }},
        "admin": {"bind": "127.0.0.1:15000"},
        "kubernetes": {},
        "controlPlane": {
            "bind": format!("[::]:{CONTROL_PORT}"),
            "inject": {
                "bind": format!("[::]:{WEBHOOK_PORT}"),
                "image": words.image, "imagePullPolicy": words.pull, "peers": words.peers,
            },
        },
    });
    // JSON: its quotes are the same whatever a value of a chart becomes.
    let text = serde_json::to_string_pretty(&file).expect("a JSON value is text");
    format!("{text}\n")
}

fn deployment(
    words: &Words,
    name: &str,
    ports: &[Port],
    mut container: Json,
    volumes: Json,
) -> Json {
    container["name"] = name.into();
    container["image"] = words.image.as_str().into();
    container["imagePullPolicy"] = words.pull.as_str().into();
    container["command"] = json!([BINARY]);
    let ports = ports
        .iter()
        .map(|port| json!({"name": port.name, "containerPort": port.number}));
    container["ports"] = ports.collect();
    container["securityContext"] = json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
    });
    let mut labels = words.labels(name);
    // It has no agent beside it, wherever its Namespace is labelled.
    labels[INJECT] = "disabled".into();
    let spread = json!({
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {NAME: name}},
    });
    let mut deployment = words.object("apps/v1", "Deployment", name, name);
    deployment["spec"] = json!({
        "replicas": words.replicas,
        "selector": {"matchLabels": {NAME: name}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {
            "metadata": {"labels": labels},
            "spec": {
                "serviceAccountName": name,
                "automountServiceAccountToken": true,
                "securityContext": {
                    "runAsUser": USER, "runAsGroup": USER, "runAsNonRoot": true, "fsGroup": USER,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "topologySpreadConstraints": [spread],
                "containers": [container],
                "volumes": volumes,
            },
        },
    });
    deployment
}

fn probe(arguments: &[&str]) -> Json {
    let command: Vec<&str> = [BINARY]
        .into_iter()
        .chain(arguments.iter().copied())
        .collect();
    json!({"exec": {"command": command}, "periodSeconds": 1, "timeoutSeconds": 5})
}

fn service(words: &Words, name: &str, ports: &[Port]) -> Json {
    let ports = ports.iter().map(|port| {
        json!({
            "name": port.name, "port": port.number, "targetPort": port.number,
            "appProtocol": port.protocol,
        })
    });
    let mut service = words.object("v1", "Service", name, name);
    service["spec"] = json!({
        "selector": {NAME: name},
        "ipFamilyPolicy": "PreferDualStack",
        "ports": ports.collect::<Vec<_>>(),
    });
    service
}

/// One of its Pods at a time may be taken from its node.
fn disruption(words: &Words, name: &str) -> Json {
    let mut budget = words.object("policy/v1", "PodDisruptionBudget", name, name);
    budget["spec"] = json!({"maxUnavailable": 1, "selector": {"matchLabels": {NAME: name}}});
    budget
}

/// Nothing else in the namespace takes a connection.
fn only_these(words: &Words) -> Json {
    let api = "networking.k8s.io/v1";
    let mut policy = words.object(api, "NetworkPolicy", "mesh-none-else", CA);
    policy["spec"] = json!({"podSelector": {}, "policyTypes": ["Ingress"]});
    policy
}

/// A part takes connections to its ports from anywhere: each of them asks for an identity, or is the webhook,
/// which is called by API servers, that no policy can select.
fn reached(words: &Words, name: &str, ports: &[Port]) -> Json {
    let ports = ports
        .iter()
        .map(|port| json!({"protocol": "TCP", "port": port.number}));
    let mut policy = words.object("networking.k8s.io/v1", "NetworkPolicy", name, name);
    policy["spec"] = json!({
        "podSelector": {"matchLabels": {NAME: name}},
        "policyTypes": ["Ingress"],
        "ingress": [{"ports": ports.collect::<Vec<_>>()}],
    });
    policy
}

/// What puts the mesh beside Pods. Its `caBundle` is the CA's to write.
pub(super) fn webhook(words: &Words) -> Json {
    let api = "admissionregistration.k8s.io/v1";
    let mut webhook = words.global(api, "MutatingWebhookConfiguration", WEBHOOK, CONTROL);
    webhook["metadata"]["annotations"] = json!({crate::layout::TRUST_DOMAIN: words.trust_domain});
    // A Namespace that the control plane itself needs would wait for itself.
    let never = ["kube-system", words.system.as_str()];
    webhook["webhooks"] = json!([{
        "name": "inject.inmesh.dev",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "reinvocationPolicy": "IfNeeded",
        "timeoutSeconds": 10,
        "clientConfig": {"service": {
            "namespace": words.system, "name": CONTROL, "path": "/inject", "port": WEBHOOK_PORT,
        }},
        "namespaceSelector": {
            "matchLabels": {INJECT: "enabled"},
            "matchExpressions": [
                {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": never},
            ],
        },
        "objectSelector": {"matchExpressions": [
            {"key": INJECT, "operator": "NotIn", "values": ["disabled"]},
        ]},
        "rules": [{
            "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"],
            "scope": "Namespaced",
        }],
    }]);
    webhook
}
