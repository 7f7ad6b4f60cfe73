//! Takes a mesh out of a cluster: all that was installed, and all that its parts have made since.

mod plan;

use std::fmt;
use std::time::Duration;

use inmesh_core::model::Namespace;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Preconditions,
};
use kube::core::PartialObjectMeta;
use kube::{Client, Resource, ResourceExt};
use tokio::time::{Instant, sleep};

use self::plan::{Change, KINDS, Kind, Where, changes, is_ours_by_name, selector};
use super::Cluster;
use super::kinds::{KINDS as WATCHED, OURS, Watched};
use super::watch::served;
use super::write::{in_time, send};
use crate::layout::{AGENT, CA, CONTROL};

/// How many objects one page of a list has.
const PAGE: u32 = 500;
/// How long it is waited until what was removed is gone: a Pod has 30 s to end by itself.
const GONE: Duration = Duration::from_secs(120);
/// The time between two looks at that.
const LOOK: Duration = Duration::from_millis(500);

/// What a cluster has of a mesh, as it was seen, and what goes when that is [removed](Self::remove).
///
/// ```no_run
/// # async fn doc() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_core::model::Namespace;
/// use inmesh_discovery::kube::{Cluster, Removal};
///
/// let removal = Removal::look(&Cluster::infer().await?, &Namespace::new("mesh-system")?).await?;
/// if removal.injected.is_empty() {
///     removal.remove(|object| println!("{object}")).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Removal {
    /// What goes, in its order.
    pub objects: Vec<Removed>,
    /// Objects of our own kinds, which go with their definitions.
    pub lost: Vec<String>,
    /// Pods with an agent beside them, `namespace/name`: their certificates end when no CA renews them.
    pub injected: Vec<String>,
    /// The Helm release that installed it, `namespace/name`.
    pub helm: Option<String>,
    /// Why the Namespace of the mesh stays, if it does.
    pub stays: Option<String>,
    cluster: Cluster,
    home: Namespace,
}

/// An object that goes, or a route that stays without what we wrote there: entries in its status, annotations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    of: ApiResource,
    namespace: Option<String>,
    name: String,
    uid: Option<String>,
    /// What is changed, where it stays: its status or itself.
    change: Option<Change>,
}

/// A kind: its group, its versions, its name and that of its collection.
type Named<'a> = (&'a str, &'a [&'a str], &'a str, &'a str);

const PODS: Named<'static> = ("", &["v1"], "Pod", "pods");

/// Which objects of a kind are listed: all, or those that selectors name.
#[derive(Debug, Default)]
struct Which {
    labels: Option<String>,
    fields: Option<String>,
}

/// A cluster cannot be asked, or refuses.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct RemovalError {
    what: String,
    why: kube::Error,
}

// === impl Removal ===

impl Removal {
    /// Looks at what a cluster has of a mesh whose parts are in that namespace.
    ///
    /// # Errors
    ///
    /// [`RemovalError`] where something cannot be listed.
    pub async fn look(cluster: &Cluster, home: &Namespace) -> Result<Self, RemovalError> {
        let mut looked = Self {
            objects: Vec::new(),
            lost: Vec::new(),
            injected: Vec::new(),
            helm: None,
            stays: None,
            cluster: cluster.clone(),
            home: home.clone(),
        };
        looked.find_pods().await?;
        for kind in KINDS {
            if kind.kind == "CustomResourceDefinition" {
                looked.find_entries().await?;
            }
            looked.find(kind).await?;
        }
        looked.find_lost().await?;
        Ok(looked)
    }

