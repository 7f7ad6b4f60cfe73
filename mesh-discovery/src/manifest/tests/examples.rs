//! The example documents of the Gateway API's own repository, each with the verdict that it is there for:
//! those under `examples` are applied, those under `invalid-examples` are refused. They are attached to
//! gateways; here each is attached to a Service instead, so that it is read to its end.

use std::fs;
use std::path::{Path, PathBuf};

use inmesh_core::snapshot::{Op, Severity};

use super::super::strict::documents;
use super::{defaults, parse};

/// Kinds of routes that are read.
const READ: &[&str] = &["GRPCRoute", "HTTPRoute", "TCPRoute", "TLSRoute"];

/// The files below a folder, in order.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|end| end == "yaml") {
            found.push(path);
        }
    }
}

/// A document whose parents are one Service.
fn attached(document: &str) -> String {
    let mut out = String::new();
    let mut in_parents = false;
    for line in document.lines() {
        in_parents &= line.starts_with("   ") || line.starts_with("  -");
        if line.starts_with("  parentRefs:") {
            in_parents = true;
        }
        if in_parents {
            continue;
        }
        out.push_str(line);
        out.push('\n');
        if line.trim_end() == "spec:" {
            out.push_str("  parentRefs: [{group: '', kind: Service, name: parent}]\n");
        }
    }
    out
}

/// Each route below a folder with where it stands, and why it is refused; empty if it is applied.
fn verdicts(folder: &Path) -> Vec<(String, Vec<String>)> {
    let (mut all, mut found) = (Vec::new(), Vec::new());
    files(folder, &mut found);
    for path in found {
        let name = path
            .strip_prefix(folder)
            .expect("below it")
            .display()
            .to_string();
        let text = fs::read_to_string(&path).expect("a text");
        for part in text.split("\n---") {
            // A part may be a comment alone.
            let kinds = documents(&name, part).unwrap_or_default();
            let Some(kind) = kinds.first().and_then(|document| document.kind()) else {
                continue;
            };
            if !READ.contains(&kind) {
                continue;
            }
            let parsed = parse(&name, &attached(part), &defaults()).expect("it parses");
            let [entry] = &parsed.entries[..] else {
                panic!("{name}: {parsed:#?}");
            };
            let why = match &entry.op {
                Op::Refuse(_, _, problems) => {
                    let refused = problems.iter().filter(|p| p.severity == Severity::Refused);
                    refused.map(ToString::to_string).collect()
                }
                _ => Vec::new(),
            };
            all.push((name.clone(), why));
        }
    }
    all
}

#[test]
fn examples_have_the_verdict_that_they_are_there_for() {
    let folder = std::env::var_os("MESH_FIXTURES").map(PathBuf::from);
    let folder = folder.map(|folder| folder.join("gateway-api"));
    let folders = folder.map(|f| [f.join("examples"), f.join("invalid-examples")]);
    let Some([valid, invalid]) = folders.filter(|f| f.iter().all(|f| f.is_dir())) else {
        println!("skipped: MESH_FIXTURES has no examples of the Gateway API");
        return;
    };
    let valid = verdicts(&valid);
    assert!(valid.len() > 50, "{} examples", valid.len());
    let unexpected: Vec<_> = valid.iter().filter(|(_, why)| !why.is_empty()).collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
    let invalid = verdicts(&invalid);
    assert!(invalid.len() > 15, "{} examples", invalid.len());
    let applied: Vec<_> = invalid.iter().filter(|(_, why)| why.is_empty()).collect();
    assert!(applied.is_empty(), "{applied:#?}");
}
