#!/usr/bin/env bash
# kube 5.0.0: a watch whose connection ends in the middle of an event ends as one that the API server closed in order:
# the part of an event is left out, and the stream gives no error (`Client::request_events`). A list that ends in its
# middle is an error, and so is a line of a watch that is whole and no JSON. A program that follows a watch has to go on
# from the last version that it has seen after every end, whatever its cause; one that takes an end for "all was said"
# has lost an event.
#
# Needs cargo and the network. Prints what comes of each answer; fails if it is other than was seen.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "finding"
version = "0.1.0"
edition = "2021"
[dependencies]
kube = { version = "=5.0.0", default-features = false, features = ["client"] }
k8s-openapi = { version = "=0.29.0", features = ["latest"] }
futures-util = "=0.3.34"
http = "=1.5.0"
serde_json = "=1.0.154"
tokio = { version = "=1.53.2", features = ["macros", "rt"] }
tower = { version = "=0.5.3", features = ["util"] }
TOML
cat > src/main.rs <<'RUST'
use futures_util::{pin_mut, StreamExt};
use http::{Request, Response};
use kube::client::Body;
use kube::core::{ObjectList, WatchEvent};
use kube::Client;
use serde_json::Value;

/// A client of a server that answers each request with this text.
fn client(text: &'static str) -> Client {
    let answer = move |_: Request<Body>| async move {
        Ok::<_, std::convert::Infallible>(Response::new(Body::from(text.as_bytes().to_vec())))
    };
    Client::new(tower::service_fn(answer), "default")
}

fn request() -> Request<Vec<u8>> {
    Request::get("/api/v1/pods").body(Vec::new()).unwrap()
}

async fn watch(text: &'static str) -> String {
    let events = client(text).request_events::<Value>(request()).await.unwrap();
    pin_mut!(events);
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        seen.push(match event {
            Ok(WatchEvent::Added(object)) => format!("added {}", object["metadata"]["name"]),
            Ok(_) => "another event".to_owned(),
            Err(_) => "an error".to_owned(),
        });
    }
    seen.push("the end".to_owned());
    seen.join(", ")
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    const WHOLE: &str = "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"a\"}}}\n";
    const CUT: &str = "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"a\"}}}\n{\"type\":\"ADDED\",\"object\":{\"meta";
    println!("a watch with one event: {}", watch(WHOLE).await);
    println!("with one and a part of another: {}", watch(CUT).await);
    println!("with a line that is no JSON: {}", watch("no json\n").await);
    let list = client("{\"metadata\":{},\"items\":[{\"meta");
    let list = list.request::<ObjectList<Value>>(request()).await;
    println!("a part of a list: {}", if list.is_err() { "an error" } else { "a list" });
}
RUST
cargo run -q --release > seen 2> log || { cat log; exit 1; }
cat seen
cat > expected <<'TEXT'
a watch with one event: added "a", the end
with one and a part of another: added "a", the end
with a line that is no JSON: an error, the end
a part of a list: an error
TEXT
diff expected seen
