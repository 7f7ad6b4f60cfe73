use std::time::Duration;

use super::*;
use crate::ca::authority::{Lifetimes, NewAuthority};
use crate::ca::members::{Leaf, MAX_LEFT, MAX_MEMBERS, Members};
use crate::ca::plan::{Due, Gate, due, gate};
use crate::ca::step::Go;
use crate::id::MAX_ID_LEN;
use crate::id::SpiffeId;
use crate::issue::policy::LONGEST_WINDOW;
use crate::issue::policy::Window;
use crate::testing::{crypto, domain, id, noon};

const CART: &str = "spiffe://td/ns/shop/sa/cart";

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn authority() -> Authority {
    let day = secs(24 * 3600);
    let lifetimes = Lifetimes {
        root: 100 * day,
        issuer: 10 * day,
        leaf: secs(3600),
    };
    NewAuthority::create(&domain("td"), lifetimes, noon(), &crypto())
        .unwrap()
        .authority
}

fn offline() -> Authority {
    Authority {
        root_key: KeyPlace::Offline,
        ..authority()
    }
}

/// When the states of these tests begin: in the first second there is, so they count from one.
fn begin() -> SystemTime {
    SystemTime::UNIX_EPOCH + secs(1)
}

fn state() -> CaState {
    CaState::new(domain("td"), authority(), begin())
}

fn forced(state: &CaState) -> CaState {
    state.advance(Go::force(state).unwrap()).unwrap()
}

fn stages(state: &CaState) -> Vec<Stage> {
    state.authorities().iter().map(Authority::stage).collect()
}

fn leaf(serial: &str, issuer: &str, generation: u64, not_after: SystemTime) -> Leaf {
    Leaf {
        serial: serial.to_owned(),
        not_after,
        issuer_key_id: issuer.to_owned(),
        generation,
    }
}

// === steps ===

#[test]
fn a_rotation_goes_through_its_steps_in_order() {
    let first = state();
    assert_eq!((first.generation(), first.next_step()), (1, None));
    assert_eq!(Go::force(&first), None);

    let new = authority();
    let prepared = first.prepare(new.clone()).unwrap();
    assert_eq!(prepared.generation(), 2, "the bundle has one more root");
    assert_eq!(stages(&prepared), [Stage::Active, Stage::Published]);
    assert_eq!(prepared.active().key_id(), first.active().key_id());
    assert_eq!(prepared.bundle().unwrap().roots().len(), 2);
    assert_eq!(prepared.authorities()[1].published_in(), 2);

    let active = forced(&prepared);
    assert_eq!(active.generation(), 2, "the bundle stays as it is");
    assert_eq!(stages(&active), [Stage::Retiring, Stage::Active]);
    assert_eq!(active.active().key_id(), new.key_id());

    let retired = forced(&active);
    assert_eq!((retired.generation(), retired.next_step()), (3, None));
    assert_eq!(stages(&retired), [Stage::Active]);
    assert_eq!(retired.active().key_id(), new.key_id());
    assert_eq!(retired.held_keys().count(), 2, "root and issuing CA");
}

/// A CA that is made anew is ahead of the one before, whatever had happened to that one.
#[test]
fn generations_begin_with_the_time_and_go_up_from_there() {
    let made = |now| CaState::new(domain("td"), authority(), now);
    for (now, generation) in [
        (SystemTime::UNIX_EPOCH - secs(9), 1),
        (SystemTime::UNIX_EPOCH, 1),
        (SystemTime::UNIX_EPOCH + secs(7), 7),
        (noon(), 1_800_000_000),
    ] {
        let state = made(now);
        assert_eq!(state.generation(), generation, "{now:?}");
        assert_eq!(state.active().published_in(), generation);
        assert_eq!(
            state.prepare(authority()).unwrap().generation(),
            generation + 1
        );
    }
    // A state that was written when they began with one continues as it was.
    let text = String::from_utf8(made(SystemTime::UNIX_EPOCH).to_bytes()).unwrap();
    let text = text.replace("\"generation\": 1", "\"generation\": 5");
    let state = CaState::from_bytes(text.as_bytes()).unwrap();
    let next = state.prepare(authority()).unwrap();
    assert_eq!((state.generation(), next.generation()), (5, 6));
}

