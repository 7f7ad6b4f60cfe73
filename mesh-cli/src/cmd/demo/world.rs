//! The demo's mesh: a CA, five workloads, nine agents' worth of sockets. All but one live in this
//! process; the one that gets a signal is a child.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use inmesh_core::Mesh;
use inmesh_core::runtime::Listen;
use inmesh_pki::clock::SystemClock;
use inmesh_pki::issue::dev::DevCa;
use inmesh_pki::tls::Crypto;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::apps::{self, Mood};
use super::docs::{self, Place};
use crate::agent::{self, Found};
use crate::cmd::proxy;
use crate::fetch;

/// How long the mesh may take to be ready.
const READY: Duration = Duration::from_secs(15);

/// One endpoint of cart.
pub(super) struct Endpoint {
    pub(super) name: String,
    pub(super) mood: Arc<Mood>,
}

/// The whole of it.
pub(super) struct World {
    pub(super) web: Mesh,
    pub(super) load: Mesh,
    pub(super) intruder: Mesh,
    pub(super) meshes: Vec<(&'static str, Mesh)>,
    pub(super) v1: Vec<Endpoint>,
    pub(super) child: Child,
    /// The child's endpoint of cart v2.
    pub(super) child_name: String,
    child_admin: SocketAddr,
    places: [Vec<Place>; 2],
    folders: Vec<PathBuf>,
    /// Where a person's curl goes.
    pub(super) door: SocketAddr,
    // Removed with everything in it when the world ends.
    _home: TempDir,
}

impl World {
    /// Builds everything and waits until it is ready.
    pub(super) async fn build() -> anyhow::Result<Self> {
        let home = tempfile::Builder::new().prefix("mesh-demo-").tempdir()?;
        let ca = home.path().join("ca");
        let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock::shared());
        DevCa::init(&ca, docs::DOMAIN.parse()?, &crypto, clock)?;
        let mut folders = Vec::new();
        let mut folder = |name: &str| -> anyhow::Result<PathBuf> {
            let dir = home.path().join(name);
            std::fs::create_dir(&dir)?;
            folders.push(dir.clone());
            Ok(dir)
        };

        // ledger: one plain server behind its agent.
        let ledger_app = apps::ledger().await?;
        let ledger_in = bind().await?;
        let ledger_at = ledger_in.local_addr()?;
        let dir = folder("ledger")?;
        let ledger = agent("ledger", "v1", &ca, &dir, &inbound(ledger_at, ledger_app)).await?;

        // cart: six plain servers; five behind one agent, the last behind the child.
        let cart_out = bind().await?;
        let cart_out_at = cart_out.local_addr()?;
        let (mut sockets, mut v1, mut places) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
        let (mut child_app, mut child_name) = (None, String::new());
        for (v, version) in ["v1", "v2"].into_iter().enumerate() {
            for n in 0..3 {
                let name = format!("cart-{version}-{n}");
                let (app, mood) = apps::cart(version, &name, cart_out_at).await?;
                let child = (v, n) == (1, 2);
                let socket = if child {
                    reserve().await?
                } else {
                    bind().await?
                };
                let address = socket.local_addr()?;
                places[v].push(Place {
                    address,
                    ready: true,
                });
                if child {
                    child_name.clone_from(&name);
                    child_app = Some((app, address));
                    // The child binds it again.
                    drop(socket);
                } else {
                    sockets.push((socket, app));
                }
                if v == 0 {
                    v1.push(Endpoint { name, mood });
                }
            }
        }
        let mut listeners = outbound(cart_out_at, "ledger");
        for (socket, app) in &sockets {
            listeners += &inbound_item(socket.local_addr()?, *app);
        }
        let dir = folder("cart")?;
        let cart = agent("cart", "v1", &ca, &dir, &listeners).await?;
        let (app, child_at) = child_app.context("the child serves an endpoint of v2")?;
        let child_admin = reserve().await?.local_addr()?;
        let dir = folder("cart-child")?;
        let admin = format!("admin: {{bind: \"{child_admin}\"}}\n");
        let file = docs::agent("cart", "v2", &ca, &inbound(child_at, app), &admin);
        docs::publish(&dir, "agent.yaml", &file)?;
        let child_dir = dir;

        // web embeds the mesh; load and an intruder are clients.
        let web = agent("web", "v1", &ca, &folder("web")?, "").await?;
        let door = bind().await?;
        let door_at = door.local_addr()?;
        let load = agent(
            "load",
            "v1",
            &ca,
            &folder("load")?,
            &outbound(door_at, "web"),
        )
        .await?;
        let intruder = agent("intruder", "v1", &ca, &folder("intruder")?, "").await?;
        let web_in = bind().await?;
        let web_at = web_in.local_addr()?;

        let one = |address| {
            [Place {
                address,
                ready: true,
            }]
        };
        for dir in &folders {
            docs::publish(
                dir,
                "web.yaml",
                &docs::service("web", "web", "v1", &one(web_at)),
            )?;
            let text = docs::service("ledger", "ledger", "v1", &one(ledger_at));
            docs::publish(dir, "ledger.yaml", &text)?;
            docs::publish(dir, "cart.yaml", &docs::service("cart", "cart", "", &[]))?;
            docs::publish(dir, "policies.yaml", &docs::policies())?;
        }
        let mut stdio = std::fs::File::create(home.path().join("child.log"))?;
        {
            use std::io::Write;
            writeln!(stdio, "the agent of {child_name}")?;
        }
        let child = Command::new(std::env::current_exe()?)
            .args(["proxy", "--log", "info", "--config"])
            .arg(&child_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stdio)
            .kill_on_drop(true)
            .spawn()
            .context("starting the child")?;