    async fn find(&mut self, kind: &Kind) -> Result<(), RemovalError> {
        let namespace = match kind.at {
            Where::Cluster | Where::Everywhere => None,
            Where::Home | Where::HomeByName => Some(self.home.as_str()),
        };
        let which = Which {
            labels: (kind.at != Where::HomeByName).then(selector),
            fields: None,
        };
        let (of, found) = self
            .list(
                (kind.group, kind.versions, kind.kind, kind.plural),
                namespace,
                which,
            )
            .await?;
        for one in found {
            let (name, namespace) = (one.name_any(), one.namespace());
            if !is_ours_by_name(kind, &name) {
                continue;
            }
            if kind.kind == "Namespace" && (name != self.home.as_str() || self.stays.is_some()) {
                continue;
            }
            let release = one.annotations().get("meta.helm.sh/release-name");
            if let (Some(release), "Deployment") = (release, kind.kind) {
                self.helm = Some(format!("{}/{release}", self.home));
            }
            self.objects.push(Removed {
                of: of.clone(),
                namespace,
                name,
                uid: one.uid(),
                change: None,
            });
        }
        Ok(())
    }

    /// The Pods with an agent, and whether the Namespace of the mesh has others.
    async fn find_pods(&mut self) -> Result<(), RemovalError> {
        // One that has ended needs no certificate.
        let which = Which {
            labels: None,
            fields: Some("status.phase!=Succeeded,status.phase!=Failed".into()),
        };
        let (_, pods) = self.list(PODS, None, which).await?;
        for pod in pods {
            let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
            if namespace == self.home.as_str() {
                let part = pod.labels().get("app.kubernetes.io/name");
                if !part.is_some_and(|part| [CA, CONTROL].contains(&part.as_str())) {
                    self.stays = Some(format!(
                        "it has the Pod {name}, which does not belong to the mesh"
                    ));
                }
            } else if pod.annotations().contains_key(AGENT) {
                self.injected.push(format!("{namespace}/{name}"));
            }
        }
        Ok(())
    }

