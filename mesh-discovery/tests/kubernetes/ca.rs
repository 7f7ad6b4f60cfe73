//! A CA of several processes in a cluster, and the roots that it publishes there, with the role that is
//! installed and no more.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use data_encoding::BASE64;
use inmesh_core::drain::{DrainTrigger, Phase, drain};
use inmesh_core::model::Namespace;
use inmesh_discovery::kube::{Cluster, Lease, RootPublisher, SecretStore};
use inmesh_pki::bundle::TrustBundle;
use inmesh_pki::ca::state::Step;
use inmesh_pki::ca::store::{Store, StoreError};
use inmesh_pki::ca::{Asker, Ca, CaError, Issued, Lifetimes, Tick};
use inmesh_pki::clock::{Clock, SystemClock};
use inmesh_pki::crypto::Crypto;
use inmesh_pki::id::SpiffeId;
use inmesh_pki::issue::csr;
use inmesh_pki::issue::policy::{Attested, Grant, Refused, Revocations, Rules, may_issue};
use inmesh_pki::store::IdentityState;
use inmesh_pki::svid::{Usage, validate};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::api_server::ApiServer;
use crate::{LIMIT, install};

/// How long a leaf lives: a rotation waits for as long.
const LEAF: Duration = Duration::from_secs(4);
pub(crate) const NAMESPACE: &str = "mesh-system";
pub(crate) const DOMAIN: &str = "prod.example";
const CART: &str = "spiffe://prod.example/ns/shop/sa/cart";
const BUNDLES: &str = "clustertrustbundles.v1beta1.certificates.k8s.io";

/// A webhook as an installation makes it, without the roots.
const WEBHOOK: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata:
  name: inmesh
  labels: {app.kubernetes.io/part-of: inmesh}
  annotations: {inmesh.dev/trust-domain: prod.example}
webhooks:
- name: one.inmesh.dev
  admissionReviewVersions: [v1]
  sideEffects: None
  clientConfig: {service: {namespace: mesh-system, name: mesh-control, path: /inject}}
- name: two.inmesh.dev
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Ignore
  clientConfig: {service: {namespace: mesh-system, name: mesh-control, path: /inject}}
";

/// The CA's account as it is installed, with its role and no more: the cluster as it asks it.
pub(crate) async fn cluster(server: &ApiServer) -> Cluster {
    server.apply(&install::documents(&|kind| {
        kind == "Namespace" || kind.contains("Role") || kind == "ServiceAccount"
    }));
    let config = install::account(server, "mesh-ca");
    let cluster = Cluster::kubeconfig(&config, None).await;
    cluster.expect("it is a cluster")
}

fn store(cluster: &Cluster) -> SecretStore {
    let namespace = Namespace::new(NAMESPACE).expect("a name");
    SecretStore::of(cluster, &namespace, "mesh-ca").expect("a name")
}

pub(crate) async fn open(cluster: &Cluster) -> Arc<Ca<SecretStore>> {
    open_with(cluster, LEAF).await
}

/// The same with another life of leaves.
pub(crate) async fn open_with(cluster: &Cluster, leaf: Duration) -> Arc<Ca<SecretStore>> {
    let hour = Duration::from_secs(3_600);
    let lifetimes = Lifetimes {
        root: 24 * hour,
        issuer: 12 * hour,
        leaf,
    };
    let (domain, crypto) = (DOMAIN.parse().expect("a domain"), Crypto::aws_lc_rs());
    let clock = SystemClock::shared();
    let ca = Ca::open(store(cluster), &domain, None, lifetimes, &crypto, clock).await;
    Arc::new(ca.expect("it is opened"))
}

/// Does what is due, as a server does, until it is aborted.
fn keep(ca: &Arc<Ca<SecretStore>>) -> JoinHandle<()> {
    let ca = Arc::clone(ca);
    tokio::spawn(async move {
        loop {
            let _waits_or_failed = ca.tick().await;
            sleep(Duration::from_millis(500)).await;
        }
    })
}

