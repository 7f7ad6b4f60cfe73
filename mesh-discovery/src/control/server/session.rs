//! What one subscriber asks for and has in, what it is sent next out. Pure.
//!
//! 1. It is sent what leads to the Services that it subscribes to, and the policies that govern its
//!    namespace: each resource whose version it does not have, and the names of those that it has to forget.
//! 2. One response is on its way at a time; what changes meanwhile is in the next. So a slow subscriber is
//!    sent less often, and all of a response is of one snapshot.
//! 3. A subscription is answered once: by a resource that names it, or as a name that leads to nothing. It
//!    is answered again when that changes.
//! 4. What a subscriber refuses is remembered, and not sent again before it changes.
//! 5. Where a document is staged, it is sent to those on the side of the canary in the place of its object's, and
//!    all that are sent that object are asked how requests fare. What they report acknowledges nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use inmesh_core::discover::Wanted;
use inmesh_core::model::{Namespace, ServiceName};
use prost::Message;

use super::super::names::{ABSENT, FOUND, REFUSAL, Subscription, TYPE};
use super::super::proto::delta::{
    Any, DeltaDiscoveryRequest as Request, DeltaDiscoveryResponse as Response, Report,
    Resource as WireResource, Status, Watch,
};
use super::super::proto::objects::Refusal;
use super::super::resource::Resource;
use super::catalogue::{Catalogue, OfService};
use super::staged::{Said, Side, Staged};

/// The most subscriptions of a subscriber.
const SUBSCRIPTIONS: usize = 8_192;
/// The most names of resources that it may know before.
const KNOWN: usize = 200_000;
/// The longest name.
const NAME: usize = 512;
/// The most bounds of a report.
const BOUNDS: usize = 64;
/// The most that is kept of what it refuses, and of the problems of each, and the longest.
const REFUSED: (usize, usize, usize) = (256, 8, 512);

/// One subscriber.
#[derive(Debug)]
pub(in crate::control) struct Session {
    /// That of its workload, which it has proven.
    namespace: Namespace,
    /// Its SPIFFE ID and the name of its process.
    called: (Arc<str>, Arc<str>),
    subscriptions: BTreeMap<Subscription, Answer>,
    /// How those were answered on an earlier stream that it has not subscribed to on this.
    answered: BTreeMap<Subscription, Answer>,
    /// Names that it subscribes to and that mean nothing here.
    unknown: Vec<String>,
    /// The versions that it has, or that are on their way to it.
    has: BTreeMap<Arc<str>, Arc<str>>,
    refused: BTreeMap<Arc<str>, Refused>,
    waiting: Option<Sent>,
    /// The newest generation of which it has all.
    generation: u64,
    nonce: u64,
    begun: bool,
    /// The Services by whose changes it is sent something.
    covered: BTreeSet<ServiceName>,
    /// Whether it counts what it is asked to; one of an earlier version does not, and is on no side.
    counts: bool,
    /// Its mark for what is staged, and the name of what it is asked to count.
    watched: Option<(Option<u64>, String)>,
    /// What it has counted of that.
    report: Option<Report>,
}

/// What was answered to a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Absent,
    /// On an earlier stream, by this or another replica.
    Found,
    LeadsTo(ServiceName),
    Unanswered,
}

/// Which subscriptions are to be answered.
#[derive(Debug, Default)]
struct Answers {
    /// By the names of the resources that answer them.
    by: BTreeMap<Arc<str>, Vec<String>>,
    /// Those that lead to nothing.
    absent: Vec<String>,
}

/// What a subscriber is to have.
#[derive(Debug, Default)]
struct Wants {
    resources: BTreeMap<Arc<str>, Arc<Resource>>,
    /// Services behind those that it has, which it has not yet.
    behind: BTreeSet<ServiceName>,
}

/// A response that is not acknowledged yet.
#[derive(Debug)]
struct Sent {
    nonce: String,
    generation: u64,
    names: Vec<Arc<str>>,
}

/// A resource that a subscriber does not apply.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Refused {
    /// The version of it.
    pub version: String,
    /// Why.
    pub problems: Vec<String>,
}

