//! The two calls, once the caller is known.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::CaShared;
use super::proof::{Proof, say_revoked, status_of};
use crate::ca::attest::Method;
use crate::ca::members::MAX_INSTANCE;
use crate::ca::store::Store;
use crate::ca::{Asker, CaError, Published};
use crate::id::SpiffeId;
use crate::issue::Csr;
use crate::issue::policy::{Attested, Grant, may_issue};
use crate::metadata::{GENERATION, ID, INSTANCE};
use crate::pem;
use crate::proto::inmesh_ca::ca_server::Ca as WatchApi;
use crate::proto::inmesh_ca::{RevokedId, TrustUpdate, WatchRequest};
use crate::proto::istio_ca::istio_certificate_service_server::IstioCertificateService;
use crate::proto::istio_ca::{IstioCertificateRequest, IstioCertificateResponse};
use crate::time::to_unix;

/// How long a watcher may take to send its first message.
const FIRST_WORD: Duration = Duration::from_secs(10);

pub(super) struct IstioService<S>(pub(super) Arc<CaShared<S>>);

pub(super) struct WatchService<S>(pub(super) Arc<CaShared<S>>);

impl<S> CaShared<S> {
    fn grant<T>(&self, request: &Request<T>) -> Result<(Grant, Proof), Status>
    where
        S: Store,
    {
        let proof = request
            .extensions()
            .get::<Proof>()
            .cloned()
            .ok_or_else(|| Status::unauthenticated("nothing was proven"))?;
        let wanted = text(request.metadata(), ID)?
            .map(str::parse::<SpiffeId>)
            .transpose()
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (window, now) = (*self.window.borrow(), self.ca.clock().now());
        let revoked = self.revocations.borrow().clone();
        let (proven, rules) = (proof.attested(), &self.rules);
        let grant = may_issue(proven, wanted.as_ref(), rules, window, &revoked, now)
            .map_err(|refused| Status::permission_denied(refused.to_string()))?;
        Ok((grant, proof))
    }
}

#[tonic::async_trait]
impl<S: Store> IstioCertificateService for IstioService<S> {
    /// 1. The grant, from the proof alone. 2. The request, read and verified. 3. A join token is
    ///    spent. 4. The leaf.
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let shared = &self.0;
        let (grant, proof) = shared.grant(&request)?;
        let asker = Asker {
            instance: instance(text(request.metadata(), INSTANCE)?)?,
            acknowledged: number(request.metadata(), GENERATION)?,
            lifetime: u64::try_from(request.get_ref().validity_duration)
                .ok()
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs),
        };
        let csr = pem::certificate_request(request.get_ref().csr.as_bytes())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let csr = Csr::from_der(&csr, shared.ca.crypto())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if let Proof::Token(token, _) = &proof {
            let spent = shared.ca.spend_token(token).await;
            let id = spent.map_err(|error| {
                if matches!(error, CaError::Token(_)) {
                    shared
                        .counts
                        .update(|counts| counts.failed(Method::JoinToken));
                }
                status_of(&error)
            })?;
            debug_assert_eq!(&id, grant.id());
        }
        let issued = shared.ca.issue(&grant, &csr, &asker).await;
        let issued = issued.map_err(|error| status_of(&error))?;
        let (id, serial) = (grant.id(), &issued.serial);
        tracing::info!(%id, by = grant.by().as_str(), %serial, "a leaf is issued");

        let mut cert_chain: Vec<String> = issued
            .chain
            .iter()
            .map(|cert| pem::encode_certificates([cert]))
            .collect();
        // The roots last, in one text; that of the chain first, where a client takes only one.
        let others = issued
            .published
            .bundle
            .roots()
            .iter()
            .map(|root| root.der());
        let others = others.filter(|root| **root != issued.root);
        let roots = std::iter::once(&issued.root).chain(others);
        cert_chain.push(pem::encode_certificates(roots));
        let mut response = Response::new(IstioCertificateResponse { cert_chain });
        response
            .metadata_mut()
            .insert(GENERATION, issued.published.generation.into());
        Ok(response)
    }
}

type Updates = Pin<Box<dyn Stream<Item = Result<TrustUpdate, Status>> + Send>>;

