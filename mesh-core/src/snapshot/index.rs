//! Services by the hash of their name: a persistent tree that is read more than it is changed.
//!
//! Each node is one slice of its children, 32 at most, chosen by five bits of the hash; a leaf is
//! the Service's own `Arc`. So a look-up that misses every cache waits for the last slice and for
//! the Service, and for nothing between. A change copies the slices on its way and shares the rest.
//! It does not compare names on the way down: the caller does, once, at the end.

use std::mem;
use std::sync::Arc;

use super::service::ServiceView;
use crate::model::{Few, ServiceName};

/// Bits of the hash that one level takes.
const BITS: u32 = 5;

/// A persistent map of Services. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    root: Node,
}

#[derive(Debug, Clone)]
enum Node {
    /// The children that are there, in the order of their bits.
    Branch(u32, Arc<[Self]>),
    /// Services whose hashes are the same to the last bit: one.
    Leaf(Few<Arc<ServiceView>>),
}

// === impl Index ===

impl Index {
    /// The Service of that hash of which `is` holds.
    pub(super) fn find(
        &self,
        hash: u64,
        is: impl Fn(&ServiceView) -> bool,
    ) -> Option<&Arc<ServiceView>> {
        let (mut node, mut rest) = (&self.root, hash);
        loop {
            match node {
                Node::Branch(there, below) => {
                    let (bit, nth) = place(*there, rest);
                    if there & bit == 0 {
                        return None;
                    }
                    node = below.get(nth)?;
                    rest >>= BITS;
                }
                Node::Leaf(services) => return services.iter().find(|s| is(s)),
            }
        }
    }

    /// Puts a Service in the place of the one with its name.
    pub(super) fn insert(&mut self, service: Arc<ServiceView>) {
        self.root.insert(service, 0);
    }

    /// Removes a Service, if it is there.
    pub(super) fn remove(&mut self, name: &ServiceName) {
        if self.find(name.hash64(), |s| s.name == *name).is_some() {
            self.root.remove(name, 0);
        }
    }

    /// Each leaf's distance from the root and how many Services it holds.
    #[cfg(test)]
    pub(super) fn shape(&self) -> Vec<(usize, usize)> {
        let mut nodes = vec![(0, &self.root)];
        let mut leaves = Vec::new();
        while let Some((level, node)) = nodes.pop() {
            match node {
                Node::Branch(_, below) => nodes.extend(below.iter().map(|n| (level + 1, n))),
                Node::Leaf(services) => leaves.push((level, services.len())),
            }
        }
        leaves
    }

    /// Every Service, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<ServiceView>> {
        let mut nodes = vec![&self.root];
        let mut leaf = [].iter();
        std::iter::from_fn(move || {
            loop {
                if let Some(service) = leaf.next() {
                    return Some(service);
                }
                match nodes.pop()? {
                    Node::Branch(_, below) => nodes.extend(below.iter()),
                    Node::Leaf(services) => leaf = services.iter(),
                }
            }
        })
    }
}

// === impl Node ===

impl Node {
    /// Puts a Service below; `level` is the node's distance from the root.
    fn insert(&mut self, service: Arc<ServiceView>, level: u32) {
        match self {
            Self::Branch(there, below) => {
                let (bit, nth) = place(*there, rest(&service.name, level));
                if *there & bit == 0 {
                    let (before, after) = below.split_at(nth);
                    let new = [Self::Leaf(service.into())];
                    *below = [before, &new, after].concat().into();
                    *there |= bit;
                } else if let Some(child) = Arc::make_mut(below).get_mut(nth) {
                    child.insert(service, level + 1);
                }
            }
            Self::Leaf(here) => match here.first() {
                // Two hashes part at some level, so this ends.
                Some(other) if other.name.hash64() != service.name.hash64() => {
                    let (bit, _) = place(0, rest(&other.name, level));
                    *self = Self::Branch(bit, [mem::take(self)].into());
                    self.insert(service, level);
                }
                _ => {
                    let others = here.iter().filter(|s| s.name != service.name);
                    *here = others.chain([&service]).cloned().collect();
                }
            },
        }
    }

    /// Removes a Service that is below.
    fn remove(&mut self, name: &ServiceName, level: u32) {
        match self {
            Self::Branch(there, below) => {
                let (bit, nth) = place(*there, rest(name, level));
                if let Some(child) = Arc::make_mut(below).get_mut(nth) {
                    child.remove(name, level + 1);
                    if child.is_empty() {
                        let full = below.iter().filter(|child| !child.is_empty());
                        *below = full.cloned().collect();
                        *there &= !bit;
                    }
                }
                // A leaf alone stands in its branch's place.
                if let [only @ Self::Leaf(_)] = &**below {
                    *self = only.clone();
                }
            }
            Self::Leaf(here) => {
                *here = here.iter().filter(|s| s.name != *name).cloned().collect();
            }
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Leaf(services) if services.is_empty())
    }
}

/// Nothing.
impl Default for Node {
    fn default() -> Self {
        Self::Leaf(Few::default())
    }
}

/// What is left of a name's hash at a level.
fn rest(name: &ServiceName, level: u32) -> u64 {
    name.hash64().checked_shr(level * BITS).unwrap_or_default()
}

/// The bit of a child, and its place among those that are there.
fn place(there: u32, rest: u64) -> (u32, usize) {
    let bit = 1 << (rest % (1 << BITS));
    (bit, (there & (bit - 1)).count_ones() as usize)
}