#[test]
fn the_wrong_order_is_refused() {
    let first = state();
    let prepared = first.prepare(authority()).unwrap();
    let active = forced(&prepared);
    for (state, next) in [(&prepared, Step::Activate), (&active, Step::Retire)] {
        assert_eq!(
            state.prepare(authority()).unwrap_err(),
            StepError::Running { next }
        );
    }
    // A permission serves the state that it was given for, and no other.
    let go = |state: &CaState| Go::force(state).unwrap();
    assert_eq!(first.advance(go(&prepared)), Err(StepError::Stale));
    assert_eq!(active.advance(go(&prepared)), Err(StepError::Stale));
    assert_eq!(prepared.advance(go(&active)), Err(StepError::Stale));
    let again = forced(&active).prepare(authority()).unwrap();
    assert_eq!(again.advance(go(&prepared)), Err(StepError::Stale));
    assert_eq!(
        StepError::NotItsTurn {
            asked: Step::Retire,
            next: Some(Step::Activate)
        }
        .to_string(),
        "it is not the turn of retire: the next step is activate"
    );
}

#[test]
fn a_key_is_used_once() {
    let first = state();
    let key_id = first.active().key_id().to_owned();
    let twin = first.active().clone();
    assert_eq!(
        first.prepare(twin.clone()).unwrap_err(),
        StepError::KnownKey { key_id }
    );
    let mut other = authority();
    other.issuer = twin.issuer.clone();
    let key_id = twin.issuer.key_id.clone();
    assert_eq!(
        first.prepare(other).unwrap_err(),
        StepError::KnownKey { key_id }
    );
}

#[test]
fn a_distrusted_key_is_gone_at_once_and_never_taken_again() {
    let first = state();
    let old = first.active().clone();
    let key_id = old.key_id().to_owned();
    assert_eq!(
        first.distrust("ff", None).unwrap_err(),
        StepError::UnknownKey {
            key_id: "ff".to_owned()
        }
    );
    assert_eq!(
        first.distrust(&key_id, None).unwrap_err(),
        StepError::ActiveDistrusted {
            key_id: key_id.clone()
        }
    );
    // The issuing CA's key takes the whole authority with it.
    for named in [&key_id, old.issuer_key_id()] {
        let new = authority();
        let next = first.distrust(named, Some(new.clone())).unwrap();
        assert_eq!(stages(&next), [Stage::Active]);
        assert_eq!(next.active().key_id(), new.key_id());
        assert_eq!((next.generation(), next.active().published_in()), (2, 2));
        assert_eq!(next.distrusted(), [old.key_id(), old.issuer_key_id()]);
        let bundle = next.bundle().unwrap();
        assert!(bundle.distrusts_key(old.key_id()) && !bundle.distrusts_key(new.key_id()));
        assert_eq!(
            next.prepare(old.clone()).unwrap_err(),
            StepError::Distrusted {
                key_id: key_id.clone()
            }
        );
    }
    // A published one takes its place; a retiring or published one just goes.
    let prepared = first.prepare(authority()).unwrap();
    let next = prepared.distrust(&key_id, None).unwrap();
    assert_eq!((stages(&next), next.generation()), (vec![Stage::Active], 3));
    let published = prepared.authorities()[1].key_id();
    let next = prepared.distrust(published, None).unwrap();
    assert_eq!((stages(&next), next.generation()), (vec![Stage::Active], 3));
    let next = forced(&prepared).distrust(&key_id, None).unwrap();
    assert_eq!(
        (stages(&next), next.next_step()),
        (vec![Stage::Active], None)
    );
}

