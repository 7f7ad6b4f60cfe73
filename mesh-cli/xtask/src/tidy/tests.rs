//! Each rule has an example that passes and one that fails.

use super::*;

/// The three files of every stage, so that a test about something else sees no missing file.
fn house() -> Vec<(String, String)> {
    let mut files = vec![(
        "mesh-core/src/lib.rs".to_owned(),
        "#![forbid(unsafe_code)]".to_owned(),
    )];
    for stage in ["authorize", "balance", "route"] {
        for file in ["mod.rs", "decide.rs", "tests.rs"] {
            files.push((format!("mesh-core/src/{stage}/{file}"), String::new()));
        }
    }
    files
}

/// What tidy says about one more file in an otherwise clean house, as `line: what`.
fn found(path: &str, text: &str) -> Vec<String> {
    let mut files = house();
    files.retain(|(other, _)| other != path);
    files.push((path.to_owned(), text.to_owned()));
    check_files(&files)
        .iter()
        .map(|v| format!("{}: {}", v.line, v.what))
        .collect()
}

#[track_caller]
fn passes(path: &str, text: &str) {
    assert_eq!(found(path, text), Vec::<String>::new(), "{path}: {text}");
}

#[track_caller]
fn fails(path: &str, text: &str, expected: &str) {
    assert_eq!(found(path, text), [expected], "{path}: {text}");
}

const DECIDE: &str = "mesh-core/src/route/decide.rs";
const DRIVER: &str = "mesh-core/src/connect/tcp.rs";

// === purity ===

#[test]
fn pure_files_know_no_runtime_clock_dice_socket_file_or_environment() {
    for (code, named) in [
        ("fn f() { tokio::spawn(async {}); }", "tokio::spawn"),
        (
            "use tokio_util::sync::CancellationToken;",
            "tokio_util::sync::CancellationToken",
        ),
        (
            "fn f() { let t = std::time::Instant::now(); }",
            "std::time::Instant::now",
        ),
        ("fn f() { let t = Instant :: now(); }", "Instant::now"),
        ("fn f() { let t = SystemTime::now(); }", "SystemTime::now"),
        ("fn f() { let r: u8 = rand::random(); }", "rand::random"),
        ("use std::net::{IpAddr, TcpStream};", "std::net::TcpStream"),
        ("use std::net::TcpListener as L;", "std::net::TcpListener"),
        ("fn f(s: &UdpSocket) {}", "UdpSocket"),
        ("use std::{collections::BTreeMap, fs};", "std::fs"),
        ("use std::{fmt, env::{self}};", "std::env"),
        ("fn f() { std::fs::read(\"x\"); }", "std::fs::read"),
    ] {
        fails(DECIDE, code, &format!("1: a pure file names `{named}`"));
        passes(DRIVER, code);
    }
    passes(
        DECIDE,
        "use std::time::{Duration, Instant}; fn f(now: Instant, rand: u64) -> u64 { rand }",
    );
}

#[test]
fn purity_follows_the_list_of_files() {
    let code = "use tokio::task;";
    for path in [
        "mesh-pki/src/svid/validate.rs",
        "mesh-pki/src/rotate/schedule.rs",
        "mesh-core/src/authorize/canonical.rs",
        "mesh-core/src/balance/eject.rs",
        "mesh-core/src/model/snapshot.rs",
        "mesh-core/src/model/change.rs",
        "mesh-core/src/route/split.rs",
        "mesh-discovery/src/manifest/kinds/service.rs",
        "mesh-discovery/src/dns/plan.rs",
        "mesh-discovery/src/kube/index.rs",
        "mesh-discovery/src/cluster/merge.rs",
        "mesh-ebpf/src/compile_policy.rs",
        "mesh-ebpf/src/sync.rs",
    ] {
        fails(path, code, "1: a pure file names `tokio::task`");
    }
    passes("mesh-discovery/src/kube/watch.rs", code);
    passes("mesh-cli/src/cmd/validate.rs", code);
}

