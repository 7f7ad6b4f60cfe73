//! Rules about where files stand.

use std::collections::BTreeSet;

use super::violation::Violation;

pub(super) fn check(paths: &[&str]) -> Vec<Violation> {
    let mut found = top_level(paths);
    found.extend(module_style(paths));
    found.extend(stages(paths));
    found
}

/// The top level is the map of the house: nothing but what the design names.
fn top_level(paths: &[&str]) -> Vec<Violation> {
    const NAMES: [&str; 14] = [
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Cargo.lock",
        "Cargo.toml",
        "README.md",
        "examples",
        "findings",
        "fuzz",
        "mesh-cli",
        "mesh-core",
        "mesh-discovery",
        "mesh-ebpf",
        "mesh-pki",
    ];
    let tops: BTreeSet<&str> = paths
        .iter()
        .filter_map(|path| path.split('/').next())
        .collect();
    tops.into_iter()
        .filter(|top| {
            let is_file = paths.contains(top);
            !(NAMES.contains(top)
                || top.starts_with('.')
                || top.starts_with("LICENSE-")
                || (is_file && top.ends_with(".toml")))
        })
        .map(|top| {
            Violation::error(
                top,
                1,
                "stands at the top level",
                "the top level holds the fixed names of the design and nothing else",
                "move it into the crate it belongs to; pages for users live in mesh-cli/docs",
            )
        })
        .collect()
}

/// A module with children is `foo/mod.rs`, never `foo.rs` beside `foo/`.
fn module_style(paths: &[&str]) -> Vec<Violation> {
    paths
        .iter()
        .filter(|path| path.contains("/src/"))
        .filter_map(|path| Some((path, path.strip_suffix(".rs")?)))
        .filter(|(_, module)| {
            let folder = format!("{module}/");
            paths
                .iter()
                .any(|other| other.starts_with(&folder) && other.ends_with(".rs"))
        })
        .map(|(path, _)| {
            Violation::error(
                path,
                1,
                "a module file beside its folder",
                "a folder is a stage or a noun, and its mod.rs says what goes in and comes out",
                "move it to mod.rs in the folder of the same name",
            )
        })
        .collect()
}

/// Every decision stage has the same three files; its tests may be a folder.
fn stages(paths: &[&str]) -> Vec<Violation> {
    const STAGES: [&str; 3] = ["authorize", "balance", "route"];
    const FILES: [&str; 3] = ["mod.rs", "decide.rs", "tests.rs"];
    STAGES
        .iter()
        .flat_map(|stage| {
            FILES
                .iter()
                .map(move |file| format!("mesh-core/src/{stage}/{file}"))
        })
        .filter(|path| {
            let folder = path.replace("/tests.rs", "/tests/mod.rs");
            !paths.contains(&path.as_str()) && !paths.contains(&folder.as_str())
        })
        .map(|path| {
            Violation::error(
                &path,
                1,
                "is missing",
                "every decision stage has mod.rs, decide.rs (pure) and tests.rs",
                "add it, so that a reader of one stage finds the way in all",
            )
        })
        .collect()
}
