//! The key by which a planned request stays in one part of its split. Pure.

use std::sync::Arc;

use http::HeaderValue;

use super::Planned;
use crate::balance::{Choice, Shown};
use crate::model::{Block, Draw};
use crate::traffic::TrafficSplit;

// === impl Planned ===

impl Planned {
    /// What keeps users in their parts of the split, if a policy for the rule does.
    pub(crate) fn split_key(&self) -> Option<&Block<Arc<TrafficSplit>>> {
        self.matched?.split_key(&self.asked.service.routes)
    }

    /// Whether a request that is planned so has the key of its split.
    pub(crate) fn has_split_key(&self, shown: Shown<'_>) -> bool {
        let key = self.split_key().map(|by| by.value.key());
        // What is drawn where it has none is left out.
        let choice = key.map(|key| key.choice(shown, &mut Draw::new(0)));
        matches!(choice, Some((Choice::Hash(_), None)))
    }

    /// Whether its answer hands out the cookie that is the key of its split.
    pub(crate) fn hands_out_split_key(&self) -> bool {
        self.rare
            .as_ref()
            .is_some_and(|rare| rare.kept.handed.is_some())
    }

    /// The field `Set-Cookie` that keeps its user in a part of the split.
    pub(super) fn cookie_of_split(&self) -> Option<HeaderValue> {
        let handed = self.rare.as_ref()?.kept.handed?;
        self.split_key()?.value.key().set_cookie(handed)
    }
}
