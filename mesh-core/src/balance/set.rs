//! The endpoints of one port of a Service, each with its state, in tiers of preference.
//!
//! An [`EndpointState`] (load, health, the slot of its connections) lives as long as its endpoint
//! does: a set takes over the states of the set before it, and the tables of its hash.

use std::any::Any;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::eject::EjectPolicy;
use super::ewma::Ewma;
use super::health::{Health, SetHealth, millis};
use super::limits::RequestLimits;
use super::rates::Tally;
use super::share::{Share, SlowStart};
use super::strategy::Strategy;
use super::table::{Table, Tables};
use crate::model::{Conditions, Draw, Endpoint};

/// How much of the reason of an endpoint's last failure is kept, in bytes.
#[cfg(feature = "runtime")]
const FAILURE_BYTES: usize = 512;

/// What is known of an endpoint while it runs: its load, its health, its connections.
///
/// What a choice reads comes first and in one cache line, which no other endpoint's counters share.
#[repr(C, align(64))]
pub struct EndpointState {
    inflight: AtomicU32,
    /// How fast it answers, an [`Ewma`] in bits; measured where a strategy asks.
    speed: AtomicU64,
    /// When its slow start began, in milliseconds after the first; 0 before.
    since: AtomicU64,
    /// Until when it takes less than its share by its own word, in milliseconds.
    shed: AtomicU64,
    /// Whether the balancer may choose it.
    pub(super) health: Health,
    slot: OnceLock<Box<dyn Any + Send + Sync>>,
    /// Why it has failed last, if it has; written where a request fails, read for the status.
    last_failure: Mutex<Option<LastFailure>>,
    /// Successes and failures since endpoints were last compared, where they are.
    tally: [AtomicU32; 2],
}

/// Why and when a request to an endpoint has failed by its fault.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastFailure {
    /// What was wrong.
    pub error: Box<str>,
    /// When, on the clock of the caller of [`pick`](super::pick).
    pub at: Duration,
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

/// The endpoints of one port of one Service. What each choice reads comes first.
#[derive(Debug, Clone)]
#[repr(C)]
pub struct EndpointSet {
    members: Box<[Member]>,
    ready: Ready,
    health: Arc<SetHealth<Self>>,
    /// How many sets it has replaced, and one.
    serial: u64,
    /// What leads from a hash to an endpoint, where a strategy has tables.
    tables: Option<Arc<Tables>>,
    limits: RequestLimits,
    slow_start: Option<SlowStart>,
    eject: EjectPolicy,
}

/// The members that may be chosen from.
#[derive(Debug, Clone)]
enum Ready {
    /// All, in one tier and with equal weights: the common case, in which no list of places stands
    /// between a choice and a member.
    All,
    /// Those in these places, tier by tier, preferred first.
    Tiers(Box<[Places]>),
}

/// The places of one tier's members in their set.
#[derive(Debug, Clone)]
struct Places {
    members: Box<[u32]>,
    /// The sum of weights up to and including each member; empty if all weights are equal.
    weights: Box<[u64]>,
    /// The largest weight.
    heaviest: u32,
}

/// One tier of a set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tier<'a> {
    members: &'a [Member],
    /// `None` is all members.
    places: Option<&'a Places>,
}

// === impl EndpointState ===

impl EndpointState {
    fn new() -> Self {
        Self {
            inflight: AtomicU32::new(0),
            speed: AtomicU64::new(Ewma::default().to_bits()),
            since: AtomicU64::new(0),
            shed: AtomicU64::new(0),
            health: Health::default(),
            slot: OnceLock::new(),
            last_failure: Mutex::new(None),
            tally: [AtomicU32::new(0), AtomicU32::new(0)],
        }
    }

    /// The requests and streams in flight to the endpoint, those being answered included.
    pub fn in_flight(&self) -> u32 {
        self.inflight.load(Ordering::Relaxed)
    }

    /// How long its answers take, as peak EWMA estimates it at `now`; `None` where that is not known.
    pub fn answers_within(&self, now: Duration) -> Option<Duration> {
        let estimate = self.speed().at(now);
        (estimate > 0.0).then(|| Duration::from_secs_f32(estimate))
    }

    /// What one more request costs it at `now`.
    pub(super) fn cost(&self, now: Duration) -> u64 {
        self.speed().cost(self.in_flight(), now)
    }