pub(crate) fn rules() -> Rules {
    let own = format!("spiffe://{DOMAIN}/inmesh/ca");
    Rules::new(
        DOMAIN.parse().expect("a domain"),
        own.parse().expect("an ID"),
    )
}

fn now() -> SystemTime {
    SystemClock.now()
}

fn cart() -> SpiffeId {
    CART.parse().expect("an ID")
}

fn permit(attested: &Attested, revoked: &Revocations) -> Result<Grant, Refused> {
    may_issue(attested, None, &rules(), None, revoked, now())
}

async fn leaf(ca: &Ca<SecretStore>) -> Result<Issued, CaError> {
    let grant = permit(&Attested::JoinToken { id: cart() }, &Revocations::none());
    let (_, csr) = csr::generate(&cart(), &Crypto::aws_lc_rs()).expect("a key");
    ca.issue(&grant.expect("it is granted"), &csr, &Asker::default())
        .await
}

fn verifies(issued: &Issued, bundle: &TrustBundle) -> bool {
    let trusted = IdentityState::from_bundles(bundle.clone().into());
    let now = now();
    validate(
        &issued.chain,
        &trusted,
        now,
        Usage::Server,
        &Crypto::aws_lc_rs(),
    )
    .is_ok()
}

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let found = timeout(LIMIT, future).await;
    found.unwrap_or_else(|_| panic!("{what}: not within {} s", LIMIT.as_secs()))
}

/// Looks until something holds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < LIMIT, "{what}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// What one process writes the others take over, and one that dies in the middle of a rotation holds nothing
/// up but for as long as its leaves may live.
#[tokio::test]
async fn several_processes_are_one_ca() {
    let Some(server) = ApiServer::start() else {
        return;
    };
    let cluster = cluster(&server).await;
    // They begin at once on nothing.
    let (a, b) = tokio::join!(open(&cluster), open(&cluster));
    let first = a.published().borrow().active.clone();
    assert_eq!(b.published().borrow().active, first);
    let (keep_a, keep_b) = (keep(&a), keep(&b));
    let (by_a, by_b) = (
        leaf(&a).await.expect("a leaf"),
        leaf(&b).await.expect("a leaf"),
    );
    for ca in [&a, &b] {
        let bundle = ca.published().borrow().bundle.clone();
        assert!(verifies(&by_a, &bundle) && verifies(&by_b, &bundle));
    }

    // What is revoked at one renews nothing at the other.
    let proof = Attested::Svid {
        id: cart(),
        serial: by_a.serial.clone(),
        not_before: by_a.issued_at,
        not_after: now() + LEAF,
    };
    let mut revoked = a.revocations();
    assert!(permit(&proof, &revoked.borrow_and_update()).is_ok());
    b.revoke(&by_a.serial).await.expect("it is revoked");
    let begin = Instant::now();
    let covers = |revoked: &Arc<Revocations>| permit(&proof, revoked).is_err();
    within("revoked", revoked.wait_for(covers))
        .await
        .expect("it runs");
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "{:?}",
        begin.elapsed()
    );
    let lists = |published: &Arc<inmesh_pki::ca::Published>| !published.crls.is_empty();
    within("a list", a.published().wait_for(lists))
        .await
        .expect("it runs");

    // A token serves once, wherever.
    let expires = now() + Duration::from_secs(600);
    let token = a.open_token(&cart(), expires).await.expect("a token");
    let (one, two) = tokio::join!(a.spend_token(&token), b.spend_token(&token));
    assert!(one.is_ok() && two.is_err(), "{one:?} {two:?}");

    // A rotation that one begins is seen by the other, which finishes it alone.
    let second = a.prepare(None).await.expect("it begins");
    keep_a.abort();
    let prepared = |published: &Arc<inmesh_pki::ca::Published>| published.bundle.roots().len() == 2;
    within("prepared", b.published().wait_for(prepared))
        .await
        .expect("it runs");
    let silent = leaf(&a).await.expect("a leaf");
    let ends = silent.not_after;
    drop(a);
    let activated = |published: &Arc<inmesh_pki::ca::Published>| published.active == second;
    within("activated", b.published().wait_for(activated))
        .await
        .expect("it runs");
    assert!(now() >= by_b.not_after, "no leaf has the older bundle");
    let renewed = leaf(&b).await.expect("a leaf");
    assert!(verifies(&renewed, &silent.published.bundle));
    let retired = |published: &Arc<inmesh_pki::ca::Published>| published.bundle.roots().len() == 1;
    within("retired", b.published().wait_for(retired))
        .await
        .expect("it runs");
    assert!(now() >= ends, "no leaf is under the root that went");
    keep_b.abort();

    // One that comes back is as the others are.
    let again = open(&cluster).await;
    assert_eq!(*again.published().borrow().active, *second);
    assert!(!matches!(
        again.tick().await,
        Ok(Tick::Stepped(Step::Retire))
    ));
    a_copy_is_not_taken_over(&server, &cluster, &again).await;
}

