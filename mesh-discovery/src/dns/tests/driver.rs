//! The driver with a script in place of the wire, in virtual time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use inmesh_core::authorize::DefaultAction;
use inmesh_core::discover::{Gone, Inbox, Message, Sink, SourceState};
use inmesh_core::drain::{DrainTrigger, Phase, drain};
use inmesh_core::model::{
    AppProtocol, Host, Kind, Namespace, ObjectKey, Service, ServiceName, ServicePort, SourceId,
    Transport, Workload,
};
use inmesh_core::snapshot::{Change, Op, Settings, Snapshot, SnapshotReader, snapshot};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::super::early::Early;
use super::super::plan::Outcome;
use super::super::resolver::{LookUp, drive};
use super::{addresses, host};

/// What each name comes to, and when it was asked for, in seconds since the start.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    outcomes: HashMap<Host, Outcome>,
    asked: Vec<(Host, u64)>,
}

impl Script {
    fn say(&self, name: &str, outcome: Outcome) {
        self.told().outcomes.insert(host(name), outcome);
    }

    fn asked(&self, name: &str) -> Vec<u64> {
        let told = self.told();
        let asked = told.asked.iter().filter(|(h, _)| *h == host(name));
        asked.map(|(_, at)| *at).collect()
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().expect("no panic")
    }
}

#[derive(Clone)]
struct Scripted(Script, Instant);

impl LookUp for Scripted {
    async fn look_up(&self, host: &Host, _: &Early) -> Outcome {
        let at = self.1.elapsed().as_secs();
        let mut told = self.0.told();
        told.asked.push((host.clone(), at));
        let outcome = told.outcomes.get(host).cloned();
        outcome.unwrap_or_else(Outcome::unknown)
    }
}

/// A driver that runs, and the snapshot that it reads and feeds.
pub(super) struct World {
    pub(super) reader: SnapshotReader,
    /// What others than the driver push.
    other: Sink,
    /// The last state that the driver has said.
    state: watch::Receiver<Option<SourceState>>,
    drain: DrainTrigger,
    driver: JoinHandle<Result<(), Gone>>,
}

impl World {
    pub(super) fn start<F>(run: impl FnOnce(Sink, inmesh_core::drain::Drain) -> F) -> Self
    where
        F: Future<Output = Result<(), Gone>> + Send + 'static,
    {
        let workload = Workload::new("shop", "cart", "cart").expect("names");
        let settings = Settings::new(workload, DefaultAction::Deny);
        let (mut writer, reader) = snapshot(Snapshot::new(settings));
        let mut inbox = Inbox::new(reader.clone());
        let sink = inbox.sink(SourceId::new("dns"));
        let other = inbox.sink(SourceId::new("test"));
        let (say, state) = watch::channel(None);
        tokio::spawn(async move {
            while let Some(message) = inbox.next().await {
                match message {
                    Message::Change(change, _) => drop(writer.apply(change)),
                    Message::State(_, state) => drop(say.send_replace(Some(state))),
                    _ => {}
                }
            }
        });
        let (drain, watch) = drain();
        let driver = tokio::spawn(run(sink, watch));
        Self {
            reader,
            other,
            state,
            drain,
            driver,
        }
    }

    async fn change(&self, op: Op) {
        let change = Change::update(SourceId::new("test"), vec![op]);
        self.other.push(change).await.expect("the writer lives");
    }

    /// A Service that stands outside, under the name `x.shop`.
    pub(super) async fn want(&self, at: Host) {
        let namespace = Namespace::new("shop").expect("a name");
        let name = ServiceName::new(&namespace, "x").expect("a name");
        let ports = vec![ServicePort::new("http", 80, AppProtocol::Http1)];
        let service = Service::new(name, ports).external(at, Transport::Plain);
        self.change(Op::put(service)).await;
    }

    async fn unwant(&self) {
        let namespace = Namespace::new("shop").expect("a name");
        let key = ObjectKey::new(Kind::Service, &namespace, "x").expect("a name");
        self.change(Op::Remove(key)).await;
    }

    pub(super) fn endpoints(&self) -> Vec<String> {
        let namespace = Namespace::new("shop").expect("a name");
        let snapshot = self.reader.load();
        let service = ServiceName::new(&namespace, "x").ok();
        let Some(view) = service.and_then(|name| snapshot.service(&name).cloned()) else {
            return Vec::new();
        };
        let set = view.endpoints(80).expect("the port");
        let all = set
            .members()
            .iter()
            .flat_map(|m| m.endpoint.addresses.iter());
        all.map(ToString::to_string).collect()
    }

