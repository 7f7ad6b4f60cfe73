//! A CA that signs what a real API server is asked for, with the role that the documentation names and no
//! more.

use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use inmesh_core::drain::{DrainTrigger, Phase, drain};
use inmesh_core::model::Namespace;
use inmesh_discovery::kube::{CertificateSigner, Cluster, Lease, SecretStore};
use inmesh_pki::ca::Ca;
use inmesh_pki::clock::{Clock, SystemClock};
use inmesh_pki::crypto::Crypto;
use inmesh_pki::issue::csr;
use inmesh_pki::read_certificates;
use inmesh_pki::store::IdentityState;
use inmesh_pki::svid::{Usage, validate};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tokio::task::JoinHandle;

use crate::api_server::ApiServer;
use crate::ca::{NAMESPACE, cluster, get, open_with, rules, until, within};

const HOUR: Duration = Duration::from_secs(3_600);
const CART: &str = "spiffe://prod.example/ns/shop/sa/cart";
/// A Namespace, its service accounts, and the role of one that asks for a certificate.
const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: cart, namespace: shop}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: asks}
rules: [{apiGroups: [certificates.k8s.io], resources: [certificatesigningrequests], verbs: [create, get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: asks}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: asks}
subjects: [{kind: ServiceAccount, name: cart, namespace: shop}]
";

/// A process that signs.
struct Signer {
    task: JoinHandle<()>,
    end: DrainTrigger,
}

impl Signer {
    fn begin(cluster: &Cluster, ca: &Arc<Ca<SecretStore>>, holder: &str) -> Self {
        let namespace = Namespace::new(NAMESPACE).expect("a name");
        let lease = Lease::new(namespace, "mesh-signer", holder);
        let rules = rules().with_kubernetes();
        let signer = CertificateSigner::new(cluster, lease, Arc::clone(ca), rules);
        let (end, until) = drain();
        let task = tokio::spawn(signer.run(until));
        Self { task, end }
    }

    /// Ends it in order.
    async fn end(self) {
        self.end.advance(Phase::Closed);
        within("ended", self.task).await.expect("it ends");
    }
}

/// An empty request, as a kubelet makes it.
fn stub() -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let key = KeyPair::generate().expect("a key");
    let request = params.serialize_request(&key).expect("a request");
    BASE64.encode(request.der())
}

/// A request for a Pod.
fn pod(version: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: certificates.k8s.io/{version}\nkind: PodCertificateRequest\n\
         metadata: {{name: {name}, namespace: shop}}\nspec: {{signerName: inmesh.dev/ca, podName: cart-1, \
         podUID: '1', serviceAccountName: cart, serviceAccountUID: '2', nodeName: a, nodeUID: '3', \
         stubPKCS10Request: {}, {spec}}}\n---\n",
        stub()
    )
}

/// A request of a user.
fn of_user(name: &str, usages: &str) -> String {
    let id = CART.parse().expect("an ID");
    let (_, csr) = csr::generate(&id, &Crypto::aws_lc_rs()).expect("a key");
    format!(
        "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\n\
         spec: {{signerName: inmesh.dev/ca, expirationSeconds: 900, usages: [{usages}], request: {}}}\n",
        BASE64.encode(csr.to_pem().as_bytes())
    )
}

const USAGES: &str = "digital signature, client auth, server auth";

/// The ID in a chain that a peer accepts.
fn accepted(ca: &Ca<SecretStore>, chain: &str) -> String {
    let bundle = ca.published().borrow().bundle.clone();
    let trusted = IdentityState::from_bundles(bundle.into());
    let chain = read_certificates(chain.as_bytes()).expect("certificates");
    let (now, crypto) = (SystemClock.now(), Crypto::aws_lc_rs());
    let peer = validate(&chain, &trusted, now, Usage::Server, &crypto);
    peer.expect("it is accepted").id.to_string()
}

fn of_pod(server: &ApiServer, name: &str, path: &str) -> Option<String> {
    get(server, &["-n", "shop", "podcertificaterequest", name], path)
}

fn csr_of(server: &ApiServer, name: &str, path: &str) -> Option<String> {
    get(server, &["csr", name], path)
}

const CONDITION: &str = ".status.conditions[*]['type', 'reason']";

/// The version in which the API server has requests of Pods.
fn version(server: &ApiServer) -> Option<&'static str> {
    ["v1", "v1beta1"].into_iter().find(|version| {
        let path = format!("/apis/certificates.k8s.io/{version}");
        let found = server.kubectl(&["get", "--raw", &path], "");
        found.is_ok_and(|text| text.contains("\"podcertificaterequests\""))
    })
}

fn unix(text: &str) -> i64 {
    let time: k8s_openapi::jiff::Timestamp = text.parse().expect("a time");
    time.as_second()
}

