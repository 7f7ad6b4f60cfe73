//! `mesh ca serve` from start to end: agents that live on it, a root that is replaced under them,
//! and a process that is killed at any moment.

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get as on_get;
use http::{Method, StatusCode};
use inmesh_pki::Crypto;
use inmesh_pki::bundle::TrustBundle;
use inmesh_pki::ca::admin::AdminClient;
use inmesh_pki::ca::state::CaState;
use inmesh_pki::clock::{Clock, SystemClock};
use inmesh_pki::id::SpiffeId;
use inmesh_pki::rotate::obtain;
use inmesh_pki::source::ca::{Bootstrap, CaClient, CaClientConfig, Token};
use inmesh_pki::store::{IdentityState, identity};
use inmesh_pki::svid::{Usage, validate};
use serde_json::Value;
use support::ca::{Ca, Member};
use support::{Agent, app, eventually, free, mesh, service, stderr, stdout, try_send, within};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

// === agents on a CA ===

struct Home {
    dir: TempDir,
    address: SocketAddr,
}

impl Home {
    /// An agent that joins by a token in a file.
    async fn agent(&self, ca: &Ca, name: &str, more: &str, documents: &[(&str, &str)]) -> Agent {
        let token = self.dir.path().join(format!("{name}.token"));
        std::fs::write(
            &token,
            ca.token(&format!("spiffe://test.local/ns/shop/sa/{name}")),
        )
        .expect("a token's file");
        let identity = format!(
            "identity: {{ca: {{address: \"{}\", caId: spiffe://test.local/inmesh/ca, trustBundle: ../ca/bundle.pem, tokenFile: ../{name}.token}}}}\n",
            self.address
        );
        let home = support::Home::at(self.dir.path());
        home.agent(name, &format!("{identity}{more}"), documents)
            .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_is_replaced_under_agents_that_go_on() {
    let home = Home {
        dir: TempDir::new().expect("a temporary folder"),
        address: free(),
    };
    let more = ["--leaf-lifetime", "4s"];
    let mut ca = Ca::start(home.dir.path(), home.address, &more).await;
    let mode = |path: &str| {
        let meta = ca.dir.join(path).metadata().expect("it is there");
        meta.permissions().mode() & 0o777
    };
    assert_eq!(
        (mode(""), mode("state.json"), mode("admin.sock")),
        (0o700, 0o600, 0o600)
    );
    let app = app(Router::new().route("/", on_get(async || "hello"))).await;
    let (inner, door) = (free(), free());
    let policy = "defaultAction: allow\npeers: strict\n";
    let listen = format!(
        "{policy}listeners: [{{bind: \"{inner}\", inbound: {{app: \"{app}\", appProtocol: http}}}}]\n"
    );
    let _server = home.agent(&ca, "app", &listen, &[]).await;
    let ids = "inmesh.dev/ids: spiffe://test.local/ns/shop/sa/app";
    let documents = service("app", inner, ids);
    let listen =
        format!("{policy}listeners: [{{bind: \"{door}\", outbound: {{appProtocol: http}}}}]\n");
    let client = home
        .agent(&ca, "web", &listen, &[("app.yaml", &documents)])
        .await;

    // Requests all the time; each must be answered.
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let load = tokio::spawn(async move {
        let mut answered = 0_u32;
        while !*stopped.borrow_and_update() {
            let answer = try_send(door, Method::GET, "/", &[("host", "app")]).await;
            let answer = answer.expect("the agent answers");
            assert_eq!(answer.status, StatusCode::OK, "{answer:?} after {answered}");
            answered += 1;
            sleep(Duration::from_millis(20)).await;
        }
        answered
    });

    let first = ca.status();
    let generation = |status: &Value| status["generation"].as_u64().expect("a number");
    let begun = generation(&first);
    assert_eq!(first["members"], 2);
    let rotate = ca.operate(&["rotate"]);
    assert!(rotate.status.success(), "{}", stderr(&rotate));
    // At whatever stage it is by now, no other one begins.
    let again = ca.operate(&["rotate", "--step", "prepare"]);
    assert!(!again.status.success(), "the wrong order");
    let said = stderr(&again);
    assert!(said.contains("a rotation is running"), "{said}");
    let shown = stdout(&ca.operate(&["status"]));
    assert!(
        shown.contains("published") || shown.contains("retiring"),
        "{shown}"
    );
    // In the midst: it comes back where it was.
    ca.kill();
    assert!(
        std::fs::read_to_string(ca.dir.join("state.json"))
            .expect("a state")
            .contains("\"form\": 1")
    );
    let ca = Ca::start(home.dir.path(), home.address, &more).await;
    let done = within(Duration::from_secs(60), "the rotation ends", async || {
        let status = ca.status();
        (status["next"].is_null() && generation(&status) == begun + 2).then_some(status)
    })
    .await;
    assert_eq!(done["authorities"].as_array().expect("a list").len(), 1);
    assert_ne!(
        done["authorities"][0]["keyId"],
        first["authorities"][0]["keyId"]
    );
    // Some more requests under the new root alone.
    sleep(Duration::from_secs(2)).await;
    stop.send(true).expect("the load runs");
    let answered = load.await.expect("no request was lost");
    println!("{answered} requests while the root was replaced, none lost");
    assert!(answered > 100, "{answered}");
    let status = client.status().await;
    assert_eq!(status["ready"], true, "{status}");
}

/// A compromise: what chains to the key ends, also what was agreed on before.
#[tokio::test(flavor = "multi_thread")]
async fn a_distrusted_key_ends_live_connections() {
    let home = Home {
        dir: TempDir::new().expect("a temporary folder"),
        address: free(),
    };
    let ca = Ca::start(home.dir.path(), home.address, &[]).await;
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let echo = socket.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    let (inner, door) = (free(), free());
    let policy = "defaultAction: allow\npeers: strict\n";
    let listen = format!(
        "{policy}listeners: [{{bind: \"{inner}\", inbound: {{app: \"{echo}\", appProtocol: tcp}}}}]\n"
    );
    let _server = home.agent(&ca, "app", &listen, &[]).await;
    let ids = "inmesh.dev/ids: spiffe://test.local/ns/shop/sa/app";
    let documents = service("app", inner, ids).replace("appProtocol: http", "appProtocol: tcp");
    let listen = format!(
        "{policy}listeners: [{{bind: \"{door}\", outbound: {{appProtocol: tcp, service: {{name: app, port: 80}}}}}}]\n"
    );
    let documents = [("app.yaml", documents.as_str())];
    let _client = home.agent(&ca, "web", &listen, &documents).await;
    let mut stream = TcpStream::connect(door).await.expect("the agent listens");
    let mut heard = [0; 5];
    stream.write_all(b"hello").await.expect("it is carried");
    stream.read_exact(&mut heard).await.expect("it comes back");

    let key = ca.status()["authorities"][0]["keyId"].clone();
    let begin = Instant::now();
    let distrust = ca.operate(&["distrust", key.as_str().expect("a key id")]);
    assert!(distrust.status.success(), "{}", stderr(&distrust));
    // However it ends: by its end, or by a reset.
    let ended = timeout(Duration::from_secs(5), stream.read(&mut heard)).await;
    let ended = ended.expect("it ends within five seconds");
    assert!(!matches!(ended, Ok(1..)), "no client said anything");
    println!(
        "a live connection ended {:?} after the command",
        begin.elapsed()
    );
}

/// What answers in the CA's place is asked for nothing that counts, and takes nothing away.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_ca_gives_no_identity() {
    let dir = TempDir::new().expect("a temporary folder");
    let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock::shared());
    // One that says what means nothing, one that says nothing, and one with another root.
    let socket = || async { TcpListener::bind("127.0.0.1:0").await.expect("a free port") };
    let (garbage, silent) = (socket().await, socket().await);
    let addresses = [&garbage, &silent].map(|s| s.local_addr().expect("its address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = garbage.accept().await {
            let _gone = stream.write_all(&[0x16, 3, 3, 0xff, 0xff, 7, 7, 7]).await;
        }
    });
    let other_at = free();
    let other_home = dir.path().join("other");
    std::fs::create_dir(&other_home).expect("a folder");
    let _other = Ca::start(&other_home, other_at, &[]).await;
    let real_at = free();
    let real = Ca::start(dir.path(), real_at, &[]).await;

    let id: SpiffeId = "spiffe://test.local/ns/shop/sa/web".parse().expect("an ID");
    let pem = std::fs::read(real.dir.join("bundle.pem")).expect("the bundle");
    let bundle = TrustBundle::from_pem(id.trust_domain().clone(), &pem).expect("a bundle");
    let (_writer, reader) = identity(IdentityState::from_bundles(bundle.clone().into()));
    let token = real.token(id.as_str());
    let client = |at: SocketAddr| {
        let config = CaClientConfig {
            id: id.clone(),
            address: at.to_string(),
            ca: "spiffe://test.local/inmesh/ca".parse().expect("an ID"),
            bootstrap: Bootstrap::Bundle(bundle.clone()),
            token: Token::Text(token.clone().into()),
        };
        CaClient::new(config, reader.clone(), &crypto, Arc::clone(&clock)).expect("a client")
    };
    for at in [addresses[0], addresses[1], other_at] {
        let begin = Instant::now();
        let refused = obtain(&client(at), &id, &crypto, &*clock).await;
        assert!(refused.is_err(), "{at} gave an identity");
        // No client waits for it longer than for a slow network.
        assert!(
            begin.elapsed() < Duration::from_secs(15),
            "{:?}",
            begin.elapsed()
        );
    }
    // The token was shown to none of them: it still serves.
    obtain(&client(real_at), &id, &crypto, &*clock)
        .await
        .expect("the real CA answers");
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_comes_back_with_what_it_kept_while_no_ca_answers() {
    let home = Home {
        dir: TempDir::new().expect("a temporary folder"),
        address: free(),
    };
    let root = home.dir.path();
    let mut ca = Ca::start(root, home.address, &[]).await;
    let id = "spiffe://test.local/ns/shop/sa/web";
    let token = root.join("token");
    std::fs::write(&token, ca.token(id)).expect("a token's file");
    let kept = root.join("kept");
    let more = format!(
        "defaultAction: deny\npeers: strict\nidentity: {{ca: {{address: \"{}\", caId: spiffe://test.local/inmesh/ca, trustBundle: {}, tokenFile: {}, keep: {}}}}}\n",
        home.address,
        ca.dir.join("bundle.pem").display(),
        token.display(),
        kept.display(),
    );
    let first = support::Home::at(root).agent("web", &more, &[]).await;
    eventually("it is kept", async || {
        kept.join("key.pem").exists().then_some(())
    })
    .await;
    let serial = async |agent: &Agent| agent.status().await["identity"].clone();
    let before = serial(&first).await;
    drop(first);
    ca.kill();
    // The token was for one use, and no CA is there to take it: only what was kept is left.
    let elsewhere = TempDir::new().expect("a temporary folder");
    let again = support::Home::at(elsewhere.path())
        .agent("web", &more, &[])
        .await;
    assert_eq!(serial(&again).await, before);
    assert!(
        again.log().contains("identity kept from before"),
        "{}",
        again.log()
    );
    let mode = std::fs::metadata(kept.join("key.pem"))
        .expect("a key")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_ca_is_told_is_checked_before_it_serves() {
    let dir = TempDir::new().expect("a temporary folder");
    let refused = |more: &[&str], says: &str| {
        let args = [
            "ca",
            "serve",
            "--trust-domain",
            "test.local",
            "--listen",
            "127.0.0.1:0",
        ];
        let args = args.iter().chain(more).chain(&["--dir"]).copied();
        let ended = mesh(args, &[&dir.path().join("ca")]);
        assert!(!ended.status.success());
        let said = stderr(&ended);
        assert!(said.contains(says), "{more:?}: {said}");
    };
    let missing = dir.path().join("none");
    let missing = missing.to_str().expect("text");
    refused(&["--id", "spiffe://other/ca"], "no ID of the trust domain");
    refused(&["--leaf-lifetime", "0s"], "leaf lifetime");
    refused(&["--root", missing], "reading");
    refused(&["--kubernetes-jwks", missing], "--audience");
    refused(
        &["--kubernetes-jwks", missing, "--audience", "x"],
        "reading",
    );
    let empty = dir.path().join("empty.json");
    std::fs::write(&empty, r#"{"keys": []}"#).expect("a file");
    let jwks = empty.to_str().expect("text");
    refused(
        &["--kubernetes-jwks", jwks, "--audience", "x"],
        "no key that signs",
    );
    refused(
        &["--oidc", "issuer=x", "--audience", "x"],
        "jwks is missing",
    );
    let nobody = mesh(["ca", "status", "--dir"], &[dir.path()]);
    assert!(
        stderr(&nobody).contains("no CA answers"),
        "{}",
        stderr(&nobody)
    );
}

/// Every command of the operator, and that one that is refused says why and fails.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_answers_a_compromise_and_recovers() {
    let home = TempDir::new().expect("a temporary folder");
    let ca = Ca::start(home.path(), free(), &[]).await;
    let good = |args: &[&str]| {
        let ended = ca.operate(args);
        assert!(ended.status.success(), "{args:?}: {}", stderr(&ended));
        stdout(&ended)
    };
    let bad = |args: &[&str], says: &str| {
        let ended = ca.operate(args);
        assert!(!ended.status.success(), "{args:?}");
        let said = stderr(&ended);
        assert!(said.contains(says), "{args:?}: {said}");
    };
    let before = ca.status();
    let old = before["authorities"][0]["keyId"].clone();
    let old = old.as_str().expect("a key id");
    good(&["revoke", "0aff"]);
    bad(&["revoke", "xyz"], "hexadecimal");
    good(&["distrust", old]);
    bad(&["distrust", old], "no authority has the key");
    let status = ca.status();
    let generation = |status: &Value| status["generation"].as_u64().expect("a number");
    assert_eq!(generation(&status), generation(&before) + 1);
    assert_ne!(status["authorities"][0]["keyId"], old);

    bad(&["recover"], "say what to do");
    // What is beyond a bound is refused, and not cut.
    bad(&["recover", "--window", "721h"], "30 days");
    bad(
        &["recover", "--window", "1h", "--expired", "9000h"],
        "30 days",
    );
    let id = "spiffe://test.local/ns/shop/sa/cart";
    for lifetime in ["721h", "0s"] {
        let why = if lifetime == "0s" {
            "a second at least"
        } else {
            "30 days"
        };
        bad(
            &["token", "create", "--id", id, "--lifetime", lifetime],
            why,
        );
    }
    assert!(ca.status()["recovery"].is_null());
    let tokens = good(&[
        "recover",
        "--id",
        id,
        "--window",
        "1h",
        "--expired",
        "2h",
        "--json",
    ]);
    let tokens: Value = serde_json::from_str(&tokens).expect("JSON");
    assert_eq!(tokens["tokens"][0]["id"], id);
    let status = ca.status();
    assert_eq!(status["openTokens"], 1);
    assert!(status["recovery"]["until"].is_u64(), "{status}");
    assert!(good(&["status"]).contains("the recovery window is open for"));
    good(&["recover", "--window", "0s"]);
    assert!(ca.status()["recovery"].is_null());
    bad(
        &["token", "create", "--id", "spiffe://other/a"],
        "test.local",
    );
    // The token is in no log and not in the state.
    let token = tokens["tokens"][0]["token"].as_str().expect("a token");
    for file in [&ca.log, &ca.dir.join("state.json")] {
        let text = std::fs::read_to_string(file).expect("a file");
        assert!(!text.contains(token), "{}", file.display());
    }
}

// === a CA that is killed ===

/// Renews until the CA, which may just have started, answers.
async fn renew(member: &Member) {
    let limit = Duration::from_secs(30);
    within(limit, "a member renews", async || member.renew().await.ok()).await;
}

fn bundle(member: &Member) -> TrustBundle {
    let state = member.writer.load();
    let bundle = state.bundles().get(member.id.trust_domain());
    bundle.expect("a bundle").clone()
}

/// kill -9 at random moments around every step of rotation after rotation: no leaf ever fails to
/// verify with a member that lives, no generation has two contents, no root comes back.
///
/// `MESH_KILLS` says how many kills; 20 if it is not set.
#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_is_killed_at_any_moment_never_forks() {
    let kills: u32 = std::env::var("MESH_KILLS").map_or(20, |n| n.parse().expect("a number"));
    let home = TempDir::new().expect("a temporary folder");
    let address = free();
    let more = ["--leaf-lifetime", "2m"];
    let mut ca = Ca::start(home.path(), address, &more).await;
    let crypto = Crypto::aws_lc_rs();
    let member = |name: &str, ca: &Ca| {
        let id = format!("spiffe://test.local/{name}");
        Member::new(ca, address, &id, Token::Text(ca.token(&id).into()))
    };
    let members = [member("a", &ca), member("b", &ca)];
    let mut contents: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut actives: Vec<String> = Vec::new();
    let mut steps: BTreeMap<String, u32> = BTreeMap::new();
    let mut usual = Duration::from_millis(10);
    for kill in 0..kills {
        for member in &members {
            renew(member).await;
        }
        for (one, other) in [(0, 1), (1, 0), (0, 0), (1, 1)] {
            let (own, peer) = (members[one].writer.load(), members[other].writer.load());
            let chain = peer.default_svid().expect("an SVID").chain();
            let now = SystemClock.now();
            let verified = validate(chain, &own, now, Usage::Server, &crypto);
            let root = verified.expect("a member's leaf verifies").root_key_id;
            if actives.last() != Some(&root) {
                assert!(
                    !actives.contains(&root),
                    "root {root} came back at kill {kill}"
                );
                actives.push(root);
            }
        }
        for member in &members {
            let bundle = bundle(member);
            // In an answer the root of the leaf stands first, so the order says nothing.
            let mut keys: Vec<_> = bundle
                .roots()
                .iter()
                .map(|r| r.key_id().to_owned())
                .collect();
            keys.sort();
            let generation = bundle.sequence().expect("our CA counts");
            let before = contents.entry(generation).or_insert_with(|| keys.clone());
            assert_eq!(
                *before, keys,
                "generation {generation} forked at kill {kill}"
            );
        }
        // Both members have what is published, and no leaf but under the active root: so any step
        // may be taken at once, and dies with its process somewhere.
        let dir = ca.dir.clone();
        let mut step = tokio::spawn(async move {
            let begin = Instant::now();
            let admin = AdminClient::connect(&dir).await.ok()?;
            let step = admin.rotate(None, true, None).await.ok()?;
            Some((step, begin.elapsed()))
        });
        // Most die somewhere in the step, each fourth one right after it: so rotations go on, and
        // it is known how long a step takes on this machine at this moment.
        let mut answered = None;
        if kill % 4 == 3 {
            answered = Some((&mut step).await);
        } else {
            sleep(usual.mul_f64(rand::random_range(0.0..1.2))).await;
        }
        ca.kill();
        let answered = match answered {
            Some(answered) => answered,
            None => step.await,
        };
        if let Some((step, took)) = answered.expect("it does not panic") {
            *steps.entry(step).or_default() += 1;
            usual = took;
        }
        let written = std::fs::read(ca.dir.join("state.json")).expect("a state");
        let line = written
            .iter()
            .position(|b| *b == b'\n')
            .expect("a first line");
        let state = CaState::from_bytes(&written[line + 1..]).expect("a whole state");
        let last = contents.last_key_value().expect("one at least");
        assert!(state.generation() >= *last.0, "the generation went back");
        drop(ca);
        ca = Ca::start(home.path(), address, &more).await;
    }
    println!(
        "{kills} kills, {} roots were active, {} generations, steps that were answered: {steps:?}",
        actives.len(),
        contents.len()
    );
    assert!(kills < 20 || actives.len() > 1, "no rotation came through");
}

