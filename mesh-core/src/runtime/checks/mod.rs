//! Checks of endpoints: which are checked follows the snapshot, one task for each endpoint.
//!
//! 1. At a change of the snapshot, the endpoints of ports whose policy has a check are looked up; a task
//!    begins for each new one, and those of others end.
//! 2. A task asks its endpoint once in an interval, the first time after a drawn part of it. What
//!    [`Checked`] says of the answers is noted in the set of the moment.
//! 3. An endpoint that is checked no longer is as if it never was.
//!
//! The balancer reads one flag. It refuses to check where no policy asks for it.

mod ask;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use self::ask::ask;
use super::upstream::Upstreams;
use crate::balance::Checked;
use crate::drain::Drain;
use crate::identify::Tls;
use crate::snapshot::{Checkable, Snapshot, SnapshotReader};

/// The most checks at once.
const AT_ONCE: usize = 64;
/// How long after a change of the snapshot the next is looked at.
const SETTLE: Duration = Duration::from_secs(1);

/// A task that checks an endpoint; it ends with this.
struct Running {
    target: Checkable,
    task: AbortHandle,
    live: Live,
}

/// Whether what a task finds still counts. Held while it is noted.
type Live = Arc<Mutex<bool>>;

/// What all tasks share.
struct Checks {
    upstreams: Arc<Upstreams>,
    /// The identity that asks: that of the first local workload.
    tls: Arc<Tls>,
    places: Semaphore,
}

/// Checks endpoints until the runtime closes.
pub(super) async fn run(
    upstreams: Arc<Upstreams>,
    tls: Arc<Tls>,
    mut reader: SnapshotReader,
    mut drain: Drain,
) {
    let checks = Arc::new(Checks {
        upstreams,
        tls,
        places: Semaphore::new(AT_ONCE),
    });
    // By the address of the endpoint's state, which its task keeps alive.
    let mut running: HashMap<usize, Running> = HashMap::new();
    loop {
        checks.follow(&reader.load(), &mut running);
        let change = async {
            let alive = reader.changed().await;
            sleep(SETTLE).await;
            alive
        };
        tokio::select! {
            alive = change => if !alive { return },
            () = drain.closed() => return,
        }
    }
}

// === impl Checks ===

impl Checks {
    /// Begins and ends tasks as a snapshot says.
    fn follow(self: &Arc<Self>, snapshot: &Snapshot, running: &mut HashMap<usize, Running>) {
        let mut before = std::mem::take(running);
        for target in snapshot.checkable() {
            let key = Arc::as_ptr(&target.member.state).addr();
            let known = match before.remove(&key) {
                Some(known) if known.is_for(&target) => Some(known),
                Some(other) => {
                    self.end(&other);
                    None
                }
                None => None,
            };
            running.insert(key, known.unwrap_or_else(|| self.begin(target)));
        }
        before.values().for_each(|ended| self.end(ended));
    }

    fn begin(self: &Arc<Self>, target: Checkable) -> Running {
        let live = Live::new(Mutex::new(true));
        let check = Arc::clone(self).check(target.clone(), Arc::clone(&live));
        Running {
            task: tokio::spawn(check).abort_handle(),
            target,
            live,
        }
    }

    /// An endpoint is checked no longer.
    fn end(&self, ended: &Running) {
        let mut live = ended.live.lock().unwrap_or_else(PoisonError::into_inner);
        *live = false;
        self.mark(&ended.target, true);
    }

    /// Checks an endpoint again and again.
    async fn check(self: Arc<Self>, target: Checkable, live: Live) {
        let policy = Arc::clone(&target.policy);
        let mut checked = Checked::default();
        // Those of one Service do not come all at once.
        sleep(policy.interval.mul_f64(rand::random::<f64>())).await;
        loop {
            let (result, answer) = {
                let Ok(_place) = self.places.acquire().await else {
                    return;
                };
                let asked = ask(&self.upstreams.connector, &self.tls, &target);
                match timeout(policy.timeout, asked).await {
                    Ok(Ok(())) => ("passed", Ok(())),
                    Ok(Err(why)) => ("failed", Err(why)),
                    Err(_) => ("late", Err("no answer in time".into())),
                }
            };
            self.upstreams.metrics.checked(&target.host, result);
            let change = checked.handle(answer.is_ok(), &policy);
            self.note((&target, &live), &answer, change);
            sleep(policy.interval).await;
        }
    }

    fn note(
        &self,
        (target, live): (&Checkable, &Live),
        answer: &Result<(), String>,
        change: Option<bool>,
    ) {
        let (service, address) = (&target.service, target.member.endpoint.address());
        let live = live.lock().unwrap_or_else(PoisonError::into_inner);
        if !*live {
            return;
        }
        if let Err(why) = answer {
            let why = format!("health check: {why}");
            target.member.state.note_failure(&why, self.upstreams.now());
        }
        match change {
            Some(true) => tracing::info!(%address, %service, "endpoint answers its checks again"),
            Some(false) => {
                let why = answer
                    .as_ref()
                    .err()
                    .map(String::as_str)
                    .unwrap_or_default();
                tracing::warn!(%address, %service, why, "endpoint fails its checks");
            }
            None => return,
        }
        self.mark(target, change == Some(true));
    }

    /// Notes in the set of the moment whether an endpoint is well.
    fn mark(&self, target: &Checkable, well: bool) {
        let snapshot = self.upstreams.reader.peek();
        let service = snapshot.service(&target.service);
        let set = service.and_then(|service| service.endpoints(target.port));
        if let Some(set) = set {
            set.mark(&target.member.state, well);
        }
    }
}

// === impl Running ===

impl Running {
    fn is_for(&self, target: &Checkable) -> bool {
        (&self.target.policy, self.target.protocol) == (&target.policy, target.protocol)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}
