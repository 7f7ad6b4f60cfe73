//! An identity reader in, rustls configurations out, for both sides of mutual TLS.
//!
//! TLS 1.3 only, no resumption, no early data: a resumed session would skip the verifier, and with
//! it every bundle that was swapped since. The state is read at each handshake, so a configuration
//! is made once and lives as long as its port. Names are not compared here: the client learns the
//! server's ID from [`peer`], and its caller compares that with the expected one, before it writes.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, CommonState, RootCertStore, ServerConfig, version};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::clock::{Clock, SystemClock};
use crate::crypto::Crypto;
use crate::pem::PemError;
use crate::store::IdentityReader;
use crate::svid::{self, Peer};

mod alternative;
mod handshake;
mod resolver;
mod verifier;
mod words;

#[cfg(test)]
mod tests;

pub use alternative::AltName;
pub use handshake::{HandshakeError, accept, handshake, rejection};
pub use resolver::Present;
pub use verifier::alert_of;
pub use words::words_of;

/// Whether a server asks its client for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientAuth {
    /// A client without a certificate is let in, and [`peer`] is `None`; one with a certificate
    /// that is not valid is refused all the same.
    Optional,
    /// A client without a certificate is refused.
    Required,
}

/// One of the outside roots for [`web_client_config`] is not a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("root {index} is not an X.509 certificate")]
pub struct BadRoot {
    /// Which root, counted from 0.
    pub index: usize,
}

/// The server's side of mesh TLS, by the clock of the system.
///
/// While `reader` has no default SVID, handshakes are refused with the alert access_denied.
#[must_use]
pub fn server_config(
    reader: IdentityReader,
    crypto: &Crypto,
    alpn: &[&[u8]],
    client_auth: ClientAuth,
) -> Arc<ServerConfig> {
    server_config_at(reader, crypto, alpn, client_auth, SystemClock::shared())
}

/// The server's side of mesh TLS, by a clock of the caller's.
#[must_use]
pub fn server_config_at(
    reader: IdentityReader,
    crypto: &Crypto,
    alpn: &[&[u8]],
    client_auth: ClientAuth,
    clock: Arc<dyn Clock>,
) -> Arc<ServerConfig> {
    server_config_as(Present::Default, reader, crypto, alpn, client_auth, clock)
}

/// The server's side of mesh TLS with a choice of the SVID: for a process that is several
/// workloads.
#[must_use]
pub fn server_config_as(
    present: Present,
    reader: IdentityReader,
    crypto: &Crypto,
    alpn: &[&[u8]],
    client_auth: ClientAuth,
    clock: Arc<dyn Clock>,
) -> Arc<ServerConfig> {
    let verifier = verifier::SpiffeVerifier::new(reader.clone(), crypto, client_auth);
    let resolver = resolver::CurrentSvid { reader, present };
    server_config_of(verifier, resolver, crypto, alpn, clock)
}

/// The server's side for a CA: a client may have no certificate, or one that proves nothing, for a token
/// may stand beside it, which TLS does not see.
///
/// The handshake verifies that the client holds the key of what it shows, and nothing of the path: [`peer`]
/// names an ID that is not proven.
#[cfg(all(feature = "ca-server", any(feature = "aws-lc-rs", feature = "ring")))]
pub(crate) fn ca_server_config(
    reader: IdentityReader,
    crypto: &Crypto,
    alpn: &[&[u8]],
    clock: Arc<dyn Clock>,
) -> Arc<ServerConfig> {
    let verifier = verifier::SpiffeVerifier::new(reader.clone(), crypto, ClientAuth::Optional);
    let present = Present::Default;
    let resolver = resolver::CurrentSvid { reader, present };
    server_config_of(verifier.judged_later(), resolver, crypto, alpn, clock)
}

fn server_config_of(
    verifier: verifier::SpiffeVerifier,
    resolver: resolver::CurrentSvid,
    crypto: &Crypto,
    alpn: &[&[u8]],
    clock: Arc<dyn Clock>,
) -> Arc<ServerConfig> {
    let config = server_builder(crypto, clock)
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(resolver));
    without_resumption(config, alpn)
}

/// The server's side of TLS as on the web: no client is asked for a certificate, and its own is the
/// one that `current` holds at each handshake. TLS 1.3 only.
#[cfg(feature = "federation")]
pub(crate) fn web_server_config_at(
    current: Arc<arc_swap::ArcSwap<rustls::sign::CertifiedKey>>,
    crypto: &Crypto,
    alpn: &[&[u8]],
    clock: Arc<dyn Clock>,
) -> Arc<ServerConfig> {
    let config = server_builder(crypto, clock)
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver::CurrentWeb(current)));
    without_resumption(config, alpn)
}

fn server_builder(
    crypto: &Crypto,
    clock: Arc<dyn Clock>,
) -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    let time = Arc::new(TimeOf(clock));
    ServerConfig::builder_with_details(Arc::clone(crypto.provider()), time)
        .with_protocol_versions(&[&version::TLS13])
        .expect("Crypto has TLS 1.3 suites and groups")
}

fn without_resumption(mut config: ServerConfig, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Arc::new(config)
}

/// The client's side of mesh TLS, by the clock of the system.
///
/// While `reader` has no default SVID, no certificate is presented, and a server that requires one
/// refuses.
#[must_use]
pub fn client_config(reader: IdentityReader, crypto: &Crypto, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    client_config_at(reader, crypto, alpn, SystemClock::shared())
}

