//! Publishes the roots of a CA in its cluster, for those that join, while this process holds the Lease.
//!
//! What is to be done is decided by [`plan`]. Two watches bring the Namespaces with the label and the
//! ConfigMaps of the one name, as another writer leaves them too; the ClusterTrustBundle is one object, and so
//! is a webhook, which are looked at from time to time. What was asked for is not asked for again before a
//! watch has shown that it has changed, and what was refused is tried again after a pause that grows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use inmesh_core::drain::Drain;
use inmesh_pki::ca::Published;
use inmesh_pki::clock::SystemClock;
use kube::Client;
use serde_json::{Value as Json, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::plan::{Act, Found, Place, Seen, Wanted, plan};
use crate::kube::Cluster;
use crate::kube::index::Event;
use crate::kube::kinds::Watched;
use crate::kube::pauses::{Asked, Pauses};
use crate::kube::watch::{Followed, Said, root, served, watch as follow};
use crate::kube::write::{Leads, Lease, elect, get_if_there, in_time, send};
use crate::layout::ROOTS;

mod plan;

/// How many requests are on their way at once.
const AT_ONCE: usize = 8;
/// How often the ClusterTrustBundle and the webhook are looked at, and all is looked at again.
const LOOK: Duration = Duration::from_secs(30);
/// How often it is said again why something is not as it should be.
const REMIND: Duration = Duration::from_secs(60 * 60);
/// What may wait of what watches say.
const QUEUE: usize = 256;
/// Of which writer the fields are.
const MANAGER: &str = "inmesh-ca";

static NAMESPACES: Watched = Watched {
    kind: "Namespace",
    group: "",
    versions: &["v1"],
    plural: "namespaces",
    built_in: true,
};
static CONFIG_MAPS: Watched = Watched {
    kind: "ConfigMap",
    group: "",
    versions: &["v1"],
    plural: "configmaps",
    built_in: true,
};
static BUNDLES: Watched = Watched {
    kind: "ClusterTrustBundle",
    group: "certificates.k8s.io",
    versions: &["v1", "v1beta1"],
    plural: "clustertrustbundles",
    built_in: false,
};

/// What is watched; a role may name the ConfigMap, since its name is in the selector.
const FOLLOWED: [Followed; 2] = [
    Followed {
        kind: &NAMESPACES,
        labels: Some("inmesh.dev/inject=enabled"),
        fields: None,
    },
    Followed {
        kind: &CONFIG_MAPS,
        labels: None,
        fields: Some("metadata.name=mesh-root"),
    },
];

/// Publishes the roots of a CA in its cluster: as `ca.crt` of a ConfigMap `mesh-root` in the Namespace of
/// its Lease and in each one with the label `inmesh.dev/inject: enabled`, and as a ClusterTrustBundle of the
/// signer `inmesh.dev/ca` where the API server has that kind; and in a [webhook](Self::webhook) that is verified
/// by them.
///
/// Of several processes the one that holds the Lease writes, by server-side apply. It follows Namespaces,
/// the bundle, and what others do to its objects. An object of that name that is not labelled
/// `app.kubernetes.io/part-of: inmesh`, or is of another trust domain, is left as it is.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use inmesh_pki::ca::{Ca, store::FileStore};
/// # async fn doc(ca: Arc<Ca<FileStore>>) -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_core::drain::drain;
/// use inmesh_core::model::Namespace;
/// use inmesh_discovery::kube::{Cluster, Lease, RootPublisher};
///
/// let lease = Lease::new(Namespace::new("mesh-system")?, "mesh-root", "ca-7f9c-x2x4z");
/// let (_end, until) = drain();
/// RootPublisher::new(&Cluster::infer().await?, lease).run(ca.published(), until).await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RootPublisher {
    cluster: Cluster,
    lease: Lease,
    webhook: Option<String>,
}

/// What is known and on its way.
struct Publishing {
    client: Client,
    leads: Leads,
    wanted: Wanted,
    found: Found,
    /// The names on each list that is being read, and whether a whole one was there.
    listing: [Option<HashSet<String>>; 2],
    listed: [bool; 2],
    bundles: Bundles,
    /// When the webhook is looked at next.
    webhook_at: Instant,
    on_their_way: JoinSet<(Place, Done)>,
    /// What was asked for: of the version that was seen then, and the generation.
    asked: Asked<Place, (Option<String>, u64)>,
    refused: Pauses<Place>,
    /// When it was said last that something is not as it should be.
    said: HashMap<Place, Instant>,
    /// The same of each watch.
    failed: [Option<Instant>; 2],
}

