//! A gate is never shut for a request that its entry's conditions admit.

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::gate::{Gate, Knock};
use crate::route::matching::{Match, PathMatch, Regex, ValueMatch, missing_field};

const NAMES: [&str; 10] = [
    "a",
    "b",
    "c",
    "d",
    "e",
    "f",
    "g",
    "h",
    "x-tenant",
    "x-user-of-the-shop",
];

fn segments() -> impl Strategy<Value = String> {
    let segment = prop_oneof!["[ab]{1,2}", "items", "long-segment-of-a-path", "%C3%A9"];
    prop::collection::vec(segment, 0..4).prop_map(|all| format!("/{}", all.join("/")))
}

fn paths() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        (segments(), any::<bool>())
            .prop_map(|(path, prefix)| PathMatch::literal(&path, prefix).expect("a path")),
        Just(PathMatch::Regex(Regex::new("/a.*").expect("an expression"))),
    ]
}

fn fields(most: usize) -> impl Strategy<Value = Vec<(HeaderName, String)>> {
    let name = prop::sample::select(&NAMES[..]).prop_map(HeaderName::from_static);
    let value = prop_oneof!["", "[ab]", "beta", "a-long-value-[xy]", "é"];
    prop::collection::vec((name, value), 0..most)
}

fn matches() -> impl Strategy<Value = Match> {
    (paths(), fields(3), any::<bool>()).prop_map(|(path, fields, regex)| {
        let all = Match::path(path);
        fields.into_iter().fold(all, |all, (name, value)| {
            let expression = Regex::new(&value).map(ValueMatch::Regex);
            let exact = ValueMatch::Exact(value.into());
            all.header(name, expression.ok().filter(|_| regex).unwrap_or(exact))
        })
    })
}

proptest! {
    #[test]
    fn a_gate_is_never_shut_for_what_its_entry_admits(
        whens in prop::collection::vec(matches(), 1..24),
        path in prop_oneof![segments(), Just("*".to_owned())],
        fields in fields(5),
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_str(&value).expect("a value"));
        }
        let mut names = Vec::new();
        let gates: Vec<Gate> = whens.iter().map(|w| Gate::of(Some(w), &mut names)).collect();
        let mut knock = Knock::at(&names, &path, &headers);
        for (when, gate) in whens.iter().zip(&gates) {
            let admits = when.path.matches(&path) && missing_field(&when.headers, &headers).is_none();
            prop_assert!(!(admits && knock.is_shut(gate)), "{when:?}");
        }
    }
}

#[test]
fn a_gate_is_shut_for_another_path_and_for_another_value() {
    let mut names = Vec::new();
    let items = Match::path(PathMatch::literal("/items", true).expect("a path"));
    let tenant = HeaderName::from_static("x-tenant");
    let beta = items
        .clone()
        .header(tenant.clone(), ValueMatch::Exact("beta".into()));
    let [items, beta] = [items, beta].map(|when| Gate::of(Some(&when), &mut names));
    let everything = Gate::of(None, &mut names);
    let mut headers = HeaderMap::new();
    let shut = |path, headers: &HeaderMap| {
        let mut knock = Knock::at(&names, path, headers);
        [&items, &beta, &everything].map(|gate| knock.is_shut(gate))
    };
    assert_eq!(shut("/carts", &headers), [true, true, false]);
    assert_eq!(shut("/items/1", &headers), [false, true, false]);
    headers.insert(&tenant, HeaderValue::from_static("stable"));
    assert_eq!(shut("/items", &headers), [false, true, false]);
    headers.append(&tenant, HeaderValue::from_static("beta"));
    assert_eq!(shut("/items", &headers), [false, false, false]);
    headers.insert(&tenant, HeaderValue::from_static("beta"));
    assert_eq!(shut("/items", &headers), [false, false, false]);
}
