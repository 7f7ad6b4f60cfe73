//! Endpoints: where a request may go, how it is carried there, and who must answer.
//!
//! An [`Endpoint`] is configuration and immutable. Its [`EndpointState`] (load, health, the slot
//! of its connection pool) lives as long as the endpoint does and is kept across snapshots.

use std::any::Any;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use inmesh_pki::id::SpiffeId;

use super::Few;
use crate::balance::{Health, SetHealth};

/// The SPIFFE IDs that may serve an endpoint. Empty refuses every server.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdSet(Arc<[SpiffeId]>);

/// Where the roots come from that vouch for a server outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Roots {
    /// A PEM file, named by its path.
    File(Arc<str>),
    /// The trust store of the operating system.
    System,
}

/// How bytes travel to an endpoint. Nothing ever falls back from one to another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// Mutual TLS 1.3 between SPIFFE identities; the server must be one of `ids`.
    Mesh {
        /// Who may serve the endpoint.
        ids: IdSet,
    },
    /// No encryption. Only where it is written.
    Plain,
    /// TLS to a host outside the mesh, verified by its name.
    Tls {
        /// The name on the server's certificate, sent as SNI.
        name: Arc<str>,
        /// Who vouches for it.
        roots: Roots,
    },
}

/// The host of an endpoint as a document names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A name that a resolver source turns into addresses and keeps fresh.
    Name {
        /// The host name, without a trailing dot.
        name: Arc<str>,
        /// The SRV prefix to ask for, e.g. `_http._tcp`; `None` asks for A and AAAA.
        srv: Option<Arc<str>>,
    },
}

/// The three conditions of an endpoint as EndpointSlice knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conditions {
    /// It may receive new requests.
    pub ready: bool,
    /// It still serves, perhaps while it terminates.
    pub serving: bool,
    /// It is going away.
    pub terminating: bool,
}

/// One place that a request may go to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoint {
    /// Its addresses, preferred first; more than one only for the two families of one host.
    pub addresses: Few<SocketAddr>,
    /// How bytes travel there.
    pub transport: Transport,
    /// Whether it takes requests.
    pub conditions: Conditions,
    /// The workload behind it, for metrics and logs; empty where it is not known.
    pub workload: Arc<str>,
    /// Its version label, for metrics and logs; empty where it is not known.
    pub version: Arc<str>,
}

/// What is known of an endpoint while it runs: its load, its health, its connections.
///
/// What a choice reads comes first and in one cache line, which no other endpoint's counters share.
#[repr(C, align(64))]
pub struct EndpointState {
    inflight: AtomicU32,
    /// Whether the balancer may choose it.
    pub(crate) health: Health,
    slot: OnceLock<Box<dyn Any + Send + Sync>>,
}

/// An endpoint together with its state.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Member {
    /// The configuration.
    pub endpoint: Endpoint,
    /// The state, the same `Arc` as long as addresses and transport stay.
    pub state: Arc<EndpointState>,
}

/// The endpoints of one port of one service.
#[derive(Debug, Clone)]
pub struct EndpointSet {
    members: Box<[Member]>,
    ready: Ready,
    health: Arc<SetHealth>,
}

/// Those of a set that may be chosen from.
#[derive(Debug, Clone)]
enum Ready {
    /// All: the common case, in which no list of places stands between a choice and a member.
    All,
    /// Those in these places.
    Some(Box<[u32]>),
}

// === impl IdSet ===

impl IdSet {
    /// A set of IDs; duplicates are dropped.
    pub fn new(ids: impl IntoIterator<Item = SpiffeId>) -> Self {
        let mut ids: Vec<_> = ids.into_iter().collect();
        ids.sort();
        ids.dedup();
        Self(ids.into())
    }

    /// Whether `id` is in the set.
    pub fn contains(&self, id: &SpiffeId) -> bool {
        self.0.binary_search(id).is_ok()
    }

    /// The IDs in order.
    pub fn iter(&self) -> impl Iterator<Item = &SpiffeId> {
        self.0.iter()
    }

    /// Whether there is none, so that no server is accepted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for IdSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.0.iter().map(|id| format!("{id}")))
            .finish()
    }
}

/// The IDs with commas between.
impl fmt::Display for IdSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, id) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{id}")?;
        }
        Ok(())
    }
}

// === impl Transport ===

impl Transport {
    /// Its name in documents, logs and metrics: `mesh`, `plain` or `tls`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Mesh { .. } => "mesh",
            Self::Plain => "plain",
            Self::Tls { .. } => "tls",
        }
    }
}

// === impl Conditions ===

impl Conditions {
    /// Conditions as an EndpointSlice gives them; absent `ready` means ready, absent `serving`
    /// means as `ready`, absent `terminating` means no (Kubernetes API, EndpointConditions).
    pub fn new(ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>) -> Self {
        let ready = ready.unwrap_or(true);
        Self {
            ready,
            serving: serving.unwrap_or(ready),
            terminating: terminating.unwrap_or(false),
        }
    }
}

