//! TLS to hosts outside the mesh, by roots that are read when they are needed and followed after, or that
//! documents hold.
//!
//! A file of roots is looked at again by the first connection of each second, so an edit is live as
//! that of a document is. What cannot be used (empty, half written, gone) keeps the last good roots
//! and is logged once; a file that never was good lets no connection be made.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use inmesh_pki::tls::AltName;
use inmesh_pki::{Crypto, tls};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::time::Instant;
use tokio_rustls::{TlsConnector, client};

use crate::accept::Socket;
use crate::error::{Error, Reason};
use crate::identify::{Inner, RECORD};
use crate::model::Roots;

/// How long a file of roots is not looked at again.
const FRESH: Duration = Duration::from_secs(1);
/// The largest file of roots, in bytes; those of operating systems have about 250 KiB.
const FILE_BYTES: u64 = 4 << 20;
/// The most roots that are remembered. Where documents have held others, those make place; more files are
/// looked at anew each time.
const REMEMBERED: usize = 1_024;

/// The roots of the operating system, as far as the embedder has given them.
pub(crate) type SystemRoots = Arc<[CertificateDer<'static>]>;

pub(crate) struct OutsideRoots {
    crypto: Crypto,
    system: SystemRoots,
    known: Mutex<HashMap<By, Known>>,
}

/// What servers prove themselves by: roots, and names in place of the one that is asked for.
type By = (Roots, Arc<[AltName]>);

/// What is known of one file of roots, or of those of the system.
#[derive(Default)]
struct Known {
    /// When it was looked at last.
    looked: Option<Instant>,
    /// What was found there: its bytes, or why it could not be read.
    found: Option<Result<Vec<u8>, String>>,
    /// Made of the last good roots.
    good: Option<Connectors>,
    /// Why what was found last cannot be used.
    bad: Option<String>,
}

/// One for each version of HTTP.
#[derive(Clone)]
struct Connectors {
    http1: TlsConnector,
    http2: TlsConnector,
    /// Says nothing of what is spoken inside.
    opaque: TlsConnector,
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

    /// Does a client's handshake with an outside host. Returns what it speaks.
    pub(crate) async fn connect(
        &self,
        stream: Socket,
        (name, names): (&str, &Arc<[AltName]>),
        roots: &Roots,
        inner: Inner,
    ) -> Result<(client::TlsStream<Socket>, Inner), Error> {
        let failed = |what: &str| Error::new(Reason::TlsFailed, format!("{what} ({name})"));
        let server = ServerName::try_from(name.to_owned())
            .map_err(|e| failed("the name cannot be verified").because(e))?;
        let by = (roots.clone(), Arc::clone(names));
        let connector = self.connector(&by, inner).await?;
        let mut stream = tls::handshake(connector.connect(server, stream))
            .await
            .map_err(|e| failed("TLS handshake with an outside host").because(e))?;
        stream.get_mut().1.set_buffer_limit(Some(RECORD));
        let speaks = match inner {
            Inner::Tcp => Some(inner),
            _ => inner.answered(stream.get_ref().1.alpn_protocol()),
        };
        let speaks = speaks.ok_or_else(|| failed("the outside host speaks another protocol"))?;
        Ok((stream, speaks))
    }

    async fn connector(&self, by: &By, inner: Inner) -> Result<TlsConnector, Error> {
        let failed = |what: String| Error::new(Reason::TlsFailed, what);
        if let Some(known) = self.fresh(by, Instant::now()) {
            return known.map(|c| c.of(inner)).map_err(failed);
        }
        let found = match &by.0 {
            Roots::Documents(_) | Roots::System | Roots::Unusable(_) => Ok(Vec::new()),
            Roots::File(path) => {
                let path = Arc::clone(path);
                tokio::task::spawn_blocking(move || read(&path))
                    .await
                    .map_err(|e| failed("reading roots".into()).because(e))?
            }
        };
        let made = self.take(by, found, Instant::now());
        made.map(|c| c.of(inner)).map_err(failed)
    }

    /// What is known, if that was looked at a moment ago.
    fn fresh(&self, by: &By, now: Instant) -> Option<Result<Connectors, String>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get(by)?;
        let looked = known.looked?;
        // Files alone change under their name.
        let stays = !matches!(by.0, Roots::File(_));
        let fresh = stays || now.saturating_duration_since(looked) < FRESH;
        fresh.then(|| known.connectors(&by.0))
    }

    /// Takes what was found of roots.
    fn take(
        &self,
        by: &By,
        found: Result<Vec<u8>, String>,
        now: Instant,
    ) -> Result<Connectors, String> {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REMEMBERED && !all.contains_key(by) {
            // Those that stand in documents are made again of them.
            all.retain(|(roots, _), _| !matches!(roots, Roots::Documents(_) | Roots::Unusable(_)));
        }
        if all.len() >= REMEMBERED && !all.contains_key(by) {
            let mut once = Known::default();
            once.take(&by.0, found, now, |bytes| self.make(by, bytes));
            return once.connectors(&by.0);
        }
        let known = all.entry(by.clone()).or_default();
        known.take(&by.0, found, now, |bytes| self.make(by, bytes));
        known.connectors(&by.0)
    }

    fn make(&self, (roots, names): &By, bytes: &[u8]) -> Result<Connectors, String> {
        let certificates = match roots {
            Roots::Documents(roots) => tls::web_roots(&roots.pem).map_err(|e| e.to_string())?,
            Roots::Unusable(why) => return Err(String::from(&**why)),
            Roots::System if self.system.is_empty() => {
                return Err("no roots of the operating system were given".into());
            }
            Roots::System => self.system.to_vec(),
            Roots::File(_) => tls::web_roots(bytes).map_err(|e| e.to_string())?,
        };
        let config = match names.is_empty() {
            true => tls::web_client_config(&self.crypto, certificates),
            false => tls::web_client_config_by(Arc::clone(names), &self.crypto, certificates),
        };
        let config = Arc::unwrap_or_clone(config.map_err(|e| e.to_string())?);
        let with = |alpn: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = alpn.iter().map(|alpn| alpn.to_vec()).collect();
            TlsConnector::from(Arc::new(config))
        };
        Ok(Connectors {
            http1: with(&[b"http/1.1"]),
            http2: with(&[b"h2", b"http/1.1"]),
            opaque: with(&[]),
        })
    }
}

