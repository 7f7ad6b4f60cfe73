#!/usr/bin/env bash
# hyper 1.12.0: a connection of its HTTP/1.1 server wakes its own task while it is polled, for each request with a body,
# although all of the body came with the head and was handed over: to take a part of a body says that there is room
# for another, and it is not asked whether there will be one. So a request with a body costs two polls of the
# connection, and of the service in it, up to the answer; one without a body costs one. On a scheduler of several
# threads another worker may be woken for it.
#
# What forwards requests polls its own client connection in that poll too.
#
# Needs cargo and the network. Prints how often a connection was woken by its own first poll; fails if it is other than
# was seen.
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
hyper = { version = "=1.12.0", features = ["server", "http1"] }
hyper-util = { version = "=0.1.21", features = ["tokio"] }
http-body-util = "=0.1.5"
tokio = { version = "=1.53.2", features = ["macros", "rt", "io-util"] }
TOML
cat > src/main.rs <<'RUST'
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// How often the first poll of a connection wakes its task, and the bytes of body that the service had by then.
async fn woken(request: &str) -> (usize, usize) {
    let (near, mut far) = tokio::io::duplex(4096);
    far.write_all(request.as_bytes()).await.unwrap();
    let read = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&read);
    let service = service_fn(move |request: Request<Incoming>| {
        let seen = Arc::clone(&seen);
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            seen.store(body.len(), Ordering::Relaxed);
            // The answer takes its time.
            std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>().await
        }
    });
    let mut connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(near), service));
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&count));
    assert!(connection.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    (count.0.load(Ordering::Relaxed), read.load(Ordering::Relaxed))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for request in [
        "GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello",
    ] {
        let (woken, read) = woken(request).await;
        let method = request.split(' ').next().unwrap();
        println!("{method}: {read} bytes of body were read, and its task was woken {woken} times");
    }
}
RUST
cargo run -q --release > out.txt
cat out.txt
diff out.txt - <<'SEEN'
GET: 0 bytes of body were read, and its task was woken 0 times
POST: 5 bytes of body were read, and its task was woken 1 times
SEEN