#[test]
fn an_issuing_ca_is_replaced_under_its_root() {
    let first = state();
    let old = first.active().clone();
    let covered = first
        .cover(old.issuer_key_id(), noon() + secs(9), secs(0))
        .unwrap()
        .unwrap();
    let next = covered.replace_issuer(authority().issuer).unwrap();
    assert_eq!(next.generation(), 1, "the bundle stays as it is");
    assert_eq!(next.bundle().unwrap().roots().len(), 1);
    assert_eq!(stages(&next), [Stage::Retiring, Stage::Active]);
    assert_ne!(next.active().issuer_key_id(), old.issuer_key_id());
    assert_eq!(next.active().key_id(), old.key_id());
    assert_eq!(CaState::from_bytes(&next.to_bytes()).unwrap(), next);
    // Its key is kept until no leaf of it can be alive, and no rotation begins before.
    assert!(next.held_keys().any(|key_id| key_id == old.issuer_key_id()));
    assert_eq!(
        next.replace_issuer(authority().issuer).unwrap_err(),
        StepError::Running { next: Step::Retire }
    );
    let Some(Gate::Wait(wait)) = gate(&next, &Members::new(None), noon()) else {
        panic!("a leaf of it may be alive");
    };
    assert_eq!(wait.until, noon() + secs(10));
    let done = forced(&next);
    assert_eq!((done.generation(), done.authorities().len()), (1, 1));
    assert!(done.held_keys().all(|key_id| key_id != old.issuer_key_id()));

    // Distrust of either takes both out.
    for key_id in [old.key_id(), old.issuer_key_id()] {
        let gone = next.distrust(key_id, Some(authority())).unwrap();
        assert_eq!((gone.authorities().len(), gone.distrusted().len()), (1, 3));
    }
    let first = CaState::new(domain("td"), offline(), begin());
    assert!(matches!(
        first.replace_issuer(authority().issuer),
        Err(StepError::Offline { .. })
    ));
}

#[test]
fn a_serial_number_is_revoked_while_it_may_be_alive() {
    let first = state();
    let key_id = first.active().issuer_key_id();
    let until = noon() + secs(101);
    let state = first
        .cover(key_id, noon() + secs(100), secs(0))
        .unwrap()
        .unwrap();
    let serials = |state: &CaState, now| -> Vec<String> {
        state.revoked(now).map(|r| r.serial.clone()).collect()
    };
    let revoked = state.revoke("0aFF", noon()).unwrap();
    assert_eq!(serials(&revoked, noon()), ["0aff"]);
    assert_eq!(revoked.revoke("0AFF", noon()).unwrap(), revoked, "once");
    assert_eq!(CaState::from_bytes(&revoked.to_bytes()).unwrap(), revoked);
    assert_eq!(serials(&revoked, until), ["0aff"]);
    assert_eq!(serials(&revoked, until + secs(1)), [""; 0]);
    // Members need no list of what has expired; a recovery window may still reach it.
    let window = Window::new(until, LONGEST_WINDOW, LONGEST_WINDOW);
    let covers = |state: &CaState| state.revocations().covers(&id(CART), "0aff", noon());
    let reach = until + 2 * LONGEST_WINDOW;
    assert!(
        window
            .bounded(until + LONGEST_WINDOW)
            .admits(until, window.until - secs(1))
    );
    let still = revoked.revoke("01", reach).unwrap();
    assert!(covers(&still));
    let later = still.revoke("02", reach + secs(1)).unwrap();
    assert!(!covers(&later), "no window reaches it");
    for wrong in ["", "1", "0g", "spiffe://td/a", &"00".repeat(21)] {
        assert_eq!(state.revoke(wrong, noon()), Err(RevokeError::Serial));
    }
    let mut full = revoked;
    full.revoked = vec![full.revoked[0].clone(); MAX_REVOKED];
    let too_many =
        |state: &CaState, now| matches!(state.revoke("02", now), Err(RevokeError::TooMany { .. }));
    assert!(too_many(&full, noon()));
    assert!(!too_many(&full, until + secs(1)), "they have expired");
    full.revoked = vec![full.revoked[0].clone(); MAX_REVOKED_KEPT];
    assert!(too_many(&full, until + secs(1)));
    CaState::from_bytes(&full.to_bytes()).unwrap();
}