#[test]
fn comments_strings_and_tests_do_not_count() {
    passes(
        DECIDE,
        r##"
        //! Never tokio::spawn, never Instant::now().
        /* nor /* nested */ rand::random() */
        /// ```
        /// x.unwrap(); println!("doc");
        /// ```
        const A: &str = "tokio::spawn \" .unwrap()";
        const B: &str = r#"std::fs " .unwrap()"#;
        const C: &[u8] = b"std::env::var"; const D: char = '"'; const E: char = '\'';
        fn f<'a>(x: &'a str) -> &'a str { x }
        #[cfg(test)]
        mod checks { use tokio::time; fn g() { Some(1).unwrap(); } }
        #[cfg(all(test, unix))]
        fn h<A, B>(a: A) -> Option<B> { std::fs::read("x").unwrap() }
        "##,
    );
    fails(
        DECIDE,
        "#[cfg(test)]\nuse tokio::time;\n#[cfg(not(test))]\nfn f() { tokio::spawn(x) }",
        "4: a pure file names `tokio::spawn`",
    );
    fails(
        DECIDE,
        "const A: &str = \"a\nb\";\n/* c\n */ fn f(x: &'static str) { x.unwrap() }",
        "4: `unwrap` in library code",
    );
}

#[test]
fn a_module_declared_for_tests_is_test_code() {
    let mut files = house();
    files.push((
        "mesh-core/src/connect/mod.rs".into(),
        "#[cfg(test)]\nmod fixtures;".into(),
    ));
    files.push((
        "mesh-core/src/connect/fixtures.rs".into(),
        "fn f() { x.unwrap() }".into(),
    ));
    assert_eq!(check_files(&files), []);

    passes("mesh-core/src/connect/tests.rs", "fn f() { x.unwrap() }");
    passes("mesh-core/tests/drain.rs", "fn f() { x.unwrap() }");
    passes(
        "mesh-core/benches/decide.rs",
        "fn f() { x.unwrap(); println!() }",
    );
    passes(DRIVER, "#![cfg(test)]\nfn f() { x.unwrap() }");
}

// === panics ===

#[test]
fn libraries_do_not_unwrap() {
    fails(
        DRIVER,
        "fn f() {\n  x\n    .unwrap();\n}",
        "3: `unwrap` in library code",
    );
    fails(
        DRIVER,
        "fn f() { x.map(Result::unwrap); }",
        "1: `unwrap` in library code",
    );
    passes(DRIVER, "fn f() { x.unwrap_or(1); x.unwrap_or_default(); }");
    passes("mesh-cli/src/main.rs", "fn f() { x.unwrap() }");
}

#[test]
fn expect_carries_a_reason() {
    fails(
        DRIVER,
        "fn f() { x.expect(\"short\"); }",
        "1: `expect` without a reason",
    );
    fails(
        DRIVER,
        "fn f() { x.expect(&reason); }",
        "1: `expect` without a reason",
    );
    passes(
        DRIVER,
        "#[expect(lint, reason = \"r\")] fn f() { x.expect(\"the set is never empty\"); }",
    );
    passes(
        DRIVER,
        "fn f() { x.expect(\n  r#\"the \"set\" is never empty\"#,\n); }",
    );
}

#[test]
fn no_event_shows_a_field_in_its_debug_form() {
    let what = "1: a field of an event in its `Debug` form";
    fails(DRIVER, "fn f() { tracing::info!(?pause, \"a\") }", what);
    fails(DRIVER, "fn f() { info!(%id, pause = ?pause, \"a\") }", what);
    passes(
        DRIVER,
        "fn f() { tracing::info!(%pause, text = debug(text), \"a\") }",
    );
    passes(
        DRIVER,
        "fn f<T: ?Sized>(x: &T) -> Option<()> { g(a?, b()?)?; Some(()) }",
    );
}

#[test]
fn nothing_is_left_unfinished() {
    fails(DRIVER, "fn f() { todo!() }", "1: `todo!`");
    fails(
        "mesh-cli/src/cmd/demo.rs",
        "fn f() { unimplemented!(\"x\") }",
        "1: `unimplemented!`",
    );
    passes(DRIVER, "fn todo() { todo() } // todo!()");
}

