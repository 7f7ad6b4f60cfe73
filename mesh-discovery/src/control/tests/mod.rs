//! A control plane and what follows it, without a connection between them.

mod staged;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use inmesh_core::discover::Applied;
use inmesh_core::model::{Namespace, ServiceName};
use inmesh_core::snapshot::{Change, Serving, Snapshot};
use inmesh_pki::Crypto;
use proptest::prelude::*;
use prost::Message;
use serde_json::Value as Json;

use super::client::known::Known;
use super::names::{REFUSAL, TYPE};
use super::proto::delta::{
    Any, DeltaDiscoveryRequest as Request, DeltaDiscoveryResponse as Response, Resource, Watch,
};
use super::proto::objects as wire;
use super::server::catalogue::Catalogue;
use super::server::session::Session;
use super::server::staged::Staged;
use crate::kube::tests::same::{files, of_service, says};
use crate::kube::tests::{defaults, empty, object, source};
use crate::manifest::{Content, Folder};

fn crypto() -> Crypto {
    #[cfg(feature = "aws-lc-rs")]
    return Crypto::aws_lc_rs();
    #[cfg(not(feature = "aws-lc-rs"))]
    return Crypto::ring();
}

fn namespace(name: &str) -> Namespace {
    Namespace::new(name).expect("a name")
}

fn service(name: &str) -> ServiceName {
    ServiceName::new(&namespace("shop"), name).expect("a name")
}

/// A control plane that reads documents.
struct Plane {
    folder: Folder,
    snapshot: Snapshot,
    catalogue: Catalogue,
}

/// A process that follows it.
struct Process {
    known: Known,
    snapshot: Snapshot,
    subscribed: BTreeSet<String>,
    /// Its stream.
    session: Session,
    /// What has not been sent on it yet.
    next: Option<Request>,
    /// Names that were answered with nothing.
    absent: BTreeSet<String>,
    found: BTreeSet<String>,
    /// The names of all resources that came with their bodies.
    brought: Vec<String>,
    /// What it refused, as it said so.
    refused: Vec<String>,
    /// What it was asked to count last.
    watch: Option<Watch>,
}

impl Plane {
    fn new() -> Self {
        let snapshot = empty();
        Self {
            folder: Folder::new(source(), defaults().documents()),
            catalogue: Catalogue::new(Arc::new(snapshot.clone()), crypto()),
            snapshot,
        }
    }

    /// Reads documents; returns the Services that have changed.
    fn read(&mut self, of: impl IntoIterator<Item = (Arc<str>, Content)>) -> Change {
        let change = self.folder.merge(of).change;
        let (next, touched) = self.snapshot.apply_noting(change.clone());
        self.snapshot = next;
        let _before = self
            .catalogue
            .replace(Arc::new(self.snapshot.clone()), Some(&touched));
        change
    }

    fn texts(&mut self, texts: &[&str]) {
        let files = texts.iter().enumerate();
        let of = files.map(|(n, text)| (format!("{n}.yaml").into(), Content::Text((*text).into())));
        drop(self.read(of.collect::<Vec<_>>()));
    }
}

impl Process {
    fn new(of: &str, subscribed: &[&str]) -> Self {
        let mut process = Self {
            known: Known::new(defaults()),
            snapshot: empty(),
            subscribed: subscribed.iter().map(ToString::to_string).collect(),
            session: Session::new(namespace(of), of, ""),
            next: None,
            absent: BTreeSet::new(),
            found: BTreeSet::new(),
            brought: Vec::new(),
            refused: Vec::new(),
            watch: None,
        };
        process.connect(of);
        process
    }

    /// Opens a stream, to this control plane or another replica of it.
    fn connect(&mut self, of: &str) {
        self.open(Session::new(namespace(of), of, ""));
    }

    fn open(&mut self, session: Session) {
        self.session = session;
        self.next = Some(Request {
            type_url: TYPE.into(),
            resource_names_subscribe: self.subscribed.iter().cloned().collect(),
            initial_resource_versions: self.known.versions(),
            counts: true,
            ..Request::default()
        });
    }

