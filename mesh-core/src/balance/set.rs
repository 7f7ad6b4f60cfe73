//! The endpoints of one port of a Service, each with its state, in tiers of preference.
//!
//! An [`EndpointState`] (load, health, the slot of its connections) lives as long as its endpoint
//! does: a set takes over the states of the set before it, and the tables of its hash.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;

use super::eject::EjectPolicy;
use super::health::SetHealth;
#[cfg(feature = "runtime")]
use super::limits::PortState;
use super::limits::RequestLimits;
use super::share::SlowStart;
use super::spread::Nearness;
use super::state::{EndpointState, Member};
use super::strategy::{HashTable, Strategy};
use super::table::{Table, Tables};
use super::tiers::{Ready, Spread, Tier, TierShare};
use crate::model::{Conditions, Endpoint, Locality};

/// The endpoints of one port of one Service. What each choice reads comes first.
#[derive(Debug, Clone)]
#[repr(C)]
pub struct EndpointSet {
    members: Box<[Member]>,
    ready: Ready,
    health: Arc<SetHealth<Self>>,
    /// How many sets it has replaced, and one.
    serial: u64,
    limits: RequestLimits,
    /// Whether endpoints are checked, so that one may be out that has not failed.
    checked: bool,
    /// What each tier takes, where endpoints are preferred by where they are.
    spread: Option<Arc<Spread>>,
    slow_start: Option<Box<SlowStart>>,
    /// What ejects them; `None` is the default.
    eject: Option<Box<EjectPolicy>>,
    /// What leads from a hash to an endpoint, where a strategy has tables.
    tables: Option<Arc<Tables>>,
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
        let health = before.map_or_else(Arc::default, |set| Arc::clone(&set.health));
        let members = members(endpoints.into_iter().collect(), before, &health);
        Self {
            ready: Ready::of(&members, None).0,
            spread: None,
            members,
            health,
            serial: before.map_or(1, |set| set.serial + 1),
            tables: before.and_then(|set| set.tables.clone()),
            limits: RequestLimits::default(),
            slow_start: None,
            eject: None,
            checked: false,
        }
    }

    /// The same set whose endpoints are preferred by where they are, for a process that is at that
    /// place. Where nothing sets them apart, it is as without.
    ///
    /// ```
    /// use inmesh_core::balance::{EndpointSet, Level, Nearness, Preference};
    /// use inmesh_core::model::{Endpoint, Locality, Transport};
    /// let endpoint = |n, zone| {
    ///     let endpoint = Endpoint::new(([10, 0, 0, n], 80).into(), Transport::Plain);
    ///     endpoint.with_locality(Locality::default().in_zone(zone).into())
    /// };
    /// let zone = Nearness::Prefer(Preference::new([Level::Zone])?);
    /// let set = EndpointSet::build([endpoint(1, "a"), endpoint(2, "b")], None);
    /// let set = set.with_nearness(&zone, &Locality::default().in_zone("b"));
    /// let shares = set.shares();
    /// assert_eq!((&*shares[0].name, shares[0].permille), ("zone", 1_000));
    /// # Ok::<(), inmesh_core::balance::InvalidStrategy>(())
    /// ```
    #[must_use]
    pub fn with_nearness(mut self, nearness: &Nearness, own: &Locality) -> Self {
        if *nearness == Nearness::Anywhere || own.is_unknown() {
            return self;
        }
        let (ready, spread) = Ready::of(&self.members, Some((nearness, own)));
        if spread.is_none() {
            return self;
        }
        (self.ready, self.spread) = (ready, spread.map(Arc::new));
        // Each tier has a table.
        if let Some(kind) = self.tables.as_ref().map(|tables| tables.kind()) {
            self.tables = self.tables_of(kind);
        }
        self.respread();
        self
    }

    /// The same set with the tables that a strategy needs: those that it has, where its members are
    /// those that they were made for.
    #[must_use]
    pub fn with_strategy(mut self, strategy: &Strategy) -> Self {
        self.tables = self.tables_of(strategy.table());
        self
    }

    fn tables_of(&self, kind: HashTable) -> Option<Arc<Tables>> {
        let named = |tier: Tier<'_>| {
            let members = (0..tier.len()).filter_map(|nth| tier.member(nth));
            members
                .map(|m| (m.endpoint.name_hash(), m.endpoint.weight))
                .collect()
        };
        Tables::build(kind, self.tiers().map(named), self.tables.as_ref())
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
        self.slow_start = slow_start.map(Box::new);
        self
    }

    /// The same set whose endpoints are ejected by another policy.
    #[must_use]
    pub fn with_eject(mut self, policy: EjectPolicy) -> Self {
        self.eject = (policy != EjectPolicy::DEFAULT).then(|| Box::new(policy));
        self.respread();
        self
    }

    /// The same set whose endpoints are checked, or are not.
    #[must_use]
    pub fn with_checks(mut self, checked: bool) -> Self {
        self.checked = checked;
        self.respread();
        self
    }

    /// Notes what checks of an endpoint have found; it is out while it is not well.
    pub fn mark(&self, state: &EndpointState, well: bool) {
        state.health.set_unwell(!well);
        self.respread();
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
        (self.checked || self.health.may_be_out())
            && self.eject().panics(self.ejected_len(), self.ready_len())
    }

    /// Whether one more may be ejected.
    pub(super) fn has_room(&self) -> bool {
        self.ejected_len() < self.eject().allowed(self.ready_len())
    }

    /// The places in [`members`](Self::members) of those that may be chosen from.
    pub(super) fn ready_places(&self) -> impl Iterator<Item = usize> {
        self.tiers()
            .flat_map(|tier| (0..tier.len()).filter_map(move |nth| tier.place(nth)))
    }

    /// The tiers, preferred first.
    pub(super) fn tiers(&self) -> impl Iterator<Item = Tier<'_>> {
        self.ready.tiers(&self.members)
    }

    /// What each tier takes of the requests, where endpoints are preferred by where they are; empty
    /// where they are not.
    pub fn shares(&self) -> Vec<TierShare> {
        let tiers = self.tiers().map(Tier::len);
        self.spread
            .as_ref()
            .map_or_else(Vec::new, |spread| spread.shares(tiers))
    }

    /// The place in [`shares`](Self::shares) of each member's tier, where it may be chosen from.
    pub fn tier_of(&self) -> Vec<Option<usize>> {
        let mut of = vec![None; self.members.len()];
        for (n, tier) in self.tiers().enumerate() {
            let places = (0..tier.len()).filter_map(|nth| tier.place(nth));
            places.for_each(|place| of[place] = Some(n));
        }
        of
    }

    /// What leads requests to tiers, where endpoints are preferred by where they are.
    pub(super) fn spread(&self) -> Option<&Spread> {
        self.spread.as_deref()
    }

    /// An endpoint was ejected, or is back: each tier takes what it can.
    pub(super) fn respread(&self) {
        let Some(spread) = &self.spread else {
            return;
        };
        let panic = self.is_panicking();
        let well = |tier: Tier<'_>| {
            let members = (0..tier.len()).filter_map(|nth| tier.member(nth));
            let well = members.filter(|m| panic || !m.state.is_ejected());
            well.map(|m| u64::from(m.endpoint.weight)).sum()
        };
        spread.update(&self.tiers().map(well).collect::<Vec<u64>>());
    }

    /// All members, where nothing is preferred and each takes its share.
    #[inline]
    pub(super) fn alike(&self) -> Option<&[Member]> {
        let alike = matches!(self.ready, Ready::All) && self.slow_start.is_none();
        // With all in one tier there are no shares of tiers.
        alike.then_some(&*self.members)
    }

    pub(super) fn slow_start(&self) -> Option<&SlowStart> {
        self.slow_start.as_deref()
    }

    /// The slow start of those that have come since the last time begins; that of one which was away
    /// will begin anew.
    pub(super) fn begin_slow_starts(&self, now: Duration) {
        for member in &self.members {
            if usefulness(&member.endpoint) == 0 {
                member.state.forget_start();
            } else {
                member.state.begin_once(now);
            }
        }
    }

    /// The table of the `nth` tier, where the strategy has one.
    pub(super) fn table(&self, nth: usize) -> Option<&Table> {
        self.tables.as_ref()?.of(nth)
    }

    pub(super) fn eject(&self) -> &EjectPolicy {
        self.eject.as_deref().unwrap_or(&EjectPolicy::DEFAULT)
    }

    pub(super) fn limits(&self) -> RequestLimits {
        self.limits
    }

    /// What bounds the connections to its endpoints.
    #[cfg(feature = "runtime")]
    pub(crate) fn port(&self) -> &PortState {
        self.health.port()
    }

    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    /// Whether an endpoint says that it has too much to do.
    #[cfg(any(feature = "runtime", feature = "simulate"))]
    pub(crate) fn is_shedding(&self, now: Duration) -> bool {
        self.health.sheds(now)
    }

    pub(super) fn health(&self) -> &Arc<SetHealth<Self>> {
        &self.health
    }
}

