//! What a request matched: places in a table, and what is read there. Pure.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};

use super::filter::{Cors, FILTERS, Filter, Mirror, RequestHead};
use super::matching::PathMatch;
use super::rule::{Outcome, Timeouts};
use super::sticky::Sticky;
use super::table::RouteTable;
use super::table::http::{RuleView, Target};
use crate::balance::{HashKey, Issued, Shown};
use crate::model::{Block, Draw, ObjectKey, ServiceName};
use crate::retry::{HedgePolicy, RetryPolicy};
use crate::traffic::{FaultInjection, SessionPersistence, TrafficSplit};

/// The rule that a request matched, and the backend that was drawn: places in a [`RouteTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matched {
    pub(super) entry: Place,
    pub(super) rule: usize,
    /// `None` if the rule does not forward.
    pub(super) target: Option<usize>,
    /// The mirrors that were drawn: a bit for each filter of the rule, then of the backend.
    pub(super) mirrors: u32,
    /// Whether the rule or a backend of it says which origins it allows.
    pub(super) cors: bool,
    /// Whether it is a preflight that the rule, or the backend that was drawn, answers.
    pub(super) preflight: bool,
    /// Whether a policy for the rule has faults made.
    pub(super) faulty: bool,
    /// Whether a policy for the rule keeps users in their parts of the split, or sessions with backends.
    pub(super) sticky: bool,
}

// A rule and a backend have so many filters at most.
const _: () = assert!(2 * FILTERS <= 32);

/// Where a mirror stands among the filters of the rule and its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MirrorPlace(usize);

/// Where the entry that matched lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Consumer(usize),
    /// It has no condition on the path.
    Grpc,
    /// The same.
    Opaque,
    Producer(usize),
}

// === impl Matched ===

/// All of these read the table that the match was made in.
impl Matched {
    /// The backend's Service and port; `None` if the rule answers by itself.
    pub fn backend(self, table: &RouteTable) -> Option<(&ServiceName, u16)> {
        let target = self.target(table).filter(|_| !self.preflight)?;
        Some((&target.service, target.port))
    }

    /// What answers the preflight that it is.
    pub(crate) fn preflight(self, table: &RouteTable) -> Option<&Cors> {
        self.cors(table).filter(|_| self.preflight)
    }

    /// Whether the answer says which origin may read it.
    pub(crate) fn has_cors(self, table: &RouteTable) -> bool {
        self.cors && self.cors(table).is_some()
    }

    /// Whether there may be copies, or something to say of origins. It reads nothing.
    pub(crate) fn is_rare(self) -> bool {
        self.cors || self.mirrors != 0
    }

    /// What the rule, or else the backend, says of origins.
    pub(crate) fn cors(self, table: &RouteTable) -> Option<&Cors> {
        let filters = self.of_rule(table).iter().chain(self.of_target(table));
        filters.filter_map(Filter::cors).next()
    }

    /// What the rule answers; `None` if it forwards.
    pub fn answer(self, table: &RouteTable) -> Option<&Outcome> {
        self.rule(table)?.answer.as_deref()
    }

    /// The route and its rule, counted from 0.
    pub fn route(self, table: &RouteTable) -> Option<(&ObjectKey, usize)> {
        self.rule(table).map(|rule| (&rule.route, rule.index))
    }

    /// The time limits, if the rule or a policy for it says some.
    pub fn timeouts(self, table: &RouteTable) -> Option<&Block<Timeouts>> {
        self.rule(table)?.timeouts.as_ref()
    }

    /// Those of a policy for the rule, of which it cannot say all.
    pub(crate) fn timeouts_of_policy(self, table: &RouteTable) -> Option<&Block<Timeouts>> {
        self.rule(table)?.of_policy.as_deref()
    }

    /// What is sent again, if the rule or a policy for it says so.
    pub fn retry(self, table: &RouteTable) -> Option<&Block<Arc<RetryPolicy>>> {
        self.rule(table)?.retry.as_ref()
    }

    /// What is sent to several endpoints at once, if a policy for the rule says so.
    pub(crate) fn hedge(self, table: &RouteTable) -> Option<&Block<Arc<HedgePolicy>>> {
        self.rule(table)?.hedge.as_deref()
    }

    /// The faults that a policy for the rule has made.
    pub(crate) fn fault(self, table: &RouteTable) -> Option<&Block<Arc<FaultInjection>>> {
        // Most rules have none, and are not read for that.
        match self.faulty {
            true => self.rule(table)?.fault.as_ref(),
            false => None,
        }
    }

    /// What keeps users in their parts of the split, if a policy for the rule does.
    pub(crate) fn split_key(self, table: &RouteTable) -> Option<&Block<Arc<TrafficSplit>>> {
        self.sticky(table).map(|sticky| &sticky.by)
    }

