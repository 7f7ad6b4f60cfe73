//! Tables that lead from a hash to an endpoint, pure: a ring of points and Maglev's slots.
//!
//! In come the names and weights of a tier's members, out comes a table, which is made once for them
//! and shared by all sets that have the same. An endpoint that may not be chosen leaves its keys to
//! those that follow in the table, and gets them back. Both are bounded by the size that was asked for.

use std::sync::Arc;

use super::decide::{Availability, LoadView};
use super::strategy::HashTable;
use crate::model::mix;

/// What sets the two numbers apart that are taken from a name.
const SKIP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The tables of a set, one for each tier.
#[derive(Debug)]
pub(super) struct Tables {
    kind: HashTable,
    tiers: Box<[Made]>,
}

/// A tier's table, and the members that it was made for.
type Made = (Box<[Named]>, Arc<Table>);

/// A member of a tier: the hash of its name, and its weight.
pub(super) type Named = (u64, u32);

/// One tier's table; places are those in the tier.
#[derive(Debug)]
pub(super) enum Table {
    /// The place of the member that has each slot.
    Maglev(Box<[u32]>),
    /// Points in order, each with the place of its member.
    Ring(Box<[(u64, u32)]>),
}

// === impl Tables ===

impl Tables {
    /// The tables for the tiers, those of `before` where nothing has changed; `None` where a strategy
    /// needs none.
    pub(super) fn build(
        kind: HashTable,
        tiers: impl Iterator<Item = Box<[Named]>>,
        before: Option<&Arc<Self>>,
    ) -> Option<Arc<Self>> {
        if kind == HashTable::Rendezvous {
            return None;
        }
        let before = before.filter(|before| before.kind == kind);
        let known = |named: &[Named]| {
            let mut tiers = before?.tiers.iter();
            let (_, table) = tiers.find(|(of, _)| **of == *named)?;
            Some(Arc::clone(table))
        };
        let tiers: Box<[Made]> = tiers
            .map(|named| {
                let table = known(&named).unwrap_or_else(|| Arc::new(Table::of(kind, &named)));
                (named, table)
            })
            .collect();
        match before {
            Some(before) if before.same(&tiers) => Some(Arc::clone(before)),
            _ => Some(Arc::new(Self { kind, tiers })),
        }
    }

    /// What its tables are.
    pub(super) fn kind(&self) -> HashTable {
        self.kind
    }

    /// The table of the `nth` tier.
    pub(super) fn of(&self, nth: usize) -> Option<&Table> {
        self.tiers.get(nth).map(|(_, table)| &**table)
    }

    fn same(&self, tiers: &[Made]) -> bool {
        let pairs = self.tiers.iter().zip(tiers);
        self.tiers.len() == tiers.len() && { pairs }.all(|(a, b)| Arc::ptr_eq(&a.1, &b.1))
    }
}

// === impl Table ===

impl Table {
    pub(super) fn of(kind: HashTable, named: &[Named]) -> Self {
        match kind {
            HashTable::Maglev(size) => Self::Maglev(maglev(named, size.slots())),
            HashTable::Ring(size) => Self::Ring(ring(named, size.points())),
            HashTable::Rendezvous => Self::Ring(Box::default()),
        }
    }

    /// The endpoint that a key leads to or, if that may not be chosen, the next in the table that may.
    pub(super) fn choose(&self, view: &impl LoadView, key: u64) -> Option<usize> {
        let key = mix(key);
        let (start, len) = match self {
            Self::Maglev(slots) => {
                let len = u64::try_from(slots.len()).unwrap_or(u64::MAX);
                (key.checked_rem(len)?, slots.len())
            }
            Self::Ring(points) => {
                let next = points.partition_point(|(at, _)| *at < key);
                (u64::try_from(next).unwrap_or_default(), points.len())
            }
        };
        let start = usize::try_from(start).unwrap_or_default();
        let member = |n: usize| match self {
            Self::Maglev(slots) => slots[n],
            Self::Ring(points) => points[n].1,
        };
        let places = (0..len).map(|n| member((start + n) % len) as usize);
        let mut ready = places
            .filter(|place| *place < view.len())
            .filter(|place| view.availability(*place) == Availability::Ready);
        ready.next()
    }
}

/// Maglev's table (Eisenbud et al., NSDI 2016, section 3.4), with weights as Envoy has them.
///
/// 1. Each member has a permutation of the slots, from its name.
/// 2. In turn each takes the next slot of its permutation that is free; a lighter one leaves turns
///    out, so that it has its weight's share of the heaviest one's turns.
fn maglev(named: &[Named], size: u32) -> Box<[u32]> {
    const FREE: u32 = u32::MAX;
    let heaviest = u64::from(named.iter().map(|(_, w)| *w).max().unwrap_or_default());
    if heaviest == 0 {
        return Box::default();
    }
    let slots = u64::from(size);
    // The next slot of each one's permutation, the step to the one after, and what its turns have
    // come to.
    let mut members: Vec<_> = named
        .iter()
        .map(|(name, weight)| {
            let offset = mix(*name) % slots;
            let skip = mix(*name ^ SKIP) % (slots - 1) + 1;
            (offset, skip, u64::from(*weight), 0)
        })
        .collect();
    let mut table = vec![FREE; size as usize].into_boxed_slice();
    let mut left = table.len();
    loop {
        for (place, (next, skip, weight, turns)) in (0..).zip(&mut members) {
            *turns += *weight;
            if *turns < heaviest {
                continue;
            }
            *turns -= heaviest;
            let slot = loop {
                let slot = usize::try_from(*next).unwrap_or_default();
                *next = (*next + *skip) % slots;
                if table[slot] == FREE {
                    break slot;
                }
            };
            table[slot] = place;
            left -= 1;
            if left == 0 {
                return table;
            }
        }
    }
}

/// A ring (Karger et al., 1997) whose points are shared by weight; each member has one at least.
fn ring(named: &[Named], points: u32) -> Box<[(u64, u32)]> {
    let sum: u64 = named.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let mut all: Vec<(u64, u32)> = Vec::new();
    for (place, (name, weight)) in (0..).zip(named) {
        let share = (u64::from(*weight) * u64::from(points)).checked_div(sum);
        let share = share.unwrap_or_default().max(1);
        all.extend((0..share).map(|n| (mix(name ^ mix(n ^ SKIP)), place)));
    }
    all.sort_unstable();
    all.into_boxed_slice()
}
