//! The same documents from a folder and from an API server give the same snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use inmesh_core::snapshot::{ServiceView, Snapshot};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::{Event, Index, KINDS, defaults, empty, listed, object, place, source};
use crate::manifest::{Content, Folder};

const GATEWAY: &str = "gateway.networking.k8s.io";

/// What tests choose from: kinds, and what their objects say.
pub(crate) fn says(what: u8, which: u8, how: u8) -> (usize, String, Json) {
    let (a, b) = (format!("s{which}"), format!("s{}", how % 3));
    let pod = format!("p{which}");
    match what {
        0 => (
            place("Namespace", ""),
            "shop".into(),
            match how {
                0 => json!({"labels": {"inmesh.dev/inject": "enabled"}}),
                1 => json!({"labels": {"inmesh.dev/inject": "what"}}),
                _ => json!({}),
            },
        ),
        1 => (
            place("Node", ""),
            format!("n{which}"),
            json!({"labels": {
                "topology.kubernetes.io/region": b, "topology.kubernetes.io/zone": "z",
            }}),
        ),
        2 => (
            place("Pod", ""),
            pod,
            match how {
                0 => json!({"spec": {}, "annotations": {"inmesh.dev/transport": "mesh"}}),
                1 => {
                    json!({"spec": {"serviceAccountName": "sa"}, "labels": {"version": "v2", "app": "a"}})
                }
                2 => json!({"spec": {"hostNetwork": true}}),
                _ => json!({"spec": {}, "annotations": {"inmesh.dev/transport": "tls"}}),
            },
        ),
        3 => (
            place("Service", ""),
            a,
            match how {
                0 => {
                    json!({"spec": {"ports": [{"name": "p", "port": 80, "appProtocol": "http"}], "clusterIP": format!("10.96.0.{which}")}})
                }
                1 => {
                    json!({"spec": {"ports": [{"name": "p", "port": 80}], "selector": {"version": "v2"}},
                        "annotations": {"inmesh.dev/subset-of": "s0"}})
                }
                2 => json!({"spec": {"ports": [{"port": 80}, {"port": 81}]}}),
                _ => {
                    json!({"spec": {"type": "ExternalName", "externalName": "a.example", "ports": [{"port": 80}]}})
                }
            },
        ),
        4 => (
            place("ConfigMap", ""),
            a,
            match how {
                0 => json!({"data": {"ca.crt": "no root"}}),
                _ => json!({"data": {"a": "b"}}),
            },
        ),
        5 => {
            let target = json!({"kind": "Pod", "name": pod, "namespace": "shop", "uid": "u1"});
            let one = json!({"addresses": [format!("10.0.{which}.1")], "nodeName": "n1", "targetRef": target});
            let endpoints = match how {
                0 => json!([]),
                1 => {
                    json!([one, {"addresses": [format!("10.0.{which}.2")], "conditions": {"ready": false}}])
                }
                2 => json!([{"addresses": ["10.0.9.9"]}]),
                _ => json!([one]),
            };
            let labels = json!({"kubernetes.io/service-name": b});
            (
                place("EndpointSlice", "discovery.k8s.io"),
                format!("e{which}"),
                json!({
                    "addressType": "IPv4", "labels": labels, "endpoints": endpoints,
                    "ports": [{"name": "p", "port": 8080}],
                }),
            )
        }
        6 | 7 => {
            let mirror = json!({"type": "RequestMirror", "requestMirror": {
                "backendRef": {"name": b, "port": 80},
            }});
            let filters = if how == 3 { json!([]) } else { json!([mirror]) };
            let kind = if what == 6 { "HTTPRoute" } else { "GRPCRoute" };
            let parent = json!({"group": "", "kind": "Service", "name": a});
            (
                place(kind, GATEWAY),
                a,
                json!({"spec": {
                    "parentRefs": [parent],
                    "rules": [{"filters": filters, "backendRefs": [{"name": b, "port": 80}]}],
                }}),
            )
        }
        8 | 9 => {
            let group = if what == 8 {
                "inmesh.dev"
            } else {
                "security.istio.io"
            };
            let spec = match how {
                0 => json!({"action": "DENY", "rules": [{}]}),
                1 => json!({"rules": [{"from": [{"source": {"namespaces": [b]}}]}]}),
                2 => json!({"action": "WHAT"}),
                _ => json!({"selector": {"matchLabels": {"app": "web"}}, "rules": [{}]}),
            };
            (
                place("AuthorizationPolicy", group),
                a,
                json!({"spec": spec}),
            )
        }
        10 => (
            place("TrafficPolicy", "inmesh.dev"),
            a.clone(),
            json!({"spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": a}],
                "retryBudget": {"percent": how, "interval": "10s"},
            }}),
        ),
        _ => (
            place("PeerAuthentication", "security.istio.io"),
            a,
            json!({"spec": {"mtls": {"mode": "STRICT"}}}),
        ),
    }
}

