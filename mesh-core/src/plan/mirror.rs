//! The copies of a request: what was drawn, where each goes, and what it looks like. Pure.

use std::sync::Arc;

use http::Request;
use http::header::{EXPECT, HeaderValue};

use super::hop::{PlannedBackend, edit};
use crate::authorize::{Denied, HttpView, Permit, RequestView, decide as authorize};
use crate::balance::{Choice, Shown};
use crate::identify::Peer;
use crate::local::Local;
use crate::model::{AppProtocol, Draw};
use crate::route::{MIRRORED, Matched, Mirror, MirrorPlace};
use crate::snapshot::{ServiceView, Snapshot};

/// A copy of a request that is sent besides. It goes to its Service as a backend does: routes of that
/// Service have no say, so that it is not copied again.
#[derive(Debug, Clone)]
pub struct PlannedMirror {
    /// The Service that was asked for; its table holds the mirror.
    asked: Arc<ServiceView>,
    matched: Matched,
    place: MirrorPlace,
    protocol: AppProtocol,
    choice: Choice,
}

/// Plans the copies that were drawn.
pub(super) fn mirrors(
    snapshot: &Snapshot,
    asked: &Arc<ServiceView>,
    matched: Matched,
    shown: Shown<'_>,
    draw: &mut Draw,
) -> Box<[PlannedMirror]> {
    let plan = |(place, mirror): (MirrorPlace, &Mirror)| {
        let service = snapshot.service(mirror.service());
        let port = service.and_then(|s| s.port_view(mirror.port()));
        PlannedMirror {
            asked: Arc::clone(asked),
            matched,
            place,
            // A Service that does not exist is found out when the copy is sent.
            protocol: port.map_or(AppProtocol::Detect, |port| port.protocol),
            choice: port.map_or_else(Choice::default, |port| {
                // A cookie that it would issue has no answer to go with.
                port.traffic.strategy.value.choice(shown, draw).0
            }),
        }
    };
    matched.mirrors(&asked.routes).map(plan).collect()
}

/// What is drawn for the `nth` copy of a request, for which `left` is still to be drawn from.
pub(crate) fn draw_of_copy(left: &Draw, nth: u64) -> Draw {
    Draw::new(left.clone().bits().wrapping_add(nth))
}

// === impl PlannedMirror ===

impl PlannedMirror {
    /// The mirror that it is of.
    pub(super) fn is_at(&self, place: MirrorPlace) -> bool {
        self.place == place
    }

    /// Where it is sent.
    pub fn backend(&self) -> Option<PlannedBackend<'_>> {
        let mirror = self.matched.mirror(&self.asked.routes, self.place)?;
        Some(PlannedBackend {
            service: mirror.service(),
            port: mirror.port(),
            choice: self.choice,
            asked: None,
            session: None,
        })
    }

    /// What the port speaks.
    pub fn protocol(&self) -> AppProtocol {
        self.protocol
    }

    /// Edits the copy, which is in the form of the next hop, as the filters before the mirror say, and
    /// marks it.
    pub fn edit<B: Default>(&self, copy: &mut Request<B>) {
        edit(copy, |head| {
            self.matched.edit_copy(&self.asked.routes, self.place, head);
            head.headers.remove(EXPECT);
            head.headers.insert(MIRRORED, HeaderValue::from_static("1"));
        });
    }

    /// Asks the egress policy about the copy as it would be sent.
    ///
    /// # Errors
    ///
    /// What denies it.
    pub fn permit<B>(&self, local: &Local, copy: &Request<B>) -> Result<Permit, Denied> {
        let view = RequestView::Http(HttpView::of(copy));
        authorize(local.egress(), &Peer::Local, &view, &mut ()).permit()
    }
}