#[test]
fn an_id_is_revoked_with_its_tokens_and_comes_back_with_a_later_leaf() {
    let other = id("spiffe://td/ns/shop/sa/other");
    let half = noon() + Duration::from_millis(500);
    let state = state()
        .open_token("aa".to_owned(), id(CART), noon() + secs(9), noon())
        .unwrap()
        .open_token("bb".to_owned(), other.clone(), noon() + secs(9), noon())
        .unwrap();
    let revoked = state.revoke_id(&id(CART), half).unwrap();
    assert_eq!(revoked.spend_token("aa", half), Err(TokenError::Used));
    revoked.spend_token("bb", half).unwrap();
    let begin = revoked.begins_after(&id(CART)).unwrap();
    assert_eq!(
        begin,
        noon() + secs(1),
        "whole seconds, as a certificate has"
    );
    let covers = |of: &SpiffeId, at| revoked.revocations().covers(of, "01", at);
    assert!(covers(&id(CART), noon()) && !covers(&id(CART), begin));
    assert!(!covers(&other, noon()));
    assert_eq!(revoked.begins_after(&other), None);
    // Again: the later moment counts, in one entry.
    let again = revoked.revoke_id(&id(CART), noon() + secs(5)).unwrap();
    assert_eq!(again.revoked_ids.len(), 1);
    assert_eq!(again.begins_after(&id(CART)), Some(noon() + secs(6)));
    assert!(matches!(
        state.revoke_id(&id("spiffe://foreign/x"), noon()),
        Err(RevokeError::WrongTrustDomain { .. })
    ));
    // Members hear of it while such a leaf may be alive, the CA knows it longer.
    let members = |state: &CaState, now| state.revoked_ids(now).len();
    let covered = state
        .cover(state.active().issuer_key_id(), noon() + secs(100), secs(0))
        .unwrap()
        .unwrap();
    let covered = covered.revoke_id(&id(CART), noon()).unwrap();
    assert_eq!(members(&covered, noon() + secs(101)), 1);
    assert_eq!(members(&covered, noon() + secs(102)), 0);
    assert!(covered.revocations().covers(&id(CART), "01", noon()));
}

#[test]
fn what_leaves_may_live_until_is_written_ahead() {
    let first = state();
    let key_id = first.active().issuer_key_id().to_owned();
    let at = |n| noon() + secs(n);
    let covered = first.cover(&key_id, at(100), secs(10)).unwrap().unwrap();
    assert_eq!(covered.leaf_until(), Some(at(111)), "a second for rounding");
    for until in [100, 111] {
        assert_eq!(covered.cover(&key_id, at(until), secs(10)), Ok(None));
    }
    let next = covered.cover(&key_id, at(112), secs(10)).unwrap().unwrap();
    assert_eq!(next.leaf_until(), Some(at(123)));
    assert_eq!(
        first.cover("ff", at(1), secs(1)).unwrap_err(),
        StepError::Stale
    );
}

// === the gate ===

#[test]
fn activation_waits_for_every_live_member() {
    let prepared = state().prepare(authority()).unwrap();
    let root = prepared.active().issuer_key_id();
    let wait = |members: &Members, now| match gate(&prepared, members, now).unwrap() {
        Gate::Go(go) => {
            assert_eq!(go.step(), Step::Activate);
            None
        }
        Gate::Wait(wait) => Some((wait.missing.len(), wait.unknown, wait.until)),
    };
    let mut members = Members::new(None);
    assert_eq!(wait(&members, noon()), None, "no member to wait for");

    // A unary client and one of ours, both with the bundle before.
    let end = noon() + secs(100);
    members.issued(&id(CART), None, leaf("01", root, 1, end));
    members.issued(&id(CART), Some("a"), leaf("02", root, 1, end + secs(5)));
    assert_eq!(wait(&members, noon()), Some((2, false, end + secs(5))));

    // In another member's name, for another instance, for too old a bundle: nothing.
    members.acknowledge(&id("spiffe://td/evil"), "a", 2);
    members.acknowledge(&id(CART), "b", 2);
    members.acknowledge(&id(CART), "a", 1);
    assert_eq!(wait(&members, noon()), Some((2, false, end + secs(5))));
    members.acknowledge(&id(CART), "a", 2);
    assert_eq!(wait(&members, noon()), Some((1, false, end)));

    // The unary one renews: its new leaf came with the new bundle, the old one has to end.
    members.issued(&id(CART), None, leaf("03", root, 2, end + secs(60)));
    assert_eq!(wait(&members, end), Some((1, false, end)));
    assert_eq!(wait(&members, end + secs(1)), None);
    members.prune(end + secs(1));
    assert_eq!(members.len(), 2);
    assert!(members.has_serial("03") && !members.has_serial("01"));
    members.prune(end + secs(61));
    assert!(members.is_empty());
}

