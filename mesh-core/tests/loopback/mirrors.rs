//! Copies of requests: what mirrors get, and that the request does not notice.

use std::net::SocketAddr;

use ::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use inmesh_core::Body;
use inmesh_core::model::{
    AppProtocol, Host, Kind, Namespace, ObjectKey, Service, ServiceName, ServicePort, Slice,
    SliceHost, SlicePort, Transport,
};
use inmesh_core::route::{Backend, Filter, Mirror, Parent, Route, Rule};
use inmesh_core::runtime::Limits;
use inmesh_core::snapshot::Op;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::support::{Pair, Result, for_cart, get, h1, h2, origin, origin_h2, soon, tell, text};

type Copies = mpsc::UnboundedReceiver<(Request<()>, Bytes)>;

fn service(name: &str) -> Result<ServiceName> {
    Ok(ServiceName::new(&Namespace::new("shop")?, name)?)
}

/// A Service of plain servers.
fn plain(name: &str, protocol: AppProtocol, at: SocketAddr) -> Result<Vec<Op>> {
    let port = ServicePort::new("main", 80, protocol);
    let key = ObjectKey::new(Kind::EndpointSlice, &Namespace::new("shop")?, name)?;
    let ports = vec![SlicePort::new("main", at.port())];
    let hosts = vec![SliceHost::new(Host::Address(at.ip()))];
    Ok(vec![
        Op::put(Service::new(service(name)?, vec![port])),
        Op::put(Slice::new(
            key,
            service(name)?,
            ports,
            hosts,
            Transport::Plain,
        )),
    ])
}

/// Has `cart` mirror to port 80 of Services.
fn mirror_to(names: &[&str]) -> Result<Op> {
    let mirrors = names
        .iter()
        .map(|name| Ok(Filter::Mirror(Mirror::new(service(name)?, 80))));
    let mirrors = mirrors.collect::<Result<Vec<_>>>()?;
    let rule = Rule::to(vec![Backend::new(service("cart")?, 80, 1)?]).with_filters(mirrors);
    let key = ObjectKey::new(Kind::HttpRoute, &Namespace::new("shop")?, "r")?;
    Ok(Op::put(Route::new(
        key,
        vec![Parent::new(service("cart")?, None)],
        vec![rule],
    )?))
}

/// A server that keeps what it gets, and answers with 500.
async fn keeps(protocol: AppProtocol) -> Result<(SocketAddr, Copies)> {
    let (send, copies) = mpsc::unbounded_channel();
    let answer = move |request: Request<Incoming>| {
        let send = send.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body
                .collect()
                .await
                .map(|all| all.to_bytes())
                .unwrap_or_default();
            let _test_ended = send.send((Request::from_parts(head, ()), body));
            let mut response = Response::new(Body::from("ignored"));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    };
    let at = match protocol {
        AppProtocol::Http2 => origin_h2(answer).await?,
        _ => origin(answer).await?,
    };
    Ok((at, copies))
}

/// Waits until so many copies have met an end.
async fn counted(pair: &Pair, result: &str, count: usize) -> Result {
    let line = format!("mesh_mirrored_total{{result=\"{result}\"}} {count}\n");
    let found = async {
        while !pair.web.encode_metrics().contains(&line) {
            tokio::task::yield_now().await;
        }
    };
    soon(found).await
}

/// A POST whose body comes in parts.
fn post(parts: Vec<Bytes>) -> Request<Body> {
    let parts = parts
        .into_iter()
        .map(|part| Ok::<_, std::io::Error>(Frame::data(part)));
    let mut request = for_cart("/a?b=c");
    *request.method_mut() = Method::POST;
    *request.body_mut() = Body::new(StreamBody::new(futures_util::stream::iter(parts)));
    request
}

/// Over all versions of HTTP: from the caller, to the server, and to the mirrors.
#[tokio::test]
async fn mirrors_get_copies_and_the_caller_its_answer() -> Result {
    for protocol in [AppProtocol::Http1, AppProtocol::Http2] {
        let app = match protocol {
            AppProtocol::Http2 => origin_h2(tell).await?,
            _ => origin(tell).await?,
        };
        let pair = Pair::new(protocol, app).await?;
        let (one, mut ones) = keeps(AppProtocol::Http1).await?;
        let (two, mut twos) = keeps(AppProtocol::Http2).await?;
        let mut ops = plain("one", AppProtocol::Http1, one)?;
        ops.extend(plain("two", AppProtocol::Http2, two)?);
        ops.push(mirror_to(&["one", "two"])?);
        pair.pusher.push(ops).await?;
        let parts = || vec!["hello ".into(), "mirror".into()];
        let answer = soon(h1(pair.outbound).await?.send_request(post(parts()))).await??;
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(text(answer).await?.starts_with("POST /a"));
        let mut request = post(parts());
        request.headers_mut().clear();
        *request.uri_mut() = "http://cart/a?b=c".parse()?;
        let answer = soon(h2(pair.outbound).await?.send_request(request)).await??;
        assert!(text(answer).await?.ends_with(" 12"), "{protocol}");
        let live = pair.out_seen.all();
        for copies in [&mut ones, &mut twos] {
            for _ in 0..2 {
                let (head, body) = soon(copies.recv()).await?.ok_or("no copy")?;
                assert_eq!(
                    (head.method(), &*body),
                    (&Method::POST, &b"hello mirror"[..])
                );
                assert_eq!(
                    head.uri().path_and_query().map(ToString::to_string),
                    Some("/a?b=c".into())
                );
                assert_eq!(head.headers()["x-mesh-mirrored"], "1");
                let parent = head.headers()["traceparent"].to_str()?;
                let of_live = live
                    .iter()
                    .any(|x| parent.contains(&format!("{:032x}", x.trace.trace_id)));
                assert!(of_live, "{parent}");
            }
        }
        counted(&pair, "sent", 4).await?;
        // The records are those of the requests alone.
        assert_eq!(pair.out_seen.all().len(), 2);
        assert_eq!(pair.in_seen.all().len(), 2);
    }
    Ok(())
}

