//! Requests that are sent to another endpoint while one has not answered.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::header::{HeaderName, HeaderValue};
use ::http::{Method, Request, Response, StatusCode, Version};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use inmesh_core::Body;
use inmesh_core::balance::EjectPolicy;
use inmesh_core::model::{
    AppProtocol, Host, Kind, Namespace, ObjectKey, ServiceName, Slice, SliceHost, SlicePort,
    Transport,
};
use inmesh_core::retry::{BudgetPolicy, HedgePolicy, RetryPolicy};
use inmesh_core::route::Timeouts;
use inmesh_core::runtime::InboundListener;
use inmesh_core::snapshot::Op;
use inmesh_core::traffic::{
    Blocks, CookieLifetime, SessionPersistence, SessionType, Target, TrafficPolicy,
};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::support::{
    Pair, Result, for_cart, get, h1, h2, in_flight, origin, origin_h2, push, soon, text,
};

const SECOND: Duration = Duration::from_secs(1);
/// Long enough that another server answers, and no test waits for it.
const DELAY: Duration = Duration::from_millis(20);
/// Never within a test.
const LATE: Duration = Duration::from_secs(3_000);

/// What a server does with a request that is not to be answered as usual.
#[derive(Debug, Clone)]
enum Does {
    /// It never answers.
    Hangs,
    /// It answers with a status and fields.
    Says(u16, Vec<(&'static str, &'static str)>),
}

/// Servers that do something else with the first requests, whichever of them gets those.
#[derive(Clone)]
struct Servers {
    first: usize,
    does: Does,
    came: Arc<watch::Sender<usize>>,
    /// How many requests were taken back before they were answered.
    cancelled: Arc<watch::Sender<usize>>,
    /// The highest number of an attempt that was said.
    said: Arc<AtomicUsize>,
}

/// A request that has no answer yet.
struct Open(Arc<watch::Sender<usize>>, bool);

impl Drop for Open {
    fn drop(&mut self) {
        if !self.1 {
            self.0.send_modify(|count| *count += 1);
        }
    }
}

impl Servers {
    fn new(first: usize, does: Does) -> Self {
        Self {
            first,
            does,
            came: Arc::new(watch::channel(0).0),
            cancelled: Arc::new(watch::channel(0).0),
            said: Arc::default(),
        }
    }

    fn came(&self) -> usize {
        *self.came.borrow()
    }

    /// Waits until so many requests were taken back.
    async fn cancelled(&self, wanted: usize) -> Result {
        let mut count = self.cancelled.subscribe();
        soon(count.wait_for(|count| *count >= wanted)).await??;
        assert_eq!(*count.borrow(), wanted);
        Ok(())
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let mut open = Open(Arc::clone(&self.cancelled), false);
        let fields = ["x-envoy-attempt-count", "grpc-previous-rpc-attempts"];
        for (name, add) in fields.into_iter().zip([0, 1]) {
            let said = request.headers().get(name).and_then(|n| n.to_str().ok());
            let said = said
                .and_then(|n| n.parse::<usize>().ok())
                .map_or(0, |n| n + add);
            self.said.fetch_max(said, Ordering::SeqCst);
        }
        let kind = request.headers().get("content-type").cloned();
        let body = request.into_body().collect().await;
        let mut nth = 0;
        self.came.send_modify(|count| {
            *count += 1;
            nth = *count;
        });
        let mut answer = Response::new(Body::empty());
        if let Some(kind) = kind {
            answer.headers_mut().insert("content-type", kind);
            answer
                .headers_mut()
                .insert("grpc-status", HeaderValue::from_static("0"));
        } else if let Ok(body) = body {
            *answer.body_mut() = Body::from(body.to_bytes());
        }
        if nth <= self.first {
            match self.does {
                Does::Hangs => pending().await,
                Does::Says(status, fields) => {
                    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
                    for (name, value) in fields {
                        let name = HeaderName::from_static(name);
                        let value = HeaderValue::from_static(value);
                        answer.headers_mut().insert(name, value);
                    }
                }
            }
        }
        open.1 = true;
        answer
    }

    async fn serve(&self, protocol: AppProtocol) -> Result<SocketAddr> {
        let servers = self.clone();
        let answer = move |request| servers.clone().answer(request);
        match protocol {
            AppProtocol::Http1 => origin(answer).await,
            _ => origin_h2(answer).await,
        }
    }
}