// === secrets ===

/// The secret number in a private key on P-256 (PKCS #8, then SEC 1: an octet string of 32 bytes).
fn secret(pem: &str) -> [u8; 32] {
    let key = inmesh_pki::svid::PrivateKey::from_pem(pem.as_bytes()).expect("a key");
    let der = key.secret_pkcs8_der();
    let at = der.windows(2).position(|two| two == [0x04, 0x20]);
    let at = at.expect("an octet string of 32 bytes") + 2;
    der[at..at + 32].try_into().expect("32 bytes")
}

/// What bytes look like in text: in hexadecimal, in base64 at each of its three offsets, and as
/// Rust prints a list.
fn looks(secret: &[u8]) -> Vec<String> {
    let hex: String = secret.iter().map(|b| format!("{b:02x}")).collect();
    let list: Vec<String> = secret[..8].iter().map(ToString::to_string).collect();
    let mut all = vec![hex.to_uppercase(), list.join(", "), hex];
    for offset in 0..3 {
        // Whole groups of three bytes look the same wherever they stand.
        let whole = &secret[offset..offset + (secret.len() - offset) / 3 * 3];
        all.push(data_encoding::BASE64.encode(whole));
        all.push(data_encoding::BASE64URL.encode(whole));
    }
    all
}

#[test]
fn a_secret_would_be_found_in_any_dress() {
    let secret: Vec<u8> = (100..132).collect();
    for before in 0..3 {
        let bytes = [&vec![7; before][..], &secret, &[8, 9]].concat();
        let dressed = data_encoding::BASE64.encode(&bytes);
        assert!(looks(&secret).iter().any(|look| dressed.contains(look)));
    }
    let printed = format!("{secret:?} {secret:02x?}");
    assert!(looks(&secret).iter().any(|look| printed.contains(look)));
}

