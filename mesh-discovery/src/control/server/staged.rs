//! A document that is staged, for sessions: which of them have it, and what they are asked to count. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use inmesh_core::model::{Namespace, ServiceName};
use inmesh_pki::Crypto;

use super::super::proto::delta::{Report, Watch};
use super::super::resource::Resource;
use crate::stage::{Counted, Offer, Tally, mark};

/// The least time between two reports of a member, in milliseconds; and that for each member more, so that all
/// of them report a thousand times a second at most.
const EVERY: u32 = 1_000;

/// What is staged.
pub(in crate::control) struct Staged {
    offer: Arc<Offer>,
    resource: Arc<Resource>,
    /// The version of the object in whose place it is.
    stable: Arc<str>,
    crypto: Crypto,
}

/// On which side of it a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum Side {
    /// It has what is staged.
    Canary,
    /// None are chosen yet.
    Open,
    /// It has the object as it is.
    Rest,
}

/// What a member has said.
#[derive(Debug, Clone)]
pub(in crate::control) struct Said {
    /// `None` cannot be chosen.
    pub(in crate::control) mark: Option<u64>,
    pub(in crate::control) report: Report,
}

// === impl Staged ===

impl Staged {
    pub(in crate::control) fn new(offer: Arc<Offer>, crypto: Crypto) -> Self {
        let of = |text: &str| Resource::of_document(&offer.key, text, &crypto);
        let (resource, stable) = (of(&offer.document), of(&offer.stable).version);
        Self {
            resource: resource.into(),
            stable,
            offer,
            crypto,
        }
    }

    /// The name of its object, as that is handed on.
    pub(in crate::control) fn name(&self) -> &Arc<str> {
        &self.resource.name
    }

    /// Whether it takes the place of something that a member is to have.
    pub(in crate::control) fn replaces(&self, wanted: &BTreeMap<Arc<str>, Arc<Resource>>) -> bool {
        let of = wanted.get(self.name());
        of.is_some_and(|of| of.version == self.stable)
    }

    /// What is handed on in its place.
    pub(in crate::control) fn resource(&self) -> &Arc<Resource> {
        &self.resource
    }

    /// Other Services that it leads to.
    pub(in crate::control) fn leads_to(&self) -> &BTreeSet<ServiceName> {
        &self.offer.leads_to
    }

    pub(in crate::control) fn is_of(&self, id: &str) -> bool {
        self.offer.id == id
    }

    /// The mark of a member of a namespace; `None` where it cannot be chosen.
    pub(in crate::control) fn mark(
        &self,
        namespace: &Namespace,
        id: &str,
        instance: &str,
    ) -> Option<u64> {
        let of = self.offer.namespace.as_ref();
        let can_be = of.is_none_or(|of| of == namespace);
        can_be.then(|| mark(&self.crypto, &self.offer.id, id, instance))
    }

    pub(in crate::control) fn side(&self, mark: Option<u64>) -> Side {
        match (self.offer.bound, mark) {
            (None, _) => Side::Open,
            (Some(bound), Some(mark)) if mark <= bound => Side::Canary,
            (Some(_), _) => Side::Rest,
        }
    }

    /// The name of a count: another for each side, so that it begins with that.
    fn count(&self, side: Side) -> String {
        let side = match side {
            Side::Canary => "canary",
            Side::Open => "open",
            Side::Rest => "rest",
        };
        format!("{}/{side}", self.offer.id)
    }

    /// What members of a side are asked to count, where there are so many in all.
    pub(in crate::control) fn watch(&self, side: Side, members: usize) -> Watch {
        let more = u32::try_from(members).unwrap_or(u32::MAX);
        Watch {
            id: self.count(side),
            services: self
                .offer
                .services
                .iter()
                .map(ToString::to_string)
                .collect(),
            object: self.resource.name.to_string(),
            every_millis: more.max(EVERY),
        }
    }

    /// Adds what a member has said, and why it refuses what is staged, if it does.
    pub(in crate::control) fn add(&self, said: &Said, refused: Option<&str>, tally: &mut Tally) {
        let side = self.side(said.mark);
        if said.report.id != self.count(side) {
            // Of another stage, or of before it was chosen.
            return;
        }
        let Report {
            requests,
            failed,
            took,
            ..
        } = &said.report;
        match said.mark {
            Some(mark) => tally.member(mark),
            None => tally.others += 1,
        }
        let counted = Counted::of_one(*requests, *failed, took);
        match side {
            Side::Canary => tally.canary.add(&counted),
            Side::Open => {}
            Side::Rest => tally.rest.add(&counted),
        }
        if let (Side::Canary, Some(why)) = (side, refused) {
            tally.refuse(why);
        }
    }
}
