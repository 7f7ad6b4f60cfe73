//! Every field that the readers ask for: none of them is ever called unknown, and the page of
//! documents lists them all.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use inmesh_core::snapshot::Op;
use serde_json::{Value as Json, json};

use super::super::kind::{Whose, whose};
use super::super::strict::{Asked, documents};
use super::super::{policy, route, service, slice, traffic};
use super::{FILE, defaults, parse};

const MARK: &str = "<!-- generated: the fields of documents -->";

/// A document of each kind that has every mapping in it.
fn samples() -> Vec<Json> {
    let meta = || {
        json!({
            "name": "x", "namespace": "shop", "labels": {"app": "x", "kubernetes.io/service-name": "x"},
            "annotations": {"inmesh.dev/transport": "plain"}, "creationTimestamp": null,
        })
    };
    let bare = json!({"name": "x", "namespace": "shop"});
    let changes = json!({"set": [{"name": "a", "value": "b"}], "add": [], "remove": ["c"]});
    let path = |to: &str| json!({"type": "ReplaceFullPath", "replaceFullPath": format!("/{to}")});
    let filters = json!([
        {"type": "RequestHeaderModifier", "requestHeaderModifier": changes},
        {"type": "ResponseHeaderModifier", "responseHeaderModifier": changes},
        {"type": "CORS", "cors": {
            "allowOrigins": ["*"], "allowMethods": ["*"], "allowHeaders": ["*"], "exposeHeaders": ["a"],
            "allowCredentials": true, "maxAge": 5,
        }},
        {"type": "RequestMirror", "requestMirror": {
            "backendRef": {"group": "", "kind": "Service", "name": "y", "namespace": "shop", "port": 80},
            "fraction": {"numerator": 1, "denominator": 2},
        }},
        {"type": "URLRewrite", "urlRewrite": {"hostname": "a.b", "path": path("v")}},
    ]);
    let of_grpc = json!([filters[0], filters[1], filters[3]]);
    let redirect = json!({
        "type": "RequestRedirect",
        "requestRedirect": {
            "scheme": "https", "hostname": "a.b", "path": path("w"), "port": 81, "statusCode": 301,
        },
    });
    vec![
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": meta(),
            "spec": {
                "type": "ExternalName", "externalName": "a.b",
                "ports": [{"name": "a", "port": 80, "protocol": "TCP", "appProtocol": "http"}],
            },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": meta(),
            "addressType": "IPv4", "ports": [{"name": "a", "port": 80, "protocol": "TCP"}],
            "endpoints": [{
                "addresses": ["10.0.0.1"], "zone": "z",
                "conditions": {"ready": true, "serving": true, "terminating": false},
            }],
        }),
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": bare,
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
                    "filters": filters,
                    "backendRefs": [{
                        "group": "", "kind": "Service", "name": "x", "namespace": "shop",
                        "port": 80, "weight": 1, "filters": filters,
                    }],
                    "timeouts": {"request": "2s", "backendRequest": "1s"},
                    "retry": {"attempts": 1, "backoff": "1s", "codes": [503]},
                }, {
                    "filters": [redirect],
                }],
            },
        }),
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GRPCRoute", "metadata": bare,
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
                    "filters": of_grpc,
                    "backendRefs": [{
                        "group": "", "kind": "Service", "name": "x", "namespace": "shop",
                        "port": 80, "weight": 1, "filters": of_grpc,
                    }],
                }],
            },
        }),
        json!({
            "apiVersion": "inmesh.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": bare,
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": "x", "sectionName": "a"}],
                "timeouts": {"request": "2s", "backendRequest": "1s"},
                "retry": {
                    "attempts": 1, "backoff": "1s", "codes": [503], "grpcCodes": ["UNAVAILABLE"],
                },
                "retryConstraint": {
                    "budget": {"percent": 20, "interval": "10s"},
                    "minRetryRate": {"count": 10, "interval": "1s"},
                },
                "loadBalancer": {"consistentHash": {"httpHeaderName": "x-user"}},
                "outlierDetection": {
                    "consecutive5xxErrors": 5, "baseEjectionTime": "30s", "maxEjectionTime": "300s",
                    "maxEjectionPercent": 10,
                },
            },
        }),
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": bare,
            "spec": {
                "action": "ALLOW", "selector": {"matchLabels": {"app": "x"}},
                "rules": [{
                    "from": [{"source": {"principals": ["*"]}}],
                    "to": [{"operation": {"methods": ["GET"]}}],
                }],
            },
        }),
    ]
}

