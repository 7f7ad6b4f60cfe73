//! Connections that a proxy in front passes on: whose they are, by the PROXY header with which they begin.
//!
//! In comes a connection of a listener that names its proxies; out come the ends by which all that
//! follows knows it: records, the balance by the caller's address, what endpoints and applications are
//! shown. What leads on (the address that it was really made to) and what a peer proves stay as they
//! are. It refuses every connection without a header in time, and never reads one from an address that
//! is not listed.

use std::net::SocketAddr;
use std::sync::Arc;

use inmesh_pki::clock::Span;
use tokio::time::Instant;

use super::app::App;
use super::inbound::InboundStack;
use super::listen::OutboundListener;
use super::outbound::Outbound;
use super::shared::Shared;
use crate::accept::proxy::{Ends, Header, TrustedProxies, Unread, read};
use crate::accept::{Share, Socket};
use crate::connect::Origin;
use crate::error::{Error, Reason};
use crate::telemetry::Direction;

// === impl InboundStack ===

impl<A: App> InboundStack<A> {
    /// The ends of a connection that a proxy passes on; its place is one of the caller then.
    pub(super) async fn passed_on(
        &self,
        stream: &mut Socket,
        own: Ends,
        proxies: &TrustedProxies,
        share: &Share,
    ) -> Option<Ends> {
        let (shared, workload) = (&self.inbound.shared, self.inbound.tls.local().shown());
        let to = (Direction::Inbound, workload);
        let ends = shared.named(stream, own, proxies, to).await?;
        if ends != own && !share.pass_to(ends.source.ip()) {
            self.crowded(ends.source, None);
            return None;
        }
        Some(ends)
    }
}

// === impl Outbound ===

impl Outbound {
    /// The connection of a caller of an outbound listener, once its proxy has said whose it is.
    pub(super) async fn origin(
        &self,
        stream: &mut Socket,
        from: SocketAddr,
        to: &OutboundListener,
    ) -> Option<Origin> {
        // A socket without an address is closed already.
        let reached = match to.original(stream) {
            Some(address) => address,
            None => stream.local_addr().ok()?,
        };
        let own = Ends::new(from, reached);
        let ends = match &to.proxies {
            None => own,
            Some(proxies) => {
                let local = self.tls.local();
                let to = (Direction::Outbound, local.shown());
                let naming = self.shared.named(stream, own, proxies, to);
                Box::pin(naming).await?
            }
        };
        Some(Origin::new(ends, reached))
    }
}

// === impl Shared ===

impl Shared {
    /// The ends of a caller's connection, `own`, or those that its proxy names. `None` where there is no
    /// header to be believed, which is recorded: the connection is closed.
    #[cold]
    pub(super) async fn named(
        &self,
        stream: &mut Socket,
        own: Ends,
        proxies: &TrustedProxies,
        (direction, workload): (Direction, &Arc<str>),
    ) -> Option<Ends> {
        let from = own.source;
        let read = match proxies.trusts(from.ip()) {
            true => {
                let deadline = Instant::now() + self.limits.header;
                read(stream, deadline).await.map_err(Some)
            }
            false => Err(None),
        };
        match read {
            Ok(Header::Proxied(ends)) => Some(ends),
            Ok(Header::Local) => Some(own),
            Err(Some(Unread::Ended(0, error))) => {
                // So looks a check of whether something listens.
                let error = error.as_ref().map(tracing::field::display);
                tracing::debug!(%from, error, "a proxy has said nothing");
                None
            }
            Err(unread) => {
                self.unproxied(from, unread, (direction, workload));
                None
            }
        }
    }

    /// Records a connection without a header that is believed.
    fn unproxied(
        &self,
        from: SocketAddr,
        unread: Option<Unread>,
        (direction, workload): (Direction, &Arc<str>),
    ) {
        let (reason, detail, cause) = match unread {
            None => {
                let detail = "the listener trusts no proxy of this address".to_owned();
                ("proxy-untrusted", detail, None)
            }
            Some(Unread::Ended(bytes, cause)) => {
                let detail = format!("it ended after {bytes} bytes of a PROXY header");
                ("proxy-header-cut", detail, cause)
            }
            Some(Unread::Invalid(why)) => ("proxy-header-invalid", why.to_string(), None),
            Some(Unread::Late) => {
                let limit = Span(self.limits.header);
                let detail = format!("no whole PROXY header within {limit}");
                ("proxy-header-timeout", detail, None)
            }
        };
        let error = Error::new(Reason::ProxyHeader, detail);
        let error = match cause {
            Some(cause) => error.because(cause),
            None => error,
        };
        if let Some(left_out) = self.strangers.admit(reason, self.clock.now()) {
            tracing::warn!(%from, reason, left_out, "connection refused: {error}");
        }
        self.recorder
            .refused(direction, workload, from, None, reason, &error);
    }
}
