//! Requests over HTTPS in, answers of the caller out: for servers that programs outside the mesh call, as an
//! API server calls a webhook.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::web::WebCertificate;
use crate::clock::Clock;
use crate::crypto::Crypto;
use crate::serve;
use crate::store::IdentityReader;
use crate::task::until;
use crate::tls::{self, ClientAuth};

/// The most connections at once; one that comes then is closed.
const MAX_CONNECTIONS: usize = 256;
/// How long a connection may take in all.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is spoken inside TLS.
const ALPN: &[&[u8]] = &[b"http/1.1"];

/// What a server of HTTPS proves itself with.
#[derive(Debug)]
#[non_exhaustive]
pub enum HttpsCertificate {
    /// A certificate in files, which are followed.
    Web(WebCertificate),
    /// The default SVID of the moment; its CA wrote the host names into it by which clients verify it
    /// ([`Rules::with_host_name`](crate::issue::policy::Rules::with_host_name)). Without an SVID, handshakes are
    /// refused.
    Svid(IdentityReader),
}

/// Serves HTTPS until `shutdown` is ready. A request whose body is larger than `max_body` bytes is answered
/// with 413 before `answer` sees it; clients prove nothing.
///
/// ```no_run
/// # async fn doc(listener: tokio::net::TcpListener) -> Result<(), Box<dyn std::error::Error>> {
/// use http::{Request, Response};
/// use inmesh_pki::Crypto;
/// use inmesh_pki::bundle::federate::{WebCertificate, serve_https};
/// use inmesh_pki::clock::SystemClock;
///
/// let crypto = Crypto::aws_lc_rs();
/// let web = WebCertificate::open("tls.crt", "tls.key", &crypto)?;
/// let answer = async |request: Request<bytes::Bytes>| Response::new(request.into_body());
/// let clock = SystemClock::shared();
/// serve_https(listener, web.into(), &crypto, clock, 1024, answer, std::future::pending()).await;
/// # Ok(()) }
/// ```
pub async fn serve_https<F, R>(
    listener: TcpListener,
    certificate: HttpsCertificate,
    crypto: &Crypto,
    clock: Arc<dyn Clock>,
    max_body: usize,
    answer: F,
    shutdown: impl Future<Output = ()>,
) where
    F: Fn(Request<Bytes>) -> R + Send + Sync + 'static,
    R: Future<Output = Response<Bytes>> + Send,
{
    let acceptor = TlsAcceptor::from(certificate.server_config(crypto, clock));
    let answer = Arc::new(answer);
    let serve = |stream, open| {
        let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
        let serving = async move {
            match tls::accept(acceptor.accept(stream).into_fallible()).await {
                Ok(stream) => {
                    serve::http1(stream, true, |request| read(request, max_body, &*answer)).await;
                }
                Err((error, mut stream)) => {
                    tracing::debug!(%error, "a handshake of an HTTPS client failed");
                    serve::linger(&mut stream).await;
                }
            }
        };
        (open < MAX_CONNECTIONS).then_some(async move {
            let _done = timeout(PATIENCE, serving).await;
        })
    };
    let end = until(shutdown, certificate.follow());
    serve::accept(&listener, "HTTPS", usize::MAX, serve, end).await;
}

// === impl HttpsCertificate ===

impl HttpsCertificate {
    /// The server's side of TLS with it.
    pub(super) fn server_config(
        &self,
        crypto: &Crypto,
        clock: Arc<dyn Clock>,
    ) -> Arc<ServerConfig> {
        match self {
            Self::Web(web) => tls::web_server_config_at(web.current(), crypto, ALPN, clock),
            Self::Svid(reader) => {
                let (reader, auth) = (reader.clone(), ClientAuth::Optional);
                tls::server_config_at(reader, crypto, ALPN, auth, clock)
            }
        }
    }

    /// Follows its files, if it has some, for as long as it is polled.
    pub(super) async fn follow(self) {
        if let Self::Web(mut web) = self {
            web.follow().await;
        }
        std::future::pending().await
    }
}

impl From<WebCertificate> for HttpsCertificate {
    fn from(web: WebCertificate) -> Self {
        Self::Web(web)
    }
}

/// Reads a request whole and has it answered.
async fn read<B, F, R>(request: Request<B>, max_body: usize, answer: &F) -> Response<Full<Bytes>>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    F: Fn(Request<Bytes>) -> R + Sync,
    R: Future<Output = Response<Bytes>> + Send,
{
    let (head, body) = request.into_parts();
    let body = Limited::new(body, max_body).collect().await;
    let Ok(body) = body else {
        let mut refused = Response::new(Full::default());
        *refused.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        return refused;
    };
    let request = Request::from_parts(head, body.to_bytes());
    answer(request).await.map(Full::new)
}
