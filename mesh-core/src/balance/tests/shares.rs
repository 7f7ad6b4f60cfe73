//! Endpoints that take less than their share: those that are new, and those that ask for a pause.

use super::super::share::Share;
use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn slow(percent: u8, aggression: f64) -> SlowStart {
    SlowStart::new(MINUTE, percent, aggression).unwrap()
}

/// A percentage of the whole: what of so many draws takes its turn.
fn percent(share: Share) -> u64 {
    let drawn = (0..1_000_u64).map(|n| u64::MAX / 1_000 * n);
    let takes = drawn.filter(|drawn| share.takes(*drawn)).count();
    (u64::try_from(takes).unwrap() * 100 + 500) / 1_000
}

fn starting(n: u8, before: Option<&EndpointSet>) -> Arc<EndpointSet> {
    let set = EndpointSet::build((0..n).map(|n| endpoint(n, true)), before);
    Arc::new(set.with_slow_start(Some(slow(10, 1.0))))
}

/// The share of the last member among 20,000 choices.
fn share_of_last(set: &Arc<EndpointSet>, choice: Choice, now: Duration) -> f64 {
    let last = set.members().last().unwrap().endpoint.address();
    let mut draw = Draw::new(9);
    let mut hits = 0_u32;
    for _ in 0..20_000 {
        let picked = super::super::pick(set, choice, now, &[], &mut draw).unwrap();
        hits += u32::from(picked.member().endpoint.address() == last);
    }
    f64::from(hits) / 20_000.0
}

#[test]
fn a_share_grows_with_age_as_envoy_documents_it() {
    for (least, aggression, seconds, wanted) in [
        (10, 1.0, 0, 10),
        (10, 1.0, 3, 10),
        (10, 1.0, 30, 50),
        (10, 1.0, 59, 98),
        (10, 1.0, 60, 100),
        (10, 1.0, 600, 100),
        (10, 2.0, 15, 50),
        (10, 0.5, 30, 25),
        (50, 1.0, 20, 50),
        (100, 1.0, 0, 100),
    ] {
        let share = slow(least, aggression).share(secs(seconds));
        assert_eq!(percent(share), wanted, "{least} {aggression} {seconds}");
    }
}

#[test]
fn what_no_slow_start_can_be_is_refused() {
    for (window, percent, aggression, good) in [
        (MINUTE, 1, 0.1, true),
        (secs(24 * 3_600), 100, 100.0, true),
        (secs(0), 10, 1.0, false),
        (secs(24 * 3_600 + 1), 10, 1.0, false),
        (MINUTE, 0, 1.0, false),
        (MINUTE, 101, 1.0, false),
        (MINUTE, 10, 0.0, false),
        (MINUTE, 10, 101.0, false),
        (MINUTE, 10, f64::NAN, false),
    ] {
        let made = SlowStart::new(window, percent, aggression);
        assert_eq!(made.is_ok(), good, "{window:?} {percent} {aggression}");
    }
    let made = SlowStart::new(MINUTE, 7, 1.5).unwrap();
    assert_eq!(
        (made.window(), made.minimum_percent(), made.aggression()),
        (MINUTE, 7, 1.5)
    );
}

#[test]
fn a_new_endpoint_takes_its_share_little_by_little() {
    let choices = [
        Choice::LeastRequest,
        Choice::PeakEwma,
        Choice::Random,
        Choice::RoundRobin,
    ];
    for choice in choices {
        let first = starting(3, None);
        // All are new: none takes less than another.
        let even = share_of_last(&first, choice, secs(0));
        assert!((even - 1.0 / 3.0).abs() < 0.03, "{choice:?} {even}");
        let more = starting(4, Some(&first));
        for (age, part) in [(0, 0.1), (30, 0.5), (60, 1.0)] {
            let now = secs(600 + age);
            let share = share_of_last(&more, choice, now);
            let wanted = part / (3.0 + part);
            assert!((share - wanted).abs() < 0.02, "{choice:?} {age}: {share}");
        }
    }
    // A key leads to it at once: it would else move twice.
    let first = starting(3, None);
    share_of_last(&first, Choice::Random, secs(0));
    let more = starting(4, Some(&first));
    let hits = (0..1_000_u64).filter(|key| {
        let choice = Choice::Hash(crate::model::mix(*key));
        let picked = super::super::pick(&more, choice, secs(600), &[], &mut Draw::new(1));
        picked.unwrap().member().endpoint.address() == more.members()[3].endpoint.address()
    });
    assert!(hits.count().abs_diff(250) < 60);
}