/// What leads to the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    Agents,
    Nothing,
}

/// A pair whose `cart` has so many endpoints at those servers.
async fn pair(
    servers: &Servers,
    protocol: AppProtocol,
    behind: Behind,
    count: usize,
) -> Result<Pair> {
    let pair = Pair::new(protocol, servers.serve(protocol).await?).await?;
    let (shop, mut at) = (Namespace::new("shop")?, Vec::new());
    for _ in 0..count {
        let app = servers.serve(protocol).await?;
        at.push(match behind {
            Behind::Nothing => app,
            Behind::Agents => {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                let inbound = listener.local_addr()?;
                let (cart, to) = (pair.cart.clone(), InboundListener::new(app, protocol));
                tokio::spawn(async move { cart.serve_behind(listener, to).await });
                inbound
            }
        });
    }
    let mut ops = pair.world.service("cart", protocol, &at)?;
    for (n, at) in at.iter().enumerate().filter(|_| behind == Behind::Nothing) {
        ops.push(plain(&shop, &format!("cart-{n}"), *at)?);
    }
    push(&pair, ops).await?;
    Ok(pair)
}

fn plain(shop: &Namespace, name: &str, at: SocketAddr) -> Result<Op> {
    Ok(Op::put(Slice::new(
        ObjectKey::new(Kind::EndpointSlice, shop, name)?,
        ServiceName::new(shop, "cart")?,
        vec![SlicePort::new("main", at.port())],
        vec![SliceHost::new(Host::Address(at.ip()))],
        Transport::Plain,
    )))
}

fn hedge(attempts: u32, delay: Duration) -> Result<HedgePolicy> {
    let policy = HedgePolicy::new(attempts, delay)?.with_grpc();
    Ok(policy.on_status(503)?.on_grpc(14)?)
}

fn hedged(policy: HedgePolicy) -> Blocks {
    let mut blocks = Blocks::default();
    blocks.hedge = Some(policy.into());
    blocks
}

async fn with(pair: &Pair, blocks: Blocks) -> Result {
    let shop = Namespace::new("shop")?;
    let key = ObjectKey::new(Kind::TrafficPolicy, &shop, "cart")?;
    let cart = Target::Service(ServiceName::new(&shop, "cart")?, None);
    let policy = TrafficPolicy::new(key, vec![cart], blocks)?;
    push(pair, vec![Op::put(policy)]).await
}

fn grpc() -> Request<Body> {
    let mut request = get("http://cart/shop.Cart/Get");
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.body_mut() = Body::from("\0\0\0\0\0");
    let kind = HeaderValue::from_static("application/grpc");
    request.headers_mut().insert("content-type", kind);
    request
}

fn put() -> Request<Body> {
    let mut request = get("http://cart/");
    *request.method_mut() = Method::PUT;
    *request.body_mut() = Body::from("hello again");
    request
}

fn post() -> Request<Body> {
    let mut request = put();
    *request.method_mut() = Method::POST;
    request
}

/// A body that comes in parts.
fn parts(parts: usize, bytes: usize) -> Body {
    let part = Bytes::from(vec![b'x'; bytes]);
    let parts = (0..parts).map(move |_| Ok::<_, std::io::Error>(Frame::data(part.clone())));
    Body::new(StreamBody::new(futures_util::stream::iter(parts)))
}

/// Sends with the client of the mesh, or by its agent.
async fn send(pair: &Pair, own: bool, request: Request<Body>) -> Result<Response<Body>> {
    if own {
        return soon(pair.web.client().send(request)).await;
    }
    let http2 = request.version() == Version::HTTP_2;
    let mut request = request;
    if http2 {
        let mut caller = h2(pair.outbound).await?;
        let answer = soon(caller.send_request(request)).await??;
        return Ok(answer.map(Body::new));
    }
    let host = HeaderValue::from_static("cart");
    request.headers_mut().insert("host", host);
    *request.uri_mut() = "/".parse()?;
    let mut caller = h1(pair.outbound).await?;
    let answer = soon(caller.send_request(request)).await??;
    Ok(answer.map(Body::new))
}

