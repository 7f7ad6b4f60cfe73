//! Our server before an independent client (the crate `spiffe`), our client before our server, and
//! our client before one that lies; all over sockets in a folder of their own.

use std::collections::HashMap;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::{Code, Request, Response, Status};

use super::client::{WorkloadApiClient, WorkloadApiError, WorkloadApiJwt, WorkloadApiStatus};
use super::message::{MessageError, read_jwt, read_x509, write_jwt, write_x509};
use super::server::{Entry, Refusals, Selector, Server, ServerStatus, Socket};
use super::*;
use crate::bundle::{BundleSet, TrustBundle};
use crate::clock::{Clock, ManualClock, SystemClock};
use crate::crl::CrlSet;
use crate::issue::IssueError;
use crate::jwt::{DynJwtIssuer, JwtIssuer, KeySet, LocalJwtIssuer};
use crate::proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use crate::proto::workload::spiffe_workload_api_server::{
    SpiffeWorkloadApi, SpiffeWorkloadApiServer,
};
use crate::proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest,
    X509svidResponse,
};
use crate::source::workload_api::WorkloadApiSource;
use crate::status::StatusReader;
use crate::store::{IdentityReader, IdentityState, IdentityWriter, SourceEnded, identity};
use crate::svid::{Rejected, X509Svid};
use crate::testing::{Ca, authority, crypto, domain, id, leaf, minutes, noon};

mod silence;

const CART: &str = "spiffe://td/ns/shop/sa/cart";
const SIDE: &str = "spiffe://td/ns/shop/sa/side";

/// A server on a socket in a folder of its own, and the store behind it.
struct World {
    dir: tempfile::TempDir,
    writer: Arc<IdentityWriter>,
    clock: Arc<dyn Clock>,
    jwt: LocalJwtIssuer,
    server: Option<JoinHandle<()>>,
    status: Option<StatusReader<ServerStatus>>,
}

/// This process by its user.
fn me() -> Selector {
    let uid = std::fs::metadata("/proc/self").map_or(0, |own| {
        use std::os::unix::fs::MetadataExt;
        own.uid()
    });
    Selector::new(Some(uid), None, None, None).unwrap()
}

fn entry(own: &str) -> Entry {
    Entry::new(me(), id(own)).unwrap()
}