#[test]
fn one_that_was_away_or_ejected_starts_anew() {
    let first = starting(4, None);
    drop(pick(&first, secs(0), &[], &mut Draw::new(1)));
    let full = share_of_last(&first, Choice::Random, secs(120));
    assert!((full - 0.25).abs() < 0.02, "{full}");
    // Not ready for a while.
    let away = (0..4).map(|n| endpoint(n, n < 3));
    let away = EndpointSet::build(away, Some(&first)).with_slow_start(Some(slow(10, 1.0)));
    let away = Arc::new(away);
    drop(pick(&away, secs(130), &[], &mut Draw::new(1)));
    let again = starting(4, Some(&away));
    let new = share_of_last(&again, Choice::Random, secs(140));
    assert!((new - 0.1 / 3.1).abs() < 0.02, "{new}");
    let old = share_of_last(&again, Choice::Random, secs(200));
    assert!((old - 0.25).abs() < 0.02, "{old}");
    // Ejected, and back through its probe.
    let until = fail_until_out(&again, 3, &EjectPolicy::default(), secs(200));
    let mut probe = pick(&again, until, &[], &mut Draw::new(1)).unwrap();
    assert!(probe.is_probe() && probe.succeeded(until));
    drop(probe);
    let back = share_of_last(&again, Choice::Random, until);
    assert!((back - 0.1 / 3.1).abs() < 0.02, "{back}");
}

#[test]
fn a_busy_new_endpoint_counts_for_its_share() {
    let first = starting(1, None);
    drop(pick(&first, secs(0), &[], &mut Draw::new(1)));
    let set = starting(2, Some(&first));
    // 2 in flight at a tenth of the share count for 20 at all of it.
    let tried = [Arc::clone(&set.members()[0].state)];
    let mut draw = Draw::new(3);
    let mut running: Vec<_> = (0..2)
        .map(|_| pick(&set, secs(600), &tried, &mut draw).unwrap())
        .collect();
    running.extend((0..20).map(|_| pick(&set, secs(600), &[], &mut draw).unwrap()));
    let loads: Vec<_> = set.members().iter().map(|m| m.state.in_flight()).collect();
    assert_eq!(loads, [20, 2]);
}

#[test]
fn one_that_asks_for_a_pause_takes_a_tenth_for_that_long() {
    for (asked, lasts) in [
        (None, 1_000),
        (Some(secs(5)), 5_000),
        (Some(secs(3_600)), 30_000),
    ] {
        for choice in [Choice::LeastRequest, Choice::Random, Choice::RoundRobin] {
            let set = set(4);
            pick_nth(&set, 3, secs(10)).shed(asked, secs(10));
            let tenth = 0.1 / 3.1;
            for (after, wanted) in [(0, tenth), (lasts - 1, tenth), (lasts, 0.25)] {
                let now = secs(10) + Duration::from_millis(after);
                let share = share_of_last(&set, choice, now);
                assert!(
                    (share - wanted).abs() < 0.02,
                    "{choice:?} {asked:?} {after}: {share}"
                );
            }
            // It is not ejected, and its load is its own again.
            assert!(!set.members()[3].state.is_ejected());
        }
    }
}

#[test]
fn where_all_ask_for_a_pause_all_are_used() {
    let set = set(3);
    for n in 0..3 {
        pick_nth(&set, n, secs(1)).shed(Some(secs(9)), secs(1));
    }
    let share = share_of_last(&set, Choice::LeastRequest, secs(2));
    assert!((share - 1.0 / 3.0).abs() < 0.02, "{share}");
    let one = super::set(1);
    pick_nth(&one, 0, secs(1)).shed(None, secs(1));
    assert!(pick(&one, secs(1), &[], &mut Draw::new(1)).is_ok());
}
