//! Which endpoint requests reach by each strategy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Response, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use inmesh_core::Body;
use inmesh_core::balance::{
    ConsistentHash, EjectPolicy, FailurePercentage, HashCookie, HashKey, HashTable, RequestLimits,
    RingSize, Strategy, TableSize, Volume,
};
use inmesh_core::model::{
    AppProtocol, Host, Kind, Namespace, ObjectKey, ServiceName, Slice, SliceHost, SlicePort,
    Transport,
};
use inmesh_core::runtime::OutboundListener;
use inmesh_core::snapshot::Op;
use inmesh_core::traffic::{Blocks, Target, TrafficPolicy};
use tokio::net::TcpSocket;

use crate::support::{
    Pair, Result, get, in_flight, origin, push, serve_outbound, soon, tell, text,
};

/// A mesh whose Service `shelf` has plain endpoints that answer with their number, and a status.
async fn shelf(strategy: Strategy, statuses: &[StatusCode]) -> Result<Pair> {
    let mut eject = EjectPolicy::default();
    eject.consecutive = 0;
    ejecting(strategy, eject, statuses).await
}

/// The same with a policy of ejection.
async fn ejecting(strategy: Strategy, eject: EjectPolicy, statuses: &[StatusCode]) -> Result<Pair> {
    let build = move |b: crate::support::Builder| b.strategy(strategy.clone()).eject(eject);
    let pair = Pair::with(AppProtocol::Http1, origin(tell).await?, build, |_| {}).await?;
    let mut ops = pair.world.service("shelf", AppProtocol::Http1, &[])?;
    let shop = Namespace::new("shop")?;
    for (n, status) in statuses.iter().copied().enumerate() {
        let answer = move |_| async move {
            let mut response = Response::new(Body::from(n.to_string()));
            *response.status_mut() = status;
            if status == StatusCode::TOO_MANY_REQUESTS {
                let pause = ::http::HeaderValue::from_static("20");
                response.headers_mut().insert("retry-after", pause);
            }
            response
        };
        let at = origin(answer).await?;
        ops.push(Op::put(Slice::new(
            ObjectKey::new(Kind::EndpointSlice, &shop, &format!("shelf-{n}"))?,
            ServiceName::new(&shop, "shelf")?,
            vec![SlicePort::new("main", at.port())],
            vec![SliceHost::new(Host::Address(at.ip()))],
            Transport::Plain,
        )));
    }
    push(&pair, ops).await?;
    Ok(pair)
}

/// The endpoint that a request reaches, and the cookie that its answer sets.
async fn ask(pair: &Pair, cookie: Option<&str>) -> Result<(String, Option<String>)> {
    let mut request = get("http://shelf/");
    if let Some(cookie) = cookie {
        request.headers_mut().insert("cookie", cookie.parse()?);
    }
    let answer = soon(pair.web.client().send(request)).await?;
    let set = answer.headers().get("set-cookie");
    let set = set.map(|set| set.to_str().map(str::to_owned)).transpose()?;
    Ok((text(answer).await?, set))
}

#[tokio::test]
async fn a_caller_with_its_cookie_stays_at_its_endpoint() -> Result {
    for table in [
        HashTable::Maglev(TableSize::default()),
        HashTable::Rendezvous,
        HashTable::Ring(RingSize::default()),
    ] {
        let cookie = HashCookie::new("stay", Some("/"), Some(Duration::from_secs(60)))?;
        let hash = ConsistentHash::by(HashKey::Cookie(cookie)).through(table);
        let pair = shelf(Strategy::ConsistentHash(hash), &[StatusCode::OK; 4]).await?;
        let mut reached = std::collections::BTreeSet::new();
        for _ in 0..12 {
            let (first, set) = ask(&pair, None).await?;
            let set = set.ok_or("no cookie")?;
            let (value, rest) = set.split_once(';').ok_or("no attributes")?;
            assert_eq!(rest, " Max-Age=60; Path=/; HttpOnly");
            for _ in 0..3 {
                assert_eq!(ask(&pair, Some(value)).await?, (first.clone(), None));
            }
            reached.insert(first);
        }
        assert!(reached.len() > 1, "{table:?}: {reached:?}");
    }
    Ok(())
}

