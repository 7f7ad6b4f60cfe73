//! One Pod, or the template of one.

use inmesh_core::model::Namespace;
use serde_json::{Value as Json, json};

use super::agent::{self, Own};
use super::fields::{list, mapping};
use super::sidecar::{InjectError, Injected, Sidecar};
use crate::layout::{AGENT, AUDIENCE, BINARY, CONFIG, INJECT, MOUNTED, ROOTS, ROOTS_KEY, STATE};

/// The user that the agent runs as: its connections are not redirected.
const USER: u32 = 1_337;
/// The containers and volumes that are added.
const CAPTURE: &str = "inmesh-capture";
const PROXY: &str = "inmesh-proxy";
const VOLUMES: [&str; 3] = ["inmesh-agent", "inmesh-identity", "inmesh-state"];
/// How a Pod is reached: by the identity of its service account.
const TRANSPORT: &str = "inmesh.dev/transport";
/// What a Pod says of its own redirection.
const EXCLUDED: [(&str, &str); 3] = [
    (
        "inmesh.dev/exclude-inbound-ports",
        "--exclude-inbound-ports",
    ),
    (
        "inmesh.dev/exclude-outbound-ports",
        "--exclude-outbound-ports",
    ),
    (
        "inmesh.dev/exclude-outbound-cidrs",
        "--exclude-outbound-cidrs",
    ),
];
/// Whether plaintext is refused: `strict` or `permissive`.
const PEERS: &str = "inmesh.dev/peers";
/// The probes of a container.
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// Where a Pod stands, and what it is of.
pub(super) struct Template {
    /// The path before `spec` and `metadata`, with a dot behind it.
    pub(super) path: String,
    pub(super) namespace: Namespace,
    /// The name of the object.
    pub(super) owner: String,
}

impl Template {
    fn error(&self, field: &str, why: impl Into<String>) -> InjectError {
        InjectError::new(format!("{}{field}", self.path), why)
    }

    /// Adds to a Pod what is to stand beside it.
    pub(super) fn inject(
        &self,
        pod: &mut Json,
        sidecar: &Sidecar,
    ) -> Result<Injected, InjectError> {
        if let Some(why) = self.declined(pod)? {
            return Ok(why);
        }
        let excluded = Self::excluded(pod);
        let strict = self.strict(pod, sidecar)?;
        let probes = self.probes(pod, strict)?;
        let own = self.own(pod, probes, strict);
        let file = agent::file(&own, sidecar).to_string();
        let odd = |field: &str| self.error(field, "is not what a Pod has there");
        mapping(pod, "metadata").ok_or_else(|| odd("metadata"))?;
        let annotations = mapping(&mut pod["metadata"], "annotations");
        let annotations = annotations.ok_or_else(|| odd("metadata.annotations"))?;
        annotations.insert(AGENT.to_owned(), file.into());
        annotations.insert(TRANSPORT.to_owned(), "mesh".into());
        let spec = &mut pod["spec"];
        let containers = list(spec, "initContainers").ok_or_else(|| odd("spec.initContainers"))?;
        containers.splice(0..0, [capture(sidecar, &excluded), proxy(sidecar)]);
        let volumes = list(spec, "volumes").ok_or_else(|| odd("spec.volumes"))?;
        volumes.extend(added_volumes());
        Ok(Injected::Added)
    }

    /// Why nothing is to be done, if nothing is.
    fn declined(&self, pod: &Json) -> Result<Option<Injected>, InjectError> {
        let label = &pod["metadata"]["labels"][INJECT];
        match label.as_str() {
            Some("disabled") => {
                return Ok(Some(Injected::Declined(
                    "its label says that it is disabled",
                )));
            }
            Some("enabled") | None if label.is_null() || label.is_string() => {}
            _ => {
                let field = format!("metadata.labels.{INJECT}");
                return Err(self.error(&field, "is enabled or disabled"));
            }
        }
        if pod["spec"]["hostNetwork"] == true {
            return Ok(Some(Injected::Declined("it is in the network of its node")));
        }
        let named = |field: &str, names: &[&str]| {
            let all = pod["spec"][field].as_array().into_iter().flatten();
            let mut all = all.filter_map(|one| one["name"].as_str());
            all.any(|name| names.contains(&name))
        };
        if named("initContainers", &[PROXY]) {
            return Ok(Some(Injected::Already));
        }
        let ours = named("volumes", &VOLUMES) || named("containers", &[PROXY, CAPTURE]);
        match ours {
            true => Err(self.error(
                "spec",
                "has a container or a volume of the name of ours, and not all",
            )),
            false => Ok(None),
        }
    }

    /// The flags for what is not redirected.
    fn excluded(pod: &Json) -> Vec<String> {
        let annotations = &pod["metadata"]["annotations"];
        let flags = EXCLUDED.iter().filter_map(|(name, flag)| {
            let value = annotations[*name]
                .as_str()
                .filter(|value| !value.is_empty())?;
            Some(format!("{flag}={value}"))
        });
        flags.collect()
    }

