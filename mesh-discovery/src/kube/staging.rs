//! Drives a stage to its end: hands it to the control plane, publishes to the other replicas how requests fare, and
//! writes its next step while this process holds the Lease.
//!
//! What is next is decided by [`plan`](crate::stage::plan), of what [`tallies`](super::tallies) have. All state is
//! in the object's annotation, so that a replica which takes over continues.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use inmesh_core::model::ObjectKey;
use inmesh_pki::Crypto;
use inmesh_pki::clock::Clock;
use kube::Client;
use serde_json::Value as Json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::index::Index;
use super::staged::Staged;
use super::tallies::{Publisher, Tallies};
use super::write::{Leads, Lease, get_if_there, in_time, is_conflict, send};
use crate::layout;
use crate::stage::plan::{Known, Step, step};
use crate::stage::{Stages, State, Tally};

/// How often it is looked at while something is staged.
const LOOK: Duration = Duration::from_millis(500);
/// How often replicas publish how requests fare.
const PUBLISH: Duration = Duration::from_secs(1);
/// How often it is tried where another replica publishes at the same moment.
const ATTEMPTS: u32 = 4;
/// How long after a write that failed it is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Drives stages to their ends.
pub(super) struct Staging {
    client: Client,
    home: String,
    leads: Leads,
    clock: Arc<dyn Clock>,
    stages: Stages,
    begin: Instant,
    /// Since when stages are as they are, by their names.
    since: HashMap<String, Since>,
    tallies: Tallies,
    publishing: JoinSet<kube::Result<Option<Json>>>,
    published: Option<Instant>,
    writing: JoinSet<(ObjectKey, kube::Result<()>)>,
    written: HashMap<ObjectKey, Written>,
}

/// Since when a stage is as it is.
struct Since {
    /// Since when it is known.
    seen: Instant,
    /// The version of its object, and since when it is that.
    version: (String, Instant),
    /// How many members have answered, and since when it is as many.
    members: (u64, Instant),
}

/// A write of an object.
struct Written {
    /// The version of which a change is on its way, or was made and has not come back.
    version: String,
    at: Instant,
    failed: Option<Failed>,
}

/// How a write has failed.
enum Failed {
    /// The API server does not take it, and why.
    Refused(String),
    /// It may take it later.
    Unanswered,
}

/// Publishes once; returns the Lease as it was found.
async fn publish(
    client: &Client,
    [leases, one]: [&str; 2],
    publisher: &Publisher,
    (home, id, own): (&str, &str, &Tally),
) -> kube::Result<Option<Json>> {
    let there = get_if_there(client, one).await?;
    let lease = publisher.lease(there.clone(), home, id, own);
    let request = match there {
        Some(_) => http::Request::put(one),
        None => http::Request::post(leases),
    };
    send(client, request, "application/json", &lease).await?;
    Ok(there)
}

// === impl Since ===

impl Since {
    fn new(one: &Staged, tally: &Tally, now: Instant) -> Self {
        Self {
            seen: now,
            version: (one.version.clone(), now),
            members: (tally.members.saturating_add(tally.others), now),
        }
    }

    fn note(&mut self, one: &Staged, tally: &Tally, now: Instant) {
        let next = Self::new(one, tally, now);
        if self.version.0 != next.version.0 {
            self.version = next.version;
        }
        if self.members.0 != next.members.0 {
            self.members = next.members;
        }
    }
}

// === impl Staging ===

impl Staging {
    pub(super) fn new(
        client: Client,
        lease: &Lease,
        leads: Leads,
        clock: Arc<dyn Clock>,
        (stages, crypto): (Stages, &Crypto),
    ) -> Self {
        Self {
            client,
            home: lease.namespace.to_string(),
            leads,
            clock,
            stages,
            begin: Instant::now(),
            since: HashMap::new(),
            tallies: Tallies::new(&lease.holder, crypto),
            publishing: JoinSet::new(),
            published: None,
            writing: JoinSet::new(),
            written: HashMap::new(),
        }
    }

    /// Does what is next; returns when to look again, if something is staged.
    pub(super) fn look(&mut self, index: &Index) -> Option<Instant> {
        let now = Instant::now();
        let mut staged: Vec<_> = index.staged().collect();
        // The same at each replica: the one that runs, else the first by its name.
        staged.sort_by_key(|(key, one)| (one.stage.state != State::Running, (*key).clone()));
        let first = staged.first().copied();
        let offer = first.and_then(|(_, one)| one.offer.as_ref().ok());
        self.stages.set(offer.cloned());
        self.since
            .retain(|id, _| staged.iter().any(|(_, one)| one.stage.id == *id));
        let versions = |key: &ObjectKey| {
            let one = staged.iter().find(|(of, _)| *of == key);
            one.map(|(_, one)| &*one.version)
        };
        self.written
            .retain(|key, written| versions(key) == Some(&*written.version));
        self.came_back(now);
        let (first_key, first) = first?;
        let id = &first.stage.id;
        let own = self.stages.tally(id);
        self.publish(id, &own, now);
        let leads = self.leads.borrow().is_some_and(|until| now < until);
        for (key, one) in &staged {
            let other = (*key != first_key).then(|| first_key.to_string());
            let tally = match &other {
                None => self.tallies.sum(&own, id, now - self.begin),
                Some(_) => Tally::default(),
            };
            let since = self.since.entry(one.stage.id.clone());
            let since = since.or_insert_with(|| Since::new(one, &tally, now));
            since.note(one, &tally, now);
            let lasts = [since.seen, since.version.1, since.members.1].map(|at| now - at);
            if leads {
                self.write(key, one, (other.as_deref(), &tally), lasts);
            }
        }
        Some(now + LOOK)
    }

