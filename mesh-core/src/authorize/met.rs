//! The first of several rules that a request meets, for what is decided besides whether it is permitted.

use inmesh_pki::id::TrustDomain;

use super::decide::{PeerParts, RequestParts, operations_match, sources_match};
use super::policy::PolicyRule;
use super::view::RequestView;
use crate::identify::Peer;

/// The place of the first rule that a request meets in one of its readings. What is not known of its
/// peer meets nothing.
pub(crate) fn first_met<'a>(
    mut rules: impl Iterator<Item = &'a PolicyRule>,
    own: Option<&TrustDomain>,
    peer: &Peer,
    request: &RequestView<'_>,
) -> Option<usize> {
    let (peer, parts) = (PeerParts::of(peer, own), RequestParts::of(request, true));
    let others = parts.others.as_ref().map(|others| others.readings(&parts));
    rules.position(|rule| {
        let one = |(method, path)| operations_match(rule, method, path, false);
        sources_match(rule, &peer, false)
            && match &others {
                None => one((parts.method, parts.path)),
                Some(readings) => readings.iter().copied().any(one),
            }
    })
}
