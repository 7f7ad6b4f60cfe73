//! The pages are run as they are written, block by block: each page in a shell of its own, in a
//! folder and a network of its own, so that every port is free. A block that fails, or a page that
//! does not end in time, fails the test.

mod support;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

/// How long a page may take with all its blocks.
const LIMIT: Duration = Duration::from_secs(150);

/// A block of a page.
struct Block {
    /// `page:line`.
    at: String,
    text: String,
}

/// The blocks of a page that are marked as shell.
fn blocks(page: &str) -> Vec<Block> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let text = std::fs::read_to_string(root.join(page)).expect(page);
    let (mut blocks, mut open) = (Vec::new(), false);
    for (nth, line) in text.lines().enumerate() {
        match (line, open) {
            ("```sh", false) => {
                open = true;
                let at = format!("{page}:{}", nth + 1);
                let text = String::new();
                blocks.push(Block { at, text });
            }
            ("```", true) => open = false,
            (line, true) => {
                let block = blocks.last_mut().expect("an open block");
                block.text += line;
                block.text.push('\n');
            }
            _ => {}
        }
    }
    assert!(!blocks.is_empty(), "{page} has no block");
    blocks
}

/// What the pages need that is not ours. Where it is missing, the test says so and is skipped.
async fn has_tools() -> bool {
    let probe = "ip link set lo up && command -v curl python3";
    let tried = Command::new("unshare")
        .args(["-rn", "bash", "-c", probe])
        .output()
        .await;
    let there = tried.as_ref().is_ok_and(|output| output.status.success());
    if !there {
        let required = std::env::var_os("MESH_REQUIRE_KERNEL").is_some();
        assert!(
            !required,
            "no network of its own, curl or python3: {tried:?}"
        );
        println!("skipped: no network of its own, curl or python3");
    }
    there
}

/// Runs blocks one after the other, in one shell.
async fn run(blocks: &[Block]) {
    if !has_tools().await {
        return;
    }
    let home = TempDir::new().expect("a temporary folder");
    let bin = PathBuf::from(env!("CARGO_BIN_EXE_mesh"));
    let bin = bin.parent().expect("its folder").display().to_string();
    let mut script = String::from("ip link set lo up\nset -e\n");
    for block in blocks {
        let _ = writeln!(script, "echo '=== {}'\n{}", block.at, block.text);
    }
    script += "echo '=== all'\n";
    let out = home.path().join("out");
    let file = std::fs::File::create(&out).expect("a file");
    let path = std::env::var("PATH").unwrap_or_default();
    let work = home.path().join("work");
    std::fs::create_dir(&work).expect("a folder");
    let mut command = Command::new("unshare");
    command
        .args(["-rn", "bash", "-c", &script])
        .current_dir(&work)
        .env("PATH", format!("{bin}:{path}"))
        .env("HOME", &work)
        .env_remove("MESH_LOG")
        .env_remove("MESH_ADMIN")
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("the same file"))
        .stderr(file);
    // All that a page leaves running ends with its group.
    command.process_group(0);
    let mut child = command.spawn().expect("bash starts");
    let id = child.id().expect("it has not ended");
    let group = Pid::from_raw(i32::try_from(id).expect("a process id"));
    let ended = timeout(LIMIT, child.wait()).await;
    let _gone = killpg(group, Signal::SIGKILL);
    let text = std::fs::read(&out).expect("what it has said");
    let text = String::from_utf8_lossy(&text);
    let good = matches!(&ended, Ok(Ok(status)) if status.success()) && text.contains("\n=== all\n");
    assert!(good, "{ended:?}:\n{text}");
}

#[tokio::test]
async fn the_readme_runs() {
    // The first block builds the project.
    run(&blocks("README.md")[1..]).await;
}

#[tokio::test]
async fn the_agents_page_runs_and_that_of_status_beside_it() {
    let mut all = blocks("mesh-cli/docs/agent.md");
    let end = all.pop().expect("a block that ends all");
    all.extend(blocks("mesh-cli/docs/status-and-errors.md"));
    all.push(end);
    run(&all).await;
}

#[tokio::test]
async fn the_operating_page_makes_a_root_that_holds_all_that_the_binary_needs() {
    run(&blocks("mesh-cli/docs/operating.md")).await;
}

#[tokio::test]
async fn the_cas_page_runs() {
    run(&blocks("mesh-cli/docs/ca.md")).await;
}

#[tokio::test]
async fn the_backups_page_runs() {
    run(&blocks("mesh-cli/docs/ca-backup.md")).await;
}

#[tokio::test]
async fn the_canarys_page_runs() {
    run(&blocks("mesh-cli/docs/canary.md")).await;
}

#[tokio::test]
async fn the_page_of_ab_runs() {
    run(&blocks("mesh-cli/docs/ab.md")).await;
}

#[tokio::test]
async fn the_page_of_blue_and_green_runs() {
    run(&blocks("mesh-cli/docs/blue-green.md")).await;
}

#[tokio::test]
async fn the_explanations_page_runs() {
    run(&blocks("mesh-cli/docs/explain.md")).await;
}

#[tokio::test]
async fn the_page_of_tests_runs() {
    run(&blocks("mesh-cli/docs/testing.md")).await;
}

#[tokio::test]
async fn the_page_of_simulations_runs() {
    run(&blocks("mesh-cli/docs/simulate.md")).await;
}

/// A page that waits for ever is a page that cannot be copied into a script.
#[test]
fn no_page_has_a_loop_without_a_limit() {
    for page in [
        "README.md",
        "mesh-cli/docs/agent.md",
        "mesh-cli/docs/ca.md",
        "mesh-cli/docs/ca-backup.md",
        "mesh-cli/docs/ab.md",
        "mesh-cli/docs/blue-green.md",
        "mesh-cli/docs/canary.md",
        "mesh-cli/docs/explain.md",
        "mesh-cli/docs/simulate.md",
        "mesh-cli/docs/status-and-errors.md",
        "mesh-cli/docs/testing.md",
    ] {
        for block in blocks(page) {
            for line in block.text.lines() {
                let endless = ["until ", "while "].iter().any(|word| line.contains(word));
                assert!(!endless, "{}: {line}", block.at);
            }
        }
    }
}

#[test]
fn every_link_to_a_file_leads_to_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let pages = [
        "README.md",
        "mesh-pki/README.md",
        "mesh-core/README.md",
        "mesh-discovery/README.md",
        "mesh-ebpf/README.md",
        "mesh-cli/README.md",
    ];
    let docs = std::fs::read_dir(root.join("mesh-cli/docs")).expect("the pages");
    let docs = docs.map(|entry| entry.expect("a page").path());
    for page in pages.iter().map(|page| root.join(page)).chain(docs) {
        let text = std::fs::read_to_string(&page).expect("a page");
        let links = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split_once(')'));
        for (link, _) in links {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") || path.contains(' ') {
                continue;
            }
            let file = page.parent().expect("a folder").join(path);
            assert!(file.exists(), "{}: {link}", page.display());
        }
    }
}