/// A Secret that was brought back from a copy is older than what a process has seen.
async fn a_copy_is_not_taken_over(server: &ApiServer, cluster: &Cluster, ca: &Ca<SecretStore>) {
    let secret = ["-n", NAMESPACE, "get", "secret", "mesh-ca", "-o", "json"];
    let copy = server.kubectl(&secret, "").expect("it is there");
    let latest = store(cluster).latest().await.expect("it answers");
    ca.recover(None).await.expect("it is written");
    assert!(store(cluster).latest().await.expect("it answers") > latest);
    ca.tick().await.expect("it is the newest");
    let mut copy: serde_json::Value = serde_json::from_str(&copy).expect("it is JSON");
    for field in ["resourceVersion", "uid", "managedFields"] {
        copy["metadata"][field].take();
    }
    let replace = ["-n", NAMESPACE, "replace", "-f", "-"];
    server
        .kubectl(&replace, &copy.to_string())
        .expect("it is replaced");
    let back = ca.tick().await;
    assert!(
        matches!(back, Err(CaError::Store(StoreError::WentBack { .. }))),
        "{back:?}"
    );
}

/// A process that publishes.
pub(crate) struct Publisher {
    task: JoinHandle<()>,
    end: DrainTrigger,
}

impl Publisher {
    pub(crate) fn begin(cluster: &Cluster, ca: &Ca<SecretStore>, holder: &str) -> Self {
        let namespace = Namespace::new(NAMESPACE).expect("a name");
        let publisher = RootPublisher::new(cluster, Lease::new(namespace, "mesh-root", holder));
        let publisher = publisher.webhook("inmesh");
        let (end, until) = drain();
        let task = tokio::spawn(publisher.run(ca.published(), until));
        Self { task, end }
    }

    /// Ends it in order.
    pub(crate) async fn end(self) {
        self.end.advance(Phase::Closed);
        within("ended", self.task).await.expect("it ends");
    }
}

pub(crate) fn get(server: &ApiServer, what: &[&str], path: &str) -> Option<String> {
    let path = format!("jsonpath={{{path}}}");
    let args = [&["get"], what, &["-o", &path]].concat();
    server.kubectl(&args, "").ok()
}

/// The roots in a Namespace.
pub(crate) fn map(server: &ApiServer, namespace: &str) -> Option<String> {
    get(
        server,
        &["-n", namespace, "configmap", "mesh-root"],
        ".data.ca\\.crt",
    )
}

pub(crate) fn namespace(name: &str, inject: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{inmesh.dev/inject: {inject}}}}}\n---\n"
    )
}

