//! Secrets at rest: ChaCha20-Poly1305 under a key that lies beside the database, readable by the hub's user only.
//!
//! A sealed text is a random nonce of 12 bytes and the cipher's output. The place that it stands in (table, row and column) is its
//! associated data: put into another place it does not open.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};

use crate::error::StoreError;

const NONCE_BYTES: usize = 12;
const KEY_BYTES: usize = 32;

/// Seals and opens.
pub(crate) struct Seal {
    cipher: ChaCha20Poly1305,
}

impl Seal {
    /// Reads the key file; `None` when there is none.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, StoreError> {
        let fail = |error: &dyn std::fmt::Display| StoreError::Open(format!("{}: {error}", path.display()));
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(&error)),
        };
        let mode = std::fs::metadata(path).map_err(|error| fail(&error))?.permissions().mode();
        if mode & 0o077 != 0 {
            tracing::warn!(file = %path.display(), "the sealing key can be read by others; set its mode to 0600");
        }
        let key: [u8; KEY_BYTES] = bytes.try_into().map_err(|_| fail(&"the key must be 32 bytes"))?;
        Ok(Some(Self { cipher: ChaCha20Poly1305::new(&Key::from(key)) }))
    }

    /// Makes a key file. A crash leaves a whole file or none.
    pub(crate) fn make(path: &Path) -> Result<Self, StoreError> {
        let fail = |error: &dyn std::fmt::Display| StoreError::Open(format!("{}: {error}", path.display()));
        let mut key = [0u8; KEY_BYTES];
        getrandom::fill(&mut key).map_err(|error| fail(&error))?;
        let unfinished = path.with_extension("key.new");
        let write = || -> std::io::Result<()> {
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
            file.write_all(&key)?;
            file.sync_all()?;
            std::fs::rename(&unfinished, path)?;
            path.parent().map_or(Ok(()), |dir| std::fs::File::open(dir)?.sync_all())
        };
        write().map_err(|error| fail(&error))?;
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
        let path = dir.path().join("seal.key");
        assert!(Seal::read(&path).unwrap().is_none());
        let seal = Seal::make(&path).unwrap();
        let sealed = seal.seal("partner/1/secrets", b"whsec_x").unwrap();
        assert!(!sealed.windows(7).any(|window| window == b"whsec_x"));
        let again = Seal::read(&path).unwrap().unwrap();
        assert_eq!(again.unseal("partner/1/secrets", &sealed).unwrap(), b"whsec_x");
        assert!(again.unseal("partner/1/document", &sealed).is_err());
        assert!(again.unseal("partner/2/secrets", &sealed).is_err());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_key_file_of_another_length_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seal.key");
        std::fs::write(&path, b"short").unwrap();
        assert!(Seal::read(&path).is_err());
    }
}
