//! PROXY headers of other programs, and to them: haproxy in front of an agent, nginx and haproxy behind
//! one. Each is left out where it is not installed.

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use support::{Home, eventually, free, mesh, service, stdout};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A program of the test; killed when dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

/// Starts a program, unless it is not installed.
fn start(home: &Home, name: &str, arguments: &[&str], config: &str) -> Option<Program> {
    let file = home.path(&format!("{name}.conf"));
    std::fs::write(&file, config).expect("written");
    let log = std::fs::File::create(home.path(&format!("{name}.log"))).expect("a log");
    let child = Command::new(name)
        .args(arguments)
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    match child {
        Ok(child) => Some(Program(child)),
        Err(error) => {
            println!("skipped: no {name}: {error}");
            None
        }
    }
}

const DEFAULTS: &str = "defaults
  timeout connect 5s
  timeout client 20s
  timeout server 20s
";

/// haproxy that passes connections on with headers, as its words for them are.
fn haproxy_before(home: &Home, at: SocketAddr, agent: SocketAddr, sends: &str) -> Option<Program> {
    let config = format!(
        "{DEFAULTS}
listen front
  mode tcp
  bind {at}
  server agent {agent} {sends}
"
    );
    start(home, "haproxy", &["-db", "-f"], &config)
}

/// A server that reads headers and answers with the caller that they name.
fn server(home: &Home, name: &str, at: SocketAddr) -> Option<Program> {
    let dir = home.path("nginx");
    match name {
        "nginx" => {
            std::fs::create_dir(&dir).expect("a new folder");
            let dir = dir.display();
            let config = format!(
                "daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c;
  uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e;
  server {{
    listen {at} proxy_protocol;
    location / {{ return 200 \"$proxy_protocol_addr:$proxy_protocol_port\"; }}
  }}
}}
"
            );
            start(home, "nginx", &["-c"], &config)
        }
        _ => {
            let config = format!(
                "{DEFAULTS}
frontend server
  mode http
  bind {at} accept-proxy
  http-request return status 200 content-type text/plain lf-string \"%[src]:%[src_port]\"
"
            );
            // Beside the one in front.
            let beside = Home::at(&dir);
            std::fs::create_dir(&dir).expect("a new folder");
            start(&beside, "haproxy", &["-db", "-f"], &config)
        }
    }
}

/// Asks once; says the caller's own address and the answer, if there is one.
async fn ask(at: SocketAddr) -> Option<(SocketAddr, String)> {
    let mut stream = TcpStream::connect(at).await.ok()?;
    let own = stream.local_addr().ok()?;
    let request = b"GET / HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let is_answered = answer.starts_with("HTTP/1.1 200 ");
    is_answered.then_some((own, answer))
}

fn is_closed(at: SocketAddr) -> bool {
    std::net::TcpStream::connect(at).is_err()
}

/// The address of a program that calls haproxy is what the server at the far end of the mesh sees: from
/// haproxy to an agent, from that to the agent of the application over mutual TLS, and to a server of each
/// kind, in every version.
#[tokio::test]
async fn a_caller_of_haproxy_is_known_to_servers_behind_the_mesh() {
    for (of_haproxy, between, to_app, behind) in [
        ("send-proxy", "V2", "V1", "nginx"),
        ("send-proxy-v2", "V1", "V2", "nginx"),
        ("send-proxy-v2-ssl", "V2", "V2", "haproxy"),
        ("send-proxy", "V1", "V1", "haproxy"),
    ] {
        let home = Home::new();
        let [front, door, inner, app] = [free(), free(), free(), free()];
        let programs = (
            haproxy_before(&home, front, door, of_haproxy),
            server(&home, behind, app),
        );
        let (Some(_before), Some(_behind)) = programs else {
            return;
        };
        eventually("both programs listen", async || {
            (!is_closed(front) && !is_closed(app)).then_some(())
        })
        .await;
        let accept = "accept: required, from: [127.0.0.0/8]";
        let file = |listener: String| {
            format!("defaultAction: allow\npeers: strict\nlisteners: [{{{listener}}}]\n")
        };
        let inbound = file(format!(
            "bind: '{inner}', inbound: {{app: '{app}', appProtocol: http, \
             proxyProtocol: {{{accept}, send: {to_app}}}}}"
        ));
        let _server = home.agent("app", &inbound, &[]).await;
        let outbound = file(format!(
            "bind: '{door}', outbound: {{appProtocol: http, proxyProtocol: {{{accept}}}}}"
        ));
        let ids = "inmesh.dev/ids: spiffe://test.local/ns/shop/sa/app";
        let policy = format!(
            "apiVersion: inmesh.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: app, namespace: shop}}
spec:
  targetRefs: [{{group: '', kind: Service, name: app}}]
  proxyProtocol: {{version: {between}}}
"
        );
        let documents = [
            ("app.yaml", &*service("app", inner, ids)),
            ("policy.yaml", &*policy),
        ];
        let client = home.agent("web", &outbound, &documents).await;
        let (own, answer) = eventually("a request comes through", async || ask(front).await).await;
        assert!(answer.ends_with(&own.to_string()), "{own}: {answer}");
        explained(&client.dir, between);
        // Past haproxy there is no way in.
        assert!(ask(door).await.is_none());
    }
}

/// What a folder says of it, with the document that does.
fn explained(dir: &Path, version: &str) {
    let dir = dir.to_str().expect("UTF-8");
    let page = mesh(["explain", dir, "GET http://app/"], &[]);
    let page = stdout(&page);
    let line = page.lines().find(|line| line.contains("proxyProtocol"));
    let line = line.unwrap_or_else(|| panic!("no proxyProtocol in\n{page}"));
    assert!(line.contains(version), "{line}");
    assert!(page.contains("TrafficPolicy/shop/app"), "{page}");
    let status = mesh(["validate", "--dir", dir], &[]);
    assert!(status.status.success(), "{status:?}");
}