    fn subscribe(&mut self, name: &str, on: bool) {
        let mut request = Request {
            type_url: TYPE.into(),
            ..Request::default()
        };
        match on {
            true => request.resource_names_subscribe.push(name.into()),
            false => request.resource_names_unsubscribe.push(name.into()),
        }
        match on {
            true => self.subscribed.insert(name.into()),
            false => self.subscribed.remove(name),
        };
        self.known.forget(&request.resource_names_unsubscribe);
        self.flush();
        self.session.handle(request).expect("it is in order");
    }

    fn flush(&mut self) {
        if let Some(request) = self.next.take() {
            self.session.handle(request).expect("it is in order");
        }
    }

    /// Sends what there is to send, until both have nothing more to say.
    fn talk(&mut self, plane: &mut Plane) {
        self.talk_of(plane, None);
    }

    /// The same while something is staged.
    fn talk_of(&mut self, plane: &mut Plane, staged: Option<&Staged>) {
        self.flush();
        while let Some(response) = self.session.poll(&mut plane.catalogue, staged.zip(Some(2))) {
            self.watch.clone_from(&response.watch);
            let acknowledgement = self.take(response);
            self.session
                .handle(acknowledgement)
                .expect("it is in order");
        }
    }

    fn take(&mut self, response: Response) -> Request {
        let with_body = response.resources.iter().filter(|r| r.resource.is_some());
        self.brought
            .extend(with_body.map(|resource| resource.name.clone()));
        let mut taken = self.known.take(response);
        let names = |wanted: &[_]| -> BTreeSet<String> {
            wanted
                .iter()
                .map(|w: &inmesh_core::discover::Wanted| w.to_string())
                .collect()
        };
        for found in names(&taken.found) {
            self.absent.remove(&found);
            self.found.insert(found);
        }
        for absent in names(&taken.absent) {
            self.found.remove(&absent);
            self.absent.insert(absent);
        }
        let ops = std::mem::take(&mut taken.ops);
        let keys: Vec<_> = ops
            .iter()
            .filter_map(|op| match op {
                inmesh_core::snapshot::Op::Put(object, _) => Some(object.key()),
                inmesh_core::snapshot::Op::Refuse(key, ..) => Some(key.clone()),
                _ => None,
            })
            .collect();
        self.snapshot = self.snapshot.apply(Change::update(source(), ops));
        let mut applied = Applied::at(self.snapshot.generation());
        applied.problems = self.snapshot.problems(&source(), &keys);
        let acknowledgement = taken.acknowledge(&applied);
        for detail in acknowledgement
            .error_detail
            .iter()
            .flat_map(|error| &error.details)
        {
            assert_eq!(detail.type_url, REFUSAL);
            let refusal = wire::Refusal::decode(detail.value.clone()).expect("a refusal");
            self.refused.push(refusal.name);
        }
        acknowledgement
    }

    /// All that a request could meet of Services.
    fn shown(snapshot: &Snapshot, of: &[ServiceName]) -> Vec<String> {
        let views = of.iter().filter_map(|name| snapshot.service(name));
        let mut all: Vec<_> = views.flat_map(|view| of_service(view)).collect();
        all.push(format!("{:?}", snapshot.policy()));
        all
    }
}

const CART: &str = "{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop},
    spec: {clusterIP: 10.96.0.7, ports: [{name: http, port: 80, appProtocol: http}]}}";
const SLICE: &str = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
    metadata: {name: cart-a, namespace: shop, labels: {kubernetes.io/service-name: cart}},
    ports: [{name: http, port: 8080}],
    endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: cart-1, namespace: shop}}]}";
const POD: &str = "{apiVersion: v1, kind: Pod, metadata: {name: cart-1, namespace: shop,
    labels: {app: cart}}, spec: {serviceAccountName: cart}}";

