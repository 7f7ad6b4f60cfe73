//! Null, `[]` and `{}` in every place of every sample: each says what an absent field says, or refuses the
//! object. None makes it smaller without a word.

use inmesh_core::snapshot::{Op, Severity};
use serde_json::{Value as Json, json};

use super::super::samples::samples;
use super::{FILE, defaults, parse, policy, refusal};

/// Fields whose `{}` says something: that what they name is there, with its defaults.
const DEFAULTS: &[&str] = &[
    "adaptiveConcurrency",
    "cors",
    "failurePercentageEjection",
    "grpc",
    "http",
    "localityLbSetting",
    "maglev",
    "outlierDetection",
    "requestHeaderModifier",
    "requestRedirect",
    "responseHeaderModifier",
    "retry",
    "retryConstraint",
    "ringHash",
    "selector",
    "sessionPersistence",
    "spec",
    "successRateEjection",
    "tcp",
    "timeouts",
    "urlRewrite",
    "zoneAwareLbSetting",
];

/// What a document gives: its objects with what they skip, or that one of them is refused for a reason.
fn outcome(document: &Json) -> Result<String, String> {
    let text = document.to_string();
    let parsed = parse(FILE, &text, &defaults()).expect("it is JSON");
    let mut objects = String::new();
    for entry in &parsed.entries {
        match &entry.op {
            Op::Put(object, warnings) => {
                objects.push_str(&format!("{object:?}\n"));
                for warning in warnings.iter().filter(|p| p.message.contains("skipped")) {
                    objects.push_str(&format!("{}\n", warning.message));
                }
            }
            Op::Refuse(.., problems) => {
                let mut all = problems.iter();
                let refused = all.find(|p| p.severity == Severity::Refused);
                let problem = refused.unwrap_or_else(|| panic!("refused without a reason: {text}"));
                assert!(!problem.message.is_empty(), "{text}");
                return Err(problem.to_string());
            }
            op => panic!("{op:?} of {text}"),
        }
    }
    Ok(objects)
}

/// The places of all mappings and lists' items, and of all fields.
fn places(value: &Json, at: &str, found: &mut Vec<String>) {
    match value {
        Json::Object(fields) => {
            for (name, value) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                let at = format!("{at}/{name}");
                places(value, &at, found);
                found.push(at);
            }
        }
        Json::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                let at = format!("{at}/{n}");
                places(item, &at, found);
                found.push(at);
            }
        }
        _ => {}
    }
}

fn all_places(sample: &Json) -> Vec<String> {
    let mut found = Vec::new();
    places(sample, "", &mut found);
    // What kind a document is decides which fields it has.
    found.retain(|at| !matches!(&**at, "/apiVersion" | "/kind"));
    found
}

fn with(sample: &Json, at: &str, value: Json) -> Json {
    let mut changed = sample.clone();
    *changed.pointer_mut(at).expect("it is there") = value;
    changed
}

fn without(sample: &Json, at: &str) -> Json {
    let (parent, name) = at.rsplit_once('/').expect("a path");
    let name = name.replace("~1", "/").replace("~0", "~");
    let mut changed = sample.clone();
    match changed.pointer_mut(parent).expect("it is there") {
        Json::Object(fields) => drop(fields.remove(&name)),
        Json::Array(items) => drop(items.remove(name.parse().expect("a number"))),
        other => panic!("{other} holds nothing"),
    }
    changed
}

#[test]
fn a_field_without_content_is_absent_or_refused() {
    let mut wrong = Vec::new();
    for sample in samples() {
        let kind = sample["kind"].clone();
        let whole = outcome(&sample);
        for at in all_places(&sample) {
            let (_, name) = at.rsplit_once('/').expect("a path");
            let is_item = name.parse::<usize>().is_ok();
            let absent = outcome(&without(&sample, &at));
            let has_effect = absent != whole;
            for value in [json!(null), json!([]), json!({})] {
                let Ok(object) = outcome(&with(&sample, &at, value.clone())) else {
                    continue;
                };
                let same = absent.as_ref() == Ok(&object);
                let stands = value == json!({}) && (is_item || DEFAULTS.contains(&name));
                // An item that is left out makes its list smaller.
                let fine = match is_item && has_effect {
                    true => stands && !same,
                    false => same || stands,
                };
                if !fine {
                    wrong.push(format!("{kind} {at} = {value}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Where all that a mapping says is null, it says no more than `{}`, and is refused where that is.
#[test]
fn a_mapping_of_nulls_is_an_empty_one() {
    let mut wrong = Vec::new();
    for sample in samples() {
        let kind = sample["kind"].clone();
        for at in all_places(&sample) {
            let Some(fields) = sample.pointer(&at).and_then(Json::as_object) else {
                continue;
            };
            let empty = outcome(&with(&sample, &at, json!({})));
            let names: Vec<_> = fields.keys().collect();
            for names in names.chunks(1).chain([&names[..]]) {
                let nulls = names.iter().map(|n| ((*n).clone(), Json::Null));
                let found = outcome(&with(&sample, &at, nulls.collect()));
                if found.is_ok() && found != empty {
                    wrong.push(format!("{kind} {at}: {names:?}: {found:?}, {empty:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_part_of_a_policy_that_says_nothing_refuses_it() {
    for (rule, field) in [
        ("{to: [{operation: {paths: null}}]}", "to[0].operation"),
        ("{to: [{operation: {methods: null}}]}", "to[0].operation"),
        (
            "{to: [{operation: {notPaths: null, notMethods: null}}]}",
            "to[0].operation",
        ),
        ("{from: [{source: {principals: null}}]}", "from[0].source"),
        (
            "{from: [{source: {notNamespaces: null}}]}",
            "from[0].source",
        ),
        (
            "{from: [{source: {namespaces: [default]}}], to: [{operation: {notPaths: null}}]}",
            "to[0].operation",
        ),
        (
            "{to: [{operation: {paths: null}}, {operation: {paths: [/x]}}]}",
            "to[0].operation",
        ),
    ] {
        for action in ["DENY", "ALLOW"] {
            let document = policy(&format!("action: {action}\nrules: [{rule}]"));
            let (_, problems) = refusal(&document);
            let [problem] = &problems[..] else {
                panic!("{rule}: {problems:#?}");
            };
            assert_eq!(problem.field, format!("spec.rules[0].{field}"), "{rule}");
            assert!(problem.message.contains("no condition"), "{problem}");
            // Beside a rule that is whole, too.
            let document = policy(&format!("action: {action}\nrules: [{rule}, {{}}]"));
            refusal(&document);
        }
    }
}

/// A reader that gives up without a reason is named where it stands.
#[test]
fn what_is_left_out_without_a_reason_is_refused() {
    use super::super::strict::{Unknown, documents};
    let document = &documents(FILE, "a: {b: {}}\nc: 5").expect("it parses")[0];
    let read = document.read(Unknown::Refuse, |fields| {
        let a = fields
            .get("a")
            .and_then(|a| a.object(|a| a.need("b")?.object(|_| None::<u8>)));
        let c: Option<u8> = fields.need("c")?.integer();
        Some((a, c?))
    });
    let problems = read.expect_err("a vanished");
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert_eq!(problems[0].field, "a.b");
}
