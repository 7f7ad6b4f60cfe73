use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use inmesh_core::model::Namespace;
use serde_json::Value as Json;

use super::Install;
use crate::inject::Sidecar;
use crate::layout::{OURS, SYSTEM};
use crate::manifest::strict::documents;
use crate::manifest::{Defaults, parse, to_yaml};

fn install() -> Install {
    let domain = "prod.example".parse().expect("a trust domain");
    let mut install = Install::new(Sidecar::new("registry.example/mesh:1.0", domain));
    install.sign = true;
    install
}

fn read(text: &str) -> Vec<Json> {
    let all = documents("it", text).expect("it is YAML");
    all.iter().map(|one| one.to_value()).collect()
}

/// Kind, namespace and name.
fn key(object: &Json) -> [String; 3] {
    let metadata = &object["metadata"];
    [&object["kind"], &metadata["namespace"], &metadata["name"]]
        .map(|value| value.as_str().unwrap_or_default().to_owned())
}

#[test]
fn what_others_name_is_there() {
    let all = install().objects();
    let keys: BTreeSet<_> = all.iter().map(key).collect();
    assert_eq!(keys.len(), all.len(), "one stands twice");
    let has = |kind: &str, namespace: &str, name: &Json| {
        let name = name.as_str().expect("a name").to_owned();
        assert!(
            keys.contains(&[kind.to_owned(), namespace.to_owned(), name.clone()]),
            "{kind} {namespace}/{name}"
        );
    };
    for object in &all {
        assert_eq!(object["metadata"]["labels"][OURS.0], OURS.1, "{object}");
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        match object["kind"].as_str().expect("a kind") {
            kind @ ("RoleBinding" | "ClusterRoleBinding") => {
                let of = object["roleRef"]["kind"].as_str().expect("a kind");
                assert_eq!(kind, format!("{of}Binding"));
                has(of, namespace, &object["roleRef"]["name"]);
                has("ServiceAccount", SYSTEM, &object["subjects"][0]["name"]);
            }
            "Deployment" => {
                let pod = &object["spec"]["template"];
                has(
                    "ServiceAccount",
                    namespace,
                    &pod["spec"]["serviceAccountName"],
                );
                let selector = object["spec"]["selector"]["matchLabels"].as_object();
                for (label, value) in selector.expect("it selects") {
                    assert_eq!(pod["metadata"]["labels"][label], *value);
                }
            }
            "MutatingWebhookConfiguration" => {
                let service = &object["webhooks"][0]["clientConfig"]["service"];
                has("Service", SYSTEM, &service["name"]);
                let of = all.iter().find(|one| {
                    one["kind"] == "Service" && one["metadata"]["name"] == service["name"]
                });
                let ports = of.expect("it is there")["spec"]["ports"].as_array();
                assert!(
                    ports
                        .expect("ports")
                        .iter()
                        .any(|port| port["port"] == service["port"])
                );
            }
            _ => {}
        }
    }
}

/// Nothing may ask for all of anything, and Secrets are the CA's alone, in one namespace.
#[test]
fn no_role_has_more_than_its_part_needs() {
    for object in install().objects() {
        for rule in object["rules"].as_array().into_iter().flatten() {
            for list in ["apiGroups", "resources", "verbs"] {
                let list = rule[list].as_array().expect("a list");
                assert!(
                    !list.is_empty() && list.iter().all(|one| one != "*"),
                    "{rule}"
                );
            }
            let secrets = rule["resources"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|one| one == "secrets");
            assert!(
                !secrets || key(&object) == ["Role", SYSTEM, "mesh-ca"],
                "{object}"
            );
        }
    }
}

/// The rules of a page, in one set.
fn rules<'a>(objects: impl IntoIterator<Item = &'a Json>) -> BTreeSet<String> {
    let of = objects
        .into_iter()
        .flat_map(|one| one["rules"].as_array().into_iter().flatten());
    of.flat_map(|rule| {
        let texts = |list: &str| -> Vec<String> {
            let list = rule[list].as_array().into_iter().flatten();
            list.map(|one| one.as_str().expect("a text").to_owned())
                .collect()
        };
        let mut names = texts("resourceNames");
        if names.is_empty() {
            names.push(String::new());
        }
        let mut all = Vec::new();
        for group in texts("apiGroups") {
            for resource in texts("resources") {
                for name in &names {
                    all.extend(
                        texts("verbs")
                            .iter()
                            .map(|verb| format!("{verb} {group}/{resource} {name}")),
                    );
                }
            }
        }
        all
    })
    .collect()
}

