use std::collections::VecDeque;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tokio::time::sleep;

use super::schedule::{attempt, pause, renew_at};
use super::*;
use crate::bundle::BundleSet;
use crate::clock::{Clock, TokioClock};
use crate::id::SpiffeId;
use crate::issue::ca::LocalCa;
use crate::issue::{Csr, IssueError, IssuedChain, Issuer, csr};
use crate::status::StatusReader;
use crate::store::{IdentityReader, IdentityState, identity};
use crate::svid::{Rejected, SvidError, Usage, validate};
use crate::testing::{crypto, domain, id, minutes, noon};

const CART: &str = "spiffe://td/ns/shop/sa/cart";

// === expiry ===

fn days(n: u64) -> Duration {
    secs(n * 86_400)
}

fn expiry(kind: expiry::CertificateKind, life: Duration) -> expiry::Expiry {
    let ca = crate::testing::Ca::new("root");
    let mut one = expiry::expiries(&ca.state("td")).remove(0);
    (one.kind, one.not_before, one.not_after) = (kind, noon(), noon() + life);
    one
}

#[test]
fn urgency_grows_with_the_share_of_life_that_is_gone() {
    use expiry::{CertificateKind as Kind, Urgency as U};
    // Kind, days of life, then days of life that are left and what that means.
    let table = [
        (
            Kind::Leaf,
            24,
            [(9, U::Fine), (8, U::Warning), (3, U::Error)],
        ),
        (
            Kind::Issuer,
            24,
            [(9, U::Fine), (4, U::Warning), (0, U::Error)],
        ),
        (
            Kind::Root,
            24,
            [(9, U::Fine), (8, U::Warning), (3, U::Error)],
        ),
        (
            Kind::Root,
            3650,
            [(61, U::Fine), (60, U::Warning), (22, U::Error)],
        ),
        (
            Kind::Leaf,
            3650,
            [(1217, U::Fine), (1216, U::Warning), (456, U::Error)],
        ),
    ];
    for (kind, life, cases) in table {
        let one = expiry(kind, days(life));
        for (left, urgency) in cases {
            let now = one.not_after - days(left);
            assert_eq!(
                one.urgency(now),
                urgency,
                "{kind:?} of {life} days, {left} left"
            );
        }
        assert_eq!(one.urgency(one.not_after + days(1)), U::Error);
        let warning = one.next_change(noon()).unwrap();
        assert_eq!(one.urgency(warning), U::Warning);
        assert_eq!(one.urgency(warning - secs(1)), U::Fine);
        let error = one.next_change(warning).unwrap();
        assert_eq!(one.urgency(error), U::Error);
        assert_eq!(one.next_change(error), None);
    }
}

#[tokio::test]
async fn leaf_issuer_and_roots_are_told_of_once() {
    let ca = LocalCa::create(
        domain("td"),
        days(365),
        &crypto(),
        TokioClock::new(noon()).shared(),
    );
    let ca = ca.unwrap();
    let (svid, bundle) = obtain(&ca, &id(CART), &crypto(), &TokioClock::new(noon()))
        .await
        .unwrap();
    let chained = svid.chain().len() - 1;
    let state = IdentityState::new(svid, bundle.into());
    let all = expiry::expiries(&state);
    let of = |kind| all.iter().filter(|e| e.kind == kind).count();
    assert_eq!(of(expiry::CertificateKind::Leaf), 1);
    assert_eq!(of(expiry::CertificateKind::Issuer), chained);
    assert_eq!(of(expiry::CertificateKind::Root), 1);
    let root = all
        .iter()
        .find(|e| e.kind == expiry::CertificateKind::Root)
        .unwrap();
    assert_eq!((root.id.as_str(), root.key_id.is_empty()), ("td", false));
}

