//! `mesh ca serve` as a child process, and its operator.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use inmesh_pki::ca::admin::AdminClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::net::TcpStream;

use super::{eventually, mesh, stderr, stdout};

/// A CA as a child process; killed when dropped.
pub(crate) struct Ca {
    child: Child,
    pub(crate) dir: PathBuf,
    pub(crate) log: PathBuf,
}

impl Ca {
    pub(crate) async fn start(home: &Path, address: SocketAddr, more: &[&str]) -> Self {
        let (dir, log) = (home.join("ca"), home.join("ca.log"));
        let log_file = File::options().create(true).append(true).open(&log);
        let child = Command::new(env!("CARGO_BIN_EXE_mesh"))
            .args(["ca", "serve", "--trust-domain", "test.local"])
            .args(["--listen", &address.to_string(), "--dir"])
            .arg(&dir)
            .args(more)
            .env_remove("MESH_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_file.expect("a log"))
            .spawn()
            .expect("the binary starts");
        let ca = Self { child, dir, log };
        eventually("the CA serves", async || {
            let mut admin = AdminClient::connect(&ca.dir).await.ok()?;
            admin.status().await.ok()?;
            TcpStream::connect(address).await.ok()
        })
        .await;
        ca
    }

    /// Runs a command of the operator.
    pub(crate) fn operate(&self, args: &[&str]) -> Output {
        let args = ["ca"].iter().chain(args).copied();
        mesh(args.chain(["--dir"]), &[&self.dir])
    }

    pub(crate) fn status(&self) -> Value {
        let status = self.operate(&["status", "--json"]);
        assert!(status.status.success(), "{}", stderr(&status));
        serde_json::from_str(&stdout(&status)).expect("status is JSON")
    }

    pub(crate) fn token(&self, id: &str) -> String {
        let made = self.operate(&["token", "create", "--id", id]);
        assert!(made.status.success(), "{}", stderr(&made));
        stdout(&made).trim().to_owned()
    }

    /// SIGTERM, and its end.
    pub(crate) fn stop(&mut self) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(id), Signal::SIGTERM).expect("it is our child");
        let ended = self.child.wait().expect("it is our child");
        assert!(ended.success(), "{ended}");
    }

    /// kill -9, at once.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }
}

impl Drop for Ca {
    fn drop(&mut self) {
        // It may have been killed before.
        let _gone = self.child.kill();
        let _status = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            let tail: Vec<_> = tail.into_iter().rev().collect();
            eprintln!("--- the CA's log\n{}", tail.join("\n"));
        }
    }
}
