//! Secrets at rest: ChaCha20-Poly1305 under a key that lies beside the database, readable by the hub's user only.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};

use crate::error::StoreError;

const NONCE_BYTES: usize = 12;

/// Seals and opens.
pub(crate) struct Seal {
    cipher: ChaCha20Poly1305,
}

impl Seal {
    /// Reads the key file, or makes it.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let fail = |error: &dyn std::fmt::Display| StoreError::Open(format!("{}: {error}", path.display()));
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut key = vec![0u8; 32];
                getrandom::fill(&mut key).map_err(|error| fail(&error))?;
                let mut file = std::fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(path)
                    .map_err(|error| fail(&error))?;
                file.write_all(&key).and_then(|()| file.sync_all()).map_err(|error| fail(&error))?;
                key
            }
            Err(error) => return Err(fail(&error)),
        };
        let key: [u8; 32] = bytes.try_into().map_err(|_| fail(&"the key must be 32 bytes"))?;
        Ok(Self { cipher: ChaCha20Poly1305::new(&Key::from(key)) })
    }

    /// Seals `text` for `place`: it opens there and nowhere else.
    pub(crate) fn seal(&self, place: &str, text: &[u8]) -> Result<Vec<u8>, StoreError> {
        let mut nonce = [0u8; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let payload = Payload { msg: text, aad: place.as_bytes() };
        let sealed = self
            .cipher
            .encrypt(&Nonce::from(nonce), payload)
            .map_err(|_| StoreError::Unavailable("could not seal a secret".to_owned()))?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// Opens what was sealed for `place`.
    pub(crate) fn unseal(&self, place: &str, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let damaged = || StoreError::Damaged(format!("{place} does not open with this seal.key"));
        let (nonce, text) = sealed.split_at_checked(NONCE_BYTES).ok_or_else(damaged)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| damaged())?;
        let payload = Payload { msg: text, aad: place.as_bytes() };
        self.cipher.decrypt(&Nonce::from(nonce), payload).map_err(|_| damaged())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_in_its_own_place_only() {
        let dir = tempfile::tempdir().unwrap();
        let seal = Seal::open(&dir.path().join("seal.key")).unwrap();
        let sealed = seal.seal("partner/1", b"whsec_x").unwrap();
        assert!(!sealed.windows(7).any(|window| window == b"whsec_x"));
        assert_eq!(Seal::open(&dir.path().join("seal.key")).unwrap().unseal("partner/1", &sealed).unwrap(), b"whsec_x");
        assert!(seal.unseal("partner/2", &sealed).is_err());
    }
}
