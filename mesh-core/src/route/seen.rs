//! What matched, as an explanation shows it: the split that was drawn from, and the filters.

use serde_json::Value;

use super::matched::{Matched, Place};
use super::shown::filter;
use super::table::RouteTable;
use crate::model::ServiceName;

// === impl Matched ===

impl Matched {
    /// The backends that were drawn from: Service, port and weight, and whether it was drawn.
    pub(crate) fn split(self, table: &RouteTable) -> Vec<(&ServiceName, u16, u32, bool)> {
        let (http, grpc) = (&table.http, table.grpc.as_deref());
        let (targets, places) = match self.entry {
            Place::Consumer(n) => {
                let entry = http.consumers.get(n).map(|(_, entry)| entry);
                (&*http.targets, entry.map(|entry| entry.targets))
            }
            Place::Producer(n) => {
                let entry = http.producers.get(n);
                (&*http.targets, entry.map(|entry| entry.targets))
            }
            Place::Grpc => {
                let mut entries = grpc.into_iter().flat_map(|of| &of.entries);
                let of_rule = entries.find(|entry| entry.rule == self.rule);
                let targets = grpc.map_or(&[][..], |of| &of.targets);
                (targets, of_rule.map(|entry| entry.targets))
            }
            Place::Opaque => {
                let of = table.opaque.as_deref();
                let mut entries = of.into_iter().flat_map(|of| &of.entries);
                let of_rule = entries.find(|entry| entry.rule == self.rule);
                let targets = of.map_or(&[][..], |of| &of.targets);
                (targets, of_rule.map(|entry| entry.targets))
            }
        };
        let (from, to) = places.unwrap_or_default();
        let targets = targets.get(from..to).unwrap_or_default();
        let drawn = |nth| self.target == Some(from + nth);
        let shares = targets.iter().enumerate();
        shares
            .map(|(n, t)| (&t.service, t.port, t.weight, drawn(n)))
            .collect()
    }

    /// The filters of the rule and then of the backend, in the words of documents, and whether each is
    /// the backend's.
    pub(crate) fn filters(self, table: &RouteTable) -> Vec<(Value, bool)> {
        let of_rule = self.of_rule(table).iter().map(|f| (filter(f), false));
        let of_target = self.of_target(table).iter().map(|f| (filter(f), true));
        of_rule.chain(of_target).collect()
    }
}
