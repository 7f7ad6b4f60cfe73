//! The demo's mesh: a CA, five workloads, nine agents' worth of sockets. All but one live in this
//! process; the one that gets a signal is a child.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use inmesh_core::Mesh;
use inmesh_core::runtime::Listen;
use inmesh_pki::Crypto;
use inmesh_pki::clock::SystemClock;
use inmesh_pki::issue::dev::DevCa;
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
pub(super) struct CartEndpoint {
    pub(super) name: String,
    pub(super) mood: Arc<Mood>,
}

/// The whole of it.
pub(super) struct World {
    pub(super) web: Mesh,
    pub(super) load: Mesh,
    pub(super) intruder: Mesh,
    pub(super) meshes: Vec<(&'static str, Mesh)>,
    pub(super) v1: Vec<CartEndpoint>,
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

/// The folders of all agents, removed with everything in them.
struct Home {
    dir: TempDir,
    ca: PathBuf,
    folders: Vec<PathBuf>,
}

/// The applications of cart with their sockets, before an agent serves them.
struct CartApps {
    /// All but the child's, each with the address of its application.
    sockets: Vec<(TcpListener, SocketAddr)>,
    v1: Vec<CartEndpoint>,
    places: [Vec<Place>; 2],
    child: ChildEndpoint,
}

/// The last endpoint of v2, which a process of its own serves.
struct ChildEndpoint {
    name: String,
    app: SocketAddr,
    address: SocketAddr,
}

impl World {
    /// Builds everything and waits until it is ready.
    pub(super) async fn build() -> anyhow::Result<Self> {
        let mut home = Home::create()?;

        // ledger: one plain server behind its agent.
        let ledger_app = apps::ledger().await?;
        let ledger_in = bind().await?;
        let ledger_at = ledger_in.local_addr()?;
        let listeners = inbound(ledger_at, ledger_app);
        let ledger = home.agent("ledger", "v1", &listeners).await?;

        // cart: six plain servers; five behind one agent, the last behind the child.
        let cart_out = bind().await?;
        let cart_out_at = cart_out.local_addr()?;
        let cart = CartApps::start(cart_out_at).await?;
        let listeners = cart.listeners(cart_out_at)?;
        let cart_mesh = home.agent("cart", "v1", &listeners).await?;
        let child_admin = reserve().await?.local_addr()?;
        let child_dir = home.write_child(&cart.child, child_admin)?;

        // web embeds the mesh; load and an intruder are clients.
        let web = home.agent("web", "v1", "").await?;
        let door = bind().await?;
        let door_at = door.local_addr()?;
        let listeners = outbound(door_at, "web");
        let load = home.agent("load", "v1", &listeners).await?;
        let intruder = home.agent("intruder", "v1", "").await?;
        let web_in = bind().await?;

        home.publish_services(web_in.local_addr()?, ledger_at)?;
        let child = home.spawn_child(&child_dir, &cart.child.name)?;

        let behind_ledger = Listen::Inbound(behind(ledger_app));
        serve(&ledger, vec![(ledger_in, behind_ledger)]);
        let sockets = cart.sockets.into_iter();
        let mut all: Vec<_> = sockets
            .map(|(socket, app)| (socket, Listen::Inbound(behind(app))))
            .collect();
        all.push((cart_out, to("ledger")?));
        serve(&cart_mesh, all);
        serve(&load, vec![(door, to("web")?)]);
        tokio::spawn({
            let (web, app) = (web.clone(), apps::web(web.client()));
            async move { web.serve(web_in, app).await }
        });
        let world = Self {
            meshes: vec![
                ("load", load.clone()),
                ("web", web.clone()),
                ("cart", cart_mesh),
                ("ledger", ledger),
            ],
            web,
            load,
            intruder,
            v1: cart.v1,
            child,
            child_name: cart.child.name,
            child_admin,
            places: cart.places,
            folders: home.folders,
            door: door_at,
            _home: home.dir,
        };
        world.publish_cart()?;
        world.publish("route.yaml", &docs::canary(100, 0))?;
        timeout(READY, world.ready()).await.map_err(|_| {
            anyhow::anyhow!("the mesh was not ready within {} s", READY.as_secs())
        })??;
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
        let admin = self.child_admin.into();
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

// === impl Home ===

impl Home {
    /// An empty folder with a CA in it.
    fn create() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("mesh-demo-").tempdir()?;
        let ca = dir.path().join("ca");
        let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock::shared());
        DevCa::init(&ca, docs::DOMAIN.parse()?, &crypto, clock)?;
        Ok(Self {
            dir,
            ca,
            folders: Vec::new(),
        })
    }

    fn folder(&mut self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.dir.path().join(name);
        std::fs::create_dir(&dir)?;
        self.folders.push(dir.clone());
        Ok(dir)
    }

    /// Starts an agent in this process from a file, as `mesh proxy` does.
    async fn agent(&mut self, name: &str, version: &str, listeners: &str) -> anyhow::Result<Mesh> {
        let dir = self.folder(name)?;
        let file = docs::agent(name, version, &self.ca, listeners, "");
        docs::publish(&dir, "agent.yaml", &file)?;
        match agent::find(&dir)? {
            Found::Agent(agent) => {
                let started = proxy::start(&agent, dir).await?;
                let mesh = started.mesh.clone();
                started.identified(&agent).await?;
                Ok(mesh)
            }
            Found::Refused(problems) => {
                let all: Vec<_> = problems.iter().map(ToString::to_string).collect();
                bail!("{name}: {}", all.join("; "))
            }
            Found::None(_) => bail!("{name}: no agent's file"),
        }
    }

    /// Writes the file of the agent that runs in the child.
    fn write_child(&mut self, child: &ChildEndpoint, admin: SocketAddr) -> anyhow::Result<PathBuf> {
        let dir = self.folder("cart-child")?;
        let admin = format!("admin: {{bind: \"{admin}\"}}\n");
        let listeners = inbound(child.address, child.app);
        let file = docs::agent("cart", "v2", &self.ca, &listeners, &admin);
        docs::publish(&dir, "agent.yaml", &file)?;
        Ok(dir)
    }

    /// Writes what all agents know; cart's endpoints come with [`World::publish_cart`].
    fn publish_services(&self, web: SocketAddr, ledger: SocketAddr) -> anyhow::Result<()> {
        let one = |address| {
            [Place {
                address,
                ready: true,
            }]
        };
        let web = docs::service("web", "web", "v1", &one(web));
        let ledger = docs::service("ledger", "ledger", "v1", &one(ledger));
        for dir in &self.folders {
            docs::publish(dir, "web.yaml", &web)?;
            docs::publish(dir, "ledger.yaml", &ledger)?;
            docs::publish(dir, "cart.yaml", &docs::service("cart", "cart", "", &[]))?;
            docs::publish(dir, "policies.yaml", &docs::policies())?;
        }
        Ok(())
    }

    fn spawn_child(&self, dir: &Path, name: &str) -> anyhow::Result<Child> {
        let mut log = std::fs::File::create(self.dir.path().join("child.log"))?;
        writeln!(log, "the agent of {name}")?;
        Command::new(std::env::current_exe()?)
            .args(["proxy", "--log", "info", "--config"])
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("starting the child")
    }
}

// === impl CartApps ===

impl CartApps {
    /// Starts three applications of each version, which call on through `out`.
    async fn start(out: SocketAddr) -> anyhow::Result<Self> {
        let (mut sockets, mut v1, mut places) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
        let mut child = None;
        for (v, version) in ["v1", "v2"].into_iter().enumerate() {
            for n in 0..3 {
                let name = format!("cart-{version}-{n}");
                let (app, mood) = apps::cart(version, &name, out).await?;
                let of_child = (v, n) == (1, 2);
                let socket = if of_child {
                    reserve().await?
                } else {
                    bind().await?
                };
                let address = socket.local_addr()?;
                places[v].push(Place {
                    address,
                    ready: true,
                });
                if of_child {
                    // Its socket is closed here, so that the child can bind it again.
                    let name = name.clone();
                    child = Some(ChildEndpoint { name, app, address });
                } else {
                    sockets.push((socket, app));
                }
                if v == 0 {
                    v1.push(CartEndpoint { name, mood });
                }
            }
        }
        Ok(Self {
            sockets,
            v1,
            places,
            child: child.context("the child serves an endpoint of v2")?,
        })
    }

    /// The listeners of the agent that serves all but the child's.
    fn listeners(&self, out: SocketAddr) -> anyhow::Result<String> {
        let mut listeners = outbound(out, "ledger");
        for (socket, app) in &self.sockets {
            listeners += &inbound_item(socket.local_addr()?, *app);
        }
        Ok(listeners)
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

fn behind(app: SocketAddr) -> inmesh_core::runtime::InboundListener {
    inmesh_core::runtime::InboundListener::new(app, inmesh_core::model::AppProtocol::Http1)
}

fn to(service: &str) -> anyhow::Result<Listen> {
    use inmesh_core::model::{AppProtocol, Namespace, ServiceName};
    let service = ServiceName::new(&Namespace::new(docs::NAMESPACE)?, service)?;
    let to = inmesh_core::runtime::OutboundListener::to(service, 80, AppProtocol::Http1);
    Ok(Listen::Outbound(to))
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
