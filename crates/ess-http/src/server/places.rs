//! Who holds how many connections. Never lets one address take them all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// The places of a listener.
#[derive(Debug)]
pub(crate) struct Places {
    all_max: usize,
    per_peer_max: usize,
    /// Guards the counts; held for one change.
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_peer: HashMap<IpAddr, usize>,
}

/// One place; free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    peer: IpAddr,
}

impl Places {
    /// This many in all, this many for one address.
    pub(crate) fn new(all_max: usize, per_peer_max: usize) -> Self {
        Self { all_max, per_peer_max, taken: Mutex::default() }
    }

    /// Takes a place, if there is one.
    pub(crate) fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let peer = network(peer);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= self.all_max || taken.by_peer.get(&peer).is_some_and(|count| *count >= self.per_peer_max) {
            return None;
        }
        taken.all += 1;
        *taken.by_peer.entry(peer).or_default() += 1;
        Some(Place { places: self.clone(), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(count) = taken.by_peer.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                taken.by_peer.remove(&self.peer);
            }
        }
    }
}

/// Whoever has one IPv6 address has its whole /64.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_all_and_for_one_address() {
        let places = Arc::new(Places::new(3, 2));
        let [a, b, c] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|text| text.parse::<IpAddr>().unwrap());
        let first = places.take(a).unwrap();
        let _second = places.take(a).unwrap();
        assert!(places.take(a).is_none());
        let _third = places.take(b).unwrap();
        assert!(places.take(c).is_none());
        drop(first);
        assert!(places.take(c).is_some());
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_peer() {
        let places = Arc::new(Places::new(3, 1));
        let _first = places.take("2001:db8::1".parse().unwrap()).unwrap();
        assert!(places.take("2001:db8::2".parse().unwrap()).is_none());
        assert!(places.take("2001:db8:0:1::2".parse().unwrap()).is_some());
    }
}
