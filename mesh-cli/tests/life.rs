//! `mesh proxy` from start to end: a pair that forwards, its admin surface, and its way down.

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::get as on_get;
use bytes::Bytes;
use http::{Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nix::sys::signal::Signal;
use support::{
    Agent, Home, PLAIN, Pair, app, eventually, free, get, mesh, said, service, stdout, try_send,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::Instant;

async fn ask(door: SocketAddr, host: &str) -> support::Answer {
    let answer = try_send(door, Method::GET, "/", &[("host", host)]).await;
    answer.expect("the agent answers")
}

#[tokio::test]
async fn a_pair_carries_a_request_and_says_who_sent_it() {
    let home = Home::new();
    let echo = async |headers: HeaderMap| format!("{headers:?}");
    let app = app(Router::new().fallback(on_get(echo))).await;
    let (server, client, door) = Pair::new(app).start(&home).await;
    for host in ["app", "app.shop", "app.shop.svc.cluster.local", "app:80"] {
        let answer = ask(door, host).await;
        assert_eq!(answer.status, StatusCode::OK, "{host}: {answer:?}");
        // The trace continues in the application.
        assert!(answer.body.contains("traceparent"), "{}", answer.body);
    }
    let unknown = ask(door, "unknown").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert_eq!(unknown.header("x-mesh-reason"), "unknown-host");
    let principal = "source_principal=\"spiffe://test.local/ns/shop/sa/web\"";
    let inbound = server.get("/metrics").await.body;
    assert!(inbound.contains(principal), "{inbound}");
    let outbound = client.get("/metrics").await.body;
    assert!(outbound.contains("mutual_tls"), "{outbound}");
}

#[tokio::test]
async fn an_old_server_does_not_end_the_callers_connection() {
    let home = Home::new();
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let old = socket.local_addr().expect("its address");
    // HTTP/1.0: no length, the end of the connection ends the answer.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            let mut request = [0; 4096];
            let _some = stream.read(&mut request).await;
            let _gone = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nof old").await;
        }
    });
    let (_server, _client, door) = Pair::new(old).start(&home).await;
    let stream = TcpStream::connect(door).await.expect("the agent listens");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .expect("plain HTTP");
    tokio::spawn(connection);
    for _ in 0..3 {
        let request = Request::get("/").header("host", "app");
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        sender.ready().await.expect("the same connection serves on");
        let (head, body) = sender
            .send_request(request)
            .await
            .expect("an answer")
            .into_parts();
        let body = body.collect().await.expect("a whole answer").to_bytes();
        assert_eq!(
            (head.status, head.version),
            (StatusCode::OK, Version::HTTP_11)
        );
        assert_eq!(body, "of old");
    }
}

#[tokio::test]
async fn a_server_with_another_identity_is_sent_nothing() {
    let home = Home::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = {
        let asked = Arc::clone(&asked);
        async move || asked.fetch_add(1, Ordering::Relaxed).to_string()
    };
    let app = app(Router::new().fallback(on_get(count))).await;
    let (server, client, door) = Pair::new(app).start(&home).await;
    assert_eq!(ask(door, "app").await.status, StatusCode::OK);
    // The same agent, where that of `ledger` should stand.
    let documents = std::fs::read_to_string(client.dir.join("app.yaml")).expect("the documents");
    let documents = documents.replace("name: app", "name: ledger");
    let documents = documents.replace("service-name: app", "service-name: ledger");
    client.publish("ledger.yaml", &documents.replace("/sa/app", "/sa/ledger"));
    let answer = eventually("the Service is known", async || {
        let answer = ask(door, "ledger").await;
        (answer.status != StatusCode::NOT_FOUND).then_some(answer)
    })
    .await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    assert_eq!(answer.header("x-mesh-reason"), "wrong-server");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // Neither has the agent in front of it seen a second request.
    let metrics = server.get("/metrics").await.body;
    let requests: Vec<_> = metrics
        .lines()
        .filter(|l| l.starts_with("istio_requests_total"))
        .collect();
    assert!(
        matches!(requests[..], [one] if one.ends_with(" 1")),
        "{requests:?}"
    );
}

