//! Which partners an event is for, interned: events of one subject share one.

use ess_core::id::{Digest, PartnerNo};

/// A set of partners, sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audience {
    partners: Vec<PartnerNo>,
    digest: Digest,
}

impl Audience {
    /// The set of these partners.
    #[must_use]
    pub fn new(mut partners: Vec<PartnerNo>) -> Self {
        partners.sort_unstable();
        partners.dedup();
        let digest = Digest::of(&encode(&partners));
        Self { partners, digest }
    }

    /// The partners, by number.
    #[must_use]
    pub fn partners(&self) -> &[PartnerNo] {
        &self.partners
    }

    /// Whether the partner is one of them.
    #[must_use]
    pub fn contains(&self, partner: PartnerNo) -> bool {
        self.partners.binary_search(&partner).is_ok()
    }

    /// How many they are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.partners.len()
    }

    /// Whether it is for nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.partners.is_empty()
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        encode(&self.partners)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut rest, mut partners, mut last) = (bytes, Vec::new(), 0u64);
        while !rest.is_empty() {
            last = last.checked_add(read_varint(&mut rest)?)?;
            partners.push(PartnerNo(u32::try_from(last).ok()?));
        }
        Some(Self::new(partners))
    }
}

/// For nobody.
impl Default for Audience {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

/// Distances between neighbours as varints: 10,000 partners in a row take 10 KB.
fn encode(partners: &[PartnerNo]) -> Vec<u8> {
    let (mut out, mut last) = (Vec::with_capacity(partners.len()), 0);
    for PartnerNo(no) in partners {
        write_varint(u64::from(no - last), &mut out);
        last = *no;
    }
    out
}

/// LEB128, unsigned.
pub(crate) fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_stays_as_it_is() {
        let audience = Audience::new([300, 1, 2, 2].map(PartnerNo).to_vec());
        assert_eq!(audience.encode(), [1, 1, 0xaa, 2]);
        assert_eq!(Audience::default(), Audience::new(Vec::new()));
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_back(numbers in proptest::collection::vec(0u32.., 0..200)) {
            let audience = Audience::new(numbers.into_iter().map(PartnerNo).collect());
            proptest::prop_assert_eq!(Audience::decode(&audience.encode()), Some(audience));
        }

        #[test]
        fn any_bytes_are_an_audience_or_none(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60)) {
            let _ = Audience::decode(&bytes);
        }
    }
}