/// Endpoints with their states: those of the set before, where it had them.
fn members(
    endpoints: Vec<Endpoint>,
    before: Option<&EndpointSet>,
    health: &SetHealth<EndpointSet>,
) -> Box<[Member]> {
    let known = before.map_or(&[][..], EndpointSet::members);
    // Mostly no more has changed than whether one is ready.
    let places = known.iter().map(|m| m.endpoint.place());
    if places.eq(endpoints.iter().map(Endpoint::place)) {
        let states = known.iter().map(|m| Arc::clone(&m.state));
        let members = endpoints.into_iter().zip(states);
        return members
            .map(|(endpoint, state)| Member { endpoint, state })
            .collect();
    }
    let known: HashMap<_, _, RandomState> = known
        .iter()
        .map(|m| (m.endpoint.place(), &m.state))
        .collect();
    let members = unique(endpoints).into_iter().map(|endpoint| {
        let state = known.get(&endpoint.place()).map(|state| Arc::clone(state));
        let state = state.unwrap_or_else(|| {
            let port = Arc::clone(health.port());
            Arc::new(EndpointState::new(port))
        });
        Member { endpoint, state }
    });
    members.collect()
}

/// Leaves one endpoint of each place.
fn unique(all: Vec<Endpoint>) -> Vec<Endpoint> {
    // For each place the endpoint that stays, and where in the order.
    let mut best: HashMap<_, (usize, usize), RandomState> = HashMap::default();
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
