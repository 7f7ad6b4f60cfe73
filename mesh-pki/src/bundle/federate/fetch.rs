//! An address in, the bundle that stands there out: one GET over TLS, redirects under the same rules.
//!
//! Host names are resolved here, and the address that was looked at is the one that is connected to,
//! so no second look-up can give another. No answer is quoted in an error, and nothing of ours is
//! shown: no client certificate, no credential. HTTP/1.1, one connection for each request.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, LOCATION};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Relationship;
use super::address::{Reach, may_redirect, reach};
use super::url::{BundleUrl, UrlError};
use crate::bundle::jwks::{BundleJsonError, MAX_BUNDLE_LEN};
use crate::bundle::{BundleSet, TrustBundle};
use crate::clock::Clock;
use crate::crypto::Crypto;
use crate::id::{SpiffeId, TrustDomain};
use crate::store::{IdentityState, identity};
use crate::tls::{self, BadRoot, HandshakeError};

/// How long one fetch may take, redirects included.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long one address may take to accept a connection, before the next is tried.
const CONNECT: Duration = Duration::from_secs(5);

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 3;

/// How many addresses of a host are tried.
const MAX_ADDRESSES: usize = 4;

/// The largest head of an answer.
const MAX_HEAD: usize = 16 * 1024;

/// Why no bundle was fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// What was answered is not a bundle.
    #[error("the answer is not a bundle")]
    Bundle(#[from] BundleJsonError),
    /// A server in a public network sent us into a private one, or to an address that no endpoint has.
    #[error("a redirect leads to {host}, an address that this endpoint may not redirect to")]
    ForbiddenRedirect {
        /// The host that it leads to.
        host: String,
    },
    /// The server of the endpoint's ID is to be verified with a bundle that is not there.
    #[error("there is no bundle of {trust_domain} to verify the endpoint with")]
    NoBundle {
        /// The trust domain whose bundle is missing.
        trust_domain: TrustDomain,
    },
    /// The host cannot be resolved or connected to.
    #[error("{host} cannot be reached")]
    Connect {
        /// Which host.
        host: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The exchange broke.
    #[error("the exchange with {host} broke")]
    Http {
        /// With which host.
        host: String,
        /// What HTTP says.
        #[source]
        source: hyper::Error,
    },
    /// A redirect without an address, or to one that is not a valid bundle endpoint URL (S24).
    #[error("a redirect leads to no address of a bundle: {0}")]
    Redirect(#[source] UrlError),
    /// The answer has another status than 200.
    #[error("{host} answered with status {status}")]
    Status {
        /// Which host.
        host: String,
        /// Its status.
        status: u16,
    },
    /// It took too long.
    #[error("no bundle within {} s", PATIENCE.as_secs())]
    Timeout,
    /// The answer is longer than any bundle.
    #[error("the answer has more than {MAX_BUNDLE_LEN} bytes")]
    TooLarge,
    /// The server did not prove its identity.
    #[error("{host} did not prove its identity")]
    Tls {
        /// Which host.
        host: String,
        /// What is wrong with its proof.
        #[source]
        source: HandshakeError,
    },
    /// More redirects than are followed.
    #[error("more than {MAX_REDIRECTS} redirects")]
    TooManyRedirects,
    /// The server has another ID than was configured (S25).
    #[error("the endpoint is {got}, expected {expected}")]
    WrongId {
        /// The ID that was configured.
        expected: SpiffeId,
        /// Its SPIFFE ID.
        got: SpiffeId,
    },
}

/// What a server must prove: the same for each redirect (S24).
#[derive(Debug, PartialEq)]
pub(super) enum ServerProof {
    /// That it is this ID, under this bundle, which is of the ID's trust domain.
    Spiffe { id: SpiffeId, bundle: TrustBundle },
    /// That it is the host of the address, under the roots of the web.
    Web,
}

/// A way to fetch the bundle of a relationship.
pub(super) trait Fetch: Send + Sync {
    fn fetch<'a>(&'a self, relationship: &'a Relationship, proof: ServerProof) -> Fetching<'a>;
}

pub(super) type Fetching<'a> =
    Pin<Box<dyn Future<Output = Result<TrustBundle, FetchError>> + Send + 'a>>;

/// The way that the standard knows.
pub(super) struct OverHttps {
    web: Arc<ClientConfig>,
    crypto: Crypto,
    clock: Arc<dyn Clock>,
}

/// How a server is verified.
struct Verify {
    config: Arc<ClientConfig>,
    /// The ID that the server must have, where it is known by SPIFFE ID and not by host name.
    id: Option<SpiffeId>,
}

impl OverHttps {
    /// `roots` vouch for servers of the profile https_web.
    pub(super) fn new(
        roots: Vec<CertificateDer<'static>>,
        crypto: &Crypto,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, BadRoot> {
        Ok(Self {
            web: tls::web_client_config_at(crypto, roots, Arc::clone(&clock))?,
            crypto: crypto.clone(),
            clock,
        })
    }

    fn verify(&self, proof: ServerProof) -> Verify {
        match proof {
            ServerProof::Web => Verify {
                config: Arc::clone(&self.web),
                id: None,
            },
            // A store of its own, without SVIDs: no certificate of ours is shown.
            ServerProof::Spiffe { id, bundle } => {
                let trusted = IdentityState::from_bundles(BundleSet::from(bundle));
                let (_, reader) = identity(trusted);
                let clock = Arc::clone(&self.clock);
                Verify {
                    config: tls::client_config_at(reader, &self.crypto, &[b"http/1.1"], clock),
                    id: Some(id),
                }
            }
        }
    }
}

impl Fetch for OverHttps {
    fn fetch<'a>(&'a self, relationship: &'a Relationship, proof: ServerProof) -> Fetching<'a> {
        Box::pin(async move {
            let verify = self.verify(proof);
            let body = timeout(PATIENCE, follow(&relationship.url, &verify))
                .await
                .map_err(|_| FetchError::Timeout)??;
            let trust_domain = relationship.trust_domain.clone();
            Ok(TrustBundle::from_json(trust_domain, &body)?)
        })
    }
}

/// Asks, and follows redirects: each address is parsed, resolved, judged and verified as the first.
async fn follow(first: &BundleUrl, verify: &Verify) -> Result<Bytes, FetchError> {
    let mut url = first.clone();
    let mut origin = None;
    for _ in 0..=MAX_REDIRECTS {
        let (stream, ip) = connect(&url, origin, verify).await?;
        origin = origin.or_else(|| Some(reach(ip)));
        let response = get(&url, stream).await?;
        let status = response.status();
        if matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            let location = response.headers().get(LOCATION);
            let location = location.and_then(|value| value.to_str().ok());
            let location = location.ok_or(FetchError::Redirect(UrlError::Malformed))?;
            url = url.join(location).map_err(FetchError::Redirect)?;
            continue;
        }
        if status != StatusCode::OK {
            return Err(FetchError::Status {
                host: url.host().to_owned(),
                status: status.as_u16(),
            });
        }
        return read(&url, response).await;
    }
    Err(FetchError::TooManyRedirects)
}

/// Connects and verifies the server. `origin` is where the first server of a chain of redirects
/// stands; nothing for that one itself, which an operator wrote down.
async fn connect(
    url: &BundleUrl,
    origin: Option<Reach>,
    verify: &Verify,
) -> Result<(TlsStream<TcpStream>, IpAddr), FetchError> {
    let host = || url.host().to_owned();
    let failed = |source| FetchError::Connect {
        host: host(),
        source,
    };
    let addresses: Vec<SocketAddr> = lookup_host((url.host(), url.port()))
        .await
        .map_err(failed)?
        .take(MAX_ADDRESSES)
        .collect();
    if let Some(origin) = origin
        && !addresses
            .iter()
            .all(|address| may_redirect(origin, reach(address.ip())))
    {
        return Err(FetchError::ForbiddenRedirect { host: host() });
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    let mut connected = None;
    for address in addresses {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                connected = Some((stream, address.ip()));
                break;
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    let (stream, ip) = connected.ok_or_else(|| failed(last))?;

    // A SPIFFE ID is all that such a server is known by.
    let name = match &verify.id {
        Some(_) => tls::server_name(),
        None => ServerName::try_from(host())
            .map_err(|_| failed(io::Error::other("no name for a certificate")))?,
    };
    let connector = TlsConnector::from(Arc::clone(&verify.config));
    let stream = tls::handshake(connector.connect(name, stream))
        .await
        .map_err(|source| FetchError::Tls {
            host: host(),
            source,
        })?;
    if let Some(expected) = &verify.id {
        let peer = tls::peer(stream.get_ref().1).map(|peer| peer.id);
        match peer {
            Some(got) if got == *expected => {}
            Some(got) => {
                return Err(FetchError::WrongId {
                    expected: expected.clone(),
                    got,
                });
            }
            // Our verifier wants a certificate of every server, so there is one.
            None => return Err(failed(io::Error::other("the server has no certificate"))),
        }
    }
    Ok((stream, ip))
}

async fn get(
    url: &BundleUrl,
    stream: TlsStream<TcpStream>,
) -> Result<Response<Incoming>, FetchError> {
    let broken = |source| FetchError::Http {
        host: url.host().to_owned(),
        source,
    };
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    // It ends with the exchange: nothing else holds the sender.
    tokio::spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = url.path().clone().into();
    let authority = url.authority();
    let headers = request.headers_mut();
    headers.insert(ACCEPT, http::HeaderValue::from_static("application/json"));
    if let Ok(authority) = authority.parse() {
        headers.insert(HOST, authority);
    }
    sender.send_request(request).await.map_err(broken)
}

async fn read(url: &BundleUrl, response: Response<Incoming>) -> Result<Bytes, FetchError> {
    let body = Limited::new(response.into_body(), MAX_BUNDLE_LEN);
    match body.collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLarge),
        Err(error) => match error.downcast::<hyper::Error>() {
            Ok(source) => Err(FetchError::Http {
                host: url.host().to_owned(),
                source: *source,
            }),
            Err(_) => Err(FetchError::TooLarge),
        },
    }
}
