//! Round robin, random, and how evenly two choices share.

use super::*;
use crate::model::mix;

fn turns(view: &impl LoadView, start: u64, picks: usize) -> Vec<Option<usize>> {
    let mut turn = start;
    let next = || {
        turn += 1;
        turn - 1
    };
    let mut next = next;
    (0..picks).map(|_| round_robin(view, &mut next)).collect()
}

fn counts(chosen: &[Option<usize>], len: usize) -> Vec<u64> {
    let mut counts = vec![0; len];
    for chosen in chosen {
        counts[chosen.unwrap()] += 1;
    }
    counts
}

/// Weights as [`Weighed`] has them, with the largest known as a tier knows it.
struct Turning(Vec<(u32, bool)>);

impl LoadView for Turning {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn availability(&self, index: usize) -> Availability {
        if self.0[index].1 {
            Availability::Ready
        } else {
            Availability::Out
        }
    }

    fn load(&self, _: usize, _: Duration) -> u64 {
        0
    }

    fn weight(&self, index: usize) -> u32 {
        self.0[index].0
    }

    fn heaviest(&self) -> u32 {
        self.0.iter().map(|(weight, _)| *weight).max().unwrap_or(1)
    }

    fn sample(&self, draw: &mut Draw) -> usize {
        let sum: u64 = self.0.iter().map(|(weight, _)| u64::from(*weight)).sum();
        let mut at = draw.below(sum);
        for (n, (weight, _)) in self.0.iter().enumerate() {
            match at.checked_sub(u64::from(*weight)) {
                Some(rest) => at = rest,
                None => return n,
            }
        }
        0
    }

    fn name_hash(&self, index: usize) -> u64 {
        mix(u64::try_from(index).unwrap())
    }
}

#[test]
fn one_comes_after_the_other_and_what_is_out_is_left_out() {
    let view = |out: &[usize]| Turning((0..4).map(|n| (1, !out.contains(&n))).collect());
    for (out, wanted) in [
        (&[][..], [2, 3, 0, 1, 2, 3]),
        (&[3], [2, 0, 1, 2, 0, 1]),
        (&[0, 1, 3], [2; 6]),
    ] {
        let chosen = turns(&view(out), 2, 6);
        assert_eq!(chosen, wanted.map(Some), "{out:?}");
    }
    assert_eq!(turns(&view(&[0, 1, 2, 3]), 0, 1), [None]);
    assert_eq!(turns(&Turning(vec![]), 0, 1), [None]);
    assert_eq!(random(&Turning(vec![]), &mut Draw::new(1)), None);
}

#[test]
fn a_set_goes_on_where_the_set_before_it_stopped() {
    let mut draw = Draw::new(11);
    let mut set = set(3);
    let mut order = Vec::new();
    for n in 0..9 {
        if n == 5 {
            // The set is built anew, with the same members.
            let again = (0..3).map(|n| endpoint(n, true));
            set = Arc::new(EndpointSet::build(again, Some(&set)));
        }
        let picked = super::super::pick(&set, Choice::RoundRobin, secs(0), &[], &mut draw).unwrap();
        order.push(picked.member().endpoint.address());
    }
    assert_eq!(order[..3], order[3..6]);
    assert_eq!(order[..3], order[6..]);
    let distinct: std::collections::BTreeSet<_> = order.iter().collect();
    assert_eq!(distinct.len(), 3);
    // Callers do not all begin at the first endpoint.
    let first = |seed| {
        let set = super::set(3);
        let picked =
            super::super::pick(&set, Choice::RoundRobin, secs(0), &[], &mut Draw::new(seed));
        picked.unwrap().member().endpoint.address()
    };
    let firsts: std::collections::BTreeSet<_> = (0..20).map(first).collect();
    assert_eq!(firsts.len(), 3);
}

#[test]
fn random_is_by_weight_and_finds_the_only_one() {
    let view = Turning(vec![(1, true), (3, true)]);
    let mut draw = Draw::new(3);
    let chosen: Vec<_> = (0..40_000).map(|_| random(&view, &mut draw)).collect();
    let hits = counts(&chosen, 2);
    assert!(
        hits[0].abs_diff(10_000) < 600 && hits[1].abs_diff(30_000) < 600,
        "{hits:?}"
    );
    let one = Turning((0..64).map(|n| (1, n == 40)).collect());
    for _ in 0..100 {
        assert_eq!(random(&one, &mut draw), Some(40));
    }
}