#[tokio::test]
async fn opaque_bytes_go_through_a_pair_and_end_at_each_end() {
    let home = Home::new();
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let app = socket.local_addr().expect("its address");
    // Answers only when it has read to the end: each direction ends by itself.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            let mut all = Vec::new();
            let _some = stream.read_to_end(&mut all).await;
            all.reverse();
            let _gone = stream.write_all(&all).await;
        }
    });
    let pair = Pair {
        protocol: "tcp",
        ..Pair::new(app)
    };
    let (_server, client, door) = pair.start(&home).await;
    let mut stream = TcpStream::connect(door).await.expect("the agent listens");
    stream.write_all(b"not a line of HTTP").await.expect("sent");
    stream.shutdown().await.expect("half closed");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert_eq!(answer, "PTTH fo enil a ton");
    eventually("the connection is counted", async || {
        let metrics = client.get("/metrics").await.body;
        let closed =
            |l: &str| l.starts_with("istio_tcp_connections_closed_total{") && l.ends_with(" 1");
        metrics.lines().any(closed).then_some(())
    })
    .await;
}

#[tokio::test]
async fn issued_files_are_an_identity() {
    let home = Home::new();
    let (ca, out) = (home.ca(), home.path("files"));
    let ca = ca.to_str().expect("UTF-8");
    let id = "spiffe://test.local/ns/shop/sa/app";
    let issued = mesh(["ca", "issue", id, "--ca", ca, "--out"], &[&out]);
    assert!(issued.status.success(), "{issued:?}");
    let app = app(Router::new().fallback(on_get(async || "hello"))).await;
    // The server's identity is that of its files; the caller mints from the CA.
    let pair = Pair {
        server: "identity:
  files: {certificate: ../files/cert.pem, key: ../files/key.pem, bundle: ../files/bundle.pem}
",
        ..Pair::new(app)
    };
    let (_server, _client, door) = pair.start(&home).await;
    assert_eq!(ask(door, "app").await.body, "hello");
}

/// What a web page of another origin makes a browser send.
const FROM_A_PAGE: [(&str, &str); 3] = [
    ("origin", "https://site.example"),
    ("origin", "null"),
    ("sec-fetch-site", "cross-site"),
];

#[tokio::test]
async fn no_web_page_reaches_the_admin_surface() {
    let home = Home::new();
    let agent = home
        .agent("web", "defaultAction: deny\npeers: strict\n", &[])
        .await;
    for field in FROM_A_PAGE {
        for (method, path) in [
            (Method::POST, "/drain"),
            (Method::POST, "/log?level=trace"),
            (Method::OPTIONS, "/drain"),
            (Method::GET, "/metrics"),
        ] {
            let answer = try_send(agent.admin, method.clone(), path, &[field]).await;
            let answer = answer.expect("it answers");
            assert_eq!(
                answer.status,
                StatusCode::FORBIDDEN,
                "{method} {path} {field:?}"
            );
            assert!(answer.body.contains("web page"), "{}", answer.body);
        }
    }
    assert_eq!(agent.get("/readyz").await.status, StatusCode::OK);
    let own = format!("http://{}", agent.admin);
    let own = [("origin", &*own), ("sec-fetch-site", "same-origin")];
    let answer = try_send(agent.admin, Method::POST, "/log?level=info", &own).await;
    assert_eq!(answer.expect("it answers").status, StatusCode::OK);
}

