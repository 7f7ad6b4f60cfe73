//! The schemas of the Gateway API's own kinds: each of their fields is listed by `capabilities`.

use std::path::PathBuf;

use super::super::strict::{Unknown, Value, documents};
use super::super::{Use, capabilities};

/// Adds the fields of a schema that stands for the mapping `at`: the mapping, and the name.
fn walk(schema: &Value<'_>, at: &str, out: &mut Vec<(String, String)>) {
    for (name, value) in entries(schema, "properties") {
        out.push((at.to_owned(), name.to_owned()));
        let (mut schema, mut at) = (value, format!("{at}.{name}"));
        while let Some((_, items)) = entry(&schema, "items") {
            at.push_str("[]");
            schema = items;
        }
        walk(&schema, &at, out);
    }
}

fn entry<'t>(of: &Value<'t>, name: &str) -> Option<(&'t str, Value<'t>)> {
    of.entries()?.into_iter().find(|(of, _)| *of == name)
}

fn entries<'t>(of: &Value<'t>, name: &str) -> Vec<(&'t str, Value<'t>)> {
    let found = entry(of, name);
    found
        .and_then(|(_, value)| value.entries())
        .unwrap_or_default()
}

/// The fields of `spec` of each version of a kind, with the kind.
fn fields_of(file: &str, text: &str) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for document in documents(file, text).expect("it is YAML") {
        if document.kind() != Some("CustomResourceDefinition") {
            continue;
        }
        let read = document.read(Unknown::Warn, |fields| {
            let spec = fields.get("spec")?;
            let (_, names) = entry(&spec, "names")?;
            let (_, kind) = entry(&names, "kind")?;
            let (_, versions) = entry(&spec, "versions")?;
            for version in versions.list_or_empty()? {
                let mut all = Vec::new();
                let (_, schema) = entry(&version, "schema")?;
                let (_, schema) = entry(&schema, "openAPIV3Schema")?;
                for (name, schema) in entries(&schema, "properties") {
                    if name == "spec" {
                        walk(&schema, "spec", &mut all);
                    }
                }
                let kind = kind.text()?;
                found.extend(
                    all.into_iter()
                        .map(|(at, name)| (kind.to_owned(), at, name)),
                );
            }
            Some(())
        });
        read.unwrap_or_else(|problems| panic!("{file}: {problems:?}"));
    }
    found
}

#[test]
fn each_field_of_the_schemas_has_its_use() {
    let folder = std::env::var_os("MESH_FIXTURES").map(PathBuf::from);
    let folder = folder.map(|folder| folder.join("gateway-api"));
    let Some(folder) = folder.filter(|folder| folder.join("crd-standard").is_dir()) else {
        println!("skipped: MESH_FIXTURES has no schemas of the Gateway API");
        return;
    };
    let all = capabilities();
    let (mut missing, mut looked) = (Vec::new(), 0);
    for channel in ["crd-standard", "crd-experimental"] {
        let files = std::fs::read_dir(folder.join(channel)).expect("a folder");
        for file in files {
            let path = file.expect("a file").path();
            let text = std::fs::read_to_string(&path).expect("a text");
            for (kind, place, name) in fields_of(&path.display().to_string(), &text) {
                let Some(of) = all.iter().find(|of| of.kind == kind) else {
                    continue;
                };
                looked += 1;
                // What stands in a field that is not read is not looked at.
                let listed = of.fields.iter().any(|field| {
                    let whole = format!("{}.{}", field.place, field.name);
                    let below = place.strip_prefix(&whole).is_some_and(|rest| {
                        rest.is_empty() || rest.starts_with('.') || rest.starts_with("[]")
                    });
                    let here = field.place == place && field.name == name;
                    here || (below && field.what != Use::Used)
                });
                if !listed {
                    missing.push(format!("{channel} {kind} {place}.{name}"));
                }
            }
        }
    }
    assert!(looked > 900, "{looked} fields");
    assert_eq!(missing, [""; 0]);
}
