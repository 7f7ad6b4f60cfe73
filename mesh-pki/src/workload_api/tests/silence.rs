//! Our client before an agent that keeps its stream open and says nothing, and before one that hangs;
//! in memory, where time is paused.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::client::{Dial, Io};
use super::*;
use crate::clock::TokioClock;

/// An agent in memory, which says one message at the beginning of each stream, and nothing after.
#[derive(Clone)]
struct Agent {
    word: Arc<Mutex<X509svidResponse>>,
    connections: Arc<AtomicUsize>,
    /// Scripts that have only their end left.
    open: Arc<Mutex<Vec<Script>>>,
    /// Notified when the connections of now stop to be served, and stay open.
    hang: Arc<Notify>,
}

impl Agent {
    fn new(word: X509svidResponse) -> Self {
        Self {
            word: Arc::new(Mutex::new(word)),
            connections: Arc::default(),
            open: Arc::default(),
            hang: Arc::default(),
        }
    }

    fn say(&self, word: X509svidResponse) {
        *self.word.lock().unwrap() = word;
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn dial(&self) -> Dial {
        let agent = self.clone();
        Arc::new(move || {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            agent.connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(agent.clone().serve(theirs));
            let ours: Box<dyn Io> = Box::new(ours);
            Box::pin(async { Ok(ours) })
        })
    }

    async fn serve(self, stream: tokio::io::DuplexStream) {
        let (script, receiver) = mpsc::unbounded_channel();
        let word = self.word.lock().unwrap().clone();
        script.send(Ok(word)).unwrap();
        self.open.lock().unwrap().push(script);
        let service = Scripted(Mutex::new(Some(receiver)));
        let api = SpiffeWorkloadApiServer::new(service);
        let executor = hyper_util::rt::TokioExecutor::new();
        let mut served = std::pin::pin!(
            hyper::server::conn::http2::Builder::new(executor).serve_connection(
                hyper_util::rt::TokioIo::new(stream),
                hyper_util::service::TowerToHyperService::new(api),
            )
        );
        tokio::select! {
            _ = &mut served => {}
            () = self.hang.notified() => pending().await,
        }
    }
}

/// A client of `agent`, by a clock that follows tokio's.
fn client(agent: &Agent) -> WorkloadApiClient {
    let clock = TokioClock::new(noon()).shared();
    let endpoint = Endpoint::at("/nowhere");
    WorkloadApiClient::new(endpoint, &crypto(), clock, || 1.0).over(agent.dial())
}

fn serial(reader: &IdentityReader) -> String {
    reader.load().default_svid().unwrap().serial().to_owned()
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_renew_in_time_is_asked_anew() {
    let ca = Ca::new("root");
    // It lives from half an hour before noon to half an hour after.
    let first = leaf(CART).svid(&ca);
    let first_serial = first.serial().to_owned();
    let agent = Agent::new(message(first, &ca));
    let begin = Instant::now();
    let (mut reader, mut status, task) = run(client(&agent));
    until_state(&mut reader, |state| state.default_svid().is_some()).await;

    // Three quarters of its life: pings were answered meanwhile, and nothing was renewed.
    let now = until(&mut status, |status| status.failures == 1).await;
    assert_eq!((begin.elapsed(), agent.connections()), (minutes(15), 1));
    let error = now.last_error.unwrap();
    assert!(matches!(*error, WorkloadApiError::Silent), "{error}");
    assert_eq!(serial(&reader), first_serial, "it is used to its end");

    // The same again is no renewal, and a quarter of what is left is borne.
    until(&mut status, |status| status.updates == 2).await;
    let renewed = leaf(CART).with(|params| params.not_after = (noon() + minutes(90)).into());
    let renewed = renewed.svid(&ca);
    let serial_of_next = renewed.serial().to_owned();
    agent.say(message(renewed, &ca));
    until_state(&mut reader, |state| {
        state.default_svid().unwrap().serial() == serial_of_next
    })
    .await;
    let (least, most) = (minutes(15) + minutes(15) / 4, minutes(20));
    assert!(
        (least..most).contains(&begin.elapsed()),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(agent.connections(), 3);

    // Two hours from half an hour before noon on: nothing more until an hour after it.
    let now = until(&mut status, |status| status.failures == 3).await;
    assert_eq!((begin.elapsed(), agent.connections()), (minutes(60), 3));
    assert!(matches!(*now.last_error.unwrap(), WorkloadApiError::Silent));
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_hangs_is_noticed_by_its_pings() {
    let ca = Ca::new("root");
    let agent = Agent::new(message(leaf(CART).svid(&ca), &ca));
    let begin = Instant::now();
    let (mut reader, mut status, task) = run(client(&agent));
    until_state(&mut reader, |state| state.default_svid().is_some()).await;
    let before = serial(&reader);
    agent.hang.notify_waiters();
    let renewed = leaf(CART).svid(&ca);
    let after = renewed.serial().to_owned();
    agent.say(message(renewed, &ca));

    let now = until(&mut status, |status| status.failures == 1).await;
    let error = now.last_error.unwrap();
    assert!(
        matches!(*error, WorkloadApiError::Unavailable { .. }),
        "{error}"
    );
    // Not before five minutes, which servers would take ill, and long before the SVID's time.
    let took = begin.elapsed();
    assert!((minutes(6)..minutes(7)).contains(&took), "{took:?}");
    assert_eq!(serial(&reader), before);
    until_state(&mut reader, |state| {
        state.default_svid().unwrap().serial() == after
    })
    .await;
    assert_eq!(agent.connections(), 2);
    task.abort();
}
