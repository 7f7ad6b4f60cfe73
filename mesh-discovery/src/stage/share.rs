//! Which members are a canary: those whose mark is no larger than a bound. Pure.
//!
//! A mark is a hash of what a member is called and of the stage's name, so that it is the same at every replica
//! and after every restart, and another for each stage. The bound is chosen once, over all members that have
//! answered: so a share is exact as it begins, and a member that comes later or comes back has its side.

use inmesh_pki::Crypto;

/// How many of the lowest marks of its members a replica says: up to so many are chosen exactly.
pub const LOWEST: usize = 256;

/// Which members are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Chosen {
    /// The largest mark among them.
    pub bound: u64,
    /// How many there are.
    pub chosen: u64,
}

/// The mark of a member for a stage: `id` is its SPIFFE ID, `instance` the name of its process.
///
/// ```
/// # #[cfg(feature = "aws-lc-rs")] {
/// use inmesh_discovery::stage::mark;
/// let crypto = inmesh_pki::Crypto::aws_lc_rs();
/// let id = "spiffe://cluster.local/ns/shop/sa/web";
/// let of = |stage: &str, instance: &str| mark(&crypto, stage, id, instance);
/// assert_eq!(of("a1", "web-1"), of("a1", "web-1"));
/// assert!(of("a1", "web-1") != of("a1", "web-2") && of("a1", "web-1") != of("b2", "web-1"));
/// # }
/// ```
#[must_use]
pub fn mark(crypto: &Crypto, stage: &str, id: &str, instance: &str) -> u64 {
    let hash = crypto.fingerprint(format!("{stage}\0{id}\0{instance}").as_bytes());
    let (first, _) = hash.split_at(8);
    first
        .iter()
        .fold(0, |mark, byte| (mark << 8) | u64::from(*byte))
}

/// Chooses `percent` of `members`, rounded up, one at least, and leaves one at least where there are no `others`, which
/// cannot be chosen. `lowest` are the lowest of their marks, in order: all of them, or [`LOWEST`] at least. `None`
/// where there is nothing to choose or to compare with.
///
/// ```
/// use inmesh_discovery::stage::choose;
/// let marks: Vec<u64> = (1..=10).collect();
/// let chosen = choose((10, 0), &marks, 10).expect("there are others");
/// assert_eq!((chosen.chosen, chosen.bound), (1, 1));
/// assert_eq!(choose((1, 0), &[7], 10), None);
/// assert!(choose((1, 9), &[7], 10).is_some());
/// ```
#[must_use]
pub fn choose((members, others): (u64, u64), lowest: &[u64], percent: u8) -> Option<Chosen> {
    let most = members.checked_sub(u64::from(others == 0))?;
    if most == 0 {
        return None;
    }
    let chosen = members
        .saturating_mul(percent.into())
        .div_ceil(100)
        .clamp(1, most);
    let nth = usize::try_from(chosen - 1).ok()?;
    let bound = match lowest.get(nth) {
        Some(mark) => *mark,
        // Marks are spread evenly: of thousands of members the share is near enough.
        None => u64::MAX / 100 * u64::from(percent),
    };
    Some(Chosen { bound, chosen })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As many have it as are said to, however many there are, and never all.
        #[test]
        fn a_share_is_exact(marks in proptest::collection::btree_set(any::<u64>(), 0..400), percent in 1_u8..=90) {
            let members = u64::try_from(marks.len()).expect("few");
            let lowest: Vec<u64> = marks.iter().copied().take(LOWEST).collect();
            let Some(found) = choose((members, 0), &lowest, percent) else {
                prop_assert!(members < 2);
                return Ok(());
            };
            prop_assert!(found.chosen >= 1 && found.chosen < members);
            let wanted = members * u64::from(percent);
            prop_assert!(found.chosen * 100 >= wanted || found.chosen == members - 1);
            prop_assert!(found.chosen == 1 || (found.chosen - 1) * 100 < wanted);
            if found.chosen <= 256 {
                let have = marks.iter().filter(|mark| **mark <= found.bound).count();
                prop_assert_eq!(u64::try_from(have).expect("few"), found.chosen);
            }
        }
    }

    #[test]
    fn all_of_some_leave_others() {
        for (members, others, percent, expected) in [
            (3, 7, 100, Some((3, 3))),
            (3, 7, 10, Some((1, 1))),
            (3, 0, 100, Some((2, 2))),
            (0, 7, 100, None),
            (1, 0, 100, None),
            (0, 0, 10, None),
        ] {
            let marks: Vec<u64> = (1..=members).collect();
            let found = choose((members, others), &marks, percent);
            let found = found.map(|found| (found.chosen, found.bound));
            assert_eq!(found, expected, "{members} {others} {percent}");
        }
    }

    #[test]
    fn of_very_many_the_share_is_near() {
        let chosen = choose((10_000, 0), &[1; LOWEST], 10).expect("there are others");
        assert_eq!(chosen.chosen, 1_000);
        let share = chosen.bound / (u64::MAX / 1_000);
        assert!((99..=100).contains(&share), "{share} of 1000");
    }
}