#[tokio::test]
async fn the_admin_surface_answers_local_hosts_only() {
    let home = Home::new();
    let agent = home
        .agent("web", "defaultAction: deny\npeers: strict\n", &[])
        .await;
    let status = async |host: &str| {
        let answer = try_send(agent.admin, Method::GET, "/readyz", &[("host", host)]).await;
        answer.expect("it answers").status
    };
    assert_eq!(status("localhost:1").await, StatusCode::OK);
    assert_eq!(status("127.0.0.1").await, StatusCode::OK);
    assert_eq!(status("attacker.example").await, StatusCode::FORBIDDEN);
    assert_eq!(
        agent.get("/drain").await.status,
        StatusCode::METHOD_NOT_ALLOWED
    );
    // The authority of a target in absolute form counts, and what a page takes is said.
    let raw = async |head: &str| said(agent.admin, head).await;
    let absolute = raw("GET http://attacker.example/readyz HTTP/1.1\r\nHost: localhost").await;
    assert!(absolute.starts_with("HTTP/1.1 403 "), "{absolute}");
    let own = raw("GET http://localhost/readyz HTTP/1.1\r\nHost: localhost").await;
    assert!(own.starts_with("HTTP/1.1 200 "), "{own}");
    for page in ["/livez", "/readyz", "/metrics"] {
        let head = raw(&format!("HEAD {page} HTTP/1.1\r\nHost: localhost")).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let (_, body) = head.split_once("\r\n\r\n").expect("a head");
        assert_eq!(body, "", "{page}");
        assert!(!head.contains("content-length: 0"), "{head}");
    }
    for (method, page, allowed) in [("POST", "/livez", "GET, HEAD"), ("HEAD", "/drain", "POST")] {
        let refused = raw(&format!("{method} {page} HTTP/1.1\r\nHost: localhost")).await;
        assert!(refused.starts_with("HTTP/1.1 405 "), "{refused}");
        assert!(
            refused.contains(&format!("allow: {allowed}\r\n")),
            "{refused}"
        );
    }
    assert_eq!(agent.get("/nothing").await.status, StatusCode::NOT_FOUND);
    assert_eq!(agent.get("/livez").await.status, StatusCode::OK);
    let dump = agent.get("/config_dump").await.body;
    assert!(!dump.contains("PRIVATE KEY"));
    let dump: serde_json::Value = serde_json::from_str(&dump).expect("the dump is JSON");
    assert!(dump["policy"]["defaultAction"].is_string(), "{dump}");
    assert!(dump["policy"]["policies"].is_array() && dump["routes"].is_array());
    // What it has started with is what its folder says.
    let admin = agent.admin.to_string();
    let running = mesh(["config", "--admin", &admin], &[]);
    assert!(running.status.success(), "{running:?}");
    let folder = mesh(["config", "--dir"], &[&agent.dir]);
    assert_eq!(stdout(&running), stdout(&folder));
}

