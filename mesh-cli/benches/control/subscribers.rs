//! Subscribers: sources of the library, each with a snapshot of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use inmesh_core::authorize::DefaultAction;
use inmesh_core::discover::{Applied, Inbox, Message, Source};
use inmesh_core::drain::{DrainTrigger, drain};
use inmesh_core::model::{Namespace, ServiceName, Workload};
use inmesh_core::snapshot::{
    Change as SnapshotChange, Object, Op, Settings, Snapshot, SnapshotReader, snapshot,
};
use inmesh_discovery::control::{ControlSource, Follow};
use inmesh_discovery::manifest::Defaults;
use inmesh_pki::Crypto;
use inmesh_pki::bundle::BundleSet;
use inmesh_pki::id::SpiffeId;
use inmesh_pki::store::{IdentityReader, IdentityState, IdentityWriter, identity};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Fallible;
use super::cluster::{Change, name};
use super::plane::Plane;

pub(crate) struct Subscribers {
    identities: Vec<(IdentityWriter, IdentityReader)>,
    readers: Vec<SnapshotReader>,
    /// How many follow each Service.
    follow: HashMap<usize, usize>,
    arrived: Arc<Mutex<HashMap<Change, Vec<Instant>>>>,
    tasks: JoinSet<()>,
    drains: Vec<DrainTrigger>,
}

impl Subscribers {
    /// So many with an identity each, which are made before anything is measured.
    pub(crate) fn new(plane: &Plane, count: usize) -> Fallible<Self> {
        let mut identities = Vec::with_capacity(count);
        for nth in 0..count {
            let id =
                SpiffeId::for_workload(plane.ca.trust_domain(), "default", &format!("c{nth}"))?;
            let svid = plane.ca.issue_svid(&id)?;
            let mut bundles = BundleSet::new();
            bundles.insert(plane.ca.bundle().clone());
            identities.push(identity(IdentityState::new(svid, bundles)));
        }
        Ok(Self {
            identities,
            readers: Vec::new(),
            follow: HashMap::new(),
            arrived: Arc::default(),
            tasks: JoinSet::new(),
            drains: Vec::new(),
        })
    }

    /// Has all of them follow `each` of the Services.
    pub(crate) fn begin(&mut self, plane: &Plane, services: usize, each: usize) {
        let shop = Namespace::new("default").expect("a name");
        let server = SpiffeId::for_workload(plane.ca.trust_domain(), "mesh-system", "control");
        let server = server.expect("an ID");
        for (nth, (_, reader)) in self.identities.iter().enumerate() {
            let of: Vec<_> = (0..each).map(|e| (nth * each + e) % services).collect();
            let mut follow = Vec::with_capacity(each);
            for service in of {
                *self.follow.entry(service).or_default() += 1;
                follow.push(ServiceName::new(&shop, &name(service)).expect("a name"));
            }
            let source = ControlSource::new(
                plane.address.to_string(),
                server.clone(),
                reader.clone(),
                Crypto::aws_lc_rs(),
                Defaults::new(shop.clone()),
            );
            let source = source.follow(Follow::Asked(follow));
            let own = Workload::new("default", "c", "c").expect("a name");
            let (mut writer, reader) =
                snapshot(Snapshot::new(Settings::new(own, DefaultAction::Deny)));
            let mut inbox = Inbox::new(reader.clone());
            let sink = inbox.sink(source.id());
            let (trigger, drain) = drain();
            self.readers.push(reader);
            self.drains.push(trigger);
            self.tasks.spawn(async move {
                let _ended = source.run(sink, drain).await;
            });
            let arrived = Arc::clone(&self.arrived);
            self.tasks.spawn(async move {
                while let Some(message) = inbox.next().await {
                    if let Message::Change(change, acknowledge) = message {
                        let changes: Vec<_> = ports(&change).collect();
                        let generation = writer.apply(change).generation();
                        let now = Instant::now();
                        let mut arrived = arrived.lock().unwrap_or_else(PoisonError::into_inner);
                        for change in changes {
                            arrived.entry(change).or_default().push(now);
                        }
                        drop(arrived);
                        if let Some(acknowledge) = acknowledge {
                            acknowledge.applied(Applied::at(generation));
                        }
                    }
                }
            });
        }
    }

    /// Waits until each has all Services that it follows.
    pub(crate) async fn synced(&self, each: usize, limit: Duration) -> Fallible<()> {
        let end = Instant::now() + limit;
        for reader in &self.readers {
            while reader.peek().services().count() < each {
                if Instant::now() > end {
                    return Err("a subscriber does not have what it follows in time".into());
                }
                sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(())
    }

    /// How many follow a Service.
    pub(crate) fn follow(&self, service: usize) -> usize {
        self.follow.get(&service).copied().unwrap_or(0)
    }

    /// Forgets what has arrived.
    pub(crate) fn forget(&mut self) {
        self.arrived
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// When a change came to subscribers.
    pub(crate) fn arrived(&self, change: &Change) -> Vec<Instant> {
        let arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        arrived.get(change).cloned().unwrap_or_default()
    }
}

/// The ports of the slices of a change.
fn ports(change: &SnapshotChange) -> impl Iterator<Item = Change> {
    change.ops.iter().filter_map(|op| match op {
        Op::Put(Object::Slice(slice), _) => Some(Change {
            service: slice.service.name().strip_prefix('s')?.parse().ok()?,
            port: slice.ports.first()?.port,
        }),
        _ => None,
    })
}
