//! Edits of a folder, seen through the snapshot.

use std::sync::Arc;

use inmesh_core::authorize::{DefaultAction, RequestView, decide};
use inmesh_core::identify::Peer;
use inmesh_core::model::{SourceId, Workload};
use inmesh_core::snapshot::{Fallback, Op, Serving, Settings, Severity, Snapshot};

use super::super::{Content, Folder};
use super::{defaults, policy, route, service};

struct World {
    folder: Folder,
    snapshot: Snapshot,
}

impl World {
    fn new() -> Self {
        let workload = Workload::new("shop", "cart", "cart")
            .expect("names")
            .label("app", "cart");
        Self {
            folder: Folder::new(SourceId::new("file:x"), defaults()),
            snapshot: Snapshot::new(Settings::new(workload, DefaultAction::Allow)),
        }
    }

    /// Merges the files and applies the change; returns the problems.
    fn edit(&mut self, files: &[(&str, &str)]) -> Vec<String> {
        let files = files.iter().map(|(file, text)| {
            let content = match *text {
                "EACCES" => Content::Unreadable("permission denied".into()),
                text => Content::Text(text.into()),
            };
            (Arc::from(*file), content)
        });
        let merged = self.folder.merge(files);
        self.snapshot = self.snapshot.apply(merged.change);
        merged.problems.iter().map(ToString::to_string).collect()
    }

    /// `object serving` of all that status lists.
    fn status(&self) -> Vec<String> {
        let status = self.snapshot.status();
        let line = |s: &inmesh_core::snapshot::ObjectStatus| {
            let serving = match s.serving {
                Serving::Current => "current",
                Serving::LastGood => "last-good",
                _ => "nothing",
            };
            format!("{} {serving}", s.object)
        };
        status.iter().map(line).collect()
    }

    fn permits(&self) -> bool {
        let view = RequestView::Tcp;
        decide(
            self.snapshot.policy(),
            &Peer::Unauthenticated,
            &view,
            &mut (),
        )
        .permit()
        .is_ok()
    }
}

fn good_service() -> String {
    service("", "ports: [{port: 80}]")
}

fn good_route() -> String {
    route(
        "parentRefs: [{group: '', kind: Service, name: x}]\nrules: [{backendRefs: [{name: x, port: 80}]}]",
    )
}

/// Denies peers without an identity.
fn good_policy() -> String {
    policy(
        "selector: {matchLabels: {app: cart}}\naction: DENY\nrules: [{from: [{source: {notPrincipals: [td/a]}}]}]",
    )
}

#[test]
fn what_a_bad_file_does() {
    for (bad, line, message) in [
        ("a: [", 1, ""),
        ("", 1, "no document"),
        ("EACCES", 1, "permission"),
    ] {
        let mut world = World::new();
        let (service, route) = (good_service(), good_route());
        assert_eq!(
            world.edit(&[("a.yaml", &service), ("b.yaml", &route)]),
            [""; 0]
        );
        let both = ["HTTPRoute/shop/x current", "Service/shop/x current"];
        assert_eq!(world.status(), both);

        let problems = world.edit(&[("a.yaml", bad), ("b.yaml", bad)]);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(
            problems[0].starts_with(&format!("a.yaml:{line}: ")),
            "{problems:?}"
        );
        assert!(problems[0].contains(message), "{problems:?}");
        let mut kept = vec!["File/default/a.yaml nothing", "File/default/b.yaml nothing"];
        kept.extend(both);
        assert_eq!(world.status(), kept);
        assert!(world.snapshot.blocked().is_empty());

        // Only deleting it deletes.
        world.edit(&[("a.yaml", &service)]);
        assert_eq!(world.status(), ["Service/shop/x current"]);
        world.edit(&[]);
        assert_eq!(world.status(), [""; 0]);
    }
}

#[test]
fn a_refused_edit_keeps_the_last_good() {
    let mut world = World::new();
    world.edit(&[("a.yaml", &good_service()), ("b.yaml", &good_route())]);
    let bad = good_route().replace("port: 80", "port: 80, weight: many");
    let problems = world.edit(&[("a.yaml", &good_service()), ("b.yaml", &bad)]);
    assert_eq!(
        problems,
        ["b.yaml:6: spec.rules[0].backendRefs[0].weight: is a text, not a whole number"]
    );
    assert_eq!(
        world.status(),
        ["HTTPRoute/shop/x last-good", "Service/shop/x current"]
    );
    assert_eq!(world.snapshot.refusals(), 1);
    // Merged again, the same refusal counts once.
    world.edit(&[("a.yaml", &good_service()), ("b.yaml", &bad)]);
    assert_eq!(world.snapshot.refusals(), 1);
}

