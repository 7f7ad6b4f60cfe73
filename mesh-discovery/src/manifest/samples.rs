//! Documents of each kind that is read, with every mapping that its reader knows: what asks a reader
//! for all of its fields.

use serde_json::{Value as Json, json};

/// A root that is valid until 2126.
pub(super) const ROOT: &str = "\
-----BEGIN CERTIFICATE-----
MIIBdjCCARugAwIBAgIUZObdRXe8rh6zMzgq6bkk6M4Crt0wCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEcm9vdDAgFw0yNjExMjkyMDE2MTdaGA8yMTI2MTEwNTIwMTYx
N1owDzENMAsGA1UEAwwEcm9vdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABGU9
XiF1JeJJSKzVJVNcUkxErbovSR8cCPoLodZJj+9n2Ma2P49KOY/bd8L6exaJBPYd
wkI6jsveItfB746lYBmjUzBRMB0GA1UdDgQWBBT6/96EbIe/f6hE7J5XeHyNUeDB
kTAfBgNVHSMEGDAWgBT6/96EbIe/f6hE7J5XeHyNUeDBkTAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0kAMEYCIQDauiOsKYw8zSq7ylGCan5Fe9I+KVlw04zW
oARnaykh6AIhAKFR1hk8yFuoWlp9qvdJqxtFr4eTuJOMwdHZ15PRgVOh
-----END CERTIFICATE-----
";

/// One for each kind, and in a row those that together say what one cannot.
pub(super) fn samples() -> Vec<Json> {
    vec![
        service(),
        slice(),
        route(),
        grpc_route(),
        tls_route(),
        tcp_route(),
        service_entry(),
        backend_tls(),
        config_map(),
        pod(),
        of_cluster("Namespace"),
        of_cluster("Node"),
        traffic(),
        balanced(&json!({"consistentHash": {
            "useSourceIp": true, "maglev": {"tableSize": 65_537},
        }})),
        balanced(&json!({"consistentHash": {"httpHeaderName": "a"}})),
        balanced(&json!({"consistentHash": {"httpQueryParameterName": "a"}})),
        balanced(&json!({
            "simple": "ROUND_ROBIN",
            "warmup": {"duration": "60s", "minimumPercent": 10, "aggression": 1.5},
            "localityLbSetting": {
                "enabled": true, "failoverPriority": ["topology.kubernetes.io/zone"],
            },
        })),
        checked(&json!({"grpc": {"serviceName": "a"}})),
        checked(&json!({"tcp": {}})),
        balanced(&json!({
            "zoneAwareLbSetting": {"enabled": true, "minClusterSize": 6, "callers": {"a": 1}},
        })),
        of_traffic(&json!({"fault": {
            "abort": {"percentage": {"value": 1}, "grpcStatus": "UNAVAILABLE"},
        }})),
        split_by(&json!({"httpHeaderName": "a"})),
        split_by(&json!({"httpQueryParameterName": "a"})),
        limited(),
        split(),
        hedged(),
        policy(),
    ]
}

/// `metadata` of a kind whose labels and annotations are read.
fn meta() -> Json {
    json!({
        "name": "x", "namespace": "shop", "labels": {"app": "x", "kubernetes.io/service-name": "x"},
        "annotations": {"inmesh.dev/transport": "plain"}, "creationTimestamp": null,
    })
}

fn bare() -> Json {
    json!({"name": "x", "namespace": "shop"})
}

fn service() -> Json {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": meta(),
        "spec": {
            "type": "ExternalName", "externalName": "a.b",
            "ports": [{"name": "a", "port": 80, "protocol": "TCP", "appProtocol": "http"}],
        },
    })
}

fn slice() -> Json {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": meta(),
        "addressType": "IPv4", "ports": [{"name": "a", "port": 80, "protocol": "TCP"}],
        "endpoints": [{
            "addresses": ["10.0.0.1"], "zone": "z", "nodeName": "n",
            "hints": {"forZones": [{"name": "z"}], "forNodes": []},
            "targetRef": {"kind": "Pod", "namespace": "shop", "name": "x", "uid": "u"},
            "conditions": {"ready": true, "serving": true, "terminating": false},
        }],
    })
}

fn pod() -> Json {
    let mut meta = meta();
    meta["uid"] = json!("u");
    meta["ownerReferences"] = json!([{"kind": "ReplicaSet", "name": "x-1"}]);
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": meta,
        "spec": {"serviceAccountName": "x", "hostNetwork": false},
    })
}

/// A kind of the whole cluster of which the labels are read.
fn of_cluster(kind: &str) -> Json {
    json!({"apiVersion": "v1", "kind": kind, "metadata": meta()})
}

fn rewritten(to: &str) -> Json {
    json!({"type": "ReplaceFullPath", "replaceFullPath": format!("/{to}")})
}

