//! Checks: when an endpoint is out, and what that does to its set.

use super::*;

#[test]
fn thresholds_count_what_stands_in_a_row() {
    let mut policy = CheckPolicy::new(CheckKind::Tcp);
    (policy.unhealthy, policy.healthy) = (3, 2);
    let mut checked = Checked::default();
    let (yes, no) = (true, false);
    for (n, (success, wanted)) in [
        (yes, None),
        (no, None),
        (no, None),
        (yes, None),
        (no, None),
        (no, None),
        (no, Some(false)),
        (no, None),
        (yes, None),
        (no, None),
        (yes, None),
        (yes, Some(true)),
        (no, None),
        (no, None),
        (no, Some(false)),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(checked.handle(success, &policy), wanted, "step {n}");
    }
}

#[test]
fn a_policy_that_cannot_be_is_refused() {
    let with = |kind, change: &dyn Fn(&mut CheckPolicy)| {
        let mut policy = CheckPolicy::new(kind);
        change(&mut policy);
        policy.check().is_ok()
    };
    let http = |path: &str, statuses: &[u16]| CheckKind::Http(path.into(), statuses.into());
    assert!(with(CheckKind::Tcp, &|_| ()));
    assert!(with(http("/a?b=c", &[200, 599]), &|_| ()));
    for (path, statuses) in [
        ("a", &[200][..]),
        ("", &[200]),
        ("/a b", &[200]),
        ("/a#b", &[200]),
        ("/\n", &[200]),
        ("/", &[]),
        ("/", &[100]),
        ("/", &[600]),
    ] {
        assert!(
            !with(http(path, statuses), &|_| ()),
            "{path:?} {statuses:?}"
        );
    }
    assert!(!with(CheckKind::Tcp, &|p| p.interval = secs(0)));
    assert!(!with(CheckKind::Tcp, &|p| p.interval = secs(3_601)));
    assert!(!with(CheckKind::Tcp, &|p| p.timeout = secs(11)));
    assert!(!with(CheckKind::Tcp, &|p| p.timeout = secs(0)));
    assert!(!with(CheckKind::Tcp, &|p| p.healthy = 0));
    assert!(!with(CheckKind::Tcp, &|p| p.unhealthy = 101));
}

/// One that is not well is chosen only if all are not; the share that may be ejected does not hold it
/// back, no request probes it, and its ejection is another matter.
#[test]
fn one_that_is_not_well_is_out() {
    let set = EndpointSet::build((0..3).map(|n| endpoint(n, true)), None).with_checks(true);
    let (set, mut draw) = (Arc::new(set), Draw::new(1));
    let mut reached = |set: &Arc<EndpointSet>| {
        let mut reached = std::collections::BTreeSet::new();
        for n in 0..40 {
            let mut picked = pick(set, secs(n), &[], &mut draw).unwrap();
            assert!(!picked.is_probe());
            picked.succeeded(secs(n));
            let state = &picked.member().state;
            let mut places = set.members().iter();
            reached.insert(places.position(|m| Arc::ptr_eq(&m.state, state)).unwrap());
        }
        reached.into_iter().collect::<Vec<_>>()
    };
    let members = set.members();
    for n in [0, 1] {
        set.mark(&members[n].state, false);
    }
    assert_eq!(
        (reached(&set), set.ejected_len(), set.is_panicking()),
        (vec![2], 2, false)
    );
    set.mark(&members[2].state, false);
    assert_eq!((reached(&set), set.is_panicking()), (vec![0, 1, 2], true));
    set.mark(&members[1].state, true);
    assert_eq!((reached(&set), set.is_panicking()), (vec![1], false));
    // A set that takes over knows it, and pardons none of them.
    let next = EndpointSet::build((0..3).map(|n| endpoint(n, true)), Some(&set));
    let next = Arc::new(next.with_checks(true));
    assert_eq!((reached(&next), next.ejected_len()), (vec![1], 2));
    for member in members {
        set.mark(&member.state, true);
    }
    assert_eq!((reached(&set), set.ejected_len()), (vec![0, 1, 2], 0));
}

/// What is ejected and fails its checks is out until both have ended, and is probed only then.
#[test]
fn an_ejection_and_checks_end_apart() {
    let policy = EjectPolicy {
        consecutive: 1,
        ..EjectPolicy::default()
    };
    let set = EndpointSet::build((0..2).map(|n| endpoint(n, true)), None).with_eject(policy);
    let (set, mut draw) = (Arc::new(set.with_checks(true)), Draw::new(1));
    let mut picked = pick(&set, secs(0), &[], &mut draw).unwrap();
    let Ejection::Ejected { until } = picked.failed(secs(0)) else {
        panic!("kept")
    };
    let state = Arc::clone(&picked.member().state);
    drop(picked);
    set.mark(&state, false);
    set.mark(&state, true);
    assert!(state.is_ejected() && !state.is_unwell());
    set.mark(&state, false);
    assert!(!pick(&set, until, &[], &mut draw).unwrap().is_probe());
    set.mark(&state, true);
    let later = until + secs(1);
    let mut probe = pick(&set, later, &[], &mut draw).unwrap();
    assert!(probe.is_probe() && probe.succeeded(later));
    drop(probe);
    assert!(!state.is_ejected());
}
