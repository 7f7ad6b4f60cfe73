//! A CA that answers late, over real sockets and in virtual time.
//!
//! Time stands still while the sockets work, however long that takes, and moves only where the test
//! says so: a blocking task keeps tokio from moving it. So "0 ms" is exact, and a handshake that
//! waited for the CA would never end. The blocking task gives up after a minute of real time; from
//! then on time runs, and every wait ends in an error.

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use rustls_pki_types::CertificateDer;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::yield_now;
use tokio::time::advance;

use super::*;
use crate::clock::TokioClock;
use crate::rotate::RotationStatus;
use crate::status::StatusReader;
use crate::tls::ClientAuth;

const SHOP: &str = "spiffe://td/ns/shop/sa/shop";

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Stops virtual time until it is dropped.
fn stop_time() -> Sender<()> {
    let (hold, held) = channel();
    tokio::time::pause();
    tokio::task::spawn_blocking(move || held.recv_timeout(Duration::from_secs(60)));
    hold
}

/// Waits for what sockets bring, while time stands still.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let end = timeout(secs(24 * 3600), future).await;
    end.unwrap_or_else(|_| panic!("not within a minute: {what}"))
}

/// Lets everything run that can run without input from a socket.
async fn settle() {
    for _ in 0..200 {
        yield_now().await;
    }
}

/// A CA whose answers leave it `delay` after they are made; each one that is made is counted.
struct Slow {
    ca: Arc<Ca<FileStore>>,
    clock: TokioClock,
    address: SocketAddr,
    bundle: TrustBundle,
    delay: Arc<Mutex<Duration>>,
    made: UnboundedReceiver<()>,
    counts: StatusReader<CaCounts>,
}

impl Slow {
    async fn new() -> Self {
        let clock = TokioClock::new(noon());
        let lifetimes = Lifetimes {
            leaf: secs(600),
            ..Lifetimes::default()
        };
        let (store, td) = (MemoryDisk::default().store(), domain("td"));
        let ca = Ca::open(store, &td, None, lifetimes, &crypto(), clock.shared()).await;
        let ca = Arc::new(ca.unwrap());
        let config = ServerConfigOf::new(Rules::new(td, id(OWN)));
        let server = CaServer::new(Arc::clone(&ca), config).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let delay = Arc::new(Mutex::new(Duration::ZERO));
        let (say, made) = unbounded_channel();
        let counts = server.counts();
        tokio::spawn(serve(server, listener, Arc::clone(&delay), say));
        let bundle = ca.published().borrow().bundle.clone();
        Self {
            ca,
            clock,
            address,
            bundle,
            delay,
            made,
            counts,
        }
    }

    fn answer_after(&self, delay: Duration) {
        *self.delay.lock().unwrap() = delay;
    }

    /// Waits for the next answer to be made.
    async fn made(&mut self) {
        let made = soon("the CA was asked", self.made.recv()).await;
        made.unwrap();
    }

    /// A client that has joined.
    async fn join(&mut self, own: &str) -> (CaClient, Arc<IdentityWriter>) {
        let token = self.ca.open_token(&id(own), noon() + secs(60)).await;
        let (writer, reader) = identity(IdentityState::default());
        let config = CaClientConfig {
            id: id(own),
            address: self.address.to_string(),
            ca: id(OWN),
            bootstrap: Bootstrap::Bundle(self.bundle.clone()),
            token: Token::Text(token.unwrap()),
        };
        let client = CaClient::new(config, reader, &crypto(), self.clock.shared()).unwrap();
        let (own, crypto) = (id(own), crypto());
        let joined = obtain(&client, &own, &crypto, &self.clock);
        let (svid, bundle) = soon("a leaf", joined).await.unwrap();
        writer.set(svid, bundle.into());
        self.made().await;
        (client, Arc::new(writer))
    }
}

