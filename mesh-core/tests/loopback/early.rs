//! Callers that wait for 100 before they send a body, and what that costs the connections behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use inmesh_core::Body;
use inmesh_core::model::AppProtocol;
use inmesh_core::runtime::InboundListener;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::streams::said_before;
use crate::support::{Pair, Result, in_process, soon};

/// The address of a server that reads a request of `hi` without a word, and the number of its
/// connections.
async fn silent() -> Result<(std::net::SocketAddr, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(answer(stream));
        }
    });
    Ok((address, connections))
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut all = Vec::new();
    loop {
        while !all.ends_with(b"\r\n\r\nhi") {
            all.push(stream.read_u8().await?);
        }
        all.clear();
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(answer).await?;
    }
}

fn waiting() -> Result<Request<()>> {
    let request = Request::post("http://cart/")
        .header("content-length", 2)
        .header("expect", "100-continue");
    Ok(request.body(())?)
}

#[tokio::test]
async fn a_caller_of_http2_is_asked_once_where_the_server_says_nothing() -> Result {
    let (app, _) = silent().await?;
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    assert_eq!(said_before(&pair, waiting()?).await?, [(100, 0)]);
    Ok(())
}

#[tokio::test]
async fn a_service_in_this_process_asks_as_it_reads() -> Result {
    let (app, _) = silent().await?;
    for protocol in [AppProtocol::Http1, AppProtocol::Http2] {
        let pair = Pair::new(protocol, app).await?;
        let service = tower::service_fn(async |request: Request<Body>| {
            let body = request.into_body().collect().await?.to_bytes();
            Ok::<_, inmesh_core::BoxError>(Response::new(Body::from(body)))
        });
        in_process(&pair, protocol, service).await?;
        assert_eq!(said_before(&pair, waiting()?).await?, [(100, 0)]);
    }
    Ok(())
}

/// A service that refuses before it reads asks for nothing.
#[tokio::test]
async fn a_refusal_costs_no_upload() -> Result {
    let (app, _) = silent().await?;
    let pair = Pair::new(AppProtocol::Http2, app).await?;
    let service = tower::service_fn(async |_: Request<Body>| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::EXPECTATION_FAILED;
        Ok::<_, std::io::Error>(response)
    });
    in_process(&pair, AppProtocol::Http2, service).await?;
    let io = TcpStream::connect(pair.outbound).await?;
    let (sender, connection) = ::h2::client::handshake(io).await?;
    tokio::spawn(connection);
    let (mut response, _body) = sender.ready().await?.send_request(waiting()?, false)?;
    let mut said = 0;
    let answer = std::future::poll_fn(|cx| {
        while let std::task::Poll::Ready(Some(_)) = response.poll_informational(cx) {
            said += 1;
        }
        Future::poll(std::pin::Pin::new(&mut response), cx)
    });
    assert_eq!(soon(answer).await??.status(), 417);
    assert_eq!(said, 0);
    Ok(())
}

/// What a caller of HTTP/2 uploads costs the server of HTTP/1.1 no connection.
#[tokio::test]
async fn an_upload_leaves_its_connection_to_the_next() -> Result {
    let (app, connections) = silent().await?;
    let permissive = |to: &mut InboundListener| to.strict = false;
    let pair = Pair::with(AppProtocol::Http1, app, |b| b, permissive).await?;
    let io = TokioIo::new(TcpStream::connect(pair.inbound).await?);
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut caller, connection) = builder.handshake(io).await?;
    tokio::spawn(connection);
    for _ in 0..3 {
        let request = Request::post("http://cart/").body(Body::from("hi"))?;
        let answer = soon(caller.send_request(request)).await??;
        assert_eq!(answer.into_body().collect().await?.to_bytes(), "ok");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    Ok(())
}
