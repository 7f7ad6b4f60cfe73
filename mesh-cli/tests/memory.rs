//! The memory of a command that holds keys is written to no core file, and no process of the same user
//! reads it (`PR_SET_DUMPABLE`). Of such a process /proc/PID/mem belongs to root, of any other to its user.

mod support;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use http::Method;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid};
use support::{agent_file, eventually, free, publish, try_send};
use tempfile::TempDir;

/// The user of the commands where the test is run by root, which owns all such files of its own processes.
const OTHER: u32 = 65_534;

/// A folder of the user that runs the commands, and the binary where that user reaches it.
struct Home {
    dir: TempDir,
    binary: PathBuf,
    user: u32,
}

/// A process with all that it has started; killed when dropped.
struct Running(Child);

// === impl Home ===

impl Home {
    /// `None` where root may not act as another user.
    fn new() -> Option<Self> {
        let dir = TempDir::new().expect("a temporary folder");
        let mut binary = PathBuf::from(env!("CARGO_BIN_EXE_mesh"));
        let mut user = geteuid().as_raw();
        if user == 0 {
            user = OTHER;
            let given = chown(dir.path(), Some(user), Some(user));
            let acted = || Command::new("true").uid(user).gid(user).status();
            if let Err(error) = given.and_then(|()| acted()) {
                let required = std::env::var_os("MESH_REQUIRE_KERNEL").is_some();
                assert!(!required, "MESH_REQUIRE_KERNEL, and another user: {error}");
                return None;
            }
            let there = dir.path().join("mesh");
            std::fs::copy(binary, &there).expect("a copy");
            binary = there;
        }
        Some(Self { dir, binary, user })
    }

    /// A command of the user, in the folder.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(match program {
            "mesh" => self.binary.as_os_str(),
            other => other.as_ref(),
        });
        if geteuid().is_root() {
            command.uid(self.user).gid(self.user);
        }
        command
            .current_dir(self.dir.path())
            .env_remove("MESH_LOG")
            .env("TMPDIR", self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0);
        command
    }

    fn run(&self, args: &[&str]) -> Running {
        let child = self.command("mesh").args(args).spawn();
        Running(child.expect("the binary starts"))
    }
}

// === impl Running ===

impl Running {
    /// Whose the file with its memory is.
    fn owner(&self) -> u32 {
        let memory = format!("/proc/{}/mem", self.0.id());
        std::fs::metadata(memory).expect("it runs").uid()
    }

    async fn serves(&self, at: SocketAddr) {
        eventually("it serves its pages", async || {
            try_send(at, Method::GET, "/livez", &[]).await
        })
        .await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let group = i32::try_from(self.0.id()).expect("a process id");
        // It may have ended by itself.
        let _gone = killpg(Pid::from_raw(group), Signal::SIGKILL);
        let _status = self.0.wait();
    }
}

#[tokio::test]
async fn no_core_file_is_written_of_a_process_that_holds_keys() {
    let Some(home) = Home::new() else {
        eprintln!("skipped: 1 test, root may not act as another user");
        return;
    };
    // What the kernel says of a process with nothing to hide.
    let open = home.command("cat").stdin(Stdio::piped()).spawn();
    let open = Running(open.expect("cat of coreutils"));
    assert_eq!(open.owner(), home.user);

    let made = home
        .command("mesh")
        .args(["ca", "init", "--trust-domain", "test.local", "--dir", "ca"])
        .status();
    assert!(made.expect("the binary starts").success());
    let (admin, pages) = (free(), free());
    let agent = home.dir.path().join("agent");
    std::fs::create_dir(&agent).expect("a folder");
    let more = "defaultAction: deny\npeers: strict\n";
    publish(&agent, "agent.yaml", &agent_file("web", admin, more));
    let proxy = home.run(&["proxy", "--dir", "agent"]);
    proxy.serves(admin).await;
    assert_eq!(proxy.owner(), 0, "mesh proxy");

    let (listen, metrics) = (free().to_string(), pages.to_string());
    let ca = home.run(&[
        "ca",
        "serve",
        "--dir",
        "served",
        "--trust-domain",
        "test.local",
        "--listen",
        &listen,
        "--metrics",
        &metrics,
    ]);
    ca.serves(pages).await;
    assert_eq!(ca.owner(), 0, "mesh ca serve");

    let mut demo = home.run(&["demo"]);
    let said = demo.0.stdout.take().expect("it is piped");
    let mut up = String::new();
    BufReader::new(said).read_line(&mut up).expect("a line");
    assert!(up.contains("is up"), "{up}");
    assert_eq!(demo.owner(), 0, "mesh demo");
}
