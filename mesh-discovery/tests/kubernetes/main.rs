//! The source against a real API server.

#![cfg(feature = "kubernetes-ca")]

mod api_server;
mod ca;
mod install;
mod signer;
mod staged;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use inmesh_core::authorize::DefaultAction;
use inmesh_core::discover::{Applied, Inbox, Message, Source, SourceState};
use inmesh_core::drain::{DrainTrigger, Phase, drain};
use inmesh_core::model::{Namespace, ServiceName, Workload};
use inmesh_core::snapshot::{Settings, Snapshot, SnapshotWriter, snapshot};
use inmesh_discovery::kube::{Cluster, KubeSource, Lease, SecretStore, TokenReviews};
use inmesh_discovery::manifest::{Defaults, Unsaid, definitions};
use inmesh_pki::ca::attest::{ReviewError, TokenReview};
use inmesh_pki::ca::store::{Store, StoreError};
use inmesh_pki::ca::{Ca, Lifetimes, OpenError};
use inmesh_pki::clock::SystemClock;
use inmesh_pki::crypto::Crypto;
use inmesh_pki::svid::PrivateKey;
use serde_json::Value as Json;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use api_server::ApiServer;

/// The longest that anything may take on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);

/// A source that runs, and what it has said.
struct Followed {
    inbox: Inbox,
    writer: SnapshotWriter,
    state: SourceState,
    /// The fewest endpoints that the Service has had since there were any.
    fewest: Option<usize>,
    source: JoinHandle<()>,
    drain: DrainTrigger,
}

impl Followed {
    async fn begin(kubeconfig: &Path) -> Self {
        Self::of(kubeconfig, None).await
    }

    /// The same; with a Lease it writes statuses while it holds that.
    async fn of(kubeconfig: &Path, lease: Option<Lease>) -> Self {
        let cluster = Cluster::kubeconfig(kubeconfig, None)
            .await
            .expect("it is a cluster");
        let defaults = Defaults::new(Namespace::new("default").expect("a name"))
            .trust_domain("lab.example".parse().expect("a trust domain"))
            .unsaid(Unsaid::Plain);
        let source = KubeSource::new(cluster, defaults);
        let source = match lease {
            Some(lease) => source.write_status(lease),
            None => source,
        };
        let web = Workload::new("default", "web", "web").expect("a name");
        let empty = Snapshot::new(Settings::new(web, DefaultAction::Allow));
        let (writer, reader) = snapshot(empty);
        let inbox = Inbox::new(reader);
        let (trigger, drain) = drain();
        let sink = inbox.sink(source.id());
        let task = tokio::spawn(async move {
            let _drained = source.run(sink, drain).await;
        });
        Self {
            inbox,
            writer,
            state: SourceState::Waiting(None),
            fewest: None,
            source: task,
            drain: trigger,
        }
    }

