//! The processes of a proxy: one beside the caller, and for adaptive concurrency one before each backend.

use std::fs::File;
use std::net::{SocketAddr, TcpListener as Reserve};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http::StatusCode;

use crate::Fallible;
use crate::load::get;
use crate::scenario::{Event, Scenario};
use crate::{envoy, mesh};

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Envoy,
    Mesh,
}

/// The programs that are compared, and where their documents go.
pub(crate) struct Programs {
    pub(crate) mesh: PathBuf,
    pub(crate) envoy: PathBuf,
    pub(crate) home: PathBuf,
}

/// A running proxy; its processes are killed when dropped.
pub(crate) struct Proxy {
    /// Where it listens for the caller.
    pub(crate) door: SocketAddr,
    kind: Kind,
    dir: PathBuf,
    /// What it forwards to: the backends, or the proxies before them.
    endpoints: Vec<SocketAddr>,
    processes: Vec<Process>,
}

struct Process(Child);

// === impl Programs ===

impl Programs {
    fn program(&self, kind: Kind) -> &Path {
        match kind {
            Kind::Envoy => &self.envoy,
            Kind::Mesh => &self.mesh,
        }
    }

    pub(crate) fn version(&self, kind: Kind) -> Fallible<String> {
        let said = Command::new(self.program(kind)).arg("--version").output()?;
        let said = String::from_utf8(said.stdout)?;
        let version = match kind {
            // `envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`
            Kind::Envoy => said.split('/').rev().nth(3),
            Kind::Mesh => said.split_whitespace().nth(1),
        };
        Ok(version.ok_or("no version")?.to_owned())
    }

    /// Makes the CA that every agent mints its identity from.
    pub(crate) fn authority(&self) -> Fallible<()> {
        let mut command = Command::new(&self.mesh);
        command.args(["ca", "init", "--trust-domain", "bench.local"]);
        let made = command.arg(self.home.join("ca")).output()?;
        match made.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&made.stderr).into()),
        }
    }

    fn start(&self, kind: Kind, dir: &Path) -> Fallible<Process> {
        let mut command = Command::new(self.program(kind));
        match kind {
            // Two workers for two cores. The flag skips shared memory, of which a second one would be in the way.
            Kind::Envoy => command
                .args(["--concurrency", "2", "--disable-hot-restart"])
                .args(["--log-level", "error", "-c"])
                .arg(dir.join("envoy.json")),
            Kind::Mesh => command
                .args(["proxy", "--log", "error", "--config"])
                .arg(dir),
        };
        let log = File::create(dir.with_extension("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?);
        Ok(Process(command.stderr(log).spawn()?))
    }
}

// === impl Proxy ===

impl Proxy {
    /// Starts what a scenario needs before these backends, and waits until it serves.
    pub(crate) async fn start(
        programs: &Programs,
        kind: Kind,
        scenario: &Scenario,
        backends: &[SocketAddr],
    ) -> Fallible<Self> {
        let work = tempfile::tempdir_in(&programs.home)?.keep();
        let mut processes = Vec::new();
        let mut endpoints = backends.to_vec();
        if let Some(adaptive) = scenario.adaptive {
            for (nth, endpoint) in endpoints.iter_mut().enumerate() {
                let (dir, door) = (work.join(format!("before-{nth}")), free()?);
                std::fs::create_dir(&dir)?;
                match kind {
                    Kind::Envoy => envoy::before(&dir, door, *endpoint, adaptive)?,
                    Kind::Mesh => mesh::before(&dir, door, *endpoint, adaptive)?,
                }
                processes.push(programs.start(kind, &dir)?);
                serves(door, "/", StatusCode::OK, &dir).await?;
                *endpoint = door;
            }
        }
        let (dir, door, admin) = (work.join("beside"), free()?, free()?);
        std::fs::create_dir(&dir)?;
        match kind {
            Kind::Envoy => envoy::beside(&dir, door, admin, scenario)?,
            Kind::Mesh => mesh::beside(&dir, door, admin, scenario)?,
        }
        let mut proxy = Self {
            door,
            kind,
            dir,
            endpoints,
            processes,
        };
        proxy.announce(None)?;
        proxy.processes.push(programs.start(kind, &proxy.dir)?);
        let ready = match kind {
            Kind::Envoy => "/ready",
            Kind::Mesh => "/readyz",
        };
        serves(admin, ready, StatusCode::OK, &proxy.dir).await?;
        let expected = match scenario.event {
            Event::Refuse => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::OK,
        };
        serves(door, "/", expected, &proxy.dir).await?;
        Ok(proxy)
    }

    /// Says which endpoints there are, and which one of them is draining.
    pub(crate) fn announce(&self, draining: Option<usize>) -> Fallible<()> {
        let (name, text) = match self.kind {
            Kind::Envoy => (
                "endpoints.json",
                envoy::endpoints(&self.endpoints, draining),
            ),
            Kind::Mesh => ("endpoints.yaml", mesh::endpoints(&self.endpoints, draining)),
        };
        // Renamed over the old one, so that no proxy reads half of it.
        let beside = self.dir.join(".new");
        std::fs::write(&beside, text)?;
        std::fs::rename(beside, self.dir.join(name))?;
        Ok(())
    }
}

// === impl Process ===

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

/// An address that was free a moment ago.
fn free() -> Fallible<SocketAddr> {
    Ok(Reserve::bind("127.0.0.1:0")?.local_addr()?)
}

/// Waits until an address gives this answer.
async fn serves(at: SocketAddr, path: &str, expected: StatusCode, dir: &Path) -> Fallible<()> {
    let mut seen = String::new();
    for _ in 0..600 {
        // The admin surface answers to its address alone.
        let host = if path == "/" {
            "app".to_owned()
        } else {
            at.to_string()
        };
        match get(at, &host, path).await {
            Ok(status) if expected == status => return Ok(()),
            Ok(status) => seen = status.to_string(),
            Err(error) => seen = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let log = std::fs::read_to_string(dir.with_extension("log"))?;
    Err(format!("{} does not serve {path}: {seen}\n{log}", dir.display()).into())
}
