//! Writes the status of routes, while this process holds the Lease.
//!
//! What is written is decided by [`status`](super::status), and by which process by [`lease`](super::lease). A
//! change is made of the version that was seen: where another writer was first, the watch brings what it
//! wrote, and the status is decided upon again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use inmesh_core::drain::Drain;
use inmesh_core::model::{Namespace, ObjectKey, SourceId};
use inmesh_core::snapshot::Snapshot;
use inmesh_pki::clock::Clock;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::{Value as Json, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::index::Index;
use super::lease::{Candidate, LOOK, Write};
use super::pauses::Pauses;

/// How many writes are on their way at once.
const AT_ONCE: usize = 8;
/// How long one may take.
const TIME: Duration = Duration::from_secs(10);

/// The Lease that one of several processes holds, which writes for all.
///
/// ```
/// use inmesh_core::model::Namespace;
/// use inmesh_discovery::kube::Lease;
/// let lease = Lease::new(Namespace::new("mesh-system")?, "mesh-status", "control-7f9c-x2x4z");
/// # drop(lease);
/// # Ok::<(), inmesh_core::model::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
    /// What this process is called as its holder; no other may have the same name.
    pub holder: String,
}

/// Until when this process leads.
pub(super) type Leads = watch::Receiver<Option<Instant>>;

/// Writes statuses as they change.
pub(super) struct Writing {
    client: Client,
    source: SourceId,
    leads: Leads,
    clock: Arc<dyn Clock>,
    on_their_way: JoinSet<(ObjectKey, Result<(), kube::Error>)>,
    /// The versions of which a change is on its way, or was made and has not come back.
    asked: HashMap<ObjectKey, String>,
    refused: Pauses<ObjectKey>,
}

// === impl Lease ===

impl Lease {
    /// A Lease, which is made where it is not there.
    pub fn new(namespace: Namespace, name: &str, holder: &str) -> Self {
        Self {
            namespace,
            name: name.into(),
            holder: holder.into(),
        }
    }

    fn path(&self) -> String {
        let namespace = &self.namespace;
        format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases")
    }
}

/// Holds the Lease whenever it can, and leaves it when the drain closes.
pub(super) async fn elect(
    client: Client,
    lease: Lease,
    clock: Arc<dyn Clock>,
    leads: watch::Sender<Option<Instant>>,
    mut drain: Drain,
) {
    let begin = Instant::now();
    let mut candidate = Candidate::new(&lease.holder);
    let one = format!("{}/{}", lease.path(), lease.name);
    loop {
        let at = Instant::now();
        let now = at - begin;
        let looked = timeout(
            TIME,
            look(&client, &lease, &one, &mut candidate, now, &*clock),
        );
        match looked.await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::debug!(error = %e, lease = lease.name, "the Lease is not held"),
            Err(_) => tracing::debug!(lease = lease.name, "the Lease is not held: no answer"),
        }
        let until = candidate.until().map(|until| begin + until);
        leads.send_if_modified(|known| {
            let (led, leads) = (known.is_some(), until.is_some());
            if led != leads {
                tracing::info!(
                    lease = lease.name,
                    leads,
                    "this process holds the Lease, or does so no longer"
                );
            }
            std::mem::replace(known, until) != until
        });
        tokio::select! {
            biased;
            () = drain.closed() => break,
            () = sleep(LOOK) => {}
        }
    }
    let left = timeout(TIME, leave(&client, &one, &mut candidate)).await;
    if !matches!(left, Ok(Ok(()))) {
        tracing::debug!(lease = lease.name, "the Lease is left to end by itself");
    }
}

/// Looks at the Lease once, and writes what is to be written.
async fn look(
    client: &Client,
    lease: &Lease,
    one: &str,
    candidate: &mut Candidate,
    now: Duration,
    clock: &dyn Clock,
) -> kube::Result<()> {
    let there = get_if_there(client, one).await?;
    let wall = micros(clock);
    match candidate.look(there.as_ref().map(|lease| &lease["spec"]), now, &wall) {
        None => return Ok(()),
        Some(Write::Create(spec)) => {
            let new = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": lease.name, "namespace": lease.namespace.as_str()}, "spec": spec,
            });
            send(
                client,
                http::Request::post(lease.path()),
                "application/json",
                &new,
            )
            .await?;
        }
        Some(Write::Update(spec)) => put(client, one, there, spec).await?,
    }
    candidate.held(now);
    Ok(())
}

async fn leave(client: &Client, one: &str, candidate: &mut Candidate) -> kube::Result<()> {
    let there = get(client, one).await?;
    match candidate.release(&there["spec"]) {
        Some(spec) => put(client, one, Some(there), spec).await,
        None => Ok(()),
    }
}

pub(super) async fn get(client: &Client, path: &str) -> kube::Result<Json> {
    let request = http::Request::get(path).body(Vec::new());
    client
        .request(request.map_err(kube::Error::HttpError)?)
        .await
}

