//! The records of an SRV answer in, the targets to look up out, group by group (RFC 2782). Pure.
//!
//! A group is used whole: which of its targets a request goes to is the balancer's choice, in proportion
//! to their weights. But a target whose weight is 0 beside others with more is to be
//! chosen hardly ever, which is how servers are taken out of use; so it is a group of its own, behind
//! those. It refuses more targets than [`TARGETS`], the least wanted first.

use inmesh_core::model::HostAddress;

/// The most targets that are looked up.
const TARGETS: usize = 32;
/// What a weight of 1 is, so that it can be shared among addresses.
const PARTS: u32 = 60;

/// A record; its target is `None` where it is the root, which says that no host serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    pub(super) target: Option<String>,
}

/// What a record says of the addresses of its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Of {
    pub(super) port: u16,
    pub(super) weight: u16,
}

/// Targets with their ports and weights, in the order in which groups are to be tried.
///
/// 1. The lowest priority comes first.
/// 2. Within it come those with a weight, then those of weight 0.
/// 3. Of what does not fit, the last group and the lowest weights are left out.
pub(super) fn groups(records: Vec<Record>) -> Vec<Vec<(String, Of)>> {
    let mut wanted: Vec<_> = records
        .into_iter()
        .filter_map(|record| {
            let Record {
                priority,
                weight,
                port,
                target,
            } = record;
            Some(((priority, weight == 0), u16::MAX - weight, target?, port))
        })
        .collect();
    wanted.sort();
    let mut groups: Vec<Vec<(String, Of)>> = Vec::new();
    let mut last = None;
    let mut seen = std::collections::BTreeSet::new();
    for (group, lightness, target, port) in wanted {
        if seen.len() >= TARGETS {
            break;
        }
        if !seen.insert((target.clone(), port)) {
            continue;
        }
        if last.replace(group) != Some(group) {
            groups.push(Vec::new());
        }
        if let Some(targets) = groups.last_mut() {
            let weight = u16::MAX - lightness;
            targets.push((target, Of { port, weight }));
        }
    }
    groups
}

// === impl Of ===

impl Of {
    /// One of `len` addresses of the target, which share its weight: all of one family.
    pub(super) fn each(self, address: HostAddress, len: usize) -> HostAddress {
        // A target without weight among others without is as good as they are.
        let weight = u32::from(self.weight.max(1)) * PARTS;
        let len = u32::try_from(len).unwrap_or(u32::MAX).max(1);
        address
            .at_port(self.port)
            .with_weight((weight / len).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(records: &[(u16, u16, &str)], wanted: &[&[&str]]) {
        let record = |(priority, weight, target): &(u16, u16, &str)| Record {
            priority: *priority,
            weight: *weight,
            port: 80,
            target: (*target != ".").then(|| (*target).to_owned()),
        };
        let groups = groups(records.iter().map(record).collect());
        let names = |group: &Vec<(String, Of)>| -> Vec<String> {
            group.iter().map(|(name, _)| name.clone()).collect()
        };
        assert_eq!(groups.iter().map(names).collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn priorities_come_first_and_weight_zero_last() {
        check(&[], &[]);
        check(&[(1, 1, ".")], &[]);
        check(&[(2, 9, "b"), (1, 0, "a")], &[&["a"], &["b"]]);
        // Without any weight all targets are one group.
        check(&[(1, 0, "b"), (1, 0, "a")], &[&["a", "b"]]);
        check(
            &[
                (1, 0, "idle"),
                (1, 1, "small"),
                (1, 9, "large"),
                (2, 5, "far"),
            ],
            &[&["large", "small"], &["idle"], &["far"]],
        );
        // Named twice, it stands where it is wanted more, and only there.
        check(&[(1, 0, "a"), (1, 5, "a"), (2, 1, "a")], &[&["a"]]);
        check(&[(1, 1, "."), (2, 1, "a")], &[&["a"]]);
    }

    #[test]
    fn the_same_target_may_serve_at_two_ports() {
        let at = |port| Record {
            priority: 0,
            weight: 0,
            port,
            target: Some("a".to_owned()),
        };
        let of = |port| ("a".to_owned(), Of { port, weight: 0 });
        assert_eq!(groups(vec![at(2), at(1), at(2)]), [[of(1), of(2)]]);
    }

    #[test]
    fn the_addresses_of_a_target_share_its_weight() {
        let heavy = Record {
            priority: 1,
            weight: 6,
            port: 80,
            target: Some("a".to_owned()),
        };
        let light = Record {
            weight: 2,
            target: Some("b".to_owned()),
            ..heavy.clone()
        };
        let groups = groups(vec![light, heavy]);
        let [(_, heavy), (_, light)] = &groups[0][..] else {
            panic!("{groups:?}")
        };
        let address = HostAddress::new([10, 0, 0, 1].into());
        let weight = |of: &Of, len| of.each(address, len).weight;
        assert_eq!((3 * weight(heavy, 3), weight(light, 1)), (360, 120));
        let none = Of {
            port: 80,
            weight: 0,
        };
        assert_eq!((weight(&none, 1), weight(&none, 100)), (60, 1));
        assert_eq!(weight(heavy, 0), 360, "no address has it");
    }

    #[test]
    fn the_least_wanted_are_left_out() {
        let names: Vec<_> = (0..100_u16).map(|n| format!("{n:03}")).collect();
        let records = names.iter().zip(0..).map(|(name, n)| Record {
            priority: 1,
            weight: n,
            port: 80,
            target: Some(name.clone()),
        });
        let groups = groups(records.collect());
        let [only] = &groups[..] else {
            panic!("{groups:?}")
        };
        assert_eq!(only.len(), TARGETS);
        assert_eq!((&*only[0].0, &*only[31].0), ("099", "068"));
    }
}
