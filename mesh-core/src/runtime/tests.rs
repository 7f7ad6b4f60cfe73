//! The answers of the mesh itself, the way down in virtual time, and the size of what a connection
//! costs.

use std::time::Duration;

use http::StatusCode;

use crate::drain::{Phase, drain};
use crate::error::{Blame, Error, Reason, Stage};

const REASONS: [Reason; 35] = [
    Reason::AnswerCoding,
    Reason::AnswerTooLarge,
    Reason::BackendMissing,
    Reason::BackendTimeout,
    Reason::BodyTimeout,
    Reason::CallerGone,
    Reason::ConnectFailed,
    Reason::ConnectTimeout,
    Reason::ConnectionOverflow,
    Reason::Crowded,
    Reason::Denied,
    Reason::Exhausted,
    Reason::FaultInjected,
    Reason::HeaderTimeout,
    Reason::HeaderTooLarge,
    Reason::InvalidRequest,
    Reason::NoBackend,
    Reason::NoEndpoint,
    Reason::NoRoute,
    Reason::Overflow,
    Reason::Overload,
    Reason::ProxyHeader,
    Reason::RateLimited,
    Reason::RequestTimeout,
    Reason::Reset,
    Reason::Stale,
    Reason::StreamIdle,
    Reason::TargetTooLong,
    Reason::TlsFailed,
    Reason::TooManyFields,
    Reason::UnknownHost,
    Reason::UnsupportedCoding,
    Reason::UnsupportedProtocol,
    Reason::UploadCut,
    Reason::WrongServer,
];

#[test]
fn each_reason_has_a_name_a_status_and_whom_to_blame() {
    let mut names: Vec<_> = REASONS.iter().map(|r| r.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), REASONS.len());
    for reason in REASONS {
        let status = reason.status();
        assert!(
            status.is_client_error() || status.is_server_error(),
            "{reason}"
        );
        assert_eq!(
            status.is_client_error() || status == StatusCode::NOT_IMPLEMENTED,
            matches!(reason.blame(), Blame::Caller) || reason == Reason::NoRoute
        );
        assert!((1..=16).contains(&reason.grpc_status()), "{reason}");
        assert!(
            !reason.flags().is_empty() && reason.flags() != "-",
            "{reason}"
        );
        assert!(
            reason
                .as_str()
                .bytes()
                .all(|b| b == b'-' || b.is_ascii_lowercase())
        );
        let error = Error::new(reason, "d\u{e9}tail %\n");
        let plain = error.response(false);
        assert_eq!(
            (plain.status(), &plain.headers()["x-mesh-reason"]),
            (status, &reason.as_str().parse().unwrap())
        );
        let grpc = error.response(true);
        assert_eq!(grpc.status(), 200);
        assert_eq!(grpc.headers()["content-type"], "application/grpc");
        assert_eq!(
            grpc.headers()["grpc-status"],
            reason.grpc_status().to_string()
        );
        let message = grpc.headers()["grpc-message"].to_str().unwrap();
        let hidden = reason == Reason::Denied;
        assert_eq!(
            message.ends_with("d%C3%A9tail %25%0A"),
            !hidden,
            "{message}"
        );
    }
    assert_eq!(Reason::Denied.stage(), Stage::Authorize);
    assert_eq!(crate::error::REASON.as_str(), crate::fields::REASON);
}

#[test]
fn a_grpc_status_is_read_as_it_is_meant() {
    let read = |status: &'static str, message: &'static str| {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static(status));
        trailers.insert("grpc-message", http::HeaderValue::from_static(message));
        crate::error::grpc_status(&trailers)
    };
    for (status, message, meant) in [
        ("1", "Timeout expired", 4),
        ("1", "Timeout%20expired", 4),
        ("1", "", 1),
        ("1", "the caller has gone", 1),
        (
            "11",
            "Error, decoded message length too large: found 5 bytes",
            8,
        ),
        ("11", "past the end", 11),
        ("14", "Timeout expired", 14),
        ("0", "", 0),
    ] {
        assert_eq!(read(status, message), Some(meant), "{status} {message}");
    }
    assert_eq!(read("x", ""), None);
}

