//! A collector that only keeps what it is sent, over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use inmesh_core::discover::pushed;
use inmesh_core::model::AppProtocol;
use inmesh_core::testing::World;
use inmesh_core::{Body, model::Workload};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Spans;

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Starts a collector; what it is sent comes out of the channel.
async fn collector() -> Fallible<(
    SocketAddr,
    mpsc::UnboundedReceiver<ExportTraceServiceRequest>,
)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sender = sender.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let sender = sender.clone();
                async move {
                    let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
                    assert_eq!(request.uri().path(), path);
                    let body = request.into_body().collect().await?.to_bytes();
                    // gRPC: one byte of flags, four of length, the message.
                    if let Ok(export) = ExportTraceServiceRequest::decode(body.slice(5..)) {
                        let _gone = sender.send(export);
                    }
                    let answer = Response::builder()
                        .header("content-type", "application/grpc")
                        .header("grpc-status", "0")
                        .body(Full::new(Bytes::new()));
                    Ok::<_, hyper::Error>(answer.unwrap_or_default())
                }
            });
            tokio::spawn(
                http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    Ok((address, receiver))
}

fn attribute(span: &Span, key: &str) -> String {
    let value = span.attributes.iter().find(|a| a.key == key);
    value.map(|a| format!("{:?}", a.value)).unwrap_or_default()
}

#[tokio::test]
async fn a_sampled_exchange_becomes_a_span_of_the_callers_trace() -> Fallible<()> {
    let (address, mut exported) = collector().await?;
    let world = World::new()?;
    let (pusher, source) = pushed("test");
    let spans = Spans::new(
        &format!("http://{address}"),
        &Workload::new("shop", "web", "web")?,
    )?;
    let mesh = world
        .mesh("web")?
        .source(source)
        .exchanges(Arc::new(spans))
        .start()?;
    pusher
        .push(world.service("cart", AppProtocol::Http1, &[])?)
        .await?;
    mesh.ready().await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    for sampled in ["00", "01"] {
        let request = Request::get("http://cart/items")
            .header(
                "traceparent",
                format!("00-{trace}-b7ad6b7169203331-{sampled}"),
            )
            .body(Body::empty())?;
        let answer = mesh.client().send(request).await;
        assert_eq!(answer.status(), 503);
        drop(answer);
    }
    let export = timeout(Duration::from_secs(20), exported.recv())
        .await?
        .ok_or("the collector ended")?;
    let resource = &export.resource_spans[0];
    assert!(format!("{:?}", resource.resource).contains("web"));
    let spans: Vec<_> = resource.scope_spans.iter().flat_map(|s| &s.spans).collect();
    assert_eq!(spans.len(), 1, "only the sampled one: {spans:?}");
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(hex(&spans[0].trace_id), trace);
    assert_eq!(hex(&spans[0].parent_span_id), "b7ad6b7169203331");
    assert!(attribute(spans[0], "mesh.reason").contains("no-endpoint"));
    for (key, wanted) in [
        ("url.path", "/items"),
        ("http.request.method", "GET"),
        ("http.response.status_code", "503"),
        ("server.address", "cart"),
        ("network.protocol.name", "\"http\""),
        ("network.protocol.version", "1.1"),
        ("error.type", "no-endpoint"),
        ("mesh.service", "cart.shop.svc.cluster.local"),
    ] {
        let value = attribute(spans[0], key);
        assert!(value.contains(wanted), "{key}: {value}");
    }
    assert_eq!(spans[0].name, "GET", "no path: it has no bound");
    Ok(())
}
