//! Rules about the shape of functions, docs and lints.

use super::source::Source;
use super::violation::Violation;

/// The most lines of a function, from its signature to its closing brace.
const MOST: usize = 80;

pub(super) fn check(source: &Source<'_>) -> Vec<Violation> {
    let mut found = headings(source);
    if !source.is_generated() && source.path().contains("/src/") {
        found.extend(functions(source));
    }
    found
}

fn functions(source: &Source<'_>) -> Vec<Violation> {
    let long = source.live_functions().filter(|one| one.lines > MOST);
    long.map(|one| {
        Violation::error(
            source.path(),
            one.line,
            format!("`{}` has {} lines", one.name, one.lines),
            "a function of more than 80 lines does not fit a screen",
            "split it by step, or move its tables into constants",
        )
    })
    .collect()
}

/// A heading of a doc stands alone, as rustdoc's own examples have it.
fn headings(source: &Source<'_>) -> Vec<Violation> {
    let lines: Vec<&str> = source.text().lines().map(str::trim).collect();
    let crowded = lines.windows(2).enumerate().filter(|(_, two)| {
        ["///", "//!"]
            .iter()
            .any(|mark| two[0] == format!("{mark} # Errors") && two[1] != *mark)
    });
    crowded
        .map(|(at, _)| {
            Violation::error(
                source.path(),
                at + 1,
                "no blank line after `# Errors`",
                "one hand writes all docs",
                "put an empty doc line under it",
            )
        })
        .collect()
}

/// The workspace's manifest denies what has no docs.
pub(super) fn check_manifest(path: &str, text: &str) -> Option<Violation> {
    let lints = text.split("[workspace.lints.rust]").nth(1).unwrap_or("");
    let lints = lints.split("\n[").next().unwrap_or("");
    let denied = lints.lines().any(|line| line == "missing_docs = \"deny\"");
    (!denied).then(|| {
        Violation::error(
            path,
            1,
            "`missing_docs` is not denied",
            "a public item without a doc is not finished",
            "write `missing_docs = \"deny\"` under [workspace.lints.rust]",
        )
    })
}
