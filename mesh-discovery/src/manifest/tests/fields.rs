//! Every field that the readers ask for: none of them is ever called unknown, and the page of
//! documents lists them all.

use std::fmt::Write;
use std::path::PathBuf;

use inmesh_core::snapshot::Op;
use serde_json::{Value as Json, json};

use super::super::kind::{READ, READ_EXACTLY, READ_ROUTES, Whose, whose};
use super::super::samples::samples;
use super::super::{Use, capabilities};
use super::{FILE, defaults, parse};

const MARK: &str = "<!-- generated: the fields of documents -->";

fn tables() -> String {
    let mut out = String::new();
    for kind in capabilities() {
        let (version, name) = (&kind.api_versions[0], &kind.kind);
        let _written = write!(
            out,
            "\n### `{version} {name}`\n\n| in | read | known, without effect | refuses the object |\n\
             | --- | --- | --- | --- |\n",
        );
        let mut places: Vec<&str> = kind.fields.iter().map(|field| &*field.place).collect();
        places.dedup();
        for place in places {
            let list = |what: Use| {
                let here = kind.fields.iter();
                let here = here.filter(|field| field.place == place && field.what == what);
                let names: Vec<_> = here.map(|field| format!("`{}`", field.name)).collect();
                names.join(", ")
            };
            let place = match place {
                "" => "the document".to_owned(),
                place => format!("`{place}`"),
            };
            let _written = writeln!(
                out,
                "| {place} | {} | {} | {} |",
                list(Use::Used),
                list(Use::Ignored),
                list(Use::Refused)
            );
        }
    }
    out
}

/// A sample that is refused would hide fields, and one that is no kind of its own would hide all.
#[test]
fn every_sample_is_good_and_every_kind_that_is_read_has_one() {
    let mut kinds = Vec::new();
    for sample in samples() {
        let parsed = parse(FILE, &sample.to_string(), &defaults()).expect("it is JSON");
        let [entry] = &parsed.entries[..] else {
            panic!("not one object: {sample}");
        };
        assert!(matches!(&entry.op, Op::Put(..)), "{:#?}", entry.op);
        kinds.push(entry.key.kind.to_string());
    }
    kinds.sort();
    kinds.dedup();
    let mut read = [READ, READ_EXACTLY, READ_ROUTES].concat();
    read.sort_unstable();
    assert_eq!(kinds, read);
    let all = capabilities();
    let routes = all
        .iter()
        .find(|kind| kind.kind == "HTTPRoute")
        .expect("it is read");
    let api = "gateway.networking.k8s.io";
    assert_eq!(
        routes.api_versions,
        [format!("{api}/v1"), format!("{api}/v1beta1")]
    );
    let what = |kind: &str, place: &str, name: &str| {
        let kind = all.iter().find(|of| of.kind == kind)?;
        let mut fields = kind.fields.iter();
        let found = fields.find(|f| f.place == place && f.name == name);
        found.map(|field| field.what)
    };
    assert_eq!(what("HTTPRoute", "spec", "rules"), Some(Use::Used));
    assert_eq!(what("HTTPRoute", "metadata", "uid"), Some(Use::Ignored));
    let when = what("AuthorizationPolicy", "spec.rules[]", "when");
    assert_eq!(when, Some(Use::Refused));
    assert_eq!(what("HTTPRoute", "spec", "none"), None);
}

/// With `MESH_WRITE_DOCS=1` it writes the page instead.
#[test]
fn the_page_lists_every_field() {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../mesh-cli/docs/documents.md");
    let text = std::fs::read_to_string(&page).expect("the page is there");
    let (before, after) = text.split_once(MARK).expect("the mark is there");
    let (_, after) = after.split_once(MARK).expect("it stands twice");
    let wanted = format!("{before}{MARK}\n{}\n{MARK}{after}", tables());
    if std::env::var_os("MESH_WRITE_DOCS").is_some() {
        std::fs::write(&page, wanted).expect("the page is written");
        return;
    }
    assert!(
        text == wanted,
        "the readers ask for other fields than mesh-cli/docs/documents.md lists; write it anew with \
         MESH_WRITE_DOCS=1 cargo test -p inmesh-discovery the_page_lists_every_field"
    );
}

/// Whatever stands in one of its fields, or where one is missing, no other is called unknown.
#[test]
fn a_known_field_is_never_unknown() {
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
                    places(item, &format!("{at}/{n}"), found);
                }
            }
            _ => {}
        }
    }
    let values = [
        json!(null),
        json!(5),
        json!(""),
        json!("x"),
        json!(true),
        json!([]),
        json!({}),
        json!([{}]),
        json!([5]),
    ];
    let mut wrong = Vec::new();
    for sample in samples() {
        let mut found = Vec::new();
        places(&sample, "", &mut found);
        // What kind a document is decides which fields it has.
        found.retain(|at| !matches!(&**at, "/apiVersion" | "/kind"));
        for at in &found {
            for value in values.iter().map(Some).chain([None]) {
                let mut text = sample.clone();
                match value {
                    Some(value) => *text.pointer_mut(at).expect("it is there") = value.clone(),
                    None => {
                        let (parent, name) = at.rsplit_once('/').expect("a path");
                        let name = name.replace("~1", "/").replace("~0", "~");
                        let parent = text.pointer_mut(parent).and_then(Json::as_object_mut);
                        parent.expect("it is a mapping").remove(&name);
                    }
                }
                let parsed = parse(FILE, &text.to_string(), &defaults()).expect("it is JSON");
                for entry in &parsed.entries {
                    let (Op::Put(_, problems) | Op::Refuse(_, _, problems)) = &entry.op else {
                        continue;
                    };
                    let unknown = problems
                        .iter()
                        .find(|p| p.message.contains("not a known field"));
                    wrong.extend(unknown.map(|p| format!("{at} = {value:?}: {}", p.field)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The kinds that the page names, and what becomes of them.
#[test]
fn the_page_names_the_kinds() {
    let page = include_str!("../../../../mesh-cli/docs/documents.md");
    for (version, kind) in [
        ("v1", "Service"),
        ("discovery.k8s.io/v1", "EndpointSlice"),
        ("gateway.networking.k8s.io/v1", "GRPCRoute"),
        ("gateway.networking.k8s.io/v1", "TCPRoute"),
        ("gateway.networking.k8s.io/v1alpha2", "TCPRoute"),
        ("gateway.networking.k8s.io/v1", "TLSRoute"),
        ("gateway.networking.k8s.io/v1alpha3", "TLSRoute"),
        ("gateway.networking.k8s.io/v1alpha2", "TLSRoute"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
        ("gateway.networking.k8s.io/v1beta1", "HTTPRoute"),
        ("security.istio.io/v1", "AuthorizationPolicy"),
        ("security.istio.io/v1beta1", "AuthorizationPolicy"),
        ("inmesh.dev/v1alpha1", "AuthorizationPolicy"),
    ] {
        assert!(
            matches!(whose(Some(version), Some(kind)), Whose::Ours(_)),
            "{version} {kind}"
        );
        let (group, _) = version.rsplit_once('/').unwrap_or(("", version));
        let row = page.lines().find(|line| {
            line.starts_with('|') && line.contains(group) && line.contains(&format!("`{kind}`"))
        });
        let row = row.unwrap_or_else(|| panic!("{version} {kind} is not on the page"));
        let version = version.rsplit('/').next().unwrap_or_default();
        assert!(row.contains(&format!("`{version}`")), "{row}: {version}");
    }
}
