//! The status of a runtime: the same numbers for a person, a machine and a probe.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use inmesh_pki::Crypto;
use inmesh_pki::store::{IdentityReader, IdentityState};
use inmesh_pki::svid::validate_own;
use serde::Serialize;

use super::first::ServerFirst;
use super::listening::ListenerStatus;
use crate::authorize::WorkloadPolicy;
use crate::balance::{EndpointSet, TierShare};
use crate::connect::{Counted, Gate};
use crate::discover::{Known, SourceState, Sources};
use crate::drain::Phase;
use crate::local::Local;
use crate::route::{Outcome, RuleOf};
use crate::snapshot::{ObjectStatus, Snapshot};

/// The state of a runtime at one moment, without secrets.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The version of this crate.
    pub version: &'static str,
    /// Whether it takes traffic.
    pub ready: bool,
    /// Why not, if it does not.
    pub not_ready: Vec<String>,
    /// `namespace/name` of the workload.
    pub workload: String,
    /// How often the configuration that serves has changed.
    pub generation: u64,
    /// How often a new version of an object was refused.
    pub refusals: u64,
    /// Its certificates and the roots that it trusts.
    pub identity: Vec<IdentityStatus>,
    /// How the renewal of its identity is doing.
    pub renewal: RenewalStatus,
    /// The policy that decides on requests to it.
    pub policy: PolicyStatus,
    /// The listeners that are served.
    pub listeners: Vec<ListenerStatus>,
    /// The sources of configuration by name, with their states.
    pub sources: BTreeMap<String, SourceStatus>,
    /// What became of each configuration object.
    pub objects: Vec<ObjectStatus>,
    /// The Services it knows.
    pub services: Vec<ServiceStatus>,
    /// The rules of the routes that are attached to them, in order of precedence.
    pub routes: Vec<RouteStatus>,
}

/// A source of configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SourceStatus {
    /// How it is.
    #[serde(flatten)]
    pub state: SourceState,
    /// How long it has been out of sync, in seconds; 0 while it is in sync.
    pub age: u64,
    /// Whether that is so long that what it has pushed is doubted.
    pub stale: bool,
    /// After how many seconds that is; `None` is never.
    pub stale_after: Option<u64>,
}

/// The policy of the workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PolicyStatus {
    /// What happens to a request if no ALLOW policy selects the workload: `allow` or `deny`.
    pub default_action: &'static str,
    /// The policies that select it, in the order of evaluation.
    pub selected_by: Vec<PolicyOf>,
    /// Policies that never were good, which deny everything meanwhile.
    pub refused: Vec<String>,
}

/// A policy that selects the workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PolicyOf {
    /// `Kind/namespace/name`.
    pub object: String,
    /// `ALLOW`, `DENY` or `CUSTOM`.
    pub action: &'static str,
    /// How many rules it has.
    pub rules: usize,
}

/// A rule of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RouteStatus {
    /// `name.namespace` of the Service that it is attached to.
    pub service: String,
    /// `Kind/namespace/name` of the route.
    pub route: String,
    /// The rule's place in it, counted from 0.
    pub rule: usize,
    /// Where it forwards to; empty if it answers itself.
    pub backends: Vec<BackendStatus>,
    /// The status that it answers with itself.
    pub answer: Option<u16>,
}

/// A backend of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BackendStatus {
    /// `name.namespace` of the Service.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// Its weight among the backends of the rule.
    pub weight: u32,
}

/// One certificate: a leaf of ours, or a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct IdentityStatus {
    /// `leaf` or `root`.
    pub kind: &'static str,
    /// The SPIFFE ID, or the trust domain of a root.
    pub id: String,
    /// When it ends, in seconds since 1970.
    pub not_after: u64,
}

/// How the renewal of an identity is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RenewalStatus {
    /// How often the source has given an identity.
    pub renewals: u64,
    /// How often it has failed to.
    pub failures: u64,
    /// How often it has failed since it last gave one.
    pub failing: u64,
    /// Why it failed last, if it has given none since.
    pub last_error: Option<String>,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ServiceStatus {
    /// `name.namespace`.
    pub service: String,
    /// The port.
    pub port: u16,
    /// What it speaks.
    pub protocol: String,
    /// Whether nothing is declared for the port, and its server was seen to speak first: it is opaque
    /// then, and callers need not be waited for if it is declared.
    pub server_first: bool,
    /// Whether routes are attached.
    pub routed: bool,
    /// Whether so many endpoints are ejected that all are used as if none were.
    pub panic: bool,
    /// The connections to its endpoints, for each local workload that has had any.
    pub connections: Vec<ConnectionsStatus>,
    /// What is near, and what each tier takes, where near endpoints are preferred; else empty.
    pub tiers: Vec<TierStatus>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointStatus>,
}