#[test]
fn one_of_ours_that_renewed_without_a_word_is_not_waited_for_twice() {
    let prepared = state().prepare(authority()).unwrap();
    let root = prepared.active().issuer_key_id();
    let (end, later) = (noon() + secs(50), noon() + secs(90));
    let mut members = Members::new(None);
    members.issued(&id(CART), Some("a"), leaf("01", root, 1, end));
    members.issued(&id(CART), Some("a"), leaf("02", root, 2, later));
    let Some(Gate::Wait(wait)) = gate(&prepared, &members, noon()) else {
        panic!("it has not acknowledged, and its old leaf is alive");
    };
    assert_eq!(wait.until, end);
    assert_eq!(wait.missing[0].name, "a");
    assert!(matches!(
        gate(&prepared, &members, end + secs(1)),
        Some(Gate::Go(_))
    ));
}

#[test]
fn unknown_members_are_missing() {
    let prepared = state().prepare(authority()).unwrap();
    let until = noon() + secs(30);
    let members = Members::new(Some(until));
    let Some(Gate::Wait(wait)) = gate(&prepared, &members, until) else {
        panic!("leaves of an earlier process may be alive");
    };
    assert_eq!((wait.unknown, wait.until), (true, until));
    let go = gate(&prepared, &members, until + secs(1));
    assert!(matches!(go, Some(Gate::Go(_))));
}

/// A member that acknowledged, renewed, or is gone is not behind; to count them is as good as to list them.
#[test]
fn those_behind_are_counted_as_they_are_listed() {
    let mut members = Members::default();
    for (name, generation, end) in [("a", 1, 100), ("b", 1, 200), ("c", 2, 200), ("d", 1, 200)] {
        let leaf = leaf(name, "r", generation, noon() + secs(end));
        members.issued(&id(CART), Some(name), leaf);
    }
    members.issued(&id(CART), None, leaf("e", "r", 1, noon() + secs(200)));
    members.issued(&id(CART), None, leaf("f", "r", 3, noon() + secs(200)));
    members.acknowledge(&id(CART), "d", 2);
    for (generation, after, expected) in [
        (1, 0, 0),
        (2, 0, 3),
        (3, 0, 5),
        (4, 0, 6),
        (2, 100, 3),
        (2, 101, 2),
        (4, 201, 0),
    ] {
        let now = noon() + secs(after);
        let listed = members.without(generation, now).len();
        let counted = members.count_without(generation, now);
        assert_eq!(
            (listed, counted),
            (expected, expected),
            "{generation} {after}"
        );
    }
}

#[test]
fn a_member_with_many_leaves_is_named_and_holds_no_rotation_off() {
    let mut members = Members::new(None);
    let end = noon() + secs(100);
    let begun = state();
    let root = begun.active().issuer_key_id().to_owned();
    let mut flood = |generation, from: u64| {
        for n in from..from + 50 {
            let end = noon() + secs(100 + n);
            members.issued(
                &id(CART),
                Some("a"),
                leaf(&n.to_string(), &root, generation, end),
            );
        }
        members.clone()
    };
    let before = flood(1, 0);
    assert_eq!((before.len(), before.unknown_until(noon())), (1, None));
    assert!(before.leaves() <= 9);
    let prepared = begun.prepare(authority()).unwrap();
    let Some(Gate::Wait(wait)) = gate(&prepared, &before, noon()) else {
        panic!("it may use the old bundle");
    };
    assert_eq!((wait.missing.len(), wait.unknown), (1, false));
    assert_eq!(
        (wait.missing[0].name.as_str(), wait.until),
        ("a", end + secs(49))
    );
    // It continues, with leaves that come with the new bundle: the wait is no longer.
    let after = flood(2, 50);
    let waits = |now| matches!(gate(&prepared, &after, now), Some(Gate::Wait(_)));
    assert!(waits(end + secs(49)) && !waits(end + secs(50)));
    // Leaves of many generations are bounded too, and wait for the longest of the oldest.
    let mut many = Members::new(None);
    for n in 1..50 {
        many.issued(
            &id(CART),
            Some("a"),
            leaf(&n.to_string(), "r", n, noon() + secs(n)),
        );
    }
    assert!(many.leaves() <= 9);
    assert_eq!(many.without(49, noon()).len(), 1);
}

