//! `mesh ca serve` as a child process, and its operator.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use inmesh_pki::Crypto;
use inmesh_pki::ca::admin::AdminClient;
use inmesh_pki::clock::SystemClock;
use inmesh_pki::id::SpiffeId;
use inmesh_pki::rotate::{ObtainError, obtain};
use inmesh_pki::source::ca::{Bootstrap, CaClient, CaClientConfig, Token};
use inmesh_pki::store::{IdentityState, IdentityWriter, identity};
use inmesh_pki::svid::X509Svid;
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
        let ca = Self::launch(home, address, more);
        eventually("the CA serves", async || {
            let admin = AdminClient::connect(&ca.dir).await.ok()?;
            admin.status().await.ok()?;
            TcpStream::connect(address).await.ok()
        })
        .await;
        ca
    }

    /// The same without the wait.
    pub(crate) fn launch(home: &Path, address: SocketAddr, more: &[&str]) -> Self {
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
        Self { child, dir, log }
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
        self.signal(Signal::SIGTERM);
        let ended = self.child.wait().expect("it is our child");
        assert!(ended.success(), "{ended}");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(id), signal).expect("it is our child");
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

/// A member that asks a CA for leaves.
pub(crate) struct Member {
    pub(crate) id: SpiffeId,
    pub(crate) client: CaClient,
    pub(crate) writer: Arc<IdentityWriter>,
}

impl Member {
    pub(crate) fn new(ca: &Ca, address: SocketAddr, id: &str, token: Token) -> Self {
        let id: SpiffeId = id.parse().expect("an ID");
        let (writer, reader) = identity(IdentityState::default());
        let config = CaClientConfig {
            id: id.clone(),
            address: address.to_string(),
            ca: "spiffe://test.local/inmesh/ca".parse().expect("an ID"),
            bootstrap: Bootstrap::File(ca.dir.join("bundle.pem")),
            token,
        };
        let client = CaClient::new(config, reader, &Crypto::aws_lc_rs(), SystemClock::shared());
        Self {
            id,
            client: client.expect("randomness"),
            writer: Arc::new(writer),
        }
    }

    /// Asks once, and uses what it gets.
    pub(crate) async fn renew(&self) -> Result<Arc<X509Svid>, ObtainError> {
        let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock);
        let (svid, bundle) = obtain(&self.client, &self.id, &crypto, &clock).await?;
        self.writer.update(|state| {
            state.insert_svid(svid);
            state.insert_newer_bundle(bundle);
        });
        let state = self.writer.load();
        Ok(Arc::clone(state.svid(&self.id).expect("it is there")))
    }
}
