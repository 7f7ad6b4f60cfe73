//! What a change has made of its objects: for the log, since a generation alone tells an operator
//! nothing. Pure.

use std::fmt;

use super::change::{Change, Op};
use super::state::{Snapshot, Version, Versions};
use crate::model::{Host, ObjectKey};

/// How many objects are named of each kind of change; the others are counted.
const NAMED: usize = 10;

/// The objects of a change whose serving version has come, has become another, or has gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// They were not there before.
    pub added: Vec<ObjectKey>,
    /// They were there, and are another version now.
    pub changed: Vec<ObjectKey>,
    /// They are no longer there.
    pub removed: Vec<ObjectKey>,
    /// Policies that were refused and never were good: they deny what they select from now on.
    pub denying: Vec<ObjectKey>,
    /// Policies that denied so, and are gone.
    pub released: Vec<ObjectKey>,
    /// Names with other addresses.
    pub resolved: Vec<Host>,
}

/// What a change may touch, to be compared once it is applied.
#[derive(Debug, Clone)]
pub struct Mentioned {
    keys: Vec<ObjectKey>,
    hosts: Vec<Host>,
}

// === impl Mentioned ===

impl Mentioned {
    /// The objects that `change` names, and those that it leaves out where it says that it names all.
    pub fn by(change: &Change, before: &Snapshot) -> Self {
        let mut hosts = Vec::new();
        let mut keys: Vec<_> = Vec::new();
        for op in &change.ops {
            match op {
                Op::Put(object, _) => keys.push(object.key()),
                Op::Refuse(key, ..) | Op::Remove(key) => keys.push(key.clone()),
                Op::Resolve(host, _) => hosts.push(host.clone()),
                // It stays as it is.
                Op::Ask(..) | Op::Document(..) | Op::Forget(..) | Op::Keep(_) => {}
            }
        }
        if change.replace
            && let Some(said) = before.by_source.get(&change.source)
        {
            keys.extend(said.iter().cloned());
        }
        keys.sort_unstable();
        keys.dedup();
        Self { keys, hosts }
    }
}

// === impl Difference ===

impl Difference {
    /// Compares what was mentioned before and after the change.
    pub fn between(before: &Snapshot, after: &Snapshot, mentioned: Mentioned) -> Self {
        let mut difference = Self::default();
        for key in mentioned.keys {
            let good = |snapshot: &Snapshot| {
                let versions = snapshot.objects.get(&key)?;
                Versions::winner(versions)?.good.clone()
            };
            let denies = |snapshot: &Snapshot| {
                let version = snapshot.objects.get(&key).and_then(|all| all.winner());
                version.is_some_and(Version::denies)
            };
            match (good(before), good(after)) {
                (None, Some(_)) => difference.added.push(key),
                (Some(_), None) => difference.removed.push(key),
                (Some(old), Some(new)) if old != new => difference.changed.push(key),
                (None, None) if !denies(before) && denies(after) => difference.denying.push(key),
                (None, None) if denies(before) && !denies(after) => difference.released.push(key),
                _ => {}
            }
        }
        let addresses = |snapshot: &Snapshot, host: &Host| {
            let name = snapshot.names.get(host)?;
            name.addresses.clone()
        };
        let moved = |host: &Host| addresses(before, host) != addresses(after, host);
        difference.resolved = mentioned.hosts.into_iter().filter(moved).collect();
        difference
    }

    /// Whether names were resolved anew, and nothing else.
    pub fn is_of_names_alone(&self) -> bool {
        let objects = [
            &self.added,
            &self.changed,
            &self.removed,
            &self.denying,
            &self.released,
        ];
        !self.resolved.is_empty() && objects.iter().all(|keys| keys.is_empty())
    }
}

/// E.g. `added Service/shop/cart; removed HTTPRoute/shop/a, HTTPRoute/shop/b and 3 more`.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let objects = [
            ("added", &self.added),
            ("changed", &self.changed),
            ("removed", &self.removed),
            ("denying because they are refused:", &self.denying),
            ("no longer denying:", &self.released),
        ];
        let mut first = true;
        for (what, keys) in objects {
            list(f, &mut first, what, keys)?;
        }
        list(f, &mut first, "resolved", &self.resolved)?;
        if first {
            f.write_str("nothing that serves")?;
        }
        Ok(())
    }
}

fn list<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    first: &mut bool,
    what: &str,
    all: &[T],
) -> fmt::Result {
    if all.is_empty() {
        return Ok(());
    }
    if !std::mem::replace(first, false) {
        f.write_str("; ")?;
    }
    f.write_str(what)?;
    for (nth, one) in all.iter().take(NAMED).enumerate() {
        write!(f, "{} {one}", if nth == 0 { "" } else { "," })?;
    }
    match all.len().saturating_sub(NAMED) {
        0 => Ok(()),
        more => write!(f, " and {more} more"),
    }
}
