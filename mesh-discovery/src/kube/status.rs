//! What is written back on routes: `status.parents[]`, as the Gateway API wants it. Pure.
//!
//! 1. Each parent that is a Service has one entry of ours, with the conditions Accepted and ResolvedRefs,
//!    and PartiallyInvalid where an earlier version serves in the place of some rules.
//! 2. Entries of other controllers stay as they are, in their order; ours for parents that are no longer
//!    there go.
//! 3. A condition keeps its time for as long as its status is the same.
//! 4. What would change nothing is not written.

use inmesh_core::snapshot::{Condition, ConditionKind, ObjectStatus, Problem, Serving, Severity};
use serde_json::{Value as Json, json};

/// The name of this controller in the status of routes.
pub(super) const CONTROLLER: &str = "inmesh.dev/mesh";
/// The most entries that a status may have.
const PARENTS: usize = 32;
/// The longest message of a condition, in characters; the API allows 32,768.
const MESSAGE: usize = 1_024;

/// What an API server has of a route.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Written {
    /// Where it is.
    pub(super) path: String,
    namespace: String,
    /// The version of the object that a change is made of.
    pub(super) version: String,
    generation: i64,
    parent_refs: Vec<Json>,
    parents: Vec<Json>,
}

/// A condition with its words.
struct Says {
    condition: Condition,
    message: String,
}

// === impl Written ===

impl Written {
    /// Of an object, where it is a route.
    pub(super) fn of((before, plural): (String, &str), object: &Json) -> Option<Self> {
        let text = |at: &str| object.pointer(at).and_then(Json::as_str);
        let list = |at: &str| object.pointer(at).and_then(Json::as_array);
        let (namespace, name) = (text("/metadata/namespace")?, text("/metadata/name")?);
        Some(Self {
            path: format!("{before}/{namespace}/{plural}/{name}"),
            namespace: namespace.into(),
            version: text("/metadata/resourceVersion")?.into(),
            generation: object
                .pointer("/metadata/generation")
                .and_then(Json::as_i64)
                .unwrap_or(0),
            parent_refs: list("/spec/parentRefs")?.clone(),
            parents: list("/status/parents").cloned().unwrap_or_default(),
        })
    }

    /// The parents that its status is to have, if those are others than it has. `status` is what became
    /// of it; `None` where nothing is wrong.
    ///
    /// # Errors
    ///
    /// Why it cannot be written: other controllers have all places.
    pub(super) fn wanted(
        &self,
        status: Option<&ObjectStatus>,
        now: &str,
    ) -> Result<Option<Vec<Json>>, String> {
        let is_ours = |entry: &&Json| entry["controllerName"] == CONTROLLER;
        let mut parents: Vec<Json> = { self.parents.iter() }
            .filter(|entry| !is_ours(entry))
            .cloned()
            .collect();
        let others = parents.len();
        let mut known: Vec<(&Json, [String; 4])> = Vec::new();
        for parent in self.parent_refs.iter().filter(|parent| is_service(parent)) {
            // As the reader of routes: one that stands twice is one.
            let named = self.named(parent);
            let place = known.iter().position(|(_, other)| *other == named);
            let place = place.unwrap_or(known.len());
            if place == known.len() {
                known.push((parent, named));
            }
            let before = self.parents.iter().filter(is_ours);
            let mut before = before.filter(|entry| entry["parentRef"] == *parent);
            let says = says(status, place);
            parents.push(self.entry(parent, before.next(), says, now));
        }
        if parents.len() > PARENTS {
            return Err(format!(
                "{others} entries of other controllers leave no place in its status"
            ));
        }
        Ok((parents != self.parents).then_some(parents))
    }

    /// What a parent is, whatever its words: namespace, name, port and section.
    fn named(&self, parent: &Json) -> [String; 4] {
        let text = |name: &str| match &parent[name] {
            Json::String(text) => text.clone(),
            Json::Null => String::new(),
            other => other.to_string(),
        };
        let namespace = text("namespace");
        let namespace = if namespace.is_empty() {
            self.namespace.clone()
        } else {
            namespace
        };
        [namespace, text("name"), text("port"), text("sectionName")]
    }