/// The ClusterTrustBundle.
struct Bundles {
    /// The version of its kind that the API server has.
    version: Option<&'static str>,
    look_at: Instant,
    absence_said: bool,
}

/// What has come back.
enum Done {
    /// A request.
    Asked(kube::Result<()>),
    /// What there is of a ClusterTrustBundle, and in which version.
    Looked(kube::Result<Option<(&'static str, Option<Seen>)>>),
    /// The webhook.
    Webhook(kube::Result<Option<Seen>>),
}

// === impl RootPublisher ===

impl RootPublisher {
    /// A publisher in a cluster; `lease` is in the CA's own Namespace.
    #[must_use]
    pub fn new(cluster: &Cluster, lease: Lease) -> Self {
        Self {
            cluster: cluster.clone(),
            lease,
            webhook: None,
        }
    }

    /// The same, with the roots as `caBundle` of each entry of the MutatingWebhookConfiguration of this name. It
    /// is neither made nor removed, and is written only with the label of ours and an annotation
    /// `inmesh.dev/trust-domain` with that of the CA.
    #[must_use]
    pub fn webhook(mut self, name: &str) -> Self {
        self.webhook = Some(name.to_owned());
        self
    }

    /// Publishes what `published` has, until the drain has closed or there is no CA any longer.
    pub async fn run(self, mut published: watch::Receiver<Arc<Published>>, mut drain: Drain) {
        let client = self.cluster.client;
        let (said, mut heard) = mpsc::channel(QUEUE);
        // They end with this function.
        let mut tasks = JoinSet::new();
        for (place, followed) in FOLLOWED.into_iter().enumerate() {
            tasks.spawn(follow(client.clone(), place, followed, said.clone()));
        }
        drop(said);
        let (leads, led) = watch::channel(None);
        let wanted = |published: &Published| Wanted {
            own: self.lease.namespace.as_str().to_owned(),
            trust_domain: published.bundle.trust_domain().to_string(),
            generation: published.generation,
            roots: published.bundle.to_pem(),
            webhook: self.webhook.clone(),
        };
        let first = wanted(&published.borrow_and_update());
        let (clock, ended) = (SystemClock::shared(), drain.clone());
        let mut election = JoinSet::new();
        election.spawn(elect(
            client.clone(),
            self.lease.clone(),
            clock,
            leads,
            ended,
        ));
        let mut publishing = Publishing::new(client, led, first);
        let mut batch = Vec::new();
        loop {
            let wake = publishing.look();
            tokio::select! {
                biased;
                () = drain.closed() => {
                    // The Lease is left to others.
                    while election.join_next().await.is_some() {}
                    return;
                }
                _any = heard.recv_many(&mut batch, QUEUE) => {}
                changed = published.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    publishing.wanted = wanted(&published.borrow_and_update());
                }
                changed = publishing.leads.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                Some(Ok((place, done))) = publishing.on_their_way.join_next() => {
                    publishing.came_back(place, done);
                }
                () = sleep_until(wake) => {}
            }
            for (place, said) in batch.drain(..) {
                publishing.hear(place, said);
            }
        }
    }
}

// === impl Publishing ===

impl Publishing {
    fn new(client: Client, leads: Leads, wanted: Wanted) -> Self {
        Self {
            client,
            leads,
            wanted,
            found: Found::default(),
            listing: [None, None],
            listed: [false; 2],
            bundles: Bundles {
                version: None,
                look_at: Instant::now(),
                absence_said: false,
            },
            webhook_at: Instant::now(),
            on_their_way: JoinSet::new(),
            asked: Asked::new(),
            refused: Pauses::new(),
            said: HashMap::new(),
            failed: [None; 2],
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
                    tracing::warn!(
                        why,
                        "Namespaces and ConfigMaps are not followed: the roots stay as they are"
                    );
                }
                return;
            }
        };
        let name = |object: &Json| {
            let metadata = &object["metadata"];
            let name = match place {
                0 => &metadata["name"],
                _ => &metadata["namespace"],
            };
            name.as_str().unwrap_or_default().to_owned()
        };
        match event {
            Event::Absent => {}
            Event::ListBegun => self.listing[place] = Some(HashSet::new()),
            Event::Listed(object) => {
                let name = name(&object);
                if let Some(listing) = &mut self.listing[place] {
                    listing.insert(name.clone());
                }
                self.put(place, name, &object);
            }
            Event::ListDone => {
                let listing = self.listing[place].take().unwrap_or_default();
                match place {
                    0 => self
                        .found
                        .namespaces
                        .retain(|name, _| listing.contains(name)),
                    _ => self.found.maps.retain(|name, _| listing.contains(name)),
                }
                self.listed[place] = true;
            }
            Event::Applied(object) => self.put(place, name(&object), &object),
            Event::Deleted(object) => {
                let name = name(&object);
                match place {
                    0 => drop(self.found.namespaces.remove(&name)),
                    _ => drop(self.found.maps.remove(&name)),
                }
            }
        }
    }

    fn put(&mut self, place: usize, name: String, object: &Json) {
        // The API server may send more of a selector's objects than that has.
        let metadata = &object["metadata"];
        match place {
            0 => {
                let stays = metadata["deletionTimestamp"].is_null();
                self.found.namespaces.insert(name, stays);
            }
            _ if metadata["name"] == ROOTS => {
                self.found.maps.insert(name, Seen::read(object));
            }
            _ => {}
        }
    }

    fn came_back(&mut self, place: Place, done: Done) {
        let error = match done {
            Done::Asked(Ok(())) => {
                self.refused.end(&place);
                match place {
                    Place::Cluster => self.bundles.look_at = Instant::now(),
                    Place::Webhook => self.webhook_at = Instant::now(),
                    Place::Namespace(_) => {}
                }
                return;
            }
            Done::Webhook(Ok(found)) => {
                self.refused.end(&place);
                self.found.webhook = found;
                return;
            }
            Done::Looked(Ok(found)) => {
                self.refused.end(&place);
                if found.is_none() && !self.bundles.absence_said {
                    self.bundles.absence_said = true;
                    tracing::info!(
                        "the API server has no ClusterTrustBundle: the roots are in ConfigMaps alone"
                    );
                }
                self.bundles.version = found.as_ref().map(|(version, _)| *version);
                self.found.bundle = found.map(|(_, seen)| seen);
                return;
            }
            Done::Asked(Err(error)) | Done::Looked(Err(error)) | Done::Webhook(Err(error)) => error,
        };
        let now = Instant::now();
        let (wait, times) = self.refused.refused(place.clone(), now);
        self.asked.end(&place);
        match place {
            Place::Cluster => self.bundles.look_at = now + wait,
            Place::Webhook => self.webhook_at = now + wait,
            Place::Namespace(_) => {}
        }
        // What another has written or removed comes by the watch.
        let expected =
            matches!(&error, kube::Error::Api(status) if matches!(status.code, 404 | 409));
        if (!expected || times > 2) && self.is_to_be_said(&place, now) {
            let why = root(&error);
            tracing::warn!(object = %place, why, "the roots cannot be published here yet");
        }
    }

    fn is_to_be_said(&mut self, place: &Place, now: Instant) -> bool {
        let again = self
            .said
            .get(place)
            .is_none_or(|last| now - *last >= REMIND);
        if again {
            self.said.insert(place.clone(), now);
        }
        again
    }

    /// Does what is to be done, and says when to look again.
    fn look(&mut self) -> Instant {
        let now = Instant::now();
        let again = now + LOOK;
        let leads = *self.leads.borrow_and_update();
        if leads.is_none_or(|until| now >= until) || !self.listed.iter().all(|listed| *listed) {
            return again;
        }
        self.look_at_objects(now);
        let acts: BTreeMap<_, _> = plan(&self.found, &self.wanted).into_iter().collect();
        self.asked.retain(|place| acts.contains_key(place));
        // Looking at one object may fail where there is nothing to do.
        let stays =
            |place: &Place| acts.contains_key(place) || !matches!(place, Place::Namespace(_));
        self.said.retain(|place, _| stays(place));
        self.refused.retain(stays);
        let mut next = again.min(self.bundles.look_at);
        if self.wanted.webhook.is_some() {
            next = next.min(self.webhook_at);
        }
        for (place, act) in acts {
            if act == Act::Leave {
                if self.is_to_be_said(&place, now) {
                    tracing::warn!(
                        object = %place,
                        "the roots are not published here: what stands there is another's"
                    );
                }
                continue;
            }
            let version = self.seen(&place).map(|seen| seen.version.clone());
            let of = (version, self.wanted.generation);
            let waits = self.refused.until(&place, now);
            if let Some(until) = waits.or_else(|| self.asked.until(&place, &of, now)) {
                next = next.min(until);
                continue;
            }
            if self.on_their_way.len() >= AT_ONCE {
                // What comes back wakes.
                break;
            }
            let request = self.request(&place, &act);
            self.asked.ask(place.clone(), of, now);
            let client = self.client.clone();
            self.on_their_way.spawn(async move {
                let (request, kind, body) = request;
                let sent = in_time(send(&client, request, kind, &body)).await;
                (place, Done::Asked(sent))
            });
        }
        next
    }

    /// Looks at the objects that no watch follows, where it is time to.
    fn look_at_objects(&mut self, now: Instant) {
        let again = now + LOOK;
        if self.bundles.look_at <= now {
            self.bundles.look_at = again;
            let (client, name) = (self.client.clone(), self.wanted.bundle_name());
            self.on_their_way.spawn(async move {
                let looked = in_time(look_at_bundle(&client, &name)).await;
                (Place::Cluster, Done::Looked(looked))
            });
        }
        if let Some(name) = self
            .wanted
            .webhook
            .clone()
            .filter(|_| self.webhook_at <= now)
        {
            self.webhook_at = again;
            let client = self.client.clone();
            self.on_their_way.spawn(async move {
                let path = webhook_path(&name);
                let looked = in_time(get_if_there(&client, &path)).await;
                let seen = looked.map(|object| object.as_ref().map(Seen::read));
                (Place::Webhook, Done::Webhook(seen))
            });
        }
    }

    fn seen(&self, place: &Place) -> Option<&Seen> {
        match place {
            Place::Cluster => self.found.bundle.as_ref()?.as_ref(),
            Place::Namespace(name) => self.found.maps.get(name),
            Place::Webhook => self.found.webhook.as_ref(),
        }
    }

    fn request(&self, place: &Place, act: &Act) -> (http::request::Builder, &'static str, Json) {
        let version = self.bundles.version.unwrap_or(BUNDLES.versions[0]);
        let path = match place {
            Place::Cluster => bundle_path(version, &self.wanted.bundle_name()),
            Place::Namespace(name) => format!("/api/v1/namespaces/{name}/configmaps/{ROOTS}"),
            Place::Webhook => webhook_path(self.wanted.webhook.as_deref().unwrap_or_default()),
        };
        match (act, self.seen(place)) {
            (Act::Remove, Some(seen)) => {
                let preconditions = json!({"uid": seen.uid, "resourceVersion": seen.version});
                let options = json!({
                    "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions,
                });
                (http::Request::delete(path), "application/json", options)
            }
            (act, seen) => {
                let force = *act == Act::Apply { ours: true };
                let path = format!("{path}?fieldManager={MANAGER}&force={force}");
                let object = self.wanted.object(place, seen, version);
                (
                    http::Request::patch(path),
                    "application/apply-patch+yaml",
                    object,
                )
            }
        }
    }
}

fn bundle_path(version: &str, name: &str) -> String {
    format!("{}/{name}", BUNDLES.path(version))
}

fn webhook_path(name: &str) -> String {
    format!("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{name}")
}

/// Looks whether the API server has the kind, and then at the one object.
async fn look_at_bundle(
    client: &Client,
    name: &str,
) -> kube::Result<Option<(&'static str, Option<Seen>)>> {
    match served(client, &BUNDLES).await? {
        None => Ok(None),
        Some(version) => {
            let object = get_if_there(client, &bundle_path(version, name)).await?;
            Ok(Some((version, object.as_ref().map(Seen::read))))
        }
    }
}
