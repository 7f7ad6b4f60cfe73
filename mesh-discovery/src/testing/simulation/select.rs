//! Which endpoints a file means.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use inmesh_core::model::ServiceName;

use crate::testing::World;

/// The endpoints that documents have, each with its Services.
pub(super) type Known = BTreeMap<SocketAddr, Vec<ServiceName>>;

/// What names endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selector {
    /// All at an address.
    Address(IpAddr),
    /// All of a Service, as `name.namespace`, or of a host name.
    Name(String),
    /// The one at an address and a port.
    Place(SocketAddr),
}

// === impl Selector ===

impl Selector {
    pub(super) fn parse(text: &str) -> Self {
        match (text.parse(), text.parse()) {
            (Ok(address), _) => Self::Address(address),
            (_, Ok(place)) => Self::Place(place),
            _ => Self::Name(text.into()),
        }
    }

    fn selects(&self, world: &World, place: SocketAddr, services: &[ServiceName]) -> bool {
        match self {
            Self::Address(address) => place.ip() == *address,
            Self::Place(named) => place == *named,
            Self::Name(name) => {
                let host = world.stand_ins().iter();
                let mut host = host.filter(|(_, address)| *address == place.ip());
                services.iter().any(|service| service.to_string() == *name)
                    || host.any(|(host, _)| host.to_string() == *name)
            }
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
            Self::Place(place) => place.fmt(f),
        }
    }
}

/// The endpoints that are named, in order; all where nothing is.
///
/// # Errors
///
/// The name that selects none.
pub(super) fn select(
    world: &World,
    known: &Known,
    named: &[Selector],
) -> Result<Vec<SocketAddr>, String> {
    if named.is_empty() {
        return Ok(known.keys().copied().collect());
    }
    let mut all = BTreeSet::new();
    for name in named {
        let of = known.iter();
        let of = of.filter(|(at, services)| name.selects(world, **at, services));
        let found: Vec<_> = of.map(|(at, _)| *at).collect();
        if found.is_empty() {
            return Err(format!("no endpoint of the documents is {name}"));
        }
        all.extend(found);
    }
    Ok(all.into_iter().collect())
}
