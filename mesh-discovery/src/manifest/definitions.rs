//! The CustomResourceDefinitions of our own kinds, made by asking their readers: an API server then refuses
//! a field that no reader knows, and a reader that learns one brings it along. Pure.
//!
//! The schema says which fields there are and of what type, no more: what a value must be is for the
//! reader, which says why.

use serde_json::{Map, Value as Json, json};

use super::capabilities::{Capability, Use, capabilities};
use super::samples::samples;

/// The group and version of our own kinds.
const GROUP: &str = "inmesh.dev";
const VERSION: &str = "v1alpha1";
/// Each with its plural and its short name.
const KINDS: &[(&str, &str, &str)] = &[
    ("AuthorizationPolicy", "authorizationpolicies", "iap"),
    ("ServiceEntry", "serviceentries", "ise"),
    ("TrafficPolicy", "trafficpolicies", "itp"),
];

/// The CustomResourceDefinitions of our own kinds, each a document of `apiextensions.k8s.io/v1`.
///
/// ```
/// let all = inmesh_discovery::manifest::definitions();
/// assert!(all.iter().any(|one| one["metadata"]["name"] == "trafficpolicies.inmesh.dev"));
/// ```
#[must_use]
pub fn definitions() -> Vec<Json> {
    let (known, samples) = (capabilities(), samples());
    let one = |(kind, plural, short): &(&str, &str, &str)| {
        let of = known.iter().find(|of| of.kind == *kind)?;
        let samples = samples.iter().filter(|sample| sample["kind"] == *kind);
        let specs: Vec<&Json> = samples.map(|sample| &sample["spec"]).collect();
        Some(definition(
            (kind, plural, short),
            &schema(of, "spec", &specs),
        ))
    };
    KINDS.iter().filter_map(one).collect()
}

fn definition((kind, plural, short): (&str, &str, &str), spec: &Json) -> Json {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{GROUP}")},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind, "listKind": format!("{kind}List"), "plural": plural,
                "singular": kind.to_lowercase(), "shortNames": [short], "categories": ["mesh"],
            },
            "scope": "Namespaced",
            "versions": [{
                "name": VERSION, "served": true, "storage": true,
                "additionalPrinterColumns": [
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "required": ["spec"],
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": spec,
                    },
                }},
            }],
        },
    })
}

/// The schema of what stands at a place, of which there are these samples.
fn schema(of: &Capability, place: &str, samples: &[&Json]) -> Json {
    let lists: Vec<&Vec<Json>> = samples.iter().filter_map(|one| one.as_array()).collect();
    if !lists.is_empty() {
        let items: Vec<&Json> = lists.into_iter().flatten().collect();
        return json!({"type": "array", "items": schema(of, &format!("{place}[]"), &items)});
    }
    let fields = of.fields.iter().filter(|field| field.place == place);
    let fields = fields.filter(|field| field.what != Use::Refused);
    let mut properties = Map::new();
    for field in fields {
        let samples: Vec<&Json> = samples
            .iter()
            .filter_map(|one| one.get(&field.name))
            .collect();
        let at = format!("{place}.{}", field.name);
        properties.insert(field.name.clone(), schema(of, &at, &samples));
    }
    let first = samples.first();
    match first {
        _ if !properties.is_empty() => json!({"type": "object", "properties": properties}),
        // Its keys are data, such as those of labels.
        Some(Json::Object(entries)) if entries.values().all(Json::is_string) => {
            json!({"type": "object", "additionalProperties": {"type": "string"}})
        }
        Some(Json::Object(entries)) if entries.values().all(Json::is_number) => {
            json!({"type": "object", "additionalProperties": {"type": "number"}})
        }
        Some(Json::Bool(_)) => json!({"type": "boolean"}),
        Some(Json::Number(_)) => json!({"type": "number"}),
        Some(Json::String(_)) => json!({"type": "string"}),
        // It is known by its name alone.
        _ => json!({"x-kubernetes-preserve-unknown-fields": true}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a value is of another type than its schema says, or has a field that it does not know.
    fn misfits(value: &Json, schema: &Json, at: &str, out: &mut Vec<String>) {
        match (schema["type"].as_str(), value) {
            (Some("array"), Json::Array(items)) => {
                for item in items {
                    misfits(item, &schema["items"], &format!("{at}[]"), out);
                }
            }
            (Some("object"), Json::Object(fields)) => {
                for (name, value) in fields {
                    let (at, more) = (format!("{at}.{name}"), &schema["additionalProperties"]);
                    match (schema["properties"].get(name), more) {
                        (Some(schema), _) => misfits(value, schema, &at, out),
                        (None, Json::Null) => out.push(at),
                        (None, schema) => misfits(value, schema, &at, out),
                    }
                }
            }
            (Some("boolean"), Json::Bool(_))
            | (Some("number"), Json::Number(_))
            | (Some("string"), Json::String(_)) => {}
            (None, _) if schema["x-kubernetes-preserve-unknown-fields"] == true => {}
            _ => out.push(at.to_owned()),
        }
    }

    #[test]
    fn every_document_that_is_read_fits_and_no_other_field_does() {
        let all = definitions();
        assert_eq!(all.len(), KINDS.len());
        for sample in samples() {
            let kind = sample["kind"].as_str().expect("a text");
            let ours = KINDS.iter().any(|(ours, ..)| *ours == kind);
            let one = all.iter().find(|one| one["spec"]["names"]["kind"] == kind);
            assert_eq!(one.is_some(), ours, "{kind}");
            let Some(one) = one else {
                continue;
            };
            let schema =
                &one["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
            let (mut fits, mut more) = (Vec::new(), Vec::new());
            misfits(&sample["spec"], schema, "spec", &mut fits);
            assert_eq!(fits, [""; 0], "{kind}");
            let mut misspelt = sample["spec"].clone();
            misspelt["targetRef"] = json!([]);
            misfits(&misspelt, schema, "spec", &mut more);
            assert_eq!(more, ["spec.targetRef"], "{kind}");
        }
    }
}
