//! An object in whose place something is staged, as an operator has it: stages, looks, stops, rolls back. What
//! comes of a stage is up to the control plane.

use std::fmt;

use inmesh_core::model::Namespace;
use kube::Client;
use serde_json::{Value as Json, json};

use super::Cluster;
use super::kinds::{KINDS, Watched};
use super::staged::{LONGEST, is_staged};
use super::watch::served;
use super::write::{ask, get_if_there, in_time, is_conflict};
use crate::layout::{PREVIOUS, STAGE, pointer};
use crate::stage::{Stage, State};

/// An object of which a document can be staged: an HTTPRoute, a GRPCRoute, an AuthorizationPolicy or a TrafficPolicy
/// of ours.
///
/// ```no_run
/// # async fn doc() -> Result<(), Box<dyn std::error::Error>> {
/// use inmesh_core::model::Namespace;
/// use inmesh_discovery::kube::{Cluster, Subject};
/// use inmesh_discovery::stage::Stage;
/// let route = Subject::of(&Cluster::infer().await?, "httproute", &Namespace::new("shop")?, "cart").await?;
/// let now = route.look().await?;
/// let spec = serde_json::json!({"parentRefs": [{"group": "", "kind": "Service", "name": "cart"}]});
/// route.stage(&now, &Stage::new("a1b2", 10, 30, now.generation, spec)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Subject {
    client: Client,
    kind: &'static str,
    path: String,
    called: String,
}

/// An object as it was seen.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Seen {
    /// Its generation: of each `spec` another.
    pub generation: i64,
    /// What it says.
    pub spec: Json,
    /// What is or was staged in its place; the text where that cannot be read.
    pub stage: Option<Result<Stage, String>>,
    /// What it said before its last promotion.
    pub previous: Option<Json>,
    version: String,
    /// Whether it has no annotation at all.
    bare: bool,
}

/// An object cannot be staged, read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubjectError {
    /// The API server does not answer, or refuses.
    #[error("{what}: {why}")]
    Api {
        /// What was asked for.
        what: String,
        /// Why not.
        why: kube::Error,
    },
    /// It is another than was seen by now.
    #[error("{0} was changed at the same moment")]
    Changed(String),
    /// There is no such object.
    #[error("{0} is not there: what is staged takes the place of an object, to which it goes back")]
    Absent(String),
    /// No object of that kind can be staged.
    #[error("{0} is no kind of which a document can be staged: {1} are")]
    Kind(String, String),
    /// What is asked for does not go with how the object is.
    #[error("{0}: {1}")]
    State(String, String),
}

// === impl Subject ===

impl Subject {
    /// An object, by its kind as kubectl takes it (`HTTPRoute`, `httproute`, `httproutes`), its namespace and name.
    ///
    /// # Errors
    ///
    /// [`SubjectError`] if no object of the kind can be staged, or the API server does not have it.
    pub async fn of(
        cluster: &Cluster,
        kind: &str,
        namespace: &Namespace,
        name: &str,
    ) -> Result<Self, SubjectError> {
        let watched = kind_of(kind)?;
        let client = cluster.client.clone();
        let version = in_time(served(&client, watched)).await;
        let version = version.map_err(|why| SubjectError::Api {
            what: watched.kind.into(),
            why,
        })?;
        let called = format!("{}/{namespace}/{name}", watched.kind);
        let version = version.ok_or_else(|| SubjectError::Absent(called.clone()))?;
        let (before, plural) = watched.path_in(version);
        Ok(Self {
            client,
            kind: watched.kind,
            path: format!("{before}/{namespace}/{plural}/{name}"),
            called,
        })
    }

    /// Looks at the object.
    ///
    /// # Errors
    ///
    /// [`SubjectError`] if it is not there, or the API server does not answer.
    pub async fn look(&self) -> Result<Seen, SubjectError> {
        let object = in_time(get_if_there(&self.client, &self.path)).await;
        let object = object.map_err(|why| self.api(why))?;
        let object = object.ok_or_else(|| SubjectError::Absent(self.called.clone()))?;
        Ok(Seen::of(&object))
    }

