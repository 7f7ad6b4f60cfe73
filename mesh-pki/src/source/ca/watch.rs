//! The CA's stream of bundles in, writes to the identity store and acknowledgements out.
//!
//! A bundle is acknowledged after it was written, for from then on every handshake uses it. One
//! whose generation is older than that in use is not written: trust never goes back.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream::unfold;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::client::{Approach, CALL, CaClient, ClientInner, Unproven, origin, unavailable};
use crate::bundle::TrustBundle;
use crate::crl::{Crl, MAX_REVOKED_IDS, RevokedIds};
use crate::error::chain_of;
use crate::id::SpiffeId;
use crate::issue::IssueError;
use crate::proto::inmesh_ca::ca_client::CaClient as WatchClient;
use crate::proto::inmesh_ca::{RevokedId, WatchRequest};
use crate::rotate::schedule;
use crate::status::{StatusReader, StatusWriter, status};
use crate::store::IdentityWriter;
use crate::svid::X509Svid;
use crate::task::until;
use crate::time;

/// The largest update that is read: a bundle and the lists of all issuing CAs.
const MAX_UPDATE: usize = 8 * 1024 * 1024;

/// How the stream of bundles is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WatchStatus {
    /// Whether a stream is open.
    pub connected: bool,
    /// The generation that was acknowledged last.
    pub generation: u64,
    /// How many streams have ended or could not be opened.
    pub failures: u64,
    /// Why the last one has; gone with the next bundle.
    pub last_error: Option<IssueError>,
}

impl CaClient {
    /// Keeps the bundle of the CA's trust domain as the CA has it, until `shutdown` is ready.
    ///
    /// `draw` gives numbers that are uniform in 0..1. The task waits while there is nothing that
    /// proves our ID: a watcher is a member.
    pub fn watch<D, F>(
        &self,
        writer: Arc<IdentityWriter>,
        mut draw: D,
        shutdown: F,
    ) -> (
        StatusReader<WatchStatus>,
        impl Future<Output = ()> + Send + use<D, F>,
    )
    where
        D: FnMut() -> f64 + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let (inner, watched) = (Arc::clone(&self.0), status(WatchStatus::default()));
        let reader = watched.reader();
        let run = async move {
            let forever = async {
                let mut failures = 0;
                loop {
                    let before = watched.reader().load().generation;
                    let error = inner.listen(&writer, &watched).await;
                    let asked = match &error {
                        IssueError::Unavailable { retry_after, .. } => *retry_after,
                        _ => None,
                    };
                    tracing::info!(%error, "the CA's stream of bundles has ended");
                    watched.update(|status| {
                        if status.generation != before {
                            failures = 0;
                        }
                        status.connected = false;
                        status.failures += 1;
                        status.last_error = Some(error);
                    });
                    failures += 1;
                    // An SVID that ends is the rotation's business; here nothing is.
                    let now = inner.clock.now();
                    sleep(schedule::pause(now, None, failures, asked, draw())).await;
                }
            };
            until(shutdown, forever).await;
        };
        (reader, run)
    }
}

impl ClientInner {
    /// One stream, from its connection to its end; says why it has ended.
    async fn listen(
        &self,
        writer: &IdentityWriter,
        watched: &StatusWriter<WatchStatus>,
    ) -> IssueError {
        match self.listen_until_error(writer, watched).await {
            Ok(()) => unavailable("the CA has ended the stream".to_owned(), None),
            Err(error) => error,
        }
    }

