//! What is staged in the place of objects.

use inmesh_core::snapshot::Op;
use serde_json::{Value as Json, json};

use super::super::staged::Staged;
use super::{Event, Index, KINDS, defaults, object, place, source};
use crate::layout::{PREVIOUS, STAGE};
use crate::stage::plan::Step;
use crate::stage::{Running, Stage, State};

const GATEWAY: &str = "gateway.networking.k8s.io";

/// An index of a control plane, to which every kind has been listed, as empty.
fn listed() -> Index {
    let mut index = Index::new(source(), defaults().documents());
    for kind in 0..KINDS.len() {
        index.handle(kind, Event::ListBegun);
        index.handle(kind, Event::ListDone);
    }
    index
}

fn spec(rule: &Json) -> Json {
    json!({"parentRefs": [{"group": "", "kind": "Service", "name": "cart"}], "rules": [rule]})
}

fn to(backend: &str) -> Json {
    spec(&json!({"backendRefs": [{"name": backend, "port": 80}]}))
}

fn mirrored(to: &str) -> Json {
    let filter =
        json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": to, "port": 80}}});
    spec(&json!({"filters": [filter], "backendRefs": [{"name": "cart", "port": 80}]}))
}

/// A route in a version, with an annotation.
fn route(name: &str, version: u64, spec: &Json, annotations: &Json) -> Json {
    let kind = place("HTTPRoute", GATEWAY);
    let mut rest = json!({"spec": spec});
    if !annotations.is_null() {
        rest["annotations"] = annotations.clone();
    }
    let mut route = object(kind, name, name, version, &rest);
    route["metadata"]["generation"] = 4.into();
    route
}

fn stage(spec: Json) -> Stage {
    Stage::new("a1", 10, 30, 4, spec)
}

fn annotated(stage: &Stage) -> Json {
    json!({STAGE: stage.write().expect("it is small"), PREVIOUS: "{}"})
}

fn put(index: &mut Index, kind: usize, object: Json) -> Vec<Op> {
    index.handle(kind, Event::Applied(object));
    index.poll().map(|change| change.ops).unwrap_or_default()
}

/// What is said of an object: its text, and the problems.
fn said(ops: &[Op]) -> (String, Vec<String>) {
    let (mut text, mut problems) = (String::new(), Vec::new());
    for op in ops {
        match op {
            Op::Document(_, of) => of.as_ref().clone_into(&mut text),
            Op::Put(_, of) | Op::Refuse(_, _, of) => {
                problems.extend(of.iter().map(ToString::to_string));
            }
            _ => {}
        }
    }
    (text, problems)
}

fn only(index: &Index) -> &Staged {
    let mut all = index.staged();
    let (key, staged) = all.next().expect("something is staged");
    assert_eq!(key.to_string(), "HTTPRoute/shop/cart");
    assert!(all.next().is_none());
    staged
}

#[test]
fn an_object_is_handed_on_as_it_is_while_something_is_staged() {
    let kind = place("HTTPRoute", GATEWAY);
    let mut index = listed();
    let plain = said(&put(
        &mut index,
        kind,
        route("cart", 1, &to("one"), &Json::Null),
    ));
    assert!(
        plain.0.contains("one") && !plain.0.contains("annotations"),
        "{plain:?}"
    );
    assert_eq!((index.staged().count(), index.stagings()), (0, 0));
    let asked = stage(to("next"));
    let staged = said(&put(
        &mut index,
        kind,
        route("cart", 2, &to("one"), &annotated(&asked)),
    ));
    assert_eq!(staged, plain, "those that have the object see no change");
    assert_eq!(index.stagings(), 1);
    let one = only(&index);
    assert_eq!((&*one.version, one.generation), ("2", 4));
    assert_eq!(
        one.path,
        "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/cart"
    );
    let offer = one.offer.as_ref().expect("it can be staged");
    assert_eq!(*offer.stable, *plain.0);
    assert_eq!(*offer.document, *plain.0.replace("one", "next"));
    assert_eq!(offer.bound, None);
    // Once members are chosen, and once it has ended.
    let mut runs = asked.clone();
    (runs.state, runs.running) = (State::Running, Some(Running::new(77, 0, 10, 1)));
    put(
        &mut index,
        kind,
        route("cart", 3, &to("one"), &annotated(&runs)),
    );
    let offer = only(&index).offer.clone().expect("it can be staged");
    assert_eq!((offer.bound, index.stagings()), (Some(77), 3));
    let promoted = runs.clone().ended(State::Promoted, "");
    let after = said(&put(
        &mut index,
        kind,
        route("cart", 4, &to("next"), &annotated(&promoted)),
    ));
    assert_eq!(*after.0, *offer.document, "it is what a canary had");
    assert_eq!((index.staged().count(), index.stagings()), (0, 4));
    // An object that goes takes it along.
    put(
        &mut index,
        kind,
        route("cart", 5, &to("next"), &annotated(&runs)),
    );
    index.handle(
        kind,
        Event::Deleted(route("cart", 6, &to("next"), &Json::Null)),
    );
    assert_eq!(index.staged().count(), 0);
}

