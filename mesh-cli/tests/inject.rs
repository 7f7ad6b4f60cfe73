//! `mesh inject`, and the webhook of a control plane as an API server calls it.

mod support;

use std::fs::Permissions;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use support::ca::Ca;
use support::{Home, agent_file, eventually, free, stderr, stdout};

const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop, labels: {app: cart, build: '010'}}
spec: {containers: [{name: app, image: cart, args: ['yes', \"1\"]}], terminationGracePeriodSeconds: 0x10}
";

fn inject(text: &str) -> std::process::Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mesh"))
        .args(["inject", "-f", "-", "--image", "mesh:dev"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(text.as_bytes()).expect("written");
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

#[test]
fn documents_are_injected_or_printed_as_they_are() {
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: cart}\nspec: {ports: [{port: 80}]}\n";
    let done = inject(&format!("{service}---\n{POD}"));
    assert!(done.status.success(), "{}", stderr(&done));
    let text = stdout(&done);
    let (first, second) = text.split_once("---\n").expect("two documents");
    assert!(
        first.contains("kind: Service") && !first.contains("inmesh"),
        "{first}"
    );
    // As kubectl reads it: a text stays one, and a number of another base is that number.
    for part in [
        "inmesh-proxy",
        "restartPolicy: Always",
        "\"010\"",
        "- \"yes\"",
        "- \"1\"",
        "terminationGracePeriodSeconds: 16",
    ] {
        assert!(second.contains(part), "{part} is not in {second}");
    }
    // What is printed is not injected again.
    assert_eq!(stdout(&inject(second)), second);
    let declined = inject(&POD.replace("app: cart", "inmesh.dev/inject: disabled"));
    assert!(
        declined.status.success() && stderr(&declined).contains("is left as it is"),
        "{}",
        stderr(&declined)
    );
    let refused = inject(&POD.replace("app: cart", "inmesh.dev/inject: perhaps"));
    assert!(!refused.status.success() && stdout(&refused).is_empty());
    let said = stderr(&refused);
    assert!(
        said.contains(
            "standard input:3: metadata.labels.inmesh.dev/inject: is enabled or disabled"
        ),
        "{said}"
    );
}

/// Without files the webhook serves with its SVID, whose host name the CA was given.
#[tokio::test(flavor = "multi_thread")]
async fn the_webhook_proves_itself_by_the_host_name_in_its_svid() {
    let home = Home::new();
    let (ca_at, admin, control, webhook) = (free(), free(), free(), free());
    let own = "spiffe://test.local/ns/shop/sa/control";
    let name = "mesh-control.mesh-system.svc";
    let named = format!("{own}={name}");
    let ca = Ca::start(&home.path("."), ca_at, &["--host-name-of", &named]).await;
    let bundle = ca.dir.join("bundle.pem");
    let more = format!(
        "defaultAction: allow
peers: strict
identity: {{ca: {{address: \"{ca_at}\", caId: 'spiffe://test.local/inmesh/ca', trustBundle: {}, tokenFile: token}}}}
kubernetes: {{kubeconfig: kube.yaml, trustDomain: test.local}}
controlPlane:
  bind: \"{control}\"
  inject: {{bind: \"{webhook}\", image: 'mesh:dev'}}
",
        bundle.display()
    );
    let dir = home.folder("control", admin, &more);
    std::fs::write(dir.join("token"), ca.token(own)).expect("written");
    std::fs::set_permissions(dir.join("token"), Permissions::from_mode(0o600)).expect("a file");
    std::fs::write(dir.join("kube.yaml"), kubeconfig(free())).expect("written");
    let mut child = plane(&dir);
    let ask = |host: &str| {
        let url = format!("https://{host}:{}/inject", webhook.port());
        let resolve = format!("{host}:{}:127.0.0.1", webhook.port());
        let answer = Command::new("curl")
            .args(["-sS", "--max-time", "10", "--resolve", &resolve, "--cacert"])
            .arg(&bundle)
            .args(["-w", "%{http_code}", "-d", "{}", &url])
            .output();
        answer.expect("curl is installed")
    };
    eventually("the webhook answers", async || {
        stdout(&ask(name)).ends_with("400").then_some(())
    })
    .await;
    // It is verified by that name and no other.
    let other = ask("mesh-ca.mesh-system.svc");
    assert_eq!(other.status.code(), Some(60), "{}", stderr(&other));
    child.kill().and_then(|()| child.wait()).expect("it ran");
}

fn kubeconfig(at: SocketAddr) -> String {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{at}")}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
    });
    config.to_string()
}

/// A control plane with the agent's file of a folder.
fn plane(dir: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_mesh"))
        .args(["control", "--dir"])
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts")
}

#[tokio::test]
async fn an_api_server_has_pods_injected_by_the_webhook() {
    let home = Home::new();
    let (admin, control, webhook) = (free(), free(), free());
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let more = format!(
        "defaultAction: allow
peers: strict
kubernetes: {{kubeconfig: kube.yaml, trustDomain: test.local}}
controlPlane:
  bind: \"{control}\"
  inject: {{bind: \"{webhook}\", certificate: tls.crt, key: tls.key, image: 'mesh:dev'}}
"
    );
    let dir = home.folder("control", admin, &more);
    std::fs::write(dir.join("agent.yaml"), agent_file("control", admin, &more)).expect("written");
    // It injects while no API server answers: the one that asks may be starting itself.
    std::fs::write(dir.join("kube.yaml"), kubeconfig(free())).expect("written");
    std::fs::write(dir.join("tls.crt"), key.cert.pem()).expect("written");
    std::fs::write(dir.join("tls.key"), key.signing_key.serialize_pem()).expect("written");
    let mut child = plane(&dir);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "cart-"},
        "spec": {"containers": [{"name": "app", "image": "cart"}]},
    });
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {"uid": "1", "namespace": "shop", "object": pod},
    });
    let ask = |path: &str| {
        let url = format!("https://localhost:{}{path}", webhook.port());
        let answer = Command::new("curl")
            .args(["-s", "--max-time", "10", "--cacert"])
            .arg(dir.join("tls.crt"))
            .args([
                "-w",
                "\\n%{http_code}",
                "-H",
                "content-type: application/json",
                "-d",
                &review.to_string(),
                &url,
            ])
            .output();
        answer.ok().map(|answer| stdout(&answer))
    };
    let answer = eventually("the webhook answers", async || {
        let answer = ask("/inject").expect("curl is installed");
        answer.ends_with("\n200").then_some(answer)
    })
    .await;
    let body = answer.trim_end_matches("\n200");
    let body: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(body["response"]["patchType"], "JSONPatch", "{body}");
    assert!(ask("/other").is_some_and(|answer| answer.ends_with("\n404")));
    child.kill().and_then(|()| child.wait()).expect("it ran");
}