impl World {
    /// A world at `clock` whose store trusts `ca` for `td`, with the keys of its tokens.
    fn new(ca: &Ca, clock: Arc<dyn Clock>) -> Self {
        let jwt = LocalJwtIssuer::generate(domain("td"), &crypto(), Arc::clone(&clock)).unwrap();
        let keys = KeySet::from_keys([jwt.public_key().clone()]).unwrap();
        let bundle = ca.bundle("td").with_jwt_keys(keys);
        let (writer, _) = identity(IdentityState::from_bundles(bundle.into()));
        Self {
            dir: tempfile::tempdir().unwrap(),
            writer: Arc::new(writer),
            clock,
            jwt,
            server: None,
            status: None,
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    fn address(&self) -> String {
        format!("unix://{}", self.path().display())
    }

    /// Serves `entries` until [`World::stop`].
    fn serve(mut self, entries: &[Entry]) -> Self {
        let (reader, clock) = (self.writer.reader(), Arc::clone(&self.clock));
        let server = Server::new(entries.to_vec(), reader, &crypto(), clock)
            .with_jwt_issuer(DynJwtIssuer::new(self.jwt.clone()));
        let socket = Socket::bind(self.path(), 0o777).unwrap();
        self.status = Some(server.status());
        self.server = Some(tokio::spawn(server.serve(socket, pending())));
        self
    }

    async fn stop(&mut self) {
        let server = self.server.take().unwrap();
        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
    }

    fn client(&self) -> WorkloadApiClient {
        let endpoint = Endpoint::parse(&self.address()).unwrap();
        WorkloadApiClient::new(endpoint, &crypto(), Arc::clone(&self.clock), || 1.0)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
        }
    }
}

/// Our client, running, with an empty store.
fn run(
    client: WorkloadApiClient,
) -> (
    IdentityReader,
    StatusReader<WorkloadApiStatus>,
    JoinHandle<()>,
) {
    let (writer, reader) = identity(IdentityState::default());
    let status = client.status();
    let task = tokio::spawn(client.run(Arc::new(writer), pending()));
    (reader, status, task)
}

async fn until<T: Clone>(status: &mut StatusReader<T>, holds: impl Fn(&T) -> bool) -> T {
    let mut now = status.load();
    while !holds(&now) {
        now = status.changed().await.unwrap();
    }
    now
}

async fn until_state(reader: &mut IdentityReader, holds: impl Fn(&IdentityState) -> bool) {
    while !holds(&reader.load()) {
        reader.changed().await.unwrap();
    }
}

// === addresses ===

#[test]
fn addresses_are_those_of_the_standard() {
    for (address, expected) in [
        ("unix:///run/a.sock", Ok("/run/a.sock")),
        ("unix:/run/a.sock", Ok("/run/a.sock")),
        ("unix://run/a.sock", Err(EndpointError::Authority)),
        ("unix://", Err(EndpointError::Authority)),
        ("unix:run/a.sock", Err(EndpointError::NotAbsolute)),
        ("unix:", Err(EndpointError::NotAbsolute)),
        ("unix:///", Err(EndpointError::NotAbsolute)),
        ("unix:///a?b", Err(EndpointError::Extra)),
        ("unix:///a#b", Err(EndpointError::Extra)),
        ("unix:///a%20b", Err(EndpointError::Extra)),
        ("tcp://127.0.0.1:8000", Err(EndpointError::Tcp)),
        ("UNIX:///a", Err(EndpointError::Scheme)),
        ("http://a", Err(EndpointError::Scheme)),
        ("/run/a.sock", Err(EndpointError::Scheme)),
        ("", Err(EndpointError::Scheme)),
    ] {
        let got = Endpoint::parse(address);
        let got = got
            .as_ref()
            .map(|endpoint| endpoint.path().to_str().unwrap());
        assert_eq!(got, expected.as_ref().map(|path| *path), "{address}");
    }
}

// === which SVID is the process's own ===

#[tokio::test]
async fn the_svid_of_the_workload_is_the_default_whatever_the_order() {
    let ca = Ca::new("root");
    let world = World::new(&ca, ManualClock::new(noon()).shared());
    let other = "spiffe://td/ns/shop/sa/other";
    for id in [other, CART] {
        world.writer.set_svid(leaf(id).svid(&ca));
    }
    let world = world.serve(&[entry(other), entry(CART)]);
    for (path, wanted) in [
        (None, Some(other)),
        (Some("/ns/shop/sa/cart"), Some(CART)),
        (Some("/ns/shop/sa/none"), None),
    ] {
        let client = world.client();
        let client = match path {
            Some(path) => client.with_id_path(path),
            None => client,
        };
        let (mut reader, mut status, task) = run(client);
        match wanted {
            Some(wanted) => {
                until_state(&mut reader, |state| state.svids().count() == 2).await;
                assert_eq!(reader.load().default_svid().unwrap().id(), &id(wanted));
            }
            None => {
                let status = until(&mut status, |status| status.failures > 0).await;
                assert!(matches!(
                    status.last_error.as_deref(),
                    Some(WorkloadApiError::Message(MessageError::OtherIds { ids, .. }))
                        if ids.len() == 2
                ));
                assert!(reader.load().default_svid().is_none());
            }
        }
        task.abort();
    }
}

// === libraries that name the socket as their authority ===

/// What gRPC's C core (escaped) and grpc-java (bare) send, byte by byte: the call is answered.
#[tokio::test]
async fn a_call_whose_authority_is_the_sockets_path_is_answered() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let ca = Ca::new("root");
    let world = World::new(&ca, ManualClock::new(noon()).shared());
    world.writer.set_svid(leaf(CART).svid(&ca));
    let world = world.serve(&[entry(CART)]);
    let path = world.path();
    let path = path.to_str().unwrap();
    for authority in [path.to_owned(), path.replace('/', "%2F")] {
        let mut block = vec![0x83, 0x86];
        for (name, value) in [
            (":path", "/SpiffeWorkloadAPI/FetchX509SVID"),
            (":authority", authority.as_str()),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("workload.spiffe.io", "true"),
        ] {
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                block.extend_from_slice(text.as_bytes());
            }
        }
        let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
            let len = u16::try_from(payload.len()).unwrap().to_be_bytes();
            [&[0, len[0], len[1], kind, flags, 0, 0, 0, stream], payload].concat()
        };
        let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        sent.extend(frame(4, 0, 0, &[]));
        sent.extend(frame(1, 4, 1, &block));
        sent.extend(frame(0, 1, 1, &[0; 5]));
        let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
        stream.write_all(&sent).await.unwrap();
        // The first frame of the stream is the head of an answer, and the next one its message.
        let mut kinds = Vec::new();
        while kinds.len() < 2 {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(len).unwrap()];
            stream.read_exact(&mut payload).await.unwrap();
            assert_ne!(head[3], 3, "the stream is refused");
            if head[8] == 1 {
                kinds.push((head[3], head[4] & 1));
            }
        }
        assert_eq!(kinds, [(1, 0), (0, 0)], "{authority}");
    }
}

