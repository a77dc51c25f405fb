//! The link in a mail by which a person acknowledges: which delivery it is for, until when, and the hub's mark that it made it.
//!
//! A link names nobody and holds no content. It never counts by being opened, and what is not exactly what this hub made is no link.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::delivery::DeliveryKey;
use crate::id::{PartnerNo, Seq};
use crate::time::Time;

/// The first byte, so that another form can come later; it also parts these marks from all others of the key.
const FORM: u8 = 1;
const BODY_BYTES: usize = 1 + 8 + 4 + 4 + 8;
const MARK_BYTES: usize = 32;

/// Which delivery a link is for, and until when it is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckLink {
    /// The delivery; event number 0 is the test of an address.
    pub delivery: DeliveryKey,
    /// From then on it is not taken.
    pub expires: Time,
}

/// The key that marks links.
pub struct LinkKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkKey(sealed)")
    }
}

/// Why a text is no link that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// This hub did not make it.
    #[error("this link was not made by this hub, or a part of it is missing")]
    Foreign,
    /// It is too old.
    #[error("this link has expired")]
    Expired,
}

impl LinkKey {
    /// A key of these random bytes.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(Zeroizing::new(seed))
    }

    fn keyed(&self, body: &[u8]) -> Hmac<Sha256> {
        // Invariant: HMAC takes keys of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_slice()).expect("any length is a key");
        mac.update(b"hms-ess ack link\0");
        mac.update(body);
        mac
    }
}

impl AckLink {
    /// The text of the link's last part.
    #[must_use]
    pub fn token(&self, key: &LinkKey) -> String {
        let mut bytes = Vec::with_capacity(BODY_BYTES + MARK_BYTES);
        bytes.push(FORM);
        bytes.extend_from_slice(&self.delivery.seq.0.to_be_bytes());
        bytes.extend_from_slice(&self.delivery.partner.0.to_be_bytes());
        bytes.extend_from_slice(&self.delivery.round.to_be_bytes());
        bytes.extend_from_slice(&self.expires.as_micros().to_be_bytes());
        let mark = key.keyed(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(&mark);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a link's last part; the mark is compared in the same time whatever is wrong with it.
    ///
    /// # Errors
    /// It is not this hub's, or has expired at `now`.
    pub fn open(token: &str, key: &LinkKey, now: Time) -> Result<Self, LinkError> {
        if token.len() > 2 * (BODY_BYTES + MARK_BYTES) {
            return Err(LinkError::Foreign);
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| LinkError::Foreign)?;
        let (body, mark) = bytes.split_at_checked(BODY_BYTES).ok_or(LinkError::Foreign)?;
        key.keyed(body).verify_slice(mark).map_err(|_| LinkError::Foreign)?;
        let link = Self::read(body).ok_or(LinkError::Foreign)?;
        if link.expires <= now { Err(LinkError::Expired) } else { Ok(link) }
    }

    fn read(body: &[u8]) -> Option<Self> {
        let (form, rest) = body.split_first_chunk::<1>()?;
        let (seq, rest) = rest.split_first_chunk::<8>()?;
        let (partner, rest) = rest.split_first_chunk::<4>()?;
        let (round, rest) = rest.split_first_chunk::<4>()?;
        let expires = rest.first_chunk::<8>()?;
        let delivery = DeliveryKey {
            seq: Seq(u64::from_be_bytes(*seq)),
            partner: PartnerNo(u32::from_be_bytes(*partner)),
            round: u32::from_be_bytes(*round),
        };
        (form[0] == FORM).then_some(Self { delivery, expires: Time::from_micros(i64::from_be_bytes(*expires)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> AckLink {
        let delivery = DeliveryKey { seq: Seq(7), partner: PartnerNo(3), round: 1 };
        AckLink { delivery, expires: Time::from_micros(1_000) }
    }

    #[test]
    fn a_link_is_read_back_until_it_expires() {
        let key = LinkKey::from_seed([7; 32]);
        let token = link().token(&key);
        assert_eq!(AckLink::open(&token, &key, Time::from_micros(999)), Ok(link()));
        assert_eq!(AckLink::open(&token, &key, Time::from_micros(1_000)), Err(LinkError::Expired));
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{token}");
    }

    #[test]
    fn a_link_that_was_changed_or_made_elsewhere_is_none() {
        let (key, now) = (LinkKey::from_seed([7; 32]), Time::from_micros(0));
        let token = link().token(&key);
        assert_eq!(AckLink::open(&token, &LinkKey::from_seed([8; 32]), now), Err(LinkError::Foreign));
        for text in ["", "x", "AAAA", &"A".repeat(4_000), &token[1..], &token[..token.len() - 1], &format!("{token}A")]
        {
            assert_eq!(AckLink::open(text, &key, now), Err(LinkError::Foreign), "{text}");
        }
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert_eq!(AckLink::open(&URL_SAFE_NO_PAD.encode(changed), &key, now), Err(LinkError::Foreign), "{place}");
        }
    }
}