    /// Stages a document in the place of the object as it was seen. The API server has checked it then.
    ///
    /// # Errors
    ///
    /// [`SubjectError`] if something else is staged, there is nothing to compare, the API server refuses it, or
    /// the object has changed.
    pub async fn stage(&self, seen: &Seen, stage: &Stage) -> Result<(), SubjectError> {
        if seen.lives() {
            return Err(self.state("something is staged in its place already"));
        }
        let spec = stage.spec.as_ref();
        let spec = spec.ok_or_else(|| self.state("there is nothing to stage"))?;
        if seen.spec.to_string().len() > LONGEST {
            let why =
                format!("its spec is larger than the {LONGEST} bytes that are kept for a rollback");
            return Err(self.state(&why));
        }
        let whole = [seen.test(), add("/spec", spec.clone())];
        let checked = self
            .send(&format!("{}?dryRun=All", self.path), &whole)
            .await?;
        let mut stage = stage.clone();
        // With what the API server writes where nothing is said, as it is once it is promoted.
        stage.spec = checked.get("spec").cloned();
        if stage.spec.as_ref() == Some(&seen.spec) {
            return Err(self.state("it says already what is to be staged"));
        }
        let text = stage.write().map_err(|e| self.state(&e.to_string()))?;
        let mut patch = vec![seen.test()];
        patch.extend(seen.annotate(&text));
        self.send(&self.path, &patch).await.map(drop)
    }

    /// Stops what is staged: the object stays as it is.
    ///
    /// # Errors
    ///
    /// [`SubjectError`] if nothing is staged, or the object has changed.
    pub async fn stop(&self, seen: &Seen, why: &str) -> Result<(), SubjectError> {
        let stage = match &seen.stage {
            Some(Ok(stage)) if stage.lives() => stage.clone().ended(State::Stopped, why),
            _ => return Err(self.state("nothing is staged in its place")),
        };
        let text = stage.write().map_err(|e| self.state(&e.to_string()))?;
        let mut patch = vec![seen.test_spec()];
        patch.extend(seen.annotate(&text));
        self.send(&self.path, &patch).await.map(drop)
    }

    /// Puts back what the object said before its last promotion.
    ///
    /// # Errors
    ///
    /// [`SubjectError`] if none is known, or the object has been changed since (unless `force`).
    pub async fn roll_back(&self, seen: &Seen, force: bool) -> Result<(), SubjectError> {
        let Some(previous) = &seen.previous else {
            return Err(self.state("nothing was promoted of it, so there is nothing to go back to"));
        };
        let stage = match &seen.stage {
            Some(Ok(stage)) if stage.state == State::Promoted => Some(stage),
            _ => None,
        };
        // Its promotion was one change.
        if !force && stage.is_none_or(|stage| seen.generation != stage.generation + 1) {
            return Err(self.state("it was changed since its promotion, and --force is not said"));
        }
        let remove = json!({"op": "remove", "path": pointer(PREVIOUS)});
        let mut patch = vec![seen.test_spec(), add("/spec", previous.clone()), remove];
        if let Some(stage) = stage {
            let stage = stage.clone().ended(State::Stopped, "it was rolled back");
            let text = stage.write().map_err(|e| self.state(&e.to_string()))?;
            patch.extend(seen.annotate(&text));
        }
        self.send(&self.path, &patch).await.map(drop)
    }

    async fn send(&self, path: &str, patch: &[Json]) -> Result<Json, SubjectError> {
        let (kind, patch) = ("application/json-patch+json", Json::from(patch));
        let sent = ask(&self.client, http::Request::patch(path), kind, &patch);
        in_time(sent).await.map_err(|why| self.api(why))
    }

    fn api(&self, why: kube::Error) -> SubjectError {
        if is_conflict(&why) {
            return SubjectError::Changed(self.called.clone());
        }
        SubjectError::Api {
            what: self.called.clone(),
            why,
        }
    }

    fn state(&self, why: &str) -> SubjectError {
        SubjectError::State(self.called.clone(), why.into())
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.kind
    }
}

/// `Kind/namespace/name`.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.called)
    }
}