/// A stream that ends well is the last for some libraries: it ends with an error whatever ends it.
#[tokio::test]
async fn a_stream_ends_with_unavailable_when_its_server_does() {
    let ca = Ca::new("root");
    let world = World::new(&ca, SystemClock::shared());
    let server = Server::new(
        vec![entry(CART)],
        world.writer.reader(),
        &crypto(),
        Arc::clone(&world.clock),
    );
    let socket = Socket::bind(world.path(), 0o777).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(socket, async {
        let _ = stopped.await;
    }));
    let mut client = raw(&world).await;
    let mut request = Request::new(X509BundlesRequest {});
    let yes = tonic::metadata::AsciiMetadataValue::from_static("true");
    request.metadata_mut().insert(SECURITY_HEADER, yes);
    let answer = client.fetch_x509_bundles(request).await.unwrap();
    let mut bundles = answer.into_inner();
    bundles.message().await.unwrap().unwrap();
    stop.send(()).unwrap();
    let ended = bundles.message().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    serving.await.unwrap();
}

// === the crate `spiffe` as client ===

#[tokio::test]
async fn another_library_gets_svids_and_sees_rotation_and_redaction() {
    let (ca, foreign) = (Ca::new("root"), Ca::new("foreign"));
    let world = World::new(&ca, ManualClock::new(noon()).shared());
    world.writer.set_svid(leaf(CART).svid(&ca));
    world.writer.set_svid(leaf(SIDE).svid(&ca));
    world.writer.set_bundle(foreign.bundle("other.example"));
    let entries = [
        entry(SIDE).with_hint("side").unwrap(),
        entry(CART).with_hint("main").unwrap(),
        entry(SIDE).with_hint("again").unwrap(),
    ];
    let world = world.serve(&entries);

    let client = spiffe::WorkloadApiClient::connect_to(world.address())
        .await
        .unwrap();
    let mut contexts = Box::pin(client.stream_x509_contexts().await.unwrap());
    let first = contexts.next().await.unwrap().unwrap();
    let held: Vec<_> = first
        .svids()
        .iter()
        .map(|svid| {
            (
                svid.spiffe_id().to_string(),
                svid.hint().unwrap().to_owned(),
            )
        })
        .collect();
    let expected = [(SIDE, "side"), (CART, "main")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(held, expected, "in the order of entries, each ID once");
    let theirs = |context: &spiffe::X509Context, name: &str| {
        let name = spiffe::TrustDomain::new(name).unwrap();
        let bundle = context.bundle_set().get(&name)?;
        Some(bundle.authorities()[0].as_bytes().to_vec())
    };
    assert_eq!(theirs(&first, "td").unwrap(), ca.cert.to_vec());
    assert_eq!(
        theirs(&first, "other.example").unwrap(),
        foreign.cert.to_vec()
    );

    // A new leaf reaches the stream by itself, whole.
    let renewed = leaf(CART).svid(&ca);
    let chain = renewed.chain()[0].to_vec();
    world.writer.set_svid(renewed);
    let second = contexts.next().await.unwrap().unwrap();
    assert_eq!(second.svids()[1].cert_chain()[0].as_bytes(), chain);
    assert_eq!(second.svids().len(), 2);

    // So does what is gone: a bundle, an SVID.
    world.writer.remove_bundle(&domain("other.example"));
    let third = contexts.next().await.unwrap().unwrap();
    assert_eq!(theirs(&third, "other.example"), None);
    world.writer.remove_svid(&id(SIDE));
    let fourth = contexts.next().await.unwrap().unwrap();
    assert_eq!(fourth.svids().len(), 1);
    world.writer.remove_svid(&id(CART));
    assert!(contexts.next().await.unwrap().is_err(), "all is taken back");

    let bundles = client.fetch_x509_bundles().await.unwrap();
    assert_eq!(bundles.len(), 1);
}

#[tokio::test]
async fn another_library_gets_and_verifies_tokens() {
    let ca = Ca::new("root");
    // That library looks at the time of day itself.
    let world = World::new(&ca, SystemClock::shared()).serve(&[entry(CART)]);
    let client = spiffe::WorkloadApiClient::connect_to(world.address())
        .await
        .unwrap();

    let svid = client.fetch_jwt_svid(["db"], None).await.unwrap();
    assert_eq!(svid.spiffe_id().to_string(), CART);
    assert_eq!(svid.audience(), ["db".to_owned()]);
    let verified = client.validate_jwt_token("db", svid.token()).await.unwrap();
    assert_eq!(verified.spiffe_id().to_string(), CART);
    assert!(
        client
            .validate_jwt_token("web", svid.token())
            .await
            .is_err()
    );

    let bundles = client.fetch_jwt_bundles().await.unwrap();
    let td = spiffe::TrustDomain::new("td").unwrap();
    let own = bundles.get(&td).unwrap();
    assert!(
        own.find_jwt_authority(world.jwt.public_key().id().unwrap())
            .is_some()
    );

    let stranger = spiffe::SpiffeId::new("spiffe://td/stranger").unwrap();
    let denied = client.fetch_jwt_svid(["db"], Some(&stranger)).await;
    assert!(denied.is_err(), "only its own IDs");
}

// === calls as they are on the wire ===

type Raw = SpiffeWorkloadApiClient<tonic::transport::Channel>;

async fn raw(world: &World) -> Raw {
    let path = world.path();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(path).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    let target = tonic::transport::Endpoint::from_static("http://test");
    Raw::new(target.connect_with_connector(connector).await.unwrap())
}

/// The codes with which all five calls are answered under this metadata.
async fn codes(world: &World, metadata: &[&str]) -> Vec<Code> {
    fn with<M>(message: M, metadata: &[&str]) -> Request<M> {
        let mut request = Request::new(message);
        for value in metadata {
            let value = value.parse().unwrap();
            request.metadata_mut().append("workload.spiffe.io", value);
        }
        request
    }
    fn code<T>(answer: Result<Response<T>, Status>) -> Code {
        answer.map_or_else(|status| status.code(), |_| Code::Ok)
    }
    let mut api = raw(world).await;
    let wanted = JwtsvidRequest {
        audience: vec!["db".into()],
        spiffe_id: String::new(),
    };
    let token = ValidateJwtsvidRequest {
        audience: "db".into(),
        svid: "a.b.c".into(),
    };
    vec![
        code(api.fetch_x509svid(with(X509svidRequest {}, metadata)).await),
        code(
            api.fetch_x509_bundles(with(X509BundlesRequest {}, metadata))
                .await,
        ),
        code(api.fetch_jwtsvid(with(wanted, metadata)).await),
        code(
            api.fetch_jwt_bundles(with(JwtBundlesRequest {}, metadata))
                .await,
        ),
        code(api.validate_jwtsvid(with(token, metadata)).await),
    ]
}

#[tokio::test]
async fn no_call_is_served_without_the_security_metadata() {
    let ca = Ca::new("root");
    let world = World::new(&ca, ManualClock::new(noon()).shared());
    world.writer.set_svid(leaf(CART).svid(&ca));
    let world = world.serve(&[entry(CART)]);
    for metadata in [
        &[][..],
        &["True"],
        &["false"],
        &[""],
        &["true", "false"],
        &["true,true"],
    ] {
        let codes = codes(&world, metadata).await;
        assert_eq!(codes, [Code::InvalidArgument; 5], "{metadata:?}");
    }
    let served = [
        Code::Ok,
        Code::Ok,
        Code::Ok,
        Code::Ok,
        Code::InvalidArgument,
    ];
    assert_eq!(
        codes(&world, &["true"]).await,
        served,
        "the last token is invalid"
    );
}

#[tokio::test]
async fn who_matches_no_entry_is_denied_every_call() {
    let ca = Ca::new("root");
    let world = World::new(&ca, ManualClock::new(noon()).shared());
    world.writer.set_svid(leaf(CART).svid(&ca));
    let unmatched = Selector::new(Some(4_000_000_000), None, None, None).unwrap();
    let world = world.serve(&[Entry::new(unmatched, id(CART)).unwrap()]);
    assert_eq!(codes(&world, &["true"]).await, [Code::PermissionDenied; 5]);
    assert_eq!(codes(&world, &[]).await, [Code::InvalidArgument; 5]);
    let refusals = world.status.as_ref().unwrap().load().refusals;
    let expected = Refusals {
        no_entry: 5,
        no_metadata: 5,
        ..Refusals::default()
    };
    assert_eq!(refusals, expected);
}

#[tokio::test]
async fn what_is_open_is_counted_for_as_long_as_it_is() {
    let ca = Ca::new("root");
    let world = World::new(&ca, ManualClock::new(noon()).shared());
    world.writer.set_svid(leaf(CART).svid(&ca));
    let world = world.serve(&[entry(CART)]);
    let mut status = world.status.clone().unwrap();
    let (mut reader, _client, task) = run(world.client().with_jwt_bundles());
    until_state(&mut reader, |state| state.default_svid().is_some()).await;
    // Each stream has a connection of its own.
    until(&mut status, |now| (now.connections, now.streams) == (2, 2)).await;
    let other = WorkloadApiJwt::new(Endpoint::at(world.path()));
    let refused = other.mint(&id(SIDE), &["db".to_owned()]).await;
    assert!(refused.is_err());
    task.abort();
    let now = until(&mut status, |now| (now.connections, now.streams) == (0, 0)).await;
    assert_eq!(now.refusals.other_id, 1);
    assert_eq!(now.refusals.each().map(|(_, count)| count).sum::<u64>(), 1);
}

/// A control group of its own for this process, which is in none, where it may make one. It goes
/// back when this is dropped.
struct Grouped {
    root: PathBuf,
    own: PathBuf,
}

impl Grouped {
    fn new() -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
        let mut mounts = mounts.lines().map(|line| line.split(' '));
        let root = mounts.find_map(|mut fields| match (fields.nth(1)?, fields.next()?) {
            (at, "cgroup2") => Some(PathBuf::from(at)),
            _ => None,
        })?;
        let own = root.join(format!("inmesh-test-{}", std::process::id()));
        std::fs::create_dir(&own).ok()?;
        let made = Self { root, own };
        made.enter(&made.own).ok()?;
        Some(made)
    }

    fn enter(&self, group: &Path) -> std::io::Result<()> {
        std::fs::write(group.join("cgroup.procs"), std::process::id().to_string())
    }
}

