//! A review of an API server in (`admission.k8s.io/v1 AdmissionReview`), its answer out. Pure.
//!
//! A Pod that cannot have the mesh beside it is not admitted: it would run in plaintext, and the one that
//! applied it sees why. What is added is added once, however often a Pod is reviewed.

use std::sync::Arc;

use data_encoding::BASE64;
use inmesh_core::model::Namespace;
use serde_json::{Value as Json, json};

use super::sidecar::{Injected, Sidecar};

/// A text that is no review.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no AdmissionReview of admission.k8s.io/v1: {0}")]
pub struct InvalidReview(Arc<str>);

/// Answers a review of the creation of a Pod: with a patch (RFC 6902), admitted as it is, or refused.
///
/// ```
/// use inmesh_discovery::inject::{Sidecar, review};
/// use serde_json::json;
///
/// let sidecar = Sidecar::new("mesh:1.0", "cluster.local".parse()?);
/// let asked = json!({
///     "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
///     "request": {"uid": "7", "namespace": "shop", "object": {
///         "apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "cart-"},
///         "spec": {"containers": [{"name": "app", "image": "cart"}]},
///     }},
/// });
/// let answer = review(asked.to_string().as_bytes(), &sidecar)?;
/// assert_eq!((&answer["response"]["uid"], &answer["response"]["patchType"]), (&json!("7"), &json!("JSONPatch")));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`InvalidReview`], which is answered with 400.
pub fn review(text: &[u8], sidecar: &Sidecar) -> Result<Json, InvalidReview> {
    let invalid = |why: &str| InvalidReview(why.into());
    let asked: Json = serde_json::from_slice(text).map_err(|e| invalid(&e.to_string()))?;
    if asked["apiVersion"] != "admission.k8s.io/v1" || asked["kind"] != "AdmissionReview" {
        return Err(invalid("its apiVersion and kind are others"));
    }
    let request = &asked["request"];
    let uid = request["uid"]
        .as_str()
        .ok_or_else(|| invalid("it has no uid"))?;
    let namespace = request["namespace"].as_str().unwrap_or("default");
    let namespace = Namespace::new(namespace).map_err(|e| invalid(&e.to_string()))?;
    let before = &request["object"];
    let mut after = before.clone();
    let mut response = json!({"uid": uid, "allowed": true});
    match super::inject(&mut after, sidecar, &namespace) {
        Ok(Injected::Added) => {
            let patch = patch(before, &after).to_string();
            response["patchType"] = "JSONPatch".into();
            response["patch"] = BASE64.encode(patch.as_bytes()).into();
        }
        Ok(_) => {}
        Err(error) => {
            response["allowed"] = false.into();
            response["status"] = json!({
                "code": 422, "reason": "Invalid",
                "message": format!("the mesh cannot be put beside this Pod: {error}"),
            });
        }
    }
    Ok(
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}),
    )
}

/// The lists and mappings that injection changes, whole: each is put in place of what there was.
fn patch(before: &Json, after: &Json) -> Json {
    let paths = [
        "/metadata/annotations",
        "/spec/initContainers",
        "/spec/volumes",
    ];
    let changed = paths.iter().filter_map(|path| {
        let value = after.pointer(path)?;
        (before.pointer(path) != Some(value))
            .then(|| json!({"op": "add", "path": path, "value": value}))
    });
    changed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sidecar() -> Sidecar {
        Sidecar::new("mesh:dev", "cluster.local".parse().expect("a trust domain"))
    }

    fn asked(pod: &Json) -> Vec<u8> {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {"uid": "1", "namespace": "shop", "operation": "CREATE", "object": pod},
        });
        review.to_string().into_bytes()
    }

    fn pod(label: &str) -> Json {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"generateName": "cart-", "labels": {"inmesh.dev/inject": label}},
            "spec": {"containers": [{"name": "app", "image": "cart"}], "volumes": [{"name": "own", "emptyDir": {}}]},
        })
    }

    #[test]
    fn a_pod_is_patched_to_what_injection_makes_of_it() {
        let before = pod("enabled");
        let answer = review(&asked(&before), &sidecar()).expect("a review");
        let patch = answer["response"]["patch"].as_str().expect("a patch");
        let patch = BASE64.decode(patch.as_bytes()).expect("base64");
        let patch: Json = serde_json::from_slice(&patch).expect("JSON");
        let mut patched = before.clone();
        for op in patch.as_array().expect("a list") {
            assert_eq!(op["op"], "add");
            let path = op["path"].as_str().expect("a path");
            let (parent, field) = path.rsplit_once('/').expect("a field");
            patched.pointer_mut(parent).expect("it is there")[field] = op["value"].clone();
        }
        let mut injected = before;
        let namespace = Namespace::new("shop").expect("a name");
        let done = super::super::inject(&mut injected, &sidecar(), &namespace);
        assert_eq!((done, &patched), (Ok(Injected::Added), &injected));
        // Reviewed again, it is as it is to be.
        let again = review(&asked(&patched), &sidecar()).expect("a review");
        assert_eq!(again["response"], json!({"uid": "1", "allowed": true}));
    }

    #[test]
    fn a_pod_is_admitted_as_it_is_or_refused_with_the_reason() {
        let declined = review(&asked(&pod("disabled")), &sidecar()).expect("a review");
        assert_eq!(declined["response"], json!({"uid": "1", "allowed": true}));
        let refused = review(&asked(&pod("maybe")), &sidecar()).expect("a review");
        assert_eq!(refused["response"]["allowed"], false);
        let why = refused["response"]["status"]["message"]
            .as_str()
            .expect("a message");
        assert!(why.contains("metadata.labels.inmesh.dev/inject"), "{why}");
    }

    #[test]
    fn what_is_no_review_is_no_answer() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{"uid":"1"}}"#,
            r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{}}"#,
        ] {
            assert!(review(text.as_bytes(), &sidecar()).is_err(), "{text}");
        }
    }
}
