//! Leaves and acknowledgements in, the members without a generation of the bundle out. Pure; the
//! driver enters every leaf before that leaf goes out, and every acknowledgement.
//!
//! A member of the mesh holds a leaf that has not expired. Our own client names itself by a
//! random instance and says which generation it uses; any other client is known by its leaf alone:
//! the leaf came with the bundle of its moment, so the next leaf is its acknowledgement, and one
//! that never comes back drops out when its leaf expires. So every wait ends with a leaf's life.
//!
//! Where several processes issue from one store, none of them has the table of all: the state says until
//! when leaves may be alive that came with an older bundle, and that alone ends a wait.
//!
//! The table is in memory; a process that ends in order leaves it to the next one. What a process
//! issued that died is not in it; until the moment that the state has written down for that
//! (`leaf_until`), unknown members count as missing. The table is bounded; a member that does not fit counts
//! as unknown too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::id::SpiffeId;

/// How many members are kept; further ones are unknown until their leaf expires.
pub(crate) const MAX_MEMBERS: usize = 100_000;

/// The longest name of an instance, in bytes.
pub const MAX_INSTANCE: usize = 64;

/// How many leaves of one member are kept apart.
const MAX_LEAVES: usize = 8;

/// How many generations are kept apart of leaves that did not fit.
const MAX_OVERFLOW: usize = 64;

/// How many live leaves a table may have that is left to the next process.
pub(crate) const MAX_LEFT: usize = 20_000;

/// Makes a moment that is written in whole seconds, rounded down, one that is rounded up.
const ALMOST_A_SECOND: Duration = Duration::from_nanos(999_999_999);

/// The processes that hold leaves of this CA; see the [module](self).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Members {
    known: BTreeMap<Key, Member>,
    unknown_until: Option<SystemTime>,
    /// Leaves that did not fit into the table: the generation that came with them, and when the last
    /// of each ends.
    overflow: BTreeMap<u64, SystemTime>,
    /// Other processes issue at the same time, so the table is never that of all.
    partial: bool,
}

/// What names a member. An instance counts only together with its ID, so that no member can
/// acknowledge in the name of another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Instance(SpiffeId, String),
    Serial(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    id: SpiffeId,
    acknowledged: u64,
    leaves: Vec<Leaf>,
    /// When its last leaf was issued by this process.
    renewed: Option<SystemTime>,
}

/// A leaf that a member was given.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Leaf {
    /// Its serial number, in hexadecimal.
    pub(crate) serial: String,
    /// When it ends.
    #[serde(with = "crate::time::unix")]
    pub(crate) not_after: SystemTime,
    /// The key id of its issuing CA.
    pub(crate) issuer_key_id: String,
    /// The generation of the bundle that came with it.
    pub(crate) generation: u64,
}

/// A member that a step waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Missing {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// Its instance, if it names one; else the serial number of its leaf.
    pub name: String,
    /// The generation that it is known to use.
    pub acknowledged: u64,
    /// When its last leaf ends, and it drops out.
    #[serde(serialize_with = "crate::time::unix::serialize")]
    pub until: SystemTime,
}

/// A live member, for an operator; as JSON, moments are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct MemberStatus {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// Its instance, if it names one; else the serial number of a leaf of it.
    pub name: String,
    /// The generation of the bundle that it surely has.
    pub generation: u64,
    /// When its last leaf was issued; unknown of leaves of an earlier process.
    #[serde(serialize_with = "crate::time::unix_option::serialize")]
    pub renewed: Option<SystemTime>,
    /// When its last leaf ends.
    #[serde(serialize_with = "crate::time::unix::serialize")]
    pub until: SystemTime,
    /// Whether the rotation that is running waits for it.
    pub holds_off: bool,
}

/// A member as it is written down; one without an instance is known by its leaves.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Row {
    id: SpiffeId,
    instance: Option<String>,
    acknowledged: u64,
    leaves: Vec<Leaf>,
}

impl Members {
    /// A table without members, where leaves of an earlier process live until `unknown_until`.
    #[must_use]
    pub(crate) fn new(unknown_until: Option<SystemTime>) -> Self {
        Self {
            known: BTreeMap::new(),
            unknown_until,
            overflow: BTreeMap::new(),
            partial: false,
        }
    }

    /// The same where other processes issue at the same time.
    #[must_use]
    pub(crate) fn of_one_of_several(self) -> Self {
        Self {
            partial: true,
            ..self
        }
    }

    /// Whether other processes issue at the same time.
    #[must_use]
    pub(crate) fn is_partial(&self) -> bool {
        self.partial
    }

    /// Another process may have issued leaves that live until `until`.
    pub(crate) fn expect_unknown(&mut self, until: Option<SystemTime>) {
        self.unknown_until = self.unknown_until.max(until);
    }