/// Filters that requests of any protocol may meet.
fn filters() -> Vec<Json> {
    let changes = json!({"set": [{"name": "a", "value": "b"}], "add": [{"name": "d", "value": "e"}], "remove": ["c"]});
    vec![
        json!({"type": "RequestHeaderModifier", "requestHeaderModifier": changes}),
        json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": changes}),
        json!({"type": "RequestMirror", "requestMirror": {
            "backendRef": {"group": "", "kind": "Service", "name": "y", "namespace": "shop", "port": 80},
            "fraction": {"numerator": 1, "denominator": 2},
        }}),
    ]
}

/// Those of an HTTPRoute that forwards.
fn of_http() -> Vec<Json> {
    let mut all = filters();
    all.push(json!({"type": "CORS", "cors": {
        "allowOrigins": ["*"], "allowMethods": ["*"], "allowHeaders": ["*"], "exposeHeaders": ["a"],
        "allowCredentials": true, "maxAge": 5,
    }}));
    let rewrite = json!({"hostname": "a.b", "path": rewritten("v")});
    all.push(json!({"type": "URLRewrite", "urlRewrite": rewrite}));
    all
}

fn redirect() -> Json {
    json!({
        "type": "RequestRedirect",
        "requestRedirect": {
            "scheme": "https", "hostname": "a.b", "path": rewritten("w"), "port": 81, "statusCode": 301,
        },
    })
}

fn route() -> Json {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": bare(),
        "spec": {
            "hostnames": [],
            "parentRefs": [
                {"group": "", "kind": "Service", "name": "x", "namespace": "shop", "port": 80},
            ],
            "rules": [{
                "name": "a",
                "matches": [{
                    "path": {"type": "Exact", "value": "/"}, "method": "GET",
                    "headers": [{"type": "Exact", "name": "a", "value": "b"}],
                    "queryParams": [{"type": "Exact", "name": "a", "value": "b"}],
                }],
                "filters": of_http(),
                "backendRefs": [{
                    "group": "", "kind": "Service", "name": "x", "namespace": "shop",
                    "port": 80, "weight": 1, "filters": of_http(),
                }],
                "timeouts": {"request": "2s", "backendRequest": "1s"},
                "retry": {"attempts": 1, "backoff": "1s", "codes": [503]},
            }, {
                "filters": [redirect()],
            }],
        },
    })
}

fn grpc_route() -> Json {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GRPCRoute", "metadata": bare(),
        "spec": {
            "hostnames": [],
            "parentRefs": [
                {"group": "", "kind": "Service", "name": "x", "namespace": "shop", "port": 80},
            ],
            "rules": [{
                "name": "a",
                "matches": [{
                    "method": {"type": "Exact", "service": "a.B", "method": "C"},
                    "headers": [{"type": "Exact", "name": "a", "value": "b"}],
                }],
                "filters": filters(),
                "backendRefs": [{
                    "group": "", "kind": "Service", "name": "x", "namespace": "shop",
                    "port": 80, "weight": 1, "filters": filters(),
                }],
            }],
        },
    })
}

fn tls_route() -> Json {
    let mut route = tcp_route();
    route["kind"] = json!("TLSRoute");
    route["spec"]["hostnames"] = json!(["*.example.com"]);
    route
}

fn tcp_route() -> Json {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "TCPRoute", "metadata": bare(),
        "spec": {
            "parentRefs": [
                {"group": "", "kind": "Service", "name": "x", "namespace": "shop", "port": 80},
            ],
            "rules": [{
                "name": "a",
                "backendRefs": [{
                    "group": "", "kind": "Service", "name": "x", "namespace": "shop",
                    "port": 80, "weight": 1,
                }],
            }],
        },
    })
}

fn traffic() -> Json {
    json!({
        "apiVersion": "inmesh.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": bare(),
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "x", "sectionName": "a"}],
            "timeouts": {"request": "2s", "backendRequest": "1s", "streamIdle": "1s"},
            "retry": {
                "attempts": 1, "backoff": "1s", "codes": [503], "grpcCodes": ["UNAVAILABLE"],
            },
            "retryConstraint": {
                "budget": {"percent": 20, "interval": "10s"},
                "minRetryRate": {"count": 10, "interval": "1s"},
            },
            "fault": {
                "delay": {"percentage": {"value": 1}, "fixedDelay": "1s"},
                "abort": {"percentage": {"value": 1}, "httpStatus": 503},
                "responseBandwidth": {"percentage": {"value": 1}, "limit": "50kbps"},
            },
            "loadBalancer": {"consistentHash": {
                "httpCookie": {"name": "user", "path": "/", "ttl": "1h"},
                "ringHash": {"minimumRingSize": 1_024},
            }},
            "proxyProtocol": {"version": "V1"},
            "healthCheck": {
                "http": {"path": "/", "expectedStatuses": [200]}, "interval": "10s", "timeout": "2s",
                "unhealthyThreshold": 3, "healthyThreshold": 1,
            },
            "connectionPool": {
                "tcp": {"maxConnections": 100, "connectTimeout": "500ms"},
                "http": {
                    "http1MaxPendingRequests": 10, "http2MaxRequests": 100,
                    "maxRequestsPerEndpoint": 10, "idleTimeout": "30s",
                },
            },
            "outlierDetection": {
                "consecutive5xxErrors": 5, "consecutiveGatewayErrors": 2,
                "splitExternalLocalOriginErrors": true, "consecutiveLocalOriginFailures": 2,
                "interval": "10s", "baseEjectionTime": "30s", "maxEjectionTime": "300s",
                "maxEjectionPercent": 10, "minHealthPercent": 0,
                "successRateEjection": {
                    "stdevFactor": 1_900, "minimumHosts": 5, "requestVolume": 100,
                },
                "failurePercentageEjection": {
                    "threshold": 85, "minimumHosts": 5, "requestVolume": 50,
                },
            },
        },
    })
}

