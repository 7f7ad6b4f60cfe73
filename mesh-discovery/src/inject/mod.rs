//! A workload in, the same with the mesh beside each of its Pods out. Pure.
//!
//! Added to a Pod are an init container that redirects its connections, an agent as a native sidecar
//! (`restartPolicy: Always`), which starts before the application and ends after it, and what the agent needs:
//! its file, which is an annotation that the downward API mounts; a token for the CA; its roots; a folder in memory.
//!
//! What cannot work as it is written is refused, with the field and what to do.

mod admission;
mod agent;
mod fields;
mod pod;
mod sidecar;
#[cfg(test)]
mod tests;

use inmesh_core::model::Namespace;
use serde_json::Value as Json;

pub use self::admission::{InvalidReview, review};
use self::pod::Template;
pub use self::sidecar::{InjectError, Injected, Sidecar};

/// Puts the mesh beside the Pods of a document: a Pod, or what has a template of one. A list is done item
/// by item. `namespace` is that of documents which name none.
///
/// # Errors
///
/// [`InjectError`]: the document is as it was.
pub fn inject(
    document: &mut Json,
    sidecar: &Sidecar,
    namespace: &Namespace,
) -> Result<Injected, InjectError> {
    let kind = document["kind"].as_str().unwrap_or_default();
    if kind.ends_with("List") {
        return inject_items(document, sidecar, namespace);
    }
    let path: &[&str] = match kind {
        "Pod" => &[],
        "DaemonSet"
        | "Deployment"
        | "Job"
        | "ReplicaSet"
        | "ReplicationController"
        | "StatefulSet" => &["spec", "template"],
        "CronJob" => &["spec", "jobTemplate", "spec", "template"],
        _ => return Ok(Injected::NoPods),
    };
    let meta = &document["metadata"];
    let namespace = match meta["namespace"].as_str() {
        Some(name) => Namespace::new(name)
            .map_err(|e| InjectError::new("metadata.namespace", e.to_string()))?,
        None => namespace.clone(),
    };
    let name = meta["name"]
        .as_str()
        .or_else(|| meta["generateName"].as_str());
    let name = name.unwrap_or_default().trim_end_matches('-').to_owned();
    let mut at = &mut *document;
    for field in path {
        at = &mut at[*field];
    }
    if !at["spec"].is_object() {
        let field = [path, &["spec"]].concat().join(".");
        return Err(InjectError::new(field, "is missing"));
    }
    let template = Template {
        path: path.iter().map(|field| format!("{field}.")).collect(),
        namespace,
        owner: name,
    };
    // What is refused stays as it was.
    let mut injected = at.clone();
    let done = template.inject(&mut injected, sidecar)?;
    if done == Injected::Added {
        *at = injected;
    }
    Ok(done)
}

fn inject_items(
    list: &mut Json,
    sidecar: &Sidecar,
    namespace: &Namespace,
) -> Result<Injected, InjectError> {
    let mut injected = list.clone();
    let mut done = Injected::NoPods;
    for (nth, item) in injected["items"]
        .as_array_mut()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let one = inject(item, sidecar, namespace).map_err(|e| InjectError {
            field: format!("items[{nth}].{}", e.field),
            ..e
        })?;
        if done != Injected::Added && one != Injected::NoPods {
            done = one;
        }
    }
    *list = injected;
    Ok(done)
}