#[test]
fn what_is_subscribed_to_comes_with_all_that_it_needs() {
    let route = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: cart, namespace: shop},
        spec: {parentRefs: [{group: '', kind: Service, name: cart}], rules: [{backendRefs: [{name: next, port: 80}]}]}}";
    let foreign = route
        .replace("namespace: shop}", "namespace: till}")
        .replace("name: cart}]", "name: cart, namespace: shop}]");
    let next = CART
        .replace("name: cart,", "name: next,")
        .replace("10.96.0.7", "10.96.0.8");
    let other = CART
        .replace("name: cart,", "name: other,")
        .replace("10.96.0.7", "10.96.0.9");
    let policy = |of: &str| {
        format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: {of}}}, spec: {{rules: [{{}}]}}}}"
        )
    };
    let mut plane = Plane::new();
    plane.texts(&[
        CART,
        SLICE,
        POD,
        route,
        &foreign,
        &next,
        &other,
        &policy("shop"),
        &policy("till"),
    ]);
    for (of, own_route) in [
        ("shop", None),
        ("till", Some("HTTPRoute/till/cart")),
        ("bank", None),
    ] {
        let mut process = Process::new(of, &["service/shop/cart"]);
        process.talk(&mut plane);
        process.brought.sort();
        let mut expected = vec![
            "EndpointSlice/shop/cart-a",
            "HTTPRoute/shop/cart",
            "Service/shop/cart",
            "Service/shop/next",
        ];
        expected.extend(own_route);
        let policy = format!("AuthorizationPolicy/{of}/p");
        if of != "bank" {
            expected.push(&policy);
        }
        expected.sort_unstable();
        assert_eq!(process.brought, expected, "for a workload of {of}");
        assert!(process.refused.is_empty() && process.found.contains("service/shop/cart"));
    }
}

#[test]
fn an_address_and_a_host_lead_to_their_service_and_what_leads_nowhere_is_answered() {
    let mut plane = Plane::new();
    plane.texts(&[CART]);
    let names = [
        "address/10.96.0.7",
        "address/10.96.0.8",
        "host/cart.shop",
        "host/next.shop",
        "pod/shop/x",
    ];
    let mut process = Process::new("bank", &names);
    process.talk(&mut plane);
    let found = BTreeSet::from(["address/10.96.0.7".to_owned(), "host/cart.shop".to_owned()]);
    assert_eq!(process.found, found);
    assert_eq!(process.absent.len(), 2);
    assert_eq!(process.brought, ["Service/shop/cart"]);
    // Another name for what is known is answered without sending it again.
    process.subscribe("service/shop/cart", true);
    process.talk(&mut plane);
    assert!(process.found.contains("service/shop/cart"));
    assert_eq!(process.brought.len(), 1);
    // What comes later is said, and what goes.
    plane.texts(&[
        CART,
        &CART
            .replace("name: cart,", "name: next,")
            .replace("0.7", "0.8"),
    ]);
    process.talk(&mut plane);
    assert_eq!(process.absent, BTreeSet::new());
    plane.texts(&[]);
    process.talk(&mut plane);
    assert_eq!(
        (process.absent.len(), process.snapshot.services().count()),
        (5, 0)
    );
}

