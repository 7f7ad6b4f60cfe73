//! `tidy` holds the tree to the design's invariants.
//!
//! In: the files that git knows (or would add) and the dependency graph that cargo prints.
//! Out: one line for each violation, `path:line: what, why, what to do`, and the exit code.
//!
//! Every rule is a pure function from a file's text, the list of paths or cargo's output to
//! violations, so each is tested on snippets. Rust is lexed and parsed (see [`source`]), so that a
//! comment or a string never trips a rule about code. What needs types (an aliased `Instant`, a re-exported
//! function) is clippy's to find: see `clippy.toml`.

mod circle;
mod code;
mod graph;
mod layout;
mod shape;
mod size;
mod source;
mod violation;
mod words;

use std::path::Path;
use std::process::{Command, ExitCode};

use source::Source;
use violation::{Severity, Violation};

/// Runs every rule over this workspace and prints what it finds.
pub(crate) fn run() -> ExitCode {
    match check_workspace() {
        Ok(found) => report(&found),
        Err(reason) => {
            eprintln!("tidy could not look: {reason}");
            ExitCode::from(2)
        }
    }
}

fn report(found: &[Violation]) -> ExitCode {
    for violation in found {
        println!("{violation}");
    }
    let errors = found
        .iter()
        .filter(|violation| violation.severity == Severity::Error)
        .count();
    println!("tidy: {errors} errors, {} notes", found.len() - errors);
    if errors == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn check_workspace() -> Result<Vec<Violation>, String> {
    // The manifest of this package is at mesh-cli/xtask in the workspace.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .ok_or("xtask is not two folders below the workspace")?;
    let listed = output(
        root,
        "git",
        &[
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ],
    )?;
    let mut files = Vec::new();
    for path in listed.split('\0').filter(|path| root.join(path).is_file()) {
        let text = if path.ends_with(".rs") || path.ends_with(".md") || path == "Cargo.toml" {
            std::fs::read_to_string(root.join(path)).map_err(|e| format!("{path}: {e}"))?
        } else {
            String::new()
        };
        files.push((path.to_owned(), text));
    }
    if files.is_empty() {
        return Err("git lists no files".into());
    }

    let mut found = check_files(&files);
    for rule in graph::RULES {
        found.extend(rule.check(&output(root, "cargo", &rule.arguments())?));
    }
    found.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    Ok(found)
}

/// Every rule that needs only paths and texts.
fn check_files(files: &[(String, String)]) -> Vec<Violation> {
    let paths: Vec<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
    let mut found = layout::check(&paths);
    for (path, text) in files {
        if path.ends_with(".md") {
            found.extend(words::check_page(path, text));
        } else if path == "Cargo.toml" {
            found.extend(shape::check_manifest(path, text));
        }
    }
    let mut sources = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| path.ends_with(".rs")) {
        match Source::parse(path, text) {
            Ok(source) => sources.push(source),
            Err(violation) => found.push(violation),
        }
    }
    // A `#[cfg(test)] mod fixtures;` makes the whole of fixtures.rs test code.
    let test_only: Vec<String> = sources.iter().flat_map(Source::test_only_paths).collect();
    let mut live = Vec::new();
    for source in &sources {
        let is_test = source.is_test_file()
            || test_only.iter().any(|path| {
                source.path() == format!("{path}.rs")
                    || source.path().starts_with(&format!("{path}/"))
            });
        found.extend(size::check(source, is_test));
        found.extend(words::check_source(source));
        if !is_test {
            found.extend(code::check(source));
            found.extend(shape::check(source));
            live.push(source);
        }
    }
    found.extend(circle::check(&live));
    found
}

fn output(root: &Path, program: &str, arguments: &[&str]) -> Result<String, String> {
    let shown = || format!("{program} {}", arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root)
        .output()
        .map_err(|e| format!("{}: {e}", shown()))?;
    if !output.status.success() {
        return Err(format!(
            "{}: {}",
            shown(),
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    String::from_utf8(output.stdout).map_err(|e| format!("{}: {e}", shown()))
}

#[cfg(test)]
mod tests;
