//! A small HTTP client for the admin surface of an agent.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Sends one request to an admin address and returns the body of a good answer.
pub(crate) async fn admin(method: Method, address: &str, path: &str) -> anyhow::Result<String> {
    let exchange = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, address)
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        if !status.is_success() {
            bail!("{status}: {}", text.trim());
        }
        Ok(text)
    };
    timeout(LIMIT, exchange)
        .await
        .map_err(|_| anyhow::anyhow!("no answer within {LIMIT:?}"))
        .and_then(|answer| answer)
        .with_context(|| {
            format!(
                "asking the agent at {address} (is it running? give its admin address with --admin)"
            )
        })
}
