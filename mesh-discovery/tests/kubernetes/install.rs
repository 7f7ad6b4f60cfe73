//! What `mesh install` renders, on an API server: it takes all of it, each part can do its work with its role,
//! and nothing is left when it is removed.

use std::collections::BTreeSet;
use std::path::PathBuf;

use inmesh_core::model::Namespace;
use inmesh_discovery::inject::Sidecar;
use inmesh_discovery::install::Install;
use inmesh_discovery::kube::{Cluster, Lease, Removal};
use inmesh_discovery::manifest::to_yaml;
use serde_json::Value as Json;

use crate::api_server::ApiServer;
use crate::ca::{self, DOMAIN, NAMESPACE, Publisher, until};
use crate::{Followed, install_http_routes, route};

/// The documents of some kinds.
pub(crate) fn documents(kinds: &dyn Fn(&str) -> bool) -> String {
    let domain = DOMAIN.parse().expect("a trust domain");
    let mut install = Install::new(Sidecar::new("registry.example/mesh:1.0", domain));
    install.sign = true;
    let all = install.objects().into_iter();
    let all = all.filter(|one| kinds(one["kind"].as_str().expect("a kind")));
    all.map(|one| to_yaml(&one) + "---\n").collect()
}

/// The kubeconfig file of an account of the mesh.
pub(crate) fn account(server: &ApiServer, name: &str) -> PathBuf {
    let token = ["-n", NAMESPACE, "create", "token", name];
    let token = server.kubectl(&token, "").expect("a token");
    server.write_kubeconfig(name, token.trim());
    server.kubeconfig(name)
}

/// All objects of a cluster, but those that it makes by itself at any time. None while a definition ends.
fn all(server: &ApiServer) -> Option<BTreeSet<String>> {
    let kinds = ["api-resources", "--verbs=list", "-o=name"];
    let kinds = server.kubectl(&kinds, "").expect("its kinds");
    let kinds: Vec<_> = kinds
        .lines()
        .filter(|kind| !kind.starts_with("events") && *kind != "componentstatuses")
        .collect();
    let names =
        "-o=jsonpath={range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name}{'\\n'}{end}";
    let found = server.kubectl(&["get", &kinds.join(","), "-A", names], "");
    let found = found.ok()?;
    // Leases of API servers come and go.
    let lasting = found
        .lines()
        .filter(|one| !one.starts_with("Lease kube-system/"));
    Some(lasting.map(str::to_owned).collect())
}

const OURS: &str = "
apiVersion: inmesh.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: cart, namespace: default}
spec: {targetRefs: [{kind: Service, name: cart}]}
";

/// A Pod with an agent. It is there before the webhook, which nothing answers here.
const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: cart-1, namespace: shop, annotations: {inmesh.dev/agent: '{}'}}
spec: {containers: [{name: a, image: b}]}
";

