//! The names of what is handed on, and of what is subscribed to. Pure.

use std::fmt;

use inmesh_core::discover::Wanted;
use inmesh_core::model::{InvalidName, Kind, Namespace, ObjectKey, ServiceName};

/// The type of all resources.
pub(super) const TYPE: &str = "type.googleapis.com/inmesh.control.v1.Object";
/// The type of what an acknowledgement refuses.
pub(super) const REFUSAL: &str = "type.googleapis.com/inmesh.control.v1.Refusal";
/// What stands as the version of a subscription among what is known: how it was answered on an earlier stream.
pub(super) const FOUND: &str = "found";
pub(super) const ABSENT: &str = "absent";
/// The subscription to every Service.
const ALL: &str = "*";

/// The kinds that are handed on.
const KINDS: &[Kind] = &[
    Kind::AuthorizationPolicy,
    Kind::BackendTlsPolicy,
    Kind::ConfigMap,
    Kind::EndpointSlice,
    Kind::GrpcRoute,
    Kind::HttpRoute,
    Kind::Service,
    Kind::ServiceEntry,
    Kind::TcpRoute,
    Kind::TlsRoute,
    Kind::TrafficPolicy,
];

/// What a subscriber asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subscription {
    /// All Services.
    All,
    /// One, by what leads to it.
    One(Wanted),
}

/// A name that means nothing here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names nothing that is handed on")]
pub(super) struct UnknownName(pub(super) String);

/// The key of a resource by its name, as [`ObjectKey`] shows it.
pub(super) fn key(name: &str) -> Result<ObjectKey, UnknownName> {
    let unknown = || UnknownName(name.chars().take(128).collect());
    let mut parts = name.splitn(3, '/');
    let (Some(kind), Some(namespace), Some(of)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(unknown());
    };
    let kind = KINDS.iter().find(|known| known.to_string() == kind);
    let key = |kind: &Kind| -> Result<ObjectKey, InvalidName> {
        ObjectKey::new(kind.clone(), &Namespace::new(namespace)?, of)
    };
    key(kind.ok_or_else(unknown)?).map_err(|_| unknown())
}

// === impl Subscription ===

impl Subscription {
    pub(super) fn parse(name: &str) -> Result<Self, UnknownName> {
        let unknown = || UnknownName(name.chars().take(128).collect());
        if name == ALL {
            return Ok(Self::All);
        }
        let (kind, of) = name.split_once('/').ok_or_else(unknown)?;
        let wanted = match kind {
            "address" => of.parse().ok().map(Wanted::Address),
            // In the form in which it is shown, and no other.
            "host" => Some(Wanted::Host(of.into())).filter(is_host),
            "service" => of.split_once('/').and_then(|(namespace, name)| {
                let namespace = Namespace::new(namespace).ok()?;
                Some(Wanted::Service(ServiceName::new(&namespace, name).ok()?))
            }),
            _ => None,
        };
        wanted.map(Self::One).ok_or_else(unknown)
    }
}

/// Whether a host is one that a subscriber asks for.
fn is_host(wanted: &Wanted) -> bool {
    let Wanted::Host(host) = wanted else {
        return false;
    };
    let somewhere = Namespace::new("x").expect("it is a label");
    Wanted::host(host, &somewhere).as_ref() == Some(wanted)
}

impl fmt::Display for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str(ALL),
            Self::One(wanted) => wanted.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_are_read_as_they_are_shown() {
        for name in [
            "*",
            "address/10.96.0.1",
            "address/fd00::1",
            "host/cart.shop",
            "host/api.example.com",
            "service/shop/cart",
        ] {
            let read = Subscription::parse(name);
            assert_eq!(read.map(|read| read.to_string()).as_deref(), Ok(name));
        }
        for name in [
            "",
            "cart",
            "host/",
            "host/Cart.shop",
            "host/cart",
            "host/a b.c",
            "host/10.0.0.1",
            "address/cart",
            "service/shop",
            "service/shop/a/b",
            "service/Shop/cart",
            "pod/shop/cart",
        ] {
            assert!(Subscription::parse(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn keys_are_read_as_they_are_shown() {
        let shop = Namespace::new("shop").unwrap();
        for kind in KINDS {
            let own = ObjectKey::new(kind.clone(), &shop, "cart").unwrap();
            assert_eq!(key(&own.to_string()), Ok(own));
        }
        for name in [
            "Pod/shop/cart",
            "Service/shop",
            "Service/shop/a/b",
            "Service//a",
            "",
        ] {
            assert!(key(name).is_err(), "{name:?}");
        }
    }
}
