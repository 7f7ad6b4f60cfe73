//! What the replicas of a control plane say to each other of a stage: annotations of one Lease, which each replica
//! writes its own of. Pure.
//!
//! 1. What a replica says counts once it has been seen to change, and for as long as it changes: what one has
//!    left that is gone is never added to what its members say elsewhere.
//! 2. Of another stage nothing counts, and the replica that writes next takes it away.

use std::collections::BTreeMap;
use std::time::Duration;

use data_encoding::HEXLOWER;
use inmesh_pki::Crypto;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::layout;
use crate::stage::Tally;

/// What the names of these annotations begin with.
const PREFIX: &str = "tally.inmesh.dev/";
/// How long what a replica says counts.
const FRESH: Duration = Duration::from_secs(10);
/// The most replicas. An API server takes 256 KiB of annotations, and each has 8 KiB at most.
const REPLICAS: usize = 24;

/// What a replica says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Published {
    stage: String,
    /// Another one each time.
    nth: u64,
    tally: Tally,
}

/// What all replicas say of a stage. Times are of one clock, from any begin.
#[derive(Debug)]
pub(super) struct Tallies {
    own: Publisher,
    others: BTreeMap<String, Other>,
}

/// Writes what a replica says.
#[derive(Debug, Clone)]
pub(super) struct Publisher {
    /// The name of its annotation.
    name: String,
    nth: u64,
}

/// What another replica says.
#[derive(Debug)]
struct Other {
    published: Published,
    /// When that has changed; `None` before it has.
    changed: Option<Duration>,
}

// === impl Tallies ===

impl Tallies {
    pub(super) fn new(holder: &str, crypto: &Crypto) -> Self {
        let hash = crypto.fingerprint(holder.as_bytes());
        Self {
            own: Publisher {
                name: format!("{PREFIX}{}", HEXLOWER.encode(&hash)),
                nth: 0,
            },
            others: BTreeMap::new(),
        }
    }

    /// What writes next what this replica says.
    pub(super) fn publisher(&mut self) -> Publisher {
        self.own.nth += 1;
        self.own.clone()
    }

    /// Notes what the others say.
    pub(super) fn hear(&mut self, lease: &Json, stage: &str, now: Duration) {
        let all = lease["metadata"]["annotations"].as_object();
        let all = all.into_iter().flatten();
        let published = all.filter_map(|(name, value)| Some((name, read(value)?)));
        let mut heard = BTreeMap::new();
        for (name, published) in published
            .filter(|(name, published)| **name != self.own.name && published.stage == stage)
        {
            let changed = match self.others.remove(name) {
                Some(before) if before.published == published => before.changed,
                Some(_) => Some(now),
                None => None,
            };
            heard.insert(name.clone(), Other { published, changed });
        }
        self.others = heard;
    }

    /// What all replicas say, with what this one does.
    pub(super) fn sum(&self, own: &Tally, stage: &str, now: Duration) -> Tally {
        let mut sum = own.clone();
        for other in self.others.values() {
            let fresh = other
                .changed
                .is_some_and(|at| now.saturating_sub(at) < FRESH);
            if fresh && other.published.stage == stage {
                sum.add(&other.published.tally);
            }
        }
        sum
    }
}

// === impl Publisher ===

impl Publisher {
    /// The Lease with what this replica says in the place of what it said: of the one that is there, if there is
    /// one.
    pub(super) fn lease(&self, there: Option<Json>, home: &str, stage: &str, own: &Tally) -> Json {
        let mut lease = there.unwrap_or_else(|| {
            json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": layout::TALLIES, "namespace": home}, "spec": {},
            })
        });
        let published = Published {
            stage: stage.to_owned(),
            nth: self.nth,
            tally: own.clone(),
        };
        let annotations = &mut lease["metadata"]["annotations"];
        if !annotations.is_object() {
            *annotations = json!({});
        }
        if let Some(all) = annotations.as_object_mut() {
            let is_old = |name: &str, value: &Json| {
                name.starts_with(PREFIX)
                    && read(value).is_none_or(|published| published.stage != stage)
            };
            all.retain(|name, value| !is_old(name, value));
            if all.contains_key(&self.name) || all.len() < REPLICAS {
                // Of numbers and texts there is always a text.
                let text = serde_json::to_string(&published).unwrap_or_default();
                all.insert(self.name.clone(), text.into());
            }
        }
        lease
    }
}

fn read(value: &Json) -> Option<Published> {
    serde_json::from_str(value.as_str()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crypto() -> Crypto {
        #[cfg(feature = "aws-lc-rs")]
        return Crypto::aws_lc_rs();
        #[cfg(not(feature = "aws-lc-rs"))]
        return Crypto::ring();
    }

    fn of(members: u64) -> Tally {
        let mut tally = Tally::default();
        (0..members).for_each(|mark| tally.member(mark));
        tally
    }

    const fn s(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn what_is_said_counts_while_it_changes() {
        let (mut a, mut b) = (Tallies::new("a", &crypto()), Tallies::new("b", &crypto()));
        let lease = a.publisher().lease(None, "mesh-system", "one", &of(3));
        let sum = |b: &Tallies, at: u64| b.sum(&of(2), "one", s(at)).members;
        b.hear(&lease, "one", s(0));
        assert_eq!(sum(&b, 0), 2, "it may be of one that is gone");
        let lease = a
            .publisher()
            .lease(Some(lease), "mesh-system", "one", &of(3));
        b.hear(&lease, "one", s(1));
        assert_eq!(sum(&b, 1), 5);
        b.hear(&lease, "one", s(5));
        assert_eq!(
            (sum(&b, 10), sum(&b, 11)),
            (5, 2),
            "it says nothing new any more"
        );
        let lease = b
            .publisher()
            .lease(Some(lease), "mesh-system", "one", &of(2));
        assert_eq!(
            lease["metadata"]["annotations"]
                .as_object()
                .map(serde_json::Map::len),
            Some(2)
        );
        // Its own is not that of another.
        b.hear(&lease, "one", s(12));
        assert_eq!(sum(&b, 12), 2);
        assert_eq!(b.sum(&of(2), "two", s(1)).members, 2);
        // What is of another stage goes, and what is no replica's stays.
        let mut lease = lease;
        lease["metadata"]["annotations"]["example.com/a"] = "b".into();
        let lease = a
            .publisher()
            .lease(Some(lease), "mesh-system", "two", &of(1));
        let left: Vec<_> = lease["metadata"]["annotations"]
            .as_object()
            .expect("some")
            .keys()
            .collect();
        assert_eq!(left, ["example.com/a", &a.own.name]);
    }

    #[test]
    fn a_lease_has_room_for_all() {
        let mut tally = Tally::default();
        (0..9_999).for_each(|n| tally.member(u64::MAX - n));
        for _ in 0..9 {
            tally.refuse(&"x".repeat(999));
        }
        let mut lease = None;
        for replica in 0..99 {
            let mut one = Tallies::new(&format!("control-{replica}"), &crypto());
            lease = Some(one.publisher().lease(lease, "mesh-system", "one", &tally));
        }
        let lease = lease.expect("they have published");
        let all = lease["metadata"]["annotations"].as_object().expect("some");
        let bytes: usize = all
            .iter()
            .map(|(name, value)| name.len() + value.as_str().map_or(0, str::len))
            .sum();
        assert!(
            all.len() == REPLICAS && bytes < 256 * 1_024,
            "{bytes} bytes of {}",
            all.len()
        );
    }
}