    /// Notes what has come of requests that are done.
    fn came_back(&mut self, now: Instant) {
        while let Some(done) = self.publishing.try_join_next() {
            match done {
                Ok(Ok(Some(lease))) => {
                    // Of the stage that is published next.
                    let id = self
                        .stages
                        .follow()
                        .borrow()
                        .as_ref()
                        .map(|offer| offer.id.clone());
                    if let Some(id) = id {
                        self.tallies.hear(&lease, &id, now - self.begin);
                    }
                }
                Ok(Err(e)) => tracing::debug!(error = %e, "the other replicas are not reached"),
                Ok(Ok(None)) | Err(_) => {}
            }
        }
        while let Some(Ok((key, result))) = self.writing.try_join_next() {
            let Err(e) = result else {
                continue;
            };
            let (gone, refused) = match &e {
                kube::Error::Api(status) => {
                    (status.code == 404, matches!(status.code, 400 | 403 | 422))
                }
                _ => (false, false),
            };
            // What another has written comes by the watch.
            if gone || is_conflict(&e) {
                continue;
            }
            tracing::warn!(object = %key, error = %e, "its stage cannot be written");
            if let Some(written) = self.written.get_mut(&key) {
                written.failed = Some(match refused {
                    true => Failed::Refused(e.to_string()),
                    false => Failed::Unanswered,
                });
            }
        }
    }

    /// Publishes how requests fare here, and asks what the other replicas say.
    fn publish(&mut self, id: &str, own: &Tally, now: Instant) {
        let due = self.published.is_none_or(|at| now >= at + PUBLISH);
        if !due || !self.publishing.is_empty() {
            return;
        }
        self.published = Some(now);
        let (client, home) = (self.client.clone(), self.home.clone());
        let (id, own) = (id.to_owned(), own.clone());
        let publisher = self.tallies.publisher();
        self.publishing.spawn(async move {
            let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{home}/leases");
            let one = format!("{leases}/{}", layout::TALLIES);
            in_time(async {
                for _attempt in 1..ATTEMPTS {
                    match publish(&client, [&leases, &one], &publisher, (&home, &id, &own)).await {
                        // Another replica has published meanwhile.
                        Err(kube::Error::Api(status)) if status.code == 409 => {}
                        published => return published,
                    }
                }
                publish(&client, [&leases, &one], &publisher, (&home, &id, &own)).await
            })
            .await
        });
    }

    /// Writes the next step of a stage, if there is one.
    fn write(
        &mut self,
        key: &ObjectKey,
        one: &Staged,
        (other, tally): (Option<&str>, &Tally),
        [seen_for, noted_for, steady_for]: [Duration; 3],
    ) {
        let now = Instant::now();
        let unix = self.clock.now().duration_since(UNIX_EPOCH);
        let known = Known {
            stage: &one.stage,
            generation: one.generation,
            unfit: one.offer.as_ref().err().map(String::as_str),
            other,
            tally,
            seen_for,
            noted_for,
            steady_for,
            now: unix.map_or(0, |unix| {
                u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)
            }),
        };
        let mut next = step(&known);
        if let Some(written) = self.written.get(key) {
            let Some(failed) = { written.failed.as_ref() }.filter(|_| now >= written.at + AGAIN)
            else {
                return;
            };
            if let (Failed::Refused(why), Step::Promote(stage)) = (failed, &next) {
                let why = format!("it cannot be written: {why}");
                next = Step::Note(stage.clone().ended(State::Reverted, &why));
            }
        }
        let Some(patch) = one.patch(&next) else {
            return;
        };
        if let Step::Note(stage) | Step::Promote(stage) = &next {
            let (state, why) = (stage.state, &*stage.why);
            tracing::info!(object = %key, stage = stage.id, %state, why, "a step of what is staged");
        }
        let written = Written {
            version: one.version.clone(),
            at: now,
            failed: None,
        };
        self.written.insert(key.clone(), written);
        let (client, key, path) = (self.client.clone(), key.clone(), one.path.clone());
        self.writing.spawn(async move {
            let kind = "application/json-patch+json";
            let sent = send(&client, http::Request::patch(path), kind, &patch);
            (key, in_time(sent).await)
        });
    }
}
