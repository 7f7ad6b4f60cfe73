//! Programs that are members of the mesh in two lines: a CA, a control plane and two of them.

#![cfg(all(feature = "control-server", feature = "embed", feature = "file"))]

use std::fs;
use std::future::pending;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use inmesh_core::Mesh;
use inmesh_core::authorize::DefaultAction;
use inmesh_core::model::{Namespace, Workload};
use inmesh_discovery::control::ControlPlane;
use inmesh_discovery::embed::{Embed, FollowControlPlane, Pod, PodError};
use inmesh_discovery::file::FileSource;
use inmesh_discovery::manifest::Defaults;
use inmesh_pki::ca::server::{CaServer, ServerConfigOf};
use inmesh_pki::ca::store::FileStore;
use inmesh_pki::ca::{Asker, Ca, Lifetimes};
use inmesh_pki::clock::{Clock, SystemClock};
use inmesh_pki::issue::csr;
use inmesh_pki::issue::policy::{Attested, Revocations, Rules, may_issue};
use inmesh_pki::source::ca::CaSource;
use inmesh_pki::{Crypto, SpiffeId};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tower::ServiceExt;

/// The longest that anything may take on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(30);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A CA that serves.
struct Issuing {
    ca: Arc<Ca<FileStore>>,
    address: SocketAddr,
    dir: TempDir,
}

fn crypto() -> Crypto {
    Crypto::aws_lc_rs()
}

fn id(namespace: &str, account: &str) -> Result<SpiffeId> {
    Ok(format!("spiffe://cluster.local/ns/{namespace}/sa/{account}").parse()?)
}

impl Issuing {
    async fn begin() -> Result<Self> {
        let dir = TempDir::new()?;
        let store = FileStore::open(&dir.path().join("ca"))?;
        let (domain, clock) = ("cluster.local".parse()?, SystemClock::shared());
        let year = Duration::from_secs(365 * 86_400);
        let lifetimes = Lifetimes {
            root: year,
            issuer: year,
            leaf: Duration::from_secs(3_600),
        };
        let ca = Ca::open(store, &domain, None, lifetimes, &crypto(), clock).await?;
        let ca = Arc::new(ca);
        let rules = Rules::new(domain, "spiffe://cluster.local/inmesh/ca".parse()?);
        let server = CaServer::new(Arc::clone(&ca), ServerConfigOf::new(rules)).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(server.serve(listener, pending()));
        Ok(Self { ca, address, dir })
    }

    /// A folder as a Pod has it mounted, with a token for an ID.
    async fn mounted(&self, namespace: &str, account: &str) -> Result<PathBuf> {
        let dir = self.dir.path().join(account);
        fs::create_dir(&dir)?;
        let until = SystemClock.now() + Duration::from_secs(60);
        let token = self.ca.open_token(&id(namespace, account)?, until).await?;
        fs::write(dir.join("token"), token.as_bytes())?;
        fs::write(
            dir.join("ca.crt"),
            self.ca.published().borrow().bundle.to_pem(),
        )?;
        fs::write(dir.join("labels"), format!("app=\"{account}\"\n"))?;
        Ok(dir)
    }

    fn pod(&self, mounted: &Path, account: &str, control: SocketAddr) -> Pod {
        Pod::new()
            .mounted_in(mounted)
            .account("shop", account)
            .ca(&self.address.to_string())
            .control_plane(&control.to_string())
    }
}

/// A control plane that reads a folder; returns where it is.
async fn control_plane(issuing: &Issuing, documents: &Path) -> Result<SocketAddr> {
    let mounted = issuing.mounted("mesh-system", "mesh-control").await?;
    let own = id("mesh-system", "mesh-control")?;
    let source = CaSource::new(
        own,
        issuing.address.to_string(),
        "spiffe://cluster.local/inmesh/ca".parse()?,
    );
    let source = source
        .trust_bundle(mounted.join("ca.crt"))
        .token(mounted.join("token"));
    let identity = source.start(&crypto()).await?;
    tokio::spawn(identity.task);
    let defaults = Defaults::new(Namespace::new("shop")?)
        .loopback(true)
        .documents();
    let mesh = Mesh::builder()
        .identity(identity.reader)
        .workload(
            Workload::new("mesh-system", "control", "mesh-control")?,
            DefaultAction::Allow,
        )
        .source(FileSource::new(documents, defaults))
        .without_checks()
        .start()?;
    timeout(LIMIT, mesh.ready()).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let plane = ControlPlane::new(&mesh, crypto());
    tokio::spawn(async move { mesh.serve(listener, plane.service()).await });
    Ok(address)
}

async fn get(mesh: &Mesh, host: &str) -> Result<StatusCode> {
    let request = Request::get(format!("http://{host}/")).body(Empty::<Bytes>::new())?;
    let answer = timeout(LIMIT, mesh.client().oneshot(request)).await??;
    Ok(answer.status())
}

