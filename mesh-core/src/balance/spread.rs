//! How requests are spread over localities, pure.
//!
//! In come where this process is and where each endpoint is, and how many of each tier are well; out
//! come the tiers and the share of requests that each takes. Near endpoints take all as long as they
//! are well enough; what is too much for them is sent to those that are farther away (Envoy,
//! "Priority levels" and "Zone aware routing"). It decides when a set is made and when an endpoint is
//! ejected or returns, never for a request.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use super::strategy::InvalidStrategy;
use crate::model::{Distribution, Endpoint, Locality};

/// All requests.
pub(super) const WHOLE: u32 = 1 << 16;
/// How much a tier can take of what it would if all of it were well: Envoy's factor of overprovisioning.
const OVERPROVISIONED: (u64, u64) = (14, 10);
/// The fewest endpoints that are split by zone, as Envoy has it.
const FEWEST: u32 = 6;

/// What is near (`failoverPriority` names them by labels).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Level {
    /// The same node (`kubernetes.io/hostname`).
    Node,
    /// The same region (`topology.kubernetes.io/region`).
    Region,
    /// The same zone (`topology.kubernetes.io/zone`).
    Zone,
}

/// Which endpoints take the requests of this process, by where they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Nearness {
    /// All alike, wherever they are.
    #[default]
    Anywhere,
    /// Near ones first (`localityLbSetting`, and `trafficDistribution` of a Service).
    Prefer(Preference),
    /// Those of the same zone, but for what would be more than their part (`zoneAwareLbSetting`).
    ZoneAware(ZoneAware),
}

/// Levels in order: an endpoint is the nearer the more of them it shares with this process, from the
/// first on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Preference(Box<[Level]>);

/// How zones are kept even. Each zone takes as much in all as its part of the endpoints; its own
/// callers come first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ZoneAware {
    fewest: u32,
    /// How many callers are in each zone, in order of zones; empty if they are as many in each.
    callers: Box<[(Arc<str>, u32)]>,
}

/// What a tier is among those of its set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// The explicit tier: a higher one is used only while all lower ones have nothing to offer.
    pub(super) priority: u32,
    /// How far away it is.
    pub(super) rank: usize,
    /// The weights of all of its endpoints, ready or not.
    pub(super) all: u64,
    /// The zone that it is of, where zones are kept even.
    pub(super) zone: Option<Zone>,
    /// What it is called.
    pub(super) name: Arc<str>,
}

/// A zone whose share is kept even.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Zone {
    /// Whether this process is in it.
    pub(super) own: bool,
    /// Its callers.
    pub(super) callers: u64,
}

/// The callers of the zone that this process is in, and of all zones.
pub(super) type Callers = (u64, u64);

/// How near the endpoints of one set are to this process.
pub(super) struct Near<'a> {
    to: &'a Nearness,
    own: &'a Locality,
    /// Whether endpoints are of the zones that they are meant for.
    hinted: bool,
}

/// What the tier of an endpoint is made by, in order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key<'a> {
    priority: u32,
    rank: usize,
    /// Whether it is another zone than the own one, and the zone, where zones are kept even.
    zone: Option<(bool, &'a str)>,
}

// === impl Level ===

impl Level {
    /// Its label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Node => "kubernetes.io/hostname",
            Self::Region => "topology.kubernetes.io/region",
            Self::Zone => "topology.kubernetes.io/zone",
        }
    }
}

/// For a person: `zone`.
impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Region => "region",
            Self::Zone => "zone",
        })
    }
}

// === impl Nearness ===

impl From<Distribution> for Nearness {
    fn from(distribution: Distribution) -> Self {
        Self::Prefer(Preference(match distribution {
            Distribution::SameNode => [Level::Region, Level::Zone, Level::Node].into(),
            Distribution::SameZone => [Level::Region, Level::Zone].into(),
        }))
    }
}

// === impl Preference ===

impl Preference {
    /// Prefers by these levels.
    ///
    /// ```
    /// use inmesh_core::balance::{Level, Preference};
    /// assert!(Preference::new([Level::Region, Level::Zone]).is_ok());
    /// assert!(Preference::new([Level::Zone, Level::Zone]).is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidStrategy`] if `levels` is empty or repeats a level.
    pub fn new(levels: impl IntoIterator<Item = Level>) -> Result<Self, InvalidStrategy> {
        let levels: Box<[Level]> = levels.into_iter().collect();
        if levels.is_empty() {
            return Err(InvalidStrategy::new(
                "without a level nothing is preferred".into(),
            ));
        }
        for (n, level) in levels.iter().enumerate() {
            if levels.iter().take(n).any(|earlier| earlier == level) {
                return Err(InvalidStrategy::new(format!(
                    "{} stands twice",
                    level.label()
                )));
            }
        }
        Ok(Self(levels))
    }