/// At the highest level of the log, and in all that the admin surfaces tell.
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_told_to_anybody() {
    let home = Home {
        dir: TempDir::new().expect("a temporary folder"),
        address: free(),
    };
    let pages = free();
    let more = [
        "--leaf-lifetime",
        "4s",
        "--log",
        "trace",
        "--metrics",
        &pages.to_string(),
    ];
    let ca = Ca::start(home.dir.path(), home.address, &more).await;
    let token = ca.token("spiffe://test.local/ns/shop/sa/app");
    std::fs::write(home.dir.path().join("app.token"), &token).expect("a token's file");
    let identity = format!(
        "identity: {{ca: {{address: \"{}\", caId: spiffe://test.local/inmesh/ca, trustBundle: ../ca/bundle.pem, tokenFile: ../app.token, keep: kept}}}}
defaultAction: allow
peers: strict
",
        home.address
    );
    let agents = support::Home::at(home.dir.path());
    let level: [(&str, &Path); 1] = [("MESH_LOG", Path::new("trace"))];
    let agent = agents.agent_with("app", &identity, &[], &level).await;

    // Every key that a disk sees while leaves rotate: those of the CA, and of two leaves.
    let mut secrets = vec![token.clone().into_bytes()];
    let mut keys = std::collections::BTreeSet::new();
    let kept = agent.dir.join("kept");
    eventually("two leaves are kept", async || {
        std::fs::read_to_string(kept.join("key.pem")).ok()
    })
    .await;
    while keys.len() < 2 {
        let key = eventually("a leaf is kept", async || {
            std::fs::read_to_string(kept.join("key.pem")).ok()
        })
        .await;
        keys.insert(key);
        sleep(Duration::from_millis(50)).await;
    }
    for file in std::fs::read_dir(ca.dir.join("keys")).expect("the CA's keys") {
        let path = file.expect("a file").path();
        keys.insert(std::fs::read_to_string(path).expect("a key"));
    }
    assert!(keys.len() >= 4, "a root, an issuing CA and two leaves");
    secrets.extend(keys.iter().map(|pem| secret(pem).to_vec()));

    let mut told = agent.log() + &std::fs::read_to_string(&ca.log).expect("the CA's log");
    for path in ["/metrics", "/status", "/config_dump", "/readyz"] {
        told += &agent.get(path).await.body;
    }
    told += &stdout(&agent.mesh_status());
    for path in ["/metrics", "/readyz"] {
        told += &support::get(pages, path).await.body;
    }
    for args in [&["status"][..], &["status", "--json"], &["rotate"]] {
        let shown = ca.operate(args);
        told += &(stdout(&shown) + &stderr(&shown));
    }
    assert!(
        told.contains("TRACE") && told.len() > 10_000,
        "too little to search"
    );
    assert!(!told.contains(&token), "the join token is shown");
    for secret in &secrets {
        for look in looks(secret) {
            assert!(!told.contains(&look), "a secret is shown, as {look:.8}...");
        }
    }
}