/// A request that no subscriber sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(in crate::control) struct Fault(pub(super) String);

// === impl Session ===

impl Session {
    /// A session of a workload of a namespace, with its SPIFFE ID and the name of its process.
    pub(in crate::control) fn new(namespace: Namespace, id: &str, instance: &str) -> Self {
        Self {
            namespace,
            called: (id.into(), instance.into()),
            subscriptions: BTreeMap::new(),
            answered: BTreeMap::new(),
            unknown: Vec::new(),
            has: BTreeMap::new(),
            refused: BTreeMap::new(),
            waiting: None,
            generation: 0,
            nonce: 0,
            begun: false,
            covered: BTreeSet::new(),
            counts: false,
            watched: None,
            report: None,
        }
    }

    /// Notes a request.
    ///
    /// # Errors
    ///
    /// [`Fault`] ends its stream.
    pub(in crate::control) fn handle(&mut self, request: Request) -> Result<(), Fault> {
        if request.type_url != TYPE {
            let shown: String = request.type_url.chars().take(128).collect();
            return Err(Fault(format!(
                "{shown:?} is no type of resources here, which is {TYPE}"
            )));
        }
        let known = request.initial_resource_versions;
        if !known.is_empty() {
            if self.begun || !self.has.is_empty() {
                return Err(Fault("what is known is said first".into()));
            }
            if known.len() > KNOWN {
                return Err(Fault(format!("more than {KNOWN} resources are known")));
            }
            self.knows(known);
        }
        self.counts |= request.counts;
        if !request.response_nonce.is_empty() {
            self.acknowledged(&request.response_nonce, request.error_detail);
        }
        for name in request.resource_names_unsubscribe {
            if let Ok(subscription) = Subscription::parse(&name) {
                self.subscriptions.remove(&subscription);
            }
        }
        for name in request.resource_names_subscribe {
            if self.subscriptions.len() + self.unknown.len() >= SUBSCRIPTIONS || name.len() > NAME {
                let most =
                    format!("a stream has {SUBSCRIPTIONS} subscriptions, of {NAME} bytes each");
                return Err(Fault(most));
            }
            match Subscription::parse(&name) {
                // Asked for again, it is answered again.
                Ok(subscription) => {
                    let answer = self.answered.remove(&subscription);
                    let answer = answer.unwrap_or(Answer::Unanswered);
                    self.subscriptions.insert(subscription, answer);
                }
                Err(_) => self.unknown.push(name),
            }
        }
        Ok(())
    }

    /// Notes what it has from an earlier stream, and how its subscriptions were answered there.
    fn knows(&mut self, known: impl IntoIterator<Item = (String, String)>) {
        for (name, version) in known {
            match (Subscription::parse(&name), version.as_str()) {
                (Ok(subscription), FOUND) => {
                    self.answered.insert(subscription, Answer::Found);
                }
                (Ok(subscription), ABSENT) => {
                    self.answered.insert(subscription, Answer::Absent);
                }
                _ => {
                    self.has.insert(name.into(), version.into());
                }
            }
        }
    }

    fn acknowledged(&mut self, nonce: &str, error: Option<Status>) {
        let Some(sent) = self.waiting.take_if(|sent| sent.nonce == nonce) else {
            // Of another stream, or of a response that was acknowledged already.
            return;
        };
        self.generation = sent.generation;
        for name in &sent.names {
            self.refused.remove(name);
        }
        let (most, problems, chars) = REFUSED;
        let details = error.into_iter().flat_map(|error| error.details);
        let refusals = details.filter(|detail| detail.type_url == REFUSAL);
        for refusal in refusals.filter_map(|detail| Refusal::decode(detail.value).ok()) {
            let name = sent.names.iter().find(|name| ***name == *refusal.name);
            if let Some(name) = name.filter(|_| self.refused.len() < most) {
                let why = refusal.problems.into_iter().take(problems);
                let refused = Refused {
                    version: refusal.version.chars().take(64).collect(),
                    problems: why.map(|why| why.chars().take(chars).collect()).collect(),
                };
                self.refused.insert(Arc::clone(name), refused);
            }
        }
    }