// === unsafe code ===

#[test]
fn libraries_forbid_unsafe_code() {
    fails(
        "mesh-pki/src/lib.rs",
        "//! #![forbid(unsafe_code)]",
        "1: no `#![forbid(unsafe_code)]`",
    );
    passes(
        "mesh-pki/src/lib.rs",
        "//! Identity.\n#![forbid(unsafe_code, dead_code)]",
    );
    passes("mesh-ebpf/src/lib.rs", "//! The kernel's side.");
}

// === global state ===

#[test]
fn only_the_program_touches_what_is_global() {
    for (code, named) in [
        ("fn f() { std::process::exit(1) }", "std::process::exit"),
        ("use std::env; fn f() { env::var(\"X\"); }", "env::var"),
        ("use std::env::var_os;", "std::env::var_os"),
        ("use tracing_subscriber::fmt;", "tracing_subscriber::fmt"),
        ("use tokio::signal;", "tokio::signal"),
        (
            "fn f() { tokio::signal::ctrl_c(); }",
            "tokio::signal::ctrl_c",
        ),
    ] {
        fails(DRIVER, code, &format!("1: a library names `{named}`"));
        passes("mesh-cli/src/main.rs", code);
    }
    passes(
        DRIVER,
        "use std::process::Command; const V: &str = env!(\"CARGO_PKG_VERSION\");",
    );
}

#[test]
fn libraries_print_nothing() {
    fails(
        DRIVER,
        "fn f() { println!(\"x\") }",
        "1: a library uses `println!`",
    );
    fails(DRIVER, "fn f() { dbg!(x); }", "1: a library uses `dbg!`");
    passes(
        DRIVER,
        "fn f() { writeln!(out, \"x\"); let println = 1; if println != 2 {} }",
    );
    passes("mesh-cli/src/main.rs", "fn f() { println!(\"x\") }");
}

// === sizes and places ===

#[test]
fn long_files_are_noted_and_longer_ones_refused() {
    let lines = |count: usize| "//\n".repeat(count);
    passes(DRIVER, &lines(600));
    passes("mesh-core/src/connect/tests.rs", &lines(5_000));
    passes(DRIVER, &format!("// @generated by us\n{}", lines(5_000)));
    let severity =
        |count| check_files(&[house(), vec![(DRIVER.into(), lines(count))]].concat())[0].severity;
    assert_eq!([severity(601), severity(1_000)], [Severity::Note; 2]);
    assert_eq!(severity(1_001), Severity::Error);
}

#[test]
fn a_module_does_not_stand_beside_its_folder() {
    let mut files = house();
    files.push(("mesh-core/src/connect.rs".into(), String::new()));
    assert_eq!(check_files(&files), []);
    files.push((DRIVER.into(), String::new()));
    let found = check_files(&files);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].path, "mesh-core/src/connect.rs");
}

#[test]
fn the_top_level_holds_the_fixed_names() {
    for path in [
        "LICENSE-MIT",
        ".ci/run",
        "deny.toml",
        "fuzz/Cargo.toml",
        "README.md",
    ] {
        passes(path, "");
    }
    for path in [
        "NOTES.md",
        "docs/page.md",
        "scripts/run.toml",
        "target.json",
    ] {
        fails(path, "", "1: stands at the top level");
    }
}

#[test]
fn a_stage_has_its_three_files() {
    assert_eq!(check_files(&house()), []);
    let mut files = house();
    files.retain(|(path, _)| path != "mesh-core/src/balance/decide.rs");
    let found = check_files(&files);
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].path.as_str(), found[0].what.as_str()),
        ("mesh-core/src/balance/decide.rs", "is missing")
    );
    // Tests may be a folder.
    let mut files = house();
    files.retain(|(path, _)| path != "mesh-core/src/balance/tests.rs");
    assert_eq!(check_files(&files).len(), 1);
    files.push(("mesh-core/src/balance/tests/mod.rs".into(), String::new()));
    assert_eq!(check_files(&files), []);
}