/// The same of what may be absent.
pub(super) async fn get_if_there(client: &Client, path: &str) -> kube::Result<Option<Json>> {
    match get(client, path).await {
        Ok(there) => Ok(Some(there)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(e) => Err(e),
    }
}

/// What a request brings, within the time that one may take.
pub(super) async fn in_time<T>(request: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    let no_answer = |_| Err(kube::Error::Service("no answer".into()));
    timeout(TIME, request).await.unwrap_or_else(no_answer)
}

/// Puts a `spec` in the place of that of an object, if it is still the version that was seen.
async fn put(client: &Client, path: &str, there: Option<Json>, spec: Json) -> kube::Result<()> {
    let mut object = there.unwrap_or_default();
    object["spec"] = spec;
    send(
        client,
        http::Request::put(path),
        "application/json",
        &object,
    )
    .await
}

pub(super) async fn send(
    client: &Client,
    request: http::request::Builder,
    kind: &str,
    body: &Json,
) -> kube::Result<()> {
    ask(client, request, kind, body).await.map(drop)
}

/// The same; returns what is answered.
pub(super) async fn ask(
    client: &Client,
    request: http::request::Builder,
    kind: &str,
    body: &Json,
) -> kube::Result<Json> {
    let request = request.header(http::header::CONTENT_TYPE, kind);
    let request = request.body(body.to_string().into_bytes());
    client
        .request(request.map_err(kube::Error::HttpError)?)
        .await
}

/// Whether an object was changed at the same moment: it is the change that does not go with it, as the test of a
/// JSON patch has found, and not the object that it would make.
pub(super) fn is_conflict(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let details = status.details.as_ref();
    let of_patch =
        details.is_none_or(|details| details.causes.is_empty() && details.name.is_empty());
    status.code == 409 || (status.code == 422 && of_patch)
}

fn now_of(clock: &dyn Clock) -> Timestamp {
    Timestamp::try_from(clock.now()).unwrap_or_default()
}

/// The time as a Lease has it.
fn micros(clock: &dyn Clock) -> String {
    format!("{:.6}", now_of(clock))
}

/// The time as a condition has it.
fn seconds(clock: &dyn Clock) -> String {
    format!("{:.0}", now_of(clock))
}

// === impl Writing ===

impl Writing {
    pub(super) fn new(
        client: Client,
        source: SourceId,
        leads: Leads,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            client,
            source,
            leads,
            clock,
            on_their_way: JoinSet::new(),
            asked: HashMap::new(),
            refused: Pauses::new(),
        }
    }

    /// Waits until it has to look again: a write has come back, or the Lease has changed hands.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            Some(Ok((key, result))) = self.on_their_way.join_next(), if !self.on_their_way.is_empty() => {
                self.came_back(key, result);
            }
            changed = self.leads.changed() => {
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    fn came_back(&mut self, key: ObjectKey, result: Result<(), kube::Error>) {
        match result {
            Ok(()) => {
                self.refused.end(&key);
            }
            // What another has written comes by the watch.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(e) => {
                tracing::warn!(object = %key, error = %e, "its status cannot be written");
                self.asked.remove(&key);
                self.refused.refused(key, Instant::now());
            }
        }
    }

    /// Writes what is not as it should be.
    pub(super) fn look(&mut self, index: &Index, snapshot: &Snapshot) {
        let now = Instant::now();
        if self
            .leads
            .borrow_and_update()
            .is_none_or(|until| now >= until)
        {
            return;
        }
        let written: BTreeMap<_, _> = index.written().collect();
        self.asked
            .retain(|key, version| { written.get(key) }.is_some_and(|one| one.version == *version));
        self.refused.retain(|key| written.contains_key(key));
        let keys = written.keys().copied();
        let status = snapshot.problems(&self.source, keys);
        let status: BTreeMap<_, _> = status
            .iter()
            .map(|one| (one.object.as_str(), one))
            .collect();
        let time = seconds(&*self.clock);
        for (key, one) in written {
            let waits = self.refused.until(key, now).is_some();
            if self.on_their_way.len() >= AT_ONCE || waits || self.asked.contains_key(key) {
                continue;
            }
            let parents = match one.wanted(status.get(key.to_string().as_str()).copied(), &time) {
                Ok(Some(parents)) => parents,
                Ok(None) => continue,
                Err(why) => {
                    tracing::warn!(object = %key, why, "its status is not written");
                    self.refused.longest(key.clone(), now);
                    continue;
                }
            };
            let patch = json!({
                "metadata": {"resourceVersion": one.version}, "status": {"parents": parents},
            });
            self.asked.insert(key.clone(), one.version.clone());
            let (client, key, path) = (
                self.client.clone(),
                key.clone(),
                format!("{}/status", one.path),
            );
            self.on_their_way.spawn(async move {
                let kind = "application/merge-patch+json";
                let sent = send(&client, http::Request::patch(path), kind, &patch);
                (key, in_time(sent).await)
            });
        }
    }
}