/// What may have reached a server is not taken for unsent.
#[test]
fn an_error_says_whether_a_server_may_have_seen_the_request() {
    for reason in REASONS {
        let seen = matches!(
            reason,
            Reason::AnswerCoding
                | Reason::AnswerTooLarge
                | Reason::BackendTimeout
                | Reason::BodyTimeout
                | Reason::CallerGone
                | Reason::RequestTimeout
                | Reason::Reset
                | Reason::Stale
                | Reason::StreamIdle
                | Reason::UploadCut
        );
        assert_eq!(Error::new(reason, "").is_never_sent(), !seen, "{reason}");
        assert!(Error::new(reason, "").never_sent().is_never_sent());
    }
}

#[tokio::test]
async fn the_phase_goes_forward_alone() {
    use Phase::{Closed, Closing, NotReady, Serving};
    let (trigger, mut watch) = drain();
    let mut phases = vec![watch.phase()];
    for phase in [NotReady, Serving, Closing, NotReady, Closed] {
        trigger.advance(phase);
        phases.push(watch.phase());
    }
    assert_eq!(
        phases,
        [Serving, NotReady, NotReady, Closing, Closing, Closed]
    );
    watch.closing().await;
    let (trigger, mut watch) = drain();
    drop(trigger);
    watch.closed().await;
    assert_eq!(watch.phase(), Closed);
}

#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
mod whole {
    use std::sync::Arc;

    use inmesh_pki::issue::csr;
    use inmesh_pki::store::IdentityState;
    use tokio::time::Instant;

    use super::*;
    use crate::accept::ConnState;
    use crate::authorize::DefaultAction;
    use crate::body::Body;
    use crate::connect::Io;
    use crate::discover::pushed;
    use crate::model::Workload;
    use crate::runtime::outbound::{Caller, To};
    use crate::runtime::serve::Connection;
    use crate::runtime::{Limits, Mesh};
    use crate::testing::World;

    type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

    fn mesh() -> Result<Mesh> {
        Ok(World::new()?.mesh("web")?.start()?)
    }

    #[tokio::test(start_paused = true)]
    async fn the_way_down_takes_the_lead_and_no_longer_where_nothing_runs() -> Result {
        let mesh = mesh()?;
        let limits = Limits::default();
        let start = Instant::now();
        mesh.drain().await;
        assert_eq!(start.elapsed(), limits.drain_lead);
        assert_eq!(mesh.watch_drain().phase(), Phase::Closed);
        Ok(())
    }