    async fn listen_until_error(
        &self,
        writer: &IdentityWriter,
        watched: &StatusWriter<WatchStatus>,
    ) -> Result<(), IssueError> {
        let mut first = None;
        for approach in self.approaches()? {
            let presented = approach.state.default_svid().cloned();
            let Err(refused) = self.listen_by(approach, writer, watched).await else {
                return Ok(());
            };
            if let (Some(since), Some(svid)) = (refused.revoked, presented) {
                self.hear_revoked(&svid, since, writer);
            }
            match refused {
                Unproven {
                    error, next: true, ..
                } => first = first.or(Some(error)),
                Unproven { error, .. } => return Err(first.unwrap_or(error)),
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Notes that the CA has revoked the SVID that was presented: peers refuse it, or will.
    fn hear_revoked(&self, svid: &X509Svid, since: SystemTime, writer: &IdentityWriter) {
        let (id, serial) = (svid.id(), svid.serial());
        if writer.load().revoked_since(svid).is_some() {
            return;
        }
        tracing::warn!(%id, serial, "the CA has revoked the SVID");
        writer.update(|state| state.revoke_svid(id, serial, since));
    }

    /// One stream with one proof. A join token is refused here, and is not spent by it.
    async fn listen_by(
        &self,
        Approach { state, token }: Approach,
        writer: &IdentityWriter,
        watched: &StatusWriter<WatchStatus>,
    ) -> Result<(), Unproven> {
        let late = |_| unavailable("no answer in time".to_owned(), None);
        let presents = state.default_svid().is_some();
        let connection = self.connect(state).await;
        let connection = connection.map_err(|error| Unproven::of_connection(&error))?;
        let mut client =
            WatchClient::with_origin(connection, origin()).max_decoding_message_size(MAX_UPDATE);
        let (say, said) = mpsc::channel(4);
        let hello = WatchRequest {
            instance: self.instance.clone(),
            acknowledged_generation: self.generation(),
        };
        let _ = say.send(hello).await;
        let requests = unfold(said, async |mut said| Some((said.recv().await?, said)));
        let request = self.request(Box::pin(requests), token.as_deref().map(String::as_str))?;
        let answer = timeout(CALL, client.watch(request)).await.map_err(late)?;
        let mut updates = answer
            .map_err(|status| Unproven::of_status(&self.id, &status, presents))?
            .into_inner();
        watched.update(|status| status.connected = true);
        loop {
            let update = updates.message().await;
            let refused = |status| Unproven::of_end(&self.id, &status, presents);
            let Some(update) = update.map_err(refused)? else {
                return Ok(());
            };
            let trust_domain = self.trust_domain().clone();
            let bundle = TrustBundle::from_json(trust_domain, &update.bundle_json)
                .map_err(|error| unavailable(chain_of(&error), None))?
                .with_sequence(update.generation);
            let crls = update
                .crls
                .iter()
                .map(|der| Crl::from_der(der))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| unavailable(chain_of(&error), None))?;
            let revoked_ids = self.revoked_ids(&update.revoked_ids)?;
            let mut refused = false;
            writer.update(|state| refused = !state.replace_trust(bundle, crls, revoked_ids));
            if refused {
                let reason = "the CA sent an older bundle, or too many lists".to_owned();
                return Err(unavailable(reason, None).into());
            }
            let generation = self.generation();
            watched.update(|status| {
                status.generation = generation;
                status.last_error = None;
            });
            let acknowledged = WatchRequest {
                instance: self.instance.clone(),
                acknowledged_generation: generation,
            };
            if timeout(Duration::from_secs(5), say.send(acknowledged)).await != Ok(Ok(())) {
                return Ok(());
            }
        }
    }

    /// What the CA says of whole IDs; it speaks for those of its own trust domain.
    fn revoked_ids(&self, said: &[RevokedId]) -> Result<RevokedIds, IssueError> {
        let unusable = |reason: &str| unavailable(format!("the CA's revoked IDs: {reason}"), None);
        if said.len() > MAX_REVOKED_IDS {
            return Err(unusable("too many"));
        }
        let mut ids = RevokedIds::default();
        for RevokedId { id, before } in said {
            let id: SpiffeId = id.parse().map_err(|_| unusable("one is no SPIFFE ID"))?;
            if id.trust_domain() != self.trust_domain() {
                return Err(unusable("one is of another trust domain"));
            }
            ids.insert(id, time::from_unix(*before));
        }
        Ok(ids)
    }
}