    /// What is to be sent now, if anything is; with what is staged, and how many members there are.
    pub(in crate::control) fn poll(
        &mut self,
        catalogue: &mut Catalogue,
        staged: Option<(&Staged, usize)>,
    ) -> Option<Response> {
        if self.waiting.is_some() {
            return None;
        }
        let staged = staged.filter(|_| self.counts);
        let side = staged.map(|(staged, _)| {
            let mark = staged.mark(&self.namespace, &self.called.0, &self.called.1);
            (mark, staged.side(mark))
        });
        let (direct, mut answers) = self.answer(catalogue);
        let (wanted, replaces) = self.wanted(direct, catalogue, staged.map(|(of, _)| of).zip(side));
        let watch = staged.zip(side).filter(|_| replaces);
        let watch = watch.map(|((staged, all), (mark, side))| (mark, staged.watch(side, all)));
        let (mut resources, mut names): (Vec<WireResource>, Vec<Arc<str>>) = (vec![], vec![]);
        for (name, resource) in &wanted {
            let has = self.has.get(name) == Some(&resource.version);
            let aliases = answers.by.remove(name).unwrap_or_default();
            if has && aliases.is_empty() {
                continue;
            }
            resources.push(WireResource {
                version: resource.version.to_string(),
                resource: (!has).then(|| Any {
                    type_url: TYPE.to_owned(),
                    value: Bytes::clone(&resource.body),
                }),
                name: name.to_string(),
                aliases,
            });
            if !has {
                self.has
                    .insert(Arc::clone(name), Arc::clone(&resource.version));
                names.push(Arc::clone(name));
            }
        }
        let mut removed: Vec<String> = Vec::new();
        self.has.retain(|name, _| {
            let stays = wanted.contains_key(name);
            if !stays {
                removed.push(name.to_string());
            }
            stays
        });
        self.refused.retain(|name, _| wanted.contains_key(name));
        removed.append(&mut answers.absent);
        removed.append(&mut self.unknown);
        let counts = self.count(watch.as_ref());
        if resources.is_empty() && removed.is_empty() && !counts && self.begun {
            self.generation = catalogue.generation();
            return None;
        }
        self.begun = true;
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        self.waiting = Some(Sent {
            nonce: nonce.clone(),
            generation: catalogue.generation(),
            names,
        });
        Some(Response {
            system_version_info: catalogue.generation().to_string(),
            resources,
            type_url: TYPE.to_owned(),
            nonce,
            removed_resources: removed,
            control_plane: None,
            watch: watch.map(|(_, watch)| watch),
        })
    }

    /// Notes what it is asked to count; whether that is another thing than before.
    fn count(&mut self, watch: Option<&(Option<u64>, Watch)>) -> bool {
        let watched = watch.map(|(mark, watch)| (*mark, watch.id.clone()));
        if watched == self.watched {
            return false;
        }
        self.watched = watched;
        self.report = None;
        true
    }

    /// Notes how requests fare by it, where that is what it is asked for.
    pub(in crate::control) fn report(&mut self, mut report: Report) {
        let asked = self
            .watched
            .as_ref()
            .is_some_and(|(_, id)| *id == report.id);
        if asked {
            report.took.truncate(BOUNDS);
            self.report = Some(report);
        }
    }

    /// How requests fare by it.
    pub(in crate::control) fn said(&self) -> Option<Said> {
        Some(Said {
            mark: self.watched.as_ref()?.0,
            report: self.report.clone()?,
        })
    }

