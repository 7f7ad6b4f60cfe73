//! An agent's settings out, as the document that says all of them: what was left out stands there with
//! its default.
//!
//! What it writes is read again as the same agent. Paths are whole; nothing in it is secret, for keys and
//! tokens stand in files of their own.

use std::path::Path;
use std::time::Duration;

use inmesh_core::accept::proxy::TrustedProxies;
use inmesh_core::authorize::PathForm;
use inmesh_core::balance::{EjectPolicy, Volume};
use inmesh_core::model::{AppProtocol, Locality, ProxyVersion};
use inmesh_core::runtime::{
    Application, InboundListener, Limits, Listen, OutboundListener, Target,
};
use inmesh_core::snapshot::OutboundTrafficPolicy;
use inmesh_discovery::control::Follow;
use inmesh_pki::workload_api::server::Entry;
use serde_json::{Map, Value, json};

use super::{
    API_VERSION, Agent, ControlConfig, ControlPlaneConfig, Identity, KIND, KubernetesConfig,
    Listener, LogTo, StaleAfter,
};
use crate::federation::{Endpoint, FederationConfig, Foreign};

/// The document of kind `Agent` with every setting.
pub(crate) fn document(agent: &Agent) -> Value {
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| {
        if is_there(&value) {
            out.insert(name.into(), value);
        }
    };
    put("apiVersion", API_VERSION.into());
    put("kind", KIND.into());
    let workload = &agent.workload;
    let labels = workload.labels.iter();
    let labels = labels.map(|(key, value)| (key.to_string(), Value::from(&**value)));
    put(
        "workload",
        json!({
            "namespace": workload.namespace.to_string(),
            "name": *workload.name,
            "serviceAccount": *workload.service_account,
            "labels": labels.collect::<Map<_, _>>(),
        }),
    );
    put("defaultAction", agent.default_action.as_str().into());
    put("peers", peers(agent.strict).into());
    let mesh = agent.mesh_namespace.as_ref();
    put("meshNamespace", mesh.map(ToString::to_string).into());
    put("identity", identity(&agent.identity));
    put("listeners", agent.listeners.iter().map(listener).collect());
    let admin = agent.admin.map(|bind| json!({ "bind": bind }));
    put("admin", admin.into());
    let loopback = if agent.loopback_endpoints {
        "allow"
    } else {
        "refuse"
    };
    put("loopbackEndpoints", loopback.into());
    put("paths", paths(agent.paths));
    let mode = match agent.outbound {
        OutboundTrafficPolicy::AllowAny => "ALLOW_ANY",
        _ => "REGISTRY_ONLY",
    };
    put("outboundTrafficPolicy", json!({ "mode": mode }));
    put("limits", limits(&agent.limits));
    put("outlierDetection", eject(&agent.eject));
    put("locality", locality(&agent.locality));
    put("sources", sources(agent.stale_after));
    let log = agent.access_log.as_ref().map(|log| {
        let to = match &log.to {
            LogTo::File(file) => path(file),
            LogTo::Stderr => "/dev/stderr".into(),
            LogTo::Stdout => "-".into(),
        };
        json!({ "path": to, "sample": share(log.sample) })
    });
    put("accessLog", log.into());
    let tracing = agent.tracing.as_ref();
    let tracing = tracing.map(|to| json!({ "otlp": to.otlp, "sample": share(to.sample) }));
    put("tracing", tracing.into());
    let api = agent.workload_api.as_ref().map(|api| {
        let entries: Vec<_> = api.entries.iter().map(entry).collect();
        json!({ "listen": path(&api.listen), "entries": entries })
    });
    put("workloadApi", api.into());
    put(
        "federation",
        agent.federation.as_ref().map(federation).into(),
    );
    put(
        "kubernetes",
        agent.followed.kubernetes.as_ref().map(kubernetes).into(),
    );
    put(
        "control",
        agent.followed.control.as_ref().map(control).into(),
    );
    let plane = agent.followed.control_plane.as_ref();
    let plane = plane.map(control_plane);
    put("controlPlane", plane.into());
    Value::Object(out)
}