fn service_entry() -> Json {
    json!({
        "apiVersion": "inmesh.dev/v1alpha1", "kind": "ServiceEntry", "metadata": meta(),
        "spec": {
            "hosts": ["a.b"], "addresses": ["10.9.0.1"], "location": "MESH_EXTERNAL",
            "resolution": "STATIC",
            "ports": [{"number": 80, "name": "a", "protocol": "HTTP", "targetPort": 8_080}],
            "endpoints": [{"address": "10.0.0.1", "weight": 1, "labels": {}}],
        },
    })
}

fn backend_tls() -> Json {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy", "metadata": bare(),
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "x", "sectionName": "a"}],
            "validation": {
                "hostname": "a.b",
                "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "x"}],
                "subjectAltNames": [
                    {"type": "Hostname", "hostname": "a.b"}, {"type": "URI", "uri": "spiffe://a/b"},
                ],
            },
        },
    })
}

fn config_map() -> Json {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": bare(), "data": {"ca.crt": ROOT},
    })
}

fn checked(by: &Json) -> Json {
    of_traffic(&json!({ "healthCheck": by }))
}

fn of_traffic(spec: &Json) -> Json {
    json!({
        "apiVersion": "inmesh.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": bare(),
        "spec": spec,
    })
}

fn split_by(hash: &Json) -> Json {
    let route = json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "x"});
    of_traffic(&json!({"targetRefs": [route], "trafficSplit": {"consistentHash": hash}}))
}

fn limited() -> Json {
    let rate = json!({"requests": 10, "interval": "1s", "burst": 20});
    json!({
        "apiVersion": "inmesh.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": bare(),
        "spec": {
            "selector": {"matchLabels": {"app": "x"}},
            "adaptiveConcurrency": {
                "minConcurrency": 4, "maxConcurrency": 1_000, "latencyTolerance": 2.0,
            },
            "rateLimit": {
                "total": rate, "perIdentity": rate,
                "rules": [{
                    "from": [{"source": source()}],
                    "to": [{"operation": operation()}],
                    "total": rate, "perIdentity": rate,
                }],
            },
        },
    })
}

fn hedged() -> Json {
    json!({
        "apiVersion": "inmesh.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": bare(),
        "spec": {"hedge": {
            "maxAttempts": 3, "hedgingDelay": "50ms", "codes": [503], "grpc": true,
            "grpcCodes": ["UNAVAILABLE"],
        }},
    })
}

fn split() -> Json {
    json!({
        "apiVersion": "inmesh.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": bare(),
        "spec": {
            "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "x"}],
            "trafficSplit": {"consistentHash": {
                "httpCookie": {"name": "user", "path": "/", "ttl": "1h"},
            }},
            "sessionPersistence": {
                "sessionName": "a", "type": "Cookie", "absoluteTimeout": "1h", "idleTimeout": "1m",
                "cookieConfig": {"lifetimeType": "Permanent"},
            },
        },
    })
}

fn balanced(by: &Json) -> Json {
    of_traffic(&json!({ "loadBalancer": by }))
}

/// Callers, by all that says which are meant.
fn source() -> Json {
    json!({
        "principals": ["lab.example/ns/shop/sa/a"], "notPrincipals": ["lab.example/ns/shop/sa/b"],
        "namespaces": ["shop"], "notNamespaces": ["other"],
        "trustDomains": ["lab.example"], "notTrustDomains": ["other.example"],
    })
}

/// Requests, by all that says which are meant.
fn operation() -> Json {
    json!({"methods": ["GET"], "notMethods": ["PUT"], "paths": ["/a"], "notPaths": ["/b"]})
}

fn policy() -> Json {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": bare(),
        "spec": {
            "action": "ALLOW", "selector": {"matchLabels": {"app": "x"}},
            "rules": [{
                "from": [{"source": source()}],
                "to": [{"operation": operation()}],
            }],
        },
    })
}
