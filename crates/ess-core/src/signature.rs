//! Standard Webhooks signatures: `v1` (HMAC-SHA256) and `v1a` (Ed25519).
//!
//! Source: <https://www.standardwebhooks.com>, specification, sections "Signature scheme" and "Verifying". What is signed is
//! `{id}.{timestamp}.{body}`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey, Verifier as _, VerifyingKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

/// A partner's secret for `v1`: 24 to 64 bytes.
#[derive(Clone)]
pub struct SigningSecret {
    bytes: Zeroizing<Vec<u8>>,
    /// The key schedule, done once.
    keyed: Hmac<Sha256>,
}

impl SigningSecret {
    /// A secret of these random bytes.
    #[must_use]
    pub fn from_random(random: [u8; 32]) -> Self {
        Self::from_bytes(random.to_vec())
    }

    /// Reads `whsec_<base64>`.
    ///
    /// # Errors
    /// No such prefix, no base64, or fewer than 24 or more than 64 bytes.
    pub fn parse(text: &str) -> Result<Self, String> {
        let encoded = text.strip_prefix("whsec_").ok_or("a signing secret begins with whsec_")?;
        let bytes = STANDARD.decode(encoded).map_err(|_| "a signing secret is base64 after whsec_")?;
        if !(24..=64).contains(&bytes.len()) {
            return Err("a signing secret is 24 to 64 bytes".to_owned());
        }
        Ok(Self::from_bytes(bytes))
    }

    /// `whsec_<base64>`.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("whsec_{}", STANDARD.encode(self.bytes.as_slice()))
    }

    fn from_bytes(bytes: Vec<u8>) -> Self {
        // Invariant: HMAC takes keys of any length.
        let keyed = Hmac::<Sha256>::new_from_slice(&bytes).expect("any length is a key");
        Self { bytes: Zeroizing::new(bytes), keyed }
    }
}

impl std::fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningSecret(hidden)")
    }
}

/// The hub's key for `v1a`.
#[derive(Clone)]
pub struct Ed25519Key(SigningKey);

impl Ed25519Key {
    /// The key of this seed.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// The public key as `whpk_<base64>`.
    #[must_use]
    pub fn public(&self) -> String {
        format!("whpk_{}", STANDARD.encode(self.0.verifying_key().as_bytes()))
    }
}

impl Ed25519Key {
    /// The public key.
    #[must_use]
    pub fn public_key(&self) -> Ed25519Public {
        Ed25519Public(self.0.verifying_key())
    }

    /// Signs any bytes.
    #[must_use]
    pub fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        self.0.sign(bytes).to_bytes()
    }
}

/// A public key, for those who check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ed25519Public(VerifyingKey);

impl Ed25519Public {
    /// The key of these bytes; `None` when they are no key.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Option<Self> {
        VerifyingKey::from_bytes(&bytes).ok().map(Self)
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// Whether the key's owner signed these bytes.
    #[must_use]
    pub fn verify(&self, bytes: &[u8], signature: &[u8; 64]) -> bool {
        // Strict: a key of small order, which signs anything, is refused.
        self.0.verify_strict(bytes, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
    }
}

impl std::fmt::Debug for Ed25519Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ed25519Key({})", self.public())
    }
}

/// `v1,<base64>`.
#[must_use]
pub fn sign_v1(secret: &SigningSecret, id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let mut mac = secret.keyed.clone();
    mac.update(head(id, timestamp_s).as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// `v1a,<base64>`.
#[must_use]
pub fn sign_v1a(key: &Ed25519Key, id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let mut signed = head(id, timestamp_s).into_bytes();
    signed.extend_from_slice(body);
    format!("v1a,{}", STANDARD.encode(key.0.sign(&signed).to_bytes()))
}

/// Whether one of the blank-separated signatures is this secret's `v1`. The comparison takes the same time for any difference.
#[must_use]
pub fn is_signed_v1(secret: &SigningSecret, id: &str, timestamp_s: i64, body: &[u8], signatures: &str) -> bool {
    signatures.split(' ').filter_map(|signature| signature.strip_prefix("v1,")).any(|encoded| {
        let Ok(signature) = STANDARD.decode(encoded) else { return false };
        let mut mac = secret.keyed.clone();
        mac.update(head(id, timestamp_s).as_bytes());
        mac.update(body);
        mac.verify_slice(&signature).is_ok()
    })
}

/// Whether one of the blank-separated signatures is `v1a` of this public key (`whpk_…`).
#[must_use]
pub fn is_signed_v1a(public: &str, id: &str, timestamp_s: i64, body: &[u8], signatures: &str) -> bool {
    let key = public.strip_prefix("whpk_").and_then(|encoded| STANDARD.decode(encoded).ok());
    let key = key.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let Some(key) = key.and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok()) else { return false };
    let mut signed = head(id, timestamp_s).into_bytes();
    signed.extend_from_slice(body);
    signatures.split(' ').filter_map(|signature| signature.strip_prefix("v1a,")).any(|encoded| {
        let signature = STANDARD.decode(encoded).ok().and_then(|bytes| <[u8; 64]>::try_from(bytes).ok());
        signature.is_some_and(|bytes| key.verify(&signed, &ed25519_dalek::Signature::from_bytes(&bytes)).is_ok())
    })
}

fn head(id: &str, timestamp_s: i64) -> String {
    format!("{id}.{timestamp_s}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specifications_own_example_is_signed_the_same() {
        // From the Standard Webhooks reference implementations' tests.
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = sign_v1(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn secrets_are_hidden_and_bounded() {
        let secret = SigningSecret::from_random([7; 32]);
        assert!(!format!("{secret:?}").contains("Bw"));
        assert_eq!(SigningSecret::parse(&secret.reveal()).unwrap().reveal(), secret.reveal());
        for bad in ["", "whsec_", "whsec_!!!!", "whsec_QUJD", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            assert!(SigningSecret::parse(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_signature_fits_its_message_only(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), at in 0i64..9_999_999_999, flip in 0usize..200) {
            let secret = SigningSecret::from_random([1; 32]);
            let key = Ed25519Key::from_seed([2; 32]);
            let both = format!("{} {}", sign_v1(&secret, "msg_1", at, &body), sign_v1a(&key, "msg_1", at, &body));
            proptest::prop_assert!(is_signed_v1(&secret, "msg_1", at, &body, &both));
            proptest::prop_assert!(is_signed_v1a(&key.public(), "msg_1", at, &body, &both));
            let mut other = body.clone();
            if other.is_empty() { other.push(0) } else { let at = flip % other.len(); other[at] ^= 1; }
            proptest::prop_assert!(!is_signed_v1(&secret, "msg_1", at, &other, &both));
            proptest::prop_assert!(!is_signed_v1a(&key.public(), "msg_1", at, &other, &both));
        }
    }
}
