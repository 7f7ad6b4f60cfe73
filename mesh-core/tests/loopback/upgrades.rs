//! A WebSocket meets what every request meets, and after the switch nothing cuts or repeats it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use inmesh_core::Body;
use inmesh_core::authorize::{Action, Operation, Policy, PolicyRule};
use inmesh_core::discover::pushed;
use inmesh_core::limit::{Rate, RateLimit, Rates};
use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey, ServiceName};
use inmesh_core::retry::RetryPolicy;
use inmesh_core::route::{Backend, Filter, HeaderChanges, Mirror, Parent, Route, Rule, Timeouts};
use inmesh_core::runtime::InboundListener;
use inmesh_core::snapshot::Op;
use inmesh_core::traffic::{Abort, Blocks, FaultInjection, Percentage, Target, TrafficPolicy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{Pair, Result, for_cart, h1, origin, push, soon};

type Io = TokioIo<hyper::upgrade::Upgraded>;

/// A server that switches and echoes, but at `/busy`, and at `/slow`, which it never answers; it counts what reaches it, and says
/// which tier it was asked for.
async fn switching(count: Arc<AtomicUsize>) -> Result<std::net::SocketAddr> {
    origin(move |mut request: Request<Incoming>| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            let mut response = Response::new(Body::empty());
            if let Some(tier) = request.headers().get("x-tier").cloned() {
                response.headers_mut().insert("x-tier", tier);
            }
            if request.uri().path() == "/slow" {
                std::future::pending::<()>().await;
            }
            if request.uri().path() == "/busy" {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                return response;
            }
            tokio::spawn(async move {
                let mut io = TokioIo::new(hyper::upgrade::on(&mut request).await.ok()?);
                let mut bytes = [0; 64];
                loop {
                    let n = io.read(&mut bytes).await.ok()?;
                    // It breaks off at that word.
                    if n == 0 || bytes.starts_with(b"bye") {
                        return Some(());
                    }
                    io.write_all(&bytes[..n]).await.ok()?;
                }
            });
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            for (name, value) in [
                (header::CONNECTION, "upgrade"),
                (header::UPGRADE, "websocket"),
            ] {
                response
                    .headers_mut()
                    .insert(name, HeaderValue::from_static(value));
            }
            response
        }
    })
    .await
}

