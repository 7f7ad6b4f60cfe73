//! How long callers wait, across hops.

use std::convert::Infallible;
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt;
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::body::Incoming;
use inmesh_core::Body;
use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey};
use inmesh_core::route::Timeouts;
use inmesh_core::snapshot::Op;
use inmesh_core::traffic::{Blocks, TrafficPolicy};
use tokio::sync::mpsc;

use crate::support::{Pair, Result, get, in_process, origin, origin_h2, push, soon, text};

const GRPC: &str = "grpc-timeout";
const HTTP: &str = "x-envoy-expected-rq-timeout-ms";

/// A server that says what it was asked and never answers.
async fn hangs(protocol: AppProtocol) -> Result<(Pair, mpsc::UnboundedReceiver<HeaderMap>)> {
    let (send, seen) = mpsc::unbounded_channel();
    let answer = move |request: Request<Incoming>| {
        let _receiver_is_there = send.send(request.headers().clone());
        std::future::pending::<Response<Body>>()
    };
    let app = match protocol {
        AppProtocol::Grpc => origin_h2(answer).await?,
        _ => origin(answer).await?,
    };
    Ok((Pair::new(protocol, app).await?, seen))
}

fn millis(headers: &HeaderMap, name: &str) -> Option<u64> {
    let text = headers.get(name)?.to_str().ok()?;
    text.trim_end_matches('m').parse().ok()
}

#[tokio::test]
async fn a_caller_is_answered_when_it_gives_up_and_the_endpoint_is_not_blamed() -> Result {
    for (protocol, name, value) in [
        (AppProtocol::Grpc, GRPC, "500m"),
        (AppProtocol::Http1, HTTP, "500"),
    ] {
        let (pair, mut seen) = hangs(protocol).await?;
        for _ in 0..6 {
            let mut request = get("http://cart/shop.Cart/Get");
            let headers = request.headers_mut();
            headers.insert(name, HeaderValue::from_static(value));
            if protocol == AppProtocol::Grpc {
                let kind = HeaderValue::from_static("application/grpc");
                headers.insert("content-type", kind);
                *request.version_mut() = ::http::Version::HTTP_2;
            }
            let answer = soon(pair.web.client().send(request)).await?;
            assert_eq!(answer.headers()["x-mesh-reason"], "request-timeout");
            match protocol {
                AppProtocol::Grpc => assert_eq!(answer.headers()["grpc-status"], "4"),
                _ => assert_eq!(answer.status(), 504),
            }
            let headers = soon(seen.recv()).await?.ok_or("seen")?;
            let left = millis(&headers, name).ok_or("a number")?;
            assert!((1..=500).contains(&left), "{left}");
        }
        let status = pair.web.status();
        let mut endpoints = status.services.iter().flat_map(|s| &s.endpoints);
        assert!(endpoints.all(|e| e.last_error.is_none()), "{protocol:?}");
    }
    Ok(())
}

/// The time limit of a policy is said to the server.
#[tokio::test]
async fn a_server_hears_how_long_it_has() -> Result {
    let (pair, mut seen) = hangs(AppProtocol::Http1).await?;
    let mut blocks = Blocks::default();
    let attempt = Duration::from_millis(500);
    blocks.timeouts = Some(Timeouts::new(Some(Duration::from_secs(5)), Some(attempt))?);
    let key = ObjectKey::new(Kind::TrafficPolicy, &Namespace::new("shop")?, "all")?;
    let policy = Op::put(TrafficPolicy::new(key, Vec::new(), blocks)?);
    let mut changed = pair.web.snapshot().clone();
    pair.pusher.push(vec![policy]).await?;
    while changed.load().generation() < 2 {
        soon(changed.changed()).await?;
    }
    let answer = soon(pair.web.client().send(get("http://cart/"))).await?;
    assert_eq!(answer.headers()["x-mesh-reason"], "backend-timeout");
    let left = millis(&soon(seen.recv()).await?.ok_or("seen")?, HTTP).ok_or("a number")?;
    assert!((1..=500).contains(&left), "{left}");
    Ok(())
}

/// Silence ends a stream, before its answer and within it, and is no fault of the endpoint.
#[tokio::test]
async fn a_stream_on_which_nothing_comes_ends() -> Result {
    let (never, _seen) = hangs(AppProtocol::Http1).await?;
    let half = origin(async |_: Request<Incoming>| {
        let part = Ok::<_, Infallible>(Frame::data(Bytes::from("half")));
        let parts = futures_util::stream::iter([part]);
        let parts = parts.chain(futures_util::stream::pending());
        Response::new(Body::new(StreamBody::new(parts)))
    })
    .await?;
    let half = Pair::new(AppProtocol::Http1, half).await?;
    for (pair, answers) in [(never, false), (half, true)] {
        let mut blocks = Blocks::default();
        blocks.timeouts = Some(Timeouts::default().with_stream_idle(Some(Duration::from_secs(1))));
        let key = ObjectKey::new(Kind::TrafficPolicy, &Namespace::new("shop")?, "all")?;
        push(
            &pair,
            vec![Op::put(TrafficPolicy::new(key, Vec::new(), blocks)?)],
        )
        .await?;
        let answer = soon(pair.web.client().send(get("http://cart/"))).await?;
        if answers {
            assert_eq!(answer.status(), StatusCode::OK);
            assert!(soon(text(answer)).await?.is_err(), "it has no end");
        } else {
            assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
            assert_eq!(answer.headers()["x-mesh-reason"], "stream-idle");
            let said = text(answer).await?;
            assert!(said.contains("nothing came either way"), "{said}");
        }
        let record = pair.out_seen.one(|_| true).await?;
        assert_eq!(record.reason.map(|r| r.as_str()), Some("stream-idle"));
        let status = pair.web.status();
        let mut endpoints = status.services.iter().flat_map(|s| &s.endpoints);
        assert!(endpoints.all(|e| e.last_error.is_none()), "{answers}");
    }
    Ok(())
}

/// What an application calls while it answers has no more time than its own caller gives it.
#[tokio::test]
async fn a_deadline_is_passed_on_within_a_process() -> Result {
    let (behind, mut seen) = hangs(AppProtocol::Http1).await?;
    let front = Pair::new(AppProtocol::Http1, behind.inbound).await?;
    let client = behind.web.client();
    let service = tower::service_fn(move |_: Request<Body>| {
        let client = client.clone();
        async move { Ok::<_, std::io::Error>(client.send(get("http://cart/")).await) }
    });
    in_process(&front, AppProtocol::Http1, service).await?;
    let mut request = get("http://cart/");
    let given = HeaderValue::from_static("4000");
    request.headers_mut().insert(HTTP, given);
    let asking = tokio::spawn(async move { front.web.client().send(request).await });
    let left = millis(&soon(seen.recv()).await?.ok_or("seen")?, HTTP).ok_or("a number")?;
    assert!((1..=4_000).contains(&left), "{left}");
    asking.abort();
    Ok(())
}