/// Ready.
impl Default for Conditions {
    fn default() -> Self {
        Self::new(None, None, None)
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// A ready endpoint at one address.
    pub fn new(address: SocketAddr, transport: Transport) -> Self {
        Self {
            addresses: address.into(),
            transport,
            conditions: Conditions::default(),
            workload: "".into(),
            version: "".into(),
        }
    }

    /// The preferred address; the unspecified one if there is none, which no source makes.
    pub fn address(&self) -> SocketAddr {
        self.addresses
            .first()
            .copied()
            .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    /// What makes it the same endpoint in another set.
    fn place(&self) -> (&[SocketAddr], &Transport) {
        (&self.addresses, &self.transport)
    }
}

// === impl EndpointState ===

impl EndpointState {
    pub(crate) fn new() -> Self {
        Self {
            inflight: AtomicU32::new(0),
            health: Health::default(),
            slot: OnceLock::new(),
        }
    }

    /// The requests and streams on their way to the endpoint or being answered by it.
    pub fn in_flight(&self) -> u32 {
        self.inflight.load(Ordering::Relaxed)
    }

    /// Whether it is ejected now, its half-open probe included.
    pub fn is_ejected(&self) -> bool {
        self.health.is_ejected()
    }

    pub(crate) fn enter(&self) {
        self.inflight.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn leave(&self) {
        self.inflight.fetch_sub(1, Ordering::Relaxed);
    }

    /// The one thing that `connect` keeps for the endpoint: made at first use, dropped with it.
    #[cfg(feature = "runtime")]
    pub(crate) fn slot<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Option<&T> {
        self.slot.get_or_init(|| Box::new(make())).downcast_ref()
    }
}

impl fmt::Debug for EndpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointState")
            .field("in_flight", &self.in_flight())
            .field("ejected", &self.is_ejected())
            .field("connected", &self.slot.get().is_some())
            .finish()
    }
}

// === impl Member ===

impl Member {
    /// An endpoint that nothing is known of yet.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            state: Arc::new(EndpointState::new()),
        }
    }
}

// === impl EndpointSet ===

impl EndpointSet {
    /// Builds a set, keeping the state of each endpoint whose addresses and transport were in
    /// `before`. The order is that given; duplicates (same addresses and transport) are dropped.
    pub fn build(endpoints: impl IntoIterator<Item = Endpoint>, before: Option<&Self>) -> Self {
        let endpoints: Vec<_> = endpoints.into_iter().collect();
        // States that nobody has taken yet; `None` where one has.
        let mut known: HashMap<_, _> = before
            .into_iter()
            .flat_map(|set| set.members())
            .map(|m| (m.endpoint.place(), Some(m.state.clone())))
            .collect();
        let states: Vec<_> = endpoints
            .iter()
            .map(|endpoint| match known.entry(endpoint.place()) {
                Entry::Occupied(mut state) => state.get_mut().take(),
                Entry::Vacant(new) => {
                    new.insert(None);
                    Some(Arc::new(EndpointState::new()))
                }
            })
            .collect();
        let members: Box<[Member]> = endpoints
            .into_iter()
            .zip(states)
            .filter_map(|(endpoint, state)| state.map(|state| Member { endpoint, state }))
            .collect();
        // As kube-proxy does: where no endpoint is ready, those that still serve while they
        // terminate are better than none.
        let by = |wanted: fn(&Conditions) -> bool| -> Box<[u32]> {
            (0..)
                .zip(&members)
                .filter(|(_, m)| wanted(&m.endpoint.conditions))
                .map(|(place, _)| place)
                .collect()
        };
        let mut ready = by(|c| c.ready && !c.terminating);
        if ready.is_empty() {
            ready = by(|c| c.serving && c.terminating);
        }
        Self {
            ready: if ready.len() == members.len() {
                Ready::All
            } else {
                Ready::Some(ready)
            },
            members,
            health: before.map_or_else(Arc::default, |set| set.health.clone()),
        }
    }

    /// All endpoints, ready or not.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Reads what a choice begins with and waits for nothing: what is in no cache is fetched while
    /// the caller does something else.
    pub(crate) fn touch(&self) {
        black_box(self.members.len());
    }

    /// How many may be chosen from, ejected ones included.
    pub fn ready_len(&self) -> usize {
        match &self.ready {
            Ready::All => self.members.len(),
            Ready::Some(places) => places.len(),
        }
    }

    /// The `n`th that may be chosen from.
    pub fn ready(&self, n: usize) -> Option<&Member> {
        self.members.get(self.ready_index(n)?)
    }

    /// The place of the `n`th that may be chosen from among all members.
    pub(crate) fn ready_index(&self, n: usize) -> Option<usize> {
        match &self.ready {
            Ready::All => (n < self.members.len()).then_some(n),
            Ready::Some(places) => places.get(n).map(|place| *place as usize),
        }
    }

    /// How many of those that may be chosen from are ejected.
    pub fn ejected_len(&self) -> usize {
        (0..self.ready_len())
            .filter_map(|n| self.ready(n))
            .filter(|m| m.state.is_ejected())
            .count()
    }

    /// What the set as a whole remembers of its ejections.
    pub(crate) fn health(&self) -> &Arc<SetHealth> {
        &self.health
    }
}

impl Default for EndpointSet {
    fn default() -> Self {
        Self::build([], None)
    }
}