    /// Waits until something holds.
    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !holds(self) {
            let left = LIMIT.saturating_sub(begin.elapsed());
            let next = timeout(left, self.inbox.next()).await;
            let message =
                next.unwrap_or_else(|_| panic!("{what}: {:?}; {:?}", self.state, self.all()));
            self.handle(message.expect("the source runs"));
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Change(change, acknowledge) => {
                let applied = self.writer.apply(change).generation();
                if let Some(acknowledge) = acknowledge {
                    acknowledge.applied(Applied::at(applied));
                }
                if let Some(endpoints) = self.endpoints() {
                    let len = endpoints.len();
                    self.fewest = match self.fewest {
                        None if len == 0 => None,
                        before => Some(before.unwrap_or(len).min(len)),
                    };
                }
            }
            Message::State(_, state) => self.state = state,
            _ => {}
        }
    }

    /// Ends it in order.
    async fn end(self) {
        self.drain.advance(Phase::Closed);
        timeout(LIMIT, self.source)
            .await
            .expect("it ends")
            .expect("it ends in order");
    }

    /// Handles what there is to handle for a moment.
    async fn go_on(&mut self) {
        let moment = Instant::now() + Duration::from_millis(100);
        while let Ok(Some(message)) = tokio::time::timeout_at(moment, self.inbox.next()).await {
            self.handle(message);
        }
    }

    async fn synced(&mut self) {
        self.until("synced", |it| it.state == SourceState::Synced)
            .await;
    }

    /// The endpoints of the Service `cart`, each with how it is reached.
    fn endpoints(&self) -> Option<BTreeSet<String>> {
        let cart = ServiceName::new(&Namespace::new("default").ok()?, "cart").ok()?;
        let now = self.writer.load();
        let members = now.service(&cart)?.endpoints(80)?.members();
        let shown = members.iter().map(|member| {
            let one = &member.endpoint;
            format!(
                "{} {:?} {}",
                one.address(),
                one.transport,
                one.locality.region
            )
        });
        Some(shown.collect())
    }

    fn has(&self, endpoints: &[&str]) -> bool {
        self.endpoints() == Some(endpoints.iter().map(|one| (*one).to_owned()).collect())
    }

    /// What is said of each object, without those that every cluster has.
    fn all(&self) -> Vec<String> {
        let status = self.writer.load().status().into_iter();
        let shown = status.map(|one| {
            let problems: Vec<_> = one.problems.iter().map(ToString::to_string).collect();
            format!("{} {:?} {problems:?}", one.object, one.serving)
        });
        let ours = |one: &String| !one.starts_with("Namespace/") && !one.contains("kubernetes");
        shown.filter(ours).collect()
    }

    fn problem_of(&self, object: &str) -> Option<String> {
        let status = self.writer.load().status();
        let found = status.iter().find(|one| one.object == object)?;
        Some(
            found
                .problems
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; "),
        )
    }
}

/// The route `cart` of the Service of that name.
fn route(backends: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{name: cart, namespace: default}}\n\
         spec:\n  parentRefs: [{{group: '', kind: Service, name: cart}}]\n\
         \u{20} rules: [{{backendRefs: [{backends}]}}]\n"
    )
}

/// Installs the definition of HTTPRoute; `false` where the fixtures are not there, after it was said.
fn install_http_routes(server: &ApiServer) -> bool {
    let Some(fixtures) = std::env::var_os("MESH_FIXTURES").map(std::path::PathBuf::from) else {
        eprintln!("skipped in part: MESH_FIXTURES names no folder");
        return false;
    };
    let crds = fixtures.join("gateway-api/crd-standard");
    let crds = crds.join("gateway.networking.k8s.io_httproutes.yaml");
    let crds = crds.to_str().expect("it is UTF-8");
    let installed = server.kubectl(&["apply", "--server-side", "-f", crds], "");
    installed.expect("they are valid");
    let established = [
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "crd",
        "--all",
    ];
    server
        .kubectl(&established, "")
        .expect("they are established");
    true
}

const CART: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: default}
spec: {clusterIP: 10.96.7.7, ports: [{name: http, port: 80, appProtocol: http}]}
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/region: north}}
";

fn pod(name: &str, account: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, labels: {{app: cart}}, \
         annotations: {{inmesh.dev/transport: mesh}}}}\nspec: {{serviceAccountName: {account}, \
         nodeName: n1, containers: [{{name: a, image: b}}]}}\n---\n"
    )
}

fn slice(endpoints: &[(u8, &str)]) -> String {
    let endpoint = |(n, pod): &(u8, &str)| {
        let target = match *pod {
            "" => String::new(),
            pod => format!(", targetRef: {{kind: Pod, namespace: default, name: {pod}}}"),
        };
        format!("{{addresses: [10.1.0.{n}], nodeName: n1, conditions: {{ready: true}}{target}}}")
    };
    let endpoints: Vec<_> = endpoints.iter().map(endpoint).collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: cart-a, \
         namespace: default, labels: {{kubernetes.io/service-name: cart}}}}\naddressType: IPv4\n\
         ports: [{{name: http, port: 8080}}]\nendpoints: [{}]\n---\n",
        endpoints.join(", ")
    )
}

