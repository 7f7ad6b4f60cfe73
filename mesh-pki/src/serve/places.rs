//! Connections in, places for them out: no address takes all places of a server before it has proven
//! anything, and no identity takes all of them after that.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::id::SpiffeId;

/// The part of all places that one address or one ID may have: a quarter, for many processes stand behind
/// one address, or have one ID.
const SHARE: usize = 4;

/// All places of one server, of which one address or one ID may have a part; clones share them.
///
/// ```
/// use inmesh_pki::serve::Places;
///
/// let places = Places::new(8);
/// let address = "192.0.2.1".parse()?;
/// let held: Vec<_> = (0..9).map_while(|_| places.take(address)).collect();
/// assert_eq!(held.len(), 2);
/// # Ok::<_, std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Places {
    each: usize,
    taken: Arc<Mutex<HashMap<Holder, usize>>>,
}

/// The holder of a place: what one caller is, as far as it is known.
///
/// ```
/// use inmesh_pki::serve::Holder;
///
/// let host = |text: &str| text.parse().map(Holder::address);
/// assert_eq!(host("2001:db8::1")?, host("2001:db8::2:1")?);
/// assert_ne!(host("192.0.2.1")?, host("192.0.2.2")?);
/// # Ok::<_, std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Holder(Known);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Known {
    Address(IpAddr),
    Id(SpiffeId),
}

/// One place, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Place {
    places: Places,
    holder: Holder,
}

// === impl Places ===

impl Places {
    /// Of so many connections in all, a quarter for each.
    pub fn new(connections: usize) -> Self {
        Self::each(connections / SHARE)
    }

    /// So many for each address or ID, and at least one.
    pub fn each(connections: usize) -> Self {
        Self {
            each: connections.max(1),
            taken: Arc::default(),
        }
    }

    /// A place for a connection from `address`, unless it has its share.
    pub fn take(&self, address: IpAddr) -> Option<Place> {
        self.place(Holder::address(address))
    }

    fn place(&self, holder: Holder) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(holder.clone()).or_default();
        if *count >= self.each {
            return None;
        }
        *count += 1;
        Some(Place {
            places: self.clone(),
            holder,
        })
    }
}

// === impl Holder ===

impl Holder {
    /// A caller that has proven nothing yet. An IPv6 network of 64 bits is one address: a host has all
    /// of it.
    pub fn address(address: IpAddr) -> Self {
        Self(Known::Address(network(address)))
    }

    /// A caller that has proven an ID.
    pub fn id(id: &SpiffeId) -> Self {
        Self(Known::Id(id.clone()))
    }
}

// === impl Place ===

impl Place {
    /// Makes it the place of `id`, which the connection has proven first. Returns false where that ID has
    /// its share already; the place stays the address's then.
    pub fn prove(&mut self, id: &SpiffeId) -> bool {
        if matches!(self.holder.0, Known::Id(_)) {
            return true;
        }
        match self.places.place(Holder::id(id)) {
            Some(place) => {
                *self = place;
                true
            }
            None => false,
        }
    }

    /// Makes it the place of `address`, for which a proxy has passed the connection on. Returns false
    /// where that has its share already; the place stays the proxy's then.
    pub fn pass_to(&mut self, address: IpAddr) -> bool {
        match self.places.take(address) {
            Some(place) => {
                *self = place;
                true
            }
            None => false,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let taken = &self.places.taken;
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.holder);
            }
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let bits = address.to_bits() & !u128::from(u64::MAX);
            Ipv6Addr::from_bits(bits).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::id;

    #[test]
    fn neither_an_address_nor_an_id_takes_all_places() {
        let places = Places::new(16);
        let address = |text: &str| -> IpAddr { text.parse().unwrap() };
        let take = |text: &str| places.take(address(text));
        let mut all: Vec<Place> = (0..9).map_while(|_| take("192.0.2.1")).collect();
        assert_eq!(all.len(), 4, "a quarter");
        assert!(take("::ffff:192.0.2.1").is_none(), "the same address");
        let mut other = take("192.0.2.2").unwrap();
        // What has proven an ID gives the address's place back.
        let (cart, web) = (id("spiffe://td/cart"), id("spiffe://td/web"));
        assert!(all.iter_mut().all(|place| place.prove(&cart)));
        let again: Vec<Place> = (0..9).map_while(|_| take("192.0.2.1")).collect();
        assert_eq!(again.len(), 4);
        assert!(!other.prove(&cart), "the ID has its share");
        assert!(other.prove(&web) && other.prove(&web));
        all.pop();
        let mut another = take("192.0.2.3").unwrap();
        assert!(another.prove(&cart));
        drop((all, again, other, another));
        assert!(places.taken.lock().unwrap().is_empty());
    }

    #[test]
    fn a_proxy_gives_its_place_to_each_caller_that_it_names() {
        let places = Places::new(8);
        let [proxy, caller, other] = [1, 2, 3].map(|n| IpAddr::from([192, 0, 2, n]));
        let passed: Vec<Place> = (0..4)
            .map_while(|_| {
                let mut place = places.take(proxy)?;
                place.pass_to(caller).then_some(place)
            })
            .collect();
        assert_eq!(passed.len(), 2, "a quarter for each caller");
        let mut place = places.take(proxy).unwrap();
        assert!(!place.pass_to(caller) && place.pass_to(other));
        drop((passed, place));
        assert!(places.taken.lock().unwrap().is_empty());
    }

    #[test]
    fn a_host_has_a_network_of_ipv6() {
        let places = Places::new(1);
        let first = places.take("2001:db8::1".parse().unwrap());
        assert!(first.is_some());
        assert!(places.take("2001:db8::2".parse().unwrap()).is_none());
        assert!(places.take("2001:db8:0:1::1".parse().unwrap()).is_some());
    }
}