/// All that a request could meet of a Service. Its endpoints are in no order.
pub(crate) fn of_service(view: &ServiceView) -> Vec<String> {
    let ports = view.ports.iter().map(|port| {
        let endpoints = view.endpoints(port.port).expect("of its port").members();
        let endpoints = endpoints
            .iter()
            .map(|member| format!("{:?}", member.endpoint));
        let mut endpoints: Vec<_> = endpoints.collect();
        endpoints.sort();
        let traffic = view.traffic(port.port);
        format!("{} {port:?} {endpoints:?} {traffic:?}", view.name)
    });
    let routes = format!("{} {:?}", view.name, view.routes);
    ports.chain([routes]).collect()
}

/// The files of a folder with the objects of a cluster, in the order of their keys.
pub(crate) fn files(
    objects: &BTreeMap<(usize, String), Json>,
) -> impl Iterator<Item = (Arc<str>, Content)> {
    objects.iter().map(|((kind, name), object)| {
        let place = if [11, 14].contains(kind) { 0 } else { *kind };
        let order = KINDS[*kind].kind;
        let file = format!("{order}.{name}.{place:02}.{kind:02}.json");
        (file.into(), Content::Text(object.to_string().into()))
    })
}

/// All that a request could meet of a snapshot, and what its author is shown.
fn shown(snapshot: &Snapshot) -> Vec<String> {
    let mut all: Vec<String> = snapshot
        .services()
        .flat_map(|view| of_service(view))
        .collect();
    all.push(format!("{:?}", snapshot.policy()));
    for status in snapshot.status() {
        let problems = status.problems.iter().map(|problem| {
            // A folder says where the first stands.
            let again = problem.message.contains("already, which serves");
            let message = if again { "again" } else { &problem.message };
            format!("{:?} {} {message}", problem.severity, problem.field)
        });
        let problems: Vec<_> = problems.collect();
        all.push(format!(
            "{} {:?} {problems:?}",
            status.object, status.serving
        ));
    }
    all.sort();
    all
}

/// Pushes what the index has to say.
fn push(index: &mut Index, snapshot: &mut Snapshot) {
    if let Some(change) = index.poll() {
        *snapshot = snapshot.apply(change);
    }
}

/// The snapshot of the last version of each object, in files in the order of their keys.
fn of_folder(versions: &[BTreeMap<(usize, String), Json>]) -> Snapshot {
    let mut folder = Folder::new(source(), defaults());
    let mut snapshot = empty();
    for objects in versions {
        snapshot = snapshot.apply(folder.merge(files(objects)).change);
    }
    snapshot
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// However events come, in whatever order and how often, what serves is what the documents say.
    #[test]
    fn a_folder_and_an_api_server_agree(
        events in proptest::collection::vec((0_u8..12, 0_u8..3, 0_u8..4, 0_u8..8), 1..60),
    ) {
        let mut index = listed();
        let mut snapshot = empty();
        push(&mut index, &mut snapshot);
        let mut objects: BTreeMap<(usize, String), Json> = BTreeMap::new();
        // A folder keeps the last good version as well: it is given each state.
        let mut versions = Vec::new();
        for (n, (what, which, how, act)) in events.into_iter().enumerate() {
            let (kind, name, rest) = says(what, which, how);
            let version = 10 * (n as u64 + 1);
            let now = object(kind, &name, "u1", version, &rest);
            let key = (kind, name.clone());
            match act {
                0 => if let Some(last) = objects.remove(&key) {
                    let mut end = last.clone();
                    end["metadata"]["resourceVersion"] = version.to_string().into();
                    index.handle(kind, Event::Deleted(end.clone()));
                    // Late and twice.
                    index.handle(kind, Event::Applied(last));
                    index.handle(kind, Event::Deleted(end));
                    // What comes after it is another object, which a list shows first.
                    index.handle(kind, Event::ListBegun);
                    for ((_, _), object) in objects.iter().filter(|((k, _), _)| *k == kind) {
                        index.handle(kind, Event::Listed(object.clone()));
                    }
                    index.handle(kind, Event::ListDone);
                },
                1 => {
                    // The kind is listed anew, with one more or one other; the server went away in
                    // the middle of the first list.
                    index.handle(kind, Event::ListBegun);
                    objects.insert(key, now);
                    let listed: Vec<_> = objects.iter().filter(|((k, _), _)| *k == kind).collect();
                    for (_, object) in listed.iter().take(listed.len() / 2) {
                        index.handle(kind, Event::Listed((*object).clone()));
                    }
                    index.handle(kind, Event::ListBegun);
                    for (_, object) in &listed {
                        index.handle(kind, Event::Listed((*object).clone()));
                    }
                    index.handle(kind, Event::ListDone);
                }
                _ => {
                    let before = objects.insert(key, now.clone());
                    index.handle(kind, Event::Applied(now.clone()));
                    // An old version that comes late, and the new one twice.
                    for late in before.into_iter().chain([now]) {
                        index.handle(kind, Event::Applied(late));
                    }
                }
            }
            push(&mut index, &mut snapshot);
            versions.push(objects.clone());
        }
        let (folder, server) = (shown(&of_folder(&versions)), shown(&snapshot));
        prop_assert_eq!(server, folder);
    }
}