impl Drop for Grouped {
    fn drop(&mut self) {
        let back = self.enter(&self.root);
        let removed = std::fs::remove_dir(&self.own);
        if !std::thread::panicking() {
            assert!(back.and(removed).is_ok(), "{} stays", self.own.display());
        }
    }
}

#[tokio::test]
async fn this_process_is_known_by_its_control_group() {
    let ca = Ca::new("root");
    let world = World::new(&ca, ManualClock::new(noon()).shared());
    let group = || {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        server::attest::cgroup(&own)
    };
    let _grouped = (group().as_deref() == Some("/")).then(Grouped::new);
    let Some(group) = group().filter(|group| group != "/") else {
        crate::testing::skip(
            "an entry by control group (this process is in none and may make none)",
        );
        return;
    };
    let by_group = |group: &str| {
        let selector = Selector::new(None, None, None, Some(group.to_owned())).unwrap();
        Entry::new(selector, id(CART)).unwrap()
    };
    world.writer.set_svid(leaf(CART).svid(&ca));
    let world = world.serve(&[by_group("/no/such/group")]);
    assert_eq!(codes(&world, &["true"]).await, [Code::PermissionDenied; 5]);
    let other = World::new(&ca, ManualClock::new(noon()).shared());
    other.writer.set_svid(leaf(CART).svid(&ca));
    let other = other.serve(&[by_group(&group)]);
    assert_eq!(codes(&other, &["true"]).await[0], Code::Ok);
}