// === dependencies ===

#[test]
fn the_graph_keeps_its_direction() {
    let core = &graph::RULES[0];
    let clean = "inmesh-core v0.1.0 (/mesh-core)\ninmesh-pki v0.1.0 (/mesh-pki)\nkubelike v1.0.0\n";
    assert_eq!(core.check(clean), []);
    let found = core.check(
        "inmesh-core v0.1.0 (/x)\nkube-client v5.0.0\nkube-client v5.0.0 (*)\nnotify v8.2.0\n",
    );
    let what: Vec<&str> = found.iter().map(|v| v.what.as_str()).collect();
    assert_eq!(
        what,
        [
            "inmesh-core (--all-features) depends on kube-client",
            "inmesh-core (--all-features) depends on notify",
        ]
    );
    for (rule, line) in graph::RULES.iter().zip([
        "hickory-proto v0.26.3",
        "tokio-rustls v0.26.6",
        "inmesh-core v0.1.0",
        "inmesh-ebpf v0.1.0",
        "inmesh-discovery v0.1.0",
    ]) {
        assert_eq!(rule.check(line).len(), 1, "{line}");
    }
}

#[test]
fn a_violation_says_where_what_why_and_what_to_do() {
    let violation = Violation::error("a.rs", 3, "what", "why", "todo");
    assert_eq!(violation.to_string(), "a.rs:3: what; why; todo");
    let note = Violation::note("a.rs", 3, "what", "why", "todo");
    assert_eq!(note.to_string(), "a.rs:3: note: what; why; todo");
}

// === circles ===

/// What tidy says of a crate with these files, without the lines.
fn circles(files: &[(&str, &str)]) -> Vec<String> {
    let mut all = house();
    all.retain(|(path, _)| files.iter().all(|(other, _)| path != other));
    all.extend(files.iter().map(|(p, text)| ((*p).into(), (*text).into())));
    check_files(&all).iter().map(Violation::to_string).collect()
}

#[test]
fn files_that_import_each_other_fail() {
    assert_eq!(
        circles(&[
            ("mesh-cli/src/lib.rs", "pub mod one; pub mod two;"),
            (
                "mesh-cli/src/one.rs",
                "\nuse crate::two::{Two, TWO as T};\npub struct One;"
            ),
            (
                "mesh-cli/src/two.rs",
                "pub struct Two; pub const TWO: u8 = 2; fn f(one: &super::one::One) {}"
            ),
        ]),
        [
            "mesh-cli/src/one.rs:2: a circle of 2 files: mesh-cli/src/one.rs -> mesh-cli/src/two.rs (TWO, Two), \
             mesh-cli/src/two.rs -> mesh-cli/src/one.rs (One); \
             files that import each other can only be read, tested and moved together; \
             move what both need into a file below them, or hand it in as an argument"
        ]
    );
}

#[test]
fn circles_are_found_through_reexports_and_long_ways() {
    // The facades name each other's files; so do the files behind them, by the facades' names.
    let found = circles(&[
        (
            "mesh-cli/src/lib.rs",
            "mod x; mod y; mod z; pub use x::Leaf;",
        ),
        (
            "mesh-cli/src/x/mod.rs",
            "#[cfg(test)]\nmod tests;\nmod leaf; pub(crate) use leaf::Leaf;",
        ),
        ("mesh-cli/src/x/leaf.rs", "use crate::y::Peer;"),
        (
            "mesh-cli/src/y/mod.rs",
            "mod peer; pub use self::peer::{self, Peer};",
        ),
        ("mesh-cli/src/y/peer.rs", "fn f() { vec![crate::z::Z] }"),
        ("mesh-cli/src/z.rs", "use super::Leaf;"),
    ]);
    assert_eq!(found.len(), 1, "{found:?}");
    let edges = "mesh-cli/src/x/leaf.rs -> mesh-cli/src/y/peer.rs (Peer), \
                 mesh-cli/src/y/peer.rs -> mesh-cli/src/z.rs (Z), mesh-cli/src/z.rs -> mesh-cli/src/x/leaf.rs (Leaf)";
    assert!(found[0].contains(edges), "{found:?}");
}

