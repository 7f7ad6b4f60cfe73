//! Signs what a cluster asks our signer for, while this process holds the Lease.
//!
//! What becomes of a request is decided by [`judge`]; here are the watches, the CA and the writes. A
//! status is written of the version that was judged: where another writer was first, the watch brings what
//! it wrote, and the request is judged again. What fails is tried again after a pause that grows, and
//! nothing is written of it: a Pod whose request is denied or failed gets no other.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use inmesh_core::drain::Drain;
use inmesh_pki::ca::{Asker, Ca, CaError};
use inmesh_pki::clock::SystemClock;
use inmesh_pki::issue::IssueError;
use inmesh_pki::issue::policy::Rules;
use kube::Client;
use serde_json::{Value as Json, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use self::judge::{Kind, Known, Policy, SHORTEST, Sign, Verdict, Why, conditions, issued, judge};
use super::SecretStore;
use crate::kube::Cluster;
use crate::kube::index::Event;
use crate::kube::kinds::Watched;
use crate::kube::pauses::{Asked, Pauses};
use crate::kube::watch::{Followed, Said, root, served, watch as follow};
use crate::kube::write::{Leads, Lease, elect, in_time, send};

mod judge;
#[cfg(test)]
mod tests;

/// How many requests are answered at once.
const AT_ONCE: usize = 8;
/// How long one answer may take: one write, and what comes before it.
const TIME: Duration = Duration::from_secs(20);
/// How often all is looked at again.
const LOOK: Duration = Duration::from_secs(30);
/// How often it is said again why requests are not followed or not answered.
const REMIND: Duration = Duration::from_secs(60 * 60);
/// What may wait of what watches say.
const QUEUE: usize = 256;
/// How many open requests are known of; the API server has the others.
const OPEN: usize = 16_384;

static PODS: Watched = Watched {
    kind: "PodCertificateRequest",
    group: "certificates.k8s.io",
    versions: &["v1", "v1beta1"],
    plural: "podcertificaterequests",
    built_in: false,
};
static CSRS: Watched = Watched {
    kind: "CertificateSigningRequest",
    group: "certificates.k8s.io",
    versions: &["v1"],
    plural: "certificatesigningrequests",
    built_in: true,
};

/// What is watched, in the order of [`KINDS`].
const FOLLOWED: [Followed; 2] = [
    Followed {
        kind: &PODS,
        labels: None,
        fields: Some("spec.signerName=inmesh.dev/ca"),
    },
    Followed {
        kind: &CSRS,
        labels: None,
        fields: Some("spec.signerName=inmesh.dev/ca"),
    },
];
const KINDS: [Kind; 2] = [Kind::Pod, Kind::Csr];

/// Signs for Pods and service accounts that ask the API server for a certificate of the signer
/// `inmesh.dev/ca`: each PodCertificateRequest (`certificates.k8s.io/v1`, or `v1beta1`) and
/// CertificateSigningRequest gets the ID of its service account, or is denied with a reason.
///
/// Of several processes the one that holds the Lease answers. The rules must allow service accounts
/// ([`Rules::with_kubernetes`]); the CA's leaf lifetime is the longest. A certificate of a Pod lives for an
/// hour at least, from its beginning to its end, so a CA with a shorter leaf lifetime than 58 minutes denies
/// them.
///
/// A leaf that is issued so says nothing of the bundle that its holder has, which comes by a volume:
/// rotations wait for a leaf's life, as they do in a store that several processes share.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use inmesh_pki::ca::Ca;
/// # use inmesh_discovery::kube::SecretStore;
/// # async fn doc(ca: Arc<Ca<SecretStore>>) -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_core::drain::drain;
/// use inmesh_core::model::Namespace;
/// use inmesh_discovery::kube::{CertificateSigner, Cluster, Lease};
/// use inmesh_pki::issue::policy::Rules;
///
/// let own = "spiffe://prod.example/inmesh/ca".parse()?;
/// let rules = Rules::new("prod.example".parse()?, own).with_kubernetes();
/// let lease = Lease::new(Namespace::new("mesh-system")?, "mesh-signer", "ca-7f9c-x2x4z");
/// let (_end, until) = drain();
/// CertificateSigner::new(&Cluster::infer().await?, lease, ca, rules).run(until).await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CertificateSigner {
    cluster: Cluster,
    lease: Lease,
    ca: Arc<Ca<SecretStore>>,
    rules: Rules,
}

