//! Rules about what the code of a file may name: purity, panics, unsafe code, global state.

use super::source::{Kind, Source, Token, calls_macro, starts_with};
use super::violation::Violation;

/// The crates that other people link: they own nothing global and never panic on input.
const LIBRARIES: [&str; 4] = ["mesh-pki", "mesh-core", "mesh-discovery", "mesh-ebpf"];

pub(super) fn check(source: &Source<'_>) -> Vec<Violation> {
    let tokens = source.live_tokens();
    let mut found = Vec::new();
    found.extend(unfinished(source, &tokens));
    found.extend(debug_forms(source, &tokens));
    if is_pure(source) {
        found.extend(impure(source));
    }
    if source.is_in(&LIBRARIES) {
        found.extend(panics(source, &tokens));
        found.extend(globals(source, &tokens));
        found.extend(unsafe_allowed(source));
    }
    found
}

// === purity ===

/// Decisions take time and randomness as arguments and do no I/O.
///
/// A name says so in every crate but mesh-core, whose rooms are listed.
fn is_pure(source: &Source<'_>) -> bool {
    const CORE: [&str; 19] = [
        "mesh-core/src/accept/detect.rs",
        "mesh-core/src/authorize/canonical.rs",
        "mesh-core/src/authorize/decide.rs",
        "mesh-core/src/authorize/pattern.rs",
        "mesh-core/src/authorize/policy.rs",
        "mesh-core/src/authorize/reading.rs",
        "mesh-core/src/balance/decide.rs",
        "mesh-core/src/balance/eject.rs",
        "mesh-core/src/balance/health.rs",
        "mesh-core/src/balance/pick.rs",
        "mesh-core/src/balance/set.rs",
        "mesh-core/src/explain",
        "mesh-core/src/head.rs",
        "mesh-core/src/model",
        "mesh-core/src/plan",
        "mesh-core/src/plan.rs",
        "mesh-core/src/retry",
        "mesh-core/src/route",
        "mesh-core/src/snapshot",
    ];
    const NAMES: [&str; 6] = [
        "decide.rs",
        "index.rs",
        "merge.rs",
        "plan.rs",
        "schedule.rs",
        "sync.rs",
    ];
    const PATHS: [&str; 8] = [
        "mesh-pki/src/bundle/federate/address.rs",
        "mesh-pki/src/bundle/federate/mod.rs",
        "mesh-pki/src/bundle/federate/url.rs",
        "mesh-pki/src/bundle/jwks.rs",
        "mesh-pki/src/jwt/verify.rs",
        "mesh-pki/src/svid/validate.rs",
        "mesh-pki/src/workload_api/message.rs",
        "mesh-pki/src/workload_api/server/attest.rs",
    ];
    let name = source.name();
    if source.is_in(&["mesh-core"]) {
        // The store is what readers and the writer share: it swaps, it does not decide.
        return source.path() != "mesh-core/src/snapshot/store.rs"
            && (CORE.contains(&source.path()) || source.is_in(&CORE));
    }
    source.is_in(&LIBRARIES)
        && (NAMES.contains(&name)
            || name.starts_with("compile")
            || PATHS.contains(&source.path())
            || source.is_in(&[
                "mesh-discovery/src/manifest",
                "mesh-pki/src/ca/state",
                "mesh-pki/src/issue/policy",
            ]))
}

fn impure(source: &Source<'_>) -> Vec<Violation> {
    source
        .named_paths()
        .into_iter()
        .filter_map(|(line, path)| {
            let (why, todo) = impurity(&path)?;
            let what = format!("a pure file names `{}`", path.join("::"));
            Some(Violation::error(source.path(), line, what, why, todo))
        })
        .collect()
}

/// Why a path has no place in a pure file, and what to do instead.
fn impurity(path: &[&str]) -> Option<(&'static str, &'static str)> {
    let names = |pair: [&str; 2]| path.windows(2).any(|two| two == pair);
    if names(["Instant", "now"]) || names(["SystemTime", "now"]) {
        Some((
            "a decision that reads a clock cannot be simulated",
            "take `now` as an argument and read the clock in the driver",
        ))
    } else if path.len() > 1 && path[0] == "rand" {
        Some((
            "a decision that draws for itself cannot be replayed from a seed",
            "take a `Draw` as an argument and draw in the driver",
        ))
    } else if path.len() > 1 && matches!(path[0], "tokio" | "tokio_util") {
        Some((
            "decisions run without a runtime, in simulations and in `mesh explain`",
            "compute a value here and let the driver obey it",
        ))
    } else if path
        .iter()
        .any(|part| matches!(*part, "TcpListener" | "TcpStream" | "UdpSocket"))
    {
        Some((
            "a decision opens no socket",
            "compute a value here and let the driver do the I/O",
        ))
    } else if names(["std", "fs"]) || names(["std", "env"]) {
        Some((
            "a decision depends on its arguments alone",
            "read files and the environment in the driver and pass in what they said",
        ))
    } else {
        None
    }
}

// === panics ===

/// The shortest text that can say why an `expect` holds.
const SHORTEST_REASON: usize = 10;