    /// The routes with entries of ours in their status.
    async fn find_entries(&mut self) -> Result<(), RemovalError> {
        for kind in WATCHED.iter().filter(|kind| kind.kind.ends_with("Route")) {
            let Some(of) = self.resource(kind).await? else {
                continue;
            };
            let api = Api::<DynamicObject>::all_with(self.client(), &of);
            let mut page = ListParams::default().limit(PAGE);
            loop {
                let list = in_time(api.list(&page)).await;
                let list = list.map_err(|e| RemovalError::of("listing", &of.plural, e))?;
                for route in list.items {
                    let whole = serde_json::to_value(&route).unwrap_or_default();
                    for change in changes(&whole) {
                        self.objects.push(Removed {
                            of: of.clone(),
                            namespace: route.namespace(),
                            name: route.name_any(),
                            uid: None,
                            change: Some(change),
                        });
                    }
                }
                match list.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => page = page.continue_token(&token),
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// The objects of our own kinds.
    async fn find_lost(&mut self) -> Result<(), RemovalError> {
        for kind in WATCHED.iter().filter(|kind| kind.group == OURS) {
            let found = self
                .list(
                    (kind.group, kind.versions, kind.kind, kind.plural),
                    None,
                    Which::default(),
                )
                .await?;
            let names = found.1.into_iter().map(|one| {
                let namespace = one.namespace().unwrap_or_default();
                format!("{} {namespace}/{}", kind.kind, one.name_any())
            });
            self.lost.extend(names);
        }
        Ok(())
    }

    async fn resource(&self, kind: &Watched) -> Result<Option<ApiResource>, RemovalError> {
        let version = in_time(served(&self.cluster.client, kind)).await;
        let version = version.map_err(|e| RemovalError::of("looking for", kind.plural, e))?;
        let of = |version| resource(kind.group, version, kind.kind, kind.plural);
        Ok(version.map(of))
    }

    /// What there is of a kind, by its metadata; nothing where no version of it is served.
    async fn list(
        &self,
        (group, versions, kind, plural): Named<'_>,
        namespace: Option<&str>,
        which: Which,
    ) -> Result<(ApiResource, Vec<PartialObjectMeta<DynamicObject>>), RemovalError> {
        let mut of = resource(group, "v1", kind, plural);
        for version in versions {
            of = resource(group, version, kind, plural);
            let api = match namespace {
                Some(namespace) => {
                    Api::<DynamicObject>::namespaced_with(self.client(), namespace, &of)
                }
                None => Api::all_with(self.client(), &of),
            };
            let mut page = ListParams::default().limit(PAGE);
            (page.label_selector, page.field_selector) =
                (which.labels.clone(), which.fields.clone());
            let mut found = Vec::new();
            loop {
                let list = match in_time(api.list_metadata(&page)).await {
                    Ok(list) => list,
                    Err(kube::Error::Api(status)) if status.code == 404 => break,
                    Err(e) => return Err(RemovalError::of("listing", plural, e)),
                };
                found.extend(list.items);
                match list.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => page = page.continue_token(&token),
                    None => return Ok((of, found)),
                }
            }
        }
        Ok((of, Vec::new()))
    }

    fn client(&self) -> Client {
        self.cluster.client.clone()
    }

    /// Removes it, one object after the other, and says each before. What is gone by then, or was made anew by
    /// another since it was seen, is left.
    ///
    /// # Errors
    ///
    /// [`RemovalError`] where the cluster refuses; what stood before is removed, and the same can be begun again.
    pub async fn remove(&self, mut say: impl FnMut(&Removed)) -> Result<(), RemovalError> {
        let mut ended = false;
        for object in &self.objects {
            let part = ["MutatingWebhookConfiguration", "Deployment"];
            if !ended && !part.contains(&object.of.kind.as_str()) {
                // They would write again what goes next.
                self.parts_ended().await?;
                ended = true;
            }
            say(object);
            self.remove_one(object).await?;
        }
        Ok(())
    }

    async fn remove_one(&self, object: &Removed) -> Result<(), RemovalError> {
        let (of, name) = (&object.of, &object.name);
        let api = match &object.namespace {
            Some(namespace) => Api::<DynamicObject>::namespaced_with(self.client(), namespace, of),
            None => Api::all_with(self.client(), of),
        };
        let removed = match &object.change {
            Some(change) => {
                let all = DynamicObject::url_path(of, object.namespace.as_deref());
                let request = http::Request::patch(format!("{all}/{name}{}", change.at));
                let kind = "application/json-patch+json";
                in_time(send(&self.cluster.client, request, kind, &change.patch)).await
            }
            None => {
                let mut how = DeleteParams::background();
                how.preconditions = Some(Preconditions {
                    uid: object.uid.clone(),
                    resource_version: None,
                });
                in_time(api.delete(name, &how)).await.map(drop)
            }
        };
        match removed {
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(()),
            Err(e) => Err(RemovalError::of("removing", &object.to_string(), e)),
            Ok(()) => Ok(()),
        }
    }

    /// Waits until no Pod of CA and control plane runs any longer, for two minutes at most.
    async fn parts_ended(&self) -> Result<(), RemovalError> {
        let parts = format!("app.kubernetes.io/name in ({CA},{CONTROL})");
        let begin = Instant::now();
        while begin.elapsed() < GONE {
            let home = Some(self.home.as_str());
            let which = Which {
                labels: Some(parts.clone()),
                fields: None,
            };
            let pods = self.list(PODS, home, which);
            if pods.await?.1.is_empty() {
                break;
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits until what was removed is gone, for two minutes at most; says what is not.
    ///
    /// # Errors
    ///
    /// [`RemovalError`] where it cannot be seen.
    pub async fn left(&self) -> Result<Vec<String>, RemovalError> {
        let begin = Instant::now();
        loop {
            let now = Self::look(&self.cluster, &self.home).await?;
            if now.objects.is_empty() || begin.elapsed() >= GONE {
                return Ok(now.objects.iter().map(ToString::to_string).collect());
            }
            sleep(LOOK).await;
        }
    }
}

fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

// === impl Removed ===

impl Removed {
    /// Whether the object stays, without what we wrote there.
    #[must_use]
    pub fn stays(&self) -> bool {
        self.change.is_some()
    }
}

/// As `kubectl` names it: `Deployment mesh-system/mesh-ca`.
impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.of.kind, self.name),
            None => write!(f, "{} {}", self.of.kind, self.name),
        }
    }
}

// === impl RemovalError ===

impl RemovalError {
    fn of(doing: &str, what: &str, why: kube::Error) -> Self {
        Self {
            what: format!("{doing} {what}"),
            why,
        }
    }
}
