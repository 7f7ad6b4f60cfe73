//! Has the linker lay the functions that a request runs beside each other in `mesh`, as `hot.ld` lists them.
//!
//! They are one megabyte in twenty, and an agent loses what its processor knows of pages at each switch between
//! processes; so a request costs about a tenth less CPU. Nothing depends on it: a linker that takes no such script,
//! or a name that a compiler makes in another way, leaves functions where they were.

use std::env::var;
use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=hot.ld");
    let script = Path::new(&var("CARGO_MANIFEST_DIR")?).join("hot.ld");
    let wanted = var("CARGO_CFG_TARGET_OS")? == "linux" && var("OPT_LEVEL")? != "0";
    if wanted && is_taken(&script)? {
        println!("cargo::rustc-link-arg-bins=-T");
        println!("cargo::rustc-link-arg-bins={}", script.display());
    }
    Ok(())
}

/// Whether the linker that will be used takes the script, asked by linking a program of nothing.
fn is_taken(script: &Path) -> Result<bool, Box<dyn Error>> {
    let out = var("OUT_DIR")?;
    let program = Path::new(&out).join("nothing.rs");
    std::fs::write(&program, "fn main() {}")?;
    let mut rustc = Command::new(var("RUSTC")?);
    rustc.arg(&program).args([
        "--crate-type",
        "bin",
        "--target",
        &var("TARGET")?,
        "--out-dir",
        &out,
    ]);
    if let Ok(flags) = var("CARGO_ENCODED_RUSTFLAGS") {
        rustc.args(flags.split('\x1f').filter(|flag| !flag.is_empty()));
    }
    if let Ok(linker) = var("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    rustc.args([
        "-C",
        "link-arg=-T",
        "-C",
        &format!("link-arg={}", script.display()),
    ]);
    Ok(rustc
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?
        .success())
}
