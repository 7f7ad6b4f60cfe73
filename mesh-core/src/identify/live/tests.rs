use std::time::UNIX_EPOCH;

use inmesh_pki::bundle::{BundleSet, TrustBundle};
use inmesh_pki::clock::TokioClock;
use inmesh_pki::issue::ca::LocalCa;
use inmesh_pki::issue::csr;
use inmesh_pki::store::{IdentityWriter, identity};
use inmesh_pki::{SpiffeId, X509Svid};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::drain::{DrainTrigger, drain};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// A trust domain with two roots, a runtime's live connections, and a clock that goes with tokio's.
struct Place {
    ca: LocalCa,
    other: LocalCa,
    live: Arc<Live>,
    writer: IdentityWriter,
    crypto: Crypto,
    _drain: DrainTrigger,
}

impl Place {
    fn new() -> Result<Self> {
        let crypto = Crypto::aws_lc_rs();
        let clock = TokioClock::new(UNIX_EPOCH + Duration::from_secs(1_800_000_000)).shared();
        let make = || -> Result<LocalCa> {
            let domain = "td.test".parse()?;
            let ca = LocalCa::create(domain, 10_000 * HOUR, &crypto, Arc::clone(&clock))?;
            Ok(ca.with_leaf_lifetime(10 * MINUTE))
        };
        let (ca, other) = (make()?, make()?);
        let bundles = BundleSet::from(both(&ca, &other)?);
        let (writer, reader) = identity(IdentityState::from_bundles(bundles));
        let live = Live::new(reader, crypto.clone(), Arc::clone(&clock), HOUR);
        let live = Arc::new(live);
        let (trigger, watch) = drain();
        tokio::spawn(Arc::clone(&live).run(watch));
        Ok(Self {
            ca,
            other,
            live,
            writer,
            crypto,
            _drain: trigger,
        })
    }

    fn peer(&self) -> Result<X509Svid> {
        let id: SpiffeId = "spiffe://td.test/ns/shop/sa/web".parse()?;
        let (key, csr) = csr::generate(&id, &self.crypto)?;
        Ok(self.ca.sign(&id, &csr)?.into_svid(key, &self.crypto)?)
    }

    /// A connection of a new peer, and the other end of it.
    fn connection(&self, opaque: bool) -> Result<(Guarded<DuplexStream>, DuplexStream)> {
        let svid = self.peer()?;
        let (near, far) = duplex(64);
        let peered = Peered {
            local: local(),
            chain: svid.chain().to_vec(),
            usage: Usage::Client,
            not_after: svid.not_after(),
            opaque,
        };
        let before = self.live.identity.load();
        Ok((self.live.guard(near, peered, &before)?, far))
    }

    /// Lets the sweep have its turn.
    async fn turn(&self) {
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
    }
}

/// The workload of every connection.
fn local() -> Arc<Local> {
    let workload = crate::model::Workload::new("shop", "web", "web").expect("a name");
    Arc::new(Local::new(workload, crate::authorize::DefaultAction::Deny))
}

fn both(one: &LocalCa, two: &LocalCa) -> Result<TrustBundle> {
    let roots = [one.root().clone(), two.root().clone()];
    Ok(TrustBundle::new(one.trust_domain().clone(), roots)?)
}

/// When the stream ends by itself, and with which words.
async fn end(mut stream: Guarded<DuplexStream>, limit: Duration) -> Option<(Duration, String)> {
    let start = Instant::now();
    let mut byte = [0];
    match tokio::time::timeout(limit, stream.read(&mut byte)).await {
        Err(_) => None,
        Ok(Ok(_)) => panic!("no byte was sent"),
        Ok(Err(e)) => Some((start.elapsed(), e.to_string())),
    }
}