/// Reads a file of roots, and no more than one may have.
fn read(path: &str) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    let mut file = file.take(FILE_BYTES + 1);
    file.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    match file.limit() {
        0 => Err(format!("it is larger than {FILE_BYTES} bytes")),
        _ => Ok(bytes),
    }
}

// === impl Known ===

impl Known {
    /// Takes what was found; `make` makes connectors of it, where it has changed.
    fn take(
        &mut self,
        roots: &Roots,
        found: Result<Vec<u8>, String>,
        now: Instant,
        make: impl FnOnce(&[u8]) -> Result<Connectors, String>,
    ) {
        self.looked = Some(now);
        if self.found.as_ref() == Some(&found) {
            return;
        }
        let made = found.as_deref().map_err(Clone::clone).and_then(make);
        self.found = Some(found);
        match made {
            Ok(good) => {
                if self.good.is_some() {
                    tracing::info!(%roots, "roots of outside hosts have changed");
                }
                (self.good, self.bad) = (Some(good), None);
            }
            Err(why) => {
                let kept = self.good.is_some();
                tracing::warn!(%roots, %why, kept, "roots of outside hosts cannot be used");
                self.bad = Some(why);
            }
        }
    }

    fn connectors(&self, roots: &Roots) -> Result<Connectors, String> {
        self.good.clone().ok_or_else(|| {
            let why = self.bad.as_deref().unwrap_or("they were not read");
            match roots {
                Roots::Unusable(why) => format!("no root vouches for the server: {why}"),
                _ => format!("the roots in {roots} cannot be used: {why}"),
            }
        })
    }
}

// === impl Connectors ===

impl Connectors {
    fn of(self, inner: Inner) -> TlsConnector {
        match inner {
            Inner::Http1 => self.http1,
            Inner::Http2 => self.http2,
            Inner::Tcp => self.opaque,
        }
    }
}

#[cfg(test)]
mod tests;
