//! Full mutual TLS handshakes with our verifier beside those with rustls' own for the web, both
//! sides in this process, in memory, without sockets.
//!
//! Criterion gives each on its own; then blocks of the two alternate, and each round gives one
//! ratio of CPU time, so that a neighbour that is busy for a while disturbs both alike.
//!
//! `--only ours|rustls` runs one of them for some seconds, for a profiler.

#[path = "support/clock.rs"]
mod clock;
#[path = "support/criterion_clock.rs"]
mod criterion_clock;
#[path = "support/pki.rs"]
mod pki;

use std::io::{Read, Write};
use std::sync::Arc;

use clock::cpu_time;
use criterion::{Criterion, Throughput};
use criterion_clock::CpuTime;
use inmesh_pki::svid::{PrivateKey, X509Svid};
use inmesh_pki::tls::{self, ClientAuth};
use inmesh_pki::{Crl, CrlSet, Crypto, IdentityState, identity};
use pki::{Ca, Fallible};
use rcgen::{CertificateRevocationListParams, KeyIdMethod, SerialNumber, date_time_ymd};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

const ROUNDS: usize = 200;
const WARM_UP: usize = 10;
const BLOCK: u32 = 25;

/// Both configurations of one member, and the name that its client asks for.
struct Side {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    name: ServerName<'static>,
}

impl Side {
    fn ours(
        signer: &Ca,
        rest: &[&Ca],
        root: &Ca,
        lists: &[&Ca],
        crypto: &Crypto,
    ) -> Fallible<Self> {
        let bundle = root.bundle()?;
        let mut state = IdentityState::new(svid(signer, rest, crypto)?, bundle.into());
        let mut crls = CrlSet::new();
        for ca in lists {
            crls.insert("td".parse()?, crl(ca)?)?;
        }
        state.replace_crls(crls);
        let (_, reader) = identity(state);
        Ok(Self {
            client: tls::client_config(reader.clone(), crypto, &[]),
            server: tls::server_config(reader, crypto, &[], ClientAuth::Required),
            name: tls::server_name(),
        })
    }

    /// The same provider and settings, another verifier.
    fn rustls(signer: &Ca, rest: &[&Ca], root: &Ca, crypto: &Crypto) -> Fallible<Self> {
        let provider = crypto.provider();
        let mut roots = RootCertStore::empty();
        roots.add(root.cert.clone())?;
        let roots = Arc::new(roots);
        let svid = svid(signer, rest, crypto)?;
        let key = || -> PrivateKeyDer<'static> {
            PrivatePkcs8KeyDer::from(svid.key().secret_pkcs8_der().to_vec()).into()
        };
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider));
        let mut server = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier.build()?)
            .with_single_cert(svid.chain().to_vec(), key())?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider));
        let mut client = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(&[&TLS13])?
            .with_webpki_verifier(verifier.build()?)
            .with_client_auth_cert(svid.chain().to_vec(), key())?;
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        Ok(Self {
            client: Arc::new(client),
            server: Arc::new(server),
            name: "localhost".try_into()?,
        })
    }

    /// One full handshake, until both sides are through.
    fn handshake(&self) -> Fallible<()> {
        let mut client = ClientConnection::new(Arc::clone(&self.client), self.name.clone())?;
        let mut server = ServerConnection::new(Arc::clone(&self.server))?;
        let mut wire = Vec::with_capacity(8 * 1024);
        while client.is_handshaking() || server.is_handshaking() {
            while client.wants_write() {
                client.write_tls(&mut wire)?;
            }
            let mut read = wire.as_slice();
            while !read.is_empty() {
                server.read_tls(&mut read)?;
                server.process_new_packets()?;
            }
            wire.clear();
            while server.wants_write() {
                server.write_tls(&mut wire)?;
            }
            let mut read = wire.as_slice();
            while !read.is_empty() {
                client.read_tls(&mut read)?;
                client.process_new_packets()?;
            }
            wire.clear();
        }
        // Neither side fails unseen: a byte crosses what was set up.
        client.writer().write_all(b"!")?;
        while client.wants_write() {
            client.write_tls(&mut wire)?;
        }
        server.read_tls(&mut wire.as_slice())?;
        server.process_new_packets()?;
        server.reader().read_exact(&mut [0])?;
        Ok(())
    }

    fn block(&self) -> Fallible<f64> {
        let before = cpu_time();
        for _ in 0..BLOCK {
            self.handshake()?;
        }
        Ok((cpu_time() - before).as_secs_f64() / f64::from(BLOCK))
    }
}