const ONE: &str = "10.1.0.1:8080 Mesh { ids: {\"spiffe://lab.example/ns/default/sa/cart\"} } north";
const TWO: &str = "10.1.0.2:8080 Plain north";

#[tokio::test]
async fn what_is_applied_serves_and_an_outage_takes_nothing_away() {
    let Some(mut server) = ApiServer::start() else {
        return;
    };
    let mut followed = Followed::begin(&server.kubeconfig("admin")).await;
    followed.synced().await;
    assert_eq!(followed.endpoints(), None);

    server.apply(
        &[
            CART,
            "---\n",
            &pod("cart-1", "cart"),
            &slice(&[(1, "cart-1"), (2, "")]),
        ]
        .concat(),
    );
    followed
        .until("two endpoints", |it| it.has(&[ONE, TWO]))
        .await;
    let now = followed.writer.load();
    let by_address = now.at_address([10, 96, 7, 7].into());
    assert_eq!(by_address.expect("its virtual address").name.name(), "cart");

    // A kind that is not there is found once its definition is.
    if install_http_routes(&server) {
        server.apply(&route("{name: cart, port: 80}, {name: none, port: 80}"));
        let dangling = "Service none.default does not exist";
        let problem = |it: &Followed| it.problem_of("HTTPRoute/default/cart");
        followed
            .until("the route", |it| {
                problem(it).is_some_and(|p| p.contains(dangling))
            })
            .await;
        server
            .kubectl(&["delete", "httproute", "cart"], "")
            .expect("it is there");
        followed.until("no route", |it| problem(it).is_none()).await;
    }

    // The server is gone: what was known serves, and the state says so.
    server.kill();
    followed
        .until("lost", |it| matches!(it.state, SourceState::Lost(_)))
        .await;
    assert!(followed.has(&[ONE, TWO]));
    server.begin();
    server.apply(&slice(&[(1, "cart-1")]));
    followed.until("one endpoint", |it| it.has(&[ONE])).await;
    followed.synced().await;
    assert_eq!(followed.fewest, Some(1), "it was never empty in between");
    server
        .kubectl(&["delete", "pod", "cart-1", "--force"], "")
        .expect("it is there");
    followed.until("none", |it| it.has(&[])).await;
}

/// The state of a source names what a role lacks; it is synced once it may read all kinds.
#[tokio::test]
async fn a_role_that_lacks_a_kind_is_named() {
    let Some(server) = ApiServer::start() else {
        return;
    };
    let bind = |rules: &str| {
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{name: mesh}}\n\
             rules: [{rules}]\n---\napiVersion: rbac.authorization.k8s.io/v1\n\
             kind: ClusterRoleBinding\nmetadata: {{name: mesh}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: mesh}}\n\
             subjects: [{{kind: ServiceAccount, name: mesh, namespace: default}}]\n---\n\
             apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: mesh, namespace: default}}\n"
        )
    };
    let read = |group: &str, kinds: &str| {
        format!("{{apiGroups: ['{group}'], resources: [{kinds}], verbs: [get, list, watch]}}")
    };
    let core = "configmaps, namespaces, nodes, services";
    let some = [read("", core), read("discovery.k8s.io", "endpointslices")].join(", ");
    server.apply(&bind(&some));
    let token = server
        .kubectl(&["create", "token", "mesh"], "")
        .expect("a token");
    server.write_kubeconfig("mesh", token.trim());
    let mut followed = Followed::begin(&server.kubeconfig("mesh")).await;
    let lacks = |it: &Followed| match &it.state {
        SourceState::Lost(why) => why.contains("the role needs get, list and watch on pods"),
        _ => false,
    };
    followed.until("what is lacking", lacks).await;
    assert_eq!(
        followed.writer.load().generation(),
        0,
        "nothing is said of a part"
    );
    server.apply(&bind(&[some, read("", "pods")].join(", ")));
    followed.synced().await;
}

