//! All subscribers of a control plane: which are woken by a change, and how each of them is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use inmesh_core::model::{Namespace, ServiceName};
use inmesh_core::snapshot::{Snapshot, Touched};
use inmesh_pki::Crypto;
use inmesh_pki::id::SpiffeId;
use prost::Message;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::proto::delta::{
    DeltaDiscoveryRequest as Request, DeltaDiscoveryResponse as Response,
};
use super::catalogue::Catalogue;
use super::session::{Fault, Refused, Session};
use super::staged::Staged;
use crate::stage::{Offer, Tally};

/// The most subscribers at once.
const SUBSCRIBERS: usize = 16_384;
/// How often what no subscriber has any more is forgotten, in streams that have ended.
const SWEEP: u64 = 256;

/// What all streams share.
pub(super) struct Hub {
    state: Mutex<State>,
    crypto: Crypto,
    counts: Counts,
}

/// What a control plane has sent, since it began.
#[derive(Debug, Default)]
struct Counts {
    responses: AtomicU64,
    bytes: AtomicU64,
    refusals: AtomicU64,
}

struct State {
    catalogue: Catalogue,
    /// What is staged for some of the members.
    staged: Option<Staged>,
    sessions: HashMap<u64, Entry>,
    by_service: HashMap<ServiceName, BTreeSet<u64>>,
    by_namespace: HashMap<Namespace, BTreeSet<u64>>,
    next: u64,
}

struct Entry {
    session: Session,
    subscriber: Subscriber,
    wake: Arc<Notify>,
    /// When what concerns it has changed that it has not acknowledged; `None` is up to date.
    behind: Option<Instant>,
    /// Whether there is something to look at.
    dirty: bool,
}

/// What opens a stream, as it has proven itself.
#[derive(Debug, Clone)]
pub(super) struct Subscriber {
    pub(super) id: SpiffeId,
    pub(super) address: SocketAddr,
    /// As it names its process.
    pub(super) instance: String,
    pub(super) version: String,
    pub(super) since: Instant,
}

/// How the subscribers of a control plane are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ControlStatus {
    /// The generation of the configuration that is handed on.
    pub generation: u64,
    /// How many subscribers have all of it that concerns them.
    pub converged: usize,
    /// How many do not.
    pub behind: usize,
    /// How long the one has been behind that has been for longest, in milliseconds.
    pub behind_for: u64,
    /// Responses that were sent since it began.
    pub responses: u64,
    /// The bytes of these.
    pub bytes: u64,
    /// Resources that subscribers did not apply, since it began.
    pub refusals: u64,
    /// All of them: those that are behind for longest first.
    pub subscribers: Vec<SubscriberStatus>,
}

/// How one subscriber is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SubscriberStatus {
    /// Its SPIFFE ID.
    pub id: String,
    /// The name of its process.
    pub instance: String,
    /// What it runs.
    pub version: String,
    /// Where its connection comes from.
    pub address: SocketAddr,
    /// How long its stream has been open, in seconds.
    pub connected_for: u64,
    /// The newest generation of which it has all that concerns it.
    pub generation: u64,
    /// For how long it has not had all, in milliseconds; `None` is up to date.
    pub behind_for: Option<u64>,
    /// How many things it subscribes to.
    pub subscriptions: usize,
    /// How many resources it has.
    pub resources: usize,
    /// What it does not apply, and why.
    pub refused: BTreeMap<String, Refused>,
}

/// A stream that is open; dropping it forgets its subscriber.
pub(super) struct Place {
    hub: Arc<Hub>,
    id: u64,
    wake: Arc<Notify>,
}

/// There is no place for another subscriber.
#[derive(Debug, thiserror::Error)]
#[error("{SUBSCRIBERS} subscribers are connected already")]
pub(super) struct Full;

// === impl Hub ===