/// How many further attempts had that result.
fn count(pair: &Pair, result: &str) -> u64 {
    let name = format!("mesh_hedges_total{{result=\"{result}\"}} ");
    let metrics = pair.web.encode_metrics();
    let found = metrics.lines().find_map(|line| line.strip_prefix(&name));
    found.and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn a_slow_endpoint_is_answered_for_by_another_and_its_attempt_is_cancelled() -> Result {
    for (protocol, request) in [
        (AppProtocol::Http1, (|| get("http://cart/")) as fn() -> _),
        (AppProtocol::Http1, put),
        (AppProtocol::Http2, || get("http://cart/")),
        (AppProtocol::Http2, put),
        (AppProtocol::Http2, grpc),
    ] {
        for behind in [Behind::Nothing, Behind::Agents] {
            for own in [true, false] {
                let at = format!("{protocol:?} {:?} {behind:?} {own}", request());
                let servers = Servers::new(1, Does::Hangs);
                let pair = pair(&servers, protocol, behind, 2).await?;
                let mut blocks = hedged(hedge(2, DELAY)?);
                let mut eject = EjectPolicy::default();
                (eject.consecutive, eject.percent) = (1, 100);
                blocks.eject = Some(eject);
                with(&pair, blocks).await?;
                let answer = send(&pair, own, request()).await?;
                assert_eq!(answer.status(), StatusCode::OK, "{at}");
                let body = text(answer).await?;
                assert_eq!(
                    body == "hello again",
                    request().method() == Method::PUT,
                    "{at}"
                );
                servers.cancelled(1).await?;
                assert_eq!(
                    (servers.came(), servers.said.load(Ordering::SeqCst)),
                    (2, 2),
                    "{at}"
                );
                let record = pair.out_seen.one(|_| true).await?;
                assert_eq!((record.attempts.len(), record.status), (2, 200), "{at}");
                assert_eq!((count(&pair, "won"), count(&pair, "lost")), (1, 0), "{at}");
                assert_eq!(in_flight(&pair.web), 0, "{at}");
                let status = pair.web.status();
                let endpoints = status.services.iter().flat_map(|s| &s.endpoints);
                for endpoint in endpoints {
                    assert!(endpoint.last_error.is_none(), "{at}");
                    assert!(!endpoint.ejected, "{at}");
                }
            }
        }
    }
    Ok(())
}

/// The code with which an attempt is reset that has lost.
#[tokio::test]
async fn a_stream_that_has_lost_is_reset_with_cancel() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let slow = listener.local_addr()?;
    let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let say = say.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await?;
                while let Some(stream) = connection.accept().await {
                    let (_request, mut respond) = stream?;
                    let say = say.clone();
                    tokio::spawn(async move {
                        let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                        let _gone = say.send(reason);
                    });
                }
                Ok::<_, h2::Error>(())
            });
        }
    });
    let servers = Servers::new(0, Does::Hangs);
    let pair = pair(&servers, AppProtocol::Http2, Behind::Nothing, 1).await?;
    push(&pair, vec![plain(&Namespace::new("shop")?, "slow", slow)?]).await?;
    with(&pair, hedged(hedge(2, Duration::ZERO)?)).await?;
    // One of the two has begun at the slow one, whichever was first.
    let answer = send(&pair, true, get("http://cart/")).await?;
    assert_eq!(answer.status(), StatusCode::OK);
    let reason = soon(said.recv()).await?.ok_or("it is reset")??;
    assert_eq!(reason, h2::Reason::CANCEL);
    Ok(())
}

/// A request that is sent once, although a policy hedges requests.
async fn check_alone(
    (protocol, own): (AppProtocol, bool),
    request: Request<Body>,
    edit: impl FnOnce(&mut Blocks),
) -> Result<Pair> {
    let at = format!("{protocol:?} {own} {request:?}");
    let servers = Servers::new(9, Does::Hangs);
    let pair = pair(&servers, protocol, Behind::Nothing, 2).await?;
    let mut blocks = hedged(hedge(3, Duration::from_millis(1))?);
    blocks.timeouts = Some(Timeouts::new(Some(10 * DELAY), None)?);
    edit(&mut blocks);
    with(&pair, blocks).await?;
    let answer = send(&pair, own, request).await?;
    let grpc = answer.headers().get("grpc-status").cloned();
    let late = answer.status() == StatusCode::GATEWAY_TIMEOUT || grpc.is_some_and(|s| s == "4");
    assert!(late, "{at}: {answer:?}");
    text(answer).await?;
    let record = pair.out_seen.one(|_| true).await?;
    assert_eq!(record.attempts.len(), 1, "{at}");
    assert!(servers.came() <= 1, "{at}");
    assert_eq!(count(&pair, "won") + count(&pair, "lost"), 0, "{at}");
    Ok(pair)
}

