//! TLS to hosts outside the mesh, whose roots are read when they are first needed and again later.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use inmesh_pki::{Crypto, tls};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::time::Instant;
use tokio_rustls::{TlsConnector, client};

use crate::accept::Socket;
use crate::error::{Error, Reason};
use crate::model::{HttpVersion, Roots};

/// How long roots are used before they are read again.
const FRESH: Duration = Duration::from_secs(60);

/// The roots of the operating system, as far as the embedder has given them.
pub(crate) type SystemRoots = Arc<[CertificateDer<'static>]>;

pub(crate) struct OutsideRoots {
    crypto: Crypto,
    system: SystemRoots,
    known: Mutex<HashMap<(Roots, HttpVersion), (Instant, TlsConnector)>>,
}

// === impl OutsideRoots ===

impl OutsideRoots {
    pub(crate) fn new(crypto: Crypto, system: SystemRoots) -> Self {
        Self {
            crypto,
            system,
            known: Mutex::default(),
        }
    }

    /// Does a client's handshake with an outside host.
    pub(crate) async fn connect(
        &self,
        stream: Socket,
        name: &str,
        roots: &Roots,
        version: HttpVersion,
    ) -> Result<client::TlsStream<Socket>, Error> {
        let failed = |what: &str| Error::new(Reason::TlsFailed, format!("{what} ({name})"));
        let server = ServerName::try_from(name.to_owned())
            .map_err(|e| failed("the name cannot be verified").because(e))?;
        let connector = self.connector(roots, version).await?;
        let stream = tls::handshake(connector.connect(server, stream))
            .await
            .map_err(|e| failed("TLS handshake with an outside host").because(e))?;
        if version == HttpVersion::Http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(failed("the outside host does not speak HTTP/2"));
        }
        Ok(stream)
    }

    async fn connector(&self, roots: &Roots, version: HttpVersion) -> Result<TlsConnector, Error> {
        let key = (roots.clone(), version);
        {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((at, connector)) = known.get(&key)
                && at.elapsed() < FRESH
            {
                return Ok(connector.clone());
            }
        }
        let failed = |what: String| Error::new(Reason::TlsFailed, what);
        let certificates = match roots {
            Roots::System => self.system.to_vec(),
            Roots::File(path) => {
                let file = Arc::clone(path);
                tokio::task::spawn_blocking(move || {
                    CertificateDer::pem_file_iter(&*file)?.collect::<Result<Vec<_>, _>>()
                })
                .await
                .map_err(|e| failed("reading roots".into()).because(e))?
                .map_err(|e| failed(format!("reading roots from {path}")).because(e))?
            }
        };
        if certificates.is_empty() {
            return Err(failed(format!("there are no roots in {roots:?}")));
        }
        let config = tls::web_client_config(&self.crypto, certificates)
            .map_err(|e| failed(format!("roots in {roots:?}")).because(e))?;
        let mut config = Arc::unwrap_or_clone(config);
        config.alpn_protocols = vec![match version {
            HttpVersion::Http1 => b"http/1.1".to_vec(),
            HttpVersion::Http2 => b"h2".to_vec(),
        }];
        let connector = TlsConnector::from(Arc::new(config));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(key, (Instant::now(), connector.clone()));
        Ok(connector)
    }
}
