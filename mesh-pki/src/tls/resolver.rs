//! The current default SVID out, whenever a handshake asks which certificate to present.
//! Keys were parsed when the SVID was made, so a handshake parses none.

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