#[tokio::test]
async fn what_is_not_there_yet_is_unavailable_and_what_is_over_is_not_sent() {
    let ca = Ca::new("root");
    let clock = ManualClock::new(noon());
    let world = World::new(&ca, clock.shared()).serve(&[entry(CART)]);
    let first = async || {
        let mut api = raw(&world).await;
        let mut request = Request::new(X509svidRequest {});
        let yes = tonic::metadata::AsciiMetadataValue::from_static("true");
        request.metadata_mut().insert(SECURITY_HEADER, yes);
        let mut stream = api.fetch_x509svid(request).await.unwrap().into_inner();
        stream
            .message()
            .await
            .map(|message| message.unwrap().svids.len())
    };
    assert_eq!(first().await.unwrap_err().code(), Code::Unavailable);
    world.writer.set_svid(leaf(CART).svid(&ca));
    assert_eq!(first().await.unwrap(), 1);
    clock.advance(minutes(30));
    assert_eq!(first().await.unwrap_err().code(), Code::Unavailable);
}

// === our client before our server ===

#[tokio::test]
async fn our_client_follows_our_server() {
    let (ca, foreign) = (Ca::new("root"), Ca::new("foreign"));
    let world = World::new(&ca, ManualClock::new(noon()).shared());
    world.writer.set_svid(leaf(CART).svid(&ca));
    world.writer.set_svid(leaf(SIDE).svid(&ca));
    world.writer.set_bundle(foreign.bundle("other.example"));
    let (mut crls, list) = (CrlSet::new(), ca.crl().list());
    for name in ["other.example", "td"] {
        crls.insert(domain(name), list.clone()).unwrap();
    }
    world.writer.set_crls(crls.clone());
    let world = world.serve(&[entry(SIDE), entry(CART)]);
    let (mut reader, mut status, task) = run(world.client().with_jwt_bundles());

    let bundles = world.writer.load().bundles().clone();
    until_state(&mut reader, |state| {
        *state.bundles() == bundles && state.svids().count() == 2
    })
    .await;
    let state = reader.load();
    assert_eq!(
        state.default_svid().unwrap().id(),
        &id(SIDE),
        "the first is the default"
    );
    assert_eq!(state.crls(), &crls);
    // No list any more is a change like any other.
    world.writer.set_crls(CrlSet::new());
    until_state(&mut reader, |state| state.crls().is_empty()).await;
    let now = until(&mut status, |status| status.updates == 3).await;
    assert_eq!(now.not_after, Some(noon() + minutes(30)));
    assert_eq!(now.failures, 0);

    let renewed = leaf(CART).svid(&ca);
    let serial = renewed.serial().to_owned();
    world.writer.set_svid(renewed);
    until_state(&mut reader, |state| {
        state.svid(&id(CART)).unwrap().serial() == serial
    })
    .await;

    world.writer.update(|state| {
        state.remove_svid(&id(SIDE));
    });
    world.writer.remove_bundle(&domain("other.example"));
    until_state(&mut reader, |state| {
        state.svid(&id(SIDE)).is_none() && state.bundles().get(&domain("other.example")).is_none()
    })
    .await;
    assert_eq!(reader.load().default_svid().unwrap().id(), &id(CART));

    // Taken back altogether: nothing of it is used any more.
    world.writer.remove_svid(&id(CART));
    until_state(&mut reader, |state| state.svids().next().is_none()).await;
    let roots = |state: &IdentityState| state.bundles().get(&domain("td")).unwrap().roots().len();
    assert_eq!(roots(&reader.load()), 0);
    let now = until(&mut status, |status| status.last_error.is_some()).await;
    let error = now.last_error.unwrap();
    assert!(matches!(*error, WorkloadApiError::Denied { .. }), "{error}");
    task.abort();
}

