//! What routes, backends and policies make of a request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use inmesh_core::authorize::{Action, Operation, PathForm, Policy, PolicyRule};
use inmesh_core::discover::pushed;
use inmesh_core::model::{AppProtocol, Kind, Namespace, ObjectKey, ServiceName};
use inmesh_core::route::{
    Backend, Filter, HeaderChanges, Match, Mirror, Parent, PathMatch, Regex, Route, Rule, Timeouts,
    ValueMatch,
};
use inmesh_core::snapshot::Op;
use inmesh_core::{Body, Mesh};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{
    Pair, Result, get, h1, h2, in_flight, origin, origin_h2, push, raw, soon, tell, text, whole,
};

fn service(name: &str) -> Result<ServiceName> {
    Ok(ServiceName::new(&Namespace::new("shop")?, name)?)
}

fn route(rules: Vec<Rule>) -> Result<Op> {
    let key = ObjectKey::new(Kind::HttpRoute, &Namespace::new("shop")?, "cart")?;
    let route = Route::new(key, vec![Parent::new(service("cart")?, None)], rules)?;
    Ok(Op::put(route))
}

#[tokio::test]
async fn the_mesh_answers_for_what_is_not_there() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    push(&pair, pair.world.service("empty", AppProtocol::Http1, &[])?).await?;
    let client = pair.web.client();
    for (target, status, reason) in [
        ("http://absent/", 404, "unknown-host"),
        ("http://cart.elsewhere/", 404, "unknown-host"),
        ("http://empty/", 503, "no-endpoint"),
        ("http://cart:81/", 404, "no-route"),
        ("http://cart/%00", 400, "invalid-request"),
    ] {
        let answer = client.send(get(target)).await;
        assert_eq!(answer.status(), status, "{target}");
        assert_eq!(answer.headers()["x-mesh-reason"], reason, "{target}");
        // The record is written when the answer has been read.
        text(answer).await?;
        let record = pair
            .out_seen
            .one(|x| x.reason.is_some_and(|r| r.as_str() == reason))
            .await?;
        assert_eq!(record.status, status);
        let metrics = pair.web.encode_metrics();
        assert!(
            metrics.contains(&format!("response_code=\"{status}\"")),
            "{metrics}"
        );
    }
    let mut request = get("http://absent/shop.Cart/Get");
    *request.version_mut() = Version::HTTP_2;
    let kind = HeaderValue::from_static("application/grpc");
    request.headers_mut().insert(header::CONTENT_TYPE, kind);
    let answer = client.send(request).await;
    assert_eq!(
        (answer.status(), &answer.headers()["grpc-status"]),
        (StatusCode::OK, &"12".parse()?)
    );
    assert_eq!(
        client.send(get("http://cart/")).await.status(),
        StatusCode::OK
    );
    Ok(())
}

#[tokio::test]
async fn a_dangling_backend_answers_500_for_its_share() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let backends = vec![
        Backend::new(service("cart")?, 80, 1)?,
        Backend::new(service("gone")?, 80, 1)?,
    ];
    push(&pair, vec![route(vec![Rule::to(backends)])?]).await?;
    let client = pair.web.client();
    let (mut good, mut bad) = (0, 0);
    for _ in 0..200 {
        match client.send(get("http://cart/")).await.status().as_u16() {
            200 => good += 1,
            500 => bad += 1,
            other => return Err(format!("{other}").into()),
        }
    }
    assert!(good > 60 && bad > 60, "{good} {bad}");
    Ok(())
}

/// A plain server of that version.
async fn server(version: AppProtocol) -> Result<SocketAddr> {
    match version {
        AppProtocol::Http2 => origin_h2(tell).await,
        _ => origin(tell).await,
    }
}