// === schedule ===

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn renewal_is_due_around_half_of_the_life() {
    let end = noon() + secs(1000);
    assert_eq!(renew_at(noon(), end, 0.0), noon() + secs(450));
    assert_eq!(renew_at(noon(), end, 0.5), noon() + secs(500));
    assert_eq!(renew_at(noon(), end, 1.0), noon() + secs(550));
    assert_eq!(renew_at(noon(), end, f64::NAN), noon() + secs(450));
    assert_eq!(renew_at(noon(), end, -7.0), noon() + secs(450));
    assert_eq!(renew_at(noon(), end, 7.0), noon() + secs(550));
    assert_eq!(
        renew_at(end, noon(), 0.5),
        end,
        "ended before it was issued"
    );
}

#[test]
fn pauses_double_and_shrink_toward_the_end() {
    let at = |left: u64, failures| pause(noon(), Some(noon() + secs(left)), failures, None, 0.0);
    assert_eq!(at(10_000, 1), secs(1));
    assert_eq!(at(10_000, 2), secs(2));
    assert_eq!(at(10_000, 5), secs(16));
    assert_eq!(at(10_000, 7), secs(60));
    assert_eq!(at(10_000, u32::MAX), secs(60));
    assert_eq!(at(100, 7), secs(10), "a tenth of what is left");
    assert_eq!(
        pause(noon(), Some(noon() + secs(100)), 7, None, 1.0),
        secs(5),
        "half of it at least"
    );
    assert_eq!(at(0, 7), secs(10), "it has ended: no long pause");
    assert_eq!(pause(noon(), None, 3, None, 0.0), secs(4));
    let last = Duration::from_millis(40);
    assert_eq!(
        pause(noon(), Some(noon() + last), 7, None, 0.0),
        last,
        "not past the end"
    );
    assert_eq!(
        pause(
            noon(),
            Some(noon() + Duration::from_millis(500)),
            7,
            None,
            0.0
        ),
        Duration::from_millis(100)
    );
}

#[test]
fn what_an_issuer_asks_for_is_granted_within_reason() {
    let at = |left: u64, asked| pause(noon(), Some(noon() + secs(left)), 1, Some(asked), 0.0);
    assert_eq!(at(10_000, secs(77)), secs(77));
    assert_eq!(at(10_000, Duration::MAX), secs(600));
    assert_eq!(at(100, secs(77)), secs(50), "half of what is left");
    assert_eq!(at(10_000, Duration::ZERO), secs(1));
    assert_eq!(pause(noon(), None, 1, Some(Duration::MAX), 0.0), secs(600));
    assert_eq!(at(0, Duration::MAX), secs(60), "it has ended");
}

proptest! {
    #[test]
    fn a_schedule_stays_in_its_bounds(life in 1..10_000_000_u64, draw in 0.0..1.0_f64, n in 1..40_u32) {
        let end = noon() + secs(life);
        let due = renew_at(noon(), end, draw).duration_since(noon()).unwrap().as_secs_f64();
        let life_secs = life as f64;
        prop_assert!((0.449 * life_secs..=0.551 * life_secs).contains(&due));
        let pause = pause(noon(), Some(end), n, None, draw);
        prop_assert!(pause <= secs(life) / 10 && pause <= secs(60));
        prop_assert!(pause >= Duration::from_millis(50));
    }
}