#[tokio::test]
async fn our_client_keeps_the_last_good_state_and_comes_back() {
    let ca = Ca::new("root");
    let world = World::new(&ca, ManualClock::new(noon()).shared());
    let endpoint = Endpoint::at(world.path());
    let (mut reader, mut status, task) = run(world.client());
    let now = until(&mut status, |status| status.failures > 0).await;
    let error = now.last_error.unwrap();
    assert!(
        matches!(&*error, WorkloadApiError::Connect { endpoint: at, .. } if *at == endpoint),
        "{error}"
    );

    world.writer.set_svid(leaf(CART).svid(&ca));
    let mut world = world.serve(&[entry(CART)]);
    until_state(&mut reader, |state| state.default_svid().is_some()).await;
    let before = reader.load().default_svid().unwrap().serial().to_owned();

    world.stop().await;
    until(&mut status, |status| status.last_error.is_some()).await;
    assert_eq!(
        reader.load().default_svid().unwrap().serial(),
        before,
        "the last good one stays"
    );

    let renewed = leaf(CART).svid(&ca);
    let serial = renewed.serial().to_owned();
    world.writer.set_svid(renewed);
    let _world = world.serve(&[entry(CART)]);
    until_state(&mut reader, |state| {
        state.default_svid().unwrap().serial() == serial
    })
    .await;
    task.abort();
}

#[tokio::test]
async fn tokens_come_through_the_port_of_all_issuers() {
    let ca = Ca::new("root");
    let world = World::new(&ca, ManualClock::new(noon()).shared()).serve(&[entry(CART)]);
    let issuer = WorkloadApiJwt::new(Endpoint::at(world.path()));
    let svid = issuer.mint(&id(CART), &["db".to_owned()]).await.unwrap();
    assert_eq!(
        (svid.id(), svid.expires()),
        (&id(CART), noon() + minutes(5))
    );
    let state = world.writer.load();
    crate::jwt::validate(
        svid.secret_token(),
        "db",
        state.bundles(),
        noon(),
        &crypto(),
    )
    .unwrap();
    for (subject, audiences) in [
        (SIDE, &["db".to_owned()][..]),
        (CART, &[]),
        (CART, &[String::new()]),
    ] {
        let refused = issuer.mint(&id(subject), audiences).await.unwrap_err();
        assert!(
            matches!(refused, IssueError::Unavailable { .. }),
            "{refused}"
        );
    }
}

// === our client before a server that lies ===

/// Answers FetchX509SVID with what the test sends, and knows no other call.
struct Scripted(
    std::sync::Mutex<Option<mpsc::UnboundedReceiver<Result<X509svidResponse, Status>>>>,
);

type Script = mpsc::UnboundedSender<Result<X509svidResponse, Status>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for Scripted {
    type FetchX509SVIDStream =
        futures_util::stream::BoxStream<'static, Result<X509svidResponse, Status>>;
    type FetchX509BundlesStream =
        futures_util::stream::BoxStream<'static, Result<X509BundlesResponse, Status>>;
    type FetchJWTBundlesStream =
        futures_util::stream::BoxStream<'static, Result<JwtBundlesResponse, Status>>;

    async fn fetch_x509svid(
        &self,
        _: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let Some(script) = self.0.lock().unwrap().take() else {
            return Err(Status::unavailable("the script has ended"));
        };
        let stream = futures_util::stream::unfold(script, |mut script| async {
            Some((script.recv().await?, script))
        });
        Ok(Response::new(stream.boxed()))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn fetch_jwtsvid(
        &self,
        _: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// Serves one connection at a time at the world's path, as the test says.
fn scripted(world: &mut World) -> Script {
    let (script, receiver) = mpsc::unbounded_channel();
    let service = Arc::new(Scripted(std::sync::Mutex::new(Some(receiver))));
    let listener = tokio::net::UnixListener::bind(world.path()).unwrap();
    world.server = Some(tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let api = SpiffeWorkloadApiServer::from_arc(Arc::clone(&service));
            let _ = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
                .serve_connection(
                    hyper_util::rt::TokioIo::new(stream),
                    hyper_util::service::TowerToHyperService::new(api),
                )
                .await;
        }
    }));
    script
}