    fn strict(&self, pod: &Json, sidecar: &Sidecar) -> Result<bool, InjectError> {
        let said = &pod["metadata"]["annotations"][PEERS];
        match said.as_str() {
            Some("strict") => Ok(true),
            Some("permissive") => Ok(false),
            None if said.is_null() => Ok(sidecar.strict),
            _ => Err(self.error(
                &format!("metadata.annotations.{PEERS}"),
                "is strict or permissive",
            )),
        }
    }

    /// The paths of probes, which the kubelet asks for in plaintext.
    fn probes(&self, pod: &Json, strict: bool) -> Result<Vec<String>, InjectError> {
        let excluded = pod["metadata"]["annotations"][EXCLUDED[0].0]
            .as_str()
            .unwrap_or_default();
        let excluded: Vec<_> = excluded.split(',').map(str::trim).collect();
        let mut paths = Vec::new();
        for field in ["initContainers", "containers"] {
            for (nth, container) in pod["spec"][field]
                .as_array()
                .into_iter()
                .flatten()
                .enumerate()
            {
                for probe in PROBES {
                    let at = format!("spec.{field}[{nth}].{probe}");
                    let ways = ["grpc", "httpGet", "tcpSocket"];
                    let way = ways
                        .into_iter()
                        .find(|way| container[probe][way].is_object());
                    let Some(way) = way else { continue };
                    let of = &container[probe][way];
                    if number_of(&of["port"], container)
                        .is_some_and(|port| excluded.contains(&&*port))
                    {
                        continue;
                    }
                    if strict {
                        let why = format!(
                            "comes in plaintext, which a strict Pod refuses: add its port to the annotation \
                             {}, or say {PEERS}: permissive",
                            EXCLUDED[0].0
                        );
                        return Err(self.error(&at, why));
                    }
                    let path = of["path"].as_str().unwrap_or("/");
                    let whole = path.starts_with('/') && !path.contains(['?', '#', '*']);
                    if way == "httpGet" && whole {
                        paths.push(path.to_owned());
                    }
                }
            }
        }
        paths.sort_unstable();
        paths.dedup();
        Ok(paths)
    }

    fn own(&self, pod: &Json, probes: Vec<String>, strict: bool) -> Own {
        let spec = &pod["spec"];
        let account = spec["serviceAccountName"]
            .as_str()
            .or_else(|| spec["serviceAccount"].as_str());
        let labels = pod["metadata"]["labels"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        let named = ["app.kubernetes.io/name", "app"];
        let name = named.iter().find_map(|label| labels.get(*label)?.as_str());
        let name = name.filter(|name| !name.is_empty()).unwrap_or(&self.owner);
        Own {
            namespace: self.namespace.to_string(),
            name: name.to_owned(),
            account: account
                .filter(|name| !name.is_empty())
                .unwrap_or("default")
                .to_owned(),
            labels,
            probes,
            strict,
        }
    }
}

/// The number of a port, which may be named, as a text.
fn number_of(port: &Json, container: &Json) -> Option<String> {
    if let Some(number) = port.as_u64() {
        return Some(number.to_string());
    }
    let name = port.as_str()?;
    let ports = container["ports"].as_array().into_iter().flatten();
    let mut ports = ports.filter(|port| port["name"] == name);
    Some(ports.next()?["containerPort"].as_u64()?.to_string())
}

/// The init container that redirects the connections of the Pod.
fn capture(sidecar: &Sidecar, excluded: &[String]) -> Json {
    let mut arguments = vec!["capture".to_owned(), format!("--user={USER}")];
    arguments.extend(excluded.iter().cloned());
    json!({
        "name": CAPTURE,
        "image": sidecar.image,
        "imagePullPolicy": sidecar.pull,
        "command": [BINARY],
        "args": arguments,
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": {
            "runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": false,
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    })
}

/// The agent.
fn proxy(sidecar: &Sidecar) -> Json {
    json!({
        "name": PROXY,
        "image": sidecar.image,
        "imagePullPolicy": sidecar.pull,
        "restartPolicy": "Always",
        "command": [BINARY],
        "args": ["proxy", "--dir", CONFIG],
        // Containers behind it start once it serves.
        "startupProbe": {
            "exec": {"command": [BINARY, "status", "--ready"]},
            "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 120,
        },
        "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}},
        "securityContext": {
            "runAsUser": USER, "runAsGroup": USER, "runAsNonRoot": true,
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": VOLUMES[0], "mountPath": CONFIG, "readOnly": true},
            {"name": VOLUMES[1], "mountPath": MOUNTED, "readOnly": true},
            {"name": VOLUMES[2], "mountPath": STATE},
        ],
    })
}

fn added_volumes() -> [Json; 3] {
    let agent = format!("metadata.annotations['{AGENT}']");
    [
        json!({"name": VOLUMES[0], "downwardAPI": {
            "items": [{"path": "agent.yaml", "fieldRef": {"fieldPath": agent}}],
        }}),
        json!({"name": VOLUMES[1], "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "audience": AUDIENCE, "expirationSeconds": 3_600}},
            {"configMap": {"name": ROOTS, "items": [{"key": ROOTS_KEY, "path": ROOTS_KEY}]}},
        ]}}),
        json!({"name": VOLUMES[2], "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}),
    ]
}