/// A member that listens.
struct Watcher<S> {
    shared: Arc<CaShared<S>>,
    id: SpiffeId,
    instance: String,
    said: Streaming<WatchRequest>,
    published: watch::Receiver<Arc<Published>>,
    /// The leaf that it came with: its serial number and its beginning.
    leaf: Option<(String, SystemTime)>,
    first: bool,
}

#[tonic::async_trait]
impl<S: Store> WatchApi for WatchService<S> {
    type WatchStream = Updates;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Updates>, Status> {
        let (grant, proof) = self.0.grant(&request)?;
        if matches!(proof, Proof::Token(..)) {
            return Err(Status::permission_denied(
                "a join token is for a certificate, which is for watching",
            ));
        }
        let mut said = request.into_inner();
        let first = timeout(FIRST_WORD, said.message())
            .await
            .map_err(|_| Status::deadline_exceeded("a watcher names its instance first"))??
            .ok_or_else(|| Status::invalid_argument("a watcher names its instance first"))?;
        let instance = instance(Some(first.instance.as_str()))?
            .ok_or_else(|| Status::invalid_argument("a watcher has an instance"))?;
        let id = grant.id().clone();
        let acknowledged = first.acknowledged_generation;
        self.0.ca.acknowledge(&id, &instance, acknowledged).await;
        let watcher = Watcher {
            published: self.0.ca.published(),
            leaf: match proof.attested() {
                Attested::Svid {
                    serial, not_before, ..
                } => Some((serial.clone(), *not_before)),
                _ => None,
            },
            shared: Arc::clone(&self.0),
            id,
            instance,
            said,
            first: true,
        };
        Ok(Response::new(Box::pin(unfold(watcher, Watcher::next))))
    }
}

impl<S: Store> Watcher<S> {
    /// The next update; takes acknowledgements while it waits, and ends with the member.
    async fn next(mut self) -> Option<(Result<TrustUpdate, Status>, Self)> {
        while !self.first {
            tokio::select! {
                changed = self.published.changed() => {
                    changed.ok()?;
                    break;
                }
                said = self.said.message() => {
                    let generation = said.ok()??.acknowledged_generation;
                    let ca = &self.shared.ca;
                    ca.acknowledge(&self.id, &self.instance, generation).await;
                }
            }
        }
        self.first = false;
        // One that is revoked hears the reason instead.
        if self.is_revoked() {
            let mut status = Status::permission_denied("the certificate is revoked");
            say_revoked(&mut status, self.shared.ca.clock().now());
            return Some((Err(status), self));
        }
        let published = self.published.borrow_and_update().clone();
        let update = match published.bundle.to_json() {
            Ok(json) => Ok(TrustUpdate {
                generation: published.generation,
                bundle_json: json.into_bytes(),
                crls: published
                    .crls
                    .iter()
                    .map(|crl| crl.der().to_vec())
                    .collect(),
                revoked_ids: published
                    .revoked_ids
                    .iter()
                    .map(|(id, before)| RevokedId {
                        id: id.to_string(),
                        before: to_unix(before),
                    })
                    .collect(),
            }),
            Err(error) => {
                tracing::error!(%error, "the bundle cannot be written");
                Err(Status::internal("the bundle cannot be written"))
            }
        };
        Some((update, self))
    }

    fn is_revoked(&self) -> bool {
        let revoked = self.shared.revocations.borrow();
        self.leaf
            .as_ref()
            .is_some_and(|(serial, begin)| revoked.covers(&self.id, serial, *begin))
    }
}

/// The instance's name: letters, digits, `-` and `_`, of bounded length.
fn instance(name: Option<&str>) -> Result<Option<String>, Status> {
    let Some(name) = name else { return Ok(None) };
    let plain = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if name.is_empty() || name.len() > MAX_INSTANCE || !plain {
        return Err(Status::invalid_argument("the instance's name"));
    }
    Ok(Some(name.to_owned()))
}

fn text<'a>(metadata: &'a MetadataMap, name: &'static str) -> Result<Option<&'a str>, Status> {
    metadata
        .get(name)
        .map(|value| value.to_str())
        .transpose()
        .map_err(|_| Status::invalid_argument(name))
}

fn number(metadata: &MetadataMap, name: &'static str) -> Result<u64, Status> {
    match text(metadata, name)? {
        None => Ok(0),
        Some(text) => text.parse().map_err(|_| Status::invalid_argument(name)),
    }
}
