//! A small HTTP client for the admin surface of an agent.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use inmesh_pki::clock::Span;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Where an agent's admin surface is: `host:port`, also written as a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AdminAddress(String);

impl AdminAddress {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<SocketAddr> for AdminAddress {
    fn from(address: SocketAddr) -> Self {
        Self(address.to_string())
    }
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = text.strip_prefix("http://").unwrap_or(text);
        let address = address.strip_suffix('/').unwrap_or(address);
        let invalid = format!("{text:?} is not an address; write for example 127.0.0.1:15000");
        let uri: http::uri::Authority = address.parse().map_err(|_| invalid.clone())?;
        if uri.port_u16().is_none() || address.contains('@') {
            return Err(invalid);
        }
        Ok(Self(address.to_owned()))
    }
}

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Sends one request to an admin address and returns the body of a good answer.
pub(crate) async fn admin(
    method: Method,
    address: &AdminAddress,
    path: &str,
) -> anyhow::Result<String> {
    let address = address.as_str();
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
        .map_err(|_| anyhow::anyhow!("no answer within {}", Span(LIMIT)))
        .and_then(|answer| answer)
        .with_context(|| {
            format!(
                "asking the agent at {address} (is it running? give its admin address with --admin)"
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_written_as_a_url() {
        for (text, wanted) in [
            ("127.0.0.1:15000", Some("127.0.0.1:15000")),
            ("http://127.0.0.1:15000", Some("127.0.0.1:15000")),
            ("http://localhost:15000/", Some("localhost:15000")),
            ("[::1]:15000", Some("[::1]:15000")),
            ("https://127.0.0.1:15000", None),
            ("127.0.0.1", None),
            ("127.0.0.1:15000/status", None),
            ("a@127.0.0.1:15000", None),
            ("", None),
        ] {
            let read = text.parse::<AdminAddress>().ok();
            assert_eq!(read.as_ref().map(AdminAddress::as_str), wanted, "{text}");
        }
    }
}