    /// How much of its share it takes at `now`.
    pub(super) fn share(&self, slow_start: Option<&SlowStart>, now: Duration) -> Share {
        let now = millis(now);
        let share = slow_start.map_or_else(Share::whole, |slow_start| {
            let age = match self.since.load(Ordering::Relaxed) {
                0 => 0,
                since => (now + 1).saturating_sub(since),
            };
            slow_start.share(Duration::from_millis(age))
        });
        match self.shed.load(Ordering::Relaxed) > now {
            true => share.shed(),
            false => share,
        }
    }

    /// Counts what became of a request, for the next comparison.
    pub(super) fn count(&self, success: bool) {
        self.tally[usize::from(!success)].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted since the last comparison.
    pub(super) fn take_tally(&self) -> Tally {
        let [successes, failures] = [0, 1].map(|n| self.tally[n].swap(0, Ordering::Relaxed));
        Tally {
            successes,
            failures,
        }
    }

    /// Its slow start begins.
    pub(super) fn begin(&self, now: Duration) {
        self.since.store(millis(now) + 1, Ordering::Relaxed);
    }

    /// It takes less than its share until then, in milliseconds.
    pub(super) fn shed_until(&self, until: u64) {
        self.shed.fetch_max(until, Ordering::Relaxed);
    }

    fn speed(&self) -> Ewma {
        Ewma::from_bits(self.speed.load(Ordering::Relaxed))
    }

    /// Changes the estimate of how fast it answers.
    pub(super) fn measure(&self, change: impl Fn(Ewma) -> Ewma) {
        let change = |bits| Some(change(Ewma::from_bits(bits)).to_bits());
        let relaxed = Ordering::Relaxed;
        // It never refuses a change.
        let _always = self.speed.fetch_update(relaxed, relaxed, change);
    }

    /// Whether it is ejected now, its half-open probe included.
    pub fn is_ejected(&self) -> bool {
        self.health.is_ejected()
    }

    /// Why it has failed last; it stays when the endpoint is well again.
    pub fn last_failure(&self) -> Option<LastFailure> {
        let last = self.last_failure.lock();
        last.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes why it has failed, the first [`FAILURE_BYTES`] of it.
    #[cfg(feature = "runtime")]
    pub(crate) fn note_failure(&self, error: &str, at: Duration) {
        let end = error.floor_char_boundary(FAILURE_BYTES);
        let error = error.get(..end).unwrap_or_default().into();
        let mut last = self
            .last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last = Some(LastFailure { error, at });
    }

    /// Counts one more request, if there may be one.
    pub(crate) fn enter(&self, most: u32) -> bool {
        let counted = self.inflight.fetch_add(1, Ordering::Relaxed) < most;
        if !counted {
            self.leave();
        }
        counted
    }

    pub(super) fn leave(&self) {
        self.inflight.fetch_sub(1, Ordering::Relaxed);
    }

    /// What `connect` keeps for the endpoint: made at first use, dropped with it.
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
    /// An endpoint without load and in good health.
    ///
    /// ```
    /// use inmesh_core::balance::Member;
    /// use inmesh_core::model::{Endpoint, Transport};
    /// let member = Member::new(Endpoint::new(([10, 0, 0, 1], 80).into(), Transport::Plain));
    /// assert!(!member.state.is_ejected());
    /// ```
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
    /// `before`. The order is that given. Of duplicates (same addresses and transport) the one that
    /// can take more stays, in the place of the first: an address that is ready in one slice and
    /// terminates in another is ready.
    ///
    /// 1. Endpoints that are ready and do not terminate may be chosen from; if there are none,
    ///    those that still serve while they terminate, as kube-proxy does. A weight of 0 takes an
    ///    endpoint out of both.
    /// 2. They form tiers by priority, the lowest number first.
    ///
    /// ```
    /// use inmesh_core::balance::EndpointSet;
    /// use inmesh_core::model::{Endpoint, Transport};
    /// let endpoint = |n| Endpoint::new(([10, 0, 0, n], 80).into(), Transport::Plain);
    /// let set = EndpointSet::build([endpoint(1), endpoint(2), endpoint(1)], None);
    /// assert_eq!(set.ready_len(), 2);
    /// ```
    pub fn build(endpoints: impl IntoIterator<Item = Endpoint>, before: Option<&Self>) -> Self {
        let endpoints = unique(endpoints);
        // States of the set before.
        let known: HashMap<_, _> = before
            .into_iter()
            .flat_map(|set| set.members())
            .map(|m| (m.endpoint.place(), &m.state))
            .collect();
        let members: Box<[Member]> = endpoints
            .into_iter()
            .map(|endpoint| {
                let state = known.get(&endpoint.place()).map(|state| Arc::clone(state));
                let state = state.unwrap_or_else(|| Arc::new(EndpointState::new()));
                Member { endpoint, state }
            })
            .collect();
        Self {
            ready: Ready::of(&members),
            members,
            health: before.map_or_else(Arc::default, |set| Arc::clone(&set.health)),
            serial: before.map_or(1, |set| set.serial + 1),
            tables: before.and_then(|set| set.tables.clone()),
            limits: RequestLimits::default(),
            slow_start: None,
            eject: EjectPolicy::default(),
        }
    }

    /// The same set with the tables that a strategy needs: those that it has, where its members are
    /// those that they were made for.
    #[must_use]
    pub fn with_strategy(mut self, strategy: &Strategy) -> Self {
        let named = |tier: Tier<'_>| {
            let members = (0..tier.len()).filter_map(|nth| tier.member(nth));
            members
                .map(|m| (m.endpoint.name_hash(), m.endpoint.weight))
                .collect()
        };
        let tables = Tables::build(
            strategy.table(),
            self.tiers().map(named),
            self.tables.as_ref(),
        );
        self.tables = tables;
        self
    }

    /// The same set with other limits of requests in flight.
    #[must_use]
    pub fn with_limits(mut self, limits: RequestLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The same set whose new endpoints take their share little by little.
    #[must_use]
    pub fn with_slow_start(mut self, slow_start: Option<SlowStart>) -> Self {
        self.slow_start = slow_start;
        self
    }

    /// The same set whose endpoints are ejected by another policy.
    #[must_use]
    pub fn with_eject(mut self, policy: EjectPolicy) -> Self {
        self.eject = policy;
        self
    }

    /// All endpoints, ready or not.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Starts to fetch what a choice reads first, while the caller does something else.
    pub(crate) fn prefetch(&self) {
        black_box(self.members.len());
    }

    /// How many may be chosen from, ejected ones included.
    pub fn ready_len(&self) -> usize {
        self.tiers().map(|tier| tier.len()).sum()
    }

    /// Those that may be chosen from, preferred tiers first.
    pub fn ready(&self) -> impl Iterator<Item = &Member> {
        self.ready_places().map(|place| &self.members[place])
    }

    /// How many of those that may be chosen from are ejected.
    pub fn ejected_len(&self) -> usize {
        self.ready().filter(|m| m.state.is_ejected()).count()
    }

    /// Whether so few are left that are not ejected that all are used as if none were.
    pub fn is_panicking(&self) -> bool {
        self.health.may_be_out() && self.eject.panics(self.ejected_len(), self.ready_len())
    }

    /// Whether one more may be ejected.
    pub(super) fn has_room(&self) -> bool {
        self.ejected_len() < self.eject.allowed(self.ready_len())
    }

    /// The places in [`members`](Self::members) of those that may be chosen from.
    pub(super) fn ready_places(&self) -> impl Iterator<Item = usize> {
        self.tiers()
            .flat_map(|tier| (0..tier.len()).filter_map(move |nth| tier.place(nth)))
    }

    /// The tiers, preferred first.
    pub(super) fn tiers(&self) -> impl Iterator<Item = Tier<'_>> {
        let (all, tiers): (_, &[Places]) = match &self.ready {
            Ready::All => (Some(None), &[]),
            Ready::Tiers(tiers) => (None, tiers),
        };
        all.into_iter()
            .chain(tiers.iter().map(Some))
            .map(|places| Tier {
                members: &self.members,
                places,
            })
    }

    pub(super) fn slow_start(&self) -> Option<&SlowStart> {
        self.slow_start.as_ref()
    }

    /// The slow start of those that have come since the last time begins; that of one which was away
    /// will begin anew.
    pub(super) fn begin_slow_starts(&self, now: Duration) {
        for member in &self.members {
            if usefulness(&member.endpoint) == 0 {
                member.state.since.store(0, Ordering::Relaxed);
            } else if member.state.since.load(Ordering::Relaxed) == 0 {
                member.state.begin(now);
            }
        }
    }

    /// The table of the `nth` tier, where the strategy has one.
    pub(super) fn table(&self, nth: usize) -> Option<&Table> {
        self.tables.as_ref()?.of(nth)
    }

    pub(super) fn eject(&self) -> &EjectPolicy {
        &self.eject
    }

    pub(super) fn limits(&self) -> RequestLimits {
        self.limits
    }

    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    pub(super) fn health(&self) -> &Arc<SetHealth<Self>> {
        &self.health
    }
}

/// Leaves one endpoint of each place.
fn unique(endpoints: impl IntoIterator<Item = Endpoint>) -> Vec<Endpoint> {
    let all: Vec<_> = endpoints.into_iter().collect();
    // For each place the endpoint that stays, and where in the order.
    let mut best: HashMap<_, (usize, usize)> = HashMap::new();
    let mut places = 0;
    for (n, endpoint) in all.iter().enumerate() {
        match best.entry(endpoint.place()) {
            Entry::Vacant(new) => {
                new.insert((places, n));
                places += 1;
            }
            Entry::Occupied(mut known) => {
                let (_, stays) = known.get_mut();
                if usefulness(endpoint) > usefulness(&all[*stays]) {
                    *stays = n;
                }
            }
        }
    }
    let mut order: Vec<_> = best.into_values().collect();
    order.sort_unstable();
    let mut all: Vec<_> = all.into_iter().map(Some).collect();
    order.iter().filter_map(|(_, n)| all[*n].take()).collect()
}

/// How much an endpoint can take: new requests, what comes while it terminates, nothing.
fn usefulness(endpoint: &Endpoint) -> u8 {
    let Conditions {
        ready,
        serving,
        terminating,
    } = endpoint.conditions;
    match (ready && !terminating, serving && terminating) {
        _ if endpoint.weight == 0 => 0,
        (true, _) => 2,
        (_, true) => 1,
        _ => 0,
    }
}

impl Default for EndpointSet {
    fn default() -> Self {
        Self::build([], None)
    }
}

// === impl Ready ===

impl Ready {
    fn of(members: &[Member]) -> Self {
        let by = |wanted: fn(&Conditions) -> bool| -> Vec<(u32, &Endpoint)> {
            (0..)
                .zip(members)
                .map(|(place, m)| (place, &m.endpoint))
                .filter(|(_, e)| e.weight > 0 && wanted(&e.conditions))
                .collect()
        };
        let mut ready = by(|c| c.ready && !c.terminating);
        if ready.is_empty() {
            ready = by(|c| c.serving && c.terminating);
        }
        // Stable, so that within a tier the order is that of the set.
        ready.sort_by_key(|(_, endpoint)| endpoint.priority);
        let tiers: Box<[Places]> = ready
            .chunk_by(|(_, a), (_, b)| a.priority == b.priority)
            .map(Places::of)
            .collect();
        match &*tiers {
            [only] if only.members.len() == members.len() && only.weights.is_empty() => Self::All,
            _ => Self::Tiers(tiers),
        }
    }
}

// === impl Places ===

impl Places {
    fn of(tier: &[(u32, &Endpoint)]) -> Self {
        let mut sum = 0;
        let weights = tier.iter().map(|(_, endpoint)| {
            sum += u64::from(endpoint.weight);
            sum
        });
        let equal = tier
            .windows(2)
            .all(|two| two[0].1.weight == two[1].1.weight);
        Self {
            heaviest: { tier.iter().map(|(_, endpoint)| endpoint.weight).max() }.unwrap_or(1),
            members: tier.iter().map(|(place, _)| *place).collect(),
            weights: if equal {
                Box::default()
            } else {
                weights.collect()
            },
        }
    }
}

// === impl Tier ===

impl<'a> Tier<'a> {
    pub(super) fn len(self) -> usize {
        self.places
            .map_or(self.members.len(), |places| places.members.len())
    }

