//! Our own bundle in, an endpoint that serves it to every client out (SPIFFE_Federation.md,
//! section 5.2.2.3).
//!
//! It proves itself by the default SVID of the store, which is the profile https_spiffe, or by a
//! [`WebCertificate`], which is https_web; consumers configure which, so it is one of them and never
//! both. It asks no client for an identity: a bundle holds public keys. One path, GET and HEAD, one
//! request for each connection, every wait and number bounded. TLS 1.3 only by either profile: of
//! what Mozilla's intermediate compatibility lets a server speak (section 5), TLS 1.2 is left out,
//! and a consumer that knows nothing newer needs a web server in between.
//!
//! ```no_run
//! # #[cfg(feature = "aws-lc-rs")]
//! # async fn serve(reader: inmesh_pki::IdentityReader) -> Result<(), Box<dyn std::error::Error>> {
//! use std::future::pending;
//!
//! use inmesh_pki::Crypto;
//! use inmesh_pki::bundle::federate::WebCertificate;
//! use inmesh_pki::bundle::federate::endpoint::BundleEndpoint;
//! use inmesh_pki::clock::SystemClock;
//!
//! let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock::shared());
//! // Renewed by whatever renews it; new handshakes get the new one.
//! let web = WebCertificate::open("/etc/bundles/tls.crt", "/etc/bundles/tls.key", &crypto)?;
//! let endpoint = BundleEndpoint::new("prod.example".parse()?, "/bundle", reader, &crypto, clock)
//!     .with_web_certificate(web);
//! let listener = tokio::net::TcpListener::bind("0.0.0.0:8443").await?;
//! endpoint.serve(listener, pending()).await;
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::{DEFAULT_REFRESH, HttpsCertificate, WebCertificate};
use crate::clock::Clock;
use crate::crypto::Crypto;
use crate::id::TrustDomain;
use crate::serve;
use crate::store::IdentityReader;
use crate::task::until;
use crate::tls;

/// How many connections there may be at a time.
const MAX_CONNECTIONS: usize = 256;

/// How long a whole exchange may take, handshake included.
const PATIENCE: Duration = Duration::from_secs(20);

/// Serves the bundle of one trust domain.
pub struct BundleEndpoint {
    reader: IdentityReader,
    trust_domain: TrustDomain,
    path: String,
    certificate: HttpsCertificate,
    crypto: Crypto,
    clock: Arc<dyn Clock>,
}

struct EndpointShared {
    reader: IdentityReader,
    trust_domain: TrustDomain,
    path: String,
    tls: Arc<ServerConfig>,
}

impl BundleEndpoint {
    /// Serves the bundle of `trust_domain` that `reader` has at the moment, at `path`, which begins
    /// with a slash.
    #[must_use]
    pub fn new(
        trust_domain: TrustDomain,
        path: impl Into<String>,
        reader: IdentityReader,
        crypto: &Crypto,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            certificate: HttpsCertificate::Svid(reader.clone()),
            reader,
            trust_domain,
            path: path.into(),
            crypto: crypto.clone(),
            clock,
        }
    }

    /// Proves itself by `web` instead of the SVID: the profile https_web.
    ///
    /// While it serves, the files of `web` are followed: new handshakes get the new certificate.
    #[must_use]
    pub fn with_web_certificate(mut self, web: WebCertificate) -> Self {
        self.certificate = web.into();
        self
    }

    /// Serves until `shutdown` is ready; what is being served then is cut.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let shared = Arc::new(EndpointShared {
            tls: self.certificate.server_config(&self.crypto, self.clock),
            reader: self.reader,
            trust_domain: self.trust_domain,
            path: self.path,
        });
        let end = until(shutdown, self.certificate.follow());
        // A connection that comes while all places are taken is closed at once.
        let serve = |stream, open| {
            let shared = Arc::clone(&shared);
            (open < MAX_CONNECTIONS).then_some(async move {
                let _done = timeout(PATIENCE, shared.serve_one(stream)).await;
            })
        };
        serve::accept(&listener, "bundle endpoint", usize::MAX, serve, end).await;
    }
}

impl EndpointShared {
    async fn serve_one(&self, stream: TcpStream) {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.tls));
        match tls::accept(acceptor.accept(stream).into_fallible()).await {
            Ok(stream) => {
                serve::http1(stream, false, async |request| self.answer(&request)).await;
            }
            Err((error, mut stream)) => {
                tracing::debug!(%error, "a handshake at the bundle endpoint failed");
                serve::linger(&mut stream).await;
            }
        }
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let plain = |status| {
            let mut response = Response::new(Full::default());
            *response.status_mut() = status;
            response
        };
        if request.uri().path() != self.path {
            return plain(StatusCode::NOT_FOUND);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED);
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            return response;
        }
        let state = self.reader.load();
        let Some(bundle) = state.bundles().get(&self.trust_domain) else {
            return plain(StatusCode::SERVICE_UNAVAILABLE);
        };
        let hint = bundle.refresh_hint().unwrap_or(DEFAULT_REFRESH);
        match bundle.clone().with_refresh_hint(hint).to_json() {
            Ok(json) => {
                let mut response = Response::new(Full::from(json));
                let kind = HeaderValue::from_static("application/json");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            Err(error) => {
                tracing::error!(%error, "our bundle cannot be written as JSON");
                plain(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }
}

impl fmt::Debug for BundleEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BundleEndpoint")
            .field("trust_domain", &self.trust_domain.as_str())
            .field("path", &self.path)
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}
