//! Hosts outside the mesh that requests ask for and no document lists: each is made known to the snapshot
//! when it is first asked for, and forgotten once others need its place.
//!
//! 1. A host whose endpoints are known is noted as used, and its request is sent.
//! 2. Else it takes a place, of which there are so many; of those that are taken, hosts make place that
//!    were not used since others did.
//! 3. The request waits until a resolver has answered, for a bounded time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::listening::Listening;
use crate::discover::Workloads;
use crate::error::{Error, Reason};
use crate::model::{Asked, Host, ServiceName, SourceId};
use crate::snapshot::{Change, Op, Snapshot, SnapshotReader};

/// How long a request waits for the addresses of a name.
const WAIT: Duration = Duration::from_secs(5);

/// Makes hosts known that are asked for.
pub(super) struct AskedHosts {
    pub(super) queue: Workloads,
    pub(super) reader: SnapshotReader,
    /// How many there are at most.
    pub(super) most: usize,
    /// The process must not be made to call itself.
    pub(super) listening: Listening,
}

/// What is known of a host.
enum Known {
    /// It has endpoints, or none because its name has no address.
    Endpoints,
    /// It has a place, and waits for its addresses.
    Waits,
    Unknown,
}

// === impl AskedHosts ===

impl AskedHosts {
    /// Waits until the endpoints of a host are known, `until` then at most.
    ///
    /// # Errors
    ///
    /// No place is left, or nothing was found out in time.
    pub(super) async fn ready(
        &self,
        service: &ServiceName,
        asked: &Asked,
        until: Option<Instant>,
    ) -> Result<(), Error> {
        match known(&self.reader.peek(), service, asked) {
            Known::Endpoints => return Ok(()),
            Known::Waits => {}
            Known::Unknown => self.take_place(service, asked).await?,
        }
        let mut reader = self.reader.clone();
        let latest = Instant::now() + WAIT;
        let until = until.map_or(latest, |until| until.min(latest));
        let found = timeout_at(until, async {
            // The reader is asked first: it may have changed while the place was taken.
            while !matches!(known(&reader.load(), service, asked), Known::Endpoints) {
                if !reader.changed().await {
                    break;
                }
            }
        });
        found.await.map_err(|_| {
            let detail = format!("Service {service}: the name {} is not resolved", asked.host);
            Error::new(Reason::NoEndpoint, detail)
        })
    }

    async fn take_place(&self, service: &ServiceName, asked: &Asked) -> Result<(), Error> {
        if let Host::Address(ip) = asked.host
            && self.listening.may_be_at((ip, asked.target).into())
        {
            let detail = format!("{asked} is a listener of this process");
            return Err(Error::new(Reason::UnknownHost, detail));
        }
        let mut ops = self.make_place(&self.reader.load())?;
        ops.push(Op::Ask(service.clone(), asked.clone()));
        let change = Change::update(SourceId::new("requests"), ops);
        let pushed = self.queue.push(change).await;
        pushed.map_err(|gone| Error::new(Reason::NoEndpoint, "the mesh is ending").because(gone))
    }

    /// Forgets hosts where all places are taken: those that were not used since this was last done.
    fn make_place(&self, snapshot: &Snapshot) -> Result<Vec<Op>, Error> {
        let all: Vec<_> = snapshot.asked_sets().collect();
        if all.len() < self.most {
            return Ok(Vec::new());
        }
        let unused = all
            .iter()
            .filter(|(_, set)| !set.used.swap(false, Ordering::Relaxed));
        let forget: Vec<_> = unused
            .map(|(service, set)| Op::Forget((*service).clone(), set.asked.clone()))
            .collect();
        if forget.is_empty() {
            let detail = format!(
                "{} hosts outside the mesh are in use, and no document lists this one",
                all.len()
            );
            return Err(Error::new(Reason::Overflow, detail));
        }
        Ok(forget)
    }
}

fn known(snapshot: &Snapshot, service: &ServiceName, asked: &Asked) -> Known {
    let view = snapshot.service(service);
    let Some(set) = view.and_then(|view| view.asked(asked)) else {
        return Known::Unknown;
    };
    if set.endpoints.members().is_empty() {
        let Host::Name { .. } = &asked.host else {
            return Known::Endpoints;
        };
        // A name that is gone has been answered with no address.
        return match snapshot.is_resolved(&asked.host) {
            true => Known::Endpoints,
            false => Known::Waits,
        };
    }
    set.note_use();
    Known::Endpoints
}