    /// The levels.
    pub fn levels(&self) -> &[Level] {
        &self.0
    }

    /// How far away an endpoint is: how many levels it does not share, from the first of those on.
    pub(super) fn rank(&self, own: &Locality, of: &Locality, hinted: bool) -> usize {
        let shared = self
            .0
            .iter()
            .take_while(|level| shares(**level, own, of, hinted));
        self.0.len() - shared.count()
    }

    /// What a rank is called.
    pub(super) fn name(&self, rank: usize) -> Arc<str> {
        let shared = self.0.len().saturating_sub(rank);
        match shared.checked_sub(1).and_then(|last| self.0.get(last)) {
            Some(level) => level.to_string().into(),
            None => "elsewhere".into(),
        }
    }
}

// === impl ZoneAware ===

impl ZoneAware {
    /// Zones of a Service with so many endpoints that are ready (`minClusterSize`); with fewer all are
    /// alike. There are as many callers in each zone.
    pub fn new(fewest: u32) -> Self {
        Self {
            fewest,
            callers: Box::default(),
        }
    }

    /// The same with so many callers in each zone (`callers`); a zone that is not named has none.
    ///
    /// ```
    /// use inmesh_core::balance::ZoneAware;
    /// assert!(ZoneAware::default().with_callers([("a".into(), 3), ("b".into(), 1)]).is_ok());
    /// assert!(ZoneAware::default().with_callers([("a".into(), 0)]).is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidStrategy`] if `callers` repeats a zone, or no zone has any.
    pub fn with_callers(
        mut self,
        callers: impl IntoIterator<Item = (Arc<str>, u32)>,
    ) -> Result<Self, InvalidStrategy> {
        let mut callers: Vec<_> = callers.into_iter().collect();
        callers.sort();
        if let Some(two) = callers.windows(2).find(|two| two[0].0 == two[1].0) {
            return Err(InvalidStrategy::new(format!(
                "zone {} stands twice",
                two[0].0
            )));
        }
        if callers.iter().all(|(_, callers)| *callers == 0) {
            return Err(InvalidStrategy::new("no zone has callers".into()));
        }
        self.callers = callers.into();
        Ok(self)
    }

    /// The fewest endpoints that are split.
    pub fn fewest(&self) -> u32 {
        self.fewest
    }

    /// The callers of each zone; empty if they are as many in each.
    pub fn callers(&self) -> &[(Arc<str>, u32)] {
        &self.callers
    }

    /// The callers of a zone.
    pub(super) fn of(&self, zone: &str) -> u64 {
        if self.callers.is_empty() {
            return 1;
        }
        let found = self.callers.iter().find(|(of, _)| **of == *zone);
        found.map_or(0, |(_, callers)| u64::from(*callers))
    }
}

/// From 6 endpoints on, as Envoy has it.
impl Default for ZoneAware {
    fn default() -> Self {
        Self::new(FEWEST)
    }
}

// === impl Near ===

impl<'a> Near<'a> {
    /// `None` where nothing can set the endpoints apart.
    pub(super) fn of(
        to: &'a Nearness,
        own: &'a Locality,
        ready: &[(u32, &Endpoint)],
    ) -> Option<Self> {
        let places = || ready.iter().map(|(_, endpoint)| &*endpoint.locality);
        let hinted = match to {
            Nearness::Anywhere => return None,
            Nearness::Prefer(_) if own.is_unknown() => return None,
            // Kubernetes takes hints only if each endpoint has them, and one is for the zone.
            Nearness::Prefer(_) => {
                let meant = |of: &Locality| of.hints.contains(&own.zone);
                places().all(|of| !of.hints.is_empty()) && places().any(meant)
            }
            Nearness::ZoneAware(by) => {
                let few = u32::try_from(ready.len()).is_ok_and(|ready| ready < by.fewest);
                if few || own.zone.is_empty() {
                    return None;
                }
                false
            }
        };
        Some(Self { to, own, hinted })
    }