/// The connections of a local workload to the endpoints of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ConnectionsStatus {
    /// `namespace/name` of the workload.
    pub workload: String,
    /// How many are open, those being opened included.
    pub open: u32,
    /// How many requests wait for one.
    pub pending: usize,
    /// How many requests and connections were refused, since as many were open as may be.
    pub overflows: u64,
}

/// Endpoints that are equally near.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TierStatus {
    /// What they share with this process, `elsewhere` if nothing, or their zone.
    pub name: String,
    /// Their priority: a higher one is used only while all lower ones have nothing to offer.
    pub priority: u32,
    /// How many there are that may be chosen from, ejected ones included.
    pub endpoints: usize,
    /// Their share of the requests, in thousandths.
    pub permille: u32,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EndpointStatus {
    /// Where it is.
    pub address: SocketAddr,
    /// How bytes travel there.
    pub transport: &'static str,
    /// Its version label; may be empty.
    pub version: String,
    /// Its zone; may be empty.
    pub zone: String,
    /// Whether it is ready by its source.
    pub ready: bool,
    /// Whether the balancer has ejected it, or its checks fail.
    pub ejected: bool,
    /// Whether its checks fail.
    pub unwell: bool,
    /// Requests in flight to it.
    pub in_flight: u32,
    /// Why it failed last, if it has failed since it is known.
    pub last_error: Option<EndpointError>,
}

/// Why an endpoint failed last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EndpointError {
    /// What was wrong.
    pub error: String,
    /// How long ago, in seconds.
    pub age: u64,
}

// === impl Status ===

impl Status {
    pub(super) fn new(
        snapshot: &Snapshot,
        (identity, crypto): (&IdentityReader, &Crypto),
        phase: Phase,
        sources: &Sources,
        // The moment, and the same on the clock that failures are noted on.
        (now, since_start): (SystemTime, Duration),
        server_first: &ServerFirst,
        listeners: Vec<ListenerStatus>,
    ) -> Self {
        let not_ready = not_ready(snapshot, (identity, crypto), phase, sources, now);
        let (identity, renewal) = (identity.load(), identity.renewal());
        let workload = snapshot.settings().local.workload();
        let mut services: Vec<_> = snapshot
            .services()
            .flat_map(|view| {
                view.ports.iter().map(|port| ServiceStatus {
                    service: view.name.to_string(),
                    port: port.port,
                    protocol: port.protocol.to_string(),
                    server_first: server_first.has(&view.name, port.port),
                    routed: !view.routes.is_empty(),
                    panic: view
                        .endpoints(port.port)
                        .is_some_and(|set| set.is_panicking()),
                    connections: connections(view.endpoints(port.port)),
                    tiers: tiers(view.endpoints(port.port)),
                    endpoints: view
                        .endpoints(port.port)
                        .into_iter()
                        .flat_map(|set| set.members())
                        .map(|m| EndpointStatus {
                            address: m.endpoint.address(),
                            transport: m.endpoint.transport.as_str(),
                            version: m.endpoint.version.to_string(),
                            zone: m.endpoint.locality.zone.to_string(),
                            ready: m.endpoint.conditions.ready,
                            ejected: m.state.is_ejected(),
                            unwell: m.state.is_unwell(),
                            in_flight: m.state.in_flight(),
                            last_error: m.state.last_failure().map(|last| EndpointError {
                                error: last.error.into(),
                                age: since_start.saturating_sub(last.at).as_secs(),
                            }),
                        })
                        .collect(),
                })
            })
            .collect();
        services.sort_by(|a, b| (&a.service, a.port).cmp(&(&b.service, b.port)));
        Self {
            version: env!("CARGO_PKG_VERSION"),
            ready: not_ready.is_empty(),
            not_ready,
            workload: workload.to_string(),
            generation: snapshot.generation(),
            refusals: snapshot.refusals(),
            identity: certificates(&identity),
            renewal: RenewalStatus {
                renewals: renewal.renewals,
                failures: renewal.failures,
                failing: renewal.failing,
                last_error: renewal.last_error.map(|error| error.to_string()),
            },
            policy: policy(snapshot.policy()),
            listeners,
            sources: sources
                .all()
                .map(|(id, known)| (id.to_string(), source(known, since_start)))
                .collect(),
            objects: snapshot.status(),
            services,
            routes: routes(snapshot),
        }
    }
}

