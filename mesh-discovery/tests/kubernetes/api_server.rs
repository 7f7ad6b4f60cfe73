//! A real API server with its etcd, on loopback, for one test.
//!
//! `KUBEBUILDER_ASSETS` names the folder with `kube-apiserver`, `kubectl` and, unless it is in the
//! `PATH`, `etcd`. Without these servers a test prints that it is skipped, and fails under
//! `MESH_REQUIRE_KUBE=1`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::KeyPair;
use tempfile::TempDir;

/// How often it is looked whether a server is ready: for two minutes, on a machine that is busy with other tests.
const LOOKS: u32 = 1_200;
/// The time between two looks.
const LOOK: Duration = Duration::from_millis(100);
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// An API server that runs; it ends with this value.
#[derive(Debug)]
pub(crate) struct ApiServer {
    assets: PathBuf,
    dir: TempDir,
    etcd: Child,
    server: Option<Child>,
    ports: [u16; 3],
    flags: &'static [&'static str],
}

impl ApiServer {
    /// Starts an API server; `None` where `KUBEBUILDER_ASSETS` names none, which it prints.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// The same with more flags.
    pub(crate) fn start_with(flags: &'static [&'static str]) -> Option<Self> {
        let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let assets = assets.filter(|dir| dir.join("kube-apiserver").is_file());
        let Some(assets) = assets else {
            let required = std::env::var_os("MESH_REQUIRE_KUBE").is_some_and(|value| value == "1");
            assert!(
                !required,
                "KUBEBUILDER_ASSETS names no folder with kube-apiserver"
            );
            eprintln!("skipped: KUBEBUILDER_ASSETS names no folder with kube-apiserver");
            return None;
        };
        let dir = TempDir::new().expect("a temporary folder");
        // Ports that are free now: they are bound before another test asks for some.
        let free = [0; 3].map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let ports = free
            .each_ref()
            .map(|one| one.local_addr().expect("it is bound").port());
        drop(free);
        let etcd = assets.join("etcd");
        let etcd = if etcd.is_file() { etcd } else { "etcd".into() };
        let (client, peer) = (url(ports[0]), url(ports[1]));
        let mut start = Command::new(etcd);
        start.args(["--name", "test", "--unsafe-no-fsync"]);
        start.arg("--data-dir").arg(dir.path().join("etcd"));
        start.args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ]);
        start.args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ]);
        start.args(["--initial-cluster", &format!("test={peer}")]);
        let etcd = spawn(start, &dir.path().join("etcd.log")).expect("etcd starts");
        let key = KeyPair::generate().expect("a key");
        write(&dir.path().join("sa.key"), &key.serialize_pem());
        write(&dir.path().join("sa.pub"), &key.public_key_pem());
        write(
            &dir.path().join("tokens"),
            "admin,admin,admin,system:masters\n",
        );
        let mut started = Self {
            assets,
            dir,
            etcd,
            server: None,
            ports,
            flags,
        };
        started.begin();
        Some(started)
    }

    /// Starts the API server, or starts it again, and waits until it is ready.
    pub(crate) fn begin(&mut self) {
        self.launch();
        let mut looks = LOOKS;
        while let Err(e) = self.kubectl(&["get", "--raw", "/readyz"], "") {
            looks -= 1;
            assert!(looks > 0, "not ready: {e}\n{}", self.log());
            std::thread::sleep(LOOK);
        }
    }

    /// The same without the wait.
    pub(crate) fn launch(&mut self) {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let flags = [
            format!("--etcd-servers={}", url(self.ports[0])),
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={}", self.ports[2]),
            "--endpoint-reconciler-type=none".into(),
            "--service-cluster-ip-range=10.96.0.0/16".into(),
            "--authorization-mode=RBAC".into(),
            format!("--cert-dir={}", file("certs")),
            format!("--token-auth-file={}", file("tokens")),
            format!("--service-account-issuer={ISSUER}"),
            format!("--service-account-key-file={}", file("sa.pub")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            "--disable-admission-plugins=ServiceAccount".into(),
        ];
        let mut start = Command::new(self.assets.join("kube-apiserver"));
        start.args(flags).args(self.flags);
        let server =
            spawn(start, &self.dir.path().join("server.log")).expect("the API server starts");
        self.server = Some(server);
        self.write_kubeconfig("admin", "admin");
    }

    /// Ends the API server at once, as a machine that fails does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().and_then(|()| server.wait()).expect("it runs");
        }
    }

    /// Applies documents.
    pub(crate) fn apply(&self, documents: &str) {
        let applied = self.kubectl(&["apply", "--server-side", "-f", "-"], documents);
        applied.unwrap_or_else(|e| panic!("{e}\n{documents}"));
    }

    /// Runs kubectl as the administrator.
    ///
    /// # Errors
    ///
    /// What it says where it fails.
    pub(crate) fn kubectl(&self, args: &[&str], input: &str) -> Result<String, String> {
        let mut command = Command::new(self.assets.join("kubectl"));
        command
            .arg("--kubeconfig")
            .arg(self.kubeconfig("admin"))
            .args(args);
        let pipes = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut run = || {
            let mut child = pipes.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(input.as_bytes())?;
            }
            child.wait_with_output()
        };
        let output = run().map_err(|e| e.to_string())?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// A kubeconfig file of a user.
    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.dir.path().join(format!("{user}.kubeconfig"))
    }

    /// Writes the kubeconfig file of a user with a token.
    pub(crate) fn write_kubeconfig(&self, user: &str, token: &str) {
        let ca = self.dir.path().join("certs/apiserver.crt");
        let config = format!(
            "{{apiVersion: v1, kind: Config, current-context: c, \
             clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{}', \
             certificate-authority: {}, tls-server-name: kubernetes}}}}], \
             users: [{{name: u, user: {{token: '{token}'}}}}], \
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]}}\n",
            self.ports[2],
            ca.display()
        );
        write(&self.kubeconfig(user), &config);
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("server.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(15).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for child in self.server.iter_mut().chain([&mut self.etcd]) {
            let _ended = child.kill().and_then(|()| child.wait());
        }
    }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn spawn(mut command: Command, log: &Path) -> io::Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}