proptest! {
    /// From the moment at which renewal is due, an issuer that fails or hangs is asked again and again: more
    /// often as the end comes near, before the end, and for ever after it.
    #[test]
    fn attempts_come_more_often_toward_the_end_and_never_stop(
        life in 60..10_000_000_u64,
        draws in proptest::collection::vec(0.0..1.0_f64, 8),
        asked in 0..2_000_u64,
        hangs in proptest::bool::ANY,
    ) {
        let (end, mut draw) = (noon() + secs(life), draws.iter().copied().cycle());
        let mut next = || draw.next().unwrap_or_default();
        let asked = (asked > 1_000).then(|| secs(asked));
        let mut now = renew_at(noon(), end, next());
        let (mut before, mut after) = (0, 0);
        for failures in 1.. {
            let left = end.duration_since(now).unwrap_or_default();
            let limit = attempt(now, Some(end));
            let soon = left / 2 >= limit || left.is_zero() || limit == secs(10);
            prop_assert!(limit <= secs(30) && soon);
            now += if hangs { limit } else { Duration::ZERO };
            let left = end.duration_since(now).unwrap_or_default();
            let pause = pause(now, Some(end), failures, asked, next());
            if left.is_zero() {
                after += 1;
                let most = if asked.is_some() { secs(60) } else { secs(10) };
                prop_assert!(pause <= most && pause >= Duration::from_millis(500));
            } else {
                before += 1;
                let most = if asked.is_some() { left / 2 } else { left / 10 };
                prop_assert!(pause <= most.max(Duration::from_millis(100)).min(left));
            }
            prop_assert!(!pause.is_zero());
            now += pause;
            if after > 20 {
                break;
            }
        }
        // A tenth of what is left each time comes to the end in some twenty attempts at least, and half
        // of it in a few.
        let least = match (asked, hangs) {
            (None, false) => 20,
            _ => 2,
        };
        prop_assert!(before >= least, "{before} attempts before the end");
    }
}

// === driver ===

/// What a scripted CA does with one request.
enum Act {
    Answer,
    Fail,
    FailFor(Duration),
    Hang,
    Stale,
    WrongKey,
    WrongId,
    WrongBundle,
}

/// A CA that plays its script, and then answers as it should.
#[derive(Clone)]
struct Scripted {
    ca: Arc<LocalCa>,
    script: Arc<Mutex<VecDeque<Act>>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer for Scripted {
    async fn issue(&self, id: &SpiffeId, csr: &Csr) -> Result<IssuedChain, IssueError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let act = self
            .script
            .lock()
            .unwrap()
            .pop_front()
            .unwrap_or(Act::Answer);
        let down = |retry_after| IssueError::Unavailable {
            reason: "down".to_owned(),
            retry_after,
        };
        match act {
            Act::Answer => self.ca.sign(id, csr),
            Act::Fail => Err(down(None)),
            Act::FailFor(time) => Err(down(Some(time))),
            Act::Hang => pending().await,
            Act::Stale => Ok(IssuedChain {
                issued_at: noon() - minutes(60 * 24),
                ..self.ca.sign(id, csr)?
            }),
            Act::WrongKey => self.ca.sign(id, &csr::generate(id, &crypto()).unwrap().1),
            Act::WrongId => self.ca.sign(&crate::testing::id("spiffe://td/other"), csr),
            Act::WrongBundle => Ok(IssuedChain {
                bundle: crate::testing::Ca::new("other").bundle("td"),
                ..self.ca.sign(id, csr)?
            }),
        }
    }
}

/// A rotation that runs, on paused time, against a scripted CA with leaves of 1,000 s.
struct World {
    clock: TokioClock,
    reader: IdentityReader,
    status: StatusReader<RotationStatus>,
    issuer: Scripted,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

fn start(script: impl IntoIterator<Item = Act>) -> World {
    let clock = TokioClock::new(noon());
    let ca = LocalCa::create(
        domain("td"),
        minutes(60 * 24 * 365),
        &crypto(),
        clock.shared(),
    );
    let issuer = Scripted {
        ca: Arc::new(ca.unwrap().with_leaf_lifetime(secs(1000))),
        script: Arc::new(Mutex::new(script.into_iter().collect())),
        asked: Arc::default(),
    };
    let rotation = Rotation::new(id(CART), issuer.clone(), &crypto(), clock.shared(), || 0.5);
    let status = rotation.status();
    let (writer, reader) = identity(IdentityState::from_bundles(BundleSet::new()));
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(rotation.run(Arc::new(writer), async {
        let _ = stopped.await;
    }));
    World {
        clock,
        reader,
        status,
        issuer,
        stop: Some(stop),
        task,
    }
}

impl World {
    fn serial(&self) -> String {
        self.reader
            .load()
            .default_svid()
            .unwrap()
            .serial()
            .to_owned()
    }

