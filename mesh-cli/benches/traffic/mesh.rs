//! The documents of the agent.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Fallible;
use crate::scenario::{Adaptive, Again, BACKOFF, BUDGET, Balancer, Scenario};

/// The folder of the agent beside the caller.
pub(crate) fn beside(
    dir: &Path,
    door: SocketAddr,
    admin: SocketAddr,
    scenario: &Scenario,
) -> Fallible<()> {
    let mut agent = agent("caller");
    agent["admin"] = json!({"bind": admin});
    agent["listeners"] = json!([{
        "bind": door,
        "outbound": {"appProtocol": "http", "service": {"name": "app", "port": 80}},
    }]);
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "app", "namespace": "bench"},
        "spec": {"ports": [{"name": "main", "port": 80, "appProtocol": "http"}]},
    });
    let eject = scenario.eject;
    let balancer = match scenario.balancer {
        Balancer::LeastRequest => "LEAST_REQUEST",
        Balancer::PeakEwma => "PEAK_EWMA",
    };
    let mut spec = json!({
        "targetRefs": [{"group": "", "kind": "Service", "name": "app"}],
        "loadBalancer": {"simple": balancer},
        "outlierDetection": {
            "consecutive5xxErrors": eject.consecutive,
            "interval": written(eject.interval),
            "baseEjectionTime": written(eject.base),
            "maxEjectionTime": written(eject.longest),
            "maxEjectionPercent": eject.most,
            "minHealthPercent": eject.healthy,
        },
        // The default, written down.
        "retryConstraint": {
            "budget": {"percent": BUDGET, "interval": "10s"},
            "minRetryRate": {"count": 10, "interval": "1s"},
        },
    });
    match scenario.again {
        Again::Hedged(after) => {
            spec["hedge"] = json!({"maxAttempts": 2, "hedgingDelay": written(after)});
        }
        // Left out, what surely reached no server would be sent again.
        Again::Never => spec["retry"] = json!({"attempts": 0}),
        Again::Repeated(times) => {
            spec["retry"] = json!({
                "attempts": times,
                "codes": [502, 503, 504],
                "backoff": written(BACKOFF),
            });
        }
    }
    if let Some(most) = scenario.at_once {
        spec["connectionPool"] = json!({"http": {"http2MaxRequests": most}});
    }
    write(dir, &[agent, service, policy(&spec)])
}

/// The folder of an agent before one backend.
pub(crate) fn before(
    dir: &Path,
    door: SocketAddr,
    backend: SocketAddr,
    adaptive: Adaptive,
) -> Fallible<()> {
    let mut agent = agent("app");
    agent["listeners"] = json!([{
        "bind": door,
        "inbound": {"app": backend, "appProtocol": "http", "peers": "permissive"},
    }]);
    let spec = json!({
        "adaptiveConcurrency": {
            "minConcurrency": adaptive.least,
            "maxConcurrency": adaptive.most,
            "latencyTolerance": adaptive.tolerance,
        },
    });
    write(dir, &[agent, policy(&spec)])
}

pub(crate) fn endpoints(all: &[SocketAddr], draining: Option<usize>) -> String {
    let slices = all.iter().enumerate().map(|(nth, address)| {
        let drains = draining == Some(nth);
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("app-{nth}"),
                "namespace": "bench",
                "labels": {"kubernetes.io/service-name": "app"},
                "annotations": {"inmesh.dev/transport": "plain"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "main", "port": address.port()}],
            "endpoints": [{
                "addresses": [address.ip()],
                "conditions": {"ready": !drains, "serving": true, "terminating": drains},
            }],
        })
    });
    documents(slices)
}

fn agent(name: &str) -> Value {
    json!({
        "apiVersion": "inmesh.dev/v1alpha1",
        "kind": "Agent",
        "workload": {"namespace": "bench", "name": name, "serviceAccount": name},
        "defaultAction": "allow",
        "peers": "strict",
        "identity": {"developmentCA": {"dir": "../../ca"}},
        "loopbackEndpoints": "allow",
    })
}

fn policy(spec: &Value) -> Value {
    json!({
        "apiVersion": "inmesh.dev/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": {"name": "app", "namespace": "bench"},
        "spec": spec,
    })
}

fn written(time: Duration) -> String {
    // A number has five digits at most.
    match time.subsec_millis() {
        0 => format!("{}s", time.as_secs()),
        _ => format!("{}ms", time.as_millis()),
    }
}

fn write(dir: &Path, all: &[Value]) -> Fallible<()> {
    Ok(std::fs::write(dir.join("mesh.yaml"), documents(all))?)
}

/// Documents of JSON are documents of YAML.
fn documents(all: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    let all: Vec<_> = all.into_iter().map(|one| one.to_string()).collect();
    all.join("\n---\n")
}