/// The client's side of mesh TLS, by a clock of the caller's.
#[must_use]
pub fn client_config_at(
    reader: IdentityReader,
    crypto: &Crypto,
    alpn: &[&[u8]],
    clock: Arc<dyn Clock>,
) -> Arc<ClientConfig> {
    client_config_as(Present::Default, reader, crypto, alpn, clock)
}

/// The client's side of mesh TLS with a choice of the SVID: for a process that is several
/// workloads.
#[must_use]
pub fn client_config_as(
    present: Present,
    reader: IdentityReader,
    crypto: &Crypto,
    alpn: &[&[u8]],
    clock: Arc<dyn Clock>,
) -> Arc<ClientConfig> {
    let time = Arc::new(TimeOf(clock));
    let verifier = verifier::SpiffeVerifier::new(reader.clone(), crypto, ClientAuth::Required);
    let mut config = ClientConfig::builder_with_details(Arc::clone(crypto.provider()), time)
        .with_protocol_versions(&[&version::TLS13])
        .expect("Crypto has TLS 1.3 suites and groups")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(resolver::CurrentSvid { reader, present }));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Arc::new(config)
}

/// Reads roots for [`web_client_config`] from PEM, all of them.
///
/// # Errors
///
/// [`PemError`] if `pem` has no root, if one of them cannot be read, as in a file that is half written, or if
/// something else stands beside them.
pub fn web_roots(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    crate::pem::roots(pem)
}

/// Checks that PEM has roots as [`web_client_config`] takes them.
///
/// # Errors
///
/// Why it has not, in words.
pub fn check_web_roots(pem: &[u8]) -> Result<(), String> {
    let roots = web_roots(pem).map_err(|e| e.to_string())?;
    root_store(roots).map(drop).map_err(|e| e.to_string())
}

/// TLS to hosts outside the mesh: the server's name is verified against `roots`, as a browser
/// would, and no certificate is presented. TLS 1.3 only.
///
/// # Errors
///
/// [`BadRoot`] for the first root that is not a certificate.
pub fn web_client_config(
    crypto: &Crypto,
    roots: Vec<CertificateDer<'static>>,
) -> Result<Arc<ClientConfig>, BadRoot> {
    web_config(crypto, roots, SystemClock::shared()).map(Arc::new)
}

/// The same, but that a server proves itself by one of these names instead of the one that is asked for,
/// which is sent all the same. Without a name no server is accepted.
///
/// # Errors
///
/// [`BadRoot`] for the first root that is not a certificate.
pub fn web_client_config_by(
    names: Arc<[AltName]>,
    crypto: &Crypto,
    roots: Vec<CertificateDer<'static>>,
) -> Result<Arc<ClientConfig>, BadRoot> {
    let verifier = alternative::AltNames {
        names,
        roots: root_store(roots)?,
        provider: Arc::clone(crypto.provider()),
    };
    let config = web_builder(crypto, SystemClock::shared())
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The same by a clock of the caller's, and without resumption: every server proves itself anew.
#[cfg(feature = "federation")]
pub(crate) fn web_client_config_at(
    crypto: &Crypto,
    roots: Vec<CertificateDer<'static>>,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ClientConfig>, BadRoot> {
    let mut config = web_config(crypto, roots, clock)?;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn web_config(
    crypto: &Crypto,
    roots: Vec<CertificateDer<'static>>,
    clock: Arc<dyn Clock>,
) -> Result<ClientConfig, BadRoot> {
    let config = web_builder(crypto, clock)
        .with_root_certificates(root_store(roots)?)
        .with_no_client_auth();
    Ok(config)
}

fn web_builder(
    crypto: &Crypto,
    clock: Arc<dyn Clock>,
) -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    let time = Arc::new(TimeOf(clock));
    ClientConfig::builder_with_details(Arc::clone(crypto.provider()), time)
        .with_protocol_versions(&[&version::TLS13])
        .expect("Crypto has TLS 1.3 suites and groups")
}

fn root_store(roots: Vec<CertificateDer<'static>>) -> Result<RootCertStore, BadRoot> {
    let mut store = RootCertStore::empty();
    for (index, root) in roots.into_iter().enumerate() {
        store.add(root).map_err(|_| BadRoot { index })?;
    }
    Ok(store)
}

/// The server name for a mesh connection: identity is a SPIFFE ID, so no name is sent or compared.
#[must_use]
pub fn server_name() -> ServerName<'static> {
    ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// The peer of a finished handshake, under a configuration made here.
///
/// The chain was verified by the handshake; the leaf is only read again. `None` while the
/// handshake runs, or if a client presented no certificate to an optional check.
#[must_use]
pub fn peer(connection: &CommonState) -> Option<Peer> {
    if connection.is_handshaking() {
        return None;
    }
    svid::read_unverified(connection.peer_certificates()?.first()?).ok()
}

/// Our clock in the shape that rustls asks for.
#[derive(Debug)]
struct TimeOf(Arc<dyn Clock>);

impl TimeProvider for TimeOf {
    fn current_time(&self) -> Option<UnixTime> {
        let since = self.0.now().duration_since(UNIX_EPOCH);
        Some(UnixTime::since_unix_epoch(since.unwrap_or(Duration::ZERO)))
    }
}
