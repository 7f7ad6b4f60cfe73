#!/usr/bin/env bash
# hyper 1.12.0: its HTTP/1.1 client drops the body of a GET or HEAD whose length is not known, and says nothing: the
# request arrives whole, without a body, and the call succeeds. The same body with POST or OPTIONS arrives chunked, and
# so does that of the GET where the request names `transfer-encoding: chunked` itself. A proxy made of hyper's
# server and client therefore loses the body of `curl -X GET -H 'Transfer-Encoding: chunked' -d ...`: the server side
# hands it over as a stream without a length.
#
# RFC 9110 section 9.3.1 gives content in a GET no meaning of its own; it does not say that it may be taken out.
#
# Needs cargo and the network. Prints what arrived for each request; fails if it is other than was seen.
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
hyper = { version = "=1.12.0", features = ["client", "http1"] }
hyper-util = { version = "=0.1.21", features = ["tokio"] }
http-body-util = "=0.1.5"
futures-util = { version = "=0.3.33", default-features = false }
tokio = { version = "=1.53.2", features = ["macros", "rt", "net", "io-util", "time"] }
TOML
cat > src/main.rs <<'RUST'
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use hyper::{client::conn::http1, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What arrives of a request whose body is a stream of one part.
async fn arrived(method: &str, chunked: bool) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut all = vec![0; 4096];
        let mut read = 0;
        // Until the caller is silent: what it has to say is there by then.
        while let Ok(Ok(n @ 1..)) = tokio::time::timeout(
            std::time::Duration::from_millis(300),
            stream.read(&mut all[read..]),
        )
        .await
        {
            read += n;
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        String::from_utf8_lossy(&all[..read]).into_owned()
    });
    let stream = tokio::net::TcpStream::connect(to).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let part = Frame::data(Bytes::from_static(b"hello"));
    let body = StreamBody::new(futures_util::stream::iter([Ok::<_, std::io::Error>(part)]));
    let mut request = Request::builder().method(method).uri("/").header("host", "x");
    if chunked {
        request = request.header("transfer-encoding", "chunked");
    }
    let answer = sender.send_request(request.body(body).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 204);
    let text = server.await.unwrap();
    let body = if text.contains("hello") { "with its body" } else { "without its body" };
    format!("{method}{} arrived {body}", if chunked { " that names its coding" } else { "" })
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for (method, chunked) in [("POST", false), ("OPTIONS", false), ("GET", false), ("HEAD", false), ("GET", true)] {
        println!("{}", arrived(method, chunked).await);
    }
}
RUST
cargo run -q --release > seen
cat seen
cat > expected <<'TEXT'
POST arrived with its body
OPTIONS arrived with its body
GET arrived without its body
HEAD arrived without its body
GET that names its coding arrived with its body
TEXT
diff expected seen
