//! A CA's status and counts in, pages over HTTP out: metrics for Prometheus, and whether the CA is
//! alive and ready. The operator's commands have a socket of their own; nothing can be changed here.
//!
//! All values are read at each scrape. Labels are key ids and names from fixed lists: nothing that
//! a caller sends, and nothing secret, is ever one.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use inmesh_core::telemetry::{Collect, Exposition, Metrics, Samples};
use inmesh_pki::ca::server::{CaCounts, Refusal};
use inmesh_pki::ca::state::Step;
use inmesh_pki::ca::store::Store;
use inmesh_pki::ca::{Ca, CaStatus, attest};
use inmesh_pki::crl::Crl;
use inmesh_pki::id::SpiffeId;
use inmesh_pki::serve::pages;
use inmesh_pki::status::StatusReader;
use inmesh_pki::store::IdentityReader;
use tokio::net::TcpListener;

use crate::seconds::seconds;

/// Where the pages get what they show.
pub(super) struct Pages<S> {
    pub(super) ca: Arc<Ca<S>>,
    pub(super) own: SpiffeId,
    pub(super) counts: StatusReader<CaCounts>,
    pub(super) identity: IdentityReader,
}

/// Everything that one scrape tells.
#[derive(Debug)]
struct Scrape {
    status: CaStatus,
    counts: CaCounts,
    crls: Vec<Crl>,
    /// The CA's own ID, and when its own leaf ends.
    own: (SpiffeId, Option<SystemTime>),
}

/// What a rotation waits for, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    Distributing,
    Retiring,
}

// === impl Pages ===

impl<S: Store> Pages<S> {
    /// Serves until dropped.
    pub(super) fn serve(self, listener: TcpListener) -> impl Future<Output = ()> {
        let shared = Arc::new(self);
        pages(listener, move |request: Request<()>| {
            let pages = Arc::clone(&shared);
            async move { pages.answer(&request).await }
        })
    }

    async fn answer(&self, request: &Request<()>) -> Response<Bytes> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/livez") => page(StatusCode::OK, "ok\n"),
            (&Method::GET, "/metrics") => {
                let accept = request.headers().get_all(header::ACCEPT).iter();
                let format = Exposition::of(accept.filter_map(|value| value.to_str().ok()));
                let mut response = page(StatusCode::OK, self.scrape().await.page(format));
                let kind = HeaderValue::from_static(format.content_type());
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            (&Method::GET, "/readyz") => {
                let now = self.ca.clock().now();
                match self.own_end().is_some_and(|end| now <= end) {
                    true => page(StatusCode::OK, "ok\n"),
                    false => page(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "the CA's own certificate has expired\n",
                    ),
                }
            }
            (_, "/livez" | "/metrics" | "/readyz") => {
                let mut refusal = page(StatusCode::METHOD_NOT_ALLOWED, "use GET\n");
                let allowed = HeaderValue::from_static("GET, HEAD");
                refusal.headers_mut().insert(header::ALLOW, allowed);
                refusal
            }
            _ => page(StatusCode::NOT_FOUND, "GET /metrics /livez /readyz\n"),
        }
    }

    async fn scrape(&self) -> Scrape {
        Scrape {
            status: self.ca.status().await,
            counts: self.counts.load(),
            crls: self.ca.published().borrow().crls.clone(),
            own: (self.own.clone(), self.own_end()),
        }
    }

    fn own_end(&self) -> Option<SystemTime> {
        let state = self.identity.load();
        state.svid(&self.own).map(|svid| svid.not_after())
    }
}

// === impl Scrape ===

impl Scrape {
    fn page(self, format: Exposition) -> String {
        let metrics = Metrics::empty();
        metrics.collect(self);
        metrics.encode_as(format)
    }

    fn counted(&self, out: &mut Samples<'_>) {
        let Self { status, counts, .. } = self;
        for (name, help, value) in [
            (
                "mesh_ca_leaves_issued",
                "Leaf certificates handed out",
                counts.issued,
            ),
            (
                "mesh_ca_requests_paced",
                "Requests for a leaf that were deferred by pacing",
                counts.paced,
            ),
            (
                "mesh_ca_write_failures",
                "Writes of the CA's state or keys that have failed",
                status.write_failures,
            ),
        ] {
            out.counter(name, help, value);
        }
        let (name, help) = (
            "mesh_ca_requests_refused",
            "Requests for a leaf that were refused, by reason",
        );
        let refused = Refusal::ALL.into_iter().map(|refusal| {
            let n = counts.refused.get(&refusal).copied();
            ([("reason", refusal.as_str())], n.unwrap_or(0))
        });
        out.counters(name, help, refused);
        let (name, help) = (
            "mesh_ca_attestations_failed",
            "Proofs of an identity that proved nothing, by what was brought",
        );
        let failed = attest::Method::ALL.into_iter().map(|method| {
            let n = counts.attestations_failed.get(&method).copied();
            ([("method", method.as_str())], n.unwrap_or(0))
        });
        out.counters(name, help, failed);
        let (name, help) = (
            "mesh_ca_issue_duration_seconds",
            "Time from the head of a request to its leaf",
        );
        let buckets: Vec<_> = counts.latency.buckets().collect();
        let sum = counts.latency.sum().as_secs_f64();
        out.histogram(name, help, sum, &buckets);
    }

