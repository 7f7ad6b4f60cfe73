//! The slices of endpoints that serve, so that a simulation can change them. Pure.

use std::sync::Arc;

use super::change::Object;
use super::state::Snapshot;
use crate::model::{Slice, SourceId};

impl Snapshot {
    /// The slices that serve, each with its source, in order of their keys.
    pub(crate) fn slices(&self) -> Vec<(SourceId, Arc<Slice>)> {
        let versions = self.objects.values();
        let good = versions.filter_map(|versions| {
            let winner = versions.winner()?;
            match winner.good.as_ref()? {
                Object::Slice(slice) => Some((winner.source.clone(), Arc::clone(slice))),
                _ => None,
            }
        });
        let mut slices: Vec<_> = good.collect();
        slices.sort_by(|(_, a), (_, b)| a.key.cmp(&b.key));
        slices
    }
}