fn control_plane(of: &ControlPlaneConfig) -> Value {
    let inject = of.inject.as_ref().map(|inject| {
        let [certificate, key] = match &inject.files {
            Some(files) => files.each_ref().map(|file| path(file)),
            None => [Value::Null, Value::Null],
        };
        object([
            ("bind", inject.bind.to_string().into()),
            ("certificate", certificate),
            ("key", key),
            ("image", inject.sidecar.image.as_str().into()),
            ("imagePullPolicy", inject.sidecar.pull.as_str().into()),
            ("peers", peers(inject.sidecar.strict).into()),
        ])
    });
    object([
        ("bind", of.bind.to_string().into()),
        ("writeStatus", of.write_status.into()),
        ("inject", inject.into()),
    ])
}

fn control(of: &ControlConfig) -> Value {
    let (follow, services) = match &of.follow {
        Follow::All => ("all", Vec::new()),
        Follow::Asked(services) => (
            "asked",
            services
                .iter()
                .map(|s| Value::from(format!("{}.{}", s.name(), s.namespace())))
                .collect(),
        ),
        // No other was read.
        _ => ("", Vec::new()),
    };
    object([
        (
            "addresses",
            of.addresses.iter().cloned().map(Value::from).collect(),
        ),
        ("controlId", of.id.to_string().into()),
        ("follow", follow.into()),
        ("services", services.into()),
        ("keep", of.keep.as_deref().map(path).into()),
    ])
}

fn sources(
    StaleAfter {
        documents,
        dns,
        kubernetes,
        control,
    }: StaleAfter,
) -> Value {
    let stale_after = |limit: Duration| match limit {
        Duration::MAX => json!({ "staleAfter": "never" }),
        limit => json!({ "staleAfter": time(limit) }),
    };
    json!({
        "documents": stale_after(documents), "dns": stale_after(dns),
        "kubernetes": stale_after(kubernetes), "control": stale_after(control),
    })
}

fn kubernetes(cluster: &KubernetesConfig) -> Value {
    object([
        ("kubeconfig", cluster.kubeconfig.as_deref().map(path).into()),
        ("context", cluster.context.clone().into()),
        ("trustDomain", cluster.trust_domain.to_string().into()),
    ])
}

fn peers(strict: bool) -> &'static str {
    if strict { "strict" } else { "permissive" }
}

fn path(path: &Path) -> Value {
    path.display().to_string().into()
}

/// Whether the file may say it: an empty list could mean all or nothing, and is refused.
fn is_there(value: &Value) -> bool {
    !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty())
}

/// An object of what is there.
fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let there = fields.into_iter().filter(|(_, value)| is_there(value));
    Value::Object(
        there
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}

fn identity(identity: &Identity) -> Value {
    let optional = |file: &Option<std::path::PathBuf>| file.as_deref().map(path).into();
    match identity {
        Identity::Ca {
            address,
            ca,
            trust_bundle,
            token,
            keep,
        } => {
            let fields = [
                ("address", address.as_str().into()),
                ("caId", ca.as_str().into()),
                ("trustBundle", path(trust_bundle)),
                ("tokenFile", optional(token)),
                ("keep", optional(keep)),
            ];
            json!({ "ca": object(fields) })
        }
        Identity::DevelopmentCa { dir, lifetime } => {
            json!({ "developmentCA": { "dir": path(dir), "lifetime": time(*lifetime) } })
        }
        Identity::Files {
            certificate,
            key,
            bundle,
            revocation_lists,
        } => {
            let fields = [
                ("certificate", path(certificate)),
                ("key", path(key)),
                ("bundle", path(bundle)),
                ("revocationLists", optional(revocation_lists)),
            ];
            json!({ "files": object(fields) })
        }
        Identity::PodCertificate { chain, key, bundle } => {
            let one = chain == key;
            let is = |there: bool, file| if there { path(file) } else { Value::Null };
            let fields = [
                ("credentials", is(one, chain)),
                ("key", is(!one, key)),
                ("certificateChain", is(!one, chain)),
                ("bundle", path(bundle)),
            ];
            json!({ "podCertificate": object(fields) })
        }
        Identity::WorkloadApi(endpoint) => {
            json!({ "workloadApi": { "socket": path(endpoint.path()) } })
        }
    }
}

