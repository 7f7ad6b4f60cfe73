//! Checks of this workspace that no compiler makes, and its generated code:
//! `cargo run -p xtask -- tidy` and `cargo run -p xtask -- proto`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod proto;
mod tidy;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["proto"] => proto::run(proto::Mode::Write),
        ["proto", "--check"] => proto::run(proto::Mode::Check),
        ["tidy"] => tidy::run(),
        _ => {
            eprintln!("usage: cargo run -p xtask -- (tidy | proto [--check])");
            ExitCode::from(2)
        }
    }
}