fn source(known: &Known, now: Duration) -> SourceStatus {
    SourceStatus {
        state: known.state().clone(),
        age: known.age(now).as_secs(),
        stale: known.is_stale(),
        stale_after: known.stale_after().map(|limit| limit.as_secs()),
    }
}

fn policy(policy: &WorkloadPolicy) -> PolicyStatus {
    let of = policy.policies().map(|policy| PolicyOf {
        object: policy.key.to_string(),
        action: policy.action.as_str(),
        rules: policy.rules.len(),
    });
    PolicyStatus {
        default_action: policy.default_action().as_str(),
        selected_by: of.collect(),
        refused: policy.broken().iter().map(ToString::to_string).collect(),
    }
}

fn connections(set: Option<&Arc<EndpointSet>>) -> Vec<ConnectionsStatus> {
    let counted = set.map(|set| Gate::counts(set)).unwrap_or_default();
    let of = |(local, of): (Arc<Local>, Counted)| ConnectionsStatus {
        workload: local.workload().to_string(),
        open: of.open,
        pending: of.pending,
        overflows: of.overflows,
    };
    counted.into_iter().map(of).collect()
}

fn tiers(set: Option<&Arc<EndpointSet>>) -> Vec<TierStatus> {
    let shares = set.map(|set| set.shares()).unwrap_or_default();
    let tier = |share: TierShare| TierStatus {
        name: share.name.to_string(),
        priority: share.priority,
        endpoints: share.endpoints,
        permille: share.permille,
    };
    shares.into_iter().map(tier).collect()
}

/// By Service, and for each in order of precedence.
fn routes(snapshot: &Snapshot) -> Vec<RouteStatus> {
    let mut views: Vec<_> = snapshot.services().collect();
    views.sort_by(|a, b| a.name.cmp(&b.name));
    let of = |service: &str, rule: RuleOf<'_>| RouteStatus {
        service: service.to_owned(),
        route: rule.route.to_string(),
        rule: rule.index,
        backends: rule
            .backends
            .iter()
            .map(|(service, port, weight)| BackendStatus {
                service: service.to_string(),
                port: *port,
                weight: *weight,
            })
            .collect(),
        answer: rule.answer.and_then(|answer| match answer {
            Outcome::Forward(_) => None,
            Outcome::Redirect(redirect) => Some(redirect.status().as_u16()),
            Outcome::Respond(respond) => Some(respond.status().as_u16()),
        }),
    };
    let rules = views.iter().flat_map(|view| {
        let service = view.name.to_string();
        let rules = view.routes.rules().into_iter();
        rules.map(|rule| of(&service, rule)).collect::<Vec<_>>()
    });
    rules.collect()
}

