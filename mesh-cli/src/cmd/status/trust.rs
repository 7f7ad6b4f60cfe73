//! What a running agent trusts besides its own domain, and the Workload API that it serves.

use serde_json::Value;

use super::{each, left, now, span, text};
use crate::term;

/// The foreign trust domains, and where our own bundle is served; nothing where there is neither.
pub(super) fn federation(federation: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let rows: Vec<_> = each(&federation["relationships"])
        .map(|one| {
            let bundle = match (&one["trusted"], one["roots"].as_u64()) {
                (Value::Bool(true), Some(1)) => "1 root".to_owned(),
                (Value::Bool(true), Some(0) | None) => "distrusts".to_owned(),
                (Value::Bool(true), Some(roots)) => format!("{roots} roots"),
                _ => "none".to_owned(),
            };
            let fetched = match (one["age"].as_u64(), one["max_age"].as_u64()) {
                (Some(age), Some(most)) => format!("{} ago (of {})", span(age), span(most)),
                _ => "never".to_owned(),
            };
            let sequence = one["sequence"].as_u64();
            let next = one["next_try"].as_u64().map(|at| at.saturating_sub(now()));
            vec![
                text(&one["trust_domain"]),
                text(&one["profile"]),
                bundle,
                sequence.map_or_else(|| "-".to_owned(), |number| number.to_string()),
                fetched,
                next.map_or_else(|| "-".to_owned(), |left| format!("in {}", span(left))),
            ]
        })
        .collect();
    if !rows.is_empty() {
        out.push(String::new());
        out.push(term::table(
            &[
                "TRUST DOMAIN",
                "PROFILE",
                "BUNDLE",
                "SEQUENCE",
                "FETCHED",
                "NEXT",
            ],
            rows,
        ));
    }
    for one in each(&federation["relationships"]) {
        for name in ["last_error", "keep_error"] {
            if let Some(error) = one[name].as_str() {
                out.push(format!("{}: {error}", text(&one["trust_domain"])));
            }
        }
    }
    let endpoint = &federation["bundle_endpoint"];
    if !endpoint.is_null() {
        let certificate = &endpoint["certificate"];
        let ends = match certificate["not_after"].as_u64() {
            Some(_) => left(certificate["not_after"].as_u64()),
            None => "-".to_owned(),
        };
        let row = vec![
            text(&endpoint["address"]),
            text(&endpoint["path"]),
            text(&endpoint["profile"]),
            ends,
        ];
        out.push(String::new());
        out.push(term::table(
            &["BUNDLE ENDPOINT", "PATH", "PROFILE", "CERTIFICATE ENDS IN"],
            [row],
        ));
        if let Some(error) = certificate["last_error"].as_str() {
            out.push(format!("bundle endpoint: {error}"));
        }
    }
    out
}

/// The Workload API that is served; nothing where none is.
pub(super) fn workload_api(api: &Value) -> Vec<String> {
    if api.is_null() {
        return Vec::new();
    }
    let refusals = api["refusals"].as_object();
    let refused: u64 = refusals
        .into_iter()
        .flat_map(serde_json::Map::values)
        .filter_map(Value::as_u64)
        .sum();
    let row = vec![
        text(&api["socket"]),
        api["entries"].to_string(),
        api["connections"].to_string(),
        api["streams"].to_string(),
        refused.to_string(),
    ];
    let head = [
        "WORKLOAD API",
        "ENTRIES",
        "CONNECTIONS",
        "STREAMS",
        "REFUSED",
    ];
    vec![String::new(), term::table(&head, [row])]
}