    /// The place in the set of the tier's `nth` member.
    pub(super) fn place(self, nth: usize) -> Option<usize> {
        match self.places {
            None => (nth < self.members.len()).then_some(nth),
            Some(places) => places.members.get(nth).map(|place| *place as usize),
        }
    }

    pub(super) fn member(self, nth: usize) -> Option<&'a Member> {
        self.members.get(self.place(nth)?)
    }

    /// The weight of a member, which is only read where weights differ.
    pub(super) fn weight(self, nth: usize) -> u32 {
        match self.places {
            Some(places) if !places.weights.is_empty() => {
                self.member(nth).map_or(1, |m| m.endpoint.weight)
            }
            _ => 1,
        }
    }

    /// The largest weight; 1 if they are equal.
    pub(super) fn heaviest(self) -> u32 {
        let weighed = self.places.filter(|places| !places.weights.is_empty());
        weighed.map_or(1, |places| places.heaviest)
    }

    /// A member drawn in proportion to the weights.
    pub(super) fn sample(self, draw: &mut Draw) -> usize {
        match self.places.map(|places| &*places.weights) {
            None | Some([]) => draw.index(self.len()),
            Some(weights) => {
                let drawn = draw.below(weights.last().copied().unwrap_or_default());
                weights.partition_point(|sum| *sum <= drawn)
            }
        }
    }
}
