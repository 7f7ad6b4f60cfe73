//! The control plane as a child process: what it uses, and what it says of its subscribers.

use std::fmt;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use inmesh_pki::Crypto;
use inmesh_pki::clock::SystemClock;
use inmesh_pki::issue::dev::DevCa;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::Fallible;

/// Clock ticks a second in /proc, on every Linux.
const TICKS: u64 = 100;
/// How long the process may use nothing before what it used is read.
const QUIET: Duration = Duration::from_secs(2);

pub(crate) struct Plane {
    dir: TempDir,
    child: Child,
    pub(crate) ca: DevCa,
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    /// From the start to ready.
    pub(crate) took: Duration,
}

/// What a process has used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    /// Resident, in KiB: now, and the most there ever was.
    resident: (u64, u64),
}

/// What it has sent.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) bytes: u64,
    responses: u64,
}

impl Plane {
    pub(crate) async fn start(kubeconfig: &Path) -> Fallible<Self> {
        let dir = TempDir::new()?;
        let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock::shared());
        let ca = DevCa::init(
            &dir.path().join("ca"),
            "cluster.local".parse()?,
            &crypto,
            clock,
        )?;
        let (address, admin) = (free()?, free()?);
        let config = dir.path().join("control");
        fs::create_dir(&config)?;
        let file = format!(
            "apiVersion: inmesh.dev/v1alpha1
kind: Agent
workload: {{namespace: mesh-system, name: control, serviceAccount: control}}
defaultAction: allow
peers: strict
identity: {{developmentCA: {{dir: ../ca, lifetime: 24h}}}}
admin: {{bind: '{admin}'}}
kubernetes: {{kubeconfig: {}, trustDomain: cluster.local}}
controlPlane: {{bind: '{address}', writeStatus: false}}
",
            kubeconfig.display()
        );
        fs::write(config.join("agent.yaml"), file)?;
        let begun = Instant::now();
        let child = spawn(&config)?;
        let mut plane = Self {
            dir,
            child,
            ca,
            address,
            admin,
            took: Duration::ZERO,
        };
        plane.ready().await?;
        plane.took = begun.elapsed();
        Ok(plane)
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("control")
    }

    async fn ready(&self) -> Fallible<()> {
        for _ in 0..6_000 {
            if self
                .get("/readyz")
                .await
                .is_ok_and(|(status, _)| status == 200)
            {
                return Ok(());
            }
            sleep(Duration::from_millis(10)).await;
        }
        let log = fs::read_to_string(self.config().join("log")).unwrap_or_default();
        Err(format!("the control plane is not ready: {log}").into())
    }

    /// Ends it at once and starts it anew.
    pub(crate) async fn restart(&mut self) -> Fallible<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = spawn(&self.config())?;
        self.ready().await
    }

    async fn get(&self, path: &str) -> Fallible<(u16, String)> {
        let mut stream = TcpStream::connect(self.admin).await?;
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.admin
        );
        stream.write_all(head.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        let status = head.split(' ').nth(1).ok_or("no status")?.parse()?;
        Ok((status, body.to_owned()))
    }

    /// A metric.
    async fn metric(&self, name: &str) -> Fallible<u64> {
        let (_, text) = self.get("/metrics").await?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.ok_or_else(|| format!("no metric {name}"))?.parse()?)
    }

    pub(crate) async fn counts(&self) -> Fallible<Counts> {
        Ok(Counts {
            bytes: self.metric("mesh_control_response_bytes_total").await?,
            responses: self.metric("mesh_control_responses_total").await?,
        })
    }

    /// Waits until so many subscribers have all that concerns them.
    pub(crate) async fn converged(&self, subscribers: usize, limit: Duration) -> Fallible<()> {
        let end = Instant::now() + limit;
        let want = u64::try_from(subscribers)?;
        while Instant::now() < end {
            let have = self
                .metric("mesh_control_subscribers{state=\"converged\"}")
                .await;
            if have.is_ok_and(|have| have == want) {
                return Ok(());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Err("the subscribers have not converged in time".into())
    }

    /// What it has used once it rests.
    pub(crate) async fn settled(&self) -> Fallible<Usage> {
        loop {
            let before = self.usage()?;
            sleep(QUIET).await;
            let after = self.usage()?;
            if after.cpu - before.cpu < QUIET / 20 {
                return Ok(before);
            }
        }
    }

    pub(crate) fn usage(&self) -> Fallible<Usage> {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let stat = fs::read_to_string(proc.join("stat"))?;
        // The name before it may have spaces.
        let (_, fields) = stat.rsplit_once(')').ok_or("no stat")?;
        let field = |n: usize| {
            fields
                .split_whitespace()
                .nth(n)
                .and_then(|f| f.parse::<u64>().ok())
        };
        let ticks = field(11).zip(field(12)).map(|(user, system)| user + system);
        let status = fs::read_to_string(proc.join("status"))?;
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let cpu = Duration::from_millis(ticks.ok_or("no ticks")? * 1_000 / TICKS);
        let resident = (
            of("VmRSS:").ok_or("no VmRSS")?,
            of("VmHWM:").ok_or("no VmHWM")?,
        );
        Ok(Usage { cpu, resident })
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

fn spawn(config: &Path) -> Fallible<Child> {
    let log = File::create(config.join("log"))?;
    let child = Command::new(env!("CARGO_BIN_EXE_mesh"))
        .args(["control", "--log", "warn", "--dir"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    Ok(child)
}

fn free() -> Fallible<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (now, most) = self.resident;
        write!(
            f,
            "{} MiB resident (at most {}), {:?} of CPU",
            now / 1024,
            most / 1024,
            self.cpu
        )
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} responses of {} KiB",
            self.responses,
            self.bytes / 1024
        )
    }
}
