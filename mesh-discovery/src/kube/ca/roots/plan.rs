//! What a cluster has of the roots and what it is to have in, requests out. Pure.
//!
//! 1. The CA's own Namespace and each one with the label have the ConfigMap; one that is ending gets none.
//! 2. What has the label of ours and the trust domain of this CA is ours: it is kept as it is to be, and is
//!    removed where it is not wanted any longer. What is another's is neither written nor removed.
//! 3. A newer generation than ours stands: another process of the CA wrote it, and is ahead.
//! 4. The ClusterTrustBundle is one object of the cluster with the same rules; an API server without the kind
//!    gets no such object.
//! 5. A webhook of the mesh is verified by the roots: they are written into each entry of one that is there
//!    and is ours by the same rules. It is never made or removed here.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde_json::{Value as Json, json};

use crate::layout::{OURS, ROOTS, ROOTS_KEY, SIGNER, TRUST_DOMAIN, trust_bundle};

/// The annotation with the generation of the bundle.
const GENERATION: &str = "inmesh.dev/generation";

/// What is to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The Namespace of the CA.
    pub(super) own: String,
    pub(super) trust_domain: String,
    pub(super) generation: u64,
    /// The roots as PEM.
    pub(super) roots: String,
    /// The MutatingWebhookConfiguration that is verified by them.
    pub(super) webhook: Option<String>,
}

/// One object, as it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Seen {
    pub(super) uid: String,
    pub(super) version: String,
    managed: bool,
    trust_domain: Option<String>,
    generation: Option<u64>,
    roots: Option<String>,
    /// The entries of a webhook.
    entries: Vec<String>,
}

/// What is there.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The Namespaces with the label, by name: whether each one stays.
    pub(super) namespaces: BTreeMap<String, bool>,
    /// The ConfigMaps of that name, by Namespace.
    pub(super) maps: BTreeMap<String, Seen>,
    /// The ClusterTrustBundle, where the API server has the kind.
    pub(super) bundle: Option<Option<Seen>>,
    /// The MutatingWebhookConfiguration, where there is one.
    pub(super) webhook: Option<Seen>,
}

/// Where roots are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    /// The ClusterTrustBundle.
    Cluster,
    /// The ConfigMap of a Namespace.
    Namespace(String),
    /// The MutatingWebhookConfiguration.
    Webhook,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Act {
    /// Apply it. What is ours is taken back from others that wrote to it; nothing is taken where nothing
    /// was seen.
    Apply {
        /// Whether it was seen and is ours.
        ours: bool,
    },
    /// Leave it, for it is another's.
    Leave,
    /// Remove what was seen, as it was.
    Remove,
}

/// Decides what is to be done where something is; see the [module](self).
pub(super) fn plan(found: &Found, wanted: &Wanted) -> Vec<(Place, Act)> {
    let mut acts = Vec::new();
    let labelled = found.namespaces.iter().filter(|(_, stays)| **stays);
    let mut names: Vec<_> = labelled.map(|(name, _)| name.as_str()).collect();
    if !names.contains(&wanted.own.as_str()) {
        names.push(&wanted.own);
    }
    for name in &names {
        if let Some(act) = wanted.act(found.maps.get(*name)) {
            acts.push((Place::Namespace((*name).to_owned()), act));
        }
    }
    for (name, seen) in &found.maps {
        // One that is ending takes its objects with it.
        let ending = found.namespaces.get(name) == Some(&false);
        if !names.contains(&name.as_str()) && !ending && seen.is_of(wanted) {
            acts.push((Place::Namespace(name.clone()), Act::Remove));
        }
    }
    if let Some(bundle) = &found.bundle
        && let Some(act) = wanted.act(bundle.as_ref())
    {
        acts.push((Place::Cluster, act));
    }
    if let Some(webhook) = &found.webhook
        && let Some(act) = wanted.act(Some(webhook))
    {
        acts.push((Place::Webhook, act));
    }
    acts
}

// === impl Place ===

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cluster => f.write_str("ClusterTrustBundle"),
            Self::Namespace(name) => write!(f, "ConfigMap {name}/{ROOTS}"),
            Self::Webhook => f.write_str("MutatingWebhookConfiguration"),
        }
    }
}

// === impl Wanted ===

impl Wanted {
    fn act(&self, seen: Option<&Seen>) -> Option<Act> {
        let Some(seen) = seen else {
            return Some(Act::Apply { ours: false });
        };
        if !seen.is_of(self) {
            return Some(Act::Leave);
        }
        let newer = seen.generation.is_some_and(|other| other > self.generation);
        let same =
            seen.generation == Some(self.generation) && seen.roots.as_ref() == Some(&self.roots);
        (!newer && !same).then_some(Act::Apply { ours: true })
    }