    /// The Services that subscriptions lead to, and which of these are to be answered.
    fn answer(&mut self, catalogue: &mut Catalogue) -> (BTreeSet<ServiceName>, Answers) {
        let (mut direct, mut answers) = (BTreeSet::new(), Answers::default());
        for (subscription, answer) in &mut self.subscriptions {
            let Subscription::One(wanted) = subscription else {
                direct.extend(catalogue.all());
                continue;
            };
            let service = catalogue.leads_to(wanted, &self.namespace);
            // By a name it may be said that it comes later.
            direct.extend(service.clone());
            let of = service.and_then(|name| {
                let of = catalogue.of_service(&name)?;
                Some((Arc::clone(&of.itself.as_ref()?.name), name))
            });
            let (now, by) = match of {
                Some((itself, name)) => (Answer::LeadsTo(name), Some(itself)),
                None => (Answer::Absent, None),
            };
            // A subscriber that was answered has no use for which Service it is.
            let known = *answer == Answer::Found && now != Answer::Absent;
            if *answer != now && !known {
                let said = match by {
                    Some(by) => answers.by.entry(by).or_default(),
                    None => &mut answers.absent,
                };
                said.push(subscription.to_string());
            }
            *answer = now;
        }
        (direct, answers)
    }

    /// All that it is to have, with what is staged where it is on that side, and whether it has the object of
    /// that at all; notes by the changes of which Services that changes.
    fn wanted(
        &mut self,
        direct: BTreeSet<ServiceName>,
        catalogue: &mut Catalogue,
        staged: Option<(&Staged, (Option<u64>, Side))>,
    ) -> (BTreeMap<Arc<str>, Arc<Resource>>, bool) {
        let mut wanted = Wants::default();
        for policy in &*catalogue.governing(&self.namespace) {
            wanted.put(policy);
        }
        for service in &direct {
            let Some(of) = catalogue.of_service(service) else {
                continue;
            };
            wanted.put_all(&of);
            let own = |route: &Namespace| route == service.namespace() || *route == self.namespace;
            for route in of.routes.iter().filter(|route| own(&route.namespace)) {
                wanted.put(&route.resource);
                wanted.behind.extend(route.leads_to.iter().cloned());
            }
        }
        self.covered = direct;
        wanted.cover(&mut self.covered, catalogue);
        let staged = staged.filter(|(staged, _)| staged.replaces(&wanted.resources));
        if let Some((staged, (_, Side::Canary))) = staged {
            wanted.behind.extend(staged.leads_to().iter().cloned());
            wanted.cover(&mut self.covered, catalogue);
            // Last, since what it leads to may bring its object again.
            wanted.put(staged.resource());
        }
        (wanted.resources, staged.is_some())
    }

    /// The Services by whose changes it is sent something.
    pub(in crate::control) fn covered(&self) -> &BTreeSet<ServiceName> {
        &self.covered
    }

    /// Whether a Service that comes or goes may change what its subscriptions lead to.
    pub(in crate::control) fn looks_up(&self) -> bool {
        let by_name = |of: &Subscription| matches!(of, Subscription::One(Wanted::Service(_)));
        self.subscriptions.keys().any(|of| !by_name(of))
    }

    pub(in crate::control) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// How many subscriptions it has.
    pub(in crate::control) fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// How many resources it has.
    pub(in crate::control) fn resources(&self) -> usize {
        self.has.len()
    }

    /// Whether a response is on its way.
    pub(in crate::control) fn waits(&self) -> bool {
        self.waiting.is_some()
    }

    /// The newest generation of which it has all that concerns it.
    pub(in crate::control) fn generation(&self) -> u64 {
        self.generation
    }

    /// What it does not apply.
    pub(in crate::control) fn refused(&self) -> &BTreeMap<Arc<str>, Refused> {
        &self.refused
    }
}

// === impl Wants ===

impl Wants {
    fn put(&mut self, resource: &Arc<Resource>) {
        let name = Arc::clone(&resource.name);
        self.resources.insert(name, Arc::clone(resource));
    }

    /// What concerns a Service, without its routes.
    fn put_all(&mut self, of: &OfService) {
        for resource in of.itself.iter().chain(&of.others) {
            self.put(resource);
        }
        self.behind.extend(of.subset_of.clone());
    }

    /// Covers what is behind, and what is behind that: a subset may be behind a route, and the Service behind it
    /// is no subset.
    fn cover(&mut self, covered: &mut BTreeSet<ServiceName>, catalogue: &mut Catalogue) {
        while let Some(service) = self.behind.pop_first() {
            if covered.insert(service.clone())
                && let Some(of) = catalogue.of_service(&service)
            {
                self.put_all(&of);
            }
        }
    }
}