#[test]
fn a_stream_goes_on_where_another_has_ended() {
    let mut plane = Plane::new();
    plane.texts(&[CART, SLICE, POD]);
    let mut process = Process::new("shop", &["service/shop/cart"]);
    process.talk(&mut plane);
    let all = std::mem::take(&mut process.brought);
    assert_eq!(all.len(), 2);
    // Nothing has changed: nothing is sent, and the process hears so.
    process.connect("shop");
    process.flush();
    let first = process.session.poll(&mut plane.catalogue, None);
    let first = first.expect("a first response");
    assert!(first.resources.is_empty() && first.removed_resources.is_empty());
    // While it was away, a slice has changed and another has come.
    let more = SLICE
        .replace("cart-a", "cart-b")
        .replace("10.0.0.1", "10.0.0.2");
    plane.texts(&[CART, &SLICE.replace("8080", "8081"), POD, &more]);
    process.connect("shop");
    process.talk(&mut plane);
    process.brought.sort();
    assert_eq!(
        process.brought,
        ["EndpointSlice/shop/cart-a", "EndpointSlice/shop/cart-b"]
    );
    // What it has kept is what it had.
    let kept = process
        .known
        .to_bytes("spiffe://lab.example/ns/shop/sa/web");
    let mut next = Known::new(defaults());
    assert!(
        next.restore(&kept, "spiffe://lab.example/ns/shop/sa/other")
            .is_err()
    );
    assert!(
        next.restore(
            &kept[..kept.len() - 1],
            "spiffe://lab.example/ns/shop/sa/web"
        )
        .is_err()
    );
    let ops = next
        .restore(&kept, "spiffe://lab.example/ns/shop/sa/web")
        .expect("it is its own");
    let restored = empty().apply(Change::replace(source(), ops));
    let of = [service("cart")];
    assert_eq!(
        Process::shown(&restored, &of),
        Process::shown(&plane.snapshot, &of)
    );
    let held = process.known.versions().into_iter();
    assert_eq!(
        next.versions(),
        held.filter(|(_, version)| version != "found").collect()
    );
}

#[test]
fn one_response_is_on_its_way_at_a_time() {
    let mut plane = Plane::new();
    plane.texts(&[CART, SLICE, POD]);
    let mut process = Process::new("shop", &["service/shop/cart"]);
    process.flush();
    let first = process
        .session
        .poll(&mut plane.catalogue, None)
        .expect("it is new");
    for port in ["8081", "8082", "8083"] {
        plane.texts(&[CART, &SLICE.replace("8080", port), POD]);
        assert_eq!(process.session.poll(&mut plane.catalogue, None), None);
    }
    let acknowledgement = process.take(first);
    process
        .session
        .handle(acknowledgement.clone())
        .expect("it is in order");
    let second = process
        .session
        .poll(&mut plane.catalogue, None)
        .expect("it has changed");
    assert_eq!(second.resources.len(), 1, "all three changes at once");
    // It is not acknowledged by that of another response.
    process
        .session
        .handle(acknowledgement)
        .expect("it is in order");
    assert!(process.session.waits());
}

/// A response with one resource.
fn response(name: &str, what: wire::object::What) -> Response {
    let object = wire::Object { what: Some(what) };
    Response {
        resources: vec![Resource {
            name: name.into(),
            version: "1".into(),
            resource: Some(Any {
                type_url: TYPE.into(),
                value: object.encode_to_vec().into(),
            }),
            aliases: Vec::new(),
        }],
        type_url: TYPE.into(),
        nonce: "1".into(),
        ..Response::default()
    }
}

fn endpoints(change: impl FnOnce(&mut wire::Endpoints)) -> wire::object::What {
    let mut endpoints = wire::Endpoints {
        service: "cart".into(),
        ports: vec![wire::Port {
            name: "http".into(),
            port: 80,
        }],
        parts: vec![wire::Part {
            reached: Some(wire::part::Reached::Plain(wire::Plain {})),
            hosts: vec![wire::Host {
                host: Some(wire::host::Host::Address(vec![10, 0, 0, 1])),
                ..wire::Host::default()
            }],
            ..wire::Part::default()
        }],
        places: Vec::new(),
    };
    change(&mut endpoints);
    wire::object::What::Endpoints(endpoints)
}