        serve(
            &ledger,
            vec![(ledger_in, Listen::Inbound(behind(ledger_app)))],
        );
        let mut all: Vec<_> = sockets
            .into_iter()
            .map(|(socket, app)| (socket, Listen::Inbound(behind(app))))
            .collect();
        all.push((cart_out, to("ledger")?));
        serve(&cart, all);
        serve(&load, vec![(door, to("web")?)]);
        tokio::spawn({
            let (web, app) = (web.clone(), apps::web(web.client()));
            async move { web.serve(web_in, app).await }
        });
        let world = Self {
            meshes: vec![
                ("load", load.clone()),
                ("web", web.clone()),
                ("cart", cart),
                ("ledger", ledger),
            ],
            web,
            load,
            intruder,
            v1,
            child,
            child_name,
            child_admin,
            places,
            folders,
            door: door_at,
            _home: home,
        };
        world.publish_cart()?;
        world.publish("route.yaml", &docs::canary(100, 0))?;
        timeout(READY, world.ready())
            .await
            .map_err(|_| anyhow::anyhow!("the mesh was not ready within {READY:?}"))??;
        Ok(world)
    }

    /// Writes a document into the folder of every agent.
    pub(super) fn publish(&self, name: &str, text: &str) -> anyhow::Result<()> {
        for dir in &self.folders {
            docs::publish(dir, name, text)?;
        }
        Ok(())
    }

    /// Marks the child's endpoint as terminating, as Kubernetes does when a pod gets its signal.
    pub(super) fn retire_child(&mut self) -> anyhow::Result<()> {
        if let Some(place) = self.places[1].last_mut() {
            place.ready = false;
        }
        self.publish_cart()
    }

    fn publish_cart(&self) -> anyhow::Result<()> {
        for (version, places) in ["v1", "v2"].iter().zip(&self.places) {
            let name = format!("cart-{version}");
            let text = docs::service(&name, "cart", version, places);
            self.publish(&format!("{name}.yaml"), &text)?;
        }
        Ok(())
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let admin = self.child_admin.to_string();
        loop {
            let child = fetch::admin(http::Method::GET, &admin, "/readyz")
                .await
                .is_ok();
            let knows = |mesh: &Mesh, service: &str| {
                let status = mesh.status();
                status.ready
                    && status
                        .services
                        .iter()
                        .any(|s| s.service.starts_with(service))
            };
            let all = self.meshes.iter().all(|(_, mesh)| knows(mesh, "cart-v2."));
            let routed = self.web.status().services.iter().any(|s| s.routed);
            if child && all && routed && knows(&self.intruder, "cart.") {
                return Ok(());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn bind() -> anyhow::Result<TcpListener> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).await?)
}

/// A socket for the child to bind again, at a port below those that the kernel gives to outgoing
/// connections, so that none takes it meanwhile.
async fn reserve() -> anyhow::Result<TcpListener> {
    for _ in 0..100 {
        let port = rand::random_range(20_000..32_000);
        if let Ok(socket) = TcpListener::bind(("127.0.0.1", port)).await {
            return Ok(socket);
        }
    }
    bail!("no port between 20000 and 32000 is free")
}

fn inbound_item(bind: SocketAddr, app: SocketAddr) -> String {
    format!("- {{bind: \"{bind}\", inbound: {{app: \"{app}\", appProtocol: http}}}}\n")
}

fn inbound(bind: SocketAddr, app: SocketAddr) -> String {
    format!("listeners:\n{}", inbound_item(bind, app))
}

fn outbound(bind: SocketAddr, service: &str) -> String {
    format!(
        "listeners:\n- {{bind: \"{bind}\", outbound: {{appProtocol: http, service: {{name: {service}, port: 80}}}}}}\n"
    )
}

fn behind(app: SocketAddr) -> inmesh_core::runtime::Inbound {
    inmesh_core::runtime::Inbound::new(app, inmesh_core::model::AppProtocol::Http1)
}

fn to(service: &str) -> anyhow::Result<Listen> {
    use inmesh_core::model::{AppProtocol, Namespace, ServiceName};
    let service = ServiceName::new(&Namespace::new(docs::NAMESPACE)?, service)?;
    let to = inmesh_core::runtime::OutboundListener::to(service, 80, AppProtocol::Http1);
    Ok(Listen::Outbound(to))
}

/// Starts an agent in this process from a file, as `mesh proxy` does.
async fn agent(
    name: &str,
    version: &str,
    ca: &Path,
    dir: &Path,
    listeners: &str,
) -> anyhow::Result<Mesh> {
    docs::publish(
        dir,
        "agent.yaml",
        &docs::agent(name, version, ca, listeners, ""),
    )?;
    match agent::find(dir)? {
        Found::Agent(agent) => Ok(proxy::start(&agent, dir.to_owned()).await?.0),
        Found::Refused(problems) => bail!("{name}: {problems:?}"),
        Found::None => bail!("{name}: no agent's file"),
    }
}

fn serve(mesh: &Mesh, sockets: Vec<(TcpListener, Listen)>) {
    for (socket, listen) in sockets {
        tokio::spawn(proxy::serve(mesh.clone(), socket, listen));
    }
}

/// Leaf certificates that a mesh has replaced.
pub(super) fn rotations(mesh: &Mesh) -> u64 {
    let metrics = mesh.encode_metrics();
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("mesh_certificate_rotations_total "));
    line.and_then(|n| n.parse().ok()).unwrap_or_default()
}
