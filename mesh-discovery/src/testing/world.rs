//! What a mesh would know of documents, without one that runs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use inmesh_core::Local;
use inmesh_core::authorize::DefaultAction;
use inmesh_core::explain::{Explanation, Question, Scene, explain};
use inmesh_core::model::{Host, HostAddress, InvalidName, ObjectKey, SourceId, Workload};
use inmesh_core::pki::id::{SpiffeId, TrustDomain};
use inmesh_core::snapshot::{Change, Location, Op, Problem, Settings, Severity, Snapshot};

use crate::manifest::{Content, Defaults, Folder, Merged};

/// Where the addresses begin that stand for names, which are not resolved here (RFC 5737).
const STAND_IN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// How many there are; further names share the last.
const STAND_INS: u32 = 253;

/// A snapshot of documents, to be asked what would become of requests.
///
/// ```
/// use inmesh_core::explain::{Outcome, Question};
/// use inmesh_core::model::Namespace;
/// use inmesh_discovery::manifest::Defaults;
/// use inmesh_discovery::testing::World;
///
/// let documents = "
/// apiVersion: v1
/// kind: Service
/// metadata: {name: cart}
/// spec: {ports: [{port: 80, appProtocol: http}]}
/// ---
/// apiVersion: gateway.networking.k8s.io/v1
/// kind: HTTPRoute
/// metadata: {name: cart}
/// spec:
///   parentRefs: [{group: '', kind: Service, name: cart}]
///   rules:
///   - matches: [{path: {type: PathPrefix, value: /items}}]
///     backendRefs: [{name: cart, port: 80}]
/// ";
/// let defaults = Defaults::new(Namespace::new("shop")?);
/// let world = World::from_documents([("cart.yaml", documents)], &defaults)?;
/// assert!(world.problems().is_empty());
/// let seen = world.ask(&Question::parse("GET http://cart/other")?);
/// assert_eq!((seen.verdict.outcome, seen.verdict.status), (Outcome::Refused, Some(404)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct World {
    snapshot: Snapshot,
    /// What made it.
    settings: Settings,
    changes: Vec<Change>,
    problems: Vec<Problem>,
    places: BTreeMap<String, Location>,
    stand_ins: Vec<(Host, IpAddr)>,
    /// That of the local workload, or why it is not known.
    trust_domain: Result<TrustDomain, String>,
}

// === impl World ===

