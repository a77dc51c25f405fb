//! SCRAM: a user shows that it knows the password, and the server that it does too, without either saying it.
//!
//! Source: RFC 5802 and RFC 7677. The nonce is an argument; what a server asks for is bounded, or it could make the hub
//! compute for hours.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256, Sha512};
use zeroize::Zeroizing;

/// Rounds that a server may ask for: RFC 7677 wants 4,096 at least, and Kafka allows 16,384 at most.
const ROUNDS: std::ops::RangeInclusive<u32> = 4_096..=32_768;

/// Which digest it is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

/// A log-in that has begun.
#[derive(Debug)]
pub struct Scram {
    digest: Digest,
    /// The first message without its header.
    first: String,
    nonce: String,
}

/// The client's last word, and what the server must answer it with.
pub struct Proof {
    /// What is sent.
    pub message: String,
    signature: Vec<u8>,
}

impl Scram {
    /// Begins with a nonce of printable characters without a comma.
    #[must_use]
    pub fn begin(digest: Digest, user: &str, nonce: &str) -> Self {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        Self { digest, first: format!("n={user},r={nonce}"), nonce: nonce.to_owned() }
    }

    /// The client's first message.
    #[must_use]
    pub fn first_message(&self) -> String {
        format!("n,,{}", self.first)
    }

    /// Answers the server's first message.
    ///
    /// # Errors
    /// It is not one, its nonce does not begin with ours, or it asks for too few or too many rounds.
    pub fn answer(&self, server_first: &str, password: &str) -> Result<Proof, String> {
        let malformed = || "the server's part of SCRAM is malformed".to_owned();
        let part = |name: &str| server_first.split(',').find_map(|part| part.strip_prefix(name));
        let (nonce, salt) = (part("r=").ok_or_else(malformed)?, part("s=").ok_or_else(malformed)?);
        let salt = STANDARD.decode(salt).map_err(|_| malformed())?;
        let rounds: u32 = part("i=").and_then(|rounds| rounds.parse().ok()).ok_or_else(malformed)?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() || salt.is_empty() {
            return Err("the server answered another log-in than this one".to_owned());
        }
        if !ROUNDS.contains(&rounds) {
            return Err(format!("the server asks for {rounds} rounds of SCRAM; taken are 4,096 to 32,768"));
        }
        let without_proof = format!("c=biws,r={nonce}");
        let signed = format!("{},{server_first},{without_proof}", self.first);
        let salted = Zeroizing::new(match self.digest {
            Digest::Sha256 => stretched::<Hmac<Sha256>>(password, &salt, rounds),
            Digest::Sha512 => stretched::<Hmac<Sha512>>(password, &salt, rounds),
        });
        let client_key = Zeroizing::new(self.digest.mac(&salted, b"Client Key"));
        let client_signature = self.digest.mac(&self.digest.of(&client_key), signed.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&client_signature).map(|(key, signature)| key ^ signature).collect();
        let signature = self.digest.mac(&self.digest.mac(&salted, b"Server Key"), signed.as_bytes());
        Ok(Proof { message: format!("{without_proof},p={}", STANDARD.encode(proof)), signature })
    }
}

impl Proof {
    /// Whether the server's last message shows that it knows the password too.
    #[must_use]
    pub fn is_answered_by(&self, server_last: &str) -> bool {
        let shown = server_last.split(',').find_map(|part| part.strip_prefix("v="));
        shown.and_then(|shown| STANDARD.decode(shown).ok()).is_some_and(|shown| shown == self.signature)
    }
}

impl Digest {
    fn of(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Digest::Sha256 => Sha256::digest(bytes).to_vec(),
            Digest::Sha512 => Sha512::digest(bytes).to_vec(),
        }
    }

    fn mac(self, key: &[u8], bytes: &[u8]) -> Vec<u8> {
        match self {
            Digest::Sha256 => keyed::<Hmac<Sha256>>(key).chain_update(bytes).finalize().into_bytes().to_vec(),
            Digest::Sha512 => keyed::<Hmac<Sha512>>(key).chain_update(bytes).finalize().into_bytes().to_vec(),
        }
    }
}

fn keyed<M: Mac + KeyInit>(key: &[u8]) -> M {
    // Invariant: HMAC takes keys of any length.
    <M as KeyInit>::new_from_slice(key).expect("any length is a key")
}

/// `Hi` of RFC 5802: PBKDF2 with one block.
fn stretched<M: Mac + KeyInit + Clone>(password: &str, salt: &[u8], rounds: u32) -> Vec<u8> {
    let password: M = keyed(password.as_bytes());
    let mut last = password.clone().chain_update(salt).chain_update(1_u32.to_be_bytes()).finalize().into_bytes();
    let mut all = last.to_vec();
    for _ in 1..rounds {
        last = password.clone().chain_update(&last).finalize().into_bytes();
        all.iter_mut().zip(&last).for_each(|(all, last)| *all ^= last);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exchange_of_rfc_7677_comes_out() {
        let scram = Scram::begin(Digest::Sha256, "user", "rOprNGfwEbeRWgbNEkqO");
        assert_eq!(scram.first_message(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let first = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let proof = scram.answer(first, "pencil").unwrap();
        let wanted = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(proof.message, wanted);
        assert!(proof.is_answered_by("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert!(
            !proof.is_answered_by("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=") && !proof.is_answered_by("e=x")
        );
    }

    #[test]
    fn a_server_cannot_choose_what_is_computed() {
        let scram = Scram::begin(Digest::Sha512, "a,b=c", "abc");
        assert_eq!(scram.first_message(), "n,,n=a=2Cb=3Dc,r=abc");
        for wrong in [
            "",
            "r=abcd,s=AA==",
            "r=abc,s=AA==,i=4096",
            "r=xyz,s=AA==,i=4096",
            "r=abcd,s=,i=4096",
            "r=abcd,s=AA==,i=1",
            "r=abcd,s=AA==,i=2000000000",
            "r=abcd,s=AA==,i=99999999999",
        ] {
            assert!(scram.answer(wrong, "pencil").is_err(), "{wrong}");
        }
        assert!(scram.answer("r=abcd,s=AA==,i=4096", "pencil").is_ok());
    }
}