    /// Waits until the endpoints are these.
    pub(super) async fn until(&self, wanted: &[&str]) {
        let mut reader = self.reader.clone();
        let waited = timeout(Duration::from_secs(600), async {
            while self.endpoints() != wanted {
                assert!(reader.changed().await);
            }
        });
        if waited.await.is_err() {
            panic!("{:?} is not {wanted:?}", self.endpoints());
        }
    }

    pub(super) async fn stop(self) {
        self.drain.advance(Phase::Closed);
        assert_eq!(self.driver.await.expect("no panic"), Ok(()));
    }
}

fn start(script: &Script) -> World {
    let scripted = Scripted(script.clone(), Instant::now());
    World::start(|sink, drain| drive(scripted, false, sink, drain))
}

fn answer(texts: &[&str], ttl: u64) -> Outcome {
    Outcome::Answer {
        addresses: addresses(texts),
        ttl: Duration::from_secs(ttl),
    }
}

/// Lets virtual time pass.
async fn pass(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
    settle().await;
}

/// Lets every task run until it waits.
async fn settle() {
    for _turn in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_is_asked_for_by_its_ttl_while_it_is_wanted() {
    let script = Script::default();
    script.say("a.example", answer(&["192.0.2.1"], 10));
    let world = start(&script);
    settle().await;
    assert_eq!(script.asked("a.example"), [0_u64; 0]);
    world.want(host("a.example")).await;
    world.until(&["192.0.2.1:80"]).await;
    script.say("a.example", answer(&["192.0.2.2", "192.0.2.1"], 20));
    world.until(&["192.0.2.1:80", "192.0.2.2:80"]).await;
    pass(20).await;
    assert_eq!(script.asked("a.example"), [0, 10, 30]);
    world.unwant().await;
    settle().await;
    pass(100).await;
    pass(100).await;
    assert_eq!(script.asked("a.example"), [0, 10, 30]);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_gone_is_drained_after_five_seconds() {
    let script = Script::default();
    script.say("a.example", answer(&["192.0.2.1"], 10));
    let world = start(&script);
    world.want(host("a.example")).await;
    world.until(&["192.0.2.1:80"]).await;
    script.say("a.example", Outcome::NxDomain);
    pass(10).await;
    assert_eq!(world.endpoints(), ["192.0.2.1:80"], "once is not gone");
    pass(5).await;
    assert_eq!(world.endpoints(), [""; 0]);
    assert_eq!(script.asked("a.example"), [0, 10, 15]);
    script.say("a.example", answer(&["192.0.2.1"], 10));
    world.until(&["192.0.2.1:80"]).await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn failures_keep_the_last_answer() {
    let script = Script::default();
    script.say("a.example", answer(&["192.0.2.1"], 1));
    let world = start(&script);
    world.want(host("a.example")).await;
    world.until(&["192.0.2.1:80"]).await;
    script.say("a.example", Outcome::unknown());
    for second in 0..100 {
        pass(1).await;
        assert_eq!(world.endpoints(), ["192.0.2.1:80"], "{second}");
    }
    assert_eq!(script.asked("a.example"), [0, 1, 2, 4, 8, 16, 32, 62, 92]);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_comes_back_has_its_addresses_at_once() {
    let script = Script::default();
    script.say("a.example", answer(&["192.0.2.1"], 100));
    let world = start(&script);
    world.want(host("a.example")).await;
    world.until(&["192.0.2.1:80"]).await;
    world.unwant().await;
    world.want(host("a.example")).await;
    settle().await;
    assert_eq!(world.endpoints(), ["192.0.2.1:80"]);
    assert_eq!(script.asked("a.example"), [0], "its time has not come");
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn addresses_that_no_name_server_may_give_are_dropped() {
    let script = Script::default();
    let bad = [
        "127.0.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "::1",
        "fe80::1",
        "ff02::1",
    ];
    let mut all = bad.to_vec();
    all.push("192.0.2.1");
    script.say("a.example", answer(&all, 10));
    let world = start(&script);
    world.want(host("a.example")).await;
    world.until(&["192.0.2.1:80"]).await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn many_names_are_asked_for_a_few_at_a_time() {
    #[derive(Clone, Default)]
    struct Slow(Arc<Mutex<(usize, usize, usize)>>);
    impl LookUp for Slow {
        async fn look_up(&self, _: &Host, _: &Early) -> Outcome {
            {
                let mut now = self.0.lock().expect("no panic");
                now.0 += 1;
                now.1 = now.1.max(now.0);
                now.2 += 1;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.0.lock().expect("no panic").0 -= 1;
            answer(&["192.0.2.1"], 300)
        }
    }
    let slow = Slow::default();
    let script = slow.clone();
    let world = World::start(|sink, drain| drive(script, false, sink, drain));
    let namespace = Namespace::new("shop").expect("a name");
    for n in 0..100 {
        let name = ServiceName::new(&namespace, &format!("s{n}")).expect("a name");
        let service =
            Service::new(name, vec![]).external(host(&format!("{n}.example")), Transport::Plain);
        world.change(Op::put(service)).await;
    }
    settle().await;
    for _second in 0..20 {
        pass(1).await;
    }
    let (running, most, all) = *slow.0.lock().expect("no panic");
    assert_eq!((running, most, all), (0, 16, 100));
    world.stop().await;
}

/// What is known early serves a name of which nothing is known, and no other.
#[tokio::test(start_paused = true)]
async fn what_is_known_early_serves_until_the_look_up_ends() {
    #[derive(Clone, Default)]
    struct Slow(Arc<Mutex<u8>>);
    impl LookUp for Slow {
        async fn look_up(&self, _: &Host, early: &Early) -> Outcome {
            let nth = {
                let mut asked = self.0.lock().expect("no panic");
                *asked += 1;
                *asked
            };
            early.send(addresses(&["127.0.0.1"]));
            early.send(addresses(&[&format!("192.0.2.{nth}")]));
            tokio::time::sleep(Duration::from_secs(2)).await;
            answer(&[&format!("192.0.2.{nth}"), "2001:db8::1"], 10)
        }
    }
    let world = World::start(|sink, drain| drive(Slow::default(), false, sink, drain));
    world.want(host("a.example")).await;
    settle().await;
    assert_eq!(world.endpoints(), ["192.0.2.1:80"]);
    pass(2).await;
    assert_eq!(world.endpoints(), ["[2001:db8::1]:80", "192.0.2.1:80"]);
    // The next look-up begins, and what it knows early is not the whole.
    pass(10).await;
    pass(1).await;
    assert_eq!(world.endpoints(), ["[2001:db8::1]:80", "192.0.2.1:80"]);
    pass(1).await;
    assert_eq!(world.endpoints(), ["[2001:db8::1]:80", "192.0.2.2:80"]);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_look_up_that_panics_is_a_failure() {
    #[derive(Clone, Default)]
    struct Broken(Arc<Mutex<u32>>);
    impl LookUp for Broken {
        async fn look_up(&self, _: &Host, _: &Early) -> Outcome {
            let mut asked = self.0.lock().expect("no panic while it is held");
            *asked += 1;
            let first = *asked == 1;
            drop(asked);
            assert!(!first, "the first look-up of this test panics");
            answer(&["192.0.2.1"], 10)
        }
    }
    let world = World::start(|sink, drain| drive(Broken::default(), false, sink, drain));
    world.want(host("a.example")).await;
    world.until(&["192.0.2.1:80"]).await;
    world.stop().await;
}

/// Where no name can be resolved, it is rather the name server than they.
#[tokio::test(start_paused = true)]
async fn it_is_out_of_sync_while_no_name_can_be_resolved() {
    let script = Script::default();
    script.say("a.example", answer(&["192.0.2.1"], 10));
    let world = start(&script);
    settle().await;
    let state = || world.state.borrow().clone();
    assert_eq!(state(), Some(SourceState::Synced), "nothing is wanted");
    world.want(host("a.example")).await;
    world.until(&["192.0.2.1:80"]).await;
    script.say("a.example", Outcome::unknown());
    pass(10).await;
    let lost = SourceState::Lost("no name can be resolved".into());
    assert_eq!(state(), Some(lost));
    assert_eq!(world.endpoints(), ["192.0.2.1:80"]);
    script.say("a.example", answer(&["192.0.2.2"], 10));
    world.until(&["192.0.2.2:80"]).await;
    settle().await;
    assert_eq!(state(), Some(SourceState::Synced));
    world.stop().await;
}