    pub(super) fn key(&self, endpoint: &'a Endpoint) -> Key<'a> {
        let (own, of, priority) = (self.own, &*endpoint.locality, endpoint.priority);
        let (rank, zone) = match self.to {
            Nearness::Anywhere => (0, None),
            Nearness::Prefer(by) => (by.rank(own, of, self.hinted), None),
            Nearness::ZoneAware(_) if is_elsewhere(own, of) => (1, None),
            Nearness::ZoneAware(_) => (0, Some((of.zone != own.zone, &*of.zone))),
        };
        Key {
            priority,
            rank,
            zone,
        }
    }

    /// What each tier is, of the first endpoint of each and of all that might be well.
    pub(super) fn parts<'t>(
        &self,
        tiers: impl Iterator<Item = &'t (u32, &'a Endpoint)>,
        all: &[(u32, &'a Endpoint)],
    ) -> Box<[Part]>
    where
        'a: 't,
    {
        let mut sums: HashMap<Key<'_>, u64> = HashMap::new();
        for (_, endpoint) in all {
            *sums.entry(self.key(endpoint)).or_default() += u64::from(endpoint.weight);
        }
        let part = |(_, endpoint): &(u32, &'a Endpoint)| {
            let key = self.key(endpoint);
            Part {
                priority: key.priority,
                rank: key.rank,
                all: sums.get(&key).copied().unwrap_or_default(),
                zone: key.zone.map(|(other, zone)| Zone {
                    own: !other,
                    callers: self.callers_of(zone),
                }),
                name: match (self.to, key.zone) {
                    (Nearness::Prefer(by), _) => by.name(key.rank),
                    (_, Some((_, ""))) => "unknown".into(),
                    (_, Some((_, zone))) => zone.into(),
                    (_, None) => "elsewhere".into(),
                },
            }
        };
        tiers.map(part).collect()
    }

    /// The callers of the own zone and of all, with those zones that endpoints are in.
    pub(super) fn callers(&self, all: &[(u32, &Endpoint)]) -> Callers {
        let own = self.callers_of(&self.own.zone);
        let total = match self.to {
            Nearness::ZoneAware(by) if by.callers.is_empty() => {
                let near = all.iter().map(|(_, endpoint)| &*endpoint.locality);
                let near = near.filter(|of| !is_elsewhere(self.own, of));
                let zones = near.map(|of| &of.zone).chain([&self.own.zone]);
                let zones: BTreeSet<_> = zones.filter(|zone| !zone.is_empty()).collect();
                u64::try_from(zones.len()).unwrap_or(u64::MAX)
            }
            Nearness::ZoneAware(by) => by.callers.iter().map(|(_, n)| u64::from(*n)).sum(),
            _ => own,
        };
        (own, total)
    }

    fn callers_of(&self, zone: &str) -> u64 {
        match self.to {
            // Nothing calls from a zone that is not known.
            Nearness::ZoneAware(by) if !zone.is_empty() => by.of(zone),
            _ => 0,
        }
    }
}

/// Whether it is known that an endpoint is in another region.
fn is_elsewhere(own: &Locality, of: &Locality) -> bool {
    !own.region.is_empty() && !of.region.is_empty() && own.region != of.region
}

/// Whether an endpoint shares a level with this process. One that shares a finer one shares it, also
/// where it is not known.
fn shares(level: Level, own: &Locality, of: &Locality, hinted: bool) -> bool {
    let same = |a: &str, b: &str| !a.is_empty() && a == b;
    let node = same(&own.node, &of.node);
    let zone = match hinted {
        true => of.hints.iter().any(|zone| same(&own.zone, zone)),
        false => same(&own.zone, &of.zone) && !is_elsewhere(own, of),
    };
    match level {
        Level::Node => node,
        Level::Zone => zone || node,
        Level::Region => same(&own.region, &of.region) || zone || node,
    }
}

/// What each tier takes of all requests, of [`WHOLE`]; all 0 if none is well. `well` are the weights of
/// the endpoints that are, in order of the parts.
///
/// 1. The first priority that has an endpoint which is well takes all.
/// 2. Of its ranks each can take its healthy share times 1.4, up to all; the first takes what it can,
///    the next what is left. If they cannot take all together, each takes its part of what they can.
/// 3. A rank that is split by zones is shared so that each zone has its part ([`zones`]).
pub(super) fn spread(parts: &[Part], well: &[u64], callers: Callers) -> Vec<u32> {
    let mut out = vec![0; parts.len()];
    let first = parts.iter().zip(well).find(|(_, well)| **well > 0);
    let Some((Part { priority, .. }, _)) = first else {
        return out;
    };
    // The places of each rank of that priority.
    let of_it: Vec<usize> = (0..parts.len())
        .filter(|n| parts[*n].priority == *priority)
        .collect();
    let ranks: Vec<&[usize]> = of_it
        .chunk_by(|a, b| parts[*a].rank == parts[*b].rank)
        .collect();
    let sums = ranks.iter().map(|places| {
        let sum = |of: &dyn Fn(usize) -> u64| places.iter().map(|n| of(*n)).sum::<u64>();
        (sum(&|n| well[n]), sum(&|n| parts[n].all))
    });
    let sums: Vec<(u64, u64)> = sums.collect();
    for (places, share) in ranks.iter().zip(overflow(&sums)) {
        let split = zones(parts, places, well, callers);
        let mut left = share;
        for (n, part) in places.iter().zip(&split) {
            out[*n] = portion(share, *part, u64::from(WHOLE));
            left -= out[*n];
        }
        // What rounding leaves: to the first that takes something.
        if let Some(n) = places
            .iter()
            .zip(&split)
            .find(|(_, part)| **part > 0)
            .map(|(n, _)| *n)
        {
            out[n] += left;
        }
    }
    out
}

/// What each rank takes, of those that are well and all of its endpoints: sums to [`WHOLE`].
fn overflow(ranks: &[(u64, u64)]) -> Vec<u32> {
    let (factor, of) = OVERPROVISIONED;
    let able = |(well, all): &(u64, u64)| {
        let able = u128::from(*well) * u128::from(factor) * u128::from(WHOLE);
        let able = able.checked_div(u128::from(*all) * u128::from(of));
        u32::try_from(able.unwrap_or_default()).map_or(WHOLE, |able| able.min(WHOLE))
    };
    let able: Vec<u32> = ranks.iter().map(able).collect();
    let sum: u64 = able.iter().map(|able| u64::from(*able)).sum();
    let together = sum.min(u64::from(WHOLE));
    let mut left = WHOLE;
    let mut out: Vec<u32> = able
        .iter()
        .map(|able| {
            let share = portion(WHOLE, u64::from(*able), together).min(left);
            left -= share;
            share
        })
        .collect();
    if let Some(first) = out.iter_mut().find(|share| **share > 0) {
        *first += left;
    }
    out
}

/// How one rank is shared among its tiers, of [`WHOLE`].
///
/// With the part of endpoints and of callers that each zone has: where the own zone's part of the
/// endpoints is at least that of the callers, it takes all. Else it takes as much as keeps it even, and
/// the rest goes to the zones that have more endpoints than callers, by how much they have more.
fn zones(parts: &[Part], places: &[usize], well: &[u64], (own, callers): Callers) -> Vec<u64> {
    let whole = u64::from(WHOLE);
    if let [_] = places {
        return vec![whole];
    }
    let sum: u128 = places.iter().map(|n| u128::from(well[*n])).sum();
    let (own, callers) = (u128::from(own), u128::from(callers));
    let mine = |n: &usize| parts[*n].zone.is_some_and(|zone| zone.own);
    let local: u128 = places
        .iter()
        .filter(|n| mine(n))
        .map(|n| u128::from(well[*n]))
        .sum();
    // The own zone's part of the endpoints over that of the callers.
    let (kept, of) = (local * callers, own * sum);
    let residual = |n: &usize| match parts[*n].zone {
        Some(zone) if !zone.own => {
            let (has, needs) = (
                u128::from(well[*n]) * callers,
                u128::from(zone.callers) * sum,
            );
            has.saturating_sub(needs)
        }
        _ => 0,
    };
    let spare: u128 = places.iter().map(residual).sum();
    let share = |n: &usize| -> u128 {
        let whole = u128::from(whole);
        match (mine(n), kept >= of || spare == 0) {
            (true, true) if kept > 0 => whole,
            (false, true) if kept > 0 => 0,
            // Nothing there is in the own zone, and none has more than its callers need.
            (_, true) => (u128::from(well[*n]) * whole)
                .checked_div(sum)
                .unwrap_or_default(),
            (true, false) => kept * whole / of,
            (false, false) => (of - kept) * whole / of * residual(n) / spare,
        }
    };
    places
        .iter()
        .map(|n| u64::try_from(share(n)).unwrap_or_default())
        .collect()
}

/// A part of a share, rounded down.
fn portion(share: u32, part: u64, of: u64) -> u32 {
    let portion = (u128::from(share) * u128::from(part)).checked_div(u128::from(of));
    u32::try_from(portion.unwrap_or_default()).unwrap_or(share)
}
