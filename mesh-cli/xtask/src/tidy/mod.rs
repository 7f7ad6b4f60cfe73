//! `tidy` holds the tree to the design's invariants.
//!
//! In: the files that git knows (or would add) and the dependency graph that cargo prints.
//! Out: one line for each violation, `path:line: what, why, what to do`, and the exit code.
//!
//! Every rule is a pure function from a file's text, the list of paths or cargo's output to
//! violations, so each is tested on snippets. Rust is tokenised just enough (see [`source`]) that
//! a comment or a string never trips a rule. What needs types (an aliased `Instant`, a re-exported
//! function) is clippy's to find: see `clippy.toml`.

mod code;
mod graph;
mod layout;
mod size;
mod source;

use std::fmt;
use std::path::Path;
use std::process::{Command, ExitCode};

use source::Source;

/// The crates that other people link: they own nothing global and never panic on input.
const LIBRARIES: [&str; 4] = ["mesh-pki", "mesh-core", "mesh-discovery", "mesh-ebpf"];

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
        let text = if path.ends_with(".rs") {
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
    let sources: Vec<Source<'_>> = files
        .iter()
        .filter(|(path, _)| path.ends_with(".rs"))
        .map(|(path, text)| Source::parse(path, text))
        .collect();
    // A `#[cfg(test)] mod fixtures;` makes the whole of fixtures.rs test code.
    let test_only: Vec<String> = sources.iter().flat_map(Source::test_only_paths).collect();
    for source in &sources {
        let is_test = source.is_test_file()
            || test_only.iter().any(|path| {
                source.path() == format!("{path}.rs")
                    || source.path().starts_with(&format!("{path}/"))
            });
        found.extend(size::check(source, is_test));
        if !is_test {
            found.extend(code::check(source));
        }
    }
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

/// One finding: where, what, why it matters and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Violation {
    path: String,
    line: usize,
    severity: Severity,
    what: String,
    why: &'static str,
    todo: &'static str,
}

/// Only an error fails the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Severity {
    Error,
    Note,
}

impl Violation {
    fn error(
        path: &str,
        line: usize,
        what: impl Into<String>,
        why: &'static str,
        todo: &'static str,
    ) -> Self {
        Self {
            path: path.to_owned(),
            line,
            severity: Severity::Error,
            what: what.into(),
            why,
            todo,
        }
    }

    fn note(
        path: &str,
        line: usize,
        what: impl Into<String>,
        why: &'static str,
        todo: &'static str,
    ) -> Self {
        Self {
            severity: Severity::Note,
            ..Self::error(path, line, what, why, todo)
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            severity,
            what,
            why,
            todo,
        } = self;
        let note = if *severity == Severity::Note {
            "note: "
        } else {
            ""
        };
        write!(f, "{path}:{line}: {note}{what}; {why}; {todo}")
    }
}

#[cfg(test)]
mod tests;