/// Our own kinds are installed by their definitions, and followed; a field that no reader knows is refused
/// by the API server itself.
#[tokio::test]
async fn our_own_kinds_are_installed_and_followed() {
    let Some(server) = ApiServer::start() else {
        return;
    };
    for definition in definitions() {
        server.apply(&definition.to_string());
    }
    let established = [
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "crd",
        "--all",
    ];
    server
        .kubectl(&established, "")
        .expect("they are established");
    let of = |kind: &str, spec: &str| {
        format!(
            "apiVersion: inmesh.dev/v1alpha1\nkind: {kind}\n\
             metadata: {{name: one, namespace: default, annotations: {{inmesh.dev/transport: plain}}}}\n\
             spec: {spec}\n---\n"
        )
    };
    let traffic = "{targetRefs: [{group: '', kind: Service, name: cart}], timeouts: {request: 2s}, \
                   fault: {delay: {percentage: {value: 0.5}, fixedDelay: 1s}}}";
    let entry =
        "{hosts: [a.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}";
    let policy = "{action: DENY, selector: {matchLabels: {app: a}}, rules: [{to: [{operation: {paths: [/a]}}]}]}";
    let applied =
        of("TrafficPolicy", traffic).replace(", annotations: {inmesh.dev/transport: plain}", "");
    let policy = of("AuthorizationPolicy", policy)
        .replace(", annotations: {inmesh.dev/transport: plain}", "");
    server.apply(&[CART, "---\n", &applied, &of("ServiceEntry", entry), &policy].concat());
    for misspelt in [
        "{targetRef: []}",
        "{timeouts: {requests: 2s}}",
        "{timeouts: 2s}",
    ] {
        let strict = ["apply", "--validate=strict", "-f", "-"];
        let refused = server.kubectl(
            &strict,
            &of("TrafficPolicy", misspelt).replace("one", "two"),
        );
        assert!(refused.is_err(), "{misspelt}");
    }
    let mut followed = Followed::begin(&server.kubeconfig("admin")).await;
    followed.synced().await;
    for kind in ["AuthorizationPolicy", "ServiceEntry", "TrafficPolicy"] {
        let problem = followed.problem_of(&format!("{kind}/default/one"));
        assert_eq!(problem.as_deref(), Some(""), "{kind}: {:?}", followed.all());
    }
}

/// A server that begins is waited for: the first that is said of it has the policies that it has.
#[tokio::test]
async fn a_server_that_begins_is_not_without_policies() {
    let Some(mut server) = ApiServer::start() else {
        return;
    };
    let definition = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n\
        metadata: {name: authorizationpolicies.security.istio.io}\n\
        spec:\n  group: security.istio.io\n  scope: Namespaced\n\
        \u{20} names: {kind: AuthorizationPolicy, plural: authorizationpolicies}\n\
        \u{20} versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: \
        {type: object, x-kubernetes-preserve-unknown-fields: true}}}]\n";
    server.apply(definition);
    let established = [
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "crd",
        "--all",
    ];
    server.kubectl(&established, "").expect("it is established");
    server.apply(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {name: all, namespace: default}\nspec: {action: DENY, rules: [{}]}\n",
    );
    server.kill();
    server.launch();
    let mut followed = Followed::begin(&server.kubeconfig("admin")).await;
    let begun = |it: &Followed| it.writer.load().generation() > 0;
    followed.until("something", begun).await;
    let known = followed.problem_of("AuthorizationPolicy/default/all");
    assert_eq!(
        known.as_deref(),
        Some(""),
        "the first that is said has the policy"
    );
}

