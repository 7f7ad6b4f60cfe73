//! `mesh apply` and `mesh rollback` against what stands in for an API server with a control plane behind it.

mod support;

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{RawQuery, State as Shared};
use axum::http::StatusCode;
use axum::routing::get;
use inmesh_discovery::stage::{Running, Stage, State};
use serde_json::{Value, json};
use support::{mesh, no_cluster, stderr, stdout};
use tempfile::TempDir;
use tokio::net::TcpListener;

const CANARY: &str = "inmesh.dev/canary";
const PREVIOUS: &str = "inmesh.dev/previous";

/// An API server with one route; what is staged of it ends as is said.
#[derive(Clone)]
struct Cluster(Arc<Mutex<Held>>);

struct Held {
    route: Value,
    ends: State,
}

fn spec(backend: &str) -> Value {
    json!({
        "parentRefs": [{"group": "", "kind": "Service", "name": "cart"}],
        "rules": [{"backendRefs": [{"name": backend, "port": 80}]}],
    })
}

impl Cluster {
    async fn begin(dir: &Path, ends: State) -> (Self, PathBuf) {
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "spec": spec("one"),
            "metadata": {"name": "cart", "namespace": "shop", "generation": 1, "resourceVersion": "1"},
        });
        let cluster = Self(Arc::new(Mutex::new(Held { route, ends })));
        let kinds = || async { json!({"resources": [{"name": "httproutes"}]}).to_string() };
        let one = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/cart";
        let app = Router::new()
            .route("/apis/gateway.networking.k8s.io/v1", get(kinds))
            .route(one, get(look).patch(change))
            .with_state(cluster.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("it is bound");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(async move { axum::serve(listener, app).await });
        let config = no_cluster(dir);
        let text = std::fs::read_to_string(&config).expect("it is there");
        let (before, rest) = text.split_once("http://").expect("a server");
        let (_, after) = rest.split_once('\'').expect("it ends");
        let text = format!("{before}http://{address}'{after}");
        std::fs::write(&config, text).expect("it is written");
        (cluster, config)
    }

    fn with<T>(&self, of: impl FnOnce(&mut Held) -> T) -> T {
        of(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn route(&self) -> Value {
        self.with(|held| held.route.clone())
    }
}

/// Each look is a step of the control plane further.
async fn look(Shared(cluster): Shared<Cluster>) -> String {
    cluster.with(|held| {
        let shown = held.route.clone();
        let text = shown["metadata"]["annotations"][CANARY].as_str();
        let Some(mut stage) = text
            .and_then(|text| Stage::read(text).ok())
            .filter(Stage::lives)
        else {
            return shown.to_string();
        };
        if stage.state == State::Staged {
            stage.state = State::Running;
            stage.running = Some(Running::new(1, 0, 10, 1));
        } else {
            (stage.canary.requests, stage.rest.requests) = (300, 2_700);
            if held.ends == State::Promoted {
                let next = stage.spec.clone().expect("it is staged");
                let before = std::mem::replace(&mut held.route["spec"], next);
                held.route["metadata"]["annotations"][PREVIOUS] = before.to_string().into();
                held.route["metadata"]["generation"] = 2.into();
            }
            stage = stage.ended(held.ends, "so it is");
        }
        held.route["metadata"]["annotations"][CANARY] = stage.write().expect("it is small").into();
        shown.to_string()
    })
}

/// A JSON patch, as far as it is used.
async fn change(
    Shared(cluster): Shared<Cluster>,
    RawQuery(query): RawQuery,
    body: axum::body::Bytes,
) -> (StatusCode, String) {
    let patch: Vec<Value> = serde_json::from_slice(&body).expect("a patch");
    cluster.with(|held| {
        let mut next = held.route.clone();
        for one in patch {
            let (op, path) = (&one["op"], one["path"].as_str().expect("a path"));
            if op == "test" {
                if next.pointer(path) != Some(&one["value"]) {
                    let status = json!({"kind": "Status", "code": 422, "reason": "Invalid", "message": "no"});
                    return (StatusCode::UNPROCESSABLE_ENTITY, status.to_string());
                }
                continue;
            }
            let (to, name) = path.rsplit_once('/').expect("a path");
            let to = next.pointer_mut(to).and_then(Value::as_object_mut).expect("a place");
            match op.as_str() {
                Some("remove") => drop(to.remove(&name.replace("~1", "/"))),
                _ => drop(to.insert(name.replace("~1", "/"), one["value"].clone())),
            }
        }
        if query.as_deref() != Some("dryRun=All") {
            held.route = next.clone();
        }
        (StatusCode::OK, next.to_string())
    })
}

fn document(dir: &Path, backend: &str) -> PathBuf {
    let file = dir.join("route.yaml");
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "cart", "namespace": "shop"}, "spec": spec(backend),
    });
    std::fs::write(&file, route.to_string()).expect("it is written");
    file
}