fn message(svid: X509Svid, ca: &Ca) -> X509svidResponse {
    let svids = [(Arc::new(svid), String::new())];
    write_x509(&svids, &ca.bundle("td").into(), &CrlSet::new()).unwrap()
}

#[tokio::test]
async fn a_message_that_cannot_be_used_is_discarded_and_the_stream_goes_on() {
    let (ca, wrong) = (Ca::new("root"), Ca::new("wrong"));
    let mut world = World::new(&ca, ManualClock::new(noon()).shared());
    let script = scripted(&mut world);
    let (mut reader, mut status, task) = run(world.client().with_jwt_bundles());

    script.send(Ok(message(leaf(CART).svid(&ca), &ca))).unwrap();
    until_state(&mut reader, |state| state.default_svid().is_some()).await;
    let serial = reader.load().default_svid().unwrap().serial().to_owned();

    // Certified by another CA than the bundle beside it says.
    script
        .send(Ok(message(leaf(CART).svid(&wrong), &ca)))
        .unwrap();
    let is_message = |status: &WorkloadApiStatus| {
        let error = status.last_error.as_deref();
        matches!(
            error,
            Some(WorkloadApiError::Message(MessageError::NotValid(_)))
        )
    };
    until(&mut status, is_message).await;
    assert_eq!(reader.load().default_svid().unwrap().serial(), serial);

    let renewed = leaf(CART).svid(&ca);
    let next = renewed.serial().to_owned();
    script.send(Ok(message(renewed, &ca))).unwrap();
    until_state(&mut reader, |state| {
        state.default_svid().unwrap().serial() == next
    })
    .await;

    // The agent's own mistake is not repeated: the source ends, and what it wrote stays.
    script
        .send(Err(Status::invalid_argument("no header")))
        .unwrap();
    task.await.unwrap();
    let error = status.load().last_error.unwrap();
    assert!(matches!(*error, WorkloadApiError::Fatal { .. }), "{error}");
    assert!(reader.load().default_svid().is_some());
}

// === messages ===

#[test]
fn a_message_that_is_not_whole_is_refused_whole() {
    let (ca, other) = (Ca::new("root"), Ca::new("other"));
    let good = || message(leaf(CART).svid(&ca), &ca);
    let read = |message| read_x509(message, noon(), &crypto()).map(|update| update.svids.len());
    assert_eq!(read(good()), Ok(1));

    let missing = |field| Err(MessageError::Missing { field });
    let certificates = |field| Err(MessageError::Certificates { field });
    let edit = |change: &dyn Fn(&mut X509svidResponse)| {
        let mut message = good();
        change(&mut message);
        read(message)
    };
    let cases: Vec<(Result<usize, MessageError>, Result<usize, MessageError>)> = vec![
        (edit(&|m| m.svids.clear()), missing("svids")),
        (
            edit(&|m| m.svids[0].spiffe_id.clear()),
            missing("spiffe_id"),
        ),
        (
            edit(&|m| m.svids[0].x509_svid.clear()),
            missing("x509_svid"),
        ),
        (
            edit(&|m| m.svids[0].x509_svid_key.clear()),
            missing("x509_svid_key"),
        ),
        (edit(&|m| m.svids[0].bundle.clear()), missing("bundle")),
        (
            edit(&|m| m.svids[0].x509_svid.truncate(9)),
            certificates("x509_svid"),
        ),
        (edit(&|m| m.svids[0].bundle.push(0)), certificates("bundle")),
        (
            edit(&|m| m.svids[0].x509_svid = ca.cert.repeat(65)),
            certificates("x509_svid"),
        ),
        (
            edit(&|m| m.svids[0].spiffe_id = SIDE.into()),
            Err(MessageError::WrongId {
                said: id(SIDE),
                got: id(CART),
            }),
        ),
        (
            edit(&|m| {
                drop(
                    m.federated_bundles
                        .insert("spiffe://td".into(), other.cert.to_vec()),
                )
            }),
            Err(MessageError::DifferentBundles {
                trust_domain: domain("td"),
            }),
        ),
    ];
    for (at, (got, expected)) in cases.into_iter().enumerate() {
        assert_eq!(got, expected, "case {at}");
    }
    let crl = edit(&|m| m.crl.push(vec![0x30, 0]));
    assert!(matches!(crl, Err(MessageError::Crl(_))), "{crl:?}");
    for name in ["", "td", "spiffe://TD", "spiffe://other/workload"] {
        let got = edit(&|m| drop(m.federated_bundles.insert(name.into(), other.cert.to_vec())));
        assert!(
            matches!(got, Err(MessageError::Id { .. })),
            "{name}: {got:?}"
        );
    }
    let key = edit(&|m| m.svids[0].x509_svid_key = leaf(CART).key.serialize_der());
    assert!(matches!(key, Err(MessageError::Svid(_))), "{key:?}");
    let late = read_x509(good(), noon() + minutes(31), &crypto()).unwrap_err();
    assert!(
        matches!(late, MessageError::NotValid(Rejected::Expired { .. })),
        "{late}"
    );
    let many = edit(&|m| m.svids = vec![m.svids[0].clone(); 1_001]);
    assert_eq!(many, Err(MessageError::TooMany { got: 1_001 }));
    // Two of the same ID: the first counts.
    assert_eq!(edit(&|m| m.svids.push(m.svids[0].clone())), Ok(1));
}