#[tokio::test]
async fn what_may_do_harm_twice_or_is_bound_to_an_endpoint_is_sent_once() -> Result {
    let (one, two) = (AppProtocol::Http1, AppProtocol::Http2);
    for own in [true, false] {
        check_alone((one, own), post(), |_| {}).await?;
        check_alone((two, own), post(), |_| {}).await?;
        let calls = HedgePolicy::new(3, Duration::ZERO)?;
        check_alone((two, own), grpc(), |b| b.hedge = Some(calls.into())).await?;
        // More than what is kept, so that no other attempt has it whole.
        let mut long = put();
        *long.body_mut() = parts(20, 10_000);
        let pair = check_alone((one, own), long, |_| {}).await?;
        assert_eq!(count(&pair, "body"), 1);
    }
    let mut upgrade = for_cart("/");
    for (name, value) in [("connection", "upgrade"), ("upgrade", "websocket")] {
        upgrade
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    check_alone((one, false), upgrade, |_| {}).await?;
    // A wish that is not passed on does not bind the request to its connection.
    let servers = Servers::new(1, Does::Hangs);
    let other = pair(&servers, one, Behind::Nothing, 2).await?;
    with(&other, hedged(hedge(2, DELAY)?)).await?;
    let mut h2c = for_cart("/");
    for (name, value) in [("connection", "upgrade"), ("upgrade", "h2c")] {
        h2c.headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    let answer = send(&other, false, h2c).await?;
    assert_eq!((answer.status(), servers.came()), (StatusCode::OK, 2));
    // Where a policy nearer than this one repeats, no other attempt begins beside the first.
    let servers = Servers::new(9, Does::Hangs);
    let pair = pair(&servers, one, Behind::Nothing, 2).await?;
    let shop = Namespace::new("shop")?;
    let key = ObjectKey::new(Kind::TrafficPolicy, &shop, "all")?;
    let all = TrafficPolicy::new(key, Vec::new(), hedged(hedge(3, Duration::ZERO)?))?;
    push(&pair, vec![Op::put(all)]).await?;
    let mut blocks = Blocks::default();
    blocks.retry = Some(RetryPolicy::new(1).into());
    blocks.timeouts = Some(Timeouts::new(Some(5 * DELAY), None)?);
    with(&pair, blocks).await?;
    let answer = send(&pair, true, get("http://cart/")).await?;
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(servers.came(), 1);
    Ok(())
}

#[tokio::test]
async fn a_session_stays_with_its_endpoint() -> Result {
    let servers = Servers::new(0, Does::Hangs);
    let pair = pair(&servers, AppProtocol::Http1, Behind::Nothing, 2).await?;
    let by = SessionType::Cookie(CookieLifetime::Session);
    let mut blocks = hedged(hedge(2, Duration::ZERO)?);
    blocks.session = Some(SessionPersistence::new(by).named("stay")?.into());
    with(&pair, blocks).await?;
    // The first request of a client may go to any, and stays with the one that has answered.
    let answer = send(&pair, true, get("http://cart/")).await?;
    let cookie = answer.headers()["set-cookie"].to_str()?.to_owned();
    let cookie = cookie.split(';').next().ok_or("a cookie")?;
    text(answer).await?;
    let record = pair.out_seen.one(|_| true).await?;
    let (all, came) = (record.attempts.len(), servers.came());
    assert_eq!(all, 2);
    for _ in 0..5 {
        let mut request = get("http://cart/");
        request.headers_mut().insert("cookie", cookie.parse()?);
        text(send(&pair, true, request).await?).await?;
    }
    let sent: usize = pair.out_seen.all().iter().map(|x| x.attempts.len()).sum();
    assert_eq!(sent, all + 5);
    let there = pair
        .out_seen
        .all()
        .iter()
        .all(|x| x.attempts.last() == record.attempts.last());
    assert!(there && servers.came() <= came + 6);
    Ok(())
}

#[tokio::test]
async fn without_a_budget_or_an_endpoint_none_begins() -> Result {
    let servers = Servers::new(3, Does::Hangs);
    let pair = pair(&servers, AppProtocol::Http1, Behind::Nothing, 2).await?;
    let mut blocks = hedged(hedge(2, Duration::from_millis(1))?);
    blocks.timeouts = Some(Timeouts::new(Some(10 * DELAY), None)?);
    blocks.budget = Some(BudgetPolicy::new(0, SECOND, 1, 3_600 * SECOND)?);
    with(&pair, blocks.clone()).await?;
    // Both hang, and both are cancelled: nothing is held any more.
    let answer = send(&pair, true, get("http://cart/")).await?;
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(answer.headers()["x-mesh-no-retry"], "spent");
    servers.cancelled(2).await?;
    assert_eq!((servers.came(), count(&pair, "lost")), (2, 1));
    assert_eq!(in_flight(&pair.web), 0);
    let answer = send(&pair, true, get("http://cart/")).await?;
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(answer.headers()["x-mesh-no-retry"], "budget");
    servers.cancelled(3).await?;
    assert_eq!((servers.came(), count(&pair, "budget")), (3, 1));
    // An endpoint that has an attempt gets no other.
    let servers = Servers::new(9, Does::Hangs);
    let pair = self::pair(&servers, AppProtocol::Http1, Behind::Nothing, 1).await?;
    blocks.hedge = Some(hedge(5, Duration::from_millis(1))?.into());
    blocks.budget = None;
    with(&pair, blocks).await?;
    send(&pair, true, get("http://cart/")).await?;
    assert_eq!((servers.came(), count(&pair, "no-endpoint")), (1, 1));
    Ok(())
}

#[tokio::test]
async fn a_listed_code_brings_the_next_attempt_forward_unless_the_server_asks_otherwise() -> Result
{
    let none: Vec<(&str, &str)> = Vec::new();
    for (says, wanted, came) in [
        (Does::Says(503, none.clone()), 200, 2),
        // Not listed: it is the answer.
        (Does::Says(500, none.clone()), 500, 1),
        (Does::Says(404, none), 404, 1),
        (
            Does::Says(503, vec![("x-envoy-overloaded", "true")]),
            503,
            1,
        ),
        (Does::Says(503, vec![("retry-after", "2")]), 503, 1),
        (Does::Says(503, vec![("retry-after", "0")]), 200, 2),
    ] {
        for own in [true, false] {
            let servers = Servers::new(1, says.clone());
            let pair = pair(&servers, AppProtocol::Http1, Behind::Nothing, 2).await?;
            with(&pair, hedged(hedge(2, LATE)?)).await?;
            let answer = send(&pair, own, get("http://cart/")).await?;
            assert_eq!(
                (answer.status().as_u16(), servers.came()),
                (wanted, came),
                "{says:?}"
            );
        }
    }
    for (code, pushback, wanted, came) in [
        ("14", None, "0", 2),
        ("14", Some("5"), "0", 2),
        ("14", Some("-1"), "14", 1),
        ("14", Some("1001"), "14", 1),
        ("13", None, "13", 1),
    ] {
        let pushback = pushback.map(|ms| ("grpc-retry-pushback-ms", ms));
        let fields = [("grpc-status", code)]
            .into_iter()
            .chain(pushback)
            .collect();
        let servers = Servers::new(1, Does::Says(200, fields));
        let pair = pair(&servers, AppProtocol::Http2, Behind::Nothing, 2).await?;
        with(&pair, hedged(hedge(2, LATE)?)).await?;
        let answer = send(&pair, true, grpc()).await?;
        assert_eq!(answer.headers()["grpc-status"], wanted, "{pushback:?}");
        assert_eq!(servers.came(), came, "{pushback:?}");
    }
    // All fail: the last answer is passed on, and says that it was sent to several.
    let servers = Servers::new(9, Does::Says(503, Vec::new()));
    let pair = pair(&servers, AppProtocol::Http1, Behind::Nothing, 3).await?;
    with(&pair, hedged(hedge(3, LATE)?)).await?;
    let answer = send(&pair, true, get("http://cart/")).await?;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["x-mesh-no-retry"], "spent");
    assert_eq!((servers.came(), count(&pair, "failed")), (3, 2));
    Ok(())
}

/// An overload that another request has heard of holds for this one.
#[tokio::test]
async fn while_an_endpoint_has_too_much_to_do_none_begins() -> Result {
    let servers = Servers::new(1, Does::Says(429, vec![("retry-after", "60")]));
    let pair = pair(&servers, AppProtocol::Http1, Behind::Nothing, 2).await?;
    let mut blocks = hedged(hedge(2, Duration::from_millis(1))?);
    blocks.timeouts = Some(Timeouts::new(Some(10 * DELAY), None)?);
    with(&pair, blocks.clone()).await?;
    let answer = send(&pair, true, get("http://cart/")).await?;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    let before = servers.came();
    let slow = Servers::new(9, Does::Hangs);
    let shop = Namespace::new("shop")?;
    let more = plain(&shop, "cart-0", slow.serve(AppProtocol::Http1).await?)?;
    let other = plain(&shop, "cart-1", slow.serve(AppProtocol::Http1).await?)?;
    push(&pair, vec![more, other]).await?;
    let answer = send(&pair, true, get("http://cart/")).await?;
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(
        (servers.came(), slow.came(), count(&pair, "overload")),
        (before, 1, 1)
    );
    Ok(())
}

/// What surely reached no server is replaced without the policy's leave, and costs nothing of the budget.
#[tokio::test]
async fn an_endpoint_that_refuses_is_replaced_as_without_a_policy() -> Result {
    for protocol in [AppProtocol::Http1, AppProtocol::Http2] {
        let servers = Servers::new(0, Does::Hangs);
        let pair = pair(&servers, protocol, Behind::Nothing, 1).await?;
        let gone = TcpListener::bind("127.0.0.1:0").await?;
        let closed = gone.local_addr()?;
        drop(gone);
        push(
            &pair,
            vec![plain(&Namespace::new("shop")?, "gone", closed)?],
        )
        .await?;
        let mut blocks = hedged(hedge(2, LATE)?);
        blocks.budget = Some(BudgetPolicy::new(0, SECOND, 0, SECOND)?);
        with(&pair, blocks).await?;
        for nth in 1..=8 {
            let answer = send(&pair, true, put()).await?;
            assert_eq!(answer.status(), StatusCode::OK, "{protocol:?}");
            assert_eq!(text(answer).await?, "hello again");
            assert_eq!(servers.came(), nth);
        }
        assert!(pair.out_seen.all().iter().any(|x| x.attempts.len() == 2));
        assert_eq!(count(&pair, "budget") + count(&pair, "failed"), 0);
    }
    Ok(())
}

#[tokio::test]
async fn a_body_that_comes_in_parts_is_sent_to_both_whole() -> Result {
    for protocol in [AppProtocol::Http1, AppProtocol::Http2] {
        for own in [true, false] {
            let servers = Servers::new(1, Does::Hangs);
            let pair = pair(&servers, protocol, Behind::Agents, 2).await?;
            with(&pair, hedged(hedge(2, DELAY)?)).await?;
            let mut request = put();
            *request.body_mut() = parts(6, 10_000);
            let answer = send(&pair, own, request).await?;
            assert_eq!(text(answer).await?, "x".repeat(60_000));
            servers.cancelled(1).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn with_its_caller_all_attempts_end() -> Result {
    let servers = Servers::new(9, Does::Hangs);
    let pair = pair(&servers, AppProtocol::Http2, Behind::Nothing, 3).await?;
    with(&pair, hedged(hedge(3, Duration::ZERO)?)).await?;
    let sent = tokio::spawn({
        let client = pair.web.client();
        async move { client.send(get("http://cart/")).await }
    });
    let mut came = servers.came.subscribe();
    soon(came.wait_for(|count| *count == 3)).await??;
    sent.abort();
    servers.cancelled(3).await?;
    pair.out_seen.one(|_| true).await?;
    assert_eq!((in_flight(&pair.web), count(&pair, "lost")), (0, 2));
    Ok(())
}