#[tokio::test]
async fn a_mirror_that_fails_or_hangs_holds_nothing_up() -> Result {
    // It takes connections and says nothing.
    let hung = TcpListener::bind("127.0.0.1:0").await?;
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let closed = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let mut ops = plain("hung", AppProtocol::Http1, hung.local_addr()?)?;
    ops.extend(plain("closed", AppProtocol::Http1, closed)?);
    ops.push(mirror_to(&["hung", "closed", "missing"])?);
    pair.pusher.push(ops).await?;
    for n in 1..=3 {
        let answer = soon(pair.web.client().send(get("http://cart/"))).await?;
        assert_eq!(answer.status(), StatusCode::OK);
        text(answer).await?;
        counted(&pair, "failed", 2 * n).await?;
    }
    Ok(())
}

/// A server may answer before it has read a body; then there is no whole body to copy.
#[tokio::test]
async fn a_long_body_is_for_the_server_alone() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let (one, mut copies) = keeps(AppProtocol::Http1).await?;
    let mut ops = plain("one", AppProtocol::Http1, one)?;
    ops.push(mirror_to(&["one"])?);
    pair.pusher.push(ops).await?;
    let part = || Bytes::from(vec![b'a'; 40 * 1024]);
    let answer = pair.web.client().send(post(vec![part(), part()])).await;
    assert!(text(answer).await?.ends_with(&format!(" {}", 80 * 1024)));
    counted(&pair, "unfit", 1).await?;
    // Its length says so at once.
    let mut request = get("http://cart/");
    *request.body_mut() = Body::from(vec![0; 64 * 1024 + 1]);
    let answer = pair.web.client().send(request).await;
    assert!(
        text(answer)
            .await?
            .ends_with(&format!(" {}", 64 * 1024 + 1))
    );
    counted(&pair, "unfit", 2).await?;
    let answer = pair.web.client().send(post(vec![part()])).await;
    assert!(text(answer).await?.ends_with(&format!(" {}", 40 * 1024)));
    let (_, body) = soon(copies.recv()).await?.ok_or("no copy")?;
    assert_eq!(body.len(), 40 * 1024);
    assert!(copies.try_recv().is_err());
    Ok(())
}

#[tokio::test]
async fn copies_beyond_the_limit_are_dropped() -> Result {
    let hung = TcpListener::bind("127.0.0.1:0").await?;
    let mut limits = Limits::default();
    limits.mirrors = 2;
    let build = move |b: crate::support::Builder| b.limits(limits.clone());
    let pair = Pair::with(AppProtocol::Http1, origin(tell).await?, build, |_| {}).await?;
    let mut ops = plain("hung", AppProtocol::Http1, hung.local_addr()?)?;
    ops.push(mirror_to(&["hung"])?);
    pair.pusher.push(ops).await?;
    for dropped in [0, 0, 1, 2] {
        let answer = soon(pair.web.client().send(get("http://cart/"))).await?;
        assert_eq!(answer.status(), StatusCode::OK);
        if dropped > 0 {
            counted(&pair, "dropped", dropped).await?;
        }
    }
    assert!(!pair.web.encode_metrics().contains("result=\"failed\""));
    Ok(())
}

/// A mirror whose endpoint leads back into the mesh: the copy is routed as a request, and is not copied
/// again.
#[tokio::test]
async fn a_mirror_of_itself_ends_after_one_hop() -> Result {
    let (send, mut seen) = mpsc::unbounded_channel::<HeaderMap>();
    let app = origin(move |request: Request<Incoming>| {
        let _test_ended = send.send(request.headers().clone());
        async { Response::new(Body::from("ok")) }
    });
    let pair = Pair::new(AppProtocol::Http1, app.await?).await?;
    let mut ops = plain("loop", AppProtocol::Http1, pair.outbound)?;
    ops.push(mirror_to(&["loop"])?);
    pair.pusher.push(ops).await?;
    let answer = pair.web.client().send(get("http://cart/")).await;
    assert_eq!(text(answer).await?, "ok");
    counted(&pair, "sent", 1).await?;
    let mut copies = 0;
    for _ in 0..2 {
        let headers = soon(seen.recv()).await?.ok_or("no request")?;
        let mirrored = headers.get("x-mesh-mirrored");
        copies += usize::from(mirrored == Some(&HeaderValue::from_static("1")));
    }
    assert_eq!(copies, 1);
    assert!(seen.try_recv().is_err());
    assert!(
        pair.web
            .encode_metrics()
            .contains("mesh_mirrored_total{result=\"sent\"} 1\n")
    );
    Ok(())
}

/// A copy that is under way, or waits for a body, does not hold up the end of the process.
#[tokio::test]
async fn copies_end_with_the_process() -> Result {
    let hung = TcpListener::bind("127.0.0.1:0").await?;
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let mut ops = plain("hung", AppProtocol::Http1, hung.local_addr()?)?;
    ops.push(mirror_to(&["hung"])?);
    pair.pusher.push(ops).await?;
    let answer = pair.web.client().send(get("http://cart/")).await;
    text(answer).await?;
    let (_copy, _) = soon(hung.accept()).await??;
    soon(pair.web.drain()).await?;
    counted(&pair, "dropped", 1).await
}