/// One of four answers 429 and asks for a pause: it gets a tenth of its share meanwhile.
#[tokio::test]
async fn an_endpoint_that_asks_for_a_pause_gets_less() -> Result {
    let statuses = [
        StatusCode::OK,
        StatusCode::OK,
        StatusCode::OK,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    let pair = shelf(Strategy::default(), &statuses).await?;
    let mut shed = 0;
    for _ in 0..400 {
        let answer = soon(pair.web.client().send(get("http://shelf/"))).await?;
        shed += u32::from(answer.status() == StatusCode::TOO_MANY_REQUESTS);
        text(answer).await?;
    }
    // A quarter is 100; a tenth of its share 10. The requests take less than the pause.
    assert!((1..=40).contains(&shed), "{shed} of 400");
    Ok(())
}

/// Two requests wait at an endpoint that takes two; a third is refused at once, with its own reason.
#[tokio::test]
async fn what_is_above_the_limit_is_refused_with_its_reason() -> Result {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let of = Arc::clone(&gate);
    let slow = origin(move |_| {
        let gate = Arc::clone(&of);
        async move {
            let _open = gate.acquire().await;
            Response::new(Body::empty())
        }
    });
    let pair = Pair::new(AppProtocol::Http1, slow.await?).await?;
    let shop = Namespace::new("shop")?;
    let key = ObjectKey::new(Kind::TrafficPolicy, &shop, "cart")?;
    let target = Target::Service(ServiceName::new(&shop, "cart")?, None);
    let mut blocks = Blocks::default();
    blocks.limits = Some(RequestLimits::new(2, None)?);
    push(
        &pair,
        vec![Op::put(TrafficPolicy::new(key, vec![target], blocks)?)],
    )
    .await?;
    let send = || {
        let client = pair.web.client();
        tokio::spawn(async move { client.send(get("http://cart/")).await })
    };
    let waiting = [send(), send()];
    let both = async {
        while in_flight(&pair.web) < 2 {
            tokio::task::yield_now().await;
        }
    };
    soon(both).await?;
    let refused = soon(pair.web.client().send(get("http://cart/"))).await?;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["x-mesh-reason"], "overflow");
    gate.add_permits(9);
    for waiting in waiting {
        assert_eq!(soon(waiting).await??.status(), StatusCode::OK);
    }
    let after = soon(pair.web.client().send(get("http://cart/"))).await?;
    assert_eq!(after.status(), StatusCode::OK);
    Ok(())
}

fn ejected(pair: &Pair) -> usize {
    let services = pair.web.status().services;
    let endpoints = services.iter().flat_map(|s| &s.endpoints);
    endpoints.filter(|e| e.ejected).count()
}

/// One of three fails each request, and no row of failures ejects: it is found when they are compared.
#[tokio::test]
async fn an_outlier_is_ejected_at_the_end_of_an_interval() -> Result {
    let mut eject = EjectPolicy::default();
    eject.consecutive = 0;
    eject.interval = Duration::from_millis(200);
    eject.failure_percentage = Some(FailurePercentage::new(50)?.at(Volume::new(3, 5)));
    let statuses = [
        StatusCode::OK,
        StatusCode::OK,
        StatusCode::INTERNAL_SERVER_ERROR,
    ];
    let pair = ejecting(Strategy::RoundRobin, eject, &statuses).await?;
    let found = async {
        while ejected(&pair) == 0 {
            let answer = pair.web.client().send(get("http://shelf/")).await;
            text(answer).await?;
        }
        Ok::<_, crate::support::BoxError>(())
    };
    soon(found).await??;
    for _ in 0..20 {
        let answer = soon(pair.web.client().send(get("http://shelf/"))).await?;
        assert_eq!(answer.status(), StatusCode::OK);
    }
    let metrics = pair.web.encode_metrics();
    assert!(metrics.contains("mesh_ejections_total{"), "{metrics}");
    Ok(())
}

