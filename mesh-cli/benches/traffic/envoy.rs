//! The bootstrap files of Envoy: the same values as the agent's, in its words, and where its default would
//! do worse than another setting, that one.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Fallible;
use crate::scenario::{Adaptive, Again, BACKOFF, BUDGET, Scenario};

const TYPE: &str = "type.googleapis.com/envoy.extensions";

/// The folder of the proxy beside the caller.
pub(crate) fn beside(
    dir: &Path,
    door: SocketAddr,
    admin: SocketAddr,
    scenario: &Scenario,
) -> Fallible<()> {
    let eject = scenario.eject;
    let cluster = json!({
        "name": "app",
        "type": "EDS",
        // The file is read anew when another is renamed over it.
        "eds_cluster_config": {"eds_config": {
            "path_config_source": {"path": dir.join("endpoints.json")},
            "resource_api_version": "V3",
        }},
        // The agent's defaults.
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "common_lb_config": {
            "healthy_panic_threshold": {"value": eject.healthy},
            // By default a worker hears of an ejection up to a second after the last other change.
            "update_merge_window": "0s",
        },
        "outlier_detection": {
            "consecutive_5xx": eject.consecutive,
            "interval": written(eject.interval),
            "base_ejection_time": written(eject.base),
            "max_ejection_time": written(eject.longest),
            "max_ejection_percent": eject.most,
            // On by default, and off in the agent.
            "enforcing_success_rate": 0,
        },
        "circuit_breakers": {"thresholds": [{
            "max_connections": 8_192,
            "max_pending_requests": 1_024,
            "max_requests": scenario.at_once.unwrap_or(8_192),
            // Without a budget there are at most 3 retries at once.
            "retry_budget": {"budget_percent": {"value": BUDGET}, "min_retry_concurrency": 3},
        }]},
    });
    let mut route = json!({"cluster": "app", "timeout": "0s"});
    match scenario.again {
        Again::Hedged(after) => {
            route["retry_policy"] = retry(1, "reset");
            route["retry_policy"]["per_try_timeout"] = json!(written(after));
            route["hedge_policy"] = json!({"hedge_on_per_try_timeout": true});
        }
        Again::Never => {}
        Again::Repeated(times) => {
            let on = "gateway-error,reset,connect-failure,refused-stream";
            route["retry_policy"] = retry(times, on);
        }
    }
    let mut bootstrap = bootstrap(&cluster, door, &[], &route);
    // EDS wants a name.
    bootstrap["node"] = json!({"id": "caller", "cluster": "bench"});
    bootstrap["admin"] = json!({"address": socket(admin)});
    write(dir, &bootstrap)
}

/// The folder of a proxy before one backend.
pub(crate) fn before(
    dir: &Path,
    door: SocketAddr,
    backend: SocketAddr,
    adaptive: Adaptive,
) -> Fallible<()> {
    let percent = |value: u32| json!({"value": value});
    let filter = json!({
        "name": "envoy.filters.http.adaptive_concurrency",
        "typed_config": {
            "@type": format!("{TYPE}.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency"),
            "gradient_controller_config": {
                // The median and the window of the agent.
                "sample_aggregate_percentile": percent(50),
                "concurrency_limit_params": {
                    "max_concurrency_limit": adaptive.most,
                    "concurrency_update_interval": "0.1s",
                },
                "min_rtt_calc_params": {
                    "interval": written(adaptive.anew),
                    "min_concurrency": adaptive.least,
                    // How much slower than the best is no reason to shrink.
                    "buffer": percent((adaptive.tolerance - 1) * 100),
                },
            },
            "enabled": {"default_value": true, "runtime_key": "adaptive"},
            // With its default, 503, the proxy of the caller would eject the endpoint.
            "concurrency_limit_exceeded_status": {"code": "TooManyRequests"},
        },
    });
    let cluster = json!({
        "name": "app",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": assignment(&[backend], None),
    });
    let route = json!({"cluster": "app", "timeout": "0s"});
    write(dir, &bootstrap(&cluster, door, &[filter], &route))
}

pub(crate) fn endpoints(all: &[SocketAddr], draining: Option<usize>) -> String {
    let mut assignment = assignment(all, draining);
    assignment["@type"] =
        json!("type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment");
    json!({"resources": [assignment]}).to_string()
}

fn assignment(all: &[SocketAddr], draining: Option<usize>) -> Value {
    let endpoints = all.iter().enumerate().map(|(nth, address)| {
        let drains = draining == Some(nth);
        json!({
            "endpoint": {"address": socket(*address)},
            "health_status": if drains { "DRAINING" } else { "HEALTHY" },
        })
    });
    let endpoints: Vec<_> = endpoints.collect();
    json!({"cluster_name": "app", "endpoints": [{"lb_endpoints": endpoints}]})
}

fn retry(times: u32, on: &str) -> Value {
    json!({
        "retry_on": on,
        "num_retries": times,
        "retry_back_off": {
            "base_interval": written(BACKOFF),
            "max_interval": written(BACKOFF * 10),
        },
        // Without these a retry may go to the endpoint that failed.
        "retry_host_predicate": [{
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": format!("{TYPE}.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
            },
        }],
        "host_selection_retry_max_attempts": 5,
    })
}

fn bootstrap(cluster: &Value, door: SocketAddr, filters: &[Value], route: &Value) -> Value {
    let mut filters = filters.to_vec();
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": format!("{TYPE}.filters.http.router.v3.Router")},
    }));
    let manager = json!({
        "@type": format!(
            "{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager"
        ),
        "stat_prefix": "bench",
        "http_filters": filters,
        "route_config": {"virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": route}],
        }]},
    });
    let chain = json!({"filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": manager,
    }]});
    json!({"static_resources": {
        "listeners": [{"name": "door", "address": socket(door), "filter_chains": [chain]}],
        "clusters": [cluster],
    }})
}

fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip(), "port_value": address.port()}})
}

fn written(time: Duration) -> String {
    format!("{}s", time.as_secs_f64())
}

fn write(dir: &Path, bootstrap: &Value) -> Fallible<()> {
    Ok(std::fs::write(
        dir.join("envoy.json"),
        bootstrap.to_string(),
    )?)
}
