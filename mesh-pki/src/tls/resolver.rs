//! The certificate of the moment out, whenever a handshake asks which one to present: the default
//! SVID, or one of the web. Keys were parsed when it was loaded, so a handshake parses none.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::id::SpiffeId;
use crate::store::IdentityReader;

/// Which SVID of the store is presented.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Present {
    /// The default one at each handshake.
    #[default]
    Default,
    /// The one of this ID; while the store has none, nothing is presented.
    Id(SpiffeId),
}

/// Presents an SVID as it is at each handshake, on either side.
#[derive(Debug)]
pub(super) struct CurrentSvid {
    pub(super) reader: IdentityReader,
    pub(super) present: Present,
}

impl CurrentSvid {
    fn current(&self) -> Option<Arc<CertifiedKey>> {
        let state = self.reader.load();
        let svid = match &self.present {
            Present::Default => state.default_svid(),
            Present::Id(id) => state.svid(id),
        };
        svid.map(|svid| Arc::clone(svid.certified()))
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
        self.current().is_some()
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