/// The status of the route `cart`: each controller with its conditions.
fn status_of(server: &ApiServer) -> (String, Vec<String>) {
    let route = server
        .kubectl(&["get", "httproute", "cart", "-o", "json"], "")
        .expect("it is there");
    let route: Json = serde_json::from_str(&route).expect("it is JSON");
    let parents = route["status"]["parents"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let shown = parents.iter().map(|parent| {
        let conditions = parent["conditions"].as_array().cloned().unwrap_or_default();
        let shown = conditions.iter().map(|one| {
            let of = &one["observedGeneration"];
            let old = !of.is_null() && *of != route["metadata"]["generation"];
            let old = if old { " of an earlier generation" } else { "" };
            format!("{} {} {}{old}", one["type"], one["status"], one["reason"])
        });
        let shown: Vec<_> = shown.collect();
        format!("{}: {}", parent["controllerName"], shown.join(", ")).replace('"', "")
    });
    let version = route["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or_default();
    (version.to_owned(), shown.collect())
}

/// Runs two sources until the status of the route is as wanted; returns the version of the object.
async fn until_status(server: &ApiServer, two: &mut [&mut Followed], wanted: &[&str]) -> String {
    let begin = Instant::now();
    loop {
        let (version, found) = status_of(server);
        if found == wanted {
            return version;
        }
        assert!(begin.elapsed() < LIMIT, "{found:?}");
        for one in &mut *two {
            one.go_on().await;
        }
    }
}

#[tokio::test]
async fn one_writes_the_status_of_routes_and_another_takes_over() {
    const OTHER: &str = "example.com/other: Accepted True Accepted";
    const DANGLING: &str =
        "inmesh.dev/mesh: Accepted True Accepted, ResolvedRefs False BackendNotFound";
    const GOOD: &str = "inmesh.dev/mesh: Accepted True Accepted, ResolvedRefs True ResolvedRefs";
    let Some(server) = ApiServer::start() else {
        return;
    };
    if !install_http_routes(&server) {
        return;
    }
    server.apply(&[CART, "---\n", &route("{name: none, port: 80}")].concat());
    let other = r#"{"status": {"parents": [{"parentRef": {"group": "", "kind": "Service", "name": "cart"},
        "controllerName": "example.com/other", "conditions": [{"type": "Accepted", "status": "True",
        "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-31T12:00:00Z"}]}]}}"#;
    let patch = [
        "patch",
        "httproute",
        "cart",
        "--subresource=status",
        "--type=merge",
        "-p",
        other,
    ];
    server.kubectl(&patch, "").expect("it is valid");

    let admin = server.kubeconfig("admin");
    let lease = |holder| {
        let namespace = Namespace::new("default").expect("a name");
        Lease::new(namespace, "status", holder)
    };
    let mut a = Followed::of(&admin, Some(lease("a"))).await;
    a.synced().await;
    let first = until_status(&server, &mut [&mut a], &[OTHER, DANGLING]).await;
    let mut b = Followed::of(&admin, Some(lease("b"))).await;
    b.synced().await;
    // What changes nothing of it is not written, by either.
    server.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: aside}\nspec: {ports: [{port: 80}]}\n",
    );
    let aside = |it: &Followed| it.problem_of("Service/default/aside").is_some();
    a.until("another Service", aside).await;
    b.until("another Service", aside).await;
    let same = until_status(&server, &mut [&mut a, &mut b], &[OTHER, DANGLING]).await;
    assert_eq!(first, same);
    // A backend that comes, without a change of the route.
    server.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: none}\nspec: {ports: [{port: 80}]}\n",
    );
    until_status(&server, &mut [&mut a, &mut b], &[OTHER, GOOD]).await;
    // The holder ends in order: the other writes at once.
    let holder = || {
        let spec = [
            "get",
            "lease",
            "status",
            "-o",
            "jsonpath={.spec.holderIdentity}",
        ];
        server.kubectl(&spec, "").expect("it is there")
    };
    assert_eq!(holder(), "a");
    a.end().await;
    assert_eq!(holder(), "");
    server.apply(&route("{name: gone, port: 80}"));
    until_status(&server, &mut [&mut b], &[OTHER, DANGLING]).await;
    assert_eq!(holder(), "b");
}