    /// What is to stand in a place that was `seen`; `version` is that of the kind of bundles.
    pub(super) fn object(&self, place: &Place, seen: Option<&Seen>, version: &str) -> Json {
        let metadata = json!({
            "name": ROOTS,
            "labels": {OURS.0: OURS.1},
            "annotations": {TRUST_DOMAIN: self.trust_domain, GENERATION: self.generation.to_string()},
        });
        let mut object = match place {
            Place::Namespace(_) => json!({
                "apiVersion": "v1", "kind": "ConfigMap", "data": {ROOTS_KEY: self.roots},
            }),
            Place::Cluster => json!({
                "apiVersion": format!("certificates.k8s.io/{version}"), "kind": "ClusterTrustBundle",
                "spec": {"signerName": SIGNER, "trustBundle": self.roots},
            }),
            Place::Webhook => {
                let roots = BASE64.encode(self.roots.as_bytes());
                let entries = seen.into_iter().flat_map(|seen| &seen.entries);
                let entries =
                    entries.map(|name| json!({"name": name, "clientConfig": {"caBundle": roots}}));
                json!({
                    "apiVersion": "admissionregistration.k8s.io/v1",
                    "kind": "MutatingWebhookConfiguration",
                    "webhooks": entries.collect::<Vec<_>>(),
                })
            }
        };
        object["metadata"] = metadata;
        match place {
            Place::Namespace(name) => object["metadata"]["namespace"] = name.as_str().into(),
            Place::Cluster => object["metadata"]["name"] = self.bundle_name().into(),
            Place::Webhook => object["metadata"]["name"] = self.webhook.as_deref().into(),
        }
        object
    }

    /// The name of the ClusterTrustBundle.
    pub(super) fn bundle_name(&self) -> String {
        trust_bundle(&self.trust_domain)
    }
}

// === impl Seen ===

impl Seen {
    /// What an object says; nothing of it is trusted to be there.
    pub(super) fn read(object: &Json) -> Self {
        let metadata = &object["metadata"];
        let text = |value: &Json| value.as_str().map(str::to_owned);
        let annotations = &metadata["annotations"];
        let generation = annotations[GENERATION].as_str();
        let entries = object["webhooks"].as_array();
        let entries = || entries.into_iter().flatten();
        let bundles = entries().map(|entry| text(&entry["clientConfig"]["caBundle"]));
        let mut bundles: Vec<_> = bundles.collect();
        bundles.dedup();
        // Of entries with other roots than the rest it is not one that has them.
        let of_webhook = || {
            let bundle = bundles.pop().flatten().filter(|_| bundles.is_empty())?;
            String::from_utf8(BASE64.decode(bundle.as_bytes()).ok()?).ok()
        };
        Self {
            uid: text(&metadata["uid"]).unwrap_or_default(),
            version: text(&metadata["resourceVersion"]).unwrap_or_default(),
            managed: metadata["labels"][OURS.0] == OURS.1,
            trust_domain: text(&annotations[TRUST_DOMAIN]),
            generation: generation.and_then(|generation| generation.parse().ok()),
            roots: text(&object["data"][ROOTS_KEY])
                .or_else(|| text(&object["spec"]["trustBundle"]))
                .or_else(of_webhook),
            entries: entries().filter_map(|entry| text(&entry["name"])).collect(),
        }
    }

    /// Whether it is that of this CA.
    fn is_of(&self, wanted: &Wanted) -> bool {
        self.managed && self.trust_domain.as_ref() == Some(&wanted.trust_domain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            own: "mesh".into(),
            trust_domain: "a.b_c".into(),
            generation: 7,
            roots: "PEM".into(),
            webhook: Some("inmesh".into()),
        }
    }

    /// What an object is that was applied and then edited.
    fn seen(edit: impl FnOnce(&mut Json)) -> Seen {
        let mut object = wanted().object(&Place::Namespace("shop".into()), None, "");
        edit(&mut object);
        Seen::read(&object)
    }

    #[test]
    fn what_is_there_is_kept_as_it_is_to_be() {
        type Edit = fn(&mut Json);
        let apply = Some(Act::Apply { ours: true });
        let table: [(&str, Edit, Option<Act>); 9] = [
            ("as it was applied", |_| {}, None),
            (
                "other roots",
                |o| o["data"][ROOTS_KEY] = "old".into(),
                apply.clone(),
            ),
            ("none", |o| o["data"] = Json::Null, apply.clone()),
            (
                "an older generation",
                |o| o["metadata"]["annotations"][GENERATION] = "6".into(),
                apply.clone(),
            ),
            (
                "no generation",
                |o| o["metadata"]["annotations"][GENERATION] = "x".into(),
                apply,
            ),
            (
                "a newer one",
                |o| {
                    o["metadata"]["annotations"][GENERATION] = "8".into();
                    o["data"][ROOTS_KEY] = "new".into();
                },
                None,
            ),
            (
                "no label",
                |o| o["metadata"]["labels"] = json!({}),
                Some(Act::Leave),
            ),
            (
                "the label of another",
                |o| o["metadata"]["labels"][OURS.0] = "Helm".into(),
                Some(Act::Leave),
            ),
            (
                "the roots of another mesh",
                |o| o["metadata"]["annotations"][TRUST_DOMAIN] = "other".into(),
                Some(Act::Leave),
            ),
        ];
        for (what, edit, act) in table {
            let edited = seen(edit);
            assert_eq!(wanted().act(Some(&edited)), act, "{what}");
            let found = Found {
                maps: [("mesh".into(), edited.clone()), ("shop".into(), edited)].into(),
                ..Found::default()
            };
            let acts = plan(&found, &wanted());
            // Where it is not wanted it goes if it is ours, whatever it has.
            let gone = acts.contains(&(Place::Namespace("shop".into()), Act::Remove));
            assert_eq!(gone, act != Some(Act::Leave), "{what}: {acts:?}");
        }
        assert_eq!(wanted().act(None), Some(Act::Apply { ours: false }));
    }