/// As the real server, but for the delay behind it.
async fn serve(
    server: CaServer<FileStore>,
    listener: TcpListener,
    delay: Arc<Mutex<Duration>>,
    made: UnboundedSender<()>,
) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let accepting = TlsAcceptor::from(Arc::clone(&server.tls)).accept(stream);
        let (shared, delay) = (Arc::clone(&server.shared), Arc::clone(&delay));
        let made = made.clone();
        tokio::spawn(async move {
            let stream = accepting.await.unwrap();
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let place = Places::new(8).take([127, 0, 0, 1].into()).unwrap();
            let caller = Arc::new(CallerConnection::new(chain, place));
            let service = service_fn(move |request| {
                let (shared, caller) = (Arc::clone(&shared), Arc::clone(&caller));
                let (delay, made) = (Arc::clone(&delay), made.clone());
                async move {
                    let answer = front::answer(shared, caller, request).await;
                    let delay = *delay.lock().unwrap();
                    let _ended = made.send(());
                    // The shortest sleep ends with the next millisecond, which may never come.
                    if !delay.is_zero() {
                        sleep(delay).await;
                    }
                    Ok::<_, std::convert::Infallible>(answer)
                }
            });
            let http = http2::Builder::new(TokioExecutor::new());
            // A client that waits no longer closes it.
            let _ended = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// A peer's handshake with the member over memory: how long it took, and what the member presented.
async fn handshake(
    member: &IdentityWriter,
    peer: &IdentityWriter,
    clock: &TokioClock,
) -> (Duration, CertificateDer<'static>) {
    let begin = Instant::now();
    let (crypto, auth) = (crypto(), ClientAuth::Required);
    let server = tls::server_config_at(member.reader(), &crypto, &[b"h2"], auth, clock.shared());
    let client = tls::client_config_at(peer.reader(), &crypto, &[b"h2"], clock.shared());
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (connected, accepted) = soon("a handshake", async {
        tokio::join!(
            TlsConnector::from(client).connect(tls::server_name(), near),
            TlsAcceptor::from(server).accept(far),
        )
    })
    .await;
    accepted.unwrap();
    let connected = connected.unwrap();
    let presented = connected.get_ref().1.peer_certificates().unwrap();
    (begin.elapsed(), presented[0].clone().into_owned())
}

/// Answers that come after 30 s are dropped with their connection, for no caller has waited since
/// 20 s; one that comes after 15 s is used. The member tries again after 20 s each time, less soon
/// each time, and its handshakes continue with the SVID that it has, without a millisecond of waiting.
#[tokio::test]
async fn a_ca_that_answers_late_holds_nobody_up() {
    let _hold = stop_time();
    let mut slow = Slow::new().await;
    let (_, peer) = slow.join(SHOP).await;
    let (client, writer) = slow.join(CART).await;
    let in_use = || writer.load().svid(&id(CART)).unwrap().chain()[0].clone();
    let first = in_use();
    let clock = slow.clock.clone();
    let goes_on = async |with: &CertificateDer<'static>| {
        let (took, presented) = handshake(&writer, &peer, &clock).await;
        assert_eq!((took, &presented), (Duration::ZERO, with));
    };
    let rotation = Rotation::new(id(CART), client, &crypto(), clock.shared(), || 0.5);
    let mut status = rotation.status();
    let run = tokio::spawn(rotation.run(Arc::clone(&writer), std::future::pending()));
    settle().await;

    // Half of its life is gone, and the CA is slow.
    slow.answer_after(secs(30));
    advance(secs(300)).await;
    slow.made().await;
    goes_on(&first).await;
    advance(ms(19_900)).await;
    settle().await;
    assert_eq!(status.load().failures, 0, "it still waits");
    goes_on(&first).await;
    advance(ms(200)).await;
    let failed = ended(&mut status, 1).await;
    assert_eq!((failed.failures, failed.rotations), (1, 0));
    let said = failed.last_error.unwrap().to_string();
    assert!(said.contains("no answer in time"), "{said}");
    goes_on(&first).await;

    // It pauses for three quarters of a second, the middle of what is drawn from.
    advance(ms(700)).await;
    settle().await;
    assert!(slow.made.try_recv().is_err(), "too early");
    advance(ms(100)).await;
    slow.made().await;
    // Here the first answer would come, to no caller.
    advance(ms(9_500)).await;
    settle().await;
    assert_eq!((in_use(), status.load().rotations), (first.clone(), 0));
    goes_on(&first).await;
    advance(ms(10_600)).await;
    let failed = ended(&mut status, 2).await;
    assert_eq!((failed.failures, failed.rotations), (2, 0));

    // Twice the pause, then an answer that is late, and in time.
    slow.answer_after(secs(15));
    advance(ms(1_400)).await;
    settle().await;
    assert!(slow.made.try_recv().is_err(), "too early");
    advance(ms(200)).await;
    slow.made().await;
    advance(ms(14_900)).await;
    settle().await;
    goes_on(&first).await;
    advance(ms(200)).await;
    let renewed = ended(&mut status, 3).await;
    assert_eq!((renewed.failures, renewed.rotations), (2, 1));
    assert_eq!(renewed.last_error, None);
    let second = in_use();
    assert_ne!(second, first);
    goes_on(&second).await;
    // Five leaves were signed, two of which no client has; the CA counts them as alive.
    assert_eq!(slow.counts.load().issued, 5);
    assert_eq!(slow.ca.status().await.members, 2);
    run.abort();
}

/// Waits until so many attempts have ended.
async fn ended(status: &mut StatusReader<RotationStatus>, attempts: u64) -> RotationStatus {
    loop {
        let now = status.load();
        if now.failures + now.rotations >= attempts {
            return now;
        }
        soon("an attempt has ended", status.changed())
            .await
            .unwrap();
    }
}