#[test]
fn what_a_control_plane_may_not_say_is_refused_and_said_so() {
    let slice = "EndpointSlice/shop/cart-a";
    let address = |octets: Vec<u8>| {
        endpoints(move |e| e.parts[0].hosts[0].host = Some(wire::host::Host::Address(octets)))
    };
    let cases = [
        (
            "Service/shop/other",
            wire::object::What::Document(CART.into()),
        ),
        (
            "Service/shop/cart",
            wire::object::What::Document("{".into()),
        ),
        ("Service/shop/cart", endpoints(|_| {})),
        ("Pod/shop/cart", wire::object::What::Document(POD.into())),
        (slice, address(vec![127, 0, 0, 1])),
        (slice, address(vec![169, 254, 1, 1])),
        (slice, address(vec![10, 0, 0])),
        (slice, endpoints(|e| e.service = "Not a name".into())),
        (slice, endpoints(|e| e.ports[0].port = 65_536)),
        (slice, endpoints(|e| e.ports[0].port = 0)),
        (slice, endpoints(|e| e.parts[0].reached = None)),
        (slice, endpoints(|e| e.parts[0].hosts[0].place = 1)),
        (slice, endpoints(|e| e.parts[0].hosts[0].host = None)),
        (
            slice,
            endpoints(|e| {
                let ids = vec!["not an id".into()];
                e.parts[0].reached = Some(wire::part::Reached::Mesh(wire::Mesh { ids }));
            }),
        ),
        (
            slice,
            endpoints(|e| e.parts[0].hosts = vec![e.parts[0].hosts[0].clone(); 1_001]),
        ),
    ];
    for (name, what) in cases {
        let mut process = Process::new("shop", &[]);
        let shown = format!("{name} {what:?}");
        let _acknowledged = process.take(response(name, what));
        assert_eq!(process.refused, [name], "{shown}");
        assert_eq!(process.snapshot.services().count(), 0, "{shown}");
    }
    let mut process = Process::new("shop", &[]);
    let _acknowledged = process.take(response(slice, endpoints(|_| {})));
    assert!(process.refused.is_empty());
}

#[test]
fn a_resource_that_is_refused_keeps_what_it_was_and_the_others_go_on() {
    let mut process = Process::new("shop", &[]);
    let _acknowledged = process.take(response(
        "Service/shop/cart",
        wire::object::What::Document(CART.into()),
    ));
    let mut both = response(
        "Service/shop/cart",
        wire::object::What::Document(CART.replace("80,", "0,")),
    );
    let next = CART.replace("name: cart,", "name: next,");
    both.resources
        .extend(response("Service/shop/next", wire::object::What::Document(next)).resources);
    let _acknowledged = process.take(both);
    assert_eq!(process.refused, ["Service/shop/cart"]);
    assert!(process.snapshot.service(&service("next")).is_some());
    let cart = process
        .snapshot
        .service(&service("cart"))
        .expect("it stays");
    assert_eq!(cart.ports[0].port, 80);
    let status = process.snapshot.status();
    let cart = status
        .iter()
        .find(|s| s.object == "Service/shop/cart")
        .expect("it has a status");
    assert_eq!(cart.serving, Serving::LastGood);
}

#[test]
fn a_policy_that_cannot_be_read_denies_wherever_that_is_found_out() {
    let denies = |snapshot: &Snapshot| {
        format!("{:?}", snapshot.policy()) != format!("{:?}", empty().policy())
    };
    let broken = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop}, spec: {action: WHAT}}";
    // By the control plane.
    let mut plane = Plane::new();
    plane.texts(&[broken]);
    let mut process = Process::new("shop", &[]);
    process.talk(&mut plane);
    assert!(denies(&process.snapshot));
    let mut elsewhere = Process::new("bank", &[]);
    elsewhere.talk(&mut plane);
    assert!(elsewhere.brought.is_empty());
    // By the process: as a document, as one of which nothing can be read, as one of a later version.
    let name = "AuthorizationPolicy/shop/p";
    for what in [broken, "{", "[]"] {
        let mut process = Process::new("shop", &[]);
        let _acknowledged = process.take(response(name, wire::object::What::Document(what.into())));
        assert!(denies(&process.snapshot), "{what}");
        assert_eq!(process.refused, [name]);
    }
    let mut later = response(name, wire::object::What::Document(String::new()));
    later.resources[0].resource = Some(Any {
        type_url: TYPE.into(),
        value: wire::Object { what: None }.encode_to_vec().into(),
    });
    let mut process = Process::new("shop", &[]);
    let _acknowledged = process.take(later);
    assert!(denies(&process.snapshot));
    // It is mended, and gone.
    plane.texts(&[]);
    let mut process = Process::new("shop", &[]);
    process.talk(&mut plane);
    assert!(!denies(&process.snapshot));
}