impl World {
    /// The documents of some texts, each with the name of its file, as a workload of the default
    /// namespace whose default action is to deny reads them.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if the default namespace is too long for a workload.
    pub fn from_documents<'t>(
        files: impl IntoIterator<Item = (&'t str, &'t str)>,
        defaults: &Defaults,
    ) -> Result<Self, InvalidName> {
        let mut folder = Folder::new(SourceId::new("documents"), defaults.clone());
        let texts = files.into_iter();
        let merged =
            folder.merge(texts.map(|(name, text)| (name.into(), Content::Text(text.into()))));
        Self::without_agent(&merged, defaults)
    }

    /// The same of a folder of documents. It blocks.
    ///
    /// # Errors
    ///
    /// Whatever keeps the folder from being listed.
    #[cfg(feature = "file")]
    pub fn from_folder(dir: &std::path::Path, defaults: &Defaults) -> std::io::Result<Self> {
        let merged = crate::file::FileSource::read_once(dir, defaults)?;
        Self::without_agent(&merged, defaults).map_err(std::io::Error::other)
    }

    fn without_agent(merged: &Merged, defaults: &Defaults) -> Result<Self, InvalidName> {
        let caller = Workload::new(defaults.namespace.as_str(), "caller", "default")?;
        let mut settings = Settings::new(caller, DefaultAction::Deny);
        settings.paths = defaults.paths;
        Ok(Self::new(merged, settings))
    }

    /// What was read of a folder, as a process with such settings knows it.
    #[must_use]
    pub fn new(merged: &Merged, settings: Settings) -> Self {
        Self::of(&[], merged, settings)
    }

    /// The same of a folder that has been edited while the process ran: of what is refused the last good
    /// version serves on. Both are of one [`Folder`].
    #[must_use]
    pub fn edited(before: &Merged, after: &Merged, settings: Settings) -> Self {
        Self::of(std::slice::from_ref(before), after, settings)
    }

    fn of(before: &[Merged], merged: &Merged, settings: Settings) -> Self {
        let mut changes: Vec<_> = before.iter().map(|merged| merged.change.clone()).collect();
        changes.push(merged.change.clone());
        let snapshot = Snapshot::new(settings.clone());
        let snapshot = changes
            .iter()
            .fold(snapshot, |s, change| s.apply(change.clone()));
        let unresolved = snapshot.resolutions().filter(|(_, found)| found.is_none());
        let mut names: Vec<Host> = unresolved.map(|(host, _)| host.clone()).collect();
        names.sort();
        let stands = |(n, host): (usize, Host)| {
            let nth = u32::try_from(n).unwrap_or(STAND_INS).min(STAND_INS);
            (host, stand_in(nth))
        };
        let stand_ins: Vec<_> = names.into_iter().enumerate().map(stands).collect();
        let resolved = stand_ins.iter().map(|(host, address)| {
            Op::Resolve(host.clone(), Arc::from([standing(host, *address)]))
        });
        let change = Change::update(SourceId::new("stand-ins"), resolved.collect());
        let snapshot = snapshot.apply(change.clone());
        changes.push(change);
        let place = |(key, at): (&ObjectKey, &Location)| (key.to_string(), at.clone());
        Self {
            problems: problems(&snapshot, merged),
            snapshot,
            settings,
            changes,
            places: merged.places.iter().map(place).collect(),
            stand_ins,
            trust_domain: Err("no agent's file is there to say it".into()),
        }
    }

    /// The same whose local workload is of a trust domain, or `Err` with why that is not known. Other
    /// documents do not say it: the identities that endpoints have may all be a partner's.
    #[must_use]
    pub fn of_trust_domain(mut self, known: Result<TrustDomain, String>) -> Self {
        self.trust_domain = known;
        self
    }

    /// The same with a trust domain that is said beside the documents.
    ///
    /// # Errors
    ///
    /// If the agent's file says another.
    pub fn said_to_be_of(self, said: &TrustDomain) -> Result<Self, String> {
        match &self.trust_domain {
            Ok(known) if known != said => Err(format!(
                "the caller is said to be of {said}, and by its agent's file it is of {known}"
            )),
            _ => Ok(self.of_trust_domain(Ok(said.clone()))),
        }
    }

    /// The trust domain of the local workload.
    ///
    /// # Errors
    ///
    /// Why it is not known. Without it the local workload asks as a caller without an identity.
    pub fn trust_domain(&self) -> Result<&TrustDomain, &str> {
        self.trust_domain.as_ref().map_err(|why| &**why)
    }

    /// Asks what would become of a request, as the workload that the settings name or as the caller
    /// that the question names.
    #[must_use]
    pub fn ask(&self, question: &Question) -> Explanation {
        let mut snapshot = self.snapshot.clone();
        // A name that is found out once it is asked for has an address that stands for it, too.
        if let Some((service, asked)) = Scene::new(&snapshot, self.local()).asked(question) {
            let address = standing(&asked.host, stand_in(STAND_INS));
            let resolved = Op::Resolve(asked.host.clone(), Arc::from([address]));
            let ops = vec![Op::Ask(service, asked), resolved];
            snapshot = snapshot.apply(Change::update(SourceId::new("stand-ins"), ops));
        }
        explain(&Scene::new(&snapshot, self.local()), question)
    }

    /// The question of the local workload, where it names no caller.
    #[must_use]
    pub fn asked(&self, question: &Question) -> Question {
        match (question.caller(), self.identity()) {
            (None, Some(own)) => question.clone().from(own),
            _ => question.clone(),
        }
    }

    /// Why an explanation is of a caller without an identity although its question means the local
    /// workload, where a policy has judged it as that; `None` if it is not so.
    #[must_use]
    pub fn anonymous(&self, seen: &Explanation) -> Option<String> {
        let of_copies = seen.copies.iter().flat_map(|copy| &copy.inbound);
        let judged = seen.inbound.iter().chain(of_copies).next().is_some();
        let why = self
            .trust_domain()
            .err()
            .filter(|_| judged && seen.from.is_none())?;
        Some(format!(
            "the caller's trust domain is not known, and policies see a caller without an identity: {why}"
        ))
    }

    /// What is refused, or warned of.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What the mesh would know.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The same as another process knows it that has just started: it shares no load and no health.
    #[must_use]
    pub fn anew(&self) -> Snapshot {
        let snapshot = Snapshot::new(self.settings.clone());
        self.changes
            .iter()
            .fold(snapshot, |snapshot, change| snapshot.apply(change.clone()))
    }

    /// The workload that asks if the question names none.
    #[must_use]
    pub fn local(&self) -> &Local {
        &self.snapshot.settings().local
    }

    /// Where an object stands, named as explanations name it.
    #[must_use]
    pub fn place(&self, object: &str) -> Option<&Location> {
        self.places.get(object)
    }

    /// Whether an object stands in a file of that name.
    pub(super) fn reads(&self, file: &str) -> bool {
        self.places.values().any(|at| &*at.file == file)
    }

    /// Names, which are not resolved here, with the addresses that stand for them.
    #[must_use]
    pub fn stand_ins(&self) -> &[(Host, IpAddr)] {
        &self.stand_ins
    }

    /// The identity of the local workload, if its trust domain is known.
    #[must_use]
    pub fn identity(&self) -> Option<SpiffeId> {
        let trust_domain = self.trust_domain().ok()?;
        self.local().workload().spiffe_id(trust_domain).ok()
    }
}

/// The address that stands for a name, by its place among them.
fn stand_in(nth: u32) -> IpAddr {
    Ipv4Addr::from_bits(STAND_IN.to_bits() + nth).into()
}

/// What stands for the answer of a name server. Only an SRV record has a port of its own; any other name
/// is connected to at the port that its documents say.
fn standing(host: &Host, address: IpAddr) -> HostAddress {
    let address = HostAddress::new(address);
    match host {
        Host::Name { srv: Some(_), .. } => address.at_port(443),
        _ => address,
    }
}

/// All that is wrong with documents: what was found while they were read, and what they refer to that
/// is not there.
fn problems(snapshot: &Snapshot, merged: &Merged) -> Vec<Problem> {
    let mut found: Vec<Problem> = Vec::new();
    let all = merged.problems.iter().cloned();
    let status = snapshot.status();
    let dangling = status.iter().flat_map(|object| {
        let place = merged.places.iter();
        let mut place = place.filter(|(key, _)| key.to_string() == object.object);
        let place = place.next().map(|(_, at)| at.clone());
        object.problems.iter().map(move |problem| {
            let mut problem = problem.clone();
            problem.location = problem.location.or_else(|| place.clone());
            problem
        })
    });
    for problem in all.chain(dangling) {
        if problem.severity != Severity::Note && !found.contains(&problem) {
            found.push(problem);
        }
    }
    found
}