#[tokio::test]
async fn two_programs_are_members_in_two_lines() -> Result<()> {
    let issuing = Issuing::begin().await?;
    let documents = TempDir::new()?;
    let policy = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: cart, namespace: shop},
      spec: {selector: {matchLabels: {app: cart}}, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]}}";
    let service = "{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop},
      spec: {ports: [{name: http, port: 80, appProtocol: http}]}}";
    fs::write(
        documents.path().join("all.yaml"),
        format!("{service}\n---\n{policy}\n"),
    )?;
    let control = control_plane(&issuing, documents.path()).await?;

    let mounted = issuing.mounted("shop", "cart").await?;
    let cart = Mesh::builder()
        .kubernetes(issuing.pod(&mounted, "cart", control))
        .await?
        .start()?;
    timeout(LIMIT, cart.ready()).await?;
    assert_eq!(cart.status().policy.selected_by.len(), 1, "by its labels");
    let mounted = issuing.mounted("shop", "web").await?;
    let kept = issuing.dir.path().join("kept");
    let web = issuing.pod(&mounted, "web", control).keep(&kept);
    let web = Mesh::builder().kubernetes(web).await?.start()?;
    timeout(LIMIT, web.ready()).await?;
    assert_eq!(web.local().workload().to_string(), "shop/web");
    // The Service is known by the control plane, and has no endpoint; another is not there.
    assert_eq!(get(&web, "cart").await?, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(&web, "next").await?, StatusCode::NOT_FOUND);

    Ok(())
}

/// A control plane that knows the Service `cart` alone; its folder is followed.
async fn control_of_cart(issuing: &Issuing) -> Result<(TempDir, SocketAddr)> {
    let documents = TempDir::new()?;
    let service = "{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {ports: [{port: 80}]}}";
    fs::write(documents.path().join("all.yaml"), service)?;
    let control = control_plane(issuing, documents.path()).await?;
    Ok((documents, control))
}

/// A Pod certificate, as a kubelet has it signed and written.
async fn certify(issuing: &Issuing, mounted: &Path, of: &SpiffeId) -> Result<String> {
    let (key, csr) = csr::generate(of, &crypto())?;
    let rules = Rules::new(
        of.trust_domain().clone(),
        "spiffe://cluster.local/inmesh/ca".parse()?,
    );
    let proven = Attested::JoinToken { id: of.clone() };
    let (none, now) = (Revocations::none(), SystemClock.now());
    let grant = may_issue(&proven, None, &rules, None, &none, now)?;
    let issued = issuing.ca.issue(&grant, &csr, &Asker::default()).await?;
    let credentials = [key.to_secret_pem().as_str(), &issued.chain_pem()].concat();
    let temporary = mounted.join("..new");
    fs::write(&temporary, credentials)?;
    fs::rename(temporary, mounted.join("credentials.pem"))?;
    Ok(issued.serial)
}

#[tokio::test]
async fn a_pod_certificate_needs_no_token_and_no_ca() -> Result<()> {
    let issuing = Issuing::begin().await?;
    let (_documents, control) = control_of_cart(&issuing).await?;
    let mounted = issuing.mounted("shop", "web").await?;
    fs::remove_file(mounted.join("token"))?;
    let web = id("shop", "web")?;
    let first = certify(&issuing, &mounted, &web).await?;
    let pod = || {
        let pod = Pod::new().mounted_in(&mounted).ca("127.0.0.1:1");
        pod.control_plane(&control.to_string())
    };
    let mesh = Mesh::builder().kubernetes(pod()).await?.start()?;
    timeout(LIMIT, mesh.ready()).await?;
    assert_eq!(mesh.local().workload().to_string(), "shop/web");
    assert_eq!(get(&mesh, "cart").await?, StatusCode::SERVICE_UNAVAILABLE);

    let renewals = async |wanted: u64| {
        while mesh.status().renewal.renewals != wanted {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(LIMIT, renewals(1)).await?;
    let renewed = certify(&issuing, &mounted, &web).await?;
    assert_ne!(first, renewed);
    timeout(LIMIT, renewals(2)).await?;

    // It is what was meant, or nothing.
    let domain = "prod.example".parse()?;
    for (pod, why) in [
        (pod().trust_domain(domain), "trust domain prod.example"),
        (pod().account("shop", "cart"), "of shop/cart"),
    ] {
        let refused = Mesh::builder().kubernetes(pod).await;
        let said = refused.err().ok_or("it is refused")?.to_string();
        assert!(said.contains(why), "{said}");
    }
    let odd = "spiffe://cluster.local/ns/shop/sa/web/more".parse()?;
    certify(&issuing, &mounted, &odd).await?;
    let refused = Mesh::builder().kubernetes(pod()).await.err();
    let said = refused.ok_or("it is refused")?.to_string();
    assert!(said.contains("that of a service account"), "{said}");
    fs::write(mounted.join("credentials.pem"), "")?;
    let refused = Mesh::builder().kubernetes(pod()).await.err();
    assert!(matches!(refused, Some(PodError::Files(_))), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn a_program_outside_follows_a_control_plane() -> Result<()> {
    let issuing = Issuing::begin().await?;
    let (_documents, control) = control_of_cart(&issuing).await?;
    let mounted = issuing.mounted("shop", "web").await?;
    let source = CaSource::new(
        id("shop", "web")?,
        issuing.address.to_string(),
        "spiffe://cluster.local/inmesh/ca".parse()?,
    );
    let source = source
        .trust_bundle(mounted.join("ca.crt"))
        .token(mounted.join("token"));
    let identity = source.start(&crypto()).await?;
    tokio::spawn(identity.task);
    let mesh = Mesh::builder()
        .identity(identity.reader)
        .workload(Workload::new("shop", "web", "web")?, DefaultAction::Deny)
        .control_plane(&control.to_string(), id("mesh-system", "mesh-control")?)?
        .start()?;
    timeout(LIMIT, mesh.ready()).await?;
    assert_eq!(get(&mesh, "cart").await?, StatusCode::SERVICE_UNAVAILABLE);
    Ok(())
}