/// A table that is full forgets which members there are, and not which bundle their leaves came with.
#[test]
fn leaves_that_do_not_fit_hold_a_rotation_off_for_their_life() {
    let end = noon() + secs(100);
    let mut members = Members::new(None);
    for n in 0..MAX_MEMBERS {
        members.issued(&id(CART), None, leaf(&n.to_string(), "r", 2, end));
    }
    members.issued(&id(CART), None, leaf("old", "r", 1, end));
    for n in 0..200 {
        let later = noon() + secs(1000 + n);
        members.issued(&id(CART), None, leaf("new", "r", 2 + n, later));
    }
    assert_eq!(members.len(), MAX_MEMBERS);
    assert!(members.unknown_without(1, end).is_none());
    assert!(members.unknown_without(2, end).is_some());
    members.prune(noon() + secs(2000));
    assert_eq!(members.unknown_until(noon() + secs(2000)), None);
}

/// Each way in which a state comes to have a table of members, or to have none any more, and
/// whether an unknown member may be alive in the end.
#[test]
fn a_table_that_is_left_is_whole_or_not_there() {
    let end = noon() + secs(100);
    let state = state();
    let key_id = state.active().issuer_key_id().to_owned();
    let covered = state.cover(&key_id, end, secs(10)).unwrap().unwrap();
    let mut members = Members::default();
    members.issued(&id(CART), Some("a"), leaf("01", &key_id, 1, end));
    let unknown = |state: &CaState| state.members().unknown_until(noon()).is_some();
    assert!(unknown(&covered), "nothing was left");
    let left = covered.leave(&members);
    assert!(!unknown(&left));
    assert_eq!(left.members(), members);
    // Steps that sign nothing keep it.
    assert_eq!(left.prepare(authority()).unwrap().members(), members);
    // A leaf that needs no other mark, and one that needs one: neither is in the table.
    for until in [end, end + secs(60)] {
        let next = left.cover(&key_id, until, secs(10)).unwrap().unwrap();
        assert!(unknown(&next), "{until:?}");
        assert!(next.leaf_until().unwrap() >= until);
        assert_eq!(next.cover(&key_id, until, secs(10)), Ok(None));
    }
    // A second acknowledgement replaces the first.
    assert!(left.leave(&Members::default()).members().is_empty());

    let mut many = Members::default();
    for n in 0..=MAX_LEFT {
        many.issued(&id(CART), None, leaf(&n.to_string(), &key_id, 1, end));
        if n + 1 == MAX_LEFT {
            assert_eq!(covered.leave(&many).members(), many);
        }
    }
    assert!(unknown(&left.leave(&many)), "more than fit");
    // One that was written all the same is no state.
    let mut written = left;
    written.left = Some(many);
    assert!(matches!(
        CaState::from_bytes(&written.to_bytes()),
        Err(StateError::TooMany { max: MAX_LEFT, .. })
    ));
}

/// As many leaves as may be left, under names so long that the state could not be read again.
#[test]
fn a_table_that_no_store_takes_is_not_left() {
    let end = noon() + secs(100);
    let state = state();
    let key_id = state.active().issuer_key_id().to_owned();
    let covered = state.cover(&key_id, end, secs(10)).unwrap().unwrap();
    let longest = id(&format!("spiffe://td/{}", "a".repeat(MAX_ID_LEN - 12)));
    let mut members = Members::default();
    for n in 0..MAX_STATE / MAX_ID_LEN {
        members.issued(&longest, None, leaf(&n.to_string(), &key_id, 1, end));
        if n == 0 {
            assert_eq!(covered.leave(&members).members(), members);
        }
    }
    assert!(members.leaves() <= MAX_LEFT);
    let left = covered.leave(&members);
    assert!(left.to_bytes().len() <= MAX_STATE);
    assert_eq!(left, covered, "as if the process had died");
    assert_eq!(left.members().unknown_until(noon()), covered.leaf_until());
    // Nor does one stay that an earlier process has left.
    assert_eq!(covered.leave(&Members::default()).leave(&members), covered);
}

/// What is written in whole seconds never ends before its leaf does.
#[test]
fn moments_are_rounded_up_in_a_table_that_is_left() {
    for (nanos, secs_later) in [(0, 0), (1, 1), (999_999_999, 1)] {
        let end = noon() + Duration::from_nanos(nanos);
        let mut members = Members::new(Some(end));
        members.issued(&id(CART), None, leaf("01", "k", 1, end));
        let back = CaState::from_bytes(&state().leave(&members).to_bytes()).unwrap();
        let rounded = noon() + secs(secs_later);
        let missing = back.members().without(2, noon());
        assert_eq!(missing[0].until, rounded, "{nanos}");
        assert_eq!(back.members().unknown_until(noon()), Some(rounded));
    }
}

