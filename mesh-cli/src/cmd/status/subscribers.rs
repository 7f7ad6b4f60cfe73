//! The subscribers of a control plane: how many have all that concerns them, and which do not.

use serde_json::Value;

use super::{each, text};
use crate::term;

/// The most that are shown.
const SHOWN: usize = 50;

/// Lines of a control plane; nothing of another agent.
pub(super) fn lines(plane: &Value) -> Vec<String> {
    if plane.is_null() {
        return Vec::new();
    }
    let mut out = vec![
        String::new(),
        format!(
            "control plane: generation {}, {} subscribers have all that concerns them, {} are behind",
            plane["generation"], plane["converged"], plane["behind"],
        ),
    ];
    let all: Vec<_> = each(&plane["subscribers"]).collect();
    let rows = all.iter().take(SHOWN).map(|one| {
        let behind = one["behind_for"].as_u64();
        vec![
            text(&one["id"]),
            text(&one["instance"]),
            text(&one["address"]),
            one["generation"].to_string(),
            behind.map_or_else(|| "-".to_owned(), |millis| format!("{millis} ms")),
            one["subscriptions"].to_string(),
        ]
    });
    if !all.is_empty() {
        let head = [
            "SUBSCRIBER",
            "INSTANCE",
            "ADDRESS",
            "GENERATION",
            "BEHIND FOR",
            "SUBSCRIPTIONS",
        ];
        out.push(term::table(&head, rows));
    }
    if let Some(more @ 1..) = all.len().checked_sub(SHOWN) {
        out.push(format!("and {more} more: --json shows all"));
    }
    for one in all {
        for (name, refused) in one["refused"].as_object().into_iter().flatten() {
            let why = each(&refused["problems"])
                .map(text)
                .collect::<Vec<_>>()
                .join("; ");
            out.push(format!(
                "{} ({}) does not apply {name}: {why}",
                text(&one["id"]),
                text(&one["instance"])
            ));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_subscriber_that_lags_or_refuses_is_named() {
        assert!(lines(&Value::Null).is_empty());
        let plane = json!({
            "generation": 7, "converged": 1, "behind": 1,
            "subscribers": [
                {"id": "spiffe://a/ns/b/sa/late", "instance": "late-1", "address": "10.0.0.1:1", "generation": 5,
                 "behind_for": 1200, "subscriptions": 3,
                 "refused": {"HTTPRoute/b/r": {"version": "1", "problems": ["spec: is odd"]}}},
                {"id": "spiffe://a/ns/b/sa/good", "instance": "good-1", "address": "10.0.0.2:1", "generation": 7,
                 "behind_for": null, "subscriptions": 2, "refused": {}},
            ],
        });
        let page = lines(&plane).join("\n");
        for part in [
            "generation 7, 1 subscribers have all that concerns them, 1 are behind",
            "1200 ms",
            "spiffe://a/ns/b/sa/late (late-1) does not apply HTTPRoute/b/r: spec: is odd",
            "good-1",
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
    }
}