/// Our leaves and the roots that we trust.
fn certificates(identity: &IdentityState) -> Vec<IdentityStatus> {
    let leaves = identity.svids().map(|svid| IdentityStatus {
        kind: "leaf",
        id: svid.id().to_string(),
        not_after: seconds(svid.not_after()),
    });
    let roots = identity.bundles().iter().flat_map(|bundle| {
        bundle.roots().iter().map(|root| IdentityStatus {
            kind: "root",
            id: bundle.trust_domain().to_string(),
            not_after: seconds(root.not_after()),
        })
    });
    leaves.chain(roots).collect()
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Why it does not take traffic; empty if it does. Probes ask it often: what costs most are the signatures
/// of the identity's own path, some 0.1 ms each.
pub(super) fn not_ready(
    snapshot: &Snapshot,
    (identity, crypto): (&IdentityReader, &Crypto),
    phase: Phase,
    sources: &Sources,
    now: SystemTime,
) -> Vec<String> {
    let mut not_ready = Vec::new();
    if phase != Phase::Serving {
        not_ready.push("it is draining".to_owned());
    }
    not_ready.extend(lifeless(identity, crypto, now));
    not_ready.extend(sources.waiting());
    not_ready.extend(
        snapshot
            .blocked()
            .iter()
            .map(|key| format!("{key} was refused and cannot even be placed")),
    );
    not_ready
}

/// Why no peer would accept its identity at `now`.
fn lifeless(identity: &IdentityReader, crypto: &Crypto, now: SystemTime) -> Option<String> {
    let state = identity.load();
    let Some(svid) = state.default_svid() else {
        return Some(match identity.renewal().last_error {
            Some(error) => format!("it has no identity yet: {error}"),
            None => "it has no identity yet".to_owned(),
        });
    };
    if now > svid.not_after() {
        return Some(format!("the certificate of {} has ended", svid.id()));
    }
    if now < svid.not_before() {
        return Some(format!("the certificate of {} is not valid yet", svid.id()));
    }
    // Peers judge by the same bundle and lists as we do: they would end every handshake.
    let refused = validate_own(svid, &state, now, crypto).err();
    refused.map(|reason| format!("no peer accepts its certificate: {reason}"))
}

#[cfg(test)]
mod tests {
    use inmesh_pki::clock::ManualClock;
    use inmesh_pki::issue::ca::LocalCa;
    use inmesh_pki::issue::csr;
    use inmesh_pki::{IdentityState, IdentityWriter, RevokedIds, identity};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn noon() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn ca(crypto: &Crypto) -> Result<LocalCa, Box<dyn std::error::Error>> {
        let clock = ManualClock::new(noon()).shared();
        let ca = LocalCa::create("td.test".parse()?, 24 * HOUR, crypto, clock)?;
        Ok(ca.with_leaf_lifetime(HOUR))
    }

    /// An identity of `signer` beside the bundle of `trusted`.
    fn identified(
        signer: &LocalCa,
        trusted: &LocalCa,
        crypto: &Crypto,
    ) -> Result<(IdentityWriter, IdentityReader), Box<dyn std::error::Error>> {
        let id = "spiffe://td.test/ns/shop/sa/cart".parse()?;
        let (key, csr) = csr::generate(&id, crypto)?;
        let svid = signer.sign(&id, &csr)?.into_svid(key, crypto)?;
        let state = IdentityState::new(svid, trusted.bundle().clone().into());
        Ok(identity(state))
    }

    #[test]
    fn an_identity_whose_certificate_is_not_alive_takes_no_traffic()
    -> Result<(), Box<dyn std::error::Error>> {
        let crypto = Crypto::aws_lc_rs();
        let ca = ca(&crypto)?;
        let (_writer, reader) = identified(&ca, &ca, &crypto)?;
        for (now, reason) in [
            (noon(), None),
            (noon() + HOUR, None),
            (noon() + 2 * HOUR, Some("has ended")),
            (noon() - HOUR, Some("is not valid yet")),
        ] {
            let why = lifeless(&reader, &crypto, now);
            assert_eq!(why.is_some(), reason.is_some(), "{why:?}");
            assert!(reason.is_none_or(|reason| why.is_some_and(|why| why.contains(reason))));
        }
        Ok(())
    }

    #[test]
    fn an_identity_that_no_peer_accepts_takes_no_traffic() -> Result<(), Box<dyn std::error::Error>>
    {
        let crypto = Crypto::aws_lc_rs();
        let (ca, foreign) = (ca(&crypto)?, ca(&crypto)?);
        let (writer, reader) = identified(&foreign, &ca, &crypto)?;
        let why = || lifeless(&reader, &crypto, noon()).unwrap_or_default();
        assert!(
            why().contains("no peer accepts its certificate"),
            "{}",
            why()
        );
        // The bundle that vouches for it comes later.
        writer.set_bundle(foreign.bundle().clone());
        assert_eq!(why(), "");
        // Its ID is revoked.
        let id = reader.load().default_svid().ok_or("none")?.id().clone();
        let mut ids = RevokedIds::default();
        ids.insert(id, noon() + HOUR);
        writer.update(|state| state.replace_revoked_ids(ids));
        assert!(why().contains("revoked"), "{}", why());
        writer.update(|state| state.replace_revoked_ids(RevokedIds::default()));
        assert_eq!(why(), "");
        // Its CA says that it has revoked it, until another is there.
        let svid = Arc::clone(reader.load().default_svid().ok_or("none")?);
        writer.update(|state| state.revoke_svid(svid.id(), svid.serial(), noon()));
        assert!(why().contains("revoked since"), "{}", why());
        writer.remove_svid(svid.id());
        writer.update(|state| state.share_svid(svid));
        assert_eq!(why(), "");
        // Its root is distrusted.
        let roots = foreign.bundle().roots().iter();
        let keys: Vec<_> = roots.map(|root| root.key_id().to_owned()).collect();
        let domain = foreign.bundle().trust_domain().clone();
        writer.update(|state| state.distrust(&domain, keys));
        assert!(why().contains("distrusted"), "{}", why());
        Ok(())
    }
}