/// ConfigMaps follow Namespaces, other writers, and the bundle; what is another's stays; another process takes
/// over; and a bundle of the cluster has the same roots where there are such.
#[tokio::test]
async fn the_roots_are_where_they_are_wanted() {
    let Some(server) = ApiServer::start_with(&[
        "--runtime-config=certificates.k8s.io/v1beta1=true",
        "--feature-gates=ClusterTrustBundle=true",
    ]) else {
        return;
    };
    let cluster = cluster(&server).await;
    let foreign = "apiVersion: v1\nkind: ConfigMap\n\
                   metadata: {name: mesh-root, namespace: taken}\ndata: {ca.crt: mine}\n";
    let parts = [
        namespace("shop", "enabled"),
        namespace("other", "disabled"),
        namespace("taken", "enabled"),
        foreign.to_owned(),
    ];
    server.apply(&parts.concat());
    server.apply(WEBHOOK);
    let ca = open(&cluster).await;
    let one = Publisher::begin(&cluster, &ca, "one");
    let bundle = || Some(ca.published().borrow().bundle.to_pem());
    let has = |name: &str| map(&server, name) == bundle();
    until("the first", || has("shop") && has(NAMESPACE)).await;
    server.apply(&namespace("bank", "enabled"));
    until("a new Namespace", || has("bank")).await;
    let name = "inmesh.dev:ca:prod-example";
    let trusted = |path: &str| get(&server, &[BUNDLES, name], path);
    until("a bundle of the cluster", || {
        trusted(".spec.trustBundle") == bundle()
    })
    .await;
    assert_eq!(
        trusted(".spec.signerName").as_deref(),
        Some("inmesh.dev/ca")
    );

    let webhook = ["mutatingwebhookconfiguration", "inmesh"];
    let in_webhook = |nth: u8| {
        let path = format!(".webhooks[{nth}].clientConfig.caBundle");
        let written = get(&server, &webhook, &path)?;
        String::from_utf8(BASE64.decode(written.as_bytes()).ok()?).ok()
    };
    let verified = || in_webhook(0) == bundle() && in_webhook(1) == bundle();
    until("the webhook", verified).await;
    // What an operator wrote is still there, and stays over another application of it.
    let policy = || get(&server, &webhook, ".webhooks[1].failurePolicy");
    assert_eq!(policy().as_deref(), Some("Ignore"));
    server.apply(WEBHOOK);
    assert!(verified());

    // Other hands.
    let delete = ["-n", "shop", "delete", "configmap", "mesh-root"];
    server.kubectl(&delete, "").expect("it is there");
    until("it comes back", || has("shop")).await;
    let patch = ["-n", "bank", "patch", "configmap", "mesh-root"];
    let patch = [&patch[..], &["-p", "{\"data\": {\"ca.crt\": \"evil\"}}"]].concat();
    server.kubectl(&patch, "").expect("it is there");
    until("it is as it was", || has("bank")).await;
    server.apply(&namespace("bank", "disabled"));
    until("it goes with the label", || map(&server, "bank").is_none()).await;
    assert_eq!(map(&server, "other"), None);

    // Another process takes over, and a rotation is followed.
    let two = Publisher::begin(&cluster, &ca, "two");
    let holder = || {
        get(
            &server,
            &["-n", NAMESPACE, "lease", "mesh-root"],
            ".spec.holderIdentity",
        )
    };
    assert_eq!(holder().as_deref(), Some("one"));
    one.end().await;
    let before = bundle();
    ca.prepare(None).await.expect("it begins");
    assert_ne!(bundle(), before);
    let everywhere =
        || has("shop") && has(NAMESPACE) && verified() && trusted(".spec.trustBundle") == bundle();
    until("the new bundle", everywhere).await;
    assert_eq!(holder().as_deref(), Some("two"));
    assert_eq!(
        map(&server, "taken").as_deref(),
        Some("mine"),
        "it is another's"
    );
    two.end().await;
    assert_eq!(holder().as_deref(), Some(""));
}

/// Where the API server has no bundles of the cluster, ConfigMaps are all.
#[tokio::test]
async fn without_bundles_of_the_cluster_there_are_config_maps() {
    let Some(server) = ApiServer::start() else {
        return;
    };
    let cluster = cluster(&server).await;
    let ca = open(&cluster).await;
    let one = Publisher::begin(&cluster, &ca, "one");
    let bundle = Some(ca.published().borrow().bundle.to_pem());
    until("the first", || map(&server, NAMESPACE) == bundle).await;
    one.end().await;
}
