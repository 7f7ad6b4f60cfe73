//! Peak EWMA: which of two answers faster.

use super::super::ewma::Ewma;
use super::*;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn seconds(speed: Ewma, now: Duration) -> f32 {
    (speed.at(now) * 1e4).round() / 1e4
}

#[test]
fn a_peak_counts_at_once_and_is_forgotten_over_time() {
    let speed = Ewma::default().answered(ms(20), secs(1));
    assert_eq!(seconds(speed, secs(1)), 0.02);
    let slow = speed.answered(ms(400), secs(1));
    assert_eq!(seconds(slow, secs(1)), 0.4);
    // 1/e is left after 10 s, however often it is read.
    assert_eq!(seconds(slow, secs(11)), 0.1472);
    assert_eq!(seconds(slow, secs(11)), 0.1472);
    // A fast answer counts by how old the estimate is: not at all in the same moment, for nearly all
    // after half a minute.
    assert_eq!(seconds(slow.answered(ms(10), secs(1)), secs(1)), 0.4);
    assert_eq!(seconds(slow.answered(ms(10), secs(31)), secs(31)), 0.0294);
    // A clock that was read before that of another task.
    assert_eq!(seconds(slow, ms(900)), 0.4);
}

#[test]
fn an_estimate_is_one_word_and_survives_the_clock_coming_round() {
    let late = Duration::from_millis(u64::from(u32::MAX) - 500);
    let speed = Ewma::default().answered(ms(20), late);
    assert_eq!(Ewma::from_bits(speed.to_bits()), speed);
    let after = late + secs(10);
    assert_eq!(seconds(speed, after), 0.0074);
}

#[test]
fn a_failure_counts_for_more_than_any_answer_however_fast() {
    let fast = Ewma::default().answered(ms(1), secs(0));
    let failed = fast.failed(ms(1), secs(0));
    assert_eq!(seconds(failed, secs(0)), 1.0);
    let again = failed.failed(ms(1), secs(0));
    assert_eq!(seconds(again, secs(0)), 2.0);
    let often = (0..9).fold(again, |speed, _| speed.failed(ms(1), secs(0)));
    assert_eq!(seconds(often, secs(0)), 10.0);
    // One that was late counts for the time that it took.
    assert_eq!(seconds(fast.failed(secs(15), secs(0)), secs(0)), 15.0);
}

#[test]
fn an_unknown_endpoint_gets_one_request_to_see() {
    let unknown = Ewma::default();
    let known = unknown.answered(ms(50), secs(0));
    assert!(unknown.cost(0, secs(0)) < known.cost(0, secs(0)));
    assert!(unknown.cost(1, secs(0)) > known.cost(9, secs(0)));
    assert!(unknown.cost(2, secs(0)) > unknown.cost(1, secs(0)));
    // For what it has in flight: 50 ms behind four others are 250 ms.
    assert_eq!(known.cost(4, secs(0)), known.cost(0, secs(0)) * 5);
}

/// Requests one after the other, 100 a second, to endpoints that answer as said; the share of each.
fn shares(answers: &[(u64, bool)], seconds: u64) -> Vec<f64> {
    let policy = EjectPolicy {
        consecutive: 0,
        ..EjectPolicy::default()
    };
    let set = ejecting(u8::try_from(answers.len()).unwrap(), policy);
    let (mut draw, mut hits) = (Draw::new(5), vec![0_u32; answers.len()]);
    let requests = u32::try_from(seconds * 100).unwrap();
    for n in 0..requests {
        let now = ms(10) * n;
        let mut picked = super::super::pick(&set, Choice::PeakEwma, now, &[], &mut draw).unwrap();
        let at = picked.member().endpoint.address();
        let nth = set
            .members()
            .iter()
            .position(|m| m.endpoint.address() == at)
            .unwrap();
        hits[nth] += 1;
        let (took, well) = answers[nth];
        let then = now + ms(took);
        if well {
            picked.answered(|| then);
            picked.succeeded(then);
        } else {
            picked.failed(then);
        }
    }
    let of = f64::from(requests);
    hits.iter().map(|hits| f64::from(*hits) / of).collect()
}

#[test]
fn the_slow_one_and_the_one_that_fails_fast_get_little() {
    let even = shares(&[(20, true); 4], 60);
    assert!(
        even.iter().all(|share| (share - 0.25).abs() < 0.1),
        "{even:?}"
    );
    let slow = shares(&[(20, true), (20, true), (20, true), (1_000, true)], 60);
    assert!(slow[3] < 0.01, "{slow:?}");
    // It answers 503 within a millisecond, which is no speed.
    let failing = shares(&[(20, true), (20, true), (20, true), (1, false)], 60);
    assert!(failing[3] < 0.01, "{failing:?}");
}

/// A choice that looks at no speed measures none, and reads no clock for it.
#[test]
fn only_peak_ewma_measures() {
    let set = set(2);
    for choice in [
        Choice::Hash(1),
        Choice::LeastRequest,
        Choice::Random,
        Choice::RoundRobin,
        Choice::SourceIp,
    ] {
        let mut draw = Draw::new(1);
        let mut picked = super::super::pick(&set, choice, secs(1), &[], &mut draw).unwrap();
        picked.answered(|| panic!("{choice:?} reads the clock"));
        picked.refused(|| panic!("{choice:?} reads the clock"));
    }
    let state = &set.members()[0].state;
    assert_eq!(state.answers_within(secs(1)), None);
    let mut draw = Draw::new(1);
    let mut picked = super::super::pick(&set, Choice::PeakEwma, secs(1), &[], &mut draw).unwrap();
    picked.answered(|| secs(3));
    let measured = picked.member().state.answers_within(secs(3));
    assert_eq!(measured, Some(secs(2)));
}
