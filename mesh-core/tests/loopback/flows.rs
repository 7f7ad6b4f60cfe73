//! Opaque connections count while they flow; sinks see beginnings, and come and go.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::{Request, Response};
use inmesh_core::Body;
use inmesh_core::discover::pushed;
use inmesh_core::model::{AppProtocol, Namespace, ServiceName};
use inmesh_core::runtime::{Limits, OutboundListener};
use inmesh_core::telemetry::{Exchange, ExchangeSink, Protocol};
use inmesh_core::testing::World;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::support::{Builder, Pair, Result, echo, get, origin, serve_outbound, soon, tell, text};

/// A sink that notes beginnings and ends.
#[derive(Default)]
struct Noted(Mutex<Vec<(&'static str, Protocol, String, u64)>>);

impl Noted {
    fn note(&self, what: &'static str, x: &Exchange) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((what, x.protocol, x.uri.path().to_owned(), x.request_bytes));
    }

    fn take(&self) -> Vec<(&'static str, Protocol, String, u64)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ExchangeSink for Noted {
    fn begin(&self, exchange: &Exchange, _: SystemTime) {
        self.note("begin", exchange);
    }

    fn record(&self, exchange: &Exchange, _: SystemTime) {
        self.note("end", exchange);
    }
}

async fn through(pair: &Pair) -> Result<TcpStream> {
    let service = ServiceName::new(&Namespace::new("shop")?, "cart")?;
    let to = OutboundListener::to(service, 80, AppProtocol::Tcp);
    let listener = serve_outbound(&pair.web, to).await?;
    Ok(TcpStream::connect(listener).await?)
}

/// The sum of a counter over its series.
fn counted(metrics: &str, name: &str) -> u64 {
    let lines = metrics.lines().filter(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('{'))
    });
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[tokio::test]
async fn bytes_are_counted_while_the_connection_is_open() -> Result {
    let pair = Pair::new(AppProtocol::Tcp, echo().await?).await?;
    let mut stream = through(&pair).await?;
    for n in 1..=3 {
        stream.write_all(&[7; 1_000]).await?;
        soon(stream.read_exact(&mut [0; 1_000])).await??;
        for mesh in [&pair.web, &pair.cart] {
            let metrics = mesh.encode_metrics();
            let of = |name| counted(&metrics, name);
            assert_eq!(of("istio_tcp_connections_opened_total"), 1);
            assert_eq!(of("istio_tcp_connections_closed_total"), 0);
            assert_eq!(of("istio_tcp_received_bytes_total"), 1_000 * n);
            assert_eq!(of("istio_tcp_sent_bytes_total"), 1_000 * n);
        }
    }
    assert!(pair.out_seen.all().is_empty(), "it has not ended");
    Ok(())
}

#[tokio::test]
async fn a_connection_that_breaks_off_or_is_drained_keeps_its_count() -> Result {
    let mut limits = Limits::default();
    limits.drain_lead = Duration::ZERO;
    limits.drain_deadline = Duration::from_millis(10);
    let build = move |b: Builder| b.limits(limits.clone());
    for drained in [true, false] {
        let pair = Pair::with(AppProtocol::Tcp, echo().await?, build.clone(), |_| {}).await?;
        let mut stream = through(&pair).await?;
        stream.write_all(b"12345").await?;
        soon(stream.read_exact(&mut [0; 5])).await??;
        if drained {
            soon(pair.web.drain()).await?;
        } else {
            // A reset: what is unread is discarded at close.
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            drop(stream);
        }
        for seen in [&pair.out_seen, &pair.in_seen] {
            let record = seen.one(|_| true).await?;
            let bytes = (record.request_bytes, record.response_bytes);
            assert_eq!(bytes, (5, 5), "drained: {drained}");
        }
        let record = pair.out_seen.one(|_| true).await?;
        assert_eq!(record.reason, Some(inmesh_core::Reason::Reset));
        let metrics = pair.web.encode_metrics();
        assert_eq!(counted(&metrics, "istio_tcp_connections_closed_total"), 1);
        assert_eq!(counted(&metrics, "istio_tcp_received_bytes_total"), 5);
    }
    Ok(())
}

#[tokio::test]
async fn a_sink_may_come_and_go_while_the_mesh_runs() -> Result {
    let pair = Pair::new(AppProtocol::Http1, origin(tell).await?).await?;
    let noted = Arc::new(Noted::default());
    let ask = async |path: &str| -> Result {
        let answer = pair
            .web
            .client()
            .send(get(&format!("http://cart{path}")))
            .await;
        text(answer).await.map(drop)
    };
    ask("/before").await?;
    let guard = pair.web.watch_exchanges(Arc::clone(&noted) as _);
    ask("/during").await?;
    drop(guard);
    ask("/after").await?;
    let path = "/during".to_owned();
    let (begin, end) = (("begin", path.clone()), ("end", path));
    let seen = noted
        .take()
        .into_iter()
        .map(|(what, _, path, _)| (what, path));
    assert_eq!(seen.collect::<Vec<_>>(), [begin, end]);
    Ok(())
}

/// What only sinks read is not kept where there are none; what is counted is.
#[tokio::test]
async fn a_request_that_began_without_a_sink_is_counted_and_not_shown() -> Result {
    let world = World::new()?;
    let (entered, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let app = {
        let (entered, go) = (Arc::clone(&entered), Arc::clone(&go));
        tower::service_fn(move |request: Request<Body>| {
            let (entered, go) = (Arc::clone(&entered), Arc::clone(&go));
            async move {
                entered.notify_one();
                go.notified().await;
                Ok::<_, Infallible>(Response::new(request.into_body()))
            }
        })
    };
    let server = world.mesh("cart")?.start()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn({
        let server = server.clone();
        async move { server.serve(listener, app).await }
    });
    let (services, source) = pushed("services");
    let web = world.mesh("web")?.source(source).start()?;
    services
        .push(world.service("cart", AppProtocol::Http1, &[address])?)
        .await?;
    web.ready().await;
    let ask = |path: &str| {
        let request = Request::post(format!("http://cart{path}"));
        let request = request.body(Body::from("abc")).expect("a request");
        let client = web.client();
        tokio::spawn(async move { text(client.send(request).await).await })
    };

    let early = ask("/early");
    soon(entered.notified()).await?;
    let (caller, callee) = (Arc::new(Noted::default()), Arc::new(Noted::default()));
    let _guards = (
        web.watch_exchanges(Arc::clone(&caller) as _),
        server.watch_exchanges(Arc::clone(&callee) as _),
    );
    go.notify_one();
    assert_eq!(soon(early).await??.expect("an answer"), "abc");
    let late = ask("/late");
    soon(entered.notified()).await?;
    go.notify_one();
    assert_eq!(soon(late).await??.expect("an answer"), "abc");
    // The server's record ends once its caller has all of the answer.
    let both = async {
        while counted(&server.encode_metrics(), "istio_requests_total") < 2 {
            tokio::task::yield_now().await;
        }
    };
    soon(both).await?;
    for (mesh, noted) in [(&web, &caller), (&server, &callee)] {
        let all = mesh.encode_metrics();
        assert_eq!(counted(&all, "istio_requests_total"), 2);
        let seen = noted.take();
        let of = |what| (what, Protocol::Http1, "/late".to_owned(), 3);
        assert_eq!(seen, [of("begin"), of("end")]);
    }
    Ok(())
}

/// An opaque connection begins once it is open to both sides, and a request before it is sent.
#[tokio::test]
async fn sinks_see_a_beginning_before_the_end() -> Result {
    let pair = Pair::new(AppProtocol::Tcp, echo().await?).await?;
    let (caller, server) = (Arc::new(Noted::default()), Arc::new(Noted::default()));
    let _guards = (
        pair.web.watch_exchanges(Arc::clone(&caller) as _),
        pair.cart.watch_exchanges(Arc::clone(&server) as _),
    );
    let mut stream = through(&pair).await?;
    stream.write_all(b"abc").await?;
    soon(stream.read_exact(&mut [0; 3])).await??;
    for noted in [&caller, &server] {
        assert_eq!(noted.take(), [("begin", Protocol::Tcp, "/".to_owned(), 0)]);
    }
    stream.shutdown().await?;
    soon(stream.read_to_end(&mut Vec::new())).await??;
    pair.in_seen.one(|_| true).await?;
    pair.out_seen.one(|_| true).await?;
    for noted in [&caller, &server] {
        assert_eq!(noted.take(), [("end", Protocol::Tcp, "/".to_owned(), 3)]);
    }
    Ok(())
}