#[tokio::test]
async fn the_log_level_is_set_while_it_runs() {
    let home = Home::new();
    let door = free();
    let more = format!(
        "defaultAction: deny
peers: strict
listeners: [{{bind: \"{door}\", outbound: {{appProtocol: http}}}}]
"
    );
    let agent = home.agent("web", &more, &[]).await;
    let debug = "exchange ended";
    assert!(!agent.log().contains(debug));
    assert_eq!(agent.post("/log").await.status, StatusCode::BAD_REQUEST);
    let wrong = agent.post("/log?level=a%3Db%3Dc").await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST, "{wrong:?}");
    let set = agent.post("/log?level=debug").await;
    assert_eq!(
        (set.status, &*set.body),
        (StatusCode::OK, "log level is debug\n")
    );
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-00");
    let fields = [("host", "unknown"), ("traceparent", &*parent)];
    try_send(door, Method::GET, "/items", &fields).await;
    eventually("the request can be followed", async || {
        let log = agent.log();
        let lines = log.lines().filter(|line| line.contains(trace));
        let lines: Vec<_> = lines.collect();
        let ended = lines.iter().find(|line| line.contains(debug))?;
        assert!(
            lines.iter().any(|line| line.contains("exchange began")),
            "{log}"
        );
        for part in ["/items", "status=404", "unknown-host", "shop/web"] {
            assert!(ended.contains(part), "{part}: {ended}");
        }
        Some(())
    })
    .await;
}

/// An agent with a request in flight that the application answers when the test lets it.
struct Held {
    agent: Agent,
    request: tokio::task::JoinHandle<support::Answer>,
    answer: Arc<Notify>,
}

impl Held {
    async fn new(home: &Home, limits: &str) -> Self {
        let (asked, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let handler = {
            let (asked, answer) = (Arc::clone(&asked), Arc::clone(&answer));
            async move || {
                asked.notify_one();
                answer.notified().await;
                "in the end"
            }
        };
        let app = app(Router::new().fallback(on_get(handler))).await;
        let door = free();
        let more = format!(
            "defaultAction: allow
peers: permissive
limits: {limits}
listeners: [{{bind: \"{door}\", inbound: {{app: \"{app}\", appProtocol: http}}}}]
"
        );
        let agent = home.agent("app", &more, &[]).await;
        let request = tokio::spawn(async move { get(door, "/").await });
        asked.notified().await;
        Self {
            agent,
            request,
            answer,
        }
    }

    async fn not_ready(&self) {
        eventually("it is not ready any more", async || {
            let answer = self.agent.get("/readyz").await;
            let draining = answer.status == StatusCode::SERVICE_UNAVAILABLE;
            draining.then(|| assert!(answer.body.contains("draining")))
        })
        .await;
    }
}

#[tokio::test]
async fn a_signal_lets_a_running_request_finish() {
    let home = Home::new();
    let mut held = Held::new(&home, "{drainLead: 50ms, drainDeadline: 1m}").await;
    held.agent.terminate();
    held.not_ready().await;
    held.answer.notify_one();
    let answer = held.request.await.expect("the request ended");
    assert_eq!(
        (answer.status, &*answer.body),
        (StatusCode::OK, "in the end")
    );
    let status = held.agent.ended().await;
    assert!(status.success(), "{status:?}");
}

#[tokio::test]
async fn it_carries_with_as_many_threads_as_it_is_told() {
    let home = Home::new();
    let file = "defaultAction: deny\npeers: strict\n";
    let workers = [("MESH_WORKERS", Path::new("24"))];
    let agent = home.agent_with("web", file, &[], &workers).await;
    let threads = agent.threads().count();
    assert!(threads >= 24, "{threads}");
    let none = mesh(["proxy", "--workers", "0", "--config"], &[&agent.dir]);
    assert_eq!(none.status.code(), Some(2), "{none:?}");
}

#[tokio::test]
async fn a_drain_asked_for_is_the_same_as_a_signal() {
    let home = Home::new();
    let mut held = Held::new(&home, "{drainLead: 50ms, drainDeadline: 1m}").await;
    assert_eq!(held.agent.post("/drain").await.status, StatusCode::ACCEPTED);
    held.not_ready().await;
    held.answer.notify_one();
    let answer = held.request.await.expect("the request ended");
    assert_eq!(answer.body, "in the end");
    assert!(held.agent.ended().await.success());
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let home = Home::new();
    let mut held = Held::new(&home, "{drainLead: 1m, drainDeadline: 10m}").await;
    held.agent.terminate();
    held.not_ready().await;
    let begin = Instant::now();
    held.agent.terminate();
    held.agent.ended().await;
    assert!(begin.elapsed() < Duration::from_secs(10));
    held.request.abort();
}

/// Signals that ask for something else than an end, and one without a meaning.
const OTHERS: [Signal; 3] = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];

#[tokio::test]
async fn a_rotated_access_log_is_opened_anew_and_no_line_is_lost() {
    let home = Home::new();
    let app = app(Router::new().fallback(on_get(async || "hello"))).await;
    let door = free();
    let more = format!(
        "defaultAction: allow
peers: permissive
accessLog: {{path: access.log}}
listeners: [{{bind: \"{door}\", inbound: {{app: \"{app}\", appProtocol: http}}}}]
"
    );
    let agent = home.agent("app", &more, &[]).await;
    let lines = |name: &str| std::fs::read_to_string(agent.dir.join(name)).unwrap_or_default();
    let logged = async |name: &str, path: &str| {
        let path = format!("\"path\":\"{path}\"");
        eventually("the request is logged", async || {
            lines(name).contains(&path).then_some(())
        })
        .await;
    };
    for (nth, signal) in OTHERS.into_iter().enumerate() {
        let (before, after) = (format!("/{nth}/before"), format!("/{nth}/after"));
        get(door, &before).await;
        logged("access.log", &before).await;
        let rotated = agent.dir.join("rotated");
        std::fs::rename(agent.dir.join("access.log"), &rotated).expect("renamed");
        agent.signal(signal);
        if signal == Signal::SIGUSR2 {
            get(door, &after).await;
            logged("rotated", &after).await;
            continue;
        }
        eventually("there is a new file", async || {
            agent.dir.join("access.log").exists().then_some(())
        })
        .await;
        get(door, &after).await;
        logged("access.log", &after).await;
        assert!(!lines("rotated").contains(&after));
    }
    assert_eq!(agent.get("/readyz").await.status, StatusCode::OK);
}

/// `/dev/stderr` is a link, as containers have it, and stands for the descriptor.
#[tokio::test]
async fn an_access_log_may_go_to_standard_error() {
    let home = Home::new();
    let app = app(Router::new().fallback(on_get(async || "hello"))).await;
    let door = free();
    let more = format!(
        "defaultAction: allow
peers: permissive
accessLog: {{path: /dev/stderr}}
listeners: [{{bind: \"{door}\", inbound: {{app: \"{app}\", appProtocol: http}}}}]
"
    );
    let agent = home.agent("app", &more, &[]).await;
    agent.signal(Signal::SIGHUP);
    get(door, "/seen").await;
    eventually("the request is logged", async || {
        agent.log().contains("\"path\":\"/seen\"").then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_agent_without_an_identity_serves_its_pages_and_says_so() {
    let home = Home::new();
    let door = free();
    let more = format!(
        "defaultAction: deny
peers: strict
identity: {{ca: {{address: \"{}\", caId: \"spiffe://test.local/inmesh/ca\", trustBundle: ../ca/ca.pem}}}}
workloadApi: {{listen: agent.sock, entries: [{{id: \"spiffe://test.local/ns/shop/sa/web\", uid: 0}}]}}
listeners: [{{bind: \"{door}\", outbound: {{appProtocol: http}}}}]
",
        free(),
    );
    let mut agent = home.unready("web", &more, &[]);
    eventually("it is alive", async || {
        let answer = agent.try_get("/livez").await?;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;
    for signal in OTHERS {
        agent.signal(signal);
    }
    eventually("it says what keeps it", async || {
        let ready = agent.get("/readyz").await;
        assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
        ready.body.contains("no identity yet: ").then_some(())
    })
    .await;
    let status = agent.status().await;
    assert_eq!(status["ready"], false);
    assert!(status["workload_api"].is_null(), "{status}");
    assert_eq!(agent.mesh_status().status.code(), Some(1));
    assert!(agent.metric("mesh_identity_renewal_failing").await >= 1);
    agent.terminate();
    let ended = agent.ended().await;
    assert!(ended.success(), "{ended:?}\n{}", agent.log());
}

/// An agent that starts while its callers send answers none of them that a Service does not exist which
/// stands in a document that it has not read yet.
#[tokio::test]
async fn the_first_answer_is_one_of_the_documents() {
    let home = Home::new();
    let app = app(Router::new().fallback(on_get(async || "answer"))).await;
    let door = free();
    let listener = format!(
        "defaultAction: deny
peers: strict
listeners: [{{bind: '{door}', outbound: {{appProtocol: http}}}}]
"
    );
    // Many, so that reading them takes a while.
    let mut documents = service("app", app, PLAIN);
    for nth in 0..400 {
        documents += "---\n";
        documents += &service(&format!("other-{nth}"), app, PLAIN);
    }
    let agent = home.unready("web", &listener, &[("all.yaml", &documents)]);
    let first = eventually("it answers", async || {
        try_send(door, Method::GET, "/", &[("host", "app")]).await
    })
    .await;
    assert_eq!(first.body, "answer", "{}", agent.log());
}

#[tokio::test]
async fn each_change_that_took_effect_is_a_line_of_the_log() {
    let home = Home::new();
    let file = "defaultAction: deny\npeers: strict\n";
    let agent = home.agent("web", file, &[]).await;
    let says = async |what: &str| {
        eventually(what, async || agent.log().contains(what).then_some(())).await;
    };
    agent.publish("app.yaml", &service("app", free(), PLAIN));
    says("added EndpointSlice/shop/app-1, Service/shop/app").await;
    agent.publish("app.yaml", &service("app", free(), PLAIN));
    says("changed EndpointSlice/shop/app-1").await;
    let line = "removed EndpointSlice/shop/app-1, Service/shop/app";
    assert!(!agent.log().contains(line));
    std::fs::remove_file(agent.dir.join("app.yaml")).expect("removed");
    says(line).await;
    let log = agent.log();
    assert!(
        log.lines().all(|l| !l.contains(line) || l.contains("INFO")),
        "{log}"
    );
}

#[tokio::test]
async fn metrics_come_as_a_scraper_asks_for_them() {
    let home = Home::new();
    let door = free();
    let more = format!(
        "defaultAction: deny
peers: strict
listeners: [{{bind: \"{door}\", outbound: {{appProtocol: http}}}}]
"
    );
    let agent = home.agent("web", &more, &[]).await;
    let _open = TcpStream::connect(door).await.expect("it listens");
    let open = format!("mesh_connections_open{{listener=\"{door}\",direction=\"outbound\"}} 1");
    eventually("the connection is counted", async || {
        agent
            .get("/metrics")
            .await
            .body
            .contains(&open)
            .then_some(())
    })
    .await;
    for (accept, kind, end) in [
        ("*/*", "text/plain; version=0.0.4", false),
        (
            "application/openmetrics-text;version=1.0.0",
            "application/openmetrics-text",
            true,
        ),
    ] {
        let answer = try_send(agent.admin, Method::GET, "/metrics", &[("accept", accept)]).await;
        let answer = answer.expect("it answers");
        assert!(
            answer.header("content-type").starts_with(kind),
            "{answer:?}"
        );
        assert_eq!(answer.body.ends_with("# EOF\n"), end);
        assert!(answer.body.contains("mesh_config_refusals_total 0\n"));
        assert!(answer.body.contains("mesh_ready 1\n"));
    }
}

#[tokio::test]
async fn an_edited_agent_file_says_that_a_restart_is_needed() {
    let home = Home::new();
    let file = "defaultAction: deny\npeers: strict\n";
    let agent = home.agent("web", file, &[]).await;
    let path = agent.dir.join("agent.yaml");
    let before = std::fs::read_to_string(&path).expect("the agent's file");
    let says = async |what: &str| {
        eventually(what, async || agent.log().contains(what).then_some(())).await;
    };
    agent.publish("agent.yaml", &format!("{before}meshNamespace: mesh\n"));
    says("restart the agent to apply it").await;
    agent.publish("agent.yaml", &before);
    says("again what it was at the start").await;
    std::fs::remove_file(path).expect("removed");
    says("a restart would fail").await;
    // Another document is no change of it.
    assert_eq!(agent.log().matches("restart").count(), 2, "{}", agent.log());
}

#[tokio::test]
async fn a_strangers_byte_costs_no_line() {
    let home = Home::new();
    let app = app(Router::new().fallback(on_get(async || "hello"))).await;
    let door = free();
    let more = format!(
        "defaultAction: deny
peers: strict
accessLog: {{path: access.log}}
listeners: [{{bind: \"{door}\", inbound: {{app: \"{app}\", appProtocol: http}}}}]
"
    );
    let mut agent = home.agent("app", &more, &[]).await;
    for _ in 0..50 {
        let mut stream = TcpStream::connect(door).await.expect("it listens");
        stream.write_all(b"x").await.expect("sent");
        let _closed = stream.read(&mut [0; 64]).await;
    }
    let failed = "mesh_connections_failed_total{direction=\"inbound\",reason=\"not-tls\"} 50";
    eventually("all are counted", async || {
        agent
            .get("/metrics")
            .await
            .body
            .contains(failed)
            .then_some(())
    })
    .await;
    agent.terminate();
    agent.ended().await;
    let log = agent.log();
    assert!(log.matches("TLS handshake failed").count() <= 2, "{log}");
    let access = std::fs::read_to_string(agent.dir.join("access.log")).expect("the access log");
    assert!((1..=2).contains(&access.lines().count()), "{access}");
}

#[tokio::test]
async fn commands_wait_for_an_agent_set_its_log_and_drain_it() {
    let home = Home::new();
    let more = "defaultAction: deny\npeers: strict\nlimits: {drainLead: 50ms}\n";
    let mut agent = home.unready("web", more, &[]);
    let at = format!("http://{}/", agent.admin);
    let run = |args: &[&str]| {
        let at = ["--admin", at.as_str()];
        mesh(args.iter().chain(&at).copied(), &[])
    };
    let status = run(&["status", "--wait", "20s"]);
    assert!(status.status.success(), "{status:?}");
    let page = stdout(&status);
    assert!(page.starts_with("shop/web is ready; version "), "{page}");
    let log = run(&["log", "inmesh_core=debug,info"]);
    assert_eq!(stdout(&log), "log level is inmesh_core=debug,info\n");
    assert_eq!(run(&["log", "a=b=c"]).status.code(), Some(1));
    let drained = run(&["drain", "--wait", "20s"]);
    assert_eq!(stdout(&drained), "drained\n", "{drained:?}");
    assert!(agent.ended().await.success());
    // There is nothing to wait for: the limit ends it.
    let gone = run(&["status", "--wait", "300ms"]);
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
    assert!(
        support::stderr(&gone).contains("is it running?"),
        "{gone:?}"
    );
}

/// Callers that take all sockets that the agent has for them wait, and the agent still says that it
/// lives, shows its metrics and opens files.
#[tokio::test]
async fn an_agent_without_sockets_answers_its_probes() {
    let home = Home::new();
    let app = app(Router::new().fallback(on_get(async || "answer"))).await;
    let door = free();
    let listener = format!(
        "defaultAction: deny
peers: strict
listeners: [{{bind: '{door}', outbound: {{appProtocol: http}}}}]
"
    );
    let documents = service("app", app, PLAIN);
    let documents = [("app.yaml", &*documents)];
    // 96 of them are for the data path, and of those one half for callers.
    let agent = home
        .agent_with_descriptors("web", &listener, &documents, 160)
        .await;
    assert_eq!(ask(door, "app").await.status, StatusCode::OK);
    let mut callers = Vec::new();
    for _ in 0..120 {
        callers.push(TcpStream::connect(door).await.expect("the kernel accepts"));
    }
    let used_up = "mesh_sockets_open{side=\"callers\"} 48";
    eventually("all sockets are in use", async || {
        let metrics = agent.try_get("/metrics").await?.body;
        metrics.contains(used_up).then_some(())
    })
    .await;
    for _ in 0..5 {
        assert_eq!(agent.get("/livez").await.status, StatusCode::OK);
        assert_eq!(agent.get("/readyz").await.status, StatusCode::OK);
    }
    let metrics = agent.get("/metrics").await.body;
    assert!(
        metrics.contains("mesh_sockets_limit{side=\"callers\"} 48"),
        "{metrics}"
    );
    assert!(
        metrics.contains("mesh_sockets_exhausted_total{side=\"callers\"} "),
        "{metrics}"
    );
    assert!(!metrics.contains("mesh_ejections_total{"), "{metrics}");
    drop(callers);
    assert_eq!(ask(door, "app").await.status, StatusCode::OK);
    assert!(!agent.log().contains("cannot accept"), "{}", agent.log());
}