/// What is asked for in a document: by mapping, and what is done with it.
fn asked(sample: &Json) -> BTreeMap<String, BTreeMap<Asked, Vec<String>>> {
    let text = sample.to_string();
    let document = &documents(FILE, &text).expect("it is JSON")[0];
    let all = &defaults();
    let fields = match sample["kind"].as_str() {
        Some("Service") => document.fields(|f| service::read(f, FILE, all)),
        Some("EndpointSlice") => document.fields(|f| slice::read(f, FILE, all)),
        Some("GRPCRoute") => document.fields(|f| route::grpc::read(f, all)),
        Some("HTTPRoute") => document.fields(|f| route::read(f, all)),
        Some("TrafficPolicy") => document.fields(|f| traffic::read(f, all)),
        _ => document.fields(|f| policy::read(f, all)),
    };
    let mut found: BTreeMap<String, BTreeMap<Asked, Vec<String>>> = BTreeMap::new();
    for (path, name, how) in fields {
        let mut place = String::new();
        let mut index = false;
        for c in path.chars() {
            index = c == '[' || (index && c != ']');
            if !index || c == '[' {
                place.push(c);
            }
        }
        let names = found.entry(place).or_default().entry(how).or_default();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    found
}

fn tables() -> String {
    let mut out = String::new();
    for sample in samples() {
        let (version, kind) = (&sample["apiVersion"], &sample["kind"]);
        let (version, kind) = (version.as_str().unwrap_or_default(), kind.as_str());
        let _written = write!(
            out,
            "\n### `{version} {}`\n\n| in | read | known, without effect | refuses the object |\n\
             | --- | --- | --- | --- |\n",
            kind.unwrap_or_default()
        );
        for (place, by) in asked(&sample) {
            let of = |how: Asked| by.get(&how).cloned().unwrap_or_default();
            let list = |how: Asked| {
                let mut names = of(how);
                names.retain(|name| how == Asked::Refused || !of(Asked::Refused).contains(name));
                names.sort();
                let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
                names.join(", ")
            };
            let place = match &*place {
                "" => "the document".to_owned(),
                place => format!("`{place}`"),
            };
            let _written = writeln!(
                out,
                "| {place} | {} | {} | {} |",
                list(Asked::Read),
                list(Asked::Ignored),
                list(Asked::Refused)
            );
        }
    }
    out
}

/// With `MESH_WRITE_DOCS=1` it writes the page instead.
#[test]
fn the_page_lists_every_field() {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../mesh-cli/docs/documents.md");
    let text = std::fs::read_to_string(&page).expect("the page is there");
    let (before, after) = text.split_once(MARK).expect("the mark is there");
    let (_, after) = after.split_once(MARK).expect("it stands twice");
    let wanted = format!("{before}{MARK}\n{}\n{MARK}{after}", tables());
    if std::env::var_os("MESH_WRITE_DOCS").is_some() {
        std::fs::write(&page, wanted).expect("the page is written");
        return;
    }
    assert!(
        text == wanted,
        "the readers ask for other fields than mesh-cli/docs/documents.md lists; write it anew with \
         MESH_WRITE_DOCS=1 cargo test -p inmesh-discovery the_page_lists_every_field"
    );
}

/// Whatever stands in one of its fields, or where one is missing, no other is called unknown.
#[test]
fn a_known_field_is_never_unknown() {
    fn places(value: &Json, at: &str, found: &mut Vec<String>) {
        match value {
            Json::Object(fields) => {
                for (name, value) in fields {
                    let name = name.replace('~', "~0").replace('/', "~1");
                    let at = format!("{at}/{name}");
                    places(value, &at, found);
                    found.push(at);
                }
            }
            Json::Array(items) => {
                for (n, item) in items.iter().enumerate() {
                    places(item, &format!("{at}/{n}"), found);
                }
            }
            _ => {}
        }
    }
    let values = [
        json!(null),
        json!(5),
        json!(""),
        json!("x"),
        json!(true),
        json!([]),
        json!({}),
        json!([{}]),
        json!([5]),
    ];
    let mut wrong = Vec::new();
    for sample in samples() {
        let mut found = Vec::new();
        places(&sample, "", &mut found);
        // What kind a document is decides which fields it has.
        found.retain(|at| !matches!(&**at, "/apiVersion" | "/kind"));
        for at in &found {
            for value in values.iter().map(Some).chain([None]) {
                let mut text = sample.clone();
                match value {
                    Some(value) => *text.pointer_mut(at).expect("it is there") = value.clone(),
                    None => {
                        let (parent, name) = at.rsplit_once('/').expect("a path");
                        let name = name.replace("~1", "/").replace("~0", "~");
                        let parent = text.pointer_mut(parent).and_then(Json::as_object_mut);
                        parent.expect("it is a mapping").remove(&name);
                    }
                }
                let parsed = parse(FILE, &text.to_string(), &defaults()).expect("it is JSON");
                for entry in &parsed.entries {
                    let (Op::Put(_, problems) | Op::Refuse(_, _, problems)) = &entry.op else {
                        continue;
                    };
                    let unknown = problems
                        .iter()
                        .find(|p| p.message.contains("not a known field"));
                    wrong.extend(unknown.map(|p| format!("{at} = {value:?}: {}", p.field)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The kinds that the page names, and what becomes of them.
#[test]
fn the_page_names_the_kinds() {
    let page = include_str!("../../../../mesh-cli/docs/documents.md");
    for (version, kind) in [
        ("v1", "Service"),
        ("discovery.k8s.io/v1", "EndpointSlice"),
        ("gateway.networking.k8s.io/v1", "GRPCRoute"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
        ("gateway.networking.k8s.io/v1beta1", "HTTPRoute"),
        ("security.istio.io/v1", "AuthorizationPolicy"),
        ("security.istio.io/v1beta1", "AuthorizationPolicy"),
        ("inmesh.dev/v1alpha1", "AuthorizationPolicy"),
    ] {
        assert!(
            matches!(whose(Some(version), Some(kind)), Whose::Ours(_)),
            "{version} {kind}"
        );
        let (group, _) = version.rsplit_once('/').unwrap_or(("", version));
        let row = page.lines().find(|line| {
            line.starts_with('|') && line.contains(group) && line.contains(&format!("`{kind}`"))
        });
        let row = row.unwrap_or_else(|| panic!("{version} {kind} is not on the page"));
        let version = version.rsplit('/').next().unwrap_or_default();
        assert!(row.contains(&format!("`{version}`")), "{row}: {version}");
    }
}