#[test]
fn what_cannot_be_staged_says_why() {
    let kind = place("HTTPRoute", GATEWAY);
    let mut index = listed();
    // Another route mirrors what this one would mirror back.
    let mut back = mirrored("cart");
    back["parentRefs"][0]["name"] = "next".into();
    put(&mut index, kind, route("back", 1, &back, &Json::Null));
    let invalid = spec(&json!({"backendRefs": [{"name": "a", "port": 0}]}));
    for (n, (now, staged, why)) in [
        (to("one"), mirrored("next"), "cycle of mirrors"),
        (to("one"), invalid, "it is refused"),
        (
            to("one"),
            json!({"parentRefs": []}),
            "it says nothing to the mesh",
        ),
        (
            json!({"parentRefs": 1}),
            to("one"),
            "the object itself is refused",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let version = 10 + u64::try_from(n).expect("few");
        put(
            &mut index,
            kind,
            route("cart", version, &now, &annotated(&stage(staged))),
        );
        let offer = &only(&index).offer;
        assert!(
            offer.as_ref().is_err_and(|e| e.contains(why)),
            "{why}: {offer:?}"
        );
    }
}

#[test]
fn an_annotation_without_an_effect_is_a_problem() {
    let kind = place("HTTPRoute", GATEWAY);
    let mut index = listed();
    let text = json!({STAGE: "{}"});
    let (_, problems) = said(&put(&mut index, kind, route("cart", 1, &to("one"), &text)));
    assert!(
        problems.len() == 1 && problems[0].contains("has no effect"),
        "{problems:?}"
    );
    let kind = place("TCPRoute", GATEWAY);
    let mut tcp = object(kind, "tcp", "t", 1, &json!({"spec": to("one")}));
    tcp["metadata"]["annotations"] = annotated(&stage(to("next")));
    let (_, problems) = said(&put(&mut index, kind, tcp));
    assert!(
        problems
            .iter()
            .any(|p| p.contains("no object of its kind can be staged")),
        "{problems:?}"
    );
    // A Service has no meaning for it at all.
    let kind = place("Service", "");
    let rest = json!({"spec": {"ports": [{"port": 80}]}, "annotations": text});
    let (_, problems) = said(&put(&mut index, kind, object(kind, "cart", "c", 1, &rest)));
    assert!(
        problems[0].contains("has no meaning on this object"),
        "{problems:?}"
    );
    assert_eq!((index.staged().count(), index.stagings()), (0, 0));
}

#[test]
fn a_step_is_a_change_of_the_version_that_was_seen() {
    let kind = place("HTTPRoute", GATEWAY);
    let mut index = listed();
    put(
        &mut index,
        kind,
        route("cart", 7, &to("one"), &annotated(&stage(to("next")))),
    );
    let staged = only(&index);
    let ended = |state| staged.stage.clone().ended(state, "why");
    assert_eq!(staged.patch(&Step::Wait), None);
    let note = ended(State::Reverted);
    let patch = staged.patch(&Step::Note(note.clone())).expect("a change");
    let seen = json!({"op": "test", "path": "/metadata/resourceVersion", "value": "7"});
    let at = "/metadata/annotations/inmesh.dev~1canary";
    let noted = json!({"op": "add", "path": at, "value": note.write().expect("it is small")});
    assert_eq!(patch, json!([seen, noted]));
    let promoted = staged
        .patch(&Step::Promote(ended(State::Promoted)))
        .expect("a change");
    let previous = "/metadata/annotations/inmesh.dev~1previous";
    let kept = promoted[2]["value"].as_str().expect("a text");
    assert_eq!(
        (&promoted[0], &promoted[2]["path"]),
        (&seen, &previous.into())
    );
    assert_eq!(
        serde_json::from_str::<Json>(kept).expect("it is JSON"),
        to("one")
    );
    assert_eq!(
        promoted[3],
        json!({"op": "add", "path": "/spec", "value": to("next")})
    );
}
