//! Two Pods with captured connections, from `mesh capture` to the application, on this machine: each is a
//! network namespace of the test's own. It needs root, and says so where it is skipped.
#![cfg(target_os = "linux")]

use std::io::{self, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

/// How long all steps may take, on a machine that has much else to do.
const LIMIT: Duration = Duration::from_secs(150);

/// Whether this user may make network namespaces, and has the tools that the script needs.
async fn may() -> bool {
    let probe = "setpriv --reuid=1337 --clear-groups true && ip link set lo up && \
                 command -v curl nsenter python3";
    let mut command = Command::new("unshare");
    let tried = command.args(["-n", "bash", "-c", probe]).output().await;
    let may = tried.as_ref().is_ok_and(|output| output.status.success());
    if !may {
        let why = "no root, or no curl, ip, nsenter, python3 and setpriv";
        let _ = writeln!(io::stderr(), "skipped: {why}");
        let required = std::env::var("MESH_REQUIRE_KERNEL").is_ok_and(|value| value == "1");
        assert!(!required, "MESH_REQUIRE_KERNEL=1, and {why}: {tried:?}");
    }
    may
}

#[tokio::test]
async fn what_is_captured_is_carried_by_the_mesh() {
    if !may().await {
        return;
    }
    let home = TempDir::new().expect("a temporary folder");
    let out = home.path().with_extension("out");
    let file = std::fs::File::create(&out).expect("a file");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/capture.sh");
    let mut command = Command::new("unshare");
    command
        .args(["-n", "bash"])
        .args([script.as_os_str(), env!("CARGO_BIN_EXE_mesh").as_ref()])
        .current_dir(home.path())
        .env_remove("MESH_LOG")
        .env_remove("MESH_ADMIN")
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("the same file"))
        .stderr(file);
    // All that it leaves running ends with its group.
    command.process_group(0);
    let mut child = command.spawn().expect("bash starts");
    let id = child.id().expect("it has not ended");
    let group = Pid::from_raw(i32::try_from(id).expect("a process id"));
    let ended = timeout(LIMIT, child.wait()).await;
    let _gone = killpg(group, Signal::SIGKILL);
    let text = std::fs::read(&out).expect("what it has said");
    let _ = std::fs::remove_file(&out);
    let text = String::from_utf8_lossy(&text);
    let good = matches!(&ended, Ok(Ok(status)) if status.success()) && text.contains("\n=== all\n");
    assert!(good, "{ended:?}:\n{text}");
}

/// The page shows what the command prints, and what is wrong on the command line ends with 2.
#[tokio::test]
async fn the_page_shows_the_rules_and_what_is_wrong_is_said() {
    let mesh = async |arguments: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mesh"));
        command.arg("capture").args(arguments.split(' '));
        let output = command.output().await.expect("it runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let page = include_str!("../docs/capture.md");
    let (_, shown) = page.split_once("$ mesh capture ").expect("a command");
    let (arguments, shown) = shown.split_once('\n').expect("a line");
    let (shown, _) = shown.split_once("```").expect("an end");
    assert_eq!(
        mesh(arguments).await,
        (Some(0), shown.to_owned(), String::new())
    );
    for (arguments, said) in [
        ("--dry-run --user 0", "may not be root"),
        ("--dry-run --inbound-port 15001", "15001 is both"),
        ("--dry-run --exclude-inbound-ports 80,0", "0 is no port"),
        (
            "--dry-run --exclude-outbound-cidrs 10.1.0.0/8",
            "10.0.0.0/8",
        ),
        ("--dry-run --remove", "cannot be used with"),
    ] {
        let (code, out, error) = mesh(arguments).await;
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments}");
        assert!(error.contains(said), "{error}");
    }
}
