//! Whether a document can be staged, and what is handed on of it. Pure.
//!
//! What is staged takes the place of one resource at some members, and nothing else of a snapshot changes: so
//! it has to be for the same Services and workloads as the object is, and where it leads elsewhere, those
//! Services come with it.

use std::collections::BTreeSet;
use std::sync::Arc;

use inmesh_core::model::{Namespace, ObjectKey, ServiceName};
#[cfg(feature = "kubernetes")]
use inmesh_core::snapshot::{Object, Op};
#[cfg(feature = "kubernetes")]
use inmesh_core::traffic::Target;

/// The most Services whose requests are counted.
#[cfg(feature = "kubernetes")]
const SERVICES: usize = 64;

/// A document that is handed on to some of the members.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Offer {
    /// The name of its stage.
    pub id: String,
    /// The object in whose place it is.
    pub key: ObjectKey,
    /// The text of the object, as it is handed on: where a member is sent another (of a source with precedence, or
    /// since it was changed), nothing takes its place.
    pub stable: Arc<str>,
    /// What takes its place.
    pub document: Arc<str>,
    /// Other Services that it leads to.
    pub leads_to: BTreeSet<ServiceName>,
    /// The Services whose requests are counted; where there are none, all requests are.
    pub services: BTreeSet<ServiceName>,
    /// The namespace whose members can be chosen; `None` is all.
    pub namespace: Option<Namespace>,
    /// The largest mark of the members that have it; `None` before they are chosen.
    pub bound: Option<u64>,
}

/// An object, or what is staged in its place: as it was read, and as it is handed on.
#[cfg(feature = "kubernetes")]
pub(crate) struct Offered<'a> {
    pub(crate) op: &'a Op,
    pub(crate) document: Option<&'a Arc<str>>,
}

// === impl Offer ===

impl Offer {
    /// A document that is staged in the place of an object whose text is `stable`. All requests are counted.
    #[must_use]
    pub fn new(id: &str, key: ObjectKey, stable: &str, document: &str) -> Self {
        Self {
            id: id.into(),
            key,
            stable: stable.into(),
            document: document.into(),
            leads_to: BTreeSet::new(),
            services: BTreeSet::new(),
            namespace: None,
            bound: None,
        }
    }

    /// The same that leads to other Services too.
    #[must_use]
    pub fn leads_to(mut self, services: impl IntoIterator<Item = ServiceName>) -> Self {
        self.leads_to.extend(services);
        self
    }

    /// The same of which requests to Services are counted.
    #[must_use]
    pub fn counts(mut self, services: impl IntoIterator<Item = ServiceName>) -> Self {
        self.services.extend(services);
        self
    }

    /// The same for members of a namespace alone.
    #[must_use]
    pub fn of_namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// The same for members whose mark is no larger than `bound`.
    #[must_use]
    pub fn to(mut self, bound: u64) -> Self {
        self.bound = Some(bound);
        self
    }
}

/// What is handed on of a document that is staged in the place of an object.
///
/// # Errors
///
/// Why it cannot be staged.
#[cfg(feature = "kubernetes")]
pub(crate) fn offer(id: &str, now: &Offered<'_>, staged: &Offered<'_>) -> Result<Offer, String> {
    let stable = now.document;
    let Op::Put(now, _) = now.op else {
        return Err("the object itself is refused".into());
    };
    let object = match staged.op {
        Op::Put(object, _) => object,
        Op::Refuse(_, _, problems) => {
            let why: Vec<_> = problems.iter().take(4).map(ToString::to_string).collect();
            return Err(format!("it is refused: {}", why.join("; ")));
        }
        _ => return Err("it says nothing to the mesh".into()),
    };
    let key = object.key();
    if key != now.key() {
        return Err(format!("it is {key} in the place of {}", now.key()));
    }
    let (stable, document) = stable.zip(staged.document).ok_or("it is not handed on")?;
    let services = counted(now, object)?;
    let offer = Offer::new(id, key, stable, document).leads_to(object.leads_to());
    Ok(match services.len() {
        0..=SERVICES => offer.counts(services),
        // All requests have those among them.
        _ => offer,
    })
}

