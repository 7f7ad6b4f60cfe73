//! What ends a live connection: its peer is revoked, distrusted, or loses its root.

use std::net::SocketAddr;
use std::sync::Arc;

use ::http::{HeaderValue, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use inmesh_core::authorize::{Action, DefaultAction, Operation, Policy, PolicyRule};
use inmesh_core::discover::{Pusher, pushed};
use inmesh_core::model::{
    AppProtocol, Kind, Namespace, ObjectKey, Service, ServiceName, ServicePort, Workload,
};
use inmesh_core::runtime::{InboundListener, MeshBuilder, OutboundListener, WantsNothing};
use inmesh_core::snapshot::Op;
use inmesh_core::testing::World;
use inmesh_core::{Body, Mesh, Reason};
use inmesh_pki::IdentityWriter;
use inmesh_pki::bundle::{BundleSet, TrustBundle};
use inmesh_pki::clock::{Clock, SystemClock};
use inmesh_pki::crl::{Crl, CrlSet};
use inmesh_pki::issue::csr;
use inmesh_pki::store::IdentityReader;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower::service_fn;

use crate::support::{Result, Seen, serve_outbound, soon};

/// How bytes are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// As the body of a POST that never ends.
    Http,
    /// From the start.
    Opaque,
    /// Over a connection that has left HTTP.
    Upgraded,
    /// Likewise, to an application in this process.
    InProcess,
}

const WAYS: [Way; 4] = [Way::Http, Way::Opaque, Way::Upgraded, Way::InProcess];

/// `web` sends to `cart`, whose application repeats every byte.
struct Carried {
    world: World,
    web: IdentityWriter,
    cart: IdentityWriter,
    web_reader: IdentityReader,
    cart_reader: IdentityReader,
    stream: TcpStream,
    /// Has the application answer.
    answer: watch::Sender<bool>,
    seen: Arc<Seen>,
    _meshes: [Mesh; 2],
    /// What policies of the server are pushed with.
    rules: Pusher,
}

/// What the application sends to the test and receives from it.
#[derive(Clone)]
struct Told {
    asked: watch::Sender<bool>,
    answer: watch::Receiver<bool>,
}

fn builder(
    world: &World,
    name: &str,
    reader: &IdentityReader,
) -> Result<MeshBuilder<WantsNothing>> {
    let workload = Workload::new("shop", name, name)?;
    Ok(Mesh::builder()
        .crypto(world.crypto().clone())
        .identity(reader.clone())
        .workload(workload, DefaultAction::Allow))
}

/// Repeats all that comes; before it answers as an HTTP server with `head` where there is one, as
/// soon as it is asked to.
async fn echo(head: Option<&'static [u8]>, told: Told) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut told = told.clone();
            tokio::spawn(async move {
                if let Some(answer) = head {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await?);
                    }
                    told.asked.send_replace(true);
                    let gone = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
                    told.answer.wait_for(|told| *told).await.map_err(gone)?;
                    stream.write_all(answer).await?;
                }
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    Ok(address)
}