#[test]
fn a_distrusted_domain_is_left_out_and_an_intermediate_is_sent_along() {
    let root = Ca::new("root");
    let intermediate = authority("issuer").under(&root);
    let draft = leaf(CART);
    let chain = vec![draft.signed_by(&intermediate), intermediate.cert.clone()];
    let key = crate::svid::PrivateKey::from_pkcs8_der(draft.key.serialize_der());
    let svid = Arc::new(X509Svid::from_der(chain, key, None, &crypto()).unwrap());
    let mut bundles = BundleSet::from(root.bundle("td"));
    bundles.insert(TrustBundle::distrusted(domain("gone.example")));
    let message = write_x509(
        &[(Arc::clone(&svid), String::new())],
        &bundles,
        &CrlSet::new(),
    )
    .unwrap();
    assert!(message.federated_bundles.is_empty());
    let update = read_x509(message, noon(), &crypto()).unwrap();
    assert_eq!(update.svids[0].chain(), svid.chain());

    // Without the bundle that vouches for it, an SVID is of no use.
    assert!(write_x509(&[(svid, String::new())], &BundleSet::new(), &CrlSet::new()).is_none());
}

#[test]
fn jwt_bundles_are_read_whole_or_not_at_all() {
    let clock = ManualClock::new(noon()).shared();
    let issuer = LocalJwtIssuer::generate(domain("td"), &crypto(), clock).unwrap();
    let keys = KeySet::from_keys([issuer.public_key().clone()]).unwrap();
    let bundle = TrustBundle::distrusted(domain("td")).with_jwt_keys(keys.clone());
    let none = TrustBundle::distrusted(domain("other"));
    let message = write_jwt(&BundleSet::from_iter([bundle, none])).unwrap();
    assert_eq!(message.bundles.len(), 1);
    assert_eq!(read_jwt(&message).unwrap(), [(domain("td"), keys)].into());

    let read = |name: &str, jwks: &[u8]| {
        let bundles = HashMap::from([(name.to_owned(), jwks.to_vec())]);
        read_jwt(&JwtBundlesResponse { bundles }).unwrap_err()
    };
    assert!(matches!(
        read("spiffe://td", b"{}"),
        MessageError::JwtBundle { .. }
    ));
    assert!(matches!(
        read("td", br#"{"keys":[]}"#),
        MessageError::Id { .. }
    ));
    let empty = read_jwt(&JwtBundlesResponse::default()).unwrap_err();
    assert_eq!(empty, MessageError::Missing { field: "bundles" });
}

// === the source ===

/// A source that has an SVID, and one whose agent says that the call is wrong.
#[tokio::test]
async fn readers_hear_of_a_first_svid_and_of_a_source_that_can_have_none() {
    let ca = Ca::new("root");
    for (good, expected) in [(true, Ok(())), (false, Err(SourceEnded))] {
        let mut world = World::new(&ca, ManualClock::new(noon()).shared());
        let script = scripted(&mut world);
        let identity = WorkloadApiSource::new(Endpoint::at(world.path()))
            .clock(ManualClock::new(noon()).shared())
            .start(&crypto());
        let task = tokio::spawn(identity.task);
        script
            .send(match good {
                true => Ok(message(leaf(CART).svid(&ca), &ca)),
                false => Err(Status::invalid_argument("no header")),
            })
            .unwrap();
        let ready = identity.reader.ready().await.map(drop);
        assert_eq!(ready, expected);
        assert!(identity.jwt.is_some());
        match good {
            true => task.abort(),
            false => task.await.unwrap(),
        }
        // The store behind it still takes what is written beside the source.
        let epoch = identity.reader.load().epoch();
        assert!(identity.writer.set_bundle(ca.bundle("other")) > epoch);
    }
}