/// What another writer may have put into the table: a member without a leaf is dropped, and what
/// is no member is no state.
#[test]
fn a_table_that_is_left_is_read_by_its_rules() {
    let mut members = Members::default();
    members.issued(&id(CART), Some("a"), leaf("01", "k", 1, noon()));
    let text = String::from_utf8(state().leave(&members).to_bytes()).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut read = |name: &str, value: serde_json::Value| {
        json["left"]["members"][0][name] = value;
        CaState::from_bytes(json.to_string().as_bytes())
    };
    let back = read("instance", "b".into()).unwrap();
    assert_eq!(back.members().under("k", noon())[0].name, "b");
    let back = read("instance", serde_json::Value::Null).unwrap();
    assert_eq!(back.members().under("k", noon())[0].name, "01");
    let back = read("leaves", serde_json::json!([])).unwrap();
    assert!(back.members().is_empty());
    for (name, value) in [("id", "spiffe://"), ("more", "x")] {
        let broken = read(name, value.into()).unwrap_err();
        assert!(matches!(broken, StateError::Malformed { .. }), "{name}");
    }
}

#[test]
fn retirement_waits_for_the_last_leaf() {
    let first = state();
    let old = first.active().issuer_key_id().to_owned();
    let covered = first
        .cover(&old, noon() + secs(9), secs(0))
        .unwrap()
        .unwrap();
    let active = forced(&covered.prepare(authority()).unwrap());
    let mut members = Members::new(None);
    let end = noon() + secs(8);
    members.issued(&id(CART), None, leaf("01", &old, 1, end));
    members.issued(
        &id(CART),
        None,
        leaf("02", active.active().issuer_key_id(), 2, end),
    );
    let Some(Gate::Wait(wait)) = gate(&active, &members, noon()) else {
        panic!("a leaf of the old root is alive");
    };
    assert_eq!((wait.step, wait.missing.len()), (Step::Retire, 1));
    assert_eq!(wait.until, noon() + secs(10));
    let go = gate(&active, &members, noon() + secs(11));
    assert!(matches!(go, Some(Gate::Go(_))));
}

#[test]
fn what_is_due_comes_at_half_of_a_life() {
    let day = secs(24 * 3600);
    let held = state();
    assert_eq!(due(&held, noon() + 4 * day), None);
    assert_eq!(due(&held, noon() + 5 * day), Some(Due::RenewIssuer));
    assert_eq!(due(&held, noon() + 50 * day), Some(Due::RotateRoot));
    let prepared = held.prepare(authority()).unwrap();
    assert_eq!(due(&prepared, noon() + 50 * day), None, "one is running");
    let away = CaState::new(domain("td"), offline(), begin());
    assert_eq!(due(&away, noon() + 4 * day), None);
    assert_eq!(due(&away, noon() + 5 * day), Some(Due::WantSuccessor));
    assert_eq!(due(&away, noon() + 50 * day), Some(Due::WantSuccessor));
}

// === tokens ===

#[test]
fn a_token_serves_once_and_until_its_end() {
    let end = noon() + secs(10);
    let open = |state: &CaState, hash: &str, end, now| {
        state.open_token(hash.to_owned(), id(CART), end, now)
    };
    let state = open(&state(), "aa", end, noon()).unwrap();
    assert_eq!(state.spend_token("bb", noon()), Err(TokenError::Unknown));
    assert_eq!(state.spend_token("aa", end), Err(TokenError::Expired));
    let (spent, owner) = state.spend_token("aa", end - secs(1)).unwrap();
    assert_eq!(owner, id(CART));
    assert_eq!(spent.spend_token("aa", noon()), Err(TokenError::Used));
    assert!(spent.tokens()[0].is_used());
    assert_eq!(spent.tokens()[0].id(), &id(CART));
    // Forgotten after its end, and only then.
    let more = open(&spent, "cc", end, noon()).unwrap();
    assert_eq!(more.tokens().len(), 2);
    let more = open(&more, "dd", end + secs(9), end).unwrap();
    assert_eq!(more.tokens().len(), 1);
    assert_eq!(more.tokens()[0].expires(), end + secs(9));
}