fn listener(listener: &Listener) -> Value {
    let bind = listener.bind;
    match &listener.listen {
        Listen::Inbound(to) => json!({ "bind": bind, "inbound": inbound(to) }),
        Listen::Outbound(to) => json!({ "bind": bind, "outbound": outbound(to) }),
        // The agent's file has no other.
        other => json!({ "bind": bind, "leads": other.to_string() }),
    }
}

/// What is declared; without, the first bytes decide.
fn protocol(protocol: AppProtocol) -> Value {
    match protocol {
        AppProtocol::Detect => Value::Null,
        declared => declared.to_string().into(),
    }
}

fn inbound(to: &InboundListener) -> Value {
    let app = match to.app {
        Application::At(address) => json!(address),
        Application::SamePort(ip) => json!(ip),
        // The agent's file has no other.
        _ => Value::Null,
    };
    let probes = to.probes.iter().map(|probe| Value::from(&**probe));
    object([
        ("app", app),
        ("appProtocol", protocol(to.protocol)),
        ("peers", peers(to.strict).into()),
        ("probes", probes.collect()),
        ("proxyProtocol", proxied(to.proxies.as_ref(), to.to_app)),
    ])
}

fn proxied(proxies: Option<&TrustedProxies>, to_app: Option<ProxyVersion>) -> Value {
    let from = proxies.map(|proxies| proxies.blocks().iter().map(ToString::to_string));
    let shown = object([
        ("accept", proxies.map(|_| "required").into()),
        ("from", from.map(Iterator::collect::<Value>).into()),
        ("send", to_app.map(|version| version.to_string()).into()),
    ]);
    match shown.as_object().is_some_and(|shown| !shown.is_empty()) {
        true => shown,
        false => Value::Null,
    }
}

fn outbound(to: &OutboundListener) -> Value {
    let service = match &to.target {
        Target::Service(service, port) => json!({
            "namespace": service.namespace().to_string(),
            "name": service.name(),
            "port": port,
        }),
        _ => Value::Null,
    };
    let captured = match to.target {
        Target::OriginalAddress => true.into(),
        _ => Value::Null,
    };
    object([
        ("appProtocol", protocol(to.protocol)),
        ("captured", captured),
        ("service", service),
        ("proxyProtocol", proxied(to.proxies.as_ref(), None)),
    ])
}

fn paths(form: PathForm) -> Value {
    json!({ "mergeSlashes": form.merges_slashes(), "decodeSlashes": form.decodes_slashes() })
}

fn limits(limits: &Limits) -> Value {
    json!({
        "handshakeTimeout": time(limits.handshake),
        "headerTimeout": time(limits.header),
        "bodyTimeout": time(limits.body),
        "unreadTimeout": time(limits.unread),
        "idleTimeout": time(limits.idle),
        "detectTimeout": time(limits.detect),
        "connectTimeout": time(limits.connect),
        "endpointHandshakeTimeout": time(limits.endpoint_handshake),
        "poolIdleTimeout": time(limits.pool_idle),
        "opaqueAge": time(limits.opaque_age),
        "drainLead": time(limits.drain_lead),
        "drainDeadline": time(limits.drain_deadline),
        "headerBytes": limits.header_bytes,
        "headerFields": limits.header_fields,
        "targetBytes": limits.target_bytes,
        "connections": limits.connections,
        "poolSize": limits.pool_size,
        "mirrors": limits.mirrors,
        "outsideHosts": limits.outside_hosts,
        "streams": limits.streams,
    })
}