    /// A process of `id` is about to get `leaf`; `instance` if it named itself.
    pub(crate) fn issued(&mut self, id: &SpiffeId, instance: Option<&str>, leaf: Leaf) {
        let key = match instance {
            Some(name) => Key::Instance(id.clone(), name.to_owned()),
            None => Key::Serial(leaf.serial.clone()),
        };
        if self.known.len() >= MAX_MEMBERS && !self.known.contains_key(&key) {
            self.overflow(&leaf);
            return;
        }
        let acknowledged = match key {
            Key::Instance(..) => 0,
            Key::Serial(_) => leaf.generation,
        };
        let member = self.known.entry(key).or_insert_with(|| Member {
            id: id.clone(),
            acknowledged,
            leaves: Vec::new(),
            renewed: None,
        });
        member.leaves.push(leaf);
        // A few leaves overlap while one is renewed.
        if member.leaves.len() > MAX_LEAVES {
            member.merge();
        }
    }

    /// The leaf with this serial number was issued to the member at `now`.
    pub(crate) fn note_renewal(
        &mut self,
        id: &SpiffeId,
        instance: Option<&str>,
        serial: &str,
        now: SystemTime,
    ) {
        let key = match instance {
            Some(name) => Key::Instance(id.clone(), name.to_owned()),
            None => Key::Serial(serial.to_owned()),
        };
        if let Some(member) = self.known.get_mut(&key) {
            member.renewed = Some(now);
        }
    }

    fn overflow(&mut self, leaf: &Leaf) {
        let until = self
            .overflow
            .entry(leaf.generation)
            .or_insert(leaf.not_after);
        *until = leaf.not_after.max(*until);
        if self.overflow.len() > MAX_OVERFLOW
            && let Some((oldest, first)) = self.overflow.pop_first()
        {
            // As if all had come with the older one: a wait may only get longer by this.
            let second = self.overflow.pop_first().map_or(first, |(_, until)| until);
            self.overflow.insert(oldest, first.max(second));
        }
    }

    /// The instance says that it uses `generation`; what is not known of it is learned by its
    /// next leaf. It never goes back.
    pub(crate) fn acknowledge(&mut self, id: &SpiffeId, instance: &str, generation: u64) {
        let key = Key::Instance(id.clone(), instance.to_owned());
        if let Some(member) = self.known.get_mut(&key) {
            member.acknowledged = member.acknowledged.max(generation);
        }
    }

    /// Whether a leaf with this serial number is alive, as far as is known.
    #[must_use]
    pub(crate) fn has_serial(&self, serial: &str) -> bool {
        self.known
            .values()
            .any(|member| member.leaves.iter().any(|leaf| leaf.serial == serial))
    }

    /// Forgets leaves that have expired at `now`, and members that have none left.
    pub(crate) fn prune(&mut self, now: SystemTime) {
        for member in self.known.values_mut() {
            member.leaves.retain(|leaf| leaf.not_after >= now);
        }
        self.known.retain(|_, member| !member.leaves.is_empty());
        self.unknown_until = self.unknown_until.filter(|until| *until >= now);
        self.overflow.retain(|_, until| *until >= now);
    }

    /// How many leaves are known.
    #[must_use]
    pub(crate) fn leaves(&self) -> usize {
        self.known.values().map(|member| member.leaves.len()).sum()
    }

    /// The known members as they are written down; leaves end in whole seconds, rounded up.
    pub(super) fn to_rows(&self) -> Vec<Row> {
        let row = |(key, member): (&Key, &Member)| Row {
            id: member.id.clone(),
            instance: match key {
                Key::Instance(_, name) => Some(name.clone()),
                Key::Serial(_) => None,
            },
            acknowledged: member.acknowledged,
            leaves: member
                .leaves
                .iter()
                .map(|leaf| Leaf {
                    not_after: leaf.not_after + ALMOST_A_SECOND,
                    ..leaf.clone()
                })
                .collect(),
        };
        self.known.iter().map(row).collect()
    }

    /// The table that was written down so; a member without a leaf is dropped.
    pub(super) fn from_rows(rows: Vec<Row>, unknown_until: Option<SystemTime>) -> Self {
        let mut known = BTreeMap::new();
        for row in rows {
            let key = match (row.instance, row.leaves.first()) {
                (Some(name), Some(_)) => Key::Instance(row.id.clone(), name),
                (None, Some(leaf)) => Key::Serial(leaf.serial.clone()),
                (_, None) => continue,
            };
            let member = Member {
                id: row.id,
                acknowledged: row.acknowledged,
                leaves: row.leaves,
                renewed: None,
            };
            known.insert(key, member);
        }
        Self {
            known,
            unknown_until,
            overflow: BTreeMap::new(),
            partial: false,
        }
    }