/// All fail and all may be ejected: they are used as if none were, and it is said.
#[tokio::test]
async fn where_all_are_ejected_all_are_used_and_it_is_said() -> Result {
    let mut eject = EjectPolicy::default();
    (eject.consecutive, eject.percent) = (1, 100);
    let bad = StatusCode::SERVICE_UNAVAILABLE;
    let pair = ejecting(Strategy::RoundRobin, eject, &[bad, bad, bad]).await?;
    let gauge = |value: u8| {
        let line = format!(
            "mesh_balancer_panic{{destination_service=\"shelf.shop.svc.cluster.local\",port=\"80\"}} {value}"
        );
        assert!(
            pair.web.encode_metrics().contains(&line),
            "{}",
            pair.web.encode_metrics()
        );
        let services = pair.web.status().services;
        let shelf = services.iter().find(|s| s.service.starts_with("shelf"));
        assert_eq!(shelf.map(|s| s.panic), Some(value == 1));
    };
    gauge(0);
    for n in 0..9 {
        assert_eq!(ejected(&pair), n.min(3));
        let answer = soon(pair.web.client().send(get("http://shelf/"))).await?;
        assert_eq!(answer.status(), bad);
        assert!(
            !answer.headers().contains_key("x-mesh-reason"),
            "an endpoint has answered"
        );
    }
    gauge(1);
    Ok(())
}

/// The endpoint that a request of a caller at this address reaches.
async fn ask_from(from: &str, listener: SocketAddr) -> Result<String> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(format!("{from}:0").parse()?)?;
    let stream = socket.connect(listener).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = ::http::Request::get("/").header("host", "shelf");
    let answer = sender.send_request(request.body(Empty::<bytes::Bytes>::new())?);
    text(soon(answer).await??).await
}

#[tokio::test]
async fn a_caller_stays_where_its_address_leads() -> Result {
    let hash = ConsistentHash::by(HashKey::SourceIp);
    let pair = shelf(Strategy::ConsistentHash(hash), &[StatusCode::OK; 4]).await?;
    let to = ServiceName::new(&Namespace::new("shop")?, "shelf")?;
    let to = OutboundListener::to(to, 80, AppProtocol::Http1);
    let listener = serve_outbound(&pair.web, to).await?;
    let mut reached = std::collections::BTreeSet::new();
    for n in 1..13 {
        let from = format!("127.0.0.{n}");
        let first = ask_from(&from, listener).await?;
        for _ in 0..3 {
            assert_eq!(ask_from(&from, listener).await?, first, "{from}");
        }
        reached.insert(first);
    }
    assert!(reached.len() > 1, "{reached:?}");
    Ok(())
}

#[tokio::test]
async fn each_has_its_turn() -> Result {
    let pair = shelf(Strategy::RoundRobin, &[StatusCode::OK; 3]).await?;
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..12 {
        *counts.entry(ask(&pair, None).await?.0).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [4, 4, 4]);
    Ok(())
}

/// Its answers come at once, which is no speed: it is asked once, and not again while it counts for a
/// second.
#[tokio::test]
async fn an_endpoint_that_fails_fast_is_not_fast() -> Result {
    for status in [
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::TOO_MANY_REQUESTS,
    ] {
        let pair = shelf(
            Strategy::PeakEwma,
            &[StatusCode::OK, StatusCode::OK, status],
        )
        .await?;
        let mut bad = 0;
        for _ in 0..100 {
            let answer = soon(pair.web.client().send(get("http://shelf/"))).await?;
            bad += u32::from(answer.status() == status);
            text(answer).await?;
        }
        assert!(bad <= 1, "{status}: {bad} of 100");
    }
    Ok(())
}
