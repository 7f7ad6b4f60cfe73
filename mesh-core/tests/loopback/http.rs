//! HTTP through both sides, over real sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{
    Pair, Result, for_cart, get, h1, h2, in_flight, in_process, origin, origin_h2, raw,
    serve_outbound, soon, tell, text, whole,
};
use ::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use inmesh_core::Body;
use inmesh_core::model::{AppProtocol, Namespace, ServiceName};
use inmesh_core::runtime::OutboundListener;

#[tokio::test]
async fn http1_and_http2_callers_reach_an_http1_server() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let mut one = h1(pair.outbound).await?;
    for _ in 0..2 {
        one.ready().await?;
        let answer = one.send_request(for_cart("/a//b/../c")).await?;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(text(answer).await?, "GET /a//c HTTP/1.1 0");
    }
    let mut two = h2(pair.outbound).await?;
    let mut request = get("http://cart/x");
    *request.method_mut() = Method::POST;
    *request.body_mut() = whole("hello");
    let answer = two.send_request(request).await?;
    assert_eq!(text(answer).await?, "POST /x HTTP/1.1 5");
    let record = pair
        .out_seen
        .one(|x| x.method == Some(Method::POST))
        .await?;
    assert_eq!(
        (record.request_bytes, record.response_bytes, record.status),
        (5, 18, 200)
    );
    let id = pair.world.id("cart")?;
    assert_eq!(record.tls_peer, Some(id));
    let record = pair.in_seen.one(|x| x.method == Some(Method::POST)).await?;
    assert_eq!(record.tls_peer, Some(pair.world.id("web")?));
    assert_eq!(in_flight(&pair.web), 0);
    Ok(())
}

#[tokio::test]
async fn http2_is_kept_to_an_http2_server_and_opened_for_one() -> Result {
    let pair = Pair::new(AppProtocol::Http2, origin_h2(tell).await?).await?;
    let answer = h2(pair.outbound)
        .await?
        .send_request(get("http://cart/a"))
        .await?;
    assert_eq!(text(answer).await?, "GET /a HTTP/2.0 0");
    let answer = h1(pair.outbound)
        .await?
        .send_request(for_cart("/b"))
        .await?;
    assert_eq!(text(answer).await?, "GET /b HTTP/2.0 0");
    let mut request = get("http://cart/c");
    *request.version_mut() = Version::HTTP_2;
    assert_eq!(
        text(pair.web.client().send(request).await).await?,
        "GET /c HTTP/2.0 0"
    );
    Ok(())
}

fn streamed(frames: Vec<Frame<Bytes>>) -> Body {
    let frames = frames.into_iter().map(Ok::<_, std::io::Error>);
    Body::new(StreamBody::new(futures_util::stream::iter(frames)))
}