/// A request, as it is named: its kind, its Namespace if it has one, and its name.
type Name = (Kind, String, String);

/// What is known and on its way.
struct Signing {
    leads: Leads,
    answerer: Answerer,
    open: BTreeMap<Name, Json>,
    /// The names on each list that is being read.
    listing: [Option<HashSet<Name>>; 2],
    on_their_way: JoinSet<(Name, Result<(), Failed>)>,
    /// What was answered, of the version that was judged.
    asked: Asked<Name, String>,
    refused: Pauses<Name>,
    /// When it was said last that a watch, or an answer, fails.
    failed: [Option<Instant>; 2],
    said: Option<Instant>,
    absence_said: bool,
    full_said: bool,
}

/// Answers one request.
#[derive(Clone)]
struct Answerer {
    client: Client,
    ca: Arc<Ca<SecretStore>>,
    policy: Policy,
}

/// Why a request is not answered yet.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("the CA does not sign")]
    Ca(#[from] CaError),
    #[error("the API server does not take the answer: {}", root(.0))]
    Kube(#[from] kube::Error),
    #[error("a leaf would be shorter than the API server allows, so soon after a revocation")]
    Short,
    #[error("the API server has no PodCertificateRequest any longer")]
    Absent,
}

// === impl CertificateSigner ===

impl CertificateSigner {
    /// A signer in a cluster; `lease` is in the CA's own Namespace.
    #[must_use]
    pub fn new(cluster: &Cluster, lease: Lease, ca: Arc<Ca<SecretStore>>, rules: Rules) -> Self {
        Self {
            cluster: cluster.clone(),
            lease,
            ca,
            rules,
        }
    }

    /// Answers requests until the drain has closed.
    pub async fn run(self, mut drain: Drain) {
        let client = self.cluster.client;
        let (said, mut heard) = mpsc::channel(QUEUE);
        // They end with this function.
        let mut tasks = JoinSet::new();
        for (place, followed) in FOLLOWED.into_iter().enumerate() {
            tasks.spawn(follow(client.clone(), place, followed, said.clone()));
        }
        drop(said);
        let (leads, led) = watch::channel(None);
        let (clock, ended) = (SystemClock::shared(), drain.clone());
        let mut election = JoinSet::new();
        election.spawn(elect(client.clone(), self.lease, clock, leads, ended));
        let leaf = self.ca.lifetimes().leaf;
        if leaf + inmesh_pki::issue::ca::BACK_DATED < SHORTEST {
            tracing::warn!(
                seconds = leaf.as_secs(),
                "leaves live for less than 58 minutes: no Pod gets a certificate by its volume"
            );
        }
        let policy = Policy {
            rules: self.rules,
            leaf,
            crypto: self.ca.crypto().clone(),
        };
        let ca = self.ca;
        let mut signing = Signing::new(led, Answerer { client, ca, policy });
        let mut batch = Vec::new();
        loop {
            let wake = signing.look();
            tokio::select! {
                biased;
                () = drain.closed() => {
                    // The Lease is left to others.
                    while election.join_next().await.is_some() {}
                    return;
                }
                _any = heard.recv_many(&mut batch, QUEUE) => {}
                changed = signing.leads.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                Some(Ok((name, done))) = signing.on_their_way.join_next(),
                    if !signing.on_their_way.is_empty() => signing.came_back(name, done),
                () = sleep_until(wake) => {}
            }
            for (place, said) in batch.drain(..) {
                signing.hear(place, said);
            }
        }
    }
}

// === impl Signing ===

impl Signing {
    fn new(leads: Leads, answerer: Answerer) -> Self {
        Self {
            leads,
            answerer,
            open: BTreeMap::new(),
            listing: [None, None],
            on_their_way: JoinSet::new(),
            asked: Asked::new(),
            refused: Pauses::new(),
            failed: [None; 2],
            said: None,
            absence_said: false,
            full_said: false,
        }
    }

    /// Notes what a watch says.
    fn hear(&mut self, place: usize, said: Said) {
        let event = match said {
            Said::Of(event) => event,
            Said::Live => return,
            Said::Failed(why) => {
                let now = Instant::now();
                if self.failed[place].is_none_or(|last| now - last >= REMIND) {
                    self.failed[place] = Some(now);
                    let kind = FOLLOWED[place].kind.kind;
                    tracing::warn!(kind, why, "requests for certificates are not followed");
                }
                return;
            }
        };
        let kind = KINDS[place];
        match event {
            Event::Absent => {
                if !std::mem::replace(&mut self.absence_said, true) {
                    tracing::info!(
                        "the API server has no PodCertificateRequest: Pods join with a token"
                    );
                }
                self.open.retain(|name, _| name.0 != kind);
            }
            Event::ListBegun => self.listing[place] = Some(HashSet::new()),
            Event::Listed(object) => {
                if let Some(listing) = &mut self.listing[place] {
                    listing.insert(name_of(kind, &object));
                }
                self.put(kind, object);
            }
            Event::ListDone => {
                let listing = self.listing[place].take().unwrap_or_default();
                self.open
                    .retain(|name, _| name.0 != kind || listing.contains(name));
            }
            Event::Applied(object) => self.put(kind, object),
            Event::Deleted(object) => drop(self.open.remove(&name_of(kind, &object))),
        }
    }

    fn put(&mut self, kind: Kind, object: Json) {
        let name = name_of(kind, &object);
        if !judge::is_open(kind, &object) {
            self.open.remove(&name);
        } else if self.open.len() < OPEN || self.open.contains_key(&name) {
            self.open.insert(name, object);
        } else if !std::mem::replace(&mut self.full_said, true) {
            tracing::warn!(
                OPEN,
                "too many open requests for certificates: some are not answered"
            );
        }
    }

    fn came_back(&mut self, name: Name, done: Result<(), Failed>) {
        let Err(error) = done else {
            self.refused.end(&name);
            return;
        };
        let now = Instant::now();
        let (_, times) = self.refused.refused(name.clone(), now);
        self.asked.end(&name);
        // What another has written or removed comes by the watch.
        let expected = matches!(
            &error,
            Failed::Kube(kube::Error::Api(status)) if matches!(status.code, 404 | 409)
        );
        if (!expected || times > 2) && self.said.is_none_or(|last| now - last >= LOOK) {
            self.said = Some(now);
            let (_, namespace, request) = &name;
            let error: &dyn std::error::Error = &error;
            tracing::warn!(namespace, request, error, "a certificate is not issued yet");
        }
    }

    /// Answers what is open, and says when to look again.
    fn look(&mut self) -> Instant {
        let now = Instant::now();
        let mut next = now + LOOK;
        let leads = *self.leads.borrow_and_update();
        self.asked.retain(|name| self.open.contains_key(name));
        self.refused.retain(|name| self.open.contains_key(name));
        if leads.is_none_or(|until| now >= until) {
            return next;
        }
        for (name, object) in &self.open {
            let version = object["metadata"]["resourceVersion"].as_str();
            let version = version.unwrap_or_default().to_owned();
            let waits = self.refused.until(name, now);
            if let Some(until) = waits.or_else(|| self.asked.until(name, &version, now)) {
                next = next.min(until);
                continue;
            }
            if self.on_their_way.len() >= AT_ONCE {
                // What comes back wakes.
                break;
            }
            self.asked.ask(name.clone(), version, now);
            let (answerer, name, object) = (self.answerer.clone(), name.clone(), object.clone());
            self.on_their_way.spawn(async move {
                let answered = timeout(TIME, answerer.answer(&name, &object)).await;
                let no_answer = || Err(Failed::Kube(kube::Error::Service("no answer".into())));
                (name, answered.unwrap_or_else(|_| no_answer()))
            });
        }
        next
    }
}

fn name_of(kind: Kind, object: &Json) -> Name {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    (kind, text("namespace").to_owned(), text("name").to_owned())
}

// === impl Answerer ===

impl Answerer {
    async fn answer(&self, name: &Name, object: &Json) -> Result<(), Failed> {
        let kind = name.0;
        let verdict = {
            let revoked = self.ca.revocations().borrow().clone();
            let known = Known {
                window: *self.ca.window().borrow(),
                revoked: &revoked,
                now: self.ca.clock().now(),
            };
            judge(kind, object, &self.policy, &known)
        };
        let now = self.ca.clock().now();
        let said = |condition: &str, why: &Why| {
            let (_, namespace, request) = name;
            tracing::warn!(
                namespace,
                request,
                condition,
                reason = why.reason,
                message = why.message,
                "a request for a certificate is refused"
            );
            conditions(object, condition, why, now)
        };
        match verdict {
            Verdict::Nothing => Ok(()),
            Verdict::Approve => {
                let why = Why::new("ServiceAccount", "a service account gets its own ID");
                let status = conditions(object, "Approved", &why, now);
                self.write(name, object, "approval", status).await
            }
            Verdict::Deny(why) => {
                let status = said("Denied", &why);
                self.write(name, object, at_denial(kind), status).await
            }
            Verdict::Fail(why) => {
                let status = said("Failed", &why);
                self.write(name, object, "status", status).await
            }
            Verdict::Sign(sign) => match self.sign(kind, &sign).await {
                Ok(status) => self.write(name, object, "status", status).await,
                // Some keys are known to the provider, and certified by no CA of it.
                Err(Failed::Ca(CaError::Issue(IssueError::Key { .. }))) => {
                    let condition = match kind {
                        Kind::Pod => "Denied",
                        Kind::Csr => "Failed",
                    };
                    let status = said(condition, &Why::key());
                    self.write(name, object, "status", status).await
                }
                Err(error) => Err(error),
            },
        }
    }

    async fn sign(&self, kind: Kind, sign: &Sign) -> Result<Json, Failed> {
        let asker = Asker {
            lifetime: Some(sign.lifetime),
            // Its bundle comes by another way: it acknowledges nothing.
            ..Asker::default()
        };
        let leaf = self.ca.issue(&sign.grant, &sign.csr, &asker).await?;
        let status = issued(kind, sign, &leaf, self.ca.clock().now()).ok_or(Failed::Short)?;
        let (id, serial) = (sign.grant.id(), &leaf.serial);
        tracing::info!(%id, by = sign.grant.by().as_str(), %serial, "a leaf is issued");
        Ok(status)
    }

    /// Writes a status, or what is approved, if the request is still the one that was judged.
    async fn write(
        &self,
        (kind, namespace, name): &Name,
        object: &Json,
        part: &str,
        status: Json,
    ) -> Result<(), Failed> {
        let path = match kind {
            Kind::Csr => format!("{}/{name}/{part}", CSRS.path("v1")),
            Kind::Pod => {
                let version = served(&self.client, &PODS).await?;
                let (before, after) = PODS.path_in(version.ok_or(Failed::Absent)?);
                format!("{before}/{namespace}/{after}/{name}/{part}")
            }
        };
        let version = &object["metadata"]["resourceVersion"];
        let patch = json!({"metadata": {"resourceVersion": version}, "status": status});
        let request = http::Request::patch(path);
        let kind = "application/merge-patch+json";
        Ok(in_time(send(&self.client, request, kind, &patch)).await?)
    }
}

/// Which part of a request has that it is denied.
fn at_denial(kind: Kind) -> &'static str {
    match kind {
        Kind::Pod => "status",
        Kind::Csr => "approval",
    }
}