    /// The cookie that the request is given, so that its user stays in a part of the split, and its value;
    /// `first` is what the match was drawn from.
    pub(crate) fn handed<'t>(
        self,
        table: &'t RouteTable,
        shown: Shown<'_>,
        first: Draw,
    ) -> Option<(&'t HashKey, Issued)> {
        let sticky = self.sticky(table)?;
        self.backend(table)?;
        sticky.handed(shown, first)
    }

    /// What leads a client to its backend and endpoint, if a policy for the rule does.
    pub(crate) fn session(self, table: &RouteTable) -> Option<&Block<Arc<SessionPersistence>>> {
        match self.sticky {
            true => self.rule(table)?.session.as_ref(),
            false => None,
        }
    }

    fn sticky(self, table: &RouteTable) -> Option<&Sticky> {
        match self.sticky {
            true => self.rule(table)?.sticky.as_deref(),
            false => None,
        }
    }

    /// The condition on the path that the request met; `None` if there was none.
    pub fn path(self, table: &RouteTable) -> Option<&PathMatch> {
        let entry = match self.entry {
            Place::Consumer(n) => table.http.consumers.get(n).map(|(_, entry)| entry),
            Place::Grpc | Place::Opaque => None,
            Place::Producer(n) => table.http.producers.get(n),
        };
        table.http.when(entry?).map(|when| &when.path)
    }

    /// Whether the rule or the backend has filters.
    pub fn has_filters(self, table: &RouteTable) -> bool {
        !(self.of_rule(table).is_empty() && self.of_target(table).is_empty())
    }

    /// The mirrors that take a copy of the request, each with its place.
    pub(crate) fn mirrors(
        self,
        table: &RouteTable,
    ) -> impl Iterator<Item = (MirrorPlace, &Mirror)> {
        let bits = self.mirrors;
        let places = (0..2 * FILTERS).filter(move |place| bits & 1 << place != 0);
        places.filter_map(move |place| {
            let place = MirrorPlace(place);
            Some((place, self.mirror(table, place)?))
        })
    }

    /// All mirrors of the rule and the backend, drawn or not, each with its place.
    pub(crate) fn all_mirrors(
        self,
        table: &RouteTable,
    ) -> impl Iterator<Item = (MirrorPlace, &Mirror)> {
        let places = (0..2 * FILTERS).map(MirrorPlace);
        places.filter_map(move |place| Some((place, self.mirror(table, place)?)))
    }

    /// The mirror at a place.
    pub(crate) fn mirror(self, table: &RouteTable, place: MirrorPlace) -> Option<&Mirror> {
        let filter = match place.0.checked_sub(FILTERS) {
            None => self.of_rule(table).get(place.0),
            Some(place) => self.of_target(table).get(place),
        };
        filter?.mirror()
    }

    /// Edits the head of a copy as the filters before its mirror say.
    pub(crate) fn edit_copy(
        self,
        table: &RouteTable,
        place: MirrorPlace,
        head: &mut RequestHead<'_>,
    ) {
        let path = self.path(table);
        let of_rule = self.of_rule(table).iter().take(place.0);
        let of_target = self.of_target(table).iter();
        for filter in of_rule.chain(of_target.take(place.0.saturating_sub(FILTERS))) {
            filter.edit_request(head, path);
        }
    }

    /// Edits a request's head as the rule and then the backend say.
    pub fn edit_request(self, table: &RouteTable, head: &mut RequestHead<'_>) {
        let path = self.path(table);
        for filter in self.of_rule(table).iter().chain(self.of_target(table)) {
            filter.edit_request(head, path);
        }
    }

    /// Edits an answer's header as the backend and then the rule say; `origin` is what its request says
    /// of where it comes from.
    pub fn edit_response(
        self,
        table: &RouteTable,
        headers: &mut HeaderMap,
        origin: Option<&HeaderValue>,
    ) {
        for filter in self.of_target(table).iter().chain(self.of_rule(table)) {
            filter.edit_response(headers, origin);
        }
    }

    fn rule(self, table: &RouteTable) -> Option<&RuleView> {
        let rules = match self.entry {
            Place::Grpc => &*table.grpc.as_ref()?.rules,
            Place::Opaque => &*table.opaque.as_ref()?.rules,
            Place::Consumer(_) | Place::Producer(_) => &*table.http.rules,
        };
        rules.get(self.rule)
    }

    fn target(self, table: &RouteTable) -> Option<&Target> {
        let targets = match self.entry {
            Place::Grpc => &*table.grpc.as_ref()?.targets,
            Place::Opaque => &*table.opaque.as_ref()?.targets,
            Place::Consumer(_) | Place::Producer(_) => &*table.http.targets,
        };
        targets.get(self.target?)
    }

    pub(super) fn of_rule(self, table: &RouteTable) -> &[Filter] {
        self.rule(table).map_or(&[], |rule| &rule.filters)
    }

    pub(super) fn of_target(self, table: &RouteTable) -> &[Filter] {
        self.target(table).map_or(&[], |target| &target.filters)
    }
}