    fn gauges(&self, out: &mut Samples<'_>) {
        let status = &self.status;
        let missing = status.wait.as_ref().map_or(0, |wait| wait.missing.len());
        for (name, help, value) in [
            (
                "mesh_ca_bundle_generation",
                "The generation of the bundle that is published",
                status.generation,
            ),
            (
                "mesh_ca_members",
                "Live members that are known",
                status.members as u64,
            ),
            (
                "mesh_ca_members_behind",
                "Live members that may still use a bundle older than the published one",
                status.behind as u64,
            ),
            (
                "mesh_ca_members_unknown_until_timestamp_seconds",
                "Until when leaves of an earlier process may be alive, in seconds since 1970; 0 if none",
                status.unknown_until.map_or(0, seconds),
            ),
            (
                "mesh_ca_rotation_missing",
                "Members that the next step of the rotation waits for",
                missing as u64,
            ),
            (
                "mesh_ca_open_tokens",
                "Join tokens that are not used yet",
                status.open_tokens as u64,
            ),
        ] {
            out.gauge(name, help, value);
        }
        let (name, help) = (
            "mesh_ca_rotation_stage",
            "1 for the stage in which the rotation of the root is, 0 for the others",
        );
        let now = Stage::of(status.next);
        let stages = [Stage::Idle, Stage::Distributing, Stage::Retiring];
        let stages = stages.map(|stage| ([("stage", stage.as_str())], u64::from(stage == now)));
        out.gauges(name, help, stages);
    }

    /// Under the names that the agent has for its own.
    fn expiries(&self, out: &mut Samples<'_>) {
        let trust_domain = self.status.trust_domain.as_str();
        let (own, end) = &self.own;
        let mut all = BTreeSet::new();
        for authority in &self.status.authorities {
            let root = seconds(authority.root_not_after);
            all.insert(("root", trust_domain, authority.key_id.as_str(), root));
            let issuer = seconds(authority.issuer_not_after);
            let key_id = authority.issuer_key_id.as_str();
            all.insert(("issuer", trust_domain, key_id, issuer));
        }
        all.extend(end.map(|end| ("leaf", own.as_str(), "", seconds(end))));
        let (name, help) = (
            "mesh_certificate_expiration_timestamp_seconds",
            "When a certificate ends, in seconds since 1970",
        );
        let all = all
            .into_iter()
            .map(|(kind, id, key_id, at)| ([("kind", kind), ("id", id), ("key_id", key_id)], at));
        out.gauges(name, help, all);
    }

    fn revocations(&self, out: &mut Samples<'_>) {
        type CrlGauge = fn(&Crl) -> u64;
        let all: [(&str, &str, CrlGauge); 4] = [
            (
                "mesh_ca_crl_number",
                "The number of the revocation list that is published",
                |crl| u64::from_str_radix(&crl.number(), 16).unwrap_or(u64::MAX),
            ),
            (
                "mesh_ca_crl_entries",
                "Certificates in the revocation list",
                |crl| crl.len() as u64,
            ),
            (
                "mesh_ca_crl_update_timestamp_seconds",
                "From when the revocation list is, in seconds since 1970",
                |crl| seconds(crl.this_update()),
            ),
            (
                "mesh_ca_crl_expiration_timestamp_seconds",
                "When the revocation list is stale, in seconds since 1970",
                |crl| seconds(crl.next_update()),
            ),
        ];
        for (name, help, read) in all {
            let lists = self.crls.iter().map(|crl| {
                let key_id = crl.authority_key_id().unwrap_or_default();
                ([("key_id", key_id)], read(crl))
            });
            out.gauges(name, help, lists);
        }
    }
}

impl Collect for Scrape {
    fn collect(&self, out: &mut Samples<'_>) {
        self.counted(out);
        self.gauges(out);
        self.expiries(out);
        self.revocations(out);
    }
}

// === impl Stage ===

impl Stage {
    fn of(next: Option<Step>) -> Self {
        match next {
            None | Some(Step::Prepare) => Self::Idle,
            Some(Step::Activate) => Self::Distributing,
            Some(Step::Retire) => Self::Retiring,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Distributing => "distributing",
            Self::Retiring => "retiring",
        }
    }
}

fn page(status: StatusCode, body: impl Into<String>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.into()));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_what_the_next_step_waits_in() {
        for (next, stage) in [
            (None, "idle"),
            (Some(Step::Prepare), "idle"),
            (Some(Step::Activate), "distributing"),
            (Some(Step::Retire), "retiring"),
        ] {
            assert_eq!(Stage::of(next).as_str(), stage, "{next:?}");
        }
    }
}
