//! The tiers of a set: which members may be chosen from, in order of preference.
//!
//! In come the members, where this process is and what is near to it; out come lists of places, made
//! once for a set. With a preference by locality there are shares besides, which change when an endpoint
//! is ejected or returns.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::spread::{Callers, Near, Nearness, Part, WHOLE, spread};
use super::state::Member;
use crate::model::{Conditions, Draw, Endpoint, Locality};

/// The members that may be chosen from.
#[derive(Debug, Clone)]
pub(super) enum Ready {
    /// All, in one tier and with equal weights: the common case, in which no list of places stands
    /// between a choice and a member.
    All,
    /// Those in these places, tier by tier, preferred first.
    Tiers(Box<[Places]>),
}

/// The places of one tier's members in their set.
#[derive(Debug, Clone)]
pub(super) struct Places {
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

/// What each tier takes, of tiers that stand in the order of their set.
#[derive(Debug)]
pub(super) struct Spread {
    parts: Box<[Part]>,
    callers: Callers,
    /// Where the share of each tier ends, of [`WHOLE`].
    ends: Box<[AtomicU32]>,
}

/// What a tier takes of the requests.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TierShare {
    /// What its endpoints share with this process, `elsewhere` if nothing, or their zone where zones are
    /// kept even.
    pub name: Arc<str>,
    /// Its endpoints' priority: a higher one is used only while all lower ones have nothing to offer.
    pub priority: u32,
    /// How many endpoints it has that may be chosen from, ejected ones included.
    pub endpoints: usize,
    /// Its share of the requests, in thousandths.
    pub permille: u32,
}

// === impl Ready ===

impl Ready {
    /// The tiers of members and, where near ones are preferred and something sets them apart, what each
    /// takes.
    pub(super) fn of(
        members: &[Member],
        near: Option<(&Nearness, &Locality)>,
    ) -> (Self, Option<Spread>) {
        let by = |wanted: fn(&Conditions) -> bool| -> Vec<(u32, &Endpoint)> {
            (0..)
                .zip(members)
                .map(|(place, m)| (place, &m.endpoint))
                .filter(|(_, e)| e.weight > 0 && wanted(&e.conditions))
                .collect()
        };
        let mut ready = by(|c| c.ready && !c.terminating);
        let ends = ready.is_empty();
        if ends {
            ready = by(|c| c.serving && c.terminating);
        }
        let Some(near) = near.and_then(|(to, own)| Near::of(to, own, &ready)) else {
            // Stable, so that within a tier the order is that of the set.
            ready.sort_by_key(|(_, endpoint)| endpoint.priority);
            let tiers = ready.chunk_by(|(_, a), (_, b)| a.priority == b.priority);
            return (Self::made(tiers.map(Places::of), members.len()), None);
        };
        // Those that might be well; one that ends is replaced by another.
        let all = match ends {
            true => ready.clone(),
            false => by(|c| !c.terminating),
        };
        ready.sort_by_key(|(_, endpoint)| near.key(endpoint));
        let tiers = ready.chunk_by(|(_, a), (_, b)| near.key(a) == near.key(b));
        let tiers: Vec<_> = tiers.collect();
        let parts = near.parts(tiers.iter().filter_map(|tier| tier.first()), &all);
        let apart = parts
            .windows(2)
            .any(|two| two[0].priority == two[1].priority);
        let spread = apart.then(|| Spread::new(parts, near.callers(&all)));
        let tiers = tiers.into_iter().map(Places::of);
        (Self::made(tiers, members.len()), spread)
    }

    fn made(tiers: impl Iterator<Item = Places>, len: usize) -> Self {
        let tiers: Box<[Places]> = tiers.collect();
        match &*tiers {
            [only] if only.members.len() == len && only.weights.is_empty() => Self::All,
            _ => Self::Tiers(tiers),
        }
    }

    /// The tiers, preferred first.
    pub(super) fn tiers<'a>(&'a self, members: &'a [Member]) -> impl Iterator<Item = Tier<'a>> {
        let (all, tiers): (_, &[Places]) = match self {
            Self::All => (Some(None), &[]),
            Self::Tiers(tiers) => (None, tiers),
        };
        let places = all.into_iter().chain(tiers.iter().map(Some));
        places.map(move |places| Tier { members, places })
    }
}

// === impl Spread ===

impl Spread {
    fn new(parts: Box<[Part]>, callers: Callers) -> Self {
        Self {
            ends: parts.iter().map(|_| AtomicU32::new(0)).collect(),
            parts,
            callers,
        }
    }

    /// The tier that is asked first, by a number that is uniform in 64 bits.
    pub(super) fn first(&self, drawn: u64) -> usize {
        let at = u32::try_from(drawn >> 48).unwrap_or_default();
        let mut ends = self.ends.iter();
        ends.position(|end| at < end.load(Ordering::Relaxed))
            .unwrap_or(0)
    }

    /// Sets the shares anew. `well` are the weights of each tier's endpoints that are well.
    pub(super) fn update(&self, well: &[u64]) {
        let mut sum = 0;
        for (end, share) in self
            .ends
            .iter()
            .zip(spread(&self.parts, well, self.callers))
        {
            sum += share;
            end.store(sum, Ordering::Relaxed);
        }
    }

    pub(super) fn shares(&self, endpoints: impl Iterator<Item = usize>) -> Vec<TierShare> {
        let mut before = 0;
        let of = self.parts.iter().zip(&self.ends).zip(endpoints);
        let share = |((part, end), endpoints): ((&Part, &AtomicU32), usize)| {
            let end = end.load(Ordering::Relaxed);
            let share = u64::from(end.saturating_sub(before)) * 1_000 + u64::from(WHOLE / 2);
            before = end;
            TierShare {
                name: Arc::clone(&part.name),
                priority: part.priority,
                endpoints,
                permille: u32::try_from(share / u64::from(WHOLE)).unwrap_or_default(),
            }
        };
        of.map(share).collect()
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
