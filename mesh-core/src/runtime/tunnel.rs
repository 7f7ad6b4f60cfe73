//! CONNECT of a caller of a listener that leads by authority (RFC 9110 section 9.3.6): a tunnel to a Service
//! or a host outside the mesh.
//!
//! In comes its head, out goes 200 once the connection to an endpoint is open, or the status of why it is
//! not. It is planned, opened, counted and ended as an opaque connection is; one that is refused is a request
//! that is refused. No other listener offers it: behind an inbound one it would be a way past the policy of
//! whatever the agent can reach.

use std::sync::Arc;

use http::{Request, Response};
use http_body::Body as _;

use super::admit;
use super::call::Call;
use super::exchange::Pending;
use super::opaque::Joined;
use super::outbound::{Caller, Outbound};
use super::upstream::Upstream;
use crate::body::Body;
use crate::connect::{Flow, Io, Origin, WayOut};
use crate::error::{Error, Reason};
use crate::head;
use crate::plan::{Destination, tunnel};
use crate::telemetry::{Direction, SharedText};

/// The authority that a tunnel is asked for.
fn asked(limits: head::Bounds, request: &Request<Body>) -> Result<String, Error> {
    if !request.body().is_end_stream() {
        let detail = "CONNECT has no body: what follows it is the tunnel's, once that is open";
        return Err(Error::new(Reason::InvalidRequest, detail));
    }
    head::admit_tunnel(limits, request)
}

// === impl Outbound ===

impl Outbound {
    /// Answers a CONNECT.
    pub(super) async fn connect(
        self: &Arc<Self>,
        request: &mut Request<Body>,
        caller: Caller<'_>,
    ) -> Response<Body> {
        let shared = &self.shared;
        let (local, ledger) = (self.tls.local(), caller.ledger);
        let mut pending = admit::begin(Direction::Outbound, local, request, ledger);
        let call = pending.call();
        call.exchange.caller = Some(caller.origin.source());
        let asked = asked(shared.limits.head(), request);
        if let Ok(authority) = &asked {
            call.exchange.authority = SharedText::from(&**authority);
        }
        pending.begin();
        let opened = match asked {
            Ok(authority) => {
                let call = pending.call();
                self.open_tunnel(&authority, call, caller.origin).await
            }
            Err(error) => Err(error),
        };
        match opened {
            Ok(opened) => self.tunnel(pending, opened, WayOut::of(request)),
            Err(error) => {
                let series = self.series_without_answer(pending.call());
                pending.count_under(series);
                pending.refuse(&error, None)
            }
        }
    }

    async fn open_tunnel(
        &self,
        authority: &str,
        call: &mut Call,
        origin: &Origin,
    ) -> Result<(Io, Upstream), Error> {
        let view = tunnel(&self.shared.reader.peek(), self.tls.local(), authority)?;
        self.open_at(Destination::Authority(authority), &view, call, origin)
            .await
    }

    /// Joins both sides in a task of its own, once the caller has its answer.
    fn tunnel(
        self: &Arc<Self>,
        pending: Pending,
        (endpoint, upstream): (Io, Upstream),
        mut caller: WayOut,
    ) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        caller.answer(&mut response);
        let (mut call, state) = pending.left(&caller);
        // It may be long: sinks that are added meanwhile see its end.
        call.exchange.workload.share(self.tls.local().shown());
        call.exchange.status = response.status().as_u16();
        let this = Arc::clone(self);
        self.shared.tracker.spawn(async move {
            match caller.open().await {
                Ok((caller, heard)) => {
                    let joined = Joined::new(endpoint, upstream, Vec::new()).heard(heard.into());
                    this.flow(caller, call, joined).await;
                }
                Err(error) => {
                    call.close(&Flow::default(), Some(&error));
                    this.shared.recorder.publish(&call.exchange);
                }
            }
            if let Some(state) = state {
                state.idle();
            }
        });
        response
    }
}