    /// Whatever comes last wakes the waiter at once.
    #[tokio::test(start_paused = true)]
    async fn it_is_ready_as_soon_as_nothing_is_missing() -> Result {
        for identity_first in [false, true] {
            let world = World::new()?;
            let (id, crypto) = (world.id("web")?, world.crypto());
            let (key, csr) = csr::generate(&id, crypto)?;
            let svid = world.ca().sign(&id, &csr)?.into_svid(key, crypto)?;
            let (writer, reader) = inmesh_pki::store::identity(IdentityState::default());
            let (pusher, source) = pushed("test");
            let mesh = Mesh::builder()
                .crypto(world.crypto().clone())
                .identity(reader)
                .workload(Workload::new("shop", "web", "web")?, DefaultAction::Allow)
                .source(source)
                .start()?;
            let waiting = mesh.clone();
            let waiting = tokio::spawn(async move { waiting.ready().await });
            let start = Instant::now();
            let bundle = world.ca().bundle().clone();
            let identify = || writer.set(svid, bundle.into());
            if identity_first {
                identify();
                tokio::task::yield_now().await;
                assert!(!waiting.is_finished());
                pusher.push(Vec::new()).await?;
            } else {
                let syncing = mesh.clone();
                let syncing = tokio::spawn(async move { syncing.synced().await });
                tokio::task::yield_now().await;
                assert!(!syncing.is_finished());
                pusher.push(Vec::new()).await?;
                syncing.await?;
                tokio::task::yield_now().await;
                assert!(!waiting.is_finished());
                identify();
            }
            waiting.await?;
            assert_eq!(start.elapsed(), Duration::ZERO);
            mesh.ready().await;
        }
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn what_runs_on_has_until_the_deadline() -> Result {
        let mesh = mesh()?;
        let limits = Arc::clone(mesh.limits());
        mesh.inner
            .shared
            .tracker
            .spawn(std::future::pending::<()>());
        let start = Instant::now();
        mesh.drain().await;
        // What is cut has a moment to break off; this does not even notice.
        let cut = Duration::from_millis(500);
        assert_eq!(
            start.elapsed(),
            limits.drain_lead + limits.drain_deadline + cut
        );
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_call_ends_it_at_once() -> Result {
        let mesh = mesh()?;
        let (first, second) = (mesh.clone(), mesh.clone());
        let start = Instant::now();
        tokio::join!(first.drain(), async {
            mesh.watch_drain().reached(Phase::NotReady).await;
            second.drain().await;
        });
        assert_eq!(start.elapsed(), Duration::ZERO);
        Ok(())
    }

    /// A connection that waits costs its future. What is rare is boxed, so that it is not paid for
    /// by all.
    #[tokio::test]
    async fn the_futures_of_a_connection_and_a_request_are_bounded() -> Result {
        let mesh = mesh()?;
        let (outbound, inbound) = (
            Arc::clone(&mesh.stack.outbound),
            Arc::clone(&mesh.stack.inbound),
        );
        let size = |what: &str, size: usize, bound: usize| {
            assert!(size <= bound, "{what}: {size} bytes, at most {bound}");
        };
        let (limits, drain) = (Arc::new(Limits::default()), mesh.watch_drain());
        let answer = |_| async { http::Response::new(Body::empty()) };
        let (a, b) = (tcp().await?, tcp().await?);
        let budget = crate::budget::Budget::new(limits.buffered);
        let connection = || Connection::new(&limits, &budget, &drain);
        let one = connection().serve_h1(Io::Plain(a), answer);
        size("HTTP/1.1", size_of_val(&one), BOUND_H1);
        let two = connection().serve_h2(Io::Plain(b), answer);
        size("HTTP/2", size_of_val(&two), BOUND_H2);
        let state = Arc::<ConnState>::default();
        let own = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let ends = crate::accept::proxy::Ends::new(own, own);
        let origin = Arc::new(crate::connect::Origin::new(ends, own));
        let caller = Some(Caller {
            origin: &origin,
            ledger: &outbound.ledger_of(&state),
        });
        let mut request = http::Request::new(Body::empty());
        let request = outbound.handle(&mut request, &To::Authority, caller.as_ref());
        size("outbound request", size_of_val(&request), BOUND_REQUEST);
        let stack = Arc::new(crate::runtime::inbound::InboundStack {
            inbound,
            app: crate::runtime::app::InProcess(Nothing),
            protocol: crate::model::AppProtocol::Http1,
            leads: String::new(),
            strict: true,
            probes: Arc::new([]),
            speaks_first: Arc::default(),
            proxies: None,
            own: None,
        });
        let accepted = stack.connection(tcp().await?, ([127, 0, 0, 1], 1).into(), None);
        size("accepted", size_of_val(&accepted), BOUND_ACCEPTED);
        Ok(())
    }

    async fn tcp() -> Result<crate::accept::Socket> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let stream = tokio::net::TcpStream::connect(listener.local_addr()?).await?;
        Ok(stream.into())
    }

    #[derive(Clone)]
    struct Nothing;

    impl tower_service::Service<http::Request<Body>> for Nothing {
        type Response = http::Response<Body>;
        type Error = std::convert::Infallible;
        type Future = std::future::Ready<std::result::Result<Self::Response, Self::Error>>;

        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::result::Result<(), Self::Error>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Request<Body>) -> Self::Future {
            std::future::ready(Ok(http::Response::new(Body::empty())))
        }
    }

    // Half as much again as a debug build of today's compiler has.
    const BOUND_H1: usize = 2_048;
    const BOUND_H2: usize = 3_584;
    const BOUND_REQUEST: usize = 6_144;
    const BOUND_ACCEPTED: usize = 8_192;
}
