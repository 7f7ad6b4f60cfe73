//! The certificate of the moment out, whenever a handshake asks which one to present: the default
//! SVID, or one of the web. Keys were parsed when it was loaded, so a handshake parses none.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::store::IdentityReader;

/// Presents the default SVID of the moment, on either side.
#[derive(Debug)]
pub(super) struct CurrentSvid(pub(super) IdentityReader);

impl CurrentSvid {
    fn current(&self) -> Option<Arc<CertifiedKey>> {
        let state = self.0.load();
        state
            .default_svid()
            .map(|svid| Arc::clone(svid.certified()))
    }
}

impl ResolvesServerCert for CurrentSvid {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

impl ResolvesClientCert for CurrentSvid {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current()
    }

    fn has_certs(&self) -> bool {
        self.0.load().default_svid().is_some()
    }
}

/// Presents whatever certificate of the web is loaded at the moment, whichever name is asked for.
#[cfg(feature = "federation")]
#[derive(Debug)]
pub(super) struct CurrentWeb(pub(super) Arc<arc_swap::ArcSwap<CertifiedKey>>);

#[cfg(feature = "federation")]
impl ResolvesServerCert for CurrentWeb {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}
