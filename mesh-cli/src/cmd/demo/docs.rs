//! The documents of the demo's mesh, as an operator would write them.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use inmesh_core::balance::EjectPolicy;

/// The namespace of everything.
pub(super) const NAMESPACE: &str = "shop";
/// The trust domain.
pub(super) const DOMAIN: &str = "demo.local";
/// The lifetime of leaf certificates.
pub(super) const LEAF: Duration = Duration::from_secs(20);

/// The ejection that fits the scenes: Envoy's threshold, shorter times.
pub(super) fn eject() -> EjectPolicy {
    let mut policy = EjectPolicy::default();
    policy.base = Duration::from_secs(1);
    policy.longest = Duration::from_secs(4);
    policy
}

/// An endpoint of a Service: a name of its own, where its agent listens, and whether it takes
/// new requests.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    pub(super) ready: bool,
}

/// The agent's file of a workload.
pub(super) fn agent(name: &str, version: &str, ca: &Path, listeners: &str, admin: &str) -> String {
    let eject = eject();
    format!(
        r#"apiVersion: inmesh.dev/v1alpha1
kind: Agent
workload:
  namespace: {NAMESPACE}
  name: {name}
  serviceAccount: {name}
  labels: {{app: {name}, version: {version}}}
defaultAction: deny
peers: strict
identity:
  developmentCA: {{dir: "{ca}", lifetime: {leaf}s}}
loopbackEndpoints: allow
outlierDetection:
  consecutive5xxErrors: {threshold}
  baseEjectionTime: {base}s
  maxEjectionTime: {longest}s
  maxEjectionPercent: {percent}
limits: {{drainLead: 1s, drainDeadline: 10s}}
{listeners}{admin}"#,
        ca = ca.display(),
        leaf = LEAF.as_secs(),
        threshold = eject.consecutive,
        base = eject.base.as_secs(),
        longest = eject.longest.as_secs(),
        percent = eject.percent,
    )
}

/// A Service and its endpoints, one slice each, all served by the workload `account`.
pub(super) fn service(name: &str, account: &str, version: &str, places: &[Place]) -> String {
    let mut out = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  ports: [{{name: http, port: 80, appProtocol: http}}]
"
    );
    for (n, place) in places.iter().enumerate() {
        let (ip, port, ready) = (place.address.ip(), place.address.port(), place.ready);
        // Writing to a String cannot fail.
        let _ok = write!(
            out,
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-{n}
  namespace: {NAMESPACE}
  labels: {{kubernetes.io/service-name: {name}, app: {account}, version: {version}}}
  annotations:
    inmesh.dev/ids: spiffe://{DOMAIN}/ns/{NAMESPACE}/sa/{account}
addressType: IPv4
ports: [{{name: http, port: {port}}}]
endpoints:
- addresses: [\"{ip}\"]
  conditions: {{ready: {ready}, serving: true, terminating: {terminating}}}
",
            terminating = !ready,
        );
    }
    out
}

/// The route of `cart`: by weight.
pub(super) fn canary(v1: u32, v2: u32) -> String {
    route(&format!(
        "  - backendRefs:
    - {{name: cart-v1, port: 80, weight: {v1}}}
    - {{name: cart-v2, port: 80, weight: {v2}}}
"
    ))
}

/// The route of `cart`: members of the group `beta` get v2, all others v1.
pub(super) fn by_header() -> String {
    route(
        "  - matches:
    - headers: [{name: x-group, value: beta}]
    backendRefs:
    - {name: cart-v2, port: 80}
  - backendRefs:
    - {name: cart-v1, port: 80}
",
    )
}

fn route(rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: cart, namespace: {NAMESPACE}}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: cart}}]
  rules:
{rules}"
    )
}

/// The calls that are permitted: load -> web -> cart -> ledger.
pub(super) fn policies() -> String {
    [("web", "load"), ("cart", "web"), ("ledger", "cart")]
        .map(|(to, from)| {
            format!(
                "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {to}-from-{from}, namespace: {NAMESPACE}}}
spec:
  selector: {{matchLabels: {{app: {to}}}}}
  action: ALLOW
  rules:
  - from:
    - source: {{principals: [\"{DOMAIN}/ns/{NAMESPACE}/sa/{from}\"]}}
"
            )
        })
        .join("---\n")
}

/// Writes a file into a folder in one step: beside it, then renamed.
pub(super) fn publish(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let beside = dir.join(format!(".{name}.new"));
    std::fs::write(&beside, text)?;
    std::fs::rename(beside, dir.join(name))
}