#[tokio::test]
async fn grpc_keeps_its_trailers_both_ways_and_its_status_counts() -> Result {
    let app = origin_h2(async |request: Request<Incoming>| {
        assert_eq!(request.headers()[header::TE], "trailers");
        let body = request.into_body().collect().await;
        let sent = body
            .ok()
            .and_then(|b| b.trailers().cloned())
            .unwrap_or_default();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers.insert("x-echo", sent["x-ask"].clone());
        let body = streamed(vec![
            Frame::data(Bytes::from_static(b"\0\0\0\0\x02hi")),
            Frame::trailers(trailers),
        ]);
        let mut response = Response::new(body);
        let kind = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    })
    .await?;
    let pair = Pair::new(AppProtocol::Grpc, app).await?;
    let mut asked = HeaderMap::new();
    asked.insert("x-ask", HeaderValue::from_static("7"));
    let body = streamed(vec![
        Frame::data(Bytes::from_static(b"\0\0\0\0\x01a")),
        Frame::trailers(asked),
    ]);
    let request = Request::post("http://cart/shop.Cart/Get")
        .version(Version::HTTP_2)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(body)?;
    let answer = h2(pair.outbound).await?.send_request(request).await?;
    let whole = soon(answer.into_body().collect()).await??;
    assert_eq!(
        whole.trailers().map(|t| &t["x-echo"]),
        Some(&HeaderValue::from_static("7"))
    );
    for seen in [&pair.out_seen, &pair.in_seen] {
        let record = seen.one(|x| x.grpc_status.is_some()).await?;
        assert_eq!((record.grpc_status, record.status), (Some(0), 200));
        assert_eq!(
            (record.request_bytes, record.response_bytes),
            (6, 7),
            "of unknown length"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_length_that_is_not_known_is_counted() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let mut request = for_cart("/");
    *request.method_mut() = Method::POST;
    *request.body_mut() = streamed(vec![
        Frame::data(Bytes::from_static(b"abc")),
        Frame::data(Bytes::from_static(b"defg")),
    ]);
    let answer = h1(pair.outbound).await?.send_request(request).await?;
    assert_eq!(text(answer).await?, "POST / HTTP/1.1 7");
    assert_eq!(pair.out_seen.one(|_| true).await?.request_bytes, 7);
    assert_eq!(pair.in_seen.one(|_| true).await?.request_bytes, 7);
    Ok(())
}

#[tokio::test]
async fn targets_in_absolute_form_and_without_a_host_find_their_service() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let absolute = b"GET http://CART.shop.svc.cluster.local.:80/x HTTP/1.1\r\nhost: CART.shop.svc.cluster.local.:80\r\nconnection: close\r\n\r\n";
    assert!(
        raw(pair.outbound, absolute)
            .await?
            .ends_with("GET /x HTTP/1.1 0")
    );
    let service = ServiceName::new(&Namespace::new("shop")?, "cart")?;
    let named = OutboundListener::to(service, 80, AppProtocol::Http1);
    let named = serve_outbound(&pair.web, named).await?;
    let answer = raw(named, b"GET /old HTTP/1.0\r\n\r\n").await?;
    assert!(answer.ends_with("GET /old HTTP/1.1 0"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn what_belongs_to_one_connection_stays_there() -> Result {
    let app = origin(async |request: Request<Incoming>| {
        let mut names: Vec<_> = request
            .headers()
            .iter()
            .map(|(n, v)| format!("{n}={}", v.to_str().unwrap_or_default()))
            .filter(|f| !f.starts_with("traceparent"))
            .collect();
        names.sort();
        let mut response = Response::new(Body::from(names.join("\n")));
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("x-hop"));
        headers.insert("x-hop", HeaderValue::from_static("1"));
        headers.insert("keep-alive", HeaderValue::from_static("timeout=5"));
        response
    })
    .await?;
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    let request = b"POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 2\r\ncontent-length: 2\r\n\
        connection: close, x-mine, content-length, traceparent, x-mesh-id, host\r\nx-mine: 1\r\n\
        x-mesh-id: 1\r\nkeep-alive: 1\r\nproxy-connection: 1\r\nte: gzip\r\nupgrade: h2c\r\n\r\nhi";
    let answer = raw(pair.outbound, request).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no head")?;
    assert_eq!(body, "content-length=2\nhost=cart\nx-mesh-id=1");
    let head = head.to_ascii_lowercase();
    assert!(
        !head.contains("x-hop") && !head.contains("keep-alive:"),
        "{head}"
    );
    Ok(())
}

#[tokio::test]
async fn cookies_of_http2_are_one_field_in_http1() -> Result {
    let app = origin(async |request: Request<Incoming>| {
        let all: Vec<_> = request.headers().get_all(header::COOKIE).iter().collect();
        Response::new(Body::from(format!(
            "{all:?} {:?}",
            request.headers()[header::HOST]
        )))
    })
    .await?;
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    let mut request = get("http://cart/");
    for crumb in ["a=1", "b=2"] {
        request
            .headers_mut()
            .append(header::COOKIE, HeaderValue::from_static(crumb));
    }
    let answer = h2(pair.outbound).await?.send_request(request).await?;
    assert_eq!(text(answer).await?, r#"["a=1; b=2"] "cart""#);
    Ok(())
}

#[tokio::test]
async fn answers_without_a_body_are_whole() -> Result {
    let app = origin(async |request: Request<Incoming>| {
        let mut response = Response::new(Body::empty());
        match request.uri().path() {
            "/204" => *response.status_mut() = StatusCode::NO_CONTENT,
            "/304" => *response.status_mut() = StatusCode::NOT_MODIFIED,
            _ => *response.body_mut() = whole("hello"),
        }
        response
    })
    .await?;
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    let mut caller = h1(pair.outbound).await?;
    for (method, path) in [
        (Method::HEAD, "/"),
        (Method::GET, "/204"),
        (Method::GET, "/304"),
    ] {
        let mut request = for_cart(path);
        *request.method_mut() = method.clone();
        caller.ready().await?;
        let answer = caller.send_request(request).await?;
        if method == Method::HEAD {
            assert_eq!(answer.headers()[header::CONTENT_LENGTH], "5");
        }
        assert_eq!(text(answer).await?, "");
        for seen in [&pair.out_seen, &pair.in_seen] {
            let record = seen
                .one(|x| x.uri.path() == path && x.method == Some(method.clone()))
                .await?;
            assert_eq!(record.reason, None, "{method} {path}");
        }
    }
    Ok(())
}

/// An application in this process may answer HEAD with a body, which is never read.
#[tokio::test]
async fn a_body_that_need_not_be_read_is_no_loss() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let app = tower::service_fn(async |_: Request<Body>| {
        let mut response = Response::new(streamed(vec![Frame::data(Bytes::from_static(b"hello"))]));
        let length = HeaderValue::from_static("5");
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length);
        Ok::<_, std::io::Error>(response)
    });
    in_process(&pair, AppProtocol::Http1, app).await?;
    let client = pair.web.client();
    for method in [Method::HEAD, Method::GET] {
        let mut request = get("http://cart/");
        *request.method_mut() = method.clone();
        let answer = client.send(request).await;
        let expected = if method == Method::HEAD { "" } else { "hello" };
        assert_eq!(text(answer).await?, expected);
        let record = pair
            .in_seen
            .one(|x| x.method == Some(method.clone()))
            .await?;
        assert_eq!(record.reason, None, "{method}");
    }
    Ok(())
}

#[tokio::test]
async fn expect_continue_and_informational_answers_pass() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let request = b"POST /e HTTP/1.1\r\nhost: cart\r\ncontent-length: 2\r\nexpect: 100-continue\r\nconnection: close\r\n\r\nhi";
    let answer = raw(pair.outbound, request).await?;
    assert!(answer.ends_with("POST /e HTTP/1.1 2"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn a_trace_is_joined_from_inbound_to_outbound_in_one_process() -> Result {
    let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
    let app = origin({
        let heard = Arc::clone(&heard);
        move |request: Request<Incoming>| {
            heard
                .lock()
                .unwrap()
                .push(request.headers()["traceparent"].clone());
            tell(request)
        }
    })
    .await?;
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    // An application that calls `cart` for each request that it gets.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (web, client) = (pair.web.clone(), pair.web.client());
    let app = tower::service_fn(move |_: Request<Body>| {
        let client = client.clone();
        async move { Ok::<_, std::io::Error>(client.send(get("http://cart/")).await) }
    });
    tokio::spawn(async move { web.serve(listener, app).await });
    let (pusher, source) = inmesh_core::discover::pushed("x");
    let front = pair.world.mesh("front")?.source(source).start()?;
    pusher
        .push(pair.world.service("web", AppProtocol::Http1, &[address])?)
        .await?;
    front.ready().await;
    let mut request = get("http://web/");
    let parent = "00-463ac35c9f6413ad48485a3953bb6124-0020000000000001-01";
    request
        .headers_mut()
        .insert("traceparent", HeaderValue::from_static(parent));
    assert_eq!(front.client().send(request).await.status(), StatusCode::OK);
    let inbound = pair
        .out_seen
        .one(|x| x.direction.as_str() == "inbound")
        .await?;
    let outbound = pair
        .out_seen
        .one(|x| x.direction.as_str() == "outbound")
        .await?;
    assert_eq!(outbound.parent_span, Some(inbound.trace.span_id));
    let last = heard.lock().unwrap().last().cloned().ok_or("not called")?;
    assert!(
        last.to_str()?
            .starts_with("00-463ac35c9f6413ad48485a3953bb6124-"),
        "{last:?}"
    );
    Ok(())
}

/// A caller's connection that is in use when the server answers early still works.
#[tokio::test]
async fn many_callers_at_once_leave_nothing_behind() -> Result {
    let served = Arc::new(AtomicUsize::new(0));
    let app = origin({
        let served = Arc::clone(&served);
        move |request| {
            served.fetch_add(1, Ordering::Relaxed);
            tell(request)
        }
    })
    .await?;
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..20 {
        let (client, outbound) = (pair.web.client(), pair.outbound);
        callers.spawn(async move {
            for m in 0..10 {
                if n % 2 == 0 {
                    let answer = client.send(get("http://cart/")).await;
                    assert_eq!(answer.status(), StatusCode::OK);
                    // Every third one does not wait for the body.
                    if m % 3 > 0 {
                        text(answer).await.unwrap();
                    }
                } else {
                    let mut caller = h1(outbound).await.unwrap();
                    let answer = caller.send_request(for_cart("/")).await.unwrap();
                    assert_eq!(answer.status(), StatusCode::OK);
                    text(answer).await.unwrap();
                }
            }
        });
    }
    while let Some(done) = soon(callers.join_next()).await? {
        done?;
    }
    assert_eq!(served.load(Ordering::Relaxed), 200);
    assert_eq!(in_flight(&pair.web), 0);
    assert_eq!(pair.out_seen.all().len(), 200);
    Ok(())
}