/// The Services whose requests are counted; none is all.
#[cfg(feature = "kubernetes")]
fn counted(now: &Object, staged: &Object) -> Result<BTreeSet<ServiceName>, String> {
    match (now, staged) {
        (Object::Route(_), Object::Route(_)) | (Object::GrpcRoute(_), Object::GrpcRoute(_)) => {
            if now.parents() != staged.parents() {
                return Err("it has other parentRefs than the object".into());
            }
            let parents = now.parents().iter().map(|parent| parent.service.clone());
            let others = now.leads_to().into_iter().chain(staged.leads_to());
            Ok(parents.chain(others).collect())
        }
        (Object::Traffic(now), Object::Traffic(staged)) => {
            if now.targets != staged.targets {
                return Err("it has other targets than the object".into());
            }
            if now.blocks.limits_workloads() != staged.blocks.limits_workloads() {
                let why = "of it and the object one limits what workloads take, and not both";
                return Err(why.into());
            }
            let services = now.targets.iter().map(|target| match target {
                Target::Service(service, _) => Some(service.clone()),
                _ => None,
            });
            let services: Option<BTreeSet<_>> = services.collect();
            Ok(services.unwrap_or_default())
        }
        // Of whatever it permits.
        (Object::Policy(_), Object::Policy(_)) => Ok(BTreeSet::new()),
        _ => Err("no object of its kind can be staged".into()),
    }
}

#[cfg(all(test, feature = "kubernetes"))]
mod tests {
    use super::*;
    use crate::manifest::{Defaults, Entry, parse};

    fn read(text: &str) -> Entry {
        let defaults = Defaults::new(Namespace::new("shop").expect("a name")).documents();
        let mut parsed = parse("a.yaml", text, &defaults).expect("it is YAML");
        parsed.entries.pop().expect("a document")
    }

    fn offered(now: &str, staged: &str) -> Result<Offer, String> {
        let (now, staged) = (read(now), read(staged));
        offer("a1", &as_offered(&now), &as_offered(&staged))
    }

    fn as_offered(entry: &Entry) -> Offered<'_> {
        Offered {
            op: &entry.op,
            document: entry.document.as_ref(),
        }
    }

    fn route(parent: &str, rules: &str) -> String {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: cart}}, \
             spec: {{parentRefs: [{{group: '', kind: Service, name: {parent}}}], rules: [{rules}]}}}}"
        )
    }

    fn ours(kind: &str, spec: &str) -> String {
        format!(
            "{{apiVersion: inmesh.dev/v1alpha1, kind: {kind}, metadata: {{name: cart}}, spec: {spec}}}"
        )
    }

    #[test]
    fn a_route_is_staged_for_the_same_services() {
        let now = route("cart", "{backendRefs: [{name: one, port: 80}]}");
        let staged = route("cart", "{backendRefs: [{name: two, port: 80}]}");
        let found = offered(&now, &staged).expect("it can be staged");
        let names =
            |of: &BTreeSet<ServiceName>| of.iter().map(|s| s.name().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&found.leads_to), ["two"]);
        assert_eq!(names(&found.services), ["cart", "one", "two"]);
        assert!(found.document.contains("two") && found.bound.is_none());
    }

    #[test]
    fn what_cannot_take_its_place_is_not_staged() {
        let traffic = |spec: &str| ours("TrafficPolicy", spec);
        let on = "targetRefs: [{group: '', kind: Service, name: cart}]";
        let (one, two) = ("timeouts: {request: 1s}", "timeouts: {request: 2s}");
        let limited = "rateLimit: {total: {requests: 5}}";
        let service =
            "{apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {ports: [{port: 80}]}}";
        let policy = |spec: &str| ours("AuthorizationPolicy", spec);
        for (now, staged, why) in [
            (route("cart", "{}"), route("next", "{}"), "other parentRefs"),
            (
                route("cart", "{}"),
                route("cart", "{matches: [{path: {value: x}}]}"),
                "it is refused: ",
            ),
            (
                route("cart", "{matches: 1}"),
                route("cart", "{}"),
                "the object itself is refused",
            ),
            (route("cart", "{}"), policy("{}"), "in the place of"),
            (
                traffic(&format!("{{{on}, {one}}}")),
                traffic(&format!("{{{}, {one}}}", on.replace("cart", "next"))),
                "other targets",
            ),
            (
                traffic(&format!("{{{one}}}")),
                traffic(&format!("{{{one}, {limited}}}")),
                "limits what workloads take",
            ),
            (service.into(), service.into(), "no object of its kind"),
        ] {
            let found = offered(&now, &staged);
            assert!(
                found.as_ref().is_err_and(|e| e.contains(why)),
                "{why}: {found:?}"
            );
        }
        let found = offered(
            &traffic(&format!("{{{on}, {one}}}")),
            &traffic(&format!("{{{on}, {two}}}")),
        );
        assert_eq!(found.expect("it can be staged").services.len(), 1);
        let found = offered(&policy("{}"), &policy("{rules: [{}]}"));
        assert!(
            found.expect("it can be staged").services.is_empty(),
            "all requests are counted"
        );
    }
}