async fn run(args: &[&str], paths: &[&Path]) -> Output {
    let args: Vec<String> = args.iter().map(ToString::to_string).collect();
    let paths: Vec<PathBuf> = paths.iter().map(|path| path.to_path_buf()).collect();
    let ran = tokio::task::spawn_blocking(move || {
        let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
        mesh(args.iter().map(String::as_str), &paths)
    });
    ran.await.expect("it runs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_is_staged_and_what_becomes_of_it_is_the_exit_code() {
    let dir = TempDir::new().expect("a temporary folder");
    let file = document(dir.path(), "two");
    let name = file.to_str().expect("UTF-8");
    for (ends, code, word) in [
        (State::Promoted, 0, "promoted"),
        (State::Reverted, 1, "reverted"),
    ] {
        let (cluster, config) = Cluster::begin(dir.path(), ends).await;
        let config = config.as_path();
        let args = ["apply", "--canary", "10%", "-f", name, "--kubeconfig"];
        let applied = run(&args, &[config]).await;
        assert_eq!(applied.status.code(), Some(code), "{applied:?}");
        let said = stdout(&applied);
        for words in [
            "HTTPRoute/shop/cart: staged for 10 % of the members, for 30 s; `mesh rollback HTTPRoute/cart -n shop` stops it",
            "1 of 10 members have it: 10.0 % of the requests can be hurt",
            &format!("HTTPRoute/shop/cart: {word}: so it is"),
            "and made 300 of 3000 requests (10.0 %)",
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
        let promoted = ends == State::Promoted;
        assert_eq!(
            cluster.route()["spec"],
            spec(if promoted { "two" } else { "one" })
        );
        // Back, where there is something to go back to.
        let args = ["rollback", "httproute/cart", "-n", "shop", "--kubeconfig"];
        let back = run(&args, &[config]).await;
        assert_eq!(back.status.success(), promoted, "{back:?}");
        assert_eq!(cluster.route()["spec"], spec("one"));
        assert!(
            cluster.route()["metadata"]["annotations"]
                .get(PREVIOUS)
                .is_none()
        );
        assert_eq!(
            stderr(&back).contains("nothing was promoted of it"),
            !promoted,
            "{back:?}"
        );
    }
    // Nothing is staged of a document that changes nothing, nor where another is.
    let (cluster, config) = Cluster::begin(dir.path(), State::Promoted).await;
    let same = document(dir.path(), "one");
    let args = [
        "apply",
        "--canary",
        "10%",
        "--json",
        "-f",
        same.to_str().expect("UTF-8"),
        "--kubeconfig",
    ];
    let same = run(&args, &[&config]).await;
    assert_eq!(
        (same.status.code(), stdout(&same)),
        (Some(2), String::new())
    );
    assert!(
        stderr(&same).contains("it says already what is to be staged"),
        "{same:?}"
    );
    let stage = Stage::new("a1", 10, 30, 1, spec("other"))
        .write()
        .expect("it is small");
    cluster.with(|held| held.route["metadata"]["annotations"] = json!({CANARY: stage}));
    document(dir.path(), "two");
    let other = run(&args, &[&config]).await;
    assert_eq!(other.status.code(), Some(2));
    assert!(
        stderr(&other).contains("staged in its place already"),
        "{other:?}"
    );
    // That is what is stopped; here it is promoted as it is looked at, and that is taken back.
    let args = ["rollback", "HTTPRoute/cart", "-n", "shop", "--kubeconfig"];
    let stopped = run(&args, &[&config]).await;
    assert!(stopped.status.success(), "{stopped:?}");
    assert_eq!(cluster.route()["spec"], spec("one"));
    let left = cluster.route()["metadata"]["annotations"][CANARY].clone();
    let left = Stage::read(left.as_str().expect("a text")).expect("a stage");
    assert_eq!((left.state, left.spec), (State::Stopped, None));
}

#[tokio::test]
async fn what_cannot_be_staged_says_why() {
    let dir = TempDir::new().expect("a temporary folder");
    let config = no_cluster(dir.path());
    let file = document(dir.path(), "two");
    let name = file.to_str().expect("UTF-8");
    for (args, why) in [
        (vec!["apply", "-f", name], "--canary"),
        (vec!["apply", "--canary", "0%", "-f", name], "is no share"),
        (
            vec!["apply", "--canary", "95%", "-f", name, "--kubeconfig"],
            "95 % leave too few",
        ),
        (
            vec!["apply", "--canary", "10%", "--for", "1s", "-f", name],
            "is not from 10s to 24h",
        ),
        (
            vec![
                "apply",
                "--canary",
                "10%",
                "-f",
                "none.yaml",
                "--kubeconfig",
            ],
            "reading none.yaml",
        ),
        (
            vec!["apply", "--canary", "10%", "-f", name, "--kubeconfig"],
            "HTTPRoute",
        ),
    ] {
        let paths: &[&Path] = if args.last() == Some(&"--kubeconfig") {
            &[&config]
        } else {
            &[]
        };
        let refused = run(&args, paths).await;
        assert_eq!(refused.status.code(), Some(2), "{args:?}: {refused:?}");
        assert!(stderr(&refused).contains(why), "{why}: {refused:?}");
    }
}