/// The Gateway API, HTTPBackendRef: what is sent to a kind that is not known is answered with 500. A mirror
/// to one is left out alone.
#[tokio::test]
async fn a_backend_of_another_kind_answers_500_for_its_share() -> Result {
    let import = ServiceName::foreign(&Namespace::new("shop")?, "x.io", "ServiceImport", "cart");
    for version in [AppProtocol::Http1, AppProtocol::Http2] {
        let pair = Pair::new(version, server(version).await?).await?;
        let split = vec![
            Backend::new(service("cart")?, 80, 1)?,
            Backend::new(import.clone(), 0, 1)?,
        ];
        let mirror = Filter::Mirror(Mirror::new(import.clone(), 0));
        let copied = Rule::to(vec![Backend::new(service("cart")?, 80, 1)?]);
        let copied = copied.with_filters(vec![mirror]);
        let copied = copied.when(vec![Match::path(PathMatch::literal("/copied", true)?)]);
        push(&pair, vec![route(vec![Rule::to(split), copied])?]).await?;
        let client = pair.web.client();
        let (mut good, mut bad) = (0, 0);
        for _ in 0..200 {
            let answer = client.send(get("http://cart/")).await;
            match answer.status().as_u16() {
                200 => good += 1,
                500 if answer.headers()["x-mesh-reason"] == "backend-missing" => bad += 1,
                other => return Err(format!("{other}").into()),
            }
        }
        assert!(good > 60 && bad > 60, "{version:?}: {good} {bad}");
        for _ in 0..10 {
            let answer = client.send(get("http://cart/copied")).await;
            assert_eq!(answer.status(), StatusCode::OK);
        }
    }
    Ok(())
}