/// Its endpoints are those of a name, whether a Service has that or not.
#[test]
fn a_subset_has_its_endpoints_without_the_service_that_they_are_of() {
    let next = CART.replace(
        "name: cart, namespace: shop}",
        "name: next, namespace: shop, annotations: {inmesh.dev/subset-of: cart}}",
    );
    let next = next.replace("spec: {", "spec: {selector: {app: cart}, ");
    let mut plane = Plane::new();
    plane.texts(&[&next, SLICE, POD]);
    let mut process = Process::new("shop", &["service/shop/next", "service/shop/cart"]);
    process.talk(&mut plane);
    let of = [service("next")];
    let shall = Process::shown(&plane.snapshot, &of);
    assert!(
        shall.iter().any(|line| line.contains("10.0.0.1:8080")),
        "{shall:?}"
    );
    assert_eq!(Process::shown(&process.snapshot, &of), shall);
    assert!(process.absent.contains("service/shop/cart"));
}

/// Between two responses an object has gone, and another of its name has come that cannot be read: what the
/// first said serves no longer.
#[test]
fn what_can_never_be_read_has_no_earlier_version() {
    let policy = |spec: &str| {
        format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: shop}}, spec: {spec}}}"
        )
    };
    let tls = |hostname: &str| {
        format!("{{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {{name: t, namespace: shop}},
        spec: {{targetRefs: [{{group: '', kind: Service, name: cart}}], validation: {{hostname: {hostname}, wellKnownCACertificates: System}}}}}}")
    };
    for (good, broken) in [
        (policy("{rules: [{}]}"), policy("{action: WHAT}")),
        (tls("cart.example"), tls("'not a name'")),
    ] {
        let mut plane = Plane::new();
        plane.texts(&[CART, SLICE, POD, &good]);
        let mut process = Process::new("shop", &["service/shop/cart"]);
        process.talk(&mut plane);
        plane.texts(&[CART, SLICE, POD]);
        plane.texts(&[CART, SLICE, POD, &broken]);
        process.talk(&mut plane);
        let of = [service("cart")];
        let (has, shall) = (
            Process::shown(&process.snapshot, &of),
            Process::shown(&plane.snapshot, &of),
        );
        assert_eq!(has, shall, "{broken}");
        assert!(process.refused.is_empty());
    }
}

#[test]
fn what_is_refused_is_known_until_it_changes() {
    let mut plane = Plane::new();
    plane.texts(&[CART]);
    let mut process = Process::new("shop", &["service/shop/cart"]);
    process.flush();
    let mut first = process
        .session
        .poll(&mut plane.catalogue, None)
        .expect("it is new");
    // On its way it becomes something that this process does not take.
    let body = wire::Object {
        what: Some(wire::object::What::Document("{".into())),
    };
    first.resources[0].resource = Some(Any {
        type_url: TYPE.into(),
        value: body.encode_to_vec().into(),
    });
    let acknowledgement = process.take(first);
    process
        .session
        .handle(acknowledgement)
        .expect("it is in order");
    let refused = process.session.refused();
    assert_eq!(
        refused.keys().map(|k| &**k).collect::<Vec<_>>(),
        ["Service/shop/cart"]
    );
    assert!(refused.values().all(|refused| refused.problems.len() == 1));
    assert_eq!(
        process.session.poll(&mut plane.catalogue, None),
        None,
        "it is not sent again"
    );
    plane.texts(&[&CART.replace("80,", "81,")]);
    process.talk(&mut plane);
    assert!(process.session.refused().is_empty());
    assert!(process.snapshot.service(&service("cart")).is_some());
}