/// A leaf of `signer` and the rest of its chain.
fn svid(signer: &Ca, rest: &[&Ca], crypto: &Crypto) -> Fallible<X509Svid> {
    let (leaf, key) = signer.leaf()?;
    let mut chain = vec![leaf];
    chain.extend(rest.iter().map(|ca| ca.cert.clone()));
    let key = PrivateKey::from_pkcs8_der(key.serialize_der());
    Ok(X509Svid::from_der(chain, key, None, crypto)?)
}

/// A revocation list without entries.
fn crl(ca: &Ca) -> Fallible<Crl> {
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(4000, 1, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(Crl::from_der(params.signed_by(&ca.issuer)?.der())?)
}

/// Quartiles of a list that is not empty.
fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|n| values[(values.len() - 1) * n / 4])
}

/// Handshakes a second of ours beside rustls' own: above 1 ours is the faster one.
fn compare(name: &str, ours: &Side, rustls: &Side) -> Fallible<()> {
    let (mut ratios, mut costs) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + ROUNDS {
        let (own, theirs) = (ours.block()?, rustls.block()?);
        if round >= WARM_UP {
            ratios.push(theirs / own);
            costs.push(theirs * 1e6);
        }
    }
    let [_, cost, _] = quartiles(costs);
    let [low, median, high] = quartiles(ratios);
    println!(
        "{name:<32} rustls' own {cost:>6.0} us of CPU a handshake, ours {median:.3} of its rate ({low:.3} to {high:.3})"
    );
    Ok(())
}

fn main() -> Fallible<()> {
    let crypto = Crypto::aws_lc_rs();
    let root = Ca::root("root", &rcgen::PKCS_ECDSA_P256_SHA256)?;
    let issuing = Ca::under("issuing", &root)?;
    let plain = Side::ours(&root, &[], &root, &[], &crypto)?;
    let plain_rustls = Side::rustls(&root, &[], &root, &crypto)?;

    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == "--only") {
        let side = match args.get(at + 1).map(String::as_str) {
            Some("ours") => &plain,
            Some("rustls") => &plain_rustls,
            _ => return Err("--only ours|rustls".into()),
        };
        for _ in 0..200 {
            side.block()?;
        }
        return Ok(());
    }

    let mut criterion = Criterion::default()
        .with_measurement(CpuTime)
        .configure_from_args();
    let mut group = criterion.benchmark_group("handshake");
    group.throughput(Throughput::Elements(1));
    for (name, side) in [("ours", &plain), ("rustls", &plain_rustls)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| side.handshake().expect("both sides trust each other"));
        });
    }
    group.finish();
    criterion.final_summary();

    let classic = crypto.classical()?;
    let lists = [&root, &issuing];
    compare("leaf under a root", &plain, &plain_rustls)?;
    compare(
        "leaf under an issuing CA",
        &Side::ours(&issuing, &[&issuing], &root, &[], &crypto)?,
        &Side::rustls(&issuing, &[&issuing], &root, &crypto)?,
    )?;
    compare(
        "the same, with revocation lists",
        &Side::ours(&issuing, &[&issuing], &root, &lists, &crypto)?,
        &Side::rustls(&issuing, &[&issuing], &root, &crypto)?,
    )?;
    compare(
        "leaf under a root, classical",
        &Side::ours(&root, &[], &root, &[], &classic)?,
        &Side::rustls(&root, &[], &root, &classic)?,
    )
}