#[test]
fn there_is_an_end_to_open_tokens() {
    let mut state = state();
    state.tokens = (0..MAX_TOKENS)
        .map(|n| {
            let first = state.authorities[0].clone();
            let opened = CaState::new(domain("td"), first, begin()).open_token(
                n.to_string(),
                id(CART),
                noon() + secs(9),
                noon(),
            );
            opened.unwrap().tokens.remove(0)
        })
        .collect();
    let more = |now| state.open_token("x".to_owned(), id(CART), noon() + secs(99), now);
    assert_eq!(more(noon()).unwrap_err(), TokenError::TooMany);
    more(noon() + secs(9)).unwrap();
}

// === bytes ===

/// A state with something of everything.
fn whole() -> CaState {
    let window = Window {
        until: noon() + secs(9),
        expired_since: noon() - secs(9),
    };
    let first = state();
    let whole = first
        .cover(first.active().issuer_key_id(), noon() + secs(100), secs(10))
        .unwrap()
        .unwrap()
        .prepare(offline())
        .unwrap()
        .open_token("aa".to_owned(), id(CART), noon() + secs(5), noon())
        .unwrap()
        .recover(Some(window), noon())
        .revoke_id(&id(CART), noon())
        .unwrap();
    assert_eq!(whole.recovery(noon()), Some(window));
    assert_eq!(whole.recovery(noon() + secs(9)), None);
    let mut members = Members::new(Some(noon() + secs(7)));
    members.issued(&id(CART), Some("a"), leaf("01", "k", 2, noon() + secs(5)));
    members.issued(&id(CART), Some("a"), leaf("02", "k", 2, noon() + secs(6)));
    members.issued(&id(CART), None, leaf("03", "k", 1, noon() + secs(6)));
    members.acknowledge(&id(CART), "a", 2);
    let whole = whole.leave(&members);
    assert_eq!(whole.members(), members);
    whole
}

#[test]
fn a_state_reads_back_and_half_a_state_does_not() {
    let whole = whole();
    let bytes = whole.to_bytes();
    assert_eq!(CaState::from_bytes(&bytes).unwrap(), whole);
    let text = String::from_utf8(bytes).unwrap();
    assert!(!text.contains("PRIVATE KEY"));

    let refused = |from: &str, to: &str| {
        let broken = text.replacen(from, to, 1);
        assert_ne!(broken, text, "{from} is in it");
        CaState::from_bytes(broken.as_bytes()).unwrap_err()
    };
    assert!(matches!(
        CaState::from_bytes(&text.as_bytes()[..text.len() / 2]),
        Err(StateError::Malformed { .. })
    ));
    assert!(matches!(
        refused("\"generation\"", "\"more\": 1, \"generation\""),
        StateError::Malformed { .. }
    ));
    assert_eq!(
        refused("\"form\": 1", "\"form\": 2"),
        StateError::Form { got: 2 }
    );
    assert_eq!(
        refused("\"active\"", "\"retiring\""),
        StateError::Active { got: 0 }
    );
    assert_eq!(
        refused("\"published\"", "\"active\""),
        StateError::Active { got: 2 }
    );
    assert!(matches!(
        refused("BEGIN CERTIFICATE", "BEGIN SOMETHING"),
        StateError::Pem(_)
    ));
    let key_id = whole.active().key_id();
    assert_eq!(
        refused(
            "\"distrusted\": []",
            &format!("\"distrusted\": [\"{key_id}\"]")
        ),
        StateError::Key {
            key_id: key_id.to_owned()
        }
    );
    let mut many = whole.clone();
    many.distrusted = (0..=MAX_DISTRUSTED).map(|n| n.to_string()).collect();
    assert!(matches!(
        CaState::from_bytes(&many.to_bytes()),
        Err(StateError::TooMany {
            max: MAX_DISTRUSTED,
            ..
        })
    ));
    let mut twice = whole.clone();
    twice.authorities.push(Authority {
        stage: Stage::Published,
        ..authority()
    });
    assert_eq!(
        CaState::from_bytes(&twice.to_bytes()),
        Err(StateError::Published { got: 2 })
    );
}