fn panics(source: &Source<'_>, tokens: &[Token<'_>]) -> Vec<Violation> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let rest = &tokens[at..];
        let by_path = |owner| starts_with(rest, &[owner, ":", ":", "unwrap"]);
        if starts_with(rest, &[".", "unwrap", "(", ")"]) || by_path("Option") || by_path("Result") {
            found.push(Violation::error(
                source.path(),
                token.line,
                "`unwrap` in library code",
                "what a peer or a file can influence must never panic the host process",
                "return a typed error, or `expect(\"why it always holds\")` for an invariant visible on the spot",
            ));
        }
        let reasoned = rest.get(3).is_some_and(|argument| {
            argument.kind == Kind::Str && argument.text.chars().count() >= SHORTEST_REASON
        });
        if starts_with(rest, &[".", "expect", "("]) && !reasoned {
            found.push(Violation::error(
                source.path(),
                token.line,
                "`expect` without a reason",
                "a reader must see why it always holds",
                "give it a string literal that says so, or return a typed error",
            ));
        }
    }
    found
}

fn unfinished(source: &Source<'_>, tokens: &[Token<'_>]) -> Vec<Violation> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        if ["todo", "unimplemented"]
            .iter()
            .any(|name| calls_macro(&tokens[at..], name))
        {
            found.push(Violation::error(
                source.path(),
                token.line,
                format!("`{}!`", token.text),
                "nothing is exported that does not work",
                "finish it, or leave the item out until it works",
            ));
        }
    }
    found
}

// === what an operator reads ===

/// A field of an event that is shown by its `Debug`: `?field` or `name = ?value`. No other code has a
/// `?` behind a comma, a bracket or a sign.
fn debug_forms(source: &Source<'_>, tokens: &[Token<'_>]) -> Vec<Violation> {
    let begins = |pair: &&[Token<'_>]| {
        pair[1].kind != Kind::Str && pair[1].text == "?" && matches!(pair[0].text, "(" | "," | "=")
    };
    let found = tokens.windows(2).filter(begins).map(|pair| {
        Violation::error(
            source.path(),
            pair[1].line,
            "a field of an event in its `Debug` form",
            "a log is read by operators, and by programs that know no Rust",
            "give the type a `Display` and write `%field`; quote text of a peer by `field::debug`",
        )
    });
    found.collect()
}

// === unsafe code ===

fn unsafe_allowed(source: &Source<'_>) -> Vec<Violation> {
    let is_root = source.path().ends_with("/src/lib.rs");
    if !is_root || source.is_in(&["mesh-ebpf"]) || forbids_unsafe(source.all_tokens()) {
        return Vec::new();
    }
    vec![Violation::error(
        source.path(),
        1,
        "no `#![forbid(unsafe_code)]`",
        "only mesh-ebpf talks to the kernel by hand",
        "put it under the crate's documentation",
    )]
}

fn forbids_unsafe(tokens: &[Token<'_>]) -> bool {
    (0..tokens.len()).any(|at| {
        starts_with(&tokens[at..], &["#", "!", "[", "forbid", "("])
            && tokens[at + 5..]
                .iter()
                .take_while(|token| token.text != ")")
                .any(|token| token.text == "unsafe_code")
    })
}

// === global state ===

fn globals(source: &Source<'_>, tokens: &[Token<'_>]) -> Vec<Violation> {
    let mut found = Vec::new();
    for (line, path) in source.named_paths() {
        if let Some((why, todo)) = global(&path) {
            let what = format!("a library names `{}`", path.join("::"));
            found.push(Violation::error(source.path(), line, what, why, todo));
        }
    }
    for (at, token) in tokens.iter().enumerate() {
        if ["print", "println", "eprint", "eprintln", "dbg"]
            .iter()
            .any(|name| calls_macro(&tokens[at..], name))
        {
            found.push(Violation::error(
                source.path(),
                token.line,
                format!("a library uses `{}!`", token.text),
                "the output belongs to the program that embeds it",
                "use `tracing`, or return what is to be shown",
            ));
        }
    }
    found
}

/// Why a path is mesh-cli's alone, and what a library does instead.
fn global(path: &[&str]) -> Option<(&'static str, &'static str)> {
    let names = |pair: [&str; 2]| path.windows(2).any(|two| two == pair);
    let reads_env = [
        "args",
        "args_os",
        "remove_var",
        "set_var",
        "var",
        "var_os",
        "vars",
        "vars_os",
    ]
    .iter()
    .any(|function| names(["env", function]));
    if names(["process", "exit"]) || names(["process", "abort"]) {
        Some((
            "a library ends by returning",
            "return an error and let main choose the exit code",
        ))
    } else if reads_env {
        Some((
            "only mesh-cli touches what is global",
            "take the value as an argument of a constructor",
        ))
    } else if path.len() > 1 && path[0] == "tracing_subscriber" {
        Some((
            "the subscriber belongs to the program",
            "emit events with `tracing` and leave it there",
        ))
    } else if names(["tokio", "signal"]) {
        Some((
            "signals belong to the program",
            "take a drain signal as an argument",
        ))
    } else {
        None
    }
}