    fn entry(&self, parent: &Json, before: Option<&Json>, says: Vec<Says>, now: &str) -> Json {
        let conditions = says.into_iter().map(|says| {
            let Says { condition, message } = says;
            let (kind, status) = (
                condition.kind.as_str(),
                if condition.status { "True" } else { "False" },
            );
            let before = before.and_then(|entry| entry["conditions"].as_array());
            let same = |one: &&Json| one["type"] == kind && one["status"] == status;
            let before = before.and_then(|all| all.iter().find(same));
            let since = before
                .and_then(|one| one["lastTransitionTime"].as_str())
                .unwrap_or(now);
            json!({
                "type": kind, "status": status, "reason": condition.reason, "message": message,
                "observedGeneration": self.generation, "lastTransitionTime": since,
            })
        });
        json!({
            "parentRef": parent, "controllerName": CONTROLLER,
            "conditions": conditions.collect::<Vec<_>>(),
        })
    }
}

fn is_service(parent: &Json) -> bool {
    let group = parent["group"]
        .as_str()
        .unwrap_or("gateway.networking.k8s.io");
    matches!(group, "" | "core") && parent["kind"] == "Service"
}

/// The conditions of a route at the parent of that place among its Services.
fn says(status: Option<&ObjectStatus>, place: usize) -> Vec<Says> {
    let problems = status.map_or(&[][..], |status| &status.problems);
    let serving = status.map_or(Serving::Current, |status| status.serving);
    let of = |wanted: Condition, mut problems: Vec<&Problem>| {
        problems.dedup();
        let words: Vec<_> = problems.iter().map(ToString::to_string).collect();
        Says {
            condition: wanted,
            message: cut(&words.join("; ")),
        }
    };
    let with = |kind: ConditionKind, status: bool, field: Option<String>| {
        let mut found: Option<Condition> = None;
        let matching = problems.iter().filter(|problem| {
            let condition =
                { problem.conditions.iter() }.find(|c| c.kind == kind && c.status == status);
            let here = field.as_ref().is_none_or(|field| problem.field == *field);
            if let (Some(condition), true) = (condition, here) {
                found.get_or_insert(*condition);
            }
            condition.is_some() && here
        });
        let matching: Vec<_> = matching.collect();
        found.map(|condition| of(condition, matching))
    };
    let mut all = Vec::new();
    let partial = with(ConditionKind::PartiallyInvalid, true, None);
    let unlike = Condition::not(ConditionKind::Accepted, "UnsupportedValue");
    let refused: Vec<_> = problems
        .iter()
        .filter(|p| p.severity == Severity::Refused)
        .collect();
    let at = format!("spec.parentRefs[{place}]");
    all.push(match (serving, &partial) {
        (Serving::Current, _) | (Serving::LastGood, Some(_)) => {
            let not = with(ConditionKind::Accepted, false, Some(at));
            not.unwrap_or_else(|| {
                of(
                    Condition::holds(ConditionKind::Accepted, "Accepted"),
                    vec![],
                )
            })
        }
        _ => of(unlike, refused.clone()),
    });
    let refs = with(ConditionKind::ResolvedRefs, false, None);
    let resolved = Condition::holds(ConditionKind::ResolvedRefs, "ResolvedRefs");
    all.push(refs.unwrap_or_else(|| of(resolved, vec![])));
    all.extend(partial.map(|partial| Says {
        // The words that the API asks for stand first, then why.
        message: cut(&format!(
            "Fall Back to the version before: {}",
            of(unlike, refused).message
        )),
        ..partial
    }));
    all
}

fn cut(message: &str) -> String {
    match message.char_indices().nth(MESSAGE) {
        Some((at, _)) => format!("{}...", &message[..at]),
        None => message.into(),
    }
}