impl Hub {
    pub(super) fn new(snapshot: Arc<Snapshot>, crypto: Crypto) -> Self {
        Self {
            state: Mutex::new(State {
                catalogue: Catalogue::new(snapshot, crypto.clone()),
                staged: None,
                sessions: HashMap::new(),
                by_service: HashMap::new(),
                by_namespace: HashMap::new(),
                next: 0,
            }),
            crypto,
            counts: Counts::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over a newer snapshot and wakes those that it concerns; `touched` is what has changed, if that
    /// is known.
    pub(super) fn replace(&self, snapshot: &Arc<Snapshot>, touched: Option<&Touched>) {
        let mut state = self.state();
        let state = &mut *state;
        let before = state.catalogue.replace(Arc::clone(snapshot), touched);
        let now = Instant::now();
        let Some(touched) = touched else {
            for entry in state.sessions.values_mut() {
                entry.touch(now);
            }
            return;
        };
        let mut concerned = BTreeSet::new();
        for service in touched.services.iter().chain(&touched.endpoints) {
            concerned.extend(state.by_service.get(service).into_iter().flatten());
        }
        if !touched.governed.is_empty() {
            concerned.extend(state.sessions.keys());
        }
        let defined = |service: &ServiceName| before.defined(service) != snapshot.defined(service);
        if touched.services.iter().any(defined) {
            let look_up = state.sessions.iter().filter(|(_, e)| e.session.looks_up());
            concerned.extend(look_up.map(|(id, _)| id));
        }
        for id in concerned {
            if let Some(entry) = state.sessions.get_mut(&id) {
                entry.touch(now);
            }
        }
    }

    /// Stages a document in the place of the one before, and wakes all: each may be on either side of it.
    pub(super) fn stage(&self, offer: Option<Arc<Offer>>) {
        let staged = offer.map(|offer| Staged::new(offer, self.crypto.clone()));
        let mut state = self.state();
        state.staged = staged;
        let now = Instant::now();
        for entry in state.sessions.values_mut() {
            entry.touch(now);
        }
    }

    /// How requests fare by the members that report on the stage of that name.
    pub(super) fn tally(&self, id: &str) -> Tally {
        let state = self.state();
        let mut tally = Tally::default();
        let Some(staged) = state.staged.as_ref().filter(|staged| staged.is_of(id)) else {
            return tally;
        };
        for entry in state.sessions.values() {
            let session = &entry.session;
            let refused = session.refused().get(staged.name());
            let refused = refused.filter(|refused| refused.version == *staged.resource().version);
            let why = refused.map(|refused| refused.problems.join("; "));
            if let Some(said) = session.said() {
                staged.add(&said, why.as_deref(), &mut tally);
            }
        }
        tally
    }

    /// A place for a stream of a workload of a namespace.
    pub(super) fn enter(
        self: &Arc<Self>,
        subscriber: Subscriber,
        namespace: Namespace,
    ) -> Result<Place, Full> {
        let mut state = self.state();
        if state.sessions.len() >= SUBSCRIBERS {
            return Err(Full);
        }
        let id = state.next;
        state.next += 1;
        let wake = Arc::new(Notify::new());
        let of = state.by_namespace.entry(namespace.clone()).or_default();
        of.insert(id);
        let entry = Entry {
            session: Session::new(namespace, subscriber.id.as_str(), &subscriber.instance),
            subscriber,
            wake: Arc::clone(&wake),
            behind: Some(Instant::now()),
            dirty: true,
        };
        state.sessions.insert(id, entry);
        let hub = Arc::clone(self);
        Ok(Place { hub, id, wake })
    }

    /// How the subscribers are.
    pub(super) fn status(&self) -> ControlStatus {
        let state = self.state();
        let now = Instant::now();
        let mut subscribers: Vec<_> = state.sessions.values().map(|e| e.status(now)).collect();
        subscribers.sort_by(|a, b| {
            let key = |s: &SubscriberStatus| (std::cmp::Reverse(s.behind_for), s.id.clone());
            key(a)
                .cmp(&key(b))
                .then_with(|| a.instance.cmp(&b.instance))
        });
        let behind = subscribers
            .iter()
            .filter(|s| s.behind_for.is_some())
            .count();
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ControlStatus {
            generation: state.catalogue.generation(),
            converged: subscribers.len() - behind,
            behind,
            behind_for: subscribers.first().and_then(|s| s.behind_for).unwrap_or(0),
            responses: read(&self.counts.responses),
            bytes: read(&self.counts.bytes),
            refusals: read(&self.counts.refusals),
            subscribers,
        }
    }
}

// === impl Place ===

impl Place {
    /// Notes a request of the stream.
    pub(super) fn handle(&self, mut request: Request) -> Result<(), Fault> {
        let mut state = self.hub.state();
        let Some(entry) = state.sessions.get_mut(&self.id) else {
            return Ok(());
        };
        if let Some(report) = request.report.take() {
            // It comes alone, and changes nothing of what is to be sent.
            entry.session.report(report);
            return Ok(());
        }
        let before = entry.session.refused().len();
        entry.session.handle(request)?;
        let refused = entry.session.refused().len().saturating_sub(before);
        let counts = &self.hub.counts;
        counts
            .refusals
            .fetch_add(u64::try_from(refused).unwrap_or(0), Ordering::Relaxed);
        entry.dirty = true;
        Ok(())
    }

    /// The next response, if there is one.
    pub(super) fn poll(&self) -> Option<Response> {
        let mut state = self.hub.state();
        let state = &mut *state;
        let members = state.sessions.len();
        let entry = state.sessions.get_mut(&self.id)?;
        if !entry.dirty || entry.session.waits() {
            return None;
        }
        let before = entry.session.covered().clone();
        let staged = state.staged.as_ref().map(|staged| (staged, members));
        let response = entry.session.poll(&mut state.catalogue, staged);
        entry.dirty = false;
        if response.is_none() {
            entry.behind = None;
        }
        let after = entry.session.covered();
        for service in before.difference(after) {
            leave(&mut state.by_service, service, self.id);
        }
        for service in after.difference(&before) {
            state
                .by_service
                .entry(service.clone())
                .or_default()
                .insert(self.id);
        }
        if let Some(response) = &response {
            let counts = &self.hub.counts;
            counts.responses.fetch_add(1, Ordering::Relaxed);
            let bytes = u64::try_from(response.encoded_len()).unwrap_or(u64::MAX);
            counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        response
    }

    /// Waits until there may be a response.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        let state = &mut *state;
        let Some(entry) = state.sessions.remove(&self.id) else {
            return;
        };
        for service in entry.session.covered() {
            leave(&mut state.by_service, service, self.id);
        }
        leave(&mut state.by_namespace, entry.session.namespace(), self.id);
        if self.id.is_multiple_of(SWEEP) || state.sessions.is_empty() {
            let (services, namespaces) = (&state.by_service, &state.by_namespace);
            let has = |of: &ServiceName| services.contains_key(of);
            state.catalogue.keep(has, |of| namespaces.contains_key(of));
        }
    }
}

fn leave<K: Eq + Hash>(all: &mut HashMap<K, BTreeSet<u64>>, of: &K, id: u64) {
    if let Some(ids) = all.get_mut(of) {
        ids.remove(&id);
        if ids.is_empty() {
            all.remove(of);
        }
    }
}

// === impl Entry ===

impl Entry {
    fn touch(&mut self, now: Instant) {
        self.dirty = true;
        self.behind.get_or_insert(now);
        self.wake.notify_one();
    }

    fn status(&self, now: Instant) -> SubscriberStatus {
        let Self {
            session,
            subscriber,
            ..
        } = self;
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let behind = self.behind.map(|since| millis(now.duration_since(since)));
        SubscriberStatus {
            id: subscriber.id.to_string(),
            instance: subscriber.instance.clone(),
            version: subscriber.version.clone(),
            address: subscriber.address,
            connected_for: now.duration_since(subscriber.since).as_secs(),
            generation: session.generation(),
            behind_for: behind,
            subscriptions: session.subscriptions(),
            resources: session.resources(),
            refused: session
                .refused()
                .iter()
                .map(|(name, refused)| (name.to_string(), refused.clone()))
                .collect(),
        }
    }
}