#[test]
fn the_roles_are_those_of_the_pages() {
    let page = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../mesh-cli/docs")
            .join(name);
        let text = fs::read_to_string(path).expect("the page");
        let blocks = text
            .split("```yaml\n")
            .skip(1)
            .map(|block| block.split("```").next().expect("it ends").to_owned());
        blocks
            .filter(|block| block.contains("rules:\n  - apiGroups"))
            .flat_map(|block| read(&block))
            .collect::<Vec<_>>()
    };
    let all = install().objects();
    let of = |names: &[&str]| {
        let ours = all
            .iter()
            .filter(|one| names.iter().any(|name| one["metadata"]["name"] == *name));
        rules(ours)
    };
    let mut written = rules(&page("ca.md"));
    written.insert("create authentication.k8s.io/tokenreviews ".into());
    assert_eq!(of(&["mesh-ca", "mesh-signer"]), written);
    assert_eq!(of(&["mesh-control"]), rules(&page("kubernetes.md")));
}

#[test]
fn our_own_readers_take_it() {
    let defaults = Defaults::new(Namespace::new("default").expect("a name"));
    for object in install().objects() {
        if ["CustomResourceDefinition", "MutatingWebhookConfiguration"]
            .contains(&object["kind"].as_str().expect("a kind"))
        {
            continue;
        }
        let parsed = parse("it", &to_yaml(&object), &defaults).expect("it is read");
        for entry in parsed.entries {
            let problems = format!("{:?}", entry.op);
            assert!(!problems.contains("Refuse"), "{problems}");
        }
    }
}

/// A template, with what Helm puts into it.
fn filled(text: &str, install: &Install) -> String {
    let domain = install.sidecar.trust_domain.to_string();
    let dashed = domain.replace(['.', '_'], "-");
    let mut text = text.to_owned();
    for (word, value) in [
        (
            "{{ .Values.trustDomain | replace `.` `-` | replace `_` `-` }}",
            &*dashed,
        ),
        ("{{ .Release.Namespace }}", &install.sidecar.system),
        ("{{ .Values.trustDomain }}", &domain),
        ("{{ .Values.image }}", &install.sidecar.image),
        ("{{ .Values.imagePullPolicy }}", &install.sidecar.pull),
        (
            "{{ .Values.peers }}",
            if install.sidecar.strict {
                "strict"
            } else {
                "permissive"
            },
        ),
        ("{{ .Values.replicas }}", &install.replicas.to_string()),
        ("{{ .Values.podCertificates }}", &install.sign.to_string()),
        ("{{- if .Values.podCertificates }}", ""),
        ("{{- end }}", ""),
    ] {
        text = text.replace(word, value);
    }
    assert!(!text.contains("{{"), "{text}");
    text
}

#[test]
fn the_chart_has_the_same_documents() {
    let mut install = install();
    install.sidecar.strict = true;
    install.sidecar.system = "mesh-two".into();
    install.replicas = 3;
    let files = install.chart("1.2.3");
    let documents = files.iter().filter(|file| file.path.contains('/'));
    let mut charted: Vec<_> = documents
        .flat_map(|file| read(&filled(&file.text, &install)))
        .collect();
    let objects = install.objects();
    let mut installed: Vec<_> = objects
        .into_iter()
        .filter(|one| one["kind"] != "Namespace")
        .collect();
    charted.sort_by_key(key);
    installed.sort_by_key(key);
    assert_eq!(charted.len(), installed.len());
    for (charted, installed) in charted.iter().zip(&installed) {
        assert_eq!(charted, installed);
    }

    let text = |path: &str| {
        &files
            .iter()
            .find(|file| file.path == path)
            .expect("it is there")
            .text
    };
    let values = read(text("values.yaml")).remove(0);
    let schema: Json = serde_json::from_str(text("values.schema.json")).expect("it is JSON");
    let known = schema["properties"].as_object().expect("a mapping");
    let values = values.as_object().expect("a mapping");
    assert_eq!(values["trustDomain"], "prod.example");
    assert!(values.keys().all(|name| known.contains_key(name)));
    assert_eq!(values.len() + 1, known.len(), "and global");
    assert_eq!(read(text("Chart.yaml"))[0]["version"], "1.2.3");
}
