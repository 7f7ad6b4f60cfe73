//! Routes of which some rules are valid and others are not.

use inmesh_core::snapshot::Severity;

use super::{refusal, with_spec};

const V1: &str = "gateway.networking.k8s.io/v1";
const GOOD: &str = "- backendRefs: [{name: cart, port: 80}]\n";
const BAD: &str = "- backendRefs: [{name: cart, port: 0}]\n";

/// Where a note stands that some rules are valid.
fn noted(kind: &str, parent: &str, rules: &str) -> Vec<String> {
    let parents = format!("parentRefs: [{{group: '', kind: Service, name: {parent}}}]\n");
    let document = with_spec(V1, kind, "", &format!("{parents}rules:\n{rules}"));
    let (_, problems) = refusal(&document);
    assert!(
        problems.iter().any(|p| p.severity == Severity::Refused),
        "{problems:#?}"
    );
    let notes = problems
        .iter()
        .filter(|p| p.message.contains("other rules are valid"));
    let notes = notes.inspect(|note| {
        assert_eq!(note.severity, Severity::Note);
        // No condition: whether an earlier version serves is not known here.
        assert!(!note.message.contains("True"), "{note}");
    });
    notes.map(|note| note.field.clone()).collect()
}

#[test]
fn a_route_with_valid_rules_beside_others_falls_back() {
    for kind in ["HTTPRoute", "GRPCRoute"] {
        assert_eq!(
            noted(kind, "cart", &format!("{GOOD}{BAD}")),
            ["spec.rules"],
            "{kind}"
        );
        assert_eq!(noted(kind, "cart", BAD), [""; 0], "no rule of it is valid");
        assert_eq!(
            noted(kind, "cart", &format!("{BAD}{BAD}")),
            [""; 0],
            "{kind}"
        );
        // What is wrong is no matter of its rules.
        assert_eq!(
            noted(kind, "'-'", &format!("{GOOD}{BAD}")),
            [""; 0],
            "{kind}"
        );
    }
}

/// An item of a list has its path before that of the field.
#[test]
fn it_is_noted_in_a_list_too() {
    let item = with_spec(
        V1,
        "HTTPRoute",
        "",
        &format!("parentRefs: [{{group: '', kind: Service, name: cart}}]\nrules:\n{GOOD}{BAD}"),
    );
    let indented: String = item.lines().map(|line| format!("  {line}\n")).collect();
    let list = format!(
        "apiVersion: v1\nkind: List\nitems:\n-{}",
        indented.get(1..).unwrap()
    );
    let (_, problems) = refusal(&list);
    let notes: Vec<_> = problems
        .iter()
        .filter(|p| p.severity == Severity::Note)
        .collect();
    assert_eq!(notes.len(), 1, "{problems:#?}");
    assert_eq!(notes[0].field, "items[0].spec.rules");
}