/// Leaves HTTP, as soon as it is asked to, and repeats all that comes.
async fn switch(mut request: Request<Body>, mut told: Told) -> std::io::Result<Response<Body>> {
    told.asked.send_replace(true);
    let gone = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    told.answer.wait_for(|told| *told).await.map_err(gone)?;
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let io = TokioIo::new(upgraded.await.map_err(std::io::Error::other)?);
        let (mut read, mut write) = tokio::io::split(io);
        tokio::io::copy(&mut read, &mut write).await
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in [
        (header::CONNECTION, "upgrade"),
        (header::UPGRADE, "websocket"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

impl Way {
    /// What is asked for at first, and the head of the answer.
    fn heads(self) -> Option<[&'static [u8]; 2]> {
        match self {
            Self::Http => Some([
                b"POST / HTTP/1.1\r\nhost: cart\r\ntransfer-encoding: chunked\r\n\r\n",
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            ]),
            Self::Opaque => None,
            Self::Upgraded | Self::InProcess => Some([
                b"GET / HTTP/1.1\r\nhost: cart\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            ]),
        }
    }

    fn protocol(self) -> AppProtocol {
        match self {
            Self::Http | Self::Upgraded | Self::InProcess => AppProtocol::Http1,
            Self::Opaque => AppProtocol::Tcp,
        }
    }
}

impl Carried {
    /// Bytes are on their way.
    async fn new(way: Way) -> Result<Self> {
        let mut carried = Self::asked(way).await?;
        carried.answer.send_replace(true);
        carried.round().await?;
        Ok(carried)
    }

    /// The application has been asked, and does not answer yet.
    async fn asked(way: Way) -> Result<Self> {
        let protocol = way.protocol();
        let world = World::new()?;
        let (web, web_reader) = world.identity("web")?;
        let (cart, cart_reader) = world.identity("cart")?;
        let (asked, mut was_asked) = watch::channel(false);
        let (answer, told) = watch::channel(false);
        let told = Told {
            asked,
            answer: told,
        };
        let app = echo(way.heads().map(|[_, answer]| answer), told.clone()).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let inbound = listener.local_addr()?;
        let seen = Seen::new();
        let server = builder(&world, "cart", &cart_reader)?;
        let (rules, source) = pushed("rules");
        let server = server
            .exchanges(Arc::clone(&seen) as _)
            .source(source)
            .start()?;
        rules.push(vec![]).await?;
        tokio::spawn({
            let server = server.clone();
            async move {
                if way == Way::InProcess {
                    let service = service_fn(move |request| switch(request, told.clone()));
                    return server.serve(listener, service).await;
                }
                server
                    .serve_behind(listener, InboundListener::new(app, protocol))
                    .await
            }
        });
        let (pusher, source) = pushed("test");
        let client = builder(&world, "web", &web_reader)?
            .source(source)
            .start()?;
        pusher
            .push(world.service("cart", protocol, &[inbound])?)
            .await?;
        client.ready().await;
        let service = ServiceName::new(&Namespace::new("shop")?, "cart")?;
        let door = serve_outbound(&client, OutboundListener::to(service, 80, protocol)).await?;
        let mut stream = TcpStream::connect(door).await?;
        if let Some([ask, _]) = way.heads() {
            stream.write_all(ask).await?;
            soon(was_asked.wait_for(|asked| *asked)).await??;
        }
        Ok(Self {
            world,
            web,
            cart,
            web_reader,
            cart_reader,
            stream,
            answer,
            seen,
            rules,
            _meshes: [client, server],
        })
    }

    /// A chunk goes there and comes back.
    async fn round(&mut self) -> Result {
        let chunk = b"5\r\nhello\r\n";
        self.stream.write_all(chunk).await?;
        let mut heard = Vec::new();
        while !heard.ends_with(chunk) {
            heard.push(soon(self.stream.read_u8()).await??);
        }
        Ok(())
    }

    /// Waits until the connection has ended.
    async fn over(&mut self) -> Result {
        let mut rest = Vec::new();
        // However it ends: by its end, or by a reset.
        let _end = soon(self.stream.read_to_end(&mut rest)).await?;
        let record = self.seen.one(|_| true).await?;
        assert!(record.reason.is_some(), "{record:?}");
        Ok(())
    }

    /// A list of the world's CA that names one leaf.
    fn revoking(&self, reader: &IdentityReader) -> Result<CrlSet> {
        let ca = self.world.ca();
        let key = rcgen::KeyPair::from_pem(&ca.secret_key().to_secret_pem())?;
        let issuer = rcgen::Issuer::from_ca_cert_der(ca.root(), key)?;
        let leaf = serial(reader)?;
        let now = SystemClock.now();
        let hour = std::time::Duration::from_secs(3_600);
        let params = rcgen::CertificateRevocationListParams {
            this_update: (now - hour).into(),
            next_update: (now + hour).into(),
            crl_number: rcgen::SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![rcgen::RevokedCertParams {
                serial_number: leaf,
                revocation_time: (now - hour).into(),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let crl = Crl::from_der(params.signed_by(&issuer)?.der())?;
        let mut crls = CrlSet::new();
        crls.insert(ca.trust_domain().clone(), crl)?;
        Ok(crls)
    }

    fn other_root(&self) -> Result<TrustBundle> {
        Ok(World::new()?.ca().bundle().clone())
    }
}

/// The serial number of a leaf as the library that makes lists takes it.
fn serial(reader: &IdentityReader) -> Result<rcgen::SerialNumber> {
    let state = reader.load();
    let digits = state
        .default_svid()
        .ok_or("no SVID")?
        .serial()
        .replace(':', "");
    let bytes = (0..digits.len() / 2)
        .map(|n| u8::from_str_radix(&digits[2 * n..2 * n + 2], 16))
        .collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(rcgen::SerialNumber::from(bytes))
}

#[tokio::test]
async fn a_revoked_caller_is_cut_off() -> Result {
    for way in WAYS {
        let mut carried = Carried::new(way).await?;
        let crls = carried.revoking(&carried.web_reader)?;
        carried.cart.set_crls(crls);
        carried.over().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_revoked_server_is_cut_off() -> Result {
    for way in WAYS {
        let mut carried = Carried::new(way).await?;
        let crls = carried.revoking(&carried.cart_reader)?;
        carried.web.set_crls(crls);
        carried.over().await?;
    }
    Ok(())
}

/// The upgrade is asked for, and the peer loses its trust before the server has switched.
#[tokio::test]
async fn a_peer_that_is_revoked_during_an_upgrade_is_cut_off() -> Result {
    for (way, revoked_is_caller) in [
        (Way::Upgraded, true),
        (Way::Upgraded, false),
        (Way::InProcess, true),
        (Way::InProcess, false),
    ] {
        let mut carried = Carried::asked(way).await?;
        if revoked_is_caller {
            let crls = carried.revoking(&carried.web_reader)?;
            carried.cart.set_crls(crls);
        } else {
            let crls = carried.revoking(&carried.cart_reader)?;
            carried.web.set_crls(crls);
        }
        // Nothing was switched: the application's answer, which comes now, comes too late.
        let record = carried.seen.one(|_| true).await?;
        assert_eq!(record.reason, Some(Reason::CallerGone), "{record:?}");
        carried.answer.send_replace(true);
        let mut head = [0; 12];
        soon(carried.stream.read_exact(&mut head)).await??;
        assert_eq!(&head, b"HTTP/1.1 502");
    }
    Ok(())
}

#[tokio::test]
async fn a_root_that_is_removed_takes_its_connections_with_it() -> Result {
    for way in WAYS {
        let mut carried = Carried::new(way).await?;
        carried.cart.set_bundle(carried.other_root()?);
        carried.over().await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_says_nothing_against_a_peer_leaves_its_connections_alone() -> Result {
    for way in WAYS {
        let mut carried = Carried::new(way).await?;
        let (domain, root) = {
            let ca = carried.world.ca();
            (ca.trust_domain().clone(), ca.root().clone())
        };
        let stranger = carried.world.identity("stranger")?.1;
        let crls = carried.revoking(&stranger)?;
        let roots = [root, carried.other_root()?.roots()[0].der().clone()];
        let bundles = BundleSet::from(TrustBundle::new(domain, roots)?);
        for writer in [&carried.cart, &carried.web] {
            writer.set_trust(bundles.clone(), crls.clone());
        }
        // A leaf of its own that rotates.
        let (id, crypto) = (carried.world.id("web")?, carried.world.crypto());
        let (key, csr) = csr::generate(&id, crypto)?;
        let svid = carried.world.ca().sign(&id, &csr)?.into_svid(key, crypto)?;
        carried.web.set_svid(svid);
        for _ in 0..20 {
            carried.round().await?;
        }
    }
    Ok(())
}

fn policy(name: &str, path: Option<&str>) -> Result<Op> {
    let key = ObjectKey::new(Kind::AuthorizationPolicy, &Namespace::new("shop")?, name)?;
    let what = match path {
        Some(path) => vec![Operation::builder().paths([path]).build()?],
        None => vec![],
    };
    Ok(Op::put(Policy::new(
        key,
        Action::Deny,
        vec![PolicyRule::new(vec![], what)],
    )))
}

/// A policy of later denies what it would have denied at first, and nothing else.
#[tokio::test]
async fn a_policy_that_comes_later_reaches_what_stands_open() -> Result {
    for (way, denies) in [
        (Way::Opaque, None),
        (Way::Upgraded, Some("/")),
        (Way::Upgraded, None),
        (Way::InProcess, Some("/")),
        (Way::InProcess, None),
    ] {
        let mut carried = Carried::new(way).await?;
        let service = ServiceName::new(&Namespace::new("shop")?, "other")?;
        let port = ServicePort::new("http", 80, AppProtocol::Http1);
        let unrelated = Service::new(service, vec![port]);
        carried.rules.push(vec![Op::put(unrelated)]).await?;
        carried.round().await?;
        if way != Way::Opaque {
            carried
                .rules
                .push(vec![policy("elsewhere", Some("/elsewhere"))?])
                .await?;
            carried.round().await?;
        }
        carried.rules.push(vec![policy("stop", denies)?]).await?;
        carried.over().await?;
        let record = carried.seen.one(|_| true).await?;
        assert_eq!(record.reason, Some(Reason::Denied), "{way:?}");
        assert!(
            record
                .policy
                .is_some_and(|p| p.to_string().contains("stop"))
        );
    }
    Ok(())
}

/// HTTP is decided on at each request: one that runs is not cut.
#[tokio::test]
async fn a_policy_that_comes_later_leaves_a_request_that_runs() -> Result {
    let mut carried = Carried::new(Way::Http).await?;
    carried.rules.push(vec![policy("stop", None)?]).await?;
    carried.round().await
}