    #[test]
    fn namespaces_are_followed() {
        let place = |name: &str| Place::Namespace(name.into());
        let new = Act::Apply { ours: false };
        let whole = || seen(|_| {});
        let check = |namespaces: &[(&str, bool)], maps: &[&str], acts: &[(Place, Act)]| {
            let found = Found {
                namespaces: namespaces.iter().map(|(n, s)| ((*n).into(), *s)).collect(),
                maps: maps.iter().map(|name| ((*name).into(), whole())).collect(),
                ..Found::default()
            };
            assert_eq!(plan(&found, &wanted()), acts, "{namespaces:?} {maps:?}");
        };
        check(&[], &[], &[(place("mesh"), new.clone())]);
        check(&[], &["mesh"], &[]);
        check(&[("mesh", true)], &["mesh"], &[]);
        check(
            &[("shop", true)],
            &["mesh"],
            &[(place("shop"), new.clone())],
        );
        check(&[("shop", true)], &["mesh", "shop"], &[]);
        check(&[], &["mesh", "shop"], &[(place("shop"), Act::Remove)]);
        // A Namespace that is ending takes nothing new, and takes what it has with it.
        check(&[("shop", false)], &["mesh"], &[]);
        check(&[("shop", false)], &["mesh", "shop"], &[]);
    }

    #[test]
    fn a_bundle_of_the_cluster_is_kept_where_there_is_such_a_kind() {
        let place = Place::Cluster;
        let of = |bundle| {
            let found = Found {
                maps: [("mesh".into(), seen(|_| {}))].into(),
                bundle,
                ..Found::default()
            };
            plan(&found, &wanted())
        };
        assert_eq!(of(None), []);
        assert_eq!(
            of(Some(None)),
            [(place.clone(), Act::Apply { ours: false })]
        );
        let object = wanted().object(&place, None, "v1beta1");
        assert_eq!(object["apiVersion"], "certificates.k8s.io/v1beta1");
        assert_eq!(object["metadata"]["name"], "inmesh.dev:ca:a-b-c");
        assert_eq!(object["spec"]["signerName"], "inmesh.dev/ca");
        assert_eq!(of(Some(Some(Seen::read(&object)))), []);
        let mut old = object.clone();
        old["spec"]["trustBundle"] = "old".into();
        let old = of(Some(Some(Seen::read(&old))));
        assert_eq!(old, [(place.clone(), Act::Apply { ours: true })]);
        let mut other = object;
        other["metadata"]["labels"] = Json::Null;
        let other = of(Some(Some(Seen::read(&other))));
        assert_eq!(other, [(place, Act::Leave)]);
    }

    #[test]
    fn the_webhook_that_is_there_gets_the_roots_in_each_entry() {
        let place = Place::Webhook;
        let of = |webhook: &Json| {
            let found = Found {
                maps: [("mesh".into(), seen(|_| {}))].into(),
                webhook: Some(Seen::read(webhook)),
                ..Found::default()
            };
            plan(&found, &wanted())
        };
        let apply = [(place.clone(), Act::Apply { ours: true })];
        let installed = json!({
            "metadata": {
                "labels": {OURS.0: OURS.1}, "annotations": {TRUST_DOMAIN: "a.b_c"}, "uid": "u",
            },
            "webhooks": [{"name": "one", "clientConfig": {}}, {"name": "two"}],
        });
        assert_eq!(of(&installed), apply);
        let seen = Seen::read(&installed);
        let mut written = wanted().object(&place, Some(&seen), "");
        assert_eq!(written["metadata"]["name"], "inmesh");
        assert_eq!(written["webhooks"][1]["name"], "two");
        assert_eq!(written["webhooks"][1]["clientConfig"]["caBundle"], "UEVN");
        assert_eq!(of(&written), []);
        written["webhooks"][0]["clientConfig"]["caBundle"] = "b3RoZXI=".into();
        assert_eq!(of(&written), apply);
        written["metadata"]["annotations"][TRUST_DOMAIN] = "other".into();
        assert_eq!(of(&written), [(place, Act::Leave)]);
    }
}