/// A kind that is misspelt from the start denies; misspelt in an edit it keeps the last good.
#[test]
fn a_misspelt_policy_denies_what_it_selects() {
    for (from, to) in [
        ("AuthorizationPolicy", "AuthorizationPolcy"),
        ("AuthorizationPolicy", "Authz"),
        ("security.istio.io", "security.istio.oi"),
    ] {
        for (selector, permitted) in [
            ("{matchLabels: {app: cart}}", false),
            ("{matchLabels: {app: web}}", true),
        ] {
            let mut world = World::new();
            let good = policy(&format!("selector: {selector}\nrules: [{{}}]"));
            let problems = world.edit(&[("p.yaml", &good.replace(from, to))]);
            assert_eq!((world.permits(), problems.len()), (permitted, 1), "{to}");
            world.edit(&[("p.yaml", &good)]);
            assert!(world.permits());
            world.edit(&[("p.yaml", &good.replace(from, to))]);
            assert!(world.permits(), "the last good version stays: {to}");
        }
        // A file that does not parse and was never read denies by its group alone.
        let mut world = World::new();
        world.edit(&[(
            "p.yaml",
            "apiVersion: security.istio.io/v1\nkind: Authz\nspec: [",
        )]);
        assert!(!world.permits());
    }
}

#[test]
fn a_policy_that_never_was_good_denies_what_it_selects() {
    let bad = |selector: &str| policy(&format!("selector: {selector}\nrules: [{{when: [{{}}]}}]"));
    let rows = [
        ("{matchLabels: {app: cart}}", false),
        ("{matchLabels: {app: web}}", true),
        ("{matchLabel: {app: web}}", false),
        ("{}", false),
    ];
    for (selector, permitted) in rows {
        let mut world = World::new();
        world.edit(&[("p.yaml", &bad(selector))]);
        assert_eq!(world.permits(), permitted, "{selector}");
        assert!(world.snapshot.blocked().is_empty());
        world.edit(&[]);
        assert!(world.permits());
    }
}

#[test]
fn a_policy_without_a_readable_namespace_blocks_readiness() {
    let mut world = World::new();
    world.edit(&[(
        "p.yaml",
        &good_policy().replace("namespace: shop", "namespace: 5"),
    )]);
    assert!(!world.permits());
    assert_eq!(world.snapshot.blocked().len(), 1);
}

#[test]
fn a_file_that_never_parsed_may_hide_a_policy() {
    let rows = [
        ("kind: AuthorizationPolicy\na: [", true),
        ("EACCES", true),
        ("kind: Service\na: [", false),
        ("", false),
    ];
    for (text, blocked) in rows {
        let mut world = World::new();
        world.edit(&[("p.yaml", text)]);
        assert_eq!(
            world.snapshot.blocked().len(),
            usize::from(blocked),
            "{text}"
        );
        assert_eq!(world.permits(), !blocked, "{text}");
        world.edit(&[("p.yaml", &good_service())]);
        assert!(world.snapshot.blocked().is_empty() && world.permits());
        assert_eq!(world.status(), ["Service/shop/x current"]);
    }
}

#[test]
fn an_edit_that_makes_the_name_unreadable_keeps_the_object() {
    let edits = [
        ("name: x", "name: 5"),
        ("namespace: shop", "namespace: 5"),
        ("metadata:", "meta:"),
        ("kind: AuthorizationPolicy", "kind: AuthorisationPolicy"),
        ("kind: AuthorizationPolicy", "knd: AuthorizationPolicy"),
    ];
    for (from, to) in edits {
        let mut world = World::new();
        world.edit(&[("p.yaml", &good_policy())]);
        assert!(!world.permits());
        let bad = good_policy().replace(from, to);
        for _again in 0..2 {
            let problems = world.edit(&[("p.yaml", &bad)]);
            assert!(!problems.is_empty());
            let status = world.status();
            let stays = status
                .iter()
                .any(|s| s.starts_with("AuthorizationPolicy/shop/x "));
            assert!(stays, "{to}: {status:?}");
            assert!(!world.permits());
            assert!(world.snapshot.blocked().is_empty(), "{to}");
        }
        world.edit(&[("p.yaml", "{}")]);
        world.edit(&[("p.yaml", &good_service())]);
        assert!(world.permits(), "{to}");
    }
}

