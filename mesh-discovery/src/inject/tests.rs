use serde_json::json;

use super::*;
use crate::layout::AGENT;

fn sidecar() -> Sidecar {
    Sidecar::new("mesh:dev", "cluster.local".parse().expect("a trust domain"))
}

fn default() -> Namespace {
    Namespace::new("default").expect("a name")
}

fn pod(spec: &Json, annotations: &Json, labels: &Json) -> Json {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "cart-1", "namespace": "shop", "annotations": annotations, "labels": labels},
        "spec": spec,
    })
}

fn app() -> Json {
    json!({"containers": [{"name": "app", "image": "cart"}]})
}

#[test]
fn whatever_has_pods_is_injected_once() {
    let template = json!({"metadata": {"labels": {"app": "cart"}}, "spec": app()});
    for (kind, path) in [
        ("Deployment", "/spec/template"),
        ("StatefulSet", "/spec/template"),
        ("DaemonSet", "/spec/template"),
        ("Job", "/spec/template"),
        ("CronJob", "/spec/jobTemplate/spec/template"),
    ] {
        let spec = match kind {
            "CronJob" => json!({"jobTemplate": {"spec": {"template": template}}}),
            _ => json!({"template": template}),
        };
        let mut document = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "cart"}, "spec": spec});
        assert_eq!(
            inject(&mut document, &sidecar(), &default()),
            Ok(Injected::Added),
            "{kind}"
        );
        let of = document.pointer(path).expect("it is there");
        let names: Vec<_> = of["spec"]["initContainers"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|c| c["name"].as_str())
            .collect();
        assert_eq!(names, [Some("inmesh-capture"), Some("inmesh-proxy")]);
        assert_eq!(
            of["metadata"]["annotations"]["inmesh.dev/transport"],
            "mesh"
        );
        let once = document.clone();
        assert_eq!(
            inject(&mut document, &sidecar(), &default()),
            Ok(Injected::Already),
            "{kind}"
        );
        assert_eq!(document, once);
    }
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "cart"}});
    let before = service.clone();
    assert_eq!(
        inject(&mut service, &sidecar(), &default()),
        Ok(Injected::NoPods)
    );
    assert_eq!(service, before);
    let mut list = json!({"apiVersion": "v1", "kind": "List", "items": [service, pod(&app(), &json!({}), &json!({}))]});
    assert_eq!(
        inject(&mut list, &sidecar(), &default()),
        Ok(Injected::Added)
    );
    assert!(list["items"][1]["spec"]["initContainers"].is_array());
}

#[test]
fn the_agent_is_that_of_the_pod() {
    let mut spec = app();
    spec["serviceAccountName"] = "cart".into();
    spec["initContainers"] = json!([{"name": "first", "image": "x"}]);
    spec["containers"][0]["livenessProbe"] = json!({"httpGet": {"path": "/healthz", "port": 8080}});
    let mut pod = pod(
        &spec,
        &json!({"inmesh.dev/exclude-inbound-ports": "9000,9001"}),
        &json!({"app": "cart", "version": "v2"}),
    );
    assert_eq!(
        inject(&mut pod, &sidecar(), &default()),
        Ok(Injected::Added)
    );
    let file = pod["metadata"]["annotations"][AGENT]
        .as_str()
        .expect("a text");
    let file: Json = serde_json::from_str(file).expect("JSON");
    assert_eq!(
        file["workload"],
        json!({
            "namespace": "shop", "name": "cart", "serviceAccount": "cart", "labels": {"app": "cart", "version": "v2"},
        })
    );
    assert_eq!(
        file["control"]["controlId"],
        "spiffe://cluster.local/ns/mesh-system/sa/mesh-control"
    );
    assert_eq!(
        file["listeners"][2]["inbound"],
        json!({"app": "127.0.0.1", "probes": ["/healthz"]})
    );
    let containers = pod["spec"]["initContainers"].as_array().expect("a list");
    // Those of the application come behind it: their connections are the mesh's too.
    assert_eq!(containers[2]["name"], "first");
    assert_eq!(
        containers[0]["args"],
        json!([
            "capture",
            "--user=1337",
            "--exclude-inbound-ports=9000,9001"
        ])
    );
    assert_eq!(containers[1]["securityContext"]["runAsUser"], 1337);
}

#[test]
fn some_pods_are_left_as_they_are() {
    let mut of_node = app();
    of_node["hostNetwork"] = true.into();
    for (spec, labels) in [
        (of_node, json!({})),
        (app(), json!({"inmesh.dev/inject": "disabled"})),
    ] {
        let mut pod = pod(&spec, &json!({}), &labels);
        let before = pod.clone();
        let done = inject(&mut pod, &sidecar(), &default());
        assert!(matches!(done, Ok(Injected::Declined(_))), "{done:?}");
        assert_eq!(pod, before);
    }
}

#[test]
fn what_cannot_work_is_refused_with_its_field() {
    let probed = |way: Json| {
        let mut spec = app();
        spec["containers"][0]["ports"] = json!([{"name": "http", "containerPort": 8080}]);
        spec["containers"][0]["readinessProbe"] = way;
        spec
    };
    let http = probed(json!({"httpGet": {"path": "/", "port": "http"}}));
    let tcp = probed(json!({"tcpSocket": {"port": 8080}}));
    let strict = json!({"inmesh.dev/peers": "strict"});
    let field = "spec.containers[0].readinessProbe";
    let mut taken = app();
    taken["volumes"] = json!([{"name": "inmesh-state", "emptyDir": {}}]);
    for (spec, annotations, labels, field) in [
        (&http, &strict, json!({}), field),
        (&tcp, &strict, json!({}), field),
        (&taken, &json!({}), json!({}), "spec"),
        (
            &app(),
            &json!({}),
            json!({"inmesh.dev/inject": "yes"}),
            "metadata.labels.inmesh.dev/inject",
        ),
        (
            &app(),
            &json!({"inmesh.dev/peers": "loose"}),
            json!({}),
            "metadata.annotations.inmesh.dev/peers",
        ),
        (&json!("no"), &json!({}), json!({}), "spec"),
        (
            &json!({"initContainers": "no"}),
            &json!({}),
            json!({}),
            "spec.initContainers",
        ),
    ] {
        let mut pod = pod(spec, annotations, &labels);
        let before = pod.clone();
        let refused = inject(&mut pod, &sidecar(), &default()).expect_err(field);
        assert_eq!(refused.field, field);
        assert_eq!(pod, before);
    }
    // Where its port is not redirected a probe reaches the application as ever.
    let excluded =
        json!({"inmesh.dev/peers": "strict", "inmesh.dev/exclude-inbound-ports": "8080"});
    let mut pod = pod(&http, &excluded, &json!({}));
    assert_eq!(
        inject(&mut pod, &sidecar(), &default()),
        Ok(Injected::Added)
    );
}