    /// How long ago the CA's clock says that the SVID in use was issued.
    fn age(&self) -> Duration {
        let state = self.reader.load();
        self.clock
            .now()
            .duration_since(state.default_svid().unwrap().issued_at())
            .unwrap()
    }

    fn assert_valid(&self) {
        let state = self.reader.load();
        let svid = state.default_svid().unwrap();
        validate(
            svid.chain(),
            &state,
            self.clock.now(),
            Usage::Client,
            &crypto(),
        )
        .unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_svid_is_renewed_for_ever_in_the_middle_of_its_life() {
    let mut world = start([]);
    world.reader.changed().await.unwrap();
    assert_eq!(
        world.reader.load().bundles().len(),
        1,
        "the bundle came with it"
    );
    let mut serials = vec![world.serial()];
    for turn in 2..=20 {
        let before = world.clock.now();
        world.reader.changed().await.unwrap();
        let waited = world.clock.now().duration_since(before).unwrap();
        assert!((secs(499)..secs(502)).contains(&waited), "{waited:?}");
        assert_eq!(world.status.load().rotations, turn);
        assert!(!serials.contains(&world.serial()));
        serials.push(world.serial());
        world.assert_valid();
    }
    let status = world.status.load();
    assert_eq!(
        status.not_after,
        Some(status.renewed_at.unwrap() + secs(1000))
    );
    assert_eq!((status.failures, status.last_error), (0, None));
}

#[tokio::test(start_paused = true)]
async fn the_last_good_one_is_kept_while_the_ca_is_down() {
    let mut world = start([Act::Answer].into_iter().chain((0..40).map(|_| Act::Fail)));
    world.reader.changed().await.unwrap();
    let serial = world.serial();
    // Down from half life on, for almost all that is left.
    sleep(secs(900)).await;
    assert_eq!(world.serial(), serial);
    world.assert_valid();
    let status = world.status.load();
    assert_eq!(status.rotations, 1);
    assert!((8..40).contains(&status.failures), "{}", status.failures);
    assert!(matches!(
        status.last_error,
        Some(ObtainError::Issue(IssueError::Unavailable { .. }))
    ));
    // Back: renewed before the end.
    world.issuer.script.lock().unwrap().clear();
    world.reader.changed().await.unwrap();
    assert_ne!(world.serial(), serial);
    assert!(world.clock.now() < noon() + secs(1000));
    assert_eq!(world.status.load().last_error, None);
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_is_down_past_the_end_is_asked_on() {
    let mut world = start(
        [Act::Answer]
            .into_iter()
            .chain((0..1000).map(|_| Act::Fail)),
    );
    world.reader.changed().await.unwrap();
    sleep(secs(3000)).await;
    let asked = world.issuer.asked.load(Ordering::Relaxed);
    // A tenth of what is left at a time makes most of them fall before the end.
    assert!((250..500).contains(&asked), "no spin: {asked} requests");
    world.issuer.script.lock().unwrap().clear();
    world.reader.changed().await.unwrap();
    world.assert_valid();
}

#[tokio::test(start_paused = true)]
async fn wrong_answers_are_never_written() {
    for (act, expected) in [
        (Act::WrongKey, "KeyMismatch"),
        (Act::WrongId, "WrongId"),
        (Act::WrongBundle, "UnknownIssuer"),
        (Act::Hang, "Timeout"),
    ] {
        let mut world = start([Act::Answer, act]);
        world.reader.changed().await.unwrap();
        let serial = world.serial();
        while world.status.load().failures == 0 {
            world.status.changed().await.unwrap();
        }
        let error = world.status.load().last_error.unwrap();
        let name = match &error {
            ObtainError::Svid(SvidError::KeyMismatch { .. }) => "KeyMismatch",
            ObtainError::WrongId { .. } => "WrongId",
            ObtainError::NotValid(Rejected::UnknownIssuer { .. }) => "UnknownIssuer",
            ObtainError::Timeout => "Timeout",
            other => panic!("{other:?}"),
        };
        assert_eq!(name, expected);
        assert_eq!(world.serial(), serial);
        world.reader.changed().await.unwrap();
        assert_ne!(
            world.serial(),
            serial,
            "{expected}: the next answer was good"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_asks_for_time_gets_it() {
    let mut world = start([Act::FailFor(secs(77))]);
    world.reader.changed().await.unwrap();
    assert_eq!(world.clock.now().duration_since(noon()).unwrap(), secs(77));
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_is_noticed_within_seconds() {
    // Forward, over the end of the life: renewed at once.
    let mut world = start([]);
    world.reader.changed().await.unwrap();
    world.clock.set(noon() + secs(25 * 3600));
    let before = tokio::time::Instant::now();
    world.reader.changed().await.unwrap();
    assert!(before.elapsed() <= secs(5), "{:?}", before.elapsed());
    world.assert_valid();

    // Back by an hour, to before the leaf's time: there is a new one, and no spin.
    let right = world.clock.now();
    world.clock.set(right - secs(3600));
    let before = tokio::time::Instant::now();
    world.reader.changed().await.unwrap();
    assert!(before.elapsed() <= secs(5), "{:?}", before.elapsed());
    world.assert_valid();
    let asked = world.issuer.asked.load(Ordering::Relaxed);
    sleep(secs(300)).await;
    assert_eq!(world.issuer.asked.load(Ordering::Relaxed), asked);
    // Corrected: renewed at once, for it is due.
    world.clock.set(right + secs(300));
    let before = tokio::time::Instant::now();
    world.reader.changed().await.unwrap();
    assert!(before.elapsed() <= secs(5), "{:?}", before.elapsed());
    assert!(world.age() <= secs(5));

    // A long pause after failures ends when the clock is corrected.
    let mut world = start((0..9).map(|_| Act::Fail));
    while world.status.load().failures < 9 {
        world.status.changed().await.unwrap();
    }
    world.clock.set(world.clock.now() + secs(3600));
    let before = tokio::time::Instant::now();
    world.reader.changed().await.unwrap();
    assert!(before.elapsed() <= secs(5), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_issuer_whose_answers_are_due_at_once_is_not_asked_in_a_loop() {
    let world = start((0..1000).map(|_| Act::Stale));
    sleep(secs(30)).await;
    let asked = world.issuer.asked.load(Ordering::Relaxed);
    assert!((10..40).contains(&asked), "{asked} requests");
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_ends_is_reported() {
    let mut world = start([]);
    world.reader.changed().await.unwrap();
    world.clock.set(noon() + minutes(60 * 24 * 365) - secs(20));
    sleep(secs(60)).await;
    assert!(matches!(
        world.status.load().last_error,
        Some(ObtainError::Issue(IssueError::CaNotValid { .. }))
    ));
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_it_is_told_to() {
    let mut world = start([Act::Hang]);
    tokio::task::yield_now().await;
    world.stop.take().unwrap().send(()).unwrap();
    world.task.await.unwrap();
    assert_eq!(
        world.reader.changed().await.unwrap_err(),
        crate::store::SourceEnded
    );
}

#[tokio::test(start_paused = true)]
async fn an_svid_that_is_there_already_is_taken_over() {
    let world = start([]);
    let (svid, bundle) = obtain(&world.issuer, &id(CART), &crypto(), &world.clock)
        .await
        .unwrap();
    let serial = svid.serial().to_owned();
    let (writer, mut reader) = identity(IdentityState::new(svid, bundle.into()));
    let rotation = Rotation::new(
        id(CART),
        world.issuer.clone(),
        &crypto(),
        world.clock.shared(),
        || 0.0,
    );
    let before: SystemTime = world.clock.now();
    tokio::spawn(rotation.run(Arc::new(writer), pending()));
    let state = reader.changed().await.unwrap();
    assert_ne!(state.default_svid().unwrap().serial(), serial);
    let waited = world.clock.now().duration_since(before).unwrap();
    assert!((secs(449)..secs(452)).contains(&waited), "{waited:?}");
}
