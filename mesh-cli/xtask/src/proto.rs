//! `proto` turns the definitions of crates (`mesh-pki/proto/*.proto`) into code (`mesh-pki/src/proto/*.rs`),
//! which is committed, so that building the crates needs neither a protobuf compiler nor a build script.
//!
//! In: the definitions; out: one Rust file for each, client and server of its services in it. With
//! `--check` nothing is written, and a file that differs from its definition fails the run. The
//! compiler is protox, a library, so nothing has to be installed.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Where the definitions and the code stand, below the workspace's root.
const PLACES: &[(&str, &str)] = &[
    ("mesh-discovery/proto", "mesh-discovery/src/control/proto"),
    ("mesh-pki/proto", "mesh-pki/src/proto"),
];

/// Messages that carry a key or a token, or hold one that does: they have no `Debug`.
const SECRET: [&str; 5] = [
    ".JWTSVID",
    ".JWTSVIDResponse",
    ".ValidateJWTSVIDRequest",
    ".X509SVID",
    ".X509SVIDResponse",
];

/// Whether files are written, or only compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Check,
    Write,
}

/// Generates the code of every definition; prints what it wrote, or what differs.
pub(crate) fn run(mode: Mode) -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    let outcome = root
        .ok_or_else(|| "xtask is not two folders below the workspace".to_owned())
        .and_then(|root| generate_all(root, mode));
    match outcome {
        Ok(stale) if stale.is_empty() => ExitCode::SUCCESS,
        Ok(stale) => {
            for path in stale {
                println!("{path} is not what its definition says");
            }
            println!("run `cargo run -p xtask -- proto` and commit what changes");
            ExitCode::FAILURE
        }
        Err(reason) => {
            eprintln!("proto: {reason}");
            ExitCode::from(2)
        }
    }
}

/// The files that differ from their definition; none are left after [`Mode::Write`].
fn generate_all(root: &Path, mode: Mode) -> Result<Vec<String>, String> {
    let mut stale = Vec::new();
    for (definitions, code) in PLACES {
        let mut names = Vec::new();
        for entry in
            fs::read_dir(root.join(definitions)).map_err(|e| format!("{definitions}: {e}"))?
        {
            let name = entry.map_err(|e| e.to_string())?.file_name();
            let name = name.into_string().map_err(|name| format!("{name:?}"))?;
            names.extend(name.strip_suffix(".proto").map(str::to_owned));
        }
        names.sort();
        for name in names {
            let text = generate(root, definitions, &name)?;
            let path = format!("{code}/{name}.rs");
            let committed = fs::read_to_string(root.join(&path)).unwrap_or_default();
            if committed == text {
                continue;
            }
            match mode {
                Mode::Check => stale.push(path),
                Mode::Write => {
                    fs::write(root.join(&path), text).map_err(|e| format!("{path}: {e}"))?;
                    println!("{path}");
                }
            }
        }
    }
    Ok(stale)
}

/// The formatted code of one definition.
fn generate(root: &Path, definitions: &str, name: &str) -> Result<String, String> {
    let file = format!("{name}.proto");
    let set =
        protox::compile([&file], [root.join(definitions)]).map_err(|e| format!("{file}: {e}"))?;
    let scratch = tempfile::tempdir().map_err(|e| e.to_string())?;
    tonic_prost_build::configure()
        // Channels are made by our own connectors, never from an address.
        .build_transport(false)
        // What is sent to many is shared.
        .bytes(".envoy.service.discovery.v3.Any")
        // Versions are hashes of what is encoded: maps have an order.
        .btree_map(".inmesh.control.v1")
        .skip_debug(SECRET)
        .emit_rerun_if_changed(false)
        .out_dir(scratch.path())
        .compile_fds(set)
        .map_err(|e| format!("{file}: {e}"))?;

    // One definition is one package, so it is one file, whatever that is called.
    let mut written = fs::read_dir(scratch.path()).map_err(|e| e.to_string())?;
    let (Some(only), None) = (written.next(), written.next()) else {
        return Err(format!("{file} does not make exactly one Rust file"));
    };
    let path = only.map_err(|e| e.to_string())?.path();
    let body = fs::read_to_string(&path).map_err(|e| e.to_string())?;
    let header = format!(
        "// @generated from {definitions}/{file} by `cargo run -p xtask -- proto`; do not edit.\n"
    );
    // What rustfmt says of it is part of the file, or `cargo fmt --all --check` would differ.
    fs::write(&path, header + &body).map_err(|e| e.to_string())?;
    let status = Command::new("rustfmt")
        .args(["--edition", "2024", "--config-path"])
        .arg(root)
        .arg(&path)
        .status()
        .map_err(|e| format!("rustfmt: {e}"))?;
    if !status.success() {
        return Err(format!("rustfmt cannot read the code of {file}"));
    }
    fs::read_to_string(&path).map_err(|e| e.to_string())
}