/// Without the connection.
impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Subject").field(&self.called).finish()
    }
}

// === impl Seen ===

impl Seen {
    fn of(object: &Json) -> Self {
        let meta = &object["metadata"];
        let annotation = |name: &str| meta["annotations"][name].as_str();
        let stage = annotation(STAGE).map(|text| Stage::read(text).map_err(|_| text.to_owned()));
        let previous = annotation(PREVIOUS).and_then(|text| serde_json::from_str(text).ok());
        Self {
            generation: meta["generation"].as_i64().unwrap_or(0),
            spec: object.get("spec").cloned().unwrap_or_else(|| json!({})),
            stage,
            previous,
            version: meta["resourceVersion"].as_str().unwrap_or_default().into(),
            bare: !meta["annotations"].is_object(),
        }
    }

    /// Whether something is staged that has not ended.
    #[must_use]
    pub fn lives(&self) -> bool {
        matches!(&self.stage, Some(Ok(stage)) if stage.lives())
    }

    /// That it is still the version that was seen.
    fn test(&self) -> Json {
        json!({"op": "test", "path": "/metadata/resourceVersion", "value": self.version})
    }

    /// That it still says what was seen, whatever was written of its status or how requests fare.
    fn test_spec(&self) -> Json {
        json!({"op": "test", "path": "/metadata/generation", "value": self.generation})
    }

    /// Writes the annotation; an object without any gets a place for it. What another writes meanwhile makes it
    /// another version.
    fn annotate(&self, text: &str) -> Vec<Json> {
        let mut patch = Vec::new();
        if self.bare {
            patch.push(add("/metadata/annotations", json!({})));
        }
        patch.push(add(&pointer(STAGE), text.into()));
        patch
    }
}

fn add(path: &str, value: Json) -> Json {
    json!({"op": "add", "path": path, "value": value})
}

fn kind_of(name: &str) -> Result<&'static Watched, SubjectError> {
    let name = name.to_ascii_lowercase();
    let mut staged = KINDS.iter().filter(|kind| is_staged(kind));
    let is = |kind: &&Watched| kind.plural == name || kind.kind.to_ascii_lowercase() == name;
    staged.clone().find(is).ok_or_else(|| {
        let all: Vec<_> = staged.by_ref().map(|kind| kind.kind).collect();
        SubjectError::Kind(name, all.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_named_as_kubectl_takes_it() {
        for (name, kind, group) in [
            ("HTTPRoute", "HTTPRoute", "gateway.networking.k8s.io"),
            ("grpcroutes", "GRPCRoute", "gateway.networking.k8s.io"),
            ("authorizationpolicy", "AuthorizationPolicy", "inmesh.dev"),
            ("TrafficPolicies", "TrafficPolicy", "inmesh.dev"),
        ] {
            let found = kind_of(name).expect("it can be staged");
            assert_eq!((found.kind, found.group), (kind, group), "{name}");
        }
        for name in ["Service", "tlsroute", ""] {
            assert!(
                matches!(kind_of(name), Err(SubjectError::Kind(..))),
                "{name}"
            );
        }
    }

    #[test]
    fn an_object_is_read_as_it_is() {
        let stage = Stage::new("a1", 10, 30, 3, json!({"rules": []}));
        let mut object =
            json!({"metadata": {"generation": 3, "resourceVersion": "7"}, "spec": {"a": 1}});
        let bare = Seen::of(&object);
        assert!(bare.stage.is_none() && !bare.lives() && bare.annotate("x").len() == 2);
        let text = stage.write().expect("it is small");
        object["metadata"]["annotations"] = json!({STAGE: text, PREVIOUS: "{\"a\":0}"});
        let seen = Seen::of(&object);
        assert!(seen.lives() && seen.annotate("x").len() == 1);
        assert_eq!(
            (seen.stage, seen.previous),
            (Some(Ok(stage)), Some(json!({"a": 0})))
        );
        object["metadata"]["annotations"] = json!({STAGE: "{}"});
        assert_eq!(Seen::of(&object).stage, Some(Err("{}".into())));
    }
}