    /// How many members are known.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether no member is known.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Until when there may be members that are not in the table, if that lies ahead of `now`.
    #[must_use]
    pub(crate) fn unknown_until(&self, now: SystemTime) -> Option<SystemTime> {
        self.unknown_without(u64::MAX, now)
    }

    /// The same for those that may use a bundle older than `generation`. A leaf that did not fit came
    /// with the bundle of its moment, so those that follow a new bundle prolong no wait for it.
    #[must_use]
    pub(crate) fn unknown_without(&self, generation: u64, now: SystemTime) -> Option<SystemTime> {
        let older = self
            .overflow
            .range(..generation)
            .map(|(_, until)| *until)
            .max();
        self.unknown_until.max(older).filter(|until| *until >= now)
    }

    /// The same, whether or not that has passed; rounded up when it is written in whole
    /// seconds.
    pub(super) fn unknown_at_all(&self) -> Option<SystemTime> {
        let overflow = self.overflow.values().max().copied();
        let until = self.unknown_until.max(overflow);
        until.map(|until| until + ALMOST_A_SECOND)
    }

    /// The members that may still use a bundle older than `generation`: it has not acknowledged one since, and
    /// holds a live leaf that came with an older one.
    #[must_use]
    pub(crate) fn without(&self, generation: u64, now: SystemTime) -> Vec<Missing> {
        self.missing(now, |member, leaf| {
            member.acknowledged < generation && leaf.generation < generation
        })
    }

    /// The members with a live leaf of the issuing CA `key_id`.
    #[must_use]
    pub(crate) fn under(&self, key_id: &str, now: SystemTime) -> Vec<Missing> {
        self.missing(now, |_, leaf| leaf.issuer_key_id == key_id)
    }

    /// How many [`without`](Self::without) has, without a list of them.
    #[must_use]
    pub(crate) fn count_without(&self, generation: u64, now: SystemTime) -> usize {
        let behind = |member: &Member| {
            let mut leaves = member.leaves.iter();
            member.acknowledged < generation
                && leaves.any(|leaf| leaf.not_after >= now && leaf.generation < generation)
        };
        self.known.values().filter(|member| behind(member)).count()
    }

    /// All that hold a live leaf, those that `missing` names first.
    #[must_use]
    pub(crate) fn list(&self, missing: &[Missing], now: SystemTime) -> Vec<MemberStatus> {
        let missing: BTreeSet<_> = missing.iter().map(|m| (&m.id, m.name.as_str())).collect();
        let mut all: Vec<_> = self
            .known
            .iter()
            .filter_map(|(key, member)| {
                let live = || member.leaves.iter().filter(|leaf| leaf.not_after >= now);
                let came_with = live().map(|leaf| leaf.generation).min()?;
                let name = key.name();
                Some(MemberStatus {
                    id: member.id.clone(),
                    name: name.to_owned(),
                    generation: member.acknowledged.max(came_with),
                    renewed: member.renewed,
                    until: live().map(|leaf| leaf.not_after).max()?,
                    holds_off: missing.contains(&(&member.id, name)),
                })
            })
            .collect();
        all.sort_by_key(|member| !member.holds_off);
        all
    }

    fn missing(&self, now: SystemTime, counts: impl Fn(&Member, &Leaf) -> bool) -> Vec<Missing> {
        self.known
            .iter()
            .filter_map(|(key, member)| {
                let until = member
                    .leaves
                    .iter()
                    .filter(|leaf| leaf.not_after >= now && counts(member, leaf))
                    .map(|leaf| leaf.not_after)
                    .max()?;
                Some(Missing {
                    id: member.id.clone(),
                    name: key.name().to_owned(),
                    acknowledged: member.acknowledged,
                    until,
                })
            })
            .collect()
    }
}

impl Key {
    fn name(&self) -> &str {
        match self {
            Self::Instance(_, name) | Self::Serial(name) => name,
        }
    }
}

impl Member {
    /// Makes one leaf of two: of two with the same issuer and generation the one that ends first is as
    /// good as gone; else the two oldest are one leaf that came with the older bundle and ends with the
    /// later of them. So a member with many leaves is known, and waited for no longer than its leaves live.
    fn merge(&mut self) {
        let mut pairs = (0..self.leaves.len()).flat_map(|b| (0..b).map(move |a| (a, b)));
        let like = pairs.find(|(a, b)| {
            let (a, b) = (&self.leaves[*a], &self.leaves[*b]);
            a.generation == b.generation && a.issuer_key_id == b.issuer_key_id
        });
        let (a, b) = like.unwrap_or((0, 1));
        let second = self.leaves.remove(b);
        let first = &mut self.leaves[a];
        let generation = first.generation.min(second.generation);
        if second.not_after >= first.not_after {
            *first = second;
        }
        first.generation = generation;
    }
}
