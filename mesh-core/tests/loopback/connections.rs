//! What TLSRoutes and TCPRoutes make of opaque connections.

use std::sync::Arc;

use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey, ServiceName};
use inmesh_core::route::{Backend, OpaqueRoute, Parent, ServerNames};
use inmesh_core::runtime::OutboundListener;
use inmesh_core::snapshot::Op;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Pair, Result, echo, push, serve_outbound, soon};

fn service(name: &str) -> Result<ServiceName> {
    Ok(ServiceName::new(&Namespace::new("shop")?, name)?)
}

/// A route of `cart`, to backends of one weight.
fn route(kind: Kind, names: &[&str], to: &[&str]) -> Result<Op> {
    let key = ObjectKey::new(kind, &Namespace::new("shop")?, "r")?;
    let to = { to.iter() }.map(|to| Ok(Backend::new(service(to)?, 80, 1)?));
    let to = to.collect::<Result<Vec<_>>>()?;
    let route = OpaqueRoute::new(key, vec![Parent::new(service("cart")?, None)], to)?;
    let names = names.iter().map(|name| ServerNames::new(name));
    let names = names.collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(Op::put(match names.is_empty() {
        true => route,
        false => route.with_names(names)?,
    }))
}

/// The first bytes of a TLS client that names a server.
pub(crate) fn client_hello(server: &str) -> Result<Vec<u8>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let server = ServerName::try_from(server.to_owned())?;
    let mut client = rustls::ClientConnection::new(Arc::new(config), server)?;
    let mut out = Vec::new();
    client.write_tls(&mut out)?;
    Ok(out)
}

/// What comes back of some bytes, in two parts, through a listener for `cart`; short of it if the
/// connection is closed.
async fn through(pair: &Pair, protocol: AppProtocol, bytes: &[u8]) -> Result<Vec<u8>> {
    let to = OutboundListener::to(service("cart")?, 80, protocol);
    let listener = serve_outbound(&pair.web, to).await?;
    let mut stream = TcpStream::connect(listener).await?;
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    stream.write_all(first).await?;
    // It may be closed by then.
    let _written = stream.write_all(rest).await;
    let mut back = vec![0; bytes.len()];
    let mut read = 0;
    while read < back.len() {
        match soon(stream.read(&mut back[read..])).await? {
            Ok(0) | Err(_) => break,
            Ok(more) => read += more,
        }
    }
    back.truncate(read);
    Ok(back)
}

#[tokio::test]
async fn a_connection_goes_where_its_server_name_leads_and_keeps_its_tls() -> Result {
    for protocol in [AppProtocol::Tcp, AppProtocol::Detect] {
        let pair = Pair::new(protocol, echo().await?).await?;
        let names = ["*.example.com"];
        push(&pair, vec![route(Kind::TlsRoute, &names, &["cart"])?]).await?;
        let mut bytes = client_hello("A.example.com")?;
        bytes.extend(b"what follows");
        let back = through(&pair, protocol, &bytes).await?;
        assert!(
            back == bytes,
            "{protocol}: {} of {}",
            back.len(),
            bytes.len()
        );
        let record = pair.out_seen.one(|x| x.reason.is_none()).await?;
        let (key, rule) = record.route.ok_or("a route")?;
        assert_eq!((key.to_string(), rule), ("TLSRoute/shop/r".into(), 0));
        assert_eq!(record.request_bytes, u64::try_from(bytes.len())?);
        let refused = |nth: usize| async move {
            let other: &[&[u8]] = &[&client_hello("example.com")?, b"SSH-2.0-x\r\n plain bytes"];
            Ok::<_, crate::support::BoxError>(other[nth].to_vec())
        };
        for nth in 0..2 {
            let back = through(&pair, protocol, &refused(nth).await?).await?;
            assert_eq!(back, b"", "{protocol} {nth}");
        }
        let closed = |x: &inmesh_core::telemetry::Exchange| {
            x.reason.is_some_and(|reason| reason.as_str() == "no-route")
        };
        let record = pair.out_seen.one(closed).await?;
        assert_eq!(&*record.service, "cart.shop.svc.cluster.local");
        assert!(pair.in_seen.all().len() <= 1, "{protocol}");
    }
    Ok(())
}

#[tokio::test]
async fn a_tcp_route_makes_a_port_opaque_that_declares_nothing() -> Result {
    let pair = Pair::new(AppProtocol::Tcp, echo().await?).await?;
    push(&pair, vec![route(Kind::TcpRoute, &[], &["cart"])?]).await?;
    let request = b"GET / HTTP/1.1\r\nhost: elsewhere\r\n\r\n";
    let back = through(&pair, AppProtocol::Detect, request).await?;
    assert_eq!(back, request);
    Ok(())
}

#[tokio::test]
async fn the_share_of_a_backend_that_is_not_there_is_refused() -> Result {
    let pair = Pair::new(AppProtocol::Tcp, echo().await?).await?;
    push(&pair, vec![route(Kind::TcpRoute, &[], &["cart", "gone"])?]).await?;
    let (mut good, mut bad) = (0, 0);
    for _ in 0..40 {
        match &*through(&pair, AppProtocol::Tcp, b"hello").await? {
            b"hello" => good += 1,
            b"" => bad += 1,
            other => return Err(format!("{other:?}").into()),
        }
    }
    assert!(good > 8 && bad > 8, "{good} {bad}");
    let missing = |x: &inmesh_core::telemetry::Exchange| {
        x.reason
            .is_some_and(|reason| reason.as_str() == "backend-missing")
    };
    pair.out_seen.one(missing).await?;
    Ok(())
}