/// A Pod and a service account get their own ID, once, by one of several processes; anything else is denied with
/// a reason; what is for another signer is left alone.
#[tokio::test]
async fn the_cluster_asks_for_certificates() {
    let Some(server) = ApiServer::start_with(&[
        "--runtime-config=certificates.k8s.io/v1beta1=true",
        "--feature-gates=ClusterTrustBundle=true,PodCertificateRequest=true",
    ]) else {
        return;
    };
    let version = version(&server).expect("it has requests of Pods");
    eprintln!("PodCertificateRequest is {version}");
    let cluster = cluster(&server).await;
    server.apply(SHOP);
    let ca = open_with(&cluster, HOUR).await;
    // One that was made while no signer ran.
    server.apply(&pod(version, "first", "maxExpirationSeconds: 3600"));
    let one = Signer::begin(&cluster, &ca, "one");
    let has =
        |name: &str, wanted: &str| of_pod(&server, name, CONDITION).as_deref() == Some(wanted);
    until("issued", || has("first", "Issued Issued")).await;
    let status = |path: &str| of_pod(&server, "first", path).expect("it is there");
    assert_eq!(accepted(&ca, &status(".status.certificateChain")), CART);
    let at = |name: &str| unix(&status(&format!(".status.{name}")));
    let (begin, refresh, end) = (at("notBefore"), at("beginRefreshAt"), at("notAfter"));
    assert_eq!((end - begin, refresh - begin), (3_600, 1_800));

    server.apply(
        &[
            pod(version, "second", ""),
            pod(
                version,
                "odd",
                "unverifiedUserAnnotations: {a.example/b: c}",
            ),
            pod(version, "other", "").replace("inmesh.dev/ca", "example.com/other"),
        ]
        .concat(),
    );
    until("denied", || {
        has("odd", "Denied InvalidUnverifiedUserAnnotations")
    })
    .await;
    until("issued", || has("second", "Issued Issued")).await;
    let chain = of_pod(&server, "second", ".status.certificateChain").expect("it is there");
    assert_eq!(accepted(&ca, &chain), CART);

    // Another process takes over.
    let two = Signer::begin(&cluster, &ca, "two");
    one.end().await;
    server.apply(&pod(version, "third", ""));
    until("issued", || has("third", "Issued Issued")).await;
    let lease = ["-n", NAMESPACE, "lease", "mesh-signer"];
    let holder = get(&server, &lease, ".spec.holderIdentity");
    assert_eq!(holder.as_deref(), Some("two"));
    let left = of_pod(&server, "other", ".status.conditions");
    assert_eq!(left.as_deref(), Some(""));
    two.end().await;
}

/// The same where the API server may have no requests of Pods: service accounts get their certificates.
#[tokio::test]
async fn service_accounts_ask_for_certificates() {
    let Some(server) = ApiServer::start() else {
        return;
    };
    let cluster = cluster(&server).await;
    server.apply(SHOP);
    let ca = open_with(&cluster, HOUR).await;
    let one = Signer::begin(&cluster, &ca, "one");
    let create = ["create", "-f", "-"];
    let cart = [&create[..], &["--as", "system:serviceaccount:shop:cart"]].concat();
    let make = |args: &[&str], document: &str| {
        server.kubectl(args, document).expect("it is made");
    };
    make(&cart, &of_user("good", USAGES));
    make(&cart, &of_user("wide", &format!("{USAGES}, cert sign")));
    make(&create, &of_user("admin", USAGES));
    let has =
        |name: &str, wanted: &str| csr_of(&server, name, CONDITION).as_deref() == Some(wanted);
    until("denied", || has("wide", "Denied Usages")).await;
    until("denied", || has("admin", "Denied NoServiceAccount")).await;
    let certificate = || csr_of(&server, "good", ".status.certificate").unwrap_or_default();
    until("signed", || !certificate().is_empty()).await;
    assert!(has("good", "Approved ServiceAccount"));
    let chain = BASE64.decode(certificate().as_bytes()).expect("Base64");
    let chain = String::from_utf8(chain).expect("PEM");
    assert_eq!(accepted(&ca, &chain), CART);

    // What an administrator approves is judged all the same.
    one.end().await;
    make(&create, &of_user("approved", USAGES));
    let approve = ["certificate", "approve", "approved"];
    server.kubectl(&approve, "").expect("it is approved");
    let two = Signer::begin(&cluster, &ca, "two");
    until("failed", || {
        csr_of(&server, "approved", ".status.conditions[*].type").as_deref()
            == Some("Approved Failed")
    })
    .await;
    let none = csr_of(&server, "approved", ".status.certificate");
    assert_eq!(none.as_deref(), Some(""));
    two.end().await;
}