#[test]
fn files_in_one_direction_pass() {
    let none: [String; 0] = [];
    assert_eq!(
        circles(&[
            // A facade's `pub use` imports nothing; its child may use what the facade defines.
            (
                "mesh-cli/src/lib.rs",
                "mod x; mod y; pub use x::Leaf; pub use y::Top;"
            ),
            (
                "mesh-cli/src/x/mod.rs",
                "mod leaf; pub use leaf::Leaf; pub const MOST: u8 = 1;"
            ),
            (
                "mesh-cli/src/x/leaf.rs",
                "use super::MOST; pub struct Leaf;"
            ),
            (
                "mesh-cli/src/y.rs",
                "use crate::Leaf; use other::y::Top as T; use std::fmt::{self, Debug};"
            ),
            // Other crates' files have nothing to do with these.
            ("mesh-ebpf/src/leaf.rs", "use crate::y::Top;"),
        ]),
        none
    );
    // Comments, strings and tests import nothing, in the file or beside it.
    assert_eq!(
        circles(&[
            ("mesh-cli/src/lib.rs", "mod one; mod two; #[cfg(test)] mod fixture;"),
            ("mesh-cli/src/one.rs", "use crate::two::Two; pub struct One;"),
            (
                "mesh-cli/src/two.rs",
                "//! [`crate::one::One`]\n// use crate::one::One;\nconst A: &str = \"crate::one::One\";
                 #[cfg(test)]\nuse crate::one::One;\n#[cfg(test)]\nmod checks { use super::super::one::One; }
                 #[cfg(test)]\nmod tests;",
            ),
            ("mesh-cli/src/two/tests.rs", "use crate::one::One;"),
            ("mesh-cli/src/fixture.rs", "use crate::one::One;"),
        ])
        .into_iter()
        .filter(|one| one.contains("circle"))
        .collect::<Vec<_>>(),
        none
    );
}

// === the reader ===

#[test]
fn macros_are_looked_into_and_raw_strings_are_not() {
    fails(
        DRIVER,
        "fn f() { assert!(matches!(x.unwrap(), 1)); }",
        "1: `unwrap` in library code",
    );
    fails(
        DECIDE,
        "macro_rules! m { ($x:expr) => { { use std::fmt; tokio::spawn($x) } } }",
        "1: a pure file names `tokio::spawn`",
    );
    passes(
        DRIVER,
        "const A: &str = r##\"x.unwrap() \"# todo!() \"##; const B: &[u8] = br\"x.unwrap()\"; const C: u8 = b'\"';",
    );
}