#[test]
fn a_stream_that_is_out_of_order_ends() {
    let request = |change: &dyn Fn(&mut Request)| {
        let mut request = Request {
            type_url: TYPE.into(),
            ..Request::default()
        };
        change(&mut request);
        request
    };
    let known = |request: &mut Request| {
        drop(
            request
                .initial_resource_versions
                .insert("a".into(), "1".into()),
        )
    };
    let mut plane = Plane::new();
    for (before, then) in [
        (
            request(&|_| {}),
            request(&|r| r.type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster".into()),
        ),
        (request(&known), request(&known)),
        (
            request(&|_| {}),
            request(&|r| r.resource_names_subscribe = vec!["x".repeat(513)]),
        ),
        (
            request(&|_| {}),
            request(&|r| {
                r.resource_names_subscribe = (0..8_193).map(|n| format!("host/a.{n}")).collect()
            }),
        ),
    ] {
        let mut session = Session::new(namespace("shop"), "web", "");
        session.handle(before).expect("it is in order");
        drop(session.poll(&mut plane.catalogue, None));
        assert!(session.handle(then).is_err());
    }
}

/// What a test does next.
#[derive(Debug, Clone)]
enum Act {
    Connect,
    Document(u8, u8, u8, bool),
    Subscribe(usize, bool),
    Talk,
}

const NAMES: &[&str] = &[
    "*",
    "address/10.96.0.1",
    "host/s2.shop",
    "service/shop/s0",
    "service/shop/s1",
];

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0_u8..12, 0_u8..3, 0_u8..4, proptest::bool::weighted(0.8))
            .prop_map(|(what, which, how, there)| Act::Document(what, which, how, there)),
        1 => Just(Act::Connect),
        1 => (0..NAMES.len(), any::<bool>()).prop_map(|(name, on)| Act::Subscribe(name, on)),
        2 => Just(Act::Talk),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever changes, is asked for and breaks off in between: in the end a process has of what it follows
    /// what the control plane has.
    #[test]
    fn a_process_that_follows_has_what_the_control_plane_has(
        acts in proptest::collection::vec(act(), 1..60),
    ) {
        let mut plane = Plane::new();
        let mut process = Process::new("shop", &["service/shop/s0"]);
        let mut objects: BTreeMap<(usize, String), Json> = BTreeMap::new();
        for (n, act) in acts.into_iter().enumerate() {
            match act {
                Act::Connect => process.connect("shop"),
                Act::Document(what, which, how, there) => {
                    let (kind, name, rest) = says(what, which, how);
                    let now = object(kind, &name, "u1", n as u64 + 1, &rest);
                    match there {
                        true => objects.insert((kind, name), now),
                        false => objects.remove(&(kind, name)),
                    };
                    let _change = plane.read(files(&objects));
                }
                Act::Subscribe(name, on) => process.subscribe(NAMES[name], on),
                Act::Talk => process.talk(&mut plane),
            }
        }
        process.talk(&mut plane);
        let all = process.subscribed.contains("*");
        let mut follows: BTreeSet<_> = match all {
            true => plane.snapshot.services().map(|view| view.name.clone()).collect(),
            false => BTreeSet::new(),
        };
        for name in &process.subscribed {
            follows.extend(match name.as_str() {
                "address/10.96.0.1" => plane.snapshot.owner_of([10, 96, 0, 1].into()).cloned(),
                "host/s2.shop" => Some(service("s2")),
                "service/shop/s0" => Some(service("s0")),
                "service/shop/s1" => Some(service("s1")),
                _ => None,
            });
        }
        let follows: Vec<_> = follows.into_iter().collect();
        let (has, shall) = (Process::shown(&process.snapshot, &follows), Process::shown(&plane.snapshot, &follows));
        prop_assert_eq!(has, shall);
        prop_assert_eq!(&process.refused, &Vec::<String>::new());
        // What it does not follow is not there either.
        process.subscribed.clear();
        process.connect("shop");
        process.talk(&mut plane);
        prop_assert_eq!(process.snapshot.services().count(), 0);
    }
}
