//! The head of a call in, its answer out: the caller is known, and its turn decided, before the
//! message is read.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tower_service::Service;

use super::count::Ended;
use super::proof::{Unproven, prove};
use super::service::{IstioService, WatchService};
use super::{CaShared, CallerConnection};
use crate::ca::store::Store;
use crate::issue::policy::{Refused, may_issue};
use crate::metadata::{INSTANCE, RETRY_AFTER};
use crate::proto::inmesh_ca::ca_server::CaServer as WatchServer;
use crate::proto::istio_ca::istio_certificate_service_server::IstioCertificateServiceServer;

const CREATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
const WATCH: &str = "/inmesh.ca.v1.Ca/Watch";

/// How much of a reason is logged, in characters.
const MAX_WHY: usize = 512;

/// What the log says of a refusal instead of what its caller hears.
#[derive(Clone)]
struct Why(String);

/// The largest message of a client: a request as PEM text, and some names.
const MAX_MESSAGE: usize = 32 * 1024;

/// 1. A method that is not ours is unimplemented.
/// 2. The caller is identified: by its certificate, else by its bearer token; a revoked one is denied.
/// 3. Whether it may have an ID at all, and whether it is its turn.
/// 4. The message goes to its service, which reads it.
/// 5. How a call for a leaf has ended is counted; one whose caller has gone is not.
pub(super) async fn answer<S: Store>(
    shared: Arc<CaShared<S>>,
    caller: Arc<CallerConnection>,
    request: Request<Incoming>,
) -> Response<Body> {
    let create = match request.uri().path() {
        CREATE => true,
        WATCH => false,
        _ => return Status::new(Code::Unimplemented, "no such method").into_http(),
    };
    let begin = Instant::now();
    let answered = answer_known(&shared, &caller, request, create).await;
    let mut response = answered.unwrap_or_else(Status::into_http);
    let why = response.extensions_mut().remove::<Why>();
    if create {
        // A refusal is all header; a leaf has its status behind it.
        let status = Status::from_header_map(response.headers());
        let (code, why) = status.map_or((Code::Ok, String::new()), |status| {
            let why = why
                .as_ref()
                .map_or_else(|| status.message(), |Why(why)| why);
            (status.code(), why.chars().take(MAX_WHY).collect())
        });
        shared.tell(Ended::of(code), &why);
        let took = begin.elapsed();
        shared
            .counts
            .update(|counts| counts.end(Ended::of(code), took));
    }
    response
}

async fn answer_known<S: Store>(
    shared: &Arc<CaShared<S>>,
    caller: &CallerConnection,
    mut request: Request<Incoming>,
    create: bool,
) -> Result<Response<Body>, Status> {
    let proof = prove(shared, caller, request.headers()).await;
    let proof = match proof {
        Ok(proof) => proof,
        Err(Unproven {
            method,
            status,
            why,
        }) => {
            // Whatever fails in the CA itself says nothing about the proof.
            if status.code() == Code::Unauthenticated {
                shared.counts.update(|counts| counts.failed(method));
            }
            let mut response = status.into_http();
            response.extensions_mut().insert(Why(why));
            return Ok(response);
        }
    };
    let window = *shared.window.borrow();
    let now = shared.ca.clock().now();
    let revoked = shared.revocations.borrow().clone();
    let grant = may_issue(proof.attested(), None, &shared.rules, window, &revoked, now);
    let id = match &grant {
        Ok(grant) => grant.id(),
        // Several IDs are possible: which one is asked for stands in the call.
        Err(Refused::Ambiguous { one, .. }) => one,
        Err(refused) => return Err(Status::permission_denied(refused.to_string())),
    };
    let placed = {
        let mut place = caller.place.lock().unwrap_or_else(PoisonError::into_inner);
        place.prove(id)
    };
    if !placed {
        tracing::debug!(%id, "too many connections to the CA of this ID");
        return Err(Status::resource_exhausted(
            "too many connections of this ID",
        ));
    }
    let id = id.to_string();
    caller.known.store(true, Ordering::Relaxed);
    if create {
        let instance = request.headers().get(INSTANCE);
        let name = instance.and_then(|name| name.to_str().ok()).unwrap_or("");
        shared
            .turn(&id, &name[..name.len().min(64)])
            .map_err(come_back)?;
    }
    request.extensions_mut().insert(proof);
    let shared = Arc::clone(shared);
    let answered = if create {
        let mut service = IstioCertificateServiceServer::new(IstioService(shared))
            .max_decoding_message_size(MAX_MESSAGE);
        service.call(request).await
    } else {
        let mut service =
            WatchServer::new(WatchService(shared)).max_decoding_message_size(MAX_MESSAGE);
        service.call(request).await
    };
    match answered {
        Ok(response) => Ok(response),
        Err(never) => match never {},
    }
}

/// Says when to come back.
pub(super) fn come_back(wait: Duration) -> Status {
    let mut status = Status::resource_exhausted("many are asking; come back later");
    let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
    status
        .metadata_mut()
        .insert(RETRY_AFTER, MetadataValue::from(millis));
    status
}
