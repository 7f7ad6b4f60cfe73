//! In a chain of hops of which the last fails, the load grows by one budget. The bench of that name runs
//! many more chains.

#[path = "../benches/support/chain.rs"]
mod chain;

use chain::{Chain, HOPS};
use inmesh_core::model::Draw;
use proptest::prelude::*;

#[test]
fn the_hop_before_the_failure_repeats_and_no_other() {
    let chain = Chain::by_default(true, 1_000, 3, 7);
    let seen = chain::run(&chain);
    assert_eq!(seen.requests[0], 3_000);
    assert_eq!(seen.attempts[..HOPS - 1], [3_000; HOPS - 1]);
    // 20 % and 10 a second.
    assert!(
        (3_500..=3_640).contains(&seen.attempts[HOPS - 1]),
        "{seen:?}"
    );
    assert!(chain.is_within(&seen), "{seen:?}");
    assert_eq!(seen.failed, 3_000);
    assert!(seen.budget > 0 && seen.spent > 0, "{seen:?}");
}

#[test]
fn without_the_signal_each_hop_would_add_its_budget() {
    let chain = Chain::by_default(false, 1_000, 3, 7);
    let seen = chain::run(&chain);
    assert!(seen.attempts[HOPS - 1] > 5_500, "{seen:?}");
    assert!(!chain.is_within(&seen), "{seen:?}");
}

proptest! {
    #[test]
    fn no_chain_goes_beyond_one_budget(seed in any::<u64>()) {
        let chain = Chain::drawn(&mut Draw::new(seed), 200, 2);
        let seen = chain::run(&chain);
        prop_assert!(chain.is_within(&seen), "{chain:?}: {seen:?}");
    }
}