#[test]
fn code_for_tests_is_left_out_wherever_it_stands() {
    passes(
        DRIVER,
        r#"
        struct S { a: u8, #[cfg(test)] b: [u8; Some(1).unwrap()], }
        impl S { #[cfg(test)] fn f() { x.unwrap() } }
        trait T { #[cfg(all(unix, test))] fn f() { x.unwrap() } }
        fn f(e: E) {
            #[cfg(test)]
            let x = y.unwrap();
            match e { #[cfg(test)] E::A => x.unwrap(), E::B => {} }
        }
        "#,
    );
    for cfg in [
        "any(test, unix)",
        "not(test)",
        "feature = \"test\"",
        "all(unix, not(test))",
    ] {
        fails(
            DRIVER,
            &format!("#[cfg({cfg})]\nfn f() {{ x.unwrap() }}"),
            "2: `unwrap` in library code",
        );
    }
}

#[test]
fn what_does_not_parse_is_said() {
    fails(
        DRIVER,
        "fn f() {\n}}",
        "2: does not parse: cannot parse string into token stream",
    );
    fails(
        DRIVER,
        "fn f()\nlet x;",
        "2: does not parse: expected curly braces",
    );
}

// === words ===

#[test]
fn plain_words_hold_in_comments_docs_messages_and_pages() {
    for (text, line, said) in [
        ("// Who asks waits.\n", 1, "who"),
        ("//! A\n//! slot for whoever waits.\n", 2, "whoever"),
        ("/* from\n whom */", 2, "whom"),
        ("/// Somebody.\nfn f() {}", 1, "somebody"),
        ("fn f() {} // for anybody", 1, "anybody"),
        ("const A: &str = \"\nNobody answers\";", 2, "nobody"),
        ("#[error(\"the lease is over\")] struct E;", 1, "is over"),
        ("fn f() { g(r#\"both \"are\" are over\"#) }", 1, "are over"),
        ("fn f() { g(\"a\\nwho\\tb\") }", 1, "who"),
        ("/// If `name` is\n/// none.\nfn f() {}", 1, "is none"),
        ("// told", 1, "told"),
        ("// good news.", 1, "news"),
        ("// the word\n// of a change", 1, "word of"),
        ("fn f() { panic!(\"it goes on\") }", 1, "goes on"),
        ("/// A frame carries it.\nfn f() {}", 1, "carries"),
        (
            "#[cfg(test)] mod checks { fn f() { /* told */ } }",
            1,
            "told",
        ),
    ] {
        fails(DRIVER, text, &format!("{line}: the text says `{said}`"));
        fails(
            "mesh-core/tests/drain.rs",
            text,
            &format!("{line}: the text says `{said}`"),
        );
        fails(
            "mesh-cli/docs/page.md",
            text,
            &format!("{line}: the text says `{said}`"),
        );
    }
    passes(
        DRIVER,
        "// The whole is `None`; overtold, newsy, whose, who_is, is, none, is nonempty, is overdue; there is
         // none.
         fn who() { let told = nobody(news); } // The answer is. None is left.
         const A: char = '\"'; fn told() {} // over",
    );
    passes("mesh-pki/src/wire.rs", "// @generated by us\n// who");
    passes("LICENSE-MIT", "who");
    let instead = &check_files(&[("README.md".into(), "who".into())])
        .into_iter()
        .find(|one| one.path == "README.md")
        .expect("the word is banned");
    assert!(instead.todo.contains("client"), "{instead}");
}

// === shapes ===

#[test]
fn functions_fit_a_screen() {
    let body = |lines: usize| format!("#[test]\nfn f(\n) {{\n{}}}", "//\n".repeat(lines));
    passes(DRIVER, &body(77));
    fails(DRIVER, &body(78), "2: `f` has 81 lines");
    fails(
        DRIVER,
        &format!("impl A {{ {} }}", body(78)),
        "2: `f` has 81 lines",
    );
    fails("mesh-cli/src/main.rs", &body(90), "2: `f` has 93 lines");
    passes(DRIVER, &format!("#[cfg(test)] mod t {{ {} }}", body(90)));
    passes("mesh-core/src/connect/tests.rs", &body(90));
    passes(DRIVER, &format!("// @generated by us\n{}", body(90)));
}

#[test]
fn a_blank_line_follows_the_heading_of_errors() {
    let what = "no blank line after `# Errors`";
    fails(
        DRIVER,
        "/// A.\n///\n/// # Errors\n/// If.\nfn f() {}",
        &format!("3: {what}"),
    );
    fails(
        DRIVER,
        "mod m {\n    //! # Errors\n    //! If.\n}",
        &format!("2: {what}"),
    );
    passes(
        DRIVER,
        "/// # Errors\n///\n/// If.\nfn f() {}\n// # Errors\n// No doc.",
    );
}

#[test]
fn missing_docs_are_denied() {
    passes(
        "Cargo.toml",
        "[workspace.lints.rust]\nmissing_docs = \"deny\"\n[profile.dev]",
    );
    for text in [
        "",
        "[workspace.lints.rust]\nmissing_docs = \"warn\"",
        "[workspace.lints.rust]\n[other]\nmissing_docs = \"deny\"",
    ] {
        fails("Cargo.toml", text, "1: `missing_docs` is not denied");
    }
}