proptest! {
    /// In as many rounds as the heaviest weighs, each has exactly its weight's turns, and in fewer at
    /// most one more or less than its share.
    #[test]
    fn turns_are_by_weight(
        weights in proptest::collection::vec(1_u32..20, 1..12),
        start in 0_u64..1_000,
        rounds in 1_u64..20,
    ) {
        let len = weights.len();
        let view = Turning(weights.iter().map(|w| (*w, true)).collect());
        let heaviest = u64::from(view.heaviest());
        let all = usize::try_from(weights.iter().map(|w| u64::from(*w)).sum::<u64>()).unwrap();
        let round = u64::try_from(len).unwrap();
        let equal = weights.iter().all(|w| *w == weights[0]);
        let hits = counts(&turns(&view, start * round, all), len);
        for (hits, weight) in hits.iter().zip(&weights) {
            let wanted = if equal { u64::from(weights[0]) } else { u64::from(*weight) };
            prop_assert_eq!(*hits, wanted);
        }
        // Some rounds, counted by turns.
        let mut turn = start * round;
        let end = turn + rounds * round;
        let mut hits = vec![0_u64; len];
        loop {
            let chosen = round_robin(&view, || { turn += 1; turn - 1 });
            if turn > end {
                break;
            }
            hits[chosen.unwrap()] += 1;
        }
        for (hits, weight) in hits.iter().zip(&weights) {
            let share = rounds * u64::from(*weight);
            prop_assert!(*hits * heaviest <= share + heaviest, "{hits} of {share}/{heaviest}");
            prop_assert!(*hits * heaviest + heaviest >= share, "{hits} of {share}/{heaviest}");
        }
    }

    /// What is out is never chosen, and what is ready is found, by each of the two.
    #[test]
    fn turns_and_draws_find_what_is_ready(
        members in proptest::collection::vec((1_u32..1_000_000, any::<bool>()), 0..12),
        start: u64,
    ) {
        let view = Turning(members);
        let ready = view.0.iter().any(|(_, ready)| *ready);
        let mut turn = start / 2;
        let next = round_robin(&view, || { turn += 1; turn });
        for chosen in [next, random(&view, &mut Draw::new(start))] {
            match chosen {
                Some(chosen) => prop_assert!(view.0[chosen].1),
                None => prop_assert!(!ready),
            }
        }
    }

    /// Two choices: with m requests in flight on n endpoints the fullest has m / n + ln ln n / ln 2
    /// and a constant at most (Berenbrink et al., 2000).
    #[test]
    fn two_choices_keep_the_fullest_near_the_mean(
        n in 2_u8..64,
        each in 1_usize..6,
        seed: u64,
    ) {
        let (set, mut draw) = (set(n), Draw::new(seed));
        let running: Vec<_> = (0..usize::from(n) * each)
            .map(|_| pick(&set, secs(0), &[], &mut draw).unwrap())
            .collect();
        let most = set.members().iter().map(|m| m.state.in_flight()).max().unwrap();
        let above = f64::from(n).ln().max(1.0).ln() / 2_f64.ln() + 3.0;
        let mean = f64::from(u32::try_from(each).unwrap());
        prop_assert!(f64::from(most) <= mean + above, "{most} of {mean}");
        drop(running);
    }
}

/// Whatever the strategy, what is foreseen is what is picked then, as often as it is asked before.
#[test]
fn what_is_foreseen_is_picked() {
    let of = |n: u8| endpoint(n, true).with_weight(u32::from(n % 3) + 1);
    let set = Arc::new(EndpointSet::build((0..7).map(of), None));
    let kinds = [
        Choice::Hash(7),
        Choice::LeastRequest,
        Choice::PeakEwma,
        Choice::Random,
        Choice::RoundRobin,
        Choice::SourceIp,
    ];
    let mut draw = Draw::new(1);
    let mut held = Vec::new();
    for choice in kinds.into_iter().cycle().take(60) {
        let foreseen = || {
            let seen = foresee(&set, choice, Duration::ZERO, &mut draw.clone());
            seen.unwrap().endpoint.address()
        };
        let (seen, again) = (foreseen(), foreseen());
        let picked = crate::balance::pick(&set, choice, Duration::ZERO, &[], &mut draw.clone());
        let picked = picked.unwrap();
        let address = picked.member().endpoint.address();
        assert_eq!((seen, again), (address, address), "{choice:?}");
        held.push(picked);
        draw.bits();
    }
}