#[test]
fn the_second_of_one_key_is_refused() {
    let mut world = World::new();
    let other = good_service().replace("port: 80", "port: 81");
    let twice = format!("{}---\n{other}", good_service());
    let problems = world.edit(&[("a.yaml", &twice), ("b.yaml", &other)]);
    let message = "metadata.name: is defined at a.yaml:1 already, which serves";
    assert_eq!(
        problems,
        [
            format!("a.yaml:7: {message}"),
            format!("b.yaml:1: {message}")
        ]
    );
    assert_eq!(
        world.status(),
        [
            "Service (again)/shop/x.1 nothing",
            "Service (again)/shop/x.2 nothing",
            "Service/shop/x current",
        ]
    );
    let status = world.snapshot.status();
    assert_eq!(status[0].problems[0].severity, Severity::Refused);
    // The first is deleted: the second serves.
    assert_eq!(world.edit(&[("b.yaml", &other)]), [""; 0]);
    assert_eq!(world.status(), ["Service/shop/x current"]);
}

/// A file with a route of a Service that is mirrored to another.
fn mirrored(from: &str, to: &str) -> (Arc<str>, Content) {
    let text = format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: of-{from}, \
         namespace: shop}}, spec: {{parentRefs: [{{group: '', kind: Service, name: {from}}}], rules: \
         [{{backendRefs: [{{name: {from}, port: 80, filters: [{{type: RequestMirror, requestMirror: \
         {{backendRef: {{name: {to}, port: 80}}}}}}]}}]}}]}}}}"
    );
    (
        format!("{from}-{to}.yaml").into(),
        Content::Text(text.into()),
    )
}

/// The routes that are refused, in order, and why the last is.
fn refused_routes(files: Vec<(Arc<str>, Content)>) -> (Vec<String>, String) {
    let mut folder = Folder::new(SourceId::new("file:mesh"), defaults());
    let merged = folder.merge(files);
    let refused = merged.change.ops.iter().filter_map(|op| match op {
        Op::Refuse(key, Fallback::Absent, problems) => {
            let [problem] = &problems[..] else {
                panic!("{problems:?}");
            };
            let at = problem.location.as_ref().expect("a place");
            Some((
                key.to_string(),
                format!("{at} {}: {}", problem.field, problem.message),
            ))
        }
        _ => None,
    });
    let (keys, messages): (Vec<_>, Vec<_>) = refused.unzip();
    (keys, messages.into_iter().next_back().unwrap_or_default())
}

#[test]
fn the_route_that_closes_a_cycle_of_mirrors_is_refused() {
    let none = (Vec::new(), String::new());
    // Chains, and two ways to one Service, are none.
    let chain = vec![mirrored("a", "b"), mirrored("b", "c"), mirrored("d", "b")];
    assert_eq!(refused_routes(chain), none);
    let at =
        "spec.rules[0].backendRefs[0].filters[0].requestMirror.backendRef: is a cycle of mirrors";
    let two = vec![mirrored("a", "b"), mirrored("b", "a")];
    assert_eq!(
        refused_routes(two),
        (
            vec!["HTTPRoute/shop/of-b".to_owned()],
            format!("b-a.yaml:1 {at}: b.shop is mirrored to a.shop, and that to b.shop"),
        )
    );
    let three = vec![mirrored("c", "a"), mirrored("a", "b"), mirrored("b", "c")];
    let (keys, why) = refused_routes(three);
    assert_eq!(keys, ["HTTPRoute/shop/of-c"]);
    assert!(
        why.ends_with("c.shop is mirrored to a.shop, and that to b.shop, and that to c.shop"),
        "{why}"
    );
}

#[test]
fn a_route_that_closes_a_cycle_keeps_its_last_good_version() {
    let mut folder = Folder::new(SourceId::new("file:mesh"), defaults());
    let (file, good) = mirrored("b", "c");
    let (_, bad) = mirrored("b", "a");
    let mut statuses = Vec::new();
    let mut snapshot = Snapshot::new(Settings::new(
        Workload::new("shop", "web", "web").expect("names"),
        DefaultAction::Deny,
    ));
    for content in [good.clone(), bad, good] {
        let merged = folder.merge([mirrored("a", "b"), (Arc::clone(&file), content)]);
        snapshot = snapshot.apply(merged.change);
        let status = snapshot.status().into_iter();
        let of_b = status.filter(|s| s.object == "HTTPRoute/shop/of-b");
        statuses.extend(of_b.map(|s| s.serving));
    }
    assert_eq!(
        statuses,
        [Serving::Current, Serving::LastGood, Serving::Current]
    );
}