#[tokio::test(start_paused = true)]
async fn http_ends_in_a_moment_after_the_leaf_and_opaque_bytes_at_their_age() -> Result {
    let place = Place::new()?;
    let (http, _far) = place.connection(false)?;
    let (after, why) = end(http, 2 * HOUR).await.ok_or("it runs on")?;
    assert_eq!(
        (after.as_secs(), &*why),
        (605, "the peer's certificate has expired")
    );

    let (opaque, _far) = place.connection(true)?;
    let (after, _) = end(opaque, 2 * HOUR).await.ok_or("it runs on")?;
    assert_eq!(after.as_secs(), 3_600);

    let (switched, _far) = place.connection(false)?;
    switched.entry().becomes_opaque();
    let (after, _) = end(switched, 2 * HOUR).await.ok_or("it runs on")?;
    assert_eq!(after.as_secs(), 3_600);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_removed_root_ends_what_chains_to_it_and_nothing_else() -> Result {
    let place = Place::new()?;
    let (one, _far) = place.connection(false)?;
    let (two, _far_two) = place.connection(true)?;
    let bundle = |ca: &LocalCa| ca.bundle().clone();
    // The unused root goes; then the other one.
    place.writer.set_bundle(bundle(&place.ca));
    place.turn().await;
    assert!(one.entry().check().is_ok() && two.entry().check().is_ok());
    place.writer.set_bundle(bundle(&place.other));
    for stream in [one, two] {
        let (after, why) = end(stream, MINUTE).await.ok_or("it runs on")?;
        assert_eq!(after, Duration::ZERO);
        assert!(why.contains("spiffe://td.test/ns/shop/sa/web"), "{why}");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_root_retired_after_the_leaf_ended_lets_opaque_bytes_run_on() -> Result {
    let place = Place::new()?;
    let (retired, _far) = place.connection(true)?;
    tokio::time::sleep(11 * MINUTE).await;
    place.writer.set_bundle(place.other.bundle().clone());
    place.turn().await;
    assert!(retired.entry().check().is_ok());

    // The key turns out to be compromised.
    let old = place.ca.bundle().roots()[0].key_id().to_owned();
    place
        .writer
        .set_bundle(place.other.bundle().clone().distrusting([old]));
    let (after, _) = end(retired, MINUTE).await.ok_or("it runs on")?;
    assert_eq!(after, Duration::ZERO);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_distrusted_domain_ends_at_once() -> Result {
    let place = Place::new()?;
    let (stream, _far) = place.connection(true)?;
    place
        .writer
        .set_bundle(TrustBundle::distrusted(place.ca.trust_domain().clone()));
    let (after, _) = end(stream, MINUTE).await.ok_or("it runs on")?;
    assert_eq!(after, Duration::ZERO);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_revoked_id_ends_at_once() -> Result {
    let place = Place::new()?;
    let (stream, _far) = place.connection(true)?;
    let mut revoked = inmesh_pki::RevokedIds::default();
    let now = place.live.clock.now();
    revoked.insert("spiffe://td.test/ns/shop/sa/web".parse()?, now);
    place
        .writer
        .update(|state| state.replace_revoked_ids(revoked));
    let (after, _) = end(stream, MINUTE).await.ok_or("it runs on")?;
    assert_eq!(after, Duration::ZERO);
    Ok(())
}

/// The handshake was judged by a state that has changed before the connection was known.
#[tokio::test(start_paused = true)]
async fn a_change_during_the_handshake_is_not_missed() -> Result {
    let place = Place::new()?;
    let svid = place.peer()?;
    let before = place.live.identity.load();
    place.writer.set_bundle(place.other.bundle().clone());
    let peered = Peered {
        local: local(),
        chain: svid.chain().to_vec(),
        usage: Usage::Client,
        not_after: svid.not_after(),
        opaque: false,
    };
    let refused = place.live.guard(duplex(1).0, peered, &before);
    assert!(matches!(refused, Err(Rejected::UnknownIssuer { .. })));
    assert!(place.live.known().connections.is_empty());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn bytes_pass_until_then_and_writes_fail_after() -> Result {
    let place = Place::new()?;
    let (mut near, mut far) = place.connection(false)?;
    near.write_all(b"ping").await?;
    let mut read = [0; 4];
    far.read_exact(&mut read).await?;
    assert_eq!(&read, b"ping");
    near.entry().cut("over".to_owned());
    let refused = near.write_all(b"more").await.map_err(|e| e.to_string());
    assert_eq!(refused, Err("over".to_owned()));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_gone_is_forgotten() -> Result {
    let place = Place::new()?;
    let (stream, _far) = place.connection(false)?;
    assert_eq!(place.live.connections().len(), 1);
    drop(stream);
    assert!(place.live.connections().is_empty());
    Ok(())
}