fn websocket(path: &str) -> Request<Body> {
    let mut request = for_cart(path);
    for (name, value) in [
        (header::CONNECTION, "Upgrade"),
        (header::UPGRADE, "websocket"),
    ] {
        request
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    request
}

async fn ask(pair: &Pair, path: &str) -> Result<Response<Incoming>> {
    let mut caller = h1(pair.outbound).await?;
    Ok(soon(caller.send_request(websocket(path))).await??)
}

async fn joined(answer: Response<Incoming>) -> Result<Io> {
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    Ok(TokioIo::new(hyper::upgrade::on(answer).await?))
}

async fn echoes(io: &mut Io) -> Result {
    io.write_all(b"ping").await?;
    let mut bytes = [0; 4];
    soon(io.read_exact(&mut bytes)).await??;
    assert_eq!(&bytes, b"ping");
    Ok(())
}

fn cart() -> Result<ServiceName> {
    Ok(ServiceName::new(&Namespace::new("shop")?, "cart")?)
}

/// The route of `cart`: headers, a mirror, and a time limit that ends long before the caller does.
fn route() -> Result<Op> {
    let set = |name: &str, value| -> Result<HeaderChanges> {
        let value = HeaderValue::from_static(value);
        Ok(HeaderChanges::new().set(name.parse()?, value)?)
    };
    let filters = vec![
        Filter::RequestHeaders(set("x-tier", "gold")?),
        Filter::ResponseHeaders(set("x-seen", "mesh")?),
        Filter::Mirror(Mirror::new(cart()?, 80)),
    ];
    let backends = vec![
        Backend::new(cart()?, 80, 1)?,
        Backend::new(ServiceName::new(&Namespace::new("shop")?, "none")?, 80, 0)?,
    ];
    let limits = Timeouts::new(Some(Duration::from_millis(300)), None)?;
    let rule = Rule::to(backends)
        .with_filters(filters)
        .with_timeouts(limits);
    let rule = rule.with_retry(RetryPolicy::new(2).on_status(503)?);
    let key = ObjectKey::new(Kind::HttpRoute, &Namespace::new("shop")?, "r")?;
    let route = Route::new(key, vec![Parent::new(cart()?, None)], vec![rule])?;
    Ok(Op::put(route))
}

#[tokio::test]
async fn a_route_edits_it_and_nothing_of_it_is_copied_repeated_or_cut() -> Result {
    let count = Arc::new(AtomicUsize::new(0));
    let app = switching(Arc::clone(&count)).await?;
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    push(&pair, vec![route()?]).await?;
    let answer = ask(&pair, "/chat").await?;
    assert_eq!(
        (&answer.headers()["x-tier"], &answer.headers()["x-seen"]),
        (&"gold".parse()?, &"mesh".parse()?)
    );
    let mut io = joined(answer).await?;
    echoes(&mut io).await?;
    // A request that is not answered meets the limit of the route; what has left HTTP does not.
    assert_eq!(
        ask(&pair, "/slow").await?.status(),
        StatusCode::GATEWAY_TIMEOUT
    );
    echoes(&mut io).await?;
    // Once it has switched nothing of it is sent again, however it ends.
    io.write_all(b"bye").await?;
    let mut rest = Vec::new();
    soon(io.read_to_end(&mut rest)).await??;
    assert_eq!(rest, b"");
    drop(io);
    let record = pair.in_seen.one(|x| x.uri.path() == "/chat").await?;
    assert_eq!(record.tls_peer, Some(pair.world.id("web")?));
    let record = pair.out_seen.one(|x| x.uri.path() == "/chat").await?;
    assert_eq!((record.status, record.attempts.len()), (101, 1));
    assert!(record.route.is_some());
    assert_eq!(count.load(Ordering::SeqCst), 2, "no copy and no repeat");
    // As long as it has not switched, an answer that the route lists is repeated like any other.
    assert_eq!(
        ask(&pair, "/busy").await?.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(count.load(Ordering::SeqCst), 5);
    Ok(())
}

#[tokio::test]
async fn a_fault_is_made_of_it_before_it_switches() -> Result {
    let count = Arc::new(AtomicUsize::new(0));
    let app = switching(Arc::clone(&count)).await?;
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    let faults = FaultInjection::default();
    let abort = Abort::Http(StatusCode::IM_A_TEAPOT);
    for (fault, status, reached) in [
        (faults.clone().with_abort(Percentage::ALL, abort)?, 418, 0),
        (
            faults.with_delay(Percentage::ALL, Duration::from_millis(5))?,
            101,
            1,
        ),
    ] {
        let mut blocks = Blocks::default();
        blocks.fault = Some(fault.into());
        let key = ObjectKey::new(Kind::TrafficPolicy, &Namespace::new("shop")?, "cart")?;
        let policy = TrafficPolicy::new(key, vec![Target::Service(cart()?, None)], blocks)?;
        push(&pair, vec![Op::put(policy)]).await?;
        let answer = ask(&pair, "/chat").await?;
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(count.load(Ordering::SeqCst), reached);
        if status == 101 {
            echoes(&mut joined(answer).await?).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_workload_that_is_asked_judges_and_counts_it() -> Result {
    let count = Arc::new(AtomicUsize::new(0));
    let app = switching(Arc::clone(&count)).await?;
    let mut pair = Pair::new(AppProtocol::Http1, app).await?;
    let shop = Namespace::new("shop")?;
    let (pusher, source) = pushed("cart");
    pair.cart = pair.world.mesh("cart")?.source(source).start()?;
    let deny = PolicyRule::new(
        vec![],
        vec![Operation::builder().paths(["/secret"]).build()?],
    );
    let deny = Policy::new(
        ObjectKey::new(Kind::AuthorizationPolicy, &shop, "deny")?,
        Action::Deny,
        vec![deny],
    );
    let hour = Duration::from_secs(3_600);
    let mut blocks = Blocks::default();
    let rates = Rates::new(Some(Rate::new(1, hour, 1)?), None);
    blocks.rate_limit = Some(RateLimit::new(rates, Vec::new())?.into());
    let limit = ObjectKey::new(Kind::TrafficPolicy, &shop, "limit")?;
    let limit = TrafficPolicy::new(limit, Vec::new(), blocks)?;
    pusher.push(vec![Op::put(deny), Op::put(limit)]).await?;
    pair.cart.ready().await;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let ops = pair
        .world
        .service("cart", AppProtocol::Http1, &[listener.local_addr()?])?;
    let (cart, to) = (
        pair.cart.clone(),
        InboundListener::new(app, AppProtocol::Http1),
    );
    tokio::spawn(async move { cart.serve_behind(listener, to).await });
    push(&pair, ops).await?;
    assert_eq!(ask(&pair, "/secret").await?.status(), StatusCode::FORBIDDEN);
    let mut io = joined(ask(&pair, "/chat").await?).await?;
    assert_eq!(
        ask(&pair, "/chat").await?.status(),
        StatusCode::TOO_MANY_REQUESTS
    );
    echoes(&mut io).await?;
    assert_eq!(count.load(Ordering::SeqCst), 1);
    Ok(())
}

/// A server that has too much to do at the first request of each path; later it switches where it is asked
/// to, and else answers 200. It counts what reaches it.
async fn busy_at_first(count: Arc<AtomicUsize>) -> Result<std::net::SocketAddr> {
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    origin(move |request: Request<Incoming>| {
        count.fetch_add(1, Ordering::SeqCst);
        let path = request.uri().path().to_owned();
        let first = seen.lock().is_ok_and(|mut seen| seen.insert(path));
        async move {
            let mut response = Response::new(Body::empty());
            let asked = request.headers().get(header::UPGRADE).cloned();
            *response.status_mut() = match (first, &asked) {
                (true, _) => StatusCode::SERVICE_UNAVAILABLE,
                (false, None) => StatusCode::OK,
                (false, Some(_)) => StatusCode::SWITCHING_PROTOCOLS,
            };
            if let (false, Some(asked)) = (first, asked) {
                let headers = response.headers_mut();
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(header::UPGRADE, asked);
            }
            response
        }
    })
    .await
}

/// A retry before the switch opens nothing twice. What is no wish for a WebSocket is a request as all are.
#[tokio::test]
async fn until_it_has_switched_it_is_repeated_and_a_wish_for_h2c_is_as_if_unsaid() -> Result {
    let count = Arc::new(AtomicUsize::new(0));
    let app = busy_at_first(Arc::clone(&count)).await?;
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    push(&pair, vec![route()?]).await?;
    let other = |method: Method, path: &str, body: &'static str| {
        let mut request = websocket(path);
        *request.method_mut() = method;
        *request.body_mut() = Body::from(body);
        let headers = request.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("h2c"));
        request
    };
    for (request, status, reach) in [
        (websocket("/chat"), 101, 2),
        // Its copy comes too.
        (other(Method::GET, "/get", ""), 200, 3),
        (other(Method::POST, "/post", "hello"), 200, 3),
    ] {
        let path = request.uri().path().to_owned();
        let before = count.load(Ordering::SeqCst);
        let mut caller = h1(pair.outbound).await?;
        let answer = soon(caller.send_request(request)).await??;
        assert_eq!(answer.status().as_u16(), status, "{path}");
        drop((answer, caller));
        let record = pair.out_seen.one(|x| x.uri.path() == path).await?;
        assert_eq!(record.attempts.len(), 2, "{path}");
        soon(async {
            while count.load(Ordering::SeqCst) < before + reach {
                tokio::task::yield_now().await;
            }
        })
        .await?;
        assert_eq!(count.load(Ordering::SeqCst), before + reach, "{path}");
    }
    Ok(())
}
