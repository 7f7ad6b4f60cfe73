//! `production.rs` against a real CA: its documents, its policy, gRPC, the drain, and a second start
//! from the identity that it kept.

#[expect(dead_code, reason = "its main takes arguments")]
#[path = "../production.rs"]
mod production;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http_body_util::BodyExt;
use inmesh_core::authorize::DefaultAction;
use inmesh_core::model::Workload;
use inmesh_core::pki::source::ca::CaSource;
use inmesh_core::pki::{Crypto, SpiffeId};
use inmesh_core::{Body, Mesh};
use inmesh_discovery::file::FileSource;
use inmesh_discovery::manifest::Defaults;
use inmesh_pki::ca::server::{CaServer, ServerConfigOf};
use inmesh_pki::ca::store::FileStore;
use inmesh_pki::ca::{Ca, Lifetimes};
use inmesh_pki::clock::{Clock, SystemClock};
use inmesh_pki::issue::policy::Rules;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

type Tested<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const CA_ID: &str = "spiffe://lab.example/inmesh/ca";

/// Callers may read `/hello` and greet; nothing else is permitted.
const POLICY: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: greeter-from-web, namespace: shop}
spec:
  selector: {matchLabels: {app: greeter}}
  action: ALLOW
  rules:
  - from:
    - source: {principals: ["lab.example/ns/shop/sa/web"]}
    to:
    - operation: {paths: ["/hello", "/shop.Greeter/*"]}
"#;

fn service(port: u16) -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: greeter, namespace: shop}}
spec:
  ports: [{{name: http, port: 80, appProtocol: grpc}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: greeter-1
  namespace: shop
  labels: {{kubernetes.io/service-name: greeter}}
  annotations: {{inmesh.dev/ids: "spiffe://lab.example/ns/shop/sa/greeter"}}
addressType: IPv4
ports: [{{name: http, port: {port}}}]
endpoints: [{{addresses: [127.0.0.1]}}]
"#
    )
}

/// A CA that serves, and a folder for each of its members.
struct Lab {
    ca: Arc<Ca<FileStore>>,
    address: SocketAddr,
    crypto: Crypto,
}

impl Lab {
    async fn start(dir: &Path) -> Tested<Self> {
        let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock::shared());
        let (store, domain) = (FileStore::open(dir)?, "lab.example".parse()?);
        let ca = Ca::open(store, &domain, None, Lifetimes::default(), &crypto, clock).await?;
        let ca = Arc::new(ca);
        let config = ServerConfigOf::new(Rules::new(domain, CA_ID.parse()?));
        let server = CaServer::new(Arc::clone(&ca), config).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(server.serve(listener, std::future::pending()));
        Ok(Self {
            ca,
            address,
            crypto,
        })
    }

    /// A folder with what a member needs: the CA's bundle, and a token that works once.
    async fn member(&self, home: &Path, id: &SpiffeId) -> Tested {
        std::fs::create_dir_all(home.join("documents"))?;
        std::fs::write(home.join("bundle.pem"), self.bundle())?;
        let expires = SystemClock.now() + Duration::from_secs(60);
        let token = self.ca.open_token(id, expires).await?;
        std::fs::write(home.join("token"), token.as_str())?;
        Ok(())
    }

    fn bundle(&self) -> String {
        let published = self.ca.published().borrow().clone();
        published.bundle.to_pem()
    }

    /// The mesh of `web`, which knows the Service.
    async fn web(&self, home: &Path, port: u16) -> Tested<Mesh> {
        let workload = Workload::new("shop", "web", "web")?;
        let id = workload.spiffe_id(&"lab.example".parse()?)?;
        self.member(home, &id).await?;
        std::fs::write(home.join("documents/greeter.yaml"), service(port))?;
        let identity = CaSource::new(id, self.address.to_string(), CA_ID.parse()?)
            .trust_bundle(home.join("bundle.pem"))
            .token(home.join("token"))
            .start(&self.crypto)
            .await?;
        tokio::spawn(identity.task);
        let defaults = Defaults::new(workload.namespace.clone()).loopback(true);
        let mesh = Mesh::builder()
            .identity(identity.reader)
            .workload(workload, DefaultAction::Deny)
            .source(FileSource::new(home.join("documents"), defaults))
            .start()?;
        mesh.ready().await;
        Ok(mesh)
    }
}

async fn get(mesh: &Mesh, path: &str) -> Tested<(u16, String)> {
    let request = http::Request::get(format!("http://greeter{path}")).body(Body::empty())?;
    let answer = mesh.client().try_send(request).await?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8(body.to_vec())?))
}

async fn greet(mesh: &Mesh, path: &'static str) -> Tested<Result<String, Status>> {
    let mut client = tonic::client::Grpc::new(mesh.channel("greeter")?);
    client.ready().await?;
    let codec = ProstCodec::<String, String>::default();
    let path = PathAndQuery::from_static(path);
    let answer = client.unary(Request::new("lab".to_owned()), path, codec);
    Ok(answer.await.map(tonic::Response::into_inner))
}

#[tokio::test]
async fn production() -> Tested {
    let dir = tempfile::tempdir()?;
    let lab = Lab::start(&dir.path().join("ca")).await?;
    let home = dir.path().join("greeter");
    let id = "spiffe://lab.example/ns/shop/sa/greeter".parse()?;
    lab.member(&home, &id).await?;
    std::fs::write(home.join("documents/policy.yaml"), POLICY)?;

    // The second start has no token any more: the identity was kept.
    for start in 1..=2 {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let web = dir.path().join(format!("web-{start}"));
        let web = lab.web(&web, address.port()).await?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (ca, at) = (lab.address.to_string(), home.clone());
        let served =
            tokio::spawn(async move { production::serve(&ca, &at, listener, stopped).await });

        let hello = (200, "hello spiffe://lab.example/ns/shop/sa/web".to_owned());
        assert_eq!(get(&web, "/hello").await?, hello);
        assert_eq!(get(&web, "/secret").await?.0, 403);
        let greeted = greet(&web, "/shop.Greeter/Greet").await?;
        assert_eq!(greeted.map_err(|s| s.code()), Ok("hello lab".to_owned()));
        let refused = greet(&web, "/shop.Other/Greet").await?;
        assert_eq!(refused.map_err(|s| s.code()), Err(Code::PermissionDenied));

        stop.send(()).map_err(|()| "it has ended before")?;
        // Callers have time to look elsewhere: it serves on while it drains.
        assert_eq!(get(&web, "/hello").await?, hello);
        served.await??;
        let refused = tokio::net::TcpStream::connect(address).await;
        let refused = refused.expect_err("nothing listens any more");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        std::fs::write(home.join("token"), "")?;
    }
    Ok(())
}
