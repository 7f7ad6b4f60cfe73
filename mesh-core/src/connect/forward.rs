//! One hop of a request: into the form of the next hop's protocol, and its answer back.

use std::hint::cold_path;

use http::{Request, Response, StatusCode};
use http_body::Body as _;
use hyper::upgrade::OnUpgrade;

use super::headers;
use super::way_out::WayOut;
use crate::body::Body;
use crate::early::Early;
use crate::error::{Error, Reason};
use crate::fields::has_of_connection;
use crate::leave::leaves;
use crate::model::{AppProtocol, HttpVersion};
use crate::next_hop;

/// A request that is ready for the next hop.
pub(crate) struct Forward {
    version: HttpVersion,
    /// The protocol that the request asks for on the caller's connection or stream, and that.
    upgrade: Option<(&'static str, WayOut)>,
}

/// Both sides of what has left HTTP.
pub(crate) struct Switched {
    pub(crate) caller: WayOut,
    pub(crate) upstream: OnUpgrade,
}

/// Prepares a request for a port of that protocol; `authority` is the one that was decided on.
pub(crate) fn forward(
    request: &mut Request<Body>,
    protocol: AppProtocol,
    authority: &str,
) -> Forward {
    Early::expect(request);
    let upgrade = leaves(request, || request.body().is_end_stream());
    let upgrade = upgrade.map(|to| (to, WayOut::of(request)));
    let version = next_hop::next_version(protocol, request.version(), upgrade.is_some());
    headers::prepare(request, version, authority, upgrade.is_some());
    Forward { version, upgrade }
}

/// Whether a request may leave HTTP. One that may not loses its wish, and the means to, and whatever
/// else belongs to the caller's connection, as it does on its way to a server.
pub(crate) fn may_switch(request: &mut Request<Body>) -> bool {
    // It is there where the HTTP library has met such a wish.
    let able = WayOut::is_there(request);
    if able && leaves(request, || request.body().is_end_stream()).is_some() {
        return true;
    }
    if able || has_of_connection(request.headers()) {
        cold_path();
        next_hop::strip(request.headers_mut(), false);
    }
    if able {
        cold_path();
        WayOut::close(request);
    }
    false
}

// === impl Forward ===

impl Forward {
    /// The version that the next hop speaks.
    pub(crate) fn version(&self) -> HttpVersion {
        self.version
    }

    /// Whether the request asks to leave HTTP.
    pub(crate) fn may_leave(&self) -> bool {
        self.upgrade.is_some()
    }

    /// Makes the answer one of ours. Returns the connections to join if the server has switched
    /// protocols; one that does so unasked has not answered.
    pub(crate) fn answered(self, response: &mut Response<Body>) -> Result<Option<Switched>, Error> {
        let switched = match (response.status(), self.upgrade) {
            (StatusCode::SWITCHING_PROTOCOLS, Some((to, caller)))
                if headers::is_switch(response.headers(), to) =>
            {
                if !caller.is_accepted(response.headers()) {
                    let detail =
                        "the server switched, and its Sec-WebSocket-Accept is not that of the key";
                    return Err(Error::new(Reason::Reset, detail));
                }
                Some(Switched {
                    caller,
                    upstream: hyper::upgrade::on(&mut *response),
                })
            }
            (StatusCode::SWITCHING_PROTOCOLS, _) => {
                let detail = "the server switched to a protocol that it was not asked for";
                return Err(Error::new(Reason::Reset, detail));
            }
            // A caller over HTTP/2 would take it for the switch.
            (status, Some((to, caller))) if status.is_success() && caller.is_stream() => {
                let detail = format!("the server answered {status} and did not switch to {to}");
                return Err(Error::new(Reason::Reset, detail));
            }
            _ => None,
        };
        headers::answered(response, switched.is_some());
        Ok(switched.map(|mut switched| {
            switched.caller.answer(response);
            switched
        }))
    }
}