#[tokio::test]
async fn an_installation_serves_and_leaves_nothing() {
    let Some(server) = ApiServer::start_with(&[
        "--runtime-config=certificates.k8s.io/v1beta1=true",
        "--feature-gates=ClusterTrustBundle=true",
    ]) else {
        return;
    };
    server.apply(&ca::namespace("shop", "enabled"));
    let has_routes = install_http_routes(&server);
    if has_routes {
        server.apply(&route("{name: cart, port: 80}"));
    }
    server.apply(POD);
    let before = all(&server).expect("its objects");

    // As an operator does it; and again, which changes nothing.
    let documents = documents(&|_| true);
    let apply = |flags: &[&str]| {
        let applied = server.kubectl(&[&["apply", "-f", "-"], flags].concat(), &documents);
        applied.expect("the API server takes it")
    };
    apply(&[]);
    let versions = || {
        let path = "-o=jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.resourceVersion}{'\\n'}{end}";
        server
            .kubectl(&["get", "-f", "-", path], &documents)
            .expect("all is there")
    };
    let once = versions();
    apply(&["--dry-run=server"]);
    apply(&[]);
    assert_eq!(versions(), once);

    // Each part does its work with its role.
    let config = account(&server, "mesh-ca");
    let of_ca = Cluster::kubeconfig(&config, None)
        .await
        .expect("it is a cluster");
    let its_ca = ca::open(&of_ca).await;
    let publisher = Publisher::begin(&of_ca, &its_ca, "one");
    until("the roots", || ca::map(&server, "shop").is_some()).await;
    let bundle = || {
        ca::get(
            &server,
            &["mutatingwebhookconfiguration", "inmesh"],
            ".webhooks[0].clientConfig.caBundle",
        )
    };
    until("the webhook", || bundle().is_some_and(|it| !it.is_empty())).await;
    publisher.end().await;
    let home = Namespace::new(NAMESPACE).expect("a name");
    let lease = Lease::new(home.clone(), "mesh-control", "one");
    let config = account(&server, "mesh-control");
    let mut followed = Followed::of(&config, Some(lease)).await;
    followed.synced().await;
    let entry = || {
        ca::get(
            &server,
            &["httproute", "cart"],
            ".status.parents[*].controllerName",
        )
    };
    while has_routes && entry().is_none_or(|it| it.is_empty()) {
        followed.go_on().await;
    }
    followed.end().await;
    if has_routes {
        let staged = ["annotate", "httproute", "cart", "inmesh.dev/previous={}"];
        server.kubectl(&staged, "").expect("it is there");
    }
    server.apply(OURS);

    let admin = Cluster::kubeconfig(&server.kubeconfig("admin"), None).await;
    let admin = admin.expect("it is a cluster");
    let removal = Removal::look(&admin, &home).await.expect("it answers");
    assert_eq!(removal.injected, ["shop/cart-1"]);
    assert_eq!(removal.lost, ["TrafficPolicy default/cart"]);
    assert_eq!(removal.helm, None);
    let mut said = Vec::new();
    let removed = removal.remove(|object| said.push(object.to_string()));
    removed.await.expect("it is removed");
    assert_eq!(said[0], "MutatingWebhookConfiguration inmesh");
    assert_eq!(
        said.last().map(String::as_str),
        Some("Namespace mesh-system")
    );
    // What ends a Namespace is a controller, which no cluster of an API server alone has.
    let mut after = before.clone();
    after.insert("Namespace /mesh-system".into());
    until("nothing else is left", || {
        all(&server).as_ref() == Some(&after)
    })
    .await;
    if has_routes {
        let status = ca::get(&server, &["httproute", "cart"], ".status");
        assert_eq!(status.as_deref(), Some(""));
        let annotations = ca::get(&server, &["httproute", "cart"], ".metadata.annotations");
        assert_eq!(annotations.as_deref(), Some(""));
    }
    let ending = ca::get(
        &server,
        &["namespace", NAMESPACE],
        ".metadata.deletionTimestamp",
    );
    assert!(ending.is_some_and(|at| !at.is_empty()));
    let again = Removal::look(&admin, &home).await.expect("it answers");
    let names: Vec<_> = again.objects.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["Namespace mesh-system"]);
}

/// A Namespace that has something else in it stays.
#[tokio::test]
async fn what_is_another_s_stays() {
    let Some(server) = ApiServer::start() else {
        return;
    };
    let documents = documents(&|_| true);
    server
        .kubectl(&["apply", "-f", "-"], &documents)
        .expect("it is taken");
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: other, namespace: mesh-system, labels: {app: other}}\n\
               spec: {securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}, \
               containers: [{name: a, image: b, securityContext: {allowPrivilegeEscalation: false, \
               capabilities: {drop: [ALL]}}}]}\n";
    server.apply(pod);
    server.apply(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: dashboards, namespace: default, \
         labels: {app.kubernetes.io/part-of: inmesh}}\n",
    );
    let secret = ["-n", NAMESPACE, "create", "secret", "generic", "mesh-cable"];
    server.kubectl(&secret, "").expect("it is made");
    let release = [
        "annotate",
        "-n",
        NAMESPACE,
        "deployment",
        "mesh-ca",
        "meta.helm.sh/release-name=inmesh",
    ];
    server.kubectl(&release, "").expect("it is there");
    let admin = Cluster::kubeconfig(&server.kubeconfig("admin"), None).await;
    let admin = admin.expect("it is a cluster");
    let home = Namespace::new(NAMESPACE).expect("a name");
    let removal = Removal::look(&admin, &home).await.expect("it answers");
    assert_eq!(removal.helm.as_deref(), Some("mesh-system/inmesh"));
    let why = removal.stays.clone().expect("it stays");
    assert!(why.contains("the Pod other"), "{why}");
    removal.remove(|_| {}).await.expect("it is removed");
    let names = ca::get(
        &server,
        &["-n", NAMESPACE, "pod,secret,deployment"],
        ".items[*].metadata.name",
    );
    assert_eq!(names.as_deref(), Some("other mesh-cable"));
    assert_eq!(
        removal.left().await.expect("it answers"),
        Vec::<String>::new()
    );
    let kept = ca::get(&server, &["configmap", "dashboards"], ".metadata.name");
    assert_eq!(kept.as_deref(), Some("dashboards"));
    let one: Json = serde_json::from_str(
        &server
            .kubectl(&["get", "namespace", NAMESPACE, "-o", "json"], "")
            .expect("it is there"),
    )
    .expect("it is JSON");
    assert!(one["metadata"]["deletionTimestamp"].is_null());
}