/// Values with bytes beyond ASCII, whether they are UTF-8 or not, are compared as they came.
#[tokio::test]
async fn a_header_value_beyond_ascii_is_compared() -> Result {
    for version in [AppProtocol::Http1, AppProtocol::Http2] {
        let pair = Pair::new(version, server(version).await?).await?;
        let when = |path: &str, wanted: ValueMatch| -> Result<Rule> {
            let to = Rule::to(vec![Backend::new(service("cart")?, 80, 1)?]);
            let path = Match::path(PathMatch::literal(path, true)?);
            Ok(to.when(vec![path.header("x-city".parse()?, wanted)]))
        };
        let rules = vec![
            when("/exact", ValueMatch::Exact("Zürich".into()))?,
            when("/any", ValueMatch::Regex(Regex::new(".*")?))?,
            when("/text", ValueMatch::Regex(Regex::new("Z.rich")?))?,
        ];
        push(&pair, vec![route(rules)?]).await?;
        let (client, mut one, mut two) = (
            pair.web.client(),
            h1(pair.outbound).await?,
            h2(pair.outbound).await?,
        );
        for (path, value, status) in [
            ("/exact", "Zürich".as_bytes(), 200),
            ("/exact", b"Z\xfcrich", 404),
            ("/exact", b"Zurich", 404),
            ("/any", "Zürich".as_bytes(), 200),
            ("/any", b"Z\xfcrich", 200),
            ("/text", "Zürich".as_bytes(), 200),
            ("/text", b"Z\xfcrich", 200),
            ("/text", "Züürich".as_bytes(), 404),
        ] {
            let value = HeaderValue::from_bytes(value)?;
            let request = |target: &str| {
                let mut request = get(target);
                request.headers_mut().insert("x-city", value.clone());
                request
            };
            let target = format!("http://cart{path}");
            let embedded = client.send(request(&target)).await;
            let mut of_one = request(path);
            let host = HeaderValue::from_static("cart");
            of_one.headers_mut().insert(header::HOST, host);
            let of_one = soon(one.send_request(of_one)).await??;
            let of_one = (of_one.status(), text(of_one).await?).0;
            let of_two = soon(two.send_request(request(&target))).await??;
            for answered in [embedded.status(), of_one, of_two.status()] {
                assert_eq!(answered, status, "{version:?} {path} {value:?}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn header_changes_reach_the_server_and_the_caller() -> Result {
    let app = origin(async |request: Request<Incoming>| {
        let value = request.headers().get("x-route").cloned();
        let mut response = Response::new(Body::from(format!("{value:?}")));
        response
            .headers_mut()
            .insert("server", HeaderValue::from_static("secret"));
        response
    })
    .await?;
    let pair = Pair::new(AppProtocol::Http1, app).await?;
    let changes = HeaderChanges::new;
    let rule = Rule::to(vec![Backend::new(service("cart")?, 80, 1)?]).with_filters(vec![
        Filter::RequestHeaders(changes().set("x-route".parse()?, HeaderValue::from_static("a"))?),
        Filter::ResponseHeaders(changes().remove("server".parse()?)?),
    ]);
    push(&pair, vec![route(vec![rule])?]).await?;
    let answer = pair.web.client().send(get("http://cart/")).await;
    assert!(!answer.headers().contains_key("server"));
    assert_eq!(text(answer).await?, "Some(\"a\")");
    Ok(())
}

/// The destination Service as metrics name it.
const CART: &str = "destination_service=\"cart.shop.svc.cluster.local\"";

/// The counters of requests that ended with a status.
fn counted(mesh: &Mesh, status: &str) -> Vec<String> {
    let status = format!("response_code=\"{status}\"");
    let metrics = mesh.encode_metrics();
    let lines = metrics
        .lines()
        .filter(|l| l.starts_with("istio_requests_total{"));
    lines
        .filter(|l| l.contains(&status))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn what_no_endpoint_answers_is_counted_with_its_destination() -> Result {
    let dead = TcpListener::bind("127.0.0.1:0").await?;
    let address = dead.local_addr()?;
    drop(dead);
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    push(
        &pair,
        pair.world.service("cart", AppProtocol::Http1, &[address])?,
    )
    .await?;
    let ask = async |to: &str| pair.web.client().send(get(to)).await.status();
    assert_eq!(ask("http://cart/").await, StatusCode::SERVICE_UNAVAILABLE);
    let refused = counted(&pair.web, "503");
    assert!(
        refused[0].contains("destination_workload=\"cart\""),
        "{refused:?}"
    );

    push(&pair, pair.world.service("till", AppProtocol::Http1, &[])?).await?;
    assert_eq!(ask("http://till/").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ask("http://cart:81/").await, StatusCode::NOT_FOUND);
    assert_eq!(ask("http://unknown/").await, StatusCode::NOT_FOUND);
    let all = ["503", "404"]
        .map(|status| counted(&pair.web, status))
        .concat();
    let of = |service: &str| {
        let label = format!("destination_service_name=\"{service}\"");
        all.iter().filter(|line| line.contains(&label)).count()
    };
    let counts = ["cart", "till", "unknown"].map(of);
    assert_eq!((all.len(), counts), (4, [2, 1, 1]), "{all:?}");
    // One set of labels for each family.
    let names = |line: &String| {
        let labels = line.split_once('{').unwrap().1.split("\",");
        let names = labels.map(|label| label.split('=').next().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert!(all.iter().all(|line| names(line) == names(&all[0])));
    Ok(())
}

/// An endpoint that takes too long counts as failed, whichever limit ends the wait.
#[tokio::test]
async fn both_timeouts_end_the_wait_and_count() -> Result {
    let stuck = origin(async |_| std::future::pending().await).await?;
    let pair = Pair::new(AppProtocol::Http1, stuck).await?;
    let ms = |n| Some(Duration::from_millis(n));
    for (limits, reason) in [
        (Timeouts::new(ms(20), None)?, "request-timeout"),
        (Timeouts::new(ms(20_000), ms(20))?, "backend-timeout"),
    ] {
        let mut rule = Rule::to(vec![Backend::new(service("cart")?, 80, 1)?]);
        rule.timeouts = Some(limits);
        push(&pair, vec![route(vec![rule])?]).await?;
        let answer = pair.web.client().send(get("http://cart/")).await;
        assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(answer.headers()["x-mesh-reason"], reason);
        assert_eq!(in_flight(&pair.web), 0);
    }
    let late = counted(&pair.web, "504");
    assert_eq!(late.len(), 1, "{late:?}");
    assert!(
        late[0].contains("destination_workload=\"cart\""),
        "{late:?}"
    );
    assert!(
        late[0].contains(CART) && late[0].ends_with(" 2"),
        "{late:?}"
    );
    // The caller's agent going away is what the inbound side sees.
    let record = pair.in_seen.one(|_| true).await?;
    assert_eq!(
        (record.status, record.reason.map(|r| r.as_str())),
        (499, Some("caller-gone"))
    );
    Ok(())
}

/// A caller that sends too slowly for a route says nothing about the endpoint.
#[tokio::test]
async fn an_upload_that_is_too_slow_for_a_route_is_the_callers() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let ms = |n| Some(Duration::from_millis(n));
    for limits in [
        Timeouts::new(ms(1_000), None)?,
        Timeouts::new(ms(20_000), ms(1_000))?,
    ] {
        let mut rule = Rule::to(vec![Backend::new(service("cart")?, 80, 1)?]);
        rule.timeouts = Some(limits);
        push(&pair, vec![route(vec![rule])?]).await?;
        // The connection to the endpoint is there before the time of the requests that follow runs.
        let whole =
            b"POST / HTTP/1.1\r\nhost: cart\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbody";
        let first = raw(pair.outbound, whole).await?;
        assert!(first.starts_with("HTTP/1.1 200"), "{first}");
        // More often than an endpoint may fail.
        let half = b"POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 9\r\n\r\nhalf";
        let answers = (0..6).map(|_| raw(pair.outbound, half));
        for answer in futures_util::future::try_join_all(answers).await? {
            assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
            assert!(answer.contains("x-mesh-reason: body-timeout"), "{answer}");
        }
    }
    let metrics = pair.web.encode_metrics();
    assert!(!metrics.contains("mesh_ejections_total{"), "{metrics}");
    assert_eq!(in_flight(&pair.web), 0);
    Ok(())
}

#[tokio::test]
async fn a_denial_fits_the_protocol_and_names_its_policy_in_the_log_alone() -> Result {
    let (rules, source) = pushed("rules");
    let source = std::sync::Mutex::new(Some(source));
    // The first mesh that is built is that of `cart`.
    let build = |b: crate::support::Builder| match source.lock().unwrap().take() {
        Some(source) => b.source(source),
        None => b,
    };
    let pair = Pair::with(AppProtocol::Http1, origin(tell).await?, build, |_| {}).await?;
    let key = ObjectKey::new(
        Kind::AuthorizationPolicy,
        &Namespace::new("shop")?,
        "no-admin",
    )?;
    let rule = PolicyRule::new(
        vec![],
        vec![Operation::builder().paths(["/admin*"]).build()?],
    );
    let policy = Policy::new(key.clone(), Action::Deny, vec![rule]);
    rules.push(vec![Op::put(policy)]).await?;
    pair.cart.ready().await;
    let client = pair.web.client();
    for path in [
        "/admin",
        "//admin",
        "/%61dmin",
        "/x/..%2fadmin",
        "/x\\..\\admin/y",
    ] {
        let target = format!("http://cart{path}");
        let Ok(uri) = target.parse() else { continue };
        let mut request = get("/");
        *request.uri_mut() = uri;
        let answer = client.send(request).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path}");
        assert!(!text(answer).await?.contains("no-admin"));
    }
    let record = pair.in_seen.one(|x| x.policy.is_some()).await?;
    assert_eq!((record.policy, record.status), (Some(key), 403));
    let request = Request::post("http://cart/admin.Service/Get")
        .version(Version::HTTP_2)
        .header(header::CONTENT_TYPE, "application/grpc")
        .body(Body::empty())?;
    let answer = client.send(request).await;
    assert_eq!(
        (answer.status(), &answer.headers()["grpc-status"]),
        (StatusCode::OK, &"7".parse()?)
    );
    let request = Request::post("http://cart/admin.Service/Get")
        .header(header::CONTENT_TYPE, "application/grpc-web-text+proto")
        .body(Body::empty())?;
    let answer = client.send(request).await;
    assert_eq!(
        (
            &answer.headers()[header::CONTENT_TYPE],
            &answer.headers()["grpc-status"]
        ),
        (&"application/grpc-web-text+proto".parse()?, &"7".parse()?)
    );
    assert_eq!(
        client.send(get("http://cart/public")).await.status(),
        StatusCode::OK
    );
    Ok(())
}

/// What the application is given, by default and where both settings are on.
#[tokio::test]
async fn a_path_is_forwarded_as_it_came_unless_a_setting_asks_for_more() -> Result {
    async fn path(request: Request<Incoming>) -> Response<Body> {
        Response::new(Body::from(request.uri().to_string()))
    }
    let both = PathForm::default().merge_slashes(true).decode_slashes(true);
    for form in [PathForm::default(), both] {
        let pair = Pair::with(
            AppProtocol::Http1,
            origin(path).await?,
            |b| b.paths(form),
            |_| {},
        );
        let pair = pair.await?;
        let client = pair.web.client();
        for (given, kept, merged) in [
            ("/a/../b?x=/../%2f", "/b?x=/../%2f", "/b?x=/../%2f"),
            ("/vhosts/%2F/q", "/vhosts/%2F/q", "/vhosts/q"),
            (
                "/npm/@scope%2fname",
                "/npm/@scope%2Fname",
                "/npm/@scope/name",
            ),
            ("/bucket//key", "/bucket//key", "/bucket/key"),
            ("/a%5cb/%7e%41", "/a%5Cb/%7E%41", "/a/b/~A"),
            ("/ü/%c3%bc", "/ü/%C3%BC", "/ü/%C3%BC"),
        ] {
            let wanted = if form == both { merged } else { kept };
            let answer = client.send(get(&format!("http://cart{given}"))).await;
            assert_eq!(answer.status(), StatusCode::OK, "{given}");
            assert_eq!(text(answer).await?, wanted, "{given}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_refused_endpoint_costs_no_request() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let dead = TcpListener::bind("127.0.0.1:0").await?;
    let addresses = [pair.inbound, dead.local_addr()?];
    drop(dead);
    push(
        &pair,
        pair.world.service("cart", AppProtocol::Http1, &addresses)?,
    )
    .await?;
    for n in 0..20 {
        let mut request = get("http://cart/");
        if n % 2 == 0 {
            *request.method_mut() = Method::POST;
            *request.body_mut() = whole("hello");
        }
        assert_eq!(
            pair.web.client().send(request).await.status(),
            StatusCode::OK,
            "{n}"
        );
    }
    // Five in a row ejected it, and one of two may be out.
    let metrics = pair.web.encode_metrics();
    assert!(
        metrics.contains("mesh_retries_total{reason=\"connect-failed\"} 5"),
        "{metrics}"
    );
    assert!(
        metrics.contains("endpoint_state=\"ejected\"} 1"),
        "{metrics}"
    );
    assert_eq!(in_flight(&pair.web), 0);
    Ok(())
}

/// A server that closes each connection after it has read a request on it, the first `good` ones
/// answered.
async fn closing(good: usize, seen: Arc<AtomicUsize>) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                for _ in 0..good {
                    let _n = stream.read(&mut bytes).await;
                    seen.fetch_add(1, Ordering::SeqCst);
                    let _n = stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                        .await;
                }
                let n = stream.read(&mut bytes).await;
                seen.fetch_add(usize::from(n.is_ok_and(|n| n > 0)), Ordering::SeqCst);
            });
        }
    });
    Ok(address)
}

#[tokio::test]
async fn what_a_server_has_read_is_sent_again_only_where_that_is_safe() -> Result {
    for (good, method, body, status, reads) in [
        // On a new connection nothing is repeated.
        (0, Method::GET, "", 502, 1),
        (0, Method::POST, "hello", 502, 1),
        // On one that was used before, what is idempotent is.
        (1, Method::GET, "", 200, 3),
        (1, Method::POST, "hello", 502, 2),
        (1, Method::PUT, "hello", 200, 3),
        (1, Method::POST, "", 502, 2),
        (1, Method::DELETE, "", 200, 3),
    ] {
        let seen = Arc::new(AtomicUsize::new(0));
        let pair = Pair::new(AppProtocol::Http1, closing(good, Arc::clone(&seen)).await?).await?;
        let client = pair.web.client();
        if good > 0 {
            let answer = client.send(get("http://cart/")).await;
            assert_eq!(text(answer).await?, "");
            pair.in_seen.one(|_| true).await?;
        }
        let mut request = get("http://cart/");
        *request.method_mut() = method.clone();
        *request.body_mut() = if body.is_empty() {
            Body::empty()
        } else {
            whole(body)
        };
        let answer = client.send(request).await;
        assert_eq!(answer.status(), status, "{good} {method} {body}");
        assert_eq!(seen.load(Ordering::SeqCst), reads, "{good} {method} {body}");
    }
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_fails_is_ejected_and_returns_by_one_probe() -> Result {
    let failing = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let served = Arc::new(AtomicUsize::new(0));
    let (f, s) = (Arc::clone(&failing), Arc::clone(&served));
    let bad = origin(move |_| {
        let (f, s) = (Arc::clone(&f), Arc::clone(&s));
        async move {
            s.fetch_add(1, Ordering::SeqCst);
            let mut response = Response::new(Body::empty());
            if f.load(Ordering::SeqCst) {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            response
        }
    })
    .await?;
    let mut eject = inmesh_core::balance::EjectPolicy::default();
    eject.base = Duration::from_millis(50);
    let build = move |b: crate::support::Builder| b.eject(eject);
    let pair = Pair::with(AppProtocol::Http1, origin(tell).await?, build, |_| {}).await?;
    // The second endpoint is plain, so that it needs no identity of this world.
    let mut ops = pair
        .world
        .service("cart", AppProtocol::Http1, &[pair.inbound])?;
    let key = ObjectKey::new(Kind::EndpointSlice, &Namespace::new("shop")?, "bad")?;
    let slice = inmesh_core::model::Slice::new(
        key,
        service("cart")?,
        vec![inmesh_core::model::SlicePort::new("main", bad.port())],
        vec![inmesh_core::model::SliceHost::new(
            inmesh_core::model::Host::Address(bad.ip()),
        )],
        inmesh_core::model::Transport::Plain,
    );
    ops.push(Op::put(slice));
    push(&pair, ops).await?;
    let ejected = || {
        pair.web
            .status()
            .services
            .iter()
            .flat_map(|s| &s.endpoints)
            .any(|e| e.ejected)
    };
    let client = pair.web.client();
    let mut failures = 0;
    while !ejected() {
        failures += u32::from(client.send(get("http://cart/")).await.status() != StatusCode::OK);
    }
    assert_eq!(failures, 5);
    let services = pair.web.status().services;
    let mut errors = services.iter().flat_map(|s| &s.endpoints);
    let last = errors.find_map(|endpoint| endpoint.last_error.as_ref());
    let said = last.map(|last| last.error.as_str());
    assert_eq!(said, Some("it answered 503 Service Unavailable"));
    failing.store(false, Ordering::SeqCst);
    // Requests continue without failure until one of them is the probe.
    let before = served.load(Ordering::SeqCst);
    let back = async {
        while ejected() {
            assert_eq!(
                client.send(get("http://cart/")).await.status(),
                StatusCode::OK
            );
        }
    };
    soon(back).await?;
    assert_eq!(
        served.load(Ordering::SeqCst),
        before + 1,
        "one probe brought it back"
    );
    assert_eq!(in_flight(&pair.web), 0);
    Ok(())
}
