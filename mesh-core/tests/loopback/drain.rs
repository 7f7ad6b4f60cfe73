//! The way down, and what is left after it.

use std::time::Duration;

use ::http::{StatusCode, header};
use hyper::body::Incoming;
use inmesh_core::drain::Phase;
use inmesh_core::model::AppProtocol;
use inmesh_core::runtime::Limits;
use inmesh_core::{Body, Mesh};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::support::{Builder, Pair, Result, for_cart, get, h1, h2, origin, soon, tell, text};

fn quick(lead: u64, deadline: u64) -> impl Fn(Builder) -> Builder {
    move |builder| {
        let mut limits = Limits::default();
        limits.drain_lead = Duration::from_millis(lead);
        limits.drain_deadline = Duration::from_millis(deadline);
        builder.limits(limits)
    }
}

async fn reached(mesh: &Mesh, phase: Phase) -> Result {
    soon(mesh.watch_drain().reached(phase)).await
}

/// A server whose answer to `/wait` waits for word.
async fn waiting() -> Result<(
    std::net::SocketAddr,
    mpsc::Receiver<tokio::sync::oneshot::Sender<()>>,
)> {
    let (sender, receiver) = mpsc::channel(8);
    let app = origin(move |request: ::http::Request<Incoming>| {
        let sender = sender.clone();
        async move {
            if request.uri().path() == "/wait" {
                let (go, gone) = tokio::sync::oneshot::channel();
                let _asked = sender.send(go).await;
                let _told = gone.await;
            }
            tell(request).await
        }
    })
    .await?;
    Ok((app, receiver))
}

#[tokio::test]
async fn running_requests_finish_and_connections_are_told_to_go() -> Result {
    let (app, mut asked) = waiting().await?;
    let pair = Pair::with(AppProtocol::Http1, app, quick(0, 20_000), |_| {}).await?;
    let mut idle = TcpStream::connect(pair.outbound).await?;
    idle.write_all(b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"GET / HTTP/1.1 0") {
        soon(idle.read_buf(&mut answer)).await??;
    }
    let mut one = h1(pair.outbound).await?;
    let mut two = h2(pair.outbound).await?;
    let first = tokio::spawn(async move { one.send_request(for_cart("/wait")).await });
    let go_first = soon(asked.recv()).await?.ok_or("gone")?;
    let mut again = two.clone();
    let second = tokio::spawn(async move { two.send_request(get("http://cart/wait")).await });
    let go_second = soon(asked.recv()).await?.ok_or("gone")?;

    let web = pair.web.clone();
    let draining = tokio::spawn(async move { web.drain().await });
    reached(&pair.web, Phase::Closing).await?;
    assert!(!pair.web.status().ready);
    // What rests is closed without a word.
    let mut rest = Vec::new();
    soon(idle.read_to_end(&mut rest)).await??;
    assert_eq!(rest, b"");
    // The listener is closed.
    let refused = async {
        while TcpStream::connect(pair.outbound).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon(refused).await?;
    // GOAWAY: soon no new stream on the HTTP/2 connection, and none is lost before.
    let told = async {
        while let Ok(answer) = again.send_request(get("http://cart/")).await {
            assert_eq!(answer.status(), StatusCode::OK);
        }
    };
    soon(told).await?;
    assert!(!draining.is_finished());
    let _ = (go_first.send(()), go_second.send(()));
    let answer = soon(first).await???;
    assert_eq!(answer.headers()[header::CONNECTION], "close");
    assert_eq!(text(answer).await?, "GET /wait HTTP/1.1 0");
    assert_eq!(text(soon(second).await???).await?, "GET /wait HTTP/1.1 0");
    soon(draining).await??;
    assert_eq!(pair.web.watch_drain().phase(), Phase::Closed);
    assert!(pair.out_seen.all().iter().all(|x| x.reason.is_none()));
    Ok(())
}

#[tokio::test]
async fn requests_are_served_as_usual_until_the_lead_is_over() -> Result {
    let pair = Pair::with(
        AppProtocol::Http1,
        origin(tell).await?,
        quick(20_000, 1),
        |_| {},
    )
    .await?;
    let cart = pair.cart.clone();
    let draining = tokio::spawn(async move { cart.drain().await });
    reached(&pair.cart, Phase::NotReady).await?;
    assert!(!pair.cart.status().ready);
    for _ in 0..3 {
        let answer = pair.web.client().send(get("http://cart/")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers().get(header::CONNECTION), None);
        text(answer).await?;
    }
    // A second call ends it at once.
    soon(pair.cart.drain()).await?;
    soon(draining).await??;
    assert_eq!(pair.cart.watch_drain().phase(), Phase::Closed);
    Ok(())
}

#[tokio::test]
async fn the_deadline_cuts_what_is_left() -> Result {
    let (app, mut asked) = waiting().await?;
    let pair = Pair::with(AppProtocol::Http1, app, quick(0, 10), |_| {}).await?;
    let mut one = h1(pair.outbound).await?;
    let cut = tokio::spawn(async move { one.send_request(for_cart("/wait")).await });
    let _never = soon(asked.recv()).await?.ok_or("gone")?;
    soon(pair.web.drain()).await?;
    assert!(soon(cut).await??.is_err());
    pair.out_seen.one(|x| x.reason.is_some()).await?;
    Ok(())
}

/// A caller that sends on and on loses nothing while an agent in front of it goes down.
#[tokio::test]
async fn nothing_is_lost_while_one_of_two_goes_down() -> Result {
    let pair = Pair::with(
        AppProtocol::Http1,
        origin(tell).await?,
        quick(0, 20_000),
        |_| {},
    )
    .await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let second = listener.local_addr()?;
    let twin = pair.world.mesh("cart")?.start()?;
    let app = tower::service_fn(async |_: ::http::Request<Body>| {
        Ok::<_, std::io::Error>(::http::Response::new(Body::from("twin")))
    });
    let serving = twin.clone();
    tokio::spawn(async move { serving.serve(listener, app).await });
    let ops = pair
        .world
        .service("cart", AppProtocol::Http1, &[pair.inbound, second])?;
    let mut snapshot = pair.web.snapshot().clone();
    pair.pusher.push(ops).await?;
    while snapshot.load().generation() < 2 {
        soon(snapshot.changed()).await?;
    }
    let mut load = tokio::task::JoinSet::new();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    for http2 in [false, true, false, true] {
        let (client, stopped) = (pair.web.client(), stopped.clone());
        load.spawn(async move {
            while !*stopped.borrow() {
                let mut request = get("http://cart/");
                if http2 {
                    *request.version_mut() = ::http::Version::HTTP_2;
                }
                let answer = client.send(request).await;
                assert_eq!(answer.status(), StatusCode::OK, "{:?}", answer.headers());
                text(answer).await.unwrap();
            }
        });
    }
    pair.out_seen.one(|_| true).await?;
    soon(pair.cart.drain()).await?;
    stop.send(true)?;
    while let Some(done) = soon(load.join_next()).await? {
        done?;
    }
    assert!(pair.out_seen.all().iter().all(|x| x.reason.is_none()));
    Ok(())
}

/// Dropping the last handle ends the runtime.
#[tokio::test]
async fn a_mesh_that_nobody_holds_ends() -> Result {
    let world = inmesh_core::testing::World::new()?;
    let mesh = world.mesh("web")?.start()?;
    let mut drain = mesh.watch_drain();
    drop(mesh);
    soon(drain.closed()).await?;
    assert_eq!(drain.phase(), Phase::Closed);
    Ok(())
}