fn locality(at: &Locality) -> Value {
    let parts = [
        ("region", &at.region),
        ("zone", &at.zone),
        ("node", &at.node),
    ];
    let known = parts.into_iter().filter(|(_, name)| !name.is_empty());
    let known: Map<_, _> = known
        .map(|(part, name)| (part.into(), (**name).into()))
        .collect();
    match known.is_empty() {
        true => Value::Null,
        false => known.into(),
    }
}

fn eject(policy: &EjectPolicy) -> Value {
    let mut shown = json!({
        "consecutive5xxErrors": policy.consecutive,
        "consecutiveGatewayErrors": policy.gateway,
        "splitExternalLocalOriginErrors": policy.local.is_some(),
        "interval": time(policy.interval),
        "baseEjectionTime": time(policy.base),
        "maxEjectionTime": time(policy.longest),
        "maxEjectionPercent": policy.percent,
        "minHealthPercent": policy.panic_percent,
    });
    if let Some(local) = policy.local {
        shown["consecutiveLocalOriginFailures"] = local.into();
    }
    let compared = |name: &str, value: u32, volume: Volume| json!({ name: value, "minimumHosts": volume.hosts, "requestVolume": volume.requests });
    if let Some(by) = policy.success_rate {
        shown["successRateEjection"] = compared("stdevFactor", by.factor(), by.volume());
    }
    if let Some(by) = policy.failure_percentage {
        let threshold = by.threshold().into();
        shown["failurePercentageEjection"] = compared("threshold", threshold, by.volume());
    }
    shown
}

fn entry(entry: &Entry) -> Value {
    let [uid, gid, pid] = entry.selector().ids();
    let hint = Some(entry.hint()).filter(|hint| !hint.is_empty());
    object([
        ("id", entry.id().as_str().into()),
        ("uid", uid.into()),
        ("gid", gid.into()),
        ("pid", pid.into()),
        ("cgroup", entry.selector().cgroup().into()),
        ("hint", hint.into()),
    ])
}

fn federation(federation: &FederationConfig) -> Value {
    let relationships = federation.relationships.iter().map(foreign).collect();
    object([
        ("relationships", relationships),
        (
            "bundleEndpoint",
            federation.endpoint.as_ref().map(endpoint).into(),
        ),
        ("keep", federation.keep.as_deref().map(path).into()),
    ])
}

fn foreign(foreign: &Foreign) -> Value {
    let spiffe = foreign.spiffe.as_ref();
    let profile = if spiffe.is_some() {
        "https_spiffe"
    } else {
        "https_web"
    };
    let bundle = spiffe.and_then(|spiffe| spiffe.bundle.as_deref());
    let max_age = foreign
        .max_age
        .unwrap_or(inmesh_pki::bundle::federate::DEFAULT_MAX_AGE);
    object([
        ("trustDomain", foreign.trust_domain.as_str().into()),
        ("url", foreign.url.to_string().into()),
        ("profile", profile.into()),
        ("endpointId", spiffe.map(|spiffe| spiffe.id.as_str()).into()),
        ("endpointBundle", bundle.map(path).into()),
        ("maxAge", time(max_age)),
    ])
}

fn endpoint(endpoint: &Endpoint) -> Value {
    let web = endpoint
        .web
        .as_ref()
        .map(|web| json!({ "certificate": path(&web.certificate), "key": path(&web.key) }));
    object([
        ("bind", json!(endpoint.bind)),
        ("path", endpoint.path.as_str().into()),
        ("webCertificate", web.into()),
    ])
}

/// A duration as the agent's file writes it, in its largest units.
fn time(duration: Duration) -> Value {
    let mut rest = duration.as_millis();
    let mut text = String::new();
    for (unit, millis) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if rest >= millis {
            text += &format!("{}{unit}", rest / millis);
            rest %= millis;
        }
    }
    if text.is_empty() {
        text = "0s".to_owned();
    }
    text.into()
}

fn share(share: f64) -> Value {
    // What a multiplication leaves behind is no digit of the author's.
    format!("{}%", (share * 1e10).round() / 1e8).into()
}