/// The API server knows the account of a token, its audience, and whether the account still exists.
#[tokio::test]
async fn a_token_is_reviewed_by_the_api_server() {
    let Some(server) = ApiServer::start() else {
        return;
    };
    let account =
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: NAME, namespace: default}\n---\n";
    let bind = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\n\
                metadata: {name: ca}\n\
                roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, \
                name: 'system:auth-delegator'}\n\
                subjects: [{kind: ServiceAccount, name: ca, namespace: default}]\n";
    let accounts = ["ca", "cart"].map(|name| account.replace("NAME", name));
    server.apply(&[&accounts.concat(), bind].concat());
    let token = |account: &str, audience: &[&str]| {
        let token = [&["create", "token", account][..], audience].concat();
        server
            .kubectl(&token, "")
            .expect("a token")
            .trim()
            .to_owned()
    };
    let reviews = |user: &str, token: &str| {
        server.write_kubeconfig(user, token);
        let file = server.kubeconfig(user);
        async move {
            let cluster = Cluster::kubeconfig(&file, None)
                .await
                .expect("it is a cluster");
            TokenReviews::of(&cluster)
        }
    };
    let ca = reviews("ca", &token("ca", &[])).await;
    let cart = token("cart", &["--audience", "inmesh-ca"]);
    let found = ca.review(&cart, "inmesh-ca").await.expect("it is good");
    assert_eq!(
        (&*found.namespace, &*found.service_account),
        ("default", "cart")
    );
    let other = token("cart", &["--audience", "other"]);
    for bad in [&*other, &token("cart", &[]), "", "no token", "admin"] {
        let refused = ca.review(bad, "inmesh-ca").await;
        assert!(
            matches!(refused, Err(ReviewError::Refused { .. })),
            "{refused:?}"
        );
    }
    // A role that may not ask is no reason to refuse tokens for good.
    let stranger = reviews("stranger", &token("cart", &[])).await;
    let unavailable = stranger.review(&cart, "inmesh-ca").await;
    assert!(
        matches!(unavailable, Err(ReviewError::Unavailable { .. })),
        "{unavailable:?}"
    );
    server
        .kubectl(&["delete", "serviceaccount", "cart"], "")
        .expect("it is there");
    // The API server keeps an answer for ten seconds.
    let begin = Instant::now();
    let gone = loop {
        let reviewed = ca.review(&cart, "inmesh-ca").await;
        if reviewed.is_err() {
            break reviewed;
        }
        assert!(begin.elapsed() < LIMIT, "{reviewed:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert!(matches!(gone, Err(ReviewError::Refused { .. })), "{gone:?}");
}

/// Secrets keep what a folder keeps; of two that write at once, one is refused.
#[tokio::test]
async fn the_state_of_a_ca_is_swapped_in_secrets() {
    let Some(server) = ApiServer::start() else {
        return;
    };
    let admin = server.kubeconfig("admin");
    let cluster = Cluster::kubeconfig(&admin, None)
        .await
        .expect("it is a cluster");
    let namespace = Namespace::new("default").expect("a name");
    let store = || SecretStore::of(&cluster, &namespace, "mesh-ca").expect("a name");
    let (one, two) = (store(), store());
    assert!(one.load().await.expect("it answers").is_none());
    let first = one
        .swap(None, b"one".to_vec())
        .await
        .expect("it is the first");
    let refused = two.swap(None, b"other".to_vec()).await;
    assert!(matches!(refused, Err(StoreError::Conflict)), "{refused:?}");
    // Larger than a Secret may be, and back.
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let second = two
        .swap(Some(first), large.clone())
        .await
        .expect("it is the next");
    assert!(second > first);
    let (state, version) = one.load().await.expect("it answers").expect("it is there");
    assert!(state == large && version == second, "{} bytes", state.len());
    let parts = || {
        let all = server
            .kubectl(&["get", "secrets", "-o", "name"], "")
            .expect("it answers");
        all.lines().filter(|name| name.contains("-part-")).count()
    };
    assert_eq!(parts(), 6);
    let race = [vec![b'x'; 600_000], vec![b'y'; 700_000]];
    let (a, b) = tokio::join!(
        one.swap(Some(second), race[0].clone()),
        two.swap(Some(second), race[1].clone())
    );
    let (won, lost) = if a.is_ok() {
        (&race[0], b)
    } else {
        (&race[1], a)
    };
    assert!(matches!(lost, Err(StoreError::Conflict)), "{lost:?}");
    let (state, third) = one.load().await.expect("it answers").expect("it is there");
    assert!(state == *won);
    for stale in [None, Some(first), Some(second)] {
        let refused = one.swap(stale, b"late".to_vec()).await;
        assert!(matches!(refused, Err(StoreError::Conflict)), "{stale:?}");
    }
    one.swap(Some(third), b"small".to_vec())
        .await
        .expect("it is the next");
    assert_eq!(parts(), 0, "neither what served nor what lost leaves parts");

    let key = || {
        PrivateKey::from_pem(
            rcgen::KeyPair::generate()
                .expect("a key")
                .serialize_pem()
                .as_bytes(),
        )
    };
    let (first, second) = (key().expect("a key"), key().expect("a key"));
    one.keep_key("01ab", &first).await.expect("it is kept");
    one.keep_key("02cd", &first).await.expect("it is kept");
    one.keep_key("02cd", &second).await.expect("it is kept");
    let kept = two.key("02cd").await.expect("it is there");
    assert_eq!(kept.secret_pkcs8_der(), second.secret_pkcs8_der());
    assert_eq!(two.key_ids().await.expect("it answers"), ["01ab", "02cd"]);
    for _twice in 0..2 {
        two.forget_keys(vec!["01ab".to_owned()])
            .await
            .expect("it answers");
    }
    for id in ["01ab", "", "../x", "G", "AB"] {
        let unknown = one.key(id).await;
        assert!(
            matches!(unknown, Err(StoreError::UnknownKey { .. })),
            "{id}"
        );
    }
    assert_eq!(one.begun().await.expect("it answers"), [""; 0]);
    for keys in [vec!["01"], vec!["02", "03"]] {
        let ids = keys.iter().map(|id| (*id).to_owned()).collect();
        one.begin(ids).await.expect("it is noted");
        assert_eq!(two.begun().await.expect("it answers"), keys);
    }
    for _twice in 0..2 {
        one.finish().await.expect("it answers");
    }
    assert_eq!(two.begun().await.expect("it answers"), [""; 0]);
}

/// A CA that was opened in Secrets is the same when it is opened again, also after an outage.
#[tokio::test]
async fn a_ca_is_opened_again_from_secrets() {
    let Some(mut server) = ApiServer::start() else {
        return;
    };
    let cluster = Cluster::kubeconfig(&server.kubeconfig("admin"), None).await;
    let cluster = cluster.expect("it is a cluster");
    let domain = "lab.example".parse().expect("a trust domain");
    let hour = Duration::from_secs(3_600);
    let lifetimes = Lifetimes {
        root: 24 * hour,
        issuer: 12 * hour,
        leaf: hour,
    };
    let open = async || {
        let namespace = Namespace::new("default").expect("a name");
        let store = SecretStore::of(&cluster, &namespace, "mesh-ca").expect("a name");
        let crypto = Crypto::aws_lc_rs();
        Ca::open(
            store,
            &domain,
            None,
            lifetimes,
            &crypto,
            SystemClock::shared(),
        )
        .await
    };
    let made = open().await.expect("it is made");
    let bundle = made.published().borrow().bundle.to_pem();
    let again = open().await.expect("it is there");
    assert_eq!(again.published().borrow().bundle.to_pem(), bundle);
    server.kill();
    let away = open().await.map(drop);
    let why = away.expect_err("no server answers");
    assert!(
        matches!(
            why,
            OpenError::Store(StoreError::Unavailable { passes: true, .. })
        ),
        "{why:?}"
    );
    server.begin();
    let back = open().await.expect("it is there");
    assert_eq!(back.published().borrow().bundle.to_pem(), bundle);
}
